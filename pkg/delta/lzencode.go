package delta

import (
	"encoding/binary"
	"math"
)

// Parts of a column are stored as they are where coding them does not help.
const lzPart = 256 << 10

// lzBlockEncoder codes the columns of a block each on its own.
type lzBlockEncoder struct {
	level int
	cols  [numColumns]*lzEncoder
}

func (e *lzBlockEncoder) encode(s *sheet) ([]byte, error) {
	var out []byte
	for i, col := range s {
		if len(col) == 0 {
			continue
		}
		if e.cols[i] == nil {
			e.cols[i] = newLZEncoder(i, e.level)
		}
		out = e.cols[i].encode(out, col)
	}
	return out, nil
}

// rangeEncoder writes adaptive bits.
type rangeEncoder struct {
	out   []byte
	low   uint64
	rng   uint32
	cache byte
	size  int
}

func (r *rangeEncoder) reset() {
	r.out, r.low, r.rng, r.cache, r.size = r.out[:0], 0, math.MaxUint32, 0, 1
}

func (r *rangeEncoder) shift() {
	if r.low < 0xff000000 || r.low > math.MaxUint32 {
		carry := byte(r.low >> 32)
		for ; r.size > 0; r.size-- {
			r.out = append(r.out, r.cache+carry)
			r.cache = 0xff
		}
		r.cache = byte(r.low >> 24)
	}
	r.size++
	r.low = r.low & 0x00ffffff << 8
}

func (r *rangeEncoder) bit(p *uint16, b int) {
	bound := r.rng >> probBits * uint32(*p)
	if b == 0 {
		r.rng = bound
		*p += (1<<probBits - *p) >> probMove
	} else {
		r.low += uint64(bound)
		r.rng -= bound
		*p -= *p >> probMove
	}
	for r.rng < 1<<24 {
		r.rng <<= 8
		r.shift()
	}
}

func (r *rangeEncoder) direct(v uint32, n int) {
	for n--; n >= 0; n-- {
		r.rng >>= 1
		if v>>n&1 == 1 {
			r.low += uint64(r.rng)
		}
		for r.rng < 1<<24 {
			r.rng <<= 8
			r.shift()
		}
	}
}

func (r *rangeEncoder) tree(probs []uint16, v, n int) {
	m := 1
	for n--; n >= 0; n-- {
		b := v >> n & 1
		r.bit(&probs[m], b)
		m = m<<1 | b
	}
}

// finish returns what was written, without the first byte, which is always 0.
func (r *rangeEncoder) finish() []byte {
	for range 5 {
		r.shift()
	}
	return r.out[1:]
}

// prices of a bit in 1/16 bits, by probability.
var bitPrice = func() (t [1 << (probBits - 4)]uint32) {
	for i := range t {
		t[i] = uint32(math.Round(-16 * math.Log2((float64(i)+0.5)/float64(len(t)))))
	}
	return t
}()

func price(p uint16, b int) uint32 {
	if b == 0 {
		return bitPrice[p>>4]
	}
	return bitPrice[(1<<probBits-p)>>4]
}

func treePrice(probs []uint16, v, n int) uint32 {
	var sum uint32
	m := 1
	for n--; n >= 0; n-- {
		b := v >> n & 1
		sum += price(probs[m], b)
		m = m<<1 | b
	}
	return sum
}

type lzMatch struct {
	len  int
	dist uint32 // less one
}

// lzNode is a place in the shortest path through the next bytes.
type lzNode struct {
	price uint32
	prev  int
	back  int // how it is reached: -1 literal, 0 to 3 repeated distance, else distance + 3
	state int
	reps  [4]uint32
}

const lzHorizon = 2048

// A lzEncoder codes one column.
type lzEncoder struct {
	lzState
	rangeEncoder
	window, nice, depth int

	buf    []byte // the window and the block
	done   int    // of buf
	start  int    // where this block begins in buf: positions count from there
	filled int    // how far the tables go
	head2  []int32
	head3  []int32
	head4  []int32
	chain  []int32

	nodes   []lzNode
	found   []lzMatch
	lenCost [2][4][maxMatch + 1]uint32
	slots   [4][64]uint32
	near    [4][fullDistances]uint32
	aligned [1 << alignBits]uint32
}

