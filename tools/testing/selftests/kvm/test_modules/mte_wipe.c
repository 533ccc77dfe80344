// SPDX-License-Identifier: GPL-2.0-only
/*
 * mte_wipe - Have memory lose its allocation tags while the system hibernates
 *
 * A machine that was off comes up with arbitrary tags in its memory. A test can't turn
 * it off, but has "test_resume" in /sys/power/disk: hibernate() writes an image and resumes
 * from it at once. The tags are still those of the snapshot then, whether the image has them
 * or not. So this driver stores MTE_WIPE_TAG to all granules of the pages that it was told
 * of, after the snapshot was made and before it is restored.
 *
 * The freeze callback of a driver is called twice by then, with PM_EVENT_FREEZE before
 * the snapshot and with PM_EVENT_QUIESCE before it is restored. There is no power-off
 * between the two, so the second call finds the variables as the first one left them. A
 * resume after a power-off calls it in another kernel, without this module.
 *
 * Restoring the image undoes all that was written to memory since the snapshot, so no
 * variable can tell afterwards that anything was wiped, or how much. The tags of a page
 * that the kernel doesn't know to have any can: it neither saves nor restores them.
 * They are where the number is kept, see record_store().
 *
 * User processes don't run while the callbacks do. But one that was frozen may sleep
 * with locks held, for which nothing here may wait: see wipe_add().
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bitfield.h>
#include <linux/bitops.h>
#include <linux/cleanup.h>
#include <linux/cpufeature.h>
#include <linux/fs.h>
#include <linux/list.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/platform_device.h>
#include <linux/pm.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/suspend.h>
#include <linux/uaccess.h>

#include <asm/mte.h>

#include "mte_wipe.h"

#define MAX_SIZE	SZ_1G

struct wipe_range {
	struct list_head node;
	unsigned long nr;
	struct page *pages[] __counted_by(nr);
};

static DEFINE_MUTEX(lock);		/* of all that follows, held for a moment only */
static LIST_HEAD(ranges);
static unsigned int nr_freezes;		/* since hibernate() began */
static bool was_wiped;			/* never seen in what was restored from an image */
static bool was_restored;

static unsigned long is_open;
static struct page *record;

/*
 * Tags, through the linear map. It is Tagged on a machine with MTE. The address of such an
 * instruction isn't subject to a tag check.
 */
static void store_tag(void *addr, u8 tag)
{
	u64 val = (u64)tag << MTE_TAG_SHIFT;

	asm volatile(__MTE_PREAMBLE "stg %0, [%1]" : : "r"(val), "r"(addr) : "memory");
}

static u8 load_tag(void *addr)
{
	u64 val = 0;

	asm volatile(__MTE_PREAMBLE "ldg %0, [%1]" : "+r"(val) : "r"(addr) : "memory");
	return FIELD_GET(MTE_TAG_MASK, val);
}

/* A number as the tags of the first granules, four bits each. */
static void record_store(u32 val)
{
	void *addr = page_address(record);
	int i;

	for (i = 0; i < 8; i++)
		store_tag(addr + i * MTE_GRANULE_SIZE, val >> i * MTE_TAG_SIZE & 0xf);
}

static u32 record_load(void)
{
	void *addr = page_address(record);
	u32 val = 0;
	int i;

	for (i = 0; i < 8; i++)
		val |= (u32)load_tag(addr + i * MTE_GRANULE_SIZE) << i * MTE_TAG_SIZE;
	return val;
}

/* Whether it worked is read back, as the memory might have no tags. */
static bool wipe_page(struct page *page)
{
	void *start = page_address(page), *addr;

	for (addr = start; addr < start + PAGE_SIZE; addr += MTE_GRANULE_SIZE)
		store_tag(addr, MTE_WIPE_TAG);
	for (addr = start; addr < start + PAGE_SIZE; addr += MTE_GRANULE_SIZE) {
		if (load_tag(addr) != MTE_WIPE_TAG)
			return false;
	}
	return true;
}

static void wipe(void)
{
	struct wipe_range *range;
	unsigned long i;
	u32 nr = 0;

	list_for_each_entry(range, &ranges, node) {
		for (i = 0; i < range->nr; i++)
			nr += wipe_page(range->pages[i]);
	}
	was_wiped = true;
	record_store(nr);
}

/* The driver */

static int wipe_freeze(struct device *dev)
{
	guard(mutex)(&lock);
	if (++nr_freezes == 2)
		wipe();
	return 0;
}

static int wipe_restore(struct device *dev)
{
	guard(mutex)(&lock);
	was_restored = !was_wiped;
	return 0;
}

static const struct dev_pm_ops wipe_pm_ops = {
	.freeze		= wipe_freeze,
	.restore	= wipe_restore,
};

static struct platform_driver wipe_driver = {
	.driver.name	= MTE_WIPE_NAME,
	.driver.pm	= pm_sleep_ptr(&wipe_pm_ops),
};

