// SPDX-License-Identifier: GPL-2.0-only
/*
 * memslot_lock_perf_test - Measure what it costs to lock memory, and what to fault it in.
 *
 * Each kind of memory is given to a guest that writes to all pages, which faults them in;
 * then, locked, to a guest that does the same and must take no fault at all. That is done
 * with memory that the VMM has populated and with memory that it hasn't, for which locking
 * includes what mlock() does: what it costs to fault that in is shown without mlock() and
 * after it. Populated memory is measured with more locked memslots, too, and as it grows.
 *
 * See perf_figure.h for what the figures are.
 */
#include <sys/mman.h>

#include <linux/sizes.h>

#include "kvm_util.h"
#include "memslot_lock.h"
#include "mte.h"
#include "perf_figure.h"
#include "processor.h"
#include "test_util.h"

#define DATA_SLOT	1
#define OTHER_SLOT	2

/*
 * What -c asserts: locking a populated page may take an eighth of a fault, and locking what
 * stage 2 maps by blocks a hundredth of it per 4K. That may grow by 10 % with size.
 */
#define PAGE_RATIO	8
#define BLOCK_RATIO	100
#define GROWTH_PERCENT	10

static const struct mem_kind {
	const char		*name;
	enum mte_mem_type	type;
	/* hugetlb only */
	size_t			folio_size;
	/* Only the smallest size. */
	bool			small;
} kinds[] = {
	{ "pages", MTE_MEM_ANON },
	{ "shmem", MTE_MEM_MEMFD, 0, true },
	{ "THP", MTE_MEM_ANON_THP },
	{ "hugetlb-2M", MTE_MEM_HUGETLB, SZ_2M },
	{ "hugetlb-1G", MTE_MEM_HUGETLB, SZ_1G },
};

struct figures {
	const char	*reason;
	/* Of the guest writing to all pages: at once, and where mlock() came before. */
	u64		write;
	u64		write_mlocked;
	u64		mlock;
	u64		lock;
	u64		unlock;
	u64		lock_others[PERF_NR_OTHER_SLOTS];
	/* Stage-2 faults though locked. */
	u64		faults;
};

/* Memory that isn't populated is measured at one size, and not if there are several. */
static struct figures populated[ARRAY_SIZE(kinds)][PERF_MAX_SIZES];
static struct figures fresh[ARRAY_SIZE(kinds)];
static size_t sizes[PERF_MAX_SIZES];
static int nr_sizes;
static bool check;

static bool has_size(const struct mem_kind *kind, int size)
{
	return !(kind->small && size) &&
	       !(kind->folio_size && sizes[size] % kind->folio_size);
}

static bool has_fresh(const struct mem_kind *kind)
{
	return nr_sizes == 1 && has_size(kind, 0);
}

static const char *get_mem(struct mte_mem *mem, const struct mem_kind *kind, size_t size,
			   bool populate)
{
	const char *reason = mte_mem_alloc(mem, kind->type, kind->folio_size, size);

	if (reason || !populate)
		return reason;

	reason = mte_mem_populate(mem);
	if (reason)
		mte_mem_free(mem);

	return reason;
}

static void set_slot(struct kvm_vm *vm, const struct mte_mem *mem, bool delete)
{
	vm_set_user_memory_region(vm, DATA_SLOT, 0, MTE_TEST_GPA, delete ? 0 : mem->size,
				  mem->hva);
}

static u64 write_all(struct kvm_vm *vm, struct kvm_vcpu *vcpu, const struct mte_mem *mem)
{
	u64 ns;

	set_slot(vm, mem, false);
	ns = perf_write_pages(vcpu, mem->size);
	set_slot(vm, mem, true);

	return ns;
}

static u64 timed_mlock(const struct mte_mem *mem)
{
	u64 start = perf_counter(), ns;

	TEST_ASSERT(!mlock(mem->hva, mem->size), "mlock() failed, errno %d", errno);
	ns = perf_ns_since(start);
	munlock(mem->hva, mem->size);

	return ns;
}

static u64 timed_lock(struct kvm_vm *vm)
{
	u64 start = perf_counter();

	memslot_lock(vm, DATA_SLOT, MEMSLOT_LOCK_RW);

	return perf_ns_since(start);
}

static u64 timed_unlock(struct kvm_vm *vm)
{
	u64 start = perf_counter();

	memslot_unlock(vm, DATA_SLOT);

	return perf_ns_since(start);
}

