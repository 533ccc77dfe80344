// SPDX-License-Identifier: GPL-2.0-only
/*
 * memslot_lock_map - Check what locking a memslot maps at stage 2, that the guest takes
 * no fault on it, and which memory can't be locked.
 *
 * A memslot that is locked for writing is mapped by blocks where the VMM has mapped it
 * that way and alignment allows for it, and by pages otherwise. One that is locked for
 * reading is mapped by pages, each of which becomes writable by a fault of its own. It
 * must not matter whether the memory existed before, and whether the guest has used
 * it: with blocks, with pages, or with pages that were a block until dirty logging split
 * it. The faults that remain must not replace a leaf by a larger or smaller one. That
 * includes those of instruction fetches, which there are on a CPU without DIC.
 *
 * Each case counts the leaves of the stage-2 page-table and the faults that the guest
 * takes on the memslot. It also sees to it that VMM and guest agree on the data, and that
 * the page frames are those that were pinned.
 *
 * What can't be locked must leave nothing pinned, accounted or mapped, however much of
 * the memslot is good memory, and the memslot must be lockable once all of it is.
 *
 * A broken kernel leaves pages out, maps a block that dirty logging will have to break,
 * or lets the fault handler put pages together.
 */
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <linux/bitfield.h>
#include <linux/bitmap.h>
#include <linux/sizes.h>

#include <asm/sysreg.h>

#include "kvm_util.h"
#include "memslot_kinds.h"
#include "memslot_lock.h"
#include "mte.h"
#include "processor.h"
#include "test_util.h"

#define NR_PAGES	LOCK_NR_PAGES
#define NR_BLOCKS	LOCK_NR_BLOCKS

#define ANON		(&lock_kinds[LOCK_ANON])
#define THP		(&lock_kinds[LOCK_THP])
#define HUGETLB		(&lock_kinds[LOCK_HUGETLB])

static size_t page_size;
static size_t slot_size;
static cpu_set_t all_cpus;

static const u64 all_perms[] = { MEMSLOT_LOCK_R, MEMSLOT_LOCK_RW };

static u64 block_pages(void)
{
	return pmd_size() / page_size;
}

static void report(const char *name, const char *failure)
{
	ksft_test_result(!failure, "%s%s%s\n", name, failure ? ": " : "", failure ?: "");
}

/* How many blocks there must be: those that the VMM has, as far as stage 2 can have them. */
static u64 expected_blocks(const struct lock_vm *lvm, u64 perms)
{
	gpa_t gpa = align_up(lvm->gpa, pmd_size());
	u64 nr = 0;

	if (perms == MEMSLOT_LOCK_R || (lvm->gpa ^ (u64)lvm->hva) % pmd_size())
		return 0;

	for (; gpa + pmd_size() <= lvm->gpa + lvm->size; gpa += pmd_size())
		nr += is_huge_mapped(lvm->hva + (gpa - lvm->gpa), pmd_size());

	return nr;
}

/* The guest. */

#define INSN_RET	0xd65f03c0

/* Where neither lock_vm_check_reads() nor lock_vm_check_writes() look. */
#define INSN_OFFSET	64

static u64 guest_execute(u64 addr, u64 nr_pages, u64 stride, u64 unused)
{
	addr += INSN_OFFSET;
	for (; nr_pages; nr_pages--, addr += stride) {
		WRITE_ONCE(*(u32 *)addr, INSN_RET);
		asm volatile("dc cvau, %0\n\t"
			     "dsb ish\n\t"
			     "ic ivau, %0\n\t"
			     "dsb ish\n\t"
			     "isb" : : "r"(addr) : "memory");
		((void (*)(void))addr)();
	}

	return 0;
}

static u64 guest_has_dic(u64 unused0, u64 unused1, u64 unused2, u64 unused3)
{
	return FIELD_GET(CTR_EL0_DIC_MASK, read_sysreg(ctr_el0));
}

