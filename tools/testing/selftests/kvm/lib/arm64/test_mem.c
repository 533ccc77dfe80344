// SPDX-License-Identifier: GPL-2.0-only
/*
 * Use of test_modules/kvm_test_mem, see test_mem.h.
 */
#include <dirent.h>
#include <endian.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <linux/sizes.h>

#include "kvm_util.h"
#include "test_mem.h"
#include "test_module.h"

#define DT_ROOT		"/sys/firmware/devicetree/base"
#define DRIVER		"/sys/bus/platform/drivers/" KVM_TEST_MEM_NAME
#define PARAMETERS	"/sys/module/" KVM_TEST_MEM_NAME "/parameters"

static char params[128];

struct range {
	u64 start, end;		/* end is the first byte after it */
};

/*
 * A page of a memory section that is partly the kernel's has a struct page, and the
 * module refuses it: see SECTION_SIZE_BITS.
 */
static u64 section_size(void)
{
	return getpagesize() == SZ_64K ? SZ_512M : SZ_128M;
}

/* The part of *@hole after or before what is @used, whichever is larger. */
static void subtract(struct range *hole, const struct range *used)
{
	u64 before, behind;

	if (used->end <= hole->start || used->start >= hole->end)
		return;

	before = used->start > hole->start ? used->start - hole->start : 0;
	behind = used->end < hole->end ? hole->end - used->end : 0;
	if (before > behind)
		hole->end = used->start;
	else
		hole->start = hole->end - behind;
}

static void subtract_iomem(struct range *hole)
{
	char line[256];
	FILE *file;

	file = fopen("/proc/iomem", "r");
	if (!file) {
		hole->start = hole->end;
		return;
	}

	while (fgets(line, sizeof(line), file)) {
		struct range used;

		/* What is indented is a part of what is not. */
		if (*line == ' ' || sscanf(line, "%lx-%lx", &used.start, &used.end) != 2)
			continue;
		/* Without privilege all addresses read as 0. */
		if (!used.end)
			hole->start = hole->end;
		used.end++;
		subtract(hole, &used);
	}
	fclose(file);
}

/* The largest part of the machine's memory that has no name in /proc/iomem. */
static struct range find_hole(void)
{
	struct range best = { 0, 0 };
	struct dirent *entry;
	DIR *dir;

	dir = opendir(DT_ROOT);
	while (dir && (entry = readdir(dir))) {
		char path[PATH_MAX];
		__be64 reg[2];
		FILE *file;

		if (strncmp(entry->d_name, "memory@", 7))
			continue;
		snprintf(path, sizeof(path), DT_ROOT "/%s/reg", entry->d_name);
		file = fopen(path, "r");
		/* All that is known to run Linux has two cells of each. */
		while (file && fread(reg, sizeof(reg), 1, file) == 1) {
			struct range hole = {
				.start = be64toh(reg[0]),
				.end = be64toh(reg[0]) + be64toh(reg[1]),
			};

			subtract_iomem(&hole);
			hole.start = (hole.start + section_size() - 1) & -section_size();
			hole.end &= -(u64)getpagesize();
			if (hole.end > hole.start &&
			    hole.end - hole.start > best.end - best.start)
				best = hole;
		}
		if (file)
			fclose(file);
	}
	if (dir)
		closedir(dir);
	return best;
}

int test_mem_load_params(const char *args)
{
	return test_module_load(KVM_TEST_MEM_NAME, args);
}

static bool read_parameter(const char *name, char *value, size_t size)
{
	char path[128];
	FILE *file;
	bool good;

	snprintf(path, sizeof(path), PARAMETERS "/%s", name);
	file = fopen(path, "r");
	good = file && fgets(value, size, file);
	if (good)
		value[strcspn(value, "\n")] = '\0';
	if (file)
		fclose(file);
	return good;
}

const char *test_mem_load(void)
{
	const char *given = getenv("KVM_TEST_MEM");
	static char reason[256];
	char start[40], size[40];
	const char *missing;
	struct range hole;
	int err;

	if (read_parameter("start", start, sizeof(start)) &&
	    read_parameter("size", size, sizeof(size))) {
		snprintf(params, sizeof(params), "start=%s size=%s", start, size);
		/* Somebody may have left it unbound. */
		if (access(KVM_TEST_MEM_DEV, F_OK))
			test_mem_bind(true);
		return access(KVM_TEST_MEM_DEV, R_OK | W_OK) ?
			"no access to " KVM_TEST_MEM_DEV : NULL;
	}

	missing = test_module_missing(KVM_TEST_MEM_NAME);
	if (missing)
		return missing;

	if (given) {
		snprintf(params, sizeof(params), "%s", given);
	} else {
		hole = find_hole();
		if (hole.start == hole.end)
			return "no memory that the kernel does not know: boot with mem=";
		snprintf(params, sizeof(params), "start=0x%lx size=0x%lx", hole.start,
			 hole.end - hole.start);
	}

	err = test_mem_load_params(params);
	if (!err)
		return NULL;
	snprintf(reason, sizeof(reason), KVM_TEST_MEM_NAME ".ko %s: %s", params, strerror(err));
	return reason;
}

