/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Modules that tests load, those of test_modules/. They are looked for in
 * $KVM_TEST_MODULES, or else in test_modules beside the directory of the test.
 */
#ifndef SELFTEST_KVM_ARM64_TEST_MODULE_H
#define SELFTEST_KVM_ARM64_TEST_MODULE_H

#include <stdbool.h>

/* NULL, or the reason why there is no module @name to be loaded, to be given to a skip. */
const char *test_module_missing(const char *name);

/* Load module @name with @params; 0 or an errno. */
int test_module_load(const char *name, const char *params);

/* Remove module @name, which no file may use; false with errno set if it stays. */
bool test_module_unload(const char *name);

#endif /* SELFTEST_KVM_ARM64_TEST_MODULE_H */
