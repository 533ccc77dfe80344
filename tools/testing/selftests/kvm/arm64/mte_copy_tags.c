// SPDX-License-Identifier: GPL-2.0-only
/*
 * mte_copy_tags - Check what KVM_ARM_MTE_COPY_TAGS returns, what it copies, and
 * what it leaves alone.
 *
 * Every call is made in both directions on a memslot whose tags are known, and
 * all tags of the memslot are read back afterwards. So a call that must fail
 * has no way to change a tag, nor has one that succeeds on pages other than it
 * says. The one exception is documented: writing a page for which some, but
 * not all tags can be read from the buffer clears the tags of that page.
 *
 * Three groups of cases:
 *
 *  - arguments: a table of good and bad ones,
 *  - circumstances: kinds of VM, memslot and mapping that allow for less than
 *    everything. Memory that can't have tags must be refused: a broken kernel
 *    marks a page of a file as tagged, though its tags go away when the page is
 *    evicted, or changes the tags of a page that belongs to the kernel,
 *  - kinds of memory: what the ioctl writes is what the guest sees, and what
 *    the guest stores is what the ioctl reads, in chunks of several sizes.
 */
#include <limits.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <time.h>

#include <linux/sizes.h>

#include "kvm_util.h"
#include "mte.h"
#include "processor.h"
#include "test_util.h"

#define DATA_SLOT	1
#define OTHER_SLOT	2
#define SLOT_PAGES	16

/* No more memory than this for a case, other than for one folio. */
#define KIND_SIZE	((size_t)SZ_2M)

static size_t page_size;
static size_t page_tags;

/* A VM with one memslot, whose tags are known. */
struct env {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	struct mte_mem mem;
	u8 *tags;
};

static void fill_random(u8 *buf, size_t size)
{
	size_t i;

	for (i = 0; i < size; i++)
		buf[i] = kvm_random_u32(&kvm_rng);
}

/* Only the low nibble of a byte is a tag. */
static void to_tags(u8 *tags, const u8 *buf, size_t nr)
{
	size_t i;

	for (i = 0; i < nr; i++)
		tags[i] = buf[i] & MTE_TAG_MASK;
}

static const char *env_init(struct env *env, enum mte_mem_type type,
			    size_t folio_size, size_t size)
{
	const char *reason;

	reason = mte_mem_alloc(&env->mem, type, folio_size, size);
	if (reason)
		return reason;

	reason = mte_mem_populate(&env->mem);
	if (reason) {
		mte_mem_free(&env->mem);
		return reason;
	}

	env->vm = mte_vm_create(1, env->mem.size, &env->vcpu);
	mte_vm_add_slot(env->vm, DATA_SLOT, 0, MTE_TEST_GPA, env->mem.hva, env->mem.size);

	env->tags = malloc(MTE_TAGS_SIZE(env->mem.size));
	fill_random(env->tags, MTE_TAGS_SIZE(env->mem.size));
	to_tags(env->tags, env->tags, MTE_TAGS_SIZE(env->mem.size));
	mte_copy_tags_to_guest(env->vm, MTE_TEST_GPA, env->mem.size, env->tags);

	return NULL;
}

static void env_exit(struct env *env)
{
	kvm_vm_free(env->vm);
	mte_mem_free(&env->mem);
	free(env->tags);
}

static bool tags_are_known(struct env *env)
{
	u8 *tags = malloc(MTE_TAGS_SIZE(env->mem.size));
	bool known;

	mte_copy_tags_from_guest(env->vm, MTE_TEST_GPA, env->mem.size, tags);
	known = !memcmp(tags, env->tags, MTE_TAGS_SIZE(env->mem.size));
	free(tags);

	return known;
}

/* What the ioctl returned, in terms of an expectation. */
static const char *check_ret(int ret, u64 expected, int expected_errno)
{
	if (expected_errno && (ret != -1 || errno != expected_errno))
		return "wrong error, or none";

	if (!expected_errno && ret != expected)
		return ret < 0 ? "error" : "wrong number of bytes";

	return NULL;
}

