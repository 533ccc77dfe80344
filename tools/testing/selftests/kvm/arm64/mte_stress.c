// SPDX-License-Identifier: GPL-2.0-only
/*
 * mte_stress - Check the tags of a guest against a model of them, while the VMM
 * does to its memory whatever a VMM can do.
 *
 * Each vCPU has pages of its own, which lie between those of the others. It
 * picks a granule at random, has to find there the tag and the data that it
 * stored last, and stores others. What it has stored is noted down in memory
 * that isn't subject to any of this.
 *
 * Some pages are constant: no vCPU stores to them. Their tags are what the VMM
 * compares when it reads tags.
 *
 * Meanwhile the VMM picks actions at random: swaps out, takes page frames
 * offline, collapses and splits huge pages, turns dirty logging on and off,
 * reads tags, moves and replaces the memslot. None of that is visible to a
 * guest. A broken kernel loses tags in one of these, or in the transition from
 * one to another.
 *
 * What went wrong is reported with the seed. The same seed makes for the same
 * choices, though not for the same timing.
 */
#include <pthread.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>

#include <linux/bitmap.h>
#include <linux/sizes.h>

#include "kvm_util.h"
#include "mte.h"
#include "processor.h"
#include "test_util.h"

#define DATA_SLOT	1
#define NR_VCPUS	2
/* How many granules a vCPU uses before it pauses, and the slot may move. */
#define NR_STEPS	512
/* Granules of a page that are used at all, so that one is met again. */
#define NR_GRANULES	8
/* How many pages are in use, of memory that is large enough for a huge page. */
#define MAX_PAGES	512
/* Each page taken offline is lost. */
#define MAX_OFFLINE	64

#define DEFAULT_SECONDS	3
/* Between the two places where the memslot can be. */
#define MOVE_DISTANCE	((gpa_t)SZ_1G)

static size_t page_size;

/* What a vCPU found to be wrong. */
struct failure {
	u64 page;
	u64 granule;
	u64 tag;
	u64 data;
	u64 expected_tag;
	u64 expected_data;
};

/* In memory of the guest that nothing is done to. */
static struct {
	/* What is expected, indexed by page and granule. */
	u8 tags[MAX_PAGES][NR_GRANULES];
	u64 data[MAX_PAGES][NR_GRANULES];
	struct failure failure[NR_VCPUS];
	/* xorshift64 */
	u64 random[NR_VCPUS];
} model;

static u64 guest_random(u64 vcpu)
{
	u64 x = model.random[vcpu];

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	model.random[vcpu] = x;

	return x;
}

/*
 * Page of a vCPU, or constant page with NR_VCPUS in place of the vCPU. The
 * first page of all is not in use.
 */
static u64 nth_page(u64 vcpu, u64 n)
{
	return 1 + n * (NR_VCPUS + 1) + vcpu;
}

/* Spread over the page, and not the first of it. */
static u64 granule_offset(u64 granule, u64 page_size)
{
	return (granule + 1) * page_size / (NR_GRANULES + 1) / MTE_GRANULE_SIZE *
	       MTE_GRANULE_SIZE;
}

static bool check_granule(u64 base, u64 vcpu, u64 page, u64 granule, u64 page_size)
{
	void *addr = (void *)base + page * page_size + granule_offset(granule, page_size);
	u64 data = READ_ONCE(*(u64 *)addr);
	u8 tag = mte_load_tag(addr);

	if (tag == model.tags[page][granule] && data == model.data[page][granule])
		return true;

	model.failure[vcpu].page = page;
	model.failure[vcpu].granule = granule;
	model.failure[vcpu].tag = tag;
	model.failure[vcpu].data = data;
	model.failure[vcpu].expected_tag = model.tags[page][granule];
	model.failure[vcpu].expected_data = model.data[page][granule];

	return false;
}

