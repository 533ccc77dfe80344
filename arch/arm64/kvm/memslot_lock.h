/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Memslots that are locked: pinned, accounted, and mapped at stage 2.
 *
 * See memslot_lock.c for the data structures and the locking.
 */
#ifndef __ARM64_KVM_MEMSLOT_LOCK_H__
#define __ARM64_KVM_MEMSLOT_LOCK_H__

#include <linux/kvm_host.h>

/**
 * kvm_memslot_is_locked() - Whether a memslot is locked, or being locked
 * @slot:	The memslot.
 *
 * The answer holds for as long as kvm->slots_lock or kvm->mmu_lock is held. With
 * kvm->srcu only, it is a hint.
 *
 * Return: true if it is.
 */
static inline bool kvm_memslot_is_locked(const struct kvm_memory_slot *slot)
{
	return READ_ONCE(slot->arch.lock);
}

/**
 * kvm_memslot_locked_by_pages() - Whether all leaves of a locked memslot are pages
 * @slot:	The memslot.
 *
 * This is so if it was locked for reading. If dirty pages are logged later on,
 * the first write to a block would replace it by a table with a single page.
 *
 * The locking is that of kvm_memslot_is_locked().
 *
 * Return: true if the memslot is locked, or being locked, for reading.
 */
static inline bool kvm_memslot_locked_by_pages(const struct kvm_memory_slot *slot)
{
	return READ_ONCE(slot->arch.lock_pages);
}

int kvm_memslot_lock_ioctl(struct kvm *kvm, const struct kvm_enable_cap *cap);
int kvm_memslot_lock_check_change(const struct kvm_memory_slot *old,
				  const struct kvm_memory_slot *new,
				  enum kvm_mr_change change);

void kvm_memslot_lock_zap(struct kvm *kvm, const struct kvm_gfn_range *range);
bool kvm_memslot_lock_is_young(struct kvm *kvm, const struct kvm_gfn_range *range);
unsigned long kvm_memslot_lock_granule(const struct kvm_memory_slot *slot, gfn_t gfn);
bool kvm_memslot_lock_keep_mapped(const struct kvm_memory_slot *slot);
void kvm_memslot_lock_missed(struct kvm *kvm, const struct kvm_memory_slot *slot,
			     gfn_t gfn);

void kvm_memslot_lock_request_flush(struct kvm *kvm);
void kvm_memslot_lock_flush(struct kvm *kvm);

void kvm_memslot_lock_init_vm(struct kvm *kvm);
void kvm_memslot_lock_release_all(struct kvm *kvm);
bool kvm_memslot_lock_release(struct kvm *kvm, struct kvm_memory_slot *slot);

#endif /* __ARM64_KVM_MEMSLOT_LOCK_H__ */
