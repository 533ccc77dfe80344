// SPDX-License-Identifier: GPL-2.0-only
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

#include "fork_case.h"
#include "memslot_lock.h"
#include "test_util.h"

/* How long a process may take to die. */
#define DEATH_MS	10000

/* What a case tells its parent. */
static struct shared {
	int		verdict;
	char		message[256];
	/* String literals, which are at the same address there. */
	const char	*doing[FORK_CASE_MAX_THREADS];
} *shared;

static int log_fd = -1;

/* There is a process that doesn't die. It holds what other cases would miss. */
static bool stuck;

static u64 now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);

	return timespec_to_ns(ts) / 1000000;
}

/**
 * fork_case_reads_log() - Whether cases fail if the kernel complains
 *
 * Return: false if its log can't be read.
 */
bool fork_case_reads_log(void)
{
	if (log_fd < 0)
		log_fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);

	return log_fd >= 0;
}

static void log_skip(void)
{
	if (fork_case_reads_log())
		lseek(log_fd, 0, SEEK_END);
}

static bool is_complaint(const char *text)
{
	/* Those of lockdep, KASAN and others are one of the first two. */
	return strstr(text, "WARNING: ") || strstr(text, "BUG: ") ||
	       strstr(text, "Internal error: ") ||
	       (strstr(text, "of locked memslot") && strstr(text, "wasn't mapped"));
}

/* The first complaint since log_skip(). */
static bool log_complaint(char *complaint, size_t size)
{
	/* The kernel doesn't return a part of a record. */
	char record[8192];
	bool found = false;
	char *text;
	ssize_t len;

	if (!fork_case_reads_log())
		return false;

	for (;;) {
		len = read(log_fd, record, sizeof(record) - 1);
		/* Records were overwritten, and the next one is there. */
		if (len < 0 && errno == EPIPE)
			continue;
		if (len <= 0)
			return found;

		record[len] = 0;
		text = strchr(record, ';');
		if (found || !text || !is_complaint(text))
			continue;

		found = true;
		text[strcspn(text, "\n")] = 0;
		snprintf(complaint, size, "%s", text + 1);
	}
}

/* The first one to say something has the say. */
static void conclude(enum fork_case_verdict verdict, const char *fmt, va_list args)
{
	int passed = FORK_CASE_PASSED;

	if (__atomic_compare_exchange_n(&shared->verdict, &passed, verdict, false,
					__ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
		vsnprintf(shared->message, sizeof(shared->message), fmt, args);
}

/**
 * fork_case_fail() - The case has failed
 * @fmt:	Why, as for printf().
 *
 * The case goes on. What it says after the first time is ignored.
 */
void fork_case_fail(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	conclude(FORK_CASE_FAILED, fmt, args);
	va_end(args);
}

/**
 * fork_case_skip() - The case can't be tried
 * @fmt:	Why, as for printf().
 */
void fork_case_skip(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	conclude(FORK_CASE_SKIPPED, fmt, args);
	va_end(args);
}

/**
 * fork_case_failed() - Whether there is no use in going on
 *
 * Return: true if the case has failed or is skipped.
 */
bool fork_case_failed(void)
{
	return __atomic_load_n(&shared->verdict, __ATOMIC_SEQ_CST) != FORK_CASE_PASSED;
}

/**
 * fork_case_returns() - Check what a system call returns
 * @ret:	What it has returned, with errno as it has left it.
 * @err:	The errno it has to fail with, or 0.
 * @what:	What was tried.
 *
 * Return: true if it is what was expected.
 */
bool fork_case_returns(int ret, int err, const char *what)
{
	int real_err = ret ? errno : 0;

	return fork_case_expect(err ? ret == -1 && real_err == err : !ret,
				"%s: returns %d, errno %d, expected errno %d",
				what, ret, real_err, err);
}

/**
 * fork_case_doing() - What to say if the case doesn't come to an end
 * @thread:	Number of the thread, less than FORK_CASE_MAX_THREADS.
 * @what:	What it is doing, a string literal, or NULL.
 */
void fork_case_doing(u32 thread, const char *what)
{
	WRITE_ONCE(shared->doing[thread], what);
}

static void describe(char *buf, size_t size, const char *what)
{
	size_t len = snprintf(buf, size, "%s", what);
	const char *doing;
	int i;

	for (i = 0; i < FORK_CASE_MAX_THREADS && len < size; i++) {
		doing = READ_ONCE(shared->doing[i]);
		if (doing)
			len += snprintf(buf + len, size - len, "%s [%d] %s",
					len == strlen(what) ? ":" : ",", i, doing);
	}
}

static bool reap(pid_t pid, u64 limit_ms, int *status)
{
	u64 start = now_ms();

	while (waitpid(pid, status, WNOHANG) != pid) {
		if (now_ms() - start > limit_ms)
			return false;
		usleep(5000);
	}

	return true;
}

static void __noreturn run_child(fork_case_fn fn, const void *arg)
{
	/* Whatever happens to the parent. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	setpgid(0, 0);
	fn(arg);
	fflush(stdout);
	_exit(0);
}

static void __printf(2, 3) result_fail(struct fork_case_result *result, const char *fmt, ...)
{
	va_list args;

	if (result->verdict == FORK_CASE_FAILED)
		return;

	result->verdict = FORK_CASE_FAILED;
	va_start(args, fmt);
	vsnprintf(result->message, sizeof(result->message), fmt, args);
	va_end(args);
}

/**
 * fork_case_run() - Run a case in a process of its own
 * @fn:		The case, which uses the functions below fork_case_run() in the header.
 * @arg:	What is passed to it.
 * @seconds:	How long it may take. It is killed then, along with the processes that
 *		it has created.
 *
 * Return: what has come of it, for fork_case_report().
 */
struct fork_case_result fork_case_run(fork_case_fn fn, const void *arg, u32 seconds)
{
	struct fork_case_result result = {};
	char text[sizeof(result.message)];
	struct lock_usage before;
	int status = 0;
	bool in_time;
	pid_t pid;

	if (stuck) {
		result.verdict = FORK_CASE_SKIPPED;
		snprintf(result.message, sizeof(result.message),
			 "there is a process that can't be killed");
		return result;
	}

	if (!shared)
		shared = kvm_mmap(sizeof(*shared), PROT_READ | PROT_WRITE,
				  MAP_SHARED | MAP_ANONYMOUS, -1);
	memset(shared, 0, sizeof(*shared));
	before = lock_usage();
	log_skip();

	fflush(stdout);
	pid = fork();
	TEST_ASSERT(pid >= 0, "fork() failed, errno %d", errno);
	if (!pid)
		run_child(fn, arg);
	/* Here as well, or it may not have been done yet when it is needed. */
	setpgid(pid, pid);

	in_time = reap(pid, seconds * 1000UL, &status);
	if (!in_time)
		describe(text, sizeof(text), "hangs");
	/* Not only if it is late: those that it has created may be left. */
	kill(-pid, SIGKILL);
	if (!in_time && !reap(pid, DEATH_MS, &status)) {
		stuck = true;
		describe(text, sizeof(text), "hangs, and can't be killed");
	}

	result.verdict = shared->verdict;
	snprintf(result.message, sizeof(result.message), "%s", shared->message);
	if (!in_time)
		result_fail(&result, "%s", text);
	else if (status)
		result_fail(&result, "the process has failed, status 0x%x", status);

	if (!stuck && !lock_usage_is(before))
		result_fail(&result, "memory remains locked or pinned");
	if (log_complaint(text, sizeof(text)))
		result_fail(&result, "kernel: %s", text);

	return result;
}
