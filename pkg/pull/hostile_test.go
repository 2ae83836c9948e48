package pull

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	imgspecv1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// rawTar is a tar of headers that no archiver would write.
type rawTar struct{ bytes.Buffer }

// header writes a ustar header as it is told, with a valid checksum.
func (r *rawTar) header(name string, kind byte, size string, content string) *rawTar {
	b := make([]byte, 512)
	copy(b, name)
	copy(b[100:], "0000644\x00")
	copy(b[108:], "0000000\x00")
	copy(b[116:], "0000000\x00")
	copy(b[124:136], size)
	copy(b[136:], "00000000000\x00")
	copy(b[148:], "        ")
	b[156] = kind
	copy(b[257:], "ustar\x0000")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	r.Write(b)
	r.WriteString(content)
	if pad := len(content) % 512; pad != 0 {
		r.Write(make([]byte, 512-pad))
	}
	return r
}

func octal(n int) string { return fmt.Sprintf("%011o\x00", n) }

func (r *rawTar) end() []byte {
	r.Write(make([]byte, 1024))
	return r.Bytes()
}

func paxRecord(key, value string) string {
	for n := len(key) + len(value) + 3; ; n++ {
		if s := fmt.Sprintf("%d %s=%s\n", n, key, value); len(s) == n {
			return s
		}
	}
}

// Layers that a registry should not have: each is refused with an error that
// names the layer, or extracted within its folder, in little memory and time.
func TestHostileTars(t *testing.T) {
	st, layers := openTestStore(t, "overlay")
	pax := func(records string) []byte {
		return new(rawTar).header("PaxHeaders/x", 'x', octal(len(records)), records).header("x", '0', octal(1), "x").end()
	}
	deep := strings.Repeat("d/", 1500)
	for _, tc := range []struct {
		name  string
		tar   []byte
		fails string // what the error says; "" for a layer that can be had
	}{
		{"newline in a name", tarOf(t, entry{name: "a\nb\n", content: "x"}), ""},
		{"control characters", tarOf(t, entry{name: "\x1b[2Ja\x07", content: "x"}), ""},
		{"NUL in a PAX name", pax(paxRecord("path", "a\x00/../../b")), "tar"},
		{"NUL in a PAX link", pax(paxRecord("linkpath", "a\x00b")), "tar"},
		{"a component of 300 bytes", tarOf(t, entry{name: strings.Repeat("n", 300), content: "x"}), "file name too long"},
		{"a path of 3000 bytes", tarOf(t, entry{name: deep + "f", content: "x"}), ""},
		{"a path of 6000 bytes", tarOf(t, entry{name: deep + deep + "f", content: "x"}), "name too long"},
		{"PAX record with a wrong length", pax("9999 path=x\n"), "tar"},
		{"PAX record without a length", pax("path=x\n"), "tar"},
		{"PAX size that is negative", pax(paxRecord("size", "-5")), "tar"},
		{"PAX size that is larger than the layer", pax(paxRecord("size", "999999999999")), "EOF"},
		{"PAX headers of 64 MB", pax(strings.Repeat(paxRecord("comment", strings.Repeat("x", 1<<20)), 64)), "tar"},
		{"a GNU long name of 64 MB", new(rawTar).header("././@LongLink", 'L', octal(64<<20), strings.Repeat("x", 64<<20)).header("x", '0', octal(0), "").end(), "too long"},
		{"a size that is larger than the layer", new(rawTar).header("x", '0', octal(1<<30), "x").Bytes(), "EOF"},
		{"a size that is no number", new(rawTar).header("x", '0', "zzzzzzzzzzz\x00", "").end(), "tar"},
		{"a negative size", new(rawTar).header("x", '0', "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xf0", "").end(), "tar"},
		{"a directory with a size", new(rawTar).header("d/", '5', octal(512), strings.Repeat("x", 512)).end(), "tar"},
		{"cut in the middle of a header", tarOf(t, entry{name: "a", content: "x"})[:700], ""},
		{"not a tar", bytes.Repeat([]byte("hello "), 1000), "tar"},
		{"nothing at all", nil, ""},
		{"an unknown kind", new(rawTar).header("x", 'Z', octal(0), "").end(), "tar"},
		{"the same name twice", tarOf(t, entry{name: "a", content: "1"}, entry{name: "a", content: "2"}), "duplicates"},
		{"a link to itself", tarOf(t, entry{name: "l", kind: tar.TypeLink, link: "l"}), "no such file"},
		{"a link to a folder", tarOf(t, entry{name: "d/", kind: tar.TypeDir}, entry{name: "l", kind: tar.TypeLink, link: "d"}), "not permitted"},
		{"symlinks in a circle, and a file below", tarOf(t, entry{name: "a", kind: tar.TypeSymlink, link: "b"}, entry{name: "b", kind: tar.TypeSymlink, link: "a"}, entry{name: "a/f", content: "x"}), "too many levels"},
		{"a FIFO, then a file of that name's", tarOf(t, entry{name: "p", kind: tar.TypeFifo}, entry{name: "p/f", content: "x"}), "not a directory"},
		{"a file in a file", tarOf(t, entry{name: "f", content: "x"}, entry{name: "f/g", content: "x"}), "not a directory"},
		{"the root as a file", tarOf(t, entry{name: ".", content: "x"}), "archive root"},
		{"the root's parent as a file", tarOf(t, entry{name: "..", content: "x"}), "archive root"},
		{"devices", tarOf(t, entry{name: "null", kind: tar.TypeChar}, entry{name: "disk", kind: tar.TypeBlock}), ""},
		{"a whiteout of the root", tarOf(t, entry{name: ".wh."}), "whiteout"},
		{"a whiteout of the parent", tarOf(t, entry{name: "d/.wh..."}), "whiteout"},
		{"a whiteout of the folder itself", tarOf(t, entry{name: "d/.wh.."}), "whiteout"},
		{"a folder named like a whiteout", tarOf(t, entry{name: ".wh./x", content: "x"}), ""},
		{"a file below a whiteout", tarOf(t, entry{name: "a/f", content: "x"}, entry{name: ".wh.a"}), "file exists"},
		{"a whiteout with content", tarOf(t, entry{name: ".wh.a", content: strings.Repeat("x", 9000)}), ""},
		{"300 kB of zeros behind the end", append(tarOf(t, entry{name: "a", content: "x"}), make([]byte, 300<<10)...), ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			reg := newTestRegistry(t)
			reg.image("v1", "amd64", gz(tc.tar))
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			imgs, err := Pull(ctx, st, reg.host()+"/a:v1", Options{})
			runtime.ReadMemStats(&after)
			if ctx.Err() != nil {
				t.Fatalf("it took too long: %v", err)
			}
			if got := after.HeapSys - min(before.HeapSys, after.HeapSys); got > 256<<20 {
				t.Errorf("it took %d MB of memory", got>>20)
			}
			if (err != nil) != (tc.fails != "") || err != nil && !strings.Contains(err.Error(), tc.fails) {
				t.Errorf("got %v, want %q", err, tc.fails)
			}
			noLeftovers(t, layers)
			if err != nil {
				return
			}
			diff := filepath.Join(layers.GraphRoot(), "overlay", imageLayers(t, layers, imgs[0].ID)[0].ID, "diff")
			if _, err := os.Stat(diff); err != nil {
				t.Error(err)
			}
		})
	}
}

