package netns

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/balena-os/balena/pkg/store"
)

func TestParsePorts(t *testing.T) {
	tcp := func(ip string, host, container uint16) store.PortMapping {
		return store.PortMapping{HostIP: ip, HostPort: host, ContainerPort: container, Protocol: "tcp"}
	}
	udp := func(m store.PortMapping) store.PortMapping { m.Protocol = "udp"; return m }
	for spec, want := range map[string][]store.PortMapping{
		"80":                      {tcp("", 0, 80)},
		"8080:80":                 {tcp("", 8080, 80)},
		"8080:80/tcp":             {tcp("", 8080, 80)},
		"8080:80/UDP":             {udp(tcp("", 8080, 80))},
		"0:80":                    {tcp("", 0, 80)},
		":80":                     {tcp("", 0, 80)},
		"127.0.0.1:8080:80":       {tcp("127.0.0.1", 8080, 80)},
		"127.0.0.1::80":           {tcp("127.0.0.1", 0, 80)},
		"0.0.0.0:8080:80":         {tcp("", 8080, 80)},
		"::80":                    {tcp("", 0, 80)},
		"[::1]:8080:80":           {tcp("::1", 8080, 80)},
		"[::1]::80":               {tcp("::1", 0, 80)},
		"[::]:8080:80":            {tcp("::", 8080, 80)},
		"[::ffff:10.0.0.1]:81:80": {tcp("10.0.0.1", 81, 80)},
		"8080-8082:90-92":         {tcp("", 8080, 90), tcp("", 8081, 91), tcp("", 8082, 92)},
		"90-91":                   {tcp("", 0, 90), tcp("", 0, 91)},
		"53:53/udp":               {udp(tcp("", 53, 53))},
		"65535:65535":             {tcp("", 65535, 65535)},
	} {
		got, err := ParsePorts(spec)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %v, %v; want %v", spec, got, err, want)
		}
	}
	for spec, say := range map[string]string{
		"":                   "no container port",
		"8080:":              "no container port",
		"x":                  "between 1 and 65535",
		"+80":                "between 1 and 65535",
		"0":                  "between 1 and 65535",
		"65536:80":           "between 1 and 65535",
		"80:65536":           "between 1 and 65535",
		"80/icmp":            "not tcp, udp or sctp",
		"80/":                "not tcp, udp or sctp",
		"1.2.3:80:80":        "not an IP address",
		"localhost:80:80":    "not an IP address",
		"::1:80:80":          "in brackets",
		"[::1:80:80":         "missing",
		"[::1]80:80":         "missing",
		"[fe80::1%eth0]:1:2": "not an IP address",
		"8080-8082:80":       "differ in length",
		"8082-8080:80-82":    "before it begins",
		"80-90-100":          "between 1 and 65535",
	} {
		got, err := ParsePorts(spec)
		if !errors.Is(err, ErrPortSpec) || !strings.Contains(err.Error(), say) {
			t.Errorf("%q: got %v, %v; want an error with %q", spec, got, err, say)
		}
	}
	for _, twice := range [][]string{{"80:80", "80:81"}, {"1.2.3.4:80:80", "80:81"}, {"80-82:80-82", "82:1"}} {
		if _, err := ParsePorts(twice...); err == nil || !strings.Contains(err.Error(), "asked for twice") {
			t.Errorf("%v: %v", twice, err)
		}
	}
	if _, err := ParsePorts("80:80", "80:80/udp", "1.2.3.4:81:1", "1.2.3.5:81:1", "80", "80"); err != nil {
		t.Error(err)
	}
}

func TestFormatPort(t *testing.T) {
	for want, spec := range map[string]string{
		"0.0.0.0:8080->80/tcp":   "8080:80",
		"127.0.0.1:53->5353/udp": "127.0.0.1:53:5353/udp",
		"[::1]:8080->80/tcp":     "[::1]:8080:80",
	} {
		m, err := ParsePorts(spec)
		if err != nil || FormatPort(m[0]) != want {
			t.Errorf("%s: %v, %v; want %s", spec, m, err, want)
		}
	}
}

func FuzzParsePorts(f *testing.F) {
	for _, s := range []string{"80", "1:2/udp", "[::1]:1:2", "1.2.3.4::5-6", "8080-8090:80-90/sctp"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := ParsePorts(s)
		if err != nil {
			return
		}
		if len(m) == 0 {
			t.Errorf("%q: neither ports nor an error", s)
		}
		for _, p := range m {
			if p.ContainerPort == 0 || (p.Protocol != "tcp" && p.Protocol != "udp" && p.Protocol != "sctp") {
				t.Errorf("%q: %+v", s, p)
			}
		}
	})
}
