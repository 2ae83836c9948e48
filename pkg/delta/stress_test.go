package delta

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

func gzipOf(t testing.TB, text string, level int) string {
	t.Helper()
	return string(regzip([]byte(text), level, 1<<20))
}

// TestLayerSets: sets of layers that stress what tar can say, over bases that
// have part of it.
func TestLayerSets(t *testing.T) {
	text := strings.Repeat("what a line of a program may look like;\n", 300)
	old := text + strings.Repeat("and an end\n", 50)
	fresh := "a beginning\n" + text[:5000] + strings.Repeat("something new\n", 40) + text[5000:]
	long := strings.Repeat("folder-of-a-long-name/", 14) + "file"
	exe, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	exe = exe[:min(len(exe), 300<<10)]
	patched := bytes.Clone(exe)
	for i := 4096; i < len(patched); i += 997 {
		patched[i] += 3
	}
	mode := func(f file, m int64) file { f.Mode = m; return f }
	special := func(flag byte, name string) file {
		return file{tar.Header{Typeflag: flag, Name: name, Devmajor: 8, Devminor: 1, Mode: 0o600}, nil}
	}
	hard := func(name, to string) file {
		return file{tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to, Mode: 0o644}, nil}
	}
	format := func(f file, to tar.Format) file { f.Format = to; return f }
	xattr := reg("usr/bin/ping", text)
	xattr.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20", "SCHILY.xattr.user.empty": ""}
	one := []file{
		dir("usr/"), dir("usr/bin/"), reg("usr/bin/a", text), mode(reg("usr/bin/su", old), 0o4755), link("usr/lib", "bin"),
		reg("doc/a.gz", gzipOf(t, old, 9)), reg("doc/plain.gz", gzipOf(t, text, 6)), reg("bin/exe", string(exe)), reg(long, old), reg("zero", ""),
	}
	two := []file{dir("opt/"), reg("opt/moves", old), reg("opt/goes", text), hard("opt/again", "usr/bin/a")}
	base := tarSource(t, pack(t, one), pack(t, two))
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write([]byte(fresh))
	_ = z.Close()
	sets := map[string][][]file{
		"same":                       {one, two},
		"layers the other way round": {two, one},
		"all in one":                 {append(append([]file{}, one...), two...)},
		"moved between layers":       {append(append([]file{}, one...), reg("opt/moves", old)), two[2:]},
		"another mode":               {{mode(reg("usr/bin/a", text), 0o755), mode(reg("usr/bin/su", old), 0o755)}},
		"whiteouts":                  {{reg("usr/bin/.wh.a", ""), dir("opt/"), reg("opt/.wh..wh..opq", ""), reg("opt/new", fresh)}},
		"links":                      {{link("usr/lib", "../lib"), link("l", strings.Repeat("x/", 90)), reg("h", fresh), hard("h2", "h"), hard("h3", long)}},
		"specials":                   {{special(tar.TypeChar, "dev/c"), special(tar.TypeBlock, "dev/b"), special(tar.TypeFifo, "p"), special(tar.TypeChar, ".wh.x")}},
		"attributes":                 {{xattr, format(reg("usr/bin/a", fresh), tar.FormatPAX)}},
		"GNU and PAX names":          {{format(reg(long+"2", fresh), tar.FormatGNU), format(reg(long+"3", fresh), tar.FormatPAX), reg(long, old)}},
		"twice":                      {{reg("usr/bin/a", fresh), reg("usr/bin/a", text), reg("usr/bin/a", fresh), dir("usr/"), dir("usr/")}},
		"empty files":                {{reg("zero", ""), reg("one", "1"), reg("usr/bin/a", "")}},
		"not UTF-8":                  {{format(reg("\xff\xfe/\x80", text), tar.FormatGNU), format(reg("\xff\xfe/\x80"+strings.Repeat("\xe9", 120), fresh), tar.FormatGNU)}},
		"gzip":                       {{reg("doc/a.gz", gzipOf(t, fresh, 9)), reg("doc/plain.gz", gzipOf(t, fresh, 6)), reg("doc/new.gz", gzipOf(t, strings.Repeat(fresh, 9), 9)), reg("doc/go.gz", zipped.String())}},
		"program":                    {{reg("bin/exe", string(patched)), reg("bin/other", string(patched[2000:]))}},
		"rewritten":                  {{reg("usr/bin/a", fresh), reg("usr/bin/su", strings.ToUpper(fresh)), reg("opt/moves", fresh+old)}},
		"nothing":                    {{}, {}},
	}
	for name, layers := range sets {
		t.Run(name, func(t *testing.T) {
			var tars [][]byte
			for _, l := range layers {
				tars = append(tars, pack(t, l))
			}
			tars = append(tars, nil, make([]byte, 1024))
			d := roundTrip(t, base, tars...)
			if !bytes.Equal(d, create(t, base, tars...)) {
				t.Error("not the same bytes twice")
			}
			roundTrip(t, tarSource(t), tars...)
			for _, level := range []int{1, 9} {
				var b bytes.Buffer
				if _, err := Create(context.Background(), base, layersOf(tars...), &b, Options{Level: level}); err != nil {
					t.Fatal(err)
				}
				if _, err := apply(b.Bytes(), base); err != nil {
					t.Errorf("level %d: %v", level, err)
				}
			}
		})
	}
}

