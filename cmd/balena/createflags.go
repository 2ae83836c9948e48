package main

import (
	"encoding/json"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	units "github.com/docker/go-units"
	"github.com/spf13/pflag"

	"github.com/balena-os/balena/pkg/netns"
	"github.com/balena-os/balena/pkg/run"
	"github.com/balena-os/balena/pkg/store"
)

// funcValue is a flag that hands each of its values to a function, which puts
// it where it belongs. Flags that nobody sets keep the field's zero value.
type funcValue struct {
	kind string
	set  func(string) error
}

func (v funcValue) String() string     { return "" }
func (v funcValue) Type() string       { return v.kind }
func (v funcValue) Set(s string) error { return v.set(s) }

// addCreateFlags adds what run and create have in common. Every value goes
// straight into the field of o that it is about; -d and what belongs to
// attaching are run's own.
func addCreateFlags(fs *pflag.FlagSet, o *run.Options) {
	fs.SetInterspersed(false)
	fs.Bool("help", false, "help for this command") // before cobra adds one, with the -h that is --hostname here
	addProcessFlags(fs, o)
	addViewFlags(fs, o)
	addNetworkFlags(fs, o)
	addRightsFlags(fs, o)
	addLimitFlags(fs, o)
}

func value(fs *pflag.FlagSet, name, short, kind, usage string, set func(string) error) {
	fs.VarP(funcValue{kind, set}, name, short, usage)
}

func list(fs *pflag.FlagSet, p *[]string, name, short, usage string) {
	value(fs, name, short, "list", usage, func(s string) error { *p = append(*p, s); return nil })
}

func choice(fs *pflag.FlagSet, p *string, name, usage string, choices ...string) {
	value(fs, name, "", "string", usage, func(s string) error {
		for _, c := range choices {
			if prefix := strings.HasSuffix(c, ":"); !prefix && s == c || prefix && len(s) > len(c) && strings.HasPrefix(s, c) {
				*p = s
				return nil
			}
		}
		return fmt.Errorf("%q is not one of %s", s, strings.Join(choices, ", "))
	})
}

// size takes docker's sizes: a number with an optional b, k, m, g or t.
func size(fs *pflag.FlagSet, p *int64, name, short, usage string, unlimited bool) {
	value(fs, name, short, "bytes", usage, func(s string) error {
		if s == "-1" && unlimited {
			*p = -1
			return nil
		}
		n, err := units.RAMInBytes(s)
		if err != nil || n < 0 {
			return fmt.Errorf("invalid size: '%s'", s)
		}
		*p = n
		return nil
	})
}

func addProcessFlags(fs *pflag.FlagSet, o *run.Options) {
	fs.StringVar(&o.Name, "name", "", "assign a name to the container")
	fs.BoolVarP(&o.Interactive, "interactive", "i", false, "keep stdin open even if not attached")
	fs.BoolVarP(&o.Tty, "tty", "t", false, "allocate a pseudo-TTY")
	fs.BoolVar(&o.AutoRemove, "rm", false, "remove the container and its anonymous volumes when it exits")
	fs.BoolVar(&o.Init, "init", false, "run an init inside the container that forwards signals and reaps processes")
	fs.StringVarP(&o.WorkingDir, "workdir", "w", "", "working directory inside the container")
	fs.StringVarP(&o.User, "user", "u", "", "user name or UID (format: <name|uid>[:<group|gid>])")
	list(fs, &o.Groups, "group-add", "", "add an additional group to join")
	value(fs, "entrypoint", "", "string", "overwrite the default entrypoint of the image", func(s string) error {
		o.Entrypoint = []string{s}
		if strings.HasPrefix(s, "[") { // podman's way to give several
			var argv []string
			if json.Unmarshal([]byte(s), &argv) == nil {
				o.Entrypoint = argv
			}
		}
		return nil
	})
	env := layered{list: &o.Env}
	value(fs, "env", "e", "list", "set environment variables", func(s string) error {
		e, ok, err := envValue(s)
		if ok && err == nil {
			o.Env = append(o.Env, e)
		}
		return err
	})
	value(fs, "env-file", "", "file", "read in a file of environment variables", func(s string) error {
		vars, err := readEnvFile(s)
		env.prepend(vars)
		return err
	})
	addLabelFlags(fs, o)
	value(fs, "stop-signal", "", "string", "signal to stop the container", func(s string) error {
		o.StopSignal = s
		return run.CheckSignal(s)
	})
	value(fs, "stop-timeout", "", "int", "seconds to wait before a stopping container is killed", func(s string) error {
		n, err := strconv.Atoi(s)
		if err != nil {
			return fmt.Errorf("%q is not a number of seconds", s)
		}
		if n < 0 { // docker waits for ever
			n = 1<<31 - 1
		}
		t := uint(n)
		o.StopTimeout = &t
		return nil
	})
	value(fs, "restart", "", "string", "restart policy to apply when a container exits: no, always, on-failure[:max], unless-stopped", func(s string) (err error) {
		o.Restart, err = run.ParseRestart(s)
		return err
	})
	fs.StringVar(&o.CIDFile, "cidfile", "", "write the container ID to the file")
	choice(fs, &o.Pull, "pull", "pull the image before creating (always, missing, never)", "always", "missing", "never")
	fs.BoolVarP(&o.Quiet, "quiet", "q", false, "suppress the pull output")
	fs.StringVar(&o.Platform, "platform", "", "platform of the image, os/arch[/variant]")
	choice(fs, &o.LogDriver, "log-driver", "logging driver for the container (json-file, none)", "json-file", "none")
	pairs(fs, &o.LogOptions, "log-opt", "", "log driver options")
}

