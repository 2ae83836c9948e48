package delta

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
)

var errCut = errors.New("the tar is cut off within a file")

// largeFile codes a file by windows, from the base file of its name or the one
// most like its first window, of which it keeps a window, too.
func (e *encoder) largeFile(in *bufio.Reader, block []byte, size, pad int64) error {
	path := ""
	if _, parts, _, ok := split(e.nextName(block)); ok {
		path = strings.Join(parts, "/")
	}
	if _, err := e.fill(in, min(size, fileWindow)); err != nil {
		return err
	}
	p := plan{how: madeLiteral}
	var base File
	if id, ok := e.ix.likely(path, e.buf); ok {
		var err error
		if p.from = e.ix.files[id].path; p.from == path {
			p.how = madePatchSize
		} else {
			p.how = madeFromSize
		}
		if base, err = e.base.Open(p.from); err != nil {
			return fmt.Errorf("reading base file %q: %w", "/"+p.from, err)
		}
		defer base.Close()
	}
	// Whether the padding is zero is not known yet: it goes in as it is.
	if _, err := e.header(block, p, nil, size, e.nextName(block), pad > 0); err != nil {
		return err
	}
	var err error
	if base == nil {
		e.sum.New++
		e.sum.NewBytes += size
		err = e.windows(in, size, func() error { return e.literal(&p, e.buf) })
	} else {
		e.sum.Patched++
		e.sum.PatchedBytes += size
		w := largePatch{e: e, base: base, pw: patchWriter{s: &e.s, room: e.room, size: base.Size(), left: size}}
		if err = e.windows(in, size, w.window); err == nil {
			e.enter(p.from, w.pw.crc, base.Size())
		}
	}
	if err != nil {
		return err
	}
	n, err := e.fill(in, pad)
	if err == nil && n < pad {
		err = errCut
	}
	e.s.bytes(colData, e.buf)
	return err
}

// windows calls do with each window of a file in buf; the first one is there.
func (e *encoder) windows(in *bufio.Reader, size int64, do func() error) error {
	for {
		if len(e.buf) == 0 {
			return errCut
		}
		size -= int64(len(e.buf))
		if err := do(); err != nil || size == 0 {
			return err
		}
		if err := e.room(); err != nil {
			return err
		}
		if _, err := e.fill(in, min(size, fileWindow)); err != nil {
			return err
		}
	}
}

// A largePatch codes the windows of a file by those of its base.
type largePatch struct {
	e    *encoder
	base File
	pw   patchWriter
	old  []byte // the base from pw.at on
	pos  int64  // where the last copy ended
}

func (w *largePatch) window() error {
	fresh := w.e.buf
	from := max(0, w.pos-baseWindow)
	n := min(w.base.Size(), w.pos+int64(len(fresh))+baseWindow) - from
	if int64(cap(w.old)) < n {
		w.old = make([]byte, n)
	}
	w.old = w.old[:n]
	if _, err := io.ReadFull(io.NewSectionReader(w.base, from, n), w.old); err != nil {
		return fmt.Errorf("reading a file of the base: %w", err)
	}
	w.pw.old, w.pw.at = w.old, from
	here := w.old[w.pos-from:]
	if len(here) >= len(fresh) && bytes.Equal(here[:len(fresh)], fresh) {
		w.pos += int64(len(fresh))
		return w.pw.write([]piece{{copy: len(fresh)}}, fresh)
	}
	list, pos := newMatcher(w.old).patch(fresh, int(w.pos-from))
	w.pos = from + int64(pos)
	return w.pw.write(list, fresh)
}
