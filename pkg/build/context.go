package build

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"
	"github.com/openshift/imagebuilder"
	"go.podman.io/buildah/define"
	"go.podman.io/storage/pkg/archive"
	"go.podman.io/storage/pkg/chrootarchive"
)

// context brings the context here and finds the Dockerfiles.
func (b *builder) context(_ context.Context, from string) (*buildContext, error) {
	c := &buildContext{}
	remote := false
	var dockerfile string // that In is
	switch {
	case from == "-":
		var err error
		if dockerfile, err = b.fromStdin(c); err != nil {
			return nil, fmt.Errorf("reading the context from stdin: %w", err)
		}
		remote = true
	case isURL(from):
		dir, sub, err := define.TempDirForURL(b.tmp, "context", from)
		if err != nil {
			return nil, fmt.Errorf("fetching the context %s: %w", from, err)
		}
		if c.dir, err = securejoin.SecureJoin(dir, sub); err != nil {
			return nil, err
		}
		remote = true
	default:
		dir, err := filepath.Abs(from)
		if err == nil {
			dir, err = filepath.EvalSymlinks(dir)
		}
		if err != nil {
			return nil, fmt.Errorf("opening the context: %w", err)
		}
		if st, err := os.Stat(dir); err != nil {
			return nil, fmt.Errorf("opening the context: %w", err)
		} else if !st.IsDir() {
			return nil, fmt.Errorf("%w: the context %s is not a folder", ErrOptions, from)
		}
		c.dir = dir
	}
	if err := b.findFiles(c, dockerfile, remote); err != nil {
		return nil, err
	}
	if err := b.entitle(c); err != nil {
		return nil, err
	}
	return c, b.parse(c)
}

func isURL(s string) bool {
	for _, p := range []string{"http://", "https://", "git://", "github.com/"} {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}

// fromStdin unpacks a tar archive, compressed or not, or else takes In for a
// Dockerfile with an empty context and returns where it put it.
func (b *builder) fromStdin(c *buildContext) (dockerfile string, err error) {
	if b.o.In == nil {
		return "", errors.New("there is none")
	}
	c.dir = filepath.Join(b.tmp, "context")
	if err := os.Mkdir(c.dir, 0o700); err != nil {
		return "", err
	}
	in := bufio.NewReaderSize(b.o.In, 4096)
	head, err := in.Peek(512)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	if len(bytes.TrimSpace(head)) == 0 {
		return "", errors.New("it is empty")
	}
	if archive.DetectCompression(head) == archive.Uncompressed && !isTar(head) {
		return b.saveStdin(in)
	}
	return "", chrootarchive.Untar(in, c.dir, &archive.TarOptions{InUserNS: true})
}

// isTar knows a tar archive by the mark in its first header, or, where it is of
// the oldest kind, by what no text has.
func isTar(head []byte) bool {
	return len(head) >= 262 && string(head[257:262]) == "ustar" || len(head) == 512 && bytes.IndexByte(head, 0) >= 0
}

func (b *builder) saveStdin(in io.Reader) (string, error) {
	path := filepath.Join(b.tmp, "Dockerfile")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(f, in)
	return path, errors.Join(err, f.Close())
}

// findFiles makes the names of Dockerfiles paths. A name is relative to our
// folder, as docker has it, or else to the context, as buildah has it; with a
// context from elsewhere only that.
func (b *builder) findFiles(c *buildContext, dockerfile string, remote bool) error {
	switch {
	case dockerfile != "":
		c.files = []string{dockerfile}
		return nil
	case len(b.o.Files) == 0:
		path, err := findDockerfile(c.dir)
		c.files = []string{path}
		return err
	}
	for _, name := range b.o.Files {
		path := name
		switch {
		case name == "-" && remote:
			return fmt.Errorf("%w: stdin cannot be both the context and the Dockerfile", ErrOptions)
		case name == "-":
			if b.o.In == nil {
				return fmt.Errorf("%w: there is no stdin to read the Dockerfile from", ErrOptions)
			}
			var err error
			if path, err = b.saveStdin(b.o.In); err != nil {
				return fmt.Errorf("reading the Dockerfile from stdin: %w", err)
			}
		case isURL(name):
		default:
			var err error
			if path, err = findFile(c.dir, name, remote); err != nil {
				return err
			}
		}
		c.files = append(c.files, path)
	}
	return nil
}

func findFile(dir, name string, remote bool) (string, error) {
	if !remote {
		if _, err := os.Stat(name); err == nil {
			return filepath.Abs(name)
		}
	}
	path, err := securejoin.SecureJoin(dir, name)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%w: %s", ErrNoDockerfile, name)
	}
	return path, nil
}

// parse reads the instructions of the first Dockerfile, which is fetched when
// it lies elsewhere.
func (b *builder) parse(c *buildContext) error {
	if isURL(c.files[0]) {
		return fmt.Errorf("%w: fetch the Dockerfile first: %s", ErrOptions, c.files[0])
	}
	raw, err := os.ReadFile(c.files[0])
	if err != nil {
		return fmt.Errorf("reading the Dockerfile: %w", err)
	}
	if len(bytes.TrimSpace(raw)) == 0 {
		return fmt.Errorf("the Dockerfile %s is empty", c.files[0])
	}
	node, err := imagebuilder.ParseDockerfile(bytes.NewReader(raw))
	if err != nil {
		return fmt.Errorf("reading the Dockerfile: %w", err)
	}
	c.nodes = node.Children
	for _, n := range c.nodes {
		if !slices.Contains(instructions, strings.ToLower(n.Value)) {
			return fmt.Errorf("%s:%d: unknown instruction %s", filepath.Base(c.files[0]), n.StartLine, strings.ToUpper(n.Value))
		}
	}
	return nil
}

// instructions are those that a Dockerfile has.
var instructions = strings.Fields("add arg cmd copy entrypoint env expose from healthcheck label maintainer onbuild run shell stopsignal user volume workdir")
