#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# What the kernel's and git's own checks say of patches, for make series and make bisect:
#
#   patchcheck.sh checkpatch TREE [OPTION...] PATCH...   checkpatch.pl --strict of the tree,
#                                                        a line for each report
#   patchcheck.sh whitespace GIT_DIR RANGE               git log --check, "SUBJECT: what" a line

. harness/lib.sh
series_identity

what=${1:-} where=${2:-}
case $what in
checkpatch)
	shift 2
	work=$build/patchcheck.$$
	trap 'rm -rf "$work" "$where"/.checkpatch-camelcase.date.*' EXIT
	trap 'exit 130' INT TERM
	mkdir "$work"
	cd "$where"
	# Neither the user's configuration nor a repository without history has a say; what
	# is found makes the exit status 1.
	HOME=$work GIT_DIR=$work/none perl scripts/checkpatch.pl --strict --terse --show-types \
		--no-summary "$@" 2>&1 || true
	;;
whitespace)
	git --git-dir "$where" -c core.attributesFile="$top/harness/attributes" \
		log --reverse --check --format='commit %s' "$3" |
		awk '/^commit / { subject = substr($0, 8) } /^[^+]*: / && !/^commit / { print subject ": " $0 }'
	;;
*)
	die "usage: patchcheck.sh checkpatch|whitespace"
	;;
esac
