// SPDX-License-Identifier: GPL-2.0-only
/*
 * memslot_lock_perf_test - Measure what it costs to lock memory, and what to fault it in.
 *
 * Each kind of memory is given to a guest that writes to all pages, which faults them in;
 * then, locked, to a guest that does the same and must take no fault at all. That is done
 * with memory that the VMM has populated and with memory that it hasn't, for which locking
 * includes what mlock() does: both the sum of mlock() and of faults, and locking, are shown.
 *
 * All figures are nanoseconds of the virtual counter per 4K, the smallest of several rounds.
 * On an emulator that derives the counter from the number of instructions that were executed,
 * as QEMU does with "-icount shift=0" (a nanosecond each), they are counts of instructions
 * and can be compared between machines and kernels.
 */
#include <sys/mman.h>

#include <linux/sizes.h>

#include "kvm_util.h"
#include "memslot_lock.h"
#include "mte.h"
#include "processor.h"
#include "test_util.h"

#define DATA_SLOT	1
#define NR_ROUNDS	3
#define MIN_SIZE	SZ_64M

/*
 * What -c asserts: to lock a populated page may take an eighth of a fault, and to lock what
 * stage 2 maps by blocks a hundredth of it per 4K. 10 % is what cost may grow with size.
 */
#define PAGE_RATIO	8
#define BLOCK_RATIO	100
#define GROWTH_PERCENT	10

static const struct mem_kind {
	const char		*name;
	enum mte_mem_type	type;
	/* hugetlb only */
	size_t			folio_size;
} kinds[] = {
	{ "pages", MTE_MEM_ANON },
	{ "shmem", MTE_MEM_MEMFD },
	{ "THP", MTE_MEM_ANON_THP },
	{ "hugetlb 2M", MTE_MEM_HUGETLB, SZ_2M },
	{ "hugetlb 1G", MTE_MEM_HUGETLB, SZ_1G },
};

/* All of them per 4K. */
struct figures {
	u64	demand;
	u64	mlock;
	u64	lock;
	u64	unlock;
	u64	faults;
};

/* What a fault of a populated page costs, of the smallest size. */
static u64 page_demand;
static bool check;

static u64 counter(void)
{
	isb();

	return read_sysreg(cntvct_el0);
}

static u64 ns_since(u64 start)
{
	return (counter() - start) * 1000000000UL / read_sysreg(cntfrq_el0);
}

static u64 guest_write_all(u64 addr, u64 nr, u64 stride, u64 unused)
{
	for (; nr; nr--, addr += stride)
		WRITE_ONCE(*(u64 *)addr, addr);

	return 0;
}

static u64 timed_write(struct kvm_vcpu *vcpu, size_t size)
{
	u64 start = counter();

	mte_vcpu_call(vcpu, guest_write_all, MTE_TEST_GPA, size / getpagesize(),
		      getpagesize(), 0);

	return ns_since(start);
}

static const char *get_mem(struct mte_mem *mem, const struct mem_kind *kind, size_t size,
			   bool populated)
{
	const char *reason = mte_mem_alloc(mem, kind->type, kind->folio_size, size);

	if (reason || !populated)
		return reason;

	reason = mte_mem_populate(mem);
	if (reason)
		mte_mem_free(mem);

	return reason;
}

static void run_demand(struct kvm_vm *vm, struct kvm_vcpu *vcpu, struct mte_mem *mem,
		       struct figures *f)
{
	u64 start = counter(), ns;

	TEST_ASSERT(!mlock(mem->hva, mem->size), "mlock() failed, errno %d", errno);
	ns = ns_since(start);
	munlock(mem->hva, mem->size);
	f->mlock = min(f->mlock, ns);

	vm_set_user_memory_region(vm, DATA_SLOT, 0, MTE_TEST_GPA, mem->size, mem->hva);
	f->demand = min(f->demand, timed_write(vcpu, mem->size));
	vm_set_user_memory_region(vm, DATA_SLOT, 0, MTE_TEST_GPA, 0, mem->hva);
}

static void run_lock(struct kvm_vm *vm, struct kvm_vcpu *vcpu, struct mte_mem *mem,
		     int faults_fd, struct figures *f)
{
	u64 start, none, faults;

	vm_set_user_memory_region(vm, DATA_SLOT, 0, MTE_TEST_GPA, mem->size, mem->hva);

	start = counter();
	memslot_lock(vm, DATA_SLOT, MEMSLOT_LOCK_RW);
	f->lock = min(f->lock, ns_since(start));

	/* How a guest call ends is an abort too. */
	none = guest_faults(faults_fd);
	timed_write(vcpu, 0);
	faults = guest_faults(faults_fd);
	none = faults - none;
	timed_write(vcpu, mem->size);
	f->faults += guest_faults(faults_fd) - faults - none;

	start = counter();
	memslot_unlock(vm, DATA_SLOT);
	f->unlock = min(f->unlock, ns_since(start));

	vm_set_user_memory_region(vm, DATA_SLOT, 0, MTE_TEST_GPA, 0, mem->hva);
}

