// SPDX-License-Identifier: GPL-2.0-only
/*
 * check_thp_split - Check that the pages of a THP keep their own tags, and only
 * those, when it is split.
 *
 * mprotect(PROT_MTE) can be for a part of a THP. The kernel initialises the tags
 * of the pages in that part, and sets a flag for each of them that says so. If
 * the flags are mixed up when the folio is split, then either tags are taken
 * for uninitialised, and cleared although somebody has stored them, or they
 * are taken for initialised when they are what the previous owner of the page
 * has left.
 *
 * To find the latter, the THP is made of page frames that another process had,
 * with tags, right before.
 */
#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/kernel-page-flags.h>

#include "kselftest.h"
#include "mte_common_util.h"
#include "mte_def.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE	23
#endif

#define SPLIT_FILE	"/sys/kernel/debug/split_huge_pages"
#define PMD_SIZE_FILE	"/sys/kernel/mm/transparent_hugepage/hpage_pmd_size"

#define POISON		0xa
#define TEST_TAG	0x5
#define NR_TRIES	8

static size_t page_size, thp_size;
/* Room for a THP at any address, and the aligned part of it. */
static char *map, *thp;

static bool thp_alloc(void)
{
	map = mmap(NULL, 2 * thp_size, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (map == MAP_FAILED)
		return false;

	thp = (char *)(((uintptr_t)map + thp_size - 1) & ~(thp_size - 1));

	return !madvise(thp, thp_size, MADV_HUGEPAGE) &&
	       !madvise(thp, thp_size, MADV_POPULATE_WRITE);
}

static void thp_free(void)
{
	munmap(map, 2 * thp_size);
}

/* Page frame number of a page, 0 if it isn't known. */
static uint64_t page_frame(const char *addr)
{
	uint64_t entry = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY);

	if (fd < 0 || pread(fd, &entry, sizeof(entry),
			    (uintptr_t)addr / page_size * sizeof(entry)) != sizeof(entry))
		entry = 0;
	close(fd);

	return entry & ((1UL << 55) - 1);
}

/* A THP is contiguous in physical memory, and aligned to its size. */
static uint64_t thp_frame(void)
{
	uint64_t frame = page_frame(thp);
	size_t nr = thp_size / page_size;

	if (frame % nr || page_frame(thp + thp_size - page_size) != frame + nr - 1)
		return 0;

	return frame;
}

static void store_tags(char *addr, size_t size, uintptr_t tag)
{
	mte_set_tag_address_range((void *)MT_SET_TAG((uintptr_t)addr, tag), size);
}

static size_t count_pages(char *addr, size_t size, unsigned long tag)
{
	size_t count = 0, i, j;

	for (i = 0; i < size; i += page_size) {
		for (j = 0; j < page_size; j += MT_GRANULE_SIZE) {
			if (MT_FETCH_TAG((uintptr_t)mte_get_tag_address(addr + i + j)) != tag)
				break;
		}
		count += j == page_size;
	}

	return count;
}

