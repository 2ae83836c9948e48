package pull

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/storage"

	"github.com/balena-os/balena/pkg/delta"
)

// ErrNoBase is for a delta, pulled or loaded as such, to an image from one that
// is not here.
var ErrNoBase = errors.New("the image that the delta starts from is not here")

// An offer is a published delta that this store could apply.
type offer struct {
	delta.Artifact
	base  *storage.Image
	from  string // what people call the base
	inTar bool   // the blob is an image's layer in which the delta is a file

	// diffs are tar-diffs of single layers, by their diffIDs, in the place of
	// one delta; Blob.Size is that of all.
	diffs map[digest.Digest]layerDiff
}

// A way is how a pull gets the layers that the store lacks: what a delta does
// not carry is fetched whole, or made from the same content elsewhere in the
// store.
type way struct {
	offer *offer                   // nil: no delta
	carry map[*layer]bool          // what the delta gives
	local map[digest.Digest]string // diffIDs of layers that are made here, and the layer they are made from
	twins bool                     // a layer can be made from the same one below it
	bytes int64                    // over the network
}

// unavailable is the size of what cannot be had at any price.
const unavailable = 1 << 50

// wholeSize is what a layer costs without a delta; more than can be paid where
// the source does not have it.
func wholeSize(src *source, l *layer) int64 {
	if a, ok := src.ImageSource.(*ociArchiveSource); src.onlyDelta || ok && !a.has(l.blob.Digest) {
		return unavailable
	}
	return max(0, l.blob.Size)
}

// plainWay is a pull without deltas.
func (p *puller) plainWay(src *source, missing []*layer) way {
	w := way{local: map[digest.Digest]string{}, twins: p.w.CanStage()}
	for _, l := range missing {
		if w.twins {
			if same, err := p.layers.LayersByUncompressedDigest(l.diffID); err == nil && len(same) > 0 {
				w.local[l.diffID] = same[0].ID
			}
		}
	}
	w.bytes = w.cost(src, missing)
	return w
}

// cost is what the way fetches.
func (w *way) cost(src *source, missing []*layer) int64 {
	var n int64
	if w.offer != nil {
		n = w.offer.Blob.Size
	}
	once := map[digest.Digest]bool{} // a layer that is in the image several times
	for _, l := range missing {
		twin := w.twins && once[l.diffID]
		once[l.diffID] = true
		if w.local[l.diffID] == "" && !w.carry[l] && !twin {
			n += wholeSize(src, l)
		}
	}
	return n
}

// known is what the way fetches, or -1 if there is no such way.
func (w *way) known() int64 {
	if w.bytes >= unavailable {
		return -1
	}
	return w.bytes
}

// ways lists the ways that are cheaper than plain, the cheapest first.
func (p *puller) ways(src *source, missing []*layer, plain way, offers []*offer) []way {
	var ways []way
	for _, o := range offers {
		w := way{offer: o, local: plain.local, twins: plain.twins, carry: carried(missing, plain.local, o.Layers)}
		if len(w.carry) == 0 {
			continue
		}
		if w.bytes = w.cost(src, missing); w.bytes < plain.bytes {
			ways = append(ways, w)
		}
	}
	slices.SortStableFunc(ways, func(a, b way) int {
		switch {
		case a.bytes < b.bytes:
			return -1
		case a.bytes > b.bytes:
			return 1
		}
		return 0
	})
	return ways
}

// carried finds the missing layers that a delta gives. One that is in the image
// several times is given once.
func carried(missing []*layer, local map[digest.Digest]string, diffIDs []digest.Digest) map[*layer]bool {
	carry := map[*layer]bool{}
	last := -1
	for _, d := range diffIDs {
		// In the image's order, which the locks of pulls ask for.
		i := slices.IndexFunc(missing, func(l *layer) bool { return l.diffID == d && l.index > last })
		if i >= 0 && local[d] == "" {
			carry[missing[i]] = true
			last = missing[i].index
		}
	}
	return carry
}

