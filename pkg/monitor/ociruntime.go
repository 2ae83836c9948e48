package monitor

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// runtimeArgs gives path and argv of an OCI runtime call.
func (m *monitor) runtimeArgs(args ...string) (string, []string) {
	path, argv := "/proc/self/exe", []string{"balena-runc"}
	if len(m.cfg.Runtime) > 0 {
		path, argv = m.cfg.Runtime[0], append([]string(nil), m.cfg.Runtime...)
	}
	if m.cfg.RuntimeRoot != "" {
		argv = append(argv, "--root", m.cfg.RuntimeRoot)
	}
	if m.cfg.SystemdCgroup {
		argv = append(argv, "--systemd-cgroup")
	}
	return path, append(argv, args...)
}

// startContainer has the runtime start the container's process.
func (m *monitor) startContainer() (pid int, ended <-chan unix.WaitStatus, err error) {
	dir := m.cfg.RunDir
	_ = os.Remove(filepath.Join(dir, runtimeLog))
	_ = os.Remove(filepath.Join(dir, pidFile))
	var std [3]*os.File
	var console *consoleSocket
	if m.cfg.Terminal {
		if console, err = newConsoleSocket(dir); err != nil {
			return 0, nil, err
		}
		defer console.close()
		std, err = m.consoleStdio()
	} else {
		std, err = m.io.pipes(m.cfg.Stdin)
	}
	if err != nil {
		m.io.close()
		return 0, nil, err
	}
	var master <-chan error
	if console != nil {
		master = console.receiveAsync(m.io.setConsole)
	}
	m.reaper.begin()
	defer m.reaper.end()
	m.restoreOOM()
	if m.launches && len(m.cfg.Runtime) == 0 {
		err = m.startByLauncher(std, console)
	} else {
		err = m.startByCommand(std, console)
	}
	m.protectFromOOM()
	if console != nil {
		if err != nil {
			console.l.Close() // so that nobody waits for a console
		}
		if merr := <-master; err == nil {
			err = merr
		}
	}
	if err == nil {
		pid, err = m.readPid()
	}
	if err != nil {
		m.io.close()
		return 0, nil, err
	}
	return pid, m.reaper.wait(pid), nil
}

// consoleStdio is what the runtime gets for a process with a console. What it
// says outside its log is kept for the error.
func (m *monitor) consoleStdio() (std [3]*os.File, err error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return std, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		null.Close()
		return std, err
	}
	m.io.outs = []stream{{r, frameStderr}}
	return [3]*os.File{null, null, w}, nil
}

// startByCommand runs an OCI runtime's command line.
func (m *monitor) startByCommand(std [3]*os.File, console *consoleSocket) error {
	logPath := filepath.Join(m.cfg.RunDir, runtimeLog)
	args := []string{"--log", logPath, "--log-format", "json"}
	if m.cfg.Exec != nil {
		args = append(args, "exec", "--detach", "--process", m.cfg.Exec.ProcessFile)
	} else {
		args = append(args, "run", "--detach", "--bundle", m.bundle())
	}
	args = append(args, "--pid-file", filepath.Join(m.cfg.RunDir, pidFile))
	if console != nil {
		args = append(args, "--console-socket", console.path)
	}
	path, argv := m.runtimeArgs(append(args, m.cfg.ID)...)
	_, runtime, err := m.reaper.spawn(path, argv, os.Environ(), std[:], true)
	closeAll(std[:])
	if err != nil {
		return &StartError{Msg: fmt.Sprintf("running the OCI runtime %s: %v", path, err), Code: 125}
	}
	if ws := <-runtime; exitCode(ws) != 0 {
		return m.runtimeError(logPath, ws)
	}
	_ = os.Remove(logPath)
	return nil
}

