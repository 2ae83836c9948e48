package durable

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// stagingLock is the file by which containers/storage says that a process
// works in a staging directory: it holds a POSIX record lock on it.
const stagingLock = "staging.lock"

// These spare what a process has just made and is about to lock.
const (
	sweepUnlocked = time.Second
	sweepNoLock   = 3 * time.Second
)

// staging is what this process itself works in: a POSIX lock of its own looks
// free to it, and would be, once it had opened and closed the file.
var staging sync.Map

// Sweep removes the staging directories of processes that are gone. Directories
// in use, by whatever tool, are left alone.
func (w *Writer) Sweep() error {
	var errs []error
	if w.staging != "" {
		dirs, err := os.ReadDir(w.staging)
		if err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("looking for old staging directories: %w", err)
		}
		for _, d := range dirs {
			if strings.HasPrefix(d.Name(), replacedPrefix) {
				continue
			}
			errs = append(errs, sweepStaging(filepath.Join(w.staging, d.Name())))
		}
	}
	temps, _ := filepath.Glob(filepath.Join(w.layerDir, tarSplitTemp))
	for _, t := range temps {
		if old(t, 24*time.Hour) {
			errs = append(errs, os.Remove(t))
		}
	}
	return errors.Join(errs...)
}

func sweepStaging(dir string) error {
	if _, ours := staging.Load(dir); ours || !old(dir, sweepUnlocked) {
		return nil
	}
	// Never create the lock file here: between mkdir and lock the owner would
	// find it taken.
	f, err := os.OpenFile(filepath.Join(dir, stagingLock), os.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case err == nil:
		defer f.Close()
		lk := unix.Flock_t{Type: unix.F_WRLCK, Whence: int16(io.SeekStart)}
		if err := unix.FcntlFlock(f.Fd(), unix.F_GETLK, &lk); err != nil {
			return fmt.Errorf("looking at the lock of %s: %w", dir, err)
		}
		if lk.Type != unix.F_UNLCK {
			return nil // its process lives
		}
	case !os.IsNotExist(err):
		return fmt.Errorf("looking at the lock of %s: %w", dir, err)
	case !old(dir, sweepNoLock):
		return nil
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("removing an old staging directory: %w", err)
	}
	return nil
}

func old(path string, age time.Duration) bool {
	st, err := os.Lstat(path)
	return err == nil && time.Since(st.ModTime()) > age
}
