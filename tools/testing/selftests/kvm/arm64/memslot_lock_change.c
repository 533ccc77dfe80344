// SPDX-License-Identifier: GPL-2.0-only
/*
 * memslot_lock_change - Check what becomes of a locked memslot when the VMM changes how
 * the memory is mapped, or a page of it is poisoned.
 *
 * The guest must not keep what the VMM no longer has. If memory was unmapped, discarded as
 * a balloon does it, replaced, moved or protected, stage 2 must not map it any longer,
 * and KVM must not map it again on its own: it is counted, and the guest gets what any
 * other memslot would get, which is another page, or an exit. The pages that were pinned
 * stay pinned, and accounted, until the memslot is unlocked. What the VMM has not changed
 * must be mapped, even if it was part of the same block. If the VMM undoes the change, all
 * of it must be mapped.
 *
 * A broken kernel leaves the guest with pages that the VMM has given away, maps what the
 * VMM has taken away, doesn't report that something has changed, or doesn't give back pages
 * that the VMM has replaced.
 */
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <linux/userfaultfd.h>

#include "kvm_util.h"
#include "memslot_kinds.h"
#include "memslot_lock.h"
#include "mte.h"
#include "processor.h"
#include "test_util.h"

#define ANON		BIT(LOCK_ANON)
#define MEMFD		BIT(LOCK_MEMFD)
#define THP		BIT(LOCK_THP)
#define HUGETLB		BIT(LOCK_HUGETLB)
#define MEMFD_HUGETLB	BIT(LOCK_MEMFD_HUGETLB)

/* If it is one page, the one that is changed. */
#define CHANGED_PAGE	3

static size_t page_size;

/* Access to memory that can't be had. */

static const char *check_denied(struct lock_env *env, u64 offset, bool write)
{
	struct kvm_vcpu *vcpu = env->lvm.vcpu;
	struct kvm_run *run = vcpu->run;
	gpa_t gpa = env->lvm.gpa + offset;

	if (write)
		mte_vcpu_prepare(vcpu, mte_write_data, gpa + sizeof(u64), 1, 0, 0);
	else
		mte_vcpu_prepare(vcpu, mte_guest_read, gpa, 0, 0, 0);

	if (!failed_with(_vcpu_run(vcpu), EFAULT))
		return write ? "the guest can write to it" : "the guest can read it";
	if (run->exit_reason != KVM_EXIT_MEMORY_FAULT || run->memory_fault.gpa != gpa)
		return lock_failed("exits with reason %u (%s), address 0x%llx", run->exit_reason,
				   exit_reason_str(run->exit_reason), run->memory_fault.gpa);

	return NULL;
}

/* What the guest was about to do when it was denied. */
static u64 complete_access(struct lock_env *env)
{
	vcpu_run(env->lvm.vcpu);

	return mte_vcpu_result(env->lvm.vcpu);
}

/* The memory is the same as before, and mapped as before. */
static const char *check_restored(struct lock_env *env)
{
	return lock_env_check_use(env) ?:
	       lock_vm_check_leaves(&env->lvm, env->nr_blocks, env->nr_pages) ?:
	       lock_env_check_frames(env, env->lvm.nr_pages) ?:
	       lock_env_check_held(env) ?:
	       lock_env_check_unlock(env);
}

/* Memory that the VMM unmaps, or puts something else in the place of. */

struct change {
	/* Returns NULL, or why it can't be done here. */
	const char *(*make)(struct lock_env *env, void *addr, size_t size);
	/* Has a guest that is denied access go on, or NULL if it gets other pages. */
	void (*mend)(struct lock_env *env, void *addr, size_t size);
	bool one_page;
	/* In the end there are the pages that were pinned, and not pages of zeros. */
	bool same_pages;
};

static const char *discard(struct lock_env *env, void *addr, size_t size)
{
	const char *reason = NULL;

	/* Those that take the place of others, which remain. */
	if (env->kind->hugetlb)
		reason = hugetlb_reserve(pmd_size(), LOCK_NR_BLOCKS);
	if (!reason)
		kvm_madvise(addr, size, env->kind->shared ? MADV_REMOVE : MADV_DONTNEED);

	return reason;
}

static const char *unmap(struct lock_env *env, void *addr, size_t size)
{
	kvm_munmap(addr, size);

	return NULL;
}

static const char *replace(struct lock_env *env, void *addr, size_t size)
{
	memslot_map_anon(addr, size);

	return NULL;
}

/* KVM finds a page wherever it looks, and has to see that it isn't the one it knows. */
static const char *replace_by_pages(struct lock_env *env, void *addr, size_t size)
{
	memslot_map_anon(addr, size);
	memset(addr, 0, size);

	return NULL;
}

