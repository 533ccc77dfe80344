// SPDX-License-Identifier: GPL-2.0-only
/*
 * memslot_lock_mte - Check the tags of memory that is locked.
 *
 * A lock maps all of a memslot at once, so it is the lock that has to initialise the
 * tags of all of its pages, and must leave alone those that the guest has stored. Each
 * page frame was part of another process a moment ago, where all of its tags had one
 * value, and the guest must not see that. It takes no fault on the memory, so that
 * nothing but the lock could have done it.
 *
 * The order of things must not matter. A memslot can be locked before the VM gets MTE,
 * which it can't while the memslot is locked. What was mapped by then is memory whose
 * tags were not initialised. Whether the lock was given up or has failed, none of it may
 * be there any more when the guest runs.
 *
 * Memory that can't have tags is refused, with all of the memslot. With
 * KVM_CAP_ARM_MTE_PERM it is mapped without access to tags.
 *
 * A broken kernel initialises the first page of what it maps, or the tags of a page on
 * each lock, or leaves memory mapped from the time before MTE.
 */
#include <sys/mman.h>

#include "kvm_util.h"
#include "memslot_kinds.h"
#include "memslot_lock.h"
#include "mte.h"
#include "notag.h"
#include "processor.h"
#include "test_util.h"

#define NR_PAGES	LOCK_NR_PAGES

/* No more pages of a memslot than that have tags stored to and loaded from them. */
#define NR_SAMPLES	256

static size_t page_size;

static const u64 all_perms[] = { MEMSLOT_LOCK_R, MEMSLOT_LOCK_RW };

static void report(const char *name, const char *skip, const char *failure)
{
	if (skip)
		ksft_test_result_skip("%s: %s\n", name, skip);
	else
		ksft_test_result(!failure, "%s%s%s\n", name, failure ? ": " : "", failure ?: "");
}

/* All of it with stale tags. */
static const char *alloc_stale(struct mte_mem *mem, const struct lock_kind *kind, u64 nr_blocks)
{
	if (kind->blocks && pmd_size() > LOCK_MAX_BLOCK)
		return "the blocks are too large to have several";

	return mte_mem_alloc_stale(mem, kind->type, pmd_size(),
				   kind->blocks ? nr_blocks * pmd_size() : NR_PAGES * page_size);
}

static u64 expected_blocks(const struct lock_kind *kind, u64 perms, u64 nr_blocks)
{
	return kind->blocks && perms == MEMSLOT_LOCK_RW ? nr_blocks : 0;
}

static const char *check_mapped(const struct lock_vm *lvm, u64 nr_blocks)
{
	return lock_vm_check_locked(lvm, nr_blocks,
				    lvm->nr_pages - nr_blocks * (pmd_size() / page_size));
}

static const char *check_stale(const struct lock_vm *lvm, u64 max_faults)
{
	u64 faults = guest_faults(lvm->faults), stale;

	stale = mte_vcpu_call(lvm->vcpu, mte_count_stale, lvm->gpa, lvm->nr_pages,
			      page_size, page_size);
	if (stale)
		return lock_failed("%lu of %lu pages have stale tags", stale, lvm->nr_pages);

	faults = guest_faults(lvm->faults) - faults;
	if (faults > max_faults)
		return lock_failed("loading tags takes %lu faults, not %lu", faults, max_faults);

	return NULL;
}

/* Tags that the guest stores. */

static u64 sample_stride(const struct lock_vm *lvm)
{
	return max_t(u64, page_size, lvm->size / NR_SAMPLES);
}

static const char *check_store(const struct lock_vm *lvm, u64 max_faults)
{
	u64 stride = sample_stride(lvm), faults = guest_faults(lvm->faults);

	mte_vcpu_call(lvm->vcpu, mte_store_pattern, lvm->gpa, lvm->size / stride, page_size,
		      stride);
	faults = guest_faults(lvm->faults) - faults;
	if (faults > max_faults)
		return lock_failed("storing tags takes %lu faults, not %lu", faults, max_faults);

	return NULL;
}

