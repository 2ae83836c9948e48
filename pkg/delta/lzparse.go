package delta

import "math"

// The parser finds the cheapest way to write what follows, as LZMA's own encoder
// does: it goes through the places one after the other, and for each one that can
// be reached it tries all that can come next. What is tried is one operation, or
// one of these, which a step by step search would miss: a literal and then the
// repeated distance; a match, a literal and then the same distance again.

// lzNode is a place in the shortest path through the next bytes.
type lzNode struct {
	price uint32
	prev  int32
	edge  lzEdge // how it is reached from prev
	state int
	reps  [4]uint32
}

// A lzEdge is one operation, and perhaps a literal and a repeated distance.
type lzEdge struct {
	back int32 // backLiteral, backShort, 0 to 3 for a repeated distance, else distance + backMatch
	len  int32
	tail int32 // bytes of the repeated distance after the literal; 0: there is neither
}

const (
	backLiteral = -1
	backShort   = -2
	backMatch   = 4

	lzHorizon = 4096
)

func (e *lzEncoder) reach(to, from int, edge lzEdge, p uint32) {
	nodes := e.nodes
	for e.last < to {
		e.last++
		nodes[e.last].price = math.MaxUint32
	}
	if n := &nodes[to]; p < n.price {
		n.price, n.prev, n.edge = p, int32(from), edge
	}
}

// step finds the cheapest way through the next bytes and writes it.
func (e *lzEncoder) step(end int) {
	e.nodes[0] = lzNode{state: e.state, reps: e.reps}
	e.last = 0
	cur := 0
	for {
		i := e.done + cur
		if cur > 0 {
			e.arrive(cur)
		}
		if cur == e.last && cur > 0 || cur >= lzHorizon || i >= end {
			break
		}
		if edge, ok := e.try(cur, i, min(end-i, maxMatch)); ok {
			e.path(cur)
			e.write(edge)
			return
		}
		cur++
	}
	e.path(cur)
}

// try tries what can come at a place; a match that is long enough is taken
// without looking further.
func (e *lzEncoder) try(cur, i, limit int) (lzEdge, bool) {
	n := &e.nodes[cur]
	pos := uint32(i - e.start)
	at := pos & e.posMask
	found := e.found.of(i)
	var longest lzMatch
	if len(found) > 0 {
		longest = found[len(found)-1]
		longest.len = min(longest.len, int32(limit))
	}
	lit := n.price + price(e.isMatch[n.state][at], 0)
	match := n.price + price(e.isMatch[n.state][at], 1)
	rep := match + price(e.isRep[n.state], 1)
	match += price(e.isRep[n.state], 0)

	var lens [4]int
	best := 0
	if limit >= minMatch {
		for k := range lens {
			lens[k] = e.matchAt(i, n.reps[k], limit)
			if lens[k] > lens[best] {
				best = k
			}
		}
	}
	if lens[best] >= e.nice && lens[best] >= int(longest.len) {
		return lzEdge{int32(best), int32(lens[best]), 0}, true
	}
	if int(longest.len) >= e.nice {
		return lzEdge{int32(longest.dist) + backMatch, longest.len, 0}, true
	}
	e.tryLiteral(cur, i, limit, lit, rep)
	for k, l := range lens {
		if l >= minMatch {
			e.tryRep(cur, i, k, l, limit, rep+e.repPrice(k, n.state, at))
		}
	}
	l := minMatch
	for _, m := range found {
		full := int(m.len) <= limit
		for top := min(int(m.len), limit); l <= top; l++ {
			p := match + e.lenCost[0][at][l] + e.distPrice(l, m.dist)
			e.reach(cur+l, cur, lzEdge{int32(m.dist) + backMatch, int32(l), 0}, p)
			if l == top && full {
				e.tryTail(cur, i, l, limit, m.dist, lzEdge{int32(m.dist) + backMatch, int32(l), 0}, p, afterMatch(n.state))
			}
		}
	}
	return lzEdge{}, false
}

