package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"github.com/klauspost/pgzip"
	"github.com/opencontainers/go-digest"
	"github.com/vbatts/tar-split/tar/asm"
	tarstorage "github.com/vbatts/tar-split/tar/storage"
	"go.podman.io/storage"
	graphdriver "go.podman.io/storage/drivers"
	"go.podman.io/storage/pkg/archive"
	"golang.org/x/sys/unix"
)

// ErrDamaged is for a layer whose files no longer make up the tar stream that
// its digest says.
var ErrDamaged = errors.New("the layer in the store is damaged")

// OpenRecord opens a layer's tar-split record: what its tar has besides the
// content of files, in tar-split's format. The caller closes it. It is
// fs.ErrNotExist if there is none.
func OpenRecord(st storage.Store, id string) (io.ReadCloser, error) {
	file, err := os.Open(filepath.Join(st.GraphRoot(), st.GraphDriverName()+"-layers", id+".tar-split.gz"))
	if err != nil {
		return nil, err
	}
	z, err := pgzip.NewReaderN(file, 64<<10, 2)
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("its tar-split record: %w", err)
	}
	return &record{z, file}, nil
}

type record struct {
	io.ReadCloser
	file *os.File
}

func (r *record) Close() error { return errors.Join(r.ReadCloser.Close(), r.file.Close()) }

