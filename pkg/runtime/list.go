package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// List reads the state of every container in the state folder, by name. One
// that cannot be read is left out and handed to skipped (which may be nil).
func List(root string, skipped func(error)) ([]State, error) {
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, err
	}
	var states []State
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted meanwhile
		} else if err != nil {
			return nil, err
		}
		s, err := GetState(root, e.Name())
		if err != nil {
			if skipped != nil {
				skipped(fmt.Errorf("load container %s: %w", e.Name(), err))
			}
			continue
		}
		s.Owner = ownerName(info)
		states = append(states, s)
	}
	return states, nil
}

// ownerName is the user name of a file's owner, or "#" and the number.
func ownerName(info fs.FileInfo) string {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	uid := strconv.FormatUint(uint64(st.Uid), 10)
	if u, err := user.LookupId(uid); err == nil {
		return u.Username
	}
	return "#" + uid
}
