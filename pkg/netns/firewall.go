package netns

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	mnetlink "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/balena-os/balena/pkg/store"
)

// The rules of a bridge are one nftables table of family ip (not inet, whose
// NAT needs Linux 5.2). Its base chains are the same for every container; the
// chain published has the published ports, each rule with its container's ID as
// comment. docs/networking.md shows the table as `nft list ruleset` does.

// rulesVersion is the comment of the first rule of chain forward: the static
// rules are written anew when it is another.
const rulesVersion = "balena rules 1"

type firewall struct {
	bridge
	conn  *nftables.Conn
	table *nftables.Table
}

func (b bridge) firewall() (*firewall, error) {
	c, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(roomForRules))
	if err != nil {
		return nil, fmt.Errorf("opening nftables: %w", err)
	}
	return &firewall{b, c, &nftables.Table{Family: nftables.TableFamilyIPv4, Name: b.Table}}, nil
}

// roomForRules: a transaction is one message, and each rule of it is answered
// before the first answer is read. The usual buffers hold some 200 ports. (The
// buffers take memory only while something is in them.)
func roomForRules(c *mnetlink.Conn) error {
	const room = 32 << 20 // ports by the thousand
	return errors.Join(c.SetWriteBuffer(room), c.SetReadBuffer(room))
}

func (f *firewall) close() { _ = f.conn.CloseLasting() }

func (f *firewall) chain(name string) *nftables.Chain {
	return &nftables.Chain{Name: name, Table: f.table}
}

// publish makes sure of the static rules and adds those of a container's
// ports, in one transaction. Where somebody flushed the table (nftables'
// service does at its restart) the ports of the other containers come back too.
func (b bridge) publish(runDir, id string, ip netip.Addr, ports []store.PortMapping) error {
	f, err := b.firewall()
	if err != nil {
		return err
	}
	defer f.close()
	static := !f.installed()
	if static {
		f.addStatic()
		if err := f.addOthers(runDir, id); err != nil {
			return err
		}
	}
	static = f.admit() || static
	for _, p := range ports {
		f.rule("published", id, f.dnat(p, ip)...)
	}
	if !static && len(ports) == 0 {
		return nil
	}
	if err := f.conn.Flush(); err != nil {
		return fmt.Errorf("writing firewall rules (table ip %s): %w", b.Table, err)
	}
	forgetFlows(ports)
	return nil
}

// addOthers writes the rules of every container of the bridge but one.
func (f *firewall) addOthers(runDir, but string) error {
	ids, err := stateIDs(runDir)
	if err != nil {
		return err
	}
	f.conn.FlushChain(f.chain("published"))
	for _, id := range ids {
		st, err := readState(runDir, id)
		ip := parseAddr(st.IPAddress)
		if err != nil || id == but || st.Bridge != f.Name || !ip.Is4() {
			continue
		}
		for _, p := range st.Ports {
			f.rule("published", id, f.dnat(p, ip)...)
		}
	}
	return nil
}

// unpublish deletes the rules of the containers that whose names.
func (b bridge) unpublish(whose func(id string) bool) error {
	f, err := b.firewall()
	if err != nil {
		return err
	}
	defer f.close()
	rules, err := f.conn.GetRules(f.table, f.chain("published"))
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("listing firewall rules: %w", err)
	}
	n := 0
	for _, r := range rules {
		if id, ok := userdata.GetString(r.UserData, userdata.TypeComment); ok && whose(id) {
			if err := f.conn.DelRule(r); err != nil {
				return err
			}
			n++
		}
	}
	if n == 0 {
		return nil
	}
	if err := f.conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("deleting firewall rules: %w", err)
	}
	return nil
}

func (b bridge) removeRules() error {
	f, err := b.firewall()
	if err != nil {
		return err
	}
	defer f.close()
	f.expel()
	f.conn.AddTable(f.table) // so that deleting it cannot fail
	f.conn.DelTable(f.table)
	if err := f.conn.Flush(); err != nil {
		return fmt.Errorf("deleting firewall table %s: %w", b.Table, err)
	}
	return nil
}

