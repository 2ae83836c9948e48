package delta

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

// literalPrice is what a literal costs: its value, the model that the byte before
// it chooses, and, behind a match, the byte that would have continued it.
func literalPrice(probs []uint16, value byte, matched bool, match byte) uint32 {
	sym, m := int(value)|0x100, 1
	var sum uint32
	if matched {
		match := int(match)
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
func (s *lzState) repPrice(k, state int, pos uint32) uint32 {
	if k == 0 {
		return price(s.isRep0[state], 0) + price(s.isRep0Long[state][pos], 1)
	}
	p := price(s.isRep0[state], 1)
	if k == 1 {
		return p + price(s.isRep1[state], 0)
	}
	return p + price(s.isRep1[state], 1) + price(s.isRep2[state], k-2)
}
