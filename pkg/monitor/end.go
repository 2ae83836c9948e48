package monitor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
	m.clients.finish(exit)
	m.exitCommand()
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
					Record(c, exit)
					return nil
				})
			})
		})
		if err == nil || errors.Is(err, store.ErrNoContainer) {
			return // removed meanwhile: nothing to record
		}
		m.problem("recording the exit code: %v", err)
		if errors.Is(err, store.ErrCorrupt) || errors.Is(err, store.ErrVersion) || time.Now().After(deadline) {
			return
		}
		time.Sleep(wait)
	}
}

// Record puts an end into a container's record.
func Record(c *store.Container, e Exit) {
	c.State.Status = store.StatusExited
	c.State.ExitCode = e.Code
	c.State.Finished = e.Time
	c.State.OOMKilled = e.OOMKilled
	c.State.Error = e.Error
	c.State.Restarts = e.Restarts
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
