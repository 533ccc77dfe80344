// SPDX-License-Identifier: GPL-2.0-only
/*
 * mte_checks - Check that tag checking works in a guest as the architecture
 * says, at EL1 and at EL0.
 *
 * The guest makes an access with the right tag, and one with a wrong tag, in
 * each mode. The second must end in a synchronous exception, with the right
 * syndrome and address and without the access being performed, or must be
 * noted in TFSR_EL1 or TFSRE0_EL1, or must not have any consequence. KVM keeps
 * out of this, but for the registers, which it has to switch: TFSR*_EL1 are read
 * from the VMM, after the vCPU was put. A kernel that didn't save them would
 * report no fault, or report one where there was none.
 *
 * An exception sets PSTATE.TCO, for an exception handler can't do much with a
 * tag check fault of its own. KVM has to do the same for exceptions that it
 * emulates. A kernel that doesn't has the guest's handler take tag check faults
 * that it wouldn't on hardware. The handler tells the value that it was
 * entered with.
 */
#include <sys/mman.h>

#include <linux/sizes.h>

#include "kvm_util.h"
#include "mte.h"
#include "processor.h"
#include "test_util.h"

#define DATA_SLOT	1
#define RIGHT_TAG	0x5
#define WRONG_TAG	0x7
#define OLD_DATA	0x0123456789abcdefUL
#define NEW_DATA	0xfedcba9876543210UL

/* FAR_EL1 has these bits only with FEAT_MTE_TAGGED_FAR. They are ignored by TBI. */
#define FAR_UNKNOWN	GENMASK_ULL(63, 60)
#define TOP_NIBBLE	0xc000000000000000UL

#define DFSC_TAG_CHECK	0x11
#define DFSC_EXTERNAL	0x10

/* Pages of the memslot: data of EL1, data of EL0, instructions of EL0. */
#define EL1_DATA	0
#define EL0_DATA	1
#define EL0_LOAD	2
#define EL0_STORE	3
#define NR_PAGES	4

static size_t page_size;

/* What exception handlers of the guest have seen. */
static struct sight {
	u64 nr;
	u64 esr;
	u64 far;
	u64 spsr;
	u64 tco;
} seen, seen_leaving_el0;

/* The guest. */

static void set_tco(bool tco)
{
	if (tco)
		asm volatile(MTE_PREAMBLE "msr tco, #1" : : : "memory");
	else
		asm volatile(MTE_PREAMBLE "msr tco, #0" : : : "memory");
}

static void see(struct sight *sight, struct ex_regs *regs)
{
	asm volatile(MTE_PREAMBLE "mrs %0, tco" : "=r"(sight->tco));

	sight->nr++;
	sight->esr = read_sysreg(esr_el1);
	sight->far = read_sysreg(far_el1);
	sight->spsr = regs->pstate;
}

/* The instruction is not to be run again. */
static void guest_skip(struct ex_regs *regs)
{
	see(&seen, regs);
	regs->pc += 4;
}

/* The instruction was run, or had nothing to do with it. */
static void guest_continue(struct ex_regs *regs)
{
	see(&seen, regs);
}

static void guest_data_abort(struct ex_regs *regs)
{
	if ((read_sysreg(esr_el1) & ESR_ELx_FSC) == DFSC_EXTERNAL)
		guest_continue(regs);
	else
		guest_skip(regs);
}

static void guest_leave_el0(struct ex_regs *regs)
{
	see(&seen_leaving_el0, regs);
	mte_guest_leave_el0(regs);
}

static u64 guest_el1(u64 addr, u64 store, u64 data, u64 tco)
{
	set_tco(tco);
	if (store)
		asm volatile("str %0, [%1]" : : "r"(data), "r"(addr) : "memory");
	else
		asm volatile("ldr %0, [%1]" : "+r"(data) : "r"(addr) : "memory");
	/* Make TFSR_EL1 up to date. */
	dsb(sy);
	isb();
	set_tco(false);

	return data;
}

static u64 guest_prepare(u64 addr, u64 data, u64 tag, u64 d)
{
	WRITE_ONCE(*(u64 *)addr, data);
	mte_store_tag((void *)addr, tag);

	return 0;
}

static u64 guest_load(u64 addr, u64 b, u64 c, u64 d)
{
	return READ_ONCE(*(u64 *)addr);
}

static u64 guest_set_tco(u64 tco, u64 b, u64 c, u64 d)
{
	set_tco(tco);

	return 0;
}

/* The host. */

struct env {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	struct mte_mem mem;
	bool has_asymm;
	bool has_store_only;
	bool has_tagged_far;
};

enum outcome {
	NOTHING,
	SYNC,
	ASYNC,
};

struct mode {
	const char *name;
	u64 tcf;
	bool store_only;
	bool tco;
	enum outcome load;
	enum outcome store;
};

