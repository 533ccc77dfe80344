// SPDX-License-Identifier: GPL-2.0-only
/*
 * mte_memslot - Check which memory a VM with memory tagging (MTE) can have.
 *
 * What can hold tags for as long as the guest has it is accepted, and the guest
 * uses it. Anything else is refused, which takes two checks: one when the
 * memslot is created or changed, and one when the guest accesses a page, as the
 * VMM is free to map something else under a memslot, or to enable MTE after
 * the memslot.
 *
 * Each refusal at creation is checked to leave no memslot behind, by having the
 * guest access the address: without a memslot that is MMIO. Each refusal of an
 * access is checked to be no more than that, by mapping good memory at the same
 * address, on which the guest then completes the access. And each kind of
 * memory that is refused is one that a VM without MTE can use, as it would be
 * refused for another reason otherwise.
 */
#include <sys/mman.h>
#include <sys/mount.h>

#include <linux/sizes.h>

#include "kvm_util.h"
#include "mte.h"
#include "processor.h"
#include "test_util.h"

#define DATA_SLOT	1
#define SLOT_PAGES	4
#define TEST_TAG	0x5
#define TEST_DATA	0x0123456789abcdefUL

static size_t page_size;
static size_t slot_size;

/* A place to mount a file system whose files are ordinary page cache. */
static char *ramfs;

static u64 guest_write(u64 addr, u64 val, u64 c, u64 d)
{
	WRITE_ONCE(*(u64 *)addr, val);

	return READ_ONCE(*(u64 *)addr);
}

/* What was in the tags before is the subject of other tests. */
static u64 guest_use_tags(u64 addr, u64 size, u64 c, u64 d)
{
	mte_store_tags((void *)addr, size, TEST_TAG);

	return mte_have_tag((void *)addr, size, TEST_TAG);
}

static struct kvm_vm *vm_create_one(bool mte, struct kvm_vcpu **vcpu)
{
	struct kvm_vm *vm = __vm_create(VM_SHAPE_DEFAULT, 1, 0);

	if (mte)
		vm_enable_cap(vm, KVM_CAP_ARM_MTE, 0);
	mte_vm_add_vcpus(vm, 1, vcpu);

	/* Whether there is a memslot or not. */
	virt_map(vm, MTE_TEST_GPA, MTE_TEST_GPA, slot_size / vm->page_size);

	return vm;
}

static int set_slot(struct kvm_vm *vm, u32 flags, void *mem, size_t size)
{
	return __vm_set_user_memory_region(vm, DATA_SLOT, flags, MTE_TEST_GPA, size, mem);
}

static bool failed_with(int ret, int err)
{
	return ret == -1 && errno == err;
}

/* Memory that can have tags. */

static void run_accepted(enum mte_mem_type type, size_t folio_size, const char *name)
{
	const char *reason, *failure = NULL;
	struct kvm_vcpu *vcpu;
	struct mte_mem mem;
	struct kvm_vm *vm;

	reason = mte_mem_alloc(&mem, type, folio_size, slot_size);
	if (reason) {
		ksft_test_result_skip("accepted, %s: %s\n", name, reason);
		return;
	}

	vm = mte_vm_create(1, mem.size, &vcpu);
	if (set_slot(vm, 0, mem.hva, mem.size)) {
		failure = "refused";
	} else {
		size_t size = mem.size;

		/* More than a block is of no interest here. */
		if (size > SZ_2M)
			size = SZ_2M;
		virt_map(vm, MTE_TEST_GPA, MTE_TEST_GPA, size / vm->page_size);
		if (!mte_vcpu_call(vcpu, guest_use_tags, MTE_TEST_GPA, size, 0, 0))
			failure = "the guest sees wrong tags";
	}

	ksft_test_result(!failure, "accepted, %s%s%s\n", name,
			 failure ? ": " : "", failure ?: "");
	kvm_vm_free(vm);
	mte_mem_free(&mem);
}

static const struct {
	const char *name;
	enum mte_mem_type type;
} accepted[] = {
	{ "anonymous", MTE_MEM_ANON },
	{ "anonymous THP", MTE_MEM_ANON_THP },
	{ "memfd", MTE_MEM_MEMFD },
	{ "memfd THP", MTE_MEM_MEMFD_THP },
};

