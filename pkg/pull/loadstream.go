package pull

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime/debug"
	"syscall"

	"github.com/opencontainers/go-digest"
	imgspecv1 "github.com/opencontainers/image-spec/specs-go/v1"
	dockerarchive "go.podman.io/image/v5/docker/archive"
	"go.podman.io/image/v5/manifest"
	"go.podman.io/image/v5/signature"
	"go.podman.io/image/v5/types"

	"github.com/balena-os/balena/pkg/delta"
	"github.com/balena-os/balena/pkg/durable"
)

// errNoStaging is for a driver that takes layers only in their order.
var errNoStaging = errors.New("with the storage driver vfs an archive is loaded from an uncompressed file only")

// errWrapped is for an image that is a delta: it would come too early.
var errWrapped = errors.New("an image that is a delta is loaded from an uncompressed file only")

// maxSmall bounds what is kept in memory of an archive: manifests and the like.
const maxSmall = 64 << 20

// archiveStream is an archive that is read once. Layers come in any order, and
// before it is known whose they are.
type archiveStream struct {
	p      *puller
	sys    *types.SystemContext
	policy *signature.PolicyContext
	ref    types.ImageReference

	small  map[string][]byte // content of small files, by name
	kept   int               // bytes of them
	links  map[string]string
	files  map[string]stagedFile             // layers, by the names of their files
	staged map[digest.Digest]*durable.Staged // by diffID: from files, and made by deltas
	bad    []error                           // what could not be extracted or applied
}

type stagedFile struct {
	diffID digest.Digest
	size   int64 // of the tar
}

func (p *puller) loadStream(ctx context.Context, in *os.File) (_ []Image, err error) {
	if !p.w.CanStage() {
		return nil, errNoStaging
	}
	a := &archiveStream{
		p: p, small: map[string][]byte{}, links: map[string]string{},
		files: map[string]stagedFile{}, staged: map[digest.Digest]*durable.Staged{},
	}
	if a.ref, err = dockerarchive.NewReference("/dev/stdin", nil); err != nil {
		return nil, err
	}
	if a.sys, a.policy, err = p.contexts(nil); err != nil {
		return nil, err
	}
	defer a.policy.Destroy() //nolint:errcheck // only says that it was destroyed before
	defer func() {
		for _, s := range a.staged {
			err = errors.Join(err, p.w.Discard(s))
		}
	}()
	plain, err := decompress(in)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	if err := a.read(ctx, plain); err != nil {
		return nil, err
	}
	return a.images(ctx, in.Name())
}

