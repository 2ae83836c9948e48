#!/usr/bin/env bats
# balena build: flags about commands, caches and contexts, and the flags of
# instructions, that build.bats does not have.
# shellcheck disable=SC2030,SC2031,SC2154

load helpers
load build

# serve: the test's folder by HTTP; sets $URL.
serve() {
	local port
	port=$(free_port)
	python3 -m http.server -b 127.0.0.1 -d "$BATS_TEST_TMPDIR" "$port" >/dev/null 2>&1 3>&- &
	echo $! >"$T/http.pid"
	URL=http://127.0.0.1:$port
	eventually curl -sf "$URL/"
}
teardown() {
	local f
	for f in "$T/http.pid" "$T/agent.pid"; do
		[ ! -e "$f" ] || kill "$(cat "$f")" || true
		rm -f "$f"
	done
}

@test "ADD --checksum takes what has the digest, and nothing else" {
	echo remote >"$BATS_TEST_TMPDIR/f"
	serve
	local sum
	sum=$(sha256sum <"$BATS_TEST_TMPDIR/f" | cut -d' ' -f1)
	dockerfile <<<"FROM busybox"$'\n'"ADD --checksum=sha256:$sum $URL/f /f"
	built -t sum
	run_balena run --rm --network none sum cat /f
	assert_output remote
	echo other >"$BATS_TEST_TMPDIR/f"
	run_balena -1 build -q --no-cache "$C"
	assert_stderr "Dockerfile:2: ADD .*$sum"
	dockerfile <<<"FROM busybox"$'\n'"ADD $URL/nosuch /f"
	run_balena -1 build -q "$C"
	assert_stderr 'Dockerfile:2: ADD .*404'
}

@test "contexts: a tar archive by URL, compressed ones by name, and a broken one" {
	mkdir -p "$BATS_TEST_TMPDIR/ctx/sub"
	echo fetched >"$BATS_TEST_TMPDIR/ctx/f"
	printf 'FROM busybox\nCOPY f /f\n' >"$BATS_TEST_TMPDIR/ctx/Dockerfile"
	tar czf "$BATS_TEST_TMPDIR/ctx.tar.gz" -C "$BATS_TEST_TMPDIR/ctx" .
	serve
	run_balena build -q -t fromurl "$URL/ctx.tar.gz"
	run_balena run --rm --network none fromurl cat /f
	assert_output fetched
	run_balena -1 build -q "$URL/nosuch.tar.gz"
	assert_stderr 'fetching the context'
	dockerfile <<<"FROM busybox"$'\n'"COPY --from=byurl f /u"$'\n'"RUN --mount=type=bind,from=byfolder,target=/m cat /m/f >/m2"
	built -t named --build-context byurl="$URL/ctx.tar.gz" --build-context byfolder="$BATS_TEST_TMPDIR/ctx"
	run_balena run --rm --network none named cat /u /m2
	assert_output $'fetched\nfetched'
	run_balena -125 build -q --build-context novalue "$C"
}

@test "--ssh gives RUN --mount=type=ssh an agent's keys, and nothing of them stays" {
	command -v ssh-agent >/dev/null || skip "no ssh-agent"
	eval "$(ssh-agent -a "$BATS_TEST_TMPDIR/a" 3>&-)" >/dev/null
	echo "$SSH_AGENT_PID" >"$T/agent.pid"
	dockerfile <<-'EOF'
		FROM busybox
		RUN --mount=type=ssh test -S "$SSH_AUTH_SOCK" && echo "$SSH_AUTH_SOCK" >/was
		RUN --mount=type=ssh,id=mine,target=/agent test -S /agent
		RUN test -z "$SSH_AUTH_SOCK" && ! test -e "$(cat /was)" && ! test -e /agent
	EOF
	built --ssh default --ssh mine="$BATS_TEST_TMPDIR/a"
	ssh-keygen -q -t ed25519 -N '' -f "$BATS_TEST_TMPDIR/key"
	built --no-cache --ssh default="$BATS_TEST_TMPDIR/key" --ssh mine="$BATS_TEST_TMPDIR/key"
	dockerfile <<<"FROM busybox"$'\n'"RUN --mount=type=ssh,required true"
	run_balena -1 build -q "$C"
	assert_stderr 'Dockerfile:2: RUN'
}

