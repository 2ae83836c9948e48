#!/usr/bin/env bats
# What a container wrote is read back exactly.

load helpers

setup_file() { file_setup "$BUSYBOX"; }
teardown_file() { file_teardown; }
teardown() { remove_containers; }

# ended NAME SCRIPT: a container that has run it and ended.
ended() {
	run_balena run -d --name "$1" --network none "$BUSYBOX" sh -c "$2"
	run_balena wait "$1"
}

@test "stdout and stderr come back on their own streams, in order" {
	ended both 'echo one; echo two >&2; echo three'
	run_balena logs both
	assert_output "one
three"
	assert_equal "$stderr" two
}

@test "a foreground container's output is logged too" {
	run_balena run --name fore --network none "$BUSYBOX" echo hello
	run_balena logs fore
	assert_output hello
}

@test "bytes come back as they were: no newline at the end, long lines, binary" {
	ended raw 'printf "no newline"'
	run bash -c "'$BALENA' --root '$ROOT' --runroot '$RUNROOT' logs raw | od -c | head -1"
	assert_match 'n +e +w +l +i +n +e$'
	ended long 'yes abcdefghi | head -c 100000 | tr -d "\n"; echo; echo after'
	run_balena logs long
	assert_equal "${#lines[0]}" 90000
	assert_equal "${lines[1]}" after
	ended utf8 'printf "\\303\\251 caf\\303\\251 \"quoted\" back\\\\slash \\t tab\\n"'
	run_balena logs utf8
	assert_output "é café \"quoted\" back\\slash 	 tab"
}

@test "--tail: the last lines, of rotated files too" {
	ended t 'seq 1 100'
	run_balena logs --tail 3 t
	assert_output "98
99
100"
	run_balena logs --tail 0 t
	assert_empty "$output"
	run_balena logs --tail all t
	assert_equal "${#lines[@]}" 100
	run_balena logs -n 1 t
	assert_output 100
}

@test "--timestamps are RFC 3339 with nanoseconds, in order" {
	ended ts 'echo a; sleep 0.2; echo b'
	run_balena logs --timestamps ts
	[[ ${lines[0]} =~ ^20[0-9]{2}-[0-9]{2}-[0-9]{2}T[0-9:]{8}\.[0-9]+(Z|[+-][0-9:]{5})\ a$ ]] || fail "${lines[0]}"
	[[ ${lines[0]%% *} < ${lines[1]%% *} ]]
}

@test "--since and --until, as time stamps and as durations" {
	ended since 'echo early; sleep 2; echo late'
	run_balena logs -t since
	local late=${lines[1]%% *}
	run_balena logs --since "$late" since
	assert_output late
	run_balena logs --until "$late" --since 1h since
	assert_match early
	run_balena logs --since 1h since
	assert_output "early
late"
	run_balena -125 logs --since yesterdayish since
}

@test "-f follows until the container ends" {
	run_balena run -d --name f --network none "$BUSYBOX" sh -c 'for i in 1 2 3 4; do echo $i; sleep 0.3; done'
	run_balena logs -f f
	assert_output "1
2
3
4"
}

@test "-f --tail starts near the end, and follows a restart's end" {
	run_balena run -d --name ft --network none "$BUSYBOX" sh -c 'seq 1 50; sleep 1; echo end'
	eventually log_has ft 50
	run_balena logs -f --tail 1 ft
	assert_output "50
end"
}

@test "--log-opt max-size and max-file bound what is kept, and what is kept is whole lines" {
	run_balena run -d --name rot --network none --log-opt max-size=20k --log-opt max-file=3 "$BUSYBOX" sh -c 'seq 1 5000'
	run_balena wait rot
	run_balena logs rot
	assert_equal "${lines[-1]}" 5000
	[ "${#lines[@]}" -lt 5000 ]
	local first=${lines[0]} n=${#lines[@]}
	assert_equal $((5000 - first + 1)) "$n"
	local path
	path=$(balena inspect --format '{{.LogPath}}' rot)
	[ "$(find "$(dirname "$path")" -name "$(basename "$path")*" | wc -l)" -le 3 ]
	run_balena logs --tail 2000 rot
	assert_equal "${lines[-1]}" 5000
}

@test "--log-driver none keeps nothing" {
	run_balena run --name none --network none --log-driver none "$BUSYBOX" echo shown
	assert_output shown
	run_balena -any logs none
	[[ $output != *shown* ]]
}

@test "logs of nobody is an error" {
	run_balena -125 logs nobody
	assert_stderr nobody
}
