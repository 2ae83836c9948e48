package pull

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"
	imgspecv1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// ErrCompressedArchive is for an archive that is compressed as a whole: what it
// holds can only be reached by unpacking it somewhere, which a pull does not do.
var ErrCompressedArchive = errors.New("the archive is compressed")

// errArchive marks what is wrong with an archive; trying again is no use.
var errArchive = errors.New("bad archive")

// maxArchiveEntries bounds what a tar's headers make us read and remember.
const maxArchiveEntries = 1 << 16

// tarIndex says where in an uncompressed tar the parts of an OCI layout lie.
type tarIndex struct {
	index tarRange // index.json; zero if there is none
	blobs map[digest.Digest]tarRange

	docker bool // it has a manifest.json
}

// tarRange is where a file's content lies, in bytes.
type tarRange struct{ offset, size int64 }

// openArchive opens an archive that is to be read at any place: a regular file
// that is not compressed. The caller closes it.
func openArchive(name string) (f *os.File, size int64, err error) {
	st, err := os.Stat(name) // before it is opened: that of a pipe would wait
	if err != nil {
		return nil, 0, err
	}
	if !st.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("%w: not a regular file", errArchive)
	}
	if f, err = os.Open(name); err != nil {
		return nil, 0, err
	}
	if st, err = f.Stat(); err == nil {
		err = checkUncompressed(f)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, st.Size(), nil
}

func checkUncompressed(r io.ReaderAt) error {
	head := make([]byte, 6)
	n, err := r.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return err
	}
	head = head[:n]
	for _, c := range []struct{ magic, name string }{
		{"\x1f\x8b\x08", "gzip"}, {"\x28\xb5\x2f\xfd", "zstd"}, {"BZh", "bzip2"}, {"\xfd7zXZ\x00", "xz"},
	} {
		if bytes.HasPrefix(head, []byte(c.magic)) {
			return fmt.Errorf("%w, with %s", ErrCompressedArchive, c.name)
		}
	}
	if isSkippable(head) {
		return fmt.Errorf("%w, with zstd", ErrCompressedArchive)
	}
	return nil
}

// indexTar reads the headers of a tar, and nothing else of it. What is neither
// index.json nor a blob is passed over, and so is what is not a plain file, has
// an absolute name or one with "..": nothing is ever written by these names. Of
// several files for one blob the last one counts, as it does for tar; several
// index.json are refused.
func indexTar(ctx context.Context, r io.ReaderAt, size int64) (*tarIndex, error) {
	in := io.NewSectionReader(r, 0, size)
	t := tar.NewReader(in)
	x := &tarIndex{blobs: map[digest.Digest]tarRange{}}
	for n := 0; ; n++ {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		h, err := t.Next()
		if err == io.EOF {
			return x, nil
		}
		var disk *fs.PathError
		switch {
		case errors.Is(err, io.ErrUnexpectedEOF):
			return nil, fmt.Errorf("%w: it is cut short: %w", errArchive, err)
		case errors.As(err, &disk): // its fault, not the archive's
			return nil, err
		case err != nil:
			return nil, fmt.Errorf("%w: %w", errArchive, err)
		case n >= maxArchiveEntries:
			return nil, fmt.Errorf("%w: more than %d entries", errArchive, maxArchiveEntries)
		}
		// tar.Reader reads whole headers and nothing ahead.
		offset, err := in.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		if err := x.add(h, tarRange{offset, h.Size}, size); err != nil {
			return nil, err
		}
	}
}

func (x *tarIndex) add(h *tar.Header, at tarRange, size int64) error {
	if h.Typeflag != tar.TypeReg || strings.HasPrefix(h.Name, "/") || strings.Contains("/"+h.Name+"/", "/../") {
		return nil
	}
	name := path.Clean(h.Name)
	blob, isBlob := blobDigest(name)
	if !isBlob && name != imgspecv1.ImageIndexFile && name != "manifest.json" {
		return nil
	}
	switch {
	case isSparse(h):
		return fmt.Errorf("%w: %s is stored as a sparse file", errArchive, name)
	case at.size > size-at.offset:
		return fmt.Errorf("%w: it is cut short within %s", errArchive, name)
	case isBlob:
		x.blobs[blob] = at
	case name != imgspecv1.ImageIndexFile:
		x.docker = true
	case x.index != tarRange{}:
		return fmt.Errorf("%w: more than one %s", errArchive, name)
	default:
		x.index = at
	}
	return nil
}

// blobDigest reads blobs/ALGORITHM/HEX.
func blobDigest(name string) (digest.Digest, bool) {
	rest, ok := strings.CutPrefix(name, imgspecv1.ImageBlobsDir+"/")
	algorithm, hex, found := strings.Cut(rest, "/")
	if !ok || !found || len(hex) > 128 {
		return "", false
	}
	d := digest.NewDigestFromEncoded(digest.Algorithm(algorithm), hex)
	return d, d.Validate() == nil
}

func isSparse(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false // the older forms are not of type TypeReg
}
