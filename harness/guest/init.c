// SPDX-License-Identifier: GPL-2.0-only
/*
 * Process 1 of the test guest: mounts what tests look at, runs the tests of a
 * plan one after the other and reports on a channel of its own.
 *
 * The plan is the fw_cfg file opt/harness/plan, words separated by blanks:
 *
 *	hugepages KB COUNT	have COUNT hugetlb pages of that size
 *	write PATH VALUE	write VALUE to PATH
 *	swap DEVICE		have DEVICE as swap space
 *	modules VARIANT		have the modules of that kernel in TEST_MODULES
 *	test NAME SECONDS PROGRAM [ARG...]
 *	shell			alone in a plan: a shell on the console
 *
 * The first three hold for the next test only and are undone after it; modules stay,
 * and may stand before shell, too. PROGRAM is looked up from /tests, which is where
 * tests run; PATH is not searched.
 *
 * The channel is the virtio-serial port "results". One record a line:
 *
 *	hello 1			version of this format, always first
 *	error LINE TEXT		the plan is bad: nothing was run, nothing follows
 *	fact NAME VALUE		from /bin/probe
 *	note TEXT		something is not as asked for
 *	start NAME
 *	out NAME LENGTH		LENGTH bytes of the test's output follow the newline
 *	end NAME VERDICT MS	exit CODE, signal NUMBER, timeout SECONDS,
 *				stuck SECONDS or error ERRNO (was not started)
 *	kmemleak LENGTH		LENGTH bytes of its report follow the newline
 *	done			the log is whole; answered by the host with a newline
 *
 * QEMU drops what the host did not take before power-off. Hence the answer, which
 * is waited for.
 *
 * A log without "done" is not to be trusted. After "stuck" there is none: a
 * process that SIGKILL does not end is in kernel code for good, with its locks
 * and its pages, so that the tests left want a boot of their own.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <limits.h>
#include <linux/kvm.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ARRAY_SIZE(a)		(sizeof(a) / sizeof((a)[0]))
#define __noreturn		__attribute__((noreturn))
#define __printf(f, a)		__attribute__((format(printf, f, a)))

#define PLAN		"/sys/firmware/qemu_fw_cfg/by_name/opt/harness/plan/raw"
#define PORTS		"/sys/class/virtio-ports"
#define PORT_NAME	"results\n"
#define PORT_DRIVER	"/sys/bus/virtio/drivers/virtio_console"
#define MODULES		"/modules"	/* a directory for each kernel */
#define TEST_MODULES	"/tests/kvm/test_modules"
#define KMEMLEAK	"/sys/kernel/debug/kmemleak"

#define PORT_MS		5000		/* ports come by a work item */
#define TAKEN_MS	10000		/* the host's answer to done */
#define REAP_MS		10000		/* from SIGKILL to stuck */
#define PROBE_SECONDS	"60"
#define MAX_OUTPUT	(8UL << 20)	/* of one test */
#define PF_KTHREAD	0x00200000	/* of the flags in /proc/PID/stat */

static char *const environment[] = {
	"PATH=/bin:/sbin:/usr/bin:/usr/sbin", "HOME=/tmp", NULL
};

/* ------------------------------------------------------------ small things */

static int channel = -1;

/*
 * What the host has not taken yet is lost with the power. Not wait_event(): a
 * SIGCHLD that is pending would end it at once, here it stays blocked.
 */
static void wait_taken(void)
{
	struct pollfd port = { .fd = channel, .events = POLLIN };

	poll(&port, 1, TAKEN_MS);
}

static void __noreturn power_off(void)
{
	reboot(RB_POWER_OFF);
	_exit(1);	/* the kernel panics, which is seen; a hang is not */
}

/* The last words when there is no channel to say them on. */
static void __noreturn give_up(const char *what)
{
	dprintf(STDERR_FILENO, "init: %s: %s\n", what, strerror(errno));
	power_off();
}

static void *allocate(void *old, size_t size)
{
	void *new = realloc(old, size);

	if (!new)
		give_up("memory");
	return new;
}

