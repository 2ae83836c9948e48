#!/usr/bin/env bats
# balena build: several platforms, where the result goes to, and deltas to it.
# shellcheck disable=SC2030,SC2031,SC2154

load helpers
load build

OTHER=s390x # no machine that runs the tests is one

# program FILE: one for 386 that ends with 0, which amd64 executes, too.
program() {
	printf '\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x03\0\x01\0\0\0\x54\x80\x04\x08\x34\0\0\0\0\0\0\0\0\0\0\0\x34\0\x20\0\x01\0\0\0\0\0\0\0' >"$1"
	printf '\x01\0\0\0\0\0\0\0\0\x80\x04\x08\0\x80\x04\x08\x5d\0\0\0\x5d\0\0\0\x05\0\0\0\0\x10\0\0\xb8\x01\0\0\0\x31\xdb\xcd\x80' >>"$1"
	chmod +x "$1"
}

platforms() { jq -r '[.manifests[].platform | "\(.os)/\(.architecture)"] | join(" ")'; }

@test "several platforms become a list, without an emulator where nothing is executed" {
	echo data >"$C/f"
	dockerfile <<-'EOF'
		FROM scratch
		ARG TARGETARCH
		COPY f /$TARGETARCH
		LABEL arch=$TARGETARCH
	EOF
	built --platform linux/amd64,linux/arm/v7 --platform linux/$OTHER --iidfile "$BATS_TEST_TMPDIR/iid" --metadata-file "$BATS_TEST_TMPDIR/meta" -t several
	assert_equal "$(cat "$BATS_TEST_TMPDIR/iid")" "$id"
	assert_equal "$(jq -r '."image.name"' "$BATS_TEST_TMPDIR/meta")" docker.io/library/several:latest
	run_balena manifest inspect several
	assert_equal "$(platforms <<<"$output")" "linux/amd64 linux/arm linux/$OTHER"
	assert_equal "$(jq -r '.manifests[1].platform.variant' <<<"$output")" v7
	run_balena system check --quick
	# again, from the cache, the same images
	local digests
	digests=$(balena manifest inspect several | jq -r '.manifests[].digest')
	built --platform linux/amd64,linux/arm/v7,linux/$OTHER -t several
	assert_equal "$(balena manifest inspect several | jq -r '.manifests[].digest')" "$digests"
}

@test "a RUN that this machine cannot execute is told of before anything is done" {
	[ ! -e "/proc/sys/fs/binfmt_misc/qemu-$OTHER" ] || skip "there is an emulator"
	dockerfile <<<"FROM scratch AS a"$'\n'"COPY Dockerfile /"$'\n'"FROM a"$'\n'"RUN true"
	run_balena -1 build -q --platform linux/$OTHER "$C"
	assert_stderr "Dockerfile:4: RUN true: this machine cannot execute it: it is for linux/$OTHER, and no emulator"
	built --platform linux/$OTHER --target a
	assert_equal "$(config '{{.Architecture}}')" $OTHER
	run_balena -125 build -q --platform linux/x/y/z "$C"
}

@test "what this machine executes of another platform is executed" {
	[ "$(uname -m)" = x86_64 ] || skip "only amd64 executes 386"
	program "$C/p"
	dockerfile <<<"FROM scratch"$'\n'"COPY p /p"$'\n'"RUN [\"/p\"]"
	built --platform linux/386
	assert_equal "$(config '{{.Architecture}}')" 386
}

@test "RUN of other machines goes through the emulators that are registered" {
	rootless_skip "a namespace's own emulators are registered by root"
	[ -e /usr/lib/binfmt.d/qemu-aarch64.conf ] || skip "no qemu-user-static"
	[ "$(printf '%s\n' 6.7 "$(uname -r)" | sort -V | head -1)" = 6.7 ] || skip "emulators are the whole machine's before Linux 6.7"
	local code # the program ends with it: mov x0, #code; mov x8, #93; svc #0
	for code in 0 3; do
		python3 -c 'import struct, sys
code = int(sys.argv[1])
sys.stdout.buffer.write(struct.pack("<4s5B7x2HI3QI6H", b"\x7fELF", 2, 1, 1, 0, 0, 2, 183, 1, 0x400078, 64, 0, 0, 64, 56, 1, 0, 0, 0)
	+ struct.pack("<2I6Q", 1, 5, 0, 0x400000, 0x400000, 0x84, 0x84, 0x1000)
	+ struct.pack("<3I", 0xd2800000 | code << 5, 0xd2800ba8, 0xd4000001))' "$code" >"$C/$code"
	done
	chmod +x "$C"/[03]
	emulated() {
		run without3 "$BIN/../emulate" "$BALENA" --root "$ROOT" --runroot "$RUNROOT" build --progress plain --no-cache --network none --platform linux/arm64 "$C"
		echo "$output"
	}
	dockerfile <<<"FROM scratch"$'\n'"COPY 0 /0"$'\n'"RUN [\"/0\"]"
	emulated
	[ "$status" -eq 0 ]
	sed -i 's/0/3/g' "$C/Dockerfile"
	emulated
	assert_equal "$status" 1
	assert_match 'Dockerfile:3: RUN .*exit code 3'
}

