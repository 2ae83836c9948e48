package userns

// #include "userns.h"
import "C"

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"go.podman.io/storage/pkg/idtools"
	"golang.org/x/sys/unix"
)

// Errors that Enter returns, each with what to install or set.
var (
	ErrNoSubIDs    = errors.New("no subordinate IDs")
	ErrNoNewuidmap = errors.New("newuidmap and newgidmap are not installed")
	ErrForbidden   = errors.New("this system does not let unprivileged users make user namespaces")
)

// containers/storage and containers/image ask these variables, not the kernel,
// whether they run for an unprivileged user.
const (
	envConfigured = "_CONTAINERS_USERNS_CONFIGURED"
	envUID        = "_CONTAINERS_ROOTLESS_UID"
	envGID        = "_CONTAINERS_ROOTLESS_GID"

	// Handed from Enter to the command that it executes anew, and to the holder.
	envDir  = "_BALENA_USERNS_DIR"
	envHold = "_BALENA_USERNS_HOLD"
)

func init() {
	if C.balena_userns_uid >= 0 {
		os.Setenv(envConfigured, "done")
		os.Setenv(envUID, strconv.Itoa(int(C.balena_userns_uid)))
		os.Setenv(envGID, strconv.Itoa(int(C.balena_userns_gid)))
		os.Unsetenv(envDir)
	}
}

// Rootless tells whether the engine works for an unprivileged user: the
// process is that user, or is in a namespace that was made for one.
func Rootless() bool { return HostUID() != 0 }

// Inside tells whether the process is in the user's namespace.
func Inside() bool { return os.Geteuid() == 0 && os.Getenv(envUID) != "" }

// HostUID is the user's ID outside the namespace.
func HostUID() int {
	if uid, err := strconv.Atoi(os.Getenv(envUID)); err == nil && os.Geteuid() == 0 {
		return uid
	}
	return os.Geteuid()
}

// Keep is the connection that keeps the namespace alive, for a process that
// outlives this one to inherit; nil when this process joined none. The caller
// does not close it.
func Keep() *os.File {
	if C.balena_userns_conn < 0 {
		return nil
	}
	return os.NewFile(uintptr(C.balena_userns_conn), "userns")
}

// Enter puts an unprivileged user's process into the namespace kept for
// runRoot, a folder that exists and is the user's. It executes the process
// anew with argv, its own arguments, so it must be called before there are side
// effects; for root, and for a process that is inside already, it does nothing.
func Enter(runRoot string, argv []string) error {
	if os.Geteuid() == 0 {
		return nil
	}
	if os.Getenv(envDir) != "" {
		return errors.New("the user namespace was made, but joining it failed")
	}
	if err := ensureHolder(runRoot); err != nil {
		return fmt.Errorf("making the user namespace: %w", err)
	}
	err := syscall.Exec("/proc/self/exe", argv, append(os.Environ(), envDir+"="+runRoot))
	return fmt.Errorf("executing myself in the user namespace: %w", err)
}

// ensureHolder starts a holder unless one answers. The lock keeps concurrent
// first commands from starting one each.
func ensureHolder(runRoot string) error {
	lock, err := os.OpenFile(filepath.Join(runRoot, "userns.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("locking %s: %w", lock.Name(), err)
	}
	dir, err := os.OpenFile(runRoot, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	if answers(dir) {
		return nil
	}
	return startHolder(dir)
}

func answers(dir *os.File) bool {
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(s)
	addr := &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/userns.sock", dir.Fd())}
	if unix.Connect(s, addr) != nil {
		return false
	}
	// A holder that is just exiting resets instead of sending.
	n, err := unix.Read(s, make([]byte, 1))
	return err == nil && n == 1
}

func startHolder(dir *os.File) error {
	uids, gids, err := subIDs()
	if err != nil {
		return err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "holder"), os.NewFile(uintptr(pair[1]), "holder")
	defer ours.Close()
	defer theirs.Close()
	cmd := &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{"balena-userns"},
		Env:         []string{envHold + "=1"},
		ExtraFiles:  []*os.File{theirs, dir},
		SysProcAttr: &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS},
	}
	if err := cmd.Start(); err != nil {
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EACCES) {
			return fmt.Errorf("%w: %w", ErrForbidden, err)
		}
		return err
	}
	theirs.Close()
	if err := mapAndRelease(cmd.Process.Pid, uids, gids, ours); err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return err
	}
	return cmd.Process.Release()
}

func mapAndRelease(pid int, uids, gids []idtools.IDMap, holder *os.File) error {
	if err := writeMap("newuidmap", pid, os.Getuid(), uids); err != nil {
		return err
	}
	if err := writeMap("newgidmap", pid, os.Getgid(), gids); err != nil {
		return err
	}
	if _, err := holder.Write([]byte{0}); err != nil {
		return err
	}
	if _, err := holder.Read(make([]byte, 1)); err != nil {
		return errors.New("the namespace's holder did not start")
	}
	return nil
}

// writeMap maps ID 0 to the user's own and the IDs from 1 to the subordinate
// ranges, in their order.
func writeMap(tool string, pid, own int, ranges []idtools.IDMap) error {
	args := []string{strconv.Itoa(pid), "0", strconv.Itoa(own), "1"}
	next := 1
	for _, r := range ranges {
		args = append(args, strconv.Itoa(next), strconv.Itoa(r.HostID), strconv.Itoa(r.Size))
		next += r.Size
	}
	out, err := exec.Command(tool, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", tool, err, out)
	}
	return nil
}

func subIDs() (uids, gids []idtools.IDMap, err error) {
	for _, tool := range []string{"newuidmap", "newgidmap"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, nil, fmt.Errorf("%w (apt-get install uidmap)", ErrNoNewuidmap)
		}
	}
	name := strconv.Itoa(os.Getuid())
	if u, err := user.LookupId(name); err == nil {
		name = u.Username
	}
	m, err := idtools.NewIDMappings(name, name)
	if err != nil || len(m.UIDs()) == 0 || len(m.GIDs()) == 0 {
		return nil, nil, fmt.Errorf("%w for %s in /etc/subuid and /etc/subgid (as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 %s)", ErrNoSubIDs, name, name)
	}
	return m.UIDs(), m.GIDs(), nil
}