static char *__printf(1, 2) format(const char *fmt, ...)
{
	va_list ap;
	char *text;

	va_start(ap, fmt);
	if (vasprintf(&text, fmt, ap) < 0)
		give_up("memory");
	va_end(ap);
	return text;
}

static void reattach_channel(void);

static void send_bytes(const char *bytes, size_t size)
{
	while (size) {
		struct pollfd port = { .fd = channel, .events = POLLOUT };
		ssize_t n;

		if (poll(&port, 1, 0) > 0 && port.revents & POLLHUP)
			reattach_channel();
		n = write(channel, bytes, size);

		/* A broken port takes 0 bytes for ever. */
		if (n <= 0)
			give_up("result channel");
		bytes += n;
		size -= n;
	}
}

static void __printf(1, 2) record(const char *fmt, ...)
{
	char line[1024];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(line, sizeof(line) - 1, fmt, ap);
	va_end(ap);
	if (n > (int)sizeof(line) - 2)
		n = sizeof(line) - 2;
	/* The name of a process may have a newline in it. */
	for (int i = 0; i < n; i++) {
		if (line[i] == '\n')
			line[i] = ' ';
	}
	line[n++] = '\n';
	send_bytes(line, n);
}

/* The whole of a file and a NUL behind it; NULL with errno set. */
static char *read_file(const char *path, size_t *size)
{
	size_t have = 0, room = 4096;
	char *text = NULL;
	ssize_t n;
	int fd, err;

	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return NULL;

	do {
		text = allocate(text, room *= 2);
		while ((n = read(fd, text + have, room - have - 1)) > 0)
			have += n;
	} while (!n && have == room - 1);
	err = errno;
	close(fd);
	if (n < 0) {
		free(text);
		errno = err;
		return NULL;
	}

	text[have] = '\0';
	if (size)
		*size = have;
	return text;
}

static int write_file(const char *path, const char *text)
{
	ssize_t n;
	int fd, err;

	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	n = write(fd, text, strlen(text));
	err = n < 0 ? errno : EIO;
	close(fd);
	errno = err;
	return n == (ssize_t)strlen(text) ? 0 : -1;
}

static long long now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
}

/*
 * SIGCHLD is blocked everywhere but in here, so that a child that ends between
 * waitpid() and the wait is not missed. True when there is something to read.
 */
static bool wait_event(int fd, long long until)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };
	long long left = until - now_ms();
	struct timespec ts;
	sigset_t none;

	if (left < 0)
		left = 0;
	ts = (struct timespec) { left / 1000, left % 1000 * 1000000 };
	sigemptyset(&none);
	return ppoll(&pfd, 1, &ts, &none) > 0;
}

/* A signal mask survives exec, and no test must see its parent's. */
static void unblock_signals(void)
{
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Tells which test a report on the console belongs to. */
static void kernel_log(const char *what, const char *name)
{
	char *text = format("<6>harness: %s %s\n", what, name);

	/* Opened for each line: the kernel limits the rate per open file. */
	write_file("/dev/kmsg", text);
	free(text);
}

/* ------------------------------------------------------------------- mounts */

static const struct {
	const char *type, *target;
} mounts[] = {
	{ "devtmpfs",	"/dev" },
	{ "tmpfs",	"/dev/shm" },
	{ "proc",	"/proc" },
	{ "sysfs",	"/sys" },
	{ "debugfs",	"/sys/kernel/debug" },
	{ "tracefs",	"/sys/kernel/tracing" },
	{ "cgroup2",	"/sys/fs/cgroup" },
	{ "tmpfs",	"/tmp" },
};

static int mount_errors[ARRAY_SIZE(mounts)];

static void mount_all(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(mounts); i++) {
		mkdir(mounts[i].target, 0755);
		/* EBUSY: CONFIG_DEVTMPFS_MOUNT has done it */
		if (mount(mounts[i].type, mounts[i].target, mounts[i].type, 0,
			  NULL) && errno != EBUSY)
			mount_errors[i] = errno;
	}
}

static void report_mounts(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(mounts); i++) {
		if (mount_errors[i])
			record("note no %s on %s: %s", mounts[i].type,
			       mounts[i].target, strerror(mount_errors[i]));
	}
}

