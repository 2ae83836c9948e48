package run

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"golang.org/x/sys/unix"
)

// removeCgroup removes the cgroup of a container whose runtime was killed
// before it wrote down that there is one, with the processes that may be in it;
// was tells whether there was one.
func (e *Engine) removeCgroup(id string) (was bool, err error) {
	h, err := findCgroups(e.Rootless, e.cgroupManager())
	if err != nil {
		return false, err
	}
	path := h.path(id, e.Rootless)
	if path == "" || h.Systemd { // systemd removes an empty scope by itself
		return false, nil
	}
	m, err := manager.New(&cgroups.Cgroup{Path: path, Rootless: e.Rootless, Resources: &cgroups.Resources{}})
	if err != nil {
		return false, fmt.Errorf("removing the cgroup of container %s: %w", short(id), err)
	}
	pids, err := m.GetAllPids()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("removing the cgroup of container %s: %w", short(id), err)
	}
	was = err == nil
	for _, pid := range pids {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	if err := m.Destroy(); err != nil {
		return was, fmt.Errorf("removing the cgroup of container %s: %w", short(id), err)
	}
	return was, nil
}