func newLZEncoder(col, level int) *lzEncoder {
	e := &lzEncoder{lzState: *newLZState(col), window: window(col)}
	if level <= 0 {
		level = DefaultLevel
	}
	level = min(level, 9)
	e.depth, e.nice = [...]int{8, 8, 16, 24, 48, 96, 192, 384, 768, 1536}[level], min(maxMatch, 32+32*max(1, level-2))
	e.head2, e.head3, e.head4 = newTable(16), newTable(16), newTable(17)
	e.nodes = make([]lzNode, lzHorizon+maxMatch+1)
	return e
}

func newTable(width int) []int32 {
	t := make([]int32, 1<<width)
	for i := range t {
		t[i] = -1
	}
	return t
}

func (e *lzEncoder) encode(out, col []byte) []byte {
	if drop := len(e.buf) - e.window; drop > maxBlockRaw || drop > e.window {
		e.rebase(drop)
	}
	e.done, e.start = len(e.buf), len(e.buf)
	e.buf = append(e.buf, col...)
	for len(e.chain) < len(e.buf) {
		e.chain = append(e.chain, -1)
	}
	if len(e.buf) > 1<<20 && len(e.head4) < 1<<22 {
		e.widen()
	}
	for e.done < len(e.buf) {
		from, end := e.done, min(len(e.buf), e.done+lzPart)
		before := e.lzState
		e.reset()
		e.prices()
		for e.done < end {
			e.step(end)
		}
		coded := e.finish()
		if raw := e.buf[from:end]; len(coded) >= len(raw) {
			e.lzState = before
			out = binary.AppendUvarint(out, uint64(len(raw))<<1)
			out = append(out, raw...)
			continue
		}
		out = binary.AppendUvarint(out, uint64(end-from)<<1|1)
		out = binary.AppendUvarint(out, uint64(len(coded)))
		out = append(out, coded...)
	}
	return out
}

func (e *lzEncoder) rebase(drop int) {
	e.buf = e.buf[:copy(e.buf, e.buf[drop:])]
	e.chain = e.chain[:copy(e.chain, e.chain[drop:])]
	e.filled -= drop
	for _, t := range [][]int32{e.head2, e.head3, e.head4, e.chain} {
		for i := range t {
			t[i] = max(-1, t[i]-int32(drop))
		}
	}
}

// widen makes the hash table larger once there is more to find.
func (e *lzEncoder) widen() {
	e.head4 = newTable(22)
	for i := range e.filled {
		if i+4 <= len(e.buf) {
			h := e.hash4(i)
			e.chain[i] = e.head4[h]
			e.head4[h] = int32(i)
		}
	}
}

func (e *lzEncoder) hash4(i int) uint32 {
	h := binary.LittleEndian.Uint32(e.buf[i:]) * 2654435761
	if len(e.head4) == 1<<22 {
		return h >> 10
	}
	return h >> 15
}

func (e *lzEncoder) hash3(i int) uint32 {
	return (uint32(e.buf[i]) | uint32(e.buf[i+1])<<8 | uint32(e.buf[i+2])<<16) * 2654435761 >> 16
}

// fill enters all places up to i into the tables.
func (e *lzEncoder) fill(i int) {
	for ; e.filled < i; e.filled++ {
		at := e.filled
		if at+4 > len(e.buf) {
			return
		}
		e.head2[binary.LittleEndian.Uint16(e.buf[at:])] = int32(at)
		e.head3[e.hash3(at)] = int32(at)
		h := e.hash4(at)
		e.chain[at] = e.head4[h]
		e.head4[h] = int32(at)
	}
}

// matches finds longer and longer matches for the bytes at i, each as near as
// possible.
func (e *lzEncoder) matches(i, limit int) []lzMatch {
	e.fill(i)
	out := e.found[:0]
	if limit < minMatch {
		return out
	}
	best := 1
	b := e.buf[i : i+limit]
	try := func(at int) bool {
		if at < 0 || i-at > e.window || best < limit && e.buf[at+best] != b[best] {
			return true
		}
		if n := matchLen(e.buf[at:], b); n > best {
			best = n
			out = append(out, lzMatch{n, uint32(i - at - 1)})
		}
		return best < min(limit, e.nice)
	}
	more := try(int(e.head2[binary.LittleEndian.Uint16(b)]))
	if more && limit >= 3 {
		more = try(int(e.head3[e.hash3(i)]))
	}
	if more && limit >= 4 {
		tries := e.depth
		for at := e.head4[e.hash4(i)]; at >= 0 && i-int(at) <= e.window && tries > 0; at = e.chain[at] {
			if tries--; !try(int(at)) {
				break
			}
		}
	}
	e.found = out
	return out
}

