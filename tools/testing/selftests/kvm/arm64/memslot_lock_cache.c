// SPDX-License-Identifier: GPL-2.0-only
/*
 * memslot_lock_cache - Check that locked memory is cleaned from the data cache for vCPUs
 * whose MMU is off, and what a reset of a vCPU does to it.
 *
 * A vCPU whose MMU is off reads what is behind the data cache, unless the CPU has FWB
 * (FEAT_S2FWB). Memory that isn't locked is cleaned from the cache by the fault that maps
 * it, and KVM_ARM_VCPU_INIT unmaps it for that to happen again. Locked memory has no
 * faults and remains mapped. So all of it has to be cleaned before a vCPU runs: once after
 * it was locked, once after a reset, with all vCPUs waiting for the one that does it, even
 * those that didn't exist before. What isn't locked any more, or could not be locked as a
 * whole, must not remain mapped, as there is nobody who would clean it of what the VMM
 * writes to it later. With FWB there is nothing to be done at all.
 *
 * There may be no cache, in an emulator. What is counted is how often KVM has the memory
 * cleaned, by probes in the kernel. Which of the two kinds of CPU it is shows in what a
 * reset does to a memslot that isn't locked.
 *
 * A broken kernel doesn't clean memory for some vCPU, or does so each time that it runs;
 * lets one run while another one still cleans; or unmaps locked memory on a reset.
 */
#include <poll.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <linux/perf_event.h>
#include <linux/sizes.h>
#include <linux/userfaultfd.h>

#include "kvm_util.h"
#include "memslot_kinds.h"
#include "memslot_lock.h"
#include "mte.h"
#include "processor.h"
#include "test_util.h"

#define NR_PAGES	LOCK_NR_PAGES
#define NR_VCPUS	4
#define NR_RESETS	20

/* A memslot that isn't locked, and where it is. */
#define OTHER_SLOT	(LOCK_SLOT + 1)
#define OTHER_GPA	(MTE_TEST_GPA + SZ_1G)

static size_t page_size;
static size_t slot_size;
static cpu_set_t all_cpus;
static bool has_fwb;

static const u64 all_perms[] = { MEMSLOT_LOCK_R, MEMSLOT_LOCK_RW };

static void report(const char *name, const char *failure)
{
	ksft_test_result(!failure, "%s%s%s\n", name, failure ? ": " : "", failure ?: "");
}

