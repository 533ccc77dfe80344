// SPDX-License-Identifier: GPL-2.0-only
/*
 * pfnmap_vfio - Check that a guest with MTE can be given a device.
 *
 * A VMM maps the BARs of a device that is bound to vfio-pci, and makes memslots
 * of them. They aren't mapped cacheable, neither into the VMM nor at stage 2, so
 * there are no allocation tags whatever the guest does, and a VM with MTE can
 * have them as well as one without. A kernel that wants all memory of such a VM
 * to be able to hold tags refuses the memslot.
 *
 * Takes addresses of PCI devices that are bound to vfio-pci, on the command line
 * or in VFIO_SELFTESTS_BDF. All BARs that can be mapped and are prefetchable, hence
 * memory, are tried: data has to pass both ways. QEMU's ivshmem-plain has one. Of
 * QEMU's edu device, the registers are tried: one that identifies it, and
 * one that returns the inverse of what is written to it.
 */
#include <linux/sizes.h>

#include "kvm_util.h"
#include "mte.h"
#include "processor.h"
#include "test_util.h"
#include "vfio_device.h"

#define DATA_SLOT	1
#define HOST_DATA	0x1122334455667788UL
#define GUEST_DATA	0x99aabbccddeeff00UL

struct bar {
	const char *bdf;
	int nr;
	void *addr;
	size_t size;
	bool registers;
};

/* Is it memory, in which data stays, rather than registers? */
static bool is_prefetchable(const char *bdf, int nr)
{
	char *path = strdup_printf("/sys/bus/pci/devices/%s/resource", bdf);
	FILE *file = fopen(path, "r");
	u64 start, end, flags = 0;

	TEST_ASSERT(file, "Can't open %s", path);
	free(path);

	for (; nr >= 0; nr--)
		TEST_ASSERT(fscanf(file, "%lx %lx %lx", &start, &end, &flags) == 3,
			    "Can't read the resources of %s", bdf);
	fclose(file);

	return flags & 0x2000;	/* IORESOURCE_PREFETCH */
}

static int map_bars(const struct vfio_device *dev, struct bar *bars)
{
	bool edu = dev->id == EDU_ID;
	int i, nr = 0;
	size_t size;
	void *addr;

	vfio_device_enable(dev, PCI_COMMAND_MEMORY);
	for (i = VFIO_PCI_BAR0_REGION_INDEX; i <= VFIO_PCI_BAR5_REGION_INDEX; i++) {
		if (!edu && !is_prefetchable(dev->bdf, i))
			continue;
		addr = vfio_device_map_bar(dev, i, &size);
		if (!addr)
			continue;

		bars[nr++] = (struct bar) {
			.bdf		= dev->bdf,
			.nr		= i,
			.addr		= addr,
			.size		= size,
			.registers	= edu,
		};
	}

	return nr;
}

static u64 guest_read32(u64 addr, u64 b, u64 c, u64 d)
{
	return READ_ONCE(*(u32 *)addr);
}

static u64 guest_write32(u64 addr, u64 data, u64 c, u64 d)
{
	WRITE_ONCE(*(u32 *)addr, data);

	return 0;
}

static const char *check_page(struct kvm_vcpu *vcpu, bool mte, gpa_t gpa, u64 *data)
{
	u8 tags[MTE_TAGS_SIZE(SZ_64K)];

	WRITE_ONCE(*data, HOST_DATA);
	if (mte_vcpu_call(vcpu, mte_guest_read, gpa, 0, 0, 0) != HOST_DATA)
		return "the guest doesn't see the data of the VMM";

	mte_vcpu_call(vcpu, mte_write_data, gpa, 1, 0, GUEST_DATA);
	if (READ_ONCE(*data) != GUEST_DATA)
		return "the VMM doesn't see the data of the guest";

	if (!mte)
		return NULL;

	if (mte_vcpu_call(vcpu, mte_guest_try_tag, gpa, 5, 0, 0))
		return "the guest can store tags";
	if (READ_ONCE(*data) != GUEST_DATA)
		return "a store of a tag changes data";
	if (__mte_copy_tags(vcpu->vm, gpa, getpagesize(), tags, KVM_ARM_TAGS_FROM_GUEST) != -1 ||
	    errno != EFAULT)
		return "KVM_ARM_MTE_COPY_TAGS doesn't fail with EFAULT";

	return NULL;
}

