// SPDX-License-Identifier: GPL-2.0-only
/*
 * mte_shared_race - Check that the tags of a page are initialised once, if two
 * that share it get there at the same time.
 *
 * A page of a memfd has no valid tags until somebody maps it who can see them.
 * That is a guest which faults on it, a process that makes its mapping of it
 * PROT_MTE, or the VMM which writes tags. As these don't share an address space
 * there is no lock that they have in common, but for a flag of the page itself.
 *
 * Whoever comes second must wait until the tags are cleared, as it would see
 * those of the previous owner of the page otherwise, and must not clear them
 * again, since the first one may have stored a tag already. A broken kernel
 * gets either of these wrong for a moment.
 *
 * All pages have stale tags at the start of a round, which everybody would
 * recognise. Both sides go through them in the same order, and wait for each
 * other before each page. Each stores tags to granules of its own as soon as it
 * has access to a page, and in the end each granule has to have the tag stored
 * to it, or zero if nobody did.
 *
 * To see that the checks work at all, there is a case in which the VMM wipes a
 * page, and one in which it leaves stale tags on one. Both must be noticed.
 */
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "kvm_util.h"
#include "mte.h"
#include "processor.h"
#include "test_util.h"

#define DATA_SLOT	1
#define SHARED_SLOT	2
#define SHARED_GPA	(MTE_TEST_GPA + 0x10000000)

#define NR_PAGES	64
#define NR_ROUNDS	4

/* Granules that a side stores to. Nobody stores to the others. */
#define NR_STORES	4
/* In case of the ioctl both store to all of them, as it writes whole pages. */
static const u8 side_tags[2] = { 0x5, 0x6 };

static size_t page_size;

/* How many pages each side has reached. The guest has access to it as well. */
struct shared {
	u32 reached[2];
};

static u64 granule(u64 addr, u64 side, u64 i)
{
	return addr + (2 * i + side) * MTE_GRANULE_SIZE;
}

static void meet(struct shared *shared, u64 side, u64 page)
{
	WRITE_ONCE(shared->reached[side], page + 1);
	while (READ_ONCE(shared->reached[!side]) < page + 1)
		;
}

/*
 * Store tags to the granules of a side, as soon as there is access. Return
 * whether there were tags which nobody has stored.
 */
static bool use_page(u64 addr, u64 side, u64 page_size)
{
	bool bad = false;
	u64 i;

	for (i = 0; i < NR_STORES; i++) {
		u8 tag = mte_load_tag((void *)granule(addr, side, i));

		mte_store_tag((void *)granule(addr, side, i), side_tags[side]);
		bad |= tag && tag != side_tags[side];
	}
	for (i = 0; i < NR_STORES; i++) {
		u8 tag = mte_load_tag((void *)granule(addr, !side, i));

		bad |= tag && tag != side_tags[!side];
	}

	return bad || mte_load_tag((void *)addr + page_size - MTE_GRANULE_SIZE);
}

/* When all is done: pages that have other tags than those that were stored. */
static u64 count_bad(u64 addr, u64 nr_pages, u64 page_size, u64 d)
{
	u64 bad = 0, end, i;

	for (; nr_pages; nr_pages--, addr += page_size) {
		bool good = true;

		for (i = 0; i < NR_STORES; i++) {
			good &= mte_load_tag((void *)granule(addr, 0, i)) == side_tags[0];
			good &= mte_load_tag((void *)granule(addr, 1, i)) == side_tags[1];
		}
		end = granule(addr, 0, NR_STORES);
		bad += !good || !mte_have_tag((void *)end, addr + page_size - end, 0);
	}

	return bad;
}

static u64 guest_use_pages(u64 addr, u64 shared, u64 side, u64 page_size)
{
	u64 bad = 0, page;

	for (page = 0; page < NR_PAGES; page++, addr += page_size) {
		meet((void *)shared, side, page);
		bad += use_page(addr, side, page_size);
	}

	return bad;
}

struct env {
	struct mte_mem mem;
	struct mte_mem shared_mem;
	struct shared *shared;
	struct kvm_vm *vms[2];
	struct kvm_vcpu *vcpus[2];
	/* Pages on which a side has found tags that nobody has stored. */
	u64 bad[2];
};

