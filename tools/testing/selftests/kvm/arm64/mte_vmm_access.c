// SPDX-License-Identifier: GPL-2.0-only
/*
 * mte_vmm_access - Check by which means a VMM can access guest memory that has
 * tags, and what that means for accesses of the kernel on its behalf.
 *
 * A VMM that maps guest memory with PROT_MTE can load and store tags. In return
 * its own accesses to the data are checked, if it uses tag checking itself: the
 * tags are those of the guest, and an address that it has computed from the
 * memslot has tag zero. The ways out differ in what becomes of a pointer that is
 * passed to a system call, in signal handlers, and in other threads. What is
 * checked here is what a VMM may rely on according to the documentation.
 *
 * The kernel has accesses of its own to make, and for these nobody can choose an
 * address. KVM_RUN writes the stolen time of a vCPU to user memory: in a VMM
 * with synchronous checking that maps guest memory with PROT_MTE, it isn't
 * written if the guest has tagged it. Neither the VMM nor the guest is told.
 * Only what is done before the guest is entered can be tested: with VHE, an exit
 * from the guest sets PSTATE.TCO for the kernel, where it stays set until a task
 * is switched to, or user space enters the kernel again.
 */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <linux/sizes.h>

#include "kvm_util.h"
#include "mte.h"
#include "processor.h"
#include "test_util.h"

#define DATA_SLOT	1
#define NR_PAGES	4
#define TEST_TAG	0x5
#define OTHER_TAG	0x7
#define TEST_DATA	0x0123456789abcdefUL
#define OTHER_DATA	0xfedcba9876543210UL

#define PLAIN		(PROT_READ | PROT_WRITE)
#define TAGGED		(PLAIN | PROT_MTE)

static size_t page_size;

struct env {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	struct mte_mem mem;
	/* What all cases use: a word that the guest has tagged with TEST_TAG. */
	u64 *word;
	/* For system calls. */
	int pipe[2];
};

/* How checks are done in this thread, and in those that it creates. */
static void set_tcf(u64 tcf)
{
	TEST_ASSERT(!prctl(PR_SET_TAGGED_ADDR_CTRL, PR_TAGGED_ADDR_ENABLE | tcf, 0, 0, 0),
		    "PR_SET_TAGGED_ADDR_CTRL failed, errno %d", errno);
}

static void set_tco(bool tco)
{
	if (tco)
		asm volatile(MTE_PREAMBLE "msr tco, #1" : : : "memory");
	else
		asm volatile(MTE_PREAMBLE "msr tco, #0" : : : "memory");
}

static bool get_tco(void)
{
	u64 val;

	asm volatile(MTE_PREAMBLE "mrs %0, tco" : "=r"(val));

	return val;
}

/* Accesses, and whether they end in a tag check fault. */

static __thread sigjmp_buf fault_env;
static __thread void *fault_addr;
static __thread int fault_code;

static void handle_segv(int sig, siginfo_t *info, void *context)
{
	fault_addr = info->si_addr;
	fault_code = info->si_code;
	siglongjmp(fault_env, 1);
}

static bool faults_at(const void *ptr)
{
	/* The tag isn't reported unless asked for by SA_EXPOSE_TAGBITS. */
	TEST_ASSERT(fault_code == SEGV_MTESERR && fault_addr == mte_tagged_ptr((void *)ptr, 0),
		    "Wrong kind of fault, code %d at %p", fault_code, fault_addr);

	return true;
}

static bool load_faults(const u64 *ptr, u64 *val)
{
	if (sigsetjmp(fault_env, 1))
		return faults_at(ptr);

	asm volatile("ldr %0, [%1]" : "=r"(*val) : "r"(ptr) : "memory");

	return false;
}

static bool store_faults(u64 *ptr, u64 val)
{
	if (sigsetjmp(fault_env, 1))
		return faults_at(ptr);

	asm volatile("str %0, [%1]" : : "r"(val), "r"(ptr) : "memory");

	return false;
}

