/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Memory tagging (MTE) for KVM selftests: VMs whose guest uses allocation
 * tags, access to the tags from guest and host code alike, the tags that a
 * page was left with by its previous owner, and the kinds of memory a memslot
 * can consist of.
 *
 * Terms: a granule is the 16 bytes that share an allocation tag. A page, unless
 * said otherwise, is a page of the host, which is the unit KVM initialises and
 * flags. "Stale" is a tag that was left behind by the previous owner of a page.
 */
#ifndef SELFTEST_KVM_ARM64_MTE_H
#define SELFTEST_KVM_ARM64_MTE_H

#include "kvm_util.h"
#include "processor.h"

#define MTE_GRANULE_SIZE	16
#define MTE_TAG_SHIFT		56
#define MTE_TAG_MASK		0xfUL

/* Size of the KVM_ARM_MTE_COPY_TAGS buffer for a range: a byte for a granule. */
#define MTE_TAGS_SIZE(size)	((size) / MTE_GRANULE_SIZE)

/*
 * What mte_mem_alloc_stale() leaves behind in the memory. No test may use this
 * tag for anything else.
 */
#define MTE_POISON		0xa

/*
 * Where tests put their memslots: far above what the library uses, aligned to
 * the largest hugetlb folio there is (16G with 64K pages), and together with
 * as much memory as that still in a 36 bit IPA space.
 */
#define MTE_TEST_GPA		0x400000000UL

/*
 * What the assembler needs to be told. It keeps that until the end of the file,
 * so take nothing away from an architecture that has the extension already, as
 * .arch does: it sets the base too. That has to be Armv8.5 at least.
 */
#if defined(__ARM_FEATURE_MEMORY_TAGGING)
#define MTE_PREAMBLE		""
#elif __ARM_ARCH >= 9
#define MTE_PREAMBLE		".arch_extension memtag\n\t"
#else
#define MTE_PREAMBLE		".arch armv8.5-a+memtag\n\t"
#endif

/*
 * Tag access, from the guest and from the host. The host needs a PROT_MTE
 * mapping, the guest a VM made by mte_vm_create(). @addr must not be tagged:
 * the base register of these instructions is subject to translation, but not
 * to a tag check.
 */

static __always_inline u8 mte_load_tag(const void *addr)
{
	u64 val = 0;

	asm volatile(MTE_PREAMBLE "ldg %0, [%1]" : "+r"(val) : "r"(addr) : "memory");

	return (val >> MTE_TAG_SHIFT) & MTE_TAG_MASK;
}

static __always_inline void mte_store_tag(void *addr, u8 tag)
{
	asm volatile(MTE_PREAMBLE "stg %0, [%1]" :
		     : "r"((u64)tag << MTE_TAG_SHIFT), "r"(addr) : "memory");
}

/*
 * A tag at random, other than those in the bitmap @exclude and those that
 * GCR_EL1 excludes: all but 0 in a process, until it asks for PR_MTE_TAG_MASK.
 */
static __always_inline u8 mte_random_tag(u16 exclude)
{
	u64 val = 0;

	asm volatile(MTE_PREAMBLE "irg %0, %0, %1" : "+r"(val) : "r"((u64)exclude));

	return (val >> MTE_TAG_SHIFT) & MTE_TAG_MASK;
}

static __always_inline void *mte_tagged_ptr(void *addr, u8 tag)
{
	return (void *)(((u64)addr & ~(MTE_TAG_MASK << MTE_TAG_SHIFT)) |
			(u64)tag << MTE_TAG_SHIFT);
}

void mte_store_tags(void *addr, size_t size, u8 tag);
bool mte_have_tag(const void *addr, size_t size, u8 tag);
u64 mte_count_stale(u64 addr, u64 nr_pages, u64 page_size, u64 stride);
u64 mte_store_pattern(u64 addr, u64 nr_pages, u64 page_size, u64 stride);
u64 mte_count_lost(u64 addr, u64 nr_pages, u64 page_size, u64 stride);
u64 mte_guest_store_tags(u64 addr, u64 size, u64 tag, u64 unused);
u64 mte_guest_have_tag(u64 addr, u64 size, u64 tag, u64 unused);
u64 mte_guest_try_tag(u64 addr, u64 tag, u64 unused2, u64 unused3);
u64 mte_guest_pfr1(u64 unused1, u64 unused2, u64 unused3, u64 unused4);
u64 mte_guest_pfr2(u64 unused1, u64 unused2, u64 unused3, u64 unused4);
void mte_guest_enable_tags(void);
bool mte_guest_tags_enabled(void);

/* Tag checks are overridden. */
#define SPSR_TCO		BIT(25)

/* AP[1] of a stage-1 descriptor: EL0 may access it. */
#define PTE_USER		BIT(6)

