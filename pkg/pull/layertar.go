package pull

import (
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	"go.podman.io/storage"
	"go.podman.io/storage/pkg/archive"

	"github.com/balena-os/balena/pkg/durable"
)

// ErrDamagedLayer is for a layer whose files no longer make up the tar stream
// that its digest says.
var ErrDamagedLayer = durable.ErrDamaged

// openTar gives a layer back as the uncompressed tar stream that it came as,
// whose digest is verified at the end.
//
// storage.Store.Diff keeps all layers locked until its reader is closed, so
// that no container could be created while a slow upload reads from it, and
// containers/image's source avoids this with a temporary file of the layer's
// size. Here the tar stream is put together without the lock, from the files
// and the tar-split record; a layer that is removed meanwhile is an error.
func openTar(layers storage.Store, l *storage.Layer) (io.ReadCloser, error) {
	r, err := durable.Assemble(layers, l.ID)
	if r == nil && err == nil {
		plain := archive.Uncompressed
		r, err = layers.Diff("", l.ID, &storage.DiffOptions{Compression: &plain})
	}
	if err != nil {
		return nil, fmt.Errorf("opening layer %s: %w", l.ID, err)
	}
	if l.UncompressedDigest == "" {
		return r, nil
	}
	return &verifiedTar{r, l.UncompressedDigest.Verifier(), l.UncompressedDigest}, nil
}

type closers struct {
	io.Reader
	all []io.Closer
}

func (c *closers) Close() error {
	var errs []error
	for _, cl := range c.all {
		errs = append(errs, cl.Close())
	}
	return errors.Join(errs...)
}

type verifiedTar struct {
	io.ReadCloser
	v    digest.Verifier
	want digest.Digest
}

func (t *verifiedTar) Read(b []byte) (int, error) {
	n, err := t.ReadCloser.Read(b)
	_, _ = t.v.Write(b[:n])
	switch {
	case errors.Is(err, io.EOF) && !t.v.Verified():
		err = fmt.Errorf("%w: it is not %s any more", ErrDamagedLayer, t.want)
	case err != nil && !errors.Is(err, io.EOF): // of the files, while the tar is put together
		err = fmt.Errorf("%w: %w", ErrDamagedLayer, err)
	}
	return n, err
}
