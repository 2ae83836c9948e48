package delta

import (
	"encoding/binary"
	"math/bits"
)

// gzHuffman collects the literals and matches of a block and writes it, as
// gzip's trees.c does.
type gzHuffman struct {
	out  []byte
	bits uint64
	n    uint

	lits  []uint8  // literals, or lengths less 3
	dists []uint16 // less one, plus one: 0 is a literal
	pairs int      // matches among them

	lit, dist, code gzTree

	optimal, static int // bits of the block, by its own trees and by the fixed ones
}

// A gzTree is a Huffman code and how often each symbol occurs.
type gzTree struct {
	freq   []uint32
	len    []uint16 // the parent's number, while the tree is built
	bits   []uint16
	fixed  []uint16 // lengths of the fixed code
	extra  []uint8  // bits that follow a symbol, from number base on
	base   int
	elems  int
	maxLen int
	max    int // the last symbol that occurs
}

const (
	gzBuffer  = 0x8000
	gzEnd     = 256
	gzLits    = 286
	gzDists   = 30
	gzLens    = 19
	gzHeap    = 2*gzLits + 1
	gzRepeat  = 16
	gzZeros   = 17
	gzManyZer = 18
)

var (
	gzExtraLen  = []uint8{0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0}
	gzExtraDist = []uint8{0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13}
	gzExtraCode = []uint8{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 3, 7}
	gzOrder     = []uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

	gzLenCode, gzLenBase = gzLengths()
	gzDistBase           = gzDistances()
	gzFixedLit           = gzFixedLits()
	gzFixedDist          = gzFixedDists()
)

func gzLengths() (code [256]uint8, base [29]int) {
	n := 0
	for c := range 28 {
		base[c] = n
		for range 1 << gzExtraLen[c] {
			code[n] = uint8(c)
			n++
		}
	}
	code[255], base[28] = 28, 255
	return code, base
}

func gzDistances() (base [gzDists]int) {
	n := 0
	for c := range base {
		base[c] = n
		n += 1 << gzExtraDist[c]
	}
	return base
}

func gzFixedLits() []uint16 {
	l := make([]uint16, gzLits+2)
	for i := range l {
		switch {
		case i < 144 || i >= 280:
			l[i] = 8
		case i < 256:
			l[i] = 9
		default:
			l[i] = 7
		}
	}
	return l
}

func gzFixedDists() []uint16 {
	l := make([]uint16, gzDists)
	for i := range l {
		l[i] = 5
	}
	return l
}

func gzDistCode(d int) int {
	if d < 4 {
		return d
	}
	n := bits.Len(uint(d)) - 1
	return 2*n + d>>(n-1)&1
}

func newGzTree(elems, maxLen int, fixed []uint16, extra []uint8, base int) gzTree {
	return gzTree{
		freq: make([]uint32, 2*elems+1), len: make([]uint16, 2*elems+2), bits: make([]uint16, elems),
		fixed: fixed, extra: extra, base: base, elems: elems, maxLen: maxLen,
	}
}

func (h *gzHuffman) init() {
	h.lit = newGzTree(gzLits, 15, gzFixedLit, gzExtraLen, 257)
	h.dist = newGzTree(gzDists, 15, gzFixedDist, gzExtraDist, 0)
	h.code = newGzTree(gzLens, 7, nil, gzExtraCode, 0)
	h.lits, h.dists = make([]uint8, 0, gzBuffer), make([]uint16, 0, gzBuffer)
	h.start()
}

// start begins a block.
func (h *gzHuffman) start() {
	for _, t := range []*gzTree{&h.lit, &h.dist, &h.code} {
		clear(t.freq)
	}
	h.lit.freq[gzEnd] = 1
	h.lits, h.dists, h.pairs = h.lits[:0], h.dists[:0], 0
	h.optimal, h.static = 0, 0
}

func (h *gzHuffman) literal(b byte) {
	h.lits, h.dists = append(h.lits, b), append(h.dists, 0)
	h.lit.freq[b]++
}

func (h *gzHuffman) literalIn(b byte, input int) bool {
	h.literal(b)
	return h.full(input)
}

func (h *gzHuffman) match(dist, n, input int) bool {
	h.lits, h.dists = append(h.lits, uint8(n)), append(h.dists, uint16(dist))
	h.pairs++
	h.lit.freq[int(gzLenCode[n])+257]++
	h.dist.freq[gzDistCode(dist-1)]++
	return h.full(input)
}

