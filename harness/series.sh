#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# series.sh: a topic as mails in build/mails/TOPIC-vN/, to be sent by git send-email.
# series.sh names: check nothing but the variables.
#
# TOPIC= is the name of the topic without its number, V= the version (1 if not given),
# SIGNOFF="Name <address>" who sends it: the mails are from, and signed off by, nobody
# else. Nothing is ever sent from here.
#
# The commits that tree.sh composed are written again with that identity, in a repository
# of its own that borrows the base's objects, and made mails by git format-patch. Checks,
# each with a name, say what is missing (mailcheck.py, patchcheck.sh, get_maintainer.pl);
# what is found in checkpatch's report and is to stay is in checkpatch-allowed.ini. Finally,
# git am applies the mails to the base, first those of the topics that come before, as
# whoever gets them would: in a sparse checkout of just the files that they touch, which
# takes a second and not a kernel tree. Identity and dates being the same, it has to arrive
# at the very same commit ids: same trees, same messages.

. harness/lib.sh
series_identity

tree=$build/series/tree
base_git=$build/base/tree/.git

# Sets $topic, its $name and $version, $person and $address, or says what is wrong.
names() {
	topic="" topics=""
	for d in "$top"/patches/[0-9]*-*/; do
		d=$(basename "$d")
		ls "$top/patches/$d/"0*.patch >/dev/null 2>&1 || continue
		topics="$topics ${d#*-}"
		[ "${d#*-}" != "${TOPIC:-}" ] || topic=$d
	done
	[ -n "$topic" ] || die "TOPIC=${TOPIC:-}: there are:${topics:- none}"
	name=${topic#*-}
	version=${V:-1}
	case $version in
	[1-9] | [1-9][0-9]) ;;
	*) die "V=$version: wanted is the number of the version: 1, 2, 3 and so on" ;;
	esac
	signoff=${SIGNOFF:-}
	[ -n "$signoff" ] || die 'SIGNOFF= is missing: SIGNOFF="Name <address>" says who sends it and signs it off'
	person=${signoff% <*} address=${signoff##*<}
	address=${address%>}
	# Git leaves out what is not part of a name, such as a dot at its end.
	as_git=$(GIT_AUTHOR_NAME=$person GIT_AUTHOR_EMAIL=$address git var GIT_AUTHOR_IDENT 2>/dev/null) || as_git=
	case $address in
	*[!\ -~]* | *" "* | *@*@* | *[@.] | *.invalid | *..*) as_git= ;;
	?*@?*.?*) ;;
	*) as_git= ;;
	esac
	[ "${as_git% 0 +0000}" = "$signoff" ] ||
		die "SIGNOFF=$signoff: wanted is \"Name <address>\""
}

# Sets $tag, what the base is called upstream, $base_is for the cover letter, and
# $upstream, its commit id, if that is known: a source package and a tarball have none.
base_names() {
	release=$(make -s -C "$build/base/tree" kernelversion)
	tag=v$(printf '%s\n' "$release" | sed 's/^\([0-9]*\.[0-9]*\)\.0/\1/')
	base_is=$tag
	upstream=$(sed -n 's/.* \([0-9a-f]\{40\}\)$/\1/p' "$build/base.stamp" 2>/dev/null) || upstream=
	if [ -n "$upstream" ]; then
		clone=$(sed 's/ [0-9a-f]*$//' "$build/base.stamp")
		tag=$(git -C "$clone" describe --tags "$upstream" 2>/dev/null) || tag="Linux $release"
		base_is="$tag, commit $(printf %.12s "$upstream")"
	elif stamp_is "$build/base.stamp" debian; then
		base_is="$tag, as Debian has it in linux-source $(cat "$build/base.version")"
	fi
}

# The commits up to the topic's last, by whoever sends them. refs/series/base is the base,
# refs/series/start the last commit of the topics before, refs/heads/$name the topic.
write_commits() {
	git init -q -b "$name" "$repo"
	echo "$base_git/objects" >"$repo/.git/objects/info/alternates"
	git -C "$repo" update-ref refs/series/base "$(git --git-dir "$base_git" rev-parse base)"
	parent=$(git -C "$repo" rev-parse refs/series/base)
	git -C "$repo" update-ref refs/series/start "$parent"
	while read -r of commit; do
		git -C "$repo" log -1 --format=%B "$commit" |
			git interpret-trailers --no-divider --if-exists addIfDifferent \
				--trailer "Signed-off-by: $signoff" | git stripspace >"$work/message"
		parent=$(git -C "$repo" commit-tree "$commit^{tree}" -p "$parent" -F "$work/message")
		[ "$of" = "$topic" ] || git -C "$repo" update-ref refs/series/start "$parent"
	done <"$work/list"
	git -C "$repo" update-ref "refs/heads/$name" "$parent"
	format_patch "$work/plain" "refs/series/start..$name"
}

