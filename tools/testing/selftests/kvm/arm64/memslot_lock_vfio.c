// SPDX-License-Identifier: GPL-2.0-only
/*
 * memslot_lock_vfio - Check that memory can be locked for a guest and mapped for a
 * device that the guest was given, both at the same time.
 *
 * VFIO pins and accounts memory for as long as the IOMMU maps it, and a lock does for
 * as long as the memslot is locked. Neither knows of the other. So memory that has both
 * is pinned twice and counts twice, also against RLIMIT_MEMLOCK, whichever comes first,
 * and when one is gone, also with the VM, the other is as it was.
 *
 * The guest has the registers of the device as a memslot and has it copy memory, from
 * and to memory that is locked. It must see what the device writes, the device what the
 * guest writes, and the guest must take no fault: pins of others must not have made the
 * lock miss a page, map it by other leaves, or let MMU notifiers unmap it.
 *
 * The registers aren't memory that can be pinned, so their memslot can't be locked.
 *
 * A broken kernel unpins what is still in use by the other one, loses count of locked
 * memory, or has device and guest work on different pages.
 *
 * Takes the address of QEMU's edu device, bound to vfio-pci, on the command line or in
 * VFIO_SELFTESTS_BDF. Its copies take a tenth of a second each.
 */
#include <sys/mman.h>
#include <sys/resource.h>

#include <linux/sizes.h>

#include "kvm_util.h"
#include "memslot_kinds.h"
#include "memslot_lock.h"
#include "mte.h"
#include "processor.h"
#include "test_util.h"
#include "vfio_device.h"

#define BAR_SLOT	(LOCK_SLOT + 1)
#define BAR_GPA		(MTE_TEST_GPA + SZ_1G)

/* Where the device has the memory: below 1 << EDU_DMA_BITS, and not where MSIs go. */
#define IOVA		((u64)SZ_64M)

/* In a page, where neither lock_vm_check_reads() nor lock_vm_check_writes() looks. */
#define SRC_OFFSET	64
#define DST_OFFSET	128
#define COPY_SIZE	sizeof(u64)

static struct vfio_device device;
static void *bar;
static size_t bar_size;
static size_t page_size;

static const u64 all_perms[] = { MEMSLOT_LOCK_R, MEMSLOT_LOCK_RW };

/* The device, for the guest and for the VMM. */

static u64 read_register(u64 regs, u64 offset)
{
	return READ_ONCE(*(u64 *)(regs + offset));
}

static void write_register(u64 regs, u64 offset, u64 val)
{
	WRITE_ONCE(*(u64 *)(regs + offset), val);
}

static void copy_one(u64 regs, u64 src, u64 dst, u64 direction)
{
	write_register(regs, EDU_DMA_SRC, src);
	write_register(regs, EDU_DMA_DST, dst);
	write_register(regs, EDU_DMA_COUNT, COPY_SIZE);
	write_register(regs, EDU_DMA_CMD, direction | EDU_DMA_START);
	while (read_register(regs, EDU_DMA_CMD) & EDU_DMA_START)
		;
}

/* Copy from memory to memory. The device can only do that by way of memory of its own. */
static u64 have_device_copy(u64 regs, u64 src, u64 dst, u64 unused)
{
	copy_one(regs, src, EDU_BUFFER, 0);
	copy_one(regs, EDU_BUFFER, dst, EDU_DMA_TO_MEMORY);

	return 0;
}

/* What the IOMMU maps, from IOVA on. */
static size_t iommu_mapped;

static int iommu_map(void *hva, size_t size)
{
	struct vfio_iommu_type1_dma_map map = {
		.argsz	= sizeof(map),
		.flags	= VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
		.vaddr	= (u64)hva,
		.iova	= IOVA,
		.size	= size,
	};

	int ret = ioctl(device.container, VFIO_IOMMU_MAP_DMA, &map);

	if (!ret)
		iommu_mapped = size;

	return ret;
}

static void iommu_unmap(void)
{
	struct vfio_iommu_type1_dma_unmap unmap = {
		.argsz	= sizeof(unmap),
		.iova	= IOVA,
		.size	= iommu_mapped,
	};

	if (!iommu_mapped)
		return;

	TEST_ASSERT(!ioctl(device.container, VFIO_IOMMU_UNMAP_DMA, &unmap) &&
		    unmap.size == iommu_mapped,
		    "VFIO_IOMMU_UNMAP_DMA failed, errno %d, %llu bytes", errno, unmap.size);
	iommu_mapped = 0;
}

