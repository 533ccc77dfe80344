// SPDX-License-Identifier: GPL-2.0-only
#include <linux/capability.h>
#include <linux/perf_event.h>
#include <linux/sizes.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "memslot_kinds.h"
#include "memslot_lock.h"
#include "mte.h"
#include "settings.h"
#include "test_util.h"

/**
 * __memslot_lock_cap() - KVM_ENABLE_CAP of KVM_CAP_ARM_LOCK_USER_MEMORY_REGION
 * @vm:		The VM.
 * @flags:	KVM_ARM_LOCK_USER_MEMORY_REGION_FLAGS_*, or what isn't one of them.
 * @arg0:	The memslot.
 * @arg1:	KVM_ARM_LOCK_MEM_* or KVM_ARM_UNLOCK_MEM_*.
 * @arg2:	Zero.
 * @arg3:	Zero.
 *
 * Return: 0, or -1 with errno set.
 */
int __memslot_lock_cap(struct kvm_vm *vm, u32 flags, u64 arg0, u64 arg1, u64 arg2, u64 arg3)
{
	struct kvm_enable_cap cap = {
		.cap	= KVM_CAP_ARM_LOCK_USER_MEMORY_REGION,
		.flags	= flags,
		.args	= { arg0, arg1, arg2, arg3 },
	};

	return __vm_ioctl(vm, KVM_ENABLE_CAP, &cap);
}

/**
 * memslot_lock() - Lock a memslot, which must succeed
 * @vm:		The VM.
 * @slot:	The memslot.
 * @perms:	MEMSLOT_LOCK_R or MEMSLOT_LOCK_RW.
 */
void memslot_lock(struct kvm_vm *vm, u64 slot, u64 perms)
{
	int ret = __memslot_lock(vm, slot, perms);

	TEST_ASSERT(!ret, "Can't lock memslot %lu, errno %d", slot, errno);
}

/**
 * memslot_unlock() - Unlock a memslot, which must succeed
 * @vm:		The VM.
 * @slot:	The memslot.
 */
void memslot_unlock(struct kvm_vm *vm, u64 slot)
{
	int ret = __memslot_unlock(vm, slot);

	TEST_ASSERT(!ret, "Can't unlock memslot %lu, errno %d", slot, errno);
}

/* The number that follows a name in a file, where it must be found. */
static u64 read_number(const char *path, const char *name)
{
	FILE *file = fopen(path, "r");
	bool found = false;
	char line[256];
	u64 value = 0;

	TEST_ASSERT(file, "Can't open %s, errno %d", path, errno);
	while (!found && fgets(line, sizeof(line), file)) {
		if (strncmp(line, name, strlen(name)))
			continue;
		found = sscanf(line + strlen(name), " %lu", &value) == 1;
	}
	fclose(file);
	TEST_ASSERT(found, "%s has no %s", path, name);

	return value;
}

/**
 * lock_usage() - What locking takes of the process and of the host
 *
 * Pins are those of the whole host: nobody else may pin and unpin meanwhile. If the
 * test isn't root, those that a CPU has yet to report are missing.
 *
 * Return: see struct lock_usage.
 */
struct lock_usage lock_usage(void)
{
	/* A read has all CPUs report what they have counted. */
	FILE *refresh = fopen("/proc/sys/vm/stat_refresh", "r");

	if (refresh) {
		fgetc(refresh);
		fclose(refresh);
	}

	return (struct lock_usage) {
		.locked_vm	= read_number("/proc/self/status", "VmLck:") * SZ_1K,
		.pins		= read_number("/proc/vmstat", "nr_foll_pin_acquired ") -
				  read_number("/proc/vmstat", "nr_foll_pin_released "),
	};
}

/**
 * lock_usage_is() - Whether nothing more is locked than expected, and nothing less
 * @expected:	What is expected, of lock_usage().
 *
 * Pins are released at once, but what the kernel does on its own may hold some for a
 * while. So wait for it.
 *
 * Return: true if it is so, false if it isn't after some seconds.
 */
bool lock_usage_is(struct lock_usage expected)
{
	struct lock_usage usage;
	int ms;

	for (ms = 0; ms < 5000; ms += 10) {
		usage = lock_usage();
		if (usage.locked_vm == expected.locked_vm && usage.pins == expected.pins)
			return true;
		usleep(10000);
	}

	ksft_print_msg("locked memory: %lu bytes, expected %lu; pins: %ld, expected %ld\n",
		       usage.locked_vm, expected.locked_vm, usage.pins, expected.pins);

	return false;
}