static void verdict(const char *failure, u64 direction, const char *name)
{
	ksft_test_result(!failure, "%s, %s%s%s\n",
			 direction == KVM_ARM_TAGS_TO_GUEST ? "write" : "read", name,
			 failure ? ": " : "", failure ?: "");
}

/* Arguments. */

struct args {
	const char *name;
	/* The guest address, relative to the start of the memslot. */
	s64 pages;
	s64 bytes;
	s64 length_pages;
	s64 length_bytes;
	u64 flags;
	u64 reserved[2];
	u64 ret_pages;
	int ret_errno;
};

static const struct args args_table[] = {
	{ "one page", 0, 0, 1, 0, 0, {}, 1 },
	{ "page in the middle", 7, 0, 1, 0, 0, {}, 1 },
	{ "all pages", 0, 0, SLOT_PAGES, 0, 0, {}, SLOT_PAGES },
	{ "length of zero", 0, 0, 0, 0, 0, {}, 0 },
	{ "length of zero, no memslot", SLOT_PAGES, 0, 0, 0, 0, {}, 0 },
	{ "length goes beyond the memslot", SLOT_PAGES - 1, 0, 2, 0, 0, {}, 1 },
	{ "length of 2^31 less a page", 0, 0, -1, SZ_2G, 0, {}, SLOT_PAGES },
	{ "length of 2^31", 0, 0, 0, SZ_2G, 0, {}, 0, EINVAL },
	{ "length of 2^63", 0, 0, 0, LLONG_MIN, 0, {}, 0, EINVAL },
	{ "length of 2^64 less a page", 0, 0, -1, 0, 0, {}, 0, EINVAL },
	{ "length not aligned", 0, 0, 1, MTE_GRANULE_SIZE, 0, {}, 0, EINVAL },
	{ "length of a granule", 0, 0, 0, MTE_GRANULE_SIZE, 0, {}, 0, EINVAL },
	{ "address not aligned", 0, MTE_GRANULE_SIZE, 1, 0, 0, {}, 0, EINVAL },
	{ "no memslot", SLOT_PAGES, 0, 1, 0, 0, {}, 0, EFAULT },
	{ "memslot starts after the address", -1, 0, 2, 0, 0, {}, 0, EFAULT },
	{ "last address there is", -1, -(s64)MTE_TEST_GPA, 1, 0, 0, {}, 0, EFAULT },
	{ "wraps around", -1, -(s64)MTE_TEST_GPA, 2, 0, 0, {}, 0, EFAULT },
	{ "unknown flag", 0, 0, 1, 0, 2, {}, 0, EINVAL },
	{ "unknown high flag", 0, 0, 1, 0, BIT_ULL(63), {}, 0, EINVAL },
	{ "reserved[0] set", 0, 0, 1, 0, 0, { 1, 0 }, 0, EINVAL },
	{ "reserved[1] set", 0, 0, 1, 0, 0, { 0, 1 }, 0, EINVAL },
};

