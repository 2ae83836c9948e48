package pull

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imgspecv1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/image/v5/pkg/blobinfocache/none"
	"go.podman.io/image/v5/types"

	"github.com/balena-os/balena/pkg/delta"
	"github.com/balena-os/balena/pkg/durable"
)

// Labels of an image that balena-engine made as a delta. It has a layer for
// each layer of the target: an empty tar where the base has the same one at the
// same place, else a tar of one file, a librsync delta against the tars of all
// layers of the base, one after the other.
const (
	labelEngineBase   = "io.resin.delta.base"   // image ID of the base
	labelEngineConfig = "io.resin.delta.config" // the target's configuration, as it is
)

// engineDelta makes the layers of the target from such an image. The source
// that has it poses as the target then: with its configuration, and with a
// manifest of uncompressed layers, since what they were compressed to is lost.
type engineDelta struct {
	p     *puller
	src   *source
	image digest.Digest // of the delta's own manifest
	base  digest.Digest
	blobs map[digest.Digest]types.BlobInfo // the delta's layers, by the diffIDs of the target's

	mu    sync.Mutex
	tar   *imageTar // nil until it is needed
	unpin func()
}

// unwrapEngine makes the task one for the target.
func (t *task) unwrapEngine(ctx context.Context, base, config string) error {
	e := &engineDelta{p: t.p, src: t.src, image: t.plan.digest, base: digest.Digest(base), blobs: map[digest.Digest]types.BlobInfo{}}
	if err := e.base.Validate(); err != nil {
		return fmt.Errorf("%w: the base of the delta, %q: %w", ErrNotImage, base, err)
	}
	var target imgspecv1.Image
	if err := json.Unmarshal([]byte(config), &target); err != nil {
		return fmt.Errorf("%w: the configuration in the delta: %w", ErrNotImage, err)
	}
	diffIDs := target.RootFS.DiffIDs
	if len(diffIDs) != len(t.plan.layers) {
		return fmt.Errorf("%w: a delta of %d layers for an image of %d", ErrNotImage, len(t.plan.layers), len(diffIDs))
	}
	sizes := make([]int64, len(diffIDs))
	for i, d := range diffIDs {
		sizes[i] = t.plan.layers[i].blob.Size // what it costs; complete has the layer's own
		e.blobs[d] = t.plan.layers[i].blob
	}
	m, err := plainManifest([]byte(config), diffIDs, sizes)
	if err != nil {
		return err
	}
	t.src.pose(m, []byte(config), e.open)
	if t.plan, err = parsePlan(ctx, t.src, m, imgspecv1.MediaTypeImageManifest, t.sys, t.p.o.Platform != ""); err != nil {
		return err
	}
	t.engine = e
	return nil
}

// plainManifest is the manifest of an image of uncompressed layers.
func plainManifest(config []byte, diffIDs []digest.Digest, sizes []int64) ([]byte, error) {
	m := imgspecv1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: imgspecv1.MediaTypeImageManifest,
		Config:    imgspecv1.Descriptor{MediaType: imgspecv1.MediaTypeImageConfig, Digest: digest.FromBytes(config), Size: int64(len(config))},
		Layers:    []imgspecv1.Descriptor{},
	}
	for i, d := range diffIDs {
		m.Layers = append(m.Layers, imgspecv1.Descriptor{MediaType: imgspecv1.MediaTypeImageLayer, Digest: d, Size: sizes[i]})
	}
	return json.Marshal(m)
}

// complete gives the plan the manifest that the image is recorded with: how
// large the layers are is known once they are there.
func (e *engineDelta) complete(pl *plan) error {
	var sizes []int64
	for _, l := range pl.layers {
		stored, err := e.p.layers.Layer(l.id)
		if err != nil {
			return fmt.Errorf("reading layer %s: %w", l.id, err)
		}
		sizes = append(sizes, stored.UncompressedSize)
	}
	m, err := plainManifest(e.src.config[pl.config.Digest], pl.image.RootFS.DiffIDs, sizes)
	if err != nil {
		return err
	}
	pl.manifest, pl.digest = m, digest.FromBytes(m)
	return nil
}

// possible says which image is missing.
func (e *engineDelta) possible() error {
	if _, err := e.p.layers.Image(e.base.Encoded()); err != nil {
		return fmt.Errorf("%w: it takes %s", ErrNoBase, e.base)
	}
	return nil
}

func (e *engineDelta) preview(size int64) *DeltaPreview {
	v := &DeltaPreview{Digest: e.image, Size: size, Base: e.base.Encoded()}
	if img, err := e.p.layers.Image(v.Base); err == nil {
		v.From = imageName(img)
	}
	return v
}

