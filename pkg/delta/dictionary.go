package delta

import (
	"hash/crc32"
	"io"
)

// A dictionary is a base file that the data column's matches may reach, for as
// long as one entry's new content is decoded. It is read page by page, so that a
// device need not hold it in memory.
type dictionary struct {
	path  string
	file  File
	size  uint64
	code  filter
	pages *[dictPages]dictPage // of the Reader, which has one dictionary at a time
	err   error                // the first one; bytes are zeros from there on
}

type dictPage struct {
	number uint64 // plus one
	b      []byte
}

const (
	dictPages = 512 // of filterChunk bytes each: 8 MB
	maxDict   = 256 << 20
)

func (d *dictionary) len() uint64 {
	if d == nil {
		return 0
	}
	return d.size
}

// at is the byte at i, which is within the file.
func (d *dictionary) at(i uint64) byte {
	n := i / filterChunk
	p := &d.pages[n%dictPages]
	if p.number != n+1 {
		d.load(p, n)
	}
	return p.b[i%filterChunk]
}

func (d *dictionary) load(p *dictPage, n uint64) {
	if p.b == nil {
		p.b = make([]byte, filterChunk)
	}
	p.number = n + 1
	at := n * filterChunk
	b := p.b[:min(filterChunk, d.size-at)]
	if k, err := d.file.ReadAt(b, int64(at)); k < len(b) {
		if err == nil || err == io.EOF {
			err = errShort
		}
		clear(b)
		if d.err == nil {
			d.err = &BaseError{Path: d.path, Err: err}
		}
		return
	}
	d.code.encode(b, at)
}

// verify reads the whole file: nothing else tells a changed one from a damaged
// delta, once literals depend on it.
func (d *dictionary) verify(want uint32) error {
	buf := make([]byte, 4*filterChunk)
	var crc uint32
	for at := uint64(0); at < d.size; {
		b := buf[:min(uint64(len(buf)), d.size-at)]
		if k, err := d.file.ReadAt(b, int64(at)); k < len(b) {
			if err == nil || err == io.EOF {
				err = errShort
			}
			return &BaseError{Path: d.path, Err: err}
		}
		crc = crc32.Update(crc, castagnoli, b)
		at += uint64(len(b))
	}
	if crc != want {
		return &BaseError{Path: d.path, Err: errChanged}
	}
	return nil
}
