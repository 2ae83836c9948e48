package netns

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The bridge that root's containers share. Each RunDir has its own, with its
// own subnet and firewall table, so that engines with different run folders
// do not meet; the default one's is named balena0 and stays until a reboot,
// the others go with their last container.

const (
	defaultRunDir = "/run/balena/netns"
	bridgeFile    = "bridge.json"
	lockFile      = "lock"
	insideName    = "eth0"
)

// bridge is the content of RUNDIR/bridge.json.
type bridge struct {
	Name   string
	Table  string // of nftables, family ip
	Subnet netip.Prefix
	MTU    int
	Keep   bool `json:",omitempty"` // after the last container
}

func (b bridge) gateway() netip.Addr { return b.Subnet.Masked().Addr().Next() }

// lockDir takes the lock that changes of a RunDir's bridge, leases and rules
// are made under. It is held for milliseconds.
func lockDir(runDir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(runDir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("locking %s: %w", f.Name(), err)
	}
	return func() { _ = f.Close() }, nil
}

func (n *Network) setupBridge(_ context.Context, o Options) error {
	for _, p := range o.Ports {
		if parseAddr(p.HostIP).Is6() {
			return fmt.Errorf("publishing port %s: an IPv6 address cannot be published by root yet: use an IPv4 address, or none", hostPort(p))
		}
	}
	var mac net.HardwareAddr
	if o.MacAddress != "" {
		var err error
		if mac, err = net.ParseMAC(o.MacAddress); err != nil || len(mac) != 6 {
			return fmt.Errorf("invalid MAC address %q", o.MacAddress)
		}
	}
	ports, reserved, err := reservePorts(o.Ports)
	if err != nil {
		return err
	}
	n.Keep = append(n.Keep, reserved...)
	n.Ports = ports
	b, ip, err := n.claim(o)
	if err != nil {
		return err
	}
	if mac == nil {
		a := ip.As4()
		mac = net.HardwareAddr{0x02, 0x42, a[0], a[1], a[2], a[3]}
	}
	n.Interface, n.Bridge, n.HostAddr = insideName, b.Name, b.gateway().String()
	n.IPAddress, n.PrefixLen, n.Gateway = ip.String(), b.Subnet.Bits(), b.gateway().String()
	n.MacAddress, n.MTU = mac.String(), b.MTU
	if o.MTU > 0 {
		n.MTU = o.MTU
	}
	var id [3]byte
	_, _ = rand.Read(id[:])
	n.HostLink = fmt.Sprintf("vb%.6s%x", o.ID, id)
	n.NS, err = newNamespace(false, func(ns *os.File, inside *netlink.Handle) error {
		return n.plug(ns, inside, mac)
	})
	return err
}

// claim does what containers share, under the lock: the bridge, an address of
// it, the firewall's rules.
func (n *Network) claim(o Options) (b bridge, ip netip.Addr, err error) {
	unlock, err := lockDir(o.RunDir)
	if err != nil {
		return b, ip, err
	}
	defer unlock()
	if b, err = ensureBridge(o); err != nil {
		return b, ip, err
	}
	if ip, err = lease(o.RunDir, o.ID, b.Subnet); err != nil {
		return b, ip, err
	}
	return b, ip, b.publish(o.RunDir, o.ID, ip, n.Ports)
}

