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
		for col := range s {
			for n := g.IntN(size); len(s[col]) < n; {
				switch g.IntN(5) {
				case 0:
					s[col] = append(s[col], make([]byte, g.IntN(3000))...)
				case 1:
					pool = append(g.content(), pool[:min(len(pool), 1<<20)]...)
					fallthrough
				case 2:
					at := g.IntN(len(pool) + 1)
					s[col] = append(s[col], pool[at:min(len(pool), at+g.IntN(5000))]...)
				case 3:
					for range g.IntN(300) {
						s[col] = binary.LittleEndian.AppendUint32(s[col], g.Uint32N(1<<g.IntN(31)))
					}
				default:
					s[col] = append(s[col], g.words[g.IntN(len(g.words))]...)
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
			s[colData] = bytes.Repeat([]byte{byte(i)}, 3<<20)
			s[colDense] = bytes.Clone(slices.Concat(blocks[len(blocks)-1-i%3][:]...))
			s[colData] = append(s[colData], s[colDense]...)
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
			raw, coded := 0, 0
			for i, s := range blocks {
				comp, err := enc.encode(&s)
				if err != nil {
					t.Fatal(err)
				}
				var sizes [numColumns]int
				for j := range s {
					sizes[j] = len(s[j])
				}
				var got [numColumns][]byte
				if err := dec.decode(comp, &got, &sizes); err != nil {
					t.Fatalf("codec %d level %d block %d: %v", codec, level, i, err)
				}
				for j := range s {
					if !bytes.Equal(s[j], got[j]) {
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
			for _, c := range s {
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
		var cols [numColumns][]byte
		for range 2 {
			if err := dec.decode(b[1+2*numColumns:], &cols, &sizes); err != nil {
				return
			}
		}
	})
}
