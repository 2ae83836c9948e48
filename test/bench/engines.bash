# The engines that the benches compare, each in folders of its own, and their
# samples. Sourced, as root, by the scripts beside it; a peer that is not
# installed is left out.
#
#	$tmp      a folder of the bench's own, made and removed by it
#	$store    below it, where the engines have their folders now
#	$engines  those that are there
# shellcheck shell=bash disable=SC2034

docker=/usr/bin/docker
bench_name=$(basename "$0")
engines=(balena)
command -v podman >/dev/null && engines+=(podman) || echo "$bench_name: podman is not installed" >&2
[ -x $docker ] && command -v dockerd >/dev/null && engines+=(docker) || echo "$bench_name: docker is not installed" >&2
[ -z "${ENGINES-}" ] || read -ra engines <<<"$ENGINES"

store=$tmp/latency
cat >"$tmp/containers.conf" <<-END
	[containers]
	default_ulimits = ["nofile=20000:20000", "nproc=32768:32768"]
	[engine]
	cgroup_manager = "cgroupfs"
	events_logger = "none"
END
export CONTAINERS_CONF=$tmp/containers.conf

# cmd ENGINE: the words that start its command line, in $cmd, and those that a
# pull from a plain registry takes, in $tls
cmd() {
	tls=()
	case $1 in
	balena) cmd=("$tmp/bin/balena" --root "$store/balena/root" --runroot "$store/balena/run") ;;
	podman) cmd=(podman --root "$store/podman/root" --runroot "$store/podman/run") tls=(--tls-verify=false) ;;
	docker) cmd=("$docker" -H "unix://$tmp/docker.sock") ;;
	esac
}
start_docker() {
	mkdir -p "$store/docker"
	dockerd -H "unix://$tmp/docker.sock" --data-root "$store/docker/root" --exec-root "$tmp/docker-exec" --pidfile "$tmp/docker.pid" \
		--iptables=false --bridge=none --default-ulimit nofile=20000:20000 >"$tmp/dockerd.log" 2>&1 &
	dockerd_pid=$!
	for _ in $(seq 200); do
		"$docker" -H "unix://$tmp/docker.sock" version >/dev/null 2>&1 && return 0
		sleep 0.1
	done
	cat "$tmp/dockerd.log" >&2
	return 1
}
stop_docker() {
	[ -n "${dockerd_pid-}" ] || return 0
	kill "$dockerd_pid"
	wait "$dockerd_pid" 2>/dev/null || true
	dockerd_pid=
}

# build_tools: balena as it is installed, what measures, and what makes images.
# A copy: what the linker has just written lies in the page cache in pieces of
# up to 2 MB, which count whole in whoever touches them.
build_tools() {
	install -D bin/balena "$tmp/bin/balena"
	CGO_ENABLED=0 go build -o "$tmp/" ./test/cmd/measure ./test/cmd/mkimage
}

# as_if_ran ENGINE: the program's own pages are no part of what a pull leaves
as_if_ran() {
	local cmd tls
	cmd "$1"
	if [ "$1" = docker ]; then
		cat "$(command -v dockerd)" "$(command -v containerd)" >/dev/null
	else
		cat "$(command -v "${cmd[0]}")" >/dev/null
	fi
}

# ---- numbers ---------------------------------------------------------------

declare -A samples
note() { samples[$1]+="$2 "; } # note ENGINE.WHAT NUMBER
median() { tr ' ' '\n' <<<"${samples[$1]-}" | grep . | sort -n | awk '{v[NR] = $1} END {if (NR) print v[int((NR + 1) / 2)]; else print "-"}'; }
spread() { tr ' ' '\n' <<<"${samples[$1]-}" | grep . | sort -n | awk '{v[NR] = $1} END {if (NR) print v[1] "–" v[NR]}'; }
row() { # row TITLE WHAT
	local e
	printf '| %s ' "$1"
	for e in "${engines[@]}"; do printf '| %s (%s) ' "$(median "$e.$2")" "$(spread "$e.$2")"; done
	echo '|'
}
measure() { "$tmp/measure" "$@"; } # prints ms and peak kB

# uncompressed ADDR NAME TAG: the layers of an image, their number and bytes
uncompressed() {
	local d bytes=0 n=0
	for d in $(skopeo inspect --tls-verify=false --raw "docker://$1/$2:$3" | jq -r '.layers[].digest'); do
		bytes=$((bytes + $(curl -s "http://$1/v2/$2/blobs/$d" | zcat | wc -c))) n=$((n + 1))
	done
	echo "$n $bytes"
}