// prices computes the tables of prices anew.
func (e *lzEncoder) prices() {
	for k, m := range []*lenModel{&e.matchLen, &e.repsLen} {
		c0, c1 := price(m.choice, 0), price(m.choice, 1)
		c10, c11 := c1+price(m.choice2, 0), c1+price(m.choice2, 1)
		for pos := range 4 {
			t := &e.lenCost[k][pos]
			for n := minMatch; n <= maxMatch; n++ {
				switch v := n - minMatch; {
				case v < lenLow:
					t[n] = c0 + treePrice(m.low[pos][:], v, 3)
				case v < lenLow+lenMid:
					t[n] = c10 + treePrice(m.mid[pos][:], v-lenLow, 3)
				case pos > 0:
					t[n] = e.lenCost[k][0][n]
				default:
					t[n] = c11 + treePrice(m.high[:], v-lenLow-lenMid, 8)
				}
			}
		}
	}
	for i := range e.aligned {
		m := 1
		e.aligned[i] = 0
		for j := range alignBits {
			b := i >> j & 1
			e.aligned[i] += price(e.align[m], b)
			m = m<<1 | b
		}
	}
	for l := range 4 {
		for s := range 64 {
			e.slots[l][s] = treePrice(e.slot[l][:], s, 6)
			if s >= endPosModel {
				e.slots[l][s] += uint32(s>>1-1-alignBits) * 16
			}
		}
		for d := range uint32(fullDistances) {
			s := slotOf(d)
			p := e.slots[l][s]
			if s >= startPosModel {
				direct := s>>1 - 1
				base := uint32(2|s&1) << direct
				m := 1
				for j := range direct {
					b := int(d>>j) & 1
					p += price(e.special[int(base)-s+m], b)
					m = m<<1 | b
				}
			}
			e.near[l][d] = p
		}
	}
}

func (e *lzEncoder) distPrice(n int, d uint32) uint32 {
	l := lenState(n)
	if d < fullDistances {
		return e.near[l][d]
	}
	return e.slots[l][slotOf(d)] + e.aligned[d&(1<<alignBits-1)]
}

func (e *lzEncoder) prev(i, dist int) byte {
	if i -= dist; i >= 0 {
		return e.buf[i]
	}
	return 0
}

func (e *lzEncoder) literalPrice(i, state int, rep uint32) uint32 {
	probs := e.literal[0x300*(int(e.prev(i, 1))>>(8-literalBits)):][:0x300]
	sym, m := int(e.buf[i])|0x100, 1
	var sum uint32
	if state >= 7 {
		match := int(e.prev(i, int(rep)+1))
		for m < 0x100 {
			match <<= 1
			want := match & 0x100
			b := sym >> 7 & 1
			sym <<= 1
			sum += price(probs[0x100+want+m], b)
			m = m<<1 | b
			if want>>8 != b {
				break
			}
		}
	}
	for m < 0x100 {
		b := sym >> 7 & 1
		sym <<= 1
		sum += price(probs[m], b)
		m = m<<1 | b
	}
	return sum
}

// repPrice is the price of saying that distance k is repeated, without length.
func (e *lzEncoder) repPrice(k, state int, pos uint32) uint32 {
	if k == 0 {
		return price(e.isRep0[state], 0) + price(e.isRep0Long[state][pos], 1)
	}
	p := price(e.isRep0[state], 1)
	if k == 1 {
		return p + price(e.isRep1[state], 0)
	}
	return p + price(e.isRep1[state], 1) + price(e.isRep2[state], k-2)
}

