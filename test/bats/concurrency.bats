#!/usr/bin/env bats
# Many commands at once.

load helpers

setup_file() { file_setup "$BUSYBOX"; }
teardown_file() { file_teardown; }
teardown() { remove_containers; }

# all COMMANDS-FILE: run each line at the same time; every one must succeed.
all() {
	local line pids=() i=0 rc=0 bad=0
	while read -r line; do
		bash -c "$line" >"$T/all.$i.out" 2>"$T/all.$i.err" 3>&- &
		pids+=($!)
		i=$((i + 1))
	done <"$1"
	for i in "${!pids[@]}"; do
		rc=0
		wait "${pids[i]}" || rc=$?
		if [ "$rc" -ne 0 ]; then
			bad=$((bad + 1))
			echo "command $i: status $rc: $(cat "$T/all.$i.err")"
		fi
	done
	[ "$bad" -eq 0 ] || fail "$bad of ${#pids[@]} failed"
}

consistent() {
	run_balena ps -aq
	assert_empty "$output"
	assert_empty "$(find "$ROOT/overlay/staging" -mindepth 1 -maxdepth 1 2>/dev/null)"
	run_balena run --rm --network none "$BUSYBOX" cat /etc/layer2
	assert_output "second layer"
}

@test "50 run --rm at once: each gives its own output, nothing stays" {
	local i
	for i in $(seq 50); do
		echo "[ \$('$BALENA' --root '$ROOT' --runroot '$RUNROOT' run --rm --network none '$BUSYBOX' echo $i) = $i ]"
	done >"$T/commands"
	all "$T/commands"
	consistent
	assert_equal "$(find "$ROOT/containers" "$RUNROOT/containers" -mindepth 1 -maxdepth 1 ! -name '.*' 2>/dev/null | wc -l)" 0
}

@test "20 run --rm on the default network at once" {
	local i
	for i in $(seq 20); do
		echo "'$BALENA' --root '$ROOT' --runroot '$RUNROOT' run --rm '$BUSYBOX' sh -c 'ip -4 -o addr show | grep -v \" lo \" | grep -q inet'"
	done >"$T/commands"
	all "$T/commands"
	consistent
}

@test "8 pulls of overlapping images at once: all whole, each shared layer once" {
	local i
	for i in $(seq 8); do
		echo "'$BALENA' --root '$ROOT' --runroot '$RUNROOT' pull -q '$REGISTRY/busybox:shared$i'"
	done >"$T/commands"
	all "$T/commands"
	for i in $(seq 8); do
		run_balena run --rm --network none "$REGISTRY/busybox:shared$i" sh -c 'for f in /noise/*; do n=${f##*/}; [ $(wc -c <$f) -eq $((524288 * n)) ] || exit 1; done; ls /noise | wc -l'
		assert_output 4
	done
	consistent
}

@test "4 pulls of one image at once give one image" {
	local i
	for i in 1 2 3 4; do
		echo "'$BALENA' --root '$ROOT' --runroot '$RUNROOT' pull -q '$REGISTRY/busybox:big'"
	done >"$T/commands"
	all "$T/commands"
	assert_equal "$(cat "$T"/all.[0-3].out | sort -u | wc -l)" 1
	run_balena images -q "$REGISTRY/busybox:big"
	assert_equal "${#lines[@]}" 1
}

@test "a pull and a running container block nobody" {
	faultproxy -fault slow -rate 400000
	balena pull -q "$PROXY/busybox:shared6" >/dev/null 2>&1 &
	local job=$!
	run_balena run -d --name up --network none "$BUSYBOX" sleep 100
	local start=$SECONDS
	run_balena ps
	run_balena run --rm --network none "$BUSYBOX" true
	run_balena images
	run_balena exec up true
	[ $((SECONDS - start)) -le 5 ] || fail "took $((SECONDS - start)) s"
	kill "$job" 2>/dev/null || true
	wait "$job" || true
	faultproxy_stop
}

@test "create, start, stop, rm of 10 containers at once" {
	local i
	for i in $(seq 10); do
		local b="'$BALENA' --root '$ROOT' --runroot '$RUNROOT'"
		echo "set -e; $b create --name c$i --network none '$BUSYBOX' sleep 100; $b start c$i; $b exec c$i true; $b stop -t 0 c$i; $b rm c$i"
	done >"$T/commands"
	all "$T/commands"
	consistent
}

@test "one name can be won only once" {
	local i won=0 pids=()
	for i in $(seq 8); do
		balena create --name prize "$BUSYBOX" true >/dev/null 2>&1 &
		pids+=($!)
	done
	for i in "${pids[@]}"; do wait "$i" && won=$((won + 1)) || true; done
	assert_equal "$won" 1
	run_balena ps -aq
	assert_equal "${#lines[@]}" 1
}
