package run

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	units "github.com/docker/go-units"
	"github.com/moby/sys/capability"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/balena-os/balena/pkg/store"
)

const (
	defaultPids  = 2048
	defaultFiles = 1 << 20
	cpuPeriod    = 100000 // µs
)

// checkResources refuses limits that contradict each other, in docker's words.
func checkResources(r *store.Resources, cpus int) error {
	switch {
	case r.Memory != 0 && r.Memory < 6<<20:
		return conflictf("minimum memory limit allowed is 6MB")
	case r.MemorySwap != 0 && r.Memory == 0 && r.MemorySwap != -1:
		return conflictf("you should always set the memory limit when using the memory-swap limit, see usage")
	case r.MemorySwap > 0 && r.MemorySwap < r.Memory:
		return conflictf("minimum memory-swap limit should be larger than the memory limit, see usage")
	case r.Memory > 0 && r.MemoryReservation > r.Memory:
		return conflictf("minimum memory limit can not be less than memory reservation limit, see usage")
	case r.MemoryReservation != 0 && r.MemoryReservation < 6<<20:
		return conflictf("minimum memory reservation allowed is 6MB")
	case r.NanoCPUs > 0 && (r.CPUPeriod > 0 || r.CPUQuota > 0):
		return conflictf("conflicting options: CPUs and CPU period or quota cannot both be set")
	case r.NanoCPUs < 0 || r.NanoCPUs > int64(cpus)*1e9:
		return conflictf("range of CPUs is from 0.01 to %d.00, as there are only %d CPUs available", cpus, cpus)
	case r.NanoCPUs > 0 && r.NanoCPUs < 1e7:
		return conflictf("range of CPUs is from 0.01 to %d.00, as there are only %d CPUs available", cpus, cpus)
	case r.CPUPeriod != 0 && (r.CPUPeriod < 1000 || r.CPUPeriod > 1000000):
		return conflictf("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
	case r.CPUQuota > 0 && r.CPUQuota < 1000:
		return conflictf("CPU cfs quota can not be less than 1ms (i.e. 1000)")
	case r.BlkioWeight != 0 && (r.BlkioWeight < 10 || r.BlkioWeight > 1000):
		return conflictf("range of blkio weight is from 10 to 1000")
	case r.CPUSetCPUs != "" && !validList(r.CPUSetCPUs):
		return conflictf("invalid value %s for cpuset cpus", r.CPUSetCPUs)
	case r.CPUSetMems != "" && !validList(r.CPUSetMems):
		return conflictf("invalid value %s for cpuset mems", r.CPUSetMems)
	}
	return nil
}

func validList(s string) bool {
	for part := range strings.SplitSeq(s, ",") {
		a, b, ok := strings.Cut(part, "-")
		for _, n := range []string{a, b} {
			if n == "" && (ok || n == a) || strings.Trim(n, "0123456789") != "" {
				return false
			}
		}
	}
	return true
}

// cgroupHost is what there is of cgroups for a container to be put in.
type cgroupHost struct {
	Version     int      // 1 (also hybrid) or 2
	Systemd     bool     // systemd makes the cgroups
	Parent      string   // for cgroupfs: below which; "" is no cgroup of its own
	Controllers []string // that limits can be set with
}

// findCgroups looks at what a container's cgroup can be. manager is
// "cgroupfs" ("" too) or "systemd".
func findCgroups(rootless bool, manager string) (cgroupHost, error) {
	h := cgroupHost{Version: 1}
	switch manager {
	case "systemd":
		h.Systemd = true
	case "", "cgroupfs":
	default:
		return h, conflictf("--cgroup-manager %q: want cgroupfs or systemd", manager)
	}
	var st unix.Statfs_t
	if unix.Statfs("/sys/fs/cgroup", &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
		h.Version = 2
	}
	switch {
	case !rootless:
		h.Parent = "/balena"
		if h.Version == 2 {
			h.readControllers("/")
		} else {
			h.Controllers = controllersV1()
		}
	case h.Version == 2:
		h.delegated()
	default:
		h.Systemd = false
	}
	return h, nil
}

// delegated finds the part of the v2 tree that an unprivileged user owns: the
// topmost writable cgroup above our own. Processes can only be moved within it.
func (h *cgroupHost) delegated() {
	own, err := ownCgroup()
	if err != nil {
		h.Systemd = false
		return
	}
	for dir := own; dir != "/" && dir != "."; dir = path.Dir(dir) {
		full := filepath.Join("/sys/fs/cgroup", dir)
		if unix.Access(filepath.Join(full, "cgroup.procs"), unix.W_OK) != nil ||
			unix.Access(filepath.Join(full, "cgroup.subtree_control"), unix.W_OK) != nil {
			break
		}
		h.Parent = dir
	}
	switch {
	case h.Parent != "":
		h.readControllers(h.Parent)
	case h.Systemd: // the user's manager moves us
		h.readControllers(fmt.Sprintf("/user.slice/user-%d.slice/user@%[1]d.service", hostUID()))
	}
	if h.Parent != "" {
		h.Parent = path.Join(h.Parent, "balena")
	}
	if h.Controllers == nil {
		h.Systemd = false
	}
}

// controllersV1 are those that are mounted in hierarchies of their own: a
// kernel may lack some (memory on many small boards).
func controllersV1() []string {
	raw, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil
	}
	var out []string
	for line := range strings.SplitSeq(string(raw), "\n") {
		if f := strings.SplitN(line, ":", 3); len(f) == 3 && f[1] != "" {
			out = append(out, strings.Split(f[1], ",")...)
		}
	}
	return out
}