static void run_args(const struct args *args, struct env *env, u64 direction)
{
	bool write = direction == KVM_ARM_TAGS_TO_GUEST;
	size_t nr = args->ret_pages * page_tags, i;
	struct kvm_arm_copy_mte_tags copy = {
		.guest_ipa	= MTE_TEST_GPA + args->pages * page_size + args->bytes,
		.length		= args->length_pages * page_size + args->length_bytes,
		.flags		= direction | args->flags,
		.reserved	= { args->reserved[0], args->reserved[1] },
	};
	u8 *known = env->tags + args->pages * page_tags;
	size_t buf_size = SLOT_PAGES * page_tags + 1;
	u8 *buf = malloc(buf_size);
	const char *failure;
	int ret;

	/* All of the bits of a byte, as those that aren't a tag are ignored. */
	if (write)
		fill_random(buf, buf_size);
	else
		memset(buf, 0xff, buf_size);
	copy.addr = buf;

	ret = __vm_ioctl(env->vm, KVM_ARM_MTE_COPY_TAGS, &copy);
	failure = check_ret(ret, args->ret_pages * page_size, args->ret_errno);

	if (write) {
		if (nr)
			to_tags(known, buf, nr);
	} else if (!failure) {
		if (nr && memcmp(buf, known, nr))
			failure = "wrong tags";

		for (i = nr; i < buf_size && buf[i] == 0xff; i++)
			;
		if (i < buf_size)
			failure = "wrote more to the buffer than it says";
	}

	if (!failure && !tags_are_known(env))
		failure = "the memslot has other tags than it should";

	verdict(failure, direction, args->name);
	free(buf);

	/* Whatever went wrong is not to be held against the next case. */
	mte_copy_tags_to_guest(env->vm, MTE_TEST_GPA, env->mem.size, env->tags);
}

/* Buffers that end before the tags do. */

struct buffer {
	const char *name;
	u64 pages;
	u64 bytes;
};

static const struct buffer buffer_table[] = {
	{ "no buffer", 0, 0 },
	{ "buffer ends in the first page", 0, 24 },
	{ "buffer ends after the first page", 1, 0 },
	{ "buffer ends in the third page", 2, 24 },
	{ "buffer ends in the last page", SLOT_PAGES - 1, 24 },
};

static void run_buffer(const struct buffer *buffer, struct env *env, u64 direction)
{
	size_t size = buffer->pages * page_tags + buffer->bytes;
	size_t mapped = align_up(SLOT_PAGES * page_tags, page_size);
	bool write = direction == KVM_ARM_TAGS_TO_GUEST;
	u8 *map, *buf, *known = env->tags;
	const char *failure;
	int ret;

	/* Nothing can be accessed from the end of the buffer on. */
	map = kvm_mmap(mapped + page_size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1);
	buf = map + mapped - size;
	fill_random(buf, size);
	TEST_ASSERT(!mprotect(map + mapped, page_size, PROT_NONE),
		    "mprotect() failed, errno %d", errno);

	ret = __mte_copy_tags(env->vm, MTE_TEST_GPA, env->mem.size, buf, direction);
	failure = check_ret(ret, buffer->pages * page_size, buffer->pages ? 0 : EFAULT);

	if (write) {
		/* A page that was begun is cleared, others are left alone. */
		to_tags(known, buf, buffer->pages * page_tags);
		if (buffer->bytes)
			memset(known + buffer->pages * page_tags, 0, page_tags);
	} else if (!failure && memcmp(buf, known, buffer->pages * page_tags)) {
		failure = "wrong tags";
	}

	if (!failure && !tags_are_known(env))
		failure = "the memslot has other tags than it should";

	verdict(failure, direction, buffer->name);
	kvm_munmap(map, mapped + page_size);
	mte_copy_tags_to_guest(env->vm, MTE_TEST_GPA, env->mem.size, env->tags);
}

/* Circumstances. */

/* Make a call for all of the memslot, and see that it does what it should. */
static const char *call(struct env *env, u64 direction, u64 ret_pages, int ret_errno)
{
	bool write = direction == KVM_ARM_TAGS_TO_GUEST;
	size_t size = MTE_TAGS_SIZE(env->mem.size);
	const char *failure;
	u8 *buf = malloc(size);
	int ret;

	fill_random(buf, size);
	ret = __mte_copy_tags(env->vm, MTE_TEST_GPA, env->mem.size, buf, direction);
	failure = check_ret(ret, ret_pages * page_size, ret_errno);

	if (write)
		to_tags(env->tags, buf, ret_pages * page_tags);
	else if (!failure && memcmp(buf, env->tags, ret_pages * page_tags))
		failure = "wrong tags";
	free(buf);

	return failure;
}