/* A store and a load work, and do what they should. */
static bool access_works(struct env *env, u64 *ptr)
{
	u64 val = 0;
	bool ok;

	ok = !store_faults(ptr, OTHER_DATA) && !load_faults(ptr, &val) && val == OTHER_DATA;

	return !store_faults(ptr, TEST_DATA) && ok;
}

/* Neither a store nor a load does anything but fault. */
static bool access_faults(struct env *env, u64 *ptr)
{
	u64 val = ~TEST_DATA;

	return load_faults(ptr, &val) && val == ~TEST_DATA && store_faults(ptr, OTHER_DATA);
}

/* The same for the kernel: have it read from, and write to the address. */

static bool syscalls_work(struct env *env, u64 *ptr)
{
	u64 val = OTHER_DATA;

	if (write(env->pipe[1], ptr, sizeof(*ptr)) != sizeof(*ptr) ||
	    read(env->pipe[0], &val, sizeof(val)) != sizeof(val) || val != TEST_DATA)
		return false;

	return write(env->pipe[1], &val, sizeof(val)) == sizeof(val) &&
	       read(env->pipe[0], ptr, sizeof(*ptr)) == sizeof(*ptr);
}

static bool syscalls_fail(struct env *env, u64 *ptr)
{
	u64 val = OTHER_DATA;

	if (write(env->pipe[1], ptr, sizeof(*ptr)) != -1 || errno != EFAULT)
		return false;

	if (write(env->pipe[1], &val, sizeof(val)) != sizeof(val))
		return false;

	/* A pipe keeps what couldn't be copied. */
	return read(env->pipe[0], ptr, sizeof(*ptr)) == -1 && errno == EFAULT &&
	       read(env->pipe[0], &val, sizeof(val)) == sizeof(val);
}

static u64 guest_load(u64 addr, u64 b, u64 c, u64 d)
{
	return READ_ONCE(*(u64 *)addr);
}

static u64 guest_load_tag(u64 addr, u64 b, u64 c, u64 d)
{
	return mte_load_tag((void *)addr);
}

static u64 guest_store(u64 addr, u64 data, u64 tag, u64 d)
{
	WRITE_ONCE(*(u64 *)addr, data);
	mte_store_tag((void *)addr, tag);

	return 0;
}

/* A case must change neither the data nor the tag, whatever it did to them. */
static const char *check_word(struct env *env, u8 tag)
{
	if (mte_vcpu_call(env->vcpu, guest_load, MTE_TEST_GPA, 0, 0, 0) != TEST_DATA)
		return "the data have changed";

	if (mte_vcpu_call(env->vcpu, guest_load_tag, MTE_TEST_GPA, 0, 0, 0) != tag)
		return "the tag isn't what it should be";

	return NULL;
}

static const char *run_none(struct env *env)
{
	if (!access_faults(env, env->word))
		return "an access doesn't fault";

	if (!syscalls_fail(env, env->word))
		return "a system call doesn't fail";

	return check_word(env, TEST_TAG);
}

/* 1: no checks at all in this thread. */

static void *thread_faults(void *arg)
{
	struct env *env = arg;

	return (void *)(u64)access_faults(env, env->word);
}

static bool new_thread_faults(struct env *env)
{
	pthread_t thread;
	void *ret;

	pthread_create(&thread, NULL, thread_faults, env);
	pthread_join(thread, &ret);

	return ret;
}

struct waiter {
	struct env *env;
	pthread_barrier_t barrier;
};

static void *wait_then_fault(void *arg)
{
	struct waiter *waiter = arg;

	pthread_barrier_wait(&waiter->barrier);

	return thread_faults(waiter->env);
}

