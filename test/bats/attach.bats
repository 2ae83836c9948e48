#!/usr/bin/env bats
# balena attach: to a container's streams and its terminal.

load helpers

setup_file() { file_setup "$BUSYBOX"; }
teardown_file() { file_teardown; }
teardown() { remove_containers; }

@test "attach sees what comes from now on, and ends with the exit code" {
	run_balena run -d --name a --network none "$BUSYBOX" sh -c 'echo before; sleep 1; echo after; echo err >&2; exit 4'
	eventually log_has a before
	run_balena -4 attach a
	assert_output after
	assert_equal "$stderr" err
}

@test "attach types into a container with -i" {
	run_balena run -d -i --name in --network none "$BUSYBOX" sh -c 'read x; echo got $x'
	run bash -c "(sleep 0.5; echo word) | '$BALENA' --root '$ROOT' --runroot '$RUNROOT' attach in 3>&-"
	assert_output "got word"
}

@test "--no-stdin types nothing" {
	run_balena run -d -i --name ni --network none "$BUSYBOX" sh -c 'sleep 1; echo end'
	run_balena attach --no-stdin ni <<<"word"
	assert_output end
}

@test "two attached see the same" {
	run_balena run -d --name two --network none "$BUSYBOX" sh -c 'sleep 1.5; echo both'
	balena attach two >"$T/one" &
	run_balena attach two
	wait $!
	assert_output both
	assert_equal "$(cat "$T/one")" both
}

@test "the detach keys leave the container running; attach comes back to its terminal" {
	run_balena run -d -it --name d --network none "$BUSYBOX" sh
	on_terminal 'send echo x$((40+2))x\r
expect x42x
send \x10\x11' "$BALENA" --root "$ROOT" --runroot "$RUNROOT" attach d
	assert_equal "$status" 0
	in_state d running
	on_terminal 'send stty size; exit 3\r' "$BALENA" --root "$ROOT" --runroot "$RUNROOT" attach d
	assert_equal "$status" 3
	assert_match '24 80'
}

@test "run -it can be left by the detach keys, --detach-keys changes them" {
	on_terminal 'expect #
send \x01d' "$BALENA" --root "$ROOT" --runroot "$RUNROOT" run -it --name keys --detach-keys ctrl-a,d --network none "$BUSYBOX" sh
	assert_equal "$status" 0
	in_state keys running
}

@test "a terminal that hangs up does not end the container" {
	on_terminal 'expect #
close' "$BALENA" --root "$ROOT" --runroot "$RUNROOT" run -it --name hang --network none "$BUSYBOX" sh
	in_state hang running
}

@test "a reader that stops reading does not stop the container" {
	run_balena run -d --name flood --network none "$BUSYBOX" sh -c 'sleep 1; seq 1 200000; echo done >/dev/shm/done; sleep 100'
	# shellcheck disable=SC2216 # that it does not read is the point
	balena attach flood | sleep 30 &
	local job=$!
	eventually -t 30 "$BALENA" --root "$ROOT" --runroot "$RUNROOT" exec flood test -e /dev/shm/done
	kill "$job" 2>/dev/null || true
}

@test "attach to what does not run is an error" {
	run_balena create --name still "$BUSYBOX" true
	run_balena -125 attach still
	assert_stderr 'not running|running'
	run_balena -125 attach nobody
}
