package monitor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/balena-os/balena/pkg/store"
)

// The test binary is its own monitor.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == Stage {
		os.Exit(Main(false)(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// box is a container to test with: Debian's busybox and a real runtime.
type box struct {
	t   *testing.T
	cfg Config
	st  *store.Store

	conn *net.UnixConn // of foreground
}

func testRuntime(t *testing.T) string {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	rt := os.Getenv("TEST_RUNTIME")
	if rt == "" {
		rt = "runc"
	}
	path, err := exec.LookPath(rt)
	if err != nil {
		t.Skip("needs an OCI runtime: ", err)
	}
	return path
}

func newBox(t *testing.T, change func(*Config, map[string]any), args ...string) *box {
	t.Helper()
	rt := testRuntime(t)
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("needs busybox-static")
	}
	dir := t.TempDir()
	run := filepath.Join(dir, "run")
	rootfs := filepath.Join(run, "rootfs", "bin")
	for _, d := range []string{rootfs, filepath.Join(run, "rootfs", "proc"), filepath.Join(run, "rootfs", "dev"), filepath.Join(run, "rootfs", "tmp")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("cp", busybox, rootfs+"/busybox").CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	for _, a := range []string{"sh", "true", "false", "echo", "cat", "sleep", "stty", "head", "seq", "yes", "kill"} {
		if err := os.Symlink("busybox", filepath.Join(rootfs, a)); err != nil {
			t.Fatal(err)
		}
	}
	id := fmt.Sprintf("mon%d-%d", os.Getpid(), time.Now().UnixNano())
	st, err := store.Open(store.Options{Root: filepath.Join(dir, "root"), RunRoot: filepath.Join(dir, "runroot")})
	if err != nil {
		t.Fatal(err)
	}
	b := &box{t: t, st: st, cfg: Config{
		ID: id, RunDir: run, Runtime: []string{rt}, RuntimeRoot: filepath.Join(dir, "runc"),
		Log:   LogConfig{Path: filepath.Join(dir, id+"-json.log")},
		Store: &StorePaths{Root: st.Root(), RunRoot: st.RunRoot(), TmpDir: st.RunRoot()},
	}}
	if os.Getenv("TEST_BALENA") != "" {
		b.cfg.Runtime = []string{os.Getenv("TEST_BALENA"), "balena-runc"}
	}
	if err := st.Update(t.Context(), func(tx *store.Tx) error {
		return tx.PutContainer(&store.Container{ID: id, Name: id, State: store.State{Status: store.StatusRunning}})
	}); err != nil {
		t.Fatal(err)
	}
	spec := map[string]any{
		"ociVersion": "1.0.2",
		"process": map[string]any{
			"user": map[string]any{"uid": 0, "gid": 0}, "args": args, "cwd": "/",
			"env": []string{"PATH=/bin", "TERM=xterm"},
		},
		"root": map[string]any{"path": "rootfs"},
		"mounts": []any{map[string]any{"destination": "/proc", "type": "proc", "source": "proc"},
			map[string]any{"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
			map[string]any{"destination": "/dev/pts", "type": "devpts", "source": "devpts"}},
		"linux": map[string]any{"cgroupsPath": "/" + id, "namespaces": []any{map[string]any{"type": "pid"}, map[string]any{"type": "mount"}, map[string]any{"type": "ipc"}, map[string]any{"type": "uts"}}},
	}
	if change != nil {
		change(&b.cfg, spec)
	}
	spec["process"].(map[string]any)["terminal"] = b.cfg.Terminal
	if err := writeJSON(run, "config.json", spec); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.destroy)
	return b
}

func (b *box) destroy() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	_ = StopRestarting(ctx, b.cfg.RunDir)
	st, _ := ReadState(b.cfg.RunDir)
	if st.Alive {
		_ = unix.Kill(st.Run.Pid, unix.SIGKILL)
	}
	if err := WaitGone(ctx, b.cfg.RunDir); err != nil {
		b.t.Error("the monitor did not go: ", err)
	}
	m := monitor{cfg: b.cfg}
	path, argv := m.runtimeArgs("delete", "--force", b.cfg.ID)
	_ = (&exec.Cmd{Path: path, Args: argv}).Run()
	if raw, err := os.ReadFile(filepath.Join(b.cfg.RunDir, problemFile)); err == nil {
		b.t.Logf("monitor.err:\n%s", raw)
	}
}

// foreground starts it with a client that is attached from the beginning.
func (b *box) foreground(o AttachOptions) (Result, error) {
	b.t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.t.Fatal(err)
	}
	mine, theirs := os.NewFile(uintptr(fds[0]), "mine"), os.NewFile(uintptr(fds[1]), "theirs")
	c, err := net.FileConn(mine)
	mine.Close()
	if err != nil {
		b.t.Fatal(err)
	}
	b.cfg.First = &AttachRequest{Stdin: o.Stdin != nil, Stdout: o.Stdout != nil, Stderr: o.Stderr != nil, Lossless: true, Cleans: o.Clean != nil, Rows: o.Size.Rows, Cols: o.Size.Cols}
	_, err = Start(b.cfg, Files{First: theirs})
	theirs.Close()
	if err != nil {
		c.Close()
		return Result{}, err
	}
	b.conn = c.(*net.UnixConn)
	o.Conn, o.RunDir = b.conn, b.cfg.RunDir
	return Attach(b.t.Context(), o)
}

