package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/moby/sys/signal"
	"golang.org/x/sys/unix"

	"github.com/balena-os/balena/pkg/monitor"
	"github.com/balena-os/balena/pkg/store"
)

// DefaultStopTimeout is how long Stop waits before it kills.
const DefaultStopTimeout = 10 * time.Second

// Stop asks the container to end (its stop signal) and kills it when it has
// not after timeout; nil takes the container's own or the default, a negative
// one waits for ever. A container that does not run stays as it is. Its restart
// policy does not start it again.
func (e *Engine) Stop(ctx context.Context, ref string, timeout *time.Duration) error {
	o, err := e.find(ctx, ref)
	if err != nil {
		return err
	}
	if err := e.markStopped(ctx, o); err != nil {
		return err
	}
	if !o.Running() {
		return e.monitorGone(ctx, o.ID)
	}
	sig, err := stopSignal(&o.Config)
	if err != nil {
		return err
	}
	wait := DefaultStopTimeout
	switch {
	case timeout != nil:
		wait = *timeout
	case o.Config.StopTimeout != nil:
		wait = time.Duration(*o.Config.StopTimeout) * time.Second
	}
	if wait != 0 {
		if err := e.signal(ctx, o, sig); err != nil {
			return err
		}
		if o.State.Status == store.StatusPaused {
			// A frozen process would not hear the signal.
			if err := e.Unpause(ctx, o.ID); err != nil {
				return err
			}
		}
		ended, err := o.waitExit(ctx, wait)
		if err != nil {
			return err
		}
		if ended {
			return e.monitorGone(ctx, o.ID)
		}
	}
	if err := e.kill(ctx, o); err != nil {
		return err
	}
	return e.monitorGone(ctx, o.ID)
}

// kill kills the container, and waits until its first process is gone.
func (e *Engine) kill(ctx context.Context, o *Observed) error {
	if err := e.signal(ctx, o, unix.SIGKILL); err != nil {
		return err
	}
	if o.State.Status == store.StatusPaused {
		if err := e.Unpause(ctx, o.ID); err != nil && !errors.Is(err, ErrNotPaused) && !errors.Is(err, ErrNotRunning) {
			return err
		}
	}
	ended, err := o.waitExit(ctx, 30*time.Second)
	if err != nil {
		return err
	}
	if !ended {
		return fmt.Errorf("killing container %s: process %d does not end (it may wait for a device or a network filesystem)", short(o.ID), o.Pid)
	}
	return nil
}

// Kill sends a signal ("KILL", "SIGHUP", "9") to the container's first
// process. ErrNotRunning.
func (e *Engine) Kill(ctx context.Context, ref, name string) error {
	sig, err := signal.ParseSignal(name)
	if err != nil {
		return fmt.Errorf("%w: invalid signal: %s", ErrOptions, name)
	}
	o, err := e.find(ctx, ref)
	if err != nil {
		return err
	}
	if !o.Running() {
		return fmt.Errorf("killing container %s: %w", ref, ErrNotRunning)
	}
	own, err := stopSignal(&o.Config)
	if err != nil {
		return err
	}
	if sig != unix.SIGKILL && sig != own {
		return e.signal(ctx, o, sig)
	}
	// Docker takes these two as a stop: no restart after them.
	if err := e.markStopped(ctx, o); err != nil {
		return err
	}
	if sig == unix.SIGKILL {
		if err := e.kill(ctx, o); err != nil {
			return err
		}
		return e.monitorGone(ctx, o.ID)
	}
	return e.signal(ctx, o, sig)
}

// markStopped records that a person stopped it, so that no policy starts it
// again; a container without a policy needs no such note.
func (e *Engine) markStopped(ctx context.Context, o *Observed) error {
	if p := o.Config.Restart.Name; p == "" || p == "no" {
		return nil
	}
	err := e.Store.Update(ctx, func(tx *store.Tx) error {
		return tx.UpdateContainer(o.ID, func(c *store.Container) error {
			c.State.Stopped = true
			return nil
		})
	})
	if err != nil || !o.run.MonitorAlive {
		return err
	}
	if err := monitor.StopRestarting(ctx, e.Store.BundleDir(o.ID)); err != nil && !errors.Is(err, monitor.ErrNotRunning) {
		return err
	}
	return nil
}

func stopSignal(c *store.Config) (unix.Signal, error) {
	if c.StopSignal == "" {
		return unix.SIGTERM, nil
	}
	s, err := signal.ParseSignal(c.StopSignal)
	if err != nil {
		return 0, fmt.Errorf("%w: stop signal %q: %w", ErrOptions, c.StopSignal, err)
	}
	return s, nil
}

// signal reaches the container's first process through a pidfd that was
// checked against its start time, so that it never hits a stranger.
func (e *Engine) signal(_ context.Context, o *Observed, sig unix.Signal) error {
	fd, err := o.pidfd()
	if errors.Is(err, unix.ESRCH) {
		return nil // it ended by itself
	} else if err != nil {
		return fmt.Errorf("signalling container %s: %w", short(o.ID), err)
	}
	defer unix.Close(fd)
	o.executed()
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("sending %v to container %s: %w", sig, short(o.ID), err)
	}
	return nil
}

