package run

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/balena-os/balena/pkg/store"
)

const defaultShmSize = 64 << 20

func mnt(target, kind, source string, options ...string) specs.Mount {
	return specs.Mount{Destination: target, Type: kind, Source: source, Options: options}
}

// mounts lists the mounts that every container has and those asked for, the
// latter in place of a default one at the same target, outer ones first.
func (b *specBuilder) mounts() error {
	user, err := b.userMounts()
	if err != nil {
		return err
	}
	covered := func(target string) bool {
		return slices.ContainsFunc(user, func(m specs.Mount) bool {
			return m.Destination == target || (m.Destination == "/dev" && strings.HasPrefix(target, "/dev/"))
		})
	}
	var all []specs.Mount
	for _, m := range slices.Concat(b.kernelMounts(), b.bundleMounts()) {
		if !covered(m.Destination) {
			all = append(all, m)
		}
	}
	all = append(all, user...)
	if b.c.Init {
		exe := b.Exe
		if exe == "" {
			if exe, err = os.Executable(); err != nil {
				return fmt.Errorf("finding our own binary for --init: %w", err)
			}
		}
		all = append(all, mnt(initPath, "bind", exe, "bind", "rprivate", "ro"))
	}
	slices.SortStableFunc(all, func(x, y specs.Mount) int { return depth(x.Destination) - depth(y.Destination) })
	b.spec.Mounts = all
	return nil
}

func depth(path string) int { return strings.Count(strings.TrimSuffix(path, "/"), "/") }

// kernelMounts are podman's: proc, dev, sys and what lies in them. What a user
// namespace may not mount anew, because the namespace that it shows belongs to
// another user namespace, is the host's, bound.
func (b *specBuilder) kernelMounts() []specs.Mount {
	nodev := []string{"nosuid", "noexec", "nodev"}
	with := func(more ...string) []string { return slices.Concat(nodev, more) }
	perm := "ro"
	if b.c.Privileged {
		perm = "rw"
	}
	out := []specs.Mount{
		mnt("/proc", "proc", "proc", nodev...),
		mnt("/dev", "tmpfs", "tmpfs", "nosuid", "noexec", "strictatime", "mode=755", "size=65536k"),
		mnt("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"),
		mnt("/dev/mqueue", "mqueue", "mqueue", nodev...),
		mnt("/sys", "sysfs", "sysfs", with(perm)...),
		mnt("/sys/fs/cgroup", "cgroup", "cgroup", with("rprivate", "relatime", perm)...),
	}
	if b.groupMapped(5) {
		out[2].Options = append(out[2].Options, "gid=5")
	}
	if b.inUserns() && b.c.Pid == "host" {
		out[0] = mnt("/proc", "bind", "/proc", with("rbind", "rprivate")...)
	}
	if b.c.Ipc == "host" {
		out[3] = mnt("/dev/mqueue", "bind", "/dev/mqueue", with("bind", "rprivate")...)
		if _, err := os.Stat("/dev/mqueue"); err != nil {
			out = slices.Delete(out, 3, 4)
		}
	}
	if b.inUserns() && (b.hostNet() || b.ownUserns()) {
		out = slices.DeleteFunc(out, func(m specs.Mount) bool { return strings.HasPrefix(m.Destination, "/sys") })
		out = append(out,
			mnt("/sys", "bind", "/sys", with("rbind", "rprivate", perm)...),
			mnt("/sys/fs/cgroup", "bind", "/sys/fs/cgroup", with("rbind", "rprivate", perm)...))
	}
	switch {
	case b.c.Ipc == "none":
	case b.c.Ipc == "host":
		out = append(out, mnt("/dev/shm", "bind", "/dev/shm", with("rbind", "rprivate")...))
	default:
		size := b.c.ShmSize
		if size == 0 {
			size = defaultShmSize
		}
		out = append(out, mnt("/dev/shm", "tmpfs", "shm", with("mode=1777", "size="+strconv.FormatInt(size, 10))...))
	}
	return out
}

// groupMapped says whether the container has a gid.
func (b *specBuilder) groupMapped(gid uint32) bool {
	if b.ownUserns() {
		return slices.ContainsFunc(b.IDMaps.GID, func(m specs.LinuxIDMapping) bool {
			return gid >= m.ContainerID && gid-m.ContainerID < m.Size
		})
	}
	if !b.Rootless {
		return true
	}
	last, err := strconv.ParseUint(b.lastGroup(), 10, 32)
	return err == nil && last >= uint64(gid)
}

