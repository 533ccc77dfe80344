// SPDX-License-Identifier: GPL-2.0-only
/*
 * notag_access - Check what a guest with MTE can do with memory that has no tags.
 *
 * With KVM_CAP_ARM_MTE_PERM a VM can have memslots of memory that is cacheable
 * but can't hold allocation tags. It is mapped at stage 2 with NoTagAccess: an
 * instruction that accesses tags, and an access to data that is subject to a tag
 * check, exits to the VMM, which is told the address. Whether it exits depends on
 * how the guest has mapped the memory, and whether it has tags checked; for a
 * guest that keeps clear of tags the memory is like any other.
 *
 * Each instruction is tried at EL1 and at EL0, in each mode, on each kind of such
 * memory. Where it has to exit, it must do so again if nothing is done about it,
 * must not have had an effect, and must complete once there is memory with tags in
 * its place. Where it doesn't have to, data has to pass.
 *
 * The VMM can do other things about the exit, too: have the guest take an external
 * abort, or change the memslot and the mapping while other vCPUs use it.
 *
 * Dirty logging changes leaves, splits blocks and puts them together. None of that
 * may give access to tags, or a device that has no place for them will have to
 * deal with it.
 *
 * A broken kernel lets the guest fault on the same access for ever, forgets about
 * the attribute when it changes a leaf, tells the VMM an address that it happened
 * to find in a register, or takes memory without the VMM having asked for it.
 */
#include <pthread.h>
#include <sys/mman.h>

#include <linux/bitmap.h>
#include <linux/sizes.h>

#include "kvm_util.h"
#include "memslot_kinds.h"
#include "mte.h"
#include "notag.h"
#include "processor.h"
#include "test_util.h"

#define DATA_SLOT	1
#define CODE_SLOT	2
#define TEST_TAG	0x5
#define HOST_DATA	0x1122334455667788UL
#define GUEST_DATA	0x99aabbccddeeff00UL

#define DFSC_EXTERNAL	0x10

static size_t page_size;
static u64 offered;

/* Memory that can't have tags. */
static const struct memslot_kind kinds[] = {
	{
		.name = "file", .class = MEMSLOT_PAGES, .map = memslot_map_file,
		.map_flags = MAP_SHARED,
	}, {
		.name = "private file", .class = MEMSLOT_PAGES, .map = memslot_map_file,
		.map_flags = MAP_PRIVATE,
	}, {
		.name = "PFNMAP", .class = MEMSLOT_PFNS, .map = memslot_map_device,
		.device = KVM_TEST_MEM_CACHED, .map_flags = MAP_SHARED,
	}, {
		.name = "PFNMAP on fault", .class = MEMSLOT_PFNS, .map = memslot_map_device,
		.device = KVM_TEST_MEM_CACHED, .flags = KVM_TEST_MEM_FAULT,
		.map_flags = MAP_SHARED,
	}, {
		.name = "MIXEDMAP", .class = MEMSLOT_PAGES, .map = memslot_map_device,
		.device = KVM_TEST_MEM_CACHED, .flags = KVM_TEST_MEM_FAULT | KVM_TEST_MEM_MIXED,
		.map_flags = MAP_SHARED,
	},
};

#define FILE_KIND	(&kinds[0])
#define PFNMAP_KIND	(&kinds[2])
#define MIXEDMAP_KIND	(&kinds[4])

/* NULL, or why a VM can't have it. */
static const char *refusal(const struct memslot_kind *kind)
{
	if (!(offered & notag_bit(kind->class)))
		return "KVM doesn't offer it";
	/* PFNs in a VM_MIXEDMAP VMA want the same from the CPU as in others. */
	if (kind == MIXEDMAP_KIND && !memslot_host.no_device &&
	    !(offered & KVM_ARM_MTE_PERM_PFNMAP))
		return "caches aren't coherent";

	return NULL;
}

/* NULL, or why there is no such memory. */
static const char *map_kind(const struct memslot_kind *kind, void *addr, size_t size)
{
	return refusal(kind) ?: kind->map(kind, addr, size);
}

/* Write by way of the file, so that a private page stays one of the file. */
static void fill(const struct memslot_kind *kind, u64 *data)
{
	u64 val = HOST_DATA;

	if (kind->map != memslot_map_file || kind->map_flags == MAP_SHARED)
		WRITE_ONCE(*data, val);
	else
		TEST_ASSERT(pwrite(memslot_ramfs_file(), &val, sizeof(val), 0) == sizeof(val),
			    "Can't write to a file, errno %d", errno);
}

/*
 * Instructions. Each takes what it stores from x0, where it also puts what it
 * loads, and the address from x1. The guest has two copies, for it can't have pages
 * that both exception levels execute if one of them is written to at EL0.
 */

struct insn {
	u32 insn;
	u32 end;
};

#define INSN(name, text)						\
	extern const u32 insn_##name;					\
	asm(".pushsection .text\n"					\
	    "insn_" #name ":\n\t"					\
	    MTE_PREAMBLE ".arch_extension lse\n\t" text "\n"		\
	    ".popsection")

INSN(ldr, "ldr x0, [x1]");
INSN(str, "str x0, [x1]");
INSN(swp, "swp x0, x0, [x1]");
INSN(dc_zva, "dc zva, x1");
INSN(ldg, "ldg x0, [x1]");
INSN(stg, "stg x0, [x1]");
INSN(st2g, "st2g x0, [x1]");
INSN(stzg, "stzg x0, [x1]");
INSN(stz2g, "stz2g x0, [x1]");
INSN(stgp, "stgp x0, x0, [x1]");
INSN(ldgm, "ldgm x0, [x1]");
INSN(stgm, "stgm x0, [x1]");
INSN(stzgm, "stzgm x0, [x1]");
INSN(dc_gva, "dc gva, x1");
INSN(dc_gzva, "dc gzva, x1");

#define INSN_RET	0xd65f03c0
#define INSN_SVC	0xd4000001

