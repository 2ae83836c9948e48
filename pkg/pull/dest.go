package pull

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"syscall"

	"github.com/opencontainers/go-digest"
	imgspecv1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/manifest"
	istorage "go.podman.io/image/v5/storage"
	"go.podman.io/image/v5/types"
	"go.podman.io/storage"

	"github.com/balena-os/balena/pkg/durable"
)

// destination is where copy.Image puts an image: layers go into staging
// directories while they stream and are committed in order; the image's record
// is written when all of them are there. It survives a second run of
// copy.Image, so that one bad blob does not cost the others.
type destination struct {
	w      *durable.Writer
	layers storage.Store
	plan   *plan
	src    *source
	tell   func(Event)
	fail   context.CancelCauseFunc // stops the other layers

	mu      sync.Mutex
	asked   map[digest.Digest]int // TryReusingBlob calls of this run
	next    int                   // the layer that is to be committed next
	refetch map[digest.Digest]bool
	failed  error // of layers that a delta made, when they were committed
	fetched int64 // bytes of the blobs that came whole

	signatures [][]byte
	commit     func(top []byte, signatures [][]byte) error
}

// begin prepares for a run of copy.Image.
func (d *destination) begin() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = map[digest.Digest]int{}
	d.signatures = nil
}

// abandon removes what was staged and not committed, and ends all claims.
func (d *destination) abandon() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	for _, l := range d.plan.layers {
		errs = append(errs, d.w.Discard(l.staged))
		l.staged = nil
		l.unclaim()
	}
	return errors.Join(errs...)
}

func (l *layer) unclaim() {
	if l.release != nil {
		l.release()
		l.release = nil
	}
}

// assign gives the layer that this call of TryReusingBlob is about: the n-th
// call for a digest is for the n-th layer with it.
func (d *destination) assign(blob digest.Digest) *layer {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.asked[blob]
	for _, l := range d.plan.layers {
		if l.blob.Digest != blob {
			continue
		}
		if n == 0 {
			d.asked[blob]++
			return l
		}
		n--
	}
	return nil
}

// find gives the layer that PutBlob is about: the first one with that digest
// that has not come. Others wait for it, and are fetched only where a layer
// cannot be made from another.
func (d *destination) find(blob digest.Digest) *layer {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.plan.layers {
		if l.blob.Digest == blob && !l.committed() && l.staged == nil {
			return l
		}
	}
	return nil
}

// TryReusingBlob says that a layer need not be fetched: it is in the store, or
// the same content is, under another parent.
func (d *destination) TryReusingBlob(ctx context.Context, info types.BlobInfo, _ types.BlobInfoCache, _ bool) (bool, types.BlobInfo, error) {
	defer durable.OrDie()
	l := d.assign(info.Digest)
	if l == nil {
		return false, types.BlobInfo{}, nil // the configuration
	}
	reused, err := d.reuse(ctx, l)
	if err != nil {
		err = fmt.Errorf("layer %s: %w", l.blob.Digest, err)
		d.fail(err)
		return false, types.BlobInfo{}, err
	}
	return reused, info, nil
}

