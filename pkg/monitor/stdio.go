package monitor

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	ioBuffer = 32 << 10
	// drainIdle is how long after the container's end its output may pause
	// before nobody is thought to write any more; drainMax bounds what
	// processes that survived it can do to its end.
	drainIdle = 250 * time.Millisecond
	drainMax  = 10 * time.Second
)

// buffers are held only while something is read.
var buffers = sync.Pool{New: func() any { return new([headerSize + ioBuffer]byte) }}

// stdio is one run's streams, as the monitor holds them: three pipes, or a
// console.
type stdio struct {
	mu      sync.Mutex
	stdin   *os.File // write end of the pipe; nil when closed
	console *os.File // master of the pseudo-terminal
	rows    uint16   // the size that was asked for before there was a console
	cols    uint16

	outs  []stream // to read
	pumps sync.WaitGroup
	ended atomic.Int64 // unix nanoseconds of the container's end
}

type stream struct {
	f *os.File
	t frameType
}

// pipes makes the pipes of a run without console and gives the container's
// ends.
func (s *stdio) pipes(openStdin bool) (theirs [3]*os.File, err error) {
	var opened []*os.File
	defer func() {
		if err != nil {
			for _, f := range opened {
				f.Close()
			}
		}
	}()
	pipe := func() (r, w *os.File, err error) {
		r, w, err = os.Pipe()
		if err != nil {
			return nil, nil, fmt.Errorf("making a pipe: %w", err)
		}
		opened = append(opened, r, w)
		return r, w, nil
	}
	if openStdin {
		r, w, err := pipe()
		if err != nil {
			return theirs, err
		}
		theirs[0] = r
		s.mu.Lock()
		s.stdin = w
		s.mu.Unlock()
	} else {
		null, err := os.Open(os.DevNull)
		if err != nil {
			return theirs, err
		}
		opened = append(opened, null)
		theirs[0] = null
	}
	s.outs = nil
	for i, t := range []frameType{frameStdout, frameStderr} {
		r, w, err := pipe()
		if err != nil {
			return theirs, err
		}
		theirs[i+1] = w
		s.outs = append(s.outs, stream{r, t})
	}
	return theirs, nil
}

// consoleSocket is where the runtime sends the console's master to.
type consoleSocket struct {
	l    *net.UnixListener
	path string // for the runtime
	dir  *os.File
	name string
}

// newConsoleSocket listens in dir. The path that the runtime gets goes through
// our descriptor of the folder, because dir may be too long for an address.
func newConsoleSocket(dir string) (*consoleSocket, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	const name = "console.sock"
	path := fmt.Sprintf("/proc/%d/fd/%d/%s", os.Getpid(), d.Fd(), name)
	_ = os.Remove(filepath.Join(dir, name))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		d.Close()
		return nil, fmt.Errorf("listening for the console: %w", err)
	}
	l.SetUnlinkOnClose(true)
	return &consoleSocket{l: l, path: path, dir: d, name: name}, nil
}

func (c *consoleSocket) close() {
	c.l.Close()
	c.dir.Close()
}

// receive takes the master out of the connection that the runtime has made.
func (c *consoleSocket) receive() (*os.File, error) {
	_ = c.l.SetDeadline(time.Now().Add(10 * time.Second))
	conn, err := c.l.AcceptUnix()
	if err != nil {
		return nil, fmt.Errorf("waiting for the console: %w", err)
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	var name [4096]byte
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := conn.ReadMsgUnix(name[:], oob)
	if err != nil {
		return nil, fmt.Errorf("receiving the console: %w", err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) != 1 {
		return nil, fmt.Errorf("receiving the console: %d control messages (%w)", len(msgs), err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("receiving the console: %d descriptors (%w)", len(fds), err)
	}
	unix.CloseOnExec(fds[0])
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fds[0]), "console"), nil
}

// setConsole makes the master the source and sink of everything.
func (s *stdio) setConsole(f *os.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.console = f
	if s.rows > 0 {
		_ = setSize(f, s.rows, s.cols)
	}
}

func setSize(f *os.File, rows, cols uint16) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var ierr error
	err = raw.Control(func(fd uintptr) {
		ierr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
	})
	return errors.Join(err, ierr)
}

func (s *stdio) resize(rows, cols uint16) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rows, s.cols = rows, cols
	if s.console == nil {
		return nil
	}
	return setSize(s.console, rows, cols)
}

// writeStdin blocks while the container does not read.
func (s *stdio) writeStdin(b []byte) {
	s.mu.Lock()
	f := s.stdin
	if s.console != nil {
		f = s.console
	}
	s.mu.Unlock()
	if f != nil {
		_, _ = f.Write(b) // a container that closed its stdin wants no more
	}
}

func (s *stdio) closeStdin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stdin != nil {
		s.stdin.Close()
		s.stdin = nil
	}
}

// pump starts moving output: to the log first, then to the clients.
func (s *stdio) pump(log *logWriter, to *clients) {
	s.ended.Store(0)
	if s.console != nil {
		s.outs = []stream{{s.console, frameStdout}}
	}
	for _, out := range s.outs {
		s.pumps.Add(1)
		go func() {
			defer s.pumps.Done()
			s.copy(out, log, to)
		}()
	}
}

func (s *stdio) copy(out stream, log *logWriter, to *clients) {
	defer log.flush(out.t)
	raw, err := out.f.SyscallConn()
	if err != nil {
		return
	}
	for {
		var buf *[headerSize + ioBuffer]byte
		var n int
		var rerr error
		if end := s.ended.Load(); end != 0 {
			s.extend(out.f, end)
		}
		err := raw.Read(func(fd uintptr) bool {
			buf = buffers.Get().(*[headerSize + ioBuffer]byte)
			for {
				n, rerr = unix.Read(int(fd), buf[headerSize:])
				if rerr != syscall.EINTR {
					break
				}
			}
			if rerr == unix.EAGAIN {
				buffers.Put(buf)
				return false // wait until there is something, without a buffer
			}
			return true
		})
		if err != nil { // the drain's deadline, or closed
			if errors.Is(err, os.ErrDeadlineExceeded) && s.ended.Load() == 0 {
				continue
			}
			return
		}
		if n > 0 {
			log.write(out.t, buf[headerSize:headerSize+n])
			putHeader(buf[:], out.t, n)
			to.output(out.t, buf[:headerSize+n])
		}
		buffers.Put(buf)
		if n <= 0 || rerr != nil { // EOF; EIO is a console's
			return
		}
	}
}

// extend gives an output another while after the container's end.
func (s *stdio) extend(f *os.File, end int64) {
	deadline := time.Now().Add(drainIdle)
	if limit := time.Unix(0, end).Add(drainMax); deadline.After(limit) {
		deadline = limit
	}
	_ = f.SetReadDeadline(deadline)
}

// drain waits until all output of the ended container has been read.
func (s *stdio) drain() {
	now := time.Now().UnixNano()
	s.ended.Store(now)
	for _, out := range s.outs {
		s.extend(out.f, now)
	}
	s.pumps.Wait()
}

// close closes this run's streams.
func (s *stdio) close() {
	s.closeStdin()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, out := range s.outs {
		out.f.Close()
	}
	if s.console != nil {
		s.console.Close()
	}
	s.outs, s.console = nil, nil
}

// readAvailable reads what a failed runtime left in a pipe whose writers are
// gone.
func readAvailable(f *os.File) string {
	_ = f.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	raw, _ := io.ReadAll(io.LimitReader(f, ioBuffer))
	return string(raw)
}

func readFull(r io.Reader, b []byte) error {
	_, err := io.ReadFull(r, b)
	return err
}
