package pull

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"go.podman.io/storage"

	"github.com/balena-os/balena/pkg/durable"
	"github.com/balena-os/balena/pkg/store"
)

// Damage is a layer or an image in the store that is not what it should be.
type Damage struct {
	Layer  string   // ID; "" for damage of an image itself
	Images []string // IDs of the images that suffer from it; none: of a leftover layer
	Names  []string // theirs
	What   error
}

// CheckOptions say how thoroughly Check looks. The zero value reads everything.
type CheckOptions struct {
	Quick bool                  // sizes instead of content
	Tell  func(done, total int) // of the layers; nil: nothing is told
}

// Checked is what Check looked at.
type Checked struct {
	Layers, Images int
	Bytes          int64 // of the layers' content that was read
	Unverifiable   int   // layers whose record does not make their tar again
}

// Check compares layers with their digests and images with their manifests and
// configurations. It changes nothing.
func Check(ctx context.Context, st *store.Store, o CheckOptions) (Checked, []Damage, error) {
	var seen Checked
	layers, err := st.Layers()
	if err != nil {
		return seen, nil, err
	}
	set, err := readImages(layers)
	if err != nil {
		return seen, nil, err
	}
	var found []Damage
	for _, l := range set.layers {
		if err := ctx.Err(); err != nil {
			return seen, nil, err
		}
		if o.Tell != nil {
			o.Tell(seen.Layers, len(set.layers))
		}
		seen.Layers++
		if l.UncompressedDigest == "" {
			continue // a container's own
		}
		verified, err := checkLayer(layers, l, o.Quick)
		if !verified {
			seen.Unverifiable++
		} else if !o.Quick {
			seen.Bytes += max(l.UncompressedSize, 0)
		}
		if err != nil {
			found = append(found, set.damage(l.ID, err))
		}
	}
	for i := range set.raw {
		seen.Images++
		if err := checkImage(layers, set, &set.raw[i]); err != nil {
			found = append(found, Damage{Images: []string{set.raw[i].ID}, Names: set.raw[i].Names, What: err})
		}
	}
	slices.SortFunc(found, func(a, b Damage) int { return strings.Compare(a.Layer+a.What.Error(), b.Layer+b.What.Error()) })
	return seen, found, nil
}

// checkLayer says what is wrong with a layer. Quick, it is read only on
// suspicion, which says better what is wrong than the digest does.
func checkLayer(layers storage.Store, l *storage.Layer, quick bool) (verified bool, err error) {
	suspicion := durable.Suspect(layers, l.ID)
	if suspicion == nil && quick {
		return true, nil
	}
	verified, err = durable.Verify(layers, l.ID, l.UncompressedDigest)
	if err != nil && suspicion != nil {
		err = fmt.Errorf("%w: %w", durable.ErrDamaged, suspicion)
	}
	return verified, err
}

func (s *imageSet) damage(layer string, what error) Damage {
	d := Damage{Layer: layer, What: what}
	for _, img := range s.images {
		for _, l := range s.chain(img.TopLayer) {
			if l.ID == layer {
				d.Images = append(d.Images, img.ID)
				d.Names = append(d.Names, img.Names...)
			}
		}
	}
	return d
}

func checkImage(layers storage.Store, set *imageSet, img *storage.Image) error {
	for id := img.TopLayer; id != ""; {
		l := set.layers[id]
		if l == nil {
			return fmt.Errorf("its layer %s is missing", shortID(id))
		}
		id = l.Parent
	}
	for _, key := range img.BigDataNames {
		data, err := layers.ImageBigData(img.ID, key)
		if err != nil {
			return fmt.Errorf("its %s cannot be read: %w", key, err)
		}
		if want := itemDigest(layers, img, key); want != "" && digest.Canonical.FromBytes(data) != want {
			return fmt.Errorf("its %s is damaged", key)
		}
	}
	if isList(img) {
		return nil
	}
	if _, err := layers.ImageBigData(img.ID, "sha256:"+img.ID); err != nil {
		return fmt.Errorf("its configuration cannot be read: %w", err)
	}
	return nil
}

// itemDigest is what an item's bytes must have: manifests and configurations
// are named by it; "" where nobody knows.
func itemDigest(layers storage.Store, img *storage.Image, key string) digest.Digest {
	d := digest.Digest(strings.TrimPrefix(key, storage.ImageDigestManifestBigDataNamePrefix+"-"))
	if d.Validate() != nil {
		d, _ = layers.ImageBigDataDigest(img.ID, key)
	}
	if d == "" && key == storage.ImageDigestBigDataKey {
		d = img.Digest // that of the first: another manifest may have taken its place
	}
	if d.Validate() != nil || d.Algorithm() != digest.Canonical {
		return ""
	}
	return d
}
