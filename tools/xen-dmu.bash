# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
# bash completion for xen-dmu, xen-dmu-list, xen-dmu-xm, xen-dmu-convert, dmu-img and dmu-debug

_xen_dmu_formats="qcow: qcow2: raw: vmdk:"

# Names of what xen-dmu attached, and with "all" of every device.
_xen_dmu_names() {
	local file
	for file in /run/xen-dmu/mapper-name-*.sock; do
		[ -e "$file" ] || continue
		file=${file##*/mapper-name-}
		echo "${file%.sock}"
	done
	[ "${1:-}" != all ] || xen-dmu-list 2>/dev/null | awk 'NR > 1 && $1 != "alarm:" { print $4 }'
}

# FORMAT:PATH; readline breaks words at colons, so the path is a word of its own.
_xen_dmu_image() {
	local words=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
	if [ "$words" = : ]; then
		words=
		before=:
	fi
	if [ "$before" = : ]; then
		compopt -o filenames
		mapfile -t COMPREPLY < <(compgen -f -- "$words")
	else
		compopt -o nospace
		mapfile -t COMPREPLY < <(compgen -W "$_xen_dmu_formats" -- "$words")
	fi
}

_xen_dmu() {
	local word=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]:-} options=
	COMPREPLY=()
	if [ "$COMP_CWORD" -eq 1 ]; then
		mapfile -t COMPREPLY < <(compgen -W \
			"attach detach list commit restart check create gc doctor --help --version" -- "$word")
		return
	fi
	case $command in
	attach) options="--name --read-only --on-full" ;;
	list) options="--json --long" ;;
	check) options="--quiet --json --force" ;;
	create) options="--cluster-size --backing" ;;
	gc) options="--dry-run" ;;
	esac
	if [ "${COMP_WORDS[COMP_CWORD - 1]}" = --on-full ]; then
		mapfile -t COMPREPLY < <(compgen -W "wait error" -- "$word")
	elif [[ $word == -* ]]; then
		mapfile -t COMPREPLY < <(compgen -W "$options --help" -- "$word")
	elif [ "$command" = detach ]; then
		mapfile -t COMPREPLY < <(compgen -W "$(_xen_dmu_names)" -- "$word")
	elif [[ $command =~ ^(commit|restart)$ ]]; then
		mapfile -t COMPREPLY < <(compgen -W "$(_xen_dmu_names all)" -- "$word")
	elif [[ $command =~ ^(attach|check|create)$ ]]; then
		_xen_dmu_image
	fi
}

_xen_dmu_list() {
	mapfile -t COMPREPLY < <(compgen -W "--json --long --help --version" -- "${COMP_WORDS[COMP_CWORD]}")
}

_xen_dmu_convert() {
	local word=${COMP_WORDS[COMP_CWORD]}
	if [[ $word == -* ]]; then
		mapfile -t COMPREPLY < <(compgen -W "--diff --in-place --backup --help --version" -- "$word")
	else
		compopt -o filenames
		mapfile -t COMPREPLY < <(compgen -f -- "$word")
	fi
}

_xen_dmu_xm() {
	local word=${COMP_WORDS[COMP_CWORD]}
	if [ "$COMP_CWORD" -eq 1 ]; then
		mapfile -t COMPREPLY < <(compgen -W "create block-attach block-detach block-list
			list shutdown destroy reboot console help" -- "$word")
	elif [ "${COMP_WORDS[1]}" = create ]; then
		compopt -o filenames
		mapfile -t COMPREPLY < <(compgen -f -- "$word")
	else
		mapfile -t COMPREPLY < <(compgen -W "$(xl list 2>/dev/null | awk 'NR > 1 { print $1 }')" -- "$word")
	fi
}

_dmu_img() {
	local word=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]:-} options=
	COMPREPLY=()
	if [ "$COMP_CWORD" -eq 1 ]; then
		mapfile -t COMPREPLY < <(compgen -W "info create check map convert compare resize snapshot commit
			rebase io --help --version" -- "$word")
		return
	fi
	case $command in
	info) options="--json --chain" ;;
	create) options="--backing --cluster-size -o" ;;
	check) options="--repair --json --quiet --force" ;;
	map) options="--json --svg" ;;
	convert) options="--compress --progress --existing --cluster-size -o" ;;
	compare) options="--strict" ;;
	resize) options="--shrink" ;;
	snapshot) options="--list --create --apply --delete" ;;
	rebase) options="--backing --unsafe" ;;
	io) options="--command --read-only" ;;
	esac
	case ${COMP_WORDS[COMP_CWORD - 1]} in
	-r | --repair)
		if [ "$command" = check ]; then
			mapfile -t COMPREPLY < <(compgen -W "leaks all" -- "$word")
			return
		fi ;;
	--svg)
		compopt -o filenames
		mapfile -t COMPREPLY < <(compgen -f -- "$word")
		return ;;
	esac
	if [[ $word == -* ]]; then
		mapfile -t COMPREPLY < <(compgen -W "$options --help" -- "$word")
	else
		_xen_dmu_image
	fi
}

_dmu_debug_options() { # COMMAND
	local filters="--range --numbers --time --size --kind --flags --outcome"
	case $1 in
	log) echo "$filters --json --hash --summary --explain --base --device --export --import --sectors" ;;
	replay) echo "--base --to --onto --json" ;;
	crash) echo "--at --base --with --all --limit --sample --seed --torn --onto --name --json" ;;
	bisect) echo "$filters --base --linear --crash --seed --torn --onto --quiet --json" ;;
	explain) echo "--range --json" ;;
	plot) echo "$filters --by-number" ;;
	*) echo "--name --log --data --base --log-range --log-ops --log-size --log-reads --rule --order --seed
		--memory --hold-limit --on-death --script --command --run --stopped --json --version" ;;
	esac
}

_dmu_debug() {
	local word=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]:-} words=
	COMPREPLY=()
	case ${COMP_WORDS[COMP_CWORD - 1]} in
	--data) words="full hash none" ;;
	--order) words="random reverse same" ;;
	--on-death) words="fail wait" ;;
	--log-ops) words="read write discard zero flush" ;;
	-k | --kind) words="read write discard zero flush mark" ;;
	-f | --flags) words="fua meta sync" ;;
	-o | --outcome) words="pending through dropped failed torn" ;;
	esac
	if [ -n "$words" ]; then
		mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
	elif [[ $word == -* ]]; then
		mapfile -t COMPREPLY < <(compgen -W "$(_dmu_debug_options "$command") --help" -- "$word")
	else
		[ "$COMP_CWORD" -ne 1 ] ||
			mapfile -t COMPREPLY < <(compgen -W "log replay crash bisect explain plot" -- "$word")
		compopt -o filenames
		mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -f -- "$word")
	fi
}

complete -F _dmu_debug dmu-debug
complete -F _dmu_img dmu-img
complete -F _xen_dmu xen-dmu
complete -F _xen_dmu_list xen-dmu-list
complete -F _xen_dmu_convert xen-dmu-convert
complete -F _xen_dmu_xm xen-dmu-xm xm