/* Mapped for the device, all of it is accounted, and each page is pinned. */
static const char *check_iommu_map(const struct lock_vm *lvm)
{
	struct lock_usage usage = lock_usage();

	if (iommu_map(lvm->hva, lvm->size))
		return lock_failed("can't be mapped for the device, errno %d", errno);

	usage.locked_vm += lvm->size;
	usage.pins += lvm->nr_pages;

	return lock_usage_is(usage) ? NULL : "VFIO doesn't account or pin what it maps";
}

/* A VM that has the device, and memory to be locked. */

static void create_vm(struct lock_vm *lvm, const struct mte_mem *mem)
{
	struct kvm_vm *vm = __vm_create(VM_SHAPE_DEFAULT, 1, (mem->size + bar_size) / SZ_4K);
	struct kvm_vcpu *vcpu;

	mte_vm_add_vcpus(vm, 1, &vcpu);
	lock_vm_init(lvm, vm, vcpu, 0, MTE_TEST_GPA, mem->hva, mem->size);
	virt_map(vm, MTE_TEST_GPA, MTE_TEST_GPA, mem->size / vm->page_size);
	mte_vm_add_slot(vm, BAR_SLOT, 0, BAR_GPA, bar, bar_size);
}

/* From the first page to the last one, by the guest, without faults on either. */
static const char *check_device(const struct lock_vm *lvm)
{
	u64 src = SRC_OFFSET, dst = lvm->size - page_size + DST_OFFSET, nr;
	static u64 data = 0x64657600000000UL;

	/* On the registers the guest may take some. */
	nr = guest_faults(lvm->faults);
	mte_vcpu_call(lvm->vcpu, mte_write_data, lvm->gpa + src, 1, 0, ++data);
	mte_vcpu_call(lvm->vcpu, have_device_copy, BAR_GPA, IOVA + src, IOVA + dst, 0);
	if (READ_ONCE(*(u64 *)(lvm->hva + dst)) != data)
		return "the device doesn't copy what the guest has written";
	if (mte_vcpu_call(lvm->vcpu, mte_guest_read, lvm->gpa + dst, 0, 0, 0) != data)
		return "the guest doesn't see what the device has written";

	nr = guest_faults(lvm->faults) - nr;

	return nr ? lock_failed("with the device, the guest takes %lu faults", nr) : NULL;
}

/* The VMM has it copy something. */
static const char *check_device_alone(const struct lock_vm *lvm)
{
	u64 *src = lvm->hva + SRC_OFFSET, *dst = lvm->hva + lvm->size - page_size + DST_OFFSET;

	WRITE_ONCE(*src, READ_ONCE(*dst) + 1);
	have_device_copy((u64)bar, IOVA + ((void *)src - lvm->hva),
			 IOVA + ((void *)dst - lvm->hva), 0);

	return READ_ONCE(*dst) == READ_ONCE(*src) ? NULL :
	       "the device doesn't copy what the VMM has written";
}

/* Guest and device, as long as the memslot is locked. */
static const char *check_use(const struct lock_vm *lvm, u64 perms)
{
	u64 nr_writes = perms == MEMSLOT_LOCK_R ? lvm->nr_pages : 0;

	lock_vm_fill(lvm);

	return lock_vm_check_reads(lvm, 0, 0) ?:
	       lock_vm_check_writes(lvm, nr_writes, nr_writes) ?:
	       check_device(lvm);
}

struct sizes {
	u64 nr_blocks;
	u64 nr_pages;
};

/* Locked while the device has it, and unlocked: the device doesn't notice. */
static const char *check_device_first(struct lock_vm *lvm, u64 perms, struct sizes sizes)
{
	struct lock_usage none = lvm->base;
	const char *failure;

	failure = check_iommu_map(lvm);
	if (failure)
		return failure;

	/* What is checked from here on is what comes on top of that. */
	lvm->base = lock_usage();
	if (__memslot_lock(lvm->vm, LOCK_SLOT, perms))
		return lock_failed("can't be locked, errno %d", errno);
	failure = lock_vm_check_locked(lvm, sizes.nr_blocks, sizes.nr_pages) ?:
		  check_use(lvm, perms) ?:
		  lock_vm_check_locked(lvm, sizes.nr_blocks, sizes.nr_pages);
	if (failure)
		return failure;

	memslot_unlock(lvm->vm, LOCK_SLOT);
	failure = lock_vm_check_unlocked(lvm) ?: check_device_alone(lvm);
	if (failure)
		return failure;

	iommu_unmap();
	lvm->base = none;

	return lock_vm_check_unlocked(lvm);
}

