#!/usr/bin/env bats
# balena pull: what it fetches, from where, and what it leaves when it fails.

load helpers

setup_file() { file_setup; }
teardown_file() { file_teardown; }

teardown() {
	faultproxy_stop
	if mountpoint -q "$T/small"; then
		umount "$T/small/root/overlay" 2>/dev/null || true
		umount "$T/small"
	fi
	local ids
	ids=$(balena images -aq 2>/dev/null | sort -u) || true
	# shellcheck disable=SC2086 # one word an id
	[ -z "$ids" ] || balena rmi -f $ids >/dev/null 2>&1 || true
}

id='^[0-9a-f]{64}$'

@test "pull prints the image's ID on stdout and nothing else there" {
	run_balena pull "$BUSYBOX"
	assert_match "$id"
	run_balena images -q --no-trunc
	assert_match "[0-9a-f]{64}"
}

@test "pull -q says nothing on stderr" {
	run_balena pull -q "$BUSYBOX"
	assert_match "$id"
	assert_empty "$stderr"
}

@test "pull without a terminal reports in plain lines" {
	run_balena pull "$BUSYBOX"
	[ -n "$stderr" ] || fail "no progress"
	[[ $stderr != *$'\e['* ]] || fail "escape sequences: $stderr"
	[[ $stderr != *$'\r'* ]] || fail "carriage returns: $stderr"
}

@test "pull on a terminal draws progress" {
	on_terminal "" "$BALENA" --root "$ROOT" --runroot "$RUNROOT" pull "$REGISTRY/busybox:big"
	assert_equal "$status" 0
	[[ $output == *$'\e['* || $output == *$'\r'* ]] || fail "no progress bar"
}

@test "pull of docker:// and of a bare reference are the same" {
	run_balena pull -q "docker://$BUSYBOX"
	local one=$output
	run_balena pull -q "$BUSYBOX"
	assert_output "$one"
}

@test "pull takes a tag, a digest, and both" {
	local digest
	digest=$(skopeo inspect --tls-verify=false --format '{{.Digest}}' "docker://$BUSYBOX")
	run_balena pull -q "$REGISTRY/busybox@$digest"
	local one=$output
	run_balena pull -q "$BUSYBOX"
	assert_output "$one"
	run_balena pull -q "$REGISTRY/busybox:latest@$digest"
	assert_output "$one"
}

@test "pull without a tag means latest" {
	run_balena pull -q "$REGISTRY/busybox"
	run_balena image exists "$BUSYBOX"
}

@test "pull reads gzip, zstd and uncompressed layers, in OCI and docker's format" {
	local tag
	for tag in latest zstd plain docker; do
		run_balena pull -q "$REGISTRY/busybox:$tag"
		run_balena run --rm --network none "$REGISTRY/busybox:$tag" cat /etc/layer2
		assert_output "second layer"
	done
}

@test "every kind of entry and every whiteout arrives" {
	run_balena pull -q "$REGISTRY/busybox:kinds"
	run_balena run --rm --network none "$REGISTRY/busybox:kinds" sh -c '
		cd /kinds
		cat file opaque/shown hardlink; readlink symlink; readlink dangling
		[ ! -e gone ] && [ ! -e gone-dir ] && [ ! -e opaque/hidden ] && echo whiteouts
		[ -p fifo ] && [ -s sparse ] && [ ! -s empty ] && [ -u setuid ] && echo kinds
		stat -c "%u:%g %a" owned; ls | grep -c long'
	assert_output "two
shown
one
file
/nowhere
whiteouts
kinds
1000:1001 640
1"
}

@test "a whole Debian arrives: dpkg finds no file changed" {
	run_balena pull -q "$REGISTRY/debian:bookworm"
	run_balena run --rm --network none "$REGISTRY/debian:bookworm" dpkg --verify
	# the image is made without apt's caches and logs
	assert_empty "$(grep -v '^missing  *\(c \)\?/var/\(cache\|lib/apt\|log\)' <<<"$output" || true)"
}