/* Not while anything is measured: counting them makes faults longer. */
static u64 count_faults(struct kvm_vcpu *vcpu, const struct mte_mem *mem)
{
	int fd = guest_faults_open_range(0, MTE_TEST_GPA, mem->size);
	u64 nr;

	TEST_ASSERT(fd >= 0, "Can't count faults any more, errno %d", errno);
	perf_write_pages(vcpu, mem->size);
	nr = guest_faults(fd);
	kvm_close(fd);

	return nr;
}

static void run_lock(struct kvm_vm *vm, struct kvm_vcpu *vcpu, const struct mte_mem *mem,
		     struct figures *f)
{
	set_slot(vm, mem, false);
	f->lock = min(f->lock, timed_lock(vm));
	f->faults += count_faults(vcpu, mem);
	f->unlock = min(f->unlock, timed_unlock(vm));
	set_slot(vm, mem, true);
}

static void run_lock_others(struct kvm_vm *vm, const struct mte_mem *mem, struct figures *f)
{
	int i, j;

	for (i = 0; i < PERF_NR_OTHER_SLOTS; i++) {
		perf_set_slots(vm, OTHER_SLOT, perf_other_slots[i], mem->hva, getpagesize());
		for (j = 0; j < perf_other_slots[i]; j++)
			memslot_lock(vm, OTHER_SLOT + j, MEMSLOT_LOCK_RW);
		set_slot(vm, mem, false);
		f->lock_others[i] = min(f->lock_others[i], timed_lock(vm));
		memslot_unlock(vm, DATA_SLOT);
		set_slot(vm, mem, true);
		for (j = 0; j < perf_other_slots[i]; j++)
			memslot_unlock(vm, OTHER_SLOT + j);
		perf_set_slots(vm, OTHER_SLOT, perf_other_slots[i], mem->hva, 0);
	}
}

static const char *run_populated(struct kvm_vm *vm, struct kvm_vcpu *vcpu,
				 const struct mem_kind *kind, size_t size, bool others,
				 struct figures *f)
{
	const char *reason;
	struct mte_mem mem;

	reason = get_mem(&mem, kind, size, true);
	if (reason)
		return reason;

	f->mlock = min(f->mlock, timed_mlock(&mem));
	f->write = min(f->write, write_all(vm, vcpu, &mem));
	run_lock(vm, vcpu, &mem, f);
	if (others)
		run_lock_others(vm, &mem, f);
	mte_mem_free(&mem);

	return NULL;
}

static const char *run_fresh(struct kvm_vm *vm, struct kvm_vcpu *vcpu,
			     const struct mem_kind *kind, size_t size, struct figures *f)
{
	const char *reason;
	struct mte_mem mem;
	int i;

	for (i = 0; i < 3; i++) {
		reason = get_mem(&mem, kind, size, false);
		if (reason)
			return reason;

		switch (i) {
		case 0:
			f->write = min(f->write, write_all(vm, vcpu, &mem));
			break;
		case 1:
			f->mlock = min(f->mlock, timed_mlock(&mem));
			f->write_mlocked = min(f->write_mlocked, write_all(vm, vcpu, &mem));
			break;
		case 2:
			run_lock(vm, vcpu, &mem, f);
			break;
		}
		mte_mem_free(&mem);
	}

	return NULL;
}

static void measure(const struct mem_kind *kind, size_t size, bool populate, bool others,
		    struct figures *f)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int i;

	memset(f, 0xff, sizeof(*f));
	f->reason = NULL;
	f->faults = 0;

	vm = __vm_create(VM_SHAPE_DEFAULT, 1, size / SZ_4K);
	mte_vm_add_vcpus(vm, 1, &vcpu);
	virt_map(vm, MTE_TEST_GPA, MTE_TEST_GPA, size / vm->page_size);

	for (i = 0; i < perf_rounds(size) && !f->reason; i++) {
		if (populate)
			f->reason = run_populated(vm, vcpu, kind, size, others, f);
		else
			f->reason = run_fresh(vm, vcpu, kind, size, f);
	}
	kvm_vm_free(vm);
}

