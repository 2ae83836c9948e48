package monitor

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Stage is the name under which the binary's stage table has Main.
const Stage = "balena-monitor"

// controlFD is the one descriptor that a monitor starts with, a stream socket:
//
//	starter ── one byte and descriptors, as often as need be ──▶ monitor
//	        ── Config as JSON ─────────────────────────────────▶
//	        ◀── report as JSON, one line ───────────────────────
//
// Its end before a whole Config is there says that the starter has died.
const controlFD = 3

// report is what comes back from a monitor.
type report struct {
	Pid   int    `json:"pid,omitempty"`
	Error string `json:"error,omitempty"`
	Code  int    `json:"code,omitempty"`
}

// Prepared is a monitor that waits to be told what to start. It ends with the
// process that prepared it, unless it was started.
type Prepared struct {
	self *exec.Cmd
	conn *net.UnixConn
}

// Prepare starts a monitor for the container id ahead of its Config, since a
// process of this size takes a while. It lives in the namespaces of the calling
// thread (which the caller has locked). own says that the container's runtime
// will be balena's own, which is then made ready too.
func Prepare(id string, own bool) (*Prepared, error) {
	ours, theirs, err := socketPair(unix.SOCK_STREAM)
	if err != nil {
		return nil, fmt.Errorf("starting the monitor: %w", err)
	}
	defer ours.Close()
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, fmt.Errorf("starting the monitor: %w", err)
	}
	p := &Prepared{conn: conn.(*net.UnixConn)}
	p.self = &exec.Cmd{Path: "/proc/self/exe", Args: []string{Stage, id}, Env: append(environ(), leanEnv), Dir: "/"}
	if own {
		p.self.Args = append(p.self.Args, ownRuntime)
	}
	p.self.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	p.self.ExtraFiles = []*os.File{theirs}
	if err := p.self.Start(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("starting the monitor: %w", err)
	}
	return p, nil
}

// ownRuntime is the argument that asks for a launcher ahead of the Config.
const ownRuntime = "launch"

// Start has the monitor start the container, and returns when that runs. The
// monitor outlives the caller. When the container cannot be started the error
// is a *StartError, returned after the ExitCommand has cleaned up.
func (p *Prepared) Start(cfg Config, files Files) (*Started, error) {
	if err := p.send(cfg, files); err != nil {
		p.Close()
		return nil, fmt.Errorf("starting the monitor: %w", err)
	}
	r, err := readReport(p.conn)
	if err != nil {
		p.Close()
		return nil, fmt.Errorf("the monitor died before the container ran: %w", err)
	}
	p.conn.Close()
	if r.Error != "" || r.Pid == 0 {
		_ = p.self.Wait() // ends with its ExitCommand
		return nil, &StartError{Msg: r.Error, Code: r.Code}
	}
	pid := p.self.Process.Pid
	// It is not ours to wait for: it goes to init when this process ends. A
	// process that stays (a test, an API server) has it reaped here.
	go func() { _ = p.self.Wait() }()
	return &Started{Pid: r.Pid, MonitorPid: pid}, nil
}

// Close ends a monitor that was not started.
func (p *Prepared) Close() {
	p.conn.Close()
	_ = p.self.Process.Kill()
	_ = p.self.Wait()
}

// Start is Prepare and Prepared.Start.
func Start(cfg Config, files Files) (*Started, error) {
	p, err := Prepare(cfg.ID, len(cfg.Runtime) == 0)
	if err != nil {
		return nil, err
	}
	return p.Start(cfg, files)
}

// fdsAMessage is below what the kernel takes in one message (253).
const fdsAMessage = 128

// send hands over the descriptors, then the Config, in which descriptors are
// numbered in that order.
func (p *Prepared) send(cfg Config, files Files) error {
	var fds []int
	add := func(f *os.File) int {
		fds = append(fds, int(f.Fd()))
		return len(fds) - 1
	}
	cfg.HoldFDs, cfg.Links, cfg.FirstFD, cfg.StartingFD = nil, map[string]int{}, -1, -1
	for _, f := range files.Hold {
		cfg.HoldFDs = append(cfg.HoldFDs, add(f))
	}
	for name, f := range files.Links {
		cfg.Links[name] = add(f)
	}
	if files.First != nil {
		cfg.FirstFD = add(files.First)
	}
	if files.Starting != nil {
		cfg.StartingFD = add(files.Starting)
	}
	for some := range slices.Chunk(fds, fdsAMessage) {
		if _, _, err := p.conn.WriteMsgUnix([]byte{0}, unix.UnixRights(some...), nil); err != nil {
			return err
		}
	}
	return json.NewEncoder(p.conn).Encode(cfg)
}

// receive is the other side of send. io.EOF: the starter has died.
func receive(control *os.File) (Config, error) {
	var cfg Config
	var fds []int
	first := make([]byte, 1)
	oob := make([]byte, unix.CmsgSpace(4*fdsAMessage))
	for {
		n, oobn, flags, _, err := unix.Recvmsg(int(control.Fd()), first, oob, unix.MSG_CMSG_CLOEXEC)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return cfg, fmt.Errorf("reading the monitor's configuration: %w", err)
		case n == 0:
			return cfg, io.EOF
		case flags&unix.MSG_CTRUNC != 0:
			return cfg, errors.New("reading the monitor's configuration: too many open files")
		}
		got, err := rights(oob[:oobn])
		if err != nil {
			return cfg, fmt.Errorf("reading the monitor's configuration: %w", err)
		}
		if len(got) == 0 {
			break
		}
		fds = append(fds, got...)
	}
	err := json.NewDecoder(io.MultiReader(strings.NewReader(string(first)), control)).Decode(&cfg)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return cfg, io.EOF
	} else if err != nil {
		return cfg, fmt.Errorf("reading the monitor's configuration: %w", err)
	}
	return cfg, cfg.resolve(fds)
}

// resolve replaces the numbers that send gave by descriptors of this process.
func (c *Config) resolve(fds []int) error {
	bad := false
	get := func(i int) int {
		if i < 0 || i >= len(fds) {
			bad = true
			return -1
		}
		return fds[i]
	}
	for i, n := range c.HoldFDs {
		c.HoldFDs[i] = get(n)
	}
	for name, n := range c.Links {
		c.Links[name] = get(n)
	}
	for _, n := range []*int{&c.FirstFD, &c.StartingFD} {
		if *n >= 0 {
			*n = get(*n)
		}
	}
	if bad {
		return errors.New("reading the monitor's configuration: descriptors are missing")
	}
	return nil
}

// rights are the descriptors in a message's control data.
func rights(oob []byte) ([]int, error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var fds []int
	for i := range msgs {
		got, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			return nil, err
		}
		fds = append(fds, got...)
	}
	return fds, nil
}

func socketPair(kind int) (a, b *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a socket pair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "control"), os.NewFile(uintptr(fds[1]), "control"), nil
}

// environ is our environment without NOTIFY_SOCKET: with it the runtime would
// wait until the container says READY=1 to whoever started us.
func environ() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "NOTIFY_SOCKET=") })
}

func readReport(r io.Reader) (report, error) {
	var rep report
	line, err := bufio.NewReader(r).ReadBytes('\n')
	if errors.Is(err, io.EOF) {
		return rep, io.ErrUnexpectedEOF
	} else if err != nil {
		return rep, err
	}
	return rep, json.Unmarshal(line, &rep)
}
