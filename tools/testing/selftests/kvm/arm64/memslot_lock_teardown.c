// SPDX-License-Identifier: GPL-2.0-only
/*
 * memslot_lock_teardown - Check the beginning and the end of a lock of a memslot:
 * that it keeps nobody from what is none of its business, and that nothing is left.
 *
 * Locking a memslot takes as long as the VMM likes, if it handles the page faults with
 * userfaultfd. Meanwhile this memslot can't be changed, locked or unlocked, but others
 * can, and vCPUs run. A broken kernel makes others wait, and hangs if the fault waits
 * for them, or lets them change what is about to be pinned. A signal ends it, and
 * nothing remains. A broken kernel keeps pins, the accounting, or mappings at stage 2.
 *
 * A lock ends with the VM, or with the process that has created it, whichever is the
 * first. So try the VM's file descriptors and mappings in any order, each of which keeps
 * the VM; a process that exits, executes a program or is killed, with the memory locked,
 * a vCPU running or the memory being locked; a file descriptor in the hands of another
 * process, which can't do anything with it, but is the last to close it; and both at the
 * same time. A broken kernel leaks pins, releases them twice, or accounts them to the
 * process that happens to close the file descriptor.
 *
 * Pins are counted by the host. What is accounted to a process is gone with it, but if
 * the kernel finds that it doesn't add up it says so.
 */
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include <linux/sizes.h>
#include <linux/userfaultfd.h>

#include "fork_case.h"
#include "kvm_util.h"
#include "memslot_lock.h"
#include "mte.h"
#include "processor.h"
#include "test_util.h"

#define DATA_SLOT	1
#define OTHER_SLOT	2
#define NR_PAGES	16
#define NR_OTHER_PAGES	4

/* From where a memslot is to the next place that is free. */
#define DISTANCE	((gpa_t)SZ_1G)
#define OTHER_GPA	(MTE_TEST_GPA + 2 * DISTANCE)

/* Enough for what is mapped by two blocks, and a bit more. */
#define NR_FOLIOS	3

/* How long something may take that has no reason to wait, on the slowest machine. */
#define PATIENCE_MS	20000
#define CASE_SECONDS	90

#define NR_KILLS	16
#define NR_RACES	24
#define NR_VCPUS	64
/* Of these some run, and this is how often the memslot is locked meanwhile. */
#define NR_RUNNING	4
#define NR_ROUNDS	10

static size_t page_size;
static bool leaves_shown;
static const char *no_hugetlb;

struct env {
	struct mte_mem		mem;
	struct kvm_vm		*vm;
	struct kvm_vcpu		*vcpu;
	u64			nr_pages;
	/* Before anything was locked. */
	struct lock_usage	base;
	/* What userfaultfd is asked for, at an offset. */
	int			uffd;
	size_t			missing;
	size_t			unit;
};

static const struct kind {
	const char *name;
	enum mte_mem_type type;
	u64 perms;
} kinds[] = {
	{ "pages, read", MTE_MEM_ANON, MEMSLOT_LOCK_R },
	{ "pages, write", MTE_MEM_ANON, MEMSLOT_LOCK_RW },
	{ "memfd, write", MTE_MEM_MEMFD, MEMSLOT_LOCK_RW },
	{ "hugetlb, read", MTE_MEM_HUGETLB, MEMSLOT_LOCK_R },
	{ "hugetlb, write", MTE_MEM_HUGETLB, MEMSLOT_LOCK_RW },
};

/* Returns false if there is no such memory, which is a reason to skip the case. */
static bool env_init(struct env *env, enum mte_mem_type type)
{
	bool hugetlb = type == MTE_MEM_HUGETLB;
	const char *reason;
	size_t size;

	memset(env, 0, sizeof(*env));
	if (hugetlb && no_hugetlb) {
		fork_case_skip("%s", no_hugetlb);
		return false;
	}

	size = hugetlb ? 2 * pmd_size() : NR_PAGES * page_size;
	reason = mte_mem_alloc(&env->mem, type, pmd_size(), size);
	if (reason) {
		fork_case_skip("%s", reason);
		return false;
	}

	env->nr_pages = size / page_size;
	env->missing = size / 2;
	env->unit = env->mem.folio_size;
	env->vm = __vm_create(VM_SHAPE_DEFAULT, 1,
			      (size + NR_OTHER_PAGES * page_size) / SZ_4K);
	mte_vm_add_vcpus(env->vm, 1, &env->vcpu);
	mte_vm_add_slot(env->vm, DATA_SLOT, 0, MTE_TEST_GPA, env->mem.hva, size);
	env->base = lock_usage();

	return true;
}

/* A block is pinned once. */
static u64 nr_pins(struct env *env, u64 perms)
{
	if (env->mem.type == MTE_MEM_HUGETLB && perms == MEMSLOT_LOCK_RW)
		return env->mem.size / pmd_size();

	return env->nr_pages;
}

static bool usage_is(struct env *env, u64 size, u64 pins, const char *when)
{
	struct lock_usage expected = {
		.locked_vm	= env->base.locked_vm + size,
		.pins		= env->base.pins + pins,
	};

	return fork_case_expect(lock_usage_is(expected), "%s: wrong memory is locked", when);
}

static bool leaves_are(struct env *env, u64 nr_blocks, u64 nr_pages, const char *when)
{
	u64 blocks, pages;

	if (!leaves_shown)
		return true;

	TEST_ASSERT(mte_stage2_leaves(env->vm, MTE_TEST_GPA, env->mem.size, &blocks, &pages),
		    "Can't read the stage-2 page-table");

	return fork_case_expect(blocks == nr_blocks && pages == nr_pages,
				"%s: %lu blocks and %lu pages at stage 2, expected %lu and %lu",
				when, blocks, pages, nr_blocks, nr_pages);
}

