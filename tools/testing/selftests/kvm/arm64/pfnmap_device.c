// SPDX-License-Identifier: GPL-2.0-only
/*
 * pfnmap_device - Check the device whose mappings the tests of PFNMAP are made of
 *
 * What those tests say is worth as much as the device they use: that a mapping is of
 * the kind it was asked for, that all kinds lead to the same memory, that it can be
 * taken away under a mapping, and that it never hands out memory of the kernel.
 * Nothing here is about KVM.
 *
 * The attributes of a mapping cannot be read. Device memory can be told by an unaligned
 * load, which raises an alignment fault there; whether pages or PMDs were inserted, by
 * the number of faults.
 *
 * The memory is what mem= hides from the kernel, or, with the address of a PCI device
 * and the number of a BAR as arguments, the memory behind that.
 */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <linux/sizes.h>

#include "kvm_util.h"
#include "test_mem.h"
#include "test_util.h"

/* Pages of a window in which faults are counted, a few of all in a PMD. */
#define WINDOW_PAGES	32

#define FAULT		KVM_TEST_MEM_FAULT
#define HUGE		(KVM_TEST_MEM_FAULT | KVM_TEST_MEM_HUGE)
#define MIXED		(KVM_TEST_MEM_FAULT | KVM_TEST_MEM_MIXED)
#define ANY_UNCACHED	KVM_TEST_MEM_ANY_UNCACHED

#define KIND(k, f)	{ .name = #k " " #f, .kind = KVM_TEST_MEM_##k, .flags = (f) }

static const struct kind {
	const char *name;
	u32 kind;
	u32 flags;
} kinds[] = {
	KIND(CACHED, 0),
	KIND(CACHED, FAULT),
	KIND(CACHED, HUGE),
	KIND(CACHED, MIXED),
	KIND(CACHED, MIXED | HUGE),
	KIND(NC, 0),
	KIND(NC, FAULT),
	KIND(NC, HUGE),
	KIND(NC, MIXED),
	KIND(NC, MIXED | HUGE),
	KIND(NC, ANY_UNCACHED),
	KIND(NC, ANY_UNCACHED | HUGE),
	KIND(NGNRE, 0),
	KIND(NGNRE, FAULT),
	KIND(NGNRE, HUGE),
	KIND(NGNRE, ANY_UNCACHED),
	KIND(NGNRE, ANY_UNCACHED | HUGE),
	KIND(NGNRNE, 0),
	KIND(NGNRNE, FAULT),
	KIND(NGNRNE, HUGE),
	KIND(NGNRNE, ANY_UNCACHED),
	KIND(NGNRNE, ANY_UNCACHED | HUGE),
};

static size_t page, pmd;
static struct kvm_test_mem_info info;
/* What the tests of mappings map. */
static size_t map_size;

/* The first thing that was wrong in a case; it is over then. Shared with the parent. */
#define WRONG_SIZE	256
static char *wrong;

#define check(cond, fmt, ...)							\
({										\
	bool good = (cond);							\
										\
	if (!good)								\
		snprintf(wrong, WRONG_SIZE, "line %d: " fmt, __LINE__,		\
			 ##__VA_ARGS__);					\
	good;									\
})

static __thread sigjmp_buf caught;
static __thread int catching, caught_code;

static void on_signal(int sig, siginfo_t *si, void *context)
{
	if (!READ_ONCE(catching)) {
		signal(sig, SIG_DFL);
		return;
	}
	WRITE_ONCE(caught_code, si->si_code);
	siglongjmp(caught, sig);
}

/* The signal that a load of 8 bytes raises, or 0 and the value. */
static int load(const void *addr, u64 *val)
{
	int sig = sigsetjmp(caught, 0);

	if (!sig) {
		WRITE_ONCE(catching, 1);
		/* Of 8 bytes in one go, wherever they are. */
		asm volatile("ldr %0, [%1]" : "=r"(*val) : "r"(addr) : "memory");
	}
	WRITE_ONCE(catching, 0);
	return sig;
}

static int load_sig(const void *addr)
{
	u64 val;

	return load(addr, &val);
}

static int store_sig(void *addr, u64 val)
{
	int sig = sigsetjmp(caught, 0);

	if (!sig) {
		WRITE_ONCE(catching, 1);
		WRITE_ONCE(*(u64 *)addr, val);
	}
	WRITE_ONCE(catching, 0);
	return sig;
}

static u64 get(const void *addr)
{
	u64 val;
	int sig;

	test_mem_sync(addr, sizeof(val));
	sig = load(addr, &val);
	TEST_ASSERT(!sig, "load from %p: %s", addr, strsignal(sig));
	return val;
}

static void put(void *addr, u64 val)
{
	int sig = store_sig(addr, val);

	TEST_ASSERT(!sig, "store to %p: %s", addr, strsignal(sig));
	test_mem_sync(addr, sizeof(val));
}

static bool is_device(const struct kind *k)
{
	return k->kind == KVM_TEST_MEM_NGNRE || k->kind == KVM_TEST_MEM_NGNRNE;
}

/* mm cannot break COW of what vmf_insert_pfn() inserted. */
static bool can_be_private(const struct kind *k)
{
	return !(k->flags & KVM_TEST_MEM_FAULT) || k->flags & KVM_TEST_MEM_MIXED;
}

static void *map_kind(const struct kind *k, size_t size, int map_flags)
{
	return test_mem_map(k->kind, k->flags, size, PROT_READ | PROT_WRITE, map_flags);
}

/* Another way to the same memory, which the test only compares with. */
static u8 *reference;

static bool vma_has(const void *addr, const char *flag)
{
	FILE *file = fopen("/proc/self/smaps", "r");
	unsigned long start, end;
	bool inside = false, has = false;
	char line[512], word[8];

	TEST_ASSERT(file, "/proc/self/smaps: %s", strerror(errno));
	snprintf(word, sizeof(word), " %s", flag);
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			inside = start <= (u64)addr && (u64)addr < end;
		if (inside && !strncmp(line, "VmFlags:", 8))
			has = strstr(line, word);
	}
	fclose(file);
	return has;
}

