// SPDX-License-Identifier: GPL-2.0-only
/*
 * notag_perf_test - Measure what a stage-2 fault costs in a VM that can have memory
 * without tags, in comparison with one that can't.
 *
 * The guest writes to pages that it has written to before and that the VMM has populated:
 * anonymous ones in a VM without MTE, in one with MTE, and in one that has enabled memory
 * without tags; those of a file in the first and the last. The smallest of several rounds
 * is reported; see perf_figure.h for what the figures are.
 */
#include <linux/sizes.h>
#include <sys/mman.h>

#include "kvm_util.h"
#include "memslot_kinds.h"
#include "mte.h"
#include "perf_figure.h"
#include "test_util.h"

#define DATA_SLOT	1
#define NR_ROUNDS	8

static const struct memslot_vm vms[] = {
	{ .name = "nomte" },
	{ .name = "mte", .mte = true },
	{ .name = "optin", .mte = true, .perm = KVM_ARM_MTE_PERM_PAGES },
};

static void *map_memory(bool file, size_t size)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS, fd = -1;
	void *hva;

	if (file) {
		flags = MAP_SHARED;
		fd = memslot_ramfs_file();
		kvm_ftruncate(fd, size);
	}

	hva = kvm_mmap(size, PROT_READ | PROT_WRITE, flags, fd);
	if (!file)
		kvm_madvise(hva, size, MADV_NOHUGEPAGE);
	kvm_madvise(hva, size, MADV_POPULATE_WRITE);

	return hva;
}

static void measure(const struct memslot_vm *spec, bool file)
{
	size_t size = pmd_size();
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	u64 write = -1;
	char name[32];
	void *hva;
	int i;

	hva = map_memory(file, size);
	vm = memslot_vm_create(spec, size, &vcpu);

	for (i = 0; i < NR_ROUNDS; i++) {
		vm_set_user_memory_region(vm, DATA_SLOT, 0, MTE_TEST_GPA, size, hva);
		write = min(write, perf_write_pages(vcpu, size));
		vm_set_user_memory_region(vm, DATA_SLOT, 0, MTE_TEST_GPA, 0, hva);
	}

	snprintf(name, sizeof(name), "%s.%s", spec->name, file ? "file" : "anonymous");
	ksft_test_result_pass("%s\n", name);
	perf_figure("write", name, write, size / getpagesize());

	kvm_vm_free(vm);
	kvm_munmap(hva, size);
}

int main(void)
{
	int i;

	ksft_print_header();
	mte_require();
	__TEST_REQUIRE(kvm_check_cap(KVM_CAP_ARM_MTE_PERM) & KVM_ARM_MTE_PERM_PAGES,
		       "KVM has no memory without tags for VMs with MTE");
	__TEST_REQUIRE(memslot_ramfs_file() >= 0, "can't mount a ramfs");
	ksft_set_plan(ARRAY_SIZE(vms) + 2);

	for (i = 0; i < ARRAY_SIZE(vms); i++)
		measure(&vms[i], false);
	measure(&vms[0], true);
	measure(&vms[2], true);

	ksft_finished();
}