static const char *check_known(struct env *env, const char *failure)
{
	if (!failure && !tags_are_known(env))
		failure = "the memslot has other tags than it should";

	return failure;
}

static const char *run_no_mte(struct env *env, u64 direction)
{
	struct kvm_vm *vm = vm_create_barebones();
	u8 *buf = malloc(page_tags);
	const char *failure;
	int ret;

	vm_set_user_memory_region(vm, DATA_SLOT, 0, MTE_TEST_GPA, env->mem.size, env->mem.hva);
	ret = __mte_copy_tags(vm, MTE_TEST_GPA, page_size, buf, direction);
	failure = check_ret(ret, 0, EINVAL);

	kvm_vm_free(vm);
	free(buf);

	return check_known(env, failure);
}

static const char *run_readonly_slot(struct env *env, u64 direction)
{
	bool write = direction == KVM_ARM_TAGS_TO_GUEST;
	const char *failure;

	vm_set_user_memory_region(env->vm, DATA_SLOT, 0, MTE_TEST_GPA, 0, NULL);
	vm_set_user_memory_region(env->vm, DATA_SLOT, KVM_MEM_READONLY, MTE_TEST_GPA,
				  env->mem.size, env->mem.hva);

	failure = call(env, direction, write ? 0 : SLOT_PAGES, write ? EFAULT : 0);

	return check_known(env, failure);
}

static const char *run_readonly_vma(struct env *env, u64 direction)
{
	bool write = direction == KVM_ARM_TAGS_TO_GUEST;
	const char *failure;

	TEST_ASSERT(!mprotect(env->mem.hva, env->mem.size, PROT_READ),
		    "mprotect() failed, errno %d", errno);

	failure = call(env, direction, write ? 0 : SLOT_PAGES, write ? EFAULT : 0);

	return check_known(env, failure);
}

