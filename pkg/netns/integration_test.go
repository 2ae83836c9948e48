package netns

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/balena-os/balena/pkg/store"
)

// As root the tests run in a network namespace that plays the host, with an
// address and a default route: they neither see nor change the real one.

const inPlayedHost = "NETNS_TEST_HOST"

// As in balena's main: a thread that cannot leave a namespace again must not be
// the main one, which would keep the namespace in use.
func init() { runtime.LockOSThread() }

func TestMain(m *testing.M) {
	if os.Args[0] == Stage {
		os.Exit(Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	if os.Geteuid() == 0 && os.Getenv(inPlayedHost) == "" {
		ns, err := playedHost()
		if err != nil {
			fmt.Fprintln(os.Stderr, "no network namespace, so no integration tests:", err)
			_ = os.Setenv(inPlayedHost, "none")
			os.Exit(m.Run())
		}
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Env = append(os.Environ(), inPlayedHost+"=1")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		_ = within(ns, func() error { return cmd.Run() })
		os.Exit(cmd.ProcessState.ExitCode())
	}
	os.Exit(m.Run())
}

func playedHost() (*os.File, error) {
	return newNamespace(true, func(_ *os.File, h *netlink.Handle) error {
		d := netlink.NewVeth(netlink.LinkAttrs{Name: "uplink0", Flags: net.FlagUp, TxQLen: -1})
		d.PeerName = "cable0"
		if err := h.LinkAdd(d); err != nil {
			return err
		}
		if peer, err := h.LinkByName(d.PeerName); err != nil || h.LinkSetUp(peer) != nil {
			return fmt.Errorf("no peer: %w", err)
		}
		a, _ := netlink.ParseAddr("192.0.2.77/24")
		return errors.Join(h.AddrAdd(d, a), h.RouteAdd(&netlink.Route{Gw: net.ParseIP("192.0.2.1")}))
	})
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 || os.Getenv(inPlayedHost) == "none" {
		t.Skip("needs root: makes bridges and firewall rules")
	}
}

func newID() string {
	var b [32]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

func setup(t *testing.T, dir string, ports ...string) (string, *Network) {
	t.Helper()
	m, err := ParsePorts(ports...)
	if err != nil {
		t.Fatal(err)
	}
	id := newID()
	n, err := Setup(context.Background(), Options{ID: id, RunDir: dir, Ports: m})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = n.Close()
		if err := Teardown(context.Background(), dir, id); err != nil {
			t.Error(err)
		}
	})
	return id, n
}

// serve answers HTTP with the client's address, inside the namespace.
func serve(t *testing.T, n *Network, addr, word string) {
	t.Helper()
	var l net.Listener
	if err := within(n.NS, func() (err error) { l, err = net.Listen("tcp4", addr); return err }); err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s from %s", word, r.RemoteAddr)
	})}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
}

