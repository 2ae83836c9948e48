#!/usr/bin/env bats
# balena build: its cache, build-time volumes, secrets, what a killed build
# leaves, and that it builds what Debian's buildah builds.
# shellcheck disable=SC2030,SC2031,SC2154

load helpers
load build

# hits [ARGS...]: build and print how many steps came from the cache.
hits() {
	run_balena build --progress plain "$@" "$C"
	HITS=$(grep -c ' CACHED$' <<<"$stderr" || true)
}

# files IMAGE: what is in its layers, a line an entry, with digests.
layer_files() {
	local dir=$BATS_TEST_TMPDIR/save l
	rm -rf "$dir" && mkdir "$dir"
	balena push -q "$1" "oci:$dir:x"
	for l in $(jq -r '.layers[].digest' "$dir/blobs/sha256/$(jq -r '.manifests[0].digest' "$dir/index.json" | cut -d: -f2)"); do
		echo "$l"
		tar tzf "$dir/blobs/sha256/${l#sha256:}" 2>/dev/null || tar tf "$dir/blobs/sha256/${l#sha256:}"
	done
}

# ---- the cache -------------------------------------------------------------

@test "steps that nothing changed for come from the cache, and the image is the same" {
	echo 1 >"$C/f"
	echo 2 >"$C/g"
	dockerfile <<-'EOF'
		FROM busybox
		RUN date +%N >/r
		COPY f /
		COPY g /
		RUN cat /f /g
	EOF
	hits
	assert_equal "$HITS" 0
	local first=$output
	hits
	assert_equal "$HITS" 4
	assert_output "$first"
	touch "$C/f" # its time does not count
	hits
	assert_equal "$HITS" 4
	echo changed >"$C/g"
	hits
	assert_equal "$HITS" 2
	echo changed >"$C/f"
	hits
	assert_equal "$HITS" 1
	hits --no-cache
	assert_equal "$HITS" 0
}

@test "a changed argument counts from where it is used" {
	dockerfile <<-'EOF'
		FROM busybox
		RUN date +%N >/r
		ARG A
		RUN echo $A
	EOF
	hits --build-arg A=1
	hits --build-arg A=1
	assert_equal "$HITS" 3
	hits --build-arg A=2
	assert_equal "$HITS" 2
}

# after CHANGE WANTED [ARGS...]: build the context of before, change it, and build
# again: so many of its steps come from the cache.
after() {
	local change=$1 want=$2
	shift 2
	rm -rf "${C:?}"/* "$C/.dockerignore"
	mkdir "$C/d"
	echo 1 >"$C/f"
	echo 2 >"$C/d/g"
	echo ignored >"$C/x.log"
	echo '*.log' >"$C/.dockerignore"
	dockerfile <<-'EOF'
		FROM busybox AS stage
		COPY f /stage
		FROM busybox
		ARG A=1
		ENV E=1
		RUN echo $A$E >/ran
		COPY --from=stage /stage /stage
		COPY d /d
		LABEL l=1
	EOF
	run_balena build -q "$C"
	(cd "$C" && eval "$change")
	hits "$@"
	[ "$HITS" -eq "$want" ] || fail "after '$change' $*: $HITS steps from the cache, not $want"
}

@test "what counts as a change: a table" {
	# stage: COPY; then ARG, ENV, RUN, COPY --from, COPY, LABEL
	after : 7
	after 'touch -d @1 f d/g' 7
	after 'echo more >>x.log; touch y.log' 7
	after 'chmod 600 d/g' 5
	after 'echo 3 >d/g' 5
	after 'touch d/new' 5
	after 'mv d/g d/h' 5
	after 'touch unused' 7
	after 'echo 3 >f' 3
	after 'sed -i s/l=1/l=2/ Dockerfile' 6
	after 'sed -i s/E=1/E=2/ Dockerfile' 2
	after 'sed -i "s/^RUN .*/&; true/" Dockerfile' 3
	after 'sed -i "s/^COPY d/# a comment\nCOPY d/" Dockerfile' 7
	after 'sed -i "/^LABEL/d" Dockerfile; sed -i "s/^ARG/LABEL l=1\nARG/" Dockerfile' 1
	after : 3 --build-arg A=2
}

@test "a build that fails leaves its finished steps in the cache" {
	dockerfile <<<"FROM busybox"$'\n'"RUN date +%N >/slow"$'\n'"RUN exit 1"
	run_balena -1 build -q "$C"
	dockerfile <<<"FROM busybox"$'\n'"RUN date +%N >/slow"$'\n'"RUN exit 0"
	hits
	assert_equal "$HITS" 1
	run_balena ps -aq
	assert_output ""
}

@test "--timestamp makes the same image twice" {
	echo x >"$C/f"
	dockerfile <<<"FROM busybox"$'\n'"RUN echo 1 >/r"$'\n'"COPY f /"
	run_balena build -q --no-cache --timestamp 1000 "$C"
	local first=$output
	run_balena build -q --no-cache --timestamp 1000 "$C"
	assert_output "$first"
	run_balena image inspect --format '{{.Created}}' "$first"
	assert_match '^1970-01-01 00:16:40'
	SOURCE_DATE_EPOCH=2000 run_balena build -q --no-cache --rewrite-timestamp "$C"
	run_balena image inspect --format '{{.Created}}' "$output"
	assert_match '^1970-01-01 00:33:20'
}