/* After all pages were written to. Without DIC, it takes a fault for each leaf. */
static const char *check_execution(const struct lock_vm *lvm, bool was_used, u64 nr_leaves)
{
	bool dic = mte_vcpu_call(lvm->vcpu, guest_has_dic, 0, 0, 0, 0);
	u64 max = dic ? 0 : nr_leaves, min = was_used ? 0 : max;
	u64 nr = guest_faults(lvm->faults);

	mte_vcpu_call(lvm->vcpu, guest_execute, lvm->gpa, lvm->nr_pages, page_size, 0);
	nr = guest_faults(lvm->faults) - nr;
	if (nr < min || nr > max)
		return lock_failed("executing all pages takes %lu faults, not %lu to %lu", nr, min,
				   max);

	return NULL;
}

/* From the moment that the memslot is locked until it is unlocked. */
static const char *check_use(const struct lock_vm *lvm, u64 perms, bool was_used, u64 nr_blocks)
{
	u64 nr_pages = lvm->nr_pages - nr_blocks * block_pages(), max, min;
	struct page_frames frames;
	const char *failure;

	failure = lock_vm_check_locked(lvm, nr_blocks, nr_pages);
	if (failure)
		return failure;

	failure = page_frames_get(&frames, lvm->hva, lvm->size);
	TEST_ASSERT(!failure, "%s", failure);

	/* The guest keeps permissions that it had before, if it is by the same leaf. */
	max = perms == MEMSLOT_LOCK_R ? lvm->nr_pages : 0;
	min = was_used ? 0 : max;
	lock_vm_fill(lvm);
	failure = lock_vm_check_reads(lvm, 0, 0) ?:
		  lock_vm_check_writes(lvm, min, max) ?:
		  lock_vm_check_writes(lvm, 0, 0) ?:
		  check_execution(lvm, was_used, nr_blocks + nr_pages) ?:
		  lock_vm_check_locked(lvm, nr_blocks, nr_pages);
	if (!failure && page_frames_count(&frames, lvm->hva, lvm->size) != lvm->nr_pages)
		failure = "the page frames have changed";
	page_frames_put(&frames);

	return failure;
}

static const char *check_lock(const struct lock_vm *lvm, u64 perms, bool was_used, u64 nr_blocks)
{
	const char *failure;

	memslot_lock(lvm->vm, LOCK_SLOT, perms);
	failure = check_use(lvm, perms, was_used, nr_blocks);
	memslot_unlock(lvm->vm, LOCK_SLOT);

	/* How many faults there are now is up to the kernel. */
	return failure ?: lock_vm_check_unlocked(lvm) ?:
	       lock_vm_check_reads(lvm, 0, lvm->nr_pages);
}

/*
 * A VM with a memslot of memory that there may be none of, and its end. These take a name
 * that is to be freed.
 */

static bool vm_start(struct lock_vm *lvm, const struct mte_mem *mem, char *name,
		     const char *reason)
{
	if (reason) {
		ksft_test_result_skip("%s: %s\n", name, reason);
		free(name);
		return false;
	}

	lock_vm_create(lvm, false, 0, MTE_TEST_GPA, mem->hva, mem->size);

	return true;
}

static void vm_end(struct lock_vm *lvm, struct mte_mem *mem, char *name, const char *failure)
{
	report(name, failure);
	lock_vm_free(lvm);
	mte_mem_free(mem);
	free(name);
}

/* Each kind of memory. */

enum before {
	FRESH,
	POPULATED,
	GUEST_WROTE,
	NR_BEFORE,
};

static const char *const before_names[] = {
	[FRESH]		= "fresh",
	[POPULATED]	= "populated",
	[GUEST_WROTE]	= "used by the guest",
};

static void run_kind(const struct lock_kind *kind, u64 perms, enum before before)
{
	char *name = strdup_printf("%s, %s, %s", kind->name, memslot_lock_name(perms),
				   before_names[before]);
	const char *failure;
	struct lock_vm lvm;
	struct mte_mem mem;
	u64 nr_blocks;

	if (!vm_start(&lvm, &mem, name, lock_mem_alloc(&mem, kind, NR_BLOCKS, before != FRESH)))
		return;

	if (before == GUEST_WROTE) {
		mte_vcpu_call(lvm.vcpu, mte_write_addrs, lvm.gpa, lvm.nr_pages, page_size, 0);
		failure = lock_vm_check_leaves(&lvm, kind->blocks ? NR_BLOCKS : 0,
					       kind->blocks ? 0 : lvm.nr_pages);
		TEST_ASSERT(!failure, "Before the lock: %s", failure);
	}

	memslot_lock(lvm.vm, LOCK_SLOT, perms);
	/* Whether fresh memory comes as a THP is up to the kernel. */
	nr_blocks = expected_blocks(&lvm, perms);
	failure = check_use(&lvm, perms, before == GUEST_WROTE, nr_blocks);
	memslot_unlock(lvm.vm, LOCK_SLOT);

	if (!failure && perms == MEMSLOT_LOCK_RW && nr_blocks != NR_BLOCKS && kind->blocks &&
	    (kind->hugetlb || before != FRESH))
		failure = "the VMM has lost its blocks";
	failure = failure ?: lock_vm_check_unlocked(&lvm) ?:
		  lock_vm_check_reads(&lvm, 0, lvm.nr_pages);
	vm_end(&lvm, &mem, name, failure);
}

