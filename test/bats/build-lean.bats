#!/usr/bin/env bats
# balena build: layers reach the store without files in between, what kills
# leave, how the cache is counted and emptied, how progress is drawn.
# shellcheck disable=SC2030,SC2031,SC2154

load helpers
load build

# many N: N files of 256 KiB in $C/many.
many() {
	mkdir -p "$C/many"
	head -c 262144 /dev/urandom >"$C/many/1"
	local i
	for ((i = 2; i <= $1; i++)); do cp "$C/many/1" "$C/many/$i"; done
}

# ---- lean ------------------------------------------------------------------

@test "no file on the way is as large as the layer" {
	many 40
	dockerfile <<-'EOF'
		FROM busybox
		COPY many /many
		RUN cp -r /many /again && rm /many/3
		RUN rm -r /again/7
	EOF
	ulimit -Sf 2048 # KiB; the layers have 10 MiB
	run_balena build -q --no-cache -t lean "$C"
	run_balena build -q --no-cache --timestamp 9 --layers=false "$C"
	ulimit -Sf "$(ulimit -Hf)"
	run_balena run --rm --network none lean sh -c 'ls /many | wc -l; ls /again | wc -l; cmp /many/40 /again/1'
	assert_output $'39\n39'
	run_balena system check
	assert_equal "$(find "$ROOT/build" -type f ! -name lock | wc -l)" 0
	assert_empty "$(find "$ROOT/overlay/staging" -mindepth 1 -maxdepth 1 2>/dev/null)"
}

@test "a context of 100,000 files is copied as .dockerignore leaves it, and once" {
	mkdir -p "$C/ctx"/{a,b}/{0..49}
	(cd "$C/ctx" && printf '%s\n' {a,b}/{0..49}/{0..999} | xargs touch)
	echo 'ctx/*/49' >.dockerignore
	dockerfile <<-'EOF'
		FROM busybox
		COPY ctx /ctx
	EOF
	TIMEOUT=300 run_balena build -q -t files "$C"
	run_balena run --rm --network none files sh -c 'find /ctx -type f | wc -l; ls -A /ctx/a | wc -l'
	assert_output $'98000\n49'
	touch -d @1 ctx/a/49/7 # neither its time nor what is ignored counts
	echo changed >ctx/b/49/7
	TIMEOUT=300 run_balena build --progress plain -t files "$C"
	assert_stderr '#2 CACHED'
}

@test "stages at once make the images that they make one after the other" {
	many 8
	dockerfile <<-'EOF'
		FROM busybox AS a
		COPY many /a
		COPY many /a1
		COPY many /a2
		FROM busybox AS b
		COPY many /b
		COPY many /b1
		COPY many /b2
		FROM busybox
		COPY --from=a /a /a
		COPY --from=b /b /b
	EOF
	run_balena build -q --no-cache --timestamp 5 "$C"
	local want=$output i
	for i in 1 2 3 4; do # one layer was committed while the next was opened
		run_balena build -q --no-cache --timestamp 5 --jobs 3 "$C"
		assert_output "$want"
	done
}

@test "builds beside each other and beside pulls come to an end" {
	many 8
	dockerfile <<<"FROM busybox"$'\n'"COPY many /a"$'\n'"COPY many /b"$'\n'"COPY many /c"
	local n pids=()
	for n in 1 2 3; do
		(for _ in 1 2 3; do TIMEOUT=40 run_balena build -q --no-cache -t "beside$n" "$C"; done) >"$BATS_TEST_TMPDIR/log$n" 2>&1 &
		pids+=($!)
	done
	for n in 1 2 3 4; do
		run_balena pull -q "$REGISTRY/busybox:shared$n"
		run_balena rmi "$REGISTRY/busybox:shared$n"
	done
	for n in 1 2 3; do
		wait "${pids[n - 1]}" || { cat "$BATS_TEST_TMPDIR/log$n"; fail "build $n"; }
	done
	run_balena system check
}

# ---- kills -----------------------------------------------------------------

@test "whenever a build is killed, the store is whole, and the next build goes on" {
	many 60
	dockerfile <<-'EOF'
		FROM busybox
		COPY many /1
		COPY many /2
		RUN cp -r /1 /3
		RUN rm -r /2
	EOF
	local wait pid
	for wait in 0.2 0.35 0.5 0.7 1 1.4; do
		"$BALENA" --root "$ROOT" --runroot "$RUNROOT" build -q "$C" 3>&- >/dev/null 2>&1 &
		pid=$!
		sleep "$wait"
		kill -KILL $pid 2>/dev/null || true
		wait $pid || true
		run_balena system check
	done
	sleep 1 # what is younger might still be a process's
	run_balena build -q -t whole "$C"
	run_balena run --rm --network none whole sh -c 'ls /1 | wc -l; ls / | grep -c "^2$"; cmp /1/60 /3/1'
	assert_output $'60\n0'
	run_balena system check
	assert_equal "$(find "$ROOT/build" -mindepth 1 -maxdepth 1 ! -name lock ! -name 'buildah-cache-*' | wc -l)" 0
}

# ---- the cache's size ------------------------------------------------------

