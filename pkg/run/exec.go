package run

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/balena-os/balena/pkg/monitor"
	"github.com/balena-os/balena/pkg/runtime"
	"github.com/balena-os/balena/pkg/store"
)

// ExecOptions say how a process joins a running container. The zero value runs
// it as the container's own first process would be run.
type ExecOptions struct {
	Env        []string // NAME=VALUE, besides the container's own
	User       string   // USER[:GROUP]; "" is the container's
	WorkingDir string   // "" is the container's
	Privileged bool     // all capabilities that the engine may hand on
	Tty        bool     // ExecStart only
	Stdin      bool     // ExecStart only: stdin stays open

	// Size is the console's at the beginning.
	Size monitor.Size
	// First and Conn are as in StartOptions, for ExecStart.
	First *monitor.AttachRequest
	Conn  *os.File
}

// ExecStreams are what a process in the foreground is connected to.
type ExecStreams struct {
	Stdin          io.Reader // nil is empty
	Stdout, Stderr io.Writer
	Signals        <-chan os.Signal // passed on to the process
}

// Exec runs a process in a running container and waits for it: the exit code
// is the process's. An error with a *monitor.StartError in it says that it
// could not be run. No other process of ours stands between it and the caller;
// what it is given are pipes, never the caller's own descriptors.
func (e *Engine) Exec(ctx context.Context, ref string, args []string, o ExecOptions, s ExecStreams) (int, error) {
	o.Tty = false
	t, err := e.execTarget(ctx, ref, args, o)
	if err != nil {
		return 0, err
	}
	if len(t.run.Run.Runtime) > 0 {
		return t.foreign(ctx, s)
	}
	code, err := runtime.Exec(ctx, runtime.ExecOptions{
		Root: t.run.Run.RuntimeRoot, ID: t.ID, Process: t.process,
		Stdio: runtime.Stdio{Stdin: s.Stdin, Stdout: s.Stdout, Stderr: s.Stderr, Signals: s.Signals},
	})
	switch {
	case err == nil:
		return code, nil
	case errors.Is(err, runtime.ErrStopped), errors.Is(err, runtime.ErrNotExist):
		return 0, fmt.Errorf("container %s: %w", ref, ErrNotRunning)
	case errors.Is(err, runtime.ErrPaused):
		return 0, fmt.Errorf("container %s: %w: use 'balena unpause'", ref, ErrPaused)
	}
	return 0, &monitor.StartError{Msg: err.Error(), Code: runtime.ExitCode(err)}
}

// ExecStart starts a process in a running container beside a monitor of its
// own, so that a client can leave it and it is reaped: `exec -t` and `exec -d`.
// The returned folder is the one to attach to; the monitor removes it when the
// process has ended.
func (e *Engine) ExecStart(ctx context.Context, ref string, args []string, o ExecOptions) (runDir string, err error) {
	t, err := e.execTarget(ctx, ref, args, o)
	if err != nil {
		return "", err
	}
	runDir = filepath.Join(t.dir, "exec", strings.ToLower(rand.Text()[:12]))
	if err := os.MkdirAll(runDir, 0o700); err != nil {
		return "", fmt.Errorf("making the folder of the process: %w", err)
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(runDir)
		}
	}()
	file, err := t.writeProcess(runDir)
	if err != nil {
		return "", err
	}
	_, err = monitor.Start(monitor.Config{
		ID: t.ID, Name: t.Name, RunDir: runDir, Exec: &monitor.ExecConfig{ProcessFile: file},
		Runtime: t.run.Run.Runtime, RuntimeRoot: t.run.Run.RuntimeRoot, SystemdCgroup: t.run.Run.SystemdCgroup,
		Terminal: o.Tty, Stdin: o.Stdin, StdinOnce: o.Stdin && o.First != nil,
		Log: monitor.LogConfig{Driver: "none"}, First: o.First,
	}, monitor.Files{First: o.Conn})
	return runDir, err
}

// execTarget is a running container and the process that is to join it.
type execTarget struct {
	*Observed
	process *specs.Process
}

