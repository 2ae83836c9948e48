package pull

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imgspecv1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/types"

	"github.com/balena-os/balena/pkg/delta"
	"github.com/balena-os/balena/pkg/durable"
)

// writeArchive writes all deltas that were made as one OCI archive: the
// targets' manifests and configurations, the artifacts and the deltas, and none
// of the targets' layers. The same deltas make the same archive.
func (m *maker) writeArchive(w io.Writer) error {
	if len(m.kept) == 0 {
		return nil
	}
	a := &archiveWriter{t: tar.NewWriter(w), have: map[digest.Digest]bool{}}
	index := imgspecv1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imgspecv1.MediaTypeImageIndex}
	a.file(imgspecv1.ImageLayoutFile, []byte(`{"imageLayoutVersion":"1.0.0"}`))
	for _, k := range m.kept {
		t := k.target
		if !a.have[t.digest] {
			d := imgspecv1.Descriptor{MediaType: t.mime, Digest: t.digest, Size: int64(len(t.manifest))}
			if t.named != nil {
				d.Annotations = map[string]string{imgspecv1.AnnotationRefName: t.named.String()}
			}
			if len(m.kept) > 1 || t.image.OS != "" {
				d.Platform = &imgspecv1.Platform{OS: t.image.OS, Architecture: t.image.Architecture, Variant: t.image.Variant}
			}
			index.Manifests = append(index.Manifests, d)
		}
		a.blob(t.digest, t.manifest)
		a.blob(t.id, t.config)
	}
	for _, k := range m.kept {
		raw, err := k.artifact.Manifest()
		if err != nil {
			return err
		}
		d := k.artifact.Descriptor(raw)
		index.Manifests = append(index.Manifests, d)
		a.blob(d.Digest, raw)
		a.blob(imgspecv1.DescriptorEmptyJSON.Digest, imgspecv1.DescriptorEmptyJSON.Data)
		a.stream(k.artifact.Blob, k.blob.reader())
	}
	raw, err := json.Marshal(index)
	if err != nil {
		return err
	}
	a.file(imgspecv1.ImageIndexFile, raw)
	if a.err == nil {
		a.err = a.t.Close()
	}
	if a.err != nil {
		return fmt.Errorf("writing the archive: %w", a.err)
	}
	return nil
}

// archiveWriter writes files into a tar until the first error.
type archiveWriter struct {
	t    *tar.Writer
	have map[digest.Digest]bool
	err  error
}

func (a *archiveWriter) file(name string, content []byte) {
	a.copy(name, int64(len(content)), bytes.NewReader(content))
}

func (a *archiveWriter) blob(d digest.Digest, content []byte) {
	a.stream(imgspecv1.Descriptor{Digest: d, Size: int64(len(content))}, bytes.NewReader(content))
}

func (a *archiveWriter) stream(d imgspecv1.Descriptor, r io.Reader) {
	if a.have[d.Digest] {
		return
	}
	a.have[d.Digest] = true
	a.copy(imgspecv1.ImageBlobsDir+"/"+d.Digest.Algorithm().String()+"/"+d.Digest.Encoded(), d.Size, r)
}

func (a *archiveWriter) copy(name string, size int64, r io.Reader) {
	if a.err == nil {
		a.err = a.t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size})
	}
	if a.err == nil {
		_, a.err = io.Copy(a.t, r)
	}
}

// Labels of a delta that is stored as an image.
const (
	labelBase     = "io.balena.delta.base"     // the base's configuration, by its digest
	labelConfig   = "io.balena.delta.config"   // the target's configuration, as it is
	labelManifest = "io.balena.delta.manifest" // the target's manifest, as it is
)

// deltaFile is the name of the delta in the layer of such an image.
const deltaFile = "delta"

// tagName is the name that an image of a delta gets.
func (m *maker) tagName() (reference.Named, error) {
	named, err := ParseName(m.o.Tag)
	if err != nil {
		return nil, err
	}
	if _, ok := named.(reference.Digested); ok {
		return nil, fmt.Errorf("%w: a name for a new image cannot have a digest: %s", ErrBadReference, m.o.Tag)
	}
	return named, nil
}

