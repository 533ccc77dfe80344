# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh disable=SC2154
#
# What all builds of a kernel share. The caller says what is built of what: $tree in $obj,
# for $arch, by $toolchain: words that make takes, such as CROSS_COMPILE=aarch64-linux-gnu-;
# and, if it isn't to be silent, $how.

kmake() {
	# No time, user, host or git state in the image: same source, same bytes.
	# shellcheck disable=SC2086
	make -C "$tree" ${how:--s} O="$obj" ARCH="$arch" $toolchain LOCALVERSION= \
		KBUILD_BUILD_TIMESTAMP=1970-01-01 KBUILD_BUILD_USER=harness \
		KBUILD_BUILD_HOST=harness -j"${JOBS:-$(($(nproc) + 1))}" "$@" </dev/null
}

# allnoconfig with $fragments of harness/config.
merge_fragments() (
	files=
	for f in $fragments; do
		files="$files $top/harness/config/$f.config"
	done
	cd "$tree"
	# -s: an option that did not survive, or that two fragments give, is an error.
	# shellcheck disable=SC2086
	env ARCH="$arch" $toolchain sh scripts/kconfig/merge_config.sh -n -s -O "$obj" $files
)

# What the build depends on: the tree, but for what is not part of a kernel. With
# changes that are not committed, only make can tell.
tree_id() {
	if [ -n "$(git -C "$tree" status --porcelain -- . ':!Documentation' ':!tools/testing' | head -n 1)" ]; then
		date +%s%N
		return
	fi
	{
		git -C "$tree" ls-tree HEAD | grep -Ev '	(Documentation|MAINTAINERS|tools)$'
		git -C "$tree" ls-tree HEAD:tools | grep -v '	testing$'
	} | git hash-object --stdin
}

# A Kconfig file that changes may bring an option that the old .config lacks.
config_id() {
	{
		echo "$fragments"
		for f in $fragments; do
			cat "$top/harness/config/$f.config"
		done
		git -C "$tree" ls-tree -r HEAD | grep '/Kconfig'
	} | git hash-object --stdin
}
