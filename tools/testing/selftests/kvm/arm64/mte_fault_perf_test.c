// SPDX-License-Identifier: GPL-2.0-only
/*
 * mte_fault_perf_test - Measure the cost of a stage-2 fault, with and without MTE, and of tags.
 *
 * The path: the memory is populated in the VMM and, in a VM with MTE, its tags have been
 * initialised by an earlier round, so that nothing remains to be done but to install a
 * leaf; then what it costs to split blocks for dirty logging, and to get them back.
 *
 * The tags: what a VM with MTE is charged for memory that it sees for the first time, in
 * comparison with seeing it again, and what it costs to copy tags, in comparison with
 * clearing and copying the memory itself. That is shown for memory that stage 2 maps by
 * pages and by blocks, as it grows, and with more memslots.
 *
 * See perf_figure.h for what the figures are.
 */
#include <linux/sizes.h>
#include <sys/mman.h>

#include "kvm_util.h"
#include "mte.h"
#include "perf_figure.h"
#include "processor.h"
#include "test_util.h"

#define DATA_SLOT	1
#define OTHER_SLOT	2
#define NR_ROUNDS	20
#define NR_BLOCKS	8

/* For an ioctl, and for a piece of memory that is copied. */
#define CHUNK_SIZE	SZ_2M

static const struct mem_kind {
	const char		*name;
	enum mte_mem_type	type;
	bool			blocks;
	/* hugetlb only */
	size_t			folio_size;
} kinds[] = {
	{ "pages", MTE_MEM_ANON },
	{ "blocks", MTE_MEM_ANON_THP, true },
	{ "1G-blocks", MTE_MEM_HUGETLB, true, SZ_1G },
};

/* Pointers: the guest would have a copy of what is in the program. */
static u8 *tags, *copied;

static struct kvm_vm *create_vm(bool mte, size_t size, struct kvm_vcpu **vcpu)
{
	struct kvm_vm *vm = __vm_create(VM_SHAPE_DEFAULT, 1, size / SZ_4K);

	if (mte)
		vm_enable_cap(vm, KVM_CAP_ARM_MTE, 0);
	mte_vm_enable_eager_split(vm, pmd_size());
	mte_vm_add_vcpus(vm, 1, vcpu);
	virt_map(vm, MTE_TEST_GPA, MTE_TEST_GPA, size / vm->page_size);

	return vm;
}

static const char *get_mem(struct mte_mem *mem, const struct mem_kind *kind, size_t size)
{
	const char *reason = mte_mem_alloc(mem, kind->type, kind->folio_size, size);

	if (reason)
		return reason;

	reason = mte_mem_populate(mem);
	if (reason)
		mte_mem_free(mem);

	return reason;
}

static void set_slot(struct kvm_vm *vm, u32 flags, const struct mte_mem *mem, bool delete)
{
	vm_set_user_memory_region(vm, DATA_SLOT, flags, MTE_TEST_GPA, delete ? 0 : mem->size,
				  mem->hva);
}

/* What was measured is what it is said to be, if the kernel shows its page-table. */
static bool has_leaves(struct kvm_vm *vm, size_t size, u64 nr_blocks, u64 nr_pages)
{
	u64 blocks, pages;

	return !mte_stage2_leaves(vm, MTE_TEST_GPA, size, &blocks, &pages) ||
	       (blocks == nr_blocks && pages == nr_pages);
}

