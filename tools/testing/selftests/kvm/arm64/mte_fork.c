// SPDX-License-Identifier: GPL-2.0-only
/*
 * mte_fork - Check the tags of guest memory that the VMM shares with a child.
 *
 * After fork() private pages belong to both, until one of them writes and gets
 * a copy. For a guest with memory tagging (MTE) a store of a tag is a write,
 * and a copy is one of data and tags: the guest and the child see what was
 * there at the time of fork(), plus what each has stored since.
 *
 * A broken kernel lets the guest store a tag to the page that both have, hence
 * the child sees a tag that isn't its own, or copies the data of a page without
 * its tags.
 *
 * The child doesn't run the VM, it has a look at the tags by mapping its copy
 * with PROT_MTE.
 */
#include <sys/mman.h>
#include <sys/wait.h>

#include <linux/sizes.h>

#include "kvm_util.h"
#include "mte.h"
#include "processor.h"
#include "test_util.h"

#define DATA_SLOT	1
#define NR_PAGES	16
/* Neither zero nor one of mte_store_pattern(). */
#define OTHER_TAG	0xc
#define OTHER_DATA	0x5555555555555555UL

static size_t page_size;

struct env {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	struct mte_mem mem;
	u64 nr_pages;
	/* Tags at the time of fork(). */
	u8 *tags;
};

/* The same for the guest and for the child, at an address of its own. */

/* The last granule of each page. */
static u64 store_last(u64 addr, u64 nr_pages, u64 page_size, u64 tag)
{
	for (addr += page_size - MTE_GRANULE_SIZE; nr_pages; nr_pages--, addr += page_size)
		mte_store_tag((void *)addr, tag);

	return 0;
}

/* Pages other than those whose last tag is @last, and all others as stored. */
static u64 count_wrong_last(u64 addr, u64 nr_pages, u64 page_size, u64 last)
{
	u64 wrong = 0, page;

	for (page = 0; page < nr_pages; page++)
		wrong += mte_load_tag((void *)addr + (page + 1) * page_size -
				      MTE_GRANULE_SIZE) != last;

	return wrong;
}

#define DATA		0x1234UL

struct testcase {
	const char *name;
	/* In the guest, in the child, what each stores after fork(). */
	mte_guest_fn guest;
	mte_guest_fn child;
	u64 guest_arg;
	u64 child_arg;
	/* The child is gone before the guest stores. */
	bool alone;
};

static const struct testcase testcases[] = {
	{ "guest stores tags", store_last, NULL, OTHER_TAG },
	{ "guest writes", mte_write_data, NULL, OTHER_DATA },
	{ "child stores tags", NULL, store_last, 0, OTHER_TAG },
	{ "child writes", NULL, mte_write_data, 0, OTHER_DATA },
	{ "both store tags", store_last, store_last, OTHER_TAG, OTHER_TAG + 1 },
	{ "guest stores tags, no child any more", store_last, NULL, OTHER_TAG, 0, true },
};

static const struct kind {
	const char *name;
	enum mte_mem_type type;
	bool shared;
} kinds[] = {
	{ "anonymous", MTE_MEM_ANON },
	{ "anonymous THP", MTE_MEM_ANON_THP },
	{ "hugetlb", MTE_MEM_HUGETLB },
	{ "memfd", MTE_MEM_MEMFD, true },
};

/* What is to be found after stores by @fn. */
static u64 expected_data(mte_guest_fn fn, u64 arg)
{
	return fn == mte_write_data ? arg : DATA;
}

/* Have the tags, but for the last one of a page, remained what they were? */
static bool tags_kept(const u8 *tags, const void *hva, u64 nr_pages, int last)
{
	size_t nr = MTE_TAGS_SIZE(page_size), page, i;

	for (page = 0; page < nr_pages; page++) {
		for (i = 0; i < nr; i++) {
			u8 tag = mte_load_tag(hva + page * page_size + i * MTE_GRANULE_SIZE);

			if (tag != (i == nr - 1 && last >= 0 ? last : tags[page * nr + i]))
				return false;
		}
	}

	return true;
}

