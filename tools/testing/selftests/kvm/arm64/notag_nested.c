// SPDX-License-Identifier: GPL-2.0-only
/*
 * notag_nested - Check memory without tags in a VM whose guest has an EL2.
 *
 * With KVM_CAP_ARM_MTE_PERM a VM can have memory that can't hold allocation tags.
 * It is mapped with NoTagAccess, and an access to tags exits to the VMM. Memory
 * tagging is hidden from a guest with an EL2, but neither the guest nor the one
 * that it runs can be kept from the instructions, see mte_nested. So the rule has
 * to hold for both: access to data passes, access to tags exits.
 *
 * The guest of the guest has its memory mapped by a shadow of two stage 2s. As to
 * that,
 *
 *  - NoTagAccess is the host's, and has to be in the shadow too, also after leaves
 *    of it have changed for dirty logging. The exit tells the address that the
 *    guest knows, which is what memslots are about, and not the one that the guest
 *    of the guest uses: here they differ, also within a page table of the guest
 *    that maps a block.
 *
 *  - What the stage 2 of the guest doesn't allow is a matter for the guest, which
 *    gets the fault and must not find out about NoTagAccess: a store of a tag to
 *    memory that it has mapped read-only is a write like any other. The VMM would
 *    have no way to mend that.
 *
 * A broken kernel doesn't map the shadow with NoTagAccess, and tags are stored
 * nowhere or where they don't belong; reports an address that isn't in any memslot,
 * or that of other memory; ends the VM for what the guest has to handle; has the
 * guest fault on the same access for ever; or hands it a syndrome that it can't
 * know.
 */
#include <sys/mman.h>

#include <linux/bitmap.h>
#include <linux/sizes.h>

#include "kvm_util.h"
#include "memslot_kinds.h"
#include "mte.h"
#include "notag.h"
#include "processor.h"
#include "test_util.h"

#include <asm/sysreg.h>

#define DATA_SLOT	1
#define DATA_SIZE	SZ_2M
#define TEST_TAG	0x5
#define HOST_DATA	0x1122334455667788UL
#define GUEST_DATA	0x99aabbccddeeff00UL

/* Where the guest of the guest has the memory, aligned to the largest block. */
#define L2_IPA		(MTE_TEST_GPA + SZ_1G)
/* Pages to use: one that isn't the first of a block, and another one in its place. */
#define L2_PAGE		300
#define L1_PAGE		42

static size_t page_size;
static int ramfs_fd;

static u64 guest_ldg(u64 addr, u64 b, u64 c, u64 d)
{
	u64 tag;

	do {
		mte_guest_enable_tags();
		tag = mte_load_tag((void *)addr);
	} while (!mte_guest_tags_enabled());

	return tag;
}

static u64 guest_stg(u64 addr, u64 b, u64 c, u64 d)
{
	do {
		mte_guest_enable_tags();
		mte_store_tag((void *)addr, TEST_TAG);
	} while (!mte_guest_tags_enabled());

	return 0;
}

static u64 guest_str(u64 addr, u64 b, u64 c, u64 d)
{
	WRITE_ONCE(*(u64 *)addr, GUEST_DATA);

	return 0;
}

enum insn_nr {
	NONE,
	LDR,
	STR,
	LDG,
	STG,
};

static const struct insn {
	const char *name;
	mte_guest_fn fn;
	bool tags;
	bool stores;
} insns[] = {
	[LDR] = { "LDR", mte_guest_read },
	[STR] = { "STR", guest_str, .stores = true },
	[LDG] = { "LDG", guest_ldg, .tags = true },
	[STG] = { "STG", guest_stg, .tags = true, .stores = true },
};

/* The last fault of the guest of the guest that the guest got, used in guest memory. */
static struct {
	u64 nr;
	u64 esr;
	u64 far;
	u64 hpfar;
} forwarded;

