package pull

import (
	"context"
	"fmt"
	"os"
	"unsafe"

	"go.podman.io/storage"
	"golang.org/x/sys/unix"

	"github.com/balena-os/balena/pkg/delta"
)

// deltaBase is an image that a delta starts from, while it is read.
type deltaBase struct {
	image *storage.Image
	files *coldFiles
	root  *os.File
	unpin func()
}

// openBase opens the files of an image in the store, and keeps the image from
// being removed until the base is closed.
func (p *puller) openBase(ctx context.Context, img *storage.Image) (_ *deltaBase, err error) {
	b := &deltaBase{image: img, files: &coldFiles{}}
	if b.unpin, err = p.w.Pin(ctx, img.ID); err != nil {
		return nil, err
	}
	if _, err = p.layers.Image(img.ID); err == nil {
		b.root, err = p.w.OpenRoot(ctx, img.TopLayer)
	}
	if err == nil {
		b.files.DirSource, err = delta.OpenDir(fmt.Sprintf("/proc/self/fd/%d", b.root.Fd()))
	}
	if err != nil {
		b.Close()
		return nil, fmt.Errorf("opening image %s: %w", imageName(img), err)
	}
	return b, nil
}

func (b *deltaBase) Close() {
	b.files.drop(0)
	if b.files.DirSource != nil {
		_ = b.files.Close()
	}
	if b.root != nil {
		b.root.Close()
	}
	b.unpin()
}

// coldFiles are the files of a base that leave the page cache as they found it:
// what was not in it before, because nobody uses it now, is dropped from it when
// it was read. A running container keeps what it has there.
type coldFiles struct {
	*delta.DirSource
	read []*coldFile // to be dropped: not at once, while the kernel still has the pages in hand
}

// coldDelay is how many files are kept open before their pages are dropped.
const coldDelay = 64

// Open implements delta.FileSource.
func (s *coldFiles) Open(p string) (delta.File, error) {
	f, err := s.DirSource.Open(p)
	if err != nil {
		return nil, err
	}
	if d, ok := f.(interface{ Fd() uintptr }); ok && !cached(int(d.Fd()), f.Size()) {
		return &coldFile{f, s, int(d.Fd())}, nil
	}
	return f, nil
}

func (s *coldFiles) drop(keep int) {
	for len(s.read) > keep {
		_ = unix.Fadvise(s.read[0].fd, 0, 0, unix.FADV_DONTNEED)
		_ = s.read[0].File.Close()
		s.read = s.read[1:]
	}
}

type coldFile struct {
	delta.File
	from *coldFiles
	fd   int
}

// Close implements delta.File.
func (f *coldFile) Close() error {
	f.from.read = append(f.from.read, f)
	f.from.drop(coldDelay)
	return nil
}

// cached tells whether something of a file is in the page cache. When in doubt,
// it is.
func cached(fd int, size int64) bool {
	const most = 64 << 20 // of the file is looked at
	size = min(size, most)
	if size == 0 {
		return true
	}
	m, err := unix.Mmap(fd, 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return true
	}
	defer unix.Munmap(m) //nolint:errcheck // of what was just mapped
	pages := make([]byte, (size+int64(os.Getpagesize())-1)/int64(os.Getpagesize()))
	_, _, e := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), uintptr(unsafe.Pointer(&pages[0])))
	if e != 0 {
		return true
	}
	for _, p := range pages {
		if p&1 != 0 {
			return true
		}
	}
	return false
}
