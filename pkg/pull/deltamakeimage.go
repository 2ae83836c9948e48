package pull

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	imgspecv1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/manifest"
	"go.podman.io/image/v5/types"
	"go.podman.io/storage"

	"github.com/balena-os/balena/pkg/delta"
)

// deltaImage is an image that a delta is made from or to: one in the store, or
// one that is read from where it is without ever being stored.
type deltaImage struct {
	given    string          // as the user named it
	named    reference.Named // its name; nil if it has none
	manifest []byte
	mime     string
	digest   digest.Digest // of the manifest
	config   []byte
	id       digest.Digest // of the configuration
	image    imgspecv1.Image
	layers   []deltaLayer

	local *storage.Image // nil: it is not in the store
	raw   types.ImageSource
}

// deltaLayer is a layer of such an image.
type deltaLayer struct {
	diffID digest.Digest
	blob   digest.Digest // compressed, where that is what is read; else ""
	whole  int64         // bytes of it compressed; -1 if unknown
	tar    int64         // bytes of it uncompressed; -1 if unknown
	open   func(ctx context.Context, progress func(done int64)) (io.ReadCloser, error)
}

// Close ends reading; the store's image stays.
func (i *deltaImage) Close() {
	if i.raw != nil {
		i.raw.Close()
	}
}

// platform is what the image says that it is for.
func (i *deltaImage) platform() string {
	return platformText(i.image.OS, i.image.Architecture, i.image.Variant)
}

func platformText(os, arch, variant string) string {
	return strings.TrimSuffix(os+"/"+arch+"/"+variant, "/")
}

// digests lists the diffIDs of the layers.
func (i *deltaImage) digests() []digest.Digest {
	var all []digest.Digest
	for _, l := range i.layers {
		all = append(all, l.diffID)
	}
	return all
}

// open finds an image: in the store by a name or an ID, or with a transport,
// where that says.
func (m *maker) open(ctx context.Context, name, platform string) (*deltaImage, error) {
	transport, rest := cutTransport(name)
	switch transport {
	case "":
		return m.openLocal(name, name, platform)
	case "containers-storage":
		return m.openLocal(name, rest, platform)
	}
	ref, named, err := ParseReference(name, nil)
	if err != nil {
		return nil, err
	}
	return m.openRemote(ctx, name, ref, named, platform)
}

func (m *maker) openLocal(given, name, platform string) (*deltaImage, error) {
	img, found, err := Find(m.layers, name)
	if errors.Is(err, ErrNoImage) {
		return nil, fmt.Errorf("%w here; in a registry it would be docker://%s", err, name)
	}
	if err == nil {
		img, err = ForPlatform(m.layers, img, platform)
	}
	if err != nil {
		return nil, err
	}
	i := &deltaImage{given: given, local: img}
	if found == "" && len(img.Names) == 1 {
		found = img.Names[0]
	}
	if found != "" {
		if i.named, err = reference.ParseNormalizedNamed(found); err != nil {
			return nil, err
		}
	}
	if i.manifest, err = m.layers.ImageBigData(img.ID, storage.ImageDigestBigDataKey); err != nil {
		return nil, fmt.Errorf("reading the manifest of %s: %w", name, err)
	}
	i.mime = manifest.GuessMIMEType(i.manifest)
	parsed, err := manifest.FromBlob(i.manifest, i.mime)
	if err != nil {
		return nil, fmt.Errorf("reading the manifest of %s: %w", name, err)
	}
	i.id = parsed.ConfigInfo().Digest
	if i.config, err = m.layers.ImageBigData(img.ID, i.id.String()); err != nil {
		return nil, fmt.Errorf("reading the configuration of %s: %w", name, err)
	}
	if i.digest, err = manifest.Digest(i.manifest); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(i.config, &i.image); err != nil {
		return nil, fmt.Errorf("reading the configuration of %s: %w", name, err)
	}
	if platform != "" {
		sys, err := m.systemContext(nil, platform)
		if err != nil {
			return nil, err
		}
		if err := (&plan{image: i.image}).checkPlatform(sys); err != nil {
			return nil, err
		}
	}
	return i, m.addLocalLayers(i, parsed)
}

