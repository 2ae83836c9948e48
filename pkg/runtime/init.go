package runtime

import (
	"os"

	//nolint:revive // without it libcontainer refuses every container ("device cgroup ...")
	_ "github.com/opencontainers/cgroups/devices"
	"github.com/opencontainers/runc/libcontainer"

	// The C constructor that enters namespaces before Go starts threads. It
	// does nothing in a process without _LIBCONTAINER_INITPIPE.
	_ "github.com/opencontainers/runc/libcontainer/nsenter"
)

// initPipeEnv is how libcontainer tells its child that it is one; nsenter's C
// code looks at the same variable.
const initPipeEnv = "_LIBCONTAINER_INITPIPE"

// Init turns the process into a container's init (or exec'd process) if
// libcontainer started it as such, and does not return then: it replaces the
// process by the container's command, or exits with 255. Otherwise it returns
// at once. main calls it first, before arguments are looked at.
func Init() {
	if os.Getenv(initPipeEnv) != "" {
		takeFilter()
		libcontainer.Init()
	}
}
