// SPDX-License-Identifier: GPL-2.0-only
/*
 * memslot_lock_fail - Check that locking a memslot does all or nothing if there is no
 * memory for it.
 *
 * Fault injection has one allocation of a system call fail: the first, the second and so
 * on, until there is none left to fail and the memslot is locked. So each allocation that
 * it takes to create pages, to pin them, to remember them and to map them fails once, and
 * each time the memslot has to be as it was: nothing is pinned, accounted or mapped, it
 * can be deleted, and locked. A broken kernel keeps a part of what it has done so far, or
 * the memslot remains busy for ever.
 *
 * For some allocations there is a substitute. If the memslot was locked without one of
 * them, it has to be locked in full.
 *
 * Unlocking a memslot must not fail, as there is nothing that the VMM could do about it,
 * and a lock has to survive the failure to change the flags of its memslot.
 */
#include <sys/mman.h>

#include <linux/sizes.h>

#include "fail_alloc.h"
#include "fork_case.h"
#include "kvm_util.h"
#include "memslot_lock.h"
#include "mte.h"
#include "processor.h"
#include "test_util.h"

#define DATA_SLOT	1

/* Pages on each side of a border between two tables of the last level. */
#define NR_SIDE_PAGES	8

#define NR_FOLIOS	2

/* An error can't be provoked if it takes more than that. */
#define MAX_ALLOCATIONS	4096
/* The descriptor, the list of pages, memory to keep tables in, and a table. */
#define MIN_FAILURES	4
/* How much may go wrong in a case before it isn't worth going on. */
#define MAX_COMPLAINTS	4
/* With KASAN and lockdep an allocation is several, and each takes its time. */
#define CASE_SECONDS	180

static size_t page_size;

enum layout {
	/* Pages of two tables. */
	PAGES,
	MEMFD,
	/* A block, with pages of another table on each side. */
	MIXED,
	HUGETLB,
};

static const struct testcase {
	const char *name;
	enum layout layout;
	u64 perms;
	/* The pages are there before they are locked. */
	bool populated;
	/* The guest has used them, so that they are mapped. */
	bool has_run;
} testcases[] = {
	{ "pages, read", PAGES, MEMSLOT_LOCK_R, true },
	{ "pages, write", PAGES, MEMSLOT_LOCK_RW, true },
	{ "pages that don't exist, read", PAGES, MEMSLOT_LOCK_R },
	{ "pages that don't exist, write", PAGES, MEMSLOT_LOCK_RW },
	{ "pages that the guest has used, read", PAGES, MEMSLOT_LOCK_R, true, true },
	{ "pages that the guest has used, write", PAGES, MEMSLOT_LOCK_RW, true, true },
	{ "memfd that is empty, read", MEMFD, MEMSLOT_LOCK_R },
	{ "memfd that is empty, write", MEMFD, MEMSLOT_LOCK_RW },
	{ "THP between pages, read", MIXED, MEMSLOT_LOCK_R, true },
	{ "THP between pages, write", MIXED, MEMSLOT_LOCK_RW, true },
	{ "THP between pages that don't exist, write", MIXED, MEMSLOT_LOCK_RW },
	{ "THP between pages that the guest has used, read", MIXED, MEMSLOT_LOCK_R, true, true },
	{ "THP between pages that the guest has used, write", MIXED, MEMSLOT_LOCK_RW, true, true },
	{ "hugetlb, write", HUGETLB, MEMSLOT_LOCK_RW, true },
	{ "hugetlb that doesn't exist, write", HUGETLB, MEMSLOT_LOCK_RW },
};

struct env {
	const struct testcase	*test;
	struct mte_mem		mem;
	struct kvm_vm		*vm;
	struct kvm_vcpu		*vcpu;
	/* The memslot, which is a part of the memory. */
	void			*hva;
	gpa_t			gpa;
	size_t			size;
	u64			nr_pages;
	/* Blocks that can be counted on. */
	u64			nr_blocks;
	struct lock_usage	base;
	/* Which allocation it is that fails, and how much has gone wrong. */
	u32			nth;
	u32			nr_bad;
};

static void __printf(2, 3) complain(struct env *env, const char *fmt, ...)
{
	char text[256];
	va_list args;

	env->nr_bad++;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	ksft_print_msg("allocation %u: %s\n", env->nth, text);
	fork_case_fail("allocation %u: %s", env->nth, text);
}

static bool may_go_on(struct env *env)
{
	return env->nth <= MAX_ALLOCATIONS && env->nr_bad < MAX_COMPLAINTS;
}

