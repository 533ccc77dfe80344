// SPDX-License-Identifier: GPL-2.0-only
/*
 * pfnmap_memslot - Check which kinds of mappings a memslot can have, and what
 * the guest is given of them.
 *
 * A memslot can consist of memory that the kernel manages, and of PFNs that a
 * driver has put into the page-tables of the VMM (VM_PFNMAP, VM_MIXEDMAP), which
 * it may have mapped cacheable or not. Three things decide whether a VM can have
 * it: whether the VM has MTE, as cacheable memory must be able to hold tags then;
 * whether the CPU makes caches coherent where KVM can't, which
 * KVM_CAP_ARM_CACHEABLE_PFNMAP_SUPPORTED tells; and whether a write of the guest
 * could be served, which it can't where it takes a copy of a PFN. The answer has
 * to be the same when the memslot is registered, and when the memory is accessed
 * after the VMM has mapped it behind a memslot of other memory.
 *
 * Each row of the table is tried both ways, with MTE and without. If the memory
 * is accepted, data has to pass between VMM and guest, the memory attribute at
 * stage 2 must be the expected one, and a guest with MTE must see tags of zero
 * and can't store others, unless the memory is one that has tags. If it is
 * refused, there must be no memslot, or else KVM_RUN has to tell the address, and
 * once other memory is mapped there the guest has to go on where it was. What
 * is mapped by a PMD in the VMM has to be mapped by a block at stage 2.
 *
 * A kernel that lacks the checks maps what it should not, or refuses device
 * memory to a VM with MTE, which can't do any harm with it.
 */
#include <sys/mman.h>
#include <sys/mount.h>

#include <linux/sizes.h>

#include "kvm_util.h"
#include "mte.h"
#include "processor.h"
#include "test_mem.h"
#include "test_util.h"

#define DATA_SLOT	1
#define NR_PAGES	4
#define HOST_DATA	0x1122334455667788UL
#define GUEST_DATA	0x99aabbccddeeff00UL

/* How the mapping gets into the memslot. */
enum way {
	REGISTERED,
	BEHIND,
	NR_WAYS,
};

static const char * const way_names[] = { "registered", "mapped behind a memslot" };

/* Who can have it. */
enum rule {
	YES,
	NO,
	/* Only with KVM_CAP_ARM_CACHEABLE_PFNMAP_SUPPORTED. */
	COHERENT,
};

/* Memory attribute at stage 2, in the words of the dump of the page-table. */
#define NORMAL	"MEM/NORMAL "
#define NC	"MEM/NORMAL-NC"
#define DEVICE	"DEVICE/nGnRE"

struct row;
typedef const char *(*map_fn)(const struct row *row, void *addr, size_t size);

struct row {
	const char *name;
	map_fn map;
	enum kvm_test_mem_kind kind;
	u32 flags;
	int prot;
	int map_flags;
	bool readonly;
	enum rule rule;
	enum rule mte_rule;
	/* Accepted, as KVM can't know, but an access fails: the rule for that. */
	enum rule access;
	enum rule mte_access;
	/* Without MTE an access is judged by the PFN, which KVM can deal with. */
	bool good_pfn;
	const char *attr;
	bool has_tags;
};

static char *ramfs;
static size_t page_size;
static int test_mem_fd = -1;
static const char *no_test_mem;
static bool coherent;
/* Without these the rows say less, and a case of its own that they are missing. */
static bool table_shown, attrs_shown;
static bool faults_told;

