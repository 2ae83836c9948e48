#!/usr/bin/env bats
# The OCI runtime's command line, as podman, buildah and scripts call it: on
# bundles of its own, without the engine.
# shellcheck shell=bash disable=SC2154

bats_require_minimum_version 1.5.0

setup_file() {
	: "${BALENA:?start the tests with make test or test/run}"
	[ "$(id -u)" -eq 0 ] || return 0 # setup skips: here it would be a failure
	local busybox
	busybox=$(command -v busybox)
	B=$(mktemp -d "$TMPDIR/rt.XXXX")
	export B
	mkdir -p "$B"/rootfs/{bin,dev,etc,proc,sys,tmp}
	cp "$busybox" "$B/rootfs/bin/busybox"
	local name
	for name in cat echo env false grep id ls pwd sh sleep stty true tty; do
		ln -s busybox "$B/rootfs/bin/$name"
	done
	echo plain >"$B/rootfs/etc/plain"
	(cd "$B" && runtime spec)
	jq '.process.terminal = false | .root.readonly = false' "$B/config.json" >"$B/base.json"
}

teardown_file() {
	[ -z "${B-}" ] || rm -rf "$B"
}

setup() {
	[ "$(id -u)" -eq 0 ] || skip "needs root"
	cd "$B" || return 1
	ID=rt-$$-$BATS_TEST_NUMBER
	config '.process.args = ["sleep", "1000"]'
}

teardown() {
	[ -z "${ID-}" ] || runtime delete --force "$ID"
}

runtime() { "$BALENA" balena-runc --root "$B/state" "$@"; }

config() { jq "$1" "$B/base.json" >"$B/config.json"; }

# detached: bats waits for whoever holds its descriptors.
detached() { runtime "$@" >/dev/null 2>&1 </dev/null 3>&-; }

status() { runtime state "$ID" | jq -r .status; }

# fails CODE MESSAGE COMMAND...: exit code, and a message on stderr alone.
fails() {
	local code=$1 message=$2
	shift 2
	run --separate-stderr runtime "$@"
	echo "$* -> $status: $output: $stderr"
	[ "$status" -eq "$code" ]
	[ -z "$output" ]
	[[ $stderr == *"level=error"* && $stderr == *"$message"* ]]
}

@test "run passes streams on, exits with the command's exit code and deletes the container" {
	config '.process.args = ["sh", "-c", "cat; echo err >&2; exit 42"]'
	run --separate-stderr runtime run "$ID" <<<in
	[ "$status" -eq 42 ]
	[ "$output" = in ]
	[ "$stderr" = err ]
	fails 1 "container does not exist" state "$ID"
}

@test "run exits with 128+n when signal n ended the command" {
	config '.process.args = ["sh", "-c", "sh -c \"kill -TERM \\$\\$\"; exit $?"]'
	run runtime run "$ID"
	[ "$status" -eq 143 ]
}

@test "run passes SIGTERM on to the container" {
	config '.process.args = ["sh", "-c", "trap \"exit 9\" TERM; echo ready; while :; do sleep 0.05; done"]'
	"$BALENA" balena-runc --root "$B/state" run "$ID" >"$B/out" 3>&- &
	local pid=$! i rc=0
	for ((i = 0; i < 100; i++)); do
		if grep -q ready "$B/out"; then break; fi
		sleep 0.05
	done
	kill -TERM "$pid"
	wait "$pid" || rc=$?
	[ "$rc" -eq 9 ]
}

@test "create, start, kill and delete go through created, running and stopped" {
	detached create --pid-file "$B/pid" "$ID"
	[ "$(status)" = created ]
	[ "$(runtime state "$ID" | jq .pid)" = "$(cat "$B/pid")" ]
	detached start "$ID"
	[ "$(status)" = running ]
	runtime kill "$ID" KILL
	local i
	for ((i = 0; i < 100; i++)); do
		if [ "$(status)" = stopped ]; then break; fi
		sleep 0.05
	done
	[ "$(status)" = stopped ]
	[ "$(runtime state "$ID" | jq .pid)" = 0 ]
	fails 1 "container not running" kill "$ID" TERM
	runtime kill --all "$ID" TERM
	fails 1 "cannot start a container that has stopped" start "$ID"
	fails 255 "cannot exec in a stopped container" exec "$ID" true
	runtime delete "$ID"
	[ -z "$(runtime list -q)" ]
}

@test "a command that cannot be run is an error of run, and leaves nothing" {
	config '.process.args = ["nope"]'
	fails 1 'exec: \"nope\": executable file not found in $PATH' run "$ID"
	config '.process.args = ["/bin/nope"]'
	fails 1 'exec: \"/bin/nope\": stat /bin/nope: no such file or directory' run "$ID"
	config '.process.args = ["/etc/plain"]'
	fails 1 'exec: \"/etc/plain\": permission denied' run "$ID"
	config '.process.args = ["true"] | .process.cwd = "/etc/plain"'
	fails 1 "not a directory" run "$ID"
	config '.process.args = ["true"] | .root.path = "none"'
	fails 1 "none" run "$ID"
	[ -z "$(runtime list -q)" ]
}

@test "an ID is taken once" {
	detached run -d "$ID"
	fails 1 "runc create failed: container with given ID already exists" create "$ID"
	fails 1 "runc run failed: container with given ID already exists" run "$ID"
	[ "$(status)" = running ]
}

