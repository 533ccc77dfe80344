#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# builds.sh: compile what the series touches as others have it: the builds of
# harness/builds, in build/builds/NAME/series. BUILDS= are names or globs of them.
# builds.sh names: check nothing but these.
#
# A build is bad if the series gives a warning or an error that the base does not give. Only
# if there is one is the base built, in build/builds/NAME/base. With W=1, but for vmlinux:
# most of what that says is of files that the series does not touch.
#
# make says nothing of an object that it has. So the objects of a build stay only if it was
# good, and what is compiled again is what changed since; otherwise it starts from nothing.

. harness/lib.sh
. harness/kbuild.sh
series_identity

tab=$(printf '\t')
rows=$(sed '/^#/d; /^$/d' harness/builds)
trap 'exit 130' INT TERM

# make's words for a compiler: arch, compiler.
toolchain() {
	case $1:$2 in
	arm64:gcc)	echo CROSS_COMPILE=aarch64-linux-gnu- ;;
	riscv:gcc)	echo CROSS_COMPILE=riscv64-linux-gnu- ;;
	x86_64:gcc)	echo CROSS_COMPILE= ;;
	arm64:clang-[0-9]* | riscv:clang-[0-9]* | x86_64:clang-[0-9]*)
			echo "LLVM=-${2#clang-}" ;;
	*)		return 1 ;;
	esac
}

# Sets what one row means: $name, $arch, $toolchain, $start, $fragments, $options, $targets.
row() {
	IFS=$tab read -r name arch compiler config targets why more <<-END
		$1
	END
	if [ -z "$why" ] || [ -n "$more" ]; then
		die "harness/builds: ${name:-?}: wanted are 6 columns, separated by tabs"
	fi
	toolchain=$(toolchain "$arch" "$compiler") || die "harness/builds: $name: there is no $compiler for $arch"
	start=${config%% *} fragments="" options=""
	for word in ${config#"$start"}; do
		case $word in
		[A-Z]*=[ymn])	options="$options $word" ;;
		*)
			if [ "$start" != allnoconfig ] || [ -n "$options" ] || [ ! -f "harness/config/$word.config" ]; then
				die "harness/builds: $name: config: $word"
			fi
			fragments="$fragments $word"
			;;
		esac
	done
	case $start in
	defconfig | all*config) ;;
	*) die "harness/builds: $name: config: $start is no target" ;;
	esac
}

# Sets $chosen, the rows of $BUILDS.
names() {
	known=$(printf '%s\n' "$rows" | cut -f 1)
	[ -z "$(printf '%s\n' "$known" | sort | uniq -d)" ] || die "harness/builds: two builds of one name"
	set -f
	for word in ${BUILDS:=all}; do
		found=
		for name in $known; do
			# shellcheck disable=SC2254 # globs
			case $name in
			$word) found=yes ;;
			esac
		done
		[ -n "$found" ] || [ "$word" = all ] || die "BUILDS=$word: there are:" "$(echo "$known" | paste -sd ' ')"
	done
	chosen=$(printf '%s\n' "$rows" | while IFS= read -r line; do
		row "$line" || exit
		for word in $BUILDS; do
			[ "$word" != all ] || word='*'
			# shellcheck disable=SC2254
			case $name in
			$word)
				printf '%s\n' "$line"
				break
				;;
			esac
		done
	done)
	set +f
}

configure() {
	if [ "$start" = allnoconfig ]; then
		merge_fragments
	else
		kmake "$start"
	fi
	[ -n "$options" ] || return 0
	for word in $options; do
		"$tree/scripts/config" --file "$obj/.config" --set-val "${word%=*}" "${word#*=}"
	done
	kmake olddefconfig
	for word in $options; do
		is=$("$tree/scripts/config" --file "$obj/.config" --state "${word%=*}")
		case $word:$is in
		*=n:undef | *=[ymn]:"${word#*=}") ;;
		*) echo "$word: it is $is"; return 1 ;;
		esac
	done
}

# What the compiler has against it is judged later, and is all to be seen at once. $obj.status
# says whether make is content.
compile() {
	mkdir -p "$obj"
	[ -f "$obj/.configured" ] || configure
	touch "$obj/.configured"
	status=0 level=W=1
	[ "$targets" != vmlinux ] || level=
	# shellcheck disable=SC2086
	kmake -k $level $targets || status=$?
	echo "$status" >"$obj.status"
}

# key TREE: what a build of it depends on.
key() (
	tree=$1
	echo "$(tree_id) $(config_id) $(echo "$arch $toolchain $config $targets" | git hash-object --stdin)"
)

one() {
	where=$build/builds/$name
	series_key=$(key "$build/series/tree")
	! stamp_is "$where/series.stamp" "$series_key" || return 0
	mkdir -p "$where"
	[ -f "$where/series.stamp" ] || rm -rf "$where/series"
	# Options that the new tree has are seen, too.
	rm -f "$where/series.stamp" "$where/series/.configured"
	tree=$build/series/tree obj=$where/series log=build-$name.log
	step build "$name: $arch, $compiler" "$log" compile
	status=$(cat "$obj.status")
	if ! harness/diagnostics.py "$tree" "$build/log/$log" >"$where/new"; then
		base
		if ! harness/diagnostics.py "$tree" "$build/log/$log" "$build/base/tree" "$build/log/$base_log" >"$where/new"; then
			bad="$bad $name"
			first "$where/new" >&2
			return 0
		fi
		[ "$status" -eq 0 ] || die "$name does not build, and neither does the base: build/log/$base_log"
	fi
	[ "$status" -eq 0 ] || die "$name: make failed, and gives no reason: build/log/$log"
	stamp "$where/series.stamp" "$series_key"
}

base() {
	base_key=$(key "$build/base/tree")
	base_log=build-$name-base.log
	if [ ! -f "$build/log/$base_log" ] || ! stamp_is "$where/base.stamp" "$base_key"; then
		rm -rf "$where/base" "$where/base.stamp"
		( tree=$build/base/tree obj=$where/base
		step build "$name, the base" "$base_log" compile )
		stamp "$where/base.stamp" "$base_key"
	fi
}

# A source that the series touches and that no build has compiled was not tested by them.
left_out() {
	git -C "$build/series/tree" diff --name-only --diff-filter=d base -- '*.c' '*.S' ':!tools' ':!Documentation' |
		while read -r source; do
			for o in "$build"/builds/*/series/"${source%.*}".o; do
				[ ! -f "$o" ] || continue 2
			done
			echo "$source"
		done
}

builds() {
	[ -d "$build/series/tree" ] || die "no build/series/tree: make tree first"
	bad="" count=0
	while IFS= read -r line <&3; do
		count=$((count + 1))
		row "$line"
		one
	done 3<<-END
		$chosen
	END
	bad=${bad# }
	if [ -n "$bad" ]; then
		echo "builds: warnings or errors that the base does not give: $bad (build/log/build-NAME.log)" >&2
		exit 1
	fi
	if [ "$BUILDS" = all ]; then
		left=$(left_out)
		[ -z "$left" ] || die "no build of harness/builds compiles $(echo "$left" | paste -sd ' ')"
	fi
	printf '  %-10s %s\n' builds "$count without a new warning"
}

case ${1:-builds} in
names)
	names
	;;
builds)
	names
	builds
	;;
*)
	die "usage: builds.sh [names]"
	;;
esac
