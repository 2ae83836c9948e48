package netns

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rootless-containers/rootlesskit/v3/pkg/port"
	"github.com/rootless-containers/rootlesskit/v3/pkg/port/builtin"
	"golang.org/x/sys/unix"
)

// Main is the stage balena-netns: it reads one keeperRequest from stdin,
// runs the helper, answers with one keeperReply on stdout, and lives until
// nobody needs the network any more.
func Main(_ []string, stdin, stdout, stderr *os.File) int {
	// The helper ends with the thread that starts it.
	runtime.LockOSThread()
	var req keeperRequest
	if err := json.NewDecoder(stdin).Decode(&req); err != nil {
		fmt.Fprintf(stderr, "%s: reading the request: %v\n", Stage, err)
		return 2
	}
	for _, fd := range []int{keeperNS, keeperLife} {
		unix.CloseOnExec(fd)
	}
	k := &keeper{req: req, ns: os.NewFile(keeperNS, "netns"), life: os.NewFile(keeperLife, "life line")}
	reply := k.start()
	err := json.NewEncoder(stdout).Encode(reply)
	if err != nil || reply.Error != "" {
		k.stop()
		return 1
	}
	// Whoever waits for our output gets its end.
	if null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0); err == nil {
		for fd := range 3 {
			_ = unix.Dup3(int(null.Fd()), fd, 0)
		}
		_ = null.Close()
	}
	k.wait()
	k.stop()
	return 0
}

type keeper struct {
	req      keeperRequest
	ns, life *os.File
	cmd      *exec.Cmd
	out      tail
	ended    chan error // the helper's end
}

func (k *keeper) start() keeperReply {
	if err := k.run(); err != nil {
		return keeperReply{Error: err.Error(), Binary: true}
	}
	reply := keeperReply{}
	if len(k.req.Ports) > 0 {
		reply = k.forward()
	}
	reply.Helper = process(k.cmd.Process.Pid)
	return reply
}

// run starts the helper and waits until it is ready or has ended.
func (k *keeper) run() error {
	readyR, readyW, err := os.Pipe()
	if err != nil {
		return err
	}
	defer readyR.Close()
	var args []string
	for _, a := range k.req.Args {
		a = strings.Replace(a, "%NS", "3", 1)
		args = append(args, strings.Replace(a, "%READY", "4", 1))
	}
	k.cmd = exec.Command(k.req.Helper, args...)
	k.cmd.ExtraFiles = []*os.File{k.ns, readyW}
	k.cmd.Stdout, k.cmd.Stderr = &k.out, &k.out
	k.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	k.ended = make(chan error, 1)
	err = k.cmd.Start()
	_ = readyW.Close()
	if err != nil {
		return err
	}
	go func() { k.ended <- k.cmd.Wait() }()
	if err := readyR.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return err
	}
	b := make([]byte, 1)
	if _, err = readyR.Read(b); err == nil {
		return nil
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("not ready after 20 s: %s", k.out.String())
	}
	select {
	case err = <-k.ended:
		k.ended <- err
	case <-time.After(time.Second):
	}
	return fmt.Errorf("%w: %s", err, k.out.String())
}

// forward publishes the ports with rootlesskit's port driver, whose two halves
// both run here: one listens on the host, the other connects inside.
func (k *keeper) forward() keeperReply {
	fail := func(err error) keeperReply { return keeperReply{Error: err.Error()} }
	// The driver's socket and pipe get short names, for a socket's path has
	// at most 107 bytes.
	if err := os.Chdir(k.req.Dir); err != nil {
		return fail(err)
	}
	parent, err := builtin.NewParentDriver(io.Discard, ".", false, "")
	if err != nil {
		return fail(err)
	}
	child := builtin.NewChildDriver(io.Discard)
	ended := make(chan error, 2)
	go func() {
		ended <- child.RunChildDriver(parent.OpaqueForChild(), nil, "/proc/self/fd/"+strconv.Itoa(keeperNS))
	}()
	ready := make(chan struct{}, 1)
	go func() { ended <- parent.RunParentDriver(ready, nil, nil) }()
	select {
	case <-ready:
	case err := <-ended:
		return fail(fmt.Errorf("starting the port driver: %w", err))
	case <-time.After(10 * time.Second):
		return fail(errors.New("the port driver is not ready after 10 s"))
	}
	ip := k.req.ChildIP
	if ip == "" {
		if ip, err = k.insideAddress(); err != nil {
			return fail(err)
		}
	}
	for i, p := range k.req.Ports {
		spec := port.Spec{Proto: p.Protocol, ParentIP: p.HostIP, ParentPort: int(p.HostPort),
			ChildIP: ip, ChildPort: int(p.ContainerPort)}
		if _, err := parent.AddPort(context.Background(), spec); err != nil {
			r := fail(err)
			var errno syscall.Errno
			if errors.As(err, &errno) {
				r.Errno, r.Port = int(errno), i
			}
			return r
		}
	}
	return keeperReply{}
}

// insideAddress is the address that the helper configured.
func (k *keeper) insideAddress() (string, error) {
	var n Network
	n.Interface = insideName
	err := within(k.ns, n.inspect)
	return n.IPAddress, err
}

// wait returns when the helper has ended or when the network is not needed:
// nobody holds the life line and no process is in the namespace. (A container
// whose monitor was killed keeps its network.)
func (k *keeper) wait() {
	cut := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, k.life)
		close(cut)
	}()
	select {
	case err := <-k.ended:
		k.ended <- err
		return
	case <-cut:
	}
	for k.inUse() {
		select {
		case err := <-k.ended:
			k.ended <- err
			return
		case <-time.After(time.Second):
		}
	}
}

func (k *keeper) stop() {
	if k.cmd != nil && k.cmd.Process != nil {
		_ = k.cmd.Process.Kill()
		select { // so that it does not stay a zombie where PID 1 does not reap
		case <-k.ended:
		case <-time.After(time.Second):
		}
	}
	if k.req.Dir != "" {
		_ = os.RemoveAll(k.req.Dir)
	}
}

// inUse tells whether any process but the helper is in the namespace.
func (k *keeper) inUse() bool {
	ns, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(keeperNS))
	if err != nil {
		return false
	}
	self := strconv.Itoa(os.Getpid())
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return false
	}
	for _, p := range procs {
		if _, err := strconv.Atoi(p.Name()); err != nil || p.Name() == self {
			continue
		}
		dir := filepath.Join("/proc", p.Name())
		if at, err := os.Readlink(filepath.Join(dir, "ns/net")); err != nil || at != ns {
			continue
		}
		if raw, err := os.ReadFile(filepath.Join(dir, "status")); err == nil && !bytes.Contains(raw, []byte("\nPPid:\t"+self+"\n")) {
			return true
		}
	}
	return false
}

// tail keeps the end of what a helper says.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if n := len(t.buf) - 4096; n > 0 {
		t.buf = append([]byte(nil), t.buf[n:]...)
	}
	return len(p), nil
}

// String gives the lines that say something, on one.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var lines []string
	for l := range strings.Lines(string(t.buf)) {
		if l = strings.TrimSpace(l); l != "" && !strings.Contains(l, "to syslog") {
			lines = append(lines, l)
		}
	}
	return strings.Join(lines, "; ")
}
