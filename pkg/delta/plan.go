package delta

import (
	"bytes"
	"encoding/binary"
	"runtime"
)

// maxTried is how many base files are tried for a file, by its size.
func maxTried(size int) int {
	switch {
	case size <= 1<<20:
		return 4
	case size <= 8<<20:
		return 2
	}
	return 1
}

// plan chooses the way that takes the fewest bytes.
func (e *encoder) plan(path string, content []byte) (plan, error) {
	if from, ok := e.ix.same(path, content); ok {
		if from == path {
			return plan{how: madeSame, from: from}, nil
		}
		return plan{how: madeBase, from: from}, nil
	}
	if len(content) < 32 {
		return plan{how: madeLiteral}, nil
	}
	best, cost := planNew(content)
	if best.gz != nil {
		content = best.gz.inner
	}
	tried := e.ix.similar(path, content)
	tried = tried[:min(len(tried), maxTried(len(content)))]
	var patch plan // the best one that is not new content
	least := 0
	for _, id := range tried {
		p, err := e.from(path, id, len(content), best.gz)
		if err != nil {
			return plan{}, err
		}
		p.pieces, _ = newMatcher(p.old).patch(content, 0)
		for _, p.dense = range []bool{false, true} {
			if c := p.cost(content); patch.old == nil || c < least {
				patch, least = p, c
			}
		}
		if least < len(content)/200 {
			break // near enough
		}
	}
	if patch.old == nil {
		return best, nil
	}
	if least < cost {
		best, cost = patch, least
	}
	if least > 150 && least > len(content)/50 {
		if p, c := patch.withDict(path, content); c < cost && (best.how == madeLiteral || c < patch.trial(content, least)) {
			best = p
		}
	}
	if len(content) > manyBytes {
		runtime.GC() // tables of hundreds of megabytes are of no use any more
	}
	return best, nil
}

// from prepares a patch of a base file that makes size bytes.
func (e *encoder) from(path string, id, size int, gz *gzipped) (plan, error) {
	old, err := e.ix.read(id)
	if err != nil {
		return plan{}, err
	}
	p := plan{from: e.ix.files[id].path, old: old, gz: gz}
	if gz != nil {
		if b, ok := inflate(bytes.NewReader(old), int64(len(old))); ok {
			p.old, p.inflate = b, true
		}
	}
	sameSize := len(p.old) == size
	switch {
	case p.from == path && sameSize:
		p.how = madePatch
	case p.from == path:
		p.how = madePatchSize
	case sameSize:
		p.how = madeFrom
	default:
		p.how = madeFromSize
	}
	return p, nil
}

// planNew is how content is made of nothing, and about what it takes.
func planNew(content []byte) (plan, int) {
	p := plan{how: madeLiteral}
	if p.gz = ungzip(content); p.gz != nil {
		return p, newCost(estimate(p.gz.inner)) + 8
	}
	cost := estimate(content)
	if f := filterFor(content); f != filterNone {
		b := bytes.Clone(content)
		f.encode(b, 0)
		if c := estimate(b); c < cost-cost/100 {
			p.filter, cost = f, c
		}
	}
	return p, newCost(cost)
}

// newCost is what the columns make of new content, by what zstd makes of it.
func newCost(estimated int) int { return estimated - estimated/8 }

// filterFor tells by a program's header which filter may help.
func filterFor(b []byte) filter {
	if len(b) < 1<<10 || string(b[:4]) != "\x7fELF" {
		return filterNone
	}
	switch binary.LittleEndian.Uint16(b[18:]) {
	case 3, 62:
		return filterX86
	case 183:
		return filterARM64
	}
	return filterNone
}

const (
	sampleSize = 32 << 10
	samples    = 40
)

// withDict makes a plan for new content with the base file as its dictionary, and
// tells about what that takes, by coding samples.
func (p plan) withDict(path string, content []byte) (plan, int) {
	p.how, p.pieces, p.dense, p.dict = madeLiteral, nil, false, wayOther
	if p.from == path {
		p.dict = waySamePath
	}
	filters := []filter{filterNone}
	if f := filterFor(content); f != filterNone {
		filters = append(filters, f)
	}
	best, least := p, -1
	for _, p.filter = range filters {
		old, b := p.old, content
		if p.filter != filterNone {
			old, b = bytes.Clone(old), bytes.Clone(b)
			p.filter.encode(old, 0)
			p.filter.encode(b, 0)
		}
		if c := dictCost(old, b); least < 0 || c < least {
			best, least = p, c
		}
	}
	return best, least + 12
}

// dictCost is about what b takes; of a large file samples are coded.
func dictCost(old, b []byte) int {
	t := newLZEncoder(colData, 2)
	t.setDict(old, 0)
	if len(b) <= samples*sampleSize {
		return len(t.encode(nil, b, nil))
	}
	var some []byte
	for i := range samples {
		at := (len(b) - sampleSize) / (samples - 1) * i
		some = append(some, b[at:at+sampleSize]...)
	}
	// A tenth less: there is more to learn from than in samples.
	return int(0.9 * float64(len(t.encode(nil, some, nil))) * float64(len(b)) / float64(len(some)))
}

// manyBytes is what is worth a collection of garbage.
const manyBytes = 8 << 20

// trial is what a patch takes, measured as what it competes with is. That is about
// a fifth less than what zstd makes of it; it is only tried where that is little.
func (p *plan) trial(content []byte, estimated int) int {
	if estimated > 64<<10 {
		return estimated - estimated/5
	}
	s, n := p.sheet(content), 0
	for i, col := range s.cols {
		if len(col) > 0 {
			n += len(newLZEncoder(i, 2).encode(nil, col, nil)) - 3
		}
	}
	return n
}
