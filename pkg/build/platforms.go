package build

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"

	"github.com/openshift/imagebuilder"
	"go.podman.io/buildah/pkg/parse"
)

// ErrForeign is for a command of another machine's kind, which the kernel knows
// nobody to execute by.
var ErrForeign = errors.New("this machine cannot execute it")

// buildAll builds for each platform, one after the other, and returns the IDs.
func (b *builder) buildAll(ctx context.Context, c *buildContext, file []byte) ([]string, error) {
	if len(b.o.Platforms) < 2 {
		if len(b.o.Platforms) == 1 {
			b.platform = b.o.Platforms[0]
		}
		id, err := b.buildOne(ctx, c, file)
		if id == "" {
			return nil, err
		}
		return []string{id}, err
	}
	var ids []string
	for _, p := range b.o.Platforms {
		b.platform = p
		if b.o.Out != nil {
			fmt.Fprintf(b.o.Out, "building for %s\n", p)
		}
		id, err := b.buildOne(ctx, c, file)
		if err != nil {
			return nil, fmt.Errorf("for %s: %w", p, err)
		}
		if id != "" && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// checkForeign finds, before anything is done, a RUN that this machine cannot
// execute. A stage's platform is that of its FROM.
func (b *builder) checkForeign(c *buildContext, file []byte) error {
	node, err := imagebuilder.ParseDockerfile(bytes.NewReader(file))
	if err != nil {
		return fmt.Errorf("reading the Dockerfile: %w", err)
	}
	ib := imagebuilder.NewBuilder(b.buildah.Args)
	ib.BuiltinArgDefaults = b.platformArgs()
	stages, err := imagebuilder.NewStages(node, ib)
	if err != nil {
		return fmt.Errorf("reading the Dockerfile: %w", err)
	}
	last := len(stages) - 1
	if b.o.Target != "" {
		last = stageIndex(stages, b.o.Target)
	}
	f := &baseFinder{b: b, stages: stages, seen: map[int]bool{}}
	if err := f.stage(last); err != nil {
		return err
	}
	platforms := map[int]string{}
	for i, s := range stages {
		if platforms[i] = s.Builder.Platform; platforms[i] == "" {
			platforms[i] = b.platform
			if from, err := s.Builder.From(s.Node); err == nil {
				if j := stageIndex(stages[:i], from); j >= 0 {
					platforms[i] = platforms[j]
				}
			}
		}
		if !f.seen[i] || platforms[i] == "" {
			continue
		}
		for _, n := range s.Node.Children {
			if strings.EqualFold(n.Value, "run") {
				if err := executable(platforms[i]); err != nil {
					return fmt.Errorf("%s:%d: %s: %w", filepath.Base(c.files[0]), n.StartLine, firstLine(n.Original), err)
				}
				break
			}
		}
	}
	return nil
}

// machines are ELF's numbers, as the two bytes are in a file.
var machines = map[string]string{
	"386": "0300", "amd64": "3e00", "arm": "2800", "arm64": "b700", "ppc64le": "1500", "s390x": "0016",
	"riscv64": "f300", "mips": "0008", "mipsle": "0800", "mips64": "0008", "mips64le": "0800", "ppc64": "0015", "loong64": "0201",
}

// binfmtDir is where the kernel lists who executes what it cannot.
var binfmtDir = "/proc/sys/fs/binfmt_misc"

// executable says whether commands for a platform can be executed: by this
// machine, or by an emulator that is registered with the kernel, and opened
// already (F), so that it need not be in the image.
func executable(platform string) error {
	system, arch, _, err := parse.Platform(platform)
	if err != nil {
		return fmt.Errorf("%w: platform %q: %w", ErrOptions, platform, err)
	}
	if system != "linux" {
		return fmt.Errorf("%w: it is for %s", ErrForeign, platform)
	}
	own := goruntime.GOARCH
	if arch == own || own == "amd64" && arch == "386" || own == "arm64" && arch == "arm" {
		return nil
	}
	entries, err := os.ReadDir(binfmtDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		raw, err := os.ReadFile(filepath.Join(binfmtDir, e.Name()))
		if err == nil && executes(string(raw), machines[arch]) {
			return nil
		}
	}
	return fmt.Errorf("%w: it is for %s, and no emulator for that is registered with the kernel (binfmt_misc, with the flag F)", ErrForeign, platform)
}

// executes reads a registration.
func executes(entry, machine string) bool {
	var enabled, fixed bool
	var magic []byte
	for line := range strings.Lines(entry) {
		key, val, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch key {
		case "enabled":
			enabled = true
		case "flags:":
			fixed = strings.Contains(val, "F")
		case "magic":
			magic, _ = hex.DecodeString(val)
		}
	}
	return enabled && fixed && machine != "" && len(magic) >= 20 && bytes.HasPrefix(magic, []byte("\x7fELF")) && hex.EncodeToString(magic[18:20]) == machine
}