@test "base images are those of the platform, and leave this machine's their name" {
	local own list=$REGISTRY/bases-$BALENA_TEST_MODE:1
	own=$(balena image inspect --format '{{.Architecture}}' busybox)
	dockerfile <<<"FROM scratch"$'\n'"COPY Dockerfile /of"$'\n'"ARG TARGETARCH"$'\n'"ENV OF=\$TARGETARCH"
	built --platform "linux/$own,linux/$OTHER" --push -t "$list"
	run_balena rmi "$list"
	run_balena image prune -f
	run_balena pull -q "$list"
	dockerfile <<<"FROM --platform=\$BUILDPLATFORM $list AS here"$'\n'"FROM $list"$'\n'"COPY --from=here /of /from-here"
	run_balena -125 build -q --platform linux/$OTHER "$C"
	assert_stderr 'for two platforms'
	dockerfile <<<"FROM --platform=\$BUILDPLATFORM busybox AS here"$'\n'"FROM $list"$'\n'"COPY --from=here /bin/true /from-here"
	built --platform linux/$OTHER -t foreign
	assert_equal "$(config '{{.Architecture}} {{index .Config.Env 1}}')" "$OTHER OF=$OTHER"
	run_balena image inspect --format '{{.Architecture}}' "$list"
	assert_output "$own"
	# what was pulled is found again without the registry
	dockerfile <<<"FROM $list"$'\n'"LABEL again=1"
	built --platform linux/$OTHER --pull=never
	assert_equal "$(config '{{.Architecture}}')" $OTHER
	built
	assert_equal "$(config '{{.Architecture}}')" "$own"
	# one here that has no image of the platform
	dockerfile <<<"FROM busybox"$'\n'"LABEL x=1"
	run_balena -1 build -q --pull=never --platform linux/$OTHER "$C"
	assert_stderr 'image busybox is not here'
}

@test "a list of this machine can be built upon" {
	dockerfile <<<"FROM scratch"$'\n'"COPY Dockerfile /of"
	built --platform "linux/amd64,linux/arm64,linux/$OTHER" -t mine:1
	dockerfile <<<"FROM mine:1"$'\n'"LABEL on=1"
	built --platform linux/$OTHER
	assert_equal "$(config '{{.Architecture}} {{.Config.Labels.on}}')" "$OTHER 1"
}

@test "--push sends image and list, and says what; without a name there is nothing to push" {
	dockerfile <<<"FROM busybox"$'\n'"LABEL pushed=1"
	run_balena build --push -t "$REGISTRY/pushed-$BALENA_TEST_MODE:1" --metadata-file "$BATS_TEST_TMPDIR/meta" "$C"
	assert_stderr "pushing $REGISTRY/pushed-$BALENA_TEST_MODE:1 done: sha256:[0-9a-f]+"
	local digest
	digest=$(jq -r '."containerimage.digest"' "$BATS_TEST_TMPDIR/meta")
	assert_stderr "$digest"
	run_balena rmi -f "$REGISTRY/pushed-$BALENA_TEST_MODE:1"
	run_balena pull -q "$REGISTRY/pushed-$BALENA_TEST_MODE@$digest"
	run_balena -125 build --push "$C"
	assert_stderr 'without a name cannot be pushed'
	run_balena build -q -o "type=image,name=$REGISTRY/out-$BALENA_TEST_MODE:1,push=true" "$C"
	run_balena manifest inspect "docker://$REGISTRY/out-$BALENA_TEST_MODE:1"
	run_balena buildx build --load -q -o "type=registry,name=$REGISTRY/out-$BALENA_TEST_MODE:2" "$C"
	run_balena manifest inspect "docker://$REGISTRY/out-$BALENA_TEST_MODE:2"
	run_balena -1 build -q --push -t "127.0.0.1:1/nobody:1" "$C"
}

