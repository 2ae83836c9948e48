package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/balena-os/balena/pkg/durable"
)

// outputFile is a file that appears, or takes the place of the one before, once
// it is complete: until then it has no name where the filesystem can do that.
type outputFile struct {
	*os.File
	name, temp string // temp is "" while it has no name
	written    bool
	special    bool // a pipe or a device, which is written as it is
}

func newOutputFile(name string) (*outputFile, error) {
	if st, err := os.Stat(name); err == nil && !st.Mode().IsRegular() {
		f, err := os.OpenFile(name, os.O_WRONLY, 0) // a folder is refused here
		return &outputFile{File: f, name: name, special: true}, err
	}
	dir := filepath.Dir(name)
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o666)
	if err == nil {
		return &outputFile{File: os.NewFile(uintptr(fd), name), name: name}, nil
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	f, err := os.OpenFile(partName(name), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o666)
	if err != nil {
		return nil, err
	}
	return &outputFile{File: f, name: name, temp: f.Name()}, nil
}

func partName(name string) string { return fmt.Sprintf("%s.part-%d", name, os.Getpid()) }

func (f *outputFile) Write(p []byte) (int, error) {
	f.written = true
	return f.File.Write(p)
}

// keep makes it durable and gives it its name.
func (f *outputFile) keep() error {
	if f.special {
		return f.Close()
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if f.temp == "" {
		temp := partName(f.name)
		if err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.AT_FDCWD, temp, unix.AT_SYMLINK_FOLLOW); err != nil {
			return &fs.PathError{Op: "create", Path: f.name, Err: err}
		}
		f.temp = temp
	}
	if err := os.Rename(f.temp, f.name); err != nil {
		return err
	}
	f.temp = ""
	return errors.Join(f.Close(), durable.SyncDir(filepath.Dir(f.name)))
}

// discard forgets what was not kept.
func (f *outputFile) discard() {
	f.Close()
	if f.temp != "" {
		os.Remove(f.temp)
	}
}
