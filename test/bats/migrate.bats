#!/usr/bin/env bats
# Coming from docker: what its own save writes, load takes, and back; and from
# registry to registry.

load helpers

setup_file() {
	is_rootless && return
	command -v dockerd >/dev/null && [ -x /usr/bin/docker ] || return 0
	file_setup
	mkdir "$T/docker"
	dockerd -H "unix://$T/docker.sock" --data-root "$T/docker/root" --exec-root "$T/docker/exec" --pidfile "$T/docker.pid" \
		--iptables=false --bridge=none --default-ulimit nofile=20000:20000 --insecure-registry "$REGISTRY" >"$T/dockerd.log" 2>&1 3>&- &
	eventually -t 60 docker version
}
teardown_file() {
	[ -n "${T-}" ] || return 0
	kill "$(cat "$T/docker.pid")" 2>/dev/null || true
	eventually -t 30 test ! -e "$T/docker.pid" || true
	umount -R "$T/docker/root" 2>/dev/null || true
	file_teardown
}
setup() {
	rootless_skip "docker's daemon is root's"
	[ -n "${T-}" ] || skip "docker is not installed: make deps-bench"
}
teardown() {
	[ -n "${T-}" ] || return 0
	remove_containers
	local ids
	ids=$(balena images -aq 2>/dev/null | sort -u) || true
	# shellcheck disable=SC2086 # one word an id
	[ -z "$ids" ] || balena rmi -f $ids >/dev/null 2>&1 || true
}

docker() { /usr/bin/docker -H "unix://$T/docker.sock" "$@" 3>&-; }

# layers ARCHIVE: the digests of its layers' bytes, in order.
layers() {
	local l
	for l in $(tar -xOf "$1" manifest.json | jq -r '.[0].Layers[]'); do
		tar -xOf "$1" "$l" | sha256sum
	done
}

@test "docker save is loaded with the same ID, configuration and layers, and docker loads what is saved here" {
	local ref=$REGISTRY/busybox:kinds
	balena pull -q "$ref" # docker 20.10 cannot: it has zstd
	balena save "$ref" | docker load -q
	balena rmi -f "$ref"
	docker save "$ref" | balena load -q
	assert_equal "$(balena images -q --no-trunc "$ref")" "$(docker images -q --no-trunc "$ref")"
	docker save "$ref" >"$T/docker.tar"
	balena save "$ref" >"$T/balena.tar"
	assert_equal "$(layers "$T/balena.tar")" "$(layers "$T/docker.tar")"
	# the config is the very file
	tar -xOf "$T/docker.tar" "$(tar -xOf "$T/docker.tar" manifest.json | jq -r '.[0].Config')" >"$T/config.docker"
	tar -xOf "$T/balena.tar" "$(tar -xOf "$T/balena.tar" manifest.json | jq -r '.[0].Config')" >"$T/config.balena"
	cmp "$T/config.docker" "$T/config.balena"
	run_balena run --rm --network none "$ref" cat /kinds/file
	assert_output two
	run_balena system check
	rm "$T"/*.tar
}

@test "what docker built and committed is loaded, and a volume is mounted by its path" {
	local id
	docker pull -q "$BUSYBOX"
	id=$(docker create "$BUSYBOX" sh)
	echo "of the device" >"$T/file"
	docker cp "$T/file" "$id:/data/file"
	docker commit -c 'LABEL from=docker' "$id" device:1
	docker rm "$id"
	docker volume create data
	cp "$T/file" "$(docker volume inspect --format '{{.Mountpoint}}' data)/"
	docker save device:1 | balena load -q
	run_balena run --rm --network none -v "$(docker volume inspect --format '{{.Mountpoint}}' data):/mnt" device:1 cat /data/file /mnt/file
	assert_output "of the device"$'\n'"of the device"
	run_balena image inspect --format '{{index .Config.Labels "from"}}' device:1
	assert_output docker
	rm "$T/file"
}

@test "from registry to registry an image keeps its ID" {
	local other
	other=$(private_registry)
	echo secret | balena login -u tester --password-stdin "$other"
	balena pull -q "$BUSYBOX"
	balena tag "$BUSYBOX" "$other/moved/busybox:1"
	balena push -q "$other/moved/busybox:1"
	assert_equal "$(skopeo inspect --config --raw --tls-verify=false --creds tester:secret "docker://$other/moved/busybox:1" | sha256sum)" \
		"$(skopeo inspect --config --raw --tls-verify=false "docker://$BUSYBOX" | sha256sum)"
	# whoever pins digests copies instead
	skopeo copy -q --all --preserve-digests --src-tls-verify=false --dest-tls-verify=false --dest-creds tester:secret "docker://$BUSYBOX" "docker://$other/moved/busybox:2"
	assert_equal "$(skopeo inspect --tls-verify=false --creds tester:secret --format '{{.Digest}}' "docker://$other/moved/busybox:2")" \
		"$(skopeo inspect --tls-verify=false --format '{{.Digest}}' "docker://$BUSYBOX")"
	private_registry_stop
}
