package pull

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"go.podman.io/storage"

	"github.com/balena-os/balena/pkg/store"
)

// FlagStep is what an image's record has that a build made. As long as such an
// image has no name it is a step in the build cache.
const FlagStep = "balena.build.step"

// StepOptions say which steps go.
type StepOptions struct {
	All     bool     // those that images with names are built on, too
	Filters []string // until=…, as those of images
	Keep    int64    // bytes that may stay: the oldest steps go until no more are left; 0: all go
}

// isStep tells whether an image is in the build cache only.
func (s *imageSet) isStep(img *Summary) bool {
	return len(img.Names) == 0 && slices.ContainsFunc(s.raw, func(i storage.Image) bool {
		step, _ := i.Flags[FlagStep].(bool)
		return step && i.ID == img.ID
	})
}

// kept lists the layers of all images that are no steps, or that a container
// or a build at work uses.
func (r *remover) kept() map[string]bool {
	kept := map[string]bool{}
	for i := range r.set.images {
		img := &r.set.images[i]
		if !r.set.isStep(img) || r.inUse(img) {
			for _, l := range r.set.chain(img.TopLayer) {
				kept[l.ID] = true
			}
		}
	}
	return kept
}

func (r *remover) inUse(img *Summary) bool { return len(r.users[img.ID]) > 0 || r.held[img.ID] }

// stepSize adds up the layers that only steps have.
func (r *remover) stepSize(kept map[string]bool) int64 {
	var n int64
	seen := map[string]bool{}
	for i := range r.set.images {
		img := &r.set.images[i]
		if !r.set.isStep(img) {
			continue
		}
		for _, l := range r.set.chain(img.TopLayer) {
			if !kept[l.ID] && !seen[l.ID] {
				n += max(l.UncompressedSize, 0)
			}
			seen[l.ID] = true
		}
	}
	return n
}

// PruneSteps removes steps from the build cache, what is built on others first,
// else the oldest first. What was removed before an error is returned with it.
func PruneSteps(ctx context.Context, st *store.Store, o StepOptions) (Pruned, error) {
	defer st.MakeRoom()()
	var p Pruned
	r, err := newRemover(ctx, st, RemoveOptions{NoPrune: true})
	if err != nil {
		return p, err
	}
	keep, err := parseFilters(o.Filters, r.set)
	if err != nil {
		return p, err
	}
	var errs []error
	for ctx.Err() == nil {
		kept := r.kept()
		before := r.stepSize(kept)
		if o.Keep > 0 && before <= o.Keep {
			break
		}
		img, err := r.oldestStep(kept, o.All, keep)
		if err != nil || img == nil {
			errs = append(errs, err)
			break
		}
		if err := r.delete(img); err != nil && !errors.Is(err, ErrNoImage) {
			errs = append(errs, fmt.Errorf("removing step %s: %w", shortID(img.ID), err))
			break
		}
		if r.set, err = readImages(r.layers); err != nil {
			errs = append(errs, err)
			break
		}
		p.Reclaimed += before - r.stepSize(r.kept())
	}
	p.Removed = r.out
	if len(r.out) > 0 {
		errs = append(errs, syncImages(r.layers))
	}
	return p, errors.Join(append(errs, ctx.Err())...)
}

// oldestStep finds the one that is to go next: of those that no other step is
// built on, the oldest.
func (r *remover) oldestStep(kept map[string]bool, all bool, keep filterSet) (*Summary, error) {
	under := map[string]bool{} // layers that a step has below its own
	for i := range r.set.images {
		if img := &r.set.images[i]; r.set.isStep(img) {
			for n, l := range r.set.chain(img.TopLayer) {
				if n > 0 {
					under[l.ID] = true
				}
			}
		}
	}
	var oldest *Summary
	for i := range r.set.images {
		img := &r.set.images[i]
		if !r.set.isStep(img) || r.inUse(img) || under[img.TopLayer] || kept[img.TopLayer] && !all {
			continue
		}
		c := &candidate{layers: r.layers, set: r.set, Summary: *img}
		if ok, err := c.passes(keep); err != nil {
			return nil, err
		} else if ok && (oldest == nil || newestFirst(*oldest, *img) < 0) {
			oldest = img
		}
	}
	return oldest, nil
}
