#!/usr/bin/env bats
# The states of a container and the verbs that change them.

load helpers

setup_file() { file_setup "$BUSYBOX"; }
teardown_file() { file_teardown; }
teardown() { remove_containers; }

create() { run_balena create --network none "$@"; }
detached() { run_balena run -d --network none "$@"; }

@test "created, running, exited, started again, removed" {
	create --name c "$BUSYBOX" sh -c 'echo run; sleep 0.3; exit 3'
	assert_match '^[0-9a-f]{64}$'
	in_state c created
	run_balena start c
	assert_output c
	in_state c running
	run_balena wait c
	assert_output 3
	in_state c exited
	run_balena inspect --format '{{.State.ExitCode}} {{.State.Running}} {{.State.Pid}}' c
	assert_output "3 false 0"
	run_balena start c
	run_balena wait c
	run_balena logs c
	assert_output "run
run"
	run_balena rm c
	assert_output c
	run_balena -125 inspect c
}

@test "a container's files survive its restart" {
	create --name keep "$BUSYBOX" sh -c 'cat /file 2>/dev/null; echo once >>/file'
	run_balena start -a keep
	assert_empty "$output"
	run_balena start -a keep
	assert_output once
}

@test "start -a attaches and gives the exit code" {
	create --name a "$BUSYBOX" sh -c 'echo out; echo err >&2; exit 4'
	run_balena -4 start -a a
	assert_output out
	assert_equal "$stderr" err
}

@test "start of a running container is not an error; of none is" {
	detached --name r "$BUSYBOX" sleep 100
	run_balena start r
	run_balena -125 start nobody
	assert_stderr 'no such container|nobody'
}

@test "a command that cannot start leaves the container, with its code" {
	create --name wrong "$BUSYBOX" /no/such
	run_balena -any start wrong
	[ "$status" -ne 0 ]
	assert_stderr '/no/such'
	run_balena inspect --format '{{.State.Status}} {{.State.ExitCode}}' wrong
	assert_output 'created 127' # as docker has it
	run_balena ps -a --format '{{.Status}}' --filter name=wrong
	assert_output Created
	run_balena rm wrong
	run_balena -127 run --name wrong "$BUSYBOX" /no/such
	run_balena inspect --format '{{.State.Status}} {{.State.ExitCode}}' wrong
	assert_output 'created 127'
	run_balena rm wrong
}

@test "stop sends TERM, then KILL after the time given" {
	detached --name soft "$BUSYBOX" sh -c 'trap "exit 5" TERM; echo ready; while :; do sleep 0.1; done'
	eventually log_has soft ready
	run_balena stop soft
	assert_output soft
	run_balena inspect --format '{{.State.ExitCode}}' soft
	assert_output 5
	detached --name hard "$BUSYBOX" sh -c 'trap "" TERM; echo ready; while :; do sleep 0.1; done'
	eventually log_has hard ready
	run_balena stop -t 1 hard
	run_balena inspect --format '{{.State.ExitCode}}' hard
	assert_output 137
	run_balena stop hard # once more is not an error
	run_balena -125 stop nobody
}

@test "restart gives a new process" {
	detached --name re "$BUSYBOX" sh -c 'echo up; exec sleep 100'
	local one
	one=$(balena inspect --format '{{.State.Pid}}' re)
	run_balena restart -t 0 re
	in_state re running
	[ "$(balena inspect --format '{{.State.Pid}}' re)" != "$one" ]
	run_balena logs re
	assert_output "up
up"
}

@test "kill: KILL, another signal by name and number, a dead one is an error" {
	detached --name k "$BUSYBOX" sh -c 'trap "echo hup" HUP; trap "exit 8" USR1; echo ready; while :; do sleep 0.1; done'
	eventually log_has k ready
	run_balena kill -s HUP k
	eventually log_has k hup
	in_state k running
	run_balena kill --signal 10 k
	run_balena wait k
	assert_output 8
	run_balena -125 kill k
	assert_stderr 'not running'
	run_balena start k
	run_balena kill k
	run_balena wait k
	assert_output 137
	run_balena start k
	run_balena -125 kill -s BOGUS k
}

@test "wait answers for several, and for one that has ended" {
	detached --name w1 "$BUSYBOX" sh -c 'exit 1'
	detached --name w2 "$BUSYBOX" sh -c 'sleep 0.5; exit 2'
	run_balena wait w1 w2
	assert_output "1
2"
	run_balena wait w1
	assert_output 1
	run_balena -125 wait nobody
}

@test "rm refuses a running container, -f does not" {
	detached --name busy "$BUSYBOX" sleep 100
	run_balena -any rm busy
	[ "$status" -ne 0 ]
	assert_stderr 'running'
	in_state busy running
	run_balena rm -f busy
	run_balena -any rm busy
	[ "$status" -ne 0 ]
	run_balena rm -f busy # docker: nothing to force is no error
}

