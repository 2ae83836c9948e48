package pull

import (
	"bufio"
	"bytes"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"go.podman.io/image/v5/pkg/compression"
)

// maxWindow bounds what a zstd layer may make us remember: zstd's own limit
// without --long, and several times what image tools use.
const maxWindow = 128 << 20

// tarStream is the uncompressed stream of a layer. At its end it reads the blob
// to its own end, so that the blob's digest is checked whatever follows the
// compressed data.
type tarStream struct {
	io.Reader
	raw   io.Reader
	close func()
}

func (t *tarStream) Read(p []byte) (int, error) {
	n, err := t.Reader.Read(p)
	if err == io.EOF {
		if _, derr := io.Copy(io.Discard, t.raw); derr != nil {
			err = derr
		}
	}
	return n, err
}

func (t *tarStream) Close() error {
	if t.close != nil {
		t.close()
	}
	return nil
}

// decompress looks at the content, not at the media type: registries serve
// both wrongly labelled.
func decompress(blob io.Reader) (*tarStream, error) {
	in := bufio.NewReaderSize(blob, 128<<10)
	head, err := in.Peek(6)
	if err != nil && err != io.EOF {
		return nil, err
	}
	t := &tarStream{raw: in}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b, 0x08}):
		r, err := gzip.NewReader(in)
		if err != nil {
			return nil, fmt.Errorf("decompressing: %w", err)
		}
		t.Reader = r
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}), isSkippable(head):
		r, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, fmt.Errorf("decompressing: %w", err)
		}
		t.Reader, t.close = r, r.Close
	case bytes.HasPrefix(head, []byte("BZh")):
		r, err := compression.Bzip2Decompressor(in)
		if err != nil {
			return nil, fmt.Errorf("decompressing: %w", err)
		}
		t.Reader = r
	case bytes.HasPrefix(head, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		r, err := compression.XzDecompressor(in)
		if err != nil {
			return nil, fmt.Errorf("decompressing: %w", err)
		}
		t.Reader = r
	default:
		t.Reader = in
	}
	return t, nil
}

// isSkippable recognises the frame that some zstd writers begin with.
func isSkippable(head []byte) bool {
	return len(head) >= 4 && head[0]&0xf0 == 0x50 && head[1] == 0x2a && head[2] == 0x4d && head[3] == 0x18
}