static void measure_path(bool mte, const struct mem_kind *kind)
{
	const char *name = mte ? "with MTE" : "without MTE";
	bool blocks = kind->blocks;
	size_t size = blocks ? NR_BLOCKS * pmd_size() : pmd_size();
	u64 nr = blocks ? NR_BLOCKS : size / getpagesize(), stride = size / nr;
	u64 read = -1, write = -1, perm = -1, split = -1, collapse = -1, start;
	const char *reason;
	struct kvm_vcpu *vcpu;
	struct mte_mem mem;
	struct kvm_vm *vm;
	bool good = true;
	char figure[32];
	int i;

	reason = get_mem(&mem, kind, size);
	if (reason) {
		ksft_test_result_skip("%s, %s: %s\n", name, kind->name, reason);
		return;
	}

	vm = create_vm(mte, size, &vcpu);

	for (i = 0; i < NR_ROUNDS; i++) {
		set_slot(vm, 0, &mem, false);
		read = min(read, perf_touch(vcpu, MTE_TEST_GPA, nr, stride, false));
		set_slot(vm, 0, &mem, true);

		set_slot(vm, 0, &mem, false);
		write = min(write, perf_touch(vcpu, MTE_TEST_GPA, nr, stride, true));

		/* Splits blocks, and write protects everything. */
		start = perf_counter();
		set_slot(vm, KVM_MEM_LOG_DIRTY_PAGES, &mem, false);
		split = min(split, perf_ns_since(start));
		good &= has_leaves(vm, size, 0, size / getpagesize());
		perm = min(perm, perf_touch(vcpu, MTE_TEST_GPA, nr, stride, true));

		/* Where a page of what was split is still protected, a write merges it. */
		set_slot(vm, 0, &mem, false);
		if (blocks)
			collapse = min(collapse, perf_touch(vcpu, MTE_TEST_GPA + getpagesize(),
							    nr, stride, true));
		good &= has_leaves(vm, size, blocks ? nr : 0, blocks ? 0 : nr);
		set_slot(vm, 0, &mem, true);
	}

	ksft_test_result(good, "%s, %s%s\n", name, kind->name,
			 good ? "" : ": not split, or not merged");
	snprintf(figure, sizeof(figure), "%s.%s", mte ? "mte" : "nomte", kind->name);
	perf_figure("read", figure, read, nr);
	perf_figure("write", figure, write, nr);
	perf_figure("protected", figure, perm, nr);
	perf_figure(blocks ? "split" : "protect", figure, split, nr);
	if (blocks)
		perf_figure("collapse", figure, collapse, nr);

	kvm_vm_free(vm);
	mte_mem_free(&mem);
}

/* As the kernel clears a page: by the block that DCZID_EL0 tells. */
static void clear_data(void *data, size_t size)
{
	size_t block = 4UL << (read_sysreg(dczid_el0) & 0xf);
	void *end = data + size;

	for (; data < end; data += block)
		asm volatile("dc zva, %0" : : "r"(data) : "memory");
}

/* As the kernel copies a page: by pairs of registers. */
static void copy_data(void *to, const void *from, size_t size)
{
	const void *end = from + size;

	asm volatile("1:	ldp	x4, x5, [%1]\n"
		     "	ldp	x6, x7, [%1, #16]\n"
		     "	ldp	x8, x9, [%1, #32]\n"
		     "	ldp	x10, x11, [%1, #48]\n"
		     "	add	%1, %1, #64\n"
		     "	stp	x4, x5, [%0]\n"
		     "	stp	x6, x7, [%0, #16]\n"
		     "	stp	x8, x9, [%0, #32]\n"
		     "	stp	x10, x11, [%0, #48]\n"
		     "	add	%0, %0, #64\n"
		     "	cmp	%1, %2\n"
		     "	b.ne	1b\n"
		     : "+r"(to), "+r"(from) : "r"(end)
		     : "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "cc", "memory");
}

struct figures {
	/* of the guest writing to all pages */
	u64	first;
	u64	again;
	u64	slots[PERF_NR_OTHER_SLOTS];
	/* of the VMM */
	u64	get_tags;
	u64	set_tags;
	u64	clear;
	u64	copy;
};

static u64 write_all(struct kvm_vm *vm, struct kvm_vcpu *vcpu, const struct mte_mem *mem)
{
	u64 ns;

	set_slot(vm, 0, mem, false);
	ns = perf_write_pages(vcpu, mem->size);
	set_slot(vm, 0, mem, true);

	return ns;
}

static void run_clear(const struct mte_mem *mem, struct figures *f)
{
	u64 start = perf_counter();

	clear_data(mem->hva, mem->size);
	f->clear = min(f->clear, perf_ns_since(start));
}

static void run_copies(struct kvm_vm *vm, const struct mte_mem *mem, struct figures *f)
{
	u64 get = 0, set = 0, copy = 0, offset, start;

	set_slot(vm, 0, mem, false);
	for (offset = 0; offset < mem->size; offset += CHUNK_SIZE) {
		start = perf_counter();
		mte_copy_tags_from_guest(vm, MTE_TEST_GPA + offset, CHUNK_SIZE, tags);
		get += perf_ns_since(start);

		start = perf_counter();
		mte_copy_tags_to_guest(vm, MTE_TEST_GPA + offset, CHUNK_SIZE, tags);
		set += perf_ns_since(start);

		start = perf_counter();
		copy_data(copied, mem->hva + offset, CHUNK_SIZE);
		copy += perf_ns_since(start);
	}
	set_slot(vm, 0, mem, true);

	f->get_tags = min(f->get_tags, get);
	f->set_tags = min(f->set_tags, set);
	f->copy = min(f->copy, copy);
}

static const char *measure_memory(const struct mem_kind *kind, size_t size, bool slots,
				  struct figures *f)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	const char *reason = NULL;
	struct mte_mem mem;
	int i, j;

	memset(f, 0xff, sizeof(*f));

	vm = create_vm(true, size, &vcpu);

	for (i = 0; i < perf_rounds(size) && !reason; i++) {
		reason = get_mem(&mem, kind, size);
		if (reason)
			break;

		/*
		 * The kernel makes a page active when it is accessed for the second time.
		 * That isn't what the first fault of the guest is to be charged for.
		 */
		for (j = 0; j < 2; j++)
			kvm_madvise(mem.hva, size, MADV_POPULATE_WRITE);

		f->first = min(f->first, write_all(vm, vcpu, &mem));
		/* With much memory the first time tells enough. */
		if (kind->blocks || size <= PERF_MIN_SIZE)
			f->again = min(f->again, write_all(vm, vcpu, &mem));
		for (j = 0; slots && j < PERF_NR_OTHER_SLOTS; j++) {
			perf_set_slots(vm, OTHER_SLOT, perf_other_slots[j], mem.hva, getpagesize());
			f->slots[j] = min(f->slots[j], write_all(vm, vcpu, &mem));
			perf_set_slots(vm, OTHER_SLOT, perf_other_slots[j], mem.hva, 0);
		}
		/* That the guest has it by blocks makes no difference to a copy. */
		if (!kind->blocks)
			run_copies(vm, &mem, f);
		run_clear(&mem, f);
		mte_mem_free(&mem);
	}
	kvm_vm_free(vm);

	return reason;
}

