package build

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/openshift/imagebuilder"
	"github.com/openshift/imagebuilder/dockerfile/parser"
)

// base is an image that a Dockerfile names.
type base struct {
	name     string
	platform string // of FROM --platform; "" is that of the build
}

// bases lists the images that the target stage and the stages that it needs
// begin with or take files from.
func (b *builder) bases(file []byte) ([]base, error) {
	node, err := imagebuilder.ParseDockerfile(bytes.NewReader(file))
	if err != nil {
		return nil, fmt.Errorf("reading the Dockerfile: %w", err)
	}
	ib := imagebuilder.NewBuilder(b.buildah.Args)
	ib.BuiltinArgDefaults = b.platformArgs()
	stages, err := imagebuilder.NewStages(node, ib)
	if err != nil {
		return nil, fmt.Errorf("reading the Dockerfile: %w", err)
	}
	if len(stages) == 0 {
		return nil, errors.New("reading the Dockerfile: there is no FROM in it")
	}
	last := len(stages) - 1
	if b.o.Target != "" {
		if last = stageIndex(stages, b.o.Target); last < 0 {
			return nil, fmt.Errorf("there is no stage %q in the Dockerfile", b.o.Target)
		}
	}
	f := &baseFinder{b: b, stages: stages, seen: map[int]bool{}}
	if b.o.SkipUnused != nil && !*b.o.SkipUnused {
		for i := range last {
			if err := f.stage(i); err != nil {
				return nil, err
			}
		}
	}
	if err := f.stage(last); err != nil {
		return nil, err
	}
	return f.found, nil
}

// baseFinder follows what stages take from each other.
type baseFinder struct {
	b      *builder
	stages imagebuilder.Stages
	seen   map[int]bool
	found  []base
}

func (f *baseFinder) stage(i int) error {
	if f.seen[i] {
		return nil
	}
	f.seen[i] = true
	s := f.stages[i]
	from, err := s.Builder.From(s.Node)
	if err != nil {
		return fmt.Errorf("reading the Dockerfile: FROM of stage %s: %w", s.Name, err)
	}
	if i == 0 && f.b.o.From != "" {
		from = f.b.o.From
	}
	if err := f.take(i, from, s.Builder.Platform); err != nil {
		return err
	}
	args := s.Builder.Arguments()
	for _, n := range s.Node.Children {
		for _, from := range sources(n) {
			if name, err := imagebuilder.ProcessWord(from, args); err == nil {
				from = name
			}
			if err := f.take(i, from, ""); err != nil {
				return err
			}
		}
	}
	return nil
}

// take follows the name of a stage before i, and notes that of an image.
func (f *baseFinder) take(i int, name, platform string) error {
	if name == "" || name == "scratch" {
		return nil
	}
	if j := stageIndex(f.stages[:i], name); j >= 0 {
		return f.stage(j)
	}
	if c, ok := f.b.buildah.AdditionalBuildContexts[name]; ok {
		if !c.IsImage {
			return nil
		}
		name = c.Value
	}
	if img := (base{name, platform}); !slices.Contains(f.found, img) {
		f.found = append(f.found, img)
	}
	return nil
}

func stageIndex(stages imagebuilder.Stages, name string) int {
	for i, s := range slices.Backward(stages) {
		if strings.EqualFold(s.Name, name) || strconv.Itoa(s.Position) == name {
			return i
		}
	}
	return -1
}

// sources lists what an instruction's --from and --mount=…,from= name.
func sources(n *parser.Node) []string {
	var names []string
	for _, flag := range n.Flags {
		if v, ok := strings.CutPrefix(flag, "--from="); ok {
			names = append(names, v)
		}
		if v, ok := strings.CutPrefix(flag, "--mount="); ok {
			for part := range strings.SplitSeq(v, ",") {
				if from, ok := strings.CutPrefix(part, "from="); ok {
					names = append(names, from)
				}
			}
		}
	}
	return names
}
