#!/usr/bin/env bats
# balena image delta: making deltas, publishing them, listing and removing them.

load helpers
load delta

# Images of four versions, of which the upper layer changes; one with nothing in
# common; and an index of two platforms.
setup_file() {
	file_setup
	local d=$T/images
	mkdir -p "$d/base/etc" "$d/other"
	noise 400000 1 >"$d/base/etc/lower"
	: >"$d/other/x"
	pack base
	pack other
	local v spec='{"tag": "other", "manifests": [{"platform": "linux/amd64", "layers": [{"tar": "other.tar"}]}]}'
	for v in 1 2 3 4; do
		mkdir -p "$d/v$v/app"
		{ noise 900000 3; echo "version $v"; noise 100000 4; } >"$d/v$v/app/big"
		noise 20000 "1$v" >"$d/v$v/app/new"
		pack "v$v"
		spec+=", {\"tag\": \"v$v\", \"manifests\": [$(manifest linux/amd64 "$v")]}"
	done
	for v in 1 2; do
		spec+=", {\"tag\": \"multi$v\", \"manifests\": [$(manifest linux/amd64 "$v"), $(manifest linux/arm64 "$((v + 2))")]}"
	done
	(cd "$d" && "$BIN/mkimage" "$d/layout" <<<"[$spec]")
	REPO=$REGISTRY/delta-$BALENA_TEST_MODE
	export REPO
	"$BIN/../registry/registry" push "$REGISTRY" "$d/layout" "${REPO#*/}"
	export TMPDIR=$T/tmp
}
teardown_file() { file_teardown; }

manifest() { echo "{\"platform\": \"$1\", \"config\": {\"Cmd\": [\"v$2\"]}, \"layers\": [{\"tar\": \"base.tar\"}, {\"tar\": \"v$2.tar\"}]}"; }

setup() {
	rm -f "$T"/out*
	O=
}
teardown() {
	[ -z "$O" ] || { kill "$O_PID" 2>/dev/null || true; }
	local tag
	for tag in v1 v2 v3 v4 other multi2; do
		balena image delta rm "$REPO:$tag" >/dev/null 2>&1 || true
	done
	local ids
	ids=$(balena images -aq 2>/dev/null | sort -u) || true
	# shellcheck disable=SC2086 # one word an id
	[ -z "$ids" ] || balena rmi -f $ids >/dev/null 2>&1 || true
	assert_empty "$(ls -A "$T/tmp")"
}

tags() { curl -s "http://${1%%/*}/v2/${1#*/}/tags/list" | jq -r '.tags | sort | join(" ")'; }

# oci_registry ARGS...: a registry with the referrers API, and the images in it;
# sets O, O_LOG.
oci_registry() {
	O_LOG=$BATS_TEST_TMPDIR/oci.log
	"$BIN/ociregistry" "$@" >"$O_LOG" 2>&1 3>&- &
	O_PID=$!
	echo "$O_PID" >"$T/oci.pid"
	eventually test -s "$O_LOG"
	O=$(head -1 "$O_LOG")/app
}
oci_push() { "$BIN/../registry/registry" push "${O%%/*}" "$T/images/layout" "${O#*/}" "$@"; }

@test "what is published is found by pull, and no tag that people see changes (docker-registry, OCI's fallback tag)" {
	local before
	before=$(tags "$REPO")
	run_balena image delta --push "docker://$REPO:v1" "docker://$REPO:v2"
	assert_match 'BASE +TARGET +WHOLE LAYERS +DELTA +RATIO +TIME +MEMORY'
	assert_match "published in $REPO: sha256:[0-9a-f]{64}"
	assert_empty "$(balena images -q)"
	assert_equal "$(tags "$REPO" | tr ' ' '\n' | grep -v '^sha256-' | tr '\n' ' ')" "$before "
	balena pull -q "$REPO:v1" >/dev/null
	run_balena pull "$REPO:v2"
	assert_stderr 'delta from .*:v1: fetched .* instead of'
	run_balena image delta ls "$REPO:v2"
	assert_match "[0-9a-f]{12} +$REPO:v1 +linux/amd64 +1.0[0-9]MB +[0-9.]+kB +[0-9]+x"
	run_balena image delta rm "$REPO:v2"
	assert_match '^Deleted: sha256:'
	run_balena image delta ls -q "$REPO:v2"
	assert_empty "$output"
	assert_equal "$(tags "$REPO")" "$before"
}