@test "rm -v removes anonymous volumes, not named ones" {
	create --name v -v /anon -v named:/named "$BUSYBOX" true
	run_balena start -a v
	run_balena rm -v v
	run ls "$ROOT/volumes"
	assert_output named
}

@test "ps: the running ones; -a all; -q IDs; -n, -l, --filter, --format" {
	detached --name up "$BUSYBOX" sleep 100
	local up=$output
	create --name made "$BUSYBOX" true
	detached --name down "$BUSYBOX" sh -c 'exit 3'
	run_balena wait down
	run_balena ps
	assert_match 'CONTAINER ID +IMAGE +COMMAND +CREATED +STATUS +PORTS +NAMES'
	assert_match "${up:0:12} .*busybox:latest.*sleep 100.*Up .*up"
	refute_match 'down|made'
	run_balena ps -a
	assert_match 'Exited \(3\).*down'
	assert_match 'Created.*made'
	run_balena ps -q --no-trunc
	assert_output "$up"
	run_balena ps -aq
	assert_equal "${#lines[@]}" 3
	run_balena ps -a --filter status=exited --format '{{.Names}}'
	assert_output down
	run_balena ps -a --filter name=ma --format '{{.Names}} {{.Image}}'
	assert_output "made $BUSYBOX"
	run_balena ps -a --filter exited=3 -q
	assert_equal "${#lines[@]}" 1
	run_balena ps -l --format '{{.Names}}'
	assert_output down
	run_balena ps -a --format json
	echo "$output" | jq -es 'flatten | length == 3' >/dev/null
}

@test "a container is found by name, ID and the start of its ID" {
	create --name found "$BUSYBOX" true
	local id=$output
	local ref
	for ref in found "$id" "${id:0:12}" "${id:0:4}"; do
		run_balena inspect --format '{{.Id}}' "$ref"
		assert_output "$id"
	done
	run_balena -125 inspect "${id:0:4}ffff0000"
}

@test "rename" {
	create --name old "$BUSYBOX" true
	create --name taken "$BUSYBOX" true
	run_balena rename old new
	run_balena inspect --format '{{.Name}}' new
	assert_match '^/?new$'
	run_balena -125 inspect old
	run_balena -125 rename new taken
	assert_stderr 'taken'
}

@test "top lists the processes" {
	detached --name t "$BUSYBOX" sleep 4321
	run_balena top t
	assert_match 'PID'
	assert_match 'sleep 4321'
	run_balena stop -t 0 t
	run_balena -125 top t
}

@test "pause freezes, unpause lets go" {
	rootless_skip "the freezer needs a delegated cgroup"
	detached --name p "$BUSYBOX" sh -c 'i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done'
	run_balena pause p
	in_state p paused
	local before
	before=$(balena logs p | tail -1)
	sleep 0.4
	assert_equal "$(balena logs p | tail -1)" "$before"
	run_balena -125 pause p
	run_balena unpause p
	in_state p running
	eventually sh -c "[ \$('$BALENA' --root '$ROOT' --runroot '$RUNROOT' logs p | tail -1) -gt $before ]"
	run_balena -125 unpause p
	run_balena pause p
	run_balena rm -f p # also a paused one
}

@test "inspect has docker's fields" {
	detached --name full -e A=b --label l=1 --restart on-failure:3 -v "$T/home:/mnt" -w /tmp "$BUSYBOX" sleep 100
	run_balena inspect full
	echo "$output" | jq -e '.[0] | .Name and .Id and .Created and .Path == "sleep" and .Args == ["100"] and .State.Status == "running" and .State.Running
		and (.State.Pid > 0) and (.State.StartedAt > "2000") and .Config.Hostname and (.Config.Env | index("A=b")) and .Config.Labels.l == "1"
		and .Config.Image and .HostConfig.RestartPolicy.Name == "on-failure" and .HostConfig.RestartPolicy.MaximumRetryCount == 3
		and .HostConfig.NetworkMode == "none" and (.Mounts[0] | .Type == "bind" and .Destination == "/mnt") and .Config.WorkingDir == "/tmp" and .LogPath'
}

@test "a container whose record says running after a reboot has exited" {
	detached --name boot "$BUSYBOX" sleep 100
	local pid
	pid=$(balena inspect --format '{{.State.Pid}}' boot)
	# a reboot as the store sees it: no process, no run root
	local p
	for p in $(world_processes); do kill -9 "$p" 2>/dev/null || true; done
	kill -9 "$pid" 2>/dev/null || true
	eventually test ! -d "/proc/$pid"
	rm -rf "${RUNROOT:?}"/*
	run_balena inspect --format '{{.State.Status}}' boot
	assert_output exited
	run_balena start boot
	in_state boot running
	run_balena rm -f boot
}
