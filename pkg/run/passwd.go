package run

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/moby/sys/user"
)

// maxPasswd bounds what is read of an image's passwd and group.
const maxPasswd = 8 << 20

// writePasswd gives the user of keep-id, whom the image does not know, a name
// in the container: copies of the image's passwd and group with one line more,
// in the bundle, from where they are mounted.
func (in *specInput) writePasswd() error {
	if in.IDMaps.User == "" || in.C.Config.User != "" {
		return nil
	}
	u, err := lookupUser(in.RootFS, in.IDMaps.User, nil)
	if err != nil {
		return err
	}
	name := fmt.Sprint("user", u.UID)
	if own, err := user.LookupUid(int(hostUID())); err == nil {
		name = own.Name
	}
	passwd, err := in.rootFile("/etc/passwd")
	if err != nil {
		return err
	}
	if known, err := user.ParsePasswdFilter(bytes.NewReader(passwd), func(e user.User) bool {
		return e.Uid == int(u.UID) || e.Name == name
	}); err != nil || len(known) > 0 {
		return err
	}
	if err := in.addLine("passwd", passwd, fmt.Sprintf("%s:*:%d:%d::%s:/bin/sh\n", name, u.UID, u.GID, u.Home)); err != nil {
		return err
	}
	group, err := in.rootFile("/etc/group")
	if err != nil {
		return err
	}
	if known, err := user.ParseGroupFilter(bytes.NewReader(group), func(e user.Group) bool {
		return e.Gid == int(u.GID) || e.Name == name
	}); err != nil || len(known) > 0 {
		return err
	}
	return in.addLine("group", group, fmt.Sprintf("%s:x:%d:\n", name, u.GID))
}

func (in *specInput) rootFile(path string) ([]byte, error) {
	f, err := openInRoot(in.RootFS, path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxPasswd))
}

func (in *specInput) addLine(name string, content []byte, line string) error {
	if len(content) > 0 && content[len(content)-1] != '\n' {
		content = append(content, '\n')
	}
	path := filepath.Join(in.Bundle, name)
	err := os.WriteFile(path, append(content, line...), 0o644)
	if err == nil {
		err = os.Chown(path, hostID(in.IDMaps.UID, 0), hostID(in.IDMaps.GID, 0))
	}
	if err != nil {
		return fmt.Errorf("writing the container's /etc/%s: %w", name, err)
	}
	return nil
}
