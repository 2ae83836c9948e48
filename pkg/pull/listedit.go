package pull

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"

	"github.com/opencontainers/go-digest"
	imgspecv1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/manifest"
	"go.podman.io/image/v5/types"
	"go.podman.io/storage"

	"github.com/balena-os/balena/pkg/store"
)

// ListOf says what a list holds and says.
type ListOf struct {
	RegistryOptions
	All         bool   // of an index every image, not only that for this machine
	Platform    string // of an index; "" is this machine's
	Amend       bool   // CreateList: a list that is there gets more
	Annotations map[string]string
}

// CreateList makes a list of images and returns its ID. An image is one of the
// store or else one of its registry, of which only the manifest is fetched.
// ErrListExists, ErrNoImage.
func CreateList(ctx context.Context, st *store.Store, name string, o ListOf, images ...string) (string, error) {
	layers, err := st.Layers()
	if err != nil {
		return "", err
	}
	named, err := listName(name)
	if err != nil {
		return "", err
	}
	l := newImageList(layers)
	switch img, _, err := Find(layers, name); {
	case err == nil && !isList(img):
		return "", fmt.Errorf("making the list %s: %w", name, ErrNotList)
	case err == nil && !o.Amend:
		return "", fmt.Errorf("making the list %s: %w", name, ErrListExists)
	case err == nil:
		if l, err = readList(layers, img); err != nil {
			return "", err
		}
	case !errors.Is(err, ErrNoImage):
		return "", err
	}
	if len(o.Annotations) > 0 {
		if l.index.Annotations == nil {
			l.index.Annotations = map[string]string{}
		}
		maps.Copy(l.index.Annotations, o.Annotations)
	}
	for _, image := range images {
		if _, err := l.add(ctx, image, o); err != nil {
			return "", fmt.Errorf("adding %s to the list %s: %w", image, name, err)
		}
	}
	err = errIn("making", name, l.save(named))
	return l.id, err
}

func errIn(doing, list string, err error) error {
	if err != nil {
		return fmt.Errorf("%s the list %s: %w", doing, list, err)
	}
	return nil
}

// ListImages makes a list of images of the store, by their IDs, with names that
// it takes from others: what a build for several platforms becomes.
func ListImages(_ context.Context, st *store.Store, ids []string, names ...string) (string, error) {
	layers, err := st.Layers()
	if err != nil {
		return "", err
	}
	l := newImageList(layers)
	var full []string
	for _, n := range names {
		name, err := listName(n)
		if err != nil {
			return "", err
		}
		full = append(full, name)
	}
	for _, id := range ids {
		img, err := layers.Image(id)
		if err != nil {
			return "", noImage(id)
		}
		if _, err := l.putLocal(img); err != nil {
			return "", err
		}
	}
	err = l.save(full...)
	return l.id, err
}

func listName(name string) (string, error) {
	named, err := ParseName(name)
	if err != nil {
		return "", err
	}
	if _, ok := named.(reference.Digested); ok {
		return "", fmt.Errorf("%w: a list's name cannot have a digest: %s", ErrBadReference, name)
	}
	return named.String(), nil
}

// EditList changes a list: with add it gets an image more, and f says what it says
// about that. It returns the digest of the image's manifest. ErrNoImage,
// ErrNotList, ErrNotInList.
func EditList(ctx context.Context, st *store.Store, list, image string, add bool, o ListOf, f func(*imgspecv1.Descriptor)) (digest.Digest, error) {
	layers, err := st.Layers()
	if err != nil {
		return "", err
	}
	l, err := findList(layers, list)
	if err != nil {
		return "", err
	}
	var changed []digest.Digest
	if add {
		if changed, err = l.add(ctx, image, o); err != nil {
			return "", fmt.Errorf("adding %s to the list %s: %w", image, list, err)
		}
	} else {
		i, err := l.find(image)
		if err != nil {
			return "", fmt.Errorf("changing the list %s: %w", list, err)
		}
		changed = []digest.Digest{l.index.Manifests[i].Digest}
	}
	for _, d := range changed {
		i, err := l.find(d.String())
		if err != nil {
			return "", err
		}
		m := &l.index.Manifests[i]
		if m.Platform == nil {
			m.Platform = &imgspecv1.Platform{}
		}
		f(m)
	}
	return changed[0], errIn("writing", list, l.save())
}

// CutList takes an image out of a list. ErrNoImage, ErrNotList, ErrNotInList.
func CutList(_ context.Context, st *store.Store, list, image string) error {
	layers, err := st.Layers()
	if err != nil {
		return err
	}
	l, err := findList(layers, list)
	if err != nil {
		return err
	}
	i, err := l.find(image)
	if err != nil {
		return errIn("changing", list, err)
	}
	l.index.Manifests = append(l.index.Manifests[:i:i], l.index.Manifests[i+1:]...)
	return errIn("writing", list, l.save())
}

