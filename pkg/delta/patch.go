package delta

import (
	"fmt"
	"hash/crc32"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// A plan is how a file is to be made.
type plan struct {
	how    byte
	from   string // the base file
	old    []byte // what is in it
	pieces []piece
	dense  bool
	dict   byte // of new content: whether from is its dictionary (way...)
	filter filter

	gz      *gzipped // what is to be made is compressed
	inflate bool     // old is what from holds, inflated
}

func (p *plan) way() byte {
	way := p.dict | byte(p.filter)<<2
	if p.gz != nil {
		way |= wayGzip
	}
	if p.inflate {
		way |= wayInflate
	}
	return way
}

// cost is about how much a patch takes.
func (p *plan) cost(content []byte) int {
	s := p.sheet(content)
	n := 8
	for _, col := range s.cols {
		n += estimate(col)
	}
	return n
}

// sheet writes a patch by itself.
func (p *plan) sheet(content []byte) *sheet {
	s := &sheet{}
	pw := patchWriter{s: s, room: func() error { return nil }, old: p.old, size: int64(len(p.old)), left: int64(len(content)), dense: p.dense}
	_ = pw.write(p.pieces, content) // fails only if room does
	return s
}

var estimator = sync.OnceValue(func() *zstd.Encoder {
	enc, _ := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false),
		zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithSingleSegment(true))
	return enc
})

// estimate is about how much b takes once compressed.
func estimate(b []byte) int {
	if len(b) < 16 {
		return len(b)
	}
	return max(0, len(estimator().EncodeAll(b, nil))-8)
}

// read loads a base file.
func (ix *index) read(id int) ([]byte, error) {
	f, err := ix.src.Open(ix.files[id].path)
	if err == nil {
		defer f.Close()
		b := make([]byte, ix.files[id].size)
		if _, err = io.ReadFull(io.NewSectionReader(f, 0, int64(len(b))), b); err == nil {
			return b, nil
		}
	}
	return nil, fmt.Errorf("reading base file %q: %w", "/"+ix.files[id].path, err)
}

// A patchWriter writes the operations of a patch.
type patchWriter struct {
	s     *sheet
	room  func() error
	old   []byte // the base file, or a window of it
	at    int64  // where in the file that begins
	size  int64  // of the file
	pos   int64  // in the file
	seek  int64  // to do before the next copy
	left  int64  // of the file
	dense bool
	crc   uint32 // over what was copied, before the differences
}

// exactRun is the length from which equal bytes within a dense copy make a copy
// of their own.
const exactRun = 4096

// write writes the pieces that make content, the next part of the file.
func (w *patchWriter) write(list []piece, content []byte) error {
	for _, p := range list {
		w.seek += p.seek
		if p.copy > 0 {
			if err := w.copy(content[:p.copy], content[p.copy:][:p.add]); err != nil {
				return err
			}
			content = content[p.copy:]
		} else if p.add > 0 {
			if err := w.insert(content[:p.add]); err != nil {
				return err
			}
		}
		content = content[p.add:]
	}
	return nil
}

// copy writes copies that make b, the last one with the insertion of add.
func (w *patchWriter) copy(b, add []byte) error {
	old := w.old[w.pos+w.seek-w.at:][:len(b)]
	w.crc = crc32.Update(w.crc, castagnoli, old)
	for len(b) > 0 {
		n, kind := len(b), byte(patchExact)
		if same := matchLen(old, b); same < n {
			if same >= exactRun || same > 0 && w.dense && same >= 64 {
				n = same
			} else {
				n, kind = min(n, maxDiffCopy), patchSparse
				if w.dense {
					n, kind = denseRun(old[:n], b[:n]), patchDense
				}
			}
		}
		if err := w.room(); err != nil {
			return err
		}
		var tail []byte
		if n == len(b) {
			tail = add
		}
		w.begin(patchOp|kind, len(tail) > 0)
		if rest := min(w.left, w.size-w.pos); int64(n) == rest {
			w.s.uint(colCopy, 0)
		} else {
			w.s.uint(colCopy, uint64(n))
		}
		w.differ(kind, old[:n], b[:n])
		w.pos += int64(n)
		w.left -= int64(n)
		old, b = old[n:], b[n:]
		if len(tail) > 0 {
			first := tail[:min(len(tail), litPiece)]
			w.add(first)
			if err := w.insert(tail[len(first):]); err != nil {
				return err
			}
		}
	}
	return nil
}

// denseRun is how long a copy with a difference for every byte goes on: up to
// a long stretch without any.
func denseRun(old, b []byte) int {
	for i, same := 0, 0; i < len(b); i++ {
		if old[i] != b[i] {
			same = 0
		} else if same++; same == exactRun {
			return i + 1 - same
		}
	}
	return len(b)
}

// begin writes an operation's first byte and its seek.
func (w *patchWriter) begin(op byte, add bool) {
	if add {
		op |= patchAdd
	}
	if w.seek != 0 && op&patchKind != 0 {
		op |= patchSeek
	}
	w.s.byte(colOps, op)
	if op&patchSeek != 0 {
		w.s.int(colSeek, w.seek)
		w.pos += w.seek
		w.seek = 0
	}
}

func (w *patchWriter) differ(kind byte, old, b []byte) {
	switch kind {
	case patchDense:
		for i := range b {
			w.s.byte(colDense, b[i]-old[i])
		}
	case patchSparse:
		n, gap := 0, 0
		for i := range b {
			if old[i] != b[i] {
				n++
			}
		}
		w.s.uint(colGap, uint64(n))
		for i := range b {
			if old[i] == b[i] {
				gap++
				continue
			}
			w.s.uint(colGap, uint64(gap))
			w.s.byte(colSparse, b[i]-old[i])
			gap = 0
		}
	}
}

// insert writes operations that only insert.
func (w *patchWriter) insert(b []byte) error {
	for len(b) > 0 {
		if err := w.room(); err != nil {
			return err
		}
		n := min(len(b), litPiece)
		w.begin(patchOp, true)
		w.add(b[:n])
		b = b[n:]
	}
	return nil
}

func (w *patchWriter) add(b []byte) {
	w.s.uint(colAdd, uint64(len(b)-1))
	w.s.bytes(colData, b)
	w.left -= int64(len(b))
}