/* Use granules at random. Return whether all was as expected. */
static u64 guest_use(u64 base, u64 vcpu, u64 pages_per_vcpu, u64 page_size)
{
	u64 step, random, page, granule;
	void *addr;

	for (step = 0; step < NR_STEPS; step++) {
		random = guest_random(vcpu);
		/* Now and then one of those that are constant. */
		page = nth_page(random % 8 ? vcpu : NR_VCPUS, (random >> 8) % pages_per_vcpu);
		granule = (random >> 32) % NR_GRANULES;

		if (!check_granule(base, vcpu, page, granule, page_size))
			return false;
		if (!(random % 8))
			continue;

		/* Tag, data, both or neither. */
		addr = (void *)base + page * page_size + granule_offset(granule, page_size);
		random >>= 40;
		if (random & 1) {
			model.tags[page][granule] = (random >> 2) & MTE_TAG_MASK;
			mte_store_tag(addr, model.tags[page][granule]);
		}
		if (random & 2) {
			model.data[page][granule] = guest_random(vcpu);
			WRITE_ONCE(*(u64 *)addr, model.data[page][granule]);
		}
	}

	return true;
}

/* Give all granules that are constant tags and data other than zero. */
static u64 guest_init(u64 base, u64 pages_per_vcpu, u64 page_size, u64 seed)
{
	u64 n, page, granule;
	void *addr;

	for (n = 0; n < NR_VCPUS; n++)
		model.random[n] = (seed + n) * 0x9e3779b97f4a7c15UL | 1;

	for (n = 0; n < pages_per_vcpu; n++) {
		page = nth_page(NR_VCPUS, n);
		for (granule = 0; granule < NR_GRANULES; granule++) {
			addr = (void *)base + page * page_size + granule_offset(granule, page_size);
			model.tags[page][granule] = 1 + (n + granule) % MTE_TAG_MASK;
			model.data[page][granule] = ~page;
			mte_store_tag(addr, model.tags[page][granule]);
			WRITE_ONCE(*(u64 *)addr, model.data[page][granule]);
		}
	}

	return 0;
}

/* Have all pages initialised, those that nobody uses as well. */
static u64 guest_touch(u64 base, u64 size, u64 page_size, u64 d)
{
	u64 offset;

	for (offset = 0; offset < size; offset += page_size)
		mte_store_tag((void *)base + offset, 0);

	return 0;
}

/* Check all there is. */
static u64 guest_check(u64 base, u64 pages_per_vcpu, u64 page_size, u64 d)
{
	u64 page, granule;

	for (page = 1; page <= pages_per_vcpu * (NR_VCPUS + 1); page++) {
		for (granule = 0; granule < NR_GRANULES; granule++) {
			if (!check_granule(base, 0, page, granule, page_size))
				return false;
		}
	}

	return true;
}

struct env {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpus[NR_VCPUS];
	struct mte_mem mem;
	u64 pages_per_vcpu;
	/* Where the memslot is, and its flags. */
	gpa_t gpa;
	u32 flags;
	/* Held by the vCPUs while they run, by an action if they must not. */
	pthread_rwlock_t lock;
	bool stop;
	bool bad[NR_VCPUS];
	u64 steps[NR_VCPUS];
	u32 nr_offline;
	unsigned long *bitmap;
	u8 *tags;
};

static struct env env;

/*
 * Have pages mapped one by one at first, so that a part of a huge page is known
 * to have tags, and not the first page of it. A kernel whose split of a folio
 * gives all of its pages the flag of the first one loses tags then.
 */
static bool partial;

static void *run_vcpu(void *arg)
{
	u64 vcpu = (u64)arg;

	while (!READ_ONCE(env.stop) && !env.bad[vcpu]) {
		pthread_rwlock_rdlock(&env.lock);
		if (!mte_vcpu_call(env.vcpus[vcpu], guest_use, env.gpa, vcpu,
				   env.pages_per_vcpu, page_size))
			WRITE_ONCE(env.bad[vcpu], true);
		pthread_rwlock_unlock(&env.lock);
		WRITE_ONCE(env.steps[vcpu], env.steps[vcpu] + NR_STEPS);
	}

	return NULL;
}