static const char *map_anon(const struct row *row, void *addr, size_t size)
{
	TEST_ASSERT(mmap(addr, size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == addr,
		    "mmap() failed, errno %d", errno);

	return NULL;
}

static const char *map_memfd(const struct row *row, void *addr, size_t size)
{
	int fd = memfd_create("pfnmap_memslot", 0);

	TEST_ASSERT(fd >= 0, "memfd_create() failed, errno %d", errno);
	kvm_ftruncate(fd, size);
	TEST_ASSERT(mmap(addr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
			 fd, 0) == addr, "mmap() failed, errno %d", errno);
	kvm_close(fd);

	return NULL;
}

/* Page cache, other than that of tmpfs. */
static const char *map_file(const struct row *row, void *addr, size_t size)
{
	char *path;
	int fd;

	if (!ramfs)
		return "can't mount a ramfs";

	path = strdup_printf("%s/file", ramfs);
	fd = open(path, O_RDWR | O_CREAT, 0600);
	TEST_ASSERT(fd >= 0, "Can't open %s, errno %d", path, errno);
	free(path);
	kvm_ftruncate(fd, size);
	TEST_ASSERT(mmap(addr, size, PROT_READ | PROT_WRITE, row->map_flags | MAP_FIXED,
			 fd, 0) == addr, "mmap() failed, errno %d", errno);
	kvm_close(fd);

	return NULL;
}

static const char *map_device(const struct row *row, void *addr, size_t size)
{
	if (no_test_mem)
		return no_test_mem;

	test_mem_set(test_mem_fd, row->kind, row->flags);
	TEST_ASSERT(mmap(addr, size, row->prot, row->map_flags | MAP_FIXED,
			 test_mem_fd, 0) == addr, "mmap() failed, errno %d", errno);

	return NULL;
}

/* Memory of this process, by its page frames: memory that the kernel manages. */
static const char *map_dev_mem(const struct row *row, void *addr, size_t size)
{
	static void *frame;
	u64 pfn;
	void *got;
	int fd;

	/* One page is all that is contiguous for sure. */
	if (!frame)
		frame = kvm_mmap(page_size, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1);
	if (mlock(frame, page_size))
		return "can't lock memory";

	pfn = pagemap_entry(frame) & PAGEMAP_PFN_MASK;
	if (!pfn)
		return "can't tell page frames without CAP_SYS_ADMIN";

	fd = open("/dev/mem", O_RDWR | row->flags);
	if (fd < 0)
		return "no /dev/mem";

	map_anon(row, addr, size);
	got = mmap(addr, page_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		   fd, pfn * page_size);
	kvm_close(fd);
	if (got != addr)
		return "/dev/mem doesn't give access to memory";

	return NULL;
}

#define RW	(PROT_READ | PROT_WRITE)

static const struct row rows[] = {
	{
		.name = "anonymous", .map = map_anon,
		.attr = NORMAL, .has_tags = true,
	}, {
		.name = "memfd", .map = map_memfd,
		.attr = NORMAL, .has_tags = true,
	}, {
		.name = "file", .map = map_file, .map_flags = MAP_SHARED,
		.mte_rule = NO, .attr = NORMAL,
	}, {
		.name = "private file", .map = map_file, .map_flags = MAP_PRIVATE,
		.mte_rule = NO, .attr = NORMAL,
	}, {
		.name = "PFNMAP nGnRnE", .map = map_device, .kind = KVM_TEST_MEM_NGNRNE,
		.prot = RW, .map_flags = MAP_SHARED, .attr = DEVICE,
	}, {
		.name = "PFNMAP nGnRE", .map = map_device, .kind = KVM_TEST_MEM_NGNRE,
		.prot = RW, .map_flags = MAP_SHARED, .attr = DEVICE,
	}, {
		.name = "PFNMAP NC", .map = map_device, .kind = KVM_TEST_MEM_NC,
		.prot = RW, .map_flags = MAP_SHARED, .attr = DEVICE,
	}, {
		.name = "PFNMAP NC on fault", .map = map_device, .kind = KVM_TEST_MEM_NC,
		.flags = KVM_TEST_MEM_FAULT,
		.prot = RW, .map_flags = MAP_SHARED, .attr = DEVICE,
	}, {
		.name = "PFNMAP nGnRnE, any uncached", .map = map_device,
		.kind = KVM_TEST_MEM_NGNRNE, .flags = KVM_TEST_MEM_ANY_UNCACHED,
		.prot = RW, .map_flags = MAP_SHARED, .attr = NC,
	}, {
		.name = "PFNMAP NC, any uncached, on fault", .map = map_device,
		.kind = KVM_TEST_MEM_NC, .flags = KVM_TEST_MEM_ANY_UNCACHED | KVM_TEST_MEM_FAULT,
		.prot = RW, .map_flags = MAP_SHARED, .attr = NC,
	}, {
		.name = "PFNMAP cacheable", .map = map_device, .kind = KVM_TEST_MEM_CACHED,
		.prot = RW, .map_flags = MAP_SHARED,
		.rule = COHERENT, .mte_rule = NO, .attr = NORMAL,
	}, {
		.name = "PFNMAP cacheable on fault", .map = map_device,
		.kind = KVM_TEST_MEM_CACHED, .flags = KVM_TEST_MEM_FAULT,
		.prot = RW, .map_flags = MAP_SHARED,
		.rule = COHERENT, .mte_rule = NO, .attr = NORMAL,
	}, {
		.name = "private PFNMAP nGnRE", .map = map_device, .kind = KVM_TEST_MEM_NGNRE,
		.prot = RW, .map_flags = MAP_PRIVATE,
		.rule = NO, .mte_rule = NO,
	}, {
		.name = "private PFNMAP cacheable", .map = map_device,
		.kind = KVM_TEST_MEM_CACHED, .prot = RW, .map_flags = MAP_PRIVATE,
		.rule = NO, .mte_rule = NO,
	}, {
		.name = "private PFNMAP nGnRE, read-only", .map = map_device,
		.kind = KVM_TEST_MEM_NGNRE, .prot = RW, .map_flags = MAP_PRIVATE,
		.readonly = true, .attr = DEVICE,
	}, {
		.name = "private PFNMAP cacheable, read-only", .map = map_device,
		.kind = KVM_TEST_MEM_CACHED, .prot = RW, .map_flags = MAP_PRIVATE,
		.readonly = true, .rule = COHERENT, .mte_rule = NO, .attr = NORMAL,
	}, {
		.name = "MIXEDMAP NC", .map = map_device, .kind = KVM_TEST_MEM_NC,
		.flags = KVM_TEST_MEM_FAULT | KVM_TEST_MEM_MIXED,
		.prot = RW, .map_flags = MAP_SHARED, .mte_rule = NO, .attr = DEVICE,
	}, {
		.name = "MIXEDMAP NC, any uncached", .map = map_device, .kind = KVM_TEST_MEM_NC,
		.flags = KVM_TEST_MEM_FAULT | KVM_TEST_MEM_MIXED | KVM_TEST_MEM_ANY_UNCACHED,
		.prot = RW, .map_flags = MAP_SHARED, .mte_rule = NO, .attr = NC,
	}, {
		.name = "MIXEDMAP cacheable", .map = map_device, .kind = KVM_TEST_MEM_CACHED,
		.flags = KVM_TEST_MEM_FAULT | KVM_TEST_MEM_MIXED,
		.prot = RW, .map_flags = MAP_SHARED,
		.access = COHERENT, .mte_rule = NO, .attr = NORMAL,
	}, {
		.name = "/dev/mem, NC, of memory", .map = map_dev_mem, .flags = O_SYNC,
		.mte_access = NO, .attr = NORMAL,
	}, {
		.name = "/dev/mem, cacheable, of memory", .map = map_dev_mem,
		.rule = COHERENT, .good_pfn = true, .mte_rule = NO,
		.attr = NORMAL,
	},
};

/* Otherwise it is pages, or may be. */
static bool is_pfnmap(const struct row *row)
{
	return row->map == map_dev_mem ||
	       (row->map == map_device && !(row->flags & KVM_TEST_MEM_MIXED));
}

static bool holds(enum rule rule)
{
	return rule == YES || (rule == COHERENT && coherent);
}

static struct kvm_vm *create_vm(bool mte, size_t size, struct kvm_vcpu **vcpu)
{
	struct kvm_vm *vm = __vm_create(VM_SHAPE_DEFAULT, 1, size / SZ_4K);

	if (mte)
		vm_enable_cap(vm, KVM_CAP_ARM_MTE, 0);
	mte_vm_add_vcpus(vm, 1, vcpu);
	virt_map(vm, MTE_TEST_GPA, MTE_TEST_GPA, size / vm->page_size);

	return vm;
}

static bool failed_with(int ret, int err)
{
	return ret < 0 && errno == err;
}

static int set_slot(struct kvm_vm *vm, u32 flags, void *hva)
{
	return __vm_set_user_memory_region(vm, DATA_SLOT, flags, MTE_TEST_GPA,
					   NR_PAGES * page_size, hva);
}

static bool has_attr(const char *attr, struct kvm_vm *vm)
{
	return !attrs_shown || mte_stage2_shows(vm, MTE_TEST_GPA, attr);
}

/* The memory as the VMM sees it, if it is read-only for it: by the device. */
static u64 *alias(const struct row *row, void *hva)
{
	if (row->map != map_device || row->map_flags != MAP_PRIVATE)
		return hva;

	test_mem_set(test_mem_fd, row->kind, 0);

	return test_mem_map_fd(test_mem_fd, 0, page_size, PROT_READ | PROT_WRITE, MAP_SHARED);
}

/* What a guest that is given the memory must be able to do. */
static const char *check_use(const struct row *row, struct kvm_vcpu *vcpu, bool mte, void *hva)
{
	u64 *data = alias(row, hva), tag;

	WRITE_ONCE(*data, HOST_DATA);
	if (mte_vcpu_call(vcpu, mte_guest_read, MTE_TEST_GPA, 0, 0, 0) != HOST_DATA)
		return "the guest doesn't see the data of the VMM";

	if (!has_attr(row->attr, vcpu->vm))
		return "wrong memory attribute at stage 2";

	if (row->readonly) {
		mte_vcpu_prepare(vcpu, mte_write_data, MTE_TEST_GPA, 1, 0, GUEST_DATA);
		if (_vcpu_run(vcpu) || vcpu->run->exit_reason != KVM_EXIT_MMIO)
			return "a write to a read-only memslot isn't an MMIO exit";
		vcpu_run(vcpu);
		if (READ_ONCE(*data) != HOST_DATA)
			return "the guest has changed read-only memory";
	} else {
		mte_vcpu_call(vcpu, mte_write_data, MTE_TEST_GPA, 1, 0, GUEST_DATA);
		if (READ_ONCE(*data) != GUEST_DATA)
			return "the VMM doesn't see the data of the guest";
		if (!has_attr(row->attr, vcpu->vm))
			return "wrong memory attribute at stage 2 after a write";
	}

	if (mte && !row->readonly) {
		tag = mte_vcpu_call(vcpu, mte_guest_try_tag, MTE_TEST_GPA, 5, 0, 0);
		if (tag != (row->has_tags ? 5 : 0))
			return row->has_tags ? "no tags" : "tags in memory that has none";
	}

	if (data != hva)
		kvm_munmap(data, page_size);

	return NULL;
}

/* What there must be to see of an access to memory that the VM can't have. */
static const char *check_fault(struct kvm_vcpu *vcpu, void *hva, bool write)
{
	struct kvm_run *run = vcpu->run;

	mte_vcpu_prepare(vcpu, write ? mte_write_data : mte_guest_read, MTE_TEST_GPA, 1, 0,
			 GUEST_DATA);
	if (!failed_with(_vcpu_run(vcpu), EFAULT))
		return write ? "the guest can write" : "the guest can read";

	if (faults_told && run->exit_reason != KVM_EXIT_MEMORY_FAULT)
		return "the VMM isn't told the address";
	if (faults_told &&
	    (run->memory_fault.gpa != MTE_TEST_GPA || run->memory_fault.size != page_size ||
	     run->memory_fault.flags))
		return "the VMM is told a wrong address";

	map_anon(NULL, hva, NR_PAGES * page_size);
	if (!write)
		WRITE_ONCE(*(u64 *)hva, HOST_DATA);
	vcpu_run(vcpu);
	if (write && READ_ONCE(*(u64 *)hva) != GUEST_DATA)
		return "the write was lost";
	if (!write && mte_vcpu_result(vcpu) != HOST_DATA)
		return "the guest doesn't go on with other memory";

	return NULL;
}

static const char *check_refused(const struct row *row, struct kvm_vcpu *vcpu, void *hva)
{
	mte_vcpu_prepare(vcpu, mte_guest_read, MTE_TEST_GPA, 0, 0, 0);
	vcpu_run(vcpu);
	if (vcpu->run->exit_reason != KVM_EXIT_MMIO)
		return "there is a memslot after the attempt";
	vcpu_run(vcpu);

	/* Another one, at the same place, is as good as ever. */
	map_anon(row, hva, NR_PAGES * page_size);
	if (set_slot(vcpu->vm, row->readonly ? KVM_MEM_READONLY : 0, hva))
		return "good memory is refused after the attempt";
	WRITE_ONCE(*(u64 *)hva, HOST_DATA);
	if (mte_vcpu_call(vcpu, mte_guest_read, MTE_TEST_GPA, 0, 0, 0) != HOST_DATA)
		return "the guest can't use good memory after the attempt";

	return NULL;
}

static const char *check_registered(const struct row *row, struct kvm_vcpu *vcpu,
				    bool mte, void *hva)
{
	u32 flags = row->readonly ? KVM_MEM_READONLY : 0;
	int ret = set_slot(vcpu->vm, flags, hva);
	const char *failure = NULL;

	if (!holds(mte ? row->mte_rule : row->rule)) {
		if (!failed_with(ret, EINVAL))
			return ret ? "refused with a wrong errno" : "accepted";
		return check_refused(row, vcpu, hva);
	}
	if (ret)
		return "refused";

	if (!holds(mte ? row->mte_access : row->access))
		return check_fault(vcpu, hva, false);

	failure = check_use(row, vcpu, mte, hva);
	if (failure)
		return failure;

	ret = set_slot(vcpu->vm, flags | KVM_MEM_LOG_DIRTY_PAGES, hva);
	if (is_pfnmap(row)) {
		if (!failed_with(ret, EINVAL))
			return "dirty logging of PFNs is accepted";
	} else if (ret) {
		return "dirty logging is refused";
	}

	return check_use(row, vcpu, mte, hva);
}

static const char *check_behind(const struct row *row, struct kvm_vcpu *vcpu, bool mte, void *hva)
{
	bool good = mte ? holds(row->mte_rule) && holds(row->mte_access) :
			  (row->good_pfn || holds(row->rule)) && holds(row->access);
	const char *failure;

	/* The row is mapped already, but the memslot doesn't know it yet. */
	if (good)
		return check_use(row, vcpu, mte, hva);

	failure = check_fault(vcpu, hva, false);
	if (failure || row->readonly)
		return failure;

	row->map(row, hva, NR_PAGES * page_size);

	return check_fault(vcpu, hva, true);
}

static void run(const struct row *row, bool mte, enum way way)
{
	const char *vm_name = mte ? "MTE" : "no MTE";
	size_t size = NR_PAGES * page_size;
	const char *reason, *failure;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	void *hva;

	if (mte && !kvm_check_cap(KVM_CAP_ARM_MTE)) {
		ksft_test_result_skip("%s, %s, %s: KVM doesn't offer MTE\n", row->name,
				      vm_name, way_names[way]);
		return;
	}

	hva = kvm_mmap(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	vm = create_vm(mte, size, &vcpu);

	/* The guest has been there before. */
	if (way == BEHIND) {
		TEST_ASSERT(!set_slot(vm, row->readonly ? KVM_MEM_READONLY : 0, hva),
			    "Anonymous memory is refused, errno %d", errno);
		mte_vcpu_call(vcpu, mte_guest_read, MTE_TEST_GPA, 0, 0, 0);
	}

	reason = row->map(row, hva, size);
	if (reason) {
		ksft_test_result_skip("%s, %s, %s: %s\n", row->name, vm_name,
				      way_names[way], reason);
	} else {
		failure = way == BEHIND ? check_behind(row, vcpu, mte, hva) :
					  check_registered(row, vcpu, mte, hva);
		ksft_test_result(!failure, "%s, %s, %s%s%s\n", row->name, vm_name,
				 way_names[way], failure ? ": " : "", failure ?: "");
	}

	kvm_vm_free(vm);
	kvm_munmap(hva, size);
}

static const struct block {
	const char *name;
	enum kvm_test_mem_kind kind;
	u32 flags;
	enum rule rule;
	enum rule mte_rule;
	const char *attr;
} blocks[] = {
	{ "PFNMAP NC", KVM_TEST_MEM_NC, 0, YES, YES, DEVICE },
	{ "PFNMAP NC, any uncached", KVM_TEST_MEM_NC, KVM_TEST_MEM_ANY_UNCACHED, YES, YES, NC },
	{ "PFNMAP cacheable", KVM_TEST_MEM_CACHED, 0, COHERENT, NO, NORMAL },
	{ "MIXEDMAP NC", KVM_TEST_MEM_NC, KVM_TEST_MEM_MIXED, YES, NO, DEVICE },
};

/* What is mapped by a PMD in the VMM is mapped by a block at stage 2. */
static void run_block(const struct block *block, bool mte)
{
	u64 nr_blocks, nr_pages, *last;
	const char *failure = NULL;
	struct kvm_test_mem_info info;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	char name[64];
	void *hva;
	int ret;

	snprintf(name, sizeof(name), "block of %s, %s", block->name, mte ? "MTE" : "no MTE");
	if (mte && !kvm_check_cap(KVM_CAP_ARM_MTE)) {
		ksft_test_result_skip("%s: KVM doesn't offer MTE\n", name);
		return;
	}
	if (!no_test_mem)
		test_mem_info(test_mem_fd, &info);
	if (no_test_mem || info.size < pmd_size() || info.start % pmd_size()) {
		ksft_test_result_skip("%s: %s\n", name,
				      no_test_mem ?: "a block is larger than the device memory");
		return;
	}

	test_mem_set(test_mem_fd, block->kind,
		     block->flags | KVM_TEST_MEM_FAULT | KVM_TEST_MEM_HUGE);
	hva = test_mem_map_fd(test_mem_fd, 0, pmd_size(), PROT_READ | PROT_WRITE, MAP_SHARED);
	last = hva + pmd_size() - sizeof(u64);
	vm = create_vm(mte, pmd_size(), &vcpu);

	ret = __vm_set_user_memory_region(vm, DATA_SLOT, 0, MTE_TEST_GPA, pmd_size(), hva);
	if (!holds(mte ? block->mte_rule : block->rule)) {
		if (!failed_with(ret, EINVAL))
			failure = ret ? "refused with a wrong errno" : "accepted";
		goto out;
	}
	if (ret) {
		failure = "refused";
		goto out;
	}

	WRITE_ONCE(*last, HOST_DATA);
	if (mte_vcpu_call(vcpu, mte_guest_read, MTE_TEST_GPA + pmd_size() - sizeof(u64), 0, 0, 0) !=
	    HOST_DATA)
		failure = "the guest doesn't see the data of the VMM";
	else if (!mte_stage2_leaves(vm, MTE_TEST_GPA, pmd_size(), &nr_blocks, &nr_pages) ||
		 nr_blocks != 1 || nr_pages)
		failure = "not mapped by a block at stage 2";
	else if (!has_attr(block->attr, vm))
		failure = "wrong memory attribute at stage 2";
out:
	ksft_test_result(!failure, "%s%s%s\n", name, failure ? ": " : "", failure ?: "");
	kvm_vm_free(vm);
	kvm_munmap(hva, pmd_size());
}

/* One memslot is refused, and another one next to it goes on. */
static void run_two_slots(void)
{
	size_t size = NR_PAGES * page_size;
	const struct row *bad = NULL;
	const char *failure = NULL;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	void *good, *hva;
	int i, ret;

	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		if (rows[i].map == map_file && !rows[i].readonly)
			bad = &rows[i];
	}

	hva = kvm_mmap(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	good = kvm_mmap(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	if (!kvm_check_cap(KVM_CAP_ARM_MTE) || bad->map(bad, hva, size)) {
		ksft_test_result_skip("two memslots: KVM doesn't offer MTE\n");
		goto out;
	}

	vm = create_vm(true, size, &vcpu);
	TEST_ASSERT(!set_slot(vm, 0, good), "Anonymous memory is refused, errno %d", errno);
	WRITE_ONCE(*(u64 *)good, HOST_DATA);
	mte_vcpu_call(vcpu, mte_guest_read, MTE_TEST_GPA, 0, 0, 0);

	ret = __vm_set_user_memory_region(vm, DATA_SLOT + 1, 0, MTE_TEST_GPA + size, size, hva);
	if (!failed_with(ret, EINVAL))
		failure = "the second one isn't refused";
	else if (!mte_stage2_shows(vm, MTE_TEST_GPA, "R"))
		failure = "the first one was unmapped";
	else if (mte_vcpu_call(vcpu, mte_guest_read, MTE_TEST_GPA, 0, 0, 0) != HOST_DATA)
		failure = "the first one has lost its data";

	ksft_test_result(!failure, "two memslots%s%s\n", failure ? ": " : "", failure ?: "");
	kvm_vm_free(vm);
out:
	kvm_munmap(good, size);
	kvm_munmap(hva, size);
}

static void run_capability(void)
{
	int mte = kvm_check_cap(KVM_CAP_ARM_MTE) ? KVM_ARM_MTE_PERM_UNCACHED : 0;
	struct kvm_enable_cap cap = { .cap = KVM_CAP_ARM_MTE_PERM };
	struct kvm_vm *vm = vm_create_barebones();
	bool good;

	good = (kvm_check_cap(KVM_CAP_ARM_MTE_PERM) & KVM_ARM_MTE_PERM_UNCACHED) == mte &&
	       (vm_check_cap(vm, KVM_CAP_ARM_MTE_PERM) & KVM_ARM_MTE_PERM_UNCACHED) == mte;
	cap.args[0] = KVM_ARM_MTE_PERM_UNCACHED;
	good &= failed_with(__vm_ioctl(vm, KVM_ENABLE_CAP, &cap), EINVAL);
	ksft_test_result(good, "KVM_CAP_ARM_MTE_PERM\n");
	ksft_test_result(faults_told, "KVM_CAP_MEMORY_FAULT_INFO\n");
	if (table_shown)
		ksft_test_result(attrs_shown, "memory attributes in the stage-2 page-table\n");
	else
		ksft_test_result_skip("memory attributes: the hypervisor has the page-table\n");

	kvm_vm_free(vm);
}

static void probe(void)
{
	void *hva = kvm_mmap(NR_PAGES * page_size, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1);
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;

	vm = create_vm(false, NR_PAGES * page_size, &vcpu);
	coherent = vm_check_cap(vm, KVM_CAP_ARM_CACHEABLE_PFNMAP_SUPPORTED);
	faults_told = kvm_check_cap(KVM_CAP_MEMORY_FAULT_INFO);

	TEST_ASSERT(!set_slot(vm, 0, hva), "Anonymous memory is refused, errno %d", errno);
	mte_vcpu_call(vcpu, mte_guest_read, MTE_TEST_GPA, 0, 0, 0);
	table_shown = mte_stage2_shows(vm, MTE_TEST_GPA, "R");
	attrs_shown = mte_stage2_shows(vm, MTE_TEST_GPA, NORMAL);

	kvm_vm_free(vm);
	kvm_munmap(hva, NR_PAGES * page_size);
}

/* In protected mode the hypervisor maps nothing for a guest but memory it knows. */
static const char *probe_test_mem(void)
{
	const char *reason = test_mem_load();
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	void *hva;

	if (reason)
		return reason;

	test_mem_fd = test_mem_open();
	test_mem_set(test_mem_fd, KVM_TEST_MEM_NGNRE, 0);
	hva = test_mem_map_fd(test_mem_fd, 0, NR_PAGES * page_size, PROT_READ | PROT_WRITE,
			      MAP_SHARED);

	vm = create_vm(false, NR_PAGES * page_size, &vcpu);
	TEST_ASSERT(!set_slot(vm, 0, hva), "Device memory is refused, errno %d", errno);
	mte_vcpu_prepare(vcpu, mte_guest_read, MTE_TEST_GPA, 0, 0, 0);
	if (failed_with(_vcpu_run(vcpu), EINVAL))
		reason = "KVM gives no device memory to a guest, as in protected mode";

	kvm_vm_free(vm);
	kvm_munmap(hva, NR_PAGES * page_size);

	return reason;
}

static void cleanup(void)
{
	if (test_mem_fd >= 0)
		close(test_mem_fd);
	if (ramfs) {
		umount(ramfs);
		rmdir(ramfs);
	}
	test_mem_unload();
}

int main(void)
{
	int i, mte, way;

	ksft_print_header();
	page_size = getpagesize();
	probe();

	ksft_set_plan(ARRAY_SIZE(rows) * 2 * NR_WAYS + ARRAY_SIZE(blocks) * 2 + 4);
	atexit(cleanup);

	ramfs = mkdtemp(strdup("/tmp/pfnmap_memslot.XXXXXX"));
	if (ramfs && mount("none", ramfs, "ramfs", 0, NULL)) {
		rmdir(ramfs);
		ramfs = NULL;
	}
	no_test_mem = probe_test_mem();

	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		for (mte = 0; mte < 2; mte++) {
			for (way = 0; way < NR_WAYS; way++)
				run(&rows[i], mte, way);
		}
	}
	for (i = 0; i < ARRAY_SIZE(blocks); i++) {
		for (mte = 0; mte < 2; mte++)
			run_block(&blocks[i], mte);
	}
	run_two_slots();
	run_capability();

	mte_finished();
}