/* At EL2: note it down, and go on after the instruction. */
static void guest_handle_abort(struct ex_regs *regs)
{
	forwarded.nr++;
	forwarded.esr = read_sysreg(esr_el2);
	forwarded.far = read_sysreg(far_el2);
	forwarded.hpfar = read_sysreg(hpfar_el2);

	regs->pc += 4;
}

static struct kvm_vm *vm_create_el2(struct kvm_vcpu **vcpu)
{
	struct kvm_vm *vm = __vm_create(VM_SHAPE_DEFAULT, 1, 2 * DATA_SIZE / page_size);

	vm_enable_cap(vm, KVM_CAP_ARM_MTE, 0);
	vm_enable_cap(vm, KVM_CAP_ARM_MTE_PERM, KVM_ARM_MTE_PERM_PAGES);
	mte_vm_add_vcpus_el2(vm, 1, vcpu);
	vm_install_sync_handler(vm, VECTOR_SYNC_LOWER_64, ESR_ELx_EC_DABT_LOW,
				guest_handle_abort);

	return vm;
}

/*
 * A VM that runs, at EL2 or EL1, with a page of memory without tags that is in the
 * middle of a memslot.
 */
struct env {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	void *mem;
	/* The page, as the VMM, the guest, and the one to access it know it. */
	u64 *data;
	gpa_t gpa;
	u64 addr;
};

/*
 * Level 0: the guest accesses the memory. Otherwise the guest of the guest does, and
 * that is the level of the entry that the stage 2 of the guest has for it.
 */
static void env_init(struct env *env, int level, u64 access)
{
	struct kvm_vm *vm = vm_create_el2(&env->vcpu);
	gpa_t root, out = MTE_TEST_GPA;
	u64 size;

	env->vm = vm;
	env->addr = MTE_TEST_GPA + L2_PAGE * page_size;
	env->gpa = env->addr;

	env->mem = kvm_mmap(DATA_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, ramfs_fd);

	mte_vm_add_slot(vm, DATA_SLOT, 0, MTE_TEST_GPA, env->mem, DATA_SIZE);
	virt_map(vm, L2_IPA, L2_IPA, DATA_SIZE / vm->page_size);

	if (level) {
		size = 1UL << (39 - 9 * level);
		if (level == 3)
			out += L1_PAGE * page_size;
		env->addr = L2_IPA + L2_PAGE * page_size;
		env->gpa = out + env->addr % size;

		root = mte_guest_s2_create(vm);
		mte_guest_s2_map(vm, root, env->addr - env->addr % size, out, level, access);
		mte_vcpu_enter_el1(env->vcpu, root);
	}

	env->data = env->mem + (env->gpa - MTE_TEST_GPA);
	WRITE_ONCE(*env->data, HOST_DATA);
}

static void env_exit(struct env *env)
{
	kvm_vm_free(env->vm);
	kvm_munmap(env->mem, DATA_SIZE);
}

/* Verdicts: NULL, or what the instruction does wrong. */

static const char *check_passes(struct env *env, enum insn_nr insn)
{
	u64 ret;

	WRITE_ONCE(*env->data, HOST_DATA);
	mte_vcpu_prepare(env->vcpu, insns[insn].fn, env->addr, 0, 0, 0);
	if (_vcpu_run(env->vcpu))
		return "exits";
	ret = mte_vcpu_result(env->vcpu);

	if (insns[insn].stores)
		return READ_ONCE(*env->data) == GUEST_DATA ? NULL : "stores nothing";

	return ret == HOST_DATA ? NULL : "loads wrong data";
}

