// SPDX-License-Identifier: GPL-2.0-only
/*
 * mte_block_collapse - Check the tags of a block that replaces a page at stage
 * 2 because of a permission fault.
 *
 * A write to a memslot that logs dirty pages installs a single page.
 * KVM_GET_DIRTY_LOG write protects it again. When logging is disabled then, the
 * next write to the page, or an instruction fetch from it, takes a permission
 * fault that maps the whole block around it. It is the first time that the
 * guest can access the other pages of the block, and nothing but their being
 * mapped tells KVM to initialise their tags.
 *
 * A broken kernel takes for granted that on a permission fault this was done
 * before. The guest then sees tags of a process that had the page frames
 * before. And as the kernel doesn't know of any tags in these pages, it doesn't
 * move those which the guest stores there along with the data: they are zero
 * after the page was swapped out, or moved to another page frame.
 *
 * Both are checked. A case counts only if the memory of the VM consists of the
 * page frames which that process had, and if it is mapped as a block in the
 * VMM, so that it will be at stage 2, which the stage-2 page-table has to confirm.
 *
 * A hugetlb folio has its tags initialised as a whole when the first page of it
 * is mapped, so the hugetlb cases are controls: a block replaces a page there,
 * too, and what was stored before has to be kept.
 *
 * With CTR_EL0.DIC everything is mapped executable at once, and there is no
 * permission fault on an instruction fetch.
 */
#include <sys/mman.h>

#include <linux/bitmap.h>
#include <linux/sizes.h>

#include "kvm_util.h"
#include "mte.h"
#include "processor.h"
#include "test_util.h"

#define DATA_SLOT	1
#define TEST_TAG	0x5
#define TEST_DATA	0x1234567890abcdefUL

/* AArch64 "ret" (ret x30). */
#define RET_INSN	0xd65f03c0U

/* How many pages to move, each of which costs a page frame. */
#define NR_MIGRATIONS	16

enum trigger {
	WRITE,
	EXEC,
};

enum check {
	STALE,
	SWAP,
	MIGRATE,
};

struct testcase {
	const char *name;
	enum mte_mem_type type;
	enum trigger trigger;
	enum check check;
};

static const struct testcase testcases[] = {
	{ "THP, write", MTE_MEM_ANON_THP, WRITE, STALE },
	{ "THP, exec", MTE_MEM_ANON_THP, EXEC, STALE },
	{ "hugetlb, write", MTE_MEM_HUGETLB, WRITE, STALE },
	{ "hugetlb, exec", MTE_MEM_HUGETLB, EXEC, STALE },
	{ "THP, write, then swapped out", MTE_MEM_ANON_THP, WRITE, SWAP },
	{ "THP, write, then migrated", MTE_MEM_ANON_THP, WRITE, MIGRATE },
	{ "THP, exec, then swapped out", MTE_MEM_ANON_THP, EXEC, SWAP },
	{ "hugetlb, write, then migrated", MTE_MEM_HUGETLB, WRITE, MIGRATE },
};

static u64 guest_has_dic(u64 a, u64 b, u64 c, u64 d)
{
	return FIELD_GET(CTR_EL0_DIC_MASK, read_sysreg(ctr_el0));
}

static u64 guest_write(u64 addr, u64 size, u64 c, u64 d)
{
	WRITE_ONCE(*(u32 *)addr, RET_INSN);
	mte_store_tags((void *)addr, size, TEST_TAG);

	/* Make the instruction visible to a later fetch. */
	asm volatile("dc cvau, %0\n\t"
		     "dsb ish\n\t"
		     "ic ivau, %0\n\t"
		     "dsb ish\n\t"
		     "isb" : : "r"(addr) : "memory");

	return 0;
}

static u64 guest_exec(u64 addr, u64 b, u64 c, u64 d)
{
	((void (*)(void))addr)();

	return 0;
}

static const char *migrate_some(struct mte_mem *mem)
{
	size_t stride = mem->size / NR_MIGRATIONS, offset;
	const char *reason;

	/* A hugetlb folio is moved as a whole. */
	if (mem->type == MTE_MEM_HUGETLB)
		return migrate_page(mem->hva);

	for (offset = 0; offset < mem->size; offset += stride) {
		reason = migrate_page(mem->hva + offset);
		if (reason)
			return reason;
	}

	return NULL;
}

