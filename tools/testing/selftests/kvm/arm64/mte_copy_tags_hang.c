// SPDX-License-Identifier: GPL-2.0-only
/*
 * mte_copy_tags_hang - Check that nobody waits for KVM_ARM_MTE_COPY_TAGS to
 * read its buffer before they may use the page whose tags are being written.
 *
 * The first to use the tags of a page sets a bit, initialises them, and sets a
 * second bit. Others spin on that, with preemption disabled and without end.
 * Reading the buffer of the ioctl can fault, so it must not happen in between:
 *
 *  - The buffer is an alias of the page itself, mapped with PROT_MTE and not
 *    populated yet. The fault has to initialise the tags of the page, and a
 *    broken kernel makes the task wait for itself. It can't be killed, and its
 *    CPU is lost. As this can't be undone, these cases run with -f only.
 *
 *  - The buffer is populated by means of userfaultfd. As long as that is not
 *    done, a broken kernel lets everybody who needs the tags spin: a process
 *    that maps the page with PROT_MTE, a vCPU that accesses it, or mprotect()
 *    of the VMM. They recover once the process of the ioctl is killed, as that
 *    makes its fault fail, given another CPU that can do it.
 *
 * Each case runs in a process of its own, so that one which never ends can be
 * told apart from one that fails.
 */
#include <poll.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/sizes.h>
#include <linux/userfaultfd.h>

#include "kvm_util.h"
#include "mte.h"
#include "processor.h"
#include "test_util.h"

#define DATA_SLOT	1
#define TEST_TAG	0x5

/*
 * How long somebody who doesn't have to wait for anything may take, and how
 * long a case may take to set up. Where a broken kernel can recover, let it do
 * so before it reports an RCU stall or a lockup.
 */
#define PATIENCE_MS	2000
#define TIMEOUT_MS	60000

struct env {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	struct mte_mem mem;
	void *buffer;
	size_t page_size;
	int copy_ret;
	int *started;
};

struct testcase {
	const char *name;
	enum mte_mem_type type;
	const char *(*run)(struct env *env, const struct testcase *test);
	void *(*user)(void *env);
};

static u64 guest_nop(u64 a, u64 b, u64 c, u64 d)
{
	return 0;
}

static u64 guest_load_tag(u64 addr, u64 b, u64 c, u64 d)
{
	return mte_load_tag((void *)addr);
}

static bool page_has_test_tag(struct env *env)
{
	size_t nr_tags = MTE_TAGS_SIZE(env->page_size), i;
	u8 *tags = calloc(nr_tags, 1);

	TEST_ASSERT(tags, "No memory");
	mte_copy_tags_from_guest(env->vm, MTE_TEST_GPA, env->page_size, tags);
	for (i = 0; i < nr_tags && tags[i] == TEST_TAG; i++)
		;
	free(tags);

	return i == nr_tags;
}

static void *copy_tags_thread(void *arg)
{
	struct env *env = arg;

	env->copy_ret = __mte_copy_tags(env->vm, MTE_TEST_GPA, env->page_size,
					env->buffer, KVM_ARM_TAGS_TO_GUEST);

	return NULL;
}

static const char *check_copy(struct env *env)
{
	if (env->copy_ret != env->page_size)
		return "the ioctl failed";

	if (!page_has_test_tag(env))
		return "the page doesn't have the tags that were written";

	return NULL;
}

static const char *run_alias(struct env *env, const struct testcase *test)
{
	/* The tags to write are the data of the page. */
	memset(env->mem.hva, TEST_TAG, MTE_TAGS_SIZE(env->page_size));
	env->buffer = mte_mem_alias(&env->mem, PROT_READ | PROT_WRITE | PROT_MTE);

	WRITE_ONCE(*env->started, 1);
	copy_tags_thread(env);

	return check_copy(env);
}

/*
 * The users of the page. They have no interest in the tag as such, it could be
 * the old one or the new one, but want it to be valid.
 */

static void *use_vcpu(void *arg)
{
	struct env *env = arg;

	mte_vcpu_call(env->vcpu, guest_load_tag, MTE_TEST_GPA, 0, 0, 0);

	return NULL;
}