/**
 * lock_set_limit() - Set RLIMIT_MEMLOCK
 * @bytes:	The limit.
 */
void lock_set_limit(u64 bytes)
{
	struct rlimit limit;

	TEST_ASSERT(!getrlimit(RLIMIT_MEMLOCK, &limit), "getrlimit() failed, errno %d", errno);
	limit.rlim_cur = bytes;
	limit.rlim_max = max_t(u64, limit.rlim_max, bytes);
	TEST_ASSERT(!setrlimit(RLIMIT_MEMLOCK, &limit), "setrlimit() failed, errno %d", errno);
}

/**
 * lock_set_cap() - Have CAP_IPC_LOCK, with which there is no limit, or not have it
 * @on:		Whether to have it: this thread, and those that it creates.
 */
void lock_set_cap(bool on)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];

	TEST_ASSERT(!syscall(__NR_capget, &header, data), "capget() failed, errno %d", errno);
	if (on)
		data[0].effective |= BIT(CAP_IPC_LOCK);
	else
		data[0].effective &= ~BIT(CAP_IPC_LOCK);
	TEST_ASSERT(!syscall(__NR_capset, &header, data), "capset() failed, errno %d", errno);
}

static int event_open(const char *name, pid_t tid, const char *filter)
{
	struct perf_event_attr attr = {
		.type	= PERF_TYPE_TRACEPOINT,
		.size	= sizeof(attr),
	};
	char path[80];
	FILE *file;
	int fd, n;

	snprintf(path, sizeof(path), "/sys/kernel/tracing/events/kvm/%s/id", name);
	file = fopen(path, "r");
	if (!file)
		return -1;
	n = fscanf(file, "%llu", &attr.config);
	fclose(file);
	if (n != 1)
		return -1;

	fd = syscall(__NR_perf_event_open, &attr, tid, -1, -1, PERF_FLAG_FD_CLOEXEC);
	if (fd >= 0 && filter && ioctl(fd, PERF_EVENT_IOC_SET_FILTER, filter)) {
		kvm_close(fd);
		return -1;
	}

	return fd;
}

/**
 * guest_faults_open() - Count the stage-2 faults of a vCPU from now on
 * @tid:	The thread that runs the vCPU, 0 for the current one.
 *
 * Counts all aborts that KVM handles, of which an access to what isn't memory is one.
 *
 * Return: a file descriptor for guest_faults(), or -1 if the kernel can't do that.
 */
int guest_faults_open(pid_t tid)
{
	return event_open("kvm_guest_fault", tid, NULL);
}

/**
 * guest_faults_open_range() - Count the stage-2 faults of a vCPU on some memory
 * @tid:	The thread that runs the vCPU, 0 for the current one.
 * @gpa:	Start of the memory in the guest.
 * @size:	Its size in bytes.
 *
 * Return: a file descriptor for guest_faults(), or -1 if the kernel can't do that.
 */
int guest_faults_open_range(pid_t tid, gpa_t gpa, u64 size)
{
	char filter[80];

	snprintf(filter, sizeof(filter), "ipa >= 0x%lx && ipa < 0x%lx", gpa, gpa + size);

	return event_open("kvm_guest_fault", tid, filter);
}

/**
 * lock_faults_open() - Count faults of the thread on locked memory that KVM didn't expect
 *
 * Return: a file descriptor for guest_faults(), or -1 if the kernel can't do that.
 */
int lock_faults_open(void)
{
	return event_open("kvm_memslot_lock_fault", 0, "expected == 0");
}

/**
 * guest_faults() - The faults that were counted
 * @fd:		Of guest_faults_open().
 *
 * Return: number of faults since guest_faults_open().
 */
u64 guest_faults(int fd)
{
	u64 nr;

	TEST_ASSERT(read(fd, &nr, sizeof(nr)) == sizeof(nr), "read() failed, errno %d", errno);

	return nr;
}

/**
 * lock_stop_numa_balancing() - Have no memory unmapped just to see who uses it
 *
 * Until the test ends. With one NUMA node none is anyway.
 */
void lock_stop_numa_balancing(void)
{
	static struct setting setting = { "/proc/sys/kernel/numa_balancing", "0" };

	/* There need not be any. */
	settings_change(&setting, 1);
}