// store puts a delta into the store as an image of one layer with one file, the
// way balena-engine keeps its own.
func (m *maker) store(ctx context.Context, a delta.Artifact, t *deltaImage, blob *spool, d *MadeDelta) error {
	named, err := m.tagName()
	if err != nil {
		return err
	}
	digester := digest.Canonical.Digester()
	var size counted
	if err := writeDeltaLayer(io.MultiWriter(digester.Hash(), &size), blob); err != nil {
		return err
	}
	pl, config, err := deltaPlan(a, t, digester.Digest(), int64(size))
	if err != nil {
		return err
	}
	return m.storeImage(ctx, pl, config, named, d, func(_ int, w io.Writer) error { return writeDeltaLayer(w, blob) })
}

// storeImage puts an image into the store of which write gives the layers' tars.
func (m *maker) storeImage(ctx context.Context, pl *plan, config []byte, named reference.Named, d *MadeDelta, write func(layer int, w io.Writer) error) error {
	release, err := m.w.Active(ctx)
	if err != nil {
		return err
	}
	defer release()
	for i, l := range pl.layers {
		if err := m.storeLayer(ctx, l, func(w io.Writer) error { return write(i, w) }); err != nil {
			return fmt.Errorf("storing the delta: %w", err)
		}
	}
	p := &puller{st: m.st, layers: m.layers, w: m.w}
	img, err := p.writeImage(pl, pl.manifest, config, nil, named)
	if err != nil {
		return fmt.Errorf("storing the delta: %w", err)
	}
	d.Image = img.ID
	return nil
}

func (m *maker) storeLayer(ctx context.Context, l *layer, write func(io.Writer) error) error {
	unclaim, err := m.w.Claim(ctx, l.id)
	if err != nil {
		return err
	}
	defer unclaim()
	has, err := m.w.Has(l.id, l.diffID)
	if err != nil || has {
		return err
	}
	pr, pw := io.Pipe()
	go func() { pw.CloseWithError(write(pw)) }()
	defer pr.CloseWithError(errStopped)
	rec := durable.Layer{ID: l.id, Parent: l.parent, DiffID: l.diffID, Blob: l.blob.Digest}
	if !m.w.CanStage() {
		return m.w.Put(ctx, pr, rec)
	}
	staged, err := m.w.Stage(ctx, pr, l.diffID)
	if err != nil {
		return err
	}
	if err := m.w.Commit(ctx, staged, rec); err != nil {
		return errors.Join(err, m.w.Discard(staged))
	}
	return nil
}

type counted int64

func (c *counted) Write(p []byte) (int, error) {
	*c += counted(len(p))
	return len(p), nil
}

// writeDeltaLayer writes the layer's tar; the same for the same delta.
func writeDeltaLayer(w io.Writer, blob *spool) error {
	t := tar.NewWriter(w)
	if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: deltaFile, Mode: 0o644, Size: blob.n}); err != nil {
		return err
	}
	if _, err := io.Copy(t, blob.reader()); err != nil {
		return err
	}
	return t.Close()
}

// deltaPlan is manifest, configuration and layer of a delta stored as an image.
func deltaPlan(a delta.Artifact, t *deltaImage, diffID digest.Digest, size int64) (*plan, []byte, error) {
	img := imgspecv1.Image{
		Platform: imgspecv1.Platform{OS: t.image.OS, Architecture: t.image.Architecture, Variant: t.image.Variant},
		RootFS:   imgspecv1.RootFS{Type: "layers", DiffIDs: []digest.Digest{diffID}},
		Config: imgspecv1.ImageConfig{Labels: map[string]string{
			labelBase: a.Base.String(), labelConfig: string(t.config), labelManifest: string(t.manifest),
		}},
	}
	if !a.Created.IsZero() {
		img.Created = &a.Created
	}
	config, err := json.Marshal(img)
	if err != nil {
		return nil, nil, err
	}
	m := imgspecv1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imgspecv1.MediaTypeImageManifest,
		Config: imgspecv1.Descriptor{MediaType: imgspecv1.MediaTypeImageConfig, Digest: digest.FromBytes(config), Size: int64(len(config))},
		Layers: []imgspecv1.Descriptor{{MediaType: imgspecv1.MediaTypeImageLayer, Digest: diffID, Size: size}},
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return nil, nil, err
	}
	pl := &plan{
		manifest: raw, digest: digest.FromBytes(raw), image: img,
		config: types.BlobInfo{Digest: m.Config.Digest, Size: m.Config.Size, MediaType: m.Config.MediaType},
		layers: []*layer{{blob: types.BlobInfo{Digest: diffID, Size: size}, diffID: diffID, id: durable.LayerID("", diffID)}},
	}
	return pl, config, nil
}
