package durable

import (
	"bufio"
	"fmt"
	"hash/crc64"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/gzip"
	"github.com/vbatts/tar-split/archive/tar"
	"go.podman.io/storage/pkg/archive"
)

// file is a regular file's place in the tar stream. end is -1 while its
// content still arrives.
type file struct {
	name       string
	start, end int64
}

// files is what the splitter has seen and the flusher has not handled yet.
type files struct {
	mu    sync.Mutex
	queue []file
	count atomic.Int64 // len(queue), readable without the lock
	all   atomic.Int64 // entries of any kind, so far
}

func (f *files) begin(name string, at int64) {
	f.mu.Lock()
	f.queue = append(f.queue, file{name: name, start: at, end: -1})
	f.count.Store(int64(len(f.queue)))
	f.mu.Unlock()
}

func (f *files) finish(at int64) {
	f.mu.Lock()
	if n := len(f.queue); n > 0 {
		f.queue[n-1].end = at
	}
	f.mu.Unlock()
}

// finished removes and returns the files that end at or before the offset; open
// is the file around it, if its content is still arriving.
func (f *files) finished(offset int64, into []file) (done []file, open file) {
	if f.count.Load() == 0 {
		return into[:0], file{}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for n < len(f.queue) && f.queue[n].end >= 0 && f.queue[n].end <= offset {
		n++
	}
	done = append(into[:0], f.queue[:n]...)
	f.queue = slices.Delete(f.queue, 0, n)
	f.count.Store(int64(len(f.queue)))
	if len(f.queue) > 0 && f.queue[0].start < offset {
		open = f.queue[0]
	}
	return done, open
}

// split is what one pass over the tar stream finds out.
type split struct {
	uids, gids idSet
	rootMode   *os.FileMode // mode of the entry "./", if the tar has one
	size       int64        // bytes of the uncompressed tar
	recorded   int64        // bytes of it that the tar-split data accounts for
}

// exact tells whether the same tar can be made again. tar-split cannot do it
// for sparse files, nor for a stream that breaks off within a block.
func (s *split) exact() bool { return s.recorded == s.size }

var crcTable = crc64.MakeTable(crc64.ISO) // tar-split's checksum of file contents

// splitStream reads the tar stream to its very end, records in tsData what is
// needed to make the same tar again (tar-split's format, compressed as
// containers/storage stores it) and tells seen which files pass by.
func splitStream(in *linkReader, tsData io.Writer, seen *files) (*split, error) {
	out := bufio.NewWriterSize(tsData, 32<<10)
	gz, err := gzip.NewWriterLevel(out, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	s := &split{uids: idSet{}, gids: idSet{}}
	if err := s.entries(in, newRecorder(gz), seen); err != nil {
		return nil, err
	}
	s.size = in.n
	if err := gz.Close(); err != nil {
		return nil, fmt.Errorf("recording the layer's tar headers: %w", err)
	}
	if err := out.Flush(); err != nil {
		return nil, fmt.Errorf("recording the layer's tar headers: %w", err)
	}
	return s, nil
}

func (s *split) entries(in *linkReader, out *recorder, seen *files) error {
	segment := func(b []byte) error {
		if len(b) == 0 {
			return nil
		}
		s.recorded += int64(len(b))
		return out.segment(b)
	}
	tr := tar.NewReader(in)
	tr.RawAccounting = true
	buf := make([]byte, 64<<10)
	for {
		hdr, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("reading the layer's tar: %w", err)
		}
		if err := segment(tr.RawBytes()); err != nil {
			return err
		}
		s.note(hdr)
		seen.all.Add(1)
		var sum []byte
		if hdr.Size > 0 {
			regular := hdr.Typeflag == tar.TypeReg || hdr.Typeflag == tar.TypeRegA
			if regular {
				seen.begin(hdr.Name, in.n)
			}
			crc := crc64.New(crcTable)
			if _, err := io.CopyBuffer(struct{ io.Writer }{crc}, struct{ io.Reader }{tr}, buf); err != nil {
				return fmt.Errorf("reading %q from the layer's tar: %w", hdr.Name, err)
			}
			sum = crc.Sum(nil)
			if regular {
				seen.finish(in.n)
			}
		}
		s.recorded += hdr.Size
		if err := out.file(hdr, sum); err != nil {
			return err
		}
		if err := segment(tr.RawBytes()); err != nil {
			return err
		}
	}
	if err := segment(tr.RawBytes()); err != nil {
		return err
	}
	for { // whatever follows the end-of-archive marker belongs to the digest too
		n, err := in.Read(buf)
		if serr := segment(buf[:n]); serr != nil {
			return serr
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (s *split) note(hdr *tar.Header) {
	if strings.HasPrefix(path.Base(hdr.Name), archive.WhiteoutPrefix) {
		return
	}
	s.uids.add(uint32(hdr.Uid))
	s.gids.add(uint32(hdr.Gid))
	if hdr.Typeflag == tar.TypeDir && path.Clean("/"+hdr.Name) == "/" {
		mode := hdr.FileInfo().Mode()
		s.rootMode = &mode
	}
}
