package pull

import (
	"context"
	"slices"
	"time"

	"github.com/balena-os/balena/pkg/store"
)

// Step is one step by which an image was built.
type Step struct {
	ID        string // of the image that it led to, with sha256:; "" where that was not kept
	Created   time.Time
	CreatedBy string // the instruction
	Tags      []string
	Size      int64 // bytes of its layer, uncompressed
	Comment   string
}

// History lists the steps that an image was built by, the last first.
func History(_ context.Context, st *store.Store, name string) ([]Step, error) {
	i, err := describe(st, name)
	if err != nil {
		return nil, err
	}
	img, c := i.img, i.config
	chain := i.set.chain(img.TopLayer)
	slices.Reverse(chain)
	var steps []Step
	for _, h := range c.History {
		s := Step{Created: h.Created, CreatedBy: h.CreatedBy, Comment: h.Comment}
		if !h.EmptyLayer && len(chain) > 0 {
			s.Size = max(chain[0].UncompressedSize, 0)
			chain = chain[1:]
		}
		steps = append(steps, s)
	}
	for _, l := range chain { // layers that the history does not tell about
		steps = append(steps, Step{Created: l.Created, Size: max(l.UncompressedSize, 0)})
	}
	slices.Reverse(steps)
	if len(steps) > 0 {
		steps[0].ID, steps[0].Tags = "sha256:"+img.ID, img.RepoTags()
	}
	return steps, nil
}
