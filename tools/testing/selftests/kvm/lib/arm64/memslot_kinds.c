// SPDX-License-Identifier: GPL-2.0-only
/*
 * Mappings that a memslot can be made of, and checks of memslots that are.
 */
#include <sys/mman.h>
#include <sys/mount.h>

#include <linux/sizes.h>

#include "memslot_kinds.h"
#include "processor.h"
#include "test_util.h"

#define DATA_SLOT	1
#define NR_PAGES	4
#define TEST_TAG	0x5
#define HOST_DATA	0x1122334455667788UL
#define GUEST_DATA	0x99aabbccddeeff00UL

struct memslot_host memslot_host;

static int test_mem_fd = -1;
static bool coherent;

static size_t slot_size(void)
{
	return NR_PAGES * getpagesize();
}

/* Mappings. */

static void map_at(void *addr, size_t size, int flags, int fd)
{
	TEST_ASSERT(mmap(addr, size, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, 0) == addr,
		    "mmap() failed, errno %d", errno);
}

/**
 * memslot_map_anon() - Put private anonymous memory at an address
 * @addr:	The address.
 * @size:	Size in bytes.
 */
void memslot_map_anon(void *addr, size_t size)
{
	map_at(addr, size, MAP_PRIVATE | MAP_ANONYMOUS, -1);
}

static const char *map_anon(const struct memslot_kind *kind, void *addr, size_t size)
{
	memslot_map_anon(addr, size);

	return NULL;
}

static const char *map_memfd(const struct memslot_kind *kind, void *addr, size_t size)
{
	int fd = memfd_create("memslot_kinds", 0);

	TEST_ASSERT(fd >= 0, "memfd_create() failed, errno %d", errno);
	kvm_ftruncate(fd, size);
	map_at(addr, size, MAP_SHARED, fd);
	kvm_close(fd);

	return NULL;
}

/**
 * memslot_ramfs_file() - Have a file whose pages can't have tags
 *
 * The page cache of tmpfs can. The file system is a ramfs that nobody else sees and
 * that is gone with this process.
 *
 * Return: The file, the same one each time, or -1 if a ramfs can't be mounted.
 */
int memslot_ramfs_file(void)
{
	char dir[] = "/tmp/memslot_kinds.XXXXXX", *path;
	static int fd = -1;

	if (fd >= 0 || !mkdtemp(dir))
		return fd;

	if (!mount("none", dir, "ramfs", 0, NULL)) {
		path = strdup_printf("%s/file", dir);
		fd = open(path, O_RDWR | O_CREAT, 0600);
		TEST_ASSERT(fd >= 0, "Can't open %s, errno %d", path, errno);
		free(path);
		umount2(dir, MNT_DETACH);
	}
	rmdir(dir);

	return fd;
}

/**
 * memslot_map_file() - Put a mapping of memslot_ramfs_file() at an address
 * @kind:	Whether it is shared or private.
 * @addr:	The address.
 * @size:	Size in bytes, which the file is given as well.
 *
 * Return: NULL, or why there is no such memory.
 */
const char *memslot_map_file(const struct memslot_kind *kind, void *addr, size_t size)
{
	int fd = memslot_ramfs_file();

	if (fd < 0)
		return "can't mount a ramfs";

	kvm_ftruncate(fd, size);
	map_at(addr, size, kind->map_flags, fd);

	return NULL;
}

/**
 * memslot_map_device() - Put a mapping of the test device at an address
 * @kind:	What the mapping is to be.
 * @addr:	The address.
 * @size:	Size in bytes.
 *
 * Return: NULL, or why there is no such memory.
 */
const char *memslot_map_device(const struct memslot_kind *kind, void *addr, size_t size)
{
	if (memslot_host.no_device)
		return memslot_host.no_device;

	test_mem_set(test_mem_fd, kind->device, kind->flags);
	map_at(addr, size, kind->map_flags, test_mem_fd);

	return NULL;
}

/**
 * memslot_map_block() - Have a PMD map the test device
 * @kind:	What the mapping is to be, other than its size.
 * @addr:	The start of the mapping, pmd_size() bytes.
 *
 * Return: NULL, or why there is no such memory.
 */
