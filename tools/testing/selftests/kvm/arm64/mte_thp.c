// SPDX-License-Identifier: GPL-2.0-only
/*
 * mte_thp - Check that the tags of a THP belong to its pages, whatever happens
 * to the folio.
 *
 * The kernel keeps a flag for the tags of each page, also of those that a large
 * folio consists of: valid if it is set, and still to be cleared if not. Some
 * pages of a THP have it and others don't, if they were used one by one:
 *
 *  - stage 2 maps the THP by pages, as the memslot logs dirty pages or is not
 *    aligned to the THP, and the guest uses some of them,
 *  - the guest uses some pages, which are then collapsed to a THP.
 *
 * The THP is split after that: on request, or, once a part of it is unmapped,
 * by memory reclaim. The split unmaps it from stage 2, so the guest takes a
 * fault on each page again. A broken kernel gives all pages the flag of the
 * first one:
 *
 *  - If the guest didn't use the first page, the tags of the others are taken
 *    to be invalid, and cleared. They are lost.
 *
 *  - If the guest used the first page only, the others are taken to be valid.
 *    The guest sees tags there, stored by a process that is gone now.
 *
 * The latter counts only if the THP of the VM consists of the page frames which
 * that process had.
 */
#include <sys/mman.h>

#include <linux/sizes.h>

#include "kvm_util.h"
#include "mte.h"
#include "processor.h"
#include "test_util.h"

#define DATA_SLOT	1

/* What happens to the memory after the guest has stored tags. */
enum event {
	SPLIT,
	COLLAPSE,
	COLLAPSE_SPLIT,
	UNMAP_RECLAIM,
	DISCARD_RECLAIM,
};

/* What the guest uses before that. */
enum usage {
	NOT_FIRST,
	FIRST_ONLY,
};

struct testcase {
	const char *name;
	enum mte_mem_type type;
	enum usage usage;
	enum event event;
	/* How to have stage 2 map it by pages. */
	u32 slot_flags;
	bool misaligned;
};

#define ANON	MTE_MEM_ANON_THP
#define MEMFD	MTE_MEM_MEMFD_THP
#define LOG	KVM_MEM_LOG_DIRTY_PAGES

static const struct testcase testcases[] = {
	{ "split, logging, first page not used", ANON, NOT_FIRST, SPLIT, LOG },
	{ "split, misaligned, first page not used", ANON, NOT_FIRST, SPLIT, 0, true },
	{ "split, logging, only first page used", ANON, FIRST_ONLY, SPLIT, LOG },
	{ "split, memfd, first page not used", MEMFD, NOT_FIRST, SPLIT, LOG },
	{ "split, memfd, only first page used", MEMFD, FIRST_ONLY, SPLIT, LOG },
	{ "collapse, first page not used", ANON, NOT_FIRST, COLLAPSE },
	{ "collapse and split, first page not used", ANON, NOT_FIRST, COLLAPSE_SPLIT },
	{ "half unmapped, reclaim", ANON, NOT_FIRST, UNMAP_RECLAIM, LOG },
	{ "half discarded, reclaim", ANON, NOT_FIRST, DISCARD_RECLAIM, LOG },
};

/*
 * Data that isn't zero. A split replaces untagged pages of zeros with the zero
 * page, in which nobody would see stale tags.
 */
static void write_data(struct mte_mem *mem)
{
	size_t offset;

	for (offset = 0; offset < mem->size; offset += getpagesize())
		WRITE_ONCE(*(u64 *)(mem->hva + offset), offset + 1);
}

static const char *alloc_pages(struct mte_mem *mem, const struct testcase *test)
{
	const char *reason = mte_mem_alloc(mem, test->type, 0, SZ_4K);
	int large;

	if (reason)
		return reason;

	kvm_madvise(mem->hva, mem->size, MADV_NOHUGEPAGE);
	kvm_madvise(mem->hva, mem->size, MADV_POPULATE_WRITE);
	kvm_madvise(mem->hva, mem->size, MADV_HUGEPAGE);

	large = is_large_folio(mem->hva);
	if (large < 0) {
		mte_mem_free(mem);
		return "can't tell whether a page belongs to a THP";
	}
	TEST_ASSERT(!large, "Pages were asked for");

	return NULL;
}