func (e *Engine) execTarget(ctx context.Context, ref string, args []string, o ExecOptions) (*execTarget, error) {
	seen, err := e.find(ctx, ref)
	if err != nil {
		return nil, err
	}
	switch {
	case !seen.Running():
		return nil, fmt.Errorf("container %s: %w", ref, ErrNotRunning)
	case seen.State.Status == store.StatusPaused:
		return nil, fmt.Errorf("container %s: %w: use 'balena unpause'", ref, ErrPaused)
	}
	t := &execTarget{Observed: seen}
	return t, t.makeProcess(args, o)
}

// makeProcess derives the process from the container's own, as its bundle has
// it.
func (t *execTarget) makeProcess(args []string, o ExecOptions) error {
	spec, err := runtime.LoadSpec(filepath.Join(t.dir, runtime.SpecFile))
	if err != nil {
		return fmt.Errorf("container %s: %w", short(t.ID), err)
	}
	p := spec.Process
	p.Args, p.Terminal = args, o.Tty
	p.ConsoleSize = nil
	if o.Tty && o.Size.Rows > 0 {
		p.ConsoleSize = &specs.Box{Height: uint(o.Size.Rows), Width: uint(o.Size.Cols)}
	}
	cfg := t.Config
	if o.User != "" {
		// The rootfs as the container sees it now, with all its mounts.
		u, err := lookupUser(fmt.Sprintf("/proc/%d/root", t.Pid), o.User, nil)
		if err != nil {
			return err
		}
		p.User = specs.User{UID: u.UID, GID: u.GID, AdditionalGids: u.Groups, Umask: p.User.Umask}
		if p.Capabilities, err = capabilitySets(&cfg, u.UID == 0); err != nil {
			return err
		}
		if !slices.ContainsFunc(cfg.Env, isHome) {
			p.Env = mergeEnv(p.Env, []string{"HOME=" + u.Home})
		}
	}
	if o.Privileged {
		cfg.Privileged = true
		if p.Capabilities, err = capabilitySets(&cfg, true); err != nil {
			return err
		}
		p.NoNewPrivileges, p.ApparmorProfile = false, ""
	}
	if o.Tty {
		p.Env = mergeEnv([]string{"TERM=xterm"}, p.Env)
	}
	p.Env = mergeEnv(p.Env, o.Env)
	if o.WorkingDir != "" {
		p.Cwd = filepath.Clean("/" + o.WorkingDir)
	}
	t.process = p
	return nil
}

func isHome(e string) bool { return strings.HasPrefix(e, "HOME=") }

func (t *execTarget) writeProcess(dir string) (string, error) {
	raw, err := json.Marshal(t.process)
	if err != nil {
		return "", fmt.Errorf("encoding the OCI process: %w", err)
	}
	path := filepath.Join(dir, "process.json")
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		return "", fmt.Errorf("writing the OCI process: %w", err)
	}
	return path, nil
}

// foreign has another OCI runtime's command run the process.
func (t *execTarget) foreign(ctx context.Context, s ExecStreams) (int, error) {
	dir, err := os.MkdirTemp(t.dir, "exec-")
	if err != nil {
		return 0, fmt.Errorf("making the folder of the process: %w", err)
	}
	defer os.RemoveAll(dir)
	file, err := t.writeProcess(dir)
	if err != nil {
		return 0, err
	}
	r := &t.run.Run
	args := append(slices.Clone(r.Runtime[1:]), "--root", r.RuntimeRoot, "--log", filepath.Join(dir, "log"), "--log-format", "json")
	if r.SystemdCgroup {
		args = append(args, "--systemd-cgroup")
	}
	cmd := exec.CommandContext(ctx, r.Runtime[0], append(args, "exec", "--process", file, t.ID)...)
	cmd.Stdin, cmd.Stdout = s.Stdin, s.Stdout
	// It says there what the process says, and what it has to say itself.
	cmd.Stderr = s.Stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("running the OCI runtime: %w", err)
	}
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case sig := <-s.Signals:
				_ = cmd.Process.Signal(sig)
			case <-done:
				return
			}
		}
	}()
	err = cmd.Wait()
	if se := monitor.RuntimeLogError(filepath.Join(dir, "log")); se != nil {
		return se.Code, nil // it has said so on stderr
	}
	var ee *exec.ExitError
	if errors.As(err, &ee) {
		if ws, ok := ee.Sys().(unix.WaitStatus); ok && ws.Signaled() {
			return 128 + int(ws.Signal()), nil
		}
		return ee.ExitCode(), nil
	}
	return 0, err
}
