// SPDX-License-Identifier: GPL-2.0-only
/*
 * mte_swap - Check that the tags of a guest survive being swapped out.
 *
 * The swap device has no place for tags. The kernel sets aside those of the
 * pages that it knows to have any, and restores them into the page that takes
 * the place of the old one, whoever brings it back: the guest, by reading,
 * writing, or storing a tag, the VMM, the ioctl that copies tags, or swapoff.
 *
 * A broken kernel forgets about the tags in one of these ways, or doesn't take
 * note of them:
 *
 *  - a page of zeros isn't written to the device at all, but its tags count,
 *  - a page that was brought back and not written since needn't be written
 *    again, but a tag stored in the meantime makes it a different page.
 *
 * swap_out() sees to it that no page is left in memory, not even in the swap
 * cache. Page frames are rarely the same before and after; if one is, its tags
 * are cleared when the kernel has forgotten that it should have any.
 */
#include <sys/mman.h>
#include <sys/swap.h>

#include "kvm_util.h"
#include "mte.h"
#include "processor.h"
#include "test_util.h"

#define DATA_SLOT	1
#define NR_PAGES	16
/* Neither zero nor one of mte_store_pattern() */
#define OTHER_TAG	0xc

static size_t page_size;

struct env {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	struct mte_mem mem;
	u64 nr_pages;
	u8 *tags;
};

/* Store to the last granule of each page what isn't there already. */
static u64 guest_store_last(u64 addr, u64 nr_pages, u64 page_size, u64 tag)
{
	for (addr += page_size - MTE_GRANULE_SIZE; nr_pages; nr_pages--, addr += page_size)
		mte_store_tag((void *)addr, tag);

	return 0;
}

static u64 guest_have_last(u64 addr, u64 nr_pages, u64 page_size, u64 tag)
{
	for (addr += page_size - MTE_GRANULE_SIZE; nr_pages; nr_pages--, addr += page_size) {
		if (mte_load_tag((void *)addr) != tag)
			return false;
	}

	return true;
}

static u64 count_lost(struct env *env)
{
	return mte_vcpu_call(env->vcpu, mte_count_lost, MTE_TEST_GPA, env->nr_pages,
			     page_size, page_size);
}

/* Who brings the pages back. */

static const char *back_guest_load(struct env *env)
{
	return NULL;
}

static const char *back_guest_read(struct env *env)
{
	if (mte_vcpu_call(env->vcpu, mte_count_wrong_addrs, MTE_TEST_GPA, env->nr_pages,
			  page_size, 0))
		return "wrong data";

	return NULL;
}

static const char *back_guest_write(struct env *env)
{
	mte_vcpu_call(env->vcpu, mte_write_addrs, MTE_TEST_GPA, env->nr_pages, page_size, 0);

	return NULL;
}

/* Then there is one granule of each page that has another tag. */
static const char *back_guest_store(struct env *env)
{
	u8 last[NR_PAGES];
	u64 i;

	mte_vcpu_call(env->vcpu, guest_store_last, MTE_TEST_GPA, NR_PAGES, page_size, OTHER_TAG);
	if (!mte_vcpu_call(env->vcpu, guest_have_last, MTE_TEST_GPA, NR_PAGES,
			   page_size, OTHER_TAG))
		return "the tags stored last are lost";

	/* Put back what was there, for the others to be checked. */
	for (i = 0; i < NR_PAGES; i++) {
		last[i] = env->tags[(i + 1) * MTE_TAGS_SIZE(page_size) - 1];
		mte_vcpu_call(env->vcpu, guest_store_last, MTE_TEST_GPA + i * page_size, 1,
			      page_size, last[i]);
	}

	return NULL;
}

static const char *back_vmm_read(struct env *env)
{
	u64 i;

	for (i = 0; i < env->nr_pages; i++) {
		if (READ_ONCE(*(u64 *)(env->mem.hva + i * page_size)) !=
		    MTE_TEST_GPA + i * page_size)
			return "wrong data";
	}

	return NULL;
}