// step finds the cheapest way through the next bytes and writes it.
func (e *lzEncoder) step(end int) {
	nodes := e.nodes
	nodes[0] = lzNode{state: e.state, reps: e.reps}
	last := 0
	reach := func(to, from, back int, p uint32) {
		for last < to {
			last++
			nodes[last].price = math.MaxUint32
		}
		if p < nodes[to].price {
			nodes[to].price, nodes[to].prev, nodes[to].back = p, from, back
		}
	}
	cur := 0
	for {
		i := e.done + cur
		if cur > 0 {
			e.arrive(cur)
		}
		if cur == last && cur > 0 || cur >= lzHorizon || i >= end {
			break
		}
		n := &nodes[cur]
		pos := uint32(i-e.start) & e.posMask
		limit := min(end-i, maxMatch)
		found := e.matches(i, limit)
		// A long match is taken without looking further.
		longest := lzMatch{}
		if len(found) > 0 {
			longest = found[len(found)-1]
		}
		lit := n.price + price(e.isMatch[n.state][pos], 0)
		match := n.price + price(e.isMatch[n.state][pos], 1)
		rep := match + price(e.isRep[n.state], 1)
		match += price(e.isRep[n.state], 0)
		repLen, repBest := 0, 0
		for k := range 4 {
			d := int(n.reps[k]) + 1
			if d > i || d > e.window || limit < 2 {
				continue
			}
			l := matchLen(e.buf[i-d:], e.buf[i:i+limit])
			if l < minMatch {
				continue
			}
			if l > repLen {
				repLen, repBest = l, k
			}
			base := rep + e.repPrice(k, n.state, pos)
			if l >= e.nice {
				continue
			}
			for j := l; j >= minMatch; j-- {
				reach(cur+j, cur, k, base+e.lenCost[1][pos][j])
			}
		}
		if repLen >= e.nice || longest.len >= e.nice {
			if repLen >= longest.len {
				e.finishPath(cur, repLen, repBest)
			} else {
				e.finishPath(cur, longest.len, int(longest.dist)+4)
			}
			return
		}
		reach(cur+1, cur, -1, lit+e.literalPrice(i, n.state, n.reps[0]))
		if d := int(n.reps[0]) + 1; d <= i && d <= e.window && e.buf[i-d] == e.buf[i] {
			reach(cur+1, cur, -2, rep+price(e.isRep0[n.state], 0)+price(e.isRep0Long[n.state][pos], 0))
		}
		l := minMatch
		for _, m := range found {
			for ; l <= m.len; l++ {
				reach(cur+l, cur, int(m.dist)+4, match+e.lenCost[0][pos][l]+e.distPrice(l, m.dist))
			}
		}
		cur++
	}
	e.finishPath(cur, 0, 0)
}

// arrive works out the state at a node from how it is reached.
func (e *lzEncoder) arrive(i int) {
	n := &e.nodes[i]
	p := &e.nodes[n.prev]
	n.reps = p.reps
	switch {
	case n.back == -1:
		n.state = afterLiteral(p.state)
	case n.back == -2:
		n.state = afterShortRep(p.state)
	case n.back < 4:
		n.state = afterRep(p.state)
		n.reps = toFrontRep(p.reps, n.back)
	default:
		n.state = afterMatch(p.state)
		n.reps = [4]uint32{uint32(n.back - 4), p.reps[0], p.reps[1], p.reps[2]}
	}
}

func toFrontRep(r [4]uint32, k int) [4]uint32 {
	v := r[k]
	copy(r[1:k+1], r[:k])
	r[0] = v
	return r
}

// finishPath writes the path to a node, and a last match behind it.
func (e *lzEncoder) finishPath(to, n, back int) {
	type hop struct{ len, back int }
	var path []hop
	for i := to; i > 0; i = e.nodes[i].prev {
		path = append(path, hop{i - e.nodes[i].prev, e.nodes[i].back})
	}
	for i := len(path) - 1; i >= 0; i-- {
		e.write(path[i].len, path[i].back)
	}
	if n > 0 {
		e.write(n, back)
	}
	if to+n > lzHorizon/4 {
		e.prices()
	}
}

// write codes one literal or match.
func (e *lzEncoder) write(n, back int) {
	i := e.done
	pos := uint32(i-e.start) & e.posMask
	e.done += n
	s := e.state
	if back == -1 {
		e.bit(&e.isMatch[s][pos], 0)
		e.writeLiteral(i)
		e.state = afterLiteral(s)
		return
	}
	e.bit(&e.isMatch[s][pos], 1)
	if back >= 4 {
		e.bit(&e.isRep[s], 0)
		e.writeLen(&e.matchLen, n, pos)
		d := uint32(back - 4)
		e.writeDist(n, d)
		e.reps = [4]uint32{d, e.reps[0], e.reps[1], e.reps[2]}
		e.state = afterMatch(s)
		return
	}
	e.bit(&e.isRep[s], 1)
	if back == -2 {
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
			e.bit(&e.isRep2[s], back-2)
		}
		e.reps = toFrontRep(e.reps, back)
	}
	e.writeLen(&e.repsLen, n, pos)
	e.state = afterRep(s)
}

func (e *lzEncoder) writeLiteral(i int) {
	probs := e.literal[0x300*(int(e.prev(i, 1))>>(8-literalBits)):][:0x300]
	sym, m := int(e.buf[i]), 1
	if e.state >= 7 {
		match := int(e.prev(i, int(e.reps[0])+1))
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
