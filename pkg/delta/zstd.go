package delta

import (
	"bytes"
	"io"

	"github.com/klauspost/compress/zstd"
)

// zstdEncoder writes all blocks into one zstd frame, a block's columns one after
// the other, each beginning with a zstd block of its own.
type zstdEncoder struct {
	out bytes.Buffer
	enc *zstd.Encoder
}

func newZstdEncoder(level int) (*zstdEncoder, error) {
	e := &zstdEncoder{}
	var err error
	e.enc, err = zstd.NewWriter(&e.out, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false),
		zstd.WithWindowSize(maxWindow), zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)))
	return e, err
}

func (e *zstdEncoder) encode(s *sheet) ([]byte, error) {
	e.out.Reset()
	for _, col := range s.cols {
		if len(col) == 0 {
			continue
		}
		if _, err := e.enc.Write(col); err != nil {
			return nil, err
		}
		if err := e.enc.Flush(); err != nil {
			return nil, err
		}
	}
	return e.out.Bytes(), nil
}

type zstdDecoder struct {
	in  bytes.Reader
	dec *zstd.Decoder
	buf []byte
}

func newZstdDecoder() (*zstdDecoder, error) {
	d := &zstdDecoder{}
	var err error
	d.dec, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecodeBuffersBelow(0))
	return d, err
}

func (d *zstdDecoder) more(_ int, out []byte) ([]byte, error) { return out, nil }

func (d *zstdDecoder) undecoded(int) int { return 0 }

func (d *zstdDecoder) setDict(*dictionary) bool { return false }

// begin decodes all columns.
func (d *zstdDecoder) begin(comp []byte, cols *[numColumns][]byte, sizes *[numColumns]int) error {
	first := d.buf == nil
	d.in.Reset(comp)
	if first {
		if err := d.dec.Reset(&d.in); err != nil {
			return formatErr("%v", err)
		}
	}
	total := 0
	for _, n := range sizes {
		total += n
	}
	if cap(d.buf) < total {
		d.buf = make([]byte, total)
	}
	d.buf = d.buf[:total]
	if _, err := io.ReadFull(d.dec, d.buf); err != nil {
		return formatErr("%v", err)
	}
	if d.in.Len() > 0 {
		return formatErr("block is longer than it says")
	}
	at := 0
	for i, n := range sizes {
		cols[i] = d.buf[at : at+n : at+n]
		at += n
	}
	return nil
}