/**
 * memslot_lock_require() - Skip the test, and say why, if nothing can be locked
 *
 * Or if there is no way to find out what locking has done. Does without NUMA balancing, so
 * that nothing is unmapped but by the test.
 */
void memslot_lock_require(void)
{
	u64 nr_blocks, nr_pages;
	struct kvm_vm *vm;
	bool shown;
	int fd;

	__TEST_REQUIRE(kvm_check_cap(KVM_CAP_ARM_LOCK_USER_MEMORY_REGION),
		       "KVM doesn't lock memslots, as in protected mode");
	lock_stop_numa_balancing();

	vm = vm_create_barebones();
	shown = mte_stage2_leaves(vm, 0, getpagesize(), &nr_blocks, &nr_pages);
	kvm_vm_free(vm);
	__TEST_REQUIRE(shown, "the kernel doesn't show stage-2 page-tables");

	fd = guest_faults_open_range(0, 0, getpagesize());
	__TEST_REQUIRE(fd >= 0, "the kernel doesn't count guest faults: perf, tracefs");
	kvm_close(fd);
}

/**
 * lock_vm_init() - Add the memslot to a VM
 * @lvm:	What to fill in.
 * @vm:		The VM.
 * @vcpu:	Its vCPU, or NULL.
 * @flags:	KVM_MEM_* flags.
 * @gpa:	Start of the memslot in the guest, where the caller has to map it.
 * @hva:	Start of the memslot in the VMM.
 * @size:	Size of the memslot in bytes.
 *
 * For tests that need a VM which isn't an ordinary one. The others want
 * lock_vm_create().
 */
void lock_vm_init(struct lock_vm *lvm, struct kvm_vm *vm, struct kvm_vcpu *vcpu, u32 flags,
		  gpa_t gpa, void *hva, size_t size)
{
	*lvm = (struct lock_vm) {
		.vm		= vm,
		.vcpu		= vcpu,
		.gpa		= gpa,
		.hva		= hva,
		.size		= size,
		.nr_pages	= size / getpagesize(),
		.faults		= guest_faults_open_range(0, gpa, size),
		.base		= lock_usage(),
	};
	TEST_ASSERT(lvm->faults >= 0, "Can't count guest faults, errno %d", errno);

	vm_set_user_memory_region(vm, LOCK_SLOT, flags, gpa, size, hva);
}

/**
 * lock_vm_create() - Create a VM with a vCPU and the memslot
 * @lvm:	What to fill in.
 * @mte:	Whether it has MTE.
 * @flags:	KVM_MEM_* flags.
 * @gpa:	Start of the memslot in the guest, where it is mapped at stage 1 at the
 *		virtual address of the same value.
 * @hva:	Start of the memslot in the VMM.
 * @size:	Size of the memslot in bytes.
 */
void lock_vm_create(struct lock_vm *lvm, bool mte, u32 flags, gpa_t gpa, void *hva,
		    size_t size)
{
	struct kvm_vm *vm = __vm_create(VM_SHAPE_DEFAULT, 1, size / SZ_4K);
	struct kvm_vcpu *vcpu;

	if (mte)
		vm_enable_cap(vm, KVM_CAP_ARM_MTE, 0);
	mte_vm_add_vcpus(vm, 1, &vcpu);

	lock_vm_init(lvm, vm, vcpu, flags, gpa, hva, size);
	virt_map(vm, gpa, gpa, size / vm->page_size);
}

/**
 * lock_vm_free() - Free the VM, locked or not
 * @lvm:	The VM.
 */
void lock_vm_free(struct lock_vm *lvm)
{
	kvm_close(lvm->faults);
	kvm_vm_free(lvm->vm);
}

/**
 * lock_fill() - Have each page start with its address in the guest
 * @hva:	Start of the memory in the VMM.
 * @gpa:	Start of the memory in the guest.
 * @size:	Its size in bytes.
 *
 * This is what mte_write_addrs() does in the guest, and mte_count_wrong_addrs() expects.
 */
void lock_fill(void *hva, gpa_t gpa, size_t size)
{
	size_t offset;

	for (offset = 0; offset < size; offset += getpagesize())
		WRITE_ONCE(*(u64 *)(hva + offset), gpa + offset);
}

/**
 * lock_vm_fill() - Have the VMM write the data that lock_vm_check_reads() expects
 * @lvm:	The VM.
 */
