// SPDX-License-Identifier: GPL-2.0-only
#include <fcntl.h>
#include <signal.h>

#include "fail_alloc.h"
#include "kvm_util.h"
#include "test_util.h"

#define FAULTS_DIR	"/sys/kernel/debug"

/* Settings of the kernel, for all allocations to be able to fail, without being noisy. */
static struct setting {
	const char	*name;
	/* NULL if it is only to be restored. */
	const char	*value;
	char		old[32];
	ssize_t		len;
} settings[] = {
	{ "failslab/ignore-gfp-wait", "N" },
	{ "failslab/cache-filter", "N" },
	{ "failslab/verbose", "0" },
	{ "failslab/times" },
	{ "fail_page_alloc/ignore-gfp-wait", "N" },
	{ "fail_page_alloc/ignore-gfp-highmem", "N" },
	{ "fail_page_alloc/min-order", "0" },
	{ "fail_page_alloc/verbose", "0" },
	{ "fail_page_alloc/times" },
};

static int open_setting(const struct setting *setting, int flags)
{
	char path[128];

	snprintf(path, sizeof(path), FAULTS_DIR "/%s", setting->name);

	return open(path, flags);
}

static pid_t main_process;

/* Once. With nothing but system calls and snprintf(), since a signal handler uses it. */
static void restore_settings(void)
{
	int fd, i;

	/* Children have inherited the handlers, but not the duty. */
	if (getpid() != main_process)
		return;

	for (i = 0; i < ARRAY_SIZE(settings); i++) {
		if (settings[i].len <= 0)
			continue;
		fd = open_setting(&settings[i], O_WRONLY);
		if (write(fd, settings[i].old, settings[i].len) == settings[i].len)
			settings[i].len = 0;
		close(fd);
	}
}

static const int end_signals[] = { SIGHUP, SIGINT, SIGQUIT, SIGABRT, SIGPIPE, SIGTERM };
static struct sigaction old_actions[ARRAY_SIZE(end_signals)];

/* Others may have something to restore, too. */
static void restore_on_signal(int sig)
{
	int i;

	restore_settings();
	for (i = 0; i < ARRAY_SIZE(end_signals); i++) {
		if (end_signals[i] == sig)
			sigaction(sig, &old_actions[i], NULL);
	}
	raise(sig);
}

/**
 * fail_alloc_enable() - Have fail_alloc_nth() be able to make any allocation fail
 *
 * Called once, by the main process. It changes settings of the kernel until the process
 * exits, or is ended by a signal of those that end_signals has.
 *
 * Return: NULL, or why no allocation can be made to fail.
 */
const char *fail_alloc_enable(void)
{
	struct sigaction action = { .sa_handler = restore_on_signal };
	int fd, i;

	/* It counts with fail-nth as well, and then it isn't an allocation that has failed. */
	if (!access(FAULTS_DIR "/fail_usercopy", F_OK))
		return "the kernel would have other things fail than allocations";

	for (i = 0; i < ARRAY_SIZE(settings); i++) {
		fd = open_setting(&settings[i], O_RDONLY);
		if (fd < 0)
			return strstr(settings[i].name, "slab") ?
			       "the kernel has no fault injection for slabs, or doesn't show it" :
			       "the kernel has no fault injection for pages, or doesn't show it";
		settings[i].len = read(fd, settings[i].old, sizeof(settings[i].old));
		close(fd);
		TEST_ASSERT(settings[i].len > 0, "Can't read %s, errno %d", settings[i].name,
			    errno);
	}

	main_process = getpid();
	atexit(restore_settings);
	for (i = 0; i < ARRAY_SIZE(end_signals); i++)
		sigaction(end_signals[i], &action, &old_actions[i]);

	for (i = 0; i < ARRAY_SIZE(settings); i++) {
		if (!settings[i].value)
			continue;
		fd = open_setting(&settings[i], O_WRONLY);
		TEST_ASSERT(fd >= 0 && write(fd, settings[i].value, 1) == 1,
			    "Can't write %s, errno %d", settings[i].name, errno);
		close(fd);
	}

	return NULL;
}

/* Of the thread. Open, not to have anything else in between fail. */
static __thread int fail_nth_fd = -1;

/**
 * fail_alloc_open() - Have the current thread be able to use the functions below
 *
 * A child that fork() has created has to call it as well.
 *
 * Return: false if the kernel has no fault injection.
 */
bool fail_alloc_open(void)
{
	fail_nth_fd = open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC);

	return fail_nth_fd >= 0;
}

/**
 * fail_alloc_close() - Undo fail_alloc_open()
 */
void fail_alloc_close(void)
{
	kvm_close(fail_nth_fd);
	fail_nth_fd = -1;
}

/**
 * fail_alloc_nth() - Have one allocation of the current thread fail
 * @n:		Which one from now on, or 0 for none.
 */
void fail_alloc_nth(u32 n)
{
	char buf[16];
	int len;

	len = snprintf(buf, sizeof(buf), "%u", n);
	TEST_ASSERT(pwrite(fail_nth_fd, buf, len, 0) == len, "Can't write fail-nth, errno %d",
		    errno);
}

/**
 * fail_alloc_end() - Have none fail any more
 *
 * Return: true if the one of fail_alloc_nth() has failed.
 */
bool fail_alloc_end(void)
{
	char buf[16] = {};

	TEST_ASSERT(pread(fail_nth_fd, buf, sizeof(buf) - 1, 0) > 0,
		    "Can't read fail-nth, errno %d", errno);
	fail_alloc_nth(0);

	return !atoi(buf);
}
