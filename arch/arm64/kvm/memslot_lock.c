// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memslots that are locked: pinned, accounted, and mapped at stage 2.
 *
 * A VMM locks a memslot so that the guest takes no stage-2 fault on it. Its pages
 * are pinned, as they are for the DMA of a device, accounted as locked memory of
 * the VMM, and all of them are mapped at once. Documentation/virt/kvm/api.rst has
 * what userspace can rely on.
 *
 * A pin doesn't keep MMU notifiers from being called. All of them are obeyed, so
 * the memory that the guest has access to is what the VMM has mapped, whether the
 * memslot is locked or not. Hence nothing here depends on the pins for safety, and
 * a page can be unpinned while stage 2 maps it. Where an MMU notifier was called
 * but the VMM still maps, or maps again, the page that was pinned, the page is
 * mapped again, which is called a repair.
 *
 * Locking. A memslot points to its lock, struct kvm_memslot_lock, by
 * kvm_memory_slot::arch.lock.
 *
 *  - The pointer is written with kvm->slots_lock and kvm->mmu_lock (for writing)
 *    held, so that either is enough for a reader. The exception is when the
 *    mm is released: nobody can be in an ioctl of the VM then, and the MMU lock
 *    is enough.
 *
 *  - The state and what is known of regions are protected by kvm->mmu_lock, but
 *    for the pinned pages, which are the business of one thread alone: the one
 *    that locks for as long as the state is LOCK_PINNING, afterwards the one
 *    that has cleared the pointer. Others read them with the MMU lock held and
 *    the state known to be LOCK_LOCKED.
 *
 *  - Pages are pinned, unpinned and accounted without kvm->slots_lock. Pinning
 *    a page can take as long as the VMM likes (userfaultfd), and the VMM may
 *    need another memslot meanwhile. What stands in for kvm->slots_lock is the
 *    state LOCK_PINNING: the memslot can't be changed, locked or unlocked.
 *
 *  - The order is kvm->slots_lock, mmap_lock, kvm->mmu_lock. The worker that
 *    repairs what MMU notifiers have unmapped is in a kvm->srcu read-side critical
 *    section, and doesn't take kvm->slots_lock. kvm->lock and vcpu->mutex aren't
 *    needed at all: vCPUs that fault on the memory meanwhile find the same pages.
 */

#include <linux/kvm_host.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sizes.h>
#include <linux/userfaultfd_k.h>
#include <linux/workqueue.h>
#include <asm/kvm_mmu.h>
#include <asm/kvm_pgtable.h>
#include <asm/mte.h>

#include "memslot_lock.h"
#include "trace.h"

/* A region is what a table of the last level maps. */
#define REGION_PAGES	((gfn_t)PTRS_PER_PTE)
/* Whether stage 2 can have blocks of PUD_SIZE. */
#define HAVE_PUD_BLOCKS	(KVM_PGTABLE_MIN_BLOCK_LEVEL < 2)
#define PUD_PAGES	((gfn_t)(PUD_SIZE >> PAGE_SHIFT))

/*
 * Pages that are pinned and mapped at a time, with the MMU lock held for the latter. In
 * bytes, as it is those that take time where the data cache has to be cleaned.
 */
#define LOCK_BATCH	(SZ_2M / PAGE_SIZE)
/*
 * For how long to try to map what was pinned if MMU notifiers come in between each time,
 * and how often to look again at what was unmapped since it was mapped.
 */
#define LOCK_PATIENCE	HZ
#define LOCK_ROUNDS	16

/* Pages that are repaired before others get the chance to change memslots. */
#define REPAIR_BATCH	(SZ_128M / PAGE_SIZE)
/*
 * How often to look for pages that aren't mapped, which can be temporary, and the delay
 * before the second time. It doubles each time: more than half a second altogether.
 */
#define REPAIR_TRIES	6
#define REPAIR_DELAY	max(HZ / 50, 1)

/* Flags of a region */
#define REGION_DONE	BIT(0)	/* all pages are pinned and have been mapped */
#define REGION_BLOCK	BIT(1)	/* has a pfn, and not pfns */
#define REGION_PUD	BIT(2)	/* is part of a block of PUD_SIZE */
#define REGION_PIN	BIT(3)	/* of a block: holds the pin */
#define REGION_ZAPPED	BIT(4)	/* since then some pages may have been unmapped */
#define REGION_REPAIR	BIT(5)	/* is being mapped again */
#define REGION_CHANGED	BIT(6)	/* some weren't mapped again */

/*
 * A block lies within a folio, which a single pin keeps. So there is one pin for
 * it, and it is the first region of a block of PUD_SIZE that has it. The pages of
 * a region that isn't a block are pinned one by one.
 */
struct locked_region {
	union {
		kvm_pfn_t	pfn;
		kvm_pfn_t	*pfns;
	};
	u32			nr_pfns;
	u8			flags;
	u8			repair_tries;
};

enum lock_state {
	LOCK_PINNING,
	LOCK_LOCKED,
};

/**
 * struct kvm_memslot_lock - What is known of a locked memslot
 * @state:	Whether the memory is being locked, or is locked.
 * @writable:	Whether it is locked for writing.
 * @base_gfn:	The first page of the memslot.
 * @npages:	The number of its pages, all of which are accounted.
 * @zap_start:	The first region that has REGION_ZAPPED set.
 * @zap_end:	The region after the last one that has.
 * @unmap:	Being locked, and not unmapped when it should have been: if it can't be
 *		locked, it has to be unmapped then.
 * @next:	Links locks that are going to be freed.
 * @nr_regions:	Number of elements of @regions.
 * @regions:	The regions, in order. The first and the last can have pages that
 *		don't belong to the memslot.
 *
 * It doesn't point to the memslot, which is replaced when its flags change.
 */
struct kvm_memslot_lock {
	enum lock_state		state;
	bool			writable;
	gfn_t			base_gfn;
	unsigned long		npages;
	unsigned long		zap_start;
	unsigned long		zap_end;
	bool			unmap;
	struct kvm_memslot_lock	*next;
	unsigned long		nr_regions;
	struct locked_region	regions[] __counted_by(nr_regions);
};

/* What those who map pages carry around. */
struct lock_ctx {
	struct kvm			*kvm;
	struct kvm_memory_slot		*slot;
	/* One per page of a region */
	struct page			**pages;
	struct kvm_mmu_memory_cache	cache;
	/* Of the VMA that was looked at last */
	unsigned long			vma_end;
	unsigned long			mmu_seq;
	enum kvm_pgtable_prot		prot;
	enum kvm_pgtable_walk_flags	walk_flags;
	/* The VMM wants to know when it is written to */
	bool				uffd_wp;
	/* CPUs may have fewer permissions in their TLBs than stage 2 has */
	bool				flush_tlbs;
	/* How many pages to try at a time */
	unsigned long			batch;
	/* When to give up */
	unsigned long			deadline;
	unsigned long			nr_blocks;
};

static gfn_t lock_end_gfn(const struct kvm_memslot_lock *lock)
{
	return lock->base_gfn + lock->npages;
}

static unsigned long gfn_to_region(const struct kvm_memslot_lock *lock, gfn_t gfn)
{
	return (gfn - ALIGN_DOWN(lock->base_gfn, REGION_PAGES)) / REGION_PAGES;
}

static gfn_t region_start(const struct kvm_memslot_lock *lock, unsigned long r)
{
	return max(lock->base_gfn,
		   ALIGN_DOWN(lock->base_gfn, REGION_PAGES) + r * REGION_PAGES);
}

static gfn_t region_end(const struct kvm_memslot_lock *lock, unsigned long r)
{
	return min(lock_end_gfn(lock),
		   ALIGN_DOWN(lock->base_gfn, REGION_PAGES) + (r + 1) * REGION_PAGES);
}

static kvm_pfn_t region_pfn(const struct locked_region *region, unsigned long i)
{
	return region->flags & REGION_BLOCK ? region->pfn + i : region->pfns[i];
}

static void lock_add_zapped(struct kvm_memslot_lock *lock, unsigned long start,
			    unsigned long end)
{
	if (lock->zap_start == lock->zap_end) {
		lock->zap_start = start;
		lock->zap_end = end;
	} else {
		lock->zap_start = min(lock->zap_start, start);
		lock->zap_end = max(lock->zap_end, end);
	}
}

