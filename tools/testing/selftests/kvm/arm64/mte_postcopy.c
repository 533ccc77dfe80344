// SPDX-License-Identifier: GPL-2.0-only
/*
 * mte_postcopy - Check which ways of populating memory on demand give the guest
 * the tags of a page along with its data.
 *
 * After the switch to the destination of a postcopy migration, a page is missing
 * until the guest accesses it. userfaultfd tells the VMM, which then has to make
 * data and tags appear at once: a vCPU goes on as soon as there is a page, and
 * another one doesn't even have to wait.
 *
 *  - UFFDIO_COPY has nowhere to take tags from. The guest sees zero tags until
 *    the VMM has written others, which it can only do afterwards:
 *    KVM_ARM_MTE_COPY_TAGS waits for the missing page like everybody else. If
 *    this case fails because there are tags, the kernel has learned to copy
 *    them, and the documentation has to follow.
 *
 *  - UFFDIO_CONTINUE maps a page that is in a memfd already, to which the VMM
 *    has access through another mapping. With PROT_MTE it can store data and
 *    tags there, unseen by anybody, and then have it mapped.
 *
 *  - UFFDIO_MOVE moves a page of anonymous memory to another address, with its
 *    tags. It refuses to do so if only one of the mappings has PROT_MTE. Where
 *    the guest's memory is to be without it, another VM that has the pages in a
 *    memslot can be used to store tags to them beforehand.
 *
 * What works is tags that are in place before the page is: nobody stores to it
 * once the guest can access it. The guest looks at all tags of a page first, the
 * moment its first access completes, and then at the data.
 */
#include <poll.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/sizes.h>
#include <linux/userfaultfd.h>

#include "kvm_util.h"
#include "mte.h"
#include "processor.h"
#include "test_util.h"

#define DATA_SLOT	1
#define NR_PAGES	16

/* Large folios are not used if they are larger. */
#define MAX_FOLIO	SZ_32M

/* How long a fault may take to be reported. */
#define PATIENCE_MS	10000

#define PLAIN		(PROT_READ | PROT_WRITE)
#define TAGGED		(PLAIN | PROT_MTE)

static size_t page_size;

struct env {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	int uffd;
	/* What the guest has, and what is populated at once. */
	struct mte_mem mem;
	size_t unit;
	/* Where pages come from, which is @alias for UFFDIO_CONTINUE. */
	struct mte_mem staging;
	void *alias;
	/* The tags that the guest is to see. */
	u8 *tags;
	/* Number of faults that were resolved. */
	size_t nr_faults;
	const char *failure;
};

struct testcase {
	const char *name;
	enum mte_mem_type type;
	u64 features;
	u64 mode;
	/* Of the staging memory, and of the guest's memory. */
	int src_prot;
	int dst_prot;
	void (*run)(struct env *env, const struct testcase *test);
	const char *(*resolve)(struct env *env, size_t offset);
};

static u64 page_data(u64 page, u64 i)
{
	return (page << 32 | i) * 0x9e3779b97f4a7c15UL;
}

static void store_data(u64 addr, u64 nr)
{
	u64 page, i;

	for (page = 0; page < nr; page++) {
		for (i = 0; i < page_size / sizeof(u64); i++)
			((u64 *)(addr + page * page_size))[i] = page_data(page, i);
	}
}

/* In the guest: the number of pages that have wrong data. */
static u64 guest_count_bad(u64 addr, u64 nr, u64 size, u64 d)
{
	u64 page, i, bad = 0;

	for (page = 0; page < nr; page++, addr += size) {
		for (i = 0; i < size / sizeof(u64); i++) {
			if (READ_ONCE(((u64 *)addr)[i]) != page_data(page, i)) {
				bad++;
				break;
			}
		}
	}

	return bad;
}

static u64 nr_pages(struct env *env)
{
	return env->mem.size / page_size;
}

static void set_prot(struct mte_mem *mem, int prot)
{
	TEST_ASSERT(!mprotect(mem->hva, mem->size, prot), "mprotect() failed, errno %d", errno);
}

/* Ways to populate @env->unit bytes at @offset. */

static const char *resolve_copy(struct env *env, size_t offset)
{
	struct uffdio_copy copy = {
		.dst	= (u64)env->mem.hva + offset,
		.src	= (u64)env->staging.hva + offset,
		.len	= env->unit,
	};

	if (ioctl(env->uffd, UFFDIO_COPY, &copy) || copy.copy != env->unit)
		return "UFFDIO_COPY failed";

	return NULL;
}

static int move(struct env *env, size_t offset)
{
	struct uffdio_move move = {
		.dst	= (u64)env->mem.hva + offset,
		.src	= (u64)env->staging.hva + offset,
		.len	= env->unit,
	};

	return ioctl(env->uffd, UFFDIO_MOVE, &move);
}

