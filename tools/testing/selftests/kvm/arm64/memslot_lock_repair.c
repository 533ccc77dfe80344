// SPDX-License-Identifier: GPL-2.0-only
/*
 * memslot_lock_repair - Check that a locked memslot remains mapped at stage 2, whatever
 * the kernel does with memory that the VMM leaves as it is.
 *
 * A pin keeps a page where it is, but it doesn't keep the kernel from trying to do
 * something with it, and calling MMU notifiers first. Stage 2 follows those. As the VMM
 * still has the same page mapped, KVM must map it again without the guest's doing:
 * after fork(), KSM, NUMA balancing, attempts to move the page or to reclaim it,
 * clearing soft-dirty bits, and an mprotect() that was undone. All leaves must be back
 * after a while, blocks as blocks, the page frames must be the same, and the guest must
 * not take a fault.
 *
 * Aging must not unmap anything, nor clear access flags. Neither must a fork() that
 * doesn't concern the memory.
 *
 * A broken kernel leaves holes that the guest has to fault in one by one, or maps pages
 * where there was a block.
 */
#include <sys/mman.h>
#include <sys/wait.h>

#include "kvm_util.h"
#include "memslot_lock.h"
#include "mte.h"
#include "numaif.h"
#include "processor.h"
#include "settings.h"
#include "test_util.h"

#define ANON		BIT(LOCK_ANON)
#define MEMFD		BIT(LOCK_MEMFD)
#define THP		BIT(LOCK_THP)
#define HUGETLB		BIT(LOCK_HUGETLB)
#define SHARED		(BIT(LOCK_MEMFD) | BIT(LOCK_MEMFD_THP) | BIT(LOCK_MEMFD_HUGETLB))
#define ALL_KINDS	(BIT(LOCK_NR_KINDS) - 1)

#define TIMEOUT_MS	30000

#define NUMA_BALANCING	"/proc/sys/kernel/numa_balancing"
#define NUMA_DEBUGFS	"/sys/kernel/debug/sched/numa_balancing/"
#define LRU_GEN_ENABLED	"/sys/kernel/mm/lru_gen/enabled"
#define LRU_GEN_DEBUGFS	"/sys/kernel/debug/lru_gen"
/* A bit of what the former reads as. */
#define LRU_GEN_MM_WALK	BIT(1)

static size_t page_size;

static struct setting numa_settings[] = {
	{ NUMA_BALANCING, "0" },
	{ NUMA_DEBUGFS "scan_delay_ms", "1" },
	{ NUMA_DEBUGFS "scan_period_min_ms", "1" },
};

static struct setting lru_gen_settings[] = {
	{ LRU_GEN_ENABLED, "n" },
};

/* It is mapped, the guest can use it, and its page frames are those that were pinned. */
static const char *check_intact(struct lock_env *env, u64 nr_blocks, u64 nr_pages)
{
	return lock_env_check_use(env) ?:
	       lock_vm_check_leaves(&env->lvm, nr_blocks, nr_pages) ?:
	       lock_env_check_frames(env, env->lvm.nr_pages) ?:
	       lock_env_check_held(env) ?:
	       lock_env_check_unlock(env);
}

/* The same after at least @min pages were unmapped. */
static const char *check_repaired_as(struct lock_env *env, u64 min, u64 nr_blocks, u64 nr_pages)
{
	const char *failure = lock_env_wait_repaired(env, min, nr_blocks, nr_pages);

	if (failure)
		return failure;
	if (lock_env_zapped(env) < min)
		return lock_failed("locked_pages_zapped is %lu, not %lu or more",
				   lock_env_zapped(env), min);

	return check_intact(env, nr_blocks, nr_pages);
}

static const char *check_repaired(struct lock_env *env, u64 min)
{
	return check_repaired_as(env, min, env->nr_blocks, env->nr_pages);
}

/* Nothing was unmapped, not even for a moment. */
static const char *check_never_unmapped(struct lock_env *env)
{
	if (lock_env_zapped(env))
		return lock_failed("%lu pages were to be unmapped", lock_env_zapped(env));

	return check_intact(env, env->nr_blocks, env->nr_pages);
}

/* Soft-dirty bits. There need not be any: the notifier is called for all of the process. */