@test "--cache-to sends steps to a repository, and --cache-from takes them from there" {
	local cache=$REGISTRY/cache-$BALENA_TEST_MODE
	dockerfile <<<"FROM busybox"$'\n'"RUN date +%N >/r"$'\n'"RUN echo second >/s"
	built --cache-to "$cache" -t cached
	local first
	first=$(balena run --rm --network none cached cat /r)
	run_balena rmi cached
	run_balena image prune -f
	run_balena build --progress plain --cache-from "$cache" -t cached "$C"
	assert_stderr 'CACHED'
	run_balena run --rm --network none cached cat /r
	assert_output "$first"
	run_balena system check --quick
}

@test "--layers=false leaves no steps behind" {
	dockerfile <<<"FROM busybox"$'\n'"RUN echo nolayers1 >/1"$'\n'"RUN echo nolayers2 >/2"
	local before
	before=$(balena images -aq | wc -l)
	built --layers=false -t nolayers
	assert_equal "$(balena images -aq | wc -l)" $((before + 1))
}

@test "--progress tty and plain, and one that does not exist" {
	dockerfile <<<"FROM busybox"$'\n'"RUN echo shown"
	run_balena build --no-cache --progress tty "$C"
	assert_stderr 'RUN echo shown'
	run_balena build --no-cache --progress=plain "$C"
	assert_stderr '#2 [0-9.]+ shown'
	run_balena -125 build --progress nosuch "$C"
	assert_stderr 'not one of'
}

@test "--annotation is the manifest's, --label the configuration's, --inherit-labels and --unsetlabel the base's" {
	dockerfile <<<"FROM busybox"$'\n'"LABEL base=1 other=2"
	built -t labelled
	dockerfile <<<"FROM labelled"$'\n'"LABEL own=3"
	built --format oci --annotation a.b=c --label flag=4 --unsetlabel other -t annotated
	assert_equal "$(config '{{json .Config.Labels}}')" '{"base":"1","flag":"4","own":"3"}'
	run_balena push -q annotated "oci:$BATS_TEST_TMPDIR/oci:x"
	local m=$BATS_TEST_TMPDIR/oci/blobs/sha256
	m=$m/$(jq -r '.manifests[0].digest' "$BATS_TEST_TMPDIR/oci/index.json" | cut -d: -f2)
	assert_equal "$(jq -r '.annotations["a.b"]' "$m")" c
	built --inherit-labels=false
	assert_equal "$(config '{{json .Config.Labels}}')" '{"own":"3"}'
}

@test "--cap-add, --cap-drop and --security-opt are those of run" {
	dockerfile <<<"FROM busybox"$'\n'"RUN grep -E 'CapEff|NoNewPrivs|^Seccomp:' /proc/self/status >/s"
	caps() {
		built --no-cache -t caps "$@"
		output=$(balena run --rm --network none caps awk '{printf "%s ", $2}' /s)
	}
	caps
	assert_match ' 0 2 $'
	local plain=$output
	caps --cap-add NET_ADMIN
	[ "$output" != "$plain" ]
	assert_equal "$(((0x${output%% *} >> 12) & 1))" 1
	caps --cap-drop CHOWN
	assert_equal "$((0x${output%% *} & 1))" 0
	caps --security-opt no-new-privileges --security-opt seccomp=unconfined
	assert_match ' 1 0 $'
	run_balena -125 build --security-opt nosuch=1 "$C"
	assert_stderr 'no security option "nosuch"'
}

@test "--device, --dns, --add-host, --no-hosts and --hostname's file" {
	dockerfile <<-'EOF'
		FROM busybox
		RUN test -c /dev/fuse && cat /etc/resolv.conf >/r && grep '10.9.8.7.*some' /etc/hosts
	EOF
	built --device /dev/fuse --dns 192.0.2.1 --dns-search example.com --add-host some:10.9.8.7 -t res
	run_balena run --rm --network none res cat /r
	assert_match 'nameserver 192.0.2.1'
	assert_match 'search example.com'
	dockerfile <<<"FROM busybox"$'\n'"RUN ! test -e /dev/fuse"
	built
}

@test "--memory and --cpuset-cpus limit commands, where the engine has cgroups" {
	rootless_skip "no cgroups are the user's"
	[ -d /sys/fs/cgroup/memory ] || skip "cgroup v1 tells them in one place"
	dockerfile <<<"FROM busybox"$'\n'"RUN grep Cpus_allowed_list /proc/self/status >/c; cat /sys/fs/cgroup/memory/memory.limit_in_bytes >>/c; cat /sys/fs/cgroup/cpu/cpu.shares >>/c"
	built --memory 64m --cpuset-cpus 0 --cpu-shares 512 -t limited
	run_balena run --rm --network none limited cat /c
	assert_match 'list:.0'
	assert_match $'\n67108864\n512'
	dockerfile <<<"FROM busybox"$'\n'"RUN head -c 100m /dev/zero | tail -c 90m >/dev/null"
	run_balena -1 build -q --memory 16m "$C"
	assert_stderr 'Dockerfile:2: RUN'
}

