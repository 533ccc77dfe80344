/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mappings of memory that the kernel does not know, of every kind that a driver can
 * give: /dev/kvm_test_mem of test_modules/.
 *
 * See test_module.h for where the module is looked for. Its range is $KVM_TEST_MEM
 * ("start=ADDRESS size=SIZE"), or else memory of the machine that mem= keeps from the
 * kernel. A device that is there already is used as it is.
 */
#ifndef SELFTEST_KVM_ARM64_TEST_MEM_H
#define SELFTEST_KVM_ARM64_TEST_MEM_H

#include "kvm_util.h"
#include "mte.h"

#include "../../test_modules/kvm_test_mem.h"

/* Have the device. NULL, or the reason why there is none, to be given to a skip. */
const char *test_mem_load(void);

/* Remove the module, which no file may use; false with errno set if it stays. */
bool test_mem_unload(void);

/* Load the module with @params; 0 or an errno. */
int test_mem_load_params(const char *params);

/* The parameters that test_mem_load() used. */
const char *test_mem_params(void);

/* Unbind or bind the driver; 0 or an errno. */
int test_mem_bind(bool bind);

int test_mem_open(void);
void test_mem_info(int fd, struct kvm_test_mem_info *info);

/* 0 or an errno; without underscores it has to work. */
int __test_mem_set(int fd, u32 kind, u32 flags);
void test_mem_set(int fd, u32 kind, u32 flags);
void test_mem_revoke(int fd);

/*
 * Map a part of the range, as the file is set, at an address that is as far from a
 * multiple of pmd_size() as the memory is, so that PMDs can map it.
 * MAP_FAILED with errno set; without underscores it has to work.
 */
void *__test_mem_map_fd(int fd, u64 offset, size_t size, int prot, int map_flags);
void *test_mem_map_fd(int fd, u64 offset, size_t size, int prot, int map_flags);

/* The same from offset 0 of a file of its own, which only the mapping keeps open. */
void *test_mem_map(u32 kind, u32 flags, size_t size, int prot, int map_flags);

/*
 * Make what was written through one mapping visible to mappings with other attributes:
 * clean and invalidate the caches to the point of coherency. The memory has to be
 * accessible, and this is called after writing and before reading.
 */
void test_mem_sync(const void *addr, size_t size);

#endif /* SELFTEST_KVM_ARM64_TEST_MEM_H */
