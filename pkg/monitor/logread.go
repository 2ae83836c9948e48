package monitor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// LogPath is where a container's log lies in its folder.
func LogPath(dir, id string) string { return filepath.Join(dir, id+"-json.log") }

// Line is one record of a log.
type Line struct {
	Time   time.Time
	Stderr bool   // else stdout
	Data   []byte // as it was written, newline included; without one the line goes on in the stream's next record. Valid during the call only
}

// LogOptions are for ReadLogs. The zero value reads all there is.
type LogOptions struct {
	Tail   int       // only the last n lines; 0 is all, < 0 none of what is there
	Since  time.Time // leave out what is older
	Until  time.Time // and what is newer
	Follow bool      // go on until the container's monitor is gone
	RunDir string    // of the container, for Follow
}

// errStop ends reading early without an error.
var errStop = errors.New("stop")

// maxRecord bounds what a damaged file can make a reader hold: 16 KiB of which
// every byte is escaped, and that again in base64, are 120 KB.
const maxRecord = 1 << 20

// ReadLogs gives the records of a container's log in the order of writing,
// rotated files first. What is not a record (half of one after a power cut) is
// passed over. No log at all reads as empty.
func ReadLogs(ctx context.Context, dir, id string, o LogOptions, out func(Line) error) error {
	r := &logReader{path: LogPath(dir, id), o: o, out: out}
	defer r.close()
	err := r.read(ctx)
	if errors.Is(err, errStop) {
		return nil
	}
	return err
}

type logReader struct {
	path    string
	o       LogOptions
	out     func(Line) error
	f       *os.File // being read
	off     int64    // how far
	pending []byte   // of a record that is not complete yet
	skip    bool     // pending grew too long: pass over all to the next newline
	buf     []byte
}

func (r *logReader) close() {
	if r.f != nil {
		r.f.Close()
	}
}

func (r *logReader) rotated(i int) string {
	if i == 0 {
		return r.path
	}
	return r.path + "." + strconv.Itoa(i)
}

// files opens the log's files, oldest first. Going from the newest to the
// oldest, a rotation meanwhile shows a file twice, but never hides one.
func (r *logReader) files() ([]*os.File, error) {
	var list []*os.File
	for i := 0; ; i++ {
		f, err := os.Open(r.rotated(i))
		if errors.Is(err, os.ErrNotExist) {
			if i == 0 {
				continue // between two steps of a rotation
			}
			break
		}
		if err != nil {
			closeAll(list)
			return nil, fmt.Errorf("opening the log: %w", err)
		}
		if len(list) > 0 && sameFile(f, list[0]) {
			f.Close()
			continue
		}
		list = append([]*os.File{f}, list...)
	}
	return list, nil
}

func closeAll(list []*os.File) {
	for _, f := range list {
		f.Close()
	}
}

func sameFile(a, b *os.File) bool {
	sa, erra := a.Stat()
	sb, errb := b.Stat()
	return erra == nil && errb == nil && os.SameFile(sa, sb)
}

func (r *logReader) read(ctx context.Context) error {
	var w *logWatch
	if r.o.Follow {
		var err error
		// Before anything is read, so that no change goes unnoticed.
		if w, err = watchLog(ctx, filepath.Dir(r.path), r.o); err != nil {
			return err
		}
		defer w.close()
	}
	list, err := r.files()
	if err != nil {
		return err
	}
	start := 0
	if r.o.Tail != 0 {
		start, r.off, err = tailOffset(list, r.o.Tail)
		if err != nil {
			closeAll(list)
			return err
		}
	}
	for i, f := range list {
		if i < start {
			f.Close()
			continue
		}
		r.close()
		r.f = f
		if err := r.drain(); err != nil {
			closeAll(list[i+1:])
			return err
		}
		if i < len(list)-1 {
			r.off, r.pending = 0, nil
		}
	}
	if !r.o.Follow {
		return nil
	}
	for {
		err := w.wait(ctx)
		if cerr := r.catchUp(); cerr != nil {
			return cerr
		}
		if err != nil {
			return err
		}
	}
}

// drain reads the current file to its end.
func (r *logReader) drain() error {
	if r.buf == nil {
		r.buf = make([]byte, ioBuffer)
	}
	for {
		n, err := r.f.ReadAt(r.buf, r.off)
		r.off += int64(n)
		if cerr := r.consume(r.buf[:n]); cerr != nil {
			return cerr
		}
		if errors.Is(err, io.EOF) || n == 0 && err == nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading the log: %w", err)
		}
	}
}

// catchUp reads what was added, also to files that came since.
func (r *logReader) catchUp() error {
	for {
		if r.f == nil {
			f, err := os.Open(r.path)
			if errors.Is(err, os.ErrNotExist) {
				return nil
			} else if err != nil {
				return fmt.Errorf("opening the log: %w", err)
			}
			r.f, r.off = f, 0
		}
		// Looked for before the rest is read: nothing is written to a file
		// after its successor was made.
		next, err := r.next()
		if err != nil {
			return err
		}
		if st, err := r.f.Stat(); err == nil && st.Size() < r.off {
			r.off, r.pending = 0, nil // truncated: the log is one file only
		}
		if err := r.drain(); err != nil {
			if next != nil {
				next.Close()
			}
			return err
		}
		if next == nil {
			return nil
		}
		r.f.Close()
		r.f, r.off, r.pending = next, 0, nil
	}
}