/* A range of pages at random, more likely a small one. */
static void *pick_range(size_t *size)
{
	u64 nr_pages = env.mem.size / page_size;
	u64 first = kvm_random_u32(&kvm_rng) % nr_pages;
	u64 nr = 1 + kvm_random_u32(&kvm_rng) % (nr_pages - first);

	*size = nr * page_size;

	return env.mem.hva + first * page_size;
}

/* Actions. What they return is whether something was done. */

static bool do_swap(void)
{
	size_t size;
	void *addr = pick_range(&size);

	return !madvise(addr, size, MADV_PAGEOUT);
}

static bool do_offline(void)
{
	void *addr;
	size_t size;

	if (env.nr_offline == MAX_OFFLINE)
		return false;

	addr = pick_range(&size);
	/* Not worth waiting for, if it isn't possible now. */
	if (madvise(addr, page_size, MADV_SOFT_OFFLINE))
		return false;
	env.nr_offline++;

	return true;
}

static bool do_collapse(void)
{
	return !madvise(env.mem.hva, env.mem.size, MADV_COLLAPSE);
}

static bool do_split(void)
{
	return !split_huge_folios(env.mem.hva, env.mem.size);
}

static bool do_log(void)
{
	env.flags ^= KVM_MEM_LOG_DIRTY_PAGES;
	vm_set_user_memory_region(env.vm, DATA_SLOT, env.flags, env.gpa,
				  env.mem.size, env.mem.hva);

	return true;
}

static bool do_get_log(void)
{
	if (!(env.flags & KVM_MEM_LOG_DIRTY_PAGES))
		return false;

	kvm_vm_get_dirty_log(env.vm, DATA_SLOT, env.bitmap);

	return true;
}

static void check_constant(u8 *tags)
{
	u64 n, granule, page;
	u8 tag;

	for (n = 0; n < env.pages_per_vcpu; n++) {
		page = nth_page(NR_VCPUS, n);
		for (granule = 0; granule < NR_GRANULES; granule++) {
			tag = tags[(page * page_size + granule_offset(granule, page_size)) /
				   MTE_GRANULE_SIZE];
			TEST_ASSERT(tag == 1 + (n + granule) % MTE_TAG_MASK,
				    "Read tag %u of constant page %lu, granule %lu",
				    tag, page, granule);
		}
	}
}

static bool do_read_tags(void)
{
	mte_copy_tags_from_guest(env.vm, env.gpa, env.mem.size, env.tags);
	check_constant(env.tags);

	return true;
}

/* Read and write them back, which has no effect as long as nobody stores any. */
static bool do_write_tags(void)
{
	if (env.flags & KVM_MEM_LOG_DIRTY_PAGES)
		return false;

	pthread_rwlock_wrlock(&env.lock);
	mte_copy_tags_from_guest(env.vm, env.gpa, env.mem.size, env.tags);
	mte_copy_tags_to_guest(env.vm, env.gpa, env.mem.size, env.tags);
	pthread_rwlock_unlock(&env.lock);

	return true;
}

/* To one of two places, both of which the guest has mapped. */
static bool do_move(void)
{
	pthread_rwlock_wrlock(&env.lock);
	env.gpa ^= MOVE_DISTANCE;
	vm_set_user_memory_region(env.vm, DATA_SLOT, env.flags, env.gpa,
				  env.mem.size, env.mem.hva);
	pthread_rwlock_unlock(&env.lock);

	return true;
}

static bool do_replace(void)
{
	pthread_rwlock_wrlock(&env.lock);
	vm_set_user_memory_region(env.vm, DATA_SLOT, env.flags, env.gpa, 0, env.mem.hva);
	vm_set_user_memory_region(env.vm, DATA_SLOT, env.flags, env.gpa,
				  env.mem.size, env.mem.hva);
	pthread_rwlock_unlock(&env.lock);

	return true;
}