const char *memslot_map_block(const struct memslot_kind *kind, void **addr)
{
	struct kvm_test_mem_info info;

	if (memslot_host.no_device)
		return memslot_host.no_device;

	test_mem_info(test_mem_fd, &info);
	if (info.size < pmd_size() || info.start % pmd_size())
		return "a block is larger than the device memory";

	test_mem_set(test_mem_fd, kind->device,
		     kind->flags | KVM_TEST_MEM_FAULT | KVM_TEST_MEM_HUGE);
	*addr = test_mem_map_fd(test_mem_fd, 0, pmd_size(), PROT_READ | PROT_WRITE, MAP_SHARED);

	return NULL;
}

/* Memory of this process, by its page frames: memory that the kernel manages. */
static const char *map_dev_mem(const struct memslot_kind *kind, void *addr, size_t size)
{
	size_t page_size = getpagesize();
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

	fd = open("/dev/mem", O_RDWR | kind->flags);
	if (fd < 0)
		return "no /dev/mem";

	memslot_map_anon(addr, size);
	got = mmap(addr, page_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		   fd, pfn * page_size);
	kvm_close(fd);
	if (got != addr)
		return "/dev/mem doesn't give access to memory";

	return NULL;
}

static const struct memslot_kind kinds[] = {
	{
		.name = "anonymous", .class = MEMSLOT_TAGS, .map = map_anon,
		.attr = S2_NORMAL,
	}, {
		.name = "memfd", .class = MEMSLOT_TAGS, .map = map_memfd,
		.attr = S2_NORMAL,
	}, {
		.name = "file", .class = MEMSLOT_PAGES, .map = memslot_map_file,
		.map_flags = MAP_SHARED,
		.mte_rule = RULE_NO, .attr = S2_NORMAL,
	}, {
		.name = "private file", .class = MEMSLOT_PAGES, .map = memslot_map_file,
		.map_flags = MAP_PRIVATE,
		.mte_rule = RULE_NO, .attr = S2_NORMAL,
	}, {
		.name = "PFNMAP nGnRnE", .class = MEMSLOT_UNCACHED, .map = memslot_map_device,
		.device = KVM_TEST_MEM_NGNRNE, .map_flags = MAP_SHARED,
		.attr = S2_DEVICE,
	}, {
		.name = "PFNMAP nGnRE", .class = MEMSLOT_UNCACHED, .map = memslot_map_device,
		.device = KVM_TEST_MEM_NGNRE, .map_flags = MAP_SHARED,
		.attr = S2_DEVICE,
	}, {
		.name = "PFNMAP NC", .class = MEMSLOT_UNCACHED, .map = memslot_map_device,
		.device = KVM_TEST_MEM_NC, .map_flags = MAP_SHARED,
		.attr = S2_DEVICE,
	}, {
		.name = "PFNMAP NC on fault", .class = MEMSLOT_UNCACHED, .map = memslot_map_device,
		.device = KVM_TEST_MEM_NC, .flags = KVM_TEST_MEM_FAULT, .map_flags = MAP_SHARED,
		.attr = S2_DEVICE,
	}, {
		.name = "PFNMAP nGnRnE, any uncached", .class = MEMSLOT_UNCACHED,
		.map = memslot_map_device, .device = KVM_TEST_MEM_NGNRNE,
		.flags = KVM_TEST_MEM_ANY_UNCACHED, .map_flags = MAP_SHARED,
		.attr = S2_NC,
	}, {
		.name = "PFNMAP NC, any uncached, on fault", .class = MEMSLOT_UNCACHED,
		.map = memslot_map_device, .device = KVM_TEST_MEM_NC,
		.flags = KVM_TEST_MEM_ANY_UNCACHED | KVM_TEST_MEM_FAULT, .map_flags = MAP_SHARED,
		.attr = S2_NC,
	}, {
		.name = "PFNMAP cacheable", .class = MEMSLOT_PFNS, .map = memslot_map_device,
		.device = KVM_TEST_MEM_CACHED, .map_flags = MAP_SHARED,
		.rule = RULE_COHERENT, .mte_rule = RULE_NO, .attr = S2_NORMAL,
	}, {
		.name = "PFNMAP cacheable on fault", .class = MEMSLOT_PFNS,
		.map = memslot_map_device, .device = KVM_TEST_MEM_CACHED,
		.flags = KVM_TEST_MEM_FAULT, .map_flags = MAP_SHARED,
		.rule = RULE_COHERENT, .mte_rule = RULE_NO, .attr = S2_NORMAL,
	}, {
		.name = "private PFNMAP nGnRE", .class = MEMSLOT_UNCACHED,
		.map = memslot_map_device, .device = KVM_TEST_MEM_NGNRE, .map_flags = MAP_PRIVATE,
		.rule = RULE_NO, .mte_rule = RULE_NO,
	}, {
		.name = "private PFNMAP cacheable", .class = MEMSLOT_PFNS,
		.map = memslot_map_device, .device = KVM_TEST_MEM_CACHED, .map_flags = MAP_PRIVATE,
		.rule = RULE_NO, .mte_rule = RULE_NO,
	}, {
		.name = "private PFNMAP nGnRE, read-only", .class = MEMSLOT_UNCACHED,
		.map = memslot_map_device, .device = KVM_TEST_MEM_NGNRE, .map_flags = MAP_PRIVATE,
		.readonly = true, .attr = S2_DEVICE,
	}, {
		.name = "private PFNMAP cacheable, read-only", .class = MEMSLOT_PFNS,
		.map = memslot_map_device, .device = KVM_TEST_MEM_CACHED, .map_flags = MAP_PRIVATE,
		.readonly = true,
		.rule = RULE_COHERENT, .mte_rule = RULE_NO, .attr = S2_NORMAL,
	}, {
		.name = "MIXEDMAP NC", .class = MEMSLOT_PAGES, .map = memslot_map_device,
		.device = KVM_TEST_MEM_NC, .flags = KVM_TEST_MEM_FAULT | KVM_TEST_MEM_MIXED,
		.map_flags = MAP_SHARED,
		.mte_rule = RULE_NO, .attr = S2_DEVICE,
	}, {
		.name = "MIXEDMAP NC, any uncached", .class = MEMSLOT_PAGES,
		.map = memslot_map_device, .device = KVM_TEST_MEM_NC,
		.flags = KVM_TEST_MEM_FAULT | KVM_TEST_MEM_MIXED | KVM_TEST_MEM_ANY_UNCACHED,
		.map_flags = MAP_SHARED,
		.mte_rule = RULE_NO, .attr = S2_NC,
	}, {
		.name = "MIXEDMAP cacheable", .class = MEMSLOT_PAGES, .map = memslot_map_device,
		.device = KVM_TEST_MEM_CACHED, .flags = KVM_TEST_MEM_FAULT | KVM_TEST_MEM_MIXED,
		.map_flags = MAP_SHARED,
		.mte_rule = RULE_NO, .access = RULE_COHERENT, .attr = S2_NORMAL,
	}, {
		.name = "/dev/mem, NC, of memory", .class = MEMSLOT_PFNS, .map = map_dev_mem,
		.flags = O_SYNC,
		.mte_access = RULE_NO, .attr = S2_NORMAL,
	}, {
		.name = "/dev/mem, cacheable, of memory", .class = MEMSLOT_PFNS,
		.map = map_dev_mem,
		.rule = RULE_COHERENT, .good_pfn = true, .mte_rule = RULE_NO, .attr = S2_NORMAL,
	},
};