/* Those who share the memfd with the guest. */

/* A process whose pages are mapped already when it calls mprotect(). */
static u64 child_mprotect(struct env *env)
{
	u64 bad = 0, page;
	void *map, *ptr;

	map = mte_mem_alias(&env->mem, PROT_READ | PROT_WRITE);
	kvm_madvise(map, env->mem.size, MADV_POPULATE_WRITE);

	for (page = 0; page < NR_PAGES; page++) {
		ptr = map + page * page_size;
		meet(env->shared, 1, page);
		TEST_ASSERT(!mprotect(ptr, page_size, PROT_READ | PROT_WRITE | PROT_MTE),
			    "mprotect(PROT_MTE) failed, errno %d", errno);
		bad += use_page((u64)ptr, 1, page_size);
	}

	return bad;
}

/* A process that faults on the pages of a mapping which is PROT_MTE. */
static u64 child_fault(struct env *env)
{
	void *map = mte_mem_alias(&env->mem, PROT_READ | PROT_WRITE | PROT_MTE);
	u64 bad = 0, page;

	for (page = 0; page < NR_PAGES; page++) {
		meet(env->shared, 1, page);
		bad += use_page((u64)map + page * page_size, 1, page_size);
	}

	return bad;
}

static u64 other_vm(struct env *env)
{
	return mte_vcpu_call(env->vcpus[1], guest_use_pages, MTE_TEST_GPA, SHARED_GPA,
			     1, page_size);
}

/* Writes whole pages, with what both sides would store. */
static u64 ioctl_write(struct env *env)
{
	u8 *tags = calloc(1, MTE_TAGS_SIZE(page_size));
	u64 page, i;

	for (i = 0; i < NR_STORES; i++) {
		tags[2 * i] = side_tags[0];
		tags[2 * i + 1] = side_tags[1];
	}
	for (page = 0; page < NR_PAGES; page++) {
		meet(env->shared, 1, page);
		mte_copy_tags_to_guest(env->vms[0], MTE_TEST_GPA + page * page_size,
				       page_size, tags);
	}
	free(tags);

	return 0;
}

enum fault {
	NONE,
	/* The VMM clears the tags of a page once all are stored. */
	WIPE,
	/* The VMM leaves stale tags on a page before anybody gets there. */
	LEAK,
};

static const struct testcase {
	const char *name;
	u64 (*other)(struct env *env);
	bool child;
	enum fault fault;
} testcases[] = {
	{ "control: a page is wiped", child_fault, true, WIPE },
	{ "control: a page has stale tags", child_fault, true, LEAK },
	{ "child makes pages PROT_MTE", child_mprotect, true },
	{ "child faults on pages", child_fault, true },
	{ "guest of another VM faults on pages", other_vm },
	{ "ioctl writes tags", ioctl_write },
};

static struct kvm_vm *create_vm(struct env *env, struct kvm_vcpu **vcpu)
{
	struct kvm_vm *vm = mte_vm_create(1, env->mem.size, vcpu);

	mte_vm_add_slot(vm, DATA_SLOT, 0, MTE_TEST_GPA, env->mem.hva, env->mem.size);
	mte_vm_add_slot(vm, SHARED_SLOT, 0, SHARED_GPA, env->shared_mem.hva,
			env->shared_mem.size);

	return vm;
}

static void *first_side(void *arg)
{
	struct env *env = arg;

	env->bad[0] = mte_vcpu_call(env->vcpus[0], guest_use_pages, MTE_TEST_GPA, SHARED_GPA,
				    0, page_size);

	return NULL;
}

/* In a process of its own, which reports what it has found. */
static pid_t start_child(const struct testcase *test, struct env *env, int *result)
{
	int fds[2];
	pid_t pid;
	u64 bad;

	TEST_ASSERT(!pipe(fds), "pipe() failed, errno %d", errno);
	fflush(stdout);
	pid = fork();
	TEST_ASSERT(pid >= 0, "fork() failed, errno %d", errno);
	if (!pid) {
		bad = test->other(env);
		_exit(write(fds[1], &bad, sizeof(bad)) != sizeof(bad));
	}
	kvm_close(fds[1]);
	*result = fds[0];

	return pid;
}

