package pull

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"
	imgspecv1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/image/v5/copy"
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/manifest"
	"go.podman.io/image/v5/pkg/compression"
	"go.podman.io/image/v5/signature"
	istorage "go.podman.io/image/v5/storage"
	"go.podman.io/image/v5/types"
	"go.podman.io/storage"

	"github.com/balena-os/balena/pkg/store"
)

// PushOptions are how an image is sent. The zero value keeps the manifest's
// format, and the compressed form of layers that the registry has, and sends
// the others with gzip.
type PushOptions struct {
	RegistryOptions
	Format           string // "", "oci" or "docker" (also "v2s2"), of the manifest
	Compression      string // "", "gzip" or "zstd"
	CompressionLevel *int   // nil is the algorithm's own
	Parallel         int    // layers at once; 0 is 3

	Progress func(Event) // called by several goroutines; nil: nothing is told
}

// Pushed is an image that was sent.
type Pushed struct {
	Name   string        // where to; "" for archives and folders
	Tag    string        //
	Digest digest.Digest // of the manifest that was written
	Size   int           // bytes of that manifest
}

// ErrNoDestination is for a push by ID: it does not say where to.
var ErrNoDestination = errors.New("an ID does not say where to push to: name a destination")

// Push sends an image to dest, [TRANSPORT:]REF as ParseReference takes it; ""
// is the registry that the image's name says.
//
// Layers that the registry has are not sent: those with the digest that the
// image was pulled with, and those that this engine sent or began to send
// anywhere before, which it remembers with each layer. So a push that was
// interrupted goes on with the layers that are missing.
func Push(ctx context.Context, st *store.Store, name, dest string, o PushOptions) (Pushed, error) {
	layers, err := st.Layers()
	if err != nil {
		return Pushed{}, err
	}
	img, found, err := Find(layers, name)
	if err != nil {
		return Pushed{}, err
	}
	if isList(img) {
		return pushList(ctx, layers, img, found, dest, false, o)
	}
	if dest == "" {
		if dest = found; dest == "" {
			return Pushed{}, fmt.Errorf("pushing %q: %w", name, ErrNoDestination)
		}
	}
	p := &pusher{o: o, layers: layers, img: img, found: found, byDigest: map[digest.Digest]*storage.Layer{}}
	pushed, err := p.push(ctx, dest)
	if err != nil {
		return Pushed{}, fmt.Errorf("pushing %q: %w", dest, unauthorized(err))
	}
	return pushed, nil
}

type pusher struct {
	o      PushOptions
	layers storage.Store
	img    *storage.Image
	found  string // the image's name, if it was found by one
	sys    *types.SystemContext
	algo   compression.Algorithm

	byDigest map[digest.Digest]*storage.Layer // the image's layers by diffID
	index    map[digest.Digest]int            // their places
	name     string                           // for events
}

func (p *pusher) push(ctx context.Context, dest string) (Pushed, error) {
	ref, named, err := ParseReference(dest, nil)
	if err != nil {
		return Pushed{}, err
	}
	raw, err := p.send(ctx, ref, named)
	if err != nil {
		return Pushed{}, err
	}
	d, err := manifest.Digest(raw)
	if err != nil {
		return Pushed{}, err
	}
	pushed := Pushed{Digest: d, Size: len(raw)}
	if named != nil {
		pushed.Name = named.String()
		if t, ok := named.(reference.Tagged); ok {
			pushed.Tag = t.Tag()
		}
	}
	return pushed, nil
}

