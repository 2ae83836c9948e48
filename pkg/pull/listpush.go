package pull

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	imgspecv1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/image/v5/copy"
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/manifest"
	"go.podman.io/image/v5/types"
	"go.podman.io/storage"

	"github.com/balena-os/balena/pkg/store"
)

// ErrListDestination is for a list that is to go to something else than a registry.
var ErrListDestination = errors.New("a list is pushed to a registry; 'balena save --format oci-archive' writes it to a file")

// PushList sends a list and its images to a registry; dest "" is the one that
// its name says. With missing only the image for this machine is sent along,
// and the registry must have the others. Images of the store are sent as Push
// does it, those of other registries are copied from there.
func PushList(ctx context.Context, st *store.Store, name, dest string, missing bool, o PushOptions) (Pushed, error) {
	layers, err := st.Layers()
	if err != nil {
		return Pushed{}, err
	}
	img, found, err := Find(layers, name)
	if err != nil {
		return Pushed{}, err
	}
	return pushList(ctx, layers, img, found, dest, missing, o)
}

func pushList(ctx context.Context, layers storage.Store, img *storage.Image, found, dest string, missing bool, o PushOptions) (Pushed, error) {
	l, err := readList(layers, img)
	if err != nil {
		return Pushed{}, err
	}
	if dest == "" {
		if dest = found; dest == "" {
			return Pushed{}, fmt.Errorf("pushing %q: %w", shortID(img.ID), ErrNoDestination)
		}
	}
	pushed, err := l.push(ctx, dest, missing, o)
	if err != nil {
		return Pushed{}, fmt.Errorf("pushing %q: %w", dest, unauthorized(err))
	}
	return pushed, nil
}

func (l *imageList) push(ctx context.Context, dest string, missing bool, o PushOptions) (Pushed, error) {
	ref, named, err := ParseReference(dest, nil)
	if err != nil {
		return Pushed{}, err
	}
	if named == nil {
		return Pushed{}, ErrListDestination
	}
	if len(l.index.Manifests) == 0 {
		return Pushed{}, errors.New("the list is empty")
	}
	sys, err := o.Context(named)
	if err != nil {
		return Pushed{}, err
	}
	there := newImageList(l.layers) // as the registry will have it
	there.index.Annotations = l.index.Annotations
	for _, d := range l.index.Manifests {
		if missing {
			if own, err := l.instance(""); err != nil || own.ID != l.local(d.Digest) {
				there.put(d, "")
				continue
			}
		}
		sent, err := l.pushOne(ctx, d, named, sys, o)
		if err != nil {
			return Pushed{}, fmt.Errorf("the image for %s: %w", platformName(d.Platform), err)
		}
		there.put(sent, "")
	}
	raw, err := there.json()
	if err != nil {
		return Pushed{}, err
	}
	if err := (&referrers{sys: sys}).putManifest(ctx, ref, raw, nil); err != nil {
		return Pushed{}, err
	}
	pushed := Pushed{Name: named.String(), Digest: digest.FromBytes(raw), Size: len(raw)}
	if t, ok := named.(reference.Tagged); ok {
		pushed.Tag = t.Tag()
	}
	return pushed, nil
}

// pushOne makes the repository have one image, and says as what.
func (l *imageList) pushOne(ctx context.Context, d imgspecv1.Descriptor, named reference.Named, sys *types.SystemContext, o PushOptions) (imgspecv1.Descriptor, error) {
	repo := reference.TrimNamed(named)
	dst, err := docker.NewReferenceUnknownDigest(repo)
	if err != nil {
		return d, err
	}
	var raw []byte
	if id := l.local(d.Digest); id != "" {
		img, err := l.layers.Image(id)
		if err != nil {
			return d, err
		}
		p := &pusher{o: o, layers: l.layers, img: img, byDigest: map[digest.Digest]*storage.Layer{}}
		if raw, err = p.send(ctx, dst, named); err != nil {
			return d, err
		}
	} else {
		src, from, err := ParseReference(l.sources[d.Digest], nil)
		if err != nil || from == nil {
			return d, fmt.Errorf("%w: %s, which the list has, is no more in the store", ErrNoImage, d.Digest)
		}
		if from.Name() == repo.Name() {
			return d, nil
		}
		if raw, err = copyRemote(ctx, dst, src, from, sys, o); err != nil {
			return d, err
		}
	}
	d.MediaType, d.Digest, d.Size = manifest.GuessMIMEType(raw), digest.FromBytes(raw), int64(len(raw))
	return d, nil
}

// copyRemote copies from one registry to another, as it is.
func copyRemote(ctx context.Context, dst, src types.ImageReference, from reference.Named, sys *types.SystemContext, o PushOptions) ([]byte, error) {
	fromSys, err := o.Context(from)
	if err != nil {
		return nil, err
	}
	policy, err := policyContext(fromSys)
	if err != nil {
		return nil, err
	}
	defer policy.Destroy() //nolint:errcheck // only says that it was destroyed before
	toSys := *sys
	toSys.BlobInfoCacheDir = "/dev/null/none" // in memory, not in a file of podman's
	var raw []byte
	err = retry(ctx, func() error {
		raw, err = copy.Image(ctx, policy, dst, src, &copy.Options{ReportWriter: io.Discard, SourceCtx: fromSys, DestinationCtx: &toSys, PreserveDigests: true})
		return err
	})
	return raw, err
}
