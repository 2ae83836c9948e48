#!/usr/bin/env bats
# Little memory is enough.

load helpers

setup_file() { file_setup; }
teardown_file() { file_teardown; }

# in_cgroup BYTES COMMAND...: in a memory cgroup of that size, without swap
in_cgroup() {
	local limit=$1 cg
	shift
	if [ -d /sys/fs/cgroup/memory ]; then
		cg=/sys/fs/cgroup/memory/balena-test-$$
		mkdir "$cg"
		echo "$limit" >"$cg/memory.limit_in_bytes"
		echo "$limit" >"$cg/memory.memsw.limit_in_bytes" 2>/dev/null || true
	elif grep -qw memory /sys/fs/cgroup/cgroup.subtree_control 2>/dev/null; then
		cg=/sys/fs/cgroup/balena-test-$$
		mkdir "$cg"
		echo "$limit" >"$cg/memory.max"
		echo 0 >"$cg/memory.swap.max" 2>/dev/null || true
	else
		skip "no memory cgroup here"
	fi
	local rc=0
	bash -c 'echo $$ >"$0/cgroup.procs"; exec "$@"' "$cg" "$@" || rc=$?
	cat "$cg/memory.max_usage_in_bytes" "$cg/memory.peak" 2>/dev/null | sed 's/^/peak: /'
	rmdir "$cg"
	return $rc
}

pull_in_64M() {
	rootless_skip "cannot make a memory cgroup"
	in_cgroup $((64 << 20)) "$BALENA" --root "$ROOT" --runroot "$RUNROOT" pull -q "$1" 3>&-
}

@test "a pull in 64 MB of memory" {
	pull_in_64M "$REGISTRY/debian:bookworm"
	run_balena system check --quick
}

@test "a layer larger than the memory, and the check of it" {
	pull_in_64M "$REGISTRY/busybox:big"
	in_cgroup $((64 << 20)) "$BALENA" --root "$ROOT" --runroot "$RUNROOT" system check 3>&-
}

@test "a pull leaves the page cache of an application beside it alone" {
	rootless_skip "cannot make a memory cgroup"
	local file=$T/working-set
	head -c $((24 << 20)) /dev/urandom >"$file"
	sync "$file"
	forget "$file"
	balena rmi -af >/dev/null
	# the file is read once: what needs room takes its pages first
	run in_cgroup $((96 << 20)) sh -c "cat '$file' >/dev/null && '$BALENA' --root '$ROOT' --runroot '$RUNROOT' pull -q '$REGISTRY/debian:bookworm'" 3>&-
	echo "$output"
	assert_equal "$status" 0
	resident_percent "$file"
	[ "$percent" -ge 95 ] || fail "$percent % of the file is still in the page cache"
	# a program that leaves what it has written in the page cache, for comparison
	forget "$file"
	in_cgroup $((96 << 20)) sh -c "cat '$file' >/dev/null; head -c $((160 << 20)) /dev/zero >'$T/written'; cat '$T/written' >/dev/null"
	rm "$T/written"
	resident_percent "$file"
	[ "$percent" -lt 95 ] || fail "nothing evicts the file: this test shows nothing"
}

# forget FILE: it leaves the page cache
forget() {
	dd of="$1" oflag=nocache conv=notrunc,fdatasync count=0 status=none
	assert_equal "$("$BIN/workset" -resident "$1")" 0
}

resident_percent() { percent=$(($("$BIN/workset" -resident "$1") * 100 / $(stat -c %s "$1"))); }

@test "load and run in 64 MB of memory" {
	rootless_skip "cannot make a memory cgroup"
	skopeo copy --quiet "oci:$LAYOUTS/busybox:big" "oci-archive:$T/big.tar:localhost/big:1"
	balena rmi -af >/dev/null
	in_cgroup $((64 << 20)) "$BALENA" --root "$ROOT" --runroot "$RUNROOT" load -q -i "$T/big.tar" 3>&-
	run in_cgroup $((64 << 20)) "$BALENA" --root "$ROOT" --runroot "$RUNROOT" run --rm --network none localhost/big:1 sh -c 'echo it runs' 3>&-
	echo "$output"
	assert_match 'it runs'
	in_cgroup $((64 << 20)) sh -c "cat '$T/big.tar' | '$BALENA' --root '$ROOT' --runroot '$RUNROOT' load -q" 3>&-
}

@test "a delta is applied in 64 MB of memory" {
	rootless_skip "cannot make a memory cgroup"
	balena rmi -af >/dev/null
	balena pull -q "$REGISTRY/busybox:shared1"
	balena pull -q "$REGISTRY/busybox:big"
	balena image delta -o "$T/delta.tar" "$REGISTRY/busybox:shared1" "$REGISTRY/busybox:big"
	balena rmi -f "$REGISTRY/busybox:big"
	in_cgroup $((64 << 20)) "$BALENA" --root "$ROOT" --runroot "$RUNROOT" load -q -i "$T/delta.tar" 3>&-
	run_balena system check
}
