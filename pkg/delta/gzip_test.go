package delta

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

func regzip(b []byte, level, step int) []byte {
	var z gzipper
	z.reset(level)
	out := []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3}
	if level == 9 {
		out[8] = 2
	}
	for len(b) > 0 {
		n := min(step, len(b))
		out = z.write(out, b[:n])
		b = b[n:]
	}
	return z.finish(out)
}

// TestGzip: the same bytes as the gzip program's.
func TestGzip(t *testing.T) {
	if _, err := exec.LookPath("gzip"); err != nil {
		t.Skip("needs gzip")
	}
	g := newGenerator(21)
	inputs := [][]byte{{}, {1}, []byte("ab"), bytes.Repeat([]byte("x"), 70000), make([]byte, 65536), make([]byte, 65400)}
	for range 40 {
		inputs = append(inputs, g.content())
	}
	for range 8 {
		var b []byte
		for n := g.IntN(900000); len(b) < n; {
			b = append(b, g.content()...)
		}
		inputs = append(inputs, b)
	}
	for i, b := range inputs {
		for _, level := range []int{9, 6, 4} {
			cmd := exec.Command("gzip", "-n", "-"+strconv.Itoa(level), "-c", filepath.Join(t.TempDir(), "f"))
			if err := os.WriteFile(cmd.Args[len(cmd.Args)-1], b, 0o600); err != nil {
				t.Fatal(err)
			}
			want, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			got := regzip(b, level, 1+g.IntN(70000))
			if !bytes.Equal(got, want) {
				r, _ := gzip.NewReader(bytes.NewReader(got))
				back, err := io.ReadAll(r)
				t.Errorf("input %d of %d bytes, level %d: %d bytes instead of %d; it holds the input: %v, %v",
					i, len(b), level, len(got), len(want), bytes.Equal(back, b), err)
			}
		}
	}
}
