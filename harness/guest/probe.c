// SPDX-License-Identifier: GPL-2.0-only
/*
 * Prints what this kernel offers on this machine, one "fact NAME VALUE" a line
 * and nothing else. Every fact is printed everywhere, so that one that is not
 * there means a broken probe and never a missing feature. What the CPU model
 * has, before any kernel hides a part of it, is for idregs.S to say.
 *
 * Compiled against the headers of the tree under test: -I BUILD/usr/include.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <linux/kvm.h>

#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))

#define DT_ROOT	"/sys/firmware/devicetree/base"

#ifndef AT_HWCAP3		/* glibc 2.36 does not know it */
#define AT_HWCAP3	29
#endif

#define CAP(name)	{ #name, name }

static const struct {
	const char *name;
	int number;
} caps[] = {
	CAP(KVM_CAP_ARM_CACHEABLE_PFNMAP_SUPPORTED),
	CAP(KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE),
	CAP(KVM_CAP_ARM_EL1_32BIT),
	CAP(KVM_CAP_ARM_EL2),
	CAP(KVM_CAP_ARM_EL2_E2H0),
	CAP(KVM_CAP_ARM_INJECT_EXT_DABT),
	CAP(KVM_CAP_ARM_INJECT_SERROR_ESR),
	CAP(KVM_CAP_ARM_IRQ_LINE_LAYOUT_2),
	CAP(KVM_CAP_ARM_MTE),
	CAP(KVM_CAP_ARM_NISV_TO_USER),
	CAP(KVM_CAP_ARM_PMU_V3),
	CAP(KVM_CAP_ARM_PSCI),
	CAP(KVM_CAP_ARM_PSCI_0_2),
	CAP(KVM_CAP_ARM_PTRAUTH_ADDRESS),
	CAP(KVM_CAP_ARM_PTRAUTH_GENERIC),
	CAP(KVM_CAP_ARM_SET_DEVICE_ADDR),
	CAP(KVM_CAP_ARM_SUPPORTED_BLOCK_SIZES),
	CAP(KVM_CAP_ARM_SUPPORTED_REG_MASK_RANGES),
	CAP(KVM_CAP_ARM_SVE),
	CAP(KVM_CAP_ARM_SYSTEM_SUSPEND),
	CAP(KVM_CAP_ARM_USER_IRQ),
	CAP(KVM_CAP_ARM_VM_IPA_SIZE),
	CAP(KVM_CAP_ARM_WRITABLE_IMP_ID_REGS),
	CAP(KVM_CAP_DIRTY_LOG_RING_ACQ_REL),
	CAP(KVM_CAP_GUEST_MEMFD),
	CAP(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2),
	CAP(KVM_CAP_MEMORY_FAULT_INFO),
	CAP(KVM_CAP_SYNC_MMU),
	CAP(KVM_CAP_USER_MEMORY2),
	CAP(KVM_CAP_VM_TYPES),
	/*
	 * Of the series, or so new that another 7.x may lack it. By name only:
	 * a number that is not taken yet may become another capability's.
	 */
#ifdef KVM_CAP_ARM_LOCK_USER_MEMORY_REGION
	CAP(KVM_CAP_ARM_LOCK_USER_MEMORY_REGION),
#endif
#ifdef KVM_CAP_ARM_MTE_PERM
	CAP(KVM_CAP_ARM_MTE_PERM),
#endif
#ifdef KVM_CAP_ARM_PMU_V3_STRICT
	CAP(KVM_CAP_ARM_PMU_V3_STRICT),
#endif
#ifdef KVM_CAP_ARM_SEA_TO_USER
	CAP(KVM_CAP_ARM_SEA_TO_USER),
#endif
};

static void fact(const char *name, long value)
{
	printf("fact %s %ld\n", name, value);
}

static void hex(const char *name, unsigned long value)
{
	printf("fact %s 0x%lx\n", name, value);
}

/* ------------------------------------------------------------ the processor */

static void processor(void)
{
	unsigned long ctr;

	fact("cpus", sysconf(_SC_NPROCESSORS_ONLN));
	hex("hwcap", getauxval(AT_HWCAP));
	hex("hwcap2", getauxval(AT_HWCAP2));
	hex("hwcap3", getauxval(AT_HWCAP3));
	asm("mrs %0, ctr_el0" : "=r" (ctr));
	hex("ctr_el0", ctr);
}

/* --------------------------------------------------------------- the kernel */

/* Entries of a directory that begin with prefix, their numbers sorted. */
static size_t numbered(const char *path, const char *prefix,
		       unsigned long *numbers, size_t max)
{
	size_t length = strlen(prefix), n = 0, i;
	struct dirent *entry;
	DIR *dir;

	dir = opendir(path);
	while (dir && n < max && (entry = readdir(dir))) {
		unsigned long number;
		char *end;

		if (strncmp(entry->d_name, prefix, length))
			continue;
		number = strtoul(entry->d_name + length, &end, 10);
		if (end == entry->d_name + length)
			continue;
		for (i = n++; i && numbers[i - 1] > number; i--)
			numbers[i] = numbers[i - 1];
		numbers[i] = number;
	}
	if (dir)
		closedir(dir);
	return n;
}