static void lock_take_zapped(struct kvm_memslot_lock *lock, unsigned long *start,
			     unsigned long *end)
{
	*start = lock->zap_start;
	*end = lock->zap_end;
	lock->zap_start = 0;
	lock->zap_end = 0;
}

/* Release what a region holds. It must be out of reach of everybody else. */
static void region_unpin(struct locked_region *region, bool dirty)
{
	unsigned long i, nr;
	struct folio *folio;
	struct page *page;

	if (region->flags & REGION_BLOCK) {
		if (region->flags & REGION_PIN)
			unpin_user_page_range_dirty_lock(pfn_to_page(region->pfn), 1, dirty);
		return;
	}

	for (i = 0; i < region->nr_pfns; i += nr) {
		page = pfn_to_page(region->pfns[i]);
		folio = page_folio(page);
		/* Not across the border of a folio, beyond which there may be no page */
		for (nr = 1; i + nr < region->nr_pfns; nr++) {
			if (region->pfns[i + nr] != region->pfns[i] + nr ||
			    folio_page_idx(folio, page) + nr >= folio_nr_pages(folio))
				break;
		}
		unpin_user_page_range_dirty_lock(page, nr, dirty);
	}

	free_page((unsigned long)region->pfns);
}

/*
 * Unpin, account and free. Nobody else knows of the lock any more.
 *
 * Pages that the guest can write to are dirty from the point of view of the host,
 * just as if they had been mapped by a fault. Called without any lock, or in a
 * kvm->srcu read-side critical section when the mm is released: mmap_lock isn't
 * held then. @kvm->mm is there for as long as the VM, even if nobody uses it.
 */
static void lock_free(struct kvm *kvm, struct kvm_memslot_lock *lock, bool accounted)
{
	unsigned long r;

	for (r = 0; r < lock->nr_regions; r++) {
		region_unpin(&lock->regions[r], lock->writable);
		cond_resched();
	}

	if (accounted)
		account_locked_vm(kvm->mm, lock->npages, false);

	kvfree(lock);
}

static int ctx_init(struct lock_ctx *ctx, struct kvm *kvm, struct kvm_memory_slot *slot)
{
	*ctx = (struct lock_ctx) {
		.kvm		= kvm,
		.slot		= slot,
		.cache		= { .gfp_zero = __GFP_ZERO },
		.batch		= LOCK_BATCH,
	};

	/*
	 * With FWB there is nothing to do for the data cache, nor is there ever for
	 * the I-cache: see ctx_look_at_vma().
	 */
	if (cpus_have_final_cap(ARM64_HAS_STAGE2_FWB))
		ctx->walk_flags = KVM_PGTABLE_WALK_SKIP_CMO;

	ctx->pages = (struct page **)__get_free_page(GFP_KERNEL_ACCOUNT);

	return ctx->pages ? 0 : -ENOMEM;
}

static void ctx_destroy(struct lock_ctx *ctx)
{
	kvm_mmu_free_memory_cache(&ctx->cache);
	free_page((unsigned long)ctx->pages);
}

static int ctx_topup(struct lock_ctx *ctx)
{
	/*
	 * Enough for a leaf, and for all leaves of a region, which share a table,
	 * as long as the MMU lock isn't dropped in between.
	 */
	return kvm_mmu_topup_memory_cache(&ctx->cache,
					  kvm_mmu_cache_min_pages(&ctx->kvm->arch.mmu));
}

/*
 * Whether the memslot can have the pages at an address, where the VMA ends, and
 * how they are to be mapped. Called with the mmap lock held.
 */
static int ctx_look_at_vma(struct lock_ctx *ctx, unsigned long hva, bool writable)
{
	struct vm_area_struct *vma;

	ctx->mmu_seq = ctx->kvm->mmu_invalidate_seq;
	/*
	 * Read the sequence before what the VMM has mapped. Pairs with the smp_wmb()
	 * in kvm_mmu_invalidate_end().
	 */
	smp_rmb();

	vma = vma_lookup(ctx->kvm->mm, hva);
	if (!vma)
		return -EFAULT;

	/*
	 * Execution without a fault would need the I-cache to be invalidated for
	 * all of the memory. The first execution of a page is a permission fault,
	 * unless there is nothing to do for it.
	 */
	ctx->prot = KVM_PGTABLE_PROT_R;
	if (writable)
		ctx->prot |= KVM_PGTABLE_PROT_W;
	if (cpus_have_final_cap(ARM64_HAS_CACHE_DIC))
		ctx->prot |= KVM_PGTABLE_PROT_X;

	ctx->vma_end = vma->vm_end;
	ctx->uffd_wp = userfaultfd_wp(vma);

	return kvm_vma_check_pages(ctx->kvm, ctx->slot, vma, &ctx->prot);
}

/*
 * Whether what was found out about pages since ctx_look_at_vma() can be out of date. An
 * invalidation that hasn't ended counts only if it is of one of these pages: it can
 * take long, and its end is noticed by the sequence number.
 *
 * The MMU lock is held.
 */
static bool ctx_is_stale(const struct lock_ctx *ctx, gfn_t gfn, unsigned long nr)
{
	const struct kvm *kvm = ctx->kvm;

	lockdep_assert_held(&kvm->mmu_lock);

	return kvm->mmu_invalidate_seq != ctx->mmu_seq ||
	       (kvm->mmu_invalidate_in_progress &&
		gfn < kvm->mmu_invalidate_range_end &&
		gfn + nr > kvm->mmu_invalidate_range_start);
}

/*
 * The map walker has returned -EAGAIN. Either there is a leaf that differs in nothing
 * but its permissions, as the guest was there before. It keeps those it has, and gets
 * those that it lacks. Or the tags of the memory are being initialised, and if there is no
 * leaf then it is -EAGAIN again.
 */
static int ctx_relax_leaf(struct lock_ctx *ctx, gfn_t gfn)
{
	struct kvm_pgtable *pgt = ctx->kvm->arch.mmu.pgt;
	int ret;

	ret = kvm_pgtable_stage2_relax_perms(pgt, gfn_to_gpa(gfn), ctx->prot, 0);
	if (!ret)
		ctx->flush_tlbs = true;

	return ret;
}

/*
 * Map a leaf. Returns 0 if there was none, or another one, 1 if there was, -EAGAIN if
 * it is worth trying again, or another negative error code.
 *
 * The MMU lock is held for writing, and ctx_is_stale() was asked with it held.
 */
static int ctx_map_leaf(struct lock_ctx *ctx, gfn_t gfn, u64 size, kvm_pfn_t pfn)
{
	struct kvm_pgtable *pgt = ctx->kvm->arch.mmu.pgt;
	s8 level;
	int ret;

	lockdep_assert_held_write(&ctx->kvm->mmu_lock);

	ret = kvm_pgtable_stage2_map(pgt, gfn_to_gpa(gfn), size, __pfn_to_phys(pfn),
				     ctx->prot, &ctx->cache, 0);
	if (ret != -EAGAIN)
		return ret;

	/* If tags are being initialised, what there is can be of another size. */
	if (kvm_pgtable_get_leaf(pgt, gfn_to_gpa(gfn), NULL, &level) ||
	    kvm_granule_size(level) != size)
		return -EAGAIN;

	return ctx_relax_leaf(ctx, gfn) ?: 1;
}

/*
 * Have other CPUs, and whatever else walks stage 2 by itself, see permissions that
 * were relaxed. A CPU that has the old ones in its TLB would take a fault.
 */
static void ctx_flush_tlbs(struct lock_ctx *ctx)
{
	if (!ctx->flush_tlbs)
		return;

	kvm_flush_remote_tlbs_range(ctx->kvm, ctx->slot->base_gfn, ctx->slot->npages);
	ctx->flush_tlbs = false;
}

static void ctx_unpin(struct lock_ctx *ctx, unsigned long nr)
{
	unpin_user_pages_dirty_lock(ctx->pages, nr, ctx->prot & KVM_PGTABLE_PROT_W);
}

/*
 * Look at the VMA and pin up to @nr pages of it. Returns how many were pinned,
 * which is at least one, or a negative error code.
 */
