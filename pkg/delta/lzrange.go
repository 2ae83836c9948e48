package delta

import "math"

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
