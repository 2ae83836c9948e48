package monitor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/balena-os/balena/pkg/store"
)

// LockVar names the environment variable that tells an ExitCommand on which
// descriptor it holds the monitor's lock.
const LockVar = "BALENA_MONITOR_LOCK"

// recordFor bounds how long the monitor tries to record an end. What it could
// not record stays in exit.json for the next command that looks.
const recordFor = 2 * time.Minute

// recordFull bounds it on a full disk, where the reserve is used up too.
const recordFull = 2 * time.Second

// cleanFor bounds how long a client that promised to clean up may take.
const cleanFor = 30 * time.Second

// end makes the container's end known: first durably, then to the runtime, then
// to those who wait, and at last becomes the ExitCommand.
func (m *monitor) end(exit Exit) {
	if m.cfg.Exec != nil {
		// Its folder was made for this one process.
		if err := os.RemoveAll(m.cfg.RunDir); err != nil {
			m.problem("removing %s: %v", m.cfg.RunDir, err)
		}
		m.clients.finish(exit)
		return
	}
	if err := writeJSON(m.cfg.RunDir, exitFile, exit); err != nil {
		m.problem("writing %s: %v", exitFile, err)
	}
	m.record(exit)
	if len(m.cfg.ExitCommand) == 0 {
		m.deleteContainer() // else that does it, in its own process
	}
	m.log.close()
	for name := range m.cfg.Links {
		_ = os.Remove(filepath.Join(m.cfg.RunDir, name))
	}
	_ = os.Remove(filepath.Join(m.cfg.RunDir, runFile))
	_ = os.Remove(filepath.Join(m.cfg.RunDir, pidFile))
	_ = os.Remove(filepath.Join(m.cfg.RunDir, socketFile))
	for _, fd := range m.held() {
		_ = unix.Close(fd)
	}
	m.clients.finish(exit)
	if !m.clientCleans() {
		m.exitCommand()
		return
	}
	// Now, not when the kernel has taken this process to pieces: whoever waits
	// need not wait for that.
	m.lock.Close()
	for _, c := range m.clients.rest() {
		c.conn.Close()
	}
}

// held are the descriptors that are only kept open while the container lives.
func (m *monitor) held() []int {
	return append(slices.Clone(m.cfg.HoldFDs), slices.Collect(maps.Values(m.cfg.Links))...)
}

// clientCleans lets the first client do the ExitCommand's work, if it promised
// to: it is there with its storage open, which a new process would take longer
// to be than the work takes. False: it has not, or may not have, done it. One
// whose start failed waits for this process instead.
func (m *monitor) clientCleans() bool {
	if m.first == nil || !m.first.req.Cleans || !m.ran {
		return false
	}
	select {
	case ok := <-m.first.cleaned:
		return ok
	case <-m.first.left:
	case <-time.After(cleanFor):
		return false
	}
	select { // it may have left after its answer
	case ok := <-m.first.cleaned:
		return ok
	default:
		return false
	}
}

// store opens the engine's database for one call.
func (m *monitor) store(fn func(context.Context, *store.Store) error) error {
	st, err := store.Open(store.Options{Root: m.cfg.Store.Root, RunRoot: m.cfg.Store.RunRoot, TmpDir: m.cfg.Store.TmpDir})
	if err != nil {
		return err
	}
	defer st.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return fn(ctx, st)
}

// record writes the end into the container's record, and tries again while the
// database is busy or the disk full.
func (m *monitor) record(exit Exit) {
	if m.cfg.Store == nil || m.cfg.AutoRemove {
		return
	}
	deadline := time.Now().Add(recordFor)
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := m.store(func(ctx context.Context, st *store.Store) error {
			return st.Update(ctx, func(tx *store.Tx) error {
				return tx.UpdateContainer(m.cfg.ID, func(c *store.Container) error {
					Record(&c.State, exit)
					return nil
				})
			})
		})
		if err == nil || errors.Is(err, store.ErrNoContainer) {
			return // removed meanwhile: nothing to record
		}
		m.problem("recording the exit code: %v", err)
		if errors.Is(err, unix.ENOSPC) && time.Until(deadline) > recordFull {
			deadline = time.Now().Add(recordFull) // whoever waits may be the one to make room
		}
		if errors.Is(err, store.ErrCorrupt) || errors.Is(err, store.ErrVersion) || time.Now().After(deadline) {
			return
		}
		time.Sleep(wait)
	}
}

// Record puts an end into a container's state. One that never ran stays
// "created", as docker has it, with code and error.
func Record(s *store.State, e Exit) {
	s.Status, s.ExitCode, s.OOMKilled, s.Error = store.StatusExited, e.Code, e.OOMKilled, e.Error
	s.Restarts = e.Restarts
	if s.Finished = e.Time; e.Time.IsZero() {
		s.Finished = s.Started
	}
	if e.Failed && e.Restarts == 0 && !s.Ran {
		s.Status, s.Started, s.Finished = store.StatusCreated, time.Time{}, time.Time{}
	}
}

// exitCommand becomes the command that cleans up. The lock goes with it, and
// the connections of those who wait until it is done.
func (m *monitor) exitCommand() {
	argv := m.cfg.ExitCommand
	if len(argv) == 0 {
		return
	}
	path := m.cfg.ExitPath
	if path == "" {
		path = "/proc/self/exe"
	}
	keep := func(fd int) { _, _ = unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0) }
	if m.lock != nil {
		keep(int(m.lock.Fd()))
	}
	for _, c := range m.clients.rest() {
		if raw, err := c.conn.SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) { keep(int(fd)) })
		}
	}
	m.restoreOOM()
	env := append(os.Environ(), fmt.Sprintf("%s=%d", LockVar, m.lock.Fd()))
	m.problem("running %s: %v", path, unix.Exec(path, argv, env))
}
