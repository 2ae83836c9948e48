package delta

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"strings"
	"testing"
)

// FuzzOpen: no delta makes a Reader panic, or take memory beyond its limits.
func FuzzOpen(f *testing.F) {
	g := newGenerator(11)
	files := g.image(10)
	base := tarSource(f, pack(f, files))
	f.Add(create(f, base, pack(f, g.change(files))))
	f.Add(create(f, base, pack(f, g.image(3)), pack(f, g.change(files))))
	f.Fuzz(func(t *testing.T, b []byte) { drain(t, b, base) })
}

func drain(t *testing.T, b []byte, base FileSource) {
	r, err := Open(bytes.NewReader(b), base)
	if err != nil {
		return
	}
	for {
		if _, err := r.Next(); err != nil {
			return
		}
		if _, err := io.CopyN(io.Discard, r, 16<<20); err != nil && !errors.Is(err, io.EOF) {
			return
		} else if err == nil {
			return // a delta may well ask for endless zeros
		}
	}
}

// FuzzMutated changes bytes of a sound delta and puts the checksums right again, so
// that what is changed gets as far as the decoders of columns: the input is a
// list of places and of what is added to the bytes there.
func FuzzMutated(f *testing.F) {
	base, tars := mutable(f)
	d := create(f, base, tars...)
	f.Add([]byte{0, 0, 0})
	f.Add([]byte{0, 60, 1, 1, 0, 0x80})
	for i := range 40 {
		f.Add(binary.BigEndian.AppendUint16(nil, uint16(i*len(d)/40))[:2:2])
	}
	f.Fuzz(func(t *testing.T, edits []byte) {
		b := bytes.Clone(d)
		for ; len(edits) >= 3; edits = edits[3:] {
			b[int(binary.BigEndian.Uint16(edits))%len(b)] += edits[2]
		}
		fixSums(b)
		drain(t, b, base)
	})
}

// mutable is a base and layers that take every way of the format.
func mutable(t testing.TB) (*TarSource, [][]byte) {
	g := newGenerator(14)
	files := g.image(6)
	text := strings.Repeat("what a line of a program may look like;\n", 200)
	fresh := text[:3000] + strings.Repeat("something quite different\n", 9) + strings.ToUpper(text[3000:5000]) + text[5500:]
	files = append(files, reg("z/text", text), reg("z/doc.gz", string(regzip([]byte(text), 9, 1<<20))))
	base := tarSource(t, pack(t, files))
	changed := append(g.change(files), reg("z/text", fresh), reg("z/doc.gz", string(regzip([]byte(fresh), 9, 1<<20))))
	return base, [][]byte{pack(t, changed), pack(t, g.image(2))}
}

// fixSums puts the checksums of a delta's blocks right, as far as it is whole.
func fixSums(b []byte) {
	at := len(magic) + 2
	number := func() (v uint64) {
		v, n := binary.Uvarint(b[min(at, len(b)):])
		at += max(n, 1)
		return v
	}
	for range min(number(), maxLayers) {
		at += 32
		number()
	}
	for at < len(b) && b[at] == frameBlock {
		at++
		from := at
		for range numColumns {
			number()
		}
		n := number()
		if at+4 > len(b) || n > uint64(len(b)-at-4) {
			return
		}
		sum := crc32.Update(crc32.Checksum(b[from:at], castagnoli), castagnoli, b[at+4:at+4+int(n)])
		binary.LittleEndian.PutUint32(b[at:], sum)
		at += 4 + int(n)
	}
}

// FuzzOperations goes past checksums and compression: the input is the columns
// of one block.
func FuzzOperations(f *testing.F) {
	g := newGenerator(12)
	files := g.image(10)
	base := tarSource(f, pack(f, files))
	for _, fresh := range [][]file{g.change(files), g.image(3)} {
		b := create(f, base, pack(f, fresh))
		r, err := Open(bytes.NewReader(b), base)
		if err != nil {
			f.Fatal(err)
		}
		if err := r.in.readBlock(&r.c); err != nil {
			f.Fatal(err)
		}
		var flat []byte
		for i := range r.c.cols {
			r.c.need(i, maxBlockRaw)
			col := r.c.cols[i]
			flat = binary.AppendUvarint(flat, uint64(len(col)))
			flat = append(flat, col...)
		}
		f.Add(flat)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var s sheet
		for i := range s.cols {
			n, k := binary.Uvarint(b)
			if k <= 0 || n > uint64(len(b)-k) {
				return
			}
			s.cols[i], b = b[k:k+int(n)], b[k+int(n):]
		}
		if s.size() == 0 {
			return
		}
		var out bytes.Buffer
		enc, err := newBlockEncoder(codecLZ, 1)
		if err != nil {
			t.Fatal(err)
		}
		out.WriteString(magic)
		out.Write([]byte{Version, codecLZ, 1})
		out.Write(binary.AppendUvarint(make([]byte, 32), 1<<30))
		if err := writeBlock(&out, enc, &s); err != nil {
			t.Fatal(err)
		}
		out.WriteByte(frameEnd)
		drain(t, out.Bytes(), base)
	})
}

// FuzzCreate: whatever the bytes of a layer are, they come back.
func FuzzCreate(f *testing.F) {
	g := newGenerator(13)
	files := g.image(8)
	base := tarSource(f, pack(f, files))
	f.Add(pack(f, g.change(files)))
	f.Add(gnuSparse(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<20 {
			return
		}
		// Whole headers stay headers: fix their checksums.
		b = bytes.Clone(b)
		for at := 0; at+512 <= len(b); at += 512 {
			if bytes.HasPrefix(b[at+257:], []byte("ustar")) {
				copy(b[at+148:], checksum(b[at:at+512]))
			}
		}
		roundTrip(t, base, b)
	})
}
