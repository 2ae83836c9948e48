package pull

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/storage"

	"github.com/balena-os/balena/pkg/store"
)

// Summary is what the store knows about an image without opening its
// configuration.
type Summary struct {
	ID       string          // hexadecimal, without algorithm: the digest of its configuration
	Names    []string        // normalised: docker.io/library/debian:12
	Digest   digest.Digest   // of its manifest
	Digests  []digest.Digest // of all manifests that stand for it, Digest included
	Created  time.Time       // as its configuration says
	Size     int64           // bytes of its layers, uncompressed; shared ones count
	TopLayer string          // "" for an image without layers
}

// ListOptions choose images. The zero value is every image but the untagged
// ones that others were built on.
type ListOptions struct {
	All     bool     // those too
	Filters []string // KEY=VALUE; see ErrBadFilter
	Names   []string // REPOSITORY[:TAG], which may have * and ?; any of them
}

// List returns the images that o chooses, the newest first.
func List(ctx context.Context, st *store.Store, o ListOptions) ([]Summary, error) {
	layers, err := st.Layers()
	if err != nil {
		return nil, err
	}
	all, err := readImages(layers)
	if err != nil {
		return nil, err
	}
	filters := slices.Clone(o.Filters)
	var any []imageFilter
	for _, n := range o.Names {
		f, err := referenceFilter(n)
		if err != nil {
			return nil, err
		}
		any = append(any, f)
	}
	keep, err := parseFilters(filters, all)
	if err != nil {
		return nil, err
	}
	var out []Summary
	for i := range all.images {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		img := &all.images[i]
		if len(img.Names) == 0 && !o.All && all.isIntermediate(img) {
			continue
		}
		c := &candidate{layers: layers, set: all, Summary: *img}
		ok, err := c.passes(keep)
		if err != nil {
			return nil, err
		}
		if ok && len(any) > 0 {
			ok = c.named(any)
		}
		if ok {
			out = append(out, c.Summary)
		}
	}
	slices.SortStableFunc(out, newestFirst)
	return out, nil
}

func newestFirst(a, b Summary) int {
	if c := b.Created.Compare(a.Created); c != 0 {
		return c
	}
	return strings.Compare(a.ID, b.ID)
}

// imageSet is all images and layers at one moment.
type imageSet struct {
	images []Summary
	raw    []storage.Image
	layers map[string]*storage.Layer
	parent map[string]bool // layers that an image's top layer lies upon
	listed map[string]bool // images that lists hold
}

// wholeImages lists the images but those that a power cut or a kill left half
// made: containers/storage records an image first and its items then, and the
// manifest is the last of them.
func wholeImages(st storage.Store) ([]storage.Image, error) {
	all, err := st.Images()
	if err != nil {
		return nil, fmt.Errorf("listing images: %w", err)
	}
	return slices.DeleteFunc(all, func(i storage.Image) bool { return HalfMade(&i) }), nil
}

// HalfMade tells whether an image's making was cut short.
func HalfMade(i *storage.Image) bool {
	return len(i.Names) == 0 && !slices.Contains(i.BigDataNames, storage.ImageDigestBigDataKey)
}

func readImages(st storage.Store) (*imageSet, error) {
	raw, err := wholeImages(st)
	if err != nil {
		return nil, err
	}
	layers, err := st.Layers()
	if err != nil {
		return nil, fmt.Errorf("listing layers: %w", err)
	}
	s := &imageSet{raw: raw, layers: make(map[string]*storage.Layer, len(layers)), parent: map[string]bool{}, listed: listed(st, raw)}
	for i := range layers {
		s.layers[layers[i].ID] = &layers[i]
	}
	for i := range raw {
		img := Summary{
			ID: raw[i].ID, Names: slices.Sorted(slices.Values(raw[i].Names)), Digest: raw[i].Digest, Digests: raw[i].Digests,
			Created: raw[i].Created, TopLayer: raw[i].TopLayer,
		}
		for j, l := range s.chain(raw[i].TopLayer) {
			img.Size += max(l.UncompressedSize, 0)
			if j > 0 {
				s.parent[l.ID] = true
			}
		}
		s.images = append(s.images, img)
	}
	return s, nil
}

// chain is a layer and those that it lies upon, the topmost first.
func (s *imageSet) chain(top string) []*storage.Layer {
	var chain []*storage.Layer
	for l := s.layers[top]; l != nil && len(chain) <= len(s.layers); l = s.layers[l.Parent] {
		chain = append(chain, l)
	}
	return chain
}

// isIntermediate tells whether another image was built on this one, or a list
// holds it.
func (s *imageSet) isIntermediate(img *Summary) bool {
	return s.parent[img.TopLayer] || s.listed[img.ID]
}

func (s *imageSet) find(name string) (*Summary, string, error) {
	raw, found, err := find(s.raw, name)
	if err != nil {
		return nil, "", err
	}
	for i := range s.images {
		if s.images[i].ID == raw.ID {
			return &s.images[i], found, nil
		}
	}
	return nil, "", noImage(name)
}

// FamiliarName is a normalised name as docker shows it: debian:12, not
// docker.io/library/debian:12.
func FamiliarName(name string) string {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return name
	}
	return reference.FamiliarString(named)
}

// SplitName is a normalised name's repository as docker shows it, its tag and
// its digest; what it does not have is "".
func SplitName(name string) (repository, tag, digest string) {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return name, "", ""
	}
	if t, ok := named.(reference.Tagged); ok {
		tag = t.Tag()
	}
	if d, ok := named.(reference.Digested); ok {
		digest = d.Digest().String()
	}
	return reference.FamiliarName(named), tag, digest
}

// RepoDigests are the names under which registries have exactly this image:
// each of its repositories with each digest of its manifests.
func (i Summary) RepoDigests() []string {
	var out []string
	for _, n := range i.Names {
		named, err := reference.ParseNormalizedNamed(n)
		if err != nil {
			continue
		}
		for _, d := range i.Digests {
			name := reference.FamiliarName(named) + "@" + d.String()
			if !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	}
	return out
}

// RepoTags are the image's tags as docker shows them.
func (i Summary) RepoTags() []string {
	var out []string
	for _, n := range i.Names {
		if _, tag, _ := SplitName(n); tag != "" {
			out = append(out, FamiliarName(n))
		}
	}
	return out
}