@test "--output: folders, archives of files and of images, files and stdout" {
	echo content >"$C/f"
	dockerfile <<<"FROM scratch"$'\n'"COPY f /f"
	local o=$BATS_TEST_TMPDIR
	built -t out:1 -o "$o/plain" -o "type=tar,dest=$o/files.tar" -o "type=oci,dest=$o/oci.tar" -o "type=docker,dest=$o/docker.tar" -o "type=oci,tar=false,dest=$o/layout"
	assert_equal "$(cat "$o/plain/f")" content
	assert_equal "$(tar xOf "$o/files.tar" f)" content
	local a
	for a in oci docker; do
		run_balena rmi out:1
		run_balena load -i "$o/$a.tar"
		run_balena image exists out:1
		assert_equal "$(balena image inspect --format '{{.Id}}' out:1)" "$id"
	done
	jq -e '.manifests | length == 1' "$o/layout/index.json"
	# nothing but the archive on stdout
	run without3 bash -c "'$BALENA' --root '$ROOT' --runroot '$RUNROOT' build -q -o - '$C' 2>/dev/null | tar xO f"
	assert_output content
	run without3 bash -c "'$BALENA' --root '$ROOT' --runroot '$RUNROOT' build -q -t out:2 -o type=oci,dest=- '$C' 2>/dev/null | tar xO index.json | jq -r '.manifests[0].annotations[\"io.containerd.image.name\"]'"
	assert_output docker.io/library/out:2
	# several platforms
	built --platform linux/amd64,linux/$OTHER -o "$o/each" -o "type=oci,dest=$o/list.tar"
	assert_equal "$(cat "$o/each/linux_amd64/f" "$o/each/linux_$OTHER/f")" $'content\ncontent'
	tar xOf "$o/list.tar" index.json | grep -q 'index.v1'
	run_balena -125 build --platform linux/amd64,linux/$OTHER -o "type=docker,dest=$o/no.tar" "$C"
	local bad
	for bad in type=nosuch type=tar type=local,x=y type=oci,tar=maybe,dest=x type=oci,tar=false; do
		run_balena -125 build -o "$bad" "$C"
	done
}

# ---- deltas ------------------------------------------------------------------

# release N: a context with a file that changes, and others that do not but for
# their times: a fresh checkout.
release() {
	local i
	mkdir -p "$C/app"
	[ -e "$C/app/big" ] || head -c 3000000 /dev/urandom >"$C/app/big"
	for i in $(seq 200); do echo "file $i of every release" >"$C/app/$i"; done
	for i in $(seq 200); do touch -d "@$((1700000000 + $1 * 100000 + RANDOM % 600))" "$C/app/$i"; done
	echo "version $1" >"$C/app/version"
}

@test "--delta-from makes a delta to what was built, and --push publishes it" {
	local name=$REGISTRY/fleet-$BALENA_TEST_MODE
	dockerfile <<<"FROM busybox"$'\n'"COPY app /app"
	release 1
	built --push -t "$name:1"
	release 2
	run_balena build --delta-from "$name:1" -t "$name:2" "$C"
	assert_stderr 'RATIO'
	run_balena -125 image delta ls "docker://$name:2"
	run_balena build --push --delta-from "$name:1" -t "$name:2" "$C"
	assert_stderr 'published in'
	run_balena image delta ls "docker://$name:2"
	assert_match "fleet-$BALENA_TEST_MODE:1 "
	run_balena rmi "$name:2"
	run_balena image prune -f
	run_balena pull "$name:2"
	assert_stderr 'delta|saved'
	run_balena -1 build --delta-from nosuch:1 -t "$name:3" "$C"
	assert_stderr 'no such image'
}

@test "reproducible builds give smaller deltas" {
	local kind n flags
	dockerfile <<<"FROM busybox"$'\n'"COPY app /app"$'\n'"RUN echo generated >/gen"$'\n'"COPY app/version /version"
	declare -A size
	for kind in plain fixed; do
		flags=()
		[ $kind = plain ] || flags=(--timestamp 1000)
		for n in 1 2; do
			release $n
			built --no-cache "${flags[@]}" -t "$kind:$n"
		done
		run_balena image delta -o "$BATS_TEST_TMPDIR/$kind.tar" --format '{{.Size}}' $kind:1 $kind:2
		size[$kind]=$output
	done
	echo "delta: ${size[plain]} bytes with new times, ${size[fixed]} with --timestamp"
	[ $((size[fixed] * 2)) -lt "${size[plain]}" ] || fail "it is not half"
}
