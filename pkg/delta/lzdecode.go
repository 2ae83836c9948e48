package delta

import (
	"encoding/binary"
	"runtime"

	"golang.org/x/sys/unix"
)

// A lzDecoder undoes the coding of one column, part by part, as its bytes are
// asked for.
type lzDecoder struct {
	lzState
	window uint64

	ring  []byte // what was decoded, up to the window, as long as that
	pos   uint64 // bytes decoded in all
	start uint64 // of the current part
	dict  *dictionary
	at0   uint64 // where the dictionary was put in

	comp []byte // of this block, not decoded yet
	left int    // bytes that it still makes

	in   []byte
	code uint32
	rng  uint32
	over bool // read beyond the end of the input
}

// lzBlockDecoder decodes blocks whose columns are coded each on its own.
type lzBlockDecoder struct {
	cols [numColumns]lzDecoder
}

func (d *lzBlockDecoder) begin(comp []byte, cols *[numColumns][]byte, sizes *[numColumns]int) error {
	for i := range cols {
		c := &d.cols[i]
		c.left, c.comp, cols[i] = sizes[i], nil, cols[i][:0]
		rest := comp
		for n := c.left; n > 0; {
			size, kind, used, ok := partHead(rest)
			if !ok || size > n {
				return formatErr("part of column %d out of bounds", i)
			}
			rest = rest[used:]
			skip := size
			if kind != partRaw {
				v, k := binary.Uvarint(rest)
				if k <= 0 || v > uint64(len(rest)-k) {
					return formatErr("column %d ends early", i)
				}
				skip = k + int(v)
			}
			if skip > len(rest) {
				return formatErr("column %d ends early", i)
			}
			rest, n = rest[skip:], n-size
		}
		c.comp, comp = comp[:len(comp)-len(rest)], rest
	}
	if len(comp) > 0 {
		return formatErr("block is longer than it says")
	}
	return nil
}

// partHead reads the first number of a part: its size and its kind.
func partHead(b []byte) (size, kind, used int, ok bool) {
	v, k := binary.Uvarint(b)
	if k <= 0 || v>>2 == 0 || v>>2 > lzPart || v&3 > partReset {
		return 0, 0, 0, false
	}
	return int(v >> 2), int(v & 3), k, true
}

// more appends the next part of a column.
func (d *lzBlockDecoder) more(col int, out []byte) ([]byte, error) {
	c := &d.cols[col]
	if c.left == 0 {
		return out, nil
	}
	if c.window == 0 {
		c.window = uint64(window(col))
		c.ring = c.newRing()
	}
	defer runtime.KeepAlive(c) // and with it the ring
	size, kind, used, _ := partHead(c.comp)
	c.comp, c.left = c.comp[used:], c.left-size
	c.start = c.pos
	if kind == partRaw {
		c.store(c.comp[:size])
		c.comp = c.comp[size:]
	} else {
		v, k := binary.Uvarint(c.comp)
		in := c.comp[k : k+int(v)]
		c.comp = c.comp[k+int(v):]
		if kind == partReset {
			if len(in) == 0 {
				return out, formatErr("column %d does not decode", col)
			}
			props, ok := propsOf(in[0])
			if !ok {
				return out, formatErr("column %d has an unknown model", col)
			}
			c.lzState, in = newLZState(props), in[1:]
		}
		ok := c.literal != nil && c.part(in, size)
		if c.dict != nil && c.dict.err != nil {
			return out, c.dict.err
		}
		if !ok {
			return out, formatErr("column %d does not decode", col)
		}
	}
	mask := uint64(len(c.ring) - 1)
	from, to := c.start&mask, c.pos&mask
	if from < to {
		return append(out, c.ring[from:to]...), nil
	}
	return append(append(out, c.ring[from:]...), c.ring[:to]...), nil
}

// undecoded is how much of a column is not decoded yet.
func (d *lzBlockDecoder) undecoded(col int) int { return d.cols[col].left }

// setDict puts a dictionary into the data column's history, or takes it out.
func (d *lzBlockDecoder) setDict(dict *dictionary) bool {
	c := &d.cols[colData]
	c.dict, c.at0 = dict, c.pos
	return true
}

// newRing makes room for the window, of which only what is written to takes
// memory: it is not of the heap, which would be let grow in proportion to it,
// and it need not be copied while it fills.
func (d *lzDecoder) newRing() []byte {
	ring, err := unix.Mmap(-1, 0, int(d.window), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return make([]byte, d.window)
	}
	_ = unix.Madvise(ring, unix.MADV_NOHUGEPAGE)
	runtime.AddCleanup(d, func(ring []byte) { _ = unix.Munmap(ring) }, ring)
	return ring
}

func (d *lzDecoder) store(b []byte) {
	for len(b) > 0 {
		n := copy(d.ring[d.pos&uint64(len(d.ring)-1):], b)
		d.pos += uint64(n)
		b = b[n:]
	}
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

// part decodes size bytes into the ring.
func (d *lzDecoder) part(in []byte, size int) bool {
	if len(in) < 4 {
		return false
	}
	d.code, d.rng, d.in, d.over = binary.BigEndian.Uint32(in), 1<<32-1, in[4:], false
	end := d.start + uint64(size)
	mask := uint64(len(d.ring) - 1)
	for d.pos < end {
		pos := uint32(d.pos-d.start) & d.posMask
		if d.bit(&d.isMatch[d.state][pos]) == 0 {
			d.ring[d.pos&mask] = d.literalByte()
			d.pos++
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
		if uint64(n) > end-d.pos || d.over || !d.copy(uint64(d.reps[0])+1, n) {
			return false
		}
	}
	return !d.over && len(d.in) == 0
}

// at is the byte dist back, 0 where there is none.
func (d *lzDecoder) at(dist uint64) byte {
	own, size := d.pos-d.at0, d.dict.len()
	if dist > own {
		if dist <= own+size {
			return d.dict.at(size - (dist - own))
		}
		dist -= size
	}
	if dist > min(d.pos, d.window) {
		return 0
	}
	return d.ring[(d.pos-dist)&uint64(len(d.ring)-1)]
}

func (d *lzDecoder) literalByte() byte {
	probs := d.literalModel(d.at(1), uint32(d.pos-d.start))
	m := 1
	if d.state >= repState {
		match := int(d.at(uint64(d.reps[0]) + 1))
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

// copy repeats n bytes from dist back. A match that begins in the dictionary, or
// before it, stays there or goes on behind it like any other.
func (d *lzDecoder) copy(dist uint64, n int) bool {
	own, size := d.pos-d.at0, d.dict.len()
	mask := uint64(len(d.ring) - 1)
	if dist > own {
		if dist > own+size+min(d.at0, d.window) {
			return false
		}
		for range n {
			d.ring[d.pos&mask] = d.at(dist)
			d.pos++
		}
		return true
	}
	if dist > d.window {
		return false
	}
	for range n {
		d.ring[d.pos&mask] = d.ring[(d.pos-dist)&mask]
		d.pos++
	}
	return true
}
