package runtime

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// notifyForwarder gives a container its own systemd notify socket and passes
// its READY=1 on to the host's (sd_notify(3)).
type notifyForwarder struct {
	host string // the host's $NOTIFY_SOCKET
	path string // our socket, in the container's state folder
	conn *net.UnixConn
}

const notifyDirInContainer = "/run/notify"

// newNotifyForwarder returns nil if there is no host socket.
func newNotifyForwarder(host, root, id string) *notifyForwarder {
	if host == "" {
		return nil
	}
	return &notifyForwarder{host: host, path: filepath.Join(root, id, "notify", "notify.sock")}
}

// addTo mounts the socket's folder in the container and names it in the
// environment of the container's process.
func (n *notifyForwarder) addTo(spec *specs.Spec) {
	spec.Mounts = append(spec.Mounts, specs.Mount{
		Destination: notifyDirInContainer,
		Source:      filepath.Dir(n.path),
		Options:     []string{"bind", "nosuid", "noexec", "nodev", "ro"},
	})
	spec.Process.Env = append(spec.Process.Env, "NOTIFY_SOCKET="+path.Join(notifyDirInContainer, filepath.Base(n.path)))
}

// prepare makes the folder that addTo mounts, and binds the socket if wanted.
func (n *notifyForwarder) prepare(bind bool) error {
	if err := os.Mkdir(filepath.Dir(n.path), 0o755); err != nil {
		return err
	}
	if !bind {
		return nil
	}
	return n.bind()
}

func (n *notifyForwarder) bind() error {
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: n.path, Net: "unixgram"})
	if err != nil {
		return err
	}
	// Any user of the container may say that it is ready.
	if err := os.Chmod(n.path, 0o777); err != nil {
		conn.Close()
		return err
	}
	n.conn = conn
	return nil
}

func (n *notifyForwarder) close() {
	if n.conn != nil {
		n.conn.Close()
	}
}

// notifyPoll is how often forward looks whether the container is still there.
const notifyPoll = 100 * time.Millisecond

// forward waits for READY= from the container and tells the host, naming
// mainPid as the process to watch; it gives up when containerPid is gone.
func (n *notifyForwarder) forward(mainPid, containerPid int) error {
	if n.conn == nil {
		return nil
	}
	host, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.host, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer host.Close()
	buf := make([]byte, 4096)
	for {
		if err := n.conn.SetReadDeadline(time.Now().Add(notifyPoll)); err != nil {
			return err
		}
		size, err := n.conn.Read(buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if unix.Kill(containerPid, 0) == unix.ESRCH {
				return nil
			}
			continue
		case err != nil:
			return err
		}
		for _, line := range bytes.Split(buf[:size], []byte{'\n'}) {
			if bytes.HasPrefix(line, []byte("READY=")) {
				return tellHost(host, line, mainPid)
			}
		}
	}
}

func tellHost(host *net.UnixConn, ready []byte, mainPid int) error {
	for _, msg := range [][]byte{ready, []byte("MAINPID=" + strconv.Itoa(mainPid))} {
		if _, err := host.Write(append(msg, '\n')); err != nil {
			return err
		}
	}
	return barrier(host)
}

// barrier returns once systemd has handled what was sent before: it closes
// the descriptor that comes with BARRIER=1 (sd_notify_barrier(3)). systemd
// before v246 does not; that is waited for no longer than 30 s.
func barrier(host *net.UnixConn) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	// net refuses WriteMsgUnix on a connected datagram socket.
	raw, err := host.SyscallConn()
	if err == nil {
		cerr := raw.Control(func(fd uintptr) {
			err = unix.Sendmsg(int(fd), []byte("BARRIER=1"), unix.UnixRights(int(w.Fd())), nil, 0)
		})
		err = errors.Join(err, cerr)
	}
	w.Close()
	if err != nil {
		return err
	}
	if err := r.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return err
	}
	switch _, err := r.Read(make([]byte, 1)); {
	case errors.Is(err, io.EOF), errors.Is(err, os.ErrDeadlineExceeded):
		return nil
	case err != nil:
		return err
	}
	return errors.New("unexpected read from synchronization pipe")
}
