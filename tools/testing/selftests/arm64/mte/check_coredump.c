// SPDX-License-Identifier: GPL-2.0-only
/*
 * check_coredump - Check that a core dump has the tags of all kinds of memory.
 *
 * A process with memory that is PROT_MTE, and whose tags differ from page to
 * page, dumps core. For each of its mappings there must be a segment of type
 * PT_AARCH64_MEMTAG_MTE with exactly these tags, two of them in a byte.
 *
 * The kernel leaves out, and fills up with zeros, the tags of pages that don't
 * have any. Whether they do is a property of the page or, with hugetlb, of the
 * folio.
 */
#define _GNU_SOURCE

#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "kselftest.h"
#include "mte_common_util.h"
#include "mte_def.h"

#ifndef MAP_HUGE_SHIFT
#define MAP_HUGE_SHIFT		26
#endif
#ifndef PT_AARCH64_MEMTAG_MTE
#define PT_AARCH64_MEMTAG_MTE	(PT_LOPROC + 0x2)
#endif

#define CORE_PATTERN	"/proc/sys/kernel/core_pattern"
#define HUGEPAGES	"/sys/kernel/mm/hugepages"

/* Anonymous and hugetlb memory, private and shared. */
#define COREDUMP_FILTER	"0x63"

#define NR_PAGES	16

static char old_pattern[256], dir[] = "/tmp/check_coredump.XXXXXX", core[64];
static char pool[128];
static unsigned long old_pool;
static pid_t owner;

static bool write_file(const char *name, const char *str)
{
	int fd = open(name, O_WRONLY);
	bool ok;

	if (fd < 0)
		return false;
	ok = write(fd, str, strlen(str)) == (ssize_t)strlen(str);
	close(fd);

	return ok;
}

static bool read_file(const char *name, char *buf, size_t size)
{
	int fd = open(name, O_RDONLY);
	ssize_t len;

	if (fd < 0)
		return false;
	len = read(fd, buf, size - 1);
	close(fd);
	buf[len > 0 ? len : 0] = 0;

	return len > 0;
}

static void cleanup(void)
{
	char nr[32];

	if (getpid() != owner)
		return;

	if (old_pattern[0])
		write_file(CORE_PATTERN, old_pattern);
	if (pool[0]) {
		snprintf(nr, sizeof(nr), "%lu", old_pool);
		write_file(pool, nr);
	}
	unlink(core);
	rmdir(dir);
}

static void cleanup_on_signal(int sig)
{
	cleanup();
	signal(sig, SIG_DFL);
	raise(sig);
}

/* Have a folio of the smallest hugetlb size. Returns that, or 0. */
static size_t hugetlb_setup(void)
{
	size_t size = SIZE_MAX, kb;
	struct dirent *entry;
	char nr[32];
	DIR *d;

	d = opendir(HUGEPAGES);
	while (d && (entry = readdir(d))) {
		if (sscanf(entry->d_name, "hugepages-%zukB", &kb) == 1 && kb * 1024 < size)
			size = kb * 1024;
	}
	if (d)
		closedir(d);
	if (size == SIZE_MAX)
		return 0;

	snprintf(pool, sizeof(pool), HUGEPAGES "/hugepages-%zukB/nr_hugepages", size / 1024);
	if (!read_file(pool, nr, sizeof(nr))) {
		pool[0] = 0;
		return 0;
	}
	old_pool = strtoul(nr, NULL, 10);
	snprintf(nr, sizeof(nr), "%lu", old_pool + 1);

	if (!write_file(pool, nr))
		return 0;

	/* The write succeeds even if there was no memory for the folio. */
	if (!read_file(pool, nr, sizeof(nr)) || strtoul(nr, NULL, 10) <= old_pool)
		return 0;

	return size;
}

static unsigned long expected_tag(size_t page)
{
	return 1 + page % (MT_TAG_COUNT - 1);
}

/*
 * In the child: does not return, it either dumps core or exits. The memory isn't
 * inherited, for a private hugetlb mapping reserves its folio for the parent.
 */
static void dump_core(char **addr, size_t size, int flags)
{
	struct rlimit limit = { RLIM_INFINITY, RLIM_INFINITY };
	size_t page_size = getpagesize(), i;
	char *mem;

	mem = mmap(NULL, size, PROT_READ | PROT_WRITE | PROT_MTE,
		   flags | MAP_ANONYMOUS, -1, 0);
	if (mem == MAP_FAILED)
		_exit(1);
	*addr = mem;

	for (i = 0; i < size / page_size; i++)
		mte_set_tag_address_range((void *)MT_SET_TAG((uintptr_t)mem + i * page_size,
							     expected_tag(i)), page_size);

	if (setrlimit(RLIMIT_CORE, &limit) ||
	    !write_file("/proc/self/coredump_filter", COREDUMP_FILTER))
		_exit(1);

	signal(SIGABRT, SIG_DFL);
	abort();
}

