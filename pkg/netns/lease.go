package netns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A lease is the file RUNDIR/leases/ADDRESS that holds the container's ID.
// RUNDIR/leases/.last names the address given last: the next one is searched
// from there, so that an address is not given again at once.

const lastLease = ".last"

// lease gives a container a free address of the subnet. Called under the lock.
func lease(runDir, id string, subnet netip.Prefix) (netip.Addr, error) {
	dir := filepath.Join(runDir, "leases")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return netip.Addr{}, err
	}
	base := binary.BigEndian.Uint32(subnet.Masked().Addr().AsSlice())
	size := uint32(1) << (32 - subnet.Bits())
	// 0 is the network, 1 the gateway, the last one broadcast.
	if size < 4 {
		return netip.Addr{}, fmt.Errorf("%w: subnet %s has no room for containers", ErrNoAddress, subnet)
	}
	next := uint32(2)
	if raw, err := os.ReadFile(filepath.Join(dir, lastLease)); err == nil {
		if a, err := netip.ParseAddr(strings.TrimSpace(string(raw))); err == nil && subnet.Contains(a) {
			next = binary.BigEndian.Uint32(a.AsSlice()) - base + 1
		}
	}
	for i := uint32(0); i < size-3; i++ {
		host := (next-2+i)%(size-3) + 2
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], base+host)
		a := netip.AddrFrom4(b)
		f, err := os.OpenFile(filepath.Join(dir, a.String()), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err != nil {
			return netip.Addr{}, err
		}
		_, err = f.WriteString(id)
		if err := errors.Join(err, f.Close()); err != nil {
			return netip.Addr{}, err
		}
		return a, os.WriteFile(filepath.Join(dir, lastLease), []byte(a.String()), 0o600)
	}
	return netip.Addr{}, fmt.Errorf("%w: all %d addresses of %s are given to containers", ErrNoAddress, size-3, subnet)
}

// leases gives the owner of each address.
func leases(runDir string) (map[string]string, error) {
	dir := filepath.Join(runDir, "leases")
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	m := map[string]string{}
	for _, e := range entries {
		if e.Name() == lastLease {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue // released meanwhile
		}
		if err != nil {
			return nil, err
		}
		m[e.Name()] = string(raw)
	}
	return m, nil
}

func releaseLeases(runDir string, whose func(id string) bool) error {
	m, err := leases(runDir)
	if err != nil {
		return err
	}
	for a, id := range m {
		if whose(id) {
			if err := os.Remove(filepath.Join(runDir, "leases", a)); err != nil {
				return err
			}
		}
	}
	return nil
}

// chooseSubnet gives the bridge's subnet: the one asked for, else the first
// of ours that the host neither has nor has a route or a name server in.
func chooseSubnet(want string) (netip.Prefix, error) {
	taken, err := hostNetworks()
	if err != nil {
		return netip.Prefix{}, err
	}
	if want != "" {
		p, err := netip.ParsePrefix(want)
		if err != nil || !p.Addr().Is4() || p.Bits() > 29 {
			return p, fmt.Errorf("subnet %q is not an IPv4 network like 10.87.0.0/16", want)
		}
		if n := collision(p.Masked(), taken); n != nil {
			return p, fmt.Errorf("subnet %s overlaps with %s, which this host uses", p, n)
		}
		return p.Masked(), nil
	}
	for _, p := range subnets() {
		if collision(p, taken) == nil {
			return p, nil
		}
	}
	return netip.Prefix{}, errors.New("every subnet that the bridge could have is in use on this host: name one")
}

// subnets are the candidates: 10.87.0.0/16 and up (10.88.0.0/16 is podman's),
// then /24 networks of 192.168.0.0/16 from the top.
func subnets() []netip.Prefix {
	var all []netip.Prefix
	for i := 87; i < 128; i++ {
		if i != 88 {
			all = append(all, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), 0, 0}), 16))
		}
	}
	for i := 250; i >= 200; i-- {
		all = append(all, netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(i), 0}), 24))
	}
	return all
}

// hostNetworks gives the networks of the host's addresses, its routes but the
// default one, and its name servers.
func hostNetworks() ([]*net.IPNet, error) {
	var taken []*net.IPNet
	routes, err := netlink.RouteList(nil, unix.AF_INET)
	if err != nil {
		return nil, fmt.Errorf("listing routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		if ones, _ := r.Dst.Mask.Size(); ones > 0 {
			taken = append(taken, r.Dst)
		}
	}
	addrs, err := netlink.AddrList(nil, unix.AF_INET)
	if err != nil {
		return nil, fmt.Errorf("listing addresses: %w", err)
	}
	for _, a := range addrs {
		taken = append(taken, a.IPNet)
	}
	for _, s := range hostResolver().servers {
		if ip := net.ParseIP(s).To4(); ip != nil {
			taken = append(taken, &net.IPNet{IP: ip, Mask: net.CIDRMask(32, 32)})
		}
	}
	return taken, nil
}

func collision(p netip.Prefix, taken []*net.IPNet) *net.IPNet {
	for _, n := range taken {
		if overlaps(p, n) {
			return n
		}
	}
	return nil
}

func overlaps(p netip.Prefix, n *net.IPNet) bool {
	a, ok := netip.AddrFromSlice(n.IP.To4())
	if !ok {
		return false
	}
	ones, _ := n.Mask.Size()
	return p.Overlaps(netip.PrefixFrom(a, ones).Masked())
}

// hostMTU is that of the interface with the default route, or 1500.
func hostMTU() int {
	routes, err := netlink.RouteListFiltered(unix.AF_INET, &netlink.Route{Dst: nil}, netlink.RT_FILTER_DST)
	if err == nil {
		for _, r := range routes {
			if l, err := netlink.LinkByIndex(r.LinkIndex); err == nil && l.Attrs().MTU >= 576 {
				return min(l.Attrs().MTU, 1500)
			}
		}
	}
	return 1500
}