@test "the same with a registry that has the referrers API" {
	oci_registry
	oci_push
	local before
	before=$(tags "$O")
	run_balena image delta --push "docker://$O:v1" "docker://$O:v2"
	assert_equal "$(tags "$O")" "$before"
	balena pull -q "$O:v1" >/dev/null
	: >"$O_LOG"
	run_balena pull "$O:v2"
	assert_stderr 'delta from .*:v1: fetched .* instead of'
	assert_equal "$(grep -c /referrers/ "$O_LOG")" 1
	run_balena image delta rm "$O:v2"
	run_balena image delta ls -q "$O:v2"
	assert_empty "$output"
}

@test "a delta is the same from the store and from the registry, and each time" {
	balena pull -q "$REPO:v1" >/dev/null
	balena pull -q --no-delta "$REPO:v2" >/dev/null
	local digests
	digests=$(for pair in "$REPO:v1 $REPO:v2" "docker://$REPO:v1 docker://$REPO:v2" "$REPO:v1 docker://$REPO:v2" "docker://$REPO:v1 $REPO:v2" "$REPO:v1 $REPO:v2"; do
		# shellcheck disable=SC2086 # two words
		balena image delta -o "$T/out" --format '{{.Digest}}' $pair
		sha256sum <"$T/out"
	done | sort -u)
	assert_equal "$(wc -l <<<"$digests")" 2 # one of the delta, one of the archive
}

@test "root and an unprivileged user make the same delta" {
	# Both modes push the same images to the registry, one after the other.
	local repo=$REGISTRY/delta-same first
	"$BIN/../registry/registry" push "$REGISTRY" "$T/images/layout" delta-same v1 v2
	first=$(balena image delta ls -q "$repo:v2")
	balena pull -q "$repo:v1" >/dev/null
	run_balena image delta -q --force --push "$repo:v1" "docker://$repo:v2"
	[ -z "$first" ] || assert_output "$first"
	run_balena image delta ls -q "$repo:v2"
	assert_match '^sha256:[0-9a-f]{64}$'
}

@test "without a place to go to it says what to add" {
	run_balena -125 image delta "docker://$REPO:v1" "docker://$REPO:v2"
	assert_stderr 'add --push .* -o FILE .* -t NAME'
	run_balena -125 image delta --push "docker://$REPO:v2"
	assert_stderr 'at least one BASE'
	run_balena -125 image delta --level 12 --push "docker://$REPO:v1" "docker://$REPO:v2"
	assert_stderr 'level'
}

@test "an unknown image is an error that names it, and the other bases are made" {
	run_balena -125 image delta --push no/such:1 "docker://$REPO:v1" "docker://$REPO:v2"
	assert_stderr 'no such image: no/such:1'
	assert_match "published in"
	run_balena -125 image delta --push "docker://$REPO:nope" "docker://$REPO:v2"
	assert_stderr 'nope'
	run_balena -125 image delta --push "docker://$REPO:v1" "docker://$REPO:nope"
	assert_stderr 'reading target .*nope'
}

@test "base and target that are the same image are an error" {
	run_balena -125 image delta --push "docker://$REPO:v1" "docker://$REPO:v1"
	assert_stderr 'base and target are the same image'
}

@test "what would not save is said and not published, unless --force" {
	run_balena image delta --push "docker://$REPO:v1" "docker://$REPO:other"
	assert_stderr 'it saves nothing: [0-9]+ bytes'
	run_balena image delta ls -q "$REPO:other"
	assert_empty "$output"
	run_balena image delta --force --push "docker://$REPO:v1" "docker://$REPO:other"
	run_balena image delta ls -q "$REPO:other"
	assert_match '^sha256:'
}

@test "the target must be in the repository" {
	run_balena -125 image delta --push="$REGISTRY/elsewhere" "docker://$REPO:v1" "docker://$REPO:v2"
	assert_stderr 'does not have the image that the delta leads to: .*elsewhere'
	assert_stderr 'hint: push it there first'
	balena pull -q "$REPO:v2" >/dev/null
	balena tag "$REPO:v2" localhost/mine:1
	run_balena -125 image delta --push "docker://$REPO:v1" localhost/mine:1
}

