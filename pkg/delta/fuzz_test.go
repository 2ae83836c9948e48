package delta

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
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
