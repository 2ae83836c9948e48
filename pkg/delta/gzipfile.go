package delta

import (
	"bytes"
	"compress/gzip"
	"io"
)

// A gzipped is a file that gzip made, in parts.
type gzipped struct {
	head  []byte // before what is compressed
	level int
	inner []byte
}

// ungzip takes a file apart if GNU gzip would make the same of what is in it.
func ungzip(b []byte) *gzipped {
	if len(b) < 18 || len(b) > maxInflated || b[0] != 0x1f || b[1] != 0x8b || b[2] != 8 {
		return nil
	}
	head := gzipHead(b)
	inner, ok := inflate(bytes.NewReader(b), int64(len(b)))
	if head == 0 || !ok || len(inner) == 0 {
		return nil
	}
	levels := []int{6, 9}
	if b[8] == 2 {
		levels = []int{9}
	}
	var z gzipper
	for _, level := range levels {
		z.reset(level)
		out := z.write(bytes.Clone(b[:head]), inner)
		if bytes.Equal(z.finish(out), b) {
			return &gzipped{head: b[:head], level: level, inner: inner}
		}
	}
	return nil
}

// gzipHead is how long the header is; 0 if it is not one of the usual ones.
func gzipHead(b []byte) int {
	switch b[3] {
	case 0:
		return 10
	case 8: // a name follows
		if i := bytes.IndexByte(b[10:min(len(b), maxGzipHead)], 0); i >= 0 {
			return 10 + i + 1
		}
	}
	return 0
}

// inflate returns what is in a gzip file, if that is not too much to keep.
func inflate(r io.Reader, size int64) ([]byte, bool) {
	if size > maxInflated {
		return nil, false
	}
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, false
	}
	var b bytes.Buffer
	n, err := io.CopyN(&b, z, maxInflated+1)
	return b.Bytes(), err == io.EOF && n <= maxInflated
}

// An inflated file is a base file's content, inflated.
type inflatedFile struct {
	*bytes.Reader
}

func (inflatedFile) Close() error { return nil }

func inflateFile(f File) (File, bool) {
	defer f.Close()
	b, ok := inflate(io.NewSectionReader(f, 0, f.Size()), f.Size())
	return inflatedFile{bytes.NewReader(b)}, ok
}
