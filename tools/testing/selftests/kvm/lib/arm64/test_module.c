// SPDX-License-Identifier: GPL-2.0-only
/*
 * Loading of modules, see test_module.h.
 */
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <sys/syscall.h>

#include "kvm_util.h"
#include "test_module.h"

static int open_module(const char *name)
{
	const char *dir = getenv("KVM_TEST_MODULES");
	char self[PATH_MAX] = "", path[PATH_MAX + 64];

	if (!dir) {
		TEST_ASSERT(readlink("/proc/self/exe", self, sizeof(self) - 1) > 0,
			    "/proc/self/exe: %s", strerror(errno));
		snprintf(path, sizeof(path), "%s/../test_modules/%s.ko", dirname(self), name);
	} else {
		snprintf(path, sizeof(path), "%s/%s.ko", dir, name);
	}
	return open(path, O_RDONLY | O_CLOEXEC);
}

const char *test_module_missing(const char *name)
{
	static char reason[128];
	int fd;

	if (access("/proc/modules", F_OK))
		return "CONFIG_MODULES is off";

	fd = open_module(name);
	if (fd >= 0) {
		close(fd);
		return NULL;
	}
	snprintf(reason, sizeof(reason), "test_modules/%s.ko was not built", name);
	return reason;
}

int test_module_load(const char *name, const char *params)
{
	int fd, ret;

	fd = open_module(name);
	if (fd < 0)
		return errno;
	ret = syscall(__NR_finit_module, fd, params, 0) ? errno : 0;
	close(fd);
	return ret;
}

bool test_module_unload(const char *name)
{
	return !syscall(__NR_delete_module, name, O_NONBLOCK);
}
