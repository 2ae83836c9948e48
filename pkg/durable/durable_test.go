package durable

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"go.podman.io/storage"
	graphdriver "go.podman.io/storage/drivers"
	_ "go.podman.io/storage/drivers/overlay"
	_ "go.podman.io/storage/drivers/vfs"
	"go.podman.io/storage/pkg/archive"
	"go.podman.io/storage/pkg/reexec"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if reexec.Init() {
		return
	}
	os.Exit(m.Run())
}

func testStore(t testing.TB, driver string) (storage.Store, *Writer) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, or a user namespace")
	}
	base := t.TempDir()
	st, err := storage.GetStore(storage.StoreOptions{GraphRoot: filepath.Join(base, "root"), RunRoot: filepath.Join(base, "run"), GraphDriverName: driver})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := st.Shutdown(true); err != nil {
			t.Log(err)
		}
	})
	w, err := NewWriter(st)
	if err != nil {
		t.Fatal(err)
	}
	return st, w
}

func makeTar(t testing.TB, headers ...*tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(w, io.LimitReader(neverEnds{}, h.Size)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

type neverEnds struct{}

func (neverEnds) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(i)
	}
	return len(p), nil
}

func stagingDirs(t testing.TB, st storage.Store) int {
	t.Helper()
	dirs, err := os.ReadDir(filepath.Join(st.GraphRoot(), "overlay", "staging"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return len(dirs)
}

func TestStageAndCommit(t *testing.T) {
	st, w := testStore(t, "overlay")
	content := makeTar(t,
		&tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o700},
		&tar.Header{Name: "d/large", Size: 30<<20 + 17, Mode: 0o600, Uid: 7, Gid: 8},
		&tar.Header{Name: "d/small", Size: 3, Mode: 0o600, Uid: 9},
	)
	content = append(content, make([]byte, 70_000)...) // padding that some tools write
	d := digest.FromBytes(content)
	s, err := w.Stage(t.Context(), bytes.NewReader(content), d)
	if err != nil {
		t.Fatal(err)
	}
	if s.Size() != int64(len(content)) {
		t.Errorf("size %d of %d", s.Size(), len(content))
	}
	if layers, _ := st.Layers(); len(layers) != 0 {
		t.Error("a staged layer can be seen")
	}
	l := Layer{ID: LayerID("", d), DiffID: d, Blob: digest.FromString("blob")}
	if err := w.Commit(t.Context(), s, l); err != nil {
		t.Fatal(err)
	}
	if has, err := w.Has(l.ID, d); !has || err != nil {
		t.Fatalf("committed layer: %v %v", has, err)
	}
	rec, err := st.Layer(l.ID)
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(rec.UIDs, rec.GIDs) != "[0 7 9] [0 8]" || rec.CompressedDigest != l.Blob || !IsDurable(rec.Flags) {
		t.Errorf("record: %+v", rec)
	}
	plain := archive.Uncompressed
	rc, err := st.Diff("", l.ID, &storage.DiffOptions{Compression: &plain})
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(rc)
	rc.Close()
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("came back with %d bytes of %d: %v", len(got), len(content), err)
	}
	if n := stagingDirs(t, st); n != 0 {
		t.Errorf("%d staging directories", n)
	}

	// The same again is discarded, not put over a layer that may be in use.
	s, err = w.Stage(t.Context(), bytes.NewReader(content), d)
	if err != nil {
		t.Fatal(err)
	}
	before := inode(t, st, l.ID)
	if err := w.Commit(t.Context(), s, l); err != nil {
		t.Fatal(err)
	}
	if inode(t, st, l.ID) != before || stagingDirs(t, st) != 0 {
		t.Error("a layer was replaced")
	}
}

func inode(t testing.TB, st storage.Store, id string) uint64 {
	t.Helper()
	var s unix.Stat_t
	if err := unix.Stat(filepath.Join(st.GraphRoot(), "overlay", id, "diff", "d"), &s); err != nil {
		t.Fatal(err)
	}
	return s.Ino
}

