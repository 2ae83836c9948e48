// Package initd is the first process of a container that was run with --init:
// it starts the container's command, passes signals on to it, collects orphans
// as the first process must, and ends as the command does.
package initd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"golang.org/x/sys/unix"
)

// Stage is the name under which the binary's stage table has Main.
const Stage = "balena-init"

const (
	exitCannotRun = 126
	exitNotFound  = 127
)

// Main is the balena-init stage: `balena-init [--] COMMAND [ARG...]`. It
// returns the command's exit code, 128+n when signal n ended it, 126 or 127
// when it could not be run. When Main returns, a first process takes all
// others of its namespace with it.
func Main(args []string, stdin, _, stderr *os.File) int {
	runtime.GOMAXPROCS(1)
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		fmt.Fprintln(stderr, Stage+": no command given")
		return exitNotFound
	}
	if os.Getpid() != 1 {
		// Not the first process of a namespace (--pid=host): orphans come to us
		// all the same.
		_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	}
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, forwarded()...)
	// A background process group that touches the terminal is stopped by
	// these; the first process must not be. Caught, so that it is not
	// inherited.
	signal.Notify(make(chan os.Signal, 1), unix.SIGTTIN, unix.SIGTTOU)
	child, err := start(args, stdin)
	if err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", Stage, err)
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
			return exitNotFound
		}
		return exitCannotRun
	}
	debug.FreeOSMemory()
	go func() {
		for s := range signals {
			if sig, ok := s.(unix.Signal); ok {
				_ = unix.Kill(child, sig)
			}
		}
	}()
	return reap(child)
}

// start starts the command in a process group of its own, the terminal's
// foreground one if there is a terminal, so that ctrl-C reaches it once.
func start(args []string, stdin *os.File) (int, error) {
	path, err := exec.LookPath(args[0])
	if err != nil {
		return 0, err
	}
	attr := &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Setpgid: true}}
	if pgrp, err := unix.IoctlGetInt(int(stdin.Fd()), unix.TIOCGPGRP); err == nil && pgrp == unix.Getpgrp() {
		attr.Sys.Foreground, attr.Sys.Ctty = true, int(stdin.Fd())
	}
	pid, err := syscall.ForkExec(path, args, attr)
	if err != nil {
		return 0, fmt.Errorf("exec %s: %w", path, err)
	}
	return pid, nil
}

// reap collects children until the command itself has ended.
func reap(child int) int {
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return exitCannotRun // no children left: cannot be
		case pid == child && ws.Signaled():
			return 128 + int(ws.Signal())
		case pid == child && ws.Exited():
			return ws.ExitStatus()
		}
	}
}

// forwarded are all signals but those that are about this process: faults, its
// children, the terminal's stops, and the one that the Go runtime uses.
func forwarded() []os.Signal {
	var list []os.Signal
	for s := unix.Signal(1); s < 65; s++ {
		switch s {
		case unix.SIGKILL, unix.SIGSTOP, unix.SIGCHLD, unix.SIGURG, unix.SIGTTIN, unix.SIGTTOU, unix.SIGPIPE,
			unix.SIGSEGV, unix.SIGBUS, unix.SIGFPE, unix.SIGILL, unix.SIGTRAP, unix.SIGABRT, unix.SIGSYS, 32, 33:
		default:
			list = append(list, s)
		}
	}
	return list
}
