// SPDX-License-Identifier: GPL-2.0-only
/*
 * memslot_fuzz - Make random calls that concern the memory of VMs, and check what they
 * return against a model.
 *
 * Each worker is a process with a VM. It locks and unlocks memslots, adds, changes, moves
 * and deletes them, enables MTE and memory without tags, copies tags, reads the dirty log,
 * runs and resets vCPUs, forks, replaces the VM by another one, and has all kinds of memory
 * mapped, protected, unmapped and advised on, with arguments that are valid or not. A
 * second vCPU may still run when the next call is made.
 *
 * As it is one thread that makes all of these calls, it is known what each of them must
 * return: the model is the memslots with their locks, and what is mapped where. A lock has
 * to fail where there is a reason, with its errno, and to succeed where there is none. The
 * guest must be able to access what it should. As much is accounted as the model says, and
 * nothing is left when the VM is gone. A broken kernel breaks one of these rules, leaves
 * pins or VMs behind, complains in its log, or hangs.
 *
 * Rounds differ in what the VMs have, and in what is scarce. In one of them allocations
 * fail, which is the one further reason for a call to fail, and must not have an effect.
 *
 * A call is made of random numbers of its own, which depend on the seed, the round, the
 * worker and the number of the call. So the same calls can be made again, by one worker
 * alone. At what point signals and vCPUs come in between can't be repeated.
 */
#include <ctype.h>
#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/time.h>
#include <sys/wait.h>

#include <linux/mman.h>
#include <linux/sizes.h>

#include <asm/hwcap.h>
#include <asm/mman.h>

#include "fail_alloc.h"
#include "fork_case.h"
#include "kvm_util.h"
#include "memslot_kinds.h"
#include "memslot_lock.h"
#include "mte.h"
#include "notag.h"
#include "processor.h"
#include "test_util.h"

/* Memory of the VMM that memslots are made of, at an address where mmap() puts nothing. */
#define WINDOW		((void *)(64UL * SZ_1G))
#define WINDOW_SIZE	SZ_16M
/* What is mapped at once at most. All page sizes have hugetlb folios of that size. */
#define CHUNK_SIZE	SZ_2M
#define NR_CHUNKS	(WINDOW_SIZE / CHUNK_SIZE)

/* Memslots, whose numbers are one more than the index, and where the guest has them. */
#define NR_SLOTS	6
#define NR_PLACES	4
#define PLACE_SIZE	SZ_4M
#define PLACES_END	(MTE_TEST_GPA + NR_PLACES * PLACE_SIZE)

#define NR_HUGETLB	8
#define LIMIT_PAGES	300
#define MAX_WORKERS	8
#define MAX_OPS		16
#define DEFAULT_CALLS	400
/* Nothing takes this long, even on the slowest machine. */
#define WATCHDOG_US	60000000

/* The first vCPU runs between other calls, the second one at the same time as others. */
enum { VCPU_INLINE, VCPU_THREAD, NR_VCPUS };

static struct {
	const char	*name;
	u32		seed;
	u32		nr_calls;
	u32		nr_workers;
	int		round;
	int		worker;
	bool		verbose;
} params = { .nr_workers = 3, .nr_calls = DEFAULT_CALLS, .round = -1, .worker = -1 };

static struct {
	size_t		page_size;
	u32		nr_pages;
	u32		chunk_pages;
	u32		limit_pages;
	bool		mte;
	u64		perm;
	const char	*no_faults;
} host;

/* What workers tell: the call that each is making, and how many were accepted or refused. */
static struct {
	u32	calls[MAX_WORKERS];
	u32	nr[MAX_OPS][2];
	u32	nr_locks;
	u32	nr_failures;
} *shared;

static const struct round {
	const char	*name;
	/* Whether VMs can have it, and whether the host must have it. */
	bool		mte;
	bool		needs_mte;
	bool		perm;
	/* What is scarce: memory, locked memory, memory of their own. */
	bool		failures;
	bool		limit;
	bool		shared;
} rounds[] = {
	{ "without MTE" },
	{ "with MTE", .mte = true, .needs_mte = true },
	{ "memory without tags", .mte = true, .perm = true },
	{ "failing allocations", .mte = true, .failures = true },
	{ "low RLIMIT_MEMLOCK", .mte = true, .limit = true },
	{ "shared memory", .mte = true, .shared = true },
};

enum kind { HOLE, ANON, MEMFD, HUGETLB, PRIVATE_FILE, SHARED_FILE };

struct page {
	u8	kind;
	u8	prot;
};

struct slot {
	u32	page;
	/* Zero if there is no such memslot. */
	u32	nr;
	u32	flags;
	gpa_t	gpa;
	/* MEMSLOT_LOCK_* or 0 */
	u64	lock;
};

/* What a reset of a vCPU takes away. */
static const u64 saved_regs[] = {
	ARM64_CORE_REG(regs.pc),
	ARM64_CORE_REG(sp_el1),
	KVM_ARM64_SYS_REG(SYS_CPACR_EL1),
	KVM_ARM64_SYS_REG(SYS_SCTLR_EL1),
	KVM_ARM64_SYS_REG(SYS_TCR_EL1),
	KVM_ARM64_SYS_REG(SYS_TTBR0_EL1),
	KVM_ARM64_SYS_REG(SYS_MAIR_EL1),
	KVM_ARM64_SYS_REG(SYS_VBAR_EL1),
	KVM_ARM64_SYS_REG(SYS_TPIDR_EL1),
};

/* What a worker knows. */
static struct {
	const struct round	*round;
	u32			id;
	u32			op;
	/* The call: what it is, which allocation of it fails, and when there is a signal. */
	struct kvm_random_state	random;
	char			text[96];
	u32			nth;
	u32			signal_us;
	bool			alloc_failed;
	u32			nr_signals;
	/* The model. */
	struct page		pages[WINDOW_SIZE / SZ_4K];
	struct slot		slots[NR_SLOTS];
	u64			nr_locked;
	bool			mte;
	u64			perm;
	/* The VM. */
	struct kvm_vm		*vm;
	bool			has_vcpus;
	struct kvm_vcpu		*vcpus[NR_VCPUS];
	u64			regs[ARRAY_SIZE(saved_regs)];
	bool			has_thread;
	bool			stop_thread;
	pthread_t		thread;
	int			memfd;
	int			file;
	void			*tags;
} w;

