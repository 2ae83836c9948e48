package delta

import (
	"math/bits"
	"slices"
)

// The model of a column is LZMA's, as in the LZMA specification by Igor Pavlov:
// the same states, repeated distances, length and distance codes, and adaptive
// bits of a range coder. It has no end mark and no header of its own.
const (
	probInit  = 1 << 10
	probBits  = 11
	probMove  = 5
	numStates = 12
	minMatch  = 2
	maxMatch  = 273

	lenLow, lenMid, lenHigh = 8, 8, 256

	startPosModel = 4
	endPosModel   = 14
	fullDistances = 1 << (endPosModel / 2)
	alignBits     = 4

	repState = 7 // from this state on the byte at the latest distance predicts
)

// lzProps are LZMA's lc, lp and pb: how much of the byte before and of the
// position chooses the model of a literal, and of the position that of a match.
type lzProps struct{ lc, lp, pb uint8 }

func (p lzProps) byte() byte { return p.lc + 9*(p.lp+5*p.pb) }

func propsOf(b byte) (p lzProps, ok bool) {
	p = lzProps{b % 9, b / 9 % 5, b / 45}
	return p, p.lc+p.lp <= 4 && p.pb <= 2
}

type lenModel struct {
	choice, choice2 uint16
	low, mid        [4][lenLow]uint16
	high            [lenHigh]uint16
}

// lzState is what both sides learn; it goes on from part to part until a part
// says that it begins anew.
type lzState struct {
	props   lzProps
	state   int
	reps    [4]uint32 // distances less one
	posMask uint32    // which bits of the position choose a match's model
	litMask uint32    // the same for literals
	litMove uint8     // how far the byte before is shifted to choose a literal's

	isMatch           [numStates][4]uint16
	isRep             [numStates]uint16
	isRep0, isRep1    [numStates]uint16
	isRep2            [numStates]uint16
	isRep0Long        [numStates][4]uint16
	slot              [4][64]uint16
	special           [fullDistances]uint16
	align             [1 << alignBits]uint16
	matchLen, repsLen lenModel
	literal           []uint16
}

func newLZState(p lzProps) lzState {
	s := lzState{
		props: p, posMask: 1<<p.pb - 1, litMask: 1<<p.lp - 1, litMove: 8 - p.lc,
		literal: make([]uint16, 0x300<<(p.lc+p.lp)),
	}
	for i := range s.literal {
		s.literal[i] = probInit
	}
	for i := range numStates {
		s.isRep[i], s.isRep0[i], s.isRep1[i], s.isRep2[i] = probInit, probInit, probInit, probInit
		for j := range 4 {
			s.isMatch[i][j], s.isRep0Long[i][j] = probInit, probInit
		}
	}
	for i := range s.slot {
		for j := range s.slot[i] {
			s.slot[i][j] = probInit
		}
	}
	for i := range s.special {
		s.special[i] = probInit
	}
	for i := range s.align {
		s.align[i] = probInit
	}
	s.matchLen.init()
	s.repsLen.init()
	return s
}

func (m *lenModel) init() {
	m.choice, m.choice2 = probInit, probInit
	for i := range 4 {
		for j := range lenLow {
			m.low[i][j], m.mid[i][j] = probInit, probInit
		}
	}
	for i := range m.high {
		m.high[i] = probInit
	}
}

func afterLiteral(s int) int {
	switch {
	case s < 4:
		return 0
	case s < 10:
		return s - 3
	}
	return s - 6
}

func afterMatch(s int) int {
	if s < 7 {
		return 7
	}
	return 10
}

func afterRep(s int) int {
	if s < 7 {
		return 8
	}
	return 11
}

func afterShortRep(s int) int {
	if s < 7 {
		return 9
	}
	return 11
}

func lenState(n int) int { return min(n-minMatch, 3) }

// literalModel is the model of a literal behind the byte before, at a position
// within its part.
func (s *lzState) literalModel(before byte, pos uint32) []uint16 {
	i := (pos&s.litMask)<<s.props.lc + uint32(before>>s.litMove)
	return s.literal[0x300*i:][:0x300]
}

// clone copies what has been learned.
func (s *lzState) clone() lzState {
	c := *s
	c.literal = slices.Clone(s.literal)
	return c
}

// slotOf is the distance code of a distance less one.
func slotOf(d uint32) int {
	if d < 4 {
		return int(d)
	}
	n := bits.Len32(d) - 1
	return n<<1 | int(d>>(n-1)&1)
}

func window(col int) int {
	if col == colData {
		return maxWindow
	}
	return smallWindow
}
