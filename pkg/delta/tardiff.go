package delta

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"path"

	"github.com/klauspost/compress/zstd"
)

// TarDiffMediaType is what a registry calls a delta of one layer as tar-diff
// makes it.
const TarDiffMediaType = "application/vnd.tar-diff"

const tarDiffMagic = "tardf1\n\x00"

// The operations of a tar-diff: a byte, a number, and for some as many bytes.
const (
	tdData = 0 // bytes to pass on
	tdOpen = 1 // the name of the file that the next ones are about
	tdCopy = 2 // bytes of that file
	tdAdd  = 3 // what is to be added to the next bytes of that file
	tdSeek = 4 // where in the file to go on
)

// tarDiffWindow is how far back the compression may reach. tar-diff's own makes
// 4 to 32 MB, depending on its level.
const tarDiffWindow = 32 << 20

// A TarDiffReader applies a tar-diff: it makes the tar of a layer from the files
// of another one.
type TarDiffReader struct {
	source *sourceErr
	dec    *zstd.Decoder
	in     *bufio.Reader
	base   FileSource

	path string
	file File
	pos  int64 // in file

	op   byte  // what left is about
	left int64 // bytes still to make
	buf  []byte
	err  error
}

// NewTarDiffReader begins to apply a delta. base has the files of the layer that
// the delta was made from, as that layer has them and not merged with others.
// The caller closes the reader; neither delta nor base is closed with it. It
// keeps 64 kB and what the compression needs, 32 MB at most and 8 MB if it was
// made by tar-diff's default.
//
// What comes out has no checksum and may be endless for all that the delta says:
// the caller compares it with the layer's diffID. An error is an ErrFormat if
// the delta is at fault, an ErrBase if a file is.
func NewTarDiffReader(delta io.Reader, base FileSource) (*TarDiffReader, error) {
	head := make([]byte, len(tarDiffMagic))
	if _, err := io.ReadFull(delta, head); err != nil {
		return nil, cutOff(err)
	}
	if string(head) != tarDiffMagic {
		return nil, formatErr("%q is not how a tar-diff begins", head)
	}
	source := &sourceErr{r: delta}
	dec, err := zstd.NewReader(source, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(tarDiffWindow), zstd.WithDecoderMaxMemory(maxSize))
	if err != nil {
		return nil, source.explain(err)
	}
	return &TarDiffReader{source: source, dec: dec, in: bufio.NewReaderSize(&explained{dec, source}, 32<<10), base: base}, nil
}

// Close frees what the reader holds.
func (r *TarDiffReader) Close() error {
	r.dec.Close()
	r.close()
	if r.err == nil {
		r.err = io.ErrClosedPipe
	}
	return nil
}

func (r *TarDiffReader) close() {
	if r.file != nil {
		_ = r.file.Close()
		r.file = nil
	}
}

// Read implements io.Reader.
func (r *TarDiffReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for r.err == nil {
		if r.left == 0 {
			r.err = r.next()
			continue
		}
		n, err := r.make(p[:min(int64(len(p)), r.left)])
		r.left -= int64(n)
		r.err = err
		if n > 0 {
			return n, nil
		}
	}
	return 0, r.err
}

// next reads an operation; io.EOF ends the delta.
func (r *TarDiffReader) next() error {
	op, err := r.in.ReadByte()
	if err != nil {
		return err // io.EOF included: nothing else marks the end
	}
	n, err := binary.ReadUvarint(r.in)
	if err != nil {
		return r.source.explain(cutOff(err))
	}
	if n > maxSize {
		return formatErr("operation of %d bytes", n)
	}
	r.op = op
	switch op {
	case tdData:
		r.left = int64(n)
		return nil
	case tdOpen:
		return r.open(n)
	case tdCopy, tdAdd, tdSeek:
	default:
		return formatErr("unknown operation %d", op)
	}
	switch {
	case r.file == nil:
		return formatErr("operation %d without a file", op)
	case op == tdSeek:
		r.pos = int64(n)
	case int64(n) > max(0, r.file.Size()-r.pos):
		// As often the file's fault as the delta's.
		return &BaseError{Path: r.path, Err: errShort}
	default:
		r.left = int64(n)
	}
	return nil
}

func (r *TarDiffReader) open(n uint64) error {
	if n > maxPath {
		return formatErr("name of %d bytes", n)
	}
	name := make([]byte, n)
	if _, err := io.ReadFull(r.in, name); err != nil {
		return cutOff(err)
	}
	r.close()
	// Names are as tars have them; none leads out of the base.
	r.path, r.pos = path.Clean("/" + string(name))[1:], 0
	if r.path == "" {
		return formatErr("file without a name")
	}
	f, err := r.base.Open(r.path)
	if err != nil {
		return &BaseError{Path: r.path, Err: err}
	}
	r.file = f
	return nil
}

// make fills p, or some of it, by the current operation.
func (r *TarDiffReader) make(p []byte) (int, error) {
	if r.op == tdData {
		n, err := r.in.Read(p)
		return n, cutOff(err)
	}
	if r.op == tdAdd {
		if r.buf == nil {
			r.buf = make([]byte, 32<<10)
		}
		p = p[:min(len(p), len(r.buf))]
	}
	n, err := r.file.ReadAt(p, r.pos)
	r.pos += int64(n)
	if n == 0 && err != nil {
		if errors.Is(err, io.EOF) {
			err = errShort
		}
		return 0, &BaseError{Path: r.path, Err: err}
	}
	if r.op == tdAdd {
		if _, err := io.ReadFull(r.in, r.buf[:n]); err != nil {
			return 0, cutOff(err)
		}
		for i, b := range r.buf[:n] {
			p[i] += b
		}
	}
	return n, nil
}

// sourceErr remembers how reading a delta failed, as opposed to uncompressing it.
type sourceErr struct {
	r   io.Reader
	err error
}

func (s *sourceErr) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// explain says whose fault an error of the decoder is.
func (s *sourceErr) explain(err error) error {
	switch {
	case s.err != nil:
		return s.err
	case err == nil, err == io.EOF, errors.Is(err, ErrFormat):
		return err
	}
	return formatErr("%v", err)
}

// explained is a decoder whose errors say whose fault they are.
type explained struct {
	dec    *zstd.Decoder
	source *sourceErr
}

func (e *explained) Read(p []byte) (int, error) {
	n, err := e.dec.Read(p)
	return n, e.source.explain(err)
}
