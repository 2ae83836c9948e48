package pull

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"go.podman.io/storage"

	"github.com/balena-os/balena/pkg/durable"
	"github.com/balena-os/balena/pkg/store"
)

// ErrImageInUse is for an image that cannot be removed because of containers,
// or not without Force.
var ErrImageInUse = errors.New("conflict")

// errPinned is for an image whose files a pull reads.
var errPinned = errors.New("a pull is making another image from it by a delta: try again when that is done")

// RemoveOptions are how images are removed; the zero value is the careful way.
type RemoveOptions struct {
	// Force takes the names away although stopped containers use the image,
	// which then stays without a name as long as they do, and removes one with
	// several names by its ID.
	Force   bool
	NoPrune bool // keep the untagged images that it was built on

	// Running tells whether a container runs now. nil believes its record.
	Running func(*store.Container) bool
}

// Removed is one thing that was taken away: a name, or an image or layer.
type Removed struct {
	Untagged string `json:",omitempty"` // as docker shows it
	Deleted  string `json:",omitempty"` // sha256:ID
}

// Remove takes away a name of an image, and the image with its last one; by ID,
// the image with all of its names. Layers that other images or containers have
// stay. What was removed before an error is returned with it.
// ErrNoImage, ErrAmbiguousImage, ErrImageInUse.
func Remove(ctx context.Context, st *store.Store, name string, o RemoveOptions) ([]Removed, error) {
	defer st.MakeRoom()()
	r, err := newRemover(ctx, st, o)
	if err != nil {
		return nil, err
	}
	img, found, err := r.set.find(name)
	if err != nil {
		return nil, err
	}
	if found == "" {
		err = r.byID(img)
	} else {
		err = r.byName(img, name, found)
	}
	if len(r.out) > 0 {
		err = errors.Join(err, syncImages(r.layers))
	}
	return r.out, err
}

type remover struct {
	o      RemoveOptions
	layers storage.Store
	set    *imageSet
	users  map[string][]*store.Container // by image ID
	w      *durable.Writer
	held   map[string]bool // images that containers/storage will not delete: ours and a build's
	out    []Removed
}

func newRemover(ctx context.Context, st *store.Store, o RemoveOptions) (*remover, error) {
	layers, err := st.Layers()
	if err != nil {
		return nil, err
	}
	r := &remover{o: o, layers: layers, users: map[string][]*store.Container{}, held: map[string]bool{}}
	if r.o.Running == nil {
		r.o.Running = func(c *store.Container) bool { return c.State.Status == store.StatusRunning }
	}
	if r.w, err = durable.NewWriter(layers); err != nil {
		return nil, err
	}
	if r.set, err = readImages(layers); err != nil {
		return nil, err
	}
	held, err := layers.Containers()
	if err != nil {
		return nil, fmt.Errorf("listing containers: %w", err)
	}
	for _, c := range held {
		r.held[c.ImageID] = true
	}
	err = st.View(ctx, func(t *store.Tx) error {
		list, err := t.Containers()
		for _, c := range list {
			r.users[c.ImageID] = append(r.users[c.ImageID], c)
		}
		return err
	})
	return r, err
}

// byName follows docker: a name may go as long as others stay; the last takes
// the image with it, unless a container needs that, and then it takes Force
// and leaves the image without a name.
func (r *remover) byName(img *Summary, name, found string) error {
	users := r.users[img.ID]
	if len(img.Names) == 1 && len(users) > 0 && !r.o.Force {
		return fmt.Errorf("%w: unable to remove repository reference %q (must force) - container %s is using its referenced image %s",
			ErrImageInUse, name, shortID(users[0].ID), shortID(img.ID))
	}
	if !slices.Contains(img.Names, found) { // name@digest: stands for the names in its repository
		return r.byID(img)
	}
	if len(img.Names) > 1 {
		return r.untag(img, found)
	}
	if err := r.conflict(img); err != nil {
		return r.untag(img, found)
	}
	return r.delete(img)
}

