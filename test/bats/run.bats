#!/usr/bin/env bats
# balena run: each flag does what docker's and podman's does.

load helpers

setup_file() { file_setup "$BUSYBOX" "$REGISTRY/busybox:config"; }
teardown_file() { file_teardown; }
teardown() { remove_containers; }

run_rm() { # [-STATUS] ARGS...: run --rm without a network, which is quick
	local want=()
	case ${1-} in -any | -[0-9]*) want=("$1"); shift ;; esac
	run_balena "${want[@]}" run --rm --network none "$@"
}

# ---- streams and exit codes ------------------------------------------------

@test "stdout and stderr come apart, stdin goes in with -i only" {
	run_rm "$BUSYBOX" sh -c 'echo out; echo err >&2'
	assert_output out
	assert_equal "$stderr" err
	run_rm -i "$BUSYBOX" cat <<<"typed"
	assert_output typed
	run_rm "$BUSYBOX" cat <<<"typed"
	assert_output ""
}

@test "a megabyte through stdin and stdout arrives whole" {
	head -c 1000000 /dev/urandom >"$T/blob"
	balena run -i --rm --network none "$BUSYBOX" cat <"$T/blob" >"$T/back"
	cmp "$T/blob" "$T/back"
}

@test "the exit code is the container's" {
	run_rm -7 "$BUSYBOX" sh -c 'exit 7'
	run_rm -137 --init "$BUSYBOX" sh -c 'kill -9 $$'
	run_rm "$BUSYBOX" true
	run_rm -1 "$BUSYBOX" false
}

@test "125 for the engine, 126 for what cannot run, 127 for what is not there" {
	run_rm -125 --no-such-flag "$BUSYBOX" true
	assert_stderr 'unknown flag'
	run_rm -126 "$BUSYBOX" /etc/passwd
	assert_stderr 'permission denied'
	run_rm -126 "$BUSYBOX" /etc
	run_rm -127 "$BUSYBOX" no-such-command
	assert_stderr 'no-such-command'
	run_rm -127 "$BUSYBOX" /no/such/command
	run_balena ps -aq
	assert_empty "$output"
}

@test "an image that is nowhere is an error before a container is made" {
	run_rm -125 "$REGISTRY/nonesuch:1" true
	assert_stderr 'nonesuch'
	run_balena ps -aq
	assert_empty "$output"
}

@test "--pull: never, missing, always" {
	run_rm -125 --pull never "$REGISTRY/busybox:plain" true
	run_rm --pull missing "$REGISTRY/busybox:plain" true
	run_rm --pull never "$REGISTRY/busybox:plain" true
	run_rm --pull always -q "$REGISTRY/busybox:plain" echo hi
	assert_output hi
	run_balena rmi "$REGISTRY/busybox:plain"
	run_rm -125 --pull bogus "$BUSYBOX" true
}

@test "run of an image that is not here pulls it; only the container writes to stdout" {
	run_rm "$REGISTRY/busybox:zstd" echo hi
	assert_output hi
	run_balena rmi "$REGISTRY/busybox:zstd"
}

@test "--platform picks from the index" {
	run_balena pull -q --platform linux/arm64 "$REGISTRY/busybox:multi"
	run_rm --pull always --platform linux/amd64 "$REGISTRY/busybox:multi" cat /etc/arch
	assert_output amd64
	run_balena rmi -f "$REGISTRY/busybox:multi"
}

# ---- the process -----------------------------------------------------------

@test "the image's entrypoint, command, environment, user and folder apply" {
	run_rm "$REGISTRY/busybox:config"
	assert_output "entry default"
	run_rm "$REGISTRY/busybox:config" other
	assert_output "entry other"
	run_rm --entrypoint sh "$REGISTRY/busybox:config" -c 'echo $FROM_IMAGE $COLOR $(id -u) $(pwd) $HOME'
	assert_output "yes blue 1000 /home/app /home/app"
	run_rm --entrypoint "" "$REGISTRY/busybox:config" echo bare
	assert_output bare
}

@test "-e, -e from the environment, --env-file; later ones win" {
	printf '# comment\nONE=file\nTWO=two words\nFROM_HOST\n' >"$T/env"
	FROM_HOST=host run_rm --env-file "$T/env" -e ONE=flag -e FROM_HOST -e EMPTY= "$BUSYBOX" sh -c 'echo "$ONE|$TWO|$FROM_HOST|${EMPTY-unset}"'
	assert_output "flag|two words|host|"
	run_rm -e COLOR=red --entrypoint sh "$REGISTRY/busybox:config" -c 'echo $COLOR'
	assert_output red
	run_rm -125 --env-file "$T/none" "$BUSYBOX" true
}

