package pull

import (
	"io/fs"
	"testing"
)

func TestMemoryLimit(t *testing.T) {
	const machine = "MemTotal:        8000000 kB\nMemFree: 1 kB\n"
	for _, tc := range []struct {
		name  string
		files map[string]string
		want  int64
	}{
		{"no cgroup", nil, 8000000 << 10},
		{"v2", map[string]string{"/proc/self/cgroup": "0::/a/b\n", "/sys/fs/cgroup/a/b/memory.max": "67108864\n", "/sys/fs/cgroup/a/memory.max": "max\n"}, 64 << 20},
		{"v2, above", map[string]string{"/proc/self/cgroup": "0::/a/b\n", "/sys/fs/cgroup/a/b/memory.max": "max\n", "/sys/fs/cgroup/a/memory.max": "1048576\n"}, 1 << 20},
		{"v1", map[string]string{"/proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/a\n0::/\n", "/sys/fs/cgroup/memory/a/memory.limit_in_bytes": "33554432\n"}, 32 << 20},
		{"v1 without", map[string]string{"/proc/self/cgroup": "4:memory:/\n", "/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, 8000000 << 10},
		{"nonsense", map[string]string{"/proc/self/cgroup": "x\n:::\n0::/\n", "/sys/fs/cgroup/memory.max": "-1\n"}, 8000000 << 10},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := memoryLimit(func(path string) ([]byte, error) {
				if path == "/proc/meminfo" {
					return []byte(machine), nil
				}
				if s, ok := tc.files[path]; ok {
					return []byte(s), nil
				}
				return nil, fs.ErrNotExist
			})
			if got != tc.want {
				t.Errorf("got %d, want %d", got, tc.want)
			}
		})
	}
}

// The budget is a limit like any other, and has fewer layers worked on at once.
func TestMemoryBudget(t *testing.T) {
	machine := memoryBudget()
	for _, tc := range []struct {
		budget   string
		want     int64
		parallel int
	}{
		{"", machine, 3},
		{"4611686018427387904", machine, 3},
		{"115343360", 110 << 20, 2},
		{"33554432", 32 << 20, 1},
		{"nonsense", machine, 3},
	} {
		t.Setenv(BudgetVariable, tc.budget)
		if got := memoryBudget(); got != tc.want {
			t.Errorf("with %q: %d, want %d", tc.budget, got, tc.want)
		}
		if got := layersAtOnce(); got > tc.parallel {
			t.Errorf("with %q: %d layers at once, want at most %d", tc.budget, got, tc.parallel)
		}
	}
	if got := heapLimit(40 << 20); got != 24<<20 {
		t.Errorf("heap of a budget of 40 MB: %d", got)
	}
}