static void __printf(1, 2) __noreturn fail(const char *fmt, ...)
{
	u32 call = shared->calls[w.id];
	char why[96];
	va_list args;

	va_start(args, fmt);
	vsnprintf(why, sizeof(why), fmt, args);
	va_end(args);
	fork_case_fail("worker %u, call %u, %s: %s; again: -s %u -r %lu.%u -n %u", w.id, call,
		       w.text, why, params.seed, w.round - rounds, w.id, max(call, 1U));
	fflush(stdout);
	_exit(1);
}

static u32 pick(u32 nr)
{
	return kvm_random_u32(&w.random) / 16 % nr;
}

/* Have random numbers that depend on nothing but which call it is. */
static void seed_call(u64 call)
{
	u64 x = ((u64)params.seed << 32 | (w.round - rounds) << 16 | w.id) +
		call * 0x9e3779b97f4a7c15;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
	x = (x ^ x >> 27) * 0x94d049bb133111eb;
	x ^= x >> 31;
	w.random = new_kvm_random_state(1 + x % (INT_MAX - 1));
}

/* Say what is going to be done. */
static void __printf(1, 2) say(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(w.text, sizeof(w.text), fmt, args);
	va_end(args);
	if (!params.verbose)
		return;

	ksft_print_msg("%lu.%u call %u: %s\n", w.round - rounds, w.id, shared->calls[w.id], w.text);
	fflush(stdout);
}

static void set_timer(u32 us)
{
	struct itimerval timer = { .it_value = { us / 1000000, us % 1000000 } };

	setitimer(ITIMER_REAL, &timer, NULL);
}

static void handle_signal(int sig)
{
	WRITE_ONCE(w.nr_signals, w.nr_signals + 1);
}

static void call_begin(void)
{
	WRITE_ONCE(w.nr_signals, 0);
	set_timer(w.signal_us ?: WATCHDOG_US);
	if (w.nth)
		fail_alloc_nth(w.nth);
}

static void call_end(bool refused)
{
	int err = errno;

	__atomic_fetch_add(&shared->nr[w.op][refused], 1, __ATOMIC_RELAXED);
	w.alloc_failed = w.nth && fail_alloc_end();
	__atomic_fetch_add(&shared->nr_failures, w.alloc_failed, __ATOMIC_RELAXED);
	set_timer(0);
	if (READ_ONCE(w.nr_signals) && !w.signal_us)
		fail("takes more than %u s", WATCHDOG_US / 1000000);
	errno = err;
}

/* Make a call, and have what it returns or, if that is negative, -errno. */
#define CALL(call) ({				\
	int __ret;				\
						\
	call_begin();				\
	__ret = (call);				\
	call_end(__ret < 0);			\
	__ret < 0 ? -errno : __ret;		\
})

static void check_return(int ret, const int *expected, int nr)
{
	char list[64];
	size_t len = 0;
	int i;

	for (i = 0; i < nr; i++) {
		if (ret == expected[i])
			return;
		len += snprintf(list + len, sizeof(list) - len, " %d", expected[i]);
	}
	if (ret != -ENOMEM || !w.alloc_failed)
		fail("returns %d, expected%s", ret, list);
}

/* It must be one of these. */
#define CHECK(ret, ...) ({						\
	const int __expected[] = { __VA_ARGS__ };			\
									\
	check_return(ret, __expected, ARRAY_SIZE(__expected));		\
})

/*
 * Memory of the VMM.
 */

struct range {
	u32	page;
	u32	nr;
	void	*addr;
	size_t	size;
};

/* Never a part of a hugetlb folio: that would be refused, after half of it was done. */
static struct range pick_range(bool whole)
{
	u32 page = pick(NR_CHUNKS) * host.chunk_pages, nr = host.chunk_pages, offset;

	if (pick(2) && !whole && w.pages[page].kind != HUGETLB) {
		offset = pick(nr);
		page += offset;
		nr = min(1 + pick(16), nr - offset);
	}

	return (struct range) {
		page, nr, WINDOW + page * host.page_size, nr * host.page_size,
	};
}

static int pick_prot(void)
{
	u32 n = pick(16);

	if (n < 2)
		return n ? PROT_READ : PROT_NONE;

	return PROT_READ | PROT_WRITE;
}

static void map_range(const struct range *range, enum kind kind, int prot, u32 file_page)
{
	static const int flags[] = {
		[ANON] = MAP_PRIVATE | MAP_ANONYMOUS,
		[MEMFD] = MAP_SHARED,
		[HUGETLB] = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_HUGE_2MB,
		[PRIVATE_FILE] = MAP_PRIVATE,
		[SHARED_FILE] = MAP_SHARED,
	};
	int fd = -1;
	u32 i;

	if (kind == MEMFD)
		fd = w.memfd;
	else if (kind > HUGETLB)
		fd = w.file;

	/* There may be no folio, or no file, and then what was there before may be gone. */
	if (kind == HOLE || mmap(range->addr, range->size, prot, flags[kind] | MAP_FIXED, fd,
				 file_page * host.page_size) == MAP_FAILED) {
		TEST_ASSERT(kind != ANON && kind != MEMFD, "mmap() failed, errno %d", errno);
		kvm_munmap(range->addr, range->size);
		kind = HOLE;
		prot = PROT_NONE;
	}

	for (i = 0; i < range->nr; i++)
		w.pages[range->page + i] = (struct page) { .kind = kind, .prot = prot };
}

static void do_map(void)
{
	static const enum kind kinds[] = {
		ANON, ANON, ANON, ANON, ANON, ANON, MEMFD, MEMFD, MEMFD, HUGETLB, HUGETLB,
		PRIVATE_FILE, SHARED_FILE, HOLE,
	};
	enum kind kind = kinds[pick(ARRAY_SIZE(kinds))];
	struct range range = pick_range(kind == HUGETLB);
	u32 file_page = pick(4) ? range.page : pick(NR_CHUNKS) * host.chunk_pages;
	int prot = pick_prot();

	say("map pages %u+%u, kind %d, prot %d, offset %u", range.page, range.nr, kind, prot,
	    file_page);
	map_range(&range, kind, prot, file_page);
}

