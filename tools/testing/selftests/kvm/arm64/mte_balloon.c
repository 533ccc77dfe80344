// SPDX-License-Identifier: GPL-2.0-only
/*
 * mte_balloon - Check the tags of memory that the VMM takes from the guest and
 * gives back.
 *
 * A balloon, or reporting of free pages, has the VMM free pages under a
 * memslot, in the way that the kind of memory asks for. The guest's next access
 * allocates another page, with data of zeros and tags of zero, in whatever page
 * frame there is. Most likely that is one that was freed a moment ago, whose
 * tags are those of the guest still, or of somebody else.
 *
 * A broken kernel takes the page for one whose tags are valid, as it has
 * forgotten to forget that they once were, or since it doesn't initialise the
 * tags on the path by which the page comes back. The case counts only if page
 * frames came back that had tags when they were freed.
 */
#include <sched.h>
#include <sys/mman.h>

#include <linux/falloc.h>
#include <linux/sizes.h>

#include "kvm_util.h"
#include "mte.h"
#include "processor.h"
#include "test_util.h"

#define DATA_SLOT	1
#define NR_PAGES	64
/* Neither zero nor one of mte_store_pattern(). */
#define OTHER_TAG	0xc
#define DATA		0x1234567890abcdefUL
#define TRIES		8

static size_t page_size;

/* Store the tag of zero, which is there already: a write access, that's all. */
static u64 guest_store_zero(u64 addr, u64 nr_pages, u64 page_size, u64 d)
{
	for (; nr_pages; nr_pages--, addr += page_size)
		mte_store_tag((void *)addr, 0);

	return 0;
}

/* Ways to free memory. */

static const char *do_dontneed(struct mte_mem *mem)
{
	kvm_madvise(mem->hva, mem->size, MADV_DONTNEED);

	return NULL;
}

static const char *do_remove(struct mte_mem *mem)
{
	kvm_madvise(mem->hva, mem->size, MADV_REMOVE);

	return NULL;
}

static const char *do_punch(struct mte_mem *mem)
{
	TEST_ASSERT(!fallocate(mem->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, mem->size),
		    "fallocate() failed, errno %d", errno);

	return NULL;
}

static const char *do_truncate(struct mte_mem *mem)
{
	kvm_ftruncate(mem->fd, 0);
	kvm_ftruncate(mem->fd, mem->size);

	return NULL;
}

/* The kernel frees the pages when it wants to, which has to be brought about. */
static const char *do_free(struct mte_mem *mem)
{
	kvm_madvise(mem->hva, mem->size, MADV_FREE);

	return swap_out(mem->hva, mem->size);
}