/* For MEMSLOT_BLOCK. */
static const struct memslot_kind blocks[] = {
	{
		.name = "PFNMAP NC", .class = MEMSLOT_UNCACHED, .device = KVM_TEST_MEM_NC,
		.attr = S2_DEVICE,
	}, {
		.name = "PFNMAP NC, any uncached", .class = MEMSLOT_UNCACHED,
		.device = KVM_TEST_MEM_NC, .flags = KVM_TEST_MEM_ANY_UNCACHED,
		.attr = S2_NC,
	}, {
		.name = "PFNMAP cacheable", .class = MEMSLOT_PFNS, .device = KVM_TEST_MEM_CACHED,
		.rule = RULE_COHERENT, .mte_rule = RULE_NO, .attr = S2_NORMAL,
	}, {
		.name = "MIXEDMAP NC", .class = MEMSLOT_PAGES, .device = KVM_TEST_MEM_NC,
		.flags = KVM_TEST_MEM_MIXED,
		.mte_rule = RULE_NO, .attr = S2_DEVICE,
	},
};

/**
 * memslot_for_each() - Run all cases of a number of VMs
 * @nr_vms:	Number of VMs.
 * @run:	Runs a case.
 */
void memslot_for_each(int nr_vms, memslot_run_fn run)
{
	int i, vm;

	for (i = 0; i < ARRAY_SIZE(kinds); i++) {
		for (vm = 0; vm < nr_vms; vm++) {
			run(&kinds[i], vm, MEMSLOT_REGISTERED);
			run(&kinds[i], vm, MEMSLOT_BEHIND);
		}
	}
	for (i = 0; i < ARRAY_SIZE(blocks); i++) {
		for (vm = 0; vm < nr_vms; vm++)
			run(&blocks[i], vm, MEMSLOT_BLOCK);
	}
}