@test "a registry that is not there is an error that says so" {
	oci_registry
	kill "$O_PID"
	run_balena -125 image delta --push "docker://$O:v1" "docker://$O:v2"
	assert_stderr "$O.*connection refused"
	run_balena -125 image delta ls "$O:v2"
	assert_stderr 'connection refused'
}

@test "without the right to push nothing is published, and it says so" {
	local private
	private=$(private_registry)
	REGISTRY_CREDS=tester:secret "$BIN/../registry/registry" push "$private" "$T/images/layout" app v1 v2
	run_balena -125 image delta --push "docker://$private/app:v1" "docker://$private/app:v2"
	assert_stderr 'hint: log in'
	run_balena -125 image delta --creds tester:wrong --push "docker://$private/app:v1" "docker://$private/app:v2"
	assert_stderr 'hint: log in'
	balena login --authfile "$T/auth.json" -u tester -p secret "$private" >/dev/null
	run_balena image delta --authfile "$T/auth.json" --push "docker://$private/app:v1" "docker://$private/app:v2"
	run_balena image delta ls --creds tester:secret -q "$private/app:v2"
	assert_match '^sha256:'
	private_registry_stop
}

@test "a registry that forbids deleting is an error with a hint, and the delta stays" {
	oci_registry -no-delete
	oci_push v1 v2
	run_balena image delta -q --push "docker://$O:v1" "docker://$O:v2"
	local digest=$output
	run_balena -125 image delta rm "$O:v2"
	assert_stderr 'does not allow deleting'
	assert_stderr 'hint: .*delete'
	run_balena image delta ls -q "$O:v2"
	assert_output "$digest"
	run_balena -125 image delta rm "$O:v2" 000000000000
	assert_stderr 'no such delta: 000000000000'
}

@test "an archive updates a device without a network" {
	run_balena image delta -o "$T/out.tar" "docker://$REPO:v1" "docker://$REPO:v2"
	[ "$(stat -c %s "$T/out.tar")" -lt 100000 ] || fail "the archive has $(stat -c %s "$T/out.tar") bytes"
	run_balena -125 pull -q "oci-archive:$T/out.tar"
	balena pull -q "$REPO:v1" >/dev/null
	run_balena pull -q "oci-archive:$T/out.tar"
	local id=$output
	run_balena pull -q --no-delta "$REPO:v2"
	assert_output "$id"
	"$BALENA" --root "$ROOT" --runroot "$RUNROOT" image delta -o - "$REPO:v1" "$REPO:v2" >"$T/out2.tar" 2>"$T/out.err" 3>&-
	cmp "$T/out.tar" "$T/out2.tar"
	grep -q 'WHOLE LAYERS' "$T/out.err"
}

@test "an archive that cannot be written leaves the old one and nothing else" {
	mkdir "$T/out.d"
	echo old >"$T/out.d/update.tar"
	run_balena -125 image delta -o "$T/out.d/update.tar" no/such:1 "docker://$REPO:v2"
	assert_equal "$(cat "$T/out.d/update.tar")" old
	assert_equal "$(ls -A "$T/out.d")" update.tar
	run_balena -125 image delta -o "$T/no/such/update.tar" "docker://$REPO:v1" "docker://$REPO:v2"
	assert_stderr 'no such file or directory'
	run_balena -any image delta -o /dev/full "docker://$REPO:v1" "docker://$REPO:v2"
	assert_equal "$status" 125
	assert_stderr 'no space left'
	rm -r "$T/out.d"
}

@test "-t stores a delta as an image" {
	run_balena image delta -t "localhost/delta:1-2" "docker://$REPO:v1" "docker://$REPO:v2"
	assert_match 'stored as localhost/delta:1-2: sha256:[0-9a-f]{64}'
	run_balena inspect --type image --format '{{len .RootFS.Layers}} {{index .Config.Labels "io.balena.delta.base"}}' localhost/delta:1-2
	assert_match '^1 sha256:[0-9a-f]{64}$'
	run_balena -125 image delta -t x:1 "docker://$REPO:v1" "docker://$REPO:v3" "docker://$REPO:v2"
	assert_stderr 'one delta only'
}

