#!/usr/bin/env bats
# RUN --security: what a step may do that the build allows everything.
# shellcheck disable=SC2030,SC2031,SC2154

load helpers
load build

# may: what the last line of the build's plain progress that begins with MAY says.
may() { sed -n 's/^#[0-9]* [0-9.]* MAY //p' <<<"$stderr"; }

@test "RUN --security=insecure may do what a privileged container may, where the build allows it" {
	dockerfile <<-'EOF'
		FROM busybox
		RUN echo "MAY sandbox $(grep -h Seccomp: /proc/self/status | tr -d '\t') $(mount -t tmpfs none /home 2>/dev/null && echo mounted)"
		RUN --security=insecure \
			echo "MAY insecure $(grep -h Seccomp: /proc/self/status | tr -d '\t') $(mount -t tmpfs none /home && echo mounted)"
		# RUN --security=insecure
		RUN --security=sandbox echo "MAY sandbox $(mount -t tmpfs none /home 2>/dev/null && echo mounted)"
		RUN ls -A /dev/ >/devices; echo --security=insecure
	EOF
	run_balena build --allow security.insecure --progress plain -t ins "$C"
	assert_equal "$(may)" $'sandbox Seccomp:2 \ninsecure Seccomp:0 mounted\nsandbox '
	assert_stderr '\[3/5\] RUN --security=insecure echo'
	run_balena -1 run --rm --network none ins grep security /devices
	run_balena -1 run --rm --network none ins test -e /dev/.security-insecure
	run_balena build --allow security.insecure --progress plain "$C"
	assert_equal "$(grep -c CACHED <<<"$stderr")" 4
}

@test "without --allow it is refused before anything is done, and names the line" {
	printf 'FROM busybox\nRUN echo one\nRUN --security=insecure echo two\n' | dockerfile
	run_balena -1 build "$C"
	assert_stderr 'Dockerfile:3: RUN --security=insecure: the build does not allow it'
	assert_stderr 'hint: .*--allow security.insecure'
	refute_stderr 'echo one'
	printf 'FROM busybox\nRUN --security=lax echo\n' | dockerfile
	run_balena -1 build --allow security.insecure "$C"
	assert_stderr 'Dockerfile:2: RUN --security=lax: there is sandbox, and there is insecure'
	run_balena -125 build --allow everything "$C"
	# The mark alone does nothing.
	printf 'FROM busybox\nRUN --mount=type=tmpfs,target=/dev/.security-insecure mount -t tmpfs none /home\n' | dockerfile
	run_balena -1 build "$C"
}

@test "an insecure step and the same one that is not share no cache; the Dockerfile's own ignore file is found" {
	echo keep >keep
	echo skip >skip
	printf 'skip\nDockerfile*\n' >Dockerfile.dockerignore
	dockerfile <<-'EOF'
		FROM busybox
		COPY . /c/
		RUN grep Seccomp: /proc/self/status >/seccomp
	EOF
	built
	before=$id
	sed -i 's/^RUN /&--security=insecure /' Dockerfile
	built --allow security.insecure
	[ "$id" != "$before" ]
	run_balena run --rm --network none "$id" sh -c 'cat /seccomp; ls /c'
	assert_match 'Seccomp:.0'
	assert_match keep
	refute_match skip
	sed -i 's/insecure/sandbox/' Dockerfile
	built
	assert_equal "$id" "$before"
}
