#!/usr/bin/env bats
# balena commit and balena import: images of a container's changes and of a tar
# archive of files.
# shellcheck disable=SC2030,SC2031,SC2154

load helpers

setup_file() { file_setup "$BUSYBOX"; }
teardown_file() { file_teardown; }
teardown() { remove_containers; }

config() { balena image inspect --format "$1" "$output"; }

@test "commit makes an image of what a container changed and was made with" {
	run_balena run --name c --network none -e A=1 --user 5:6 --label l=x --workdir /tmp -v "$T/tmp:/mnt/v" "$BUSYBOX" \
		sh -c 'echo data >/tmp/new; mkdir /tmp/d; ln -s new /tmp/link; echo hidden >/mnt/v/f || true'
	run_balena commit -a 'Ann <a@example.com>' -m 'first try' c Committed:v1 || true
	assert_stderr 'must be lowercase'
	run_balena commit -a 'Ann <a@example.com>' -m 'first try' --iidfile "$BATS_TEST_TMPDIR/iid" c committed:v1
	assert_match '^sha256:[0-9a-f]{64}$'
	assert_equal "$(cat "$BATS_TEST_TMPDIR/iid")" "$output"
	assert_equal "$(config '{{.Author}}|{{.Comment}}|{{.Config.User}}|{{.Config.WorkingDir}}|{{.Config.Labels.l}}')" 'Ann <a@example.com>|first try|5:6|/tmp|x'
	assert_equal "$(config '{{index .Config.Cmd 0}}')" sh
	assert_equal "$(config '{{len .RootFS.Layers}}')" "$(($(balena image inspect --format '{{len .RootFS.Layers}}' "$BUSYBOX") + 1))"
	run_balena history --no-trunc --format '{{.Comment}}' committed:v1
	assert_equal "${lines[0]}" 'first try'
	# shellcheck disable=SC2016 # for the shell in the container
	run_balena run --rm --network none committed:v1 sh -c 'echo $A; id -u; pwd; cat new link; ls /mnt/v'
	assert_output $'1\n5\n/tmp\ndata\ndata'
	run_balena system check
}

@test "commit: files that were changed and removed, and no mount points of the engine's" {
	run_balena run --name c --network none "$BUSYBOX" sh -c 'rm /bin/df; echo x >/home/f; chmod 4711 /home/f'
	run_balena commit -q c gone
	run_balena run --rm --network none gone sh -c 'ls /bin/df 2>&1; stat -c %a /home/f'
	assert_match 'No such file'
	assert_match '4711$'
	mkdir "$BATS_TEST_TMPDIR/saved"
	run_balena push -q gone "oci:$BATS_TEST_TMPDIR/saved:x"
	local m layer
	m=$(jq -r '.manifests[0].digest' "$BATS_TEST_TMPDIR/saved/index.json" | cut -d: -f2)
	layer=$(jq -r '.layers[-1].digest' "$BATS_TEST_TMPDIR/saved/blobs/sha256/$m" | cut -d: -f2)
	run bash -c "tar tzf '$BATS_TEST_TMPDIR/saved/blobs/sha256/$layer' | grep -v '/$' | sort"
	assert_output $'bin/.wh.df\nhome/f'
}

@test "commit -c changes the configuration as a Dockerfile would" {
	run_balena create --name c --network none "$BUSYBOX" true
	run_balena commit -c 'ENTRYPOINT ["cat"]' -c 'CMD /etc/hostname' -c 'ENV A=1' -c 'ENV B="$A 2"' -c 'EXPOSE 80' -c 'VOLUME /v' -c 'USER 7' \
		-c 'WORKDIR /w' -c 'LABEL x=y' -c 'STOPSIGNAL SIGINT' -c 'ONBUILD RUN x' -c 'HEALTHCHECK --interval=5s CMD true' c
	assert_equal "$(config '{{json .Config.Entrypoint}} {{json .Config.Cmd}}')" '["cat"] ["/bin/sh","-c","/etc/hostname"]'
	assert_equal "$(config '{{.Config.User}} {{.Config.WorkingDir}} {{.Config.StopSignal}} {{.Config.Labels.x}}')" '7 /w SIGINT y'
	assert_equal "$(config '{{json .Config.ExposedPorts}} {{json .Config.Volumes}} {{json .Config.OnBuild}}')" '{"80/tcp":{}} {"/v":{}} ["RUN x"]'
	assert_equal "$(config '{{json .Config.Healthcheck}}')" '{"Test":["CMD-SHELL","true"],"Interval":5000000000}'
	config '{{json .Config.Env}}' | grep -q '"A=1","B=1 2"'
	run_balena commit -f oci c
	run_balena -125 commit -c 'RUN x' c
	assert_stderr 'RUN is not one of CMD'
	run_balena -125 commit nosuch
	assert_stderr 'no such container'
}

@test "commit of a running container: paused meanwhile, and running afterwards" {
	run_balena run -d --name c --network none "$BUSYBOX" sh -c 'while :; do date +%s.%N >/tmp/t; sleep 0.05; done'
	eventually balena exec c test -s /tmp/t
	run_balena commit c running
	run_balena commit --pause=false c running
	refute_stderr warning
	assert_equal "$(container_state c)" running
	run_balena run --rm --network none running cat /tmp/t
	assert_match '^[0-9]+\.'
	run_balena kill c
}