format_patch() {
	directory=$1
	shift
	git -C "$repo" format-patch -q --full-index -o "$directory" "$@"
}

# found CHECK: the lines that come in are what it found.
found() {
	sed "s/^/$(printf '%-13s ' "$1")/" >>"$work/findings"
}

checks() {
	: >"$work/findings"
	harness/patchcheck.sh checkpatch "$tree" "$work"/plain/*.patch >"$work/checkpatch"
	cd "$tree"
	for p in "$work"/plain/*.patch; do
		HOME=$work perl scripts/get_maintainer.pl --nogit --nogit-fallback --nofixes "$p" >"$work/who"
		grep -q '> (\(maintainer\|supporter\):' "$work/who" ||
			echo "$(basename "$p"): get_maintainer.pl knows no maintainer of what it touches" | found recipients
		cat "$work/who"
	done >"$work/roles"
	# A maintainer of the files is asked; others are told, and so is whoever only
	# looks out for a word.
	grep -E '> \((maintainer|supporter):' "$work/roles" | grep -v ':Keyword:' |
		sed -E 's/^(.*<[^<>]*>) \(.*/\1/' | awk '!seen[$0]++' >"$work/to" || true
	sed -E 's/^(.*<[^<>]*>|[^ ]+) \(.*/\1/' "$work/roles" |
		awk 'NR == FNR { seen[$0] = 1; next } !seen[$0]++' "$work/to" - >"$work/cc"
	cd "$top"
	harness/patchcheck.sh whitespace "$repo/.git" "refs/series/start..$name" |
		found whitespace
	PYTHONDONTWRITEBYTECODE=1 python3 harness/mailcheck.py "$work" "$topic" "$version" >"$work/mailcheck"
	cat "$work/mailcheck" >>"$work/findings"
	cat "$work/findings" "$work/tolerated"
}

