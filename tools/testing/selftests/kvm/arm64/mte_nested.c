// SPDX-License-Identifier: GPL-2.0-only
/*
 * mte_nested - Check the tags that a guest with an EL2 can get at.
 *
 * Memory tagging (MTE) isn't virtualized for such a guest: its ID registers
 * don't tell of it, though the VM has it. But neither it nor a guest that it
 * runs itself is kept from executing the instructions. So what they see must be
 * tags of zero, or what they have stored, as for any other guest.
 *
 * The guest of the guest has its memory mapped by a shadow of the two stage 2s.
 * What holds for the one of a VM, that the tags of a page are initialised
 * before it is mapped, has to hold for a shadow as well:
 *
 *  - when a page or a block is mapped for the first time,
 *  - when a page becomes part of a block, on a permission fault after logging
 *    of dirty pages has ended.
 *
 * Each case has memory with stale tags. That the guest sees the tags which the
 * VMM has written to a page is what shows that it would see those, too.
 *
 * The guest at EL2 maps all memory to itself in its stage 2, and enters EL1
 * with its own registers, where it goes on with what it is told to do.
 */
#include <linux/bitmap.h>
#include <linux/sizes.h>

#include "kvm_util.h"
#include "mte.h"
#include "processor.h"
#include "test_util.h"

#include <asm/sysreg.h>

#define DATA_SLOT	1
#define TEST_TAG	0x5

static size_t page_size;

static u64 guest_store_tags(u64 addr, u64 size, u64 tag, u64 d)
{
	do {
		mte_guest_enable_tags();
		mte_store_tags((void *)addr, size, tag);
	} while (!mte_guest_tags_enabled());

	return 0;
}

static u64 guest_have_tag(u64 addr, u64 size, u64 tag, u64 d)
{
	bool have;

	do {
		mte_guest_enable_tags();
		have = mte_have_tag((void *)addr, size, tag);
	} while (!mte_guest_tags_enabled());

	return have;
}

static u64 guest_count_stale(u64 addr, u64 nr_pages, u64 page_size, u64 stride)
{
	u64 stale;

	do {
		mte_guest_enable_tags();
		stale = mte_count_stale(addr, nr_pages, page_size, stride);
	} while (!mte_guest_tags_enabled());

	return stale;
}

static struct kvm_vm *vm_create_el2(size_t size, struct kvm_vcpu **vcpu)
{
	struct kvm_vm *vm = __vm_create(VM_SHAPE_DEFAULT, 1, size / page_size);

	vm_enable_cap(vm, KVM_CAP_ARM_MTE, 0);
	mte_vm_add_vcpus_el2(vm, 1, vcpu);

	return vm;
}

static bool tells_of_mte(u64 pfr1, u64 pfr2)
{
	return pfr1 & (ID_AA64PFR1_EL1_MTE_MASK | ID_AA64PFR1_EL1_MTE_frac_MASK |
		       ID_AA64PFR1_EL1_MTEX_MASK) ||
	       pfr2 & (ID_AA64PFR2_EL1_MTEPERM_MASK | ID_AA64PFR2_EL1_MTEFAR_MASK |
		       ID_AA64PFR2_EL1_MTESTOREONLY_MASK);
}

enum reader {
	VMM,
	GUEST,
	GUEST_OF_GUEST,
	NR_READERS,
};

static const char *const reader_names[] = {
	[VMM]			= "VMM",
	[GUEST]			= "guest",
	[GUEST_OF_GUEST]	= "guest of the guest",
};

static void run_id_regs(enum reader reader)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	u64 pfr1, pfr2;

	vm = vm_create_el2(0, &vcpu);
	if (reader == VMM) {
		pfr1 = vcpu_get_reg(vcpu, KVM_ARM64_SYS_REG(SYS_ID_AA64PFR1_EL1));
		pfr2 = vcpu_get_reg(vcpu, KVM_ARM64_SYS_REG(SYS_ID_AA64PFR2_EL1));
	} else {
		if (reader == GUEST_OF_GUEST)
			mte_vcpu_enter_el1(vcpu, mte_guest_s2_create(vm));
		pfr1 = mte_vcpu_call(vcpu, mte_guest_pfr1, 0, 0, 0, 0);
		pfr2 = mte_vcpu_call(vcpu, mte_guest_pfr2, 0, 0, 0, 0);
	}

	ksft_test_result(!tells_of_mte(pfr1, pfr2), "ID registers, %s: 0x%lx, 0x%lx\n",
			 reader_names[reader], pfr1, pfr2);
	kvm_vm_free(vm);
}

/*
 * Kernels used to tell such a guest of extensions to MTE, as those without an EL2 are told
 * of them. A VM that was saved then must be restorable, and be told the truth.
 */