@test "an index gives the machine's platform, or the one asked for" {
	run_balena pull -q "$REGISTRY/busybox:multi"
	run_balena inspect --type image --format '{{.Architecture}}' "$REGISTRY/busybox:multi"
	assert_output amd64
	run_balena pull -q --platform linux/arm64 "$REGISTRY/busybox:multi"
	run_balena inspect --type image --format '{{.Architecture}}' "$REGISTRY/busybox:multi"
	assert_output arm64
	run_balena pull -q --platform linux/arm/v7 "$REGISTRY/busybox:multi"
	run_balena inspect --type image --format '{{.Architecture}}' "$REGISTRY/busybox:multi"
	assert_output arm
}

@test "an index without the platform is an error that names it" {
	run_balena -125 pull "$REGISTRY/busybox:foreign"
	assert_stderr 'amd64'
	run_balena -125 pull --platform linux/mips64 "$REGISTRY/busybox:multi"
	assert_stderr 'mips64'
}

@test "pull --all-tags fetches every tag" {
	local addr=$REGISTRY
	skopeo copy --quiet --src-tls-verify=false --dest-tls-verify=false "docker://$addr/busybox:latest" "docker://$addr/many-$BALENA_TEST_MODE:a"
	skopeo copy --quiet --src-tls-verify=false --dest-tls-verify=false "docker://$addr/busybox:config" "docker://$addr/many-$BALENA_TEST_MODE:b"
	run_balena pull -q --all-tags "$addr/many-$BALENA_TEST_MODE"
	run_balena image exists "$addr/many-$BALENA_TEST_MODE:a"
	run_balena image exists "$addr/many-$BALENA_TEST_MODE:b"
	run_balena -125 pull --all-tags "$addr/many-$BALENA_TEST_MODE:a"
}

@test "pull reads the other transports" {
	local t=$BATS_TEST_TMPDIR
	skopeo copy --quiet "oci:$LAYOUTS/busybox:latest" "oci-archive:$t/oci.tar:latest"
	skopeo copy --quiet "oci:$LAYOUTS/busybox:latest" "docker-archive:$t/docker.tar:example.org/from-archive:1"
	skopeo copy --quiet "oci:$LAYOUTS/busybox:latest" "dir:$t/dir"
	local ref
	for ref in "oci:$LAYOUTS/busybox:latest" "oci-archive:$t/oci.tar:latest" "docker-archive:$t/docker.tar" "dir:$t/dir"; do
		run_balena pull -q "$ref"
		assert_match "$id"
		run_balena run --rm --network none "$output" cat /etc/layer2
		assert_output "second layer"
	done
	run_balena image exists example.org/from-archive:1
}

@test "pulling again changes nothing and fetches no layer" {
	faultproxy -fault none
	run_balena pull -q "$PROXY/busybox:latest"
	local one=$output layer
	run_balena pull -q "$PROXY/busybox:latest"
	assert_output "$one"
	for layer in $(skopeo inspect --tls-verify=false --raw "docker://$BUSYBOX" | jq -r '.layers[].digest'); do
		assert_equal "$(grep -c "GET .*/blobs/$layer" "$PROXY_LOG")" 1
	done
}

@test "a layer that is here is not fetched again" {
	run_balena pull -q "$BUSYBOX"
	faultproxy -fault none
	run_balena pull -q "$PROXY/busybox:config"
	# the base and the extra layer are those of latest: at most the config comes
	local n
	n=$(awk '$2 ~ /blobs/ && $1 == "GET" && $5 > 100000' "$PROXY_LOG" | wc -l)
	assert_equal "$n" 0
}

# ---- errors ----------------------------------------------------------------

