//go:build docs

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"go.podman.io/common/pkg/seccomp"
)

// docsCommands is the generator of man pages, completions and the seccomp profile: only in a binary
// built with the tag docs (scripts/docs), since what it links is of no use on a
// device.
func docsCommands() []*cobra.Command {
	return []*cobra.Command{{
		Use: "docs DIR", Hidden: true, Args: cobra.ExactArgs(1), Annotations: outside,
		RunE: func(cmd *cobra.Command, args []string) error { return generate(cmd.Root(), args[0]) },
	}}
}

func generate(root *cobra.Command, dir string) error {
	man, completion := filepath.Join(dir, "man"), filepath.Join(dir, "completion")
	for _, d := range []string{man, completion} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	root.DisableAutoGenTag = true
	hideUnlisted(root)
	epoch := time.Unix(0, 0).UTC() // the same pages whenever they are made
	err := doc.GenManTree(root, &doc.GenManHeader{
		Title: "BALENA", Section: "1", Source: "balena " + majorMinor(), Manual: "balena", Date: &epoch,
	}, man)
	if err != nil {
		return err
	}
	if err := root.GenBashCompletionFileV2(filepath.Join(completion, "balena.bash"), true); err != nil {
		return err
	}
	if err := root.GenZshCompletionFile(filepath.Join(completion, "_balena")); err != nil {
		return err
	}
	if err := root.GenFishCompletionFile(filepath.Join(completion, "balena.fish"), true); err != nil {
		return err
	}
	// The profile that is built in, as a file to make one's own from.
	profile, err := json.MarshalIndent(seccomp.DefaultProfile(), "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "seccomp.json"), append(profile, '\n'), 0o644)
}

// hideUnlisted leaves cobra's own completion command out of the manual.
func hideUnlisted(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.Name() == "completion" {
			c.Hidden = true
		}
	}
}

func majorMinor() string { v, _, _ := strings.Cut(version, "-"); return v }
