package pull

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime/debug"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"go.podman.io/image/v5/pkg/compression"
)

// What a zstd layer may make us remember: at most zstd's own limit without
// --long, several times what image tools use, and at least what every decoder
// should have. Between them the memory decides: this is for three layers.
const (
	maxWindow = 128 << 20
	minWindow = 8 << 20
)

// window is that bound here. The heap's limit is half of what there is.
func window() uint64 {
	limit := debug.SetMemoryLimit(-1)
	return uint64(min(max(limit/max(1, min(3, 2*limit/memoryPerLayer)), minWindow), maxWindow))
}

// ErrCompression is for layers that are compressed in a way that is not read.
var ErrCompression = errors.New("layers may be compressed with gzip, zstd or bzip2 only")

// tarStream is the uncompressed stream of a layer. At its end it reads the blob
// to its own end, so that the blob's digest is checked whatever follows the
// compressed data.
type tarStream struct {
	io.Reader
	raw   io.Reader
	close func()
	n     int64
}

func (t *tarStream) Read(p []byte) (int, error) {
	n, err := t.Reader.Read(p)
	t.n += int64(n)
	switch {
	case errors.Is(err, zstd.ErrWindowSizeExceeded):
		err = fmt.Errorf("decompressing: it needs more than %d MB of memory: %w", window()>>20, err)
	case err == io.EOF:
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
		r, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(window()))
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
		// Each of its blocks names the memory that it needs, up to 4 GB.
		return nil, fmt.Errorf("decompressing xz: %w", ErrCompression)
	default:
		t.Reader = in
	}
	return t, nil
}

// isSkippable recognises the frame that some zstd writers begin with.
func isSkippable(head []byte) bool {
	return len(head) >= 4 && head[0]&0xf0 == 0x50 && head[1] == 0x2a && head[2] == 0x4d && head[3] == 0x18
}