/* A copy of a page of a memfd is anonymous, one that is only read is not. */
static void run_private_memfd(void)
{
	const char *failure = NULL;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	void *mem;
	int fd;

	fd = kvm_memfd_alloc(slot_size, false);
	mem = kvm_mmap(slot_size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd);
	vm = vm_create_one(true, &vcpu);
	if (set_slot(vm, 0, mem, slot_size))
		failure = "refused";
	else if (mte_vcpu_call(vcpu, mte_guest_read, MTE_TEST_GPA, 0, 0, 0))
		failure = "the guest reads wrong data";
	else if (!mte_vcpu_call(vcpu, guest_use_tags, MTE_TEST_GPA, slot_size, 0, 0))
		failure = "the guest sees wrong tags";

	ksft_test_result(!failure, "accepted, private mapping of a memfd%s%s\n",
			 failure ? ": " : "", failure ?: "");
	kvm_vm_free(vm);
	kvm_munmap(mem, slot_size);
	kvm_close(fd);
}

/* Memory that can't. */

enum bad_mem {
	/* A private mapping of a character device, which is anonymous memory. */
	DEV_ZERO,
	/* Page cache of a file, from which it can be evicted at any time. */
	FILE_SHARED,
	FILE_PRIVATE,
	/* Pages that belong to the kernel. */
	KERNEL_PAGE,
};

static const char *const bad_names[] = {
	[DEV_ZERO]	= "/dev/zero",
	[FILE_SHARED]	= "page of a file",
	[FILE_PRIVATE]	= "private page of a file",
	[KERNEL_PAGE]	= "page of the kernel",
};

/* Map memory of a kind that a VM with MTE can't have. */
static void map_bad(enum bad_mem bad, struct kvm_vcpu *vcpu, void *addr, size_t size)
{
	int flags = MAP_SHARED, fd = -1;
	char *path;

	switch (bad) {
	case DEV_ZERO:
		flags = MAP_PRIVATE;
		fd = open("/dev/zero", O_RDWR);
		break;
	case FILE_PRIVATE:
		flags = MAP_PRIVATE;
		fallthrough;
	case FILE_SHARED:
		path = strdup_printf("%s/file", ramfs);
		fd = open(path, O_RDWR | O_CREAT, 0600);
		free(path);
		if (fd >= 0)
			kvm_ftruncate(fd, size);
		break;
	case KERNEL_PAGE:
		fd = dup(vcpu->fd);
		break;
	}
	TEST_ASSERT(fd >= 0, "Can't open %s, errno %d", bad_names[bad], errno);

	TEST_ASSERT(mmap(addr, size, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, 0) == addr,
		    "mmap() failed, errno %d", errno);
	kvm_close(fd);
}