/*
 * The kernel has opened a node that devtmpfs hides now, or nothing when the
 * initramfs has no node. 0 to 2 must be open, or a pipe gets their numbers.
 */
static void open_console(void)
{
	int fd = open("/dev/console", O_RDWR);

	if (fd < 0)
		fd = open("/dev/null", O_RDWR);
	for (int i = STDIN_FILENO; i <= STDERR_FILENO; i++)
		dup2(fd, i);
	if (fd > STDERR_FILENO)
		close(fd);
}

static int open_port(void)
{
	struct dirent *entry;
	int fd = -1;
	DIR *dir;

	dir = opendir(PORTS);
	while (dir && fd < 0 && (entry = readdir(dir))) {
		char *path = format(PORTS "/%s/name", entry->d_name);
		char *name = read_file(path, NULL);
		char *node = format("/dev/%s", entry->d_name);

		if (name && !strcmp(name, PORT_NAME))
			fd = open(node, O_RDWR | O_CLOEXEC);
		free(path);
		free(name);
		free(node);
	}
	if (dir)
		closedir(dir);
	return fd;
}

/* A port without a reader at the host takes nothing, and write() waits. */
static void open_channel(void)
{
	struct pollfd port = { .fd = -1, .events = POLLOUT };
	long long until = now_ms() + PORT_MS;

	for (;;) {
		if (port.fd < 0)
			port.fd = open_port();
		if (poll(&port, 1, 0) > 0 && port.revents == POLLOUT)
			break;
		if (now_ms() >= until) {
			errno = port.fd < 0 ? ENODEV : ENOTCONN;
			give_up("virtio-serial port named results");
		}
		usleep(10000);
	}
	channel = port.fd;
}

/*
 * A system that was hibernated asks QEMU whether ports are connected before it gives it
 * buffers for the answer (virtcons_restore()). So the answer is lost, and whoever
 * writes to a port waits for ever. The driver asks again when it is bound.
 */
static void reattach_channel(void)
{
	char device[PATH_MAX], *link;
	glob_t found;
	ssize_t n;

	if (glob(PORTS "/*", 0, NULL, &found))
		give_up("result port");
	link = format("%s/device", found.gl_pathv[0]);
	n = readlink(link, device, sizeof(device) - 1);
	if (n < 0)
		give_up(link);
	device[n] = '\0';
	free(link);
	globfree(&found);

	close(channel);
	if (write_file(PORT_DRIVER "/unbind", basename(device)) ||
	    write_file(PORT_DRIVER "/bind", basename(device)))
		give_up(PORT_DRIVER);
	open_channel();
}

/* --------------------------------------------------------------------- jobs */

struct job {
	const char *name;
	char **argv;
	const char *seconds;	/* all digits */
	void (*output)(struct job *job, const char *bytes, size_t size);
	size_t size;		/* what came out so far */
	char *text;		/* kept, of the probe */
	char verdict[32];
	long long ms;
};

static void send_output(struct job *job, const char *bytes, size_t size)
{
	size_t room = job->size < MAX_OUTPUT ? MAX_OUTPUT - job->size : 0;

	if (job->size <= MAX_OUTPUT && size > room)
		record("note %s: output after %lu MiB is dropped", job->name,
		       MAX_OUTPUT >> 20);
	job->size += size;
	if (size > room)
		size = room;
	if (size) {
		record("out %s %zu", job->name, size);
		send_bytes(bytes, size);
	}
}

static void keep_output(struct job *job, const char *bytes, size_t size)
{
	job->text = allocate(job->text, job->size + size + 1);
	memcpy(job->text + job->size, bytes, size);
	job->size += size;
	job->text[job->size] = '\0';
}

/* One read: false when there is nothing, now or for ever. */
static bool forward(struct job *job, int *fd)
{
	static char bytes[65536];
	ssize_t n = read(*fd, bytes, sizeof(bytes));

	if (n > 0) {
		job->output(job, bytes, n);
	} else if (!n) {
		close(*fd);
		*fd = -1;
	}
	return n > 0;
}

