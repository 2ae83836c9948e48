package delta

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// layerOf wraps bytes, which need not be a tar.
func layerOf(b []byte) LayerTar {
	return LayerTar{
		DiffID: digest.FromBytes(b),
		Open:   func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil },
	}
}

func layersOf(tars ...[]byte) []LayerTar {
	var out []LayerTar
	for _, b := range tars {
		out = append(out, layerOf(b))
	}
	return out
}

// A file of a generated image.
type file struct {
	tar.Header
	data []byte
}

// pack writes files as a tar.
func pack(t testing.TB, files []file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := f.Header
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(f.data))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatalf("%s: %v", h.Name, err)
		}
		if _, err := w.Write(f.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

type generator struct {
	*rand.Rand
	words []string
}

func newGenerator(seed uint64) *generator {
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 1))}
	for range 300 {
		w := make([]byte, 2+g.IntN(8))
		for i := range w {
			w[i] = byte('a' + g.IntN(26))
		}
		g.words = append(g.words, string(w))
	}
	return g
}

func (g *generator) content() []byte {
	var b []byte
	n := g.IntN(1 << g.IntN(18))
	switch g.IntN(4) {
	case 0: // random
		b = make([]byte, n)
		for i := range b {
			b[i] = byte(g.Uint32())
		}
	case 1: // zeros
		b = make([]byte, n)
	default: // text
		for len(b) < n {
			b = append(append(b, g.words[g.IntN(len(g.words))]...), " \n"[g.IntN(2)])
		}
	}
	return b
}

// image makes files in the order of a walk, of every kind that tar has.
func (g *generator) image(n int) []file {
	var out []file
	format := []tar.Format{tar.FormatPAX, tar.FormatGNU, tar.FormatUnknown}[g.IntN(3)]
	now := time.Unix(1700000000+int64(g.IntN(1e6)), 0)
	var walk func(dir string, n int)
	walk = func(dir string, n int) {
		for i := 0; i < n; i++ {
			name := dir + fmt.Sprintf("%03d-", i) + g.words[g.IntN(len(g.words))]
			if g.IntN(20) == 0 {
				name += strings.Repeat("-long", 10+g.IntN(40))
			}
			if g.IntN(30) == 0 {
				name += "-ü\u2028"
			}
			h := tar.Header{Name: name, Mode: 0o644, ModTime: now.Add(time.Duration(g.IntN(5)) * time.Second), Uname: "root", Format: format}
			if g.IntN(10) == 0 {
				h.Mode, h.Uid, h.Gid = 0o4755, g.IntN(70000), g.IntN(5)
			}
			if format == tar.FormatPAX && g.IntN(10) == 0 {
				h.PAXRecords = map[string]string{"SCHILY.xattr.user.a": string(g.content()[:0]) + "v\x00\n=", "SCHILY.xattr.security.capability": "\x01\x00\x00\x02"}
			}
			if format == tar.FormatPAX && g.IntN(10) == 0 {
				h.ModTime = h.ModTime.Add(123456 * time.Microsecond)
			}
			var data []byte
			switch k := g.IntN(20); {
			case k < 3 && len(dir) < 200:
				h.Typeflag, h.Name, h.Mode = tar.TypeDir, name+"/", 0o755
				out = append(out, file{h, nil})
				walk(name+"/", 1+g.IntN(10))
				i += 3
				continue
			case k == 4:
				h.Typeflag, h.Linkname = tar.TypeSymlink, "../"+g.words[0]+strings.Repeat("/x", g.IntN(80))
			case k == 5 && len(out) > 0 && out[len(out)-1].Typeflag == tar.TypeReg:
				h.Typeflag, h.Linkname = tar.TypeLink, out[len(out)-1].Name
			case k == 6:
				h.Typeflag, h.Devmajor, h.Devminor = tar.TypeChar, 1, int64(g.IntN(300))
			case k == 7:
				h.Typeflag = tar.TypeFifo
			case k == 8:
				h.Typeflag, h.Name = tar.TypeReg, dir+".wh."+g.words[g.IntN(3)]
			default:
				h.Typeflag, data = tar.TypeReg, g.content()
			}
			out = append(out, file{h, data})
		}
	}
	walk("", n)
	return out
}

// change makes another version of an image.
func (g *generator) change(files []file) []file {
	var out []file
	for _, f := range files {
		switch g.IntN(12) {
		case 0: // gone
			if f.Typeflag != tar.TypeDir {
				continue
			}
		case 1: // edited
			if n := len(f.data); n > 0 && f.Typeflag == tar.TypeReg {
				b := bytes.Clone(f.data)
				at := g.IntN(n)
				b = append(append(b[:at:at], g.content()...), f.data[min(n, at+g.IntN(20)):]...)
				f.data = b
			}
		case 2: // a few bytes differ
			if len(f.data) > 0 {
				f.data = bytes.Clone(f.data)
				for range 1 + g.IntN(9) {
					f.data[g.IntN(len(f.data))]++
				}
			}
		case 3:
			f.Mode ^= 0o111
		case 4: // renamed
			if f.Typeflag == tar.TypeReg {
				f.Name += "-new"
			}
		case 5: // twice
			out = append(out, f)
		}
		f.ModTime = f.ModTime.Add(time.Hour)
		out = append(out, f)
	}
	return out
}
