package main

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/balena-os/balena/pkg/run"
	"github.com/balena-os/balena/pkg/store"
)

func parseCreate(args ...string) (run.Options, *pflag.FlagSet, error) {
	var o run.Options
	fs := pflag.NewFlagSet("run", pflag.ContinueOnError)
	fs.SetOutput(&strings.Builder{})
	addCreateFlags(fs, &o)
	return o, fs, func() error { err := fs.Parse(args); return err }()
}

func TestCreateFlagsFillOptions(t *testing.T) {
	t.Setenv("OURS", "here")
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	envFile, labelFile := file("env", "A=file\nF=1\n"), file("labels", "l=file\nm=1\nn\n")
	profile := file("profile.json", `{"defaultAction":"SCMP_ACT_ALLOW"}`)
	u5, n100 := uint(5), int64(100)
	minus := -5
	for _, tt := range []struct {
		args []string
		want store.Config
	}{
		{[]string{"-it", "--rm", "--init", "-w", "/w", "-u", "dev", "--read-only", "--privileged"},
			store.Config{Interactive: true, Tty: true, AutoRemove: true, Init: true, WorkingDir: "/w", User: "dev", ReadOnly: true, Privileged: true}},
		{[]string{"-e", "A=1", "-e", "OURS", "--env-file", envFile, "-e", "B=x=y"}, store.Config{Env: []string{"A=file", "F=1", "A=1", "OURS=here", "B=x=y"}}},
		{[]string{"-l", "l=1", "--label-file", labelFile}, store.Config{Labels: map[string]string{"l": "1", "m": "1", "n": ""}}},
		{[]string{"--entrypoint", "/bin/x"}, store.Config{Entrypoint: []string{"/bin/x"}}},
		{[]string{"--entrypoint", ""}, store.Config{Entrypoint: []string{""}}},
		{[]string{"--entrypoint", `["a","b"]`}, store.Config{Entrypoint: []string{"a", "b"}}},
		{[]string{"-v", "/a:/b:ro", "--mount", "type=tmpfs,dst=/c", "--tmpfs", "/d:size=1k"}, store.Config{Mounts: []store.Mount{
			{Type: "bind", Source: "/a", Target: "/b", ReadOnly: true, Options: []string{"create"}},
			{Type: "tmpfs", Target: "/c"}, {Type: "tmpfs", Target: "/d", Options: []string{"size=1k"}}}}},
		{[]string{"--restart", "on-failure:3", "--stop-signal", "QUIT", "--stop-timeout", "5"},
			store.Config{Restart: store.RestartPolicy{Name: "on-failure", Max: 3}, StopSignal: "QUIT", StopTimeout: &u5}},
		{[]string{"--net", "default", "-p", "127.0.0.1:8080:80", "-p", "53/udp", "-P", "--expose", "9000-9001"}, store.Config{
			Network: "bridge", PublishAll: true, Ports: []string{"9000/tcp", "9001/tcp"}, Publish: []store.PortMapping{
				{HostIP: "127.0.0.1", HostPort: 8080, ContainerPort: 80, Protocol: "tcp"}, {ContainerPort: 53, Protocol: "udp"}}}},
		{[]string{"-m", "64m", "--memory-swap", "-1", "--cpus", "1.5", "-c", "512", "--pids-limit", "100", "--shm-size", "1g", "--oom-score-adj", "-5"}, store.Config{
			ShmSize: 1 << 30, OOMScore: &minus, Resources: store.Resources{Memory: 64 << 20, MemorySwap: -1, NanoCPUs: 15e8, CPUShares: 512, PidsLimit: &n100}}},
		{[]string{"--cap-add", "A,B", "--cap-add", "C", "--cap-drop", "all", "--security-opt", "no-new-privileges", "--security-opt", "seccomp=" + profile}, store.Config{
			CapAdd: []string{"A", "B", "C"}, CapDrop: []string{"all"},
			SecurityOpt: []string{"no-new-privileges", `seccomp={"defaultAction":"SCMP_ACT_ALLOW"}`}}},
		{[]string{"--sysctl", "net.ipv4.ip_forward=1", "--log-opt", "max-size=1m", "--annotation", "a=b", "--ulimit", "nofile=1:2"}, store.Config{
			Sysctls: map[string]string{"net.ipv4.ip_forward": "1"}, LogOptions: map[string]string{"max-size": "1m"},
			Annotations: map[string]string{"a": "b"}, Ulimits: []string{"nofile=1:2"}}},
		{[]string{"-h", "box", "--dns", "1.1.1.1", "--dns-opt", "ndots:1", "--add-host", "a=[::1]", "--add-host", "b:host-gateway"}, store.Config{
			Hostname: "box", DNS: []string{"1.1.1.1"}, DNSOptions: []string{"ndots:1"}, ExtraHosts: []string{"a:::1", "b:host-gateway"}}},
		{[]string{"--pid", "container:x", "--ipc", "host", "--uts", "host", "--cgroupns", "private", "--userns", "keep-id", "--uidmap", "0:1:10"}, store.Config{
			Pid: "container:x", Ipc: "host", Uts: "host", Cgroupns: "private", Userns: "keep-id", UIDMaps: []string{"0:1:10"}}},
		{[]string{"--device", "/dev/null:/dev/x:r", "--group-add", "audio", "--log-driver", "none"}, store.Config{
			Devices: []string{"/dev/null:/dev/x:r"}, Groups: []string{"audio"}, LogDriver: "none"}},
	} {
		var o run.Options
		fs := pflag.NewFlagSet("run", pflag.ContinueOnError)
		addCreateFlags(fs, &o)
		if err := fs.Parse(append(tt.args, "image", "-x")); err != nil {
			t.Errorf("%q: %v", tt.args, err)
			continue
		}
		if !reflect.DeepEqual(o.Config, tt.want) {
			t.Errorf("%q: got %+v\nwant %+v", tt.args, o.Config, tt.want)
		}
		if got := fs.Args(); len(got) != 2 || got[1] != "-x" {
			t.Errorf("%q: the image's arguments are %q", tt.args, got)
		}
	}
}

