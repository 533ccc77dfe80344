// SPDX-License-Identifier: GPL-2.0-only
/*
 * mte_hibernate - Check that hibernation saves the tags of all pages that have any.
 *
 * An image has a place for the data of each page, and no place for its tags. The kernel
 * copies those of the pages that it knows to have any to memory that is part of the image,
 * and stores them back once the image is restored. A hugetlb folio has one flag for all
 * of its pages, the one of the first page.
 *
 * A broken kernel looks at the flag of each page of a hugetlb folio. It saves the tags of
 * the first one only, and the others have whatever the memory came up with.
 *
 * The system resumes from the image that it has just written ("test_resume"), without
 * being turned off. That the tags are right afterwards would prove nothing, since they
 * were never lost. So a module stores MTE_WIPE_TAG in between to all granules of the
 * memory under test, see test_modules/mte_wipe.c. Without its word that it did, and that
 * an image was restored after that, no case passes. Pages that aren't hugetlb show that
 * tags come back from the image even if others don't.
 */
#include <asm/mman.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <linux/sizes.h>

#include "kvm_util.h"
#include "mte.h"
#include "test_module.h"
#include "test_util.h"

#include "../test_modules/mte_wipe.h"

static_assert(MTE_WIPE_TAG == MTE_POISON, "mte_store_pattern() may use the tag");

#define DATA_SLOT	1
#define NR_PAGES	16
/* Larger hugetlb folios show nothing more, and make the image larger. */
#define MAX_FOLIO_SIZE	SZ_2M

static size_t page_size;
static int wipe_fd;

static const struct kind {
	const char *name;
	enum mte_mem_type type;
	bool hugetlb;
	/* The tags are those of a guest, and the VMM hasn't mapped it with PROT_MTE. */
	bool guest;
} kinds[] = {
	{ "anonymous", MTE_MEM_ANON },
	{ "anonymous THP", MTE_MEM_ANON_THP },
	{ "memfd", MTE_MEM_MEMFD },
	{ "hugetlb", MTE_MEM_HUGETLB, true },
	{ "memfd hugetlb", MTE_MEM_MEMFD_HUGETLB, true },
	/* The last ones, should a vCPU not run any more. */
	{ "guest, anonymous", MTE_MEM_ANON, false, true },
	{ "guest, hugetlb", MTE_MEM_HUGETLB, true, true },
};

#define MAX_MEMORIES	(ARRAY_SIZE(kinds) * HUGETLB_MAX_SIZES)

static struct memory {
	const struct kind *kind;
	char name[64];
	const char *reason;	/* why there is none */
	struct mte_mem mem;
	u64 nr_pages;
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
} memories[MAX_MEMORIES];

static int nr_memories;

/* The function on all pages of the memory, by whoever has tags in it. */
static u64 call(struct memory *m, mte_guest_fn fn, u64 arg2, u64 arg3)
{
	if (m->kind->guest)
		return mte_vcpu_call(m->vcpu, fn, MTE_TEST_GPA, m->nr_pages, arg2, arg3);

	return fn((u64)m->mem.hva, m->nr_pages, arg2, arg3);
}

static void add_memory(const struct kind *kind, size_t folio_size)
{
	struct memory *m = &memories[nr_memories++];
	struct mte_wipe_range range;

	m->kind = kind;
	if (kind->hugetlb)
		snprintf(m->name, sizeof(m->name), "%s, %zukB", kind->name, folio_size / SZ_1K);
	else
		snprintf(m->name, sizeof(m->name), "%s", kind->name);

	m->reason = mte_mem_alloc(&m->mem, kind->type, folio_size,
				  kind->hugetlb ? folio_size : NR_PAGES * page_size);
	if (m->reason)
		return;
	m->reason = mte_mem_populate(&m->mem);
	if (m->reason)
		return;
	m->nr_pages = m->mem.size / page_size;

	/* Before there are tags, for it may move the pages. */
	range.addr = (u64)m->mem.hva;
	range.size = m->mem.size;
	TEST_ASSERT(!ioctl(wipe_fd, MTE_WIPE_ADD, &range), "MTE_WIPE_ADD: %s", strerror(errno));

	if (kind->guest) {
		m->vm = mte_vm_create(1, m->mem.size, &m->vcpu);
		mte_vm_add_slot(m->vm, DATA_SLOT, 0, MTE_TEST_GPA, m->mem.hva, m->mem.size);
	} else {
		TEST_ASSERT(!mprotect(m->mem.hva, m->mem.size, PROT_READ | PROT_WRITE | PROT_MTE),
			    "mprotect(PROT_MTE): %s", strerror(errno));
	}

	call(m, mte_write_addrs, page_size, 0);
	call(m, mte_store_pattern, page_size, page_size);
	TEST_ASSERT(!call(m, mte_count_lost, page_size, page_size),
		    "%s: tags don't read back as they were stored", m->name);
}