static void __noreturn child(char **argv, int output, int failed)
{
	struct rlimit no_core = { 0, 0 };
	int err;

	unblock_signals();
	setsid();
	setrlimit(RLIMIT_CORE, &no_core);
	close(STDIN_FILENO);
	if (!open("/dev/null", O_RDONLY) && !chdir("/tests") &&
	    dup2(output, STDOUT_FILENO) >= 0 && dup2(output, STDERR_FILENO) >= 0)
		execve(argv[0], argv, environment);
	err = errno;
	if (write(failed, &err, sizeof(err)) < 0)
		_exit(126);
	_exit(127);
}

/* The process, or -1 with errno set; *fd is the end of its output to read. */
static pid_t spawn(char **argv, int *fd)
{
	int output[2], failed[2], err;
	pid_t pid;

	if (pipe2(output, O_CLOEXEC))
		return -1;
	if (pipe2(failed, O_CLOEXEC)) {
		err = errno;
		goto close_output;
	}

	pid = fork();
	if (!pid)
		child(argv, output[1], failed[1]);
	err = pid < 0 ? errno : 0;
	close(failed[1]);
	/* exec closes it, so that nothing to read means success. */
	if (pid > 0 && read(failed[0], &err, sizeof(err)) == sizeof(err))
		waitpid(pid, NULL, 0);
	close(failed[0]);
	if (!err) {
		close(output[1]);
		fcntl(output[0], F_SETFL, O_NONBLOCK);
		*fd = output[0];
		return pid;
	}

close_output:
	close(output[0]);
	close(output[1]);
	errno = err;
	return -1;
}

/* Reaps what has ended. True when the process is gone, with its status. */
static bool reap(pid_t wanted, int *status)
{
	bool found = false;
	pid_t pid;
	int s;

	while ((pid = waitpid(-1, &s, WNOHANG)) > 0) {
		if (pid == wanted) {
			*status = s;
			found = true;
		}
	}
	return found;
}

/*
 * Nothing of a test outlives it: neither what it did not wait for, nor what it
 * made a daemon. False when something does not go.
 */
static bool kill_all(void)
{
	long long until = now_ms() + REAP_MS;

	kill(-1, SIGKILL);
	for (;;) {
		pid_t pid = waitpid(-1, NULL, WNOHANG);

		if (pid < 0)
			return true;
		if (pid)
			continue;
		if (now_ms() >= until)
			return false;
		wait_event(-1, until);
	}
}

/* Where in the kernel the threads are that SIGKILL did not end. */
static void report_stuck(const struct job *job)
{
	glob_t found;

	if (glob("/proc/[0-9]*/task/*", 0, NULL, &found))
		return;
	for (size_t i = 0; i < found.gl_pathc; i++) {
		char *path = format("%s/stat", found.gl_pathv[i]);
		char *stat = read_file(path, NULL);
		/* PID (NAME) STATE ..., the name may have anything in it */
		char *state = stat ? strrchr(stat, ')') : NULL;
		unsigned int flags = PF_KTHREAD;

		if (state)
			sscanf(state, ") %*c %*d %*d %*d %*d %*d %u", &flags);
		if (!(flags & PF_KTHREAD) && strncmp(stat, "1 ", 2)) {
			char *stack, *next, *line;

			state[3] = '\0';
			record("note %s: SIGKILL does not end %s", job->name,
			       stat);
			free(path);
			path = format("%s/stack", found.gl_pathv[i]);
			stack = read_file(path, NULL);
			for (next = stack; (line = strsep(&next, "\n")); ) {
				if (*line)
					record("note %s: %s", job->name, line);
			}
			free(stack);
		}
		free(path);
		free(stat);
	}
	globfree(&found);
}