@test "--from-tags makes deltas from the last releases, and none a second time" {
	run_balena image delta -q --from-tags 'v*' --last 2 --push "docker://$REPO:v4"
	assert_equal "${#lines[@]}" 2
	run_balena image delta --from-tags 'v*' --last 9 --push --format '{{.Base}} {{.Skipped}}' "docker://$REPO:v4"
	assert_equal "${#lines[@]}" 3
	assert_equal "$(grep -c 'published already' <<<"$output")" 2
	run_balena image delta ls -q "$REPO:v4"
	assert_equal "${#lines[@]}" 3
	run_balena image delta --from-tags 'none*' --push "docker://$REPO:v4"
	assert_stderr 'no other image has a tag that fits "none\*"'
	run_balena -125 image delta --from-tags 'v*' --push "docker://$REPO:v1" "docker://$REPO:v4"
	assert_stderr 'just a TARGET'
}

@test "--all-platforms makes a delta for each platform of an index" {
	run_balena image delta --all-platforms --push --format '{{.Platform}} {{.Artifact}}' "docker://$REPO:multi1" "docker://$REPO:multi2"
	assert_match 'linux/amd64 sha256:.*
linux/arm64 sha256:'
	run_balena image delta ls -q "$REPO:multi2"
	assert_equal "${#lines[@]}" 2
	run_balena image delta ls --platform linux/arm64 --format '{{.Platform}}' "$REPO:multi2"
	assert_output linux/arm64
}

@test "the summary as JSON, and only the digest with -q" {
	run_balena image delta --push --format json "docker://$REPO:v1" "docker://$REPO:v2"
	echo "$output" | jq -e '.Size > 0 and .Size < .Whole and .Whole < .Tar and .Ratio > 5 and .Seconds > 0 and .Memory > 1000000
		and (.Layers | length) == 1 and (.BaseID | startswith("sha256:")) and .Platform == "linux/amd64"'
	assert_empty "$stderr"
	run_balena image delta ls --format json "$REPO:v2"
	echo "$output" | jq -e '.Size > 0 and .Ratio > 5 and .BaseNames == null'
	run_balena image delta -q --force --push "docker://$REPO:v1" "docker://$REPO:v2"
	assert_match '^sha256:[0-9a-f]{64}$'
}

@test "progress is one line on a terminal" {
	on_terminal "" "$BALENA" --root "$ROOT" --runroot "$RUNROOT" image delta --push "docker://$REPO:v1" "docker://$REPO:v2"
	assert_equal "$status" 0
	assert_match 'delta from docker://.*: making [0-9]+%'
}

@test "a full folder of temporary files is an error that names it" {
	rootless_skip "needs a filesystem of its own"
	mkdir -p "$T/full"
	mount -t tmpfs -o size=256k tmpfs "$T/full"
	TMPDIR=$T/full run_balena -125 image delta --push "docker://$REPO:v1" "docker://$REPO:v2"
	assert_stderr "not enough free space in $T/full"
	assert_empty "$(ls -A "$T/full")"
	umount "$T/full"
	run_balena image delta ls -q "$REPO:v2"
	assert_empty "$output"
}

@test "killed in the middle it leaves nothing" {
	balena pull -q "$REPO:v1" >/dev/null
	local base i
	for base in "$REPO:v1" "docker://$REPO:v1"; do
		for i in 1 2 3 4 5 6; do
			"$BALENA" --root "$ROOT" --runroot "$RUNROOT" image delta -q --level 9 --force --push "$base" "docker://$REPO:v2" >"$T/out" 2>&1 3>&- &
			sleep "0.0$i"
			kill -9 $! 2>/dev/null || true
			wait $! 2>/dev/null || true
			assert_empty "$(ls -A "$T/tmp")"
		done
	done
	run_balena rmi "$REPO:v1"
	run_balena image delta -q --force --push "docker://$REPO:v1" "docker://$REPO:v2"
	run_balena image delta ls -q "$REPO:v2"
	assert_equal "${#lines[@]}" 1
}

@test "interrupted, it stops at once and says so by its status" {
	"$BALENA" --root "$ROOT" --runroot "$RUNROOT" image delta -q --level 9 --push "docker://$REPO:v1" "docker://$REPO:v2" >"$T/out" 2>&1 3>&- &
	local pid=$! rc=0
	sleep 0.3
	kill -INT "$pid" 2>/dev/null || true
	wait "$pid" || rc=$?
	[ "$rc" -eq 130 ] || [ "$rc" -eq 0 ] || fail "status $rc: $(cat "$T/out")"
}
