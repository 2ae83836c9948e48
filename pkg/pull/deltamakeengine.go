package pull

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
	imgspecv1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/image/v5/manifest"
	"go.podman.io/image/v5/types"

	"github.com/balena-os/balena/pkg/delta"
	"github.com/balena-os/balena/pkg/durable"
)

// CompatEngine is the DeltaOptions.Compat for devices that run balena-engine.
const CompatEngine = "balena-engine"

// emptyTar is what balena-engine takes for a layer that the base has too.
var emptyTar = make([]byte, 1024)

// makeEngine makes a delta as balena-engine does, and stores it: an image with
// a layer for each of the target's, see labelEngineBase.
func (m *maker) makeEngine(ctx context.Context, b, t *deltaImage, d MadeDelta) (MadeDelta, error) {
	begin := time.Now()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	named, err := m.tagName()
	if err != nil {
		return d, err
	}
	common := 0 // layers with the same ones below them
	for common < min(len(b.layers), len(t.layers)) && b.layers[common].diffID == t.layers[common].diffID {
		common++
	}
	if common == len(t.layers) {
		d.Skipped = "the base has all layers of the target"
		return d, nil
	}
	base, err := m.engineBase(ctx, b, t.given)
	if err != nil {
		return d, fmt.Errorf("reading the base: %w", err)
	}
	d.Layers, d.Whole = nil, -1 // the delta is not compressed either
	deltas := make([]*spool, len(t.layers))
	defer func() {
		for _, s := range deltas {
			if s != nil {
				s.Close()
			}
		}
	}()
	watch := m.watch(DeltaEvent{Base: b.given, Target: t.given, Step: MakingDelta}, t.layers[common:])
	for n, l := range t.layers[common:] {
		s, size, err := m.engineLayer(ctx, base, l, func(done int64) { watch(n, done) }, cancel)
		if err != nil {
			return d, fmt.Errorf("layer %s: %w", l.diffID, err)
		}
		deltas[common+n] = s
		d.Layers = append(d.Layers, l.diffID)
		d.Size += s.n
		d.Tar += size
	}
	d.Seconds, d.Memory = time.Since(begin).Seconds(), peakMemory()
	if d.Size >= d.Tar && !m.o.Force {
		d.Skipped = fmt.Sprintf("it saves nothing: %d bytes, and the layers that it replaces are %d", d.Size, d.Tar)
		return d, nil
	}
	pl, config, err := m.enginePlan(b, t, deltas)
	if err != nil {
		return d, err
	}
	err = m.storeImage(ctx, pl, config, named, &d, func(i int, w io.Writer) error { return writeEngineLayer(w, deltas[i]) })
	return d, err
}

// engineBase reads the base's layers, which are checked meanwhile.
func (m *maker) engineBase(ctx context.Context, b *deltaImage, target string) (*delta.LibrsyncBase, error) {
	watch := m.watch(DeltaEvent{Base: b.given, Target: target, Step: ReadingBase}, b.layers)
	var readers []io.Reader
	for n, l := range b.layers {
		r := &lateReader{ctx: ctx, open: func() (io.ReadCloser, error) {
			return l.open(ctx, func(done int64) { watch(n, done) })
		}}
		defer r.Close()
		readers = append(readers, r)
	}
	return delta.NewLibrsyncBase(ctx, io.MultiReader(readers...))
}

// lateReader opens what it reads from at the first read, and closes it at the
// end.
type lateReader struct {
	ctx  context.Context
	open func() (io.ReadCloser, error)
	r    io.ReadCloser
}

func (l *lateReader) Read(p []byte) (int, error) {
	if l.ctx.Err() != nil {
		return 0, context.Cause(l.ctx)
	}
	if l.r == nil {
		var err error
		if l.r, err = l.open(); err != nil {
			return 0, err
		}
	}
	n, err := l.r.Read(p)
	if err == io.EOF {
		if cerr := l.Close(); cerr != nil {
			err = cerr
		}
	}
	return n, err
}

func (l *lateReader) Close() error {
	if l.r == nil {
		return nil
	}
	r := l.r
	l.r = nil
	return r.Close()
}

// engineLayer makes the delta of a layer, of which size is the uncompressed
// one.
func (m *maker) engineLayer(ctx context.Context, base *delta.LibrsyncBase, l deltaLayer, progress func(int64), cancel func()) (_ *spool, size int64, err error) {
	r, err := l.open(ctx, progress)
	if err != nil {
		return nil, 0, err
	}
	s, err := newSpool(m.dir, cancel)
	if err != nil {
		return nil, 0, errors.Join(err, r.Close())
	}
	var n counted
	err = base.Delta(ctx, io.TeeReader(r, &n), s)
	if s.err != nil {
		err = s.err
	}
	if cerr := r.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		s.Close()
		return nil, 0, err
	}
	return s, int64(n), nil
}

func writeEngineLayer(w io.Writer, blob *spool) error {
	if blob == nil {
		_, err := w.Write(emptyTar)
		return err
	}
	return writeDeltaLayer(w, blob)
}

// enginePlan is what the image of a delta consists of. Its manifest is in
// docker's format, which every balena-engine takes.
func (m *maker) enginePlan(b, t *deltaImage, deltas []*spool) (*plan, []byte, error) {
	pl := &plan{image: imgspecv1.Image{
		Platform: imgspecv1.Platform{OS: t.image.OS, Architecture: t.image.Architecture, Variant: t.image.Variant},
		RootFS:   imgspecv1.RootFS{Type: "layers"},
		Config:   imgspecv1.ImageConfig{Labels: map[string]string{labelEngineBase: b.id.String(), labelEngineConfig: string(t.config)}},
	}}
	if !m.o.Created.IsZero() {
		pl.image.Created = &m.o.Created
	}
	var layers []manifest.Schema2Descriptor
	parent := ""
	for i, s := range deltas {
		digester := digest.Canonical.Digester()
		var size counted
		if err := writeEngineLayer(io.MultiWriter(digester.Hash(), &size), s); err != nil {
			return nil, nil, err
		}
		d := digester.Digest()
		pl.image.RootFS.DiffIDs = append(pl.image.RootFS.DiffIDs, d)
		layers = append(layers, manifest.Schema2Descriptor{MediaType: manifest.DockerV2SchemaLayerMediaTypeUncompressed, Digest: d, Size: int64(size)})
		id := durable.LayerID(parent, d)
		pl.layers = append(pl.layers, &layer{index: i, blob: types.BlobInfo{Digest: d, Size: int64(size)}, diffID: d, id: id, parent: parent})
		parent = id
	}
	config, err := json.Marshal(pl.image)
	if err != nil {
		return nil, nil, err
	}
	pl.config = types.BlobInfo{Digest: digest.FromBytes(config), Size: int64(len(config)), MediaType: manifest.DockerV2Schema2ConfigMediaType}
	pl.manifest, err = manifest.Schema2FromComponents(manifest.Schema2Descriptor{
		MediaType: pl.config.MediaType, Digest: pl.config.Digest, Size: pl.config.Size,
	}, layers).Serialize()
	pl.digest = digest.FromBytes(pl.manifest)
	return pl, config, err
}