// Assemble puts a layer's tar together from its files and its tar-split
// record, without any of the store's locks, and does not verify it. It returns
// nil without an error where the driver or the layer cannot do it.
func Assemble(st storage.Store, id string) (io.ReadCloser, error) {
	driver, err := st.GraphDriver()
	if err != nil {
		return nil, err
	}
	if _, ok := driver.(graphdriver.DiffGetterDriver); !ok {
		return nil, nil
	}
	record, err := OpenRecord(st, id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	files, err := openLayerFiles(filepath.Join(st.GraphRoot(), driver.String()), id)
	if err != nil {
		return nil, errors.Join(err, record.Close())
	}
	tar, w := io.Pipe()
	a := &assembled{tar, make(chan struct{}), []io.Closer{files, record}}
	go func() {
		defer close(a.done)
		w.CloseWithError(asm.WriteOutputTarStream(files, newRecords(record), w))
	}()
	return a, nil
}

// assembled is a tar in the making, and what it is made from.
type assembled struct {
	*io.PipeReader
	done chan struct{} // closed when nothing is read from the sources any more
	from []io.Closer
}

// Close ends the making, and closes the sources after it.
func (a *assembled) Close() error {
	errs := []error{a.PipeReader.Close()}
	<-a.done
	for _, c := range a.from {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// Verify reads a layer's content and compares it with its digest. ErrDamaged
// says what is wrong. What has no tar-split record cannot be verified: false.
func Verify(st storage.Store, id string, diffID digest.Digest) (verified bool, err error) {
	tar, err := Assemble(st, id)
	if err != nil {
		return true, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if tar == nil {
		return false, nil
	}
	defer tar.Close()
	v := diffID.Verifier()
	if _, err := io.Copy(v, tar); err != nil {
		return true, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if !v.Verified() {
		return true, fmt.Errorf("%w: its content is no longer %s", ErrDamaged, diffID)
	}
	return true, nil
}

// Suspect looks for what power cuts and failing cards leave behind, without
// reading any content: files that are missing, empty or of another size than
// the layer's tar-split record says. nil is no proof of health, and an error no
// proof of damage: a whiteout may have taken what the same tar brought.
func Suspect(st storage.Store, id string) error {
	if st.GraphDriverName() != "overlay" {
		return nil
	}
	record, err := OpenRecord(st, id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer record.Close()
	dir, err := os.Open(filepath.Join(st.GraphRoot(), "overlay", id, "diff"))
	if err != nil {
		return err
	}
	defer dir.Close()
	entries := newRecords(record)
	for {
		e, err := entries.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("its tar-split record: %w", err)
		}
		if e.Type != tarstorage.FileType {
			continue
		}
		if err := suspectFile(dir, e.GetName(), e.Size); err != nil {
			return err
		}
	}
}

func suspectFile(dir *os.File, name string, size int64) error {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if name == "" || strings.HasPrefix(path.Base(name), archive.WhiteoutPrefix) {
		return nil
	}
	fd, err := pathBelow(dir, name)
	if err != nil {
		return &os.PathError{Op: "stat", Path: name, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &os.PathError{Op: "stat", Path: name, Err: err}
	}
	if size > 0 && (st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size != size) {
		return fmt.Errorf("%s has %d bytes instead of %d", name, st.Size, size)
	}
	return nil
}

// health remembers which layers were looked at.
type health struct {
	mu   sync.Mutex
	well map[string]bool
}

// isWell tells whether a layer can be used as it is. A suspicion is followed
// by reading the whole layer.
func (w *Writer) isWell(id string, diffID digest.Digest) bool {
	w.health.mu.Lock()
	defer w.health.mu.Unlock()
	well, known := w.health.well[id]
	if known {
		return well
	}
	well = true
	if Suspect(w.st, id) != nil {
		_, err := Verify(w.st, id, diffID)
		well = err == nil
	}
	w.remember(id, well)
	return well
}

func (w *Writer) remember(id string, well bool) {
	if w.health.well == nil {
		w.health.well = map[string]bool{}
	}
	w.health.well[id] = well
}

// Distrust makes Has deny a layer, so that what is pulled next replaces it.
func (w *Writer) Distrust(id string) {
	w.health.mu.Lock()
	defer w.health.mu.Unlock()
	w.remember(id, false)
}

// replacedPrefix begins the names of folders with what was replaced. What
// running containers still have mounted stays until the next boot.
const replacedPrefix = "replaced-"

// replace puts a staged layer in the place of a damaged one, which keeps its
// record, and so the layers and containers upon it. At every moment there is
// either the one or the other.
func (w *Writer) replace(s *Staged, l Layer) error {
	old := filepath.Join(w.driverDir, l.ID, "diff")
	st, err := os.Stat(old)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := os.Mkdir(old, 0o755); err != nil {
			return err
		}
	case err != nil:
		return err
	case s.out.RootDirMode == nil:
		if err := os.Chmod(s.out.Target, st.Mode()); err != nil {
			return err
		}
	}
	var own unix.Stat_t
	if err := unix.Stat(s.out.Target, &own); err != nil {
		return &os.PathError{Op: "stat", Path: s.out.Target, Err: err}
	}
	times := []unix.Timespec{own.Atim, own.Mtim}
	if err := Sync(w.driverDir); err != nil {
		return err
	}
	if s.exact {
		if err := w.renameTarSplit(s, l.ID); err != nil {
			return fmt.Errorf("naming the tar-split file: %w", err)
		}
	}
	if err := unix.Renameat2(unix.AT_FDCWD, s.out.Target, unix.AT_FDCWD, old, unix.RENAME_EXCHANGE); err != nil {
		return fmt.Errorf("replacing layer %s: %w", l.ID, err)
	}
	// XFS notes the exchange as a change of both folders.
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, old, times, 0); err != nil {
		return &os.PathError{Op: "utimensat", Path: old, Err: err}
	}
	aside := filepath.Join(w.staging, replacedPrefix+filepath.Base(filepath.Dir(s.out.Target)))
	if err := os.Rename(s.out.Target, aside); err != nil {
		return fmt.Errorf("putting the damaged layer %s aside: %w", l.ID, err)
	}
	if !w.mounted(l.ID) {
		_ = os.RemoveAll(aside)
	}
	return Sync(w.driverDir)
}

// mounted tells whether any process sees an overlay that the layer is part of.
func (w *Writer) mounted(id string) bool {
	needles := []string{filepath.Join(w.driverDir, id) + "/"}
	if link, err := os.ReadFile(filepath.Join(w.driverDir, id, "link")); err == nil && len(link) > 0 {
		needles = append(needles, string(link))
	}
	all, err := filepath.Glob("/proc/[0-9]*/mountinfo")
	if err != nil {
		return true
	}
	for _, path := range all {
		info, err := os.ReadFile(path)
		if err != nil {
			continue // gone, or somebody else's
		}
		for _, n := range needles {
			if strings.Contains(string(info), n) {
				return true
			}
		}
	}
	return false
}

// renameTarSplit is nameTarSplit where there may be one already.
func (w *Writer) renameTarSplit(s *Staged, id string) error {
	if s.tsName == "" {
		tmp := filepath.Join(w.layerDir, ".tmp-balena-"+id+".tar-split.gz")
		_ = os.Remove(tmp)
		if err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", s.tsData.Fd()), unix.AT_FDCWD, tmp, unix.AT_SYMLINK_FOLLOW); err != nil {
			return &os.PathError{Op: "link", Path: tmp, Err: err}
		}
		s.tsName = tmp
	}
	if err := os.Rename(s.tsName, w.tarSplitPath(id)); err != nil {
		return err
	}
	s.tsName = ""
	return nil
}
