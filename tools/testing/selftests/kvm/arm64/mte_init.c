// SPDX-License-Identifier: GPL-2.0-only
/*
 * mte_init - Check that all memory has tags of zero when a guest first sees it.
 *
 * Whatever kind of memory a memslot consists of, and whatever the guest does
 * first with a page (read, write, or execute it), the tags of the page must have
 * been initialised by then. Memory is mapped by blocks where that is possible,
 * and by pages where the alignment of the slot or dirty logging forbids it. All
 * of that is tried. A broken kernel doesn't initialise what it maps, or only a
 * part of it, and shows the tags of a process that had the page frames before.
 * A case counts only if the memory of the VM consists of these page frames.
 *
 * The zero pages, small and huge, are shared by everybody. The guest must see
 * no tags there, get memory of its own as soon as it stores one, and the small
 * one must not be flagged as tagged, which would keep KSM from using it.
 *
 * Finally, somebody else may be initialising the same page at the same time.
 * The VMM maps memory with PROT_MTE, folio after folio, while a guest reads the
 * last page of each, in the opposite order. Where the two meet, the tags become
 * valid page after page, and the guest must not have access to the last one
 * before. A broken kernel takes the page for initialised as soon as somebody
 * has started with it, or goes on after it has noticed that it was not.
 */
#include <pthread.h>
#include <sys/mman.h>

#include <linux/sizes.h>

#include "kvm_util.h"
#include "mte.h"
#include "processor.h"
#include "test_util.h"

#define DATA_SLOT	1
#define TEST_TAG	0x5

/* AArch64 "ret" (ret x30). */
#define RET_INSN	0xd65f03c0U

/* This many pages of each are looked at, if the folio is a page. */
#define NR_BASE_PAGES	16

/* A PMD of 64K pages is 512M, too much for some machines to have more than once. */
#define MAX_FOLIO_SIZE	SZ_64M

enum access {
	READ,
	WRITE,
	EXEC,
	NR_ACCESSES,
};

static const char * const access_names[] = { "read", "write", "exec" };

static const struct mem_kind {
	const char *name;
	enum mte_mem_type type;
} mem_kinds[] = {
	{ "anon", MTE_MEM_ANON },
	{ "anon THP", MTE_MEM_ANON_THP },
	{ "memfd", MTE_MEM_MEMFD },
	{ "memfd THP", MTE_MEM_MEMFD_THP },
	{ "hugetlb", MTE_MEM_HUGETLB },
	{ "memfd hugetlb", MTE_MEM_MEMFD_HUGETLB },
};

static const struct way {
	const char *name;
	u32 slot_flags;
	bool misaligned;
} ways[] = {
	{ "aligned", 0, false },
	{ "misaligned", 0, true },
	{ "aligned, dirty logging", KVM_MEM_LOG_DIRTY_PAGES, false },
	{ "misaligned, dirty logging", KVM_MEM_LOG_DIRTY_PAGES, true },
};

static u64 guest_access(u64 addr, u64 nr_pages, u64 page_size, u64 access)
{
	for (; nr_pages; nr_pages--, addr += page_size) {
		switch (access) {
		case READ:
			READ_ONCE(*(u64 *)addr);
			break;
		case WRITE:
			WRITE_ONCE(*(u64 *)addr, addr);
			break;
		case EXEC:
			((void (*)(void))addr)();
			break;
		}
	}

	return 0;
}

/* One part of the memory for each way to access it first. */
static void run(const char *name, const struct way *way, struct mte_mem *mem)
{
	size_t page_size = getpagesize(), part = mem->size / NR_ACCESSES;
	u64 nr_pages = part / page_size, stale, offset;
	gpa_t gpa = MTE_TEST_GPA + (way->misaligned ? page_size : 0);
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int access;

	vm = mte_vm_create(1, mem->size, &vcpu);
	mte_vm_add_slot(vm, DATA_SLOT, way->slot_flags, gpa, mem->hva, mem->size);

	for (offset = 0; offset < mem->size; offset += page_size)
		WRITE_ONCE(*(u32 *)(mem->hva + offset), RET_INSN);

	for (access = 0; access < NR_ACCESSES; access++, gpa += part) {
		mte_vcpu_call(vcpu, guest_access, gpa, nr_pages, page_size, access);
		stale = mte_vcpu_call(vcpu, mte_count_stale, gpa, nr_pages,
				      page_size, page_size);
		ksft_test_result(!stale, "%s, %s, %s first: %lu of %lu pages stale\n",
				 name, way->name, access_names[access], stale, nr_pages);
	}

	kvm_vm_free(vm);
}

