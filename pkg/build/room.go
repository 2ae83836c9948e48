package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"
	"syscall"

	"go.podman.io/storage"
	"go.podman.io/storage/pkg/regexp"
	"go.podman.io/storage/pkg/unshare"
	"golang.org/x/sys/unix"

	"github.com/balena-os/balena/pkg/runtime"
	"github.com/balena-os/balena/pkg/store"
	"github.com/balena-os/balena/pkg/userns"
)

// A build's folders are ROOT/build: what lies there for one build (its context
// from stdin, its bundles, layers on their way to the store) has a name that
// ends with nothing to be kept; buildah-cache-UID is what RUN
// --mount=type=cache keeps.

// envEntered says that the process is in its own mount namespace.
const envEntered = "_BALENA_BUILD_ENTERED"

// suffix is what the names of our working containers end with, in containers/
// storage. Engines that share the store keep theirs.
const suffix = "balena-build"

// cachePrefix is how the folders of RUN --mount=type=cache begin.
const cachePrefix = "buildah-cache-"

var workingName = regexp.Delayed(`(^|-)` + suffix + `(-[0-9]+)?$`)

// Enter gives the process a mount namespace of its own and executes it anew
// with argv, its own arguments: the layers that a build mounts are then nobody
// else's, and go with it however it ends. It must be called before there are
// side effects; in the process that it executed it does nothing.
func Enter(st *store.Store, argv []string) error {
	if held, ok := os.LookupEnv(envEntered); ok {
		if fd, err := strconv.Atoi(held); err == nil {
			unix.CloseOnExec(fd)
		}
		return os.Unsetenv(envEntered)
	}
	dir := roomDir(st)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	goruntime.LockOSThread() // never unlocked: the thread becomes the process
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("making a mount namespace for the build: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("making a mount namespace for the build: %w", err)
	}
	held := ""
	if keep := userns.Keep(); keep != nil {
		if _, err := unix.FcntlInt(keep.Fd(), unix.F_SETFD, 0); err != nil {
			return fmt.Errorf("keeping the user namespace: %w", err)
		}
		held = strconv.Itoa(int(keep.Fd()))
	}
	err := syscall.Exec("/proc/self/exe", argv, append(os.Environ(), envEntered+"="+held, "TMPDIR="+dir))
	return fmt.Errorf("executing myself in the build's mount namespace: %w", err)
}

func roomDir(st *store.Store) string { return filepath.Join(st.Root(), "build") }

// room is where builds work in one store.
type room struct {
	dir     string // on the disk that the layers lie on
	runtime string // state of the OCI runtime
	lock    *os.File
}

// enterRoom makes the folders and holds them. What killed builds left is
// removed when no other build is at work.
func enterRoom(ctx context.Context, st *store.Store, layers storage.Store) (*room, error) {
	r := &room{dir: roomDir(st), runtime: filepath.Join(st.TmpDir(), "build-runc")}
	if err := os.MkdirAll(r.dir, 0o711); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(r.dir, "lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	r.lock = f
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
		if err := r.sweep(layers); err != nil {
			f.Close()
			return nil, fmt.Errorf("removing what a killed build left: %w", err)
		}
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_SH)
		if err == nil {
			return r, nil
		}
		if !errors.Is(err, unix.EINTR) || ctx.Err() != nil {
			f.Close()
			return nil, fmt.Errorf("locking %s: %w", f.Name(), err)
		}
	}
}

// tempDir makes dir the folder of buildah's temporary files, which it takes from
// TMPDIR. What RUN --mount=type=cache keeps is looked for there, too, and is
// that of all builds. Root of a user namespace of its own must get to the
// rootfs that is mounted there: one can pass through, and list nothing.
func (r *room) tempDir(dir string) error {
	for _, d := range []string{r.dir, dir} {
		if err := os.Chmod(d, 0o711); err != nil {
			return err
		}
	}
	name := cachePrefix + strconv.Itoa(unshare.GetRootlessUID())
	if err := os.Symlink(filepath.Join(r.dir, name), filepath.Join(dir, name)); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(r.dir, name), 0o755); err != nil {
		return err
	}
	return os.Setenv("TMPDIR", dir)
}

func (r *room) leave() { r.lock.Close() }

// sweep removes what no build will finish: processes, working containers,
// files.
func (r *room) sweep(layers storage.Store) error {
	states, err := os.ReadDir(r.runtime)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, s := range states {
		if !s.IsDir() { // the runtime's cache
			continue
		}
		if err := runtime.Delete(r.runtime, s.Name(), true); err != nil {
			return err
		}
	}
	all, err := layers.Containers()
	if err != nil {
		return err
	}
	for _, c := range all {
		for _, n := range c.Names {
			if workingName.MatchString(n) {
				if err := layers.DeleteContainer(c.ID); err != nil && !errors.Is(err, storage.ErrContainerUnknown) {
					return fmt.Errorf("removing container %s: %w", n, err)
				}
				break
			}
		}
	}
	files, err := os.ReadDir(r.dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		if f.Name() == "lock" || strings.HasPrefix(f.Name(), cachePrefix) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(r.dir, f.Name())); err != nil {
			return err
		}
	}
	return nil
}
