package pull

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/manifest"
	"go.podman.io/storage"

	"github.com/balena-os/balena/pkg/durable"
)

// imageMetadata is what containers/image keeps in an image's record.
type imageMetadata struct {
	SignatureSizes  []int                   `json:"signature-sizes,omitempty"`
	SignaturesSizes map[digest.Digest][]int `json:"signatures-sizes,omitempty"`
}

// writeImage writes the image's record the way containers/image does, so that
// every tool can read it: its manifest, the index it was chosen from, its
// configuration. The name is the last thing, when all else is durable.
func (p *puller) writeImage(pl *plan, top, config []byte, signatures [][]byte, name reference.Named) (Image, error) {
	img := Image{ID: pl.config.Digest.Encoded(), Digest: pl.digest}
	item := func(key string, data []byte) storage.ImageBigDataOption {
		return storage.ImageBigDataOption{Key: key, Data: data, Digest: digest.Canonical.FromBytes(data)}
	}
	o := &storage.ImageOptions{}
	if pl.image.Created != nil {
		o.CreationDate = *pl.image.Created
	}
	o.BigData = append(o.BigData, item(pl.config.Digest.String(), config))
	if !bytes.Equal(top, pl.manifest) {
		d, err := manifest.Digest(top)
		if err != nil {
			return Image{}, err
		}
		img.Digest = d
		o.BigData = append(o.BigData, item(storage.ImageDigestManifestBigDataNamePrefix+"-"+d.String(), top))
	}
	meta := imageMetadata{}
	if len(signatures) > 0 {
		all := bytes.Join(signatures, nil)
		for _, s := range signatures {
			meta.SignatureSizes = append(meta.SignatureSizes, len(s))
		}
		meta.SignaturesSizes = map[digest.Digest][]int{pl.digest: meta.SignatureSizes}
		o.BigData = append(o.BigData, item("signatures", all), item("signature-"+pl.digest.Encoded(), all))
	}
	// The manifest last: without it the image counts as half made.
	o.BigData = append(o.BigData,
		item(storage.ImageDigestManifestBigDataNamePrefix+"-"+pl.digest.String(), pl.manifest),
		item(storage.ImageDigestBigDataKey, pl.manifest))
	raw, err := json.Marshal(meta)
	if err != nil {
		return Image{}, err
	}
	o.Metadata = string(raw)
	if err := p.putImage(img.ID, pl.topLayer(), o); err != nil {
		return Image{}, err
	}
	if err := durable.Sync(p.layers.GraphRoot()); err != nil {
		return Image{}, err
	}
	if name == nil || p.o.Unnamed {
		return img, nil
	}
	img.Name = name.String()
	if err := p.layers.AddNames(img.ID, []string{img.Name}); err != nil {
		return Image{}, fmt.Errorf("naming image %s: %w", img.ID, err)
	}
	return img, durable.SyncDir(filepath.Join(p.layers.GraphRoot(), p.layers.GraphDriverName()+"-images"))
}

// putImage creates the image's record, or brings the one that is there up to
// date.
func (p *puller) putImage(id, top string, o *storage.ImageOptions) error {
	_, err := p.layers.CreateImage(id, nil, top, "", o)
	if err == nil {
		return nil
	}
	if !errors.Is(err, storage.ErrDuplicateID) {
		return fmt.Errorf("recording image %s: %w", id, err)
	}
	have, err := p.layers.Image(id)
	if err != nil {
		return fmt.Errorf("reading image %s: %w", id, err)
	}
	if have.TopLayer != top {
		return fmt.Errorf("image %s is there already, with other layers", id)
	}
	for _, b := range o.BigData {
		if old, err := p.layers.ImageBigData(id, b.Key); err == nil && bytes.Equal(old, b.Data) {
			continue
		}
		if err := p.layers.SetImageBigData(id, b.Key, b.Data, manifest.Digest); err != nil {
			return fmt.Errorf("recording %s of image %s: %w", b.Key, id, err)
		}
	}
	if have.Metadata != o.Metadata {
		if err := p.layers.SetMetadata(id, o.Metadata); err != nil {
			return fmt.Errorf("recording image %s: %w", id, err)
		}
	}
	return nil
}
