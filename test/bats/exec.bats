#!/usr/bin/env bats
# balena exec: another process in a running container.

load helpers

setup_file() {
	file_setup "$BUSYBOX"
	balena run -d --name main --network none -e FROM=run -w /tmp "$BUSYBOX" sleep 1000
}
teardown_file() { file_teardown; }

@test "stdout, stderr, stdin and exit code" {
	run_balena -6 exec main sh -c 'echo out; echo err >&2; exit 6'
	assert_output out
	assert_equal "$stderr" err
	run_balena exec -i main cat <<<"typed"
	assert_output typed
}

@test "it is in the container: its pids, files, environment, folder" {
	run_balena exec main sh -c 'tr "\0" " " </proc/1/cmdline; echo; cat /etc/layer2; echo $FROM; pwd'
	assert_output "sleep 1000 
second layer
run
/tmp"
}

@test "-e, --env-file, -w, -u, --privileged" {
	echo FILE=yes >"$T/env"
	run_balena exec -e A=1 --env-file "$T/env" -w / -u app main sh -c 'echo $A $FILE $(pwd) $(id -u)'
	assert_output "1 yes / 1000"
	run_balena exec --privileged main grep -E '^CapEff' /proc/self/status
	refute_match '(800405fb|a80425fb)$'
	run_balena exec main grep -E '^CapEff' /proc/self/status
	assert_match '(800405fb|a80425fb)$'
}

@test "-d returns at once" {
	run_balena exec -d main sh -c 'sleep 0.3; touch /tmp/detached'
	eventually "$BALENA" --root "$ROOT" --runroot "$RUNROOT" exec main test -e /tmp/detached
}

@test "-it gives a terminal" {
	on_terminal 'expect #
send stty size; exit 7\r' "$BALENA" --root "$ROOT" --runroot "$RUNROOT" exec -it main sh
	assert_equal "$status" 7
	assert_match '24 80'
}

@test "126 and 127, as run" {
	run_balena -126 exec main /etc/passwd
	run_balena -127 exec main no-such-command
	assert_stderr 'no-such-command'
}

@test "128+n when a signal ends it" {
	run_balena -137 exec main sh -c 'kill -9 $$'
}

@test "into a stopped container or none is an error" {
	run_balena create --name still "$BUSYBOX" true
	run_balena -125 exec still true
	assert_stderr 'not running'
	run_balena -125 exec nobody true
	assert_stderr nobody
	run_balena rm still
}

@test "when the container stops, what was executed ends" {
	run_balena run -d --name short --network none "$BUSYBOX" sleep 1000
	balena exec short sleep 999 &
	local pid=$! rc=0
	sleep 0.5
	run_balena stop -t 0 short
	wait "$pid" || rc=$?
	assert_equal "$rc" 137
	run_balena rm short
}

@test "ten at once" {
	local i pids=()
	for i in $(seq 10); do
		balena exec main sh -c "echo $i; exit $i" >"$T/exec.$i" &
		pids[i]=$!
	done
	for i in $(seq 10); do
		local rc=0
		wait "${pids[i]}" || rc=$?
		assert_equal "$rc" "$i"
		assert_equal "$(cat "$T/exec.$i")" "$i"
	done
}