static const char *alloc(struct mte_mem *mem, const struct testcase *test)
{
	if (test->event == COLLAPSE || test->event == COLLAPSE_SPLIT)
		return alloc_pages(mem, test);

	/* Rounded up to a THP. */
	return mte_mem_alloc_stale(mem, test->type, 0, get_trans_hugepagesz());
}

/* Returns why it couldn't be done, or NULL if the folio is what it should be. */
static const char *make_happen(struct mte_mem *mem, const struct testcase *test)
{
	size_t half = mem->size / 2;
	const char *reason = NULL;
	u8 *page;

	if (test->event == COLLAPSE || test->event == COLLAPSE_SPLIT) {
		if (madvise(mem->hva, mem->size, MADV_COLLAPSE))
			return "no THP could be had";
		TEST_ASSERT(is_huge_mapped(mem->hva, mem->size), "No THP after a collapse");
	}

	switch (test->event) {
	case COLLAPSE:
		return NULL;
	case SPLIT:
	case COLLAPSE_SPLIT:
		reason = split_huge_folios(mem->hva, mem->size);
		break;
	case UNMAP_RECLAIM:
		/* The address range remains reserved, for mte_mem_free(). */
		TEST_ASSERT(mmap(mem->hva + half, half, PROT_NONE, MAP_PRIVATE |
				 MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED,
			    "mmap() failed, errno %d", errno);
		reason = split_unmapped_folios();
		break;
	case DISCARD_RECLAIM:
		kvm_madvise(mem->hva + half, half, MADV_DONTNEED);
		reason = split_unmapped_folios();
		break;
	}

	if (reason)
		return reason;

	/* Shared memory isn't mapped any more after that. */
	page = mem->hva + getpagesize();
	READ_ONCE(*page);

	switch (is_large_folio(page)) {
	case 0:
		return NULL;
	case 1:
		return "the THP wasn't split";
	default:
		return "can't tell whether the THP was split";
	}
}

static void run(const struct testcase *test, struct mte_mem *mem)
{
	size_t page_size = getpagesize(), nr_pages = mem->size / page_size;
	bool discard = test->event == DISCARD_RECLAIM;
	gpa_t first = MTE_TEST_GPA, second;
	u64 lost = 0, stale = 0;
	struct kvm_vcpu *vcpu;
	const char *reason;
	struct kvm_vm *vm;
	size_t nr_kept;

	if (test->misaligned)
		first += page_size;
	second = first + page_size;

	vm = mte_vm_create(1, mem->size, &vcpu);
	mte_vm_add_slot(vm, DATA_SLOT, test->slot_flags, first, mem->hva, mem->size);

	if (test->usage == FIRST_ONLY)
		mte_vcpu_call(vcpu, mte_store_pattern, first, 1, page_size, page_size);
	else
		mte_vcpu_call(vcpu, mte_store_pattern, second, nr_pages - 1, page_size, page_size);

	reason = make_happen(mem, test);
	if (reason) {
		ksft_test_result_skip("%s: %s\n", test->name, reason);
		goto out;
	}

	if (test->usage == FIRST_ONLY) {
		lost = mte_vcpu_call(vcpu, mte_count_lost, first, 1, page_size, page_size);
		stale = mte_vcpu_call(vcpu, mte_count_stale, second, nr_pages - 1,
				      page_size, page_size);
	} else {
		nr_kept = nr_pages - 1;
		if (discard || test->event == UNMAP_RECLAIM)
			nr_kept = nr_pages / 2 - 1;
		lost = mte_vcpu_call(vcpu, mte_count_lost, second, nr_kept, page_size, page_size);
		stale = mte_vcpu_call(vcpu, mte_count_stale, first, 1, page_size, page_size);
		/* Pages that weren't there before. */
		if (discard)
			stale += mte_vcpu_call(vcpu, mte_count_stale, first + mem->size / 2,
					       nr_pages / 2, page_size, page_size);
	}

	ksft_test_result(!lost && !stale, "%s: tags of %lu of %zu pages lost, %lu stale\n",
			 test->name, lost, nr_pages, stale);
out:
	kvm_vm_free(vm);
}

static void run_or_skip(const struct testcase *test)
{
	const char *reason;
	struct mte_mem mem;

	reason = alloc(&mem, test);
	if (reason) {
		ksft_test_result_skip("%s: %s\n", test->name, reason);
		return;
	}

	write_data(&mem);
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