@test "-w makes the folder when it is missing" {
	run_rm -w /made/here "$BUSYBOX" pwd
	assert_output /made/here
}

@test "-u takes names, numbers and groups" {
	run_rm -u app "$BUSYBOX" sh -c 'id -u; id -g; id -G; echo $HOME'
	assert_output "1000
1000
1000 10 1001
/home/app"
	run_rm -u 1234:55 "$BUSYBOX" sh -c 'id -u; id -g'
	assert_output "1234
55"
	run_rm -u app:wheel "$BUSYBOX" id -g
	assert_output 10
	run_rm -125 -u nobody-here "$BUSYBOX" true
	assert_stderr 'nobody-here'
	run_rm --group-add 77 "$BUSYBOX" id -G
	assert_match '77'
}

@test "--hostname is the host's name and in /etc/hosts" {
	run_rm --hostname device.example "$BUSYBOX" sh -c 'hostname; cat /etc/hostname; grep -c device.example /etc/hosts'
	[[ ${lines[0]} == device.example && ${lines[1]} == device.example ]] || fail "$output"
	run_balena run -d --name idhost "$BUSYBOX" hostname
	local id=$output
	run_balena wait idhost
	run_balena logs idhost
	assert_output "${id:0:12}"
}

@test "--init reaps and forwards" {
	run_rm --init "$BUSYBOX" sh -c 'tr "\0" " " </proc/1/cmdline'
	assert_match 'init'
	run_rm -3 --init "$BUSYBOX" sh -c 'exit 3'
}

@test "-it gives a terminal of the right size" {
	on_terminal 'expect #
send stty size; tty; echo end-$((1+1))\r
expect end-2
resize 11 44
send sleep 1; stty size\r
expect 11 44
send exit 5\r' "$BALENA" --root "$ROOT" --runroot "$RUNROOT" run --rm -it --network none "$BUSYBOX" sh
	assert_equal "$status" 5
	assert_match '24 80'
	assert_match '/dev/(pts/0|console)'
}

@test "-t alone gives the command a terminal, whatever stdin is" {
	run_rm -t "$BUSYBOX" sh -c 'test -t 1 && echo terminal'
	assert_match terminal
}

@test "Ctrl-C in an -it session reaches the container's process" {
	on_terminal 'expect #
send (echo g$((1))o >/tmp/f; exec tail -f /tmp/f)\r
expect g1o
send \x03
expect #
send exit $?\r' "$BALENA" --root "$ROOT" --runroot "$RUNROOT" run --rm -it --network none "$BUSYBOX" sh
	assert_equal "$status" 130
}

@test "signals that a shell in the background or posix_spawn ignores are not ignored in the container" {
	local cmd=("$BALENA" --root "$ROOT" --runroot "$RUNROOT" run --rm --network none "$BUSYBOX" grep SigIgn /proc/self/status)
	run bash -c 'trap "" INT QUIT HUP RTMAX; exec "$@"' - "${cmd[@]}"
	assert_equal "$status" 0
	assert_match "SigIgn:.0000000000000000"
	run python3 -c 'import os, sys; pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ); sys.exit(os.waitpid(pid, 0)[1])' "${cmd[@]}"
	assert_equal "$status" 0
	assert_match "SigIgn:.0000000000000000"
}

@test "signals to the CLI are passed on" {
	balena run --name sig --network none "$BUSYBOX" sh -c 'trap "echo got TERM; exit 9" TERM; echo ready; while :; do sleep 0.1; done' >"$T/out" &
	local pid=$! rc=0
	eventually grep -q ready "$T/out"
	kill -TERM "$(pgrep -P "$pid" -x balena || echo "$pid")"
	wait "$pid" || rc=$?
	assert_equal "$rc" 9
	grep -q 'got TERM' "$T/out"
}

# ---- naming and life -------------------------------------------------------

@test "-d prints the ID and returns; the command goes on" {
	run_balena run -d --network none "$BUSYBOX" sleep 100
	assert_match '^[0-9a-f]{64}$'
	in_state "$output" running
	run_balena rm -f "$output"
}

@test "--rm leaves neither container nor layer" {
	local before
	before=$(find "$ROOT/overlay" -mindepth 1 -maxdepth 1 | wc -l)
	run_rm "$BUSYBOX" true
	run_balena run -d --rm --network none "$BUSYBOX" true
	none_left() { [ -z "$(balena ps -aq)" ]; }
	eventually none_left
	assert_equal "$(find "$ROOT/overlay" -mindepth 1 -maxdepth 1 | wc -l)" "$before"
}

