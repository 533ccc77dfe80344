// SPDX-License-Identifier: GPL-2.0-only
/*
 * memslot_lock - Check the calls that lock and unlock memslots, and what can't be done to
 * a memslot that is locked.
 *
 * KVM_CAP_ARM_LOCK_USER_MEMORY_REGION pins, accounts and maps all of a memslot, or
 * fails and has no effect. So each failure is checked for its errno, and for what it
 * must not leave behind: memory that is accounted as locked, pinned pages, mappings
 * at stage 2, a memslot that counts as locked.
 *
 * A memslot that is locked can't be deleted, moved, or have its flags changed. A vCPU
 * reads it all the time while that is tried, and must not notice.
 *
 * A broken kernel accepts arguments that mean nothing yet, lets a process lock more than
 * it is allowed to, or unmaps a memslot before finding that it can't be changed.
 *
 * What locking maps, and what it refuses to, is the subject of memslot_lock_map. What
 * becomes of it later is that of memslot_lock_repair and memslot_lock_change.
 */
#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <linux/sizes.h>

#include "kvm_util.h"
#include "memslot_kinds.h"
#include "memslot_lock.h"
#include "mte.h"
#include "processor.h"
#include "test_util.h"

#define NR_PAGES	LOCK_NR_PAGES
#define LOCK		KVM_ARM_LOCK_USER_MEMORY_REGION_FLAGS_LOCK
#define UNLOCK		KVM_ARM_LOCK_USER_MEMORY_REGION_FLAGS_UNLOCK

static size_t page_size;
static size_t slot_size;
static cpu_set_t all_cpus;

static const u64 all_perms[] = { MEMSLOT_LOCK_R, MEMSLOT_LOCK_RW };