static void *use_mprotect(void *arg)
{
	struct env *env = arg;

	TEST_ASSERT(!mprotect(env->mem.hva, env->mem.size,
			      PROT_READ | PROT_WRITE | PROT_MTE),
		    "mprotect(PROT_MTE) failed, errno %d", errno);

	return NULL;
}

static void *use_process(void *arg)
{
	struct env *env = arg;
	pid_t pid = fork();
	int status;

	TEST_ASSERT(pid >= 0, "fork() failed, errno %d", errno);
	if (!pid) {
		mte_load_tag(mte_mem_alias(&env->mem, PROT_READ | PROT_MTE));
		_exit(0);
	}

	TEST_ASSERT(waitpid(pid, &status, 0) == pid, "waitpid() failed, errno %d", errno);
	TEST_ASSERT(!status, "The process couldn't use the page, status 0x%x", status);

	return NULL;
}

static const char *run_uffd(struct env *env, const struct testcase *test)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = {};
	struct uffdio_copy copy = {};
	struct pollfd pollfd = {};
	pthread_t copier, thread;
	struct uffd_msg msg;
	void *tags;
	int uffd;

	uffd = syscall(__NR_userfaultfd, O_CLOEXEC);
	TEST_ASSERT(uffd >= 0, "userfaultfd() failed, errno %d", errno);
	TEST_ASSERT(!ioctl(uffd, UFFDIO_API, &api), "UFFDIO_API failed, errno %d", errno);

	env->buffer = kvm_mmap(env->page_size, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS, -1);
	reg.range.start = (u64)env->buffer;
	reg.range.len = env->page_size;
	reg.mode = UFFDIO_REGISTER_MODE_MISSING;
	TEST_ASSERT(!ioctl(uffd, UFFDIO_REGISTER, &reg),
		    "UFFDIO_REGISTER failed, errno %d", errno);

	tags = kvm_mmap(env->page_size, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1);
	memset(tags, TEST_TAG, env->page_size);

	/* Have the ioctl wait for its buffer, and somebody else use the page. */
	pthread_create(&copier, NULL, copy_tags_thread, env);

	pollfd.fd = uffd;
	pollfd.events = POLLIN;
	TEST_ASSERT(poll(&pollfd, 1, PATIENCE_MS) == 1 &&
		    read(uffd, &msg, sizeof(msg)) == sizeof(msg) &&
		    msg.event == UFFD_EVENT_PAGEFAULT,
		    "The ioctl doesn't read its buffer");

	/*
	 * The parent waits for this with a limit. It can't be done here, for a
	 * page table lock may be taken that the next page fault needs.
	 */
	WRITE_ONCE(*env->started, 1);
	pthread_create(&thread, NULL, test->user, env);
	pthread_join(thread, NULL);

	copy.dst = (u64)env->buffer;
	copy.src = (u64)tags;
	copy.len = env->page_size;
	TEST_ASSERT(!ioctl(uffd, UFFDIO_COPY, &copy), "UFFDIO_COPY failed, errno %d", errno);

	pthread_join(copier, NULL);

	return check_copy(env);
}

static const struct testcase testcases[] = {
	{ "vCPU while the ioctl waits", MTE_MEM_ANON, run_uffd, use_vcpu },
	{ "vCPU while the ioctl waits, hugetlb", MTE_MEM_HUGETLB, run_uffd, use_vcpu },
	{ "process while the ioctl waits", MTE_MEM_MEMFD, run_uffd, use_process },
	{ "process while the ioctl waits, hugetlb", MTE_MEM_MEMFD_HUGETLB, run_uffd, use_process },
	{ "mprotect() while the ioctl waits", MTE_MEM_ANON, run_uffd, use_mprotect },
	{ "mprotect() while the ioctl waits, hugetlb", MTE_MEM_HUGETLB, run_uffd, use_mprotect },
	{ "buffer is an alias of the page", MTE_MEM_MEMFD, run_alias },
	{ "buffer is an alias of the page, hugetlb", MTE_MEM_MEMFD_HUGETLB, run_alias },
};

/* What a case tells its parent. A string literal is at the same address there. */
struct report {
	const char *failure;
	int started;
};

static const char *setup_and_run(const struct testcase *test, size_t folio_size,
				 struct report *report)
{
	struct env env = { .page_size = getpagesize(), .started = &report->started };
	const char *reason;