static void huge_pages(void)
{
	unsigned long kb[16];
	size_t n = numbered("/sys/kernel/mm/hugepages", "hugepages-", kb,
			    ARRAY_SIZE(kb));
	char line[256] = "none", *open, *close;
	FILE *file;

	printf("fact hugepages %s", n ? "" : "none");
	for (size_t i = 0; i < n; i++)
		printf("%s%lu", i ? "," : "", kb[i]);
	printf("\n");

	/* "always [madvise] never" */
	file = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "re");
	open = file && fgets(line, sizeof(line), file) ? strchr(line, '[') : NULL;
	close = open ? strchr(open, ']') : NULL;
	if (close)
		*close = '\0';
	printf("fact thp %s\n", close ? open + 1 : "none");
	if (file)
		fclose(file);
}

static unsigned long mem_kb(void)
{
	FILE *file = fopen("/proc/meminfo", "re");
	unsigned long kb = 0;

	if (!file || fscanf(file, "MemTotal: %lu", &kb) != 1)
		kb = 0;
	if (file)
		fclose(file);
	return kb;
}

/* No range at all is right for every advice that this kernel knows. */
static bool has_advice(int advice)
{
	return !madvise(NULL, 0, advice);
}

static bool has_userfaultfd(void)
{
	/* All of it, faults of the kernel included: KVM's are of that kind. */
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC);

	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

/* Devices that can be given to user space. */
static bool has_vfio(void)
{
	unsigned long groups[64];

	return !access("/sys/bus/pci/drivers/vfio-pci", F_OK) &&
	       numbered("/sys/kernel/iommu_groups", "", groups, ARRAY_SIZE(groups));
}

/*
 * Megabytes of the machine's memory that are nowhere in what the kernel knows, because
 * of mem= on its command line. Only what is beyond the kernel's memory is looked at.
 */
static long hidden_mb(void)
{
	unsigned long long start, end, top = 0, hidden = 0;
	struct dirent *entry;
	char line[256];
	FILE *file;
	DIR *dir;

	file = fopen("/proc/iomem", "re");
	while (file && fgets(line, sizeof(line), file)) {
		if (*line != ' ' && strstr(line, " : System RAM") &&
		    sscanf(line, "%llx-%llx", &start, &end) == 2 && end > top)
			top = end + 1;
	}
	if (file)
		fclose(file);

	dir = opendir(DT_ROOT);
	while (dir && top && (entry = readdir(dir))) {
		unsigned char reg[16];
		char path[512];

		if (strncmp(entry->d_name, "memory@", 7))
			continue;
		snprintf(path, sizeof(path), DT_ROOT "/%s/reg", entry->d_name);
		file = fopen(path, "re");
		/* Two cells of address and two of size, big-endian. */
		while (file && fread(reg, sizeof(reg), 1, file) == 1) {
			start = end = 0;
			for (int i = 0; i < 8; i++) {
				start = start << 8 | reg[i];
				end = end << 8 | reg[8 + i];
			}
			end += start;
			if (start < top)
				start = top;
			if (end > start)
				hidden += end - start;
		}
		if (file)
			fclose(file);
	}
	if (dir)
		closedir(dir);
	return hidden >> 20;
}

static void kernel(void)
{
	unsigned long nodes[64];
	struct utsname name;

	uname(&name);
	printf("fact kernel %s\n", name.release);
	fact("page_size", sysconf(_SC_PAGESIZE));
	fact("mem_kb", mem_kb());
	huge_pages();
	fact("swap", !access("/proc/swaps", F_OK));
	fact("ksm", has_advice(MADV_MERGEABLE));
	fact("userfaultfd", has_userfaultfd());
	fact("memory_failure", has_advice(MADV_HWPOISON));
	fact("numa_nodes", numbered("/sys/devices/system/node", "node", nodes,
				    ARRAY_SIZE(nodes)));
	fact("modules", !access("/proc/modules", F_OK));
	fact("hidden_mb", hidden_mb());
	fact("kmemleak", !access("/sys/kernel/debug/kmemleak", F_OK));
	fact("fault_injection", !access("/proc/self/fail-nth", F_OK));
	fact("vfio", has_vfio());
}

/* ---------------------------------------------------------------------- KVM */

/* The vCPU that a VMM which asks for nothing gets. */
static bool has_vcpu(int vm)
{
	struct kvm_vcpu_init init;
	int vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	bool works;

	works = vcpu >= 0 && !ioctl(vm, KVM_ARM_PREFERRED_TARGET, &init) &&
		!ioctl(vcpu, KVM_ARM_VCPU_INIT, &init);
	if (vcpu >= 0)
		close(vcpu);
	return works;
}

static void kvm(void)
{
	int sys = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	bool good = ioctl(sys, KVM_GET_API_VERSION, 0) == 12;
	int vm = good ? ioctl(sys, KVM_CREATE_VM, 0) : -1;

	fact("kvm", good);
	fact("vm", vm >= 0);
	fact("vcpu", has_vcpu(vm));
	fact("vm_ipa_bits", good ? ioctl(sys, KVM_CHECK_EXTENSION,
					 KVM_CAP_ARM_VM_IPA_SIZE) : 0);

	for (size_t i = 0; i < ARRAY_SIZE(caps); i++) {
		/* A VM's answer counts: it may depend on the VM's type. */
		int value = good ? ioctl(vm >= 0 ? vm : sys, KVM_CHECK_EXTENSION,
					 caps[i].number) : 0;

		if (value < 0)
			printf("fact cap.%s %s\n", caps[i].name,
			       strerrorname_np(errno));
		else
			printf("fact cap.%s %d\n", caps[i].name, value);
	}
}

int main(void)
{
	processor();
	kernel();
	kvm();
	return fflush(stdout) ? 1 : 0;
}
