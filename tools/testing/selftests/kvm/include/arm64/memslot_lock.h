/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Locked memslots (KVM_CAP_ARM_LOCK_USER_MEMORY_REGION): the calls, what they cost the
 * process, the stage-2 faults that a guest takes in spite of them, and checks of all that.
 */
#ifndef SELFTEST_KVM_ARM64_MEMSLOT_LOCK_H
#define SELFTEST_KVM_ARM64_MEMSLOT_LOCK_H

#include <linux/sizes.h>

#include "kvm_util.h"
#include "mte.h"

#define MEMSLOT_LOCK_R		KVM_ARM_LOCK_MEM_READ
#define MEMSLOT_LOCK_RW		(KVM_ARM_LOCK_MEM_READ | KVM_ARM_LOCK_MEM_WRITE)

static inline const char *memslot_lock_name(u64 perms)
{
	return perms & KVM_ARM_LOCK_MEM_WRITE ? "RW" : "R";
}

/* As the ioctl, with the errno left to the caller. */

int __memslot_lock_cap(struct kvm_vm *vm, u32 flags, u64 arg0, u64 arg1, u64 arg2, u64 arg3);

static inline int __memslot_lock(struct kvm_vm *vm, u64 slot, u64 perms)
{
	return __memslot_lock_cap(vm, KVM_ARM_LOCK_USER_MEMORY_REGION_FLAGS_LOCK,
				  slot, perms, 0, 0);
}

static inline int __memslot_unlock(struct kvm_vm *vm, u64 slot)
{
	return __memslot_lock_cap(vm, KVM_ARM_LOCK_USER_MEMORY_REGION_FLAGS_UNLOCK,
				  slot, 0, 0, 0);
}

static inline int __memslot_unlock_all(struct kvm_vm *vm)
{
	return __memslot_lock_cap(vm, KVM_ARM_LOCK_USER_MEMORY_REGION_FLAGS_UNLOCK,
				  0, KVM_ARM_UNLOCK_MEM_ALL, 0, 0);
}

/* The same where anything but success ends the test. */

void memslot_lock(struct kvm_vm *vm, u64 slot, u64 perms);
void memslot_unlock(struct kvm_vm *vm, u64 slot);

/**
 * struct lock_usage - What locking takes of the process and of the host
 * @locked_vm:	Locked memory of this process, in bytes.
 * @pins:	Pages that are pinned by anybody.
 */
struct lock_usage {
	u64	locked_vm;
	long	pins;
};

struct lock_usage lock_usage(void);
bool lock_usage_is(struct lock_usage expected);
void lock_set_limit(u64 bytes);
void lock_set_cap(bool on);

int guest_faults_open(pid_t tid);
int guest_faults_open_range(pid_t tid, gpa_t gpa, u64 size);
int lock_faults_open(void);
u64 guest_faults(int fd);

/* Number of the memslot of a struct lock_vm. */
#define LOCK_SLOT	1

/**
 * struct lock_vm - A VM with a memslot that is to be locked
 * @vm:		The VM.
 * @vcpu:	A vCPU that runs functions on request of mte_vcpu_call(), or NULL.
 * @gpa:	Start of the memslot in the guest.
 * @hva:	Start of the memslot in the VMM.
 * @size:	Size of the memslot in bytes.
 * @nr_pages:	Its size in pages of the host.
 * @faults:	Counts the faults on the memslot that a vCPU takes when run by the
 *		thread that called lock_vm_init(), see guest_faults().
 * @base:	What was locked and pinned before.
 */
struct lock_vm {
	struct kvm_vm		*vm;
	struct kvm_vcpu		*vcpu;
	gpa_t			gpa;
	void			*hva;
	size_t			size;
	u64			nr_pages;
	int			faults;
	struct lock_usage	base;
};

void memslot_lock_require(void);
void lock_stop_numa_balancing(void);
void lock_vm_init(struct lock_vm *lvm, struct kvm_vm *vm, struct kvm_vcpu *vcpu, u32 flags,
		  gpa_t gpa, void *hva, size_t size);
void lock_vm_create(struct lock_vm *lvm, bool mte, u32 flags, gpa_t gpa, void *hva,
		    size_t size);
void lock_vm_free(struct lock_vm *lvm);
void lock_fill(void *hva, gpa_t gpa, size_t size);
void lock_vm_fill(const struct lock_vm *lvm);
u64 lock_guest_write_forever(u64 addr, u64 nr_pages, u64 stride, u64 unused);

/* Checks, which return NULL or what is wrong. */

__printf(1, 2) const char *lock_failed(const char *fmt, ...);
const char *lock_vm_check_leaves(const struct lock_vm *lvm, u64 nr_blocks, u64 nr_pages);
const char *lock_vm_check_held(const struct lock_vm *lvm, u64 min_pins);
const char *lock_vm_check_locked(const struct lock_vm *lvm, u64 nr_blocks, u64 nr_pages);
const char *lock_vm_check_unlocked(const struct lock_vm *lvm);
const char *lock_vm_check_lockable(const struct lock_vm *lvm, u64 perms, u64 nr_blocks,
				   u64 nr_pages);
const char *lock_vm_check_reads(const struct lock_vm *lvm, u64 min_faults, u64 max_faults);
const char *lock_vm_check_writes(const struct lock_vm *lvm, u64 min_faults, u64 max_faults);

/* Memory. */

