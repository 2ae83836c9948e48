package runtime

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/console"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/utils"
	"golang.org/x/sys/unix"
)

// Stdio says what a process of a container is connected to.
type Stdio struct {
	// Stdin, Stdout and Stderr: a detached process (Create, Detach) gets them
	// as they are, so they should be files; one that is waited for gets pipes
	// that are copied from and to them. nil is an empty input, or nowhere.
	//
	// With a terminal, the first of them that is one is put into raw mode
	// while the process runs, and gives the size (else /dev/tty does).
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// ConsoleSocket is a Unix socket that gets the master side of the
	// terminal of a detached process (needed then).
	ConsoleSocket string
	// PidfdSocket is a Unix socket that gets a pidfd of the process.
	PidfdSocket string
	// PidFile gets the process's PID, in one step.
	PidFile string
	// ListenFiles are sockets for systemd's socket activation (LISTEN_FDS).
	ListenFiles []*os.File
	// ExtraFiles are further descriptors for the process, after ListenFiles.
	ExtraFiles []*os.File
	// Signals are passed on to the process while it is waited for, but
	// SIGWINCH resizes its terminal, SIGCHLD has Run reap orphans, and
	// SIGURG is dropped.
	Signals <-chan os.Signal
}

// absolute makes the paths independent of the working directory.
func (s *Stdio) absolute() error {
	if s.PidFile == "" {
		return nil
	}
	var err error
	s.PidFile, err = filepath.Abs(s.PidFile)
	return err
}

