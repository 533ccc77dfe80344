// SPDX-License-Identifier: GPL-2.0-only
/*
 * mte_sysregs - Check the registers of memory tagging (MTE) of a vCPU.
 *
 * Four registers come with KVM_CAP_ARM_MTE, are part of the state of a vCPU
 * that a VMM has to move, and are hidden without it: RGSR_EL1 and GCR_EL1 (the
 * state of IRG), TFSR_EL1 and TFSRE0_EL1 (tag check faults that have not been
 * reported yet). Two others only tell the guest of MTE: GMID_EL1, which the
 * guest reads from the hardware or not at all, and CLIDR_EL1, with the kind of
 * cache that holds the tags.
 *
 * The values have to survive everything that gives the registers of the CPU to
 * somebody else, which is another vCPU or the host: the VMM restricts itself to
 * one tag, and vCPUs to others, and everybody takes tags at random and in turn
 * on the same CPU. A broken kernel that doesn't switch one of the registers
 * shows one of them the tags of the other.
 */
#include <sched.h>
#include <sys/prctl.h>

#include "kvm_util.h"
#include "mte.h"
#include "processor.h"
#include "test_util.h"

#ifndef PR_SET_TAGGED_ADDR_CTRL
#define PR_SET_TAGGED_ADDR_CTRL		55
#define PR_TAGGED_ADDR_ENABLE		BIT(0)
#define PR_MTE_TAG_SHIFT		3
#endif

#define CLIDR_TTYPE(clidr, level)	(((clidr) >> (33 + 2 * ((level) - 1))) & 3)
/* Unified cache of tags and data, where the tags are in lines of their own. */
#define CLIDR_TTYPE_UNIFIED		2

#define HOST_TAG	0x9
#define NR_RANDOM	64

/* Values that differ in each bit that can be set. */
static const struct reg {
	const char *name;
	u32 sysreg;
	u64 values[2];
} regs[] = {
	/* SEED and TAG. */
	{ "RGSR_EL1", SYS_RGSR_EL1, { 0x5a5a05, 0xa5a50a } },
	/* RRND and Exclude. */
	{ "GCR_EL1", SYS_GCR_EL1, { 0x1a5a5, 0x05a5a } },
	/* TF0 and TF1. */
	{ "TFSR_EL1", SYS_TFSR_EL1, { 0x1, 0x2 } },
	{ "TFSRE0_EL1", SYS_TFSRE0_EL1, { 0x2, 0x1 } },
};

enum {
	RGSR,
	GCR,
	TFSR,
	TFSRE0,
};

static u64 guest_read_reg(u64 reg, u64 b, u64 c, u64 d)
{
	switch (reg) {
	case RGSR:
		return read_sysreg_s(SYS_RGSR_EL1);
	case GCR:
		return read_sysreg_s(SYS_GCR_EL1);
	case TFSR:
		return read_sysreg_s(SYS_TFSR_EL1);
	case TFSRE0:
		return read_sysreg_s(SYS_TFSRE0_EL1);
	}

	return 0;
}

static u64 guest_write_reg(u64 reg, u64 val, u64 c, u64 d)
{
	switch (reg) {
	case RGSR:
		write_sysreg_s(val, SYS_RGSR_EL1);
		break;
	case GCR:
		write_sysreg_s(val, SYS_GCR_EL1);
		break;
	case TFSR:
		write_sysreg_s(val, SYS_TFSR_EL1);
		break;
	case TFSRE0:
		write_sysreg_s(val, SYS_TFSRE0_EL1);
		break;
	}
	isb();

	return 0;
}

static u64 guest_read_gmid(u64 a, u64 b, u64 c, u64 d)
{
	return read_sysreg_s(SYS_GMID_EL1);
}

static u64 guest_read_clidr(u64 a, u64 b, u64 c, u64 d)
{
	return read_sysreg(clidr_el1);
}

static bool guest_undef;

static void guest_undef_handler(struct ex_regs *regs)
{
	WRITE_ONCE(guest_undef, true);
	regs->pc += 4;
}

/* Whether reading a register, or writing it, isn't possible. */
static u64 guest_is_undef(u64 reg, u64 write, u64 gmid, u64 d)
{
	WRITE_ONCE(guest_undef, false);

	if (gmid)
		guest_read_gmid(0, 0, 0, 0);
	else if (write)
		guest_write_reg(reg, 0, 0, 0);
	else
		guest_read_reg(reg, 0, 0, 0);

	return READ_ONCE(guest_undef);
}

