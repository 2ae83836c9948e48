package runccli

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/balena-os/balena/pkg/runtime"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// stage runs Main and returns the exit code and both outputs.
func stage(t *testing.T, args ...string) (int, string, string) {
	t.Helper()
	dir := t.TempDir()
	open := func(name string) *os.File {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	out, errs := open("out"), open("err")
	t.Cleanup(func() {
		logrus.SetOutput(os.Stderr)
		logrus.SetFormatter(new(logrus.TextFormatter))
	})
	code := Main(args, open("in"), out, errs)
	read := func(f *os.File) string {
		data, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	return code, read(out), read(errs)
}

func TestMessages(t *testing.T) {
	root := t.TempDir()
	for _, tt := range []struct {
		args string
		code int
		out  string
		err  string
	}{
		{"state x", 1, "", `level=error msg="container does not exist"`},
		{"start x", 1, "", `level=error msg="container does not exist"`},
		{"kill x", 1, "", `level=error msg="container does not exist"`},
		{"delete x", 1, "", `level=error msg="container does not exist"`},
		{"delete --force x", 0, "", ""},
		{"exec x true", 255, "", `level=error msg="exec failed: container does not exist"`},
		{"run -b /nonexistent x", 1, "", `level=error msg="runc run failed: chdir /nonexistent: no such file or directory"`},
		{"create -b " + root + " x", 1, "", `level=error msg="runc create failed: JSON specification file config.json not found"`},
		{"run", 1, "Incorrect Usage.", `msg="runc: \"run\" requires exactly 1 argument(s)"`},
		{"kill a b c", 1, "Incorrect Usage.", `msg="runc: \"kill\" requires a maximum of 2 argument(s)"`},
		{"list", 0, "ID          PID         STATUS      BUNDLE      CREATED     OWNER", ""},
		{"list --format x", 1, "", `msg="invalid format option"`},
		{"frob", 1, "", `no such command: \"frob\"`},
		{"state ../x", 1, "", `msg="invalid container ID format"`},
		{"--log-format xml list", 1, "", `msg="invalid log-format: xml"`},
		{"--root / list", 1, "", `msg="Option --root argument should not be set to /"`},
		{"--version", 0, "runc version", ""},
		{"--help", 0, "update container resource constraints", ""},
		{"features", 0, `"ociVersionMax"`, ""},
	} {
		args := strings.Fields(tt.args)
		if !strings.Contains(tt.args, "--root") {
			args = append([]string{"--root", root}, args...)
		}
		code, out, errs := stage(t, args...)
		if code != tt.code || !strings.Contains(out, tt.out) || !strings.Contains(errs, tt.err) || (tt.err == "") != (errs == "") {
			t.Errorf("%s: code %d, want %d\nstdout: %s\nstderr: %s\nwant: %s", tt.args, code, tt.code, out, errs, tt.err)
		}
	}
}

func TestLogFileGetsErrorsAndSoDoesStderr(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	code, _, errs := stage(t, "--root", t.TempDir(), "--log", log, "--log-format", "json", "state", "x")
	data, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	if code != 1 || errs != "container does not exist\n" || !strings.Contains(string(data), `"msg":"container does not exist"`) {
		t.Errorf("code %d, stderr %q, log %q", code, errs, data)
	}
}

func TestSpec(t *testing.T) {
	dir := t.TempDir()
	if code, _, errs := stage(t, "spec", "--rootless", "--bundle", dir); code != 0 {
		t.Fatal(errs)
	}
	spec, err := runtime.LoadSpec(filepath.Join(dir, runtime.SpecFile))
	if err != nil || len(spec.Linux.UIDMappings) != 1 {
		t.Errorf("%v, %+v", err, spec)
	}
	if code, _, errs := stage(t, "spec", "-b", dir); code != 1 || !strings.Contains(errs, "File config.json exists. Remove it first") {
		t.Errorf("second spec: %d %s", code, errs)
	}
}

func TestParseSignal(t *testing.T) {
	for s, want := range map[string]unix.Signal{"9": 9, "KILL": 9, "sigterm": 15, "SIGUSR1": 10, "0": 0, "64": 64} {
		if got, err := parseSignal(s); got != want || err != nil {
			t.Errorf("%s: %v, %v", s, got, err)
		}
	}
	if _, err := parseSignal("NOPE"); err == nil {
		t.Error("NOPE is no signal")
	}
}

func TestExecFlags(t *testing.T) {
	p := &specs.Process{Cwd: "/", Env: []string{"A=1"}, Terminal: true, NoNewPrivileges: true}
	e := execFlags{cwd: "/tmp", env: []string{"B=x,y"}, user: "5:6", gids: []int64{7}, caps: []string{"CAP_KILL"}, setPrivs: true}
	if err := e.apply(p); err != nil {
		t.Fatal(err)
	}
	want := &specs.Process{
		Cwd: "/tmp", Env: []string{"A=1", "B=x,y"},
		User: specs.User{UID: 5, GID: 6, AdditionalGids: []uint32{7}},
		Capabilities: &specs.LinuxCapabilities{
			Bounding: []string{"CAP_KILL"}, Effective: []string{"CAP_KILL"}, Permitted: []string{"CAP_KILL"},
		},
	}
	if !reflect.DeepEqual(p, want) {
		t.Errorf("%+v\nwant %+v", p, want)
	}
	for _, e := range []execFlags{{user: "x"}, {user: "1:x"}, {user: "-1"}, {gids: []int64{-1}}} {
		if err := e.apply(&specs.Process{}); err == nil {
			t.Errorf("%+v was taken", e)
		}
	}
}

func TestUpdateFlags(t *testing.T) {
	u := updateFlags{memory: "64m", swap: "-1", quota: "-1", shares: "512", idle: "1", pids: 0, pidsGiven: true}
	r, err := u.read(nil)
	if err != nil {
		t.Fatal(err)
	}
	if *r.Memory.Limit != 64<<20 || *r.Memory.Swap != -1 || *r.CPU.Quota != -1 || *r.CPU.Shares != 512 || *r.CPU.Idle != 1 || *r.Pids.Limit != 0 || r.CPU.Period != nil {
		t.Errorf("%+v %+v", r.Memory, r.CPU)
	}
	u = updateFlags{resources: "-", memory: "ignored"}
	r, err = u.read(strings.NewReader(`{"memory":{"limit":7},"pids":{"limit":3}}`))
	if err != nil || *r.Memory.Limit != 7 || *r.Pids.Limit != 3 {
		t.Errorf("%v %+v", err, r.Memory)
	}
	for _, u := range []updateFlags{{memory: "x"}, {period: "-1"}, {resources: "/nonexistent"}} {
		if _, err := u.read(nil); err == nil {
			t.Errorf("%+v was taken", u)
		}
	}
}
