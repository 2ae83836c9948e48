package run

import (
	"context"
	"errors"
	"fmt"

	"go.podman.io/storage"

	"github.com/balena-os/balena/pkg/store"
)

// Fault is what is wrong with a container.
type Fault struct {
	ID, Name string // Name is "" where only a layer is left
	What     error
}

// Check compares the containers' records with their layers and images.
func (e *Engine) Check(ctx context.Context) (containers int, faults []Fault, err error) {
	layers, err := e.Store.Layers()
	if err != nil {
		return 0, nil, err
	}
	// The layers first: a container has its layer before its record.
	kept, err := layers.Containers()
	if err != nil {
		return 0, nil, err
	}
	list, err := e.List(ctx)
	if err != nil {
		return 0, nil, err
	}
	known := map[string]bool{}
	for _, c := range list {
		known[c.ID] = true
		if c.Config.AutoRemove && !c.Running() {
			continue // on its way out
		}
		if err := checkContainer(layers, c.Container); err != nil {
			faults = append(faults, Fault{c.ID, c.Name, err})
		}
	}
	for _, l := range kept {
		if !known[l.ID] && len(l.Names) == 0 && !e.beingCreated(l.ID) && !e.beingCreated(l.ID+removing) {
			faults = append(faults, Fault{l.ID, "", errors.New("a layer of a container that is not recorded")})
		}
	}
	return len(list), faults, nil
}

func checkContainer(layers storage.Store, c *store.Container) error {
	lc, err := layers.Container(c.ID)
	if err != nil {
		return errors.New("its layer is missing: what it has written is lost")
	}
	for id := lc.LayerID; id != ""; {
		l, err := layers.Layer(id)
		if err != nil {
			return fmt.Errorf("layer %s below it is missing", short(id))
		}
		id = l.Parent
	}
	if c.ImageID != "" {
		if _, err := layers.Image(c.ImageID); err != nil {
			return fmt.Errorf("its image %s is missing", short(c.ImageID))
		}
	}
	return nil
}

// Repair removes a layer that no record names. A container with a record is
// removed, and its writable layer with it, only by force.
func (e *Engine) Repair(ctx context.Context, f Fault, force bool) (how string, err error) {
	switch {
	case f.Name == "":
		return "removed", e.removeLayer(f.ID)
	case !force:
		return "", errors.New("it cannot be repaired: remove it with 'balena rm', or use --force")
	}
	return "removed", e.Remove(ctx, f.ID, RemoveOptions{Force: true})
}
