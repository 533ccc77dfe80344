// SPDX-License-Identifier: GPL-2.0-only
/*
 * mte_live_migration - Migrate a running guest that uses memory tagging, tags
 * and all, and have it go on.
 *
 * The vCPUs of the source store data and tags at random, while the VMM copies
 * what the dirty log says, page by page, data and tags. After some rounds the
 * vCPUs are stopped wherever they happen to be, the last dirty pages and the
 * registers are copied, and the vCPUs of another VM, whose memory had been
 * empty, go on with the next instruction. It is all of the guest that moves,
 * including its code, stacks and page tables.
 *
 * The guest knows what the data and the tag of each granule should be, and has
 * synchronous tag checking on all of the time: a tag that was lost is an
 * exception. Before the destination runs, all its data and tags are compared
 * with the source.
 *
 * A page which only had tags stored to is dirty like any other. A kernel that
 * didn't log it, or that had the ioctl return other tags than the guest has
 * stored, would make the destination fail.
 *
 * Likewise, the migrations that are done wrong on purpose must fail: those that
 * don't copy tags at all, copy them at first and never again, and copy only
 * those of pages whose data have changed. Otherwise the guest wouldn't notice a
 * thing, and that it goes on would mean nothing.
 */
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>

#include <linux/bitmap.h>
#include <linux/sizes.h>

#include "kvm_util.h"
#include "mte.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#define NR_VCPUS	DIRTY_LOG_MAX_VCPUS
#define SYSTEM_SLOT	0
#define DATA_SLOT	1
#define UCALL_SLOT	2
#define NR_PAGES	64

/* Large folios are not used if they are larger, as it would take too long. */
#define MAX_FOLIO	SZ_2M

/*
 * Rounds of copying while the source runs, and how often each vCPU must have
 * written something before the next one. Few pages are written in a round, so
 * that there are some which only have their tags changed.
 */
#define NR_ROUNDS	5
#define BURSTS		6
#define BURST_OPS	8
#define BURSTS_PER_SEC	2000

/* What a vCPU says after a fault, along with ESR_EL1. */
#define FAULT		BIT_ULL(63)

/* Data abort, ISS.DFSC: synchronous tag check fault. */
#define DFSC_MASK	0x3f
#define DFSC_TAG_CHECK	0x11

/* Which tags are copied. */
enum which_tags {
	ALL_TAGS,
	NO_TAGS,
	EARLY_TAGS,
	TAGS_WITH_DATA,
};

struct testcase {
	const char *name;
	enum dirty_log_mode mode;
	enum mte_mem_type type;
	enum which_tags tags;
};

static const struct testcase testcases[] = {
	{ "bitmap, pages", DIRTY_LOG_BITMAP, MTE_MEM_ANON },
	{ "manual clear, THP", DIRTY_LOG_MANUAL, MTE_MEM_ANON_THP },
	{ "ring, memfd", DIRTY_LOG_RING, MTE_MEM_MEMFD },
	{ "no tags", DIRTY_LOG_BITMAP, MTE_MEM_ANON, NO_TAGS },
	{ "tags of the first round only", DIRTY_LOG_BITMAP, MTE_MEM_ANON, EARLY_TAGS },
	{ "tags of pages with other data only", DIRTY_LOG_BITMAP, MTE_MEM_ANON, TAGS_WITH_DATA },
};

static size_t page_size;

/*
 * The guest. The granules in use are spread over all pages, and belong to the
 * vCPUs in turn, so that they dirty the same pages without sharing anything.
 */

#define NR_GRANULES	SZ_16K

/* What the guest knows about a granule: little, as a VM doesn't have that many pages for code. */
static struct {
	u8 tag : 4;
	u8 version : 4;
} known[NR_GRANULES];

static bool stop;
static u64 nr_bursts[NR_VCPUS];

static void *granule_addr(u64 nr, u64 size)
{
	return (void *)MTE_TEST_GPA + nr * (size / NR_GRANULES);
}

static u64 *granule_ptr(u64 nr, u64 size)
{
	return mte_tagged_ptr(granule_addr(nr, size), known[nr].tag);
}

static u64 granule_data(u64 nr)
{
	return (nr << 8 | known[nr].version) * 0x9e3779b97f4a7c15UL;
}

static void check_granule(u64 nr, u64 size)
{
	GUEST_ASSERT_EQ(READ_ONCE(*granule_ptr(nr, size)), granule_data(nr));
}

static void store_granule_data(u64 nr, u64 size)
{
	known[nr].version++;
	WRITE_ONCE(*granule_ptr(nr, size), granule_data(nr));
}