static const char *measure(const struct mem_kind *kind, size_t size, bool populated,
			   int faults_fd, struct figures *f)
{
	const char *reason = NULL;
	struct kvm_vcpu *vcpu;
	struct mte_mem mem;
	struct kvm_vm *vm;
	int i;

	*f = (struct figures) { -1, -1, -1, -1, 0 };

	/* Pages for the guest's own tables, and some to spare. */
	vm = __vm_create(VM_SHAPE_DEFAULT, 1, size / SZ_4K / 128);
	mte_vm_add_vcpus(vm, 1, &vcpu);
	virt_map(vm, MTE_TEST_GPA, MTE_TEST_GPA, size / vm->page_size);

	for (i = 0; i < NR_ROUNDS && !reason; i++) {
		reason = get_mem(&mem, kind, size, populated);
		if (reason)
			break;
		run_demand(vm, vcpu, &mem, f);
		if (!populated) {
			mte_mem_free(&mem);
			reason = get_mem(&mem, kind, size, false);
			if (reason)
				break;
		}
		run_lock(vm, vcpu, &mem, faults_fd, f);
		mte_mem_free(&mem);
	}
	kvm_vm_free(vm);

	f->demand /= size / SZ_4K;
	f->mlock /= size / SZ_4K;
	f->lock /= size / SZ_4K;
	f->unlock /= size / SZ_4K;

	return reason;
}

static bool is_cheap(const struct mem_kind *kind, const struct figures *f, u64 smallest_lock)
{
	bool blocks = kind->type == MTE_MEM_ANON_THP || kind->type == MTE_MEM_HUGETLB;
	u64 ratio = blocks ? BLOCK_RATIO : PAGE_RATIO;

	/* What costs next to nothing may vary by more. */
	return f->lock * ratio <= page_demand &&
	       f->lock <= smallest_lock * (100 + GROWTH_PERCENT) / 100 + 1;
}

static void run_case(const struct mem_kind *kind, size_t size, bool populated, int faults_fd,
		     u64 *smallest_lock)
{
	const char *reason;
	struct figures f;
	char name[64];
	bool pass;

	snprintf(name, sizeof(name), "%s, %s, %zuM", kind->name,
		 populated ? "populated" : "fresh", size / SZ_1M);
	if (size % max_t(size_t, kind->folio_size, getpagesize()))
		reason = "not a multiple of the folio size";
	else
		reason = measure(kind, size, populated, faults_fd, &f);
	if (reason) {
		ksft_test_result_skip("%s: %s\n", name, reason);
		return;
	}

	if (populated && !page_demand)
		page_demand = f.demand;
	if (populated && !*smallest_lock)
		*smallest_lock = f.lock;

	pass = !f.faults;
	if (check && populated)
		pass &= is_cheap(kind, &f, *smallest_lock);
	ksft_test_result(pass, "%s: lock %lu, unlock %lu, faults %lu, mlock() %lu per 4K%s\n",
			 name, f.lock, f.unlock, f.demand, f.mlock,
			 f.faults ? ", and faults though locked" : "");
}

static void help(const char *name)
{
	printf("usage: %s [-h] [-c] [-m MB]\n", name);
	printf(" -c: fail if locking costs more than it should, for counters of instructions\n");
	printf(" -m: measure %dM and, if larger, this size\n", MIN_SIZE / SZ_1M);
	exit(KSFT_SKIP);
}

int main(int argc, char *argv[])
{
	size_t sizes[2] = { MIN_SIZE };
	int nr_sizes = 1, faults_fd, opt, i, j;
	u64 smallest_lock;

	while ((opt = getopt(argc, argv, "hcm:")) != -1) {
		switch (opt) {
		case 'c':
			check = true;
			break;
		case 'm':
			sizes[1] = (size_t)atoi_positive("size", optarg) * SZ_1M;
			nr_sizes = sizes[1] > MIN_SIZE ? 2 : 1;
			break;
		default:
			help(argv[0]);
		}
	}

	ksft_print_header();
	TEST_REQUIRE(kvm_check_cap(KVM_CAP_ARM_LOCK_USER_MEMORY_REGION));
	faults_fd = guest_faults_open(0);
	__TEST_REQUIRE(faults_fd >= 0, "needs tracefs and perf events to count faults");
	ksft_set_plan(ARRAY_SIZE(kinds) * 2 * nr_sizes);

	for (i = 0; i < ARRAY_SIZE(kinds); i++) {
		smallest_lock = 0;
		for (j = 0; j < nr_sizes; j++) {
			run_case(&kinds[i], sizes[j], true, faults_fd, &smallest_lock);
			run_case(&kinds[i], sizes[j], false, faults_fd, &smallest_lock);
		}
	}

	ksft_finished();
}
