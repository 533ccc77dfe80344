// SPDX-License-Identifier: GPL-2.0-only
/*
 * mte_ksm - Check the tags of pages that the kernel merges (KSM).
 *
 * Pages with the same data become one that nobody can write, unless one of them
 * has tags: those of the others would change. So,
 *
 *  - pages that the guest has stored tags to must stay as they are,
 *  - pages that were merged before the guest had access have tags of zero, and
 *    a store of a tag gives the guest a page of its own, whose peers keep
 *    theirs,
 *  - the zero page, with which pages of zeros can be merged, must not become
 *    one with tags because of a guest that reads it: nothing would be merged
 *    with it from then on, anywhere in the system.
 *
 * In each case there are pages with the same data that aren't part of the VM.
 * That they are merged shows that the kernel has been there.
 */
#include <sys/mman.h>

#include "kvm_util.h"
#include "mte.h"
#include "processor.h"
#include "settings.h"
#include "test_util.h"

#define DATA_SLOT	1
#define NR_PAGES	16
#define TEST_TAG	0x5
#define TEST_DATA	0x6b736d2064617461UL

static size_t page_size;
static size_t size;

#define USE_ZERO_PAGES	"/sys/kernel/mm/ksm/use_zero_pages"

static u64 pfn(const void *addr)
{
	u64 entry = pagemap_entry(addr);

	return entry & PAGEMAP_PRESENT ? entry & PAGEMAP_PFN_MASK : 0;
}

/* Do the pages of a range all have this page frame, or none of them? */
static bool all_have_pfn(const void *addr, u64 expected)
{
	size_t offset;

	for (offset = 0; offset < size; offset += page_size) {
		if (pfn(addr + offset) != expected)
			return false;
	}

	return true;
}

static bool none_has_pfn(const void *addr, u64 unexpected)
{
	size_t offset;

	for (offset = 0; offset < size; offset += page_size) {
		if (!pfn(addr + offset) || pfn(addr + offset) == unexpected)
			return false;
	}

	return true;
}

/* The same data on all pages. */
struct env {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	/* Memory of the VM, whose page frames have stale tags. */
	struct mte_mem mem;
	/* Memory that the kernel may merge with it, or among itself. */
	void *peer;
};