static const char *run_tcf_none(struct env *env)
{
	struct waiter waiter = { .env = env };
	pthread_t thread;
	void *faulted;

	if (!new_thread_faults(env))
		return "a new thread has no checks, but its creator does";

	/* A thread that is there already. */
	pthread_barrier_init(&waiter.barrier, NULL, 2);
	pthread_create(&thread, NULL, wait_then_fault, &waiter);
	set_tcf(PR_MTE_TCF_NONE);
	pthread_barrier_wait(&waiter.barrier);
	pthread_join(thread, &faulted);

	if (!faulted)
		return "another thread lost its checks as well";

	if (!access_works(env, env->word))
		return "an access faults";

	if (mte_load_tag(env->word) != TEST_TAG)
		return "the VMM doesn't see the tag";

	if (!syscalls_work(env, env->word))
		return "a system call fails";

	if (new_thread_faults(env))
		return "a new thread has checks, but its creator doesn't";

	mte_store_tag(env->word, OTHER_TAG);

	return check_word(env, OTHER_TAG);
}

/* 2: load the tag, then use it. */
static const char *run_matching_tag(struct env *env)
{
	u64 *word = mte_tagged_ptr(env->word, mte_load_tag(env->word));

	if (!access_works(env, word))
		return "an access faults";

	if (!syscalls_work(env, word))
		return "a system call fails";

	/* The guest may change its mind at any time. */
	mte_vcpu_call(env->vcpu, guest_store, MTE_TEST_GPA, TEST_DATA, OTHER_TAG, 0);
	if (!access_faults(env, word))
		return "an access doesn't fault with the old tag";

	if (!syscalls_fail(env, word))
		return "a system call doesn't fail with the old tag";

	return check_word(env, OTHER_TAG);
}

/*
 * 3: an address that is the stack pointer plus an immediate isn't checked.
 * Signals have to be blocked, for there is no stack.
 */
static const char *run_stack_pointer(struct env *env)
{
	sigset_t all, old;
	u64 val, sp;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &old);
	asm volatile("mov	%[sp], sp\n\t"
		     "mov	sp, %[word]\n\t"
		     "ldr	%[val], [sp, #0]\n\t"
		     "str	%[other], [sp, #8]\n\t"
		     "mov	sp, %[sp]"
		     : [sp] "=&r"(sp), [val] "=&r"(val)
		     : [word] "r"(env->word), [other] "r"(OTHER_DATA) : "memory");
	sigprocmask(SIG_SETMASK, &old, NULL);

	if (val != TEST_DATA)
		return "wrong data were loaded";

	if (mte_vcpu_call(env->vcpu, guest_load, MTE_TEST_GPA + sizeof(u64), 0, 0, 0) != OTHER_DATA)
		return "the store had no effect";

	/* But for that the address is as good as it was. */
	return run_none(env);
}

/* 4: checks are overridden, though not for the kernel, nor in a signal handler. */

static struct env *handler_env;
static bool handler_tco, handler_faults;

static void handle_usr1(int sig)
{
	sigjmp_buf saved;

	memcpy(saved, fault_env, sizeof(saved));
	handler_tco = get_tco();
	handler_faults = access_faults(handler_env, handler_env->word);
	memcpy(fault_env, saved, sizeof(saved));
}

static const char *run_tco(struct env *env)
{
	struct sigaction sa = { .sa_handler = handle_usr1 };
	bool works, fails, restored;

	handler_env = env;
	sigaction(SIGUSR1, &sa, NULL);

	set_tco(true);
	works = access_works(env, env->word) && mte_load_tag(env->word) == TEST_TAG;
	fails = syscalls_fail(env, env->word);
	raise(SIGUSR1);
	restored = get_tco() && access_works(env, env->word);
	set_tco(false);

	if (!works)
		return "an access faults";

	if (!fails)
		return "a system call doesn't fail";

	if (handler_tco || !handler_faults)
		return "a signal handler isn't called with PSTATE.TCO clear";

	if (!restored)
		return "PSTATE.TCO isn't restored after the signal handler";

	return check_word(env, TEST_TAG);
}