static void store_granule_tag(u64 nr, u64 size, u8 tag)
{
	mte_store_tag(granule_addr(nr, size), tag);
	known[nr].tag = tag;
}

static u8 random_tag(struct kvm_random_state *rng)
{
	u8 tag = kvm_random_u32(rng) & MTE_TAG_MASK;

	return tag == MTE_POISON ? 0 : tag;
}

static u64 guest_init(u64 size, u64 seed, u64 c, u64 d)
{
	struct kvm_random_state rng = new_kvm_random_state(seed);
	u64 nr;

	for (nr = guest_get_vcpuid(); nr < NR_GRANULES; nr += NR_VCPUS) {
		store_granule_tag(nr, size, random_tag(&rng));
		store_granule_data(nr, size);
	}

	return 0;
}

static void guest_wait(void)
{
	u64 start = read_sysreg(cntvct_el0), freq = read_sysreg(cntfrq_el0);

	while (read_sysreg(cntvct_el0) - start < freq / BURSTS_PER_SEC)
		;
}

static u64 guest_work(u64 size, u64 seed, u64 nr_pages, u64 d)
{
	struct kvm_random_state rng = new_kvm_random_state(seed);
	u32 vcpu = guest_get_vcpuid(), per_page = NR_GRANULES / nr_pages, what;
	u64 nr, first;
	int i;

	while (!READ_ONCE(stop)) {
		/* Something on a single page: tags, or data, or both. */
		first = kvm_random_u32(&rng) % nr_pages * per_page;
		what = kvm_random_u32(&rng) % 3;

		for (i = 0; i < BURST_OPS; i++) {
			nr = first + kvm_random_u32(&rng) % per_page;
			nr = nr / NR_VCPUS * NR_VCPUS + vcpu;

			check_granule(nr, size);
			if (what != 0)
				store_granule_tag(nr, size, random_tag(&rng));
			if (what != 1)
				store_granule_data(nr, size);
		}

		WRITE_ONCE(nr_bursts[vcpu], nr_bursts[vcpu] + 1);
		guest_wait();
	}

	for (nr = vcpu; nr < NR_GRANULES; nr += NR_VCPUS)
		check_granule(nr, size);

	return 0;
}

static void guest_data_abort(struct ex_regs *regs)
{
	/* It is the end of this vCPU. */
	GUEST_SYNC(FAULT | read_sysreg(esr_el1));
}

/* The host. */

struct vcpu_thread {
	struct kvm_vcpu *vcpu;
	pthread_t thread;
	bool gone;
};

struct side {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpus[NR_VCPUS];
	struct vcpu_thread threads[NR_VCPUS];
	struct mte_mem mem;
	struct dirty_log log;
};

static void *run_vcpu(void *arg)
{
	struct vcpu_thread *thread = arg;
	u64 result = 0;
	int ret;

	/* Either it is stopped, or it has something to say. */
	ret = __vcpu_run(thread->vcpu);
	TEST_ASSERT(!ret || errno == EINTR, "KVM_RUN failed, errno %d", errno);
	if (!ret)
		result = mte_vcpu_result(thread->vcpu);
	WRITE_ONCE(thread->gone, true);

	return (void *)result;
}

static void start(struct side *side)
{
	int i;

	for (i = 0; i < NR_VCPUS; i++) {
		side->threads[i].vcpu = side->vcpus[i];
		side->threads[i].gone = false;
		pthread_create(&side->threads[i].thread, NULL, run_vcpu, &side->threads[i]);
	}
}

static u64 join(struct side *side)
{
	u64 result = 0;
	void *ret;
	int i;

	for (i = 0; i < NR_VCPUS; i++) {
		pthread_join(side->threads[i].thread, &ret);
		result = result ?: (u64)ret;
	}

	return result;
}

/* Make the vCPUs stop between any two instructions. */
static void kick(struct side *side)
{
	u64 result;
	int i;

	for (i = 0; i < NR_VCPUS; i++) {
		side->vcpus[i]->run->immediate_exit = 1;
		pthread_kill(side->threads[i].thread, SIGUSR1);
	}

	result = join(side);
	TEST_ASSERT(!result, "The source failed, 0x%lx", result);

	for (i = 0; i < NR_VCPUS; i++)
		side->vcpus[i]->run->immediate_exit = 0;
}

static void ignore_signal(int sig)
{
}

static u64 bursts_of(struct side *side, int i)
{
	return READ_ONCE(*(u64 *)addr_gva2hva(side->vm, (gva_t)&nr_bursts[i]));
}

/* Wait until each of the vCPUs has written something, or is gone. */
static void wait_for_bursts(struct side *side)
{
	u64 start;
	int i;

	for (i = 0; i < NR_VCPUS; i++) {
		start = bursts_of(side, i);
		while (bursts_of(side, i) - start < BURSTS && !READ_ONCE(side->threads[i].gone))
			usleep(500);
	}
}