// attach connects process according to the options; the caller closes the
// terminal that it returns (which has pipes to copy where there is no
// terminal) after the process has ended.
func (s *Stdio) attach(c *libcontainer.Container, process *libcontainer.Process, tty, detach bool) (*terminal, error) {
	t := &terminal{}
	switch {
	case tty && detach:
		f, err := dialFile(s.ConsoleSocket)
		if err != nil {
			return nil, err
		}
		process.ConsoleSocket = f
		t.afterStart = append(t.afterStart, f)
	case tty:
		if err := t.findHost(s); err != nil {
			return nil, err
		}
		parent, child, err := utils.NewSockPair("console")
		if err != nil {
			return nil, err
		}
		process.ConsoleSocket = child
		t.afterStart = append(t.afterStart, parent, child)
		t.received = make(chan error, 1)
		go func() { t.received <- t.receive(parent, s) }()
	case detach:
		process.Stdin, process.Stdout, process.Stderr = s.Stdin, s.Stdout, s.Stderr
	default:
		if err := t.pipes(c, process, s); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// terminal copies between a process and its caller, through a pseudoterminal
// or through pipes.
type terminal struct {
	host       console.Console // the caller's, if there is one
	poller     *console.Epoller
	console    *console.EpollConsole
	received   chan error  // one value, when the master side has come
	afterStart []io.Closer // the process's ends of what connects it
	afterEnd   []io.Closer // ours
	copies     sync.WaitGroup
}

func (t *terminal) pipes(c *libcontainer.Container, process *libcontainer.Process, s *Stdio) error {
	config := c.Config()
	uid, err := config.HostRootUID()
	if err != nil {
		return err
	}
	gid, err := config.HostRootGID()
	if err != nil {
		return err
	}
	ours, err := process.InitializeIO(uid, gid)
	if err != nil {
		return err
	}
	for _, end := range []any{process.Stdin, process.Stdout, process.Stderr} {
		if c, ok := end.(io.Closer); ok {
			t.afterStart = append(t.afterStart, c)
		}
	}
	t.afterEnd = append(t.afterEnd, ours.Stdin, ours.Stdout, ours.Stderr)
	go func() {
		if s.Stdin != nil {
			_, _ = io.Copy(ours.Stdin, s.Stdin)
		}
		_ = ours.Stdin.Close()
	}()
	t.copy(s.Stdout, ours.Stdout)
	t.copy(s.Stderr, ours.Stderr)
	return nil
}

func (t *terminal) copy(w io.Writer, r io.Reader) {
	if w == nil {
		w = io.Discard
	}
	t.copies.Go(func() { _, _ = io.Copy(w, r) })
}

// findHost looks for the caller's terminal among the streams, which may be
// redirected, then tries the controlling one.
func (t *terminal) findHost(s *Stdio) error {
	for _, stream := range []any{s.Stderr, s.Stdout, s.Stdin} {
		f, ok := stream.(*os.File)
		if !ok {
			continue
		}
		con, err := console.ConsoleFromFile(f)
		if err == nil {
			t.host = con
			return nil
		}
		if !errors.Is(err, console.ErrNotAConsole) {
			return fmt.Errorf("unable to get console: %w", err)
		}
	}
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	t.host, err = console.ConsoleFromFile(tty)
	if err != nil {
		tty.Close()
		return fmt.Errorf("unable to get console: %w", err)
	}
	t.afterEnd = append(t.afterEnd, tty)
	return nil
}

// receive takes the master side from the container's init and connects it.
func (t *terminal) receive(socket *os.File, s *Stdio) (err error) {
	f, err := receiveFile(socket)
	if err != nil {
		return err
	}
	con, err := console.ConsoleFromFile(f)
	if err != nil {
		return err
	}
	if err := console.ClearONLCR(con.Fd()); err != nil {
		return err
	}
	if t.poller, err = console.NewEpoller(); err != nil {
		return err
	}
	if t.console, err = t.poller.Add(con); err != nil {
		return err
	}
	t.afterEnd = append(t.afterEnd, t.console)
	go func() { _ = t.poller.Wait() }()
	if s.Stdin != nil {
		go func() { _, _ = io.Copy(t.console, s.Stdin) }()
	}
	t.copy(s.Stdout, t.console)
	if err := t.host.SetRaw(); err != nil {
		return fmt.Errorf("failed to set the terminal from the stdin: %w", err)
	}
	return nil
}

// started is called once the process has been started: it waits for the
// terminal to be connected and closes the process's ends.
func (t *terminal) started() error {
	var err error
	if t.received != nil {
		err = <-t.received
		t.received = nil
	}
	t.closeAfterStart()
	return err
}

func (t *terminal) closeAfterStart() {
	for _, c := range t.afterStart {
		_ = c.Close()
	}
	t.afterStart = nil
}

// resize gives the process's terminal the size of the caller's. That may have
// gone away, which is no reason to fail.
func (t *terminal) resize() {
	if t.console != nil && t.host != nil {
		_ = t.console.ResizeFrom(t.host)
	}
}

// close finishes copying what the process has written, and puts the caller's
// terminal back. Where the process never started, nothing is waited for.
func (t *terminal) close() {
	t.closeAfterStart()
	if t.received != nil {
		<-t.received // closing our socket has ended it
	}
	if t.console != nil {
		_ = t.console.Shutdown(t.poller.CloseConsole)
	}
	t.copies.Wait()
	for _, c := range t.afterEnd {
		_ = c.Close()
	}
	if t.host != nil {
		_ = t.host.Reset()
	}
}

// receiveFile takes the one descriptor that comes over a Unix socket, whose
// message is its name.
func receiveFile(socket *os.File) (*os.File, error) {
	name := make([]byte, 4096)
	oob := make([]byte, unix.CmsgSpace(4))
	raw, err := socket.SyscallConn()
	if err != nil {
		return nil, err
	}
	var n, oobn int
	var rerr error
	if err := raw.Read(func(fd uintptr) bool {
		for {
			n, oobn, _, _, rerr = unix.Recvmsg(int(fd), name, oob, unix.MSG_CMSG_CLOEXEC)
			if rerr != unix.EINTR {
				return rerr != unix.EAGAIN
			}
		}
	}); err != nil {
		return nil, err
	}
	if rerr != nil {
		return nil, os.NewSyscallError("recvmsg", rerr)
	}
	if oobn == 0 {
		return nil, errors.New("no console was sent")
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return nil, err
	}
	if len(msgs) != 1 {
		return nil, fmt.Errorf("expected one control message, got %d", len(msgs))
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil {
		return nil, err
	}
	if len(fds) != 1 {
		return nil, fmt.Errorf("expected one descriptor, got %d", len(fds))
	}
	return os.NewFile(uintptr(fds[0]), string(name[:n])), nil
}
