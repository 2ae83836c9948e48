package pull

import (
	"bufio"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
)

// limitMemory has the garbage collector know how much memory there is: without
// it, a heap may grow to twice of what is used before it is collected, which a
// small cgroup does not survive. Half is for the heap, the rest for the page
// cache, the kernel's own and other processes. GOMEMLIMIT decides if it is set.
var limitMemory = sync.OnceFunc(func() {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	if n := memoryLimit(os.ReadFile); n < math.MaxInt64 {
		debug.SetMemoryLimit(max(n/2, 24<<20))
	}
})

// availableMemory is what the machine or our memory cgroup has left, in bytes.
func availableMemory() int64 {
	return min(meminfo(os.ReadFile, "MemAvailable"), memoryLimit(os.ReadFile))
}

// memoryLimit is the least of the machine's memory and the limits of our
// cgroup and those above it.
func memoryLimit(read func(string) ([]byte, error)) int64 {
	limit := meminfo(read, "MemTotal")
	raw, err := read("/proc/self/cgroup")
	if err != nil {
		return limit
	}
	for s := bufio.NewScanner(strings.NewReader(string(raw))); s.Scan(); {
		// 4:memory:/user.slice or 0::/user.slice
		f := strings.SplitN(s.Text(), ":", 3)
		if len(f) != 3 {
			continue
		}
		root, file := "/sys/fs/cgroup", "memory.max"
		switch {
		case hasWord(f[1], "memory"):
			root, file = "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
		case f[1] != "":
			continue
		}
		for dir := filepath.Clean("/" + f[2]); ; dir = filepath.Dir(dir) {
			if raw, err := read(filepath.Join(root, dir, file)); err == nil {
				var n int64
				if _, err := fmt.Sscan(string(raw), &n); err == nil && n > 0 {
					limit = min(limit, n)
				}
			}
			if dir == "/" {
				break
			}
		}
	}
	return limit
}

func hasWord(list, word string) bool {
	for w := range strings.SplitSeq(list, ",") {
		if w == word {
			return true
		}
	}
	return false
}

// meminfo is a line of /proc/meminfo in bytes, or MaxInt64.
func meminfo(read func(string) ([]byte, error), key string) int64 {
	raw, err := read("/proc/meminfo")
	if err != nil {
		return math.MaxInt64
	}
	var kb int64
	if i := strings.Index(string(raw), key+":"); i >= 0 {
		if _, err := fmt.Sscanf(string(raw[i+len(key):]), ": %d kB", &kb); err == nil {
			return kb << 10
		}
	}
	return math.MaxInt64
}