	reason = mte_mem_alloc(&env.mem, test->type, folio_size, env.page_size);
	TEST_ASSERT(!reason, "No memory: %s", reason);
	reason = mte_mem_populate(&env.mem);
	TEST_ASSERT(!reason, "No pages: %s", reason);

	env.vm = mte_vm_create(1, env.mem.size, &env.vcpu);
	mte_vm_add_slot(env.vm, DATA_SLOT, 0, MTE_TEST_GPA, env.mem.hva, env.mem.size);

	/* The first KVM_RUN takes slots_lock, which the ioctl holds as it waits. */
	mte_vcpu_call(env.vcpu, guest_nop, 0, 0, 0, 0);

	return test->run(&env, test);
}

/* Wait until the process is gone, or @limit_ms have passed since @started. */
static bool reap(pid_t pid, int *started, int limit_ms, int *status)
{
	int ms, started_ms = 0;

	for (ms = 0; ms < TIMEOUT_MS && started_ms < limit_ms; ms += 10) {
		if (waitpid(pid, status, WNOHANG) == pid)
			return true;

		usleep(10000);
		if (READ_ONCE(*started))
			started_ms += 10;
	}

	return false;
}

/* Returns false if a process was left behind that can't be killed. */
static bool run_case(const struct testcase *test, size_t folio_size)
{
	struct report *report;
	bool killable = true;
	int status;
	pid_t pid;

	report = kvm_mmap(sizeof(*report), PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_ANONYMOUS, -1);

	fflush(stdout);
	pid = fork();
	TEST_ASSERT(pid >= 0, "fork() failed, errno %d", errno);
	if (!pid) {
		report->failure = setup_and_run(test, folio_size, report);
		_exit(0);
	}

	if (reap(pid, &report->started, PATIENCE_MS, &status)) {
		if (status)
			report->failure = "failed to run";
	} else {
		/* This ends the wait for the buffer, and with it that of the others. */
		kill(pid, SIGKILL);
		report->failure = "waits for the buffer to be read";

		killable = reap(pid, &report->started, PATIENCE_MS, &status);
		if (!killable)
			report->failure = "hangs, and can't be killed";
	}

	ksft_test_result(!report->failure, "%s%s%s\n", test->name,
			 report->failure ? ": " : "", report->failure ?: "");
	kvm_munmap(report, sizeof(*report));

	return killable;
}

static const char *reason_to_skip(const struct testcase *test, size_t folio_size,
				  bool force, bool wedged)
{
	if (wedged)
		return "the kernel is stuck already";

	if (test->run == run_alias && !force)
		return "a broken kernel never recovers from it, it takes -f";

	/* One is lost to the user of the page as long as a broken kernel spins. */
	if (test->run == run_uffd && !force && sysconf(_SC_NPROCESSORS_ONLN) < 2)
		return "a broken kernel needs two CPUs to recover from it, it takes -f";

	if (test->type != MTE_MEM_HUGETLB && test->type != MTE_MEM_MEMFD_HUGETLB)
		return NULL;

	if (!folio_size)
		return "the kernel has no hugetlb";

	/* Not left to the child, which wouldn't give the folio back. */
	return hugetlb_reserve(folio_size, 1);
}

static void help(const char *name)
{
	printf("usage: %s [-h] [-f]\n", name);
	printf(" -f: run the cases which leave a broken kernel unusable as well\n");
	exit(KSFT_FAIL);
}

int main(int argc, char *argv[])
{
	size_t sizes[HUGETLB_MAX_SIZES];
	bool force = false, wedged = false;
	size_t folio_size = 0;
	const char *reason;
	int opt, i;

	while ((opt = getopt(argc, argv, "hf")) != -1) {
		switch (opt) {
		case 'f':
			force = true;
			break;
		default:
			help(argv[0]);
		}
	}

	ksft_print_header();
	mte_require();
	ksft_set_plan(ARRAY_SIZE(testcases));

	if (hugetlb_sizes(sizes))
		folio_size = sizes[0];

	for (i = 0; i < ARRAY_SIZE(testcases); i++) {
		reason = reason_to_skip(&testcases[i], folio_size, force, wedged);
		if (reason)
			ksft_test_result_skip("%s: %s\n", testcases[i].name, reason);
		else
			wedged = !run_case(&testcases[i], folio_size);
	}

	mte_finished();
}