/* Instructions at EL0, until an SVC. */

u64 mte_guest_el0(u64 addr, u64 insns, u64 data, u64 tco);
void mte_guest_leave_el0(struct ex_regs *regs);

/* Data, to see that it is the right page that has the tags. */

u64 mte_guest_read(u64 addr, u64 unused1, u64 unused2, u64 unused3);
u64 mte_write_data(u64 addr, u64 nr_pages, u64 stride, u64 data);
u64 mte_count_wrong_data(u64 addr, u64 nr_pages, u64 stride, u64 data);
u64 mte_write_addrs(u64 addr, u64 nr_pages, u64 stride, u64 unused);
u64 mte_count_wrong_addrs(u64 addr, u64 nr_pages, u64 stride, u64 unused);

/*
 * End of a test, for which ksft_finished() reports success even if all cases
 * were skipped. Inline, since the counters are those of the file.
 */
static inline void mte_finished(void)
{
	if (ksft_test_num() && ksft_get_xskip_cnt() == ksft_test_num()) {
		ksft_print_cnts();
		exit(KSFT_SKIP);
	}

	ksft_finished();
}

/* Virtual machines. */

void mte_require(void);
struct kvm_vm *mte_vm_create(u32 nr_vcpus, u64 mem_size, struct kvm_vcpu *vcpus[]);
void mte_vm_add_vcpus(struct kvm_vm *vm, u32 nr_vcpus, struct kvm_vcpu *vcpus[]);
void mte_vm_add_vcpus_el2(struct kvm_vm *vm, u32 nr_vcpus, struct kvm_vcpu *vcpus[]);
void mte_vm_add_slot(struct kvm_vm *vm, u32 slot, u32 flags, gpa_t gpa,
		     void *hva, size_t size);
void mte_vm_enable_eager_split(struct kvm_vm *vm, size_t chunk_size);
bool mte_stage2_leaves(struct kvm_vm *vm, gpa_t gpa, size_t size,
		       u64 *nr_blocks, u64 *nr_pages);
bool mte_stage2_shows(struct kvm_vm *vm, gpa_t gpa, const char *words);
void mte_vcpu_set_tcf(struct kvm_vcpu *vcpu, u64 tcf);

/* What mte_vcpu_call() runs in the guest. */
typedef u64 (*mte_guest_fn)(u64 arg0, u64 arg1, u64 arg2, u64 arg3);

void mte_vcpu_prepare(struct kvm_vcpu *vcpu, mte_guest_fn fn,
		      u64 arg0, u64 arg1, u64 arg2, u64 arg3);
u64 mte_vcpu_result(struct kvm_vcpu *vcpu);
u64 mte_vcpu_call(struct kvm_vcpu *vcpu, mte_guest_fn fn,
		  u64 arg0, u64 arg1, u64 arg2, u64 arg3);

/* What a guest with an EL2 lets the guest that it runs do with memory. */
#define GUEST_S2_READ		BIT(6)
#define GUEST_S2_WRITE		BIT(7)

gpa_t mte_guest_s2_create(struct kvm_vm *vm);
void mte_guest_s2_map(struct kvm_vm *vm, gpa_t root, gpa_t ipa, gpa_t gpa, int level,
		      u64 access);
void mte_vcpu_enter_el1(struct kvm_vcpu *vcpu, gpa_t root);

int __mte_copy_tags(struct kvm_vm *vm, gpa_t gpa, size_t size, void *tags, u64 flags);
void mte_copy_tags_to_guest(struct kvm_vm *vm, gpa_t gpa, size_t size, const void *tags);
void mte_copy_tags_from_guest(struct kvm_vm *vm, gpa_t gpa, size_t size, void *tags);

/* Dirty logging. */

enum dirty_log_mode {
	DIRTY_LOG_BITMAP,	/* KVM_GET_DIRTY_LOG write protects what it returns */
	DIRTY_LOG_MANUAL,	/* KVM_CLEAR_DIRTY_LOG does that */
	DIRTY_LOG_ALL_SET,	/* the same, and all pages are dirty at first */
	DIRTY_LOG_RING,		/* KVM_RESET_DIRTY_RINGS does that */
	DIRTY_LOG_RING_ONLY,	/* the same, without a bitmap in addition */
	DIRTY_LOG_RING_ALL_SET,	/* the same, and KVM_DIRTY_LOG_INITIALLY_SET, of bitmaps */
};

#define DIRTY_LOG_MAX_SLOTS	2
#define DIRTY_LOG_MAX_VCPUS	2

/**
 * struct dirty_log - Dirty logging of some memslots, in whatever way
 * @mode:	How dirty pages are logged.
 * @vm:		VM of mte_vm_create_logging().
 * @nr_vcpus:	Number of vCPUs.
 * @vcpus:	The vCPUs, whose rings are read.
 * @fetched:	Number of entries read from each ring.
 * @nr_slots:	Number of memslots.
 * @slots:	Number and size in host pages of each memslot, and the pages that
 *		the last dirty_log_fetch() has found dirty.
 */
