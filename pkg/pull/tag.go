package pull

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/storage"

	"github.com/balena-os/balena/pkg/durable"
	"github.com/balena-os/balena/pkg/store"
)

// ErrNotTagged is for a name that is not one of the image's.
var ErrNotTagged = errors.New("the image does not have that name")

// Tag gives an image further names, taking them from images that have them
// now. On return they are on stable storage.
func Tag(_ context.Context, st *store.Store, source string, targets ...string) error {
	layers, err := st.Layers()
	if err != nil {
		return err
	}
	img, _, err := Find(layers, source)
	if err != nil {
		return err
	}
	var names []string
	for _, t := range targets {
		named, err := ParseName(t)
		if err != nil {
			return err
		}
		if _, ok := named.(reference.Digested); ok {
			return fmt.Errorf("tagging %s: %w: a tag cannot have a digest: %s", source, ErrBadReference, t)
		}
		names = append(names, named.String())
	}
	if err := layers.AddNames(img.ID, names); err != nil {
		return fmt.Errorf("tagging %s: %w", source, err)
	}
	return syncImages(layers)
}

// Untag takes names from an image and returns those it took. Without names it
// takes the one that the image was given by, or all when that was an ID. The
// image stays.
func Untag(_ context.Context, st *store.Store, image string, names ...string) ([]string, error) {
	layers, err := st.Layers()
	if err != nil {
		return nil, err
	}
	img, found, err := Find(layers, image)
	if err != nil {
		return nil, err
	}
	take := img.Names
	if slices.Contains(img.Names, found) {
		take = []string{found}
	}
	if len(names) > 0 {
		take = nil
		for _, n := range names {
			other, full, err := Find(layers, n)
			if err != nil || full == "" || other.ID != img.ID || !slices.Contains(img.Names, full) {
				return nil, fmt.Errorf("untagging %s: %w: %s", image, ErrNotTagged, n)
			}
			take = append(take, full)
		}
	}
	defer st.MakeRoom()()
	if err := layers.RemoveNames(img.ID, take); err != nil {
		return nil, fmt.Errorf("untagging %s: %w", image, err)
	}
	return take, syncImages(layers)
}

// syncImages makes a change of image records durable: containers/storage syncs
// the file but not the folder that it is renamed in.
func syncImages(layers storage.Store) error {
	return durable.SyncDir(filepath.Join(layers.GraphRoot(), layers.GraphDriverName()+"-images"))
}