static long minor_faults(void)
{
	struct rusage usage;

	getrusage(RUSAGE_THREAD, &usage);
	return usage.ru_minflt;
}

/* Faults that loads from so many pages in a row take. */
static long count_faults(const void *addr, int pages)
{
	const u8 *p = addr;
	long before;

	/* What is called here is present. */
	minor_faults();
	before = minor_faults();
	for (int i = 0; i < pages; i++)
		READ_ONCE(p[i * page]);
	return minor_faults() - before;
}

/* ------------------------------------------------------------------- loading */

static bool iomem_range(const char *name, u64 *start, u64 *end)
{
	FILE *file = fopen("/proc/iomem", "r");
	char line[256], *colon;
	bool found = false;

	while (file && !found && fgets(line, sizeof(line), file)) {
		line[strcspn(line, "\n")] = '\0';
		colon = strstr(line, " : ");
		found = colon && !strcmp(colon + 3, name) &&
			sscanf(line, " %lx-%lx", start, end) == 2;
	}
	if (file)
		fclose(file);
	return found;
}

static bool refused(int expected, const char *fmt, u64 a, u64 b)
{
	u64 start, end;
	char args[128];
	int err;

	snprintf(args, sizeof(args), fmt, a, b);
	err = test_mem_load_params(args);
	if (!err)
		test_mem_unload();
	return check(err == expected, "\"%s\": errno %d, not %d", args, err, expected) &&
	       check(access(KVM_TEST_MEM_DEV, F_OK), "\"%s\": left a device", args) &&
	       check(!iomem_range(KVM_TEST_MEM_NAME, &start, &end), "\"%s\": left a claim", args);
}

#define ARGS		"start=0x%lx size=0x%lx"

static void test_bad_params(void)
{
	const struct { const char *fmt; u64 a, b; } bad[] = {
		{ "" },
		{ "start=0x%lx", info.start },
		{ "size=0x%lx", info.size },
		{ "start= size=" },
		{ "start=0x%lxz size=0x%lx", info.start, info.size },
		{ "start=-1 size=0x%lx", info.size },
		{ ARGS, info.start, 0 },
		{ ARGS, info.start + 8, info.size - page },
		{ ARGS, info.start, page + 8 },
		{ ARGS, info.start, page / 2 },
		/* To beyond the end of the numbers, and of physical memory. */
		{ ARGS, -page, 2 * page },
		{ ARGS, info.start, -page },
		{ ARGS, 1UL << 52, page },
	};

	for (int i = 0; i < ARRAY_SIZE(bad); i++) {
		if (!refused(EINVAL, bad[i].fmt, bad[i].a, bad[i].b))
			return;
	}
}

static void test_kernel_memory(void)
{
	u64 start, end, first, last;

	if (!check(iomem_range("System RAM", &start, &end), "no System RAM in /proc/iomem"))
		return;

	first = (start + page - 1) & -page;
	last = ((end + 1) & -page) - page;
	if (!refused(EBUSY, ARGS, first, page) || !refused(EBUSY, ARGS, last, page))
		return;
	/* The last and the first page alone are the kernel's. */
	if (!refused(EBUSY, ARGS, first - page, 2 * page) ||
	    !refused(EBUSY, ARGS, last, 2 * page))
		return;
	/*
	 * Nameless, and yet the kernel has a struct page for it: what is left of a
	 * memory section, which is 128M or a multiple.
	 */
	if ((end + 1) & (SZ_128M - 1) && !refused(EBUSY, ARGS, last + page, page))
		return;
	/* All of it, with what is around it. */
	if (!refused(EBUSY, ARGS, 0, info.start + info.size))
		return;

	if (iomem_range("GICD", &start, &end) && !((start | (end + 1)) & (page - 1)))
		refused(EBUSY, ARGS, start, end + 1 - start);
}

static void test_suffixes(void)
{
	struct kvm_test_mem_info got;
	char args[128];
	int fd, err;

	/* A part of what it can have, 64 kB, in decimal. */
	snprintf(args, sizeof(args), "start=%llu size=64K", info.start);
	err = test_mem_load_params(args);
	if (!check(!err, "\"%s\": errno %d", args, err))
		return;
	fd = test_mem_open();
	test_mem_info(fd, &got);
	close(fd);
	if (!check(test_mem_unload(), "cannot be unloaded: errno %d", errno))
		return;
	check(got.start == info.start && got.size == SZ_64K,
	      "\"%s\": 0x%llx bytes at 0x%llx", args, got.size, got.start);
}

