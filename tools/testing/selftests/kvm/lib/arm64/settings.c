// SPDX-License-Identifier: GPL-2.0-only
#include <fcntl.h>

#include "kvm_util.h"
#include "settings.h"
#include "test_util.h"

static const int end_signals[] = { SIGHUP, SIGINT, SIGQUIT, SIGABRT, SIGPIPE, SIGTERM };

#define MAX_UNDO	4

static void (*undo_fns[MAX_UNDO])(void);
static pid_t main_process;

/* The last one first. Children have inherited it, but not the duty. */
static void undo_all(void)
{
	int i;

	if (getpid() != main_process)
		return;

	for (i = MAX_UNDO - 1; i >= 0; i--) {
		if (undo_fns[i])
			undo_fns[i]();
		undo_fns[i] = NULL;
	}
}

static void undo_on_signal(int sig)
{
	undo_all();
	signal(sig, SIG_DFL);
	raise(sig);
}

/**
 * at_end() - Have something undone when the test ends
 * @undo:	What undoes it. A signal handler calls it, so it must make do with system
 *		calls and whatever else is safe there.
 *
 * It is called once, by the process that has called this first, when that exits or is ended
 * by a signal other than SIGKILL. The signals of a crash make kvm_util exit.
 */
void at_end(void (*undo)(void))
{
	int i;

	if (!main_process) {
		main_process = getpid();
		atexit(undo_all);
		for (i = 0; i < ARRAY_SIZE(end_signals); i++)
			signal(end_signals[i], undo_on_signal);
	}

	for (i = 0; i < MAX_UNDO && undo_fns[i]; i++) {
		if (undo_fns[i] == undo)
			return;
	}
	TEST_ASSERT(i < MAX_UNDO, "Too much has to be undone");
	undo_fns[i] = undo;
}

/**
 * at_end_block() - Have signals that end the test wait
 * @old:	Where to store the signals that were blocked before, for sigprocmask().
 */
void at_end_block(sigset_t *old)
{
	sigset_t set;
	int i;

	sigemptyset(&set);
	for (i = 0; i < ARRAY_SIZE(end_signals); i++)
		sigaddset(&set, end_signals[i]);
	sigprocmask(SIG_BLOCK, &set, old);
}

/**
 * setting_load() - Read a small file, such as a setting of the kernel
 * @path:	The file.
 * @buf:	Where to store what is in it, as a string.
 * @size:	Size of @buf in bytes.
 *
 * Return: false if it can't be read, or has nothing in it.
 */
bool setting_load(const char *path, char *buf, size_t size)
{
	ssize_t len = -1;
	int fd;

	fd = open(path, O_RDONLY);
	if (fd >= 0) {
		len = read(fd, buf, size - 1);
		close(fd);
	}
	buf[max_t(ssize_t, len, 0)] = '\0';

	return len > 0;
}

/**
 * setting_store() - Write a string to a file
 * @path:	The file.
 * @val:	The string.
 *
 * It can be called by a signal handler.
 *
 * Return: false if it can't be written, with errno set.
 */
bool setting_store(const char *path, const char *val)
{
	ssize_t len = strlen(val);
	bool ok;
	int fd;

	fd = open(path, O_WRONLY);
	if (fd < 0)
		return false;
	ok = write(fd, val, len) == len;
	close(fd);

	return ok;
}

#define MAX_SETTINGS	32

static struct setting *changed[MAX_SETTINGS];

static void restore_settings(void)
{
	int i;

	for (i = MAX_SETTINGS - 1; i >= 0; i--) {
		if (changed[i])
			setting_store(changed[i]->path, changed[i]->old);
	}
}

/**
 * settings_change() - Have settings of the kernel be what a test needs until it ends
 * @settings:	The settings. They have to remain where they are.
 * @nr:		How many there are.
 *
 * It can be called again, for those that the test has changed meanwhile.
 *
 * Return: NULL, or the path of one that can't be read and written. Then none is changed.
 */
const char *settings_change(struct setting *settings, int nr)
{
	int i, j;

	for (i = 0; i < nr; i++) {
		if (access(settings[i].path, W_OK) ||
		    (!settings[i].changed &&
		     !setting_load(settings[i].path, settings[i].old, sizeof(settings[i].old))))
			return settings[i].path;
	}

	at_end(restore_settings);
	for (i = 0, j = 0; i < nr; i++) {
		if (!settings[i].changed) {
			while (j < MAX_SETTINGS && changed[j])
				j++;
			TEST_ASSERT(j < MAX_SETTINGS, "Too many settings");
			settings[i].changed = true;
			changed[j] = &settings[i];
		}
		if (settings[i].val)
			TEST_ASSERT(setting_store(settings[i].path, settings[i].val),
				    "Can't write %s to %s, errno %d", settings[i].val,
				    settings[i].path, errno);
	}

	return NULL;
}

#define KSM		"/sys/kernel/mm/ksm/"
/* Rounds until all pages must have been merged: checksum, first, second page. */
#define KSM_SCANS	4
#define KSM_TIMEOUT_MS	30000

static struct setting ksm_settings[] = {
	{ KSM "use_zero_pages", "0" },
	{ KSM "smart_scan", "0" },
	{ KSM "sleep_millisecs", "1" },
	{ KSM "pages_to_scan", "10000" },
	{ KSM "run", "0" },
};

/**
 * ksm_setup() - Have the kernel merge pages when ksm_scan() is called, and only then
 *
 * Return: NULL, or why it doesn't.
 */
const char *ksm_setup(void)
{
	return settings_change(ksm_settings, ARRAY_SIZE(ksm_settings)) ?
	       "the kernel has no KSM, or doesn't let it be set up" : NULL;
}

static u64 ksm_full_scans(void)
{
	char buf[32];

	TEST_ASSERT(setting_load(KSM "full_scans", buf, sizeof(buf)), "Can't read full_scans");

	return strtoul(buf, NULL, 10);
}

/**
 * ksm_scan() - Let the kernel merge what it can, and stop it
 */
void ksm_scan(void)
{
	u64 end = ksm_full_scans() + KSM_SCANS;
	int ms;

	TEST_ASSERT(setting_store(KSM "run", "1"), "Can't start KSM, errno %d", errno);
	for (ms = 0; ksm_full_scans() < end; ms += 5) {
		TEST_ASSERT(ms < KSM_TIMEOUT_MS, "KSM doesn't make progress");
		usleep(5000);
	}
	TEST_ASSERT(setting_store(KSM "run", "0"), "Can't stop KSM, errno %d", errno);
}