func (r *remover) byID(img *Summary) error {
	if severalTags(img.Names) && !r.o.Force {
		return fmt.Errorf("%w: unable to delete %s (must be forced) - image is referenced in multiple repositories", ErrImageInUse, shortID(img.ID))
	}
	if err := r.conflict(img); err != nil {
		return err
	}
	return r.delete(img)
}

// conflict says which container is in the way of deleting an image.
func (r *remover) conflict(img *Summary) error {
	for _, c := range r.users[img.ID] {
		if r.o.Running(c) {
			return fmt.Errorf("%w: unable to delete %s (cannot be forced) - image is being used by running container %s", ErrImageInUse, shortID(img.ID), shortID(c.ID))
		}
	}
	for _, c := range r.users[img.ID] {
		if !r.o.Force {
			return fmt.Errorf("%w: unable to delete %s (must be forced) - image is being used by stopped container %s", ErrImageInUse, shortID(img.ID), shortID(c.ID))
		}
	}
	return nil
}

func (r *remover) untag(img *Summary, name string) error {
	if err := r.layers.RemoveNames(img.ID, []string{name}); err != nil {
		return fmt.Errorf("untagging %s: %w", name, err)
	}
	img.Names = slices.DeleteFunc(slices.Clone(img.Names), func(n string) bool { return n == name })
	r.out = append(r.out, Removed{Untagged: FamiliarName(name)})
	return nil
}

// delete removes an image with its names and the layers that nobody else has,
// and then untagged images that only it was built on.
func (r *remover) delete(img *Summary) error {
	var under []string // layers below the image's own
	for _, l := range r.set.chain(img.TopLayer) {
		under = append(under, l.ID)
	}
	unlock, free, err := r.w.Unpinned(img.ID)
	if err != nil {
		return err
	}
	if !free {
		return fmt.Errorf("%w: unable to delete %s - %w", ErrImageInUse, shortID(img.ID), errPinned)
	}
	defer unlock()
	gone, err := r.layers.DeleteImage(img.ID, true)
	if errors.Is(err, storage.ErrImageUsedByContainer) && r.o.Force && len(img.Names) > 0 {
		// The container goes on living from what has no name now.
		for _, n := range img.Names {
			err = r.untag(img, n)
			if err != nil {
				return err
			}
		}
		return nil
	}
	if err != nil {
		if errors.Is(err, storage.ErrImageUsedByContainer) {
			return fmt.Errorf("%w: unable to delete %s (cannot be forced) - %w", ErrImageInUse, shortID(img.ID), err)
		}
		if errors.Is(err, storage.ErrImageUnknown) || errors.Is(err, storage.ErrNotAnImage) {
			return noImage(img.ID)
		}
		return fmt.Errorf("deleting image %s: %w", shortID(img.ID), err)
	}
	for _, n := range img.Names {
		r.out = append(r.out, Removed{Untagged: FamiliarName(n)})
	}
	r.out = append(r.out, Removed{Deleted: "sha256:" + img.ID})
	for _, l := range gone {
		r.out = append(r.out, Removed{Deleted: "sha256:" + l})
	}
	if r.o.NoPrune || len(under) == 0 {
		return nil
	}
	if r.set, err = readImages(r.layers); err != nil {
		return err
	}
	for i := range r.set.images {
		p := &r.set.images[i]
		if len(p.Names) == 0 && slices.Contains(under[1:], p.TopLayer) && !r.set.isIntermediate(p) && !r.held[p.ID] && len(r.users[p.ID]) == 0 {
			return r.delete(p)
		}
	}
	return nil
}

// severalTags tells whether an image has more than one tag, or names in
// several repositories.
func severalTags(names []string) bool {
	tags, repos := 0, map[string]bool{}
	for _, n := range names {
		repo, tag, _ := SplitName(n)
		repos[repo] = true
		if tag != "" {
			tags++
		}
	}
	return tags > 1 || len(repos) > 1
}

func shortID(id string) string { return id[:min(12, len(id))] }