func (f *firewall) installed() bool {
	rules, err := f.conn.GetRules(f.table, f.chain("forward"))
	if err != nil || len(rules) == 0 {
		return false
	}
	s, ok := userdata.GetString(rules[0].UserData, userdata.TypeComment)
	return ok && s == rulesVersion
}

// addStatic writes the rules that do not depend on a container.
func (f *firewall) addStatic() {
	accept := nftables.ChainPolicyAccept
	f.conn.AddTable(f.table)
	f.conn.AddChain(f.chain("published")) // keeps what it has
	base := func(name string, t nftables.ChainType, h *nftables.ChainHook, p *nftables.ChainPriority) {
		c := f.conn.AddChain(&nftables.Chain{Name: name, Table: f.table, Type: t, Hooknum: h, Priority: p, Policy: &accept})
		f.conn.FlushChain(c)
	}
	base("martian", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw)
	base("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
	base("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest)
	base("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest)
	base("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)

	loop := netip.MustParsePrefix("127.0.0.0/8")
	// route_localnet must not let a container reach the host's loopback.
	f.rule("martian", "", cat(iif(f.Name), daddr(expr.CmpOpEq, loop), drop())...)

	f.rule("forward", rulesVersion, cat(oif(f.Name), ctState(), acceptV())...)
	f.rule("forward", "", cat(oif(f.Name), ctDNAT(), acceptV())...)
	f.rule("forward", "", cat(iif(f.Name), acceptV())...)
	f.rule("forward", "", cat(oif(f.Name), drop())...)

	// Only connections to the host itself are published ports; those to
	// 127.0.0.1 can only come from the host.
	f.rule("prerouting", "", cat(daddr(expr.CmpOpNeq, loop), local(), jump("published"))...)
	f.rule("output", "", cat(local(), jump("published"))...)

	f.rule("postrouting", "", cat(saddr(f.Subnet), oifNot(f.Name), masquerade())...)
	f.rule("postrouting", "", cat(saddr(loop), oif(f.Name), masquerade())...)
	f.rule("postrouting", "", cat(saddr(f.Subnet), oif(f.Name), ctDNAT(), masquerade())...)
}

func (f *firewall) rule(chain, comment string, e ...expr.Any) {
	r := &nftables.Rule{Table: f.table, Chain: f.chain(chain), Exprs: e}
	if comment != "" {
		r.UserData = userdata.AppendString(nil, userdata.TypeComment, comment)
	}
	f.conn.AddRule(r)
}

// dnat sends what arrives at a published port to the container.
func (f *firewall) dnat(p store.PortMapping, ip netip.Addr) []expr.Any {
	var e []expr.Any
	if a := parseAddr(p.HostIP); a.Is4() {
		e = daddr(expr.CmpOpEq, netip.PrefixFrom(a, 32))
	}
	proto := byte(unix.IPPROTO_TCP)
	switch p.Protocol {
	case "udp":
		proto = unix.IPPROTO_UDP
	case "sctp":
		proto = unix.IPPROTO_SCTP
	}
	return append(e,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(p.HostPort)},
		&expr.Immediate{Register: 1, Data: ip.AsSlice()},
		&expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(p.ContainerPort)},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: 2, Specified: true},
	)
}

// forgetFlows drops what connection tracking remembers of the UDP ports: a
// client that kept sending while nothing was published would never reach the
// container. Kernels without ctnetlink do not mind.
func forgetFlows(ports []store.PortMapping) {
	for _, p := range ports {
		if p.Protocol != "udp" {
			continue
		}
		filter := &netlink.ConntrackFilter{}
		_ = filter.AddProtocol(unix.IPPROTO_UDP)
		_ = filter.AddPort(netlink.ConntrackOrigDstPort, p.HostPort)
		_, _ = netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, filter)
	}
}

