#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# kernel.sh VARIANT: configure and build one kernel of harness/variants, in
# build/SOURCE/obj-VARIANT, and for it the modules of the series' selftests, in
# build/SOURCE/mod-VARIANT. JOBS= is make's -j.

. harness/lib.sh

variant=${1:-}
variants=$(sed 's/#.*//; /^$/d' "$top/harness/variants")
trap 'exit 130' INT TERM
source=
while read -r name from _ _ fragments; do
	if [ "$name" = "$variant" ]; then
		source=$from
		break
	fi
done <<EOF
$variants
EOF
[ -n "$source" ] ||
	die "KERNEL=$variant: there are" "$(echo "$variants" | awk '{ printf "%s ", $1 }')"

tree=$build/$source/tree
obj=$build/$source/obj-$variant
image=$obj/arch/arm64/boot/Image
mod=$build/$source/mod-$variant
# Also for a kernel without the series, whose selftests have none.
mod_source=$build/series/tree/tools/testing/selftests/kvm/test_modules
[ -d "$tree" ] || die "KERNEL=$variant: no ${tree#"$top/"}"
mkdir -p "$obj"

kmake() {
	# No time, user, host or git state in the image: same source, same bytes.
	make -C "$tree" -s O="$obj" ARCH=arm64 \
		CROSS_COMPILE=aarch64-linux-gnu- LOCALVERSION= \
		KBUILD_BUILD_TIMESTAMP=1970-01-01 KBUILD_BUILD_USER=harness \
		KBUILD_BUILD_HOST=harness -j"${JOBS:-$(nproc)}" "$@" </dev/null
}

configure() {
	files=
	for f in $fragments; do
		files="$files $top/harness/config/$f.config"
	done
	cd "$tree"
	# -s: an option that did not survive, or that two fragments give, is an error.
	# shellcheck disable=SC2086
	ARCH=arm64 CROSS_COMPILE=aarch64-linux-gnu- \
		sh scripts/kconfig/merge_config.sh -n -s -O "$obj" $files
}

# What the build depends on: the tree, but for what is not part of a kernel. With
# changes that are not committed make alone can tell.
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

config_key=$(config_id)
tree_key=$(tree_id)
if ! stamp_is "$obj/.config.stamp" "$config_key"; then
	rm -f "$obj/.config.stamp" "$obj/.image.stamp"
	step config "$variant" "config-$variant.log" configure ||
		die "$variant: see which option did not survive"
	stamp "$obj/.config.stamp" "$config_key"
fi
if [ ! -f "$image" ] || ! stamp_is "$obj/.image.stamp" "$tree_key $config_key"; then
	rm -f "$obj/.image.stamp"
	step kernel "$variant, $(grep -c =y "$obj/.config") options" "kernel-$variant.log" \
		kmake Image modules headers
	stamp "$obj/.image.stamp" "$tree_key $config_key"
fi

modules() {
	mkdir -p "$mod"
	kmake M="$mod_source" MO="$mod" modules
}

[ -d "$mod_source" ] || exit 0
mod_key=$tree_key\ $config_key\ $(cat "$mod_source"/* | git hash-object --stdin)
if ! stamp_is "$mod.stamp" "$mod_key"; then
	# A module of another kernel must not be left for the image.
	rm -rf "$mod" "$mod.stamp"
	step modules "$variant" "modules-$variant.log" modules
	stamp "$mod.stamp" "$mod_key"
fi
