// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory tagging (MTE) for KVM selftests.
 *
 * Functions that can fail because of what the machine has to offer, and not
 * because of a defect, return the reason as a string for the verdict of a
 * skipped case, or NULL if there is nothing to complain about.
 */
#include <dirent.h>
#include <sched.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <linux/bitmap.h>
#include <linux/fs.h>
#include <linux/kernel-page-flags.h>
#include <linux/memfd.h>
#include <linux/mman.h>
#include <linux/sizes.h>

#include <asm/barrier.h>
#include <asm/hwcap.h>
#include <asm/mman.h>
#include <asm/sysreg.h>

#include "mte.h"
#include "settings.h"
#include "test_util.h"
#include "ucall_common.h"

/**
 * mte_store_tags() - Store one tag to all granules of a range
 * @addr:	Start of the range, untagged.
 * @size:	Size of the range in bytes, a multiple of MTE_GRANULE_SIZE.
 * @tag:	The tag.
 *
 * Works on the host and in the guest.
 */
void mte_store_tags(void *addr, size_t size, u8 tag)
{
	void *end = addr + size;

	/* Two at a time, since this is used on a gigabyte. */
	for (; end - addr >= 2 * MTE_GRANULE_SIZE; addr += 2 * MTE_GRANULE_SIZE)
		asm volatile(MTE_PREAMBLE "st2g %0, [%1]" :
			     : "r"((u64)tag << MTE_TAG_SHIFT), "r"(addr) : "memory");

	if (addr < end)
		mte_store_tag(addr, tag);
}

/**
 * mte_have_tag() - Check the tags of all granules of a range
 * @addr:	Start of the range, untagged.
 * @size:	Size of the range in bytes, a multiple of MTE_GRANULE_SIZE.
 * @tag:	The tag that is expected.
 *
 * Works on the host and in the guest.
 *
 * Return: false if at least one granule has a tag other than @tag.
 */
bool mte_have_tag(const void *addr, size_t size, u8 tag)
{
	const void *end = addr + size;

	for (; addr < end; addr += MTE_GRANULE_SIZE) {
		if (mte_load_tag(addr) != tag)
			return false;
	}

	return true;
}

/**
 * mte_count_stale() - Count the pages that have tags other than zero
 * @addr:	Start of the first page, untagged.
 * @nr_pages:	Number of pages to look at.
 * @page_size:	Size of a page.
 * @stride:	Distance from one page to the next in bytes, @page_size unless
 *		it is enough to look at some of the pages.
 *
 * Works on the host and in the guest, where mte_vcpu_call() can call it.
 *
 * Return: the number of pages with at least one tag that isn't zero.
 */
u64 mte_count_stale(u64 addr, u64 nr_pages, u64 page_size, u64 stride)
{
	u64 stale = 0;

	for (; nr_pages; nr_pages--, addr += stride)
		stale += !mte_have_tag((void *)addr, page_size, 0);

	return stale;
}

/* Never zero, never MTE_POISON, and not the same for neighbours. */
static u8 pattern_tag(u64 page, u64 granule)
{
	return 1 + (page + granule) % (MTE_POISON - 1);
}

/**
 * mte_store_pattern() - Store tags that can be told apart
 * @addr:	Start of the first page, untagged.
 * @nr_pages:	Number of pages to store tags to.
 * @page_size:	Size of a page.
 * @stride:	Distance from one page to the next in bytes.
 *
 * Works on the host and in the guest, where mte_vcpu_call() can call it.
 *
 * Return: 0
 */
u64 mte_store_pattern(u64 addr, u64 nr_pages, u64 page_size, u64 stride)
{
	u64 page, granule;

	for (page = 0; page < nr_pages; page++, addr += stride) {
		for (granule = 0; granule < page_size / MTE_GRANULE_SIZE; granule++)
			mte_store_tag((void *)addr + granule * MTE_GRANULE_SIZE,
				      pattern_tag(page, granule));
	}

	return 0;
}

/**
 * mte_count_lost() - Count the pages that don't have the tags stored to them
 * @addr:	Start of the first page, untagged.
 * @nr_pages:	Number of pages to look at.
 * @page_size:	Size of a page.
 * @stride:	Distance from one page to the next in bytes.
 *
 * Works on the host and in the guest, where mte_vcpu_call() can call it. The
 * arguments are those of the mte_store_pattern() before.
 *
 * Return: the number of pages with at least one tag that isn't the one stored.
 */
u64 mte_count_lost(u64 addr, u64 nr_pages, u64 page_size, u64 stride)
{
	u64 page, granule, lost = 0;

	for (page = 0; page < nr_pages; page++, addr += stride) {
		for (granule = 0; granule < page_size / MTE_GRANULE_SIZE; granule++) {
			if (mte_load_tag((void *)addr + granule * MTE_GRANULE_SIZE) !=
			    pattern_tag(page, granule)) {
				lost++;
				break;
			}
		}
	}

	return lost;
}

/**
 * mte_guest_store_tags() - mte_store_tags() for mte_vcpu_call()
 * @addr:	Start of the range, untagged.
 * @size:	Size of the range in bytes.
 * @tag:	The tag.
 * @unused:	Ignored.
 *
 * Return: 0
 */
u64 mte_guest_store_tags(u64 addr, u64 size, u64 tag, u64 unused)
{
	mte_store_tags((void *)addr, size, tag);

	return 0;
}

/**
 * mte_guest_have_tag() - mte_have_tag() for mte_vcpu_call()
 * @addr:	Start of the range, untagged.
 * @size:	Size of the range in bytes.
 * @tag:	The tag that is expected.
 * @unused:	Ignored.
 *
 * Return: 0 if at least one granule has a tag other than @tag, otherwise 1.
 */
u64 mte_guest_have_tag(u64 addr, u64 size, u64 tag, u64 unused)
{
	return mte_have_tag((void *)addr, size, tag);
}

/**
 * mte_guest_try_tag() - Store a tag where that may have no effect
 * @addr:	Address of the granule, untagged.
 * @tag:	The tag.
 * @unused2:	Ignored.
 * @unused3:	Ignored.
 *
 * Return: the tag that is loaded afterwards, zero for memory that has none.
 */
u64 mte_guest_try_tag(u64 addr, u64 tag, u64 unused2, u64 unused3)
{
	mte_store_tag((void *)addr, tag);

	return mte_load_tag((void *)addr);
}

/**
 * mte_guest_read() - Read data, for mte_vcpu_call()
 * @addr:	Address to read from.
 * @unused1:	Ignored.
 * @unused2:	Ignored.
 * @unused3:	Ignored.
 *
 * Return: the data.
 */
u64 mte_guest_read(u64 addr, u64 unused1, u64 unused2, u64 unused3)
{
	return READ_ONCE(*(u64 *)addr);
}

/**
 * mte_write_data() - Write to the start of some pages
 * @addr:	Address to write to in the first page.
 * @nr_pages:	Number of pages.
 * @stride:	Distance from one page to the next in bytes.
 * @data:	What to write.
 *
 * Works on the host and in the guest, where mte_vcpu_call() can call it.
 *
 * Return: 0
 */
u64 mte_write_data(u64 addr, u64 nr_pages, u64 stride, u64 data)
{
	for (; nr_pages; nr_pages--, addr += stride)
		WRITE_ONCE(*(u64 *)addr, data);

	return 0;
}

/**
 * mte_count_wrong_data() - Count the pages that don't start with certain data
 * @addr:	Address to read from in the first page.
 * @nr_pages:	Number of pages.
 * @stride:	Distance from one page to the next in bytes.
 * @data:	What is expected.
 *
 * Works on the host and in the guest, where mte_vcpu_call() can call it.
 *
 * Return: the number of pages with anything but @data.
 */
u64 mte_count_wrong_data(u64 addr, u64 nr_pages, u64 stride, u64 data)
{
	u64 wrong = 0;

	for (; nr_pages; nr_pages--, addr += stride)
		wrong += READ_ONCE(*(u64 *)addr) != data;

	return wrong;
}

/**
 * mte_write_addrs() - Write its own address to the start of each page
 * @addr:	Address to write to in the first page.
 * @nr_pages:	Number of pages.
 * @stride:	Distance from one page to the next in bytes.
 * @unused:	Ignored.
 *
 * The same as mte_write_data(), but with data that tells pages apart.
 *
 * Return: 0
 */
u64 mte_write_addrs(u64 addr, u64 nr_pages, u64 stride, u64 unused)
{
	for (; nr_pages; nr_pages--, addr += stride)
		WRITE_ONCE(*(u64 *)addr, addr);

	return 0;
}

/**
 * mte_count_wrong_addrs() - Count the pages that don't start with their address
 * @addr:	Address to read from in the first page.
 * @nr_pages:	Number of pages.
 * @stride:	Distance from one page to the next in bytes.
 * @unused:	Ignored.
 *
 * Return: the number of pages with anything but what mte_write_addrs() wrote.
 */