static bool stat_is(struct env *env, u64 expected, const char *when)
{
	u64 locked_pages = vm_get_stat(env->vm, locked_pages);

	return fork_case_expect(locked_pages == expected, "%s: locked_pages is %lu, not %lu",
				when, locked_pages, expected);
}

static bool guest_sees(struct env *env, u64 nr_pages, const char *when)
{
	u64 wrong = mte_vcpu_call(env->vcpu, mte_count_wrong_addrs, MTE_TEST_GPA, nr_pages,
				  page_size, 0);

	return fork_case_expect(!wrong, "%s: %lu of %lu pages are wrong in the guest",
				when, wrong, nr_pages);
}

/* All that comes with a lock: it is accounted, pinned, and mapped before the guest asks. */
static bool check_locked(struct env *env, u64 perms, const char *when)
{
	bool blocks = nr_pins(env, perms) < env->nr_pages;

	return usage_is(env, env->mem.size, nr_pins(env, perms), when) &&
	       stat_is(env, env->nr_pages, when) &&
	       leaves_are(env, blocks ? env->mem.size / pmd_size() : 0,
			  blocks ? 0 : env->nr_pages, when) &&
	       fork_case_returns(__memslot_lock(env->vm, DATA_SLOT, perms), EBUSY, when);
}

/* As if it had never been. If nobody has run, nothing is mapped. */
static bool check_unlocked(struct env *env, bool has_run, const char *when)
{
	return usage_is(env, 0, 0, when) && stat_is(env, 0, when) &&
	       (has_run || leaves_are(env, 0, 0, when)) &&
	       fork_case_returns(__memslot_unlock(env->vm, DATA_SLOT), EINVAL, when);
}

static int set_slot(struct env *env, u32 flags, gpa_t gpa, u64 size)
{
	return __vm_set_user_memory_region(env->vm, DATA_SLOT, flags, gpa, size, env->mem.hva);
}

/* Memory of which one folio is missing, and a thread that is about to pin it. */

static bool open_uffd(struct env *env)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = {
		.range.start	= (u64)env->mem.hva + env->missing,
		.range.len	= env->unit,
		.mode		= UFFDIO_REGISTER_MODE_MISSING,
	};

	if (env->mem.type == MTE_MEM_MEMFD)
		api.features = UFFD_FEATURE_MISSING_SHMEM;
	else if (env->mem.type == MTE_MEM_HUGETLB)
		api.features = UFFD_FEATURE_MISSING_HUGETLBFS;

	/* Without it, a poll() would always be an error. */
	env->uffd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (env->uffd < 0) {
		fork_case_skip("no userfaultfd, or not allowed to handle faults of the kernel");
		return false;
	}

	if (ioctl(env->uffd, UFFDIO_API, &api)) {
		fork_case_skip("userfaultfd can't handle this kind of memory");
		return false;
	}
	TEST_ASSERT(!ioctl(env->uffd, UFFDIO_REGISTER, &reg),
		    "UFFDIO_REGISTER failed, errno %d", errno);

	return true;
}

static bool wait_for_fault(struct env *env)
{
	struct pollfd pollfd = { .fd = env->uffd, .events = POLLIN };
	u64 addr = (u64)env->mem.hva + env->missing;
	struct uffd_msg msg;

	if (!fork_case_expect(poll(&pollfd, 1, PATIENCE_MS) == 1,
			      "to lock the memory doesn't create what is missing"))
		return false;

	TEST_ASSERT(read(env->uffd, &msg, sizeof(msg)) == sizeof(msg) &&
		    msg.event == UFFD_EVENT_PAGEFAULT, "Not a fault");

	return fork_case_expect(msg.arg.pagefault.address >= addr &&
				msg.arg.pagefault.address < addr + env->unit,
				"a fault at 0x%llx, not 0x%lx", msg.arg.pagefault.address, addr);
}

