package runtime

import (
	"fmt"
	"slices"

	"github.com/moby/sys/devices"
	"github.com/moby/sys/userns"
	"github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runtime-spec/specs-go"
	"go.podman.io/common/pkg/capabilities"
)

// privilege takes the mount at mark out of the specification and, if there was
// one, gives the container what docker calls privileged: all capabilities that
// this process has, the host's devices, writable /sys and control groups, and
// neither a seccomp profile nor paths that are masked or read-only.
func privilege(spec *specs.Spec, mark string) error {
	i := slices.IndexFunc(spec.Mounts, func(m specs.Mount) bool { return m.Destination == mark })
	if mark == "" || i < 0 || spec.Process == nil || spec.Linux == nil {
		return nil
	}
	spec.Mounts = slices.Delete(spec.Mounts, i, i+1)
	all, err := capabilities.BoundingSet()
	if err != nil {
		return fmt.Errorf("reading the capability bounding set: %w", err)
	}
	caps := &specs.LinuxCapabilities{Bounding: all}
	if spec.Process.User.UID == 0 {
		caps.Effective, caps.Permitted = all, all
	}
	spec.Process.Capabilities = caps
	spec.Process.NoNewPrivileges, spec.Process.ApparmorProfile, spec.Process.SelinuxLabel = false, "", ""
	spec.Linux.Seccomp, spec.Linux.MaskedPaths, spec.Linux.ReadonlyPaths = nil, nil, nil
	for i, m := range spec.Mounts {
		if m.Type == "sysfs" || m.Type == "cgroup" {
			spec.Mounts[i].Options = slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool { return o == "ro" })
		}
	}
	return hostDevices(spec)
}

// hostDevices adds the host's device nodes, which only the first user namespace
// can make.
func hostDevices(spec *specs.Spec) error {
	if userns.RunningInUserNS() || slices.ContainsFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.UserNamespace }) {
		return nil
	}
	if spec.Linux.Resources == nil {
		spec.Linux.Resources = &specs.LinuxResources{}
	}
	spec.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	found, err := devices.HostDevices()
	if err != nil {
		return fmt.Errorf("listing the host's devices: %w", err)
	}
	for _, d := range found {
		if !slices.ContainsFunc(spec.Linux.Devices, func(s specs.LinuxDevice) bool { return s.Path == d.Path }) {
			spec.Linux.Devices = append(spec.Linux.Devices, nodeOf(d))
		}
	}
	return nil
}

func nodeOf(d *config.Device) specs.LinuxDevice {
	mode := d.FileMode
	return specs.LinuxDevice{Path: d.Path, Type: string(d.Type), Major: d.Major, Minor: d.Minor, FileMode: &mode, UID: &d.Uid, GID: &d.Gid}
}