void lock_vm_fill(const struct lock_vm *lvm)
{
	lock_fill(lvm->hva, lvm->gpa, lvm->size);
}

/**
 * lock_guest_write_forever() - Write all pages again and again
 * @addr:	Start of the memory in the guest.
 * @nr_pages:	Number of pages.
 * @stride:	Distance from one page to the next in bytes.
 * @unused:	For mte_vcpu_call().
 *
 * Each page starts with the number of times that it was written to.
 *
 * Return: doesn't, its type is for mte_vcpu_call().
 */
u64 lock_guest_write_forever(u64 addr, u64 nr_pages, u64 stride, u64 unused)
{
	u64 n, i;

	for (n = 1; ; n++) {
		for (i = 0; i < nr_pages; i++)
			WRITE_ONCE(*(u64 *)(addr + i * stride), n);
	}

	return 0;
}

/**
 * lock_failed() - Say what is wrong
 * @fmt:	As for printf().
 *
 * Return: the text, valid for the next few calls.
 */
const char *lock_failed(const char *fmt, ...)
{
	static char failures[4][256];
	static int next;
	char *failure = failures[next++ % ARRAY_SIZE(failures)];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(failure, sizeof(failures[0]), fmt, ap);
	va_end(ap);

	return failure;
}

/**
 * lock_vm_check_leaves() - Check what stage 2 maps of the memslot
 * @lvm:	The VM.
 * @nr_blocks:	Number of blocks that are expected.
 * @nr_pages:	Number of pages that are expected.
 *
 * Return: NULL, or what is wrong.
 */
const char *lock_vm_check_leaves(const struct lock_vm *lvm, u64 nr_blocks, u64 nr_pages)
{
	u64 blocks, pages;

	TEST_ASSERT(mte_stage2_leaves(lvm->vm, lvm->gpa, lvm->size, &blocks, &pages),
		    "Can't read the stage-2 page-table");
	if (blocks != nr_blocks || pages != nr_pages)
		return lock_failed("%lu blocks and %lu pages at stage 2, not %lu and %lu",
			      blocks, pages, nr_blocks, nr_pages);

	return NULL;
}

/**
 * lock_vm_check_held() - Check that the memslot, and no other one, is locked
 * @lvm:	The VM.
 * @min_pins:	How many pins there must be. There can be one for each page.
 *
 * Whatever stage 2 maps by now: all pages are accounted and counted, some are pinned,
 * and the memslot can't be locked once more.
 *
 * Return: NULL, or what is wrong.
 */
const char *lock_vm_check_held(const struct lock_vm *lvm, u64 min_pins)
{
	struct lock_usage usage = lock_usage();
	long pins = usage.pins - lvm->base.pins;
	u64 nr = vm_get_stat(lvm->vm, locked_pages);

	if (usage.locked_vm != lvm->base.locked_vm + lvm->size)
		return lock_failed("%lu bytes of locked memory, not %lu", usage.locked_vm,
			      lvm->base.locked_vm + lvm->size);
	if (pins < (long)min_pins || pins > (long)lvm->nr_pages)
		return lock_failed("%ld pins, not %lu to %lu", pins, min_pins, lvm->nr_pages);
	if (nr != lvm->nr_pages)
		return lock_failed("locked_pages is %lu, not %lu", nr, lvm->nr_pages);
	if (!failed_with(__memslot_lock(lvm->vm, LOCK_SLOT, MEMSLOT_LOCK_R), EBUSY))
		return "the memslot isn't locked";

	return NULL;
}

/**
 * lock_vm_check_locked() - Check that the memslot is locked, and that all of it is mapped
 * @lvm:	The VM.
 * @nr_blocks:	Number of blocks that are expected at stage 2.
 * @nr_pages:	Number of pages that are expected at stage 2.
 *
 * Return: NULL, or what is wrong.
 */
const char *lock_vm_check_locked(const struct lock_vm *lvm, u64 nr_blocks, u64 nr_pages)
{
	/* How many there are for blocks is up to the kernel. */
	return lock_vm_check_leaves(lvm, nr_blocks, nr_pages) ?:
	       lock_vm_check_held(lvm, nr_pages + !!nr_blocks);
}

/**
 * lock_vm_check_unlocked() - Check that no memslot is locked, and nothing is left of it
 * @lvm:	The VM.
 *
 * Return: NULL, or what is wrong.
 */
