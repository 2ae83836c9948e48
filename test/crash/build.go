package main

import (
	"errors"
	"os"
	"path/filepath"
)

// context is the folder that is built from: two Dockerfiles, of which the
// second has its first steps in common with the first.
func (w *world) context() string { return filepath.Join(w.dir, "context") }

// file is where commands write an archive to.
func (w *world) file() string { return filepath.Join(w.mnt(), "file.tar") }

// build is the command that builds built:1 from one of the Dockerfiles, with
// the same bytes each time.
func (w *world) build(file string) []string {
	return []string{"build", "-q", "--network", "none", "--timestamp", "1700000000", "-f", filepath.Join(w.context(), file), "-t", "built:1", w.context()}
}

func (w *world) makeContext() error {
	b := newBuilder(20)
	begin := "FROM " + w.registry + "/app:1\nCOPY files /srv/new/\n" +
		"RUN --mount=type=cache,target=/cache cat /opt/big >/cache/big && cat /opt/big >/made\n"
	errs := []error{os.MkdirAll(filepath.Join(w.context(), "files"), 0o755)}
	for name, content := range map[string][]byte{
		"first":      []byte(begin + "ENV V=1\nRUN cat /srv/new/a >/opt/f00 && : >/srv/d01/f01\n"),
		"second":     []byte(begin + "ENV V=2\nCOPY files/b /etc/passwd\nRUN cat /opt/f01 >/second\n"),
		"files/a":    b.noise(300 << 10),
		"files/b":    b.noise(20 << 10),
		"files/none": nil,
	} {
		errs = append(errs, os.WriteFile(filepath.Join(w.context(), name), content, 0o644))
	}
	return errors.Join(errs...)
}