/* What a round has found. */
struct found {
	u64 bad[2];
	u64 guest;
	u64 alias;
};

static const char *run_round(const struct testcase *test, struct found *found)
{
	u64 victim = MTE_TEST_GPA + NR_PAGES / 2 * page_size;
	struct env env = {};
	int result, status;
	const char *reason;
	pthread_t thread;
	void *alias;
	u8 *zeros;
	pid_t pid;

	reason = mte_mem_alloc_stale(&env.mem, MTE_MEM_MEMFD, 0, NR_PAGES * page_size);
	if (reason)
		return reason;

	TEST_ASSERT(!mte_mem_alloc(&env.shared_mem, MTE_MEM_MEMFD, 0, page_size), "No memory");
	env.shared = env.shared_mem.hva;
	WRITE_ONCE(env.shared->reached[0], 0);

	env.vms[0] = create_vm(&env, &env.vcpus[0]);
	if (test->other == other_vm)
		env.vms[1] = create_vm(&env, &env.vcpus[1]);

	alias = mte_mem_alias(&env.mem, PROT_READ | PROT_WRITE | PROT_MTE);
	if (test->fault == LEAK)
		mte_store_tags(alias + victim - MTE_TEST_GPA, page_size, MTE_POISON);

	if (test->child) {
		pid = start_child(test, &env, &result);
		first_side(&env);
		TEST_ASSERT(read(result, &env.bad[1], sizeof(u64)) == sizeof(u64) &&
			    waitpid(pid, &status, 0) == pid && !status,
			    "The child failed");
		kvm_close(result);
	} else {
		TEST_ASSERT(!pthread_create(&thread, NULL, first_side, &env), "No thread");
		env.bad[1] = test->other(&env);
		pthread_join(thread, NULL);
	}

	if (test->fault == WIPE) {
		zeros = calloc(1, MTE_TAGS_SIZE(page_size));
		mte_copy_tags_to_guest(env.vms[0], victim, page_size, zeros);
		free(zeros);
	}

	found->bad[0] += env.bad[0];
	found->bad[1] += env.bad[1];
	found->guest += mte_vcpu_call(env.vcpus[0], count_bad, MTE_TEST_GPA, NR_PAGES,
				      page_size, 0);
	found->alias += count_bad((u64)alias, NR_PAGES, page_size, 0);

	kvm_munmap(alias, env.mem.size);
	kvm_vm_free(env.vms[0]);
	if (env.vms[1])
		kvm_vm_free(env.vms[1]);
	mte_mem_free(&env.shared_mem);
	mte_mem_free(&env.mem);

	return NULL;
}

static void run(const struct testcase *test)
{
	int rounds = test->fault == NONE ? NR_ROUNDS : 1, i;
	struct found found = {};
	const char *reason;
	bool good;

	for (i = 0; i < rounds; i++) {
		reason = run_round(test, &found);
		if (reason) {
			ksft_test_result_skip("%s: %s\n", test->name, reason);
			return;
		}
	}

	switch (test->fault) {
	case WIPE:
		good = !found.bad[0] && !found.bad[1] && found.guest == 1 && found.alias == 1;
		break;
	case LEAK:
		good = found.bad[0] == 1 && found.bad[1] == 1 &&
		       found.guest == 1 && found.alias == 1;
		break;
	default:
		good = !found.bad[0] && !found.bad[1] && !found.guest && !found.alias;
	}

	ksft_test_result(good,
			 "%s: %d pages, stale tags seen on %lu and %lu, tags wrong in the end on %lu and %lu\n",
			 test->name, rounds * NR_PAGES, found.bad[0], found.bad[1],
			 found.guest, found.alias);
}

int main(void)
{
	int i;

	ksft_print_header();
	mte_require();
	page_size = getpagesize();
	ksft_set_plan(ARRAY_SIZE(testcases));

	for (i = 0; i < ARRAY_SIZE(testcases); i++)
		run(&testcases[i]);

	ksft_finished();
}
