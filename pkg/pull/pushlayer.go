package pull

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/docker/distribution/registry/api/errcode"
	"github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/manifest"
	"go.podman.io/image/v5/pkg/blobinfocache/none"
	"go.podman.io/image/v5/pkg/compression"
	"go.podman.io/image/v5/types"
	"go.podman.io/storage"
)

// sentKey is the layer's data item that lists the compressed forms in which it
// is known to have been somewhere.
const sentKey = "balena-compressed"

// compressed is a form in which a layer is known to exist.
type compressed struct {
	Digest    digest.Digest
	Size      int64
	Algorithm string // gzip or zstd
}

func (c compressed) info() types.BlobInfo {
	b := types.BlobInfo{Digest: c.Digest, Size: c.Size, CompressionOperation: types.Compress}
	if algo, err := compression.AlgorithmByName(c.Algorithm); err == nil {
		b.CompressionAlgorithm = &algo
	}
	return b
}

// sendLayers makes the registry have every layer, some at once, each tried
// again while its errors can pass. It returns in which form they are there, and
// whether that is the form that the image's manifest has for all of them.
func (p *pusher) sendLayers(ctx context.Context, source, ref types.ImageReference) (map[digest.Digest]types.BlobInfo, bool, error) {
	present, forms, err := p.forms(ctx, source)
	if err != nil {
		return nil, false, err
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var (
		mu    sync.Mutex
		wg    sync.WaitGroup
		done  = map[digest.Digest]types.BlobInfo{}
		same  = len(present) == len(p.byDigest)
		slots = make(chan struct{}, p.parallel())
	)
	diffIDs := slices.SortedFunc(maps.Keys(p.byDigest), func(a, b digest.Digest) int { return p.index[a] - p.index[b] })
	for _, d := range diffIDs {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			b, err := p.sendLayer(ctx, ref, d, forms[d])
			if err != nil {
				stop(fmt.Errorf("layer %s: %w", p.byDigest[d].ID, err))
				return
			}
			mu.Lock()
			defer mu.Unlock()
			done[d], done[b.Digest] = b, b
			same = same && b.Digest == present[d].Digest
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return nil, false, err
	}
	return done, same, nil
}

// forms are the compressed forms of the image's layers that its manifests
// name, by diffID: first as its present manifest has them, then as those have
// them that it was pulled with before.
func (p *pusher) forms(ctx context.Context, source types.ImageReference) (present map[digest.Digest]compressed, all map[digest.Digest][]compressed, err error) {
	src, err := source.NewImageSource(ctx, p.sys)
	if err != nil {
		return nil, nil, err
	}
	defer src.Close()
	raw, mime, err := src.GetManifest(ctx, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the manifest: %w", err)
	}
	plain, err := src.LayerInfosForCopy(ctx, nil)
	if err != nil {
		return nil, nil, err
	}
	if present, err = p.formsIn(raw, mime, plain); err != nil {
		return nil, nil, fmt.Errorf("reading the manifest: %w", err)
	}
	all = map[digest.Digest][]compressed{}
	for d, c := range present {
		all[d] = append(all[d], c)
	}
	for _, name := range p.img.BigDataNames {
		if !strings.HasPrefix(name, storage.ImageDigestManifestBigDataNamePrefix+"-") {
			continue
		}
		old, err := p.layers.ImageBigData(p.img.ID, name)
		if err != nil {
			continue
		}
		more, _ := p.formsIn(old, manifest.GuessMIMEType(old), plain) // an index is not one: no forms
		for d, c := range more {
			if !slices.Contains(all[d], c) {
				all[d] = append(all[d], c)
			}
		}
	}
	return present, all, nil
}

// formsIn are the compressed forms in one manifest, given the same layers in
// their plain form.
func (p *pusher) formsIn(raw []byte, mime string, plain []types.BlobInfo) (map[digest.Digest]compressed, error) {
	if mime == "" {
		mime = manifest.GuessMIMEType(raw)
	}
	m, err := manifest.FromBlob(raw, mime)
	if err != nil {
		return nil, err
	}
	found := map[digest.Digest]compressed{}
	for i, info := range m.LayerInfos() {
		algo := algorithmOf(info.MediaType)
		if i < len(plain) && !info.EmptyLayer && info.Digest != plain[i].Digest && algo != "" && p.byDigest[plain[i].Digest] != nil {
			found[plain[i].Digest] = compressed{info.Digest, info.Size, algo}
		}
	}
	return found, nil
}

func algorithmOf(mediaType string) string {
	switch {
	case strings.HasSuffix(mediaType, "gzip"):
		return "gzip"
	case strings.HasSuffix(mediaType, "zstd"):
		return "zstd"
	}
	return ""
}

func (p *pusher) sendLayer(ctx context.Context, ref types.ImageReference, d digest.Digest, forms []compressed) (types.BlobInfo, error) {
	l := p.byDigest[d]
	known := slices.Concat(forms, p.known(l))
	var b types.BlobInfo
	err := retry(ctx, func() error {
		dest, err := ref.NewImageDestination(ctx, p.sys)
		if err != nil {
			return err
		}
		defer dest.Close()
		for _, k := range known {
			if p.o.Compression != "" && p.o.Compression != k.Algorithm || k.Algorithm == "zstd" && isDockerFormat(p.o.Format) {
				continue
			}
			ok, got, err := dest.TryReusingBlob(ctx, types.BlobInfo{Digest: k.Digest, Size: k.Size}, none.NoCache, false)
			if err != nil {
				return err
			}
			if ok {
				if b = k.info(); got.Size > 0 {
					b.Size = got.Size
				}
				p.tell(l, Event{State: Exists, Done: l.UncompressedSize, Total: l.UncompressedSize})
				return nil
			}
		}
		b, err = p.upload(ctx, dest, l)
		return err
	})
	if err != nil {
		return b, err
	}
	sent := compressed{b.Digest, b.Size, b.CompressionAlgorithm.Name()}
	if !slices.Contains(known, sent) {
		// Only so that it need not be sent again: failing is no failure of the push.
		if raw, err := json.Marshal(append(p.known(l), sent)); err == nil {
			_ = p.layers.SetLayerBigData(l.ID, sentKey, bytes.NewReader(raw))
		}
	}
	return b, nil
}

// known reads what sendLayer remembered.
func (p *pusher) known(l *storage.Layer) []compressed {
	r, err := p.layers.LayerBigData(l.ID, sentKey)
	if err != nil {
		return nil
	}
	defer r.Close()
	var known []compressed
	if json.NewDecoder(r).Decode(&known) != nil {
		return nil
	}
	return slices.DeleteFunc(known, func(c compressed) bool {
		return c.Digest.Validate() != nil || c.Algorithm != "gzip" && c.Algorithm != "zstd"
	})
}

// upload compresses a layer while it is sent. The compressors have no notion
// of time or place, so that the same layer gets the same digest again.
func (p *pusher) upload(ctx context.Context, dest types.ImageDestination, l *storage.Layer) (types.BlobInfo, error) {
	tar, err := openTar(p.layers, l)
	if err != nil {
		return types.BlobInfo{}, err
	}
	tar = p.watch(tar, l)
	defer tar.Close()
	pr, pw := io.Pipe()
	compressed := make(chan error, 1)
	go func() {
		z, err := compression.CompressStream(pw, p.algo, p.o.CompressionLevel)
		if err == nil {
			_, err = io.Copy(z, tar)
			err = errors.Join(err, z.Close())
		}
		pw.CloseWithError(err)
		compressed <- err
	}()
	b, err := dest.PutBlob(ctx, pr, types.BlobInfo{Size: -1}, none.NoCache, false)
	pr.CloseWithError(errStopped)
	if cerr := <-compressed; cerr != nil && !errors.Is(cerr, errStopped) {
		return types.BlobInfo{}, cerr // what went wrong first
	}
	if err != nil {
		return types.BlobInfo{}, err
	}
	b.CompressionOperation, b.CompressionAlgorithm = types.Compress, &p.algo
	p.tell(l, Event{State: Committed, Done: l.UncompressedSize, Total: l.UncompressedSize})
	return b, nil
}

var errStopped = errors.New("the registry stopped reading")

// tell reports about a layer.
func (p *pusher) tell(l *storage.Layer, e Event) {
	if p.o.Progress == nil {
		return
	}
	e.Push = true
	e.Ref, e.Layer, e.Index, e.Layers = p.name, l.UncompressedDigest, p.index[l.UncompressedDigest], len(p.index)
	p.o.Progress(e)
}

// watch tells how much of a layer was read.
func (p *pusher) watch(r io.ReadCloser, l *storage.Layer) io.ReadCloser {
	if p.o.Progress == nil {
		return r
	}
	p.tell(l, Event{State: Fetching, Total: l.UncompressedSize})
	return &readAlong{ReadCloser: r, tell: func(n int64, end bool) {
		e := Event{State: Fetching, Done: n, Total: l.UncompressedSize}
		if end && p.name == "" { // an archive has no later word
			e.State = Committed
		}
		p.tell(l, e)
	}}
}

// readAlong tells how much was read.
type readAlong struct {
	io.ReadCloser
	n, told int64
	tell    func(n int64, end bool)
}

const tellEvery = 256 << 10

func (w *readAlong) Read(b []byte) (int, error) {
	n, err := w.ReadCloser.Read(b)
	if w.n += int64(n); w.n-w.told >= tellEvery || errors.Is(err, io.EOF) {
		w.told = w.n
		w.tell(w.n, errors.Is(err, io.EOF))
	}
	return n, err
}

// Retries of what may pass: 5 in all, after 1, 2, 4 and 8 s.
const (
	pushTries = 5
	pushFirst = time.Second
)

// retry calls f until it succeeds, its error is one that will not pass, or
// enough is enough.
func retry(ctx context.Context, f func() error) error {
	wait := pushFirst
	for try := 1; ; try++ {
		err := f()
		if err == nil || try == pushTries || ctx.Err() != nil || !passes(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
		wait *= 2
	}
}

// passes tells whether trying again may help: after a broken connection and
// when the server says that it is in trouble. A refused connection, a refused
// request and a name that nobody knows stay what they are.
func passes(err error) bool {
	if permanent(err) {
		return false
	}
	var code errcode.ErrorCoder
	var status docker.UnexpectedHTTPStatusError
	if errors.As(err, &code) || errors.As(err, &status) || errors.Is(err, docker.ErrTooManyRequests) {
		return true
	}
	var op *net.OpError // a connection that there was
	if errors.As(err, &op) && (op.Op == "read" || op.Op == "write") {
		return true
	}
	for _, e := range []error{syscall.ECONNRESET, syscall.EPIPE, syscall.ECONNABORTED, syscall.ETIMEDOUT, io.ErrUnexpectedEOF} {
		if errors.Is(err, e) {
			return true
		}
	}
	var u *url.Error // what the HTTP client returns when the server hangs up
	if errors.As(err, &u) {
		return errors.Is(u.Err, io.EOF) || u.Timeout()
	}
	return false
}