# ---- build-time volumes ----------------------------------------------------

@test "a volume is seen by every RUN, written to, and in no layer" {
	mkdir "$C/src" "$BATS_TEST_TMPDIR/host"
	echo from-the-host >"$BATS_TEST_TMPDIR/host/in"
	dockerfile <<-'EOF'
		FROM busybox
		RUN cat /mnt/h/in >/copied && echo written >/mnt/h/out
		RUN cat /mnt/h/out >>/copied
		FROM busybox
		RUN test -e /mnt/h/out
		COPY --from=0 /copied /
	EOF
	run_balena build -q -t vol -v "$BATS_TEST_TMPDIR/host:/mnt/h" "$C"
	assert_equal "$(cat "$BATS_TEST_TMPDIR/host/out")" written
	run_balena run --rm --network none vol sh -c 'cat /copied; ls /mnt/h 2>&1 || true'
	assert_match $'^from-the-host\nwritten'
	refute_match '^in$'
	run layer_files vol
	refute_match 'mnt/h/'
}

@test "named volumes are run's, and outlive the build" {
	dockerfile <<<"FROM busybox"$'\n'"RUN echo kept >>/cache/f"
	run_balena build -q -v "pkgs:/cache" "$C"
	run_balena build -q --no-cache -v "pkgs:/cache" "$C"
	run_balena run --rm --network none -v pkgs:/c busybox cat /c/f
	assert_output $'kept\nkept'
}

@test "relative host folders, read-only volumes, and overlays that are thrown away" {
	mkdir "$C/rel"
	echo orig >"$C/rel/f"
	dockerfile <<<"FROM busybox"$'\n'"RUN ! echo x >/v/f"
	run_balena build -q -v ./rel:/v:ro .
	dockerfile <<<"FROM busybox"$'\n'"RUN echo x >/v/f && echo new >/v/g"
	run_balena build -q -v ./rel:/v:O .
	assert_equal "$(ls rel)" f
	assert_equal "$(cat rel/f)" orig
	run_balena build -q -v ./rel:/v:z .
	assert_equal "$(cat rel/f)" x
	run_balena -125 build -q -v ./nosuch:/v .
	assert_stderr 'nosuch'
}

@test "the cache asks which volumes there are, and not what is in them" {
	mkdir "$C/v" "$C/w"
	echo 1 >"$C/v/f"
	printf 'v\nw\n' >"$C/.dockerignore"
	dockerfile <<<"FROM busybox"$'\n'"RUN date +%N >/r"
	hits
	hits -v "$C/v:/v"
	assert_equal "$HITS" 0
	hits -v "$C/v:/v"
	assert_equal "$HITS" 1
	echo 2 >"$C/v/f"
	hits -v "$C/v:/v"
	assert_equal "$HITS" 1
	hits -v "$C/v:/v" -v "$C/w:/w"
	assert_equal "$HITS" 0
	hits -v "$C/w:/w" -v "$C/v:/v"
	assert_equal "$HITS" 1
	hits -v "$C/v:/v:ro"
	assert_equal "$HITS" 0
	hits
	assert_equal "$HITS" 1
}

# ---- secrets and mounts ----------------------------------------------------