static int compare_tags(const unsigned char *tags, size_t size)
{
	size_t page_size = getpagesize(), page_tags = page_size / MT_GRANULE_SIZE / 2;
	size_t bad = 0, i, j;

	for (i = 0; i < size / page_size; i++) {
		for (j = 0; j < page_tags; j++) {
			if (tags[i * page_tags + j] != expected_tag(i) * 0x11)
				break;
		}
		bad += j < page_tags;
	}

	if (!bad)
		return KSFT_PASS;

	ksft_print_msg("FAIL: the tags of %zu of %zu pages are wrong in the core dump\n",
		       bad, size / page_size);

	return KSFT_FAIL;
}

/* The tags of the mapping in the core file, or NULL. */
static unsigned char *read_tags(int fd, char *mem, size_t size)
{
	size_t tags_size = size / MT_GRANULE_SIZE / 2;
	unsigned char *tags;
	Elf64_Ehdr ehdr;
	Elf64_Phdr phdr;
	int i;

	if (pread(fd, &ehdr, sizeof(ehdr), 0) != sizeof(ehdr) ||
	    memcmp(ehdr.e_ident, ELFMAG, SELFMAG) || ehdr.e_type != ET_CORE)
		return NULL;

	for (i = 0; i < ehdr.e_phnum; i++) {
		if (pread(fd, &phdr, sizeof(phdr), ehdr.e_phoff + i * sizeof(phdr)) != sizeof(phdr))
			return NULL;

		if (phdr.p_type == PT_AARCH64_MEMTAG_MTE && phdr.p_vaddr == (uintptr_t)mem)
			break;
	}
	if (i == ehdr.e_phnum || phdr.p_memsz != size || phdr.p_filesz != tags_size)
		return NULL;

	tags = malloc(tags_size);
	if (tags && pread(fd, tags, tags_size, phdr.p_offset) != (ssize_t)tags_size) {
		free(tags);
		tags = NULL;
	}

	return tags;
}

static int check_dump(size_t size, int flags)
{
	unsigned char *tags;
	int fd, status, ret;
	char **shared, *mem;
	pid_t pid;

	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		return KSFT_FAIL;

	fflush(stdout);
	pid = fork();
	if (!pid)
		dump_core(shared, size, flags);

	snprintf(core, sizeof(core), "%s/core.%d", dir, pid);
	if (pid < 0 || waitpid(pid, &status, 0) != pid ||
	    !WIFSIGNALED(status) || !WCOREDUMP(status)) {
		ksft_print_msg("FAIL: the child didn't dump core\n");
		munmap(shared, sizeof(*shared));
		return KSFT_FAIL;
	}
	mem = *shared;
	munmap(shared, sizeof(*shared));

	fd = open(core, O_RDONLY);
	tags = fd < 0 ? NULL : read_tags(fd, mem, size);
	if (tags) {
		ret = compare_tags(tags, size);
	} else {
		ksft_print_msg("FAIL: the core dump has no segment with the tags\n");
		ret = KSFT_FAIL;
	}
	free(tags);
	if (fd >= 0)
		close(fd);
	unlink(core);

	return ret;
}

static int check_hugetlb(size_t folio_size, int flags)
{
	if (!folio_size)
		return KSFT_SKIP;

	return check_dump(folio_size, flags | MAP_HUGETLB |
			  (unsigned int)__builtin_ctzl(folio_size) << MAP_HUGE_SHIFT);
}

int main(int argc, char *argv[])
{
	char pattern[64];
	size_t folio_size;
	int err;

	ksft_print_header();

	err = mte_default_setup();
	if (err)
		return err;

	if (!read_file(CORE_PATTERN, old_pattern, sizeof(old_pattern)) || !mkdtemp(dir))
		ksft_exit_skip("No core dumps, or no place for them\n");

	owner = getpid();
	atexit(cleanup);
	signal(SIGINT, cleanup_on_signal);
	signal(SIGTERM, cleanup_on_signal);

	/* With a %p in the pattern, core_uses_pid doesn't append the PID. */
	snprintf(pattern, sizeof(pattern), "%s/core.%%p", dir);
	if (!write_file(CORE_PATTERN, pattern))
		ksft_exit_skip("Can't write " CORE_PATTERN "\n");

	folio_size = hugetlb_setup();
	ksft_set_plan(4);

	evaluate_test(check_dump(NR_PAGES * getpagesize(), MAP_PRIVATE),
		      "Check tags in a core dump, private memory\n");
	evaluate_test(check_dump(NR_PAGES * getpagesize(), MAP_SHARED),
		      "Check tags in a core dump, shared memory\n");
	evaluate_test(check_hugetlb(folio_size, MAP_PRIVATE),
		      "Check tags in a core dump, private hugetlb memory\n");
	evaluate_test(check_hugetlb(folio_size, MAP_SHARED),
		      "Check tags in a core dump, shared hugetlb memory\n");

	mte_restore_setup();
	ksft_finished();
}
