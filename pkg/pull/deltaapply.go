package pull

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/pkg/blobinfocache/none"
	"go.podman.io/image/v5/types"

	"github.com/balena-os/balena/pkg/delta"
	"github.com/balena-os/balena/pkg/durable"
	"github.com/balena-os/balena/pkg/lean"
)

// applyGC makes the garbage collector thrifty while a delta is applied: what is
// in use then is some ten megabytes, which would be doubled.
const applyGC = 10

// applier makes layers from deltas while copy.Image fetches the others. What it
// cannot make is left to copy.Image, which waits for its word on each layer.
type applier struct {
	p    *puller
	d    *destination
	ways []way // the cheapest first
	warn func(format string, a ...any)

	waiting map[*layer]chan struct{} // layers that are expected of a delta; closed when that is decided
	fetched int64                    // bytes of deltas
	from    string                   // the base that layers came from; "" if none did
}

// start begins to apply the cheapest way. wait ends it.
func (a *applier) start(ctx context.Context) (wait func()) {
	if len(a.ways) == 0 {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	a.waiting = map[*layer]chan struct{}{}
	for l := range a.ways[0].carry {
		a.waiting[l] = make(chan struct{})
		l.expected = a.waiting[l]
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.run(ctx)
	}()
	return func() { cancel(); <-done }
}

// run tries one way after the other, as long as it is cheaper than fetching
// what is still missing.
func (a *applier) run(ctx context.Context) {
	defer debug.SetGCPercent(debug.SetGCPercent(applyGC))
	debug.FreeOSMemory() // what finding the image took
	lean.Unmap()
	defer func() {
		for l := range a.waiting {
			a.decided(l)
		}
	}()
	for w, ok := a.nextWay(); ok; w, ok = a.nextWay() {
		err := a.apply(ctx, w)
		if ctx.Err() != nil || len(a.waiting) == 0 || a.d.failed != nil {
			return
		}
		if err == nil {
			err = errors.New("it does not have all the layers that it is said to have")
		}
		err = fmt.Errorf("delta from %s: %w", w.offer.from, a.explain(err))
		switch {
		case len(a.ways) > 0 && a.worthwhile(a.ways[0]):
			a.warn("%v; trying another", err)
		case a.onlyWay():
			_ = a.d.broken(err)
		default:
			a.warn("%v; fetching whole layers", err)
		}
	}
}

// nextWay takes the next way that is worth it, and gives up what that does not
// carry.
func (a *applier) nextWay() (way, bool) {
	for len(a.ways) > 0 {
		w := a.ways[0]
		a.ways = a.ways[1:]
		if !a.worthwhile(w) {
			continue
		}
		for l := range a.waiting {
			if !w.carry[l] {
				a.decided(l)
			}
		}
		return w, true
	}
	return way{}, false
}

// decided lets copy.Image go on with a layer.
func (a *applier) decided(l *layer) {
	close(a.waiting[l])
	delete(a.waiting, l)
}

// worthwhile tells whether a way is cheaper than whole layers for what is still
// expected.
func (a *applier) worthwhile(w way) bool {
	var whole int64
	for l := range a.waiting {
		if w.carry[l] {
			whole += wholeSize(a.d.src, l)
		}
	}
	return w.offer.Blob.Size < whole
}

// onlyWay tells whether a layer that is still expected cannot be had whole.
func (a *applier) onlyWay() bool {
	for l := range a.waiting {
		if wholeSize(a.d.src, l) >= unavailable {
			return true
		}
	}
	return false
}

// explain says what is wrong in the words of somebody who has only the image.
func (a *applier) explain(err error) error {
	var file *delta.BaseError
	if errors.As(err, &file) {
		return fmt.Errorf("damaged base file /%s (%w)", file.Path, file.Err)
	}
	return err
}

// apply makes what it can of the expected layers from one delta.
func (a *applier) apply(ctx context.Context, w way) error {
	if w.offer.diffs != nil {
		return a.applyDiffs(ctx, w)
	}
	base, err := a.p.openBase(ctx, w.offer.base)
	if err != nil {
		return err
	}
	defer base.Close()
	blob := a.p.deltaBlob(ctx, a.d.src, w.offer, func(done int64) {
		a.d.tell(Event{Layer: w.offer.Blob.Digest, From: w.offer.from, State: Fetching, Done: done, Total: w.offer.Blob.Size})
	})
	if err := blob.open(); err != nil {
		return err
	}
	defer blob.Close()
	defer func() { a.fetched += blob.at }()
	in := io.Reader(&verifiedBlob{r: blob, v: w.offer.Blob.Digest.Verifier()})
	if w.offer.inTar {
		file, err := deltaInTar(in)
		if err != nil {
			return err
		}
		defer file.Close()
		in = file
	}
	r, err := delta.Open(in, base.files)
	if err != nil {
		return err
	}
	if err := a.layers(ctx, r, w); err != nil {
		return err
	}
	a.d.tell(Event{Layer: w.offer.Blob.Digest, From: w.offer.from, State: Committed, Done: blob.at, Total: w.offer.Blob.Size})
	return nil
}

// verifiedBlob fails at the end of a blob that is not what its digest says.
type verifiedBlob struct {
	r io.Reader
	v digest.Verifier
}

func (b *verifiedBlob) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	_, _ = b.v.Write(p[:n])
	if errors.Is(err, io.EOF) && !b.v.Verified() {
		err = fmt.Errorf("the delta itself: %w", ErrDigest)
	}
	return n, err
}