func (b *box) start() *Started {
	b.t.Helper()
	s, err := Start(b.cfg, Files{})
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

func (b *box) record() *store.Container {
	b.t.Helper()
	var c *store.Container
	if err := b.st.View(b.t.Context(), func(tx *store.Tx) (err error) {
		c, err = tx.Container(b.cfg.ID)
		return err
	}); err != nil {
		b.t.Fatal(err)
	}
	return c
}

func (b *box) logs() string {
	b.t.Helper()
	raw, err := os.ReadFile(b.cfg.Log.Path)
	if err != nil {
		b.t.Fatal(err)
	}
	return string(raw)
}

func TestForeground(t *testing.T) {
	b := newBox(t, nil, "sh", "-c", "echo out; echo err >&2; exit 7")
	var out, errs bytes.Buffer
	res, err := b.foreground(AttachOptions{Stdout: &out, Stderr: &errs})
	if err != nil || res.Exit.Code != 7 || out.String() != "out\n" || errs.String() != "err\n" {
		t.Fatalf("%+v %v %q %q", res, err, &out, &errs)
	}
	c := b.record()
	if c.State.Status != store.StatusExited || c.State.ExitCode != 7 || c.State.Finished.IsZero() {
		t.Fatalf("record: %+v", c.State)
	}
	for _, want := range []string{`{"log":"out\n","stream":"stdout","time":"`, `{"log":"err\n","stream":"stderr","time":"`} {
		if !strings.Contains(b.logs(), want) {
			t.Errorf("log lacks %s: %s", want, b.logs())
		}
	}
	st, err := ReadState(b.cfg.RunDir)
	if err != nil || st.Alive || st.Exit == nil || st.Exit.Code != 7 || st.Run.Pid != 0 {
		t.Fatalf("state: %+v %v", st, err)
	}
}

func TestNothingIsLost(t *testing.T) {
	b := newBox(t, func(c *Config, _ map[string]any) { c.Log.Driver = "none" }, "seq", "1", "200000")
	var out bytes.Buffer
	if _, err := b.foreground(AttachOptions{Stdout: &out}); err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	for i := 1; i <= 200000; i++ {
		fmt.Fprintln(&want, i)
	}
	if !bytes.Equal(out.Bytes(), want.Bytes()) {
		t.Fatalf("%d bytes of %d", out.Len(), want.Len())
	}
}

func TestStdin(t *testing.T) {
	b := newBox(t, func(c *Config, _ map[string]any) { c.Stdin, c.StdinOnce = true, true }, "cat")
	in := strings.Repeat("hello\n", 100000)
	var out bytes.Buffer
	res, err := b.foreground(AttachOptions{Stdin: strings.NewReader(in), Stdout: &out})
	if err != nil || res.Exit.Code != 0 || out.String() != in {
		t.Fatalf("%+v %v %d bytes of %d", res, err, out.Len(), len(in))
	}
}

func TestStartErrors(t *testing.T) {
	for _, tc := range []struct {
		args []string
		code int
		part string
	}{
		{[]string{"nonesuch"}, 127, "not found"},
		{[]string{"/bin/nonesuch"}, 127, "no such file"},
		{[]string{"/tmp"}, 126, ""},
	} {
		b := newBox(t, nil, tc.args...)
		_, err := Start(b.cfg, Files{})
		var se *StartError
		if !errors.As(err, &se) || se.Code != tc.code || !strings.Contains(se.Msg, tc.part) {
			t.Errorf("%q: %v (%+v)", tc.args, err, se)
		}
		if c := b.record(); c.State.Status != store.StatusCreated || c.State.ExitCode != tc.code || c.State.Error == "" {
			t.Errorf("%q: record %+v", tc.args, c.State)
		}
	}
}

func TestTerminal(t *testing.T) {
	b := newBox(t, func(c *Config, _ map[string]any) { c.Terminal, c.Stdin = true, true }, "sh", "-c", "stty size; read x; echo got $x; exit 3")
	var out syncBuffer
	in, w, _ := os.Pipe()
	defer w.Close()
	go func() {
		for !strings.Contains(out.String(), "\r\n") {
			time.Sleep(time.Millisecond)
		}
		fmt.Fprint(w, "word\r")
	}()
	res, err := b.foreground(AttachOptions{Stdin: in, Stdout: &out, Size: Size{33, 111}})
	if err != nil || res.Exit.Code != 3 || out.String() != "33 111\r\nword\r\ngot word\r\n" {
		t.Fatalf("%+v %v %q", res, err, out.String())
	}
}

func TestSignalsAndWait(t *testing.T) {
	b := newBox(t, nil, "sleep", "1000")
	s := b.start()
	st, err := ReadState(b.cfg.RunDir)
	if err != nil || !st.Alive || !st.MonitorAlive || st.Run.Pid != s.Pid || st.Run.MonitorPid != s.MonitorPid {
		t.Fatalf("%+v %v", st, err)
	}
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			if e, err := Wait(t.Context(), b.cfg.RunDir); err != nil || e.Code != 137 {
				t.Errorf("wait: %+v %v", e, err)
			}
		})
	}
	time.Sleep(50 * time.Millisecond)
	if err := Signal(t.Context(), b.cfg.RunDir, int(unix.SIGKILL)); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if err := WaitGone(t.Context(), b.cfg.RunDir); err != nil {
		t.Fatal(err)
	}
	if _, err := Wait(t.Context(), b.cfg.RunDir); !errors.Is(err, ErrNotRunning) {
		t.Fatal(err)
	}
}

