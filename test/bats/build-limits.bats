#!/usr/bin/env bats
# balena build: limits of its commands, what they find in their surroundings, and
# what of a Dockerfile is executed at all.
# shellcheck disable=SC2030,SC2031,SC2154

load helpers
load build

@test "--cpu-period, --cpu-quota, --cpuset-mems, --memory-swap and --cgroup-parent" {
	rootless_skip "no cgroups are the user's"
	[ -d /sys/fs/cgroup/memory ] || skip "cgroup v1 tells them in one place"
	dockerfile <<-'EOF'
		FROM busybox
		RUN cd /sys/fs/cgroup && cat cpu/cpu.cfs_period_us cpu/cpu.cfs_quota_us cpuset/cpuset.mems memory/memory.memsw.limit_in_bytes memory/memory.limit_in_bytes >/c 2>&1
	EOF
	built --cpu-period 50000 --cpu-quota 25000 --cpuset-mems 0 --memory 64m --memory-swap 96m -t limits
	run_balena run --rm --network none limits cat /c
	assert_match '^50000'$'\n''25000'$'\n''0'$'\n'
	assert_match '67108864$'
	[ ! -e /sys/fs/cgroup/memory/memory.memsw.limit_in_bytes ] || assert_match '100663296'
	mkdir "$BATS_TEST_TMPDIR/v"
	dockerfile <<<"FROM busybox"$'\n'"RUN until [ -e /v/go ]; do sleep 0.05; done"
	balena build -q --cgroup-parent /balena-build-test -v "$BATS_TEST_TMPDIR/v:/v" "$C" &
	local pid=$!
	eventually test -d /sys/fs/cgroup/memory/balena-build-test
	touch "$BATS_TEST_TMPDIR/v/go"
	wait "$pid"
	[ ! -e /sys/fs/cgroup/memory/balena-build-test ]
	run_balena -125 build --memory 1zb "$C"
	run_balena -any build -q --no-cache --cpuset-mems 77 "$C"
	[ "$status" -ne 0 ]
}

@test "--http-proxy passes the proxies on, to commands and not into the image" {
	dockerfile <<<"FROM busybox"$'\n'"RUN echo \$http_proxy,\$HTTPS_PROXY >/p"
	http_proxy=http://192.0.2.9:1 HTTPS_PROXY=http://192.0.2.9:2 run_balena build -q --no-cache -t proxy "$C"
	run_balena run --rm --network none proxy cat /p
	assert_output http://192.0.2.9:1,http://192.0.2.9:2
	run_balena image inspect --format '{{json .Config.Env}}' proxy
	refute_match 192.0.2.9
	http_proxy=http://192.0.2.9:1 run_balena build -q --no-cache --http-proxy=false -t proxy "$C"
	run_balena run --rm --network none proxy cat /p
	assert_output ,
}

@test "--group-add, --no-hostname, --dns-option" {
	dockerfile <<-'EOF'
		FROM busybox
		RUN id -G >/id; cat /etc/resolv.conf >/r; cat /etc/hostname >/h 2>/dev/null || echo none >/h
	EOF
	built --no-cache --group-add 1234 --dns 192.0.2.1 --dns-option ndots:5 --no-hostname -t around
	run_balena run --rm --network none around cat /id /r /h
	assert_match '(^| )1234( |'$'\n'')'
	assert_match 'ndots:5'
	assert_match 'none$'
}

@test "--skip-unused-stages=false builds them, too" {
	dockerfile <<-'EOF'
		FROM busybox AS unused
		RUN exit 7
		FROM busybox
		COPY Dockerfile /
	EOF
	built
	run_balena -1 build -q --skip-unused-stages=false "$C"
	assert_stderr 'Dockerfile:2: RUN exit 7: the command failed with exit code 7'
}

@test "--cache-ttl: older steps are executed again" {
	dockerfile <<<"FROM busybox"$'\n'"RUN date +%N >/ttl"
	built
	local first=$id
	built --cache-ttl 1h
	assert_equal "$id" "$first"
	sleep 1.1
	built --cache-ttl 1s
	[ "$id" != "$first" ]
}

@test "--source-date-epoch is the time of the configuration" {
	dockerfile <<<"FROM busybox"$'\n'"RUN echo epoch >/e"
	built --no-cache --source-date-epoch 3000
	assert_match '^sha256:'
	assert_equal "$(config '{{.Created}}' | cut -c1-19)" '1970-01-01 00:50:00'
}

@test "--creds and --authfile: a base image of a registry that asks who it is" {
	local private
	private=$(private_registry)
	run_balena push -q --creds tester:secret busybox "docker://$private/base:1"
	dockerfile <<<"FROM $private/base:1"$'\n'"COPY Dockerfile /"
	run_balena -any build -q "$C"
	[ "$status" -ne 0 ]
	assert_stderr 'authentication required'
	assert_stderr 'hint: log in'
	run_balena -any build -q --creds tester:wrong "$C"
	[ "$status" -ne 0 ]
	refute_stderr wrong
	run_balena build -q --creds tester:secret "$C"
	run_balena rmi "$private/base:1"
	run_balena login --authfile "$BATS_TEST_TMPDIR/auth.json" -u tester -p secret "$private"
	run_balena build -q --authfile "$BATS_TEST_TMPDIR/auth.json" "$C"
	private_registry_stop
}
