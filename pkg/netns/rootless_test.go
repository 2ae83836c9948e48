package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/balena-os/balena/pkg/store"
)

// inUserNamespace runs the calling test again as uid 0 of a user namespace
// that is nobody on the host, with a /dev/net/tun that anyone may open, and
// tells whether this is that second run.
func inUserNamespace(t *testing.T, env ...string) bool {
	t.Helper()
	if os.Getenv("NETNS_TEST_ROOTLESS") != "" {
		tun := filepath.Join(os.Getenv("NETNS_TEST_ROOTLESS"), "tun")
		if err := unix.Mount(tun, "/dev/net/tun", "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		return true
	}
	needRoot(t)
	dir, err := os.MkdirTemp("", "netns-rootless")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	const uid = 1 << 20
	tun := filepath.Join(dir, "tun")
	err = errors.Join(
		unix.Mknod(tun, unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200))), os.Chmod(tun, 0o666),
		os.Mkdir(filepath.Join(dir, "run"), 0o700), os.Chown(filepath.Join(dir, "run"), uid, uid), os.Chmod(dir, 0o755))
	if err != nil {
		t.Skip(err)
	}
	exe := filepath.Join(dir, "exe")
	raw, err := os.ReadFile("/proc/self/exe")
	if err = errors.Join(err, os.WriteFile(exe, raw, 0o755)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), "NETNS_TEST_ROOTLESS="+dir), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:                 unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		UidMappings:                []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 65536}},
		GidMappings:                []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 65536}},
		GidMappingsEnableSetgroups: true,
		Credential:                 &syscall.Credential{},
	}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
	return false
}

func rootlessDir() string { return filepath.Join(os.Getenv("NETNS_TEST_ROOTLESS"), "run") }

func alive(pid int) bool { return unix.Kill(pid, 0) == nil }

func pids(n *Network) (all []int) {
	for _, p := range n.Helpers {
		all = append(all, p.PID)
	}
	return all
}

