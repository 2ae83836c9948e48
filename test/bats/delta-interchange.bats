#!/usr/bin/env bats
# Deltas of other tools: balena-engine's, made and applied here by librsync's own
# rdiff, and tar-diffs, made by containers/tar-diff's program.

load helpers
load delta

# An image of three layers that can run, and its next version: the first layer
# is the same, of the second a file changed, the third is another one.
setup_file() {
	file_setup
	local d=$T/images v
	mkdir -p "$d"/base/bin "$d"/lib{1,2}/lib "$d"/app{1,2}/app
	cp /bin/busybox "$d/base/bin/sh"
	for v in 1 2; do
		{ noise 300000 1; echo "library $v"; noise 200000 2; } >"$d/lib$v/lib/big"
		noise 50000 3 >"$d/lib$v/lib/same"
		seq 3000 | sed "s/^1$v.*/line of version $v/" >"$d/app$v/app/text"
		echo "$v" >"$d/app$v/app/version"
		noise 30000 "4$v" >"$d/app$v/app/new"
	done
	noise 250000 5 | tee "$d/app1/app/moved" >"$d/app2/app/elsewhere"
	for v in base lib1 lib2 app1 app2; do pack "$v"; done
	local spec
	spec=$(for v in 1 2; do
		jq -n --arg v "$v" '{tag: "v\($v)", manifests: [{platform: "linux/amd64", config: {Cmd: ["sh", "-c", "read v </app/version; echo version $v"]},
			layers: [{tar: "base.tar"}, {tar: "lib\($v).tar"}, {tar: "app\($v).tar"}]}]}'
	done | jq -s .)
	(cd "$d" && "$BIN/mkimage" "$d/layout" <<<"$spec")
	REPO=$REGISTRY/interchange-$BALENA_TEST_MODE
	export REPO
	"$BIN/../registry/registry" push "$REGISTRY" "$d/layout" "${REPO#*/}"
	engine_image
	tar_diffs
}
teardown_file() { file_teardown; }

teardown() {
	remove_containers
	local ids
	ids=$(balena images -aq 2>/dev/null | sort -u) || true
	# shellcheck disable=SC2086 # one word an id
	[ -z "$ids" ] || balena rmi -f $ids >/dev/null 2>&1 || true
}

# manifest_of VERSION, config_of VERSION: their digests, without "sha256:".
manifest_of() { jq -r --arg t "$1" '.manifests[] | select(.annotations["org.opencontainers.image.ref.name"] == $t).digest[7:]' "$T/images/layout/index.json"; }
config_of() { jq -r '.config.digest[7:]' "$T/images/layout/blobs/sha256/$(manifest_of "$1")"; }

# engine_image makes what balena-engine would: for each layer an empty tar or
# one with a delta against all layers of the base. It is pushed as docker's.
engine_image() {
	local d=$T/images v
	cat "$d"/{base,lib1,app1}.tar >"$d/all"
	rdiff -b 512 -H blake2 -S 32 signature "$d/all" "$d/sig"
	head -c 1024 /dev/zero >"$d/empty.tar"
	for v in lib app; do
		rdiff -f delta "$d/sig" "$d/${v}2.tar" "$d/delta"
		tar -cf "$d/$v.delta.tar" -C "$d" delta
	done
	jq -n --arg base "sha256:$(config_of v1)" --rawfile config "$d/layout/blobs/sha256/$(config_of v2)" \
		'[{tag: "engine", manifests: [{platform: "linux/amd64", config: {Labels: {"io.resin.delta.base": $base, "io.resin.delta.config": $config}},
			layers: [{tar: "empty.tar"}, {tar: "lib.delta.tar"}, {tar: "app.delta.tar"}]}]}]' >"$d/engine.json"
	(cd "$d" && "$BIN/mkimage" "$d/engine" <engine.json)
	"$BIN/../registry/registry" docker-format "$REGISTRY" "$d/engine" "${REPO#*/}" engine 1-2
}

