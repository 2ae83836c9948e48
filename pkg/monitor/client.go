package monitor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Errors that clients tell apart.
var (
	// ErrNotRunning: no monitor listens; the container does not run, or its
	// monitor was killed.
	ErrNotRunning = errors.New("the container has no running monitor")
	// ErrLost: the monitor went away, or dropped this client, before it said
	// how the container ended.
	ErrLost = errors.New("the connection to the container's monitor was lost")
)

// Size is that of a terminal.
type Size struct{ Rows, Cols uint16 }

// AttachOptions are for Attach.
type AttachOptions struct {
	RunDir string        // of the container, to connect to
	Conn   *net.UnixConn // or the other end of Files.First; Attach closes it

	// Streams; nil ones are not wanted. Stdin is not closed, and a read that
	// blocks in it may outlive Attach.
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer

	DetachKeys []byte      // in Stdin they end Attach; nil: none
	Size       Size        // of the terminal at the beginning
	Resize     <-chan Size // and later ones
	Lossless   bool        // see AttachRequest

	// Cleaned makes Attach wait for the ExitCommand too, up to a minute.
	Cleaned bool
	// Clean does the ExitCommand's work in its place, once the container has
	// ended; when it fails the ExitCommand runs after all. Only with a Conn whose
	// AttachRequest has Cleans. Attach waits for the end of the monitor.
	Clean func(context.Context) error
}

// Result is how an Attach ended.
type Result struct {
	Exit     Exit
	Detached bool // by the detach keys, or Stdin's end where no output is wanted
}

// dial connects to the monitor in dir.
func dial(ctx context.Context, dir string) (*net.UnixConn, error) {
	var conn net.Conn
	err := shortPath(dir, socketFile, func(path string) error {
		var d net.Dialer
		var err error
		conn, err = d.DialContext(ctx, "unix", path)
		return err
	})
	switch {
	case err == nil:
		return conn.(*net.UnixConn), nil
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ENOTDIR):
		return nil, ErrNotRunning
	default:
		return nil, fmt.Errorf("connecting to the container's monitor: %w", err)
	}
}

// ask connects, sends a request and reads the reply.
func ask(ctx context.Context, dir string, req request) (*net.UnixConn, error) {
	conn, err := dial(ctx, dir)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })
	defer stop()
	err = func() error {
		if err := writeJSONFrame(conn, frameRequest, req); err != nil {
			return err
		}
		t, payload, err := readFrame(conn, nil)
		if err != nil {
			return err
		}
		var rep reply
		if t != frameReply {
			return errFrame
		}
		if err := json.Unmarshal(payload, &rep); err != nil {
			return fmt.Errorf("%w: %w", errFrame, err)
		}
		if rep.Error != "" {
			return errors.New(rep.Error)
		}
		return nil
	}()
	if err != nil {
		conn.Close()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) {
			return nil, ErrNotRunning
		}
		return nil, fmt.Errorf("asking the container's monitor to %s: %w", req.Op, err)
	}
	return conn, nil
}

func tell(ctx context.Context, dir string, req request) error {
	conn, err := ask(ctx, dir, req)
	if err != nil {
		return err
	}
	return conn.Close()
}

// Signal sends a signal to the container's first process. ErrNotRunning.
func Signal(ctx context.Context, dir string, sig int) error {
	return tell(ctx, dir, request{Op: opSignal, Signal: sig})
}

// StopRestarting makes the container's next end its last, and ends a pause
// before a restart at once. ErrNotRunning.
func StopRestarting(ctx context.Context, dir string) error {
	return tell(ctx, dir, request{Op: opStop})
}

// Resize sets the size of the container's console. ErrNotRunning.
func Resize(ctx context.Context, dir string, s Size) error {
	return tell(ctx, dir, request{Op: opResize, Rows: s.Rows, Cols: s.Cols})
}

// ReopenLog makes the monitor open its log file anew. ErrNotRunning.
func ReopenLog(ctx context.Context, dir string) error {
	return tell(ctx, dir, request{Op: opReopen})
}

// Wait waits for the container's last end (restarts by its policy are not
// seen). ErrNotRunning when it has ended already: its record tells how.
func Wait(ctx context.Context, dir string) (Exit, error) {
	res, err := Attach(ctx, AttachOptions{RunDir: dir})
	return res.Exit, err
}

