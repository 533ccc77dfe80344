/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a test changes in the system, and what has to be undone when it ends.
 */
#ifndef SELFTEST_KVM_ARM64_SETTINGS_H
#define SELFTEST_KVM_ARM64_SETTINGS_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>

void at_end(void (*undo)(void));
void at_end_block(sigset_t *old);

bool setting_load(const char *path, char *buf, size_t size);
bool setting_store(const char *path, const char *val);

/**
 * struct setting - A setting of the kernel
 * @path:	The file that it is read from, and written to.
 * @val:	What a test needs it to be, or NULL if it is only to be restored.
 * @old:	What it was before.
 * @changed:	It is to be restored.
 */
struct setting {
	const char	*path;
	const char	*val;
	char		old[32];
	bool		changed;
};

const char *settings_change(struct setting *settings, int nr);

/* KSM, which merges pages only when it is asked to. */

const char *ksm_setup(void);
void ksm_scan(void);

#endif /* SELFTEST_KVM_ARM64_SETTINGS_H */