# push_blob FILE, push_manifest NAME TYPE FILE: into the repository.
push_blob() {
	local at
	at=$(curl -sf -o /dev/null -D - -X POST "http://$REGISTRY/v2/${REPO#*/}/blobs/uploads/" | tr -d '\r' | sed -n 's/^[Ll]ocation: //p')
	curl -sf -X PUT -H 'Content-Type: application/octet-stream' --data-binary "@$1" "$at&digest=sha256:$(sha256sum <"$1" | cut -d' ' -f1)"
}
push_manifest() { curl -sf -X PUT -H "Content-Type: $2" --data-binary "@$3" "http://$REGISTRY/v2/${REPO#*/}/manifests/$1"; }

# describe FILE TYPE: its descriptor.
describe() { jq -n --arg d "sha256:$(sha256sum <"$1" | cut -d' ' -f1)" --argjson n "$(stat -c %s "$1")" --arg t "$2" '{mediaType: $t, digest: $d, size: $n}'; }

# tar_diffs publishes deltas of the layers as the image-deltas document says.
tar_diffs() {
	local d=$T/images v target layers=() oci=application/vnd.oci.image
	target=sha256:$(manifest_of v2)
	for v in lib app; do
		"$BIN/tar-diff" "$d/${v}1.tar" "$d/${v}2.tar" "$d/$v.tardiff"
		push_blob "$d/$v.tardiff"
		layers+=("$(describe "$d/$v.tardiff" application/vnd.tar-diff | jq --arg from "sha256:$(sha256sum <"$d/${v}1.tar" | cut -d' ' -f1)" --arg to "sha256:$(sha256sum <"$d/${v}2.tar" | cut -d' ' -f1)" \
			'.annotations = {"io.github.containers.delta.from": $from, "io.github.containers.delta.to": $to}')")
	done
	printf '{}' >"$d/config"
	push_blob "$d/config"
	jq -n --arg t "$target" --argjson config "$(describe "$d/config" application/vnd.redhat.delta.config.v1+json)" \
		"{schemaVersion: 2, mediaType: \"$oci.manifest.v1+json\", config: \$config, annotations: {\"io.github.containers.delta.target\": \$t}, layers: [$(IFS=,; echo "${layers[*]}")]}" >"$d/deltas.json"
	push_manifest "sha256:$(sha256sum <"$d/deltas.json" | cut -d' ' -f1)" "$oci.manifest.v1+json" "$d/deltas.json"
	describe "$d/deltas.json" "$oci.manifest.v1+json" | jq --arg t "$target" \
		'{schemaVersion: 2, mediaType: "application/vnd.oci.image.index.v1+json", manifests: [. + {annotations: {"io.github.containers.delta.target": $t}}]}' >"$d/index.json"
	push_manifest _deltaindex "$oci.index.v1+json" "$d/index.json"
}

@test "pull takes balena-engine's delta for the image that it leads to" {
	balena pull -q "$REPO:v1" >/dev/null
	run_balena pull --dry-run --format json "$REPO:1-2"
	assert_equal "$(jq -r '.ID, .Layers[].How' <<<"$output" | tr '\n' ' ')" "$(config_of v2) have delta delta "
	[ "$(jq .Fetch <<<"$output")" -lt 120000 ] || fail "too much to fetch: $output"
	run_balena pull "$REPO:1-2"
	assert_output "$(config_of v2)"
	run_balena run --rm --network none "$REPO:1-2"
	assert_output "version 2"
	run_balena rmi "$REPO:v1" # nothing of the base is needed any more
	run_balena run --rm --network none "$REPO:1-2"
	assert_output "version 2"
	run_balena push -q "$REPO:1-2" "$REPO:again"
	run_balena pull -q "$REPO:again"
	assert_output "$(config_of v2)"
}

@test "a base that another engine saved is good for balena-engine's delta" {
	skopeo copy -q --src-tls-verify=false "docker://$REPO:v1" "docker-archive:$T/saved.tar:$REPO:v1"
	balena load -q <"$T/saved.tar"
	rm "$T/saved.tar"
	run_balena images -q --no-trunc "$REPO:v1"
	assert_output "sha256:$(config_of v1)"
	skopeo copy -q --src-tls-verify=false "docker://$REPO:1-2" "docker-archive:$T/delta.tar:$REPO:1-2" # on a stick
	run -125 --separate-stderr balena load -q < <(gzip -c "$T/delta.tar")
	assert_stderr 'from an uncompressed file'
	run_balena load -q -i "$T/delta.tar"
	rm "$T/delta.tar"
	run_balena images -q --no-trunc "$REPO:1-2"
	assert_output "sha256:$(config_of v2)"
}

