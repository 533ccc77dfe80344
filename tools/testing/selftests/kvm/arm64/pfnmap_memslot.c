// SPDX-License-Identifier: GPL-2.0-only
/*
 * pfnmap_memslot - Check which kinds of mappings a memslot can have, and what
 * the guest is given of them.
 *
 * A memslot can consist of memory that the kernel manages, and of PFNs that a
 * driver has put into the page-tables of the VMM (VM_PFNMAP, VM_MIXEDMAP), which
 * it may have mapped cacheable or not. Three things decide whether a VM can have
 * it: whether the VM has MTE, as cacheable memory must be able to hold tags then;
 * whether the CPU makes caches coherent where KVM can't, which
 * KVM_CAP_ARM_CACHEABLE_PFNMAP_SUPPORTED tells; and whether a write of the guest
 * could be served, which it can't be where it takes a copy of a PFN. The answer has
 * to be the same when the memslot is registered, and when the memory is accessed
 * after the VMM has mapped it behind a memslot of other memory.
 *
 * Each kind of mapping is tried both ways, with MTE and without. If the memory
 * is accepted, data has to pass between VMM and guest, the memory attribute at
 * stage 2 must be the expected one, and a guest with MTE must see tags of zero
 * and be unable to store others, unless the memory is one that has tags. If it is
 * refused, there must be no memslot, or else KVM_RUN has to report the address, and
 * once other memory is mapped there the guest has to go on where it was. What
 * is mapped by a PMD in the VMM has to be mapped by a block at stage 2.
 *
 * A kernel that lacks the checks maps what it should not, or refuses device
 * memory to a VM with MTE, which can't do any harm with it.
 */
#include <pthread.h>
#include <sys/mman.h>

#include "kvm_util.h"
#include "memslot_kinds.h"
#include "mte.h"
#include "processor.h"
#include "test_util.h"

#define DATA_SLOT	1
#define HOST_DATA	0x1122334455667788UL

#define NR_VMS		2

/* Without MTE, and with it. */
static void run(const struct memslot_kind *kind, int mte, enum memslot_way way)
{
	bool missing = mte && !kvm_check_cap(KVM_CAP_ARM_MTE);
	const struct memslot_vm spec = {
		.name		= mte ? "MTE" : "no MTE",
		.missing	= missing ? "KVM doesn't offer MTE" : NULL,
		.mte		= mte,
		.tags_matter	= mte,
		.attr		= kind->attr,
	};

	memslot_report(memslot_check(kind, &spec, way));
}

