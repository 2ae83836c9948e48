package delta

import (
	"encoding/binary"
)

// A sheet is the block that an encoder fills: one buffer for each column.
type sheet struct {
	cols  [numColumns][]byte
	dicts []sheetDict
}

// A sheetDict says that a dictionary is put in at a place of the data column, or
// taken out (nil).
type sheetDict struct {
	at int
	b  []byte
}

func (s *sheet) byte(col int, b byte)       { s.cols[col] = append(s.cols[col], b) }
func (s *sheet) uint(col int, v uint64)     { s.cols[col] = binary.AppendUvarint(s.cols[col], v) }
func (s *sheet) int(col int, v int64)       { s.uint(col, zigzag(v)) }
func (s *sheet) bytes(col int, b []byte)    { s.cols[col] = append(s.cols[col], b...) }
func (s *sheet) string(col int, str string) { s.cols[col] = append(s.cols[col], str...) }
func (s *sheet) dict(b []byte)              { s.dicts = append(s.dicts, sheetDict{len(s.cols[colData]), b}) }

func (s *sheet) size() int {
	n := 0
	for _, c := range s.cols {
		n += len(c)
	}
	return n
}

// A cursor is the block that a decoder reads. Its first error stays: reads
// after it give zeros, and whoever used them asks for err before the bytes go
// anywhere.
type cursor struct {
	dec     blockDecoder
	cols    [numColumns][]byte // decoded and not used yet
	bufs    [numColumns][]byte // what they are part of
	err     error
	damaged bool // the block itself is
}

func (c *cursor) fail(what string, args ...any) {
	if c.err == nil {
		c.err = formatErr(what, args...)
	}
}

// begin takes a new block; all of the last one is used up.
func (c *cursor) begin(comp []byte, sizes *[numColumns]int) error {
	for i := range c.cols {
		c.cols[i] = c.bufs[i][:0]
	}
	return c.dec.begin(comp, &c.cols, sizes)
}

// need decodes on until there are n bytes, or the column is at its end.
func (c *cursor) need(col, n int) {
	for len(c.cols[col]) < n && c.dec.undecoded(col) > 0 {
		buf := append(c.bufs[col][:0], c.cols[col]...)
		buf, err := c.dec.more(col, buf)
		if err != nil {
			if c.err == nil {
				c.err, c.damaged = err, true
			}
			c.cols[col] = nil
			return
		}
		c.bufs[col], c.cols[col] = buf, buf
	}
}

func (c *cursor) byte(col int) byte {
	b := c.bytes(col, 1)
	if len(b) == 0 {
		return 0
	}
	return b[0]
}

func (c *cursor) uint(col int, limit uint64) uint64 {
	if len(c.cols[col]) < binary.MaxVarintLen64 {
		c.need(col, binary.MaxVarintLen64)
	}
	v, n := binary.Uvarint(c.cols[col])
	if n <= 0 || v > limit {
		c.fail("number in column %d out of bounds", col)
		return 0
	}
	c.cols[col] = c.cols[col][n:]
	return v
}

func (c *cursor) int(col int) int64 { return unzigzag(c.uint(col, 1<<64-1)) }

// bytes returns part of a column, good until more is asked of it.
func (c *cursor) bytes(col int, n int) []byte {
	if n > len(c.cols[col]) {
		c.need(col, n)
	}
	if n < 0 || n > len(c.cols[col]) || c.err != nil {
		c.fail("column %d ends early", col)
		return nil
	}
	b := c.cols[col][:n:n]
	c.cols[col] = c.cols[col][n:]
	return b
}

func (c *cursor) string(col int, n int) string { return string(c.bytes(col, n)) }

func (c *cursor) empty() bool {
	for i, col := range c.cols {
		if len(col) > 0 || c.dec.undecoded(i) > 0 {
			return false
		}
	}
	return true
}
