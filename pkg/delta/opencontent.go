package delta

import (
	"errors"
	"hash/crc32"
	"io/fs"
)

// content makes the next part of an entry's content and, if need be, compresses
// it.
func (d *Reader) content() error {
	m, at := &d.made, len(d.buf)
	err := d.plain()
	if m.gz == nil || err != nil || d.c.err != nil {
		return err
	}
	d.raw = append(d.raw[:0], d.buf[at:]...)
	d.buf = m.gz.write(d.buf[:at], d.raw)
	if m.left == 0 {
		d.buf = m.gz.finish(d.buf)
	}
	m.outer -= int64(len(d.buf) - at)
	if m.outer >= 0 && (m.outer == 0 || m.left > 0) {
		return nil
	}
	if m.file != nil {
		return &BaseError{Path: m.path, Err: errChanged}
	}
	return d.lie("compressed file of another size")
}

// plain makes the next part of it as it is before that.
func (d *Reader) plain() error {
	m := &d.made
	switch m.how {
	case madeZero:
		n := min(m.left, litPiece)
		d.buf = append(d.buf, make([]byte, n)...)
		m.left -= n
		return nil
	case madeSame, madeBase:
		n := min(m.left, litPiece)
		var err error
		d.buf, err = m.copy(d.buf, n)
		return err
	}
	if m.exact > 0 || m.add > 0 {
		return d.copyAdd()
	}
	if err := d.fetch(); err != nil {
		return err
	}
	if m.how == madeLiteral {
		n := min(m.left, litPiece)
		at := len(d.buf)
		d.buf = append(d.buf, d.c.bytes(colData, int(n))...)
		m.filter.decode(d.buf[at:], uint64(m.pos))
		m.pos += n
		m.left -= n
		return nil
	}
	return d.patch()
}

// patch does one operation of a patch.
func (d *Reader) patch() error {
	m, c := &d.made, &d.c
	op := c.byte(colOps)
	if op&^0xf != patchOp {
		c.fail("unknown patch operation %#x", op)
		return c.err
	}
	if op&patchSeek != 0 {
		m.pos += c.int(colSeek)
		if m.pos < 0 || m.pos > m.size {
			return &BaseError{Path: m.path, Err: errShort}
		}
	}
	if kind := op & patchKind; kind != 0 {
		n := int64(c.uint(colCopy, maxSize))
		if n == 0 {
			n = min(m.left, m.size-m.pos)
		}
		if n > m.left {
			c.fail("copy beyond the end of the entry")
		}
		if c.err != nil {
			return c.err
		}
		if kind == patchExact {
			m.exact = n
		} else {
			if n > maxDiffCopy {
				return formatErr("copy of %d bytes with differences", n)
			}
			at := len(d.buf)
			var err error
			if d.buf, err = m.copy(d.buf, n); err != nil {
				return err
			}
			d.differ(kind, d.buf[at:])
		}
	}
	if op&patchAdd != 0 {
		n := c.uint(colAdd, litPiece-1) + 1
		if int64(n) > m.left-m.exact {
			c.fail("insertion beyond the end of the entry")
			return c.err
		}
		m.add = int(n)
	}
	if op&(patchKind|patchAdd) == 0 {
		c.fail("patch operation without effect")
	}
	if c.err != nil {
		return c.err
	}
	return d.copyAdd()
}

// copyAdd goes on with an operation: the rest of an exact copy, in parts, and
// then the insertion.
func (d *Reader) copyAdd() error {
	m := &d.made
	var err error
	if m.exact > 0 {
		n := min(m.exact, litPiece)
		m.exact -= n
		d.buf, err = m.copy(d.buf, n)
	}
	if err == nil && m.exact == 0 && m.add > 0 {
		d.buf = append(d.buf, d.c.bytes(colData, m.add)...)
		m.left -= int64(m.add)
		m.add = 0
	}
	return err
}

// differ adds differences to copied bytes.
func (d *Reader) differ(kind byte, b []byte) {
	c := &d.c
	if kind == patchDense {
		for i, v := range c.bytes(colDense, len(b)) {
			b[i] += v
		}
		return
	}
	at := 0
	for range c.uint(colGap, maxDiffCopy) {
		at += int(c.uint(colGap, maxDiffCopy))
		if at >= len(b) || c.err != nil {
			c.fail("difference beyond the copy")
			return
		}
		b[at] += c.byte(colSparse)
		at++
	}
}

// endContent pads to the next block and enters the file into the ledger.
func (d *Reader) endContent() error {
	m := &d.made
	if m.dict != nil {
		if err := d.setDict(nil); err != nil {
			return err
		}
	}
	if m.rawPad {
		d.buf = append(d.buf, d.c.bytes(colData, m.pad)...)
	} else {
		d.buf = append(d.buf, make([]byte, m.pad)...)
	}
	if m.file != nil {
		d.ledger.add(m.path, m.digest())
	}
	m.close()
	return nil
}

func readlink(base FileSource, l *ledger, p string) (string, error) {
	link, err := base.Readlink(p)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", &BaseError{Path: p, Err: err}
	}
	l.add(p, crc32.Checksum([]byte(link), castagnoli))
	return link, nil
}