bool test_mem_unload(void)
{
	return test_module_unload(KVM_TEST_MEM_NAME);
}

const char *test_mem_params(void)
{
	return params;
}

int test_mem_bind(bool bind)
{
	int fd = open(bind ? DRIVER "/bind" : DRIVER "/unbind", O_WRONLY | O_CLOEXEC);
	int ret = 0;

	if (fd < 0)
		return errno;
	if (write(fd, KVM_TEST_MEM_NAME, strlen(KVM_TEST_MEM_NAME)) < 0)
		ret = errno;
	close(fd);
	return ret;
}

int test_mem_open(void)
{
	int fd = open(KVM_TEST_MEM_DEV, O_RDWR | O_CLOEXEC);

	/* It was there: no reason to skip. */
	TEST_ASSERT(fd >= 0, KVM_TEST_MEM_DEV ": %s", strerror(errno));
	return fd;
}

void test_mem_info(int fd, struct kvm_test_mem_info *info)
{
	int ret = ioctl(fd, KVM_TEST_MEM_INFO, info);

	TEST_ASSERT(!ret, "KVM_TEST_MEM_INFO: %s", strerror(errno));
}

int __test_mem_set(int fd, u32 kind, u32 flags)
{
	struct kvm_test_mem_set set = { .kind = kind, .flags = flags };

	return ioctl(fd, KVM_TEST_MEM_SET, &set) ? errno : 0;
}

void test_mem_set(int fd, u32 kind, u32 flags)
{
	int err = __test_mem_set(fd, kind, flags);

	TEST_ASSERT(!err, "KVM_TEST_MEM_SET kind %u flags 0x%x: %s", kind, flags, strerror(err));
}

void test_mem_revoke(int fd)
{
	int ret = ioctl(fd, KVM_TEST_MEM_REVOKE, 0);

	TEST_ASSERT(!ret, "KVM_TEST_MEM_REVOKE: %s", strerror(errno));
}

void *__test_mem_map_fd(int fd, u64 offset, size_t size, int prot, int map_flags)
{
	const size_t pmd = pmd_size();
	struct kvm_test_mem_info info;
	void *area, *addr, *mem;
	int err;

	if (ioctl(fd, KVM_TEST_MEM_INFO, &info))
		return MAP_FAILED;

	/* Address space that contains such an address. */
	area = mmap(NULL, size + pmd, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		    -1, 0);
	TEST_ASSERT(area != MAP_FAILED, "mmap: %s", strerror(errno));
	addr = area + ((info.start + offset - (u64)area) & (pmd - 1));

	mem = mmap(addr, size, prot, map_flags | MAP_FIXED, fd, offset);
	err = errno;
	if (mem == MAP_FAILED) {
		munmap(area, size + pmd);
	} else {
		munmap(area, addr - area);
		munmap(addr + size, area + pmd - addr);
	}
	errno = err;
	return mem;
}

void *test_mem_map_fd(int fd, u64 offset, size_t size, int prot, int map_flags)
{
	void *mem = __test_mem_map_fd(fd, offset, size, prot, map_flags);

	TEST_ASSERT(mem != MAP_FAILED, "mmap(0x%zx bytes at 0x%lx of " KVM_TEST_MEM_DEV "): %s",
		    size, offset, strerror(errno));
	return mem;
}

void *test_mem_map(u32 kind, u32 flags, size_t size, int prot, int map_flags)
{
	int fd = test_mem_open();
	void *mem;

	test_mem_set(fd, kind, flags);
	mem = test_mem_map_fd(fd, 0, size, prot, map_flags);
	close(fd);
	return mem;
}

void test_mem_sync(const void *addr, size_t size)
{
	u64 ctr, line;
	const void *p;

	asm("mrs %0, ctr_el0" : "=r"(ctr));
	line = 4UL << ((ctr >> 16) & 0xf);	/* CTR_EL0.DminLine, in words */

	asm volatile("dsb sy" ::: "memory");
	for (p = (const void *)((u64)addr & -line); p < addr + size; p += line)
		asm volatile("dc civac, %0" :: "r"(p) : "memory");
	asm volatile("dsb sy" ::: "memory");
}
