// SPDX-License-Identifier: GPL-2.0-only
/*
 * kvm_test_mem - Memory of every kind for tests of what KVM makes of a VMA
 *
 * Offers a range of physical memory that the kernel does not know, as a driver
 * would: RAM above what mem= leaves to the kernel, or the BAR of a PCI device that
 * is RAM.  Which kind of mapping a file gives is chosen by an ioctl, see
 * kvm_test_mem.h.  It is loaded by tests only, and refuses memory of the kernel.
 *
 *	start=	physical address and
 *	size=	size of the range, both a multiple of PAGE_SIZE; suffixes K, M, G
 *
 * Lifetime: struct test_mem lives from probe() until the last user is gone, which
 * is the driver core or an open file.  A VMA has a reference to its file, so it needs
 * none of its own, and a file has one to the module.  Unbinding the driver takes the
 * memory away from files and VMAs that stay, which is why nothing but @gone
 * may be trusted by them.  The range is claimed for as long as the module is loaded,
 * and no mapping outlives the module.
 *
 * Locking: test_mem::lock protects the list of files, their settings, @gone and
 * @revoked.  A fault takes it for reading and inserts under it.  Revoking takes it for
 * writing and unmaps under it, so that a fault either comes first, and what it
 * inserted is unmapped, or sees that its VMA was revoked.  Order:
 *
 *	mmap_lock or VMA lock
 *	  test_mem::lock
 *	    i_mmap_rwsem
 *	      page table locks
 *
 * so user memory must not be accessed under test_mem::lock.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/cleanup.h>
#include <linux/ctype.h>
#include <linux/fs.h>
#include <linux/ioport.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pagemap.h>
#include <linux/platform_device.h>
#include <linux/rwsem.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "kvm_test_mem.h"

#define TEST_MEM_FLAGS	(KVM_TEST_MEM_ANY_UNCACHED | KVM_TEST_MEM_FAULT | \
			 KVM_TEST_MEM_MIXED | KVM_TEST_MEM_HUGE)

static char *start;
module_param(start, charp, 0444);
MODULE_PARM_DESC(start, "Physical address of the range");

static char *size;
module_param(size, charp, 0444);
MODULE_PARM_DESC(size, "Size of the range");

/* The range, checked and claimed before anything else is set up. */
static phys_addr_t range_start;
static u64 range_size;

struct test_mem {
	struct kref refs;
	struct miscdevice misc;

	struct rw_semaphore lock;	/* see above */
	struct list_head files;
	bool gone;			/* the driver was unbound */
	/*
	 * How often mappings were revoked.  Those that were made at another count, which
	 * is in their vm_private_data, are dead.  As a plain number it survives
	 * fork(), mremap() and the splitting of a VMA without further ado.
	 */
	unsigned long revoked;
};

struct test_mem_file {
	struct test_mem *mem;
	struct file *filp;
	struct list_head node;
	struct kvm_test_mem_set set;
};

static void test_mem_release(struct kref *refs)
{
	kfree(container_of(refs, struct test_mem, refs));
}

static unsigned long range_pfn(pgoff_t pgoff)
{
	return PHYS_PFN(range_start) + pgoff;
}

/*
 * f_mapping is that of the device node by which a file was opened, and there may be
 * several nodes.  Unmapping all of it for each file is wasteful and simple.
 */
static void test_mem_revoke(struct test_mem *mem)
{
	struct test_mem_file *file;

	lockdep_assert_held_write(&mem->lock);

	mem->revoked++;
	list_for_each_entry(file, &mem->files, node)
		unmap_mapping_range(file->filp->f_mapping, 0, 0, 1);
}

/* Mappings */

static vm_fault_t insert_page_at(struct vm_fault *vmf)
{
	unsigned long pfn = range_pfn(vmf->pgoff);

	if (vmf->vma->vm_flags & VM_MIXEDMAP)
		return vmf_insert_mixed(vmf->vma, vmf->address, pfn);
	return vmf_insert_pfn(vmf->vma, vmf->address, pfn);
}

