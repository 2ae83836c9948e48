#!/usr/bin/env bats
# SIGKILL at any moment: afterwards every container is in a true state and can
# be removed, and nothing is left. KILL_ROUNDS and KILL_SEED repeat a run.

load helpers

setup_file() { file_setup "$BUSYBOX"; }
teardown_file() { file_teardown; }
teardown() { remove_containers; }

# true_states: what ps says is what the kernel says.
true_states() {
	local id state pid
	for id in $(balena ps -aq --no-trunc); do
		read -r state pid < <(balena inspect --format '{{.State.Status}} {{.State.Pid}}' "$id")
		case $state in
		running | paused) [ -d "/proc/$pid" ] || fail "$id is said to be $state, but $pid is gone" ;;
		created | exited | dead | stopped) [ "$pid" = 0 ] || fail "$id is $state with pid $pid" ;;
		*) fail "$id is in the state '$state'" ;;
		esac
	done
}

@test "the CLI dies: the container lives on, and attach finds it" {
	balena run --name c --network none "$BUSYBOX" sh -c 'while :; do echo x; sleep 0.1; done' >"$T/out" &
	eventually test -s "$T/out"
	kill -KILL "$(pgrep -P $! -x balena || echo $!)"
	wait $! || true
	in_state c running
	run_balena stop -t 0 c
	run_balena rm c
}

# monitors prints the pids of this file's monitors.
monitors() {
	local pid
	for pid in $(world_processes); do
		grep -qsz '^balena-monitor' "/proc/$pid/cmdline" && echo "$pid"
	done
	return 0
}

@test "the CLI dies between the record and the monitor: with --rm nothing is left" {
	rootless_skip "root's mounts are counted"
	# the third mount is the rootfs, which comes after the record
	run -137 --separate-stderr strace -f -qq -o /dev/null -e trace=mount -e inject=mount:signal=KILL:when=3 \
		"$BALENA" --root "$ROOT" --runroot "$RUNROOT" run --rm --name between --network none "$BUSYBOX" true
	run_balena ps -a --format '{{.Names}}'
	assert_output between # else it died too early for this test
	run_balena run --rm --network none "$BUSYBOX" true
	run_balena ps -aq
	assert_output ''
	[ -z "$(ls "$RUNROOT/containers/.creating")" ]
}

@test "the monitor dies: the container's true state is found, stop and rm work" {
	run_balena run -d --name m --network none "$BUSYBOX" sleep 1000
	local pid
	pid=$(balena inspect --format '{{.State.Pid}}' m)
	# shellcheck disable=SC2046 # one word a pid
	kill -KILL $(monitors)
	sleep 0.3
	true_states
	run_balena stop -t 1 m
	in_state m exited
	[ ! -d "/proc/$pid" ] || [ "$(awk '/^State/ {print $2}' "/proc/$pid/status")" = Z ]
	run_balena start m
	in_state m running
	run_balena rm -f m
}

@test "the container's process and its monitor die together: exited, and removable" {
	run_balena run -d --name both --network none "$BUSYBOX" sleep 1000
	local pid
	pid=$(balena inspect --format '{{.State.Pid}}' both)
	# shellcheck disable=SC2046
	kill -KILL $(monitors) 2>/dev/null
	kill -KILL "$pid" 2>/dev/null || balena kill both || true
	eventually in_state both exited
	run_balena rm both
}

# victim prints a process of this file's engine, any stage, at random.
victim() {
	local all
	mapfile -t all < <(world_processes)
	[ ${#all[@]} -eq 0 ] || echo "${all[RANDOM % ${#all[@]}]}"
}

@test "killed at random moments, again and again" {
	local rounds=${KILL_ROUNDS:-100} seed=${KILL_SEED:-$((RANDOM * 32768 + RANDOM))} i verb pid
	echo "KILL_SEED=$seed KILL_ROUNDS=$rounds"
	RANDOM=$seed
	for i in $(seq "$rounds"); do
		verb=$((RANDOM % 6))
		case $verb in
		0) balena run --rm --network none "$BUSYBOX" sh -c 'sleep 0.05' >/dev/null 2>&1 & ;;
		1) balena run -d --network none "$BUSYBOX" sleep 1000 >/dev/null 2>&1 & ;;
		2) balena run -d --rm "$BUSYBOX" sleep 1000 >/dev/null 2>&1 & ;;
		3) { balena pull -q "$REGISTRY/busybox:shared$((1 + RANDOM % 8))" && balena rmi -f "$REGISTRY/busybox:shared1"; } >/dev/null 2>&1 & ;;
		4) balena create --network none -v /anon "$BUSYBOX" true >/dev/null 2>&1 & ;;
		5) { id=$(balena ps -q | head -1); [ -z "$id" ] || balena exec "$id" sleep 0.2 || balena restart -t 0 "$id"; } >/dev/null 2>&1 & ;;
		esac
		local job=$!
		sleep "0.$(printf '%03d' $((RANDOM % 300)))"
		pid=$(victim)
		[ -z "$pid" ] || kill -KILL "$pid" 2>/dev/null || true
		if [ $((RANDOM % 3)) -eq 0 ]; then
			pid=$(pgrep -P "$job" -x balena || true)
			[ -z "$pid" ] || kill -KILL "$pid" 2>/dev/null || true
		fi
		timeout 20 tail --pid="$job" -f /dev/null || fail "round $i: verb $verb hangs (seed $seed)"
		if [ $((i % 10)) -eq 0 ]; then
			true_states || fail "round $i (seed $seed)"
			remove_containers || fail "round $i: containers cannot be removed (seed $seed)"
		fi
	done
	true_states
	remove_containers
	run_balena ps -aq
	assert_empty "$output"
	sleep 4 # a sweep spares what a living pull may just have made
	run_balena pull -q "$REGISTRY/busybox:shared1" # sweeps what dead pulls left
	run_balena run --rm --network none "$BUSYBOX" cat /etc/layer2
	assert_output "second layer"
	assert_nothing_leaked
}
