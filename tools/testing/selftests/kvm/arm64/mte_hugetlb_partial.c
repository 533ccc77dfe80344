// SPDX-License-Identifier: GPL-2.0-only
/*
 * mte_hugetlb_partial - Check that the tags of a hugetlb folio become valid as
 * a whole, however small the part of it is that is used first.
 *
 * The kernel keeps one flag for the tags of all pages of a hugetlb folio. Once
 * it is set, nobody clears the tags of any page of the folio any more. So the
 * one who sets it has to initialise all pages. Two paths of KVM only know about
 * a part of the folio, and are looked at here:
 *
 *  - A stage-2 fault maps less than the folio: dirty logging forces pages, as
 *    does a slot whose alignment differs in the guest and in the VMM. A folio
 *    of contiguous PTEs or PMDs has no stage-2 mapping of its size at all, and
 *    a slot with the alignment of a PMD has none of the size of a PUD.
 *
 *  - KVM_ARM_MTE_COPY_TAGS writes the tags of a page.
 *
 * In each case one page in the middle of the folio is given a tag, and then all
 * pages are looked at: by the guest, by the VMM with the ioctl, or by the VMM
 * after mprotect(PROT_MTE). A broken kernel shows tags there which a process
 * that is gone now has stored in the same page frames.
 *
 * With nobody having made the tags valid, the ioctl must report zeros.
 *
 * A case counts only if the folio of the VM is the very one which that process
 * had. It is skipped if there is no such folio, or no memory for it.
 */
#include <sys/mman.h>

#include <linux/sizes.h>

#include "kvm_util.h"
#include "mte.h"
#include "processor.h"
#include "test_util.h"

#define DATA_SLOT	1
#define TEST_TAG	0x5

/*
 * Look at no more pages than this, evenly spaced over the folio: enough for
 * all of a 32M folio of 4K pages. A larger folio is initialised by a loop that
 * does not treat one page differently from another. The verdict says that it
 * is about a sample.
 */
#define MAX_PAGES	8192

/* How far the alignment of the slot in the guest is from that of the folio. */
enum offset {
	ALIGNED,
	PAGE_OFF,
	PMD_OFF,
};

/* Who stores the tag of the first page to be used, and who looks at all. */
enum actor {
	NOBODY,
	GUEST,
	IOCTL,
	MPROTECT,
};

struct testcase {
	const char *name;
	u32 slot_flags;
	enum offset offset;
	enum actor writer;
	enum actor reader;
	bool shared;
};

static const struct testcase testcases[] = {
	{ "mapped, aligned", 0, ALIGNED, GUEST, GUEST },
	{ "mapped, dirty logging", KVM_MEM_LOG_DIRTY_PAGES, ALIGNED, GUEST, GUEST },
	{ "mapped, misaligned by a page", 0, PAGE_OFF, GUEST, GUEST },
	{ "mapped, misaligned by a PMD", 0, PMD_OFF, GUEST, GUEST },
	{ "mapped, dirty logging, read by ioctl", KVM_MEM_LOG_DIRTY_PAGES, ALIGNED, GUEST, IOCTL },
	{ "mapped, dirty logging, read by VMM", KVM_MEM_LOG_DIRTY_PAGES, ALIGNED, GUEST, MPROTECT },
	{ "written by ioctl", 0, ALIGNED, IOCTL, GUEST },
	{ "written by ioctl, read by ioctl", 0, ALIGNED, IOCTL, IOCTL },
	{ "written by ioctl, read by VMM", 0, ALIGNED, IOCTL, MPROTECT },
	{ "not used yet, read by ioctl", 0, ALIGNED, NOBODY, IOCTL },
	{ "memfd, mapped, dirty logging", KVM_MEM_LOG_DIRTY_PAGES, ALIGNED, GUEST, GUEST, true },
	{ "memfd, written by ioctl", 0, ALIGNED, IOCTL, GUEST, true },
};

struct env {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	struct mte_mem mem;
	gpa_t gpa;
	size_t page_size;
};

static void store_tag(struct env *env, enum actor writer, size_t offset)
{
	u8 *tags;

	switch (writer) {
	case GUEST:
		mte_vcpu_call(env->vcpu, mte_guest_store_tags, env->gpa + offset,
			      env->page_size, TEST_TAG, 0);
		break;
	case IOCTL:
		tags = malloc(MTE_TAGS_SIZE(env->page_size));
		TEST_ASSERT(tags, "No memory");
		memset(tags, TEST_TAG, MTE_TAGS_SIZE(env->page_size));
		mte_copy_tags_to_guest(env->vm, env->gpa + offset, env->page_size, tags);
		free(tags);
		break;
	default:
		break;
	}
}

