#!/usr/bin/env bats
# balena build: what instructions, flags and contexts make, and what a failed
# build says.
# shellcheck disable=SC2030,SC2031,SC2154

load helpers
load build

@test "a Dockerfile becomes an image with its names, configuration and files" {
	echo data >"$C/file"
	dockerfile <<-'EOF'
		FROM busybox
		LABEL a=1 b="two words"
		ENV X=1 Y=$X
		WORKDIR /w/sub
		COPY file .
		ADD file /added/
		RUN echo "$X-$PWD" >ran
		USER 1000:1000
		EXPOSE 80 53/udp
		VOLUME /vol
		STOPSIGNAL SIGINT
		HEALTHCHECK --interval=5s --retries=2 CMD test -e /w
		SHELL ["/bin/sh", "-e", "-c"]
		ENTRYPOINT ["cat"]
		CMD ["/w/sub/ran"]
	EOF
	run_balena build -t one:v1 -t two --label c=3 "$C"
	assert_match '^sha256:[0-9a-f]{64}$'
	assert_stderr '#1 \[1/16\] FROM busybox'
	assert_stderr 'naming to docker.io/library/one:v1 done'
	id=$output
	assert_equal "$(config '{{.Config.Labels.a}} {{.Config.Labels.b}} {{.Config.Labels.c}}')" "1 two words 3"
	assert_equal "$(config '{{.Config.WorkingDir}} {{.Config.User}} {{.Config.StopSignal}}')" "/w/sub 1000:1000 SIGINT"
	assert_equal "$(config '{{json .Config.ExposedPorts}}')" '{"53/udp":{},"80/tcp":{}}'
	assert_equal "$(config '{{json .Config.Healthcheck.Test}}')" '["CMD-SHELL","test -e /w"]'
	assert_equal "$(config '{{json .Config.Shell}}')" '["/bin/sh","-e","-c"]'
	run_balena run --rm --network none one:v1
	assert_output 1-/w/sub
	run_balena run --rm --network none two /w/sub/file /added/file
	assert_output $'data\ndata'
}

@test "-q prints the ID alone, and --iidfile and --metadata-file keep it" {
	dockerfile <<<"FROM busybox"$'\n'"RUN echo noise"
	built --iidfile "$BATS_TEST_TMPDIR/iid" --metadata-file "$BATS_TEST_TMPDIR/meta"
	assert_match '^sha256:[0-9a-f]{64}$'
	assert_empty "$stderr"
	assert_equal "$(cat "$BATS_TEST_TMPDIR/iid")" "$id"
	assert_equal "$(jq -r '."containerimage.config.digest"' "$BATS_TEST_TMPDIR/meta")" "$id"
}

@test "build, image build, buildx build and builder build are the same" {
	dockerfile <<<"FROM busybox"$'\n'"LABEL same=1"
	built
	local want=$id verb
	for verb in image buildx builder; do
		run_balena $verb build -q "$C"
		assert_output "$want"
	done
}

@test "a build for scratch, and with no RUN, needs no runtime" {
	echo x >"$C/f"
	dockerfile <<<"FROM scratch"$'\n'"COPY f /"
	built
	assert_equal "$(config '{{len .RootFS.Layers}}')" 1
}

@test "stages: files of others, a target, and none that is not needed" {
	dockerfile <<-'EOF'
		FROM busybox AS base
		RUN echo base >/base
		FROM busybox AS unused
		RUN exit 3
		FROM base AS mid
		RUN echo mid >/mid
		FROM busybox
		COPY --from=mid /base /mid /
		COPY --from=0 /base /again
		RUN --mount=from=mid,source=/mid,target=/m cat /m >/mounted
	EOF
	built -t stages
	run_balena run --rm --network none stages cat /base /mid /again /mounted
	assert_output $'base\nmid\nbase\nmid'
	built --target mid -t mid
	run_balena run --rm --network none mid ls /
	assert_match 'mid'
	refute_match 'again'
	run_balena -1 build -q --target nosuch "$C"
	assert_stderr 'no stage "nosuch"'
}

