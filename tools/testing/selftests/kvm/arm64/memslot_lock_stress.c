// SPDX-License-Identifier: GPL-2.0-only
/*
 * memslot_lock_stress - Lock and unlock memslots against all that can interfere, and
 * check the outcome against a model.
 *
 * Two memslots are busy. Two threads lock and unlock them, for reading and for writing,
 * one by one and all at once, and get signals. Another one toggles the logging of dirty
 * pages, and moves and deletes them. Another one does to their memory what makes the
 * kernel call MMU notifiers. Two vCPUs write, and check that they read what they have
 * written last. If there is no memslot where they access one, the VMM does it for them.
 *
 * The model knows, for each memslot, all states that it can be in after what the calls
 * have returned so far, in whatever order overlapping calls have taken effect. If no
 * state remains there is no such order: a call has failed that can't have failed, or has
 * succeeded though it must not, or a vCPU has found no memslot where there was one. The
 * last is how it shows if a memslot is invalid while KVM finds out that it is locked.
 *
 * A third memslot is calm: it is left alone by MMU notifiers while it is locked for
 * writing, so the guest must not take a single fault on it.
 *
 * Meanwhile other processes lock memory, and are killed at any time, or exit, with the VM
 * inherited by a child or not. In the end neither they nor this one have left anything
 * pinned or accounted, the data is that of the model, and the kernel has not complained.
 *
 * What is done at random depends on the seed, which is part of the report. The same seed
 * makes for the same choices, though not for the same timing.
 */
#include <pthread.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <time.h>

#include <linux/bitmap.h>
#include <linux/perf_event.h>
#include <linux/sizes.h>

#include <asm/hwcap.h>

#include "fork_case.h"
#include "kvm_util.h"
#include "memslot_lock.h"
#include "mte.h"
#include "processor.h"
#include "test_util.h"

#define NR_BUSY		2
/* Number of a busy memslot in the VM, and of the one that is calm. */
#define BUSY_SLOT(i)	((i) + 1)
#define CALM_SLOT	(NR_BUSY + 1)

/* vCPUs that use busy memslots, and the one that uses the calm one. */
#define NR_VCPUS	2
#define CALM_VCPU	NR_VCPUS

#define NR_LOCKERS	2

/* Where a busy memslot can be. */
#define NR_PLACES	2
#define NOWHERE		NR_PLACES
/* In the model: no longer at one place, and not yet at another. */
#define MOVING		(NR_PLACES + 1)

/* Pages that are in use, spread over a memslot, and how many of these are checked. */
#define NR_UNITS	64
#define NR_CHECKED	32
/* How many of them a vCPU uses before it returns. */
#define NR_STEPS	256

/* Memslots of pages are that large, and cross the border between two tables. */
#define NR_PAGES	64
/* What takes the place of a folio that is pinned, and what fork() needs for copies. */
#define NR_SPARE_FOLIOS	6
/* Each page taken offline is lost. */
#define MAX_OFFLINE	8

#define DEFAULT_SECONDS	3
/* What it may take to create and to destroy everything, on the slowest machine. */
#define GRACE_SECONDS	90

static size_t page_size;

/*
 * The model.
 */

/* Who can have a call in progress that concerns a busy memslot. */
enum actor {
	ACTOR_LOCKER,
	ACTOR_CHANGER = ACTOR_LOCKER + NR_LOCKERS,
	ACTOR_VCPU,
	NR_ACTORS = ACTOR_VCPU + NR_VCPUS,
};

/* Others that say what they are doing. */
enum {
	THREAD_CALM = NR_ACTORS,
	THREAD_NOTIFIER,
	THREAD_MAIN,
	THREAD_KILLER,
};

enum call {
	CALL_LOCK_R,
	CALL_LOCK_RW,
	CALL_UNLOCK,
	CALL_UNLOCK_ALL,
	/* KVM_SET_USER_MEMORY_REGION, which can do one thing or another. */
	CALL_SET,
	CALL_DELETE,
	/* KVM_RUN, with the guest using a certain place. */
	CALL_RUN,
	NR_CALLS,
};

static const char * const call_names[] = {
	"lock R", "lock RW", "unlock", "unlock all", "set", "delete", "run",
};

enum outcome {
	OKAY,
	BUSY,
	INVALID,
	FORBIDDEN,
	GAVE_UP,
	/* Of CALL_RUN: there was no memslot. */
	MISSED,
	NR_OUTCOMES,
};

static const char * const outcome_names[] = {
	"ok", "EBUSY", "EINVAL", "EPERM", "gave up", "missed",
};

enum lock_state {
	FREE,
	PINNING,
	LOCKED_R,
	LOCKED_RW,
};

/* How far the call of an actor has come. */
enum {
	IDLE,
	CALLED,
	/* It has made the memslot PINNING, or MOVING. */
	HALFWAY,
	/* It has taken effect, and is going to return this. */
	DONE,
};

#define DONE_WITH(outcome)	(DONE + (outcome))

/* A state that a memslot may be in. */
union config {
	struct {
		u8	lock;
		u8	place;
		u8	logging;
		u8	status[NR_ACTORS];
	};
	u64	raw;
};

kvm_static_assert(sizeof(union config) == sizeof(u64));

#define MAX_CONFIGS	8192

struct pending {
	enum call	call;
	/* Of CALL_SET and CALL_RUN */
	u8		place;
	bool		logging;
	/* At some time since, the VMM had no access, or no write access. */
	bool		protected;
};

struct model {
	union config	configs[MAX_CONFIGS];
	u32		nr;
	struct pending	pending[NR_ACTORS];
	/* How many protect the memory now. */
	u32		nr_protectors;
};

static struct model models[NR_BUSY];
/* Never held during a call. The order of begin and end is that of this mutex. */
static pthread_mutex_t model_mutex = PTHREAD_MUTEX_INITIALIZER;

static u64 counts[NR_CALLS][NR_OUTCOMES];

static void model_add(struct model *model, union config config)
{
	u32 i;

	for (i = 0; i < model->nr; i++) {
		if (model->configs[i].raw == config.raw)
			return;
	}

	TEST_ASSERT(model->nr < MAX_CONFIGS, "The model has too many states");
	model->configs[model->nr++] = config;
}

static void model_add_done(struct model *model, union config config, int actor,
			   enum outcome outcome)
{
	config.status[actor] = DONE_WITH(outcome);
	model_add(model, config);
}

static void advance_lock(struct model *model, union config config, int actor, bool writable)
{
	if (config.status[actor] == HALFWAY) {
		config.lock = FREE;
		model_add_done(model, config, actor, GAVE_UP);
		config.lock = writable ? LOCKED_RW : LOCKED_R;
		model_add_done(model, config, actor, OKAY);
		return;
	}

	if (config.place == NOWHERE) {
		model_add_done(model, config, actor, INVALID);
		return;
	}

	/* If there is more than one reason to fail, any will do. */
	if (config.lock != FREE)
		model_add_done(model, config, actor, BUSY);
	if (writable && config.logging)
		model_add_done(model, config, actor, FORBIDDEN);
	if (config.lock != FREE || (writable && config.logging))
		return;

	config.lock = PINNING;
	config.status[actor] = HALFWAY;
	model_add(model, config);
}

