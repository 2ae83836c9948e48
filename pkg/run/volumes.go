package run

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	securejoin "github.com/cyphar/filepath-securejoin"
	"github.com/opencontainers/runtime-spec/specs-go"
	"go.podman.io/storage/drivers/copy"
	"golang.org/x/sys/unix"

	"github.com/balena-os/balena/pkg/store"
)

// Beside a volume's _data: what is being copied from the image, and what was
// copied wholly and is being moved in.
const (
	volumeCopying = "_copy"
	volumeCopied  = "_copied"
)

// recordVolumes names a new container's anonymous volumes and records all its
// volumes that do not exist yet. Their folders are made at the first start.
func recordVolumes(tx *store.Tx, c *store.Container) error {
	for i := range c.Config.Mounts {
		m := &c.Config.Mounts[i]
		if m.Type != "volume" {
			continue
		}
		v := store.Volume{Name: m.Source, Created: time.Now().UTC()}
		if m.Source == "" {
			b := make([]byte, 32)
			_, _ = rand.Read(b) // never fails
			m.Source = hex.EncodeToString(b)
			v.Name, v.Anonymous = m.Source, true
		}
		var old store.Volume
		switch err := tx.Get(store.BucketVolumes, v.Name, &old); {
		case err == nil:
			continue
		case !errors.Is(err, store.ErrNoKey):
			return err
		}
		if err := tx.Put(store.BucketVolumes, v.Name, v); err != nil {
			return err
		}
	}
	return nil
}

// forgetVolumes deletes the records of the anonymous volumes of a container
// that is no longer recorded itself, but of those that another one mounts, and
// gives their names: the folders are the caller's to remove, after the
// transaction.
func forgetVolumes(tx *store.Tx, c *store.Container) (orphans []string, err error) {
	for _, m := range c.Config.Mounts {
		if m.Type != "volume" || slices.Contains(orphans, m.Source) {
			continue
		}
		var v store.Volume
		switch err := tx.Get(store.BucketVolumes, m.Source, &v); {
		case errors.Is(err, store.ErrNoKey):
			continue
		case err != nil:
			return nil, err
		}
		if v.Anonymous {
			orphans = append(orphans, v.Name)
		}
	}
	if len(orphans) == 0 {
		return nil, nil
	}
	all, err := tx.Containers()
	if err != nil {
		return nil, err
	}
	for _, other := range all {
		if other.ID == c.ID {
			continue
		}
		for _, m := range other.Config.Mounts {
			orphans = slices.DeleteFunc(orphans, func(name string) bool { return m.Type == "volume" && m.Source == name })
		}
	}
	for _, name := range orphans {
		if err := tx.Delete(store.BucketVolumes, name); err != nil {
			return nil, err
		}
	}
	return orphans, nil
}

// checkBinds finds host paths that a bind mount needs and that do not exist.
func checkBinds(mounts []store.Mount) error {
	for _, m := range mounts {
		if m.Type != "bind" || slices.Contains(m.Options, mountCreate) {
			continue
		}
		if _, err := os.Stat(m.Source); err != nil {
			return conflictf("invalid mount config for type \"bind\": bind source path does not exist: %s", m.Source)
		}
	}
	return nil
}

// fillVolumes makes a container's mounts ready for a start: missing folders
// of the host, empty volumes with what the image has at their place, and the
// owner that :U asks for. root is where the
// container's rootfs is mounted, dir gives a volume's folder.
func fillVolumes(c *store.Container, root string, ids idMaps, dir func(name string) string) error {
	if err := checkBinds(c.Config.Mounts); err != nil {
		return err
	}
	for _, m := range c.Config.Mounts {
		source := m.Source
		switch m.Type {
		case "bind":
			if err := os.MkdirAll(source, 0o755); err != nil && !errors.Is(err, unix.ENOTDIR) {
				return fmt.Errorf("making the folder that is to be mounted at %s: %w", m.Target, err)
			}
		case "volume":
			source = dir(m.Source)
			v := volume{data: source, target: m.Target, root: root, ids: ids, volatile: c.Config.AutoRemove}
			if err := v.fill(!slices.Contains(m.Options, mountNoCopy)); err != nil {
				return fmt.Errorf("filling volume %s: %w", m.Source, err)
			}
		default:
			continue
		}
		if slices.Contains(m.Options, mountChown) {
			if err := giveAway(c, root, ids, source); err != nil {
				return fmt.Errorf("changing the owner of %s: %w", source, err)
			}
		}
	}
	return nil
}

type volume struct {
	data     string // its folder
	target   string // where it will be mounted
	root     string
	ids      idMaps
	volatile bool // not worth a sync
}

// fill makes the volume's folder and, when it is empty, puts the image's
// content in it. That is copied beside it, synced, and then moved in, which the
// next start finishes if it is cut short: so a file is there whole or not at
// all. The folder itself stays, since other containers may have it mounted.
func (v *volume) fill(copyUp bool) error {
	parent := filepath.Dir(v.data)
	if err := os.MkdirAll(parent, 0o711); err != nil {
		return err
	}
	lock, err := os.Open(parent)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	copied := filepath.Join(parent, volumeCopied)
	empty, err := isEmpty(v.data)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := v.make(); err != nil {
			return err
		}
	case err != nil:
		return err
	}
	if _, err := os.Lstat(copied); errors.Is(err, fs.ErrNotExist) {
		if !empty || !copyUp {
			return nil
		}
		if ok, err := v.copy(filepath.Join(parent, volumeCopying), copied); !ok {
			return err
		}
	}
	return v.moveIn(copied)
}