static void *alloc(void)
{
	return kvm_mmap(slot_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
}

/* Functions of the kernel, the calls of which are counted. */

enum {
	/* Cleans a part of stage 2: that of a memslot of this test is one. */
	PROBE_CLEAN,
	/* Handles the request to do so, in each vCPU that has it. */
	PROBE_REQUEST,
	NR_PROBES,
};

static struct probe {
	const char *function;
	int fd;
	u64 seen;
} probes[NR_PROBES] = {
	[PROBE_CLEAN]	= { "kvm_pgtable_stage2_flush" },
	[PROBE_REQUEST]	= { "kvm_memslot_lock_flush" },
};

/* Returns false if the kernel has no probes. Calls by all threads of this process count. */
static bool open_probes(void)
{
	FILE *file = fopen("/sys/bus/event_source/devices/kprobe/type", "r");
	struct perf_event_attr attr = {
		.size		= sizeof(attr),
		.inherit	= 1,
	};
	int i, n;

	if (!file)
		return false;
	n = fscanf(file, "%u", &attr.type);
	fclose(file);

	for (i = 0; i < NR_PROBES && n == 1; i++) {
		attr.kprobe_func = (u64)probes[i].function;
		probes[i].fd = syscall(__NR_perf_event_open, &attr, 0, -1, -1,
				       PERF_FLAG_FD_CLOEXEC);
		TEST_ASSERT(probes[i].fd >= 0, "Can't probe %s(), errno %d", probes[i].function,
			    errno);
	}

	return n == 1;
}

/* How often it has been called since the last time. */
static u64 probe_hits(int i)
{
	u64 hits = guest_faults(probes[i].fd), new = hits - probes[i].seen;

	probes[i].seen = hits;

	return new;
}

static void probes_start(void)
{
	probe_hits(PROBE_CLEAN);
	probe_hits(PROBE_REQUEST);
}

/* Since the last time, the memory was cleaned that often, or not at all with FWB. */
static const char *check_cleaned(u64 min, u64 max, const char *when)
{
	u64 cleans = probe_hits(PROBE_CLEAN), requests = probe_hits(PROBE_REQUEST);

	if (has_fwb && (cleans || requests))
		return lock_failed("%s: with FWB, %lu requests to clean memory, cleaned %lu times",
				   when, requests, cleans);
	if (!has_fwb && (cleans < min || cleans > max))
		return lock_failed("%s: cleaned %lu times, not %lu to %lu", when, cleans, min,
				   max);

	return NULL;
}

/* A VM with some vCPUs. */

struct env {
	struct lock_vm lvm;
	void *other;
	struct kvm_vcpu *vcpus[NR_VCPUS];
	/* Where a vCPU begins, and its stack. */
	u64 pc[NR_VCPUS];
	u64 sp[NR_VCPUS];
};

static void add_vcpus(struct env *env)
{
	struct kvm_vm *vm = env->lvm.vm;
	struct kvm_vcpu *vcpu;
	int i;

	mte_vm_add_vcpus(vm, NR_VCPUS, env->vcpus);
	virt_map(vm, MTE_TEST_GPA, MTE_TEST_GPA, slot_size / vm->page_size);
	virt_map(vm, OTHER_GPA, OTHER_GPA, slot_size / vm->page_size);
	for (i = 0; i < NR_VCPUS; i++) {
		vcpu = env->vcpus[i];
		env->pc[i] = vcpu_get_reg(vcpu, ARM64_CORE_REG(regs.pc));
		env->sp[i] = vcpu_get_reg(vcpu, ctxt_reg_alias(vcpu, SYS_SP_EL1));
	}
	env->lvm.vcpu = env->vcpus[0];
}

static void env_init(struct env *env, bool vcpus)
{
	struct kvm_vm *vm = __vm_create(VM_SHAPE_DEFAULT, NR_VCPUS, 2 * slot_size / SZ_4K);

	*env = (struct env) { .other = alloc() };
	lock_vm_init(&env->lvm, vm, NULL, 0, MTE_TEST_GPA, alloc(), slot_size);
	vm_set_user_memory_region(vm, OTHER_SLOT, 0, OTHER_GPA, slot_size, env->other);
	lock_vm_fill(&env->lvm);
	if (vcpus)
		add_vcpus(env);
	probes_start();
}

static void env_exit(struct env *env)
{
	lock_vm_free(&env->lvm);
	kvm_munmap(env->lvm.hva, slot_size);
	kvm_munmap(env->other, slot_size);
}

/* Have a vCPU use both memslots. */
static const char *run_vcpu(struct env *env, int i)
{
	u64 wrong;

	wrong = mte_vcpu_call(env->vcpus[i], mte_count_wrong_addrs, MTE_TEST_GPA, NR_PAGES,
			      page_size, 0);
	mte_vcpu_call(env->vcpus[i], mte_write_data, OTHER_GPA, NR_PAGES, page_size, 0);

	return wrong ? lock_failed("vCPU %d reads wrong data from %lu pages", i, wrong) : NULL;
}

static const char *check_run(struct env *env, int i, u64 nr_cleaned, const char *when)
{
	return run_vcpu(env, i) ?: check_cleaned(nr_cleaned, nr_cleaned, when);
}

static void reset_vcpu(struct env *env, int i)
{
	struct kvm_vcpu *vcpu = env->vcpus[i];

	/* Or the access that it has exited with would be completed by what comes next. */
	vcpu_run_complete_io(vcpu);
	aarch64_vcpu_setup(vcpu, &vcpu->init);
	vcpu_init_descriptor_tables(vcpu);
	vcpu_set_reg(vcpu, ctxt_reg_alias(vcpu, SYS_SP_EL1), env->sp[i]);
	vcpu_set_reg(vcpu, ARM64_CORE_REG(regs.pc), env->pc[i]);
}

/* It is a host with FWB that leaves mapped what isn't locked. */
static bool detect_fwb(void)
{
	u64 blocks, pages;
	struct env env;

	env_init(&env, true);
	run_vcpu(&env, 0);
	reset_vcpu(&env, 0);
	mte_stage2_leaves(env.lvm.vm, OTHER_GPA, slot_size, &blocks, &pages);
	env_exit(&env);
	TEST_ASSERT(!pages || pages == NR_PAGES, "A reset leaves %lu of %d pages mapped", pages,
		    NR_PAGES);

	return pages;
}

/* Locked before and after the VM has run, and each time that it is locked. */

static const char *check_locked(struct env *env)
{
	return lock_vm_check_locked(&env->lvm, 0, NR_PAGES);
}

static const char *run_once(struct env *env, u64 perms)
{
	const char *failure;

	memslot_lock(env->lvm.vm, LOCK_SLOT, perms);
	failure = check_cleaned(0, 0, "locked, no vCPU has run") ?:
		  check_run(env, 0, 1, "first vCPU") ?:
		  check_run(env, 0, 0, "first vCPU, second time") ?:
		  check_run(env, 1, 0, "second vCPU") ?: check_locked(env);
	if (failure)
		return failure;

	memslot_unlock(env->lvm.vm, LOCK_SLOT);
	memslot_lock(env->lvm.vm, LOCK_SLOT, perms);

	return check_run(env, 2, 1, "locked once more, third vCPU") ?:
	       check_run(env, 0, 0, "locked once more, first vCPU") ?: check_locked(env);
}

static const char *run_after(struct env *env, u64 perms)
{
	const char *failure = check_run(env, 0, 0, "not locked");

	if (failure)
		return failure;

	memslot_lock(env->lvm.vm, LOCK_SLOT, perms);

	return check_run(env, 0, 1, "locked after the VM has run") ?:
	       check_run(env, 1, 0, "another vCPU") ?: check_locked(env);
}

static const char *run_new_vcpus(struct env *env, u64 perms)
{
	memslot_lock(env->lvm.vm, LOCK_SLOT, perms);
	add_vcpus(env);

	return check_run(env, 1, 1, "created after the lock") ?:
	       check_run(env, 0, 0, "created after the lock, another one") ?: check_locked(env);
}

/* What is unlocked before it was cleaned isn't mapped any more, and has its faults. */

static const char *check_unlocked(struct env *env, u64 perms, bool has_run)
{
	const char *failure = NULL;
	u64 max = NR_PAGES, min = NR_PAGES;

	memslot_lock(env->lvm.vm, LOCK_SLOT, perms);
	memslot_unlock(env->lvm.vm, LOCK_SLOT);
	/* With FWB, and a VM that has run, there is no reason to unmap anything. */
	if (has_fwb && has_run)
		min = 0;
	else
		failure = lock_vm_check_leaves(&env->lvm, 0, 0);

	return failure ?: lock_vm_check_reads(&env->lvm, min, max) ?:
	       check_cleaned(0, 0, "unlocked") ?: lock_vm_check_unlocked(&env->lvm);
}

static const char *run_unlocked(struct env *env, u64 perms)
{
	return check_unlocked(env, perms, false);
}

static const char *run_unlocked_after(struct env *env, u64 perms)
{
	return run_vcpu(env, 0) ?: check_unlocked(env, perms, true);
}

/* From now on, what the VMM writes is cleaned only by a fault. */

static const char *check_unmapped(struct env *env)
{
	if (has_fwb)
		return lock_vm_check_unlocked(&env->lvm);

	return lock_vm_check_leaves(&env->lvm, 0, 0) ?:
	       lock_vm_check_reads(&env->lvm, NR_PAGES, NR_PAGES) ?:
	       lock_vm_check_unlocked(&env->lvm);
}

static const char *run_unlocked_cleaned(struct env *env, u64 perms)
{
	const char *failure;

	memslot_lock(env->lvm.vm, LOCK_SLOT, perms);
	failure = check_run(env, 0, 1, "locked");
	memslot_unlock(env->lvm.vm, LOCK_SLOT);

	return failure ?: check_unmapped(env);
}

static const char *run_failed(struct env *env, u64 perms)
{
	void *last = env->lvm.hva + slot_size - page_size;
	const char *failure = run_vcpu(env, 0);
	int ret, err;

	TEST_ASSERT(!mprotect(last, page_size, PROT_NONE), "mprotect() failed, errno %d", errno);
	ret = __memslot_lock(env->lvm.vm, LOCK_SLOT, perms);
	err = errno;
	TEST_ASSERT(!mprotect(last, page_size, PROT_READ | PROT_WRITE),
		    "mprotect() failed, errno %d", errno);
	if (ret != -1 || err != EFAULT)
		return "a page that the VMM can't access was locked";

	return failure ?: check_unmapped(env);
}

/* Reset. */

static const char *check_other(struct env *env, u64 expected)
{
	u64 blocks, pages;

	TEST_ASSERT(mte_stage2_leaves(env->lvm.vm, OTHER_GPA, slot_size, &blocks, &pages),
		    "Can't read the stage-2 page-table");

	return blocks || pages != expected ?
	       lock_failed("%lu pages of a memslot that isn't locked are mapped, not %lu", pages,
			   expected) : NULL;
}

static const char *run_reset(struct env *env, u64 perms)
{
	u64 faults = 0;
	const char *failure;
	int i;

	memslot_lock(env->lvm.vm, LOCK_SLOT, perms);
	failure = run_vcpu(env, 0) ?: run_vcpu(env, 1);
	if (failure)
		return failure;
	probes_start();
	faults = guest_faults(env->lvm.faults);

	for (i = 0; i < 2; i++) {
		failure = check_other(env, NR_PAGES);
		if (failure)
			return failure;
		reset_vcpu(env, i);
		failure = check_locked(env) ?: check_other(env, has_fwb ? NR_PAGES : 0) ?:
			  check_cleaned(0, 0, "reset, no vCPU has run") ?:
			  check_run(env, 1, 1, "reset") ?:
			  check_run(env, 0, 0, "reset, another vCPU") ?: check_locked(env);
		if (failure)
			return failure;
	}

	faults = guest_faults(env->lvm.faults) - faults;
	if (faults)
		return lock_failed("%lu faults after a reset", faults);

	/* Nothing of it is left for those who come later. */
	reset_vcpu(env, 0);
	memslot_unlock(env->lvm.vm, LOCK_SLOT);

	return check_run(env, 0, 0, "reset and unlocked") ?: lock_vm_check_unlocked(&env->lvm);
}

struct runner {
	struct env *env;
	int vcpu;
	bool stop;
	u64 nr_runs;
	u64 faults;
	const char *failure;
	pthread_t thread;
};

static void *runner_thread(void *arg)
{
	struct runner *runner = arg;
	int fd = guest_faults_open_range(0, MTE_TEST_GPA, slot_size);

	TEST_ASSERT(fd >= 0, "Can't count guest faults, errno %d", errno);
	kvm_sched_setaffinity(0, sizeof(all_cpus), &all_cpus);
	do {
		runner->failure = run_vcpu(runner->env, runner->vcpu);
		WRITE_ONCE(runner->nr_runs, runner->nr_runs + 1);
	} while (!READ_ONCE(runner->stop) && !runner->failure);

	runner->faults = guest_faults(fd);
	kvm_close(fd);

	return NULL;
}

static void runner_start(struct runner *runner, struct env *env, int vcpu)
{
	*runner = (struct runner) { .env = env, .vcpu = vcpu };
	kvm_pthread_create(&runner->thread, NULL, runner_thread, runner);
}

static const char *runner_end(struct runner *runner)
{
	WRITE_ONCE(runner->stop, true);
	kvm_pthread_join(runner->thread, NULL);
	if (!runner->failure && runner->faults)
		return lock_failed("vCPU %d takes %lu faults", runner->vcpu, runner->faults);

	return runner->failure;
}

/* Of another vCPU, while one runs. */
static const char *run_reset_running(struct env *env, u64 perms)
{
	const char *failure;
	struct runner runner;
	u64 nr;
	int i;

	memslot_lock(env->lvm.vm, LOCK_SLOT, perms);
	failure = run_vcpu(env, 0);
	if (failure)
		return failure;
	probes_start();

	runner_start(&runner, env, 1);
	for (i = 0; i < NR_RESETS; i++) {
		reset_vcpu(env, 0);
		nr = READ_ONCE(runner.nr_runs);
		while (!(i % 2) && READ_ONCE(runner.nr_runs) < nr + 2)
			usleep(100);
	}
	failure = runner_end(&runner);

	/* Resets that come before the request of an earlier one is handled share it. */
	return failure ?: run_vcpu(env, 0) ?:
	       check_cleaned(NR_RESETS / 2, NR_RESETS, "resets while a vCPU runs") ?:
	       check_run(env, 1, 0, "after the resets") ?: check_locked(env);
}

/* vCPUs that want to run while one of them cleans the memory. */

/*
 * Whoever cleans it needs what the VMM can keep from all others: a log of dirty pages is
 * written to memory of the VMM, which takes its time to be there.
 */
struct stall {
	struct kvm_vm *vm;
	void *bitmap;
	int uffd;
	pthread_t thread;
};

static void *stall_thread(void *arg)
{
	struct stall *stall = arg;

	kvm_vm_get_dirty_log(stall->vm, OTHER_SLOT, stall->bitmap);

	return NULL;
}

static void stall_start(struct stall *stall, struct kvm_vm *vm)
{
	struct pollfd pollfd = { .events = POLLIN };
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };

	stall->vm = vm;
	stall->uffd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	TEST_ASSERT(stall->uffd >= 0, "No userfaultfd for faults of the kernel, errno %d", errno);
	stall->bitmap = kvm_mmap(page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
				 -1);
	reg.range = (struct uffdio_range) { .start = (u64)stall->bitmap, .len = page_size };
	TEST_ASSERT(!ioctl(stall->uffd, UFFDIO_API, &api) &&
		    !ioctl(stall->uffd, UFFDIO_REGISTER, &reg),
		    "Can't set up userfaultfd, errno %d", errno);

	kvm_pthread_create(&stall->thread, NULL, stall_thread, stall);
	pollfd.fd = stall->uffd;
	TEST_ASSERT(poll(&pollfd, 1, -1) == 1, "poll() failed, errno %d", errno);
}