static void run_or_skip(const struct mem_kind *kind, size_t folio_size, const struct way *way)
{
	size_t part = folio_size > getpagesize() ? folio_size : NR_BASE_PAGES * getpagesize();
	char name[64];
	const char *reason;
	struct mte_mem mem;
	int access;

	snprintf(name, sizeof(name), "%s %zukB", kind->name, folio_size / SZ_1K);

	reason = mte_mem_alloc_stale(&mem, kind->type, folio_size, NR_ACCESSES * part);
	if (reason) {
		for (access = 0; access < NR_ACCESSES; access++)
			ksft_test_result_skip("%s, %s, %s first: %s\n", name, way->name,
					      access_names[access], reason);
		return;
	}

	run(name, way, &mem);
	mte_mem_free(&mem);
}

/* The page is shared by all that were never written to. */
static void run_zero_page(bool huge)
{
	const char *name = huge ? "huge zero page" : "zero page";
	size_t page_size = getpagesize(), size = huge ? pmd_size() : 4 * page_size;
	u64 nr_pages = size / page_size, stale, fresh;
	struct kvm_vcpu *vcpu;
	const char *reason;
	struct mte_mem mem;
	struct kvm_vm *vm;
	bool kept, flagged;
	u64 pfn, flags = 0;

	reason = mte_mem_alloc(&mem, huge ? MTE_MEM_ANON_THP : MTE_MEM_ANON, 0, size);
	if (reason) {
		ksft_test_result_skip("%s: %s\n", name, reason);
		return;
	}

	vm = mte_vm_create(1, size, &vcpu);
	mte_vm_add_slot(vm, DATA_SLOT, 0, MTE_TEST_GPA, mem.hva, size);
	stale = mte_vcpu_call(vcpu, mte_count_stale, MTE_TEST_GPA, nr_pages,
			      page_size, page_size);

	pfn = pagemap_entry(mem.hva) & PAGEMAP_PFN_MASK;
	if (!pfn) {
		ksft_test_result_skip("%s: can't tell page frames without CAP_SYS_ADMIN\n",
				      name);
		goto out;
	}

	if (!huge)
		TEST_ASSERT((pagemap_entry(mem.hva + page_size) & PAGEMAP_PFN_MASK) == pfn,
			    "Two pages that were read only aren't both the zero page");

	/* The huge one was initialised and flagged when it was allocated. */
	if (!huge && !page_flags(pfn, &flags)) {
		ksft_test_result_skip("%s: can't read /proc/kpageflags\n", name);
		goto out;
	}
	flagged = flags & KPF_ARCH_2;

	mte_vcpu_call(vcpu, mte_guest_store_tags, MTE_TEST_GPA, page_size, TEST_TAG, 0);
	TEST_ASSERT((pagemap_entry(mem.hva) & PAGEMAP_PFN_MASK) != pfn,
		    "The guest was given write access to the zero page");
	kept = mte_vcpu_call(vcpu, mte_guest_have_tag, MTE_TEST_GPA, page_size, TEST_TAG, 0);
	fresh = mte_vcpu_call(vcpu, mte_count_stale, MTE_TEST_GPA + page_size,
			      nr_pages - 1, page_size, page_size);

	ksft_test_result(!stale && !fresh && kept && !flagged,
			 "%s: %lu pages stale when read, %lu after a store%s%s\n", name,
			 stale, fresh, kept ? "" : ", tag lost", flagged ? ", flagged" : "");
out:
	kvm_vm_free(vm);
	mte_mem_free(&mem);
}

#define NR_RACES	4
#define NR_RACE_FOLIOS	8
#define MAX_RACE_SIZE	SZ_64M

/* The start signal: neither of the two is to be done before the other begins. */
static struct {
	bool guest_ready;
	bool go;
} race_start;

static u64 guest_walk_back(u64 addr, u64 nr_folios, u64 folio_size, u64 page_size)
{
	u64 stale = 0;

	WRITE_ONCE(race_start.guest_ready, true);
	while (!READ_ONCE(race_start.go))
		cpu_relax();

	for (addr += nr_folios * folio_size; nr_folios; nr_folios--, addr -= folio_size)
		stale += mte_count_stale(addr - page_size, 1, page_size, page_size);

	return stale;
}

static void *vcpu_thread(void *arg)
{
	vcpu_run(arg);

	return NULL;
}

/*
 * Another mapping of the same memory, aligned like the first one. Changing the
 * protection of the VM's own mapping would keep the VM from faulting meanwhile.
 */
