package pull

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/signature"
	"go.podman.io/image/v5/types"

	"github.com/balena-os/balena/pkg/delta"
)

// task is one image while it is pulled.
type task struct {
	job
	p       *puller
	sys     *types.SystemContext
	ref     string // what people call it
	src     *source
	plan    *plan
	missing []*layer        // what the store lacks
	plain   way             // to get it without a delta
	ways    []way           // cheaper ones, the cheapest first
	bases   []digest.Digest // of all deltas on offer
	engine  *engineDelta    // nil: the image is none of balena-engine's deltas
	wrapped *delta.Artifact // nil: nor is it one of ours; else what it holds
	d       *destination
	learned func() // ends what learn began; may be nil
}

// tell passes an event on to whoever wants to know.
func (t *task) tell(e Event) {
	if t.p.o.Progress == nil {
		return
	}
	e.Ref, e.Index = t.ref, -1
	if t.d != nil {
		e.Index, e.Layers = t.d.place(e.Layer)
	}
	t.p.o.Progress(e)
}

// warn tells of what went wrong and could be mended.
func (t *task) warn(format string, a ...any) {
	t.tell(Event{State: Warning, Text: fmt.Sprintf(format, a...)})
}

// newTask connects and finds out what there is to do. The caller closes it.
func (p *puller) newTask(ctx context.Context, sys *types.SystemContext, policy *signature.PolicyContext, j job) (*task, error) {
	t := &task{job: j, p: p, sys: sys, ref: j.src.StringWithinTransport()}
	if j.name != nil {
		t.ref = j.name.String()
	}
	raw, err := openSource(ctx, sys, j.src)
	if err != nil {
		return nil, err
	}
	t.src = newSource(raw, func(blob digest.Digest, done int64) {
		t.tell(Event{Layer: blob, State: Fetching, Done: done, Total: -1})
	})
	if t.plan, err = makePlan(ctx, t.src, sys, policy, p.o.Platform != ""); err == nil {
		err = t.unwrap(ctx)
	}
	if err == nil {
		err = t.choose(ctx)
	}
	if err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

func (t *task) close() {
	if t.learned != nil {
		t.learned()
	}
	if t.engine != nil {
		t.engine.Close()
	}
	t.src.ImageSource.Close()
}

// choose decides how to get what is missing.
func (t *task) choose(ctx context.Context) error {
	var err error
	if t.missing, err = t.p.missing(t.plan); err != nil {
		return err
	}
	t.plain = t.p.plainWay(t.src, t.missing)
	if t.engine != nil && t.plain.bytes > 0 {
		return t.engine.possible()
	}
	t.ways = t.p.findWays(ctx, t)
	return t.possible()
}

// pullOne pulls one image. copy.Image runs a second time when a blob was not
// what its digest says.
func (p *puller) pullOne(ctx context.Context, sys *types.SystemContext, policy *signature.PolicyContext, j job) (Image, error) {
	t, err := p.newTask(ctx, sys, policy, j)
	if err != nil {
		return Image{}, err
	}
	defer t.close()
	if err := p.checkSpace(ctx, t.src, t.missing); err != nil {
		return Image{}, err
	}
	done, err := p.announce(ctx, j.src.Transport().Name()+":"+j.src.StringWithinTransport(), t.missing)
	if err != nil {
		return Image{}, err
	}
	defer done()
	t.d = &destination{w: p.w, layers: p.layers, plan: t.plan, src: t.src, tell: t.tell}
	var img Image
	t.d.commit = func(top []byte, signatures [][]byte) error {
		if t.engine != nil {
			if err := t.engine.complete(t.plan); err != nil {
				return err
			}
			top = t.plan.manifest
		}
		img, err = p.writeImage(t.plan, top, t.src.config[t.plan.config.Digest], signatures, j.name)
		return err
	}
	a := &applier{p: p, d: t.d, ways: t.ways, warn: t.warn}
	wait := a.start(ctx)
	src := sourceRef{j.src, t.src}
	err = p.copy(ctx, sys, t.d, src)
	var again *refetchError
	if errors.As(err, &again) {
		err = p.copy(ctx, sys, t.d, src)
	}
	wait()
	if aerr := t.d.abandon(); err == nil {
		err = aerr
	}
	if err == nil && a.from != "" {
		t.tell(Event{State: Saved, From: a.from, Done: a.fetched + t.d.fetched, Total: t.plain.known()})
	}
	return img, err
}