func (m *monitor) readPid() (int, error) {
	raw, err := os.ReadFile(filepath.Join(m.cfg.RunDir, pidFile))
	if err != nil {
		return 0, fmt.Errorf("reading the container's process number: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		return 0, fmt.Errorf("reading the container's process number: %w", err)
	}
	return pid, nil
}

// receiveAsync gives the console to use as soon as it comes, which is before
// the container's process begins, so that it never sees another size.
func (c *consoleSocket) receiveAsync(use func(*os.File)) <-chan error {
	ch := make(chan error, 1)
	go func() {
		f, err := c.receive()
		if err == nil {
			use(f)
		}
		ch <- err
	}()
	return ch
}

// runtimeError makes an error of what a failed runtime logged, or else printed.
func (m *monitor) runtimeError(logPath string, ws unix.WaitStatus) error {
	msg := lastLogError(logPath)
	if msg == "" {
		for _, out := range m.io.outs {
			if out.t == frameStderr {
				msg = strings.TrimSpace(readAvailable(out.f))
			}
		}
	}
	if msg == "" {
		msg = fmt.Sprintf("the OCI runtime failed with exit code %d", exitCode(ws))
	}
	_ = os.Remove(logPath)
	return &StartError{Msg: clip(msg), Code: classify(msg)}
}

// clip bounds a message that is kept in a record.
func clip(msg string) string {
	if len(msg) > 4096 {
		return strings.ToValidUTF8(msg[:4096], "")
	}
	return msg
}

// RuntimeLogError gives what an OCI runtime wrote into its JSON log before it
// failed, or nil when it wrote nothing of the kind.
func RuntimeLogError(path string) *StartError {
	msg := lastLogError(path)
	if msg == "" {
		return nil
	}
	return &StartError{Msg: msg, Code: classify(msg)}
}

// lastLogError is the message of the last record of level error or worse in a
// runtime's JSON log.
func lastLogError(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	var found string
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		var rec struct{ Level, Msg string }
		if json.Unmarshal(sc.Bytes(), &rec) != nil {
			continue
		}
		if rec.Level == "error" || rec.Level == "fatal" || rec.Level == "panic" || found == "" && rec.Level == "" {
			found = rec.Msg
		}
	}
	return found
}

// classify maps a runtime's complaint to the exit code of a shell: 127 for a
// command that is not there, 126 for one that cannot be executed, else 125.
func classify(msg string) int {
	low := strings.ToLower(msg)
	has := func(list ...string) bool {
		for _, s := range list {
			if strings.Contains(low, s) {
				return true
			}
		}
		return false
	}
	// runc: exec: "x": executable file not found in $PATH; crun: executable
	// file `x` not found in $PATH.
	switch {
	case has("executable file") && has("not found in $path"):
		return 127
	case !has("exec: \"", "exec /", "open executable", "exec format error", "unable to start container process: exec", "executable file"):
		return 125
	case has("no such file or directory", "not found"):
		return 127
	case has("permission denied", "exec format error", "is a directory", "not a directory", "operation not permitted"):
		return 126
	}
	return 125
}

// deleteContainer removes what the runtime keeps.
func (m *monitor) deleteContainer() {
	if m.cfg.Exec != nil {
		return
	}
	m.runtime("delete", "--force", m.cfg.ID)
}

// runtime runs a runtime command whose output nobody reads, for up to a minute.
func (m *monitor) runtime(args ...string) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer null.Close()
	path, argv := m.runtimeArgs(args...)
	pid, ended, err := m.reaper.spawn(path, argv, os.Environ(), []*os.File{null, null, null}, false)
	if err != nil {
		m.problem("%s %s: %v", path, args[0], err)
		return
	}
	select {
	case ws := <-ended:
		if c := exitCode(ws); c != 0 {
			m.problem("%s %s: exit code %d", path, args[0], c)
		}
	case <-time.After(time.Minute):
		m.problem("%s %s: stuck, killed", path, args[0])
		_ = unix.Kill(pid, unix.SIGKILL)
	}
}

// oomFile finds the counter of OOM kills in the container's cgroup, with the
// word before its number; "" when there is none.
func oomFile(pid int) (path, key string) {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil || !utf8.Valid(raw) {
		return "", ""
	}
	for line := range strings.Lines(string(raw)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(f) != 3 || f[2] == "/" || strings.HasPrefix(f[2], "/..") {
			continue
		}
		var p string
		switch {
		case f[0] == "0" && f[1] == "":
			p = filepath.Join("/sys/fs/cgroup", f[2], "memory.events")
		case f[1] == "memory":
			p = filepath.Join("/sys/fs/cgroup/memory", f[2], "memory.oom_control")
		default:
			continue
		}
		if unix.Access(p, unix.R_OK) == nil {
			return p, "oom_kill"
		}
	}
	return "", ""
}

// oomKills reads a counter that oomFile found.
func oomKills(path, key string) int {
	if path == "" {
		return 0
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == key {
			n, _ := strconv.Atoi(f[1])
			return n
		}
	}
	return 0
}

// signal sends a signal to the container's first process. It is not yet
// reaped, so the number is still its own.
func (m *monitor) signal(sig unix.Signal) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.pid == 0 {
		return errors.New("the container is not running")
	}
	if err := unix.Kill(m.pid, sig); err != nil {
		return fmt.Errorf("sending signal %d to process %d: %w", sig, m.pid, err)
	}
	return nil
}
