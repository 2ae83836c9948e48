package pull

import (
	"context"
	"errors"
	"io"

	"github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/pkg/blobinfocache/none"
	"go.podman.io/image/v5/types"
)

// blobCache keeps the compressed layers that several deltas of one command read
// in temporary files, so that each is fetched once.
type blobCache struct {
	dir  string
	uses map[digest.Digest]int // how often each is still going to be read
	kept map[digest.Digest]*spool
}

func newBlobCache(dir string) *blobCache {
	return &blobCache{dir: dir, uses: map[digest.Digest]int{}, kept: map[digest.Digest]*spool{}}
}

// expect counts what a delta is going to read.
func (c *blobCache) expect(layers []deltaLayer) {
	for _, l := range layers {
		if l.blob != "" {
			c.uses[l.blob]++
		}
	}
}

// done is the opposite of expect: what nobody else needs goes.
func (c *blobCache) done(layers []deltaLayer) {
	for _, l := range layers {
		if c.uses[l.blob]--; c.uses[l.blob] <= 0 && c.kept[l.blob] != nil {
			c.kept[l.blob].Close()
			delete(c.kept, l.blob)
		}
	}
}

func (c *blobCache) Close() {
	for d, s := range c.kept {
		s.Close()
		delete(c.kept, d)
	}
}

// open reads a blob, from the cache or from where it is, and keeps it if it is
// needed again.
func (c *blobCache) open(ctx context.Context, src types.ImageSource, info types.BlobInfo, progress func(int64)) (io.ReadCloser, error) {
	if s := c.kept[info.Digest]; s != nil {
		return &readAlong{ReadCloser: io.NopCloser(s.reader()), tell: func(n int64, _ bool) { progress(n) }}, nil
	}
	r, _, err := newSource(src, func(_ digest.Digest, n int64) { progress(n) }).GetBlob(ctx, info, none.NoCache)
	if err != nil || c.uses[info.Digest] < 2 {
		return r, err
	}
	s, err := newSpool(c.dir, func() {})
	if err != nil {
		return r, nil //nolint:nilerr // then it is fetched again
	}
	return &keeping{ReadCloser: r, c: c, want: info.Digest, s: s}, nil
}

// keeping writes along what is read. A disk that is full means only that the
// blob is fetched again.
type keeping struct {
	io.ReadCloser
	c    *blobCache
	want digest.Digest
	s    *spool // nil: not any more
	end  bool
}

func (k *keeping) Read(p []byte) (int, error) {
	n, err := k.ReadCloser.Read(p)
	if k.s != nil && n > 0 {
		if _, werr := k.s.Write(p[:n]); werr != nil {
			k.s.Close()
			k.s = nil
		}
	}
	k.end = k.end || errors.Is(err, io.EOF)
	return n, err
}

func (k *keeping) Close() error {
	switch {
	case k.s == nil:
	case k.end && k.c.kept[k.want] == nil && k.s.digester.Digest() == k.want:
		k.c.kept[k.want] = k.s
	default:
		k.s.Close()
	}
	k.s = nil
	return k.ReadCloser.Close()
}
