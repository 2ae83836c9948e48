#!/usr/bin/env bats
# balena run: what docs/run-options.md says beyond run.bats.

load helpers

setup_file() { file_setup "$BUSYBOX"; }
teardown_file() { file_teardown; }
teardown() { remove_containers; }

run_rm() { # [-STATUS] ARGS...
	local want=()
	case ${1-} in -any | -[0-9]*) want=("$1"); shift ;; esac
	run_balena "${want[@]}" run --rm --network none "$@"
}

@test "a value that makes no sense is one line and 125, before anything is made" {
	local args
	for args in '-v a/b:/c' '-v /a:b' '-v /a:/b:bogus' '--mount type=bind,src=/a' '--mount type=bogus,dst=/b' \
		'--tmpfs /t:bogus' '-p 99999:80' '-m 1k' '-m lots' '--cpus 0' '--cpus x' '--restart sometimes' '--pull often' \
		'--security-opt bogus' '--cap-add bogus' '--sysctl kernel.panic=1' '--device /dev/no-such' '--device x' \
		'--ulimit bogus=1' '--stop-signal SIGFOO' '--userns bogus' '--pid bogus' '--network bogus' '--oom-score-adj 2000' \
		'--env-file /no/such' '-e =x' '--dns x' '--add-host x' '--mac-address x' '--restart always' '-u no-such-user'; do
		[ "$args" != '--cpus 0' ] || continue # docker's for no limit
		# shellcheck disable=SC2086 # several words
		run_rm -125 $args "$BUSYBOX" true
		assert_equal "$(grep -c '^Error: ' <<<"$stderr")" 1
		assert_empty "$output"
	done
	assert_empty "$(balena ps -aq)"
}

@test "an empty volume gets the image's content whenever a container starts with it" {
	run_rm -v again:/nothing-there "$BUSYBOX" true
	run_rm -v again:/data "$BUSYBOX" sh -c 'cat /data/file; rm -r /data/*'
	assert_output "from the image"
	run_rm -v again:/data:nocopy "$BUSYBOX" ls /data
	assert_output ""
	run_rm -v again:/data "$BUSYBOX" cat /data/file
	assert_output "from the image"
}

@test ":U gives a folder to the container's user, and follows no link" {
	mkdir -p "$T/give/sub"
	echo x >"$T/give/sub/file"
	echo y >"$T/outside"
	ln -s "$T/outside" "$T/give/link"
	run_rm -u 1234:1235 -v "$T/give:/mnt:U" "$BUSYBOX" sh -c 'stat -c %u:%g /mnt /mnt/sub/file; touch /mnt/new'
	assert_output "1234:1235
1234:1235"
	assert_equal "$(stat -c %u "$T/outside")" "$(id -u)"
	run_rm -v "$T/give:/mnt:U" "$BUSYBOX" stat -c %u /mnt/new # and back, for whoever cleans up
	assert_output 0
}

@test "nested mounts appear, whatever the order they are given in" {
	mkdir -p "$T/outer" "$T/inner"
	touch "$T/outer/o" "$T/inner/i"
	run_rm -v "$T/inner:/a/b" --tmpfs /a/b/c -v "$T/outer:/a" "$BUSYBOX" sh -c 'ls /a/o /a/b/i; grep -c " /a/b/c tmpfs " /proc/mounts'
	assert_output "/a/b/i
/a/o
1"
	run_rm -125 --tmpfs /a -v /a "$BUSYBOX" true
	assert_stderr 'duplicate mount point: /a'
}

