package pull

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/manifest"
	"go.podman.io/image/v5/types"
)

// source is the source that copy.Image sees: the real one, with manifests and
// the configuration fetched once, and blobs that survive a broken connection.
type source struct {
	types.ImageSource
	progress func(blob digest.Digest, done int64)

	mu        sync.Mutex
	manifests map[digest.Digest]fetchedManifest // "" is the top level
	config    map[digest.Digest][]byte

	// made gives a layer's blob where the source poses as another image than
	// it is; nil otherwise.
	made func(ctx context.Context, blob digest.Digest) (io.ReadCloser, error)
	// onlyDelta says that there are no layers but in a delta.
	onlyDelta bool
}

type fetchedManifest struct {
	raw  []byte
	mime string
}

func newSource(raw types.ImageSource, progress func(digest.Digest, int64)) *source {
	return &source{
		ImageSource: raw,
		progress:    progress,
		manifests:   map[digest.Digest]fetchedManifest{},
		config:      map[digest.Digest][]byte{},
	}
}

// Close does nothing: copy.Image may run twice over the same source, whose
// owner closes it.
func (s *source) Close() error { return nil }

func (s *source) GetManifest(ctx context.Context, instance *digest.Digest) ([]byte, string, error) {
	var key digest.Digest
	if instance != nil {
		key = *instance
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if m, ok := s.manifests[key]; ok {
		return bytes.Clone(m.raw), m.mime, nil
	}
	ctx, stop := boundManifest(ctx)
	defer stop()
	raw, mime, err := s.ImageSource.GetManifest(ctx, instance)
	if err != nil {
		return nil, "", whyEnded(ctx, err)
	}
	if instance != nil {
		ok, err := manifest.MatchesDigest(raw, *instance)
		if err != nil {
			return nil, "", err
		}
		if !ok {
			return nil, "", fmt.Errorf("manifest %s: %w", *instance, ErrDigest)
		}
	}
	s.manifests[key] = fetchedManifest{raw, mime}
	return bytes.Clone(raw), mime, nil
}

// manifestPatience is how long a registry may take to answer with a manifest,
// a few kilobytes: a blob's silence is bounded where it is read. A variable for
// tests.
var manifestPatience = 2 * time.Minute

func boundManifest(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, manifestPatience, fmt.Errorf("no answer within %s: %w", manifestPatience, errSource))
}

// whyEnded puts the reason of a timeout in the place of "deadline exceeded".
func whyEnded(ctx context.Context, err error) error {
	if errors.Is(err, context.DeadlineExceeded) && context.Cause(ctx) != nil {
		return context.Cause(ctx)
	}
	return err
}

// maxConfig bounds an image's configuration, as containers/image does.
const maxConfig = 4 << 20

// fetchConfig reads the configuration blob, once.
func (s *source) fetchConfig(ctx context.Context, info types.BlobInfo, cache types.BlobInfoCache) ([]byte, error) {
	var raw []byte
	err := retryOnDigest(func() error {
		r, _, err := s.GetBlob(ctx, info, cache)
		if err != nil {
			return err
		}
		defer r.Close()
		raw, err = io.ReadAll(io.LimitReader(r, maxConfig+1))
		if err != nil {
			return err
		}
		if len(raw) > maxConfig {
			return fmt.Errorf("more than %d bytes", maxConfig)
		}
		if got := info.Digest.Algorithm().FromBytes(raw); got != info.Digest {
			return fmt.Errorf("got %s: %w", got, ErrDigest)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the image's configuration %s: %w", info.Digest, err)
	}
	s.mu.Lock()
	s.config[info.Digest] = raw
	s.mu.Unlock()
	return raw, nil
}

// GetBlob gives what was fetched before, or a stream that reconnects.
func (s *source) GetBlob(ctx context.Context, info types.BlobInfo, cache types.BlobInfoCache) (io.ReadCloser, int64, error) {
	s.mu.Lock()
	raw, ok := s.config[info.Digest]
	s.mu.Unlock()
	if ok {
		return io.NopCloser(bytes.NewReader(raw)), int64(len(raw)), nil
	}
	if s.made != nil {
		r, err := s.made(ctx, info.Digest)
		return r, -1, err
	}
	// A manifest may name other servers for a blob, be it this machine's own or a
	// cloud's. Only what has a license against registries needs it, and that is
	// for another operating system.
	info.URLs = nil
	b := s.stream(ctx, info, cache, info.Digest)
	if err := b.open(); err != nil {
		return nil, 0, err
	}
	return b, b.size, nil
}

// stream is what the source itself has under a blob's digest, not opened yet.
// Its progress is told as that of another, where it serves to make that.
func (s *source) stream(ctx context.Context, info types.BlobInfo, cache types.BlobInfoCache, as digest.Digest) *blob {
	progress := s.progress
	if progress != nil && as != info.Digest {
		progress = func(_ digest.Digest, done int64) { s.progress(as, done) }
	}
	return &blob{ctx: ctx, src: s.ImageSource, info: info, cache: cache, size: info.Size, progress: progress, patience: blobPatience}
}

// pose makes the source have another image: with this manifest and
// configuration, and with layers that made gives.
func (s *source) pose(m, config []byte, made func(context.Context, digest.Digest) (io.ReadCloser, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.manifests = map[digest.Digest]fetchedManifest{"": {m, manifest.GuessMIMEType(m)}}
	s.config = map[digest.Digest][]byte{digest.FromBytes(config): config}
	s.made = made
}

// GetSignatures gives those of the image, unless the source poses as another.
func (s *source) GetSignatures(ctx context.Context, instance *digest.Digest) ([][]byte, error) {
	if s.made != nil {
		return nil, nil
	}
	return s.ImageSource.GetSignatures(ctx, instance)
}

// LayerInfosForCopy is for layers that are in another form than the manifest
// says.
func (s *source) LayerInfosForCopy(ctx context.Context, instance *digest.Digest) ([]types.BlobInfo, error) {
	if s.made != nil {
		return nil, nil
	}
	return s.ImageSource.LayerInfosForCopy(ctx, instance)
}

// retryOnDigest runs f again, once, if what it got had the wrong digest.
func retryOnDigest(f func() error) error {
	err := f()
	if errors.Is(err, ErrDigest) {
		err = f()
	}
	return err
}

// sourceRef hands copy.Image the source that is already open.
type sourceRef struct {
	types.ImageReference
	src *source
}

func (r sourceRef) NewImageSource(context.Context, *types.SystemContext) (types.ImageSource, error) {
	return r.src, nil
}
