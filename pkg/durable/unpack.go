package durable

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// inRoot runs f with root as the root directory: whatever links a hostile layer
// makes, no path that f uses leads out of it.
//
// containers/storage executes the whole binary again for this. Here it is an
// OS thread of its own: unshare(CLONE_FS) gives it a root, a working directory
// and a umask that the other threads do not share, and it ends with the call.
func inRoot(root string, f func() error) error {
	dir, err := os.Open(root)
	if err != nil {
		return err
	}
	defer dir.Close()
	return onOwnThread(func() error {
		if err := enterRoot(dir); err != nil {
			return fmt.Errorf("entering the staging directory: %w", err)
		}
		return f()
	})
}

func enterRoot(dir *os.File) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Fchdir(int(dir.Fd())); err != nil {
		return fmt.Errorf("fchdir: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("chroot: %w", err)
	}
	unix.Umask(0) // of this thread only, as it no longer shares it
	return nil
}

// onOwnThread runs f on a thread that ends with it. It is never the process's
// first thread: that one cannot end, and what it has for a root is what
// /proc/PID/root shows of the whole process.
func onOwnThread(f func() error) error {
	res := make(chan error, 1)
	var spawn func()
	spawn = func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			inner := make(chan struct{})
			go func() { defer close(inner); spawn() }() // another thread: this one is taken
			<-inner
			runtime.UnlockOSThread()
			return
		}
		res <- f() // and no UnlockOSThread: the runtime ends the thread
	}
	go spawn()
	return <-res
}
