package pull

import (
	"context"

	"github.com/balena-os/balena/pkg/store"
)

// ImageUsage is what an image takes of the disk, as bytes of its layers' tars.
type ImageUsage struct {
	Summary
	Containers int
	Shared     int64 // of Size: in layers that other images have, too
}

// Usage is what all images take of the disk; a layer counts once.
type Usage struct {
	Images      []ImageUsage
	Active      int   // images with containers
	Size        int64 // of all layers that pulls and builds made
	Reclaimable int64 // of those that no container's image has

	Steps    int   // images in the build cache, which are not among Images
	StepSize int64 // of the layers that only they have, which Size leaves out
}

// DiskUsage adds up the layers.
func DiskUsage(ctx context.Context, st *store.Store) (Usage, error) {
	var u Usage
	r, err := newRemover(ctx, st, RemoveOptions{})
	if err != nil {
		return u, err
	}
	images, needed := map[string]int{}, map[string]bool{}
	kept := r.kept()
	u.StepSize = r.stepSize(kept)
	u.Size, u.Reclaimable = -u.StepSize, -u.StepSize
	for _, img := range r.set.images {
		if r.set.isStep(&img) {
			u.Steps++
		}
		active := len(r.users[img.ID]) > 0 || r.held[img.ID]
		if active {
			u.Active++
		}
		for _, l := range r.set.chain(img.TopLayer) {
			images[l.ID]++
			needed[l.ID] = needed[l.ID] || active
		}
	}
	for id, l := range r.set.layers {
		if l.UncompressedDigest == "" {
			continue // a container's own
		}
		u.Size += max(l.UncompressedSize, 0)
		if !needed[id] {
			u.Reclaimable += max(l.UncompressedSize, 0)
		}
	}
	for _, img := range r.set.images {
		if r.set.isStep(&img) {
			continue
		}
		one := ImageUsage{Summary: img, Containers: len(r.users[img.ID])}
		for _, l := range r.set.chain(img.TopLayer) {
			if images[l.ID] > 1 {
				one.Shared += max(l.UncompressedSize, 0)
			}
		}
		u.Images = append(u.Images, one)
	}
	return u, nil
}