static const char *check_lost(const struct lock_vm *lvm)
{
	u64 stride = sample_stride(lvm), lost;

	lost = mte_vcpu_call(lvm->vcpu, mte_count_lost, lvm->gpa, lvm->size / stride, page_size,
			     stride);
	if (lost)
		return lock_failed("%lu of %lu pages have lost their tags", lost,
				   lvm->size / stride);

	return NULL;
}

/* MTE, and then a lock. */

static const char *check_tags(const struct lock_vm *lvm, u64 perms, u64 nr_blocks)
{
	u64 max_faults = perms == MEMSLOT_LOCK_R ? lvm->nr_pages : 0, other;
	const char *failure;

	memslot_lock(lvm->vm, LOCK_SLOT, perms);
	failure = check_mapped(lvm, nr_blocks) ?: check_stale(lvm, 0) ?:
		  lock_vm_check_reads(lvm, 0, 0) ?: check_store(lvm, max_faults) ?:
		  check_lost(lvm) ?: check_mapped(lvm, nr_blocks);
	memslot_unlock(lvm->vm, LOCK_SLOT);
	failure = failure ?: lock_vm_check_unlocked(lvm) ?: check_lost(lvm);
	if (failure)
		return failure;

	/* Once more, and with the other permissions, which maps it by other leaves. */
	other = perms ^ MEMSLOT_LOCK_R ^ MEMSLOT_LOCK_RW;
	memslot_lock(lvm->vm, LOCK_SLOT, perms);
	failure = check_lost(lvm);
	memslot_unlock(lvm->vm, LOCK_SLOT);
	memslot_lock(lvm->vm, LOCK_SLOT, other);
	failure = failure ?: check_lost(lvm);
	memslot_unlock(lvm->vm, LOCK_SLOT);

	return failure ?: lock_vm_check_unlocked(lvm);
}

static void run_tags(const struct lock_kind *kind, u64 perms)
{
	char *name = strdup_printf("%s, %s", kind->name, memslot_lock_name(perms));
	const char *reason, *failure = NULL;
	struct lock_vm lvm;
	struct mte_mem mem;

	reason = alloc_stale(&mem, kind, 1);
	if (!reason) {
		lock_vm_create(&lvm, true, 0, MTE_TEST_GPA, mem.hva, mem.size);
		lock_vm_fill(&lvm);
		failure = check_tags(&lvm, perms, expected_blocks(kind, perms, 1));
		lock_vm_free(&lvm);
		mte_mem_free(&mem);
	}
	report(name, reason, failure);
	free(name);
}

/* A lock, and then MTE. */

static int enable_mte(struct kvm_vm *vm)
{
	return __vm_enable_cap(vm, KVM_CAP_ARM_MTE, 0);
}

static void add_vcpu(struct lock_vm *lvm)
{
	mte_vm_add_vcpus(lvm->vm, 1, &lvm->vcpu);
	virt_map(lvm->vm, lvm->gpa, lvm->gpa, lvm->size / lvm->vm->page_size);
}

/* MTE can't be enabled, and the VM is one that has been given a lock. */
static const char *check_refused(struct lock_vm *lvm, u64 perms, u64 nr_blocks)
{
	memslot_lock(lvm->vm, LOCK_SLOT, perms);
	if (!failed_with(enable_mte(lvm->vm), EINVAL))
		return "MTE was enabled for a VM that has a locked memslot";

	return check_mapped(lvm, nr_blocks);
}

static const char *lock_and_unlock(struct lock_vm *lvm, u64 perms, u64 nr_blocks)
{
	const char *failure = check_refused(lvm, perms, nr_blocks);

	memslot_unlock(lvm->vm, LOCK_SLOT);

	return failure;
}

