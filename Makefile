# SPDX-License-Identifier: GPL-2.0-only
#
# From an empty Debian machine to a verdict on the series: make help.

# A step's script decides itself whether there is something to do; the targets
# below only say what comes before what.
MAKEFLAGS += --no-print-directory
.NOTPARALLEL:
.DELETE_ON_ERROR:

KERNEL ?= default
export TESTS MACHINES KERNEL LINUX QEMU JOBS BOOTS TIMEOUT_FACTOR MUTANTS BUILDS KEEP TOPIC V SIGNOFF \
	PATCHES QUICK ONLY

# What this make was told is not meant for the makes of the kernel.
h := MAKEFLAGS= MAKEOVERRIDES= MFLAGS= harness
python := PYTHONDONTWRITEBYTECODE=1 python3
matrix = $(shell awk '!/^\#/ && NF && !seen[$$1]++ { print $$1 }' harness/$(1))
# What KERNEL= takes: those of make mutants and make bisect are not for it.
variants := $(shell awk '!/^\#/ && NF && $$2 !~ /^(mutant|bisect)$$/ { print $$1 }' harness/variants)

.PHONY: help run check packages names fetch tree refresh kernel selftests image shell doctor \
	harness-check mutant-names mutants regression-names regression bisect-names bisect bisected \
	build-names builds docs-packages docs bench-names bench series-names series clean
help:                ## this list
	@awk -F' *## ' '/^[a-z-]+:.*##/ { sub(/:.*/, "", $$1); printf "  make %-10s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo '  For run: TESTS= names or globs, MACHINES= names, globs or all (max), KERNEL= variant (default)'
	@echo '           of $(variants); these for shell and doctor, too; MUTANTS= names or globs, for mutants'
	@echo '  For bisect: TOPIC= name without its number, PATCHES= "1-3 7" of it (of the series), QUICK=1 fewer tests,'
	@echo '           ONLY= of style,kernel,sparse,selftests,tests (all), KEEP=1: what was seen good goes on record'
	@echo '  LINUX=   tarball or tree     QEMU=  binary     JOBS=  make -j     BOOTS=  guests at a time'
	@echo '  TIMEOUT_FACTOR=  on all time-outs, for a slow or busy host'

run: kernel image    ## fetch, compose, build, boot, run the quicker selftests of the series and a core of mainline's
	@$(python) harness/run.py run

check: $(addprefix kernel-,$(call matrix,matrix)) image harness-check    ## the project's tests: the harness, all machines, base versus series
	@$(python) harness/run.py check

regression-names: packages
	@$(python) harness/run.py regression-names

regression: regression-names $(addprefix kernel-,$(call matrix,matrix.regression)) image    ## mainline's own tests, base and series side by side: nothing may be worse (TESTS=, MACHINES=)
	@$(python) harness/run.py regression

packages:            ## install the Debian packages that are missing (as root; else say which)
	@$(h)/packages.sh

# A slip in a variable is found before anything is built.
names: packages
	@$(python) harness/run.py names

fetch: names         ## the kernel source and QEMU, from the machine's own Debian mirror
	@$(h)/fetch.sh qemu
	@$(h)/fetch.sh linux

tree: fetch          ## base + patches/ as a git tree, build/series/tree
	@$(h)/tree.sh

refresh: packages    ## write that tree, edited with plain git, back to patches/
	@$(h)/refresh.sh

kernel: kernel-$(KERNEL)    ## the kernel of variant KERNEL

kernel-%: tree
	@$(h)/kernel.sh '$*'

selftests: tree      ## the selftests, statically linked
	@$(h)/selftests.sh

image: selftests     ## the initramfs
	@$(h)/image.sh

shell: kernel image  ## a shell in the kernel of variant KERNEL, all tests in /tests (Ctrl-a x leaves)
	@$(h)/image.sh shell
	@$(python) harness/run.py shell

doctor: kernel image ## what this host has; what each machine has, will run and will skip, and why
	@$(python) harness/run.py doctor

# Some of them boot what was built.
harness-check: image
	@$(h)/selfcheck.sh

mutant-names: packages
	@$(python) harness/mutants.py names

mutants: mutant-names kernel-default image    ## break the series on purpose, each test has to notice (MUTANTS= names or globs)
	@$(python) harness/mutants.py

# Packages that nothing else needs are large.
build-names: packages
	@$(h)/builds.sh names
	@$(h)/packages.sh builds

builds: build-names tree    ## compile it for other architectures, without KVM or MTE, with clang (BUILDS= names or globs)
	@$(h)/builds.sh

docs-packages: packages
	@$(h)/packages.sh docs

docs: docs-packages tree    ## sphinx and kernel-doc on what the series touches
	@$(h)/docs.sh

bench-names: packages
	@$(python) harness/bench.py names

bench: bench-names kernel-default kernel-base image    ## count instructions, base versus series: tables, plots (KEEP=1: as the committed figures)
	@$(python) harness/bench.py

series-names: packages
	@$(h)/series.sh names

series: series-names tree    ## a topic as mails, checked and applied, never sent (TOPIC= name, V= version, SIGNOFF="Name <address>")
	@$(h)/series.sh

bisect-names: packages
	@$(python) harness/perpatch.py names

bisect: bisect-names image    ## each patch builds without new warnings and passes the tests there are by then (TOPIC= PATCHES= ONLY= QUICK=1 KEEP=1)
	@$(python) harness/perpatch.py

bisected: tree       ## is each patch on record, harness/bisected? make check asks that, too
	@$(python) harness/bisected.py

clean:               ## remove build/ (results/ stay)
	rm -rf build