static void stall_end(struct stall *stall)
{
	struct uffdio_zeropage zero = {
		.range	= { .start = (u64)stall->bitmap, .len = page_size },
	};

	TEST_ASSERT(!ioctl(stall->uffd, UFFDIO_ZEROPAGE, &zero),
		    "UFFDIO_ZEROPAGE failed, errno %d", errno);
	kvm_pthread_join(stall->thread, NULL);
	kvm_close(stall->uffd);
	kvm_munmap(stall->bitmap, page_size);
}

/* How long vCPUs that wait are watched. */
#define STALL_MS	300

/* All of them at once, and if they have to wait, while nothing can be cleaned. */
static const char *check_racing(struct env *env, u64 perms, bool wait)
{
	struct runner runners[NR_VCPUS];
	const char *failure = NULL;
	struct stall stall;
	u64 nr_early = 0;
	int i;

	/* What a vCPU waits for when it runs for the first time isn't what this is about. */
	for (i = 0; i < NR_VCPUS; i++)
		failure = failure ?: run_vcpu(env, i);
	if (failure)
		return failure;

	memslot_lock(env->lvm.vm, LOCK_SLOT, perms);
	if (wait)
		stall_start(&stall, env->lvm.vm);
	probes_start();

	for (i = 0; i < NR_VCPUS; i++)
		runner_start(&runners[i], env, i);
	if (wait) {
		usleep(STALL_MS * 1000);
		for (i = 0; i < NR_VCPUS; i++)
			nr_early += READ_ONCE(runners[i].nr_runs);
		failure = check_cleaned(0, 0, "when it can't be");
		stall_end(&stall);
	}
	for (i = 0; i < NR_VCPUS; i++)
		failure = runner_end(&runners[i]) ?: failure;
	if (!failure && nr_early)
		failure = "vCPUs run before the memory was cleaned";

	return failure ?: check_cleaned(1, 1, "vCPUs that run at the same time") ?:
	       check_locked(env);
}