/* It exits, and does so again, until there is memory that can have tags. */
static const char *check_exits(struct env *env, enum insn_nr insn)
{
	u8 tags[MTE_TAGS_SIZE(SZ_4K)];
	u64 old = READ_ONCE(*env->data), pc, ret;
	const char *failure;

	mte_vcpu_prepare(env->vcpu, insns[insn].fn, env->addr, 0, 0, 0);
	failure = mte_vcpu_run_notag(env->vcpu, env->gpa);
	if (failure)
		return failure;
	pc = vcpu_pc(env->vcpu);

	failure = mte_vcpu_run_notag(env->vcpu, env->gpa);
	if (failure)
		return failure;
	if (vcpu_pc(env->vcpu) != pc)
		return "moves the PC";
	if (READ_ONCE(*env->data) != old)
		return "had an effect";

	memslot_map_anon(env->data, page_size);
	memset(tags, insns[insn].stores ? 0 : TEST_TAG, sizeof(tags));
	mte_copy_tags_to_guest(env->vm, env->gpa, page_size, tags);

	if (_vcpu_run(env->vcpu))
		return "exits though the memory has tags now";
	ret = mte_vcpu_result(env->vcpu);
	if (!insns[insn].stores)
		return ret == TEST_TAG ? NULL : "doesn't load the tag of the new page";

	mte_copy_tags_from_guest(env->vm, env->gpa, page_size, tags);

	return tags[0] == TEST_TAG ? NULL : "doesn't store the tag to the new page";
}

/* For memory that stays: go on after the instruction. */
static const char *check_exits_once(struct env *env, enum insn_nr insn)
{
	const char *failure;

	mte_vcpu_prepare(env->vcpu, insns[insn].fn, env->addr, 0, 0, 0);
	failure = mte_vcpu_run_notag(env->vcpu, env->gpa);
	if (failure)
		return failure;

	vcpu_skip_insn(env->vcpu);
	vcpu_run(env->vcpu);
	mte_vcpu_result(env->vcpu);

	return NULL;
}

/* The guest gets a fault with this status, and the VMM learns nothing of it. */
static const char *check_forwarded(struct env *env, enum insn_nr insn, u64 fsc)
{
	u64 old = READ_ONCE(*env->data), esr, ipa;
	static char buf[128];
	const char *failure;

	memset(&forwarded, 0, sizeof(forwarded));
	sync_global_to_guest(env->vm, forwarded);
	mte_vcpu_prepare(env->vcpu, insns[insn].fn, env->addr, 0, 0, 0);
	if (_vcpu_run(env->vcpu)) {
		snprintf(buf, sizeof(buf), "exits with errno %d, reason %s", errno,
			 exit_reason_str(env->vcpu->run->exit_reason));
		return buf;
	}
	mte_vcpu_result(env->vcpu);
	sync_global_from_guest(env->vm, forwarded);

	if (!forwarded.nr)
		return "isn't forwarded to the guest";
	if (READ_ONCE(*env->data) != old)
		return "had an effect";

	esr = forwarded.esr;
	/* HPFAR_EL2 is UNKNOWN for a permission fault. */
	ipa = esr_fsc_is_permission_fault(esr) ? env->addr :
	      (forwarded.hpfar & HPFAR_EL2_FIPA_MASK) << 8;

	if (ESR_ELx_EC(esr) != ESR_ELx_EC_DABT_LOW)
		failure = "not a data abort";
	else if (ESR_ELx_ISS2(esr) & ESR_ELx_TagAccess)
		failure = "an access to tags";
	else if ((esr & ESR_ELx_FSC) != fsc)
		failure = "a wrong status";
	else if (!!(esr & ESR_ELx_WNR) != insns[insn].stores)
		failure = "a wrong direction";
	else if (forwarded.far != env->addr || ipa != env->addr)
		failure = "a wrong address";
	else
		return NULL;

	snprintf(buf, sizeof(buf), "is forwarded as %s: ESR 0x%lx, FAR 0x%lx, HPFAR 0x%lx",
		 failure, esr, forwarded.far, forwarded.hpfar);

	return buf;
}

static const char *const places[] = {
	"guest",
	"guest of the guest, 1G block",
	"guest of the guest, 2M block",
	"guest of the guest, page",
};

