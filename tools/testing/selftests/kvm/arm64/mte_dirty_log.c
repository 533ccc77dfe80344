// SPDX-License-Identifier: GPL-2.0-only
/*
 * mte_dirty_log - Check that a page is dirty when nothing but its tags were
 * stored to.
 *
 * A page whose tags changed has to be sent once more by a VMM that migrates the
 * guest, even if its data didn't change. A store of tags needs write permission
 * at stage 2 like one of data does, so write protecting a page catches both. On
 * a kernel that took the fault of a tag store for a read, the tags on the
 * destination would be old ones, without anything that says so.
 *
 * Each instruction that stores tags is run on a page of a memslot that logs
 * dirty pages, for all ways of logging and several kinds of memory. The log must
 * have the page, or the two pages, that were stored to and nothing else, and
 * must have it again when the instruction is run again. Instructions that load
 * tags must not dirty anything. The tags and the data are checked as well, since
 * an instruction that did nothing would prove nothing.
 *
 * With blocks the page is a part of a block at stage 2 until the instruction
 * runs, and logging has to split the block for it. A kernel that needs a bitmap
 * to know that there is logging doesn't, if there are rings only. One that takes
 * KVM_DIRTY_LOG_INITIALLY_SET to mean that the VMM will have pages write protected
 * by clearing bits never does it.
 *
 * The other half is what is not logged: KVM_ARM_MTE_COPY_TAGS refuses to write
 * tags as long as any memslot logs dirty pages, and what the VMM stores to its
 * own mapping is for the VMM to know.
 */
#include <sys/mman.h>

#include <linux/bitmap.h>
#include <linux/sizes.h>

#include "kvm_util.h"
#include "mte.h"
#include "processor.h"
#include "test_util.h"

#define DATA_SLOT	1
#define TEST_TAG	0x5
#define TEST_DATA	0x0123456789abcdefUL
#define OLD_DATA	0xfedcba9876543210UL

/* Where the instructions are run, and how many pages are looked at after that. */
#define TEST_PAGE	5
#define NR_LOOK		2
#define NR_PAGES	16

/* The largest block of the page sizes there are, other than 64K. */
#define MAX_BLOCK	SZ_32M

static size_t page_size;

/* What is stored by an instruction to the granules that it covers. */
enum effect {
	NOTHING	= 0,
	TAGS	= 1,
	ZEROS	= 2,
	DATA	= 4,
};

struct op {
	const char *name;
	/* Returns the number of bytes from @addr on that it covers. */
	u64 (*guest)(u64 addr, u64 b, u64 c, u64 d);
	u32 effect;
	/* Start in the last granule of the page. */
	bool last;
	/* The page isn't mapped at stage 2 yet. */
	bool unmapped;
};

static u64 guest_stg(u64 addr, u64 b, u64 c, u64 d)
{
	mte_store_tag((void *)addr, TEST_TAG);

	return MTE_GRANULE_SIZE;
}

static u64 guest_st2g(u64 addr, u64 b, u64 c, u64 d)
{
	asm volatile(MTE_PREAMBLE "st2g %0, [%1]" :
		     : "r"((u64)TEST_TAG << MTE_TAG_SHIFT), "r"(addr) : "memory");

	return 2 * MTE_GRANULE_SIZE;
}

static u64 guest_stzg(u64 addr, u64 b, u64 c, u64 d)
{
	asm volatile(MTE_PREAMBLE "stzg %0, [%1]" :
		     : "r"((u64)TEST_TAG << MTE_TAG_SHIFT), "r"(addr) : "memory");

	return MTE_GRANULE_SIZE;
}

static u64 guest_stz2g(u64 addr, u64 b, u64 c, u64 d)
{
	asm volatile(MTE_PREAMBLE "stz2g %0, [%1]" :
		     : "r"((u64)TEST_TAG << MTE_TAG_SHIFT), "r"(addr) : "memory");

	return 2 * MTE_GRANULE_SIZE;
}

/* These take the tag from the address. */

static u64 guest_stgp(u64 addr, u64 b, u64 c, u64 d)
{
	asm volatile(MTE_PREAMBLE "stgp %0, %0, [%1]" :
		     : "r"(TEST_DATA), "r"(mte_tagged_ptr((void *)addr, TEST_TAG)) : "memory");

	return MTE_GRANULE_SIZE;
}

/* DCZID_EL0.BS: log2 of the number of words. */
static u64 dc_block_size(void)
{
	return sizeof(u32) << (read_sysreg(dczid_el0) & 0xf);
}

