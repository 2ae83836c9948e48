package netns

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/balena-os/balena/pkg/store"
)

// ErrPortSpec is what ParsePorts wraps.
var ErrPortSpec = errors.New("invalid port mapping")

// ParsePorts reads what -p takes: [[IP:][HOST]:]CONTAINER[/PROTOCOL], where
// HOST and CONTAINER are ports or FIRST-LAST ranges of the same length, an
// absent HOST is any free port, and PROTOCOL is tcp (the default), udp or
// sctp. An IPv6 address stands in brackets. A range gives one mapping a port;
// one container port with a range of host ports is refused rather than
// guessed at.
func ParsePorts(specs ...string) ([]store.PortMapping, error) {
	var all []store.PortMapping
	for _, s := range specs {
		m, err := parsePort(s)
		if err != nil {
			return nil, fmt.Errorf("%w %q: %w", ErrPortSpec, s, err)
		}
		all = append(all, m...)
	}
	return all, checkPorts(all)
}

func parsePort(spec string) ([]store.PortMapping, error) {
	rest, proto, ok := strings.Cut(spec, "/")
	switch proto = strings.ToLower(proto); {
	case !ok:
		proto = "tcp"
	case proto != "tcp" && proto != "udp" && proto != "sctp":
		return nil, fmt.Errorf("protocol %q is not tcp, udp or sctp", proto)
	}
	ip, rest, err := cutHostIP(rest)
	if err != nil {
		return nil, err
	}
	host, container, ok := strings.Cut(rest, ":")
	if !ok {
		host, container = "", rest
	}
	if strings.Contains(container, ":") {
		return nil, errors.New("want [IP:][HOST:]CONTAINER[/PROTOCOL]")
	}
	if container == "" {
		return nil, errors.New("no container port is given")
	}
	c0, c1, err := portRange(container)
	if err != nil {
		return nil, fmt.Errorf("container port %w", err)
	}
	var h0, h1 uint16
	if host != "" && host != "0" {
		if h0, h1, err = portRange(host); err != nil {
			return nil, fmt.Errorf("host port %w", err)
		}
		if h1-h0 != c1-c0 {
			return nil, fmt.Errorf("ranges %s and %s differ in length", host, container)
		}
	}
	var out []store.PortMapping
	for i := 0; i <= int(c1-c0); i++ {
		m := store.PortMapping{HostIP: ip, ContainerPort: c0 + uint16(i), Protocol: proto}
		if h0 != 0 {
			m.HostPort = h0 + uint16(i)
		}
		out = append(out, m)
	}
	return out, nil
}

// cutHostIP takes the host address off the front: [v6]: or v4:, the latter
// known by there being two colons. Unspecified IPv4 is "" ("every address").
func cutHostIP(s string) (ip, rest string, err error) {
	switch {
	case strings.HasPrefix(s, "["):
		var ok bool
		if ip, rest, ok = strings.Cut(s[1:], "]:"); !ok {
			return "", "", errors.New("']:' is missing after '['")
		}
	case strings.Count(s, ":") == 2:
		ip, rest, _ = strings.Cut(s, ":")
	case strings.Count(s, ":") > 2:
		return "", "", errors.New("want [IP:][HOST:]CONTAINER[/PROTOCOL], an IPv6 address in brackets")
	default:
		return "", s, nil
	}
	if ip == "" {
		return "", rest, nil
	}
	a, err := netip.ParseAddr(ip)
	if err != nil || a.Zone() != "" {
		return "", "", fmt.Errorf("%q is not an IP address", ip)
	}
	if a = a.Unmap(); a == netip.IPv4Unspecified() {
		return "", rest, nil
	}
	return a.String(), rest, nil
}

func portRange(s string) (first, last uint16, err error) {
	a, b, ok := strings.Cut(s, "-")
	if !ok {
		b = a
	}
	if first, err = portNumber(a); err != nil {
		return 0, 0, err
	}
	if last, err = portNumber(b); err != nil {
		return 0, 0, err
	}
	if last < first {
		return 0, 0, fmt.Errorf("range %s ends before it begins", s)
	}
	return first, last, nil
}

func portNumber(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || s[0] == '+' {
		return 0, fmt.Errorf("%q is not between 1 and 65535", s)
	}
	return uint16(n), nil
}

// checkPorts refuses mappings that claim the same host port.
func checkPorts(ports []store.PortMapping) error {
	type key struct {
		proto string
		port  uint16
	}
	seen := map[key][]string{}
	for _, p := range ports {
		if p.HostPort == 0 {
			continue
		}
		k := key{p.Protocol, p.HostPort}
		for _, ip := range seen[k] {
			if ip == p.HostIP || ip == "" || p.HostIP == "" {
				return fmt.Errorf("%w: host port %s is asked for twice", ErrPortSpec, hostPort(p))
			}
		}
		seen[k] = append(seen[k], p.HostIP)
	}
	return nil
}

// FormatPort gives a mapping as `port` and `ps` print it:
// 0.0.0.0:8080->80/tcp.
func FormatPort(p store.PortMapping) string {
	return fmt.Sprintf("%s->%d/%s", hostPort(p), p.ContainerPort, p.Protocol)
}

func hostPort(p store.PortMapping) string {
	a, err := netip.ParseAddr(p.HostIP)
	if err != nil {
		a = netip.IPv4Unspecified()
	}
	return netip.AddrPortFrom(a, p.HostPort).String()
}