static int wipe_probe(struct platform_device *pdev)
{
	return 0;
}

/* A hibernation that fails half-way must not count for the next one. */
static int wipe_notify(struct notifier_block *nb, unsigned long event, void *unused)
{
	guard(mutex)(&lock);

	switch (event) {
	case PM_HIBERNATION_PREPARE:
		nr_freezes = 0;
		was_wiped = false;
		was_restored = false;
		record_store(0);
		break;
	case PM_POST_HIBERNATION:
		nr_freezes = 0;
		break;
	}
	return NOTIFY_OK;
}

static struct notifier_block wipe_nb = {
	.notifier_call	= wipe_notify,
};

/* The file */

static int wipe_open(struct inode *inode, struct file *filp)
{
	return test_and_set_bit(0, &is_open) ? -EBUSY : 0;
}

static void wipe_free(struct wipe_range *range)
{
	unpin_user_pages(range->pages, range->nr);
	kvfree(range);
}

static int wipe_release(struct inode *inode, struct file *filp)
{
	struct wipe_range *range, *next;
	LIST_HEAD(old);

	scoped_guard(mutex, &lock)
		list_splice_init(&ranges, &old);
	list_for_each_entry_safe(range, next, &old, node)
		wipe_free(range);
	clear_bit(0, &is_open);
	return 0;
}

/*
 * Pinned without the lock, since a process can be frozen while it waits for the pages. A
 * pinned page stays where it is, and the shrinking of memory for an image leaves it alone.
 */
static int wipe_add(void __user *arg)
{
	struct mte_wipe_range user;
	struct wipe_range *range;
	unsigned long nr, done;
	int ret;

	if (copy_from_user(&user, arg, sizeof(user)))
		return -EFAULT;
	if (!user.size || user.size > MAX_SIZE || !PAGE_ALIGNED(user.addr | user.size))
		return -EINVAL;

	nr = user.size >> PAGE_SHIFT;
	range = kvzalloc(struct_size(range, pages, nr), GFP_KERNEL_ACCOUNT);
	if (!range)
		return -ENOMEM;

	range->nr = nr;
	for (done = 0; done < nr; done += ret) {
		ret = pin_user_pages_fast(user.addr + done * PAGE_SIZE, nr - done,
					  FOLL_WRITE | FOLL_LONGTERM, range->pages + done);
		if (ret <= 0) {
			range->nr = done;
			wipe_free(range);
			return ret ?: -EFAULT;
		}
	}

	guard(mutex)(&lock);
	list_add_tail(&range->node, &ranges);
	return 0;
}

static int wipe_result(void __user *arg)
{
	struct mte_wipe_result result;

	scoped_guard(mutex, &lock) {
		result.restored = was_restored;
		result.wiped = record_load();
	}
	return copy_to_user(arg, &result, sizeof(result)) ? -EFAULT : 0;
}

static long wipe_ioctl(struct file *filp, unsigned int cmd, unsigned long arg)
{
	switch (cmd) {
	case MTE_WIPE_ADD:
		return wipe_add((void __user *)arg);
	case MTE_WIPE_RESULT:
		return wipe_result((void __user *)arg);
	default:
		return -ENOTTY;
	}
}

static const struct file_operations wipe_fops = {
	.owner		= THIS_MODULE,
	.open		= wipe_open,
	.release	= wipe_release,
	.unlocked_ioctl	= wipe_ioctl,
};

static struct miscdevice wipe_misc = {
	.minor	= MISC_DYNAMIC_MINOR,
	.name	= MTE_WIPE_NAME,
	.fops	= &wipe_fops,
	.mode	= 0600,
};

static struct platform_device *wipe_device;

static int __init wipe_init(void)
{
	int ret;

	if (!system_supports_mte())
		return -EOPNOTSUPP;

	record = alloc_page(GFP_KERNEL);
	if (!record)
		return -ENOMEM;
	record_store(0);

	wipe_device = platform_create_bundle(&wipe_driver, wipe_probe, NULL, 0, NULL, 0);
	if (IS_ERR(wipe_device)) {
		ret = PTR_ERR(wipe_device);
		goto free;
	}

	ret = register_pm_notifier(&wipe_nb);
	if (ret)
		goto unregister_device;

	ret = misc_register(&wipe_misc);
	if (ret)
		goto unregister_notifier;
	return 0;

unregister_notifier:
	unregister_pm_notifier(&wipe_nb);
unregister_device:
	platform_device_unregister(wipe_device);
	platform_driver_unregister(&wipe_driver);
free:
	__free_page(record);
	return ret;
}
module_init(wipe_init);

static void __exit wipe_exit(void)
{
	misc_deregister(&wipe_misc);
	unregister_pm_notifier(&wipe_nb);
	platform_device_unregister(wipe_device);
	platform_driver_unregister(&wipe_driver);
	__free_page(record);
}
module_exit(wipe_exit);

MODULE_DESCRIPTION("Memory that loses its tags while a test hibernates");
MODULE_LICENSE("GPL");
