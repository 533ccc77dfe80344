// SPDX-License-Identifier: GPL-2.0-only
/*
 * memslot_lock_nested - Check locked memory in a VM whose guest has an EL2.
 *
 * The guest takes no stage-2 fault on locked memory, like any other guest. The guest that
 * it runs has the memory by a shadow of two stage-2 tables, which only its faults fill.
 * That the memory is locked must neither keep these from being resolved nor spare the
 * shadow what happens to the memory:
 *
 *  - What is unmapped, be it for a moment, is unmapped there, too. What is mapped again
 *    without the guest's doing comes back by faults of the guest of the guest.
 *
 *  - What the VMM has replaced is what the guest of the guest gets.
 *
 *  - Unlocking the memory takes nothing from it.
 *
 * Nor are its faults to be taken for faults of the guest if it has no stage 2 of its own.
 *
 * The guest of the guest has the memory at another address, by which its faults are told
 * from those of the guest. A broken kernel maps a shadow that isn't told of changes, takes
 * faults of the guest of the guest for those that a lock was to prevent, or mends the
 * wrong addresses.
 */
#include <sys/mman.h>

#include <linux/sizes.h>

#include "kvm_util.h"
#include "memslot_kinds.h"
#include "memslot_lock.h"
#include "mte.h"
#include "processor.h"
#include "test_util.h"

/* Where the guest of the guest has the memory, aligned to the largest block. */
#define L2_IPA		(MTE_TEST_GPA + SZ_1G)

/* In a page, where neither lock_vm_check_reads() nor lock_vm_check_writes() look. */
#define DATA_OFFSET	64
#define DATA		0x1122334455667788UL
#define NESTED_DATA	0x99aabbccddeeff00UL

static size_t page_size;

struct nested_env {
	struct lock_env lock;
	/* Counts faults of the guest of the guest. */
	int faults;
};

/* Since then faults were taken: some by the guest of the guest, and none by the guest. */
struct faults {
	u64 nested;
	u64 own;
};

static struct faults faults_start(const struct nested_env *env)
{
	return (struct faults) {
		.nested	= guest_faults(env->faults),
		.own	= guest_faults(env->lock.lvm.faults),
	};
}

static const char *faults_end(const struct nested_env *env, struct faults start, u64 min, u64 max,
			      const char *when)
{
	u64 nested = guest_faults(env->faults) - start.nested;
	u64 own = guest_faults(env->lock.lvm.faults) - start.own;

	if (own)
		return lock_failed("%s: %lu faults on addresses of the guest", when, own);
	if (nested < min || nested > max)
		return lock_failed("%s: the guest of the guest takes %lu faults, not %lu to %lu",
				   when, nested, min, max);

	return NULL;
}

/* Have the guest of the guest read all pages. */
static const char *check_reads(const struct nested_env *env, u64 data, u64 min_faults,
			       u64 max_faults, const char *when)
{
	const struct lock_vm *lvm = &env->lock.lvm;
	struct faults faults = faults_start(env);
	u64 wrong;

	wrong = mte_vcpu_call(lvm->vcpu, mte_count_wrong_data, L2_IPA + DATA_OFFSET,
			      lvm->nr_pages, page_size, data);
	if (wrong)
		return lock_failed("%s: %lu of %lu pages are wrong in the guest of the guest",
				   when, wrong, lvm->nr_pages);

	return faults_end(env, faults, min_faults, max_faults, when);
}

/* Have it write to all pages, which may take another fault for each. */
static const char *check_writes(const struct nested_env *env)
{
	const struct lock_vm *lvm = &env->lock.lvm;
	struct faults faults = faults_start(env);
	u64 wrong;

	mte_vcpu_call(lvm->vcpu, mte_write_data, L2_IPA + DATA_OFFSET, lvm->nr_pages, page_size,
		      NESTED_DATA);
	wrong = mte_count_wrong_data((u64)lvm->hva + DATA_OFFSET, lvm->nr_pages, page_size,
				     NESTED_DATA);
	if (wrong)
		return lock_failed("the VMM doesn't see what is written to %lu of %lu pages",
				   wrong, lvm->nr_pages);

	return faults_end(env, faults, 0, lvm->nr_pages, "written");
}

static void vmm_writes(const struct nested_env *env, u64 data)
{
	mte_write_data((u64)env->lock.lvm.hva + DATA_OFFSET, env->lock.lvm.nr_pages, page_size,
		       data);
}