static void expect(struct env *env, int ret, int err, const char *what)
{
	int real_err = ret ? errno : 0;

	if (real_err != err)
		complain(env, "%s: errno %d, expected %d", what, real_err, err);
}

static void populate(struct env *env)
{
	u64 i;

	for (i = 0; i < env->nr_pages; i++)
		WRITE_ONCE(*(u64 *)(env->hva + i * page_size), env->gpa + i * page_size);
}

/* Have the pages exist, or not. */
static void reset_memory(struct env *env)
{
	if (env->test->populated)
		populate(env);
	else if (env->mem.fd >= 0)
		kvm_fallocate(env->mem.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
			      env->mem.size);
	else
		kvm_madvise(env->hva, env->size, MADV_DONTNEED);

	if (env->test->has_run)
		mte_vcpu_call(env->vcpu, mte_write_addrs, env->gpa, env->nr_pages, page_size, 0);
}

static void check_data(struct env *env, const char *when)
{
	u64 wrong;

	if (!env->test->has_run)
		return;

	wrong = mte_vcpu_call(env->vcpu, mte_count_wrong_addrs, env->gpa, env->nr_pages,
			      page_size, 0);
	if (wrong)
		complain(env, "%s: %lu of %lu pages are wrong in the guest", when, wrong,
			 env->nr_pages);
}

static void get_leaves(struct env *env, u64 *blocks, u64 *pages)
{
	TEST_ASSERT(mte_stage2_leaves(env->vm, env->gpa, env->size, blocks, pages),
		    "Can't read the stage-2 page-table");
}

static u64 pages_of_block(void)
{
	return pmd_size() / page_size;
}

/* Blocks that the VMM has, if the memslot is to be mapped by blocks. */
static u64 expected_blocks(struct env *env)
{
	if (env->test->perms != MEMSLOT_LOCK_RW)
		return 0;

	/* A THP is one of the things there is a substitute for. */
	if (env->test->layout == MIXED)
		return is_huge_mapped(env->mem.hva + pmd_size(), pmd_size());

	return env->nr_blocks;
}

static void check_locked(struct env *env)
{
	struct lock_usage expected = { .locked_vm = env->base.locked_vm + env->size };
	u64 nr_blocks = expected_blocks(env), blocks, pages, stat;

	get_leaves(env, &blocks, &pages);
	if (blocks * pages_of_block() + pages != env->nr_pages)
		complain(env, "locked, with %lu blocks and %lu pages at stage 2 for %lu pages",
			 blocks, pages, env->nr_pages);
	else if (blocks != nr_blocks)
		complain(env, "locked by %lu blocks, not %lu", blocks, nr_blocks);

	/* A block is pinned once. */
	expected.pins = env->base.pins + blocks + pages;
	if (!lock_usage_is(expected))
		complain(env, "locked, but not what should be");

	stat = vm_get_stat(env->vm, locked_pages);
	if (stat != env->nr_pages)
		complain(env, "locked, but locked_pages is %lu", stat);

	expect(env, __memslot_lock(env->vm, DATA_SLOT, env->test->perms), EBUSY,
	       "to lock what is locked");
	check_data(env, "locked");
}

static void set_slot(struct env *env, u32 flags, size_t size, int err, const char *what)
{
	expect(env, __vm_set_user_memory_region(env->vm, DATA_SLOT, flags, env->gpa, size,
						env->hva), err, what);
}

static void check_unlocked(struct env *env, const char *when)
{
	u64 blocks, pages;

	if (!lock_usage_is(env->base))
		complain(env, "%s: memory remains locked or pinned", when);

	if (vm_get_stat(env->vm, locked_pages))
		complain(env, "%s: locked_pages isn't 0", when);

	if (!env->test->has_run) {
		get_leaves(env, &blocks, &pages);
		if (blocks || pages)
			complain(env, "%s: %lu blocks and %lu pages remain at stage 2",
				 when, blocks, pages);
	}

	expect(env, __memslot_unlock(env->vm, DATA_SLOT), EINVAL, "to unlock what isn't locked");
	check_data(env, when);
	set_slot(env, 0, 0, 0, "to delete a memslot that isn't locked");
	set_slot(env, 0, env->size, 0, "to add it");
}

static void unlock_and_check(struct env *env)
{
	expect(env, __memslot_unlock(env->vm, DATA_SLOT), 0, "to unlock");
	check_unlocked(env, "unlocked");
}

