/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Memory without tags in VMs with MTE: the memory that KVM_CAP_ARM_MTE_PERM lets a VM
 * have, where an access to tags exits.
 */
#ifndef SELFTEST_KVM_ARM64_NOTAG_H
#define SELFTEST_KVM_ARM64_NOTAG_H

#include "kvm_util.h"
#include "memslot_kinds.h"

#define NOTAG_BITS	(KVM_ARM_MTE_PERM_PFNMAP | KVM_ARM_MTE_PERM_PAGES)

u64 notag_bit(enum memslot_class class);
u64 vcpu_pc(struct kvm_vcpu *vcpu);
void vcpu_skip_insn(struct kvm_vcpu *vcpu);
const char *mte_vcpu_run_notag(struct kvm_vcpu *vcpu, gpa_t gpa);

#endif /* SELFTEST_KVM_ARM64_NOTAG_H */
