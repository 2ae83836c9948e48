#!/usr/bin/env bats
# What an unprivileged user needs, and what is said when it is missing.

load helpers

setup_file() {
	file_setup
	export REAL_PATH=$PATH
}
teardown_file() { file_teardown; }
setup() { root_skip "rootless only"; }

@test "without subordinate IDs: which file to edit, or the command" {
	# a user without a range cannot be made here: hide the ranges instead
	unshare -Urm true 2>/dev/null || skip "no user namespaces"
	: >"$T/empty"
	cat >"$T/hide" <<-END
		mount --bind $T/empty /etc/subuid && mount --bind $T/empty /etc/subgid
		exec unshare -U --map-user=$(id -u) --map-group=$(id -g) "$BALENA" --root "$T/nosub" --runroot "$RUNROOT/nosub" images
	END
	run --separate-stderr unshare -Urm bash "$T/hide" 3>&-
	echo "$output $stderr"
	assert_equal "$status" 125
	assert_stderr 'subuid|subordinate|usermod'
}

@test "without newuidmap: which package to install" {
	mkdir -p "$T/bin"
	local tool
	for tool in bash ls rm cat mount; do ln -sf "$(command -v $tool)" "$T/bin/"; done
	run --separate-stderr env PATH="$T/bin" "$BALENA" --root "$T/nomap" --runroot "$RUNROOT/nomap" images 3>&-
	echo "$output $stderr"
	assert_equal "$status" 125
	assert_stderr 'newuidmap'
	assert_stderr 'uidmap'
}

@test "without XDG_RUNTIME_DIR the run root falls back to a folder of the user's own" {
	run --separate-stderr env -u XDG_RUNTIME_DIR "$BALENA" --root "$T/noxdg" images 3>&-
	echo "$output $stderr"
	assert_equal "$status" 0
	[[ $(stat -c '%u %a' "/tmp/balena-run-$(id -u)") =~ ^$(id -u)\ 7(00|11)$ ]] || fail "$(stat "/tmp/balena-run-$(id -u)")"
	rm -rf "/tmp/balena-run-$(id -u)"
}

@test "the default folders are the user's" {
	run --separate-stderr "$BALENA" pull -q "$BUSYBOX" 3>&-
	assert_equal "$status" 0
	run "$BALENA" run --rm --network none "$BUSYBOX" id -u 3>&-
	assert_output 0
	[ -e "$HOME/.local/share/balena/balena.db" ]
	[ -d "$XDG_RUNTIME_DIR/balena" ]
	"$BALENA" rmi "$BUSYBOX" 3>&-
}

@test "files of a container's users belong to the subordinate IDs outside" {
	run_balena pull -q "$BUSYBOX"
	run_balena run --name owner --network none "$BUSYBOX" sh -c 'touch /f; chown 1000 /f'
	local start
	start=$(sed -n "s/^$(id -un):\([0-9]*\):.*/\1/p" /etc/subuid | head -1)
	assert_equal "$(find "$ROOT/overlay" -path '*/diff/f' -printf '%U\n')" $((start + 999))
	run_balena rm owner
}

@test "the namespaces' holder leaves by itself when nobody needs it" {
	run_balena images
	holders() { pgrep -u "$(id -u)" -f '^balena-userns' >/dev/null; }
	none() { ! holders; }
	eventually -t 30 none
}
