package runtime

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// ExecOptions says what to execute in which container. The zero value of each
// field but Root, ID and Process is the default.
type ExecOptions struct {
	// Root is the state folder (absolute), ID the container's name in it.
	Root, ID string
	// Process is what to execute. Container.Process gives the container's own
	// to derive it from; its Terminal asks for a new pseudoterminal.
	Process *specs.Process
	// IgnorePaused allows a paused container, where the process stands still
	// until the container is resumed.
	IgnorePaused bool
	// Cgroups are existing cgroups below the container's to put the process
	// in: "PATH", or for cgroup v1 "CONTROLLER[,CONTROLLER...]:PATH".
	Cgroups []string
	// Detach returns once the process runs.
	Detach bool

	Stdio
}

// Exec executes a process in a running container, without a fork of the
// caller besides the process itself. With Detach it returns 0 once the
// process runs; otherwise it waits and returns the exit code (128+n if signal
// n ended it). An error means that the process did not run (see ExitCode), or
// that ctx was cancelled, upon which it was killed.
//
// All of the caller's descriptors above 2 get close-on-exec.
func Exec(ctx context.Context, o ExecOptions) (int, error) {
	c, err := Load(o.Root, o.ID)
	if err != nil {
		return -1, err
	}
	return c.Exec(ctx, o)
}

// Exec is the function Exec for a container that was loaded; Root and ID of
// the options are not looked at.
func (c *Container) Exec(ctx context.Context, o ExecOptions) (int, error) {
	if err := o.absolute(); err != nil {
		return -1, err
	}
	if err := c.ExecAllowed(o.IgnorePaused); err != nil {
		return -1, err
	}
	if err := checkProcess(o.Process); err != nil {
		return -1, err
	}
	cgroups, err := subCgroups(o.Cgroups)
	if err != nil {
		return -1, err
	}
	l := &launch{
		root:      c.root,
		container: c.lc,
		stdio:     o.Stdio,
		action:    actionExec,
		detach:    o.Detach,
		subCgroup: cgroups,
	}
	return l.run(ctx, o.Process)
}

// ExecAllowed returns ErrStopped or ErrPaused when nothing can be executed.
func (c *Container) ExecAllowed(ignorePaused bool) error {
	status, err := c.lc.Status()
	switch {
	case err != nil:
		return err
	case status == libcontainer.Stopped:
		return ErrStopped
	case status == libcontainer.Paused && !ignorePaused:
		return ErrPaused
	}
	return nil
}

// subCgroups turns "[CONTROLLER[,CONTROLLER...]:]PATH" into libcontainer's
// map of controller to path, which has one entry "" for cgroup v2.
func subCgroups(args []string) (map[string]string, error) {
	if len(args) == 0 {
		return nil, nil
	}
	paths := make(map[string]string, len(args))
	for _, arg := range args {
		controllers, path, ok := strings.Cut(arg, ":")
		if !ok {
			if len(args) != 1 {
				return nil, fmt.Errorf("invalid --cgroup argument: %s (missing <controller>: prefix)", arg)
			}
			paths[""] = arg
			continue
		}
		for _, controller := range strings.Split(controllers, ",") {
			if controller == "" {
				return nil, fmt.Errorf("invalid --cgroup argument: %s (empty <controller> prefix)", arg)
			}
			if _, ok := paths[controller]; ok {
				return nil, fmt.Errorf("invalid --cgroup argument(s): controller %s specified multiple times", controller)
			}
			paths[controller] = path
		}
	}
	if len(paths) == 0 {
		return nil, errors.New("invalid --cgroup argument")
	}
	return paths, nil
}