const char *lock_vm_check_unlocked(const struct lock_vm *lvm)
{
	u64 nr = vm_get_stat(lvm->vm, locked_pages);

	if (nr)
		return lock_failed("locked_pages is %lu, not 0", nr);
	if (!failed_with(__memslot_unlock(lvm->vm, LOCK_SLOT), EINVAL))
		return "the memslot is locked";
	if (!lock_usage_is(lvm->base))
		return "memory is still locked or pinned";

	return NULL;
}

/**
 * lock_vm_check_lockable() - Check that the memslot can be locked, and unlocked again
 * @lvm:	The VM, none of whose memslots is locked.
 * @perms:	MEMSLOT_LOCK_R or MEMSLOT_LOCK_RW.
 * @nr_blocks:	Number of blocks that are expected at stage 2.
 * @nr_pages:	Number of pages that are expected at stage 2.
 *
 * Return: NULL, or what is wrong.
 */
const char *lock_vm_check_lockable(const struct lock_vm *lvm, u64 perms, u64 nr_blocks,
				   u64 nr_pages)
{
	const char *failure;

	if (__memslot_lock(lvm->vm, LOCK_SLOT, perms))
		return lock_failed("can't be locked, errno %d", errno);
	failure = lock_vm_check_locked(lvm, nr_blocks, nr_pages);
	if (__memslot_unlock(lvm->vm, LOCK_SLOT))
		return lock_failed("can't be unlocked, errno %d", errno);

	return failure ?: lock_vm_check_unlocked(lvm);
}

static const char *check_faults(u64 nr, u64 min_faults, u64 max_faults, const char *what)
{
	if (nr < min_faults || nr > max_faults)
		return lock_failed("%s takes %lu faults, not %lu to %lu", what, nr, min_faults,
			      max_faults);

	return NULL;
}

/**
 * lock_vm_check_reads() - Have the guest read all pages of the memslot
 * @lvm:	The VM, after lock_vm_fill().
 * @min_faults:	How many stage-2 faults there must be on it.
 * @max_faults:	How many there can be.
 *
 * Return: NULL, or what is wrong.
 */
const char *lock_vm_check_reads(const struct lock_vm *lvm, u64 min_faults, u64 max_faults)
{
	u64 nr = guest_faults(lvm->faults), wrong;

	wrong = mte_vcpu_call(lvm->vcpu, mte_count_wrong_addrs, lvm->gpa, lvm->nr_pages,
			      getpagesize(), 0);
	if (wrong)
		return lock_failed("the guest reads wrong data from %lu of %lu pages", wrong,
			      lvm->nr_pages);

	return check_faults(guest_faults(lvm->faults) - nr, min_faults, max_faults,
			    "reading all pages");
}

/**
 * lock_vm_check_writes() - Have the guest write to all pages of the memslot
 * @lvm:	The VM.
 * @min_faults:	How many stage-2 faults there must be on it.
 * @max_faults:	How many there can be.
 *
 * The VMM must see the data, which differs from that of any other call. It isn't where
 * lock_vm_fill() writes.
 *
 * Return: NULL, or what is wrong.
 */
const char *lock_vm_check_writes(const struct lock_vm *lvm, u64 min_faults, u64 max_faults)
{
	u64 nr = guest_faults(lvm->faults), wrong;
	static u64 data = 0x6c6f636b00000000UL;

	mte_vcpu_call(lvm->vcpu, mte_write_data, lvm->gpa + sizeof(u64), lvm->nr_pages,
		      getpagesize(), ++data);
	nr = guest_faults(lvm->faults) - nr;

	wrong = mte_count_wrong_data((u64)lvm->hva + sizeof(u64), lvm->nr_pages,
				     getpagesize(), data);
	if (wrong)
		return lock_failed("the VMM doesn't see what the guest writes to %lu of %lu pages",
			      wrong, lvm->nr_pages);

	return check_faults(nr, min_faults, max_faults, "writing to all pages");
}

const struct lock_kind lock_kinds[LOCK_NR_KINDS] = {
	[LOCK_ANON]		= { "anonymous", MTE_MEM_ANON },
	[LOCK_MEMFD]		= { "memfd", MTE_MEM_MEMFD, .shared = true },
	[LOCK_THP]		= { "THP", MTE_MEM_ANON_THP, .blocks = true },
	[LOCK_MEMFD_THP]	= { "memfd THP", MTE_MEM_MEMFD_THP, .blocks = true,
				    .shared = true },
	[LOCK_HUGETLB]		= { "hugetlb", MTE_MEM_HUGETLB, .blocks = true,
				    .hugetlb = true },
	[LOCK_MEMFD_HUGETLB]	= { "memfd hugetlb", MTE_MEM_MEMFD_HUGETLB, .blocks = true,
				    .hugetlb = true, .shared = true },
};