#define RO	GUEST_S2_READ
#define RW	(GUEST_S2_READ | GUEST_S2_WRITE)

/* Without another instruction before it, the shadow has no leaf yet. */
static const struct testcase {
	int level;
	u64 access;
	enum insn_nr before;
	enum insn_nr insn;
	/* Status of the fault that the guest gets, if it gets one. */
	u64 fsc;
} testcases[] = {
	{ 0, RW, NONE, LDR },
	{ 0, RW, NONE, STR },
	{ 0, RW, NONE, LDG },
	{ 0, RW, NONE, STG },
	{ 1, RW, NONE, LDG },
	{ 1, RW, NONE, STG },
	{ 2, RW, NONE, LDR },
	{ 2, RW, NONE, STR },
	{ 2, RW, NONE, LDG },
	{ 2, RW, NONE, STG },
	{ 2, RW, STR, LDG },
	{ 3, RW, NONE, LDR },
	{ 3, RW, NONE, STR },
	{ 3, RW, NONE, LDG },
	{ 3, RW, NONE, STG },
	{ 3, RW, STR, LDG },
	{ 3, RW, STR, STG },
	{ 2, RO, NONE, LDG },
	{ 2, RO, NONE, STG, ESR_ELx_FSC_PERM_L(2) },
	{ 3, RO, NONE, LDR },
	{ 3, RO, NONE, STR, ESR_ELx_FSC_PERM_L(3) },
	{ 3, RO, NONE, LDG },
	{ 3, RO, NONE, STG, ESR_ELx_FSC_PERM_L(3) },
	{ 3, RO, LDR, LDG },
	{ 3, RO, LDR, STG, ESR_ELx_FSC_PERM_L(3) },
	{ 2, 0, NONE, LDG, ESR_ELx_FSC_FAULT_L(2) },
	{ 3, 0, NONE, LDG, ESR_ELx_FSC_FAULT_L(3) },
	{ 3, 0, NONE, STG, ESR_ELx_FSC_FAULT_L(3) },
};

static void run(const struct testcase *test)
{
	const struct insn *insn = &insns[test->insn];
	const char *failure = NULL;
	struct env env;
	char name[128];

	snprintf(name, sizeof(name), "%s%s, %s%s%s", places[test->level],
		 test->access == RO ? " read-only" : test->access ? "" : " unmapped",
		 insn->name, test->before ? " after " : "", insns[test->before].name ?: "");

	if (ramfs_fd < 0) {
		ksft_test_result_skip("%s: can't mount a ramfs\n", name);
		return;
	}

	env_init(&env, test->level, test->access);
	if (test->before)
		failure = check_passes(&env, test->before);

	if (!failure)
		failure = test->fsc ? check_forwarded(&env, test->insn, test->fsc) :
			  insn->tags ? check_exits(&env, test->insn) :
			  check_passes(&env, test->insn);
	else
		insn = &insns[test->before];

	ksft_test_result(!failure, "%s%s%s%s%s\n", name, failure ? ": " : "",
			 failure ? insn->name : "", failure ? " " : "", failure ?: "");
	env_exit(&env);
}

/*
 * Dirty logging write protects the leaves of the shadow, and gives them back the
 * permission to write. They keep NoTagAccess.
 */
static const struct logging_step {
	const char *name;
	enum { START, GET_LOG, STOP, INSN } what;
	enum insn_nr insn;
} logging_steps[] = {
	{ "STR before logging", INSN, STR },
	{ "LDG before logging", INSN, LDG },
	{ "start of logging", START },
	{ "LDG, write protected", INSN, LDG },
	{ "STG, write protected", INSN, STG },
	{ "STR while logging", INSN, STR },
	{ "LDG while logging", INSN, LDG },
	{ "STG while logging", INSN, STG },
	{ "log", GET_LOG },
	{ "LDG after the log was read", INSN, LDG },
	{ "STR after the log was read", INSN, STR },
	{ "LDG after another STR", INSN, LDG },
	{ "log, again", GET_LOG },
	{ "end of logging", STOP },
	{ "LDG after logging", INSN, LDG },
	{ "STR after logging", INSN, STR },
	{ "STG after logging", INSN, STG },
};

