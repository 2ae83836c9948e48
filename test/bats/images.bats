#!/usr/bin/env bats
# What can be done with an image that is here.

load helpers

setup_file() { file_setup "$BUSYBOX"; }
teardown_file() { file_teardown; }
setup() { balena image exists "$BUSYBOX" || balena pull -q "$BUSYBOX" >/dev/null; }

image_id() { balena inspect --type image --format '{{.Id}}' "$1" | sed 's/^sha256://'; }

@test "images lists repository, tag, ID, age and size" {
	run_balena images
	assert_match 'REPOSITORY +TAG +IMAGE ID +CREATED +SIZE'
	assert_match "$REGISTRY/busybox +latest +[0-9a-f]{12} "
	run_balena images -q
	assert_match '^[0-9a-f]{12}$'
	run_balena images -q --no-trunc
	assert_match '^(sha256:)?[0-9a-f]{64}$'
}

@test "images takes a reference, --filter, --digests and --format" {
	run_balena images -q "$REGISTRY/busybox"
	assert_match '^[0-9a-f]{12}$'
	run_balena images -q no/such
	assert_empty "$output"
	run_balena images --filter "reference=*busybox*" --format '{{.Repository}}:{{.Tag}}'
	assert_output "$BUSYBOX"
	run_balena images --format json
	echo "$output" | jq -e . >/dev/null
	run_balena images --digests
	assert_match 'sha256:[0-9a-f]{64}'
}

@test "tag gives a second name, untag takes it, the image stays" {
	run_balena tag "$BUSYBOX" localhost/copy:1
	assert_equal "$(image_id localhost/copy:1)" "$(image_id "$BUSYBOX")"
	run_balena untag localhost/copy:1
	run_balena -1 image exists localhost/copy:1
	run_balena image exists "$BUSYBOX"
	run_balena -125 tag no/such:1 x:1
	assert_stderr 'no such image|not known|not found'
}

@test "image exists answers by status alone" {
	run_balena image exists "$BUSYBOX"
	assert_empty "$output$stderr"
	run_balena image exists "$(image_id "$BUSYBOX")"
	run_balena image exists "$(image_id "$BUSYBOX" | cut -c1-12)"
	run_balena -1 image exists no/such
	assert_empty "$output"
}

@test "inspect shows the configuration" {
	run_balena pull -q "$REGISTRY/busybox:config"
	run_balena inspect "$REGISTRY/busybox:config"
	echo "$output" | jq -e '.[0].Config | .User == "app" and .WorkingDir == "/home/app" and .Entrypoint == ["/bin/echo", "entry"]
		and .Cmd == ["default"] and (.Env | index("COLOR=blue")) and .Labels["org.example.b"] == "two words" and .StopSignal == "SIGUSR1"
		and (.ExposedPorts | has("80/tcp")) and (.Volumes | has("/data"))'
	echo "$output" | jq -e '.[0] | .Architecture == "amd64" and .Os == "linux" and (.RepoTags | length) == 1 and (.RepoDigests | length) >= 1
		and (.RootFS.Layers | length) == 2 and .Size > 1000000'
	run_balena inspect --type image --format '{{.Config.User}} {{index .Config.Cmd 0}}' "$REGISTRY/busybox:config"
	assert_output "app default"
	run_balena image inspect "$REGISTRY/busybox:config"
	run_balena -125 inspect no-such-thing
	assert_stderr 'no-such-thing'
	run_balena rmi "$REGISTRY/busybox:config"
}

@test "history lists the layers, newest first" {
	run_balena history "$BUSYBOX"
	assert_match 'IMAGE +CREATED +CREATED BY'
	[ "${#lines[@]}" -eq 3 ] || fail "${#lines[@]} lines"
	[[ ${lines[1]} == *extra.tar* ]] || fail "${lines[1]}"
	[[ ${lines[2]} == *base.tar* ]] || fail "${lines[2]}"
}

@test "rmi of one of two names untags, of the last one deletes" {
	run_balena tag "$BUSYBOX" localhost/copy:1
	run_balena rmi localhost/copy:1
	assert_match 'Untagged: localhost/copy:1'
	run_balena image exists "$BUSYBOX"
	run_balena rmi "$BUSYBOX"
	assert_match 'Deleted'
	run_balena images -q
	assert_empty "$output"
	assert_equal "$(find "$ROOT/overlay" -mindepth 1 -maxdepth 1 -type d ! -name l ! -name staging ! -name tempdirs | wc -l)" 0
}

