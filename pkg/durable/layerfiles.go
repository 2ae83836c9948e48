package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"
	graphdriver "go.podman.io/storage/drivers"
	"golang.org/x/sys/unix"
)

// layerFiles gives the files of one layer by the names that its tar had for
// them. A link in a layer leads where it led when the layer was unpacked, which
// is never out of its folder: the driver's own getter would open what the link
// means on the host, be it a file of the user's or a device.
type layerFiles struct{ dirs []*os.File }

// openLayerFiles looks into the layer's folder first, then into those below,
// for a layer that is a copy of another with other owners.
func openLayerFiles(home, id string) (*layerFiles, error) {
	diff := filepath.Join(home, id, "diff")
	if filepath.Base(home) == "vfs" {
		diff = filepath.Join(home, "dir", id)
	}
	paths := []string{diff}
	below, err := os.ReadFile(filepath.Join(home, id, "lower"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for link := range strings.SplitSeq(string(below), ":") {
		if link != "" {
			paths = append(paths, filepath.Join(home, link))
		}
	}
	l := &layerFiles{}
	for i, p := range paths {
		d, err := os.Open(p)
		if i > 0 && errors.Is(err, fs.ErrNotExist) {
			d, err = openByShortName(home, p)
		}
		if err != nil {
			return nil, errors.Join(err, l.Close())
		}
		l.dirs = append(l.dirs, d)
	}
	return l, nil
}

// openByShortName opens a layer's folder whose short name, a link in the
// driver's folder l, is missing, and puts the name back, as the driver does before
// it mounts: the layer itself knows it.
func openByShortName(home, name string) (*os.File, error) {
	own, err := filepath.Glob(filepath.Join(home, "*", "link"))
	if err != nil {
		return nil, err
	}
	for _, file := range own {
		text, err := os.ReadFile(file)
		if err != nil || string(text) != filepath.Base(name) {
			continue
		}
		diff := filepath.Join(filepath.Dir(file), "diff")
		// only a convenience here: whoever mounts the layer tries again
		_ = os.Symlink(filepath.Join("..", filepath.Base(filepath.Dir(file)), "diff"), name)
		return os.Open(diff)
	}
	return nil, fmt.Errorf("a layer below it is missing: no layer has the short name %s", filepath.Base(name))
}

var _ graphdriver.FileGetCloser = (*layerFiles)(nil)

func (l *layerFiles) Close() error {
	var errs []error
	for _, d := range l.dirs {
		errs = append(errs, d.Close())
	}
	return errors.Join(errs...)
}

// Get opens a regular file.
func (l *layerFiles) Get(name string) (io.ReadCloser, error) {
	for _, d := range l.dirs {
		f, err := openBelow(d, name)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return f, nil
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

// openBelow opens a regular file as if dir were the root folder, without
// waiting for a FIFO or waking a device.
func openBelow(dir *os.File, name string) (*os.File, error) {
	fd, err := pathBelow(dir, name)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("%s is no file any more", name)
	}
	return os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
}

// pathBelow finds a file as if dir were the root folder, without opening it; a
// link at the end is not followed. The caller closes the descriptor.
func pathBelow(dir *os.File, name string) (int, error) {
	name = path.Clean("/" + name)
	how := &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	fd, err := unix.Openat2(int(dir.Fd()), name, how)
	if err != unix.ENOSYS && err != unix.EPERM { // an old kernel, or a filter that does not know it
		return fd, err
	}
	parent, err := securejoin.SecureJoin(dir.Name(), path.Dir(name))
	if err != nil {
		return -1, err
	}
	return unix.Open(filepath.Join(parent, path.Base(name)), int(how.Flags), 0)
}
