#!/usr/bin/env bats
# balena manifest: lists of images for several platforms, made here, pushed,
# pulled and saved.
# shellcheck disable=SC2030,SC2031,SC2154

load helpers

setup_file() {
	file_setup "$BUSYBOX"
	# two images that differ in more than their platform
	mkdir "$T/fs"
	echo foreign >"$T/fs/f"
	tar c -C "$T/fs" . | balena import --platform linux/arm/v7 - foreign:v7 >/dev/null
	tar c -C "$T/fs" . | balena import -c 'ENV A=1' --platform linux/s390x - foreign:s390x >/dev/null
}
teardown_file() { file_teardown; }
setup() { L=$REGISTRY/list-$BALENA_TEST_MODE-$BATS_TEST_NUMBER:v1; }

remote_list() {
	local name=${L#*/}
	curl -sf -H 'Accept: application/vnd.oci.image.index.v1+json' -H 'Accept: application/vnd.docker.distribution.manifest.list.v2+json' "http://$REGISTRY/v2/${name%:*}/manifests/${name#*:}"
}

@test "a list of local images is made, shown, pushed and pulled by platform" {
	run_balena manifest create "$L" "$BUSYBOX" foreign:v7
	assert_match '^[0-9a-f]{64}$'
	run_balena manifest inspect "$L"
	assert_equal "$(jq -r '[.manifests[].platform | "\(.os)/\(.architecture)/\(.variant // "")"] | join(" ")' <<<"$output")" \
		"linux/$(balena image inspect --format '{{.Architecture}}' "$BUSYBOX")/ linux/arm/v7"
	run_balena manifest add "$L" foreign:s390x
	assert_match '^sha256:[0-9a-f]{64}$'
	run_balena manifest push --digestfile "$BATS_TEST_TMPDIR/digest" "$L"
	assert_match '^sha256:[0-9a-f]{64}$'
	assert_equal "$(cat "$BATS_TEST_TMPDIR/digest")" "$output"
	assert_equal "$output" "sha256:$(remote_list | sha256sum | cut -d' ' -f1)"
	assert_equal "$(remote_list | jq '.manifests | length')" 3
	# what is run is this machine's
	run_balena run --rm --network none "$L" echo ran
	assert_output ran
	run_balena image inspect --format '{{.Os}}/{{.Architecture}}' "$L"
	assert_output "$(balena image inspect --format '{{.Os}}/{{.Architecture}}' "$BUSYBOX")"
	run_balena manifest rm "$L"
	assert_match "Untagged: $L"
	run_balena -1 manifest exists "$L"
	run_balena image exists foreign:v7
	run_balena pull -q --platform linux/s390x "$L"
	run_balena image inspect --format '{{.Architecture}} {{json .Config.Env}}' "$L"
	assert_output 's390x ["A=1"]'
	run_balena rmi "$L"
}

@test "annotate says more about an image, and remove takes it out" {
	run_balena manifest create --annotation who=me "$L" foreign:v7 foreign:s390x
	run_balena manifest annotate --variant v6 --os-version 1.2 --os-features f --annotation k=v "$L" foreign:v7
	run_balena manifest inspect "$L"
	assert_equal "$(jq -c '.manifests[0] | [.platform.architecture, .platform.variant, .platform["os.version"], .platform["os.features"][0], .annotations.k]' <<<"$output")" '["arm","v6","1.2","f","v"]'
	assert_equal "$(jq -r '.annotations.who + .mediaType' <<<"$output")" meapplication/vnd.oci.image.index.v1+json
	local d
	d=$(jq -r '.manifests[1].digest' <<<"$output")
	run_balena manifest remove "$L" "$d"
	run_balena -125 manifest remove "$L" "$d"
	assert_stderr 'the list does not have that image'
	assert_equal "$(balena manifest inspect "$L" | jq '.manifests | length')" 1
	run_balena manifest push --purge "$L"
	run_balena -1 manifest exists "$L"
	assert_equal "$(remote_list | jq -r '.manifests[0].platform.variant')" v6
}

@test "images of registries are added without being pulled, and copied to where the list goes" {
	run_balena push -q foreign:v7 "docker://$REGISTRY/parts-$BALENA_TEST_MODE:v7"
	run_balena manifest create --insecure "$L" "docker://$REGISTRY/parts-$BALENA_TEST_MODE:v7"
	run_balena manifest create --amend "$L" foreign:s390x
	run_balena manifest push "$L"
	assert_equal "$(remote_list | jq -r '[.manifests[].platform.architecture] | join(" ")')" 'arm s390x'
	run_balena manifest rm "$L"
	# an index of a registry, as a whole and only what is for this machine
	run_balena manifest create --all "$L" "docker://$L"
	assert_equal "$(balena manifest inspect "$L" | jq '.manifests | length')" 2
	run_balena -125 manifest add "$L" "docker://$L"
	assert_stderr 'no image for this platform'
	run_balena -125 manifest add "$L" "docker://$REGISTRY/nosuch:x"
	run_balena manifest inspect "$BUSYBOX"
	assert_equal "$(jq .schemaVersion <<<"$output")" 2
	run_balena manifest rm "$L"
}

@test "a list's images outlive prune, and go with it afterwards; system check knows lists" {
	tar c -C "$T/fs" . | balena import -c 'ENV B=2' --platform linux/riscv64 - part >/dev/null
	local id
	id=$(balena image inspect --format '{{.Id}}' part)
	run_balena manifest create "$L" part
	run_balena untag part
	run_balena image prune -f
	run_balena image exists "$id"
	run_balena images -q --no-trunc
	refute_match "$id"
	run_balena system check
	run_balena images --filter label=x
	run_balena -125 history "$L"
	assert_stderr "no image for this platform"
	run_balena tag "$L" other:list
	run_balena manifest exists other:list
	run_balena manifest rm "$L" other:list
	run_balena image prune -f
	run_balena -1 image exists "$id"
}

@test "a list is saved to an OCI archive and loaded from it" {
	run_balena manifest create "$L" "$BUSYBOX" foreign:v7
	run_balena save --format oci-archive -o "$BATS_TEST_TMPDIR/list.tar" "$L"
	run_balena -125 save -o "$BATS_TEST_TMPDIR/no.tar" "$L"
	assert_stderr 'oci-archive'
	run_balena manifest rm "$L"
	run_balena load -i "$BATS_TEST_TMPDIR/list.tar" --platform linux/arm/v7
	run_balena image inspect --format '{{.Architecture}}' "$L"
	assert_output arm
	run_balena rmi "$L"
	run without3 bash -c "'$BALENA' --root '$ROOT' --runroot '$RUNROOT' load <'$BATS_TEST_TMPDIR/list.tar'"
	run_balena run --rm --network none "$L" echo loaded
	assert_output loaded
	run_balena rmi "$L"
}

@test "what is not a list is not taken for one" {
	run_balena -125 manifest create "$BUSYBOX" foreign:v7
	assert_stderr 'not a list'
	run_balena -125 manifest push "$BUSYBOX"
	assert_stderr 'not a list'
	run_balena -125 manifest rm foreign:v7
	assert_stderr 'not a list'
	run_balena image exists foreign:v7
	run_balena -125 manifest annotate nosuch:list foreign:v7
	assert_stderr 'no such image'
	run_balena manifest create "$L"
	run_balena -125 manifest create "$L"
	assert_stderr 'a list of that name already'
	run_balena -125 manifest push "$L"
	assert_stderr 'the list is empty'
	run_balena -125 run --rm "$L"
	run_balena manifest rm "$L"
}
