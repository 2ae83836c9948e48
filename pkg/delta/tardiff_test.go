package delta

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/klauspost/compress/zstd"
)

// td writes a tar-diff by hand: an operation, a number, and bytes if there are any.
func td(t testing.TB, ops ...any) []byte {
	t.Helper()
	var raw []byte
	for _, op := range ops {
		switch op := op.(type) {
		case int:
			raw = append(raw, byte(op))
		case uint64:
			raw = binary.AppendUvarint(raw, op)
		case string:
			raw = binary.AppendUvarint(raw, uint64(len(op)))
			raw = append(raw, op...)
		case []byte:
			raw = append(raw, op...)
		}
	}
	enc, err := tdEncoder()
	if err != nil {
		t.Fatal(err)
	}
	return enc.EncodeAll(raw, []byte(tarDiffMagic))
}

// tdEncoder is made once: that takes longer than all that it does.
var tdEncoder = sync.OnceValues(func() (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<16))
})

func applyTarDiff(delta io.Reader, base FileSource) ([]byte, error) {
	r, err := NewTarDiffReader(delta, base)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func tarDiffBase(t testing.TB) FileSource {
	var files []file
	for name, data := range map[string]string{"a": "0123456789", "dir/b": "abc", "empty": ""} {
		files = append(files, file{tar.Header{Name: name, Mode: 0o644, Typeflag: tar.TypeReg}, []byte(data)})
	}
	files = append(files, file{Header: tar.Header{Name: "link", Linkname: "a", Typeflag: tar.TypeSymlink}})
	return tarSource(t, pack(t, files))
}

func TestTarDiffOperations(t *testing.T) {
	base := tarDiffBase(t)
	for name, c := range map[string]struct {
		delta []byte
		want  string
	}{
		"nothing":            {td(t), ""},
		"data":               {td(t, tdData, "abc", tdData, ""), "abc"},
		"copy and seek":      {td(t, tdOpen, "a", tdCopy, uint64(2), tdSeek, uint64(8), tdCopy, uint64(2)), "0189"},
		"open begins anew":   {td(t, tdOpen, "a", tdCopy, uint64(2), tdOpen, "a", tdCopy, uint64(2)), "0101"},
		"another file":       {td(t, tdOpen, "a", tdOpen, "./dir//b", tdCopy, uint64(3)), "abc"},
		"a name that climbs": {td(t, tdOpen, "../../a", tdCopy, uint64(1)), "0"},
		"add":                {td(t, tdOpen, "a", tdSeek, uint64(1), tdAdd, "\x01\xff\x00", tdCopy, uint64(1)), "2134"},
		"seek past the end":  {td(t, tdOpen, "a", tdSeek, uint64(100), tdCopy, uint64(0), tdData, "x"), "x"},
		"nothing of nothing": {td(t, tdOpen, "empty", tdCopy, uint64(0)), ""},
	} {
		if got, err := applyTarDiff(bytes.NewReader(c.delta), base); err != nil || string(got) != c.want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		r, err := NewTarDiffReader(iotest.OneByteReader(bytes.NewReader(c.delta)), base)
		if err != nil {
			t.Fatal(err)
		}
		if err := iotest.TestReader(r, []byte(c.want)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTarDiffDamage(t *testing.T) {
	base := tarDiffBase(t)
	good := td(t, tdData, strings.Repeat("abcdefg", 100))
	for name, delta := range map[string][]byte{
		"empty":                      {},
		"another magic":              []byte("tardf2\n\x00"),
		"not compressed":             []byte(tarDiffMagic + "abcdefgh"),
		"cut off":                    good[:len(good)-5],
		"unknown operation":          td(t, 5, uint64(1)),
		"operation without a number": td(t, tdData),
		"number that is too long":    td(t, tdData, bytes.Repeat([]byte{0xff}, 11)),
		"number that is too large":   td(t, tdData, uint64(math.MaxUint64)),
		"data that is not there":     td(t, tdData, uint64(5), []byte("ab")),
		"copy without a file":        td(t, tdCopy, uint64(1)),
		"add without a file":         td(t, tdAdd, "a"),
		"seek without a file":        td(t, tdSeek, uint64(1)),
		"name that is too long":      td(t, tdOpen, uint64(1<<40)),
		"name that is not there":     td(t, tdOpen, uint64(5), []byte("ab")),
		"no name":                    td(t, tdOpen, "/.."),
		"addends that are missing":   td(t, tdOpen, "a", tdAdd, uint64(5), []byte("ab")),
		"a window of 1 GB":           append([]byte(tarDiffMagic), 0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa0, 1, 0, 0),
	} {
		if got, err := applyTarDiff(bytes.NewReader(delta), base); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for name, delta := range map[string][]byte{
		"a file that is not there":      td(t, tdOpen, "none"),
		"a link":                        td(t, tdOpen, "link"),
		"a folder":                      td(t, tdOpen, "dir"),
		"more than there is":            td(t, tdOpen, "a", tdCopy, uint64(11)),
		"more than is left":             td(t, tdOpen, "a", tdSeek, uint64(9), tdAdd, "ab"),
		"from past the end":             td(t, tdOpen, "a", tdSeek, uint64(11), tdCopy, uint64(1)),
		"as much as there are integers": td(t, tdOpen, "a", tdCopy, uint64(maxSize)),
	} {
		_, err := applyTarDiff(bytes.NewReader(delta), base)
		var file *BaseError
		if !errors.Is(err, ErrBase) || !errors.As(err, &file) {
			t.Errorf("%s: %v", name, err)
		}
	}
	broken := errors.New("broken")
	if _, err := applyTarDiff(io.MultiReader(bytes.NewReader(good[:20]), iotest.ErrReader(broken)), base); !errors.Is(err, broken) {
		t.Errorf("a delta that cannot be read: %v", err)
	}
}

// tarDiffPair is what the files in testdata/tardiff were made from.
func tarDiffPair(t testing.TB) (base, target []byte) {
	g := rand.New(rand.NewPCG(41, 41))
	random := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(g.UintN(256))
		}
		return b
	}
	program, library := random(20<<10), random(3000)
	var text strings.Builder
	for i := range 400 {
		fmt.Fprintf(&text, "line %d says %d\n", i, g.UintN(10))
	}
	entry := func(name string, mtime int64, data []byte) file {
		return file{tar.Header{Name: name, Mode: 0o644, Typeflag: tar.TypeReg, ModTime: time.Unix(mtime, 0)}, data}
	}
	base = pack(t, []file{
		entry("usr/bin/program", 1, program), entry("usr/lib/library", 1, library), entry("etc/text", 1, []byte(text.String())),
		{Header: tar.Header{Name: "usr/bin/again", Linkname: "usr/bin/program", Typeflag: tar.TypeLink}},
	})
	changed := bytes.Clone(program)
	for at := 1000; at < len(changed); at += 700 {
		changed[at]++
	}
	target = pack(t, []file{
		entry("usr/bin/program", 2, append(changed[:12000:12000], program[11000:]...)), entry("opt/library", 2, library),
		entry("etc/text", 2, []byte(strings.Replace(text.String(), "line 200 ", "line two hundred ", 1))), entry("new", 2, random(100)),
	})
	return base, target
}

// What containers/tar-diff v0.1.2 made, with -compression-level 3 and 19, and 3
// without bsdiff. With TAR_DIFF naming its program they are made again first.
func TestTarDiffMadeElsewhere(t *testing.T) {
	base, target := tarDiffPair(t)
	for name, args := range map[string][]string{
		"level3": nil, "level19": {"-compression-level", "19"}, "nobsdiff": {"-max-bsdiff-size", "0"},
	} {
		out, err := filepath.Abs(filepath.Join("testdata", "tardiff", name))
		if err != nil {
			t.Fatal(err)
		}
		if program := os.Getenv("TAR_DIFF"); program != "" {
			dir := t.TempDir()
			for name, data := range map[string][]byte{"base": base, "target": target} {
				if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			run(t, dir, program, append(args, "base", "target", out)...)
		}
		delta, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		got, err := applyTarDiff(bytes.NewReader(delta), tarSource(t, base))
		if err != nil || !bytes.Equal(got, target) {
			t.Errorf("%s: %d bytes instead of %d, %v", name, len(got), len(target), err)
		}
	}
}

// FuzzTarDiff: no operations make the reader panic or read what is not there.
func FuzzTarDiff(f *testing.F) {
	base := tarDiffBase(f)
	seed := func(ops ...any) {
		r, err := zstd.NewReader(bytes.NewReader(td(f, ops...)[len(tarDiffMagic):]))
		if err != nil {
			f.Fatal(err)
		}
		raw, err := io.ReadAll(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	seed(tdOpen, "a", tdSeek, uint64(1), tdAdd, "\x01\xff\x00", tdCopy, uint64(1), tdData, "x")
	seed(tdOpen, "dir/b", tdCopy, uint64(3), tdOpen, "empty", tdOpen, "link")
	seed(tdOpen, "a", tdSeek, uint64(math.MaxInt64), tdCopy, uint64(1))
	f.Fuzz(func(t *testing.T, ops []byte) {
		fuzzTarDiff(t, td(t, ops), base)
	})
}

// FuzzTarDiffStream: nor does anything that has the magic.
func FuzzTarDiffStream(f *testing.F) {
	base := tarDiffBase(f)
	f.Add(td(f, tdOpen, "a", tdSeek, uint64(1), tdAdd, "\x01\xff\x00")[len(tarDiffMagic):])
	f.Fuzz(func(t *testing.T, stream []byte) {
		fuzzTarDiff(t, append([]byte(tarDiffMagic), stream...), base)
	})
}

func fuzzTarDiff(t *testing.T, delta []byte, base FileSource) {
	r, err := NewTarDiffReader(bytes.NewReader(delta), base)
	if err == nil {
		_, err = io.Copy(io.Discard, io.LimitReader(r, 1<<20))
		r.Close()
	}
	if err != nil && !errors.Is(err, ErrFormat) && !errors.Is(err, ErrBase) {
		t.Fatalf("neither right nor anybody's fault: %v", err)
	}
}