static void resolve_fault(struct env *env)
{
	struct uffdio_copy copy = {
		.dst	= (u64)env->mem.hva + env->missing,
		.len	= env->unit,
	};
	void *src;

	src = kvm_mmap(env->unit, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	lock_fill(src, MTE_TEST_GPA + env->missing, env->unit);
	copy.src = (u64)src;
	TEST_ASSERT(!ioctl(env->uffd, UFFDIO_COPY, &copy), "UFFDIO_COPY failed, errno %d", errno);
	kvm_munmap(src, env->unit);
}

struct locker {
	struct env	*env;
	u64		perms;
	pthread_t	thread;
	int		ret;
	int		err;
	bool		done;
};

static void *lock_thread(void *arg)
{
	struct locker *locker = arg;

	fork_case_doing(1, "locking the memslot");
	locker->ret = __memslot_lock(locker->env->vm, DATA_SLOT, locker->perms);
	locker->err = errno;
	WRITE_ONCE(locker->done, true);
	fork_case_doing(1, NULL);

	return NULL;
}

/* Have a thread lock the memslot, up to what is missing. */
static bool start_locking(struct env *env, struct locker *locker, u64 perms)
{
	*locker = (struct locker) { .env = env, .perms = perms };

	fork_case_doing(0, "waits for the fault of the thread that locks the memslot");
	kvm_pthread_create(&locker->thread, NULL, lock_thread, locker);

	return wait_for_fault(env);
}

static bool still_locking(struct locker *locker, const char *when)
{
	return fork_case_expect(!READ_ONCE(locker->done),
				"%s: the memslot is no longer being locked", when);
}

static bool join_locker(struct locker *locker, int err, const char *what)
{
	kvm_pthread_join(locker->thread, NULL);
	errno = locker->err;

	return fork_case_returns(locker->ret, err, what);
}

/* Let it have what is missing. It all must be as if there had been nothing to wait for. */
static void finish_locking(struct env *env, struct locker *locker)
{
	if (!still_locking(locker, "before the fault is resolved"))
		return;

	fork_case_doing(0, "waits for the memslot to be locked");
	resolve_fault(env);
	if (!join_locker(locker, 0, "to lock, when the fault was resolved") ||
	    !check_locked(env, locker->perms, "locked after a fault"))
		return;

	fork_case_doing(0, "uses the memslot after it was locked");
	if (!guest_sees(env, env->nr_pages, "locked after a fault") ||
	    !fork_case_returns(__memslot_unlock(env->vm, DATA_SLOT), 0, "to unlock") ||
	    !check_unlocked(env, true, "unlocked"))
		return;

	guest_sees(env, env->nr_pages, "unlocked");
	fork_case_returns(set_slot(env, 0, MTE_TEST_GPA, 0), 0, "to delete an unlocked memslot");
}

static bool env_init_missing(struct env *env, enum mte_mem_type type)
{
	size_t end;

	if (!env_init(env, type) || !open_uffd(env))
		return false;

	end = env->missing + env->unit;
	lock_fill(env->mem.hva, MTE_TEST_GPA, env->missing);
	lock_fill(env->mem.hva + end, MTE_TEST_GPA + end, env->mem.size - end);

	return true;
}

/* Nothing can be done with the memslot, and trying has no effect on it. */
static void run_refused(const void *arg)
{
	const struct kind *kind = arg;
	struct lock_usage usage;
	struct locker locker;
	struct env env;

	if (!env_init_missing(&env, kind->type) || !start_locking(&env, &locker, kind->perms))
		return;

	usage = lock_usage();
	fork_case_doing(0, "locks a memslot that is being locked");
	fork_case_returns(__memslot_lock(env.vm, DATA_SLOT, MEMSLOT_LOCK_R), EBUSY,
			  "to lock for reading");
	fork_case_returns(__memslot_lock(env.vm, DATA_SLOT, MEMSLOT_LOCK_RW), EBUSY,
			  "to lock for writing");
	fork_case_doing(0, "unlocks a memslot that is being locked");
	fork_case_returns(__memslot_unlock(env.vm, DATA_SLOT), EBUSY, "to unlock");
	fork_case_returns(__memslot_unlock_all(env.vm), 0, "to unlock all");
	fork_case_doing(0, "changes a memslot that is being locked");
	fork_case_returns(set_slot(&env, 0, MTE_TEST_GPA, 0), EBUSY, "to delete");
	fork_case_returns(set_slot(&env, 0, MTE_TEST_GPA + DISTANCE, env.mem.size), EBUSY,
			  "to move");
	fork_case_returns(set_slot(&env, KVM_MEM_LOG_DIRTY_PAGES, MTE_TEST_GPA, env.mem.size),
			  EBUSY, "to log dirty pages");
	fork_case_returns(set_slot(&env, 0, MTE_TEST_GPA, env.mem.size), 0, "to change nothing");

	still_locking(&locker, "others have tried to do something");
	fork_case_expect(lock_usage_is(usage), "others have changed what is pinned");
	/* Whatever has changed would be noticed here at the latest. */
	fork_case_returns(__memslot_unlock(env.vm, DATA_SLOT), EBUSY, "to unlock at last");
	finish_locking(&env, &locker);
}

/* Whoever doesn't need the memslot can do what he likes, and a vCPU can use it. */
static void run_others(const void *arg)
{
	size_t size = NR_OTHER_PAGES * page_size;
	const struct kind *kind = arg;
	struct lock_usage usage, more;
	struct locker locker;
	const char *reason;
	struct mte_mem mem;
	struct env env;
	u64 wrong;

	if (!env_init_missing(&env, kind->type) || !start_locking(&env, &locker, kind->perms))
		return;

	usage = lock_usage();
	more = (struct lock_usage) {
		.locked_vm	= usage.locked_vm + size,
		.pins		= usage.pins + NR_OTHER_PAGES,
	};
	reason = mte_mem_alloc(&mem, MTE_MEM_ANON, 0, size);
	TEST_ASSERT(!reason, "No memory: %s", reason);
	lock_fill(mem.hva, OTHER_GPA, size);

	fork_case_doing(0, "adds a memslot while another one is being locked");
	mte_vm_add_slot(env.vm, OTHER_SLOT, 0, OTHER_GPA, mem.hva, size);
	fork_case_doing(0, "locks a memslot while another one is being locked");
	if (!fork_case_returns(__memslot_lock(env.vm, OTHER_SLOT, MEMSLOT_LOCK_RW), 0,
			       "to lock another memslot") ||
	    !fork_case_expect(lock_usage_is(more), "another memslot isn't locked as it should"))
		return;

	fork_case_doing(0, "runs a vCPU while a memslot is being locked");
	wrong = mte_vcpu_call(env.vcpu, mte_count_wrong_addrs, OTHER_GPA, NR_OTHER_PAGES,
			      page_size, 0);
	fork_case_expect(!wrong, "another memslot has wrong data");
	guest_sees(&env, env.missing / page_size, "being locked");
	mte_vcpu_call(env.vcpu, mte_write_addrs, MTE_TEST_GPA, env.missing / page_size,
		      page_size, 0);

	fork_case_doing(0, "unlocks memslots while another one is being locked");
	fork_case_returns(__memslot_unlock_all(env.vm), 0, "to unlock all");
	fork_case_returns(__memslot_unlock(env.vm, OTHER_SLOT), EINVAL,
			  "to unlock what was unlocked with all");
	fork_case_expect(lock_usage_is(usage), "another memslot wasn't unlocked");

	fork_case_doing(0, "changes a memslot while another one is being locked");
	vm_set_user_memory_region(env.vm, OTHER_SLOT, KVM_MEM_LOG_DIRTY_PAGES, OTHER_GPA,
				  size, mem.hva);
	vm_set_user_memory_region(env.vm, OTHER_SLOT, 0, OTHER_GPA, size, mem.hva);
	vm_set_user_memory_region(env.vm, OTHER_SLOT, 0, OTHER_GPA + DISTANCE, size, mem.hva);
	vm_set_user_memory_region(env.vm, OTHER_SLOT, 0, OTHER_GPA + DISTANCE, 0, mem.hva);

	finish_locking(&env, &locker);
}

static void handle_signal(int sig)
{
}

/* A signal ends it, with nothing left, and it can be done again. */
static void run_signal(const void *arg)
{
	/* Restarting isn't for the kernel to decide. */
	struct sigaction action = { .sa_handler = handle_signal, .sa_flags = SA_RESTART };
	const struct kind *kind = arg;
	struct locker locker;
	struct env env;

	TEST_ASSERT(!sigaction(SIGUSR1, &action, NULL), "sigaction() failed, errno %d", errno);
	if (!env_init_missing(&env, kind->type) || !start_locking(&env, &locker, kind->perms))
		return;

	fork_case_doing(0, "waits for a signal to be noticed");
	TEST_ASSERT(!pthread_kill(locker.thread, SIGUSR1), "pthread_kill() failed");
	if (!join_locker(&locker, EINTR, "to lock, with a signal") ||
	    !check_unlocked(&env, false, "after a signal"))
		return;

	fork_case_doing(0, "uses the memslot after a signal");
	if (!fork_case_returns(set_slot(&env, 0, MTE_TEST_GPA, 0), 0, "to delete the memslot") ||
	    !fork_case_returns(set_slot(&env, 0, MTE_TEST_GPA, env.mem.size), 0, "to add it"))
		return;

	if (start_locking(&env, &locker, kind->perms))
		finish_locking(&env, &locker);
}

static const struct waiting {
	const char *name;
	fork_case_fn run;
} waiting[] = {
	{ "being locked, nothing else can be done", run_refused },
	{ "being locked, others aren't held up", run_others },
	{ "being locked, signal", run_signal },
};

/*
 * What keeps the VM, in the order in which it is given up:
 *
 *  v  file descriptor of the VM
 *  c  file descriptor of a vCPU
 *  m  mapping of that
 *  s  file descriptor of the statistics
 *  g  file descriptor of a device
 *
 * and u, which doesn't: the memory, which is unmapped.
 */
static const char * const orders[] = {
	"v", "vcm", "vmc", "cvm", "cmv", "mcv", "mvc", "vcms", "cmgv", "vcmg", "uvcm", "vucm",
};

static int vcpu_mapping_size(struct kvm_vm *vm)
{
	int ret = ioctl(vm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, NULL);

	TEST_ASSERT(ret > 0, KVM_IOCTL_ERROR(KVM_GET_VCPU_MMAP_SIZE, ret));

	return ret;
}

static void run_close(const void *arg)
{
	int device = -1, run_size = 0;
	struct kvm_vcpu *vcpu = NULL;
	const char *order = arg, *p;
	struct env env = {};
	const char *reason;

	env.vm = vm_create_barebones();
	if (strchr(order, 'g')) {
		if (__kvm_test_create_device(env.vm, KVM_DEV_TYPE_ARM_VGIC_V3)) {
			fork_case_skip("no GICv3");
			return;
		}
		device = kvm_create_device(env.vm, KVM_DEV_TYPE_ARM_VGIC_V3);
	}
	if (strchr(order, 'c')) {
		vcpu = __vm_vcpu_add(env.vm, 0);
		run_size = vcpu_mapping_size(env.vm);
		if (vcpu->stats.fd >= 0)
			kvm_close(vcpu->stats.fd);
	}
	if (env.vm->stats.fd >= 0 && !strchr(order, 's'))
		kvm_close(env.vm->stats.fd);

	reason = mte_mem_alloc(&env.mem, MTE_MEM_ANON, 0, NR_PAGES * page_size);
	TEST_ASSERT(!reason, "No memory: %s", reason);
	vm_set_user_memory_region(env.vm, DATA_SLOT, 0, MTE_TEST_GPA, env.mem.size, env.mem.hva);
	env.base = lock_usage();
	memslot_lock(env.vm, DATA_SLOT, MEMSLOT_LOCK_RW);

	for (p = order; *p; p++) {
		if (!usage_is(&env, env.mem.size, NR_PAGES, "before the VM is gone"))
			return;

		switch (*p) {
		case 'v':
			kvm_close(env.vm->fd);
			break;
		case 'c':
			kvm_close(vcpu->fd);
			break;
		case 'm':
			kvm_munmap(vcpu->run, run_size);
			break;
		case 's':
			kvm_close(env.vm->stats.fd);
			break;
		case 'g':
			kvm_close(device);
			break;
		case 'u':
			kvm_munmap(env.mem.map, env.mem.map_size);
			break;
		}
	}

	usage_is(&env, 0, 0, "after the VM is gone");
}

/* What processes share: those of a case, and the program that one of them executes. */
static struct sync {
	int	ready;
	int	go;
	/* A VM of one of them, for another one. */
	int	vm_fd;
	int	offered;
	int	taken;
} *sync_state;

static void sync_init(void)
{
	sync_state = kvm_mmap(sizeof(*sync_state), PROT_READ | PROT_WRITE,
			      MAP_SHARED | MAP_ANONYMOUS, -1);
}

static void set_flag(int *flag)
{
	__atomic_store_n(flag, 1, __ATOMIC_SEQ_CST);
}

static bool flag_is_set(int *flag)
{
	return __atomic_load_n(flag, __ATOMIC_SEQ_CST);
}

static void await(int *flag)
{
	while (!flag_is_set(flag))
		usleep(500);
}

static void await_go(void)
{
	await(&sync_state->go);
}

/* Wait for a process to be where it should be, or to have failed on the way. */
static bool await_process(pid_t pid, int *flag)
{
	siginfo_t info;

	while (!flag_is_set(flag)) {
		info.si_pid = 0;
		/* It is left as it is, for whoever waits for its end. */
		if (!waitid(P_PID, pid, &info, WEXITED | WNOHANG | WNOWAIT) && info.si_pid) {
			fork_case_fail("a process has ended too early");
			return false;
		}
		usleep(500);
	}

	return true;
}

static bool await_ready(pid_t pid)
{
	return await_process(pid, &sync_state->ready);
}

static pid_t fork_process(void)
{
	pid_t pid;

	fflush(stdout);
	pid = fork();
	TEST_ASSERT(pid >= 0, "fork() failed, errno %d", errno);
	if (!pid)
		prctl(PR_SET_PDEATHSIG, SIGKILL);

	return pid;
}

static bool ends_with(pid_t pid, int expected, const char *what)
{
	int status;

	fork_case_doing(0, "waits for the end of a process");
	TEST_ASSERT(waitpid(pid, &status, 0) == pid, "waitpid() failed, errno %d", errno);

	return fork_case_expect(status == expected, "%s: status 0x%x, expected 0x%x",
				what, status, expected);
}

/* In the program that the VMM has executed, with the file descriptor of the VM. */

static bool is_eio(int ret)
{
	return ret == -1 && errno == EIO;
}

static bool all_is_eio(struct kvm_vm *vm)
{
	return is_eio(__memslot_lock(vm, DATA_SLOT, MEMSLOT_LOCK_R)) &&
	       is_eio(__memslot_lock(vm, OTHER_SLOT, MEMSLOT_LOCK_R)) &&
	       is_eio(__memslot_unlock(vm, DATA_SLOT)) && is_eio(__memslot_unlock_all(vm));
}

/* What it exits with. */
enum {
	AFTER_EXEC_GOOD,
	AFTER_EXEC_LOCKED,
	AFTER_EXEC_USABLE,
	AFTER_EXEC_CLOSED,
};

static int after_exec(int fd, long pins)
{
	struct lock_usage usage = { .pins = pins };
	struct kvm_vm vm = { .fd = fd };

	if (!lock_usage_is(usage))
		return AFTER_EXEC_LOCKED;

	if (!all_is_eio(&vm))
		return AFTER_EXEC_USABLE;

	close(fd);

	return lock_usage_is(usage) ? AFTER_EXEC_GOOD : AFTER_EXEC_CLOSED;
}

static const char *after_exec_says(int status)
{
	if (!WIFEXITED(status))
		return "the program has crashed";

	switch (WEXITSTATUS(status)) {
	case AFTER_EXEC_GOOD:
		return NULL;
	case AFTER_EXEC_LOCKED:
		return "memory remains locked or pinned when a program is executed";
	case AFTER_EXEC_USABLE:
		return "the VM can be used by another program";
	case AFTER_EXEC_CLOSED:
		return "something is wrong when the program has closed the VM";
	default:
		return "the program can't be executed";
	}
}

static void execute_program(int fd, long pins)
{
	char fd_arg[16], pins_arg[32];

	TEST_ASSERT(!fcntl(fd, F_SETFD, 0), "fcntl() failed, errno %d", errno);
	snprintf(fd_arg, sizeof(fd_arg), "%d", fd);
	snprintf(pins_arg, sizeof(pins_arg), "%ld", pins);
	execl("/proc/self/exe", program_invocation_name, "-x", fd_arg, pins_arg, NULL);
	TEST_FAIL("execl() failed, errno %d", errno);
}

/* How a VMM ends, and what it has locked then. */

enum death {
	KILLED,
	EXITS,
	EXECUTES,
	NR_DEATHS,
};

static const char * const death_names[] = {
	"VMM killed", "VMM exits", "VMM executes a program",
};

enum state {
	LOCKED,
	RUNNING,
	BEING_LOCKED,
	NR_STATES,
};

static const char * const state_names[] = { "locked", "a vCPU running", "being locked" };

struct end {
	enum death death;
	enum state state;
};

static void *run_forever(void *arg)
{
	struct env *env = arg;

	mte_vcpu_call(env->vcpu, lock_guest_write_forever, MTE_TEST_GPA, env->nr_pages,
		      page_size, 0);

	return NULL;
}

static void doomed_process(const struct end *end, long pins)
{
	struct locker locker;
	pthread_t thread;
	struct env env;

	if (end->state == BEING_LOCKED) {
		if (!env_init_missing(&env, MTE_MEM_ANON) ||
		    !start_locking(&env, &locker, MEMSLOT_LOCK_RW))
			return;
	} else {
		if (!env_init(&env, MTE_MEM_ANON))
			return;
		memslot_lock(env.vm, DATA_SLOT, MEMSLOT_LOCK_RW);
		if (!check_locked(&env, MEMSLOT_LOCK_RW, "before the end"))
			return;
	}

	if (end->state == RUNNING) {
		fork_case_doing(0, "waits for a vCPU to run");
		kvm_pthread_create(&thread, NULL, run_forever, &env);
		while (READ_ONCE(*(u64 *)env.mem.hva) < 2)
			usleep(500);
	}

	fork_case_doing(0, NULL);
	set_flag(&sync_state->ready);
	await_go();

	if (end->death == EXECUTES)
		execute_program(env.vm->fd, pins);
}

static void run_end(const void *arg)
{
	struct lock_usage base = lock_usage();
	const struct end *end = arg;
	const char *says;
	int status;
	pid_t pid;

	sync_init();
	pid = fork_process();
	if (!pid) {
		doomed_process(end, base.pins);
		_exit(0);
	}

	if (await_ready(pid)) {
		fork_case_expect(lock_usage().pins > base.pins, "nothing is pinned");
		if (end->death == KILLED)
			kill(pid, SIGKILL);
		else
			set_flag(&sync_state->go);
	}

	if (end->death == EXECUTES) {
		fork_case_doing(0, "waits for a program that was executed");
		TEST_ASSERT(waitpid(pid, &status, 0) == pid, "waitpid() failed, errno %d", errno);
		says = after_exec_says(status);
		fork_case_expect(!says, "%s", says);
	} else {
		ends_with(pid, end->death == KILLED ? SIGKILL : 0, "the VMM");
	}

	fork_case_expect(lock_usage_is(base), "memory remains locked or pinned");
}

/* A process that does nothing but lock and unlock, killed whenever. */

static void lock_and_unlock_forever(void)
{
	const char *reason;
	struct mte_mem mem;
	struct kvm_vm *vm;
	u64 n;

	reason = mte_mem_alloc(&mem, MTE_MEM_ANON, 0, SZ_4M);
	reason = reason ?: mte_mem_populate(&mem);
	TEST_ASSERT(!reason, "No memory: %s", reason);
	vm = vm_create_barebones();
	vm_set_user_memory_region(vm, DATA_SLOT, 0, MTE_TEST_GPA, mem.size, mem.hva);

	set_flag(&sync_state->ready);
	for (n = 0; !fork_case_failed(); n++) {
		fork_case_returns(__memslot_lock(vm, DATA_SLOT,
						 n % 2 ? MEMSLOT_LOCK_R : MEMSLOT_LOCK_RW),
				  0, "to lock again and again");
		fork_case_returns(__memslot_unlock(vm, DATA_SLOT), 0, "to unlock each time");
	}
}

static void run_killed_anytime(const void *unused)
{
	struct lock_usage base = lock_usage();
	pid_t pid;
	int i;

	sync_init();
	for (i = 0; i < NR_KILLS && !fork_case_failed(); i++) {
		sync_state->ready = 0;
		pid = fork_process();
		if (!pid) {
			lock_and_unlock_forever();
			_exit(0);
		}

		if (await_ready(pid))
			usleep(i * 700);
		kill(pid, SIGKILL);
		ends_with(pid, SIGKILL, "the VMM");
		fork_case_expect(lock_usage_is(base), "killed, try %d: memory remains pinned",
				 i + 1);
	}
}

/* The VM in the hands of another process. */

/* The same one, for this process. Returns -1 if there is no such process any more. */
static int get_fd_of(pid_t pid, int fd)
{
	int pidfd = syscall(__NR_pidfd_open, pid, 0), ret;

	TEST_ASSERT(pidfd >= 0, "pidfd_open() failed, errno %d", errno);
	ret = syscall(__NR_pidfd_getfd, pidfd, fd, 0);
	close(pidfd);

	return ret;
}

struct owner {
	pid_t pid;
	/* What was got from it. */
	struct kvm_vm vm;
};

/*
 * Fork the owner of a VM, with one memslot locked and another one not. It calls
 * @fn afterwards. Returns false if it didn't get that far.
 */
static bool owner_start(struct owner *owner, void (*fn)(struct env *env))
{
	const char *reason;
	struct env env = {};
	struct mte_mem mem;

	sync_init();
	owner->pid = fork_process();
	if (!owner->pid) {
		reason = mte_mem_alloc(&env.mem, MTE_MEM_ANON, 0, NR_PAGES * page_size);
		reason = reason ?: mte_mem_alloc(&mem, MTE_MEM_ANON, 0, page_size);
		TEST_ASSERT(!reason, "No memory: %s", reason);

		env.nr_pages = NR_PAGES;
		env.vm = vm_create_barebones();
		vm_set_user_memory_region(env.vm, DATA_SLOT, 0, MTE_TEST_GPA, env.mem.size,
					  env.mem.hva);
		vm_set_user_memory_region(env.vm, OTHER_SLOT, 0, OTHER_GPA, mem.size, mem.hva);
		env.base = lock_usage();
		memslot_lock(env.vm, DATA_SLOT, MEMSLOT_LOCK_RW);
		sync_state->vm_fd = env.vm->fd;
		set_flag(&sync_state->offered);
		await(&sync_state->taken);
		fn(&env);
		_exit(0);
	}

	fork_case_doing(0, "waits for a file descriptor to be offered");
	if (!await_process(owner->pid, &sync_state->offered))
		return false;
	owner->vm = (struct kvm_vm) { .fd = get_fd_of(owner->pid, sync_state->vm_fd) };
	set_flag(&sync_state->taken);

	return fork_case_expect(owner->vm.fd >= 0, "the owner of the VM is gone");
}

/* The memory of the owner is locked, and remains so whatever others try. */
static bool check_foreign(struct owner *owner, struct lock_usage base, u64 pins)
{
	struct lock_usage usage = { base.locked_vm, base.pins + pins };

	return fork_case_expect(all_is_eio(&owner->vm), "the VM can be used by another process") &&
	       fork_case_returns(__vm_set_user_memory_region(&owner->vm, DATA_SLOT, 0,
							     MTE_TEST_GPA, 0, NULL), EIO,
				 "to delete a memslot of another process") &&
	       fork_case_expect(lock_usage_is(usage), "wrong memory is locked or pinned");
}

static void owner_checks(struct env *env)
{
	fork_case_doing(1, "waits for others to try something");
	await_go();
	fork_case_doing(1, NULL);

	check_locked(env, MEMSLOT_LOCK_RW, "after others have tried");
	fork_case_returns(__memslot_unlock(env->vm, OTHER_SLOT), EINVAL,
			  "to unlock what others can't have locked");
	fork_case_returns(__memslot_unlock(env->vm, DATA_SLOT), 0, "to unlock");
	check_unlocked(env, false, "unlocked by its owner");
}

static void run_foreign(const void *unused)
{
	struct lock_usage base = lock_usage();
	struct owner owner;

	if (!owner_start(&owner, owner_checks))
		return;

	check_foreign(&owner, base, NR_PAGES);
	set_flag(&sync_state->go);
	ends_with(owner.pid, 0, "the owner");
	check_foreign(&owner, base, 0);
	close(owner.vm.fd);
	fork_case_expect(lock_usage_is(base), "wrong memory is locked or pinned at the end");
}

static void owner_waits(struct env *env)
{
	fork_case_doing(1, NULL);
	await_go();
}

/* It is the owner for whom the memory is locked, and not those who have the VM. */
static void run_owner_ends(const void *arg)
{
	struct lock_usage base = lock_usage();
	const enum death *death = arg;
	struct owner owner;

	if (!owner_start(&owner, owner_waits) || !check_foreign(&owner, base, NR_PAGES))
		return;

	if (*death == KILLED)
		kill(owner.pid, SIGKILL);
	else
		set_flag(&sync_state->go);
	ends_with(owner.pid, *death == KILLED ? SIGKILL : 0, "the owner");

	/* The VM is still there. */
	check_foreign(&owner, base, 0);
	fork_case_doing(0, "closes a VM whose owner is gone");
	close(owner.vm.fd);
	fork_case_expect(lock_usage_is(base), "wrong memory is locked or pinned at the end");
}

static void owner_gives_away(struct env *env)
{
	kvm_close(env->vm->fd);
	if (env->vm->stats.fd >= 0)
		kvm_close(env->vm->stats.fd);
	usage_is(env, env->mem.size, NR_PAGES, "given away");
	set_flag(&sync_state->ready);

	fork_case_doing(1, "waits for the VM to be closed");
	await_go();
	fork_case_doing(1, NULL);
	usage_is(env, 0, 0, "closed by another process");
}

/* The one who closes the VM isn't the one its memory was accounted to. */
static void run_last_close(const void *unused)
{
	struct lock_usage base = lock_usage();
	struct owner owner;

	if (!owner_start(&owner, owner_gives_away) || !await_ready(owner.pid))
		return;

	fork_case_doing(0, "closes the VM of another process");
	close(owner.vm.fd);
	fork_case_expect(lock_usage_is(base), "closed, but memory remains pinned");
	set_flag(&sync_state->go);
	ends_with(owner.pid, 0, "the owner");
}

static void spin_us(u64 us)
{
	struct timespec start;

	clock_gettime(CLOCK_MONOTONIC, &start);
	while (timespec_to_ns(timespec_elapsed(start)) < us * 1000)
		;
}

/* How long the owner waits before it exits, for the others to be ahead. */
static u64 owner_delay_us;

static void owner_races(struct env *env)
{
	kvm_close(env->vm->fd);
	if (env->vm->stats.fd >= 0)
		kvm_close(env->vm->stats.fd);
	set_flag(&sync_state->ready);

	while (!flag_is_set(&sync_state->go))
		;
	spin_us(owner_delay_us);
}

/* The owner exits when another process closes the VM: both release what is locked. */
static void run_race(const void *unused)
{
	struct lock_usage base = lock_usage();
	struct owner owner;
	int i;

	for (i = 0; i < NR_RACES && !fork_case_failed(); i++) {
		owner_delay_us = i % 2 ? i * 20 : 0;
		if (!owner_start(&owner, owner_races) || !await_ready(owner.pid))
			return;

		set_flag(&sync_state->go);
		spin_us(i % 2 ? 0 : i * 60);
		fork_case_doing(0, "closes a VM whose owner exits");
		close(owner.vm.fd);
		ends_with(owner.pid, 0, "the owner");
		kvm_munmap(sync_state, sizeof(*sync_state));
		fork_case_expect(lock_usage_is(base), "race %d: wrong memory is locked or pinned",
				 i + 1);
	}
}

/* More vCPUs than a thread can lock with lockdep. */

struct runner {
	struct kvm_vcpu	*vcpu;
	gpa_t		gpa;
	u64		nr_pages;
	bool		*stop;
	u64		nr_runs;
	pthread_t	thread;
};

static void *runner_thread(void *arg)
{
	struct runner *runner = arg;
	u64 wrong;

	while (!READ_ONCE(*runner->stop)) {
		mte_vcpu_call(runner->vcpu, mte_write_data, runner->gpa, runner->nr_pages,
			      page_size, runner->nr_runs);
		wrong = mte_vcpu_call(runner->vcpu, mte_count_wrong_data, runner->gpa,
				      runner->nr_pages, page_size, runner->nr_runs);
		fork_case_expect(!wrong, "vCPU %u: %lu of %lu pages are wrong", runner->vcpu->id,
				 wrong, runner->nr_pages);
		WRITE_ONCE(runner->nr_runs, runner->nr_runs + 1);
	}

	return NULL;
}

static void run_vcpus(const void *unused)
{
	u64 nr_pages = NR_PAGES / NR_RUNNING, perms;
	struct runner runners[NR_RUNNING];
	struct kvm_vcpu *vcpus[NR_VCPUS];
	struct env env = {};
	const char *reason;
	bool stop = false;
	int i;

	if (kvm_check_cap(KVM_CAP_MAX_VCPUS) < NR_VCPUS) {
		fork_case_skip("a VM can't have as many vCPUs");
		return;
	}

	reason = mte_mem_alloc(&env.mem, MTE_MEM_ANON, 0, NR_PAGES * page_size);
	TEST_ASSERT(!reason, "No memory: %s", reason);
	fork_case_doing(0, "creates many vCPUs");
	env.nr_pages = NR_PAGES;
	env.vm = __vm_create(VM_SHAPE_DEFAULT, NR_VCPUS, env.mem.size / SZ_4K);
	mte_vm_add_vcpus(env.vm, NR_VCPUS, vcpus);
	mte_vm_add_slot(env.vm, DATA_SLOT, 0, MTE_TEST_GPA, env.mem.hva, env.mem.size);
	env.base = lock_usage();

	fork_case_doing(0, "locks a memslot of many vCPUs");
	memslot_lock(env.vm, DATA_SLOT, MEMSLOT_LOCK_RW);
	check_locked(&env, MEMSLOT_LOCK_RW, "before any vCPU runs");

	for (i = 0; i < NR_RUNNING; i++) {
		runners[i] = (struct runner) {
			/* The last one is among them. */
			.vcpu		= vcpus[(i + 1) * NR_VCPUS / NR_RUNNING - 1],
			.gpa		= MTE_TEST_GPA + i * nr_pages * page_size,
			.nr_pages	= nr_pages,
			.stop		= &stop,
		};
		kvm_pthread_create(&runners[i].thread, NULL, runner_thread, &runners[i]);
	}

	for (i = 0; i < NR_ROUNDS && !fork_case_failed(); i++) {
		perms = i % 2 ? MEMSLOT_LOCK_RW : MEMSLOT_LOCK_R;
		fork_case_returns(__memslot_unlock(env.vm, DATA_SLOT), 0, "to unlock, vCPUs run");
		fork_case_returns(__memslot_lock(env.vm, DATA_SLOT, perms), 0,
				  "to lock, vCPUs run");
		check_locked(&env, perms, "vCPUs run");
	}

	fork_case_doing(0, "waits for the vCPUs to run");
	for (i = 0; i < NR_RUNNING; i++) {
		while (!READ_ONCE(runners[i].nr_runs) && !fork_case_failed())
			usleep(1000);
	}
	WRITE_ONCE(stop, true);
	for (i = 0; i < NR_RUNNING; i++)
		kvm_pthread_join(runners[i].thread, NULL);

	fork_case_doing(0, "unlocks a memslot of many vCPUs");
	memslot_unlock(env.vm, DATA_SLOT);
	check_unlocked(&env, true, "at the end");
}

static const enum death killed = KILLED, exits = EXITS;

static const struct testcase {
	const char *name;
	fork_case_fn run;
	const void *arg;
} testcases[] = {
	{ "VMM killed at any time", run_killed_anytime },
	{ "VM passed to another process", run_foreign },
	{ "VM passed to another process, owner killed", run_owner_ends, &killed },
	{ "VM passed to another process, owner exits", run_owner_ends, &exits },
	{ "VM closed by another process", run_last_close },
	{ "VM closed by another process when its owner exits", run_race },
	{ "64 vCPUs, some of which run", run_vcpus },
};

static void report(fork_case_fn run, const void *arg, const char *name1, const char *name2,
		   const char *name3)
{
	char *name = strdup_printf("%s%s%s", name1, name2, name3);

	fork_case_report(name, fork_case_run(run, arg, CASE_SECONDS));
	free(name);
}

static bool can_see_leaves(void)
{
	struct kvm_vm *vm = vm_create_barebones();
	u64 blocks, pages;
	bool shown;

	shown = mte_stage2_leaves(vm, MTE_TEST_GPA, page_size, &blocks, &pages);
	kvm_vm_free(vm);

	return shown;
}

static void help(const char *name)
{
	printf("usage: %s [-h]\n", name);
	exit(KSFT_FAIL);
}

int main(int argc, char *argv[])
{
	struct end end;
	int opt, i, j;

	page_size = getpagesize();
	while ((opt = getopt(argc, argv, "hx:")) != -1) {
		/* For the program that a VMM executes, which is this one. */
		if (opt == 'x' && optind < argc)
			exit(after_exec(atoi(optarg), atol(argv[optind])));
		help(argv[0]);
	}

	ksft_print_header();
	__TEST_REQUIRE(kvm_check_cap(KVM_CAP_ARM_LOCK_USER_MEMORY_REGION),
		       "memslots can't be locked, as in protected mode");
	ksft_set_plan(2 + ARRAY_SIZE(waiting) * ARRAY_SIZE(kinds) + ARRAY_SIZE(orders) +
		      NR_DEATHS * NR_STATES + ARRAY_SIZE(testcases));

	fork_case_report_log();
	leaves_shown = can_see_leaves();
	if (leaves_shown)
		ksft_test_result_pass("stage-2 page-table\n");
	else
		ksft_test_result_skip("stage-2 page-table: the kernel doesn't show it\n");

	/* Not left to the cases, which wouldn't give them back. */
	no_hugetlb = pmd_size() > LOCK_MAX_BLOCK ? "the blocks are too large" :
						   hugetlb_reserve(pmd_size(), NR_FOLIOS);

	for (i = 0; i < ARRAY_SIZE(waiting); i++) {
		for (j = 0; j < ARRAY_SIZE(kinds); j++)
			report(waiting[i].run, &kinds[j], waiting[i].name, ", ", kinds[j].name);
	}

	for (i = 0; i < ARRAY_SIZE(orders); i++)
		report(run_close, orders[i], "VM closed in the order ", orders[i], "");

	for (end.death = 0; end.death < NR_DEATHS; end.death++) {
		for (end.state = 0; end.state < NR_STATES; end.state++)
			report(run_end, &end, death_names[end.death], ", ",
			       state_names[end.state]);
	}

	for (i = 0; i < ARRAY_SIZE(testcases); i++)
		report(testcases[i].run, testcases[i].arg, testcases[i].name, "", "");

	ksft_finished();
}