static struct lock_outcome clear_soft_dirty(struct lock_env *env, const void *unused)
{
	const char *failure;

	if (!setting_store("/proc/self/clear_refs", "4"))
		return lock_skipped("no /proc/self/clear_refs");

	failure = check_repaired(env, env->lvm.nr_pages);
	/* Each page once. */
	if (!failure && lock_env_repaired(env) != env->lvm.nr_pages)
		failure = lock_failed("locked_pages_repaired is %lu, not %lu",
				      lock_env_repaired(env), env->lvm.nr_pages);

	return lock_ended(failure);
}

/* Permissions that are taken away, and given back before anybody has noticed. */

static struct lock_outcome undo_mprotect(struct lock_env *env, const void *unused)
{
	TEST_ASSERT(!mprotect(env->mem.hva, env->mem.size, PROT_NONE) &&
		    !mprotect(env->mem.hva, env->mem.size, PROT_READ | PROT_WRITE),
		    "mprotect() failed, errno %d", errno);

	return lock_ended(check_repaired(env, env->lvm.nr_pages));
}

/* fork(). The child has a copy of private memory, and nothing that is locked. */

enum child_status {
	CHILD_OK,
	CHILD_HAS_LOCKED_MEMORY,
	CHILD_SEES_WRONG_DATA,
};

static const char *const child_failures[] = {
	[CHILD_HAS_LOCKED_MEMORY]	= "the child has locked memory",
	[CHILD_SEES_WRONG_DATA]		= "the child sees wrong data",
};

static enum child_status child(struct lock_env *env)
{
	size_t offset;

	if (lock_usage().locked_vm)
		return CHILD_HAS_LOCKED_MEMORY;

	for (offset = 0; offset < env->mem.size; offset += page_size) {
		if (READ_ONCE(*(u64 *)(env->mem.hva + offset)) != env->lvm.gpa + offset)
			return CHILD_SEES_WRONG_DATA;
	}

	/* It isn't that of the guest, who would notice. */
	if (!env->kind->shared)
		mte_write_data((u64)env->mem.hva, env->lvm.nr_pages, page_size, 0);

	return CHILD_OK;
}

static const char *do_fork(struct lock_env *env, bool inherits)
{
	int status;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	TEST_ASSERT(pid >= 0, "fork() failed, errno %d", errno);
	if (!pid)
		_exit(inherits ? child(env) : CHILD_OK);

	TEST_ASSERT(waitpid(pid, &status, 0) == pid, "waitpid() failed, errno %d", errno);
	if (!WIFEXITED(status) || WEXITSTATUS(status) >= ARRAY_SIZE(child_failures))
		return "the child doesn't exit";

	return child_failures[WEXITSTATUS(status)];
}

static struct lock_outcome fork_private(struct lock_env *env, const void *unused)
{
	const char *reason = NULL, *failure;

	/* What is pinned has to be copied, and there must be memory for that. */
	if (env->kind->hugetlb)
		reason = hugetlb_reserve(pmd_size(), LOCK_NR_BLOCKS);
	if (reason)
		return lock_skipped(reason);

	failure = do_fork(env, true);
	/* To copy them one by one, fork() has the VMM map a THP by pages. */
	if (env->kind->type == MTE_MEM_ANON_THP)
		failure = failure ?: check_repaired_as(env, env->lvm.nr_pages, 0,
						       env->lvm.nr_pages);
	else
		failure = failure ?: check_repaired(env, env->lvm.nr_pages);

	return lock_ended(failure);
}

static struct lock_outcome fork_shared(struct lock_env *env, const void *unused)
{
	return lock_ended(do_fork(env, true) ?: check_never_unmapped(env));
}

static const char *dont_fork(struct lock_env *env)
{
	kvm_madvise(env->mem.hva, env->mem.size, MADV_DONTFORK);

	return NULL;
}

static struct lock_outcome fork_without(struct lock_env *env, const void *unused)
{
	return lock_ended(do_fork(env, false) ?: check_never_unmapped(env));
}

/* Attempts to move pages. */

/* The first page, or folio, is to be taken offline. */
static struct lock_outcome soft_offline(struct lock_env *env, const void *unused)
{
	const char *reason = NULL;

