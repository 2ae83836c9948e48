package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/utils"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Container is a container that exists in a state folder, as it was when it
// was loaded. Its methods ask the kernel anew.
type Container struct {
	root string
	lc   *libcontainer.Container
}

// Load finds the container id in the state folder root. ErrNotExist if there
// is none, or if it was not created completely.
func Load(root, id string) (*Container, error) {
	if id == "" {
		return nil, ErrEmptyID
	}
	lc, err := libcontainer.Load(root, id)
	if err != nil {
		return nil, err
	}
	return &Container{root: root, lc: lc}, nil
}

// ID is the container's name in its state folder.
func (c *Container) ID() string { return c.lc.ID() }

// Status is "created", "running", "paused" or "stopped".
func (c *Container) Status() (string, error) {
	s, err := c.lc.Status()
	return s.String(), err
}

// State describes a container as `runc state` prints it.
type State struct {
	Version string `json:"ociVersion"`
	ID      string `json:"id"`
	// Pid of the first process, seen from the caller; 0 when stopped.
	Pid         int               `json:"pid"`
	Status      string            `json:"status"`
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Created     time.Time         `json:"created"`
	Annotations map[string]string `json:"annotations,omitempty"`
	// Owner of the state folder's entry; only List fills it in.
	Owner string `json:"owner"`
}

// State reads the container's state.
func (c *Container) State() (State, error) {
	status, err := c.lc.Status()
	if err != nil {
		return State{}, err
	}
	s, err := c.lc.State()
	if err != nil {
		return State{}, err
	}
	pid := s.InitProcessPid
	if status == libcontainer.Stopped {
		pid = 0
	}
	bundle, annotations := utils.Annotations(s.Config.Labels)
	return State{
		Version:     s.Config.Version,
		ID:          s.ID,
		Pid:         pid,
		Status:      status.String(),
		Bundle:      bundle,
		Rootfs:      s.Config.Rootfs,
		Created:     s.Created,
		Annotations: annotations,
	}, nil
}

// Start lets a created container execute its command. notifySocket is as in
// CreateOptions and must be given to both calls or to none.
func (c *Container) Start(notifySocket string) error {
	status, err := c.lc.Status()
	if err != nil {
		return err
	}
	switch status {
	case libcontainer.Created:
	case libcontainer.Stopped:
		return errors.New("cannot start a container that has stopped")
	case libcontainer.Running:
		return errors.New("cannot start an already running container")
	default:
		return fmt.Errorf("cannot start a container in the %s state", status)
	}
	notify := newNotifyForwarder(notifySocket, c.root, c.ID())
	if notify == nil {
		return c.lc.Exec()
	}
	if err := notify.bind(); err != nil {
		return err
	}
	defer notify.close()
	if err := c.lc.Exec(); err != nil {
		return err
	}
	s, err := c.lc.State()
	if err != nil {
		return err
	}
	return notify.forward(s.InitProcessPid, s.InitProcessPid)
}

// Kill sends a signal to the container's first process; SIGKILL goes to all
// its processes when it has no PID namespace of its own. ErrNotRunning if
// there is none.
func (c *Container) Kill(sig unix.Signal) error { return c.lc.Signal(sig) }

// Pause freezes all processes of the container, Resume lets them go on.
func (c *Container) Pause() error  { return c.lc.Pause() }
func (c *Container) Resume() error { return c.lc.Resume() }

// Process is the process that the container's bundle describes, for exec'd
// ones to be derived from.
func (c *Container) Process() (*specs.Process, error) {
	bundle, ok := utils.SearchLabels(c.lc.Config().Labels, "bundle")
	if !ok {
		return nil, errors.New("bundle not found in labels")
	}
	spec, err := LoadSpec(filepath.Join(bundle, SpecFile))
	if err != nil {
		return nil, err
	}
	return spec.Process, nil
}

// Delete removes a stopped or never started container: its cgroups and its
// entry in the state folder. With force a running one is killed first.
func (c *Container) Delete(force bool) error {
	if force {
		// Also when stopped: without a PID namespace of its own, processes
		// may be left in its cgroup.
		return c.killAndDestroy()
	}
	status, err := c.lc.Status()
	if err != nil {
		return err
	}
	switch status {
	case libcontainer.Stopped:
		return c.lc.Destroy()
	case libcontainer.Created:
		return c.killAndDestroy()
	}
	return fmt.Errorf("cannot delete container %s that is not stopped: %s", c.ID(), status)
}

// killWait bounds how long a killed container may take to go away: a process
// in an uninterruptible sleep does not die sooner than its sleep ends.
const killWait = 10 * time.Second

func (c *Container) killAndDestroy() error {
	_ = c.lc.Signal(unix.SIGKILL)
	// Death after SIGKILL is a matter of a millisecond or two, but for what
	// the kernel has to tear down.
	pause := 500 * time.Microsecond
	for deadline := time.Now().Add(killWait); time.Now().Before(deadline); {
		if err := c.lc.Signal(unix.Signal(0)); err != nil {
			return c.lc.Destroy()
		}
		time.Sleep(pause)
		pause = min(2*pause, 100*time.Millisecond)
	}
	return errors.New("container init still running")
}

// Start is Load and Container.Start without a notify socket.
func Start(_ context.Context, root, id string) error {
	c, err := Load(root, id)
	if err != nil {
		return err
	}
	return c.Start("")
}

// Kill is Load and Container.Kill.
func Kill(root, id string, sig unix.Signal) error {
	c, err := Load(root, id)
	if err != nil {
		return err
	}
	return c.Kill(sig)
}

// GetState is Load and Container.State.
func GetState(root, id string) (State, error) {
	c, err := Load(root, id)
	if err != nil {
		return State{}, err
	}
	return c.State()
}

// Delete is Load and Container.Delete. It also removes what an interrupted
// Create left in the state folder; ErrNotExist is returned then, and for an
// unknown ID, unless force is set.
func Delete(root, id string, force bool) error {
	c, err := Load(root, id)
	if err == nil {
		return c.Delete(force)
	}
	if !errors.Is(err, ErrNotExist) {
		return err
	}
	// Load has checked that id is a plain file name.
	if rerr := os.RemoveAll(filepath.Join(root, id)); rerr != nil {
		return errors.Join(err, rerr)
	}
	if force {
		return nil
	}
	return err
}
