package delta

import (
	"errors"
	"fmt"
	"math/bits"
)

// checkPrime is the smallest prime above 2^32.
const checkPrime = 4294967311

// A ledger remembers what was read from the base since the last check, as two
// sums over the CRC-32C of each source: the plain one, and the one weighted by
// the source's number. If exactly one source is damaged, the quotient of the two
// differences is its number, so that sixteen bytes serve to name one in
// thousands of files.
type ledger struct {
	sum, weighted uint64
	paths         []string // only kept by a Reader, which has to name them
	n             uint64
	keep          bool
}

func (l *ledger) add(path string, crc uint32) {
	l.n++
	l.sum = (l.sum + uint64(crc)) % checkPrime
	l.weighted = (l.weighted + uint64(crc)*l.n%checkPrime) % checkPrime
	if l.keep {
		l.paths = append(l.paths, path)
	}
}

func (l *ledger) full() bool { return l.n >= maxSources-maxDepth }

func (l *ledger) reset() {
	l.sum, l.weighted, l.n = 0, 0, 0
	l.paths = l.paths[:0]
}

var errChanged = errors.New("is not as it was when the delta was made")

// check compares with the sums of the delta and starts anew.
func (l *ledger) check(sum, weighted uint64) error {
	defer l.reset()
	if sum == l.sum && weighted == l.weighted {
		return nil
	}
	if sum >= checkPrime || weighted >= checkPrime {
		return formatErr("check out of bounds")
	}
	d := (l.sum + checkPrime - sum) % checkPrime
	w := (l.weighted + checkPrime - weighted) % checkPrime
	if d != 0 {
		if i := mulMod(w, powMod(d, checkPrime-2)); i >= 1 && i <= l.n {
			return &BaseError{Path: l.paths[i-1], Err: errChanged}
		}
	}
	if l.n == 0 {
		return formatErr("check of nothing")
	}
	return fmt.Errorf("%w: several of %d files between %q and %q are not as they were when the delta was made",
		ErrBase, l.n, "/"+l.paths[0], "/"+l.paths[l.n-1])
}

func mulMod(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	_, r := bits.Div64(hi, lo, checkPrime)
	return r
}

func powMod(a, e uint64) uint64 {
	r := uint64(1)
	for ; e > 0; e >>= 1 {
		if e&1 == 1 {
			r = mulMod(r, a)
		}
		a = mulMod(a, a)
	}
	return r
}
