package durable

import (
	"path"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// flushWindow is how many bytes of one layer may be on their way to the
	// disk before the extraction waits for them.
	flushWindow = 8 << 20
	// flushTogether is how many bytes of small files are written back at once,
	// and flushSmall up to where a file is small. What one call writes back the
	// block layer merges: one request for dozens of neighbouring files.
	flushTogether = 8 << 20
	flushSmall    = 1 << 20
	// flushStep is how much of one large file is written back at a time.
	flushStep = 4 << 20
	// flushBatch is how many files, and flushBytes how much of them, are handed
	// to the waiter at once: waking it for each file costs more than the file.
	flushBatch = 24
	flushBytes = 2 << 20
	// flushQueue is how many batches may wait; it bounds the open files.
	flushQueue = 2
	// flushFiles is how many entries are written back at once at the most, empty
	// files and folders too: until then the kernel keeps their inodes, of 1 kB.
	flushFiles = 4096
)

// flusher follows the unpacker: it starts write-back of what was just
// extracted, and once that is clean drops it from the page cache. Of large files
// it writes back each part as it comes, of small ones several megabytes
// together, by syncing the filesystem. It opens files by name in the chroot of
// the extracting thread, so that no symbolic link leads it out, and waits for
// the disk in a goroutine of its own.
type flusher struct {
	seen    *files
	sync    func(fd int) error // of the filesystem
	root    int                // any descriptor on it
	wait    chan batch
	batch   []extent
	weight  int64    // bytes of the batch
	small   []string // written, and not handed to the waiter
	smalls  int64    // bytes of them
	synced  int64    // entries that were handed to the waiter
	done    chan error
	buf     []file
	stopped bool

	mu      sync.Mutex
	room    sync.Cond
	pending int64    // bytes that were handed to the waiter, and are not clean
	clean   []string // small files that are, and still in the page cache

	open   string // the file whose content is arriving
	openFD int
	openAt int64 // up to here write-back was started
}

// batch is what the waiter waits for: parts of files, or a sync and so all of
// the small files.
type batch struct {
	extents []extent
	small   []string
	sync    bool
	bytes   int64
}

type extent struct {
	fd       int
	off, len int64
	close    bool // the last of its file: up to the end, whatever len says
}

func newFlusher(seen *files, sync func(fd int) error) *flusher {
	f := &flusher{
		seen:   seen,
		sync:   sync,
		root:   -1,
		wait:   make(chan batch, flushQueue),
		done:   make(chan error, 1),
		openFD: -1,
	}
	f.room.L = &f.mu
	go f.waiter()
	return f
}

// waiter waits for the disk, in the order in which write-back was started.
// The first error is kept: write-back errors are reported once.
func (f *flusher) waiter() {
	var first error
	const all = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	for b := range f.wait {
		for _, e := range b.extents {
			n := e.len
			if e.close {
				n = 0 // to the end
			}
			if err := unix.SyncFileRange(e.fd, e.off, n, all); err != nil && first == nil && !unsupportedSync(err) {
				first = err
			}
			// Advice only: a filesystem without it costs memory, not data.
			_ = unix.Fadvise(e.fd, e.off, n, unix.FADV_DONTNEED)
			if e.close {
				unix.Close(e.fd)
			}
		}
		if b.sync {
			if err := f.sync(f.root); err != nil && first == nil {
				first = err
			}
		}
		f.mu.Lock()
		f.clean = append(f.clean, b.small...)
		f.pending -= b.bytes
		f.room.Signal()
		f.mu.Unlock()
	}
	f.done <- first
}

func unsupportedSync(err error) bool {
	return err == unix.ESPIPE || err == unix.EINVAL || err == unix.ENOSYS || err == unix.EOPNOTSUPP
}

// advance is called by the extracting thread before it reads on: everything
// that was delivered so far has been extracted.
func (f *flusher) advance(delivered int64) {
	f.drop()
	var open file
	if f.seen.count.Load() > 0 {
		f.buf, open = f.seen.finished(delivered, f.buf)
		for _, d := range f.buf {
			f.finish(d)
		}
	}
	if f.seen.all.Load()-f.synced >= flushFiles {
		f.handSmall()
	}
	if open.name != "" && delivered-open.start-f.openedTo(open.name) >= flushStep {
		f.part(open.name, delivered-open.start)
	}
}