/**
 * memslot_nr_cases() - Tell how many cases memslot_for_each() runs
 * @nr_vms:	Number of VMs.
 *
 * Return: The number.
 */
int memslot_nr_cases(int nr_vms)
{
	return (2 * ARRAY_SIZE(kinds) + ARRAY_SIZE(blocks)) * nr_vms;
}

/* Otherwise it is pages, or may be. */
static bool is_pfnmap(const struct memslot_kind *kind)
{
	return kind->class == MEMSLOT_UNCACHED || kind->class == MEMSLOT_PFNS;
}

static bool holds(enum memslot_rule rule)
{
	return rule == RULE_YES || (rule == RULE_COHERENT && coherent);
}

static bool is_accepted(const struct memslot_kind *kind, const struct memslot_vm *spec)
{
	return holds(spec->tags_matter ? kind->mte_rule : kind->rule);
}

static bool is_accessible(const struct memslot_kind *kind, const struct memslot_vm *spec)
{
	return holds(spec->tags_matter ? kind->mte_access : kind->access);
}

/* Checks. Each returns NULL, or what is wrong. */

/**
 * memslot_vm_create() - Create a VM without a memslot for memory at MTE_TEST_GPA
 * @spec:	What the VM has.
 * @size:	How much memory the guest maps there, in bytes.
 * @vcpu:	The vCPU.
 *
 * Return: The VM.
 */
struct kvm_vm *memslot_vm_create(const struct memslot_vm *spec, size_t size,
				 struct kvm_vcpu **vcpu)
{
	struct kvm_vm *vm = __vm_create(VM_SHAPE_DEFAULT, 1, size / SZ_4K);

	if (spec->mte)
		vm_enable_cap(vm, KVM_CAP_ARM_MTE, 0);
	if (spec->perm)
		vm_enable_cap(vm, KVM_CAP_ARM_MTE_PERM, spec->perm);
	mte_vm_add_vcpus(vm, 1, vcpu);
	virt_map(vm, MTE_TEST_GPA, MTE_TEST_GPA, size / vm->page_size);

	return vm;
}

static int set_slot(struct kvm_vm *vm, u32 flags, void *hva)
{
	return __vm_set_user_memory_region(vm, DATA_SLOT, flags, MTE_TEST_GPA, slot_size(), hva);
}

static bool has_attr(const char *attr, struct kvm_vm *vm)
{
	return !memslot_host.attrs_shown || mte_stage2_shows(vm, MTE_TEST_GPA, attr);
}

/* The memory as the VMM sees it: through the device, if the VMM can only read it. */
static u64 *alias(const struct memslot_kind *kind, void *hva)
{
	if (kind->map != memslot_map_device || kind->map_flags != MAP_PRIVATE)
		return hva;

	test_mem_set(test_mem_fd, kind->device, 0);

	return test_mem_map_fd(test_mem_fd, 0, getpagesize(), PROT_READ | PROT_WRITE, MAP_SHARED);
}

/* What a guest that is given the memory must be able to do. */
static const char *use(const struct memslot_kind *kind, const struct memslot_vm *spec,
		       struct kvm_vcpu *vcpu, u64 *data)
{
	bool has_tags = kind->class == MEMSLOT_TAGS;
	u64 tag;

	WRITE_ONCE(*data, HOST_DATA);
	if (mte_vcpu_call(vcpu, mte_guest_read, MTE_TEST_GPA, 0, 0, 0) != HOST_DATA)
		return "the guest doesn't see the data of the VMM";

	if (!has_attr(spec->attr, vcpu->vm))
		return "wrong memory attribute at stage 2";

	if (kind->readonly) {
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
		if (!has_attr(spec->attr, vcpu->vm))
			return "wrong memory attribute at stage 2 after a write";
	}

