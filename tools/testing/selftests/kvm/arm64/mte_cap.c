// SPDX-License-Identifier: GPL-2.0-only
/*
 * mte_cap - Check who can have memory tagging (KVM_CAP_ARM_MTE), and that
 * nobody else has a part of it.
 *
 * The capability is per VM, and off until it is enabled. It has to be enabled
 * before the first vCPU, as the ID registers and the traps of a vCPU depend on
 * it. What can't have tags, AArch32 and guest_memfd, is refused whichever comes
 * first. Each refusal is checked to leave the VM as it was: a broken kernel
 * that says no but has set the flag all the same would show MTE in the ID
 * registers of the next vCPU.
 *
 * A VM without the capability runs next to memory that has tags. Its guest can
 * execute the instructions, since they can't be trapped, but must neither see
 * nor change a tag.
 *
 * The test runs on hosts without MTE for guests as well (no MTE, or protected
 * mode): enabling it must fail there.
 */
#include <sys/auxv.h>
#include <sys/mman.h>

#include <linux/sizes.h>

#include <asm/hwcap.h>
#include <asm/mman.h>

#include "kvm_util.h"
#include "mte.h"
#include "processor.h"
#include "test_util.h"

#define DATA_SLOT	1
#define TEST_TAG	0x5
#define OTHER_TAG	0x7

static int enable(struct kvm_vm *vm, u32 flags)
{
	struct kvm_enable_cap cap = { .cap = KVM_CAP_ARM_MTE, .flags = flags };

	return __vm_ioctl(vm, KVM_ENABLE_CAP, &cap);
}

static bool refused(int ret)
{
	return ret == -1 && errno == EINVAL;
}

/* Which fields that tell of MTE are set: at most what the VM should have. */
static const char *check_id_regs(struct kvm_vcpu *vcpu, bool mte)
{
	u64 pfr1 = vcpu_get_reg(vcpu, KVM_ARM64_SYS_REG(SYS_ID_AA64PFR1_EL1));
	u64 pfr2 = vcpu_get_reg(vcpu, KVM_ARM64_SYS_REG(SYS_ID_AA64PFR2_EL1));
	bool mte3 = getauxval(AT_HWCAP2) & HWCAP2_MTE3;
	u64 expected = 0;

	if (mte)
		expected = mte3 ? ID_AA64PFR1_EL1_MTE_MTE3 : ID_AA64PFR1_EL1_MTE_MTE2;

	if (SYS_FIELD_GET(ID_AA64PFR1_EL1, MTE, pfr1) != expected)
		return "ID_AA64PFR1_EL1.MTE isn't what it should be";

	if (!mte && (pfr1 & ID_AA64PFR1_EL1_MTE_frac_MASK))
		return "ID_AA64PFR1_EL1.MTE_frac is set";

	if (!mte && (pfr2 & (ID_AA64PFR2_EL1_MTEFAR_MASK |
			     ID_AA64PFR2_EL1_MTESTOREONLY_MASK)))
		return "ID_AA64PFR2_EL1 tells of MTE";

	if (mte_vcpu_call(vcpu, mte_guest_pfr1, 0, 0, 0, 0) != pfr1 ||
	    mte_vcpu_call(vcpu, mte_guest_pfr2, 0, 0, 0, 0) != pfr2)
		return "the guest reads another value than the VMM";

	return NULL;
}

/* What becomes of a VM from here on. */
static const char *check_vm(struct kvm_vm *vm, bool mte)
{
	struct kvm_vcpu *vcpu;

	mte_vm_add_vcpus(vm, 1, &vcpu);

	return check_id_regs(vcpu, mte);
}

static const char *run_default(struct kvm_vm *vm)
{
	return check_vm(vm, false);
}

static const char *run_not_offered(struct kvm_vm *vm)
{
	if (!refused(enable(vm, 0)))
		return "it could be enabled all the same";

	return check_vm(vm, false);
}

static const char *run_enabled(struct kvm_vm *vm)
{
	if (enable(vm, 0))
		return "it can't be enabled";

	return check_vm(vm, true);
}

static const char *run_twice(struct kvm_vm *vm)
{
	if (enable(vm, 0) || enable(vm, 0))
		return "it can't be enabled";

	return check_vm(vm, true);
}

static const char *run_flags(struct kvm_vm *vm)
{
	if (!refused(enable(vm, 1)) || !refused(enable(vm, BIT(31))))
		return "flags were accepted";

	return check_vm(vm, false);
}