func (m *maker) addLocalLayers(i *deltaImage, parsed manifest.Manifest) error {
	var all []*storage.Layer
	for id := i.local.TopLayer; id != ""; {
		l, err := m.layers.Layer(id)
		if err != nil {
			return fmt.Errorf("reading layer %s: %w", id, err)
		}
		all = append(all, l)
		id = l.Parent
	}
	slices.Reverse(all)
	diffIDs := i.image.RootFS.DiffIDs
	if len(all) != len(diffIDs) {
		return fmt.Errorf("%w: %d layers in the store, %d in the configuration", ErrNotImage, len(all), len(diffIDs))
	}
	for n, l := range all {
		if l.UncompressedDigest != "" && l.UncompressedDigest != diffIDs[n] {
			return fmt.Errorf("%w: layer %s is not the one of the configuration", ErrNotImage, l.ID)
		}
		i.layers = append(i.layers, deltaLayer{diffID: diffIDs[n], whole: -1, tar: l.UncompressedSize, open: m.openStored(l, diffIDs[n])})
	}
	i.setWhole(parsed)
	return nil
}

// setWhole takes the sizes of compressed layers from a manifest.
func (i *deltaImage) setWhole(parsed manifest.Manifest) {
	infos := slices.DeleteFunc(slices.Clone(parsed.LayerInfos()), func(l manifest.LayerInfo) bool { return l.EmptyLayer })
	if len(infos) != len(i.layers) {
		return
	}
	for n, info := range infos {
		if algorithmOf(info.MediaType) != "" {
			i.layers[n].whole = info.Size
		}
	}
}

func (m *maker) openStored(l *storage.Layer, diffID digest.Digest) func(context.Context, func(int64)) (io.ReadCloser, error) {
	return func(_ context.Context, progress func(int64)) (io.ReadCloser, error) {
		r, err := openTar(m.layers, l)
		if err != nil {
			return nil, err
		}
		if l.UncompressedDigest == "" {
			r = &verifiedTar{r, diffID.Verifier(), diffID}
		}
		return &readAlong{ReadCloser: r, tell: func(n int64, _ bool) { progress(n) }}, nil
	}
}

func (m *maker) openRemote(ctx context.Context, given string, ref types.ImageReference, named reference.Named, platform string) (*deltaImage, error) {
	sys, policy, err := m.puller(platform).contexts(named)
	if err != nil {
		return nil, err
	}
	defer policy.Destroy() //nolint:errcheck // only says that it was destroyed before
	raw, err := openSource(ctx, sys, ref)
	if err != nil {
		return nil, unauthorized(err)
	}
	i := &deltaImage{given: given, named: named, raw: raw}
	src := newSource(raw, nil)
	p, err := makePlan(ctx, src, sys, policy, platform != "")
	if err != nil {
		raw.Close()
		return nil, unauthorized(err)
	}
	i.manifest, i.digest, i.id, i.image = p.manifest, p.digest, p.config.Digest, p.image
	i.mime, i.config = manifest.GuessMIMEType(p.manifest), src.config[p.config.Digest]
	for _, l := range p.layers {
		d := deltaLayer{diffID: l.diffID, blob: l.blob.Digest, whole: l.blob.Size, tar: -1, open: m.openFetched(src, l)}
		if algorithmOf(l.blob.MediaType) == "" {
			d.whole, d.tar = -1, l.blob.Size
		}
		i.layers = append(i.layers, d)
	}
	return i, nil
}

func (m *maker) openFetched(src *source, l *layer) func(context.Context, func(int64)) (io.ReadCloser, error) {
	return func(ctx context.Context, progress func(int64)) (io.ReadCloser, error) {
		blob, err := m.blobs.open(ctx, src.ImageSource, l.blob, progress)
		if err != nil {
			return nil, err
		}
		tar, err := decompress(blob)
		if err != nil {
			return nil, errors.Join(err, blob.Close())
		}
		return &verifiedTar{&closers{tar, []io.Closer{tar, blob}}, l.diffID.Verifier(), l.diffID}, nil
	}
}

