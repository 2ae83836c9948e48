package delta

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// What a frame of the file is.
const (
	frameBlock = 'B'
	frameEnd   = 'E'
)

// A blockEncoder compresses blocks one after the other, and a blockDecoder
// undoes it; each may refer to the blocks before.
type (
	blockEncoder interface {
		encode(s *sheet) ([]byte, error)
	}
	blockDecoder interface {
		// begin takes a block, which stays as it is until the next one,
		// and the lengths of its columns; it may decode some of them.
		begin(comp []byte, cols *[numColumns][]byte, sizes *[numColumns]int) error
		// more appends the next part of a column to out.
		more(col int, out []byte) ([]byte, error)
		// undecoded is how much of a column is left for more.
		undecoded(col int) int
		// setDict puts a dictionary into the history of the data column
		// or, if nil, takes it out; false if the codec has no such thing.
		setDict(d *dictionary) bool
	}
)

// The codecs, by their number in the file.
const (
	codecZstd = 1
	codecLZ   = 2
)

func newBlockEncoder(codec byte, level int) (blockEncoder, error) {
	switch codec {
	case codecZstd:
		return newZstdEncoder(level)
	case codecLZ:
		return &lzBlockEncoder{level: level}, nil
	}
	return nil, fmt.Errorf("no codec %d", codec)
}

func newBlockDecoder(codec byte) (blockDecoder, error) {
	switch codec {
	case codecZstd:
		return newZstdDecoder()
	case codecLZ:
		return &lzBlockDecoder{}, nil
	}
	return nil, fmt.Errorf("%w: codec %d", ErrVersion, codec)
}

// writeBlock writes a block's frame and empties the sheet.
func writeBlock(w io.Writer, enc blockEncoder, s *sheet) error {
	comp, err := enc.encode(s)
	if err != nil {
		return err
	}
	var head []byte
	for i, col := range s.cols {
		head = binary.AppendUvarint(head, uint64(len(col)))
		s.cols[i] = col[:0]
	}
	s.dicts = s.dicts[:0]
	head = binary.AppendUvarint(head, uint64(len(comp)))
	sum := crc32.Update(crc32.Checksum(head, castagnoli), castagnoli, comp)
	head = append([]byte{frameBlock}, head...)
	head = binary.LittleEndian.AppendUint32(head, sum)
	if _, err := w.Write(head); err != nil {
		return err
	}
	_, err = w.Write(comp)
	return err
}

// A blockReader reads the frames of a delta.
type blockReader struct {
	in   *bufio.Reader
	comp bytes.Buffer
}

// readBlock goes to the next block; io.EOF at the end frame.
func (r *blockReader) readBlock(c *cursor) error {
	kind, err := r.in.ReadByte()
	if err != nil {
		return cutOff(err)
	}
	if kind == frameEnd {
		if _, err := r.in.ReadByte(); err == nil {
			return formatErr("bytes after the end")
		} else if !errors.Is(err, io.EOF) {
			return err
		}
		return io.EOF
	}
	if kind != frameBlock {
		return formatErr("unknown frame %#x", kind)
	}
	var head []byte
	number := func(limit uint64) int {
		v, e := binary.ReadUvarint(r.in)
		switch {
		case err != nil:
		case e != nil:
			err = cutOff(e)
		case v > limit:
			err = formatErr("block of more than %d bytes", limit)
		}
		if err != nil {
			return 0
		}
		head = binary.AppendUvarint(head, v)
		return int(v)
	}
	var sizes [numColumns]int
	total := 0
	for i := range sizes {
		sizes[i] = number(maxBlockRaw)
		total += sizes[i]
	}
	n := number(maxBlockComp)
	if err != nil {
		return err
	}
	if total > maxBlockRaw || total == 0 {
		return formatErr("block of %d bytes", total)
	}
	var sum [4]byte
	if _, err := io.ReadFull(r.in, sum[:]); err != nil {
		return cutOff(err)
	}
	// Grows with what arrives, whatever length was announced.
	r.comp.Reset()
	if _, err := io.CopyN(&r.comp, r.in, int64(n)); err != nil {
		return cutOff(err)
	}
	if crc32.Update(crc32.Checksum(head, castagnoli), castagnoli, r.comp.Bytes()) != binary.LittleEndian.Uint32(sum[:]) {
		return formatErr("block has another checksum")
	}
	return c.begin(r.comp.Bytes(), &sizes)
}

func cutOff(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return formatErr("it is cut off")
	}
	return err
}
