/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Have allocations of the kernel fail, one at a time: of slabs and of pages, those that a
 * system call of the current thread makes and no others.
 *
 * This takes a kernel with CONFIG_FAILSLAB, CONFIG_FAIL_PAGE_ALLOC and
 * CONFIG_FAULT_INJECTION_DEBUG_FS, and the right to use them.
 */
#ifndef SELFTEST_KVM_ARM64_FAIL_ALLOC_H
#define SELFTEST_KVM_ARM64_FAIL_ALLOC_H

#include "kvm_util.h"

const char *fail_alloc_enable(void);
bool fail_alloc_open(void);
void fail_alloc_close(void);
void fail_alloc_nth(u32 n);
bool fail_alloc_end(void);

#endif /* SELFTEST_KVM_ARM64_FAIL_ALLOC_H */