/* Folios of hugetlb that stage 2 maps in pieces. */
static void run_hugetlb(size_t folio_size, u64 perms)
{
	char *name = strdup_printf("%zukB hugetlb, %s", folio_size / SZ_1K,
				   memslot_lock_name(perms));
	/* What is smaller than a block isn't mapped by one. */
	u64 nr = folio_size < pmd_size() ? 0 : folio_size / pmd_size();
	struct lock_vm lvm;
	struct mte_mem mem;

	if (vm_start(&lvm, &mem, name,
		     mte_mem_alloc(&mem, MTE_MEM_HUGETLB, folio_size, folio_size)))
		vm_end(&lvm, &mem, name,
		       check_lock(&lvm, perms, false, perms == MEMSLOT_LOCK_RW ? nr : 0));
}

/* What an entry of level 1 maps, which is a block with pages of 4K. */
static const char *check_1g(const struct lock_vm *lvm)
{
	const char *failure;

	memslot_lock(lvm->vm, LOCK_SLOT, MEMSLOT_LOCK_RW);
	lock_vm_fill(lvm);
	failure = lock_vm_check_locked(lvm, SZ_1G / pmd_size(), 0) ?:
		  lock_vm_check_reads(lvm, 0, 0) ?:
		  lock_vm_check_writes(lvm, 0, 0);
	if (!failure && !mte_stage2_shows(lvm->vm, lvm->gpa, "1G 1 "))
		failure = "isn't mapped by one block";
	memslot_unlock(lvm->vm, LOCK_SLOT);

	return failure ?: lock_vm_check_unlocked(lvm);
}

static void run_1g(void)
{
	char *name = strdup_printf("1G hugetlb, RW, one block");
	const char *reason = NULL;
	struct lock_vm lvm;
	struct mte_mem mem;

	if (page_size != SZ_4K)
		reason = "there is no such block";
	else if (sysconf(_SC_PHYS_PAGES) * page_size < 3UL * SZ_1G)
		reason = "a folio is too large for the memory of this machine";
	else
		reason = mte_mem_alloc(&mem, MTE_MEM_HUGETLB, SZ_1G, SZ_1G);

	if (vm_start(&lvm, &mem, name, reason))
		vm_end(&lvm, &mem, name, check_1g(&lvm));
}

/* A memslot that begins or ends within a block, and one that has another offset in it. */

#define NR_ALIGNMENT_BLOCKS	(NR_BLOCKS + 1)

static const struct alignment {
	const char *name;
	/* In pages: where it begins in a block, and what it leaves of the last one. */
	u64 gpa_offset;
	u64 hva_offset;
	u64 cut;
	u64 nr_blocks;
} alignments[] = {
	{ "begins within a block", 1, 1, 0, NR_ALIGNMENT_BLOCKS - 1 },
	{ "ends within a block", 0, 0, 1, NR_ALIGNMENT_BLOCKS - 1 },
	{ "begins and ends within a block", 3, 3, 2, NR_ALIGNMENT_BLOCKS - 2 },
	{ "not aligned in the VMM", 0, 1, 0, 0 },
	{ "not aligned in the guest", 1, 0, 0, 0 },
};

