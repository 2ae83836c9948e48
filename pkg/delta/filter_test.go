package delta

import (
	"bytes"
	"os"
	"testing"
)

// TestFilters: what is filtered comes back, whatever it is and however it is cut.
func TestFilters(t *testing.T) {
	g := newGenerator(31)
	code, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	inputs := [][]byte{nil, {0xe8}, {0xe8, 1, 2, 3, 0}, code[:min(len(code), 3<<20)]}
	for range 30 {
		b := make([]byte, g.IntN(100000))
		for i := range b {
			b[i] = []byte{0xe8, 0xe9, 0x0f, 0x84, 0, 0xff, 0x94, 0x97, 0x90, 0xb0, byte(g.Uint32())}[g.IntN(11)]
		}
		inputs = append(inputs, b)
	}
	for f := range filter(numFilters) {
		changed := 0
		for i, b := range inputs {
			c := bytes.Clone(b)
			f.encode(c, 0)
			if !bytes.Equal(b, c) {
				changed++
			}
			for at := 0; at < len(c); at += 2 * filterChunk {
				f.decode(c[at:min(len(c), at+2*filterChunk)], uint64(at))
			}
			if !bytes.Equal(b, c) {
				t.Errorf("filter %d, input %d of %d bytes differs", f, i, len(b))
			}
		}
		if (changed == 0) != (f == filterNone) {
			t.Errorf("filter %d changed %d inputs", f, changed)
		}
	}
}