/* 5: a mapping for the data, which is the memslot, and another for the tags. */
static const char *run_aliases(struct env *env)
{
	u64 *alias = mte_mem_alias(&env->mem, TAGGED);
	const char *failure = NULL;

	if (!access_works(env, env->word))
		failure = "an access to the data faults";
	else if (!syscalls_work(env, env->word))
		failure = "a system call fails";
	else if (mte_load_tag(alias) != TEST_TAG)
		failure = "the alias doesn't show the tag";
	else if (!access_faults(env, alias))
		failure = "an access to the data by the alias doesn't fault";

	mte_store_tag(alias, OTHER_TAG);
	kvm_munmap(alias, env->mem.size);

	return failure ?: check_word(env, OTHER_TAG);
}

/* 6: no PROT_MTE anywhere. */
static const char *run_copy_tags(struct env *env)
{
	size_t nr = MTE_TAGS_SIZE(page_size);
	u8 *tags = calloc(nr, 1);
	const char *failure = NULL;

	mte_copy_tags_from_guest(env->vm, MTE_TEST_GPA, page_size, tags);
	if (!access_works(env, env->word))
		failure = "an access to the data faults";
	else if (!syscalls_work(env, env->word))
		failure = "a system call fails";
	else if (tags[0] != TEST_TAG)
		failure = "the ioctl doesn't show the tag";

	memset(tags, OTHER_TAG, nr);
	mte_copy_tags_to_guest(env->vm, MTE_TEST_GPA, page_size, tags);
	free(tags);

	return failure ?: check_word(env, OTHER_TAG);
}

/* A matching tag is no option for the kernel: a memslot can't have one. */
static const char *run_tagged_slot(struct env *env)
{
	int ret = __vm_set_user_memory_region(env->vm, DATA_SLOT + 1, 0,
					      MTE_TEST_GPA + env->mem.size, page_size,
					      mte_tagged_ptr(env->mem.hva, TEST_TAG));

	return !ret || errno != EINVAL ? "it isn't refused" : check_word(env, TEST_TAG);
}

/*
 * Reading the tags of a page that was never used costs no memory: it is the
 * zero page, whose tags are all zero.
 */
static const char *run_zero_page(struct env *env)
{
	u8 *tags = malloc(2 * MTE_TAGS_SIZE(page_size));
	void *page = env->mem.hva + page_size;
	const char *failure = NULL;
	u64 first, second;
	int i;

	mte_copy_tags_from_guest(env->vm, MTE_TEST_GPA + page_size, 2 * page_size, tags);
	for (i = 0; i < 2 * MTE_TAGS_SIZE(page_size); i++) {
		if (tags[i])
			failure = "tags aren't zero";
	}

	first = pagemap_entry(page);
	second = pagemap_entry(page + page_size);
	if (!(first & second & PAGEMAP_PRESENT) ||
	    (first & PAGEMAP_PFN_MASK) != (second & PAGEMAP_PFN_MASK))
		failure = "pages were allocated to read tags";

	mte_copy_tags_to_guest(env->vm, MTE_TEST_GPA + page_size, page_size, tags);
	first = pagemap_entry(page);
	if ((first & PAGEMAP_PFN_MASK) == (second & PAGEMAP_PFN_MASK) && first & PAGEMAP_PFN_MASK)
		failure = "tags of the zero page were written";
	free(tags);

	return failure ?: check_word(env, TEST_TAG);
}

/* What KVM does on behalf of the VMM. */

#define PV_TIME_ST	0xc5000021

struct stolen_time {
	u32 revision;
	u32 attributes;
	u64 ns;
};

/* How much of it is to be seen in the guest. */
#define STOLEN_NS	2000000L

