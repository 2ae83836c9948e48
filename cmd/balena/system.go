package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/balena-os/balena/pkg/pull"
	"github.com/balena-os/balena/pkg/run"
	"github.com/balena-os/balena/pkg/store"
)

// newSystemCmd is the group `balena system`.
func newSystemCmd(e *env) *cobra.Command {
	return group("system", "Look after the storage", "  balena system df\n  balena system check --quick",
		newSystemCheckCmd(e),
		newSystemDfCmd(e),
		newInfoCmd(e),
		newSystemPruneCmd(e),
	)
}

type pruneOptions struct {
	all, volumes, force bool
	filters             []string
}

func newSystemPruneCmd(e *env) *cobra.Command {
	var o pruneOptions
	cmd := &cobra.Command{
		Use: "prune", Short: "Remove containers, images and volumes that nothing needs", Args: cobra.NoArgs,
		Long: `Remove all containers that do not run, images without a name (with --all, those that no container uses), what failed pulls left, and with --volumes the anonymous volumes that no container mounts. It works on a full disk.

Filters: until=TIME, label=KEY[=VALUE]; they hold for containers and images.`,
		Example: "  balena system prune --all --force",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !o.force {
				ok, err := e.confirm(o.warning())
				if err != nil || !ok {
					return err
				}
			}
			return e.systemPrune(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.all, "all", "a", false, "images with names too, if no container uses them")
	f.BoolVar(&o.volumes, "volumes", false, "anonymous volumes too")
	f.BoolVarP(&o.force, "force", "f", false, "do not ask")
	f.StringArrayVar(&o.filters, "filter", nil, "only what fits KEY=VALUE")
	return cmd
}

func (o pruneOptions) warning() string {
	text := "WARNING! This will remove:\n  - all containers that do not run\n"
	if o.volumes {
		text += "  - all anonymous volumes that no container mounts\n"
	}
	if o.all {
		text += "  - all images without at least one container associated to them\n"
	} else {
		text += "  - all dangling images\n"
	}
	return text + "\nAre you sure you want to continue?"
}

func (e *env) systemPrune(ctx context.Context, o pruneOptions) error {
	eng, err := e.engine()
	if err != nil {
		return err
	}
	freed, err := e.pruneContainers(ctx, eng, o.filters)
	errs := []error{err}
	if o.volumes {
		names, n, err := eng.PruneVolumes(ctx, false)
		freed += n
		errs = append(errs, err)
		e.printDeleted("Deleted Volumes:", names)
	}
	p, err := pull.Prune(ctx, eng.Store, pull.PruneOptions{All: o.all, Filters: o.filters})
	errs = append(errs, err)
	var images []string
	for _, r := range p.Removed {
		if r.Untagged != "" {
			images = append(images, "untagged: "+r.Untagged)
		} else {
			images = append(images, "deleted: "+r.Deleted)
		}
	}
	e.printDeleted("Deleted Images:", images)
	fmt.Fprintln(e.stdout, "Total reclaimed space: "+units.HumanSize(float64(freed+p.Reclaimed)))
	return errors.Join(errs...)
}

// pruneContainers removes the containers that do not run and fit the filters.
func (e *env) pruneContainers(ctx context.Context, eng *run.Engine, filters []string) (freed int64, err error) {
	list, err := eng.List(ctx)
	if err != nil {
		return 0, err
	}
	keep, err := run.ParseFilters(filters, list)
	if err != nil {
		return 0, usageError{err}
	}
	usage, _, err := eng.DiskUsage(ctx)
	if err != nil {
		return 0, err
	}
	var gone []string
	var errs []error
	for _, c := range usage {
		if c.State.Status != store.StatusExited && c.State.Status != store.StatusCreated || !keep.Match(c.Observed) {
			continue
		}
		if err := eng.Remove(ctx, c.ID, run.RemoveOptions{}); err != nil {
			errs = append(errs, err)
			continue
		}
		gone, freed = append(gone, c.ID), freed+c.Size
	}
	e.printDeleted("Deleted Containers:", gone)
	return freed, errors.Join(errs...)
}

func (e *env) printDeleted(title string, lines []string) {
	if len(lines) == 0 {
		return
	}
	fmt.Fprintln(e.stdout, title)
	for _, l := range lines {
		fmt.Fprintln(e.stdout, l)
	}
	fmt.Fprintln(e.stdout)
}