// Layers that would use up memory by what their compression asks for.
func TestHostileCompression(t *testing.T) {
	st, layers := openTestStore(t, "overlay")
	t.Setenv("GOMEMLIMIT", "32MiB") // pulls do not set it again
	old := debug.SetMemoryLimit(32 << 20)
	defer debug.SetMemoryLimit(old)
	windowed := func(window int) testLayer {
		content := tarOf(t, entry{name: fmt.Sprint("zeros", window), content: strings.Repeat("\x00", 40<<20)})
		var b bytes.Buffer
		w, err := zstd.NewWriter(&b, zstd.WithWindowSize(window), zstd.WithEncoderConcurrency(1))
		if err != nil {
			t.Fatal(err)
		}
		w.Write(content)
		w.Close()
		return testLayer{content, b.Bytes(), imgspecv1.MediaTypeImageLayerZstd}
	}
	for name, c := range map[string]struct {
		layer testLayer
		fails string
	}{
		"a window of 8 MB":   {windowed(8 << 20), ""},
		"a window of 64 MB":  {windowed(64 << 20), "it needs more than 32 MB of memory"},
		"a window of 512 MB": {windowed(512 << 20), "it needs more than 32 MB of memory"},
		"xz":                 {testLayer{[]byte("a tar"), []byte("\xfd7zXZ\x00 and so on"), imgspecv1.MediaTypeImageLayer}, "gzip, zstd or bzip2 only"},
	} {
		t.Run(name, func(t *testing.T) {
			reg := newTestRegistry(t)
			reg.image("v1", "amd64", c.layer)
			_, err := Pull(t.Context(), st, reg.host()+"/a:v1", Options{})
			if (err != nil) != (c.fails != "") || err != nil && !strings.Contains(err.Error(), c.fails) {
				t.Errorf("got %v, want %q", err, c.fails)
			}
			noLeftovers(t, layers)
		})
	}
}