/* Returns NULL, or why there is no such memory. */
static const char *map_memory(struct env *env)
{
	size_t side = NR_SIDE_PAGES * page_size, block = pmd_size();
	enum layout layout = env->test->layout;
	const char *reason;

	if ((layout == MIXED || layout == HUGETLB) && block > LOCK_MAX_BLOCK)
		return "the blocks are too large";

	switch (layout) {
	case PAGES:
	case MEMFD:
		reason = mte_mem_alloc(&env->mem, layout == MEMFD ? MTE_MEM_MEMFD : MTE_MEM_ANON,
				       0, 2 * side);
		if (reason)
			return reason;
		env->hva = env->mem.hva;
		env->gpa = MTE_TEST_GPA + block - side;
		env->size = env->mem.size;
		break;
	case MIXED:
		reason = mte_mem_alloc(&env->mem, MTE_MEM_ANON_THP, 0, 3 * block);
		if (reason)
			return reason;
		kvm_madvise(env->mem.hva, block, MADV_NOHUGEPAGE);
		kvm_madvise(env->mem.hva + 2 * block, block, MADV_NOHUGEPAGE);
		env->hva = env->mem.hva + block - side;
		env->gpa = MTE_TEST_GPA + block - side;
		env->size = block + 2 * side;
		break;
	case HUGETLB:
		reason = mte_mem_alloc(&env->mem, MTE_MEM_HUGETLB, block, NR_FOLIOS * block);
		if (reason)
			return reason;
		env->hva = env->mem.hva;
		env->gpa = MTE_TEST_GPA;
		env->size = env->mem.size;
		env->nr_blocks = NR_FOLIOS;
		break;
	}

	env->nr_pages = env->size / page_size;
	if (layout != MIXED)
		return NULL;

	/* Even if there is to be none, it must be possible to have one. */
	populate(env);
	if (is_huge_mapped(env->mem.hva + block, block) ||
	    (!madvise(env->mem.hva + block, block, MADV_COLLAPSE) &&
	     is_huge_mapped(env->mem.hva + block, block)))
		return NULL;

	return "no THP could be had";
}

/* Returns false if the case can't be tried, and says why. */
static bool env_init(struct env *env, const struct testcase *test)
{
	const char *reason;
	u64 blocks, pages;

	*env = (struct env) { .test = test };
	reason = map_memory(env);
	if (reason) {
		fork_case_skip("%s", reason);
		return false;
	}

	env->vm = __vm_create(VM_SHAPE_DEFAULT, 1, env->size / SZ_4K);
	mte_vm_add_vcpus(env->vm, 1, &env->vcpu);
	if (!mte_stage2_leaves(env->vm, env->gpa, env->size, &blocks, &pages)) {
		fork_case_skip("the kernel doesn't show stage-2 page-tables");
		return false;
	}
	mte_vm_add_slot(env->vm, DATA_SLOT, 0, env->gpa, env->hva, env->size);
	env->base = lock_usage();
	TEST_ASSERT(fail_alloc_open(), "Can't open fail-nth, errno %d", errno);

	return true;
}

static void run_lock(const void *arg)
{
	u32 nr_failures = 0, nr_substituted = 0;
	const struct testcase *test = arg;
	bool failed = true;
	struct env env;
	int ret, err;

	if (!env_init(&env, test))
		return;

	/* It works, and its code is there: what fails is to be what KVM needs. */
	reset_memory(&env);
	memslot_lock(env.vm, DATA_SLOT, test->perms);
	check_locked(&env);
	unlock_and_check(&env);

	for (env.nth = 1; failed && may_go_on(&env); env.nth++) {
		reset_memory(&env);

		fork_case_doing(0, "locks a memslot, and an allocation fails");
		fail_alloc_nth(env.nth);
		ret = __memslot_lock(env.vm, DATA_SLOT, test->perms);
		err = errno;
		failed = fail_alloc_end();

		if (!ret) {
			nr_substituted += failed;
			check_locked(&env);
			unlock_and_check(&env);
			continue;
		}

		if (!failed)
			complain(&env, "to lock fails with errno %d for no reason", err);
		if (err != ENOMEM)
			complain(&env, "to lock fails with errno %d, expected %d", err, ENOMEM);
		nr_failures++;
		check_unlocked(&env, "failed");

		reset_memory(&env);
		expect(&env, __memslot_lock(env.vm, DATA_SLOT, test->perms), 0,
		       "to lock after a failure");
		check_locked(&env);
		unlock_and_check(&env);
	}

	if (env.nth > MAX_ALLOCATIONS)
		complain(&env, "there is no end of it");
	if (nr_failures < MIN_FAILURES)
		complain(&env, "only %u allocations failed", nr_failures);

	ksft_print_msg("%s: %u failures, %u substitutes\n", test->name, nr_failures,
		       nr_substituted);
}