static const char *do_logging_step(struct env *env, const struct logging_step *step)
{
	u64 page = (env->gpa - MTE_TEST_GPA) / page_size;
	unsigned long *bmap;
	bool dirty;

	switch (step->what) {
	case START:
	case STOP:
		vm_set_user_memory_region(env->vm, DATA_SLOT,
					  step->what == START ? KVM_MEM_LOG_DIRTY_PAGES : 0,
					  MTE_TEST_GPA, DATA_SIZE, env->mem);
		return NULL;
	case GET_LOG:
		bmap = bitmap_zalloc(DATA_SIZE / page_size);
		kvm_vm_get_dirty_log(env->vm, DATA_SLOT, bmap);
		dirty = test_bit(page, bmap);
		free(bmap);
		return dirty ? NULL : "lacks the page that was written";
	case INSN:
		return insns[step->insn].tags ? check_exits_once(env, step->insn) :
						check_passes(env, step->insn);
	}

	return NULL;
}

static void run_logging(int level)
{
	const char *failure = NULL;
	struct env env;
	int i;

	if (ramfs_fd < 0) {
		ksft_test_result_skip("%s, dirty logging: can't mount a ramfs\n", places[level]);
		return;
	}

	env_init(&env, level, RW);
	for (i = 0; i < ARRAY_SIZE(logging_steps) && !failure; i++)
		failure = do_logging_step(&env, &logging_steps[i]);

	ksft_test_result(!failure, "%s, dirty logging%s%s%s%s\n", places[level],
			 failure ? ": " : "", failure ? logging_steps[i - 1].name : "",
			 failure ? ": " : "", failure ?: "");
	env_exit(&env);
}

/* What the VM is given changes nothing about what the guest is told. */
static void run_id_regs(bool l2)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	u64 pfr1, pfr2;

	vm = vm_create_el2(&vcpu);
	if (l2)
		mte_vcpu_enter_el1(vcpu, mte_guest_s2_create(vm));
	pfr1 = mte_vcpu_call(vcpu, mte_guest_pfr1, 0, 0, 0, 0);
	pfr2 = mte_vcpu_call(vcpu, mte_guest_pfr2, 0, 0, 0, 0);

	ksft_test_result(!SYS_FIELD_GET(ID_AA64PFR1_EL1, MTE, pfr1) &&
			 !SYS_FIELD_GET(ID_AA64PFR2_EL1, MTEPERM, pfr2),
			 "ID registers, %s: 0x%lx, 0x%lx\n", l2 ? "guest of the guest" : "guest",
			 pfr1, pfr2);
	kvm_vm_free(vm);
}

int main(void)
{
	int i;

	ksft_print_header();
	mte_require();
	__TEST_REQUIRE(kvm_check_cap(KVM_CAP_ARM_EL2), "guests can't have an EL2");
	__TEST_REQUIRE(kvm_check_cap(KVM_CAP_ARM_MTE_PERM) & KVM_ARM_MTE_PERM_PAGES,
		       "KVM doesn't offer memory without tags");
	page_size = getpagesize();
	__TEST_REQUIRE(page_size == SZ_4K, "the stage 2 of the guest has pages of 4K");

	ramfs_fd = memslot_ramfs_file();
	if (ramfs_fd >= 0)
		kvm_ftruncate(ramfs_fd, DATA_SIZE);
	ksft_set_plan(2 + ARRAY_SIZE(testcases) + 2);

	run_id_regs(false);
	run_id_regs(true);
	for (i = 0; i < ARRAY_SIZE(testcases); i++)
		run(&testcases[i]);
	run_logging(2);
	run_logging(3);

	ksft_finished();
}