/**
 * lock_mem_alloc() - Allocate memory for a memslot
 * @mem:	What to fill in.
 * @kind:	The kind of memory.
 * @nr_blocks:	The size, if it has blocks. It is LOCK_NR_PAGES otherwise.
 * @populate:	Whether to allocate the pages, too.
 *
 * Return: NULL, or why there is no such memory.
 */
const char *lock_mem_alloc(struct mte_mem *mem, const struct lock_kind *kind, u64 nr_blocks,
			   bool populate)
{
	const char *reason;
	size_t size;

	if (kind->blocks && pmd_size() > LOCK_MAX_BLOCK)
		return "the blocks are too large to have several";

	size = kind->blocks ? nr_blocks * pmd_size() : LOCK_NR_PAGES * getpagesize();
	reason = mte_mem_alloc(mem, kind->type, pmd_size(), size);
	if (reason || !populate)
		return reason;

	reason = mte_mem_populate(mem);
	if (reason)
		mte_mem_free(mem);

	return reason;
}

/**
 * lock_env_start() - Have statistics count from here on
 * @env:	The memslot.
 */
void lock_env_start(struct lock_env *env)
{
	env->zapped = vm_get_stat(env->lvm.vm, locked_pages_zapped);
	env->repaired = vm_get_stat(env->lvm.vm, locked_pages_repaired);
	env->changed = vm_get_stat(env->lvm.vm, locked_pages_changed);
}

/**
 * lock_env_zapped() - Pages that were to be unmapped
 * @env:	The memslot.
 *
 * Return: how many since lock_env_start().
 */
u64 lock_env_zapped(const struct lock_env *env)
{
	return vm_get_stat(env->lvm.vm, locked_pages_zapped) - env->zapped;
}

/**
 * lock_env_repaired() - Pages that KVM has mapped again on its own
 * @env:	The memslot.
 *
 * Return: how many since lock_env_start().
 */
u64 lock_env_repaired(const struct lock_env *env)
{
	return vm_get_stat(env->lvm.vm, locked_pages_repaired) - env->repaired;
}

/**
 * lock_env_changed() - Pages that KVM didn't map again, as the VMM has changed them
 * @env:	The memslot.
 *
 * Return: how many since lock_env_start().
 */
u64 lock_env_changed(const struct lock_env *env)
{
	return vm_get_stat(env->lvm.vm, locked_pages_changed) - env->changed;
}

/* It takes some ticks, and some tries. */
#define WAIT_MS		10000
#define WAIT_STEP_MS	5

/**
 * lock_env_wait_repaired() - Wait until KVM has mapped again what was unmapped
 * @env:	The memslot, nothing of which the VMM has changed.
 * @min:	How many pages it must have been.
 * @nr_blocks:	Blocks at stage 2 then.
 * @nr_pages:	Pages at stage 2 then.
 *
 * Return: NULL, or what is wrong.
 */
const char *lock_env_wait_repaired(const struct lock_env *env, u64 min, u64 nr_blocks,
				   u64 nr_pages)
{
	const char *failure;
	u64 nr;
	int ms;

	for (ms = 0; ms < WAIT_MS; ms += WAIT_STEP_MS) {
		nr = lock_env_repaired(env);
		failure = lock_vm_check_leaves(&env->lvm, nr_blocks, nr_pages);
		if (nr >= min && !failure)
			break;
		usleep(WAIT_STEP_MS * 1000);
	}
	if (failure)
		return failure;
	if (nr < min)
		return lock_failed("locked_pages_repaired is %lu, not %lu or more", nr, min);

	nr = lock_env_changed(env);

	return nr ? lock_failed("locked_pages_changed is %lu, not 0", nr) : NULL;
}

/**
 * lock_env_wait_changed() - Wait until KVM has found out what the VMM has changed
 * @env:	The memslot.
 * @nr:		How many pages that is.
 *
 * Return: NULL, or what is wrong.
 */