func TestDetachAndAttachAgain(t *testing.T) {
	b := newBox(t, func(c *Config, _ map[string]any) { c.Terminal, c.Stdin = true, true }, "cat")
	b.start()
	for i := range 3 {
		var out syncBuffer
		in := fmt.Sprintf("line %d\r\x10\x11", i)
		res, err := Attach(t.Context(), AttachOptions{RunDir: b.cfg.RunDir, Stdin: strings.NewReader(in), Stdout: &out, DetachKeys: DefaultDetachKeys})
		if err != nil || !res.Detached {
			t.Fatalf("%+v %v", res, err)
		}
	}
	// Two at once, one of them only looking.
	var a syncBuffer
	done := make(chan Result, 1)
	go func() {
		res, err := Attach(context.Background(), AttachOptions{RunDir: b.cfg.RunDir, Stdout: &a})
		if err != nil {
			t.Error(err)
		}
		done <- res
	}()
	time.Sleep(50 * time.Millisecond)
	var out syncBuffer
	res, err := Attach(t.Context(), AttachOptions{RunDir: b.cfg.RunDir, Stdin: strings.NewReader("bye\r\x04"), Stdout: &out})
	if err != nil || res.Detached || res.Exit.Code != 0 {
		t.Fatalf("%+v %v", res, err)
	}
	if res := <-done; res.Exit.Code != 0 || a.String() != out.String() || !strings.Contains(a.String(), "bye\r\nbye\r\n") {
		t.Fatalf("%+v %q %q", res, a.String(), out.String())
	}
}

func TestRestartPolicy(t *testing.T) {
	b := newBox(t, func(c *Config, _ map[string]any) { c.Policy = store.RestartPolicy{Name: "on-failure", Max: 2} },
		"sh", "-c", "echo run; exit 5")
	b.start()
	e, err := Wait(t.Context(), b.cfg.RunDir)
	if err != nil || e.Code != 5 || e.Restarts != 2 {
		t.Fatalf("%+v %v", e, err)
	}
	if n := strings.Count(b.logs(), `"run\n"`); n != 3 {
		t.Fatalf("ran %d times", n)
	}
}