func TestPutVFS(t *testing.T) {
	st, w := testStore(t, "vfs")
	if w.CanStage() {
		t.Fatal("vfs stages?")
	}
	content := makeTar(t, &tar.Header{Name: "x", Size: 100, Mode: 0o600})
	d := digest.FromBytes(content)
	if err := w.Put(t.Context(), bytes.NewReader(content), Layer{ID: "aa", DiffID: digest.FromString("else")}); !errors.Is(err, ErrDigest) {
		t.Errorf("want ErrDigest, got %v", err)
	}
	if layers, _ := st.Layers(); len(layers) != 0 {
		t.Error("a wrong layer is there")
	}
	if err := w.Put(t.Context(), bytes.NewReader(content), Layer{ID: LayerID("", d), DiffID: d}); err != nil {
		t.Fatal(err)
	}
	if has, _ := w.Has(LayerID("", d), d); !has {
		t.Error("the layer is not there")
	}
}

// TestBarrier keeps watch on the one trick: containers/storage must ask for a
// flag's JSON after the layer's files are in place and before layers.json says
// complete.
func TestBarrier(t *testing.T) {
	st, w := testStore(t, "overlay")
	content := makeTar(t, &tar.Header{Name: "x", Size: 100, Mode: 0o600})
	d := digest.FromBytes(content)
	s, err := w.Stage(t.Context(), bytes.NewReader(content), d)
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	spy := marshalFunc(func() {
		asked++
		if _, err := os.Stat(filepath.Join(st.GraphRoot(), "overlay", "id1", "diff", "x")); err != nil {
			t.Errorf("asked before the files are in place: %v", err)
		}
		if link, err := os.ReadFile(filepath.Join(st.GraphRoot(), "overlay", "id1", "link")); err != nil || len(link) == 0 {
			t.Errorf("asked before the link file: %v", err)
		}
		raw, err := os.ReadFile(filepath.Join(st.GraphRoot(), "overlay-layers", "layers.json"))
		if asked == 1 && (err != nil || !strings.Contains(string(raw), `"incomplete":true`)) {
			t.Errorf("asked when layers.json says %s (%v)", raw, err)
		}
	})
	if _, err := st.ApplyStagedLayer(storage.ApplyStagedLayerOptions{ID: "id1", DiffOutput: s.out,
		DiffOptions: &graphdriver.ApplyDiffWithDifferOpts{Flags: map[string]any{"spy": spy}}}); err != nil {
		t.Fatal(err)
	}
	if asked == 0 {
		t.Error("never asked")
	}
}

type marshalFunc func()

func (f marshalFunc) MarshalJSON() ([]byte, error) { f(); return []byte("true"), nil }