// tryLiteral tries a literal, the byte at the latest distance, and a literal
// followed by that distance.
func (e *lzEncoder) tryLiteral(cur, i, limit int, lit, rep uint32) {
	n := &e.nodes[cur]
	pos := uint32(i - e.start)
	predicted := e.prev(i, n.reps[0])
	model := e.literalModel(e.prev(i, 0), pos)
	lit += literalPrice(model, e.buf[i], n.state >= repState, predicted)
	e.reach(cur+1, cur, lzEdge{backLiteral, 1, 0}, lit)
	if predicted == e.buf[i] {
		if b, _ := e.back(i, n.reps[0]); b != nil {
			p := rep + price(e.isRep0[n.state], 0) + price(e.isRep0Long[n.state][pos&e.posMask], 0)
			e.reach(cur+1, cur, lzEdge{backShort, 1, 0}, p)
		}
		return
	}
	if limit > minMatch {
		if l := e.matchAt(i+1, n.reps[0], limit-1); l >= minMatch {
			p := lit + e.tailPrice(afterLiteral(n.state), pos+1, l)
			e.reach(cur+1+l, cur, lzEdge{backLiteral, 1, int32(l)}, p)
		}
	}
}

func (e *lzEncoder) tryRep(cur, i, k, l, limit int, base uint32) {
	n := &e.nodes[cur]
	at := uint32(i-e.start) & e.posMask
	for j := l; j >= minMatch; j-- {
		e.reach(cur+j, cur, lzEdge{int32(k), int32(j), 0}, base+e.lenCost[1][at][j])
	}
	e.tryTail(cur, i, l, limit, n.reps[k], lzEdge{int32(k), int32(l), 0}, base+e.lenCost[1][at][l], afterRep(n.state))
}

// tryTail tries a literal behind a match of full length and then the same
// distance again. p is the price up to there, state what it leads to.
func (e *lzEncoder) tryTail(cur, i, l, limit int, dist uint32, edge lzEdge, p uint32, state int) {
	if limit-l-1 < minMatch {
		return
	}
	tail := e.matchAt(i+l+1, dist, limit-l-1)
	if tail < minMatch {
		return
	}
	pos := uint32(i + l - e.start)
	p += price(e.isMatch[state][pos&e.posMask], 0)
	p += literalPrice(e.literalModel(e.buf[i+l-1], pos), e.buf[i+l], true, e.prev(i+l, dist))
	p += e.tailPrice(afterLiteral(state), pos+1, tail)
	edge.tail = int32(tail)
	e.reach(cur+l+1+tail, cur, edge, p)
}

// tailPrice is that of the latest distance for n bytes.
func (e *lzEncoder) tailPrice(state int, pos uint32, n int) uint32 {
	at := pos & e.posMask
	return price(e.isMatch[state][at], 1) + price(e.isRep[state], 1) + e.repPrice(0, state, at) + e.lenCost[1][at][n]
}

// arrive works out the state at a node from how it is reached.
func (e *lzEncoder) arrive(i int) {
	n := &e.nodes[i]
	p := &e.nodes[n.prev]
	n.state, n.reps = p.state, p.reps
	switch back := n.edge.back; {
	case back == backLiteral:
		n.state = afterLiteral(n.state)
	case back == backShort:
		n.state = afterShortRep(n.state)
	case back < backMatch:
		n.state = afterRep(n.state)
		n.reps = toFrontRep(p.reps, int(back))
	default:
		n.state = afterMatch(n.state)
		n.reps = [4]uint32{uint32(back - backMatch), p.reps[0], p.reps[1], p.reps[2]}
	}
	if n.edge.tail > 0 {
		if n.edge.back != backLiteral {
			n.state = afterLiteral(n.state)
		}
		n.state = afterRep(n.state)
	}
}

func toFrontRep(r [4]uint32, k int) [4]uint32 {
	v := r[k]
	copy(r[1:k+1], r[:k])
	r[0] = v
	return r
}

// path writes the way to a node.
func (e *lzEncoder) path(to int) {
	hops := e.hops[:0]
	for i := to; i > 0; i = int(e.nodes[i].prev) {
		hops = append(hops, e.nodes[i].edge)
	}
	e.hops = hops
	for i := len(hops) - 1; i >= 0; i-- {
		e.write(hops[i])
	}
}