/* Fills in verdict and time. False when processes were left. */
static bool run(struct job *job)
{
	long long start = now_ms();
	long long until = start + atoll(job->seconds) * 1000;
	bool ended, gone;
	int fd, status = 0;
	pid_t pid;

	pid = spawn(job->argv, &fd);
	if (pid < 0) {
		snprintf(job->verdict, sizeof(job->verdict), "error %d", errno);
		job->ms = now_ms() - start;
		return true;
	}

	while (!(ended = reap(pid, &status)) && now_ms() < until) {
		if (wait_event(fd, until))
			forward(job, &fd);
	}
	job->ms = now_ms() - start;

	gone = kill_all();
	while (fd >= 0 && forward(job, &fd))
		;
	if (fd >= 0)
		close(fd);

	if (!gone)
		snprintf(job->verdict, sizeof(job->verdict), "stuck %s",
			 job->seconds);
	else if (!ended)
		snprintf(job->verdict, sizeof(job->verdict), "timeout %s",
			 job->seconds);
	else if (WIFSIGNALED(status))
		snprintf(job->verdict, sizeof(job->verdict), "signal %d",
			 WTERMSIG(status));
	else
		snprintf(job->verdict, sizeof(job->verdict), "exit %d",
			 WEXITSTATUS(status));
	if (!gone)
		report_stuck(job);
	return gone;
}

/* --------------------------------------------------------------------- plan */

struct line {
	unsigned int number;
	const struct verb *verb;
	char **word;		/* NULL behind the last one */
	char *path, *old;	/* what to undo */
};

struct verb {
	const char *name;
	const char *words;	/* w: any, n: number, *: any number of any */
	void (*apply)(struct line *line);
	void (*undo)(struct line *line);
};

static struct line *plan;
static size_t plan_size;

/* Of a file with choices, "always [madvise] never", the one in force. */
static char *current_value(const char *path)
{
	char *text = read_file(path, NULL);
	char *open, *close;

	if (!text)
		return NULL;
	text[strcspn(text, "\n")] = '\0';
	open = strchr(text, '[');
	close = open ? strchr(open, ']') : NULL;
	if (close) {
		*close = '\0';
		memmove(text, open + 1, close - open);
	}
	return text;
}

static int set(struct line *line, const char *value)
{
	line->old = current_value(line->path);
	if (!write_file(line->path, value))
		return 0;
	free(line->old);
	line->old = NULL;
	return -1;
}

static void undo_set(struct line *line)
{
	/* A file that reads as nothing takes commands and has no value. */
	if (line->old && *line->old && write_file(line->path, line->old))
		record("note cannot write %s back to %s: %s", line->old,
		       line->path, strerror(errno));
	free(line->old);
	free(line->path);
}

static void apply_write(struct line *line)
{
	line->path = format("%s", line->word[1]);
	if (set(line, line->word[2]))
		record("note cannot write %s to %s: %s", line->word[2],
		       line->path, strerror(errno));
}

static void apply_hugepages(struct line *line)
{
	char *got;

	line->path = format("/sys/kernel/mm/hugepages/hugepages-%skB/nr_hugepages",
			    line->word[1]);
	if (set(line, line->word[2])) {
		record("note hugepages of %s kB: none of %s: %s", line->word[1],
		       line->word[2], strerror(errno));
		return;
	}
	got = current_value(line->path);
	if (!got || atoll(got) < atoll(line->word[2]))
		record("note hugepages of %s kB: %s of %s", line->word[1],
		       got ? got : "none", line->word[2]);
	free(got);
}

/* What mkswap does: version 1 of the header, in the first page. */
static int make_swap(const char *device)
{
	const size_t page = sysconf(_SC_PAGESIZE);
	char *header = memset(allocate(NULL, page), 0, page);
	uint32_t *info = (uint32_t *)(header + 1024);
	int fd = open(device, O_RDWR | O_CLOEXEC);
	ssize_t n = -1;

	if (fd >= 0) {
		info[0] = 1;					/* version */
		info[1] = lseek(fd, 0, SEEK_END) / page - 1;	/* last page */
		memcpy(header + page - 10, "SWAPSPACE2", 10);
		n = pwrite(fd, header, page, 0);
		close(fd);
	}
	free(header);
	return n == (ssize_t)page ? 0 : -1;
}

static void apply_swap(struct line *line)
{
	if (make_swap(line->word[1]) || swapon(line->word[1], 0))
		record("note cannot swap on %s: %s", line->word[1],
		       strerror(errno));
	else
		line->path = line->word[1];
}

static void undo_swap(struct line *line)
{
	if (line->path && swapoff(line->path))
		record("note cannot end swapping on %s: %s", line->path,
		       strerror(errno));
}