static void test_loading(void)
{
	u64 start, end;
	int err;

	if (!check(test_mem_unload(), "cannot be unloaded: errno %d", errno))
		return;
	if (!check(access(KVM_TEST_MEM_DEV, F_OK), "the device is still there"))
		return;
	test_bad_params();
	if (!*wrong)
		test_kernel_memory();
	if (!*wrong)
		test_suffixes();

	err = test_mem_load_params(test_mem_params());
	if (*wrong)
		return;
	if (!check(!err, "cannot be loaded again: errno %d", err))
		return;
	if (!check(iomem_range(KVM_TEST_MEM_NAME, &start, &end) && start == info.start &&
		   end + 1 - start == info.size, "the range is not claimed"))
		return;
	err = test_mem_load_params(test_mem_params());
	check(err == EEXIST, "loaded twice: errno %d", err);
}

/* -------------------------------------------------------------------- ioctls */

static void check_set(int fd, u32 kind, u32 flags, u64 reserved0, u64 reserved1)
{
	struct kvm_test_mem_set set = {
		.kind = kind,
		.flags = flags,
		.reserved = { reserved0, reserved1 },
	};
	void *mem;
	int ret;

	ret = ioctl(fd, KVM_TEST_MEM_SET, &set);
	if (!check(ret == -1 && errno == EINVAL,
		   "kind %u flags 0x%x reserved %lu %lu: %d, errno %d", kind, flags, reserved0,
		   reserved1, ret, errno))
		return;

	/* Still what it was set to by the caller, which nothing here is. */
	mem = test_mem_map_fd(fd, 0, page, PROT_READ, MAP_SHARED);
	ret = vma_has(mem, "mm") && load_sig(mem + 1) == SIGBUS;
	munmap(mem, page);
	check(ret, "kind %u flags 0x%x: refused and done", kind, flags);
}

static void test_bad_ioctls(void)
{
	const struct { u32 kind, flags; u64 reserved0, reserved1; } bad[] = {
		{ KVM_TEST_MEM_NR_KINDS },
		{ -1 },
		{ KVM_TEST_MEM_NC, 1U << 4 },
		{ KVM_TEST_MEM_NC, 1U << 31 },
		{ KVM_TEST_MEM_NC, 0, 1, 0 },
		{ KVM_TEST_MEM_NC, 0, 0, 1UL << 63 },
		{ KVM_TEST_MEM_CACHED, ANY_UNCACHED },
		{ KVM_TEST_MEM_CACHED, ANY_UNCACHED | HUGE },
		{ KVM_TEST_MEM_NC, KVM_TEST_MEM_HUGE },
		{ KVM_TEST_MEM_NC, KVM_TEST_MEM_MIXED },
	};
	int fd = test_mem_open();
	void *mem;
	int ret;

	test_mem_set(fd, KVM_TEST_MEM_NGNRE, MIXED);
	for (int i = 0; i < ARRAY_SIZE(bad); i++) {
		check_set(fd, bad[i].kind, bad[i].flags, bad[i].reserved0, bad[i].reserved1);
		if (*wrong)
			return;
	}

	ret = ioctl(fd, KVM_TEST_MEM_SET, NULL);
	if (!check(ret == -1 && errno == EFAULT, "SET of NULL: %d, errno %d", ret, errno))
		return;
	ret = ioctl(fd, KVM_TEST_MEM_INFO, NULL);
	if (!check(ret == -1 && errno == EFAULT, "INFO to NULL: %d, errno %d", ret, errno))
		return;
	ret = ioctl(fd, _IO(KVM_TEST_MEM_MAGIC, 3), 0);
	if (!check(ret == -1 && errno == ENOTTY, "unknown ioctl: %d, errno %d", ret, errno))
		return;

	mem = test_mem_map_fd(fd, 0, page, PROT_READ, MAP_SHARED);
	ret = ioctl(fd, KVM_TEST_MEM_REVOKE, 1UL);
	if (!check(ret == -1 && errno == EINVAL, "REVOKE of 1: %d, errno %d", ret, errno))
		return;
	if (!check(!load_sig(mem), "refused and revoked"))
		return;
	munmap(mem, page);
	close(fd);
}

static void check_bounds(int fd, u64 offset, u64 size)
{
	void *mem = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, offset);
	int err = errno;

	if (mem != MAP_FAILED)
		munmap(mem, size);
	if (!check(mem == MAP_FAILED, "0x%lx bytes at 0x%lx: mapped", size, offset))
		return;
	check(err == EINVAL, "0x%lx bytes at 0x%lx: errno %d", size, offset, err);
}