static void run_alignment(const struct alignment *test, const struct lock_kind *kind, bool used)
{
	char *name = strdup_printf("%s, %s, RW%s", kind->name, test->name,
				   used ? ", used by the guest" : "");
	const char *reason, *failure;
	struct lock_vm lvm;
	struct mte_mem mem;
	size_t size;

	reason = lock_mem_alloc(&mem, kind, NR_ALIGNMENT_BLOCKS, true);
	if (reason) {
		ksft_test_result_skip("%s: %s\n", name, reason);
		free(name);
		return;
	}

	size = mem.size - (test->hva_offset + test->cut) * page_size;
	lock_vm_create(&lvm, false, 0, MTE_TEST_GPA + test->gpa_offset * page_size,
		       mem.hva + test->hva_offset * page_size, size);
	if (used)
		mte_vcpu_call(lvm.vcpu, mte_write_addrs, lvm.gpa, lvm.nr_pages, page_size, 0);
	failure = check_lock(&lvm, MEMSLOT_LOCK_RW, used, test->nr_blocks);
	if (!failure && expected_blocks(&lvm, MEMSLOT_LOCK_RW) != test->nr_blocks)
		failure = "the VMM has lost its blocks";
	report(name, failure);

	lock_vm_free(&lvm);
	mte_mem_free(&mem);
	free(name);
}

/* Dirty logging. */

static void set_logging(const struct lock_vm *lvm, bool on)
{
	vm_set_user_memory_region(lvm->vm, LOCK_SLOT, on ? KVM_MEM_LOG_DIRTY_PAGES : 0,
				  lvm->gpa, lvm->size, lvm->hva);
}

/*
 * A VM that was to be migrated, and wasn't in the end. Some pages have replaced a block,
 * and others aren't mapped at all.
 */
static const char *check_cancelled(const struct lock_vm *lvm, u64 perms)
{
	const char *failure;

	mte_vcpu_call(lvm->vcpu, mte_write_addrs, lvm->gpa, lvm->nr_pages, page_size, 0);
	failure = check_lock(lvm, MEMSLOT_LOCK_RW, true, NR_BLOCKS);
	if (failure)
		return failure;

	set_logging(lvm, true);
	mte_vcpu_call(lvm->vcpu, mte_write_data, lvm->gpa + sizeof(u64), 2, 3 * page_size, 0);
	set_logging(lvm, false);

	return check_lock(lvm, perms, true, perms == MEMSLOT_LOCK_RW ? NR_BLOCKS : 0);
}

static void run_cancelled(u64 perms)
{
	char *name = strdup_printf("dirty logging cancelled before, %s", memslot_lock_name(perms));
	struct lock_vm lvm;
	struct mte_mem mem;

	if (vm_start(&lvm, &mem, name, lock_mem_alloc(&mem, THP, NR_BLOCKS, true)))
		vm_end(&lvm, &mem, name, check_cancelled(&lvm, perms));
}

static const struct log_mode {
	const char *name;
	enum dirty_log_mode mode;
	u64 manual;
} log_modes[] = {
	{ "bitmap", DIRTY_LOG_BITMAP },
	{ "bitmap, cleared manually", DIRTY_LOG_MANUAL, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE },
	{ "bitmap, all set at first", DIRTY_LOG_ALL_SET,
	  KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET },
	{ "ring", DIRTY_LOG_RING_ONLY },
};

/* Have the guest write to some pages, which takes a fault each, and is logged. */
static const char *check_logged(const struct lock_vm *lvm, struct dirty_log *log,
				unsigned long *bmap, u64 first, u64 nr, u64 distance)
{
	u64 faults = guest_faults(lvm->faults), i;

	mte_vcpu_call(lvm->vcpu, mte_write_data,
		      lvm->gpa + first * page_size + sizeof(u64), nr, distance * page_size, 0);
	faults = guest_faults(lvm->faults) - faults;
	if (faults != nr)
		return lock_failed("writing to %lu pages takes %lu faults", nr, faults);

	dirty_log_fetch(log);
	for (i = 0; i < lvm->nr_pages; i++) {
		bool written = i >= first && i < first + nr * distance &&
			       !((i - first) % distance);

		if (test_bit(i, bmap) != written)
			return lock_failed("page %lu is %slogged", i, written ? "not " : "");
	}

	return NULL;
}