// full tells whether the block should end; input is its length so far, as gzip
// counts it: up to the place that it looks at.
func (h *gzHuffman) full(input int) bool {
	n := len(h.lits)
	if n&0xfff == 0 {
		out := n * 8
		for c, f := range h.dist.freq[:gzDists] {
			out += int(f) * (5 + int(gzExtraDist[c]))
		}
		if out >>= 3; h.pairs < n/2 && out < input/2 {
			return true
		}
	}
	return n == gzBuffer-1
}

// build makes the code of a tree and counts what the symbols take by it.
func (h *gzHuffman) build(t *gzTree) {
	var heap [gzHeap]int
	var depth [gzHeap]uint8
	n := 0
	t.max = -1
	for i := range t.elems {
		if t.freq[i] != 0 {
			n++
			heap[n], t.max = i, i
		} else {
			t.len[i] = 0
		}
	}
	for n < 2 {
		at := 0
		if t.max < 2 {
			t.max++
			at = t.max
		}
		n++
		heap[n] = at
		t.freq[at] = 1
		h.optimal--
		if t.fixed != nil {
			h.static -= int(t.fixed[at])
		}
	}
	smaller := func(a, b int) bool {
		return t.freq[a] < t.freq[b] || t.freq[a] == t.freq[b] && depth[a] <= depth[b]
	}
	down := func(k int) {
		v := heap[k]
		for j := k << 1; j <= n; j <<= 1 {
			if j < n && smaller(heap[j+1], heap[j]) {
				j++
			}
			if smaller(v, heap[j]) {
				break
			}
			heap[k], k = heap[j], j
		}
		heap[k] = v
	}
	for k := n / 2; k >= 1; k-- {
		down(k)
	}
	top := gzHeap
	for node := t.elems; n >= 2; node++ {
		a := heap[1]
		heap[1] = heap[n]
		n--
		down(1)
		b := heap[1]
		top -= 2
		heap[top+1], heap[top] = a, b
		t.freq[node] = t.freq[a] + t.freq[b]
		depth[node] = max(depth[a], depth[b]) + 1
		t.len[a], t.len[b] = uint16(node), uint16(node)
		heap[1] = node
		down(1)
	}
	top--
	heap[top] = heap[1]
	h.lengths(t, heap[:], top)
	t.codes()
}

// lengths turns parents into lengths, at most maxLen.
func (h *gzHuffman) lengths(t *gzTree, heap []int, top int) {
	var count [16]int
	over := 0
	t.len[heap[top]] = 0
	for _, n := range heap[top+1:] {
		l := int(t.len[t.len[n]]) + 1
		if l > t.maxLen {
			l = t.maxLen
			over++
		}
		t.len[n] = uint16(l)
		if n > t.max {
			continue
		}
		count[l]++
		extra := 0
		if n >= t.base && n-t.base < len(t.extra) {
			extra = int(t.extra[n-t.base])
		}
		h.optimal += int(t.freq[n]) * (l + extra)
		if t.fixed != nil {
			h.static += int(t.freq[n]) * (int(t.fixed[n]) + extra)
		}
	}
	if over == 0 {
		return
	}
	for ; over > 0; over -= 2 {
		l := t.maxLen - 1
		for count[l] == 0 {
			l--
		}
		count[l]--
		count[l+1] += 2
		count[t.maxLen]--
	}
	at := len(heap)
	for l := t.maxLen; l > 0; l-- {
		for n := count[l]; n > 0; {
			at--
			m := heap[at]
			if m > t.max {
				continue
			}
			h.optimal += (l - int(t.len[m])) * int(t.freq[m])
			t.len[m] = uint16(l)
			n--
		}
	}
}

// codes gives each symbol its bits, the first one lowest.
func (t *gzTree) codes() { assignCodes(t.len[:t.max+1], t.bits) }

func assignCodes(lens, out []uint16) {
	var count, next [16]uint16
	for _, l := range lens {
		count[l]++
	}
	count[0] = 0
	for l := 1; l < 16; l++ {
		next[l] = (next[l-1] + count[l-1]) << 1
	}
	for i, l := range lens {
		if l > 0 {
			out[i] = bits.Reverse16(next[l]) >> (16 - l)
			next[l]++
		}
	}
}