static void run_memory(const struct mem_kind *kind, size_t size, bool slots)
{
	u64 nr_pages = size / getpagesize();
	const char *reason;
	struct figures f;
	char name[32];
	int i;

	snprintf(name, sizeof(name), "%s.%zuM", kind->name, size / SZ_1M);
	reason = measure_memory(kind, size, slots, &f);
	if (reason) {
		ksft_test_result_skip("%s: %s\n", name, reason);
		return;
	}

	ksft_test_result_pass("%s\n", name);
	perf_figure("write-first", name, f.first, nr_pages);
	if (kind->blocks || size <= PERF_MIN_SIZE)
		perf_figure("write-again", name, f.again, nr_pages);
	perf_figure("clear-data", name, f.clear, nr_pages);
	if (kind->blocks)
		return;

	perf_figure("get-tags", name, f.get_tags, nr_pages);
	perf_figure("set-tags", name, f.set_tags, nr_pages);
	perf_figure("copy-data", name, f.copy, nr_pages);
	for (i = 0; slots && i < PERF_NR_OTHER_SLOTS; i++) {
		snprintf(name, sizeof(name), "%s.%d", kind->name, perf_other_slots[i]);
		perf_figure("write-slots", name, f.slots[i], nr_pages);
	}
}

static bool has_size(const struct mem_kind *kind, size_t size)
{
	return !kind->folio_size || size % kind->folio_size == 0;
}

static void help(const char *name)
{
	printf("usage: %s [-h] [-s MB] [-m MB]\n", name);
	printf(" -s: the smallest size of memory, default %dM\n", PERF_MIN_SIZE / SZ_1M);
	printf(" -m: measure memory of up to this size, and not only the smallest\n");
	exit(KSFT_SKIP);
}

int main(int argc, char *argv[])
{
	int nr_sizes, nr_cases = 4, opt, i, j;
	size_t sizes[PERF_MAX_SIZES], smallest = PERF_MIN_SIZE, largest = 0;

	while ((opt = getopt(argc, argv, "hs:m:")) != -1) {
		switch (opt) {
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
	mte_require();
	tags = kvm_mmap(MTE_TAGS_SIZE(CHUNK_SIZE), PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1);
	copied = kvm_mmap(CHUNK_SIZE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1);

	nr_sizes = perf_sizes(sizes, smallest, largest);
	for (i = 0; i < ARRAY_SIZE(kinds); i++) {
		for (j = 0; j < nr_sizes; j++)
			nr_cases += has_size(&kinds[i], sizes[j]);
	}
	ksft_set_plan(nr_cases);

	for (i = 0; i < 2; i++) {
		measure_path(i, &kinds[0]);
		measure_path(i, &kinds[1]);
	}

	/* What is largest is hardest to get, and comes first. */
	for (i = ARRAY_SIZE(kinds) - 1; i >= 0; i--) {
		for (j = nr_sizes - 1; j >= 0; j--) {
			if (has_size(&kinds[i], sizes[j]))
				run_memory(&kinds[i], sizes[j], !i && !j);
		}
	}

	mte_finished();
}