/* Get tags at random: the bitmap of those that came up. */
static u64 guest_random_tags(u64 nr, u64 b, u64 c, u64 d)
{
	u64 seen = 0;

	while (nr--)
		seen |= BIT(mte_random_tag(0));

	return seen;
}

static struct kvm_vm *vm_create_some(bool mte, u32 nr_vcpus, struct kvm_vcpu *vcpus[])
{
	struct kvm_vm *vm = __vm_create(VM_SHAPE_DEFAULT, nr_vcpus, 0);

	if (mte)
		vm_enable_cap(vm, KVM_CAP_ARM_MTE, 0);
	mte_vm_add_vcpus(vm, nr_vcpus, vcpus);
	vm_install_sync_handler(vm, VECTOR_SYNC_CURRENT, ESR_ELx_EC_UNKNOWN,
				guest_undef_handler);
	/* With FEAT_IDST, how an ID register that isn't there is reported. */
	vm_install_sync_handler(vm, VECTOR_SYNC_CURRENT, ESR_ELx_EC_SYS64,
				guest_undef_handler);

	return vm;
}

static bool in_list(struct kvm_reg_list *list, u64 id)
{
	u64 i;

	for (i = 0; i < list->n; i++) {
		if (list->reg[i] == id)
			return true;
	}

	return false;
}

static const char *run_list(void)
{
	struct kvm_reg_list *lists[2];
	const char *failure = NULL;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int mte, i;

	for (mte = 0; mte < 2; mte++) {
		vm = vm_create_some(mte, 1, &vcpu);
		lists[mte] = vcpu_get_reg_list(vcpu);
		kvm_vm_free(vm);
	}

	for (i = 0; i < ARRAY_SIZE(regs); i++) {
		u64 id = KVM_ARM64_SYS_REG(regs[i].sysreg);

		if (in_list(lists[0], id))
			failure = "a register is in the list without MTE";
		if (!in_list(lists[1], id))
			failure = "a register is missing from the list";
	}

	/* And nothing else changes. */
	if (lists[1]->n != lists[0]->n + ARRAY_SIZE(regs))
		failure = "MTE adds another number of registers";
	for (i = 0; i < lists[0]->n; i++) {
		if (!in_list(lists[1], lists[0]->reg[i]))
			failure = "a register is in the list without MTE only";
	}

	free(lists[0]);
	free(lists[1]);

	return failure;
}

static const char *run_hidden(void)
{
	const char *failure = NULL;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	u64 val;
	int i;

	vm = vm_create_some(false, 1, &vcpu);
	for (i = 0; i < ARRAY_SIZE(regs); i++) {
		u64 id = KVM_ARM64_SYS_REG(regs[i].sysreg);

		if (__vcpu_get_reg(vcpu, id, &val) != -1 || errno != ENOENT)
			failure = "the VMM can read a register";
		if (__vcpu_set_reg(vcpu, id, 0) != -1 || errno != ENOENT)
			failure = "the VMM can write a register";
		if (!mte_vcpu_call(vcpu, guest_is_undef, i, false, false, 0))
			failure = "the guest can read a register";
		if (!mte_vcpu_call(vcpu, guest_is_undef, i, true, false, 0))
			failure = "the guest can write a register";
	}
	kvm_vm_free(vm);

	return failure;
}

/* What the VMM restores is what the guest gets, and the reverse. */
static const char *run_get_set(void)
{
	const char *failure = NULL;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int i, j, k;

	vm = vm_create_some(true, 1, &vcpu);
	for (i = 0; i < 2; i++) {
		/* All of them first, for one could be stored in place of another. */
		for (j = 0; j < ARRAY_SIZE(regs); j++)
			vcpu_set_reg(vcpu, KVM_ARM64_SYS_REG(regs[j].sysreg), regs[j].values[i]);

		for (j = 0; j < ARRAY_SIZE(regs); j++) {
			if (vcpu_get_reg(vcpu, KVM_ARM64_SYS_REG(regs[j].sysreg)) !=
			    regs[j].values[i])
				failure = "the VMM reads another value than it has written";
			if (mte_vcpu_call(vcpu, guest_read_reg, j, 0, 0, 0) != regs[j].values[i])
				failure = "the guest reads another value than the VMM has written";
		}

		for (j = 0; j < ARRAY_SIZE(regs); j++) {
			mte_vcpu_call(vcpu, guest_write_reg, j, regs[j].values[!i], 0, 0);
			/* Those not written yet have not changed, not even by a call. */
			for (k = 0; k < ARRAY_SIZE(regs); k++) {
				if (vcpu_get_reg(vcpu, KVM_ARM64_SYS_REG(regs[k].sysreg)) !=
				    regs[k].values[k <= j ? !i : i])
					failure = "the guest has written another value";
			}
		}
	}
	kvm_vm_free(vm);

	return failure;
}