static const char *back_vmm_write(struct env *env)
{
	u64 i;

	for (i = 0; i < env->nr_pages; i++)
		WRITE_ONCE(*(u64 *)(env->mem.hva + i * page_size), MTE_TEST_GPA + i * page_size);

	return NULL;
}

static const char *back_ioctl_read(struct env *env)
{
	size_t nr = MTE_TAGS_SIZE(env->mem.size);
	u8 *tags = malloc(nr);
	bool same;

	mte_copy_tags_from_guest(env->vm, MTE_TEST_GPA, env->mem.size, tags);
	same = !memcmp(tags, env->tags, nr);
	free(tags);

	return same ? NULL : "the ioctl reads other tags";
}

/* Tags of every second page, which has no effect on the others. */
static const char *back_ioctl_write(struct env *env)
{
	size_t nr = MTE_TAGS_SIZE(page_size);
	u8 *tags = malloc(nr);
	bool kept = true;
	u64 i;

	memset(tags, OTHER_TAG, nr);
	for (i = 1; i < env->nr_pages; i += 2)
		mte_copy_tags_to_guest(env->vm, MTE_TEST_GPA + i * page_size, page_size, tags);
	for (i = 1; i < env->nr_pages; i += 2) {
		kept &= mte_vcpu_call(env->vcpu, mte_guest_have_tag, MTE_TEST_GPA + i * page_size,
				      page_size, OTHER_TAG, 0);
		mte_copy_tags_to_guest(env->vm, MTE_TEST_GPA + i * page_size, page_size,
				       env->tags + i * nr);
	}
	free(tags);

	return kept ? NULL : "the tags that the ioctl has written are lost";
}

/* The VMM may have memory with tags for its own purposes. */
static const char *back_vmm_load(struct env *env)
{
	u64 i;

	TEST_ASSERT(!mprotect(env->mem.hva, env->mem.size, PROT_READ | PROT_WRITE | PROT_MTE),
		    "mprotect(PROT_MTE) failed, errno %d", errno);
	for (i = 0; i < MTE_TAGS_SIZE(env->mem.size); i++) {
		if (mte_load_tag(env->mem.hva + i * MTE_GRANULE_SIZE) != env->tags[i])
			return "the VMM sees other tags";
	}

	return NULL;
}

/* Turn swap off and on again. */
static const char *back_swapoff(struct env *env)
{
	char path[256];
	FILE *file;
	int n;

	file = fopen("/proc/swaps", "r");
	TEST_ASSERT(file, "Can't read /proc/swaps, errno %d", errno);
	n = fscanf(file, "%*[^\n] %255s", path);
	fclose(file);
	TEST_ASSERT(n == 1, "No swap in /proc/swaps");

	if (swapoff(path))
		return "swapoff() failed";
	TEST_ASSERT(!swapon(path, 0), "swapon() failed, errno %d", errno);

	return NULL;
}

/* Only tags change, on pages of which there is a copy on the device. */
static const char *back_and_out(struct env *env)
{
	const char *reason;

	if (count_lost(env))
		return "tags were lost the first time";

	mte_vcpu_call(env->vcpu, mte_guest_store_tags, MTE_TEST_GPA, env->mem.size, OTHER_TAG, 0);
	reason = swap_out(env->mem.hva, env->mem.size);
	TEST_ASSERT(!reason, "Can't swap out twice: %s", reason);
	if (!mte_vcpu_call(env->vcpu, mte_guest_have_tag, MTE_TEST_GPA, env->mem.size,
			   OTHER_TAG, 0))
		return "tags stored in between are lost";

	mte_copy_tags_to_guest(env->vm, MTE_TEST_GPA, env->mem.size, env->tags);

	return NULL;
}

