package delta

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"
)

// blocksOf makes blocks whose columns are of several kinds, with repetitions
// across blocks.
func blocksOf(seed uint64, blocks, size int) []sheet {
	g := newGenerator(seed)
	var out []sheet
	pool := g.content()
	for range blocks {
		var s sheet
		for col := range s.cols {
			for n := g.IntN(size); len(s.cols[col]) < n; {
				switch g.IntN(5) {
				case 0:
					s.cols[col] = append(s.cols[col], make([]byte, g.IntN(3000))...)
				case 1:
					pool = append(g.content(), pool[:min(len(pool), 1<<20)]...)
					fallthrough
				case 2:
					at := g.IntN(len(pool) + 1)
					s.cols[col] = append(s.cols[col], pool[at:min(len(pool), at+g.IntN(5000))]...)
				case 3:
					for range g.IntN(300) {
						s.cols[col] = binary.LittleEndian.AppendUint32(s.cols[col], g.Uint32N(1<<g.IntN(31)))
					}
				default:
					s.cols[col] = append(s.cols[col], g.words[g.IntN(len(g.words))]...)
				}
			}
		}
		if s.size() > 0 && s.size() < maxBlockRaw {
			out = append(out, s)
		}
	}
	return out
}

func TestCodecs(t *testing.T) {
	blocks := append(blocksOf(1, 12, 5000), blocksOf(2, 6, 60000)...)
	if !testing.Short() {
		// more than the windows
		for i := range 7 {
			var s sheet
			s.cols[colData] = bytes.Repeat([]byte{byte(i)}, 2<<20)
			s.cols[colDense] = bytes.Clone(slices.Concat(blocks[len(blocks)-1-i%3].cols[:]...))
			s.cols[colData] = append(s.cols[colData], s.cols[colDense]...)
			blocks = append(blocks, s)
		}
	}
	for _, codec := range []byte{codecZstd, codecLZ} {
		for _, level := range []int{1, 0} {
			enc, err := newBlockEncoder(codec, level)
			if err != nil {
				t.Fatal(err)
			}
			dec, err := newBlockDecoder(codec)
			if err != nil {
				t.Fatal(err)
			}
			raw, coded, got := 0, 0, cursor{dec: dec}
			for i, s := range blocks {
				comp, err := enc.encode(&s)
				if err != nil {
					t.Fatal(err)
				}
				var sizes [numColumns]int
				for j := range s.cols {
					sizes[j] = len(s.cols[j])
				}
				if err := got.begin(comp, &sizes); err != nil {
					t.Fatalf("codec %d level %d block %d: %v", codec, level, i, err)
				}
				for j := range s.cols {
					if !bytes.Equal(s.cols[j], got.bytes(j, sizes[j])) || got.err != nil {
						t.Fatalf("codec %d level %d block %d column %d differs", codec, level, i, j)
					}
				}
				raw, coded = raw+s.size(), coded+len(comp)
			}
			t.Logf("codec %d level %d: %d of %d", codec, level, coded, raw)
		}
	}
}

// FuzzColumns: no bytes make the decoder of columns panic.
func FuzzColumns(f *testing.F) {
	for _, s := range blocksOf(3, 4, 300) {
		for codec := byte(codecZstd); codec <= codecLZ; codec++ {
			enc, _ := newBlockEncoder(codec, 0)
			comp, _ := enc.encode(&s)
			head := []byte{codec}
			for _, c := range s.cols {
				head = binary.LittleEndian.AppendUint16(head, uint16(len(c)))
			}
			f.Add(append(head, comp...))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < 1+2*numColumns {
			return
		}
		dec, err := newBlockDecoder(b[0])
		if err != nil {
			return
		}
		var sizes [numColumns]int
		for i := range sizes {
			sizes[i] = int(binary.LittleEndian.Uint16(b[1+2*i:]))
		}
		c := cursor{dec: dec}
		for range 2 {
			if err := c.begin(b[1+2*numColumns:], &sizes); err != nil {
				return
			}
			for col, n := range sizes {
				c.bytes(col, n)
			}
		}
	})
}
