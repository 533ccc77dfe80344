// SPDX-License-Identifier: GPL-2.0-only
/*
 * mte_split - Check that tags survive the splitting of a block at stage 2, and
 * its being put together again.
 *
 * Dirty logging needs mappings of pages. A block that is there when logging is
 * enabled is split, either eagerly by KVM_SET_USER_MEMORY_REGION itself, if
 * KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE was set, or lazily: by the first write to
 * it, which maps a page, and by the accesses to the other pages after that. When
 * logging is disabled, the next write puts the block together.
 *
 * All of that installs leaves for memory whose tags the guest has stored
 * already, and which must not be initialised again. A broken kernel clears some
 * of them on the way.
 *
 * Each step is only worth something if it has taken place, so look at the
 * stage-2 page-table after each.
 */
#include <sys/mman.h>

#include <linux/bitmap.h>
#include <linux/sizes.h>

#include "kvm_util.h"
#include "mte.h"
#include "processor.h"
#include "test_util.h"

#define DATA_SLOT	1

/* Two blocks: one is written to after logging was enabled, one only read. */
#define NR_BLOCKS	2

#define MAX_FOLIO_SIZE	SZ_64M

static const struct testcase {
	const char *name;
	enum mte_mem_type type;
	bool eager;
} testcases[] = {
	{ "THP, lazy", MTE_MEM_ANON_THP, false },
	{ "THP, eager", MTE_MEM_ANON_THP, true },
	{ "memfd THP, lazy", MTE_MEM_MEMFD_THP, false },
	{ "memfd THP, eager", MTE_MEM_MEMFD_THP, true },
	{ "hugetlb, lazy", MTE_MEM_HUGETLB, false },
	{ "hugetlb, eager", MTE_MEM_HUGETLB, true },
};

static void assert_leaves(struct kvm_vm *vm, size_t size, u64 nr_blocks, u64 nr_pages,
			  const char *when)
{
	u64 blocks, pages;

	TEST_ASSERT(mte_stage2_leaves(vm, MTE_TEST_GPA, size, &blocks, &pages),
		    "Can't read the stage-2 page-table");
	TEST_ASSERT(blocks == nr_blocks && pages == nr_pages,
		    "%s: %lu blocks and %lu pages at stage 2, expected %lu and %lu",
		    when, blocks, pages, nr_blocks, nr_pages);
}

static u64 count_lost(struct kvm_vcpu *vcpu, size_t size)
{
	size_t page_size = getpagesize();

	return mte_vcpu_call(vcpu, mte_count_lost, MTE_TEST_GPA, size / page_size,
			     page_size, page_size);
}

static void run(const struct testcase *test, struct mte_mem *mem)
{
	size_t page_size = getpagesize(), size = mem->size;
	u64 nr_pages = size / page_size, split, read, written, merged;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	u64 blocks, pages;

	vm = mte_vm_create(1, size, &vcpu);
	if (!mte_stage2_leaves(vm, MTE_TEST_GPA, size, &blocks, &pages)) {
		ksft_test_result_skip("%s: the kernel doesn't show stage-2 page-tables\n",
				      test->name);
		goto out;
	}

	if (test->eager)
		mte_vm_enable_eager_split(vm, pmd_size());
	mte_vm_add_slot(vm, DATA_SLOT, 0, MTE_TEST_GPA, mem->hva, size);

	mte_vcpu_call(vcpu, mte_store_pattern, MTE_TEST_GPA, nr_pages, page_size, page_size);
	assert_leaves(vm, size, NR_BLOCKS, 0, "Stored tags");

	vm_set_user_memory_region(vm, DATA_SLOT, KVM_MEM_LOG_DIRTY_PAGES, MTE_TEST_GPA,
				  size, mem->hva);
	assert_leaves(vm, size, test->eager ? 0 : NR_BLOCKS, test->eager ? nr_pages : 0,
		      "Enabled logging");
	split = count_lost(vcpu, size);

	mte_vcpu_call(vcpu, mte_write_data, MTE_TEST_GPA + page_size, 1, 0, 0);
	assert_leaves(vm, size, test->eager ? 0 : NR_BLOCKS - 1,
		      test->eager ? nr_pages : 1, "Wrote to a page");
	read = count_lost(vcpu, size);

	/* Every page is written to, and is mapped as such from now on. */
	mte_vcpu_call(vcpu, mte_write_data, MTE_TEST_GPA, nr_pages, page_size, 0);
	assert_leaves(vm, size, 0, nr_pages, "Wrote to all pages");
	written = count_lost(vcpu, size);

	/* Have the pages write protected, so that the next write faults. */
	vm_set_user_memory_region(vm, DATA_SLOT, 0, MTE_TEST_GPA, size, mem->hva);
	vm_set_user_memory_region(vm, DATA_SLOT, KVM_MEM_LOG_DIRTY_PAGES, MTE_TEST_GPA,
				  size, mem->hva);
	vm_set_user_memory_region(vm, DATA_SLOT, 0, MTE_TEST_GPA, size, mem->hva);
	mte_vcpu_call(vcpu, mte_write_data, MTE_TEST_GPA, NR_BLOCKS, pmd_size(), 0);
	assert_leaves(vm, size, NR_BLOCKS, 0, "Disabled logging");
	merged = count_lost(vcpu, size);

	ksft_test_result(!split && !read && !written && !merged,
			 "%s: tags of %lu, %lu, %lu, %lu of %lu pages lost when enabled, one written, all written, disabled\n",
			 test->name, split, read, written, merged, nr_pages);
out:
	kvm_vm_free(vm);
}

static void run_or_skip(const struct testcase *test)
{
	const char *reason;
	struct mte_mem mem;

	reason = mte_mem_alloc(&mem, test->type, pmd_size(), NR_BLOCKS * pmd_size());
	if (!reason) {
		reason = mte_mem_populate(&mem);
		if (reason)
			mte_mem_free(&mem);
	}

	if (reason) {
		ksft_test_result_skip("%s: %s\n", test->name, reason);
		return;
	}

	run(test, &mem);
	mte_mem_free(&mem);
}

int main(void)
{
	int i;

	ksft_print_header();
	mte_require();
	__TEST_REQUIRE(pmd_size() <= MAX_FOLIO_SIZE, "the blocks are too large to have several");
	__TEST_REQUIRE(kvm_check_cap(KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE) >= 0,
		       "no eager splitting");
	ksft_set_plan(ARRAY_SIZE(testcases));

	for (i = 0; i < ARRAY_SIZE(testcases); i++)
		run_or_skip(&testcases[i]);

	ksft_finished();
}