/*
 * A move isn't atomic for vCPUs. KVM makes the memslot invalid, waits for those who may
 * still use it where it was, and only then has it where it is going to be. In between it
 * can be missed at either place, as ever. But a move that is refused, as the memslot is
 * locked, must not have made it invalid, and neither must a change of its logging alone.
 */
static void advance_set(struct model *model, union config config, int actor)
{
	const struct pending *pending = &model->pending[actor];
	bool move = config.place != pending->place;
	bool change = config.logging != pending->logging;

	if (config.place != NOWHERE && (move || change) && config.lock != FREE &&
	    (move || config.lock != LOCKED_R)) {
		model_add_done(model, config, actor, BUSY);
		return;
	}

	if (config.place != NOWHERE && move && config.status[actor] != HALFWAY) {
		config.place = MOVING;
		config.status[actor] = HALFWAY;
		model_add(model, config);
		return;
	}

	config.place = pending->place;
	config.logging = pending->logging;
	model_add_done(model, config, actor, OKAY);
}

/* Have the call of an actor take effect, or its first half, in any way that is possible. */
static void model_advance(struct model *model, union config config, int actor)
{
	bool locked = config.lock == LOCKED_R || config.lock == LOCKED_RW;
	enum call call = model->pending[actor].call;
	enum outcome outcome = OKAY;

	/* All but vCPUs wait for the one that moves the memslot. */
	if (config.place == MOVING && config.status[actor] != HALFWAY && call != CALL_RUN)
		return;

	switch (call) {
	case CALL_LOCK_R:
	case CALL_LOCK_RW:
		advance_lock(model, config, actor, call == CALL_LOCK_RW);
		return;
	case CALL_UNLOCK:
		if (config.lock == PINNING)
			outcome = BUSY;
		else if (!locked)
			outcome = INVALID;
		else
			config.lock = FREE;
		break;
	case CALL_UNLOCK_ALL:
		if (locked)
			config.lock = FREE;
		break;
	case CALL_SET:
		advance_set(model, config, actor);
		return;
	case CALL_DELETE:
		if (config.place == NOWHERE) {
			outcome = INVALID;
		} else if (config.lock != FREE) {
			outcome = BUSY;
		} else {
			config.place = NOWHERE;
			config.logging = false;
		}
		break;
	case CALL_RUN:
		if (config.place == model->pending[actor].place)
			return;
		outcome = MISSED;
		break;
	default:
		return;
	}

	model_add_done(model, config, actor, outcome);
}

/* All that can have happened by now. The array grows as it is walked. */
static void model_explore(struct model *model)
{
	union config config;
	int actor;
	u32 i;

	for (i = 0; i < model->nr; i++) {
		config = model->configs[i];
		for (actor = 0; actor < NR_ACTORS; actor++) {
			if (config.status[actor] == CALLED || config.status[actor] == HALFWAY)
				model_advance(model, config, actor);
		}
	}
}

static void model_init(struct model *model)
{
	memset(model, 0, sizeof(*model));
	/* At the first place, not locked, not logging, and nobody has called. */
	model->nr = 1;
}

static void model_begin(int slot, int actor, struct pending pending)
{
	struct model *model = &models[slot];
	u32 i;

	pending.protected = model->nr_protectors;
	model->pending[actor] = pending;
	for (i = 0; i < model->nr; i++)
		model->configs[i].status[actor] = CALLED;
}

/*
 * The call has returned. Forget about the states in which it would have returned something
 * else. Returns false if none is left.
 */
static bool model_end(int slot, int actor, enum outcome outcome)
{
	struct model *model = &models[slot];
	enum call call = model->pending[actor].call;
	union config config;
	u32 nr, i;

	model_explore(model);
	nr = model->nr;
	model->nr = 0;
	for (i = 0; i < nr; i++) {
		config = model->configs[i];
		/* That it has found a memslot doesn't mean that there always was one. */
		if (config.status[actor] != DONE_WITH(outcome) &&
		    !(call == CALL_RUN && outcome == OKAY))
			continue;

		config.status[actor] = IDLE;
		model_add(model, config);
	}

	return model->nr;
}

static void count(enum call call, enum outcome outcome)
{
	__atomic_fetch_add(&counts[call][outcome], 1, __ATOMIC_RELAXED);
}

static u64 count_get(enum call call, enum outcome outcome)
{
	return __atomic_load_n(&counts[call][outcome], __ATOMIC_RELAXED);
}

static void call_begin(int slot, int actor, struct pending pending)
{
	pthread_mutex_lock(&model_mutex);
	model_begin(slot, actor, pending);
	pthread_mutex_unlock(&model_mutex);
}

/* Returns whether the memory was protected at some time during the call. */
static bool call_end(int slot, int actor, enum outcome outcome)
{
	struct pending pending;
	bool good;

	pthread_mutex_lock(&model_mutex);
	good = model_end(slot, actor, outcome);
	pending = models[slot].pending[actor];
	pthread_mutex_unlock(&model_mutex);

	count(pending.call, outcome);
	fork_case_expect(good, "memslot %d: no order of the calls explains \"%s\" of \"%s\"",
			 BUSY_SLOT(slot), outcome_names[outcome], call_names[pending.call]);

	return pending.protected;
}

/*
 * The guest.
 */

/* In memory that nothing is done to on purpose. */
static struct {
	/* Where to find the memslots, and the distance from one unit to the next. */
	u64	base[NR_VCPUS][NR_BUSY];
	u64	stride;
	/* What is expected. A vCPU has every second unit, as far as they are checked. */
	u64	data[NR_BUSY][NR_CHECKED];
	/* xorshift64 */
	u64	random[NR_VCPUS];
	struct {
		u64	slot;
		u64	unit;
		u64	data;
	} failure[NR_VCPUS];
} guest;

static u64 guest_random(u64 vcpu)
{
	u64 x = guest.random[vcpu];

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	guest.random[vcpu] = x;

	return x;
}

static bool guest_check_unit(u64 vcpu, u64 slot, u64 unit)
{
	u64 *addr = (u64 *)(guest.base[vcpu][slot] + unit * guest.stride), data;

	data = READ_ONCE(*addr);
	if (data == guest.data[slot][unit])
		return true;

	guest.failure[vcpu].slot = slot;
	guest.failure[vcpu].unit = unit;
	guest.failure[vcpu].data = data;

	return false;
}