@test "without the base it says which image that is, and nothing stays" {
	run_balena -125 pull "$REPO:1-2"
	assert_stderr "takes sha256:$(config_of v1)"
	assert_empty "$(balena images -aq)"
	run_balena pull -q --no-delta "$REPO:1-2" # the delta as an image, to copy it elsewhere
	[ "$output" != "$(config_of v2)" ] || fail "that is the target"
}

@test "a base that is damaged is named, with its layer and file" {
	balena pull -q "$REPO:v1" >/dev/null
	local file
	file=$(find "$ROOT"/overlay/*/diff/lib -name big | head -1)
	chmod u+w "$file"
	printf 'damaged' | dd of="$file" bs=1 seek=100000 conv=notrunc status=none
	run_balena -125 pull "$REPO:1-2"
	assert_stderr "damaged.*lib/big"
	assert_equal "$(balena images -q | wc -l)" 1
	run_balena pull -q "$REPO:v2" # whole layers still are right
	assert_output "$(config_of v2)"
}

@test "what --compat=balena-engine makes, rdiff applies" {
	run_balena image delta --compat=balena-engine -t "$REPO:made" "docker://$REPO:v1" "docker://$REPO:v2"
	assert_match "stored as $REPO:made"
	run_balena push -q "$REPO:made"
	local d=$T/made layer i=0
	mkdir -p "$d"
	skopeo copy -q --src-tls-verify=false "docker://$REPO:made" "dir:$d/image"
	assert_equal "$(jq -r .mediaType "$d/image/manifest.json")" application/vnd.docker.distribution.manifest.v2+json
	for layer in $(jq -r '.layers[].digest[7:]' "$d/image/manifest.json"); do
		gzip -dc "$d/image/$layer" >"$d/layer$i.tar"
		i=$((i + 1))
	done
	assert_equal "$i" 3
	cmp "$d/layer0.tar" "$T/images/empty.tar"
	local name
	for name in 1:lib2 2:app2; do
		tar -xOf "$d/layer${name%:*}.tar" delta >"$d/delta"
		rdiff -f patch "$T/images/all" "$d/delta" "$d/out"
		cmp "$d/out" "$T/images/${name#*:}.tar"
	done
	balena rmi -f "$REPO:made" >/dev/null
	balena pull -q "$REPO:v1" >/dev/null
	run_balena pull -q "$REPO:made"
	assert_output "$(config_of v2)"
	run_balena -125 image delta --compat=balena-engine --push "docker://$REPO:v1" "docker://$REPO:v2"
	assert_stderr 'give it a name with -t'
}

@test "--delta-index makes layers from the tar-diffs that a repository has" {
	balena pull -q "$REPO:v1" >/dev/null
	run_balena pull --dry-run --format json "$REPO:v2"
	assert_equal "$(jq -r '.Layers[].How' <<<"$output" | tr '\n' ' ')" "have whole whole "
	run_balena pull --dry-run --format json --delta-index "$REPO:v2"
	assert_equal "$(jq -r '.Layers[].How' <<<"$output" | tr '\n' ' ')" "have delta delta "
	run_balena pull --delta-index "$REPO:v2"
	assert_output "$(config_of v2)"
	assert_stderr 'delta from .*:v1: fetched .* instead of'
	refute_stderr 'whole layers'
	run_balena run --rm --network none "$REPO:v2"
	assert_output "version 2"
}

@test "a damaged layer below a tar-diff is named, and only that is fetched whole" {
	balena pull -q "$REPO:v1" >/dev/null
	local file
	file=$(find "$ROOT"/overlay/*/diff/lib -name same | head -1)
	chmod u+w "$file"
	printf 'damaged' | dd of="$file" bs=1 seek=1000 conv=notrunc status=none
	run_balena pull --delta-index "$REPO:v2"
	assert_output "$(config_of v2)"
	assert_stderr 'lib/same.*whole layers'
	assert_stderr 'delta from .*:v1: fetched'
	run_balena run --rm --network none "$REPO:v2"
	assert_output "version 2"
}
