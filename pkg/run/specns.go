package run

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/moby/sys/user"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// namespaces chooses which namespaces are new, shared or the host's.
func (b *specBuilder) namespaces() error {
	add := func(t specs.LinuxNamespaceType, path string) {
		b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: t, Path: path})
	}
	add(specs.MountNamespace, "")
	if !b.hostNet() {
		add(specs.NetworkNamespace, b.NetNS)
	}
	for _, ns := range []struct {
		t    specs.LinuxNamespaceType
		kind string
		mode string
	}{{specs.PIDNamespace, "pid", b.c.Pid}, {specs.IPCNamespace, "ipc", b.c.Ipc}} {
		switch mode, name, shared := strings.Cut(ns.mode, ":"); {
		case ns.mode == "host":
		case ns.mode == "", ns.mode == "private", ns.kind == "ipc" && (ns.mode == "none" || ns.mode == "shareable"):
			add(ns.t, "")
		case shared && mode == "container" && name != "":
			if b.Namespace == nil {
				return conflictf("--%s %s: cannot be joined here", ns.kind, ns.mode)
			}
			path, err := b.Namespace(name, ns.kind)
			if err != nil {
				return fmt.Errorf("joining the %s namespace of %q: %w", ns.kind, name, err)
			}
			add(ns.t, path)
		default:
			return conflictf("--%s: invalid mode: %s", ns.kind, ns.mode)
		}
	}
	switch b.c.Uts {
	case "host":
	case "", "private":
		add(specs.UTSNamespace, "")
		b.spec.Hostname, b.spec.Domainname = b.hostname(), b.c.Domainname
	default:
		return conflictf("--uts: invalid mode: %s", b.c.Uts)
	}
	switch b.c.Cgroupns {
	case "private":
		add(specs.CgroupNamespace, "")
	case "": // with cgroup v1, docker and podman leave the host's
		if b.Cgroups.Version == 2 {
			add(specs.CgroupNamespace, "")
		}
	case "host":
	default:
		return conflictf("--cgroupns: invalid mode: %s", b.c.Cgroupns)
	}
	if b.ownUserns() {
		add(specs.UserNamespace, "")
		b.spec.Linux.UIDMappings, b.spec.Linux.GIDMappings = b.IDMaps.UID, b.IDMaps.GID
	}
	return nil
}

// sysctlsOfIPC are the namespaced ones besides fs.mqueue.* and net.*.
var sysctlsOfIPC = []string{
	"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax",
	"kernel.shmmni", "kernel.shm_rmid_forced",
}

// sysctls are those asked for, each of which must belong to a namespace of the
// container's own, and docker's two defaults that let an unprivileged process
// ping and listen below 1024 in a network namespace of its own.
func (b *specBuilder) sysctls() error {
	out := map[string]string{}
	if !b.hostNet() && !b.ownUserns() {
		out["net.ipv4.ip_unprivileged_port_start"] = "0"
		out["net.ipv4.ping_group_range"] = "0 " + b.lastGroup()
	}
	for _, key := range slices.Sorted(maps.Keys(b.c.Sysctls)) {
		name := strings.ReplaceAll(key, "/", ".")
		var own bool
		switch {
		case slices.Contains(sysctlsOfIPC, name), strings.HasPrefix(name, "fs.mqueue."):
			own = b.c.Ipc != "host"
		case strings.HasPrefix(name, "net."):
			own = !b.hostNet()
		case name == "kernel.domainname":
			own = b.c.Uts != "host"
		default:
			return conflictf("sysctl '%s' is not allowed: it belongs to no namespace of the container's", key)
		}
		if !own {
			return conflictf("sysctl '%s' is not allowed with the host's namespace", key)
		}
		out[key] = b.c.Sysctls[key]
	}
	b.spec.Linux.Sysctl = out
	return nil
}

// lastGroup is the highest gid up to which all are mapped.
func (b *specBuilder) lastGroup() string {
	if !b.Rootless {
		return "2147483647"
	}
	maps, err := user.ParseIDMapFile("/proc/self/gid_map")
	if err != nil {
		return "0"
	}
	slices.SortFunc(maps, func(x, y user.IDMap) int { return int(x.ID - y.ID) })
	var next int64
	for _, m := range maps {
		if m.ID != next {
			break
		}
		next = m.ID + m.Count
	}
	return fmt.Sprint(min(max(next-1, 0), 2147483647))
}

// oomScore sets oom_score_adj. An unprivileged user can only raise it.
func (b *specBuilder) oomScore() error {
	if b.c.OOMScore == nil {
		return nil
	}
	score := *b.c.OOMScore
	if score < -1000 || score > 1000 {
		return conflictf("invalid value %d, range for oom score adj is [-1000, 1000]", score)
	}
	if b.Rootless {
		var now int
		if raw, err := os.ReadFile("/proc/self/oom_score_adj"); err == nil {
			fmt.Sscan(string(raw), &now)
		}
		if score < now {
			b.warn("--oom-score-adj %d: an unprivileged user cannot go below %d, which is used", score, now)
			score = now
		}
	}
	b.spec.Process.OOMScoreAdj = &score
	return nil
}