static const char *run_hole(struct env *env, u64 direction)
{
	const char *failure;

	/* The hole is where the slot ends from then on, if not the slot itself. */
	TEST_ASSERT(mmap(env->mem.hva + 5 * page_size, page_size, PROT_NONE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED,
		    "mmap() failed, errno %d", errno);
	failure = call(env, direction, 5, 0);
	if (failure)
		return failure;

	kvm_munmap(env->mem.hva, page_size);

	return call(env, direction, 0, EFAULT);
}

static const char *run_logging(struct env *env, u64 direction)
{
	bool write = direction == KVM_ARM_TAGS_TO_GUEST;
	const char *failure;
	void *other;

	/* Any memslot will do. */
	other = kvm_mmap(page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	vm_set_user_memory_region(env->vm, OTHER_SLOT, KVM_MEM_LOG_DIRTY_PAGES,
				  MTE_TEST_GPA + env->mem.size, page_size, other);

	failure = call(env, direction, write ? 0 : SLOT_PAGES, write ? EBUSY : 0);
	failure = check_known(env, failure);
	if (failure)
		return failure;

	vm_set_user_memory_region(env->vm, OTHER_SLOT, 0,
				  MTE_TEST_GPA + env->mem.size, page_size, other);

	failure = call(env, direction, SLOT_PAGES, 0);

	return check_known(env, failure);
}

static const char *run_swapped(struct env *env, u64 direction)
{
	const char *failure = call(env, direction, SLOT_PAGES, 0);

	return check_known(env, failure);
}

static const char *run_no_page_yet(struct env *env, u64 direction)
{
	const char *failure;

	kvm_madvise(env->mem.hva, env->mem.size, MADV_DONTNEED);
	memset(env->tags, 0, MTE_TAGS_SIZE(env->mem.size));

	failure = call(env, direction, SLOT_PAGES, 0);

	return check_known(env, failure);
}

/* What the VMM has stored to another mapping of the memory is what there is. */
static const char *run_alias(struct env *env, u64 direction)
{
	u8 *alias = mte_mem_alias(&env->mem, PROT_READ | PROT_WRITE | PROT_MTE);
	const char *failure = NULL;
	size_t i;

	if (direction == KVM_ARM_TAGS_TO_GUEST) {
		failure = call(env, direction, SLOT_PAGES, 0);
		for (i = 0; i < MTE_TAGS_SIZE(env->mem.size); i++) {
			if (mte_load_tag(alias + i * MTE_GRANULE_SIZE) != env->tags[i])
				failure = "a mapping with PROT_MTE has other tags";
		}
	} else {
		for (i = 0; i < MTE_TAGS_SIZE(env->mem.size); i++) {
			env->tags[i] = i % (MTE_TAG_MASK + 1);
			mte_store_tag(alias + i * MTE_GRANULE_SIZE, env->tags[i]);
		}
		failure = call(env, direction, SLOT_PAGES, 0);
	}
	kvm_munmap(alias, env->mem.size);

	return check_known(env, failure);
}

/* Memory that can't have tags took the place of a page. */
static const char *run_untaggable(struct env *env, u64 direction, int fd)
{
	void *page = env->mem.hva + 3 * page_size;
	u8 *buf = malloc(page_tags);
	const char *failure;
	int ret;

	TEST_ASSERT(mmap(page, page_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
			 fd, 0) == page, "mmap() failed, errno %d", errno);

	/* As a page of its own, and in the middle of others. */
	fill_random(buf, page_tags);
	ret = __mte_copy_tags(env->vm, MTE_TEST_GPA + 3 * page_size, page_size, buf, direction);
	failure = check_ret(ret, 0, EFAULT);
	free(buf);

	return failure ?: call(env, direction, 3, 0);
}

static const char *run_kernel_page(struct env *env, u64 direction)
{
	return run_untaggable(env, direction, env->vcpu->fd);
}

/* Where to mount it, if there is a place. */
static char *ramfs;

static const char *run_file(struct env *env, u64 direction)
{
	char *path = strdup_printf("%s/file", ramfs);
	int fd = open(path, O_RDWR | O_CREAT, 0600);
	const char *failure;

	free(path);
	TEST_ASSERT(fd >= 0, "Can't create a file, errno %d", errno);
	kvm_ftruncate(fd, page_size);
	failure = run_untaggable(env, direction, fd);
	kvm_close(fd);

	return failure;
}

/*
 * A private mapping of a file shows the page of the file, which can't have tags,
 * until a write gives it an anonymous page instead.
 */
static const char *run_private_file(struct env *env, u64 direction)
{
	void *page = env->mem.hva + 3 * page_size;
	char *path = strdup_printf("%s/file", ramfs);
	int fd = open(path, O_RDWR | O_CREAT, 0600), ret;
	u8 *tags = env->tags + 3 * page_tags;
	const char *failure;

	free(path);
	TEST_ASSERT(fd >= 0, "Can't create a file, errno %d", errno);
	kvm_ftruncate(fd, page_size);
	TEST_ASSERT(mmap(page, page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED,
			 fd, 0) == page, "mmap() failed, errno %d", errno);
	kvm_close(fd);

	ret = __mte_copy_tags(env->vm, MTE_TEST_GPA + 3 * page_size, page_size, tags,
			      KVM_ARM_TAGS_FROM_GUEST);
	failure = check_ret(ret, 0, EFAULT);
	if (failure)
		return failure;

	if (direction == KVM_ARM_TAGS_FROM_GUEST) {
		failure = call(env, direction, 3, 0);
		if (failure)
			return failure;
		mte_copy_tags_to_guest(env->vm, MTE_TEST_GPA + 3 * page_size, page_size, tags);
	}

	failure = call(env, direction, SLOT_PAGES, 0);

	return check_known(env, failure);
}

/* A private mapping of /dev/zero is anonymous memory, whatever its name. */
static const char *run_dev_zero(struct env *env, u64 direction)
{
	void *page = env->mem.hva + 3 * page_size;
	int fd = open_path_or_exit("/dev/zero", O_RDWR);
	const char *failure;

	TEST_ASSERT(mmap(page, page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED,
			 fd, 0) == page, "mmap() failed, errno %d", errno);
	kvm_close(fd);
	memset(env->tags + 3 * page_tags, 0, page_tags);

	failure = call(env, direction, SLOT_PAGES, 0);

	return check_known(env, failure);
}

struct circumstance {
	const char *name;
	enum mte_mem_type type;
	const char *(*run)(struct env *env, u64 direction);
	const char *(*prepare)(struct env *env);
};

/* Any file system whose pages are neither anonymous nor shmem. */
static const char *prepare_file(struct env *env)
{
	if (!ramfs || mount("none", ramfs, "ramfs", 0, NULL))
		return "can't mount a ramfs";

	return NULL;
}

static const char *prepare_swapped(struct env *env)
{
	return swap_out(env->mem.hva, env->mem.size);
}

static const struct circumstance circumstances[] = {
	{ "VM without MTE", MTE_MEM_ANON, run_no_mte },
	{ "read-only memslot", MTE_MEM_ANON, run_readonly_slot },
	{ "read-only mapping", MTE_MEM_ANON, run_readonly_vma },
	{ "hole in the mapping", MTE_MEM_ANON, run_hole },
	{ "dirty logging", MTE_MEM_ANON, run_logging },
	{ "no page yet", MTE_MEM_ANON, run_no_page_yet },
	{ "page is swapped out", MTE_MEM_ANON, run_swapped, prepare_swapped },
	{ "mapping with PROT_MTE", MTE_MEM_MEMFD, run_alias },
	{ "page of the kernel", MTE_MEM_ANON, run_kernel_page },
	{ "page of a file", MTE_MEM_ANON, run_file, prepare_file },
	{ "private page of a file", MTE_MEM_ANON, run_private_file, prepare_file },
	{ "private page of /dev/zero", MTE_MEM_ANON, run_dev_zero },
};

static void run_circumstance(const struct circumstance *test, u64 direction)
{
	const char *reason;
	struct env env;

	reason = env_init(&env, test->type, 0, SLOT_PAGES * page_size);
	TEST_ASSERT(!reason, "No memory: %s", reason);

	if (test->prepare)
		reason = test->prepare(&env);

	if (reason)
		ksft_test_result_skip("%s: %s\n", test->name, reason);
	else
		verdict(test->run(&env, direction), direction, test->name);

	if (test->prepare == prepare_file && !reason)
		umount(ramfs);

	env_exit(&env);
}

/* Kinds of memory. */

/* Something that depends on all tags and their order, for the guest to tell. */
static u64 hash_tag(u64 hash, u8 tag)
{
	return hash * 31 + tag;
}

static u64 guest_hash(u64 addr, u64 size, u64 c, u64 d)
{
	u64 hash = 0, offset;

	for (offset = 0; offset < size; offset += MTE_GRANULE_SIZE)
		hash = hash_tag(hash, mte_load_tag((void *)addr + offset));

	return hash;
}

static u64 hash_tags(const u8 *tags, size_t nr)
{
	u64 hash = 0;
	size_t i;

	for (i = 0; i < nr; i++)
		hash = hash_tag(hash, tags[i]);

	return hash;
}

static const char *round_trip(struct env *env, size_t chunk)
{
	size_t size = env->mem.size, nr = MTE_TAGS_SIZE(size), offset, length;
	u8 *tags = malloc(nr);
	u64 hash;

	fill_random(tags, nr);
	to_tags(tags, tags, nr);

	for (offset = 0; offset < size; offset += length) {
		length = min(chunk, size - offset);
		mte_copy_tags_to_guest(env->vm, MTE_TEST_GPA + offset, length,
				       tags + MTE_TAGS_SIZE(offset));
	}
	hash = mte_vcpu_call(env->vcpu, guest_hash, MTE_TEST_GPA, size, 0, 0);
	if (hash != hash_tags(tags, nr)) {
		free(tags);
		return "the guest doesn't see what was written";
	}

	mte_vcpu_call(env->vcpu, mte_store_pattern, MTE_TEST_GPA, size / page_size,
		      page_size, page_size);
	hash = mte_vcpu_call(env->vcpu, guest_hash, MTE_TEST_GPA, size, 0, 0);

	for (offset = 0; offset < size; offset += length) {
		length = min(chunk, size - offset);
		mte_copy_tags_from_guest(env->vm, MTE_TEST_GPA + offset, length,
					 tags + MTE_TAGS_SIZE(offset));
	}
	if (hash != hash_tags(tags, nr)) {
		free(tags);
		return "what was read isn't what the guest has stored";
	}
	free(tags);

	return NULL;
}

static void run_kind(enum mte_mem_type type, size_t folio_size, const char *name)
{
	size_t chunks[] = { page_size, 3 * page_size, SIZE_MAX }, i;
	const char *reason, *failure = NULL;
	struct env env;

	reason = env_init(&env, type, folio_size, max(folio_size, KIND_SIZE));
	if (reason) {
		ksft_test_result_skip("round trip, %s: %s\n", name, reason);
		return;
	}

	for (i = 0; i < ARRAY_SIZE(chunks) && !failure; i++)
		failure = round_trip(&env, chunks[i]);

	ksft_test_result(!failure, "round trip, %s%s%s\n", name,
			 failure ? ": " : "", failure ?: "");
	env_exit(&env);
}

static const struct {
	enum mte_mem_type type;
	const char *name;
} kinds[] = {
	{ MTE_MEM_ANON, "anonymous" },
	{ MTE_MEM_ANON_THP, "anonymous THP" },
	{ MTE_MEM_MEMFD, "memfd" },
	{ MTE_MEM_MEMFD_THP, "memfd THP" },
};

/*
 * A signal that kills the VMM must not have to wait for the end of a call. To
 * be sure that there is something to wait for, measure how long a call takes,
 * and kill one that has just begun. Writing is the direction where nothing else
 * on the way looks at signals, as long as all pages are mapped.
 *
 * The process that is killed shares the memory of this one: with all
 * that memory to unmap, its exit could take as long as the call.
 */
#define LONG_CALL_MS	1000

struct long_call {
	struct kvm_vm *vm;
	u8 *tags;
	size_t size;
};

static u64 now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);

	return timespec_to_ns(ts) / 1000000;
}