static const char *lock_and_unlock_all(struct lock_vm *lvm, u64 perms, u64 nr_blocks)
{
	const char *failure = check_refused(lvm, perms, nr_blocks);

	if (__memslot_unlock_all(lvm->vm))
		return lock_failed("can't be unlocked, errno %d", errno);

	return failure;
}

/* One half of it can be locked. */
static const char *fail_to_lock(struct lock_vm *lvm, u64 perms, u64 nr_blocks)
{
	size_t half = lvm->size / 2;

	TEST_ASSERT(!mprotect(lvm->hva + half, half, PROT_NONE),
		    "mprotect() failed, errno %d", errno);
	if (!failed_with(__memslot_lock(lvm->vm, LOCK_SLOT, perms), EFAULT))
		return "is locked without access to all pages";
	TEST_ASSERT(!mprotect(lvm->hva + half, half, PROT_READ | PROT_WRITE),
		    "mprotect() failed, errno %d", errno);

	return NULL;
}

static const struct sequence {
	const char *name;
	const char *(*run)(struct lock_vm *lvm, u64 perms, u64 nr_blocks);
	u64 nr_blocks;
} sequences[] = {
	{ "locked and unlocked before MTE", lock_and_unlock, 1 },
	{ "locked and all unlocked before MTE", lock_and_unlock_all, 1 },
	{ "failed to be locked before MTE", fail_to_lock, 2 },
};

/* What the guest finds is memory as if it had never been locked, but for tags. */
static const char *check_sequence(struct lock_vm *lvm, const struct sequence *sequence,
				  u64 perms, u64 nr_blocks)
{
	const char *failure;

	failure = sequence->run(lvm, perms, nr_blocks) ?: lock_vm_check_unlocked(lvm);
	if (failure)
		return failure;
	if (enable_mte(lvm->vm))
		return lock_failed("MTE can't be enabled afterwards, errno %d", errno);

	add_vcpu(lvm);
	failure = check_stale(lvm, lvm->nr_pages) ?:
		  lock_vm_check_reads(lvm, 0, lvm->nr_pages) ?:
		  check_store(lvm, lvm->nr_pages);
	if (failure)
		return failure;

	memslot_lock(lvm->vm, LOCK_SLOT, perms);
	failure = check_lost(lvm);
	memslot_unlock(lvm->vm, LOCK_SLOT);

	return failure ?: lock_vm_check_unlocked(lvm);
}

static void run_sequence(const struct sequence *sequence, const struct lock_kind *kind, u64 perms)
{
	char *name = strdup_printf("%s, %s, %s", sequence->name, kind->name,
				   memslot_lock_name(perms));
	const char *reason, *failure = NULL;
	struct lock_vm lvm;
	struct mte_mem mem;

	reason = alloc_stale(&mem, kind, sequence->nr_blocks);
	if (!reason) {
		lock_vm_init(&lvm, __vm_create(VM_SHAPE_DEFAULT, 1, mem.size / SZ_4K), NULL, 0,
			     MTE_TEST_GPA, mem.hva, mem.size);
		lock_vm_fill(&lvm);
		failure = check_sequence(&lvm, sequence, perms,
					 expected_blocks(kind, perms, sequence->nr_blocks));
		lock_vm_free(&lvm);
		mte_mem_free(&mem);
	}
	report(name, reason, failure);
	free(name);
}

/* MTE was refused, and there is none of it: neither for the vCPU nor in the mapping. */
static const char *check_without(struct lock_vm *lvm)
{
	const char *failure = check_refused(lvm, MEMSLOT_LOCK_RW, 0);
	u64 pfr1;

	if (failure)
		return failure;

	add_vcpu(lvm);
	pfr1 = vcpu_get_reg(lvm->vcpu, KVM_ARM64_SYS_REG(SYS_ID_AA64PFR1_EL1));
	if (SYS_FIELD_GET(ID_AA64PFR1_EL1, MTE, pfr1))
		return "the vCPU has MTE";
	failure = lock_vm_check_reads(lvm, 0, 0) ?: lock_vm_check_writes(lvm, 0, 0);
	memslot_unlock(lvm->vm, LOCK_SLOT);

	return failure ?: lock_vm_check_unlocked(lvm);
}