@test "commit of a container with a user namespace of its own" {
	rootless_skip "the engine is in one"
	chmod o+x "$T"
	run_balena run --name c --network none --uidmap 0:200000:1000 --gidmap 0:200000:1000 "$BUSYBOX" sh -c 'echo x >/f; chown 5:6 /f'
	run_balena commit c mapped
	run_balena run --rm --network none mapped stat -c %u:%g /f /bin
	assert_output $'5:6\n0:0'
}

@test "import makes an image of a tar archive from a file, from stdin and from a URL" {
	mkdir -p "$BATS_TEST_TMPDIR/fs/etc"
	echo imported >"$BATS_TEST_TMPDIR/fs/etc/f"
	tar cf "$BATS_TEST_TMPDIR/fs.tar" -C "$BATS_TEST_TMPDIR/fs" .
	gzip -k "$BATS_TEST_TMPDIR/fs.tar"
	run_balena import -m msg -c 'CMD ["/bin/x"]' -c 'ENV A=1' --platform linux/arm64/v8 "$BATS_TEST_TMPDIR/fs.tar" imp:1
	assert_match '^sha256:[0-9a-f]{64}$'
	assert_equal "$(config '{{.Comment}} {{.Architecture}} {{.Variant}} {{.Os}} {{json .Config.Cmd}} {{json .Config.Env}}')" 'msg arm64 v8 linux ["/bin/x"] ["A=1"]'
	local layer
	layer=$(config '{{index .RootFS.Layers 0}}')
	assert_equal "$layer" "sha256:$(sha256sum <"$BATS_TEST_TMPDIR/fs.tar" | cut -d' ' -f1)"
	run_balena image import --os linux --arch arm "$BATS_TEST_TMPDIR/fs.tar.gz"
	assert_equal "$(config '{{index .RootFS.Layers 0}} {{.Architecture}}')" "$layer arm"
	run without3 bash -c "'$BALENA' --root '$ROOT' --runroot '$RUNROOT' import - <'$BATS_TEST_TMPDIR/fs.tar.gz' 2>/dev/null"
	assert_equal "$(config '{{index .RootFS.Layers 0}} {{.Comment}}')" "$layer Imported from -"
	local port
	port=$(free_port)
	python3 -m http.server -b 127.0.0.1 -d "$BATS_TEST_TMPDIR" "$port" >/dev/null 2>&1 3>&- &
	echo $! >"$T/http.pid"
	eventually curl -sf "http://127.0.0.1:$port/"
	run_balena import "http://127.0.0.1:$port/fs.tar" fromurl
	assert_equal "$(config '{{index .RootFS.Layers 0}}')" "$layer"
	run_balena -125 import "http://127.0.0.1:$port/nosuch"
	assert_stderr 'the server says 404'
	kill "$(cat "$T/http.pid")"
	rm "$T/http.pid"
	# the files are those of the archive
	run_balena create --name i --network none fromurl /bin/x
	run_balena save -o "$BATS_TEST_TMPDIR/saved.tar" fromurl
	tar xOf "$BATS_TEST_TMPDIR/saved.tar" "blobs/sha256/${layer#sha256:}" | cmp - "$BATS_TEST_TMPDIR/fs.tar"
}

@test "import refuses what is no archive, and leaves nothing" {
	echo "no archive, but text that is long enough to be asked about by anyone" >"$BATS_TEST_TMPDIR/x"
	: >"$BATS_TEST_TMPDIR/empty"
	local before f
	before=$(balena images -aq | sort)
	for f in x empty nosuch .; do
		run_balena -125 import "$BATS_TEST_TMPDIR/$f"
		assert_stderr "importing"
	done
	head -c 300000 /dev/urandom >"$BATS_TEST_TMPDIR/big"
	tar czf "$BATS_TEST_TMPDIR/cut.tgz" -C "$BATS_TEST_TMPDIR" big
	truncate -s 100000 "$BATS_TEST_TMPDIR/cut.tgz"
	run_balena -125 import "$BATS_TEST_TMPDIR/cut.tgz"
	assert_equal "$(balena images -aq | sort)" "$before"
	assert_no_staging
}

@test "a killed commit leaves nothing that the next one does not remove" {
	run_balena run --name c --network none "$BUSYBOX" sh -c 'dd if=/dev/urandom of=/big bs=1M count=30 2>/dev/null'
	local before pid
	before=$(balena images -aq | sort)
	"$BALENA" --root "$ROOT" --runroot "$RUNROOT" commit c half 3>&- >/dev/null 2>&1 &
	pid=$!
	sleep 0.15
	kill -9 $pid 2>/dev/null || true
	wait $pid || true
	run_balena rmi -i half
	assert_equal "$(balena images -aq | sort)" "$before"
	sleep 1.1 # what is younger may be somebody's
	run_balena commit c half
	run_balena system check
	assert_no_staging
}