static long ctx_pin(struct lock_ctx *ctx, struct kvm_memslot_lock *lock, gfn_t gfn,
		    unsigned long nr)
{
	unsigned long hva = __gfn_to_hva_memslot(ctx->slot, gfn);
	/*
	 * As for a fault: what NUMA balancing has unmapped is mapped by the VMM again,
	 * or nobody could tell whether it is a block.
	 */
	unsigned int flags = FOLL_LONGTERM | FOLL_HONOR_NUMA_FAULT;
	struct mm_struct *mm = ctx->kvm->mm;
	long ret;

	if (lock->writable)
		flags |= FOLL_WRITE;

	if (mmap_read_lock_killable(mm))
		return -EINTR;
	ret = ctx_look_at_vma(ctx, hva, lock->writable);
	mmap_read_unlock(mm);
	if (ret)
		return ret;

	/*
	 * Pages that exist are cheap to get. Getting those that don't may take long
	 * and must be interruptible, and it is these that errors are about.
	 */
	nr = min(nr, (ctx->vma_end - hva) >> PAGE_SHIFT);
	ret = pin_user_pages_fast(hva, nr, flags | FOLL_NOFAULT, ctx->pages);
	if (ret <= 0)
		ret = pin_user_pages_unlocked(hva, nr, ctx->pages, flags |
					      FOLL_HWPOISON | FOLL_INTERRUPTIBLE);
	/* The mmap lock couldn't be taken because of a fatal signal */
	if (ret == -EAGAIN)
		return -EINTR;

	return ret ?: -EFAULT;
}

/*
 * The VMA said that the kernel manages the memory. Don't rely on it: the map walker
 * accesses the memory, and its struct page.
 */
static bool page_is_managed(const struct page *page)
{
	return !is_zone_device_page(page) && !PageReserved(page);
}

/*
 * Whether to initialise the tags of pinned pages, before the MMU lock is taken. It is the map
 * walker that sees to it that tags are valid, and this takes nothing away from it:
 * it is left with a look at the flags, doesn't hold up MMU notifiers and vCPUs for
 * the time that it takes to initialise a large folio, and doesn't return -EAGAIN
 * for pages that another thread is busy with. That this is safe without the lock
 * is argued at kvm_s2_fault_init_hugetlb_tags(), and the pin makes it no worse than
 * the reference that a fault has.
 */
static bool ctx_has_tags(const struct lock_ctx *ctx)
{
	return kvm_has_mte(ctx->kvm) && !(ctx->prot & KVM_PGTABLE_PROT_NOTAG);
}

/*
 * Forget what a region holds, which is to be locked once more: at once, or if something
 * comes in between, in the next round.
 */
static void region_reset(struct lock_ctx *ctx, struct kvm_memslot_lock *lock,
			 unsigned long r, bool next_round)
{
	struct locked_region old;

	write_lock(&ctx->kvm->mmu_lock);
	old = lock->regions[r];
	memset(&lock->regions[r], 0, sizeof(old));
	if (next_round && old.flags & REGION_DONE)
		lock_add_zapped(lock, r, r + 1);
	write_unlock(&ctx->kvm->mmu_lock);

	region_unpin(&old, lock->writable);
}

/* Or -EAGAIN if the VMM hasn't mapped it, e.g. while it is being changed. */
static long block_size(struct lock_ctx *ctx, gfn_t gfn, bool writable)
{
	unsigned long hva = __gfn_to_hva_memslot(ctx->slot, gfn);
	int size;

	if (!writable || !IS_ALIGNED(gfn, REGION_PAGES) ||
	    !kvm_memslot_supports_block(ctx->slot, hva, PMD_SIZE))
		return PAGE_SIZE;

	size = kvm_user_mapping_size(ctx->kvm, hva);
	if (size < 0)
		return size;
	if (size < PMD_SIZE)
		return PAGE_SIZE;

	if (HAVE_PUD_BLOCKS && size >= PUD_SIZE && IS_ALIGNED(gfn, PUD_PAGES) &&
	    kvm_memslot_supports_block(ctx->slot, hva, PUD_SIZE))
		return PUD_SIZE;

	return PMD_SIZE;
}

/*
 * Lock the block at a region, which must be part of a memslot that is locked for
 * writing. Returns the number of regions, 0 if there is no block, -EAGAIN if it
 * is worth trying again, or another negative error code.
 *
 * The first page gets pinned, or created. If it has become part of a block of the
 * user's page tables, so have the others, they are of the same folio, and they can
 * be written to. Should the VMM change that, an MMU notifier will tell first.
 */
static long lock_block(struct lock_ctx *ctx, struct kvm_memslot_lock *lock,
		       unsigned long r)
{
	gfn_t gfn = region_start(lock, r);
	struct kvm *kvm = ctx->kvm;
	struct folio *folio;
	unsigned long nr, i;
	struct page *page;
	kvm_pfn_t pfn;
	long size, ret;

	ret = ctx_pin(ctx, lock, gfn, 1);
	if (ret < 0)
		return ret;

	page = ctx->pages[0];
	folio = page_folio(page);
	pfn = page_to_pfn(page);

	ret = -EINVAL;
	if (!page_is_managed(page))
		goto out_unpin;

	size = block_size(ctx, gfn, lock->writable);
	ret = min(size, 0);
	if (ret)
		goto out_unpin;

	nr = size >> PAGE_SHIFT;
	if (size == PAGE_SIZE || !IS_ALIGNED(pfn, nr) ||
	    folio_page_idx(folio, page) + nr > folio_nr_pages(folio))
		goto out_unpin;

	/* They can be ones that this round doesn't come to. */
	for (i = 1; i < nr / REGION_PAGES; i++)
		region_reset(ctx, lock, r + i, true);

	if (ctx_has_tags(ctx))
		mte_init_page_tags(page, nr);

	ret = ctx_topup(ctx);
	if (ret)
		goto out_unpin;

	write_lock(&kvm->mmu_lock);
	ret = -EAGAIN;
	if (ctx_is_stale(ctx, gfn, nr) || block_size(ctx, gfn, lock->writable) != size)
		goto out_unlock;

	ret = ctx_map_leaf(ctx, gfn, size, pfn);
	if (ret < 0)
		goto out_unlock;

	for (i = 0; i < nr / REGION_PAGES; i++) {
		lock->regions[r + i] = (struct locked_region) {
			.pfn	= pfn + i * REGION_PAGES,
			.flags	= REGION_DONE | REGION_BLOCK |
				  (i ? 0 : REGION_PIN) |
				  (nr > REGION_PAGES ? REGION_PUD : 0),
		};
	}
	write_unlock(&kvm->mmu_lock);
	ctx->nr_blocks++;

	return nr / REGION_PAGES;

out_unlock:
	write_unlock(&kvm->mmu_lock);
out_unpin:
	ctx_unpin(ctx, 1);
	return ret;
}

/*
 * Lock pages of a region, from @gfn on, as many of them as are of the same VMA and
 * can be pinned at once. Returns how many that was, -EAGAIN if it is worth trying
 * again, or another negative error code.
 */
static long lock_pages(struct lock_ctx *ctx, struct kvm_memslot_lock *lock,
		       unsigned long r, gfn_t gfn)
{
	struct locked_region *region = &lock->regions[r];
	struct kvm_pgtable *pgt = ctx->kvm->arch.mmu.pgt;
	struct kvm *kvm = ctx->kvm;
	kvm_pfn_t *pfns;
	long nr, i, ret;

	if (!region->pfns) {
		region->pfns = (kvm_pfn_t *)__get_free_page(GFP_KERNEL_ACCOUNT);
		if (!region->pfns)
			return -ENOMEM;
	}
	pfns = region->pfns + region->nr_pfns;

	nr = ctx_pin(ctx, lock, gfn, min(region_end(lock, r) - gfn, ctx->batch));
	if (nr < 0)
		return nr;

	ret = -EINVAL;
	for (i = 0; i < nr; i++) {
		if (!page_is_managed(ctx->pages[i]))
			goto out_unpin;
		pfns[i] = page_to_pfn(ctx->pages[i]);
	}

	for (i = 0; i < nr && ctx_has_tags(ctx); i++)
		mte_init_page_tags(ctx->pages[i], 1);

	ret = ctx_topup(ctx);
	if (ret)
		goto out_unpin;

	write_lock(&kvm->mmu_lock);
	ret = -EAGAIN;
	if (ctx_is_stale(ctx, gfn, nr))
		goto out_unlock;

	for (i = 0; i < nr; i += ret) {
		ret = kvm_pgtable_stage2_map_pages(pgt, gfn_to_gpa(gfn + i), pfns + i, nr - i,
						   ctx->prot, &ctx->cache, ctx->walk_flags);
		if (ret == -EAGAIN)
			ret = ctx_relax_leaf(ctx, gfn + i) ?: 1;
		if (ret < 0)
			goto out_unlock;
	}

	region->nr_pfns += nr;
	if (gfn + nr == region_end(lock, r))
		region->flags |= REGION_DONE;
	write_unlock(&kvm->mmu_lock);

	return nr;

out_unlock:
	write_unlock(&kvm->mmu_lock);
out_unpin:
	ctx_unpin(ctx, nr);
	return ret;
}

