package run

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/balena-os/balena/pkg/store"
)

func BenchmarkBuildSpec(b *testing.B) {
	in := specInput{
		C:      &store.Container{ID: strings.Repeat("ab", 32), Config: store.Config{Cmd: []string{"true"}}},
		RootFS: b.TempDir(), Bundle: b.TempDir(), NetNS: "/proc/1/ns/net",
		Cgroups: cgroupHost{Version: 2, Parent: "/balena", Controllers: []string{"cpu", "cpuset", "io", "memory", "pids"}},
	}
	for b.Loop() {
		s, _, err := in.build()
		if err != nil {
			b.Fatal(err)
		}
		if _, err := json.Marshal(s); err != nil {
			b.Fatal(err)
		}
	}
}
