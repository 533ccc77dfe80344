#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# fetch.sh linux|qemu|busybox: get the kernel source, QEMU, or the shell of make shell.
#
#   build/base/tree  the kernel source as a git tree with one commit, branch base
#   build/qemu       QEMU with the libraries it needs, started by build/qemu/run
#   build/image/busybox  for arm64
#
# All come from the Debian mirror that the machine is set up with, from the
# first of harness/suites that has them, by a private apt: apt's own signature
# check applies, and nothing of the machine's apt configuration or state is
# changed. LINUX= (tarball or directory) and QEMU= (binary) override.

. harness/lib.sh

linux_package=linux-source-7.3
qemu_package=qemu-system-arm
qemu_minimum=11.1
apt=$build/apt
apt_architecture=amd64

# The machine's Debian archives, from its own configuration.
mirrors() {
	# shellcheck disable=SC2016 # apt expands it
	apt-get indextargets --no-release-info --format '$(REPO_URI)' \
		'Created-By: Packages' | sort -u | grep -v -- -security || true
}

apt_get() { apt_run apt-get "$@"; }
apt_run() {
	apt_command=$1
	shift
	"$apt_command" -q -o Dir::Etc::sourcelist="$apt/sources.list" \
		-o Dir::Etc::sourceparts=/dev/null \
		-o Dir::State="$apt" -o Dir::State::status="$apt/status" \
		-o Dir::Cache="$apt/cache" -o Debug::NoLocking=1 \
		-o APT::Sandbox::User=root -o Acquire::Languages=none \
		-o Acquire::Retries=3 -o Acquire::http::Timeout=30 \
		-o APT::Architecture="$apt_architecture" "$@"
}

# candidate PACKAGE SUITE: the version that the suite has, if it does.
candidate() {
	apt_run apt-cache madison "$1" 2>/dev/null |
		awk -F'|' -v s="$2" '{ split($3, f, " ") }
			f[2] ~ "^" s "/" { gsub(/ /, "", $2); print $2; exit }'
}

# find_suite PACKAGE [MINIMUM]: point the private apt at the first suite that has
# the package; sets $suite and $version.
find_suite() {
	find_looked=
	mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
	: >"$apt/status"
	find_signed=
	find_keys=/usr/share/keyrings/debian-archive-keyring.gpg
	[ ! -f $find_keys ] || find_signed="[signed-by=$find_keys] "
	find_mirrors=$(mirrors)
	[ -n "$find_mirrors" ] ||
		die "$1: no Debian archive in this machine's apt configuration to look in; $3"
	sed 's/#.*//' "$top/harness/suites" >"$apt/suites"
	while read -r suite find_needs; do
		[ -n "$suite" ] || continue
		for m in $find_mirrors; do
			for s in $suite $find_needs; do
				echo "deb $find_signed$m $s main"
			done >"$apt/sources.list"
			find_looked="$find_looked $m $suite,"
			apt_get update >"$apt/update.log" 2>&1 || continue
			version=$(candidate "$1" "$suite")
			[ -n "$version" ] || continue
			if [ -n "${2:-}" ] && dpkg --compare-versions "${version#*:}" lt "$2"; then
				continue
			fi
			return 0
		done
	done <"$apt/suites"
	cat "$apt/update.log" >&2 || true
	die "$1${2:+ >= $2} was found on none of:${find_looked%,} (network?); $3"
}

fetch_linux_package() {
	( cd "$apt/cache" && apt_get download "$linux_package=$version" )
	rm -rf "$1" "$1.deb"
	mkdir "$1" "$1.deb"
	dpkg -x "$apt"/cache/${linux_package}_*.deb "$1.deb"
	tar -C "$1" --strip-components=1 -xf "$1.deb"/usr/src/$linux_package.tar.xz
	rm -rf "$1.deb" "$apt"/cache/${linux_package}_*.deb
}

unpack_linux_override() {
	rm -rf "$1"
	mkdir "$1"
	if [ -d "$LINUX" ]; then
		if git -C "$LINUX" rev-parse --git-dir >/dev/null 2>&1; then
			git -C "$LINUX" archive HEAD | tar -C "$1" -x
		else
			tar -C "$LINUX" --exclude-vcs -c . | tar -C "$1" -x
		fi
	else
		tar -C "$1" --strip-components=1 -xf "$LINUX"
	fi
}

# Everything that the tarball has is committed (-f: its .gitignore must not
# decide). Debian appends rules that ignore the whole tree; they are not mainline's
# and would hide new files from git status.
commit_linux() {
	series_identity
	sed -i -e '/^#$/{N;/\n# Debian packaging: ignore/Q}' "$1/.gitignore"
	sed -i -e :a -e '/^\n*$/{$d;N;ba' -e '}' "$1/.gitignore"
	git -C "$1" init -q -b base
	git -C "$1" config core.compression 0
	git -C "$1" config gc.auto 0
	# kvm's selftest Makefile generates headers into the source tree.
	echo /tools/arch/arm64/include/generated/ >>"$1/.git/info/exclude"
	git -C "$1" add -f -A
	git -C "$1" commit -q -m "Linux $2"
}

