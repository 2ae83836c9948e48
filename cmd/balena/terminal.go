package main

import (
	"context"
	"net"
	"os"
	"os/signal"
	"time"

	"github.com/moby/term"
	"golang.org/x/sys/unix"

	"github.com/balena-os/balena/pkg/monitor"
)

// session connects our streams to a container's process.
type session struct {
	runDir                string        // of its monitor
	conn                  *net.UnixConn // to it, when there is one already
	stdin, stdout, stderr bool
	tty                   bool
	detachKeys            string
	sigProxy              bool
	cleaned               bool                        // also wait for the clean-up
	clean                 func(context.Context) error // or do it
}

// attach runs a session until the process ends or the person detaches. With a
// console our terminal is raw meanwhile and its size is passed on.
func (e *env) attach(ctx context.Context, s session) (monitor.Result, error) {
	keys, err := monitor.ParseDetachKeys(s.detachKeys)
	if err != nil {
		return monitor.Result{}, usageError{err}
	}
	o := monitor.AttachOptions{
		RunDir: s.runDir, Conn: s.conn, DetachKeys: keys, Cleaned: s.cleaned, Clean: s.clean,
	}
	if s.stdin {
		o.Stdin = e.stdin
	}
	if s.stdout {
		o.Stdout = e.stdout
	}
	if s.stderr {
		o.Stderr = e.stderr
	}
	if s.tty {
		restore, err := e.rawTerminal(s.stdin)
		if err != nil {
			return monitor.Result{}, err
		}
		defer restore()
		o.Size = e.terminalSize()
		resize, stop := e.watchSize()
		defer stop()
		o.Resize = resize
	} else if s.stdin {
		o.DetachKeys = nil // bytes of a pipe are never keys
	}
	if s.sigProxy && !s.tty { // on a console the container's own terminal makes its signals
		stop := proxySignals(ctx, s.runDir)
		defer stop()
	}
	return monitor.Attach(ctx, o)
}

func (e *env) rawTerminal(stdin bool) (restore func(), err error) {
	if !stdin || !term.IsTerminal(e.stdin.Fd()) {
		return func() {}, nil
	}
	old, err := term.SetRawTerminal(e.stdin.Fd())
	if err != nil {
		return nil, err
	}
	return func() { _ = term.RestoreTerminal(e.stdin.Fd(), old) }, nil
}

// terminalSize is zero where stdout is no terminal.
func (e *env) terminalSize() monitor.Size {
	for _, f := range []*os.File{e.stdout, e.stdin} {
		if ws, err := term.GetWinsize(f.Fd()); err == nil {
			return monitor.Size{Rows: ws.Height, Cols: ws.Width}
		}
	}
	return monitor.Size{}
}

func (e *env) watchSize() (<-chan monitor.Size, func()) {
	winch, sizes, done := make(chan os.Signal, 1), make(chan monitor.Size, 1), make(chan struct{})
	signal.Notify(winch, unix.SIGWINCH)
	go func() {
		for {
			select {
			case <-winch:
				select {
				case sizes <- e.terminalSize():
				case <-done:
					return
				}
			case <-done:
				return
			}
		}
	}()
	return sizes, func() {
		signal.Stop(winch)
		close(done)
	}
}

// proxied are the signals that are passed on from the first moment. The others
// follow a little later: each that is asked for, or given back, costs two
// changes of thread, and there are 65, which a short container would wait for.
var proxied = []os.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2}

// proxySignals passes the signals that we get on to the process, but for those
// that are about ourselves. After stop they do what they do by default.
func proxySignals(ctx context.Context, runDir string) (stop func()) {
	sigs := make(chan os.Signal, 16)
	signal.Notify(sigs, proxied...)
	others := time.AfterFunc(100*time.Millisecond, func() { signal.Notify(sigs) })
	done := make(chan struct{})
	go func() {
		for s := range sigs {
			switch s {
			case unix.SIGCHLD, unix.SIGURG, unix.SIGWINCH, unix.SIGPIPE, unix.SIGTTOU, unix.SIGTTIN, unix.SIGTSTP, unix.SIGCONT:
				continue
			}
			select {
			case <-done:
				signal.Reset(s)
				_ = unix.Kill(os.Getpid(), s.(unix.Signal))
			default:
				_ = monitor.Signal(ctx, runDir, int(s.(unix.Signal)))
			}
		}
	}()
	return func() {
		others.Stop()
		close(done)
	}
}