static void set_logging(struct side *side, bool on)
{
	u32 flags = on ? KVM_MEM_LOG_DIRTY_PAGES : 0;

	vm_mem_region_set_flags(side->vm, SYSTEM_SLOT, flags);
	vm_set_user_memory_region(side->vm, DATA_SLOT, flags, MTE_TEST_GPA,
				  side->mem.size, side->mem.hva);
}

/*
 * Both VMs are created in the same way, so that the library, which isn't part
 * of what is migrated, knows as much about the one as about the other.
 */
static const char *init(struct side *side, const struct testcase *test)
{
	struct userspace_mem_region *region;
	const char *reason;

	reason = mte_mem_alloc(&side->mem, test->type, 0, NR_PAGES * page_size);
	if (reason)
		return reason;

	reason = mte_mem_populate(&side->mem);
	if (reason) {
		mte_mem_free(&side->mem);
		return reason;
	}

	side->vm = mte_vm_create_logging(&side->log, test->mode, NR_VCPUS,
					 side->mem.size, side->vcpus);
	mte_vm_add_slot(side->vm, DATA_SLOT, 0, MTE_TEST_GPA, side->mem.hva, side->mem.size);
	vm_install_sync_handler(side->vm, VECTOR_SYNC_CURRENT, ESR_ELx_EC_DABT_CUR,
				guest_data_abort);

	region = memslot2region(side->vm, SYSTEM_SLOT);
	dirty_log_add_slot(&side->log, SYSTEM_SLOT, region->region.memory_size);
	dirty_log_add_slot(&side->log, DATA_SLOT, side->mem.size);

	return NULL;
}

static void fini(struct side *side)
{
	dirty_log_exit(&side->log);
	kvm_vm_free(side->vm);
	mte_mem_free(&side->mem);
}

static gpa_t slot_gpa(struct side *side, u32 slot)
{
	return slot == DATA_SLOT ? MTE_TEST_GPA :
				   memslot2region(side->vm, slot)->region.guest_phys_addr;
}

static void *slot_hva(struct side *side, u32 slot)
{
	return slot == DATA_SLOT ? side->mem.hva : memslot2region(side->vm, slot)->host_mem;
}

static void copy_page(struct side *from, struct side *to, u32 slot, u64 page,
		      enum which_tags which, int round)
{
	void *src = slot_hva(from, slot) + page * page_size;
	void *dst = slot_hva(to, slot) + page * page_size;
	gpa_t gpa = slot_gpa(from, slot) + page * page_size;
	bool same = !memcmp(dst, src, page_size);
	u8 buf[MTE_TAGS_SIZE(SZ_64K)];

	memcpy(dst, src, page_size);

	if (which == NO_TAGS || (which == EARLY_TAGS && round) ||
	    (which == TAGS_WITH_DATA && round && same))
		return;

	mte_copy_tags_from_guest(from->vm, gpa, page_size, buf);
	mte_copy_tags_to_guest(to->vm, gpa, page_size, buf);
}

/* Copy all pages that are in the log, or all there are. Return how many. */
static u64 copy_pages(struct side *from, struct side *to, enum which_tags which, int round)
{
	u64 page, nr = 0;
	u32 i;

	if (round)
		dirty_log_fetch(&from->log);

	for (i = 0; i < from->log.nr_slots; i++) {
		for (page = 0; page < from->log.slots[i].nr_pages; page++) {
			if (round && !test_bit(page, from->log.slots[i].bmap))
				continue;

			copy_page(from, to, from->log.slots[i].slot, page, which, round);
			nr++;
		}
	}

	return nr;
}

static void copy_regs(struct side *from, struct side *to)
{
	struct kvm_reg_list *list;
	u64 buf[256 / sizeof(u64)];
	int i;
	u64 j;

	for (i = 0; i < NR_VCPUS; i++) {
		list = vcpu_get_reg_list(from->vcpus[i]);
		for (j = 0; j < list->n; j++) {
			struct kvm_one_reg reg = { .id = list->reg[j], .addr = (u64)buf };

			vcpu_ioctl(from->vcpus[i], KVM_GET_ONE_REG, &reg);
			TEST_ASSERT(!__vcpu_ioctl(to->vcpus[i], KVM_SET_ONE_REG, &reg),
				    "Can't set register 0x%llx, errno %d", list->reg[j], errno);
		}
		free(list);
	}
}

/*
 * The guest talks to the host by means of structures that have addresses of the
 * VMM in them. Have new ones, as a VMM would for a device. A VM has only the
 * pages that one set of them takes, and those its code leaves. So add some.
 */
