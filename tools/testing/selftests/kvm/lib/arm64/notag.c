// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory without tags in VMs with MTE, see notag.h.
 */
#include "kvm_util.h"
#include "notag.h"
#include "test_util.h"

/**
 * notag_bit() - Tell what a VM with MTE needs to have memory that has no tags
 * @class:	What the memory is with regard to tags.
 *
 * Return: The bit of KVM_CAP_ARM_MTE_PERM, or 0 if it needs none.
 */
u64 notag_bit(enum memslot_class class)
{
	switch (class) {
	case MEMSLOT_PFNS:
		return KVM_ARM_MTE_PERM_PFNMAP;
	case MEMSLOT_PAGES:
		return KVM_ARM_MTE_PERM_PAGES;
	default:
		return 0;
	}
}

u64 vcpu_pc(struct kvm_vcpu *vcpu)
{
	return vcpu_get_reg(vcpu, ARM64_CORE_REG(regs.pc));
}

/* After an exit: go on after the instruction that it was for. */
void vcpu_skip_insn(struct kvm_vcpu *vcpu)
{
	vcpu_set_reg(vcpu, ARM64_CORE_REG(regs.pc), vcpu_pc(vcpu) + 4);
}

/**
 * mte_vcpu_run_notag() - Run a vCPU that is to access tags where there are none
 * @vcpu:	The vCPU.
 * @gpa:	Address of the page, in memory that is mapped with NoTagAccess.
 *
 * Return: NULL if the vCPU exits and reports the page, and the exit is counted,
 *	   otherwise what it does instead, valid until the next call.
 */
const char *mte_vcpu_run_notag(struct kvm_vcpu *vcpu, gpa_t gpa)
{
	u64 nr = vcpu_get_stat(vcpu, tag_access_exits);
	struct kvm_run *run = vcpu->run;
	static char failure[128];
	int ret = _vcpu_run(vcpu);

	if (!ret)
		return "doesn't exit";
	if (errno != EFAULT || run->exit_reason != KVM_EXIT_MEMORY_FAULT)
		snprintf(failure, sizeof(failure), "exits with errno %d, reason %u (%s)", errno,
			 run->exit_reason, exit_reason_str(run->exit_reason));
	else if (run->memory_fault.flags != KVM_MEMORY_EXIT_FLAG_TAGACCESS)
		snprintf(failure, sizeof(failure), "exits with flags 0x%llx",
			 run->memory_fault.flags);
	else if (run->memory_fault.gpa != gpa || run->memory_fault.size != getpagesize())
		snprintf(failure, sizeof(failure), "reports 0x%llx, size 0x%llx, and not 0x%lx",
			 run->memory_fault.gpa, run->memory_fault.size, gpa);
	else if (vcpu_get_stat(vcpu, tag_access_exits) != nr + 1)
		return "isn't counted";
	else
		return NULL;

	return failure;
}
