package pull

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"

	"github.com/opencontainers/go-digest"
	imgspecv1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/image/v5/manifest"

	"github.com/balena-os/balena/pkg/delta"
)

// unwrap makes the task one for the target, if the image is a delta that is
// stored as an image: of balena-engine's or of ours. With NoDelta it stays an
// image like any other.
func (t *task) unwrap(ctx context.Context) error {
	engine, ours := t.plan.wraps()
	labels := t.plan.image.Config.Labels
	switch {
	case t.p.o.NoDelta:
		return nil
	case engine:
		return t.unwrapEngine(ctx, labels[labelEngineBase], labels[labelEngineConfig])
	case ours:
		return t.unwrapOurs(ctx, digest.Digest(labels[labelBase]), []byte(labels[labelConfig]), []byte(labels[labelManifest]))
	}
	return nil
}

// wraps tells whether the image is a delta, and whose.
func (p *plan) wraps() (engine, ours bool) {
	labels := p.image.Config.Labels
	engine = labels[labelEngineBase] != "" && labels[labelEngineConfig] != ""
	ours = labels[labelBase] != "" && labels[labelConfig] != "" && labels[labelManifest] != "" && len(p.layers) == 1
	return engine, ours
}

// unwrapOurs is for an image that balena made of a delta. It poses as the
// target, all of whose layers come from the delta.
func (t *task) unwrapOurs(ctx context.Context, base digest.Digest, config, m []byte) error {
	if err := base.Validate(); err != nil {
		return fmt.Errorf("%w: the base of the delta, %q: %w", ErrNotImage, base, err)
	}
	wire := t.plan.layers[0].blob
	t.src.pose(m, config, func(_ context.Context, blob digest.Digest) (io.ReadCloser, error) {
		return nil, &fetchError{fmt.Errorf("the delta does not have %s", blob)}
	})
	t.src.onlyDelta = true
	target, err := parsePlan(ctx, t.src, m, manifest.GuessMIMEType(m), t.sys, t.p.o.Platform != "")
	if err != nil {
		return fmt.Errorf("the target of the delta: %w", err)
	}
	t.plan = target
	t.wrapped = &delta.Artifact{
		Subject: imgspecv1.Descriptor{Digest: target.digest}, Base: base, Target: target.config.Digest,
		Layers: target.image.RootFS.DiffIDs, // those that it has, it has
		Blob:   imgspecv1.Descriptor{Digest: wire.Digest, Size: wire.Size, MediaType: wire.MediaType},
	}
	return nil
}

// deltaInTar finds the delta in the layer of an image.
func deltaInTar(blob io.Reader) (io.ReadCloser, error) {
	plain, err := decompress(blob)
	if err != nil {
		return nil, err
	}
	r := tar.NewReader(plain)
	for {
		h, err := r.Next()
		if err == nil && h.Typeflag == tar.TypeReg && path.Clean("/"+h.Name) == "/"+deltaFile {
			return &closers{r, []io.Closer{plain}}, nil
		}
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("%w: there is none in the image", delta.ErrFormat)
		}
		if err != nil {
			return nil, errors.Join(err, plain.Close())
		}
	}
}