/*
 * Whether to retry what an MMU notifier got in the way of. The pin itself can
 * be the reason, by moving a page that must not be pinned where it is, or breaking
 * COW. So the second try often does it. If it is others who invalidate something all
 * the time, have fewer pages depend on a moment when nobody does; and don't give up
 * before it is down to one, as pinning many can take longer than the time there is.
 */
static int lock_retry(struct lock_ctx *ctx, int tries)
{
	if (signal_pending(current))
		return -EINTR;

	if (ctx->batch == 1 && time_after(jiffies, ctx->deadline))
		return -EAGAIN;

	if (tries > 1) {
		ctx->batch = max(ctx->batch / 2, 1);
		schedule_timeout_interruptible(1);
	} else {
		cond_resched();
	}

	return 0;
}

/* Returns the number of regions that were locked, or a negative error code. */
static long lock_region(struct lock_ctx *ctx, struct kvm_memslot_lock *lock,
			unsigned long r)
{
	gfn_t gfn = region_start(lock, r), end = region_end(lock, r);
	bool block = lock->writable && end - gfn == REGION_PAGES;
	int tries = 0;
	long ret;

	region_reset(ctx, lock, r, false);
	ctx->deadline = jiffies + LOCK_PATIENCE;

	while (gfn < end) {
		if (block) {
			ret = lock_block(ctx, lock, r);
			if (ret > 0)
				return ret;
			if (!ret)
				block = false;
		} else {
			ret = lock_pages(ctx, lock, r, gfn);
		}

		if (ret >= 0) {
			gfn += ret;
			tries = 0;
			ctx->batch = min(ctx->batch * 2, LOCK_BATCH);
			ctx->deadline = jiffies + LOCK_PATIENCE;
			continue;
		}

		if (ret == -EAGAIN)
			ret = lock_retry(ctx, ++tries);
		if (ret)
			return ret;
	}

	return 1;
}

/*
 * Lock all regions, and once more those that were zapped in the meantime, until
 * there are none: at some moment, all of the memslot is mapped.
 */
static int lock_regions(struct lock_ctx *ctx, struct kvm_memslot_lock *lock)
{
	unsigned long r, start = 0, end = lock->nr_regions;
	struct kvm *kvm = ctx->kvm;
	int rounds = 0;
	bool done;
	u8 flags;
	long ret;

	for (;;) {
		for (r = start; r < end; r += ret) {
			ret = 1;
			/* What is zapped later than this is for the next round. */
			flags = READ_ONCE(lock->regions[r].flags);
			if (flags & REGION_DONE && !(flags & REGION_ZAPPED))
				continue;

			if (signal_pending(current))
				return -EINTR;

			ret = lock_region(ctx, lock, r);
			if (ret < 0)
				return ret;

			cond_resched();
		}

		/*
		 * Without slots_lock, the state would change under whoever refuses
		 * to do something because of it. The MMU lock is for those who find
		 * that there is something to repair.
		 */
		mutex_lock(&kvm->slots_lock);
		write_lock(&kvm->mmu_lock);
		lock_take_zapped(lock, &start, &end);
		done = start == end;
		if (done) {
			lock->state = LOCK_LOCKED;
			kvm->stat.locked_pages += lock->npages;
		}
		write_unlock(&kvm->mmu_lock);

		/*
		 * What the VMM writes to the memory until a vCPU runs has to reach
		 * the point of coherency, for a vCPU whose MMU is off. With a fault
		 * for each page, that came with the fault.
		 */
		if (done && !cpus_have_final_cap(ARM64_HAS_STAGE2_FWB))
			kvm_memslot_lock_request_flush(kvm);
		/*
		 * A leaf may have got its permissions long ago, by a fault that left the
		 * TLBs of other CPUs to faults of their own. Once slots_lock is dropped,
		 * there may be no such memslot.
		 */
		ctx->flush_tlbs = true;
		if (done)
			ctx_flush_tlbs(ctx);
		mutex_unlock(&kvm->slots_lock);

		if (done)
			return 0;

		if (signal_pending(current))
			return -EINTR;
		if (++rounds == LOCK_ROUNDS)
			return -EAGAIN;
		schedule_timeout_interruptible(1);
	}
}

/*
 * Whether what a lock has mapped can't remain mapped without it, for one of two reasons:
 *
 *  - The VM hasn't run yet. Without the lock there would be nothing at stage 2,
 *    which is what enabling MTE relies on: tags were not initialised.
 *
 *  - Without FWB, the data cache is to be cleaned of what the VMM writes until a
 *    vCPU accesses the memory. That is done for memslots that are locked. What isn't
 *    mapped is cleaned when it is mapped.
 *
 * Shadow page tables have nothing that was mapped by a lock.
 */
static bool must_unmap(struct kvm *kvm)
{
	lockdep_assert_held(&kvm->slots_lock);

	return !kvm_vm_has_ran_once(kvm) || !cpus_have_final_cap(ARM64_HAS_STAGE2_FWB);
}

static int lock_memslot(struct kvm *kvm, u64 id, u64 perms)
{
	bool writable = perms & KVM_ARM_LOCK_MEM_WRITE;
	struct kvm_memslot_lock *lock;
	struct kvm_memory_slot *slot;
	unsigned long nr, npages;
	bool accounted = false;
	struct lock_ctx ctx;
	gfn_t base_gfn;
	int ret;

	if (perms & ~(u64)(KVM_ARM_LOCK_MEM_READ | KVM_ARM_LOCK_MEM_WRITE) ||
	    !(perms & KVM_ARM_LOCK_MEM_READ) || id >= KVM_USER_MEM_SLOTS)
		return -EINVAL;

	/* Work for the thread, such as that of io_uring, isn't a signal. */
	guard(no_notify_signal)();

	mutex_lock(&kvm->slots_lock);

	ret = -EINVAL;
	slot = id_to_memslot(kvm_memslots(kvm), id);
	if (!slot || kvm_slot_has_gmem(slot))
		goto err_slots;

	ret = -EBUSY;
	if (slot->arch.lock)
		goto err_slots;

	/*
	 * The pages would be dirty from the first moment on. If there was no log
	 * of that, a migration would lose what the guest writes.
	 */
	ret = -EPERM;
	if (writable && slot->flags & (KVM_MEM_READONLY | KVM_MEM_LOG_DIRTY_PAGES))
		goto err_slots;

	ret = ctx_init(&ctx, kvm, slot);
	if (ret)
		goto err_slots;

	ret = -ENOMEM;
	nr = DIV_ROUND_UP((slot->base_gfn & (REGION_PAGES - 1)) + slot->npages,
			  REGION_PAGES);
	lock = kvzalloc_flex(*lock, regions, nr, GFP_KERNEL_ACCOUNT);
	if (!lock)
		goto err_ctx;

	base_gfn = slot->base_gfn;
	npages = slot->npages;
	lock->state = LOCK_PINNING;
	lock->writable = writable;
	lock->base_gfn = base_gfn;
	lock->npages = npages;
	lock->nr_regions = nr;

	/* Keep the fault path, which has the MMU lock, from mapping blocks. */
	write_lock(&kvm->mmu_lock);
	WRITE_ONCE(slot->arch.lock, lock);
	WRITE_ONCE(slot->arch.lock_pages, !writable);
	write_unlock(&kvm->mmu_lock);

	/*
	 * The memslot can't change, be it replaced or freed, for as long as it is
	 * being locked. After that it can, and so can the lock.
	 */
	mutex_unlock(&kvm->slots_lock);

	ret = account_locked_vm(kvm->mm, npages, true);
	if (!ret) {
		accounted = true;
		ret = lock_regions(&ctx, lock);
	}

	trace_kvm_memslot_lock(id, base_gfn, npages, writable, ctx.nr_blocks, ret);
	if (!ret) {
		ctx_destroy(&ctx);
		return 0;
	}

	mutex_lock(&kvm->slots_lock);
	write_lock(&kvm->mmu_lock);
	WRITE_ONCE(slot->arch.lock, NULL);
	WRITE_ONCE(slot->arch.lock_pages, false);
	/* If it wasn't accounted, it was given up before anything was mapped. */
	if (lock->unmap || (accounted && must_unmap(kvm)))
		kvm_stage2_unmap_range(&kvm->arch.mmu, gfn_to_gpa(base_gfn),
				       (u64)npages << PAGE_SHIFT, true);
	write_unlock(&kvm->mmu_lock);
	mutex_unlock(&kvm->slots_lock);

	lock_free(kvm, lock, accounted);
	ctx_destroy(&ctx);

	return ret;

err_ctx:
	ctx_destroy(&ctx);
err_slots:
	mutex_unlock(&kvm->slots_lock);
	return ret;
}

