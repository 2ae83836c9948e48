package durable

import (
	"io"
	"path/filepath"

	"go.podman.io/storage"
)

// Store makes what others write through it durable: of a layer, everything is
// on stable storage before layers.json calls it complete, and of an image,
// before it gets a name. buildah and containers/image commit through it.
type Store struct {
	storage.Store
	w *Writer
}

// NewStore takes an open store.
func NewStore(st storage.Store) (*Store, error) {
	w, err := NewWriter(st)
	if err != nil {
		return nil, err
	}
	return &Store{Store: st, w: w}, nil
}

// PutLayer is storage.Store's, durable.
func (s *Store) PutLayer(id, parent string, names []string, label string, writeable bool, o *storage.LayerOptions, diff io.Reader) (*storage.Layer, int64, error) {
	if writeable {
		return s.Store.PutLayer(id, parent, names, label, writeable, o, diff)
	}
	options := storage.LayerOptions{}
	if o != nil {
		options = *o
	}
	b := &barrier{dir: s.w.layerDir, skip: 1} // the first record calls the layer incomplete
	flags := map[string]any{flagDurable: b}
	for k, v := range options.Flags {
		flags[k] = v
	}
	options.Flags = flags
	l, n, err := s.Store.PutLayer(id, parent, names, label, writeable, &options, diff)
	if err == nil {
		err = b.check()
	}
	return l, n, err
}

// ApplyStagedLayer is storage.Store's, durable.
func (s *Store) ApplyStagedLayer(o storage.ApplyStagedLayerOptions) (*storage.Layer, error) {
	l, err := s.Store.ApplyStagedLayer(o)
	if err == nil {
		err = Sync(s.w.layerDir)
	}
	return l, err
}

// CreateImage is storage.Store's, durable with the names that it is given.
func (s *Store) CreateImage(id string, names []string, layer, metadata string, o *storage.ImageOptions) (*storage.Image, error) {
	img, err := s.Store.CreateImage(id, nil, layer, metadata, o)
	if err != nil || len(names) == 0 {
		return img, err
	}
	if err := s.AddNames(img.ID, names); err != nil {
		return nil, err
	}
	return s.Image(img.ID)
}

// AddNames is storage.Store's: whatever the names are for comes first.
func (s *Store) AddNames(id string, names []string) error {
	if err := Sync(s.GraphRoot()); err != nil {
		return err
	}
	if err := s.Store.AddNames(id, names); err != nil {
		return err
	}
	return SyncDir(s.images())
}

// SetNames is storage.Store's, as AddNames is. Later versions of the interface
// drop it.
func (s *Store) SetNames(id string, names []string) error {
	if err := Sync(s.GraphRoot()); err != nil {
		return err
	}
	if err := s.Store.SetNames(id, names); err != nil { //nolint:staticcheck // whoever calls it means it
		return err
	}
	return SyncDir(s.images())
}

func (s *Store) images() string {
	return filepath.Join(s.GraphRoot(), s.GraphDriverName()+"-images")
}
