package netns

import (
	"errors"
	"net"
	"net/netip"
	"testing"
)

func TestLease(t *testing.T) {
	dir := t.TempDir()
	subnet := netip.MustParsePrefix("10.99.0.0/29")
	for _, want := range []string{"10.99.0.2", "10.99.0.3", "10.99.0.4", "10.99.0.5", "10.99.0.6"} {
		if a, err := lease(dir, "id-"+want, subnet); err != nil || a.String() != want {
			t.Errorf("got %v, %v; want %s", a, err, want)
		}
	}
	if _, err := lease(dir, "late", subnet); !errors.Is(err, ErrNoAddress) {
		t.Errorf("full: %v", err)
	}
	if err := releaseLeases(dir, func(id string) bool { return id == "id-10.99.0.4" || id == "id-10.99.0.2" }); err != nil {
		t.Fatal(err)
	}
	// Round robin: after .6 comes .2.
	for _, want := range []string{"10.99.0.2", "10.99.0.4"} {
		if a, err := lease(dir, "again", subnet); err != nil || a.String() != want {
			t.Errorf("got %v, %v; want %s", a, err, want)
		}
	}
	m, err := leases(dir)
	if err != nil || len(m) != 5 || m["10.99.0.4"] != "again" {
		t.Errorf("leases: %v, %v", m, err)
	}
}

func TestCollision(t *testing.T) {
	_, taken, _ := net.ParseCIDR("10.87.128.0/24")
	_, wide, _ := net.ParseCIDR("10.0.0.0/8")
	if collision(netip.MustParsePrefix("10.87.0.0/16"), []*net.IPNet{taken}) == nil {
		t.Error("a narrower route is not seen")
	}
	for _, p := range subnets() {
		if (collision(p, []*net.IPNet{wide}) != nil) != (p.Addr().As4()[0] == 10) {
			t.Errorf("%s", p)
		}
	}
	for _, bad := range []string{"10.0.0.0", "fd00::/64", "10.0.0.0/30", "x"} {
		if _, err := chooseSubnet(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}