static const char *check_logging(const struct lock_vm *lvm, struct dirty_log *log,
				 unsigned long *bmap)
{
	const char *failure;
	int i;

	memslot_lock(lvm->vm, LOCK_SLOT, MEMSLOT_LOCK_R);
	for (i = 0; i < 2; i++) {
		set_logging(lvm, true);
		failure = lock_vm_check_locked(lvm, 0, lvm->nr_pages);
		if (failure)
			return failure;

		/* Whatever is logged to begin with. */
		dirty_log_fetch(log);
		failure = lock_vm_check_reads(lvm, 0, 0) ?:
			  check_logged(lvm, log, bmap, 1, 2, 2) ?:
			  check_logged(lvm, log, bmap, 3, 1, 1) ?:
			  lock_vm_check_reads(lvm, 0, 0) ?:
			  lock_vm_check_locked(lvm, 0, lvm->nr_pages);
		if (failure)
			return failure;

		/* No page is writable at this point, and none is put together with others. */
		set_logging(lvm, false);
		failure = lock_vm_check_reads(lvm, 0, 0) ?:
			  lock_vm_check_writes(lvm, lvm->nr_pages, lvm->nr_pages) ?:
			  lock_vm_check_writes(lvm, 0, 0) ?:
			  lock_vm_check_locked(lvm, 0, lvm->nr_pages);
		if (failure)
			return failure;
	}

	set_logging(lvm, true);
	memslot_unlock(lvm->vm, LOCK_SLOT);
	set_logging(lvm, false);

	return lock_vm_check_unlocked(lvm);
}

static void run_logging(const struct lock_kind *kind, const struct log_mode *mode)
{
	char *name = strdup_printf("%s, R, dirty logging, %s", kind->name, mode->name);
	struct dirty_log log = { .mode = mode->mode };
	struct kvm_vcpu *vcpu;
	struct lock_vm lvm;
	const char *reason;
	struct mte_mem mem;

	reason = lock_mem_alloc(&mem, kind, 1, true);
	if (reason) {
		ksft_test_result_skip("%s: %s\n", name, reason);
		free(name);
		return;
	}

	log.vm = __vm_create(VM_SHAPE_DEFAULT, 1, mem.size / SZ_4K);
	if (mode->manual)
		vm_enable_cap(log.vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, mode->manual);
	if (mode->mode == DIRTY_LOG_RING_ONLY)
		vm_enable_dirty_ring(log.vm, SZ_64K * sizeof(struct kvm_dirty_gfn));
	mte_vm_add_vcpus(log.vm, 1, &vcpu);
	log.nr_vcpus = 1;
	log.vcpus = &vcpu;

	lock_vm_init(&lvm, log.vm, vcpu, 0, MTE_TEST_GPA, mem.hva, mem.size);
	virt_map(log.vm, MTE_TEST_GPA, MTE_TEST_GPA, mem.size / log.vm->page_size);
	lock_vm_fill(&lvm);
	report(name, check_logging(&lvm, &log, dirty_log_add_slot(&log, LOCK_SLOT, mem.size)));

	dirty_log_exit(&log);
	lock_vm_free(&lvm);
	mte_mem_free(&mem);
	free(name);
}

/* Locked and unlocked while the guest writes to the memory. */

#define NR_ROUNDS	100

/* Each page starts with the number of times that this was called. */
static u64 guest_count_up(u64 addr, u64 nr_pages, u64 stride, u64 nr)
{
	u64 wrong = 0;

	for (; nr_pages; nr_pages--, addr += stride) {
		wrong += READ_ONCE(*(u64 *)addr) != nr;
		WRITE_ONCE(*(u64 *)addr, nr + 1);
	}

	return wrong;
}

struct writer {
	const struct lock_vm *lvm;
	bool stop;
	u64 passes;
	u64 wrong;
};

static void *write_all_the_time(void *arg)
{
	struct writer *writer = arg;
	const struct lock_vm *lvm = writer->lvm;

	kvm_sched_setaffinity(0, sizeof(all_cpus), &all_cpus);
	while (!READ_ONCE(writer->stop)) {
		writer->wrong += mte_vcpu_call(lvm->vcpu, guest_count_up, lvm->gpa, lvm->nr_pages,
					       page_size, writer->passes);
		WRITE_ONCE(writer->passes, writer->passes + 1);
	}

	return NULL;
}

