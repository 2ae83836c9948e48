package monitor

import (
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// reaper waits for all children: those that the monitor starts, the container
// (which the runtime leaves to it, as the next subreaper) and what the
// container's processes leave behind outside a process namespace. One place
// waits for any, because two would take each other's.
type reaper struct {
	mu      sync.Mutex
	waiting map[int]chan unix.WaitStatus
	early   map[int]unix.WaitStatus // ended before anybody asked; nil when nobody will
}

func newReaper() *reaper {
	r := &reaper{waiting: map[int]chan unix.WaitStatus{}}
	sig := make(chan os.Signal, 1)
	signal.Notify(sig, unix.SIGCHLD)
	go func() {
		for range sig {
			r.reap()
		}
	}()
	return r
}

func (r *reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if c, ok := r.waiting[pid]; ok {
			delete(r.waiting, pid)
			c <- ws
		} else if r.early != nil {
			r.early[pid] = ws
		}
	}
}

// begin and end enclose the start of a container: whoever ends between them is
// remembered, so that a process whose number is still unknown is not lost.
func (r *reaper) begin() {
	r.mu.Lock()
	r.early = map[int]unix.WaitStatus{}
	r.mu.Unlock()
}

func (r *reaper) end() {
	r.mu.Lock()
	r.early = nil
	r.mu.Unlock()
}

// wait gives the status of a child, once.
func (r *reaper) wait(pid int) <-chan unix.WaitStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.waitLocked(pid)
}

func (r *reaper) waitLocked(pid int) <-chan unix.WaitStatus {
	c := make(chan unix.WaitStatus, 1)
	if ws, ok := r.early[pid]; ok {
		delete(r.early, pid)
		c <- ws
	} else {
		r.waiting[pid] = c
	}
	return c
}

// spawn starts a child and waits for it through the returned channel. files
// become its descriptors 0, 1, 2… With die it is killed when the monitor is,
// so that a start ends with whoever waits for it. (That goes by thread, and
// threads of this process do not end.)
func (r *reaper) spawn(path string, argv, env []string, files []*os.File, die bool) (int, <-chan unix.WaitStatus, error) {
	r.mu.Lock() // so that its end is not reaped before we wait for it
	defer r.mu.Unlock()
	attr := &syscall.ProcAttr{Dir: "/", Env: env}
	if die {
		attr.Sys = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	}
	for _, f := range files {
		attr.Files = append(attr.Files, f.Fd())
	}
	pid, err := syscall.ForkExec(path, argv, attr)
	if err != nil {
		return 0, nil, err
	}
	return pid, r.waitLocked(pid), nil
}

// exitCode is a wait status as a shell shows it.
func exitCode(ws unix.WaitStatus) int {
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}
