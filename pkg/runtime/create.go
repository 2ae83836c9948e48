package runtime

import (
	"context"
	"os"

	"github.com/moby/sys/userns"
	"github.com/opencontainers/cgroups/systemd"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/specconv"
)

// Rootless says whether cgroups that may not be written are ignored, so that
// the container runs without limits.
type Rootless int

const (
	// RootlessAuto: yes unless the caller is root in the first user namespace.
	RootlessAuto Rootless = iota
	RootlessYes
	RootlessNo
)

// CreateOptions says what to create. The zero value of each field but Root
// and ID is the default.
type CreateOptions struct {
	// Root is the state folder (absolute), ID the container's name in it.
	Root, ID string
	// Bundle is the folder with config.json and, unless the specification
	// says otherwise, rootfs; empty: the working directory. It becomes the
	// process's working directory, against which libcontainer resolves the
	// relative paths of the specification.
	Bundle string
	// SystemdCgroup asks systemd for the cgroup (cgroupsPath is then
	// "slice:prefix:name").
	SystemdCgroup bool
	Rootless      Rootless
	// NoPivot uses chroot in place of pivot_root, for a rootfs on a ramdisk.
	NoPivot bool
	// NoNewKeyring leaves the container in the caller's session keyring.
	NoNewKeyring bool
	// PrivilegedMount is a mount point that the specification of a container
	// has which is to be privileged; empty: none has it.
	PrivilegedMount string
	// NotifySocket is a systemd notify socket (the caller's $NOTIFY_SOCKET)
	// that the container gets a forwarder of; empty: none.
	NotifySocket string

	Stdio

	// The remaining fields matter to Run only.

	// Detach returns once the command runs.
	Detach bool
	// Keep leaves the container's state in place after its end.
	Keep bool
	// NoSubreaper leaves orphans of the container to the system's init.
	NoSubreaper bool
}

// Create makes a container out of a bundle, up to the point where only Start
// is missing. The command has been looked for in the rootfs by then. Nothing
// is left behind when it fails.
func Create(ctx context.Context, o CreateOptions) error {
	o.Detach = true
	_, err := create(ctx, o, actionCreate)
	return err
}

// Run creates and starts a container. With Detach it returns 0 once the
// command runs; otherwise it waits, deletes the container unless Keep, and
// returns the command's exit code (128+n if signal n ended it).
func Run(ctx context.Context, o CreateOptions) (int, error) {
	return create(ctx, o, actionRun)
}

func create(ctx context.Context, o CreateOptions, a action) (int, error) {
	if err := o.absolute(); err != nil {
		return -1, err
	}
	if o.Bundle != "" {
		if err := os.Chdir(o.Bundle); err != nil {
			return -1, err
		}
	}
	spec, err := LoadSpec(SpecFile)
	if err != nil {
		return -1, err
	}
	if o.ID == "" {
		return -1, ErrEmptyID
	}
	if err := privilege(spec, o.PrivilegedMount); err != nil {
		return -1, err
	}
	notify := newNotifyForwarder(o.NotifySocket, o.Root, o.ID)
	if notify != nil {
		notify.addTo(spec)
	}
	rootlessCgroups, err := o.Rootless.ignoresCgroups(o.SystemdCgroup)
	if err != nil {
		return -1, err
	}
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{
		CgroupName:       o.ID,
		UseSystemdCgroup: o.SystemdCgroup,
		NoPivotRoot:      o.NoPivot,
		NoNewKeyring:     o.NoNewKeyring,
		Spec:             spec,
		RootlessEUID:     os.Geteuid() != 0,
		RootlessCgroups:  rootlessCgroups,
	})
	if err != nil {
		return -1, err
	}
	c, err := libcontainer.Create(o.Root, o.ID, config)
	if err != nil {
		return -1, err
	}
	l := &launch{
		root:      o.Root,
		container: c,
		stdio:     o.Stdio,
		action:    a,
		detach:    o.Detach,
		subreaper: !o.NoSubreaper,
		destroy:   !o.Keep,
		notify:    notify,
	}
	if notify != nil {
		if err := notify.prepare(a == actionRun); err != nil {
			l.cleanup()
			return -1, err
		}
		defer notify.close()
	}
	return l.run(ctx, spec.Process)
}

// ignoresCgroups decides as runc's --rootless does.
func (r Rootless) ignoresCgroups(systemdCgroup bool) (bool, error) {
	switch {
	case r == RootlessYes:
		return true, nil
	case r == RootlessNo:
		return false, nil
	case os.Geteuid() != 0:
		return true, nil
	case !userns.RunningInUserNS():
		return false, nil
	case systemdCgroup:
		// Root in a user namespace may have a systemd of its own there. No
		// answer counts as "it is root's".
		uid, err := systemd.DetectUID()
		return err == nil && uid != 0, nil
	}
	return true, nil
}