static void test_bounds(void)
{
	const u64 far = 1UL << 62;
	u32 flags[] = { 0, FAULT, HUGE, MIXED };
	int fd = test_mem_open();
	u8 *mem;

	reference = test_mem_map_fd(fd, 0, info.size, PROT_READ | PROT_WRITE, MAP_SHARED);
	put(reference, 1);
	put(reference + info.size - page, 2);
	for (int i = 0; i < ARRAY_SIZE(flags); i++) {
		test_mem_set(fd, KVM_TEST_MEM_CACHED, flags[i]);
		check_bounds(fd, 0, info.size + page);
		if (!*wrong)
			check_bounds(fd, info.size - page, 2 * page);
		if (!*wrong)
			check_bounds(fd, info.size, page);
		if (!*wrong)
			check_bounds(fd, far, page);
		if (!*wrong)
			check_bounds(fd, far - info.size, page);
		if (*wrong)
			return;

		mem = test_mem_map_fd(fd, info.size - page, page, PROT_READ, MAP_SHARED);
		if (!check(get(mem) == 2, "the last page is another"))
			return;
		munmap(mem, page);
		mem = test_mem_map_fd(fd, 0, info.size, PROT_READ, MAP_SHARED);
		if (!check(get(mem) == 1 && get(mem + info.size - page) == 2, "not all is mapped"))
			return;
		munmap(mem, info.size);
	}
	close(fd);
}

/* ------------------------------------------------------------ kinds of mapping */

static void check_contents(u8 *mem, u64 offset, size_t size)
{
	const u64 places[] = {
		0, 8, page - 8, page, size / 2 - 8, size / 2, size - page, size - 8,
	};

	for (int i = 0; i < ARRAY_SIZE(places); i++)
		put(mem + places[i], 0x1000 + places[i]);
	for (int i = 0; i < ARRAY_SIZE(places); i++) {
		if (!check(get(reference + offset + places[i]) == 0x1000 + places[i],
			   "what was written at 0x%lx is not in memory", places[i]))
			return;
	}
	for (int i = 0; i < ARRAY_SIZE(places); i++)
		put(reference + offset + places[i], 0x2000 + places[i]);
	for (int i = 0; i < ARRAY_SIZE(places); i++) {
		if (!check(get(mem + places[i]) == 0x2000 + places[i],
			   "what is in memory at 0x%lx is not read", places[i]))
			return;
	}
}

static bool thp_is_off(void)
{
	FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "r");
	char line[64] = "[never]";

	if (file) {
		if (!fgets(line, sizeof(line), file))
			line[0] = '\0';
		fclose(file);
	}
	return strstr(line, "[never]");
}

static void test_shared(const struct kind *k)
{
	u8 *mem = map_kind(k, map_size, MAP_SHARED);
	bool mixed = k->flags & KVM_TEST_MEM_MIXED;
	bool whole = map_size >= pmd && !(info.start & (pmd - 1)) && !(mixed && thp_is_off());
	long faults;
	int sig;

	if (!check(vma_has(mem, "io"), "not VM_IO"))
		return;
	if (!check(vma_has(mem, "pf") == !mixed, "VM_PFNMAP is %d", mixed))
		return;
	if (!check(vma_has(mem, "mm") == mixed, "VM_MIXEDMAP is %d", !mixed))
		return;

	faults = count_faults(mem, WINDOW_PAGES);
	if (!(k->flags & KVM_TEST_MEM_FAULT))
		check(faults < WINDOW_PAGES / 4, "%ld faults, was not filled", faults);
	else if (k->flags & KVM_TEST_MEM_HUGE && whole)
		check(faults && faults < WINDOW_PAGES / 4, "%ld faults, not a PMD", faults);
	else
		check(faults >= WINDOW_PAGES, "%ld faults for %d pages", faults, WINDOW_PAGES);
	if (*wrong)
		return;

	sig = load_sig(mem + 1);
	if (is_device(k))
		check(sig == SIGBUS && caught_code == BUS_ADRALN,
		      "unaligned load: signal %d, not device memory", sig);
	else
		check(!sig, "unaligned load: signal %d, device memory", sig);
	if (*wrong)
		return;

	check_contents(mem, 0, map_size);
	munmap(mem, map_size);
	if (*wrong)
		return;

	/* Where no PMD fits: the address is not aligned as the memory is. */
	if (k->flags & KVM_TEST_MEM_HUGE) {
		int fd = test_mem_open();

		test_mem_set(fd, k->kind, k->flags);
		mem = test_mem_map_fd(fd, 0, map_size, PROT_NONE, MAP_SHARED);
		mem = mmap(mem, map_size - page, PROT_READ | PROT_WRITE,
			   MAP_SHARED | MAP_FIXED, fd, page);
		if (!check(mem != MAP_FAILED, "mmap: errno %d", errno))
			return;
		faults = count_faults(mem, WINDOW_PAGES);
		if (!check(faults >= WINDOW_PAGES, "%ld faults for %d pages", faults, WINDOW_PAGES))
			return;
		check_contents(mem, page, map_size - page);
		munmap(mem, map_size);
		close(fd);
	}
}

