package store

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"go.podman.io/storage"
	graphdriver "go.podman.io/storage/drivers"
	_ "go.podman.io/storage/drivers/overlay" // the drivers that an engine on a device needs
	_ "go.podman.io/storage/drivers/vfs"
)

// ErrDriver is what Layers fails with when no graph driver works on the
// filesystem of the storage root.
var ErrDriver = errors.New("no storage driver works here")

// Layers opens containers/storage, once. Without an explicit driver it takes
// the one that the root was made with, else native overlay, else overlay
// through fuse-overlayfs, else vfs with a warning.
func (s *Store) Layers() (storage.Store, error) {
	s.once.Do(func() { s.layers, s.err = s.openAfterSweep() })
	return s.layers, s.err
}

func (s *Store) openLayers() (storage.Store, error) {
	if s.o.Driver != "" {
		l, err := s.openDriver(s.o.Driver, s.o.DriverOptions)
		if err != nil {
			return nil, s.driverError(s.o.Driver, err)
		}
		return l, nil
	}
	for _, d := range []string{"overlay", "vfs"} {
		if _, err := os.Stat(filepath.Join(s.o.Root, d+"-layers")); err == nil {
			return s.openExisting(d)
		}
	}
	l, overlayErr := s.openOverlay()
	if overlayErr == nil {
		return l, nil
	}
	if !unsupported(overlayErr) {
		return nil, s.driverError("overlay", overlayErr)
	}
	l, err := s.openDriver("vfs", nil)
	if err != nil {
		return nil, s.driverError("overlay and vfs", errors.Join(overlayErr, err))
	}
	s.o.Warn(fmt.Sprintf("overlay does not work on %s (%v): using vfs, which copies every layer whole; install fuse-overlayfs, or put --root on ext4, xfs or btrfs", s.o.Root, overlayErr))
	return l, nil
}

func (s *Store) openExisting(driver string) (storage.Store, error) {
	var l storage.Store
	var err error
	if driver == "overlay" {
		l, err = s.openOverlay()
	} else {
		l, err = s.openDriver(driver, s.o.DriverOptions)
	}
	if err != nil {
		return nil, s.driverError(driver, err)
	}
	return l, nil
}

// openOverlay tries the kernel's overlay first and fuse-overlayfs where the
// kernel cannot.
func (s *Store) openOverlay() (storage.Store, error) {
	l, err := s.openDriver("overlay", s.o.DriverOptions)
	if err == nil || !unsupported(err) || slices.ContainsFunc(s.o.DriverOptions, isMountProgram) {
		return l, err
	}
	fuse, lookErr := exec.LookPath("fuse-overlayfs")
	if lookErr != nil {
		return nil, err
	}
	return s.openDriver("overlay", append(slices.Clone(s.o.DriverOptions), "overlay.mount_program="+fuse))
}

func isMountProgram(opt string) bool { return strings.Contains(opt, "mount_program=") }

func unsupported(err error) bool {
	return errors.Is(err, graphdriver.ErrNotSupported) || errors.Is(err, graphdriver.ErrPrerequisites) ||
		errors.Is(err, graphdriver.ErrIncompatibleFS)
}

func (s *Store) openDriver(name string, opts []string) (storage.Store, error) {
	if name == "overlay" {
		// The driver would bind its folder over itself on the host. Containers are
		// mounted in namespaces of their own, where that folder is private already.
		opts = append(slices.Clone(opts), "overlay.skip_mount_home=true")
	}
	return storage.GetStore(storage.StoreOptions{
		RunRoot:            s.o.RunRoot,
		GraphRoot:          s.o.Root,
		GraphDriverName:    name,
		GraphDriverOptions: opts,
	})
}

func (s *Store) driverError(driver string, err error) error {
	return fmt.Errorf("opening the %s storage at %s: %w: %w", driver, s.o.Root, ErrDriver, err)
}
