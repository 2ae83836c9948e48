package monitor

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// How long a client may make no progress before it is dropped.
const (
	stallAttached = 10 * time.Second
	stallLossless = 5 * time.Minute
	// maxClients bounds what clients cost.
	maxClients = 128
)

// shortPath calls fn with a path of name in dir that fits into a socket
// address, however long dir is.
func shortPath(dir, name string, fn func(path string) error) error {
	if path := filepath.Join(dir, name); len(path) < 100 {
		return fn(path)
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	return fn("/proc/self/fd/" + strconv.Itoa(fd) + "/" + name)
}

// clients are the attached connections and everything that waits for the end.
type clients struct {
	mu   sync.Mutex
	all  map[*client]bool
	done *Exit // set at the end: whoever comes later gets it at once
}

// client is one connection. Its socket buffer is the bounded buffer between
// the container and it.
type client struct {
	conn   *net.UnixConn
	req    AttachRequest
	stall  time.Duration
	mu     sync.Mutex // one frame at a time
	broken bool

	cleaned chan bool     // what became of the promise to clean up
	left    chan struct{} // closed when nothing more is read from it
}

func newClient(conn *net.UnixConn, req AttachRequest) *client {
	c := &client{conn: conn, req: req, stall: stallAttached, cleaned: make(chan bool, 1), left: make(chan struct{})}
	if req.Lossless {
		c.stall = stallLossless
	}
	return c
}

// send writes a whole frame, or drops a client that takes nothing for too long.
func (c *client) send(frame []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken {
		return false
	}
	for len(frame) > 0 {
		_ = c.conn.SetWriteDeadline(time.Now().Add(c.stall))
		n, err := c.conn.Write(frame)
		frame = frame[n:]
		if err != nil && (n == 0 || !errors.Is(err, os.ErrDeadlineExceeded)) {
			c.broken = true
			c.conn.Close() // its reader notices
			return false
		}
	}
	return true
}

// add makes c one of those that get output and the end. False: too many.
func (s *clients) add(c *client) bool {
	s.mu.Lock()
	if s.done != nil {
		done := *s.done
		s.mu.Unlock()
		sendExit(c, done)
		c.conn.Close()
		return true
	}
	defer s.mu.Unlock()
	if len(s.all) >= maxClients {
		return false
	}
	if s.all == nil {
		s.all = map[*client]bool{}
	}
	s.all[c] = true
	return true
}

func (s *clients) remove(c *client) {
	s.mu.Lock()
	delete(s.all, c)
	s.mu.Unlock()
	c.conn.Close()
}

// output sends a frame (header included) of a stream to whoever wants it.
func (s *clients) output(t frameType, frame []byte) {
	s.mu.Lock()
	var to [8]*client
	list := to[:0]
	for c := range s.all {
		if t == frameStdout && c.req.Stdout || t == frameStderr && c.req.Stderr {
			list = append(list, c)
		}
	}
	s.mu.Unlock()
	for _, c := range list {
		c.send(frame)
	}
}

func sendExit(c *client, e Exit) {
	raw, err := json.Marshal(e)
	if err != nil {
		return
	}
	c.send(appendFrame(nil, frameExit, raw))
}

// finish tells everybody how it ended, and whoever still comes.
func (s *clients) finish(e Exit) []*client {
	s.mu.Lock()
	s.done = &e
	list := make([]*client, 0, len(s.all))
	for c := range s.all {
		list = append(list, c)
	}
	s.mu.Unlock()
	for _, c := range list {
		sendExit(c, e)
	}
	return list
}

// listen binds the socket in dir.
func listen(dir string) (*net.UnixListener, error) {
	var l *net.UnixListener
	err := shortPath(dir, socketFile, func(path string) error {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		var err error
		if l, err = net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"}); err != nil {
			return err
		}
		l.SetUnlinkOnClose(false) // the path may be gone by then
		return os.Chmod(path, 0o600)
	})
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", filepath.Join(dir, socketFile), err)
	}
	return l, nil
}

// checkPeer refuses other users: the folder's mode does it first.
func checkPeer(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) {
		cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return err
	}
	if cerr != nil {
		return cerr
	}
	if uid := int(cred.Uid); uid != 0 && uid != os.Geteuid() {
		return fmt.Errorf("refusing uid %d", uid)
	}
	return nil
}

// serve accepts clients until the listener is closed.
func (m *monitor) serve(l *net.UnixListener) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			time.Sleep(100 * time.Millisecond) // out of descriptors
			continue
		}
		go m.client(conn)
	}
}

// client serves one connection.
func (m *monitor) client(conn *net.UnixConn) {
	if err := checkPeer(conn); err != nil {
		conn.Close()
		return
	}
	_ = conn.SetReadDeadline(time.Now().Add(stallAttached))
	t, payload, err := readFrame(conn, nil)
	var req request
	if err != nil || t != frameRequest || json.Unmarshal(payload, &req) != nil {
		conn.Close()
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	_ = conn.SetWriteDeadline(time.Now().Add(stallAttached))
	switch req.Op {
	case opAttach, opWait:
		var want AttachRequest
		if req.Op == opAttach && req.Attach != nil {
			want = *req.Attach
		}
		if writeJSONFrame(conn, frameReply, reply{}) != nil {
			conn.Close()
			return
		}
		m.attach(newClient(conn, want))
	default:
		var rep reply
		if err := m.control(req); err != nil {
			rep.Error = err.Error()
		}
		_ = writeJSONFrame(conn, frameReply, rep)
		conn.Close()
	}
}

// control does what needs no stream.
func (m *monitor) control(req request) error {
	switch req.Op {
	case opPing:
		return nil
	case opResize:
		return m.io.resize(req.Rows, req.Cols)
	case opSignal:
		return m.signal(unix.Signal(req.Signal))
	case opStop:
		m.stopRestarting()
		return nil
	case opReopen:
		return m.log.reopen()
	default:
		return fmt.Errorf("unknown request %q", req.Op)
	}
}

// attach registers a client and reads what it sends until it leaves.
func (m *monitor) attach(c *client) {
	if !m.clients.add(c) {
		c.conn.Close()
		return
	}
	m.attached(c)
}

func (m *monitor) attached(c *client) {
	defer m.clients.remove(c)
	defer close(c.left)
	if c.req.Rows > 0 && c.req.Cols > 0 {
		_ = m.io.resize(c.req.Rows, c.req.Cols)
	}
	var buf []byte
	for {
		// The buffer is there only while there is something to read.
		t, n, err := readHeader(c.conn)
		if err != nil {
			break
		}
		if cap(buf) < n {
			buf = make([]byte, n)
		}
		if err := readFull(c.conn, buf[:n]); err != nil {
			break
		}
		switch {
		case t == frameCleaned:
			var rep reply
			ok := json.Unmarshal(buf[:n], &rep) == nil && rep.Error == ""
			select {
			case c.cleaned <- ok:
			default: // said already
			}
		case !c.req.Stdin:
		case t == frameStdin:
			m.io.writeStdin(buf[:n])
		case t == frameEOF && m.cfg.StdinOnce && !m.cfg.Terminal:
			m.io.closeStdin()
		}
		if n > 4096 {
			buf = nil
		}
	}
	if c.req.Stdin && m.cfg.StdinOnce && !m.cfg.Terminal {
		m.io.closeStdin()
	}
}

// rest are the clients that have not left.
func (s *clients) rest() []*client {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*client, 0, len(s.all))
	for c := range s.all {
		list = append(list, c)
	}
	return list
}