u64 mte_count_wrong_addrs(u64 addr, u64 nr_pages, u64 stride, u64 unused)
{
	u64 wrong = 0;

	for (; nr_pages; nr_pages--, addr += stride)
		wrong += READ_ONCE(*(u64 *)addr) != addr;

	return wrong;
}

/* What the guest is told of MTE, for mte_vcpu_call(). */

u64 mte_guest_pfr1(u64 unused1, u64 unused2, u64 unused3, u64 unused4)
{
	return read_sysreg_s(SYS_ID_AA64PFR1_EL1);
}

u64 mte_guest_pfr2(u64 unused1, u64 unused2, u64 unused3, u64 unused4)
{
	return read_sysreg_s(SYS_ID_AA64PFR2_EL1);
}

/**
 * mte_guest_enable_tags() - Give a guest that isn't told of MTE access to tags
 *
 * What KVM restores are the bits of SCTLR_ELx that the guest should know of, but nothing
 * keeps the guest from setting the one that gives access to tags, in the SCTLR_ELx of its
 * exception level. That bit is lost when the vCPU is scheduled out, and tags read as zero
 * from then on, so what was done has to be done again unless mte_guest_tags_enabled() says
 * otherwise.
 */
void mte_guest_enable_tags(void)
{
	sysreg_clear_set(sctlr_el1, 0, SCTLR_EL1_ATA);
	isb();
}

/**
 * mte_guest_tags_enabled() - Tell whether mte_guest_enable_tags() still holds
 *
 * Return: true if the guest has had access to tags since.
 */
bool mte_guest_tags_enabled(void)
{
	return read_sysreg(sctlr_el1) & SCTLR_EL1_ATA;
}

/* Where to go on at EL1 when EL0 is done. Used in guest memory only. */
static u64 el1_resume;

#define SPSR_EL0	0x3c0
#define SPSR_EL1H	0x3c5

/**
 * mte_guest_el0() - Run instructions at EL0, for mte_vcpu_call()
 * @addr:	What x1 is.
 * @insns:	Address of the instructions, the last of which is SVC. EL0 must be able
 *		to execute them, and they have no stack.
 * @data:	What x0 is.
 * @tco:	Whether PSTATE.TCO is set.
 *
 * The handler of the SVC has to be mte_guest_leave_el0(), or call it. Only one vCPU
 * at a time can do this.
 *
 * Return: x0
 */
u64 mte_guest_el0(u64 addr, u64 insns, u64 data, u64 tco)
{
	register u64 x0 asm("x0") = data;
	register u64 x1 asm("x1") = addr;

	asm volatile("adr	x2, 1f\n\t"
		     "str	x2, %[resume]\n\t"
		     "msr	elr_el1, %[insns]\n\t"
		     "msr	spsr_el1, %[spsr]\n\t"
		     "isb\n\t"
		     "eret\n"
		     "1:"
		     : "+r"(x0), [resume] "=m"(el1_resume)
		     : "r"(x1), [insns] "r"(insns),
		       [spsr] "r"(SPSR_EL0 | (tco ? SPSR_TCO : 0))
		     : "x2", "memory");
	/* Make TFSRE0_EL1 up to date. */
	dsb(sy);
	isb();

	return x0;
}

/**
 * mte_guest_leave_el0() - Return from an exception to the caller of mte_guest_el0()
 * @regs:	Registers at the exception.
 */
void mte_guest_leave_el0(struct ex_regs *regs)
{
	regs->pc = el1_resume;
	regs->pstate = SPSR_EL1H;
}

/**
 * mte_require() - Skip the test, and say why, if guests can't have MTE
 */
void mte_require(void)
{
	__TEST_REQUIRE(getauxval(AT_HWCAP2) & HWCAP2_MTE, "the host has no MTE");
	__TEST_REQUIRE(kvm_check_cap(KVM_CAP_ARM_MTE),
		       "the host has MTE, but KVM doesn't offer it to guests, as in protected mode");
}

/* What the guest is to do next. Indexed by vCPU, used in guest memory only. */
static struct {
	mte_guest_fn	fn;
	u64		args[4];
} guest_calls[KVM_MAX_VCPUS];

static void guest_agent(void)
{
	typeof(guest_calls[0]) *call = &guest_calls[guest_get_vcpuid()];

	for (;;) {
		mte_guest_fn fn = READ_ONCE(call->fn);

		GUEST_SYNC(fn(READ_ONCE(call->args[0]), READ_ONCE(call->args[1]),
			      READ_ONCE(call->args[2]), READ_ONCE(call->args[3])));
	}
}

static void vcpu_setup(struct kvm_vcpu *vcpu)
{
	u64 val;

	/* Tagged is a reserved value of the attribute without MTE. */
	if (!(getauxval(AT_HWCAP2) & HWCAP2_MTE))
		return;

	/* Only accesses with the Tagged attribute see allocation tags. */
	val = vcpu_get_reg(vcpu, ctxt_reg_alias(vcpu, SYS_MAIR_EL1));
	val &= ~MAIR_ATTRIDX(MAIR_ATTR_MASK, MT_NORMAL);
	val |= MAIR_ATTRIDX(MAIR_ATTR_NORMAL_TAGGED, MT_NORMAL);
	vcpu_set_reg(vcpu, ctxt_reg_alias(vcpu, SYS_MAIR_EL1), val);

	/* A tagged pointer would be a level 0 Translation fault otherwise. */
	val = vcpu_get_reg(vcpu, ctxt_reg_alias(vcpu, SYS_TCR_EL1));
	val |= TCR_EL1_TBI0;
	vcpu_set_reg(vcpu, ctxt_reg_alias(vcpu, SYS_TCR_EL1), val);

	val = vcpu_get_reg(vcpu, ctxt_reg_alias(vcpu, SYS_SCTLR_EL1));
	val |= SCTLR_EL1_ATA;
	vcpu_set_reg(vcpu, ctxt_reg_alias(vcpu, SYS_SCTLR_EL1), val);
}

static void vm_add_vcpus(struct kvm_vm *vm, u32 nr_vcpus, struct kvm_vcpu *vcpus[],
			 u32 features)
{
	struct kvm_vcpu_init init = {};
	u32 i;

	vm_init_descriptor_tables(vm);
	vm_ioctl(vm, KVM_ARM_PREFERRED_TARGET, &init);
	init.features[0] |= features;

	for (i = 0; i < nr_vcpus; i++) {
		vcpus[i] = aarch64_vcpu_add(vm, i, &init, guest_agent);
		vcpu_init_descriptor_tables(vcpus[i]);
		vcpu_setup(vcpus[i]);
	}

	kvm_arch_vm_finalize_vcpus(vm);
}

/**
 * mte_vm_add_vcpus() - Add the vCPUs of a VM, with tags enabled in the guest
 * @vm:		The VM, which in most cases was given KVM_CAP_ARM_MTE.
 * @nr_vcpus:	Number of vCPUs.
 * @vcpus:	Where to store the vCPUs.
 *
 * For tests that have to do something between the capability and the vCPUs, or
 * before both, or that go without it. The others want mte_vm_create().
 */
void mte_vm_add_vcpus(struct kvm_vm *vm, u32 nr_vcpus, struct kvm_vcpu *vcpus[])
{
	vm_add_vcpus(vm, nr_vcpus, vcpus, 0);
}

/**
 * mte_vm_add_vcpus_el2() - Add the vCPUs of a VM whose guest starts at EL2
 * @vm:		The VM.
 * @nr_vcpus:	Number of vCPUs.
 * @vcpus:	Where to store the vCPUs.
 *
 * The same as mte_vm_add_vcpus() otherwise. Such a guest isn't told of tags.
 */
void mte_vm_add_vcpus_el2(struct kvm_vm *vm, u32 nr_vcpus, struct kvm_vcpu *vcpus[])
{
	vm_add_vcpus(vm, nr_vcpus, vcpus, BIT(KVM_ARM_VCPU_HAS_EL2));
}

/**
 * mte_vm_create() - Create a VM with MTE and vCPUs that have tags enabled
 * @nr_vcpus:	Number of vCPUs.
 * @mem_size:	Upper bound of what will be given to mte_vm_add_slot(), in bytes.
 * @vcpus:	Where to store the vCPUs.
 *
 * All memory that the library maps for the guest is Tagged. Tag checks are
 * disabled, and tagged pointers can be dereferenced. The registers are set
 * before the guest runs for the first time, hence it needs no TLB maintenance.
 *
 * The vCPUs run functions on request of mte_vcpu_call(). They start at EL1 even
 * if KVM could offer EL2, since MTE is hidden from a guest with EL2.
 *
 * Return: the VM.
 */
struct kvm_vm *mte_vm_create(u32 nr_vcpus, u64 mem_size, struct kvm_vcpu *vcpus[])
{
	struct kvm_vm *vm = __vm_create(VM_SHAPE_DEFAULT, nr_vcpus, mem_size / SZ_4K);

	vm_enable_cap(vm, KVM_CAP_ARM_MTE, 0);
	mte_vm_add_vcpus(vm, nr_vcpus, vcpus);

	return vm;
}