static void *aligned_alias(const struct mte_mem *mem, void **map, size_t *map_size)
{
	void *addr;

	*map_size = mem->size + mem->folio_size;
	*map = kvm_mmap(*map_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
	addr = align_ptr_up(*map, mem->folio_size);
	addr = mmap(addr, mem->size, PROT_READ | PROT_WRITE | PROT_MTE,
		    MAP_SHARED | MAP_FIXED, mem->fd, 0);
	TEST_ASSERT(addr != MAP_FAILED, "mmap() failed, errno %d", errno);

	return addr;
}

static u64 race(struct mte_mem *mem)
{
	size_t page_size = getpagesize(), map_size;
	typeof(race_start) *start;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	pthread_t thread;
	void *alias, *map;
	u64 stale;

	vm = mte_vm_create(1, mem->size, &vcpu);
	mte_vm_add_slot(vm, DATA_SLOT, 0, MTE_TEST_GPA, mem->hva, mem->size);
	start = addr_gva2hva(vm, (gva_t)&race_start);
	alias = aligned_alias(mem, &map, &map_size);

	mte_vcpu_prepare(vcpu, guest_walk_back, MTE_TEST_GPA, mem->size / mem->folio_size,
			 mem->folio_size, page_size);
	TEST_ASSERT(!pthread_create(&thread, NULL, vcpu_thread, vcpu), "pthread_create() failed");
	while (!READ_ONCE(start->guest_ready))
		cpu_relax();
	WRITE_ONCE(start->go, true);
	kvm_madvise(alias, mem->size, MADV_POPULATE_WRITE);
	TEST_ASSERT(!pthread_join(thread, NULL), "pthread_join() failed");

	stale = mte_vcpu_result(vcpu);

	kvm_munmap(map, map_size);
	kvm_vm_free(vm);

	return stale;
}

static void run_race(const struct mem_kind *kind, size_t folio_size)
{
	size_t size = min_t(size_t, NR_RACE_FOLIOS * folio_size, MAX_RACE_SIZE);
	const char *reason = NULL;
	struct mte_mem mem;
	u64 stale = 0;
	int i, races = 0;

	/* Stale memory can't be had every time. One race is better than none. */
	for (i = 0; i < NR_RACES; i++) {
		reason = mte_mem_alloc_stale(&mem, kind->type, folio_size, size);
		if (reason)
			continue;

		stale += race(&mem);
		mte_mem_free(&mem);
		races++;
	}

	if (!races)
		ksft_test_result_skip("%s %zukB, race: %s\n", kind->name,
				      folio_size / SZ_1K, reason);
	else
		ksft_test_result(!stale, "%s %zukB, race: %lu of %lu pages stale\n",
				 kind->name, folio_size / SZ_1K, stale,
				 races * size / folio_size);
}

typedef int (*mem_fn)(const struct mem_kind *kind, size_t folio_size);

/* All kinds of memory, in all sizes that there are. */
static int visit_mem(mem_fn fn)
{
	size_t folio_size = min_t(size_t, pmd_size(), MAX_FOLIO_SIZE);
	size_t sizes[HUGETLB_MAX_SIZES];
	int nr_sizes = hugetlb_sizes(sizes), ret = 0, i, j;

	for (i = 0; i < ARRAY_SIZE(mem_kinds); i++) {
		switch (mem_kinds[i].type) {
		case MTE_MEM_HUGETLB:
		case MTE_MEM_MEMFD_HUGETLB:
			/* Larger ones are for mte_hugetlb_partial, one at a time. */
			for (j = 0; j < nr_sizes && sizes[j] <= folio_size; j++)
				ret += fn(&mem_kinds[i], sizes[j]);
			break;
		case MTE_MEM_ANON_THP:
		case MTE_MEM_MEMFD_THP:
			if (pmd_size() <= MAX_FOLIO_SIZE && thp_configured())
				ret += fn(&mem_kinds[i], folio_size);
			break;
		default:
			ret += fn(&mem_kinds[i], getpagesize());
		}
	}

	return ret;
}

/* A race needs two mappings, and something that takes long to initialise. */
static bool can_race(const struct mem_kind *kind, size_t folio_size)
{
	return folio_size >= pmd_size() &&
	       (kind->type == MTE_MEM_MEMFD_THP || kind->type == MTE_MEM_MEMFD_HUGETLB);
}

static bool is_applicable(const struct way *way, size_t folio_size)
{
	return !way->misaligned || folio_size > getpagesize();
}

static int count_cases(const struct mem_kind *kind, size_t folio_size)
{
	int nr = can_race(kind, folio_size), i;

	for (i = 0; i < ARRAY_SIZE(ways); i++)
		nr += is_applicable(&ways[i], folio_size) * NR_ACCESSES;

	return nr;
}

static int run_cases(const struct mem_kind *kind, size_t folio_size)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(ways); i++) {
		if (is_applicable(&ways[i], folio_size))
			run_or_skip(kind, folio_size, &ways[i]);
	}

	if (can_race(kind, folio_size))
		run_race(kind, folio_size);

	return 0;
}

int main(void)
{
	ksft_print_header();
	mte_require();
	ksft_set_plan(visit_mem(count_cases) + 2);

	visit_mem(run_cases);
	run_zero_page(false);
	run_zero_page(true);

	mte_finished();
}