static const char *check_writer(const struct lock_vm *lvm, u64 nr_blocks)
{
	struct writer writer = { .lvm = lvm };
	const char *failure = NULL;
	pthread_t thread;
	u64 passes;
	int i;

	kvm_pthread_create(&thread, NULL, write_all_the_time, &writer);
	for (i = 0; i < NR_ROUNDS && !failure; i++) {
		u64 perms = all_perms[i % 2], nr = perms == MEMSLOT_LOCK_RW ? nr_blocks : 0;

		if (__memslot_lock(lvm->vm, LOCK_SLOT, perms))
			failure = lock_failed("can't be locked, errno %d", errno);
		else
			failure = lock_vm_check_leaves(lvm, nr,
						       lvm->nr_pages - nr * block_pages());

		/* Not all of the time. It may take longer than locking and unlocking. */
		passes = READ_ONCE(writer.passes);
		while (!(i % 10) && READ_ONCE(writer.passes) < passes + 2)
			usleep(1000);

		failure = failure ?:
			  lock_vm_check_leaves(lvm, nr, lvm->nr_pages - nr * block_pages());
		if (!failure && __memslot_unlock(lvm->vm, LOCK_SLOT))
			failure = lock_failed("can't be unlocked, errno %d", errno);
	}
	WRITE_ONCE(writer.stop, true);
	kvm_pthread_join(thread, NULL);

	failure = failure ?: lock_vm_check_unlocked(lvm);
	if (!failure && writer.wrong)
		failure = lock_failed("%lu writes were lost", writer.wrong);

	return failure;
}

static void run_writer(const struct lock_kind *kind)
{
	char *name = strdup_printf("%s, locked while the guest writes", kind->name);
	struct lock_vm lvm;
	struct mte_mem mem;

	if (vm_start(&lvm, &mem, name, lock_mem_alloc(&mem, kind, 1, true)))
		vm_end(&lvm, &mem, name, check_writer(&lvm, kind->blocks));
}

/* Memory that can't be locked. */

