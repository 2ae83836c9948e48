package run

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"go.podman.io/storage/pkg/directory"

	"github.com/balena-os/balena/pkg/store"
)

// ContainerUsage is what a container takes of the disk.
type ContainerUsage struct {
	*Observed
	Size int64 // bytes on the disk of what it wrote into its rootfs and its log
}

// VolumeUsage is what a volume takes of the disk.
type VolumeUsage struct {
	store.Volume
	Containers int // that mount it
	Size       int64
}

// DiskUsage adds up what containers and volumes hold.
func (e *Engine) DiskUsage(ctx context.Context) ([]ContainerUsage, []VolumeUsage, error) {
	list, err := e.List(ctx)
	if err != nil {
		return nil, nil, err
	}
	layers, err := e.Store.Layers()
	if err != nil {
		return nil, nil, err
	}
	var containers []ContainerUsage
	mounts := map[string]int{}
	for _, c := range list {
		u := ContainerUsage{Observed: c}
		if lc, err := layers.Container(c.ID); err == nil && layers.GraphDriverName() == "overlay" {
			u.Size += sizeOf(filepath.Join(e.Store.Root(), "overlay", lc.LayerID, "diff"))
		}
		u.Size += sizeOf(e.Store.ContainerDir(c.ID))
		containers = append(containers, u)
		for _, m := range c.Config.Mounts {
			if m.Type == "volume" {
				mounts[m.Source]++
			}
		}
	}
	vs, err := e.volumes(ctx)
	if err != nil {
		return nil, nil, err
	}
	var volumes []VolumeUsage
	for _, v := range vs {
		volumes = append(volumes, VolumeUsage{v, mounts[v.Name], sizeOf(filepath.Dir(e.Store.VolumeDir(v.Name)))})
	}
	return containers, volumes, nil
}

// sizeOf is what a folder holds. What cannot be read or is about to go counts
// nothing: it is for people to look at.
func sizeOf(dir string) int64 {
	u, err := directory.Usage(dir)
	if err != nil {
		return 0
	}
	return u.Size
}

func (e *Engine) volumes(ctx context.Context) ([]store.Volume, error) {
	var names []string
	var vs []store.Volume
	err := e.Store.View(ctx, func(tx *store.Tx) error {
		names, vs = nil, nil
		if err := tx.Each(store.BucketVolumes, func(name string, _ []byte) error { names = append(names, name); return nil }); err != nil {
			return err
		}
		for _, name := range names {
			var v store.Volume
			if err := tx.Get(store.BucketVolumes, name, &v); err != nil {
				return err
			}
			vs = append(vs, v)
		}
		return nil
	})
	return vs, err
}

// PruneVolumes removes the anonymous volumes that no container mounts, with all
// the named ones too. It returns their names and how many bytes they held.
func (e *Engine) PruneVolumes(ctx context.Context, all bool) (removed []string, freed int64, err error) {
	defer e.Store.MakeRoom()()
	vs, err := e.volumes(ctx)
	if err != nil {
		return nil, 0, err
	}
	for _, v := range vs {
		if !v.Anonymous && !all {
			continue
		}
		gone := false
		err := e.Store.Update(ctx, func(tx *store.Tx) error {
			gone = false
			cs, err := tx.Containers()
			if err != nil {
				return err
			}
			for _, c := range cs {
				for _, m := range c.Config.Mounts {
					if m.Type == "volume" && m.Source == v.Name {
						return nil
					}
				}
			}
			gone = true
			return errors.Join(tx.Delete(store.BucketVolumes, v.Name), e.noteRemovals(tx, []string{v.Name}))
		})
		if err != nil {
			return removed, freed, fmt.Errorf("removing volume %s: %w", v.Name, err)
		}
		if !gone {
			continue
		}
		dir := filepath.Dir(e.Store.VolumeDir(v.Name))
		freed += sizeOf(dir)
		if err := os.RemoveAll(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return removed, freed, fmt.Errorf("removing volume %s: %w", v.Name, err)
		}
		removed = append(removed, v.Name)
	}
	return removed, freed, nil
}
