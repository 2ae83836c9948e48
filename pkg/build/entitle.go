package build

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/openshift/imagebuilder"
	"github.com/openshift/imagebuilder/dockerfile/parser"
)

// RUN --security is BuildKit's: sandbox, which every RUN has, or insecure, which
// the build has to allow. buildah has no such flag. It is given the Dockerfile
// with a mount in its place, which tells our runtime's stage what is meant, and
// tells, in the history, an insecure step from the same one that is not.
const (
	securityFlag = "--security="
	insecureMark = "/dev/.security-insecure" // on a tmpfs of the container: no layer gets a folder for it
	insecureFlag = "--mount=type=tmpfs,target=" + insecureMark

	allowInsecure = "security.insecure"
	allowHost     = "network.host" // of buildx; here RUN --network=host is always allowed
)

// asWritten is an instruction of buildah's as the Dockerfile has it.
func asWritten(instruction string) string {
	return strings.Replace(instruction, insecureFlag, securityFlag+"insecure", 1)
}

// runtimeArgs has the stage that is our runtime make what the mark is mounted
// in privileged, where the build allows that.
func (b *builder) runtimeArgs() []string {
	args := []string{"balena-runc", "--root", b.room.runtime}
	if slices.Contains(b.o.Allow, allowInsecure) {
		args = append(args, "--privileged-mount", insecureMark)
	}
	return args
}

// entitle replaces the Dockerfiles that have RUN --security.
func (b *builder) entitle(c *buildContext) error {
	for i, path := range c.files {
		if isURL(path) {
			continue
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("reading the Dockerfile: %w", err)
		}
		if !bytes.Contains(raw, []byte(securityFlag)) {
			continue
		}
		text, err := b.markInsecure(filepath.Base(path), raw)
		if err != nil {
			return err
		}
		if b.o.IgnoreFile == "" {
			b.o.IgnoreFile = ignoreFileOf(path)
		}
		dir := filepath.Join(b.tmp, fmt.Sprintf("dockerfile%d", i))
		c.files[i] = filepath.Join(dir, filepath.Base(path))
		if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(c.files[i], text, 0o600)); err != nil {
			return fmt.Errorf("writing the Dockerfile: %w", err)
		}
	}
	return nil
}

// markInsecure puts what buildah understands in the place of the flags; lines
// keep their numbers. ErrOptions for what the build does not allow.
func (b *builder) markInsecure(name string, raw []byte) ([]byte, error) {
	node, err := imagebuilder.ParseDockerfile(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("reading the Dockerfile: %w", err)
	}
	lines := strings.SplitAfter(string(raw), "\n")
	for _, n := range node.Children {
		for _, flag := range n.Flags {
			how, ok := strings.CutPrefix(flag, securityFlag)
			if !ok || !strings.EqualFold(n.Value, "run") {
				continue
			}
			var mark string
			switch {
			case how == "insecure" && b.o.Isolation == "chroot":
				return nil, fmt.Errorf("%w: %s:%d: RUN %s is not for chroot isolation", ErrOptions, name, n.StartLine, flag)
			case how == "insecure" && !slices.Contains(b.o.Allow, allowInsecure):
				return nil, fmt.Errorf("%s:%d: RUN %s: %w", name, n.StartLine, flag, ErrNotAllowed)
			case how == "insecure":
				mark = insecureFlag
			case how != "sandbox":
				return nil, fmt.Errorf("%s:%d: RUN %s: there is sandbox, and there is insecure", name, n.StartLine, flag)
			}
			replaceFlag(lines, n, flag, mark)
		}
	}
	return []byte(strings.Join(lines, "")), nil
}

// replaceFlag replaces the first flag in the lines of n, where flags come before
// everything else.
func replaceFlag(lines []string, n *parser.Node, flag, with string) {
	for i := n.StartLine - 1; i < min(n.EndLine, len(lines)); i++ {
		if strings.HasPrefix(strings.TrimSpace(lines[i]), "#") {
			continue
		}
		if before, after, ok := strings.Cut(lines[i], flag); ok {
			if with == "" {
				after = strings.TrimLeft(after, " \t")
			}
			lines[i] = before + with + after
			return
		}
	}
}

// ignoreFileOf finds the ignore file that is a Dockerfile's own, by its name.
func ignoreFileOf(dockerfile string) string {
	for _, suffix := range []string{".dockerignore", ".containerignore"} {
		if _, err := os.Stat(dockerfile + suffix); !errors.Is(err, fs.ErrNotExist) {
			return dockerfile + suffix
		}
	}
	return ""
}