/*
 * Take the lock from a memslot. Nobody finds it by the pointer afterwards, and the
 * caller is to free it once slots_lock is dropped. What can remain mapped does.
 */
static struct kvm_memslot_lock *unlock_memslot(struct kvm *kvm, struct kvm_memory_slot *slot)
{
	struct kvm_memslot_lock *lock = slot->arch.lock;

	lockdep_assert_held(&kvm->slots_lock);

	write_lock(&kvm->mmu_lock);
	WRITE_ONCE(slot->arch.lock, NULL);
	WRITE_ONCE(slot->arch.lock_pages, false);
	kvm->stat.locked_pages -= lock->npages;
	if (must_unmap(kvm))
		kvm_stage2_unmap_range(&kvm->arch.mmu, gfn_to_gpa(lock->base_gfn),
				       (u64)lock->npages << PAGE_SHIFT, true);
	write_unlock(&kvm->mmu_lock);

	trace_kvm_memslot_unlock(slot->id, lock->base_gfn, lock->npages);

	return lock;
}

static int unlock_memslots(struct kvm *kvm, u64 id, u64 flags)
{
	struct kvm_memslot_lock *lock, *freed = NULL;
	struct kvm_memory_slot *slot;
	int bkt, ret = 0;

	if (flags & ~(u64)KVM_ARM_UNLOCK_MEM_ALL)
		return -EINVAL;

	if (flags ? id : id >= KVM_USER_MEM_SLOTS)
		return -EINVAL;

	mutex_lock(&kvm->slots_lock);
	if (flags) {
		kvm_for_each_memslot(slot, bkt, kvm_memslots(kvm)) {
			if (!slot->arch.lock || slot->arch.lock->state != LOCK_LOCKED)
				continue;

			lock = unlock_memslot(kvm, slot);
			lock->next = freed;
			freed = lock;
		}
	} else {
		slot = id_to_memslot(kvm_memslots(kvm), id);
		if (!slot || !slot->arch.lock)
			ret = -EINVAL;
		else if (slot->arch.lock->state != LOCK_LOCKED)
			ret = -EBUSY;
		else
			freed = unlock_memslot(kvm, slot);
	}
	mutex_unlock(&kvm->slots_lock);

	while (freed) {
		lock = freed;
		freed = lock->next;
		lock_free(kvm, lock, true);
	}

	return ret;
}

/**
 * kvm_memslot_lock_ioctl() - Lock or unlock memslots on behalf of userspace
 * @kvm:	The VM, whose mm is that of the caller.
 * @cap:	What userspace has passed to KVM_ENABLE_CAP, for
 *		KVM_CAP_ARM_LOCK_USER_MEMORY_REGION.
 *
 * Called without any lock. Sleeps, for as long as it takes to have all of the
 * memory of a memslot, but not if there is a signal.
 *
 * Return: 0, or a negative error code, in which case nothing is locked that wasn't
 * before, but memory of the VMM may exist that didn't. It is documented in
 * Documentation/virt/kvm/api.rst which error code says what.
 */
int kvm_memslot_lock_ioctl(struct kvm *kvm, const struct kvm_enable_cap *cap)
{
	if (cap->args[2] || cap->args[3])
		return -EINVAL;

	switch (cap->flags) {
	case KVM_ARM_LOCK_USER_MEMORY_REGION_FLAGS_LOCK:
		return lock_memslot(kvm, cap->args[0], cap->args[1]);
	case KVM_ARM_LOCK_USER_MEMORY_REGION_FLAGS_UNLOCK:
		return unlock_memslots(kvm, cap->args[0], cap->args[1]);
	default:
		return -EINVAL;
	}
}

/**
 * kvm_memslot_lock_check_change() - Whether a memslot can be changed
 * @old:	The memslot as it is.
 * @new:	The memslot as it is going to be.
 * @change:	What is going to change.
 *
 * See kvm_arch_check_memslot_change(). Called with kvm->slots_lock held. A memslot
 * that is being locked must stay as it is in every respect. One that is locked
 * can have the logging of dirty pages enabled or disabled, provided that the guest
 * takes a fault on its first write to a page.
 *
 * Return: 0, or -EBUSY.
 */
int kvm_memslot_lock_check_change(const struct kvm_memory_slot *old,
				  const struct kvm_memory_slot *new,
				  enum kvm_mr_change change)
{
	const struct kvm_memslot_lock *lock = old->arch.lock;

	if (!lock)
		return 0;

	if (change == KVM_MR_FLAGS_ONLY && lock->state == LOCK_LOCKED &&
	    !lock->writable && (old->flags ^ new->flags) == KVM_MEM_LOG_DIRTY_PAGES)
		return 0;

	return -EBUSY;
}

/**
 * kvm_memslot_lock_zap() - An MMU notifier is about to unmap guest memory
 * @kvm:	The VM.
 * @range:	The range, which lies in a memslot.
 *
 * If the memslot is locked, have what is unmapped mapped again by the thread that
 * is busy locking it, or by a worker. Both check whether there is an invalidation
 * of the pages that they are going to map, so that they do nothing before it has
 * ended, nor if there is another one by then: see ctx_is_stale().
 *
 * Called with kvm->mmu_lock held for writing, after kvm_mmu_invalidate_start().
 * Doesn't sleep.
 */
void kvm_memslot_lock_zap(struct kvm *kvm, const struct kvm_gfn_range *range)
{
	struct kvm_memslot_lock *lock = range->slot->arch.lock;
	unsigned long r, start, end;

	lockdep_assert_held_write(&kvm->mmu_lock);

	if (likely(!lock))
		return;

	start = gfn_to_region(lock, range->start);
	end = gfn_to_region(lock, range->end - 1) + 1;

	/* Stage 2 loses the blocks that the range is part of. */
	if (lock->regions[start].flags & REGION_PUD)
		start = gfn_to_region(lock, ALIGN_DOWN(range->start, PUD_PAGES));
	if (lock->regions[end - 1].flags & REGION_PUD)
		end = gfn_to_region(lock, ALIGN(range->end, PUD_PAGES) - 1) + 1;

	/*
	 * Pages that were not mapped yet don't count as unmapped. Pinning them can
	 * be the reason for each of them to be replaced.
	 */
	for (; lock->state == LOCK_PINNING && start < end; start++) {
		if (lock->regions[start].flags & REGION_DONE ||
		    max(range->start, region_start(lock, start)) <
		    region_start(lock, start) + lock->regions[start].nr_pfns)
			break;
	}
	if (start == end)
		return;

	for (r = start; r < end; r++) {
		lock->regions[r].flags |= REGION_ZAPPED;
		lock->regions[r].flags &= ~REGION_CHANGED;
		lock->regions[r].repair_tries = 0;
	}
	lock_add_zapped(lock, start, end);

	if (lock->state == LOCK_LOCKED) {
		kvm->stat.locked_pages_zapped += range->end - range->start;
		trace_kvm_memslot_lock_zap(range->slot->id, range->start, range->end);
		queue_delayed_work(system_dfl_wq, &kvm->arch.locked_repair_work, 1);
	}
}