func serveUDP(t *testing.T, n *Network, addr, word string) {
	t.Helper()
	var c net.PacketConn
	if err := within(n.NS, func() (err error) { c, err = net.ListenPacket("udp4", addr); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	go func() {
		b := make([]byte, 1500)
		for {
			k, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = c.WriteTo([]byte(word+" "+string(b[:k])), from)
		}
	}()
}

// get fetches from inside ns, or from the host when it is nil.
func get(ns *os.File, addr string) (string, error) {
	var body string
	f := func() error {
		c, err := net.DialTimeout("tcp4", addr, 3*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(3 * time.Second))
		_, _ = io.WriteString(c, "GET / HTTP/1.0\r\n\r\n")
		raw, err := io.ReadAll(c)
		if i := bytes.Index(raw, []byte("\r\n\r\n")); i >= 0 {
			body = string(raw[i+4:])
		}
		return err
	}
	if ns == nil {
		return body, errors.Join(f(), nil)
	}
	err := within(ns, f)
	return body, err
}

func askUDP(addr, word string) (string, error) {
	c, err := net.Dial("udp4", addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(3 * time.Second))
	if _, err := io.WriteString(c, word); err != nil {
		return "", err
	}
	b := make([]byte, 100)
	k, err := c.Read(b)
	return string(b[:k]), err
}

func want(t *testing.T, what, prefix string) func(string, error) {
	return func(got string, err error) {
		t.Helper()
		if err != nil || !strings.HasPrefix(got, prefix) {
			t.Errorf("%s: got %q, %v; want %q", what, got, err, prefix)
		}
	}
}

// hostIP gives an address of this host that is not on loopback.
func hostIP(t *testing.T) string {
	t.Helper()
	if ip := hostAddress(); ip != "" {
		return ip
	}
	t.Skip("this host has only loopback addresses")
	return ""
}

// outside is a machine beyond the host: a namespace behind a veth pair whose
// far end only knows the host.
func outside(t *testing.T) (n *Network, ip, host string) {
	t.Helper()
	ip, host = "198.18.77.2", "198.18.77.1"
	name := "balt" + newID()[:8]
	ns, err := newNamespace(false, func(ns *os.File, h *netlink.Handle) error {
		v := netlink.NewVeth(netlink.LinkAttrs{Name: name, Flags: net.FlagUp, TxQLen: -1})
		v.PeerName, v.PeerNamespace = "eth0", netlink.NsFd(int(ns.Fd()))
		if err := netlink.LinkAdd(v); err != nil {
			return err
		}
		a, _ := netlink.ParseAddr(host + "/30")
		if err := netlink.AddrAdd(v, a); err != nil {
			return err
		}
		l, err := h.LinkByName("eth0")
		if err != nil {
			return err
		}
		a, _ = netlink.ParseAddr(ip + "/30")
		return errors.Join(h.AddrAdd(l, a), h.LinkSetUp(l))
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	return &Network{NS: ns}, ip, host
}

func ruleset(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("nft", "list", "ruleset").CombinedOutput()
	if err != nil {
		t.Skipf("nft: %v: %s", err, out)
	}
	return string(out)
}

func TestNone(t *testing.T) {
	needRoot(t)
	n, err := Setup(context.Background(), Options{ID: newID(), RunDir: t.TempDir(), Mode: ModeNone})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	serve(t, n, "127.0.0.1:80", "alone")
	want(t, "loopback", "alone from 127.0.0.1")(get(n.NS, "127.0.0.1:80"))
	_ = within(n.NS, func() error {
		l, err := net.Interfaces()
		if err != nil || len(l) != 1 {
			t.Errorf("interfaces: %v, %v; want lo alone", l, err)
		}
		return nil
	})
}

func TestBridge(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	out, outIP, hostOut := outside(t)
	ip := hostIP(t)
	idA, a := setup(t, dir, "18080:80", "127.0.0.1:18081:80", "18053:53/udp", "18090-18092:90-92", "443")
	_, b := setup(t, dir)
	serve(t, a, ":80", "A")
	serve(t, a, ":91", "ranged")
	serve(t, a, ":443", "random")
	serve(t, a, ":99", "secret")
	serve(t, b, ":80", "B")
	serveUDP(t, a, ":53", "echo")
	serve(t, out, ":8000", "outside")

	want(t, "127.0.0.1", "A from 10.")(get(nil, "127.0.0.1:18080"))
	want(t, "host address", "A from "+ip)(get(nil, ip+":18080"))
	want(t, "loopback only", "A from 10.")(get(nil, "127.0.0.1:18081"))
	if got, err := get(nil, ip+":18081"); err == nil {
		t.Errorf("published on 127.0.0.1, yet %s answers: %q", ip, got)
	}
	want(t, "range", "ranged")(get(nil, "127.0.0.1:18091"))
	random := a.Ports[len(a.Ports)-1]
	if random.HostPort == 0 || random.ContainerPort != 443 {
		t.Errorf("random port: %+v", random)
	}
	want(t, "random port", "random")(get(nil, fmt.Sprintf("127.0.0.1:%d", random.HostPort)))
	want(t, "udp", "echo hi")(askUDP("127.0.0.1:18053", "hi"))
	want(t, "udp on the host's address", "echo ho")(askUDP(ip+":18053", "ho"))

	want(t, "directly from the host", "A from "+a.Gateway)(get(nil, a.IPAddress+":80"))
	want(t, "container to container", "A from "+b.IPAddress)(get(b.NS, a.IPAddress+":80"))
	want(t, "container to a sibling's published port", "A")(get(b.NS, ip+":18080"))
	want(t, "container to its own published port", "A")(get(a.NS, ip+":18080"))
	want(t, "container to the gateway's port", "A")(get(b.NS, b.Gateway+":18080"))
	want(t, "outbound, as the host", "outside from "+hostOut)(get(a.NS, outIP+":8000"))

	want(t, "from outside, with its address", "A from "+outIP)(get(out.NS, hostOut+":18080"))
	if got, err := get(out.NS, hostOut+":18081"); err == nil {
		t.Errorf("published on 127.0.0.1, yet the outside reaches it: %q", got)
	}
	// The outside with a route to the bridge must not get at other ports.
	_ = within(out.NS, func() error {
		return netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(hostOut)})
	})
	if got, err := get(out.NS, a.IPAddress+":99"); err == nil {
		t.Errorf("an unpublished port is reachable from outside: %q", got)
	}
	// Nor a container at the host's loopback, whatever route_localnet says.
	l, err := net.Listen("tcp4", "127.0.0.1:18099")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_ = within(b.NS, func() error {
		for _, c := range [][]string{{"ip", "addr", "del", "127.0.0.1/8", "dev", "lo"}, {"ip", "route", "add", "127.0.0.1", "via", b.Gateway, "src", b.IPAddress}} {
			if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
				t.Logf("%v: %s", c, out)
			}
		}
		return os.WriteFile("/proc/sys/net/ipv4/conf/eth0/route_localnet", []byte("1"), 0)
	})
	if _, err := get(b.NS, "127.0.0.1:18099"); err == nil {
		t.Error("a container reaches the host's loopback")
	}

	if !strings.Contains(ruleset(t), idA) {
		t.Error("the rules do not carry the container's ID")
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if err := Teardown(context.Background(), dir, idA); err != nil {
		t.Error(err)
	}
	if strings.Contains(ruleset(t), idA) {
		t.Error("Teardown left rules")
	}
	if m, _ := leases(dir); len(m) != 1 {
		t.Errorf("Teardown left leases: %v", m)
	}
	if _, err := get(nil, "127.0.0.1:18080"); err == nil {
		t.Error("the port still answers after Teardown")
	}
}

func gone(t *testing.T, dir, name, table string) {
	t.Helper()
	// The kernel drops a namespace's interfaces a moment after the namespace.
	var err error
	for range 100 {
		if _, err = netlink.LinkByName(name); err != nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err == nil {
		t.Errorf("%s is still there", name)
	}
	if strings.Contains(ruleset(t), table) {
		t.Errorf("table %s is still there", table)
	}
	if m, _ := leases(dir); len(m) > 0 {
		t.Errorf("leases are left: %v", m)
	}
	if ids, _ := stateIDs(dir); len(ids) > 0 {
		t.Errorf("states are left: %v", ids)
	}
}

func TestTeardownLeavesNothing(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	id, n := setup(t, dir, "18180:80")
	b, err := readBridge(dir)
	if err != nil {
		t.Fatal(err)
	}
	host := n.HostLink
	if _, err := netlink.LinkByName(host); err != nil {
		t.Errorf("no host link: %v", err)
	}
	if err := errors.Join(n.Close(), Teardown(context.Background(), dir, id)); err != nil {
		t.Error(err)
	}
	gone(t, dir, b.Name, b.Table)
	gone(t, dir, host, b.Table)
}

func TestPortConflict(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	setup(t, dir, "18280:80")
	l, err := net.Listen("tcp4", "127.0.0.1:18281")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, spec := range []string{"18280:80", "127.0.0.1:18280:81", "18281:80", "18279-18281:79-81"} {
		m, err := ParsePorts(spec)
		if err != nil {
			t.Fatal(err)
		}
		id := newID()
		n, err := Setup(context.Background(), Options{ID: id, RunDir: dir, Ports: m})
		if !errors.Is(err, ErrPortInUse) || !strings.Contains(err.Error(), ":1828") {
			t.Errorf("%s: %v", spec, err)
		}
		if n != nil {
			_ = n.Close()
		}
		if _, err := os.Stat(statePath(dir, id)); err == nil {
			t.Errorf("%s: a failed Setup left its state", spec)
		}
	}
	m, _ := leases(dir)
	if len(m) != 1 {
		t.Errorf("leases: %v", m)
	}
	if _, err := net.Listen("tcp4", "127.0.0.1:18280"); err == nil {
		t.Error("another program can take a published port")
	}
	v6 := []store.PortMapping{{HostIP: "::1", HostPort: 18282, ContainerPort: 80, Protocol: "tcp"}}
	if _, err := Setup(context.Background(), Options{ID: newID(), RunDir: dir, Ports: v6}); err == nil || !strings.Contains(err.Error(), "IPv6") {
		t.Errorf("IPv6: %v", err)
	}
}

func TestConcurrent(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	const many = 50
	nets := make([]*Network, many)
	ids := make([]string, many)
	var wg sync.WaitGroup
	start := time.Now()
	for i := range nets {
		wg.Add(1)
		go func() {
			defer wg.Done()
			ids[i] = newID()
			n, err := Setup(context.Background(), Options{ID: ids[i], RunDir: dir,
				Ports: []store.PortMapping{{ContainerPort: 80, Protocol: "tcp"}}})
			if err != nil {
				t.Errorf("%d: %v", i, err)
				return
			}
			nets[i] = n
		}()
	}
	wg.Wait()
	t.Logf("%d at once in %v", many, time.Since(start))
	seen := map[string]bool{}
	for i, n := range nets {
		if n == nil {
			continue
		}
		if seen[n.IPAddress] {
			t.Errorf("%s was given twice", n.IPAddress)
		}
		seen[n.IPAddress] = true
		if i%10 == 0 {
			serve(t, n, ":80", ids[i])
			want(t, "one of many", ids[i])(get(nil, fmt.Sprintf("127.0.0.1:%d", n.Ports[0].HostPort)))
		}
	}
	b, err := readBridge(dir)
	if err != nil {
		t.Fatal(err)
	}
	start = time.Now()
	for i, n := range nets {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if n != nil {
				_ = n.Close()
			}
			if err := Teardown(context.Background(), dir, ids[i]); err != nil {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
	t.Logf("torn down in %v", time.Since(start))
	gone(t, dir, b.Name, b.Table)
}

// The test binary itself plays the command that gets killed.
func TestSweepAfterKill(t *testing.T) {
	needRoot(t)
	if dir := os.Getenv("NETNS_TEST_VICTIM"); dir != "" {
		_, n := setup(t, dir, "80", "81/udp")
		fmt.Printf("up %s\n", n.HostLink)
		select {}
	}
	dir := t.TempDir()
	idLive, nLive := setup(t, dir, "80")
	serve(t, nLive, ":80", "alive")
	var links []string
	var victims []*os.Process
	for range 3 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestSweepAfterKill$")
		cmd.Env = append(os.Environ(), "NETNS_TEST_VICTIM="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var link string
		if _, err := fmt.Fscanf(out, "up %s\n", &link); err != nil {
			t.Error(err)
		}
		links = append(links, link)
		if swept, err := Sweep(context.Background(), dir, nil); err != nil || len(swept) != 0 {
			t.Errorf("swept %v, %v while all are held", swept, err)
		}
		victims = append(victims, cmd.Process)
	}
	for _, p := range victims {
		_ = p.Kill()
		_, _ = p.Wait()
	}
	if swept, err := Sweep(context.Background(), dir, func(string) bool { return true }); err != nil || len(swept) != 0 {
		t.Errorf("swept %v, %v though their processes live", swept, err)
	}
	swept, err := Sweep(context.Background(), dir, func(string) bool { return false })
	if err != nil || len(swept) != 3 {
		t.Errorf("swept %v, %v; want the three killed", swept, err)
	}
	want(t, "the one alive", "alive")(get(nil, fmt.Sprintf("127.0.0.1:%d", nLive.Ports[0].HostPort)))
	b, _ := readBridge(dir)
	if err := errors.Join(nLive.Close(), Teardown(context.Background(), dir, idLive)); err != nil {
		t.Error(err)
	}
	for _, l := range append(links, b.Name) {
		gone(t, dir, l, b.Table)
	}
}

// A sweep beside a start of the same container takes nothing of the new one's.
func TestSweepBesideSetup(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	id := newID()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				select {
				case <-stop:
					return
				default:
					if _, err := Sweep(context.Background(), dir, nil); err != nil {
						t.Error(err)
					}
				}
			}
		}()
	}
	for i := range 15 {
		n, err := Setup(context.Background(), Options{ID: id, RunDir: dir, Ports: []store.PortMapping{{ContainerPort: 80, Protocol: "tcp"}}})
		if err != nil {
			t.Errorf("%d: %v", i, err)
			continue
		}
		if m, _ := leases(dir); m[n.IPAddress] != id {
			t.Errorf("%d: the lease is gone: %v", i, m)
		}
		if !strings.Contains(ruleset(t), id) {
			t.Errorf("%d: the rule is gone", i)
		}
		_ = n.Close()
	}
	close(stop)
	wg.Wait()
	if _, err := Sweep(context.Background(), dir, nil); err != nil || strings.Contains(ruleset(t), id) {
		t.Errorf("left after the sweep: %v", err)
	}
}

func TestFlushedRules(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	_, a := setup(t, dir, "18480:80")
	serve(t, a, ":80", "A")
	flush := func() {
		if out, err := exec.Command("nft", "flush", "ruleset").CombinedOutput(); err != nil {
			t.Skipf("nft: %v: %s", err, out)
		}
	}
	flush()
	setup(t, dir)
	want(t, "after the next Setup", "A")(get(nil, "127.0.0.1:18480"))
	flush()
	if err := Reload(dir); err != nil {
		t.Error(err)
	}
	want(t, "after Reload", "A")(get(nil, "127.0.0.1:18480"))
	before := ruleset(t)
	if err := Reload(dir); err != nil || ruleset(t) != before {
		t.Errorf("Reload added rules to those that were there: %v", err)
	}
}

func TestLostState(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	id, n := setup(t, dir, "80")
	b, _ := readBridge(dir)
	_ = n.Close()
	if err := os.Remove(filepath.Join(dir, id+".json")); err != nil {
		t.Fatal(err)
	}
	if _, err := Sweep(context.Background(), dir, nil); err != nil {
		t.Fatal(err)
	}
	gone(t, dir, b.Name, b.Table)
}

// Another firewall drops what it does not know, as docker's and ufw's do.
func TestForwardPolicyDrop(t *testing.T) {
	needRoot(t)
	for _, chain := range []string{"FORWARD", "DOCKER-USER"} {
		t.Run(chain, func(t *testing.T) { testForwardPolicyDrop(t, chain) })
	}

	if out, err := exec.Command("sh", "-c", "iptables -P FORWARD ACCEPT; iptables -F FORWARD; iptables -X DOCKER-USER").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func testForwardPolicyDrop(t *testing.T, chain string) {
	script := "iptables -P FORWARD DROP"
	if chain == "DOCKER-USER" {
		script += "; iptables -N DOCKER-USER; iptables -A FORWARD -j DOCKER-USER"
	}
	if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
		t.Skipf("iptables: %v: %s", err, out)
	}
	dir := t.TempDir()
	out, outIP, hostOut := outside(t)
	id, n := setup(t, dir, "18380:80")
	_, sibling := setup(t, dir, "18381:80")
	serve(t, n, ":80", "A")
	serve(t, out, ":8000", "outside")
	want(t, "outbound", "outside from "+hostOut)(get(n.NS, outIP+":8000"))
	want(t, "from outside", "A from "+outIP)(get(out.NS, hostOut+":18380"))
	listed, err := exec.Command("iptables", "-S", chain).CombinedOutput()
	if err != nil || strings.Count(string(listed), "-j ACCEPT") != 2 {
		t.Errorf("%s: %v\n%s", chain, err, listed)
	}
	if err := errors.Join(n.Close(), Teardown(context.Background(), dir, id)); err != nil {
		t.Error(err)
	}
	m, _ := leases(dir)
	for _, id := range m {
		if err := errors.Join(sibling.Close(), Teardown(context.Background(), dir, id)); err != nil {
			t.Error(err)
		}
	}
	if listed, _ := exec.Command("iptables", "-S", chain).CombinedOutput(); strings.Contains(string(listed), "ACCEPT") {
		t.Errorf("left in %s:\n%s", chain, listed)
	}
}

func BenchmarkSetup(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("needs root")
	}
	dir := b.TempDir()
	keep, err := Setup(context.Background(), Options{ID: newID(), RunDir: dir})
	if err != nil {
		b.Fatal(err)
	}
	defer keep.Close()
	var up, down time.Duration
	for b.Loop() {
		id := newID()
		t0 := time.Now()
		n, err := Setup(context.Background(), Options{ID: id, RunDir: dir, Ports: []store.PortMapping{{ContainerPort: 80, Protocol: "tcp"}}})
		if err != nil {
			b.Fatal(err)
		}
		t1 := time.Now()
		_ = n.Close()
		if err := Teardown(context.Background(), dir, id); err != nil {
			b.Fatal(err)
		}
		up, down = up+t1.Sub(t0), down+time.Since(t1)
	}
	b.ReportMetric(float64(up.Microseconds())/1000/float64(b.N), "ms/setup")
	b.ReportMetric(float64(down.Microseconds())/1000/float64(b.N), "ms/teardown")
	_ = keep.Close()
	_, _ = Sweep(context.Background(), dir, nil)
}