@test "secrets are seen where they are mounted, and are in no layer, history or log" {
	echo s3cr3t-file >"$BATS_TEST_TMPDIR/secret"
	dockerfile <<-'EOF'
		FROM busybox
		RUN --mount=type=secret,id=a grep -q s3cr3t-file /run/secrets/a
		RUN --mount=type=secret,id=b,target=/b,mode=0400 grep -q s3cr3t-env /b && stat -c %a /b
		RUN ! test -s /run/secrets/a && ! test -s /b
	EOF
	B=s3cr3t-env run_balena build --secret id=a,src="$BATS_TEST_TMPDIR/secret" --secret id=b,env=B -t secret "$C"
	refute_stderr 's3cr3t-file$'
	run_balena image inspect secret
	refute_match 's3cr3t'
	mkdir "$BATS_TEST_TMPDIR/l"
	run_balena push -q secret "dir:$BATS_TEST_TMPDIR/l"
	local f
	for f in "$BATS_TEST_TMPDIR"/l/*; do
		run bash -c "zcat -f '$f' | grep -a -v 'grep -q s3cr3t' | grep -a -c s3cr3t"
		assert_equal "$output" 0
	done
}

@test "RUN --mount: bind, cache, tmpfs" {
	echo ctx >"$C/f"
	dockerfile <<-'EOF'
		FROM busybox
		RUN --mount=type=bind,target=/ctx cat /ctx/f >/bound
		RUN --mount=type=cache,target=/cc echo line >>/cc/f
		RUN --mount=type=tmpfs,target=/tt echo x >/tt/f
	EOF
	run_balena build -q --no-cache "$C"
	dockerfile <<<"FROM busybox"$'\n'"RUN --mount=type=cache,target=/cc cat /cc/f >/seen"
	run_balena build -q -t mounts "$C"
	run_balena run --rm --network none mounts cat /seen
	assert_output line
}

# ---- what a killed build leaves --------------------------------------------

@test "a killed build leaves nothing that the next one does not remove, and its steps in the cache" {
	dockerfile <<<"FROM busybox"$'\n'"RUN date +%N >/first"$'\n'"RUN echo started >/v/s; sleep 3579"
	mkdir "$C/v"
	local sig
	for sig in KILL TERM; do
		rm -f "$C/v/s"
		"$BALENA" --root "$ROOT" --runroot "$RUNROOT" build -q -v "$C/v:/v" "$C" 3>&- >/dev/null 2>&1 &
		local pid=$!
		eventually test -s "$C/v/s"
		kill -$sig $pid
		wait $pid || true
	done
	dockerfile <<<"FROM busybox"$'\n'"RUN date +%N >/first"$'\n'"RUN true"
	hits -v "$C/v:/v"
	assert_equal "$HITS" 1
	assert_equal "$(find "$ROOT/build" -mindepth 1 -maxdepth 1 ! -name 'buildah-cache-*' -printf '%f\n')" lock
	assert_empty "$(ls "$RUNROOT/build-runc")"
	eventually bash -c "! pgrep -f '^sleep 3579'"
	run_balena run --rm --network none busybox true
}

# ---- beside buildah --------------------------------------------------------

# described DIR: an image pushed to DIR as text: its configuration, and of each
# layer every entry with owner, mode, time, link target and a digest of its content.
# Debian's buildah is older: it names the host after the container, leaves out / as
# the folder to work in, and writes [] for null; and it leaves the files that it mounts over in the layers of RUN.
described() {
	local manifest=$1/manifest.json l
	jq -S '.config | del(.Hostname) | .WorkingDir |= (if . == "" then "/" else . end) | with_entries(select(.value != null and .value != []))' "$1/$(jq -r .config.digest "$manifest" | cut -d: -f2)"
	for l in $(jq -r '.layers[].digest' "$manifest" | cut -d: -f2); do
		echo "layer"
		zcat -f "$1/$l" >"$1/layer.tar"
		tar tvf "$1/layer.tar" --numeric-owner --full-time | sort
		tar xf "$1/layer.tar" --to-command='echo "$TAR_FILENAME $(sha256sum)"' | sort
	done | grep -vE '(^| )etc/(hosts|hostname|resolv.conf)?( |$)'
}

@test "images are those that Debian's buildah makes under the same timestamp" {
	command -v buildah >/dev/null || skip "no buildah"
	local b=(buildah --root "$T/buildah" --runroot "$RUNROOT/buildah" --storage-driver vfs)
	"${b[@]}" pull -q --tls-verify=false "docker://$BUSYBOX" >/dev/null
	mkdir -p "$C/d/e"
	echo 1 >"$C/f"
	echo 2 >"$C/d/e/g"
	chmod 750 "$C/d"
	ln -s f "$C/l"
	tar c -C "$C/d" --mtime=@99 e >"$BATS_TEST_TMPDIR/e.tar" && mv "$BATS_TEST_TMPDIR/e.tar" "$C"
	setfattr -n user.note -v kept "$C/f" || echo "no extended attributes here"
	local n=0 file ours=$BATS_TEST_TMPDIR/ours theirs=$BATS_TEST_TMPDIR/theirs
	for file in \
		$'ARG V=7\nLABEL v=$V\nFROM scratch AS parts\nCOPY d /parts\nFROM scratch\nCOPY --from=parts --chown=8:9 /parts/e /e\nADD e.tar /added\nSTOPSIGNAL 9' \
		$'SHELL ["/bin/sh", "-e", "-c"]\nONBUILD RUN true\nHEALTHCHECK --interval=5s CMD true\nRUN mkdir /s && chmod 3775 /s && mkfifo /s/p && echo x >/s/f && ln /s/f /s/t' \
		$'COPY f /\nCOPY d /d\nENV A=1 B="$A 2"\nWORKDIR /x/y\nCMD ["a", "b"]' \
		$'ADD --chown=3:4 . /all/\nLABEL x=y\nUSER 5\nEXPOSE 1\nENTRYPOINT e' \
		$'RUN mkdir -p /a/b && echo x >/a/b/c && rm -rf /home && ln -s /etc/passwd /a/l && chmod 4755 /a/b/c\nRUN echo y >>/a/b/c\nVOLUME /v'; do
		printf 'FROM %s\n%s\n' "$BUSYBOX" "$file" >"$C/Dockerfile"
		"${b[@]}" bud -q --isolation chroot --layers --format docker --timestamp 1234 --identity-label=false -t "theirs$n" "$C" >/dev/null
		"${b[@]}" push -q "theirs$n" "dir:$theirs$n" >/dev/null
		run_balena build -q --isolation chroot --timestamp 1234 -t "ours$n" "$C"
		run_balena push -q "ours$n" "dir:$ours$n"
		diff <(described "$theirs$n") <(described "$ours$n")
		n=$((n + 1))
	done
}