/**
 * struct lock_kind - A kind of memory
 * @name:	What it is called.
 * @type:	What it is.
 * @blocks:	The VMM maps it by blocks of pmd_size().
 * @hugetlb:	It is of hugetlb.
 * @shared:	It isn't private.
 */
struct lock_kind {
	const char		*name;
	enum mte_mem_type	type;
	bool			blocks;
	bool			hugetlb;
	bool			shared;
};

enum {
	LOCK_ANON,
	LOCK_MEMFD,
	LOCK_THP,
	LOCK_MEMFD_THP,
	LOCK_HUGETLB,
	LOCK_MEMFD_HUGETLB,
	LOCK_NR_KINDS,
};

extern const struct lock_kind lock_kinds[LOCK_NR_KINDS];

/* How much there is of it: pages, or blocks if it has them. */
#define LOCK_NR_PAGES	16
#define LOCK_NR_BLOCKS	2

/* A larger one is too large for tests to have several: with 64K pages it is 512M. */
#define LOCK_MAX_BLOCK	SZ_64M

const char *lock_mem_alloc(struct mte_mem *mem, const struct lock_kind *kind, u64 nr_blocks,
			   bool populate);

/**
 * struct lock_env - A memslot that is locked, and what has happened to it since
 * @kind:	What its memory is.
 * @perms:	How it is locked.
 * @mem:	The memory, all of it populated before.
 * @lvm:	The VM.
 * @nr_blocks:	Blocks at stage 2 when it was locked.
 * @nr_pages:	Pages at stage 2 when it was locked.
 * @frames:	The page frames that were pinned.
 * @zapped:	Statistics from before anything happens.
 * @repaired:	Likewise.
 * @changed:	Likewise.
 */
struct lock_env {
	const struct lock_kind	*kind;
	u64			perms;
	struct mte_mem		mem;
	struct lock_vm		lvm;
	u64			nr_blocks;
	u64			nr_pages;
	struct page_frames	frames;
	u64			zapped;
	u64			repaired;
	u64			changed;
};

void lock_env_start(struct lock_env *env);
u64 lock_env_zapped(const struct lock_env *env);
u64 lock_env_repaired(const struct lock_env *env);
u64 lock_env_changed(const struct lock_env *env);
const char *lock_env_wait_repaired(const struct lock_env *env, u64 min, u64 nr_blocks,
				   u64 nr_pages);
const char *lock_env_wait_changed(const struct lock_env *env, u64 nr);
const char *lock_env_check_frames(const struct lock_env *env, u64 expected);
const char *lock_env_check_held(const struct lock_env *env);
const char *lock_env_check_use(const struct lock_env *env);
const char *lock_env_check_unlock(const struct lock_env *env);

/* What has come of a case: why it could not be tried, what is wrong, or neither. */
struct lock_outcome {
	const char	*skip;
	const char	*failure;
};

static inline struct lock_outcome lock_skipped(const char *reason)
{
	return (struct lock_outcome) { .skip = reason };
}

static inline struct lock_outcome lock_ended(const char *failure)
{
	return (struct lock_outcome) { .failure = failure };
}

/**
 * struct lock_case - A case
 * @name:	What it is called.
 * @kinds:	Bitmap of the kinds of memory that it is tried with.
 * @prepare:	Called before the memslot is locked, or NULL. Returns NULL, or why the
 *		case can't be tried.
 * @run:	Called with the memslot locked.
 * @arg:	For @run.
 */
struct lock_case {
	const char		*name;
	u64			kinds;
	const char		*(*prepare)(struct lock_env *env);
	struct lock_outcome	(*run)(struct lock_env *env, const void *arg);
	const void		*arg;
};

struct lock_outcome lock_case_run(const struct lock_case *test, const struct lock_kind *kind,
				  u64 perms);

/* Inline, since the counters are those of the file. */
static inline void lock_case_run_all(const struct lock_case *test)
{
	static const u64 perms[] = { MEMSLOT_LOCK_R, MEMSLOT_LOCK_RW };
	struct lock_outcome outcome;
	char name[128];
	int i, j;

	for (i = 0; i < LOCK_NR_KINDS; i++) {
		for (j = 0; j < ARRAY_SIZE(perms) && test->kinds & BIT(i); j++) {
			snprintf(name, sizeof(name), "%s, %s, %s", test->name,
				 lock_kinds[i].name, memslot_lock_name(perms[j]));
			outcome = lock_case_run(test, &lock_kinds[i], perms[j]);
			if (outcome.skip)
				ksft_test_result_skip("%s: %s\n", name, outcome.skip);
			else
				ksft_test_result(!outcome.failure, "%s%s%s\n", name,
						 outcome.failure ? ": " : "",
						 outcome.failure ?: "");
		}
	}
}

/* A test that is nothing but such cases. */
static inline void lock_cases_main(const struct lock_case *cases, int nr_cases)
{
	int i, nr = 0;

	ksft_print_header();
	memslot_lock_require();

	/* Each kind of memory is locked in two ways. */
	for (i = 0; i < nr_cases; i++)
		nr += 2 * __builtin_popcountl(cases[i].kinds);
	ksft_set_plan(nr);

	/* On one CPU there is no TLB but its own that has what was mapped before. */
	pin_self_to_any_cpu();

	for (i = 0; i < nr_cases; i++)
		lock_case_run_all(&cases[i]);

	ksft_finished();
}

#endif /* SELFTEST_KVM_ARM64_MEMSLOT_LOCK_H */