func eventuallyDead(t *testing.T, what string, pids ...int) {
	t.Helper()
	for _, p := range pids {
		for i := 0; alive(p); i++ {
			if i > 1500 {
				t.Errorf("%s: process %d still lives", what, p)
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}

func setupRootless(t *testing.T, helper string, specs ...string) (string, *Network) {
	t.Helper()
	m, err := ParsePorts(specs...)
	if err != nil {
		t.Fatal(err)
	}
	id := newID()
	start := time.Now()
	n, err := Setup(context.Background(), Options{ID: id, RunDir: rootlessDir(), Ports: m, Rootless: true, Helper: helper})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: set up in %v: %+v", n.Helper, time.Since(start), n.State)
	t.Cleanup(func() {
		_ = n.Close()
		if err := Teardown(context.Background(), rootlessDir(), id); err != nil {
			t.Error(err)
		}
	})
	return id, n
}

func TestRootlessPasta(t *testing.T) { testRootless(t, "pasta", 18600) }

func TestRootlessSlirp4netns(t *testing.T) { testRootless(t, "slirp4netns", 18700) }

func testRootless(t *testing.T, helper string, base int) {
	if _, err := lookHelper(helper); err != nil {
		t.Skipf("%s is not installed", helper)
	}
	var env []string
	if os.Getenv("NETNS_TEST_ROOTLESS") == "" {
		needRoot(t)
		out, ip, _ := outside(t)
		serve(t, out, ":8000", "outside")
		env = append(env, "NETNS_TEST_OUTSIDE="+ip+":8000")
	}
	if !inUserNamespace(t, env...) {
		return
	}
	ip := hostIP(t)
	p := func(i int) string { return strconv.Itoa(base + i) }
	id, n := setupRootless(t, helper, p(0)+":80", "127.0.0.1:"+p(1)+":80", p(2)+":53/udp", "443")
	serve(t, n, ":80", "A")
	serve(t, n, ":443", "random")
	serveUDP(t, n, ":53", "echo")
	want(t, "127.0.0.1", "A")(get(nil, "127.0.0.1:"+p(0)))
	want(t, "host address", "A")(get(nil, ip+":"+p(0)))
	want(t, "loopback only", "A")(get(nil, "127.0.0.1:"+p(1)))
	if got, err := get(nil, ip+":"+p(1)); err == nil {
		t.Errorf("published on 127.0.0.1, yet %s answers: %q", ip, got)
	}
	want(t, "udp", "echo hi")(askUDP("127.0.0.1:"+p(2), "hi"))
	want(t, "udp on the host's address", "echo ho")(askUDP(ip+":"+p(2), "ho"))
	want(t, "random port", "random")(get(nil, fmt.Sprintf("127.0.0.1:%d", n.Ports[3].HostPort)))
	want(t, "outbound", "outside")(get(n.NS, os.Getenv("NETNS_TEST_OUTSIDE")))
	if n.IPAddress == "" || n.PrefixLen == 0 || n.Gateway == "" || n.MacAddress == "" || len(n.DNS) != 1 {
		t.Errorf("the state lacks something: %+v", n.State)
	}

	// Conflicts, with another container and with a program.
	l, err := net.Listen("tcp4", "127.0.0.1:"+p(4))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, spec := range []string{p(0) + ":80", p(4) + ":80", p(2) + ":53/udp"} {
		m, _ := ParsePorts(spec)
		id := newID()
		_, err := Setup(context.Background(), Options{ID: id, RunDir: rootlessDir(), Ports: m, Rootless: true, Helper: helper})
		if !errors.Is(err, ErrPortInUse) {
			t.Errorf("%s: %v", spec, err)
		}
		if _, err := os.Stat(statePath(rootlessDir(), id)); err == nil {
			t.Errorf("%s: a failed Setup left its state", spec)
		}
	}
	low := []store.PortMapping{{HostPort: 81, ContainerPort: 81, Protocol: "tcp"}}
	_, err = Setup(context.Background(), Options{ID: newID(), RunDir: rootlessDir(), Ports: low, Rootless: true, Helper: helper})
	if !errors.Is(err, ErrPrivileged) || !strings.Contains(err.Error(), "ip_unprivileged_port_start") {
		t.Errorf("privileged port: %v", err)
	}

	// Ended by Teardown while the life line is still held.
	if len(n.Helpers) != 2 {
		t.Errorf("processes: %v", n.Helpers)
	}
	helpers := pids(n)
	if err := Teardown(context.Background(), rootlessDir(), id); err != nil {
		t.Error(err)
	}
	eventuallyDead(t, "teardown", helpers...)
	if _, err := get(nil, "127.0.0.1:"+p(0)); err == nil {
		t.Error("the port still answers after Teardown")
	}

	// The life line is cut: gone, but not before the last process inside.
	_, n = setupRootless(t, helper, p(5)+":80")
	helpers = pids(n)
	var inside *exec.Cmd
	if err := within(n.NS, func() error {
		inside = exec.Command("sleep", "60")
		return inside.Start()
	}); err != nil {
		t.Fatal(err)
	}
	_ = n.Close()
	time.Sleep(1500 * time.Millisecond)
	for _, h := range helpers {
		if !alive(h) {
			t.Error("the helper has gone before the container's process")
		}
	}
	_ = inside.Process.Kill()
	_ = inside.Wait()
	eventuallyDead(t, "the last process is gone", helpers...)

	// The keeper is killed: the kernel takes the helper along.
	id, n = setupRootless(t, helper, p(6)+":80")
	helpers = pids(n)
	_ = unix.Kill(helpers[0], unix.SIGKILL)
	eventuallyDead(t, "balena-netns killed", helpers...)
	_ = n.Close()
	if swept, err := Sweep(context.Background(), rootlessDir(), nil); err != nil || len(swept) != 2 {
		t.Errorf("swept %v, %v; want two", swept, err)
	}
	left, _ := os.ReadDir(rootlessDir())
	for _, e := range left {
		if strings.Contains(e.Name(), id) {
			t.Errorf("left: %s", e.Name())
		}
	}
}

func TestNoHelper(t *testing.T) {
	_, err := Setup(context.Background(), Options{ID: newID(), RunDir: t.TempDir(), Rootless: true, Helper: "no-such-helper"})
	if !errors.Is(err, ErrNoHelper) || !strings.Contains(err.Error(), "apt install passt") {
		t.Error(err)
	}
}
