package netns

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/balena-os/balena/pkg/store"
)

// The modes of a container's network. Further names are reserved for networks
// of the user's.
const (
	ModeBridge = "bridge" // the default: an own namespace with outbound access
	ModeNone   = "none"   // an own namespace with nothing but a loopback interface
	ModeHost   = "host"   // the host's namespace
	ModePath   = "ns:"    // followed by a path: a namespace that exists already
)

// Errors of Setup that callers tell apart.
var (
	ErrPortInUse  = errors.New("port is already in use")
	ErrPrivileged = errors.New("port may not be opened by an unprivileged user")
	ErrNoHelper   = errors.New("no network helper is installed")
	ErrMode       = errors.New("unknown network mode")
	ErrNoAddress  = errors.New("no free address is left")
)

// Options ask for one container's network. Only ID and RunDir must be set.
type Options struct {
	ID         string              // the container's ID, which all that is made is tagged with
	RunDir     string              // RUNROOT/netns: leases and states, gone after a reboot
	Mode       string              // one of the modes above; "" is bridge
	Ports      []store.PortMapping // ParsePorts; ignored by the modes other than bridge, as docker does
	MacAddress string              // of eth0; "" is derived from the address
	MTU        int                 // 0 is that of the host's default route
	Rootless   bool                // uid 0 of a user namespace, in the host's network namespace

	// Of the bridge, and only read when it does not exist yet.
	Bridge string // "" is balena0, or a name of its own for a RunDir that is not the default
	Subnet string // "" is 10.87.0.0/16, or the next that the host does not use

	// Of the rootless helper.
	Helper string   // "pasta" or "slirp4netns", by name or path; "" is the first that is installed
	Exe    string   // what provides the stage balena-netns; "" is /proc/self/exe
	Env    []string // of the helper; nil is ours
}

// State is what is known of a network that was set up, to be kept as JSON.
type State struct {
	Mode       string
	IPAddress  string              `json:",omitempty"` // in the container
	PrefixLen  int                 `json:",omitempty"`
	Gateway    string              `json:",omitempty"`
	MacAddress string              `json:",omitempty"`
	Interface  string              `json:",omitempty"` // in the container
	MTU        int                 `json:",omitempty"`
	HostLink   string              `json:",omitempty"` // the host's end
	Bridge     string              `json:",omitempty"`
	Helper     string              `json:",omitempty"` // "pasta" or "slirp4netns"
	Helpers    []Process           `json:",omitempty"` // the stage balena-netns and the helper
	DNS        []string            `json:",omitempty"` // forwarders that the helper provides
	HostAddr   string              `json:",omitempty"` // what host-gateway stands for; "" is nothing
	Ports      []store.PortMapping `json:",omitempty"` // with every port known
}

// Network is a container's network as its processes get it.
//
// NS is nil for the host's. Keep are files whose being open keeps the network
// alive: the lock of the state, the sockets that reserve published ports, the
// life line of the helper. The monitor inherits NS and Keep, closed on exec,
// and never reads or writes them; the command closes its own copies with
// Close once the monitor has them.
type Network struct {
	State
	NS   *os.File
	Keep []*os.File
}

// Close closes this process's copies of the files. Without a monitor that
// holds others this ends the network, but for what Teardown removes.
func (n *Network) Close() error {
	var errs []error
	if n.NS != nil {
		errs = append(errs, n.NS.Close())
	}
	for _, f := range n.Keep {
		errs = append(errs, f.Close())
	}
	n.NS, n.Keep = nil, nil
	return errors.Join(errs...)
}

// Setup makes the network of a container that is about to start. A network
// that the same ID had before is torn down first. When it fails, nothing is
// left.
func Setup(ctx context.Context, o Options) (*Network, error) {
	if o.ID == "" || o.RunDir == "" {
		return nil, errors.New("netns: ID and RunDir must be set")
	}
	if o.Mode == "" || o.Mode == "default" {
		o.Mode = ModeBridge
	}
	n := &Network{State: State{Mode: o.Mode}}
	var err error
	switch {
	case o.Mode == ModeHost:
		n.HostAddr = "127.0.0.1"
		return n, nil
	case o.Mode == ModeNone:
		n.NS, err = newNamespace(false, nil)
	case strings.HasPrefix(o.Mode, ModePath):
		n.NS, err = openNamespace(strings.TrimPrefix(o.Mode, ModePath))
	case o.Mode == ModeBridge || o.Mode == "pasta" || o.Mode == "slirp4netns":
		if o.Mode != ModeBridge {
			if !o.Rootless {
				return nil, fmt.Errorf("%w %q: only for unprivileged users; root has none, host and bridge", ErrMode, o.Mode)
			}
			o.Helper = o.Mode
		}
		err = n.setupOwn(ctx, o)
	default:
		return nil, fmt.Errorf("%w %q: there are none, host and bridge", ErrMode, o.Mode)
	}
	if err != nil {
		return nil, fmt.Errorf("setting up network %q: %w", o.Mode, err)
	}
	return n, nil
}

