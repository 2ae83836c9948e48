package delta

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"math/bits"
)

// rsBlock is the size of a block of the base, balena-engine's.
const rsBlock = 512

// A LibrsyncBase is what is remembered of a base to make librsync deltas against
// it: a digest of each of its blocks. It takes 28 to 36 bytes for a block of 512.
//
// balena-engine makes its deltas by a signature with BLAKE2b-256, which never
// leaves the machine; what one is made by makes no difference to the delta.
type LibrsyncBase struct {
	weak   []uint32
	strong [][16]byte
	table  []uint32 // numbers of blocks plus one, by weak; open addressing
}

// NewLibrsyncBase reads a base to its end.
func NewLibrsyncBase(ctx context.Context, base io.Reader) (*LibrsyncBase, error) {
	b := &LibrsyncBase{}
	in := bufio.NewReaderSize(base, 64<<10)
	block := make([]byte, rsBlock)
	for n := 0; ; n++ {
		if n%(1<<14) == 0 && ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		_, err := io.ReadFull(in, block)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break // what is left is no block
		}
		if err != nil {
			return nil, err
		}
		b.weak = append(b.weak, rollOf(block).weak())
		b.strong = append(b.strong, strongOf(block))
	}
	b.table = make([]uint32, 1<<bits.Len(uint(2*len(b.weak))))
	for i := range b.weak {
		if at := b.slot(b.weak[i], &b.strong[i]); b.table[at] == 0 {
			b.table[at] = uint32(i + 1)
		}
	}
	return b, nil
}

func strongOf(block []byte) [16]byte {
	sum := sha256.Sum256(block)
	return [16]byte(sum[:])
}

// slot is where a block is in the table, or would be.
func (b *LibrsyncBase) slot(weak uint32, strong *[16]byte) uint32 {
	mask := uint32(len(b.table) - 1)
	for at := weak & mask; ; at = (at + 1) & mask {
		if n := b.table[at]; n == 0 || b.weak[n-1] == weak && b.strong[n-1] == *strong {
			return at
		}
	}
}

// find gives the number of a block with the content of window, next if that is
// one of them.
func (b *LibrsyncBase) find(weak uint32, window []byte, next int64) (int64, bool) {
	mask := uint32(len(b.table) - 1)
	for at := weak & mask; ; at = (at + 1) & mask {
		n := b.table[at]
		if n == 0 {
			return 0, false
		}
		if b.weak[n-1] == weak {
			break
		}
	}
	strong := strongOf(window)
	if next < int64(len(b.weak)) && b.weak[next] == weak && b.strong[next] == strong {
		return next, true
	}
	n := b.table[b.slot(weak, &strong)]
	return int64(n) - 1, n > 0
}

// A roll is a sum over a window of rsBlock bytes that can be moved on by one.
type roll uint64

const rollBy = 0x9e3779b97f4a7c15

// rollOut is rollBy to the power of rsBlock.
var rollOut = func() uint64 {
	p := uint64(1)
	for range rsBlock {
		p *= rollBy
	}
	return p
}()

func rollOf(window []byte) roll {
	var h uint64
	for _, c := range window {
		h = h*rollBy + uint64(c) + 1
	}
	return roll(h)
}

func (h roll) move(out, in byte) roll {
	return roll(uint64(h)*rollBy + uint64(in) + 1 - (uint64(out)+1)*rollOut)
}

func (h roll) weak() uint32 { return uint32(h >> 32) }

// Delta writes the librsync delta that makes target of the base. The same inputs
// give the same bytes. It keeps 256 kB besides the base's digests.
func (b *LibrsyncBase) Delta(ctx context.Context, target io.Reader, w io.Writer) error {
	out := &librsyncWriter{w: bufio.NewWriterSize(w, 64<<10)}
	out.number(librsyncMagic, 2)
	buf := make([]byte, 0, 256<<10)
	done, at := 0, 0 // what is written, and where the window begins
	var sum roll
	rolled := false
	for {
		if len(buf)-at < rsBlock {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			out.literal(buf[done:at])
			n := copy(buf, buf[at:])
			m, err := io.ReadFull(target, buf[n:cap(buf)])
			if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				return err
			}
			buf, done, at, rolled = buf[:n+m], 0, 0, false
			if len(buf) < rsBlock {
				out.literal(buf)
				return out.end()
			}
		}
		window := buf[at : at+rsBlock]
		if !rolled {
			sum, rolled = rollOf(window), true
		}
		if n, ok := b.find(sum.weak(), window, (out.at+out.n)/rsBlock); ok {
			out.literal(buf[done:at])
			out.copy(n*rsBlock, rsBlock)
			at += rsBlock
			done, rolled = at, false
			continue
		}
		if at+rsBlock < len(buf) {
			sum = sum.move(buf[at], buf[at+rsBlock])
		} else {
			rolled = false
		}
		at++
	}
}

// A librsyncWriter writes commands, neighbouring copies as one.
type librsyncWriter struct {
	w     *bufio.Writer // keeps the first error
	at, n int64         // the last copy, written only when it ended
	open  bool
}

func (w *librsyncWriter) number(v uint64, width int) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], v)
	_, _ = w.w.Write(b[8-1<<width:])
}

// widthOf says how wide a number has to be.
func widthOf(v int64) int {
	switch {
	case v < 1<<8:
		return 0
	case v < 1<<16:
		return 1
	case v < 1<<32:
		return 2
	}
	return 3
}

func (w *librsyncWriter) literal(p []byte) {
	if len(p) == 0 {
		return
	}
	w.flush()
	if len(p) <= rsLiteral64 {
		_ = w.w.WriteByte(byte(len(p)))
	} else {
		width := widthOf(int64(len(p)))
		_ = w.w.WriteByte(rsLiteralN + byte(width))
		w.number(uint64(len(p)), width)
	}
	_, _ = w.w.Write(p)
}

func (w *librsyncWriter) copy(at, n int64) {
	if w.open && at == w.at+w.n {
		w.n += n
		return
	}
	w.flush()
	w.at, w.n, w.open = at, n, true
}

// flush writes the copy that has ended; where it ended is still remembered.
func (w *librsyncWriter) flush() {
	if !w.open {
		return
	}
	w.open = false
	from, length := widthOf(w.at), widthOf(w.n)
	_ = w.w.WriteByte(rsCopy + byte(4*from+length))
	w.number(uint64(w.at), from)
	w.number(uint64(w.n), length)
}

func (w *librsyncWriter) end() error {
	w.flush()
	_ = w.w.WriteByte(rsEnd)
	return w.w.Flush()
}