static struct action {
	const char *name;
	bool (*run)(void);
	u32 weight;
	bool off;
	u64 done;
} actions[] = {
	{ "swap", do_swap, 4 },
	{ "offline", do_offline, 1 },
	{ "collapse", do_collapse, 2 },
	{ "split", do_split, 2 },
	{ "log", do_log, 4 },
	{ "get-log", do_get_log, 4 },
	{ "read-tags", do_read_tags, 2 },
	{ "write-tags", do_write_tags, 1 },
	{ "move", do_move, 2 },
	{ "replace", do_replace, 2 },
};

static struct action *pick_action(void)
{
	u32 total = 0, pick;
	int i;

	for (i = 0; i < ARRAY_SIZE(actions); i++)
		total += actions[i].off ? 0 : actions[i].weight;

	pick = kvm_random_u32(&kvm_rng) % total;
	for (i = 0; ; i++) {
		if (actions[i].off)
			continue;
		if (pick < actions[i].weight)
			return &actions[i];
		pick -= actions[i].weight;
	}
}

static u64 now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);

	return timespec_to_ns(ts) / 1000000;
}

static bool report(const char *name, u64 vcpu)
{
	struct failure *failure = addr_gva2hva(env.vm, (gva_t)&model.failure[vcpu]);

	ksft_print_msg("%s: vCPU %lu, page %lu, granule %lu: tag %lu, not %lu, data %lx, not %lx\n",
		       name, vcpu, failure->page, failure->granule, failure->tag,
		       failure->expected_tag, failure->data, failure->expected_data);

	return false;
}

static const struct kind {
	const char *name;
	enum mte_mem_type type;
	enum mte_mem_type huge;
} kinds[] = {
	{ "anonymous", MTE_MEM_ANON, MTE_MEM_ANON_THP },
	{ "memfd", MTE_MEM_MEMFD, MTE_MEM_MEMFD_THP },
};

/* With large pages, huge ones are too large to be used as a whole. */
static bool huge_pages_fit(void)
{
	return thp_configured() && get_trans_hugepagesz() <= SZ_32M;
}