func (n *Network) setupOwn(ctx context.Context, o Options) (err error) {
	if err := os.MkdirAll(o.RunDir, 0o700); err != nil {
		return err
	}
	lock, err := holdState(ctx, o.RunDir, o.ID)
	if err != nil {
		return err
	}
	n.Keep = append(n.Keep, lock)
	defer func() {
		if err != nil {
			_ = Teardown(context.WithoutCancel(ctx), o.RunDir, o.ID)
			_ = n.Close()
		}
	}()
	if old, err := readState(o.RunDir, o.ID); err != nil || old.Mode != "" {
		if err := teardown(ctx, o.RunDir, o.ID, old); err != nil {
			return err
		}
	}
	if err := writeState(lock, n.State); err != nil {
		return err
	}
	if o.Rootless {
		err = n.setupHelper(ctx, o)
	} else {
		err = n.setupBridge(ctx, o)
	}
	if err != nil {
		return err
	}
	return writeState(lock, n.State)
}

// Teardown removes what the kernel does not remove by itself: the firewall
// rules, the address lease, the helper and the state. It is idempotent, and
// fine to call for a container that has none of it. The namespace itself goes
// when the last file and process in it do.
func Teardown(ctx context.Context, runDir, id string) error {
	st, err := readState(runDir, id)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		// Written halfway: what it says is not needed to find what is tagged.
		st = State{}
	}
	if err := teardown(ctx, runDir, id, st); err != nil {
		return fmt.Errorf("removing the network of container %s: %w", id, err)
	}
	return removeState(runDir, id)
}

func teardown(ctx context.Context, runDir, id string, st State) error {
	err := stopHelper(ctx, runDir, id, st)
	return errors.Join(err, releaseBridge(runDir, id, st))
}

// Sweep tears down the networks that nobody holds any more: no command or
// monitor has the network's files open, and live, asked with the container's
// ID, says that its processes are gone too. It returns the IDs of those that
// it removed.
func Sweep(ctx context.Context, runDir string, live func(id string) bool) ([]string, error) {
	ids, err := stateIDs(runDir)
	if err != nil {
		return nil, err
	}
	var gone []string
	var errs []error
	for _, id := range ids {
		// Holding the state ourselves keeps off a Setup of the same ID.
		f, err := tryHoldState(runDir, id, 0)
		if err != nil || f == nil {
			continue
		}
		if live == nil || !live(id) {
			if err := Teardown(ctx, runDir, id); err != nil {
				errs = append(errs, err)
			} else {
				gone = append(gone, id)
			}
		}
		_ = f.Close()
	}
	if err := sweepBridge(runDir); err != nil {
		errs = append(errs, err)
	}
	return gone, errors.Join(errs...)
}

// Load gives the state of a network that was set up; os.ErrNotExist when
// there is none.
func Load(runDir, id string) (State, error) { return readState(runDir, id) }

// The state of container ID is the file RUNDIR/ID.json. Setup creates and
// locks it before anything else, and the lock (flock, which goes with the open
// file and so to the monitor) says that the network is held.

func statePath(runDir, id string) string { return filepath.Join(runDir, id+".json") }

// holdState opens and locks the state of a container, making it if need be. It
// waits for a sweep, or for what is left of the container's last run.
func holdState(ctx context.Context, runDir, id string) (*os.File, error) {
	for end := time.Now().Add(5 * time.Second); ; {
		f, err := tryHoldState(runDir, id, os.O_CREATE)
		if err != nil || f != nil {
			return f, err
		}
		if ctx.Err() != nil || time.Now().After(end) {
			return nil, fmt.Errorf("the network of container %s is held by another process", id)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// tryHoldState gives nil if another process holds the state.
func tryHoldState(runDir, id string, create int) (*os.File, error) {
	path := statePath(runDir, id)
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_CLOEXEC|create, 0o600)
	if err != nil {
		return nil, err
	}
	if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
		// Whoever held it may have removed it.
		var ours, there unix.Stat_t
		if unix.Fstat(int(f.Fd()), &ours) == nil && unix.Stat(path, &there) == nil && ours.Ino == there.Ino {
			return f, nil
		}
		err = unix.EWOULDBLOCK
	}
	_ = f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EINTR) {
		err = nil
	}
	return nil, err
}

// writeState overwrites in one write; a reader that meets half of it gets an
// error and treats the state as empty.
func writeState(f *os.File, st State) error {
	b, err := json.Marshal(st)
	if err != nil {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err = f.WriteAt(append(b, '\n'), 0)
	return err
}

func readState(runDir, id string) (State, error) {
	var st State
	b, err := os.ReadFile(statePath(runDir, id))
	if err != nil {
		return st, err
	}
	if err := json.Unmarshal(b, &st); err != nil {
		return st, fmt.Errorf("network state of container %s: %w", id, err)
	}
	return st, nil
}

func removeState(runDir, id string) error {
	err := os.Remove(statePath(runDir, id))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

func stateIDs(runDir string) ([]string, error) {
	entries, err := os.ReadDir(runDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var ids []string
	for _, e := range entries {
		if id, ok := strings.CutSuffix(e.Name(), ".json"); ok && e.Name() != bridgeFile {
			ids = append(ids, id)
		}
	}
	return ids, err
}

func parseAddr(s string) netip.Addr {
	a, _ := netip.ParseAddr(s)
	return a
}
