/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * /dev/kvm_test_mem: mappings of every kind that a driver can give, over memory
 * that the kernel does not know. For tests only, and no stable interface.
 *
 * Each open file has a setting, at first {KVM_TEST_MEM_CACHED, 0}, which says what
 * mmap() makes. Offset 0 is the start of the range. A mapping contains what the
 * memory holds: nothing clears it, neither at load time nor between users.
 * Whoever maps it with different attributes has to clean and invalidate the caches.
 */
#ifndef SELFTEST_KVM_TEST_MEM_H
#define SELFTEST_KVM_TEST_MEM_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define KVM_TEST_MEM_NAME	"kvm_test_mem"
#define KVM_TEST_MEM_DEV	"/dev/" KVM_TEST_MEM_NAME

/* Memory attributes of the mapping, at stage 1 of the host. */
enum kvm_test_mem_kind {
	KVM_TEST_MEM_CACHED,		/* vm_page_prot as mmap() made it */
	KVM_TEST_MEM_NC,		/* Normal Non-cacheable, pgprot_writecombine() */
	KVM_TEST_MEM_NGNRE,		/* Device-nGnRE, pgprot_device() */
	KVM_TEST_MEM_NGNRNE,		/* Device-nGnRnE, pgprot_noncached() */
	KVM_TEST_MEM_NR_KINDS,
};

/* VM_ALLOW_ANY_UNCACHED, as VFIO sets it. Not with KVM_TEST_MEM_CACHED. */
#define KVM_TEST_MEM_ANY_UNCACHED	0x1
/* Fill on a fault, and not in mmap(). */
#define KVM_TEST_MEM_FAULT		0x2
/* VM_MIXEDMAP and not VM_PFNMAP. Only with KVM_TEST_MEM_FAULT. */
#define KVM_TEST_MEM_MIXED		0x4
/*
 * On a fault, fill a PMD where alignment and VMA allow it. Only with KVM_TEST_MEM_FAULT.
 * With KVM_TEST_MEM_MIXED, not if transparent hugepages are off ("never").
 */
#define KVM_TEST_MEM_HUGE		0x8

struct kvm_test_mem_set {
	__u32 kind;
	__u32 flags;
	__u64 reserved[2];		/* 0 */
};

struct kvm_test_mem_info {
	__u64 start;			/* physical address */
	__u64 size;
};

#define KVM_TEST_MEM_MAGIC	0xe7

/*
 * Change the setting of the file, for mappings to come. -EINVAL and no change if
 * something in the argument is unknown, reserved or contradictory.
 */
#define KVM_TEST_MEM_SET	_IOW(KVM_TEST_MEM_MAGIC, 0, struct kvm_test_mem_set)
#define KVM_TEST_MEM_INFO	_IOR(KVM_TEST_MEM_MAGIC, 1, struct kvm_test_mem_info)
/*
 * Unmap all mappings of the device, those of other files and private copies
 * included. Access to them raises SIGBUS from now on. The file stays usable: what it
 * maps later works.
 */
#define KVM_TEST_MEM_REVOKE	_IO(KVM_TEST_MEM_MAGIC, 2)

#endif /* SELFTEST_KVM_TEST_MEM_H */