/* Of populated memory, whose lock has nothing to allocate. */
static bool is_cheap(int kind, int size)
{
	const struct figures *f = &populated[kind][size], *smallest;
	bool blocks = kinds[kind].type == MTE_MEM_ANON_THP || kinds[kind].type == MTE_MEM_HUGETLB;
	u64 ratio = blocks ? BLOCK_RATIO : PAGE_RATIO;
	u64 scale, most;
	int i = 0;

	/* What a fault of a page costs: of the first kind, and of the smallest size. */
	scale = sizes[size] / sizes[0];
	if (f->lock * ratio > populated[0][0].write * scale)
		return false;

	while (!has_size(&kinds[kind], i))
		i++;
	smallest = &populated[kind][i];
	/* An instruction for each 4K may come on top, where a lock costs next to nothing. */
	scale = sizes[size] / sizes[i];
	most = smallest->lock * scale;
	most += most * GROWTH_PERCENT / 100 + sizes[size] / SZ_4K;

	return f->lock <= most;
}

static void report(int kind, int size, bool populate)
{
	const struct figures *f = populate ? &populated[kind][size] : &fresh[kind];
	u64 nr_pages = sizes[size] / SZ_4K;
	const char *why = "";
	char name[64];
	int i;

	snprintf(name, sizeof(name), "%s.%s.%zuM", kinds[kind].name,
		 populate ? "populated" : "fresh", sizes[size] / SZ_1M);
	if (f->reason) {
		ksft_test_result_skip("%s: %s\n", name, f->reason);
		return;
	}

	if (f->faults)
		why = ": faults though locked";
	else if (check && populate && !is_cheap(kind, size))
		why = ": locking costs more than it should";
	ksft_test_result(!*why, "%s%s\n", name, why);
	perf_figure("lock", name, f->lock, nr_pages);
	perf_figure("unlock", name, f->unlock, nr_pages);
	perf_figure("write", name, f->write, nr_pages);
	perf_figure("mlock", name, f->mlock, nr_pages);
	if (!populate)
		perf_figure("write-mlocked", name, f->write_mlocked, nr_pages);
	if (!populate || kind || size)
		return;
	for (i = 0; i < PERF_NR_OTHER_SLOTS; i++) {
		snprintf(name, sizeof(name), "%s.%d", kinds[kind].name, perf_other_slots[i]);
		perf_figure("lock-slots", name, f->lock_others[i], nr_pages);
	}
}

static void help(const char *name)
{
	printf("usage: %s [-h] [-c] [-s MB] [-m MB]\n", name);
	printf(" -c: fail if locking costs more than it should, for counters of instructions\n");
	printf(" -s: the smallest size of memory, default %dM\n", PERF_MIN_SIZE / SZ_1M);
	printf(" -m: measure populated memory of up to this size, and nothing else\n");
	exit(KSFT_SKIP);
}

int main(int argc, char *argv[])
{
	size_t smallest = PERF_MIN_SIZE, largest = 0;
	int nr_cases = 0, faults_fd, opt, i, j;

	while ((opt = getopt(argc, argv, "hcs:m:")) != -1) {
		switch (opt) {
		case 'c':
			check = true;
			break;
		case 's':
			smallest = (size_t)atoi_positive("size", optarg) * SZ_1M;
			break;
		case 'm':
			largest = (size_t)atoi_positive("size", optarg) * SZ_1M;
			break;
		default:
			help(argv[0]);
		}
	}

	ksft_print_header();
	TEST_REQUIRE(kvm_check_cap(KVM_CAP_ARM_LOCK_USER_MEMORY_REGION));
	faults_fd = guest_faults_open_range(0, MTE_TEST_GPA, PERF_MIN_SIZE);
	__TEST_REQUIRE(faults_fd >= 0, "needs tracefs and perf events to count faults");
	kvm_close(faults_fd);

	/* What is largest is hardest to get, and comes first. */
	nr_sizes = perf_sizes(sizes, smallest, largest);
	for (i = ARRAY_SIZE(kinds) - 1; i >= 0; i--) {
		for (j = nr_sizes - 1; j >= 0; j--) {
			if (!has_size(&kinds[i], j))
				continue;
			measure(&kinds[i], sizes[j], true, !i && !j, &populated[i][j]);
			nr_cases++;
		}
		if (has_fresh(&kinds[i])) {
			measure(&kinds[i], sizes[0], false, false, &fresh[i]);
			nr_cases++;
		}
	}

	ksft_set_plan(nr_cases);
	for (i = 0; i < ARRAY_SIZE(kinds); i++) {
		for (j = 0; j < nr_sizes; j++) {
			if (has_size(&kinds[i], j))
				report(i, j, true);
		}
		if (has_fresh(&kinds[i]))
			report(i, 0, false);
	}

	ksft_finished();
}