/* Have a process store POISON to a THP. Returns which one that was, or 0. */
static uint64_t poison(void)
{
	uint64_t *frame, ret;
	int status;
	pid_t pid;

	frame = mmap(NULL, sizeof(*frame), PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (frame == MAP_FAILED)
		return 0;

	pid = fork();
	if (!pid) {
		if (!thp_alloc() || mprotect(thp, thp_size, PROT_READ | PROT_WRITE | PROT_MTE))
			_exit(1);
		store_tags(thp, thp_size, POISON);
		/* Be sure that there is something to be found. */
		if (count_pages(thp, thp_size, POISON) == thp_size / page_size)
			*frame = thp_frame();
		_exit(0);
	}

	ret = pid > 0 && waitpid(pid, &status, 0) == pid && !status ? *frame : 0;
	munmap(frame, sizeof(*frame));

	return ret;
}

/* Allocate a THP with tags that another process has left there, and data. */
static bool thp_alloc_stale(void)
{
	size_t i;
	int try;

	for (try = 0; try < NR_TRIES; try++) {
		uint64_t frame = poison();

		if (frame && thp_alloc() && thp_frame() == frame) {
			/* Pages of zeros would be replaced by the zero page. */
			for (i = 0; i < thp_size; i += page_size)
				thp[i] = 1;
			return true;
		}
		if (frame)
			thp_free();
	}

	ksft_print_msg("No THP that another process had right before\n");

	return false;
}

/* Whether a page belongs to a large folio, -1 if that can't be told. */
static int is_large(const char *addr)
{
	uint64_t frame = page_frame(addr), flags;
	ssize_t len;
	int fd;

	fd = open("/proc/kpageflags", O_RDONLY);
	if (!frame || fd < 0) {
		if (fd >= 0)
			close(fd);
		return -1;
	}
	len = pread(fd, &flags, sizeof(flags), frame * sizeof(flags));
	close(fd);
	if (len != sizeof(flags))
		return -1;

	return !!(flags & (1UL << KPF_COMPOUND_HEAD | 1UL << KPF_COMPOUND_TAIL));
}

static int request_split(void)
{
	char buf[64];
	int fd, len;
	bool ok;

	fd = open(SPLIT_FILE, O_WRONLY);
	if (fd < 0)
		return KSFT_SKIP;
	len = snprintf(buf, sizeof(buf), "%d,0x%lx,0x%lx", getpid(),
		       (unsigned long)thp, (unsigned long)(thp + thp_size));
	ok = write(fd, buf, len) == len;
	close(fd);

	return ok ? KSFT_PASS : KSFT_FAIL;
}

/*
 * The request succeeds even if the folio was skipped, for example because a CPU
 * holds a reference in its batch for the LRU lists.
 */
static int split_thp(void)
{
	int try, ret, large = 1;

	for (try = 0; try < NR_TRIES && large > 0; try++) {
		ret = request_split();
		if (ret != KSFT_PASS)
			return ret;
		large = is_large(thp);
		if (large > 0)
			usleep(10000);
	}
	if (!large)
		return KSFT_PASS;

	ksft_print_msg(large < 0 ? "Can't tell whether the THP was split\n" :
				   "The THP wasn't split\n");

	return KSFT_SKIP;
}

/*
 * Make @size bytes at @offset PROT_MTE, split the THP, and look at the tags of
 * all pages.
 */
static int check_split(size_t offset, size_t size)
{
	size_t nr_tagged = size / page_size, nr_others = thp_size / page_size - nr_tagged;
	size_t kept, clear;
	int ret;

	if (!thp_alloc_stale())
		return KSFT_SKIP;

	if (mprotect(thp + offset, size, PROT_READ | PROT_WRITE | PROT_MTE)) {
		ksft_print_msg("mprotect() failed, errno %d\n", errno);
		ret = KSFT_FAIL;
		goto out;
	}
	store_tags(thp + offset, size, TEST_TAG);

	ret = split_thp();
	if (ret != KSFT_PASS)
		goto out;

	mprotect(thp, thp_size, PROT_READ | PROT_WRITE | PROT_MTE);

	kept = count_pages(thp + offset, size, TEST_TAG);
	clear = count_pages(thp, offset, 0) +
		count_pages(thp + offset + size, thp_size - offset - size, 0);
	if (kept != nr_tagged || clear != nr_others) {
		ksft_print_msg("FAIL: tags kept by %zu of %zu pages, clear in %zu of %zu others\n",
			       kept, nr_tagged, clear, nr_others);
		ret = KSFT_FAIL;
	}

out:
	thp_free();
	return ret;
}

int main(int argc, char *argv[])
{
	cpu_set_t cpus;
	FILE *file;
	int err;

	ksft_print_header();

	err = mte_default_setup();
	if (err)
		return err;

	page_size = getpagesize();
	file = fopen(PMD_SIZE_FILE, "r");
	if (!file || fscanf(file, "%zu", &thp_size) != 1)
		ksft_exit_skip("The kernel has no THP\n");
	fclose(file);

	/* There may be none, and having one is a matter of luck. */
	if (thp_size > sysconf(_SC_PHYS_PAGES) * page_size / 16)
		ksft_exit_skip("A THP is too large for the memory of this machine\n");

	if (access(SPLIT_FILE, W_OK))
		ksft_exit_skip("Can't write " SPLIT_FILE "\n");

	/* Memory that was freed on another CPU may be on a list of that CPU. */
	CPU_ZERO(&cpus);
	CPU_SET(sched_getcpu(), &cpus);
	sched_setaffinity(0, sizeof(cpus), &cpus);

	ksft_set_plan(4);

	evaluate_test(check_split(0, thp_size),
		      "Check tags of a split THP, all of it PROT_MTE\n");
	evaluate_test(check_split(0, page_size),
		      "Check tags of a split THP, only its first page PROT_MTE\n");
	evaluate_test(check_split(page_size, thp_size - page_size),
		      "Check tags of a split THP, all but its first page PROT_MTE\n");
	evaluate_test(check_split(thp_size / 2, page_size),
		      "Check tags of a split THP, one page in the middle PROT_MTE\n");

	mte_restore_setup();
	ksft_finished();
}