@test "--userns-uid-map gives commands a user namespace of their own" {
	rootless_skip "the user's own range is what there is"
	chmod o+x "$T"
	dockerfile <<<"FROM busybox"$'\n'"RUN cat /proc/self/uid_map >/map; touch /f; chown 5:6 /f"
	built --userns-uid-map 0:200000:5000 --userns-gid-map 0:300000:5000 -t mapped
	run_balena run --rm --network none mapped sh -c 'cat /map; stat -c %u:%g /f'
	assert_match '0 +200000 +5000'
	assert_match '5:6$'
	run_balena -125 build --userns-uid-map 0:1 "$C"
	run_balena -125 build --userns private "$C"
	assert_stderr 'needs a map'
	run_balena build -q --userns host "$C"
}

@test "RUN --network=host, and mounts with options" {
	mkdir "$C/src"
	echo 1 >"$C/src/f"
	dockerfile <<-'EOF'
		FROM busybox AS from
		RUN echo stage >/s
		FROM busybox
		RUN --mount=type=bind,source=src,target=/src,rw echo 2 >/src/f
		RUN --mount=type=bind,from=from,source=/s,target=/s cat /s >/out
		RUN --mount=type=tmpfs,target=/t,tmpfs-size=1m df -k /t | awk 'NR==2 {print $2}' >>/out
		RUN --mount=type=cache,id=c,target=/c,uid=7,mode=0700 stat -c %u:%a /c >>/out
		RUN --mount=type=cache,id=c,target=/other,sharing=locked touch /other/kept
		RUN --mount=type=cache,id=c,target=/c,readonly ls /c >>/out
		RUN --network=host true
	EOF
	built -t mounts
	run_balena run --rm --network none mounts cat /out
	assert_output $'stage\n1024\n7:700\nkept'
	assert_equal "$(cat "$C/src/f")" 1
}

@test "COPY: links, parents, several sources, excludes, from an image; SHELL and heredocs with other programs" {
	mkdir -p "$C/a/b" "$C/x"
	echo 1 >"$C/a/b/one"
	echo 2 >"$C/a/two"
	echo 3 >"$C/x/three.tmp"
	dockerfile <<-'EOF'
		FROM busybox
		COPY --link --chown=1:2 --chmod=0711 a x /all/
		COPY --parents a/b/one x/three.tmp /par/
		COPY --exclude=**/*.tmp --exclude=two a x /ex/
		COPY --from=busybox --chmod=4600 /bin/true /from
		SHELL ["/bin/sh", "-e", "-c"]
		RUN false; touch /not || true
	EOF
	run_balena -1 build -q "$C"
	sed -i '/^RUN false/d' "$C/Dockerfile"
	cat >>"$C/Dockerfile" <<-'EOF'
		RUN <<A cat >/h && cat <<B >>/h
		first
		A
		second
		B
	EOF
	built -t copies
	run_balena run --rm --network none copies sh -c 'stat -c %u:%g:%a /all/two; find /par /ex -type f | sort; cat /h'
	assert_output $'1:2:711\n/ex/b/one\n/par/a/b/one\n/par/x/three.tmp\nfirst\nsecond'
}

@test "ignore files: patterns, exceptions, one beside the Dockerfile, and what .. may not do" {
	mkdir -p "$C/d/e"
	touch "$C/a.log" "$C/keep.log" "$C/d/b.log" "$C/d/e/c"
	dockerfile <<<"FROM busybox"$'\n'"COPY . /all/"
	printf '# a comment\n**/*.log\n!keep.log\nd/e\n.dockerignore\n' >"$C/.dockerignore"
	built -t ign
	run_balena run --rm --network none ign sh -c 'cd /all; find . -type f | sort'
	assert_output $'./Dockerfile\n./keep.log'
	printf 'FROM busybox\nCOPY . /all/\n' >"$C/other"
	printf '*\n!d/e/c\n' >"$C/other.dockerignore"
	built -t ign -f other
	run_balena run --rm --network none ign sh -c 'cd /all; find . -type f | sort'
	assert_output ./d/e/c
}