/* There is nothing to fail, or nothing that matters. */
static void run_unlock(const void *arg)
{
	static const struct testcase test = { "", PAGES, MEMSLOT_LOCK_RW, true };
	bool failed = true, all = *(const bool *)arg;
	struct env env;
	int ret, err;

	if (!env_init(&env, &test))
		return;

	for (env.nth = 1; failed && may_go_on(&env); env.nth++) {
		memslot_lock(env.vm, DATA_SLOT, MEMSLOT_LOCK_RW);
		check_locked(&env);

		fork_case_doing(0, "unlocks a memslot, and an allocation fails");
		fail_alloc_nth(env.nth);
		ret = all ? __memslot_unlock_all(env.vm) : __memslot_unlock(env.vm, DATA_SLOT);
		err = errno;
		failed = fail_alloc_end();

		errno = err;
		expect(&env, ret, 0, "to unlock");
		check_unlocked(&env, "unlocked");
	}

	if (env.nth > MAX_ALLOCATIONS)
		complain(&env, "there is no end of it");
}

/*
 * Whether its flags have been changed or not, the memslot remains locked: the lock is
 * passed from one to the other, and must be there exactly once.
 */
static void run_flags(const void *arg)
{
	static const struct testcase test = { "", PAGES, MEMSLOT_LOCK_R, true };
	u32 from = *(const bool *)arg ? 0 : KVM_MEM_LOG_DIRTY_PAGES;
	u32 to = from ^ KVM_MEM_LOG_DIRTY_PAGES, nr_failures = 0;
	bool failed = true;
	struct env env;
	int ret, err;

	if (!env_init(&env, &test))
		return;

	memslot_lock(env.vm, DATA_SLOT, MEMSLOT_LOCK_R);

	for (env.nth = 1; failed && may_go_on(&env); env.nth++) {
		set_slot(&env, from, env.size, 0, "to change the flags back");
		check_locked(&env);

		fork_case_doing(0, "changes a memslot, and an allocation fails");
		fail_alloc_nth(env.nth);
		ret = __vm_set_user_memory_region(env.vm, DATA_SLOT, to, env.gpa, env.size,
						  env.hva);
		err = errno;
		failed = fail_alloc_end();

		if (ret && (!failed || err != ENOMEM))
			complain(&env, "to change the flags fails with errno %d, %s", err,
				 failed ? "expected ENOMEM" : "for no reason");
		nr_failures += !!ret;
		check_locked(&env);
		set_slot(&env, 0, 0, EBUSY, "to delete what is locked");
	}

	if (env.nth > MAX_ALLOCATIONS)
		complain(&env, "there is no end of it");
	if (!nr_failures)
		complain(&env, "no allocation failed");

	unlock_and_check(&env);
}

static const bool yes = true, no;

static const struct other_case {
	const char *name;
	fork_case_fn run;
	const void *arg;
} other_cases[] = {
	{ "unlock", run_unlock, &no },
	{ "unlock all", run_unlock, &yes },
	{ "enable the logging of dirty pages", run_flags, &yes },
	{ "disable the logging of dirty pages", run_flags, &no },
};

static void report(const char *name, fork_case_fn run, const void *arg)
{
	fork_case_report(name, fork_case_run(run, arg, CASE_SECONDS));
}

int main(void)
{
	const char *reason;
	int i;

	ksft_print_header();
	__TEST_REQUIRE(kvm_check_cap(KVM_CAP_ARM_LOCK_USER_MEMORY_REGION),
		       "memslots can't be locked, as in protected mode");
	__TEST_REQUIRE(fail_alloc_open(), "the kernel has no fault injection");
	fail_alloc_close();

	page_size = getpagesize();
	/*
	 * Not left to the cases, which wouldn't give them back. It has its own way to clean
	 * up after a signal, and has to be the first.
	 */
	if (pmd_size() <= LOCK_MAX_BLOCK)
		hugetlb_reserve(pmd_size(), NR_FOLIOS);
	reason = fail_alloc_enable();
	__TEST_REQUIRE(!reason, "%s", reason);
	ksft_set_plan(1 + ARRAY_SIZE(testcases) + ARRAY_SIZE(other_cases));

	fork_case_report_log();
	for (i = 0; i < ARRAY_SIZE(testcases); i++)
		report(testcases[i].name, run_lock, &testcases[i]);
	for (i = 0; i < ARRAY_SIZE(other_cases); i++)
		report(other_cases[i].name, other_cases[i].run, other_cases[i].arg);

	ksft_finished();
}
