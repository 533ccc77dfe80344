#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# refresh.sh: write build/series/tree, edited with plain git, back to patches/ and to the
# files that the series adds.
#
# Each commit on top of the base becomes one patch file. It stays in the topic of the
# patch that had its subject; a commit with a new subject joins the topic of the
# commit before it, unless a trailer "Topic: NAME" in its message says otherwise (it
# is not part of the patch). Nothing is written before all of it is known to be good.

. harness/lib.sh
series_identity

tree=$build/series/tree
[ -d "$tree" ] || die "no build/series/tree: make tree first"
cd "$tree"
work=$build/refresh.$$
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
mkdir -p "$work/patches" "$work/files"

[ -z "$(git status --porcelain | head -n 1)" ] ||
	die "build/series/tree has changes that are not committed (git -C build/series/tree status)"
git merge-base --is-ancestor base HEAD || die "build/series/tree is not based on the base"
[ -z "$(git rev-list --merges base..HEAD)" ] || die "build/series/tree has a merge commit"

# Which topic had which subject.
for d in "$top"/patches/*/; do
	[ -d "$d" ] || continue
	topic=$(basename "$d")
	for p in "$d"0*.patch; do
		[ -f "$p" ] || continue
		printf '%s\t%s\n' "$topic" "$(git mailinfo -k /dev/null /dev/null <"$p" | sed -n 's/^Subject: //p')"
	done
done >"$work/topics"

topic="" last_topic=""
git rev-list --reverse base..HEAD >"$work/commits"
while read -r c; do
	subject=$(git log -1 --format=%s "$c")
	at="$(git log -1 --format=%h "$c") ($subject)"
	case $subject in
	fixup!*|squash!*|amend!*) die "$at: git rebase -i --autosquash base first" ;;
	esac
	[ "$(git rev-parse "$c^{tree}")" != "$(git rev-parse "$c^^{tree}")" ] ||
		die "$at changes nothing"
	# git mailinfo takes what ends a message in a mailed patch for the end here.
	! git log -1 --format=%b "$c" | grep -Eq '^(---( |$)|diff -|Index: )' ||
		die "$at: a line of the message would end it: ---, diff - or Index:"
	named=$(git log -1 --format='%(trailers:key=Topic,valueonly)' "$c" | sed '/^$/d')
	had=$(awk -F'\t' -v s="$subject" '$2 == s { print $1; exit }' "$work/topics")
	topic=${named:-${had:-$topic}}
	[ -n "$topic" ] || die "$at: which topic? Say it with a trailer 'Topic: NAME'"
	# shellcheck disable=SC3012 # the topics sort by their number
	[ -z "$last_topic" ] || [ "$(printf '%s\n%s\n' "$last_topic" "$topic" | sort | head -n 1)" = "$last_topic" ] ||
		die "$at: topic $topic comes after $last_topic"
	if [ "$topic" != "$last_topic" ]; then
		number=0
		mkdir "$work/patches/$topic"
	fi
	last_topic=$topic
	number=$((number + 1))

	git diff-tree -r --no-renames --no-commit-id --name-status "$c^" "$c" >"$work/status"
	: >"$work/new"
	: >"$work/edit"
	while read -r kind path; do
		if git cat-file -e "base:$path" 2>/dev/null; then
			echo "$path" >>"$work/edit"
			continue
		fi
		[ "$kind" = A ] ||
			die "$at changes $path, which an earlier patch brings: git commit --fixup that one"
		echo "$path" >>"$work/new"
		mkdir -p "$work/files/$(dirname "$path")"
		git cat-file blob "$c:$path" >"$work/files/$path"
		case $(git ls-tree "$c" "$path") in
		100755*) chmod +x "$work/files/$path" ;;
		esac
		echo "$path" >>"$work/claimed"
	done <"$work/status"

	file=$work/patches/$topic/$(printf %04d $number)-$(git log -1 --format=%f "$c" | cut -c1-52).patch
	{
		printf 'Subject: %s\n\n' "$subject"
		git log -1 --format=%b "$c" | sed '/^Topic: /d' | git stripspace
		echo ---
		sed 's/^/New-file: /' "$work/new"
		if [ -s "$work/edit" ]; then
			echo
			# shellcheck disable=SC2046 # paths of the kernel have no blanks
			git diff-tree -p --full-index --no-renames --no-ext-diff \
				--src-prefix=a/ --dst-prefix=b/ "$c^" "$c" -- $(cat "$work/edit")
		fi
	} >"$file"
done <"$work/commits"

# Files that patches/ named before and the tree no longer has are to go; a file that
# no patch ever named is not this script's.
for p in "$top"/patches/*/0*.patch; do
	[ ! -f "$p" ] || new_files "$p"
done | sort >"$work/before"
touch "$work/claimed"
sort "$work/claimed" | comm -23 "$work/before" - >"$work/gone"

while read -r path; do
	rm -f "$top/$path"
done <"$work/gone"
( cd "$work/files" && find . -type f ) | while read -r path; do
	mkdir -p "$top/$(dirname "$path")"
	# A file that is the same keeps its time, so that make does not see it as new.
	if ! cmp -s "$work/files/$path" "$top/$path"; then
		cp "$work/files/$path" "$top/$path"
	fi
	if [ -x "$work/files/$path" ]; then
		chmod +x "$top/$path"
	else
		chmod -x "$top/$path"
	fi
done
for d in "$top"/patches/*/; do
	[ -d "$d" ] || continue
	rm -f "$d"0*.patch
done
mkdir -p "$top/patches"
cp -R "$work/patches/." "$top/patches/"
make -s -C "$build/base/tree" kernelversion >"$work/release"
{ sed -n '/^#/p' "$top/harness/base"; cat "$work/release"; } >"$work/base"
cat "$work/base" >"$top/harness/base"
git update-ref refs/series/composed HEAD
printf '  %-10s %s\n' refresh "$(wc -l <"$work/commits") patches"