// IsList tells whether a name or an ID is a list's.
func IsList(st *store.Store, name string) (bool, error) {
	layers, err := st.Layers()
	if err != nil {
		return false, err
	}
	img, _, err := Find(layers, name)
	if errors.Is(err, ErrNoImage) {
		return false, nil
	}
	return err == nil && isList(img), err
}

// ManifestOf is the index that a list will be pushed as, or of an image the
// manifest that its registry has.
func ManifestOf(ctx context.Context, st *store.Store, name string, o RegistryOptions) ([]byte, error) {
	layers, err := st.Layers()
	if err != nil {
		return nil, err
	}
	if l, err := findList(layers, name); err == nil {
		return l.json()
	}
	src, _, _, err := openRemote(ctx, name, o, "")
	if err != nil {
		return nil, fmt.Errorf("reading the manifest of %q: %w", name, unauthorized(err))
	}
	defer src.Close()
	raw, _, err := src.GetManifest(ctx, nil)
	return raw, err
}

// openRemote connects to the registry of an image.
func openRemote(ctx context.Context, name string, o RegistryOptions, platform string) (types.ImageSource, *types.SystemContext, reference.Named, error) {
	ref, named, err := ParseReference(name, nil)
	if err != nil {
		return nil, nil, nil, err
	}
	if named == nil {
		return nil, nil, nil, errors.New("a list holds images of the store and of registries: pull it first")
	}
	sys, err := (&puller{o: Options{RegistryOptions: o, Platform: platform}}).systemContext(named)
	if err != nil {
		return nil, nil, nil, err
	}
	src, err := openSource(ctx, sys, ref)
	return src, sys, named, err
}

// add puts an image, or those of an index, into the list.
func (l *imageList) add(ctx context.Context, image string, o ListOf) ([]digest.Digest, error) {
	if t, _ := cutTransport(image); t == "" {
		img, _, err := Find(l.layers, image)
		if err == nil {
			return l.addLocal(img, o)
		}
		if !errors.Is(err, ErrNoImage) {
			return nil, err
		}
	}
	added, err := l.addRemote(ctx, image, o)
	return added, unauthorized(err)
}

func (l *imageList) addLocal(img *storage.Image, o ListOf) ([]digest.Digest, error) {
	if isList(img) && o.All {
		other, err := readList(l.layers, img)
		if err != nil {
			return nil, err
		}
		var added []digest.Digest
		for _, d := range other.index.Manifests {
			l.put(d, other.sources[d.Digest])
			added = append(added, d.Digest)
		}
		if len(added) == 0 {
			return nil, fmt.Errorf("%w: it is a list without images", ErrNoImage)
		}
		return added, nil
	}
	img, err := ForPlatform(l.layers, img, o.Platform)
	if err != nil {
		return nil, err
	}
	d, err := l.putLocal(img)
	return []digest.Digest{d}, err
}

func (l *imageList) addRemote(ctx context.Context, image string, o ListOf) ([]digest.Digest, error) {
	raw, sys, named, err := openRemote(ctx, image, o.RegistryOptions, o.Platform)
	if err != nil {
		return nil, err
	}
	src := newSource(raw, nil)
	defer raw.Close()
	top, mime, err := src.GetManifest(ctx, nil)
	if err != nil {
		return nil, err
	}
	put := func(d imgspecv1.Descriptor) error {
		canonical, err := reference.WithDigest(reference.TrimNamed(named), d.Digest)
		if err == nil {
			l.put(d, "docker://"+canonical.String())
		}
		return err
	}
	if !manifest.MIMETypeIsMultiImage(manifest.NormalizedMIMEType(mime)) {
		pl, err := parsePlan(ctx, src, top, mime, sys, false)
		if err != nil {
			return nil, err
		}
		d := imgspecv1.Descriptor{MediaType: manifest.NormalizedMIMEType(mime), Digest: pl.digest, Size: int64(len(top)), Platform: &pl.image.Platform}
		return []digest.Digest{d.Digest}, put(d)
	}
	var index imgspecv1.Index
	if err := json.Unmarshal(top, &index); err != nil {
		return nil, fmt.Errorf("reading the image index: %w", err)
	}
	list, err := manifest.ListFromBlob(top, manifest.NormalizedMIMEType(mime))
	if err != nil {
		return nil, fmt.Errorf("reading the image index: %w", err)
	}
	chosen := digest.Digest("")
	if !o.All {
		if chosen, err = list.ChooseInstance(sys); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrPlatform, err)
		}
	}
	var added []digest.Digest
	for _, d := range index.Manifests {
		if chosen == "" || d.Digest == chosen {
			added = append(added, d.Digest)
			err = errors.Join(err, put(d))
		}
	}
	if len(added) == 0 {
		return nil, fmt.Errorf("%w: it is an index without images", ErrPlatform)
	}
	return added, err
}
