package pull

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	imgspecv1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/types"
	"go.podman.io/storage"
	"golang.org/x/sys/unix"

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
	return (&puller{o: Options{RegistryOptions: m.o.RegistryOptions, Platform: platform}}).systemContext(named)
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

// one makes one delta and puts it where it belongs.
func (m *maker) one(ctx context.Context, j *deltaJob, t *deltaImage, pub *publisher) (err error) {
	begin := time.Now()
	d := &j.made
	if m.o.Compat != "" {
		*d, err = m.makeEngine(ctx, j.base, t, *d)
		return err
	}
	if d.Skipped != "" {
		return nil
	}
	blob, err := m.create(ctx, j.base, t, j.carry, d)
	if err != nil {
		return err
	}
	kept := false
	defer func() {
		if !kept {
			blob.Close()
		}
	}()
	d.Seconds, d.Memory = time.Since(begin).Seconds(), peakMemory()
	a := m.artifact(j.base, t, *d)
	if !m.o.Force {
		raw, err := a.Manifest()
		if err != nil {
			return err
		}
		// Lists of what refers to the target repeat the manifest.
		if d.Size+int64(len(raw)) >= d.whole() {
			d.Skipped = fmt.Sprintf("it saves nothing: %d bytes, and the layers that it replaces are %d", d.Size, d.whole())
			return nil
		}
	}
	if m.o.Tag != "" {
		if err := m.store(ctx, a, t, blob, d); err != nil {
			return err
		}
	}
	if pub != nil {
		if err := pub.publish(ctx, a, blob, d); err != nil {
			return err
		}
	}
	if kept = m.o.Archive != nil; kept {
		m.kept = append(m.kept, keptDelta{a, blob, t})
	}
	return nil
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

// makeGC makes the garbage collector thrifty while a delta is made: what is
// kept in memory is a few large pieces. It takes 100 MB off a large one, and no
// time that could be measured.
const makeGC = 40

// create makes the delta in a temporary file.
func (m *maker) create(ctx context.Context, b, t *deltaImage, carry []deltaLayer, d *MadeDelta) (_ *spool, err error) {
	defer debug.SetGCPercent(debug.SetGCPercent(makeGC))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	base, done, err := m.baseFiles(ctx, b, t.given)
	if err != nil {
		return nil, fmt.Errorf("reading the base: %w", err)
	}
	defer done()
	out, err := newSpool(m.dir, cancel)
	if err != nil {
		return nil, err
	}
	tars, verified := checkedTars(carry, m.watch(DeltaEvent{Base: b.given, Target: t.given, Step: MakingDelta}, carry))
	sum, err := delta.Create(ctx, base, tars, out, delta.Options{Level: m.o.Level})
	if out.err != nil {
		err = out.err
	}
	if err == nil {
		err = verified()
	}
	if err != nil {
		out.Close()
		return nil, err
	}
	d.Size, d.Tar, d.Digest = out.n, sum.TargetSize, out.digester.Digest()
	return out, nil
}

// watch turns the progress of layers into that of all of them.
func (m *maker) watch(e DeltaEvent, layers []deltaLayer) func(layer int, done int64) {
	if m.o.Progress == nil {
		return func(int, int64) {}
	}
	at := make([]int64, len(layers))
	for _, l := range layers {
		n := l.whole
		if l.tar >= 0 {
			n = l.tar
		}
		if e.Total >= 0 && n >= 0 {
			e.Total += n
		} else {
			e.Total = -1
		}
	}
	return func(layer int, done int64) {
		e.Done += done - at[layer]
		at[layer] = done
		m.o.Progress(e)
	}
}

// baseFiles gives the files of the base. Those of an image in the store are
// read where they lie; they were compared with the layers' digests first, since
// a delta from a damaged base would fit nobody else.
func (m *maker) baseFiles(ctx context.Context, b *deltaImage, target string) (delta.FileSource, func(), error) {
	e := DeltaEvent{Base: b.given, Target: target, Step: ReadingBase}
	if b.local == nil {
		tars, verified := checkedTars(b.layers, m.watch(e, b.layers))
		s, err := delta.NewTarSource(ctx, tars, m.dir)
		if err != nil {
			return nil, nil, err
		}
		if err := verified(); err != nil {
			s.Close()
			return nil, nil, err
		}
		return s, func() { s.Close() }, nil
	}
	p := &puller{st: m.st, layers: m.layers, w: m.w}
	files, err := p.openBase(ctx, b.local)
	if err != nil {
		return nil, nil, err
	}
	if err := m.verify(ctx, b.layers, e); err != nil {
		files.Close()
		return nil, nil, err
	}
	return files.files, files.Close, nil
}

// verify reads layers of the store to their ends, once.
func (m *maker) verify(ctx context.Context, layers []deltaLayer, e DeltaEvent) error {
	layers = slices.DeleteFunc(slices.Clone(layers), func(l deltaLayer) bool { return m.verified[l.diffID] })
	tars, verified := checkedTars(layers, m.watch(e, layers))
	for _, t := range tars {
		r, err := t.Open(ctx)
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, contextReader{ctx, r}); err != nil {
			return errors.Join(err, r.Close())
		}
		if err := r.Close(); err != nil {
			return err
		}
		m.verified[t.DiffID] = true
	}
	return verified()
}

// contextReader fails once the context has ended.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// spool is a temporary file without a name.
type spool struct {
	f        *os.File
	n        int64
	digester digest.Digester
	failed   func() // called at the first error
	err      error
}

func newSpool(dir string, failed func()) (*spool, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		return &spool{f: os.NewFile(uintptr(fd), dir), digester: digest.Canonical.Digester(), failed: failed}, nil
	}
	f, err := os.CreateTemp(dir, "balena-delta-") // a filesystem without O_TMPFILE
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &spool{f: f, digester: digest.Canonical.Digester(), failed: failed}, nil
}

func (s *spool) Write(p []byte) (int, error) {
	n, err := s.f.Write(p)
	s.n += int64(n)
	_, _ = s.digester.Hash().Write(p[:n])
	if err != nil && s.err == nil {
		s.err = err
		s.failed()
	}
	return n, err
}

// reader reads what was written, from its beginning.
func (s *spool) reader() io.Reader { return io.NewSectionReader(s.f, 0, s.n) }

func (s *spool) Close() { s.f.Close() }

// peakMemory is the largest resident size of this process so far.
func peakMemory() int64 {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return int64(u.Maxrss) << 10 //nolint:unconvert // int32 on 32-bit machines
}