static void do_protect(void)
{
	struct range range = pick_range(false);
	bool tags = !pick(4) && host.mte;
	int prot = pick_prot();
	u32 i;

	say("protect pages %u+%u, prot %d, tags %d", range.page, range.nr, prot, tags);
	for (i = 0; i < range.nr; i++) {
		/* It would be refused after a part was done. */
		if (w.pages[range.page + i].kind == HOLE)
			return;
		tags &= w.pages[range.page + i].kind <= MEMFD;
	}

	TEST_ASSERT(!mprotect(range.addr, range.size, prot | (tags ? PROT_MTE : 0)),
		    "mprotect() failed, errno %d", errno);
	for (i = 0; i < range.nr; i++)
		w.pages[range.page + i].prot = prot;
}

/* Whether it succeeds or not, it has no effect on what other calls return. */
static void do_advise(void)
{
	static const int advices[] = {
		MADV_DONTNEED, MADV_DONTNEED, MADV_PAGEOUT, MADV_PAGEOUT, MADV_COLD, MADV_FREE,
		MADV_REMOVE, MADV_MERGEABLE, MADV_UNMERGEABLE, MADV_HUGEPAGE, MADV_HUGEPAGE,
		MADV_NOHUGEPAGE, MADV_COLLAPSE, MADV_POPULATE_READ, MADV_POPULATE_WRITE,
	};
	int advice = advices[pick(ARRAY_SIZE(advices))];
	struct range range = pick_range(false);

	say("advise on pages %u+%u: %d", range.page, range.nr, advice);
	CALL(madvise(range.addr, range.size, advice));
}

static bool can_have_tags(const struct page *page)
{
	return page->kind <= HUGETLB;
}

/* Whether the VM can have it in a memslot. */
static bool is_allowed(const struct page *page)
{
	return can_have_tags(page) || !w.mte || w.perm & KVM_ARM_MTE_PERM_PAGES;
}

/*
 * Memslots.
 */

static const struct slot *slot_at(gpa_t gpa)
{
	const struct slot *slot;

	for (slot = w.slots; slot < w.slots + NR_SLOTS; slot++) {
		if (gpa >= slot->gpa && gpa - slot->gpa < slot->nr * host.page_size)
			return slot;
	}

	return NULL;
}

static const struct page *page_at(const struct slot *slot, gpa_t gpa)
{
	return &w.pages[slot->page + (gpa - slot->gpa) / host.page_size];
}

/* As a rule one that there is, and that is locked or not. */
static struct slot *pick_slot(bool locked)
{
	u32 i = pick(NR_SLOTS), n = pick(6) ? NR_SLOTS : 0;

	for (; n && !(w.slots[i].nr && !w.slots[i].lock == !locked); n--)
		i = (i + 1) % NR_SLOTS;

	return &w.slots[i];
}

static struct slot random_slot(void)
{
	u32 place_pages = PLACE_SIZE / host.page_size, offset;
	struct slot slot = {};

	slot.page = pick(2) ? pick(NR_CHUNKS) * host.chunk_pages : pick(host.nr_pages);
	offset = pick(4) ? slot.page % host.chunk_pages : pick(host.chunk_pages);
	slot.gpa = MTE_TEST_GPA + pick(NR_PLACES) * PLACE_SIZE + offset * host.page_size;
	slot.nr = pick(2) ? host.chunk_pages : 1 + pick(place_pages);
	if (pick(3))
		slot.nr = 1 + pick(32);
	slot.nr = min(slot.nr, min(host.nr_pages - slot.page, place_pages - offset));
	slot.flags = (pick(6) ? 0 : KVM_MEM_LOG_DIRTY_PAGES) | (pick(8) ? 0 : KVM_MEM_READONLY);

	return slot;
}

static int set_result(const struct slot *old, const struct slot *new)
{
	bool move = new->gpa != old->gpa;
	const struct slot *slot;
	u32 i;

	if (!new->nr && old->nr)
		return old->lock ? -EBUSY : 0;
	if (!new->nr || (old->nr && (new->page != old->page || new->nr != old->nr ||
				     (new->flags ^ old->flags) & KVM_MEM_READONLY)))
		return -EINVAL;
	if (old->nr && !move && new->flags == old->flags)
		return 0;

	for (slot = w.slots; slot < w.slots + NR_SLOTS; slot++) {
		if (slot != old && slot->nr && (!old->nr || move) &&
		    new->gpa < slot->gpa + slot->nr * host.page_size &&
		    slot->gpa < new->gpa + new->nr * host.page_size)
			return -EEXIST;
	}

	/* Logging can change, unless pages are mapped such that they couldn't be logged. */
	if (old->lock && (move || old->lock != MEMSLOT_LOCK_R))
		return -EBUSY;

	for (i = 0; i < new->nr; i++) {
		if (!is_allowed(&w.pages[new->page + i]))
			return -EINVAL;
	}

	return 0;
}

static void do_set_slot(void)
{
	u32 i = pick(NR_SLOTS), how = pick(16), bad_flags = pick(32) ? 0 : BIT(5);
	struct slot *slot = &w.slots[i], new = random_slot();
	gpa_t gpa = new.gpa;
	int ret;

	if (slot->nr && how < 14)
		new = *slot;
	if (how < (slot->nr ? 4 : 1))
		new.nr = 0;
	else if (how < 7)
		new.flags ^= KVM_MEM_LOG_DIRTY_PAGES;
	else if (how < 12)
		new.gpa = gpa;

	say("set slot %u: pages %u+%u at 0x%lx, flags 0x%x", i + 1, new.page, new.nr, new.gpa,
	    new.flags | bad_flags);
	ret = CALL(__vm_set_user_memory_region(w.vm, i + 1, new.flags | bad_flags, new.gpa,
					       new.nr * host.page_size,
					       WINDOW + new.page * host.page_size));
	CHECK(ret, bad_flags ? -EINVAL : set_result(slot, &new));
	if (!ret)
		*slot = new.nr ? new : (struct slot) {};
}

/*
 * What locking a memslot returns. If it comes to pins, signals and others can come first,
 * and so can a page that may not exist.
 */