static u64 guest_dc_gva(u64 addr, u64 b, u64 c, u64 d)
{
	asm volatile(MTE_PREAMBLE "dc gva, %0" :
		     : "r"(mte_tagged_ptr((void *)addr, TEST_TAG)) : "memory");

	return dc_block_size();
}

static u64 guest_dc_gzva(u64 addr, u64 b, u64 c, u64 d)
{
	asm volatile(MTE_PREAMBLE "dc gzva, %0" :
		     : "r"(mte_tagged_ptr((void *)addr, TEST_TAG)) : "memory");

	return dc_block_size();
}

static u64 guest_str(u64 addr, u64 b, u64 c, u64 d)
{
	WRITE_ONCE(((u64 *)addr)[0], TEST_DATA);
	WRITE_ONCE(((u64 *)addr)[1], TEST_DATA);

	return MTE_GRANULE_SIZE;
}

static u64 guest_ldg(u64 addr, u64 b, u64 c, u64 d)
{
	mte_load_tag((void *)addr);

	return 0;
}

static u64 guest_ldr(u64 addr, u64 b, u64 c, u64 d)
{
	READ_ONCE(*(u64 *)addr);

	return 0;
}

static const struct op ops[] = {
	{ "STG", guest_stg, TAGS },
	{ "STG, not mapped", guest_stg, TAGS, .unmapped = true },
	{ "ST2G", guest_st2g, TAGS },
	{ "ST2G across pages", guest_st2g, TAGS, .last = true },
	{ "STZG", guest_stzg, TAGS | ZEROS },
	{ "STZ2G", guest_stz2g, TAGS | ZEROS },
	{ "STGP", guest_stgp, TAGS | DATA },
	{ "DC GVA", guest_dc_gva, TAGS },
	{ "DC GZVA", guest_dc_gzva, TAGS | ZEROS },
	{ "STR", guest_str, DATA },
	{ "LDG", guest_ldg, NOTHING },
	{ "LDG, not mapped", guest_ldg, NOTHING, .unmapped = true },
	{ "LDR", guest_ldr, NOTHING },
};

static const struct {
	enum dirty_log_mode mode;
	const char *name;
} modes[] = {
	{ DIRTY_LOG_BITMAP, "bitmap" },
	{ DIRTY_LOG_MANUAL, "manual clear" },
	{ DIRTY_LOG_ALL_SET, "initially all set" },
	{ DIRTY_LOG_RING, "ring and bitmap" },
	{ DIRTY_LOG_RING_ONLY, "ring" },
	{ DIRTY_LOG_RING_ALL_SET, "ring, initially all set" },
};

static const struct {
	enum mte_mem_type type;
	const char *name;
	bool block;
} kinds[] = {
	{ MTE_MEM_ANON, "pages" },
	{ MTE_MEM_MEMFD, "memfd" },
	{ MTE_MEM_ANON_THP, "THP", true },
	{ MTE_MEM_HUGETLB, "hugetlb", true },
};

struct env {
	const char *name;
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	struct dirty_log log;
	unsigned long *bmap;
	struct mte_mem mem;
	bool block;
};

static void set_logging(struct env *env, bool on)
{
	vm_set_user_memory_region(env->vm, DATA_SLOT, on ? KVM_MEM_LOG_DIRTY_PAGES : 0,
				  MTE_TEST_GPA, env->mem.size, env->mem.hva);
}

static void set_prot(struct env *env, int prot)
{
	TEST_ASSERT(!mprotect(env->mem.hva, env->mem.size, prot),
		    "mprotect() failed, errno %d", errno);
}

static u64 nr_pages(struct env *env)
{
	return env->mem.size / page_size;
}

static u64 nr_dirty(struct env *env)
{
	u64 nr = 0, i;

	for (i = 0; i < nr_pages(env); i++)
		nr += test_bit(i, env->bmap);

	return nr;
}

static u64 guest_touch(u64 addr, u64 nr, u64 stride, u64 d)
{
	for (; nr; nr--, addr += stride)
		WRITE_ONCE(*(u64 *)addr, READ_ONCE(*(u64 *)addr));

	return 0;
}