/*
 * Kernels differ in more than the version that a module is checked against: a module
 * of another one would load, and go wrong. Hence none but those of this one are where
 * tests look for them.
 */
static void apply_modules(struct line *line)
{
	char *path = format(MODULES "/%s", line->word[1]);

	if (access(path, F_OK))
		record("note no modules of %s", line->word[1]);
	unlink(TEST_MODULES);
	if (symlink(path, TEST_MODULES))
		record("note cannot make " TEST_MODULES ": %s", strerror(errno));
	free(path);
}

static void undo_nothing(struct line *line)
{
	(void)line;
}

static const struct verb verbs[] = {
	{ "modules",	"w",	apply_modules, undo_nothing },
	{ "hugepages",	"nn",	apply_hugepages, undo_set },
	{ "write",	"ww",	apply_write, undo_set },
	{ "swap",	"w",	apply_swap, undo_swap },
	{ "test",	"wnw*",	NULL, NULL },
	{ "shell",	"",	NULL, NULL },
};

static bool is(const struct line *line, const char *verb)
{
	return !strcmp(line->verb->name, verb);
}

/* NULL, or what is wrong with it. */
static const char *parse_line(struct line *line, char *text)
{
	const char *want;
	char *word, **w;

	/* A word and a blank take two bytes. */
	w = allocate(NULL, (strlen(text) / 2 + 2) * sizeof(*w));
	line->word = w;
	for (word = strtok(text, " \t"); word; word = strtok(NULL, " \t"))
		*w++ = word;
	*w = NULL;

	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++) {
		if (!strcmp(verbs[i].name, line->word[0]))
			line->verb = &verbs[i];
	}
	if (!line->verb)
		return "unknown first word";

	w = line->word + 1;
	for (want = line->verb->words; *want && *want != '*'; want++, w++) {
		if (!*w)
			return "too few words";
		/* Nine digits do not overflow as milliseconds. */
		if (*want == 'n' && (strspn(*w, "0123456789") != strlen(*w) ||
				     strlen(*w) > 9))
			return "not a number";
	}
	return *w && !*want ? "too many words" : NULL;
}

/* But for modules before it. */
static bool shell_is_alone(void)
{
	for (size_t i = 0; i < plan_size; i++) {
		if (is(&plan[i], "shell"))
			return plan_size == i + 1 && i <= 1 &&
			       is(&plan[0], i ? "modules" : "shell");
	}
	return true;
}

/* NULL, or number and text of an error. */
static char *parse_plan(void)
{
	const char *wrong = NULL;
	unsigned int number = 0;
	char *next, *line;
	size_t size;

	next = read_file(PLAN, &size);
	if (!next)
		return format("0 cannot read the plan: %s", strerror(errno));
	if (strlen(next) != size)
		return format("0 the plan has a NUL byte");

	while ((line = strsep(&next, "\n"))) {
		char *copy = format("%s", line);

		number++;
		if (line[strspn(line, " \t")]) {
			struct line *new;

			plan = allocate(plan, (plan_size + 1) * sizeof(*plan));
			new = &plan[plan_size++];
			*new = (struct line) { .number = number };
			wrong = parse_line(new, line);
			if (!wrong && !shell_is_alone())
				wrong = "shell must be alone";
		}
		if (wrong)
			return format("%u %s: %s", number, wrong, copy);
		free(copy);
	}

	if (plan_size && plan[plan_size - 1].verb->apply)
		return format("%u a test must follow", plan[plan_size - 1].number);
	return NULL;
}

/* Lines first to last - 1 say what holds for the test in line last. */
static void run_test(struct line *first, struct line *last)
{
	struct job job = {
		.name = last->word[1],
		.seconds = last->word[2],
		.argv = last->word + 3,
		.output = send_output,
	};
	struct line *line;
	bool gone;

	/* What applying and undoing provoke belongs to the test, too. */
	kernel_log("start", job.name);
	record("start %s", job.name);
	for (line = first; line < last; line++)
		line->verb->apply(line);

	gone = run(&job);

	while (gone && line > first) {
		line--;
		line->verb->undo(line);
	}
	record("end %s %s %lld", job.name, job.verdict, job.ms);
	kernel_log("end", job.name);
	if (!gone) {
		wait_taken();
		power_off();
	}
}

