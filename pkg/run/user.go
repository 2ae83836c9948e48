package run

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	pathrs "github.com/cyphar/filepath-securejoin/pathrs-lite"
	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"
)

// execUser is whom a process runs as, in the container's own numbers.
type execUser struct {
	UID, GID uint32
	Groups   []uint32 // sorted, the primary group among them
	Home     string   // never empty
}

// lookupUser resolves USER[:GROUP] and further groups against the files of
// the rootfs, following no link out of it. An empty user is uid and gid 0.
// Missing files are as good as empty ones: numbers then still work.
func lookupUser(rootfs, spec string, groups []string) (execUser, error) {
	passwd, err := openInRoot(rootfs, "/etc/passwd")
	if err != nil {
		return execUser{}, err
	}
	defer passwd.Close()
	group, err := openInRoot(rootfs, "/etc/group")
	if err != nil {
		return execUser{}, err
	}
	defer group.Close()
	u, err := user.GetExecUser(spec, &user.ExecUser{}, passwd, group)
	if err != nil {
		return execUser{}, conflictf("%v", err)
	}
	ids := append([]int{u.Gid}, u.Sgids...)
	if len(groups) > 0 {
		if _, err := group.Seek(0, io.SeekStart); err != nil {
			return execUser{}, err
		}
		more, err := user.GetAdditionalGroups(groups, group)
		if err != nil {
			return execUser{}, conflictf("%v", err)
		}
		ids = append(ids, more...)
	}
	out := execUser{UID: uint32(u.Uid), GID: uint32(u.Gid), Home: u.Home}
	for _, id := range ids {
		out.Groups = append(out.Groups, uint32(id))
	}
	slices.Sort(out.Groups)
	out.Groups = slices.Compact(out.Groups)
	if out.Home == "" {
		out.Home = "/"
	}
	return out, nil
}

// openInRoot opens a regular file of a rootfs for reading, never following a
// link out of it; one that is missing reads as empty.
func openInRoot(rootfs, path string) (io.ReadSeekCloser, error) {
	h, err := pathrs.OpenInRoot(rootfs, path)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return emptyFile()
	}
	if err != nil {
		return nil, fmt.Errorf("opening %s of the container: %w", path, err)
	}
	defer h.Close()
	st, err := h.Stat()
	if err != nil {
		return nil, fmt.Errorf("opening %s of the container: %w", path, err)
	}
	if !st.Mode().IsRegular() { // a FIFO would block us, a device might do anything
		return emptyFile()
	}
	f, err := pathrs.Reopen(h, unix.O_RDONLY|unix.O_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("opening %s of the container: %w", path, err)
	}
	return f, nil
}

func emptyFile() (io.ReadSeekCloser, error) { return os.Open(os.DevNull) }
