package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.podman.io/storage"

	"github.com/balena-os/balena/pkg/pull"
	"github.com/balena-os/balena/pkg/store"
)

// volumes turns -v into what buildah takes: bind mounts of every RUN. Named
// volumes are made where they are missing, as run makes them.
func (b *builder) volumes(ctx context.Context) ([]string, error) {
	var list []string
	for _, m := range b.o.Volumes {
		source := m.Source
		switch m.Type {
		case "bind":
			if _, err := os.Stat(source); err != nil {
				return nil, fmt.Errorf("%w: volume %s: %w", ErrOptions, m.Target, err)
			}
		case "volume":
			if source == "" {
				return nil, fmt.Errorf("%w: volume %s: a build's volume needs a name or a folder of the host: what an anonymous one holds nobody finds again", ErrOptions, m.Target)
			}
			source = b.st.VolumeDir(m.Source)
			if err := b.makeVolume(ctx, m.Source, source); err != nil {
				return nil, fmt.Errorf("making volume %s: %w", m.Source, err)
			}
		default:
			return nil, fmt.Errorf("%w: volume %s: a build has no mounts of type %s", ErrOptions, m.Target, m.Type)
		}
		if strings.ContainsRune(source, ':') {
			return nil, fmt.Errorf("%w: volume %s: the folder's name has a colon: %s", ErrOptions, m.Target, source)
		}
		options := slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool { return o == "create" || o == "nocopy" || o == "copy" })
		if m.ReadOnly {
			options = append(options, "ro")
		}
		v := source + ":" + m.Target
		if len(options) > 0 {
			v += ":" + strings.Join(options, ",")
		}
		list = append(list, v)
	}
	return list, nil
}

// makeVolume records a named volume and makes its folder.
func (b *builder) makeVolume(ctx context.Context, name, dir string) error {
	err := b.st.Update(ctx, func(tx *store.Tx) error {
		var v store.Volume
		err := tx.Get(store.BucketVolumes, name, &v)
		if !errors.Is(err, store.ErrNoKey) {
			return err
		}
		return tx.Put(store.BucketVolumes, name, store.Volume{Name: name, Created: time.Now().UTC()})
	})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o711); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// flagVolumes is what an image's record says about the volumes it was built
// with.
const flagVolumes = "balena.build.volumes"

// volumeKey stands for a set of volumes, whatever is in them; "" for none.
func volumeKey(volumes []string) string {
	if len(volumes) == 0 {
		return ""
	}
	sorted := slices.Clone(volumes)
	slices.Sort(sorted)
	sum := sha256.Sum256([]byte(strings.Join(sorted, "\n")))
	return hex.EncodeToString(sum[:8])
}

// cacheStore is the store as a build with one set of volumes sees it: steps that
// were built with another set are not found in its cache.
type cacheStore struct {
	storage.Store
	key string
}

// CreateImage notes with the image that it is a build's, and the set.
func (s *cacheStore) CreateImage(id string, names []string, layer, metadata string, o *storage.ImageOptions) (*storage.Image, error) {
	options := storage.ImageOptions{}
	if o != nil {
		options = *o
	}
	flags := map[string]any{pull.FlagStep: true}
	if s.key != "" {
		flags[flagVolumes] = s.key
	}
	for k, v := range options.Flags {
		flags[k] = v
	}
	options.Flags = flags
	return s.Store.CreateImage(id, names, layer, metadata, &options)
}

// Images lists those that were built with this set: it is how buildah looks for
// a step that it need not do again. A step whose making was cut short is done.
func (s *cacheStore) Images() ([]storage.Image, error) {
	all, err := s.Store.Images()
	return slices.DeleteFunc(all, func(i storage.Image) bool {
		key, _ := i.Flags[flagVolumes].(string)
		return key != s.key || pull.HalfMade(&i)
	}), err
}