/**
 * mte_vm_add_slot() - Add a memslot of any memory, and map it for the guest
 * @vm:		VM of mte_vm_create().
 * @slot:	Number of the slot, not 0.
 * @flags:	KVM_MEM_* flags.
 * @gpa:	Start of the slot in the guest, where it is mapped at stage 1
 *		at the virtual address of the same value.
 * @hva:	Start of the slot in the VMM.
 * @size:	Size of the slot in bytes.
 *
 * Unlike vm_userspace_mem_region_add() this allows for any kind of mapping, and
 * for any alignment of the two addresses to each other. In return, the library
 * doesn't know about the memory: vm_set_user_memory_region() is what changes or
 * deletes the slot.
 */
void mte_vm_add_slot(struct kvm_vm *vm, u32 slot, u32 flags, gpa_t gpa,
		     void *hva, size_t size)
{
	vm_set_user_memory_region(vm, slot, flags, gpa, size, hva);
	virt_map(vm, gpa, gpa, size / vm->page_size);
}

/**
 * mte_vm_enable_eager_split() - Have blocks split when dirty logging is enabled
 * @vm:		The VM, whose memslots are those of the library.
 * @chunk_size:	Up to how much memory to split at a time, in bytes, one of the
 *		block sizes that KVM reports.
 *
 * The chunk size can't be changed as long as there are memslots, so take those
 * away for a moment.
 */
void mte_vm_enable_eager_split(struct kvm_vm *vm, size_t chunk_size)
{
	struct userspace_mem_region *region;
	struct kvm_userspace_memory_region2 saved;
	int ctr;

	hash_for_each(vm->regions.slot_hash, ctr, region, slot_node) {
		saved = region->region;
		saved.memory_size = 0;
		vm_ioctl(vm, KVM_SET_USER_MEMORY_REGION2, &saved);
	}

	vm_enable_cap(vm, KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE, chunk_size);

	hash_for_each(vm->regions.slot_hash, ctr, region, slot_node)
		vm_ioctl(vm, KVM_SET_USER_MEMORY_REGION2, &region->region);
}

static FILE *open_stage2_dump(struct kvm_vm *vm)
{
	char *path = strdup_printf("/sys/kernel/debug/kvm/%d-%d/stage2_page_tables",
				   getpid(), vm->fd);
	FILE *file = fopen(path, "r");

	free(path);

	return file;
}

/**
 * mte_stage2_shows() - Check what the dump of the stage-2 page-table says of a page
 * @vm:		The VM.
 * @gpa:	Address in the guest.
 * @words:	What to look for in the line that @gpa is part of.
 *
 * The dump must be there: CONFIG_PTDUMP_STAGE2_DEBUGFS and a mounted debugfs.
 *
 * Return: true if the line has these words.
 */
bool mte_stage2_shows(struct kvm_vm *vm, gpa_t gpa, const char *words)
{
	FILE *file = open_stage2_dump(vm);
	bool found = false;
	u64 start, end;
	char line[256];

	TEST_ASSERT(file, "Can't open the dump of the stage-2 page-table, errno %d", errno);

	while (!found && fgets(line, sizeof(line), file))
		found = sscanf(line, "0x%lx-0x%lx", &start, &end) == 2 &&
			start <= gpa && gpa < end && strstr(line, words);
	fclose(file);

	return found;
}

/**
 * mte_stage2_leaves() - Count the leaves of the stage-2 page-table for a range
 * @vm:		The VM.
 * @gpa:	Start of the range in the guest.
 * @size:	Size of the range in bytes.
 * @nr_blocks:	Where to store the number of blocks, each of pmd_size().
 * @nr_pages:	Where to store the number of pages.
 *
 * Needs CONFIG_PTDUMP_STAGE2_DEBUGFS, a mounted debugfs and the right to use it.
 *
 * Return: false if the kernel doesn't show the page-table.
 */
bool mte_stage2_leaves(struct kvm_vm *vm, gpa_t gpa, size_t size,
		       u64 *nr_blocks, u64 *nr_pages)
{
	FILE *file = open_stage2_dump(vm);
	u64 start, end, bytes;
	char line[256];

	if (!file)
		return false;

	*nr_blocks = 0;
	*nr_pages = 0;
	/* A line stands for a range of leaves with the same attributes. */
	while (fgets(line, sizeof(line), file)) {
		/* No attributes are shown for what isn't mapped, not even "R". */
		if (sscanf(line, "0x%lx-0x%lx", &start, &end) != 2 || !strchr(line, 'R'))
			continue;

		start = max_t(u64, start, gpa);
		end = min_t(u64, end, gpa + size);
		if (start >= end)
			continue;

		bytes = end - start;
		if (strstr(line, "BLK"))
			*nr_blocks += bytes / pmd_size();
		else
			*nr_pages += bytes / getpagesize();
	}
	fclose(file);

	return true;
}

/**
 * mte_vcpu_set_tcf() - Set how the guest at EL1 deals with tag check faults
 * @vcpu:	vCPU of mte_vm_create(), not running.
 * @tcf:	SCTLR_EL1_TCF_*
 */
void mte_vcpu_set_tcf(struct kvm_vcpu *vcpu, u64 tcf)
{
	u64 val = vcpu_get_reg(vcpu, KVM_ARM64_SYS_REG(SYS_SCTLR_EL1));

	val &= ~SCTLR_EL1_TCF_MASK;
	val |= SYS_FIELD_PREP(SCTLR_EL1, TCF, tcf);
	vcpu_set_reg(vcpu, ctxt_reg_alias(vcpu, SYS_SCTLR_EL1), val);
}

/**
 * mte_vcpu_prepare() - Make the next KVM_RUN call a function in the guest
 * @vcpu:	vCPU of mte_vm_create(), which has completed its last call.
 * @fn:		Function to call.
 * @arg0:	First argument.
 * @arg1:	Second argument.
 * @arg2:	Third argument.
 * @arg3:	Fourth argument.
 *
 * For tests that expect KVM_RUN to do something other than run the function
 * to its end. The others want mte_vcpu_call().
 */
void mte_vcpu_prepare(struct kvm_vcpu *vcpu, mte_guest_fn fn,
		      u64 arg0, u64 arg1, u64 arg2, u64 arg3)
{
	typeof(guest_calls[0]) *call;

	call = addr_gva2hva(vcpu->vm, (gva_t)&guest_calls[vcpu->id]);
	WRITE_ONCE(call->fn, fn);
	WRITE_ONCE(call->args[0], arg0);
	WRITE_ONCE(call->args[1], arg1);
	WRITE_ONCE(call->args[2], arg2);
	WRITE_ONCE(call->args[3], arg3);
}

/**
 * mte_vcpu_result() - Get the result of a function after a KVM_RUN
 * @vcpu:	vCPU whose last KVM_RUN has succeeded.
 *
 * Anything but the end of the function, a failed GUEST_ASSERT() for example,
 * ends the test.
 *
 * Return: what the function returned.
 */
u64 mte_vcpu_result(struct kvm_vcpu *vcpu)
{
	struct ucall uc;

	switch (get_ucall(vcpu, &uc)) {
	case UCALL_SYNC:
		return uc.args[1];
	case UCALL_ABORT:
		REPORT_GUEST_ASSERT(uc);
		break;
	default:
		TEST_FAIL("Unexpected ucall %lu, exit reason %u (%s)", uc.cmd,
			  vcpu->run->exit_reason,
			  exit_reason_str(vcpu->run->exit_reason));
	}

	return 0;
}

/**
 * mte_vcpu_call() - Call a function in the guest
 * @vcpu:	vCPU of mte_vm_create().
 * @fn:		Function to call.
 * @arg0:	First argument.
 * @arg1:	Second argument.
 * @arg2:	Third argument.
 * @arg3:	Fourth argument.
 *
 * Return: what the function returned.
 */
u64 mte_vcpu_call(struct kvm_vcpu *vcpu, mte_guest_fn fn,
		  u64 arg0, u64 arg1, u64 arg2, u64 arg3)
{
	mte_vcpu_prepare(vcpu, fn, arg0, arg1, arg2, arg3);
	vcpu_run(vcpu);

	return mte_vcpu_result(vcpu);
}

/*
 * Stage 2 of a guest with an EL2: pages of 4K, and 39 bits, of which the table of
 * level 1 translates the first nine.
 */
#define GUEST_S2_ENTRIES	512
#define GUEST_S2_TABLE		(PTE_VALID | BIT(1))
/* Normal memory, write-back. */
#define GUEST_S2_LEAF		(PTE_VALID | 0xf << 2 | PTE_SHARED | PTE_AF)
/* T0SZ, SL0 of level 1, write-back, inner shareable, 4K, 40 bits, RES1 */
#define GUEST_S2_VTCR		(25 | 1 << 6 | 1 << 8 | 1 << 10 | 3 << 12 | 2 << 16 | BIT(31))

