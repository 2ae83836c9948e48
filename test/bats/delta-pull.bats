#!/usr/bin/env bats
# Pulling by deltas: what is fetched, what happens when a delta or its base is no
# use, and archives.

load helpers
load delta

# Two versions of an image that can run, the second with a file of the first
# changed, one moved and one new, and a delta between them.
setup_file() {
	file_setup
	local d=$T/images v
	mkdir -p "$d/base/bin"
	cp /bin/busybox "$d/base/bin/sh"
	for v in sha256sum cat; do ln "$d/base/bin/sh" "$d/base/bin/$v"; done
	for v in 1 2; do
		mkdir -p "$d/v$v/app"
		{ noise 1900000 3; echo "version $v"; noise 100000 4; } >"$d/v$v/app/big"
		noise 300000 "1$v" >"$d/v$v/app/new"
		noise 500000 6 >"$d/v$v/app/moved$v"
	done
	for v in base v1 v2; do pack "$v"; done
	local spec
	spec="[$(for v in 1 2; do echo "{\"tag\": \"v$v\", \"manifests\": [$(manifest linux/amd64 "$v")]},"; done)
		{\"tag\": \"multi1\", \"manifests\": [$(manifest linux/amd64 2), $(manifest linux/arm64 1)]},
		{\"tag\": \"multi2\", \"manifests\": [$(manifest linux/amd64 1), $(manifest linux/arm64 2)]}]"
	(cd "$d" && "$BIN/mkimage" "$d/layout" <<<"$spec")
	REPO=$REGISTRY/delta-pull-$BALENA_TEST_MODE
	NAME=${REPO#*/}
	"$BIN/../registry/registry" push "$REGISTRY" "$d/layout" "$NAME"
	balena image delta -q --push --format '{{.Digest}}' "docker://$REPO:v1" "docker://$REPO:v2" >"$T/made"
	balena image delta -q -o "$T/update.tar" "docker://$REPO:v1" "docker://$REPO:v2" >/dev/null
	LAYER=$(layer v2 1)
	DELTA=$(tar -xOf "$T/update.tar" index.json | jq -r '.manifests[].annotations["io.balena.delta.blob"] // empty')
	DELTA_SIZE=$(tar -xOf "$T/update.tar" index.json | jq -r '.manifests[].annotations["io.balena.delta.size"] // empty')
	export REPO NAME LAYER DELTA DELTA_SIZE
}
teardown_file() { file_teardown; }

teardown() {
	faultproxy_stop
	remove_containers
	local ids
	ids=$(balena images -aq 2>/dev/null | sort -u) || true
	# shellcheck disable=SC2086 # one word an id
	[ -z "$ids" ] || balena rmi -f $ids >/dev/null 2>&1 || true
}

manifest() { echo "{\"platform\": \"$1\", \"config\": {\"Cmd\": [\"sh\", \"-c\", \"cat /app/* | sha256sum\"]}, \"layers\": [{\"tar\": \"base.tar\"}, {\"tar\": \"v$2.tar\"}]}"; }
# layer TAG N: the digest of a layer's blob in the registry
layer() { skopeo inspect --tls-verify=false --raw "docker://$REPO:$1" | jq -r ".layers[$2].digest"; }

# pull_base: the first version, by way of the proxy, whose registry is known then
pull_base() { balena pull -q "$PROXY/$NAME:v1" >/dev/null; : >"$PROXY_LOG"; }

# served DIGEST: bytes of a blob that went through the proxy
served() { awk -v d="/blobs/$1" 'index($2, d) && $1 == "GET" {s += $5} END {print s + 0}' "$PROXY_LOG"; }

# assert_target REF: it is the second version, byte for byte
assert_target() {
	local want
	want=$(cat "$T"/images/v2/app/* | sha256sum)
	run_balena run --rm --network none --pull never "$1"
	assert_output "$want"
	run_balena save -o "$T/saved.tar" "$1" # which compares each layer with its diffID
	assert_no_staging
}

# assert_whole: the layer was fetched whole, with a warning
assert_whole() {
	assert_stderr "warning: $1"
	[ "$(served "$LAYER")" -gt 2000000 ] || fail "$(served "$LAYER") bytes of the layer were served"
	assert_target "$PROXY/$NAME:v2"
}

@test "an update fetches the delta and nothing else, says so, and is exact" {
	faultproxy -fault none
	pull_base
	run_balena pull "$PROXY/$NAME:v2"
	assert_match '^[0-9a-f]{64}$'
	assert_stderr "delta from $PROXY/$NAME:v1: fetched [0-9.]+kB instead of [0-9.]+MB"
	refute_stderr warning
	assert_equal "$(served "$LAYER")" 0
	assert_equal "$(served "$DELTA")" "$DELTA_SIZE"
	assert_target "$PROXY/$NAME:v2"
}

@test "run pulls by a delta, too, and -q is quiet" {
	faultproxy -fault none
	pull_base
	run_balena run --rm --network none -q "$PROXY/$NAME:v2"
	assert_output "$(cat "$T"/images/v2/app/* | sha256sum)"
	assert_empty "$stderr"
	assert_equal "$(served "$LAYER")" 0
}

@test "on a terminal the delta has a bar of its own" {
	faultproxy -fault none
	pull_base
	on_terminal "" "$BALENA" --root "$ROOT" --runroot "$RUNROOT" pull "$PROXY/$NAME:v2"
	assert_equal "$status" 0
	assert_match "delta from $PROXY/$NAME:v1: Pull complete"
}

@test "--dry-run says what would be fetched and how, and fetches nothing" {
	faultproxy -fault none
	pull_base
	run_balena pull --dry-run "$PROXY/$NAME:v2"
	assert_match 'here already'
	assert_match "in the delta from $PROXY/$NAME:v1"
	assert_match 'fetches [0-9.]+kB instead of [0-9.]+MB'
	run_balena pull --dry-run --format json "$PROXY/$NAME:v2"
	assert_equal "$(jq -r '[.Layers[].How] | join(" ")' <<<"$output")" "have delta"
	assert_equal "$(jq .Fetch <<<"$output")" "$DELTA_SIZE"
	run_balena pull --dry-run --format json --no-delta "$PROXY/$NAME:v2"
	assert_equal "$(jq -r '[.Layers[].How] | join(" ")' <<<"$output")" "have whole"
	assert_equal "$(served "$LAYER")" 0
	assert_equal "$(served "$DELTA")" 0
	run_balena -1 image exists "$PROXY/$NAME:v2"
}

@test "looking for a delta is one request, none with --no-delta" {
	faultproxy -fault none
	pull_base
	balena pull -q --no-delta "$PROXY/$NAME:multi2" >/dev/null # an image without deltas, with the same layers
	balena pull -q --no-delta "$PROXY/$NAME:v2" >/dev/null
	assert_empty "$(grep -E 'referrers|sha256-' "$PROXY_LOG" || true)"
	local plain
	plain=$(wc -l <"$PROXY_LOG")
	balena rmi -f "$(balena images -q "$PROXY/$NAME:v2")" >/dev/null
	: >"$PROXY_LOG"
	# nothing is asked where no layer is missing, one question where some are
	balena pull -q "$PROXY/$NAME:v1" >/dev/null
	assert_empty "$(grep -E 'referrers|sha256-' "$PROXY_LOG" || true)"
	balena pull -q "$PROXY/$NAME:v2" >/dev/null
	assert_equal "$(grep -cE 'referrers|sha256-' "$PROXY_LOG")" 1
	[ "$(wc -l <"$PROXY_LOG")" -le $((plain + 1)) ] || fail "$(cat "$PROXY_LOG")"
}

@test "a preloaded device finds the delta at its first contact with a registry: two requests, then one" {
	faultproxy -fault none
	pull_base
	faultproxy_stop
	faultproxy -fault none # at another port: a registry that was never met
	: >"$PROXY_LOG"
	run_balena pull "$PROXY/$NAME:v2"
	assert_stderr 'fetched [0-9.]+kB instead of'
	assert_equal "$(served "$LAYER")" 0
	assert_equal "$(grep -cE 'referrers|sha256-' "$PROXY_LOG")" 2
	balena rmi -f "$PROXY/$NAME:v2" >/dev/null
	: >"$PROXY_LOG"
	balena pull -q "$PROXY/$NAME:v2" >/dev/null
	assert_equal "$(grep -cE 'referrers|sha256-' "$PROXY_LOG")" 1
}

@test "a platform's image in an index has its own deltas" {
	faultproxy -fault none
	balena pull -q --platform linux/arm64 "$PROXY/$NAME:multi1" >/dev/null
	balena image delta -q --push --platform linux/arm64 "docker://$REPO:multi1" "docker://$REPO:multi2" >/dev/null
	run_balena pull --platform linux/arm64 "$PROXY/$NAME:multi2"
	assert_stderr 'fetched [0-9.]+kB instead of'
	assert_equal "$(served "$LAYER")" 0
}

# ---- a delta that is no use --------------------------------------------------

@test "a delta that is gone, refused, cut short or damaged: whole layers and a warning" {
	local fault
	for fault in "status -status 404" "status -status 500" "status -status 401" "truncate -bytes 100000" "corrupt -bytes 200000" "corrupt -bytes 6"; do
		# shellcheck disable=SC2086 # words
		faultproxy -fault $fault -match "$DELTA"
		pull_base
		run_balena pull -q "$PROXY/$NAME:v2"
		assert_whole "delta from $PROXY/$NAME:v1: "
		assert_equal "$(served "$(layer v2 0)")" 0
		balena rmi -f "$(balena images -q "$PROXY/$NAME:v2")" "$(balena images -q "$PROXY/$NAME:v1")" >/dev/null
		faultproxy_stop
	done
}

@test "a registry that hangs, fails or talks nonsense when asked for deltas: whole layers" {
	local fault
	for fault in "stall -delay 60s" "status -status 500" "status -status 404" "corrupt -bytes 0"; do
		# shellcheck disable=SC2086 # words
		faultproxy -fault $fault -match sha256-
		pull_base
		TIMEOUT=50 run_balena pull -q "$PROXY/$NAME:v2"
		if [ "$fault" = "status -status 404" ]; then
			assert_empty "$stderr"
			assert_target "$PROXY/$NAME:v2"
		else
			assert_whole "looking for deltas"
		fi
		balena rmi -f "$(balena images -q "$PROXY/$NAME:v2")" "$(balena images -q "$PROXY/$NAME:v1")" >/dev/null
		faultproxy_stop
	done
}

@test "a delta that hangs is given up, not waited for" {
	faultproxy -fault stall -bytes 1000 -delay 200s -match "$DELTA"
	pull_base
	TIMEOUT=100 run_balena pull -q "$PROXY/$NAME:v2"
	assert_whole "delta from"
}

@test "a connection that is cut within the delta goes on there" {
	faultproxy -fault cut -bytes 100000 -times 2 -match "$DELTA"
	pull_base
	run_balena pull -q "$PROXY/$NAME:v2"
	assert_empty "$stderr"
	assert_equal "$(grep -cE "GET .*/blobs/$DELTA bytes=[1-9][0-9]*-.* 206 " "$PROXY_LOG")" 2
	assert_equal "$(served "$LAYER")" 0
	[ "$(served "$DELTA")" -lt $((DELTA_SIZE + 150000)) ] || fail "$(served "$DELTA") bytes of a delta of $DELTA_SIZE"
	assert_target "$PROXY/$NAME:v2"
}

# ---- a base that is no use ---------------------------------------------------

base_file() { find "$ROOT"/overlay/*/diff/app -name "$1"; }

@test "a base file that is damaged, cut short or removed: named, and whole layers" {
	local damage
	for damage in flip truncate remove; do
		faultproxy -fault none
		pull_base
		case $damage in
		flip) printf X | dd of="$(base_file big)" bs=1 seek=1000000 conv=notrunc status=none ;;
		truncate) truncate -s 1000000 "$(base_file big)" ;;
		remove) rm "$(base_file big)" ;;
		esac
		run_balena pull -q "$PROXY/$NAME:v2"
		[ "$damage" = remove ] || assert_stderr "damaged base file /app/big"
		assert_whole "delta from $PROXY/$NAME:v1: "
		balena rmi -f "$(balena images -q "$PROXY/$NAME:v2")" "$(balena images -q "$PROXY/$NAME:v1")" >/dev/null
		faultproxy_stop
	done
}

@test "a base whose layer is gone from the disk: whole layers" {
	faultproxy -fault none
	pull_base
	rm -rf "$(dirname "$(dirname "$(base_file big)")")"
	run_balena pull -q "$PROXY/$NAME:v2"
	assert_whole "delta from $PROXY/$NAME:v1: "
}

# ---- meanwhile -------------------------------------------------------------

# slow_pull: the update in the background, at the delta
slow_pull() {
	faultproxy -fault slow -rate "$1" -match "$DELTA"
	pull_base
	"$BALENA" --root "$ROOT" --runroot "$RUNROOT" pull -q "$PROXY/$NAME:v2" >"$BATS_TEST_TMPDIR/out" 2>&1 3>&- &
	PULL=$!
	eventually compgen -G "$RUNROOT/pull/base-*.lock"
}

@test "rmi and prune leave the base alone while it is read" {
	slow_pull 100000
	run_balena -125 rmi -f "$PROXY/$NAME:v1"
	assert_stderr "a pull is making another image from it"
	run_balena -125 rmi "$(balena images -q "$PROXY/$NAME:v1")"
	run_balena image prune -af
	run_balena image exists "$PROXY/$NAME:v1"
	wait "$PULL"
	assert_equal "$(served "$LAYER")" 0
	assert_target "$PROXY/$NAME:v2"
	run_balena rmi "$PROXY/$NAME:v1"
}

@test "a pull that is killed within the delta leaves no pin, no mount, no rest; the next one works" {
	local pid before
	before=$(wc -l </proc/self/mountinfo)
	slow_pull 20000
	for pid in $(pgrep -P "$PULL" || true) "$PULL"; do kill -KILL "$pid" 2>/dev/null || true; done
	wait "$PULL" || true
	assert_equal "$(wc -l </proc/self/mountinfo)" "$before"
	faultproxy_stop
	sleep 1.1 # what is younger could be about to be locked
	faultproxy -fault none
	balena tag "$(balena images -q | head -n 1)" "$PROXY/$NAME:v1"
	run_balena pull -q "$PROXY/$NAME:v2"
	assert_equal "$(served "$LAYER")" 0
	assert_target "$PROXY/$NAME:v2"
	run_balena rmi -f "$(balena images -q "$PROXY/$NAME:v1")"
}

@test "a pull that is interrupted within the delta tidies up" {
	slow_pull 20000
	local pid rc=0
	pid=$(pgrep -P "$PULL" -x balena || echo "$PULL")
	kill -INT "$pid"
	wait "$PULL" || rc=$?
	assert_equal "$rc" 130
	assert_no_staging
	run_balena -1 image exists "$PROXY/$NAME:v2"
	assert_empty "$(compgen -G "$RUNROOT/pull/base-*.lock" || true)"
	run_balena rmi "$PROXY/$NAME:v1"
}

@test "an update by a delta writes no file that is not a layer's content or metadata" {
	rootless_skip "strace keeps newuidmap from its privileges"
	command -v strace >/dev/null || skip "no strace"
	faultproxy -fault none
	pull_base
	assert_only_layers "$PROXY/$NAME:v2"
	assert_equal "$(served "$LAYER")" 0
}

@test "with the storage driver vfs" {
	faultproxy -fault none
	local b=("$BALENA" --root "$T/vfs" --runroot "$RUNROOT/vfs" --storage-driver vfs)
	without3 "${b[@]}" pull -q "$PROXY/$NAME:v1"
	without3 "${b[@]}" pull -q "$PROXY/$NAME:v2"
	assert_equal "$(served "$LAYER")" 0
	without3 "${b[@]}" save -o "$T/saved.tar" "$PROXY/$NAME:v2"
	cmp "$(saved_layer "$T/saved.tar" 1)" "$T/images/v2.tar"
	without3 "${b[@]}" rmi -af >/dev/null
}

# saved_layer FILE N: unpacks a layer of an archive
saved_layer() {
	tar -xOf "$1" "$(tar -xOf "$1" manifest.json | jq -r ".[0].Layers[$2]")" >"$T/saved.layer"
	echo "$T/saved.layer"
}

# ---- archives --------------------------------------------------------------

@test "load applies a delta from a file and from a pipe, to a base by any road" {
	run_balena -125 load -i "$T/update.tar"
	assert_stderr "image that the delta starts from is not here.* sha256:[0-9a-f]{64}"
	balena pull -q "oci:$T/images/layout:v1" >/dev/null
	run_balena load -i "$T/update.tar"
	assert_output "Loaded image: $REPO:v2"
	assert_target "$REPO:v2"
	balena rmi -f "$(balena images -q "$REPO:v2")" >/dev/null
	run_balena load <"$T/update.tar"
	assert_output "Loaded image: $REPO:v2"
	balena rmi -f "$(balena images -q "$REPO:v2")" >/dev/null
	gzip -c "$T/update.tar" | without3 "$BALENA" --root "$ROOT" --runroot "$RUNROOT" load -q
	assert_target "$REPO:v2"
	run_balena pull -q "oci-archive:$T/update.tar"
}

@test "load applies a delta to a base that was built here" {
	balena pull -q "$REPO:v1" >/dev/null
	printf 'FROM %s\nRUN cat /app/big >/app/copy && rm /app/big\n' "$REPO:v1" | balena build -q -t built - >/dev/null
	balena image delta -q -o "$T/built.tar" built "docker://$REPO:v2" >/dev/null
	run_balena load -i "$T/built.tar"
	assert_output "Loaded image: $REPO:v2"
	refute_stderr warning
	assert_target "$REPO:v2"
}

@test "save and load: images come back with their names, by files and pipes" {
	balena pull -q "$REPO:v1" "$REPO:v2" >/dev/null
	local before
	before=$(balena images --no-trunc --format '{{.Repository}}:{{.Tag}} {{.ID}}' | sort)
	balena save -o "$T/two.tar" "$REPO:v1" "$REPO:v2"
	cmp "$(saved_layer "$T/two.tar" 1)" "$T/images/v1.tar"
	balena save --format oci-archive "$REPO:v1" "$REPO:v2" >"$T/oci.tar"
	assert_empty "$(tar -tf "$T/oci.tar" | grep manifest.json || true)"
	skopeo inspect "docker-archive:$T/two.tar:$REPO:v2" >/dev/null
	is_rootless || skopeo inspect "oci-archive:$T/oci.tar:$REPO:v2" >/dev/null # which unpacks it first
	local how
	for how in two.tar oci.tar; do
		balena rmi -af >/dev/null
		run_balena load -q -i "$T/$how"
		assert_output "Loaded image: $REPO:v1
Loaded image: $REPO:v2"
		assert_equal "$(balena images --no-trunc --format '{{.Repository}}:{{.Tag}} {{.ID}}' | sort)" "$before"
		balena rmi -af >/dev/null
		gzip -c "$T/$how" | without3 "$BALENA" --root "$ROOT" --runroot "$RUNROOT" load
		assert_equal "$(balena images --no-trunc --format '{{.Repository}}:{{.Tag}} {{.ID}}' | sort)" "$before"
	done
	assert_target "$REPO:v2"
	run_balena -125 load -i "$T/images/v1.tar"
	assert_stderr "neither images nor deltas"
	run_balena -125 load -i "$T/nonesuch"
}

@test "an image that is a delta gives its target, under the name that was pulled" {
	balena image delta -q -t "$REPO:update" "docker://$REPO:v1" "docker://$REPO:v2" >/dev/null
	balena push -q "$REPO:update" >/dev/null
	balena rmi -af >/dev/null
	run_balena -125 pull -q "$REPO:update"
	assert_stderr "image that the delta starts from is not here"
	balena pull -q "$REPO:v1" >/dev/null
	run_balena pull "$REPO:update"
	assert_stderr "delta from $REPO:v1: fetched [0-9.]+kB"
	assert_target "$REPO:update"
	run_balena image inspect --format '{{.Id}}' "$REPO:update"
	assert_output "sha256:$(skopeo inspect --tls-verify=false --raw "docker://$REPO:v2" | jq -r .config.digest | cut -d: -f2)"
}