static int lock_result(const struct slot *slot, bool write, bool *pins, bool *may_fault)
{
	const struct page *page = &w.pages[slot->page];

	if (!slot->nr)
		return -EINVAL;
	if (slot->lock)
		return -EBUSY;
	if (write && slot->flags)
		return -EPERM;
	if (w.round->limit && w.nr_locked + slot->nr > host.limit_pages)
		return -ENOMEM;

	*pins = true;
	for (; page < &w.pages[slot->page + slot->nr]; page++) {
		if (!is_allowed(page))
			return -EINVAL;
		if (!(page->prot & (write ? PROT_WRITE : PROT_READ)) ||
		    (write && page->kind == SHARED_FILE))
			return -EFAULT;
		/* Others may have the last folio. */
		*may_fault |= page->kind == HUGETLB;
	}

	return 0;
}

static void do_lock(void)
{
	static const u64 bad_perms[] = { 0, KVM_ARM_LOCK_MEM_WRITE, 5, BIT(63) | 1, ~0UL };
	u32 flags = KVM_ARM_LOCK_USER_MEMORY_REGION_FLAGS_LOCK, bad = pick(48);
	struct slot *slot = pick_slot(false);
	u64 args[4] = { slot - w.slots + 1, pick(3) ? MEMSLOT_LOCK_RW : MEMSLOT_LOCK_R };
	bool pins = false, may_fault = false;
	int expected, ret;

	expected = lock_result(slot, args[1] == MEMSLOT_LOCK_RW, &pins, &may_fault);
	if (bad == 0)
		flags = pick(2) ? 0 : 3 + pick(1000);
	else if (bad == 1)
		args[1] = bad_perms[pick(ARRAY_SIZE(bad_perms))];
	else if (bad < 4)
		args[bad] = BIT_ULL(pick(64));
	else if (bad < 6)
		args[0] = bad == 4 ? NR_SLOTS + 1 + pick(100000) : args[0] | BIT_ULL(16 + pick(48));

	say("lock: flags %u, %lu %lu %lu %lu", flags, args[0], args[1], args[2], args[3]);
	ret = CALL(__memslot_lock_cap(w.vm, flags, args[0], args[1], args[2], args[3]));
	if (bad < 6)
		CHECK(ret, -EINVAL);
	else if (!pins)
		CHECK(ret, expected);
	else
		CHECK(ret, expected, -EAGAIN, may_fault ? -EFAULT : expected,
		      w.nr_signals ? -EINTR : expected);

	if (!ret) {
		slot->lock = args[1];
		w.nr_locked += slot->nr;
		__atomic_fetch_add(&shared->nr_locks, 1, __ATOMIC_RELAXED);
	} else if (!slot->lock) {
		say("unlock slot %ld, which could not be locked", slot - w.slots + 1);
		CHECK(CALL(__memslot_unlock(w.vm, slot - w.slots + 1)), -EINVAL);
	}
}

static void do_unlock(void)
{
	u32 flags = KVM_ARM_LOCK_USER_MEMORY_REGION_FLAGS_UNLOCK, bad = pick(32), i;
	struct slot *slot = pick_slot(true);
	u64 args[4] = { slot - w.slots + 1 };
	bool all = !pick(10);
	int expected, ret;

	expected = bad < 4 || (!all && !slot->lock) ? -EINVAL : 0;
	if (all) {
		args[0] = 0;
		args[1] = KVM_ARM_UNLOCK_MEM_ALL;
	}
	if (bad < 4)
		args[bad] |= BIT_ULL(16 + pick(48));

	say("unlock: flags %u, %lu %lu %lu %lu", flags, args[0], args[1], args[2], args[3]);
	ret = CALL(__memslot_lock_cap(w.vm, flags, args[0], args[1], args[2], args[3]));
	/* This is no reason for it to fail. */
	w.alloc_failed = false;
	CHECK(ret, expected);

	for (i = 0; i < NR_SLOTS && !ret; i++) {
		if (!w.slots[i].lock || !(all || args[0] == i + 1))
			continue;
		w.nr_locked -= w.slots[i].nr;
		w.slots[i].lock = 0;
	}
}

static void do_dirty_log(void)
{
	unsigned long bitmap[PLACE_SIZE / SZ_4K / BITS_PER_LONG];
	struct kvm_dirty_log log = { .slot = 1 + pick(NR_SLOTS), .dirty_bitmap = bitmap };
	bool good = w.slots[log.slot - 1].flags & KVM_MEM_LOG_DIRTY_PAGES;

	say("get the dirty log of slot %u", log.slot);
	CHECK(CALL(__vm_ioctl(w.vm, KVM_GET_DIRTY_LOG, &log)), good ? 0 : -ENOENT);
}

/*
 * Tags.
 */

static void do_enable_mte(void)
{
	struct kvm_enable_cap cap = { .cap = KVM_CAP_ARM_MTE };
	bool bad = !pick(8), good = !bad && host.mte && !w.has_vcpus && !w.nr_locked;
	int ret;

	if (good && !w.round->mte)
		return;
	if (bad)
		cap.flags = BIT(pick(32));

	say("enable MTE, flags 0x%x", cap.flags);
	ret = CALL(__vm_ioctl(w.vm, KVM_ENABLE_CAP, &cap));
	CHECK(ret, good ? 0 : -EINVAL);
	w.mte |= !ret;
}

static void do_enable_perm(void)
{
	u64 bits = pick(4) ? host.perm : BIT_ULL(pick(64)), bad = pick(32);
	struct kvm_enable_cap cap = { .cap = KVM_CAP_ARM_MTE_PERM, .args = { bits } };
	bool good = bad > 3 && bits && !(bits & ~host.perm) && w.mte && !w.has_vcpus;
	int ret;

	if (good && !w.round->perm)
		return;
	if (!bad)
		cap.flags = BIT(pick(32));
	else if (bad < 4)
		cap.args[bad] = BIT_ULL(pick(64));

	say("enable memory without tags: 0x%lx, %lu", bits, bad);
	ret = CALL(__vm_ioctl(w.vm, KVM_ENABLE_CAP, &cap));
	CHECK(ret, good ? 0 : -EINVAL);
	if (!ret)
		w.perm |= bits;
}

enum verdict { NO, MAYBE, YES };

