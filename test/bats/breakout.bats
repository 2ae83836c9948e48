#!/usr/bin/env bats
# Ways out of a container that worked somewhere once. Each is tried, with a
# hostile image or container, and leads nowhere.

load helpers

setup_file() {
	file_setup "$BUSYBOX"
	mkdir "$T/outside"
	echo "the host's" >"$T/outside/secret"
	echo 'evil:x:4242:4242::/:/bin/sh' >"$T/outside/passwd"
	echo 'evil:x:4242:' >"$T/outside/group"
	cp "$T/outside/passwd" "$T/outside/hosts"
	cp "$T/outside/passwd" "$T/outside/resolv.conf"
	cp "$T/outside/passwd" "$T/outside/hostname"
	outside >"$T/outside-before"
	sha256sum "$BALENA" >"$T/binary"
}

teardown_file() { file_teardown; }

setup() { TREE=$BATS_TEST_TMPDIR/tree; mkdir -p "$TREE/bin" "$TREE/tmp"; cp "$(command -v busybox)" "$TREE/bin/busybox"; }

teardown() {
	remove_containers
	nothing_happened
}

outside() { (cd "$T/outside" && find . -printf '%p %m %u %l\n' | sort && cat secret passwd group hosts resolv.conf hostname); }

nothing_happened() {
	assert_equal "$(outside)" "$(cat "$T/outside-before")"
	sha256sum --quiet -c "$T/binary"
}

# hostile NAME [CONFIG]: an image of $TREE, which busybox runs, and of a
# configuration in JSON
hostile() {
	local dir=$BATS_TEST_TMPDIR/archive layer config='{}'
	[ -z "${2-}" ] || config=$2
	rm -rf "$dir"
	mkdir "$dir"
	for applet in sh cat ls ln mkdir mv rm sleep true readlink id pwd mount unshare mknod kill printf; do
		[ -e "$TREE/bin/$applet" ] || ln -s busybox "$TREE/bin/$applet"
	done
	tar -C "$TREE" --owner=0 --group=0 --numeric-owner -cf "$dir/layer.tar" .
	layer=$(sha256sum "$dir/layer.tar" | cut -d' ' -f1)
	jq -n --arg d "sha256:$layer" --argjson c "$config" \
		'{architecture: "amd64", os: "linux", config: ({Env: ["PATH=/bin"], Cmd: ["true"]} + $c), rootfs: {type: "layers", diff_ids: [$d]}}' >"$dir/config.json"
	jq -n --arg n "localhost/$1:latest" '[{Config: "config.json", RepoTags: [$n], Layers: ["layer.tar"]}]' >"$dir/manifest.json"
	tar -C "$dir" -cf "$BATS_TEST_TMPDIR/$1.tar" manifest.json config.json layer.tar
	run_balena load -q -i "$BATS_TEST_TMPDIR/$1.tar"
	EVIL=localhost/$1:latest
}

# the words of the host's file come out of no container
no_secret() { refute_match "the host's"; refute_stderr "the host's"; }