static const struct mode modes[] = {
	{ "none", SCTLR_EL1_TCF_NONE, false, false, NOTHING, NOTHING },
	{ "synchronous", SCTLR_EL1_TCF_SYNC, false, false, SYNC, SYNC },
	{ "asynchronous", SCTLR_EL1_TCF_ASYNC, false, false, ASYNC, ASYNC },
	{ "asymmetric", SCTLR_EL1_TCF_ASYMM, false, false, SYNC, ASYNC },
	{ "synchronous, store-only", SCTLR_EL1_TCF_SYNC, true, false, NOTHING, SYNC },
	{ "asynchronous, store-only", SCTLR_EL1_TCF_ASYNC, true, false, NOTHING, ASYNC },
	{ "synchronous, PSTATE.TCO", SCTLR_EL1_TCF_SYNC, false, true, NOTHING, NOTHING },
	{ "asynchronous, PSTATE.TCO", SCTLR_EL1_TCF_ASYNC, false, true, NOTHING, NOTHING },
};

static struct sight *seen_by(struct env *env)
{
	return addr_gva2hva(env->vm, (gva_t)&seen);
}

static struct sight *seen_leaving_el0_by(struct env *env)
{
	return addr_gva2hva(env->vm, (gva_t)&seen_leaving_el0);
}

static u64 page_addr(int page)
{
	return MTE_TEST_GPA + page * page_size;
}

/* One exception level is in the mode, the other has no checks. */
static void set_mode(struct env *env, const struct mode *mode, bool el0)
{
	u64 val = vcpu_get_reg(env->vcpu, KVM_ARM64_SYS_REG(SYS_SCTLR_EL1));

	val &= ~(SCTLR_EL1_TCF_MASK | SCTLR_EL1_TCF0_MASK |
		 SCTLR_EL1_TCSO_MASK | SCTLR_EL1_TCSO0_MASK);
	val |= SCTLR_EL1_ATA0_MASK;
	if (el0)
		val |= SYS_FIELD_PREP(SCTLR_EL1, TCF0, mode->tcf) |
		       SYS_FIELD_PREP(SCTLR_EL1, TCSO0, mode->store_only);
	else
		val |= SYS_FIELD_PREP(SCTLR_EL1, TCF, mode->tcf) |
		       SYS_FIELD_PREP(SCTLR_EL1, TCSO, mode->store_only);
	vcpu_set_reg(env->vcpu, KVM_ARM64_SYS_REG(SYS_SCTLR_EL1), val);
}

static const char *check_syndrome(struct env *env, u64 addr, bool el0, bool store, bool tco)
{
	u64 esr = seen_by(env)->esr, far = seen_by(env)->far;
	u64 ignored = env->has_tagged_far ? 0 : FAR_UNKNOWN;

	if (ESR_ELx_EC(esr) != (el0 ? ESR_ELx_EC_DABT_LOW : ESR_ELx_EC_DABT_CUR))
		return "not a data abort";

	if ((esr & ESR_ELx_FSC) != DFSC_TAG_CHECK)
		return "not a tag check fault";

	if (!!(esr & ESR_ELx_WNR) != store)
		return "wrong ESR_EL1.WnR";

	if ((far & ~ignored) != (addr & ~ignored))
		return "wrong FAR_EL1";

	if (!seen_by(env)->tco)
		return "PSTATE.TCO isn't set";

	return !!(seen_by(env)->spsr & SPSR_TCO) != tco ? "wrong SPSR_EL1.TCO" : NULL;
}

