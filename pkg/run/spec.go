package run

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/balena-os/balena/pkg/store"
)

const (
	defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	initPath    = "/run/balena-init" // where --init's PID 1 appears in the container
)

// specInput is all that an OCI spec is made from. The rootfs must be mounted,
// since users are looked up in it.
type specInput struct {
	C        *store.Container
	RootFS   string // where it is mounted
	Bundle   string // hosts, resolv.conf, hostname, passwd and group are mounted from here where they exist
	NetNS    string // path of the network namespace; "" is the host's
	Rootless bool   // we are uid 0 of a user's namespace, not of the host
	Cgroups  cgroupHost
	IDMaps   idMaps // of the container's own user namespace; empty is ours
	Exe      string // what to mount as --init's PID 1; "" is our own binary

	// Volume gives the folder of a named volume.
	Volume func(name string) (string, error)
	// Namespace gives the path of a running container's namespace (kind is
	// "pid" or "ipc"), for --pid and --ipc container:NAME.
	Namespace func(container, kind string) (string, error)
}

// specBuilder carries the spec and what its parts have to tell.
type specBuilder struct {
	specInput
	c        *store.Config
	spec     *specs.Spec
	sec      security
	user     execUser
	warnings []string
}

// build is the one place where an option becomes OCI runtime configuration.
// Warnings name what was asked for and cannot be had; ErrOptions is what
// cannot be done at all.
func (in specInput) build() (*specs.Spec, []string, error) {
	b := &specBuilder{specInput: in, c: &in.C.Config}
	b.spec = &specs.Spec{
		Version:     specs.Version,
		Root:        &specs.Root{Path: in.RootFS, Readonly: b.c.ReadOnly},
		Annotations: b.c.Annotations,
		Linux:       &specs.Linux{},
	}
	var err error
	if b.sec, err = parseSecurity(b.c.SecurityOpt); err != nil {
		return nil, nil, err
	}
	for _, part := range []func() error{
		b.process, b.namespaces, b.mounts, b.devices, b.hidden, b.sysctls, b.rlimits, b.resources, b.seccomp,
	} {
		if err := part(); err != nil {
			return nil, nil, err
		}
	}
	return b.spec, b.warnings, nil
}

func (b *specBuilder) warn(format string, args ...any) {
	b.warnings = append(b.warnings, fmt.Sprintf(format, args...))
}

// ownUserns says whether the container gets a user namespace of its own, and
// inUserns whether it is in any but the host's.
func (b *specBuilder) ownUserns() bool { return len(b.IDMaps.UID) > 0 }
func (b *specBuilder) inUserns() bool  { return b.Rootless || b.ownUserns() }
func (in *specInput) hostNet() bool    { return in.NetNS == "" }

// hostname is the one the container is told, also as HOSTNAME.
func (in *specInput) hostname() string {
	c := &in.C.Config
	switch {
	case c.Hostname != "":
		return c.Hostname
	case c.Uts == "host", in.hostNet():
		if h, err := os.Hostname(); err == nil {
			return h
		}
	}
	return in.C.ID[:min(12, len(in.C.ID))]
}

func (b *specBuilder) process() error {
	args := slices.Concat(b.c.Entrypoint, b.c.Cmd)
	if len(args) == 0 {
		return conflictf("no command specified: the image has none, name one after it")
	}
	if b.c.Init {
		args = append([]string{initPath, "--"}, args...)
	}
	who := b.c.User
	if who == "" {
		who = b.IDMaps.User // keep-id
	}
	var err error
	if b.user, err = lookupUser(b.RootFS, who, b.c.Groups); err != nil {
		return err
	}
	caps, err := capabilitySets(b.c, b.user.UID == 0)
	if err != nil {
		return err
	}
	cwd := b.c.WorkingDir
	if cwd == "" {
		cwd = "/"
	}
	umask := uint32(0o022)
	p := &specs.Process{
		Terminal:        b.c.Tty,
		User:            specs.User{UID: b.user.UID, GID: b.user.GID, AdditionalGids: b.user.Groups, Umask: &umask},
		Args:            args,
		Env:             b.env(),
		Cwd:             filepath.Clean("/" + cwd),
		Capabilities:    caps,
		NoNewPrivileges: b.sec.NoNewPrivs,
	}
	if b.sec.AppArmor != "unconfined" {
		p.ApparmorProfile = b.sec.AppArmor
	}
	b.spec.Process = p
	return b.oomScore()
}

// env is the container's environment with the variables that every container
// has, none of which replaces one that was asked for.
func (b *specBuilder) env() []string {
	always := []string{defaultPath, "container=balena", "HOSTNAME=" + b.hostname()}
	if b.c.Tty {
		always = append(always, "TERM=xterm")
	}
	env := mergeEnv(always, b.c.Env)
	if !slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, "HOME=") }) {
		env = append(env, "HOME="+b.user.Home)
	}
	return env
}

func (b *specBuilder) hidden() error {
	if !b.c.Privileged {
		b.spec.Linux.MaskedPaths, b.spec.Linux.ReadonlyPaths = b.sec.hiddenPaths()
	} else {
		b.spec.Linux.MaskedPaths = b.sec.Mask
	}
	return nil
}

func (b *specBuilder) seccomp() error {
	if b.c.Privileged && b.sec.Seccomp == "" {
		return nil
	}
	var err error
	b.spec.Linux.Seccomp, err = seccompProfile(b.sec.Seccomp, b.spec)
	return err
}
