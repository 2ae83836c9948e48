package delta

import (
	"encoding/binary"
)

type lzMatch struct {
	len  int32
	dist uint32 // less one
}

// A lzFinder finds earlier places where the bytes of a column go on the same, by
// a binary tree of all strings in the window, as LZMA's own encoder does.
type lzFinder struct {
	window, nice, depth int

	buf    []byte // the window and the block
	filled int    // how far the tables go
	head2  []int32
	head3  []int32
	head4  []int32
	sons   []int32 // two for each place: the smaller strings and the greater
	dict   *lzDict
}

// lzFound has the matches of a stretch of a column.
type lzFound struct {
	at   int     // where it begins
	ends []int32 // of each place's matches in list
	list []lzMatch
}

func (f *lzFound) of(i int) []lzMatch {
	from := int32(0)
	if i > f.at {
		from = f.ends[i-f.at-1]
	}
	return f.list[from:f.ends[i-f.at]]
}

const (
	smallTable = 16 // bits of the hash while there is little to find
	largeTable = 21
)

func newTable(width int) []int32 {
	t := make([]int32, 1<<width)
	for i := range t {
		t[i] = -1
	}
	return t
}

func (f *lzFinder) append(b []byte) {
	if f.head2 == nil {
		f.head2, f.head3, f.head4 = newTable(16), newTable(smallTable), newTable(smallTable)
	}
	f.buf = append(f.buf, b...)
	if n := 2 * len(f.buf); n > cap(f.sons) {
		grown := make([]int32, n, n+n/4)
		copy(grown, f.sons)
		f.sons = grown
	} else {
		f.sons = f.sons[:n]
	}
	if len(f.buf) > 1<<20 && len(f.head4) == 1<<smallTable {
		f.head2, f.head3, f.head4 = newTable(16), newTable(smallTable), newTable(largeTable)
		f.filled = 0 // all over again
	}
}

// drop forgets the first n bytes.
func (f *lzFinder) drop(n int) {
	f.buf = f.buf[:copy(f.buf, f.buf[n:])]
	f.sons = f.sons[:copy(f.sons, f.sons[2*n:])]
	f.filled -= n
	for _, t := range [][]int32{f.head2, f.head3, f.head4, f.sons} {
		for i := range t {
			t[i] = max(-1, t[i]-int32(n))
		}
	}
}

func (f *lzFinder) hash4(i int) uint32 {
	h := binary.LittleEndian.Uint32(f.buf[i:]) * 2654435761
	if len(f.head4) == 1<<largeTable {
		return h >> (32 - largeTable)
	}
	return h >> (32 - smallTable)
}

func (f *lzFinder) hash3(i int) uint32 {
	return (uint32(f.buf[i]) | uint32(f.buf[i+1])<<8 | uint32(f.buf[i+2])<<16) * 2654435761 >> (32 - smallTable)
}

// find finds the matches at all places from one to another.
func (f *lzFinder) find(found *lzFound, from, to int) {
	found.at, found.ends, found.list = from, found.ends[:0], found.list[:0]
	// What was too near to the end of the last block to be entered.
	for f.filled < from {
		i := f.filled
		found.list = f.place(found.list[:0], i)
		f.filled = i + 1
	}
	found.list = found.list[:0]
	run := lzMatch{} // a long match, as it goes on at the next place
	for i := from; i < to; i++ {
		n := len(found.list)
		if int(run.len) >= f.nice {
			// Nothing is sought there, nor entered: it is as far back, too.
			found.list = append(found.list, run)
			f.filled = max(f.filled, i+1)
		} else {
			found.list = f.place(found.list, i)
			run = f.extend(found.list[n:], i, to)
			if f.dict != nil && int(run.len) < f.nice {
				own := len(found.list)
				found.list = f.dict.matches(found.list, n, f.buf, i, to-i)
				if k := len(found.list); k > own {
					run = found.list[k-1]
				}
			}
		}
		if k := len(found.list); k > n && int(run.len) >= f.nice {
			found.list[k-1].len = min(run.len, maxMatch)
		}
		run.len--
		found.ends = append(found.ends, int32(len(found.list)))
	}
}

// extend tells how far the longest match at i goes on, if it is as long as is
// sought.
func (f *lzFinder) extend(list []lzMatch, i, to int) lzMatch {
	if len(list) == 0 {
		return lzMatch{}
	}
	m := list[len(list)-1]
	if int(m.len) < f.nice {
		return m
	}
	at := i - int(m.dist) - 1
	if f.dict != nil && at < f.dict.at {
		at += len(f.dict.b)
	}
	m.len = int32(f.until(at, matchLen(f.buf[at:], f.buf[i:max(to, i+f.nice)])))
	return m
}