static const char *run_access(struct env *env, const struct mode *mode, bool el0, bool store,
			      u8 tag, enum outcome expected)
{
	u64 page = page_addr(el0 ? EL0_DATA : EL1_DATA), data, tfsr, tfsre0;
	u64 nr_exceptions = expected == SYNC;
	u64 addr = (u64)mte_tagged_ptr((void *)page, tag) | TOP_NIBBLE;

	mte_vcpu_call(env->vcpu, guest_prepare, page, OLD_DATA, RIGHT_TAG, 0);
	set_mode(env, mode, el0);
	vcpu_set_reg(env->vcpu, KVM_ARM64_SYS_REG(SYS_TFSR_EL1), 0);
	vcpu_set_reg(env->vcpu, KVM_ARM64_SYS_REG(SYS_TFSRE0_EL1), 0);
	memset(seen_by(env), 0, sizeof(struct sight));

	if (el0)
		data = mte_vcpu_call(env->vcpu, mte_guest_el0, addr,
				     page_addr(store ? EL0_STORE : EL0_LOAD), NEW_DATA, mode->tco);
	else
		data = mte_vcpu_call(env->vcpu, guest_el1, addr, store, NEW_DATA, mode->tco);

	tfsr = vcpu_get_reg(env->vcpu, KVM_ARM64_SYS_REG(SYS_TFSR_EL1));
	tfsre0 = vcpu_get_reg(env->vcpu, KVM_ARM64_SYS_REG(SYS_TFSRE0_EL1));
	set_mode(env, &modes[0], el0);

	if (seen_by(env)->nr != nr_exceptions)
		return seen_by(env)->nr ? "an exception" : "no exception";

	/* TF0 is for the half of the address space that has bit 55 clear. */
	if (tfsr != (expected == ASYNC && !el0 ? SYS_TFSR_EL1_TF0 : 0))
		return "wrong TFSR_EL1";

	if (tfsre0 != (expected == ASYNC && el0 ? SYS_TFSR_EL1_TF0 : 0))
		return "wrong TFSRE0_EL1";

	if (!store && data != (expected == SYNC ? NEW_DATA : OLD_DATA))
		return "wrong data were loaded";

	data = mte_vcpu_call(env->vcpu, guest_load, page, 0, 0, 0);
	if (data != (store && expected != SYNC ? NEW_DATA : OLD_DATA))
		return "wrong data in memory";

	return expected == SYNC ? check_syndrome(env, addr, el0, store, mode->tco) : NULL;
}

static void run_mode(struct env *env, const struct mode *mode, bool el0, bool store)
{
	char *name = strdup_printf("EL%d %s, %s", !el0, store ? "store" : "load", mode->name);
	const char *failure;

	if (mode->tcf == SCTLR_EL1_TCF_ASYMM && !env->has_asymm) {
		ksft_test_result_skip("%s: no FEAT_MTE3\n", name);
	} else if (mode->store_only && !env->has_store_only) {
		ksft_test_result_skip("%s: no FEAT_MTE_STORE_ONLY\n", name);
	} else {
		failure = run_access(env, mode, el0, store, RIGHT_TAG, NOTHING);
		if (failure)
			ksft_print_msg("%s, right tag: %s\n", name, failure);
		else
			failure = run_access(env, mode, el0, store, WRONG_TAG,
					     store ? mode->store : mode->load);

		ksft_test_result(!failure, "%s%s%s\n", name, failure ? ": " : "", failure ?: "");
	}

	free(name);
}

/* Exceptions, and whether they set PSTATE.TCO. */

static u64 guest_svc(u64 tco, u64 b, u64 c, u64 d)
{
	set_tco(tco);
	asm volatile("svc #0" : : : "memory");
	set_tco(false);

	return 0;
}

/* There is no PMU in the VM. KVM traps the register, and injects an exception. */
static u64 guest_undef(u64 tco, u64 b, u64 c, u64 d)
{
	set_tco(tco);
	asm volatile("mrs x0, pmcr_el0" : : : "x0", "memory");
	set_tco(false);

	return 0;
}

static u64 guest_unmask(u64 tco, u64 b, u64 c, u64 d)
{
	set_tco(tco);
	local_serror_enable();
	isb();
	local_serror_disable();
	set_tco(false);

	return 0;
}

static u64 guest_nop(u64 a, u64 b, u64 c, u64 d)
{
	return 0;
}

static void raise_svc(struct env *env, bool tco)
{
	mte_vcpu_call(env->vcpu, guest_svc, tco, 0, 0, 0);
}

static void raise_svc_el0(struct env *env, bool tco)
{
	memset(seen_leaving_el0_by(env), 0, sizeof(struct sight));
	mte_vcpu_call(env->vcpu, mte_guest_el0, page_addr(EL0_DATA), page_addr(EL0_LOAD), 0, tco);
	*seen_by(env) = *seen_leaving_el0_by(env);
}

static void raise_undef(struct env *env, bool tco)
{
	mte_vcpu_call(env->vcpu, guest_undef, tco, 0, 0, 0);
}

static void raise_external_abort(struct env *env, bool tco)
{
	struct kvm_vcpu_events events = { .exception.ext_dabt_pending = true };

	/* It is taken before the guest does anything else. */
	mte_vcpu_call(env->vcpu, guest_set_tco, tco, 0, 0, 0);
	vcpu_events_set(env->vcpu, &events);
	mte_vcpu_call(env->vcpu, guest_nop, 0, 0, 0, 0);
	mte_vcpu_call(env->vcpu, guest_set_tco, false, 0, 0, 0);
}

static void raise_serror(struct env *env, bool tco)
{
	struct kvm_vcpu_events events = { .exception.serror_pending = true };

	vcpu_events_set(env->vcpu, &events);
	mte_vcpu_call(env->vcpu, guest_unmask, tco, 0, 0, 0);
}

