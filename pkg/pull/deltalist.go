package pull

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/manifest"
	"go.podman.io/image/v5/types"

	"github.com/balena-os/balena/pkg/delta"
	"github.com/balena-os/balena/pkg/store"
)

// ErrNoDelta is for a delta that the registry does not have.
var ErrNoDelta = errors.New("no such delta")

// PublishedDelta is a delta that a registry has.
type PublishedDelta struct {
	Digest    digest.Digest // of its manifest
	Platform  string        // of the target; "" if the target does not say
	Target    digest.Digest // of the target's manifest
	Base      digest.Digest // of the base's configuration
	BaseNames []string      // that the base has in the store; nil if it is not there
	Size      int64         // bytes
	Whole     int64         // of the layers that it replaces, compressed; -1 if unknown
	Created   time.Time     // zero: not said
	Problem   string        `json:",omitempty"` // why it cannot be used
}

// Ratio is how many times smaller it is than what it replaces; 0 if unknown.
func (d PublishedDelta) Ratio() float64 {
	if d.Size <= 0 || d.Whole <= 0 {
		return 0
	}
	return float64(d.Whole) / float64(d.Size)
}

// ListDeltas lists the deltas that lead to an image in a registry: of an index,
// to all of its platforms, or to the one that o says.
func ListDeltas(ctx context.Context, st *store.Store, ref string, o DeltaOptions) ([]PublishedDelta, error) {
	l, err := newLister(ctx, st, ref, o)
	var all []PublishedDelta
	if err == nil {
		defer l.raw.Close()
		all, err = l.list(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("listing the deltas to %q: %w", ref, unauthorized(err))
	}
	return all, nil
}

// RemoveDeltas removes deltas that lead to an image in a registry: those whose
// digests, or whose bases' IDs, begin with one of the given ones; without any,
// all of them. It returns what it removed. ErrNoDelta, ErrNoDelete.
func RemoveDeltas(ctx context.Context, st *store.Store, ref string, which []string, o DeltaOptions) ([]digest.Digest, error) {
	l, err := newLister(ctx, st, ref, o)
	var removed []digest.Digest
	if err == nil {
		defer l.raw.Close()
		removed, err = l.remove(ctx, which)
	}
	if err != nil {
		err = fmt.Errorf("removing deltas to %q: %w", ref, unauthorized(err))
	}
	return removed, err
}

// lister reads the deltas to one image.
type lister struct {
	m     *maker
	named reference.Named
	src   *source
	raw   types.ImageSource
	refs  *referrers
}

func newLister(ctx context.Context, st *store.Store, name string, o DeltaOptions) (*lister, error) {
	m, err := newMaker(st, o)
	if err != nil {
		return nil, err
	}
	ref, named, err := ParseReference(name, nil)
	if err != nil {
		return nil, err
	}
	if named == nil {
		return nil, errors.New("it is not in a registry")
	}
	sys, err := m.systemContext(named, o.Platform)
	if err != nil {
		return nil, err
	}
	raw, err := openSource(ctx, sys, ref)
	if err != nil {
		return nil, err
	}
	return &lister{m: m, named: named, raw: raw, src: newSource(raw, nil), refs: &referrers{sys: sys}}, nil
}

// targets are the manifests of the image, one for each platform.
func (l *lister) targets(ctx context.Context) ([]digest.Digest, error) {
	raw, mime, err := l.src.GetManifest(ctx, nil)
	if err != nil {
		return nil, err
	}
	if mime == "" {
		mime = manifest.GuessMIMEType(raw)
	}
	mime = manifest.NormalizedMIMEType(mime)
	switch {
	case !manifest.MIMETypeIsMultiImage(mime):
		d, err := manifest.Digest(raw)
		return []digest.Digest{d}, err
	case l.m.o.Platform != "":
		list, err := manifest.ListFromBlob(raw, mime)
		if err != nil {
			return nil, fmt.Errorf("reading the image index: %w", err)
		}
		d, err := list.ChooseInstance(l.refs.sys)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrPlatform, err)
		}
		return []digest.Digest{d}, nil
	}
	entries, err := indexEntries(ctx, l.src)
	var all []digest.Digest
	for _, d := range entries {
		all = append(all, d.Digest)
	}
	return all, err
}

