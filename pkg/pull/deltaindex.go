package pull

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"
	imgspecv1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/image/v5/docker"
	"go.podman.io/storage"

	"github.com/balena-os/balena/pkg/delta"
)

// What the image-deltas document of flatpak-oci-specs says: an index under one
// tag has for each image, by the digest of its manifest, a manifest whose layers
// are deltas of one layer each, between layers that are named by their diffIDs.
const (
	deltaIndexTag         = "_deltaindex"
	annotationDeltaTarget = "io.github.containers.delta.target"
	annotationDeltaFrom   = "io.github.containers.delta.from"
	annotationDeltaTo     = "io.github.containers.delta.to"

	// What has been written besides the media types that the document has now.
	mediaTypeDeltaManifest = "application/vnd.redhat.delta.manifest.v1+json"
	mediaTypeTarDiffRedHat = "application/vnd.redhat.tar-diff"
)

// layerDiff is a tar-diff between a layer in the store and a missing one.
type layerDiff struct {
	blob  imgspecv1.Descriptor
	layer string         // ID of the one that it starts from
	image *storage.Image // one that has it
}

// indexOffers asks for tar-diffs of the image's missing layers: one request
// where there are none, two else. What it finds counts as one offer.
func (p *puller) indexOffers(ctx context.Context, t *task, images []storage.Image) ([]*offer, error) {
	if t.job.name == nil || t.job.src.Transport().Name() != docker.Transport.Name() {
		return nil, nil
	}
	ctx, stop := context.WithTimeout(ctx, findTimeout)
	defer stop()
	found, err := p.deltaManifest(ctx, t)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	o := &offer{diffs: map[digest.Digest]layerDiff{}}
	have := p.layersOf(images)
	for _, l := range t.missing {
		d, ok := smallestDiff(found, l.diffID, have)
		if !ok || t.plain.local[l.diffID] != "" || d.blob.Size >= wholeSize(t.src, l) {
			continue
		}
		if _, twice := o.diffs[l.diffID]; !twice {
			o.diffs[l.diffID] = d
			o.Layers = append(o.Layers, l.diffID)
			o.Blob.Size += d.blob.Size
			o.base, o.from = d.image, imageName(d.image)
		}
	}
	if len(o.diffs) == 0 {
		return nil, nil
	}
	return []*offer{o}, nil
}

// deltaManifest gives what the repository's index of deltas has for the image.
func (p *puller) deltaManifest(ctx context.Context, t *task) ([]imgspecv1.Descriptor, error) {
	places, err := registryPlaces(t.sys, t.job.name, t.plan.digest, true)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, place := range places {
		found, err := deltaManifestAt(ctx, place, t.plan.digest)
		if err == nil {
			return found, nil
		}
		if !errors.Is(err, errNotThere) {
			errs = append(errs, err)
		}
	}
	return nil, errors.Join(errs...)
}

func deltaManifestAt(ctx context.Context, place *registryPlace, target digest.Digest) ([]imgspecv1.Descriptor, error) {
	body, _, err := place.get(ctx, place.path("manifests/"+deltaIndexTag), imgspecv1.MediaTypeImageIndex)
	if err != nil {
		return nil, err
	}
	var index imgspecv1.Index
	if err := json.Unmarshal(body, &index); err != nil {
		return nil, fmt.Errorf("reading the index of deltas: %w", err)
	}
	i := slices.IndexFunc(index.Manifests, func(d imgspecv1.Descriptor) bool {
		return d.Annotations[annotationDeltaTarget] == target.String()
	})
	if i < 0 {
		return nil, nil
	}
	entry := index.Manifests[i]
	if err := entry.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("reading the index of deltas: %w", err)
	}
	body, _, err = place.get(ctx, place.path("manifests/"+entry.Digest.String()), imgspecv1.MediaTypeImageManifest, mediaTypeDeltaManifest)
	if err != nil {
		return nil, err
	}
	if entry.Digest.Algorithm().FromBytes(body) != entry.Digest {
		return nil, fmt.Errorf("manifest of deltas %s: %w", entry.Digest, ErrDigest)
	}
	var m imgspecv1.Manifest
	if err := json.Unmarshal(body, &m); err != nil {
		return nil, fmt.Errorf("reading the manifest of deltas: %w", err)
	}
	if of := m.Annotations[annotationDeltaTarget]; of != "" && of != target.String() {
		return nil, fmt.Errorf("the manifest of deltas %s is for %s", entry.Digest, of)
	}
	if len(m.Layers) > maxOffers {
		m.Layers = m.Layers[:maxOffers]
	}
	return m.Layers, nil
}

