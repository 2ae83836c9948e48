package delta

import (
	"encoding/binary"
	"math/bits"
)

// A piece of a patch: go seek bytes on from the end of the last copy, copy,
// then insert.
type piece struct {
	seek      int64
	copy, add int
}

// A matcher finds stretches of a file in an older one, by a table of all places
// where eight bytes hash alike, or of every step-th place in large files.
type matcher struct {
	old   []byte
	head  []int32
	next  []int32
	shift int
	step  int
}

const (
	seedLen    = 8
	maxChain   = 48
	maxIndexed = 48 << 20 // places that are remembered
)

func newMatcher(old []byte) *matcher {
	m := &matcher{old: old, step: len(old)/maxIndexed + 1}
	n := len(old) / m.step
	width := min(max(bits.Len(uint(n)), 8), 24)
	m.head, m.next, m.shift = make([]int32, 1<<width), make([]int32, n+1), 64-width
	for i := range m.head {
		m.head[i] = -1
	}
	// From the end, so that chains go forward.
	for i := n - 1; i >= 0; i-- {
		at := i * m.step
		if at+seedLen > len(old) {
			continue
		}
		h := m.hash(old[at:])
		m.next[i] = m.head[h]
		m.head[h] = int32(i)
	}
	return m
}

func (m *matcher) hash(b []byte) uint64 {
	return binary.LittleEndian.Uint64(b) * 0x9e3779b97f4a7c15 >> m.shift
}

// longest finds where in the old file b goes on for longest; near is preferred.
func (m *matcher) longest(b []byte, near int) (pos, n int) {
	if len(b) < seedLen {
		return 0, 0
	}
	try := func(at int) {
		if n > 0 && (at+n >= len(m.old) || n >= len(b) || m.old[at+n] != b[n]) {
			return
		}
		l := matchLen(m.old[at:], b)
		if l >= seedLen && (l > n || l == n && abs(at-near) < abs(pos-near)) {
			pos, n = at, l
		}
	}
	if near >= 0 && near < len(m.old) {
		try(near)
	}
	tries := maxChain
	for i := m.head[m.hash(b)]; i >= 0 && tries > 0; i = m.next[i] {
		try(int(i) * m.step)
		tries--
	}
	return pos, n
}

func abs(v int) int {
	if v < 0 {
		return -v
	}
	return v
}

func matchLen(a, b []byte) int {
	n := min(len(a), len(b))
	i := 0
	for ; i+8 <= n; i += 8 {
		if x := binary.LittleEndian.Uint64(a[i:]) ^ binary.LittleEndian.Uint64(b[i:]); x != 0 {
			return i + bits.TrailingZeros64(x)/8
		}
	}
	for i < n && a[i] == b[i] {
		i++
	}
	return i
}

// patch describes a file by an older one, after Colin Percival's bsdiff: exact
// matches are seeds, which are stretched in both directions for as long as at
// least half of the bytes agree. pos is where in the old file the last copy
// ended; the new value is returned.
func (m *matcher) patch(fresh []byte, pos0 int) ([]piece, int) {
	var out []piece
	old := m.old
	scan, n, pos := 0, 0, 0
	lastScan, lastPos, lastOff := 0, pos0, pos0
	at := pos0
	for scan < len(fresh) {
		score := 0
		scan += n
		for scsc := scan; scan < len(fresh); scan++ {
			// A long match where the last one went on needs no search.
			if o := scan + lastOff; o >= 0 && o < len(old) {
				if l := matchLen(old[o:], fresh[scan:]); l >= 32 {
					pos, n, score = o, l, l
					break
				}
			}
			pos, n = m.longest(fresh[scan:], scan+lastOff)
			for ; scsc < scan+n; scsc++ {
				if o := scsc + lastOff; o >= 0 && o < len(old) && old[o] == fresh[scsc] {
					score++
				}
			}
			if n == score && n != 0 || n > score+8 {
				break
			}
			if o := scan + lastOff; o >= 0 && o < len(old) && old[o] == fresh[scan] {
				score--
			}
		}
		if n == score && scan < len(fresh) {
			continue
		}
		lenF, lenB := m.stretch(fresh, scan, pos, lastScan, lastPos)
		add := scan - lenB - (lastScan + lenF)
		out = append(out, piece{seek: int64(lastPos - at), copy: lenF, add: add})
		at = lastPos + lenF
		lastScan, lastPos, lastOff = scan-lenB, pos-lenB, pos-scan
	}
	return out, at
}

// stretch tells how far the last match goes forward and the next one back.
func (m *matcher) stretch(fresh []byte, scan, pos, lastScan, lastPos int) (lenF, lenB int) {
	old := m.old
	s, best := 0, 0
	for i := 0; lastScan+i < scan && lastPos+i < len(old); {
		if old[lastPos+i] == fresh[lastScan+i] {
			s++
		}
		i++
		if s*2-i > best*2-lenF {
			best, lenF = s, i
		}
	}
	if scan < len(fresh) {
		s, best = 0, 0
		for i := 1; scan >= lastScan+i && pos >= i; i++ {
			if old[pos-i] == fresh[scan-i] {
				s++
			}
			if s*2-i > best*2-lenB {
				best, lenB = s, i
			}
		}
	}
	if over := lastScan + lenF - (scan - lenB); over > 0 {
		s, best, cut := 0, 0, 0
		for i := range over {
			if fresh[lastScan+lenF-over+i] == old[lastPos+lenF-over+i] {
				s++
			}
			if fresh[scan-lenB+i] == old[pos-lenB+i] {
				s--
			}
			if s > best {
				best, cut = s, i+1
			}
		}
		lenF += cut - over
		lenB -= cut
	}
	return lenF, lenB
}
