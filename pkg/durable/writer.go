package durable

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	"go.podman.io/storage"
	graphdriver "go.podman.io/storage/drivers"
	"golang.org/x/sys/unix"
)

// Writer puts layers into one containers/storage store. It is safe for use by
// several goroutines.
type Writer struct {
	st        storage.Store
	driverDir string // where the driver keeps the layers' files
	health    health
	syncs     *together
	layerDir  string // where containers/storage keeps layers.json and tar-split files
	lockDir   string
	staging   string // "" if the driver cannot stage
	stager    graphdriver.DriverWithDiffer
}

// NewWriter takes an open store.
func NewWriter(st storage.Store) (*Writer, error) {
	driver, err := st.GraphDriver()
	if err != nil {
		return nil, fmt.Errorf("opening the storage driver: %w", err)
	}
	w := &Writer{
		st:        st,
		syncs:     newTogether(unix.Syncfs),
		driverDir: filepath.Join(st.GraphRoot(), st.GraphDriverName()),
		layerDir:  filepath.Join(st.GraphRoot(), st.GraphDriverName()+"-layers"),
		lockDir:   filepath.Join(st.RunRoot(), "pull"),
	}
	if stager, ok := driver.(graphdriver.DriverWithDiffer); ok {
		w.stager = stager
		w.staging = filepath.Join(st.GraphRoot(), st.GraphDriverName(), "staging")
	}
	if err := os.MkdirAll(w.lockDir, 0o700); err != nil {
		return nil, fmt.Errorf("making the folder of pull locks: %w", err)
	}
	return w, nil
}

// CanStage says whether layers can be extracted before their parents are
// there. Without it (vfs) Put has to be used, in the order of the layers.
func (w *Writer) CanStage() bool { return w.staging != "" }

// LayerID is the ID of the layer with this content on top of parent, the same
// that containers/image gives it, so that every tool finds it again.
func LayerID(parent string, diffID digest.Digest) string {
	if parent == "" {
		return diffID.Encoded()
	}
	return digest.Canonical.FromString(parent + "+" + diffID.Encoded()).Encoded()
}

// Has says whether a complete layer with this ID and content is in the store.
// A damaged one is not, as far as that shows without reading it (Suspect):
// Commit puts the new one in its place.
func (w *Writer) Has(id string, diffID digest.Digest) (bool, error) {
	l, err := w.st.Layer(id)
	switch {
	case errors.Is(err, storage.ErrLayerUnknown):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("looking for layer %s: %w", id, err)
	}
	return l.UncompressedDigest == diffID && w.isWell(id, diffID), nil
}

// Staged is an extracted layer that no one can see yet.
type Staged struct {
	out     *graphdriver.DriverWithDifferOutput
	tsData  *os.File // unlinked, or under the name tsName
	tsName  string
	diffID  digest.Digest
	exact   bool // the tar-split data makes the same tar again
	applied bool
}

// Size is the number of bytes of the layer's uncompressed tar.
func (s *Staged) Size() int64 { return s.out.Size }

// DiffID is the digest of the layer's uncompressed tar.
func (s *Staged) DiffID() digest.Digest { return s.diffID }

// Stage extracts an uncompressed tar stream, which it reads to its end, and
// fails with ErrDigest unless its digest is diffID; "" is for a layer of which
// nothing is known yet. It holds none of the store's locks meanwhile. The caller
// commits or discards what it returns.
func (w *Writer) Stage(ctx context.Context, tar io.Reader, diffID digest.Digest) (*Staged, error) {
	if diffID != "" {
		if err := diffID.Validate(); err != nil {
			return nil, fmt.Errorf("layer's diffID: %w", err)
		}
	}
	ts, name, err := w.newTarSplit()
	if err != nil {
		return nil, err
	}
	s := &Staged{tsData: ts, tsName: name}
	d := &differ{ctx: ctx, tar: tar, want: diffID, tsData: ts, sync: w.syncs.do}
	s.out, err = w.st.PrepareStagedLayer(nil, d)
	s.exact, s.diffID = d.exact, d.got
	if err != nil {
		return nil, errors.Join(err, w.Discard(s))
	}
	return s, nil
}

// Discard removes what was staged. After Commit it does nothing.
func (w *Writer) Discard(s *Staged) error {
	if s == nil || s.applied {
		return nil
	}
	s.applied = true
	err := s.tsData.Close()
	if s.tsName != "" {
		err = errors.Join(err, os.Remove(s.tsName))
	}
	if s.out != nil && s.out.Target != "" {
		defer staging.Delete(filepath.Dir(s.out.Target))
		// Not the store's, which takes its lock: a build has it while the layer's
		// archive is read, and would wait for us.
		if cerr := w.stager.CleanupStagingDirectory(s.out.Target); cerr != nil {
			err = errors.Join(err, fmt.Errorf("removing a staging directory: %w", cerr))
		}
	}
	return err
}

// newTarSplit opens the file for the data that makes the same tar again. It
// has no name until the layer is committed: a killed process leaves nothing.
func (w *Writer) newTarSplit() (*os.File, string, error) {
	if err := os.MkdirAll(w.layerDir, 0o700); err != nil {
		return nil, "", err
	}
	fd, err := unix.Open(w.layerDir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		return os.NewFile(uintptr(fd), "tar-split"), "", nil
	}
	if err != unix.EOPNOTSUPP && err != unix.EISDIR && err != unix.EINVAL {
		return nil, "", &os.PathError{Op: "open", Path: w.layerDir, Err: err}
	}
	f, err := os.CreateTemp(w.layerDir, tarSplitTemp)
	if err != nil {
		return nil, "", err
	}
	return f, f.Name(), nil
}