/* Use units at random. Return whether all was as expected. */
static u64 guest_use(u64 vcpu, u64 unused1, u64 unused2, u64 unused3)
{
	u64 step, random, slot, unit;
	u64 *addr;

	for (step = 0; step < NR_STEPS; step++) {
		random = guest_random(vcpu);
		slot = random % NR_BUSY;
		unit = (random >> 8) % NR_UNITS;
		/* It is either one of the vCPU or one that isn't checked. */
		if (unit < NR_CHECKED)
			unit = unit / NR_VCPUS * NR_VCPUS + vcpu;
		addr = (u64 *)(guest.base[vcpu][slot] + unit * guest.stride);

		if (unit < NR_CHECKED) {
			if (!guest_check_unit(vcpu, slot, unit))
				return false;
			guest.data[slot][unit] = random;
		}
		WRITE_ONCE(*addr, random);
	}

	return true;
}

/* Check all there is. */
static u64 guest_check(u64 vcpu, u64 unused1, u64 unused2, u64 unused3)
{
	u64 slot, unit;

	for (slot = 0; slot < NR_BUSY; slot++) {
		for (unit = 0; unit < NR_CHECKED; unit++) {
			if (!guest_check_unit(vcpu, slot, unit))
				return false;
		}
	}

	return true;
}

#define CALM_TAGS	BIT_ULL(63)

static u8 calm_tag(u64 page, u64 round)
{
	return (page + round) & MTE_TAG_MASK;
}

/*
 * Check what the last round has stored to each page, and store something else. Returns the
 * number of pages that were wrong. CALM_TAGS is part of @round.
 */
static u64 guest_use_calm(u64 addr, u64 nr_pages, u64 page_size, u64 round)
{
	bool tags = round & CALM_TAGS;
	u64 page, wrong = 0;
	bool good;

	round &= ~CALM_TAGS;
	for (page = 0; page < nr_pages; page++, addr += page_size) {
		good = READ_ONCE(*(u64 *)addr) == (round - 1) * (page + 1);
		if (tags)
			good &= mte_load_tag((void *)addr) == calm_tag(page, round - 1);
		wrong += !good;

		WRITE_ONCE(*(u64 *)addr, round * (page + 1));
		if (tags)
			mte_store_tag((void *)addr, calm_tag(page, round));
	}

	return wrong;
}

/* As if there had been a round before the first one. */
static u64 guest_init_calm(u64 addr, u64 nr_pages, u64 page_size, u64 tags)
{
	u64 page;

	for (page = 0; page < nr_pages; page++, addr += page_size) {
		WRITE_ONCE(*(u64 *)addr, page + 1);
		if (tags)
			mte_store_tag((void *)addr, calm_tag(page, 1));
	}

	return 0;
}

/*
 * The VMM.
 */

static const struct kind {
	const struct lock_kind *mem;
	/* Tags are to be initialised, if there are any. */
	bool mte;
} kinds[] = {
	{ &lock_kinds[LOCK_ANON], false },
	{ &lock_kinds[LOCK_THP], true },
	{ &lock_kinds[LOCK_MEMFD], true },
	{ &lock_kinds[LOCK_HUGETLB], false },
};

static struct {
	const struct lock_kind	*kind;
	bool			mte;
	u32			seed;
	u32			ms;
} params;

static struct {
	struct kvm_vm		*vm;
	struct kvm_vcpu		*vcpus[NR_VCPUS + 1];
	bool			mte;
	struct mte_mem		mem[NR_BUSY];
	struct mte_mem		calm_mem;
	gpa_t			gpa[NR_BUSY][NR_PLACES];
	gpa_t			calm_gpa;
	size_t			size;
	/* Where the memslots were when one of the changes had succeeded. */
	u8			place[NR_BUSY];
	bool			logging[NR_BUSY];
	bool			stop;
	u64			nr_calm;
	u64			nr_calm_gave_up;
	u64			nr_runs[NR_VCPUS];
	u32			nr_offline;
} env;

/*
 * What concerns all of the address space or all memslots is excluded while the calm one
 * is locked, by whoever does it.
 */
static pthread_rwlock_t calm_lock;
/* Whoever protects memory keeps the VMM from accessing it. */
static pthread_rwlock_t protect_lock;

static struct kvm_random_state random_state(u32 index)
{
	u32 seed = (params.seed + index * 0x9e3779b9U) & INT_MAX;
	struct kvm_random_state state = new_kvm_random_state(seed ?: 1);

	/* Seeds that are similar begin with numbers that are similar. */
	kvm_random_u32(&state);
	kvm_random_u32(&state);

	return state;
}

static bool stopped(void)
{
	return READ_ONCE(env.stop) || fork_case_failed();
}

static u32 pick(struct kvm_random_state *random, u32 nr)
{
	return kvm_random_u32(random) / 16 % nr;
}

/* Threads that lock, and unlock. */

static __thread u32 nr_signals;

static void handle_signal(int sig)
{
	WRITE_ONCE(nr_signals, nr_signals + 1);
}

static void do_lock(int slot, int actor, u64 perms)
{
	struct pending pending = { .call = perms == MEMSLOT_LOCK_RW ? CALL_LOCK_RW : CALL_LOCK_R };
	enum outcome outcome = OKAY;
	bool was_protected;
	u32 signals;
	int err = 0;

	fork_case_doing(actor, "locks a memslot");
	call_begin(slot, actor, pending);
	signals = READ_ONCE(nr_signals);
	if (__memslot_lock(env.vm, BUSY_SLOT(slot), perms))
		err = errno;
	signals = READ_ONCE(nr_signals) - signals;

	switch (err) {
	case 0:
		break;
	case EBUSY:
		outcome = BUSY;
		break;
	case EINVAL:
		outcome = INVALID;
		break;
	case EPERM:
		outcome = FORBIDDEN;
		break;
	/* There is somebody who changes the mapping all the time. */
	case EAGAIN:
	case EFAULT:
	case EINTR:
		outcome = GAVE_UP;
		break;
	default:
		fork_case_fail("to lock memslot %d fails with errno %d", BUSY_SLOT(slot), err);
		outcome = GAVE_UP;
	}

	was_protected = call_end(slot, actor, outcome);
	fork_case_expect(err != EFAULT || was_protected,
			 "to lock memslot %d fails with EFAULT, but nothing was protected",
			 BUSY_SLOT(slot));
	fork_case_expect(err != EINTR || signals,
			 "to lock memslot %d fails with EINTR, but there was no signal",
			 BUSY_SLOT(slot));
}

static enum outcome simple_outcome(int ret, const char *what)
{
	if (!ret)
		return OKAY;

	switch (errno) {
	case EBUSY:
		return BUSY;
	case EINVAL:
		return INVALID;
	default:
		fork_case_fail("%s fails with errno %d", what, errno);
		return OKAY;
	}
}

static void do_unlock(int slot, int actor)
{
	enum outcome outcome;

	fork_case_doing(actor, "unlocks a memslot");
	call_begin(slot, actor, (struct pending) { .call = CALL_UNLOCK });
	outcome = simple_outcome(__memslot_unlock(env.vm, BUSY_SLOT(slot)), "to unlock");
	call_end(slot, actor, outcome);
}