func TestStageFails(t *testing.T) {
	st, w := testStore(t, "overlay")
	good := makeTar(t, &tar.Header{Name: "x", Size: 5 << 20, Mode: 0o600})
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		in   io.Reader
		want error
	}{
		"digest":     {bytes.NewReader(makeTar(t)), ErrDigest},
		"source":     {io.MultiReader(bytes.NewReader(good[:3<<20]), errReader{broken}), broken},
		"truncated":  {bytes.NewReader(good[:3<<20]), io.ErrUnexpectedEOF},
		"no tar":     {strings.NewReader(strings.Repeat("x", 10_000)), nil},
		"duplicates": {bytes.NewReader(makeTar(t, &tar.Header{Name: "x"}, &tar.Header{Name: "./x"})), nil},
		"unpacker":   {bytes.NewReader(append(makeTar(t, &tar.Header{Name: "x", Typeflag: 'Z'})[:1024], good...)), nil},
	} {
		_, err := w.Stage(t.Context(), c.in, digest.FromBytes(good))
		if err == nil || (c.want != nil && !errors.Is(err, c.want)) {
			t.Errorf("%s: %v", name, err)
		}
		if n := stagingDirs(t, st); n != 0 {
			t.Errorf("%s: %d staging directories left", name, n)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.Stage(ctx, bytes.NewReader(good), digest.FromBytes(good)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

type errReader struct{ err error }

func (e errReader) Read([]byte) (int, error) { return 0, e.err }

// TestPagesAreDropped counts the pages of a layer that are still cached.
func TestPagesAreDropped(t *testing.T) {
	st, w := testStore(t, "overlay")
	var fs unix.Statfs_t
	if err := unix.Statfs(st.GraphRoot(), &fs); err != nil || fs.Type == unix.TMPFS_MAGIC {
		t.Skip("needs a disk")
	}
	content := makeTar(t, &tar.Header{Name: "d/large", Size: 64 << 20, Mode: 0o600}, &tar.Header{Name: "d/b", Size: 1 << 20, Mode: 0o600})
	d := digest.FromBytes(content)
	s, err := w.Stage(t.Context(), bytes.NewReader(content), d)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Discard(s)
	for _, name := range []string{"large", "b"} {
		if n := residentPages(t, filepath.Join(s.out.Target, "d", name)); n > 300 {
			t.Errorf("%d pages of %s in the cache", n, name)
		}
	}
}

func residentPages(t testing.TB, path string) int {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, _ := f.Stat()
	m, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(m)
	vec := make([]byte, (len(m)+4095)/4096)
	if _, _, e := syscall.Syscall(syscall.SYS_MINCORE, addr(m), uintptr(len(m)), addr(vec)); e != 0 {
		t.Fatal(e)
	}
	n := 0
	for _, v := range vec {
		n += int(v & 1)
	}
	return n
}

// TestRootStaysOurs has many extractions change their root folder: none may be
// seen by the rest of the process.
func TestRootStaysOurs(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	before, _ := os.Getwd()
	done := make(chan error)
	for range 20 {
		dir := t.TempDir()
		go func() {
			done <- inRoot(dir, func() error {
				if _, err := os.Stat("/etc"); err == nil {
					return errors.New("not in the new root")
				}
				time.Sleep(time.Millisecond)
				return os.WriteFile("/f", nil, 0o666)
			})
		}()
		go func() { _, err := os.Stat("/etc"); done <- err }()
	}
	for range 40 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if now, _ := os.Getwd(); now != before {
		t.Errorf("working directory is now %s", now)
	}
	if root, err := os.Readlink("/proc/self/root"); err != nil || root != "/" {
		t.Errorf("/proc/self/root is %s: %v", root, err)
	}
}

func TestSweep(t *testing.T) {
	st, w := testStore(t, "overlay")
	base := filepath.Join(st.GraphRoot(), "overlay", "staging")
	past := time.Now().Add(-time.Minute)
	for name, lock := range map[string]bool{"dead": true, "empty": false} {
		dir := filepath.Join(base, name)
		if err := os.MkdirAll(filepath.Join(dir, "dir", "x"), 0o700); err != nil {
			t.Fatal(err)
		}
		if lock {
			if err := os.WriteFile(filepath.Join(dir, stagingLock), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		os.Chtimes(dir, past, past)
	}
	if err := os.Mkdir(filepath.Join(base, "young"), 0o700); err != nil {
		t.Fatal(err)
	}
	content := makeTar(t, &tar.Header{Name: "x", Size: 1, Mode: 0o600})
	s, err := w.Stage(t.Context(), bytes.NewReader(content), digest.FromBytes(content))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Discard(s)
	os.Chtimes(filepath.Dir(s.out.Target), past, past)
	if err := w.Sweep(); err != nil {
		t.Fatal(err)
	}
	if n := stagingDirs(t, st); n != 2 { // young, and the one in use
		t.Errorf("%d staging directories", n)
	}
}

func TestClaim(t *testing.T) {
	_, w := testStore(t, "overlay")
	release, err := w.Claim(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := w.Claim(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("claimed twice: %v", err)
	}
	release()
	release, err = w.Claim(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	release()
	if files, _ := os.ReadDir(w.lockDir); len(files) != 0 {
		t.Errorf("lock files left: %v", files)
	}
}

// FuzzSplit feeds arbitrary bytes to the splitter: it must come to an end, and
// must have passed on every byte that it read.
func FuzzSplit(f *testing.F) {
	f.Add(makeTar(f, &tar.Header{Name: "a", Size: 1000}, &tar.Header{Name: "b", Linkname: "a", Typeflag: tar.TypeSymlink}))
	f.Add(makeTar(f, &tar.Header{Name: strings.Repeat("long", 100), Size: 3, PAXRecords: map[string]string{"SCHILY.xattr.user.x": "y"}}))
	f.Add(makeTar(f, &tar.Header{Name: "x/.wh..wh..opq"}, &tar.Header{Name: "./", Typeflag: tar.TypeDir}))
	f.Add([]byte("no tar at all"))
	f.Fuzz(func(t *testing.T, in []byte) {
		set := newChunks()
		a, b := newLink(set, 2), newLink(set, 4)
		go func() {
			d := &differ{ctx: t.Context(), tar: bytes.NewReader(in), want: digest.FromString(""), sync: func(int) error { return nil }}
			a.close(d.read(set, a, d.want.Algorithm().Hash()))
		}()
		var out bytes.Buffer
		copied := make(chan struct{})
		go func() {
			defer close(copied)
			io.Copy(&out, struct{ io.Reader }{&linkReader{in: b, done: func(c []byte) error { set.put(c); return nil }}})
		}()
		s, err := splitStream(&linkReader{in: a, done: b.send}, io.Discard, &files{})
		b.close(err)
		<-copied
		set.abort()
		if err == nil && (s.size != int64(len(in)) || !bytes.Equal(out.Bytes(), in)) {
			t.Errorf("%d bytes in, %d counted, %d out", len(in), s.size, out.Len())
		}
	})
}

// FuzzStage feeds arbitrary bytes to the whole of it; whatever was accepted
// must come back byte for byte, or not at all.
func FuzzStage(f *testing.F) {
	st, w := testStore(f, "overlay")
	f.Add(makeTar(f, &tar.Header{Name: "a", Size: 1000}, &tar.Header{Name: "b", Linkname: "a", Typeflag: tar.TypeLink}))
	f.Add(makeTar(f, &tar.Header{Name: "d/x", Size: 3}, &tar.Header{Name: "s", Linkname: "/etc", Typeflag: tar.TypeSymlink}, &tar.Header{Name: "s/passwd", Size: 9}))
	f.Add(makeTar(f, &tar.Header{Name: "x/.wh..wh..opq"}, &tar.Header{Name: ".wh.y"}, &tar.Header{Name: "./", Typeflag: tar.TypeDir}))
	plain := archive.Uncompressed
	f.Fuzz(func(t *testing.T, in []byte) {
		d := digest.FromBytes(in)
		s, err := w.Stage(t.Context(), bytes.NewReader(in), d)
		if err != nil {
			return
		}
		l := Layer{ID: LayerID("", d), DiffID: d}
		if err := w.Commit(t.Context(), s, l); err != nil {
			t.Fatal(err)
		}
		defer st.DeleteLayer(l.ID)
		rc, err := st.Diff("", l.ID, &storage.DiffOptions{Compression: &plain})
		if err != nil {
			t.Fatal(err)
		}
		defer rc.Close()
		// Reading back follows links where the unpacker kept them inside, and
		// then says so; what it must not do is to give something else.
		if got, err := digest.FromReader(rc); err == nil && got != d && s.exact {
			t.Errorf("came back as %s", got)
		}
	})
}
