package monitor

import (
	"os"
	"runtime"
	"time"

	"github.com/balena-os/balena/pkg/lean"
)

// A monitor is there once a container, for as long as the container, and nearly
// always idle: what it keeps in memory counts more than its speed.

// stayLean is called first. Collecting early does not help: an idle monitor has
// 0.9 MB of heap, nearly all of it from the initialisers of the program's
// packages, and each span class that a collection has seen costs 7 KB of lists
// that are never given back. (Measured: a collection after the start freed
// 0.3 MB of heap and took 0.4 MB for itself.) So the first one comes with the
// first 4 MB, which is Go's own choice.
func stayLean() {
	runtime.GOMAXPROCS(1)
	os.Unsetenv("GOMAXPROCS") // it was for us, not for the runtime or the exit command
}

// leanEnv is in a monitor's environment: what Go sets up for a second processor
// before main stays in memory.
const leanEnv = "GOMAXPROCS=1"

// settleAfter is how long a container must have run before settle: it takes
// milliseconds that the end of a short one would wait for.
const settleAfter = 500 * time.Millisecond

// settle is called when the container runs and the monitor has nothing more to
// do: of the program's 20 MB, it then needs a few pages. Those that only its
// start needed are unmapped.
func settle() {
	lean.Unmap()
}