// send returns the manifest that was written.
func (p *pusher) send(ctx context.Context, ref types.ImageReference, named reference.Named) ([]byte, error) {
	if err := p.prepare(ref, named); err != nil {
		return nil, err
	}
	source, err := istorage.Transport.NewStoreReference(p.layers, nil, p.img.ID)
	if err != nil {
		return nil, err
	}
	copyOpts := &copy.Options{
		ReportWriter: io.Discard, SourceCtx: p.sys, DestinationCtx: p.sys,
		RemoveSignatures: true, MaxParallelDownloads: uint(p.parallel()),
	}
	switch {
	case p.o.Format == "":
	case p.o.Format == "oci":
		copyOpts.ForceManifestMIMEType = imgspecv1.MediaTypeImageManifest
	case isDockerFormat(p.o.Format) && p.o.Compression == "zstd":
		return nil, errors.New("docker's manifest format has no zstd: choose oci")
	case isDockerFormat(p.o.Format):
		copyOpts.ForceManifestMIMEType = manifest.DockerV2Schema2MediaType
	default:
		return nil, fmt.Errorf("unknown manifest format %q: it is oci or docker", p.o.Format)
	}
	srcRef := pushSourceRef{source, p, false}
	dstRef := pushDestRef{ref, nil}
	if ref.Transport().Name() == docker.Transport.Name() {
		done, same, err := p.sendLayers(ctx, source, ref)
		if err != nil {
			return nil, err
		}
		srcRef.verbatim = same && p.o.Format == ""
		copyOpts.RemoveSignatures = !srcRef.verbatim
		dstRef.done = done
		if copyOpts.ForceManifestMIMEType == "" && usesZstd(done) {
			copyOpts.ForceManifestMIMEType = imgspecv1.MediaTypeImageManifest // docker's has no zstd
		}
	}
	return p.copy(ctx, dstRef, srcRef, copyOpts)
}

func isDockerFormat(f string) bool { return f == "docker" || f == "v2s2" }

// prepare reads the options and the image's layers.
func (p *pusher) prepare(ref types.ImageReference, named reference.Named) error {
	var err error
	if p.sys, err = p.o.Context(named); err != nil {
		return err
	}
	algo := p.o.Compression
	if algo == "" {
		algo = "gzip"
	}
	if p.algo, err = compression.AlgorithmByName(algo); err != nil || algo != "gzip" && algo != "zstd" {
		return fmt.Errorf("unknown compression %q: it is gzip or zstd", algo)
	}
	p.sys.CompressionFormat, p.sys.CompressionLevel = &p.algo, p.o.CompressionLevel
	p.sys.BlobInfoCacheDir = "/dev/null/none" // in memory, not in a file of podman's
	if named != nil {
		p.name = named.String()
	}
	// An archive remembers what the image is called here.
	if ref.Transport().Name() == "docker-archive" && ref.DockerReference() == nil && p.found != "" {
		if n, err := reference.ParseNormalizedNamed(p.found); err == nil {
			if t, ok := n.(reference.NamedTagged); ok {
				p.sys.DockerArchiveAdditionalTags = []reference.NamedTagged{t}
			}
		}
	}
	p.index = map[digest.Digest]int{}
	for id := p.img.TopLayer; id != ""; {
		l, err := p.layers.Layer(id)
		if err != nil {
			return fmt.Errorf("reading layer %s: %w", id, err)
		}
		p.byDigest[l.UncompressedDigest] = l
		p.index[l.UncompressedDigest] = len(p.index)
		id = l.Parent
	}
	for d, i := range p.index {
		p.index[d] = len(p.index) - 1 - i
	}
	return nil
}

func (p *pusher) parallel() int {
	if p.o.Parallel > 0 {
		return p.o.Parallel
	}
	return 3
}

// copy writes what sendLayers did not: configuration and manifest, and for
// destinations other than registries the layers. One's own images need no
// permission to leave.
func (p *pusher) copy(ctx context.Context, dst pushDestRef, src pushSourceRef, o *copy.Options) ([]byte, error) {
	accept, err := signature.NewPolicyContext(&signature.Policy{Default: signature.PolicyRequirements{signature.NewPRInsecureAcceptAnything()}})
	if err != nil {
		return nil, err
	}
	defer accept.Destroy() //nolint:errcheck // only says that it was destroyed before
	if dst.Transport().Name() != docker.Transport.Name() {
		// What an archive lacks after an error cannot be added by trying again.
		return copy.Image(ctx, accept, dst, src, o)
	}
	var raw []byte
	err = retry(ctx, func() error {
		raw, err = copy.Image(ctx, accept, dst, src, o)
		return err
	})
	return raw, err
}