static void run_without(void)
{
	struct lock_vm lvm;
	struct mte_mem mem;
	const char *reason;

	reason = lock_mem_alloc(&mem, &lock_kinds[LOCK_ANON], 0, true);
	TEST_ASSERT(!reason, "No memory: %s", reason);

	lock_vm_init(&lvm, __vm_create(VM_SHAPE_DEFAULT, 1, 0), NULL, 0, MTE_TEST_GPA,
		     mem.hva, mem.size);
	lock_vm_fill(&lvm);
	report("refused while locked, the VM goes on without", NULL, check_without(&lvm));
	lock_vm_free(&lvm);
	mte_mem_free(&mem);
}

/* Memory that can't have tags. */

static const struct memslot_kind shared_file = {
	.class = MEMSLOT_PAGES, .map_flags = MAP_SHARED,
};

static const struct memslot_kind private_file = {
	.class = MEMSLOT_PAGES, .map_flags = MAP_PRIVATE,
};

static const struct notag {
	const char *name;
	const struct memslot_kind *kind;
	u64 perms;
	/* The pages of the memslot that are of the file. */
	u64 first;
	u64 nr;
	/* With the capability: 0, or what is wrong with it in any VM. */
	int err;
} notags[] = {
	{ "shared file, R", &shared_file, MEMSLOT_LOCK_R, 0, NR_PAGES, 0 },
	{ "part is a shared file, R", &shared_file, MEMSLOT_LOCK_R, NR_PAGES / 2, 4, 0 },
	{ "part is a shared file, RW", &shared_file, MEMSLOT_LOCK_RW, NR_PAGES / 2, 4, EFAULT },
	{ "private file, R", &private_file, MEMSLOT_LOCK_R, 0, NR_PAGES, 0 },
	{ "private file, RW", &private_file, MEMSLOT_LOCK_RW, 0, NR_PAGES, 0 },
	{ "part is a private file, R", &private_file, MEMSLOT_LOCK_R, NR_PAGES / 2, 4, 0 },
	{ "part is a private file, RW", &private_file, MEMSLOT_LOCK_RW, NR_PAGES / 2, 4, 0 },
};

/* Tags wherever the memory can have them, and an exit elsewhere. Called last. */
static const char *check_tag_access(struct lock_vm *lvm, const struct notag *test)
{
	const char *failure;
	gpa_t gpa;
	u64 i;

	for (i = 0; i < NR_PAGES; i++) {
		bool notag = i >= test->first && i < test->first + test->nr;

		gpa = lvm->gpa + i * page_size;
		if (!mte_stage2_shows(lvm->vm, gpa, notag ? "MEM/NOTAG" : S2_NORMAL))
			return lock_failed("page %lu is mapped with%s access to tags", i,
					   notag ? "" : "out");
		if (!notag && mte_vcpu_call(lvm->vcpu, mte_count_stale, gpa, 1, page_size, 0))
			return lock_failed("page %lu has stale tags", i);
	}

	mte_vcpu_prepare(lvm->vcpu, mte_count_stale, lvm->gpa + test->first * page_size, 1,
			 page_size, 0);
	failure = mte_vcpu_run_notag(lvm->vcpu, lvm->gpa + test->first * page_size);
	if (failure)
		return lock_failed("loading a tag %s", failure);

	return lock_vm_check_locked(lvm, 0, NR_PAGES);
}