/* One memslot is refused, and another one next to it goes on. */
static void run_two_slots(void)
{
	const struct memslot_kind bad = { .map_flags = MAP_PRIVATE };
	const struct memslot_vm spec = { .mte = true };
	size_t size = 4 * getpagesize();
	const char *failure = NULL;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	void *good, *hva;
	int ret;

	hva = kvm_mmap(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	good = kvm_mmap(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	if (!kvm_check_cap(KVM_CAP_ARM_MTE) || memslot_map_file(&bad, hva, size)) {
		ksft_test_result_skip("two memslots: KVM doesn't offer MTE\n");
		goto out;
	}

	vm = memslot_vm_create(&spec, size, &vcpu);
	vm_set_user_memory_region(vm, DATA_SLOT, 0, MTE_TEST_GPA, size, good);
	WRITE_ONCE(*(u64 *)good, HOST_DATA);
	mte_vcpu_call(vcpu, mte_guest_read, MTE_TEST_GPA, 0, 0, 0);

	ret = __vm_set_user_memory_region(vm, DATA_SLOT + 1, 0, MTE_TEST_GPA + size, size, hva);
	if (!failed_with(ret, EINVAL))
		failure = "the second one isn't refused";
	else if (!mte_stage2_shows(vm, MTE_TEST_GPA, "R"))
		failure = "the first one was unmapped";
	else if (mte_vcpu_call(vcpu, mte_guest_read, MTE_TEST_GPA, 0, 0, 0) != HOST_DATA)
		failure = "the first one has lost its data";

	ksft_test_result(!failure, "two memslots%s%s\n", failure ? ": " : "", failure ?: "");
	kvm_vm_free(vm);
out:
	kvm_munmap(good, size);
	kvm_munmap(hva, size);
}

/*
 * Device memory and other memory, both of which the VM can have, take each other's
 * place while the guest uses them. What KVM has looked at may be gone when it decides,
 * which is no reason to refuse the access.
 */

#define REPLACE_MS	1000

static const struct memslot_kind replacement = {
	.map_flags = MAP_SHARED, .device = KVM_TEST_MEM_NC,
};

static bool replace_over;
static u64 nr_replaced;

static void *replace(void *hva)
{
	while (!READ_ONCE(replace_over)) {
		memslot_map_device(&replacement, hva, getpagesize());
		memslot_map_anon(hva, getpagesize());
		nr_replaced++;
	}

	return NULL;
}

static void run_replaced(void)
{
	const struct memslot_vm spec = { .mte = true };
	const char *name = "device memory and other memory replace each other";
	size_t size = getpagesize();
	const char *failure = NULL;
	struct timespec start;
	struct kvm_vcpu *vcpu;
	pthread_t thread;
	struct kvm_vm *vm;
	u64 nr = 0;
	void *hva;

	if (!kvm_check_cap(KVM_CAP_ARM_MTE) || memslot_host.no_device) {
		ksft_test_result_skip("%s: %s\n", name,
				      memslot_host.no_device ?: "KVM doesn't offer MTE");
		return;
	}

	hva = kvm_mmap(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	vm = memslot_vm_create(&spec, size, &vcpu);
	vm_set_user_memory_region(vm, DATA_SLOT, 0, MTE_TEST_GPA, size, hva);

	TEST_ASSERT(!pthread_create(&thread, NULL, replace, hva), "pthread_create() failed");
	clock_gettime(CLOCK_MONOTONIC, &start);
	while (!failure && timespec_to_ns(timespec_elapsed(start)) < REPLACE_MS * 1000000L) {
		mte_vcpu_prepare(vcpu, mte_guest_read, MTE_TEST_GPA, 0, 0, 0);
		if (_vcpu_run(vcpu))
			failure = "an access is refused";
		else
			mte_vcpu_result(vcpu);
		nr++;
	}
	WRITE_ONCE(replace_over, true);
	pthread_join(thread, NULL);

	if (!failure && !nr_replaced)
		failure = "nothing was replaced";

	ksft_print_msg("%s: %lu times, %lu accesses\n", name, nr_replaced, nr);
	ksft_test_result(!failure, "%s%s%s\n", name, failure ? ": " : "", failure ?: "");
	kvm_vm_free(vm);
	kvm_munmap(hva, size);
}

static void run_capability(void)
{
	int mte = kvm_check_cap(KVM_CAP_ARM_MTE) ? KVM_ARM_MTE_PERM_UNCACHED : 0;
	struct kvm_enable_cap cap = { .cap = KVM_CAP_ARM_MTE_PERM };
	struct kvm_vm *vm = vm_create_barebones();
	bool good;

	good = (kvm_check_cap(KVM_CAP_ARM_MTE_PERM) & KVM_ARM_MTE_PERM_UNCACHED) == mte &&
	       (vm_check_cap(vm, KVM_CAP_ARM_MTE_PERM) & KVM_ARM_MTE_PERM_UNCACHED) == mte;
	cap.args[0] = KVM_ARM_MTE_PERM_UNCACHED;
	good &= failed_with(__vm_ioctl(vm, KVM_ENABLE_CAP, &cap), EINVAL);
	ksft_test_result(good, "KVM_CAP_ARM_MTE_PERM\n");
	memslot_report_host();

	kvm_vm_free(vm);
}

int main(void)
{
	ksft_print_header();
	memslot_init();
	ksft_set_plan(memslot_nr_cases(NR_VMS) + 3 + MEMSLOT_NR_HOST_CASES);

	memslot_for_each(NR_VMS, run);
	run_two_slots();
	run_replaced();
	run_capability();

	mte_finished();
}
