package runtime

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The test binary is also the containers' init.
func TestMain(m *testing.M) {
	Init()
	os.Exit(m.Run())
}

// bundle makes a bundle around a static busybox and returns a state folder
// and options that run args in it.
func bundle(t *testing.T, args ...string) CreateOptions {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("needs busybox-static")
	}
	dir := t.TempDir()
	for _, d := range []string{"bin", "etc", "proc", "dev", "sys"} {
		if err := os.MkdirAll(filepath.Join(dir, "rootfs", d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(data, []byte("/lib64/ld-linux")) {
		t.Skip("busybox is not static")
	}
	if err := os.WriteFile(filepath.Join(dir, "rootfs/bin/busybox"), data, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sh", "sleep", "true", "cat", "tty", "id", "env"} {
		if err := os.Symlink("busybox", filepath.Join(dir, "rootfs/bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "rootfs/etc/plain"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	spec := NewSpec(false)
	spec.Process.Terminal = false
	spec.Process.Args = args
	writeSpec(t, dir, spec)
	o := CreateOptions{Root: filepath.Join(dir, "state"), ID: "test-" + strconv.Itoa(os.Getpid()), Bundle: dir}
	t.Chdir(dir) // Create changes it; this puts it back
	t.Cleanup(func() { _ = Delete(o.Root, o.ID, true) })
	return o
}

func writeSpec(t *testing.T, dir string, spec *specs.Spec) {
	t.Helper()
	data, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, SpecFile), data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestRunReturnsExitCodeAndCopiesStreams(t *testing.T) {
	o := bundle(t, "sh", "-c", "cat; echo err >&2; exit 7")
	var out, errs bytes.Buffer
	o.Stdin, o.Stdout, o.Stderr = strings.NewReader("in\n"), &out, &errs
	status, err := Run(context.Background(), o)
	if status != 7 || err != nil {
		t.Fatalf("Run = %d, %v; want 7", status, err)
	}
	if out.String() != "in\n" || errs.String() != "err\n" {
		t.Errorf("stdout %q, stderr %q", &out, &errs)
	}
	if _, err := Load(o.Root, o.ID); !errors.Is(err, ErrNotExist) {
		t.Errorf("after Run: %v, want ErrNotExist", err)
	}
}

func TestRunSignalled(t *testing.T) {
	o := bundle(t, "sh", "-c", "sleep 30 & trap 'kill -9 $!; exit 3' TERM; wait; exit 4")
	sig := make(chan os.Signal, 1)
	o.Signals = sig
	time.AfterFunc(500*time.Millisecond, func() { sig <- unix.SIGTERM })
	if status, err := Run(context.Background(), o); status != 3 || err != nil {
		t.Fatalf("Run = %d, %v; want 3", status, err)
	}
}

func TestRunCancelled(t *testing.T) {
	o := bundle(t, "sleep", "30")
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	status, err := Run(ctx, o)
	if status != 137 || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Run = %d, %v; want 137 and the deadline", status, err)
	}
}

func TestLifecycle(t *testing.T) {
	o := bundle(t, "sleep", "30")
	o.PidFile = filepath.Join(o.Bundle, "pid")
	ctx := context.Background()
	if err := Create(ctx, o); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, o, "created")
	if err := Create(ctx, o); !errors.Is(err, ErrExist) {
		t.Errorf("second Create: %v, want ErrExist", err)
	}
	if err := Start(ctx, o.Root, o.ID); err != nil {
		t.Fatal(err)
	}
	s := wantStatus(t, o, "running")
	if pid, _ := os.ReadFile(o.PidFile); string(pid) != strconv.Itoa(s.Pid) {
		t.Errorf("pid file %q, want %d", pid, s.Pid)
	}
	if s.Bundle != o.Bundle || s.ID != o.ID {
		t.Errorf("state %+v", s)
	}
	if err := Start(ctx, o.Root, o.ID); err == nil {
		t.Error("second Start succeeded")
	}
	if err := Delete(o.Root, o.ID, false); err == nil {
		t.Error("Delete of a running container succeeded")
	}
	c, err := Load(o.Root, o.ID)
	if err != nil {
		t.Fatal(err)
	}
	if pids, err := c.Processes(); err != nil || len(pids) != 1 || pids[0] != s.Pid {
		t.Errorf("Processes = %v, %v; want %d", pids, err, s.Pid)
	}
	if pids, err := pidsInNamespaceOf(s.Pid); err != nil || len(pids) != 1 || pids[0] != s.Pid {
		t.Errorf("pidsInNamespaceOf = %v, %v; want %d", pids, err, s.Pid)
	}
	if states, err := List(o.Root, nil); err != nil || len(states) != 1 || states[0].Owner != "root" {
		t.Errorf("List = %v, %v", states, err)
	}
	if err := Kill(o.Root, o.ID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// The test is no subreaper, so the dead init is somebody else's to reap;
	// a zombie counts as stopped.
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if s, _ := GetState(o.Root, o.ID); s.Status == "stopped" {
			break
		}
	}
	wantStatus(t, o, "stopped")
	if err := Kill(o.Root, o.ID, unix.SIGTERM); !errors.Is(err, ErrNotRunning) {
		t.Errorf("Kill of a stopped container: %v, want ErrNotRunning", err)
	}
	if _, err := Exec(ctx, ExecOptions{Root: o.Root, ID: o.ID}); !errors.Is(err, ErrStopped) {
		t.Errorf("Exec in a stopped container: %v, want ErrStopped", err)
	}
	if err := Delete(o.Root, o.ID, false); err != nil {
		t.Fatal(err)
	}
	if err := Delete(o.Root, o.ID, false); !errors.Is(err, ErrNotExist) {
		t.Errorf("second Delete: %v, want ErrNotExist", err)
	}
	if err := Delete(o.Root, o.ID, true); err != nil {
		t.Errorf("forced second Delete: %v", err)
	}
}

func wantStatus(t *testing.T, o CreateOptions, want string) State {
	t.Helper()
	s, err := GetState(o.Root, o.ID)
	if err != nil || s.Status != want {
		t.Fatalf("state %q, %v; want %q", s.Status, err, want)
	}
	return s
}

func TestDeleteCreatedIsQuick(t *testing.T) {
	o := bundle(t, "sleep", "30")
	if err := Create(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := Delete(o.Root, o.ID, false); err != nil {
		t.Fatal(err)
	}
	t.Log(time.Since(start))
}

func TestDeleteInterruptedCreate(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "half"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Delete(root, "half", false); !errors.Is(err, ErrNotExist) {
		t.Errorf("Delete: %v, want ErrNotExist", err)
	}
	if left, _ := os.ReadDir(root); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if err := Delete(root, "../half", true); !errors.Is(err, ErrInvalidID) {
		t.Errorf("Delete outside of root: %v, want ErrInvalidID", err)
	}
}

func TestExec(t *testing.T) {
	o := bundle(t, "sleep", "30")
	o.Detach = true
	ctx := context.Background()
	if _, err := Run(ctx, o); err != nil {
		t.Fatal(err)
	}
	c, err := Load(o.Root, o.ID)
	if err != nil {
		t.Fatal(err)
	}
	run := func(set func(*specs.Process), args ...string) (int, string, error) {
		p, err := c.Process()
		if err != nil {
			t.Fatal(err)
		}
		p.Args = args
		if set != nil {
			set(p)
		}
		var out bytes.Buffer
		status, err := c.Exec(ctx, ExecOptions{Process: p, Stdio: Stdio{Stdout: &out, Stderr: io.Discard}})
		return status, out.String(), err
	}
	if status, out, err := run(nil, "sh", "-c", "echo hi; exit 9"); status != 9 || out != "hi\n" || err != nil {
		t.Errorf("exec: %d %q %v", status, out, err)
	}
	if status, _, err := run(nil, "sh", "-c", "kill -TERM $$"); status != 143 || err != nil {
		t.Errorf("killed: %d %v, want 143", status, err)
	}
	if _, out, err := run(func(p *specs.Process) { p.User.UID = 5 }, "id", "-u"); out != "5\n" || err != nil {
		t.Errorf("user: %q %v", out, err)
	}
	for _, tt := range []struct {
		set  func(*specs.Process)
		cmd  string
		code int
	}{
		{nil, "nope", 127},
		{nil, "/bin/nope", 127},
		{nil, "/etc/plain/x", 127},
		{nil, "/etc/plain", 126},
		{nil, "/etc", 126},
		{func(p *specs.Process) { p.Cwd = "/nope" }, "true", 126},
		{func(p *specs.Process) { p.User.UID = 1<<32 - 1 }, "true", 126},
	} {
		if _, _, err := run(tt.set, tt.cmd); ExitCode(err) != tt.code {
			t.Errorf("%s: %v has exit code %d, want %d", tt.cmd, err, ExitCode(err), tt.code)
		}
	}
	if err := c.Pause(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := run(nil, "true"); !errors.Is(err, ErrPaused) {
		t.Errorf("exec in a paused container: %v", err)
	}
	if err := c.Resume(); err != nil {
		t.Fatal(err)
	}
}

func TestCreateErrors(t *testing.T) {
	for _, tt := range []struct {
		args []string
		code int
	}{
		{[]string{"nope"}, 127}, {[]string{"/etc/plain"}, 126}, {nil, 125},
	} {
		o := bundle(t, tt.args...)
		err := Create(context.Background(), o)
		if ExitCode(err) != tt.code {
			t.Errorf("%q: %v has exit code %d, want %d", tt.args, err, ExitCode(err), tt.code)
		}
		if left, _ := os.ReadDir(o.Root); len(left) != 0 {
			t.Errorf("%q: left %v", tt.args, left)
		}
	}
}