static void skip(const struct testcase *test, const char *reason)
{
	ksft_test_result_skip("%s: %s\n", test->name, reason);
}

static void run(const struct testcase *test, struct mte_mem *mem)
{
	size_t page_size = getpagesize(), nr_pages = mem->size / page_size;
	size_t middle = mem->size / 2;
	const char *reason = NULL;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	unsigned long *bmap;
	bool kept = true;
	u64 blocks, pages, bad;

	vm = mte_vm_create(1, mem->size, &vcpu);
	mte_vm_add_slot(vm, DATA_SLOT, KVM_MEM_LOG_DIRTY_PAGES, MTE_TEST_GPA,
			mem->hva, mem->size);

	if (test->trigger == EXEC && mte_vcpu_call(vcpu, guest_has_dic, 0, 0, 0, 0)) {
		skip(test, "CTR_EL0.DIC is set, there is no permission fault");
		goto out;
	}

	/* Install a page, and write protect it. */
	mte_vcpu_call(vcpu, guest_write, MTE_TEST_GPA + middle, page_size, 0, 0);
	bmap = bitmap_zalloc(nr_pages);
	kvm_vm_get_dirty_log(vm, DATA_SLOT, bmap);
	TEST_ASSERT(test_bit(nr_pages / 2, bmap), "The page that was written isn't dirty");
	free(bmap);

	/* Allow for a block, and take a permission fault on the page. */
	vm_set_user_memory_region(vm, DATA_SLOT, 0, MTE_TEST_GPA, mem->size, mem->hva);
	if (test->trigger == WRITE)
		mte_vcpu_call(vcpu, guest_write, MTE_TEST_GPA + middle, page_size, 0, 0);
	else
		mte_vcpu_call(vcpu, guest_exec, MTE_TEST_GPA + middle, 0, 0, 0);

	if (mte_stage2_leaves(vm, MTE_TEST_GPA, mem->size, &blocks, &pages))
		TEST_ASSERT(blocks == 1 && !pages,
			    "%s: %lu blocks and %lu pages at stage 2, expected a block",
			    test->name, blocks, pages);

	if (test->check == STALE) {
		bad = mte_vcpu_call(vcpu, mte_count_stale, MTE_TEST_GPA,
				    nr_pages / 2, page_size, page_size);
		bad += mte_vcpu_call(vcpu, mte_count_stale,
				     MTE_TEST_GPA + middle + page_size,
				     nr_pages / 2 - 1, page_size, page_size);
		kept = mte_vcpu_call(vcpu, mte_guest_have_tag, MTE_TEST_GPA + middle,
				     page_size, TEST_TAG, 0);
		ksft_test_result(!bad && kept, "%s: %lu of %zu pages stale%s\n",
				 test->name, bad, nr_pages,
				 kept ? "" : ", tag of the page in use lost");
		goto out;
	}

	/*
	 * Data that isn't zero. A split of a THP replaces untagged pages of
	 * zeros by the zero page, which can't be moved.
	 */
	mte_vcpu_call(vcpu, mte_write_data, MTE_TEST_GPA, nr_pages, page_size, TEST_DATA);
	mte_vcpu_call(vcpu, mte_store_pattern, MTE_TEST_GPA, nr_pages, page_size, page_size);
	reason = test->check == SWAP ? swap_out(mem->hva, mem->size) : migrate_some(mem);
	if (reason) {
		skip(test, reason);
		goto out;
	}

	bad = mte_vcpu_call(vcpu, mte_count_lost, MTE_TEST_GPA, nr_pages, page_size, page_size);
	ksft_test_result(!bad, "%s: tags of %lu of %zu pages lost\n", test->name, bad, nr_pages);

out:
	kvm_vm_free(vm);
}

static void run_or_skip(const struct testcase *test)
{
	const char *reason;
	struct mte_mem mem;

	reason = mte_mem_alloc_stale(&mem, test->type, pmd_size(), pmd_size());
	if (reason) {
		skip(test, reason);
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
	ksft_set_plan(ARRAY_SIZE(testcases));

	for (i = 0; i < ARRAY_SIZE(testcases); i++)
		run_or_skip(&testcases[i]);

	mte_finished();
}