static vm_fault_t insert_pmd_at(struct vm_fault *vmf)
{
	struct vm_area_struct *vma = vmf->vma;
	unsigned long addr = vmf->address & PMD_MASK;
	unsigned long pfn;

	/* The copy that a write to a private mapping makes is of a page. */
	if (vma_is_cow_mapping(vma))
		return VM_FAULT_FALLBACK;
	if (addr < vma->vm_start || addr + PMD_SIZE > vma->vm_end)
		return VM_FAULT_FALLBACK;

	pfn = range_pfn(linear_page_index(vma, addr));
	if (!IS_ALIGNED(pfn, PMD_SIZE >> PAGE_SHIFT))
		return VM_FAULT_FALLBACK;

	return vmf_insert_pfn_pmd(vmf, pfn, vmf->flags & FAULT_FLAG_WRITE);
}

static vm_fault_t test_mem_huge_fault(struct vm_fault *vmf, unsigned int order)
{
	struct vm_area_struct *vma = vmf->vma;
	struct test_mem_file *file = vma->vm_file->private_data;
	struct test_mem *mem = file->mem;

	guard(rwsem_read)(&mem->lock);

	if (mem->gone || (unsigned long)vma->vm_private_data != mem->revoked)
		return VM_FAULT_SIGBUS;
	if (!order)
		return insert_page_at(vmf);
	if (IS_ENABLED(CONFIG_ARCH_SUPPORTS_PMD_PFNMAP) && order == PMD_ORDER)
		return insert_pmd_at(vmf);
	return VM_FAULT_FALLBACK;
}

static vm_fault_t test_mem_fault(struct vm_fault *vmf)
{
	return test_mem_huge_fault(vmf, 0);
}

/*
 * Between test_mem_mmap_prepare() and the VMA being where unmap_mapping_range() finds
 * it, the mappings may have been revoked.  An error unmaps the new one.  It may have
 * been filled already, and can be accessed until here by another thread that guesses
 * its address.
 */
static int test_mem_mapped(unsigned long start, unsigned long end, pgoff_t pgoff,
			   const struct file *filp, void **vm_private_data)
{
	struct test_mem_file *file = filp->private_data;
	struct test_mem *mem = file->mem;

	guard(rwsem_read)(&mem->lock);
	return (unsigned long)*vm_private_data == mem->revoked ? 0 : -ENODEV;
}

/* Filled in mmap().  Without a fault handler, a fault is SIGBUS, but for COW. */
static const struct vm_operations_struct test_mem_filled_ops = {
	.mapped = test_mem_mapped,
};

static const struct vm_operations_struct test_mem_page_ops = {
	.mapped = test_mem_mapped,
	.fault = test_mem_fault,
};

static const struct vm_operations_struct test_mem_huge_ops = {
	.mapped = test_mem_mapped,
	.fault = test_mem_fault,
#ifdef CONFIG_ARCH_SUPPORTS_HUGE_PFNMAP
	.huge_fault = test_mem_huge_fault,
#endif
};

static pgprot_t test_mem_prot(u32 kind, pgprot_t prot)
{
	switch (kind) {
	case KVM_TEST_MEM_NC:
		return pgprot_writecombine(prot);
	case KVM_TEST_MEM_NGNRE:
		return pgprot_device(prot);
	case KVM_TEST_MEM_NGNRNE:
		return pgprot_noncached(prot);
	default:
		return prot;
	}
}

static int test_mem_mmap_prepare(struct vm_area_desc *desc)
{
	struct test_mem_file *file = desc->file->private_data;
	struct test_mem *mem = file->mem;
	u64 pages = range_size >> PAGE_SHIFT;
	u32 flags;

	guard(rwsem_read)(&mem->lock);

	if (mem->gone)
		return -ENODEV;
	if (desc->pgoff >= pages || vma_desc_pages(desc) > pages - desc->pgoff)
		return -EINVAL;

	/* mm breaks COW of VM_PFNMAP only where the VMA was filled as a whole. */
	flags = file->set.flags;
	if (vma_desc_is_cow_mapping(desc) &&
	    (flags & KVM_TEST_MEM_FAULT) && !(flags & KVM_TEST_MEM_MIXED))
		return -EINVAL;

	desc->page_prot = test_mem_prot(file->set.kind, desc->page_prot);
	desc->private_data = (void *)mem->revoked;

	/* VM_IO: without it, KVM does not follow a mapping that has no struct page. */
	vma_desc_set_flags(desc, VMA_IO_BIT, VMA_DONTEXPAND_BIT, VMA_DONTDUMP_BIT);
	if (flags & KVM_TEST_MEM_MIXED)
		vma_desc_set_flags(desc, VMA_MIXEDMAP_BIT);
	else
		vma_desc_set_flags(desc, VMA_PFNMAP_BIT);
	/* The policy for THPs applies to it, but not to VM_PFNMAP. */
	if (flags & KVM_TEST_MEM_MIXED && flags & KVM_TEST_MEM_HUGE)
		vma_desc_set_flags(desc, VMA_HUGEPAGE_BIT);
	if (flags & KVM_TEST_MEM_ANY_UNCACHED)
		vma_desc_set_flags(desc, VMA_ALLOW_ANY_UNCACHED_BIT);

	if (flags & KVM_TEST_MEM_HUGE) {
		desc->vm_ops = &test_mem_huge_ops;
	} else if (flags & KVM_TEST_MEM_FAULT) {
		desc->vm_ops = &test_mem_page_ops;
	} else {
		desc->vm_ops = &test_mem_filled_ops;
		mmap_action_remap_full(desc, range_pfn(desc->pgoff));
	}
	return 0;
}