// layered is a list whose values from files stand in front of those from the
// command line, whatever the order of the flags.
type layered struct {
	list *[]string
	n    int
}

func (l *layered) prepend(values []string) {
	*l.list = slices.Insert(*l.list, l.n, values...)
	l.n += len(values)
}

// envValue is one -e: NAME=VALUE, or NAME for our own value of it.
func envValue(s string) (string, bool, error) {
	name, _, ok := strings.Cut(s, "=")
	switch {
	case name == "":
		return "", false, fmt.Errorf("invalid environment variable: %s", s)
	case strings.ContainsRune(s, 0):
		return "", false, fmt.Errorf("invalid environment variable: %q", s)
	case ok:
		return s, true, nil
	}
	v, found := os.LookupEnv(name)
	if !found {
		return name, true, nil // takes away what the image sets
	}
	return name + "=" + v, true, nil
}

func readEnvFile(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	vars, err := run.ParseEnvFile(f, os.LookupEnv)
	if err != nil {
		return nil, fmt.Errorf("invalid env file (%s): %w", path, err)
	}
	return vars, nil
}

func addLabelFlags(fs *pflag.FlagSet, o *run.Options) {
	given := map[string]bool{}
	put := func(s string, fromFile bool) error {
		key, val, _ := strings.Cut(s, "=")
		if key == "" {
			return fmt.Errorf("invalid label: %q", s)
		}
		if fromFile && given[key] {
			return nil
		}
		if o.Labels == nil {
			o.Labels = map[string]string{}
		}
		o.Labels[key], given[key] = val, given[key] || !fromFile
		return nil
	}
	value(fs, "label", "l", "list", "set meta data on a container", func(s string) error { return put(s, false) })
	value(fs, "label-file", "", "file", "read in a line delimited file of labels", func(s string) error {
		f, err := os.Open(s)
		if err != nil {
			return err
		}
		defer f.Close()
		labels, err := run.ParseEnvFile(f, func(string) (string, bool) { return "", true })
		if err != nil {
			return fmt.Errorf("invalid label file (%s): %w", s, err)
		}
		for _, l := range labels {
			if err := put(l, true); err != nil {
				return err
			}
		}
		return nil
	})
	pairs(fs, &o.Annotations, "annotation", "", "add an annotation to the container (passed through to the OCI runtime)")
}

// pairs is a flag of KEY=VALUE pairs.
func pairs(fs *pflag.FlagSet, p *map[string]string, name, short, usage string) {
	value(fs, name, short, "map", usage, func(s string) error {
		key, val, ok := strings.Cut(s, "=")
		if !ok || key == "" {
			return fmt.Errorf("%q is not of the form key=value", s)
		}
		if *p == nil {
			*p = map[string]string{}
		}
		(*p)[key] = val
		return nil
	})
}