@test "build arguments: before FROM, with and without a default, of the platform" {
	dockerfile <<-'EOF'
		ARG IMAGE=nosuch
		FROM $IMAGE
		ARG A=default
		ARG B
		ARG TARGETARCH
		RUN echo "$A $B $TARGETARCH" >/args
	EOF
	B="env" built -t args --build-arg IMAGE=busybox --build-arg A=given --build-arg B
	run_balena run --rm --network none args cat /args
	assert_match '^given env [a-z0-9]+$'
	assert_equal "$(config '{{json .Config.Env}}')" "$(balena image inspect --format '{{json .Config.Env}}' busybox)"
}

@test "heredocs are commands and files" {
	dockerfile <<-'EOF'
		FROM busybox
		ARG WHO=me
		RUN <<-END
			echo one >/out
			echo two >>/out
		END
		COPY <<END /plain
		for $WHO
		END
		COPY <<"END" /literal
		for $WHO
		END
	EOF
	built -t heredoc
	run_balena run --rm --network none heredoc cat /out /plain /literal
	assert_output $'one\ntwo\nfor me\nfor $WHO'
}

@test "COPY: owners, modes, links, what is left out" {
	mkdir -p "$C/d/sub"
	echo 1 >"$C/d/a"
	echo 2 >"$C/d/b.tmp"
	echo 3 >"$C/d/sub/c"
	ln -s a "$C/d/link"
	dockerfile <<-'EOF'
		FROM busybox
		COPY --chown=5:6 --chmod=640 d/a /owned
		COPY --exclude=*.tmp d /dir/
		COPY --link d/a /linked
		COPY --parents d/sub/c /parents/
	EOF
	built -t copied
	run_balena run --rm --network none copied sh -c 'stat -c %u:%g:%a /owned; ls /dir; readlink /dir/link; cat /linked /parents/d/sub/c'
	assert_output $'5:6:640\na\nlink\nsub\na\n1\n3'
}

@test "ADD unpacks archives and checks what a checksum is given for" {
	mkdir "$C/t"
	echo in >"$C/t/in"
	tar cf "$C/t.tar" -C "$C/t" in
	dockerfile <<<"FROM busybox"$'\n'"ADD t.tar /un/"
	built -t added
	run_balena run --rm --network none added cat /un/in
	assert_output in
}

@test "ONBUILD runs in the build on top" {
	dockerfile <<<"FROM busybox"$'\n'"ONBUILD RUN echo onbuild >/on"
	built -t onbuild
	dockerfile <<<"FROM onbuild"$'\n'"RUN cat /on"
	run_balena build "$C"
	assert_stderr 'onbuild'
}

@test "the ignore files keep files out" {
	touch "$C/a" "$C/b" "$C/c"
	dockerfile <<<"FROM busybox"$'\n'"COPY . /all/"
	echo a >"$C/.dockerignore"
	built -t ign
	run_balena run --rm --network none ign ls -A /all
	assert_output $'.dockerignore\nDockerfile\nb\nc'
	printf 'b\n.*\nDockerfile' >"$C/.containerignore"
	built -t ign
	run_balena run --rm --network none ign ls -A /all
	assert_output $'a\nc'
	printf '*\n!c' >"$BATS_TEST_TMPDIR/other"
	built -t ign --ignorefile "$BATS_TEST_TMPDIR/other"
	run_balena run --rm --network none ign ls -A /all
	assert_output c
}

@test "nothing outside of the context can be copied" {
	echo secret >"$BATS_TEST_TMPDIR/outside"
	ln -s "$BATS_TEST_TMPDIR/outside" "$C/abs"
	ln -s ../outside "$C/rel"
	mkdir "$C/d"
	ln -s ../.. "$C/d/up"
	local from
	for from in ../outside abs rel d/up/outside /../outside; do
		dockerfile <<<"FROM busybox"$'\n'"COPY $from /got"$'\n'"RUN ! grep secret /got"
		run_balena -1 build -q "$C"
		assert_stderr 'Error: Dockerfile:2: COPY'
	done
	dockerfile <<<"FROM busybox"$'\n'"COPY . /got/"$'\n'"RUN ! cat /got/abs /got/rel /got/d/up/outside"
	built
}