@test "a second container of the same name is refused, and names the first" {
	run_balena create --name twin "$BUSYBOX" true
	local first=$output
	run_balena -125 run --name twin "$BUSYBOX" true
	assert_stderr 'twin'
	assert_stderr 'in use'
	assert_stderr "${first:0:12}"
	run_balena -125 create --name 'bad name!' "$BUSYBOX" true
}

@test "--cidfile holds the ID, and is not written over" {
	run_balena run --rm --network none --cidfile "$T/cid" "$BUSYBOX" true
	[[ $(cat "$T/cid") =~ ^[0-9a-f]{64}$ ]]
	run_balena -125 run --rm --network none --cidfile "$T/cid" "$BUSYBOX" true
	assert_stderr 'cid'
	rm "$T/cid"
}

@test "--label is shown and filters" {
	run_balena create --label a=1 --label b "$BUSYBOX" true
	local id=$output
	run_balena inspect --format '{{index .Config.Labels "a"}}' "$id"
	assert_output 1
	run_balena ps -aq --no-trunc --filter label=a=1
	assert_output "$id"
	run_balena ps -aq --filter label=a=2
	assert_empty "$output"
}

@test "--restart on-failure tries again, as often as it may" {
	run_balena run -d --name again --network none --restart on-failure:2 "$BUSYBOX" sh -c 'echo try; exit 4'
	tried() { [ "$(balena inspect --format '{{.RestartCount}} {{.State.Status}}' again)" = "2 exited" ]; }
	eventually -t 30 tried
	run_balena logs again
	assert_equal "$(grep -c try <<<"$output")" 3
	run_balena inspect --format '{{.RestartCount}} {{.State.ExitCode}}' again
	assert_output "2 4"
	run_rm -125 --restart always "$BUSYBOX" true # --rm and --restart exclude each other
}

@test "--restart always starts it again, stop ends that" {
	run_balena run -d --name forever --network none --restart always "$BUSYBOX" sh -c 'echo try; sleep 0.2'
	eventually -t 30 sh -c "[ \$('$BALENA' --root '$ROOT' --runroot '$RUNROOT' logs forever | grep -c try) -ge 2 ]"
	run_balena stop -t 1 forever
	sleep 1
	in_state forever exited
}

@test "--stop-signal and --stop-timeout are stop's" {
	run_balena run -d --name polite --network none --stop-signal USR2 "$BUSYBOX" sh -c 'trap "exit 6" USR2; echo ready; while :; do sleep 0.1; done'
	eventually log_has polite ready
	run_balena stop polite
	run_balena inspect --format '{{.State.ExitCode}}' polite
	assert_output 6
	run_balena run -d --name stubborn --network none --stop-timeout 1 "$BUSYBOX" sh -c 'trap "" TERM; echo ready; while :; do sleep 0.1; done'
	eventually log_has stubborn ready
	local start=$SECONDS
	run_balena stop stubborn
	[ $((SECONDS - start)) -le 6 ]
	run_balena inspect --format '{{.State.ExitCode}}' stubborn
	assert_output 137
}

# ---- files -----------------------------------------------------------------

@test "-v binds folders, ro and rw, relative and missing" {
	mkdir -p "$T/host" && echo host >"$T/host/file"
	run_rm -v "$T/host:/mnt" "$BUSYBOX" sh -c 'cat /mnt/file; echo new >/mnt/new'
	assert_output host
	assert_equal "$(cat "$T/host/new")" new
	run_rm -v "$T/host:/mnt:ro" "$BUSYBOX" sh -c 'touch /mnt/x 2>&1 || echo denied'
	assert_match 'Read-only file system'
	run_rm -v "$T/made:/mnt" "$BUSYBOX" sh -c 'ls -d /mnt'
	[ -d "$T/made" ]
	(cd "$T" && balena run --rm --network none -v ./host:/mnt "$BUSYBOX" cat /mnt/file)
	run_rm -125 -v "$T/host" -v relative:/path:bogus "$BUSYBOX" true
}

@test "-v NAME: a volume keeps its content, and starts with the image's" {
	run_rm -v vol1:/data "$BUSYBOX" sh -c 'cat /data/file; echo mine >/data/mine'
	assert_output "from the image"
	run_rm -v vol1:/data "$BUSYBOX" cat /data/mine
	assert_output mine
}

