// Pty runs a command on a terminal and plays a dialogue with it, read from
// standard input, a step a line:
//
//	expect TEXT   wait until the terminal's output since the last match has TEXT
//	send TEXT     type TEXT, with Go's escapes (\r, \x10, ...)
//	resize R C    give the terminal R rows and C columns
//	close         hang up
//
// What the terminal shows goes to standard output; the exit status is the
// command's, 128+n when signal n ended it, 124 when a step or the end took
// longer than -timeout.
//
//	printf 'expect / #\nsend exit 3\\r\n' | pty -timeout 10s balena run -it busybox
package main

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/console"
)

func main() {
	status, err := run(os.Args[1:], os.Stdin, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "pty:", err)
	}
	os.Exit(status)
}

var errTimeout = errors.New("timed out")

func run(args []string, script io.Reader, stdout io.Writer) (int, error) {
	fs := flag.NewFlagSet("pty", flag.ContinueOnError)
	timeout := fs.Duration("timeout", 20*time.Second, "longest time for one step")
	rows := fs.Uint("rows", 24, "rows of the terminal")
	cols := fs.Uint("cols", 80, "columns of the terminal")
	if err := fs.Parse(args); err != nil {
		return 2, err
	}
	if fs.NArg() == 0 {
		return 2, errors.New("usage: pty [FLAGS] COMMAND [ARG]")
	}

	master, slave, err := console.NewPty()
	if err != nil {
		return 2, err
	}
	if err := master.Resize(console.WinSize{Height: uint16(*rows), Width: uint16(*cols)}); err != nil {
		return 2, err
	}
	tty, err := os.OpenFile(slave, os.O_RDWR, 0)
	if err != nil {
		return 2, err
	}
	cmd := exec.Command(fs.Arg(0), fs.Args()[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		return 127, err
	}
	_ = tty.Close()

	s := newScreen(stdout)
	shown := make(chan struct{})
	go func() { defer close(shown); _, _ = io.Copy(s, master) }()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()

	if err := play(script, master, s, *timeout); err != nil {
		_ = cmd.Process.Kill()
		<-ended
		return 124, err
	}
	select {
	case <-ended:
	case <-time.After(*timeout):
		_ = cmd.Process.Kill()
		<-ended
		return 124, fmt.Errorf("waiting for the command to end: %w", errTimeout)
	}
	select { // the last output; a process left behind may hold the terminal open
	case <-shown:
	case <-time.After(time.Second):
	}
	ws := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return ws.ExitStatus(), nil
}

func play(script io.Reader, master console.Console, s *screen, timeout time.Duration) error {
	lines := bufio.NewScanner(script)
	for lines.Scan() {
		verb, arg, _ := strings.Cut(lines.Text(), " ")
		var err error
		switch verb {
		case "", "#":
		case "expect":
			err = s.expect(arg, timeout)
		case "send":
			var text string
			if text, err = strconv.Unquote(`"` + strings.ReplaceAll(arg, `"`, `\"`) + `"`); err == nil {
				_, err = io.WriteString(master, text)
			}
		case "resize":
			var size console.WinSize
			if _, err = fmt.Sscan(arg, &size.Height, &size.Width); err == nil {
				err = master.Resize(size)
			}
		case "close":
			err = master.Close()
		default:
			err = errors.New("unknown step")
		}
		if err != nil {
			return fmt.Errorf("%s: %w", lines.Text(), err)
		}
	}
	return lines.Err()
}

// screen passes output on and remembers what no expect has matched yet.
type screen struct {
	out  io.Writer
	mu   sync.Mutex
	seen []byte
	more chan struct{}
}

func newScreen(out io.Writer) *screen { return &screen{out: out, more: make(chan struct{}, 1)} }

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	s.seen = append(s.seen, b...)
	s.mu.Unlock()
	select {
	case s.more <- struct{}{}:
	default:
	}
	return s.out.Write(b)
}

func (s *screen) expect(text string, timeout time.Duration) error {
	deadline := time.After(timeout)
	for {
		s.mu.Lock()
		i := bytes.Index(s.seen, []byte(text))
		if i >= 0 {
			s.seen = s.seen[i+len(text):]
		}
		s.mu.Unlock()
		if i >= 0 {
			return nil
		}
		select {
		case <-s.more:
		case <-deadline:
			return errTimeout
		}
	}
}
