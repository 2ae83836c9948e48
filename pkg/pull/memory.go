package pull

import (
	"bufio"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
)

// BudgetVariable is the environment variable that says, in bytes, how much
// memory to get by with, as a cgroup of that size would.
const BudgetVariable = "BALENA_MEMORY_BUDGET"

// LimitMemory holds the process to its budget; pulls and loads do it themselves.
func LimitMemory() { limitMemory() }

// limitMemory has the garbage collector know how much memory there is: without
// it, a heap may grow to twice of what is used before it is collected, which a
// small cgroup does not survive. GOMEMLIMIT decides if it is set.
var limitMemory = sync.OnceFunc(func() {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	if n := memoryBudget(); n < math.MaxInt64 {
		debug.SetMemoryLimit(heapLimit(n))
	}
})

// heapLimit is the heap's part of a budget: half. The rest is for the page
// cache, the kernel's own and other processes.
func heapLimit(budget int64) int64 { return max(budget/2, 24<<20) }

// memoryBudget is how much memory the engine's own work may take.
func memoryBudget() int64 {
	n := memoryLimit(os.ReadFile)
	if b, err := strconv.ParseInt(os.Getenv(BudgetVariable), 10, 64); err == nil && b > 0 {
		n = min(n, b)
	}
	return n
}

// availableMemory is what the machine, our memory cgroup or the budget has
// left, in bytes.
func availableMemory() int64 {
	return min(meminfo(os.ReadFile, "MemAvailable"), memoryBudget())
}

// Memory is the machine's and ours, in bytes.
type Memory struct {
	Total     int64 // the machine's
	Available int64 // the machine's, for anyone; not more than our cgroup's limit or the budget
	Budget    int64 // what a pull counts on: the least of the machine's, our cgroup's and what was asked for
}

// LookAtMemory tells how much there is now.
func LookAtMemory() Memory {
	return Memory{Total: meminfo(os.ReadFile, "MemTotal"), Available: availableMemory(), Budget: memoryBudget()}
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