static void do_unlock_all(int actor)
{
	struct pending pending = { .call = CALL_UNLOCK_ALL };
	enum outcome outcome;
	int slot;

	fork_case_doing(actor, "waits for the calm memslot to be unlocked");
	pthread_rwlock_wrlock(&calm_lock);
	fork_case_doing(actor, "unlocks all memslots");
	for (slot = 0; slot < NR_BUSY; slot++)
		call_begin(slot, actor, pending);
	outcome = simple_outcome(__memslot_unlock_all(env.vm), "to unlock all");
	for (slot = 0; slot < NR_BUSY; slot++)
		call_end(slot, actor, outcome);
	pthread_rwlock_unlock(&calm_lock);
}

static void *locker_thread(void *arg)
{
	int actor = (long)arg, slot;
	struct kvm_random_state random = random_state(actor);

	while (!stopped()) {
		slot = pick(&random, NR_BUSY);
		switch (pick(&random, 16)) {
		case 0 ... 3:
			do_lock(slot, actor, MEMSLOT_LOCK_R);
			break;
		case 4 ... 8:
			do_lock(slot, actor, MEMSLOT_LOCK_RW);
			break;
		case 9 ... 14:
			do_unlock(slot, actor);
			break;
		case 15:
			do_unlock_all(actor);
			break;
		}
		if (!pick(&random, 4))
			usleep(pick(&random, 1000));
	}
	fork_case_doing(actor, NULL);

	return NULL;
}

/* The thread that changes memslots, and knows how they are as nobody else does. */

static enum outcome do_set(int slot, u8 place, bool logging)
{
	struct pending pending = { .call = CALL_SET, .place = place, .logging = logging };
	enum outcome outcome;
	int ret;

	fork_case_doing(ACTOR_CHANGER, "changes a memslot");
	call_begin(slot, ACTOR_CHANGER, pending);
	ret = __vm_set_user_memory_region(env.vm, BUSY_SLOT(slot),
					  logging ? KVM_MEM_LOG_DIRTY_PAGES : 0,
					  env.gpa[slot][place], env.size, env.mem[slot].hva);
	outcome = simple_outcome(ret, "to change a memslot");
	call_end(slot, ACTOR_CHANGER, outcome);
	if (outcome == OKAY) {
		WRITE_ONCE(env.place[slot], place);
		env.logging[slot] = logging;
	}

	return outcome;
}

static enum outcome do_delete(int slot)
{
	enum outcome outcome;
	int ret;

	fork_case_doing(ACTOR_CHANGER, "deletes a memslot");
	call_begin(slot, ACTOR_CHANGER, (struct pending) { .call = CALL_DELETE });
	ret = __vm_set_user_memory_region(env.vm, BUSY_SLOT(slot), 0,
					  env.gpa[slot][env.place[slot]], 0,
					  env.mem[slot].hva);
	outcome = simple_outcome(ret, "to delete a memslot");
	call_end(slot, ACTOR_CHANGER, outcome);

	return outcome;
}

static void get_dirty_log(int slot, unsigned long *bitmap)
{
	fork_case_doing(ACTOR_CHANGER, "gets the dirty log");
	if (env.logging[slot])
		kvm_vm_get_dirty_log(env.vm, BUSY_SLOT(slot), bitmap);
}

static void *changer_thread(void *arg)
{
	struct kvm_random_state random = random_state(ACTOR_CHANGER);
	unsigned long *bitmap = bitmap_zalloc(env.size / page_size);
	int slot;

	while (!stopped()) {
		slot = pick(&random, NR_BUSY);
		switch (pick(&random, 16)) {
		case 0 ... 6:
			do_set(slot, env.place[slot], !env.logging[slot]);
			break;
		case 7 ... 8:
			do_set(slot, env.place[slot], env.logging[slot]);
			break;
		case 9 ... 11:
			do_set(slot, !env.place[slot], env.logging[slot]);
			break;
		case 12 ... 13:
			if (do_delete(slot) != OKAY)
				break;
			usleep(pick(&random, 500));
			do_set(slot, pick(&random, NR_PLACES), pick(&random, 2));
			break;
		case 14 ... 15:
			get_dirty_log(slot, bitmap);
			break;
		}
		usleep(pick(&random, 1000));
	}
	fork_case_doing(ACTOR_CHANGER, NULL);
	free(bitmap);

	return NULL;
}

/* The threads of vCPUs that use what the others are busy with. */

/* Which memslot was meant by an access that has found none. */
static int mmio_slot(struct kvm_run *run, size_t *offset)
{
	gpa_t gpa = run->mmio.phys_addr;
	int slot, place;

	for (slot = 0; slot < NR_BUSY; slot++) {
		for (place = 0; place < NR_PLACES; place++) {
			*offset = gpa - env.gpa[slot][place];
			if (gpa >= env.gpa[slot][place] && *offset < env.size)
				return slot;
		}
	}

	return -1;
}

/* Access the memory on behalf of the guest. */
static void do_mmio(struct kvm_run *run, int slot, size_t offset)
{
	void *hva = env.mem[slot].hva + offset;

	pthread_rwlock_rdlock(&protect_lock);
	if (run->mmio.is_write)
		memcpy(hva, run->mmio.data, run->mmio.len);
	else
		memcpy(run->mmio.data, hva, run->mmio.len);
	pthread_rwlock_unlock(&protect_lock);
}

/* Run the guest once. Returns false if it has to be run again to come to an end. */
static bool run_once(int vcpu_id, const u8 *places)
{
	struct kvm_vcpu *vcpu = env.vcpus[vcpu_id];
	struct kvm_run *run = vcpu->run;
	bool was_protected = false;
	int slot, missed = -1, ret, err;
	size_t offset;

	for (slot = 0; slot < NR_BUSY; slot++)
		call_begin(slot, ACTOR_VCPU + vcpu_id,
			   (struct pending) { .call = CALL_RUN, .place = places[slot] });
	ret = __vcpu_run(vcpu);
	err = ret ? errno : 0;
	if (!ret && run->exit_reason == KVM_EXIT_MMIO &&
	    run->mmio.phys_addr != env.vm->ucall_mmio_addr) {
		missed = mmio_slot(run, &offset);
		fork_case_expect(missed >= 0, "vCPU %d: access to 0x%llx", vcpu_id,
				 run->mmio.phys_addr);
	}
	for (slot = 0; slot < NR_BUSY; slot++)
		was_protected |= call_end(slot, ACTOR_VCPU + vcpu_id,
					  slot == missed ? MISSED : OKAY);

	if (missed >= 0) {
		do_mmio(run, missed, offset);
		return false;
	}

	if (!err)
		return true;

	fork_case_expect(err == EINTR || (err == EFAULT && was_protected),
			 "vCPU %d: KVM_RUN fails with errno %d", vcpu_id, err);
	usleep(100);

	return false;
}

