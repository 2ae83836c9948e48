package durable

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	graphdriver "go.podman.io/storage/drivers"
	"golang.org/x/sys/unix"
)

// Pin keeps an image from being removed while a pull reads its files. Any
// number of pulls may pin it; the pins end with their processes, or when
// release is called. Whoever has pinned an image should look whether it is
// still there.
func (w *Writer) Pin(ctx context.Context, image string) (release func(), err error) {
	path := w.pinPath(image)
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return nil, fmt.Errorf("opening a pull lock: %w", err)
		}
		if err := waitFlock(ctx, f, unix.LOCK_SH); err != nil {
			f.Close()
			return nil, err
		}
		if same(f, path) {
			return func() {
				// The last one removes the file.
				if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil && same(f, path) {
					os.Remove(path)
				}
				f.Close()
			}, nil
		}
		f.Close()
	}
}

// Unpinned holds off all pins of an image, so that it can be removed; false if
// a pull has pinned it.
func (w *Writer) Unpinned(image string) (release func(), ok bool, err error) {
	path := w.pinPath(image)
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return nil, false, fmt.Errorf("opening a pull lock: %w", err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, false, nil
			}
			return nil, false, fmt.Errorf("locking %s: %w", path, err)
		}
		if same(f, path) {
			return func() { os.Remove(path); f.Close() }, true, nil
		}
		f.Close()
	}
}

func (w *Writer) pinPath(image string) string {
	return filepath.Join(w.lockDir, "base-"+image+".lock")
}

// OpenRoot opens the root of an image, merged through its layers, whose topmost
// is given. It lasts as long as the descriptor: the mount is made in a mount
// namespace of its own and taken out of that again while the descriptor holds
// it, so that nothing is left of it whatever happens to the process.
func (w *Writer) OpenRoot(ctx context.Context, layer string) (*os.File, error) {
	driver, err := w.st.GraphDriver()
	if err != nil {
		return nil, fmt.Errorf("opening the storage driver: %w", err)
	}
	// The driver counts its mounts without a look at namespaces, and puts a new
	// folder in the place of the one it unmounts: one at a time.
	unlock, err := w.lock(ctx, "root-"+layer)
	if err != nil {
		return nil, err
	}
	defer unlock()
	var root *os.File
	err = onOwnThread(func() error {
		root, err = mountRoot(driver, filepath.Join(w.st.GraphRoot(), driver.String()), layer)
		return err
	})
	return root, err
}

func mountRoot(driver graphdriver.Driver, home, layer string) (*os.File, error) {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return nil, fmt.Errorf("making a mount namespace: %w", err)
	}
	if err := unix.Mount(home, home, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return nil, fmt.Errorf("binding %s: %w", home, err)
	}
	if err := unix.Mount("", home, "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return nil, fmt.Errorf("making %s private: %w", home, err)
	}
	path, err := driver.Get(layer, graphdriver.MountOpts{Options: []string{"ro"}})
	if err != nil {
		return nil, fmt.Errorf("mounting layer %s: %w", layer, err)
	}
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if perr := driver.Put(layer); err == nil && perr != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("unmounting layer %s: %w", layer, perr)
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}