static int wait_for(int fd)
{
	char c;

	return read(fd, &c, 1) == 1 ? 0 : -1;
}

static void signal_to(int fd)
{
	TEST_ASSERT(write(fd, "", 1) == 1, "write() failed, errno %d", errno);
}

enum {
	CHILD_GOOD,
	CHILD_FAILED,
	CHILD_WRONG_DATA,
	CHILD_WRONG_TAGS,
	CHILD_COPIED_TAGS,
};

static const char *const child_says[] = {
	[CHILD_FAILED]		= "the child failed",
	[CHILD_WRONG_DATA]	= "the child sees wrong data",
	[CHILD_WRONG_TAGS]	= "the child sees wrong tags",
	[CHILD_COPIED_TAGS]	= "the child can use the VM",
};

static int child(const struct kind *kind, const struct testcase *test,
		 struct env *env, int in, int out)
{
	/* A memfd is one for both: the last store wins, and there is one only. */
	bool shared = kind->shared && test->guest && !test->alone;
	mte_guest_fn fn = shared ? test->guest : test->child;
	u64 arg = shared ? test->guest_arg : test->child_arg;
	u64 addr = (u64)env->mem.hva, wrong;

	/* As a store of data needs no PROT_MTE, do without. */
	if (test->child == mte_write_data)
		test->child(addr, env->nr_pages, page_size, test->child_arg);

	if (mprotect(env->mem.hva, env->mem.size, PROT_READ | PROT_WRITE | PROT_MTE))
		return CHILD_FAILED;
	if (test->child == store_last)
		test->child(addr, env->nr_pages, page_size, test->child_arg);

	signal_to(out);
	if (wait_for(in))
		return CHILD_FAILED;

	wrong = mte_count_wrong_data(addr, env->nr_pages, page_size, expected_data(fn, arg));
	if (wrong) {
		ksft_print_msg("%lu of %lu pages are wrong, the first one holds 0x%lx\n",
			       wrong, env->nr_pages, *(u64 *)addr);
		fflush(stdout);
		return CHILD_WRONG_DATA;
	}
	if (!tags_kept(env->tags, env->mem.hva, env->nr_pages,
		       fn == store_last ? (int)arg : -1))
		return CHILD_WRONG_TAGS;

	/* The VM is that of the address space it was created in. */
	if (__mte_copy_tags(env->vm, MTE_TEST_GPA, page_size, env->tags,
			    KVM_ARM_TAGS_FROM_GUEST) != -1 || errno != EIO)
		return CHILD_COPIED_TAGS;

	return CHILD_GOOD;
}

static const char *check_guest(const struct kind *kind, const struct testcase *test,
			       struct env *env)
{
	mte_guest_fn fn = kind->shared && !test->guest ? test->child : test->guest;
	u64 arg = kind->shared && !test->guest ? test->child_arg : test->guest_arg;
	size_t nr = MTE_TAGS_SIZE(page_size), i;
	u8 *tags = malloc(MTE_TAGS_SIZE(env->mem.size));
	const char *failure = NULL;

	if (mte_vcpu_call(env->vcpu, mte_count_wrong_data, MTE_TEST_GPA, env->nr_pages,
			  page_size, expected_data(fn, arg)))
		failure = "the guest sees wrong data";

	if (fn == store_last) {
		if (mte_vcpu_call(env->vcpu, count_wrong_last, MTE_TEST_GPA, env->nr_pages,
				  page_size, arg))
			failure = "the guest has lost the tags that were stored";
		for (i = 0; i < env->nr_pages; i++)
			mte_vcpu_call(env->vcpu, store_last, MTE_TEST_GPA + i * page_size, 1,
				      page_size, env->tags[(i + 1) * nr - 1]);
	}
	if (mte_vcpu_call(env->vcpu, mte_count_lost, MTE_TEST_GPA, env->nr_pages,
			  page_size, page_size))
		failure = "the guest sees wrong tags";