@test "a destination's links lead nowhere but into the image" {
	echo x >"$C/f"
	mkdir "$BATS_TEST_TMPDIR/host"
	dockerfile <<-EOF
		FROM busybox
		RUN ln -s $BATS_TEST_TMPDIR/host /abs && ln -s ../../../../../../..$BATS_TEST_TMPDIR/host /rel
		COPY f /abs/
		COPY f /rel/
	EOF
	run_balena -any build -q "$C"
	assert_empty "$(ls -A "$BATS_TEST_TMPDIR/host")"
}

@test "contexts: stdin as a Dockerfile and as a tar archive, another file, another folder" {
	run without3 bash -c "printf 'FROM busybox\nRUN echo in >/stdin\n' | '$BALENA' --root '$ROOT' --runroot '$RUNROOT' build -q -t fromstdin -"
	assert_equal "$status" 0
	run_balena run --rm --network none fromstdin cat /stdin
	assert_output in
	mkdir "$C/docker"
	echo tarred >"$C/f"
	printf 'FROM busybox\nCOPY f /f\n' >"$C/docker/File"
	local z
	for z in '' z; do
		run without3 bash -c "tar c${z} -C '$C' . | '$BALENA' --root '$ROOT' --runroot '$RUNROOT' build -q -f docker/File -t fromtar -"
		assert_equal "$status" 0
		run_balena run --rm --network none fromtar cat /f
		assert_output tarred
	done
	run without3 bash -c "'$BALENA' --root '$ROOT' --runroot '$RUNROOT' build -q -f - '$C' <'$C/docker/File'"
	assert_equal "$status" 0
	cd /
	run_balena build -q -f docker/File "$C"
	run_balena build -q -f "$C/docker/File" "$C"
	run_balena -1 build -q "$C"
	assert_stderr 'no Dockerfile in'
	run_balena -1 build -q "$C/nosuch"
	assert_stderr 'opening the context'
}

@test "a context from git, with a branch and a folder of it" {
	command -v git >/dev/null || skip "no git"
	mkdir "$C/repo"
	printf 'FROM busybox\nCOPY f /f\n' >"$C/repo/Dockerfile"
	echo git >"$C/repo/f"
	git -C "$C" init -q -b side .
	git -C "$C" -c user.name=t -c user.email=t@t add repo
	git -C "$C" -c user.name=t -c user.email=t@t commit -qm x
	git clone -q --bare "$C" "$BATS_TEST_TMPDIR/r.git"
	local port
	port=$(free_port)
	git daemon --export-all --listen=127.0.0.1 --port="$port" --base-path="$BATS_TEST_TMPDIR" --pid-file="$T/git.pid" --detach
	eventually git ls-remote -q "git://127.0.0.1:$port/r.git"
	run_balena build -q -t gitted "git://127.0.0.1:$port/r.git#side:repo"
	kill "$(cat "$T/git.pid")"
	rm "$T/git.pid"
	run_balena run --rm --network none gitted cat /f
	assert_output git
}

@test "build contexts by name: a folder, an image" {
	mkdir "$BATS_TEST_TMPDIR/other"
	echo other >"$BATS_TEST_TMPDIR/other/f"
	dockerfile <<<"FROM base"$'\n'"COPY --from=extra f /f"
	built -t named --build-context extra="$BATS_TEST_TMPDIR/other" --build-context base=docker-image://busybox
	run_balena run --rm --network none named cat /f
	assert_output other
}

@test "an error names the file, the line, the command and its exit code" {
	dockerfile <<-'EOF'
		FROM busybox
		# a comment
		RUN echo fine && \
		    true
		RUN echo so it goes >&2; exit 7
	EOF
	run_balena -1 build "$C"
	assert_stderr 'Error: Dockerfile:5: RUN echo so it goes >&2; exit 7: the command failed with exit code 7'
	assert_stderr 'so it goes'
	assert_empty "$output"
	run_balena -1 build -q "$C"
	assert_stderr 'so it goes'
	dockerfile <<<"FROM busybox"$'\n'"FROB x"
	run_balena -1 build -q "$C"
	assert_stderr 'Error: Dockerfile:2: unknown instruction FROB'
	dockerfile <<<"FROM busybox"$'\n'"COPY nosuch /"
	run_balena -1 build -q "$C"
	assert_stderr 'Error: Dockerfile:2: COPY nosuch /: .*nosuch'
	dockerfile <<<"FROM busybox"$'\n'"RUN [\"/nosuch\"]"
	run_balena -1 build -q "$C"
	assert_stderr 'Dockerfile:2: RUN'
	run_balena -125 build --nosuch "$C"
	run_balena -125 build --network nosuch "$C"
}