static bool ioctl_have_tag(struct env *env, size_t offset, u8 tag)
{
	size_t nr_tags = MTE_TAGS_SIZE(env->page_size), i;
	u8 *tags = malloc(nr_tags);

	TEST_ASSERT(tags, "No memory");
	/* None of them may be left alone by the ioctl either. */
	memset(tags, 0xff, nr_tags);
	mte_copy_tags_from_guest(env->vm, env->gpa + offset, env->page_size, tags);

	for (i = 0; i < nr_tags && tags[i] == tag; i++)
		;
	free(tags);

	return i == nr_tags;
}

static bool have_tag(struct env *env, enum actor reader, size_t offset, u8 tag)
{
	switch (reader) {
	case GUEST:
		return mte_vcpu_call(env->vcpu, mte_guest_have_tag, env->gpa + offset,
				     env->page_size, tag, 0);
	case IOCTL:
		return ioctl_have_tag(env, offset, tag);
	default:
		return mte_have_tag(env->mem.hva + offset, env->page_size, tag);
	}
}

static u64 count_stale(struct env *env, enum actor reader, size_t offset,
		       u64 nr_pages, size_t stride)
{
	u64 stale = 0;

	switch (reader) {
	case GUEST:
		return mte_vcpu_call(env->vcpu, mte_count_stale, env->gpa + offset,
				     nr_pages, env->page_size, stride);
	case IOCTL:
		for (; nr_pages; nr_pages--, offset += stride)
			stale += !ioctl_have_tag(env, offset, 0);
		return stale;
	default:
		return mte_count_stale((u64)env->mem.hva + offset, nr_pages,
				       env->page_size, stride);
	}
}

static size_t slot_offset(const struct testcase *test)
{
	switch (test->offset) {
	case PAGE_OFF:
		return getpagesize();
	case PMD_OFF:
		return pmd_size();
	default:
		return 0;
	}
}

/* A slot can't be misaligned by a PMD if no larger alignment matters. */
static bool is_applicable(const struct testcase *test, size_t folio_size)
{
	return test->offset != PMD_OFF || folio_size > pmd_size();
}

static void run(const struct testcase *test, struct env *env, size_t folio_size)
{
	size_t nr_pages = min(folio_size / env->page_size, (size_t)MAX_PAGES);
	size_t stride = folio_size / nr_pages, middle = folio_size / 2;
	bool written = test->writer != NOBODY;
	bool kept = true;
	u64 stale;

	env->gpa = MTE_TEST_GPA + slot_offset(test);
	env->vm = mte_vm_create(1, folio_size, &env->vcpu);
	mte_vm_add_slot(env->vm, DATA_SLOT, test->slot_flags, env->gpa,
			env->mem.hva, folio_size);

	store_tag(env, test->writer, middle);

	if (test->reader == MPROTECT)
		TEST_ASSERT(!mprotect(env->mem.hva, folio_size,
				      PROT_READ | PROT_WRITE | PROT_MTE),
			    "mprotect(PROT_MTE) failed, errno %d", errno);

	/* All pages but the one in the middle, if that has a tag. */
	stale = count_stale(env, test->reader, 0, nr_pages / 2, stride);
	stale += count_stale(env, test->reader, middle + written * stride,
			     nr_pages / 2 - written, stride);
	if (written)
		kept = have_tag(env, test->reader, middle, TEST_TAG);

	kvm_vm_free(env->vm);

	ksft_test_result(!stale && kept, "%zukB folio, %s: %lu of %zu %spages stale%s\n",
			 folio_size / SZ_1K, test->name, stale, nr_pages,
			 stride > env->page_size ? "sampled " : "",
			 kept ? "" : ", tag of the page in use lost");
}

static void run_or_skip(const struct testcase *test, size_t folio_size)
{
	struct env env = { .page_size = getpagesize() };
	const char *reason;

	reason = mte_mem_alloc_stale(&env.mem,
				     test->shared ? MTE_MEM_MEMFD_HUGETLB : MTE_MEM_HUGETLB,
				     folio_size, folio_size);
	if (reason) {
		ksft_test_result_skip("%zukB folio, %s: %s\n", folio_size / SZ_1K,
				      test->name, reason);
		return;
	}

	run(test, &env, folio_size);
	mte_mem_free(&env.mem);
}

int main(void)
{
	size_t sizes[HUGETLB_MAX_SIZES];
	int nr_sizes, plan = 0, i, j;

	ksft_print_header();
	mte_require();

	nr_sizes = hugetlb_sizes(sizes);
	__TEST_REQUIRE(nr_sizes, "the kernel has no hugetlb");

	for (i = 0; i < nr_sizes; i++) {
		for (j = 0; j < ARRAY_SIZE(testcases); j++)
			plan += is_applicable(&testcases[j], sizes[i]);
	}
	ksft_set_plan(plan);

	for (i = 0; i < nr_sizes; i++) {
		for (j = 0; j < ARRAY_SIZE(testcases); j++) {
			if (is_applicable(&testcases[j], sizes[i]))
				run_or_skip(&testcases[j], sizes[i]);
		}
		/* Leave the memory to the next size. */
		hugetlb_release(sizes[i]);
	}

	mte_finished();
}