/* The device gets it while it is locked, and loses it: the guest doesn't notice. */
static const char *check_lock_first(struct lock_vm *lvm, u64 perms, struct sizes sizes)
{
	struct lock_usage none = lvm->base;
	const char *failure;

	memslot_lock(lvm->vm, LOCK_SLOT, perms);
	failure = check_iommu_map(lvm);
	if (failure)
		return failure;

	/* As if VFIO had been there before. */
	lvm->base.locked_vm += lvm->size;
	lvm->base.pins += lvm->nr_pages;
	failure = lock_vm_check_locked(lvm, sizes.nr_blocks, sizes.nr_pages) ?:
		  check_use(lvm, perms);
	if (failure)
		return failure;

	iommu_unmap();
	lvm->base = none;
	failure = lock_vm_check_locked(lvm, sizes.nr_blocks, sizes.nr_pages) ?:
		  lock_vm_check_reads(lvm, 0, 0) ?:
		  lock_vm_check_writes(lvm, 0, 0);
	if (failure)
		return failure;

	memslot_unlock(lvm->vm, LOCK_SLOT);

	return lock_vm_check_unlocked(lvm);
}

/* The VM goes with its lock, and the device has the memory all the same. */
static const char *check_vm_freed(struct lock_vm *lvm, u64 perms, struct sizes sizes)
{
	struct lock_usage none = lvm->base, device_only;
	const char *failure;

	failure = check_iommu_map(lvm);
	if (failure)
		return failure;

	device_only = lock_usage();
	memslot_lock(lvm->vm, LOCK_SLOT, perms);
	failure = check_use(lvm, perms);
	if (failure)
		return failure;

	lock_vm_free(lvm);
	lvm->vm = NULL;
	if (!lock_usage_is(device_only))
		return "the lock is there without the VM, or took something from the device";
	failure = check_device_alone(lvm);
	iommu_unmap();
	if (!failure && !lock_usage_is(none))
		failure = "memory is still locked or pinned";

	return failure;
}

/* What is there for both, less a byte, is enough for one of them, whichever is first. */
static const char *check_limit(struct lock_vm *lvm, u64 perms, struct sizes sizes)
{
	u64 both = lvm->base.locked_vm + 2 * lvm->size;
	struct lock_usage none = lvm->base;
	const char *failure;

	lock_set_limit(both - 1);
	failure = check_iommu_map(lvm);
	if (failure)
		return failure;
	lvm->base = lock_usage();
	if (!failed_with(__memslot_lock(lvm->vm, LOCK_SLOT, perms), ENOMEM))
		return "what VFIO has pinned doesn't count";
	failure = lock_vm_check_unlocked(lvm);
	if (failure)
		return failure;

	lock_set_limit(both);
	failure = lock_vm_check_lockable(lvm, perms, sizes.nr_blocks, sizes.nr_pages);
	if (failure)
		return failure;

	iommu_unmap();
	lvm->base = none;
	lock_set_limit(both - 1);
	memslot_lock(lvm->vm, LOCK_SLOT, perms);
	if (!failed_with(iommu_map(lvm->hva, lvm->size), ENOMEM))
		return "what is locked doesn't count for VFIO";
	failure = lock_vm_check_locked(lvm, sizes.nr_blocks, sizes.nr_pages);
	if (failure)
		return failure;

	lock_set_limit(both);
	failure = check_iommu_map(lvm);
	iommu_unmap();
	memslot_unlock(lvm->vm, LOCK_SLOT);

	return failure ?: lock_vm_check_unlocked(lvm);
}

static const char *run_limited(struct lock_vm *lvm, u64 perms, struct sizes sizes)
{
	struct rlimit saved;
	const char *failure;

	TEST_ASSERT(!getrlimit(RLIMIT_MEMLOCK, &saved), "getrlimit() failed, errno %d", errno);
	lock_set_cap(false);
	failure = check_limit(lvm, perms, sizes);
	lock_set_cap(true);
	setrlimit(RLIMIT_MEMLOCK, &saved);

	return failure;
}

