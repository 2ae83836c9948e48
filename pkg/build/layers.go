package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/opencontainers/go-digest"
	"go.podman.io/storage"
	"go.podman.io/storage/pkg/archive"
	"go.podman.io/storage/pkg/regexp"
	"golang.org/x/sys/unix"

	"github.com/balena-os/balena/pkg/durable"
)

// layerStore is the store as buildah sees it while it commits a step. Of the
// layer of a working container buildah would write the tar archive to a file,
// containers/image that file to another, and only then the files of the layer.
//
//	Diff ─ tar ─ buildah: times, mount points, digest ─ FIFO ─ stage
//	LayersByUncompressedDigest ─ commit ─ "the layer is there"
//
// The file that buildah opens for the archive is a FIFO that we put there, and
// what is read from it is extracted at once, in pull's way. When
// containers/image then asks whether it must copy the layer, the layer is
// committed and need not be. Where the file cannot be told (several stages at
// once, another buildah), the archive goes its long way.
type layerStore struct {
	storage.Store // durable
	ctx           context.Context
	w             *durable.Writer
	tmp           string // buildah's folder for temporary files, of this build alone

	mu      sync.Mutex
	passing []*passing
}

// blobDir is what buildah names the folder of its temporary archive.
var blobDir = regexp.Delayed(`^buildah[0-9]+$`)

// Diff is storage.Store's.
func (s *layerStore) Diff(from, to string, o *storage.DiffOptions) (io.ReadCloser, error) {
	if from != "" || o == nil || o.Compression == nil || *o.Compression != archive.Uncompressed || !s.w.CanStage() {
		return s.Store.Diff(from, to, o)
	}
	l, err := s.Layer(to) // now: while the archive is open the store is locked
	if err != nil || l.UncompressedDigest != "" {
		return s.Store.Diff(from, to, o) // of no working container
	}
	f, err := s.fifo()
	if err != nil {
		return nil, err
	}
	if f == nil {
		return s.Store.Diff(from, to, o)
	}
	p := &passing{parent: l.Parent, fifo: f, waits: make(chan struct{}), opened: make(chan struct{}), done: make(chan struct{})}
	s.mu.Lock()
	s.passing = append(s.passing, p)
	s.mu.Unlock()
	// Staging takes the store's locks before it reads, and whoever writes to the
	// store has them while it waits for open archives: so it begins first.
	go p.extract(func(in io.Reader) (*durable.Staged, error) { return s.w.Stage(s.ctx, in, "") })
	select {
	case <-p.waits:
	case <-p.done:
	}
	if p.ReadCloser, err = s.Store.Diff(from, to, o); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// fifo makes one where buildah is about to write the archive, and opens it; nil
// if there is more than one place.
func (s *layerStore) fifo() (*os.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	entries, err := os.ReadDir(s.tmp)
	if err != nil {
		return nil, err
	}
	found := ""
	for _, e := range entries {
		if !blobDir.MatchString(e.Name()) {
			continue
		}
		dir := filepath.Join(s.tmp, e.Name())
		if in, err := os.ReadDir(dir); err != nil || len(in) > 0 {
			continue
		}
		if found != "" {
			return nil, nil
		}
		found = dir
	}
	if found == "" {
		return nil, nil
	}
	path := filepath.Join(found, "layer")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return nil, &os.PathError{Op: "mkfifo", Path: path, Err: err}
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	_, _ = unix.FcntlInt(f.Fd(), unix.F_SETPIPE_SZ, 1<<20) // fewer turns; 64 KiB do, too
	return f, nil
}

// LayersByUncompressedDigest is storage.Store's. A layer with that content that
// was extracted is committed first.
func (s *layerStore) LayersByUncompressedDigest(d digest.Digest) ([]storage.Layer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rest := s.passing[:0]
	var errs []error
	for _, p := range s.passing {
		switch {
		case !p.ended():
			rest = append(rest, p)
		case p.err != nil:
			errs = append(errs, p.err)
		case p.staged != nil && p.staged.DiffID() == d:
			l := durable.Layer{ID: durable.LayerID(p.parent, d), Parent: p.parent, DiffID: d}
			errs = append(errs, s.w.Commit(s.ctx, p.staged, l))
		default: // asked for later, or an empty one that buildah leaves out
			rest = append(rest, p)
		}
	}
	s.passing = rest
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return s.Store.LayersByUncompressedDigest(d)
}

// close discards what was not committed.
func (s *layerStore) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, p := range s.passing {
		errs = append(errs, p.Close(), s.w.Discard(p.staged))
	}
	s.passing = nil
	return errors.Join(errs...)
}

// passing is the archive of a layer on its way through buildah. The first Read
// says that buildah has opened the FIFO, Close that it has closed it.
type passing struct {
	io.ReadCloser // nil until the archive is open
	parent        string
	fifo          *os.File

	waits, opened     chan struct{} // staging wants to read; there is something
	begin, once, shut sync.Once
	abandoned         bool
	done              chan struct{}
	staged            *durable.Staged
	err               error
}

// errAbandoned ends the staging of an archive that nobody read.
var errAbandoned = errors.New("nobody reads the archive")

// extract stages what comes through the FIFO.
func (p *passing) extract(stage func(io.Reader) (*durable.Staged, error)) {
	defer close(p.done)
	p.staged, p.err = stage(fifoReader{p})
	if errors.Is(p.err, errAbandoned) {
		p.err = nil
	}
	if p.err != nil {
		p.err = fmt.Errorf("writing the layer: %w", p.err)
		_, _ = io.Copy(io.Discard, fifoReader{p}) // buildah goes on to where the error is told
	}
	_ = p.fifo.Close()
}

// fifoReader reads a FIFO that has a writer: without one it would be at its end.
type fifoReader struct{ p *passing }

func (r fifoReader) Read(b []byte) (int, error) {
	r.p.once.Do(func() { close(r.p.waits) })
	<-r.p.opened
	if r.p.abandoned {
		return 0, errAbandoned
	}
	return r.p.fifo.Read(b)
}

func (p *passing) Read(b []byte) (int, error) {
	p.begin.Do(func() { close(p.opened) })
	return p.ReadCloser.Read(b)
}

// Close waits for the layer to be extracted.
func (p *passing) Close() error {
	var err error
	p.shut.Do(func() {
		if p.ReadCloser != nil {
			err = p.ReadCloser.Close()
		}
		p.begin.Do(func() {
			p.abandoned = true
			close(p.opened)
		})
		<-p.done
		// Whoever opened the FIFO now would wait for ever. The name stays:
		// buildah gives the file another.
		err = errors.Join(err, os.Remove(p.fifo.Name()), os.WriteFile(p.fifo.Name(), nil, 0o600))
	})
	return err
}

func (p *passing) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}