@test "rmi of an image in use is refused and names the container; -f takes the name only" {
	run_balena create --name user "$BUSYBOX" true
	run_balena -any rmi "$BUSYBOX"
	[ "$status" -ne 0 ]
	assert_stderr 'conflict: .* is using its referenced image'
	run_balena image exists "$BUSYBOX"
	run_balena rmi -f "$BUSYBOX"
	run_balena -1 image exists "$BUSYBOX"
	run_balena start -a user
	run_balena rm user
	run_balena image prune -f
	run_balena images -aq
	assert_empty "$output"
}

@test "rmi of what is not there is an error that names it" {
	run_balena -any rmi no/such:1
	[ "$status" -ne 0 ]
	assert_stderr 'no/such'
}

@test "an ambiguous short ID is refused" {
	run_balena -125 inspect --type image ""
}

@test "image prune removes what has no name, -a what has no container" {
	run_balena pull -q "$REGISTRY/busybox:config"
	run_balena tag "$REGISTRY/busybox:config" localhost/move:1
	run_balena tag "$BUSYBOX" localhost/move:1
	run_balena untag "$REGISTRY/busybox:config"
	run_balena image prune -f
	run_balena images -aq --no-trunc --filter dangling=true
	assert_empty "$output"
	run_balena image exists "$BUSYBOX"
	run_balena pull -q "$REGISTRY/busybox:config"
	run_balena create --name keeper "$BUSYBOX" true
	run_balena image prune -a -f
	run_balena image exists "$BUSYBOX"
	run_balena -1 image exists "$REGISTRY/busybox:config"
	run_balena rm keeper
}

# ---- push, login -----------------------------------------------------------

@test "push sends an image that others can read, and prints its digest" {
	local name=$REGISTRY/pushed-$BALENA_TEST_MODE:1
	run_balena tag "$BUSYBOX" "$name"
	run_balena push "$name"
	run_balena push --digestfile "$T/digest" "$name"
	assert_equal "$(cat "$T/digest")" "$(skopeo inspect --tls-verify=false --format '{{.Digest}}' "docker://$name")"
	run_balena rmi "$name"
	run_balena pull -q "$name"
	run_balena run --rm --network none "$name" cat /etc/layer2
	assert_output "second layer"
	run_balena rmi "$name"
}

@test "push to other transports" {
	run_balena push "$BUSYBOX" "oci:$T/out:1"
	skopeo inspect "oci:$T/out:1" >/dev/null
	run_balena push "$BUSYBOX" "docker-archive:$T/out.tar:x/y:1"
	skopeo inspect "docker-archive:$T/out.tar" >/dev/null
	run_balena push "$BUSYBOX" "dir:$T/out-dir"
	skopeo inspect "dir:$T/out-dir" >/dev/null
}

@test "layers that the registry has are not sent again" {
	faultproxy -fault none
	run_balena tag "$BUSYBOX" "$PROXY/busybox:again-$BALENA_TEST_MODE"
	run_balena push "$PROXY/busybox:again-$BALENA_TEST_MODE"
	! grep -E '^(PUT|PATCH) .*/blobs/uploads' "$PROXY_LOG" || fail "blobs were uploaded"
	faultproxy_stop
	run_balena rmi "$PROXY/busybox:again-$BALENA_TEST_MODE"
}

@test "login keeps the password for pull and push, logout forgets it" {
	local addr
	addr=$(private_registry)
	run_balena -any login -u tester -p wrong "$addr"
	[ "$status" -ne 0 ]
	run_balena login -u tester -p secret "$addr"
	assert_match 'Login Succeeded'
	run_balena tag "$BUSYBOX" "$addr/busybox:1"
	run_balena push "$addr/busybox:1"
	run_balena login --get-login "$addr"
	assert_output tester
	run_balena logout "$addr"
	run_balena -125 pull "$addr/busybox:1"
	echo secret | balena login -u tester --password-stdin "$addr"
	run_balena pull -q "$addr/busybox:1"
	run_balena rmi "$addr/busybox:1"
	run_balena logout --all
	private_registry_stop
}