@test "an anonymous volume goes with --rm, and the image's VOLUME is one" {
	run_rm -v /anon "$BUSYBOX" sh -c 'echo x >/anon/x; grep -c " /anon " /proc/self/mountinfo'
	assert_output 1
	run_rm --entrypoint sh "$REGISTRY/busybox:config" -c 'grep -c " /data " /proc/self/mountinfo; cat /data/file'
	assert_output "1
from the image"
	assert_empty "$(find "$ROOT/volumes" -mindepth 1 -maxdepth 1 ! -name vol1 2>/dev/null)"
}

@test "--mount: bind, volume, tmpfs" {
	mkdir -p "$T/host" && echo host >"$T/host/file"
	run_rm --mount "type=bind,source=$T/host,target=/mnt,readonly" "$BUSYBOX" sh -c 'cat /mnt/file; touch /mnt/x 2>/dev/null || echo ro'
	assert_output "host
ro"
	run_rm --mount type=volume,src=vol2,dst=/v "$BUSYBOX" touch /v/x
	run_rm --mount type=tmpfs,destination=/t,tmpfs-size=1m "$BUSYBOX" sh -c 'df -k /t | tail -1'
	assert_match ' 1024 '
	run_rm -125 --mount type=bind,source=/no/such/path,target=/mnt "$BUSYBOX" true
	assert_stderr '/no/such/path'
	run_rm -125 --mount type=bogus,target=/mnt "$BUSYBOX" true
}

@test "--tmpfs with options; --shm-size" {
	run_rm --tmpfs /t:size=2m,mode=1770 "$BUSYBOX" sh -c 'grep " /t " /proc/mounts; stat -c %a /t'
	assert_match 'tmpfs .*size=2048k'
	assert_match '1770'
	run_rm --shm-size 3m "$BUSYBOX" sh -c 'df -k /dev/shm | tail -1'
	assert_match ' 3072 '
}

@test "--read-only: the root is, tmpfs and volumes are not" {
	run_rm --read-only --tmpfs /t "$BUSYBOX" sh -c 'touch /x 2>/dev/null || echo ro; touch /t/x && echo rw; touch /dev/shm/x && echo shm'
	assert_output "ro
rw
shm"
}

@test "--device adds a node with its rights" {
	run_rm --device /dev/null:/dev/mine:rw "$BUSYBOX" sh -c 'echo x >/dev/mine && ls -l /dev/mine | cut -c1'
	assert_output c
	run_rm -any --device /dev/no-such "$BUSYBOX" true
	[ "$status" -ge 125 ]
	assert_stderr 'no-such'
}

# ---- isolation -------------------------------------------------------------

@test "the default capabilities are podman's eleven; --cap-add, --cap-drop, ALL" {
	run_rm "$BUSYBOX" grep CapEff /proc/self/status
	assert_match '00000000(800405fb|a80425fb)$'
	run_rm --cap-drop ALL "$BUSYBOX" grep CapEff /proc/self/status
	assert_match '0000000000000000$'
	run_rm --cap-drop ALL --cap-add NET_BIND_SERVICE "$BUSYBOX" grep CapEff /proc/self/status
	assert_match '0000000000000400$'
	run_rm --cap-add cap_sys_time "$BUSYBOX" grep CapEff /proc/self/status
	assert_match '00000000(820405fb|aa0425fb)$'
	run_rm -125 --cap-add NO_SUCH "$BUSYBOX" true
	assert_stderr 'NO_SUCH'
	run_rm -u 1000 "$BUSYBOX" grep CapEff /proc/self/status
	assert_match '0000000000000000$'
}

@test "--security-opt: no-new-privileges, seccomp" {
	run_rm "$BUSYBOX" grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status
	assert_match 'NoNewPrivs:.0'
	assert_match 'Seccomp:.2'
	run_rm --security-opt no-new-privileges "$BUSYBOX" grep NoNewPrivs /proc/self/status
	assert_match '1$'
	run_rm --security-opt seccomp=unconfined "$BUSYBOX" grep '^Seccomp:' /proc/self/status
	assert_match '0$'
	echo '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}' >"$T/seccomp.json"
	run_rm --security-opt "seccomp=$T/seccomp.json" "$BUSYBOX" sh -c 'mkdir /x 2>&1 || echo denied'
	assert_match denied
	run_rm -125 --security-opt "seccomp=$T/none.json" "$BUSYBOX" true
	run_rm -125 --security-opt bogus "$BUSYBOX" true
}