@test "no such tag, no such repository: not retried, named, 125" {
	faultproxy -fault none
	run_balena -125 pull "$PROXY/busybox:nonesuch"
	assert_stderr "nonesuch"
	assert_stderr "manifest unknown|not found"
	assert_empty "$output"
	assert_equal "$(grep -c 'manifests/nonesuch' "$PROXY_LOG")" 1
	run_balena -125 pull "$PROXY/nonesuch:latest"
	assert_stderr "nonesuch"
}

@test "a dead registry is an error within seconds" {
	local port
	port=$(free_port)
	TIMEOUT=30 run_balena -125 pull "127.0.0.1:$port/busybox:latest"
	assert_stderr "refused"
}

@test "bad references are refused before the network is asked" {
	run_balena -125 pull "UPPER/case:bad tag"
	assert_stderr "invalid reference|parsing"
	run_balena -125 pull "nonesuch:/x"
}

@test "wrong bytes in a layer: a digest error, and nothing of the image stays" {
	faultproxy -fault corrupt -bytes 500000
	run_balena -125 pull "$PROXY/busybox:big"
	assert_stderr "digest|does not match|mismatch|corrupt|invalid|verif"
	run_balena -1 image exists "$PROXY/busybox:big"
	assert_no_staging
	faultproxy_stop
	run_balena pull -q "$REGISTRY/busybox:big"
}

@test "wrong bytes in the config are not accepted" {
	local config
	config=$(skopeo inspect --tls-verify=false --raw "docker://$BUSYBOX" | jq -r .config.digest)
	faultproxy -fault corrupt -bytes 20 -match "$config"
	run_balena -125 pull "$PROXY/busybox:latest"
	run_balena -1 image exists "$PROXY/busybox:latest"
	assert_no_staging
}

@test "a truncated layer is an error, not half an image" {
	faultproxy -fault truncate -bytes 500000
	run_balena -125 pull "$PROXY/busybox:big"
	run_balena -1 image exists "$PROXY/busybox:big"
	assert_no_staging
}

@test "a connection cut in a layer is resumed with a Range request" {
	faultproxy -fault cut -bytes 700000 -times 3
	run_balena pull -q "$PROXY/busybox:big"
	run_balena run --rm --network none "$PROXY/busybox:big" sh -c 'wc -c </noise/big'
	assert_output $((12 << 20))
	grep -E 'GET .*/blobs/.* bytes=[1-9][0-9]*-.* 206 ' "$PROXY_LOG" || fail "no Range request: $(cat "$PROXY_LOG")"
	# what was there was not sent again: 13.7 MB in all, and the cut ones once
	local total
	total=$(awk '$2 ~ /blobs/ {s += $5} END {print s}' "$PROXY_LOG")
	[ "$total" -lt $((17 << 20)) ] || fail "$total bytes were served"
}

@test "a cut is survived when the registry ignores Range" {
	faultproxy -fault cut -bytes 700000 -times 1 -no-range
	run_balena pull -q "$PROXY/busybox:big"
	run_balena run --rm --network none "$PROXY/busybox:big" sh -c 'wc -c </noise/big'
	assert_output $((12 << 20))
}

@test "a connection cut for ever is given up after bounded retries" {
	faultproxy -fault cut -bytes 0 -match "/blobs/"
	TIMEOUT=110 run_balena -125 pull "$PROXY/busybox:latest"
	local tries
	tries=$(grep -c 'GET.*/blobs/' "$PROXY_LOG")
	[ "$tries" -gt 1 ] && [ "$tries" -lt 60 ] || fail "$tries tries"
	assert_no_staging
}

@test "404 and 401 on a layer are not retried" {
	local code
	for code in 404 401; do
		faultproxy -fault status -status $code -match /blobs/
		run_balena -125 pull "$PROXY/busybox:plain"
		local most
		most=$(grep 'GET.*/blobs/' "$PROXY_LOG" | awk '{print $2}' | sort | uniq -c | awk '{if ($1 > m) m = $1} END {print m}')
		[ "$most" -le 2 ] || fail "$code: $most tries: $(cat "$PROXY_LOG")"
		faultproxy_stop
	done
}

