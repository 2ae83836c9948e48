package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/balena-os/balena/pkg/build"
	"github.com/balena-os/balena/pkg/pull"
)

// newBuilderPruneCmd is `balena builder prune` and `balena buildx prune`.
func newBuilderPruneCmd(e *env) *cobra.Command {
	var o pull.StepOptions
	var force bool
	cmd := &cobra.Command{
		Use: "prune", Short: "Remove what builds keep for the next ones",
		Long: `Remove the steps in the build cache that no image is built on, with --all every step, and what RUN --mount=type=cache keeps. An image that has a name stays, and so do its layers; a build that is at work is waited for by the next attempt.

Filters: until=TIME (then, what RUN --mount=type=cache keeps stays).`,
		Example: "  balena builder prune -f\n  balena builder prune -f --keep-storage 500MB\n  balena buildx prune -a -f --filter until=48h",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !force {
				what := "all dangling build cache"
				if o.All {
					what = "all build cache"
				}
				ok, err := e.confirm(fmt.Sprintf("WARNING! This will remove %s.\nAre you sure you want to continue?", what))
				if err != nil || !ok {
					return err
				}
			}
			return e.pruneBuilds(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.All, "all", "a", false, "remove the steps that images are built on, too")
	f.BoolVarP(&force, "force", "f", false, "do not ask")
	f.StringArrayVar(&o.Filters, "filter", nil, "remove only what fits KEY=VALUE")
	size(f, &o.Keep, "keep-storage", "", "bytes that may stay, as 500MB: the oldest steps go", false)
	return cmd
}

func (e *env) pruneBuilds(ctx context.Context, o pull.StepOptions) error {
	st, err := e.store()
	if err != nil {
		return err
	}
	p, err := build.Prune(ctx, st, o)
	for _, r := range p.Removed {
		fmt.Fprintln(e.stdout, "deleted: "+r.Deleted)
	}
	fmt.Fprintln(e.stdout, "Total reclaimed space: "+bytes(p.Reclaimed))
	return err
}