func (h *cgroupHost) readControllers(dir string) {
	if raw, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", dir, "cgroup.controllers")); err == nil {
		h.Controllers = strings.Fields(string(raw))
	}
}

func ownCgroup() (string, error) {
	raw, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	for line := range strings.SplitSeq(string(raw), "\n") {
		if p, ok := strings.CutPrefix(line, "0::"); ok {
			return p, nil
		}
	}
	return "", errors.New("no cgroup v2 line in /proc/self/cgroup")
}

func (h *cgroupHost) can(controller string) bool {
	return slices.Contains(h.Controllers, controller)
}

// path is the container's cgroup as the OCI runtime takes it.
func (h *cgroupHost) path(id string, rootless bool) string {
	switch {
	case h.Systemd && rootless:
		return "user.slice:balena:" + id
	case h.Systemd:
		return "machine.slice:balena:" + id
	case h.Parent == "":
		return ""
	}
	return path.Join(h.Parent, id)
}

// resources sets the limits. Those that there is no controller for, above all
// for an unprivileged user, are left out, with one warning that names them.
func (b *specBuilder) resources() error {
	if err := checkResources(&b.c.Resources, 1<<20); err != nil {
		return err
	}
	b.spec.Linux.CgroupsPath = b.Cgroups.path(b.C.ID, b.Rootless)
	r := b.spec.Linux.Resources
	var lost []string
	need := func(controller, flag string, asked bool) bool {
		if !asked {
			return false
		}
		if !b.Cgroups.can(controller) {
			if flag != "" && !slices.Contains(lost, flag) {
				lost = append(lost, flag)
			}
			return false
		}
		return true
	}
	b.memory(r, need)
	b.cpu(r, need)
	pids := int64(defaultPids)
	flag := ""
	if b.c.PidsLimit != nil {
		pids, flag = *b.c.PidsLimit, "--pids-limit"
	}
	if need("pids", flag, pids > 0) {
		r.Pids = &specs.LinuxPids{Limit: &pids}
	}
	io := "io"
	if b.Cgroups.Version == 1 {
		io = "blkio"
	}
	if w := b.c.BlkioWeight; need(io, "--blkio-weight", w != 0) {
		r.BlockIO = &specs.LinuxBlockIO{Weight: &w}
	}
	if len(lost) > 0 {
		why := "this system has no cgroup controller for them"
		if b.Rootless && b.Cgroups.Version == 1 {
			why = "cgroup v1 gives an unprivileged user none"
		} else if b.Rootless {
			why = "no cgroup v2 controller for them is delegated to this user"
		}
		b.warn("running without the limits %s: %s", strings.Join(lost, ", "), why)
	}
	return nil
}