static void *map_good(void)
{
	return kvm_mmap(slot_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
}

/* It isn't locked, and nothing was mapped for a guest that hasn't run. */
static const char *check_untouched(const struct lock_vm *lvm)
{
	return lock_vm_check_unlocked(lvm) ?: lock_vm_check_leaves(lvm, 0, 0);
}

static const struct memslot_kind shared_file = { .map_flags = MAP_SHARED };

static const struct memslot_kind private_file = { .map_flags = MAP_PRIVATE };

static const struct memslot_kind pfnmap_nc = {
	.device = KVM_TEST_MEM_NC, .map_flags = MAP_SHARED,
};

static const struct memslot_kind pfnmap_cached = {
	.device = KVM_TEST_MEM_CACHED, .map_flags = MAP_SHARED,
};

static const struct memslot_kind mixedmap = {
	.device = KVM_TEST_MEM_CACHED, .flags = KVM_TEST_MEM_FAULT | KVM_TEST_MEM_MIXED,
	.map_flags = MAP_SHARED,
};

static const char *map_hole(const struct memslot_kind *unused, void *addr, size_t size)
{
	kvm_munmap(addr, size);

	return NULL;
}

static const char *map_none(const struct memslot_kind *unused, void *addr, size_t size)
{
	TEST_ASSERT(!mprotect(addr, size, PROT_NONE), "mprotect() failed, errno %d", errno);

	return NULL;
}

static const char *map_readable(const struct memslot_kind *unused, void *addr, size_t size)
{
	TEST_ASSERT(!mprotect(addr, size, PROT_READ), "mprotect() failed, errno %d", errno);

	return NULL;
}

static const char *map_secret(const struct memslot_kind *unused, void *addr, size_t size)
{
	int fd = syscall(__NR_memfd_secret, 0);

	if (fd < 0)
		return "no memfd_secret()";

	kvm_ftruncate(fd, size);
	TEST_ASSERT(mmap(addr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == addr,
		    "mmap() failed, errno %d", errno);
	kvm_close(fd);

	return NULL;
}

/* A part of the memslot, the rest of which is good memory. */
static const struct bad_memory {
	const char *name;
	const char *(*map)(const struct memslot_kind *kind, void *addr, size_t size);
	const struct memslot_kind *kind;
	int first;
	int nr;
	/* For reading, and for writing. 0 if it can be locked. */
	int err_r;
	int err_rw;
} bad_memory[] = {
	{ "hole at the start", map_hole, NULL, 0, 1, EFAULT, EFAULT },
	{ "hole", map_hole, NULL, NR_PAGES / 2, 1, EFAULT, EFAULT },
	{ "hole at the end", map_hole, NULL, NR_PAGES - 1, 1, EFAULT, EFAULT },
	{ "nothing but a hole", map_hole, NULL, 0, NR_PAGES, EFAULT, EFAULT },
	{ "PROT_NONE", map_none, NULL, NR_PAGES / 2, 1, EFAULT, EFAULT },
	{ "PROT_READ", map_readable, NULL, NR_PAGES / 2, 1, 0, EFAULT },
	{ "PFNMAP at the start", memslot_map_device, &pfnmap_nc, 0, 4, EINVAL, EINVAL },
	{ "PFNMAP at the end", memslot_map_device, &pfnmap_nc, NR_PAGES - 4, 4, EINVAL, EINVAL },
	{ "PFNMAP, cacheable, at the start", memslot_map_device, &pfnmap_cached, 0, 4,
	  EINVAL, EINVAL },
	{ "PFNMAP, cacheable, at the end", memslot_map_device, &pfnmap_cached, NR_PAGES - 4, 4,
	  EINVAL, EINVAL },
	{ "MIXEDMAP", memslot_map_device, &mixedmap, NR_PAGES - 4, 4, EINVAL, EINVAL },
	{ "memfd_secret()", map_secret, NULL, NR_PAGES / 2, 2, EFAULT, EFAULT },
	{ "shared file", memslot_map_file, &shared_file, NR_PAGES / 2, 2, 0, EFAULT },
	{ "private file", memslot_map_file, &private_file, NR_PAGES / 2, 2, 0, 0 },
};

static const char *check_bad_memory(struct lock_vm *lvm, const struct bad_memory *bad, u64 perms)
{
	int err = perms == MEMSLOT_LOCK_R ? bad->err_r : bad->err_rw, ret;
	const char *failure;

	/* That of memfd_secret() is locked memory. */
	lvm->base = lock_usage();

	ret = __memslot_lock(lvm->vm, LOCK_SLOT, perms);
	if (!err) {
		if (ret)
			return lock_failed("can't be locked, errno %d", errno);
		failure = lock_vm_check_locked(lvm, 0, NR_PAGES);
		memslot_unlock(lvm->vm, LOCK_SLOT);
		failure = failure ?: lock_vm_check_unlocked(lvm);
	} else {
		if (!failed_with(ret, err))
			return lock_failed("returns %d, errno %d", ret, errno);
		failure = check_untouched(lvm);
	}
	if (failure)
		return failure;

	memslot_map_anon(lvm->hva + bad->first * page_size, bad->nr * page_size);
	lvm->base = lock_usage();
	failure = lock_vm_check_lockable(lvm, perms, 0, NR_PAGES);
	if (failure)
		return failure;

	memslot_lock(lvm->vm, LOCK_SLOT, perms);
	lock_vm_fill(lvm);

	return lock_vm_check_reads(lvm, 0, 0);
}

static void run_bad_memory(const struct bad_memory *bad, u64 perms)
{
	char *name = strdup_printf("%s, %s", bad->name, memslot_lock_name(perms));
	void *hva = map_good();
	struct lock_vm lvm;
	const char *reason;

	lock_vm_create(&lvm, false, 0, MTE_TEST_GPA, hva, slot_size);
	reason = bad->map(bad->kind, hva + bad->first * page_size, bad->nr * page_size);
	if (reason)
		ksft_test_result_skip("%s: %s\n", name, reason);
	else
		report(name, check_bad_memory(&lvm, bad, perms));

	lock_vm_free(&lvm);
	munmap(hva, slot_size);
	free(name);
}

static const char *check_guest_memfd(struct lock_vm *lvm)
{
	u64 flags = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED;
	int fd = vm_create_guest_memfd(lvm->vm, slot_size, flags), i;
	const char *failure;
	void *hva;

	/* The memslot would be fine without the file. */
	failure = lock_vm_check_lockable(lvm, MEMSLOT_LOCK_RW, 0, NR_PAGES);
	vm_set_user_memory_region(lvm->vm, LOCK_SLOT, 0, lvm->gpa, 0, NULL);

	hva = kvm_mmap(slot_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	vm_set_user_memory_region2(lvm->vm, LOCK_SLOT, KVM_MEM_GUEST_MEMFD, lvm->gpa, slot_size,
				   hva, fd, 0);
	for (i = 0; i < ARRAY_SIZE(all_perms) && !failure; i++) {
		if (!failed_with(__memslot_lock(lvm->vm, LOCK_SLOT, all_perms[i]), EINVAL))
			failure = "is locked";
		else
			failure = check_untouched(lvm);
	}

	/* It can be used, and deleted. */
	if (!failure)
		mte_vcpu_call(lvm->vcpu, mte_write_addrs, lvm->gpa, NR_PAGES, page_size, 0);
	if (!failure && READ_ONCE(*(u64 *)hva) != lvm->gpa)
		failure = "data doesn't pass";
	vm_set_user_memory_region(lvm->vm, LOCK_SLOT, 0, lvm->gpa, 0, NULL);
	kvm_munmap(hva, slot_size);
	kvm_close(fd);

	return failure;
}

static void run_guest_memfd(void)
{
	void *hva = map_good();
	struct lock_vm lvm;

	lock_vm_create(&lvm, false, 0, MTE_TEST_GPA, hva, slot_size);
	if (!vm_check_cap(lvm.vm, KVM_CAP_GUEST_MEMFD))
		ksft_test_result_skip("guest_memfd: the kernel doesn't have it\n");
	else
		report("guest_memfd", check_guest_memfd(&lvm));
	lock_vm_free(&lvm);
	kvm_munmap(hva, slot_size);
}

int main(void)
{
	size_t sizes[HUGETLB_MAX_SIZES];
	int nr_sizes, nr_other = 0, i, j, k;

	ksft_print_header();
	memslot_lock_require();

	page_size = getpagesize();
	slot_size = NR_PAGES * page_size;
	nr_sizes = hugetlb_sizes(sizes);
	for (i = 0; i < nr_sizes; i++) {
		if (sizes[i] != pmd_size() && sizes[i] <= LOCK_MAX_BLOCK)
			sizes[nr_other++] = sizes[i];
	}

	ksft_set_plan((LOCK_NR_KINDS * NR_BEFORE + nr_other + ARRAY_SIZE(bad_memory) + 1) *
		      ARRAY_SIZE(all_perms) + 1 + 2 * ARRAY_SIZE(alignments) +
		      2 * ARRAY_SIZE(log_modes) + 3 + 1);

	/* On one CPU there is no TLB but its own that has what was mapped before. */
	kvm_sched_getaffinity(0, sizeof(all_cpus), &all_cpus);
	pin_self_to_any_cpu();
	memslot_init();

	for (i = 0; i < LOCK_NR_KINDS; i++) {
		for (j = 0; j < ARRAY_SIZE(all_perms); j++) {
			for (k = 0; k < NR_BEFORE; k++)
				run_kind(&lock_kinds[i], all_perms[j], k);
		}
	}
	for (i = 0; i < nr_other; i++) {
		for (j = 0; j < ARRAY_SIZE(all_perms); j++)
			run_hugetlb(sizes[i], all_perms[j]);
	}
	run_1g();

	for (i = 0; i < ARRAY_SIZE(alignments); i++) {
		run_alignment(&alignments[i], THP, true);
		run_alignment(&alignments[i], HUGETLB, false);
	}

	for (i = 0; i < ARRAY_SIZE(all_perms); i++)
		run_cancelled(all_perms[i]);
	for (i = 0; i < ARRAY_SIZE(log_modes); i++) {
		run_logging(ANON, &log_modes[i]);
		run_logging(THP, &log_modes[i]);
	}

	run_writer(ANON);
	run_writer(THP);
	run_writer(HUGETLB);

	for (i = 0; i < ARRAY_SIZE(bad_memory); i++) {
		for (j = 0; j < ARRAY_SIZE(all_perms); j++)
			run_bad_memory(&bad_memory[i], all_perms[j]);
	}
	run_guest_memfd();

	ksft_finished();
}
