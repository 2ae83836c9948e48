package run

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	imgspec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/balena-os/balena/pkg/store"
)

// buildSpec makes a spec over an empty rootfs.
func buildSpec(t *testing.T, c store.Config, change ...func(*specInput)) (*specs.Spec, []string, error) {
	t.Helper()
	if c.Cmd == nil {
		c.Cmd = []string{"true"}
	}
	in := specInput{
		C:      &store.Container{ID: strings.Repeat("ab", 32), Config: c},
		RootFS: t.TempDir(), Bundle: t.TempDir(), NetNS: "/proc/1/ns/net",
		Cgroups: cgroupHost{Version: 2, Parent: "/balena", Controllers: []string{"cpu", "cpuset", "io", "memory", "pids"}},
	}
	for _, f := range change {
		f(&in)
	}
	return in.build()
}

func mustSpec(t *testing.T, c store.Config, change ...func(*specInput)) *specs.Spec {
	t.Helper()
	s, _, err := buildSpec(t, c, change...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSpecDefaults(t *testing.T) {
	s := mustSpec(t, store.Config{Tty: true})
	if want := []string{
		defaultPath, "container=balena", "HOSTNAME=abababababab", "TERM=xterm", "HOME=/",
	}; !slices.Equal(s.Process.Env, want) {
		t.Errorf("env %q, want %q", s.Process.Env, want)
	}
	if s.Linux.CgroupsPath != "/balena/"+strings.Repeat("ab", 32) {
		t.Errorf("cgroup path %s", s.Linux.CgroupsPath)
	}
	if p := s.Linux.Resources.Pids; p == nil || *p.Limit != 2048 {
		t.Errorf("pids %v", p)
	}
	var ns []string
	for _, n := range s.Linux.Namespaces {
		ns = append(ns, string(n.Type)+n.Path)
	}
	if want := []string{"mount", "network/proc/1/ns/net", "pid", "ipc", "uts", "cgroup"}; !slices.Equal(ns, want) {
		t.Errorf("namespaces %q, want %q", ns, want)
	}
	if s.Linux.Seccomp == nil || s.Linux.Seccomp.DefaultAction != specs.ActErrno {
		t.Errorf("seccomp %v", s.Linux.Seccomp)
	}
}

func findMount(s *specs.Spec, target string) *specs.Mount {
	for i := range s.Mounts {
		if s.Mounts[i].Destination == target {
			return &s.Mounts[i]
		}
	}
	return nil
}

func TestSpecMounts(t *testing.T) {
	vols := func(in *specInput) {
		in.Volume = func(name string) (string, error) { return "/vols/" + name, nil }
	}
	s := mustSpec(t, store.Config{Init: true, Mounts: []store.Mount{
		{Type: "volume", Source: "data", Target: "/a/b/c"},
		{Type: "bind", Source: "/src", Target: "/a", ReadOnly: true, Options: []string{"create", "z", "rslave", "noexec"}},
		{Type: "tmpfs", Target: "/dev/shm", Options: []string{"size=1k", "exec"}},
		{Type: "tmpfs", Target: "/run"},
	}}, vols, func(in *specInput) { in.Exe = "/bin/true" })
	last := -1
	for _, m := range s.Mounts {
		if d := depth(m.Destination); d < last {
			t.Errorf("%s comes after deeper ones", m.Destination)
		} else {
			last = d
		}
	}
	for target, want := range map[string]specs.Mount{
		"/a":        {Type: "bind", Source: "/src", Options: []string{"rbind", "rslave", "noexec", "ro"}},
		"/a/b/c":    {Type: "bind", Source: "/vols/data", Options: []string{"rbind", "rprivate"}},
		"/dev/shm":  {Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=1777", "rprivate", "size=1k", "exec"}},
		"/proc":     {Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		"/sys":      {Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		initPath:    {Type: "bind", Source: "/bin/true", Options: []string{"bind", "rprivate", "ro"}},
		"/dev/pts":  {Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		"/etc/none": {},
	} {
		m := findMount(s, target)
		if m == nil {
			m = new(specs.Mount)
		}
		want.Destination = m.Destination
		if !reflect.DeepEqual(*m, want) {
			t.Errorf("%s: got %+v, want %+v", target, *m, want)
		}
	}
	if s.Linux.RootfsPropagation != "rslave" {
		t.Errorf("rootfs propagation %q", s.Linux.RootfsPropagation)
	}
	if want := []string{initPath, "--", "true"}; !slices.Equal(s.Process.Args, want) {
		t.Errorf("args %q", s.Process.Args)
	}
	s = mustSpec(t, store.Config{Mounts: []store.Mount{{Type: "bind", Source: "/dev", Target: "/dev"}}})
	if m := findMount(s, "/dev/pts"); m != nil {
		t.Errorf("/dev/pts over the host's /dev")
	}
}

func TestSpecBundleFiles(t *testing.T) {
	s := mustSpec(t, store.Config{ReadOnly: true, Mounts: []store.Mount{{Type: "bind", Source: "/h", Target: "/etc/hosts"}}}, func(in *specInput) {
		for _, n := range []string{"hosts", "resolv.conf"} {
			write(t, filepath.Join(in.Bundle, n), "")
		}
	})
	if m := findMount(s, "/etc/hosts"); m == nil || m.Source != "/h" {
		t.Errorf("hosts %v", m)
	}
	if m := findMount(s, "/etc/resolv.conf"); m == nil || !slices.Contains(m.Options, "ro") {
		t.Errorf("resolv.conf %v", m)
	}
	if m := findMount(s, "/etc/hostname"); m != nil {
		t.Errorf("hostname %v", m)
	}
}

func TestSpecErrors(t *testing.T) {
	for name, tt := range map[string]struct {
		c   store.Config
		err string
	}{
		"no command":     {store.Config{Cmd: []string{}}, "no command specified"},
		"no such user":   {store.Config{User: "nobody-here"}, "unable to find user nobody-here"},
		"no such group":  {store.Config{Groups: []string{"nogroup-here"}}, "unable to find group nogroup-here"},
		"capability":     {store.Config{CapAdd: []string{"FLY"}}, "unknown capability"},
		"security":       {store.Config{SecurityOpt: []string{"bogus"}}, `invalid --security-opt: "bogus"`},
		"profile":        {store.Config{SecurityOpt: []string{"seccomp={"}}, "invalid seccomp profile"},
		"sysctl":         {store.Config{Sysctls: map[string]string{"kernel.panic": "1"}}, "sysctl 'kernel.panic' is not allowed"},
		"sysctl of host": {store.Config{Ipc: "host", Sysctls: map[string]string{"kernel.msgmax": "1"}}, "not allowed with the host's namespace"},
		"device":         {store.Config{Devices: []string{"/dev/not-there"}}, `error gathering device information while adding custom device "/dev/not-there": no such file or directory`},
		"no device":      {store.Config{Devices: []string{"/etc/passwd"}}, "not a device node"},
		"ulimit":         {store.Config{Ulimits: []string{"bogus=1"}}, "invalid ulimit type: bogus"},
		"pid mode":       {store.Config{Pid: "bogus"}, "--pid: invalid mode: bogus"},
		"memory":         {store.Config{Resources: store.Resources{Memory: 1}}, "minimum memory limit"},
	} {
		_, _, err := buildSpec(t, tt.c)
		if err == nil || !errors.Is(err, ErrOptions) || !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: got %v, want %q", name, err, tt.err)
		}
	}
}

func TestSpecRootless(t *testing.T) {
	c := store.Config{Resources: store.Resources{Memory: 1 << 30, NanoCPUs: 5e8}}
	s, warnings, err := buildSpec(t, c, func(in *specInput) { in.Rootless, in.Cgroups = true, cgroupHost{Version: 1} })
	if err != nil {
		t.Fatal(err)
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0], "--memory, --cpus") {
		t.Errorf("warnings %q", warnings)
	}
	if r := s.Linux.Resources; r.Memory != nil || r.CPU != nil || r.Pids != nil || s.Linux.CgroupsPath != "" {
		t.Errorf("resources %+v at %q", r, s.Linux.CgroupsPath)
	}
	s, warnings, err = buildSpec(t, store.Config{Devices: []string{"/dev/null:/dev/x"}}, func(in *specInput) {
		in.Rootless, in.Cgroups, in.NetNS = true, cgroupHost{Version: 1}, ""
	})
	if err != nil || len(warnings) != 0 {
		t.Fatal(err, warnings)
	}
	if m := findMount(s, "/sys"); m.Type != "bind" {
		t.Errorf("sys with the host's network: %v", m)
	}
	if m := findMount(s, "/dev/x"); m == nil || m.Source != "/dev/null" || len(s.Linux.Devices) != 0 {
		t.Errorf("device %v, %v", m, s.Linux.Devices)
	}
}

func TestSpecResources(t *testing.T) {
	s := mustSpec(t, store.Config{Resources: store.Resources{
		Memory: 64 << 20, NanoCPUs: 15e8, CPUShares: 512, CPUSetCPUs: "0-1", PidsLimit: ptr(int64(-1)), BlkioWeight: 10,
	}})
	r := s.Linux.Resources
	if *r.Memory.Limit != 64<<20 || *r.CPU.Quota != 150000 || *r.CPU.Period != 100000 || *r.CPU.Shares != 512 ||
		r.CPU.Cpus != "0-1" || r.Pids != nil || *r.BlockIO.Weight != 10 {
		t.Errorf("got %+v", r)
	}
}

func TestCheckResources(t *testing.T) {
	for _, tt := range []struct {
		r   store.Resources
		err string
	}{
		{store.Resources{}, ""},
		{store.Resources{Memory: 6 << 20, MemorySwap: -1}, ""},
		{store.Resources{Memory: 1 << 20}, "minimum memory limit allowed is 6MB"},
		{store.Resources{MemorySwap: 1 << 30}, "always set the memory limit"},
		{store.Resources{Memory: 1 << 30, MemorySwap: 1 << 20}, "larger than the memory limit"},
		{store.Resources{Memory: 1 << 30, MemoryReservation: 2 << 30}, "memory reservation"},
		{store.Resources{NanoCPUs: 3e9}, "range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available"},
		{store.Resources{NanoCPUs: 1}, "range of CPUs"},
		{store.Resources{NanoCPUs: 1e9, CPUQuota: 1}, "conflicting options"},
		{store.Resources{BlkioWeight: 5}, "range of blkio weight is from 10 to 1000"},
		{store.Resources{CPUSetCPUs: "0-3,5"}, ""},
		{store.Resources{CPUSetCPUs: "0-"}, "invalid value 0- for cpuset cpus"},
		{store.Resources{CPUSetMems: "x"}, "invalid value x for cpuset mems"},
		{store.Resources{CPUSetMems: ","}, "invalid value"},
	} {
		if err := checkResources(&tt.r, 2); (err == nil) != (tt.err == "") || (err != nil && !strings.Contains(err.Error(), tt.err)) {
			t.Errorf("%+v: got %v, want %q", tt.r, err, tt.err)
		}
	}
}

func TestOptionsCheck(t *testing.T) {
	for _, tt := range []struct {
		o   Options
		err string
	}{
		{Options{}, ""},
		{Options{Config: store.Config{AutoRemove: true, Restart: store.RestartPolicy{Name: "always"}}}, "cannot specify both --restart and --rm"},
		{Options{Config: store.Config{AutoRemove: true, Restart: store.RestartPolicy{Name: "no"}}}, ""},
		{Options{Config: store.Config{Network: "mynet"}}, "network mynet not found"},
		{Options{Config: store.Config{Mounts: []store.Mount{{Type: "tmpfs", Target: "/a"}, {Type: "volume", Target: "/a"}}}}, "duplicate mount point: /a"},
		{Options{Config: store.Config{Mounts: []store.Mount{bind("/not/there", "/a", false)}}}, "bind source path does not exist: /not/there"},
		{Options{Config: store.Config{Mounts: []store.Mount{bind("/not/there", "/a", false, "create")}}}, ""},
		{Options{Config: store.Config{Uts: "host", Hostname: "x"}}, "hostname and the UTS mode"},
		{Options{Config: store.Config{Userns: "keep-id:bogus=1"}}, "unknown option"},
	} {
		if err := tt.o.Check(); (err == nil) != (tt.err == "") || (err != nil && !strings.Contains(err.Error(), tt.err)) {
			t.Errorf("%+v: got %v, want %q", tt.o, err, tt.err)
		}
	}
}

func TestParseRestart(t *testing.T) {
	for in, want := range map[string]string{
		"no": "no 0", "always": "always 0", "on-failure": "on-failure 0", "on-failure:3": "on-failure 3", "unless-stopped": "unless-stopped 0",
		"bogus": "unknown policy", "always:3": "only be used with 'on-failure'", "on-failure:x": "must be an integer", "on-failure:-1": "cannot be negative",
	} {
		p, err := ParseRestart(in)
		got := fmt.Sprintf("%s %d", p.Name, p.Max)
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, want) {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}

func TestParseDevice(t *testing.T) {
	for in, want := range map[string]Device{
		"/dev/a":          {"/dev/a", "/dev/a", "rwm"},
		"/dev/a:r":        {"/dev/a", "/dev/a", "r"},
		"/dev/a:/dev/b":   {"/dev/a", "/dev/b", "rwm"},
		"/dev/a:/b:mr":    {"/dev/a", "/b", "mr"},
		"/dev/a:/b:x":     {},
		"/dev/a:/b:rr":    {},
		"/dev/a:b":        {},
		"dev/a":           {},
		"/dev/a:/b:rw:ww": {},
	} {
		got, err := ParseDevice(in)
		if want.Host == "" {
			if err == nil {
				t.Errorf("%s: no error", in)
			}
		} else if err != nil || got != want {
			t.Errorf("%s: got %v, %v", in, got, err)
		}
	}
}

func TestCheckSignal(t *testing.T) {
	for s, ok := range map[string]bool{
		"9": true, "SIGTERM": true, "term": true, "RTMIN+3": true, "SIGRTMAX-1": true, "SIGRTMIN": true,
		"0": false, "65": false, "SIGFOO": false, "": false, "RTMIN+x": false,
	} {
		if err := CheckSignal(s); (err == nil) != ok {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestApplyImageDefaults(t *testing.T) {
	img := &imgspec.ImageConfig{
		Entrypoint: []string{"/entry"}, Cmd: []string{"arg"}, Env: []string{"A=1", "B=2", "C=3"}, User: "dev", WorkingDir: "/w",
		StopSignal: "SIGQUIT", Labels: map[string]string{"x": "1", "y": "1"},
		ExposedPorts: map[string]struct{}{"80": {}, "53/UDP": {}}, Volumes: map[string]struct{}{"/data/": {}, "/b": {}},
	}
	c := store.Config{Env: []string{"B=new", "C", "D=4"}, Labels: map[string]string{"y": "2"}, Mounts: []store.Mount{{Type: "tmpfs", Target: "/b"}}}
	applyImageDefaults(&c, img)
	want := store.Config{
		Entrypoint: []string{"/entry"}, Cmd: []string{"arg"}, Env: []string{"A=1", "B=new", "D=4"}, User: "dev", WorkingDir: "/w",
		StopSignal: "SIGQUIT", Labels: map[string]string{"x": "1", "y": "2"}, Ports: []string{"53/udp", "80/tcp"},
		Mounts: []store.Mount{{Type: "tmpfs", Target: "/b"}, {Type: "volume", Target: "/data"}},
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v\nwant %+v", c, want)
	}
	for _, tt := range []struct{ entry, cmd, want []string }{
		{nil, []string{"x"}, []string{"/entry", "x"}},
		{[]string{"/e"}, nil, []string{"/e"}},
		{[]string{""}, nil, nil},
		{[]string{""}, []string{"x"}, []string{"x"}},
	} {
		c := store.Config{Entrypoint: tt.entry, Cmd: tt.cmd}
		applyImageDefaults(&c, img)
		if got := slices.Concat(c.Entrypoint, c.Cmd); !slices.Equal(got, tt.want) {
			t.Errorf("%q %q: got %q, want %q", tt.entry, tt.cmd, got, tt.want)
		}
	}
}

func TestUsernsMaps(t *testing.T) {
	m := func(c, h, n uint32) specs.LinuxIDMapping {
		return specs.LinuxIDMapping{ContainerID: c, HostID: h, Size: n}
	}
	for _, tt := range []struct {
		id, n uint32
		want  []specs.LinuxIDMapping
	}{
		{1000, 65537, []specs.LinuxIDMapping{m(0, 1, 1000), m(1000, 0, 1), m(1001, 1001, 64536)}},
		{0, 65537, []specs.LinuxIDMapping{m(0, 0, 1), m(1, 1, 65536)}},
		{100000, 65537, []specs.LinuxIDMapping{m(0, 1, 65536), m(100000, 0, 1)}},
		{1000, 1, []specs.LinuxIDMapping{m(1000, 0, 1)}},
	} {
		if got := around(tt.id, tt.n); !slices.Equal(got, tt.want) {
			t.Errorf("%d of %d: got %v, want %v", tt.id, tt.n, got, tt.want)
		}
	}
	for in, ok := range map[string]bool{
		"": true, "host": true, "auto": true, "auto:size=1024": true, "keep-id": true, "keep-id:uid=5,gid=6": true, "nomap": true,
		"bogus": false, "host:x": false, "auto:uid=1": false, "keep-id:uid=x": false,
	} {
		if _, err := parseUserns(in); (err == nil) != ok {
			t.Errorf("%q: %v", in, err)
		}
	}
	if _, _, err := idMappings(&store.Config{Userns: "keep-id"}, false); err == nil {
		t.Error("keep-id as root")
	}
}

// A link in the rootfs that names the host's files must not be followed there.
func TestLookupUserStaysInside(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	outside := filepath.Join(t.TempDir(), "passwd")
	write(t, outside, "evil:x:0:0::/:\n")
	if err := os.Symlink(outside, filepath.Join(root, "etc/passwd")); err != nil {
		t.Fatal(err)
	}
	if u, err := lookupUser(root, "evil", nil); err == nil {
		t.Errorf("got %+v", u)
	}
	if err := os.Remove(filepath.Join(root, "etc/passwd")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../../passwd", filepath.Join(root, "etc/passwd")); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(root, "passwd"), "inside:x:7:8::/h:\n")
	u, err := lookupUser(root, "inside", nil)
	if err != nil || u.UID != 7 || u.GID != 8 || u.Home != "/h" {
		t.Errorf("got %+v, %v", u, err)
	}
}

func TestFillVolumes(t *testing.T) {
	root, vols, host := t.TempDir(), t.TempDir(), t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "data/sub"), 0o750); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(root, "data/sub/f"), "image")
	if err := os.Chmod(filepath.Join(root, "data"), 0o1777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(root, "data"), os.ModeSticky|0o777); err != nil {
		t.Fatal(err)
	}
	c := &store.Container{Config: store.Config{Mounts: []store.Mount{
		{Type: "volume", Source: "one", Target: "/data"},
		{Type: "volume", Source: "two", Target: "/data", Options: []string{"nocopy"}},
		{Type: "volume", Source: "three", Target: "/none"},
		bind(filepath.Join(host, "new/dir"), "/x", false, "create"),
	}}}
	dir := func(name string) string { return filepath.Join(vols, name, "_data") }
	for range 2 {
		if err := fillVolumes(c, root, idMaps{}, dir); err != nil {
			t.Fatal(err)
		}
	}
	if raw, err := os.ReadFile(filepath.Join(dir("one"), "sub/f")); err != nil || string(raw) != "image" {
		t.Errorf("copied %q, %v", raw, err)
	}
	if st, err := os.Stat(dir("one")); err != nil || st.Mode().Perm() != 0o777 || st.Mode()&os.ModeSticky == 0 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	for _, name := range []string{"two", "three"} {
		if list, err := os.ReadDir(dir(name)); err != nil || len(list) != 0 {
			t.Errorf("%s: %v, %v", name, list, err)
		}
	}
	if st, err := os.Stat(filepath.Join(host, "new/dir")); err != nil || !st.IsDir() {
		t.Errorf("host folder: %v", err)
	}
	// What was copied and not wholly moved in, because of a cut, comes in later.
	one := filepath.Dir(dir("one"))
	if err := os.Mkdir(filepath.Join(one, volumeCopied), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(one, volumeCopied, "late"), "late")
	if err := fillVolumes(c, root, idMaps{}, dir); err != nil {
		t.Fatal(err)
	}
	if list, err := os.ReadDir(dir("one")); err != nil || len(list) != 2 {
		t.Errorf("after the cut: %v, %v", list, err)
	}
	if list, err := os.ReadDir(one); err != nil || len(list) != 1 {
		t.Errorf("left over: %v, %v", list, err)
	}
	// A container that has the empty volume mounted sees what is copied.
	mounted, err := os.Open(dir("three"))
	if err != nil {
		t.Fatal(err)
	}
	defer mounted.Close()
	c.Config.Mounts[2].Target = "/data"
	if err := fillVolumes(c, root, idMaps{}, dir); err != nil {
		t.Fatal(err)
	}
	if names, err := mounted.Readdirnames(-1); err != nil || len(names) != 1 {
		t.Errorf("mounted: %v, %v", names, err)
	}
}

func TestGiveAway(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "f")
	write(t, outside, "")
	for _, d := range []string{"a/b", "c"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(dir, "a/b/f"), "")
	for name, to := range map[string]string{"a/file": outside, "folder": filepath.Dir(outside)} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	c := &store.Container{Config: store.Config{User: "1234:44"}}
	if err := giveAway(c, t.TempDir(), idMaps{}, dir); err != nil {
		t.Fatal(err)
	}
	owner := func(path string) string {
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%d:%d", st.Uid, st.Gid)
	}
	for _, name := range []string{"", "a", "a/b", "a/b/f", "a/file", "c", "folder"} {
		if got := owner(filepath.Join(dir, name)); got != "1234:44" {
			t.Errorf("%s belongs to %s", name, got)
		}
	}
	for _, path := range []string{outside, filepath.Dir(outside)} {
		if got := owner(path); got != "0:0" {
			t.Errorf("%s, outside, belongs to %s", path, got)
		}
	}
	if err := giveAway(c, t.TempDir(), idMaps{}, "/etc/"); err == nil {
		t.Error("gave /etc away")
	}
}
