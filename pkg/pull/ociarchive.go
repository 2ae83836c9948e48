package pull

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	imgspecv1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/image/v5/image"
	"go.podman.io/image/v5/manifest"
	ociarchive "go.podman.io/image/v5/oci/archive"
	ocilayout "go.podman.io/image/v5/oci/layout"
	"go.podman.io/image/v5/types"

	"github.com/balena-os/balena/pkg/delta"
)

// ociArchiveRef is an oci-archive: of containers/image's whose content is read
// where it lies, rather than unpacked to a temporary folder first. In difference
// to theirs it can also name an image by its place, as oci: can.
type ociArchiveRef struct {
	types.ImageReference
	file  string
	image string
	place int  // in index.json; -1: by image, or the only one
	any   bool // it does not matter which: the archive is only looked at
}

// parseOCIArchive reads FILE[:NAME] and FILE:@PLACE.
func parseOCIArchive(ref string) (types.ImageReference, error) {
	r := ociArchiveRef{place: -1}
	r.file, r.image, _ = strings.Cut(ref, ":")
	if place, ok := strings.CutPrefix(r.image, "@"); ok {
		n, err := strconv.Atoi(place)
		if err != nil {
			return nil, fmt.Errorf("source index @%s is not an integer", place)
		}
		if n < 0 {
			return nil, fmt.Errorf("source index @%d must not be negative", n)
		}
		r.image, r.place = "", n
	}
	var err error
	r.ImageReference, err = ociarchive.NewReference(r.file, r.image)
	return r, err
}

func (r ociArchiveRef) StringWithinTransport() string {
	if r.place >= 0 {
		return fmt.Sprintf("%s:@%d", r.file, r.place)
	}
	return r.ImageReference.StringWithinTransport()
}

func (r ociArchiveRef) NewImageDestination(ctx context.Context, sys *types.SystemContext) (types.ImageDestination, error) {
	if r.place >= 0 {
		return nil, fmt.Errorf("a destination must not have a source index: @%d", r.place)
	}
	return r.ImageReference.NewImageDestination(ctx, sys)
}

func (r ociArchiveRef) NewImage(ctx context.Context, sys *types.SystemContext) (types.ImageCloser, error) {
	src, err := r.NewImageSource(ctx, sys)
	if err != nil {
		return nil, err
	}
	return image.FromSource(ctx, sys, src)
}

func (r ociArchiveRef) NewImageSource(ctx context.Context, _ *types.SystemContext) (types.ImageSource, error) {
	f, size, err := openArchive(r.file)
	if err != nil {
		return nil, err
	}
	s := &ociArchiveSource{ref: r, f: f}
	if err := s.load(ctx, size); err != nil {
		f.Close()
		return nil, err
	}
	return s, nil
}

// choose finds the image that the reference means, by the rules, and with the
// errors, of containers/image's oci:.
func (r ociArchiveRef) choose(index *imgspecv1.Index) (imgspecv1.Descriptor, error) {
	all := images(index)
	switch {
	case r.any && len(all) > 0:
		return all[0], nil
	case r.place >= len(all):
		return imgspecv1.Descriptor{}, fmt.Errorf("index %d is too large, only %d entries available", r.place, len(all))
	case r.place >= 0:
		return all[r.place], nil
	case r.image == "" && len(all) == 1:
		return all[0], nil
	case r.image == "" && len(all) == 0:
		return imgspecv1.Descriptor{}, fmt.Errorf("%w: it holds no image", ErrNotImage)
	case r.image == "":
		return imgspecv1.Descriptor{}, fmt.Errorf("%w: %s", ocilayout.ErrMoreThanOneImage, imageNames(all))
	}
	var unsupported []string
	for _, d := range all {
		if name, ok := d.Annotations[imgspecv1.AnnotationRefName]; !ok || name != r.image {
			continue
		}
		switch d.MediaType {
		case imgspecv1.MediaTypeImageManifest, imgspecv1.MediaTypeImageIndex, manifest.DockerV2Schema2MediaType, manifest.DockerV2ListMediaType:
			return d, nil
		}
		unsupported = append(unsupported, d.MediaType)
	}
	if len(unsupported) > 0 {
		return imgspecv1.Descriptor{}, fmt.Errorf("reference %q matches unsupported manifest MIME types %q", r.image, unsupported)
	}
	return imgspecv1.Descriptor{}, fmt.Errorf("no descriptor found for reference %q, there is %s", r.image, imageNames(all))
}

