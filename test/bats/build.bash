# Shared by the suites of balena build: busybox is in the storage, and each test
# has a context of its own, $C, in which it begins.
# shellcheck shell=bash disable=SC2034,SC2154

setup_file() {
	file_setup
	balena pull -q "$BUSYBOX" >/dev/null
	balena tag "$BUSYBOX" busybox:latest
}
teardown_file() { file_teardown; }

setup() {
	C=$BATS_TEST_TMPDIR/c
	mkdir -p "$C"
	cd "$C" || return
}

# dockerfile: from stdin.
dockerfile() { cat >"$C/Dockerfile"; }

# built [ARGS...]: build the context quietly; sets $id.
built() {
	run_balena build -q "$@" "$C"
	id=$output
}

# config FORMAT: of the image that was built last.
config() { balena image inspect --format "$1" "$id"; }
