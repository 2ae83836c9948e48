package runtime

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestExitCode(t *testing.T) {
	const start = "unable to start container process: error during container init: "
	for msg, want := range map[string]int{
		start + `exec: "nope": executable file not found in $PATH`:                          127,
		start + `exec: "/nope": stat /nope: no such file or directory`:                      127,
		start + `exec: "/etc/passwd": permission denied`:                                    126,
		start + `exec: "/etc": is a directory`:                                              126,
		start + `chdir to cwd ("/x") set in config.json failed: no such file or directory`:  126,
		start + `unable to setup user: cannot setuid to unmapped uid`:                       126,
		start + `error mounting "/a" to rootfs at "/b": stat /a: no such file or directory`: 125,
		`container with given ID already exists`:                                            125,
	} {
		if got := ExitCode(errors.New(msg)); got != want {
			t.Errorf("%s: %d, want %d", msg, got, want)
		}
	}
	if got := ExitCode(nil); got != 0 {
		t.Errorf("nil: %d", got)
	}
}

func TestSubCgroups(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want map[string]string
		err  string
	}{
		{nil, nil, ""},
		{[]string{"a/b"}, map[string]string{"": "a/b"}, ""},
		{[]string{"cpu,cpuacct:x", "pids:y"}, map[string]string{"cpu": "x", "cpuacct": "x", "pids": "y"}, ""},
		{[]string{"cpu:x", "cpu:y"}, nil, "multiple times"},
		{[]string{":x"}, nil, "empty <controller>"},
		{[]string{"x", "cpu:y"}, nil, "missing <controller>"},
	} {
		got, err := subCgroups(tt.args)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%q: %v, want %q", tt.args, err, tt.err)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%q: %v, %v", tt.args, got, err)
		}
	}
}

func TestNewProcess(t *testing.T) {
	p := &specs.Process{
		Args: []string{"x"}, Cwd: "/",
		User: specs.User{UID: 1, GID: 2, AdditionalGids: []uint32{3}},
		Capabilities: &specs.LinuxCapabilities{
			Inheritable: []string{"CAP_KILL"},
			Ambient:     []string{"CAP_KILL", "CAP_CHOWN"},
		},
		Rlimits: []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1, Hard: 2}},
	}
	lp, err := newProcess(p)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(lp.Capabilities.Ambient, []string{"CAP_KILL"}) || len(p.Capabilities.Ambient) != 2 {
		t.Errorf("ambient %v of %v", lp.Capabilities.Ambient, p.Capabilities.Ambient)
	}
	if len(lp.Rlimits) != 1 || lp.Rlimits[0].Type != unix.RLIMIT_NOFILE || lp.UID != 1 || lp.GID != 2 || lp.AdditionalGroups[0] != 3 {
		t.Errorf("%+v", lp)
	}
	p.Rlimits[0].Type = "RLIMIT_X"
	if _, err := newProcess(p); err == nil {
		t.Error("an unknown limit was taken")
	}
}

func TestUpdateKeepsWhatIsNotGiven(t *testing.T) {
	old := cgroups.Resources{CpuPeriod: 100, CpuQuota: 50, CpusetCpus: "0", Memory: 7, MemorySwap: 9}
	res := old
	updateCPU(&res, &specs.LinuxCPU{})
	updateMemory(&res, &specs.LinuxMemory{})
	if !reflect.DeepEqual(res, old) {
		t.Errorf("%+v", res)
	}
	quota, limit := int64(20), int64(-1)
	updateCPU(&res, &specs.LinuxCPU{Quota: &quota})
	if res.CpuQuota != 20 || res.CpuPeriod != 100 {
		t.Errorf("quota %d, period %d", res.CpuQuota, res.CpuPeriod)
	}
	updateMemory(&res, &specs.LinuxMemory{Limit: &limit})
	if res.Memory != -1 || res.MemorySwap != 0 {
		t.Errorf("memory %d, swap %d", res.Memory, res.MemorySwap)
	}
	rate := specs.LinuxThrottleDevice{Rate: 5}
	rate.Major, rate.Minor = 8, 0
	for range 2 {
		updateBlockIO(&res, &specs.LinuxBlockIO{ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{rate}})
	}
	if n := len(res.BlkioThrottleReadBpsDevice); n != 1 {
		t.Errorf("%d throttles of one device", n)
	}
}

func TestWritePidFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "pid")
	// What a killed run left does not stand in the way.
	if err := os.WriteFile(filepath.Join(dir, ".pid"), []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := writePidFile(path, 42); err != nil {
			t.Fatal(err)
		}
	}
	if data, _ := os.ReadFile(path); string(data) != "42" {
		t.Errorf("%q", data)
	}
	if err := writePidFile(filepath.Join(dir, "no", "pid"), 1); err == nil {
		t.Error("no error")
	}
}

func TestLoadSpec(t *testing.T) {
	path := filepath.Join(t.TempDir(), SpecFile)
	for content, want := range map[string]string{
		"":                                     "not found",
		"{":                                    "unexpected EOF",
		"{}":                                   "process property must not be empty",
		`null`:                                 "config cannot be null",
		`{"process":{"args":["x"]}}`:           "Cwd property must not be empty",
		`{"process":{"args":["x"],"cwd":"a"}}`: "Cwd must be an absolute path",
		`{"process":{"cwd":"/"}}`:              "args must not be empty",
	} {
		os.Remove(path)
		if content != "" {
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := LoadSpec(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", content, err, want)
		}
	}
}

// systemd, played by the test, hears READY, the main PID and a barrier.
func TestNotifyForwarder(t *testing.T) {
	dir := t.TempDir()
	host, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "host"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	if err := os.Mkdir(filepath.Join(dir, "id"), 0o700); err != nil {
		t.Fatal(err)
	}
	n := newNotifyForwarder(filepath.Join(dir, "host"), dir, "id")
	if err := n.prepare(true); err != nil {
		t.Fatal(err)
	}
	defer n.close()
	done := make(chan error, 1)
	go func() { done <- n.forward(77, os.Getpid()) }()
	inside, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer inside.Close()
	if _, err := inside.Write([]byte("STATUS=x\nREADY=1")); err != nil {
		t.Fatal(err)
	}
	var got []string
	buf, oob := make([]byte, 100), make([]byte, 100)
	for len(got) < 3 {
		_ = host.SetReadDeadline(time.Now().Add(5 * time.Second))
		size, oobn, _, _, err := host.ReadMsgUnix(buf, oob)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, strings.TrimSpace(string(buf[:size])))
		if oobn > 0 {
			msgs, _ := unix.ParseSocketControlMessage(oob[:oobn])
			fds, _ := unix.ParseUnixRights(&msgs[0])
			unix.Close(fds[0])
		}
	}
	if want := []string{"READY=1", "MAINPID=77", "BARRIER=1"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
