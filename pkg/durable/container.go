package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"go.podman.io/storage"
	"golang.org/x/sys/unix"
)

// SyncContainer puts a container's layer as it was just made on stable storage:
// containers/storage syncs the content of its records, and neither their names
// nor the layer's small files. Files that are written to the layer later are
// not its business.
//
// The blocks of the files are written first, so that one commit of the
// filesystem's journal has all of it, names in other folders, too.
func SyncContainer(st storage.Store, id string) error {
	driver := st.GraphDriverName()
	if driver != "overlay" { // the layer has a copy of all of the image's files
		return Sync(st.GraphRoot())
	}
	dir := filepath.Join(st.GraphRoot(), driver, id)
	var files []*os.File
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	for _, path := range []string{
		filepath.Join(dir, "link"), filepath.Join(dir, "lower"), filepath.Join(dir, "lower-layers"), dir, filepath.Join(dir, "diff"),
		filepath.Join(st.GraphRoot(), driver), filepath.Join(st.GraphRoot(), driver, "l"),
		filepath.Join(st.GraphRoot(), driver+"-layers"), filepath.Join(st.GraphRoot(), driver+"-containers"),
	} {
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) && path != dir {
			continue // what lies on no other layer has no lower
		}
		if err != nil {
			return err
		}
		files = append(files, f)
		// Only to save commits: folders and some filesystems cannot do it.
		_ = unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE|unix.SYNC_FILE_RANGE_WAIT_AFTER)
	}
	for _, f := range files {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	return nil
}