	/* Where it would go. */
	if (env->kind->hugetlb)
		reason = hugetlb_reserve(pmd_size(), 1);
	if (reason)
		return lock_skipped(reason);

	if (!madvise(env->mem.hva, page_size, MADV_SOFT_OFFLINE))
		return lock_ended("a page that is pinned was taken offline");
	if (errno == EINVAL || errno == EPERM || errno == EOPNOTSUPP)
		return lock_skipped("the kernel doesn't take pages offline");

	return lock_ended(check_repaired(env, env->mem.folio_size / page_size));
}

/* What it tries to move, if anything, is up to the kernel. */
static struct lock_outcome compact(struct lock_env *env, const void *unused)
{
	if (!setting_store("/proc/sys/vm/compact_memory", "1"))
		return lock_skipped("the kernel has no compaction");

	return lock_ended(check_repaired(env, 0));
}

/* Attempts to reclaim pages. */

static struct lock_outcome page_out_private(struct lock_env *env, const void *unused)
{
	kvm_madvise(env->mem.hva, env->mem.size, MADV_PAGEOUT);

	return lock_ended(check_repaired(env, 0));
}

/*
 * A page of a memfd that can't be reclaimed is unmapped all the same if the VMM asks
 * for it. Whether KVM finds it again is up to KVM, but it must tell, and the guest must
 * find it.
 */
static struct lock_outcome page_out_shared(struct lock_env *env, const void *unused)
{
	const char *failure;
	u64 unmapped;
	int ms;

	kvm_madvise(env->mem.hva, env->mem.size, MADV_PAGEOUT);
	unmapped = min_t(u64, lock_env_zapped(env), env->lvm.nr_pages);
	for (ms = 0; ms < TIMEOUT_MS; ms += 5) {
		if (lock_env_repaired(env) + lock_env_changed(env) >= unmapped)
			break;
		usleep(5000);
	}
	if (ms >= TIMEOUT_MS)
		return lock_ended("pages that were unmapped are neither repaired nor changed");

	failure = lock_vm_check_reads(&env->lvm, 0, lock_env_changed(env)) ?:
		  lock_vm_check_leaves(&env->lvm, 0, env->lvm.nr_pages);
	/* The VMM has to have mapped them to be told their page frames. */
	lock_vm_fill(&env->lvm);

	return lock_ended(failure ?: lock_env_check_frames(env, env->lvm.nr_pages) ?:
			  lock_env_check_held(env) ?: lock_env_check_unlock(env));
}

/* Aging. */

#define IDLE_BITMAP	"/sys/kernel/mm/page_idle/bitmap"