func usesZstd(done map[digest.Digest]types.BlobInfo) bool {
	for _, b := range done {
		if b.CompressionAlgorithm != nil && b.CompressionAlgorithm.Name() == compression.Zstd.Name() {
			return true
		}
	}
	return false
}

// pushSourceRef is the image in the store, with layers read by openTar.
type pushSourceRef struct {
	types.ImageReference
	p        *pusher
	verbatim bool // with the layers as the manifest has them: the registry has all of those
}

func (r pushSourceRef) NewImageSource(ctx context.Context, sys *types.SystemContext) (types.ImageSource, error) {
	src, err := r.ImageReference.NewImageSource(ctx, sys)
	if err != nil {
		return nil, err
	}
	return pushSource{src, r}, nil
}

type pushSource struct {
	types.ImageSource
	r pushSourceRef
}

func (s pushSource) Reference() types.ImageReference { return s.r }

func (s pushSource) LayerInfosForCopy(ctx context.Context, instance *digest.Digest) ([]types.BlobInfo, error) {
	if s.r.verbatim {
		return nil, nil
	}
	return s.ImageSource.LayerInfosForCopy(ctx, instance)
}

func (s pushSource) GetBlob(ctx context.Context, b types.BlobInfo, cache types.BlobInfoCache) (io.ReadCloser, int64, error) {
	l := s.r.p.byDigest[b.Digest]
	if l == nil {
		return s.ImageSource.GetBlob(ctx, b, cache)
	}
	r, err := openTar(s.r.p.layers, l)
	if err != nil {
		return nil, 0, err
	}
	return s.r.p.watch(r, l), l.UncompressedSize, nil
}

// pushDestRef is where an image goes to, and what sendLayers did there.
type pushDestRef struct {
	types.ImageReference
	done map[digest.Digest]types.BlobInfo // by diffID, and by its own digest
}

func (r pushDestRef) NewImageDestination(ctx context.Context, sys *types.SystemContext) (types.ImageDestination, error) {
	d, err := r.ImageReference.NewImageDestination(ctx, sys)
	if err != nil || r.done == nil {
		return d, err
	}
	return pushDest{d, r}, nil
}

type pushDest struct {
	types.ImageDestination
	r pushDestRef
}

func (d pushDest) TryReusingBlob(ctx context.Context, b types.BlobInfo, cache types.BlobInfoCache, canSubstitute bool) (bool, types.BlobInfo, error) {
	if done, ok := d.r.done[b.Digest]; ok {
		return true, done, nil
	}
	return d.ImageDestination.TryReusingBlob(ctx, b, cache, canSubstitute)
}

// Tags lists the names of images in a repository, which is given without a tag.
func Tags(ctx context.Context, st *store.Store, repository string) ([]string, error) {
	named, err := reference.ParseNormalizedNamed(repository)
	if err != nil || !reference.IsNameOnly(named) {
		return nil, fmt.Errorf("%w: %q is not a repository without a tag", ErrBadReference, repository)
	}
	images, err := List(ctx, st, ListOptions{})
	if err != nil {
		return nil, err
	}
	var names []string
	for _, img := range images {
		for _, n := range img.Names {
			if r, err := reference.ParseNormalizedNamed(n); err == nil && r.Name() == named.Name() {
				if _, ok := r.(reference.Tagged); ok {
					names = append(names, n)
				}
			}
		}
	}
	if len(names) == 0 {
		return nil, noImage(repository)
	}
	slices.Sort(names)
	return names, nil
}
