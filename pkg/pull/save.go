package pull

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imgspecv1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/storage"

	"github.com/balena-os/balena/pkg/store"
)

// Formats of archives.
const (
	DockerArchive = "docker-archive" // what "docker save" writes since version 25: an OCI layout, too
	OCIArchive    = "oci-archive"
)

// Save writes images into one archive, in one stream and without temporary
// files: format is DockerArchive or OCIArchive. Layers are uncompressed in it.
// An image given by its ID has no name there. The same images give the same
// bytes.
func Save(ctx context.Context, st *store.Store, w io.Writer, format string, names ...string) error {
	layers, err := st.Layers()
	if err != nil {
		return err
	}
	s := &saver{layers: layers, format: format, a: &archiveWriter{t: tar.NewWriter(w), have: map[digest.Digest]bool{}}}
	s.index = imgspecv1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imgspecv1.MediaTypeImageIndex}
	for _, n := range names {
		if err := s.add(n); err != nil {
			return fmt.Errorf("saving %q: %w", n, err)
		}
	}
	if err := s.write(ctx, format); err != nil {
		return fmt.Errorf("writing the archive: %w", err)
	}
	return nil
}

type saver struct {
	layers storage.Store
	format string
	a      *archiveWriter
	index  imgspecv1.Index
	docker []dockerItem
	images []savedImage
	lists  [][]byte // indexes of lists
}

type savedImage struct {
	id               string
	config, manifest []byte
	layers           []*storage.Layer // the lowest first
}

// add looks an image up.
func (s *saver) add(name string) error {
	img, found, err := Find(s.layers, name)
	if err != nil {
		return err
	}
	if isList(img) {
		return s.addList(img, found)
	}
	i, d, err := s.image(img)
	if err != nil {
		return err
	}
	if found != "" {
		d.Annotations = map[string]string{imgspecv1.AnnotationRefName: found, "io.containerd.image.name": found}
		if _, tag, _ := SplitName(found); tag != "" && !slices.Contains(s.docker[i].RepoTags, FamiliarName(found)) {
			s.docker[i].RepoTags = append(s.docker[i].RepoTags, FamiliarName(found))
		}
	}
	s.index.Manifests = append(s.index.Manifests, d)
	return nil
}

// image makes an image one of the archive's and returns its place and what
// lists say about it.
func (s *saver) image(img *storage.Image) (int, imgspecv1.Descriptor, error) {
	i := slices.IndexFunc(s.images, func(v savedImage) bool { return v.id == img.ID })
	if i < 0 {
		v, err := s.read(img)
		if err != nil {
			return 0, imgspecv1.Descriptor{}, err
		}
		i = len(s.images)
		s.images = append(s.images, v)
		s.docker = append(s.docker, v.item())
	}
	m := s.images[i].manifest
	return i, imgspecv1.Descriptor{MediaType: imgspecv1.MediaTypeImageManifest, Digest: digest.FromBytes(m), Size: int64(len(m))}, nil
}

func (s *saver) read(img *storage.Image) (savedImage, error) {
	v := savedImage{id: img.ID}
	var err error
	if v.config, err = s.layers.ImageBigData(img.ID, "sha256:"+img.ID); err != nil {
		return v, fmt.Errorf("reading the configuration: %w", err)
	}
	var diffIDs []digest.Digest
	var sizes []int64
	for id := img.TopLayer; id != ""; {
		l, err := s.layers.Layer(id)
		if err != nil {
			return v, fmt.Errorf("reading layer %s: %w", id, err)
		}
		v.layers = append(v.layers, l)
		id = l.Parent
	}
	slices.Reverse(v.layers)
	for _, l := range v.layers {
		diffIDs, sizes = append(diffIDs, l.UncompressedDigest), append(sizes, l.UncompressedSize)
	}
	v.manifest, err = plainManifest(v.config, diffIDs, sizes)
	return v, err
}

func (v savedImage) item() dockerItem {
	d := dockerItem{Config: blobName(digest.FromBytes(v.config)), RepoTags: []string{}, Layers: []string{}}
	for _, l := range v.layers {
		d.Layers = append(d.Layers, blobName(l.UncompressedDigest))
	}
	return d
}

// write puts first what says what the rest is.
func (s *saver) write(ctx context.Context, format string) error {
	index, err := json.Marshal(s.index)
	if err != nil {
		return err
	}
	s.a.file(imgspecv1.ImageLayoutFile, []byte(`{"imageLayoutVersion":"1.0.0"}`))
	s.a.file(imgspecv1.ImageIndexFile, index)
	switch format {
	case OCIArchive:
	case DockerArchive:
		raw, err := json.Marshal(s.docker)
		if err != nil {
			return err
		}
		s.a.file("manifest.json", raw)
	default:
		return fmt.Errorf("unknown format %q: it is %s or %s", format, DockerArchive, OCIArchive)
	}
	for _, raw := range s.lists {
		s.a.blob(digest.FromBytes(raw), raw)
	}
	for _, v := range s.images {
		s.a.blob(digest.FromBytes(v.manifest), v.manifest)
		s.a.blob(digest.FromBytes(v.config), v.config)
	}
	for _, v := range s.images {
		for _, l := range v.layers {
			if err := s.layer(ctx, l); err != nil {
				return err
			}
		}
	}
	if s.a.err == nil {
		s.a.err = s.a.t.Close()
	}
	return s.a.err
}

func (s *saver) layer(ctx context.Context, l *storage.Layer) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r, err := openTar(s.layers, l)
	if err != nil {
		return err
	}
	defer r.Close()
	s.a.stream(imgspecv1.Descriptor{Digest: l.UncompressedDigest, Size: l.UncompressedSize}, &ctxReader{ctx, r})
	return s.a.err
}

// ctxReader ends with its context.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (r *ctxReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