struct dirty_log {
	enum dirty_log_mode	mode;
	struct kvm_vm		*vm;
	u32			nr_vcpus;
	struct kvm_vcpu		**vcpus;
	u32			fetched[DIRTY_LOG_MAX_VCPUS];
	u32			nr_slots;
	struct {
		u32		slot;
		u64		nr_pages;
		unsigned long	*bmap;
	} slots[DIRTY_LOG_MAX_SLOTS];
};

struct kvm_vm *mte_vm_create_logging(struct dirty_log *log, enum dirty_log_mode mode,
				     u32 nr_vcpus, u64 mem_size, struct kvm_vcpu *vcpus[]);
unsigned long *dirty_log_add_slot(struct dirty_log *log, u32 slot, size_t size);
void dirty_log_fetch(struct dirty_log *log);
void dirty_log_exit(struct dirty_log *log);

/* Memory. */

/* Size of what an entry of level 2 maps, the smallest block there is. */
static inline size_t pmd_size(void)
{
	return getpagesize() / sizeof(u64) * getpagesize();
}

enum mte_mem_type {
	MTE_MEM_ANON,		/* private, anonymous, base pages */
	MTE_MEM_ANON_THP,	/* private, anonymous, PMD mapped folios */
	MTE_MEM_MEMFD,		/* shared, base pages */
	MTE_MEM_MEMFD_THP,	/* shared, PMD mapped folios */
	MTE_MEM_HUGETLB,	/* private, anonymous, hugetlb folios */
	MTE_MEM_MEMFD_HUGETLB,	/* shared, hugetlb folios */
};

/**
 * struct mte_mem - Memory of one kind, mapped into the VMM without PROT_MTE
 * @type:	What kind of memory it is.
 * @size:	Size in bytes, a multiple of @folio_size.
 * @folio_size:	Size of a hugetlb folio, of a PMD mapped folio, or of a page.
 * @hva:	Start of the memory, aligned to @folio_size.
 * @fd:		The memfd, or -1 if the memory is private.
 * @map:	Mapping that @hva is a part of.
 * @map_size:	Size of @map.
 */
struct mte_mem {
	enum mte_mem_type	type;
	size_t			size;
	size_t			folio_size;
	void			*hva;
	int			fd;
	void			*map;
	size_t			map_size;
};

const char *mte_mem_alloc(struct mte_mem *mem, enum mte_mem_type type,
			  size_t folio_size, size_t size);
const char *mte_mem_populate(struct mte_mem *mem);
void *mte_mem_alias(const struct mte_mem *mem, int prot);
void mte_mem_free(struct mte_mem *mem);
const char *mte_mem_alloc_stale(struct mte_mem *mem, enum mte_mem_type type,
				size_t folio_size, size_t size);

typedef void (*mte_poison_fn)(const struct mte_mem *mem);

const char *mte_mem_alloc_stale_by(struct mte_mem *mem, enum mte_mem_type type,
				   size_t folio_size, size_t size,
				   mte_poison_fn poison_fn);

/**
 * struct page_frames - Page frames that some memory consists of
 * @nr:		Number of page frames.
 * @pfns:	Their numbers in ascending order.
 */
struct page_frames {
	size_t	nr;
	u64	*pfns;
};

const char *page_frames_get(struct page_frames *frames, const void *addr, size_t size);
size_t page_frames_count(const struct page_frames *frames, const void *addr, size_t size);
void page_frames_put(struct page_frames *frames);

/* Bits of an entry of /proc/self/pagemap. */
#define PAGEMAP_PRESENT		BIT_ULL(63)
#define PAGEMAP_PFN_MASK	GENMASK_ULL(54, 0)

/* Bit of the flags of a page: PG_arch_2, which is PG_mte_tagged. */
#define KPF_ARCH_2		BIT_ULL(41)

u64 pagemap_entry(const void *addr);
bool page_flags(u64 pfn, u64 *flags);
bool is_huge_mapped(const void *addr, size_t size);
int is_large_folio(const void *addr);
const char *memcg_enter(void);
void memcg_leave(void);
const char *swap_out(void *addr, size_t size);
const char *migrate_page(void *addr);
const char *split_huge_folios(const void *addr, size_t size);
const char *split_unmapped_folios(void);

#define HUGETLB_MAX_SIZES	8

int hugetlb_sizes(size_t sizes[HUGETLB_MAX_SIZES]);
const char *hugetlb_reserve(size_t folio_size, size_t nr);
void hugetlb_release(size_t folio_size);

#endif /* SELFTEST_KVM_ARM64_MTE_H */