func TestStopDuringBackoff(t *testing.T) {
	b := newBox(t, func(c *Config, _ map[string]any) { c.Policy = store.RestartPolicy{Name: "always"} }, "false")
	b.start()
	deadline := time.Now().Add(10 * time.Second)
	for {
		st, err := ReadState(b.cfg.RunDir)
		if err != nil {
			t.Fatal(err)
		}
		if st.Restarting() && st.Run.Restarts >= 3 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%+v", st)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err := StopRestarting(t.Context(), b.cfg.RunDir); err != nil {
		t.Fatal(err)
	}
	if err := WaitGone(t.Context(), b.cfg.RunDir); err != nil {
		t.Fatal(err)
	}
	if c := b.record(); c.State.ExitCode != 1 || c.State.Status != store.StatusExited {
		t.Fatalf("%+v", c.State)
	}
}

func TestMonitorKilled(t *testing.T) {
	b := newBox(t, nil, "sleep", "1000")
	s := b.start()
	if err := unix.Kill(s.MonitorPid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := WaitGone(t.Context(), b.cfg.RunDir); err != nil {
		t.Fatal(err)
	}
	st, err := ReadState(b.cfg.RunDir)
	if err != nil || !st.Alive || st.MonitorAlive {
		t.Fatalf("%+v %v", st, err)
	}
	if _, err := Wait(t.Context(), b.cfg.RunDir); !errors.Is(err, ErrNotRunning) {
		t.Fatal(err)
	}
}

func TestStateWithoutRunFile(t *testing.T) {
	dir := t.TempDir()
	pid := fmt.Appendf(nil, "%d", os.Getpid())
	if err := os.WriteFile(filepath.Join(dir, pidFile), pid, 0o600); err != nil {
		t.Fatal(err)
	}
	if st, err := ReadState(dir); err != nil || !st.Alive || st.Run.Pid != os.Getpid() {
		t.Fatalf("%+v %v", st, err)
	}
	// A file that is older than the process is about another.
	old := time.Now().Add(-24 * time.Hour)
	if err := os.Chtimes(filepath.Join(dir, pidFile), old, old); err != nil {
		t.Fatal(err)
	}
	if st, err := ReadState(dir); err != nil || st.Alive || st.Run.Pid != 0 {
		t.Fatalf("%+v %v", st, err)
	}
}

func TestExitCommandHoldsLockAndClients(t *testing.T) {
	dir := t.TempDir()
	b := newBox(t, func(c *Config, _ map[string]any) {
		c.AutoRemove = true
		c.ExitPath = "/bin/sh"
		c.ExitCommand = []string{"sh", "-c", "sleep 0.3; echo $" + LockVar + " >" + dir + "/done"}
	}, "true")
	res, err := b.foreground(AttachOptions{Cleaned: true})
	if err != nil || res.Exit.Code != 0 {
		t.Fatalf("%+v %v", res, err)
	}
	if _, err := os.Stat(dir + "/done"); err != nil {
		t.Fatal("attach returned before the exit command was done: ", err)
	}
	if err := WaitGone(t.Context(), b.cfg.RunDir); err != nil {
		t.Fatal(err)
	}
	if c := b.record(); c.State.Status == store.StatusExited {
		t.Fatal("the end of a container to be removed was written to the disk")
	}
}

// A client that promised to clean up is waited for, and replaced when it could
// not, or died.
func TestClientCleans(t *testing.T) {
	for _, tc := range []struct {
		name    string
		clean   func(*box) error
		command bool
	}{
		{"does", func(*box) error { return nil }, false},
		{"fails", func(*box) error { return errors.New("somebody has the lock") }, true},
		{"dies", func(b *box) error { return b.conn.Close() }, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			done := t.TempDir() + "/done"
			b := newBox(t, func(c *Config, _ map[string]any) {
				c.AutoRemove = true
				c.ExitPath = "/bin/sh"
				c.ExitCommand = []string{"sh", "-c", "sleep 0.3; touch " + done}
			}, "true")
			held := false
			res, err := b.foreground(AttachOptions{Clean: func(context.Context) error {
				time.Sleep(50 * time.Millisecond)
				st, err := ReadState(b.cfg.RunDir)
				held = err == nil && st.MonitorAlive && !st.Alive && st.Exit != nil
				return tc.clean(b)
			}})
			if err != nil || res.Exit.Code != 0 || !held {
				t.Fatalf("%+v %v, lock held meanwhile: %v", res, err, held)
			}
			if tc.name == "dies" {
				if err := WaitGone(t.Context(), b.cfg.RunDir); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := os.Stat(done); (err == nil) != tc.command {
				t.Fatalf("the exit command ran: %v", err == nil)
			}
		})
	}
}

// The promise does not count when the start fails: whoever made it then waits
// for the exit command.
func TestClientCleansNoFailedStart(t *testing.T) {
	done := t.TempDir() + "/done"
	b := newBox(t, func(c *Config, _ map[string]any) {
		c.AutoRemove = true
		c.ExitPath = "/bin/sh"
		c.ExitCommand = []string{"sh", "-c", "touch " + done}
	}, "nonesuch")
	_, err := b.foreground(AttachOptions{Clean: func(context.Context) error { return nil }})
	var se *StartError
	if _, serr := os.Stat(done); !errors.As(err, &se) || serr != nil {
		t.Fatal(err, serr)
	}
}

func TestStuckClientDoesNotBlockTheLog(t *testing.T) {
	if testing.Short() {
		t.Skip("takes ten seconds")
	}
	b := newBox(t, nil, "sh", "-c", "sleep 0.3; seq 1 200000; echo end")
	b.start()
	conn, err := ask(t.Context(), b.cfg.RunDir, request{Op: opAttach, Attach: &AttachRequest{Stdout: true}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() // and never read
	ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second)
	defer cancel()
	if e, err := Wait(ctx, b.cfg.RunDir); err != nil || e.Code != 0 {
		t.Fatalf("%+v %v", e, err)
	}
	if !strings.Contains(b.logs(), `"end\n"`) {
		t.Fatal("the log ends early")
	}
}

func TestLinks(t *testing.T) {
	ns, err := os.Open("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	b := newBox(t, func(c *Config, spec map[string]any) {
		l := spec["linux"].(map[string]any)
		l["namespaces"] = append(l["namespaces"].([]any), map[string]any{"type": "network", "path": filepath.Join(c.RunDir, "netns")})
	}, "sleep", "1000")
	s, err := Start(b.cfg, Files{Links: map[string]*os.File{"netns": ns}})
	if err != nil {
		t.Fatal(err)
	}
	want, _ := os.Readlink("/proc/self/ns/net")
	if got, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", s.Pid)); got != want {
		t.Fatalf("%s, not %s", got, want)
	}
}

