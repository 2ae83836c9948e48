package run

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/balena-os/balena/pkg/store"
)

// testRootfs makes a root filesystem of Debian's busybox-static.
func testRootfs(t *testing.T) string {
	t.Helper()
	const busybox = "/bin/busybox"
	root := t.TempDir()
	for _, d := range []string{"bin", "etc", "tmp", "proc", "sys", "dev", "run", "home/dev"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile(busybox)
	if err != nil {
		t.Skipf("busybox-static is not installed: %v", err)
	}
	if err := os.WriteFile(filepath.Join(root, busybox), raw, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, a := range []string{"sh", "cat", "id", "ls", "env", "grep", "echo", "touch", "mount", "stat", "hostname", "mkdir", "df", "pwd", "ping", "wc"} {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", a)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(root, "etc/passwd"), "root:x:0:0:root:/root:/bin/sh\ndev:x:1000:1000::/home/dev:/bin/sh\n")
	write(t, filepath.Join(root, "etc/group"), "root:x:0:\naudio:x:29:dev\nvideo:x:44:dev\ndev:x:1000:\n")
	return root
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// testRuntime is the OCI runtime that BALENA_TEST_RUNTIME names, else runc.
func testRuntime(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	name := os.Getenv("BALENA_TEST_RUNTIME")
	if name == "" {
		name = "runc"
	}
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skip(err)
	}
	return path
}

// runSpec runs a shell script in a container of its own and gives what it
// printed.
func runSpec(t *testing.T, c store.Config, script string, change ...func(*specInput)) string {
	t.Helper()
	out, err := tryRunSpec(t, c, script, change...)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return out
}

func tryRunSpec(t *testing.T, c store.Config, script string, change ...func(*specInput)) (string, error) {
	t.Helper()
	runtime := testRuntime(t)
	bundle := t.TempDir()
	if c.Cmd == nil {
		c.Cmd = []string{"/bin/sh", "-c", script}
	}
	id := fmt.Sprintf("balenaspectest%d%s", os.Getpid(), filepath.Base(bundle))
	in := specInput{C: &store.Container{ID: id, Config: c}, RootFS: testRootfs(t), Bundle: bundle}
	in.C.ID = strings.Repeat("0", 12) + id
	var err error
	if in.Cgroups, err = findCgroups(false, ""); err != nil {
		t.Fatal(err)
	}
	in.NetNS = "new"
	for _, f := range change {
		f(&in)
	}
	spec, warnings, err := in.build()
	if err != nil {
		return "", err
	}
	for _, w := range warnings {
		t.Log("warning:", w)
	}
	for i := range spec.Linux.Namespaces { // the runtime makes an empty one
		if spec.Linux.Namespaces[i].Path == "new" {
			spec.Linux.Namespaces[i].Path = ""
		}
	}
	raw, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(bundle, "config.json"), string(raw))
	cmd := exec.Command(runtime, "--root", t.TempDir(), "run", "--bundle", bundle, id)
	raw, err = cmd.CombinedOutput()
	return string(raw), err
}

func field(status, name string) string {
	for line := range strings.Lines(status) {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// The expected numbers are what podman 4.3.1 gives with the default
// capabilities of later versions in its containers.conf.
func TestRunCapabilities(t *testing.T) {
	own, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	all := field(string(own), "CapBnd")
	for _, tt := range []struct {
		name                    string
		c                       store.Config
		inh, prm, eff, bnd, amb string
	}{
		{"default", store.Config{}, "0", "800405fb", "800405fb", "800405fb", "0"},
		{"user", store.Config{User: "dev"}, "0", "0", "0", "800405fb", "0"},
		{"add", store.Config{CapAdd: []string{"net_admin"}}, "0", "800415fb", "800415fb", "800415fb", "0"},
		{"user add", store.Config{User: "dev", CapAdd: []string{"CAP_NET_RAW"}}, "2000", "2000", "2000", "800425fb", "2000"},
		{"drop all", store.Config{CapDrop: []string{"all"}}, "0", "0", "0", "0", "0"},
		{"drop all add one", store.Config{CapDrop: []string{"ALL"}, CapAdd: []string{"CHOWN"}}, "0", "1", "1", "1", "0"},
		{"privileged user", store.Config{User: "dev", Privileged: true}, "0", "0", "0", all, "0"},
		{"user add all", store.Config{User: "1234:44", CapAdd: []string{"all"}}, all, all, all, all, all},
		{"add all drop one", store.Config{CapAdd: []string{"ALL"}, CapDrop: []string{"CHOWN"}}, "0", all[:15] + "e", all[:15] + "e", all[:15] + "e", "0"},
		{"drop one", store.Config{CapDrop: []string{"CHOWN"}}, "0", "800405fa", "800405fa", "800405fa", "0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out := runSpec(t, tt.c, "cat /proc/self/status")
			for name, want := range map[string]string{"CapInh": tt.inh, "CapPrm": tt.prm, "CapEff": tt.eff, "CapBnd": tt.bnd, "CapAmb": tt.amb} {
				if got := strings.TrimLeft(field(out, name), "0"); got != strings.TrimLeft(want, "0") {
					t.Errorf("%s is %s, want %s", name, got, want)
				}
			}
			if got := field(out, "Seccomp"); got != "2" && !tt.c.Privileged {
				t.Errorf("Seccomp is %s", got)
			}
		})
	}
}

func TestRunPrivileged(t *testing.T) {
	out := runSpec(t, store.Config{Privileged: true}, "cat /proc/self/status; ls /dev/fuse; touch /proc/sys/kernel/domainname && echo writable")
	own, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := field(out, "CapEff"), field(string(own), "CapBnd"); got != want {
		t.Errorf("CapEff is %s, want %s", got, want)
	}
	if got := field(out, "Seccomp"); got != "0" {
		t.Errorf("Seccomp is %s", got)
	}
	if !strings.Contains(out, "writable") || !strings.Contains(out, "/dev/fuse") {
		t.Errorf("got %s", out)
	}
}

func TestRunView(t *testing.T) {
	src := t.TempDir()
	write(t, filepath.Join(src, "f"), "content\n")
	for _, tt := range []struct {
		name   string
		c      store.Config
		script string
		want   string
	}{
		{"masked file", store.Config{}, "wc -c </proc/keys", "0\n"},
		{"masked folder", store.Config{}, "ls /sys/firmware | wc -l", "0\n"},
		{"unmasked", store.Config{SecurityOpt: []string{"unmask=/proc/keys"}}, "grep -c ' /proc/keys ' /proc/mounts || true", "0\n"},
		{"read-only path", store.Config{}, "echo x 2>/dev/null >/proc/sys/kernel/domainname || echo ro", "ro\n"},
		{"systempaths", store.Config{SecurityOpt: []string{"systempaths=unconfined"}}, "grep -c ' /proc/keys ' /proc/mounts || true", "0\n"},
		{"sys is read-only", store.Config{}, "grep -c '^sysfs /sys sysfs ro,' /proc/mounts", "1\n"},
		{"user", store.Config{User: "dev", Groups: []string{"7"}}, "id -u; id -g; id -G; env | grep ^HOME", "1000\n1000\n1000 7 29 44\nHOME=/home/dev\n"},
		{"user by number", store.Config{User: "1234:44"}, "id -u; id -g; id -G; env | grep ^HOME", "1234\n44\n44\nHOME=/\n"},
		{"hostname", store.Config{Hostname: "box"}, "hostname; echo $HOSTNAME", "box\nbox\n"},
		{"short id", store.Config{}, "hostname", "000000000000\n"},
		{"env", store.Config{Env: []string{"A=1", "PATH=/bin"}}, "echo $A $PATH $container", "1 /bin balena\n"},
		{"workdir", store.Config{WorkingDir: "/made/by/run"}, "pwd", "/made/by/run\n"},
		{"read-only rootfs", store.Config{ReadOnly: true}, "touch /x 2>/dev/null || echo ro", "ro\n"},
		{"tmpfs", store.Config{Mounts: []store.Mount{{Type: "tmpfs", Target: "/t", Options: []string{"size=1m"}}}}, "grep -o ' /t tmpfs rw,nosuid,nodev,noexec,relatime,size=1024k' /proc/mounts", " /t tmpfs rw,nosuid,nodev,noexec,relatime,size=1024k\n"},
		{"bind", store.Config{Mounts: []store.Mount{{Type: "bind", Source: src, Target: "/m/n", ReadOnly: true}}}, "cat /m/n/f; touch /m/n/f 2>/dev/null || echo ro", "content\nro\n"},
		{"nested binds", store.Config{Mounts: []store.Mount{
			{Type: "bind", Source: filepath.Join(src, "f"), Target: "/m/n"}, {Type: "tmpfs", Target: "/m"}}}, "cat /m/n", "content\n"},
		{"shm", store.Config{ShmSize: 2 << 20}, "grep -o '/dev/shm tmpfs rw,nosuid,nodev,noexec,relatime,size=2048k' /proc/mounts", "/dev/shm tmpfs rw,nosuid,nodev,noexec,relatime,size=2048k\n"},
		{"no new privileges", store.Config{SecurityOpt: []string{"no-new-privileges"}}, "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1\n"},
		{"seccomp unconfined", store.Config{SecurityOpt: []string{"seccomp=unconfined"}}, "grep Seccomp: /proc/self/status", "Seccomp:\t0\n"},
		{"ulimit", store.Config{Ulimits: []string{"nofile=100:200"}}, "ulimit -n; ulimit -H -n", "100\n200\n"},
		{"sysctl", store.Config{Sysctls: map[string]string{"net.ipv4.ip_forward": "1"}}, "cat /proc/sys/net/ipv4/ip_forward", "1\n"},
		{"low ports", store.Config{}, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start", "0\n"},
		{"device", store.Config{Devices: []string{"/dev/fuse:/dev/x:rw"}}, "stat -c %t:%T /dev/x", "a:e5\n"},
		{"umask", store.Config{}, "umask", "0022\n"},
		{"pid", store.Config{}, "echo $$", "1\n"},
		{"oom score", store.Config{OOMScore: ptr(100)}, "cat /proc/self/oom_score_adj", "100\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := runSpec(t, tt.c, tt.script); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func ptr[T any](v T) *T { return &v }

func TestRunPrivateUserns(t *testing.T) {
	maps, _, err := idMappings(&store.Config{UIDMaps: []string{"0:100000:65536"}}, false)
	if err != nil {
		t.Fatal(err)
	}
	out := runSpec(t, store.Config{}, "cat /proc/self/uid_map; id -u; ls -d /sys/fs/cgroup", func(in *specInput) {
		in.IDMaps = maps
		for dir := in.RootFS; dir != filepath.Clean(os.TempDir()); dir = filepath.Dir(dir) {
			os.Chmod(dir, 0o755)
		}
		filepath.Walk(in.RootFS, func(p string, _ os.FileInfo, _ error) error { return os.Lchown(p, 100000, 100000) })
	})
	if f := strings.Fields(out); len(f) < 4 || f[0] != "0" || f[1] != "100000" || f[2] != "65536" || f[3] != "0" {
		t.Errorf("got %q", out)
	}
}

// TestKernelArch: a 32-bit engine's default profile lets a 64-bit kernel's
// programs run.
func TestKernelArch(t *testing.T) {
	if runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		t.Skip("wants to know that the kernel has 64 bits")
	}
	want := map[string]specs.Arch{"amd64": specs.ArchX86_64, "arm64": specs.ArchAARCH64}[runtime.GOARCH]
	p := &specs.LinuxSeccomp{}
	addKernelArch(p, runtime.GOARCH)
	if len(p.Architectures) > 0 {
		t.Errorf("a 64-bit engine gets %v", p.Architectures)
	}
	addKernelArch(p, "arm")
	if !slices.Contains(p.Architectures, want) {
		t.Errorf("a 32-bit engine gets %v, not %s", p.Architectures, want)
	}
}

// TestMapsBeyondInts: on 32 bits an ID from 1<<31 on is refused, not taken for
// a negative one.
func TestMapsBeyondInts(t *testing.T) {
	maps := idMaps{UID: []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1 << 31, Size: 65536}}}
	if err := checkWidth(maps, math.MaxInt32); !errors.Is(err, ErrOptions) {
		t.Errorf("got %v", err)
	}
	if err := checkWidth(maps, math.MaxInt64); err != nil {
		t.Error(err)
	}
}