static const char *resolve_move(struct env *env, size_t offset)
{
	if (move(env, offset))
		return "UFFDIO_MOVE failed";

	if (pagemap_entry(env->staging.hva + offset) & PAGEMAP_PRESENT)
		return "UFFDIO_MOVE has left the page where it was";

	return NULL;
}

static const char *resolve_continue(struct env *env, size_t offset)
{
	struct uffdio_continue cont = {
		.range.start	= (u64)env->mem.hva + offset,
		.range.len	= env->unit,
	};
	size_t i;

	/* Only now did it arrive from the source. */
	memcpy(env->alias + offset, env->staging.hva + offset, env->unit);
	for (i = offset; i < offset + env->unit; i += MTE_GRANULE_SIZE)
		mte_store_tag(env->alias + i, env->tags[MTE_TAGS_SIZE(i)]);

	if (ioctl(env->uffd, UFFDIO_CONTINUE, &cont) || cont.mapped != env->unit)
		return "UFFDIO_CONTINUE failed";

	return NULL;
}

/* Somebody who accesses the guest's memory while this thread resolves the faults. */

static bool resolve_one(struct env *env, const struct testcase *test, bool wait)
{
	struct pollfd pollfd = { .fd = env->uffd, .events = POLLIN };
	const char *failure;
	struct uffd_msg msg;

	if (poll(&pollfd, 1, wait ? PATIENCE_MS : 10) != 1)
		return false;

	TEST_ASSERT(read(env->uffd, &msg, sizeof(msg)) == sizeof(msg) &&
		    msg.event == UFFD_EVENT_PAGEFAULT, "Not a fault");

	/* Whoever waits for the page would wait for ever. */
	failure = test->resolve(env, align_down(msg.arg.pagefault.address -
						(u64)env->mem.hva, env->unit));
	TEST_ASSERT(!failure, "%s: %s, errno %d", test->name, failure, errno);
	env->nr_faults++;

	return true;
}

struct accessor {
	struct env *env;
	u64 result;
	bool done;
};

static void *vcpu_thread(void *arg)
{
	struct accessor *accessor = arg;
	struct env *env = accessor->env;

	accessor->result = mte_vcpu_call(env->vcpu, mte_count_lost, MTE_TEST_GPA,
					 nr_pages(env), page_size, page_size);
	WRITE_ONCE(accessor->done, true);

	return NULL;
}

/* All tags, then the data, and the number of pages that lost their tags. */
static u64 access_by_vcpu(struct env *env, const struct testcase *test)
{
	struct accessor accessor = { .env = env };
	pthread_t thread;

	pthread_create(&thread, NULL, vcpu_thread, &accessor);
	while (!READ_ONCE(accessor.done))
		resolve_one(env, test, false);
	pthread_join(thread, NULL);

	if (env->nr_faults != env->mem.size / env->unit)
		env->failure = "wrong number of faults";

	if (mte_vcpu_call(env->vcpu, guest_count_bad, MTE_TEST_GPA, nr_pages(env), page_size, 0))
		env->failure = "wrong data";

	return accessor.result;
}

static void run_with_tags(struct env *env, const struct testcase *test)
{
	if (access_by_vcpu(env, test) && !env->failure)
		env->failure = "the guest sees other tags";
}

static void run_without_tags(struct env *env, const struct testcase *test)
{
	u64 lost;

	lost = access_by_vcpu(env, test);
	if (!env->failure && !lost)
		env->failure = "UFFDIO_COPY copies tags";
	if (!env->failure && mte_vcpu_call(env->vcpu, mte_count_stale, MTE_TEST_GPA,
					   nr_pages(env), page_size, page_size))
		env->failure = "tags aren't zero";

	/* They can be written now. */
	mte_copy_tags_to_guest(env->vm, MTE_TEST_GPA, env->mem.size, env->tags);
	if (!env->failure && mte_vcpu_call(env->vcpu, mte_count_lost, MTE_TEST_GPA,
					   nr_pages(env), page_size, page_size))
		env->failure = "the guest doesn't see tags that were written";
}

/* Refused, without any effect, until both mappings have PROT_MTE. */
static void run_one_prot(struct env *env, const struct testcase *test)
{
	if (!move(env, 0) || errno != EINVAL)
		env->failure = "UFFDIO_MOVE doesn't mind";
	else if (pagemap_entry(env->mem.hva) & PAGEMAP_PRESENT ||
		 !(pagemap_entry(env->staging.hva) & PAGEMAP_PRESENT))
		env->failure = "UFFDIO_MOVE failed, but has moved the page";

	if (env->failure)
		return;

	set_prot(&env->staging, TAGGED);
	set_prot(&env->mem, TAGGED);
	run_with_tags(env, test);
}