// Attach connects the streams to a container until it ends for good, or the
// detach keys are read. ErrNotRunning, ErrLost.
func Attach(ctx context.Context, o AttachOptions) (Result, error) {
	conn := o.Conn
	if conn == nil {
		req := request{Op: opAttach, Attach: &AttachRequest{
			Stdin: o.Stdin != nil, Stdout: o.Stdout != nil, Stderr: o.Stderr != nil,
			Lossless: o.Lossless, Rows: o.Size.Rows, Cols: o.Size.Cols,
		}}
		var err error
		if conn, err = ask(ctx, o.RunDir, req); err != nil {
			return Result{}, err
		}
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()

	s := session{conn: conn, detached: make(chan struct{})}
	if o.Stdin != nil {
		go s.sendStdin(o)
	}
	if o.Resize != nil {
		done := make(chan struct{})
		defer close(done)
		go func() {
			for {
				select {
				case <-done:
					return
				case size, ok := <-o.Resize:
					if !ok {
						return
					}
					_ = Resize(ctx, o.RunDir, size)
				}
			}
		}()
	}
	res, err := s.receive(ctx, o)
	select {
	case <-s.detached:
		return Result{Detached: true}, nil
	default:
	}
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	return res, err
}

// session is the client's side of one attach.
type session struct {
	conn     *net.UnixConn
	once     sync.Once
	detached chan struct{}
}

func (s *session) detach() {
	s.once.Do(func() { close(s.detached) })
	s.conn.Close()
}

// sendStdin copies until the end of Stdin or the detach keys.
func (s *session) sendStdin(o AttachOptions) {
	buf := make([]byte, headerSize+ioBuffer)
	keys := keyScanner{keys: o.DetachKeys}
	for {
		n, err := o.Stdin.Read(buf[headerSize:])
		if n > 0 {
			data, found := buf[headerSize:headerSize+n], false
			if len(o.DetachKeys) > 0 {
				data, found = keys.scan(data)
			}
			if found {
				s.detach()
				return
			}
			if len(data) > 0 {
				if len(data) > ioBuffer {
					_ = writeFrame(s.conn, frameStdin, data[:ioBuffer])
					data = data[ioBuffer:]
				}
				if writeFrame(s.conn, frameStdin, data) != nil {
					return
				}
			}
		}
		if err != nil {
			_ = writeFrame(s.conn, frameEOF, nil)
			return
		}
	}
}

// receive copies output until the exit frame.
func (s *session) receive(ctx context.Context, o AttachOptions) (Result, error) {
	var res Result
	buf := make([]byte, ioBuffer)
	for {
		t, payload, err := readFrame(s.conn, buf)
		if err != nil {
			return res, fmt.Errorf("%w: %w", ErrLost, err)
		}
		var to io.Writer
		switch t {
		case frameStdout:
			to = o.Stdout
		case frameStderr:
			to = o.Stderr
		case frameExit:
			if err := json.Unmarshal(payload, &res.Exit); err != nil {
				return res, fmt.Errorf("%w: %w", errFrame, err)
			}
			if o.Clean != nil {
				var rep reply
				if err := o.Clean(ctx); err != nil {
					rep.Error = err.Error()
				}
				_ = s.conn.SetWriteDeadline(time.Now().Add(stallAttached))
				_ = writeJSONFrame(s.conn, frameCleaned, rep)
			}
			if o.Cleaned || o.Clean != nil {
				_ = s.conn.SetReadDeadline(time.Now().Add(time.Minute))
				_, _, _ = readFrame(s.conn, nil) // its end
			}
			return res, nil
		}
		if to == nil {
			continue
		}
		if _, err := to.Write(payload); err != nil {
			return res, fmt.Errorf("writing the container's output: %w", err)
		}
	}
}

// RunState is what the kernel says about a container.
type RunState struct {
	Run          RunFile // zero when there is none, or of an earlier boot
	Alive        bool    // its first process runs
	MonitorAlive bool    // holds the lock: the container runs, starts, restarts or is being cleaned up
	Exit         *Exit   // how it ended, when the monitor could say it here; the store has it too
}

// Restarting: it waits for its next start.
func (s RunState) Restarting() bool { return s.MonitorAlive && s.Run.Pid == 0 && s.Run.LastExit != nil }

// ReadState looks at a container's RunDir and the kernel. It changes nothing
// and waits for nobody; a RunDir that does not exist is a container that never
// ran in this boot.
func ReadState(dir string) (RunState, error) {
	var st RunState
	var err error
	if st.MonitorAlive, err = lockHeld(dir); err != nil {
		return st, err
	}
	if err := readJSON(dir, runFile, &st.Run); err != nil && !errors.Is(err, os.ErrNotExist) {
		return st, err
	}
	if st.Run.BootID != "" && st.Run.BootID != bootID() {
		st.Run = RunFile{}
	}
	if st.Run.BootID == "" && !st.MonitorAlive {
		st.Run = startedUnseen(dir)
	}
	st.Alive = alive(st.Run.Pid, st.Run.PidStart)
	var e Exit
	switch err := readJSON(dir, exitFile, &e); {
	case err == nil:
		st.Exit = &e
	case !errors.Is(err, os.ErrNotExist):
		return st, err
	}
	return st, nil
}

// startedUnseen finds the process of a container whose monitor was killed after
// the runtime wrote its number and before run.json was there: a process that is
// older than the file cannot have got the number later.
func startedUnseen(dir string) (r RunFile) {
	path := filepath.Join(dir, pidFile)
	raw, err := os.ReadFile(path)
	if err != nil {
		return r
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		return r
	}
	file, err := os.Stat(path)
	if err != nil {
		return r
	}
	var now unix.Timespec
	_, start, err := procStat(pid)
	if err != nil || unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) != nil {
		return r
	}
	const tick = 10 * time.Millisecond // USER_HZ is 100 on all that we run on
	age := time.Duration(now.Nano()) - time.Duration(start)*tick
	if r.Started = time.Now().Add(-age); r.Started.After(file.ModTime()) {
		return RunFile{}
	}
	r.Pid, r.PidStart, r.BootID = pid, start, bootID()
	return r
}