static const char *run_after_vcpu(struct kvm_vm *vm)
{
	const char *failure;
	struct kvm_vcpu *vcpu;

	mte_vm_add_vcpus(vm, 1, &vcpu);
	if (!refused(enable(vm, 0)))
		return "it could be enabled with a vCPU there";

	failure = check_id_regs(vcpu, false);
	if (failure)
		return failure;

	return refused(enable(vm, 0)) ? NULL : "it could be enabled after a vCPU has run";
}

static const char *run_after_memslot(struct kvm_vm *vm)
{
	size_t size = getpagesize();
	void *mem;

	mem = kvm_mmap(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	vm_set_user_memory_region(vm, DATA_SLOT, 0, MTE_TEST_GPA, size, mem);
	if (enable(vm, 0))
		return "it can't be enabled with a memslot there";

	return check_vm(vm, true);
}

/* Without the capability such a VM is fine, or there would be nothing to refuse. */
static const char *run_aarch32(struct kvm_vm *vm)
{
	struct kvm_vm *other = vm_create_barebones();
	struct kvm_vcpu_init init;
	struct kvm_vcpu *vcpu;
	const char *failure = NULL;
	int ret;

	vm_ioctl(vm, KVM_ARM_PREFERRED_TARGET, &init);
	init.features[0] |= BIT(KVM_ARM_VCPU_EL1_32BIT);

	vcpu = __vm_vcpu_add(other, 0);
	if (__vcpu_ioctl(vcpu, KVM_ARM_VCPU_INIT, &init))
		failure = "an AArch32 vCPU is refused without MTE";
	kvm_vm_free(other);
	if (failure)
		return failure;

	if (enable(vm, 0))
		return "it can't be enabled";

	vcpu = __vm_vcpu_add(vm, 0);
	ret = __vcpu_ioctl(vcpu, KVM_ARM_VCPU_INIT, &init);
	if (!refused(ret))
		return "an AArch32 vCPU was accepted";

	/* The vCPU isn't lost, it may be AArch64. */
	init.features[0] &= ~BIT(KVM_ARM_VCPU_EL1_32BIT);
	if (__vcpu_ioctl(vcpu, KVM_ARM_VCPU_INIT, &init))
		return "an AArch64 vCPU is refused after the attempt";

	return NULL;
}

static int set_gmem(struct kvm_vm *vm, int fd, void *mem, size_t size)
{
	return __vm_set_user_memory_region2(vm, DATA_SLOT, KVM_MEM_GUEST_MEMFD,
					    MTE_TEST_GPA, size, mem, fd, 0);
}

static const char *run_guest_memfd(struct kvm_vm *vm, bool cap_first)
{
	u64 flags = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED;
	size_t size = getpagesize();
	const char *failure = NULL;
	void *mem;
	int fd;

	if (cap_first && enable(vm, 0))
		return "it can't be enabled";

	fd = vm_create_guest_memfd(vm, size, flags);
	/* A mapping of the file isn't needed, and would be refused as such. */
	mem = kvm_mmap(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);

	if (cap_first) {
		if (!refused(set_gmem(vm, fd, mem, size)))
			failure = "guest_memfd was accepted in a VM with MTE";
	} else {
		if (set_gmem(vm, fd, mem, size))
			failure = "guest_memfd is refused without MTE";
		else if (!refused(enable(vm, 0)))
			failure = "it could be enabled with guest_memfd there";
	}

	if (!failure)
		failure = check_vm(vm, cap_first);

	kvm_munmap(mem, size);
	kvm_close(fd);

	return failure;
}

static const char *run_guest_memfd_first(struct kvm_vm *vm)
{
	return run_guest_memfd(vm, false);
}

static const char *run_guest_memfd_after(struct kvm_vm *vm)
{
	return run_guest_memfd(vm, true);
}

/* The ID register follows the capability, and not the other way round. */
static const char *run_id_reg(struct kvm_vm *vm, bool mte)
{
	u64 id = KVM_ARM64_SYS_REG(SYS_ID_AA64PFR1_EL1), val;
	struct kvm_vcpu *vcpu;

	if (mte && enable(vm, 0))
		return "it can't be enabled";

	mte_vm_add_vcpus(vm, 1, &vcpu);
	val = vcpu_get_reg(vcpu, id);
	val &= ~ID_AA64PFR1_EL1_MTE_MASK;
	if (!mte)
		val |= SYS_FIELD_PREP_ENUM(ID_AA64PFR1_EL1, MTE, MTE2);

	if (!refused(__vcpu_set_reg(vcpu, id, val)))
		return "the ID register could be changed";

	return check_id_regs(vcpu, mte);
}

static const char *run_id_reg_on(struct kvm_vm *vm)
{
	return run_id_reg(vm, false);
}

static const char *run_id_reg_off(struct kvm_vm *vm)
{
	return run_id_reg(vm, true);
}

static u64 guest_load_tag(u64 addr, u64 b, u64 c, u64 d)
{
	return mte_load_tag((void *)addr);
}

/* The same accesses in a VM with MTE prove that they would have an effect. */
static const char *run_access(struct kvm_vm *vm, bool mte)
{
	size_t size = getpagesize();
	const char *failure = NULL;
	struct kvm_vcpu *vcpu;
	struct mte_mem mem;
	u8 *alias, seen;

	if (mte && enable(vm, 0))
		return "it can't be enabled";

	mte_vm_add_vcpus(vm, 1, &vcpu);
	TEST_ASSERT(!mte_mem_alloc(&mem, MTE_MEM_MEMFD, 0, size), "No memory");
	alias = mte_mem_alias(&mem, PROT_READ | PROT_WRITE | PROT_MTE);
	mte_store_tags(alias, size, TEST_TAG);
	mte_vm_add_slot(vm, DATA_SLOT, 0, MTE_TEST_GPA, mem.hva, mem.size);

	seen = mte_vcpu_call(vcpu, guest_load_tag, MTE_TEST_GPA, 0, 0, 0);
	if (seen != (mte ? TEST_TAG : 0))
		failure = mte ? "the guest doesn't see the tag" : "the guest sees a tag";

	mte_vcpu_call(vcpu, mte_guest_store_tags, MTE_TEST_GPA, size, OTHER_TAG, 0);
	if (!mte_have_tag(alias, size, mte ? OTHER_TAG : TEST_TAG))
		failure = mte ? "the guest can't store tags" : "the guest stored a tag";

	kvm_munmap(alias, size);
	mte_mem_free(&mem);

	return failure;
}

static const char *run_no_access(struct kvm_vm *vm)
{
	return run_access(vm, false);
}

static const char *run_has_access(struct kvm_vm *vm)
{
	return run_access(vm, true);
}

static const struct testcase {
	const char *name;
	/* Whether it is about a host that has MTE for guests, or has not. */
	bool offered;
	bool not_offered;
	const char *(*run)(struct kvm_vm *vm);
} testcases[] = {
	{ "off unless enabled", true, true, run_default },
	{ "refused where it isn't offered", false, true, run_not_offered },
	{ "enabled", true, false, run_enabled },
	{ "enabled twice", true, false, run_twice },
	{ "with flags", true, false, run_flags },
	{ "after a vCPU", true, false, run_after_vcpu },
	{ "after a memslot", true, false, run_after_memslot },
	{ "AArch32 vCPU", true, false, run_aarch32 },
	{ "guest_memfd, then MTE", true, false, run_guest_memfd_first },
	{ "MTE, then guest_memfd", true, false, run_guest_memfd_after },
	{ "ID register doesn't enable it", true, true, run_id_reg_on },
	{ "ID register doesn't disable it", true, false, run_id_reg_off },
	{ "tags in a VM with MTE", true, false, run_has_access },
	{ "tags in a VM without MTE", true, false, run_no_access },
};

static const char *why_skip(const struct testcase *test)
{
	bool offered = kvm_check_cap(KVM_CAP_ARM_MTE);

	if (offered && !test->offered)
		return "MTE is offered";

	if (!offered && !test->not_offered)
		return "MTE isn't offered";

	if (test->run == run_aarch32 && !kvm_check_cap(KVM_CAP_ARM_EL1_32BIT))
		return "no AArch32 at EL1";

	return NULL;
}

int main(void)
{
	const char *reason, *failure;
	struct kvm_vm *vm;
	int i;

	ksft_print_header();
	ksft_set_plan(ARRAY_SIZE(testcases));

	/* Nobody can have what the hardware doesn't. */
	TEST_ASSERT(!kvm_check_cap(KVM_CAP_ARM_MTE) || getauxval(AT_HWCAP2) & HWCAP2_MTE,
		    "KVM offers MTE, which the host doesn't have");

	for (i = 0; i < ARRAY_SIZE(testcases); i++) {
		const struct testcase *test = &testcases[i];

		reason = why_skip(test);
		if (reason) {
			ksft_test_result_skip("%s: %s\n", test->name, reason);
			continue;
		}

		vm = __vm_create(VM_SHAPE_DEFAULT, 1, 0);
		failure = test->run(vm);
		ksft_test_result(!failure, "%s%s%s\n", test->name,
				 failure ? ": " : "", failure ?: "");
		kvm_vm_free(vm);
	}

	ksft_finished();
}
