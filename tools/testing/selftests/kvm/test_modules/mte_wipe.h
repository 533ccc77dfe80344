/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * /dev/mte_wipe: memory that loses its allocation tags while the system hibernates.
 * For tests only, and no stable interface. One process at a time can have it open;
 * what it has added is forgotten when it closes the file.
 */
#ifndef SELFTEST_KVM_MTE_WIPE_H
#define SELFTEST_KVM_MTE_WIPE_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define MTE_WIPE_NAME	"mte_wipe"
#define MTE_WIPE_DEV	"/dev/" MTE_WIPE_NAME

/* The tag that is left behind. */
#define MTE_WIPE_TAG	0xa

struct mte_wipe_range {
	__u64 addr;			/* both a multiple of the page size */
	__u64 size;
};

/* Of the last hibernation. */
struct mte_wipe_result {
	__u64 restored;			/* 1 if memory was restored from an image, else 0 */
	__u64 wiped;			/* pages whose tags read back as MTE_WIPE_TAG */
};

#define MTE_WIPE_MAGIC	0xe8

/* Pin a range of the caller's memory, and wipe its tags. It has to be writable. */
#define MTE_WIPE_ADD	_IOW(MTE_WIPE_MAGIC, 0, struct mte_wipe_range)
#define MTE_WIPE_RESULT	_IOR(MTE_WIPE_MAGIC, 1, struct mte_wipe_result)

#endif /* SELFTEST_KVM_MTE_WIPE_H */