/*
 * Whether stage 2 maps the page that was pinned. If it doesn't, @gfn becomes the next one
 * that it may map: there is nothing in the rest of a hole, and a block has either all of
 * the pages of another block or none.
 */
static bool region_is_mapped(struct kvm *kvm, const struct kvm_memslot_lock *lock,
			     unsigned long r, gfn_t *gfn)
{
	const struct locked_region *region = &lock->regions[r];
	s8 level = KVM_PGTABLE_LAST_LEVEL;
	phys_addr_t ipa = gfn_to_gpa(*gfn);
	unsigned long nr, i;
	kvm_pte_t pte = 0;

	/* If there was an error, which there isn't, it would be a page that isn't mapped. */
	kvm_pgtable_get_leaf(kvm->arch.mmu.pgt, ipa, &pte, &level);
	nr = kvm_granule_size(level) >> PAGE_SHIFT;
	i = *gfn & (nr - 1);
	if (kvm_pte_valid(pte) &&
	    kvm_pte_to_pfn(pte) + i == region_pfn(region, *gfn - region_start(lock, r)))
		return true;

	*gfn += !kvm_pte_valid(pte) || region->flags & REGION_BLOCK ? nr - i : 1;

	return false;
}

/**
 * kvm_memslot_lock_is_young() - Whether to say that guest memory was accessed
 * @kvm:	The VM, which has a stage 2.
 * @range:	The range, which lies in a memslot.
 *
 * Pinned pages can't be reclaimed. But those of shmem would be unmapped before that is
 * found out, and without the access flag the next access is a fault unless the CPU
 * sets it. So what a lock has mapped is young from the moment that it is mapped: it
 * may take long until all of the memslot is. The page beside it may be one that the VMM
 * has replaced.
 *
 * Called with kvm->mmu_lock held for writing. Doesn't sleep.
 *
 * Return: true if any page of the range is one that is pinned, and mapped.
 */
bool kvm_memslot_lock_is_young(struct kvm *kvm, const struct kvm_gfn_range *range)
{
	const struct kvm_memslot_lock *lock = range->slot->arch.lock;
	const struct locked_region *region;
	gfn_t gfn, end;
	unsigned long r;

	lockdep_assert_held_write(&kvm->mmu_lock);

	if (likely(!lock))
		return false;

	for (r = gfn_to_region(lock, range->start);
	     r <= gfn_to_region(lock, range->end - 1); r++) {
		region = &lock->regions[r];
		if (lock->state == LOCK_LOCKED &&
		    !(region->flags & (REGION_ZAPPED | REGION_REPAIR | REGION_CHANGED)))
			return true;

		end = region_end(lock, r);
		if (!(region->flags & REGION_BLOCK))
			end = region_start(lock, r) + region->nr_pfns;
		gfn = max(range->start, region_start(lock, r));
		while (gfn < min(range->end, end)) {
			if (region_is_mapped(kvm, lock, r, &gfn))
				return true;
		}
	}

	return false;
}

/**
 * kvm_memslot_lock_granule() - How large a leaf of a locked memslot can be
 * @slot:	The memslot, locked or not.
 * @gfn:	The page that is to be mapped.
 *
 * The leaves that a lock has mapped aren't replaced by others: a leaf that is replaced
 * isn't there for a moment, which a device that can't take faults would notice. After
 * an MMU notifier, too, there may be some of them left.
 *
 * Called with kvm->mmu_lock held. Doesn't sleep.
 *
 * Return: the size in bytes.
 */
unsigned long kvm_memslot_lock_granule(const struct kvm_memory_slot *slot, gfn_t gfn)
{
	const struct kvm_memslot_lock *lock = slot->arch.lock;
	const struct locked_region *region;

	if (likely(!lock))
		return PUD_SIZE;

	if (!lock->writable)
		return PAGE_SIZE;

	region = &lock->regions[gfn_to_region(lock, gfn)];
	/*
	 * The thread that is locking it replaces what isn't right, but for pages that it
	 * has mapped already.
	 */
	if (!(region->flags & REGION_DONE))
		return region->nr_pfns ? PAGE_SIZE : PMD_SIZE;
	if (region->flags & REGION_PUD)
		return PUD_SIZE;

	return region->flags & REGION_BLOCK ? PMD_SIZE : PAGE_SIZE;
}

/**
 * kvm_memslot_lock_keep_mapped() - Whether not to unmap a memslot for a vCPU's reset
 * @slot:	The memslot.
 *
 * Called with kvm->slots_lock held, and kvm->mmu_lock for writing. If true, the caller
 * has to request a flush before it drops the former. Doesn't sleep.
 *
 * Return: true if the memslot is locked, or about to be.
 */
bool kvm_memslot_lock_keep_mapped(const struct kvm_memory_slot *slot)
{
	struct kvm_memslot_lock *lock = slot->arch.lock;

	if (likely(!lock))
		return false;

	if (lock->state == LOCK_PINNING)
		lock->unmap = true;

	return true;
}

/**
 * kvm_memslot_lock_missed() - A fault has mapped memory of a locked memslot
 * @kvm:	The VM.
 * @slot:	The memslot, locked or not.
 * @gfn:	The page that the fault was for.
 *
 * Say so if this was unexpected. It is expected if an MMU notifier was called, and
 * the page hasn't been mapped again yet, or the VMM has mapped another one.
 *
 * Called with kvm->mmu_lock held. Doesn't sleep.
 */
void kvm_memslot_lock_missed(struct kvm *kvm, const struct kvm_memory_slot *slot,
			     gfn_t gfn)
{
	struct kvm_memslot_lock *lock = slot->arch.lock;
	struct locked_region *region;
	bool expected;

	lockdep_assert_held(&kvm->mmu_lock);

	if (likely(!lock) || lock->state != LOCK_LOCKED)
		return;

	region = &lock->regions[gfn_to_region(lock, gfn)];
	expected = region->flags & (REGION_ZAPPED | REGION_REPAIR | REGION_CHANGED);
	trace_kvm_memslot_lock_fault(slot->id, gfn, expected);

	if (!expected)
		pr_warn_ratelimited("kvm [%i]: gfn %#llx of locked memslot %d wasn't mapped\n",
				    task_pid_nr(current), gfn, slot->id);
}

/*
 * Whether a page that is mapped by the VMM is the one that was pinned. If it is going to
 * be replaced, an MMU notifier is called before that.
 */
static bool repair_is_pinned(const struct lock_ctx *ctx, gfn_t gfn, const struct page *page)
{
	const struct kvm_memslot_lock *lock;
	unsigned long r;

	guard(read_lock)(&ctx->kvm->mmu_lock);

	lock = ctx->slot->arch.lock;
	if (!lock || lock->state != LOCK_LOCKED || ctx_is_stale(ctx, gfn, 1))
		return false;

	r = gfn_to_region(lock, gfn);

	return region_pfn(&lock->regions[r], gfn - region_start(lock, r)) == page_to_pfn(page);
}

/* Reference a page that can't be written to for now, if it is the one that was pinned. */
static struct page *repair_get_page(const struct lock_ctx *ctx, gfn_t gfn)
{
	unsigned long hva = __gfn_to_hva_memslot(ctx->slot, gfn);
	struct mm_struct *mm = ctx->kvm->mm;
	struct page *page, *same;

	if (get_user_pages_remote(mm, hva, 1, FOLL_NOFAULT, &page, NULL) != 1)
		return NULL;

	/*
	 * It is mapped read-only for the kernel to see when it is written to, or used.
	 * Pretend that it is, but not if it is the VMM who wants to know: that the guest
	 * takes a fault is its wish then. Nor for another page, which might have to be
	 * copied for that.
	 */
	if (ctx->uffd_wp || !repair_is_pinned(ctx, gfn, page) ||
	    get_user_pages_remote(mm, hva, 1, FOLL_WRITE | FOLL_NOWAIT, &same, NULL) != 1)
		goto out_put;