/* Whether the tags of a page can be copied. */
static enum verdict can_copy(gpa_t gpa, bool write)
{
	const struct slot *slot = slot_at(gpa);
	const struct page *page;

	if (!slot || (write && slot->flags & KVM_MEM_READONLY))
		return NO;

	page = page_at(slot, gpa);
	if (!(page->prot & (write ? PROT_WRITE : PROT_READ)) || page->kind == SHARED_FILE)
		return NO;

	/* There may be no folio; and pages of a file that were written to are anonymous. */
	return page->kind == HUGETLB || page->kind == PRIVATE_FILE ? MAYBE : YES;
}

static void do_copy_tags(void)
{
	const struct slot *slot = pick_slot(pick(2));
	u64 nr = pick(4) ? 1 + pick(16) : pick(PLACE_SIZE / host.page_size + 1);
	/* What is left of the buffer. */
	u64 avail = pick(4) ? MTE_TAGS_SIZE(PLACE_SIZE) : pick(MTE_TAGS_SIZE(PLACE_SIZE));
	bool write = pick(2), in_window = !pick(8), logging = false;
	u32 bad = pick(40), offset = !pick(3) * pick(host.chunk_pages);
	struct kvm_arm_copy_mte_tags copy = {
		.guest_ipa	= (slot->nr ? slot->gpa : MTE_TEST_GPA) + offset * host.page_size,
		.length		= nr * host.page_size,
		.flags		= write ? KVM_ARM_TAGS_TO_GUEST : KVM_ARM_TAGS_FROM_GUEST,
		.addr		= w.tags + MTE_TAGS_SIZE(PLACE_SIZE) - avail,
	};
	u64 min = 0, max = 0;
	int ret;

	/* The memory that has the tags, or should get them, can be the buffer as well. */
	if (in_window)
		copy.addr = WINDOW + pick(WINDOW_SIZE);
	if (bad == 0)
		copy.guest_ipa += 1 + pick(host.page_size - 1);
	else if (bad == 1)
		copy.length |= pick(2) ? 1 + pick(host.page_size - 1) : BIT_ULL(31 + pick(33));
	else if (bad == 2)
		copy.flags |= BIT_ULL(1 + pick(63));
	else if (bad == 3)
		copy.reserved[pick(2)] = BIT_ULL(pick(64));

	say("copy tags %s 0x%llx, 0x%llx bytes, %p", write ? "to" : "from", copy.guest_ipa,
	    copy.length, copy.addr);
	for (slot = w.slots; slot < w.slots + NR_SLOTS; slot++)
		logging |= slot->flags & KVM_MEM_LOG_DIRTY_PAGES;
	ret = CALL(__vm_ioctl(w.vm, KVM_ARM_MTE_COPY_TAGS, &copy));
	if (bad < 4 || !w.mte || (write && logging)) {
		CHECK(ret, bad < 4 || !w.mte ? -EINVAL : -EBUSY);
		return;
	}

	/* How far it can have come, and how far it must have. */
	while (max < nr && can_copy(copy.guest_ipa + max * host.page_size, write) != NO &&
	       (in_window || MTE_TAGS_SIZE((max + 1) * host.page_size) <= avail))
		max++;
	while (min < max && can_copy(copy.guest_ipa + min * host.page_size, write) == YES &&
	       !in_window && !w.alloc_failed)
		min++;

	if (ret < 0 && !min && nr)
		CHECK(ret, -EFAULT);
	else if (ret < (s64)(min * host.page_size) || ret > (s64)(max * host.page_size) ||
		 (!ret && nr))
		fail("returns %d, expected %lu to %lu pages", ret, min, max);
}

/*
 * vCPUs.
 */

/* Always ends, if each access does. */
static u64 guest_access(u64 gpa, u64 nr_granules, u64 random, u64 tags)
{
	u64 *addr;
	int i;

	for (i = 0; i < 16; i++) {
		random ^= random << 13;
		random ^= random >> 7;
		random ^= random << 17;
		addr = (u64 *)(gpa + (random >> 8) % nr_granules * MTE_GRANULE_SIZE);
		if (tags && random & 2)
			random & 1 ? mte_store_tag(addr, random >> 2) : (void)mte_load_tag(addr);
		else if (random & 1)
			WRITE_ONCE(*addr, random);
		else
			READ_ONCE(*addr);
	}

	return 0;
}

/* Whether there is no reason to refuse an access, of whatever kind. */
static bool is_accessible(const struct slot *slot, gpa_t gpa)
{
	const struct page *page = page_at(slot, gpa);

	return page->prot == (PROT_READ | PROT_WRITE) && page->kind != HUGETLB &&
	       (can_have_tags(page) || !w.mte);
}

/*
 * Look at what KVM_RUN has returned. What it must have been is known only as long as
 * memslots don't change. Returns whether the guest has more to do.
 */
static bool check_run(struct kvm_vcpu *vcpu, int ret, bool is_known)
{
	struct kvm_run *run = vcpu->run;
	u32 reason = run->exit_reason;
	const struct slot *slot;
	struct ucall uc;

	if (ret == -EINTR)
		return false;
	if (ret != -EFAULT)
		CHECK(ret, 0);
	if (ret == -ENOMEM)
		return true;

	if (!ret && reason == KVM_EXIT_MMIO) {
		if (run->mmio.phys_addr == w.vm->ucall_mmio_addr) {
			if (get_ucall(vcpu, &uc) != UCALL_SYNC)
				fail("exception in the guest: %lu 0x%lx", uc.args[0], uc.args[1]);
			return false;
		}
		slot = slot_at(run->mmio.phys_addr);
		if (is_known && slot && !(run->mmio.is_write && slot->flags & KVM_MEM_READONLY))
			fail("MMIO at 0x%llx, where a memslot is", run->mmio.phys_addr);
		return true;
	}

	if (!ret && reason == KVM_EXIT_ARM_NISV) {
		slot = slot_at(run->arm_nisv.fault_ipa);
		if (is_known && slot && !(slot->flags & KVM_MEM_READONLY))
			fail("MMIO at 0x%llx, where a memslot is", run->arm_nisv.fault_ipa);
	} else if (ret && reason == KVM_EXIT_MEMORY_FAULT) {
		slot = slot_at(run->memory_fault.gpa);
		if (run->memory_fault.flags &&
		    (run->memory_fault.flags != KVM_MEMORY_EXIT_FLAG_TAGACCESS || !w.perm))
			fail("memory fault with flags 0x%llx", run->memory_fault.flags);
		if (is_known && !w.alloc_failed &&
		    (!slot || is_accessible(slot, run->memory_fault.gpa)))
			fail("no access to 0x%llx", run->memory_fault.gpa);
	} else {
		fail("returns %d, exit reason %u", ret, reason);
	}

	/* It would do the same again. */
	vcpu_skip_insn(vcpu);

	return true;
}