/* Map the same memory again and again, so that it is large and costs nothing. */
static void *map_repeatedly(int fd, size_t size, size_t total)
{
	void *mem = kvm_mmap(total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
	size_t offset;

	for (offset = 0; offset < total; offset += size)
		TEST_ASSERT(mmap(mem + offset, size, PROT_READ | PROT_WRITE,
				 MAP_SHARED | MAP_FIXED | MAP_POPULATE, fd, 0) != MAP_FAILED,
			    "mmap() failed, errno %d", errno);

	return mem;
}

static int make_call(void *arg)
{
	struct long_call *call = arg;

	mte_copy_tags_to_guest(call->vm, MTE_TEST_GPA, call->size, call->tags);

	return 0;
}

static void run_kill(void)
{
	size_t total = SZ_1G, stack_size = SZ_64K;
	struct long_call call = { .size = SZ_16M };
	int fd = kvm_memfd_alloc(SZ_2M, false);
	struct kvm_vcpu *vcpu;
	u64 start, full, ms;
	void *mem, *stack;
	int status;
	pid_t pid;

	mem = map_repeatedly(fd, SZ_2M, total);
	call.tags = map_repeatedly(fd, SZ_2M, MTE_TAGS_SIZE(total));
	call.vm = mte_vm_create(1, 0, &vcpu);
	vm_set_user_memory_region(call.vm, DATA_SLOT, 0, MTE_TEST_GPA, total, mem);

	/* The first time, it would take longer. */
	make_call(&call);
	for (;;) {
		start = now_ms();
		make_call(&call);
		full = now_ms() - start;
		if (full >= LONG_CALL_MS || call.size == total)
			break;
		call.size *= 2;
	}

	stack = kvm_mmap(stack_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	pid = clone(make_call, stack + stack_size, CLONE_VM | SIGCHLD, &call);
	TEST_ASSERT(pid >= 0, "clone() failed, errno %d", errno);

	usleep(full * 1000 / 8);
	start = now_ms();
	kill(pid, SIGKILL);
	TEST_ASSERT(waitpid(pid, &status, 0) == pid, "waitpid() failed, errno %d", errno);
	ms = now_ms() - start;

	ksft_test_result(WIFSIGNALED(status) && ms < full / 2,
			 "killed during a call of %lu ms, gone after %lu ms\n", full, ms);

	kvm_vm_free(call.vm);
	kvm_munmap(stack, stack_size);
	kvm_munmap(mem, total);
	kvm_munmap(call.tags, MTE_TAGS_SIZE(total));
	kvm_close(fd);
}

int main(void)
{
	static const u64 directions[] = { KVM_ARM_TAGS_FROM_GUEST, KVM_ARM_TAGS_TO_GUEST };
	size_t sizes[HUGETLB_MAX_SIZES];
	int nr_sizes, i, j;
	const char *reason;
	struct env env;

	ksft_print_header();
	mte_require();

	page_size = getpagesize();
	page_tags = MTE_TAGS_SIZE(page_size);
	nr_sizes = hugetlb_sizes(sizes);
	/* Those that don't fit are none of the business of this test. */
	while (nr_sizes && sizes[nr_sizes - 1] > SZ_32M)
		nr_sizes--;

	ksft_set_plan((ARRAY_SIZE(args_table) + ARRAY_SIZE(buffer_table) +
		       ARRAY_SIZE(circumstances)) * ARRAY_SIZE(directions) +
		      ARRAY_SIZE(kinds) + 2 * nr_sizes + 1);

	reason = env_init(&env, MTE_MEM_ANON, 0, SLOT_PAGES * page_size);
	TEST_ASSERT(!reason, "No memory: %s", reason);
	for (i = 0; i < ARRAY_SIZE(directions); i++) {
		for (j = 0; j < ARRAY_SIZE(args_table); j++)
			run_args(&args_table[j], &env, directions[i]);
		for (j = 0; j < ARRAY_SIZE(buffer_table); j++)
			run_buffer(&buffer_table[j], &env, directions[i]);
	}
	env_exit(&env);

	ramfs = mkdtemp(strdup("/tmp/mte_copy_tags.XXXXXX"));
	for (i = 0; i < ARRAY_SIZE(directions); i++) {
		for (j = 0; j < ARRAY_SIZE(circumstances); j++)
			run_circumstance(&circumstances[j], directions[i]);
	}
	if (ramfs)
		rmdir(ramfs);

	for (i = 0; i < ARRAY_SIZE(kinds); i++)
		run_kind(kinds[i].type, 0, kinds[i].name);
	for (i = 0; i < nr_sizes; i++) {
		char *name = strdup_printf("%zukB hugetlb", sizes[i] / SZ_1K);

		run_kind(MTE_MEM_HUGETLB, sizes[i], name);
		free(name);

		name = strdup_printf("%zukB memfd hugetlb", sizes[i] / SZ_1K);
		run_kind(MTE_MEM_MEMFD_HUGETLB, sizes[i], name);
		free(name);
	}

	run_kill();

	mte_finished();
}