/* Known data and tags, all pages mapped at stage 2 or none, and a log of nothing. */
static const char *start_logging(struct env *env, bool unmapped)
{
	u64 *data = env->mem.hva + TEST_PAGE * page_size;
	u8 *tags = calloc(MTE_TAGS_SIZE(NR_LOOK * page_size), 1);
	const char *failure = NULL;
	u64 i;

	set_logging(env, false);

	/* This unmaps it at stage 2, and is faster than deleting the memslot. */
	set_prot(env, PROT_NONE);
	set_prot(env, PROT_READ | PROT_WRITE);

	for (i = 0; i < NR_LOOK * page_size / sizeof(*data); i++)
		data[i] = OLD_DATA;
	mte_copy_tags_to_guest(env->vm, MTE_TEST_GPA + TEST_PAGE * page_size,
			       NR_LOOK * page_size, tags);
	free(tags);

	if (!unmapped)
		mte_vcpu_call(env->vcpu, guest_touch, MTE_TEST_GPA, nr_pages(env), page_size, 0);
	set_logging(env, true);

	dirty_log_fetch(&env->log);
	if (nr_dirty(env) != (env->log.mode == DIRTY_LOG_ALL_SET ? nr_pages(env) : 0))
		failure = "wrong number of pages dirty at first";

	/* What makes it a block: none of this must have split the folio. */
	TEST_ASSERT(!env->block || is_huge_mapped(env->mem.hva, env->mem.size),
		    "The folio was split");

	return failure;
}

/* Exactly the pages of a range, or none if its size is zero. */
static const char *check_log(struct env *env, u64 start, u64 size)
{
	u64 first = start / page_size, last = size ? (start + size - 1) / page_size : 0, i;
	const char *failure = NULL;
	bool expected, dirty;

	dirty_log_fetch(&env->log);
	for (i = 0; i < nr_pages(env); i++) {
		expected = size && i >= first && i <= last;
		dirty = test_bit(i, env->bmap);
		/* A page that is lost is worse than one too many. */
		if (expected && !dirty)
			return "a page that was stored to isn't dirty";
		if (!expected && dirty)
			failure = "a page that wasn't stored to is dirty";
	}

	return failure;
}

/* The granules from @start on have what the instruction stores, others are old. */
static const char *check_memory(struct env *env, const struct op *op, u64 start, u64 size)
{
	u64 look = TEST_PAGE * page_size, nr = MTE_TAGS_SIZE(NR_LOOK * page_size), i;
	const char *failure = NULL;
	u8 *tags = malloc(nr);

	/* Reading tags is possible while dirty pages are logged. */
	mte_copy_tags_from_guest(env->vm, MTE_TEST_GPA + look, NR_LOOK * page_size, tags);

	for (i = 0; i < nr && !failure; i++) {
		u64 offset = look + i * MTE_GRANULE_SIZE, *data = env->mem.hva + offset;
		bool covered = offset >= start && offset < start + size;
		u64 expected = OLD_DATA;

		if (covered && op->effect & ZEROS)
			expected = 0;
		else if (covered && op->effect & DATA)
			expected = TEST_DATA;

		if (tags[i] != (covered && op->effect & TAGS ? TEST_TAG : 0))
			failure = "wrong tags";
		else if (data[0] != expected || data[1] != expected)
			failure = "wrong data";
	}
	free(tags);

	return failure;
}

static const char *run_op(struct env *env, const struct op *op)
{
	/* Aligned for DC, whose block is 2K at most, if it is not the last granule. */
	u64 offset = op->last ? page_size - MTE_GRANULE_SIZE : page_size / 2, size;
	u64 start = TEST_PAGE * page_size + offset;
	const char *failure;
	int i;

	failure = start_logging(env, op->unmapped);

	/* The second time the page was write protected by what fetches the log. */
	for (i = 0; i < 2 && !failure; i++) {
		size = mte_vcpu_call(env->vcpu, op->guest, MTE_TEST_GPA + start, 0, 0, 0);
		failure = check_log(env, start, size) ?: check_memory(env, op, start, size);
	}

	return failure;
}