func (f *flusher) openedTo(name string) int64 {
	if f.open == name {
		return f.openAt
	}
	return 0
}

// part writes back what has arrived of a large file.
func (f *flusher) part(name string, upTo int64) {
	if f.open != name {
		f.closeOpen()
		fd := openInRoot(name)
		if fd < 0 {
			return
		}
		f.open, f.openFD, f.openAt = name, fd, 0
	}
	// The unpacker may hold the last bytes in its buffer: leave them for later.
	to := (upTo - flushStep/4) &^ 4095
	if to <= f.openAt {
		return
	}
	f.start(extent{fd: f.openFD, off: f.openAt, len: to - f.openAt})
	f.openAt = to
}

func (f *flusher) finish(d file) {
	if f.open == d.name {
		f.start(extent{fd: f.openFD, off: f.openAt, len: d.end - d.start - f.openAt, close: true})
		f.open, f.openFD = "", -1
		return
	}
	if d.end-d.start < flushSmall {
		f.small = append(f.small, d.name)
		if f.smalls += d.end - d.start; f.smalls >= flushTogether {
			f.handSmall()
		}
		return
	}
	if fd := openInRoot(d.name); fd >= 0 {
		f.start(extent{fd: fd, len: d.end - d.start, close: true})
	}
}

// handSmall gives the small files to the waiter, and what else was made since
// the last time. The splitter is a little ahead; what it counted too early only
// comes with the next sync.
func (f *flusher) handSmall() {
	if f.root < 0 {
		f.root = openInRoot("/")
	}
	f.send(batch{small: f.small, sync: true, bytes: f.smalls})
	f.small, f.smalls, f.synced = nil, 0, f.seen.all.Load()
}

// drop takes small files that are clean out of the page cache.
func (f *flusher) drop() {
	f.mu.Lock()
	names := f.clean
	f.clean = nil
	f.mu.Unlock()
	for _, name := range names {
		if fd := openInRoot(name); fd >= 0 {
			_ = unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED)
			unix.Close(fd)
		}
	}
}

func (f *flusher) start(e extent) {
	_ = unix.SyncFileRange(e.fd, e.off, e.len, unix.SYNC_FILE_RANGE_WRITE) // the waiter reports errors
	f.batch = append(f.batch, e)
	f.weight += e.len
	if len(f.batch) >= flushBatch || f.weight >= flushBytes {
		f.hand()
	}
}

// hand gives the batch to the waiter, when the window has room for it.
func (f *flusher) hand() {
	if len(f.batch) == 0 {
		return
	}
	f.send(batch{extents: f.batch, bytes: f.weight})
	f.batch, f.weight = make([]extent, 0, flushBatch), 0
}

func (f *flusher) send(b batch) {
	f.mu.Lock()
	for f.pending > 0 && f.pending+b.bytes > flushWindow {
		f.room.Wait()
	}
	f.pending += b.bytes
	f.mu.Unlock()
	f.wait <- b
}

func (f *flusher) closeOpen() {
	if f.openFD >= 0 {
		f.start(extent{fd: f.openFD, off: f.openAt, close: true})
	}
	f.open, f.openFD = "", -1
}

// stop waits for what is left and returns the first write-back error. Called
// again, it does nothing.
func (f *flusher) stop() error {
	if f.stopped {
		return nil
	}
	f.stopped = true
	f.closeOpen()
	f.hand()
	if len(f.small) > 0 {
		f.handSmall()
	}
	close(f.wait)
	err := <-f.done
	f.drop()
	if f.root >= 0 {
		unix.Close(f.root)
	}
	return err
}

// openInRoot opens an extracted file, or gives -1: it may have been replaced,
// or be a whiteout. It never waits on a FIFO and never follows a final link.
func openInRoot(name string) int {
	fd, err := unix.Open(path.Clean("/"+name), unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	return fd
}
