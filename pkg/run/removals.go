package run

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/balena-os/balena/pkg/store"
)

// Folders are removed without a sync, which would cost more than all the rest
// of a removal. So a power cut may bring back a folder whose record is gone.
// The logs of a container that nobody knows can go; a volume that nobody knows
// cannot, since that is also what all volumes are after the database was lost.
// Therefore the names of the volumes that are being removed are kept in the
// database, in the transaction that forgets them, until their folders can no
// longer come back.

// removalSettles is how long a folder may still come back: filesystems commit
// on their own every 5 to 60 s.
const removalSettles = 2 * time.Minute

// noteRemovals records that the folders of volumes are about to go, and forgets
// those that are gone for good.
func (e *Engine) noteRemovals(tx *store.Tx, names []string) error {
	if len(names) == 0 {
		return nil
	}
	now := time.Now().UTC()
	var settled []string
	err := tx.Each(store.BucketRemovals, func(name string, _ []byte) error {
		var since time.Time
		if err := tx.Get(store.BucketRemovals, name, &since); err != nil {
			return err
		}
		_, err := os.Lstat(filepath.Dir(e.Store.VolumeDir(name)))
		if errors.Is(err, fs.ErrNotExist) && now.Sub(since) > removalSettles {
			settled = append(settled, name)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, name := range settled {
		if err := tx.Delete(store.BucketRemovals, name); err != nil {
			return err
		}
	}
	for _, name := range names {
		if err := tx.Put(store.BucketRemovals, name, now); err != nil {
			return err
		}
	}
	return nil
}

// sweepFolders removes, after a reboot, the folders that a power cut brought
// back or left behind.
func (e *Engine) sweepFolders(ctx context.Context) error {
	removals := map[string]bool{}
	known := map[string]bool{}
	// The folders first: one that is made meanwhile has its record before.
	dirs, err := os.ReadDir(filepath.Dir(e.Store.ContainerDir("x")))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err = e.Store.View(ctx, func(tx *store.Tx) error {
		err := tx.Each(store.BucketRemovals, func(name string, _ []byte) error {
			removals[name] = true
			return nil
		})
		return errors.Join(err, tx.Each(store.BucketContainers, func(id string, _ []byte) error {
			known[id] = true
			return nil
		}))
	})
	if err != nil {
		return err
	}
	var errs []error
	for _, d := range dirs {
		if !known[d.Name()] {
			errs = append(errs, os.RemoveAll(e.Store.ContainerDir(d.Name())))
		}
	}
	for name := range removals {
		errs = append(errs, os.RemoveAll(filepath.Dir(e.Store.VolumeDir(name))))
	}
	return errors.Join(errs...)
}
