package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/term"
	"github.com/spf13/cobra"

	"github.com/balena-os/balena/cmd/balena/internal/format"
	"github.com/balena-os/balena/pkg/pull"
	"github.com/balena-os/balena/pkg/store"
)

// newImageCmd is the group `balena image`.
func newImageCmd(e *env) *cobra.Command {
	return group("image", "Manage images", "  balena image ls\n  balena image inspect busybox",
		newBuildCmd(e),
		newImageDeltaCmd(e),
		newHistoryCmd(e),
		newImageExistsCmd(e),
		newImportCmd(e),
		newImageInspectCmd(e),
		newLoadCmd(e),
		newImagesCmd(e, "ls"),
		newImagePruneCmd(e),
		newPullCmd(e),
		newPushCmd(e),
		newRmiCmd(e, "rm"),
		newSaveCmd(e),
		newTagCmd(e),
		newUntagCmd(e),
	)
}

// newRmiCmd is `balena rmi` and, as use "rm", `balena image rm`.
func newRmiCmd(e *env, use string) *cobra.Command {
	var o pull.RemoveOptions
	var all, ignore bool
	cmd := &cobra.Command{
		Use: use + " IMAGE...", Short: "Remove images",
		Long: `Remove images. A name is taken from its image, and the last name takes the image with it; an ID removes the image with all of its names.

Layers that other images or containers have stay.`,
		Example: `  balena rmi debian:12
  balena rmi -f 3f4ca61aafcd`,
		Args: func(cmd *cobra.Command, args []string) error {
			if all {
				return cobra.NoArgs(cmd, args)
			}
			return cobra.MinimumNArgs(1)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.removeImages(cmd.Context(), args, all, ignore, o)
		},
	}
	if use == "rm" {
		cmd.Aliases = []string{"remove"}
	}
	f := cmd.Flags()
	f.BoolVarP(&o.Force, "force", "f", false, "although stopped containers use it or it has several names; no error for an image that is not there")
	f.BoolVar(&o.NoPrune, "no-prune", false, "keep the untagged images that it was built on")
	f.BoolVarP(&all, "all", "a", false, "remove all images")
	f.BoolVarP(&ignore, "ignore", "i", false, "no error for an image that is not there")
	return cmd
}

func (e *env) removeImages(ctx context.Context, names []string, all, ignore bool, o pull.RemoveOptions) error {
	st, err := e.store()
	if err != nil {
		return err
	}
	if all {
		list, err := pull.List(ctx, st, pull.ListOptions{All: true})
		if err != nil {
			return err
		}
		for _, img := range list {
			names = append(names, img.ID)
		}
	}
	eng, err := e.engine()
	if err != nil {
		return err
	}
	o.Running = func(c *store.Container) bool {
		seen, err := eng.Observe(c)
		return err != nil || seen.Pid != 0 || seen.State.Status == store.StatusRestarting
	}
	var errs []error
	for _, n := range names {
		removed, err := pull.Remove(ctx, st, n, o)
		e.printRemoved(removed)
		switch {
		case errors.Is(err, pull.ErrNoImage) && (ignore || all):
		case errors.Is(err, pull.ErrNoImage) && o.Force:
			fmt.Fprintln(e.stderr, "Error: "+err.Error())
		case err != nil:
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (e *env) printRemoved(removed []pull.Removed) {
	for _, r := range removed {
		if r.Untagged != "" {
			fmt.Fprintln(e.stdout, "Untagged: "+r.Untagged)
		} else {
			fmt.Fprintln(e.stdout, "Deleted: "+r.Deleted)
		}
	}
}

func newTagCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "tag IMAGE NAME[:TAG]...", Short: "Give an image further names",
		Example: "  balena tag debian:12 registry.example.com/base:12",
		Args:    cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			st, err := e.store()
			if err != nil {
				return err
			}
			return pull.Tag(cmd.Context(), st, args[0], args[1:]...)
		},
	}
}

func newUntagCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "untag IMAGE [NAME[:TAG]...]", Short: "Take names from an image, which stays",
		Long:    "Take names from an image, which stays. With nothing but a name, that one is taken; with nothing but an ID, all of them.",
		Example: "  balena untag 3f4ca61aafcd registry.example.com/base:12",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			st, err := e.store()
			if err != nil {
				return err
			}
			_, err = pull.Untag(cmd.Context(), st, args[0], args[1:]...)
			return err
		},
	}
}

func newImageExistsCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "exists IMAGE", Short: "Exit with 0 if the image is here, else with 1",
		Example: "  balena image exists debian:12 || balena pull debian:12",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			st, err := e.store()
			if err != nil {
				return err
			}
			layers, err := st.Layers()
			if err != nil {
				return err
			}
			_, _, err = pull.Find(layers, args[0])
			if errors.Is(err, pull.ErrNoImage) {
				return exitStatus{code: 1}
			}
			return err
		},
	}
}