func (h *gzHuffman) put(v uint16, n uint16) {
	h.bits |= uint64(v) << h.n
	for h.n += uint(n); h.n >= 8; h.n -= 8 {
		h.out = append(h.out, byte(h.bits))
		h.bits >>= 8
	}
}

// align fills a byte up.
func (h *gzHuffman) align() {
	if h.n > 0 {
		h.put(0, uint16(8-h.n))
	}
}

// flush writes the block: as it is, by the fixed code or by its own.
func (h *gzHuffman) flush(raw []byte, input int, last bool) {
	h.build(&h.lit)
	h.build(&h.dist)
	lens := append(h.runs(h.lit.len, h.lit.max), h.runs(h.dist.len, h.dist.max)...)
	h.build(&h.code)
	n := gzLens
	for n > 4 && h.code.len[gzOrder[n-1]] == 0 {
		n--
	}
	h.optimal += 3*n + 5 + 5 + 4
	best, static := (h.optimal+3+7)>>3, (h.static+3+7)>>3
	best = min(best, static)
	var end uint16
	if last {
		end = 1
	}
	switch {
	case input+4 <= best && raw != nil:
		h.put(end, 3)
		h.align()
		h.out = binary.LittleEndian.AppendUint16(h.out, uint16(input))
		h.out = binary.LittleEndian.AppendUint16(h.out, ^uint16(input))
		h.out = append(h.out, raw...)
	case static == best:
		h.put(1<<1+end, 3)
		var l [gzLits + 2]uint16
		var d [gzDists]uint16
		assignCodes(gzFixedLit, l[:])
		assignCodes(gzFixedDist, d[:])
		h.symbols(l[:], gzFixedLit, d[:], gzFixedDist)
	default:
		h.put(2<<1+end, 3)
		h.put(uint16(h.lit.max+1-257), 5)
		h.put(uint16(h.dist.max+1-1), 5)
		h.put(uint16(n-4), 4)
		for _, c := range gzOrder[:n] {
			h.put(h.code.len[c], 3)
		}
		for _, r := range lens {
			h.put(h.code.bits[r.sym], h.code.len[r.sym])
			h.put(r.extra, uint16(gzExtraCode[r.sym]))
		}
		h.symbols(h.lit.bits, h.lit.len, h.dist.bits, h.dist.len)
	}
	if last {
		h.align()
	}
	h.start()
}

type gzRun struct{ sym, extra uint16 }

// runs codes the lengths of a code: repetitions are taken together.
func (h *gzHuffman) runs(lens []uint16, last int) []gzRun {
	var out []gzRun
	put := func(sym, extra uint16) {
		h.code.freq[sym]++
		out = append(out, gzRun{sym, extra})
	}
	before, count := -1, 0
	most, least := gzRunLimits(-1, int(lens[0]))
	for i := 0; i <= last; i++ {
		now, next := int(lens[i]), -1
		if i < last {
			next = int(lens[i+1])
		}
		if count++; count < most && now == next {
			continue
		}
		switch {
		case count < least:
			for range count {
				put(uint16(now), 0)
			}
		case now != 0:
			if now != before {
				put(uint16(now), 0)
				count--
			}
			put(gzRepeat, uint16(count-3))
		case count <= 10:
			put(gzZeros, uint16(count-3))
		default:
			put(gzManyZer, uint16(count-11))
		}
		before, count = now, 0
		most, least = gzRunLimits(now, next)
	}
	return out
}

func gzRunLimits(now, next int) (most, least int) {
	switch next {
	case 0:
		return 138, 3
	case now:
		return 6, 3
	}
	return 7, 4
}

// symbols writes what the block is made of.
func (h *gzHuffman) symbols(lit, litLen, dist, distLen []uint16) {
	for i, v := range h.lits {
		d := int(h.dists[i])
		if d == 0 {
			h.put(lit[v], litLen[v])
			continue
		}
		c := int(gzLenCode[v])
		h.put(lit[c+257], litLen[c+257])
		h.put(uint16(int(v)-gzLenBase[c]), uint16(gzExtraLen[c]))
		c = gzDistCode(d - 1)
		h.put(dist[c], distLen[c])
		h.put(uint16(d-1-gzDistBase[c]), uint16(gzExtraDist[c]))
	}
	h.put(lit[gzEnd], litLen[gzEnd])
}