static void *vcpu_thread(void *arg)
{
	int vcpu_id = (long)arg, slot;
	typeof(guest) *shared = addr_gva2hva(env.vm, (gva_t)&guest);
	struct kvm_random_state random = random_state(ACTOR_VCPU + vcpu_id);
	struct kvm_vcpu *vcpu = env.vcpus[vcpu_id];
	u8 places[NR_BUSY];

	while (!stopped()) {
		fork_case_doing(ACTOR_VCPU + vcpu_id, "runs a vCPU");
		for (slot = 0; slot < NR_BUSY; slot++) {
			places[slot] = READ_ONCE(env.place[slot]);
			shared->base[vcpu_id][slot] = env.gpa[slot][places[slot]];
		}

		mte_vcpu_prepare(vcpu, guest_use, vcpu_id, 0, 0, 0);
		while (!fork_case_failed() && !run_once(vcpu_id, places))
			;
		if (fork_case_failed())
			break;

		if (!mte_vcpu_result(vcpu))
			fork_case_fail("vCPU %d: memslot %lu, unit %lu: read 0x%lx, wrote 0x%lx",
				       vcpu_id, BUSY_SLOT(shared->failure[vcpu_id].slot),
				       shared->failure[vcpu_id].unit,
				       shared->failure[vcpu_id].data,
				       shared->data[shared->failure[vcpu_id].slot]
						   [shared->failure[vcpu_id].unit]);
		WRITE_ONCE(env.nr_runs[vcpu_id], env.nr_runs[vcpu_id] + 1);
		if (!pick(&random, 8))
			usleep(pick(&random, 1000));
	}
	fork_case_doing(ACTOR_VCPU + vcpu_id, NULL);

	return NULL;
}

/* The calm memslot. */

static int set_calm_slot(u32 flags, size_t size)
{
	return __vm_set_user_memory_region(env.vm, CALM_SLOT, flags, env.calm_gpa, size,
					   env.calm_mem.hva);
}

static void protect(void *hva, size_t size, int prot)
{
	TEST_ASSERT(!mprotect(hva, size, prot), "mprotect() failed, errno %d", errno);
}

/* Have nothing mapped, or something, or all of it. */
static void disturb_before(struct kvm_random_state *random)
{
	switch (pick(random, 4)) {
	case 0:
		protect(env.calm_mem.hva, env.size, PROT_READ);
		protect(env.calm_mem.hva, env.size, PROT_READ | PROT_WRITE);
		break;
	case 1:
		fork_case_returns(set_calm_slot(0, 0), 0, "to delete the calm memslot");
		fork_case_returns(set_calm_slot(0, env.size), 0, "to add the calm memslot");
		break;
	case 2:
		protect(env.calm_mem.hva, env.size / 2, PROT_NONE);
		protect(env.calm_mem.hva, env.size / 2, PROT_READ | PROT_WRITE);
		break;
	case 3:
		break;
	}
}

static void try_to_disturb(struct kvm_random_state *random)
{
	switch (pick(random, 4)) {
	case 0:
		fork_case_returns(set_calm_slot(0, 0), EBUSY, "to delete the locked memslot");
		break;
	case 1:
		fork_case_returns(set_calm_slot(KVM_MEM_LOG_DIRTY_PAGES, env.size), EBUSY,
				  "to log dirty pages of the locked memslot");
		break;
	case 2:
		fork_case_returns(__memslot_lock(env.vm, CALM_SLOT, MEMSLOT_LOCK_R), EBUSY,
				  "to lock the locked memslot");
		break;
	case 3:
		break;
	}
}

static void calm_round(struct kvm_random_state *random, int faults_fd, u64 *round)
{
	u64 flags = env.mte ? CALM_TAGS : 0, faults = 0, wrong;
	int i;

	disturb_before(random);

	fork_case_doing(THREAD_CALM, "locks the calm memslot");
	if (__memslot_lock(env.vm, CALM_SLOT, MEMSLOT_LOCK_RW)) {
		/* Others are the reason, whose memory KVM doesn't tell apart. */
		fork_case_expect(errno == EAGAIN, "to lock the calm memslot: errno %d", errno);
		env.nr_calm_gave_up++;
		return;
	}

	fork_case_doing(THREAD_CALM, "runs a vCPU with the calm memslot locked");
	if (faults_fd >= 0)
		faults = guest_faults(faults_fd);
	for (i = pick(random, 4); i >= 0; i--) {
		wrong = mte_vcpu_call(env.vcpus[CALM_VCPU], guest_use_calm, env.calm_gpa,
				      env.size / page_size, page_size, ++*round | flags);
		fork_case_expect(!wrong, "calm memslot: %lu of %lu pages are wrong", wrong,
				 env.size / page_size);
		try_to_disturb(random);
	}
	if (faults_fd >= 0) {
		faults = guest_faults(faults_fd) - faults;
		fork_case_expect(!faults, "calm memslot: %lu faults while it was locked", faults);
	}

	fork_case_doing(THREAD_CALM, "unlocks the calm memslot");
	fork_case_returns(__memslot_unlock(env.vm, CALM_SLOT), 0, "to unlock the calm memslot");
	WRITE_ONCE(env.nr_calm, env.nr_calm + 1);
}

static void *calm_thread(void *arg)
{
	struct kvm_random_state random = random_state(THREAD_CALM);
	int faults_fd = guest_faults_open_range(0, env.calm_gpa, env.size);
	u64 round = 1;

	mte_vcpu_call(env.vcpus[CALM_VCPU], guest_init_calm, env.calm_gpa,
		      env.size / page_size, page_size, env.mte);
	while (!stopped()) {
		pthread_rwlock_rdlock(&calm_lock);
		calm_round(&random, faults_fd, &round);
		pthread_rwlock_unlock(&calm_lock);
		usleep(pick(&random, 500));
	}
	fork_case_doing(THREAD_CALM, NULL);
	if (faults_fd >= 0)
		kvm_close(faults_fd);

	return NULL;
}

/* The thread that makes the kernel call MMU notifiers. */

/* A range at random, in the smallest units that anything can be done to. */
static void *pick_range(struct kvm_random_state *random, int slot, size_t *size)
{
	size_t unit = env.mem[slot].folio_size, nr, first;

	if (!params.kind->hugetlb)
		unit = page_size;
	nr = env.size / unit;
	first = pick(random, nr);
	*size = (1 + pick(random, nr - first)) * unit;

	return env.mem[slot].hva + first * unit;
}