/**
 * mte_guest_s2_map() - Map memory at stage 2 of a guest with an EL2
 * @vm:		The VM, with pages of 4K.
 * @root:	Table of mte_guest_s2_create().
 * @ipa:	Address that the guest of the guest uses.
 * @gpa:	Address that the guest uses.
 * @level:	Level of the entry, 1 to 3: 1G, 2M or 4K, to which @ipa and @gpa are
 *		aligned. What @root maps there in larger pieces is gone.
 * @access:	GUEST_S2_*, or zero for an invalid entry.
 *
 * For a guest that doesn't run with these tables yet: there is no TLB maintenance.
 */
void mte_guest_s2_map(struct kvm_vm *vm, gpa_t root, gpa_t ipa, gpa_t gpa, int level,
		      u64 access)
{
	u64 *entry;
	int i;

	for (i = 1; ; i++) {
		entry = addr_gpa2hva(vm, root);
		entry += (ipa >> (39 - 9 * i)) % GUEST_S2_ENTRIES;
		if (i == level)
			break;
		if ((*entry & GUEST_S2_TABLE) != GUEST_S2_TABLE)
			*entry = addr_gva2gpa(vm, vm_alloc_page(vm)) | GUEST_S2_TABLE;
		root = *entry & ~GUEST_S2_TABLE;
	}

	*entry = !access ? 0 : gpa | access | GUEST_S2_LEAF | (level == 3 ? GUEST_S2_TABLE : 0);
}

/**
 * mte_guest_s2_create() - Create tables for stage 2 of a guest with an EL2
 * @vm:		The VM, with pages of 4K.
 *
 * They map all addresses to themselves, by blocks of 1G, and allow everything.
 *
 * Return: the address of the table of level 1 in the guest.
 */
gpa_t mte_guest_s2_create(struct kvm_vm *vm)
{
	gpa_t root = addr_gva2gpa(vm, vm_alloc_page(vm));
	u64 i;

	for (i = 0; i < GUEST_S2_ENTRIES; i++)
		mte_guest_s2_map(vm, root, i * SZ_1G, i * SZ_1G, 1,
				 GUEST_S2_READ | GUEST_S2_WRITE);

	return root;
}

static u64 guest_read_el(u64 unused0, u64 unused1, u64 unused2, u64 unused3)
{
	return get_current_el();
}