@test "/proc and /sys are masked and read-only, but not with --privileged" {
	run_rm "$BUSYBOX" sh -c 'cat /proc/timer_list 2>/dev/null | wc -c; ls /sys/firmware | wc -l; touch /sys/x 2>/dev/null || echo sysro; echo 1 2>/dev/null >/proc/sysrq-trigger || echo procro'
	assert_output "0
0
sysro
procro"
	run_rm --privileged "$BUSYBOX" sh -c 'grep -cE "^Seccomp:.0" /proc/self/status; grep CapEff /proc/self/status; ls /dev | wc -l'
	[[ ${lines[0]} == 1 ]]
	[ "${lines[2]}" -gt 15 ]
}

@test "each container has its own pid, mount, ipc and uts namespaces" {
	run_rm "$BUSYBOX" sh -c 'ps | wc -l; for n in pid mnt ipc uts; do readlink /proc/self/ns/$n; done'
	local n
	for n in pid mnt ipc uts; do
		[[ $output != *"$(readlink /proc/self/ns/$n)"* ]] || fail "shares $n"
	done
	[ "${lines[0]}" -le 5 ]
}

@test "--ulimit" {
	run_rm --ulimit nofile=100:200 "$BUSYBOX" sh -c 'ulimit -Sn; ulimit -Hn'
	assert_output "100
200"
	run_rm -125 --ulimit nofile=200:100 "$BUSYBOX" true
	run_rm -125 --ulimit bogus=1 "$BUSYBOX" true
}

@test "--sysctl of the container's namespaces; others are refused" {
	run_rm --sysctl net.ipv4.ip_forward=1 --sysctl kernel.msgmax=9000 "$BUSYBOX" cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax
	assert_output "1
9000"
	run_rm -any --sysctl vm.swappiness=1 "$BUSYBOX" true
	[ "$status" -ge 125 ]
	assert_stderr 'vm.swappiness'
}

@test "--memory, --cpus, --pids-limit reach the cgroup" {
	rootless_skip "no limits without a delegated cgroup v2"
	[ -d /sys/fs/cgroup/memory ] || skip "needs cgroup v1 here"
	run_balena run -d --name limited --network none --memory 32m --cpus 0.5 --pids-limit 20 "$BUSYBOX" sleep 100
	local pid memory pids cpu
	pid=$(balena inspect --format '{{.State.Pid}}' limited)
	memory=/sys/fs/cgroup/memory$(sed -n 's/^[0-9]*:memory://p' "/proc/$pid/cgroup")
	pids=/sys/fs/cgroup/pids$(sed -n 's/^[0-9]*:pids://p' "/proc/$pid/cgroup")
	cpu=/sys/fs/cgroup/cpu$(sed -nE 's/^[0-9]*:(cpu|cpu,cpuacct|cpuacct,cpu)://p' "/proc/$pid/cgroup")
	assert_equal "$(cat "$memory/memory.limit_in_bytes")" $((32 << 20))
	assert_equal "$(cat "$pids/pids.max")" 20
	assert_equal "$(cat "$cpu/cpu.cfs_quota_us")" 50000
	run_balena rm -f limited
}

@test "a container that takes more memory than it may is killed, and inspect says so" {
	rootless_skip "no limits without a delegated cgroup v2"
	run_balena -137 run --name oom --network none --memory 16m "$BUSYBOX" sh -c 'dd if=/dev/zero of=/dev/shm/x bs=1M count=60; cat /dev/zero | tail'
	run_balena inspect --format '{{.State.OOMKilled}}' oom
	assert_output true
}

@test "rootless without a delegated cgroup: a limit warns and the container runs" {
	root_skip "rootless only"
	run_rm --memory 32m "$BUSYBOX" echo ran
	assert_output ran
	assert_stderr 'limit|cgroup'
}

@test "--userns: host, and keep-id for a rootless user" {
	run_rm --userns host "$BUSYBOX" id -u
	assert_output 0
	root_skip "keep-id is for rootless"
	run_rm --userns keep-id "$BUSYBOX" id -u
	assert_output "$(id -u)"
}

@test "a rootless container's root is the user outside" {
	root_skip "rootless only"
	mkdir -p "$T/mine"
	run_rm -v "$T/mine:/mnt" "$BUSYBOX" touch /mnt/x
	assert_equal "$(stat -c %u "$T/mine/x")" "$(id -u)"
	run_rm "$BUSYBOX" cat /proc/self/uid_map
	assert_match "0 +$(id -u) +1"
}

@test "a default rlimit that the process may not have is clamped, not an error" {
	run bash -c "ulimit -Hn 1000; '$BALENA' --root '$ROOT' --runroot '$RUNROOT' run --rm --network none '$BUSYBOX' sh -c 'ulimit -Hn' 3>&-"
	echo "$output"
	assert_equal "$status" 0
}
