package build

import (
	"context"
	"errors"
	"fmt"
	goruntime "runtime"

	"go.podman.io/buildah/define"
	"go.podman.io/image/v5/docker/reference"

	"github.com/balena-os/balena/pkg/pull"
)

// pullBases makes every image that the Dockerfile names one of the store's
// before buildah looks for it: what it fetched itself would go through
// temporary files, without deltas and without durability.
func (b *builder) pullBases(ctx context.Context, images []base) error {
	ids := map[string]string{}
	for _, img := range images {
		id, found, err := b.pullBase(ctx, img)
		if err != nil {
			return err
		}
		// buildah would take the first stage's platform for both.
		if have := ids[img.name]; have != "" && have != id {
			return fmt.Errorf("%w: the Dockerfile takes %s for two platforms: name one of them by its digest", ErrOptions, img.name)
		}
		ids[img.name] = id
		b.alias(img.name, found, id)
	}
	return nil
}

// pullBase gives the ID of an image, and the name that it has in the store.
func (b *builder) pullBase(ctx context.Context, img base) (id, found string, err error) {
	name, platform := img.name, img.platform
	if platform == "" {
		platform = b.platform
	}
	have, found, err := pull.Find(b.layers, name)
	if err == nil && (b.o.Pull != "always" || found == "") {
		one, verr := pull.Variant(b.layers, have, platform)
		if verr == nil {
			if one.ID != have.ID {
				found = "" // another image has the name
			}
			return one.ID, found, nil
		}
		err = fmt.Errorf("%w: %w", pull.ErrNoImage, verr)
	}
	switch {
	case err != nil && !errors.Is(err, pull.ErrNoImage):
		return "", "", err
	case b.o.Pull == "never":
		return "", "", fmt.Errorf("image %s is not here, and may not be pulled: %w", name, err)
	}
	foreign := platform != "" && !native(platform)
	// A name means this machine's image.
	images, err := pull.Pull(ctx, b.st, name, pull.Options{RegistryOptions: b.o.RegistryOptions, Platform: platform, Progress: b.o.Progress, Unnamed: foreign})
	if err != nil {
		return "", "", err
	}
	return images[0].ID, images[0].Name, nil
}

// native tells whether a platform is this machine's own.
func native(platform string) bool {
	own := "linux/" + goruntime.GOARCH
	return platform == own || platform == goruntime.GOARCH
}

// alias tells buildah about an image that it would not find by the name in the
// Dockerfile: one under localhost/, where podman puts what it builds, and one
// for another platform than the image of that name.
func (b *builder) alias(name, found, id string) {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil || b.buildah.AdditionalBuildContexts[name] != nil {
		return
	}
	value := id
	if found != "" {
		if have, err := reference.ParseNormalizedNamed(found); err != nil || reference.Domain(have) == reference.Domain(named) {
			return
		}
		value = found
	}
	b.buildah.AdditionalBuildContexts[name] = &define.AdditionalBuildContext{IsImage: true, Value: value}
}