static void run_restore(void)
{
	u64 reg = KVM_ARM64_SYS_REG(SYS_ID_AA64PFR2_EL1), val;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	bool good;

	vm = mte_vm_create(1, 0, &vcpu);
	val = vcpu_get_reg(vcpu, reg);
	kvm_vm_free(vm);

	vm = vm_create_el2(0, &vcpu);
	val &= ID_AA64PFR2_EL1_MTEFAR_MASK | ID_AA64PFR2_EL1_MTESTOREONLY_MASK;
	val |= vcpu_get_reg(vcpu, reg);
	good = !__vcpu_set_reg(vcpu, reg, val) && !tells_of_mte(0, vcpu_get_reg(vcpu, reg)) &&
	       __vcpu_set_reg(vcpu, reg, val | ID_AA64PFR2_EL1_MTEPERM_MASK);
	ksft_test_result(good, "ID registers, restored: 0x%lx\n", val);
	kvm_vm_free(vm);
}

static const struct testcase {
	const char *name;
	enum mte_mem_type type;
	bool l2;
	bool collapse;
} testcases[] = {
	{ "guest, anonymous", MTE_MEM_ANON },
	{ "guest, THP", MTE_MEM_ANON_THP },
	{ "guest, THP, collapse", MTE_MEM_ANON_THP, false, true },
	{ "guest of the guest, anonymous", MTE_MEM_ANON, true },
	{ "guest of the guest, memfd", MTE_MEM_MEMFD, true },
	{ "guest of the guest, THP", MTE_MEM_ANON_THP, true },
	{ "guest of the guest, hugetlb", MTE_MEM_HUGETLB, true },
	{ "guest of the guest, THP, collapse", MTE_MEM_ANON_THP, true, true },
	{ "guest of the guest, hugetlb, collapse", MTE_MEM_HUGETLB, true, true },
};

/* Have a page replaced by a block, see mte_block_collapse. */
static void collapse(struct kvm_vm *vm, struct kvm_vcpu *vcpu, struct mte_mem *mem, u64 page)
{
	gpa_t gpa = MTE_TEST_GPA + page * page_size;
	unsigned long *bmap;

	vm_set_user_memory_region(vm, DATA_SLOT, KVM_MEM_LOG_DIRTY_PAGES, MTE_TEST_GPA,
				  mem->size, mem->hva);
	mte_vcpu_call(vcpu, guest_store_tags, gpa, page_size, 0, 0);

	bmap = bitmap_zalloc(mem->size / page_size);
	kvm_vm_get_dirty_log(vm, DATA_SLOT, bmap);
	TEST_ASSERT(test_bit(page, bmap), "The page that was written isn't dirty");
	free(bmap);

	vm_set_user_memory_region(vm, DATA_SLOT, 0, MTE_TEST_GPA, mem->size, mem->hva);
	mte_vcpu_call(vcpu, guest_store_tags, gpa, page_size, 0, 0);
}

static void run(const struct testcase *test)
{
	size_t size = test->type == MTE_MEM_ANON || test->type == MTE_MEM_MEMFD ?
		      16 * page_size : SZ_2M;
	u8 tags[MTE_TAGS_SIZE(SZ_64K)];
	const char *reason, *failure = NULL;
	struct kvm_vcpu *vcpu;
	struct mte_mem mem;
	struct kvm_vm *vm;
	u64 nr_pages, stale;
	bool visible;

	reason = mte_mem_alloc_stale(&mem, test->type, SZ_2M, size);
	if (reason) {
		ksft_test_result_skip("%s: %s\n", test->name, reason);
		return;
	}

	nr_pages = mem.size / page_size;
	vm = vm_create_el2(mem.size, &vcpu);
	mte_vm_add_slot(vm, DATA_SLOT, 0, MTE_TEST_GPA, mem.hva, mem.size);
	if (test->l2)
		mte_vcpu_enter_el1(vcpu, mte_guest_s2_create(vm));

	if (test->collapse)
		collapse(vm, vcpu, &mem, nr_pages / 2);
	stale = mte_vcpu_call(vcpu, guest_count_stale, MTE_TEST_GPA, nr_pages,
			      page_size, page_size);

	memset(tags, TEST_TAG, sizeof(tags));
	mte_copy_tags_to_guest(vm, MTE_TEST_GPA, page_size, tags);
	visible = mte_vcpu_call(vcpu, guest_have_tag, MTE_TEST_GPA, page_size, TEST_TAG, 0);
	if (!visible)
		failure = ", and it would not have seen any";

	ksft_test_result(!stale && visible, "%s: %lu of %lu pages stale%s\n", test->name,
			 stale, nr_pages, failure ?: "");
	kvm_vm_free(vm);
	mte_mem_free(&mem);
}

int main(void)
{
	int i;

	ksft_print_header();
	mte_require();
	__TEST_REQUIRE(kvm_check_cap(KVM_CAP_ARM_EL2), "guests can't have an EL2");
	page_size = getpagesize();
	__TEST_REQUIRE(page_size == SZ_4K, "the stage 2 of the guest has pages of 4K");

	ksft_set_plan(NR_READERS + 1 + ARRAY_SIZE(testcases));

	for (i = 0; i < NR_READERS; i++)
		run_id_regs(i);
	run_restore();
	for (i = 0; i < ARRAY_SIZE(testcases); i++)
		run(&testcases[i]);

	ksft_finished();
}