# Only one thing can make a base: the packages, or what LINUX= names.
linux_key() {
	if [ -z "${LINUX:-}" ]; then
		echo debian
	elif [ -d "$LINUX" ]; then
		echo "$LINUX $(git -C "$LINUX" rev-parse HEAD 2>/dev/null || stat -c %Y "$LINUX/Makefile")"
	else
		echo "$LINUX $(stat -c '%s %Y' "$LINUX")"
	fi
}

linux() {
	if [ -n "${LINUX:-}" ] && [ ! -e "$LINUX" ]; then
		die "LINUX=$LINUX: no such file or directory"
	fi
	if [ -d "${LINUX:-}" ] && [ ! -f "$LINUX/arch/arm64/kvm/mmu.c" ]; then
		die "LINUX=$LINUX: not a kernel source tree"
	fi
	key=$(linux_key)
	! stamp_is "$build/base.stamp" "$key" || return 0

	rm -f "$build/base.stamp"
	new=$build/base.new
	if [ -z "${LINUX:-}" ]; then
		find_suite $linux_package '' "LINUX=tarball or LINUX=directory replaces it"
		step fetch "$linux_package $version, $suite" fetch-linux.log \
			fetch_linux_package "$new"
	else
		version=$LINUX
		step fetch "LINUX=$LINUX" fetch-linux.log unpack_linux_override "$new"
	fi
	[ -f "$new/arch/arm64/kvm/mmu.c" ] || die "$version: not a kernel source tree"
	release=$(make -s -C "$new" kernelversion)
	step base "Linux $release as a git tree" base.log commit_linux "$new" "$release"
	# A tree composed on another base is of no use, but work in it is.
	if [ -d "$build/series/tree" ]; then
		"$top/harness/tree.sh" check-no-local-work
	fi
	rm -rf "$build/base" "$build/series/tree"
	mkdir "$build/base"
	mv "$new" "$build/base/tree"
	echo "$version" >"$build/base.version"
	stamp "$build/base.stamp" "$key"
}

# qemu_run BINARY: the version that a QEMU says it has, if it is new enough.
qemu_check() {
	qemu_version=$("$1" --version 2>/dev/null |
		sed -n 's/^QEMU emulator version \([0-9.]*\).*/\1/p')
	[ -n "$qemu_version" ] || die "$1: does not run, or is no qemu-system-aarch64"
	dpkg --compare-versions "$qemu_version" ge $qemu_minimum ||
		die "$1: QEMU $qemu_version is too old, FEAT_MTE_PERM is emulated from $qemu_minimum on"
	"$1" -machine virt,help >/dev/null 2>&1 ||
		die "$1: has no machine virt, is it qemu-system-aarch64?"
}

fetch_qemu_packages() {
	rm -rf "$1" "$apt"/cache/archives/*.deb
	apt_get install -y --download-only --no-install-recommends \
		-t "$suite" "$qemu_package=$version"
	mkdir "$1"
	for deb in "$apt"/cache/archives/*.deb; do
		dpkg -x "$deb" "$1"
		sha256sum "$deb" | sed "s|$apt/cache/archives/||" >>"$1/packages.sha256"
	done
	rm -f "$apt"/cache/archives/*.deb
	# A machine older than the packages has an older libc: QEMU is started by
	# the loader that came with it.
	cat >"$1/run" <<-'RUN'
	#!/bin/sh
	# Start this folder's QEMU with its own loader and libraries.
	d=$(dirname "$(readlink -f "$0")")
	lib=$d/usr/lib/x86_64-linux-gnu
	exec "$lib/ld-linux-x86-64.so.2" --library-path "$lib" \
		"$d/usr/bin/qemu-system-aarch64" -L "$d/usr/share/qemu" "$@"
	RUN
	chmod +x "$1/run"
}

qemu() {
	if [ -n "${QEMU:-}" ]; then
		qemu_check "$QEMU"
		return 0
	fi
	[ ! -x "$build/qemu/run" ] || return 0
	[ "$(uname -m)" = x86_64 ] ||
		die "QEMU is fetched for x86-64 only: give QEMU=, version $qemu_minimum or later"
	find_suite $qemu_package $qemu_minimum "QEMU=, version $qemu_minimum or later, replaces it"
	step fetch "$qemu_package ${version#*:}, $suite" fetch-qemu.log \
		fetch_qemu_packages "$build/qemu.new"
	qemu_check "$build/qemu.new/run"
	rm -rf "$build/qemu"
	mv "$build/qemu.new" "$build/qemu"
}

fetch_busybox_package() {
	( cd "$apt/cache" && apt_get download "busybox-static=$version" )
	rm -rf "$1"
	dpkg -x "$apt"/cache/busybox-static_*.deb "$1"
	rm -f "$apt"/cache/busybox-static_*.deb
}

busybox() {
	[ ! -x "$build/image/busybox" ] || return 0
	apt_architecture=arm64
	find_suite busybox-static '' ''
	mkdir -p "$build/image"
	step fetch "busybox-static $version, $suite" fetch-busybox.log \
		fetch_busybox_package "$build/busybox.new"
	mv "$build/busybox.new"/*bin/busybox "$build/image/busybox" 2>/dev/null ||
		mv "$build/busybox.new"/usr/bin/busybox "$build/image/busybox"
	rm -rf "$build/busybox.new"
}

case ${1:-} in
linux|qemu|busybox) "$1" ;;
*) die "usage: fetch.sh linux|qemu|busybox" ;;
esac
