/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The kinds of mappings that a memslot can be made of, which VMs can have them, and
 * checks that a VM is given what it can have and nothing else.
 *
 * The checks return a verdict, which the test reports with memslot_report(): each file
 * has its own count of the cases that have passed.
 */
#ifndef SELFTEST_KVM_ARM64_MEMSLOT_KINDS_H
#define SELFTEST_KVM_ARM64_MEMSLOT_KINDS_H

#include "kvm_util.h"
#include "mte.h"
#include "test_mem.h"

/* What it is with regard to tags, for the VMM that wants to give it to a VM with MTE. */
enum memslot_class {
	MEMSLOT_TAGS,		/* it can have tags */
	MEMSLOT_UNCACHED,	/* PFNs, but nothing that is mapped uncached has tags */
	MEMSLOT_PFNS,		/* PFNs that are cacheable, or may be: without tags */
	MEMSLOT_PAGES,		/* pages, or what may be pages, without tags */
};

/* Who can have it. */
enum memslot_rule {
	RULE_YES,
	RULE_NO,
	/* Only with KVM_CAP_ARM_CACHEABLE_PFNMAP_SUPPORTED. */
	RULE_COHERENT,
};

/* How the mapping gets into the memslot. */
enum memslot_way {
	MEMSLOT_REGISTERED,
	/* The VMM maps it where other memory was, which the guest has accessed. */
	MEMSLOT_BEHIND,
	/* Registered, and mapped by a PMD in the VMM: for the test device only. */
	MEMSLOT_BLOCK,
};

/* Memory attributes at stage 2, in the words of the dump of the page-table. */
#define S2_NORMAL	"MEM/NORMAL "
#define S2_NC		"MEM/NORMAL-NC"
#define S2_DEVICE	"DEVICE/nGnRE"

/**
 * struct memslot_kind - A kind of mapping
 * @name:	What it is called.
 * @class:	What it is with regard to tags.
 * @map:	Puts such a mapping at an address. Returns NULL, or why there is none.
 * @device:	Kind of memory of the test device, if it is that.
 * @flags:	KVM_TEST_MEM_* of the test device, or of open() for /dev/mem.
 * @map_flags:	MAP_SHARED or MAP_PRIVATE.
 * @readonly:	The memslot is read-only.
 * @rule:	Whether a VM can have the memslot.
 * @mte_rule:	The same where tags matter.
 * @access:	If the memslot is accepted, as KVM can't know: whether an access works.
 * @mte_access:	The same where tags matter.
 * @good_pfn:	Where tags don't matter an access is judged by the PFN, which KVM can
 *		deal with.
 * @attr:	Memory attribute at stage 2.
 */
struct memslot_kind {
	const char			*name;
	enum memslot_class		class;
	const char			*(*map)(const struct memslot_kind *kind, void *addr,
						size_t size);
	enum kvm_test_mem_kind		device;
	u32				flags;
	int				map_flags;
	bool				readonly;
	enum memslot_rule		rule;
	enum memslot_rule		mte_rule;
	enum memslot_rule		access;
	enum memslot_rule		mte_access;
	bool				good_pfn;
	const char			*attr;
};

/**
 * struct memslot_vm - A VM that is to try a kind, and what is expected then
 * @name:	What it is called.
 * @missing:	Why there can't be such a VM, or NULL.
 * @mte:	It has MTE.
 * @perm:	What it has enabled of KVM_CAP_ARM_MTE_PERM, or 0.
 * @tags_matter: That the memory has no tags may be a reason to refuse it.
 * @attr:	Memory attribute at stage 2.
 * @tag_access:	How to access tags if that exits, or NULL if it does not: makes the
 *		access to the page at @gpa, and may replace what is mapped at @hva. Called
 *		last. Returns NULL, or what is wrong about the exit.
 */
struct memslot_vm {
	const char	*name;
	const char	*missing;
	bool		mte;
	u64		perm;
	bool		tags_matter;
	const char	*attr;
	const char	*(*tag_access)(struct kvm_vcpu *vcpu, gpa_t gpa, bool readonly, void *hva);
};

/**
 * struct memslot_verdict - What has come of a case
 * @name:	"<kind>, <VM>, <way>", or "block of <kind>, <VM>".
 * @skip:	Why it could not be tried, or NULL.
 * @failure:	If it was tried, what is wrong, or NULL.
 */
struct memslot_verdict {
	char		name[128];
	const char	*skip;
	const char	*failure;
};

/**
 * struct memslot_host - What the checks depend on, valid after memslot_init()
 * @faults_told: KVM tells the address of an access that it could not resolve.
 * @table_shown: The page-table at stage 2 can be read.
 * @attrs_shown: And it shows memory attributes.
 * @no_device:	Why there is no test device, or NULL.
 */
struct memslot_host {
	bool		faults_told;
	bool		table_shown;
	bool		attrs_shown;
	const char	*no_device;
};

extern struct memslot_host memslot_host;

void memslot_init(void);
int memslot_ramfs_file(void);
void memslot_map_anon(void *addr, size_t size);
const char *memslot_map_file(const struct memslot_kind *kind, void *addr, size_t size);
const char *memslot_map_device(const struct memslot_kind *kind, void *addr, size_t size);
const char *memslot_map_block(const struct memslot_kind *kind, void **addr);
struct kvm_vm *memslot_vm_create(const struct memslot_vm *spec, size_t size,
				 struct kvm_vcpu **vcpu);
struct memslot_verdict memslot_check(const struct memslot_kind *kind,
				     const struct memslot_vm *spec, enum memslot_way way);

/* Runs one case of those that there are of each kind. @vm is up to the test. */
typedef void (*memslot_run_fn)(const struct memslot_kind *kind, int vm, enum memslot_way way);

void memslot_for_each(int nr_vms, memslot_run_fn run);
int memslot_nr_cases(int nr_vms);

/* A call into KVM that has to fail, and for that reason. */
static inline bool failed_with(int ret, int err)
{
	return ret < 0 && errno == err;
}

/* Inline, since the counters are those of the file. */
static inline void memslot_report(struct memslot_verdict verdict)
{
	const char *name = verdict.name, *failure = verdict.failure;

	if (verdict.skip)
		ksft_test_result_skip("%s: %s\n", name, verdict.skip);
	else
		ksft_test_result(!failure, "%s%s%s\n", name, failure ? ": " : "", failure ?: "");
}

#define MEMSLOT_NR_HOST_CASES	2

/* Without these all others say less, so their presence is a case of its own. */
static inline void memslot_report_host(void)
{
	ksft_test_result(memslot_host.faults_told, "KVM_CAP_MEMORY_FAULT_INFO\n");
	if (memslot_host.table_shown)
		ksft_test_result(memslot_host.attrs_shown,
				 "memory attributes in the stage-2 page-table\n");
	else
		ksft_test_result_skip("memory attributes: the hypervisor has the page-table\n");
}

#endif /* SELFTEST_KVM_ARM64_MEMSLOT_KINDS_H */
