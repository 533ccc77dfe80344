/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Cases that run in a process of their own: because a process ends in them, because
 * they could wait for ever, or so that nothing is left of the memory that they lock.
 *
 * Such a case has passed if it didn't fail, ended in time, and neither left pages pinned
 * nor had the kernel complain in its log.
 */
#ifndef SELFTEST_KVM_ARM64_FORK_CASE_H
#define SELFTEST_KVM_ARM64_FORK_CASE_H

#include "kvm_util.h"

/* Threads and processes that tell what they are doing. */
#define FORK_CASE_MAX_THREADS	16

enum fork_case_verdict {
	FORK_CASE_PASSED,
	FORK_CASE_FAILED,
	FORK_CASE_SKIPPED,
};

/**
 * struct fork_case_result - What has come of a case
 * @verdict:	FORK_CASE_*
 * @message:	Why it has failed or was skipped.
 */
struct fork_case_result {
	enum fork_case_verdict	verdict;
	char			message[384];
};

typedef void (*fork_case_fn)(const void *arg);

bool fork_case_reads_log(void);
struct fork_case_result fork_case_run(fork_case_fn fn, const void *arg, u32 seconds);

/* For the case, and for threads and processes that it has created. */

void fork_case_doing(u32 thread, const char *what);
void __printf(1, 2) fork_case_fail(const char *fmt, ...);
void __printf(1, 2) fork_case_skip(const char *fmt, ...);
bool fork_case_failed(void);
bool fork_case_returns(int ret, int err, const char *what);

#define fork_case_expect(condition, fmt, ...) ({		\
	bool __good = (condition);				\
								\
	if (!__good)						\
		fork_case_fail(fmt, ##__VA_ARGS__);		\
	__good;							\
})

/* Inline, since the counters are those of the file. */
static inline void fork_case_report(const char *name, struct fork_case_result result)
{
	const char *message = result.message;

	if (result.verdict == FORK_CASE_SKIPPED)
		ksft_test_result_skip("%s: %s\n", name, message);
	else
		ksft_test_result(result.verdict == FORK_CASE_PASSED, "%s%s%s\n", name,
				 message[0] ? ": " : "", message);
}

/* Without the log the cases say less, so whether it can be read is a case, too. */
static inline void fork_case_report_log(void)
{
	if (fork_case_reads_log())
		ksft_test_result_pass("log of the kernel\n");
	else
		ksft_test_result_skip("log of the kernel: /dev/kmsg can't be read\n");
}

#endif /* SELFTEST_KVM_ARM64_FORK_CASE_H */