@test "mounts travel with rshared and rslave" {
	rootless_skip "the test mounts on the host"
	mkdir -p "$T/prop"
	run unshare -m bash -c "
		mount --make-rprivate / && mount --bind '$T/prop' '$T/prop' && mount --make-shared '$T/prop'
		b() { '$BALENA' --root '$ROOT' --runroot '$RUNROOT' \"\$@\"; }
		b run --rm --network none --privileged -v '$T/prop:/p:rshared' '$BUSYBOX' sh -c 'mkdir -p /p/in /p/out; mount -t tmpfs in /p/in; touch /p/in/file' 3>&-
		ls '$T/prop/in'; umount '$T/prop/in'
		b run -d --name slave --network none -v '$T/prop:/p:rslave' '$BUSYBOX' sh -c 'until [ -e /p/out/file ]; do sleep 0.1; done; echo seen' 3>&- >/dev/null
		mount -t tmpfs out '$T/prop/out'; touch '$T/prop/out/file'
		b wait slave; b logs slave; b rm slave"
	echo "$output"
	assert_output "file
0
seen
slave"
}

@test "--pid and --ipc container:NAME join, host is the host's" {
	balena run -d --name joined --network none "$BUSYBOX" sleep 100
	run_rm --pid container:joined --ipc container:joined "$BUSYBOX" sh -c 'tr "\0" " " </proc/1/cmdline; cut -d" " -f1 /proc/self/stat >/dev/null'
	assert_output "sleep 100 "
	run_rm -125 --pid container:no-such "$BUSYBOX" true
	assert_stderr 'no such container'
	run_rm --uts host "$BUSYBOX" hostname
	assert_output "$(hostname)"
	run_rm -125 --uts host --hostname x "$BUSYBOX" true
}

@test "unmask, systempaths, read-only paths" {
	run_rm "$BUSYBOX" sh -c 'grep -c " /proc/keys " /proc/mounts'
	assert_output 1
	run_rm --security-opt unmask=/proc/keys "$BUSYBOX" sh -c 'grep -c " /proc/keys " /proc/mounts || true'
	assert_output 0
	run_rm --security-opt systempaths=unconfined "$BUSYBOX" sh -c 'grep -c " /proc/[a-z]" /proc/mounts || true'
	assert_output 0
	run_rm --security-opt mask=/etc/passwd "$BUSYBOX" cat /etc/passwd
	assert_output ""
}

@test "--userns: private mappings, keep-id as another user, nomap, auto" {
	if ! is_rootless; then
		chmod 700 "$T"
		run_rm -125 --uidmap 0:200000:2000 "$BUSYBOX" true
		assert_stderr "$T may not be searched by other users"
		chmod 711 "$T"
		run_rm --uidmap 0:200000:2000 "$BUSYBOX" sh -c 'cat /proc/self/uid_map; touch /x && stat -c %u /x /etc/hosts'
		assert_match '0 +200000 +2000'
		assert_match $'0\n0$'
		return
	fi
	run_rm --userns keep-id:uid=7,gid=8 "$BUSYBOX" sh -c 'id -u; id -g'
	assert_output "7
8"
	run_rm --userns keep-id "$BUSYBOX" sh -c 'whoami; cd ~; pwd'
	assert_output "$(whoami)
/"
	run_rm -125 --userns nomap "$BUSYBOX" true
	assert_stderr "$T may not be searched by other users"
	chmod 711 "$T"
	run_rm --userns nomap "$BUSYBOX" cat /proc/self/uid_map
	assert_match '^ *0 +1 +[0-9]+$'
	run_rm --userns auto:size=3000 "$BUSYBOX" cat /proc/self/uid_map
	assert_match ' +3000$'
	run_rm -125 --userns keep-id --uidmap 0:0:1 "$BUSYBOX" true
	assert_stderr 'mutually exclusive'
}

@test "--privileged: all that the engine may do, and the host's devices" {
	run_rm --privileged "$BUSYBOX" sh -c 'grep ^Seccomp: /proc/self/status; ls /dev | wc -l; mount -t tmpfs t /tmp && echo mounted'
	assert_match 'Seccomp:.0'
	assert_match 'mounted'
	[ "$(sed -n 2p <<<"$output")" -gt 20 ]
}

@test "ping and low ports need no capability in a network of the container's own" {
	run_rm --cap-drop ALL -u 1234:1234 "$BUSYBOX" sh -c 'cat /proc/sys/net/ipv4/ping_group_range; timeout 1 nc -l -p 80; echo $?'
	assert_match $'^0\t[0-9]+\n143$' # ended by the time, not by a refusal
}
