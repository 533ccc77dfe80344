#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# tree.sh [compose]: base + patches/ -> build/series/tree, one commit per patch.
# tree.sh check-no-local-work: fail if build/series/tree has work that patches/ lacks.
#
# A patch file is a commit message, a line "---", one "New-file: PATH" line for
# each file that the patch brings whole (it stands at PATH in this repository),
# and the edits to files that the base has. It applies with full context and
# without fuzz, or composing stops.
#
# Patches are applied to an index, not to a working tree; build/series/tree is then moved
# to the result by git, which touches only the files that differ, so that make
# rebuilds only what changed. Commits are reused as long as the patches up to them
# are the same.
#
# refs/series/composed is the last result. Work in build/series/tree that is not in it is
# never overwritten: make refresh brings it back to patches/.

. harness/lib.sh
series_identity

tree=$build/series/tree
GIT_DIR=$build/base/tree/.git
export GIT_DIR
cache=$GIT_DIR/compose-cache

in_tree() {
	( unset GIT_DIR; git -C "$tree" "$@" )
}

has_local_work() {
	[ -d "$tree" ] || return 1
	git rev-parse -q --verify refs/series/composed >/dev/null || return 1
	[ "$(in_tree rev-parse HEAD)" = "$(git rev-parse refs/series/composed)" ] || return 0
	[ -n "$(in_tree status --porcelain | head -n 1)" ]
}

# A blob id changes when the base's file is not the one that the patch was made
# on: the patch may still apply, and whoever uses it should know.
check_base() {
	base_release=$(make -s -C "$build/base/tree" kernelversion)
	recorded=$(sed 's/#.*//; /^$/d' "$top/harness/base")
	[ "$base_release" != "$recorded" ] || return 0
	echo "  tree       base is Linux $base_release, the series was last refreshed on $recorded"
	# shellcheck disable=SC2016
	cat "$top"/patches/*/0*.patch 2>/dev/null | awk '
		/^diff --git a\// { path = substr($3, 3) }
		/^index / && !(path in seen) {
			seen[path] = 1; split($2, b, /\.\./); print b[1], path
		}' | while read -r blob path; do
			now=$(git rev-parse -q --verify "base:$path") || now=absent
			[ "$now" = "$blob" ] ||
				echo "  tree       differs from the recorded base: $path"
		done
}

# One patch onto the index; $parent is the commit it goes onto, and becomes its own.
compose_one() {
	name=${1#"$top/"}
	git mailinfo -k --no-inbody-headers --encoding=UTF-8 "$work/msg" "$work/diff" <"$1" >"$work/info" ||
		die "$name: not a patch file"
	subject=$(sed -n 's/^Subject: //p' "$work/info")
	[ -n "$subject" ] || die "$name: no Subject line"
	new_files "$1" >"$work/new"

	key=$parent:$(git hash-object "$1")
	while read -r path; do
		[ -f "$top/$path" ] || die "$name: New-file: $path is not in the repository"
		key=$key:$(git hash-object --no-filters "$top/$path")
		[ ! -x "$top/$path" ] || key=${key}x
	done <"$work/new"
	key=$(printf %s "$key" | git hash-object --stdin)
	cat "$work/new" >>"$work/claimed"
	if [ -f "$cache/$key" ]; then
		parent=$(cat "$cache/$key")
		index_is=
		return 0
	fi

	[ -n "$index_is" ] || git read-tree "$parent"
	index_is=$parent
	if grep -q '^diff --git ' "$work/diff"; then
		if ! git apply --cached -p1 --whitespace=nowarn "$work/diff" 2>"$work/err"; then
			at=$(sed -n 's/^error: patch failed: //p' "$work/err" | head -n 1)
			cat "$work/err" >&2
			[ -z "$at" ] || awk -v file="${at%:*}" -v line="${at##*:}" '
				/^diff --git / { f = substr($3, 3) }
				/^@@ / && f == file && $2 ~ "^-" line "(,|$)" { print "hunk: " $0 }
				' "$work/diff" >&2
			die "$name does not apply${at:+ to ${at%:*}, the hunk at line ${at##*:}}"
		fi
	fi
	while read -r path; do
		! git ls-files --error-unmatch "$path" >/dev/null 2>&1 ||
			die "$name: New-file: $path is already there: the base or an earlier patch has it"
		mode=100644
		[ ! -x "$top/$path" ] || mode=100755
		git update-index --add --cacheinfo \
			"$mode,$(git hash-object -w --no-filters "$top/$path"),$path"
	done <"$work/new"
	{ printf '%s\n\n' "$subject"; cat "$work/msg"; } | git stripspace >"$work/commit"
	result=$(git write-tree)
	[ "$result" != "$(git rev-parse "$parent^{tree}")" ] || die "$name: changes nothing"
	parent=$(git commit-tree "$result" -p "$parent" -F "$work/commit")
	index_is=$parent
	echo "$parent" >"$cache/$key.new"
	mv "$cache/$key.new" "$cache/$key"
}

compose() {
	[ -d "$GIT_DIR" ] || die "no base: make fetch first"
	mkdir -p "$cache"
	work=$build/compose.$$
	mkdir "$work"
	trap 'rm -rf "$work"' EXIT
	trap 'exit 130' INT TERM
	GIT_INDEX_FILE=$work/index
	export GIT_INDEX_FILE
	: >"$work/claimed"
	parent=$(git rev-parse base)
	index_is=
	count=0
	for p in "$top"/patches/*/0*.patch; do
		[ -f "$p" ] || continue
		compose_one "$p"
		count=$((count + 1))
	done
	# A file that no patch brings would silently not be in the series. The kernel has no
	# Markdown: that is documentation of this repository.
	for d in arch include Documentation tools; do
		[ ! -d "$top/$d" ] || ( cd "$top" && find "$d" -type f ! -name '*.orig' ! -name '*~' \
			! -name '*.md' )
	done | sort >"$work/files"
	sort "$work/claimed" | comm -13 - "$work/files" >"$work/unclaimed"
	[ ! -s "$work/unclaimed" ] ||
		die "no patch brings $(tr '\n' ' ' <"$work/unclaimed")(a New-file: line names it)"
	unset GIT_INDEX_FILE

	composed=$(git rev-parse -q --verify refs/series/composed) || composed=
	if [ "$composed" = "$parent" ] && [ -d "$tree" ]; then
		! has_local_work || echo "  tree       build/series/tree has local work, it is used as it is"
		return 0
	fi
	! has_local_work ||
		die "build/series/tree has work that patches/ lacks, and patches/ changed too:" \
			"make refresh keeps the tree's, 'git -C build/series/tree reset --hard refs/series/composed' drops it"
	if [ ! -d "$tree" ]; then
		git worktree prune
		git worktree add -q --detach "$tree" base >/dev/null
	fi
	in_tree checkout -q -B series "$parent"
	git update-ref refs/series/composed "$parent"
	check_base
	printf '  %-10s %s\n' tree "Linux $(make -s -C "$build/base/tree" kernelversion) + $count patches"
}

case ${1:-compose} in
compose)
	compose
	;;
check-no-local-work)
	! has_local_work ||
		die "build/series/tree has work that patches/ lacks: make refresh keeps it," \
			"'git -C build/series/tree reset --hard refs/series/composed' drops it"
	;;
*)
	die "usage: tree.sh [compose|check-no-local-work]"
	;;
esac
