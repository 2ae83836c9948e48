#!/usr/bin/env bats
# The first cut of networks: none, host and the default one with ports.

load helpers

setup_file() { file_setup "$BUSYBOX"; }
teardown_file() { file_teardown; }
teardown() { remove_containers; }

serve='mkdir -p /www && hostname >/www/index.html && exec httpd -f -p 80 -h /www'

# serves URL: a web server answers there
serves() { curl -sf -m 2 "$1" >/dev/null; }

@test "none: only the loopback" {
	run_balena run --rm --network none "$BUSYBOX" sh -c 'ls /sys/class/net; ip -o addr show lo | grep -c 127.0.0.1'
	assert_output "lo
1"
}

@test "host: the host's interfaces" {
	run_balena run --rm --network host "$BUSYBOX" ls /proc/self/ns/net -l
	if is_rootless; then
		run_balena run --rm --network host "$BUSYBOX" cat /proc/net/dev
		assert_equal "$(grep -c : <<<"$output")" "$(grep -c : /proc/net/dev)"
	else
		[[ $output == *"$(readlink /proc/self/ns/net)"* ]] || fail "another network namespace"
	fi
}

@test "the default network: an address, a route, a resolver" {
	run_balena run --rm "$BUSYBOX" sh -c 'ip -4 -o addr show | grep -vc " lo "; ip route | grep -c ^default; grep -c ^nameserver /etc/resolv.conf'
	[ "${lines[0]}" -ge 1 ] && [ "${lines[1]}" -eq 1 ] && [ "${lines[2]}" -ge 1 ]
}

# fetch IP PORT: a shell command for inside a container. (busybox' wget looks
# every name up, which a static glibc cannot do without the host's libraries.)
fetch() { printf '%s\n' "printf 'GET / HTTP/1.0\r\n\r\n' | nc -w 5 $1 $2 | tail -n 1"; }

@test "a container reaches a server on the host" {
	rootless_skip "a container has the host's own address there"
	local port dir=$T/www host
	mkdir -p "$dir" && echo from-host >"$dir/index.html"
	port=$(free_port)
	busybox httpd -p "$port" -h "$dir" -f 3>&- &
	echo $! >"$T/httpd.pid"
	host=$(ip -4 -o addr show scope global | awk '{print $4; exit}' | cut -d/ -f1)
	run_balena run --rm "$BUSYBOX" sh -c "$(fetch "${host:-"\$(ip route | sed -n 's/^default via \([0-9.]*\).*/\1/p')"}" "$port")"
	assert_output from-host
	kill "$(cat "$T/httpd.pid")"
}

@test "-p publishes a TCP port on every address" {
	local port
	port=$(free_port)
	run_balena run -d --name web -p "$port:80" "$BUSYBOX" sh -c "$serve"
	eventually serves "http://127.0.0.1:$port/"
	eventually serves "http://localhost:$port/"
	local ip
	for ip in $(ip -4 -o addr show scope global | awk '{print $4}' | cut -d/ -f1 | head -1); do
		eventually serves "http://$ip:$port/"
	done
	run_balena port web
	assert_match "80/tcp -> (0\.0\.0\.0|\[::\]):$port"
	run_balena port web 80
	assert_match ":$port"
	run_balena ps --format '{{.Ports}}'
	assert_match "$port->80/tcp"
	run_balena stop -t 0 web
	! serves "http://127.0.0.1:$port/" || fail "still served"
}

@test "-p IP: only there" {
	local port
	port=$(free_port)
	run_balena run -d --name web -p "127.0.0.1:$port:80" "$BUSYBOX" sh -c "$serve"
	eventually serves "http://127.0.0.1:$port/"
	local ip
	ip=$(ip -4 -o addr show scope global | awk '{print $4; exit}' | cut -d/ -f1)
	[ -z "$ip" ] || ! serves "http://$ip:$port/" || fail "served on $ip too"
}

@test "-p /udp" {
	local port
	port=$(free_port)
	run_balena run -d --name udp -v "$BIN/udpecho:/udpecho:ro" -p "127.0.0.1:$port:5353/udp" "$BUSYBOX" /udpecho 5353
	answers() { [ "$(echo word | timeout 2 socat -t1 - "UDP:127.0.0.1:$port")" = word ]; }
	eventually answers
	run_balena port udp
	assert_match "5353/udp -> 127.0.0.1:$port"
}