static const struct {
	const char *name;
	void (*raise)(struct env *env, bool tco);
	u64 ec;
} exceptions[] = {
	{ "SVC at EL1", raise_svc, ESR_ELx_EC_SVC64 },
	{ "SVC at EL0", raise_svc_el0, ESR_ELx_EC_SVC64 },
	{ "undefined instruction by KVM", raise_undef, ESR_ELx_EC_UNKNOWN },
	{ "external abort by KVM", raise_external_abort, ESR_ELx_EC_DABT_CUR },
	{ "SError by KVM", raise_serror, ESR_ELx_EC_SERROR },
};

static void run_exception(struct env *env, int i, bool tco)
{
	const char *failure = NULL;

	memset(seen_by(env), 0, sizeof(struct sight));
	exceptions[i].raise(env, tco);

	if (seen_by(env)->nr != 1 || ESR_ELx_EC(seen_by(env)->esr) != exceptions[i].ec)
		failure = "wrong exception, or none";
	else if (!seen_by(env)->tco)
		failure = "PSTATE.TCO isn't set";
	else if (!!(seen_by(env)->spsr & SPSR_TCO) != tco)
		failure = "SPSR_EL1.TCO isn't what it was before";

	ksft_test_result(!failure, "%s, TCO was %d%s%s\n", exceptions[i].name, tco,
			 failure ? ": " : "", failure ?: "");
}

static void env_init(struct env *env)
{
	static const u32 insns[][2] = {
		{ 0xf9400020, 0xd4000001 },	/* ldr x0, [x1]; svc #0 */
		{ 0xf9000020, 0xd4000001 },	/* str x0, [x1]; svc #0 */
	};
	const char *reason;
	u64 gva, val;

	reason = mte_mem_alloc(&env->mem, MTE_MEM_ANON, 0, NR_PAGES * page_size);
	TEST_ASSERT(!reason, "No memory: %s", reason);
	memcpy(env->mem.hva + EL0_LOAD * page_size, insns[0], sizeof(insns[0]));
	memcpy(env->mem.hva + EL0_STORE * page_size, insns[1], sizeof(insns[1]));

	env->vm = mte_vm_create(1, env->mem.size, &env->vcpu);
	mte_vm_add_slot(env->vm, DATA_SLOT, 0, MTE_TEST_GPA, env->mem.hva, env->mem.size);
	for (gva = page_addr(EL0_DATA); gva < page_addr(NR_PAGES); gva += env->vm->page_size)
		*virt_get_pte_hva(env->vm, gva) |= PTE_USER;

	vm_install_sync_handler(env->vm, VECTOR_SYNC_CURRENT, ESR_ELx_EC_DABT_CUR,
				guest_data_abort);
	vm_install_sync_handler(env->vm, VECTOR_SYNC_CURRENT, ESR_ELx_EC_UNKNOWN, guest_skip);
	vm_install_sync_handler(env->vm, VECTOR_SYNC_CURRENT, ESR_ELx_EC_SVC64, guest_continue);
	vm_install_sync_handler(env->vm, VECTOR_SYNC_LOWER_64, ESR_ELx_EC_DABT_LOW, guest_skip);
	vm_install_sync_handler(env->vm, VECTOR_SYNC_LOWER_64, ESR_ELx_EC_SVC64, guest_leave_el0);
	vm_install_exception_handler(env->vm, VECTOR_ERROR_CURRENT, guest_continue);

	val = vcpu_get_reg(env->vcpu, KVM_ARM64_SYS_REG(SYS_ID_AA64PFR1_EL1));
	env->has_asymm = SYS_FIELD_GET(ID_AA64PFR1_EL1, MTE, val) >= ID_AA64PFR1_EL1_MTE_MTE3;
	val = vcpu_get_reg(env->vcpu, KVM_ARM64_SYS_REG(SYS_ID_AA64PFR2_EL1));
	env->has_store_only = SYS_FIELD_GET(ID_AA64PFR2_EL1, MTESTOREONLY, val);
	env->has_tagged_far = SYS_FIELD_GET(ID_AA64PFR2_EL1, MTEFAR, val);
}

int main(void)
{
	struct env env = {};
	int i, j;

	ksft_print_header();
	mte_require();
	ksft_set_plan(ARRAY_SIZE(modes) * 4 + ARRAY_SIZE(exceptions) * 2);

	page_size = getpagesize();
	env_init(&env);

	for (i = 0; i < ARRAY_SIZE(modes); i++) {
		for (j = 0; j < 4; j++)
			run_mode(&env, &modes[i], j & 2, j & 1);
	}

	for (i = 0; i < ARRAY_SIZE(exceptions); i++) {
		for (j = 0; j < 2; j++)
			run_exception(&env, i, j);
	}

	kvm_vm_free(env.vm);
	mte_mem_free(&env.mem);

	ksft_finished();
}
