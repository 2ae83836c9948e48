package pull

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	imgspecv1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/types"
	"go.podman.io/storage"

	"github.com/balena-os/balena/pkg/delta"
	"github.com/balena-os/balena/pkg/durable"
	"github.com/balena-os/balena/pkg/store"
)

// Errors of making deltas that callers tell apart.
var (
	ErrSameImage       = errors.New("base and target are the same image")
	ErrNotInRepository = errors.New("the repository does not have the image that the delta leads to")
	ErrNoRepository    = errors.New("the target's name does not say which repository to publish in")
)

// DeltaOptions are how deltas are made and where they go to. Without Tag, Push
// and Archive they only are measured.
type DeltaOptions struct {
	RegistryOptions
	Platform     string // OS[/ARCH[/VARIANT]]; "" is this machine's
	AllPlatforms bool   // one for each platform of the target's index
	Level        int    // 1 to 9; 0 is delta.DefaultLevel
	Force        bool   // also what is there already, and what saves nothing

	Compat  string    // CompatEngine: for balena-engine, with Tag only; "": for balena
	Tag     string    // the name under which one delta is stored as an image
	Push    bool      // publish
	Repo    string    // where; "" is the target's own repository
	Archive io.Writer // gets all deltas as an OCI archive; nil: none

	Created  time.Time        // what the artifact says; zero: nothing, so that it is the same each time
	Progress func(DeltaEvent) // nil: nothing is told
	Made     func(MadeDelta)  // told of each as soon as it is done; nil: nobody is
}

// DeltaStep is what is being done about a delta.
type DeltaStep int

// The steps, in their order.
const (
	ReadingBase DeltaStep = iota
	MakingDelta
	SendingDelta
)

// DeltaEvent tells how far a step is. Total is -1 if unknown.
type DeltaEvent struct {
	Base, Target string
	Step         DeltaStep
	Done, Total  int64
}

// MadeDelta is what became of one base.
type MadeDelta struct {
	Base, Target     string        // as they were given
	BaseID, TargetID digest.Digest // of their configurations
	Platform         string
	Layers           []digest.Digest // diffIDs that the delta carries

	Skipped  string        `json:",omitempty"` // why there is no delta, or none was published
	Size     int64         // bytes of the delta
	Digest   digest.Digest `json:",omitempty"` // of the delta
	Whole    int64         // bytes of the layers, compressed, that it replaces; -1 if unknown
	Tar      int64         // bytes of the same, uncompressed
	Seconds  float64
	Memory   int64         // the largest resident size of the process so far, in bytes
	Artifact digest.Digest `json:",omitempty"` // of the published manifest
	Repo     string        `json:",omitempty"` // where it was published
	Image    string        `json:",omitempty"` // ID of the image that it was stored as
}

// Ratio is how many times smaller the delta is than what it replaces; 0 where
// there is none.
func (d MadeDelta) Ratio() float64 {
	if d.Size <= 0 || d.whole() <= 0 {
		return 0
	}
	return float64(d.whole()) / float64(d.Size)
}

// whole is what the delta has to be smaller than.
func (d MadeDelta) whole() int64 {
	if d.Whole >= 0 {
		return d.Whole
	}
	return d.Tar
}