@test "-p without a host port takes a free one, -P publishes the image's" {
	run_balena run -d --name web -p 80 "$BUSYBOX" sh -c "$serve"
	run_balena port web 80/tcp
	local port=${lines[0]##*:}
	eventually serves "http://127.0.0.1:$port/"
	run_balena rm -f web
}

@test "a port in use is an error that names it, and leaves nothing running" {
	local port
	port=$(free_port)
	run_balena run -d --name one -p "$port:80" "$BUSYBOX" sh -c "$serve"
	run_balena -125 run -d --name two -p "$port:80" "$BUSYBOX" sh -c "$serve"
	assert_stderr "$port"
	assert_stderr 'in use|already'
	run_balena ps --format '{{.Names}}'
	assert_output one
	run_balena rm -f one two
	# by a process that is none of ours, too
	busybox httpd -f -p "127.0.0.1:$port" -h "$T" 3>&- &
	local pid=$!
	echo $pid >"$T/httpd2.pid"
	eventually bash -c "exec 3<>/dev/tcp/127.0.0.1/$port"
	run_balena -any run --rm -p "127.0.0.1:$port:80" "$BUSYBOX" true
	kill "$pid"
	assert_equal "$status" 125
	assert_stderr "$port"
}

@test "the port is free again after stop, and taken again by start" {
	local port
	port=$(free_port)
	run_balena run -d --name web -p "127.0.0.1:$port:80" "$BUSYBOX" sh -c "$serve"
	eventually serves "http://127.0.0.1:$port/"
	run_balena stop -t 0 web
	run_balena run -d --name other -p "127.0.0.1:$port:80" "$BUSYBOX" sh -c "$serve"
	eventually serves "http://127.0.0.1:$port/"
	run_balena rm -f other
	run_balena start web
	eventually serves "http://127.0.0.1:$port/"
}

@test "containers of the default network reach each other by address" {
	rootless_skip "no network of the containers' own yet"
	run_balena run -d --name server "$BUSYBOX" sh -c "$serve"
	local ip
	ip=$(balena inspect --format '{{.NetworkSettings.IPAddress}}' server)
	run_balena run --rm "$BUSYBOX" sh -c "for i in 1 2 3 4 5; do $(fetch "$ip" 80) | grep . && exit; sleep 0.5; done"
	assert_match '^[0-9a-f]{12}$'
}

@test "/etc/hosts, resolv.conf and hostname are docker's; --dns, --add-host" {
	run_balena run --rm --hostname h --dns 192.0.2.1 --dns-search example.org --add-host db:192.0.2.7 "$BUSYBOX" \
		sh -c 'cat /etc/resolv.conf /etc/hosts'
	assert_match 'nameserver 192.0.2.1'
	assert_match 'search example.org'
	assert_match '192.0.2.7.db'
	assert_match '127.0.0.1.localhost'
	assert_match '[0-9.]+.h($|[[:space:]])'
}

@test "a range of 400 ports" {
	local port=
	for port in 21000 22000 23000 24000; do # wherever nothing listens
		ss -Hltn | awk '{print $4}' | grep -qE ":$((port / 1000))[0-3][0-9]{2}$" || break
	done
	run_balena run -d --name web -p "127.0.0.1:$port-$((port + 399)):$port-$((port + 399))" "$BUSYBOX" \
		sh -c "mkdir -p /www && hostname >/www/index.html && httpd -p $((port + 399)) -h /www && exec httpd -f -p $port -h /www"
	eventually serves "http://127.0.0.1:$port/"
	eventually serves "http://127.0.0.1:$((port + 399))/"
	run_balena port web
	assert_equal "${#lines[@]}" 400
	run_balena rm -f web
}

@test "many ports and containers leave no rule and no link behind" {
	rootless_skip "rules are root's"
	local before i p1 p2
	before=$(nft list ruleset 2>/dev/null | grep -cE 'dnat|[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+ : ' || true)
	for i in 1 2 3; do
		p1=$(free_port) p2=$(free_port)
		run_balena run -d --name "n$i" -p "$p1:80" -p "$p2:53/udp" "$BUSYBOX" sleep 100
	done
	run_balena rm -f n1 n2 n3
	assert_equal "$(nft list ruleset 2>/dev/null | grep -cE 'dnat|[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+ : ' || true)" "$before"
}