// bundleMounts are the files that the network and the engine write for the
// container.
func (b *specBuilder) bundleMounts() []specs.Mount {
	var out []specs.Mount
	for _, name := range []string{"hosts", "resolv.conf", "hostname", "passwd", "group"} {
		src := filepath.Join(b.Bundle, name)
		if _, err := os.Stat(src); err != nil {
			continue
		}
		m := mnt("/etc/"+name, "bind", src, "bind", "rprivate")
		if b.c.ReadOnly {
			m.Options = append(m.Options, "ro")
		}
		out = append(out, m)
	}
	return out
}

func (b *specBuilder) userMounts() ([]specs.Mount, error) {
	var out []specs.Mount
	for _, m := range b.c.Mounts {
		sm, err := b.userMount(m)
		if err != nil {
			return nil, fmt.Errorf("mounting %s: %w", m.Target, err)
		}
		out = append(out, sm)
	}
	return out, nil
}

func (b *specBuilder) userMount(m store.Mount) (specs.Mount, error) {
	out := specs.Mount{Destination: m.Target, Type: "bind", Source: m.Source}
	switch m.Type {
	case "tmpfs":
		return tmpfsMount(m), nil
	case "volume":
		if b.Volume == nil {
			return out, fmt.Errorf("volume %q: there are no volumes here", m.Source)
		}
		dir, err := b.Volume(m.Source)
		if err != nil {
			return out, fmt.Errorf("volume %q: %w", m.Source, err)
		}
		if out.Source, err = volumeSubpath(dir, m.Options); err != nil {
			return out, fmt.Errorf("volume %q: %w", m.Source, err)
		}
	case "bind":
	default:
		return out, conflictf("mount type %q is not bind, volume or tmpfs", m.Type)
	}
	recursive, propagation := "rbind", "rprivate"
	var flags []string
	for _, o := range m.Options {
		switch {
		case o == mountCreate, o == mountNoCopy, o == mountChown, o == "z", o == "Z", strings.HasPrefix(o, subpathOpt):
		case o == "bind", o == "rbind":
			recursive = o
		case slices.Contains(mountGroups[1], o):
			propagation = o
		default:
			flags = append(flags, o)
		}
	}
	out.Options = append([]string{recursive, propagation}, flags...)
	if m.ReadOnly && !slices.Contains(flags, "rro") {
		out.Options = append(out.Options, "ro")
	}
	b.rootPropagation(propagation)
	return out, nil
}

// rootPropagation lets what is mounted on one side of a shared or slave mount
// be seen on the other, which the mount it lies in must allow too.
func (b *specBuilder) rootPropagation(p string) {
	switch p {
	case "shared", "rshared":
		b.spec.Linux.RootfsPropagation = "shared"
	case "slave", "rslave":
		if b.spec.Linux.RootfsPropagation != "shared" {
			b.spec.Linux.RootfsPropagation = "rslave"
		}
	}
}

// volumeSubpath resolves the folder in a volume that a mount shows. Links in
// the volume, which a container may have written, lead nowhere else.
func volumeSubpath(dir string, options []string) (string, error) {
	for _, o := range options {
		sub, ok := strings.CutPrefix(o, subpathOpt)
		if !ok {
			continue
		}
		path, err := securejoin.SecureJoin(dir, sub)
		if err != nil {
			return "", err
		}
		if _, err := os.Lstat(path); err != nil {
			return "", fmt.Errorf("subpath %q: %w", sub, err)
		}
		return path, nil
	}
	return dir, nil
}

// tmpfsMount has docker's defaults: nosuid, nodev, noexec, mode 1777.
func tmpfsMount(m store.Mount) specs.Mount {
	out := mnt(m.Target, "tmpfs", "tmpfs")
	has := func(names ...string) bool {
		return slices.ContainsFunc(m.Options, func(o string) bool { return slices.Contains(names, o) })
	}
	for _, flag := range []string{"exec", "suid", "dev"} {
		if !has(flag, "no"+flag) {
			out.Options = append(out.Options, "no"+flag)
		}
	}
	mode := slices.ContainsFunc(m.Options, func(o string) bool { return strings.HasPrefix(o, "mode=") })
	if !mode {
		out.Options = append(out.Options, "mode=1777")
	}
	if !slices.ContainsFunc(mountGroups[1], func(p string) bool { return has(p) }) {
		out.Options = append(out.Options, "rprivate")
	}
	for _, o := range m.Options {
		if o != "notmpcopyup" && o != mountChown {
			out.Options = append(out.Options, o)
		}
	}
	if m.ReadOnly {
		out.Options = append(out.Options, "ro")
	}
	return out
}
