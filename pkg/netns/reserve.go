package netns

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/balena-os/balena/pkg/store"
)

// reservePorts binds every host port, so that neither another container nor
// another program can have it, and so that a conflict is found before
// anything runs. It chooses the ports that are 0 and gives the mappings with
// all known. The sockets never see a packet: the firewall's rules take them
// before, and where the rules are gone a filter drops them.
func reservePorts(ports []store.PortMapping) ([]store.PortMapping, []*os.File, error) {
	out := make([]store.PortMapping, 0, len(ports))
	var files []*os.File
	for _, p := range ports {
		f, port, err := reservePort(p)
		if err != nil {
			for _, f := range files {
				_ = f.Close()
			}
			return nil, nil, err
		}
		p.HostPort = port
		out = append(out, p)
		if f != nil {
			files = append(files, f)
		}
	}
	return out, files, nil
}

func reservePort(p store.PortMapping) (*os.File, uint16, error) {
	typ, proto := unix.SOCK_STREAM, 0
	switch p.Protocol {
	case "udp":
		typ = unix.SOCK_DGRAM
	case "sctp":
		proto = unix.IPPROTO_SCTP
	}
	family, sa, err := socketAddress(p)
	if err != nil {
		return nil, 0, err
	}
	fd, err := unix.Socket(family, typ|unix.SOCK_CLOEXEC, proto)
	if p.Protocol == "sctp" && (errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ESOCKTNOSUPPORT)) {
		// The rules work without the host's kernel speaking SCTP itself.
		if p.HostPort == 0 {
			return nil, 0, fmt.Errorf("sctp: this kernel cannot choose a free port: name one")
		}
		return nil, p.HostPort, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("reserving port %s: %w", hostPort(p), err)
	}
	f := os.NewFile(uintptr(fd), "port "+hostPort(p)+"/"+p.Protocol)
	port, err := bindPort(fd, p, sa)
	if err != nil {
		_ = f.Close()
		return nil, 0, err
	}
	return f, port, nil
}

func socketAddress(p store.PortMapping) (int, unix.Sockaddr, error) {
	if p.HostIP == "" {
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(p.HostPort)}, nil
	}
	a, err := netip.ParseAddr(p.HostIP)
	if err != nil {
		return 0, nil, fmt.Errorf("port %s: %w", hostPort(p), err)
	}
	if a = a.Unmap(); a.Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(p.HostPort), Addr: a.As4()}, nil
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Port: int(p.HostPort), Addr: a.As16()}, nil
}

func bindPort(fd int, p store.PortMapping, sa unix.Sockaddr) (uint16, error) {
	// A program that keeps 0 bytes of every packet. Where the kernel does not
	// take it (EPERM for an unprivileged user when its memory for programs is
	// used up) the port is reserved all the same.
	filter := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0}
	_ = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &filter})
	if p.Protocol != "udp" {
		// With old connections in TIME_WAIT the port is free for us all the same.
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	err := unix.Bind(fd, sa)
	if err == nil && p.Protocol != "udp" {
		err = unix.Listen(fd, 1)
	}
	if err != nil {
		return 0, portError(p, err)
	}
	local, err := unix.Getsockname(fd)
	if err != nil {
		return 0, err
	}
	switch a := local.(type) {
	case *unix.SockaddrInet4:
		return uint16(a.Port), nil
	case *unix.SockaddrInet6:
		return uint16(a.Port), nil
	}
	return p.HostPort, nil
}

// portError says what to do about a host port that cannot be had.
func portError(p store.PortMapping, err error) error {
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return fmt.Errorf("%w: %s/%s: stop what uses it (ss -lnp shows it), or publish another port", ErrPortInUse, hostPort(p), p.Protocol)
	case errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w: %s/%s: use a port from %d on, or as root: sysctl net.ipv4.ip_unprivileged_port_start=%d",
			ErrPrivileged, hostPort(p), p.Protocol, unprivilegedStart(), p.HostPort)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Errorf("publishing port %s/%s: this host does not have the address %s", hostPort(p), p.Protocol, p.HostIP)
	}
	return fmt.Errorf("publishing port %s/%s: %w", hostPort(p), p.Protocol, err)
}

func unprivilegedStart() int {
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	if err != nil {
		return 1024
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 1024
	}
	return n
}
