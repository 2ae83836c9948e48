package monitor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The container is started by a process between it and the monitor, the
// launcher, which has balena's own OCI runtime as a library and is gone when
// the container runs. It is made ready while the starter still makes layer and
// record. (The monitor could do its work itself; but what libcontainer and JSON
// leave behind, 1 MB, would stay as long as the container does.)

// LaunchStage is the name under which the binary's stage table has LaunchMain.
const LaunchStage = "balena-launch"

// Launch is what a Launcher starts.
type Launch struct {
	Root, ID, Bundle string // the runtime's state folder, the container, its bundle
	SystemdCgroup    bool
	ProcessFile      string // an OCI process that joins the container; "" is its first
	ConsoleSocket    string // gets the master side of its console; "" if it has none
	PidFile          string

	Stdin, Stdout, Stderr *os.File `json:"-"`
}

// Launcher is balena's own OCI runtime. It returns when the process runs.
type Launcher func(Launch) error

// maxLaunch bounds a message to a launcher and its answer.
const maxLaunch = 64 << 10

// LaunchMain makes the launcher's stage: it gets one Launch on descriptor 3,
// with the process's streams, does it, and answers with what was wrong.
func LaunchMain(launch Launcher) func(args []string, stdin, stdout, stderr *os.File) int {
	return func(_ []string, _, _, _ *os.File) int {
		unix.CloseOnExec(controlFD)
		catchIgnored()
		var l Launch
		raw, fds, err := receiveMessage(controlFD)
		if errors.Is(err, io.EOF) {
			return 0 // not needed
		}
		if err == nil {
			err = json.Unmarshal(raw, &l)
		}
		if err == nil && len(fds) != 3 {
			err = fmt.Errorf("%d streams, not 3", len(fds))
		}
		if err == nil {
			l.Stdin, l.Stdout, l.Stderr = os.NewFile(uintptr(fds[0]), "stdin"), os.NewFile(uintptr(fds[1]), "stdout"), os.NewFile(uintptr(fds[2]), "stderr")
			err = launch(l)
		}
		answer := "" // it runs
		if err != nil {
			answer = clip(err.Error())
		}
		if _, err := unix.Write(controlFD, append([]byte{0}, answer...)); err != nil {
			return 1
		}
		return 0
	}
}

// catchIgnored catches the signals that this process was started to ignore: a
// shell does so with SIGINT and SIGQUIT of a command in the background, nohup
// with SIGHUP. Ignored ones would be inherited by the container; caught ones
// are not. The two that glibc keeps for itself, and has what posix_spawn(3)
// starts ignore, cannot be caught in Go: they get their default back.
func catchIgnored() {
	const lastSignal = 64
	for _, s := range []uintptr{32, 33} {
		var dfl [4]uint64 // a struct sigaction of zeros, on every architecture
		unix.RawSyscall6(unix.SYS_RT_SIGACTION, s, uintptr(unsafe.Pointer(&dfl)), 0, lastSignal/8, 0, 0)
	}
	var ignored []os.Signal
	for s := unix.Signal(1); s <= lastSignal; s++ {
		if signal.Ignored(s) {
			ignored = append(ignored, s)
		}
	}
	if len(ignored) > 0 {
		signal.Notify(make(chan os.Signal, 1), ignored...)
	}
}

// receiveMessage reads one message of a SOCK_SEQPACKET socket. io.EOF.
func receiveMessage(fd int) ([]byte, []int, error) {
	b, oob := make([]byte, maxLaunch), make([]byte, unix.CmsgSpace(4*3))
	for {
		n, oobn, _, _, err := unix.Recvmsg(fd, b, oob, unix.MSG_CMSG_CLOEXEC)
		if errors.Is(err, unix.EINTR) {
			continue
		} else if err != nil {
			return nil, nil, err
		}
		if n == 0 {
			return nil, nil, io.EOF
		}
		fds, err := rights(oob[:oobn])
		return b[:n], fds, err
	}
}

// launcher is a process that waits for a Launch, or does it.
type launcher struct {
	conn  *os.File
	ended <-chan unix.WaitStatus
}

func (m *monitor) newLauncher() (*launcher, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	ours, theirs, err := socketPair(unix.SOCK_SEQPACKET)
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	argv := []string{LaunchStage, m.id}
	_, ended, err := m.reaper.spawn("/proc/self/exe", argv, os.Environ(), []*os.File{null, null, null, theirs}, true)
	if err != nil {
		ours.Close()
		return nil, fmt.Errorf("starting the launcher: %w", err)
	}
	return &launcher{ours, ended}, nil
}

// startByLauncher has balena's own runtime start the process.
func (m *monitor) startByLauncher(std [3]*os.File, console *consoleSocket) error {
	defer closeAll(std[:])
	l := m.ready
	m.ready = nil
	if l == nil {
		var err error
		if l, err = m.newLauncher(); err != nil {
			return err
		}
	}
	defer l.conn.Close()
	job := Launch{
		Root: m.cfg.RuntimeRoot, ID: m.cfg.ID, Bundle: m.bundle(), SystemdCgroup: m.cfg.SystemdCgroup,
		PidFile: filepath.Join(m.cfg.RunDir, pidFile),
	}
	if m.cfg.Exec != nil {
		job.ProcessFile = m.cfg.Exec.ProcessFile
	}
	if console != nil {
		job.ConsoleSocket = console.path
	}
	raw, err := json.Marshal(job)
	if err != nil {
		return err
	}
	fds := unix.UnixRights(int(std[0].Fd()), int(std[1].Fd()), int(std[2].Fd()))
	if err := unix.Sendmsg(int(l.conn.Fd()), raw, fds, nil, unix.MSG_NOSIGNAL); err != nil {
		return fmt.Errorf("telling the launcher: %w", err)
	}
	closeAll(std[:]) // else a process that fails would not be the last to have them
	answer, _, err := receiveMessage(int(l.conn.Fd()))
	ws := <-l.ended // only then is the container's process ours to wait for
	switch {
	case errors.Is(err, io.EOF):
		return &StartError{Msg: fmt.Sprintf("the OCI runtime ended with exit code %d", exitCode(ws)), Code: 125}
	case err != nil:
		return fmt.Errorf("reading the launcher's answer: %w", err)
	case len(answer) > 1:
		msg := string(answer[1:])
		return &StartError{Msg: msg, Code: classify(msg)}
	}
	return nil
}