// plug connects the namespace with the bridge by a veth pair, which goes with
// the namespace.
func (n *Network) plug(ns *os.File, inside *netlink.Handle, mac net.HardwareAddr) error {
	br, err := netlink.LinkByName(n.Bridge)
	if err != nil {
		return fmt.Errorf("finding bridge %s: %w", n.Bridge, err)
	}
	veth := netlink.NewVeth(netlink.LinkAttrs{
		Name: n.HostLink, MTU: n.MTU, MasterIndex: br.Attrs().Index, Flags: net.FlagUp, TxQLen: -1,
	})
	veth.PeerName, veth.PeerHardwareAddr, veth.PeerNamespace = n.Interface, mac, netlink.NsFd(int(ns.Fd()))
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("connecting to bridge %s: %w", n.Bridge, err)
	}
	// Where br_netfilter is loaded, a container reaches its own published
	// port only so.
	_ = netlink.LinkSetHairpin(veth, true)
	eth, err := inside.LinkByName(n.Interface)
	if err != nil {
		return err
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(n.IPAddress), Mask: net.CIDRMask(n.PrefixLen, 32)}}
	if err := inside.AddrAdd(eth, addr); err != nil {
		return fmt.Errorf("setting address %s: %w", n.IPAddress, err)
	}
	if err := inside.LinkSetUp(eth); err != nil {
		return fmt.Errorf("bringing up %s: %w", n.Interface, err)
	}
	route := &netlink.Route{LinkIndex: eth.Attrs().Index, Gw: net.ParseIP(n.Gateway)}
	if err := inside.RouteAdd(route); err != nil {
		return fmt.Errorf("setting the default route: %w", err)
	}
	return nil
}

// ensureBridge makes the bridge unless it is there.
func ensureBridge(o Options) (bridge, error) {
	b, err := readBridge(o.RunDir)
	switch {
	case err == nil:
		if l, err := netlink.LinkByName(b.Name); err == nil && l.Attrs().Flags&net.FlagUp != 0 {
			return b, nil
		}
	case errors.Is(err, os.ErrNotExist):
		b = bridge{Name: o.Bridge, Keep: o.RunDir == defaultRunDir}
		dir, err := filepath.Abs(o.RunDir)
		if err != nil {
			return b, err
		}
		sum := sha256.Sum256([]byte(dir))
		tag := hex.EncodeToString(sum[:4])
		b.Table = "balena_" + tag
		if b.Keep {
			b.Table, tag = "balena", "0"
		}
		if b.Name == "" {
			b.Name = "balena" + tag
		}
	default:
		return b, err
	}
	return b, b.create(o)
}

func (b *bridge) create(o Options) error {
	if _, err := netlink.LinkByName(b.Name); err == nil {
		// Left from a run folder that was wiped, or set down by hand: begin anew.
		if err := b.deleteLink(); err != nil {
			return err
		}
	}
	for try := 0; ; try++ {
		if !b.Subnet.IsValid() {
			var err error
			if b.Subnet, err = chooseSubnet(o.Subnet); err != nil {
				return err
			}
		}
		alone, err := b.createLink(o)
		if err != nil {
			_ = b.deleteLink()
			return fmt.Errorf("making bridge %s: %w", b.Name, err)
		}
		if alone {
			break
		}
		_ = b.deleteLink()
		if try == 20 || o.Subnet != "" {
			return fmt.Errorf("making bridge %s: subnet %s is in use on this host", b.Name, b.Subnet)
		}
		b.Subnet = netip.Prefix{}
	}
	raw, err := json.Marshal(b)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(o.RunDir, bridgeFile), append(raw, '\n'), 0o600)
}

// createLink makes the bridge with its address and tells whether nobody took
// an overlapping subnet at the same time: of two, the later one yields.
func (b *bridge) createLink(o Options) (alone bool, err error) {
	if b.MTU = o.MTU; b.MTU == 0 {
		b.MTU = hostMTU()
	}
	a := b.gateway().As4()
	link := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: b.Name, MTU: b.MTU, TxQLen: -1,
		// Fixed, or the bridge takes another address with each container.
		HardwareAddr: net.HardwareAddr{0x02, 0x42, a[0], a[1], a[2], a[3]}}}
	if err := netlink.LinkAdd(link); err != nil {
		return false, err
	}
	for file, value := range map[string]string{
		"ipv6/conf/" + b.Name + "/disable_ipv6":   "1",
		"ipv4/conf/" + b.Name + "/route_localnet": "1", // for ports published on 127.0.0.1
		"ipv4/ip_forward":                         "1",
	} {
		if err := writeSysctl(file, value); err != nil && file[:4] != "ipv6" {
			return false, err
		}
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: b.gateway().AsSlice(), Mask: net.CIDRMask(b.Subnet.Bits(), 32)}}
	if err := netlink.AddrAdd(link, addr); err != nil {
		return false, err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return false, err
	}
	addrs, err := netlink.AddrList(nil, unix.AF_INET)
	if err != nil {
		return false, err
	}
	for _, other := range addrs {
		if other.LinkIndex < link.Index && overlaps(b.Subnet, other.IPNet) {
			return false, nil
		}
	}
	return true, nil
}

