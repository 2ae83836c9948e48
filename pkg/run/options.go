package run

import (
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/balena-os/balena/pkg/store"
)

// Options ask for one new container. What the container keeps is in the
// embedded Config; the rest is of use to this one command only.
type Options struct {
	store.Config

	Name     string   // "" makes one up
	Image    string   // the reference as given
	Args     []string // after the image: the command's arguments
	Pull     string   // "missing" ("" too), "always" or "never"
	Quiet    bool     // no progress of a pull
	CIDFile  string   // where to write the ID; it must not exist
	Detach   bool     // run only
	NoSig    bool     // do not pass signals on
	Attach   []string // stdin, stdout, stderr; nil is what -i and -d say
	Detached string   // the key sequence that detaches
}

// ErrOptions is wrapped by what is said about options that contradict each
// other or cannot be met.
var ErrOptions = errors.New("invalid options")

// conflict is an ErrOptions that prints only what it has to say.
type conflict string

func (c conflict) Error() string        { return string(c) }
func (c conflict) Is(target error) bool { return target == ErrOptions }

func conflictf(format string, args ...any) error { return conflict(fmt.Sprintf(format, args...)) }

// Check finds options that contradict each other, in docker's words where it
// has some. Create calls it; ErrOptions.
func (o *Options) Check() error {
	c := &o.Config
	if o.AutoRemove && c.Restart.Name != "" && c.Restart.Name != "no" {
		return conflictf("conflicting options: cannot specify both --restart and --rm")
	}
	switch o.Pull {
	case "", "missing", "always", "never":
	default:
		return conflictf("invalid pull option: '%s': must be one of \"always\", \"missing\" or \"never\"", o.Pull)
	}
	switch c.Network {
	case "", "none", "host", "bridge", "pasta", "slirp4netns":
	default:
		return conflictf("network %s not found: use none, host or bridge", c.Network)
	}
	if c.Uts == "host" && (c.Hostname != "" || c.Domainname != "") {
		return conflictf("conflicting options: hostname and the UTS mode")
	}
	if err := checkResources(&c.Resources, runtime.NumCPU()); err != nil {
		return err
	}
	if _, err := capabilitySets(c, true); err != nil {
		return err
	}
	if _, err := parseSecurity(c.SecurityOpt); err != nil {
		return err
	}
	if _, err := parseUserns(c.Userns); err != nil {
		return err
	}
	if err := checkBinds(c.Mounts); err != nil {
		return err
	}
	return checkTargets(c.Mounts)
}

// checkTargets refuses two mounts at one place.
func checkTargets(mounts []store.Mount) error {
	seen := map[string]bool{}
	for _, m := range mounts {
		if seen[m.Target] {
			return conflictf("duplicate mount point: %s", m.Target)
		}
		seen[m.Target] = true
	}
	return nil
}

// ParseRestart reads --restart: no, always, unless-stopped or on-failure[:N].
// ErrOptions.
func ParseRestart(s string) (store.RestartPolicy, error) {
	name, max, ok := strings.Cut(s, ":")
	p := store.RestartPolicy{Name: name}
	switch name {
	case "no", "", "always", "unless-stopped":
		if ok && max != "0" {
			return p, conflictf("invalid restart policy: maximum retry count can only be used with 'on-failure'")
		}
	case "on-failure":
		if !ok {
			break
		}
		n, err := strconv.Atoi(max)
		if err != nil {
			return p, conflictf("invalid restart policy format: maximum retry count must be an integer")
		}
		if n < 0 {
			return p, conflictf("invalid restart policy: maximum retry count cannot be negative")
		}
		p.Max = n
	default:
		return p, conflictf("invalid restart policy: unknown policy '%s'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'", name)
	}
	return p, nil
}

// CheckSignal refuses what is neither the name of a signal, with or without
// SIG, nor its number. ErrOptions.
func CheckSignal(s string) error {
	if n, err := strconv.Atoi(s); err == nil {
		if n < 1 || n > 64 {
			return conflictf("invalid signal: %s", s)
		}
		return nil
	}
	name := "SIG" + strings.TrimPrefix(strings.ToUpper(s), "SIG")
	if base, num, ok := strings.Cut(strings.NewReplacer("+", " ", "-", " ").Replace(name), " "); ok {
		n, err := strconv.Atoi(num)
		if (base == "SIGRTMIN" || base == "SIGRTMAX") && err == nil && n >= 0 && n <= 30 {
			return nil
		}
	}
	if name == "SIGRTMIN" || name == "SIGRTMAX" || unix.SignalNum(name) != 0 {
		return nil
	}
	return conflictf("invalid signal: %s", s)
}
