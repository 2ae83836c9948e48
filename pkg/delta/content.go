package delta

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"strconv"
)

// madeZero is how a Reader notes that it makes zero bytes; it is not in the
// format.
const madeZero = 0xff

// How the content of a PAX or GNU entry is made.
const (
	metaRaw = 0 // bytes
	metaPAX = 1 // bytes, the record of the path, bytes
	metaGNU = 2 // bytes, the path and a zero byte, bytes
)

// paxPath is the PAX record of a path, whose length counts itself.
func paxPath(p string) string {
	rest := " path=" + p + "\n"
	n := len(rest) + 1
	for len(strconv.Itoa(n))+len(rest) != n {
		n++
	}
	return strconv.Itoa(n) + rest
}

// A content is what a Reader makes after a header.
type content struct {
	active bool
	how    byte
	left   int64 // bytes still to make, padding aside
	pad    int
	rawPad bool

	declared int64 // the size, where the delta tells it and not the base
	dict     *dictionary
	filter   filter
	inflate  bool
	gz       *gzipper // what is made goes through it
	outer    int64    // what is still to come out of it

	path string // the base file
	file File
	page *page
	size int64
	pos  int64
	crc  uint32 // over what was read from it

	exact int64 // bytes still to copy in the current operation of a patch
	add   int   // bytes to insert after that
}

// A page is the part of a base file around the last small read.
type page struct {
	buf []byte
	at  int64
	n   int
}

var (
	errShort = errors.New("is shorter than it was when the delta was made")
)

func (m *content) open(base FileSource, pg *page) error {
	f, err := base.Open(m.path)
	if err != nil {
		return &BaseError{Path: m.path, Err: err}
	}
	if m.inflate {
		var ok bool
		if f, ok = inflateFile(f); !ok {
			return &BaseError{Path: m.path, Err: errChanged}
		}
	}
	m.file, m.size, m.page = f, f.Size(), pg
	pg.n = 0
	return nil
}

// rest is how much of the layer the entry still makes, padding aside.
func (m *content) rest() int64 {
	if m.gz != nil {
		return m.outer
	}
	return m.left
}

func (m *content) close() {
	if m.file != nil {
		_ = m.file.Close()
	}
	if m.dict != nil {
		_ = m.dict.file.Close()
	}
	*m = content{}
}

// copy appends the next n bytes of the base file.
func (m *content) copy(buf []byte, n int64) ([]byte, error) {
	if n > m.size-m.pos {
		return buf, &BaseError{Path: m.path, Err: errShort}
	}
	at := len(buf)
	buf = append(buf, make([]byte, n)...)
	if err := m.read(buf[at:]); err != nil {
		return buf[:at], err
	}
	m.crc = crc32.Update(m.crc, castagnoli, buf[at:])
	m.pos += n
	m.left -= n
	return buf, nil
}

// read fills b from the current position, small reads by way of the page.
func (m *content) read(b []byte) error {
	to, from, pg := b, m.pos, m.page
	if len(b) < litPiece {
		if from < pg.at || from+int64(len(b)) > pg.at+int64(pg.n) {
			if pg.buf == nil {
				pg.buf = make([]byte, litPiece)
			}
			to = pg.buf[:min(litPiece, m.size-from)]
			pg.at, pg.n = from, len(to)
		} else {
			copy(b, pg.buf[from-pg.at:])
			return nil
		}
	}
	n, err := m.file.ReadAt(to, from)
	if n == len(to) {
		if len(to) != len(b) || len(b) < litPiece {
			copy(b, to)
		}
		return nil
	}
	pg.n = 0
	if err == nil || errors.Is(err, io.EOF) {
		err = errShort
	}
	return &BaseError{Path: m.path, Err: err}
}

// digest is the file's entry in the ledger.
func (m *content) digest() uint32 {
	return crc32.Update(m.crc, castagnoli, binary.LittleEndian.AppendUint64(nil, uint64(m.size)))
}
