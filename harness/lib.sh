# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
#
# What every step shares. A step is called from the top of the repository by
# the Makefile, is silent when there is nothing to do, writes beside its target
# and renames, and leaves its log in build/log/.

set -eu
LC_ALL=C
export LC_ALL
umask 022

top=$PWD
build=$top/build
mkdir -p "$build/log"

# die MESSAGE...: one line on stderr, exit status 2 (the run cannot be trusted).
die() {
	printf '%s: %s\n' "$(basename "$0" .sh)" "$*" >&2
	exit 2
}

# step NAME DETAIL LOG COMMAND...: run the command with its output in build/log/LOG
# and print one line with the time it took; on failure print the end of the log.
step() {
	step_name=$1 step_detail=$2 step_log=$build/log/$3
	shift 3
	# Whoever waits at a terminal sees what is being waited for.
	[ ! -t 1 ] || printf '  %-10s %s ...' "$step_name" "$step_detail"
	step_start=$(date +%s)
	step_status=0
	# Not "if COMMAND": that would switch off errexit inside a function.
	set +e
	( set -e; "$@" ) >"$step_log" 2>&1
	step_status=$?
	set -e
	[ ! -t 1 ] || printf '\r\033[K'
	if [ $step_status -ne 0 ]; then
		printf '  %-10s %s: failed\n' "$step_name" "$step_detail"
		tail -n 25 "$step_log" | sed 's/^/    /' >&2
		die "$step_name: $step_detail failed, the whole log is ${step_log#"$top/"}"
	fi
	printf '  %-10s %-52s %4d s\n' "$step_name" "$step_detail" \
		$(($(date +%s) - step_start))
}

# first FILE: what it begins with.
first() {
	sed -n '1,25s/^/    /p' "$1"
	[ "$(wc -l <"$1")" -le 25 ] || echo "    and so on: ${1#"$top/"}"
}

# stamp_is FILE TEXT / stamp FILE TEXT: what a target was made from.
stamp_is() {
	[ -f "$1" ] && [ "$(cat "$1")" = "$2" ]
}

stamp() {
	printf '%s\n' "$2" >"$1.new"
	mv -f "$1.new" "$1"
}

# The identity and the date of composed commits are fixed, so that the same
# patches on the same base give the same commit ids everywhere.
series_identity() {
	GIT_AUTHOR_NAME=series GIT_AUTHOR_EMAIL=series@invalid
	GIT_COMMITTER_NAME=series GIT_COMMITTER_EMAIL=series@invalid
	GIT_AUTHOR_DATE='@0 +0000' GIT_COMMITTER_DATE='@0 +0000'
	export GIT_AUTHOR_NAME GIT_AUTHOR_EMAIL GIT_AUTHOR_DATE
	export GIT_COMMITTER_NAME GIT_COMMITTER_EMAIL GIT_COMMITTER_DATE
	# Nothing of the user's configuration may change a diff or a commit.
	GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1
	export GIT_CONFIG_GLOBAL GIT_CONFIG_NOSYSTEM
}

# new_files PATCH: the files that it brings, named between "---" and the edits.
new_files() {
	sed -n '/^---$/,/^diff --git /s/^New-file: //p' "$1"
}