	if (spec->mte && !kind->readonly && !spec->tag_access) {
		tag = mte_vcpu_call(vcpu, mte_guest_try_tag, MTE_TEST_GPA, TEST_TAG, 0, 0);
		if (tag != (has_tags ? TEST_TAG : 0))
			return has_tags ? "no tags" : "tags in memory that has none";
	}

	return NULL;
}

static const char *check_use(const struct memslot_kind *kind, const struct memslot_vm *spec,
			     struct kvm_vcpu *vcpu, void *hva)
{
	u64 *data = alias(kind, hva);
	const char *failure = use(kind, spec, vcpu, data);

	if (data != hva)
		kvm_munmap(data, getpagesize());

	return failure;
}

/* The same, and then what may replace the memory. */
static const char *check_last_use(const struct memslot_kind *kind, const struct memslot_vm *spec,
				  struct kvm_vcpu *vcpu, void *hva)
{
	const char *failure = check_use(kind, spec, vcpu, hva);

	if (failure || !spec->tag_access)
		return failure;

	return spec->tag_access(vcpu, MTE_TEST_GPA, kind->readonly, hva);
}

/* What must be seen of an access to memory that the VM can't have. */
static const char *check_fault(struct kvm_vcpu *vcpu, void *hva, bool write)
{
	struct kvm_run *run = vcpu->run;

	mte_vcpu_prepare(vcpu, write ? mte_write_data : mte_guest_read, MTE_TEST_GPA, 1, 0,
			 GUEST_DATA);
	if (!failed_with(_vcpu_run(vcpu), EFAULT))
		return write ? "the guest can write" : "the guest can read";

	if (memslot_host.faults_told) {
		if (run->exit_reason != KVM_EXIT_MEMORY_FAULT)
			return "the VMM isn't told the address";
		if (run->memory_fault.gpa != MTE_TEST_GPA ||
		    run->memory_fault.size != getpagesize())
			return "the VMM is told a wrong address";
		if (run->memory_fault.flags)
			return "the VMM is told a wrong reason";
	}

	memslot_map_anon(hva, slot_size());
	if (!write)
		WRITE_ONCE(*(u64 *)hva, HOST_DATA);
	vcpu_run(vcpu);
	if (write && READ_ONCE(*(u64 *)hva) != GUEST_DATA)
		return "the write was lost";
	if (!write && mte_vcpu_result(vcpu) != HOST_DATA)
		return "the guest doesn't go on with other memory";

	return NULL;
}

static const char *check_refused(const struct memslot_kind *kind, struct kvm_vcpu *vcpu,
				 void *hva)
{
	mte_vcpu_prepare(vcpu, mte_guest_read, MTE_TEST_GPA, 0, 0, 0);
	vcpu_run(vcpu);
	if (vcpu->run->exit_reason != KVM_EXIT_MMIO)
		return "there is a memslot after the attempt";
	vcpu_run(vcpu);

	/* Another one, at the same place, is as good as ever. */
	memslot_map_anon(hva, slot_size());
	if (set_slot(vcpu->vm, kind->readonly ? KVM_MEM_READONLY : 0, hva))
		return "good memory is refused after the attempt";
	WRITE_ONCE(*(u64 *)hva, HOST_DATA);
	if (mte_vcpu_call(vcpu, mte_guest_read, MTE_TEST_GPA, 0, 0, 0) != HOST_DATA)
		return "the guest can't use good memory after the attempt";

	return NULL;
}

static const char *check_registered(const struct memslot_kind *kind,
				    const struct memslot_vm *spec, struct kvm_vcpu *vcpu,
				    void *hva)
{
	u32 flags = kind->readonly ? KVM_MEM_READONLY : 0;
	int ret = set_slot(vcpu->vm, flags, hva);
	const char *failure;

	if (!is_accepted(kind, spec)) {
		if (!failed_with(ret, EINVAL))
			return ret ? "refused with a wrong errno" : "accepted";
		return check_refused(kind, vcpu, hva);
	}
	if (ret)
		return "refused";

	if (!is_accessible(kind, spec))
		return check_fault(vcpu, hva, false);

	failure = check_use(kind, spec, vcpu, hva);
	if (failure)
		return failure;

	ret = set_slot(vcpu->vm, flags | KVM_MEM_LOG_DIRTY_PAGES, hva);
	if (is_pfnmap(kind)) {
		if (!failed_with(ret, EINVAL))
			return "dirty logging of PFNs is accepted";
	} else if (ret) {
		return "dirty logging is refused";
	}

	return check_last_use(kind, spec, vcpu, hva);
}