	/* In the eyes of the VMM it is the same. */
	mte_copy_tags_from_guest(env->vm, MTE_TEST_GPA, env->mem.size, tags);
	if (!failure && memcmp(tags, env->tags, MTE_TAGS_SIZE(env->mem.size)))
		failure = "the ioctl reads wrong tags";
	free(tags);

	return failure;
}

static void run(const struct kind *kind, const struct testcase *test)
{
	const char *reason, *failure = NULL;
	int to_child[2], from_child[2];
	struct env env;
	int status;
	pid_t pid;

	/*
	 * Each copy needs another folio. If there is none left for the VMM, the
	 * kernel takes the one they share away from the child.
	 */
	reason = kind->type == MTE_MEM_HUGETLB ? hugetlb_reserve(SZ_2M, 4) : NULL;
	if (!reason)
		reason = mte_mem_alloc(&env.mem, kind->type, SZ_2M, NR_PAGES * page_size);
	if (!reason) {
		reason = mte_mem_populate(&env.mem);
		if (reason)
			mte_mem_free(&env.mem);
	}
	if (reason) {
		ksft_test_result_skip("%s, %s: %s\n", kind->name, test->name, reason);
		return;
	}

	env.nr_pages = env.mem.size / page_size;
	env.tags = malloc(MTE_TAGS_SIZE(env.mem.size));
	env.vm = mte_vm_create(1, env.mem.size, &env.vcpu);
	mte_vm_add_slot(env.vm, DATA_SLOT, 0, MTE_TEST_GPA, env.mem.hva, env.mem.size);
	mte_vcpu_call(env.vcpu, mte_write_data, MTE_TEST_GPA, env.nr_pages, page_size, DATA);
	mte_vcpu_call(env.vcpu, mte_store_pattern, MTE_TEST_GPA, env.nr_pages,
		      page_size, page_size);
	mte_copy_tags_from_guest(env.vm, MTE_TEST_GPA, env.mem.size, env.tags);

	TEST_ASSERT(!pipe(to_child) && !pipe(from_child), "pipe() failed, errno %d", errno);
	fflush(stdout);
	pid = fork();
	TEST_ASSERT(pid >= 0, "fork() failed, errno %d", errno);
	if (!pid) {
		/* Or nobody would notice that the VMM is gone. */
		close(to_child[1]);
		_exit(child(kind, test, &env, to_child[0], from_child[1]));
	}

	close(from_child[1]);
	if (wait_for(from_child[0]))
		failure = "the child is gone";

	if (test->guest && !test->alone)
		mte_vcpu_call(env.vcpu, test->guest, MTE_TEST_GPA, env.nr_pages,
			      page_size, test->guest_arg);

	if (!failure)
		signal_to(to_child[1]);
	close(to_child[0]);
	close(to_child[1]);
	close(from_child[0]);
	TEST_ASSERT(waitpid(pid, &status, 0) == pid, "waitpid() failed, errno %d", errno);
	if (!failure && status)
		failure = child_says[WIFEXITED(status) ? WEXITSTATUS(status) : CHILD_FAILED];

	if (test->guest && test->alone)
		mte_vcpu_call(env.vcpu, test->guest, MTE_TEST_GPA, env.nr_pages,
			      page_size, test->guest_arg);
	if (!failure)
		failure = check_guest(kind, test, &env);

	ksft_test_result(!failure, "%s, %s%s%s\n", kind->name, test->name,
			 failure ? ": " : "", failure ?: "");
	kvm_vm_free(env.vm);
	mte_mem_free(&env.mem);
	free(env.tags);
}

int main(void)
{
	int i, j;

	ksft_print_header();
	mte_require();
	page_size = getpagesize();
	ksft_set_plan(ARRAY_SIZE(kinds) * ARRAY_SIZE(testcases));

	for (i = 0; i < ARRAY_SIZE(kinds); i++) {
		for (j = 0; j < ARRAY_SIZE(testcases); j++)
			run(&kinds[i], &testcases[j]);
	}

	ksft_finished();
}
