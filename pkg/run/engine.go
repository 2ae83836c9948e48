package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/balena-os/balena/pkg/store"
)

// Engine is what every verb about containers works with: the store and the
// choices that hold for all containers.
type Engine struct {
	Store         *store.Store
	Rootless      bool         // uid 0 of an unprivileged user's namespace
	Runtime       []string     // argv prefix of another OCI runtime; nil is our own
	SystemdCgroup bool         // cgroups are made by systemd
	Self          []string     // argv of this command line with its global flags, for the monitor's clean-up
	Warn          func(string) // what a person should know, though all goes on
}

// Errors about what a container's state does not allow.
var (
	ErrRunning    = errors.New("the container is running")
	ErrNotRunning = errors.New("the container is not running")
	ErrPaused     = errors.New("the container is paused")
	ErrNotPaused  = errors.New("the container is not paused")
)

// Find gives the record of the container that ref names (store.Tx.Container).
func (e *Engine) Find(ctx context.Context, ref string) (*store.Container, error) {
	var c *store.Container
	err := e.Store.View(ctx, func(tx *store.Tx) error {
		var err error
		c, err = tx.Container(ref)
		return err
	})
	return c, err
}

// lock takes the lock under which a container is started, removed or renamed.
// It waits for whoever has it: such work takes well below a second.
func (e *Engine) lock(ctx context.Context, id string) (release func(), err error) {
	return e.lockBy(id, func(f *os.File) error { return flock(ctx, f, unix.LOCK_EX) })
}

// tryLock is lock, but fails when somebody has it.
func (e *Engine) tryLock(id string) (release func(), err error) {
	return e.lockBy(id, func(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) })
}

func (e *Engine) lockBy(id string, take func(*os.File) error) (release func(), err error) {
	path := e.lockPath(id)
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, fmt.Errorf("locking container %s: %w", short(id), err)
	}
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, fmt.Errorf("locking container %s: %w", short(id), err)
		}
		if err := take(f); err != nil {
			f.Close()
			return nil, fmt.Errorf("locking container %s: %w", short(id), err)
		}
		// Removal unlinks the file: whoever then still waited has the lock of a
		// file that nobody else will find.
		if sameFile(f, path) {
			return func() { f.Close() }, nil
		}
		f.Close()
	}
}

func (e *Engine) lockPath(id string) string { return e.Store.BundleDir(id) + ".lock" }

// locked tells whether somebody works on the container under its lock.
func (e *Engine) locked(id string) bool {
	f, err := os.Open(e.lockPath(id))
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}

func sameFile(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}

// flock waits for a lock until ctx ends.
func flock(ctx context.Context, f *os.File, how int) error {
	err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
	if !errors.Is(err, unix.EWOULDBLOCK) {
		return err
	}
	done := make(chan error, 1)
	go func() {
		for {
			err := unix.Flock(int(f.Fd()), how)
			if !errors.Is(err, unix.EINTR) {
				done <- err
				return
			}
		}
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// short is the form of an ID that people read.
func short(id string) string { return id[:min(12, len(id))] }
