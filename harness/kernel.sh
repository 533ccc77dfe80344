#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# kernel.sh VARIANT: configure and build one kernel of harness/variants, in
# build/SOURCE/obj-VARIANT, and for it the modules of the series' selftests, in
# build/SOURCE/mod-VARIANT. JOBS= is make's -j.
#
# That of source bisect is built with W=1 and sparse, and its log says which object each
# line is about (perpatch.py reads it).

. harness/lib.sh
. harness/kbuild.sh

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

# What sparse needs for this tree: make only warns if it can't be used, and goes on.
sparse_flags() {
	valid=$build/$source/tree/scripts/checker-valid.sh
	for flags in "" -D__typeof_unqual__=__typeof__; do
		# shellcheck disable=SC2086
		if [ ! -f "$valid" ] || [ "$(sh "$valid" sparse $flags)" = 1 ]; then
			echo "${flags:+ CF=$flags}"
			return 0
		fi
	done
	die "sparse is too old for this kernel, or is not there: its scripts/checker-valid.sh says so"
}

tree=$build/$source/tree
obj=$build/$source/obj-$variant
arch=arm64 toolchain=CROSS_COMPILE=aarch64-linux-gnu-
image=$obj/arch/arm64/boot/Image
mod=$build/$source/mod-$variant
# Also for a kernel without the series, whose selftests have none.
mod_source=$build/series/tree/tools/testing/selftests/kvm/test_modules
how=-s
if [ "$source" = bisect ]; then
	# Its selftests are those of the same commit.
	mod_source=$tree/tools/testing/selftests/kvm/test_modules
	how="-O --no-print-directory W=1 C=1 CHECK=sparse$(sparse_flags)"
fi
[ -d "$tree" ] || die "KERNEL=$variant: no ${tree#"$top/"}"
mkdir -p "$obj"

config_key=$(config_id)
tree_key=$(tree_id)
if ! stamp_is "$obj/.config.stamp" "$config_key"; then
	rm -f "$obj/.config.stamp" "$obj/.image.stamp"
	step config "$variant" "config-$variant.log" merge_fragments ||
		die "$variant: see which option did not survive"
	stamp "$obj/.config.stamp" "$config_key"
fi
if [ ! -f "$image" ] || ! stamp_is "$obj/.image.stamp" "$tree_key $config_key"; then
	rm -f "$obj/.image.stamp"
	step kernel "$variant, $(grep -c =y "$obj/.config") options" "kernel-$variant.log" \
		kmake Image modules
	stamp "$obj/.image.stamp" "$tree_key $config_key"
fi

modules() {
	mkdir -p "$mod"
	kmake M="$mod_source" MO="$mod" modules
}

if [ ! -d "$mod_source" ]; then
	rm -rf "$mod" "$mod.stamp"
	exit 0
fi
mod_key=$tree_key\ $config_key\ $(cat "$mod_source"/* | git hash-object --stdin)
if ! stamp_is "$mod.stamp" "$mod_key"; then
	# A module of another kernel must not be left for the image.
	rm -rf "$mod" "$mod.stamp"
	step modules "$variant" "modules-$variant.log" modules
	stamp "$mod.stamp" "$mod_key"
fi