	put_page(same);
	if (same == page)
		return page;

out_put:
	put_page(page);
	return NULL;
}

/*
 * Find the pages that the VMM has mapped by now, without creating any: what the VMM
 * has unmapped is to remain unmapped. The elements of ctx->pages are NULL where
 * there is no page, or none with the permissions that are needed. Returns how many
 * pages, of those that were asked for, are of the same VMA, or of none.
 */
static unsigned long repair_get_pages(struct lock_ctx *ctx, gfn_t gfn, unsigned long nr,
				      bool writable)
{
	unsigned int flags = FOLL_NOFAULT | (writable ? FOLL_WRITE : 0);
	unsigned long hva = __gfn_to_hva_memslot(ctx->slot, gfn), end;
	struct mm_struct *mm = ctx->kvm->mm;
	struct vm_area_struct *vma;
	unsigned long i;
	long ret;

	guard(mmap_read_lock)(mm);

	if (ctx_look_at_vma(ctx, hva, writable)) {
		/* There may be more beyond a hole, and beyond what the memslot can't have. */
		vma = find_vma(mm, hva);
		end = !vma ? ULONG_MAX : vma->vm_start > hva ? vma->vm_start : vma->vm_end;
		nr = min(nr, (end - hva) >> PAGE_SHIFT);
		memset(ctx->pages, 0, nr * sizeof(*ctx->pages));
		return nr;
	}

	nr = min(nr, (ctx->vma_end - hva) >> PAGE_SHIFT);
	for (i = 0; i < nr; ) {
		ret = get_user_pages_remote(mm, hva + i * PAGE_SIZE, nr - i, flags,
					    ctx->pages + i, NULL);
		if (ret > 0) {
			i += ret;
			continue;
		}

		ctx->pages[i] = writable ? repair_get_page(ctx, gfn + i) : NULL;
		i++;
	}

	return nr;
}

/*
 * Of the pages that were found, map those that are the pinned ones, from @gfn on, and
 * count those that aren't. Returns how many pages that was, which is all of the region if
 * it could be mapped by a block, or a negative error code: -EAGAIN if there is an MMU
 * notifier, or the VMM doesn't have it mapped for a moment, and -ENOENT if there is
 * nothing left to do.
 *
 * The memslot may have been unlocked, or locked once more, since its lock was looked
 * at: nothing is known without the MMU lock.
 */
static long repair_map(struct lock_ctx *ctx, unsigned long r, gfn_t gfn, unsigned long nr,
		       unsigned long *misses)
{
	struct kvm_memslot_lock *lock;
	struct locked_region *region;
	struct kvm *kvm = ctx->kvm;
	unsigned long i, k;
	long size, ret;

	ret = ctx_topup(ctx);
	if (ret)
		return ret;

	guard(write_lock)(&kvm->mmu_lock);

	if (ctx_is_stale(ctx, gfn, nr))
		return -EAGAIN;

	/* When the VM is destroyed, stage 2 is gone before the lock is. */
	lock = ctx->slot->arch.lock;
	if (!kvm->arch.mmu.pgt || !lock || lock->state != LOCK_LOCKED ||
	    !(lock->regions[r].flags & REGION_REPAIR))
		return -ENOENT;

	region = &lock->regions[r];
	i = gfn - region_start(lock, r);

	/* As in lock_block(): the pages after the first one are of the same folio. */
	size = PAGE_SIZE;
	if (region->flags & REGION_BLOCK && !i && ctx->pages[0] &&
	    page_to_pfn(ctx->pages[0]) == region->pfn)
		size = block_size(ctx, gfn, lock->writable);
	if (size < 0)
		return size;
	if (size > PMD_SIZE && !(region->flags & REGION_PUD))
		size = PMD_SIZE;
	if (ctx_is_stale(ctx, gfn, size >> PAGE_SHIFT))
		return -EAGAIN;

	if (size > PAGE_SIZE) {
		ret = ctx_map_leaf(ctx, gfn, size, region->pfn);
		if (ret < 0)
			return ret;
		nr = size >> PAGE_SHIFT;
		if (!ret)
			kvm->stat.locked_pages_repaired += nr;
		/* The caller does it for the first one */
		for (k = 1; k < nr / REGION_PAGES; k++)
			region[k].flags &= ~(REGION_ZAPPED | REGION_REPAIR);

		return REGION_PAGES;
	}

	for (k = 0; k < nr; k++) {
		if (!ctx->pages[k] || page_to_pfn(ctx->pages[k]) != region_pfn(region, i + k)) {
			++*misses;
			continue;
		}

		ret = ctx_map_leaf(ctx, gfn + k, PAGE_SIZE, page_to_pfn(ctx->pages[k]));
		if (ret < 0)
			return ret;
		if (!ret)
			kvm->stat.locked_pages_repaired++;
	}

	return nr;
}

/*
 * Find the pages of a region and map them. Returns how many of them aren't the pinned
 * ones, or an error of repair_map().
 */
static long repair_pages(struct lock_ctx *ctx, unsigned long r, gfn_t gfn, gfn_t end,
			 bool writable, bool block)
{
	unsigned long misses = 0, missed, batch = LOCK_BATCH, nr, i;
	int tries = 0;
	long ret;

	while (gfn < end) {
		/* If it is mapped by a block, there is no need for the others. */
		nr = repair_get_pages(ctx, gfn, block ? 1 : min(end - gfn, batch), writable);
		missed = misses;
		ret = repair_map(ctx, r, gfn, nr, &missed);
		for (i = 0; i < nr; i++) {
			if (ctx->pages[i])
				put_page(ctx->pages[i]);
		}

		/* The shorter it takes, the less can come in between. */
		if (ret == -EAGAIN && batch > 1) {
			batch /= 2;
			if (++tries < REPAIR_TRIES)
				continue;
		}
		if (ret < 0)
			return ret;

		misses = missed;
		gfn += ret;
		block = false;
	}

	return misses;
}

/*
 * Repair a region. Returns 0, or, if there is a reason to try again, how often that has
 * been done without success, at least 1.
 */
static int repair_region(struct lock_ctx *ctx, unsigned long r, gfn_t start, gfn_t end,
			 bool writable, bool block)
{
	struct kvm_memslot_lock *lock;
	struct locked_region *region;
	struct kvm *kvm = ctx->kvm;
	unsigned long changed = 0;
	int again = 0;
	long misses;

	misses = repair_pages(ctx, r, start, end, writable, block);

	guard(write_lock)(&kvm->mmu_lock);

	lock = ctx->slot->arch.lock;
	if (!lock || lock->state != LOCK_LOCKED || !(lock->regions[r].flags & REGION_REPAIR))
		return 0;

	region = &lock->regions[r];
	region->flags &= ~REGION_REPAIR;
	/* If an MMU notifier was called since it was begun, start all over. */
	if (region->flags & REGION_ZAPPED)
		return 1;

	/* Pages whose move fails come back without a notifier. */
	if (misses == -EAGAIN)
		again = 1;
	else if (misses && ++region->repair_tries < REPAIR_TRIES)
		again = region->repair_tries;

	if (again) {
		region->flags |= REGION_ZAPPED;
		lock_add_zapped(lock, r, r + 1);
		return again;
	}

	if (misses) {
		region->flags |= REGION_CHANGED;
		changed = misses > 0 ? misses : end - start;
		kvm->stat.locked_pages_changed += changed;
	}
	trace_kvm_memslot_lock_repair(ctx->slot->id, start, end, changed);

	return 0;
}

/*
 * Returns 0, or, if there is a reason to look at the memslot again later, how often that
 * has been done without success, for the region where that is the least.
 */