const char *lock_env_wait_changed(const struct lock_env *env, u64 nr)
{
	int ms;

	for (ms = 0; ms < WAIT_MS && lock_env_changed(env) < nr; ms += WAIT_STEP_MS)
		usleep(WAIT_STEP_MS * 1000);

	if (lock_env_changed(env) != nr)
		return lock_failed("locked_pages_changed is %lu, not %lu", lock_env_changed(env),
				   nr);

	return NULL;
}

/**
 * lock_env_check_frames() - Check which page frames the VMM has mapped
 * @env:	The memslot.
 * @expected:	How many of them must be those that were pinned.
 *
 * Return: NULL, or what is wrong.
 */
const char *lock_env_check_frames(const struct lock_env *env, u64 expected)
{
	u64 nr = page_frames_count(&env->frames, env->mem.hva, env->mem.size);

	if (nr != expected)
		return lock_failed("%lu pages have a frame that was pinned, not %lu", nr, expected);

	return NULL;
}

/**
 * lock_env_check_held() - lock_vm_check_held(), whatever has happened
 * @env:	The memslot.
 *
 * Return: NULL, or what is wrong.
 */
const char *lock_env_check_held(const struct lock_env *env)
{
	return lock_vm_check_held(&env->lvm, env->nr_pages + !!env->nr_blocks);
}

/**
 * lock_env_check_use() - Have the guest use all pages, without faults
 * @env:	The memslot, after lock_vm_fill().
 *
 * If it is locked for reading, the first write to a page is one that is expected.
 *
 * Return: NULL, or what is wrong.
 */
const char *lock_env_check_use(const struct lock_env *env)
{
	u64 max_writes = env->perms == MEMSLOT_LOCK_R ? env->lvm.nr_pages : 0;

	return lock_vm_check_reads(&env->lvm, 0, 0) ?:
	       lock_vm_check_writes(&env->lvm, 0, max_writes);
}

/**
 * lock_env_check_unlock() - Unlock the memslot, which gives back what locking has taken
 * @env:	The memslot, whatever has happened.
 *
 * Return: NULL, or what is wrong.
 */
const char *lock_env_check_unlock(const struct lock_env *env)
{
	if (__memslot_unlock(env->lvm.vm, LOCK_SLOT))
		return lock_failed("can't be unlocked, errno %d", errno);

	return lock_vm_check_unlocked(&env->lvm);
}

static void lock_env_lock(struct lock_env *env)
{
	const char *failure;

	env->nr_blocks = env->kind->blocks && env->perms == MEMSLOT_LOCK_RW ? LOCK_NR_BLOCKS : 0;
	env->nr_pages = (env->mem.size - env->nr_blocks * pmd_size()) / getpagesize();

	memslot_lock(env->lvm.vm, LOCK_SLOT, env->perms);
	failure = lock_vm_check_locked(&env->lvm, env->nr_blocks, env->nr_pages) ?:
		  lock_vm_check_reads(&env->lvm, 0, 0);
	TEST_ASSERT(!failure, "%s memory, locked %s: %s", env->kind->name,
		    memslot_lock_name(env->perms), failure);

	failure = page_frames_get(&env->frames, env->mem.hva, env->mem.size);
	TEST_ASSERT(!failure, "%s", failure);
	lock_env_start(env);
}

/**
 * lock_case_run() - Run a case with one kind of memory
 * @test:	The case.
 * @kind:	The kind of memory.
 * @perms:	MEMSLOT_LOCK_R or MEMSLOT_LOCK_RW.
 *
 * What goes wrong before anything has happened to the memslot ends the test.
 *
 * Return: What has come of it.
 */
struct lock_outcome lock_case_run(const struct lock_case *test, const struct lock_kind *kind,
				  u64 perms)
{
	struct lock_env env = { .kind = kind, .perms = perms };
	struct lock_outcome outcome = {};

	outcome.skip = lock_mem_alloc(&env.mem, kind, LOCK_NR_BLOCKS, true);
	if (outcome.skip)
		return outcome;

	lock_vm_create(&env.lvm, false, 0, MTE_TEST_GPA, env.mem.hva, env.mem.size);
	lock_vm_fill(&env.lvm);
	if (test->prepare)
		outcome.skip = test->prepare(&env);
	if (!outcome.skip) {
		lock_env_lock(&env);
		outcome = test->run(&env, test->arg);
		page_frames_put(&env.frames);
	}

	lock_vm_free(&env.lvm);
	mte_mem_free(&env.mem);

	return outcome;
}
