package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"

	"github.com/moby/term"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/balena-os/balena/pkg/monitor"
	"github.com/balena-os/balena/pkg/run"
)

type execFlags struct {
	run.ExecOptions
	detach     bool
	detachKeys string
	envFiles   []string
}

func newExecCmd(e *env) *cobra.Command {
	var o execFlags
	cmd := &cobra.Command{
		Use: "exec CONTAINER COMMAND [ARG...]", Short: "Run a command in a running container",
		Long: `Run a command in a running container, as the container's user and with its environment unless told otherwise.

The exit code is the command's: 126 when it cannot be executed, 127 when it is not there, 125 when the container does not run.`,
		Example: "  balena exec web ls /srv\n  balena exec -it web sh\n  balena exec -d -u nobody web sh -c 'sleep 60; touch /tmp/done'",
		Args:    cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.exec(cmd.Context(), args[0], args[1:], o)
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.BoolVarP(&o.detach, "detach", "d", false, "run it in the background")
	f.StringVar(&o.detachKeys, "detach-keys", defaultDetachKeys, "the keys that detach from a console")
	list(f, &o.Env, "env", "e", "set a variable: NAME=VALUE, or NAME to pass ours on")
	list(f, &o.envFiles, "env-file", "", "read variables from a file")
	f.BoolVarP(&o.Stdin, "interactive", "i", false, "pass our stdin on")
	f.BoolVar(&o.Privileged, "privileged", false, "give it all capabilities")
	f.BoolVarP(&o.Tty, "tty", "t", false, "give it a console")
	f.StringVarP(&o.User, "user", "u", "", "run it as USER[:GROUP], names or numbers")
	f.StringVarP(&o.WorkingDir, "workdir", "w", "", "where it starts")
	return cmd
}

func (e *env) exec(ctx context.Context, ref string, args []string, o execFlags) error {
	eng, err := e.engine()
	if err != nil {
		return err
	}
	if o.Env, err = execEnv(o.envFiles, o.Env); err != nil {
		return err
	}
	switch {
	case o.detach:
		o.Stdin = false
		_, err := eng.ExecStart(ctx, ref, args, o.ExecOptions)
		return err
	case o.Tty:
		return e.execTerminal(ctx, eng, ref, args, o)
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, forwardedSignals()...)
	s := run.ExecStreams{Stdout: e.stdout, Stderr: e.stderr, Signals: signals}
	if o.Stdin {
		s.Stdin = e.stdin
	}
	code, err := eng.Exec(ctx, ref, args, o.ExecOptions, s)
	return endedWith(code, err)
}

// execTerminal runs a command with a console that ours is connected to.
func (e *env) execTerminal(ctx context.Context, eng *run.Engine, ref string, args []string, o execFlags) error {
	if o.Stdin && !term.IsTerminal(e.stdin.Fd()) {
		return usageError{errors.New("the input device is not a TTY: leave out -t")}
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return err
	}
	o.Size = e.terminalSize()
	o.First = &monitor.AttachRequest{Stdin: o.Stdin, Stdout: true, Lossless: true, Rows: o.Size.Rows, Cols: o.Size.Cols}
	o.Conn = theirs
	dir, err := eng.ExecStart(ctx, ref, args, o.ExecOptions)
	theirs.Close()
	if err != nil {
		ours.Close()
		return err
	}
	res, err := e.attach(ctx, session{
		runDir: dir, conn: ours, tty: true, stdin: o.Stdin, stdout: true, detachKeys: o.detachKeys,
	})
	if res.Detached {
		return nil
	}
	return endedWith(res.Exit.Code, err)
}

// endedWith is the end of a command of a container.
func endedWith(code int, err error) error {
	if err == nil && code != 0 {
		return exitStatus{code: code}
	}
	return err
}

// execEnv reads files of variables; those on the command line come after and
// win.
func execEnv(files, env []string) ([]string, error) {
	var all []string
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("--env-file: %w", err)
		}
		vars, err := run.ParseEnvFile(f, os.LookupEnv)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("--env-file %s: %w", name, err)
		}
		all = append(all, vars...)
	}
	for _, v := range env {
		if !strings.Contains(v, "=") {
			val, ok := os.LookupEnv(v)
			if !ok {
				continue
			}
			v += "=" + val
		}
		all = append(all, v)
	}
	return all, nil
}

// forwardedSignals are those that a command in the foreground gets in our
// place: all but the ones about ourselves and our terminal's job control.
func forwardedSignals() []os.Signal {
	var list []os.Signal
	for s := unix.Signal(1); s < 65; s++ {
		switch s {
		case unix.SIGKILL, unix.SIGSTOP, unix.SIGCHLD, unix.SIGURG, unix.SIGPIPE, unix.SIGWINCH,
			unix.SIGTSTP, unix.SIGCONT, unix.SIGTTIN, unix.SIGTTOU,
			unix.SIGSEGV, unix.SIGBUS, unix.SIGFPE, unix.SIGILL, unix.SIGTRAP, unix.SIGABRT, unix.SIGSYS, 32, 33:
		default:
			list = append(list, s)
		}
	}
	return list
}
