#!/usr/bin/env bats
# A full disk: a clear word, everything as before, and a way out.
# shellcheck disable=SC2030,SC2031 # one test has a ROOT of its own

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

# ---- the same by injection, and in builds and deltas -----------------------

# failing CALL ERROR WHEN ARGS...: an engine for which a system call fails
failing() {
	command -v strace >/dev/null || skip "no strace"
	rootless_skip "strace keeps newuidmap from its privileges"
	local call=$1 error=$2 when=$3
	shift 3
	# shellcheck disable=SC2086 # several words
	run --separate-stderr without3 timeout -k 5 60 strace -f -qq -o "$BATS_TEST_TMPDIR/trace" \
		${ONLY:+-P "$ONLY"} -e trace="$call" -e inject="$call:error=$error:when=$when" \
		"$BALENA" --root "$ROOT" --runroot "$RUNROOT" "$@"
	echo "$output"
	echo "stderr: $stderr"
	grep -q INJECTED "$BATS_TEST_TMPDIR/trace" || fail "$call did not fail"
	refute_stderr 'goroutine|panic'
}

everything() {
	balena images -a --no-trunc --format '{{.ID}} {{.Repository}}:{{.Tag}}'
	balena ps -a --no-trunc --format '{{.ID}} {{.Names}} {{.State}}'
	find "$ROOT/overlay" -maxdepth 2 ! -name staging ! -name tempdirs | sort
}

@test "a quota that is used up in the middle of a pull" {
	local before
	before=$(everything)
	failing symlinkat EDQUOT 1+ pull -q "$REGISTRY/busybox:kinds"
	assert_equal "$status" 125
	assert_stderr 'the quota was used up while the image, [0-9.]+.B compressed, was written: .*disk quota exceeded'
	assert_stderr "hint: a quota limits what $ROOT may take: .*balena system prune"
	assert_equal "$(everything)" "$before"
	whole
	run_balena pull -q "$REGISTRY/busybox:kinds"
}

@test "a disk that cannot read: save leaves no archive, and says what is wrong" {
	local layer out=$T/read-error.tar ONLY
	layer=$(dirname "$(dirname "$(find "$ROOT"/overlay/*/diff -path '*/bin/busybox' | head -1)")")
	ONLY=$layer/bin/busybox
	failing read EIO 1+ save -o "$out" "$BUSYBOX"
	assert_equal "$status" 125
	assert_stderr 'input/output error'
	assert_stderr 'hint: the disk may be failing'
	[ ! -e "$out" ]
	failing read EIO 1+ system check
	[ "$status" -ne 0 ]
	assert_match 'input/output error'
	ONLY=
	whole
	run_balena save -o "$out" "$BUSYBOX"
}

@test "the disk fills up in a build: before, in a step, while the image is written" {
	balena tag "$BUSYBOX" localhost/base
	local dir=$BATS_TEST_TMPDIR/c before free
	mkdir "$dir"
	head -c 6000000 /dev/urandom >"$dir/file"
	before=$(everything)
	fill
	run_balena -125 build -q -t full "$dir" -f - <<<$'FROM localhost/base\nCOPY file /'
	assert_stderr 'no space left on device|not enough free space'
	assert_stderr "hint: $ROOT has [0-9.]+k?B free"
	rm -rf "$DISK"/fill*
	assert_equal "$(everything)" "$before"
	# as much as the working container takes, and not the layer too
	free=$(($(stat -f -c '%a * %S' "$DISK")))
	head -c $((free - 8000000)) /dev/zero >"$DISK/fill.0"
	run_balena -any build -q -t full "$dir" -f - <<<$'FROM localhost/base\nCOPY file /'
	[ "$status" -ne 0 ]
	assert_stderr 'no space left on device|not enough free space'
	rm -rf "$DISK"/fill*
	run_balena -any build -q -t full "$dir" -f - <<<$'FROM localhost/base\nRUN cat /dev/zero >/file'
	[ "$status" -ne 0 ]
	run_balena -1 image exists full
	assert_equal "$(everything)" "$before"
	whole
	run_balena build -q -t full "$dir" -f - <<<$'FROM localhost/base\nCOPY file /'
}

@test "the disk fills up in an update by a delta: before it, and in its middle" {
	rootless_skip "the registry's folder is root's"
	local name=full-$RANDOM pid rc=0 before
	mkdir -p "$T/v1" "$T/v2"
	head -c 12000000 /dev/urandom >"$T/v1/file"
	{ head -c 5000000 "$T/v1/file"; head -c 2000000 /dev/urandom; tail -c 7000000 "$T/v1/file"; } >"$T/v2/file"
	tar -C "$T/v1" -cf "$T/v1.tar" file
	tar -C "$T/v2" -cf "$T/v2.tar" file
	"$BIN/mkimage" "$T/layout" <<<"[{\"tag\": \"1\", \"manifests\": [{\"layers\": [{\"tar\": \"$T/v1.tar\"}]}]}, {\"tag\": \"2\", \"manifests\": [{\"layers\": [{\"tar\": \"$T/v2.tar\"}]}]}]"
	"$BIN/../registry/registry" push "$REGISTRY" "$T/layout" "$name"
	TMPDIR=$T run_balena image delta -q --push "docker://$REGISTRY/$name:1" "docker://$REGISTRY/$name:2"
	faultproxy -fault slow -rate 500000
	run_balena pull -q --no-delta "$REGISTRY/$name:1"
	balena tag "$REGISTRY/$name:1" "$PROXY/$name:1"
	before=$(everything)
	fill
	run_balena -125 pull -q "$PROXY/$name:2"
	assert_stderr 'not enough free space|no space left on device'
	assert_stderr "hint: $ROOT has [0-9.]+k?B free"
	rm -rf "$DISK"/fill*
	assert_equal "$(everything)" "$before"
	balena pull -q "$PROXY/$name:2" 2>"$BATS_TEST_TMPDIR/err" &
	pid=$!
	eventually staging
	sleep 1
	fill
	wait $pid || rc=$?
	cat "$BATS_TEST_TMPDIR/err"
	assert_equal "$rc" 125
	grep -q 'the disk filled up while the image' "$BATS_TEST_TMPDIR/err"
	rm -rf "$DISK"/fill*
	assert_equal "$(everything)" "$before"
	whole
	faultproxy_stop
	run_balena pull "$REGISTRY/$name:2"
	assert_stderr 'delta'
	whole
}