static const char *do_remap(struct mte_mem *mem)
{
	TEST_ASSERT(mmap(mem->hva, mem->size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == mem->hva,
		    "mmap() failed, errno %d", errno);

	return NULL;
}

/* Who accesses the pages first. */
enum first {
	LOAD,
	STORE,
	VMM,
	IOCTL,
	NR_FIRST,
};

static const char *const first_names[] = {
	[LOAD]	= "guest loads tags",
	[STORE]	= "guest stores tags",
	[VMM]	= "VMM writes",
	[IOCTL]	= "ioctl writes tags",
};

static const struct testcase {
	const char *name;
	enum mte_mem_type type;
	const char *(*free)(struct mte_mem *mem);
} testcases[] = {
	{ "anonymous, MADV_DONTNEED", MTE_MEM_ANON, do_dontneed },
	{ "anonymous, MADV_FREE", MTE_MEM_ANON, do_free },
	{ "anonymous, mapped anew", MTE_MEM_ANON, do_remap },
	{ "anonymous THP, MADV_DONTNEED", MTE_MEM_ANON_THP, do_dontneed },
	{ "memfd, MADV_REMOVE", MTE_MEM_MEMFD, do_remove },
	{ "memfd, hole punched", MTE_MEM_MEMFD, do_punch },
	{ "memfd, truncated", MTE_MEM_MEMFD, do_truncate },
	{ "hugetlb, MADV_DONTNEED", MTE_MEM_HUGETLB, do_dontneed },
	{ "memfd hugetlb, MADV_REMOVE", MTE_MEM_MEMFD_HUGETLB, do_remove },
	{ "memfd hugetlb, hole punched", MTE_MEM_MEMFD_HUGETLB, do_punch },
};

struct result {
	u64 nr_pages;
	u64 had_tags;
	u64 data;
	u64 stale;
};

static const char *try(const struct testcase *test, enum first first, struct result *res)
{
	struct page_frames frames;
	struct kvm_vcpu *vcpu;
	const char *reason;
	struct mte_mem mem;
	struct kvm_vm *vm;
	u8 *tags;
	u64 i;

	reason = mte_mem_alloc(&mem, test->type, SZ_2M, NR_PAGES * page_size);
	if (reason)
		return reason;

	res->nr_pages = mem.size / page_size;
	tags = calloc(1, MTE_TAGS_SIZE(page_size));
	vm = mte_vm_create(1, mem.size, &vcpu);
	mte_vm_add_slot(vm, DATA_SLOT, 0, MTE_TEST_GPA, mem.hva, mem.size);

	reason = mte_mem_populate(&mem);
	if (reason)
		goto out;
	mte_vcpu_call(vcpu, mte_write_data, MTE_TEST_GPA, res->nr_pages, page_size, DATA);
	mte_vcpu_call(vcpu, mte_store_pattern, MTE_TEST_GPA, res->nr_pages, page_size, page_size);
	reason = page_frames_get(&frames, mem.hva, mem.size);
	if (reason)
		goto out;

	reason = test->free(&mem);
	if (reason)
		goto out_frames;
	for (i = 0; i < res->nr_pages; i++)
		TEST_ASSERT(!(pagemap_entry(mem.hva + i * page_size) & PAGEMAP_PRESENT),
			    "%s: page %lu is still there", test->name, i);

	switch (first) {
	case LOAD:
		break;
	case STORE:
		mte_vcpu_call(vcpu, guest_store_zero, MTE_TEST_GPA, res->nr_pages, page_size, 0);
		break;
	case VMM:
		for (i = 0; i < res->nr_pages; i++)
			WRITE_ONCE(*(u64 *)(mem.hva + i * page_size), 0);
		break;
	case IOCTL:
		/* Of some pages only, as one flag may stand for more of them. */
		for (i = 0; i < res->nr_pages; i += 8)
			mte_copy_tags_to_guest(vm, MTE_TEST_GPA + i * page_size, page_size, tags);
		break;
	default:
		TEST_FAIL("No such access");
	}

	res->stale = mte_vcpu_call(vcpu, mte_count_stale, MTE_TEST_GPA, res->nr_pages,
				   page_size, page_size);
	res->data = mte_vcpu_call(vcpu, mte_count_wrong_data, MTE_TEST_GPA, res->nr_pages,
				  page_size, 0);

	/* Where there was the zero page so far, have a page. */
	mte_vcpu_call(vcpu, guest_store_zero, MTE_TEST_GPA, res->nr_pages, page_size, 0);
	res->had_tags = page_frames_count(&frames, mem.hva, mem.size);
	res->stale += mte_vcpu_call(vcpu, mte_count_stale, MTE_TEST_GPA, res->nr_pages,
				    page_size, page_size);

out_frames:
	page_frames_put(&frames);
out:
	kvm_vm_free(vm);
	mte_mem_free(&mem);
	free(tags);

	return reason;
}

static void run(const struct testcase *test, enum first first)
{
	struct result res = {};
	const char *reason;
	int tries = 0;

	do {
		reason = try(test, first, &res);
	} while (!reason && !res.stale && !res.had_tags && ++tries < TRIES);

	if (!reason && !res.stale && !res.data && !res.had_tags)
		reason = "not given page frames that have had tags";

	if (reason) {
		ksft_test_result_skip("%s, %s: %s\n", test->name, first_names[first], reason);
		return;
	}

	ksft_test_result(!res.stale && !res.data,
			 "%s, %s: %lu pages, %lu frames came back, stale tags %lu, data %lu\n",
			 test->name, first_names[first], res.nr_pages, res.had_tags,
			 res.stale, res.data);
}

/* A store of a tag to a page that is to be freed makes it one that is not. */
static void run_kept(void)
{
	const char *name = "anonymous, MADV_FREE, tags stored since", *reason;
	struct kvm_vcpu *vcpu;
	struct mte_mem mem;
	struct kvm_vm *vm;
	bool kept;

	TEST_ASSERT(!mte_mem_alloc(&mem, MTE_MEM_ANON, 0, NR_PAGES * page_size), "No memory");
	vm = mte_vm_create(1, mem.size, &vcpu);
	mte_vm_add_slot(vm, DATA_SLOT, 0, MTE_TEST_GPA, mem.hva, mem.size);

	mte_vcpu_call(vcpu, mte_write_data, MTE_TEST_GPA, NR_PAGES, page_size, DATA);
	mte_vcpu_call(vcpu, mte_store_pattern, MTE_TEST_GPA, NR_PAGES, page_size, page_size);
	kvm_madvise(mem.hva, mem.size, MADV_FREE);
	mte_vcpu_call(vcpu, mte_guest_store_tags, MTE_TEST_GPA, mem.size, OTHER_TAG, 0);

	reason = swap_out(mem.hva, mem.size);
	if (reason) {
		ksft_test_result_skip("%s: %s\n", name, reason);
	} else {
		kept = mte_vcpu_call(vcpu, mte_guest_have_tag, MTE_TEST_GPA, mem.size,
				     OTHER_TAG, 0);
		ksft_test_result(kept, "%s: tags %s\n", name, kept ? "kept" : "lost");
	}

	kvm_vm_free(vm);
	mte_mem_free(&mem);
}

int main(void)
{
	cpu_set_t cpus;
	int i, j;

	ksft_print_header();
	mte_require();
	page_size = getpagesize();
	ksft_set_plan(ARRAY_SIZE(testcases) * NR_FIRST + 1);

	/* Memory that is freed on a CPU is what is allocated there next. */
	CPU_ZERO(&cpus);
	CPU_SET(sched_getcpu(), &cpus);
	kvm_sched_setaffinity(0, sizeof(cpus), &cpus);

	for (i = 0; i < ARRAY_SIZE(testcases); i++) {
		for (j = 0; j < NR_FIRST; j++)
			run(&testcases[i], j);
	}
	run_kept();

	ksft_finished();
}
