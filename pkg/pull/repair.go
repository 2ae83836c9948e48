package pull

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/storage"

	"github.com/balena-os/balena/pkg/durable"
	"github.com/balena-os/balena/pkg/store"
)

// ErrNotRepaired is for damage that is still there.
var ErrNotRepaired = errors.New("not repaired")

// RepairOptions say how Repair goes about it.
type RepairOptions struct {
	RegistryOptions
	Progress func(Event)
	// RemoveContainer removes a container that uses an image which cannot be
	// fetched again. nil: such an image stays as it is.
	RemoveContainer func(ctx context.Context, id string) error
}

// Repaired is what became of one Damage.
type Repaired struct {
	Damage
	How string // what was done; "" with Err
	Err error
}

// Repair fetches what is damaged again, from the registries that the images'
// names say, by the digests that they have. What cannot be fetched it removes:
// the image with what only it has. A layer is replaced where it is, so that
// images and containers upon it stay.
func Repair(ctx context.Context, st *store.Store, found []Damage, o RepairOptions) ([]Repaired, error) {
	layers, err := st.Layers()
	if err != nil {
		return nil, err
	}
	var bad, images []string
	for _, d := range found {
		if d.Layer != "" {
			bad = append(bad, d.Layer)
		}
		for _, id := range d.Images {
			if !slices.Contains(images, id) {
				images = append(images, id)
			}
		}
	}
	failed := map[string]error{}
	for _, id := range images {
		if err := refetch(ctx, st, layers, id, bad, o); err != nil {
			failed[id] = err
		}
	}
	var out []Repaired
	for _, d := range found {
		if ctx.Err() != nil {
			return out, ctx.Err()
		}
		r := Repaired{Damage: d, How: "fetched again"}
		if still(layers, d) {
			r.How, r.Err = removeDamaged(ctx, st, layers, d, o)
			for _, id := range d.Images {
				if r.Err != nil && failed[id] != nil {
					r.Err = fmt.Errorf("%w; fetching it again: %w", r.Err, failed[id])
				}
			}
		}
		out = append(out, r)
	}
	return out, nil
}

// refetch pulls an image again, by digest, under a name that it has.
func refetch(ctx context.Context, st *store.Store, layers storage.Store, id string, bad []string, o RepairOptions) error {
	img, err := layers.Image(id)
	if err != nil {
		return err
	}
	errs := []error{errors.New("no name says a registry that has it")}
	for _, name := range img.Names {
		named, err := reference.ParseNormalizedNamed(name)
		if err != nil || reference.Domain(named) == "localhost" {
			continue
		}
		byDigest, err := reference.WithDigest(reference.TrimNamed(named), img.Digest)
		if err != nil {
			continue
		}
		src, err := docker.NewReference(byDigest)
		if err != nil {
			continue
		}
		_, err = withPuller(ctx, st, Options{RegistryOptions: o.RegistryOptions, NoDelta: true, Progress: o.Progress}, func(p *puller) ([]Image, error) {
			for _, l := range bad {
				p.w.Distrust(l)
			}
			sys, policy, err := p.contexts(named)
			if err != nil {
				return nil, err
			}
			defer policy.Destroy() //nolint:errcheck // only says that it was destroyed before
			_, err = p.pullJob(ctx, sys, policy, job{src, named})
			return nil, err
		})
		if err == nil {
			return nil
		}
		errs[0] = nil
		errs = append(errs, fmt.Errorf("%s: %w", FamiliarName(name), err))
	}
	return errors.Join(errs...)
}

// still tells whether the damage is there.
func still(layers storage.Store, d Damage) bool {
	if d.Layer != "" {
		l, err := layers.Layer(d.Layer)
		if err != nil {
			return !errors.Is(err, storage.ErrLayerUnknown)
		}
		_, err = durable.Verify(layers, l.ID, l.UncompressedDigest)
		return err != nil
	}
	set, err := readImages(layers)
	if err != nil {
		return true
	}
	for i := range set.raw {
		if set.raw[i].ID == d.Images[0] {
			return checkImage(layers, set, &set.raw[i]) != nil
		}
	}
	return false
}

// removeDamaged removes the images that suffer from a damage, unless containers
// are in the way, or the layer that belongs to none.
func removeDamaged(ctx context.Context, st *store.Store, layers storage.Store, d Damage, o RepairOptions) (string, error) {
	if len(d.Images) == 0 {
		if err := layers.DeleteLayer(d.Layer); err != nil && !errors.Is(err, storage.ErrLayerUnknown) {
			return "", fmt.Errorf("%w: removing layer %s: %w", ErrNotRepaired, shortID(d.Layer), err)
		}
		return "removed", nil
	}
	for _, id := range d.Images {
		r, err := newRemover(ctx, st, RemoveOptions{Force: true, NoPrune: true})
		if err != nil {
			return "", err
		}
		img, _, err := r.set.find(id)
		if errors.Is(err, ErrNoImage) {
			continue // removed with another damage
		}
		if err != nil {
			return "", err
		}
		for _, c := range r.users[id] {
			if o.RemoveContainer == nil {
				return "", fmt.Errorf("%w: container %s uses the image: remove it, or use --force", ErrNotRepaired, c.Name)
			}
			if err := o.RemoveContainer(ctx, c.ID); err != nil {
				return "", fmt.Errorf("%w: %w", ErrNotRepaired, err)
			}
		}
		if err := r.delete(img); err != nil {
			return "", fmt.Errorf("%w: %w", ErrNotRepaired, err)
		}
	}
	return "removed with its images: pull them again where they are to be had", syncImages(layers)
}