// read takes everything in.
func (a *archiveStream) read(ctx context.Context, in io.Reader) error {
	t := tar.NewReader(in)
	for n := 0; ; n++ {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		h, err := t.Next()
		switch {
		case err == io.EOF:
			_, err := io.Copy(io.Discard, in)
			return err
		case err != nil:
			return fmt.Errorf("%w: %w", errArchive, err)
		case n >= maxArchiveEntries:
			return fmt.Errorf("%w: more than %d entries", errArchive, maxArchiveEntries)
		}
		name := path.Clean(h.Name)
		switch h.Typeflag {
		case tar.TypeSymlink:
			a.links[name] = path.Join(path.Dir(name), h.Linkname)
		case tar.TypeLink:
			a.links[name] = path.Clean(h.Linkname)
		case tar.TypeReg:
			if err := a.file(ctx, name, h.Size, bufio.NewReaderSize(t, 4<<10)); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
}

// file looks at a file's content, whatever its name is, to see what it is.
func (a *archiveStream) file(ctx context.Context, name string, size int64, in *bufio.Reader) error {
	head, err := in.Peek(512)
	if err != nil && err != io.EOF {
		return err
	}
	switch {
	case bytes.HasPrefix(head, []byte("bDELTA")):
		if err = a.delta(ctx, name, in); err == nil {
			_, err = io.Copy(io.Discard, in)
		}
	case isLayer(head):
		err = a.layer(ctx, name, in)
	case size <= maxConfig:
		if a.kept += int(size); a.kept > maxSmall {
			return fmt.Errorf("%w: more than %d bytes of manifests", errArchive, maxSmall)
		}
		a.small[name], err = io.ReadAll(in)
		return err
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	a.bad = append(a.bad, fmt.Errorf("%s: %w", name, err)) // perhaps nobody needs it
	_, err = io.Copy(io.Discard, in)
	return err
}

// isLayer recognises a tar, and what it can be compressed with.
func isLayer(head []byte) bool {
	for _, magic := range []string{"\x1f\x8b\x08", "\x28\xb5\x2f\xfd", "BZh", "\xfd7zXZ\x00"} {
		if bytes.HasPrefix(head, []byte(magic)) {
			return true
		}
	}
	return isSkippable(head) || len(head) == 512 && (bytes.HasPrefix(head[257:], []byte("ustar")) || len(bytes.Trim(head, "\x00")) == 0)
}

func (a *archiveStream) layer(ctx context.Context, name string, in io.Reader) error {
	sum := digest.Canonical.Digester()
	tee := io.TeeReader(in, sum.Hash())
	plain, err := decompress(tee)
	if err != nil {
		return err
	}
	defer plain.Close()
	staged, err := a.p.w.Stage(ctx, plain, "")
	if err != nil {
		return err
	}
	if d, ok := blobDigest(name); ok && d.Algorithm() == digest.Canonical && d != sum.Digest() {
		return errors.Join(fmt.Errorf("got %s: %w", sum.Digest(), ErrDigest), a.p.w.Discard(staged))
	}
	a.files[name] = stagedFile{staged.DiffID(), staged.Size()}
	return a.put(staged)
}

// put keeps a layer until it is known whose it is.
func (a *archiveStream) put(s *durable.Staged) error {
	if a.staged[s.DiffID()] != nil {
		return a.p.w.Discard(s)
	}
	a.staged[s.DiffID()] = s
	return nil
}

// resolve follows the links of docker's older archives.
func (a *archiveStream) resolve(name string) string {
	name = path.Clean(name)
	for range 10 {
		to, ok := a.links[name]
		if !ok {
			break
		}
		name = to
	}
	return name
}

// tops lists the images: the digests of their manifests or indexes, and names.
func (a *archiveStream) tops(file string) ([]imgspecv1.Descriptor, [][]string, error) {
	if raw, ok := a.small["manifest.json"]; ok {
		return a.dockerTops(raw)
	}
	raw, ok := a.small[imgspecv1.ImageIndexFile]
	if !ok {
		return nil, nil, fmt.Errorf("%w: it holds neither images nor deltas", errArchive)
	}
	var index imgspecv1.Index
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, nil, fmt.Errorf("%w: reading %s: %w", errArchive, imgspecv1.ImageIndexFile, err)
	}
	var tops []imgspecv1.Descriptor
	var names [][]string
	for _, d := range images(&index) {
		if !isFor(d, a.sys) {
			continue
		}
		var n []string
		if name := layoutName(d, file); name != nil {
			n = []string{name.String()}
		}
		tops, names = append(tops, d), append(names, n)
	}
	return tops, names, nil
}

// dockerItem is an image in the manifest.json of docker's format.
type dockerItem struct {
	Config   string   // name of its file
	RepoTags []string // its names
	Layers   []string // names of their files
}

// dockerTops makes manifests for the images of docker's own format.
func (a *archiveStream) dockerTops(raw []byte) (tops []imgspecv1.Descriptor, names [][]string, err error) {
	var items []dockerItem
	if err := json.Unmarshal(raw, &items); err != nil {
		return nil, nil, fmt.Errorf("%w: reading manifest.json: %w", errArchive, err)
	}
	for _, item := range items {
		config := a.small[a.resolve(item.Config)]
		of := manifest.Schema2Descriptor{MediaType: manifest.DockerV2Schema2ConfigMediaType, Digest: digest.FromBytes(config), Size: int64(len(config))}
		var layers []manifest.Schema2Descriptor
		for _, name := range item.Layers {
			f, ok := a.files[a.resolve(name)]
			if !ok {
				return nil, nil, a.lacks(name)
			}
			layers = append(layers, manifest.Schema2Descriptor{MediaType: manifest.DockerV2SchemaLayerMediaTypeUncompressed, Digest: f.diffID, Size: f.size})
		}
		m, err := manifest.Schema2FromComponents(of, layers).Serialize()
		if err != nil {
			return nil, nil, err
		}
		d := imgspecv1.Descriptor{Digest: digest.FromBytes(m), MediaType: manifest.DockerV2Schema2MediaType}
		a.small[blobName(of.Digest)], a.small[blobName(d.Digest)] = config, m
		tops, names = append(tops, d), append(names, item.RepoTags)
	}
	return tops, names, nil
}

func (a *archiveStream) lacks(name string) error {
	return errors.Join(fmt.Errorf("%w: %s is not in it", errArchive, name), errors.Join(a.bad...))
}

// images records what the archive holds.
func (a *archiveStream) images(ctx context.Context, file string) ([]Image, error) {
	tops, names, err := a.tops(file)
	if err != nil {
		return nil, err
	}
	var out []Image
	for i, top := range tops {
		src := newSource(streamSource{a, top}, nil)
		pl, err := makePlan(ctx, src, a.sys, a.policy, a.p.o.Platform != "")
		if err != nil {
			return out, err
		}
		if engine, ours := pl.wraps(); (engine || ours) && !a.p.o.NoDelta {
			return out, errWrapped
		}
		if err := a.commit(ctx, pl); err != nil {
			return out, err
		}
		if len(names[i]) == 0 {
			names[i] = []string{""}
		}
		for _, n := range names[i] {
			named, err := ParseName(n)
			if err != nil && n != "" {
				return out, err
			}
			img, err := a.p.writeImage(pl, a.small[blobName(top.Digest)], src.config[pl.config.Digest], nil, named)
			if err != nil {
				return out, err
			}
			out = append(out, img)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: it holds no image", ErrNotImage)
	}
	return out, nil
}

// commit puts the layers of an image into the store, each upon the one below.
func (a *archiveStream) commit(ctx context.Context, pl *plan) (err error) {
	d := &destination{w: a.p.w, layers: a.p.layers, plan: pl, tell: func(Event) {}}
	defer func() { err = errors.Join(err, d.abandon()) }()
	for _, l := range pl.layers {
		if err := d.claim(ctx, l); err != nil {
			return err
		}
		has, err := d.w.Has(l.id, l.diffID)
		if err != nil {
			return err
		}
		var staged *durable.Staged
		if !has {
			if staged = a.staged[l.diffID]; staged == nil {
				staged, err = d.reread(ctx, l)
			}
			delete(a.staged, l.diffID)
			if err == nil && staged == nil {
				err = a.lacks("layer " + l.blob.Digest.String())
			}
			if err != nil {
				return err
			}
		}
		if err := d.arrived(ctx, l, staged); err != nil {
			return err
		}
	}
	return nil
}

// delta makes layers from a delta, about which everything must have come before.
func (a *archiveStream) delta(ctx context.Context, name string, in io.Reader) error {
	blob, ok := blobDigest(name)
	if !ok {
		return errors.New("the delta has no digest for a name")
	}
	artifact := a.artifact(blob)
	if artifact == nil {
		return errors.New("the delta comes before what says what it is for: load the archive from a file")
	}
	src := newSource(streamSource{a, artifact.Subject}, nil)
	pl, err := makePlan(ctx, src, a.sys, a.policy, false)
	if err != nil {
		return err
	}
	missing, err := a.p.missing(pl)
	if err != nil {
		return err
	}
	carry := carried(missing, a.p.plainWay(src, missing).local, artifact.Layers)
	if len(carry) == 0 {
		return nil
	}
	base, err := a.p.layers.Image(artifact.Base.Encoded())
	if err != nil {
		return fmt.Errorf("%w: it takes %s", ErrNoBase, artifact.Base)
	}
	defer debug.SetGCPercent(debug.SetGCPercent(applyGC))
	from, err := a.p.openBase(ctx, base)
	if err != nil {
		return err
	}
	defer from.Close()
	r, err := delta.Open(&verifiedBlob{r: in, v: blob.Verifier()}, from.files)
	if err != nil {
		return err
	}
	return a.deltaLayers(ctx, r, pl, carry)
}

func (a *archiveStream) deltaLayers(ctx context.Context, r layerReader, pl *plan, carry map[*layer]bool) error {
	d := &destination{w: a.p.w, layers: a.p.layers, plan: pl}
	for {
		diffID, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		for _, l := range pl.layers {
			if l.diffID != diffID || !carry[l] {
				continue
			}
			limit, err := d.limit(l)
			if err != nil {
				return err
			}
			staged, err := a.p.w.Stage(ctx, &limited{r: r, left: limit}, diffID)
			if err == nil {
				err = a.put(staged)
			}
			if err != nil {
				return err
			}
			break
		}
	}
}

// artifact finds what is known about a delta.
func (a *archiveStream) artifact(blob digest.Digest) *delta.Artifact {
	for _, raw := range a.small {
		if art, err := delta.ParseArtifact(raw); err == nil && art.Blob.Digest == blob {
			return &art
		}
	}
	return nil
}

func blobName(d digest.Digest) string {
	return imgspecv1.ImageBlobsDir + "/" + d.Algorithm().String() + "/" + d.Encoded()
}

// streamSource is an image of the archive, as far as it is known.
type streamSource struct {
	a   *archiveStream
	top imgspecv1.Descriptor
}

func (s streamSource) blob(d digest.Digest) ([]byte, error) {
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("%w: digest %q: %w", errArchive, d, err)
	}
	raw, ok := s.a.small[blobName(d)]
	if !ok {
		return nil, fmt.Errorf("%w: %s is not in it", errArchive, d)
	}
	if d.Algorithm().FromBytes(raw) != d {
		return nil, fmt.Errorf("%s: %w", d, ErrDigest)
	}
	return raw, nil
}

func (s streamSource) GetManifest(_ context.Context, instance *digest.Digest) ([]byte, string, error) {
	d := s.top.Digest
	if instance != nil {
		d = *instance
	}
	raw, err := s.blob(d)
	return raw, manifest.GuessMIMEType(raw), err
}

func (s streamSource) GetBlob(_ context.Context, info types.BlobInfo, _ types.BlobInfoCache) (io.ReadCloser, int64, error) {
	raw, err := s.blob(info.Digest)
	return io.NopCloser(bytes.NewReader(raw)), int64(len(raw)), err
}

func (s streamSource) Reference() types.ImageReference { return s.a.ref }
func (s streamSource) Close() error                    { return nil }
func (s streamSource) HasThreadSafeGetBlob() bool      { return true }
func (s streamSource) GetSignatures(context.Context, *digest.Digest) ([][]byte, error) {
	return nil, nil
}
func (s streamSource) LayerInfosForCopy(context.Context, *digest.Digest) ([]types.BlobInfo, error) {
	return nil, nil
}