static const char *run_copy_tags(struct env *env)
{
	size_t size = NR_PAGES * page_size, nr = MTE_TAGS_SIZE(size);
	const char *failure = start_logging(env, false);
	u8 *tags = malloc(nr), *now = malloc(nr);

	mte_vcpu_call(env->vcpu, mte_store_pattern, MTE_TEST_GPA, NR_PAGES, page_size, page_size);
	dirty_log_fetch(&env->log);
	mte_copy_tags_from_guest(env->vm, MTE_TEST_GPA, size, tags);

	memset(now, TEST_TAG, nr);
	if (!failure && (__mte_copy_tags(env->vm, MTE_TEST_GPA, size, now,
					 KVM_ARM_TAGS_TO_GUEST) != -1 || errno != EBUSY))
		failure = "tags can be written";

	/* The refusal must have no effect, nor must reading be taken for a write. */
	mte_copy_tags_from_guest(env->vm, MTE_TEST_GPA, size, now);
	if (!failure && memcmp(now, tags, nr))
		failure = "tags have changed";
	if (!failure && mte_vcpu_call(env->vcpu, mte_count_lost, MTE_TEST_GPA,
				      NR_PAGES, page_size, page_size))
		failure = "the guest sees other tags";
	failure = failure ?: check_log(env, 0, 0);

	/* The refusal ends with the last memslot that logs. */
	set_logging(env, false);
	memset(tags, TEST_TAG, nr);
	mte_copy_tags_to_guest(env->vm, MTE_TEST_GPA, size, tags);
	mte_copy_tags_from_guest(env->vm, MTE_TEST_GPA, size, now);
	if (!failure && memcmp(now, tags, nr))
		failure = "tags aren't written after logging";

	free(tags);
	free(now);

	return failure;
}

static const char *run_vmm(struct env *env)
{
	u64 start = TEST_PAGE * page_size + page_size / 2;
	const char *failure = start_logging(env, false);
	static const struct op vmm = { .effect = TAGS };

	set_prot(env, PROT_READ | PROT_WRITE | PROT_MTE);
	mte_store_tag(env->mem.hva + start, TEST_TAG);

	return failure ?: check_log(env, 0, 0) ?: check_memory(env, &vmm, start, MTE_GRANULE_SIZE);
}

/* Cases that aren't about an instruction of the guest. */
static const struct {
	const char *name;
	const char *(*run)(struct env *env);
} others[] = {
	{ "KVM_ARM_MTE_COPY_TAGS", run_copy_tags },
	{ "STG of the VMM", run_vmm },
};

static void verdict(struct env *env, const char *name, const char *failure)
{
	ksft_test_result(!failure, "%s: %s%s%s\n", env->name, name,
			 failure ? ": " : "", failure ?: "");
}

static const char *env_init(struct env *env, int mode, int kind)
{
	size_t block_size = page_size / sizeof(u64) * page_size;
	const char *reason;

	env->block = kinds[kind].block;
	if (env->block && block_size > MAX_BLOCK)
		return "a block is too large";

	reason = mte_mem_alloc(&env->mem, kinds[kind].type, block_size, NR_PAGES * page_size);
	if (reason)
		return reason;

	reason = mte_mem_populate(&env->mem);
	if (reason) {
		mte_mem_free(&env->mem);
		return reason;
	}

	env->vm = mte_vm_create_logging(&env->log, modes[mode].mode, 1, env->mem.size,
					&env->vcpu);
	env->bmap = dirty_log_add_slot(&env->log, DATA_SLOT, env->mem.size);
	mte_vm_add_slot(env->vm, DATA_SLOT, 0, MTE_TEST_GPA, env->mem.hva, env->mem.size);

	return NULL;
}

static void run(int mode, int kind)
{
	struct env env = {};
	const char *reason;
	int i;

	env.name = strdup_printf("%s, %s", modes[mode].name, kinds[kind].name);
	reason = env_init(&env, mode, kind);
	if (reason) {
		for (i = 0; i < ARRAY_SIZE(ops) + ARRAY_SIZE(others); i++)
			ksft_test_result_skip("%s: %s: %s\n", env.name,
					      i < ARRAY_SIZE(ops) ? ops[i].name :
					      others[i - ARRAY_SIZE(ops)].name, reason);
		return;
	}

	for (i = 0; i < ARRAY_SIZE(ops); i++)
		verdict(&env, ops[i].name, run_op(&env, &ops[i]));
	for (i = 0; i < ARRAY_SIZE(others); i++)
		verdict(&env, others[i].name, others[i].run(&env));

	dirty_log_exit(&env.log);
	kvm_vm_free(env.vm);
	mte_mem_free(&env.mem);
	free((void *)env.name);
}

int main(void)
{
	int i, j;

	ksft_print_header();
	mte_require();

	page_size = getpagesize();
	ksft_set_plan(ARRAY_SIZE(modes) * ARRAY_SIZE(kinds) *
		      (ARRAY_SIZE(ops) + ARRAY_SIZE(others)));

	for (i = 0; i < ARRAY_SIZE(modes); i++) {
		for (j = 0; j < ARRAY_SIZE(kinds); j++)
			run(i, j);
	}

	ksft_finished();
}