func TestRecordWaitsForTheStore(t *testing.T) {
	b := newBox(t, nil, "sleep", "1000")
	s := b.start()
	lock, err := os.OpenFile(filepath.Join(b.st.Root(), "balena.lock"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(s.Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(5 * time.Second)
	for {
		st, err := ReadState(b.cfg.RunDir)
		if err != nil {
			t.Fatal(err)
		}
		if st.Exit != nil && st.Exit.Code == 137 { // found although the store is busy
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%+v", st)
		}
		time.Sleep(5 * time.Millisecond)
	}
	lock.Close()
	if err := WaitGone(t.Context(), b.cfg.RunDir); err != nil {
		t.Fatal(err)
	}
	if c := b.record(); c.State.ExitCode != 137 || c.State.Status != store.StatusExited {
		t.Fatalf("%+v", c.State)
	}
}

func TestInheritedDescriptors(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := unix.FcntlInt(w.Fd(), unix.F_SETFD, 0); err != nil { // as a careless caller's
		t.Fatal(err)
	}
	b := newBox(t, nil, "sleep", "1000")
	b.start()
	w.Close()
	_ = r.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatalf("somebody holds the pipe: %v", err)
	}
}

func TestRunFileForm(t *testing.T) {
	b := newBox(t, nil, "sleep", "1000")
	s := b.start()
	raw, err := os.ReadFile(filepath.Join(b.cfg.RunDir, "run.json"))
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil || int(m["Pid"].(float64)) != s.Pid || m["BootID"] == "" {
		t.Fatalf("%s", raw)
	}
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