func addViewFlags(fs *pflag.FlagSet, o *run.Options) {
	mount := func(name, short, usage string, parse func(string) (store.Mount, error)) {
		value(fs, name, short, name, usage, func(s string) error {
			m, err := parse(s)
			if err == nil {
				o.Mounts = append(o.Mounts, m)
			}
			return err
		})
	}
	mount("volume", "v", "bind mount a volume or a path of the host ([SOURCE:]TARGET[:OPTIONS])", run.ParseVolume)
	mount("mount", "", "attach a filesystem mount to the container", run.ParseMount)
	mount("tmpfs", "", "mount a tmpfs directory", run.ParseTmpfs)
	fs.StringVarP(&o.Hostname, "hostname", "h", "", "container host name")
	fs.StringVar(&o.Domainname, "domainname", "", "container NIS domain name")
	fs.BoolVar(&o.ReadOnly, "read-only", false, "mount the container's root filesystem as read only")
	size(fs, &o.ShmSize, "shm-size", "", "size of /dev/shm", false)
	value(fs, "device", "", "list", "add a host device to the container (HOST[:CONTAINER][:rwm])", func(s string) error {
		_, err := run.ParseDevice(s)
		o.Devices = append(o.Devices, s)
		return err
	})
}

func addNetworkFlags(fs *pflag.FlagSet, o *run.Options) {
	value(fs, "network", "", "string", "connect the container to a network: bridge, host or none", func(s string) error {
		if s == "default" || s == "private" {
			s = "bridge"
		}
		o.Network = s
		return nil
	})
	fs.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		switch name {
		case "net":
			name = "network"
		case "dns-opt":
			name = "dns-option"
		}
		return pflag.NormalizedName(name)
	})
	value(fs, "publish", "p", "list", "publish a container's ports to the host ([IP:][HOST:]CONTAINER[/PROTOCOL])", func(s string) error {
		m, err := netns.ParsePorts(s)
		o.Publish = append(o.Publish, m...)
		return err
	})
	fs.BoolVarP(&o.PublishAll, "publish-all", "P", false, "publish all exposed ports to random ports")
	value(fs, "expose", "", "list", "expose a port or a range of ports", func(s string) error {
		m, err := netns.ParsePorts(s)
		if err != nil {
			return fmt.Errorf("invalid port to expose: %q", s)
		}
		for _, p := range m {
			o.Ports = append(o.Ports, fmt.Sprintf("%d/%s", p.ContainerPort, p.Protocol))
		}
		return nil
	})
	value(fs, "dns", "", "list", "set custom DNS servers", func(s string) error {
		if _, err := netip.ParseAddr(s); err != nil {
			return fmt.Errorf("%s is not an ip address", s)
		}
		o.DNS = append(o.DNS, s)
		return nil
	})
	list(fs, &o.DNSSearch, "dns-search", "", "set custom DNS search domains")
	list(fs, &o.DNSOptions, "dns-option", "", "set DNS options")
	value(fs, "add-host", "", "list", "add a custom host-to-IP mapping (host:ip)", func(s string) error {
		h, err := extraHost(s)
		o.ExtraHosts = append(o.ExtraHosts, h)
		return err
	})
	value(fs, "mac-address", "", "string", "container MAC address", func(s string) error {
		if hw, err := net.ParseMAC(s); err != nil || len(hw) != 6 {
			return fmt.Errorf("%s is not a valid mac address", s)
		}
		o.MacAddress = s
		return nil
	})
}

// extraHost checks NAME:IP or NAME=IP, IP being an address, in brackets or
// not, or "host-gateway".
func extraHost(s string) (string, error) {
	name, ip, ok := strings.Cut(s, "=")
	if !ok {
		name, ip, ok = strings.Cut(s, ":")
	}
	if !ok || name == "" {
		return "", fmt.Errorf("bad format for add-host: %q", s)
	}
	if strings.HasPrefix(ip, "[") && strings.HasSuffix(ip, "]") {
		ip = ip[1 : len(ip)-1]
	}
	if ip != "host-gateway" {
		if _, err := netip.ParseAddr(ip); err != nil {
			return "", fmt.Errorf("invalid IP address in add-host: %q", ip)
		}
	}
	return name + ":" + ip, nil
}