static void do_protect(struct kvm_random_state *random, int slot)
{
	int prot = pick(random, 2) ? PROT_READ : PROT_NONE, actor;
	size_t size;
	void *hva;

	hva = pick_range(random, slot, &size);
	pthread_rwlock_wrlock(&protect_lock);

	pthread_mutex_lock(&model_mutex);
	models[slot].nr_protectors++;
	for (actor = 0; actor < NR_ACTORS; actor++)
		models[slot].pending[actor].protected = true;
	pthread_mutex_unlock(&model_mutex);

	protect(hva, size, prot);
	usleep(pick(random, 300));
	protect(hva, size, PROT_READ | PROT_WRITE);

	pthread_mutex_lock(&model_mutex);
	models[slot].nr_protectors--;
	pthread_mutex_unlock(&model_mutex);

	pthread_rwlock_unlock(&protect_lock);
}

/* Of what isn't checked, which is the second half. */
static void do_dontneed(struct kvm_random_state *random, int slot)
{
	size_t size;
	void *hva;

	hva = pick_range(random, slot, &size);
	if (hva < env.mem[slot].hva + env.size / 2)
		return;

	kvm_madvise(hva, size, MADV_DONTNEED);
}

/* What these three do is up to the kernel, and what it can't do it won't. */

static void do_pageout(struct kvm_random_state *random, int slot)
{
	size_t size;
	void *hva;

	hva = pick_range(random, slot, &size);
	if (!params.kind->hugetlb)
		madvise(hva, size, MADV_PAGEOUT);
}

static void do_collapse(struct kvm_random_state *random, int slot)
{
	if (params.kind->type == MTE_MEM_ANON_THP)
		madvise(env.mem[slot].hva, env.size, MADV_COLLAPSE);
}

static void do_migrate(struct kvm_random_state *random, int slot)
{
	size_t size;
	void *hva;

	hva = pick_range(random, slot, &size);
	/* Which page frame it goes to can't be said, only that it is another one. */
	if (!params.kind->hugetlb && env.nr_offline < MAX_OFFLINE &&
	    !madvise(hva, page_size, MADV_SOFT_OFFLINE))
		env.nr_offline++;
}

static void do_fork(struct kvm_random_state *random, int slot)
{
	u32 us = pick(random, 1000);
	int status;
	pid_t pid;

	pid = fork();
	/* The copies of what is pinned are made at once, if there are folios for that. */
	if (pid < 0 && params.kind->hugetlb)
		return;
	TEST_ASSERT(pid >= 0, "fork() failed, errno %d", errno);
	if (!pid) {
		usleep(us);
		_exit(0);
	}
	TEST_ASSERT(waitpid(pid, &status, 0) == pid, "waitpid() failed, errno %d", errno);
}

static void do_soft_dirty(struct kvm_random_state *random, int slot)
{
	int fd = open("/proc/self/clear_refs", O_WRONLY);

	if (fd < 0)
		return;

	/* Of all memory, whether or not this kernel has soft-dirty bits. */
	pthread_rwlock_wrlock(&calm_lock);
	TEST_ASSERT(write(fd, "4", 1) == 1, "Can't clear soft-dirty bits, errno %d", errno);
	pthread_rwlock_unlock(&calm_lock);
	kvm_close(fd);
}

static const struct event {
	const char *doing;
	void (*run)(struct kvm_random_state *random, int slot);
	u32 weight;
} events[] = {
	{ "protects memory", do_protect, 4 },
	{ "gives memory up", do_dontneed, 4 },
	{ "pages memory out", do_pageout, 2 },
	{ "collapses huge pages", do_collapse, 1 },
	{ "migrates a page", do_migrate, 1 },
	{ "forks a process", do_fork, 2 },
	{ "clears soft-dirty bits", do_soft_dirty, 2 },
};

static void *notifier_thread(void *arg)
{
	struct kvm_random_state random = random_state(THREAD_NOTIFIER);
	u32 total = 0, n;
	int i;

	for (i = 0; i < ARRAY_SIZE(events); i++)
		total += events[i].weight;

	while (!stopped()) {
		n = pick(&random, total);
		for (i = 0; n >= events[i].weight; i++)
			n -= events[i].weight;

		fork_case_doing(THREAD_NOTIFIER, events[i].doing);
		events[i].run(&random, pick(&random, NR_BUSY));
		/* It takes a storm for an attempt to lock to give up. Most shouldn't. */
		usleep(pick(&random, 4000));
	}
	fork_case_doing(THREAD_NOTIFIER, NULL);

	return NULL;
}

/* Processes that lock memory, and end whenever. */

struct victim {
	struct kvm_vm	*vm;
	struct kvm_vcpu	*vcpu;
	u32		nr_pages;
};

static void *victim_run(void *arg)
{
	struct victim *victim = arg;

	mte_vcpu_call(victim->vcpu, lock_guest_write_forever, MTE_TEST_GPA,
		      victim->nr_pages, page_size, 0);

	return NULL;
}

static void *victim_lock(void *arg)
{
	struct victim *victim = arg;
	u64 n;
	int ret;

	for (n = 0; !fork_case_failed(); n++) {
		ret = __memslot_lock(victim->vm, BUSY_SLOT(0),
				     n % 2 ? MEMSLOT_LOCK_R : MEMSLOT_LOCK_RW);
		/* Its own fork() may be the reason. */
		if (ret && errno == EAGAIN)
			continue;
		if (!fork_case_returns(ret, 0, "to lock, in a process that will be killed"))
			break;
		ret = __memslot_unlock(victim->vm, BUSY_SLOT(0));
		fork_case_returns(ret, 0, "to unlock, in a process that will be killed");
	}

	return NULL;
}

static void victim_process(struct kvm_random_state random)
{
	struct victim victim = { .nr_pages = 1 + pick(&random, 256) };
	bool run = !pick(&random, 4), heir = !pick(&random, 3);
	pthread_t thread;
	const char *reason;
	struct mte_mem mem;

	reason = mte_mem_alloc(&mem, pick(&random, 2) ? MTE_MEM_ANON : MTE_MEM_MEMFD, 0,
			       victim.nr_pages * page_size);
	TEST_ASSERT(!reason, "No memory: %s", reason);
	if (run) {
		victim.vm = __vm_create(VM_SHAPE_DEFAULT, 1, mem.size / SZ_4K);
		mte_vm_add_vcpus(victim.vm, 1, &victim.vcpu);
		mte_vm_add_slot(victim.vm, BUSY_SLOT(0), 0, MTE_TEST_GPA, mem.hva, mem.size);
		kvm_pthread_create(&thread, NULL, victim_run, &victim);
	} else {
		victim.vm = vm_create_barebones();
		vm_set_user_memory_region(victim.vm, BUSY_SLOT(0), 0, MTE_TEST_GPA, mem.size,
					  mem.hva);
	}
	kvm_pthread_create(&thread, NULL, victim_lock, &victim);
	usleep(pick(&random, 5000));

	/* It has the VM, too, and may be the last one. */
	if (heir && !fork()) {
		usleep(pick(&random, 10000));
		_exit(0);
	}
	usleep(pick(&random, 10000));
}

struct killer_shared {
	int	stop;
	u64	nr_killed;
	u64	nr_exited;
};