static const char *check_behind(const struct memslot_kind *kind, const struct memslot_vm *spec,
				struct kvm_vcpu *vcpu, void *hva)
{
	bool good_pfn = kind->good_pfn && !spec->tags_matter;
	const char *failure;

	/* It is mapped already, but the memslot doesn't know it yet. */
	if ((good_pfn || is_accepted(kind, spec)) && is_accessible(kind, spec))
		return check_last_use(kind, spec, vcpu, hva);

	failure = check_fault(vcpu, hva, false);
	if (failure || kind->readonly)
		return failure;

	kind->map(kind, hva, slot_size());

	return check_fault(vcpu, hva, true);
}

static void run_slot(const struct memslot_kind *kind, const struct memslot_vm *spec,
		     bool behind, struct memslot_verdict *verdict)
{
	size_t size = slot_size();
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	void *hva;

	hva = kvm_mmap(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	vm = memslot_vm_create(spec, size, &vcpu);

	/* The guest has been there before. */
	if (behind) {
		TEST_ASSERT(!set_slot(vm, kind->readonly ? KVM_MEM_READONLY : 0, hva),
			    "Anonymous memory is refused, errno %d", errno);
		mte_vcpu_call(vcpu, mte_guest_read, MTE_TEST_GPA, 0, 0, 0);
	}

	verdict->skip = kind->map(kind, hva, size);
	if (!verdict->skip)
		verdict->failure = behind ? check_behind(kind, spec, vcpu, hva) :
					    check_registered(kind, spec, vcpu, hva);

	kvm_vm_free(vm);
	kvm_munmap(hva, size);
}

static const char *check_block(const struct memslot_kind *kind, const struct memslot_vm *spec,
			       struct kvm_vcpu *vcpu, void *hva)
{
	/* Where it would be seen if the mapping, or what is told of it, was too small. */
	size_t last_page = pmd_size() - getpagesize(), last = pmd_size() - sizeof(u64);
	struct kvm_vm *vm = vcpu->vm;
	u64 nr_blocks, nr_pages;
	int ret;

	ret = __vm_set_user_memory_region(vm, DATA_SLOT, 0, MTE_TEST_GPA, pmd_size(), hva);
	if (!is_accepted(kind, spec)) {
		if (!failed_with(ret, EINVAL))
			return ret ? "refused with a wrong errno" : "accepted";
		return NULL;
	}
	if (ret)
		return "refused";

	WRITE_ONCE(*(u64 *)(hva + last), HOST_DATA);
	mte_vcpu_prepare(vcpu, mte_guest_read, MTE_TEST_GPA + last, 0, 0, 0);
	if (!is_accessible(kind, spec))
		return failed_with(_vcpu_run(vcpu), EFAULT) ? NULL : "the guest can read";

	vcpu_run(vcpu);
	if (mte_vcpu_result(vcpu) != HOST_DATA)
		return "the guest doesn't see the data of the VMM";
	if (!mte_stage2_leaves(vm, MTE_TEST_GPA, pmd_size(), &nr_blocks, &nr_pages) ||
	    nr_blocks != 1 || nr_pages)
		return "not mapped by a block at stage 2";
	if (!has_attr(spec->attr, vm))
		return "wrong memory attribute at stage 2";

	/* Split in advance: the pages are what the block was. */
	if (!is_pfnmap(kind)) {
		vm_set_user_memory_region(vm, DATA_SLOT, KVM_MEM_LOG_DIRTY_PAGES, MTE_TEST_GPA,
					  pmd_size(), hva);
		if (!mte_stage2_leaves(vm, MTE_TEST_GPA, pmd_size(), &nr_blocks, &nr_pages) ||
		    nr_blocks || nr_pages != pmd_size() / getpagesize())
			return "the block isn't split";
		if (!has_attr(spec->attr, vm))
			return "wrong memory attribute at stage 2 after a split";
	}

	if (spec->tag_access)
		return spec->tag_access(vcpu, MTE_TEST_GPA + last_page, false, hva + last_page);

	return NULL;
}

static void run_block(const struct memslot_kind *kind, const struct memslot_vm *spec,
		      struct memslot_verdict *verdict)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	void *hva;

	verdict->skip = memslot_map_block(kind, &hva);
	if (verdict->skip)
		return;

	vm = memslot_vm_create(spec, pmd_size(), &vcpu);
	mte_vm_enable_eager_split(vm, pmd_size());
	verdict->failure = check_block(kind, spec, vcpu, hva);

	kvm_vm_free(vm);
	kvm_munmap(hva, pmd_size());
}

