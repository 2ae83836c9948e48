package pull

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.podman.io/storage"

	"github.com/balena-os/balena/pkg/durable"
	"github.com/balena-os/balena/pkg/store"
)

// Sweep removes what failed and killed pulls left behind: staging directories,
// and complete layers that no image uses. While another pull is at work it
// leaves the layers alone. It returns the IDs of the removed layers.
func Sweep(ctx context.Context, st *store.Store) ([]string, error) {
	layers, err := st.Layers()
	if err != nil {
		return nil, err
	}
	w, err := durable.NewWriter(layers)
	if err != nil {
		return nil, err
	}
	if err := w.Sweep(); err != nil {
		return nil, err
	}
	return sweep(ctx, st, layers, w, 0)
}

// sweep removes orphaned layers older than age. Only layers that a pull made
// are looked at: a build keeps layers without an image as its cache.
func sweep(ctx context.Context, st *store.Store, layers storage.Store, w *durable.Writer, age time.Duration) ([]string, error) {
	defer st.MakeRoom()()
	unlock, idle, err := w.Alone()
	if err != nil || !idle {
		return nil, err
	}
	defer unlock()
	if err := forgetRecords(ctx, st); err != nil {
		return nil, err
	}
	var removed []string
	if removed, err = sweepHalfMade(layers); err != nil {
		return removed, err
	}
	for {
		orphans, err := findOrphans(layers, age)
		if err != nil || len(orphans) == 0 {
			return removed, err
		}
		for _, id := range orphans {
			if err := ctx.Err(); err != nil {
				return removed, err
			}
			err := layers.DeleteLayer(id)
			if errors.Is(err, storage.ErrLayerUnknown) {
				continue
			}
			if err != nil {
				return removed, fmt.Errorf("removing layer %s: %w", id, err)
			}
			removed = append(removed, id)
		}
	}
}

// SweepHalfMade removes the images that a power cut or a kill left half made,
// unless a pull or a build is at work.
func SweepHalfMade(layers storage.Store, w *durable.Writer) error {
	unlock, idle, err := w.Alone()
	if err != nil || !idle {
		return err
	}
	defer unlock()
	_, err = sweepHalfMade(layers)
	return err
}

// sweepHalfMade removes the images whose making was cut short, with the layers
// that only they have.
func sweepHalfMade(layers storage.Store) (removed []string, err error) {
	images, err := layers.Images()
	if err != nil {
		return nil, fmt.Errorf("listing images: %w", err)
	}
	for i := range images {
		if !HalfMade(&images[i]) {
			continue
		}
		gone, err := layers.DeleteImage(images[i].ID, true)
		if err != nil && !errors.Is(err, storage.ErrImageUnknown) && !errors.Is(err, storage.ErrImageUsedByContainer) {
			return removed, fmt.Errorf("removing the half-made image %s: %w", shortID(images[i].ID), err)
		}
		removed = append(removed, gone...)
	}
	return removed, nil
}

// findOrphans lists the layers of pulls on which nothing is built. Their
// parents are orphans in their turn when they are gone.
func findOrphans(layers storage.Store, age time.Duration) ([]string, error) {
	all, err := layers.Layers()
	if err != nil {
		return nil, fmt.Errorf("listing layers: %w", err)
	}
	used := map[string]bool{}
	pulled := false
	for _, l := range all {
		used[l.Parent] = true
		pulled = pulled || durable.IsDurable(l.Flags)
	}
	if !pulled {
		return nil, nil
	}
	images, err := layers.Images()
	if err != nil {
		return nil, fmt.Errorf("listing images: %w", err)
	}
	for _, i := range images {
		used[i.TopLayer] = true
		for _, m := range i.MappedTopLayers {
			used[m] = true
		}
	}
	containers, err := layers.Containers()
	if err != nil {
		return nil, fmt.Errorf("listing containers: %w", err)
	}
	for _, c := range containers {
		used[c.LayerID] = true
	}
	var orphans []string
	for _, l := range all {
		if !used[l.ID] && durable.IsDurable(l.Flags) && time.Since(l.Created) >= age {
			orphans = append(orphans, l.ID)
		}
	}
	return orphans, nil
}
