#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# image.sh [shell|bisect]: the guest's programs and the initramfs, in build/image.
#
#   idregs.elf            prints the raw ID registers, on the bare machine
#   initramfs.cpio        init, probe, all selftests, and their modules for each kernel
#                         that was built; nothing between a test and its verdict but init
#   initramfs-shell.cpio  the same with busybox and with debugging symbols, for
#                         make shell
#
# bisect: an initramfs.cpio of the selftests and modules of build/bisect, in
# build/bisect/image, with init and probe of build/image.
#
# Written by the kernel's gen_init_cpio from a list, so that no root is needed for
# device nodes.

. harness/lib.sh

kind=${1:-}
shared=$build/image
image=$shared
selftests=$build/series/selftests/kselftest
if [ "$kind" = bisect ]; then
	image=$build/bisect/image
	selftests=$build/bisect/selftests/kselftest
fi
headers=$build/series/headers/usr/include
cc=aarch64-linux-gnu-gcc

guest() {
	gcc -O2 -o "$image/gen_init_cpio" "$build/series/tree/usr/gen_init_cpio.c"
	for p in init probe; do
		$cc -O2 -Wall -Wextra -Werror -static -isystem "$headers" \
			-o "$image/$p.new" "$top/harness/guest/$p.c"
		aarch64-linux-gnu-strip "$image/$p.new"
		mv "$image/$p.new" "$image/$p"
	done
	$cc -nostdlib -static -Wl,-Ttext=0x40080000 -Wl,--build-id=none \
		-o "$image/idregs.elf.new" "$top/harness/guest/idregs.S"
	mv "$image/idregs.elf.new" "$image/idregs.elf"
}

# The selftests, by their path below the selftests' output: kvm/arm64/NAME.
programs() {
	( cd "$selftests" && find . -type f -perm -u+x ! -name '*.so' ! -name '*.o' -printf '%P\n' ) | sort
}

# The modules of the selftests, by the variant of the kernel that they are for:
# VARIANT/NAME.ko PATH.
modules() {
	for ko in "$build"/*/mod-*/*.ko; do
		[ -f "$ko" ] || continue
		d=$(dirname "$ko")
		case $kind:$d in
		bisect:*/bisect/mod-*) ;;
		bisect:* | *:*/bisect/mod-*) continue ;;
		esac
		# Not those whose building failed half-way.
		[ ! -f "$d.stamp" ] || echo "${d##*/mod-}/$(basename "$ko") $ko"
	done
}

list() {
	echo "dir /dev 755 0 0"
	echo "nod /dev/console 600 0 0 c 5 1"
	for d in proc sys tmp bin tests; do
		echo "dir /$d 755 0 0"
	done
	echo "file /init $shared/init 755 0 0"
	echo "file /bin/probe $shared/probe 755 0 0"
	programs | while read -r p; do
		d=$(dirname "$p")
		while [ "$d" != . ]; do
			echo "$d"
			d=$(dirname "$d")
		done
	done | sort -u | while read -r d; do
		echo "dir /tests/$d 755 0 0"
	done
	programs | while read -r p; do
		echo "file /tests/$p $image/tests/$p 755 0 0"
	done
	echo "dir /modules 755 0 0"
	modules | sed 's,/.*,,' | sort -u | while read -r d; do
		echo "dir /modules/$d 755 0 0"
	done
	modules | while read -r m ko; do
		echo "file /modules/$m $ko 644 0 0"
	done
	if [ "$kind" = shell ]; then
		echo "file /bin/busybox $image/busybox 755 0 0"
	fi
}

pack() {
	# A dynamic program would not even start in the guest.
	programs | while read -r p; do
		if [ -n "$(find "$image/tests/$p" -newer "$selftests/$p" 2>/dev/null)" ]; then
			continue
		fi
		! aarch64-linux-gnu-readelf -l "$selftests/$p" | grep -q INTERP ||
			die "$p is not linked statically"
		mkdir -p "$image/tests/$(dirname "$p")"
		aarch64-linux-gnu-strip -g -o "$image/tests/$p.new" "$selftests/$p"
		mv "$image/tests/$p.new" "$image/tests/$p"
	done
	list >"$image/list$kind"
	"$shared/gen_init_cpio" "$image/list$kind" >"$image/$1.new"
	mv "$image/$1.new" "$image/$1"
}

target=initramfs.cpio
[ "$kind" != shell ] || target=initramfs-shell.cpio
mkdir -p "$image"
guest_key=$(cat "$top"/harness/guest/* | git hash-object --stdin)
if [ "$kind" = bisect ]; then
	[ -f "$shared/.guest" ] || die "no build/image: make image first"
elif ! stamp_is "$image/.guest" "$guest_key"; then
	step guest "init, probe, idregs" guest.log guest
	stamp "$image/.guest" "$guest_key"
fi
if [ "$kind" = shell ] && [ ! -f "$image/busybox" ]; then
	"$top/harness/fetch.sh" busybox
fi
key=$({
	cat "$selftests/../.stamp" "$shared/.guest" "$top/harness/image.sh"
	modules | while read -r m ko; do
		echo "$m $(git hash-object "$ko")"
	done
} | git hash-object --stdin)
if ! stamp_is "$image/.$target" "$key"; then
	rm -f "$image/.$target"
	step image "$(programs | wc -l) programs" "image.log" pack "$target"
	stamp "$image/.$target" "$key"
fi