// tarSplitTemp is the pattern of tar-split files on filesystems without
// O_TMPFILE; Sweep removes old ones.
const tarSplitTemp = ".tmp-balena-*.tar-split.gz"

// nameTarSplit gives the tar-split file the name under which
// containers/storage looks for it.
func (w *Writer) nameTarSplit(s *Staged, id string) error {
	final := w.tarSplitPath(id)
	if err := os.Remove(final); err != nil && !os.IsNotExist(err) { // left by a crash
		return err
	}
	if s.tsName != "" {
		if err := os.Rename(s.tsName, final); err != nil {
			return err
		}
		s.tsName = final
		return nil
	}
	if err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", s.tsData.Fd()), unix.AT_FDCWD, final, unix.AT_SYMLINK_FOLLOW); err != nil {
		return &os.PathError{Op: "link", Path: final, Err: err}
	}
	s.tsName = final
	return nil
}

func (w *Writer) tarSplitPath(id string) string {
	return filepath.Join(w.layerDir, id+".tar-split.gz")
}

// Layer says what a layer is recorded as.
type Layer struct {
	ID, Parent string
	DiffID     digest.Digest
	Blob       digest.Digest // as the registry served it; may be empty
}

// Commit makes the staged layer visible as l.ID on top of l.Parent, which must
// be there. Everything that belongs to the layer is on stable storage before
// layers.json calls it complete. If a layer with that ID has come into being
// meanwhile, the staged one is discarded.
func (w *Writer) Commit(ctx context.Context, s *Staged, l Layer) error {
	unlock, err := w.lock(ctx, "commit")
	if err != nil {
		return err
	}
	defer unlock()
	// Applying a staged layer to an ID that exists would replace its content.
	if has, err := w.Has(l.ID, l.DiffID); err != nil || has {
		return errors.Join(err, w.Discard(s))
	}
	if w.st.Exists(l.ID) {
		err := w.replace(s, l)
		w.health.mu.Lock()
		w.remember(l.ID, err == nil)
		w.health.mu.Unlock()
		return errors.Join(err, w.Discard(s))
	}
	if s.exact { // else the layer is read back as a tar of what it holds
		if err := w.nameTarSplit(s, l.ID); err != nil {
			return errors.Join(fmt.Errorf("naming the tar-split file: %w", err), w.Discard(s))
		}
	}
	s.out.CompressedDigest = l.Blob
	target, barrier := s.out.Target, &barrier{dir: w.layerDir, times: 1}
	_, err = w.st.ApplyStagedLayer(storage.ApplyStagedLayerOptions{
		ID:          l.ID,
		ParentLayer: l.Parent,
		DiffOutput:  s.out,
		DiffOptions: &graphdriver.ApplyDiffWithDifferOpts{Flags: map[string]any{flagDurable: barrier}},
	})
	if err != nil {
		return errors.Join(fmt.Errorf("committing layer %s: %w", l.ID, err), w.Discard(s))
	}
	s.applied = true
	_ = unix.Fadvise(int(s.tsData.Fd()), 0, 0, unix.FADV_DONTNEED)
	s.tsData.Close()
	if !s.exact && s.tsName != "" {
		_ = os.Remove(s.tsName)
	}
	_ = os.Remove(filepath.Dir(target)) // apply leaves it, empty
	staging.Delete(filepath.Dir(target))
	return barrier.check()
}

// Put writes a layer with a driver that cannot stage: the store is locked
// while the stream arrives. tar and diffID are those of Stage.
func (w *Writer) Put(ctx context.Context, tar io.Reader, l Layer) error {
	if err := l.DiffID.Validate(); err != nil {
		return fmt.Errorf("layer's diffID: %w", err)
	}
	unlock, err := w.lock(ctx, "commit")
	if err != nil {
		return err
	}
	defer unlock()
	if has, err := w.Has(l.ID, l.DiffID); err != nil || has {
		return err
	}
	barrier := &barrier{dir: w.layerDir}
	checked := &verifier{r: tar, ctx: ctx, want: l.DiffID, sum: l.DiffID.Algorithm().Hash()}
	_, _, err = w.st.PutLayer(l.ID, l.Parent, nil, "", false, &storage.LayerOptions{
		UncompressedDigest: l.DiffID,
		OriginalDigest:     l.DiffID,
		Flags:              map[string]any{flagDurable: barrier},
	}, checked)
	if err != nil {
		if checked.err != nil { // the reason, rather than what the unpacker made of it
			err = checked.err
		}
		return fmt.Errorf("writing layer %s: %w", l.ID, err)
	}
	return barrier.check()
}

// verifier fails at the end of a stream that does not have the digest. It
// compares with the end of the stream, so a reader must read up to it.
type verifier struct {
	r    io.Reader
	ctx  context.Context
	want digest.Digest
	sum  interface {
		io.Writer
		Sum([]byte) []byte
	}
	err error
}

func (v *verifier) Read(p []byte) (int, error) {
	if err := v.ctx.Err(); err != nil {
		v.err = err
		return 0, err
	}
	n, err := v.r.Read(p)
	v.sum.Write(p[:n])
	if err == io.EOF {
		if got := digest.NewDigestFromBytes(v.want.Algorithm(), v.sum.Sum(nil)); got != v.want {
			err = fmt.Errorf("layer's content is %s, the image's configuration says %s: %w", got, v.want, ErrDigest)
		}
	}
	if err != nil && err != io.EOF {
		v.err = err
	}
	return n, err
}
