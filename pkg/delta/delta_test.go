package delta

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func tarSource(t testing.TB, tars ...[]byte) *TarSource {
	t.Helper()
	s, err := NewTarSource(context.Background(), layersOf(tars...), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func create(t testing.TB, base FileSource, tars ...[]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := Create(context.Background(), base, layersOf(tars...), &b, Options{}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// apply returns the layers that a delta makes.
func apply(delta []byte, base FileSource) ([][]byte, error) {
	r, err := Open(bytes.NewReader(delta), base)
	if err != nil {
		return nil, err
	}
	var out [][]byte
	for {
		if _, err := r.Next(); errors.Is(err, io.EOF) {
			return out, nil
		} else if err != nil {
			return out, err
		}
		b, err := io.ReadAll(r)
		if err != nil {
			return out, err
		}
		out = append(out, b)
	}
}

func roundTrip(t testing.TB, base FileSource, tars ...[]byte) []byte {
	t.Helper()
	d := create(t, base, tars...)
	out, err := apply(d, base)
	if err != nil {
		t.Fatal(err)
	}
	if len(out) != len(tars) {
		t.Fatalf("%d layers instead of %d", len(out), len(tars))
	}
	for i := range tars {
		if !bytes.Equal(out[i], tars[i]) {
			t.Fatalf("layer %d differs", i)
		}
	}
	return d
}

func TestGeneratedImages(t *testing.T) {
	n := uint64(60)
	if testing.Short() {
		n = 10
	}
	for seed := range n {
		g := newGenerator(seed)
		one, two := g.image(40), g.image(10)
		base := tarSource(t, pack(t, one), pack(t, two))
		new1, new2 := pack(t, g.change(one)), pack(t, append(g.change(two), g.image(3)...))
		d := roundTrip(t, base, new1, new2)
		again := create(t, base, new1, new2)
		if !bytes.Equal(d, again) {
			t.Fatalf("seed %d: not the same bytes twice", seed)
		}
	}
}

func TestOnlyTimesChanged(t *testing.T) {
	g := newGenerator(99)
	files := g.image(400)
	base := tarSource(t, pack(t, files))
	for i := range files {
		files[i].ModTime = time.Unix(1800000000, 0)
		files[i].PAXRecords = nil
	}
	b := pack(t, files)
	d := roundTrip(t, base, b)
	t.Logf("%d entries, %d bytes: %d", len(files), len(b), len(d))
	if len(d) > 40*len(files) {
		t.Errorf("%d bytes for %d entries", len(d), len(files))
	}
}

func TestWhatIsNoTar(t *testing.T) {
	g := newGenerator(3)
	files := g.image(20)
	whole := pack(t, files)
	base := tarSource(t, whole)
	zeros := make([]byte, 10240)
	broken := bytes.Clone(whole)
	for i := 0; i < len(broken); i += 4000 {
		broken[i] ^= 0x20
	}
	padding := bytes.Clone(whole)
	for at := 0; at+512 <= len(padding); {
		size, ok := parseHeader(padding[at : at+512])
		if !ok {
			break
		}
		if !hasContent(padding[at+156]) {
			size = 0
		}
		at += 512 + int(size)
		for at%512 != 0 {
			padding[at] = 'p'
			at++
		}
	}
	noise := newGenerator(4).content()
	for name, b := range map[string][]byte{
		"nothing":          {},
		"one byte":         {1},
		"zeros":            zeros,
		"no end":           whole[:len(whole)-1024],
		"half an end":      whole[:len(whole)-700],
		"cut in a file":    whole[:len(whole)/2+77],
		"garbage after":    append(bytes.Clone(whole), noise...),
		"zeros after":      append(bytes.Clone(whole), zeros...),
		"archive after":    append(bytes.Clone(whole), whole...),
		"one byte after":   append(bytes.Clone(whole), 7),
		"noise":            noise,
		"damaged headers":  broken,
		"strange padding":  padding,
		"GNU sparse":       gnuSparse(t),
		"old GNU incr":     bytes.ReplaceAll(whole, []byte("ustar  \x00"), []byte("ustar\x0000")),
		"huge size":        hugeSize(t, whole),
		"binary numbers":   pack(t, []file{{tar.Header{Typeflag: tar.TypeReg, Name: "a", Uid: 1 << 30, ModTime: time.Unix(-5, 0), Format: tar.FormatGNU}, []byte("x")}}),
		"absolute, dotted": pack(t, []file{{tar.Header{Typeflag: tar.TypeReg, Name: "/etc/../x"}, nil}, {tar.Header{Typeflag: tar.TypeDir, Name: "./"}, nil}, {tar.Header{Typeflag: tar.TypeDir, Name: "./a/"}, nil}, {tar.Header{Typeflag: tar.TypeDir, Name: "/b/"}, nil}}),
		"not UTF-8":        pack(t, []file{{tar.Header{Typeflag: tar.TypeReg, Name: "a\xff\xfe" + strings.Repeat("\x80", 150), Format: tar.FormatGNU}, nil}}),
	} {
		t.Run(name, func(t *testing.T) {
			roundTrip(t, base, b)
			roundTrip(t, base, b, whole, b)
		})
	}
}

// gnuSparse is a header of the old GNU format with an extension block.
func gnuSparse(t testing.TB) []byte {
	b := pack(t, []file{{tar.Header{Typeflag: tar.TypeReg, Name: "sparse", Format: tar.FormatGNU}, bytes.Repeat([]byte("data"), 300)}})
	b[156], b[482] = 'S', 1
	copy(b[148:156], checksum(b[:512]))
	ext := make([]byte, 512)
	copy(ext, "00000001000\x0000000001000\x00")
	return append(append(bytes.Clone(b[:512]), ext...), b[512:]...)
}

func hugeSize(t testing.TB, b []byte) []byte {
	b = bytes.Clone(b)
	copy(b[124:136], "00377777777\x00")
	copy(b[148:156], checksum(b[:512]))
	return b
}

func TestLargeFiles(t *testing.T) {
	if testing.Short() {
		t.Skip("large")
	}
	g := newGenerator(5)
	big := make([]byte, maxWhole+maxWhole/2+123)
	for i := 0; i < len(big); i += 4096 {
		copy(big[i:], g.words[g.IntN(len(g.words))])
	}
	old := pack(t, []file{{tar.Header{Typeflag: tar.TypeReg, Name: "big", Mode: 0o644}, big}})
	big = append([]byte("more"), big...)
	big[len(big)/2]++
	fresh := pack(t, []file{{tar.Header{Typeflag: tar.TypeReg, Name: "big", Mode: 0o600}, big}})
	d := roundTrip(t, tarSource(t, old), fresh)
	if len(d) > 2000 {
		t.Errorf("%d bytes", len(d))
	}
	roundTrip(t, tarSource(t), fresh)
}

// unpack makes a folder of files, as far as a test needs it.
func unpack(t testing.TB, files []file) string {
	t.Helper()
	dir := t.TempDir()
	for _, f := range files {
		p := filepath.Join(dir, f.Name)
		var err error
		switch f.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(p, 0o755)
		case tar.TypeSymlink:
			err = os.Symlink(f.Linkname, p)
		case tar.TypeReg:
			err = os.WriteFile(p, f.data, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func reg(name, data string) file {
	return file{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, []byte(data)}
}

func dir(name string) file {
	return file{tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}, nil}
}

func link(name, to string) file {
	return file{tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to}, nil}
}

func damagedImage() []file {
	text := strings.Repeat("some text that goes on for a while, ", 50)
	return []file{
		dir("a/"), reg("a/one", "1"+text), reg("a/two", "2"+text), link("a/link", "one"),
		dir("b/"), reg("b/four", "4"+text), reg("b/three", "3"+text+text),
	}
}

// TestDamagedBase: whatever happens to one file of the base, the error names it.
func TestDamagedBase(t *testing.T) {
	files := damagedImage()
	fresh := damagedImage()
	fresh[2].data = append([]byte("changed "), fresh[2].data...)
	d := create(t, tarSource(t, pack(t, files)), pack(t, fresh))
	open := func(t *testing.T, dir string) *DirSource {
		s, err := OpenDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	if _, err := apply(d, open(t, unpack(t, files))); err != nil {
		t.Fatal(err)
	}
	flip := func(p string) error {
		b, err := os.ReadFile(p)
		if err == nil {
			b[len(b)/2] ^= 1
			err = os.WriteFile(p, b, 0o644)
		}
		return err
	}
	for _, c := range []struct {
		name, path string
		do         func(p string) error
	}{
		{"flipped", "a/one", flip},
		{"flipped, patched", "a/two", flip},
		{"truncated", "b/four", func(p string) error { return os.Truncate(p, 100) }},
		{"truncated, patched", "a/two", func(p string) error { return os.Truncate(p, 100) }},
		{"emptied", "b/three", func(p string) error { return os.Truncate(p, 0) }},
		{"longer", "b/four", func(p string) error { return os.Truncate(p, 5000) }},
		{"removed", "b/three", os.Remove},
		{"a folder instead", "a/one", func(p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o755)) }},
		{"a link instead", "a/one", func(p string) error { return errors.Join(os.Remove(p), os.Symlink("two", p)) }},
		{"link changed", "a/link", func(p string) error { return errors.Join(os.Remove(p), os.Symlink("two", p)) }},
		{"folder behind a link", "a", func(p string) error { return errors.Join(os.Rename(p, p+"2"), os.Symlink("a2", p)) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := unpack(t, files)
			if err := c.do(filepath.Join(root, c.path)); err != nil {
				t.Fatal(err)
			}
			_, err := apply(d, open(t, root))
			if !errors.Is(err, ErrBase) {
				t.Fatalf("got %v", err)
			}
			var be *BaseError
			if c.name == "longer" {
				return // it is only seen that all together is too much
			}
			if !errors.As(err, &be) || be.Path != c.path && !strings.HasPrefix(c.path, be.Path) {
				t.Errorf("blames %v", err)
			}
			t.Log(err)
		})
	}
	t.Run("another image", func(t *testing.T) {
		if _, err := apply(d, tarSource(t, pack(t, newGenerator(1).image(20)))); !errors.Is(err, ErrBase) {
			t.Fatalf("got %v", err)
		}
	})
}

// TestLinksStayInside: a path that leads out of the folder does not exist.
func TestLinksStayInside(t *testing.T) {
	root := t.TempDir()
	outside := t.TempDir()
	if err := errors.Join(
		os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o644),
		os.Symlink(outside, filepath.Join(root, "out")),
		os.Symlink(filepath.Join(outside, "secret"), filepath.Join(root, "file")),
		os.Mkdir(filepath.Join(root, "d"), 0o755),
	); err != nil {
		t.Fatal(err)
	}
	s, err := OpenDir(root)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, p := range []string{"out/secret", "file", "../" + filepath.Base(outside) + "/secret", "d/../file", "/etc/passwd", "d", "", "out", "d//", "\x00"} {
		if f, err := s.Open(p); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("Open(%q): %v, %v", p, f, err)
		}
	}
	if _, err := s.ReadDir("out"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("ReadDir: %v", err)
	}
}

// TestDamagedDelta: every truncation and many flips are errors, and no panics.
func TestDamagedDelta(t *testing.T) {
	g := newGenerator(7)
	files := g.image(15)
	base := tarSource(t, pack(t, files))
	d := create(t, base, pack(t, g.change(files)))
	step := len(d)/400 + 1
	for i := 0; i < len(d); i += step {
		if _, err := apply(d[:i], base); err == nil {
			t.Fatalf("cut at %d of %d: no error", i, len(d))
		}
		b := bytes.Clone(d)
		b[i] ^= 1 << (i % 8)
		if _, err := apply(b, base); err == nil {
			t.Fatalf("flipped at %d of %d: no error", i, len(d))
		}
	}
	if _, err := apply(append(d, 0), base); !errors.Is(err, ErrFormat) {
		t.Errorf("bytes after the end: %v", err)
	}
	newer := bytes.Clone(d)
	newer[len(magic)]++
	if _, err := apply(newer, base); !errors.Is(err, ErrVersion) {
		t.Errorf("newer version: %v", err)
	}
}

// TestTarSource: layers merge as an unpacker merges them.
func TestTarSource(t *testing.T) {
	hard := file{tar.Header{Typeflag: tar.TypeLink, Name: "usr/bin/hard", Linkname: "bin/one"}, nil}
	s := tarSource(t,
		pack(t, []file{dir("usr/"), dir("usr/bin/"), link("bin", "usr/bin"), reg("bin/one", "1"), hard, reg("gone", "x"), dir("d/"), reg("d/old", "x"), reg("becomes/folder", "x"), link("up", "../../usr")}),
		pack(t, []file{reg(".wh.gone", ""), dir("d/"), reg("d/.wh..wh..opq", ""), reg("d/new", "y"), reg("up/bin/two", "2"), reg("becomes", "file")}))
	for p, want := range map[string]string{
		"": "becomes bin d up usr", "usr/bin": "hard one two", "d": "new",
	} {
		ents, err := s.ReadDir(p)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range ents {
			names = append(names, e.Name)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%q has %s instead of %s", p, got, want)
		}
	}
	f, err := s.Open("usr/bin/hard")
	if err != nil || f.Size() != 1 {
		t.Errorf("hard link: %v", err)
	}
	if _, err := s.Open("bin/one"); err == nil {
		t.Error("a link was followed")
	}
}

// TestCreateSize: a layer that is not as long as was said makes no delta.
func TestCreateSize(t *testing.T) {
	for _, off := range []int64{-512, 512} {
		l := layerOf(make([]byte, 10240))
		l.Size = 10240 + off
		if _, err := Create(t.Context(), tarSource(t), []LayerTar{l}, io.Discard, Options{}); !errors.Is(err, ErrSize) {
			t.Errorf("%d bytes off: %v", off, err)
		}
	}
}