/* Unmapped for a moment. KVM mends what the guest has, and the rest is up to faults. */
static const char *check_repaired(struct nested_env *env)
{
	struct lock_env *lock = &env->lock;

	lock_env_start(lock);
	TEST_ASSERT(!mprotect(lock->mem.hva, lock->mem.size, PROT_NONE) &&
		    !mprotect(lock->mem.hva, lock->mem.size, PROT_READ | PROT_WRITE),
		    "mprotect() failed, errno %d", errno);

	return lock_env_wait_repaired(lock, lock->lvm.nr_pages, lock->nr_blocks,
				      lock->nr_pages) ?:
	       check_reads(env, NESTED_DATA, 1, lock->lvm.nr_pages, "mapped again") ?:
	       check_reads(env, NESTED_DATA, 0, 0, "mapped again, second time") ?:
	       lock_vm_check_locked(&lock->lvm, lock->nr_blocks, lock->nr_pages);
}

/* Replaced by other pages, of which the lock doesn't know. */
static const char *check_replaced(struct nested_env *env)
{
	struct lock_env *lock = &env->lock;
	u64 nr = lock->lvm.nr_pages;

	lock_env_start(lock);
	kvm_madvise(lock->mem.hva, lock->mem.size,
		    lock->kind->shared ? MADV_REMOVE : MADV_DONTNEED);

	return lock_env_wait_changed(lock, nr) ?:
	       check_reads(env, 0, 1, nr, "replaced") ?:
	       lock_env_check_held(lock);
}

static const char *check_nested(struct nested_env *env)
{
	struct lock_env *lock = &env->lock;
	struct lock_vm *lvm = &lock->lvm;
	u64 nr = lvm->nr_pages, nr_writes = lock->perms == MEMSLOT_LOCK_R ? nr : 0;
	const char *failure;
	gpa_t root;

	/* At EL2, the guest. */
	memslot_lock(lvm->vm, LOCK_SLOT, lock->perms);
	lock_vm_fill(lvm);
	vmm_writes(env, DATA);
	failure = lock_vm_check_locked(lvm, lock->nr_blocks, lock->nr_pages) ?:
		  lock_vm_check_reads(lvm, 0, 0) ?:
		  lock_vm_check_writes(lvm, nr_writes, nr_writes);
	if (failure)
		return failure;

	root = mte_guest_s2_create(lvm->vm);
	mte_guest_s2_map(lvm->vm, root, L2_IPA, MTE_TEST_GPA, 1, GUEST_S2_READ | GUEST_S2_WRITE);
	mte_vcpu_enter_el1(lvm->vcpu, root);

	failure = check_reads(env, DATA, 1, nr, "locked") ?:
		  check_reads(env, DATA, 0, 0, "locked, second time") ?:
		  check_writes(env) ?:
		  lock_vm_check_locked(lvm, lock->nr_blocks, lock->nr_pages) ?:
		  check_repaired(env) ?:
		  check_replaced(env);
	if (failure)
		return failure;

	memslot_unlock(lvm->vm, LOCK_SLOT);
	vmm_writes(env, DATA);
	failure = lock_vm_check_unlocked(lvm) ?: check_reads(env, DATA, 0, nr, "unlocked");
	if (failure)
		return failure;

	/* It can be locked while the guest of the guest is what runs. */
	memslot_lock(lvm->vm, LOCK_SLOT, lock->perms);
	failure = lock_env_check_held(lock) ?: check_reads(env, DATA, 0, nr, "locked again");
	memslot_unlock(lvm->vm, LOCK_SLOT);

	return failure ?: lock_vm_check_unlocked(lvm);
}

/*
 * The guest of the guest has the memory at the address where the guest has it, but it is
 * another table of KVM's that maps it there, and faults on that are none of the lock's.
 */