static void killer_process(struct killer_shared *shared)
{
	struct kvm_random_state random = random_state(THREAD_KILLER);
	int status;
	pid_t pid;
	u32 n;

	/* Nobody would stop it. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* Have orphans reported here. */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	for (n = 0; !READ_ONCE(shared->stop) && !fork_case_failed(); n++) {
		fork_case_doing(THREAD_KILLER, "has a process lock memory");
		pid = fork();
		TEST_ASSERT(pid >= 0, "fork() failed, errno %d", errno);
		if (!pid) {
			victim_process(random_state(THREAD_KILLER + 1 + n));
			_exit(0);
		}

		usleep(pick(&random, 40000));
		/* If it isn't killed it ends by itself, sooner or later. */
		if (pick(&random, 4))
			kill(pid, SIGKILL);
		fork_case_doing(THREAD_KILLER, "waits for a process to end, or to die");
		TEST_ASSERT(waitpid(pid, &status, 0) == pid, "waitpid() failed, errno %d", errno);
		fork_case_expect(!status || (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL),
				 "a process that locks memory has failed, status 0x%x", status);
		if (WIFEXITED(status))
			shared->nr_exited++;
		else
			shared->nr_killed++;
	}

	fork_case_doing(THREAD_KILLER, "waits for orphans");
	while (wait(&status) > 0)
		;
	fork_case_doing(THREAD_KILLER, NULL);
}

/* All of it. */

static bool has_mte(void)
{
	return getauxval(AT_HWCAP2) & HWCAP2_MTE && kvm_check_cap(KVM_CAP_ARM_MTE);
}

/* Two of the largest leaves, of which the second isn't checked, or as many pages. */
static size_t memslot_size(void)
{
	return params.kind->blocks ? 2 * pmd_size() : NR_PAGES * page_size;
}

static bool alloc_memory(struct mte_mem *mem)
{
	const char *reason;

	reason = mte_mem_alloc(mem, params.kind->type, pmd_size(), env.size);
	if (!reason) {
		reason = mte_mem_populate(mem);
		if (!reason)
			return true;
		mte_mem_free(mem);
	}
	fork_case_skip("%s", reason);

	return false;
}

static void create_vm(void)
{
	size_t total = (NR_BUSY * NR_PLACES + 1) * env.size;
	typeof(guest) *shared;
	int slot, place, i;
	gpa_t gpa;

	env.mte = params.mte && has_mte();
	if (env.mte) {
		env.vm = mte_vm_create(NR_VCPUS + 1, total, env.vcpus);
	} else {
		env.vm = __vm_create(VM_SHAPE_DEFAULT, NR_VCPUS + 1, total / SZ_4K);
		mte_vm_add_vcpus(env.vm, NR_VCPUS + 1, env.vcpus);
	}

	/* Pages are to the left and to the right of a border. */
	gpa = params.kind->blocks ? MTE_TEST_GPA : MTE_TEST_GPA + pmd_size() - env.size / 2;
	for (slot = 0; slot < NR_BUSY; slot++) {
		for (place = 0; place < NR_PLACES; place++) {
			env.gpa[slot][place] = gpa;
			virt_map(env.vm, gpa, gpa, env.size / env.vm->page_size);
			gpa += 2 * pmd_size();
		}
		vm_set_user_memory_region(env.vm, BUSY_SLOT(slot), 0, env.gpa[slot][0],
					  env.size, env.mem[slot].hva);
	}
	env.calm_gpa = gpa;
	mte_vm_add_slot(env.vm, CALM_SLOT, 0, gpa, env.calm_mem.hva, env.size);

	shared = addr_gva2hva(env.vm, (gva_t)&guest);
	shared->stride = env.size / NR_UNITS;
	for (i = 0; i < NR_VCPUS; i++)
		shared->random[i] = (params.seed + i) * 0x9e3779b97f4a7c15UL | 1;
}

static u64 now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);

	return timespec_to_ns(ts) / 1000000;
}

/* Whether there was anything to be checked. */
static bool had_enough(void)
{
	return count_get(CALL_LOCK_R, OKAY) && count_get(CALL_LOCK_RW, OKAY) &&
	       count_get(CALL_UNLOCK, OKAY) && count_get(CALL_SET, OKAY) &&
	       READ_ONCE(env.nr_calm) && READ_ONCE(env.nr_runs[0]) && READ_ONCE(env.nr_runs[1]);
}

static void run_threads(void)
{
	static const struct {
		void *(*fn)(void *arg);
		long arg;
		const char *waits;
	} threads[] = {
		{ locker_thread, ACTOR_LOCKER, "waits for the first thread that locks" },
		{ locker_thread, ACTOR_LOCKER + 1, "waits for the second thread that locks" },
		{ changer_thread, 0, "waits for the thread that changes memslots" },
		{ vcpu_thread, 0, "waits for the first vCPU" },
		{ vcpu_thread, 1, "waits for the second vCPU" },
		{ calm_thread, 0, "waits for the vCPU of the calm memslot" },
		{ notifier_thread, 0, "waits for the thread that changes memory" },
	};
	struct kvm_random_state random = random_state(THREAD_MAIN);
	pthread_t ids[ARRAY_SIZE(threads)];
	u64 start = now_ms(), ms = 0;
	int i;

	for (i = 0; i < ARRAY_SIZE(threads); i++)
		kvm_pthread_create(&ids[i], NULL, threads[i].fn, (void *)threads[i].arg);

	/* On a slow machine it takes longer until there is something to be seen. */
	while (!fork_case_failed() && (ms < params.ms || (!had_enough() && ms < 30000))) {
		usleep(pick(&random, 10000));
		/*
		 * One of those that lock. Where that takes longer than the time between two
		 * signals, it isn't done even once before they end.
		 */
		if (!pick(&random, 8) && ms < params.ms)
			pthread_kill(ids[pick(&random, NR_LOCKERS)], SIGUSR1);
		ms = now_ms() - start;
	}

	WRITE_ONCE(env.stop, true);
	for (i = 0; i < ARRAY_SIZE(threads); i++) {
		fork_case_doing(THREAD_MAIN, threads[i].waits);
		kvm_pthread_join(ids[i], NULL);
	}
}