func (d *destination) reuse(ctx context.Context, l *layer) (bool, error) {
	if l.expected != nil {
		d.tell(Event{Layer: l.blob.Digest, State: Waiting, Total: l.blob.Size})
		select {
		case <-l.expected:
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
	d.mu.Lock()
	there := l.committed() || l.staged != nil // in an earlier run, or from a delta
	failed := d.failed
	d.mu.Unlock()
	if there || failed != nil {
		return there, failed
	}
	if err := d.claim(ctx, l); err != nil {
		return false, err
	}
	has, err := d.w.Has(l.id, l.diffID)
	if err != nil {
		return false, err
	}
	if has {
		d.tell(Event{Layer: l.blob.Digest, State: Exists, Done: l.blob.Size, Total: l.blob.Size})
		return true, d.arrived(ctx, l, nil)
	}
	if err := d.waitForTwin(ctx, l); err != nil {
		return false, err
	}
	staged, err := d.reread(ctx, l)
	if staged == nil {
		return false, err
	}
	d.tell(Event{Layer: l.blob.Digest, State: Exists, Done: l.blob.Size, Total: l.blob.Size})
	return true, d.arrived(ctx, l, staged)
}

// claim waits until no other pull works on the layer.
func (d *destination) claim(ctx context.Context, l *layer) error {
	if l.release != nil {
		return nil
	}
	d.tell(Event{Layer: l.blob.Digest, State: Waiting, Total: l.blob.Size})
	release, err := d.w.Claim(ctx, l.id)
	if err != nil {
		return err
	}
	l.release = release
	return nil
}

// waitForTwin waits for an earlier layer of this image with the same content.
func (d *destination) waitForTwin(ctx context.Context, l *layer) error {
	for _, twin := range d.plan.layers[:l.index] {
		if twin.diffID != l.diffID {
			continue
		}
		select {
		case <-twin.done:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// reread stages a layer from the same content elsewhere in the store. What
// cannot be read back is fetched instead, without a word.
func (d *destination) reread(ctx context.Context, l *layer) (*durable.Staged, error) {
	same, err := d.layers.LayersByUncompressedDigest(l.diffID)
	if err != nil || len(same) == 0 || !d.w.CanStage() {
		return nil, nil
	}
	// Not by the store's Diff: it would hold the lock of the layers while staging
	// takes that of the driver, and others take the two the other way round.
	tar, err := durable.Assemble(d.layers, same[0].ID)
	if err != nil || tar == nil {
		return nil, nil
	}
	defer tar.Close()
	staged, err := d.w.Stage(ctx, tar, l.diffID)
	switch {
	case err == nil:
		return staged, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return nil, d.explain(err)
	}
	return nil, nil
}

// PutBlob extracts a layer while it arrives.
func (d *destination) PutBlob(ctx context.Context, stream io.Reader, info types.BlobInfo, _ types.BlobInfoCache, isConfig bool) (types.BlobInfo, error) {
	defer durable.OrDie()
	if isConfig {
		_, err := io.Copy(io.Discard, stream) // known already; copy.Image checks its digest
		return info, err
	}
	l := d.find(info.Digest)
	if l == nil {
		return types.BlobInfo{}, fmt.Errorf("blob %s is none of the image's layers", info.Digest)
	}
	if err := d.extract(ctx, stream, l); err != nil {
		err = fmt.Errorf("layer %s: %w", l.blob.Digest, d.explain(err))
		d.fail(err)
		return types.BlobInfo{}, err
	}
	return info, nil
}

func (d *destination) extract(ctx context.Context, stream io.Reader, l *layer) error {
	in := &watched{r: stream}
	var staged *durable.Staged
	tar, err := decompress(in)
	if err == nil {
		if d.w.CanStage() {
			staged, err = d.w.Stage(ctx, tar, l.diffID)
		} else {
			err = d.w.Put(ctx, tar, d.record(l))
		}
		tar.Close()
	}
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if tar != nil && tar.n > 100*max(1, l.blob.Size) && (errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)) {
			err = fmt.Errorf("its %s are more than %s when decompressed: %w", size(max(0, l.blob.Size)), size(tar.n), err)
		}
		return d.contentError(l, in, err)
	}
	d.mu.Lock()
	d.fetched += max(0, l.blob.Size)
	d.mu.Unlock()
	d.tell(Event{Layer: l.blob.Digest, State: Extracted, Done: l.blob.Size, Total: l.blob.Size})
	return d.arrived(ctx, l, staged)
}

// contentError tells what was wrong with a blob: if what arrived was not what
// the manifest names, it is worth fetching again, once.
func (d *destination) contentError(l *layer, in *watched, err error) error {
	if in.err == nil { // near the end it is cheap to learn whether the digest fits
		_, _ = io.CopyN(io.Discard, in, 64<<10)
	}
	var fetch *fetchError
	switch {
	case errors.As(err, &fetch):
		return fetch
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EROFS), errors.Is(err, syscall.EIO):
		return err
	case in.err == io.EOF: // the blob was what it should be: fetching it again is no use
		return err
	case in.err != nil && !strings.Contains(in.err.Error(), "Digest did not match"):
		return err
	case in.err != nil:
		err = fmt.Errorf("%w: %w", ErrDigest, in.err)
	} // else it broke off in the middle: perhaps on the way
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.refetch == nil {
		d.refetch = map[digest.Digest]bool{}
	}
	if d.refetch[l.blob.Digest] {
		return err
	}
	d.refetch[l.blob.Digest] = true
	return &refetchError{err}
}

// refetchError says that the copy should run again.
type refetchError struct{ err error }

func (e *refetchError) Error() string { return e.err.Error() }
func (e *refetchError) Unwrap() error { return e.err }

func (d *destination) explain(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		var all int64
		for _, l := range d.plan.layers {
			all += max(0, l.blob.Size)
		}
		what := "the disk filled up"
		if errors.Is(err, syscall.EDQUOT) {
			what = "the quota was used up"
		}
		return fmt.Errorf("%w: %s while the image, %s compressed, was written: %w", ErrNoSpace, what, size(all), err)
	}
	return err
}

// watched remembers how a stream ended.
type watched struct {
	r   io.Reader
	err error
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if err != nil {
		w.err = err
	}
	return n, err
}

func (d *destination) record(l *layer) durable.Layer {
	return durable.Layer{ID: l.id, Parent: l.parent, DiffID: l.diffID, Blob: l.blob.Digest}
}

// arrived takes a staged layer, or nil for one that is in the store, and
// commits what can be: each layer as soon as its parent is there.
func (d *destination) arrived(ctx context.Context, l *layer, staged *durable.Staged) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if l.staged = staged; staged == nil {
		l.unclaim()
		close(l.done)
	}
	for d.next < len(d.plan.layers) {
		n := d.plan.layers[d.next]
		if !n.committed() {
			if n.staged == nil {
				return nil
			}
			err := d.w.Commit(ctx, n.staged, d.record(n))
			n.staged = nil
			n.unclaim()
			if err != nil {
				return d.explain(err)
			}
			close(n.done)
			d.tell(Event{Layer: n.blob.Digest, State: Committed, Done: n.blob.Size, Total: n.blob.Size})
		}
		d.next++
	}
	return nil
}