static void run_no_stage2(u64 perms)
{
	size_t size = LOCK_NR_PAGES * page_size;
	struct kvm_vcpu *vcpu;
	const char *failure;
	struct lock_vm lvm;
	struct kvm_vm *vm;
	int unexpected;
	void *hva;

	hva = kvm_mmap(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	vm = __vm_create(VM_SHAPE_DEFAULT, 1, size / SZ_4K);
	mte_vm_add_vcpus_el2(vm, 1, &vcpu);
	lock_vm_init(&lvm, vm, vcpu, 0, MTE_TEST_GPA, hva, size);
	virt_map(vm, MTE_TEST_GPA, MTE_TEST_GPA, size / vm->page_size);
	unexpected = lock_faults_open();
	TEST_ASSERT(unexpected >= 0, "Can't count faults on locked memory, errno %d", errno);

	memslot_lock(vm, LOCK_SLOT, perms);
	lock_vm_fill(&lvm);
	failure = lock_vm_check_reads(&lvm, 0, 0);
	mte_vcpu_enter_el1(vcpu, 0);
	failure = failure ?: lock_vm_check_reads(&lvm, 1, LOCK_NR_PAGES) ?:
		  lock_vm_check_reads(&lvm, 0, 0) ?:
		  lock_vm_check_locked(&lvm, 0, LOCK_NR_PAGES);
	if (!failure && guest_faults(unexpected))
		failure = "KVM takes its faults for faults on locked memory";
	memslot_unlock(vm, LOCK_SLOT);
	ksft_test_result(!failure, "without a stage 2, %s%s%s\n", memslot_lock_name(perms),
			 failure ? ": " : "", failure ?: "");

	kvm_close(unexpected);
	lock_vm_free(&lvm);
	kvm_munmap(hva, size);
}

static void run_nested(const struct lock_kind *kind, u64 perms)
{
	char *name = strdup_printf("%s, %s", kind->name, memslot_lock_name(perms));
	struct nested_env env = { .lock = { .kind = kind, .perms = perms } };
	struct lock_env *lock = &env.lock;
	struct kvm_vcpu *vcpu;
	const char *reason;
	struct kvm_vm *vm;
	size_t size;

	reason = lock_mem_alloc(&lock->mem, kind, LOCK_NR_BLOCKS, true);
	if (reason) {
		ksft_test_result_skip("%s: %s\n", name, reason);
		free(name);
		return;
	}

	size = lock->mem.size;
	lock->nr_blocks = kind->blocks && perms == MEMSLOT_LOCK_RW ? LOCK_NR_BLOCKS : 0;
	lock->nr_pages = (size - lock->nr_blocks * pmd_size()) / page_size;
	vm = __vm_create(VM_SHAPE_DEFAULT, 1, 2 * size / SZ_4K);
	mte_vm_add_vcpus_el2(vm, 1, &vcpu);
	lock_vm_init(&lock->lvm, vm, vcpu, 0, MTE_TEST_GPA, lock->mem.hva, size);
	virt_map(vm, MTE_TEST_GPA, MTE_TEST_GPA, size / vm->page_size);
	virt_map(vm, L2_IPA, L2_IPA, size / vm->page_size);
	env.faults = guest_faults_open_range(0, L2_IPA, size);
	TEST_ASSERT(env.faults >= 0, "Can't count guest faults, errno %d", errno);

	reason = check_nested(&env);
	ksft_test_result(!reason, "%s%s%s\n", name, reason ? ": " : "", reason ?: "");

	kvm_close(env.faults);
	lock_vm_free(&lock->lvm);
	mte_mem_free(&lock->mem);
	free(name);
}

int main(void)
{
	static const int kinds[] = { LOCK_ANON, LOCK_MEMFD, LOCK_THP };
	static const u64 perms[] = { MEMSLOT_LOCK_R, MEMSLOT_LOCK_RW };
	int i, j;

	ksft_print_header();
	memslot_lock_require();
	__TEST_REQUIRE(kvm_check_cap(KVM_CAP_ARM_EL2), "guests can't have an EL2");
	page_size = getpagesize();
	__TEST_REQUIRE(page_size == SZ_4K, "the stage 2 of the guest has pages of 4K");

	ksft_set_plan((ARRAY_SIZE(kinds) + 1) * ARRAY_SIZE(perms));

	/* On one CPU there is no TLB but its own that has what was mapped before. */
	pin_self_to_any_cpu();

	for (i = 0; i < ARRAY_SIZE(kinds); i++) {
		for (j = 0; j < ARRAY_SIZE(perms); j++)
			run_nested(&lock_kinds[kinds[i]], perms[j]);
	}
	for (j = 0; j < ARRAY_SIZE(perms); j++)
		run_no_stage2(perms[j]);

	ksft_finished();
}
