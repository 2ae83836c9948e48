#!/usr/bin/env bats
# Damage is found, named and repaired: by `system check`, and by a pull.

load helpers

setup_file() { file_setup "$BUSYBOX"; }
teardown_file() { file_teardown; }
teardown() {
	remove_containers
	# whatever a test broke
	balena pull -q "$BUSYBOX" >/dev/null
	balena system check --repair --force >/dev/null
}

# layer_with FILE: the folder of the layer that has it
layer_with() {
	local f
	f=$(find "$ROOT/overlay" -path "*/diff/$1" | head -1)
	[ -n "$f" ] || fail "no layer has $1"
	echo "${f%/"$1"}"
}

@test "a healthy store is well, in full and quickly" {
	run_balena system check
	assert_match 'checked the database, [0-9]+ layers \([0-9.]+MB read\), [0-9]+ images, 0 containers: all is well'
	run_balena system check --quick
	assert_match 'sizes compared.*all is well'
}

@test "an emptied file: check says which, with the image's name, and exits with 1" {
	rootless_skip "changes files of other users"
	: >"$(layer_with bin/busybox)/bin/busybox"
	for quick in "" --quick; do
		# shellcheck disable=SC2086 # none is no word
		run_balena -1 system check $quick
		assert_match "layer [0-9a-f]{12} \($BUSYBOX\): the layer in the store is damaged: bin/busybox has 0 bytes instead of [0-9]+"
		assert_stderr "balena system check --repair"
	done
}

@test "a pull replaces a layer with an emptied file, under a container that lies on it" {
	rootless_skip "changes files of other users"
	run_balena create --name c --network none "$BUSYBOX" echo works
	local layer size
	layer=$(layer_with bin/busybox)
	size=$(stat -c %s "$layer/bin/busybox")
	: >"$layer/bin/busybox"
	run_balena pull -q "$BUSYBOX"
	assert_equal "$(stat -c %s "$layer/bin/busybox")" "$size"
	run_balena system check
	run_balena start -a c
	assert_output works
}

@test "changed content of the same size: only the full check sees it, and repairs it" {
	rootless_skip "changes files of other users"
	local layer sum
	layer=$(layer_with bin/busybox)
	sum=$(sha256sum <"$layer/bin/busybox")
	printf 'X' | dd of="$layer/bin/busybox" bs=1 seek=1000 conv=notrunc status=none
	run_balena system check --quick
	run_balena -1 system check
	run_balena system check --repair
	assert_match 'fetched again'
	assert_match 'all is well'
	assert_equal "$(sha256sum <"$layer/bin/busybox")" "$sum"
}

@test "an image that nobody can fetch again is removed, but not from under a container" {
	rootless_skip "changes files of other users"
	run_balena pull -q "oci:$LAYOUTS/busybox:kinds"
	run_balena tag localhost/busybox:kinds localhost/mine:1
	run_balena untag localhost/busybox:kinds
	run_balena create --name c --network none localhost/mine:1 true
	: >"$(layer_with kinds/setuid)/kinds/setuid"
	run_balena -1 system check --repair
	assert_stderr 'container c uses the image: remove it, or use --force'
	run_balena image exists localhost/mine:1
	run_balena system check --repair --force
	run_balena -1 image exists localhost/mine:1
	run_balena -1 container exists c
}

@test "an image's damaged configuration is fetched again" {
	rootless_skip "changes files of other users"
	local id config
	id=$(balena images -q --no-trunc "$BUSYBOX")
	config=$(grep -l '"rootfs"' "$ROOT/overlay-images/${id#sha256:}"/*)
	: >"$config"
	run_balena -1 system check
	assert_match 'is damaged'
	run_balena system check --repair
	run_balena run --rm --network none "$BUSYBOX" true
}

@test "a container without its layer is named, and removed by force only" {
	rootless_skip "changes files of other users"
	run_balena create --name c --network none "$BUSYBOX" true
	echo '[]' >"$ROOT/overlay-containers/containers.json"
	run_balena -1 system check
	assert_match 'container [0-9a-f]{12} c: its layer is missing'
	run_balena -1 system check --repair
	assert_stderr "remove it with 'balena rm', or use --force"
	run_balena system check --repair --force
	run_balena -1 container exists c
}

@test "--force alone makes no sense" {
	run_balena -125 system check --force
	assert_stderr '--repair'
}

@test "system df counts a layer once, and what could go" {
	run_balena pull -q "$REGISTRY/busybox:shared1" "$REGISTRY/busybox:shared2"
	run_balena run --name c --network none "$BUSYBOX" sh -c 'head -c 300000 /dev/zero >/file'
	run_balena system df --format '{{.Type}}={{.TotalCount}},{{.Active}}'
	assert_match 'Images=[0-9]+,1'
	assert_match 'Containers=1,0'
	run_balena system df -v
	assert_match '300kB +exited +c'
	run_balena system df
	assert_match 'TYPE +TOTAL +ACTIVE +SIZE +RECLAIMABLE'
}

@test "system prune removes what does not run, and asks before" {
	run_balena run --name c --network none -v /data "$BUSYBOX" true
	run_balena -125 system prune
	assert_stderr '--force'
	run_balena container exists c
	run_balena system prune -f --filter until=1h
	run_balena container exists c
	run_balena system prune -f --volumes
	assert_match 'Total reclaimed space'
	run_balena -1 container exists c
	assert_empty "$(ls "$ROOT/volumes" 2>/dev/null)"
	run_balena image exists "$BUSYBOX"
	run_balena system prune -af
	run_balena -1 image exists "$BUSYBOX"
}