// layersOf finds the layers of images, by their diffIDs.
func (p *puller) layersOf(images []storage.Image) map[digest.Digest]layerDiff {
	have := map[digest.Digest]layerDiff{}
	for i := range images {
		for id := images[i].TopLayer; id != ""; {
			l, err := p.layers.Layer(id)
			if err != nil {
				break
			}
			if l.UncompressedDigest != "" {
				have[l.UncompressedDigest] = layerDiff{layer: id, image: &images[i]}
			}
			id = l.Parent
		}
	}
	return have
}

// smallestDiff is the smallest delta to a layer from one of those at hand.
func smallestDiff(found []imgspecv1.Descriptor, to digest.Digest, have map[digest.Digest]layerDiff) (best layerDiff, ok bool) {
	for _, d := range found {
		switch d.MediaType {
		case delta.TarDiffMediaType, mediaTypeTarDiffRedHat:
		default:
			continue
		}
		from, there := have[digest.Digest(d.Annotations[annotationDeltaFrom])]
		if !there || d.Annotations[annotationDeltaTo] != to.String() || d.Size <= 0 || d.Digest.Validate() != nil {
			continue
		}
		if !ok || d.Size < best.blob.Size {
			from.blob = d
			best, ok = from, true
		}
	}
	return best, ok
}

// applyDiffs makes the layers that an offer has tar-diffs of, each by its own:
// one that fails does not keep the others from being made.
func (a *applier) applyDiffs(ctx context.Context, w way) error {
	var errs []error
	for _, l := range a.d.plan.layers {
		d, ok := w.offer.diffs[l.diffID]
		if _, expected := a.waiting[l]; !ok || !expected || !w.carry[l] {
			continue
		}
		if err := a.applyDiff(ctx, l, d); err != nil {
			if ctx.Err() != nil || a.d.failed != nil {
				return err
			}
			errs = append(errs, fmt.Errorf("layer %s: %w", short(l.diffID), err))
			continue
		}
		a.from = imageName(d.image)
		a.decided(l)
	}
	return errors.Join(errs...)
}

func (a *applier) applyDiff(ctx context.Context, l *layer, d layerDiff) error {
	unpin, err := a.p.w.Pin(ctx, d.image.ID)
	if err != nil {
		return err
	}
	defer unpin()
	dir, err := layerDir(a.p.layers, d.layer)
	if err != nil {
		return err
	}
	files, err := delta.OpenDir(dir)
	if err != nil {
		return err
	}
	defer files.Close()
	blob := a.p.deltaBlob(ctx, a.d.src, &offer{Artifact: delta.Artifact{Blob: d.blob}}, func(done int64) {
		a.d.tell(Event{Layer: d.blob.Digest, From: imageName(d.image), State: Fetching, Done: done, Total: d.blob.Size})
	})
	if err := blob.open(); err != nil {
		return err
	}
	defer blob.Close()
	defer func() { a.fetched += blob.at }()
	in := &verifiedBlob{r: blob, v: d.blob.Digest.Verifier()}
	r, err := delta.NewTarDiffReader(in, files)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := a.d.make(ctx, r, l); err != nil {
		return a.blameDiff(ctx, d, in, err)
	}
	a.d.tell(Event{Layer: d.blob.Digest, From: imageName(d.image), State: Committed, Done: blob.at, Total: d.blob.Size})
	return nil
}

// blameDiff finds out why a layer came out otherwise than it should: a tar-diff
// has no checksum of what it was made from.
func (a *applier) blameDiff(ctx context.Context, d layerDiff, blob io.Reader, err error) error {
	if !errors.Is(err, ErrDigest) || ctx.Err() != nil {
		return err
	}
	if _, berr := io.Copy(io.Discard, blob); berr != nil {
		return berr
	}
	stored, serr := a.p.layers.Layer(d.layer)
	if serr != nil {
		return err
	}
	tar, serr := openTar(a.p.layers, stored)
	if serr != nil {
		return err
	}
	defer tar.Close()
	if _, cerr := io.Copy(io.Discard, &untilDone{ctx, tar}); errors.Is(cerr, ErrDamagedLayer) {
		return cerr
	}
	return err
}