@test "what a base image is not here: pulled first, or not at all with --pull=never" {
	run_balena rmi busybox:latest
	dockerfile <<<"FROM $REGISTRY/busybox:docker"$'\n'"LABEL x=1"
	run_balena -1 build -q --pull=never "$C"
	assert_stderr 'may not be pulled'
	built
	run_balena image exists "$REGISTRY/busybox:docker"
	dockerfile <<<"FROM $REGISTRY/nosuch:v1"
	run_balena -1 build -q "$C"
	assert_stderr "pulling \"$REGISTRY/nosuch:v1\""
	balena tag "$BUSYBOX" busybox:latest
}

@test "network: one of the build's own, the host's, none" {
	dockerfile <<<"FROM busybox"$'\n'"RUN ip -o addr; cat /etc/resolv.conf || true"
	run_balena build --no-cache "$C"
	assert_stderr 'eth0'
	assert_stderr 'nameserver [0-9]'
	run_balena build --no-cache --network none "$C"
	refute_stderr 'eth0'
	run_balena build --no-cache --network host --add-host some.name:10.1.2.3 "$C"
	assert_stderr "$(ip -o -4 addr show dev lo | awk '{print $4}' | head -1)"
	dockerfile <<<"FROM busybox"$'\n'"RUN grep '10.1.2.3.*some.name' /etc/hosts"$'\n'"RUN --network=none ! ip -o addr | grep eth0"
	run_balena build --no-cache --add-host some.name:10.1.2.3 "$C"
}

@test "chroot isolation" {
	dockerfile <<<"FROM busybox"$'\n'"RUN id -u >/id; exit 0"
	built --isolation chroot -t chrooted
	run_balena run --rm --network none chrooted cat /id
	assert_output 0
	run_balena -125 build --isolation chroot --network none "$C"
}

@test "limits and rights reach RUN" {
	dockerfile <<-'EOF'
		FROM busybox
		RUN ulimit -n >/limits; df -k /dev/shm | awk 'NR==2 {print $2}' >>/limits; grep CapEff /proc/self/status >>/limits
	EOF
	built -t limits --ulimit nofile=123:456 --shm-size 1m --cap-drop all
	run_balena run --rm --network none limits cat /limits
	assert_output $'123\n1024\nCapEff:\t0000000000000000'
}

@test "--squash makes one layer of what is added, --squash-all of all, --format oci an OCI image, --env and --label its configuration" {
	dockerfile <<<"FROM busybox"$'\n'"RUN echo 1 >/1"$'\n'"RUN rm /1; echo 2 >/2"
	built --squash
	assert_equal "$(config '{{len .RootFS.Layers}}')" "$(($(balena image inspect --format '{{len .RootFS.Layers}}' busybox) + 1))"
	built --squash-all --format oci --annotation k=v --env NEW=1 --unsetenv PATH
	assert_equal "$(config '{{len .RootFS.Layers}}')" 1
	assert_equal "$(config '{{json .Config.Env}}')" '["NEW=1"]'
}

@test "--output writes the files of the result, as a folder and as a tar archive" {
	dockerfile <<<"FROM scratch"$'\n'"COPY Dockerfile /d"
	run_balena build -q -o "$BATS_TEST_TMPDIR/out" "$C"
	cmp "$BATS_TEST_TMPDIR/out/d" "$C/Dockerfile"
	run_balena build -q -o type=tar,dest="$BATS_TEST_TMPDIR/out.tar" "$C"
	tar tf "$BATS_TEST_TMPDIR/out.tar" | grep -q '^d$'
}

@test "images are pushed, and run, as pulled ones" {
	dockerfile <<<"FROM busybox"$'\n'"RUN echo pushed >/p"
	built -t "$REGISTRY/built:$BALENA_TEST_MODE"
	run_balena push -q "$REGISTRY/built:$BALENA_TEST_MODE"
	run_balena rmi "$REGISTRY/built:$BALENA_TEST_MODE"
	run_balena run -q --rm --network none "$REGISTRY/built:$BALENA_TEST_MODE" cat /p
	assert_output pushed
}