static const struct op {
	const char *name;
	const u32 *insn;
	/* What the data is afterwards. */
	u64 data;
	/* Accesses tags, and not only data. */
	bool tags;
	bool loads_data;
	bool stores_data;
	/* There is no such instruction at EL0. */
	bool el1_only;
} ops[] = {
	{ "LDR", &insn_ldr, HOST_DATA, .loads_data = true },
	{ "STR", &insn_str, GUEST_DATA, .stores_data = true },
	{ "SWP", &insn_swp, GUEST_DATA, .loads_data = true, .stores_data = true },
	{ "DC ZVA", &insn_dc_zva, 0, .stores_data = true },
	{ "LDG", &insn_ldg, HOST_DATA, .tags = true },
	{ "STG", &insn_stg, HOST_DATA, .tags = true },
	{ "ST2G", &insn_st2g, HOST_DATA, .tags = true },
	{ "STZG", &insn_stzg, 0, .tags = true },
	{ "STZ2G", &insn_stz2g, 0, .tags = true },
	{ "STGP", &insn_stgp, GUEST_DATA, .tags = true },
	{ "LDGM", &insn_ldgm, HOST_DATA, .tags = true, .el1_only = true },
	{ "STGM", &insn_stgm, HOST_DATA, .tags = true, .el1_only = true },
	{ "STZGM", &insn_stzgm, 0, .tags = true, .el1_only = true },
	{ "DC GVA", &insn_dc_gva, HOST_DATA, .tags = true },
	{ "DC GZVA", &insn_dc_gzva, 0, .tags = true },
};

#define OP_LDR	0
#define OP_LDG	4
#define OP_STG	5

/* How the guest accesses the memory. */
static const struct mode {
	const char *name;
	/* SCTLR_EL1.TCF or TCF0, and TCSO or TCSO0. */
	u64 tcf;
	bool store_only;
	/* PSTATE.TCO */
	bool tco;
	/* SCTLR_EL1.ATA or ATA0 is clear. */
	bool no_ata;
	/* TCR_EL1.TCMA0: no check of an address without a tag. */
	bool tcma;
	/* The address has a tag, the one that the memory would need to have. */
	bool tagged;
	/* The memory isn't Tagged at stage 1. */
	bool untagged;
} modes[] = {
	{ "unchecked", SCTLR_EL1_TCF_NONE },
	{ "synchronous", SCTLR_EL1_TCF_SYNC },
	{ "asynchronous", SCTLR_EL1_TCF_ASYNC },
	{ "asymmetric", SCTLR_EL1_TCF_ASYMM },
	{ "store-only", SCTLR_EL1_TCF_SYNC, .store_only = true },
	{ "PSTATE.TCO", SCTLR_EL1_TCF_SYNC, .tco = true },
	{ "no access to tags", SCTLR_EL1_TCF_SYNC, .no_ata = true },
	{ "TCMA", SCTLR_EL1_TCF_SYNC, .tcma = true },
	{ "TCMA, tagged address", SCTLR_EL1_TCF_SYNC, .tcma = true, .tagged = true },
	{ "not Tagged", SCTLR_EL1_TCF_SYNC, .untagged = true },
};

static bool has_to_exit(const struct op *op, const struct mode *mode)
{
	if (mode->untagged || mode->no_ata)
		return false;
	if (op->tags)
		return true;
	if (mode->tcf == SCTLR_EL1_TCF_NONE || mode->tco || (mode->tcma && !mode->tagged))
		return false;

	return !mode->store_only || op->stores_data;
}

/* Where things are in the guest. The alias is the same memory, but not Tagged. */
static u64 code_addr(bool el0, int op)
{
	return MTE_TEST_GPA + (el0 ? 2 : 1) * page_size + op * sizeof(struct insn);
}

static u64 alias_addr(void)
{
	return MTE_TEST_GPA + SZ_4G;
}

/* The same memory once more, but behind what otherwise comes after it. */
static u64 reverse_addr(void)
{
	return MTE_TEST_GPA + 2UL * SZ_4G;
}

/* The guest. */

#define EL0	BIT(0)
#define TCO	BIT(1)

/* What the exception handler has seen. */
static struct sight {
	u64 nr;
	u64 esr;
	u64 far;
} seen;

static void guest_data_abort(struct ex_regs *regs)
{
	seen.nr++;
	seen.esr = read_sysreg(esr_el1);
	seen.far = read_sysreg(far_el1);
	regs->pc += 4;
}

static u64 guest_do(u64 addr, u64 insns, u64 flags, u64 d)
{
	register u64 x0 asm("x0") = GUEST_DATA;
	register u64 x1 asm("x1") = addr;

	/* Bits of TCR_EL1 may be cached in a TLB. */
	asm volatile("tlbi vmalle1\n\t"
		     "dsb nsh\n\t"
		     "isb" : : : "memory");

	if (flags & EL0)
		return mte_guest_el0(addr, insns, GUEST_DATA, flags & TCO);

	if (flags & TCO)
		asm volatile(MTE_PREAMBLE "msr tco, #1");
	asm volatile("blr %[insns]" : "+r"(x0) : "r"(x1), [insns] "r"(insns) : "x30", "memory");
	if (flags & TCO)
		asm volatile(MTE_PREAMBLE "msr tco, #0");

	return x0;
}

/* The host. */

struct env {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	void *code;
	/* The memory without tags. */
	u64 *data;
	size_t size;
	bool has_asymm;
	bool has_store_only;
};

static struct insn *code_page(struct env *env, bool el0)
{
	return env->code + (el0 ? page_size : 0);
}

