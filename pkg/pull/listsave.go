package pull

import (
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	imgspecv1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/storage"
)

// ErrListFormat is for a list that is to be saved as something that has none.
var ErrListFormat = errors.New("a list is saved as oci-archive: docker's archives have none")

// addList makes a list and its images the archive's: an index in the index, as
// docker's builder writes it.
func (s *saver) addList(img *storage.Image, found string) error {
	if s.format != OCIArchive {
		return ErrListFormat
	}
	l, err := readList(s.layers, img)
	if err != nil {
		return err
	}
	there := newImageList(s.layers)
	there.index.Annotations = l.index.Annotations
	for _, d := range l.index.Manifests {
		one, err := s.layers.Image(l.local(d.Digest))
		if err != nil {
			return fmt.Errorf("%w: the list's image for %s is not here", ErrNoImage, platformName(d.Platform))
		}
		_, as, err := s.image(one)
		if err != nil {
			return err
		}
		as.Platform, as.Annotations = d.Platform, d.Annotations
		there.put(as, "")
	}
	raw, err := there.json()
	if err != nil {
		return err
	}
	s.lists = append(s.lists, raw)
	d := imgspecv1.Descriptor{MediaType: there.index.MediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	if found != "" {
		d.Annotations = map[string]string{imgspecv1.AnnotationRefName: found, "io.containerd.image.name": found}
	}
	s.index.Manifests = append(s.index.Manifests, d)
	return nil
}