static const char *check_memory(struct kvm_vcpu *vcpu, bool mte, const struct bar *bar)
{
	size_t last = bar->size - getpagesize();

	return check_page(vcpu, mte, MTE_TEST_GPA, bar->addr) ?:
	       check_page(vcpu, mte, MTE_TEST_GPA + last, bar->addr + last);
}

/* The VMM, which sees the same registers, stays out of it. */
static const char *check_registers(struct kvm_vcpu *vcpu, bool mte)
{
	u32 value = (u32)GUEST_DATA;

	if ((mte_vcpu_call(vcpu, guest_read32, MTE_TEST_GPA + EDU_IDENT, 0, 0, 0) &
	     EDU_IDENT_MASK) != EDU_IDENT_VALUE)
		return "the guest doesn't read the identification of the device";

	mte_vcpu_call(vcpu, guest_write32, MTE_TEST_GPA + EDU_LIVENESS, value, 0, 0);
	if (mte_vcpu_call(vcpu, guest_read32, MTE_TEST_GPA + EDU_LIVENESS, 0, 0, 0) != (u32)~value)
		return "the device doesn't answer to the guest";

	if (mte && !mte_vcpu_call(vcpu, mte_guest_have_tag, MTE_TEST_GPA, MTE_GRANULE_SIZE, 0, 0))
		return "the guest sees a tag";

	return NULL;
}

static void run(bool mte, const struct bar *bar)
{
	const char *name = mte ? "VM with MTE" : "VM without MTE";
	const char *failure = NULL;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int ret;

	if (mte && !kvm_check_cap(KVM_CAP_ARM_MTE)) {
		ksft_test_result_skip("%s, %s, BAR %d: KVM doesn't offer MTE\n", name,
				      bar->bdf, bar->nr);
		return;
	}

	vm = __vm_create(VM_SHAPE_DEFAULT, 1, bar->size / SZ_4K);
	if (mte)
		vm_enable_cap(vm, KVM_CAP_ARM_MTE, 0);
	mte_vm_add_vcpus(vm, 1, &vcpu);
	virt_map(vm, MTE_TEST_GPA, MTE_TEST_GPA, bar->size / vm->page_size);

	ret = __vm_set_user_memory_region(vm, DATA_SLOT, 0, MTE_TEST_GPA, bar->size, bar->addr);
	if (ret) {
		ksft_test_result_fail("%s, %s, BAR %d: the memslot is refused, errno %d\n",
				      name, bar->bdf, bar->nr, errno);
		goto out;
	}

	failure = bar->registers ? check_registers(vcpu, mte) : check_memory(vcpu, mte, bar);
	ksft_test_result(!failure, "%s, %s, BAR %d%s%s\n", name, bar->bdf, bar->nr,
			 failure ? ": " : "", failure ?: "");
out:
	kvm_vm_free(vm);
}

#define MAX_DEVICES	4

int main(int argc, char *argv[])
{
	struct bar bars[MAX_DEVICES * PCI_STD_NUM_BARS];
	char *env = getenv("VFIO_SELFTESTS_BDF");
	char **bdfs = argc > 1 ? argv + 1 : &env;
	int nr_bdfs = argc > 1 ? argc - 1 : !!env;
	struct vfio_device dev;
	int nr = 0, i;

	ksft_print_header();
	__TEST_REQUIRE(nr_bdfs && nr_bdfs <= MAX_DEVICES, "no PCI device was given");
	for (i = 0; i < nr_bdfs; i++) {
		__TEST_REQUIRE(vfio_device_open(&dev, bdfs[i]),
			       "the PCI device isn't bound to vfio-pci");
		nr += map_bars(&dev, &bars[nr]);
	}
	__TEST_REQUIRE(nr, "the PCI devices have no BAR that can be mapped");

	ksft_set_plan(2 * nr);
	for (i = 0; i < nr; i++) {
		run(false, &bars[i]);
		run(true, &bars[i]);
	}

	ksft_finished();
}
