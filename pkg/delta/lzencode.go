package delta

import (
	"encoding/binary"
	"slices"
	"sync"
)

// Parts of a column are stored as they are where coding them does not help.
const lzPart = 256 << 10

// How a part is coded.
const (
	partRaw   = 0 // as it is
	partCoded = 1
	partReset = 2 // a byte says which model begins here
)

// lzBlockEncoder codes the columns of a block each on its own.
type lzBlockEncoder struct {
	level int
	cols  [numColumns]*lzEncoder
}

func (e *lzBlockEncoder) encode(s *sheet) ([]byte, error) {
	var outs [numColumns][]byte
	var wg sync.WaitGroup
	for i, col := range s.cols {
		if len(col) == 0 {
			continue
		}
		if e.cols[i] == nil {
			e.cols[i] = newLZEncoder(i, e.level)
		}
		var dicts []sheetDict
		if i == colData {
			dicts = s.dicts
		}
		wg.Go(func() { outs[i] = e.cols[i].encode(nil, col, dicts) })
	}
	wg.Wait()
	return slices.Concat(outs[:]...), nil
}

// A lzEncoder codes one column.
type lzEncoder struct {
	lzState
	rangeEncoder
	lzFinder

	done   int     // of buf
	start  int     // where this part begins in buf: positions count from there
	priced int     // where the prices were computed
	next   *lzDict // in force at the end of buf
	now    *lzDict // in force in this part
	found  lzFound
	fresh  bool // nothing is coded yet: the model has to be named

	nodes   []lzNode
	last    int // of the nodes that are reached
	hops    []lzEdge
	lenCost [2][4][maxMatch + 1]uint32
	slots   [4][64]uint32
	near    [4][fullDistances]uint32
	aligned [1 << alignBits]uint32
}

func newLZEncoder(col, level int) *lzEncoder {
	if level <= 0 {
		level = DefaultLevel
	}
	level = min(level, 9)
	e := &lzEncoder{lzState: newLZState(propsFor(col)), fresh: true}
	e.window = window(col)
	e.depth = [...]int{8, 8, 12, 32, 48, 64, 96, 160, 320, 1000}[level]
	e.nice = [...]int{32, 32, 32, 64, 96, 128, 192, maxMatch, maxMatch, maxMatch}[level]
	e.nodes = make([]lzNode, lzHorizon+maxMatch+1)
	return e
}

// propsFor is the model that a column begins with.
func propsFor(col int) lzProps {
	switch col {
	case colData, colDense:
		return lzProps{lc: 3, pb: 2}
	}
	return lzProps{lc: 3}
}

// A lzSegment is what becomes one part, with the dictionary in force.
type lzSegment struct {
	from, end int
	dict      *lzDict
	found     lzFound
}

// encode appends the parts of a column to out.
func (e *lzEncoder) encode(out, col []byte, dicts []sheetDict) []byte {
	if n := len(e.buf) - e.window; n > min(maxBlockRaw, e.window) {
		e.drop(n)
	}
	from := len(e.buf)
	e.append(col)
	var todo []lzSegment
	for at := from; at < len(e.buf); {
		for len(dicts) > 0 && from+dicts[0].at == at {
			e.setDict(dicts[0].b, at)
			dicts = dicts[1:]
		}
		end := min(len(e.buf), at+lzPart)
		if len(dicts) > 0 {
			end = min(end, from+dicts[0].at)
		}
		todo = append(todo, lzSegment{from: at, end: end, dict: e.next})
		at = end
	}
	for _, d := range dicts {
		e.setDict(d.b, len(e.buf))
	}
	// One looks for matches, a part or two ahead of the other, who chooses.
	spare, ready := make(chan lzFound, 2), make(chan lzSegment)
	spare <- lzFound{}
	spare <- lzFound{}
	go func() {
		for _, s := range todo {
			s.found = <-spare
			e.dict = s.dict
			e.find(&s.found, s.from, s.end)
			ready <- s
		}
		close(ready)
	}()
	for s := range ready {
		e.found, e.now = s.found, s.dict
		out = e.part(out, s.from, s.end)
		spare <- e.found
	}
	return out
}

func (e *lzEncoder) setDict(b []byte, at int) {
	e.next = nil
	if b != nil {
		depth := min(e.depth, 16)
		if len(b) > manyBytes {
			depth = min(depth, 6) // each place is far from the last one in memory
		}
		e.next = newLZDict(b, depth)
		e.next.at = at
	}
}

func (e *lzEncoder) part(out []byte, from, end int) []byte {
	before := e.clone()
	e.start, e.done = from, from
	e.reset()
	e.prices()
	e.priced = from
	for e.done < end {
		if e.done-e.priced > 2048 {
			e.prices()
			e.priced = e.done
		}
		e.step(end)
	}
	coded := e.finish()
	raw := e.buf[from:end]
	if len(coded) >= len(raw) {
		e.lzState = before
		out = binary.AppendUvarint(out, uint64(len(raw))<<2|partRaw)
		return append(out, raw...)
	}
	if e.fresh {
		e.fresh = false
		out = binary.AppendUvarint(out, uint64(len(raw))<<2|partReset)
		out = binary.AppendUvarint(out, uint64(len(coded)+1))
		out = append(out, e.props.byte())
		return append(out, coded...)
	}
	out = binary.AppendUvarint(out, uint64(len(raw))<<2|partCoded)
	out = binary.AppendUvarint(out, uint64(len(coded)))
	return append(out, coded...)
}

