package pull

import (
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/directory"
	"go.podman.io/image/v5/docker"
	dockerarchive "go.podman.io/image/v5/docker/archive"
	"go.podman.io/image/v5/docker/reference"
	ocilayout "go.podman.io/image/v5/oci/layout"
	istorage "go.podman.io/image/v5/storage"
	"go.podman.io/image/v5/types"
	"go.podman.io/storage"
	"go.podman.io/storage/pkg/regexp"
)

// Errors about images and their names.
var (
	ErrNoImage        = errors.New("no such image")
	ErrAmbiguousImage = errors.New("more than one image has an ID that begins so")
	ErrBadReference   = errors.New("invalid reference format")
)

// ParseName reads an image's name as docker does: docker.io is the registry
// where none is named, library/ the folder of its unqualified names, latest the
// tag where there is neither tag nor digest; with both, the digest counts.
func ParseName(name string) (reference.Named, error) {
	named, err := reference.ParseDockerRef(name)
	if err != nil {
		if strings.ToLower(name) != name {
			if _, e := reference.ParseDockerRef(strings.ToLower(name)); e == nil {
				return nil, fmt.Errorf("%w: repository name (%s) must be lowercase", ErrBadReference, name)
			}
		}
		return nil, fmt.Errorf("%w: %q", ErrBadReference, name)
	}
	return reference.TagNameOnly(named), nil
}

// isShort tells whether a name leaves the registry to us.
func isShort(name string) bool {
	named, err := reference.ParseNormalizedNamed(name)
	return err == nil && reference.Domain(named) == "docker.io" &&
		!strings.HasPrefix(name, "docker.io/") && !strings.HasPrefix(name, "index.docker.io/")
}

// transports are the places that images come from and go to, by the prefix of
// their references.
var transports = map[string]func(string) (types.ImageReference, error){
	"docker":         docker.ParseReference,
	"oci":            ocilayout.ParseReference,
	"oci-archive":    parseOCIArchive,
	"docker-archive": dockerarchive.ParseReference,
	"dir":            directory.NewReference,
}

// cutTransport splits TRANSPORT:REST; transport is "" for a plain name.
func cutTransport(ref string) (transport, rest string) {
	t, rest, ok := strings.Cut(ref, ":")
	if _, known := transports[t]; ok && (known || t == "containers-storage") {
		return t, rest
	}
	return "", ref
}

// ParseReference reads [TRANSPORT:]REF, where no transport means docker://,
// and tells the name in its registry (nil for archives and folders).
// containers-storage: means the layers given, unless these are nil.
func ParseReference(ref string, layers storage.Store) (types.ImageReference, reference.Named, error) {
	t, rest := cutTransport(ref)
	switch t {
	case "", "docker":
		named, err := ParseName(strings.TrimPrefix(rest, "//"))
		if err != nil {
			return nil, nil, err
		}
		r, err := docker.NewReference(named)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: %q: %w", ErrBadReference, ref, err)
		}
		return r, named, nil
	case "containers-storage":
		if layers == nil {
			return nil, nil, fmt.Errorf("%w: %q: containers-storage: cannot be used here", ErrBadReference, ref)
		}
		r, err := istorage.Transport.ParseStoreReference(layers, rest)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: %q: %w", ErrBadReference, ref, err)
		}
		return r, nil, nil
	}
	if rest == "" {
		return nil, nil, fmt.Errorf("%w: %q names nothing in %s", ErrBadReference, ref, t)
	}
	r, err := transports[t](rest)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %q: %w", ErrBadReference, ref, err)
	}
	return r, nil, nil
}

var (
	hexForm    = regexp.Delayed(`^[0-9a-f]{1,64}$`)
	fullIDForm = regexp.Delayed(`^[0-9a-f]{64}$`)
)

// Find looks an image up among the local ones by, in this order: its ID; its
// name as docker reads it; the same under localhost/, where podman and buildah
// put what they build; name@digest; an unambiguous beginning of the ID. It
// returns the name that fitted, "" for an ID. ErrNoImage, ErrAmbiguousImage.
func Find(layers storage.Store, name string) (*storage.Image, string, error) {
	images, err := wholeImages(layers)
	if err != nil {
		return nil, "", err
	}
	return find(images, name)
}

func find(images []storage.Image, name string) (*storage.Image, string, error) {
	id, onlyID := strings.CutPrefix(name, "sha256:")
	onlyID = onlyID && hexForm.MatchString(id)
	if fullIDForm.MatchString(id) {
		for i := range images {
			if images[i].ID == id {
				return &images[i], "", nil
			}
		}
		return nil, "", noImage(name)
	}
	if !onlyID {
		if img, found, err := findName(images, name); img != nil || err != nil {
			return img, found, err
		}
	}
	if !hexForm.MatchString(id) {
		return nil, "", noImage(name)
	}
	var match *storage.Image
	for i := range images {
		if !strings.HasPrefix(images[i].ID, id) {
			continue
		}
		if match != nil {
			return nil, "", fmt.Errorf("%w: %s", ErrAmbiguousImage, name)
		}
		match = &images[i]
	}
	if match == nil {
		return nil, "", noImage(name)
	}
	return match, "", nil
}

func noImage(name string) error { return fmt.Errorf("%w: %s", ErrNoImage, name) }

func findName(images []storage.Image, name string) (*storage.Image, string, error) {
	candidates := []string{name}
	if isShort(name) {
		candidates = append(candidates, "localhost/"+name)
	}
	for _, c := range candidates {
		named, err := ParseName(c)
		if err != nil {
			return nil, "", err
		}
		want := named.String()
		for i := range images {
			for _, n := range images[i].Names {
				if n == want {
					return &images[i], n, nil
				}
			}
		}
		if d, ok := named.(reference.Canonical); ok {
			if img := findDigest(images, named.Name(), d.Digest()); img != nil {
				return img, want, nil
			}
		}
	}
	return nil, "", nil
}

// findDigest finds the image with a manifest of that digest and with a name in
// the repository.
func findDigest(images []storage.Image, repo string, d digest.Digest) *storage.Image {
	for i := range images {
		for _, have := range images[i].Digests {
			if have != d {
				continue
			}
			for _, n := range images[i].Names {
				if r, err := reference.ParseNamed(n); err == nil && r.Name() == repo {
					return &images[i]
				}
			}
		}
	}
	return nil
}
