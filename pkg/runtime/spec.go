package runtime

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/selinux/go-selinux"
	"golang.org/x/sys/unix"
)

// SpecFile is the name of the specification inside a bundle.
const SpecFile = "config.json"

// LoadSpec reads and checks the specification at path.
func LoadSpec(path string) (*specs.Spec, error) {
	var spec *specs.Spec
	if err := readJSON(path, &spec); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("JSON specification file %s not found", path)
	} else if err != nil {
		return nil, err
	}
	if spec == nil {
		return nil, errors.New("config cannot be null")
	}
	bindSysfs(spec)
	return spec, checkProcess(spec.Process)
}

// bindSysfs shows the host's /sys, read-only, to a container with a user
// namespace of its own in a network namespace that is there already: that
// belongs to another user namespace, and the kernel mounts its sysfs for nobody
// else.
func bindSysfs(spec *specs.Spec) {
	if spec.Linux == nil {
		return
	}
	var own, joined bool
	for _, ns := range spec.Linux.Namespaces {
		own = own || ns.Type == specs.UserNamespace && ns.Path == ""
		joined = joined || ns.Type == specs.NetworkNamespace && ns.Path != ""
	}
	for i, m := range spec.Mounts {
		if own && joined && m.Type == "sysfs" {
			spec.Mounts[i] = specs.Mount{Destination: m.Destination, Type: "bind", Source: "/sys", Options: []string{"rbind", "nosuid", "noexec", "nodev", "ro"}}
		}
	}
}

// LoadProcess reads and checks a process.json, the argument of exec.
func LoadProcess(path string) (*specs.Process, error) {
	var p specs.Process
	if err := readJSON(path, &p); err != nil {
		return nil, err
	}
	return &p, checkProcess(&p)
}

// NewSpec is the starter specification of `runc spec`: a shell on a terminal
// in rootfs. A rootless one has a user namespace that maps the caller to root.
func NewSpec(rootless bool) *specs.Spec {
	spec := specconv.Example()
	if rootless {
		specconv.ToRootless(spec)
	}
	return spec
}

func readJSON(path string, v any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return json.NewDecoder(f).Decode(v)
}

func checkProcess(p *specs.Process) error {
	switch {
	case p == nil:
		return errors.New("process property must not be empty")
	case p.Cwd == "":
		//lint:ignore ST1005 runc's words
		return errors.New("Cwd property must not be empty")
	case !filepath.IsAbs(p.Cwd):
		//lint:ignore ST1005 runc's words
		return errors.New("Cwd must be an absolute path")
	case len(p.Args) == 0:
		return errors.New("args must not be empty")
	case p.SelinuxLabel != "" && !selinux.GetEnabled():
		return errors.New("selinux label is specified in config, but selinux is disabled or not supported")
	}
	return nil
}

// notIn is the complement of a set. An ambient capability has to be inheritable
// too (capabilities(7)); libcontainer would warn of each that is not, at each
// start, and specifications of older podman and buildah are full of them.
func notIn(set []string) func(string) bool {
	return func(s string) bool { return !slices.Contains(set, s) }
}

// newProcess translates a process of the specification into libcontainer's.
func newProcess(p *specs.Process) (*libcontainer.Process, error) {
	lp := &libcontainer.Process{
		Args:            p.Args,
		Env:             p.Env,
		UID:             int(p.User.UID),
		GID:             int(p.User.GID),
		Cwd:             p.Cwd,
		Label:           p.SelinuxLabel,
		NoNewPrivileges: &p.NoNewPrivileges,
		AppArmorProfile: p.ApparmorProfile,
		Scheduler:       p.Scheduler,
		IOPriority:      p.IOPriority,
	}
	if s := p.ConsoleSize; s != nil {
		lp.ConsoleWidth, lp.ConsoleHeight = uint16(s.Width), uint16(s.Height)
	}
	if c := p.Capabilities; c != nil {
		lp.Capabilities = &configs.Capabilities{
			Bounding:    c.Bounding,
			Effective:   c.Effective,
			Inheritable: c.Inheritable,
			Permitted:   c.Permitted,
			Ambient:     slices.DeleteFunc(slices.Clone(c.Ambient), notIn(c.Inheritable)),
		}
	}
	for _, g := range p.User.AdditionalGids {
		lp.AdditionalGroups = append(lp.AdditionalGroups, int(g))
	}
	for _, r := range p.Rlimits {
		kind, ok := rlimitNumber(r.Type)
		if !ok {
			return nil, fmt.Errorf("wrong rlimit value: %s", r.Type)
		}
		lp.Rlimits = append(lp.Rlimits, configs.Rlimit{Type: kind, Hard: r.Hard, Soft: r.Soft})
	}
	var err error
	lp.CPUAffinity, err = configs.ConvertCPUAffinity(p.ExecCPUAffinity)
	return lp, err
}

func rlimitNumber(name string) (int, bool) {
	switch name {
	case "RLIMIT_AS":
		return unix.RLIMIT_AS, true
	case "RLIMIT_CORE":
		return unix.RLIMIT_CORE, true
	case "RLIMIT_CPU":
		return unix.RLIMIT_CPU, true
	case "RLIMIT_DATA":
		return unix.RLIMIT_DATA, true
	case "RLIMIT_FSIZE":
		return unix.RLIMIT_FSIZE, true
	case "RLIMIT_LOCKS":
		return unix.RLIMIT_LOCKS, true
	case "RLIMIT_MEMLOCK":
		return unix.RLIMIT_MEMLOCK, true
	case "RLIMIT_MSGQUEUE":
		return unix.RLIMIT_MSGQUEUE, true
	case "RLIMIT_NICE":
		return unix.RLIMIT_NICE, true
	case "RLIMIT_NOFILE":
		return unix.RLIMIT_NOFILE, true
	case "RLIMIT_NPROC":
		return unix.RLIMIT_NPROC, true
	case "RLIMIT_RSS":
		return unix.RLIMIT_RSS, true
	case "RLIMIT_RTPRIO":
		return unix.RLIMIT_RTPRIO, true
	case "RLIMIT_RTTIME":
		return unix.RLIMIT_RTTIME, true
	case "RLIMIT_SIGPENDING":
		return unix.RLIMIT_SIGPENDING, true
	case "RLIMIT_STACK":
		return unix.RLIMIT_STACK, true
	}
	return 0, false
}