static struct kvm_vcpu *prepare_run(int id)
{
	const struct slot *slot = pick_slot(pick(2));
	gpa_t gpa = slot->nr ? slot->gpa : MTE_TEST_GPA;
	u64 size = slot->nr * host.page_size ?: PLACE_SIZE;
	int i;

	if (!w.has_vcpus) {
		mte_vm_add_vcpus(w.vm, NR_VCPUS, w.vcpus);
		virt_map(w.vm, MTE_TEST_GPA, MTE_TEST_GPA,
			 (PLACES_END - MTE_TEST_GPA) / w.vm->page_size);
		for (i = 0; i < ARRAY_SIZE(saved_regs); i++)
			w.regs[i] = vcpu_get_reg(w.vcpus[VCPU_INLINE], saved_regs[i]);
		w.has_vcpus = true;
		/* A VM is dead for good if there is no memory for its GIC, on the first run. */
		vcpu_run_complete_io(w.vcpus[VCPU_INLINE]);
	}

	mte_vcpu_prepare(w.vcpus[id], guest_access, gpa,
			 min(size, PLACES_END - gpa) / MTE_GRANULE_SIZE,
			 1 + kvm_random_u64(&w.random), w.mte);

	return w.vcpus[id];
}

static void do_run(void)
{
	struct kvm_vcpu *vcpu;

	say("run a vCPU");
	vcpu = prepare_run(VCPU_INLINE);
	while (check_run(vcpu, CALL(__vcpu_run(vcpu)), true))
		w.nth = 0;
}

static void *thread_fn(void *arg)
{
	struct kvm_vcpu *vcpu = arg;

	while (!READ_ONCE(w.stop_thread) && check_run(vcpu, __vcpu_run(vcpu) ? -errno : 0, false))
		;

	return NULL;
}

static void stop_thread(void)
{
	if (!w.has_thread)
		return;

	WRITE_ONCE(w.stop_thread, true);
	WRITE_ONCE(w.vcpus[VCPU_THREAD]->run->immediate_exit, 1);
	pthread_kill(w.thread, SIGUSR1);
	kvm_pthread_join(w.thread, NULL);
	w.vcpus[VCPU_THREAD]->run->immediate_exit = 0;
	w.stop_thread = false;
	w.has_thread = false;
}

static void do_run_thread(void)
{
	struct kvm_vcpu *vcpu;
	sigset_t set, old;

	say("run a vCPU at the same time");
	stop_thread();
	vcpu = prepare_run(VCPU_THREAD);

	/* The timer is for calls of this thread. */
	sigemptyset(&set);
	sigaddset(&set, SIGALRM);
	pthread_sigmask(SIG_BLOCK, &set, &old);
	kvm_pthread_create(&w.thread, NULL, thread_fn, vcpu);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	w.has_thread = true;
}

static void do_reset(void)
{
	struct kvm_vcpu *vcpu = w.vcpus[VCPU_INLINE];
	int i;

	if (!w.has_vcpus)
		return;

	say("reset a vCPU");
	CHECK(CALL(__vcpu_ioctl(vcpu, KVM_ARM_VCPU_INIT, &vcpu->init)), 0);
	for (i = 0; i < ARRAY_SIZE(saved_regs); i++)
		vcpu_set_reg(vcpu, saved_regs[i], w.regs[i]);
}

/*
 * VMs.
 */

static void check_accounting(void)
{
	u64 bytes = lock_usage().locked_vm, nr = w.vm ? vm_get_stat(w.vm, locked_pages) : 0;

	if (bytes != w.nr_locked * host.page_size || nr != w.nr_locked)
		fail("%lu bytes are accounted, %lu pages are locked, expected %lu", bytes, nr,
		     w.nr_locked);
}

static void destroy_vm(void)
{
	say("destroy the VM");
	stop_thread();
	kvm_vm_free(w.vm);
	w.vm = NULL;
	w.nr_locked = 0;
	check_accounting();
}

static void create_vm(void)
{
	w.vm = __vm_create(VM_SHAPE_DEFAULT, NR_VCPUS, NR_PLACES * PLACE_SIZE / SZ_4K);
	/* What accesses tags can't be told from other instructions otherwise. */
	vm_enable_cap(w.vm, KVM_CAP_ARM_NISV_TO_USER, 0);
	memset(w.slots, 0, sizeof(w.slots));
	w.has_vcpus = false;
	w.mte = false;
	w.perm = 0;
	/* If not now, there is a chance later on. */
	if (pick(4))
		do_enable_mte();
	if (pick(4))
		do_enable_perm();
}

static void do_replace_vm(void)
{
	destroy_vm();
	create_vm();
}

static int create_and_close(void)
{
	int vm_fd = ioctl(w.vm->kvm_fd, KVM_CREATE_VM, 0), vcpu_fd = -1, err;

	if (vm_fd >= 0)
		vcpu_fd = ioctl(vm_fd, KVM_CREATE_VCPU, 0);
	err = errno;
	close(vcpu_fd);
	close(vm_fd);
	errno = err;

	return min(vcpu_fd, 0);
}

static void do_create_vm(void)
{
	int ret;

	say("create another VM");
	ret = CALL(create_and_close());
	CHECK(ret, 0, w.nr_signals ? -EINTR : 0);
}

static void do_fork(void)
{
	u32 us = pick(2000);
	int status;
	pid_t pid;

	say("fork");
	pid = fork();
	/* Copies of hugetlb folios that are pinned are made at once, if there are any. */
	if (pid < 0)
		return;
	if (!pid) {
		usleep(us);
		_exit(!failed_with(__memslot_lock(w.vm, 1, MEMSLOT_LOCK_R), EIO));
	}
	TEST_ASSERT(waitpid(pid, &status, 0) == pid, "waitpid() failed, errno %d", errno);
	if (status)
		fail("the child could lock, or has died: status 0x%x", status);
}