# The text of the cover letter, the first line its subject.
describe() {
	sed -n 's/^Subject: //p; /^$/q' "$top/patches/$topic/cover-letter"
	sed '1,/^$/d' "$top/patches/$topic/cover-letter" | sed '1s/^/\n/'
	echo
	before=$(sed '/^'"$topic"' /,$d; s/ .*//' "$work/list" | uniq -c | awk '{ print $2 "," $1 }')
	if [ -z "$before" ]; then
		echo "This applies to $base_is."
	else
		echo "This applies to $base_is,"
		echo 'with these before it, in this order:'
		echo
		# Not at the start of a line, where "KVM: " is a trailer to some tools.
		for b in $before; do
			printf ' - "%s" (%s)\n' "$(sed -n 's/^Subject: //p; /^$/q' "$top/patches/${b%,*}/cover-letter")" \
				"$(number "${b#*,}" patch patches)"
		done
	fi
	[ "$version" -eq 1 ] || { echo && git stripspace <"$top/patches/$topic/changelog"; }
}

number() {
	if [ "$1" -eq 1 ]; then echo "1 $2"; else echo "$1 $3"; fi
}

write_mails() {
	mkdir "$work/mails"
	describe >"$work/mails/cover"
	git -C "$repo" config "branch.$name.description" "$(cat "$work/mails/cover")"
	set -- --cover-letter --cover-from-description=subject --base=refs/series/base
	[ "$version" -eq 1 ] || set -- "$@" -v "$version"
	while read -r who; do
		set -- "$@" --to="$who"
	done <"$work/to"
	while read -r who; do
		set -- "$@" --cc="$who"
	done <"$work/cc"
	format_patch "$work/mails" "$@" "refs/series/start..$name"
	# The id of the base's only commit is known to nobody else.
	if [ -n "$upstream" ]; then
		sed -i "s/^base-commit: .*/base-commit: $upstream/" "$work/mails/"*0000-cover-letter.patch
	else
		sed -i '/^base-commit: /d' "$work/mails/"*0000-cover-letter.patch
	fi
}

# What git am makes of the mails, compared to the commits that they were made of.
apply_mails() {
	mkdir "$work/before"
	format_patch "$work/before" refs/series/base..refs/series/start
	git -C "$repo" diff --name-only --no-renames refs/series/base "$name" | sed 's|^|/|' |
		git -C "$repo" sparse-checkout set --no-cone --stdin
	git -C "$repo" checkout -q --detach refs/series/base
	# shellcheck disable=SC2046 # format-patch makes no names with blanks
	( cd "$repo" && git am -q --committer-date-is-author-date \
		$(find ../before ../mails -name '*.patch' ! -name '*0000-cover-letter.patch' | sort) )
	[ "$(git -C "$repo" rev-parse HEAD)" != "$(git -C "$repo" rev-parse "$name")" ] || return 0
	for end in "$name" HEAD; do
		git -C "$repo" log --reverse --format='%s%n  tree %T%n  from %an <%ae>, %ai%n%w(0,2,2)%b' "refs/series/base..$end" \
			>"$work/arrived.${end#"$name"}"
	done
	echo 'what git am makes of the mails (+) is not what they were made of (-), first here:'
	diff -u "$work/arrived." "$work/arrived.HEAD" | tail -n +3 | head -n 20
	return 1
}

series() {
	[ -d "$tree" ] || die "no build/series/tree: make tree first"
	harness/tree.sh check-no-local-work
	for p in checkpatch get_maintainer; do
		[ -f "$tree/scripts/$p.pl" ] || die "the base has no scripts/$p.pl"
	done
	base_names
	work=$build/mails.$$
	repo=$work/repo
	trap 'rm -rf "$work"' EXIT
	trap 'exit 130' INT TERM
	mkdir -p "$work"

	for p in "$top"/patches/*/0*.patch; do
		basename "$(dirname "$p")"
	done >"$work/topics"
	git --git-dir "$base_git" rev-list --reverse base..refs/series/composed >"$work/commits"
	[ "$(wc -l <"$work/topics")" -eq "$(wc -l <"$work/commits")" ] ||
		die "build/series/tree is not what patches/ say: make tree"
	paste -d ' ' "$work/topics" "$work/commits" |
		awk -v topic="$topic" '{ if ($1 == topic) seen = 1; else if (seen) exit; print }' >"$work/list"
	count=$(grep -c "^$topic " "$work/list")

	GIT_AUTHOR_NAME=$person GIT_COMMITTER_NAME=$person
	GIT_AUTHOR_EMAIL=$address GIT_COMMITTER_EMAIL=$address
	GIT_AUTHOR_DATE="@$(date +%s) +0000"
	GIT_COMMITTER_DATE=$GIT_AUTHOR_DATE

	write_commits
	log=$build/log/series-checks.log
	step checks "$topic: $(number "$count" patch patches)" "$(basename "$log")" checks
	if [ -s "$work/findings" ]; then
		sed 's/^/  /' "$work/findings" >&2
		die "$name is not fit to be sent, nothing was written: $(cut -d ' ' -f 1 "$work/findings" |
			sort | uniq -c | awk '{ printf "%s%s %s", (NR > 1 ? ", " : ""), $2, $1 }')"
	fi
	write_mails
	step am "git am of $(number "$(wc -l <"$work/list")" patch patches) on $tag" series-am.log apply_mails

	out=$build/mails/$name-v$version
	mkdir -p "$build/mails"
	[ ! -d "$out" ] || mv "$out" "$work/old"
	mv "$work/mails" "$out"
	tolerated=$(grep -c '^tolerated' "$work/tolerated") || true
	printf '  %-10s %s\n' series "${out#"$top/"}: $(number $((count + 1)) mail mails)," \
		'' "to $(wc -l <"$work/to"), cc $(wc -l <"$work/cc")," \
		'' "$(number "$tolerated" report reports) of checkpatch.pl tolerated (${log#"$top/"})" \
		send "git send-email ${out#"$top/"}/*.patch"
}

case ${1:-series} in
names)
	names
	;;
series)
	names
	series
	;;
*)
	die "usage: series.sh [names]"
	;;
esac