func (l *lister) list(ctx context.Context) ([]PublishedDelta, error) {
	targets, err := l.targets(ctx)
	if err != nil {
		return nil, err
	}
	names := map[string][]string{}
	if images, err := l.m.layers.Images(); err == nil {
		for _, img := range images {
			names[img.ID] = img.Names
		}
	}
	all := []PublishedDelta{}
	for _, t := range targets {
		found, err := l.refs.list(ctx, l.named, t)
		if err != nil {
			return nil, err
		}
		if len(found) == 0 {
			continue
		}
		whole, platform := l.sizes(ctx, t)
		for _, d := range found {
			p := PublishedDelta{Digest: d.Digest, Platform: platform, Target: t, Whole: -1}
			a, err := l.refs.artifact(ctx, l.named, d, t)
			if err != nil {
				p.Problem = err.Error()
			} else {
				p.Base, p.BaseNames, p.Size, p.Created = a.Base, names[a.Base.Encoded()], a.Blob.Size, a.Created
				p.Whole = whole(a)
			}
			all = append(all, p)
		}
	}
	slices.SortStableFunc(all, func(a, b PublishedDelta) int { return strings.Compare(a.Platform, b.Platform) })
	return all, nil
}

// sizes reads the target, to tell what a delta replaces. What is wrong with the
// target is no reason not to list.
func (l *lister) sizes(ctx context.Context, target digest.Digest) (whole func(delta.Artifact) int64, platform string) {
	unknown := func(delta.Artifact) int64 { return -1 }
	raw, mime, err := l.src.GetManifest(ctx, &target)
	if err != nil {
		return unknown, ""
	}
	p, err := parsePlan(ctx, l.src, raw, mime, l.refs.sys, false)
	if err != nil {
		return unknown, ""
	}
	if p.image.OS != "" {
		platform = platformText(p.image.OS, p.image.Architecture, p.image.Variant)
	}
	return func(a delta.Artifact) int64 {
		var n int64
		for _, d := range a.Layers {
			i := slices.IndexFunc(p.layers, func(l *layer) bool { return l.diffID == d })
			if i < 0 || p.layers[i].blob.Size < 0 {
				return -1
			}
			n += p.layers[i].blob.Size
		}
		return n
	}, platform
}

func (l *lister) remove(ctx context.Context, which []string) ([]digest.Digest, error) {
	all, err := l.list(ctx)
	if err != nil {
		return nil, err
	}
	chosen := all
	if len(which) > 0 {
		chosen = nil
		for _, w := range which {
			fits := slices.DeleteFunc(slices.Clone(all), func(d PublishedDelta) bool {
				return !begins(d.Digest, w) && !begins(d.Base, w)
			})
			if len(fits) == 0 {
				return nil, fmt.Errorf("%w: %s", ErrNoDelta, w)
			}
			chosen = append(chosen, fits...)
		}
	}
	var removed []digest.Digest
	for _, d := range chosen {
		if slices.Contains(removed, d.Digest) {
			continue
		}
		if err := l.refs.delete(ctx, l.named, d.Target, d.Digest); err != nil {
			return removed, err
		}
		removed = append(removed, d.Digest)
	}
	return removed, nil
}

// begins tells whether a digest begins with what a person gave of it, with or
// without the algorithm. Less than four digits are too few.
func begins(d digest.Digest, given string) bool {
	if d.Validate() != nil {
		return false
	}
	hex := strings.TrimPrefix(given, d.Algorithm().String()+":")
	return len(hex) >= 4 && strings.HasPrefix(d.Encoded(), hex)
}
