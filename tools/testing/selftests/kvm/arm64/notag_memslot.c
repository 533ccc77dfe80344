// SPDX-License-Identifier: GPL-2.0-only
/*
 * notag_memslot - Check which kinds of mappings a VM with MTE can have once the VMM
 * has asked for memory without tags, and what the guest is given of them.
 *
 * Cacheable memory that can't hold allocation tags is refused to a VM with MTE, see
 * pfnmap_memslot, unless the VMM has enabled that kind of it by KVM_CAP_ARM_MTE_PERM:
 * PFNs, or pages. A VM with MTE can then have it where one without MTE can, which is
 * to say that caches have to be coherent and that a write of the guest can be served.
 * It is mapped at stage 2 with NoTagAccess. What has been enabled makes no difference
 * to memory of another kind.
 *
 * Each kind of mapping is tried as a memslot that is registered, and mapped behind a
 * memslot of other memory, in a VM that has enabled all memory without tags that KVM
 * offers, and in one that has enabled only what the mapping isn't. If the VM can have
 * it, data has to pass, and an access to tags has to exit where the memory is mapped
 * with NoTagAccess, and to complete once there is memory that has tags. A memslot that
 * is read-only, and one that is mapped by a block, are no exception. If the VM can't
 * have it, it must be refused as if nothing had been enabled.
 *
 * A broken kernel takes one kind of memory for another, and gives the guest access to
 * tags that nobody keeps; forgets about the attribute in one of the ways in which
 * memory is mapped; tells the VMM a wrong address; or accepts what nobody
 * should have, as soon as the VMM has enabled anything.
 */
#include "kvm_util.h"
#include "memslot_kinds.h"
#include "mte.h"
#include "notag.h"
#include "test_util.h"

#define TEST_TAG	0x5

#define S2_NOTAG	"MEM/NOTAG"

enum enabled {
	/* All memory without tags that KVM offers. */
	ALL_ENABLED,
	/* The same, but for that which the memory in question needs. */
	OTHER_ENABLED,
	NR_VMS,
};

static const char * const vm_names[] = {
	[ALL_ENABLED]	= "memory without tags enabled",
	[OTHER_ENABLED]	= "other memory enabled",
};

/* Memory without tags that can be enabled. */
static u64 offered;

/* What would let a VM have the memory. For memory that no VM can have, nothing does. */
static u64 needed_bits(const struct memslot_kind *kind)
{
	return kind->rule == RULE_NO ? 0 : notag_bit(kind->class);
}

static u64 enabled_bits(enum enabled enabled, u64 needed)
{
	if (enabled == ALL_ENABLED)
		return offered;

	/* If it needs none, one that makes no difference. */
	return needed ? offered & ~needed : offered & -offered;
}

/*
 * An access to tags exits where memory is mapped without them, and completes once the
 * VMM has mapped a page there that has tags.
 */
static const char *check_tag_access(struct kvm_vcpu *vcpu, gpa_t gpa, bool readonly, void *hva)
{
	static char buf[160];
	const char *failure;

	/* Load only, as a store could be taken for a write, which is denied as well. */
	if (readonly)
		mte_vcpu_prepare(vcpu, mte_guest_have_tag, gpa, MTE_GRANULE_SIZE, 0, 0);
	else
		mte_vcpu_prepare(vcpu, mte_guest_try_tag, gpa, TEST_TAG, 0, 0);

	failure = mte_vcpu_run_notag(vcpu, gpa);
	if (failure) {
		snprintf(buf, sizeof(buf), "an access to tags %s", failure);
		return buf;
	}

	memslot_map_anon(hva, getpagesize());
	if (_vcpu_run(vcpu))
		return "the guest doesn't go on with memory that has tags";
	if (mte_vcpu_result(vcpu) != (readonly ? 1 : TEST_TAG))
		return "no tags in memory that has them";

	return NULL;
}

static void run(const struct memslot_kind *kind, int enabled, enum memslot_way way)
{
	u64 needed = needed_bits(kind), bits = enabled_bits(enabled, needed);
	/* Only what is cacheable could have tags, and needs an attribute not to have them. */
	bool notag = bits & needed && !strcmp(kind->attr, S2_NORMAL);
	const struct memslot_vm spec = {
		.name		= vm_names[enabled],
		.missing	= bits ? NULL : "KVM doesn't offer other memory without tags",
		.mte		= true,
		.perm		= bits,
		.tags_matter	= !(bits & needed),
		.attr		= notag ? S2_NOTAG : kind->attr,
		.tag_access	= notag ? check_tag_access : NULL,
	};

	memslot_report(memslot_check(kind, &spec, way));
}

/* Pages, as far as KVM can know: that caches aren't coherent is found out on an access. */
static const struct memslot_kind mixedmap_block = {
	.name = "MIXEDMAP cacheable", .class = MEMSLOT_PAGES, .device = KVM_TEST_MEM_CACHED,
	.flags = KVM_TEST_MEM_MIXED,
	.mte_rule = RULE_NO, .access = RULE_COHERENT, .attr = S2_NORMAL,
};

int main(void)
{
	int i;

	ksft_print_header();
	mte_require();
	offered = kvm_check_cap(KVM_CAP_ARM_MTE_PERM) & NOTAG_BITS;
	__TEST_REQUIRE(offered, "KVM doesn't offer memory without tags");
	memslot_init();
	ksft_set_plan(memslot_nr_cases(NR_VMS) + NR_VMS + MEMSLOT_NR_HOST_CASES);

	memslot_for_each(NR_VMS, run);
	for (i = 0; i < NR_VMS; i++)
		run(&mixedmap_block, i, MEMSLOT_BLOCK);
	memslot_report_host();

	mte_finished();
}
