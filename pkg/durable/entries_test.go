package durable

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/moby/sys/userns"
	"github.com/opencontainers/go-digest"
	splittar "github.com/vbatts/tar-split/archive/tar"
	tarsplit "github.com/vbatts/tar-split/tar/storage"
	"golang.org/x/sys/unix"
)

// headers makes a tar of n entries while it is read.
func headers(n int, entry func(i int) *tar.Header) io.Reader {
	r, w := io.Pipe()
	go func() {
		tw := tar.NewWriter(w)
		for i := range n {
			if err := tw.WriteHeader(entry(i)); err != nil {
				w.CloseWithError(err)
				return
			}
		}
		w.CloseWithError(tw.Close())
	}()
	return r
}

// splitAll runs a stream through the splitter alone.
func splitAll(t testing.TB, in io.Reader, record io.Writer) (*split, error) {
	t.Helper()
	set := newChunks()
	l := newLink(set, 2)
	go func() {
		for {
			b, err := set.get()
			if err != nil {
				return
			}
			n, err := io.ReadFull(in, b)
			if n > 0 && l.send(b[:n]) != nil {
				return
			}
			if err != nil {
				l.close(nil)
				return
			}
		}
	}()
	defer set.abort()
	return splitStream(&linkReader{in: l, done: func(b []byte) error { set.put(b); return nil }}, record, &files{})
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// watchHeap calls f at each write and remembers the most that is alive.
type watchHeap struct {
	from, most int64
	n          int
}

func (w *watchHeap) Write(b []byte) (int, error) {
	if w.n++; w.n%10 == 0 {
		w.most = max(w.most, heap()-w.from)
	}
	return len(b), nil
}

// TestManyEntries: with a million it is 20 MB, measured so; see
// BALENA_TEST_ENTRIES.
func TestManyEntries(t *testing.T) {
	n := 50_000
	if v, err := strconv.Atoi(os.Getenv("BALENA_TEST_ENTRIES")); err == nil {
		n = v
	}
	w := &watchHeap{from: heap()}
	s, err := splitAll(t, headers(n, func(i int) *tar.Header {
		return &tar.Header{Name: fmt.Sprintf("a/folder/with/a/long/name/%09d/file", i), Mode: 0o600, Uid: i % 3000}
	}), w)
	if err != nil {
		t.Fatal(err)
	}
	if limit := int64(3<<20 + 40*n); w.most > limit || w.most == 0 {
		t.Errorf("%d entries keep %d MB", n, w.most>>20)
	}
	uids := s.uids.sorted()
	if len(uids) > 2*maxIDs || uids[len(uids)-1] != 2999 {
		t.Errorf("%d owners, the last is %d", len(uids), uids[len(uids)-1])
	}
	t.Logf("%d entries: %.1f MB", n, float64(w.most)/(1<<20))
}

// Folders' headers are kept until the end, with everything that is in them.
func TestTooManyFolders(t *testing.T) {
	old := debug.SetMemoryLimit(64 << 20)
	defer debug.SetMemoryLimit(old)
	big := strings.Repeat("x", 500_000)
	for name, entry := range map[string]func(i int) *tar.Header{
		"many": func(i int) *tar.Header {
			return &tar.Header{Name: fmt.Sprintf("%d/", i), Typeflag: tar.TypeDir, Mode: 0o700}
		},
		"large": func(i int) *tar.Header {
			return &tar.Header{Name: fmt.Sprintf("%d/", i), Typeflag: tar.TypeDir, Mode: 0o700, PAXRecords: map[string]string{"x.comment": big}}
		},
	} {
		if _, err := splitAll(t, headers(100_000, entry), io.Discard); !errors.Is(err, ErrTooMuch) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// as much as an image of many folders has
	if _, err := splitAll(t, headers(40_000, func(i int) *tar.Header {
		return &tar.Header{Name: fmt.Sprintf("usr/share/doc/package-%d/", i), Typeflag: tar.TypeDir, Mode: 0o700}
	}), io.Discard); err != nil {
		t.Error(err)
	}
}

// The records are those of tar-split's own packer, byte for byte.
func TestRecordsAreTarSplits(t *testing.T) {
	var ours, theirs bytes.Buffer
	r, p := newRecorder(&ours), tarsplit.NewJSONPacker(&theirs)
	for i, name := range []string{"a", "b/", "not\xffutf8", "</b>"} {
		h := tarHeader(name, int64(i))
		if err := r.file(h, []byte("sum")); err != nil {
			t.Fatal(err)
		}
		e := tarsplit.Entry{Type: tarsplit.FileType, Size: h.Size, Payload: []byte("sum")}
		e.SetName(name)
		if _, err := p.AddEntry(e); err != nil {
			t.Fatal(err)
		}
		if err := r.segment([]byte{1, 2, 3}); err != nil {
			t.Fatal(err)
		}
		if _, err := p.AddEntry(tarsplit.Entry{Type: tarsplit.SegmentType, Payload: []byte{1, 2, 3}}); err != nil {
			t.Fatal(err)
		}
	}
	if ours.String() != theirs.String() {
		t.Errorf("got\n%s\nwant\n%s", &ours, &theirs)
	}
	if err := r.file(tarHeader("./b", 1), nil); !errors.Is(err, tarsplit.ErrDuplicatePath) {
		t.Errorf("the same name twice: %v", err)
	}
	in := newRecords(&ours)
	for range 8 {
		if _, err := in.Next(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := in.Next(); err != io.EOF {
		t.Error(err)
	}
}

// What a layer's link means on the host is no business of a reader of layers:
// neither the user's files, nor a FIFO that nobody writes to, nor a device.
func TestLinksStayInTheLayer(t *testing.T) {
	st, w := testStore(t, "overlay")
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("the host's"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(outside, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	content := makeTar(t,
		&tar.Header{Name: "x", Typeflag: tar.TypeSymlink, Linkname: outside},
		&tar.Header{Name: "x/secret", Size: 10, Mode: 0o600},
		&tar.Header{Name: "x/fifo", Size: 10, Mode: 0o600},
		&tar.Header{Name: "y", Typeflag: tar.TypeSymlink, Linkname: "../../../../../../../../" + outside},
		&tar.Header{Name: "y/other", Size: 10, Mode: 0o600},
	)
	d := digest.FromBytes(content)
	s, err := w.Stage(t.Context(), bytes.NewReader(content), d)
	if err != nil {
		t.Fatal(err)
	}
	l := Layer{ID: LayerID("", d), DiffID: d}
	if err := w.Commit(t.Context(), s, l); err != nil {
		t.Fatal(err)
	}
	if has, err := w.Has(l.ID, d); err != nil || !has {
		t.Errorf("the layer is said to be damaged: %v", err)
	}
	if verified, err := Verify(st, l.ID, d); err != nil || !verified {
		t.Errorf("%v %v", verified, err)
	}
	tarball, err := Assemble(st, l.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer tarball.Close()
	got, err := io.ReadAll(tarball)
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("another tar came back: %v", err)
	}
	if bytes.Contains(got, []byte("the host's")) {
		t.Error("the host's file is in it")
	}
}

// A layer that speaks to overlayfs behind the image's back.
func TestOverlayAttributes(t *testing.T) {
	_, w := testStore(t, "overlay")
	attrs := map[string]string{"SCHILY.xattr.user.kept": "yes"}
	for _, name := range []string{"opaque", "redirect", "metacopy", "origin", "whiteout", "xwhiteouts"} {
		attrs["SCHILY.xattr.trusted.overlay."+name] = "y"
		attrs["SCHILY.xattr.user.overlay."+name] = "y"
	}
	content := makeTar(t,
		&tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o700, PAXRecords: attrs},
		&tar.Header{Name: "d/f", Size: 3, Mode: 0o600, PAXRecords: attrs},
		&tar.Header{Name: "e/", Typeflag: tar.TypeDir, Mode: 0o700, PAXRecords: attrs},
		&tar.Header{Name: "e/.wh..wh..opq", Mode: 0o600},
	)
	d := digest.FromBytes(content)
	s, err := w.Stage(t.Context(), bytes.NewReader(content), d)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Discard(s)
	opaque := "trusted.overlay.opaque user.kept"
	if userns.RunningInUserNS() {
		opaque = "user.kept user.overlay.opaque"
	}
	for name, want := range map[string]string{"d": "user.kept", "d/f": "user.kept", "e": opaque} {
		if got := strings.Join(xattrsOf(t, filepath.Join(s.out.Target, name)), " "); got != want {
			t.Errorf("%s has %s, want %s", name, got, want)
		}
	}
}

func xattrsOf(t testing.TB, path string) []string {
	t.Helper()
	buf := make([]byte, 4096)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		t.Fatal(err)
	}
	names := strings.Split(strings.TrimRight(string(buf[:n]), "\x00"), "\x00")
	slices.Sort(names)
	return slices.DeleteFunc(names, func(s string) bool { return s == "security.selinux" })
}

func tarHeader(name string, size int64) *splittar.Header {
	return &splittar.Header{Name: name, Size: size, Typeflag: splittar.TypeReg}
}
