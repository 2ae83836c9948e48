package pull

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/balena-os/balena/pkg/store"
)

// PruneOptions choose the images that are not needed. The zero value is all
// that have no name.
type PruneOptions struct {
	All     bool     // those with names too
	Filters []string // until=…, label=…, label!=…, dangling=false (All), reference=…
}

// Pruned is what Prune removed.
type Pruned struct {
	Removed   []Removed
	Reclaimed int64 // bytes of the layers, uncompressed
}

// Prune removes images that no container uses and no pull starts from by a
// delta, and what failed pulls left behind. Images on which others were built stay. What was removed before an error is returned with it.
func Prune(ctx context.Context, st *store.Store, o PruneOptions) (Pruned, error) {
	defer st.MakeRoom()()
	var p Pruned
	r, err := newRemover(ctx, st, RemoveOptions{Force: true})
	if err != nil {
		return p, err
	}
	sizes := make(map[string]int64, len(r.set.layers))
	for id, l := range r.set.layers {
		sizes["sha256:"+id] = max(l.UncompressedSize, 0)
	}
	filters := slices.DeleteFunc(slices.Clone(o.Filters), func(f string) bool {
		if f == "dangling=false" || f == "dangling=0" {
			o.All = true
		}
		return f == "dangling=false" || f == "dangling=0"
	})
	keep, err := parseFilters(filters, r.set)
	if err != nil {
		return p, err
	}
	var victims []string
	for i := range r.set.images {
		img := &r.set.images[i]
		if len(r.users[img.ID]) > 0 || r.held[img.ID] || len(img.Names) > 0 && !o.All || len(img.Names) == 0 && r.set.isIntermediate(img) {
			continue
		}
		c := &candidate{layers: r.layers, set: r.set, Summary: *img}
		ok, err := c.passes(keep)
		if err != nil {
			return p, err
		}
		if ok {
			victims = append(victims, img.ID)
		}
	}
	var errs []error
	for _, id := range victims {
		if err := ctx.Err(); err != nil {
			errs = append(errs, err)
			break
		}
		img, _, err := r.set.find(id)
		if errors.Is(err, ErrNoImage) {
			continue // went with another
		}
		if err == nil {
			// Meanwhile a pull may have given it its name, or taken it.
			now, lerr := r.layers.Image(img.ID)
			if lerr != nil || len(img.Names) == 0 && len(now.Names) > 0 {
				continue
			}
			err = r.delete(img)
		}
		if err != nil && !errors.Is(err, ErrNoImage) && !errors.Is(err, errPinned) {
			errs = append(errs, fmt.Errorf("pruning image %s: %w", shortID(id), err))
		}
	}
	swept, err := Sweep(ctx, st)
	if err != nil {
		errs = append(errs, err)
	}
	for _, l := range swept {
		r.out = append(r.out, Removed{Deleted: "sha256:" + l})
	}
	p.Removed = r.out
	for _, rm := range p.Removed {
		p.Reclaimed += sizes[rm.Deleted]
	}
	if len(r.out) > 0 {
		errs = append(errs, syncImages(r.layers))
	}
	return p, errors.Join(errs...)
}
