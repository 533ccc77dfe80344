// SPDX-License-Identifier: GPL-2.0-only
/*
 * mte_migrate - Check that the tags of a guest move along with its pages.
 *
 * The kernel moves a page to another page frame when the old one is to be taken
 * offline, or is in the way of a larger one. The tags have to be copied with
 * the data, before the guest can see the new page frame, and those of a hugetlb
 * folio all at once.
 *
 * A vCPU checks the tags of some of the pages all the time. The pages between
 * them have not been touched by the guest until they have moved: it must see
 * tags of zero then, though the page frames they were in had those of another
 * process, and the new ones had anybody's.
 */
#include <pthread.h>
#include <sys/mman.h>

#include <linux/sizes.h>

#include "kvm_util.h"
#include "mte.h"
#include "processor.h"
#include "test_util.h"

#define DATA_SLOT	1
#define NR_PAGES	32
/* Each costs a page frame, or a hugetlb folio. */
#define NR_OFFLINE	NR_PAGES
#define NR_REPEAT	4
/* One in this many pages is left, to give compaction something to do. */
#define SPARSE		8
#define NR_COMPACTIONS	2
/* How often to allocate such pages, until some are where they can be moved. */
#define NR_TRIES	6

static size_t page_size;

struct env {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	struct mte_mem mem;
	u64 nr_pages;
	/* Distance between the pages that the vCPU checks. */
	u64 stride;
	u64 nr_checked;
	bool stop;
	u64 lost;
	u64 passes;
};

static void *check_tags(void *arg)
{
	struct env *env = arg;

	/* Once more after the end, and at least once in the meantime. */
	do {
		env->lost += mte_vcpu_call(env->vcpu, mte_count_lost, MTE_TEST_GPA,
					   env->nr_checked, page_size, env->stride);
		WRITE_ONCE(env->passes, env->passes + 1);
	} while (!READ_ONCE(env->stop));

	return NULL;
}

static void wait_for_pass(struct env *env)
{
	u64 passes = READ_ONCE(env->passes);

	while (READ_ONCE(env->passes) == passes)
		usleep(100);
}

/* Ways to move pages. They count those that have moved. */

static const char *do_soft_offline(struct env *env, u64 *moved)
{
	u64 nr = env->mem.size / env->mem.folio_size, i;
	const char *reason;

	for (i = 0; i < min_t(u64, nr, NR_OFFLINE); i++) {
		reason = migrate_page(env->mem.hva + i * env->mem.folio_size);
		if (reason)
			return reason;
		*moved += env->mem.folio_size / page_size;
	}

	return NULL;
}

/* One folio again and again, wherever it is. */
static const char *do_soft_offline_repeatedly(struct env *env, u64 *moved)
{
	const char *reason;
	int i;

	for (i = 0; i < NR_REPEAT; i++) {
		reason = migrate_page(env->mem.hva);
		if (reason)
			return reason;
		*moved += env->mem.folio_size / page_size;
		wait_for_pass(env);
	}

	return NULL;
}

static const char *do_compact(struct env *env, u64 *moved)
{
	u64 *pfns = calloc(env->nr_pages, sizeof(*pfns)), i;
	int fd, tries;

	fd = open("/proc/sys/vm/compact_memory", O_WRONLY);
	if (fd < 0) {
		free(pfns);
		return "the kernel has no compaction";
	}

	for (i = 0; i < env->nr_pages; i++)
		pfns[i] = pagemap_entry(env->mem.hva + i * page_size) & PAGEMAP_PFN_MASK;

	for (tries = 0; tries < NR_COMPACTIONS; tries++) {
		TEST_ASSERT(pwrite(fd, "1", 1, 0) == 1, "Can't start compaction, errno %d", errno);

		for (i = 0; i < env->nr_pages; i++) {
			u64 pfn = pagemap_entry(env->mem.hva + i * page_size) & PAGEMAP_PFN_MASK;

			*moved += pfns[i] && pfn != pfns[i];
			pfns[i] = pfn;
		}
		wait_for_pass(env);
	}
	kvm_close(fd);
	free(pfns);

	return *moved ? NULL : "compaction has not moved a page";
}

static const struct testcase {
	const char *name;
	enum mte_mem_type type;
	const char *(*move)(struct env *env, u64 *moved);
} testcases[] = {
	{ "anonymous, soft offline", MTE_MEM_ANON, do_soft_offline },
	{ "anonymous, soft offline of a page", MTE_MEM_ANON, do_soft_offline_repeatedly },
	{ "memfd, soft offline", MTE_MEM_MEMFD, do_soft_offline },
	{ "memfd, soft offline of a page", MTE_MEM_MEMFD, do_soft_offline_repeatedly },
	{ "hugetlb, soft offline of a folio", MTE_MEM_HUGETLB, do_soft_offline_repeatedly },
	{ "memfd hugetlb, soft offline of a folio", MTE_MEM_MEMFD_HUGETLB,
	  do_soft_offline_repeatedly },
	{ "anonymous, compaction", MTE_MEM_ANON, do_compact },
	{ "memfd, compaction", MTE_MEM_MEMFD, do_compact },
};