static const char *check_notag(struct lock_vm *lvm, const struct notag *test, bool perm)
{
	void *addr = lvm->hva + test->first * page_size;
	int err = perm ? test->err : EINVAL, ret;
	const char *failure;

	ret = __memslot_lock(lvm->vm, LOCK_SLOT, test->perms);
	if (err) {
		if (!failed_with(ret, err))
			return lock_failed("returns %d, errno %d", ret, errno);
		failure = lock_vm_check_unlocked(lvm) ?: lock_vm_check_leaves(lvm, 0, 0);
		if (failure)
			return failure;

		/* It is the memory that is wrong, and not the memslot. */
		memslot_map_anon(addr, test->nr * page_size);
		failure = lock_vm_check_lockable(lvm, test->perms, 0, NR_PAGES);
		if (failure)
			return failure;

		memslot_lock(lvm->vm, LOCK_SLOT, test->perms);
		lock_vm_fill(lvm);

		return check_stale(lvm, 0) ?: lock_vm_check_reads(lvm, 0, 0);
	}

	if (ret)
		return lock_failed("can't be locked, errno %d", errno);
	lock_vm_fill(lvm);

	return lock_vm_check_locked(lvm, 0, NR_PAGES) ?:
	       lock_vm_check_reads(lvm, 0, 0) ?:
	       check_tag_access(lvm, test);
}

static void run_notag(const struct notag *test, bool perm)
{
	char *name = strdup_printf("%s, %s KVM_CAP_ARM_MTE_PERM", test->name,
				   perm ? "with" : "without");
	const char *reason, *failure = NULL;
	struct lock_vm lvm;
	struct mte_mem mem;
	struct kvm_vm *vm;

	if (perm && !(kvm_check_cap(KVM_CAP_ARM_MTE_PERM) & KVM_ARM_MTE_PERM_PAGES)) {
		report(name, "KVM doesn't offer it", NULL);
		free(name);
		return;
	}

	reason = alloc_stale(&mem, &lock_kinds[LOCK_ANON], 0);
	if (reason) {
		report(name, reason, NULL);
		free(name);
		return;
	}

	vm = __vm_create(VM_SHAPE_DEFAULT, 1, 0);
	vm_enable_cap(vm, KVM_CAP_ARM_MTE, 0);
	if (perm)
		vm_enable_cap(vm, KVM_CAP_ARM_MTE_PERM, KVM_ARM_MTE_PERM_PAGES);
	lock_vm_init(&lvm, vm, NULL, 0, MTE_TEST_GPA, mem.hva, mem.size);
	add_vcpu(&lvm);

	/* Behind the memslot, which would not have been accepted everywhere. */
	reason = memslot_map_file(test->kind, mem.hva + test->first * page_size,
				  test->nr * page_size);
	if (!reason)
		failure = check_notag(&lvm, test, perm);
	report(name, reason, failure);

	lock_vm_free(&lvm);
	mte_mem_free(&mem);
	free(name);
}

int main(void)
{
	static const int sequence_kinds[] = { LOCK_ANON, LOCK_THP, LOCK_HUGETLB };
	int i, j, k;

	ksft_print_header();
	mte_require();
	memslot_lock_require();
	page_size = getpagesize();

	ksft_set_plan((LOCK_NR_KINDS + ARRAY_SIZE(sequences) * ARRAY_SIZE(sequence_kinds)) *
		      ARRAY_SIZE(all_perms) + 1 + 2 * ARRAY_SIZE(notags));

	/* On one CPU there is no TLB but its own that has what was mapped before. */
	pin_self_to_any_cpu();

	for (i = 0; i < LOCK_NR_KINDS; i++) {
		for (j = 0; j < ARRAY_SIZE(all_perms); j++)
			run_tags(&lock_kinds[i], all_perms[j]);
	}

	for (i = 0; i < ARRAY_SIZE(sequences); i++) {
		for (j = 0; j < ARRAY_SIZE(sequence_kinds); j++) {
			for (k = 0; k < ARRAY_SIZE(all_perms); k++)
				run_sequence(&sequences[i], &lock_kinds[sequence_kinds[j]],
					     all_perms[k]);
		}
	}
	run_without();

	for (i = 0; i < ARRAY_SIZE(notags); i++) {
		run_notag(&notags[i], false);
		run_notag(&notags[i], true);
	}

	ksft_finished();
}