// imageNames lists what an archive holds, in the form that chooses it.
func imageNames(all []imgspecv1.Descriptor) string {
	const most = 20
	var names []string
	for i, d := range all {
		if i == most {
			names = append(names, fmt.Sprintf("and %d more", len(all)-most))
			break
		}
		name, place := d.Annotations[imgspecv1.AnnotationRefName], fmt.Sprintf("@%d", i)
		if name == "" {
			names = append(names, place)
		} else {
			names = append(names, fmt.Sprintf("%q", name))
		}
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// ociArchiveSource reads an OCI layout within an uncompressed tar. Blobs may be
// read at the same time.
type ociArchiveSource struct {
	ref   ociArchiveRef
	f     *os.File
	tar   *tarIndex
	index imgspecv1.Index
	top   imgspecv1.Descriptor
}

// maxManifest bounds index.json and manifests, as containers/image does.
const maxManifest = 4 << 20

func (s *ociArchiveSource) load(ctx context.Context, size int64) error {
	var err error
	if s.tar, err = indexTar(ctx, s.f, size); err != nil {
		return err
	}
	if (s.tar.index == tarRange{}) {
		if s.tar.docker {
			return fmt.Errorf("%w: it is no oci-archive, but perhaps a docker-archive", errArchive)
		}
		return fmt.Errorf("%w: there is no %s in it", errArchive, imgspecv1.ImageIndexFile)
	}
	raw, err := s.read(s.tar.index)
	if err == nil {
		err = json.Unmarshal(raw, &s.index)
	}
	if err == nil {
		s.top, err = s.ref.choose(&s.index)
		return err
	}
	return fmt.Errorf("reading %s: %w", imgspecv1.ImageIndexFile, err)
}

func (s *ociArchiveSource) read(at tarRange) ([]byte, error) {
	if at.size > maxManifest {
		return nil, fmt.Errorf("%w: %d bytes, more than %d", errArchive, at.size, maxManifest)
	}
	raw := make([]byte, at.size)
	_, err := s.f.ReadAt(raw, at.offset)
	if err == io.EOF && at.size > 0 {
		err = io.ErrUnexpectedEOF
	} else if err == io.EOF {
		err = nil
	}
	return raw, err
}

func (s *ociArchiveSource) find(d digest.Digest) (tarRange, error) {
	if err := d.Validate(); err != nil {
		return tarRange{}, fmt.Errorf("%w: unexpected digest reference %q: %w", errArchive, d, err)
	}
	at, ok := s.tar.blobs[d]
	if !ok {
		return tarRange{}, fmt.Errorf("%w: %s is not in it", errArchive, d)
	}
	return at, nil
}

// has tells whether a blob is in the archive.
func (s *ociArchiveSource) has(d digest.Digest) bool {
	_, ok := s.tar.blobs[d]
	return ok
}

// deltas lists the deltas to an image that the archive holds.
func (s *ociArchiveSource) deltas(subject digest.Digest) ([]delta.Artifact, error) {
	var out []delta.Artifact
	for _, d := range s.index.Manifests {
		if d.ArtifactType != delta.MediaType {
			continue
		}
		at, err := s.find(d.Digest)
		if err != nil {
			return nil, fmt.Errorf("delta's manifest: %w", err)
		}
		raw, err := s.read(at)
		if err == nil && d.Digest.Algorithm().FromBytes(raw) != d.Digest {
			err = ErrDigest
		}
		var a delta.Artifact
		if err == nil {
			a, err = delta.ParseArtifact(raw)
		}
		if err != nil {
			return nil, fmt.Errorf("delta's manifest %s: %w", d.Digest, err)
		}
		if a.Subject.Digest == subject && s.has(a.Blob.Digest) {
			out = append(out, a)
		}
	}
	return out, nil
}

func (s *ociArchiveSource) GetManifest(_ context.Context, instance *digest.Digest) ([]byte, string, error) {
	d, mime := s.top.Digest, s.top.MediaType
	if instance != nil {
		d, mime = *instance, ""
		for _, m := range s.index.Manifests {
			if m.Digest == d {
				mime = m.MediaType
				break
			}
		}
	}
	at, err := s.find(d)
	if err != nil {
		return nil, "", fmt.Errorf("manifest: %w", err)
	}
	raw, err := s.read(at)
	if err != nil {
		return nil, "", fmt.Errorf("manifest %s: %w", d, err)
	}
	if d.Algorithm().FromBytes(raw) != d {
		return nil, "", fmt.Errorf("manifest %s: %w", d, ErrDigest)
	}
	if mime == "" {
		mime = manifest.GuessMIMEType(raw)
	}
	return raw, mime, nil
}

// GetBlob reads a blob where it lies. In difference to containers/image's oci:,
// a layer that is elsewhere, by its URLs, is not fetched from there.
func (s *ociArchiveSource) GetBlob(_ context.Context, info types.BlobInfo, _ types.BlobInfoCache) (io.ReadCloser, int64, error) {
	at, err := s.find(info.Digest)
	if err != nil {
		return nil, 0, err
	}
	if info.Size >= 0 && info.Size != at.size {
		return nil, 0, fmt.Errorf("%w: %w: %s has %d bytes, and %d by its manifest", errArchive, ErrDigest, info.Digest, at.size, info.Size)
	}
	return &archiveBlob{io.NewSectionReader(s.f, at.offset, at.size)}, at.size, nil
}

func (s *ociArchiveSource) Reference() types.ImageReference { return s.ref }
func (s *ociArchiveSource) Close() error                    { return s.f.Close() }
func (s *ociArchiveSource) HasThreadSafeGetBlob() bool      { return true }
func (s *ociArchiveSource) GetSignatures(context.Context, *digest.Digest) ([][]byte, error) {
	return nil, nil
}
func (s *ociArchiveSource) LayerInfosForCopy(context.Context, *digest.Digest) ([]types.BlobInfo, error) {
	return nil, nil
}

// archiveBlob is a blob within an archive.
type archiveBlob struct{ r *io.SectionReader }

func (b *archiveBlob) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err == nil || err == io.EOF && b.left() == 0 {
		return n, err
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF // the file shrank
	}
	return n, fmt.Errorf("%w: %w", errArchive, err)
}

func (b *archiveBlob) left() int64 {
	at, _ := b.r.Seek(0, io.SeekCurrent)
	return b.r.Size() - at
}

func (b *archiveBlob) Close() error { return nil }

// dockerArchiveFile is the file of a docker-archive: reference.
func dockerArchiveFile(ref types.ImageReference) string {
	file, _, _ := strings.Cut(ref.StringWithinTransport(), ":")
	return file
}