// drop forgets the first n bytes.
func (e *lzEncoder) drop(n int) {
	e.lzFinder.drop(n)
	if e.next != nil {
		e.next.at -= n
	}
}

// back tells where the byte at a distance lies: that far back in buf, if the
// dictionary is not between, or at a place in the dictionary.
func (e *lzEncoder) back(i int, dist uint32) (b []byte, at int) {
	d := int(dist) + 1
	if e.now != nil {
		own, size := i-e.now.at, len(e.now.b)
		if d > own && d <= own+size {
			return e.now.b, size - (d - own)
		}
		if d > own {
			if d -= size; d <= i && d <= e.window {
				return e.buf[:e.now.at], i - d
			}
			return nil, 0
		}
	}
	if d > i || d > e.window {
		return nil, 0
	}
	return e.buf, i - d
}

// prev is the byte at a distance (less one) before i; 0 where there is none.
func (e *lzEncoder) prev(i int, dist uint32) byte {
	b, at := e.back(i, dist)
	if b == nil {
		return 0
	}
	return b[at]
}

// matchAt tells how far the bytes at i are those at a distance (less one). It
// does not go on from before the dictionary into it, nor behind it.
func (e *lzEncoder) matchAt(i int, dist uint32, limit int) int {
	b, at := e.back(i, dist)
	return matchLen(b[at:], e.buf[i:i+limit])
}

// write codes an edge of the path.
func (e *lzEncoder) write(edge lzEdge) {
	e.operation(edge.back, int(edge.len))
	if edge.tail > 0 {
		if edge.back != backLiteral {
			e.operation(backLiteral, 1)
		}
		e.operation(0, int(edge.tail))
	}
}

// operation codes one literal or match.
func (e *lzEncoder) operation(back int32, n int) {
	i := e.done
	pos := uint32(i-e.start) & e.posMask
	e.done += n
	s := e.state
	if back == backLiteral {
		e.bit(&e.isMatch[s][pos], 0)
		e.writeLiteral(i)
		e.state = afterLiteral(s)
		return
	}
	e.bit(&e.isMatch[s][pos], 1)
	if back >= backMatch {
		e.bit(&e.isRep[s], 0)
		e.writeLen(&e.matchLen, n, pos)
		d := uint32(back - backMatch)
		e.writeDist(n, d)
		e.reps = [4]uint32{d, e.reps[0], e.reps[1], e.reps[2]}
		e.state = afterMatch(s)
		return
	}
	e.bit(&e.isRep[s], 1)
	if back == backShort {
		e.bit(&e.isRep0[s], 0)
		e.bit(&e.isRep0Long[s][pos], 0)
		e.state = afterShortRep(s)
		return
	}
	if back == 0 {
		e.bit(&e.isRep0[s], 0)
		e.bit(&e.isRep0Long[s][pos], 1)
	} else {
		e.bit(&e.isRep0[s], 1)
		if back == 1 {
			e.bit(&e.isRep1[s], 0)
		} else {
			e.bit(&e.isRep1[s], 1)
			e.bit(&e.isRep2[s], int(back)-2)
		}
		e.reps = toFrontRep(e.reps, int(back))
	}
	e.writeLen(&e.repsLen, n, pos)
	e.state = afterRep(s)
}

func (e *lzEncoder) writeLiteral(i int) {
	probs := e.literalModel(e.prev(i, 0), uint32(i-e.start))
	sym, m := int(e.buf[i]), 1
	if e.state >= repState {
		match := int(e.prev(i, e.reps[0]))
		for m < 0x100 {
			match <<= 1
			want := match & 0x100
			b := sym >> 7 & 1
			sym <<= 1
			e.bit(&probs[0x100+want+m], b)
			m = m<<1 | b
			if want>>8 != b {
				break
			}
		}
	}
	for m < 0x100 {
		b := sym >> 7 & 1
		sym <<= 1
		e.bit(&probs[m], b)
		m = m<<1 | b
	}
}

func (e *lzEncoder) writeLen(m *lenModel, n int, pos uint32) {
	switch v := n - minMatch; {
	case v < lenLow:
		e.bit(&m.choice, 0)
		e.tree(m.low[pos][:], v, 3)
	case v < lenLow+lenMid:
		e.bit(&m.choice, 1)
		e.bit(&m.choice2, 0)
		e.tree(m.mid[pos][:], v-lenLow, 3)
	default:
		e.bit(&m.choice, 1)
		e.bit(&m.choice2, 1)
		e.tree(m.high[:], v-lenLow-lenMid, 8)
	}
}

func (e *lzEncoder) writeDist(n int, d uint32) {
	s := slotOf(d)
	e.tree(e.slot[lenState(n)][:], s, 6)
	if s < startPosModel {
		return
	}
	direct := s>>1 - 1
	base := uint32(2|s&1) << direct
	rest := d - base
	if s >= endPosModel {
		e.direct(rest>>alignBits, direct-alignBits)
		direct = alignBits
	}
	m := 1
	for j := range direct {
		b := int(rest>>j) & 1
		if s < endPosModel {
			e.bit(&e.special[int(base)-s+m], b)
		} else {
			e.bit(&e.align[m], b)
		}
		m = m<<1 | b
	}
}