static void *alloc(size_t size)
{
	return kvm_mmap(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
}

/* It isn't locked, and nothing was mapped for a guest that hasn't run. */
static const char *check_untouched(const struct lock_vm *lvm)
{
	return lock_vm_check_unlocked(lvm) ?: lock_vm_check_leaves(lvm, 0, 0);
}

static const char *check_locked(const struct lock_vm *lvm)
{
	return lock_vm_check_locked(lvm, 0, NR_PAGES);
}

/* As if nothing had happened. */
static const char *check_lockable(const struct lock_vm *lvm, u64 perms)
{
	return lock_vm_check_lockable(lvm, perms, 0, NR_PAGES);
}

/* Arguments. */

struct bad_args {
	const char *name;
	u32 flags;
	u64 args[4];
};

/* Of what is a valid call otherwise. */
static const struct bad_args bad_args[] = {
	{ "no flag", 0, { LOCK_SLOT, MEMSLOT_LOCK_RW } },
	{ "both flags", LOCK | UNLOCK, { LOCK_SLOT, MEMSLOT_LOCK_RW } },
	{ "both flags, no permission", LOCK | UNLOCK, { LOCK_SLOT, 0 } },
	{ "unknown flag", BIT(2), { LOCK_SLOT, MEMSLOT_LOCK_RW } },
	{ "lock, unknown flag", LOCK | BIT(31), { LOCK_SLOT, MEMSLOT_LOCK_RW } },
	{ "unlock, unknown flag", UNLOCK | BIT(2), { LOCK_SLOT } },
	{ "no permission", LOCK, { LOCK_SLOT, 0 } },
	{ "to write but not to read", LOCK, { LOCK_SLOT, KVM_ARM_LOCK_MEM_WRITE } },
	{ "unknown permission", LOCK, { LOCK_SLOT, MEMSLOT_LOCK_RW | BIT(2) } },
	{ "unknown permission, high", LOCK, { LOCK_SLOT, MEMSLOT_LOCK_R | BIT_ULL(32) } },
	{ "lock, args[2]", LOCK, { LOCK_SLOT, MEMSLOT_LOCK_RW, 1 } },
	{ "lock, args[3]", LOCK, { LOCK_SLOT, MEMSLOT_LOCK_RW, 0, BIT_ULL(63) } },
	{ "unlock, unknown bit", UNLOCK, { LOCK_SLOT, BIT(1) } },
	{ "unlock, unknown bit, high", UNLOCK, { LOCK_SLOT, BIT_ULL(32) } },
	{ "unlock, args[2]", UNLOCK, { LOCK_SLOT, 0, BIT_ULL(32) } },
	{ "unlock, args[3]", UNLOCK, { LOCK_SLOT, 0, 0, 1 } },
	{ "unlock all, a slot", UNLOCK, { LOCK_SLOT, KVM_ARM_UNLOCK_MEM_ALL } },
	{ "unlock all, a slot, high", UNLOCK, { BIT_ULL(32), KVM_ARM_UNLOCK_MEM_ALL } },
	{ "unlock all, unknown bit", UNLOCK, { 0, KVM_ARM_UNLOCK_MEM_ALL | BIT(1) } },
	{ "unlock all, args[2]", UNLOCK, { 0, KVM_ARM_UNLOCK_MEM_ALL, 1 } },
	{ "unlock all, args[3]", UNLOCK, { 0, KVM_ARM_UNLOCK_MEM_ALL, 0, 1 } },
	{ "lock, slot with high bits", LOCK, { BIT_ULL(32) | LOCK_SLOT, MEMSLOT_LOCK_R } },
	{ "unlock, slot with high bits", UNLOCK, { BIT_ULL(32) | LOCK_SLOT } },
	{ "lock, address space", LOCK, { BIT(16) | LOCK_SLOT, MEMSLOT_LOCK_R } },
	{ "unlock, address space", UNLOCK, { BIT(16) | LOCK_SLOT } },
	{ "lock, all bits", LOCK, { ~0UL, MEMSLOT_LOCK_R } },
	{ "unlock, all bits", UNLOCK, { ~0UL } },
	{ "lock, no such slot", LOCK, { LOCK_SLOT + 1, MEMSLOT_LOCK_R } },
	{ "unlock, no such slot", UNLOCK, { LOCK_SLOT + 1 } },
};

static const char *check_args(const struct lock_vm *lvm, const struct bad_args *bad, bool locked)
{
	const char *failure;
	int ret;

	ret = __memslot_lock_cap(lvm->vm, bad->flags, bad->args[0], bad->args[1],
				 bad->args[2], bad->args[3]);
	if (!failed_with(ret, EINVAL))
		return lock_failed("%s: returns %d, errno %d", bad->name, ret, errno);

	failure = locked ? check_locked(lvm) : check_untouched(lvm);

	return failure ? lock_failed("%s: %s", bad->name, failure) : NULL;
}

static const char *run_args(struct lock_vm *lvm, bool locked)
{
	u64 nr_slots = kvm_check_cap(KVM_CAP_NR_MEMSLOTS);
	const struct bad_args slots[] = {
		{ "lock, first slot that can't be", LOCK, { nr_slots, MEMSLOT_LOCK_R } },
		{ "unlock, first slot that can't be", UNLOCK, { nr_slots } },
		{ "lock, last slot", LOCK, { nr_slots - 1, MEMSLOT_LOCK_R } },
		{ "unlock, last slot", UNLOCK, { nr_slots - 1 } },
	};
	const char *failure = NULL;
	int i;

	if (locked)
		memslot_lock(lvm->vm, LOCK_SLOT, MEMSLOT_LOCK_RW);

	for (i = 0; i < ARRAY_SIZE(bad_args) && !failure; i++)
		failure = check_args(lvm, &bad_args[i], locked);
	for (i = 0; i < ARRAY_SIZE(slots) && !failure; i++)
		failure = check_args(lvm, &slots[i], locked);
	if (failure)
		return failure;

	if (locked)
		memslot_unlock(lvm->vm, LOCK_SLOT);

	return check_lockable(lvm, MEMSLOT_LOCK_RW);
}

static const char *run_args_unlocked(struct lock_vm *lvm)
{
	return run_args(lvm, false);
}

static const char *run_args_locked(struct lock_vm *lvm)
{
	return run_args(lvm, true);
}

/* Those that came before, and those that are still to come. */
static const char *run_other_caps(struct lock_vm *lvm)
{
	static const u32 flags[] = { LOCK, UNLOCK, LOCK | UNLOCK, BIT(31) };
	struct kvm_enable_cap cap = {};
	int i;

	for (cap.cap = 0; cap.cap < KVM_CAP_ARM_LOCK_USER_MEMORY_REGION + 64; cap.cap++) {
		if (cap.cap == KVM_CAP_ARM_LOCK_USER_MEMORY_REGION)
			continue;

		for (i = 0; i < ARRAY_SIZE(flags); i++) {
			cap.flags = flags[i];
			if (!failed_with(__vm_ioctl(lvm->vm, KVM_ENABLE_CAP, &cap), EINVAL))
				return lock_failed("capability %u with flags 0x%x isn't refused",
						   cap.cap, cap.flags);
		}
	}

	return check_untouched(lvm);
}

/* The state of a memslot. */

static const char *run_twice(struct lock_vm *lvm)
{
	const char *failure;
	u64 nr_writes;
	int i, j;

	lock_vm_fill(lvm);
	for (i = 0; i < ARRAY_SIZE(all_perms); i++) {
		memslot_lock(lvm->vm, LOCK_SLOT, all_perms[i]);
		for (j = 0; j < ARRAY_SIZE(all_perms); j++) {
			if (!failed_with(__memslot_lock(lvm->vm, LOCK_SLOT, all_perms[j]), EBUSY))
				return lock_failed("%s, then %s isn't refused",
						   memslot_lock_name(all_perms[i]),
						   memslot_lock_name(all_perms[j]));
			failure = check_locked(lvm);
			if (failure)
				return failure;
		}

		/* It has the permissions of the first lock, and not of those that failed. */
		nr_writes = all_perms[i] == MEMSLOT_LOCK_R ? NR_PAGES : 0;
		failure = lock_vm_check_reads(lvm, 0, 0) ?:
			  lock_vm_check_writes(lvm, nr_writes, nr_writes);
		if (failure)
			return failure;

		memslot_unlock(lvm->vm, LOCK_SLOT);
		failure = lock_vm_check_unlocked(lvm);
		if (failure)
			return failure;
	}

	return NULL;
}

static const char *run_not_locked(struct lock_vm *lvm)
{
	const char *failure;
	int i;

	if (!failed_with(__memslot_unlock(lvm->vm, LOCK_SLOT), EINVAL))
		return "a memslot that never was locked is unlocked";
	failure = check_untouched(lvm);

	for (i = 0; i < ARRAY_SIZE(all_perms) && !failure; i++) {
		memslot_lock(lvm->vm, LOCK_SLOT, all_perms[i]);
		memslot_unlock(lvm->vm, LOCK_SLOT);
		if (!failed_with(__memslot_unlock(lvm->vm, LOCK_SLOT), EINVAL))
			return "a memslot is unlocked twice";
		failure = lock_vm_check_unlocked(lvm);
	}
	if (failure)
		return failure;

	vm_set_user_memory_region(lvm->vm, LOCK_SLOT, 0, lvm->gpa, 0, NULL);
	if (!failed_with(__memslot_unlock(lvm->vm, LOCK_SLOT), EINVAL))
		return "a memslot that was deleted is unlocked";
	if (!failed_with(__memslot_lock(lvm->vm, LOCK_SLOT, MEMSLOT_LOCK_R), EINVAL))
		return "a memslot that was deleted is locked";

	return check_untouched(lvm);
}

#define NR_SLOTS	3

static const char *run_unlock_all(struct lock_vm *lvm)
{
	void *hva = alloc((NR_SLOTS - 1) * slot_size);
	struct lock_usage usage = lvm->base;
	struct kvm_vm *vm = lvm->vm;
	const char *failure;
	int i;

	for (i = 1; i < NR_SLOTS; i++)
		vm_set_user_memory_region(vm, LOCK_SLOT + i, 0, lvm->gpa + i * slot_size,
					  slot_size, hva + (i - 1) * slot_size);

	if (__memslot_unlock_all(vm))
		return lock_failed("errno %d if none is locked", errno);
	failure = check_untouched(lvm);
	if (failure)
		return failure;

	/* The last one isn't locked. */
	memslot_lock(vm, LOCK_SLOT, MEMSLOT_LOCK_RW);
	memslot_lock(vm, LOCK_SLOT + 1, MEMSLOT_LOCK_R);
	usage.locked_vm += 2 * slot_size;
	usage.pins += 2 * NR_PAGES;
	if (!lock_usage_is(usage) || vm_get_stat(vm, locked_pages) != 2 * NR_PAGES)
		return "wrong number of pages that are locked";

	if (__memslot_unlock_all(vm))
		return lock_failed("errno %d if two are locked", errno);
	for (i = 0; i < NR_SLOTS; i++) {
		if (!failed_with(__memslot_unlock(vm, LOCK_SLOT + i), EINVAL))
			return "a memslot is still locked";
	}
	failure = lock_vm_check_unlocked(lvm);
	if (failure)
		return failure;

	if (__memslot_unlock_all(vm))
		return lock_failed("errno %d if none is locked any more", errno);
	for (i = 1; i < NR_SLOTS; i++)
		vm_set_user_memory_region(vm, LOCK_SLOT + i, 0, 0, 0, NULL);
	kvm_munmap(hva, (NR_SLOTS - 1) * slot_size);

	return check_lockable(lvm, MEMSLOT_LOCK_R);
}

/* The guest can't write to the memslot, and what it writes goes to the VMM. */
static const char *run_read_only(struct lock_vm *lvm)
{
	struct kvm_run *run = lvm->vcpu->run;
	const char *failure;

	if (!failed_with(__memslot_lock(lvm->vm, LOCK_SLOT, MEMSLOT_LOCK_RW), EPERM))
		return "is locked for writing";
	failure = check_untouched(lvm);
	if (failure)
		return failure;

	memslot_lock(lvm->vm, LOCK_SLOT, MEMSLOT_LOCK_R);
	lock_vm_fill(lvm);
	failure = check_locked(lvm) ?: lock_vm_check_reads(lvm, 0, 0);
	if (failure)
		return failure;

	mte_vcpu_prepare(lvm->vcpu, mte_write_data, lvm->gpa, 1, page_size, 0);
	vcpu_run(lvm->vcpu);
	if (run->exit_reason != KVM_EXIT_MMIO || !run->mmio.is_write ||
	    run->mmio.phys_addr != lvm->gpa)
		return "a write of the guest isn't MMIO";
	vcpu_run(lvm->vcpu);
	mte_vcpu_result(lvm->vcpu);

	failure = check_locked(lvm) ?: lock_vm_check_reads(lvm, 0, 0);
	if (failure)
		return failure;

	memslot_unlock(lvm->vm, LOCK_SLOT);

	return lock_vm_check_unlocked(lvm) ?: check_lockable(lvm, MEMSLOT_LOCK_R);
}

/* The guest could write to all of it, without anything being logged. */
static const struct log_mode {
	const char *name;
	/* Of KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 */
	u64 manual;
	bool ring;
	bool bitmap;
} log_modes[] = {
	{ "bitmap", 0, false, true },
	{ "bitmap, cleared manually", KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE, false, true },
	{ "bitmap, all set at first",
	  KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET, false, true },
	{ "ring", 0, true, false },
	{ "ring and bitmap", 0, true, true },
};

static const char *check_log_mode(struct lock_vm *lvm)
{
	struct kvm_vm *vm = lvm->vm;
	const char *failure;

	if (!failed_with(__memslot_lock(vm, LOCK_SLOT, MEMSLOT_LOCK_RW), EPERM))
		return "is locked for writing";
	failure = check_untouched(lvm) ?: check_lockable(lvm, MEMSLOT_LOCK_R);
	if (failure)
		return failure;

	vm_set_user_memory_region(vm, LOCK_SLOT, 0, lvm->gpa, lvm->size, lvm->hva);
	memslot_lock(vm, LOCK_SLOT, MEMSLOT_LOCK_RW);
	if (!failed_with(__vm_set_user_memory_region(vm, LOCK_SLOT, KVM_MEM_LOG_DIRTY_PAGES,
						     lvm->gpa, lvm->size, lvm->hva), EBUSY))
		return "can be enabled for a memslot that is locked for writing";
	failure = check_locked(lvm);
	if (failure)
		return failure;
	memslot_unlock(vm, LOCK_SLOT);

	return lock_vm_check_unlocked(lvm);
}

static void run_log_mode(const struct log_mode *mode)
{
	struct kvm_vm *vm = vm_create_barebones();
	void *hva = alloc(slot_size);
	const char *failure;
	struct lock_vm lvm;

	if (mode->ring && !vm_check_cap(vm, KVM_CAP_DIRTY_LOG_RING_ACQ_REL)) {
		ksft_test_result_skip("dirty logging, %s: KVM has no dirty ring\n", mode->name);
		kvm_vm_free(vm);
		goto out;
	}

	if (mode->manual)
		vm_enable_cap(vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, mode->manual);
	if (mode->ring)
		vm_enable_dirty_ring(vm, SZ_64K * sizeof(struct kvm_dirty_gfn));
	if (mode->ring && mode->bitmap)
		vm_enable_cap(vm, KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP, 0);

	lock_vm_init(&lvm, vm, NULL, KVM_MEM_LOG_DIRTY_PAGES, MTE_TEST_GPA, hva, slot_size);
	failure = check_log_mode(&lvm);
	ksft_test_result(!failure, "dirty logging, %s%s%s\n", mode->name,
			 failure ? ": " : "", failure ?: "");
	lock_vm_free(&lvm);
out:
	kvm_munmap(hva, slot_size);
}

/* Changes to a memslot that is locked, while a vCPU reads it. */

#define NR_ROUNDS	50

static const struct change {
	const char *name;
	u32 flags;
	/* In pages */
	int moved;
	int size;
	bool other_memory;
	int err;
	int err_r;
} changes[] = {
	{ "nothing changed", 0, 0, NR_PAGES, false, 0, 0 },
	{ "deleted", 0, 0, 0, false, EBUSY, EBUSY },
	{ "moved", 0, 2 * NR_PAGES, NR_PAGES, false, EBUSY, EBUSY },
	{ "moved by a page", 0, 1, NR_PAGES, false, EBUSY, EBUSY },
	{ "moved, logs dirty pages", KVM_MEM_LOG_DIRTY_PAGES, 2 * NR_PAGES, NR_PAGES, false,
	  EBUSY, EBUSY },
	{ "logs dirty pages", KVM_MEM_LOG_DIRTY_PAGES, 0, NR_PAGES, false, EBUSY, 0 },
	{ "read-only", KVM_MEM_READONLY, 0, NR_PAGES, false, EINVAL, EINVAL },
	{ "larger", 0, 0, 2 * NR_PAGES, false, EINVAL, EINVAL },
	{ "smaller", 0, 0, NR_PAGES / 2, false, EINVAL, EINVAL },
	{ "other memory", 0, 0, NR_PAGES, true, EINVAL, EINVAL },
};

static int make_change(const struct lock_vm *lvm, const struct change *change)
{
	return __vm_set_user_memory_region(lvm->vm, LOCK_SLOT, change->flags,
					   lvm->gpa + change->moved * page_size,
					   change->size * page_size,
					   lvm->hva + (change->other_memory ? page_size : 0));
}

struct reader {
	const struct lock_vm *lvm;
	bool stop;
	u64 passes;
	u64 faults;
	const char *failure;
};

static void *read_all_the_time(void *arg)
{
	struct reader *reader = arg;
	const struct lock_vm *lvm = reader->lvm;
	int fd = guest_faults_open_range(0, lvm->gpa, lvm->size);
	struct ucall uc;

	TEST_ASSERT(fd >= 0, "Can't count guest faults, errno %d", errno);
	kvm_sched_setaffinity(0, sizeof(all_cpus), &all_cpus);

	while (!READ_ONCE(reader->stop) && !reader->failure) {
		mte_vcpu_prepare(lvm->vcpu, mte_count_wrong_addrs, lvm->gpa, NR_PAGES,
				 page_size, 0);
		if (_vcpu_run(lvm->vcpu))
			reader->failure = "KVM_RUN fails";
		else if (get_ucall(lvm->vcpu, &uc) != UCALL_SYNC)
			reader->failure = "a read of the guest exits";
		else if (uc.args[1])
			reader->failure = "the guest reads wrong data";
		WRITE_ONCE(reader->passes, reader->passes + 1);
	}

	reader->faults = guest_faults(fd);
	kvm_close(fd);

	return NULL;
}

static const char *check_changes(const struct lock_vm *lvm, u64 perms)
{
	int i, ret, err;

	for (i = 0; i < ARRAY_SIZE(changes); i++) {
		err = perms == MEMSLOT_LOCK_R ? changes[i].err_r : changes[i].err;
		ret = make_change(lvm, &changes[i]);
		if (err ? !failed_with(ret, err) : ret)
			return lock_failed("%s: returns %d, errno %d", changes[i].name, ret, errno);
		/* What was allowed is undone. */
		if (!err && make_change(lvm, &changes[0]))
			return lock_failed("%s: can't be undone, errno %d", changes[i].name, errno);
	}

	return NULL;
}

static const char *run_changes(struct lock_vm *lvm, u64 perms)
{
	struct reader reader = { .lvm = lvm };
	const char *failure = NULL;
	pthread_t thread;
	int i;

	lock_vm_fill(lvm);
	memslot_lock(lvm->vm, LOCK_SLOT, perms);

	kvm_pthread_create(&thread, NULL, read_all_the_time, &reader);
	for (i = 0; i < NR_ROUNDS && !failure && !READ_ONCE(reader.failure); i++) {
		/* The vCPU is in the guest most of the time. */
		while (!i && !READ_ONCE(reader.passes))
			usleep(1000);
		failure = check_changes(lvm, perms);
		usleep(100);
	}
	WRITE_ONCE(reader.stop, true);
	kvm_pthread_join(thread, NULL);

	failure = failure ?: reader.failure;
	if (failure)
		return failure;
	if (reader.faults)
		return lock_failed("%lu faults of the guest", reader.faults);

	failure = check_locked(lvm);
	if (failure)
		return failure;

	/* It was the lock that was in the way. Deleting the memslot comes last. */
	memslot_unlock(lvm->vm, LOCK_SLOT);
	for (i = 0; i < ARRAY_SIZE(changes); i++) {
		if (changes[i].err != EBUSY || !changes[i].size)
			continue;
		if (make_change(lvm, &changes[i]) || make_change(lvm, &changes[0]))
			return lock_failed("%s: fails without a lock, errno %d", changes[i].name,
					   errno);
	}
	vm_set_user_memory_region(lvm->vm, LOCK_SLOT, 0, lvm->gpa, 0, NULL);

	return lock_vm_check_unlocked(lvm);
}

static const char *run_changes_r(struct lock_vm *lvm)
{
	return run_changes(lvm, MEMSLOT_LOCK_R);
}

static const char *run_changes_rw(struct lock_vm *lvm)
{
	return run_changes(lvm, MEMSLOT_LOCK_RW);
}

/* RLIMIT_MEMLOCK. */

static const char *check_limit(const struct lock_vm *lvm)
{
	u64 exact = lvm->base.locked_vm + lvm->size;
	const u64 too_small[] = { 0, exact - page_size, exact - 1 };
	const char *failure;
	int i;

	for (i = 0; i < ARRAY_SIZE(too_small); i++) {
		lock_set_limit(too_small[i]);
		if (!failed_with(__memslot_lock(lvm->vm, LOCK_SLOT, MEMSLOT_LOCK_RW), ENOMEM))
			return lock_failed("%lu bytes can be locked, limit %lu", exact,
					   too_small[i]);
		failure = check_untouched(lvm);
		if (failure)
			return failure;
	}

	lock_set_limit(exact);

	return check_lockable(lvm, MEMSLOT_LOCK_RW) ?: check_lockable(lvm, MEMSLOT_LOCK_R);
}

static const char *check_limit_bypass(const struct lock_vm *lvm)
{
	lock_set_limit(0);

	return check_lockable(lvm, MEMSLOT_LOCK_RW);
}

/* Memory is memory, whoever locks it. */
static const char *check_limit_mlock(const struct lock_vm *lvm)
{
	u64 exact = lvm->base.locked_vm + lvm->size;
	struct lock_vm both = *lvm;
	void *page = alloc(page_size);
	const char *failure;

	both.base.locked_vm += page_size;

	lock_set_limit(exact);
	TEST_ASSERT(!mlock(page, page_size), "mlock() failed, errno %d", errno);
	if (!failed_with(__memslot_lock(lvm->vm, LOCK_SLOT, MEMSLOT_LOCK_RW), ENOMEM))
		return "mlock() doesn't count";
	failure = check_untouched(&both);
	if (failure)
		return failure;

	munlock(page, page_size);
	memslot_lock(lvm->vm, LOCK_SLOT, MEMSLOT_LOCK_RW);
	if (!failed_with(mlock(page, page_size), ENOMEM))
		return "it doesn't count for mlock()";
	failure = check_locked(lvm);
	if (failure)
		return failure;
	memslot_unlock(lvm->vm, LOCK_SLOT);

	lock_set_limit(exact + page_size);
	TEST_ASSERT(!mlock(page, page_size), "mlock() failed, errno %d", errno);
	failure = check_lockable(&both, MEMSLOT_LOCK_RW);
	kvm_munmap(page, page_size);

	return failure ?: lock_vm_check_unlocked(lvm);
}

struct locker {
	struct kvm_vm *vm;
	u64 slot;
	pthread_barrier_t *barrier;
	int ret;
	int err;
};

static void *lock_one(void *arg)
{
	struct locker *locker = arg;

	kvm_sched_setaffinity(0, sizeof(all_cpus), &all_cpus);
	pthread_barrier_wait(locker->barrier);
	locker->ret = __memslot_lock(locker->vm, locker->slot, MEMSLOT_LOCK_RW);
	locker->err = errno;

	return NULL;
}

/* Two memslots, of which one can be locked. */
static const char *check_limit_race(const struct lock_vm *lvm)
{
	struct locker lockers[2];
	pthread_barrier_t barrier;
	const char *failure = NULL;
	pthread_t threads[2];
	int round, i;
	void *hva;

	hva = alloc(slot_size);
	vm_set_user_memory_region(lvm->vm, LOCK_SLOT + 1, 0, lvm->gpa + slot_size,
				  slot_size, hva);
	lock_set_limit(lvm->base.locked_vm + slot_size);
	pthread_barrier_init(&barrier, NULL, 2);

	for (round = 0; round < NR_ROUNDS && !failure; round++) {
		for (i = 0; i < 2; i++) {
			lockers[i] = (struct locker) {
				.vm		= lvm->vm,
				.slot		= LOCK_SLOT + i,
				.barrier	= &barrier,
			};
			kvm_pthread_create(&threads[i], NULL, lock_one, &lockers[i]);
		}
		for (i = 0; i < 2; i++)
			kvm_pthread_join(threads[i], NULL);

		/* Which one it is doesn't matter. */
		i = !!lockers[0].ret;
		if (lockers[i].ret || lockers[!i].ret != -1 || lockers[!i].err != ENOMEM)
			return lock_failed("returns %d and %d, errno %d and %d", lockers[0].ret,
					   lockers[1].ret, lockers[0].err, lockers[1].err);
		memslot_unlock(lvm->vm, LOCK_SLOT + i);
		failure = lock_vm_check_unlocked(lvm);
	}

	pthread_barrier_destroy(&barrier);
	vm_set_user_memory_region(lvm->vm, LOCK_SLOT + 1, 0, 0, 0, NULL);
	kvm_munmap(hva, slot_size);

	return failure;
}

static const char *run_limited(struct lock_vm *lvm, bool bypass,
			       const char *(*check)(const struct lock_vm *lvm))
{
	struct rlimit saved;
	const char *failure;

	TEST_ASSERT(!getrlimit(RLIMIT_MEMLOCK, &saved), "getrlimit() failed, errno %d", errno);
	if (!bypass)
		lock_set_cap(false);

	failure = check(lvm);

	setrlimit(RLIMIT_MEMLOCK, &saved);
	if (!bypass)
		lock_set_cap(true);

	return failure;
}

static const char *run_limit(struct lock_vm *lvm)
{
	return run_limited(lvm, false, check_limit);
}

static const char *run_limit_bypass(struct lock_vm *lvm)
{
	return run_limited(lvm, true, check_limit_bypass);
}

static const char *run_limit_mlock(struct lock_vm *lvm)
{
	return run_limited(lvm, false, check_limit_mlock);
}

static const char *run_limit_race(struct lock_vm *lvm)
{
	return run_limited(lvm, false, check_limit_race);
}

static const struct testcase {
	const char *name;
	const char *(*run)(struct lock_vm *lvm);
	u32 flags;
} testcases[] = {
	{ "wrong arguments, not locked", run_args_unlocked },
	{ "wrong arguments, locked", run_args_locked },
	{ "flags of other capabilities", run_other_caps },
	{ "locked twice", run_twice },
	{ "unlocked without being locked", run_not_locked },
	{ "all unlocked at once", run_unlock_all },
	{ "read-only memslot", run_read_only, KVM_MEM_READONLY },
	{ "changes while locked for reading", run_changes_r },
	{ "changes while locked for writing", run_changes_rw },
	{ "RLIMIT_MEMLOCK", run_limit },
	{ "CAP_IPC_LOCK", run_limit_bypass },
	{ "RLIMIT_MEMLOCK and mlock()", run_limit_mlock },
	{ "RLIMIT_MEMLOCK, two threads", run_limit_race },
};

static void run_test(const struct testcase *test)
{
	void *hva = alloc(slot_size);
	const char *failure;
	struct lock_vm lvm;

	lock_vm_create(&lvm, false, test->flags, MTE_TEST_GPA, hva, slot_size);
	failure = test->run(&lvm);
	ksft_test_result(!failure, "%s%s%s\n", test->name, failure ? ": " : "", failure ?: "");

	lock_vm_free(&lvm);
	kvm_munmap(hva, slot_size);
}

/* More vCPUs than a thread can lock with lockdep. No call is to need all of their locks. */

#define MANY_VCPUS	64

static void run_many_vcpus(void)
{
	struct kvm_vcpu *vcpus[MANY_VCPUS];
	void *hva = alloc(slot_size);
	const char *failure = NULL;
	struct lock_vm lvm;
	struct kvm_vm *vm;
	int i, round;

	if (kvm_check_cap(KVM_CAP_MAX_VCPUS) < MANY_VCPUS) {
		ksft_test_result_skip("%d vCPUs: a VM can't have as many\n", MANY_VCPUS);
		kvm_munmap(hva, slot_size);
		return;
	}

	vm = __vm_create(VM_SHAPE_DEFAULT, MANY_VCPUS, slot_size / SZ_4K);
	mte_vm_add_vcpus(vm, MANY_VCPUS, vcpus);
	lock_vm_init(&lvm, vm, vcpus[0], 0, MTE_TEST_GPA, hva, slot_size);
	virt_map(vm, MTE_TEST_GPA, MTE_TEST_GPA, slot_size / vm->page_size);

	/* Before any of them has run, and then with all of them loaded before. */
	for (round = 0; round < 2 && !failure; round++) {
		memslot_lock(vm, LOCK_SLOT, MEMSLOT_LOCK_RW);
		failure = check_locked(&lvm);
		for (i = 0; i < MANY_VCPUS && !failure; i++) {
			lvm.vcpu = vcpus[i];
			failure = lock_vm_check_writes(&lvm, 0, 0);
		}
		memslot_unlock(vm, LOCK_SLOT);
		failure = failure ?: lock_vm_check_unlocked(&lvm);
	}
	ksft_test_result(!failure, "%d vCPUs%s%s\n", MANY_VCPUS, failure ? ": " : "",
			 failure ?: "");

	lock_vm_free(&lvm);
	kvm_munmap(hva, slot_size);
}

/* The capability, and the one thing that is to be said of a host in protected mode. */

/*
 * The library has no VMs that are protected. It takes no more than the file descriptor
 * to make calls, though.
 */
static struct kvm_vm create_vm_of_type(unsigned long type)
{
	unsigned int ipa_bits = kvm_check_cap(KVM_CAP_ARM_VM_IPA_SIZE);
	int kvm_fd = open_kvm_dev_path_or_exit();
	struct kvm_vm vm = {};

	if (ipa_bits)
		type |= KVM_VM_TYPE_ARM_IPA_SIZE(ipa_bits);
	vm.fd = ioctl(kvm_fd, KVM_CREATE_VM, type);
	kvm_close(kvm_fd);

	return vm;
}

/* In no other mode is there such a VM. */
static bool is_protected_mode(void)
{
	struct kvm_vm vm = create_vm_of_type(KVM_VM_TYPE_ARM_PROTECTED);

	if (vm.fd < 0)
		return false;

	kvm_close(vm.fd);

	return true;
}

static const char *check_protected(unsigned long type)
{
	struct kvm_vm vm = create_vm_of_type(type);
	struct lock_usage base = lock_usage();
	void *hva = alloc(slot_size);
	const char *failure = NULL;

	TEST_ASSERT(vm.fd >= 0, "Can't create a VM of type 0x%lx, errno %d", type, errno);
	vm_set_user_memory_region(&vm, LOCK_SLOT, 0, MTE_TEST_GPA, slot_size, hva);

	if (vm_check_cap(&vm, KVM_CAP_ARM_LOCK_USER_MEMORY_REGION))
		failure = "is offered to a VM";
	else if (!failed_with(__memslot_lock(&vm, LOCK_SLOT, MEMSLOT_LOCK_R), EINVAL) ||
		 !failed_with(__memslot_lock(&vm, LOCK_SLOT, MEMSLOT_LOCK_RW), EINVAL))
		failure = "locks a memslot";
	else if (!failed_with(__memslot_unlock(&vm, LOCK_SLOT), EINVAL) ||
		 !failed_with(__memslot_unlock_all(&vm), EINVAL))
		failure = "unlocks a memslot";
	else if (!lock_usage_is(base))
		failure = "memory is locked or pinned";

	kvm_close(vm.fd);
	kvm_munmap(hva, slot_size);

	return failure;
}

static void run_capability(bool protected)
{
	struct kvm_vm *vm = vm_create_barebones();
	const char *failure = NULL;

	if (protected)
		failure = check_protected(VM_TYPE_DEFAULT) ?:
			  check_protected(KVM_VM_TYPE_ARM_PROTECTED);
	else if (kvm_check_cap(KVM_CAP_ARM_LOCK_USER_MEMORY_REGION) != 1 ||
		 vm_check_cap(vm, KVM_CAP_ARM_LOCK_USER_MEMORY_REGION) != 1)
		failure = "isn't 1";

	ksft_test_result(!failure, "capability%s%s\n", failure ? ": " : "", failure ?: "");
	kvm_vm_free(vm);
}

int main(void)
{
	int nr_cases = ARRAY_SIZE(testcases) + ARRAY_SIZE(log_modes) + 1, i;
	bool protected;

	ksft_print_header();
	page_size = getpagesize();
	slot_size = NR_PAGES * page_size;

	protected = !kvm_check_cap(KVM_CAP_ARM_LOCK_USER_MEMORY_REGION) && is_protected_mode();
	if (!protected)
		memslot_lock_require();

	ksft_set_plan(1 + nr_cases);
	run_capability(protected);
	if (protected) {
		while (nr_cases--)
			ksft_test_result_skip("KVM doesn't lock memslots in protected mode\n");
		ksft_finished();
	}

	/* On one CPU there is no TLB but its own that has what was mapped before. */
	kvm_sched_getaffinity(0, sizeof(all_cpus), &all_cpus);
	pin_self_to_any_cpu();

	for (i = 0; i < ARRAY_SIZE(testcases); i++)
		run_test(&testcases[i]);
	for (i = 0; i < ARRAY_SIZE(log_modes); i++)
		run_log_mode(&log_modes[i]);
	run_many_vcpus();

	ksft_finished();
}