static int power_write(const char *name, const char *value)
{
	char path[64];
	int fd, ret;

	snprintf(path, sizeof(path), "/sys/power/%s", name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return errno;
	ret = write(fd, value, strlen(value)) < 0 ? errno : 0;
	close(fd);

	return ret;
}

/* All modes of hibernation, with the selected one in brackets. */
static bool power_modes(char *modes, size_t size)
{
	FILE *file = fopen("/sys/power/disk", "r");
	bool good;

	good = file && fgets(modes, size, file);
	if (file)
		fclose(file);

	return good;
}

/* Write an image and resume from it; 0 or an errno. */
static int hibernate(void)
{
	char modes[256], mode[32];
	const char *selected;
	int ret;

	TEST_ASSERT(power_modes(modes, sizeof(modes)), "Can't read /sys/power/disk");
	selected = strchr(modes, '[');
	TEST_ASSERT(selected && sscanf(selected, "[%31[^]]", mode) == 1,
		    "/sys/power/disk: %s", modes);

	ret = power_write("disk", "test_resume");
	TEST_ASSERT(!ret, "/sys/power/disk: %s", strerror(ret));
	ret = power_write("state", "disk");
	TEST_ASSERT(!power_write("disk", mode), "Can't select %s again", mode);

	return ret;
}

static bool has_swap(void)
{
	FILE *file = fopen("/proc/swaps", "r");
	char line[256];
	int nr = 0;

	while (file && fgets(line, sizeof(line), file))
		nr++;
	if (file)
		fclose(file);

	/* The first line is a heading. */
	return nr > 1;
}

static void wipe_close(void)
{
	close(wipe_fd);
	if (!test_module_unload(MTE_WIPE_NAME))
		ksft_print_msg(MTE_WIPE_NAME " stays: %s\n", strerror(errno));
}

static void wipe_open(void)
{
	const char *missing = test_module_missing(MTE_WIPE_NAME);
	int err;

	__TEST_REQUIRE(!missing, "%s", missing);
	err = test_module_load(MTE_WIPE_NAME, "");
	/* A test that was killed may have left it. */
	__TEST_REQUIRE(!err || err == EEXIST, MTE_WIPE_NAME ".ko: %s", strerror(err));

	wipe_fd = open(MTE_WIPE_DEV, O_RDWR | O_CLOEXEC);
	TEST_ASSERT(wipe_fd >= 0, MTE_WIPE_DEV ": %s", strerror(errno));
	atexit(wipe_close);
}

int main(void)
{
	size_t sizes[HUGETLB_MAX_SIZES];
	struct mte_wipe_result result;
	u64 nr_pages = 0, lost, wrong;
	int nr_sizes, err;
	char modes[256];
	bool evidence;
	int i, j;

	ksft_print_header();
	mte_require();
	__TEST_REQUIRE(power_modes(modes, sizeof(modes)) && strstr(modes, "test_resume"),
		       "the system can't hibernate: CONFIG_HIBERNATION is off, or it is not allowed");
	__TEST_REQUIRE(has_swap(), "there is no swap for an image");
	page_size = getpagesize();
	nr_sizes = hugetlb_sizes(sizes);
	__TEST_REQUIRE(nr_sizes, "the kernel has no hugetlb");
	wipe_open();

	for (i = 0; i < ARRAY_SIZE(kinds); i++) {
		if (!kinds[i].hugetlb)
			add_memory(&kinds[i], 0);
		for (j = 0; kinds[i].hugetlb && j < nr_sizes; j++) {
			if (sizes[j] <= MAX_FOLIO_SIZE)
				add_memory(&kinds[i], sizes[j]);
		}
	}
	for (i = 0; i < nr_memories; i++)
		nr_pages += memories[i].reason ? 0 : memories[i].nr_pages;

	err = hibernate();
	__TEST_REQUIRE(err != ENODEV && err != ENOSPC, "no swap that an image fits in: %s",
		       strerror(err));
	TEST_ASSERT(!err, "hibernation: %s", strerror(err));

	ksft_set_plan(1 + nr_memories);

	TEST_ASSERT(!ioctl(wipe_fd, MTE_WIPE_RESULT, &result), "MTE_WIPE_RESULT: %s",
		    strerror(errno));
	evidence = result.restored && result.wiped == nr_pages;
	ksft_test_result(evidence, "%s, tags of %llu of %lu pages wiped before\n",
			 result.restored ? "resumed from an image" : "not resumed",
			 result.wiped, nr_pages);

	for (i = 0; i < nr_memories; i++) {
		struct memory *m = &memories[i];

		if (m->reason) {
			ksft_test_result_skip("%s: %s\n", m->name, m->reason);
			continue;
		}
		lost = call(m, mte_count_lost, page_size, page_size);
		wrong = call(m, mte_count_wrong_addrs, page_size, 0);
		ksft_test_result(evidence && !lost && !wrong,
				 "%s: tags of %lu of %lu pages lost, data of %lu\n",
				 m->name, lost, m->nr_pages, wrong);
	}

	ksft_finished();
}