// layerReader gives the tars of layers, one after the other, like
// [delta.Reader].
type layerReader interface {
	Next() (digest.Digest, error) // io.EOF after the last
	io.Reader
}

// layers puts what a delta gives where it is expected, until nothing is.
func (a *applier) layers(ctx context.Context, r layerReader, w way) error {
	last := -1
	for len(a.waiting) > 0 {
		diffID, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		l := a.next(diffID, last)
		if l == nil {
			continue
		}
		last = l.index
		if err := a.d.make(ctx, r, l); err != nil {
			return err
		}
		a.from = w.offer.from
		a.decided(l)
	}
	return nil
}

// next finds the expected layer with that content.
func (a *applier) next(diffID digest.Digest, after int) *layer {
	var found *layer
	for l := range a.waiting {
		if l.diffID == diffID && l.index > after && (found == nil || l.index < found.index) {
			found = l
		}
	}
	return found
}

// make extracts a layer that is made here, from its tar.
func (d *destination) make(ctx context.Context, tar io.Reader, l *layer) error {
	if err := d.claim(ctx, l); err != nil {
		return err
	}
	if has, err := d.w.Has(l.id, l.diffID); err != nil || has {
		if err != nil {
			return err
		}
		return d.broken(d.arrived(ctx, l, nil))
	}
	limit, err := d.limit(l)
	if err != nil {
		return err
	}
	in := &watched{r: &limited{r: tar, left: limit}}
	var staged *durable.Staged
	if d.w.CanStage() {
		staged, err = d.w.Stage(ctx, in, l.diffID)
	} else if err = d.waitForParent(ctx, l); err == nil {
		err = d.w.Put(ctx, in, d.record(l))
	}
	if err != nil {
		if in.err != nil && !errors.Is(in.err, io.EOF) {
			err = in.err // rather than what the unpacker made of it
		}
		return err
	}
	d.tell(Event{Layer: l.blob.Digest, State: Extracted, Done: l.blob.Size, Total: l.blob.Size})
	return d.broken(d.arrived(ctx, l, staged))
}

// broken remembers an error that no other way can mend: layers could not be
// committed, or there is none.
func (d *destination) broken(err error) error {
	if err != nil {
		d.mu.Lock()
		d.failed = errors.Join(d.failed, err)
		d.mu.Unlock()
	}
	return err
}

// waitForParent waits until the layer below is in the store.
func (d *destination) waitForParent(ctx context.Context, l *layer) error {
	if l.index == 0 {
		return nil
	}
	select {
	case <-d.plan.layers[l.index-1].done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// maxDeflate is by how much deflate can shrink anything at best.
const maxDeflate = 1032

// limit bounds the tar of a layer that a delta makes. A delta says nothing
// about it that could be believed before the end. The manifest does: how large
// the compressed layer is, and gzip has an upper bound. Whatever else is
// claimed, a tenth of the disk's free space stays free: better to fetch the
// layer whole than to fill the disk with what turns out to be none.
func (d *destination) limit(l *layer) (int64, error) {
	free, err := durable.Free(d.layers.GraphRoot())
	if err != nil {
		return 0, err
	}
	limit := free / 10 * 9
	switch {
	case l.blob.Size < 0:
	case strings.HasSuffix(l.blob.MediaType, "gzip"):
		limit = min(limit, l.blob.Size*maxDeflate)
	case strings.HasSuffix(l.blob.MediaType, ".tar"):
		limit = min(limit, l.blob.Size)
	}
	return limit, nil
}

var errTooLong = errors.New("it makes more than the layer can be")

// limited fails when more is read from it than there may be.
type limited struct {
	r    io.Reader
	left int64
}

func (l *limited) Read(p []byte) (int, error) {
	if int64(len(p)) > l.left+1 {
		p = p[:l.left+1]
	}
	n, err := l.r.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return 0, errTooLong
	}
	return n, err
}

// A delta is not waited for as long as a layer is: there is another way.
const (
	deltaIdle       = 15 * time.Second
	deltaFirstTries = 2
	deltaTries      = 3
)

// deltaBlob is the stream of a delta, which goes on where a broken connection
// ended.
func (p *puller) deltaBlob(ctx context.Context, src *source, o *offer, progress func(done int64)) *blob {
	info := types.BlobInfo{Digest: o.Blob.Digest, Size: o.Blob.Size, MediaType: o.Blob.MediaType}
	return &blob{
		ctx: ctx, src: src.ImageSource, info: info, cache: none.NoCache, size: info.Size,
		progress: func(_ digest.Digest, done int64) { progress(done) },
		patience: patience{idle: deltaIdle, first: deltaFirstTries, more: deltaTries},
	}
}
