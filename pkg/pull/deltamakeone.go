package pull

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/balena-os/balena/pkg/delta"
)

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
	tars, verified := checkedTars(carry, m.watch(DeltaEvent{Base: b.given, Target: t.given, Step: MakingDelta}, carry))
	out, sum, err := m.write(ctx, cancel, base, tars)
	if errors.Is(err, delta.ErrSize) { // a store that another tool filled
		for i := range tars {
			tars[i].Size = 0
		}
		out, sum, err = m.write(ctx, cancel, base, tars)
	}
	if err != nil {
		return nil, err
	}
	if err := verified(); err != nil {
		out.Close()
		return nil, err
	}
	d.Size, d.Tar, d.Digest = out.n, sum.TargetSize, out.digester.Digest()
	return out, nil
}

func (m *maker) write(ctx context.Context, full func(), base delta.FileSource, tars []delta.LayerTar) (*spool, delta.Summary, error) {
	out, err := newSpool(m.dir, full)
	if err != nil {
		return nil, delta.Summary{}, err
	}
	sum, err := delta.Create(ctx, base, tars, out, delta.Options{Level: m.o.Level})
	if out.err != nil {
		err = out.err
	}
	if err != nil {
		out.Close()
	}
	return out, sum, err
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