func (b *specBuilder) memory(r *specs.LinuxResources, need func(controller, flag string, asked bool) bool) {
	c := b.c
	var m specs.LinuxMemory
	if need("memory", "--memory", c.Memory > 0) {
		m.Limit = &c.Memory
	}
	if need("memory", "--memory-reservation", c.MemoryReservation > 0) {
		m.Reservation = &c.MemoryReservation
	}
	if need("memory", "--oom-kill-disable", c.OOMKillDisable) {
		if b.Cgroups.Version == 2 {
			b.warn("--oom-kill-disable has no effect with cgroup v2")
		} else {
			m.DisableOOMKiller = &c.OOMKillDisable
		}
	}
	swap := c.MemorySwap
	if swap == 0 && m.Limit != nil {
		swap = 2 * c.Memory
	}
	if swap != 0 && m.Limit != nil {
		switch {
		case b.swapLimit():
			m.Swap = &swap
		case c.MemorySwap != 0:
			b.warn("--memory-swap: this kernel has no swap limit (swapaccount=1 on its command line may help)")
		}
	} else if swap != 0 {
		need("memory", "--memory-swap", true)
	}
	if m != (specs.LinuxMemory{}) {
		r.Memory = &m
	}
}

// swapLimit says whether the kernel can limit swap. The root of a v2 tree has no
// such file, whatever its children have.
func (b *specBuilder) swapLimit() bool {
	pattern := "/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes"
	if b.Cgroups.Version == 2 {
		pattern = "/sys/fs/cgroup/*/memory.swap.max"
	}
	found, err := filepath.Glob(pattern)
	return err == nil && len(found) > 0
}

func (b *specBuilder) cpu(r *specs.LinuxResources, need func(controller, flag string, asked bool) bool) {
	c := b.c
	var m specs.LinuxCPU
	if need("cpu", "--cpus", c.NanoCPUs > 0) {
		period, quota := uint64(cpuPeriod), c.NanoCPUs*cpuPeriod/1e9
		m.Period, m.Quota = &period, &quota
	}
	if need("cpu", "--cpu-shares", c.CPUShares > 0) {
		m.Shares = &c.CPUShares
	}
	if need("cpu", "--cpu-period", c.CPUPeriod > 0) {
		m.Period = &c.CPUPeriod
	}
	if need("cpu", "--cpu-quota", c.CPUQuota != 0) {
		m.Quota = &c.CPUQuota
	}
	if need("cpuset", "--cpuset-cpus", c.CPUSetCPUs != "") {
		m.Cpus = c.CPUSetCPUs
	}
	if need("cpuset", "--cpuset-mems", c.CPUSetMems != "") {
		m.Mems = c.CPUSetMems
	}
	if m != (specs.LinuxCPU{}) {
		r.CPU = &m
	}
}

// rlimits are the ulimits asked for, which must be possible, and podman's
// defaults for open files and processes, cut to what we may hand on.
func (b *specBuilder) rlimits() error {
	set := map[string]bool{}
	raise := !b.Rootless && mayRaiseLimits()
	for _, s := range b.c.Ulimits {
		u, err := units.ParseUlimit(s)
		if err != nil {
			return conflictf("%v", err)
		}
		rl, err := u.GetRlimit()
		if err != nil {
			return conflictf("%v", err)
		}
		var now unix.Rlimit
		if err := unix.Getrlimit(rl.Type, &now); err != nil {
			return fmt.Errorf("reading ulimit %s: %w", u.Name, err)
		}
		if rl.Hard > now.Max && !raise {
			return conflictf("ulimit %s=%s: the hard limit here is %s, which this process may not raise", u.Name, limitText(rl.Hard), limitText(now.Max))
		}
		b.addRlimit(u.Name, rl.Soft, rl.Hard)
		set[u.Name] = true
	}
	for _, d := range []struct {
		name string
		res  int
		max  uint64
	}{{"nofile", unix.RLIMIT_NOFILE, defaultFiles}, {"nproc", unix.RLIMIT_NPROC, 1 << 22}} {
		var now unix.Rlimit
		if set[d.name] || unix.Getrlimit(d.res, &now) != nil {
			continue
		}
		limit := min(d.max, now.Max)
		b.addRlimit(d.name, limit, limit)
	}
	return nil
}

func (b *specBuilder) addRlimit(name string, soft, hard uint64) {
	b.spec.Process.Rlimits = append(b.spec.Process.Rlimits, specs.POSIXRlimit{
		Type: "RLIMIT_" + strings.ToUpper(name), Soft: soft, Hard: hard,
	})
}

func limitText(n uint64) string {
	if n == unix.RLIM_INFINITY {
		return "unlimited"
	}
	return fmt.Sprint(n)
}

// mayRaiseLimits says whether we hold CAP_SYS_RESOURCE.
func mayRaiseLimits() bool {
	caps, err := capability.NewPid2(0)
	return err == nil && caps.Load() == nil && caps.Get(capability.EFFECTIVE, capability.CAP_SYS_RESOURCE)
}
