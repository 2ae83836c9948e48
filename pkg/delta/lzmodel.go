package delta

import "math/bits"

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
	literalBits   = 3 // bits of the byte before that choose a literal's model
)

type lenModel struct {
	choice, choice2 uint16
	low, mid        [4][lenLow]uint16
	high            [lenHigh]uint16
}

// lzState is what both sides learn; it goes on from block to block.
type lzState struct {
	state   int
	reps    [4]uint32 // distances less one
	posMask uint32    // 3 where alignment to four bytes tells something, or 0

	isMatch           [numStates][4]uint16
	isRep             [numStates]uint16
	isRep0, isRep1    [numStates]uint16
	isRep2            [numStates]uint16
	isRep0Long        [numStates][4]uint16
	slot              [4][64]uint16
	special           [fullDistances]uint16
	align             [1 << alignBits]uint16
	matchLen, repsLen lenModel
	literal           [0x300 << literalBits]uint16
}

func newLZState(col int) *lzState {
	s := &lzState{}
	if col == colData || col == colDense {
		s.posMask = 3
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