/* Files */

static int test_mem_open(struct inode *inode, struct file *filp)
{
	/* misc_open() holds the lock that misc_deregister() takes. */
	struct test_mem *mem = container_of(filp->private_data, struct test_mem, misc);
	struct test_mem_file *file;

	file = kzalloc_obj(*file, GFP_KERNEL_ACCOUNT);
	if (!file)
		return -ENOMEM;

	kref_get(&mem->refs);
	file->mem = mem;
	file->filp = filp;
	filp->private_data = file;

	guard(rwsem_write)(&mem->lock);
	list_add(&file->node, &mem->files);
	return 0;
}

static int test_mem_close(struct inode *inode, struct file *filp)
{
	struct test_mem_file *file = filp->private_data;
	struct test_mem *mem = file->mem;

	scoped_guard(rwsem_write, &mem->lock)
		list_del(&file->node);
	kfree(file);
	kref_put(&mem->refs, test_mem_release);
	return 0;
}

static int test_mem_set(struct test_mem_file *file, void __user *arg)
{
	struct test_mem *mem = file->mem;
	struct kvm_test_mem_set set;

	if (copy_from_user(&set, arg, sizeof(set)))
		return -EFAULT;
	if (set.kind >= KVM_TEST_MEM_NR_KINDS || set.flags & ~TEST_MEM_FLAGS ||
	    set.reserved[0] || set.reserved[1])
		return -EINVAL;
	if (set.flags & KVM_TEST_MEM_ANY_UNCACHED && set.kind == KVM_TEST_MEM_CACHED)
		return -EINVAL;
	if (set.flags & (KVM_TEST_MEM_MIXED | KVM_TEST_MEM_HUGE) &&
	    !(set.flags & KVM_TEST_MEM_FAULT))
		return -EINVAL;

	guard(rwsem_write)(&mem->lock);
	if (mem->gone)
		return -ENODEV;
	file->set = set;
	return 0;
}

static int test_mem_info(struct test_mem_file *file, void __user *arg)
{
	struct test_mem *mem = file->mem;
	struct kvm_test_mem_info info = {
		.start = range_start,
		.size = range_size,
	};

	scoped_guard(rwsem_read, &mem->lock) {
		if (mem->gone)
			return -ENODEV;
	}
	return copy_to_user(arg, &info, sizeof(info)) ? -EFAULT : 0;
}

static long test_mem_ioctl(struct file *filp, unsigned int cmd, unsigned long arg)
{
	struct test_mem_file *file = filp->private_data;
	struct test_mem *mem = file->mem;

	switch (cmd) {
	case KVM_TEST_MEM_SET:
		return test_mem_set(file, (void __user *)arg);
	case KVM_TEST_MEM_INFO:
		return test_mem_info(file, (void __user *)arg);
	case KVM_TEST_MEM_REVOKE: {
		if (arg)
			return -EINVAL;
		guard(rwsem_write)(&mem->lock);
		if (mem->gone)
			return -ENODEV;
		test_mem_revoke(mem);
		return 0;
	}
	default:
		return -ENOTTY;
	}
}

static const struct file_operations test_mem_fops = {
	.owner		= THIS_MODULE,
	.open		= test_mem_open,
	.release	= test_mem_close,
	.unlocked_ioctl	= test_mem_ioctl,
	.compat_ioctl	= compat_ptr_ioctl,
	.mmap_prepare	= test_mem_mmap_prepare,
};

/* The device */