static const char *env_init(struct env *env, u64 val)
{
	const char *reason;

	reason = mte_mem_alloc_stale(&env->mem, MTE_MEM_ANON, 0, size);
	if (reason)
		return reason;

	env->peer = kvm_mmap(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	mte_write_data((u64)env->peer, NR_PAGES, page_size, val);
	kvm_madvise(env->peer, size, MADV_MERGEABLE);
	kvm_madvise(env->mem.hva, size, MADV_MERGEABLE);

	env->vm = mte_vm_create(1, size, &env->vcpu);
	mte_vm_add_slot(env->vm, DATA_SLOT, 0, MTE_TEST_GPA, env->mem.hva, size);

	return NULL;
}

static void env_exit(struct env *env)
{
	kvm_vm_free(env->vm);
	mte_mem_free(&env->mem);
	kvm_munmap(env->peer, size);
}

/* What the guest sees of pages that were merged, and what it does to them. */
static const char *use_merged(struct env *env, u64 val)
{
	u64 merged = pfn(env->peer);
	void *alias = env->peer;

	if (mte_vcpu_call(env->vcpu, mte_count_stale, MTE_TEST_GPA, NR_PAGES,
			  page_size, page_size))
		return "the guest sees stale tags";
	if (mte_vcpu_call(env->vcpu, mte_count_wrong_data, MTE_TEST_GPA, NR_PAGES,
			  page_size, val))
		return "the guest sees wrong data";
	if (!all_have_pfn(env->mem.hva, merged))
		return "loads have undone the merge";

	mte_vcpu_call(env->vcpu, mte_guest_store_tags, MTE_TEST_GPA, page_size, TEST_TAG, 0);
	if (!pfn(env->mem.hva) || pfn(env->mem.hva) == merged)
		return "a tag was stored to a page that isn't the guest's own";
	if (!mte_vcpu_call(env->vcpu, mte_guest_have_tag, MTE_TEST_GPA, page_size, TEST_TAG, 0))
		return "the tags that the guest has stored are lost";
	if (mte_vcpu_call(env->vcpu, mte_count_stale, MTE_TEST_GPA + page_size, NR_PAGES - 1,
			  page_size, page_size))
		return "other pages of the guest have changed tags";
	if (mte_vcpu_call(env->vcpu, mte_count_wrong_data, MTE_TEST_GPA, NR_PAGES,
			  page_size, val))
		return "the guest sees wrong data after a store of tags";

	TEST_ASSERT(!mprotect(alias, size, PROT_READ | PROT_WRITE | PROT_MTE),
		    "mprotect(PROT_MTE) failed, errno %d", errno);
	if (mte_count_stale((u64)alias, NR_PAGES, page_size, page_size))
		return "pages that aren't the guest's have changed tags";

	return NULL;
}

static const char *run_tagged(struct env *env)
{
	mte_vcpu_call(env->vcpu, mte_write_data, MTE_TEST_GPA, NR_PAGES, page_size, TEST_DATA);
	mte_vcpu_call(env->vcpu, mte_store_pattern, MTE_TEST_GPA, NR_PAGES, page_size, page_size);

	ksm_scan();
	if (!all_have_pfn(env->peer, pfn(env->peer)))
		return "nothing was merged";
	if (!none_has_pfn(env->mem.hva, pfn(env->peer)))
		return "a page with tags was merged";
	if (mte_vcpu_call(env->vcpu, mte_count_lost, MTE_TEST_GPA, NR_PAGES,
			  page_size, page_size))
		return "tags were lost";
	if (mte_vcpu_call(env->vcpu, mte_count_wrong_data, MTE_TEST_GPA, NR_PAGES,
			  page_size, TEST_DATA))
		return "the guest sees wrong data";

	return NULL;
}

static const char *run_merged(struct env *env)
{
	mte_write_data((u64)env->mem.hva, NR_PAGES, page_size, TEST_DATA);

	ksm_scan();
	if (!all_have_pfn(env->peer, pfn(env->peer)) ||
	    !all_have_pfn(env->mem.hva, pfn(env->peer)))
		return "nothing was merged";

	return use_merged(env, TEST_DATA);
}

/* The page frame with which all pages of zeros are merged. */
static u64 zero_pfn(void)
{
	void *page = kvm_mmap(page_size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	u64 ret;

	READ_ONCE(*(u8 *)page);
	ret = pfn(page);
	kvm_munmap(page, page_size);

	return ret;
}

/* The guest has read the zero page before anything is to be merged with it. */
static const char *run_zero(struct env *env)
{
	u64 zero = zero_pfn();

	kvm_madvise(env->mem.hva, size, MADV_DONTNEED);
	if (mte_vcpu_call(env->vcpu, mte_count_stale, MTE_TEST_GPA, NR_PAGES,
			  page_size, page_size))
		return "the guest sees stale tags";
	if (!all_have_pfn(env->mem.hva, zero))
		return "the guest wasn't given the zero page";

	TEST_ASSERT(setting_store(USE_ZERO_PAGES, "1"), "Can't set up KSM");
	ksm_scan();
	TEST_ASSERT(setting_store(USE_ZERO_PAGES, "0"), "Can't set up KSM");
	if (!all_have_pfn(env->peer, zero))
		return "pages of zeros weren't merged with the zero page";

	return use_merged(env, 0);
}

/* Both are merged with the zero page, and then the guest gets access. */
static const char *run_zero_merged(struct env *env)
{
	u64 zero = zero_pfn();

	mte_write_data((u64)env->mem.hva, NR_PAGES, page_size, 0);

	TEST_ASSERT(setting_store(USE_ZERO_PAGES, "1"), "Can't set up KSM");
	ksm_scan();
	TEST_ASSERT(setting_store(USE_ZERO_PAGES, "0"), "Can't set up KSM");
	if (!all_have_pfn(env->peer, zero) || !all_have_pfn(env->mem.hva, zero))
		return "pages of zeros weren't merged with the zero page";

	return use_merged(env, 0);
}

static const struct testcase {
	const char *name;
	const char *(*run)(struct env *env);
	u64 data;
} testcases[] = {
	{ "pages with tags", run_tagged, TEST_DATA },
	{ "merged pages", run_merged, TEST_DATA },
	{ "pages of zeros after the guest has read the zero page", run_zero, 0 },
	{ "pages that were merged with the zero page", run_zero_merged, 0 },
};

int main(void)
{
	const char *reason, *failure;
	struct env env;
	int i;

	ksft_print_header();
	mte_require();
	reason = ksm_setup();
	__TEST_REQUIRE(!reason, "%s", reason);

	page_size = getpagesize();
	size = NR_PAGES * page_size;
	ksft_set_plan(ARRAY_SIZE(testcases));

	for (i = 0; i < ARRAY_SIZE(testcases); i++) {
		reason = env_init(&env, testcases[i].data);
		if (reason) {
			ksft_test_result_skip("%s: %s\n", testcases[i].name, reason);
			continue;
		}

		failure = testcases[i].run(&env);
		ksft_test_result(!failure, "%s%s%s\n", testcases[i].name,
				 failure ? ": " : "", failure ?: "");
		env_exit(&env);
	}

	ksft_finished();
}
