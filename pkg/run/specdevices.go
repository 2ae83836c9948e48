package run

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Device is one value of --device, parsed.
type Device struct {
	Host, Container string // paths
	Access          string // of r, w and m
}

// ParseDevice reads HOST[:CONTAINER][:rwm]. ErrOptions.
func ParseDevice(s string) (Device, error) {
	d := Device{Access: "rwm"}
	parts := strings.Split(s, ":")
	switch len(parts) {
	case 3:
		if !validAccess(parts[2]) {
			return d, conflictf("invalid device mode: %s", parts[2])
		}
		d.Container, d.Access = parts[1], parts[2]
	case 2:
		if validAccess(parts[1]) {
			d.Access = parts[1]
		} else {
			d.Container = parts[1]
		}
	case 1:
	default:
		return d, conflictf("invalid device specification: %s", s)
	}
	if d.Host = parts[0]; d.Container == "" {
		d.Container = d.Host
	}
	for _, p := range []string{d.Host, d.Container} {
		if !filepath.IsAbs(p) {
			return d, conflictf("%s is not an absolute path", p)
		}
	}
	return d, nil
}

func validAccess(s string) bool {
	if s == "" || len(s) > 3 {
		return false
	}
	for i, c := range s {
		if !strings.ContainsRune("rwm", c) || strings.ContainsRune(s[:i], c) {
			return false
		}
	}
	return true
}

// devices makes the device nodes asked for and allows them in the cgroup. In a
// user namespace no node can be made: the host's are bound there.
func (b *specBuilder) devices() error {
	rules := []specs.LinuxDeviceCgroup{{Allow: b.c.Privileged, Access: "rwm"}}
	if b.c.Privileged {
		if err := b.hostDevices(); err != nil {
			return err
		}
	}
	for _, s := range b.c.Devices {
		d, err := ParseDevice(s)
		if err != nil {
			return err
		}
		nodes, err := deviceNodes(d)
		if err != nil {
			return conflictf("error gathering device information while adding custom device %q: %v", d.Host, err)
		}
		for _, n := range nodes {
			b.addDevice(n.host, n.LinuxDevice)
			if !b.c.Privileged {
				major, minor := n.Major, n.Minor
				rules = append(rules, specs.LinuxDeviceCgroup{
					Allow: true, Type: n.Type, Major: &major, Minor: &minor, Access: d.Access,
				})
			}
		}
	}
	b.spec.Linux.Resources = &specs.LinuxResources{Devices: rules}
	return nil
}

type deviceNode struct {
	specs.LinuxDevice
	host string
}

func (b *specBuilder) addDevice(host string, dev specs.LinuxDevice) {
	if b.hasDevice(dev.Path) {
		return
	}
	if b.inUserns() {
		b.spec.Mounts = append(b.spec.Mounts, mnt(dev.Path, "bind", host, "bind", "rprivate", "nosuid", "noexec"))
		return
	}
	b.spec.Linux.Devices = append(b.spec.Linux.Devices, dev)
}

func (b *specBuilder) hasDevice(path string) bool {
	return slices.ContainsFunc(b.spec.Linux.Devices, func(d specs.LinuxDevice) bool { return d.Path == path }) ||
		slices.ContainsFunc(b.spec.Mounts, func(m specs.Mount) bool { return m.Destination == path })
}

// deviceNodes finds the node, or all nodes below a folder, that --device names.
func deviceNodes(d Device) ([]deviceNode, error) {
	st, err := os.Stat(d.Host)
	if err != nil {
		var pe *fs.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		return nil, err
	}
	if !st.IsDir() {
		n, err := statDevice(d.Host)
		if err != nil {
			return nil, err
		}
		n.Path = filepath.Clean(d.Container)
		return []deviceNode{n}, nil
	}
	var out []deviceNode
	err = walkDevices(d.Host, func(n deviceNode) {
		n.Path = filepath.Join(d.Container, strings.TrimPrefix(n.host, d.Host))
		out = append(out, n)
	})
	if err == nil && len(out) == 0 {
		err = errors.New("no devices are there")
	}
	return out, err
}

var errNoDevice = errors.New("not a device node")

func statDevice(path string) (deviceNode, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return deviceNode{}, err
	}
	n := deviceNode{host: path}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		n.Type = "c"
	case unix.S_IFBLK:
		n.Type = "b"
	default:
		return n, errNoDevice
	}
	mode := os.FileMode(st.Mode & 0o777)
	n.LinuxDevice = specs.LinuxDevice{
		Path: path, Type: n.Type, Major: int64(unix.Major(uint64(st.Rdev))), Minor: int64(unix.Minor(uint64(st.Rdev))),
		FileMode: &mode, UID: &st.Uid, GID: &st.Gid,
	}
	return n, nil
}

// notInherited are what docker leaves out of a privileged container's /dev:
// these are a container's own.
var notInherited = []string{"pts", "shm", "fd", "mqueue", "console", ".lxc", ".lxd-mounts", ".udev"}

func walkDevices(dir string, found func(deviceNode)) error {
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			if path == dir {
				return err
			}
			return nil // gone meanwhile, or not ours to read
		case e.IsDir() && path != dir && slices.Contains(notInherited, e.Name()):
			return fs.SkipDir
		case e.Name() == "console", e.Type()&fs.ModeDevice == 0:
			return nil
		}
		if n, err := statDevice(path); err == nil {
			found(n)
		}
		return nil
	})
}

// hostDevices gives a privileged container what is in /dev, but for what the
// runtime makes in every container.
func (b *specBuilder) hostDevices() error {
	own := []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/tty", "/dev/urandom", "/dev/random", "/dev/ptmx"}
	if slices.ContainsFunc(b.spec.Mounts, func(m specs.Mount) bool { return m.Destination == "/dev" && m.Type == "bind" }) {
		return nil // -v /dev:/dev has them all
	}
	err := walkDevices("/dev", func(n deviceNode) {
		if !slices.Contains(own, n.host) {
			b.addDevice(n.host, n.LinuxDevice)
		}
	})
	if err != nil {
		return fmt.Errorf("listing the host's devices: %w", err)
	}
	return nil
}