static void replace_ucalls(struct side *side)
{
	struct kvm_vm *vm = side->vm;
	u64 nr_pages = ucall_nr_pages_required(vm->page_size);

	nr_pages = vm_adjust_num_guest_pages(vm->mode, nr_pages);
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, MTE_TEST_GPA + side->mem.size,
				    UCALL_SLOT, nr_pages, 0);
	vm->memslots[MEM_REGION_DATA] = UCALL_SLOT;
	ucall_init(vm, vm->ucall_mmio_addr);
}

/* Count the pages whose data, or whose tags, differ. */
static void compare(struct side *from, struct side *to, u64 *data, u64 *tags)
{
	u8 from_tags[MTE_TAGS_SIZE(SZ_64K)], to_tags[MTE_TAGS_SIZE(SZ_64K)];
	u64 page;
	u32 i;

	*data = 0;
	*tags = 0;

	for (i = 0; i < from->log.nr_slots; i++) {
		u32 slot = from->log.slots[i].slot;

		for (page = 0; page < from->log.slots[i].nr_pages; page++) {
			u64 offset = page * page_size;

			*data += !!memcmp(slot_hva(from, slot) + offset,
					  slot_hva(to, slot) + offset, page_size);

			mte_copy_tags_from_guest(from->vm, slot_gpa(from, slot) + offset,
						 page_size, from_tags);
			mte_copy_tags_from_guest(to->vm, slot_gpa(to, slot) + offset,
						 page_size, to_tags);
			*tags += !!memcmp(from_tags, to_tags, MTE_TAGS_SIZE(page_size));
		}
	}
}

static void run(const struct testcase *test, struct side *from, struct side *to)
{
	u64 nr_pages = from->mem.size / page_size, data, tags, result, nr[2] = {};
	const char *end = "goes on";
	int i, round;
	bool ok;

	for (i = 0; i < NR_VCPUS; i++) {
		mte_vcpu_set_tcf(from->vcpus[i], SCTLR_EL1_TCF_SYNC);
		mte_vcpu_call(from->vcpus[i], guest_init, from->mem.size, i, 0, 0);
		mte_vcpu_prepare(from->vcpus[i], guest_work, from->mem.size,
				 NR_VCPUS + i, nr_pages, 0);
	}

	/* All that is stored from here on is in the log. */
	set_logging(from, true);
	start(from);

	for (round = 0; round < NR_ROUNDS; round++) {
		nr[0] += copy_pages(from, to, test->tags, round);
		wait_for_bursts(from);
	}

	/* What is dirty now has to be moved with the guest stopped. */
	kick(from);
	nr[1] = copy_pages(from, to, test->tags, round);
	copy_regs(from, to);
	compare(from, to, &data, &tags);

	replace_ucalls(to);
	start(to);
	wait_for_bursts(to);
	WRITE_ONCE(*(bool *)addr_gva2hva(to->vm, (gva_t)&stop), true);
	result = join(to);

	if (result)
		end = (result & DFSC_MASK) == DFSC_TAG_CHECK ? "takes a tag check fault" :
							       "takes another fault";

	if (test->tags == ALL_TAGS)
		ok = !data && !tags && !result;
	else
		ok = !data && tags && result && (result & DFSC_MASK) == DFSC_TAG_CHECK;

	ksft_test_result(ok, "%s: %lu + %lu pages, %lu differ in data, %lu in tags, the guest %s\n",
			 test->name, nr[0], nr[1], data, tags, end);
}

static const char *reason_to_skip(const struct testcase *test)
{
	if (test->type == MTE_MEM_ANON_THP && page_size / sizeof(u64) * page_size > MAX_FOLIO)
		return "a THP is too large";

	return NULL;
}

static void run_or_skip(const struct testcase *test)
{
	struct side from = {}, to = {};
	const char *reason;

	reason = reason_to_skip(test) ?: init(&from, test);
	if (reason) {
		ksft_test_result_skip("%s: %s\n", test->name, reason);
		return;
	}

	reason = init(&to, test);
	if (reason) {
		ksft_test_result_skip("%s: %s\n", test->name, reason);
	} else {
		run(test, &from, &to);
		fini(&to);
	}
	fini(&from);
}

int main(void)
{
	struct sigaction sa = { .sa_handler = ignore_signal };
	int i;

	ksft_print_header();
	mte_require();
	ksft_set_plan(ARRAY_SIZE(testcases));

	page_size = getpagesize();
	sigaction(SIGUSR1, &sa, NULL);

	for (i = 0; i < ARRAY_SIZE(testcases); i++)
		run_or_skip(&testcases[i]);

	ksft_finished();
}
