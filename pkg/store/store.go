package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"go.podman.io/storage"
	"golang.org/x/sys/unix"
)

// Options say where the state lies. Paths are absolute; all must be set
// (DefaultOptions does it) but Driver, which is chosen when empty.
type Options struct {
	Root          string   // database, layers, images, logs, volumes: survives a reboot
	RunRoot       string   // what runs now: lost at a reboot, best on tmpfs
	TmpDir        string   // bundles, sockets and the runtime's state; RunRoot when empty
	Driver        string   // containers/storage graph driver; "" chooses overlay, else vfs
	DriverOptions []string // KEY=VALUE, as storage.conf and podman's --storage-opt have them
	Warn          func(msg string)
}

// DefaultOptions gives the paths of root (uid 0) or of an unprivileged user.
// Without XDG_RUNTIME_DIR the user's runtime files go to a folder of mode 0700
// under /tmp. uid is the user's on the host, not the one in a user namespace.
func DefaultOptions(uid int, getenv func(string) string) (Options, error) {
	if uid == 0 {
		return Options{Root: "/var/lib/balena", RunRoot: "/run/balena"}, nil
	}
	data := getenv("XDG_DATA_HOME")
	if data == "" {
		home := getenv("HOME")
		if home == "" {
			return Options{}, errors.New("neither XDG_DATA_HOME nor HOME is set: set HOME, or name the folders with --root and --runroot")
		}
		data = filepath.Join(home, ".local", "share")
	}
	o := Options{Root: filepath.Join(data, "balena"), RunRoot: fmt.Sprintf("/tmp/balena-run-%d", uid)}
	if run := getenv("XDG_RUNTIME_DIR"); run != "" {
		// A stale variable (after su, in a cron job) must not stop the engine.
		if st, err := os.Stat(run); err == nil && st.IsDir() && unix.Access(run, unix.W_OK) == nil {
			o.RunRoot = filepath.Join(run, "balena")
		}
	}
	return o, nil
}

// Store is the engine's state. It is safe for use by several goroutines; it
// holds no lock and no open file between calls, but the containers/storage
// handle once Layers was called.
type Store struct {
	o      Options
	once   sync.Once
	layers storage.Store
	err    error
}

// Open makes the folders where they are missing and returns the store. It
// reads nothing, so it is cheap for commands that need only the paths.
func Open(o Options) (*Store, error) {
	if o.TmpDir == "" {
		o.TmpDir = o.RunRoot
	}
	if o.Warn == nil {
		o.Warn = func(string) {}
	}
	for _, d := range []struct {
		path string
		mode os.FileMode
	}{{o.Root, 0o711}, {o.RunRoot, 0o711}, {o.TmpDir, 0o711}} {
		if !filepath.IsAbs(d.path) {
			return nil, fmt.Errorf("storage folder %q is not an absolute path", d.path)
		}
		if err := makeDir(d.path, d.mode); err != nil {
			return nil, err
		}
	}
	return &Store{o: o}, nil
}

// makeDir makes a folder and refuses one in a shared place that somebody else
// owns: whoever owns the folder could replace what the engine trusts in it.
func makeDir(path string, mode os.FileMode) error {
	if err := os.MkdirAll(path, mode); err != nil {
		return fmt.Errorf("making the storage folder: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return fmt.Errorf("looking at the storage folder %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		if filepath.Dir(path) == "/tmp" {
			return fmt.Errorf("%s is a symbolic link: refusing to follow it, remove it or use --runroot", path)
		}
		return nil
	}
	if euid := os.Geteuid(); int(st.Uid) != euid {
		return fmt.Errorf("storage folder %s belongs to uid %d, not to uid %d: use --root and --runroot to name others", path, st.Uid, euid)
	}
	return nil
}

// Root is the folder whose content survives a reboot.
func (s *Store) Root() string { return s.o.Root }

// RunRoot is the folder whose content is lost at a reboot.
func (s *Store) RunRoot() string { return s.o.RunRoot }

// RuntimeRoot is the folder of the OCI runtime's own state (runc's --root).
func (s *Store) RuntimeRoot() string { return filepath.Join(s.o.TmpDir, "runc") }

// NetworkRunDir is where the network keeps what a reboot may forget.
func (s *Store) NetworkRunDir() string { return filepath.Join(s.o.TmpDir, "netns") }

// BundleDir is the folder of a container's OCI bundle and sockets.
func (s *Store) BundleDir(id string) string { return filepath.Join(s.o.TmpDir, "containers", id) }

// ContainerDir is the folder of a container's logs.
func (s *Store) ContainerDir(id string) string { return filepath.Join(s.o.Root, "containers", id) }

// VolumeDir is the folder that a named volume's content lies in.
func (s *Store) VolumeDir(name string) string {
	return filepath.Join(s.o.Root, "volumes", name, "_data")
}

// Flags gives the command-line flags under which another process of ours
// opens the same store.
func (s *Store) Flags() []string {
	f := []string{"--root", s.o.Root, "--runroot", s.o.RunRoot, "--tmpdir", s.o.TmpDir}
	if s.o.Driver != "" {
		f = append(f, "--storage-driver", s.o.Driver)
	}
	for _, opt := range s.o.DriverOptions {
		f = append(f, "--storage-opt", opt)
	}
	return f
}

// Close releases the containers/storage handle. Mounts stay.
func (s *Store) Close() error {
	if s.layers == nil {
		return nil
	}
	s.layers.Free()
	return nil
}

// TmpDir is the folder that RuntimeRoot, NetworkRunDir and BundleDir lie in.
func (s *Store) TmpDir() string { return s.o.TmpDir }
