package runtime

import (
	"fmt"
	"runtime/debug"

	"github.com/opencontainers/runc/libcontainer/capabilities"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/seccomp"
	"github.com/opencontainers/runc/libcontainer/specconv"
	runcfeatures "github.com/opencontainers/runc/types/features"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
)

// Version is that of the runc whose libcontainer is built in, like "1.5.2".
func Version() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == "github.com/opencontainers/runc" && len(m.Version) > 1 {
				return m.Version[1:]
			}
		}
	}
	return "unknown"
}

// SpecVersion is the version of the runtime specification that is followed.
func SpecVersion() string { return specs.Version }

// SeccompVersion is libseccomp's, or "" in a build without it.
func SeccompVersion() string {
	major, minor, patch := seccomp.Version()
	if major+minor+patch == 0 {
		return ""
	}
	return fmt.Sprintf("%d.%d.%d", major, minor, patch)
}

// Features tells what the runtime knows, whether or not this host allows it
// (https://github.com/opencontainers/runtime-spec/blob/main/features.md).
func Features() *features.Features {
	yes, no := true, false
	f := &features.Features{
		OCIVersionMin: "1.0.0",
		OCIVersionMax: specs.Version,
		Hooks:         configs.KnownHookNames(),
		MountOptions:  specconv.KnownMountOptions(),
		Annotations: map[string]string{
			runcfeatures.AnnotationRuncVersion:           Version(),
			runcfeatures.AnnotationRuncCheckpointEnabled: "false",
		},
		PotentiallyUnsafeConfigAnnotations: []string{"bundle", "org.systemd.property."},
		Linux: &features.Linux{
			Namespaces:      specconv.KnownNamespaces(),
			Capabilities:    capabilities.KnownCapabilities(),
			Cgroup:          &features.Cgroup{V1: &yes, V2: &yes, Systemd: &yes, SystemdUser: &yes, Rdma: &yes},
			Seccomp:         &features.Seccomp{Enabled: &no},
			Apparmor:        &features.Apparmor{Enabled: &yes},
			Selinux:         &features.Selinux{Enabled: &yes},
			IntelRdt:        &features.IntelRdt{Enabled: &yes, Schemata: &yes, Monitoring: &yes},
			MountExtensions: &features.MountExtensions{IDMap: &features.IDMap{Enabled: &yes}},
			NetDevices:      &features.NetDevices{Enabled: &yes},
			MemoryPolicy: &features.MemoryPolicy{
				Modes: specconv.KnownMemoryPolicyModes(),
				Flags: specconv.KnownMemoryPolicyFlags(),
			},
		},
	}
	if seccomp.Enabled {
		f.Linux.Seccomp = &features.Seccomp{
			Enabled:        &yes,
			Actions:        seccomp.KnownActions(),
			Operators:      seccomp.KnownOperators(),
			Archs:          seccomp.KnownArchs(),
			KnownFlags:     seccomp.KnownFlags(),
			SupportedFlags: seccomp.SupportedFlags(),
		}
		f.Annotations[runcfeatures.AnnotationLibseccompVersion] = SeccompVersion()
	}
	return f
}