// baseTar opens the base, once.
func (e *engineDelta) baseTar(ctx context.Context) (*imageTar, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.tar != nil {
		return e.tar, nil
	}
	unpin, err := e.p.w.Pin(ctx, e.base.Encoded())
	if err != nil {
		return nil, err
	}
	img, err := e.p.layers.Image(e.base.Encoded())
	if err == nil {
		e.tar, err = openImageTar(ctx, e.p.layers, img)
	}
	if err != nil {
		unpin()
		return nil, fmt.Errorf("base %s: %w", e.base, err)
	}
	e.unpin = unpin
	return e.tar, nil
}

// Close lets go of the base.
func (e *engineDelta) Close() {
	if e.tar != nil {
		e.tar.Close()
		e.unpin()
	}
}

// open begins to make the tar of a layer.
func (e *engineDelta) open(ctx context.Context, diffID digest.Digest) (_ io.ReadCloser, err error) {
	base, err := e.baseTar(ctx)
	if err != nil {
		return nil, err
	}
	free, err := durable.Free(e.p.layers.GraphRoot())
	if err != nil {
		return nil, err
	}
	info := e.blobs[diffID]
	in := e.src.stream(ctx, info, none.NoCache, diffID)
	if err := in.open(); err != nil {
		return nil, err
	}
	blob := &verifiedBlob{r: in, v: info.Digest.Verifier()}
	l := &engineLayer{ctx: ctx, diffID: diffID, sum: diffID.Algorithm().Hash(), blob: blob, base: base}
	plain, err := decompress(blob)
	if err != nil {
		return nil, errors.Join(l.explain(err), in.Close())
	}
	l.close = []io.Closer{plain, in}
	r := tar.NewReader(plain)
	h, err := r.Next()
	switch {
	case errors.Is(err, io.EOF): // an empty tar
		err = l.common()
	case err == nil && h.Typeflag != tar.TypeReg:
		err = fmt.Errorf("%w: %q in the place of a delta", delta.ErrFormat, h.Name)
	case err == nil:
		l.r = delta.NewLibrsyncReader(r, base, base.size)
	}
	if err != nil {
		return nil, errors.Join(l.explain(err), l.Close())
	}
	// A delta can ask for any length: a tenth of the free space stays free.
	l.r = &limited{r: l.r, left: free / 10 * 9}
	return l, nil
}

// engineLayer is the tar of a layer of the target.
type engineLayer struct {
	ctx    context.Context
	diffID digest.Digest
	sum    hash.Hash
	blob   *verifiedBlob
	base   *imageTar
	r      io.Reader
	close  []io.Closer
}

// common is for a layer that is in the base as well.
func (l *engineLayer) common() error {
	for _, same := range l.base.layers {
		if same.diffID != l.diffID {
			continue
		}
		stored, err := l.base.store.Layer(same.id)
		if err != nil {
			return err
		}
		r, err := openTar(l.base.store, stored)
		if err != nil {
			return err
		}
		l.r, l.close = r, append(l.close, r)
		return nil
	}
	return fmt.Errorf("%w: nothing for a layer that the base does not have", delta.ErrFormat)
}

func (l *engineLayer) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	l.sum.Write(p[:n])
	if err == nil {
		return n, nil
	}
	if err != io.EOF {
		return n, &fetchError{l.explain(err)}
	}
	if got := digest.NewDigest(l.diffID.Algorithm(), l.sum); got != l.diffID {
		return n, &fetchError{l.explain(fmt.Errorf("%w: it came out as %s", delta.ErrDigest, got))}
	}
	if _, err := io.Copy(io.Discard, l.blob); err != nil { // the rest of the blob
		return n, &fetchError{err}
	}
	return n, io.EOF
}

// explain finds out what an error comes from: the blob, what the base has
// become, or, what is left, the delta.
func (l *engineLayer) explain(err error) error {
	if l.ctx.Err() != nil {
		return context.Cause(l.ctx)
	}
	var fetch *fetchError
	var damaged *delta.BaseError
	switch {
	case errors.As(err, &fetch):
		return err
	case errors.As(err, &damaged):
		return fmt.Errorf("%w: %w", ErrDamagedLayer, err)
	}
	if _, berr := io.Copy(io.Discard, l.blob); berr != nil {
		return berr
	}
	if cerr := l.base.check(l.ctx); cerr != nil {
		return fmt.Errorf("base: %w", cerr)
	}
	return err
}

func (l *engineLayer) Close() error {
	var errs []error
	for _, c := range l.close {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}