/* Different values in each of two vCPUs, which run in turn on one CPU. */
static const char *run_switch(void)
{
	const char *failure = NULL;
	struct kvm_vcpu *vcpus[2];
	struct kvm_vm *vm;
	int i, j, round;

	vm = vm_create_some(true, 2, vcpus);
	for (i = 0; i < 2; i++) {
		for (j = 0; j < ARRAY_SIZE(regs); j++)
			mte_vcpu_call(vcpus[i], guest_write_reg, j, regs[j].values[i], 0, 0);
	}

	for (round = 0; round < 4; round++) {
		for (j = 0; j < ARRAY_SIZE(regs); j++) {
			for (i = 0; i < 2; i++) {
				if (mte_vcpu_call(vcpus[i], guest_read_reg, j, 0, 0, 0) !=
				    regs[j].values[i])
					failure = "a vCPU has lost the value of a register";
			}
		}
	}
	kvm_vm_free(vm);

	return failure;
}

/* As many tags at random as it takes for one that isn't HOST_TAG to turn up. */
static u64 host_random_tags(void)
{
	u64 seen = 0;
	int i;

	for (i = 0; i < NR_RANDOM; i++)
		seen |= BIT(mte_random_tag(0));

	return seen;
}

/* Everybody gets tags of their own choice. The VMM can't read its GCR_EL1. */
static const char *run_host(void)
{
	u64 exclude[2] = { 0x00ff, 0xff00 };
	const char *failure = NULL;
	struct kvm_vcpu *vcpus[2];
	struct kvm_vm *vm;
	int i, round;
	u64 seen;

	vm = vm_create_some(true, 2, vcpus);
	for (i = 0; i < 2; i++)
		mte_vcpu_call(vcpus[i], guest_write_reg, GCR, exclude[i], 0, 0);

	TEST_ASSERT(!prctl(PR_SET_TAGGED_ADDR_CTRL, PR_TAGGED_ADDR_ENABLE |
			   BIT(HOST_TAG) << PR_MTE_TAG_SHIFT, 0, 0, 0),
		    "prctl() failed, errno %d", errno);
	TEST_ASSERT(host_random_tags() == BIT(HOST_TAG), "The VMM can't choose its tags");

	for (round = 0; round < 4; round++) {
		for (i = 0; i < 2; i++) {
			seen = mte_vcpu_call(vcpus[i], guest_random_tags, NR_RANDOM, 0, 0, 0);
			if (seen & exclude[i])
				failure = "a vCPU got a tag that it has excluded";
			/* All the same would mean a generator that got stuck. */
			if (!(seen & (seen - 1)))
				failure = "a vCPU got the same tag all the time";
			if (host_random_tags() != BIT(HOST_TAG))
				failure = "the VMM got a tag that it has excluded";
		}
	}

	TEST_ASSERT(!prctl(PR_SET_TAGGED_ADDR_CTRL, 0, 0, 0, 0), "prctl() failed, errno %d", errno);
	kvm_vm_free(vm);

	return failure;
}

/* A generator that continues where it was saved yields the same tags again. */
static u64 guest_random_sequence(u64 a, u64 b, u64 c, u64 d)
{
	u64 tags = 0;
	int i;

	for (i = 0; i < 16; i++)
		tags = tags << 4 | mte_random_tag(0);

	return tags;
}