static const struct way {
	const char *name;
	const char *(*back)(struct env *env);
	bool zero;
	/* For huge pages, too. It takes its time, and is the same for most. */
	bool huge;
} ways[] = {
	{ "guest loads tags", back_guest_load, false, true },
	{ "guest loads tags, pages of zeros", back_guest_load, true, true },
	{ "guest reads", back_guest_read },
	{ "guest writes", back_guest_write },
	{ "guest stores tags", back_guest_store },
	{ "guest stores tags, pages of zeros", back_guest_store, true },
	{ "VMM reads", back_vmm_read, false, true },
	{ "VMM writes", back_vmm_write },
	{ "VMM loads tags", back_vmm_load },
	{ "ioctl reads tags", back_ioctl_read },
	{ "ioctl reads tags, pages of zeros", back_ioctl_read, true },
	{ "ioctl writes tags", back_ioctl_write, false, true },
	{ "swapoff", back_swapoff, false, true },
	{ "swapoff, pages of zeros", back_swapoff, true },
	{ "in and out again", back_and_out, false, true },
	{ "in and out again, pages of zeros", back_and_out, true },
};

static const struct kind {
	const char *name;
	enum mte_mem_type type;
} kinds[] = {
	{ "anonymous", MTE_MEM_ANON },
	{ "memfd", MTE_MEM_MEMFD },
	{ "anonymous THP", MTE_MEM_ANON_THP },
};

static bool is_wanted(const struct kind *kind, const struct way *way)
{
	return kind->type != MTE_MEM_ANON_THP || way->huge;
}

static void run(const struct kind *kind, const struct way *way)
{
	const char *reason, *failure = NULL;
	struct env env;
	u64 lost, wrong;

	reason = mte_mem_alloc(&env.mem, kind->type, 0, NR_PAGES * page_size);
	if (reason) {
		ksft_test_result_skip("%s, %s: %s\n", kind->name, way->name, reason);
		return;
	}
	reason = memcg_enter();
	if (!reason) {
		reason = mte_mem_populate(&env.mem);
		memcg_leave();
	}
	if (reason) {
		ksft_test_result_skip("%s, %s: %s\n", kind->name, way->name, reason);
		goto out;
	}

	env.nr_pages = env.mem.size / page_size;
	env.tags = malloc(MTE_TAGS_SIZE(env.mem.size));
	env.vm = mte_vm_create(1, env.mem.size, &env.vcpu);
	mte_vm_add_slot(env.vm, DATA_SLOT, 0, MTE_TEST_GPA, env.mem.hva, env.mem.size);

	mte_vcpu_call(env.vcpu, way->zero ? mte_write_data : mte_write_addrs, MTE_TEST_GPA,
		      env.nr_pages, page_size, 0);
	mte_vcpu_call(env.vcpu, mte_store_pattern, MTE_TEST_GPA, env.nr_pages,
		      page_size, page_size);
	mte_copy_tags_from_guest(env.vm, MTE_TEST_GPA, env.mem.size, env.tags);

	reason = swap_out(env.mem.hva, env.mem.size);
	if (reason) {
		ksft_test_result_skip("%s, %s: %s\n", kind->name, way->name, reason);
		goto out_vm;
	}

	failure = way->back(&env);
	lost = count_lost(&env);
	wrong = mte_vcpu_call(env.vcpu, way->zero ? mte_count_wrong_data : mte_count_wrong_addrs,
			      MTE_TEST_GPA, env.nr_pages, page_size, 0);
	if (!failure && wrong)
		failure = "wrong data";

	ksft_test_result(!failure && !lost, "%s, %s: tags of %lu of %lu pages lost%s%s\n",
			 kind->name, way->name, lost, env.nr_pages,
			 failure ? ", " : "", failure ?: "");
out_vm:
	kvm_vm_free(env.vm);
	free(env.tags);
out:
	mte_mem_free(&env.mem);
}

int main(void)
{
	int nr = 0, i, j;

	ksft_print_header();
	mte_require();
	page_size = getpagesize();

	for (i = 0; i < ARRAY_SIZE(kinds); i++) {
		for (j = 0; j < ARRAY_SIZE(ways); j++)
			nr += is_wanted(&kinds[i], &ways[j]);
	}
	ksft_set_plan(nr);

	for (i = 0; i < ARRAY_SIZE(kinds); i++) {
		for (j = 0; j < ARRAY_SIZE(ways); j++) {
			if (is_wanted(&kinds[i], &ways[j]))
				run(&kinds[i], &ways[j]);
		}
	}

	ksft_finished();
}
