package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.podman.io/storage"
	"golang.org/x/sys/unix"
)

// leftovers are what processes that a power cut or a kill ended may have left
// below the root, and nobody ever looks at again: folders in which the overlay
// driver tries out the filesystem, layers on their way in, records on theirs.
var leftovers = []string{
	"overlay/compat*", "overlay/metacopy-check*", "overlay/opaque-bug-check*", "overlay/volatile-check*",
	"overlay/staging/*",
	"*-layers/.tmp-*", "*-images/.tmp-*", "*-containers/.tmp-*",
}

// stagingLock is what containers/storage locks in a folder below
// overlay/staging as long as somebody works there.
const stagingLock = "staging.lock"

// openAfterSweep opens containers/storage. The first to do so after a reboot
// removes the leftovers before, and after it the layers without a record (the
// records of --rm containers' layers do not survive a reboot, the layers do)
// and those without a container. All others wait for it, so nobody is at work there.
func (s *Store) openAfterSweep() (storage.Store, error) {
	mark, boot := filepath.Join(s.o.RunRoot, "swept"), bootID()
	isSwept := func() bool {
		raw, err := os.ReadFile(mark)
		return err == nil && string(raw) == boot
	}
	if isSwept() {
		return s.openLayers()
	}
	lock, err := os.OpenFile(filepath.Join(s.o.RunRoot, "swept.lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the lock of the storage's first use: %w", err)
	}
	defer lock.Close()
	for {
		if err = unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("locking %s: %w", lock.Name(), err)
	}
	if isSwept() {
		return s.openLayers()
	}
	// What cannot be removed is no reason not to work.
	errs := []error{s.sweepLeftovers()}
	l, err := s.openLayers()
	if err != nil {
		return nil, err
	}
	errs = append(errs, l.GarbageCollect(), s.sweepBareLayers(l), s.sweepLinks())
	if err := errors.Join(errs...); err != nil {
		s.o.Warn("removing what an earlier boot left in the storage: " + err.Error())
	}
	s.KeepReserve()
	if err := os.WriteFile(mark, []byte(boot), 0o600); err != nil {
		s.o.Warn("noting that the storage was tidied: " + err.Error())
	}
	return l, nil
}

func (s *Store) sweepLeftovers() error {
	errs := []error{s.sweepVolatile(), s.refillLinks()}
	for _, pattern := range leftovers {
		found, err := filepath.Glob(filepath.Join(s.o.Root, pattern))
		if err != nil {
			return err
		}
		for _, path := range found {
			if strings.HasPrefix(pattern, "overlay/staging") && isLocked(filepath.Join(path, stagingLock)) {
				continue // another tool's
			}
			_ = unix.Unmount(filepath.Join(path, "merged"), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
			errs = append(errs, os.RemoveAll(path))
		}
	}
	return errors.Join(errs...)
}

// sweepVolatile removes the records of --rm containers and their layers where a
// power cut made them unreadable: they are written without a sync, and
// containers/storage opens nothing at all with such a file. What they named
// goes with GarbageCollect.
func (s *Store) sweepVolatile() error {
	var errs []error
	for _, pattern := range []string{"*-layers/volatile-layers.json", "*-containers/volatile-containers.json"} {
		found, err := filepath.Glob(filepath.Join(s.o.Root, pattern))
		if err != nil {
			return err
		}
		for _, path := range found {
			raw, err := os.ReadFile(path)
			if err == nil && !json.Valid(raw) {
				err = os.Remove(path)
			}
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// sweepBareLayers removes the layers that were made for containers (a build's,
// too) which were not made any more, or whose containers alone were removed:
// layers with no digest, on which nothing is built and which nobody has.
func (s *Store) sweepBareLayers(l storage.Store) error {
	all, err := l.Layers()
	if err != nil {
		return err
	}
	bare := slices.DeleteFunc(slices.Clone(all), func(l storage.Layer) bool {
		return l.UncompressedDigest != "" || l.CompressedDigest != "" || len(l.Names) > 0
	})
	if len(bare) == 0 {
		return nil
	}
	used, err := s.usedLayers(l)
	if err != nil {
		return err
	}
	for _, l := range all {
		used[l.Parent] = true
	}
	var errs []error
	for _, b := range bare {
		if !used[b.ID] {
			errs = append(errs, l.DeleteLayer(b.ID))
		}
	}
	return errors.Join(errs...)
}

// usedLayers are those that images, containers and containers' records name.
func (s *Store) usedLayers(l storage.Store) (map[string]bool, error) {
	used := map[string]bool{}
	images, err := l.Images()
	if err != nil {
		return nil, err
	}
	for _, i := range images {
		used[i.TopLayer] = true
		for _, m := range i.MappedTopLayers {
			used[m] = true
		}
	}
	containers, err := l.Containers()
	if err != nil {
		return nil, err
	}
	for _, c := range containers {
		used[c.LayerID] = true
	}
	err = s.View(context.Background(), func(t *Tx) error {
		return t.Each(BucketContainers, func(id string, _ []byte) error { used[id] = true; return nil })
	})
	return used, err
}

// refillLinks writes the files with a layer's short name again that a power cut
// emptied, which a --rm container's may be: containers/storage would remove the
// folder of all short names with such a layer.
func (s *Store) refillLinks() error {
	files, err := filepath.Glob(filepath.Join(s.o.Root, "overlay", "*", "link"))
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range files {
		if st, err := os.Lstat(f); err != nil || st.Size() > 0 {
			continue
		}
		name, err := s.shortName(filepath.Base(filepath.Dir(f)))
		if err == nil && name == "" {
			err = os.Remove(f)
		} else if err == nil {
			err = os.WriteFile(f, []byte(name), 0o644)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// shortName finds a layer's short name by where it leads; "" is none.
func (s *Store) shortName(layer string) (string, error) {
	links, err := filepath.Glob(filepath.Join(s.o.Root, "overlay", "l", "*"))
	if err != nil {
		return "", err
	}
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil && to == filepath.Join("..", layer, "diff") {
			return filepath.Base(l), nil
		}
	}
	return "", nil
}

// sweepLinks removes the short names of layers that are not there.
func (s *Store) sweepLinks() error {
	links, err := filepath.Glob(filepath.Join(s.o.Root, "overlay", "l", "*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range links {
		if _, err := os.Stat(l); errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, os.Remove(l))
		}
	}
	return errors.Join(errs...)
}

// isLocked tells whether a process has a record lock on a file.
func isLocked(path string) bool {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	lk := unix.Flock_t{Type: unix.F_WRLCK, Whence: int16(io.SeekStart)}
	return unix.FcntlFlock(f.Fd(), unix.F_GETLK, &lk) == nil && lk.Type != unix.F_UNLCK
}

// bootID names this boot of the machine.
func bootID() string {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(raw))
}