@test "a running container is deleted by force only" {
	detached run -d "$ID"
	fails 1 "cannot delete container $ID that is not stopped: running" delete "$ID"
	[ -z "${ID-}" ] || runtime delete --force "$ID"
	fails 1 "container does not exist" delete "$ID"
	[ -z "${ID-}" ] || runtime delete --force "$ID"
}

@test "exec: exit code, user, folder, environment, and errors as 255" {
	detached run -d "$ID"
	run --separate-stderr runtime exec -u 5:6 -g 7 --cwd /tmp -e A=b,c "$ID" sh -c 'id; pwd; echo $A; exit 3'
	[ "$status" -eq 3 ]
	[ "${lines[0]}" = "uid=5 gid=6 groups=7" ]
	[ "${lines[1]}" = /tmp ]
	[ "${lines[2]}" = b,c ]
	run runtime exec "$ID" ls -d /
	[ "$output" = / ]
	jq '.process | .args = ["echo", "from a file"]' base.json >process.json
	run runtime exec -p process.json "$ID"
	[ "$output" = "from a file" ]
	fails 255 'exec failed: unable to start container process: exec: \"nope\": executable file not found in $PATH' exec "$ID" nope
	fails 255 "exec failed: exec args cannot be empty" exec "$ID"
	fails 255 "cannot allocate tty if runc will detach without setting console socket" exec -d -t "$ID" true
}

@test "exec -t has a terminal" {
	detached run -d "$ID"
	run script -qec "'$BALENA' balena-runc --root '$B/state' exec -t $ID tty" /dev/null
	[[ $output == *"/dev/pts/"* ]]
}

@test "preserved descriptors come first after stdio, and have to be there" {
	config '.process.args = ["sh", "-c", "cat <&3; cat <&4"]'
	run --separate-stderr bash -c "'$BALENA' balena-runc --root '$B/state' run --preserve-fds 2 $ID 3<<<three 4<<<four"
	[ "${lines[*]}" = "three four" ]
	run --separate-stderr bash -c "'$BALENA' balena-runc --root '$B/state' run --preserve-fds 2 $ID 3<&- 4<&-"
	[ "$status" -eq 1 ]
	[[ $stderr == *"unable to stat preserved-fd 0 (of 2)"* ]]
}

@test "pause stops all and resume lets them go on" {
	detached run -d "$ID"
	runtime pause "$ID"
	[ "$(status)" = paused ]
	fails 255 "cannot exec in a paused container" exec "$ID" true
	runtime resume "$ID"
	[ "$(status)" = running ]
	fails 1 "container not paused" resume "$ID"
}

@test "update changes limits, and what it refuses stays" {
	config '.process.args = ["sleep", "1000"] | .linux.resources.pids.limit = 50'
	detached run -d "$ID"
	runtime events --stats "$ID" | jq -e '.data.pids.limit == 50'
	runtime update --pids-limit 60 "$ID"
	runtime update --memory 64m "$ID"
	runtime events --stats "$ID" | jq -e '.data.pids.limit == 60 and .data.memory.usage.limit == 67108864'
	fails 1 "invalid value for memory" update --memory lots "$ID"
	echo '{"pids": {"limit": 70}}' | runtime update -r - "$ID"
	runtime events --stats "$ID" | jq -e '.data.pids.limit == 70 and .data.memory.usage.limit == 67108864'
}

@test "list and ps" {
	detached run -d "$ID"
	[ "$(runtime list -q)" = "$ID" ]
	runtime list --format json | jq -e --arg id "$ID" '.[0] | .id == $id and .status == "running" and .owner == "root"'
	runtime ps --format json "$ID" | jq -e "length == 1 and .[0] == $(runtime state "$ID" | jq .pid)"
	runtime ps "$ID" | grep -q "sleep 1000"
}

@test "the log goes to a file as JSON, and errors to stderr as well" {
	run --separate-stderr runtime --log "$B/log" --log-format json state none
	[ "$status" -eq 1 ]
	[ "$stderr" = "container does not exist" ]
	jq -e '.level == "error" and .msg == "container does not exist"' "$B/log"
}

@test "a container may have a user namespace" {
	config '.linux.namespaces += [{"type": "user"}]
		| .linux.uidMappings = [{"containerID": 0, "hostID": 100000, "size": 1000}]
		| .linux.gidMappings = .linux.uidMappings
		| .process.args = ["cat", "/proc/self/uid_map"]'
	chmod 755 "$B" "$TMPDIR"
	run runtime run "$ID"
	[ "$status" -eq 0 ]
	[[ $output =~ 0\ +100000\ +1000 ]]
}

@test "podman runs containers with it" {
	command -v podman >/dev/null || skip "needs podman"
	ln -sf "$BALENA" "$B/balena-runc"
	cat >"$B/containers.conf" <<-END
		[containers]
		default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
	END
	cat >"$B/storage.conf" <<-END
		[storage]
		driver = "vfs"
		graphroot = "$B/graph"
		runroot = "$B/run"
	END
	export CONTAINERS_CONF=$B/containers.conf CONTAINERS_STORAGE_CONF=$B/storage.conf
	tar -C "$B/rootfs" -c . | podman import - rt:1
	run --separate-stderr podman --runtime "$B/balena-runc" --cgroup-manager cgroupfs run --rm --network none rt:1 sh -c 'echo hi; exit 5'
	[ "$status" -eq 5 ]
	[ "$output" = hi ]
	run -127 podman --runtime "$B/balena-runc" --cgroup-manager cgroupfs run --rm --network none rt:1 nope
	podman rmi -af
}
