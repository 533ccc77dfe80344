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
 * Takes the address of a PCI device that is bound to vfio-pci, on the command
 * line or in VFIO_SELFTESTS_BDF, of which all BARs that can be mapped and are
 * prefetchable, hence memory, are tried: data has to pass both ways. QEMU's
 * ivshmem-plain has one.
 */
#include <libgen.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <linux/pci_regs.h>
#include <linux/sizes.h>
#include <linux/vfio.h>

#include "kvm_util.h"
#include "mte.h"
#include "processor.h"
#include "test_util.h"

#define DATA_SLOT	1
#define HOST_DATA	0x1122334455667788UL
#define GUEST_DATA	0x99aabbccddeeff00UL

struct bar {
	void *addr;
	size_t size;
};

static void config_access(int fd, u64 config, u64 offset, u16 *val, bool write)
{
	ssize_t ret = write ? pwrite(fd, val, sizeof(*val), config + offset) :
			      pread(fd, val, sizeof(*val), config + offset);

	TEST_ASSERT(ret == sizeof(*val), "Can't access config space, errno %d", errno);
}

static struct vfio_region_info region_info(int fd, u32 index)
{
	struct vfio_region_info info = {
		.argsz	= sizeof(info),
		.index	= index,
	};

	TEST_ASSERT(!ioctl(fd, VFIO_DEVICE_GET_REGION_INFO, &info),
		    "VFIO_DEVICE_GET_REGION_INFO failed, errno %d", errno);

	return info;
}

/* Returns a file descriptor of the device, or -1. */
static int open_device(const char *bdf)
{
	char *path = strdup_printf("/sys/bus/pci/devices/%s/iommu_group", bdf);
	int container, group, fd = -1;
	char target[256] = "";

	if (readlink(path, target, sizeof(target) - 1) < 0)
		goto out;
	free(path);

	path = strdup_printf("/dev/vfio/%s", basename(target));
	group = open(path, O_RDWR);
	container = open("/dev/vfio/vfio", O_RDWR);
	if (group < 0 || container < 0)
		goto out;

	TEST_ASSERT(!ioctl(group, VFIO_GROUP_SET_CONTAINER, &container) &&
		    !ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU),
		    "Can't set up the container, errno %d", errno);

	fd = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, bdf);
	TEST_ASSERT(fd >= 0, "VFIO_GROUP_GET_DEVICE_FD failed, errno %d", errno);
out:
	free(path);

	return fd;
}

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

static int map_bars(const char *bdf, int fd, struct bar *bars)
{
	u64 config = region_info(fd, VFIO_PCI_CONFIG_REGION_INDEX).offset;
	struct vfio_region_info info;
	int i, nr = 0;
	u16 command;

	config_access(fd, config, PCI_COMMAND, &command, false);
	command |= PCI_COMMAND_MEMORY;
	config_access(fd, config, PCI_COMMAND, &command, true);

	for (i = VFIO_PCI_BAR0_REGION_INDEX; i <= VFIO_PCI_BAR5_REGION_INDEX; i++) {
		info = region_info(fd, i);
		if (!info.size || !(info.flags & VFIO_REGION_INFO_FLAG_MMAP) ||
		    info.size < getpagesize() || !is_prefetchable(bdf, i))
			continue;

		bars[nr].size = info.size;
		bars[nr++].addr = __kvm_mmap(info.size, PROT_READ | PROT_WRITE, MAP_SHARED,
					     fd, info.offset);
	}

	return nr;
}

static u64 guest_read(u64 addr, u64 b, u64 c, u64 d)
{
	return READ_ONCE(*(u64 *)addr);
}

static u64 guest_write(u64 addr, u64 data, u64 c, u64 d)
{
	WRITE_ONCE(*(u64 *)addr, data);

	return 0;
}

static u64 guest_try_tag(u64 addr, u64 tag, u64 c, u64 d)
{
	mte_store_tag((void *)addr, tag);

	return mte_load_tag((void *)addr);
}

static const char *check_page(struct kvm_vcpu *vcpu, bool mte, gpa_t gpa, u64 *data)
{
	u8 tags[MTE_TAGS_SIZE(SZ_64K)];

	WRITE_ONCE(*data, HOST_DATA);
	if (mte_vcpu_call(vcpu, guest_read, gpa, 0, 0, 0) != HOST_DATA)
		return "the guest doesn't see the data of the VMM";

	mte_vcpu_call(vcpu, guest_write, gpa, GUEST_DATA, 0, 0);
	if (READ_ONCE(*data) != GUEST_DATA)
		return "the VMM doesn't see the data of the guest";

	if (!mte)
		return NULL;

	if (mte_vcpu_call(vcpu, guest_try_tag, gpa, 5, 0, 0))
		return "the guest can store tags";
	if (READ_ONCE(*data) != GUEST_DATA)
		return "a store of a tag changes data";
	if (__mte_copy_tags(vcpu->vm, gpa, getpagesize(), tags, KVM_ARM_TAGS_FROM_GUEST) != -1 ||
	    errno != EFAULT)
		return "KVM_ARM_MTE_COPY_TAGS doesn't fail with EFAULT";

	return NULL;
}

static void run(bool mte, int nr, const struct bar *bar)
{
	const char *name = mte ? "VM with MTE" : "VM without MTE";
	const char *failure = NULL;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int ret;

	if (mte && !kvm_check_cap(KVM_CAP_ARM_MTE)) {
		ksft_test_result_skip("%s, BAR %d: KVM doesn't offer MTE\n", name, nr);
		return;
	}

	vm = __vm_create(VM_SHAPE_DEFAULT, 1, bar->size / SZ_4K);
	if (mte)
		vm_enable_cap(vm, KVM_CAP_ARM_MTE, 0);
	mte_vm_add_vcpus(vm, 1, &vcpu);
	virt_map(vm, MTE_TEST_GPA, MTE_TEST_GPA, bar->size / vm->page_size);

	ret = __vm_set_user_memory_region(vm, DATA_SLOT, 0, MTE_TEST_GPA, bar->size, bar->addr);
	if (ret) {
		ksft_test_result_fail("%s, BAR %d: the memslot is refused, errno %d\n",
				      name, nr, errno);
		goto out;
	}

	failure = check_page(vcpu, mte, MTE_TEST_GPA, bar->addr) ?:
		  check_page(vcpu, mte, MTE_TEST_GPA + bar->size - getpagesize(),
			     bar->addr + bar->size - getpagesize());
	ksft_test_result(!failure, "%s, BAR %d%s%s\n", name, nr, failure ? ": " : "",
			 failure ?: "");
out:
	kvm_vm_free(vm);
}

int main(int argc, char *argv[])
{
	const char *bdf = argc > 1 ? argv[1] : getenv("VFIO_SELFTESTS_BDF");
	struct bar bars[PCI_STD_NUM_BARS];
	int fd, nr, i;

	ksft_print_header();
	__TEST_REQUIRE(bdf, "no PCI device was given");
	fd = open_device(bdf);
	__TEST_REQUIRE(fd >= 0, "the PCI device isn't bound to vfio-pci");
	nr = map_bars(bdf, fd, bars);
	__TEST_REQUIRE(nr, "the PCI device has no memory that can be mapped");

	ksft_set_plan(2 * nr);
	for (i = 0; i < nr; i++) {
		run(false, i, &bars[i]);
		run(true, i, &bars[i]);
	}

	ksft_finished();
}
