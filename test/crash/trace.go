package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// childStage is the first argument of this program as the parent of a traced
// command: it installs the filter that stops the command at the system calls
// that matter and executes it.
const childStage = "crash-child"

func childMain(argv []string) error {
	runtime.LockOSThread()                                                             // the filter is this thread's, which executes
	filter := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}} // the number
	for i, c := range calls {
		filter = append(filter,
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: c.nr, Jf: 1},
			unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_TRACE | uint32(i)})
	}
	filter = append(filter, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW})
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if _, _, e := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog))); e != 0 {
		return fmt.Errorf("seccomp: %w", e)
	}
	return unix.Exec(argv[0], argv, os.Environ())
}

// traced runs a command until its n-th system call of those in calls has
// returned, or until it has exited, calls cut at that instant, and kills what
// is left of the command. It must be called on a thread of its own.
type traced struct {
	count   int    // calls that have returned
	last    string // the one before the cut
	exited  bool   // before the cut
	code    int
	known   map[int]bool
	pending map[int]int // thread → index of the call that it is in
	main    int
}

func trace(cmd *exec.Cmd, n int, cut func()) (*traced, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd.Args = append([]string{self, childStage}, cmd.Args...)
	cmd.Path = self
	cmd.SysProcAttr = &unix.SysProcAttr{Ptrace: true, Setsid: true}
	t := &traced{known: map[int]bool{}, pending: map[int]int{}}
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		done <- t.run(cmd, n, cut)
	}()
	return t, <-done
}

const traceOptions = unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACEFORK | unix.PTRACE_O_TRACEVFORK | unix.PTRACE_O_TRACEEXEC |
	unix.PTRACE_O_TRACESECCOMP | unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_EXITKILL

func (t *traced) run(cmd *exec.Cmd, n int, cut func()) error {
	if err := cmd.Start(); err != nil {
		return err
	}
	t.main = cmd.Process.Pid
	var ws unix.WaitStatus
	if _, err := unix.Wait4(t.main, &ws, unix.WALL, nil); err != nil {
		return fmt.Errorf("waiting for the command: %w", err)
	}
	if err := unix.PtraceSetOptions(t.main, traceOptions); err != nil {
		return fmt.Errorf("tracing the command: %w", err)
	}
	t.known[t.main] = true
	_ = unix.PtraceCont(t.main, 0)
	for !t.exited && (n <= 0 || t.count < n) {
		pid, err := unix.Wait4(-1, &ws, unix.WALL|unix.WNOTHREAD, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("waiting for the command: %w", err)
		}
		t.event(pid, ws, n)
	}
	cut()
	for pid := range t.known {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	for {
		pid, err := unix.Wait4(-1, &ws, unix.WALL|unix.WNOTHREAD, nil)
		switch {
		case err == unix.EINTR:
		case err != nil: // ECHILD: all are gone
			return nil
		case ws.Stopped():
			_ = unix.Kill(pid, unix.SIGKILL)
			_ = unix.PtraceCont(pid, 0)
		}
	}
}

func (t *traced) event(pid int, ws unix.WaitStatus, n int) {
	switch {
	case ws.Exited() || ws.Signaled():
		delete(t.known, pid)
		delete(t.pending, pid)
		if pid == t.main {
			t.exited, t.code = true, ws.ExitStatus()
		}
		return
	case !ws.Stopped():
		return
	}
	sig, event := ws.StopSignal(), int(ws>>16)
	isNew := !t.known[pid]
	t.known[pid] = true
	switch {
	case event == unix.PTRACE_EVENT_SECCOMP:
		if i, err := unix.PtraceGetEventMsg(pid); err == nil && int(i) < len(calls) {
			t.pending[pid] = int(i)
			_ = unix.PtraceSyscall(pid, 0) // stops again when it returns
			return
		}
		_ = unix.PtraceCont(pid, 0)
	case sig == unix.SIGTRAP|0x80:
		if i, ok := t.pending[pid]; ok {
			delete(t.pending, pid)
			t.last = calls[i].name
			if t.count++; t.count == n {
				return // it stays stopped
			}
		}
		_ = unix.PtraceCont(pid, 0)
	case event != 0, isNew && sig == unix.SIGSTOP:
		_ = unix.PtraceCont(pid, 0)
	default:
		_ = unix.PtraceCont(pid, int(sig))
	}
}

type call struct {
	nr   uint32
	name string
}
