# Shared by the suites. Each file gets a storage root, a run root and a home of
# its own, made in setup_file and removed, after a look for what leaked, in
# teardown_file. The environment comes from test/run:
#
#	BALENA                 the binary
#	BALENA_TEST_MODE       root or rootless
#	BALENA_TEST_REGISTRY   address of a registry with busybox and debian
#	BALENA_TEST_CACHE      folder of the same images as OCI layouts
# shellcheck shell=bash disable=SC2034,SC2154

bats_require_minimum_version 1.5.0

: "${BALENA:?start the tests with make test or test/run}"
REGISTRY=$BALENA_TEST_REGISTRY
BUSYBOX=$REGISTRY/busybox:latest
LAYOUTS=$BALENA_TEST_CACHE
BIN=$(dirname "$BALENA")

is_rootless() { [ "$BALENA_TEST_MODE" = rootless ]; }
rootless_skip() { if is_rootless; then skip "rootless: $1"; fi; }
root_skip() { if ! is_rootless; then skip "root: $1"; fi; }

# ---- a file's own world ----------------------------------------------------

# file_setup [IMAGE...]: call it from setup_file. Pulls the images.
file_setup() {
	# Short: paths of sockets below it must fit in 108 bytes.
	T=$(mktemp -d "$TMPDIR/t.XXXX")
	export T
	export ROOT=$T/root RUNROOT
	RUNROOT=$(mktemp -d "${XDG_RUNTIME_DIR:-/run}/bt.XXXX")
	mkdir -p "$T/home" "$T/tmp"
	export HOME=$T/home
	unset XDG_DATA_HOME XDG_CONFIG_HOME XDG_CACHE_HOME DOCKER_CONFIG REGISTRY_AUTH_FILE
	export BALENA_TEST_FILE=$T # found again in /proc/PID/environ
	# In files: a machine may have more of them than fit in the environment.
	links >"$T/links-before"
	cgroups >"$T/cgroups-before"
	local image
	for image in "$@"; do
		balena pull -q "$image" >/dev/null
	done
}

# file_teardown: call it from teardown_file. Removes the file's containers and
# fails when anything of the file is left on the machine.
file_teardown() {
	remove_containers
	local rc=0
	assert_nothing_leaked || rc=1
	remove_world
	return $rc
}

# remove_containers: whatever state they are in.
remove_containers() {
	local ids
	ids=$(balena ps -aq 2>/dev/null) || return 0
	# shellcheck disable=SC2086 # one word an id
	[ -z "$ids" ] || balena rm -f $ids >/dev/null
}

