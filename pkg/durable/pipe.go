package durable

import (
	"errors"
	"io"
	"sync"
)

// The tar stream passes through three goroutines: one reads (and so waits for
// the network and decompresses), one splits (headers, checksums), one extracts.
// What flows between them are chunks from one bounded set, so that a layer
// costs the same memory whatever its size.
const (
	chunkSize  = 64 << 10
	chunkCount = 12
)

var errAborted = errors.New("extraction was given up")

// chunks is the set of buffers of one stream. A stage that fails closes quit
// through abort, which frees the others from waiting.
type chunks struct {
	free chan []byte
	quit chan struct{}
	once sync.Once
}

func newChunks() *chunks {
	c := &chunks{free: make(chan []byte, chunkCount), quit: make(chan struct{})}
	for range chunkCount {
		c.free <- nil // allocated when first used: small layers stay small
	}
	return c
}

func (c *chunks) abort() { c.once.Do(func() { close(c.quit) }) }

func (c *chunks) get() ([]byte, error) {
	select {
	case b := <-c.free:
		if b == nil {
			b = make([]byte, chunkSize)
		}
		return b[:chunkSize], nil
	case <-c.quit:
		return nil, errAborted
	}
}

func (c *chunks) put(b []byte) { c.free <- b[:cap(b)] } // never blocks: as many places as chunks

// link hands chunks from one stage to the next. The sender calls close exactly
// once; the receiver sees err after the last chunk (io.EOF when err is nil).
type link struct {
	set *chunks
	ch  chan []byte
	err error // valid once ch is closed
}

func newLink(set *chunks, depth int) *link {
	return &link{set: set, ch: make(chan []byte, depth)}
}

func (l *link) send(b []byte) error {
	select {
	case l.ch <- b:
		return nil
	case <-l.set.quit:
		l.set.put(b)
		return errAborted
	}
}

func (l *link) close(err error) {
	l.err = err
	close(l.ch)
}

func (l *link) recv() ([]byte, error) {
	select {
	case b, ok := <-l.ch:
		if ok {
			return b, nil
		}
		if l.err != nil {
			return nil, l.err
		}
		return nil, io.EOF
	case <-l.set.quit:
		return nil, errAborted
	}
}

// linkReader reads what arrives on a link. done takes each chunk that was read
// to its end; before is called ahead of every Read with the number of bytes
// delivered so far.
type linkReader struct {
	in     *link
	done   func([]byte) error
	before func(delivered int64)
	cur    []byte // the whole chunk
	pos    int
	n      int64
	err    error
}

func (r *linkReader) Read(p []byte) (int, error) {
	if r.before != nil {
		r.before(r.n)
	}
	for r.pos == len(r.cur) {
		if r.err != nil {
			return 0, r.err
		}
		if r.cur != nil {
			b := r.cur
			r.cur, r.pos = nil, 0
			if err := r.done(b); err != nil {
				r.err = err
				continue
			}
		}
		r.cur, r.err = r.in.recv()
	}
	n := copy(p, r.cur[r.pos:])
	r.pos += n
	r.n += int64(n)
	return n, nil
}