static const char *run_racing(struct env *env, u64 perms)
{
	return check_racing(env, perms, false);
}

static void run_waiting(void)
{
	const char *name = "vCPUs wait until memory is cleaned";
	struct lock_vm *lvm;
	struct env env;

	if (has_fwb) {
		ksft_test_result_skip("%s: the CPU has FWB\n", name);
		return;
	}

	env_init(&env, true);
	lvm = &env.lvm;
	vm_set_user_memory_region(lvm->vm, OTHER_SLOT, KVM_MEM_LOG_DIRTY_PAGES, OTHER_GPA,
				  slot_size, env.other);
	report(name, check_racing(&env, MEMSLOT_LOCK_RW, true));
	env_exit(&env);
}

static const struct testcase {
	const char *name;
	const char *(*run)(struct env *env, u64 perms);
	bool no_vcpus;
} testcases[] = {
	{ "locked before the VM has run", run_once },
	{ "locked after the VM has run", run_after },
	{ "locked before there is a vCPU", run_new_vcpus, true },
	{ "unlocked before the VM has run", run_unlocked },
	{ "unlocked after the VM has run", run_unlocked_after },
	{ "unlocked after it was cleaned", run_unlocked_cleaned },
	{ "not locked in the end", run_failed },
	{ "vCPU reset", run_reset },
	{ "vCPU reset while another one runs", run_reset_running },
	{ "vCPUs that run at the same time", run_racing },
};

static void run_case(const struct testcase *test, u64 perms)
{
	char *name = strdup_printf("%s, %s", test->name, memslot_lock_name(perms));
	struct env env;

	env_init(&env, !test->no_vcpus);
	report(name, test->run(&env, perms));
	env_exit(&env);
	free(name);
}

int main(void)
{
	int i, j;

	ksft_print_header();
	memslot_lock_require();
	__TEST_REQUIRE(open_probes(), "the kernel has no probes that perf can use");

	page_size = getpagesize();
	slot_size = NR_PAGES * page_size;
	has_fwb = detect_fwb();
	ksft_set_plan(ARRAY_SIZE(testcases) * ARRAY_SIZE(all_perms) + 1);

	/* On one CPU there is no TLB but its own that has what was mapped before. */
	kvm_sched_getaffinity(0, sizeof(all_cpus), &all_cpus);
	pin_self_to_any_cpu();

	for (i = 0; i < ARRAY_SIZE(testcases); i++) {
		for (j = 0; j < ARRAY_SIZE(all_perms); j++)
			run_case(&testcases[i], all_perms[j]);
	}
	run_waiting();

	ksft_finished();
}
