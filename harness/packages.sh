#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# packages.sh [FOR]: install what harness/packages, or harness/packages-FOR, lists and the
# machine lacks: as root at once, otherwise print the line that does it.

. harness/lib.sh

wanted=$(sed 's/#.*//' "harness/packages${1:+-$1}")
missing=
for p in $wanted; do
	status=$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null) || status=
	[ "$status" = installed ] || missing="$missing $p"
done

if [ -n "$missing" ]; then
	command -v apt-get >/dev/null ||
		die "this is no Debian system; wanted are:$missing"
	if [ "$(id -u)" -ne 0 ]; then
		die "packages are missing, as root: apt-get install --no-install-recommends$missing"
	fi
	install() {
		apt-get update -q
		# shellcheck disable=SC2086 # one word a package
		DEBIAN_FRONTEND=noninteractive apt-get install -q -y \
			--no-install-recommends $missing
	}
	# shellcheck disable=SC2086
	step packages "$(echo $missing | wc -w) from Debian" "packages${1:+-$1}.log" install
fi

[ -z "${1:-}" ] || exit 0
# What dpkg calls installed may be out of PATH.
for c in aarch64-linux-gnu-gcc gcc make flex bison bc rsync cpio; do
	command -v $c >/dev/null || die "$c is installed, but not in PATH"
done