static u64 guest_setup_stolen_time(u64 a, u64 b, u64 c, u64 d)
{
	struct arm_smccc_res res;

	smccc_hvc(PV_TIME_ST, 0, 0, 0, 0, 0, 0, 0, &res);

	return res.a0;
}

static u64 guest_nop(u64 a, u64 b, u64 c, u64 d)
{
	return 0;
}

static void *spin(void *arg)
{
	while (!READ_ONCE(*(bool *)arg))
		;

	return NULL;
}

/* Have this thread wait for its CPU. No other wants it when the vCPU runs. */
static void steal_time(void)
{
	cpu_set_t old, new;
	pthread_t thread;
	bool stop = false;
	long start;

	kvm_sched_getaffinity(0, sizeof(old), &old);
	CPU_ZERO(&new);
	CPU_SET(sched_getcpu(), &new);
	kvm_sched_setaffinity(0, sizeof(new), &new);

	start = get_run_delay();
	pthread_create(&thread, NULL, spin, &stop);
	while (get_run_delay() - start < STOLEN_NS)
		sched_yield();
	WRITE_ONCE(stop, true);
	pthread_join(thread, NULL);

	kvm_sched_setaffinity(0, sizeof(old), &old);
}

/* Steal time from the vCPU, run it, and see whether it can tell. */
static bool stolen_time_works(struct env *env)
{
	u64 addr = MTE_TEST_GPA + offsetof(struct stolen_time, ns), before;

	before = mte_vcpu_call(env->vcpu, guest_load, addr, 0, 0, 0);
	steal_time();
	mte_vcpu_call(env->vcpu, guest_nop, 0, 0, 0, 0);

	return mte_vcpu_call(env->vcpu, guest_load, addr, 0, 0, 0) - before >= STOLEN_NS;
}

static const char *setup_stolen_time(struct env *env, u8 tag)
{
	mte_vcpu_call(env->vcpu, guest_store, MTE_TEST_GPA, TEST_DATA, tag, 0);
	if (mte_vcpu_call(env->vcpu, guest_setup_stolen_time, 0, 0, 0, 0) != MTE_TEST_GPA)
		return "the guest isn't told of it";

	return NULL;
}

static const char *run_stolen_time_untagged(struct env *env)
{
	const char *failure = setup_stolen_time(env, 0);

	if (!failure && !stolen_time_works(env))
		failure = "it isn't updated";

	return failure;
}

static const char *run_stolen_time_tagged(struct env *env)
{
	const char *failure = setup_stolen_time(env, 0);

	if (failure)
		return failure;

	mte_vcpu_call(env->vcpu, guest_store, MTE_TEST_GPA, 0, TEST_TAG, 0);
	if (stolen_time_works(env))
		return "it is updated";

	/* This is for accesses of the VMM itself. */
	set_tco(true);
	failure = stolen_time_works(env) ? "it is updated because of PSTATE.TCO" : NULL;
	set_tco(false);

	/* Nothing was lost but time. */
	set_tcf(PR_MTE_TCF_NONE);
	if (!failure && !stolen_time_works(env))
		failure = "it isn't updated without checks either";

	return failure;
}

static const char *run_stolen_time_plain(struct env *env)
{
	const char *failure = setup_stolen_time(env, TEST_TAG);

	if (!failure && mte_vcpu_call(env->vcpu, guest_load, MTE_TEST_GPA, 0, 0, 0))
		failure = "it isn't initialised";
	if (!failure && !stolen_time_works(env))
		failure = "it isn't updated";

	return failure;
}

struct testcase {
	const char *name;
	enum mte_mem_type type;
	int prot;
	const char *(*run)(struct env *env);
	bool stolen_time;
};