// place lists the matches at i, longer and longer, each as near as possible, and
// enters i into the tree unless it is too near to the end.
func (f *lzFinder) place(out []lzMatch, i int) []lzMatch {
	limit := min(len(f.buf)-i, f.nice)
	if limit < 4 {
		return out
	}
	enter := limit == f.nice && f.filled == i
	b := f.buf[i : i+limit]
	best := 1
	short := func(at int32) {
		if at >= 0 && i-int(at) <= f.window {
			if n := f.until(int(at), matchLen(f.buf[at:], b)); n > best {
				best = n
				out = append(out, lzMatch{int32(n), f.distance(i, int(at))})
			}
		}
	}
	h2, h3, h4 := binary.LittleEndian.Uint16(b), f.hash3(i), f.hash4(i)
	short(f.head2[h2])
	short(f.head3[h3])
	cur := f.head4[h4]
	if enter {
		f.head2[h2], f.head3[h3], f.head4[h4] = int32(i), int32(i), int32(i)
		f.filled++
	}
	return f.descend(out, i, cur, limit, best, enter)
}

// descend goes down the tree, which it splits at i if i is entered.
func (f *lzFinder) descend(out []lzMatch, i int, cur int32, limit, best int, enter bool) []lzMatch {
	buf, sons := f.buf, f.sons
	b := buf[i : i+limit]
	less, more := 2*i, 2*i+1
	lenLess, lenMore := 0, 0
	for tries := f.depth; ; tries-- {
		if cur < 0 || i-int(cur) > f.window || tries == 0 {
			if enter {
				sons[less], sons[more] = -1, -1
			}
			return out
		}
		at, n := int(cur), min(lenLess, lenMore)
		if buf[at+n] == b[n] {
			n += matchLen(buf[at+n:at+limit], b[n:])
			if n := f.until(at, n); n > best {
				best = n
				out = append(out, lzMatch{int32(n), f.distance(i, at)})
			}
			if n == limit {
				if enter {
					sons[less], sons[more] = sons[2*at], sons[2*at+1]
				}
				return out
			}
		}
		if buf[at+n] < b[n] {
			if enter {
				sons[less] = cur
			}
			less, lenLess, cur = 2*at+1, n, sons[2*at+1]
		} else {
			if enter {
				sons[more] = cur
			}
			more, lenMore, cur = 2*at, n, sons[2*at]
		}
	}
}

// until cuts a match that begins before the dictionary: it does not go on behind.
func (f *lzFinder) until(at, n int) int {
	if f.dict != nil && at < f.dict.at {
		return min(n, f.dict.at-at)
	}
	return n
}

// distance is how far back a place is, less one, with the dictionary counted in.
func (f *lzFinder) distance(i, at int) uint32 {
	d := uint32(i - at - 1)
	if f.dict != nil && at < f.dict.at {
		d += uint32(len(f.dict.b))
	}
	return d
}

// A lzDict is a dictionary in the encoder: the bytes, and where in the column
// they were put in.
type lzDict struct {
	b     []byte
	at    int
	head  []int32
	next  []int32
	shift int
	seed  int // bits by which eight bytes are shifted to hash fewer
	depth int
}

func newLZDict(b []byte, depth int) *lzDict {
	width := 12
	for width < 22 && 1<<width < len(b) {
		width++
	}
	d := &lzDict{b: b, head: newTable(width), next: make([]int32, len(b)), shift: 64 - width, depth: depth}
	if len(b) < 2<<20 {
		d.seed = 16
	}
	for i := 0; i+8 <= len(b); i++ {
		h := d.hash(b[i:])
		d.next[i] = d.head[h]
		d.head[h] = int32(i)
	}
	return d
}

func (d *lzDict) hash(b []byte) uint64 {
	return binary.LittleEndian.Uint64(b) << d.seed * 0x9e3779b97f4a7c15 >> d.shift
}

// matches adds matches that are longer than those in out from number n on.
func (d *lzDict) matches(out []lzMatch, n int, buf []byte, i, limit int) []lzMatch {
	if limit < 8 {
		return out
	}
	best := 5
	if len(out) > n {
		best = max(best, int(out[len(out)-1].len))
	}
	b := buf[i : i+limit]
	tries := d.depth
	for at := d.head[d.hash(b)]; at >= 0 && tries > 0 && best < limit; at = d.next[at] {
		tries--
		from := int(at)
		if from+best >= len(d.b) || d.b[from+best] != b[best] {
			continue
		}
		if l := matchLen(d.b[from:], b); l > best {
			best = l
			out = append(out, lzMatch{int32(l), uint32(i - d.at + len(d.b) - from - 1)})
		}
	}
	return out
}
