// SPDX-License-Identifier: GPL-2.0-only
/*
 * mte_isolation - Check that nobody gets to see the tags of somebody else.
 *
 * Page frames pass from one owner to the next with the allocation tags that the
 * last one has stored, since tags aren't cleared along with the data: that is
 * up to whoever gives access to them for the first time. The previous owner is
 * a process with a PROT_MTE mapping, or the guest of another VM. The next one
 * looks at the tags from the guest, with KVM_ARM_MTE_COPY_TAGS, or after
 * mprotect(PROT_MTE), each of which is a different path in the kernel. They
 * must all be zero, and they must be the guest's own once it has stored some.
 *
 * Tags can be looked at in one way and then in another. What the first one
 * does must not be taken for an initialisation if it isn't one, so do it in
 * pairs.
 *
 * A case counts only if the page frames are those of the previous owner, who
 * found the tags there before it went away.
 */
#include <sys/mman.h>

#include <linux/sizes.h>

#include "kvm_util.h"
#include "mte.h"
#include "processor.h"
#include "test_util.h"

#define DATA_SLOT	1

/* How many pages are looked at, if the folio is a page. */
#define NR_BASE_PAGES	32

/* A PMD of 64K pages is 512M, too much for some machines to have more than once. */
#define MAX_FOLIO_SIZE	SZ_64M

enum owner {
	PROCESS,
	GUEST,
	NR_OWNERS,
};

static const char * const owner_names[] = { "process", "guest" };

enum reader {
	BY_NOBODY,
	BY_GUEST,
	BY_IOCTL,
	BY_MPROTECT,
};

static const struct order {
	const char *name;
	enum reader first;
	enum reader second;
} orders[] = {
	{ "guest", BY_GUEST, BY_NOBODY },
	{ "ioctl, then guest", BY_IOCTL, BY_GUEST },
	{ "mprotect, then guest", BY_MPROTECT, BY_GUEST },
	{ "guest, then ioctl", BY_GUEST, BY_IOCTL },
	{ "guest, then mprotect", BY_GUEST, BY_MPROTECT },
};

static const struct mem_kind {
	const char *name;
	enum mte_mem_type type;
} mem_kinds[] = {
	{ "anon", MTE_MEM_ANON },
	{ "anon THP", MTE_MEM_ANON_THP },
	{ "memfd", MTE_MEM_MEMFD },
	{ "hugetlb", MTE_MEM_HUGETLB },
};

static size_t mem_size(const struct mem_kind *kind)
{
	if (kind->type == MTE_MEM_ANON_THP || kind->type == MTE_MEM_HUGETLB)
		return pmd_size();

	return NR_BASE_PAGES * getpagesize();
}

static bool is_applicable(const struct mem_kind *kind)
{
	return mem_size(kind) <= MAX_FOLIO_SIZE;
}

static u64 guest_poison(u64 addr, u64 size, u64 c, u64 d)
{
	mte_store_tags((void *)addr, size, MTE_POISON);

	return 0;
}

static struct kvm_vm *create_vm(const struct mte_mem *mem, struct kvm_vcpu **vcpu)
{
	struct kvm_vm *vm = mte_vm_create(1, mem->size, vcpu);

	mte_vm_add_slot(vm, DATA_SLOT, 0, MTE_TEST_GPA, mem->hva, mem->size);

	return vm;
}

/* The VM that had the page frames before, in a process of its own. */
static void poison_by_guest(const struct mte_mem *mem)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;

	vm = create_vm(mem, &vcpu);
	mte_vcpu_call(vcpu, guest_poison, MTE_TEST_GPA, mem->size, 0, 0);
	TEST_ASSERT(mte_vcpu_call(vcpu, mte_guest_have_tag, MTE_TEST_GPA, mem->size, MTE_POISON, 0),
		    "Tags don't read back as they were stored");
	kvm_vm_free(vm);
}

