package run

import (
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"go.podman.io/common/pkg/capabilities"

	"github.com/balena-os/balena/pkg/store"
)

// defaultCapabilities are podman's (since its version 4.4, when it gave up
// AUDIT_WRITE, MKNOD and NET_RAW, which docker still grants).
var defaultCapabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_NET_BIND_SERVICE",
	"CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
}

// capabilitySets works out the five sets of the first process. The bounding
// set is the defaults, plus --cap-add, minus --cap-drop, or with --privileged
// all that the engine itself may hand on. A user other than root holds (in
// the effective, permitted, inheritable and ambient sets) only what was added
// by name, as in podman.
func capabilitySets(c *store.Config, root bool) (*specs.LinuxCapabilities, error) {
	bounding, err := capabilities.MergeCapabilities(defaultCapabilities, c.CapAdd, c.CapDrop)
	if err != nil {
		return nil, conflictf("invalid capabilities: %v", err)
	}
	if c.Privileged {
		if bounding, err = capabilities.BoundingSet(); err != nil {
			return nil, fmt.Errorf("reading the capability bounding set: %w", err)
		}
	}
	sets := &specs.LinuxCapabilities{Bounding: bounding}
	if root {
		sets.Effective, sets.Permitted = bounding, bounding
		return sets, nil
	}
	added, err := capabilities.MergeCapabilities(nil, c.CapAdd, nil)
	if err != nil {
		return nil, conflictf("invalid capabilities: %v", err)
	}
	added = slices.DeleteFunc(added, func(name string) bool { return !slices.Contains(bounding, name) })
	sets.Effective, sets.Permitted, sets.Inheritable, sets.Ambient = added, added, added, added
	return sets, nil
}
