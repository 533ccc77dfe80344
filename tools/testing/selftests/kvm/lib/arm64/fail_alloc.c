// SPDX-License-Identifier: GPL-2.0-only
#include <fcntl.h>

#include "fail_alloc.h"
#include "kvm_util.h"
#include "settings.h"
#include "test_util.h"

#define FAULTS_DIR	"/sys/kernel/debug/"

/* For all allocations to be able to fail, without being noisy. */
static struct setting fault_settings[] = {
	{ FAULTS_DIR "failslab/ignore-gfp-wait", "N" },
	{ FAULTS_DIR "failslab/cache-filter", "N" },
	{ FAULTS_DIR "failslab/verbose", "0" },
	{ FAULTS_DIR "failslab/times" },
	{ FAULTS_DIR "fail_page_alloc/ignore-gfp-wait", "N" },
	{ FAULTS_DIR "fail_page_alloc/ignore-gfp-highmem", "N" },
	{ FAULTS_DIR "fail_page_alloc/min-order", "0" },
	{ FAULTS_DIR "fail_page_alloc/verbose", "0" },
	{ FAULTS_DIR "fail_page_alloc/times" },
};

/**
 * fail_alloc_enable() - Enable fail_alloc_nth() to make any allocation fail
 *
 * Called once, by the main process. It changes settings of the kernel until the test ends.
 *
 * Return: NULL, or why no allocation can be made to fail.
 */
const char *fail_alloc_enable(void)
{
	const char *missing;

	/* It counts with fail-nth as well, and then it isn't an allocation that has failed. */
	if (!access(FAULTS_DIR "fail_usercopy", F_OK))
		return "the kernel would have other things fail than allocations";

	missing = settings_change(fault_settings, ARRAY_SIZE(fault_settings));
	if (!missing)
		return NULL;

	return strstr(missing, "slab") ?
	       "the kernel has no fault injection for slabs, or doesn't show it" :
	       "the kernel has no fault injection for pages, or doesn't show it";
}

/* Of the thread. Kept open, so that nothing else in between fails. */
static __thread int fail_nth_fd = -1;

/**
 * fail_alloc_open() - Enable the current thread to use the functions below
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