/*
 * Workers.
 */

static const struct op {
	const char	*doing;
	void		(*run)(void);
	u32		weight;
} ops[] = {
	{ "sets a memslot", do_set_slot, 24 },
	{ "locks a memslot", do_lock, 24 },
	{ "unlocks memslots", do_unlock, 10 },
	{ "gets the dirty log", do_dirty_log, 3 },
	{ "enables MTE", do_enable_mte, 2 },
	{ "enables memory without tags", do_enable_perm, 2 },
	{ "copies tags", do_copy_tags, 12 },
	{ "runs a vCPU", do_run, 10 },
	{ "runs a vCPU at the same time", do_run_thread, 6 },
	{ "resets a vCPU", do_reset, 2 },
	{ "maps memory", do_map, 10 },
	{ "protects memory", do_protect, 4 },
	{ "advises on memory", do_advise, 12 },
	{ "forks", do_fork, 2 },
	{ "replaces the VM", do_replace_vm, 1 },
	{ "creates a VM", do_create_vm, 1 },
};

kvm_static_assert(ARRAY_SIZE(ops) <= MAX_OPS);

static void make_call(void)
{
	u32 total = 0, n;
	int i;

	for (i = 0; i < ARRAY_SIZE(ops); i++)
		total += ops[i].weight;
	n = pick(total);
	for (i = 0; n >= ops[i].weight; i++)
		n -= ops[i].weight;

	/* The first few allocations are those of KVM, as a rule. */
	w.nth = w.round->failures && pick(2) ? 1 + pick(pick(4) ? 8 : 100) : 0;
	w.signal_us = pick(16) ? 0 : 1 + pick(4000);
	w.op = i;
	fork_case_doing(w.id, ops[i].doing);
	ops[i].run();
}

static void __noreturn run_worker(void)
{
	static const enum kind kinds[NR_CHUNKS] = { ANON, MEMFD, ANON, HUGETLB, PRIVATE_FILE };
	struct range range = { 0, host.chunk_pages, WINDOW, CHUNK_SIZE };
	struct sigaction action = { .sa_handler = handle_signal, .sa_flags = SA_ONSTACK };
	stack_t stack = { .ss_size = getauxval(AT_MINSIGSTKSZ) + SZ_64K };
	u32 call;
	int i;

	/* Nobody would wait for it. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* A frame that there is no memory for would be a SIGSEGV. fork() leaves it as it is. */
	stack.ss_sp = kvm_mmap(stack.ss_size, PROT_READ | PROT_WRITE,
			       MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1);
	TEST_ASSERT(!sigaltstack(&stack, NULL), "sigaltstack() failed, errno %d", errno);
	sigaction(SIGALRM, &action, NULL);
	sigaction(SIGUSR1, &action, NULL);
	TEST_ASSERT(!w.round->failures || fail_alloc_open(), "No fail-nth, errno %d", errno);
	if (w.round->limit) {
		lock_set_cap(false);
		lock_set_limit(host.limit_pages * host.page_size);
	}

	if (!w.round->shared)
		w.memfd = kvm_memfd_alloc(WINDOW_SIZE, false);
	w.file = memslot_ramfs_file();
	if (w.file >= 0)
		kvm_ftruncate(w.file, WINDOW_SIZE);
	/* With nothing behind it. */
	w.tags = kvm_mmap(MTE_TAGS_SIZE(PLACE_SIZE) + host.page_size, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1);
	TEST_ASSERT(!mprotect(w.tags + MTE_TAGS_SIZE(PLACE_SIZE), host.page_size, PROT_NONE),
		    "mprotect() failed, errno %d", errno);
	TEST_ASSERT(mmap(WINDOW, WINDOW_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS |
			 MAP_FIXED_NOREPLACE, -1, 0) == WINDOW, "mmap() failed, errno %d", errno);
	for (i = 0; i < NR_CHUNKS; i++) {
		map_range(&range, kinds[i] ?: ANON, PROT_READ | PROT_WRITE, range.page);
		range.page += range.nr;
		range.addr += range.size;
	}

	for (call = 0; call <= params.nr_calls && !fork_case_failed(); call++) {
		WRITE_ONCE(shared->calls[w.id], call);
		seed_call(call);
		if (call)
			make_call();
		else
			create_vm();
		if (!(call % 32))
			check_accounting();
	}
	destroy_vm();
	fork_case_doing(w.id, NULL);
	fflush(stdout);
	_exit(0);
}

/* VMs of workers, which have exited, as far as the kernel shows VMs. */
static bool has_vms(const pid_t *pids)
{
	DIR *dir = opendir("/sys/kernel/debug/kvm");
	struct dirent *entry;
	bool found = false;
	int i;

	while (dir && (entry = readdir(dir))) {
		for (i = 0; i < params.nr_workers; i++)
			found |= pids[i] && atoi(entry->d_name) == pids[i];
	}
	if (dir)
		closedir(dir);

	return found;
}

static void run_round(const void *arg)
{
	pid_t pids[MAX_WORKERS] = {};
	int status, ms, i;

	w.round = arg;
	if (w.round->shared)
		w.memfd = kvm_memfd_alloc(WINDOW_SIZE, false);

	fflush(stdout);
	for (i = 0; i < params.nr_workers; i++) {
		if (params.worker >= 0 && params.worker != i)
			continue;
		w.id = i;
		pids[i] = fork();
		TEST_ASSERT(pids[i] >= 0, "fork() failed, errno %d", errno);
		if (!pids[i])
			run_worker();
	}

	for (i = 0; i < params.nr_workers; i++) {
		if (pids[i] && waitpid(pids[i], &status, 0) == pids[i] && status)
			fork_case_fail("worker %d, call %u: has died, status 0x%x", i,
				       shared->calls[i], status);
	}

	for (ms = 0; ms < 5000 && has_vms(pids); ms += 10)
		usleep(10000);
	fork_case_expect(!has_vms(pids), "a VM is left");
	/* Some of what should have failed must have done so, if there was much of it. */
	fork_case_expect(!w.round->failures || shared->nr_failures || params.nr_calls < 100,
			 "no allocation has failed");
	fork_case_expect(shared->nr_locks || params.worker >= 0 || params.nr_calls < 100,
			 "no memslot could be locked");
}