static int repair_memslot(struct lock_ctx *ctx, long *budget)
{
	unsigned long r, start, end, nr_regions;
	struct kvm_memslot_lock *lock;
	struct locked_region *region;
	struct kvm *kvm = ctx->kvm;
	gfn_t gfn, end_gfn;
	bool writable, block;
	int again, tries = 0;

	write_lock(&kvm->mmu_lock);
	lock = ctx->slot->arch.lock;
	if (!lock || lock->state != LOCK_LOCKED) {
		write_unlock(&kvm->mmu_lock);
		return 0;
	}
	lock_take_zapped(lock, &start, &end);
	nr_regions = lock->nr_regions;

	for (r = start; r < end; r++) {
		/* It may be another lock by now, but the memslot has the same size. */
		lock = ctx->slot->arch.lock;
		if (!lock || lock->state != LOCK_LOCKED ||
		    WARN_ON_ONCE(lock->nr_regions != nr_regions)) {
			tries = 0;
			break;
		}

		region = &lock->regions[r];
		if (!(region->flags & REGION_ZAPPED) ||
		    WARN_ON_ONCE(!(region->flags & REGION_DONE)))
			continue;

		if (*budget <= 0) {
			lock_add_zapped(lock, r, end);
			break;
		}

		region->flags &= ~REGION_ZAPPED;
		region->flags |= REGION_REPAIR;
		gfn = region_start(lock, r);
		end_gfn = region_end(lock, r);
		writable = lock->writable;
		block = region->flags & REGION_BLOCK;
		write_unlock(&kvm->mmu_lock);

		*budget -= end_gfn - gfn;
		again = repair_region(ctx, r, gfn, end_gfn, writable, block);
		if (again && (!tries || again < tries))
			tries = again;
		cond_resched();

		write_lock(&kvm->mmu_lock);
	}
	if (kvm->arch.mmu.pgt)
		ctx_flush_tlbs(ctx);
	write_unlock(&kvm->mmu_lock);

	return tries;
}

/*
 * Map again what MMU notifiers have unmapped. The kernel calls them before it knows
 * whether it is going to do anything with a page, and if it is pinned it often does
 * not: NUMA balancing, KSM, soft-dirty tracking and compaction leave it where it is.
 *
 * A worker does it. A vCPU that did it on its way into the guest would be held up for
 * memory that it may not need.
 *
 * The memory that stage 2 needs is charged to the VMM. The reference to the mm is
 * dropped by somebody else: if it is the last one, kvm_memslot_lock_release_all()
 * waits for this work.
 */
static void repair_work(struct work_struct *work)
{
	struct kvm *kvm = container_of(to_delayed_work(work), struct kvm,
				       arch.locked_repair_work);
	struct mem_cgroup *memcg, *old_memcg;
	struct kvm_memory_slot *slot;
	int bkt, idx, again, tries = 0;
	long budget = REPAIR_BATCH;
	struct lock_ctx ctx;

	if (!mmget_not_zero(kvm->mm))
		return;

	memcg = get_mem_cgroup_from_mm(kvm->mm);
	old_memcg = set_active_memcg(memcg);

	if (ctx_init(&ctx, kvm, NULL)) {
		tries = 1;
		goto out;
	}

	idx = srcu_read_lock(&kvm->srcu);
	kvm_for_each_memslot(slot, bkt, kvm_memslots(kvm)) {
		if (!kvm_memslot_is_locked(slot))
			continue;

		ctx.slot = slot;
		again = repair_memslot(&ctx, &budget);
		if (again && (!tries || again < tries))
			tries = again;
	}
	srcu_read_unlock(&kvm->srcu, idx);

	ctx_destroy(&ctx);
out:
	/* What the budget wasn't enough for doesn't have to wait. */
	if (tries || budget <= 0)
		queue_delayed_work(system_dfl_wq, &kvm->arch.locked_repair_work,
				   tries ? REPAIR_DELAY << (tries - 1) : 0);

	set_active_memcg(old_memcg);
	mem_cgroup_put(memcg);
	mmput_async(kvm->mm);
}

/**
 * kvm_memslot_lock_request_flush() - Have the caches cleaned for locked memslots
 * @kvm:	The VM.
 *
 * For hosts without FWB, where a vCPU whose MMU is off gets its data from the point
 * of coherency. What is in the caches is cleaned before any vCPU enters the guest.
 *
 * Called with kvm->slots_lock held, so that no memslot is unlocked between what the
 * request is for and the request. Doesn't sleep.
 */
void kvm_memslot_lock_request_flush(struct kvm *kvm)
{
	lockdep_assert_held(&kvm->slots_lock);

	set_bit(KVM_ARCH_FLAG_FLUSH_LOCKED, &kvm->arch.flags);
	kvm_make_all_cpus_request(kvm, KVM_REQ_FLUSH_LOCKED_MEMSLOTS);
}

/**
 * kvm_memslot_lock_flush() - Clean the caches for locked memslots
 * @kvm:	The VM.
 *
 * Handles KVM_REQ_FLUSH_LOCKED_MEMSLOTS. Once it returns, what the VMM wrote
 * before the request is visible to a vCPU whose MMU is off. All vCPUs wait for the
 * one that does it. The flag is cleared first, so that a request that is made
 * meanwhile isn't lost.
 *
 * Called without kvm->srcu, as it takes kvm->slots_lock. Sleeps.
 */
void kvm_memslot_lock_flush(struct kvm *kvm)
{
	struct kvm_memory_slot *slot;
	int bkt;

	guard(mutex)(&kvm->slots_lock);

	if (!test_and_clear_bit(KVM_ARCH_FLAG_FLUSH_LOCKED, &kvm->arch.flags))
		return;

	/* The VMM may have written instructions where the guest has executed others. */
	icache_inval_all_pou();

	kvm_for_each_memslot(slot, bkt, kvm_memslots(kvm)) {
		if (!slot->arch.lock)
			continue;

		write_lock(&kvm->mmu_lock);
		kvm_stage2_flush_range(&kvm->arch.mmu, gfn_to_gpa(slot->base_gfn),
				       gfn_to_gpa(slot->base_gfn + slot->npages));
		write_unlock(&kvm->mmu_lock);
	}
}

/**
 * kvm_memslot_lock_init_vm() - Initialise what concerns locked memslots
 * @kvm:	The VM.
 */
void kvm_memslot_lock_init_vm(struct kvm *kvm)
{
	INIT_DELAYED_WORK(&kvm->arch.locked_repair_work, repair_work);
}

/**
 * kvm_memslot_lock_release() - Unlock a memslot that stage 2 no longer maps
 * @kvm:	The VM.
 * @slot:	The memslot, locked or not.
 *
 * May be called for the same memslot by two threads: the MMU lock lets only one of
 * them find the lock. Sleeps, and takes the mmap lock.
 *
 * Return: true if the memslot was locked.
 */
bool kvm_memslot_lock_release(struct kvm *kvm, struct kvm_memory_slot *slot)
{
	struct kvm_memslot_lock *lock;

	if (!kvm_memslot_is_locked(slot))
		return false;

	write_lock(&kvm->mmu_lock);
	lock = slot->arch.lock;
	if (lock) {
		WARN_ON_ONCE(lock->state != LOCK_LOCKED);
		WRITE_ONCE(slot->arch.lock, NULL);
		WRITE_ONCE(slot->arch.lock_pages, false);
		kvm->stat.locked_pages -= lock->npages;
	}
	write_unlock(&kvm->mmu_lock);

	if (!lock)
		return false;

	trace_kvm_memslot_unlock(slot->id, lock->base_gfn, lock->npages);
	lock_free(kvm, lock, true);

	return true;
}

/**
 * kvm_memslot_lock_release_all() - Unlock all memslots, as the VMM is gone
 * @kvm:	The VM, whose stage 2 was freed.
 *
 * Called when the mm is released, with kvm->srcu held for reading. This is either
 * because the VM is destroyed or because the last thread of the VMM has exited, and
 * both can happen at the same time. In any case no thread is in an ioctl of the VM,
 * as those are for the VMM alone: no memslot is changed or locked concurrently, and
 * kvm->slots_lock, which can't be taken here, isn't needed. The MMU lock makes
 * sure that each lock is freed once.
 *
 * Sleeps, and takes the mmap lock.
 */
void kvm_memslot_lock_release_all(struct kvm *kvm)
{
	struct kvm_memory_slot *slot;
	int bkt;

	kvm_for_each_memslot(slot, bkt, kvm_memslots(kvm))
		kvm_memslot_lock_release(kvm, slot);

	/* Without a lock nobody queues it. It does nothing if the mm is gone. */
	cancel_delayed_work_sync(&kvm->arch.locked_repair_work);
}