// MakeDeltas makes a delta from each base to target. Both are images in the
// store, or with a transport ([docker://REF] and the others that ParseReference
// takes) read from where they are, without being stored. What is needed of such
// a base while the delta is made lies in an unnamed temporary file in $TMPDIR
// (/var/tmp if that is not set), and so does each delta: its digest has to be
// known before a registry takes it, and its size before it is worth sending.
//
// What was made comes back with an error about what was not; an error about one
// base does not keep the others from being made.
func MakeDeltas(ctx context.Context, st *store.Store, bases []string, target string, o DeltaOptions) ([]MadeDelta, error) {
	m, err := newMaker(st, o)
	if err != nil {
		return nil, err
	}
	if o.Tag != "" && (len(bases) > 1 || o.AllPlatforms) {
		return nil, errors.New("a name can be given to one delta only")
	}
	if o.Compat != "" {
		switch {
		case o.Compat != CompatEngine:
			return nil, fmt.Errorf("deltas for %q are unknown: there are those for %s", o.Compat, CompatEngine)
		case o.Push || o.Archive != nil || o.Tag == "":
			return nil, fmt.Errorf("a delta for %s is an image: it needs a name, and is pushed by that", CompatEngine)
		}
	}
	platforms := []string{o.Platform}
	if o.AllPlatforms {
		if platforms, err = m.platformsOf(ctx, target); err == nil && len(platforms) == 0 {
			err = errors.New("it is not an index of several platforms")
		}
		if err != nil {
			return nil, fmt.Errorf("reading %q: %w", target, err)
		}
	}
	var errs []error
	for _, p := range platforms {
		if err := m.platform(ctx, bases, target, p); err != nil {
			errs = append(errs, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	err = errors.Join(errs...)
	if o.Archive != nil && err == nil {
		err = m.writeArchive(o.Archive)
	}
	for _, k := range m.kept {
		k.blob.Close()
	}
	return m.made, err
}

// maker makes deltas into one or several places.
type maker struct {
	st     *store.Store
	layers storage.Store
	w      *durable.Writer
	o      DeltaOptions
	dir    string // for temporary files

	made     []MadeDelta
	kept     []keptDelta            // for the archive
	blobs    *blobCache             // of the platform at hand
	verified map[digest.Digest]bool // layers in the store whose files are as they should be
}

// keptDelta is a delta that is waiting to be written to an archive.
type keptDelta struct {
	artifact delta.Artifact
	blob     *spool
	target   *deltaImage
}

func newMaker(st *store.Store, o DeltaOptions) (*maker, error) {
	layers, err := st.Layers()
	if err != nil {
		return nil, err
	}
	if o.Level < 0 || o.Level > 9 {
		return nil, fmt.Errorf("level %d is not 1 to 9", o.Level)
	}
	w, err := durable.NewWriter(layers)
	if err != nil {
		return nil, err
	}
	m := &maker{st: st, layers: layers, w: w, o: o, dir: os.Getenv("TMPDIR"), verified: map[digest.Digest]bool{}}
	if m.dir == "" {
		m.dir = "/var/tmp" // /tmp is memory on many machines
	}
	m.blobs = newBlobCache(m.dir)
	return m, nil
}

func (m *maker) systemContext(named reference.Named, platform string) (*types.SystemContext, error) {
	return m.puller(platform).systemContext(named)
}

func (m *maker) puller(platform string) *puller {
	return &puller{o: Options{RegistryOptions: m.o.RegistryOptions, Platform: platform}}
}

// platform makes the deltas for one platform of the target.
func (m *maker) platform(ctx context.Context, bases []string, target, platform string) error {
	t, err := m.open(ctx, target, platform)
	if err != nil {
		return fmt.Errorf("reading target %q: %w", target, err)
	}
	defer t.Close()
	var pub *publisher
	if m.o.Push {
		if pub, err = m.publisher(ctx, t); err != nil {
			return fmt.Errorf("publishing deltas to %q: %w", target, unauthorized(err))
		}
		defer pub.Close()
		t = pub.target
	}
	var errs []error
	failed := func(base string, err error) {
		errs = append(errs, fmt.Errorf("making a delta from %q to %q: %w", base, target, m.explain(err)))
	}
	var jobs []*deltaJob
	defer m.blobs.Close()
	for _, name := range bases {
		j, err := m.prepare(ctx, name, target, t, platform, pub)
		if err != nil {
			failed(name, err)
			continue
		}
		defer j.base.Close()
		m.blobs.expect(j.reads)
		jobs = append(jobs, j)
	}
	for _, j := range jobs {
		if ctx.Err() != nil {
			break
		}
		if err := m.one(ctx, j, t, pub); err != nil {
			failed(j.made.Base, err)
		} else {
			m.made = append(m.made, j.made)
			if m.o.Made != nil {
				m.o.Made(j.made)
			}
		}
		m.blobs.done(j.reads)
	}
	if len(errs) == 0 {
		return ctx.Err()
	}
	return errors.Join(errs...)
}

func (m *maker) explain(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w in %s, where temporary files go ($TMPDIR): %w", ErrNoSpace, m.dir, err)
	}
	return unauthorized(err)
}

// deltaJob is one delta that is to be made.
type deltaJob struct {
	base  *deltaImage
	carry []deltaLayer // the target's layers that go into it
	reads []deltaLayer // all layers that are read for it
	made  MadeDelta
}

// prepare looks at a base: what a delta from it takes, and whether it is worth
// making. It reads manifest and configuration only.
func (m *maker) prepare(ctx context.Context, base, target string, t *deltaImage, platform string, pub *publisher) (_ *deltaJob, err error) {
	b, err := m.open(ctx, base, platform)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			b.Close()
		}
	}()
	if b.id == t.id {
		return nil, ErrSameImage
	}
	if b.platform() != t.platform() && b.image.OS != "" && t.image.OS != "" {
		return nil, fmt.Errorf("%w: the base is for %s, the target for %s", ErrPlatform, b.platform(), t.platform())
	}
	j := &deltaJob{base: b, carry: missingLayers(b, t)}
	d := &j.made
	*d = MadeDelta{Base: base, Target: target, BaseID: b.id, TargetID: t.id, Platform: t.platform()}
	if m.o.Compat != "" {
		return j, nil
	}
	for _, l := range j.carry {
		d.Layers = append(d.Layers, l.diffID)
		if d.Whole >= 0 && l.whole >= 0 {
			d.Whole += l.whole
		} else {
			d.Whole = -1
		}
	}
	switch {
	case len(j.carry) == 0:
		d.Skipped = "the base has all layers of the target"
	case pub != nil && !m.o.Force && m.o.Tag == "" && m.o.Archive == nil && pub.has(b.id):
		d.Skipped = "it is published already"
	default:
		j.reads = slices.Concat(b.layers, j.carry)
	}
	return j, nil
}

// missingLayers are the target's layers that a device with the base lacks,
// each content once.
func missingLayers(base, target *deltaImage) []deltaLayer {
	have := base.digests()
	var missing []deltaLayer
	for _, l := range target.layers {
		if !slices.Contains(have, l.diffID) {
			missing = append(missing, l)
			have = append(have, l.diffID)
		}
	}
	return missing
}

func (m *maker) artifact(b, t *deltaImage, d MadeDelta) delta.Artifact {
	return delta.Artifact{
		Subject: imgspecv1.Descriptor{MediaType: t.mime, Digest: t.digest, Size: int64(len(t.manifest))},
		Base:    b.id, BaseManifest: b.digest, Target: t.id, Layers: d.Layers,
		Blob:    imgspecv1.Descriptor{MediaType: delta.MediaType, Digest: d.Digest, Size: d.Size},
		Version: delta.Version, Created: m.o.Created,
	}
}