// isEmpty is true for a folder that does not exist, too.
func isEmpty(dir string) (bool, error) {
	f, err := os.Open(dir)
	if err != nil {
		return true, err
	}
	defer f.Close()
	_, err = f.Readdirnames(1)
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	return false, err
}

func (v *volume) make() error {
	if err := os.Mkdir(v.data, 0o755); err != nil {
		return err
	}
	if len(v.ids.UID) == 0 {
		return nil
	}
	return os.Chown(v.data, hostID(v.ids.UID, 0), hostID(v.ids.GID, 0))
}

// copy makes done, a synced copy of the image's folder, by way of tmp. It is
// false where the image has no folder.
func (v *volume) copy(tmp, done string) (bool, error) {
	from, err := securejoin.SecureJoin(v.root, v.target)
	if err != nil {
		return false, err
	}
	if st, err := os.Lstat(from); err != nil || !st.IsDir() {
		return false, nil
	}
	if err := os.RemoveAll(tmp); err != nil { // of a start that was interrupted
		return false, err
	}
	if err := os.Mkdir(tmp, 0o700); err != nil {
		return false, err
	}
	err = copy.DirCopy(from, tmp, copy.Content, true)
	if err == nil {
		err = v.sync(tmp)
	}
	if err == nil {
		err = os.Rename(tmp, done)
	}
	if err != nil {
		return false, errors.Join(err, os.RemoveAll(tmp))
	}
	return true, nil
}

// moveIn moves what lies in done into the volume, gives it done's owner and
// mode, and removes done. What is there already stays.
func (v *volume) moveIn(done string) error {
	entries, err := os.ReadDir(done)
	if err != nil {
		return err
	}
	for _, e := range entries {
		from, to := filepath.Join(done, e.Name()), filepath.Join(v.data, e.Name())
		err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
		if errors.Is(err, unix.EINVAL) { // the filesystem cannot
			if _, err = os.Lstat(to); errors.Is(err, fs.ErrNotExist) {
				err = unix.Rename(from, to)
			}
		}
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return &os.PathError{Op: "move", Path: from, Err: err}
		}
	}
	st, err := os.Stat(done)
	if err != nil {
		return err
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		if err := os.Chown(v.data, int(sys.Uid), int(sys.Gid)); err != nil {
			return err
		}
	}
	if err := os.Chmod(v.data, st.Mode()); err != nil {
		return err
	}
	if err := v.sync(v.data); err != nil {
		return err
	}
	return os.RemoveAll(done)
}

func (v *volume) sync(dir string) error {
	if v.volatile {
		return nil
	}
	return syncFilesystem(dir)
}

func syncFilesystem(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}

// giveAway makes the container's user the owner of all that lies in a folder.
func giveAway(c *store.Container, root string, ids idMaps, dir string) error {
	who := c.Config.User
	if who == "" {
		who = ids.User
	}
	u, err := lookupUser(root, who, nil)
	if err != nil {
		return err
	}
	uid, gid := int(u.UID), int(u.GID)
	if len(ids.UID) > 0 {
		uid, gid = hostID(ids.UID, u.UID), hostID(ids.GID, u.GID)
	}
	if uid < 0 || gid < 0 {
		return fmt.Errorf("user %d:%d is not mapped", u.UID, u.GID)
	}
	if slices.Contains(hostFolders, filepath.Clean(dir)) {
		return conflictf("it belongs to the host: U is for folders of the container's own")
	}
	top, err := unix.Open(dir, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(top), dir)
	defer f.Close()
	return chownTree(f, uid, gid)
}

// hostFolders are never given away.
var hostFolders = []string{
	"/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/proc", "/root", "/run", "/sbin", "/sys", "/tmp", "/usr", "/var",
}

// chownTree changes the owner of f and all below it. It goes from folder to
// folder by descriptor and follows no link, since a running container may be
// changing the tree meanwhile.
func chownTree(f *os.File, uid, gid int) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return &os.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		names, err := f.Readdirnames(-1)
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := chownEntry(f, name, uid, gid); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	if int(st.Uid) == uid && int(st.Gid) == gid {
		return nil
	}
	return f.Chown(uid, gid)
}

func chownEntry(dir *os.File, name string, uid, gid int) error {
	path := filepath.Join(dir.Name(), name)
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == nil {
		f := os.NewFile(uintptr(fd), path)
		defer f.Close()
		return chownTree(f, uid, gid)
	}
	if !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.ELOOP) {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	if err := unix.Fchownat(int(dir.Fd()), name, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "chown", Path: path, Err: err}
	}
	return nil
}

// hostID is what an id of the container is in the engine's namespace, -1 where
// it is not mapped.
func hostID(maps []specs.LinuxIDMapping, id uint32) int {
	for _, m := range maps {
		if id >= m.ContainerID && id-m.ContainerID < m.Size {
			return int(m.HostID + id - m.ContainerID)
		}
	}
	return -1
}
