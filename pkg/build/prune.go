package build

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/balena-os/balena/pkg/pull"
	"github.com/balena-os/balena/pkg/store"
)

// ErrBusy is for what has to wait for the builds at work.
var ErrBusy = errors.New("a build is at work")

// Cache is what builds keep for the next ones.
type Cache struct {
	Mounts int   // of RUN --mount=type=cache
	Size   int64 // bytes in their files
}

// MountCache measures what RUN --mount=type=cache keeps.
func MountCache(st *store.Store) (Cache, error) {
	var c Cache
	dirs, err := mountCaches(st)
	for _, d := range dirs {
		n, derr := dirSize(d)
		c.Mounts++
		c.Size += n
		err = errors.Join(err, derr)
	}
	return c, err
}

// mountCaches are the folders of ROOT/build/buildah-cache-UID, each that of one
// cache.
func mountCaches(st *store.Store) ([]string, error) {
	users, err := os.ReadDir(roomDir(st))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var dirs []string
	for _, u := range users {
		if !strings.HasPrefix(u.Name(), cachePrefix) {
			continue
		}
		parent := filepath.Join(roomDir(st), u.Name())
		entries, rerr := os.ReadDir(parent)
		err = errors.Join(err, rerr)
		for _, e := range entries {
			if e.IsDir() && e.Name() != "buildah-lockfiles" {
				dirs = append(dirs, filepath.Join(parent, e.Name()))
			}
		}
	}
	return dirs, err
}

func dirSize(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.Type().IsRegular() {
			if st, err := e.Info(); err == nil {
				n += st.Size()
			}
		}
		return nil
	})
	return n, err
}

// Prune empties the build cache: steps that no image is built on (with All,
// every step), the oldest first, and what RUN --mount=type=cache keeps, unless
// enough of the steps may stay or filters ask for some of them. What was removed
// before an error is returned with it. ErrBusy, pull.ErrBadFilter.
func Prune(ctx context.Context, st *store.Store, o pull.StepOptions) (pull.Pruned, error) {
	if err := os.MkdirAll(roomDir(st), 0o711); err != nil {
		return pull.Pruned{}, err
	}
	f, err := os.OpenFile(filepath.Join(roomDir(st), "lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return pull.Pruned{}, err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return pull.Pruned{}, fmt.Errorf("%w: try again when it has ended", ErrBusy)
	}
	dirs, err := mountCaches(st)
	if err != nil {
		return pull.Pruned{}, err
	}
	c, err := MountCache(st)
	if err != nil {
		return pull.Pruned{}, err
	}
	mounts := len(o.Filters) == 0
	if mounts && o.Keep > 0 {
		u, err := pull.DiskUsage(ctx, st)
		if err != nil {
			return pull.Pruned{}, err
		}
		// The steps go first; with what is left of the room the mounts stay.
		mounts = c.Size > o.Keep
		if !mounts && u.StepSize+c.Size > o.Keep {
			o.Keep = max(o.Keep-c.Size, 1)
		}
	}
	p, err := pull.PruneSteps(ctx, st, o)
	if mounts {
		for _, d := range dirs {
			err = errors.Join(err, os.RemoveAll(d))
		}
		p.Reclaimed += c.Size
	}
	return p, err
}