static void test_private(const struct kind *k)
{
	int fd = test_mem_open();
	u8 *mem;

	test_mem_set(fd, k->kind, k->flags);
	mem = __test_mem_map_fd(fd, 0, map_size, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	close(fd);
	if (!can_be_private(k)) {
		check(mem == MAP_FAILED && errno == EINVAL, "was not refused with EINVAL");
		return;
	}
	if (!check(mem != MAP_FAILED, "errno %d", errno))
		return;

	put(reference, 1);
	put(reference + page, 2);
	put(reference + map_size - page, 3);
	if (!check(get(mem) == 1 && get(mem + page) == 2, "does not show the memory"))
		return;

	/* Written after, and before, it was read. */
	put(mem, 4);
	put(mem + map_size - page, 5);
	if (!check(get(reference) == 1 && get(reference + map_size - page) == 3,
		   "a write went to the memory"))
		return;
	if (!check(get(mem) == 4 && get(mem + map_size - page) == 5, "a write is lost"))
		return;
	if (!check(get(mem + 8) == get(reference + 8), "the rest of the page was not copied"))
		return;

	/* A copy does not follow the memory, what was not copied does. */
	put(reference, 6);
	put(reference + page, 7);
	if (!check(get(mem) == 4, "the copy changes with the memory"))
		return;
	if (!check(get(mem + page) == 7, "what is not copied does not change with the memory"))
		return;
	munmap(mem, map_size);
}

/*
 * Starts a child that runs @fn once it has read the 1 that is at @mem, so that it has a
 * page table entry for it. child_good() is true if @fn returned true.
 */
static bool in_child(bool (*fn)(u8 *mem, int go), u8 *mem, int *go, pid_t *pid)
{
	int fds[2], ready[2];
	char byte;

	if (pipe(fds) || pipe(ready))
		return false;
	*pid = fork();
	if (!*pid) {
		close(fds[1]);
		if (get(mem) != 1 || write(ready[1], "", 1) != 1)
			_exit(1);
		_exit(!fn(mem, fds[0]));
	}
	close(fds[0]);
	close(ready[1]);
	*go = fds[1];
	byte = read(ready[0], &byte, 1) == 1;
	close(ready[0]);
	return *pid > 0 && byte;
}

static bool child_good(int go, pid_t pid)
{
	int status;

	close(go);
	return waitpid(pid, &status, 0) == pid && WIFEXITED(status) && !WEXITSTATUS(status);
}

/* Waits until the parent says so. */
static void await(int go)
{
	char byte;

	while (read(go, &byte, 1) < 0 && errno == EINTR)
		;
}

static bool child_writes(u8 *mem, int go)
{
	await(go);
	/* By the parent: before the fork, and after it. */
	if (get(mem) != 1 || get(mem + page) != 2)
		return false;
	put(mem + 2 * page, 3);
	return true;
}

static bool child_writes_private(u8 *mem, int go)
{
	await(go);
	/* The parent wrote to its copy after the fork. */
	if (get(mem) != 1 || get(mem + page) != 0)
		return false;
	put(mem + 2 * page, 3);
	return get(mem + 2 * page) == 3;
}

static void check_fork(const struct kind *k, bool private)
{
	pid_t pid;
	u8 *mem;
	int go;

	for (int i = 0; i < 3; i++)
		put(reference + i * page, 0);
	mem = map_kind(k, map_size, private ? MAP_PRIVATE : MAP_SHARED);
	put(mem, 1);
	if (!check(in_child(private ? child_writes_private : child_writes, mem, &go, &pid),
		   "the child did not start"))
		return;
	put(mem + page, 2);
	if (!check(child_good(go, pid), "the child %s",
		   private ? "has no copy of its own" : "does not see the memory"))
		return;
	if (!check(get(mem + 2 * page) == (private ? 0 : 3), "a write of the child to %s memory",
		   private ? "private" : "shared"))
		return;
	munmap(mem, map_size);
}

static void test_fork(const struct kind *k)
{
	check_fork(k, false);
	if (!*wrong && can_be_private(k))
		check_fork(k, true);
}

static void test_mremap(const struct kind *k)
{
	size_t part = map_size / 2 & -page;
	u8 *mem, *other, *grown;

	mem = map_kind(k, map_size, MAP_SHARED);
	put(mem, 1);
	put(mem + part, 2);
	put(mem + map_size - page, 3);

	grown = mremap(mem, map_size, map_size + page, MREMAP_MAYMOVE);
	if (!check(grown == MAP_FAILED && errno == EFAULT, "mremap() to more: errno %d", errno))
		return;

	/* The second half goes elsewhere, by pages. */
	other = mmap(NULL, map_size - part, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	other = mremap(mem + part, map_size - part, map_size - part,
		       MREMAP_MAYMOVE | MREMAP_FIXED, other);
	if (!check(other != MAP_FAILED, "mremap: errno %d", errno))
		return;
	if (!check(load_sig(mem + part) == SIGSEGV, "the old place can be read"))
		return;
	if (!check(get(other) == 2 && get(other + map_size - part - page) == 3,
		   "moved to other memory"))
		return;
	if (!check(get(mem) == 1, "what stayed is other memory"))
		return;
	put(other, 4);
	if (!check(get(reference + part) == 4, "written through the new place, not in memory"))
		return;
	munmap(other, map_size - part);
	munmap(mem, part);
}

static void test_munmap(const struct kind *k)
{
	u8 *mem = map_kind(k, map_size, MAP_SHARED);

	for (int i = 0; i < 4; i++)
		put(mem + i * page, i + 1);
	if (!check(!munmap(mem + page, page), "munmap: errno %d", errno))
		return;
	if (!check(load_sig(mem + page) == SIGSEGV, "what was unmapped can be read"))
		return;
	if (!check(get(mem) == 1 && get(mem + 2 * page) == 3 && get(mem + 3 * page) == 4,
		   "the rest is other memory"))
		return;
	if (!check(!mprotect(mem + 2 * page, page, PROT_READ), "mprotect: errno %d", errno))
		return;
	if (!check(get(mem + 2 * page) == 3 && store_sig(mem + 2 * page, 0) == SIGSEGV,
		   "a part that was made read-only is not"))
		return;
	if (is_device(k))
		check(load_sig(mem + 2 * page + 1) == SIGBUS, "mprotect() made it Normal");
	munmap(mem, map_size);
	check(get(reference + page) == 2, "unmapping changed the memory");
}

/* -------------------------------------------------------------- taking it away */

static bool child_gets_sigbus(u8 *mem, int go)
{
	await(go);
	return load_sig(mem) == SIGBUS && load_sig(mem + map_size - page) == SIGBUS;
}

/*
 * Nobody may have access to what was revoked, neither through PTEs that were there nor
 * by a fault. The device would be reset or gone, and then an access may raise an SError.
 */
static void test_revoke(const struct kind *k)
{
	u8 *mem, *touched, *private = NULL, *again;
	int fd = test_mem_open(), go;
	pid_t pid;

	test_mem_set(fd, k->kind, k->flags);
	put(reference, 1);
	mem = test_mem_map_fd(fd, 0, map_size, PROT_READ | PROT_WRITE, MAP_SHARED);
	/* Of another file; all of it has PTEs, and where it has none. */
	touched = map_kind(k, map_size, MAP_SHARED);
	put(touched, 1);
	put(touched + map_size - page, 2);
	if (can_be_private(k)) {
		private = map_kind(k, map_size, MAP_PRIVATE);
		put(private, 3);
		get(private + page);
	}
	if (!check(in_child(child_gets_sigbus, touched, &go, &pid), "the child did not start"))
		return;

	test_mem_revoke(fd);
	if (!check(child_good(go, pid), "a child still has it"))
		return;
	if (!check(load_sig(touched) == SIGBUS && store_sig(touched, 4) == SIGBUS,
		   "a page that was mapped still is"))
		return;
	if (!check(load_sig(mem) == SIGBUS, "a page is mapped by a fault"))
		return;
	if (!check(load_sig(touched + map_size - page) == SIGBUS, "the last page is not revoked"))
		return;
	if (private)
		if (!check(load_sig(private) == SIGBUS && load_sig(private + page) == SIGBUS &&
			   store_sig(private + page, 1) == SIGBUS,
			   "a private mapping is not revoked"))
			return;
	if (!check(load_sig(reference) == SIGBUS, "a mapping of another kind is not revoked"))
		return;

	/* Moving or splitting the VMA does not bring it back. */
	if (!check(!munmap(mem + page, page), "munmap: errno %d", errno))
		return;
	if (!check(load_sig(mem) == SIGBUS && load_sig(mem + 2 * page) == SIGBUS,
		   "back after munmap()"))
		return;

	again = test_mem_map_fd(fd, 0, map_size, PROT_READ | PROT_WRITE, MAP_SHARED);
	if (!check(get(again) == 1, "a mapping made later is not of the same memory"))
		return;
	munmap(again, map_size);
	munmap(mem, map_size);
	munmap(touched, map_size);
	if (private)
		munmap(private, map_size);
	close(fd);
}

static void check_gone(int fd, u8 *mem)
{
	struct kvm_test_mem_set set = { .kind = KVM_TEST_MEM_NC };
	struct kvm_test_mem_info got;
	void *new;
	int ret;

	if (!check(load_sig(mem) == SIGBUS && store_sig(mem + map_size - page, 0) == SIGBUS,
		   "a mapping is still there"))
		return;
	ret = ioctl(fd, KVM_TEST_MEM_SET, &set);
	if (!check(ret == -1 && errno == ENODEV, "SET: %d, errno %d", ret, errno))
		return;
	ret = ioctl(fd, KVM_TEST_MEM_INFO, &got);
	if (!check(ret == -1 && errno == ENODEV, "INFO: %d, errno %d", ret, errno))
		return;
	ret = ioctl(fd, KVM_TEST_MEM_REVOKE, 0);
	if (!check(ret == -1 && errno == ENODEV, "REVOKE: %d, errno %d", ret, errno))
		return;
	new = mmap(NULL, page, PROT_READ, MAP_SHARED, fd, 0);
	check(new == MAP_FAILED && errno == ENODEV, "mmap(): errno %d", errno);
}

static void test_unbind(const struct kind *k)
{
	int fd = test_mem_open(), go, err;
	u8 *mem, *again;
	pid_t pid;

	put(reference, 1);
	test_mem_set(fd, k->kind, k->flags);
	mem = test_mem_map_fd(fd, 0, map_size, PROT_READ | PROT_WRITE, MAP_SHARED);
	put(mem, 1);
	if (!check(in_child(child_gets_sigbus, mem, &go, &pid), "the child did not start"))
		return;

	if (!check(!test_mem_unload() && errno == EWOULDBLOCK, "unloaded in use"))
		return;
	err = test_mem_bind(false);
	if (!check(!err, "unbind: errno %d", err))
		return;
	if (!check(access(KVM_TEST_MEM_DEV, F_OK) && errno == ENOENT, "can still be opened"))
		return;
	if (!check(child_good(go, pid), "a child still has it"))
		return;
	check_gone(fd, mem);
	if (*wrong)
		return;
	if (!check(load_sig(reference) == SIGBUS, "a mapping of another kind is still there"))
		return;
	if (!check(!test_mem_unload() && errno == EWOULDBLOCK, "unloaded in use"))
		return;

	err = test_mem_bind(true);
	if (!check(!err, "bind: errno %d", err))
		return;
	/* What was open before does not come back with it. */
	check_gone(fd, mem);
	if (*wrong)
		return;
	again = map_kind(k, map_size, MAP_SHARED);
	if (!check(get(again) == 1, "the new device is of other memory"))
		return;
	munmap(again, map_size);
	munmap(mem, map_size);
	close(fd);
}

/* The end of a device, a file and a mapping, in each order. */
static void check_order(const char *order, const struct kind *k)
{
	bool bound = true, opened = true, mapped = true;
	int fd, err, sig;
	u8 *mem;

	fd = test_mem_open();
	test_mem_set(fd, k->kind, k->flags);
	mem = test_mem_map_fd(fd, 0, map_size, PROT_READ | PROT_WRITE, MAP_SHARED);
	put(mem, 1);

	for (const char *step = order; *step; step++) {
		if (opened || mapped)
			if (!check(!test_mem_unload() && errno == EWOULDBLOCK,
				   "%s: unloaded before step %s", order, step))
				return;
		switch (*step) {
		case 'u':
			err = test_mem_bind(false);
			if (!check(!err, "%s: unbind: errno %d", order, err))
				return;
			bound = false;
			break;
		case 'c':
			close(fd);
			opened = false;
			break;
		case 'm':
			munmap(mem, map_size);
			mapped = false;
			break;
		}
		if (mapped) {
			sig = load_sig(mem);
			if (!check(sig == (bound ? 0 : SIGBUS), "%s: signal %d after step %s",
				   order, sig, step))
				return;
		}
	}
	if (!check(test_mem_unload(), "%s: cannot be unloaded: errno %d", order, errno))
		return;
	err = test_mem_load_params(test_mem_params());
	check(!err, "%s: cannot be loaded again: errno %d", order, err);
}

static void test_orders(void)
{
	static const char * const orders[] = { "ucm", "umc", "cum", "cmu", "muc", "mcu" };

	for (int i = 0; i < ARRAY_SIZE(kinds) && !*wrong; i++)
		check_order(orders[i % ARRAY_SIZE(orders)], &kinds[i]);
}

/* ------------------------------------------------------------------- all at once */

static atomic_bool stop;
static atomic_ulong touches, refusals;

/* The only outcomes are memory, SIGBUS, and that the device has just gone. */
static void *map_and_touch(void *arg)
{
	unsigned int seed = (unsigned long)arg;

	while (!atomic_load(&stop)) {
		const struct kind *k = &kinds[rand_r(&seed) % ARRAY_SIZE(kinds)];
		size_t at = rand_r(&seed) % (map_size / page) * page;
		int fd = open(KVM_TEST_MEM_DEV, O_RDWR | O_CLOEXEC), sig;
		u8 *mem;

		if (fd < 0) {
			atomic_fetch_add(&refusals, 1);
			continue;
		}
		if (__test_mem_set(fd, k->kind, k->flags)) {
			atomic_fetch_add(&refusals, 1);
			close(fd);
			continue;
		}
		mem = mmap(NULL, map_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		close(fd);
		if (mem == MAP_FAILED) {
			atomic_fetch_add(&refusals, 1);
			continue;
		}
		sig = store_sig(mem + at, 0);
		TEST_ASSERT(!sig || sig == SIGBUS, "signal %d", sig);
		atomic_fetch_add(sig ? &refusals : &touches, 1);
		sig = load_sig(mem + map_size - page);
		TEST_ASSERT(!sig || sig == SIGBUS, "signal %d", sig);
		munmap(mem, map_size);
	}
	return NULL;
}

static void test_race(void)
{
	pthread_t threads[3];
	pid_t pid;
	u8 *mem;
	int err;

	atomic_store(&stop, false);
	for (long i = 0; i < ARRAY_SIZE(threads); i++)
		pthread_create(&threads[i], NULL, map_and_touch, (void *)i + 1);

	for (int i = 0; i < 60 && !*wrong; i++) {
		int fd = test_mem_open();

		mem = test_mem_map_fd(fd, 0, map_size, PROT_READ, MAP_SHARED);
		load_sig(mem);
		/* A copy of page tables that are about to go. */
		pid = i % 4 ? -1 : fork();
		if (!pid)
			_exit(0);
		if (i % 2) {
			test_mem_revoke(fd);
			err = 0;
		} else {
			err = test_mem_bind(false);
		}
		if (err || load_sig(mem) != SIGBUS)
			snprintf(wrong, WRONG_SIZE, "round %d: errno %d, or still there", i, err);
		munmap(mem, map_size);
		close(fd);
		if (!(i % 2))
			err = test_mem_bind(true);
		if (err)
			snprintf(wrong, WRONG_SIZE, "round %d: bind: errno %d", i, err);
		if (pid > 0)
			waitpid(pid, NULL, 0);
		usleep(2000);
	}

	atomic_store(&stop, true);
	for (int i = 0; i < ARRAY_SIZE(threads); i++)
		pthread_join(threads[i], NULL);
	if (*wrong)
		return;
	check(atomic_load(&touches) && atomic_load(&refusals), "%lu touches, %lu refusals: no race",
	      atomic_load(&touches), atomic_load(&refusals));
}

/* ------------------------------------------------------------------------- main */

/*
 * Each case is a process, so that one that is wrong leaves neither files nor mappings
 * to the others. Wherever it stopped, the next one has a device.
 */
static void run_case(const char *name, const struct kind *k, void (*test)(void),
		     void (*test_kind)(const struct kind *k))
{
	int status = 0;
	pid_t pid;

	*wrong = '\0';
	pid = fork();
	if (!pid) {
		if (test) {
			test();
		} else {
			reference = test_mem_map(KVM_TEST_MEM_CACHED, FAULT, info.size,
						 PROT_READ | PROT_WRITE, MAP_SHARED);
			test_kind(k);
		}
		_exit(0);
	}
	TEST_ASSERT(pid > 0 && waitpid(pid, &status, 0) == pid, "fork: %s", strerror(errno));
	if (status && !*wrong)
		snprintf(wrong, WRONG_SIZE, "ended with status 0x%x", status);

	ksft_test_result(!*wrong, "%s%s%s%s%s\n", name, k ? ", " : "", k ? k->name : "",
			 *wrong ? ": " : "", wrong);

	if (access(KVM_TEST_MEM_DEV, F_OK) && test_mem_bind(true))
		test_mem_load_params(test_mem_params());
}

/* Have the device use a BAR of a PCI device, which must be enabled and memory. */
static void use_bar(const char *bdf, int nr)
{
	u64 start = 0, end = 0, flags;
	char path[128], given[64];
	FILE *file;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/resource", bdf);
	file = fopen(path, "r");
	for (; file && nr >= 0; nr--) {
		if (fscanf(file, "%lx %lx %lx", &start, &end, &flags) != 3)
			end = start;
	}
	if (file)
		fclose(file);
	__TEST_REQUIRE(start != end, "there is no such BAR");

	snprintf(given, sizeof(given), "start=0x%lx size=0x%lx", start, end - start + 1);
	setenv("KVM_TEST_MEM", given, true);
}

int main(int argc, char *argv[])
{
	static const struct {
		const char *name;
		void (*test)(void);
		void (*test_kind)(const struct kind *k);
	} tests[] = {
		{ "loading", test_loading },
		{ "ioctls", test_bad_ioctls },
		{ "bounds", test_bounds },
		{ "shared", NULL, test_shared },
		{ "private", NULL, test_private },
		{ "fork", NULL, test_fork },
		{ "mremap", NULL, test_mremap },
		{ "munmap", NULL, test_munmap },
		{ "revoke", NULL, test_revoke },
		{ "unbind", NULL, test_unbind },
		{ "orders", test_orders },
		{ "race", test_race },
	};
	struct sigaction action = {
		.sa_sigaction = on_signal,
		.sa_flags = SA_SIGINFO | SA_NODEFER,
	};
	const char *reason;
	int fd, plan = 0;

	page = getpagesize();
	pmd = pmd_size();
	if (argc == 3)
		use_bar(argv[1], atoi(argv[2]));
	reason = test_mem_load();
	__TEST_REQUIRE(!reason, "%s", reason);

	fd = test_mem_open();
	test_mem_info(fd, &info);
	close(fd);
	map_size = min_t(size_t, info.size, 2 * pmd);
	__TEST_REQUIRE(map_size >= 2 * WINDOW_PAGES * page, "the range is too small");

	sigaction(SIGBUS, &action, NULL);
	sigaction(SIGSEGV, &action, NULL);
	wrong = mmap(NULL, WRONG_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	TEST_ASSERT(wrong != MAP_FAILED, "mmap: %s", strerror(errno));

	ksft_print_header();
	for (int t = 0; t < ARRAY_SIZE(tests); t++)
		plan += tests[t].test ? 1 : ARRAY_SIZE(kinds);
	ksft_set_plan(plan);

	for (int t = 0; t < ARRAY_SIZE(tests); t++) {
		if (tests[t].test) {
			run_case(tests[t].name, NULL, tests[t].test, NULL);
			continue;
		}
		for (int i = 0; i < ARRAY_SIZE(kinds); i++)
			run_case(tests[t].name, &kinds[i], NULL, tests[t].test_kind);
	}

	test_mem_unload();
	ksft_finished();
}