static int test_mem_probe(struct platform_device *pdev)
{
	struct test_mem *mem;
	int ret;

	mem = kzalloc_obj(*mem);
	if (!mem)
		return -ENOMEM;

	kref_init(&mem->refs);
	init_rwsem(&mem->lock);
	INIT_LIST_HEAD(&mem->files);
	mem->misc.minor = MISC_DYNAMIC_MINOR;
	mem->misc.name = KVM_TEST_MEM_NAME;
	mem->misc.fops = &test_mem_fops;
	mem->misc.parent = &pdev->dev;
	mem->misc.mode = 0600;
	/* Before it can be opened. */
	platform_set_drvdata(pdev, mem);

	ret = misc_register(&mem->misc);
	if (ret)
		kref_put(&mem->refs, test_mem_release);
	return ret;
}

static void test_mem_remove(struct platform_device *pdev)
{
	struct test_mem *mem = platform_get_drvdata(pdev);

	/* No file is added from here on, those that are open stay. */
	misc_deregister(&mem->misc);
	scoped_guard(rwsem_write, &mem->lock) {
		mem->gone = true;
		test_mem_revoke(mem);
	}
	kref_put(&mem->refs, test_mem_release);
}

static struct platform_driver test_mem_driver = {
	.driver.name	= KVM_TEST_MEM_NAME,
	.probe		= test_mem_probe,
	.remove		= test_mem_remove,
};

static struct platform_device *test_mem_device;

static bool parse(const char *text, u64 *value)
{
	char *end;

	if (!text || !isdigit(*text))
		return false;
	*value = memparse(text, &end);
	return !*end;
}

/* Memory of the kernel is what it lists as such, or has a struct page or a mapping for. */
static bool kernel_owns(u64 first, u64 bytes)
{
	u64 addr;

	if (region_intersects(first, bytes, IORESOURCE_SYSTEM_RAM, IORES_DESC_NONE) !=
	    REGION_DISJOINT)
		return true;

	for (addr = first; addr - first < bytes; addr += PAGE_SIZE) {
		if (pfn_valid(PHYS_PFN(addr)) || pfn_is_map_memory(PHYS_PFN(addr)))
			return true;
		if (IS_ALIGNED(addr, SZ_1G))
			cond_resched();
	}
	return false;
}

static int claim_range(void)
{
	u64 first, bytes;

	if (!parse(start, &first) || !parse(size, &bytes)) {
		pr_err("start= and size= are wanted, each a number that may end in K, M or G\n");
		return -EINVAL;
	}
	if (!bytes || !PAGE_ALIGNED(first | bytes)) {
		pr_err("start=%s size=%s: not a number of pages\n", start, size);
		return -EINVAL;
	}
	if (first + bytes - 1 < first || first + bytes - 1 > PHYS_MASK) {
		pr_err("start=%s size=%s: beyond physical memory\n", start, size);
		return -EINVAL;
	}
	if (kernel_owns(first, bytes)) {
		pr_err("start=%s size=%s: has memory of the kernel\n", start, size);
		return -EBUSY;
	}
	if (!request_mem_region(first, bytes, KVM_TEST_MEM_NAME)) {
		pr_err("start=%s size=%s: in use by a driver\n", start, size);
		return -EBUSY;
	}
	range_start = first;
	range_size = bytes;
	return 0;
}

static int __init test_mem_init(void)
{
	bool bound;
	int ret;

	ret = claim_range();
	if (ret)
		return ret;

	ret = platform_driver_register(&test_mem_driver);
	if (ret)
		goto release;

	test_mem_device = platform_device_register_simple(KVM_TEST_MEM_NAME,
							  PLATFORM_DEVID_NONE, NULL, 0);
	if (IS_ERR(test_mem_device)) {
		ret = PTR_ERR(test_mem_device);
		goto unregister;
	}

	/* The driver core keeps to itself why probe() failed. */
	scoped_guard(device, &test_mem_device->dev)
		bound = device_is_bound(&test_mem_device->dev);
	if (!bound) {
		ret = -ENODEV;
		platform_device_unregister(test_mem_device);
		goto unregister;
	}
	return 0;

unregister:
	platform_driver_unregister(&test_mem_driver);
release:
	release_mem_region(range_start, range_size);
	return ret;
}
module_init(test_mem_init);

static void __exit test_mem_exit(void)
{
	platform_device_unregister(test_mem_device);
	platform_driver_unregister(&test_mem_driver);
	release_mem_region(range_start, range_size);
}
module_exit(test_mem_exit);

MODULE_DESCRIPTION("Memory of every kind for tests of KVM");
MODULE_LICENSE("GPL");
