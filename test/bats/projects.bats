#!/usr/bin/env bats
# Projects as people have them, built, run and asked over HTTP. Ghost takes
# minutes: `make test-projects` builds it, too.
# shellcheck disable=SC2030,SC2031,SC2154

bats_require_minimum_version 1.5.0
load helpers
load build

setup_file() {
	file_setup "$BUSYBOX" "$REGISTRY/debian:bookworm"
	balena tag "$BUSYBOX" busybox
	balena tag "$REGISTRY/debian:bookworm" debian
}
teardown_file() { file_teardown; }

# build_project NAME ARGS...: with the machine's certificates, which are in no layer.
build_project() {
	local name=$1
	shift
	TIMEOUT=900 run_balena build --progress plain -v /etc/ssl/certs:/etc/ssl/certs:ro -t "$name" "$@" "$BATS_TEST_DIRNAME/projects/$name"
}

# answers NAME PORT TEXT: the container's page has the text, within a minute.
answers() {
	local address page=
	address=$(balena port "$1" "$2" | head -n 1)
	for _ in {1..120}; do
		page=$(curl -fsS --max-time 20 "http://$address/" 2>&1) && break
		sleep 0.5
	done
	[[ $page =~ $3 ]] || fail "http://$address/ has no match for '$3': $page; $(balena logs "$1" 2>&1 | tail)"
}

@test "a Go service is built, runs and answers" {
	build_project echo --build-context go="$GOROOT" -v go-build:/root/.cache -v go-mod:/root/go/pkg
	assert_stderr 'RUN --mount=type=bind,from=go'
	run_balena image inspect --format '{{len .RootFS.Layers}} {{.Config.User}}' echo
	assert_output '1 65532:65532'
	run_balena run -d --name echo --read-only --cap-drop all -p 127.0.0.1::5678 echo
	answers echo 5678 '^built by balena$'
	run_balena rm -f echo
	build_project echo --build-context go="$GOROOT" -v go-build:/root/.cache -v go-mod:/root/go/pkg
	refute_stderr '#[0-9]+ DONE [1-9]'
	assert_stderr 'CACHED'
}

@test "Ghost is built, runs and answers; its content outlives it" {
	[ -n "${PROJECTS-}" ] || skip "make test-projects"
	build_project ghost
	run_balena run -d --name ghost -v blog:/ghost/content -p 127.0.0.1::2368 ghost
	answers ghost 2368 '<title>Ghost</title>'
	run_balena stop ghost
	run_balena rm ghost
	run_balena run -d --name ghost -v blog:/ghost/content -p 127.0.0.1::2368 ghost
	answers ghost 2368 '<title>Ghost</title>'
	run_balena logs ghost
	refute_match 'Finished database init'
	run_balena rm -f ghost
}