func TestCreateFlagsErrors(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"-e", "=x"}, "invalid environment variable: =x"},
		{[]string{"--env-file", "/not/there"}, "no such file or directory"},
		{[]string{"-v", "/a:b"}, "must be absolute"},
		{[]string{"-p", "x"}, "invalid port mapping"},
		{[]string{"-p", "70000:80"}, "not between 1 and 65535"},
		{[]string{"--expose", "x"}, "invalid port to expose"},
		{[]string{"-m", "lots"}, "invalid size: 'lots'"},
		{[]string{"--cpus", "x"}, "failed to parse x as a rational number"},
		{[]string{"--cpus", "0.0000000001"}, "value is too precise"},
		{[]string{"--pull", "often"}, "not one of always, missing, never"},
		{[]string{"--restart", "sometimes"}, "unknown policy 'sometimes'"},
		{[]string{"--stop-signal", "SIGFOO"}, "invalid signal: SIGFOO"},
		{[]string{"--ulimit", "nofile=x"}, "invalid syntax"},
		{[]string{"--dns", "x"}, "x is not an ip address"},
		{[]string{"--add-host", "x"}, "bad format for add-host"},
		{[]string{"--mac-address", "x"}, "x is not a valid mac address"},
		{[]string{"--device", "x"}, "x is not an absolute path"},
		{[]string{"--sysctl", "x"}, "not of the form key=value"},
		{[]string{"--security-opt", "seccomp=/not/there"}, "opening seccomp profile (/not/there) failed"},
		{[]string{"--pid", "container:"}, "is not one of private, host, container:"},
		{[]string{"--log-driver", "syslog"}, "not one of json-file, none"},
		{[]string{"--oom-score-adj", "2000"}, "range for oom score adj is [-1000, 1000]"},
	} {
		_, _, err := parseCreate(tt.args...)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: got %v, want %q", tt.args, err, tt.want)
		}
	}
}
