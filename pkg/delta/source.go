package delta

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A FileSource gives access to the files of a base image, merged through its
// layers. Paths are relative to its root, without a leading slash, "" being the
// root itself; no component of them may be followed if it is a symbolic link.
// What is not there is an fs.ErrNotExist. It is used by one goroutine at a time.
type FileSource interface {
	// Open opens a regular file; anything else does not exist.
	Open(path string) (File, error)
	// ReadDir lists the regular files, folders and symbolic links of a
	// folder, sorted by the bytes of their names. Devices, pipes and
	// sockets are left out: an unprivileged user does not get them.
	ReadDir(path string) ([]Dirent, error)
	// Readlink says where a symbolic link points.
	Readlink(path string) (string, error)
}

// A File is a regular file of a base image.
type File interface {
	io.ReaderAt
	io.Closer
	Size() int64
}

// A Dirent is one name in a folder of a base image.
type Dirent struct {
	Name string
	Type fs.FileMode // 0, fs.ModeDir or fs.ModeSymlink
}

// A DirSource is a FileSource over a folder: the root of a mounted image, or of
// one that lies unpacked. It never follows a symbolic link, so that nothing
// outside of the folder can be reached, whatever the delta asks for.
type DirSource struct {
	root int
	dir  string // the folder that fd is open for
	fd   int
}

// OpenDir makes a FileSource of a folder. The caller closes it.
func OpenDir(dir string) (*DirSource, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	return &DirSource{root: fd, fd: -1}, nil
}

// Close closes what is open; files that were opened stay usable.
func (s *DirSource) Close() error {
	s.forget()
	return unix.Close(s.root)
}

func (s *DirSource) forget() {
	if s.fd >= 0 {
		_ = unix.Close(s.fd)
		s.fd = -1
	}
}

// at returns a descriptor of the folder, which stays the source's own. The last
// one is kept open, since a delta goes through the files of a folder in turn.
func (s *DirSource) at(dir string) (int, error) {
	if dir == "" {
		return s.root, nil
	}
	if s.fd >= 0 && s.dir == dir {
		return s.fd, nil
	}
	fd, rest := s.root, dir
	if s.fd >= 0 && strings.HasPrefix(dir, s.dir+"/") {
		fd, rest = s.fd, dir[len(s.dir)+1:]
	}
	for _, name := range strings.Split(rest, "/") {
		if !validName(name) {
			return -1, fs.ErrNotExist
		}
		next, err := retry(func() (int, error) {
			return unix.Openat(fd, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		})
		if fd != s.root && fd != s.fd {
			_ = unix.Close(fd)
		}
		if err != nil {
			return -1, absent(err)
		}
		fd = next
	}
	s.forget()
	s.fd, s.dir = fd, dir
	return fd, nil
}

// absent makes an fs.ErrNotExist of every way in which a path leads nowhere.
func absent(err error) error {
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENAMETOOLONG) || errors.Is(err, unix.EINVAL) {
		return fs.ErrNotExist
	}
	return err
}

func retry(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

func validName(name string) bool {
	return name != "" && name != "." && name != ".." && strings.IndexByte(name, 0) < 0 && strings.IndexByte(name, '/') < 0
}

func (s *DirSource) parent(p string) (fd int, name string, err error) {
	dir, name := path.Split(p)
	if !validName(name) {
		return -1, "", fs.ErrNotExist
	}
	fd, err = s.at(strings.TrimSuffix(dir, "/"))
	return fd, name, err
}

// Open implements FileSource.
func (s *DirSource) Open(p string) (File, error) {
	dir, name, err := s.parent(p)
	if err != nil {
		return nil, err
	}
	// A device is not opened even for a moment: that can have effects.
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, absent(err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fs.ErrNotExist
	}
	fd, err := retry(func() (int, error) {
		return unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, absent(err)
	}
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		_ = unix.Close(fd)
		return nil, errors.Join(fs.ErrNotExist, err)
	}
	return &dirFile{File: os.NewFile(uintptr(fd), p), size: st.Size}, nil
}

type dirFile struct {
	*os.File
	size int64
}

func (f *dirFile) Size() int64 { return f.size }

// ReadDir implements FileSource.
func (s *DirSource) ReadDir(p string) ([]Dirent, error) {
	dir, err := s.at(p)
	if err != nil {
		return nil, err
	}
	fd, err := retry(func() (int, error) {
		return unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, absent(err)
	}
	f := os.NewFile(uintptr(fd), p)
	defer f.Close()
	list, err := f.ReadDir(-1)
	if err != nil {
		return nil, fmt.Errorf("reading folder %q of the base: %w", p, err)
	}
	var out []Dirent
	for _, e := range list {
		if t := e.Type(); t == 0 || t == fs.ModeDir || t == fs.ModeSymlink {
			out = append(out, Dirent{e.Name(), t})
		}
	}
	sortDirents(out)
	return out, nil
}

func sortDirents(list []Dirent) {
	slices.SortFunc(list, func(a, b Dirent) int { return strings.Compare(a.Name, b.Name) })
}

// Readlink implements FileSource.
func (s *DirSource) Readlink(p string) (string, error) {
	dir, name, err := s.parent(p)
	if err != nil {
		return "", err
	}
	buf := make([]byte, maxPath+1)
	n, err := retry(func() (int, error) { return unix.Readlinkat(dir, name, buf) })
	if err != nil {
		return "", absent(err)
	}
	return string(buf[:n]), nil
}
