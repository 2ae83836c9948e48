package delta

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// librsyncMagic begins every librsync delta.
const librsyncMagic = 0x72730236

// The commands of a librsync delta. Numbers after a command are big-endian, and
// of 1, 2, 4 or 8 bytes, which the command says.
const (
	rsEnd       = 0x00
	rsLiteral1  = 0x01 // as many bytes as the command says, up to rsLiteral64
	rsLiteral64 = 0x40
	rsLiteralN  = 0x41 // +0 to +3: the width of the length
	rsCopy      = 0x45 // +4*width of the place, +width of the length
	rsReserved  = 0x55
)

// A librsyncReader applies a librsync delta.
type librsyncReader struct {
	in   *bufio.Reader
	base io.ReaderAt
	size int64 // of the base

	literal int64 // bytes of the delta that are still to be passed on
	at      int64 // where in the base the copy goes on
	copy    int64 // bytes of the base that are still to be passed on
	err     error
}

// NewLibrsyncReader applies a delta as librsync (rdiff) makes it, which are what
// balena-engine's images with deltas have inside, to a base of baseSize bytes.
// It keeps one buffer of 32 kB, whatever the delta asks for, and reads nothing
// that follows its end.
//
// What comes out has no checksum and may be endless for all that the delta says:
// the caller compares it with a digest. An error is an ErrFormat if the delta is
// at fault, else an ErrBase or that of reading the delta.
func NewLibrsyncReader(delta io.Reader, base io.ReaderAt, baseSize int64) io.Reader {
	return &librsyncReader{in: bufio.NewReaderSize(delta, 32<<10), base: base, size: baseSize, at: -1}
}

func (r *librsyncReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for r.err == nil {
		switch {
		case r.literal > 0:
			n, err := r.in.Read(p[:min(int64(len(p)), r.literal)])
			r.literal -= int64(n)
			if err != nil {
				r.err = cutOff(err)
			}
			if n > 0 {
				return n, nil
			}
		case r.copy > 0:
			n, err := r.base.ReadAt(p[:min(int64(len(p)), r.copy)], r.at)
			r.at += int64(n)
			r.copy -= int64(n)
			if n > 0 {
				return n, nil
			}
			if err != nil {
				r.err = baseErr(err)
			}
		default:
			r.err = r.command()
		}
	}
	return 0, r.err
}

// baseErr says that the base could not be read, unless the error does already.
func baseErr(err error) error {
	if errors.Is(err, ErrBase) {
		return err
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%w: %w", ErrBase, err)
}

// command reads the next command; io.EOF is the one that ends the delta.
func (r *librsyncReader) command() error {
	if r.at < 0 {
		magic, err := r.number(2)
		if err != nil {
			return err
		}
		if magic != librsyncMagic {
			return formatErr("%#x is not how a librsync delta begins", magic)
		}
		r.at = 0
	}
	c, err := r.in.ReadByte()
	if err != nil {
		return cutOff(err)
	}
	switch {
	case c == rsEnd:
		return io.EOF
	case c <= rsLiteral64:
		r.literal = int64(c)
		return nil
	case c < rsCopy:
		r.literal, err = r.number(c - rsLiteralN)
		return err
	case c >= rsReserved:
		return formatErr("unknown command %#x", c)
	}
	if r.at, err = r.number((c - rsCopy) / 4); err != nil {
		return err
	}
	if r.copy, err = r.number((c - rsCopy) % 4); err != nil {
		return err
	}
	if r.at > r.size || r.copy > r.size-r.at {
		return formatErr("%d bytes at %d of a base that has %d", r.copy, r.at, r.size)
	}
	return nil
}

// number reads a number of 1<<width bytes.
func (r *librsyncReader) number(width byte) (int64, error) {
	var b [8]byte
	if _, err := io.ReadFull(r.in, b[8-1<<width:]); err != nil {
		return 0, cutOff(err)
	}
	n := binary.BigEndian.Uint64(b[:])
	if n > maxSize {
		return 0, formatErr("a number of %d", n)
	}
	return int64(n), nil
}