static const struct testcase testcases[] = {
	{ "PROT_MTE, wrong tag", MTE_MEM_ANON, TAGGED, run_none },
	{ "PROT_MTE, PR_MTE_TCF_NONE", MTE_MEM_ANON, TAGGED, run_tcf_none },
	{ "PROT_MTE, matching tag", MTE_MEM_ANON, TAGGED, run_matching_tag },
	{ "PROT_MTE, stack pointer", MTE_MEM_ANON, TAGGED, run_stack_pointer },
	{ "PROT_MTE, PSTATE.TCO", MTE_MEM_ANON, TAGGED, run_tco },
	{ "two aliases", MTE_MEM_MEMFD, PLAIN, run_aliases },
	{ "KVM_ARM_MTE_COPY_TAGS", MTE_MEM_ANON, PLAIN, run_copy_tags },
	{ "KVM_ARM_MTE_COPY_TAGS, page never used", MTE_MEM_ANON, PLAIN, run_zero_page },
	{ "memslot with a tagged address", MTE_MEM_ANON, TAGGED, run_tagged_slot },
	{ "stolen time, PROT_MTE, not tagged", MTE_MEM_ANON, TAGGED,
	  run_stolen_time_untagged, true },
	{ "stolen time, PROT_MTE, tagged", MTE_MEM_ANON, TAGGED, run_stolen_time_tagged, true },
	{ "stolen time, no PROT_MTE, tagged", MTE_MEM_ANON, PLAIN, run_stolen_time_plain, true },
};

static const char *enable_stolen_time(struct env *env)
{
	u64 gpa = MTE_TEST_GPA;
	struct kvm_device_attr attr = {
		.group	= KVM_ARM_VCPU_PVTIME_CTRL,
		.attr	= KVM_ARM_VCPU_PVTIME_IPA,
		.addr	= (u64)&gpa,
	};

	if (__vcpu_ioctl(env->vcpu, KVM_HAS_DEVICE_ATTR, &attr))
		return "the kernel has no stolen time";

	vcpu_ioctl(env->vcpu, KVM_SET_DEVICE_ATTR, &attr);

	return NULL;
}

static void run(const struct testcase *test)
{
	const char *reason = NULL, *failure = NULL;
	struct env env = {};

	reason = mte_mem_alloc(&env.mem, test->type, 0, NR_PAGES * page_size);
	TEST_ASSERT(!reason, "No memory: %s", reason);
	TEST_ASSERT(!mprotect(env.mem.hva, env.mem.size, test->prot),
		    "mprotect() failed, errno %d", errno);
	TEST_ASSERT(!pipe(env.pipe), "pipe() failed, errno %d", errno);

	env.vm = mte_vm_create(1, env.mem.size, &env.vcpu);
	mte_vm_add_slot(env.vm, DATA_SLOT, 0, MTE_TEST_GPA, env.mem.hva, env.mem.size);
	env.word = env.mem.hva;
	if (test->stolen_time)
		reason = enable_stolen_time(&env);

	if (!reason) {
		mte_vcpu_call(env.vcpu, guest_store, MTE_TEST_GPA, TEST_DATA, TEST_TAG, 0);
		set_tcf(PR_MTE_TCF_SYNC);
		failure = test->run(&env);
		set_tcf(PR_MTE_TCF_NONE);
	}

	if (reason)
		ksft_test_result_skip("%s: %s\n", test->name, reason);
	else
		ksft_test_result(!failure, "%s%s%s\n", test->name,
				 failure ? ": " : "", failure ?: "");

	kvm_vm_free(env.vm);
	close(env.pipe[0]);
	close(env.pipe[1]);
	mte_mem_free(&env.mem);
}

int main(void)
{
	struct sigaction sa = { .sa_sigaction = handle_segv, .sa_flags = SA_SIGINFO };
	int i;

	ksft_print_header();
	mte_require();
	ksft_set_plan(ARRAY_SIZE(testcases));

	page_size = getpagesize();
	sigaction(SIGSEGV, &sa, NULL);

	for (i = 0; i < ARRAY_SIZE(testcases); i++)
		run(&testcases[i]);

	ksft_finished();
}