static const char *prepare_aging(struct lock_env *env)
{
	void *page;

	if (access(IDLE_BITMAP, R_OK | W_OK))
		return "the kernel doesn't track idle pages";

	/* Pages that this CPU is about to put on the LRU list aren't tracked yet. */
	page = kvm_mmap(page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	kvm_madvise(page, page_size, MADV_COLD);
	kvm_munmap(page, page_size);

	return NULL;
}

/* Make all pages old, and return how many of them still are when that is done. */
static u64 count_idle(const struct lock_env *env)
{
	u64 pfn, mask, word, nr = 0;
	size_t offset;
	int fd, store;
	ssize_t ret;

	fd = open(IDLE_BITMAP, O_RDWR);
	TEST_ASSERT(fd >= 0, "Can't open %s, errno %d", IDLE_BITMAP, errno);

	for (store = 1; store >= 0; store--) {
		for (offset = 0; offset < env->mem.size; offset += page_size) {
			pfn = pagemap_entry(env->mem.hva + offset) & PAGEMAP_PFN_MASK;
			mask = BIT_ULL(pfn % 64);
			word = mask;
			if (store)
				ret = pwrite(fd, &word, sizeof(word), pfn / 64 * sizeof(word));
			else
				ret = pread(fd, &word, sizeof(word), pfn / 64 * sizeof(word));
			TEST_ASSERT(ret == sizeof(word), "Can't access %s, errno %d",
				    IDLE_BITMAP, errno);
			nr += !store && word & mask;
		}
	}
	kvm_close(fd);

	return nr;
}

static const char *check_access_flags(const struct lock_env *env)
{
	size_t offset;

	for (offset = 0; offset < env->mem.size; offset += page_size) {
		if (!mte_stage2_shows(env->lvm.vm, env->lvm.gpa + offset, " AF "))
			return "an access flag was cleared";
	}

	return NULL;
}

static struct lock_outcome age(struct lock_env *env, const void *unused)
{
	const char *failure;
	u64 nr;

	nr = count_idle(env);
	if (nr)
		return lock_ended(lock_failed("%lu pages are old", nr));

	failure = check_access_flags(env) ?: check_never_unmapped(env);
	if (failure)
		return lock_ended(failure);

	/* It was the lock that has kept them young. */
	nr = count_idle(env);
	if (nr != env->lvm.nr_pages)
		return lock_ended(lock_failed("%lu of %lu pages are old without a lock", nr,
					      env->lvm.nr_pages));

	return lock_ended(NULL);
}

/* What the VMM does to one page has nothing to do with the others. */
static struct lock_outcome age_beside(struct lock_env *env, const void *unused)
{
	size_t offset;
	int ms;

	kvm_madvise(env->mem.hva, page_size, MADV_DONTNEED);
	for (ms = 0; ms < TIMEOUT_MS && !lock_env_changed(env); ms += 5)
		usleep(5000);
	if (ms >= TIMEOUT_MS)
		return lock_ended("a page that was given up isn't counted");

	WRITE_ONCE(*(u64 *)env->mem.hva, 0);
	count_idle(env);
	for (offset = page_size; offset < env->mem.size; offset += page_size) {
		if (!mte_stage2_shows(env->lvm.vm, env->lvm.gpa + offset, " AF "))
			return lock_ended("an access flag was cleared");
	}

	return lock_ended(NULL);
}

static const char *prepare_aging_lru_gen(struct lock_env *env)
{
	char buf[32];

	if (settings_change(lru_gen_settings, ARRAY_SIZE(lru_gen_settings)) ||
	    access(LRU_GEN_DEBUGFS, R_OK | W_OK))
		return "the kernel has no multi-gen LRU";

	TEST_ASSERT(setting_store(LRU_GEN_ENABLED, "y") &&
		    setting_load(LRU_GEN_ENABLED, buf, sizeof(buf)) &&
		    setting_store(LRU_GEN_ENABLED, "n"), "Can't set %s", LRU_GEN_ENABLED);
	if (!(strtoul(buf, NULL, 0) & LRU_GEN_MM_WALK))
		return "the multi-gen LRU doesn't walk page tables";

	return NULL;
}

/*
 * Have the kernel look for what was accessed, in all page tables, and make it old. Cgroups
 * of others can be gone by then, or be aged by the kernel: what matters is what was found.
 */
static void age_lru_gen(void)
{
	unsigned long memcg = 0, seq;
	char cmd[64] = "", *line = NULL;
	size_t size = 0;
	int node = -1;
	FILE *file;

	file = fopen(LRU_GEN_DEBUGFS, "r");
	TEST_ASSERT(file, "Can't open %s, errno %d", LRU_GEN_DEBUGFS, errno);
	/* For each node of each memory cgroup, the youngest generation comes last. */
	while (getline(&line, &size, file) > 0) {
		if (sscanf(line, " memcg %lu", &memcg) == 1 ||
		    sscanf(line, " node %d", &node) == 1) {
			if (*cmd)
				setting_store(LRU_GEN_DEBUGFS, cmd);
			*cmd = '\0';
		} else if (sscanf(line, " %lu", &seq) == 1) {
			/* With anonymous memory, and whatever the last time has found. */
			snprintf(cmd, sizeof(cmd), "+ %lu %d %lu 200 1", memcg, node, seq);
		}
	}
	setting_store(LRU_GEN_DEBUGFS, cmd);
	free(line);
	fclose(file);
}

static struct lock_outcome age_by_generations(struct lock_env *env, const void *unused)
{
	const char *failure;

	TEST_ASSERT(setting_store(LRU_GEN_ENABLED, "y"), "Can't have a multi-gen LRU");
	age_lru_gen();
	failure = check_access_flags(env) ?: check_never_unmapped(env);

	/* It was the lock that has kept them. */
	failure = failure ?: lock_vm_check_reads(&env->lvm, 0, env->lvm.nr_pages);
	age_lru_gen();
	if (!failure && !check_access_flags(env))
		failure = "no access flag is cleared without a lock";
	TEST_ASSERT(setting_store(LRU_GEN_ENABLED, "n"), "Can't do without a multi-gen LRU");

	return lock_ended(failure);
}

/* Memory that isn't the guest's. */
static void *peer;

/* NUMA: attempts to move pages to another node, by the VMM and by the kernel. */

static int own_node(void)
{
	unsigned int node;

	TEST_ASSERT(!syscall(__NR_getcpu, NULL, &node, NULL), "getcpu() failed, errno %d", errno);

	return node;
}

static int other_node(void)
{
	return !own_node();
}

/* Returns how many pages are there then. */
static u64 move_to_node(void *hva, u64 nr, int node)
{
	int nodes[LOCK_NR_PAGES], status[LOCK_NR_PAGES];
	void *pages[LOCK_NR_PAGES];
	u64 i, there = 0;

	TEST_ASSERT(nr <= LOCK_NR_PAGES, "%lu pages are too many", nr);
	for (i = 0; i < nr; i++) {
		pages[i] = hva + i * page_size;
		nodes[i] = node;
	}

	move_pages(0, nr, pages, nodes, status, MPOL_MF_MOVE);
	/* Where they are, whatever the call has to say on those that it couldn't move. */
	kvm_move_pages(0, nr, pages, NULL, status, 0);
	for (i = 0; i < nr; i++)
		there += status[i] == node;

	return there;
}

static bool is_on_node(void *hva, int node)
{
	int status;

	kvm_move_pages(0, 1, &hva, NULL, &status, 0);

	return status == node;
}

/* Have the memory where neither this process nor the kernel would want it. */
static const char *prepare_numa(struct lock_env *env)
{
	if (!is_multi_numa_node_system())
		return "there is one NUMA node";
	if (settings_change(numa_settings, ARRAY_SIZE(numa_settings)))
		return "the kernel has no NUMA balancing";

	/* The other node may not have memory. */
	if (move_to_node(env->mem.hva, env->lvm.nr_pages, other_node()) != env->lvm.nr_pages)
		return "pages can't be moved to the other node";

	return NULL;
}

static struct lock_outcome move_back(struct lock_env *env, const void *unused)
{
	if (move_to_node(env->mem.hva, env->lvm.nr_pages, own_node()))
		return lock_ended("a page that is pinned was moved");

	return lock_ended(check_repaired(env, env->lvm.nr_pages));
}

/* The kernel unmaps memory now and then, after some time running, to see who uses it. */
static struct lock_outcome balance(struct lock_env *env, const void *unused)
{
	const char *failure = NULL;
	struct timespec start;

	TEST_ASSERT(setting_store(NUMA_BALANCING, "1"), "Can't start NUMA balancing");
	clock_gettime(CLOCK_MONOTONIC, &start);
	while (!failure && lock_env_zapped(env) < env->lvm.nr_pages) {
		if (timespec_to_ns(timespec_elapsed(start)) > TIMEOUT_MS * 1000000L)
			failure = "NUMA balancing doesn't get to the memory";
	}
	TEST_ASSERT(setting_store(NUMA_BALANCING, "0"), "Can't stop NUMA balancing");

	return lock_ended(failure ?: check_repaired(env, env->lvm.nr_pages));
}

/* Memory that has to be on the node where it is needn't be unmapped to find out. */
static const char *prepare_bound(struct lock_env *env)
{
	const char *reason = prepare_numa(env);
	unsigned long node;

	if (reason)
		return reason;

	node = BIT(other_node());
	kvm_mbind(env->mem.hva, env->mem.size, MPOL_BIND, &node, BITS_PER_LONG, 0);

	peer = kvm_mmap(page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	WRITE_ONCE(*(u64 *)peer, 0);
	TEST_ASSERT(move_to_node(peer, 1, other_node()) == 1, "A page can't be moved");

	return NULL;
}

/* That the kernel has moved other memory is what shows that it has looked for some. */
static struct lock_outcome balance_bound(struct lock_env *env, const void *unused)
{
	const char *failure = NULL;
	struct timespec start;

	TEST_ASSERT(setting_store(NUMA_BALANCING, "1"), "Can't start NUMA balancing");
	clock_gettime(CLOCK_MONOTONIC, &start);
	while (!failure && !is_on_node(peer, own_node())) {
		WRITE_ONCE(*(u64 *)peer, 0);
		if (timespec_to_ns(timespec_elapsed(start)) > TIMEOUT_MS * 1000000L)
			failure = "NUMA balancing doesn't move anything";
	}
	TEST_ASSERT(setting_store(NUMA_BALANCING, "0"), "Can't stop NUMA balancing");
	kvm_munmap(peer, page_size);

	return lock_ended(failure ?: check_never_unmapped(env));
}

/* KSM. */

/* The other memory has the same data. */
static const char *prepare_ksm(struct lock_env *env)
{
	const char *reason = ksm_setup();

	if (reason)
		return reason;

	peer = kvm_mmap(env->mem.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	memcpy(peer, env->mem.hva, env->mem.size);
	kvm_madvise(peer, env->mem.size, MADV_MERGEABLE);
	kvm_madvise(env->mem.hva, env->mem.size, MADV_MERGEABLE);

	return NULL;
}

static u64 count_merged(const struct lock_env *env)
{
	size_t offset;
	u64 nr = 0;

	for (offset = 0; offset < env->mem.size; offset += page_size)
		nr += (pagemap_entry(peer + offset) & PAGEMAP_PFN_MASK) ==
		      (pagemap_entry(env->mem.hva + offset) & PAGEMAP_PFN_MASK);

	return nr;
}

static const char *prepare_merged(struct lock_env *env)
{
	const char *reason = prepare_ksm(env);

	if (reason)
		return reason;

	ksm_scan();
	TEST_ASSERT(count_merged(env) == env->lvm.nr_pages, "KSM has merged %lu of %lu pages",
		    count_merged(env), env->lvm.nr_pages);

	return NULL;
}

/* That pages were to be unmapped is what shows that KSM has been there. */
static struct lock_outcome merge(struct lock_env *env, const void *unused)
{
	const char *failure = NULL;

	ksm_scan();
	if (count_merged(env))
		failure = "a page that is pinned was merged";
	failure = failure ?: check_repaired(env, 1);
	kvm_munmap(peer, env->mem.size);

	return lock_ended(failure);
}

/* A page that is shared would be replaced when the guest writes to it. */
static struct lock_outcome merged_before(struct lock_env *env, const void *unused)
{
	const char *failure = NULL;

	if (count_merged(env))
		failure = "a page that is shared was locked";
	failure = failure ?: check_never_unmapped(env);
	kvm_munmap(peer, env->mem.size);

	return lock_ended(failure);
}

static const struct lock_case cases[] = {
	{ "soft-dirty bits cleared", ALL_KINDS, NULL, clear_soft_dirty },
	{ "mprotect() undone", ANON | MEMFD | THP | HUGETLB, NULL, undo_mprotect },
	{ "fork()", ANON | THP | HUGETLB, NULL, fork_private },
	{ "fork()", SHARED, NULL, fork_shared },
	{ "fork(), MADV_DONTFORK", ANON | THP | HUGETLB, dont_fork, fork_without },
	{ "attempt to move a page", ANON | MEMFD | HUGETLB, NULL, soft_offline },
	{ "compaction", ANON | MEMFD, NULL, compact },
	{ "MADV_PAGEOUT", ANON, NULL, page_out_private },
	{ "MADV_PAGEOUT", MEMFD, NULL, page_out_shared },
	{ "aging", ANON | MEMFD, prepare_aging, age },
	{ "aging, a page was given up", ANON, prepare_aging, age_beside },
	{ "aging by generations", ANON | MEMFD, prepare_aging_lru_gen, age_by_generations },
	{ "move_pages() to another node", ANON | MEMFD, prepare_numa, move_back },
	{ "NUMA balancing", ANON | MEMFD, prepare_numa, balance },
	{ "NUMA balancing, mbind()", ANON | MEMFD, prepare_bound, balance_bound },
	{ "KSM", ANON, prepare_ksm, merge },
	{ "KSM, merged before", ANON, prepare_merged, merged_before },
};

int main(void)
{
	page_size = getpagesize();
	lock_cases_main(cases, ARRAY_SIZE(cases));
}
