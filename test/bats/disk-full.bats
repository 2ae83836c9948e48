#!/usr/bin/env bats
# A full disk: a clear word, everything as before, and a way out.

load helpers

setup_file() { file_setup; }
teardown_file() { file_teardown; }

# As root each test has a filesystem of its own; a user cannot mount one, and
# has a folder on one that test/run mounted.
setup() {
	if is_rootless; then
		DISK=${BALENA_TEST_DISK:-}
		[ -n "$DISK" ] || skip "rootless: needs a small filesystem in BALENA_TEST_DISK"
	else
		DISK=$T/disk
		mkdir -p "$DISK"
		truncate -s 64M "$T/disk.img"
		mkfs.ext4 -q -F -m 0 "$T/disk.img"
		mount -o loop "$T/disk.img" "$DISK"
	fi
	ROOT=$DISK/root$BATS_TEST_NUMBER
	RUNROOT=$RUNROOT/full$BATS_TEST_NUMBER
	balena pull -q "$BUSYBOX" "$REGISTRY/busybox:shared1"
	balena run --name c --network none "$BUSYBOX" sh -c 'head -c 2000000 /dev/zero >/file'
	balena create --name d --network none "$BUSYBOX" true
}

teardown() {
	[ -n "$DISK" ] || return 0
	faultproxy_stop
	rm -rf "$DISK"/fill*
	remove_containers
	if is_rootless; then
		balena rmi -af >/dev/null
		return
	fi
	umount "$T/failing/root/overlay" "$T/failing" "$T/thin" 2>/dev/null || true
	umount "$DISK"
	rm -f "$T/disk.img"
}

# fill: until not a byte, and not a folder, fits any more
fill() {
	local i
	cat /dev/zero >"$DISK/fill.$RANDOM" 2>/dev/null || true
	for i in $(seq 300); do
		mkdir "$DISK/fill.$RANDOM.$i" 2>/dev/null || break
	done
	for i in $(seq 300); do
		echo x 2>/dev/null >"$DISK/fill.$RANDOM.$i" || break
	done
	assert_equal "$(stat -f -c %a "$DISK")" 0
}

refill() { rm -rf "$DISK"/fill*; fill; }

full() { [ "$(stat -f -c %a "$DISK")" -lt 100 ]; }

staging() { [ -n "$(ls -A "$ROOT/overlay/staging" 2>/dev/null)" ]; }

whole() {
	run_balena system check
	assert_match 'all is well'
}

@test "pull: what is needed and what is free, and the store as before" {
	fill
	local before
	before=$(balena images -a --no-trunc; balena ps -a --no-trunc; find "$ROOT/overlay" -maxdepth 2 | sort)
	run_balena -125 pull -q "$REGISTRY/busybox:shared4"
	assert_stderr 'not enough free space: the image needs at least [0-9.]+MB, .* has [0-9.]+k?B'
	assert_stderr "hint: $ROOT has [0-9.]+k?B free: .*balena system df.*balena system prune"
	assert_equal "$(balena images -a --no-trunc; balena ps -a --no-trunc; find "$ROOT/overlay" -maxdepth 2 | sort)" "$before"
	whole
}

@test "the disk fills up in the middle of a pull" {
	faultproxy -fault slow -rate 2000000
	balena pull -q "$PROXY/busybox:big" 2>"$BATS_TEST_TMPDIR/err" &
	local pid=$! rc=0
	eventually staging
	sleep 1
	fill
	wait $pid || rc=$?
	cat "$BATS_TEST_TMPDIR/err"
	assert_equal "$rc" 125
	grep -q 'the disk filled up while the image, 13.*MB compressed, was written' "$BATS_TEST_TMPDIR/err"
	assert_empty "$(find "$ROOT/overlay/staging" -mindepth 1 -maxdepth 1)"
	run_balena -1 image exists "$PROXY/busybox:big"
	whole
	faultproxy_stop
	rm -rf "$DISK"/fill*
	run_balena pull -q "$REGISTRY/busybox:big"
	whole
}

@test "create, run, tag and load say why they cannot, and leave nothing" {
	skopeo copy --quiet "oci:$LAYOUTS/busybox:shared5" "docker-archive:$T/image.tar:localhost/shared:5"
	fill
	# the last free blocks of the store itself go, too
	local i status=0
	for i in $(seq 20); do
		"$BALENA" --root "$ROOT" --runroot "$RUNROOT" create --name "x$i" --network none "$BUSYBOX" true >/dev/null 2>"$BATS_TEST_TMPDIR/err" 3>&- || { status=$?; break; }
	done
	assert_equal "$status" 125
	grep -q 'no space left on device' "$BATS_TEST_TMPDIR/err"
	run_balena -125 run --rm --network none "$BUSYBOX" true
	assert_stderr 'hint: .* free'
	run_balena -125 load -i "$T/image.tar"
	assert_stderr 'not enough free space'
	run_balena -1 container exists "x$i"
	whole
	rm -rf "$DISK"/fill*
	run_balena create --name "x$i" --network none "$BUSYBOX" true
	run_balena load -i "$T/image.tar"
}

@test "on a disk without a free byte: df, rm, rmi and prune work" {
	fill
	run_balena system df
	assert_match 'Containers +2'
	run_balena ps -a
	run_balena rm c
	refill
	run_balena rmi "$REGISTRY/busybox:shared1"
	refill
	run_balena system prune -af
	assert_match 'Total reclaimed space'
	run_balena images -q
	assert_empty "$output"
	run_balena ps -aq
	assert_empty "$output"
	whole
}

@test "a container that fills the disk is stopped and removed" {
	run_balena run -d --name filler --network none "$BUSYBOX" sh -c 'cat /dev/zero >/fill; sleep 1000'
	eventually -t 30 full
	refill
	run_balena stop -t 1 filler
	run_balena rm filler
	[ "$(stat -f -c %a "$DISK")" -gt 0 ]
	whole
}

@test "a disk that fails: a word and no trace of the program, and after it all is as before" {
	rootless_skip "needs a mount"
	mkdir "$T/thin" "$T/failing"
	mount -t tmpfs -o size=24m tmpfs "$T/thin"
	truncate -s 300M "$T/thin/img"
	mkfs.ext4 -q -F -m 0 -J size=4 "$T/thin/img"
	mount -o loop "$T/thin/img" "$T/failing"
	local ROOT=$T/failing/root RUNROOT=$RUNROOT/failing
	balena pull -q "$BUSYBOX"
	# the device has no room for what the filesystem thinks there is
	sync -f "$T/failing"
	dd if=/dev/zero of="$T/thin/fill" bs=64k 2>/dev/null || true
	run_balena -125 pull -q "$REGISTRY/debian:bookworm"
	assert_stderr 'input/output error|read-only file system|no space left on device'
	assert_stderr 'hint: '
	refute_stderr 'goroutine|panic'
	run_balena -any system check
	refute_stderr 'goroutine|panic'
	run_balena -any run --rm --network none "$BUSYBOX" true
	refute_stderr 'goroutine|panic'
	umount "$T/failing"
	rm "$T/thin/fill"
	mount -o loop "$T/thin/img" "$T/failing"
	run_balena system check
	assert_match 'all is well'
	run_balena run --rm --network none "$BUSYBOX" echo fine
	assert_output fine
	umount "$ROOT/overlay" 2>/dev/null || true
	umount "$T/failing"
	umount "$T/thin"
}
