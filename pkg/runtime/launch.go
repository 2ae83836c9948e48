package runtime

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"unsafe"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/system"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

type action int

const (
	actionCreate action = iota
	actionRun
	actionExec
)

// launch brings one process of a container to life: its first one, or one
// that joins it.
type launch struct {
	root      string // the state folder
	container *libcontainer.Container
	stdio     Stdio
	action    action
	detach    bool
	subreaper bool // adopt the container's orphans, to reap them while waiting
	destroy   bool // the container, when it fails to start or has ended
	notify    *notifyForwarder
	subCgroup map[string]string
}

// run starts p and, unless detached, waits for it.
func (l *launch) run(ctx context.Context, p *specs.Process) (_ int, err error) {
	started := false
	defer func() {
		if err != nil && !started {
			l.cleanup()
		}
	}()
	if err := l.checkConsole(p.Terminal); err != nil {
		return -1, err
	}
	process, err := newProcess(p)
	if err != nil {
		return -1, err
	}
	process.Init = l.action != actionExec
	process.LogLevel = strconv.Itoa(int(logrus.GetLevel()))
	process.SubCgroupPaths = l.subCgroup
	if n := len(l.stdio.ListenFiles); n > 0 {
		process.Env = append(process.Env, "LISTEN_FDS="+strconv.Itoa(n), "LISTEN_PID=1")
	}
	process.ExtraFiles = append(process.ExtraFiles, l.stdio.ListenFiles...)
	process.ExtraFiles = append(process.ExtraFiles, l.stdio.ExtraFiles...)

	if l.subreaper && !l.detach {
		if err := system.SetSubreaper(1); err != nil {
			logrus.Warn(err)
		}
	}
	con, err := l.stdio.attach(l.container, process, p.Terminal, l.detach)
	if err != nil {
		return -1, err
	}
	defer con.close()

	if s := l.stdio.PidfdSocket; s != "" {
		f, err := dialFile(s)
		if err != nil {
			return -1, err
		}
		defer f.Close()
		process.PidfdSocket = f
	}

	config := l.container.Config()
	if f := passFilter(l.root, config.Seccomp); f != nil {
		defer f.Close()
		process.ExtraFiles = append(process.ExtraFiles, f) // init keeps it to itself
	}
	if l.action == actionCreate {
		err = l.container.Start(process)
	} else {
		err = l.container.Run(process)
	}
	if err != nil {
		return -1, err
	}
	if err = con.started(); err != nil {
		terminate(process)
		return -1, err
	}
	pid, err := process.Pid()
	if err != nil {
		return -1, err
	}
	if l.stdio.PidFile != "" {
		if err = writePidFile(l.stdio.PidFile, pid); err != nil {
			terminate(process)
			return -1, err
		}
	}
	started = true
	if l.detach {
		if l.action == actionRun && l.notify != nil {
			return 0, l.notify.forward(pid, pid)
		}
		return 0, nil
	}
	if l.notify != nil {
		// systemd is to watch this process, which stands for the container.
		go func() { _ = l.notify.forward(os.Getpid(), pid) }()
	}
	status, err := l.wait(ctx, process, con)
	l.cleanup()
	return status, err
}

func (l *launch) checkConsole(terminal bool) error {
	hasSocket := l.stdio.ConsoleSocket != ""
	if l.detach && terminal && !hasSocket {
		return errors.New("cannot allocate tty if runc will detach without setting console socket")
	}
	if (!l.detach || !terminal) && hasSocket {
		return errors.New("cannot use console socket if runc will not detach or allocate tty")
	}
	return nil
}

func (l *launch) cleanup() {
	if !l.destroy {
		return
	}
	if err := l.container.Destroy(); err != nil {
		logrus.Warn(err)
	}
}

// wait passes signals on until the process ends, and returns its exit code.
func (l *launch) wait(ctx context.Context, p *libcontainer.Process, con *terminal) (int, error) {
	con.resize()
	ended := make(chan *os.ProcessState, 1)
	go func() {
		// The error only repeats that the state is not success.
		state, _ := p.Wait()
		ended <- state
	}()
	for {
		select {
		case s := <-ended:
			return exitStatus(s), nil
		case <-ctx.Done():
			_ = p.Signal(unix.SIGKILL)
			return exitStatus(<-ended), ctx.Err()
		case sig := <-l.stdio.Signals:
			switch sig {
			case unix.SIGWINCH:
				con.resize()
			case unix.SIGCHLD:
				if l.subreaper {
					pid, _ := p.Pid()
					reapOthers(pid)
				}
			case unix.SIGURG, nil:
				// The Go runtime preempts goroutines with SIGURG.
			default:
				if err := p.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
					logrus.Warn(err)
				}
			}
		}
	}
}

// reapOthers collects zombies other than pid, whose exit status somebody
// else waits for.
func reapOthers(pid int) {
	for {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		zombie := siginfoPid(&info)
		if err != nil || zombie == 0 || zombie == pid {
			return
		}
		if _, err := unix.Wait4(zombie, nil, unix.WNOHANG, nil); err != nil {
			return
		}
	}
}

// siginfoPid is si_pid, which starts the union behind three ints.
func siginfoPid(info *unix.Siginfo) int {
	const ptr = unsafe.Sizeof(uintptr(0))
	const offset = (12 + ptr - 1) / ptr * ptr
	return int(*(*int32)(unsafe.Add(unsafe.Pointer(info), offset)))
}

// exitStatus is the exit code, or 128+n for signal n.
func exitStatus(s *os.ProcessState) int {
	if ws, ok := s.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return exitFromSignal + int(ws.Signal())
	}
	return s.ExitCode()
}

func terminate(p *libcontainer.Process) {
	_ = p.Signal(unix.SIGKILL)
	_, _ = p.Wait()
}

// writePidFile writes path in one step, so that whoever waits for it never
// reads half a number.
func writePidFile(path string, pid int) error {
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if errors.Is(err, os.ErrExist) {
		// Left by a run that was killed at this very point.
		_ = os.Remove(tmp)
		f, err = os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(strconv.Itoa(pid))
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		_ = os.Remove(tmp)
		return err
	}
	return os.Rename(tmp, path)
}

// dialFile connects to a Unix socket and returns the connection as a file.
func dialFile(path string) (*os.File, error) {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", path, err)
	}
	defer conn.Close()
	return conn.(*net.UnixConn).File()
}