static struct fork_case_result try_round(const struct round *round)
{
	struct fork_case_result result = { .verdict = FORK_CASE_SKIPPED };
	const char *missing = NULL;
	int i;

	if (round->needs_mte && !host.mte)
		missing = "KVM doesn't offer MTE";
	else if (round->perm && !host.perm)
		missing = "KVM doesn't offer memory without tags";
	else if (round->failures)
		missing = host.no_faults;
	if (missing) {
		snprintf(result.message, sizeof(result.message), "%s", missing);
		return result;
	}

	memset(shared, 0, sizeof(*shared));
	result = fork_case_run(run_round, round, 120 + params.nr_calls);
	ksft_print_msg("%s: allocations that failed: %u\n", round->name, shared->nr_failures);
	for (i = 0; i < ARRAY_SIZE(ops); i++)
		ksft_print_msg("%s: %s: %u, refused: %u\n", round->name, ops[i].doing,
			       shared->nr[i][0], shared->nr[i][1]);
	/* What a worker was doing when something other than its call was found to be wrong. */
	for (i = 0; i < params.nr_workers && result.verdict == FORK_CASE_FAILED; i++)
		ksft_print_msg("worker %d made call %u: %s -s %u -r %ld.%d -n %u -v\n", i,
			       shared->calls[i], params.name, params.seed, round - rounds, i,
			       shared->calls[i]);

	return result;
}

static void __noreturn help(void)
{
	int i;

	printf("usage: %s [-h] [-s seed] [-n calls] [-w workers] [-r round[.worker]] [-v]\n"
	       " -s: seed, at random by default\n"
	       " -n: how many calls a worker makes in a round, default %d; 0 to go on with the\n"
	       "     next seed until something is found\n"
	       " -w: how many workers there are, default %u, up to %d\n"
	       " -v: print each call before it is made\n"
	       " -r: one round, or one worker of it:\n", params.name, DEFAULT_CALLS,
	       params.nr_workers, MAX_WORKERS);
	for (i = 0; i < ARRAY_SIZE(rounds); i++)
		printf("     %d: %s\n", i, rounds[i].name);
	exit(KSFT_FAIL);
}

/* A number up to @max, and what follows it. */
static u32 parse(char **text, u64 max)
{
	u64 number = strtoul(*text, text, 10);

	if (!isdigit((*text)[-1]) || number > max)
		help();

	return number;
}

static void parse_options(int argc, char *argv[])
{
	int opt;

	params.name = argv[0];
	while ((opt = getopt(argc, argv, "hs:n:w:r:v")) != -1) {
		switch (opt) {
		case 's':
			params.seed = parse(&optarg, UINT_MAX);
			break;
		case 'n':
			params.nr_calls = parse(&optarg, INT_MAX / 2);
			break;
		case 'w':
			params.nr_workers = parse(&optarg, MAX_WORKERS);
			break;
		case 'r':
			params.round = parse(&optarg, ARRAY_SIZE(rounds) - 1);
			if (*optarg++ == '.')
				params.worker = parse(&optarg, MAX_WORKERS - 1);
			else
				optarg--;
			break;
		case 'v':
			params.verbose = true;
			break;
		default:
			help();
		}
		if (optarg && *optarg)
			help();
	}
	if (optind != argc || !params.nr_workers)
		help();
	params.nr_workers = max_t(int, params.nr_workers, params.worker + 1);
}

int main(int argc, char *argv[])
{
	struct fork_case_result result;
	bool forever, failed = false;
	char *name;
	int i;

	TEST_ASSERT(getrandom(&params.seed, sizeof(params.seed), GRND_INSECURE) ==
		    sizeof(params.seed), "No seed");
	parse_options(argc, argv);
	forever = !params.nr_calls;
	params.nr_calls = params.nr_calls ?: DEFAULT_CALLS;

	ksft_print_header();
	__TEST_REQUIRE(kvm_check_cap(KVM_CAP_ARM_LOCK_USER_MEMORY_REGION),
		       "memslots can't be locked, as in protected mode");
	__TEST_REQUIRE(!geteuid(), "what isn't root's can't lock as much as it likes");
	host.page_size = getpagesize();
	host.nr_pages = WINDOW_SIZE / host.page_size;
	host.chunk_pages = CHUNK_SIZE / host.page_size;
	/* Less than all memslots can have. */
	host.limit_pages = NR_PLACES * PLACE_SIZE / host.page_size / 4;
	host.limit_pages = min_t(u32, LIMIT_PAGES, host.limit_pages);
	host.mte = getauxval(AT_HWCAP2) & HWCAP2_MTE && kvm_check_cap(KVM_CAP_ARM_MTE);
	host.perm = kvm_check_cap(KVM_CAP_ARM_MTE_PERM) & NOTAG_BITS;
	shared = kvm_mmap(sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
	/* Without them there are no such mappings. It has to come before the next one. */
	hugetlb_reserve(CHUNK_SIZE, NR_HUGETLB);
	host.no_faults = "the kernel has no fault injection";
	if (fail_alloc_open()) {
		fail_alloc_close();
		host.no_faults = fail_alloc_enable();
	}

	if (!forever)
		ksft_set_plan(1 + (params.round < 0 ? ARRAY_SIZE(rounds) : 1));
	fork_case_report_log();
	do {
		for (i = 0; i < ARRAY_SIZE(rounds) && !(forever && failed); i++) {
			if (params.round >= 0 && params.round != i)
				continue;
			name = strdup_printf("%s, seed %u", rounds[i].name, params.seed);
			result = try_round(&rounds[i]);
			failed |= result.verdict == FORK_CASE_FAILED;
			if (!forever || failed)
				fork_case_report(name, result);
			else
				ksft_print_msg("%s: %s\n", name,
					       result.verdict == FORK_CASE_SKIPPED ?
					       result.message : "nothing found");
			free(name);
		}
		params.seed++;
	} while (forever && !failed);

	ksft_finished();
}