static void *copy_tags_thread(void *arg)
{
	struct accessor *accessor = arg;
	struct env *env = accessor->env;

	mte_copy_tags_to_guest(env->vm, MTE_TEST_GPA, env->mem.size, env->tags);
	WRITE_ONCE(accessor->done, true);

	return NULL;
}

/* Each page is waited for, until there is data. */
static void run_copy_tags(struct env *env, const struct testcase *test)
{
	struct accessor accessor = { .env = env };
	pthread_t thread;
	size_t i;

	pthread_create(&thread, NULL, copy_tags_thread, &accessor);
	for (i = 0; i < env->mem.size / env->unit && resolve_one(env, test, true); i++)
		;
	TEST_ASSERT(i == env->mem.size / env->unit || READ_ONCE(accessor.done),
		    "The ioctl neither ends nor faults");
	pthread_join(thread, NULL);

	if (i < env->mem.size / env->unit)
		env->failure = "the ioctl doesn't wait for the page";
	if (!env->failure && mte_vcpu_call(env->vcpu, mte_count_lost, MTE_TEST_GPA,
					   nr_pages(env), page_size, page_size))
		env->failure = "the guest sees other tags";
}

#define MISSING		UFFDIO_REGISTER_MODE_MISSING
#define MINOR		UFFDIO_REGISTER_MODE_MINOR

static const struct testcase testcases[] = {
	{ "UFFDIO_COPY, pages", MTE_MEM_ANON, 0, MISSING,
	  TAGGED, PLAIN, run_without_tags, resolve_copy },
	{ "UFFDIO_COPY, pages with PROT_MTE", MTE_MEM_ANON, 0, MISSING,
	  TAGGED, TAGGED, run_without_tags, resolve_copy },
	{ "UFFDIO_COPY, memfd", MTE_MEM_MEMFD, UFFD_FEATURE_MISSING_SHMEM, MISSING,
	  TAGGED, PLAIN, run_without_tags, resolve_copy },
	{ "KVM_ARM_MTE_COPY_TAGS on a missing page", MTE_MEM_ANON, 0, MISSING,
	  TAGGED, PLAIN, run_copy_tags, resolve_copy },
	{ "UFFDIO_CONTINUE, memfd", MTE_MEM_MEMFD,
	  UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM, MISSING | MINOR,
	  TAGGED, PLAIN, run_with_tags, resolve_continue },
	{ "UFFDIO_CONTINUE, hugetlb", MTE_MEM_MEMFD_HUGETLB,
	  UFFD_FEATURE_MISSING_HUGETLBFS | UFFD_FEATURE_MINOR_HUGETLBFS, MISSING | MINOR,
	  TAGGED, PLAIN, run_with_tags, resolve_continue },
	{ "UFFDIO_MOVE, pages", MTE_MEM_ANON, UFFD_FEATURE_MOVE, MISSING,
	  PLAIN, PLAIN, run_with_tags, resolve_move },
	{ "UFFDIO_MOVE, THP", MTE_MEM_ANON_THP, UFFD_FEATURE_MOVE, MISSING,
	  PLAIN, PLAIN, run_with_tags, resolve_move },
	{ "UFFDIO_MOVE, pages with PROT_MTE", MTE_MEM_ANON, UFFD_FEATURE_MOVE, MISSING,
	  TAGGED, TAGGED, run_with_tags, resolve_move },
	{ "UFFDIO_MOVE, only the source has PROT_MTE", MTE_MEM_ANON, UFFD_FEATURE_MOVE, MISSING,
	  TAGGED, PLAIN, run_one_prot, resolve_move },
	{ "UFFDIO_MOVE, only the target has PROT_MTE", MTE_MEM_ANON, UFFD_FEATURE_MOVE, MISSING,
	  PLAIN, TAGGED, run_one_prot, resolve_move },
};

static const char *open_uffd(struct env *env, const struct testcase *test)
{
	struct uffdio_api api = { .api = UFFD_API, .features = test->features };
	struct uffdio_register reg = {
		.range.start	= (u64)env->mem.hva,
		.range.len	= env->mem.size,
		.mode		= test->mode,
	};

	env->uffd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (env->uffd < 0)
		return "no userfaultfd, or not allowed to handle faults of the kernel";

	if (ioctl(env->uffd, UFFDIO_API, &api)) {
		kvm_close(env->uffd);
		return "userfaultfd can't do that";
	}

	TEST_ASSERT(!ioctl(env->uffd, UFFDIO_REGISTER, &reg),
		    "UFFDIO_REGISTER failed, errno %d", errno);

	return NULL;
}

