package monitor

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Stage is the name under which the binary's stage table has Main.
const Stage = "balena-monitor"

// The descriptors that every monitor starts with.
const (
	configFD = 3
	statusFD = 4
	otherFDs = 5
)

// report is what comes back from a monitor, as one JSON line.
type report struct {
	Pid   int    `json:"pid,omitempty"`
	Error string `json:"error,omitempty"`
	Code  int    `json:"code,omitempty"`
}

// Start starts a monitor and through it the container, and returns when the
// container runs. The monitor lives in the namespaces of the calling thread
// (which the caller has locked) and outlives the caller. When the container
// cannot be started the error is a *StartError, returned after the ExitCommand
// has cleaned up.
func Start(cfg Config, files Files) (*Started, error) {
	self := &exec.Cmd{Path: "/proc/self/exe", Args: []string{Stage, cfg.ID}, Env: append(environ(), leanEnv), Dir: "/"}
	self.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	inherit := func(f *os.File) int {
		self.ExtraFiles = append(self.ExtraFiles, f)
		return configFD + len(self.ExtraFiles) - 1
	}

	message, err := memfile("monitor-config")
	if err != nil {
		return nil, fmt.Errorf("starting the monitor: %w", err)
	}
	defer message.Close()
	status, theirs, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("starting the monitor: %w", err)
	}
	defer status.Close()
	defer theirs.Close()
	inherit(message)
	inherit(theirs)
	for _, f := range files.Hold {
		cfg.HoldFDs = append(slices.Clip(cfg.HoldFDs), inherit(f))
	}
	cfg.Links = map[string]int{}
	for name, f := range files.Links {
		cfg.Links[name] = inherit(f)
	}
	if files.First != nil {
		cfg.FirstFD = inherit(files.First)
	}
	if err := json.NewEncoder(message).Encode(cfg); err != nil {
		return nil, fmt.Errorf("starting the monitor: %w", err)
	}
	if _, err := message.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("starting the monitor: %w", err)
	}
	if err := self.Start(); err != nil {
		return nil, fmt.Errorf("starting the monitor: %w", err)
	}
	theirs.Close()
	r, err := readReport(status)
	if err != nil {
		_ = self.Process.Kill()
		_ = self.Wait()
		return nil, fmt.Errorf("the monitor died before the container ran: %w", err)
	}
	if r.Error != "" || r.Pid == 0 {
		_ = self.Wait() // ends with its ExitCommand
		return nil, &StartError{Msg: r.Error, Code: r.Code}
	}
	pid := self.Process.Pid
	// It is not ours to wait for: it goes to init when this process ends. A
	// process that stays (a test, an API server) has it reaped here.
	go func() { _ = self.Wait() }()
	return &Started{Pid: r.Pid, MonitorPid: pid}, nil
}

// environ is our environment without NOTIFY_SOCKET: with it the runtime would
// wait until the container says READY=1 to whoever started us.
func environ() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "NOTIFY_SOCKET=") })
}

func readReport(f *os.File) (report, error) {
	var r report
	line, err := bufio.NewReader(f).ReadBytes('\n')
	if errors.Is(err, io.EOF) {
		return r, io.ErrUnexpectedEOF
	} else if err != nil {
		return r, err
	}
	return r, json.Unmarshal(line, &r)
}

// memfile is a file in memory, so that a message of any length never blocks.
func memfile(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}
