#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# docs.sh: what the series touches, for the tree's own tools: sphinx for the directories of
# .rst files, kernel-doc for sources and headers, and the check of references to files of
# Documentation/. What they say of the series and do not say of the base is an error. The
# pages are left in build/docs/series/Documentation/output.

. harness/lib.sh
series_identity

docs=$build/docs
tree=$build/series/tree
trap 'exit 130' INT TERM

# The directories of the .rst files that come in, as SPHINXDIRS wants them: the nearest one
# above that has an index, and none that is part of another.
sphinx_dirs() {
	while read -r path; do
		dir=$(dirname "$path")
		while [ "$dir" != Documentation ] && [ ! -f "$tree/$dir/index.rst" ]; do
			dir=$(dirname "$dir")
		done
		echo "$dir/"
	done | sort -u | awk '
		{ for (dir in seen) if (index($0, dir) == 1) next; seen[$0]; sub(/^Documentation\//, "./"); print }' |
		sed 's|/$||; s|^\./||'
}

# sphinx SOURCE: never on top of what is there, of which it would say nothing.
sphinx() {
	out=$docs/$1
	rm -rf "${out:?}"
	mkdir -p "$out"
	there=
	for dir in $dirs; do
		[ ! -f "$build/$1/tree/Documentation/$dir/index.rst" ] || there="$there $dir"
	done
	[ -z "$there" ] || make -C "$build/$1/tree" -s O="$out" SPHINXDIRS="${there# }" htmldocs </dev/null
	[ "$1" = series ] || return 0
	# Where there is no page nothing was looked at, whatever make says.
	for path in $rst; do
		page=$out/Documentation/output/${path#Documentation/}
		[ -f "${page%.rst}.html" ] || { echo "$path: sphinx made no page of it"; return 1; }
	done
}

# kernel_doc SOURCE
kernel_doc() {
	cd "$build/$1/tree"
	# shellcheck disable=SC2046,SC2086 # the base does not have all of them
	set -- $(ls $sources 2>/dev/null)
	[ $# -eq 0 ] || PYTHONDONTWRITEBYTECODE=1 scripts/kernel-doc -none -Wall "$@"
}

# references SOURCE: touched files that refer to what is not there.
references() {
	cd "$build/$1/tree"
	perl tools/docs/documentation-file-ref-check >"$docs/references" 2>&1
	TOUCHED=$touched awk '
		BEGIN { split(ENVIRON["TOUCHED"], files, "\n"); for (f in files) is[files[f]] }
		{ file = $0; sub(/: .*/, "", file) }
		file in is { sub(/^[^:]*: /, ""); print file ": warning: nothing is at " $0 }' "$docs/references"
}

# compare TOOL DETAIL: what it says of the series and, if that is anything, of the base.
compare() {
	step docs "$2" "docs-$1.log" "$1" series
	! harness/diagnostics.py "$tree" "$build/log/docs-$1.log" >/dev/null || return 0
	step docs "$2, the base" "docs-$1-base.log" "$1" base
	harness/diagnostics.py "$tree" "$build/log/docs-$1.log" "$build/base/tree" "$build/log/docs-$1-base.log" \
		>"$docs/new" || { first "$docs/new" >&2; bad="$bad $1"; }
}

number() {
	if [ "$1" -eq 1 ]; then echo "1 $2"; else echo "$1 ${2}s"; fi
}

[ -d "$tree" ] || die "no build/series/tree: make tree first"
key=$(git -C "$tree" rev-parse HEAD^\{tree\} base^\{tree\})
[ -z "$(git -C "$tree" status --porcelain | head -n 1)" ] || key=$(date +%s%N)
! stamp_is "$docs.stamp" "$key" || exit 0
mkdir -p "$docs"
rm -f "$docs.stamp"

# As it is, committed or not.
touched=$(git -C "$tree" diff --name-only --diff-filter=d base)
rst=$(echo "$touched" | grep '^Documentation/.*\.rst$') || true
sources=$(echo "$touched" | grep '\.[ch]$') || true
bad=""
if [ -n "$rst" ]; then
	dirs=$(echo "$rst" | sphinx_dirs)
	compare sphinx "$(number "$(echo "$rst" | wc -l)" page), SPHINXDIRS=\"$(echo "$dirs" | paste -sd ' ')\""
fi
[ -z "$sources" ] || compare kernel_doc "kernel-doc of $(number "$(echo "$sources" | wc -l)" file)"
[ -z "$touched" ] || compare references "references of $(number "$(echo "$touched" | wc -l)" file)"
if [ -n "$bad" ]; then
	echo "docs: what the base does not give:$bad (build/log/docs-*.log)" >&2
	exit 1
fi
stamp "$docs.stamp" "$key"
