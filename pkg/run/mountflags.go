package run

import (
	"encoding/csv"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	units "github.com/docker/go-units"
	"go.podman.io/storage/pkg/regexp"

	"github.com/balena-os/balena/pkg/store"
)

// Options of a store.Mount that are ours and not the kernel's.
const (
	mountCreate = "create"   // make the missing source folder, as docker does for -v
	mountNoCopy = "nocopy"   // leave an empty volume empty
	mountChown  = "U"        // give the source to the container's user
	subpathOpt  = "subpath=" // a folder in the volume
)

var volumeName = regexp.Delayed(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`)

func cleanTarget(t string) string { return filepath.Clean("/" + t) }

// ParseVolume reads what -v takes: [SOURCE:]TARGET[:OPTION,...]. A source with
// a slash in front, or with a dot in front, is a path of the host (the latter
// relative to ours), any other is a volume's name; none is an anonymous
// volume. ErrOptions.
func ParseVolume(s string) (store.Mount, error) {
	fail := func(format string, args ...any) (store.Mount, error) {
		return store.Mount{}, conflictf(format, args...)
	}
	parts := strings.Split(s, ":")
	var m store.Mount
	var opts string
	switch len(parts) {
	case 1:
		m.Target = parts[0]
	case 2:
		m.Source, m.Target = parts[0], parts[1]
		if m.Source == "" {
			return fail("empty section between colons")
		}
	case 3:
		m.Source, m.Target, opts = parts[0], parts[1], parts[2]
		if m.Source == "" || opts == "" {
			return fail("empty section between colons")
		}
	default:
		return fail("want [SOURCE:]TARGET[:OPTIONS]")
	}
	if err := setTarget(&m, m.Target); err != nil {
		return fail("%v", err)
	}
	switch {
	case strings.HasPrefix(m.Source, "/"), strings.HasPrefix(m.Source, "."), strings.HasPrefix(m.Source, "~"):
		abs, err := filepath.Abs(m.Source)
		if err != nil {
			return fail("%v", err)
		}
		m.Type, m.Source, m.Options = "bind", abs, []string{mountCreate}
	case m.Source != "" && !volumeName.MatchString(m.Source):
		return fail("%q includes invalid characters for a volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed: if you intended to pass a host directory, use an absolute path", m.Source)
	default:
		m.Type = "volume"
	}
	if opts != "" {
		for o := range strings.SplitSeq(opts, ",") {
			if err := addVolumeOption(&m, o); err != nil {
				return fail("%v", err)
			}
		}
	}
	return m, nil
}

func setTarget(m *store.Mount, t string) error {
	if !filepath.IsAbs(t) {
		return fmt.Errorf("invalid mount path '%s': it must be absolute", t)
	}
	if strings.ContainsRune(t, 0) {
		return fmt.Errorf("invalid mount path: '%q'", t)
	}
	if m.Target = filepath.Clean(t); m.Target == "/" {
		return fmt.Errorf("destination can't be '/'")
	}
	return nil
}

// mountGroups are sets of options of which a mount has at most one.
var mountGroups = [][]string{
	{"ro", "rw", "rro"},
	{"shared", "rshared", "slave", "rslave", "private", "rprivate", "unbindable", "runbindable"},
	{"bind", "rbind"},
	{"exec", "noexec"},
	{"suid", "nosuid"},
	{"dev", "nodev"},
	{"z", "Z"},
	{mountNoCopy, "copy"},
	{"U"},
	{"cached", "delegated", "consistent"},
}

// addVolumeOption takes one of -v's options.
func addVolumeOption(m *store.Mount, o string) error {
	for _, group := range mountGroups {
		if !slices.Contains(group, o) {
			continue
		}
		for _, other := range group {
			if slices.Contains(m.Options, other) || (group[0] == "ro" && m.ReadOnly) {
				return fmt.Errorf("invalid mode: %s contradicts or repeats another option", o)
			}
		}
		switch {
		case o == "ro":
			m.ReadOnly = true
		case o == "copy", o == "cached", o == "delegated", o == "consistent":
			// docker's defaults and hints for other systems
		case o == mountNoCopy && m.Type == "bind":
			return fmt.Errorf("invalid mode: nocopy is for volumes")
		default:
			m.Options = append(m.Options, o)
			m.ReadOnly = m.ReadOnly || o == "rro"
		}
		return nil
	}
	return fmt.Errorf("invalid mode: %s", o)
}

// ParseTmpfs reads what --tmpfs takes: TARGET[:OPTION,...]. ErrOptions.
func ParseTmpfs(s string) (store.Mount, error) {
	target, opts, _ := strings.Cut(s, ":")
	m := store.Mount{Type: "tmpfs"}
	if err := setTarget(&m, target); err != nil {
		return m, conflictf("%v", err)
	}
	if opts == "" {
		return m, nil
	}
	for o := range strings.SplitSeq(opts, ",") {
		if err := addTmpfsOption(&m, o); err != nil {
			return m, conflictf("%v", err)
		}
	}
	return m, nil
}

var tmpfsFlags = []string{
	"rw", "exec", "noexec", "suid", "nosuid", "dev", "nodev", "sync", "async", "dirsync", "atime", "noatime",
	"diratime", "nodiratime", "relatime", "norelatime", "strictatime", "nostrictatime", "mand", "nomand",
	"private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable",
	"tmpcopyup", "notmpcopyup", "U", "size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol",
}

func addTmpfsOption(m *store.Mount, o string) error {
	key, val, hasVal := strings.Cut(o, "=")
	switch {
	case o == "ro":
		m.ReadOnly = true
		return nil
	case !slices.Contains(tmpfsFlags, key):
		return fmt.Errorf("unknown option %q", o)
	}
	switch key {
	case "size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol":
		if val == "" {
			return fmt.Errorf("%s needs a value", key)
		}
	default:
		if hasVal {
			return fmt.Errorf("%s takes no value", key)
		}
	}
	m.Options = append(m.Options, o)
	return nil
}

// ParseMount reads what --mount takes: comma-separated KEY=VALUE pairs in
// docker's CSV syntax, with its keys, and a few of podman's. ErrOptions.
func ParseMount(s string) (store.Mount, error) {
	m := store.Mount{Type: "volume"}
	fields, err := csv.NewReader(strings.NewReader(strings.TrimSpace(s))).Read()
	if err != nil {
		return m, conflictf("value is empty or not CSV")
	}
	p := mountParser{m: &m}
	for _, f := range fields {
		if err := p.field(f); err != nil {
			return m, conflictf("%v", err)
		}
	}
	if err := p.finish(); err != nil {
		return m, conflictf("%v", err)
	}
	return m, nil
}

type mountParser struct {
	m      *store.Mount
	tmpfs  []string // options that only a tmpfs takes
	bind   []string // or a bind mount
	volume []string // or a volume
	create bool
}

var mountBools = []string{"readonly", "ro", "rw", "volume-nocopy", "bind-create-src", "bind-nonrecursive", "u", "chown", "exec", "noexec", "suid", "nosuid", "dev", "nodev", "z"}

func (p *mountParser) field(f string) error {
	key, val, hasVal := strings.Cut(f, "=")
	if strings.TrimSpace(key) != key || (hasVal && strings.TrimSpace(val) != val) {
		return fmt.Errorf("invalid option in '%s': white space around the key or the value", f)
	}
	key = strings.ToLower(key)
	if !hasVal && !slices.Contains(mountBools, key) {
		return fmt.Errorf("invalid field '%s' must be a key=value pair", f)
	}
	if hasVal && val == "" {
		return fmt.Errorf("invalid value for '%s': value is empty", key)
	}
	on := true
	if slices.Contains(mountBools, key) && hasVal {
		var err error
		if on, err = strconv.ParseBool(val); err != nil {
			return fmt.Errorf("invalid value for '%s': invalid boolean value (%q): must be one of \"true\", \"1\", \"false\", or \"0\" (default \"true\")", key, val)
		}
	}
	return p.set(key, val, on, f)
}

func (p *mountParser) set(key, val string, on bool, f string) error {
	m := p.m
	switch key {
	case "type":
		m.Type = strings.ToLower(val)
	case "source", "src":
		m.Source = val
	case "target", "dst", "destination":
		return setTarget(m, val)
	case "readonly", "ro":
		m.ReadOnly = on
	case "rw":
		m.ReadOnly = !on
	case "consistency", "z", "relabel":
	case "u", "chown":
		if on {
			m.Options = append(m.Options, mountChown)
		}
	case "exec", "noexec", "suid", "nosuid", "dev", "nodev":
		if !on {
			return fmt.Errorf("invalid value for '%s': give the opposite option instead", key)
		}
		m.Options = append(m.Options, key)
	case "bind-propagation":
		if !slices.Contains(mountGroups[1], val) {
			return fmt.Errorf("invalid propagation %q", val)
		}
		p.bind = append(p.bind, val)
	case "bind-nonrecursive":
		if on {
			p.bind = append(p.bind, "bind")
		}
	case "bind-recursive":
		return p.recursive(val)
	case "bind-create-src":
		p.create = on
		p.bind = append(p.bind, "")
	case "volume-nocopy":
		if on {
			p.volume = append(p.volume, mountNoCopy)
		}
	case "volume-subpath":
		if !filepath.IsLocal(val) {
			return fmt.Errorf("invalid value for volume-subpath: %q leads out of the volume", val)
		}
		p.volume = append(p.volume, subpathOpt+val)
	case "volume-label":
		p.volume = append(p.volume, "")
	case "volume-driver":
		if val != "local" {
			return fmt.Errorf("volume driver %q: only local exists", val)
		}
		p.volume = append(p.volume, "")
	case "tmpfs-size":
		n, err := units.RAMInBytes(val)
		if err != nil || n < 0 {
			return fmt.Errorf("invalid value for %s: %s", key, val)
		}
		p.tmpfs = append(p.tmpfs, "size="+strconv.FormatInt(n, 10))
	case "tmpfs-mode":
		n, err := strconv.ParseUint(val, 8, 12)
		if err != nil {
			return fmt.Errorf("invalid value for %s: %s", key, val)
		}
		p.tmpfs = append(p.tmpfs, "mode="+strconv.FormatUint(n, 8))
	default:
		return fmt.Errorf("unknown option '%s' in '%s'", key, f)
	}
	return nil
}

func (p *mountParser) recursive(val string) error {
	switch val {
	case "enabled", "writable":
		p.bind = append(p.bind, "")
	case "disabled":
		p.bind = append(p.bind, "bind")
	case "readonly":
		p.bind = append(p.bind, "rro")
	default:
		return fmt.Errorf(`invalid value for bind-recursive: %s (must be "enabled", "disabled", "writable", or "readonly")`, val)
	}
	return nil
}

func (p *mountParser) finish() error {
	m := p.m
	switch {
	case m.Target == "":
		return fmt.Errorf("target is required")
	case m.Type != "bind" && p.bind != nil:
		return fmt.Errorf("cannot mix 'bind-*' options with mount type '%s'", m.Type)
	case m.Type != "volume" && p.volume != nil:
		return fmt.Errorf("cannot mix 'volume-*' options with mount type '%s'", m.Type)
	case m.Type != "tmpfs" && p.tmpfs != nil:
		return fmt.Errorf("cannot mix 'tmpfs-*' options with mount type '%s'", m.Type)
	}
	m.Options = append(m.Options, p.bind...)
	m.Options = append(m.Options, p.volume...)
	m.Options = append(m.Options, p.tmpfs...)
	m.Options = slices.DeleteFunc(m.Options, func(o string) bool { return o == "" })
	switch m.Type {
	case "bind":
		if m.Source == "" {
			return fmt.Errorf("source is required for a bind mount")
		}
		abs, err := filepath.Abs(m.Source)
		if err != nil {
			return err
		}
		m.Source = abs
		if slices.Contains(m.Options, "rro") && !m.ReadOnly {
			return fmt.Errorf("option 'bind-recursive=readonly' requires 'readonly' to be specified in conjunction")
		}
		if p.create {
			m.Options = append(m.Options, mountCreate)
		}
	case "volume":
		if m.Source != "" && !volumeName.MatchString(m.Source) {
			return fmt.Errorf("%q is no volume name: want [a-zA-Z0-9][a-zA-Z0-9_.-]", m.Source)
		}
	case "tmpfs":
		if m.Source != "" {
			return fmt.Errorf("a tmpfs has no source")
		}
	default:
		return fmt.Errorf("mount type %q is not bind, volume or tmpfs", m.Type)
	}
	return nil
}