@test "the runtime's own program, run in a container, cannot be written (CVE-2019-5736)" {
	# init's program is that of the host: a link to /proc/self/exe is run by it
	ln -s /proc/self/exe "$TREE/bin/balena-init"
	hostile selfexe
	run_balena run -d --name self --network none "$EVIL" sleep 1000
	run_balena exec -d self /bin/balena-init sleep 1001
	local attack='
		for p in /proc/[0-9]*; do
			case $(readlink $p/exe) in /bin/busybox | "") continue ;; esac
			exec 9<$p/exe || continue
			echo held ${p#/proc/}
			(printf pwned >$p/exe) 2>&1
			kill -9 ${p#/proc/}
			sleep 0.3
			(printf pwned >/proc/self/fd/9) 2>&1 && echo written
		done; true'
	eventually in_exec self balena-init
	run_balena exec self sh -c "$attack"
	assert_match "held"
	refute_match "^written|
written"
	# as the container's first process
	run_balena run --rm --network none --entrypoint /bin/balena-init "$EVIL" sh -c "$attack"
	refute_match "
written"
	run_balena run --rm --network none "$BUSYBOX" echo fine
	assert_output fine
}

in_exec() { balena exec "$1" sh -c "cat /proc/[0-9]*/cmdline" | tr '\0' ' ' | grep -q "$2"; }

@test "--init's program in the container cannot be written" {
	run_balena run --rm --network none --init "$BUSYBOX" sh -c '
		exe=$(readlink /proc/1/exe)
		exec 9</proc/1/exe
		printf pwned >/proc/1/exe || printf pwned >"$exe" || printf pwned >/proc/self/fd/9 || rm "$exe" || mount -o remount,rw "$exe" || echo cannot'
	assert_output cannot
}

@test "the program of an exec that is about to start cannot be reached" {
	run_balena run -d --name watcher --network none "$BUSYBOX" sh -c '
		while :; do for p in /proc/[0-9]*; do
			case $(readlink $p/exe) in /bin/* | "") ;; *) printf pwned >$p/exe; ls -l $p/cwd/ $p/root/ $p/fd/; echo "seen $p $(readlink $p/exe)" >>/seen ;; esac
		done; done 2>/dev/null'
	for _ in $(seq 10); do run_balena exec watcher true; done
	run_balena exec watcher sh -c '! cat /seen 2>/dev/null'
	assert_empty "$output"
}

@test "no working directory leads out through a leaked descriptor (CVE-2024-21626)" {
	local n
	exec 8</ # of the caller's own
	run_balena run -d --name held --network none "$BUSYBOX" sleep 1000
	for n in $(seq 3 14); do
		run_balena -any run --rm --network none -w "/proc/self/fd/$n" "$BUSYBOX" sh -c "cat $T/outside/secret ../../../../../..$T/outside/secret; cd ../../../../..; pwd"
		no_secret
		run_balena -any exec -w "/proc/self/fd/$n" held sh -c "cat ../../../../../..$T/outside/secret"
		no_secret
	done
	exec 8<&-
	for n in 7 8 9; do
		hostile fdwork '{"WorkingDir": "/proc/self/fd/'"$n"'"}'
		run_balena -any run --rm --network none "$EVIL" sh -c "cat ../../../../../..$T/outside/secret"
		no_secret
	done
}

@test "a container gets three descriptors and no more" {
	exec 8</ 9<"$T/outside"
	run_balena run --rm --network none "$BUSYBOX" sh -c 'ls /proc/$$/fd; true'
	assert_output "$(printf '0\n1\n2')"
	run_balena run -d --name fds --network none "$BUSYBOX" sleep 1000
	run_balena exec fds sh -c 'ls /proc/1/fd; ls /proc/$$/fd; true'
	assert_output "$(printf '0\n1\n2\n0\n1\n2')"
	exec 8<&- 9<&-
}

@test "what is masked stays masked with a /dev that lies (CVE-2025-31133, CVE-2025-52565)" {
	local evil=$BATS_TEST_TMPDIR/dev
	mkdir -p "$evil/pts" "$evil/shm" "$evil/mqueue"
	ln -s /proc/sys/kernel/core_pattern "$evil/null"
	ln -s /proc/sys/kernel/core_pattern "$evil/console"
	ln -s /proc/sysrq-trigger "$evil/ptmx"
	chmod -R 777 "$evil"
	local look='grep -E " /proc/(sys/kernel/core_pattern|sysrq-trigger) .*rw" /proc/self/mountinfo; for f in /proc/sys/kernel/core_pattern /proc/sysrq-trigger; do (printf "" >>$f) 2>/dev/null && echo "$f can be written"; done; cat /proc/kcore /proc/keys /proc/timer_list 2>/dev/null | head -c 10; true'
	run_balena -any run --rm --network none -v "$evil:/dev" "$BUSYBOX" sh -c "$look"
	assert_empty "$output"
	on_terminal "" "$BALENA" --root "$ROOT" --runroot "$RUNROOT" run --rm -t --network none -v "$evil:/dev" "$BUSYBOX" sh -c "$look"
	refute_match "can be written|mountinfo|core_pattern.*rw"
	cp -a "$evil" "$TREE/dev"
	hostile baddev
	run_balena run --rm --network none "$EVIL" sh -c "$look"
	assert_empty "$output"
	# /dev itself a link
	rm -rf "${TREE:?}/dev"
	ln -s /proc/sys "$TREE/dev"
	hostile linkdev
	run_balena -any run --rm --network none "$EVIL" sh -c "$look"
	assert_empty "$output"
}

@test "/proc and /sys are those of the kernel, or nothing starts (CVE-2025-52881)" {
	rm -rf "${TREE:?}/proc"
	mkdir -p "$TREE/fake/sys/net/ipv4" "$TREE/fake/self/attr" "$TREE/fake/1"
	ln -s /fake "$TREE/proc"
	hostile fakeproc
	run_balena -any run --rm --sysctl net.ipv4.ip_default_ttl=63 --network none "$EVIL" sh -c 'cat /proc/sys/net/ipv4/ip_default_ttl; readlink /proc/self/exe'
	[ "$status" -ne 0 ] || assert_output "$(printf '63\n/bin/busybox')"
	local d
	for d in /proc/sys /proc/self/attr /proc/self /proc/sysrq-trigger; do
		run_balena -any run --rm --sysctl net.ipv4.ip_default_ttl=63 --network none --tmpfs "$d" "$BUSYBOX" true
		[ "$status" -ne 0 ] || fail "a tmpfs was mounted over $d"
		run_balena -any run --rm --network none -v "$T/outside:$d" "$BUSYBOX" true
		[ "$status" -ne 0 ] || fail "a folder was mounted over $d"
	done
}

@test "a mount's place that is swapped for a link while it is mounted (CVE-2021-30465)" {
	local shared=$BATS_TEST_TMPDIR/shared
	mkdir -p "$shared/a"
	chmod 777 "$shared" "$shared/a"
	ln -s / "$shared/b"
	run_balena run -d --name swapper --network none -v "$shared:/s" "$BUSYBOX" sh -c 'cd /s; while :; do mv -T a t; mv -T b a; mv -T t b; done'
	for _ in $(seq 12); do
		run_balena -any run --rm --network none -v "$shared:/s" --tmpfs /s/a -v "$T/outside:/s/a/x:ro" "$BUSYBOX" sh -c "ls -d /s/a/*/proc /s/b$T/outside /s/a$T/outside; cat /s/a$T/outside/secret /s/b$T/outside/secret; grep -c . /s/a/etc/shadow" 2>/dev/null
		no_secret
		mountpoint -q /tmp && continue
		run ! grep -qE " (/s|$T/outside) " /proc/self/mountinfo
	done
}

@test "a volume's place that is a link in the image stays in the container" {
	ln -s "$T/outside" "$TREE/abs"
	ln -s "../../../../../../../..$T/outside" "$TREE/rel"
	ln -s / "$TREE/root"
	ln -s /proc/self/root "$TREE/magic"
	hostile linkvol
	local l
	for l in abs rel "root$T/outside" "magic$T/outside"; do
		run_balena -any run --rm --network none -v "vol:/$l" "$EVIL" sh -c "echo x >/$l/new"
		run_balena -any run --rm --network none -v "vol:/$l/deep/er" "$EVIL" sh -c "echo x >/$l/deep/er/new; cat /$l/secret"
		no_secret
		run_balena -any run --rm --network none --tmpfs "/$l/tmp" "$EVIL" sh -c "echo x >/$l/tmp/new"
		nothing_happened
	done
}

@test "an image's own volume does not bring in what its link means on the host" {
	ln -s "$T/outside" "$TREE/data"
	mkdir "$TREE/below"
	ln -s "$T/outside" "$TREE/below/link"
	hostile imagevol '{"Volumes": {"/data": {}, "/data/deep": {}, "/below": {}, "/../../up": {}}}'
	run_balena -any run --rm --network none "$EVIL" sh -c 'cat /data/secret /below/link/secret /below/secret; echo x >/data/new; echo x >/below/link/new; true'
	no_secret
}

@test "/etc's files that are links out of the image are neither read nor written" {
	local f
	mkdir "$TREE/etc"
	for f in passwd group hosts resolv.conf hostname; do ln -s "$T/outside/$f" "$TREE/etc/$f"; done
	hostile etc
	run_balena -any run --rm -u evil "$EVIL" id
	[ "$status" -ne 0 ] || fail "the host's passwd was read"
	run_balena -any run --rm -u 0:evil --network none "$EVIL" id
	[ "$status" -ne 0 ] || fail "the host's group was read"
	run_balena -any run --rm --hostname other --add-host a:1.2.3.4 "$EVIL" sh -c 'echo x >>/etc/hosts; echo x >>/etc/resolv.conf; cat /etc/hosts'
	refute_match evil
	nothing_happened
	rm -rf "${TREE:?}/etc"
	ln -s "$T/outside" "$TREE/etc"
	hostile etcdir
	run_balena -any run --rm -u evil "$EVIL" id
	[ "$status" -ne 0 ] || fail "the host's passwd was read"
	run_balena -any run --rm --add-host a:1.2.3.4 "$EVIL" sh -c 'echo x >>/etc/hosts; echo x >/etc/new'
	run_balena -any run -d --name etcd --network none "$EVIL" sleep 1000
	run_balena -any exec -u evil etcd id
	[ "$status" -ne 0 ] || fail "the host's passwd was read"
}

@test "a working directory is made in the container, whatever links say" {
	ln -s "$T/outside" "$TREE/abs"
	ln -s "../../../../../../../..$T/outside" "$TREE/rel"
	hostile workdir '{"WorkingDir": "/abs/made/by/image"}'
	run_balena -any run --rm --network none "$EVIL" pwd
	run_balena -any run --rm --network none -w /rel/made "$EVIL" pwd
	run_balena -any run --rm --network none -w ../../../../../..//rel/made "$EVIL" pwd
	nothing_happened
}

@test "names are no paths" {
	local n
	for n in ../x ../../x /x a/../../b . ..; do
		run_balena -any create --name "$n" --network none "$BUSYBOX" true
		[ "$status" -eq 125 ] || fail "a container is named $n"
		run_balena -any volume create "$n"
		[ "$status" -ne 0 ] || fail "a volume is named $n"
	done
	run_balena -any run --rm --network none --hostname ../../x "$BUSYBOX" true
}

@test "a program that is called like a part of the engine is a program" {
	printf '#!/bin/sh\necho "I am $0"\n' >"$TREE/bin/balena-monitor"
	chmod 755 "$TREE/bin/balena-monitor"
	ln "$TREE/bin/balena-monitor" "$TREE/bin/balena-runc"
	ln -s /proc/self/exe "$TREE/bin/balena-netns"
	hostile argv0
	run_balena run --rm --network none "$EVIL" balena-monitor
	assert_output "I am /bin/balena-monitor"
	run_balena run --rm --network none -e _LIBCONTAINER_INITPIPE=0 -e _LIBCONTAINER_STATEDIR=/ -e _CONTAINERS_USERNS_CONFIGURED=done "$EVIL" balena-runc
	assert_output "I am /bin/balena-runc"
	run_balena -any run --rm --network none "$EVIL" balena-netns
	[ "$status" -ne 0 ] || fail "the engine's program ran in a container: $output"
	run_balena -any run --rm --network none -e _LIBCONTAINER_INITPIPE=0 --entrypoint /proc/self/exe "$EVIL" init
	no_secret
}

@test "the kernel's switches, the disks and new namespaces are out of reach" {
	local disk
	disk=$(stat -c '0x%t 0x%T' "$(findmnt -no SOURCE -T / | head -1)" 2>/dev/null) || disk="0x7 0x0"
	# shellcheck disable=SC2046,SC2086
	disk=$(printf '%d %d' $disk)
	run_balena run --rm --network none "$BUSYBOX" sh -c "
		for f in /proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /proc/sysrq-trigger /sys/kernel/uevent_helper /proc/self/oom_score_adj.x; do
			(printf x >\$f) 2>/dev/null && echo wrote \$f
		done
		mknod /disk b $disk 2>/dev/null && head -c 1 /disk 2>/dev/null && echo read the disk
		mount -t proc proc /mnt 2>/dev/null && echo mounted proc
		mount -t cgroup -o memory cgroup /mnt 2>/dev/null && echo mounted cgroup
		unshare -m true 2>/dev/null && echo new mount namespace
		chroot /proc/1/root ls $T/outside 2>/dev/null
		for c in /sys/fs/cgroup/release_agent /sys/fs/cgroup/*/release_agent; do [ -e \$c ] && (printf x >\$c) 2>/dev/null && echo wrote \$c; done
		for s in /run/dbus /run/docker.sock /run/containerd /run/systemd/private; do [ -e \$s ] && echo there is \$s; done
		true"
	assert_empty "$output"
}

@test "a user namespace of its own takes a container no further" {
	run_balena run --rm --network none "$BUSYBOX" unshare -r -m sh -c '
		cd /
		umount /proc/kcore 2>/dev/null && echo unmasked
		umount /proc/sys 2>/dev/null && echo unmounted
		umount /dev 2>/dev/null && echo no dev
		mount -o remount,rw /proc/sys 2>/dev/null && echo remounted
		mount -o remount,rw,bind /proc/sys 2>/dev/null && echo remounted by bind
		mount -t proc proc /mnt 2>/dev/null && head -c 1 /mnt/kcore 2>/dev/null && echo a new proc
		mount -t cgroup -o memory cgroup /mnt 2>/dev/null && echo a new cgroup
		mount -t sysfs sysfs /mnt 2>/dev/null && ls /mnt/firmware 2>/dev/null
		for f in /proc/sys/kernel/core_pattern /proc/sysrq-trigger; do (printf x >$f) 2>/dev/null && echo wrote $f; done
		head -c 10 /proc/kcore; true'
	assert_empty "$output"
}

@test "a build reads nothing beyond its context and writes nothing beyond its image" {
	ln -s "$T/outside" "$TREE/abs"
	ln -s "../../../../../../../..$T/outside" "$TREE/rel"
	hostile base
	local dir=$BATS_TEST_TMPDIR/context
	mkdir -p "$dir/in" "$BATS_TEST_TMPDIR/tar/d"
	echo mine >"$dir/file"
	ln -s "$T/outside" "$dir/link"
	ln -s "$T/outside/secret" "$dir/in/link"
	# a link out of the image, then a file through it; a name with ..
	ln -s "$T/outside" "$BATS_TEST_TMPDIR/tar/d/l"
	tar -C "$BATS_TEST_TMPDIR/tar" -cf "$dir/evil.tar" d/l
	rm "$BATS_TEST_TMPDIR/tar/d/l"
	mkdir "$BATS_TEST_TMPDIR/tar/d/l"
	echo pwned >"$BATS_TEST_TMPDIR/tar/d/l/secret"
	tar -C "$BATS_TEST_TMPDIR/tar" -rf "$dir/evil.tar" d/l/secret
	tar -P -C "$BATS_TEST_TMPDIR/tar" --transform "s|^d/l|../../../../../..$T/outside|" -rf "$dir/evil.tar" d/l/secret

	run_balena build -q -t built -f - "$dir" <<<"FROM $EVIL"$'\nCOPY file /abs/new\nCOPY file /rel/made/new\nWORKDIR /abs/work\nCOPY in /in'
	nothing_happened
	run_balena -any run --rm --network none built cat /in/link "/..$T/outside/secret"
	no_secret
	run_balena -any build -q -t built2 -f - "$dir" <<<"FROM $EVIL"$'\nADD evil.tar /abs\nADD evil.tar /'
	nothing_happened
	local from
	for from in link/secret in/link "../outside/secret" "/in/../../outside/secret"; do
		run_balena -any build -q -t built3 -f - "$dir" <<<"FROM $EVIL"$'\n'"COPY $from /got"
		[ "$status" -ne 0 ] || { run_balena -any run --rm --network none built3 cat /got; no_secret; }
	done
}