/* A VM that has what there is of @bits enabled, without a memslot for the data. */
static void create_vm(struct env *env, u64 bits, size_t size, bool eager)
{
	u64 gva, val;
	int i;

	env->size = size;
	env->vm = __vm_create(VM_SHAPE_DEFAULT, 1, size / SZ_4K);
	vm_enable_cap(env->vm, KVM_CAP_ARM_MTE, 0);
	if (bits)
		vm_enable_cap(env->vm, KVM_CAP_ARM_MTE_PERM, bits);
	if (eager)
		mte_vm_enable_eager_split(env->vm, pmd_size());
	mte_vm_add_vcpus(env->vm, 1, &env->vcpu);

	virt_map(env->vm, MTE_TEST_GPA, MTE_TEST_GPA, size / env->vm->page_size);
	virt_map(env->vm, alias_addr(), MTE_TEST_GPA, size / env->vm->page_size);
	for (gva = 0; gva < size; gva += env->vm->page_size) {
		*virt_get_pte_hva(env->vm, MTE_TEST_GPA + gva) |= PTE_USER;
		val = *virt_get_pte_hva(env->vm, alias_addr() + gva);
		val &= ~PTE_ATTRINDX_MASK;
		val |= PTE_USER | PTE_ATTRINDX(MT_NORMAL_WT);
		*virt_get_pte_hva(env->vm, alias_addr() + gva) = val;
	}

	val = vcpu_get_reg(env->vcpu, KVM_ARM64_SYS_REG(SYS_MAIR_EL1));
	val &= ~MAIR_ATTRIDX(MAIR_ATTR_MASK, MT_NORMAL_WT);
	val |= MAIR_ATTRIDX(MAIR_ATTR_NORMAL, MT_NORMAL_WT);
	vcpu_set_reg(env->vcpu, KVM_ARM64_SYS_REG(SYS_MAIR_EL1), val);

	vm_install_sync_handler(env->vm, VECTOR_SYNC_CURRENT, ESR_ELx_EC_DABT_CUR,
				guest_data_abort);
	vm_install_sync_handler(env->vm, VECTOR_SYNC_LOWER_64, ESR_ELx_EC_DABT_LOW,
				guest_data_abort);
	vm_install_sync_handler(env->vm, VECTOR_SYNC_LOWER_64, ESR_ELx_EC_SVC64,
				mte_guest_leave_el0);

	val = vcpu_get_reg(env->vcpu, KVM_ARM64_SYS_REG(SYS_ID_AA64PFR1_EL1));
	env->has_asymm = SYS_FIELD_GET(ID_AA64PFR1_EL1, MTE, val) >= ID_AA64PFR1_EL1_MTE_MTE3;
	val = vcpu_get_reg(env->vcpu, KVM_ARM64_SYS_REG(SYS_ID_AA64PFR2_EL1));
	env->has_store_only = SYS_FIELD_GET(ID_AA64PFR2_EL1, MTESTOREONLY, val);

	/* Where the instructions are there is no room for a block of data. */
	env->code = NULL;
	if (size > page_size)
		return;

	env->code = kvm_mmap(2 * page_size, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1);
	for (i = 0; i < ARRAY_SIZE(ops); i++) {
		code_page(env, false)[i] = (struct insn){ *ops[i].insn, INSN_RET };
		code_page(env, true)[i] = (struct insn){ *ops[i].insn, INSN_SVC };
	}
	mte_vm_add_slot(env->vm, CODE_SLOT, 0, code_addr(false, 0), env->code, 2 * page_size);
	virt_map(env->vm, reverse_addr(), code_addr(false, 0), page_size / env->vm->page_size);
	virt_map(env->vm, reverse_addr() + page_size, MTE_TEST_GPA,
		 page_size / env->vm->page_size);
	for (gva = 0; gva < page_size; gva += env->vm->page_size)
		*virt_get_pte_hva(env->vm, code_addr(true, 0) + gva) |= PTE_USER;
}

static void env_free(struct env *env)
{
	kvm_vm_free(env->vm);
	if (env->code)
		kvm_munmap(env->code, 2 * page_size);
	env->vm = NULL;
}

static void set_mode(struct env *env, const struct mode *mode)
{
	u64 val = vcpu_get_reg(env->vcpu, KVM_ARM64_SYS_REG(SYS_SCTLR_EL1));

	val &= ~(SCTLR_EL1_TCF_MASK | SCTLR_EL1_TCF0_MASK | SCTLR_EL1_ATA | SCTLR_EL1_ATA0 |
		 SCTLR_EL1_TCSO | SCTLR_EL1_TCSO0);
	val |= SCTLR_EL1_DZE | SYS_FIELD_PREP(SCTLR_EL1, TCF, mode->tcf) |
	       SYS_FIELD_PREP(SCTLR_EL1, TCF0, mode->tcf);
	if (!mode->no_ata)
		val |= SCTLR_EL1_ATA | SCTLR_EL1_ATA0;
	if (mode->store_only)
		val |= SCTLR_EL1_TCSO | SCTLR_EL1_TCSO0;
	vcpu_set_reg(env->vcpu, KVM_ARM64_SYS_REG(SYS_SCTLR_EL1), val);

	val = vcpu_get_reg(env->vcpu, KVM_ARM64_SYS_REG(SYS_TCR_EL1));
	val &= ~TCR_EL1_TCMA0;
	if (mode->tcma)
		val |= TCR_EL1_TCMA0;
	vcpu_set_reg(env->vcpu, KVM_ARM64_SYS_REG(SYS_TCR_EL1), val);
}

static void prepare(struct env *env, int op, const struct mode *mode, bool el0)
{
	u64 addr = mode->untagged ? alias_addr() : MTE_TEST_GPA;

	if (mode->tagged)
		addr = (u64)mte_tagged_ptr((void *)addr, TEST_TAG);
	mte_vcpu_prepare(env->vcpu, guest_do, addr, code_addr(el0, op),
			 (el0 ? EL0 : 0) | (mode->tco ? TCO : 0), 0);
}

/* The access exits, and does so again, until there is memory that can have tags. */
static const char *check_no_access(struct env *env, int op, const struct mode *mode, bool el0)
{
	const char *failure;
	u64 data;
	int i;

	for (i = 0; i < 2; i++) {
		failure = mte_vcpu_run_notag(env->vcpu, MTE_TEST_GPA);
		if (failure)
			return failure;
		if (vcpu_pc(env->vcpu) != code_addr(el0, op))
			return "moves the PC";
		/* What stores data as well may have done that part. */
		data = READ_ONCE(*env->data);
		if (data != HOST_DATA && !(ops[op].tags && data == ops[op].data))
			return "has an effect";
	}

	/* What replaces the memory has tags of zero, which are the wrong ones then. */
	if (mode->tagged) {
		vcpu_skip_insn(env->vcpu);
	} else {
		memslot_map_anon(env->data, page_size);
		WRITE_ONCE(*env->data, HOST_DATA);
	}
	if (_vcpu_run(env->vcpu))
		return "doesn't complete";
	mte_vcpu_result(env->vcpu);
	if (!mode->tagged && READ_ONCE(*env->data) != ops[op].data)
		return "has a wrong effect with other memory";

	return NULL;
}

static const char *check_access(struct env *env, int op)
{
	u64 got;

	if (_vcpu_run(env->vcpu))
		return "exits";
	got = mte_vcpu_result(env->vcpu);
	if (ops[op].loads_data && got != HOST_DATA)
		return "loads wrong data";

	return READ_ONCE(*env->data) != ops[op].data ? "stores wrong data" : NULL;
}

static void add_data(struct env *env, u32 flags)
{
	vm_set_user_memory_region(env->vm, DATA_SLOT, flags, MTE_TEST_GPA, env->size, env->data);
}