// next opens the file that follows the current one; nil when that is the
// newest.
func (r *logReader) next() (*os.File, error) {
	mine, err := r.f.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading the log: %w", err)
	}
	for i := 0; ; i++ {
		st, err := os.Stat(r.rotated(i))
		if errors.Is(err, os.ErrNotExist) {
			if i == 0 {
				return nil, nil // in the middle of a rotation: another event follows
			}
			// Rotated away before it was read to its end: go on with the oldest.
			return r.openNext(i - 1)
		}
		if err != nil {
			return nil, fmt.Errorf("reading the log: %w", err)
		}
		if os.SameFile(st, mine) {
			if i == 0 {
				return nil, nil
			}
			return r.openNext(i - 1)
		}
	}
}

func (r *logReader) openNext(i int) (*os.File, error) {
	f, err := os.Open(r.rotated(i))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the log: %w", err)
	}
	return f, nil
}

// consume takes bytes of the file and gives out the records that are complete.
func (r *logReader) consume(b []byte) error {
	for len(b) > 0 {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			if len(r.pending)+len(b) > maxRecord {
				r.pending, r.skip = nil, true
			}
			if !r.skip {
				r.pending = append(r.pending, b...)
			}
			return nil
		}
		rec := b[:i]
		b = b[i+1:]
		if r.skip {
			r.skip = false
			continue
		}
		if len(r.pending) > 0 {
			rec = append(r.pending, rec...)
			r.pending = r.pending[:0]
		}
		line, ok := parseRecord(rec)
		switch {
		case !ok, !r.o.Since.IsZero() && line.Time.Before(r.o.Since):
		case !r.o.Until.IsZero() && line.Time.After(r.o.Until):
			return errStop
		default:
			if err := r.out(line); err != nil {
				return err
			}
		}
	}
	return nil
}

// parseRecord reads one record, without its newline.
func parseRecord(rec []byte) (Line, bool) {
	var v struct {
		Log    *string `json:"log"`
		Stream string  `json:"stream"`
		Time   string  `json:"time"`
		B64    []byte  `json:"b64"`
	}
	if len(rec) == 0 || rec[0] != '{' || json.Unmarshal(rec, &v) != nil || v.Log == nil {
		return Line{}, false
	}
	t, err := time.Parse(time.RFC3339Nano, v.Time)
	if err != nil {
		return Line{}, false
	}
	l := Line{Time: t, Stderr: v.Stream == "stderr", Data: v.B64}
	if v.B64 == nil {
		l.Data = []byte(*v.Log)
	}
	return l, true
}

// tailOffset finds where the last n lines begin: which file, and how far into
// it.
func tailOffset(list []*os.File, n int) (int, int64, error) {
	if len(list) == 0 {
		return 0, 0, nil
	}
	const block = 64 << 10
	last := true // the record that is looked at is the log's last: a line, also without its newline
	for i := len(list) - 1; i >= 0; i-- {
		st, err := list[i].Stat()
		if err != nil {
			return 0, 0, fmt.Errorf("reading the log: %w", err)
		}
		if n < 0 {
			return i, st.Size(), nil
		}
		var rest []byte // the beginning of the record that the block before ends
		for end := st.Size(); end > 0; {
			start := max(0, end-block)
			b := make([]byte, end-start, int(end-start)+len(rest))
			if _, err := list[i].ReadAt(b, start); err != nil && !errors.Is(err, io.EOF) {
				return 0, 0, fmt.Errorf("reading the log: %w", err)
			}
			b = append(b, rest...)
			for {
				// The last whole record in b.
				j := bytes.LastIndexByte(bytes.TrimSuffix(b, []byte{'\n'}), '\n') + 1
				if j == 0 && start > 0 {
					break
				}
				if len(b) > 0 && (last || endsLine(b[j:])) {
					last = false
					if n == 0 {
						return i, start + int64(len(b)), nil
					}
					n--
				}
				b = b[:j]
				if j == 0 {
					break
				}
			}
			rest, end = b, start
		}
	}
	return 0, 0, nil
}

// endsLine tells whether what was logged in an encoded record ends in a newline.
func endsLine(rec []byte) bool {
	i := bytes.LastIndex(rec, []byte(`\n","stream":"`))
	if i < 0 {
		return false
	}
	// Not so if the backslash is itself escaped.
	n := 0
	for ; n < i && rec[i-1-n] == '\\'; n++ {
	}
	return n%2 == 0
}

// logWatch tells when a log may have changed, and when nothing will any more.
type logWatch struct {
	events *os.File
	change chan struct{}
	over   chan struct{}
	until  <-chan time.Time
	cancel context.CancelFunc
}

func watchLog(ctx context.Context, dir string, o LogOptions) (*logWatch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watching the log: %w", err)
	}
	w := &logWatch{events: os.NewFile(uintptr(fd), "inotify"), change: make(chan struct{}, 1), over: make(chan struct{})}
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MODIFY|unix.IN_CREATE|unix.IN_MOVED_TO); err != nil {
		w.events.Close()
		if errors.Is(err, unix.ENOSPC) {
			err = fmt.Errorf("%w (raise fs.inotify.max_user_watches)", err)
		}
		return nil, fmt.Errorf("watching the log in %s: %w", dir, err)
	}
	if !o.Until.IsZero() {
		w.until = time.After(time.Until(o.Until))
	}
	ctx, w.cancel = context.WithCancel(ctx)
	go func() {
		buf := make([]byte, 4096)
		for {
			if _, err := w.events.Read(buf); err != nil {
				return
			}
			select {
			case w.change <- struct{}{}:
			default: // one is enough
			}
		}
	}()
	go func() {
		// However it ends, nobody writes any more.
		_, _ = Wait(ctx, o.RunDir)
		close(w.over)
	}()
	return w, nil
}

// wait returns nil after a change, errStop at the end.
func (w *logWatch) wait(ctx context.Context) error {
	select {
	case <-w.change:
		return nil
	case <-w.over:
		return errStop
	case <-w.until:
		return errStop
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (w *logWatch) close() {
	w.cancel()
	w.events.Close()
}