/* Nothing is locked any more, and the data is right. */
static void check_end(void)
{
	typeof(guest) *shared = addr_gva2hva(env.vm, (gva_t)&guest);
	u64 locked_pages;
	int slot;

	fork_case_doing(THREAD_MAIN, "unlocks what is locked at the end");
	for (slot = 0; slot < NR_BUSY; slot++) {
		do_unlock(slot, ACTOR_CHANGER);
		fork_case_expect(do_set(slot, 0, false) == OKAY,
				 "memslot %d can't be changed at the end", BUSY_SLOT(slot));
		shared->base[0][slot] = env.gpa[slot][0];
	}
	fork_case_doing(ACTOR_CHANGER, NULL);

	fork_case_doing(THREAD_MAIN, "checks data at the end");
	if (!fork_case_failed() && !mte_vcpu_call(env.vcpus[0], guest_check, 0, 0, 0, 0))
		fork_case_fail("memslot %lu, unit %lu: read 0x%lx at the end",
			       BUSY_SLOT(shared->failure[0].slot), shared->failure[0].unit,
			       shared->failure[0].data);

	locked_pages = vm_get_stat(env.vm, locked_pages);
	fork_case_expect(!locked_pages, "locked_pages is %lu at the end", locked_pages);
	for (slot = 0; slot < NR_BUSY; slot++)
		fork_case_expect(do_delete(slot) == OKAY, "memslot %d can't be deleted at the end",
				 BUSY_SLOT(slot));
	fork_case_doing(ACTOR_CHANGER, NULL);
}

static void print_counts(const struct killer_shared *killer)
{
	int call, outcome;

	for (call = 0; call < NR_CALLS; call++) {
		for (outcome = 0; outcome < NR_OUTCOMES; outcome++) {
			if (counts[call][outcome])
				ksft_print_msg("%s: %s: %s: %lu\n", params.kind->name,
					       call_names[call], outcome_names[outcome],
					       counts[call][outcome]);
		}
	}
	ksft_print_msg("%s: calm: %lu rounds, gave up: %lu\n", params.kind->name, env.nr_calm,
		       env.nr_calm_gave_up);
	ksft_print_msg("%s: unmapped: %lu pages, mapped again: %lu, changed: %lu\n",
		       params.kind->name, vm_get_stat(env.vm, locked_pages_zapped),
		       vm_get_stat(env.vm, locked_pages_repaired),
		       vm_get_stat(env.vm, locked_pages_changed));
	ksft_print_msg("%s: processes killed: %lu, exited: %lu\n", params.kind->name,
		       killer->nr_killed, killer->nr_exited);
}

static void init_locks(void)
{
	struct sigaction action = { .sa_handler = handle_signal, .sa_flags = SA_RESTART };
	pthread_rwlockattr_t attr;

	TEST_ASSERT(!sigaction(SIGUSR1, &action, NULL), "sigaction() failed, errno %d", errno);

	/* Whoever wants to be alone must not have to wait for ever. */
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&calm_lock, &attr);
	pthread_rwlock_init(&protect_lock, &attr);
}

static void run(const void *unused)
{
	struct killer_shared *killer;
	struct lock_usage base;
	int slot, status;
	pid_t pid;

	base = lock_usage();
	/* While there is no memory yet that it would have copies of. */
	killer = kvm_mmap(sizeof(*killer), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
	fflush(stdout);
	pid = fork();
	TEST_ASSERT(pid >= 0, "fork() failed, errno %d", errno);
	if (!pid) {
		killer_process(killer);
		_exit(0);
	}

	env.size = memslot_size();
	for (slot = 0; slot < NR_BUSY; slot++) {
		if (!alloc_memory(&env.mem[slot]))
			return;
		model_init(&models[slot]);
	}
	if (!alloc_memory(&env.calm_mem))
		return;
	/* Or fork() would be one of the reasons for which the guest takes faults on it. */
	kvm_madvise(env.calm_mem.hva, env.size, MADV_DONTFORK);

	fork_case_doing(THREAD_MAIN, "creates a VM");
	init_locks();
	create_vm();
	run_threads();

	fork_case_doing(THREAD_MAIN, "waits for the processes that lock memory");
	WRITE_ONCE(killer->stop, 1);
	TEST_ASSERT(waitpid(pid, &status, 0) == pid, "waitpid() failed, errno %d", errno);
	fork_case_expect(!status, "a process has failed, status 0x%x", status);
	print_counts(killer);
	/* With what is wrong it can't be said what would be right. */
	if (fork_case_failed())
		return;

	fork_case_expect(had_enough(), "too slow: something was not done once");
	check_end();
	fork_case_expect(lock_usage_is(base), "wrong memory is locked or pinned at the end");
	fork_case_doing(THREAD_MAIN, "destroys the VM");
	kvm_vm_free(env.vm);
}

static void help(const char *name)
{
	printf("usage: %s [-h] [-s seconds] [-r seed]\n"
	       " -s: how long to run, all kinds of memory together, default %d seconds\n"
	       " -r: seed for what is done at random\n", name, DEFAULT_SECONDS);
	exit(KSFT_FAIL);
}

/* Without it the calm memslot says nothing about faults. */
static void report_counter(void)
{
	int fd = guest_faults_open_range(0, MTE_TEST_GPA, page_size);

	if (fd < 0) {
		ksft_test_result_skip("faults of a guest: perf can't count kvm_guest_fault\n");
		return;
	}
	kvm_close(fd);
	ksft_test_result_pass("faults of a guest\n");
}

static void run_kind(const struct kind *kind, u32 seconds)
{
	char *name = strdup_printf("%s, seed %u", kind->mem->name, params.seed);
	const char *reason = NULL;

	params.kind = kind->mem;
	params.mte = kind->mte;
	params.ms = seconds * 1000 / ARRAY_SIZE(kinds);
	if (params.kind->blocks && pmd_size() > LOCK_MAX_BLOCK)
		reason = "the blocks are too large";
	/* Not left to the case, which wouldn't give them back. */
	if (!reason && params.kind->hugetlb)
		reason = hugetlb_reserve(pmd_size(), (NR_BUSY + 1) * memslot_size() / pmd_size() +
						     NR_SPARE_FOLIOS);

	if (reason)
		ksft_test_result_skip("%s: %s\n", name, reason);
	else
		fork_case_report(name, fork_case_run(run, NULL, seconds + GRACE_SECONDS));
	free(name);
}

int main(int argc, char *argv[])
{
	u32 seconds = DEFAULT_SECONDS;
	int opt, i;

	page_size = getpagesize();
	TEST_ASSERT(getrandom(&params.seed, sizeof(params.seed), GRND_INSECURE) ==
		    sizeof(params.seed), "No seed");
	params.seed &= INT_MAX;

	while ((opt = getopt(argc, argv, "hs:r:")) != -1) {
		switch (opt) {
		case 's':
			seconds = atoi_positive("Time", optarg);
			break;
		case 'r':
			params.seed = atoi_non_negative("Seed", optarg);
			break;
		default:
			help(argv[0]);
		}
	}

	ksft_print_header();
	__TEST_REQUIRE(kvm_check_cap(KVM_CAP_ARM_LOCK_USER_MEMORY_REGION),
		       "memslots can't be locked, as in protected mode");
	/* The calm memslot must remain as it is. */
	lock_stop_numa_balancing();
	ksft_set_plan(2 + ARRAY_SIZE(kinds));

	fork_case_report_log();
	report_counter();
	for (i = 0; i < ARRAY_SIZE(kinds); i++)
		run_kind(&kinds[i], seconds);

	ksft_finished();
}