static void run_mode(struct env *env, const struct memslot_kind *kind,
		     const struct mode *mode, bool el0)
{
	char *name = strdup_printf("%s, EL%d, %s", kind->name, !el0, mode->name);
	const char *reason, *failure = NULL;
	int op;

	reason = map_kind(kind, env->data, page_size);
	if (reason) {
		ksft_test_result_skip("%s: %s\n", name, reason);
		goto out;
	}

	/* The memslot is one of anonymous memory at times, see check_no_access(). */
	if (!env->vm) {
		create_vm(env, notag_bit(kind->class), page_size, false);
		add_data(env, 0);
	}
	if ((mode->tcf == SCTLR_EL1_TCF_ASYMM && !env->has_asymm) ||
	    (mode->store_only && !env->has_store_only)) {
		ksft_test_result_skip("%s: the CPU doesn't have it\n", name);
		goto out;
	}
	set_mode(env, mode);

	for (op = 0; op < ARRAY_SIZE(ops) && !failure; op++) {
		if (el0 && ops[op].el1_only)
			continue;
		/* An atomic instruction loads and stores, and QEMU 11.1 takes it for a load. */
		if (mode->store_only && ops[op].loads_data && ops[op].stores_data)
			continue;

		map_kind(kind, env->data, page_size);
		fill(kind, env->data);
		prepare(env, op, mode, el0);
		if (has_to_exit(&ops[op], mode))
			failure = check_no_access(env, op, mode, el0);
		else
			failure = check_access(env, op);
	}

	if (failure)
		ksft_test_result_fail("%s: %s %s\n", name, ops[op - 1].name, failure);
	else
		ksft_test_result_pass("%s\n", name);

	/* Where the guest is now is anybody's guess. */
	if (failure)
		env_free(env);
out:
	free(name);
}