func (d *destination) PutManifest(_ context.Context, m []byte, _ *digest.Digest) error {
	if !bytes.Equal(m, d.plan.manifest) {
		return errors.New("internal error: the manifest changed on its way")
	}
	return nil
}

func (d *destination) PutSignatures(_ context.Context, signatures [][]byte, _ *digest.Digest) error {
	d.signatures = signatures
	return nil
}

// Commit writes the image's record, once all layers are in the store.
func (d *destination) Commit(ctx context.Context, top types.UnparsedImage) error {
	for _, l := range d.plan.layers {
		if !l.committed() {
			return fmt.Errorf("internal error: layer %s was not committed", l.blob.Digest)
		}
	}
	raw, _, err := top.Manifest(ctx)
	if err != nil {
		return err
	}
	return d.commit(raw, d.signatures)
}

func (d *destination) Close() error { return nil }

func (d *destination) Reference() types.ImageReference { return destinationRef{d} }
func (d *destination) SupportedManifestMIMETypes() []string {
	return []string{imgspecv1.MediaTypeImageManifest, manifest.DockerV2Schema2MediaType}
}
func (d *destination) SupportsSignatures(context.Context) error        { return nil }
func (d *destination) DesiredLayerCompression() types.LayerCompression { return types.PreserveOriginal }
func (d *destination) AcceptsForeignLayerURLs() bool                   { return false }
func (d *destination) MustMatchRuntimeOS() bool                        { return false }
func (d *destination) IgnoresEmbeddedDockerReference() bool            { return true }
func (d *destination) HasThreadSafePutBlob() bool                      { return true }

// destinationRef names the destination in copy.Image's messages.
type destinationRef struct{ d *destination }

var errNoSuchDirection = errors.New("this reference can only be written to")

func (r destinationRef) Transport() types.ImageTransport         { return istorage.Transport }
func (r destinationRef) StringWithinTransport() string           { return "" }
func (r destinationRef) DockerReference() reference.Named        { return nil }
func (r destinationRef) PolicyConfigurationIdentity() string     { return "" }
func (r destinationRef) PolicyConfigurationNamespaces() []string { return nil }
func (r destinationRef) DeleteImage(context.Context, *types.SystemContext) error {
	return errNoSuchDirection
}
func (r destinationRef) NewImage(context.Context, *types.SystemContext) (types.ImageCloser, error) {
	return nil, errNoSuchDirection
}
func (r destinationRef) NewImageSource(context.Context, *types.SystemContext) (types.ImageSource, error) {
	return nil, errNoSuchDirection
}
func (r destinationRef) NewImageDestination(context.Context, *types.SystemContext) (types.ImageDestination, error) {
	return r.d, nil
}
