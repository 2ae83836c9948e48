package runtime

import (
	"bufio"
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/console"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func onTerminal(t *testing.T, o CreateOptions, set func(*specs.Process)) {
	t.Helper()
	spec, err := LoadSpec(filepath.Join(o.Bundle, SpecFile))
	if err != nil {
		t.Fatal(err)
	}
	spec.Process.Terminal = true
	if set != nil {
		set(spec.Process)
	}
	writeSpec(t, o.Bundle, spec)
}

func TestRunOnTerminal(t *testing.T) {
	o := bundle(t, "sh", "-c", "tty; read x; echo got $x; stty size; exit 6")
	if err := os.Symlink("busybox", filepath.Join(o.Bundle, "rootfs/bin/stty")); err != nil {
		t.Fatal(err)
	}
	onTerminal(t, o, nil)
	host, path, err := console.NewPty()
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	if err := host.Resize(console.WinSize{Height: 33, Width: 77}); err != nil {
		t.Fatal(err)
	}
	user, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer user.Close()
	before, err := unix.IoctlGetTermios(int(user.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	out := make(chan string, 1)
	go func() {
		r := bufio.NewReader(host)
		var all strings.Builder
		for {
			line, err := r.ReadString('\n')
			all.WriteString(line)
			if strings.HasPrefix(line, "/dev/") {
				_, _ = host.Write([]byte("word\r"))
			}
			if err != nil || strings.Contains(line, "33 77") {
				out <- all.String()
				return
			}
		}
	}()
	o.Stdin, o.Stdout, o.Stderr = user, user, user
	status, err := Run(context.Background(), o)
	if status != 6 || err != nil {
		t.Fatalf("Run = %d, %v; want 6", status, err)
	}
	select {
	case got := <-out:
		for _, want := range []string{"/dev/pts/0", "got word", "33 77"} {
			if !strings.Contains(got, want) {
				t.Errorf("output %q has no %q", got, want)
			}
		}
	case <-time.After(5 * time.Second):
		t.Error("no output")
	}
	after, err := unix.IoctlGetTermios(int(user.Fd()), unix.TCGETS)
	if err != nil || *after != *before {
		t.Errorf("the terminal was not put back: %v", err)
	}
}

func TestConsoleSocket(t *testing.T) {
	o := bundle(t, "sh", "-c", "tty; sleep 30")
	onTerminal(t, o, func(p *specs.Process) { p.ConsoleSize = &specs.Box{Height: 11, Width: 22} })
	if err := Create(context.Background(), o); err == nil || !strings.Contains(err.Error(), "without setting console socket") {
		t.Errorf("Create without a socket: %v", err)
	}
	if left, _ := os.ReadDir(o.Root); len(left) != 0 {
		t.Errorf("left %v", left)
	}
	o.ConsoleSocket = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", o.ConsoleSocket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	masters := make(chan *os.File, 1)
	go func() {
		defer close(masters)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		socket, err := conn.(*net.UnixConn).File()
		if err != nil {
			return
		}
		defer socket.Close()
		if f, err := receiveFile(socket); err == nil {
			masters <- f
		}
	}()
	o.Detach = true
	if _, err := Run(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	master := <-masters
	if master == nil {
		t.Fatal("no console came")
	}
	defer master.Close()
	size, err := unix.IoctlGetWinsize(int(master.Fd()), unix.TIOCGWINSZ)
	if err != nil || size.Row != 11 || size.Col != 22 {
		t.Errorf("size %+v, %v", size, err)
	}
	line, err := bufio.NewReader(master).ReadString('\n')
	if strings.TrimSpace(line) != "/dev/pts/0" {
		t.Errorf("%q, %v", line, err)
	}
}