func newImageInspectCmd(e *env) *cobra.Command {
	var formatText string
	cmd := &cobra.Command{
		Use: "inspect IMAGE...", Short: "Show all that is known about images",
		Example: "  balena image inspect --format '{{.Architecture}} {{json .Config.Env}}' debian:12",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.inspect(cmd.Context(), "image", formatText, args)
		},
	}
	cmd.Flags().StringVarP(&formatText, "format", "f", "", "'json' or a template")
	return cmd
}

func newImagePruneCmd(e *env) *cobra.Command {
	var o pull.PruneOptions
	var force bool
	cmd := &cobra.Command{
		Use: "prune", Short: "Remove images that nothing needs",
		Long: `Remove images that have no name, and with --all those that no container uses.

Filters: until=TIME, label=KEY[=VALUE], label!=KEY[=VALUE], reference=PATTERN.`,
		Example: "  balena image prune --all --filter until=240h --force",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !force {
				what := "all dangling images"
				if o.All {
					what = "all images without at least one container associated to them"
				}
				ok, err := e.confirm(fmt.Sprintf("WARNING! This will remove %s.\nAre you sure you want to continue?", what))
				if err != nil || !ok {
					return err
				}
			}
			return e.pruneImages(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.All, "all", "a", false, "remove images with names too, if no container uses them")
	f.BoolVarP(&force, "force", "f", false, "do not ask")
	f.StringArrayVar(&o.Filters, "filter", nil, "remove only what fits KEY=VALUE")
	return cmd
}

func (e *env) pruneImages(ctx context.Context, o pull.PruneOptions) error {
	st, err := e.store()
	if err != nil {
		return err
	}
	p, err := pull.Prune(ctx, st, o)
	if len(p.Removed) > 0 {
		fmt.Fprintln(e.stdout, "Deleted Images:")
		for _, r := range p.Removed {
			if r.Untagged != "" {
				fmt.Fprintln(e.stdout, "untagged: "+r.Untagged)
			} else {
				fmt.Fprintln(e.stdout, "deleted: "+r.Deleted)
			}
		}
		fmt.Fprintln(e.stdout)
	}
	fmt.Fprintln(e.stdout, "Total reclaimed space: "+units.HumanSize(float64(p.Reclaimed)))
	return err
}

// confirm asks a question on the terminal; without one the answer is an error,
// so that a script neither hangs nor loses what it did not mean to.
func (e *env) confirm(question string) (bool, error) {
	if !term.IsTerminal(e.stdin.Fd()) {
		return false, errors.New("stdin is not a terminal to ask at: use --force")
	}
	fmt.Fprint(e.stderr, question+" [y/N] ")
	line, err := readLine(e.stdin)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return true, nil
	}
	return false, nil
}

// historyRow is a line of `balena history`, with docker's fields.
type historyRow struct {
	Comment      string
	CreatedAt    string
	CreatedBy    string
	CreatedSince string
	ID           string
	Size         string
}

type historyOptions struct {
	human, noTrunc, quiet bool
	format                string
}

func newHistoryCmd(e *env) *cobra.Command {
	var o historyOptions
	cmd := &cobra.Command{
		Use: "history IMAGE", Short: "Show how an image was built",
		Example: "  balena history --no-trunc debian:12",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.history(cmd.Context(), args[0], o)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.human, "human", "H", true, "sizes and times in words rather than bytes and RFC 3339")
	f.BoolVar(&o.noTrunc, "no-trunc", false, "show IDs and instructions in full")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "show IDs only")
	f.StringVar(&o.format, "format", "", "'json', 'table TEMPLATE' or a template")
	return cmd
}

func (e *env) history(ctx context.Context, name string, o historyOptions) error {
	st, err := e.store()
	if err != nil {
		return err
	}
	steps, err := pull.History(ctx, st, name)
	if err != nil {
		return err
	}
	var records []any
	for _, s := range steps {
		row := historyRow{
			ID: "<missing>", Comment: printable(s.Comment), CreatedBy: printable(strings.ReplaceAll(s.CreatedBy, "\t", " ")),
			CreatedAt: s.Created.Format(time.RFC3339), CreatedSince: ago(s.Created), Size: units.HumanSizeWithPrecision(float64(s.Size), 3),
		}
		if s.ID != "" {
			row.ID = imageID(strings.TrimPrefix(s.ID, "sha256:"), o.noTrunc)
		}
		if s.Created.IsZero() {
			row.CreatedSince = "N/A"
		}
		if r := []rune(row.CreatedBy); !o.noTrunc && len(r) > 45 {
			row.CreatedBy = string(r[:44]) + "…"
		}
		if !o.human {
			row.CreatedSince, row.Size = row.CreatedAt, fmt.Sprint(s.Size)
		}
		records = append(records, &row)
	}
	l := format.List{
		Default: `table {{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}`,
		Headers: map[string]string{"ID": "IMAGE", "CreatedSince": "CREATED"},
	}
	if o.quiet && o.format == "" {
		o.format = "{{.ID}}"
	}
	return l.Print(e.stdout, o.format, records)
}