static void run(const struct kind *kind, u32 seconds, u32 seed)
{
	pthread_rwlockattr_t attr;
	pthread_t threads[NR_VCPUS];
	const char *reason;
	u64 start, vcpu, steps = 0, done = 0;
	bool good = true;
	int i;

	memset(&env, 0, sizeof(env));
	reason = mte_mem_alloc(&env.mem, huge_pages_fit() ? kind->huge : kind->type, 0,
			       MAX_PAGES * page_size);
	TEST_ASSERT(!reason, "No memory: %s", reason);
	kvm_rng = new_kvm_random_state(seed);

	env.gpa = MTE_TEST_GPA;
	env.pages_per_vcpu = min_t(u64, MAX_PAGES - 1, env.mem.size / page_size - 1) /
			     (NR_VCPUS + 1);
	env.bitmap = bitmap_zalloc(env.mem.size / page_size);
	env.tags = malloc(MTE_TAGS_SIZE(env.mem.size));
	env.vm = mte_vm_create(NR_VCPUS, 2 * env.mem.size, env.vcpus);
	/* The guest has both places mapped, one of which has the memslot. */
	virt_map(env.vm, env.gpa, env.gpa, env.mem.size / env.vm->page_size);
	virt_map(env.vm, env.gpa ^ MOVE_DISTANCE, env.gpa ^ MOVE_DISTANCE,
		 env.mem.size / env.vm->page_size);
	env.flags = partial ? KVM_MEM_LOG_DIRTY_PAGES : 0;
	vm_set_user_memory_region(env.vm, DATA_SLOT, env.flags, env.gpa,
				  env.mem.size, env.mem.hva);
	if (!partial)
		mte_vcpu_call(env.vcpus[0], guest_touch, env.gpa, env.mem.size, page_size, 0);
	mte_vcpu_call(env.vcpus[0], guest_init, env.gpa, env.pages_per_vcpu, page_size, seed);

	/* An action that wants the vCPUs to pause must not have to wait for ever. */
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&env.lock, &attr);
	for (vcpu = 0; vcpu < NR_VCPUS; vcpu++)
		TEST_ASSERT(!pthread_create(&threads[vcpu], NULL, run_vcpu, (void *)vcpu),
			    "No thread");

	for (i = 0; i < ARRAY_SIZE(actions); i++)
		actions[i].done = 0;
	start = now_ms();
	while (now_ms() - start < seconds * 1000UL && !READ_ONCE(env.bad[0]) &&
	       !READ_ONCE(env.bad[1])) {
		struct action *action = pick_action();

		action->done += action->run();
		/* Let there be something to disturb. */
		usleep(kvm_random_u32(&kvm_rng) % 2000);
	}

	WRITE_ONCE(env.stop, true);
	for (vcpu = 0; vcpu < NR_VCPUS; vcpu++)
		pthread_join(threads[vcpu], NULL);

	for (vcpu = 0; vcpu < NR_VCPUS; vcpu++) {
		steps += env.steps[vcpu];
		if (env.bad[vcpu])
			good = report(kind->name, vcpu);
	}
	if (good && !mte_vcpu_call(env.vcpus[0], guest_check, env.gpa, env.pages_per_vcpu,
				   page_size, 0))
		good = report(kind->name, 0);

	for (i = 0; i < ARRAY_SIZE(actions); i++) {
		done += actions[i].done;
		ksft_print_msg("%s: %s: %lu\n", kind->name, actions[i].name, actions[i].done);
	}
	ksft_test_result(good, "%s: %lu accesses, %lu actions, seed %u\n",
			 kind->name, steps, done, seed);

	kvm_vm_free(env.vm);
	mte_mem_free(&env.mem);
	free(env.bitmap);
	free(env.tags);
}

static void help(const char *name)
{
	int i;

	printf("usage: %s [-h] [-t seconds] [-s seed] [-a action] [-x action] [-p]\n"
	       " -t: how long to run for each kind of memory, default %d seconds\n"
	       " -s: seed for what is done at random\n"
	       " -a: do an action that isn't done by default\n"
	       " -x: don't do an action\n"
	       " -p: begin with huge pages that are in use in part\n"
	       "actions:", name, DEFAULT_SECONDS);
	for (i = 0; i < ARRAY_SIZE(actions); i++)
		printf(" %s%s", actions[i].name, actions[i].off ? " (off)" : "");
	puts("");
	exit(0);
}

static void set_action(const char *name, bool off)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(actions); i++) {
		if (!strcmp(actions[i].name, name)) {
			actions[i].off = off;
			return;
		}
	}
	TEST_FAIL("No such action: %s", name);
}

int main(int argc, char *argv[])
{
	u32 seconds = DEFAULT_SECONDS, seed;
	int opt, i;

	TEST_ASSERT(getrandom(&seed, sizeof(seed), GRND_INSECURE) == sizeof(seed), "No seed");
	seed &= INT_MAX;

	while ((opt = getopt(argc, argv, "ht:s:a:x:p")) != -1) {
		switch (opt) {
		case 't':
			seconds = atoi_positive("Time", optarg);
			break;
		case 's':
			seed = atoi_positive("Seed", optarg);
			break;
		case 'a':
			set_action(optarg, false);
			break;
		case 'x':
			set_action(optarg, true);
			break;
		case 'p':
			partial = true;
			break;
		default:
			help(argv[0]);
		}
	}

	ksft_print_header();
	mte_require();
	page_size = getpagesize();
	ksft_set_plan(ARRAY_SIZE(kinds));

	for (i = 0; i < ARRAY_SIZE(kinds); i++)
		run(&kinds[i], seconds, seed);

	ksft_finished();
}