// TestSparsePAX: the PAX sparse formats 0.1 and 1.0, as GNU tar writes them.
func TestSparsePAX(t *testing.T) {
	data := "3\n0\n512\n1048576\n512\n2097152\n0\n"
	one := reg("GNUSparseFile.7/image", data+strings.Repeat("\x00", 512-len(data))+strings.Repeat("data", 256))
	one.PAXRecords = map[string]string{"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "image", "GNU.sparse.realsize": "2097152"}
	old := reg("image", strings.Repeat("data", 256))
	old.PAXRecords = map[string]string{"GNU.sparse.map": "0,512,1048576,512", "GNU.sparse.numblocks": "2", "GNU.sparse.size": "2097152", "GNU.sparse.name": "image"}
	// archive/tar does not write these: names of the same length are put in.
	write := func(f file) []byte {
		records := map[string]string{}
		for k, v := range f.PAXRecords {
			records[strings.Replace(k, "GNU.sparse", "XYZ.sparse", 1)] = v
		}
		f.PAXRecords = records
		return bytes.ReplaceAll(pack(t, []file{f}), []byte("XYZ.sparse"), []byte("GNU.sparse"))
	}
	base := tarSource(t, pack(t, []file{reg("image", strings.Repeat("data", 256))}))
	roundTrip(t, base, write(one), write(old))
}

// zeroSource has one file, of zeros and a few bytes at its end.
type zeroSource int64

func (z zeroSource) Open(p string) (File, error) {
	if p != "big" {
		return nil, fs.ErrNotExist
	}
	return z, nil
}
func (z zeroSource) ReadDir(p string) ([]Dirent, error) {
	if p != "" {
		return nil, fs.ErrNotExist
	}
	return []Dirent{{"big", 0}}, nil
}
func (z zeroSource) Readlink(string) (string, error) { return "", fs.ErrNotExist }
func (z zeroSource) Size() int64                     { return int64(z) }
func (z zeroSource) Close() error                    { return nil }
func (z zeroSource) ReadAt(p []byte, at int64) (int, error) {
	n := int(min(int64(len(p)), int64(z)-at))
	clear(p[:n])
	const end = "the end"
	for i := max(0, n-len(end)); i < n; i++ {
		if from := int64(z) - (at + int64(i)); from <= int64(len(end)) {
			p[i] = end[int64(len(end))-from]
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// TestHugeFile: a file of more than 2 GB that is nearly all zeros, unchanged but
// for its header, takes next to nothing and little memory.
func TestHugeFile(t *testing.T) {
	if testing.Short() {
		t.Skip("2 GB")
	}
	const size = 2<<30 + 12345
	var head bytes.Buffer
	h := tar.Header{Typeflag: tar.TypeReg, Name: "big", Mode: 0o600, Size: size, ModTime: time.Unix(1700000000, 0)}
	if err := tar.NewWriter(&head).WriteHeader(&h); err != nil {
		t.Fatal(err)
	}
	open := func(context.Context) (io.ReadCloser, error) {
		pad := make([]byte, -size&511+1024)
		return io.NopCloser(io.MultiReader(bytes.NewReader(head.Bytes()), io.NewSectionReader(zeroSource(size), 0, size), bytes.NewReader(pad))), nil
	}
	r, _ := open(context.Background())
	sum := sha256.New()
	n, err := io.Copy(sum, r)
	if err != nil {
		t.Fatal(err)
	}
	layer := LayerTar{DiffID: digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(sum.Sum(nil))), Size: n, Open: open}
	var d bytes.Buffer
	if _, err := Create(context.Background(), zeroSource(size), []LayerTar{layer}, &d, Options{}); err != nil {
		t.Fatal(err)
	}
	if d.Len() > 500 {
		t.Errorf("%d bytes", d.Len())
	}
	out, err := Open(&d, zeroSource(size))
	if err != nil {
		t.Fatal(err)
	}
	if got := out.Sizes(); len(got) != 1 || got[0] != n {
		t.Errorf("sizes %v instead of %d", got, n)
	}
	if _, err := out.Next(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.Copy(io.Discard, out); err != nil || got != n {
		t.Errorf("%d bytes, %v", got, err)
	}
}

// TestLyingDelta: no more comes out than the head says, whatever is asked for.
func TestLyingDelta(t *testing.T) {
	whole := pack(t, []file{reg("a", strings.Repeat("text ", 4000))})
	base := tarSource(t, pack(t, []file{reg("a", "text")}))
	honest := create(t, base, whole)
	at := len(magic) + 3 + sha256.Size // version, codec, one layer, its digest
	_, n := binary.Uvarint(honest[at:])
	for _, size := range []int64{0, 1, 512, int64(len(whole)) - 1, int64(len(whole)) + 1, maxSize} {
		lying := binary.AppendUvarint(bytes.Clone(honest[:at]), uint64(size))
		out, err := apply(append(lying, honest[at+n:]...), base)
		if fmt.Sprint(out) != "[]" || err == nil {
			t.Errorf("size %d: %v", size, err)
		}
	}
	var s sheet
	s.byte(colOps, opZero)
	s.uint(colNum, maxSize)
	b := append([]byte(magic), Version, codecLZ, 1)
	b = append(append(b, make([]byte, 32)...), 0x80, 0x08) // 1,024 bytes
	out := bytes.NewBuffer(b)
	enc, _ := newBlockEncoder(codecLZ, 0)
	if err := writeBlock(out, enc, &s); err != nil {
		t.Fatal(err)
	}
	r, err := Open(out, base)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, r); n != 0 || err == nil {
		t.Errorf("endless zeros: %d bytes, %v", n, err)
	}
}
