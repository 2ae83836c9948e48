package pull

import (
	"context"
	"fmt"

	"github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/signature"
	"go.podman.io/image/v5/types"

	"github.com/balena-os/balena/pkg/store"
)

// Ways in which a layer comes.
const (
	HowHave  = "have"  // it is in the store
	HowLocal = "local" // the same content is, on other layers: it is made from that
	HowWhole = "whole" // it is fetched
	HowDelta = "delta" // a delta has it
)

// Preview is what a pull of an image would do.
type Preview struct {
	Name   string // "" when it would have none
	ID     string
	Digest digest.Digest // of the platform's manifest; "" if that is made only then
	Layers []LayerPreview
	Delta  *DeltaPreview `json:",omitempty"`
	Fetch  int64         // bytes of layers and delta
	Whole  int64         // the same without a delta; -1 if there are no whole layers
}

// LayerPreview says how a layer would come.
type LayerPreview struct {
	Digest digest.Digest // of the blob
	DiffID digest.Digest
	Size   int64  // of the blob, in bytes; -1 if unknown
	How    string // HowHave, HowLocal, HowWhole, HowDelta
}

// DeltaPreview is the delta that would be applied.
type DeltaPreview struct {
	Digest digest.Digest // of the delta's blob, or of the manifest of an image that is a delta
	Size   int64
	Base   string // ID of the image that it starts from
	From   string // a name of that image
}

// PreviewPull says what Pull would fetch, and changes nothing but what is known
// about the registry. It fetches manifests and configurations only.
func PreviewPull(ctx context.Context, st *store.Store, ref string, o Options) ([]Preview, error) {
	layers, err := st.Layers()
	if err != nil {
		return nil, err
	}
	p, err := newPuller(st, layers, o)
	if err != nil {
		return nil, fmt.Errorf("pulling %q: %w", ref, err)
	}
	p.preview = true
	var out []Preview
	err = p.each(ctx, ref, func(sys *types.SystemContext, policy *signature.PolicyContext, j job) error {
		t, err := p.newTask(ctx, sys, policy, j)
		if err != nil {
			return err
		}
		defer t.close()
		out = append(out, t.preview())
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("pulling %q: %w", ref, unauthorized(err))
	}
	return out, nil
}

func (t *task) preview() Preview {
	v := Preview{ID: t.plan.config.Digest.Encoded(), Digest: t.plan.digest, Layers: []LayerPreview{}, Whole: t.plain.known()}
	if t.name != nil {
		v.Name = t.name.String()
	}
	way := t.plain
	if len(t.ways) > 0 {
		way = t.ways[0]
		v.Delta = &DeltaPreview{Digest: way.offer.Blob.Digest, Size: way.offer.Blob.Size, Base: way.offer.base.ID, From: way.offer.from}
	}
	if t.engine != nil && way.bytes > 0 {
		v.Digest, v.Delta = "", t.engine.preview(way.bytes)
	}
	v.Fetch = way.bytes
	missing := map[*layer]bool{}
	for _, l := range t.missing {
		missing[l] = true
	}
	once := map[digest.Digest]bool{}
	for _, l := range t.plan.layers {
		how := HowWhole
		switch {
		case !missing[l]:
			how = HowHave
		case way.local[l.diffID] != "" || way.twins && once[l.diffID]:
			how = HowLocal
		case way.carry[l], t.engine != nil:
			how = HowDelta
		}
		once[l.diffID] = true
		v.Layers = append(v.Layers, LayerPreview{Digest: l.blob.Digest, DiffID: l.diffID, Size: l.blob.Size, How: how})
	}
	return v
}