// checkedTars are layers as pkg/delta takes them. verified fails unless all of
// them were read to their ends, where their digests are checked.
func checkedTars(layers []deltaLayer, progress func(layer int, done int64)) (tars []delta.LayerTar, verified func() error) {
	errs := make([]error, len(layers))
	for n, l := range layers {
		errs[n] = errors.New("not read to its end")
		tars = append(tars, delta.LayerTar{DiffID: l.diffID, Size: max(l.tar, 0), Open: func(ctx context.Context) (io.ReadCloser, error) {
			r, err := l.open(ctx, func(done int64) { progress(n, done) })
			if err != nil {
				return nil, err
			}
			return &drained{ReadCloser: r, err: &errs[n]}, nil
		}})
	}
	return tars, func() error {
		for n, err := range errs {
			if err != nil {
				return fmt.Errorf("layer %s: %w", layers[n].diffID, err)
			}
		}
		return nil
	}
}

// drained reads, when it is closed, what its reader did not want, so that the
// digest at the end is checked.
type drained struct {
	io.ReadCloser
	once sync.Once
	err  *error
}

func (d *drained) Close() error {
	d.once.Do(func() {
		_, err := io.Copy(io.Discard, d.ReadCloser)
		*d.err = errors.Join(err, d.ReadCloser.Close())
	})
	return *d.err
}

// platformsOf lists the platforms of an index, each once; nil for a single
// image.
func (m *maker) platformsOf(ctx context.Context, name string) ([]string, error) {
	ref, named, err := ParseReference(name, m.layers)
	if err != nil {
		return nil, err
	}
	sys, err := m.systemContext(named, "")
	if err != nil {
		return nil, err
	}
	raw, err := openSource(ctx, sys, ref)
	if err != nil {
		return nil, unauthorized(err)
	}
	defer raw.Close()
	entries, err := indexEntries(ctx, raw)
	var all []string
	for _, d := range entries {
		if p := platformText(d.Platform.OS, d.Platform.Architecture, d.Platform.Variant); !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	return all, err
}

// indexEntries lists the images of an index, without those that are no images
// (attestations, artifacts); none if it is a single image.
func indexEntries(ctx context.Context, src types.ImageSource) ([]imgspecv1.Descriptor, error) {
	raw, mime, err := src.GetManifest(ctx, nil)
	if err != nil {
		return nil, unauthorized(err)
	}
	if mime == "" {
		mime = manifest.GuessMIMEType(raw)
	}
	if !manifest.MIMETypeIsMultiImage(manifest.NormalizedMIMEType(mime)) {
		return nil, nil
	}
	var index imgspecv1.Index // docker's lists are of the same form
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, fmt.Errorf("reading the image index: %w", err)
	}
	return slices.DeleteFunc(index.Manifests, func(d imgspecv1.Descriptor) bool {
		return d.Platform == nil || d.Platform.OS == "" || d.Platform.OS == "unknown" || d.ArtifactType != "" || d.Digest.Validate() != nil
	}), nil
}

// inRepository gives the image as the repository has it, which may be with
// layers that are compressed in another way: by its manifest's digest, else
// under the tag.
func (m *maker) inRepository(ctx context.Context, i *deltaImage, repo reference.Named, platform string) (*deltaImage, error) {
	trimmed := reference.TrimNamed(repo)
	if i.raw != nil && i.named != nil && i.named.Name() == repo.Name() {
		return i, nil
	}
	byDigest, err := reference.WithDigest(trimmed, i.digest)
	if err != nil {
		return nil, err
	}
	candidates := []reference.Named{byDigest}
	if t, ok := repo.(reference.NamedTagged); ok {
		candidates = append(candidates, t)
	} else if t, ok := i.named.(reference.Tagged); ok {
		tagged, err := reference.WithTag(trimmed, t.Tag())
		if err != nil {
			return nil, err
		}
		candidates = append(candidates, tagged)
	}
	for _, c := range candidates {
		ref, err := docker.NewReference(c)
		if err != nil {
			return nil, err
		}
		there, err := m.openRemote(ctx, "docker://"+c.String(), ref, c, platform)
		switch {
		case err == nil && there.id == i.id:
			return there, nil
		case err == nil:
			there.Close()
		case !notFound(err) && !errors.Is(err, ErrPlatform) && !errors.Is(err, ErrNotImage):
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w: %s: %s", ErrNotInRepository, trimmed.Name(), i.given)
}