# cache: TOTAL and SIZE of the build cache.
cache() { balena system df --format '{{.Type}}:{{.TotalCount}} {{.Size}}' | sed -n 's/^Build Cache://p'; }

@test "system df counts what builds keep, and builder prune removes it" {
	run_balena builder prune -af
	assert_equal "$(cache)" "0 0B"
	dockerfile <<-'EOF'
		FROM busybox
		RUN head -c 1000000 /dev/zero >/1
		RUN --mount=type=cache,target=/c head -c 2000000 /dev/zero >/2; head -c 500000 /dev/zero >/c/f
	EOF
	run_balena build -q "$C"
	[[ $(cache) =~ ^'3 3.50'.MB$ ]] || fail "the cache is $(cache)"
	run_balena build -q -t named "$C"
	assert_equal "$(cache)" "2 500kB" # the image has the layers now
	run_balena builder prune -f
	assert_match 'Total reclaimed space: 500kB$'
	run_balena build --progress plain "$C"
	assert_stderr 'CACHED' # the step under the image stayed
	run_balena buildx prune -af
	run_balena build --progress plain "$C"
	assert_match '^sha256:'
	refute_stderr '#2 CACHED'
	run_balena run --rm --network none named ls -l /2
	assert_match '2000000'
}

@test "builder prune --keep-storage removes the oldest steps until enough is gone; --filter until" {
	run_balena builder prune -af
	local i
	for i in 1 2 3; do
		dockerfile <<<"FROM busybox"$'\n'"RUN head -c ${i}000000 /dev/zero >/$i"
		run_balena build -q "$C"
		sleep 1
	done
	assert_match '^sha256:'
	run_balena builder prune -f --keep-storage 6.5MB
	assert_match 'Total reclaimed space: 0B$'
	run_balena builder prune -f --keep-storage 5.5MB
	assert_match 'Total reclaimed space: 1.00[0-9]MB$'
	run_balena builder prune -f --filter until=1h
	assert_match 'Total reclaimed space: 0B$'
	run_balena build --progress plain "$C"
	assert_stderr 'CACHED'
	run_balena builder prune -f
	assert_match 'Total reclaimed space: 5.00[0-9]MB$'
	assert_equal "$(cache)" "0 0B"
	run_balena -any builder prune </dev/null
	assert_stderr 'use --force'
}

@test "builder prune leaves builds at work alone" {
	mkdir "$C/v"
	dockerfile <<<"FROM busybox"$'\n'"RUN touch /v/s; while test -e /v/s; do sleep 0.1; done"
	"$BALENA" --root "$ROOT" --runroot "$RUNROOT" build -q -v "$C/v:/v" "$C" 3>&- >/dev/null 2>&1 &
	local pid=$!
	eventually test -e "$C/v/s"
	run_balena -any builder prune -af
	assert_stderr 'a build is at work'
	rm "$C/v/s"
	wait $pid
}

# ---- progress --------------------------------------------------------------

@test "--progress plain reads as BuildKit's" {
	dockerfile <<<"FROM busybox"$'\n'"RUN echo out"$'\n'"RUN exit 3"
	run_balena -1 build --no-cache --progress plain "$C"
	assert_stderr $'\n''#2 \[2/3\] RUN echo out'$'\n'
	assert_stderr $'\n''#2 [0-9]+\.[0-9]{3} out'$'\n'
	assert_stderr $'\n''#2 DONE [0-9]+\.[0-9]s'$'\n'
	assert_stderr $'\n''#3 ERROR: the command failed with exit code 3'$'\n'
	dockerfile <<<"FROM busybox"$'\n'"RUN echo out"$'\n'"RUN exit 0"
	run_balena build --progress plain -t plain "$C"
	assert_stderr $'\n''#2 CACHED'$'\n'
	assert_stderr $'\n''#4 exporting to image'$'\n'
	assert_stderr $'\n''#4 DONE [0-9]+\.[0-9]s'$'\n'
}

@test "on a terminal the step at work is drawn anew" {
	dockerfile <<<"FROM busybox"$'\n'"RUN echo a-line-of-it; sleep 1"$'\n'"RUN echo bad; exit 4"
	local shown=$BATS_TEST_TMPDIR/shown
	run bash -c "'$BIN/pty' -timeout 60s '$BALENA' --root '$ROOT' --runroot '$RUNROOT' build --no-cache '$C' </dev/null >'$shown' 3>&-"
	assert_equal "$status" 1
	grep -q $'\e\\[2A\r\e\\[J => \\[2/3\\] RUN echo a-line' "$shown" # it and a line of output, again
	grep -q ' => => # a-line-of-it' "$shown"
	grep -q ' => ERROR \[3/3\] RUN echo bad; exit 4 ' "$shown"
	grep -q 'Error: Dockerfile:3: RUN echo bad; exit 4: the command failed with exit code 4' "$shown"
	run bash -c "TERM=dumb '$BIN/pty' -timeout 60s '$BALENA' --root '$ROOT' --runroot '$RUNROOT' build '$C' </dev/null 3>&-"
	refute_match $'\e\\['
}
