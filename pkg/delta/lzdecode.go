package delta

import (
	"encoding/binary"
)

// A lzDecoder undoes the coding of one column.
type lzDecoder struct {
	lzState
	window int
	hist   []byte // before this block, up to the window

	in   []byte
	code uint32
	rng  uint32
	over bool // read beyond the end of the input
}

// lzBlockDecoder decodes blocks whose columns are coded each on its own.
type lzBlockDecoder struct {
	cols [numColumns]*lzDecoder
	buf  []byte
}

func (d *lzBlockDecoder) decode(comp []byte, cols *[numColumns][]byte, sizes *[numColumns]int) error {
	total := 0
	for _, n := range sizes {
		total += n
	}
	if cap(d.buf) < total {
		d.buf = make([]byte, total)
	}
	buf := d.buf[:total]
	for i, n := range sizes {
		cols[i] = nil
		if n == 0 {
			continue
		}
		if d.cols[i] == nil {
			d.cols[i] = &lzDecoder{lzState: *newLZState(i), window: window(i)}
		}
		out := buf[:0:n]
		buf = buf[n:]
		for len(out) < n {
			code, k := binary.Uvarint(comp)
			if k <= 0 || code>>1 == 0 || code>>1 > uint64(n-len(out)) {
				return formatErr("part of column %d out of bounds", i)
			}
			comp = comp[k:]
			size := int(code >> 1)
			used := size
			if code&1 == 0 {
				if len(comp) < size {
					return formatErr("column %d ends early", i)
				}
				out = append(out, comp[:size]...)
			} else {
				v, k := binary.Uvarint(comp)
				if k <= 0 || v > uint64(len(comp)-k) {
					return formatErr("column %d ends early", i)
				}
				comp = comp[k:]
				used = int(v)
				var ok bool
				if out, ok = d.cols[i].part(out, comp[:used], size); !ok {
					return formatErr("column %d does not decode", i)
				}
			}
			comp = comp[used:]
		}
		cols[i] = out
		d.cols[i].keep(out)
	}
	if len(comp) > 0 {
		return formatErr("block is longer than it says")
	}
	return nil
}

// keep moves the window on.
func (d *lzDecoder) keep(out []byte) {
	if len(out) >= d.window {
		d.hist = append(d.hist[:0], out[len(out)-d.window:]...)
		return
	}
	if drop := len(d.hist) + len(out) - d.window; drop > 0 {
		d.hist = d.hist[:copy(d.hist, d.hist[drop:])]
	}
	if need := len(d.hist) + len(out); cap(d.hist) < need {
		grown := make([]byte, len(d.hist), min(d.window, max(2*cap(d.hist), need)))
		copy(grown, d.hist)
		d.hist = grown
	}
	d.hist = append(d.hist, out...)
}

func (d *lzDecoder) shift() {
	d.rng <<= 8
	d.code <<= 8
	if len(d.in) > 0 {
		d.code |= uint32(d.in[0])
		d.in = d.in[1:]
	} else {
		d.over = true
	}
}

func (d *lzDecoder) bit(p *uint16) int {
	bound := d.rng >> probBits * uint32(*p)
	if d.code < bound {
		d.rng = bound
		*p += (1<<probBits - *p) >> probMove
		if d.rng < 1<<24 {
			d.shift()
		}
		return 0
	}
	d.rng -= bound
	d.code -= bound
	*p -= *p >> probMove
	if d.rng < 1<<24 {
		d.shift()
	}
	return 1
}

func (d *lzDecoder) tree(probs []uint16, n int) int {
	m := 1
	for range n {
		m = m<<1 | d.bit(&probs[m])
	}
	return m - 1<<n
}

func (d *lzDecoder) length(m *lenModel, pos uint32) int {
	if d.bit(&m.choice) == 0 {
		return d.tree(m.low[pos][:], 3)
	}
	if d.bit(&m.choice2) == 0 {
		return lenLow + d.tree(m.mid[pos][:], 3)
	}
	return lenLow + lenMid + d.tree(m.high[:], 8)
}

