package delta

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"
)

// A LayerTar is a layer as an uncompressed tar.
type LayerTar struct {
	DiffID digest.Digest
	// Size is how long it is, if that is known. Create, which has to say
	// so first, otherwise reads the layer once more to find out. It fails
	// with ErrSize if that turns out to be wrong.
	Size int64
	// Open starts reading; the reader is closed.
	Open func(context.Context) (io.ReadCloser, error)
}

// A TarSource is a FileSource over the layers of an image that is not unpacked:
// it keeps what is in the files in one temporary file. For servers, which make
// deltas without having images in storage.
type TarSource struct {
	spool *os.File
	size  int64
	root  *node
}

type node struct {
	mode     fs.FileMode // 0, fs.ModeDir, fs.ModeSymlink, or something else that is left out
	layer    int
	off, len int64
	link     string
	children map[string]*node
}

// NewTarSource merges layers, the lowest first, as unpacking them one over the
// other would. The temporary file is made in dir ("" for the system's own
// folder), without a name. The caller closes the source.
func NewTarSource(ctx context.Context, layers []LayerTar, dir string) (*TarSource, error) {
	f, err := os.CreateTemp(dir, "balena-delta-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	s := &TarSource{spool: f, root: &node{mode: fs.ModeDir}}
	for i, l := range layers {
		if err := s.addLayer(ctx, i, l); err != nil {
			f.Close()
			return nil, fmt.Errorf("reading layer %s: %w", l.DiffID, err)
		}
	}
	return s, nil
}

// Close gives the temporary file up.
func (s *TarSource) Close() error { return s.spool.Close() }

func (s *TarSource) addLayer(ctx context.Context, i int, l LayerTar) error {
	r, err := l.Open(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	tr := tar.NewReader(r)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.add(i, h, tr); err != nil {
			return err
		}
	}
}

func (s *TarSource) add(layer int, h *tar.Header, r io.Reader) error {
	p := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
	dir, base := path.Split(p)
	parent := s.folder(dir, layer)
	if parent == nil {
		return nil // an unpacker would fail
	}
	if hidden, ok := strings.CutPrefix(base, ".wh."); ok {
		for name, c := range parent.children {
			if c.layer < layer && (hidden == ".wh..opq" || hidden == name) {
				delete(parent.children, name)
			}
		}
		return nil
	}
	n := &node{layer: layer}
	switch h.Typeflag {
	case tar.TypeDir:
		if base == "" {
			return nil
		}
		n.mode = fs.ModeDir
		if old := parent.children[base]; old != nil && old.mode == fs.ModeDir {
			n.children = old.children
		}
	case tar.TypeSymlink:
		n.mode, n.link = fs.ModeSymlink, h.Linkname
	case tar.TypeLink:
		dir, name := path.Split(path.Clean("/" + h.Linkname))
		from := s.folder(dir, layer)
		if from == nil {
			return nil
		}
		to := from.children[name]
		if to == nil || to.mode == fs.ModeDir {
			return nil
		}
		*n = *to
		n.layer = layer
	case tar.TypeReg, tar.TypeGNUSparse:
		n.off = s.size
		var err error
		if n.len, err = s.store(r); err != nil {
			return err
		}
	default:
		n.mode = fs.ModeIrregular
	}
	if base != "" {
		parent.put(base, n)
	}
	return nil
}

// folder finds a folder as an unpacker would, which makes those that are missing
// and follows symbolic links within the image.
func (s *TarSource) folder(dir string, layer int) *node {
	at := []*node{s.root}
	links := 0
	for rest := dir; rest != ""; {
		var c string
		c, rest, _ = strings.Cut(rest, "/")
		here := at[len(at)-1]
		switch c {
		case "", ".":
			continue
		case "..":
			at = at[:max(1, len(at)-1)]
			continue
		}
		next := here.children[c]
		if next == nil {
			next = &node{mode: fs.ModeDir, layer: layer}
			here.put(c, next)
		}
		switch next.mode {
		case fs.ModeDir:
			at = append(at, next)
		case fs.ModeSymlink:
			if links++; links > 40 {
				return nil
			}
			if strings.HasPrefix(next.link, "/") {
				at = at[:1]
			}
			rest = next.link + "/" + rest
		default:
			return nil
		}
	}
	return at[len(at)-1]
}

func (n *node) put(name string, c *node) {
	if n.children == nil {
		n.children = map[string]*node{}
	}
	n.children[name] = c
}

// store appends to the spool, leaving holes for zeros.
func (s *TarSource) store(r io.Reader) (int64, error) {
	buf := make([]byte, 64<<10)
	start := s.size
	for {
		n, err := io.ReadFull(r, buf)
		if !allZero(buf[:n]) {
			if _, err := s.spool.WriteAt(buf[:n], s.size); err != nil {
				return 0, err
			}
		}
		s.size += int64(n)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return s.size - start, s.spool.Truncate(s.size)
		}
		if err != nil {
			return 0, err
		}
	}
}

func allZero(b []byte) bool {
	for _, v := range b {
		if v != 0 {
			return false
		}
	}
	return true
}

func (s *TarSource) find(p string) *node {
	n := s.root
	if p == "" {
		return n
	}
	for _, c := range strings.Split(p, "/") {
		if n = n.children[c]; n == nil {
			return nil
		}
	}
	return n
}

// Open implements FileSource.
func (s *TarSource) Open(p string) (File, error) {
	n := s.find(p)
	if n == nil || n.mode != 0 {
		return nil, fs.ErrNotExist
	}
	return tarFile{io.NewSectionReader(s.spool, n.off, n.len)}, nil
}

type tarFile struct{ *io.SectionReader }

func (tarFile) Close() error { return nil }

// ReadDir implements FileSource.
func (s *TarSource) ReadDir(p string) ([]Dirent, error) {
	n := s.find(p)
	if n == nil || n.mode != fs.ModeDir {
		return nil, fs.ErrNotExist
	}
	var out []Dirent
	for name, c := range n.children {
		if c.mode == 0 || c.mode == fs.ModeDir || c.mode == fs.ModeSymlink {
			out = append(out, Dirent{name, c.mode})
		}
	}
	sortDirents(out)
	return out, nil
}

// Readlink implements FileSource.
func (s *TarSource) Readlink(p string) (string, error) {
	n := s.find(p)
	if n == nil || n.mode != fs.ModeSymlink {
		return "", fs.ErrNotExist
	}
	return n.link, nil
}
