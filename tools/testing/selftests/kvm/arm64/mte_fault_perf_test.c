// SPDX-License-Identifier: GPL-2.0-only
/*
 * mte_fault_perf_test - Measure what a stage-2 fault costs, with and without MTE.
 *
 * The memory is populated in the VMM and, in a VM with MTE, its tags have been
 * initialised by an earlier round, so that nothing remains to be done but to
 * install a leaf. The smallest of several rounds is reported, in nanoseconds of
 * the virtual counter for each fault or split page.
 *
 * On an emulator that derives the counter from the number of instructions that
 * were executed, as QEMU does with "-icount shift=0" (a nanosecond each), this
 * is the length of the path, from the guest to the guest, and can be compared
 * between kernels.
 */
#include <linux/sizes.h>

#include "kvm_util.h"
#include "mte.h"
#include "processor.h"
#include "test_util.h"

#define DATA_SLOT	1
#define NR_ROUNDS	20
#define NR_BLOCKS	8

static u64 counter(void)
{
	isb();

	return read_sysreg(cntvct_el0);
}

static u64 to_ns(u64 ticks)
{
	return ticks * 1000000000UL / read_sysreg(cntfrq_el0);
}

static u64 guest_touch(u64 addr, u64 nr_pages, u64 stride, u64 write)
{
	for (; nr_pages; nr_pages--, addr += stride) {
		if (write)
			WRITE_ONCE(*(u64 *)addr, addr);
		else
			READ_ONCE(*(u64 *)addr);
	}

	return 0;
}

static struct kvm_vm *create_vm(bool mte, struct kvm_vcpu **vcpu)
{
	struct kvm_vm *vm = __vm_create(VM_SHAPE_DEFAULT, 1, NR_BLOCKS * pmd_size() / SZ_4K);

	if (mte)
		vm_enable_cap(vm, KVM_CAP_ARM_MTE, 0);
	mte_vm_enable_eager_split(vm, pmd_size());
	mte_vm_add_vcpus(vm, 1, vcpu);

	return vm;
}

static u64 timed_touch(struct kvm_vcpu *vcpu, u64 nr, u64 stride, bool write)
{
	u64 start = counter();

	mte_vcpu_call(vcpu, guest_touch, MTE_TEST_GPA, nr, stride, write);

	return counter() - start;
}

static void measure(bool mte, enum mte_mem_type type)
{
	const char *name = mte ? "with MTE" : "without MTE";
	bool blocks = type == MTE_MEM_ANON_THP;
	size_t size = blocks ? NR_BLOCKS * pmd_size() : pmd_size();
	u64 nr = blocks ? NR_BLOCKS : size / getpagesize(), stride = size / nr;
	u64 read = -1, write = -1, perm = -1, split = -1, start;
	const char *reason;
	struct kvm_vcpu *vcpu;
	struct mte_mem mem;
	struct kvm_vm *vm;
	int i;

	reason = mte_mem_alloc(&mem, type, 0, size);
	if (!reason)
		reason = mte_mem_populate(&mem);
	if (reason) {
		ksft_test_result_skip("%s, %s: %s\n", name, blocks ? "blocks" : "pages", reason);
		return;
	}

	vm = create_vm(mte, &vcpu);
	virt_map(vm, MTE_TEST_GPA, MTE_TEST_GPA, size / vm->page_size);

	for (i = 0; i < NR_ROUNDS; i++) {
		vm_set_user_memory_region(vm, DATA_SLOT, 0, MTE_TEST_GPA, size, mem.hva);
		read = min(read, timed_touch(vcpu, nr, stride, false));
		vm_set_user_memory_region(vm, DATA_SLOT, 0, MTE_TEST_GPA, 0, mem.hva);

		vm_set_user_memory_region(vm, DATA_SLOT, 0, MTE_TEST_GPA, size, mem.hva);
		write = min(write, timed_touch(vcpu, nr, stride, true));

		/* Splits blocks, and write protects everything. */
		start = counter();
		vm_set_user_memory_region(vm, DATA_SLOT, KVM_MEM_LOG_DIRTY_PAGES,
					  MTE_TEST_GPA, size, mem.hva);
		split = min(split, counter() - start);
		perm = min(perm, timed_touch(vcpu, nr, stride, true));
		vm_set_user_memory_region(vm, DATA_SLOT, 0, MTE_TEST_GPA, 0, mem.hva);
	}

	ksft_test_result_pass("%s, %s: read %lu, write %lu, write to a protected page %lu, enabling dirty logging %lu per %s\n",
			      name, blocks ? "blocks" : "pages", to_ns(read) / nr,
			      to_ns(write) / nr, to_ns(perm) / nr, to_ns(split) / nr,
			      blocks ? "block" : "page");

	kvm_vm_free(vm);
	mte_mem_free(&mem);
}

int main(void)
{
	ksft_print_header();
	mte_require();
	ksft_set_plan(4);

	measure(false, MTE_MEM_ANON);
	measure(false, MTE_MEM_ANON_THP);
	measure(true, MTE_MEM_ANON);
	measure(true, MTE_MEM_ANON_THP);

	ksft_finished();
}
