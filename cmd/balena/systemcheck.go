package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/balena-os/balena/pkg/pull"
	"github.com/balena-os/balena/pkg/run"
	"github.com/balena-os/balena/pkg/store"
)

type checkOptions struct {
	pull.RegistryOptions
	quick, repair, force bool
}

// exitDamaged is what `system check` ends with when damage is there at its end.
const exitDamaged = 1

func newSystemCheckCmd(e *env) *cobra.Command {
	var o checkOptions
	cmd := &cobra.Command{
		Use: "check", Short: "Look for damage in the storage, and repair it", Args: cobra.NoArgs,
		Long: `Look for damage: in the database, in layers (their content is read and compared with their digests), in images and in containers' records. A line says what is wrong with each thing that is not well.

--quick compares the sizes of files instead of their content, which takes a hundredth of the time. It finds what power cuts leave behind.

--repair fetches damaged layers and images again, from the registry that a name of the image says and by the digest that the image has; containers upon them stay. What cannot be fetched again is removed, unless a container uses it. With --force, containers are removed, too, that are in the way or have lost their layers.

The exit code is 0 when all is well or was repaired, 1 when damage is left, and 125 when the check could not be made.`,
		Example: "  balena system check --quick\n  balena system check --repair",
		RunE:    func(cmd *cobra.Command, _ []string) error { return e.systemCheck(cmd.Context(), o) },
	}
	f := cmd.Flags()
	f.BoolVarP(&o.quick, "quick", "q", false, "compare sizes, not content")
	f.BoolVarP(&o.repair, "repair", "r", false, "fetch again or remove what is damaged")
	f.BoolVarP(&o.force, "force", "f", false, "with --repair: remove damaged containers, and those that are in the way")
	addRegistryFlags(f, &o.RegistryOptions)
	return cmd
}

func (e *env) systemCheck(ctx context.Context, o checkOptions) error {
	if o.force && !o.repair {
		return usageError{fmt.Errorf("--force goes with --repair")}
	}
	return interruptible(ctx, func(ctx context.Context) error {
		eng, err := e.engine()
		if err != nil {
			return err
		}
		left := 0
		n, err := e.checkDatabase(ctx, eng.Store, o)
		if err != nil {
			return err
		}
		left += n
		seen, found, err := pull.Check(ctx, eng.Store, pull.CheckOptions{Quick: o.quick})
		if err != nil {
			return err
		}
		if n, err = e.repairImages(ctx, eng, found, o); err != nil {
			return err
		}
		left += n
		containers, faults, err := eng.Check(ctx)
		if err != nil {
			return err
		}
		left += e.repairContainers(ctx, eng, faults, o)
		how := fmt.Sprintf("%s read", bytes(seen.Bytes))
		if o.quick {
			how = "sizes compared"
		}
		fmt.Fprintf(e.stdout, "checked the database, %d layers (%s), %d images, %d containers: ", seen.Layers, how, seen.Images, containers)
		switch {
		case left > 0 && !o.repair:
			fmt.Fprintf(e.stdout, "%d damaged\n", left)
			return exitStatus{exitDamaged, fmt.Errorf("the storage is damaged: %w", errDamageFound)}
		case left > 0:
			fmt.Fprintf(e.stdout, "%d still damaged\n", left)
			return exitStatus{code: exitDamaged}
		}
		fmt.Fprintln(e.stdout, "all is well")
		return nil
	})
}

func (e *env) checkDatabase(ctx context.Context, st *store.Store, o checkOptions) (left int, err error) {
	wrong := st.Check(ctx)
	if o.repair && len(wrong) > 0 {
		for _, w := range wrong {
			fmt.Fprintf(e.stdout, "database: %v\n", w)
		}
		if err := st.RepairNames(ctx); err != nil {
			return 0, err
		}
		if wrong = st.Check(ctx); len(wrong) == 0 {
			fmt.Fprintln(e.stdout, "  names repaired")
		}
	}
	for _, w := range wrong {
		fmt.Fprintf(e.stdout, "database: %v\n", w)
	}
	return len(wrong), nil
}

func (e *env) repairImages(ctx context.Context, eng *run.Engine, found []pull.Damage, o checkOptions) (left int, err error) {
	for _, d := range found {
		fmt.Fprintln(e.stdout, describe(d))
	}
	if !o.repair || len(found) == 0 {
		return len(found), nil
	}
	ro := pull.RepairOptions{RegistryOptions: o.RegistryOptions}
	if o.force {
		ro.RemoveContainer = func(ctx context.Context, id string) error {
			return eng.Remove(ctx, id, run.RemoveOptions{Force: true})
		}
	}
	repaired, err := pull.Repair(ctx, eng.Store, found, ro)
	if err != nil {
		return 0, err
	}
	for _, r := range repaired {
		what := "layer " + r.Layer
		if r.Layer == "" {
			what = "image " + r.Images[0]
		}
		if r.Err != nil {
			left++
			e.printError(fmt.Errorf("%.18s: %w", what, r.Err))
			continue
		}
		fmt.Fprintf(e.stdout, "%.18s: %s\n", what, r.How)
	}
	return left, nil
}

// describe says what is damaged in the words of the person who pulled it.
func describe(d pull.Damage) string {
	names := make([]string, len(d.Names))
	for i, n := range d.Names {
		names[i] = pull.FamiliarName(n)
	}
	of := ""
	switch {
	case len(names) > 0:
		of = " (" + strings.Join(names, ", ") + ")"
	case d.Layer != "" && len(d.Images) == 0:
		of = " (of no image)"
	}
	if d.Layer != "" {
		return fmt.Sprintf("layer %.12s%s: %v", d.Layer, of, d.What)
	}
	return fmt.Sprintf("image %.12s%s: %v", d.Images[0], of, d.What)
}

func (e *env) repairContainers(ctx context.Context, eng *run.Engine, faults []run.Fault, o checkOptions) (left int) {
	for _, f := range faults {
		fmt.Fprintf(e.stdout, "container %.12s %s: %v\n", f.ID, f.Name, f.What)
		if !o.repair && f.Name == "" {
			continue // no damage: the next start after a reboot removes it
		}
		if !o.repair {
			left++
			continue
		}
		how, err := eng.Repair(ctx, f, o.force)
		if err != nil {
			left++
			e.printError(err)
			continue
		}
		fmt.Fprintf(e.stdout, "container %.12s: %s\n", f.ID, how)
	}
	return left
}
