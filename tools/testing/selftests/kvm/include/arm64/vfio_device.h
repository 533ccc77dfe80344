/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * PCI devices that are bound to vfio-pci, each with an IOMMU group and a container of
 * its own, and QEMU's edu device. The library of the VFIO selftests is linked with
 * libuuid, which a cross compiler doesn't come with.
 *
 * Inline, as few tests need it.
 */
#ifndef SELFTEST_KVM_ARM64_VFIO_DEVICE_H
#define SELFTEST_KVM_ARM64_VFIO_DEVICE_H

#include <libgen.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <linux/pci_regs.h>
#include <linux/vfio.h>

#include "kvm_util.h"
#include "test_util.h"

/* Vendor and device, and the registers of BAR 0. */
#define EDU_ID			0x11e81234
#define EDU_IDENT		0x00
#define EDU_IDENT_MASK		0xffff
#define EDU_IDENT_VALUE		0x00ed
#define EDU_LIVENESS		0x04
#define EDU_DMA_SRC		0x80
#define EDU_DMA_DST		0x88
#define EDU_DMA_COUNT		0x90
#define EDU_DMA_CMD		0x98
#define EDU_DMA_START		BIT(0)
#define EDU_DMA_TO_MEMORY	BIT(1)
/* Where the device has memory of its own, in the addresses that it uses itself. */
#define EDU_BUFFER		0x40000
/* The addresses that it can tell apart. */
#define EDU_DMA_BITS		28

/**
 * struct vfio_device - A PCI device
 * @bdf:	Its address.
 * @fd:		The device.
 * @container:	What holds the mappings of its IOMMU.
 * @id:		Vendor and device.
 */
struct vfio_device {
	const char	*bdf;
	int		fd;
	int		container;
	u32		id;
};

static inline struct vfio_region_info vfio_device_region(const struct vfio_device *dev,
							 u32 index)
{
	struct vfio_region_info info = {
		.argsz	= sizeof(info),
		.index	= index,
	};

	TEST_ASSERT(!ioctl(dev->fd, VFIO_DEVICE_GET_REGION_INFO, &info),
		    "VFIO_DEVICE_GET_REGION_INFO failed, errno %d", errno);

	return info;
}

/* Set bits of the PCI command register. */
static inline void vfio_device_enable(const struct vfio_device *dev, u16 bits)
{
	u64 config = vfio_device_region(dev, VFIO_PCI_CONFIG_REGION_INDEX).offset;
	u16 command;

	TEST_ASSERT(pread(dev->fd, &command, sizeof(command), config + PCI_COMMAND) ==
		    sizeof(command), "Can't read config space, errno %d", errno);
	command |= bits;
	TEST_ASSERT(pwrite(dev->fd, &command, sizeof(command), config + PCI_COMMAND) ==
		    sizeof(command), "Can't write config space, errno %d", errno);
}

/* Returns false if the device isn't bound to vfio-pci. */
static inline bool vfio_device_open(struct vfio_device *dev, const char *bdf)
{
	char *path = strdup_printf("/sys/bus/pci/devices/%s/iommu_group", bdf);
	char target[256] = "";
	ssize_t len;
	u64 config;
	int group;

	len = readlink(path, target, sizeof(target) - 1);
	free(path);
	if (len < 0)
		return false;

	path = strdup_printf("/dev/vfio/%s", basename(target));
	group = open(path, O_RDWR);
	free(path);
	*dev = (struct vfio_device) {
		.bdf		= bdf,
		.container	= open("/dev/vfio/vfio", O_RDWR),
	};
	if (group < 0 || dev->container < 0)
		return false;

	TEST_ASSERT(!ioctl(group, VFIO_GROUP_SET_CONTAINER, &dev->container) &&
		    !ioctl(dev->container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU),
		    "Can't set up the container, errno %d", errno);

	dev->fd = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, bdf);
	TEST_ASSERT(dev->fd >= 0, "VFIO_GROUP_GET_DEVICE_FD failed, errno %d", errno);

	config = vfio_device_region(dev, VFIO_PCI_CONFIG_REGION_INDEX).offset;
	TEST_ASSERT(pread(dev->fd, &dev->id, sizeof(dev->id), config + PCI_VENDOR_ID) ==
		    sizeof(dev->id), "Can't read config space, errno %d", errno);

	return true;
}

/* Returns NULL if the BAR can't be mapped, or is smaller than a page. */
static inline void *vfio_device_map_bar(const struct vfio_device *dev, int nr, size_t *size)
{
	struct vfio_region_info info = vfio_device_region(dev, nr);

	if (!(info.flags & VFIO_REGION_INFO_FLAG_MMAP) || info.size < getpagesize())
		return NULL;
	*size = info.size;

	return __kvm_mmap(info.size, PROT_READ | PROT_WRITE, MAP_SHARED, dev->fd, info.offset);
}

#endif /* SELFTEST_KVM_ARM64_VFIO_DEVICE_H */
