package runtime

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"

	"github.com/opencontainers/runc/libcontainer/configs"
)

// Processes lists the container's processes as the caller sees them: those in
// its cgroup, or, where a rootless caller could give it none, those in its PID
// namespace (processes in namespaces below that one are left out then).
func (c *Container) Processes() ([]int, error) {
	pids, err := c.lc.Processes()
	if err == nil {
		return pids, nil
	}
	config := c.lc.Config()
	if !config.RootlessCgroups || !config.Namespaces.IsPrivate(configs.NEWPID) {
		return nil, err
	}
	s, serr := c.State()
	switch {
	case serr != nil:
		return nil, serr
	case s.Pid == 0:
		return nil, nil
	}
	return pidsInNamespaceOf(s.Pid)
}

// pidsInNamespaceOf scans /proc for those who share a process's PID namespace.
func pidsInNamespaceOf(pid int) ([]int, error) {
	ns := func(pid string) (string, error) { return os.Readlink(filepath.Join("/proc", pid, "ns/pid")) }
	want, err := ns(strconv.Itoa(pid))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	proc, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer proc.Close()
	names, err := proc.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, name := range names {
		n, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		// Other users' processes may not be looked into: not ours.
		if got, err := ns(name); err == nil && got == want {
			pids = append(pids, n)
		}
	}
	return pids, nil
}
