#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# selftests.sh [bisect]: build the selftests of the series' tree, statically, against the
# headers that it exports: build/series/selftests and build/series/headers/usr/include.
# bisect: those of build/bisect/tree, with a log that says what is compiled.

. harness/lib.sh

source=${1:-series} log=selftests.log how=-s
[ "$source" = series ] || log=selftests-$source.log how="-O --no-print-directory"
tree=$build/$source/tree
out=$build/$source/selftests
headers=$build/$source/headers
targets="kvm arm64"

compile() {
	# FORCE_TARGETS: a target that does not build fails the whole. TEST_GEN_MODS_DIR:
	# kernel.sh builds the modules, for each kernel, and never for that of this host.
	# shellcheck disable=SC2086
	make $how -C "$tree/tools/testing/selftests" ARCH=arm64 \
		CROSS_COMPILE=aarch64-linux-gnu- TARGETS="$targets" O="$out" \
		FORCE_TARGETS=1 TEST_GEN_MODS_DIR= KHDR_INCLUDES="-isystem $headers/usr/include" \
		ARM64_SUBTARGETS=mte USERLDFLAGS=-static EXTRA_CFLAGS=-static -j"${JOBS:-$(nproc)}" </dev/null
}

selftests() {
	# kvm's Makefile writes the register definitions into the source tree, and
	# does not see it when the list that they are made from changes.
	generated=$tree/tools/arch/arm64/include/generated
	sysreg=$(git -C "$tree" hash-object arch/arm64/tools/sysreg)
	if ! stamp_is "$out/.sysreg" "$sysreg"; then
		rm -rf "$generated"
		stamp "$out/.sysreg" "$sysreg"
	fi
	make -s -C "$tree" O="$headers" ARCH=arm64 -j"${JOBS:-$(nproc)}" headers </dev/null
	if [ "$source" = series ]; then
		compile
		return
	fi
	# Their makefiles print an object's name only in the whole command.
	{ compile || echo 'selftests: failed'; } 2>&1 | awk '
		$0 == "selftests: failed" { bad = 1; next }
		/^[^ ]*gcc .* -o / { sub(/.* -o /, ""); print "  CC      " $1; fflush(); next }
		{ print; fflush() }
		END { exit bad }'
}

tree_key=$(git -C "$tree" rev-parse HEAD:tools HEAD:include/uapi HEAD:arch/arm64 | git hash-object --stdin)
[ -z "$(git -C "$tree" status --porcelain -- tools include/uapi arch/arm64 | head -n 1)" ] ||
	tree_key=$(date +%s%N)
! stamp_is "$out/.stamp" "$tree_key" || exit 0
mkdir -p "$out" "$headers"
rm -f "$out/.stamp"
step selftests "$targets" "$log" selftests
stamp "$out/.stamp" "$tree_key"