// Accepting a packet in one table does not keep another from dropping it.
// Where iptables' FORWARD chain drops by policy (docker, ufw) admit inserts two
// rules there, such as iptables would write: in DOCKER-USER if docker made it,
// else in FORWARD. It tells whether it had something to add.
func (f *firewall) admit() bool {
	var at *nftables.Chain
	for _, c := range f.foreign() {
		if c.Name == "FORWARD" && (c.Policy == nil || *c.Policy != nftables.ChainPolicyDrop) {
			return false
		}
		at = c
	}
	if at == nil || len(f.ours(at)) > 0 {
		return false
	}
	// iptables compares with the terminating zero, and counts.
	name := append([]byte(f.Name), 0)
	for _, key := range []expr.MetaKey{expr.MetaKeyOIFNAME, expr.MetaKeyIIFNAME} {
		f.conn.InsertRule(&nftables.Rule{Table: at.Table, Chain: at,
			Exprs: cat(match(&expr.Meta{Key: key, Register: 1}, expr.CmpOpEq, name),
				[]expr.Any{&expr.Counter{}}, acceptV()),
			UserData: userdata.AppendString(nil, userdata.TypeComment, f.tag())})
	}
	return true
}

// expel takes back what admit gave.
func (f *firewall) expel() {
	for _, c := range f.foreign() {
		for _, r := range f.ours(c) {
			_ = f.conn.DelRule(r)
		}
	}
}

func (f *firewall) tag() string { return "balena " + f.Name }

// foreign gives iptables' chains FORWARD and DOCKER-USER, where they exist.
func (f *firewall) foreign() []*nftables.Chain {
	t := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "filter"}
	var found []*nftables.Chain
	for _, name := range []string{"FORWARD", "DOCKER-USER"} {
		if c, err := f.conn.ListChain(t, name); err == nil && c != nil {
			c.Table = t
			found = append(found, c)
		}
	}
	return found
}

func (f *firewall) ours(c *nftables.Chain) (rules []*nftables.Rule) {
	all, err := f.conn.GetRules(c.Table, c)
	if err != nil {
		return nil
	}
	for _, r := range all {
		if s, ok := userdata.GetString(r.UserData, userdata.TypeComment); ok && s == f.tag() {
			rules = append(rules, r)
		}
	}
	return rules
}

// The pieces of rules.

func cat(parts ...[]expr.Any) []expr.Any {
	var all []expr.Any
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

func ifname(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

func match(load expr.Any, op expr.CmpOp, data []byte) []expr.Any {
	return []expr.Any{load, &expr.Cmp{Op: op, Register: 1, Data: data}}
}

func iif(name string) []expr.Any {
	return match(&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, expr.CmpOpEq, ifname(name))
}

func oif(name string) []expr.Any {
	return match(&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1}, expr.CmpOpEq, ifname(name))
}

func oifNot(name string) []expr.Any {
	return match(&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1}, expr.CmpOpNeq, ifname(name))
}

func saddr(p netip.Prefix) []expr.Any { return address(12, expr.CmpOpEq, p) }

func daddr(op expr.CmpOp, p netip.Prefix) []expr.Any { return address(16, op, p) }

func address(offset uint32, op expr.CmpOp, p netip.Prefix) []expr.Any {
	e := []expr.Any{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4}}
	if p.Bits() < 32 {
		mask := binaryutil.BigEndian.PutUint32(^uint32(0) << (32 - p.Bits()))
		e = append(e, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)})
	}
	return append(e, &expr.Cmp{Op: op, Register: 1, Data: p.Masked().Addr().AsSlice()})
}

func bits(key expr.CtKey, mask uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: key, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(mask), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

// ctState is `ct state established,related`.
func ctState() []expr.Any {
	return bits(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED)
}

// ctDNAT is `ct status dnat`.
func ctDNAT() []expr.Any { return bits(expr.CtKeySTATUS, 1<<5) }

// local is `fib daddr type local`.
func local() []expr.Any {
	return match(&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true}, expr.CmpOpEq,
		binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL))
}

func acceptV() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }

func drop() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}} }

func jump(chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}
}

func masquerade() []expr.Any { return []expr.Any{&expr.Masq{}} }