static u64 count_by_ioctl(struct kvm_vm *vm, const struct mte_mem *mem)
{
	size_t nr_tags = MTE_TAGS_SIZE(getpagesize()), offset, i;
	u8 *tags = malloc(nr_tags);
	u64 stale = 0;

	for (offset = 0; offset < mem->size; offset += getpagesize()) {
		/* None of them may be left alone by the ioctl either. */
		memset(tags, 0xff, nr_tags);
		mte_copy_tags_from_guest(vm, MTE_TEST_GPA + offset, getpagesize(), tags);
		for (i = 0; i < nr_tags && !tags[i]; i++)
			;
		stale += i < nr_tags;
	}
	free(tags);

	return stale;
}

static u64 count_stale(struct kvm_vm *vm, struct kvm_vcpu *vcpu,
		       const struct mte_mem *mem, enum reader reader)
{
	size_t page_size = getpagesize();

	switch (reader) {
	case BY_GUEST:
		return mte_vcpu_call(vcpu, mte_count_stale, MTE_TEST_GPA,
				     mem->size / page_size, page_size, page_size);
	case BY_IOCTL:
		return count_by_ioctl(vm, mem);
	case BY_MPROTECT:
		TEST_ASSERT(!mprotect(mem->hva, mem->size, PROT_READ | PROT_WRITE | PROT_MTE),
			    "mprotect(PROT_MTE) failed, errno %d", errno);
		return mte_count_stale((u64)mem->hva, mem->size / page_size,
				       page_size, page_size);
	default:
		return 0;
	}
}

static void run(const char *name, const struct order *order, const struct mte_mem *mem)
{
	size_t page_size = getpagesize();
	u64 nr_pages = mem->size / page_size, first, second, lost;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;

	vm = create_vm(mem, &vcpu);
	first = count_stale(vm, vcpu, mem, order->first);
	second = count_stale(vm, vcpu, mem, order->second);

	mte_vcpu_call(vcpu, mte_store_pattern, MTE_TEST_GPA, nr_pages, page_size, page_size);
	lost = mte_vcpu_call(vcpu, mte_count_lost, MTE_TEST_GPA, nr_pages, page_size, page_size);
	kvm_vm_free(vm);

	ksft_test_result(!first && !second && !lost,
			 "%s, seen by %s: %lu, then %lu of %lu pages stale, %lu lost\n",
			 name, order->name, first, second, nr_pages, lost);
}

static void run_or_skip(const struct mem_kind *kind, enum owner owner,
			const struct order *order)
{
	size_t size = mem_size(kind);
	const char *reason;
	struct mte_mem mem;
	char name[64];

	snprintf(name, sizeof(name), "%s of a %s", kind->name, owner_names[owner]);

	if (owner == GUEST)
		reason = mte_mem_alloc_stale_by(&mem, kind->type, size, size,
						poison_by_guest);
	else
		reason = mte_mem_alloc_stale(&mem, kind->type, size, size);
	if (reason) {
		ksft_test_result_skip("%s, seen by %s: %s\n", name, order->name, reason);
		return;
	}

	run(name, order, &mem);
	mte_mem_free(&mem);
}

int main(void)
{
	int plan = 0, kind, owner, order;

	ksft_print_header();
	mte_require();

	for (kind = 0; kind < ARRAY_SIZE(mem_kinds); kind++)
		plan += is_applicable(&mem_kinds[kind]) * NR_OWNERS * ARRAY_SIZE(orders);
	ksft_set_plan(plan);

	for (kind = 0; kind < ARRAY_SIZE(mem_kinds); kind++) {
		if (!is_applicable(&mem_kinds[kind]))
			continue;

		for (owner = 0; owner < NR_OWNERS; owner++) {
			for (order = 0; order < ARRAY_SIZE(orders); order++)
				run_or_skip(&mem_kinds[kind], owner, &orders[order]);
		}
	}

	mte_finished();
}
