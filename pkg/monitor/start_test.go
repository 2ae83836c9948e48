package monitor

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// controlPair is a Prepared's end of the control socket, and the monitor's.
func controlPair(t *testing.T) (*Prepared, *os.File) {
	t.Helper()
	ours, theirs, err := socketPair(unix.SOCK_STREAM)
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); theirs.Close() })
	return &Prepared{conn: conn.(*net.UnixConn)}, theirs
}

func tempFile(t *testing.T, content string) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.WriteString(content); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestDescriptorsArriveAsTheyWereNamed(t *testing.T) {
	p, control := controlPair(t)
	files := Files{Links: map[string]*os.File{"netns": tempFile(t, "link")}, First: tempFile(t, "first"), Starting: tempFile(t, "starting")}
	const holds = 3*fdsAMessage + 1
	for i := range holds {
		files.Hold = append(files.Hold, tempFile(t, strconv.Itoa(i)))
	}
	sent := make(chan error, 1)
	go func() { sent <- p.send(Config{ID: "x", Name: "n"}, files) }()
	cfg, err := receive(control)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if cfg.ID != "x" || cfg.Name != "n" || len(cfg.HoldFDs) != holds || len(cfg.Links) != 1 {
		t.Fatalf("received %+v", cfg)
	}
	check := func(fd int, want string) {
		t.Helper()
		b := make([]byte, 16)
		n, err := unix.Pread(fd, b, 0)
		if err != nil || string(b[:n]) != want {
			t.Errorf("descriptor %d holds %q (%v), want %q", fd, b[:max(n, 0)], err, want)
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("descriptor %d would reach the container (%v)", fd, err)
		}
		unix.Close(fd)
	}
	for i, fd := range cfg.HoldFDs {
		check(fd, strconv.Itoa(i))
	}
	check(cfg.Links["netns"], "link")
	check(cfg.FirstFD, "first")
	check(cfg.StartingFD, "starting")
}

func TestConfigWithoutDescriptors(t *testing.T) {
	p, control := controlPair(t)
	if err := p.send(Config{ID: "x"}, Files{}); err != nil {
		t.Fatal(err)
	}
	cfg, err := receive(control)
	if err != nil || cfg.ID != "x" || cfg.FirstFD != -1 || cfg.StartingFD != -1 {
		t.Errorf("received %+v, %v", cfg, err)
	}
}

func TestDeadStarterIsNoConfig(t *testing.T) {
	for what, sent := range map[string]string{"nothing": "", "half": `{"ID":"x"`} {
		p, control := controlPair(t)
		if _, err := p.conn.Write([]byte(sent)); err != nil {
			t.Fatal(err)
		}
		p.conn.Close()
		if _, err := receive(control); !errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestDescriptorThatIsNotThereIsAnError(t *testing.T) {
	p, control := controlPair(t)
	if _, err := p.conn.Write([]byte(`{"ID":"x","HoldFDs":[0],"FirstFD":-1,"StartingFD":-1}` + "\n")); err != nil {
		t.Fatal(err)
	}
	if cfg, err := receive(control); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("received %+v, %v", cfg, err)
	}
}

func TestPreparedMonitorEndsWithItsStarter(t *testing.T) {
	p, err := Prepare("nobody", false)
	if err != nil {
		t.Fatal(err)
	}
	p.conn.Close() // as the kernel does when the starter is killed
	ended := make(chan error, 1)
	go func() { ended <- p.self.Wait() }()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		_ = p.self.Process.Kill()
		t.Error("the monitor waits on")
	}
}