// executed waits until the first process has executed its program, some
// microseconds after the start. Until then it is libcontainer's init, which most
// signals end with exit code 2. A program may have that name, too: it does not
// wait for long.
func (o *Observed) executed() {
	const initName = "runc:[2:INIT]\n"
	for range 100 {
		if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", o.Pid)); err != nil || string(name) != initName {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func (o *Observed) pidfd() (int, error) {
	fd, err := unix.PidfdOpen(o.Pid, 0)
	if err != nil {
		return -1, err
	}
	if st, err := monitor.ReadState(o.dir); err != nil || !st.Alive || st.Run.Pid != o.Pid {
		unix.Close(fd)
		return -1, unix.ESRCH
	}
	return fd, nil
}

// waitExit waits until the first process is gone; false after the time.
func (o *Observed) waitExit(ctx context.Context, wait time.Duration) (bool, error) {
	fd, err := o.pidfd()
	if errors.Is(err, unix.ESRCH) {
		return true, nil
	} else if err != nil {
		return false, fmt.Errorf("waiting for container %s: %w", short(o.ID), err)
	}
	defer unix.Close(fd)
	deadline := time.Now().Add(wait)
	for {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		left := 100 * time.Millisecond // so that ctx is looked at
		if wait >= 0 {
			left = min(left, time.Until(deadline))
			if left < 0 {
				return false, nil
			}
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return false, fmt.Errorf("waiting for container %s: %w", short(o.ID), err)
		}
		if n > 0 {
			return true, nil
		}
	}
}

// monitorGone waits until the container's monitor has written down its end and
// cleaned up, and does that work itself where the monitor was killed.
func (e *Engine) monitorGone(ctx context.Context, id string) error {
	if err := monitor.WaitGone(ctx, e.Store.BundleDir(id)); err != nil {
		return err
	}
	return e.settleLocked(ctx, id)
}

// settleLocked is settle for a container whose lock the caller does not hold.
func (e *Engine) settleLocked(ctx context.Context, id string) error {
	release, err := e.lock(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	c, err := e.Find(ctx, id)
	if errors.Is(err, store.ErrNoContainer) {
		return removeIfThere(e.lockPath(id)) // made by the lock taken here
	} else if err != nil {
		return err
	}
	return e.settle(ctx, c)
}

// settle brings what is written down in line with what is, for a container
// whose processes and monitor are gone: the end that nobody recorded, the
// runtime's state, the network. The caller holds the container's lock.
func (e *Engine) settle(ctx context.Context, c *store.Container) error {
	recorded := c.State.Status
	o, err := e.observe(c, func(string) bool { return false }) // the lock is the caller's
	if err != nil {
		return err
	}
	if o.Running() || o.Monitor != 0 || recorded != store.StatusRunning {
		return nil
	}
	if err := e.clean(ctx, o.ID); err != nil {
		return err
	}
	if o.Config.AutoRemove {
		return e.remove(ctx, o.Container, true)
	}
	return e.Store.Update(ctx, func(tx *store.Tx) error {
		return tx.UpdateContainer(o.ID, func(c *store.Container) error {
			stopped := c.State.Stopped
			c.State = o.State
			c.State.Stopped = stopped
			return nil
		})
	})
}

// Wait returns the container's exit code once it does not run.
func (e *Engine) Wait(ctx context.Context, ref string) (int, error) {
	o, err := e.find(ctx, ref)
	if err != nil {
		return 0, err
	}
	if o.Monitor != 0 {
		exit, err := monitor.Wait(ctx, e.Store.BundleDir(o.ID))
		if err == nil {
			return exit.Code, nil
		}
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		// The monitor went away meanwhile: what follows finds out why.
	}
	for o.Running() {
		if _, err := o.waitExit(ctx, -1); err != nil {
			return 0, err
		}
		if o, err = e.find(ctx, o.ID); err != nil {
			return 0, err
		}
	}
	return o.State.ExitCode, nil
}

// Pause freezes the container's processes. ErrNotRunning, ErrPaused.
func (e *Engine) Pause(ctx context.Context, ref string) error {
	o, err := e.find(ctx, ref)
	if err != nil {
		return err
	}
	switch o.State.Status {
	case store.StatusRunning:
	case store.StatusPaused:
		return fmt.Errorf("pausing container %s: %w already", ref, ErrPaused)
	default:
		return fmt.Errorf("pausing container %s: %w", ref, ErrNotRunning)
	}
	if err := e.freeze(ctx, o.ID); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(e.Store.BundleDir(o.ID), pausedFile), nil, 0o600)
}

// Unpause lets them go on. ErrNotPaused.
func (e *Engine) Unpause(ctx context.Context, ref string) error {
	o, err := e.find(ctx, ref)
	if err != nil {
		return err
	}
	if o.State.Status != store.StatusPaused {
		return fmt.Errorf("unpausing container %s: %w", ref, ErrNotPaused)
	}
	if err := e.thaw(ctx, o.ID); err != nil {
		return err
	}
	return removeIfThere(filepath.Join(e.Store.BundleDir(o.ID), pausedFile)) // it may be ending
}

// Restart stops the container, where it runs, and starts it.
func (e *Engine) Restart(ctx context.Context, ref string, timeout *time.Duration) error {
	if err := e.Stop(ctx, ref, timeout); err != nil {
		return err
	}
	return e.Start(ctx, ref, StartOptions{})
}