@test "500 on a layer passes" {
	faultproxy -fault status -status 500 -match /blobs/ -times 2
	run_balena pull -q "$PROXY/busybox:latest"
}

@test "Ctrl-C ends a pull with 130 and leaves nothing in the way" {
	faultproxy -fault slow -rate 1000000
	balena pull "$PROXY/busybox:big" >/dev/null 2>"$BATS_TEST_TMPDIR/err" &
	local pid=$! rc=0
	eventually -t 20 test -n "$(find "$ROOT/overlay" -maxdepth 0)"
	sleep 1.5
	kill -INT "$(pgrep -P "$pid" -x balena || echo "$pid")" || true
	wait "$pid" || rc=$?
	assert_equal "$rc" 130
	faultproxy_stop
	run_balena -1 image exists "$PROXY/busybox:big"
	assert_no_staging
	run_balena pull -q "$REGISTRY/busybox:big"
}

@test "a killed pull's staging is swept by the next pull" {
	faultproxy -fault slow -rate 1000000
	balena pull "$PROXY/busybox:big" >/dev/null 2>&1 &
	local pid=$!
	sleep 2
	kill -KILL "$(pgrep -P "$pid" -x balena || echo "$pid")" || true
	wait "$pid" || true
	faultproxy_stop
	run_balena pull -q "$REGISTRY/busybox:big"
	assert_no_staging
	run_balena run --rm --network none "$REGISTRY/busybox:big" true
}

# ---- the disk --------------------------------------------------------------

# small_fs SIZE: an ext4 of that size at $T/small
small_fs() {
	truncate -s "$1" "$T/small.img"
	mkfs.ext4 -q -F "$T/small.img"
	mkdir -p "$T/small"
	mount -o loop "$T/small.img" "$T/small"
}

@test "a full disk is found before the first byte, or cleaned up after" {
	rootless_skip "needs a mount"
	small_fs 16M
	faultproxy -fault none
	local rc=0
	"$BALENA" --root "$T/small/root" --runroot "$RUNROOT/small" pull "$PROXY/busybox:big" 2>"$BATS_TEST_TMPDIR/err" 3>&- || rc=$?
	cat "$BATS_TEST_TMPDIR/err"
	assert_equal "$rc" 125
	grep -qiE 'space' "$BATS_TEST_TMPDIR/err" || fail "the message does not speak of space"
	local fetched staged
	fetched=$(awk '$2 ~ /blobs/ && $1 == "GET" && $5 > 100000' "$PROXY_LOG" | wc -l)
	assert_equal "$fetched" 0
	staged=$(find "$T/small/root/overlay/staging" -mindepth 1 -maxdepth 1 2>/dev/null || true)
	assert_empty "$staged"
	# a smaller image still fits
	"$BALENA" --root "$T/small/root" --runroot "$RUNROOT/small" pull -q "$BUSYBOX" 3>&-
}

@test "a pull writes no file that is not a layer's content or metadata" {
	rootless_skip "strace keeps newuidmap from its privileges"
	command -v strace >/dev/null || skip "no strace"
	assert_only_layers "$REGISTRY/busybox:big"
}

@test "nor does a pull from an archive, a layout or a folder" {
	rootless_skip "strace keeps newuidmap from its privileges"
	command -v strace >/dev/null || skip "no strace"
	local t=$BATS_TEST_TMPDIR ref
	skopeo copy --quiet "oci:$LAYOUTS/busybox:big" "oci-archive:$t/oci.tar:big"
	skopeo copy --quiet "oci:$LAYOUTS/busybox:big" "docker-archive:$t/docker.tar:example.org/from-archive:1"
	skopeo copy --quiet "oci:$LAYOUTS/busybox:big" "dir:$t/dir"
	for ref in "oci-archive:$t/oci.tar:big" "docker-archive:$t/docker.tar" "oci:$LAYOUTS/busybox:big" "dir:$t/dir"; do
		assert_only_layers "$ref"
		balena rmi -f "$(balena images -q | head -n 1)" >/dev/null
		assert_empty "$(balena images -q)"
	done
}

