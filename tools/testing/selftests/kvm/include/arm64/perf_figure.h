/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What benchmarks of guest memory share: the counter, how often to measure, at which
 * sizes, and figures in a form that a program can read.
 *
 * Figures are nanoseconds of the virtual counter. On an emulator that derives the counter
 * from the number of instructions that were executed, as QEMU does with "-icount shift=0"
 * (a nanosecond each), they are counts of instructions, all that the host and the guest do
 * included, and can be compared between machines and kernels.
 *
 * The host's timer interrupts are counted, too. What is short enough to fit in between is
 * measured several times and the smallest counts; in what isn't they are a small part.
 */
#ifndef SELFTEST_KVM_ARM64_PERF_FIGURE_H
#define SELFTEST_KVM_ARM64_PERF_FIGURE_H

#include <linux/sizes.h>

#include "kselftest.h"
#include "kvm_util.h"
#include "mte.h"
#include "processor.h"
#include "test_util.h"

static inline u64 perf_counter(void)
{
	isb();

	return read_sysreg(cntvct_el0);
}

static inline u64 perf_ns_since(u64 start)
{
	return (perf_counter() - start) * 1000000000UL / read_sysreg(cntfrq_el0);
}

/**
 * perf_figure() - Report a figure
 * @what:	What was measured.
 * @name:	With which memory: words joined by dots.
 * @total:	What was counted.
 * @nr:		In how many pages, blocks or faults.
 *
 * Inline, as a report of kselftest.h is that of the file.
 */
static inline void perf_figure(const char *what, const char *name, u64 total, u64 nr)
{
	ksft_print_msg("figure %s.%s %lu %lu\n", what, name, total, nr);
}

/*
 * Sizes of memory to measure: the smallest, then eight times as much each time, up to the
 * largest.
 */
#define PERF_MIN_SIZE		SZ_64M
#define PERF_MAX_SIZES		5

static inline int perf_sizes(size_t sizes[PERF_MAX_SIZES], size_t min, size_t max)
{
	int nr = 0;

	sizes[nr++] = min;
	while (nr < PERF_MAX_SIZES && sizes[nr - 1] < max) {
		sizes[nr] = min(sizes[nr - 1] * 8, max);
		nr++;
	}

	return nr;
}

static inline int perf_rounds(size_t size)
{
	return size > PERF_MIN_SIZE ? 1 : 2;
}

/* Numbers of memslots that a VM has in addition to the one that is measured. */
static const int perf_other_slots[] = { 0, 16, 256 };

#define PERF_NR_OTHER_SLOTS	ARRAY_SIZE(perf_other_slots)

/**
 * perf_set_slots() - Give a VM memslots that consist of a page each, or delete them
 * @vm:		The VM.
 * @first:	The number of the first memslot.
 * @nr:		How many of them, below MTE_TEST_GPA.
 * @hva:	The page, the same one for all of them.
 * @size:	Its size, or 0 to delete the memslots.
 */
static inline void perf_set_slots(struct kvm_vm *vm, u32 first, int nr, void *hva, size_t size)
{
	int i;

	for (i = 0; i < nr; i++)
		vm_set_user_memory_region(vm, first + i, 0,
					  MTE_TEST_GPA - (i + 1) * (u64)getpagesize(), size, hva);
}

static inline u64 perf_guest_touch(u64 addr, u64 nr, u64 stride, u64 write)
{
	for (; nr; nr--, addr += stride) {
		if (write)
			WRITE_ONCE(*(u64 *)addr, addr);
		else
			READ_ONCE(*(u64 *)addr);
	}

	return 0;
}

/* What it takes to have the guest access memory, from the VMM to the VMM. */
static inline u64 perf_touch(struct kvm_vcpu *vcpu, gpa_t gpa, u64 nr, u64 stride, bool write)
{
	u64 start = perf_counter();

	mte_vcpu_call(vcpu, perf_guest_touch, gpa, nr, stride, write);

	return perf_ns_since(start);
}

static inline u64 perf_write_pages(struct kvm_vcpu *vcpu, size_t size)
{
	return perf_touch(vcpu, MTE_TEST_GPA, size / getpagesize(), getpagesize(), true);
}

#endif /* SELFTEST_KVM_ARM64_PERF_FIGURE_H */
