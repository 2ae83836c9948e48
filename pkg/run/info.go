package run

import (
	"bytes"
	"context"
	"fmt"
	"os"
	goruntime "runtime"
	"strings"

	"github.com/balena-os/balena/pkg/runtime"
	"github.com/balena-os/balena/pkg/store"
	"golang.org/x/sys/unix"
)

// Info is what the engine works with on this machine.
type Info struct {
	Running, Paused, Stopped int // containers
	Driver                   string
	DriverStatus             [][2]string // what containers/storage says of the driver
	FreeSpace, TotalSpace    int64       // bytes, of the filesystem that the root lies on
	CgroupVersion            int
	CgroupDriver             string
	Controllers              []string // those that containers can be limited by
	SecurityOptions          []string // docker's names: name=seccomp,profile=builtin
	Kernel, OS, Machine      string
	CPUs                     int
	Host                     string
	RuntimeVersion           string // of the libcontainer inside
	Warnings                 []string
}

// Info looks at the machine and the store.
func (e *Engine) Info(ctx context.Context) (Info, error) {
	list, err := e.List(ctx)
	if err != nil {
		return Info{}, err
	}
	var in Info
	for _, c := range list {
		switch c.State.Status {
		case store.StatusPaused:
			in.Paused++
		case store.StatusRunning:
			in.Running++
		default:
			in.Stopped++
		}
	}
	if err := e.storageInfo(&in); err != nil {
		return Info{}, err
	}
	if err := e.cgroupInfo(&in); err != nil {
		return Info{}, err
	}
	return in, e.hostInfo(&in)
}

func (e *Engine) storageInfo(in *Info) error {
	layers, err := e.Store.Layers()
	if err != nil {
		return err
	}
	in.Driver = layers.GraphDriverName()
	if in.DriverStatus, err = layers.Status(); err != nil {
		return fmt.Errorf("asking the storage driver: %w", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(e.Store.Root(), &st); err != nil {
		return fmt.Errorf("asking for the free space of %s: %w", e.Store.Root(), err)
	}
	in.FreeSpace, in.TotalSpace = int64(st.Bavail)*int64(st.Bsize), int64(st.Blocks)*int64(st.Bsize)
	return nil
}

func (e *Engine) cgroupInfo(in *Info) error {
	h, err := findCgroups(e.Rootless, e.cgroupManager())
	if err != nil {
		return err
	}
	in.CgroupVersion, in.CgroupDriver, in.Controllers = h.Version, "cgroupfs", h.Controllers
	switch {
	case h.Systemd:
		in.CgroupDriver = "systemd"
	case h.Parent == "":
		in.CgroupDriver = "none"
	}
	for _, c := range []struct{ controller, what string }{{"memory", "memory limit"}, {"pids", "pids limit"}, {"cpu", "cpu limit"}} {
		if !h.can(c.controller) {
			in.Warnings = append(in.Warnings, "No "+c.what+" support")
		}
	}
	return nil
}

func (e *Engine) hostInfo(in *Info) error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return fmt.Errorf("asking the kernel for its name: %w", err)
	}
	text := func(b []byte) string { s, _, _ := bytes.Cut(b, []byte{0}); return string(s) }
	in.Kernel, in.Machine, in.Host = text(u.Release[:]), text(u.Machine[:]), text(u.Nodename[:])
	in.OS, in.CPUs, in.RuntimeVersion = osName(), goruntime.NumCPU(), runtime.Version()
	if raw, err := os.ReadFile("/sys/module/apparmor/parameters/enabled"); err == nil && strings.HasPrefix(string(raw), "Y") {
		in.SecurityOptions = append(in.SecurityOptions, "name=apparmor")
	}
	if runtime.SeccompVersion() != "" {
		in.SecurityOptions = append(in.SecurityOptions, "name=seccomp,profile=builtin")
	}
	if _, err := os.Stat("/sys/fs/selinux/enforce"); err == nil {
		in.SecurityOptions = append(in.SecurityOptions, "name=selinux")
	}
	if e.Rootless {
		in.SecurityOptions = append(in.SecurityOptions, "name=rootless")
	}
	if in.CgroupVersion == 2 {
		in.SecurityOptions = append(in.SecurityOptions, "name=cgroupns")
	}
	return nil
}

// osName is what os-release calls the system.
func osName() string {
	for _, path := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		raw, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		for line := range strings.SplitSeq(string(raw), "\n") {
			if v, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
				return strings.Trim(v, `"'`)
			}
		}
	}
	return "Linux"
}