func (b bridge) deleteLink() error {
	l, err := netlink.LinkByName(b.Name)
	if err != nil {
		return nil
	}
	if err := netlink.LinkDel(l); err != nil {
		return fmt.Errorf("deleting bridge %s: %w", b.Name, err)
	}
	return nil
}

// writeSysctl leaves alone what has the value already: /proc/sys may be
// read-only then.
func writeSysctl(file, value string) error {
	path := "/proc/sys/net/" + file
	if old, err := os.ReadFile(path); err == nil && string(old) == value+"\n" {
		return nil
	}
	return os.WriteFile(path, []byte(value), 0)
}

func readBridge(runDir string) (b bridge, err error) {
	raw, err := os.ReadFile(filepath.Join(runDir, bridgeFile))
	if err != nil {
		return b, err
	}
	if err := json.Unmarshal(raw, &b); err != nil {
		return b, fmt.Errorf("reading %s: %w", bridgeFile, err)
	}
	return b, nil
}

// releaseBridge takes back what claim gave to a container.
func releaseBridge(runDir, id string, st State) error {
	if st.Helper != "" {
		return nil
	}
	if _, err := os.Stat(filepath.Join(runDir, bridgeFile)); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	unlock, err := lockDir(runDir)
	if err != nil {
		return err
	}
	defer unlock()
	b, err := readBridge(runDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil // went with the last lease meanwhile
	}
	if err != nil {
		return err
	}
	if err := b.unpublish(func(owner string) bool { return owner == id }); err != nil {
		return err
	}
	if err := releaseLeases(runDir, func(owner string) bool { return owner == id }); err != nil {
		return err
	}
	return b.removeUnused(runDir)
}

// Reload writes the firewall's rules again, for all containers, after somebody
// else has flushed them.
func Reload(runDir string) error {
	if _, err := os.Stat(filepath.Join(runDir, bridgeFile)); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	unlock, err := lockDir(runDir)
	if err != nil {
		return err
	}
	defer unlock()
	b, err := readBridge(runDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return b.publish(runDir, "", netip.Addr{}, nil)
}

// sweepBridge removes leases and rules of containers that have no state.
// Teardown removes the state last, so there are some only if somebody else did.
func sweepBridge(runDir string) error {
	orphan := func(id string) bool {
		_, err := os.Stat(statePath(runDir, id))
		return errors.Is(err, os.ErrNotExist)
	}
	owners, err := leases(runDir)
	if err != nil {
		return err
	}
	found := false
	for _, id := range owners {
		found = found || orphan(id)
	}
	if !found {
		return nil
	}
	unlock, err := lockDir(runDir)
	if err != nil {
		return err
	}
	defer unlock()
	b, err := readBridge(runDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := b.unpublish(orphan); err != nil {
		return err
	}
	if err := releaseLeases(runDir, orphan); err != nil {
		return err
	}
	return b.removeUnused(runDir)
}

func (b bridge) removeUnused(runDir string) error {
	if b.Keep {
		return nil
	}
	if used, err := leases(runDir); err != nil || len(used) > 0 {
		return err
	}
	if err := b.removeRules(); err != nil {
		return err
	}
	if err := b.deleteLink(); err != nil {
		return err
	}
	return os.Remove(filepath.Join(runDir, bridgeFile))
}
