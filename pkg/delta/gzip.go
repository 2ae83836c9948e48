package delta

import (
	"encoding/binary"
	"hash/crc32"
)

// A gzipper compresses as GNU gzip does at a level from 4 to 9, bit for bit, so
// that a compressed file can be told by what is in it: Debian's manual pages and
// changelogs are made so. docs/delta-format.md has all that its output depends
// on; the names here are those of gzip's sources, so that the two can be
// compared. Some files depend on what gzip had in its buffer before: those do not
// come out right, and who makes a delta has to try.
type gzipper struct {
	maxLazy, good, nice, chain int

	window   [2 * gzWindow]byte
	head     [1 << gzHashBits]uint16
	prev     [gzWindow]uint16
	strstart int // where in the window the next string is
	block    int // where the block begins; negative if the window has moved on
	ahead    int // bytes behind strstart
	hash     uint32
	begun    bool
	eof      bool // all input is in the window

	length, start int // of the match at strstart
	available     bool

	pending []byte // input that is not in the window yet
	crc     uint32
	size    uint32

	huffman gzHuffman
}

const (
	gzWindow       = 0x8000
	gzHashBits     = 15
	gzMinMatch     = 3
	gzMaxMatch     = 258
	gzMinLookahead = gzMaxMatch + gzMinMatch + 1
	gzMaxDist      = gzWindow - gzMinLookahead
	gzTooFar       = 4096
)

// gzLevels has, from level 4 on: from which length of a match on less is
// searched, up to which length a later match is tried, which length is enough,
// and how many places are looked at.
var gzLevels = [...]struct{ good, lazy, nice, chain int }{
	{4, 4, 16, 16}, {8, 16, 32, 32}, {8, 16, 128, 128}, {8, 32, 128, 256}, {32, 128, 258, 1024}, {32, 258, 258, 4096},
}

const gzMinLevel = 4

func (z *gzipper) reset(level int) {
	l := gzLevels[level-gzMinLevel]
	pending := z.pending[:0]
	*z = gzipper{} // with values it would be copied from 200 kB of the binary
	z.good, z.maxLazy, z.nice, z.chain = l.good, l.lazy, l.nice, l.chain
	z.pending, z.length = pending, gzMinMatch-1
	z.huffman.init()
}

// write compresses b; what is complete is appended to out.
func (z *gzipper) write(out, b []byte) []byte {
	z.crc = crc32.Update(z.crc, crc32.IEEETable, b)
	z.size += uint32(len(b))
	z.pending = append(z.pending, b...)
	z.huffman.out = out
	z.run(false)
	return z.huffman.out
}

// finish appends the rest and the trailer.
func (z *gzipper) finish(out []byte) []byte {
	z.huffman.out = out
	z.run(true)
	out = binary.LittleEndian.AppendUint32(z.huffman.out, z.crc)
	return binary.LittleEndian.AppendUint32(out, z.size)
}

// fill moves the window on if that is due and takes as much input as fits; false
// if there is not enough for that yet.
func (z *gzipper) fill(last bool) bool {
	more := len(z.window) - z.ahead - z.strstart
	slide := z.strstart >= gzWindow+gzMaxDist
	if slide {
		more += gzWindow
	}
	if len(z.pending) < more && !last {
		return false
	}
	if slide {
		copy(z.window[:gzWindow], z.window[gzWindow:])
		z.start -= gzWindow
		z.strstart -= gzWindow
		z.block -= gzWindow
		for _, t := range [][]uint16{z.head[:], z.prev[:]} {
			for i, v := range t {
				if t[i] = 0; v >= gzWindow {
					t[i] = v - gzWindow
				}
			}
		}
	}
	n := copy(z.window[z.strstart+z.ahead:], z.pending[:min(more, len(z.pending))])
	z.pending = z.pending[:copy(z.pending, z.pending[n:])]
	if z.ahead += n; n == 0 {
		z.eof = true
		end := z.strstart + z.ahead
		clear(z.window[end:min(len(z.window), end+gzMinMatch-1)])
	}
	return true
}

func (z *gzipper) insert() (head int) {
	var c byte
	if i := z.strstart + gzMinMatch - 1; i < len(z.window) {
		c = z.window[i]
	}
	z.hash = (z.hash<<5 ^ uint32(c)) & (1<<gzHashBits - 1)
	head = int(z.head[z.hash])
	z.prev[z.strstart&(gzWindow-1)] = uint16(head)
	z.head[z.hash] = uint16(z.strstart)
	return head
}

// run is gzip's deflate().
func (z *gzipper) run(last bool) {
	for {
		for z.ahead < gzMinLookahead && !z.eof {
			if !z.fill(last) {
				return
			}
		}
		if !z.begun {
			z.begun = true
			z.hash = (uint32(z.window[0])<<5 ^ uint32(z.window[1])) & (1<<gzHashBits - 1)
		}
		if z.ahead == 0 {
			break
		}
		z.next()
	}
	if last {
		if z.available {
			z.huffman.literal(z.window[z.strstart-1])
			z.available = false
		}
		z.flush(true)
	}
}

// next looks at one place: whether the match before it is the better one.
func (z *gzipper) next() {
	head := z.insert()
	before, from := z.length, z.start
	z.length = gzMinMatch - 1
	if head != 0 && before < z.maxLazy && z.strstart-head <= gzMaxDist && z.strstart <= len(z.window)-gzMinLookahead {
		z.length = min(z.longest(head, before), z.ahead)
		if z.length == gzMinMatch && z.strstart-z.start > gzTooFar {
			z.length--
		}
	}
	switch {
	case before >= gzMinMatch && z.length <= before:
		full := z.huffman.match(z.strstart-1-from, before-gzMinMatch, z.strstart-z.block)
		z.ahead -= before - 1
		for range before - 2 {
			z.strstart++
			z.insert()
		}
		z.available, z.length = false, gzMinMatch-1
		z.strstart++
		if full {
			z.flush(false)
		}
	case z.available:
		if z.huffman.literalIn(z.window[z.strstart-1], z.strstart-z.block) {
			z.flush(false)
		}
		z.strstart++
		z.ahead--
	default:
		z.available = true
		z.strstart++
		z.ahead--
	}
}

// longest is gzip's longest_match: it may go on beyond the input, into what the
// window had there before.
func (z *gzipper) longest(at, best int) int {
	chain, limit := z.chain, max(0, z.strstart-gzMaxDist)
	if best >= z.good {
		chain >>= 2
	}
	w := &z.window
	scan := w[z.strstart : z.strstart+gzMaxMatch]
	for {
		if w[at+best] == scan[best] && w[at+best-1] == scan[best-1] && w[at] == scan[0] && w[at+1] == scan[1] {
			// The third byte is the same, since the hashes are.
			n := 3 + matchLen(w[at+3:], scan[3:])
			if n > best {
				z.start, best = at, n
				if n >= z.nice {
					return best
				}
			}
		}
		at = int(z.prev[at&(gzWindow-1)])
		if chain--; at <= limit || chain == 0 {
			return best
		}
	}
}

func (z *gzipper) flush(last bool) {
	var raw []byte
	if z.block >= 0 {
		raw = z.window[z.block:z.strstart]
	}
	z.huffman.flush(raw, z.strstart-z.block, last)
	z.block = z.strstart
}