static void fill_hole(struct lock_env *env, void *addr, size_t size)
{
	memslot_map_anon(addr, size);
}

static const char *truncate_file(struct lock_env *env, void *addr, size_t size)
{
	kvm_ftruncate(env->mem.fd, 0);

	return NULL;
}

static void extend_file(struct lock_env *env, void *addr, size_t size)
{
	kvm_ftruncate(env->mem.fd, env->mem.size);
}

static void *other_place;

static void move(void *from, void *to, size_t size)
{
	TEST_ASSERT(mremap(from, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to,
		    "mremap() failed, errno %d", errno);
}

static const char *move_away(struct lock_env *env, void *addr, size_t size)
{
	other_place = kvm_mmap(size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	move(addr, other_place, size);

	return NULL;
}

static void move_back(struct lock_env *env, void *addr, size_t size)
{
	move(other_place, addr, size);
}

/* Does the guest have what the VMM has now, and what it had of the rest? */
static const char *check_new_pages(struct lock_env *env, u64 first, u64 nr)
{
	u64 faults = guest_faults(env->lvm.faults), wrong, other_wrong;
	struct kvm_vcpu *vcpu = env->lvm.vcpu;
	gpa_t gpa = env->lvm.gpa;

	wrong = mte_vcpu_call(vcpu, mte_count_wrong_data, gpa + first * page_size, nr,
			      page_size, 0);
	if (wrong)
		return lock_failed("the guest sees wrong data in %lu of %lu new pages", wrong, nr);
	if (guest_faults(env->lvm.faults) - faults > nr)
		return "the guest takes several faults on a page";

	faults = guest_faults(env->lvm.faults);
	other_wrong = mte_vcpu_call(vcpu, mte_count_wrong_addrs, gpa, first, page_size, 0);
	first += nr;
	other_wrong += mte_vcpu_call(vcpu, mte_count_wrong_addrs, gpa + first * page_size,
				     env->lvm.nr_pages - first, page_size, 0);
	if (other_wrong)
		return lock_failed("the guest sees wrong data in %lu other pages", other_wrong);
	if (guest_faults(env->lvm.faults) != faults)
		return "the guest takes faults on other pages";

	return lock_env_check_frames(env, env->lvm.nr_pages - nr);
}

static const char *check_change(struct lock_env *env, const struct change *change)
{
	u64 first = change->one_page ? CHANGED_PAGE : 0;
	u64 nr = change->one_page ? 1 : env->lvm.nr_pages;
	void *addr = env->mem.hva + first * page_size;
	u64 nr_blocks = 0, nr_pages = env->lvm.nr_pages - nr;
	const char *failure;

	/* Of the block that it was part of, the other pages are left. */
	if (change->one_page && env->nr_blocks) {
		nr_blocks = env->nr_blocks - 1;
		nr_pages = pmd_size() / page_size - 1;
	}

	failure = lock_env_wait_changed(env, nr) ?:
		  lock_vm_check_leaves(&env->lvm, nr_blocks, nr_pages) ?:
		  lock_env_check_held(env);
	if (failure)
		return failure;
	if (lock_env_zapped(env) < nr)
		return lock_failed("locked_pages_zapped is %lu, not %lu or more",
				   lock_env_zapped(env), nr);

	if (change->mend) {
		failure = check_denied(env, first * page_size, false) ?: lock_env_check_held(env);
		if (failure)
			return failure;
		change->mend(env, addr, nr * page_size);
		if (complete_access(env) != (change->same_pages ? env->lvm.gpa : 0))
			return "the guest reads wrong data after it was denied access";
	}

	if (change->same_pages)
		failure = lock_vm_check_reads(&env->lvm, 0, nr) ?:
			  lock_env_check_frames(env, env->lvm.nr_pages);
	else
		failure = check_new_pages(env, first, nr);
	failure = failure ?: lock_env_check_held(env) ?: lock_env_check_unlock(env);
	if (failure)
		return failure;

	/* What there is now can be locked like what there was before. */
	memslot_lock(env->lvm.vm, LOCK_SLOT, env->perms);
	lock_vm_fill(&env->lvm);

	return lock_env_check_use(env) ?: lock_env_check_unlock(env);
}

static struct lock_outcome run_change(struct lock_env *env, const void *arg)
{
	const struct change *change = arg;
	void *addr = env->mem.hva + (change->one_page ? CHANGED_PAGE * page_size : 0);
	size_t size = change->one_page ? page_size : env->mem.size;
	const char *reason = change->make(env, addr, size);

	return reason ? lock_skipped(reason) : lock_ended(check_change(env, change));
}

/* Memory that the VMM still has mapped, but with fewer permissions. */

static const char *check_protect(struct lock_env *env, int prot)
{
	bool enough = prot == PROT_READ && env->perms == MEMSLOT_LOCK_R;
	const char *failure;
	u64 faults;

	TEST_ASSERT(!mprotect(env->mem.hva, env->mem.size, prot),
		    "mprotect() failed, errno %d", errno);

	/* It is mapped again if these are permissions that it was locked with. */
	if (enough)
		failure = lock_env_wait_repaired(env, env->lvm.nr_pages, 0, env->lvm.nr_pages) ?:
			  lock_vm_check_reads(&env->lvm, 0, 0);
	else
		failure = lock_env_wait_changed(env, env->lvm.nr_pages) ?:
			  lock_vm_check_leaves(&env->lvm, 0, 0);
	failure = failure ?: check_denied(env, 0, prot == PROT_READ) ?: lock_env_check_held(env);
	if (failure)
		return failure;

	lock_env_start(env);
	TEST_ASSERT(!mprotect(env->mem.hva, env->mem.size, PROT_READ | PROT_WRITE),
		    "mprotect() failed, errno %d", errno);
	failure = lock_env_wait_repaired(env, env->lvm.nr_pages, env->nr_blocks, env->nr_pages);
	if (failure)
		return failure;

	/* If it is locked for reading, a write is a fault. */
	faults = guest_faults(env->lvm.faults);
	complete_access(env);
	if (guest_faults(env->lvm.faults) != faults && env->perms == MEMSLOT_LOCK_RW)
		return "the guest takes a fault after it was denied access";

	return check_restored(env);
}

static struct lock_outcome protect_read(struct lock_env *env, const void *unused)
{
	return lock_ended(check_protect(env, PROT_READ));
}

static struct lock_outcome protect_none(struct lock_env *env, const void *unused)
{
	return lock_ended(check_protect(env, PROT_NONE));
}

/* Memory that the VMM wants to be told of when it is written to. */

static int uffd;

static const char *prepare_uffd(struct lock_env *env)
{
	struct uffdio_api api = {
		.api		= UFFD_API,
		.features	= UFFD_FEATURE_PAGEFAULT_FLAG_WP,
	};
	struct uffdio_register reg = {
		.range		= { .start = (u64)env->mem.hva, .len = env->mem.size },
		.mode		= UFFDIO_REGISTER_MODE_WP,
	};

	uffd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (uffd < 0)
		return "no userfaultfd()";

	if (ioctl(uffd, UFFDIO_API, &api) || ioctl(uffd, UFFDIO_REGISTER, &reg)) {
		kvm_close(uffd);
		return "userfaultfd can't write-protect memory";
	}

	return NULL;
}

static void uffd_protect(struct lock_env *env, bool on)
{
	struct uffdio_writeprotect wp = {
		.range		= { .start = (u64)env->mem.hva, .len = env->mem.size },
		.mode		= on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	TEST_ASSERT(!ioctl(uffd, UFFDIO_WRITEPROTECT, &wp),
		    "UFFDIO_WRITEPROTECT failed, errno %d", errno);
}

/* KVM must neither map it for writing, nor wait until somebody allows it. */
static const char *check_uffd(struct lock_env *env)
{
	const char *failure;

	uffd_protect(env, true);
	if (env->perms == MEMSLOT_LOCK_R)
		failure = lock_env_wait_repaired(env, env->lvm.nr_pages, 0, env->lvm.nr_pages) ?:
			  lock_vm_check_reads(&env->lvm, 0, 0);
	else
		failure = lock_env_wait_changed(env, env->lvm.nr_pages) ?:
			  lock_vm_check_leaves(&env->lvm, 0, 0) ?:
			  lock_vm_check_reads(&env->lvm, 1, env->lvm.nr_pages);
	failure = failure ?: lock_env_check_held(env);
	if (failure)
		return failure;

	lock_env_start(env);
	uffd_protect(env, false);

	return lock_env_wait_repaired(env, env->lvm.nr_pages, env->nr_blocks, env->nr_pages) ?:
	       check_restored(env);
}

static struct lock_outcome run_uffd(struct lock_env *env, const void *unused)
{
	const char *failure = check_uffd(env);

	kvm_close(uffd);

	return lock_ended(failure);
}

/* Memory that is broken. */

static struct {
	int nr;
	int code;
	u64 addr;
} sigbus;

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
	sigbus.nr++;
	sigbus.code = info->si_code;
	sigbus.addr = (u64)info->si_addr;
}

static const char *check_sigbus(const void *addr, int nr)
{
	if (sigbus.nr != nr)
		return lock_failed("%d signals for the page, not %d", sigbus.nr, nr);
	if (sigbus.code != BUS_MCEERR_AR || align_down(sigbus.addr, page_size) != (u64)addr)
		return lock_failed("a signal with code %d for 0x%lx, not 0x%lx", sigbus.code,
				   sigbus.addr, (u64)addr);

	return NULL;
}

static const char *check_poison(struct lock_env *env, void *addr)
{
	static const u64 perms[] = { MEMSLOT_LOCK_R, MEMSLOT_LOCK_RW };
	struct lock_vm *lvm = &env->lvm;
	const char *failure;
	int i;

	failure = check_sigbus(addr, 1) ?: lock_env_wait_changed(env, 1) ?:
		  lock_vm_check_leaves(lvm, 0, lvm->nr_pages - 1) ?: lock_env_check_held(env);
	if (failure)
		return failure;

	/* Not vcpu_run(), which would try again. */
	mte_vcpu_prepare(lvm->vcpu, mte_guest_read, lvm->gpa + (addr - lvm->hva), 0, 0, 0);
	if (!failed_with(__vcpu_run(lvm->vcpu), EINTR))
		return "the guest reads a page that is poisoned";
	failure = check_sigbus(addr, 2) ?: lock_env_check_held(env) ?: lock_env_check_unlock(env);
	if (failure)
		return failure;

	for (i = 0; i < ARRAY_SIZE(perms); i++) {
		if (!failed_with(__memslot_lock(lvm->vm, LOCK_SLOT, perms[i]), EHWPOISON))
			return "poisoned memory can be locked";
		failure = lock_vm_check_unlocked(lvm);
		if (failure)
			return failure;
	}

	memslot_map_anon(addr, page_size);
	if (complete_access(env))
		return "the guest reads wrong data from the page that replaces it";
	memslot_lock(lvm->vm, LOCK_SLOT, env->perms);
	lock_vm_fill(lvm);

	return lock_env_check_use(env) ?: lock_env_check_unlock(env);
}

/* The page is lost for the system until it is booted again. */
static struct lock_outcome run_poison(struct lock_env *env, const void *unused)
{
	struct sigaction old, new = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO };
	void *addr = env->mem.hva + CHANGED_PAGE * page_size;
	struct lock_outcome outcome;
	int ret;

	memset(&sigbus, 0, sizeof(sigbus));
	sigaction(SIGBUS, &new, &old);

	/* What it returns otherwise is about the page: it is still pinned. */
	ret = madvise(addr, page_size, MADV_HWPOISON);
	if (failed_with(ret, EINVAL) || failed_with(ret, EPERM))
		outcome = lock_skipped("the kernel doesn't handle poisoned memory");
	else
		outcome = lock_ended(check_poison(env, addr));

	sigaction(SIGBUS, &old, NULL);

	return outcome;
}

/* A balloon discards pages, and so does whoever handles reports of free pages. */
static const struct change discarded = { discard };
static const struct change discarded_page = { discard, .one_page = true };
static const struct change unmapped = { unmap, fill_hole };
static const struct change unmapped_page = { unmap, fill_hole, .one_page = true };
static const struct change replaced = { replace };
static const struct change replaced_by_pages = { replace_by_pages };
static const struct change truncated = { truncate_file, extend_file };
static const struct change moved = { move_away, move_back, .same_pages = true };

static const struct lock_case cases[] = {
	{ "discarded", ANON | MEMFD | THP | HUGETLB | MEMFD_HUGETLB, NULL, run_change,
	  &discarded },
	{ "a page discarded", ANON | MEMFD | THP, NULL, run_change, &discarded_page },
	{ "unmapped", ANON | MEMFD | THP | HUGETLB, NULL, run_change, &unmapped },
	{ "a page unmapped", ANON | THP, NULL, run_change, &unmapped_page },
	{ "replaced", ANON | THP, NULL, run_change, &replaced },
	{ "replaced by pages that exist", ANON | THP, NULL, run_change, &replaced_by_pages },
	{ "truncated", MEMFD, NULL, run_change, &truncated },
	{ "moved", ANON | MEMFD, NULL, run_change, &moved },
	{ "PROT_READ", ANON | MEMFD | THP, NULL, protect_read },
	{ "PROT_NONE", ANON | MEMFD | THP, NULL, protect_none },
	{ "write-protected by userfaultfd", ANON, prepare_uffd, run_uffd },
	{ "poisoned", ANON, NULL, run_poison },
};

int main(void)
{
	page_size = getpagesize();
	lock_cases_main(cases, ARRAY_SIZE(cases));
}
