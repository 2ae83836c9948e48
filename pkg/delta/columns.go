package delta

import (
	"encoding/binary"
)

// A sheet is the block that an encoder fills: one buffer for each column.
type sheet [numColumns][]byte

func (s *sheet) byte(col int, b byte)       { s[col] = append(s[col], b) }
func (s *sheet) uint(col int, v uint64)     { s[col] = binary.AppendUvarint(s[col], v) }
func (s *sheet) int(col int, v int64)       { s.uint(col, zigzag(v)) }
func (s *sheet) bytes(col int, b []byte)    { s[col] = append(s[col], b...) }
func (s *sheet) string(col int, str string) { s[col] = append(s[col], str...) }

func (s *sheet) size() int {
	n := 0
	for _, c := range s {
		n += len(c)
	}
	return n
}

// A cursor is the block that a decoder reads. Its first error stays: reads
// after it give zeros, and whoever used them asks for err before the bytes go
// anywhere.
type cursor struct {
	cols [numColumns][]byte
	err  error
}

func (c *cursor) fail(what string, args ...any) {
	if c.err == nil {
		c.err = formatErr(what, args...)
	}
}

func (c *cursor) byte(col int) byte {
	if len(c.cols[col]) == 0 {
		c.fail("column %d ends early", col)
		return 0
	}
	b := c.cols[col][0]
	c.cols[col] = c.cols[col][1:]
	return b
}

func (c *cursor) uint(col int, limit uint64) uint64 {
	v, n := binary.Uvarint(c.cols[col])
	if n <= 0 || v > limit {
		c.fail("number in column %d out of bounds", col)
		return 0
	}
	c.cols[col] = c.cols[col][n:]
	return v
}

func (c *cursor) int(col int) int64 { return unzigzag(c.uint(col, 1<<64-1)) }

// bytes returns part of the block, good until the next block.
func (c *cursor) bytes(col int, n int) []byte {
	if n < 0 || n > len(c.cols[col]) {
		c.fail("column %d ends early", col)
		return nil
	}
	b := c.cols[col][:n:n]
	c.cols[col] = c.cols[col][n:]
	return b
}

func (c *cursor) string(col int, n int) string { return string(c.bytes(col, n)) }

func (c *cursor) empty() bool {
	for _, col := range c.cols {
		if len(col) > 0 {
			return false
		}
	}
	return true
}