remove_world() {
	local pid
	for pid in $(world_processes) $(cat "$T"/*.pid 2>/dev/null); do kill -9 "$pid" 2>/dev/null || true; done
	umount "$ROOT/overlay" 2>/dev/null || true
	# What a rootless file leaves belongs to other users: test/run removes it.
	rm -rf "$T" "$RUNROOT" 2>/dev/null || true
}

# ---- what may leak ---------------------------------------------------------

# world_processes prints the pids of processes that belong to this file.
world_processes() {
	"$BIN/worldps" "BALENA_TEST_FILE=$T" "$ROOT/overlay/" "$ROOT/containers/" "$ROOT/volumes/" "$RUNROOT/"
}

links() { is_rootless || ip -o link 2>/dev/null | sed 's/^[0-9]*: \([^:@]*\).*/\1/' | grep -E '^(veth|tap)' | sort; }
# A rootless engine makes neither on the host.
cgroups() { is_rootless || find /sys/fs/cgroup -type d 2>/dev/null | grep -E '[0-9a-f]{64}' | sort; }

# assert_nothing_leaked waits a little for what is on its way out.
assert_nothing_leaked() {
	local leak end=$((SECONDS + 5))
	while leak=$(leaks) && [ -n "$leak" ] && [ $SECONDS -lt $end ]; do sleep 0.2; done
	[ -n "$leak" ] || return 0
	echo "leaked:"
	echo "$leak"
	return 1
}

leaks() {
	local pid
	for pid in $(world_processes); do
		echo "process $pid $(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null)"
	done
	# one private mount of the storage itself stays, as with podman
	awk -v root="$ROOT/" -v run="$RUNROOT/" '(index($0, root) || index($0, run)) && $5 != root "overlay" {print "mount " $0}' /proc/self/mountinfo
	comm -13 "$T/links-before" <(links) | sed 's/^/link /'
	comm -13 "$T/cgroups-before" <(cgroups) | while read -r d; do
		[ -n "$(cat "$d/cgroup.procs" 2>/dev/null)" ] || [ ! -d "$d" ] || echo "cgroup $d"
	done
	find "$ROOT"/overlay/staging "$ROOT"/overlay/tempdirs -mindepth 1 2>/dev/null | sed 's/^/staging /'
	find "$RUNROOT"/containers "$RUNROOT"/runc -mindepth 1 -maxdepth 1 ! -name '.*' 2>/dev/null | sed 's/^/run folder /'
}

# ---- running balena --------------------------------------------------------

# balena runs the engine in the file's world. bats' own descriptor 3 must not
# reach a process that lives on.
balena() { "$BALENA" --root "$ROOT" --runroot "$RUNROOT" "$@" 3>&-; }

without3() { "$@" 3>&-; }

# run_balena [-STATUS|-any] ARGS...: run the engine, check its status (0 unless
# said otherwise) and leave $status, $output (stdout), $stderr and their lines.
run_balena() {
	local want=0
	case ${1-} in
	-any) want=any; shift ;;
	-[0-9]*) want=${1#-}; shift ;;
	esac
	echo "\$ balena $*"
	# run itself needs descriptor 3: it warns there about a status of 127
	run --separate-stderr without3 timeout --foreground -k 5 "${TIMEOUT:-60}" "$BALENA" --root "$ROOT" --runroot "$RUNROOT" "$@"
	[ -z "$output" ] || echo "$output"
	[ -z "$stderr" ] || echo "stderr: $stderr"
	echo "status: $status"
	[ "$want" = any ] || [ "$status" -eq "$want" ] || fail "status $status, expected $want"
}

# ---- checks ----------------------------------------------------------------

fail() { echo "FAILED: $*"; return 1; }
# assert_output TEXT: stdout is exactly this. The next ones take an extended regex.
assert_output() { [ "$output" = "$1" ] || fail "stdout is '$output', expected '$1'"; }
assert_match() { [[ $output =~ $1 ]] || fail "stdout has no match for '$1': $output"; }
refute_match() { [[ ! $output =~ $1 ]] || fail "stdout has '$1': $output"; }
assert_stderr() { [[ $stderr =~ $1 ]] || fail "stderr has no match for '$1': $stderr"; }
refute_stderr() { [[ ! $stderr =~ $1 ]] || fail "stderr has '$1': $stderr"; }
assert_empty() { [ -z "$1" ] || fail "expected nothing, got: $1"; }
assert_equal() { [ "$1" = "$2" ] || fail "got '$1', expected '$2'"; }

# eventually [-t SECONDS] COMMAND...: it succeeds before long.
eventually() {
	local limit=10
	if [ "$1" = -t ]; then limit=$2; shift 2; fi
	local end=$((SECONDS + limit))
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || { echo "after $limit s, still not: $*"; return 1; }
		sleep 0.1
	done
}

# container_state ID: what inspect says.
container_state() { balena inspect --format '{{.State.Status}}' "$1"; }
in_state() { [ "$(container_state "$1")" = "$2" ]; }
log_has() { balena logs "$1" 2>&1 | grep -q -- "$2"; }

# free_port: a port on which nobody listens now, below the ephemeral range.
free_port() {
	local port
	while :; do
		port=$((20000 + RANDOM % 12000))
		(exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
	done
}

unique() { echo "${1:-c}-$BATS_SUITE_TEST_NUMBER-$RANDOM"; }

# faultproxy ARGS...: start one before the registry; sets PROXY and PROXY_LOG.
faultproxy() {
	PROXY_LOG=$BATS_TEST_TMPDIR/proxy.log
	rm -f "$PROXY_LOG" # of the one before, which would be read for this one's
	"$BIN/faultproxy" -registry "$REGISTRY" "$@" >"$PROXY_LOG" 2>&1 3>&- &
	PROXY_PID=$!
	echo "$PROXY_PID" >"$T/proxy-$PROXY_PID.pid"
	eventually test -s "$PROXY_LOG"
	PROXY=$(head -1 "$PROXY_LOG")
}
faultproxy_stop() {
	[ -z "${PROXY_PID-}" ] || { kill "$PROXY_PID" 2>/dev/null || true; wait "$PROXY_PID" 2>/dev/null || true; }
	rm -f "$T/proxy-${PROXY_PID-}.pid"
	PROXY_PID=
}

# private_registry: start one with passwords (tester, secret); prints its
# address. It goes with the file.
private_registry() {
	"$BIN/../registry/registry" start "$T/private" htpasswd
	cp "$T/private/pid" "$T/private.pid"
}
private_registry_stop() { "$BIN/../registry/registry" stop "$T/private"; }

# on_terminal STEPS COMMAND...: run on a terminal; see test/cmd/pty for steps.
on_terminal() {
	local steps=$1
	shift
	run without3 "$BIN/pty" -timeout 20s "$@" <<<"$steps"
	echo "$output"
	echo "status: $status"
}

# ---- the storage ----------------------------------------------------------

assert_no_staging() { assert_empty "$(find "$ROOT"/overlay/staging -mindepth 1 -maxdepth 1 2>/dev/null)"; }

# assert_only_layers REF...: a pull of REF creates no file that is not a layer's
# content or metadata
assert_only_layers() {
	local trace=$BATS_TEST_TMPDIR/trace
	strace -f -qq -e trace=chroot,pivot_root,openat,open,creat,rename,renameat,renameat2,mkdirat,mknodat -o "$trace" \
		"$BALENA" --root "$ROOT" --runroot "$RUNROOT" pull -q "$1" 3>&-
	# absolute paths that were opened for writing or made; the layers' own files
	# are opened relative to a directory
	# below overlay/staging, or by a process whose root is there
	local other jailed
	jailed=$(sed -nE 's/^([0-9]+) +(<\.\.\. )?(chroot|pivot_root)(\(| resumed>).*= 0$/^\1 /p' "$trace")
	other=$(grep -vE "${jailed:-^none }" "$trace" | grep -E 'O_CREAT|O_WRONLY|O_RDWR|O_TMPFILE|^[0-9]+ +(creat|mkdir)' | grep -v ' = -1 ' |
		grep -oE '"/[^"]*"' | tr -d '"' | sort -u |
		grep -vE "^$ROOT/(balena\.(db|lock)|reserve|storage\.lock|userns\.lock|secrets|overlay|overlay-layers|overlay-images|overlay-containers|defaultNetworkBackend)(/|$|\.)" |
		grep -vE "^$ROOT(/(overlay[a-z-]*|volumes|containers))?$" |
		grep -vE "^$RUNROOT(/|$)" |
		grep -vE '^/(dev/null|dev/tty|proc/)' || true)
	assert_empty "$other"
	# and below overlay/ only layers: link names, diff, lower, metadata, tar-split
	local stray
	stray=$(find "$ROOT" -type f -size +64k -not -path "$ROOT/overlay/*/diff/*" -not -name '*.tar-split*' -not -name balena.db -not -name reserve)
	assert_empty "$stray"
}