/**
 * memslot_check() - Try a kind of mapping in a memslot
 * @kind:	The kind.
 * @spec:	The VM, and what is expected.
 * @way:	How the mapping gets into the memslot.
 *
 * If the VM can have it, data has to pass between VMM and guest, the memory attribute
 * at stage 2 has to be the expected one, and the guest must be able to store tags if
 * the memory can have them, and must not otherwise. If the VM can't have it, there must
 * be no memslot, or else KVM_RUN has to report the address, and the guest has to go on
 * once other memory is mapped there. For a block that the VM can have, the checks are of
 * data and attribute, and that it is mapped by a block at stage 2; and if its dirty
 * pages can be logged, that the pages into which it is split have the attribute.
 *
 * Return: The verdict.
 */
struct memslot_verdict memslot_check(const struct memslot_kind *kind,
				     const struct memslot_vm *spec, enum memslot_way way)
{
	struct memslot_verdict verdict = { .skip = spec->missing };

	if (way == MEMSLOT_BLOCK)
		snprintf(verdict.name, sizeof(verdict.name), "block of %s, %s", kind->name,
			 spec->name);
	else
		snprintf(verdict.name, sizeof(verdict.name), "%s, %s, %s", kind->name, spec->name,
			 way == MEMSLOT_BEHIND ? "mapped behind a memslot" : "registered");

	if (spec->missing)
		return verdict;

	if (way == MEMSLOT_BLOCK)
		run_block(kind, spec, &verdict);
	else
		run_slot(kind, spec, way == MEMSLOT_BEHIND, &verdict);

	return verdict;
}

/* Set-up. */

static const struct memslot_vm vm_without_mte;

static void probe(void)
{
	void *hva = kvm_mmap(slot_size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;

	vm = memslot_vm_create(&vm_without_mte, slot_size(), &vcpu);
	coherent = vm_check_cap(vm, KVM_CAP_ARM_CACHEABLE_PFNMAP_SUPPORTED);
	memslot_host.faults_told = kvm_check_cap(KVM_CAP_MEMORY_FAULT_INFO);

	TEST_ASSERT(!set_slot(vm, 0, hva), "Anonymous memory is refused, errno %d", errno);
	mte_vcpu_call(vcpu, mte_guest_read, MTE_TEST_GPA, 0, 0, 0);
	memslot_host.table_shown = mte_stage2_shows(vm, MTE_TEST_GPA, "R");
	memslot_host.attrs_shown = mte_stage2_shows(vm, MTE_TEST_GPA, S2_NORMAL);

	kvm_vm_free(vm);
	kvm_munmap(hva, slot_size());
}

/* In protected mode the hypervisor maps nothing for a guest but memory it knows. */
static const char *probe_device(void)
{
	const char *reason = test_mem_load();
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	void *hva;

	if (reason)
		return reason;

	test_mem_fd = test_mem_open();
	test_mem_set(test_mem_fd, KVM_TEST_MEM_NGNRE, 0);
	hva = test_mem_map_fd(test_mem_fd, 0, slot_size(), PROT_READ | PROT_WRITE, MAP_SHARED);

	vm = memslot_vm_create(&vm_without_mte, slot_size(), &vcpu);
	TEST_ASSERT(!set_slot(vm, 0, hva), "Device memory is refused, errno %d", errno);
	mte_vcpu_prepare(vcpu, mte_guest_read, MTE_TEST_GPA, 0, 0, 0);
	if (failed_with(_vcpu_run(vcpu), EINVAL))
		reason = "KVM gives no device memory to a guest, as in protected mode";

	kvm_vm_free(vm);
	kvm_munmap(hva, slot_size());

	return reason;
}

static void cleanup(void)
{
	if (test_mem_fd >= 0)
		close(test_mem_fd);
	test_mem_unload();
}

/**
 * memslot_init() - Find out what there is on the host, and have the test device
 *
 * To be called before all others but memslot_map_anon() and memslot_ramfs_file(). The
 * device is gone when the test exits.
 */
void memslot_init(void)
{
	probe();
	atexit(cleanup);
	memslot_host.no_device = probe_device();
}