static void run_modes(const struct memslot_kind *kind)
{
	struct env env = {};
	int i, el;

	env.data = kvm_mmap(page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	for (el = 1; el >= 0; el--) {
		for (i = 0; i < ARRAY_SIZE(modes); i++)
			run_mode(&env, kind, &modes[i], !el);
	}
	if (env.vm)
		env_free(&env);
	kvm_munmap(env.data, page_size);
}

/* Cases that need no more than one instruction, on each kind of memory. */

static const struct mode unchecked = { "unchecked", SCTLR_EL1_TCF_NONE };

/* The VMM answers the exit with an external abort. */
static const char *check_abort(struct env *env, const struct memslot_kind *kind, bool el0)
{
	struct kvm_vcpu_events events = { .exception.ext_dabt_pending = true };
	struct sight *sight = addr_gva2hva(env->vm, (gva_t)&seen);
	const char *failure;

	memset(sight, 0, sizeof(*sight));
	prepare(env, OP_STG, &unchecked, el0);
	failure = mte_vcpu_run_notag(env->vcpu, MTE_TEST_GPA);
	if (failure)
		return failure;

	vcpu_events_set(env->vcpu, &events);
	if (_vcpu_run(env->vcpu))
		return "exits again";
	mte_vcpu_result(env->vcpu);

	if (sight->nr != 1)
		return "no exception";
	if (ESR_ELx_EC(sight->esr) != (el0 ? ESR_ELx_EC_DABT_LOW : ESR_ELx_EC_DABT_CUR) ||
	    (sight->esr & ESR_ELx_FSC) != DFSC_EXTERNAL)
		return "not an external abort";

	return sight->far != MTE_TEST_GPA ? "wrong FAR_EL1" : NULL;
}

static const char *check_abort_el1(struct env *env, const struct memslot_kind *kind)
{
	return check_abort(env, kind, false);
}

static const char *check_abort_el0(struct env *env, const struct memslot_kind *kind)
{
	return check_abort(env, kind, true);
}

/* The VMM maps such memory where there was other memory that the guest has used. */
static const char *check_behind(struct env *env, const struct memslot_kind *kind)
{
	const char *failure;

	memslot_map_anon(env->data, page_size);
	if (mte_vcpu_call(env->vcpu, mte_guest_try_tag, MTE_TEST_GPA, TEST_TAG, 0, 0) != TEST_TAG)
		return "anonymous memory has no tags";

	map_kind(kind, env->data, page_size);
	WRITE_ONCE(*env->data, HOST_DATA);
	prepare(env, OP_LDR, &unchecked, false);
	failure = check_access(env, OP_LDR);
	if (failure)
		return failure;
	prepare(env, OP_LDG, &unchecked, false);

	return check_no_access(env, OP_LDG, &unchecked, false);
}

static const char *check_copy_tags(struct env *env, const struct memslot_kind *kind)
{
	u8 tags[MTE_TAGS_SIZE(SZ_64K)] = { TEST_TAG };
	u64 pfn, flags;
	int ret;

	prepare(env, OP_LDR, &unchecked, false);
	if (check_access(env, OP_LDR))
		return "data doesn't pass";

	if (!failed_with(__mte_copy_tags(env->vm, MTE_TEST_GPA, page_size, tags,
					 KVM_ARM_TAGS_FROM_GUEST), EFAULT))
		return "tags were read";
	if (tags[0] != TEST_TAG)
		return "the buffer was written to";

	/* There is no struct page for the memory of the device. */
	pfn = kind->class == MEMSLOT_PFNS ? 0 : pagemap_entry(env->data) & PAGEMAP_PFN_MASK;
	ret = __mte_copy_tags(env->vm, MTE_TEST_GPA, page_size, tags, KVM_ARM_TAGS_TO_GUEST);
	if (kind->map_flags == MAP_SHARED && !failed_with(ret, EFAULT))
		return "tags were written";
	/* Writing to a private page makes a copy of it, and that can have tags. */
	if (kind->map_flags == MAP_PRIVATE && ret != page_size)
		return "tags were not written";
	if (pfn && page_flags(pfn, &flags) && flags & KPF_ARCH_2)
		return "the page is flagged as one with tags";

	/* But the mapping is still one of a file. */
	prepare(env, OP_LDG, &unchecked, false);

	return check_no_access(env, OP_LDG, &unchecked, false);
}

/*
 * S2AP is looked at first: a store of a tag to a read-only memslot is a store like
 * any other, for which there is no syndrome.
 */
static const char *check_read_only(struct env *env, const struct memslot_kind *kind)
{
	const char *failure;

	vm_enable_cap(env->vm, KVM_CAP_ARM_NISV_TO_USER, 1);
	vm_set_user_memory_region(env->vm, DATA_SLOT, 0, MTE_TEST_GPA, 0, NULL);
	add_data(env, KVM_MEM_READONLY);

	prepare(env, OP_LDR, &unchecked, false);
	failure = check_access(env, OP_LDR);
	if (failure)
		return failure;

	prepare(env, OP_STG, &unchecked, false);
	if (_vcpu_run(env->vcpu) || env->vcpu->run->exit_reason != KVM_EXIT_ARM_NISV)
		return "STG isn't a store to read-only memory";
	vcpu_skip_insn(env->vcpu);
	vcpu_run(env->vcpu);
	mte_vcpu_result(env->vcpu);

	prepare(env, OP_LDG, &unchecked, false);

	return check_no_access(env, OP_LDG, &unchecked, false);
}

/*
 * One load from two pages, only one of which can have tags. The address that the
 * guest is denied is that of the page without.
 */
static const char *check_straddle(struct env *env, const struct memslot_kind *kind)
{
	static const struct mode checked = { "synchronous", SCTLR_EL1_TCF_SYNC };
	u64 addrs[] = {
		MTE_TEST_GPA + page_size - sizeof(u32),
		reverse_addr() + page_size - sizeof(u32),
	};
	const char *failure;
	int i;

	set_mode(env, &checked);
	for (i = 0; i < ARRAY_SIZE(addrs); i++) {
		map_kind(kind, env->data, page_size);
		mte_vcpu_prepare(env->vcpu, guest_do, addrs[i], code_addr(false, OP_LDR), 0, 0);
		failure = mte_vcpu_run_notag(env->vcpu, MTE_TEST_GPA);
		if (failure)
			return failure;
		memslot_map_anon(env->data, page_size);
		if (_vcpu_run(env->vcpu))
			return "doesn't complete";
		mte_vcpu_result(env->vcpu);
	}

	return NULL;
}

/* Pages that are written to while that is logged. The blocks come later. */
static const char *check_dirty_log(struct env *env, const struct memslot_kind *kind)
{
	unsigned long *bmap;
	const char *failure;
	bool dirty;
	int i;

	if (kind->class == MEMSLOT_PFNS) {
		if (!failed_with(__vm_set_user_memory_region(env->vm, DATA_SLOT,
							     KVM_MEM_LOG_DIRTY_PAGES,
							     MTE_TEST_GPA, env->size, env->data),
				 EINVAL))
			return "is accepted for PFNs";
		return NULL;
	}

	for (i = 0; i < 2; i++) {
		map_kind(kind, env->data, page_size);
		fill(kind, env->data);
		add_data(env, KVM_MEM_LOG_DIRTY_PAGES);
		mte_vcpu_call(env->vcpu, mte_write_data, MTE_TEST_GPA, 1, 0, HOST_DATA);
		bmap = bitmap_zalloc(1);
		kvm_vm_get_dirty_log(env->vm, DATA_SLOT, bmap);
		dirty = test_bit(0, bmap);
		free(bmap);
		if (!dirty)
			return "a store isn't logged";

		/* A permission fault, with logging and without. */
		if (i)
			add_data(env, 0);
		mte_vcpu_call(env->vcpu, mte_write_data, MTE_TEST_GPA, 1, 0, HOST_DATA);
		prepare(env, OP_LDG, &unchecked, false);
		failure = check_no_access(env, OP_LDG, &unchecked, false);
		if (failure)
			return failure;
	}

	return NULL;
}

static const struct check {
	const char *name;
	const char *(*fn)(struct env *env, const struct memslot_kind *kind);
} checks[] = {
	{ "external abort at EL1", check_abort_el1 },
	{ "external abort at EL0", check_abort_el0 },
	{ "mapped behind a memslot", check_behind },
	{ "KVM_ARM_MTE_COPY_TAGS", check_copy_tags },
	{ "read-only memslot", check_read_only },
	{ "load across its end, and its start", check_straddle },
	{ "dirty logging of pages", check_dirty_log },
};

static void run_check(const struct memslot_kind *kind, const struct check *check)
{
	const char *reason, *failure;
	struct env env = {};

	env.data = kvm_mmap(page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	reason = map_kind(kind, env.data, page_size);
	if (reason) {
		ksft_test_result_skip("%s, %s: %s\n", kind->name, check->name, reason);
	} else {
		fill(kind, env.data);
		create_vm(&env, notag_bit(kind->class), page_size, false);
		set_mode(&env, &unchecked);
		add_data(&env, 0);
		failure = check->fn(&env, kind);
		ksft_test_result(!failure, "%s, %s%s%s\n", kind->name, check->name,
				 failure ? ": " : "", failure ?: "");
		env_free(&env);
	}
	kvm_munmap(env.data, page_size);
}

/* The attribute stays whatever happens to the leaf. */

#define NR_BLOCK_PAGES	(pmd_size() / page_size)

static const char *check_leaves(struct env *env, u64 nr_blocks, u64 nr_pages)
{
	u64 blocks, pages, addr;
	static char buf[64];
	const char *failure;

	if (!mte_stage2_leaves(env->vm, MTE_TEST_GPA, pmd_size(), &blocks, &pages))
		return "no stage-2 page-table to look at";
	if (blocks != nr_blocks || pages != nr_pages) {
		snprintf(buf, sizeof(buf), "%lu blocks and %lu pages, not %lu and %lu",
			 blocks, pages, nr_blocks, nr_pages);
		return buf;
	}

	for (addr = 0; addr < pmd_size(); addr += pmd_size() - page_size) {
		mte_vcpu_prepare(env->vcpu, mte_guest_try_tag, MTE_TEST_GPA + addr, TEST_TAG, 0, 0);
		failure = mte_vcpu_run_notag(env->vcpu, MTE_TEST_GPA + addr);
		if (failure)
			return failure;

		/* Go on without the store, and then the load. */
		vcpu_skip_insn(env->vcpu);
		failure = mte_vcpu_run_notag(env->vcpu, MTE_TEST_GPA + addr);
		if (failure)
			return failure;
		vcpu_skip_insn(env->vcpu);
		vcpu_run(env->vcpu);
		mte_vcpu_result(env->vcpu);
	}

	return NULL;
}

static const char *log_block(struct env *env, bool eager)
{
	const char *failure;
	u64 addr;

	mte_vcpu_call(env->vcpu, mte_write_data, MTE_TEST_GPA, 1, 0, HOST_DATA);
	failure = check_leaves(env, 1, 0);
	if (failure)
		return failure;

	/* Split now, by what the block says, or later, by a permission fault. */
	add_data(env, KVM_MEM_LOG_DIRTY_PAGES);
	failure = check_leaves(env, !eager, eager ? NR_BLOCK_PAGES : 0);
	if (failure)
		return failure;

	mte_vcpu_call(env->vcpu, mte_write_addrs, MTE_TEST_GPA, NR_BLOCK_PAGES, page_size, 0);
	failure = check_leaves(env, 0, NR_BLOCK_PAGES);
	if (failure)
		return failure;

	/* Pages are write protected once more, and then a block on a permission fault. */
	add_data(env, 0);
	add_data(env, KVM_MEM_LOG_DIRTY_PAGES);
	failure = check_leaves(env, 0, NR_BLOCK_PAGES);
	if (failure)
		return failure;
	add_data(env, 0);
	/* A page that no store of a tag has made writable, see check_leaves(). */
	addr = MTE_TEST_GPA + pmd_size() / 2;
	mte_vcpu_call(env->vcpu, mte_write_data, addr, 1, 0, addr);
	failure = check_leaves(env, 1, 0);
	if (failure)
		return failure;

	if (mte_vcpu_call(env->vcpu, mte_count_wrong_addrs, MTE_TEST_GPA, NR_BLOCK_PAGES,
			  page_size, 0))
		return "data is lost";

	return NULL;
}

/*
 * A private mapping of /dev/zero has anonymous pages, and huge ones, but isn't marked
 * as one that can have tags.
 */
static const char *map_dev_zero(void **data)
{
	size_t size = 2 * pmd_size();
	void *map, *start;
	int fd;

	/* 512M with pages of 64K. */
	if (pmd_size() > SZ_64M)
		return "a huge page is too large";

	fd = open("/dev/zero", O_RDWR);
	if (fd < 0)
		return "no /dev/zero";

	map = kvm_mmap(size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd);
	start = align_ptr_up(map, pmd_size());
	if (start > map)
		kvm_munmap(map, start - map);
	kvm_munmap(start + pmd_size(), map + size - start - pmd_size());
	kvm_close(fd);

	*data = start;
	madvise(start, pmd_size(), MADV_HUGEPAGE);
	WRITE_ONCE(*(u64 *)start, HOST_DATA);
	if (is_huge_mapped(start, pmd_size()))
		return NULL;

	kvm_munmap(start, pmd_size());

	return "no huge page";
}

static void run_block(bool device, bool eager)
{
	char *name = strdup_printf("block of %s, %s split", device ? "MIXEDMAP" : "/dev/zero",
				   eager ? "eager" : "lazy");
	const char *reason, *failure;
	struct env env = {};
	void *data;

	if (device)
		reason = refusal(MIXEDMAP_KIND) ?: memslot_map_block(MIXEDMAP_KIND, &data);
	else
		reason = refusal(FILE_KIND) ?: map_dev_zero(&data);
	if (!reason && !memslot_host.table_shown)
		reason = "the kernel doesn't show the stage-2 page-table";
	if (reason) {
		ksft_test_result_skip("%s: %s\n", name, reason);
		goto out;
	}

	env.data = data;
	create_vm(&env, KVM_ARM_MTE_PERM_PAGES, pmd_size(), eager);
	add_data(&env, 0);
	failure = log_block(&env, eager);
	ksft_test_result(!failure, "%s%s%s\n", name, failure ? ": " : "", failure ?: "");
	env_free(&env);
	kvm_munmap(env.data, pmd_size());
out:
	free(name);
}

/* Memslot and mapping change while vCPUs load tags. */

#define NR_RACERS	2
#define RACE_MS		1500

static bool race_over;

static u64 guest_race(u64 addr, u64 b, u64 c, u64 d)
{
	u64 nr = 0;

	while (!READ_ONCE(race_over)) {
		/* The VMM may have changed the stage 1 of the guest. */
		asm volatile("tlbi vaae1, %0\n\t"
			     "dsb nsh\n\t"
			     "isb" : : "r"(addr >> 12) : "memory");
		mte_load_tag((void *)addr);
		nr++;
	}

	return nr;
}

static struct racer {
	pthread_t thread;
	struct kvm_vcpu *vcpu;
	u64 nr_tag_exits;
	u64 nr_no_slot;
	const char *failure;
} racers[NR_RACERS];

static void *race(void *arg)
{
	struct racer *racer = arg;
	struct kvm_vcpu *vcpu = racer->vcpu;
	struct kvm_run *run = vcpu->run;
	u64 pc = ARM64_CORE_REG(regs.pc);
	int ret;

	mte_vcpu_prepare(vcpu, guest_race, MTE_TEST_GPA, 0, 0, 0);
	for (;;) {
		ret = _vcpu_run(vcpu);
		if (!ret && run->exit_reason == KVM_EXIT_MMIO)
			break;
		if (!ret && run->exit_reason == KVM_EXIT_ARM_NISV) {
			racer->nr_no_slot++;
		} else if (failed_with(ret, EFAULT) && run->exit_reason == KVM_EXIT_MEMORY_FAULT &&
			   run->memory_fault.flags == KVM_MEMORY_EXIT_FLAG_TAGACCESS &&
			   run->memory_fault.gpa == MTE_TEST_GPA) {
			racer->nr_tag_exits++;
		} else {
			racer->failure = ret ? "KVM_RUN fails otherwise" : "another exit";
			return NULL;
		}
		vcpu_set_reg(vcpu, pc, vcpu_get_reg(vcpu, pc) + 4);
	}
	mte_vcpu_result(vcpu);

	return NULL;
}

enum change {
	DELETED,
	MOVED,
	REPLACED,
	/* By the guest, to memory that has tags: that is never what is denied. */
	TRANSLATED,
	NR_CHANGES,
};

static const char * const change_names[] = {
	"deleted", "moved", "replaced", "translated otherwise",
};

/* Where memory with tags is, for TRANSLATED. */
static gpa_t tagged_gpa(void)
{
	return MTE_TEST_GPA + SZ_2G;
}

static void change_once(struct kvm_vm *vm, enum change change, const struct memslot_kind *kind,
			void *data)
{
	u64 *pte = virt_get_pte_hva(vm, MTE_TEST_GPA), old = *pte;

	switch (change) {
	case DELETED:
		vm_set_user_memory_region(vm, DATA_SLOT, 0, MTE_TEST_GPA, 0, data);
		vm_set_user_memory_region(vm, DATA_SLOT, 0, MTE_TEST_GPA, page_size, data);
		break;
	case MOVED:
		vm_set_user_memory_region(vm, DATA_SLOT, 0, MTE_TEST_GPA + SZ_1G, page_size, data);
		vm_set_user_memory_region(vm, DATA_SLOT, 0, MTE_TEST_GPA, page_size, data);
		break;
	case REPLACED:
		memslot_map_anon(data, page_size);
		map_kind(kind, data, page_size);
		break;
	default:
		/* Each for a while: KVM is to find the one after the access by the other. */
		WRITE_ONCE(*pte, *virt_get_pte_hva(vm, tagged_gpa()));
		usleep(100);
		WRITE_ONCE(*pte, old);
		usleep(100);
	}
}

static void run_race(const struct memslot_kind *kind, enum change change)
{
	char *name = strdup_printf("%s, %s under vCPUs that load tags", kind->name,
				   change_names[change]);
	struct kvm_vcpu *vcpus[NR_RACERS];
	const char *reason, *failure = NULL;
	u64 nr_tag_exits = 0, nr_no_slot = 0, nr_changes = 0;
	void *data, *tagged;
	struct timespec start;
	struct kvm_vm *vm;
	int i;

	data = kvm_mmap(page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	tagged = kvm_mmap(page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	reason = map_kind(kind, data, page_size);
	if (reason) {
		ksft_test_result_skip("%s: %s\n", name, reason);
		goto out;
	}

	vm = __vm_create(VM_SHAPE_DEFAULT, NR_RACERS, 0);
	vm_enable_cap(vm, KVM_CAP_ARM_MTE, 0);
	vm_enable_cap(vm, KVM_CAP_ARM_MTE_PERM, notag_bit(kind->class));
	vm_enable_cap(vm, KVM_CAP_ARM_NISV_TO_USER, 1);
	mte_vm_add_vcpus(vm, NR_RACERS, vcpus);
	mte_vm_add_slot(vm, DATA_SLOT, 0, MTE_TEST_GPA, data, page_size);
	mte_vm_add_slot(vm, CODE_SLOT, 0, tagged_gpa(), tagged, page_size);
	memset(racers, 0, sizeof(racers));
	write_guest_global(vm, race_over, false);

	for (i = 0; i < NR_RACERS; i++) {
		racers[i].vcpu = vcpus[i];
		TEST_ASSERT(!pthread_create(&racers[i].thread, NULL, race, &racers[i]),
			    "pthread_create() failed");
	}
	clock_gettime(CLOCK_MONOTONIC, &start);
	while (timespec_to_ns(timespec_elapsed(start)) < RACE_MS * 1000000L) {
		change_once(vm, change, kind, data);
		nr_changes++;
	}
	write_guest_global(vm, race_over, true);
	for (i = 0; i < NR_RACERS; i++) {
		pthread_join(racers[i].thread, NULL);
		failure = failure ?: racers[i].failure;
		nr_tag_exits += racers[i].nr_tag_exits;
		nr_no_slot += racers[i].nr_no_slot;
	}
	if (!failure && !nr_tag_exits)
		failure = "no access was denied";

	ksft_print_msg("%s: %lu changes, %lu loads denied, %lu without a memslot\n", name,
		       nr_changes, nr_tag_exits, nr_no_slot);
	ksft_test_result(!failure, "%s%s%s\n", name, failure ? ": " : "", failure ?: "");
	kvm_vm_free(vm);
out:
	kvm_munmap(tagged, page_size);
	kvm_munmap(data, page_size);
	free(name);
}

/* Without FEAT_S2FWB KVM cleans the caches for this memory as for any other. */

#define TRACING		"/sys/kernel/tracing/"
#define PROBE		"notag_access_clean"

static bool tracing_write(const char *file, const char *text)
{
	char *path = strdup_printf(TRACING "%s", file);
	int fd = open(path, O_WRONLY | O_APPEND);
	bool good = fd >= 0 && write(fd, text, strlen(text)) == strlen(text);

	if (fd >= 0)
		close(fd);
	free(path);

	return good;
}

static u64 probe_hits(void)
{
	FILE *file = fopen(TRACING "kprobe_profile", "r");
	char line[256], name[64];
	u64 hits = 0, val;

	TEST_ASSERT(file, "Can't open kprobe_profile, errno %d", errno);
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, " %63s %lu", name, &val) == 2 && !strcmp(name, PROBE))
			hits = val;
	}
	fclose(file);

	return hits;
}

/*
 * How often something is cleaned when a page of @kind, or an anonymous one, is mapped,
 * and when it is unmapped. Others may have something cleaned at the same time, and so
 * may the guest, for what else it needs: the lowest of several counts is that of the page.
 */
static void count_cleans(struct env *env, const struct memslot_kind *kind, u64 hits[2])
{
	u64 start, mapped, unmapped;
	int i;

	for (i = 0; i < 4; i++) {
		memslot_map_anon(env->data, page_size);
		if (kind)
			map_kind(kind, env->data, page_size);

		start = probe_hits();
		mte_vcpu_call(env->vcpu, mte_write_data, MTE_TEST_GPA, 1, 0, HOST_DATA);
		mapped = probe_hits();
		memslot_map_anon(env->data, page_size);
		unmapped = probe_hits();

		hits[0] = i ? min(hits[0], mapped - start) : mapped - start;
		hits[1] = i ? min(hits[1], unmapped - mapped) : unmapped - mapped;
	}
}

/* At the end of the test, however it ends. */
static void remove_probe(void)
{
	tracing_write("events/kprobes/" PROBE "/enable", "0");
	tracing_write("kprobe_events", "-:kprobes/" PROBE);
}

static void run_clean(const struct memslot_kind *kind)
{
	const char *name = "caches are cleaned as for other memory";
	u64 anon[2], notag[2];
	struct env env = {};
	const char *reason;

	env.data = kvm_mmap(page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	reason = map_kind(kind, env.data, page_size);
	if (!reason && !tracing_write("kprobe_events",
				      "p:kprobes/" PROBE " clean_dcache_guest_page"))
		reason = errno == EEXIST ? "kprobes/" PROBE " is there already" :
					   "no kprobe events";
	if (reason) {
		ksft_test_result_skip("%s: %s\n", name, reason);
		goto out;
	}
	atexit(remove_probe);
	TEST_ASSERT(tracing_write("events/kprobes/" PROBE "/enable", "1"),
		    "Can't enable a kprobe event, errno %d", errno);

	memslot_map_anon(env.data, page_size);
	create_vm(&env, notag_bit(kind->class), page_size, false);
	add_data(&env, 0);
	count_cleans(&env, NULL, anon);
	count_cleans(&env, kind, notag);
	env_free(&env);

	/* When mapping, it is for the function to find that nothing is to be done. */
	ksft_test_result(anon[0] && anon[0] == notag[0] && anon[1] == notag[1],
			 "%s: %lu and %lu, %lu and %lu\n", name, notag[0], notag[1],
			 anon[0], anon[1]);
out:
	kvm_munmap(env.data, page_size);
}

/* Who can have it. */

static int enable_args(struct kvm_vm *vm, u32 flags, u64 bits, int arg, u64 val)
{
	struct kvm_enable_cap cap = {
		.cap	= KVM_CAP_ARM_MTE_PERM,
		.flags	= flags,
		.args	= { bits },
	};

	if (arg)
		cap.args[arg] = val;

	return __vm_ioctl(vm, KVM_ENABLE_CAP, &cap);
}

static int enable(struct kvm_vm *vm, u64 bits)
{
	return enable_args(vm, 0, bits, 0, 0);
}

/* Whether the VM can have a file. */
static int try_file(struct kvm_vm *vm)
{
	int fd = memslot_ramfs_file(), ret;
	void *data;

	kvm_ftruncate(fd, page_size);
	data = kvm_mmap(page_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	ret = __vm_set_user_memory_region(vm, DATA_SLOT, 0, MTE_TEST_GPA, page_size, data);
	if (!ret)
		vm_set_user_memory_region(vm, DATA_SLOT, 0, MTE_TEST_GPA, 0, data);
	kvm_munmap(data, page_size);

	return ret;
}

static void run_capability(void)
{
	struct kvm_vm *vm = __vm_create(VM_SHAPE_DEFAULT, 1, 0);
	u64 bits = offered & NOTAG_BITS, bit = bits & -bits;
	struct kvm_vcpu *vcpu;
	bool good;
	int i;

	ksft_test_result(failed_with(enable(vm, bit ?: NOTAG_BITS), EINVAL),
			 "refused without MTE\n");

	vm_enable_cap(vm, KVM_CAP_ARM_MTE, 0);
	good = failed_with(enable(vm, 0), EINVAL) &&
	       failed_with(enable(vm, KVM_ARM_MTE_PERM_UNCACHED), EINVAL) &&
	       failed_with(enable(vm, bits | KVM_ARM_MTE_PERM_UNCACHED), EINVAL) &&
	       failed_with(enable(vm, bits | BIT_ULL(63)), EINVAL) &&
	       failed_with(enable(vm, NOTAG_BITS & ~offered ?: BIT_ULL(63)), EINVAL) &&
	       failed_with(enable_args(vm, 1, bits, 0, 0), EINVAL);
	for (i = 1; i < 4; i++)
		good &= failed_with(enable_args(vm, 0, bits, i, 1), EINVAL);
	ksft_test_result(good, "bad arguments\n");
	ksft_test_result(failed_with(try_file(vm), EINVAL), "bad arguments enable nothing\n");

	if (!bit) {
		ksft_test_result_skip("enabled bit by bit: KVM doesn't offer it\n");
		ksft_test_result_skip("refused with a vCPU: KVM doesn't offer it\n");
	} else {
		ksft_test_result(!enable(vm, bit) && !enable(vm, bit) && !enable(vm, bits) &&
				 !try_file(vm),
				 "enabled bit by bit\n");
		mte_vm_add_vcpus(vm, 1, &vcpu);
		ksft_test_result(failed_with(enable(vm, bit), EINVAL), "refused with a vCPU\n");
	}

	kvm_vm_free(vm);
}

/*
 * The destination of a migration does what the source did: it must fail early if it
 * can't have the memory, and leave a VM that is as if nothing had been tried.
 */
static void run_replay(const struct memslot_kind *kind)
{
	bool possible = !(notag_bit(kind->class) & ~offered);
	struct kvm_vm *vm = vm_create_barebones();
	const char *failure = NULL;
	int ret;

	vm_enable_cap(vm, KVM_CAP_ARM_MTE, 0);
	ret = enable(vm, notag_bit(kind->class));
	if (possible ? ret : !failed_with(ret, EINVAL))
		failure = ret ? "refused" : "accepted by a host that lacks something";

	/* A file, whatever was asked for: it can be had on all hosts. */
	ret = try_file(vm);
	possible = possible && kind->class == MEMSLOT_PAGES;
	if (!failure && (possible ? ret : !failed_with(ret, EINVAL)))
		failure = ret ? "a file is refused" : "a file is accepted";

	ksft_test_result(!failure, "set-up for %s is replayed%s%s\n", kind->name,
			 failure ? ": " : "", failure ?: "");
	kvm_vm_free(vm);
}

/* The guest isn't told: stage 2 is none of its business. */
static void run_id_register(void)
{
	u64 reg = KVM_ARM64_SYS_REG(SYS_ID_AA64PFR2_EL1), val;
	struct env env = {};

	create_vm(&env, offered & NOTAG_BITS, page_size, false);
	val = vcpu_get_reg(env.vcpu, reg);
	ksft_test_result(!SYS_FIELD_GET(ID_AA64PFR2_EL1, MTEPERM, val) &&
			 failed_with(__vcpu_set_reg(env.vcpu, reg,
						    val | ID_AA64PFR2_EL1_MTEPERM_MASK), EINVAL) &&
			 vcpu_get_reg(env.vcpu, reg) == val,
			 "ID_AA64PFR2_EL1.MTEPERM is hidden\n");
	env_free(&env);
}

int main(void)
{
	int i, j;

	ksft_print_header();
	mte_require();
	page_size = getpagesize();
	offered = kvm_check_cap(KVM_CAP_ARM_MTE_PERM);
	__TEST_REQUIRE(offered, "KVM doesn't have KVM_CAP_ARM_MTE_PERM");
	__TEST_REQUIRE(memslot_ramfs_file() >= 0, "can't mount a ramfs");
	memslot_init();
	ksft_set_plan(ARRAY_SIZE(kinds) * (2 * ARRAY_SIZE(modes) + ARRAY_SIZE(checks)) +
		      4 + 2 * NR_CHANGES + 1 + 5 + 2 + 1);

	for (i = 0; i < ARRAY_SIZE(kinds); i++) {
		run_modes(&kinds[i]);
		for (j = 0; j < ARRAY_SIZE(checks); j++)
			run_check(&kinds[i], &checks[j]);
	}
	for (i = 0; i < 2; i++) {
		run_block(false, i);
		run_block(true, i);
	}
	for (i = 0; i < NR_CHANGES; i++) {
		run_race(FILE_KIND, i);
		run_race(PFNMAP_KIND, i);
	}
	run_clean(FILE_KIND);
	run_capability();
	run_replay(FILE_KIND);
	run_replay(PFNMAP_KIND);
	run_id_register();

	mte_finished();
}
