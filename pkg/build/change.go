package build

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/openshift/imagebuilder"

	"github.com/balena-os/balena/pkg/pull"
)

// changes are the instructions that commit and import take.
var changes = strings.Fields("cmd entrypoint env expose healthcheck label onbuild shell stopsignal user volume workdir")

// change applies instructions of a Dockerfile to an image's configuration.
// ErrOptions.
func change(c *pull.ImageConfig, instructions []string) error {
	if len(instructions) == 0 {
		return nil
	}
	b := imagebuilder.NewBuilder(nil)
	// Both have docker's names.
	if err := convert(c, &b.RunConfig); err != nil {
		return err
	}
	b.Env = slices.Clone(c.Env)
	for _, text := range instructions {
		node, err := imagebuilder.ParseDockerfile(strings.NewReader(text))
		if err != nil {
			return fmt.Errorf("%w: change %q: %w", ErrOptions, text, err)
		}
		for _, n := range node.Children {
			if !slices.Contains(changes, strings.ToLower(n.Value)) {
				return fmt.Errorf("%w: change %q: %s is not one of %s", ErrOptions, text, strings.ToUpper(n.Value), strings.ToUpper(strings.Join(changes, ", ")))
			}
			step := b.Step()
			if err := step.Resolve(n); err != nil {
				return fmt.Errorf("%w: change %q: %w", ErrOptions, text, err)
			}
			if err := b.Run(step, imagebuilder.NoopExecutor, false); err != nil {
				return fmt.Errorf("%w: change %q: %w", ErrOptions, text, err)
			}
		}
	}
	for _, v := range b.Volumes {
		if b.RunConfig.Volumes == nil {
			b.RunConfig.Volumes = map[string]struct{}{}
		}
		b.RunConfig.Volumes[v] = struct{}{}
	}
	timeout := c.StopTimeout
	*c = pull.ImageConfig{}
	if err := convert(b.RunConfig, c); err != nil {
		return err
	}
	c.StopTimeout = timeout
	return nil
}

func convert(from, to any) error {
	raw, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, to)
}