@test "an archive that is compressed as a whole is refused, with what to do" {
	local t=$BATS_TEST_TMPDIR
	skopeo copy --quiet "oci:$LAYOUTS/busybox:latest" "oci-archive:$t/oci.tar:latest"
	skopeo copy --quiet "oci:$LAYOUTS/busybox:latest" "docker-archive:$t/docker.tar:example.org/from-archive:1"
	gzip "$t/oci.tar"
	zstd -q "$t/docker.tar"
	run_balena -125 pull "oci-archive:$t/oci.tar.gz:latest"
	assert_stderr "compressed, with gzip"
	assert_stderr "hint: .*gunzip"
	run_balena -125 pull "docker-archive:$t/docker.tar.zst"
	assert_stderr "compressed, with zstd"
	gunzip "$t/oci.tar.gz"
	run_balena pull -q "oci-archive:$t/oci.tar:latest"
}

@test "an oci-archive with several images asks which" {
	local t=$BATS_TEST_TMPDIR
	skopeo copy --quiet "oci:$LAYOUTS/busybox:latest" "oci:$t/layout:one"
	skopeo copy --quiet "oci:$LAYOUTS/busybox:plain" "oci:$t/layout:two"
	tar -C "$t/layout" -cf "$t/several.tar" .
	run_balena -125 pull "oci-archive:$t/several.tar"
	assert_stderr '"one", "two"'
	run_balena pull -q "oci-archive:$t/several.tar:two"
	local two=$output
	run_balena pull -q "oci-archive:$t/several.tar:@1"
	assert_output "$two"
	run_balena image exists localhost/several:two
}

# ---- access ----------------------------------------------------------------

@test "--creds opens a registry with passwords; wrong ones are an error" {
	local addr
	addr=$(private_registry)
	REGISTRY_CREDS=tester:secret "$BIN/../registry/registry" push "$addr" "$LAYOUTS/busybox" busybox latest
	run_balena -125 pull "$addr/busybox:latest"
	assert_stderr "authentication|unauthorized|denied"
	run_balena -125 pull --creds tester:wrong "$addr/busybox:latest"
	run_balena pull -q --creds tester:secret "$addr/busybox:latest"
	printf '{"auths":{"%s":{"auth":"%s"}}}' "$addr" "$(printf tester:secret | base64)" >"$T/auth.json"
	run_balena pull -q --authfile "$T/auth.json" "$addr/busybox:latest"
	# docker's own file
	mkdir -p "$HOME/.docker"
	cp "$T/auth.json" "$HOME/.docker/config.json"
	run_balena pull -q "$addr/busybox:latest"
	rm -r "$HOME/.docker"
	private_registry_stop
}

@test "a short name goes to docker.io" {
	TIMEOUT=30 run_balena -125 pull "nonesuch-$RANDOM"
	assert_stderr "docker.io|registry-1.docker"
}

@test "registries.conf: a mirror is asked first, a blocked registry never" {
	cat >"$T/registries.conf" <<-END
		[[registry]]
		prefix = "mirrored.example"
		location = "mirrored.example"
		[[registry.mirror]]
		location = "$REGISTRY"
		insecure = true
		[[registry]]
		prefix = "blocked.example"
		location = "blocked.example"
		blocked = true
	END
	CONTAINERS_REGISTRIES_CONF=$T/registries.conf run_balena pull -q mirrored.example/busybox:latest
	run_balena image exists mirrored.example/busybox:latest
	CONTAINERS_REGISTRIES_CONF=$T/registries.conf run_balena -125 pull blocked.example/busybox:latest
	assert_stderr blocked
}
