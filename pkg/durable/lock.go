package durable

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Claim waits until no other pull, of this process or another, works on the
// layer with this ID. Whoever waited should look again whether it is there. The
// claim ends with the process, or when release is called.
//
// Pulls claim layers from the lowest up and commit them in that order, so no
// two can wait for each other.
func (w *Writer) Claim(ctx context.Context, id string) (release func(), err error) {
	return w.lock(ctx, "layer-"+id)
}

func (w *Writer) lock(ctx context.Context, name string) (release func(), err error) {
	path := filepath.Join(w.lockDir, name+".lock")
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return nil, fmt.Errorf("opening a pull lock: %w", err)
		}
		if err := waitFlock(ctx, f, unix.LOCK_EX); err != nil {
			f.Close()
			return nil, err
		}
		// Whoever held it may have removed the file in the end.
		if same(f, path) {
			return func() {
				os.Remove(path) // the folder holds what is locked now, no more
				f.Close()
			}, nil
		}
		f.Close()
	}
}

func waitFlock(ctx context.Context, f *os.File, how int) error {
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("locking %s: %w", f.Name(), err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

func same(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Lstat(path)
	return err == nil && os.SameFile(a, b)
}

// Active says that a pull is at work, so that no one takes its finished layers
// for leftovers. Any number of pulls are active side by side.
func (w *Writer) Active(ctx context.Context) (release func(), err error) {
	f, err := w.activeFile()
	if err != nil {
		return nil, err
	}
	if err := waitFlock(ctx, f, unix.LOCK_SH); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

// Alone holds off all pulls, if none is active now.
func (w *Writer) Alone() (release func(), ok bool, err error) {
	f, err := w.activeFile()
	if err != nil {
		return nil, false, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, false, nil
		}
		return nil, false, fmt.Errorf("locking %s: %w", f.Name(), err)
	}
	return func() { f.Close() }, true, nil
}

func (w *Writer) activeFile() (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(w.lockDir, "active.lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening a pull lock: %w", err)
	}
	return f, nil
}