func addRightsFlags(fs *pflag.FlagSet, o *run.Options) {
	fs.BoolVar(&o.Privileged, "privileged", false, "give extended privileges to the container")
	names := func(p *[]string, name, usage string) {
		value(fs, name, "", "list", usage, func(s string) error {
			*p = append(*p, strings.Split(s, ",")...)
			return nil
		})
	}
	names(&o.CapAdd, "cap-add", "add Linux capabilities")
	names(&o.CapDrop, "cap-drop", "drop Linux capabilities")
	value(fs, "security-opt", "", "list", "security options", func(s string) error {
		opt, err := securityOpt(s)
		o.SecurityOpt = append(o.SecurityOpt, opt)
		return err
	})
	fs.StringVar(&o.Userns, "userns", "", "user namespace to use: host, auto[:size=N], keep-id[:uid=N,gid=N], nomap")
	idmap := func(p *[]string, name, usage string) {
		value(fs, name, "", "list", usage, func(s string) error {
			_, err := run.ParseIDMap([]string{s})
			*p = append(*p, s)
			return err
		})
	}
	idmap(&o.UIDMaps, "uidmap", "UIDs of a user namespace of its own (CONTAINER:HOST:SIZE)")
	idmap(&o.GIDMaps, "gidmap", "GIDs of a user namespace of its own (CONTAINER:HOST:SIZE)")
	choice(fs, &o.Pid, "pid", "PID namespace to use: private, host or container:NAME", "private", "host", "container:")
	choice(fs, &o.Ipc, "ipc", "IPC mode to use: private, shareable, none, host or container:NAME", "private", "shareable", "none", "host", "container:")
	choice(fs, &o.Uts, "uts", "UTS namespace to use: private or host", "private", "host")
	choice(fs, &o.Cgroupns, "cgroupns", "cgroup namespace to use: private or host", "private", "host")
	pairs(fs, &o.Sysctls, "sysctl", "", "sysctl options")
}

// securityOpt reads the profile that seccomp=FILE names, so that the container
// does not depend on the file; what it means is checked where all options are.
func securityOpt(s string) (string, error) {
	path, ok := strings.CutPrefix(s, "seccomp=")
	if !ok || path == "unconfined" || path == "builtin" || path == "" {
		return s, nil
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("opening seccomp profile (%s) failed: %w", path, err)
	}
	if !json.Valid(raw) {
		return "", fmt.Errorf("seccomp profile (%s) is not JSON", path)
	}
	return "seccomp=" + string(raw), nil
}

func addLimitFlags(fs *pflag.FlagSet, o *run.Options) {
	value(fs, "ulimit", "", "ulimit", "ulimit options (NAME=SOFT[:HARD])", func(s string) error {
		_, err := units.ParseUlimit(s)
		o.Ulimits = append(o.Ulimits, s)
		return err
	})
	r := &o.Resources
	size(fs, &r.Memory, "memory", "m", "memory limit", false)
	size(fs, &r.MemorySwap, "memory-swap", "", "swap limit equal to memory plus swap: '-1' to enable unlimited swap", true)
	size(fs, &r.MemoryReservation, "memory-reservation", "", "memory soft limit", false)
	value(fs, "cpus", "", "decimal", "number of CPUs", func(s string) error {
		n, err := parseCPUs(s)
		r.NanoCPUs = n
		return err
	})
	fs.Uint64VarP(&r.CPUShares, "cpu-shares", "c", 0, "CPU shares (relative weight)")
	fs.Uint64Var(&r.CPUPeriod, "cpu-period", 0, "limit CPU CFS (Completely Fair Scheduler) period")
	fs.Int64Var(&r.CPUQuota, "cpu-quota", 0, "limit CPU CFS (Completely Fair Scheduler) quota")
	fs.StringVar(&r.CPUSetCPUs, "cpuset-cpus", "", "CPUs in which to allow execution (0-3, 0,1)")
	fs.StringVar(&r.CPUSetMems, "cpuset-mems", "", "MEMs in which to allow execution (0-3, 0,1)")
	value(fs, "pids-limit", "", "int", "tune container pids limit (-1 for unlimited)", func(s string) error {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return fmt.Errorf("%q is not a number", s)
		}
		r.PidsLimit = &n
		return nil
	})
	fs.Uint16Var(&r.BlkioWeight, "blkio-weight", 0, "block IO (relative weight), between 10 and 1000, or 0 to disable")
	fs.BoolVar(&r.OOMKillDisable, "oom-kill-disable", false, "disable OOM killer")
	value(fs, "oom-score-adj", "", "int", "tune host's OOM preferences (-1000 to 1000)", func(s string) error {
		n, err := strconv.Atoi(s)
		if err != nil || n < -1000 || n > 1000 {
			return fmt.Errorf("invalid value %s, range for oom score adj is [-1000, 1000]", s)
		}
		o.OOMScore = &n
		return nil
	})
}

// parseCPUs takes a decimal of at most nine places.
func parseCPUs(s string) (int64, error) {
	r, ok := new(big.Rat).SetString(s)
	if !ok || strings.ContainsAny(s, "/eEpPxX_") {
		return 0, fmt.Errorf("failed to parse %s as a rational number", s)
	}
	r.Mul(r, big.NewRat(1e9, 1))
	if !r.IsInt() || !r.Num().IsInt64() {
		return 0, fmt.Errorf("value is too precise")
	}
	return r.Num().Int64(), nil
}