func (d *lzDecoder) distance(n int) uint32 {
	slot := d.tree(d.slot[lenState(n)][:], 6)
	if slot < startPosModel {
		return uint32(slot)
	}
	direct := slot>>1 - 1
	dist := uint32(2|slot&1) << direct
	if slot < endPosModel {
		m, base := 1, int(dist)-slot
		for i := range direct {
			b := d.bit(&d.special[base+m])
			m = m<<1 | b
			dist |= uint32(b) << i
		}
		return dist
	}
	var v uint32
	for range direct - alignBits {
		d.rng >>= 1
		v <<= 1
		if d.code >= d.rng {
			d.code -= d.rng
			v |= 1
		}
		if d.rng < 1<<24 {
			d.shift()
		}
	}
	dist |= v << alignBits
	m := 1
	for i := range alignBits {
		b := d.bit(&d.align[m])
		m = m<<1 | b
		dist |= uint32(b) << i
	}
	return dist
}

// part decodes size bytes, which are appended to out; there is room for them.
func (d *lzDecoder) part(out, in []byte, size int) ([]byte, bool) {
	if len(in) < 4 {
		return out, false
	}
	d.code, d.rng, d.in, d.over = binary.BigEndian.Uint32(in), 1<<32-1, in[4:], false
	end := len(out) + size
	for len(out) < end {
		pos := uint32(len(out)) & d.posMask
		if d.bit(&d.isMatch[d.state][pos]) == 0 {
			out = append(out, d.literalByte(out))
			d.state = afterLiteral(d.state)
			continue
		}
		var n int
		if d.bit(&d.isRep[d.state]) == 0 {
			n = minMatch + d.length(&d.matchLen, pos)
			dist := d.distance(n)
			d.reps = [4]uint32{dist, d.reps[0], d.reps[1], d.reps[2]}
			d.state = afterMatch(d.state)
		} else {
			if d.bit(&d.isRep0[d.state]) == 0 {
				if d.bit(&d.isRep0Long[d.state][pos]) == 0 {
					n = 1
				}
			} else if d.bit(&d.isRep1[d.state]) == 0 {
				d.reps[0], d.reps[1] = d.reps[1], d.reps[0]
			} else if d.bit(&d.isRep2[d.state]) == 0 {
				d.reps[0], d.reps[1], d.reps[2] = d.reps[2], d.reps[0], d.reps[1]
			} else {
				d.reps = [4]uint32{d.reps[3], d.reps[0], d.reps[1], d.reps[2]}
			}
			if n == 1 {
				d.state = afterShortRep(d.state)
			} else {
				n = minMatch + d.length(&d.repsLen, pos)
				d.state = afterRep(d.state)
			}
		}
		// The distance has to fit an int of 32 bits, too.
		if n > end-len(out) || d.over || uint64(d.reps[0]) >= uint64(d.window) {
			return out, false
		}
		var ok bool
		if out, ok = d.copy(out, int(d.reps[0])+1, n); !ok {
			return out, false
		}
	}
	return out, !d.over && len(d.in) == 0
}

func (d *lzDecoder) at(out []byte, dist int) byte {
	if i := len(out) - dist; i >= 0 {
		return out[i]
	} else if i += len(d.hist); i >= 0 {
		return d.hist[i]
	}
	return 0
}

func (d *lzDecoder) literalByte(out []byte) byte {
	probs := d.literal[0x300*(int(d.at(out, 1))>>(8-literalBits)):][:0x300]
	m := 1
	if d.state >= 7 {
		match := int(d.at(out, int(d.reps[0])+1))
		for m < 0x100 {
			match <<= 1
			want := match & 0x100
			b := d.bit(&probs[0x100+want+m])
			m = m<<1 | b
			if want>>8 != b {
				break
			}
		}
	}
	for m < 0x100 {
		m = m<<1 | d.bit(&probs[m])
	}
	return byte(m)
}

func (d *lzDecoder) copy(out []byte, dist, n int) ([]byte, bool) {
	if dist > d.window || dist > len(out)+len(d.hist) {
		return out, false
	}
	if from := dist - len(out); from > 0 {
		part := d.hist[len(d.hist)-from:]
		part = part[:min(n, len(part))]
		out = append(out, part...)
		n -= len(part)
	}
	for n > 0 {
		i := len(out) - dist
		part := out[i:min(len(out), i+n)]
		out = append(out, part...)
		n -= len(part)
	}
	return out, true
}
