package initd

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == Stage {
		os.Exit(Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

func command(args ...string) *exec.Cmd {
	return &exec.Cmd{Path: "/proc/self/exe", Args: append([]string{Stage, "--"}, args...), Env: []string{"PATH=/usr/bin:/bin"}}
}

func code(t *testing.T, err error) int {
	t.Helper()
	var e *exec.ExitError
	if err == nil {
		return 0
	}
	if !errors.As(err, &e) {
		t.Fatal(err)
	}
	return e.ExitCode()
}

func TestExitCodes(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want int
	}{
		{[]string{"true"}, 0},
		{[]string{"sh", "-c", "exit 42"}, 42},
		{[]string{"sh", "-c", "kill -9 $$"}, 137},
		{[]string{"nonesuch"}, 127},
		{[]string{"/nonesuch"}, 127},
		{[]string{"/etc/passwd"}, 126},
		{[]string{"/tmp"}, 126},
	} {
		if got := code(t, command(tc.args...).Run()); got != tc.want {
			t.Errorf("%q: %d, not %d", tc.args, got, tc.want)
		}
	}
}

func TestSignalsAreForwarded(t *testing.T) {
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGHUP, unix.SIGUSR1, 40} {
		cmd := command("sh", "-c", `trap 'echo got; exit 9' HUP TERM USR1 40; echo ready; while :; do sleep 0.01; done`)
		var out bytes.Buffer
		r, w, _ := os.Pipe()
		cmd.Stdout = w
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		w.Close()
		buf := make([]byte, 64)
		n, _ := r.Read(buf)
		out.Write(buf[:n])
		_ = cmd.Process.Signal(sig)
		if got := code(t, cmd.Wait()); got != 9 {
			t.Errorf("%v: exit code %d (%s)", sig, got, &out)
		}
		r.Close()
	}
}

func TestOrphansAreReaped(t *testing.T) {
	// The orphan's parent becomes balena-init, which must not leave it a zombie.
	out, err := command("sh", "-c", `(sh -c 'echo $$; sleep 0.1' &) ; sleep 0.5`).Output()
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(10 * time.Millisecond)
	if _, err := os.Stat("/proc/" + strings.TrimSpace(string(out))); err == nil {
		t.Fatal("a zombie is left")
	}
}