// findWays asks for deltas to an image of which layers are missing, with one
// request at most (two where the first tells that a registry lacks the
// referrers API); with DeltaIndex, if none fits, for those of others as well,
// with one more, or two if there are any. Whatever goes wrong is told, and means that there are none.
func (p *puller) findWays(ctx context.Context, t *task) []way {
	if p.o.NoDelta || len(t.missing) == 0 || t.plain.bytes == 0 {
		return nil
	}
	images, err := p.layers.Images()
	if err != nil {
		return nil
	}
	if len(images) == 0 && t.plain.bytes < unavailable {
		t.learn(ctx)
		return nil
	}
	artifacts, err := p.listDeltas(ctx, t)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		t.warn("looking for deltas to %s: %v", t.ref, err)
	}
	var offers []*offer
	for _, a := range artifacts {
		if a.Target != t.plan.config.Digest || a.Subject.Digest != t.plan.digest {
			continue
		}
		t.bases = append(t.bases, a.Base)
		i := slices.IndexFunc(images, func(img storage.Image) bool { return img.ID == a.Base.Encoded() && img.TopLayer != "" })
		if i >= 0 {
			offers = append(offers, &offer{Artifact: a, base: &images[i], from: imageName(&images[i]), inTar: t.wrapped != nil})
		}
	}
	ways := p.ways(t.src, t.missing, t.plain, offers)
	if len(ways) > 0 || !p.o.DeltaIndex || t.wrapped != nil {
		return ways
	}
	if offers, err = p.indexOffers(ctx, t, images); err != nil && ctx.Err() == nil {
		t.warn("looking for layer deltas to %s: %v", t.ref, err)
	}
	return p.ways(t.src, t.missing, t.plain, offers)
}

// learn finds out whether the registry has the referrers API, while the first
// image is pulled, for which there can be no delta: the first update shall need
// one request only.
func (t *task) learn(ctx context.Context) {
	if t.name == nil || t.src.Reference().Transport().Name() != docker.Transport.Name() || t.p.preview {
		return
	}
	r := &referrers{sys: t.sys, st: t.p.st, pulling: true, learning: true}
	if _, known := r.recall(ctx, reference.Domain(t.name)); known {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = r.list(ctx, t.name, t.plan.digest)
	}()
	t.learned = func() {
		time.AfterFunc(learnGrace, cancel)
		<-done
		cancel()
	}
}

// learnGrace is how long a pull that is done waits for what it learns.
const learnGrace = time.Second

// imageName is what to call an image in messages: a name if it has one.
func imageName(img *storage.Image) string {
	if len(img.Names) > 0 {
		return FamiliarName(slices.Min(img.Names))
	}
	return shortID(img.ID)
}

// maxOffers bounds how many deltas to one image are looked at.
const maxOffers = 1 << 12

// listDeltas asks where the image comes from for the deltas to it.
func (p *puller) listDeltas(ctx context.Context, t *task) ([]delta.Artifact, error) {
	if t.wrapped != nil {
		return []delta.Artifact{*t.wrapped}, nil
	}
	if a, ok := t.src.ImageSource.(*ociArchiveSource); ok {
		return a.deltas(t.plan.digest)
	}
	if t.job.name == nil || t.job.src.Transport().Name() != docker.Transport.Name() {
		return nil, nil
	}
	r := &referrers{sys: t.sys, st: p.st, pulling: true}
	found, err := r.list(ctx, t.job.name, t.plan.digest)
	if err != nil {
		return nil, err
	}
	if len(found) > maxOffers {
		found = found[:maxOffers]
	}
	var out []delta.Artifact
	for _, d := range found {
		if d.ArtifactType != delta.MediaType {
			continue
		}
		a, err := delta.ArtifactOf(d, t.plan.digest)
		if err != nil {
			if !errors.Is(err, delta.ErrVersion) { // that is for newer devices
				t.warn("a delta to %s: %v", t.ref, err)
			}
			continue
		}
		out = append(out, a)
	}
	return out, nil
}

// possible says what is missing where the source has not all layers, and no
// delta of which the base is here.
func (t *task) possible() error {
	if t.plain.bytes < unavailable || len(t.ways) > 0 && t.ways[0].bytes < unavailable || len(t.bases) == 0 {
		return nil
	}
	var bases []string
	for _, a := range t.bases {
		bases = append(bases, a.String())
	}
	return fmt.Errorf("%w: it takes %s", ErrNoBase, joinOr(bases))
}

func joinOr(list []string) string {
	switch n := len(list); {
	case n == 1:
		return list[0]
	case n > 5:
		return fmt.Sprintf("%s or one of %d others", list[0], n-1)
	}
	out := list[0]
	for _, s := range list[1:] {
		out += " or " + s
	}
	return out
}