static const char *run_sequence(void)
{
	u64 rgsr = KVM_ARM64_SYS_REG(SYS_RGSR_EL1), gcr = KVM_ARM64_SYS_REG(SYS_GCR_EL1);
	struct kvm_vcpu *vcpu, *other;
	const char *failure = NULL;
	struct kvm_vm *vm, *dest;
	u64 tags, seed;

	/* Once GCR_EL1.RRND is zero, the tags are determined by the seed. */
	vm = vm_create_some(true, 1, &vcpu);
	vcpu_set_reg(vcpu, gcr, 0x0001);
	vcpu_set_reg(vcpu, rgsr, 0x123405);
	mte_vcpu_call(vcpu, guest_random_sequence, 0, 0, 0, 0);
	seed = vcpu_get_reg(vcpu, rgsr);
	if (seed == 0x123405)
		failure = "the seed has not changed";
	tags = mte_vcpu_call(vcpu, guest_random_sequence, 0, 0, 0, 0);

	dest = vm_create_some(true, 1, &other);
	vcpu_set_reg(other, gcr, vcpu_get_reg(vcpu, gcr));
	vcpu_set_reg(other, rgsr, seed);
	if (mte_vcpu_call(other, guest_random_sequence, 0, 0, 0, 0) != tags)
		failure = "a vCPU with the same state gets other tags";

	kvm_vm_free(dest);
	kvm_vm_free(vm);

	return failure;
}

static const char *run_gmid(void)
{
	const char *failure = NULL;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	u64 val;
	int mte;

	for (mte = 0; mte < 2; mte++) {
		vm = vm_create_some(mte, 1, &vcpu);
		if (mte_vcpu_call(vcpu, guest_is_undef, 0, 0, true, 0) == mte)
			failure = mte ? "the guest can't read it" :
					"the guest can read it without MTE";

		/* It tells of the hardware, and is none of the VMM's business. */
		if (!__vcpu_get_reg(vcpu, KVM_ARM64_SYS_REG(SYS_GMID_EL1), &val))
			failure = "the VMM can read it";

		/* From 2, a block of 16 bytes of tags, to 6, which is 256 bytes. */
		if (mte && !failure) {
			val = mte_vcpu_call(vcpu, guest_read_gmid, 0, 0, 0, 0);
			if (val < 2 || val > 6)
				failure = "the guest reads a reserved value";
		}
		kvm_vm_free(vm);
	}

	return failure;
}

static const char *run_clidr(void)
{
	const char *failure = NULL;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int mte, level;
	u64 clidr;

	for (mte = 0; mte < 2; mte++) {
		vm = vm_create_some(mte, 1, &vcpu);
		clidr = vcpu_get_reg(vcpu, KVM_ARM64_SYS_REG(SYS_CLIDR_EL1));
		for (level = 1; level <= 7; level++) {
			bool last = level == FIELD_GET(GENMASK(26, 24), clidr);

			if (CLIDR_TTYPE(clidr, level) !=
			    (mte && last ? CLIDR_TTYPE_UNIFIED : 0))
				failure = mte ? "tags are not in the last level of cache" :
						"there is a cache for tags without MTE";
		}
		if (mte_vcpu_call(vcpu, guest_read_clidr, 0, 0, 0, 0) != clidr)
			failure = "the guest reads another value than the VMM";
		kvm_vm_free(vm);
	}

	return failure;
}

static const struct {
	const char *name;
	const char *(*run)(void);
} testcases[] = {
	{ "KVM_GET_REG_LIST", run_list },
	{ "hidden without MTE", run_hidden },
	{ "read and written by VMM and guest", run_get_set },
	{ "two vCPUs on a CPU", run_switch },
	{ "tags at random, two vCPUs and the VMM on a CPU", run_host },
	{ "tags at random, continued elsewhere", run_sequence },
	{ "GMID_EL1", run_gmid },
	{ "CLIDR_EL1", run_clidr },
};

int main(void)
{
	const char *failure;
	cpu_set_t cpus;
	int i;

	ksft_print_header();
	mte_require();
	ksft_set_plan(ARRAY_SIZE(testcases));

	/* Registers that aren't switched are seen on the same CPU only. */
	CPU_ZERO(&cpus);
	CPU_SET(sched_getcpu(), &cpus);
	kvm_sched_setaffinity(0, sizeof(cpus), &cpus);

	for (i = 0; i < ARRAY_SIZE(testcases); i++) {
		failure = testcases[i].run();
		ksft_test_result(!failure, "%s%s%s\n", testcases[i].name,
				 failure ? ": " : "", failure ?: "");
	}

	ksft_finished();
}