#define copy_el2_to_el1(reg)						\
	write_sysreg_s(read_sysreg_s(SYS_##reg##_EL1), SYS_##reg##_EL12)

/* EL1 goes on with the stack, and EL2 gets one for exceptions of EL1. */
static u64 guest_enter_el1(u64 root, u64 el2_stack, u64 unused2, u64 unused3)
{
	u64 tmp;

	copy_el2_to_el1(CPACR);
	copy_el2_to_el1(MAIR);
	copy_el2_to_el1(TCR);
	copy_el2_to_el1(TTBR0);
	copy_el2_to_el1(TTBR1);
	copy_el2_to_el1(VBAR);
	copy_el2_to_el1(SCTLR);

	write_sysreg(GUEST_S2_VTCR, vtcr_el2);
	write_sysreg(root, vttbr_el2);
	sysreg_clear_set(hcr_el2, HCR_EL2_TGE | HCR_EL2_VM,
			 HCR_EL2_RW | (root ? HCR_EL2_VM : 0));
	isb();
	asm volatile("tlbi vmalls12e1is\n\t"
		     "dsb ish\n\t"
		     "isb" : : : "memory");

	asm volatile("mov %0, sp\n\t"
		     "msr sp_el1, %0\n\t"
		     "mov sp, %1\n\t"
		     "adr %0, 1f\n\t"
		     "msr elr_el2, %0\n\t"
		     /* EL1h, all exceptions masked */
		     "mov %0, #0x3c5\n\t"
		     "msr spsr_el2, %0\n\t"
		     "isb\n\t"
		     "eret\n"
		     "1:" : "=&r"(tmp) : "r"(el2_stack) : "memory", "cc");

	return 0;
}

/**
 * mte_vcpu_enter_el1() - Have a guest go on at EL1, as a guest of its own
 * @vcpu:	vCPU of mte_vm_add_vcpus_el2(), still at EL2.
 * @root:	Table of mte_guest_s2_create(), for its stage 2, or 0 to do without one.
 *
 * It has the registers, the memory and the functions of the guest at EL2, which it
 * returns to for exceptions that are taken to EL2: those are for handlers of
 * VECTOR_SYNC_LOWER_64.
 */
void mte_vcpu_enter_el1(struct kvm_vcpu *vcpu, gpa_t root)
{
	struct kvm_vm *vm = vcpu->vm;

	TEST_ASSERT(mte_vcpu_call(vcpu, guest_read_el, 0, 0, 0, 0) == 2, "Not at EL2");
	mte_vcpu_call(vcpu, guest_enter_el1, root, vm_alloc_page(vm) + vm->page_size, 0, 0);
	TEST_ASSERT(mte_vcpu_call(vcpu, guest_read_el, 0, 0, 0, 0) == 1, "Not at EL1");
}

/**
 * __mte_copy_tags() - KVM_ARM_MTE_COPY_TAGS as it is
 * @vm:		The VM.
 * @gpa:	Start of the range in the guest.
 * @size:	Size of the range in bytes.
 * @tags:	Buffer, MTE_TAGS_SIZE(@size) bytes.
 * @flags:	KVM_ARM_TAGS_TO_GUEST or KVM_ARM_TAGS_FROM_GUEST.
 *
 * Return: what the ioctl returns, the number of bytes of guest memory whose
 * tags were copied, or -1 with errno set.
 */
int __mte_copy_tags(struct kvm_vm *vm, gpa_t gpa, size_t size, void *tags, u64 flags)
{
	struct kvm_arm_copy_mte_tags args = {
		.guest_ipa	= gpa,
		.length		= size,
		.addr		= tags,
		.flags		= flags,
	};

	return __vm_ioctl(vm, KVM_ARM_MTE_COPY_TAGS, &args);
}

static void copy_tags(struct kvm_vm *vm, gpa_t gpa, size_t size, void *tags, u64 flags)
{
	int ret = __mte_copy_tags(vm, gpa, size, tags, flags);

	TEST_ASSERT(ret == size,
		    "KVM_ARM_MTE_COPY_TAGS, gpa: 0x%lx size: 0x%zx flags: 0x%lx, returned %d, errno %d (%s)",
		    gpa, size, flags, ret, errno, strerror(errno));
}

/**
 * mte_copy_tags_to_guest() - Write tags of the guest, which must succeed
 * @vm:		The VM.
 * @gpa:	Start of the range in the guest.
 * @size:	Size of the range in bytes.
 * @tags:	The tags, MTE_TAGS_SIZE(@size) of them.
 */
void mte_copy_tags_to_guest(struct kvm_vm *vm, gpa_t gpa, size_t size, const void *tags)
{
	copy_tags(vm, gpa, size, (void *)tags, KVM_ARM_TAGS_TO_GUEST);
}

/**
 * mte_copy_tags_from_guest() - Read tags of the guest, which must succeed
 * @vm:		The VM.
 * @gpa:	Start of the range in the guest.
 * @size:	Size of the range in bytes.
 * @tags:	Where to store MTE_TAGS_SIZE(@size) tags.
 */
void mte_copy_tags_from_guest(struct kvm_vm *vm, gpa_t gpa, size_t size, void *tags)
{
	copy_tags(vm, gpa, size, tags, KVM_ARM_TAGS_FROM_GUEST);
}

/*
 * The bitmap that backs the rings can be enabled only as long as there is no
 * memslot, and the library has created one already.
 */
static void enable_dirty_ring_bitmap(struct kvm_vm *vm)
{
	struct userspace_mem_region *region = memslot2region(vm, 0);

	vm_set_user_memory_region(vm, 0, 0, region->region.guest_phys_addr, 0, NULL);
	vm_enable_cap(vm, KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP, 0);
	vm_ioctl(vm, KVM_SET_USER_MEMORY_REGION2, &region->region);
}

/**
 * mte_vm_create_logging() - mte_vm_create() for a VM that will log dirty pages
 * @log:	What to fill in.
 * @mode:	How dirty pages are to be logged.
 * @nr_vcpus:	Number of vCPUs, DIRTY_LOG_MAX_VCPUS at most.
 * @mem_size:	Upper bound of what will be given to mte_vm_add_slot(), in bytes.
 * @vcpus:	Where to store the vCPUs, for as long as @log is used.
 *
 * It is left to the caller to give memslots KVM_MEM_LOG_DIRTY_PAGES, all of
 * which must be made known by dirty_log_add_slot().
 *
 * Return: the VM.
 */
struct kvm_vm *mte_vm_create_logging(struct dirty_log *log, enum dirty_log_mode mode,
				     u32 nr_vcpus, u64 mem_size, struct kvm_vcpu *vcpus[])
{
	struct kvm_vm *vm = __vm_create(VM_SHAPE_DEFAULT, nr_vcpus, mem_size / SZ_4K);
	u64 manual = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE;

	TEST_ASSERT(nr_vcpus <= DIRTY_LOG_MAX_VCPUS, "Too many vCPUs");
	vm_enable_cap(vm, KVM_CAP_ARM_MTE, 0);

	switch (mode) {
	case DIRTY_LOG_BITMAP:
		break;
	case DIRTY_LOG_ALL_SET:
		manual |= KVM_DIRTY_LOG_INITIALLY_SET;
		fallthrough;
	case DIRTY_LOG_MANUAL:
		vm_enable_cap(vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, manual);
		break;
	case DIRTY_LOG_RING_ALL_SET:
		manual |= KVM_DIRTY_LOG_INITIALLY_SET;
		vm_enable_cap(vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, manual);
		fallthrough;
	case DIRTY_LOG_RING:
	case DIRTY_LOG_RING_ONLY:
		/* A page is in there at most once: no test fills it. */
		vm_enable_dirty_ring(vm, SZ_64K * sizeof(struct kvm_dirty_gfn));
		if (mode == DIRTY_LOG_RING)
			enable_dirty_ring_bitmap(vm);
		break;
	}

	*log = (struct dirty_log) {
		.mode		= mode,
		.vm		= vm,
		.nr_vcpus	= nr_vcpus,
		.vcpus		= vcpus,
	};
	mte_vm_add_vcpus(vm, nr_vcpus, vcpus);

	return vm;
}

/**
 * dirty_log_add_slot() - Make known a memslot whose dirty pages are logged
 * @log:	The log.
 * @slot:	Number of the memslot.
 * @size:	Its size in bytes.
 *
 * Return: the bitmap that dirty_log_fetch() will fill in.
 */
unsigned long *dirty_log_add_slot(struct dirty_log *log, u32 slot, size_t size)
{
	u32 i = log->nr_slots++;

	TEST_ASSERT(i < DIRTY_LOG_MAX_SLOTS, "Too many memslots");
	log->slots[i].slot = slot;
	log->slots[i].nr_pages = size / getpagesize();
	log->slots[i].bmap = bitmap_zalloc(log->slots[i].nr_pages);

	return log->slots[i].bmap;
}

static void fetch_ring(struct dirty_log *log, u32 vcpu)
{
	struct kvm_dirty_gfn *ring = vcpu_map_dirty_ring(log->vcpus[vcpu]), *gfn;
	u32 i;

	for (;;) {
		gfn = &ring[log->fetched[vcpu] % log->vcpus[vcpu]->dirty_gfns_count];
		/* The rest of the entry is valid once the flag is set. */
		if (smp_load_acquire(&gfn->flags) != KVM_DIRTY_GFN_F_DIRTY)
			break;

		for (i = 0; i < log->nr_slots && log->slots[i].slot != gfn->slot; i++)
			;
		TEST_ASSERT(i < log->nr_slots && gfn->offset < log->slots[i].nr_pages,
			    "Page that isn't logged, slot: %u offset: 0x%llx",
			    gfn->slot, gfn->offset);
		__set_bit(gfn->offset, log->slots[i].bmap);

		/* KVM may reuse the entry once it sees this. */
		smp_store_release(&gfn->flags, KVM_DIRTY_GFN_F_RESET);
		log->fetched[vcpu]++;
	}
}

/**
 * dirty_log_fetch() - Get the pages that were dirtied, and start over
 * @log:	The log.
 *
 * A page that is written from now on is found by the next call, whether it was
 * found by this one or not. vCPUs can be running.
 */
void dirty_log_fetch(struct dirty_log *log)
{
	bool ring = log->mode >= DIRTY_LOG_RING;
	u32 i;

	for (i = 0; i < log->nr_slots; i++) {
		typeof(log->slots[0]) *slot = &log->slots[i];

		bitmap_zero(slot->bmap, slot->nr_pages);
		if (!ring)
			kvm_vm_get_dirty_log(log->vm, slot->slot, slot->bmap);
		if (log->mode == DIRTY_LOG_MANUAL || log->mode == DIRTY_LOG_ALL_SET)
			kvm_vm_clear_dirty_log(log->vm, slot->slot, slot->bmap,
					       0, slot->nr_pages);
	}

	if (!ring)
		return;

	for (i = 0; i < log->nr_vcpus; i++)
		fetch_ring(log, i);
	kvm_vm_reset_dirty_ring(log->vm);
}

/**
 * dirty_log_exit() - Free what dirty_log_add_slot() has allocated
 * @log:	The log.
 */
void dirty_log_exit(struct dirty_log *log)
{
	while (log->nr_slots)
		free(log->slots[--log->nr_slots].bmap);
}

/**
 * pagemap_entry() - Entry of /proc/self/pagemap for an address
 * @addr:	The address.
 *
 * Return: the entry. The page frame number in it reads as zero for those who
 * lack CAP_SYS_ADMIN, as does all of the entry on a kernel without that file.
 */
u64 pagemap_entry(const void *addr)
{
	off_t offset = (unsigned long)addr / getpagesize() * sizeof(u64);
	u64 entry = 0;
	ssize_t ret;
	int fd;

	fd = open("/proc/self/pagemap", O_RDONLY);
	if (fd < 0)
		return 0;

	ret = pread(fd, &entry, sizeof(entry), offset);
	TEST_ASSERT(ret == sizeof(entry), "Can't read /proc/self/pagemap, errno %d", errno);
	kvm_close(fd);

	return entry;
}

#define NO_PAGE_FRAMES	"page frames take /proc/self/pagemap and CAP_SYS_ADMIN to be told"

/* Page frame numbers of a populated range. Zero is "not known". */
static void pagemap_pfns(const void *addr, size_t nr, u64 *pfns)
{
	off_t offset = (unsigned long)addr / getpagesize() * sizeof(u64);
	size_t size = nr * sizeof(u64), done = 0;
	int fd;

	memset(pfns, 0, size);
	fd = open("/proc/self/pagemap", O_RDONLY);
	if (fd < 0)
		return;

	while (done < size) {
		ssize_t ret = pread(fd, (void *)pfns + done, size - done, offset + done);

		TEST_ASSERT(ret > 0, "Can't read /proc/self/pagemap, errno %d", errno);
		done += ret;
	}
	kvm_close(fd);

	while (nr--)
		pfns[nr] = pfns[nr] & PAGEMAP_PRESENT ? pfns[nr] & PAGEMAP_PFN_MASK : 0;
}

static int compare_pfns(const void *a, const void *b)
{
	u64 x = *(const u64 *)a, y = *(const u64 *)b;

	return x < y ? -1 : x > y;
}

/**
 * page_frames_get() - Note down the page frames of a range
 * @frames:	What to fill in.
 * @addr:	Start of the range, which must be populated.
 * @size:	Size of the range.
 *
 * Return: NULL, or why the page frames can't be told.
 */
const char *page_frames_get(struct page_frames *frames, const void *addr, size_t size)
{
	frames->nr = size / getpagesize();
	frames->pfns = calloc(frames->nr, sizeof(*frames->pfns));
	TEST_ASSERT(frames->pfns, "No memory");

	pagemap_pfns(addr, frames->nr, frames->pfns);
	qsort(frames->pfns, frames->nr, sizeof(*frames->pfns), compare_pfns);

	if (frames->pfns[0])
		return NULL;

	page_frames_put(frames);

	return NO_PAGE_FRAMES;
}

/**
 * page_frames_count() - Count the pages of a range that have certain frames
 * @frames:	The page frames.
 * @addr:	Start of the range, which must be populated.
 * @size:	Size of the range.
 *
 * Return: the number of pages of the range whose frames are among @frames.
 */
size_t page_frames_count(const struct page_frames *frames, const void *addr, size_t size)
{
	size_t nr = size / getpagesize(), count = 0, i;
	u64 *pfns = calloc(nr, sizeof(*pfns));

	TEST_ASSERT(pfns, "No memory");
	pagemap_pfns(addr, nr, pfns);

	for (i = 0; i < nr; i++)
		count += !!bsearch(&pfns[i], frames->pfns, frames->nr,
				   sizeof(*pfns), compare_pfns);
	free(pfns);

	return count;
}

/**
 * page_frames_put() - Forget about page frames
 * @frames:	What to free.
 */
void page_frames_put(struct page_frames *frames)
{
	free(frames->pfns);
}

/**
 * page_flags() - Entry of /proc/kpageflags for a page frame
 * @pfn:	Number of the page frame.
 * @flags:	Where to store the flags.
 *
 * Return: false if the kernel doesn't tell.
 */
bool page_flags(u64 pfn, u64 *flags)
{
	ssize_t ret;
	int fd;

	fd = open("/proc/kpageflags", O_RDONLY);
	if (fd < 0)
		return false;

	ret = pread(fd, flags, sizeof(*flags), pfn * sizeof(*flags));
	kvm_close(fd);

	return ret == sizeof(*flags);
}

/**
 * is_huge_mapped() - Is a range mapped by huge pages only
 * @addr:	Start of the range.
 * @size:	Size of the range.
 *
 * Return: true if each page of the range is part of a PMD mapped folio, or of
 * a hugetlb folio. false as well if the kernel can't tell.
 */
bool is_huge_mapped(const void *addr, size_t size)
{
	u64 start = (u64)addr, end = start + size, expected = start;
	struct page_region region;
	bool huge = true;
	int fd, ret;

	fd = open("/proc/self/pagemap", O_RDONLY);
	if (fd < 0)
		return false;

	while (huge && expected < end) {
		struct pm_scan_arg arg = {
			.size		= sizeof(arg),
			.start		= expected,
			.end		= end,
			.vec		= (u64)&region,
			.vec_len	= 1,
			.category_mask	= PAGE_IS_HUGE,
			.return_mask	= PAGE_IS_HUGE,
		};

		ret = ioctl(fd, PAGEMAP_SCAN, &arg);
		TEST_ASSERT(ret >= 0 || errno == ENOTTY,
			    "PAGEMAP_SCAN failed, errno %d", errno);

		huge = ret == 1 && region.start == expected;
		expected = region.end;
	}
	kvm_close(fd);

	return huge;
}

/**
 * is_large_folio() - Is a page part of a large folio
 * @addr:	Any address in the page, which must be populated.
 *
 * Unlike is_huge_mapped() this also tells for a folio that is mapped by pages.
 *
 * Return: 1 if it is, 0 if not, or -1 if the kernel doesn't tell.
 */
int is_large_folio(const void *addr)
{
	u64 pfn = pagemap_entry(addr) & PAGEMAP_PFN_MASK, flags;

	if (!pfn || !page_flags(pfn, &flags))
		return -1;

	return !!(flags & (BIT_ULL(KPF_COMPOUND_HEAD) | BIT_ULL(KPF_COMPOUND_TAIL)));
}

static bool is_resident(const void *addr, size_t size)
{
	size_t nr_pages = size / getpagesize(), i;
	unsigned char *vec = malloc(nr_pages);

	TEST_ASSERT(vec, "No memory");
	TEST_ASSERT(!mincore((void *)addr, size, vec), "mincore() failed, errno %d", errno);
	for (i = 0; i < nr_pages && !(vec[i] & 1); i++)
		;
	free(vec);

	return i < nr_pages;
}

/*
 * Give up the references that the kernel holds for each CPU on pages which were
 * allocated there a moment ago. They keep a page from being reclaimed or split.
 */
static void drain_lru(void)
{
	size_t page_size = getpagesize();
	cpu_set_t old, new;
	void *page;
	int cpu;

	page = kvm_mmap(page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	kvm_sched_getaffinity(0, sizeof(old), &old);

	for (cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &old))
			continue;

		/* Whatever the page, it is done for the CPU that makes the call. */
		CPU_ZERO(&new);
		CPU_SET(cpu, &new);
		kvm_sched_setaffinity(0, sizeof(new), &new);
		kvm_madvise(page, page_size, MADV_COLD);
	}

	kvm_sched_setaffinity(0, sizeof(old), &old);
	kvm_munmap(page, page_size);
}

static bool has_swap(void)
{
	char line[256];
	int nr = 0;
	FILE *file;

	/* A line of headings, and a line for each swap area. */
	file = fopen("/proc/swaps", "r");
	while (file && fgets(line, sizeof(line), file))
		nr++;
	if (file)
		fclose(file);

	return nr > 1;
}

#define CGROUP_ROOT	"/sys/fs/cgroup"

static char *memcg;

static bool cgroup_write(const char *dir, const char *name, const char *val)
{
	char *path = strdup_printf("%s/%s", dir, name);
	int fd = open(path, O_WRONLY);
	bool ok;

	free(path);
	ok = fd >= 0 && write(fd, val, strlen(val)) == strlen(val);
	if (fd >= 0)
		kvm_close(fd);

	return ok;
}

static pid_t memcg_owner;

static void memcg_remove(void)
{
	/* A child that calls exit() inherits the handler, but not the duty. */
	if (getpid() == memcg_owner)
		rmdir(memcg);
}

/**
 * memcg_enter() - Have memory accounted to a cgroup of its own
 *
 * Whatever is allocated up to memcg_leave() can be reclaimed by swap_out()
 * without reclaiming anything else. Anonymous memory can do without this.
 *
 * Return: NULL, or why it wasn't possible.
 */
const char *memcg_enter(void)
{
	if (!memcg) {
		memcg = strdup_printf("%s/mte.%d", CGROUP_ROOT, getpid());
		memcg_owner = getpid();
		cgroup_write(CGROUP_ROOT, "cgroup.subtree_control", "+memory");
		mkdir(memcg, 0755);
		atexit(memcg_remove);
	}

	if (!cgroup_write(memcg, "cgroup.procs", "0"))
		return "can't enter a cgroup";

	return NULL;
}

/**
 * memcg_leave() - End what memcg_enter() has begun
 */
void memcg_leave(void)
{
	TEST_ASSERT(cgroup_write(CGROUP_ROOT, "cgroup.procs", "0"),
		    "Can't leave a cgroup, errno %d", errno);
}

static void memcg_reclaim(size_t size)
{
	char *val;

	if (!memcg)
		return;

	/* An error says that it was less. */
	val = strdup_printf("%zu swappiness=max", size);
	cgroup_write(memcg, "memory.reclaim", val);
	free(val);
}

/**
 * swap_out() - Swap out memory
 * @addr:	Start of the range: anonymous memory, or a memfd whose pages were
 *		allocated after memcg_enter().
 * @size:	Size of the range.
 *
 * On success no page is left in memory, neither mapped nor in the swap cache:
 * an access has to read it back.
 *
 * Return: NULL, or why it wasn't possible.
 */
const char *swap_out(void *addr, size_t size)
{
	size_t offset;
	int tries;

	if (!has_swap())
		return "there is no swap";

	for (tries = 0; tries < 100; tries++) {
		drain_lru();
		kvm_madvise(addr, size, MADV_PAGEOUT);
		if (!is_resident(addr, size))
			return NULL;

		/*
		 * A page is left in the swap cache when it has to be written.
		 * Let that end, and have it reclaimed.
		 */
		usleep(10000);
		drain_lru();
		memcg_reclaim(size);
		if (!is_resident(addr, size))
			return NULL;

		/*
		 * Or map the page for it to be looked at again: if it's not of
		 * a memfd it doesn't have to be written then, and goes at once.
		 */
		for (offset = 0; offset < size; offset += getpagesize())
			READ_ONCE(*(u8 *)(addr + offset));
	}

	return "can't swap out, the swap may be too small";
}

/**
 * migrate_page() - Move a page to another page frame
 * @addr:	Any address in the page, which must be populated.
 *
 * A hugetlb folio is moved as a whole, a THP folio is split first. The old page
 * frame is lost to the system until it is booted again, so move as few pages as
 * the test can do with. It is the only way to move a page without needing a
 * second NUMA node or leaving it to the kernel whether to do it.
 *
 * Return: NULL, or why it wasn't possible.
 */
const char *migrate_page(void *addr)
{
	u64 old = pagemap_entry(addr) & PAGEMAP_PFN_MASK;
	int tries = 0;

	if (!old)
		return NO_PAGE_FRAMES;

	addr = (void *)align_down((u64)addr, getpagesize());
	/* A vCPU that is about to map the page may be in the way. */
	while (madvise(addr, getpagesize(), MADV_SOFT_OFFLINE)) {
		if (++tries == 100)
			return "can't move a page with MADV_SOFT_OFFLINE";
		drain_lru();
		usleep(1000);
	}

	TEST_ASSERT((pagemap_entry(addr) & PAGEMAP_PFN_MASK) != old,
		    "A page that was taken offline is still mapped");

	return NULL;
}

/**
 * split_huge_folios() - Split the THP folios of a range into pages
 * @addr:	Start of the range.
 * @size:	Size of the range.
 *
 * Return: NULL, or why it can't be done here. Whether a folio was split is for
 * the caller to find out, with is_huge_mapped() for example.
 */
const char *split_huge_folios(const void *addr, size_t size)
{
	char buf[64];
	ssize_t ret;
	int fd, len;

	fd = open("/sys/kernel/debug/split_huge_pages", O_WRONLY);
	if (fd < 0)
		return "can't write split_huge_pages in debugfs";

	drain_lru();
	len = snprintf(buf, sizeof(buf), "%d,0x%lx,0x%lx", getpid(),
		       (unsigned long)addr, (unsigned long)addr + size);
	ret = write(fd, buf, len);
	TEST_ASSERT(ret == len, "Can't split folios, errno %d", errno);
	kvm_close(fd);

	return NULL;
}

/**
 * split_unmapped_folios() - Reclaim the parts of THP folios that were unmapped
 *
 * The kernel defers splitting a folio that was partly unmapped until it is
 * short of memory, or told to drop its caches. This does it for all folios of
 * the system. Whether a folio was split is for the caller to find out.
 *
 * Return: NULL, or why it can't be done here.
 */
const char *split_unmapped_folios(void)
{
	int fd = open("/proc/sys/vm/drop_caches", O_WRONLY);
	bool ok;

	if (fd < 0)
		return "can't write drop_caches";

	drain_lru();
	ok = write(fd, "2", 1) == 1;
	close(fd);

	return ok ? NULL : "can't drop caches";
}

static int compare_sizes(const void *a, const void *b)
{
	size_t x = *(const size_t *)a, y = *(const size_t *)b;

	return x < y ? -1 : x > y;
}

/**
 * hugetlb_sizes() - Get the sizes of hugetlb folios that the kernel has
 * @sizes:	Where to store the sizes in bytes, in ascending order.
 *
 * Return: the number of sizes, 0 if the kernel has no hugetlb.
 */
int hugetlb_sizes(size_t sizes[HUGETLB_MAX_SIZES])
{
	struct dirent *entry;
	int nr = 0;
	DIR *dir;

	dir = opendir("/sys/kernel/mm/hugepages");
	if (!dir)
		return 0;

	while ((entry = readdir(dir))) {
		size_t kb;

		if (sscanf(entry->d_name, "hugepages-%zukB", &kb) != 1)
			continue;

		TEST_ASSERT(nr < HUGETLB_MAX_SIZES, "More hugetlb sizes than expected");
		sizes[nr++] = kb * SZ_1K;
	}
	closedir(dir);

	qsort(sizes, nr, sizeof(sizes[0]), compare_sizes);

	return nr;
}

/* Pools that were enlarged, by how many folios, and have to be given back. */
static struct {
	size_t	folio_size;
	size_t	nr;
} hugetlb_pools[HUGETLB_MAX_SIZES];

/*
 * A child must leave the pools alone: what it adds would be lost when it is
 * gone, for it ends without the parent knowing of that.
 */
static pid_t main_process;

static void __attribute__((constructor)) note_main_process(void)
{
	main_process = getpid();
}

/* With nothing but system calls and snprintf(), since signal handlers use it. */
static bool hugetlb_attr(size_t folio_size, const char *name, bool store, size_t *val)
{
	char buf[128];
	ssize_t len;
	int fd;

	snprintf(buf, sizeof(buf), "/sys/kernel/mm/hugepages/hugepages-%zukB/%s",
		 folio_size / SZ_1K, name);
	fd = open(buf, store ? O_WRONLY : O_RDONLY);
	if (fd < 0)
		return false;

	if (store) {
		len = snprintf(buf, sizeof(buf), "%zu\n", *val);
		len = write(fd, buf, len);
	} else {
		len = read(fd, buf, sizeof(buf) - 1);
		if (len > 0) {
			buf[len] = 0;
			*val = strtoul(buf, NULL, 10);
		}
	}
	close(fd);

	return len > 0;
}

/*
 * The number of folios that the pool has for good. Surplus folios are part of
 * nr_hugepages when it is read, but not when it is written.
 */
static bool hugetlb_persistent(size_t folio_size, size_t *nr)
{
	size_t total, surplus;

	if (!hugetlb_attr(folio_size, "nr_hugepages", false, &total) ||
	    !hugetlb_attr(folio_size, "surplus_hugepages", false, &surplus))
		return false;

	*nr = total > surplus ? total - surplus : 0;

	return true;
}

/**
 * hugetlb_release() - Undo all that hugetlb_reserve() has added to a pool
 * @folio_size:	Size of the folios.
 *
 * Folios that are in use go as soon as they aren't any more. Others may have
 * changed the size of the pool meanwhile, which isn't undone.
 */
void hugetlb_release(size_t folio_size)
{
	size_t nr;
	int i;

	if (getpid() != main_process)
		return;

	for (i = 0; i < HUGETLB_MAX_SIZES; i++) {
		if (hugetlb_pools[i].folio_size != folio_size || !hugetlb_pools[i].nr)
			continue;

		if (hugetlb_persistent(folio_size, &nr)) {
			nr -= min(nr, hugetlb_pools[i].nr);
			hugetlb_attr(folio_size, "nr_hugepages", true, &nr);
		}
		hugetlb_pools[i].nr = 0;
	}
}

static void hugetlb_release_all(void)
{
	int i;

	for (i = 0; i < HUGETLB_MAX_SIZES; i++)
		hugetlb_release(hugetlb_pools[i].folio_size);
}

/* Enlarge a pool, and note down by how much: it may be less than asked for. */
static bool hugetlb_enlarge(size_t folio_size, size_t old, size_t nr)
{
	size_t new = old + nr;
	sigset_t old_set;
	int pool = 0;
	bool ok;

	while (hugetlb_pools[pool].folio_size && hugetlb_pools[pool].folio_size != folio_size)
		TEST_ASSERT(++pool < HUGETLB_MAX_SIZES, "More hugetlb sizes than expected");

	/* A signal sees both or neither of the two. */
	at_end_block(&old_set);

	ok = hugetlb_attr(folio_size, "nr_hugepages", true, &new);
	if (ok && hugetlb_persistent(folio_size, &new) && new > old) {
		hugetlb_pools[pool].folio_size = folio_size;
		hugetlb_pools[pool].nr += new - old;
	}

	sigprocmask(SIG_SETMASK, &old_set, NULL);

	return ok;
}

static size_t hugetlb_available(size_t folio_size)
{
	size_t free, reserved, check;

	/* Two files, between which somebody can turn the one into the other. */
	do {
		if (!hugetlb_attr(folio_size, "resv_hugepages", false, &reserved) ||
		    !hugetlb_attr(folio_size, "free_hugepages", false, &free) ||
		    !hugetlb_attr(folio_size, "resv_hugepages", false, &check))
			return 0;
	} while (check != reserved);

	return free > reserved ? free - reserved : 0;
}

/**
 * hugetlb_reserve() - Have hugetlb folios in the pool
 * @folio_size:	Size of the folios.
 * @nr:		How many of them are needed.
 *
 * If there are fewer than that, enlarge the pool until hugetlb_release(), or
 * until the test exits or is ended by a signal other than SIGKILL.
 *
 * Return: NULL, or why there aren't that many.
 */
const char *hugetlb_reserve(size_t folio_size, size_t nr)
{
	size_t available = hugetlb_available(folio_size);
	size_t old;

	if (available >= nr)
		return NULL;

	if (!hugetlb_persistent(folio_size, &old))
		return "no hugetlb folios of this size";

	if (getpid() != main_process)
		return "not enough hugetlb folios, and not for a child to enlarge the pool";

	/* The pools belong to the system. */
	at_end(hugetlb_release_all);
	if (!hugetlb_enlarge(folio_size, old, nr - available))
		return "not enough hugetlb folios, and not allowed to enlarge the pool";

	if (hugetlb_available(folio_size) < nr)
		return "not enough memory for the hugetlb folios";

	return NULL;
}

/**
 * mte_mem_alloc() - Map memory of one kind
 * @mem:	What to fill in.
 * @type:	The kind of memory.
 * @folio_size:	Size of the folios, for hugetlb only.
 * @size:	Size of the memory, which is rounded up to whole folios.
 *
 * The memory isn't populated. The pool of a hugetlb size is enlarged as needed.
 *
 * Return: NULL, or why there is no such memory.
 */
const char *mte_mem_alloc(struct mte_mem *mem, enum mte_mem_type type,
			  size_t folio_size, size_t size)
{
	unsigned int flags = MAP_PRIVATE | MAP_ANONYMOUS, memfd_flags = 0;
	bool thp = false, hugetlb = false, shared = false;
	unsigned int order;
	const char *reason;

	switch (type) {
	case MTE_MEM_ANON:
		break;
	case MTE_MEM_ANON_THP:
		thp = true;
		break;
	case MTE_MEM_MEMFD:
		shared = true;
		break;
	case MTE_MEM_MEMFD_THP:
		thp = true;
		shared = true;
		break;
	case MTE_MEM_HUGETLB:
		hugetlb = true;
		break;
	case MTE_MEM_MEMFD_HUGETLB:
		hugetlb = true;
		shared = true;
		break;
	}

	if (thp && !thp_configured())
		return "the kernel has no THP";

	if (thp) {
		folio_size = get_trans_hugepagesz();
		/* There may be none, and having one is a matter of luck. */
		if (folio_size > sysconf(_SC_PHYS_PAGES) * getpagesize() / 16)
			return "a THP is too large for the memory of this machine";
	} else if (!hugetlb) {
		folio_size = getpagesize();
	}

	size = align_up(size, folio_size);

	if (hugetlb) {
		reason = hugetlb_reserve(folio_size, size / folio_size);
		if (reason)
			return reason;

		order = __builtin_ctzl(folio_size);
		flags |= MAP_HUGETLB | order << MAP_HUGE_SHIFT;
		memfd_flags |= MFD_HUGETLB | order << MFD_HUGE_SHIFT;
	}

	*mem = (struct mte_mem) {
		.type		= type,
		.size		= size,
		.folio_size	= folio_size,
		.fd		= -1,
		.map_size	= size,
	};

	if (shared) {
		flags = MAP_SHARED;
		mem->fd = memfd_create("mte_mem", memfd_flags);
		if (mem->fd < 0)
			return "memfd_create() isn't possible for this kind of memory";
		kvm_ftruncate(mem->fd, size);
	}

	/* Large folios want to be aligned: leave room for that. */
	if (folio_size > getpagesize())
		mem->map_size += folio_size;

	mem->map = kvm_mmap(mem->map_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS |
			    MAP_NORESERVE, -1);
	mem->hva = align_ptr_up(mem->map, folio_size);
	if (mmap(mem->hva, size, PROT_READ | PROT_WRITE, flags | MAP_FIXED,
		 mem->fd, 0) == MAP_FAILED) {
		TEST_ASSERT(hugetlb, "mmap() failed, errno %d", errno);
		mte_mem_free(mem);
		return "hugetlb folios can't be mapped, or were taken by somebody else";
	}

	if (!hugetlb && thp_configured())
		kvm_madvise(mem->hva, size, thp ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);

	return NULL;
}

/**
 * mte_mem_populate() - Allocate all pages of a piece of memory
 * @mem:	The memory.
 *
 * The tags aren't touched.
 *
 * Return: NULL, or why the pages aren't of the kind they should be.
 */
const char *mte_mem_populate(struct mte_mem *mem)
{
	bool thp = mem->type == MTE_MEM_ANON_THP || mem->type == MTE_MEM_MEMFD_THP;

	if (madvise(mem->hva, mem->size, MADV_POPULATE_WRITE))
		return "can't populate the memory";

	if (!thp || is_huge_mapped(mem->hva, mem->size))
		return NULL;

	if (madvise(mem->hva, mem->size, MADV_COLLAPSE) ||
	    !is_huge_mapped(mem->hva, mem->size))
		return "no THP could be had";

	return NULL;
}

/**
 * mte_mem_alias() - Map shared memory once more
 * @mem:	The memory, one of the MTE_MEM_MEMFD types.
 * @prot:	PROT_* flags.
 *
 * Return: the mapping, @mem->size bytes, which isn't populated.
 */
void *mte_mem_alias(const struct mte_mem *mem, int prot)
{
	return kvm_mmap(mem->size, prot, MAP_SHARED, mem->fd);
}

/**
 * mte_mem_free() - Unmap and free a piece of memory
 * @mem:	The memory.
 */
void mte_mem_free(struct mte_mem *mem)
{
	kvm_munmap(mem->map, mem->map_size);
	if (mem->fd >= 0)
		kvm_close(mem->fd);
}

/* The default way to leave tags behind. */
static void store_poison(const struct mte_mem *mem)
{
	size_t page_size = getpagesize(), i;

	TEST_ASSERT(!mprotect(mem->hva, mem->size, PROT_READ | PROT_WRITE | PROT_MTE),
		    "mprotect(PROT_MTE) failed, errno %d", errno);

	mte_store_tags(mem->hva, mem->size, MTE_POISON);
	for (i = 0; i < mem->size; i += page_size)
		TEST_ASSERT(mte_load_tag(mem->hva + i) == MTE_POISON,
			    "Tags don't read back as they were stored");
}

/* In the child: store tags, and note down the page frames that have them. */
static const char *poison_memory(u64 *pfns, enum mte_mem_type type, size_t folio_size,
				 size_t size, mte_poison_fn poison_fn)
{
	size_t nr_pages = size / getpagesize();
	const char *reason;
	struct mte_mem mem;

	reason = mte_mem_alloc(&mem, type, folio_size, size);
	if (!reason)
		reason = mte_mem_populate(&mem);
	if (reason)
		return reason;

	TEST_ASSERT(mem.size == size, "Size is not a multiple of 0x%zx", mem.folio_size);
	poison_fn(&mem);
	pagemap_pfns(mem.hva, nr_pages, pfns);

	return pfns[0] ? NULL : NO_PAGE_FRAMES;
}

/*
 * Have a process store MTE_POISON to all granules of some memory, check on each
 * page that it reads back, and exit.
 */
static const char *poison(struct page_frames *frames, enum mte_mem_type type,
			  size_t folio_size, size_t size, mte_poison_fn poison_fn)
{
	size_t nr = size / getpagesize(), shared_size = (nr + 1) * sizeof(u64);
	const char *reason, **child_reason;
	int status;
	pid_t pid;
	u64 *pfns;

	pfns = kvm_mmap(shared_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
	/* A string literal has the same address in the child. */
	child_reason = (const char **)&pfns[nr];

	fflush(stdout);
	pid = fork();
	TEST_ASSERT(pid >= 0, "fork() failed, errno %d", errno);
	if (!pid) {
		*child_reason = poison_memory(pfns, type, folio_size, size, poison_fn);
		_exit(0);
	}

	TEST_ASSERT(waitpid(pid, &status, 0) == pid && !status,
		    "The process that leaves tags behind failed, status 0x%x", status);

	reason = *child_reason;
	if (!reason) {
		frames->nr = nr;
		frames->pfns = calloc(nr, sizeof(*pfns));
		TEST_ASSERT(frames->pfns, "No memory");
		memcpy(frames->pfns, pfns, nr * sizeof(*pfns));
		qsort(frames->pfns, nr, sizeof(*pfns), compare_pfns);
	}
	kvm_munmap(pfns, shared_size);

	return reason;
}

#define STALE_TRIES	32
#define STALE_CHUNKS	32

/**
 * mte_mem_alloc_stale() - Allocate memory that has tags of a previous owner
 * @mem:	What to fill in.
 * @type:	The kind of memory.
 * @folio_size:	Size of the folios, for hugetlb only.
 * @size:	Size of the memory, a multiple of the size of the folios.
 *
 * Allocate and populate memory whose page frames all were part of another
 * process a moment ago, where all tags were MTE_POISON. Whoever looks at
 * the tags must not see that. Without knowing that these are the page frames,
 * not having seen it would prove nothing.
 *
 * Return: NULL, or why there is no such memory.
 */
const char *mte_mem_alloc_stale(struct mte_mem *mem, enum mte_mem_type type,
				size_t folio_size, size_t size)
{
	return mte_mem_alloc_stale_by(mem, type, folio_size, size, store_poison);
}

/**
 * mte_mem_alloc_stale_by() - Allocate memory that has tags of a certain owner
 * @mem:	What to fill in.
 * @type:	The kind of memory.
 * @folio_size:	Size of the folios, for hugetlb only.
 * @size:	Size of the memory, a multiple of the size of the folios.
 * @poison_fn:	Called by the process that had the page frames before, to store
 *		MTE_POISON to all granules. It must not move or free the memory,
 *		and has to check for each page that the tags read back.
 *
 * For tests to which it matters how the tags got there. The others want
 * mte_mem_alloc_stale().
 *
 * Return: NULL, or why there is no such memory.
 */
const char *mte_mem_alloc_stale_by(struct mte_mem *mem, enum mte_mem_type type,
				   size_t folio_size, size_t size,
				   mte_poison_fn poison_fn)
{
	bool hugetlb = type == MTE_MEM_HUGETLB || type == MTE_MEM_MEMFD_HUGETLB;
	bool base = type == MTE_MEM_ANON || type == MTE_MEM_MEMFD;
	struct mte_mem rejects[STALE_TRIES * STALE_CHUNKS];
	int tries = 0, nr_rejects = 0, chunks;
	size_t poison_size = size;
	struct page_frames frames;
	const char *reason;
	cpu_set_t old, new;

	/* Unless a folio stays in the pool, it won't be the one that comes back. */
	if (hugetlb) {
		reason = hugetlb_reserve(folio_size, size / folio_size);
		if (reason)
			return reason;
	}

	/* More than is needed, for not all of it comes back at once. */
	if (!hugetlb && size <= SZ_32M)
		poison_size = 4 * size;
	if (base)
		poison_size += SZ_4M;

	/* Memory that was freed on another CPU may be on a list of that CPU. */
	kvm_sched_getaffinity(0, sizeof(old), &old);
	CPU_ZERO(&new);
	CPU_SET(sched_getcpu(), &new);
	kvm_sched_setaffinity(0, sizeof(new), &new);

	do {
		reason = poison(&frames, type, folio_size, poison_size, poison_fn);
		if (reason)
			break;

		/* What comes back first is what the process has freed last. */
		for (chunks = base ? STALE_CHUNKS : 1; chunks; chunks--) {
			reason = mte_mem_alloc(mem, type, folio_size, size);
			if (reason)
				break;

			reason = mte_mem_populate(mem);
			if (!reason && page_frames_count(&frames, mem->hva, mem->size) !=
				       mem->size / getpagesize())
				reason = "not given the page frames that have stale tags";
			if (!reason)
				break;

			/* Keep what is not wanted from coming back next. */
			rejects[nr_rejects++] = *mem;
			if (hugetlb || size > SZ_32M)
				mte_mem_free(&rejects[--nr_rejects]);
		}
		page_frames_put(&frames);
	} while (reason && ++tries < STALE_TRIES);

	while (nr_rejects)
		mte_mem_free(&rejects[--nr_rejects]);
	kvm_sched_setaffinity(0, sizeof(old), &old);

	return reason;
}