/* The tags of mte_store_pattern(). */
static u8 *pattern(struct env *env)
{
	u8 *tags = malloc(MTE_TAGS_SIZE(env->mem.size));
	void *mem;
	u64 i;

	mem = kvm_mmap(env->mem.size, TAGGED, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	mte_store_pattern((u64)mem, nr_pages(env), page_size, page_size);
	for (i = 0; i < MTE_TAGS_SIZE(env->mem.size); i++)
		tags[i] = mte_load_tag(mem + i * MTE_GRANULE_SIZE);
	kvm_munmap(mem, env->mem.size);

	return tags;
}

/* The pages as they are on the source of the migration. */
static const char *init_staging(struct env *env, const struct testcase *test, size_t folio_size)
{
	bool thp = test->type == MTE_MEM_ANON_THP;
	const char *reason;
	struct kvm_vm *vm;

	reason = mte_mem_alloc(&env->staging, thp ? MTE_MEM_ANON_THP : MTE_MEM_ANON,
			       folio_size, env->mem.size);
	if (reason)
		return reason;

	reason = mte_mem_populate(&env->staging);
	if (reason) {
		mte_mem_free(&env->staging);
		return reason;
	}

	store_data((u64)env->staging.hva, nr_pages(env));
	env->tags = pattern(env);

	/*
	 * Tags can be stored without PROT_MTE with the help of another VM, which
	 * doesn't ever run. It can't be the same one: it would show the pages to
	 * the guest.
	 */
	vm = vm_create_barebones();
	vm_enable_cap(vm, KVM_CAP_ARM_MTE, 0);
	vm_set_user_memory_region(vm, DATA_SLOT, 0, MTE_TEST_GPA, env->mem.size,
				  env->staging.hva);
	mte_copy_tags_to_guest(vm, MTE_TEST_GPA, env->mem.size, env->tags);
	kvm_vm_free(vm);

	set_prot(&env->staging, test->src_prot);

	return NULL;
}

static const char *run_case(struct env *env, const struct testcase *test, size_t folio_size)
{
	const char *reason;

	reason = init_staging(env, test, folio_size);
	if (reason)
		return reason;

	reason = open_uffd(env, test);
	if (reason)
		goto out;

	if (test->mode & MINOR) {
		env->alias = mte_mem_alias(&env->mem, TAGGED);
		/* Half of the pages are there already, the others are missing. */
		memset(env->alias, 0, env->mem.size / 2);
	}

	set_prot(&env->mem, test->dst_prot);
	env->vm = mte_vm_create(1, env->mem.size, &env->vcpu);
	mte_vm_add_slot(env->vm, DATA_SLOT, 0, MTE_TEST_GPA, env->mem.hva, env->mem.size);

	test->run(env, test);

	kvm_vm_free(env->vm);
	if (env->alias)
		kvm_munmap(env->alias, env->mem.size);
	kvm_close(env->uffd);
out:
	mte_mem_free(&env->staging);
	free(env->tags);

	return reason;
}

static void run_or_skip(const struct testcase *test)
{
	bool hugetlb = test->type == MTE_MEM_MEMFD_HUGETLB, thp = test->type == MTE_MEM_ANON_THP;
	size_t sizes[HUGETLB_MAX_SIZES], folio_size = page_size, size;
	const char *reason = NULL;
	struct env env = {};

	if (hugetlb && hugetlb_sizes(sizes))
		folio_size = sizes[0];
	else if (hugetlb)
		reason = "the kernel has no hugetlb";
	else if (thp && page_size / sizeof(u64) * page_size > MAX_FOLIO)
		reason = "a THP is too large";
	else if (thp)
		folio_size = page_size / sizeof(u64) * page_size;

	size = hugetlb ? 2 * folio_size : NR_PAGES * page_size;
	reason = reason ?: mte_mem_alloc(&env.mem, test->type, folio_size, size);
	if (!reason) {
		env.unit = folio_size;
		reason = run_case(&env, test, folio_size);
		mte_mem_free(&env.mem);
	}

	if (reason)
		ksft_test_result_skip("%s: %s\n", test->name, reason);
	else
		ksft_test_result(!env.failure, "%s%s%s\n", test->name,
				 env.failure ? ": " : "", env.failure ?: "");
}

int main(void)
{
	int i;

	ksft_print_header();
	mte_require();
	ksft_set_plan(ARRAY_SIZE(testcases));

	page_size = getpagesize();
	for (i = 0; i < ARRAY_SIZE(testcases); i++)
		run_or_skip(&testcases[i]);

	ksft_finished();
}