/*
 * The first VM and the last one patch the scheduler, to call KVM or not. QEMU looks for
 * translations of an instruction before it stores another one, and if it is held up in
 * between, a translation that another CPU makes meanwhile is of the old one, and stays:
 * KVM is told that a vCPU's thread is scheduled in, and not that it was scheduled out. So
 * there is one VM until power-off, and the tests patch nothing. See README.md.
 */
static void keep_vm(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (kvm < 0)
		return;		/* a machine without */
	if (ioctl(kvm, KVM_CREATE_VM, 0) < 0)
		record("note no VM to keep: %s", strerror(errno));
	close(kvm);
}

static void run_plan(void)
{
	struct line *first = plan, *line;

	for (line = plan; line < plan + plan_size; line++) {
		if (is(line, "test")) {
			run_test(first, line);
			first = line + 1;
		}
	}
}

static void run_probe(void)
{
	char *argv[] = { "/bin/probe", NULL };
	struct job job = {
		.name = "probe",
		.seconds = PROBE_SECONDS,
		.argv = argv,
		.output = keep_output,
	};
	bool gone = run(&job);
	char *next = job.text, *line;

	while ((line = strsep(&next, "\n"))) {
		/* The last piece has no newline: nothing, or cut short. */
		if (next && !strncmp(line, "fact ", 5))
			record("%s", line);
		else if (*line)
			record("note probe: %s", line);
	}
	free(job.text);
	if (strcmp(job.verdict, "exit 0"))
		record("note probe: %s", job.verdict);
	if (!gone)
		power_off();
}

/*
 * An object counts as leaked when nothing points to it, it is older than five
 * seconds and it has not changed since the previous scan. Some configurations
 * report it only when it is found again; once is enough here.
 */
static void report_kmemleak(void)
{
	char *text = NULL;
	size_t size;

	if (access(KMEMLEAK, F_OK))
		return;
	write_file("/sys/module/kmemleak/parameters/min_unref_scans", "1");
	if (!write_file(KMEMLEAK, "scan")) {
		sleep(6);
		if (!write_file(KMEMLEAK, "scan"))
			text = read_file(KMEMLEAK, &size);
	}
	if (!text) {
		record("note kmemleak: %s", strerror(errno));
		return;
	}
	record("kmemleak %zu", size);
	send_bytes(text, size);
	free(text);
}

static void __noreturn run_shell(void)
{
	char *argv[] = { "busybox", "sh", "-l", NULL };
	pid_t pid;

	channel = STDOUT_FILENO;
	report_mounts();
	if (plan_size > 1)
		apply_modules(&plan[0]);
	pid = fork();
	if (!pid) {
		unblock_signals();
		/* Opening the console never makes it the controlling tty. */
		setsid();
		ioctl(STDIN_FILENO, TIOCSCTTY, 0);
		if (!chdir("/tests"))
			execve("/bin/busybox", argv, environment);
		give_up("shell");
	}
	while (pid > 0 && waitpid(-1, NULL, 0) != pid)
		;
	sync();
	power_off();
}

/* Not SIG_DFL: a signal that is ignored by default interrupts nothing. */
static void child_ended(int signal)
{
	(void)signal;
}

int main(void)
{
	struct sigaction action = { .sa_handler = child_ended };
	sigset_t blocked;
	char *error;

	sigemptyset(&blocked);
	sigaddset(&blocked, SIGCHLD);
	sigprocmask(SIG_BLOCK, &blocked, NULL);
	sigaction(SIGCHLD, &action, NULL);

	mount_all();
	open_console();

	error = parse_plan();
	if (!error && plan_size && is(&plan[plan_size - 1], "shell"))
		run_shell();

	open_channel();
	record("hello 1");
	report_mounts();
	if (error) {
		record("error %s", error);
	} else {
		run_probe();
		keep_vm();
		run_plan();
		if (plan_size)
			report_kmemleak();
		record("done");
		wait_taken();
	}
	sync();
	power_off();
}