// lockHeld looks by taking the lock, shared, for a moment: a monitor that
// starts tries again when it meets that.
func lockHeld(dir string) (bool, error) {
	f, err := os.Open(filepath.Join(dir, lockFile))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("looking for the container's monitor: %w", err)
	}
	defer f.Close()
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking for the container's monitor: %w", err)
	}
	return false, nil
}

// WaitGone waits until no monitor holds the lock in dir: the container has
// ended and its ExitCommand too.
func WaitGone(ctx context.Context, dir string) error {
	for wait := time.Millisecond; ; wait = min(2*wait, 20*time.Millisecond) {
		held, err := lockHeld(dir)
		if err != nil || !held {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// DefaultDetachKeys are ctrl-p ctrl-q.
var DefaultDetachKeys = []byte{16, 17}

// ErrDetachKeys: the sequence cannot be read.
var ErrDetachKeys = errors.New("detach keys are letters, digits or ctrl-X, separated by commas")

// ParseDetachKeys reads docker's form: single characters and ctrl-X (a letter
// or one of @ [ \ ] ^ _), separated by commas. "" is no keys.
func ParseDetachKeys(s string) ([]byte, error) {
	if s == "" {
		return nil, nil
	}
	var keys []byte
	for _, k := range strings.Split(s, ",") {
		if len(k) == 1 {
			keys = append(keys, k[0])
			continue
		}
		c, ok := strings.CutPrefix(strings.ToLower(k), "ctrl-")
		if !ok || len(c) != 1 {
			return nil, fmt.Errorf("%q: %w", s, ErrDetachKeys)
		}
		switch {
		case c[0] >= 'a' && c[0] <= 'z':
			keys = append(keys, c[0]-'a'+1)
		case c[0] == '@':
			keys = append(keys, 0)
		case c[0] >= '[' && c[0] <= '_':
			keys = append(keys, c[0]-'['+27)
		default:
			return nil, fmt.Errorf("%q: %w", s, ErrDetachKeys)
		}
	}
	return keys, nil
}

// keyScanner finds the detach keys in input that comes in pieces. What may be
// their beginning is held back until it is known not to be.
type keyScanner struct {
	keys []byte
	held int // how many of the keys were read and held back
}

// scan gives what is to be passed on of b, and whether the keys are complete.
func (k *keyScanner) scan(b []byte) ([]byte, bool) {
	// Usually nothing of it is a key: no copy then.
	if k.held == 0 && bytes.IndexByte(b, k.keys[0]) < 0 {
		return b, false
	}
	out := make([]byte, 0, len(b)+k.held)
	for _, c := range b {
		for {
			if c == k.keys[k.held] {
				k.held++
				break
			}
			if k.held == 0 {
				out = append(out, c)
				break
			}
			// Not the keys after all: the longest end of what was held that
			// begins them again stays held.
			old := k.keys[:k.held]
			n := k.held - 1
			for n > 0 && string(old[len(old)-n:]) != string(k.keys[:n]) {
				n--
			}
			out = append(out, old[:len(old)-n]...)
			k.held = n
		}
		if k.held == len(k.keys) {
			return out, true
		}
	}
	return out, false
}