/* Nobody can pin the registers. The guest can still use them. */
static const char *check_registers(struct lock_vm *lvm, u64 perms, struct sizes sizes)
{
	const char *failure;
	int i;

	for (i = 0; i < ARRAY_SIZE(all_perms); i++) {
		if (!failed_with(__memslot_lock(lvm->vm, BAR_SLOT, all_perms[i]), EINVAL))
			return lock_failed("are locked for %s", memslot_lock_name(all_perms[i]));
		failure = lock_vm_check_unlocked(lvm);
		if (failure)
			return failure;
	}

	failure = check_iommu_map(lvm);
	if (failure)
		return failure;
	lvm->base = lock_usage();
	memslot_lock(lvm->vm, LOCK_SLOT, perms);
	if (!failed_with(__memslot_lock(lvm->vm, BAR_SLOT, perms), EINVAL))
		return "are locked when other memory is";

	return lock_vm_check_locked(lvm, sizes.nr_blocks, sizes.nr_pages) ?:
	       check_use(lvm, perms);
}

static const struct testcase {
	const char *name;
	const char *(*run)(struct lock_vm *lvm, u64 perms, struct sizes sizes);
	u64 kinds;
} testcases[] = {
	{ "device first", check_device_first,
	  BIT(LOCK_ANON) | BIT(LOCK_MEMFD) | BIT(LOCK_THP) | BIT(LOCK_HUGETLB) },
	{ "lock first", check_lock_first,
	  BIT(LOCK_ANON) | BIT(LOCK_MEMFD) | BIT(LOCK_THP) | BIT(LOCK_HUGETLB) },
	{ "VM freed", check_vm_freed, BIT(LOCK_ANON) | BIT(LOCK_HUGETLB) },
	{ "RLIMIT_MEMLOCK", run_limited, BIT(LOCK_ANON) },
	{ "registers", check_registers, BIT(LOCK_ANON) },
};

static void run_case(const struct testcase *test, const struct lock_kind *kind, u64 perms)
{
	char *name = strdup_printf("%s, %s, %s", test->name, kind->name,
				   memslot_lock_name(perms));
	struct sizes sizes = {};
	const char *reason, *failure;
	struct lock_vm lvm;
	struct mte_mem mem;

	reason = lock_mem_alloc(&mem, kind, LOCK_NR_BLOCKS, true);
	if (reason) {
		ksft_test_result_skip("%s: %s\n", name, reason);
		free(name);
		return;
	}

	if (kind->blocks && perms == MEMSLOT_LOCK_RW)
		sizes.nr_blocks = LOCK_NR_BLOCKS;
	else
		sizes.nr_pages = mem.size / page_size;
	create_vm(&lvm, &mem);
	failure = test->run(&lvm, perms, sizes);
	ksft_test_result(!failure, "%s%s%s\n", name, failure ? ": " : "", failure ?: "");

	/* What it takes for the next one, if this one has failed. */
	iommu_unmap();
	if (lvm.vm)
		lock_vm_free(&lvm);
	mte_mem_free(&mem);
	free(name);
}

int main(int argc, char *argv[])
{
	const char *bdf = argc > 1 ? argv[1] : getenv("VFIO_SELFTESTS_BDF");
	int i, j, k, nr = 0;

	ksft_print_header();
	memslot_lock_require();
	__TEST_REQUIRE(bdf, "no PCI device was given");
	__TEST_REQUIRE(vfio_device_open(&device, bdf), "the PCI device isn't bound to vfio-pci");
	__TEST_REQUIRE(device.id == EDU_ID, "the PCI device isn't QEMU's edu");

	page_size = getpagesize();
	vfio_device_enable(&device, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	bar = vfio_device_map_bar(&device, VFIO_PCI_BAR0_REGION_INDEX, &bar_size);
	TEST_ASSERT(bar, "The registers of the device can't be mapped");

	for (i = 0; i < ARRAY_SIZE(testcases); i++)
		nr += __builtin_popcountl(testcases[i].kinds);
	ksft_set_plan(nr * ARRAY_SIZE(all_perms));

	/* On one CPU there is no TLB but its own that has what was mapped before. */
	pin_self_to_any_cpu();

	for (i = 0; i < ARRAY_SIZE(testcases); i++) {
		for (j = 0; j < LOCK_NR_KINDS; j++) {
			for (k = 0; k < ARRAY_SIZE(all_perms); k++) {
				if (testcases[i].kinds & BIT(j))
					run_case(&testcases[i], &lock_kinds[j], all_perms[k]);
			}
		}
	}

	ksft_finished();
}
