package netns

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"strings"
)

// FileOptions are what /etc/hosts, /etc/resolv.conf and /etc/hostname of a
// container are made from.
type FileOptions struct {
	State      State    // of the network
	Hostname   string   //
	Domainname string   //
	Names      []string // further names of the container's address
	ExtraHosts []string // NAME:IP or NAME=IP, IP may be host-gateway
	DNS        []string // servers; none keeps the host's
	DNSSearch  []string // "." is none; empty keeps the host's
	DNSOptions []string // empty keeps the host's
}

const (
	hostHosts  = "/etc/hosts"
	hostResolv = "/etc/resolv.conf"
	// What systemd-resolved knows, when /etc/resolv.conf only names its stub.
	resolvedResolv = "/run/systemd/resolve/resolv.conf"
)

// Hosts gives the content of /etc/hosts. With the host's network it is the
// host's file with ExtraHosts added.
func Hosts(o FileOptions) ([]byte, error) {
	var b strings.Builder
	if o.State.Mode == ModeHost {
		if raw, err := os.ReadFile(hostHosts); err == nil {
			b.Write(raw)
			if len(raw) > 0 && raw[len(raw)-1] != '\n' {
				b.WriteByte('\n')
			}
		}
	} else {
		b.WriteString("127.0.0.1\tlocalhost\n" +
			"::1\tlocalhost ip6-localhost ip6-loopback\n" +
			"fe00::\tip6-localnet\n" +
			"ff00::\tip6-mcastprefix\n" +
			"ff02::1\tip6-allnodes\n" +
			"ff02::2\tip6-allrouters\n")
	}
	for _, h := range o.ExtraHosts {
		name, ip, err := extraHost(h, o.State.HostAddr)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "%s\t%s\n", ip, name)
	}
	if o.State.Mode == ModeHost {
		return []byte(b.String()), nil
	}
	// Without an address of its own the container's name still resolves.
	ip := o.State.IPAddress
	if ip == "" {
		ip = "127.0.1.1"
	}
	var names []string
	if o.Hostname != "" {
		if o.Domainname != "" {
			names = append(names, o.Hostname+"."+o.Domainname)
		}
		names = append(names, o.Hostname)
	}
	for _, n := range o.Names {
		if n != "" && n != o.Hostname {
			names = append(names, n)
		}
	}
	if len(names) > 0 {
		fmt.Fprintf(&b, "%s\t%s\n", ip, strings.Join(names, " "))
	}
	return []byte(b.String()), nil
}

// CheckExtraHost tells what is wrong with the value of --add-host.
func CheckExtraHost(s string) error {
	_, _, err := extraHost(s, "0.0.0.0")
	return err
}

func extraHost(s, gateway string) (name, ip string, err error) {
	i := strings.IndexAny(s, ":=")
	if i <= 0 || i == len(s)-1 {
		return "", "", fmt.Errorf("extra host %q is not NAME:IP", s)
	}
	name, ip = s[:i], s[i+1:]
	if strings.ContainsAny(name, " \t\n") {
		return "", "", fmt.Errorf("extra host %q: a name has no spaces", s)
	}
	if ip == "host-gateway" {
		if gateway == "" {
			return "", "", fmt.Errorf("extra host %q: this network has no address for the host", s)
		}
		return name, gateway, nil
	}
	a, err := netip.ParseAddr(strings.Trim(ip, "[]"))
	if err != nil {
		return "", "", fmt.Errorf("extra host %q: %q is not an IP address", s, ip)
	}
	return name, a.String(), nil
}

// Hostname gives the content of /etc/hostname.
func Hostname(o FileOptions) []byte { return []byte(o.Hostname + "\n") }

// ResolvConf gives the content of /etc/resolv.conf: the host's servers but
// those on a loopback address, which mean another host in a namespace of its
// own; before them the forwarder of a rootless helper. Without any, Google's
// public servers, as docker has it.
func ResolvConf(o FileOptions) ([]byte, error) {
	host := hostResolver()
	if o.State.Mode == ModeHost {
		host = readResolver(hostResolv)
	}
	return host.container(o)
}

type resolver struct{ servers, search, options []string }

// hostResolver gives what the host asks: systemd-resolved's own servers where
// only its stub is named.
func hostResolver() resolver {
	r := readResolver(hostResolv)
	if len(r.servers) > 0 && len(nonLoopback(r.servers)) == 0 {
		if d := readResolver(resolvedResolv); len(nonLoopback(d.servers)) > 0 {
			return d
		}
	}
	return r
}

func readResolver(path string) (r resolver) {
	f, err := os.Open(path)
	if err != nil {
		return r
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		fields := strings.Fields(s.Text())
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			r.servers = append(r.servers, fields[1])
		case "search", "domain":
			r.search = fields[1:]
		case "options":
			r.options = append(r.options, fields[1:]...)
		}
	}
	return r
}

func nonLoopback(servers []string) []string {
	var out []string
	for _, s := range servers {
		if a, err := netip.ParseAddr(s); err == nil && !a.IsLoopback() {
			out = append(out, s)
		}
	}
	return out
}

func (r resolver) container(o FileOptions) ([]byte, error) {
	for _, s := range o.DNS {
		if _, err := netip.ParseAddr(s); err != nil {
			return nil, fmt.Errorf("name server %q is not an IP address", s)
		}
	}
	switch {
	case len(o.DNS) > 0:
		r.servers = o.DNS
	case o.State.Mode != ModeHost:
		// A link-local address needs an interface that is not there.
		var reachable []string
		for _, s := range nonLoopback(r.servers) {
			if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" && (a.Is4() || o.State.Helper != "") {
				reachable = append(reachable, s)
			}
		}
		r.servers = append(append([]string{}, o.State.DNS...), reachable...)
		if len(r.servers) == 0 && o.State.Mode != ModeNone {
			r.servers = []string{"8.8.8.8", "8.8.4.4"}
		}
	}
	if len(o.DNSSearch) > 0 {
		r.search = o.DNSSearch
	}
	if len(r.search) == 1 && r.search[0] == "." {
		r.search = nil
	}
	if len(o.DNSOptions) > 0 {
		r.options = o.DNSOptions
	}
	var b strings.Builder
	b.WriteString("# Generated by balena.\n")
	for _, s := range r.servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(r.search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(r.search, " "))
	}
	if len(r.options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(r.options, " "))
	}
	return []byte(b.String()), nil
}