static const char *alloc(const struct testcase *test, struct env *env)
{
	bool hugetlb = test->type == MTE_MEM_HUGETLB || test->type == MTE_MEM_MEMFD_HUGETLB;
	const char *reason;
	void *ballast;
	size_t size;
	u64 i;

	if (test->move != do_compact) {
		/* Those that take the place of the ones that go offline. */
		reason = hugetlb ? hugetlb_reserve(SZ_2M, NR_REPEAT + 2) : NULL;
		/* Some pages of a folio are enough, they move all at once. */
		env->stride = (hugetlb ? 16 : 2) * page_size;

		return reason ?: mte_mem_alloc_stale(&env->mem, test->type, SZ_2M,
						     hugetlb ? SZ_2M : NR_PAGES * page_size);
	}

	/* The scanners of compaction go by pageblocks, of which there are a few. */
	if (page_size == SZ_64K)
		return "pageblocks are too large";

	/*
	 * Pages are moved towards the end of memory, which is also where they
	 * come from. Keep that occupied until they have been allocated.
	 */
	size = align_down(sysconf(_SC_AVPHYS_PAGES) * page_size / 2, SZ_2M);
	ballast = kvm_mmap(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	madvise(ballast, size, MADV_HUGEPAGE);
	kvm_madvise(ballast, size, MADV_POPULATE_WRITE);

	/* Pages here and there, and page frames that are free between them. */
	env->stride = SPARSE * page_size;
	reason = mte_mem_alloc(&env->mem, test->type, 0, NR_PAGES * SPARSE * SPARSE * page_size);
	if (!reason)
		reason = mte_mem_populate(&env->mem);
	kvm_munmap(ballast, size);
	if (reason)
		return reason;

	for (i = 0; i < env->mem.size; i += env->stride)
		kvm_madvise(env->mem.hva + i + page_size, env->stride - page_size,
			    env->mem.fd >= 0 ? MADV_REMOVE : MADV_DONTNEED);

	return NULL;
}

static void run(const struct testcase *test)
{
	u64 moved = 0, stale, data;
	const char *reason;
	struct env env;
	pthread_t thread;
	int tries = 0;

again:
	memset(&env, 0, sizeof(env));
	reason = alloc(test, &env);
	if (reason) {
		ksft_test_result_skip("%s: %s\n", test->name, reason);
		return;
	}

	env.nr_pages = env.mem.size / page_size;
	env.nr_checked = env.mem.size / env.stride;
	env.vm = mte_vm_create(1, env.mem.size, &env.vcpu);
	mte_vm_add_slot(env.vm, DATA_SLOT, 0, MTE_TEST_GPA, env.mem.hva, env.mem.size);
	mte_vcpu_call(env.vcpu, mte_write_addrs, MTE_TEST_GPA, env.nr_checked, env.stride, 0);
	mte_vcpu_call(env.vcpu, mte_store_pattern, MTE_TEST_GPA, env.nr_checked,
		      page_size, env.stride);

	pthread_create(&thread, NULL, check_tags, &env);
	reason = test->move(&env, &moved);
	WRITE_ONCE(env.stop, true);
	pthread_join(thread, NULL);
	/* Nothing moves from here on. */
	env.lost += mte_vcpu_call(env.vcpu, mte_count_lost, MTE_TEST_GPA, env.nr_checked,
				  page_size, env.stride);
	stale = mte_vcpu_call(env.vcpu, mte_count_stale, MTE_TEST_GPA + page_size,
			      env.nr_checked, page_size, env.stride);
	data = mte_vcpu_call(env.vcpu, mte_count_wrong_addrs, MTE_TEST_GPA, env.nr_checked,
			     env.stride, 0);

	if (test->move == do_compact && !moved && ++tries < NR_TRIES &&
	    !env.lost && !stale && !data) {
		kvm_vm_free(env.vm);
		mte_mem_free(&env.mem);
		goto again;
	}

	if (reason && !env.lost && !stale && !data)
		ksft_test_result_skip("%s: %s\n", test->name, reason);
	else
		ksft_test_result(!env.lost && !stale && !data,
				 "%s: %lu pages moved during %lu checks, tags lost %lu, stale %lu, data lost %lu\n",
				 test->name, moved, env.passes, env.lost, stale, data);

	kvm_vm_free(env.vm);
	mte_mem_free(&env.mem);
}

static void help(const char *name)
{
	printf("\nusage: %s [-h] [-c]\n\n", name);
	printf(" -c: move pages by compaction, too. It moves what it likes, and may\n"
	       "     not move any page of the guest, so that there is nothing to see.\n\n");
	exit(1);
}

int main(int argc, char **argv)
{
	bool compaction = false;
	int opt, i, nr = 0;

	while ((opt = getopt(argc, argv, "hc")) != -1) {
		if (opt != 'c')
			help(argv[0]);
		compaction = true;
	}

	ksft_print_header();
	mte_require();
	page_size = getpagesize();

	for (i = 0; i < ARRAY_SIZE(testcases); i++)
		nr += compaction || testcases[i].move != do_compact;
	ksft_set_plan(nr);

	for (i = 0; i < ARRAY_SIZE(testcases); i++) {
		if (compaction || testcases[i].move != do_compact)
			run(&testcases[i]);
	}

	ksft_finished();
}