static void map_good(void *addr, size_t size)
{
	TEST_ASSERT(mmap(addr, size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == addr,
		    "mmap() failed, errno %d", errno);
}

/* What the guest gets when it reads from the page at @gpa. */
enum seen {
	DATA,
	MMIO,
	ERROR,
	OTHER,
};

static enum seen guest_sees(struct kvm_vcpu *vcpu, gpa_t gpa, bool write)
{
	mte_vcpu_prepare(vcpu, write ? guest_write : mte_guest_read, gpa, TEST_DATA, 0, 0);
	if (_vcpu_run(vcpu))
		return errno == EFAULT ? ERROR : OTHER;

	if (vcpu->run->exit_reason == KVM_EXIT_MMIO &&
	    vcpu->run->mmio.phys_addr == gpa)
		return MMIO;

	if (write && mte_vcpu_result(vcpu) != TEST_DATA)
		return OTHER;

	return DATA;
}

/* Let the guest complete what it was told to do, on good memory. */
static bool guest_completes(struct kvm_vcpu *vcpu, bool write)
{
	if (_vcpu_run(vcpu))
		return false;

	/* Good memory is either fresh, and zero, or has been written just now. */
	return mte_vcpu_result(vcpu) == (write ? TEST_DATA : 0);
}

static void *alloc_good(void)
{
	return kvm_mmap(slot_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
}

/* It is refused because of the tags: a VM without MTE can use it. */
static const char *run_without_mte(enum bad_mem bad)
{
	void *mem = alloc_good();
	const char *failure = NULL;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;

	vm = vm_create_one(false, &vcpu);
	map_bad(bad, vcpu, mem + page_size, page_size);
	if (set_slot(vm, 0, mem, slot_size))
		failure = "the memslot is refused";
	else if (guest_sees(vcpu, MTE_TEST_GPA + page_size, false) != DATA)
		failure = "the guest can't read";

	kvm_vm_free(vm);
	kvm_munmap(mem, slot_size);

	return failure;
}

/* As all of the memslot, or as a part that is neither first nor last. */
static const char *run_create(enum bad_mem bad, bool part)
{
	void *mem = alloc_good();
	const char *failure = NULL;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;

	vm = vm_create_one(true, &vcpu);
	map_bad(bad, vcpu, mem + page_size, page_size);

	if (part && !failed_with(set_slot(vm, 0, mem, slot_size), EINVAL))
		failure = "accepted";
	if (!part && !failed_with(set_slot(vm, 0, mem + page_size, page_size), EINVAL))
		failure = "accepted";

	if (!failure && guest_sees(vcpu, MTE_TEST_GPA, false) != MMIO)
		failure = "there is a memslot after the attempt";

	/* Complete the MMIO read, before anything else can be done. */
	if (!failure)
		vcpu_run(vcpu);

	map_good(mem, slot_size);
	if (!failure && set_slot(vm, 0, mem, slot_size))
		failure = "good memory is refused after the attempt";
	if (!failure &&
	    !mte_vcpu_call(vcpu, guest_use_tags, MTE_TEST_GPA, slot_size, 0, 0))
		failure = "the guest sees wrong tags";

	kvm_vm_free(vm);
	kvm_munmap(mem, slot_size);

	return failure;
}

static const char *run_create_all(enum bad_mem bad)
{
	return run_create(bad, false);
}

static const char *run_create_part(enum bad_mem bad)
{
	return run_create(bad, true);
}

static const char *check_access(struct kvm_vcpu *vcpu, void *mem, bool write)
{
	if (guest_sees(vcpu, MTE_TEST_GPA + page_size, write) != ERROR)
		return write ? "the guest can write to it" : "the guest can read it";

	map_good(mem + page_size, page_size);
	if (!guest_completes(vcpu, write))
		return "the guest can't use good memory in its place";

	return NULL;
}

/* Nothing was checked when the memslot was created. */
static const char *run_slot_first(enum bad_mem bad)
{
	void *mem = alloc_good();
	const char *failure = NULL;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	bool write = false;

	do {
		vm = __vm_create(VM_SHAPE_DEFAULT, 1, 0);
		/* The page of a vCPU that comes with another VM will do. */
		if (bad == KERNEL_PAGE) {
			struct kvm_vm *other = vm_create_barebones();

			map_bad(bad, __vm_vcpu_add(other, 0), mem + page_size, page_size);
			kvm_vm_free(other);
		} else {
			map_bad(bad, NULL, mem + page_size, page_size);
		}

		TEST_ASSERT(!set_slot(vm, 0, mem, slot_size),
			    "A memslot is refused without MTE, errno %d", errno);
		vm_enable_cap(vm, KVM_CAP_ARM_MTE, 0);
		mte_vm_add_vcpus(vm, 1, &vcpu);
		virt_map(vm, MTE_TEST_GPA, MTE_TEST_GPA, slot_size / vm->page_size);

		failure = check_access(vcpu, mem, write);
		kvm_vm_free(vm);
		write = !write;
	} while (write && !failure);

	kvm_munmap(mem, slot_size);

	return failure;
}

/* It replaces memory that the guest has used already, tags and all. */
static const char *run_replaced(enum bad_mem bad)
{
	void *mem = alloc_good();
	const char *failure = NULL;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	bool write = false;

	vm = vm_create_one(true, &vcpu);
	TEST_ASSERT(!set_slot(vm, 0, mem, slot_size), "A memslot is refused, errno %d", errno);

	do {
		map_good(mem, slot_size);
		if (!mte_vcpu_call(vcpu, guest_use_tags, MTE_TEST_GPA, slot_size, 0, 0))
			failure = "the guest sees wrong tags";
		map_bad(bad, vcpu, mem + page_size, page_size);
		if (!failure)
			failure = check_access(vcpu, mem, write);
		write = !write;
	} while (write && !failure);

	kvm_vm_free(vm);
	kvm_munmap(mem, slot_size);

	return failure;
}

/* A change of the flags looks at the memory again. */
static const char *run_flags(enum bad_mem bad)
{
	void *mem = alloc_good();
	const char *failure = NULL;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;

	vm = vm_create_one(true, &vcpu);
	TEST_ASSERT(!set_slot(vm, 0, mem, slot_size), "A memslot is refused, errno %d", errno);
	if (!mte_vcpu_call(vcpu, guest_use_tags, MTE_TEST_GPA, slot_size, 0, 0))
		failure = "the guest sees wrong tags";

	map_bad(bad, vcpu, mem + page_size, page_size);
	if (!failed_with(set_slot(vm, KVM_MEM_LOG_DIRTY_PAGES, mem, slot_size), EINVAL))
		failure = "accepted";

	/* The memslot is as it was: other pages are there, and nothing is logged. */
	map_good(mem + page_size, page_size);
	if (!failure && guest_sees(vcpu, MTE_TEST_GPA + page_size, true) != DATA)
		failure = "the guest can't use good memory in its place";
	if (!failure) {
		struct kvm_dirty_log log = {
			.slot		= DATA_SLOT,
			.dirty_bitmap	= &(u64){ 0 },
		};

		if (!failed_with(__vm_ioctl(vm, KVM_GET_DIRTY_LOG, &log), ENOENT))
			failure = "dirty logging is on after the attempt";
	}

	if (!failure && set_slot(vm, KVM_MEM_LOG_DIRTY_PAGES, mem, slot_size))
		failure = "good memory is refused after the attempt";
	/* Tags of the pages that were there all the time have not changed. */
	if (!failure && mte_vcpu_call(vcpu, mte_count_stale, MTE_TEST_GPA, 1,
				      page_size, page_size) != 1)
		failure = "tags were lost";

	kvm_vm_free(vm);
	kvm_munmap(mem, slot_size);

	return failure;
}

static const char *run_move(enum bad_mem bad)
{
	void *mem = alloc_good();
	const char *failure = NULL;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int ret;

	vm = vm_create_one(true, &vcpu);
	TEST_ASSERT(!set_slot(vm, 0, mem, slot_size), "A memslot is refused, errno %d", errno);
	map_bad(bad, vcpu, mem + page_size, page_size);

	ret = __vm_set_user_memory_region(vm, DATA_SLOT, 0, MTE_TEST_GPA + slot_size,
					  slot_size, mem);
	if (!failed_with(ret, EINVAL))
		failure = "accepted";
	if (!failure && guest_sees(vcpu, MTE_TEST_GPA, false) != DATA)
		failure = "the memslot isn't where it was";

	kvm_vm_free(vm);
	kvm_munmap(mem, slot_size);

	return failure;
}

static const struct {
	const char *name;
	const char *(*run)(enum bad_mem bad);
} bad_cases[] = {
	{ "without MTE", run_without_mte },
	{ "memslot", run_create_all },
	{ "part of a memslot", run_create_part },
	{ "memslot, then MTE", run_slot_first },
	{ "mapped under a memslot", run_replaced },
	{ "mapped under a memslot whose flags change", run_flags },
	{ "mapped under a memslot that moves", run_move },
};

static void run_bad(enum bad_mem bad)
{
	bool file = bad == FILE_SHARED || bad == FILE_PRIVATE;
	const char *reason = NULL, *failure;
	int i;

	if (file && (!ramfs || mount("none", ramfs, "ramfs", 0, NULL)))
		reason = "can't mount a ramfs";

	for (i = 0; i < ARRAY_SIZE(bad_cases); i++) {
		if (reason) {
			ksft_test_result_skip("%s, %s: %s\n", bad_names[bad],
					      bad_cases[i].name, reason);
			continue;
		}

		failure = bad_cases[i].run(bad);
		ksft_test_result(!failure, "%s, %s%s%s\n", bad_names[bad], bad_cases[i].name,
				 failure ? ": " : "", failure ?: "");
	}

	if (file && !reason)
		umount(ramfs);
}

int main(void)
{
	size_t sizes[HUGETLB_MAX_SIZES];
	int nr_sizes, i;

	ksft_print_header();
	mte_require();

	page_size = getpagesize();
	slot_size = SLOT_PAGES * page_size;
	nr_sizes = hugetlb_sizes(sizes);
	/* Those that don't fit are none of this test's business. */
	while (nr_sizes && sizes[nr_sizes - 1] > SZ_32M)
		nr_sizes--;

	ksft_set_plan(ARRAY_SIZE(accepted) + 1 + 2 * nr_sizes +
		      ARRAY_SIZE(bad_names) * ARRAY_SIZE(bad_cases));

	for (i = 0; i < ARRAY_SIZE(accepted); i++)
		run_accepted(accepted[i].type, 0, accepted[i].name);
	run_private_memfd();
	for (i = 0; i < nr_sizes; i++) {
		char *name = strdup_printf("%zukB hugetlb", sizes[i] / SZ_1K);

		run_accepted(MTE_MEM_HUGETLB, sizes[i], name);
		free(name);

		name = strdup_printf("%zukB memfd hugetlb", sizes[i] / SZ_1K);
		run_accepted(MTE_MEM_MEMFD_HUGETLB, sizes[i], name);
		free(name);
	}

	ramfs = mkdtemp(strdup("/tmp/mte_memslot.XXXXXX"));
	for (i = 0; i < ARRAY_SIZE(bad_names); i++)
		run_bad(i);
	if (ramfs)
		rmdir(ramfs);

	ksft_finished();
}
