package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/balena-os/balena/cmd/balena/internal/format"
	"github.com/balena-os/balena/pkg/pull"
)

// publishedRow is a line of `balena image delta ls`.
type publishedRow struct {
	pull.PublishedDelta
	Ratio  float64
	ID     string `json:"-"`
	From   string `json:"-"`
	Delta  string `json:"-"`
	Full   string `json:"-"`
	Factor string `json:"-"`
	Age    string `json:"-"`
}

func newDeltaLsCmd(e *env) *cobra.Command {
	var o pull.DeltaOptions
	var quiet bool
	var formatText string
	cmd := &cobra.Command{
		Use: "ls [flags] IMAGE", Aliases: []string{"list"}, Short: "List the deltas that lead to an image in a registry",
		Long: `List the deltas that lead to an image in a registry, with the image that each starts from: its names where it is on this machine, else its ID. Of an index, those of all platforms.

Fields of --format: .Digest .Platform .Target .Base .BaseNames .Size .Whole .Ratio .Created .Problem`,
		Example: `  balena image delta ls registry.example.com/app:2
  balena image delta ls --format '{{.Digest}} {{.Size}}' registry.example.com/app:2`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return interruptible(cmd.Context(), func(ctx context.Context) error {
				return e.listDeltas(ctx, args[0], o, formatText, quiet)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&formatText, "format", "", "'json', 'table TEMPLATE' or a template")
	f.BoolVarP(&quiet, "quiet", "q", false, "show digests only")
	f.StringVar(&o.Platform, "platform", "", "of an index, only the image for OS/ARCH[/VARIANT]")
	addRegistryFlags(f, &o.RegistryOptions)
	addCredsFlag(f, &o.RegistryOptions)
	return cmd
}

func (e *env) listDeltas(ctx context.Context, ref string, o pull.DeltaOptions, formatText string, quiet bool) error {
	st, err := e.store()
	if err != nil {
		return err
	}
	list, err := pull.ListDeltas(ctx, st, ref, o)
	if err != nil {
		return err
	}
	if quiet && formatText == "" {
		for _, d := range list {
			fmt.Fprintln(e.stdout, d.Digest)
		}
		return nil
	}
	var records []any
	for _, d := range list {
		row := publishedRow{PublishedDelta: d, Ratio: d.Ratio(), ID: d.Digest.Encoded()[:12], From: baseText(d),
			Delta: units.HumanSizeWithPrecision(float64(d.Size), 3), Full: "-", Factor: factor(d.Ratio()), Age: "-"}
		if d.Whole >= 0 {
			row.Full = units.HumanSizeWithPrecision(float64(d.Whole), 3)
		}
		if !d.Created.IsZero() {
			row.Age = units.HumanDuration(time.Since(d.Created)) + " ago"
		}
		if d.Platform == "" {
			row.Platform = "-"
		}
		if d.Problem != "" {
			row.From, row.Delta = d.Problem, "-"
		}
		records = append(records, &row)
	}
	l := format.List{
		Default: `table {{.ID}}\t{{.From}}\t{{.Platform}}\t{{.Full}}\t{{.Delta}}\t{{.Factor}}\t{{.Age}}`,
		Headers: map[string]string{"ID": "DELTA ID", "From": "BASE", "Full": "WHOLE LAYERS", "Delta": "SIZE", "Factor": "RATIO", "Age": "CREATED"},
	}
	return l.Print(e.stdout, formatText, records)
}

// baseText is what to call the base: its names, else its ID.
func baseText(d pull.PublishedDelta) string {
	if len(d.BaseNames) > 0 {
		return strings.Join(d.BaseNames, ", ")
	}
	return imageID(d.Base.Encoded(), false)
}

func newDeltaRmCmd(e *env) *cobra.Command {
	var o pull.DeltaOptions
	cmd := &cobra.Command{
		Use: "rm [flags] IMAGE [DIGEST...]", Aliases: []string{"remove"}, Short: "Remove deltas that lead to an image in a registry",
		Long: `Remove deltas that lead to an image in a registry: those whose digest or whose base's ID begins with DIGEST, or all of them. The image stays. The registry gives the space back when it collects its garbage.`,
		Example: `  balena image delta rm registry.example.com/app:2
  balena image delta rm registry.example.com/app:2 3f4ca61aafcd`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return interruptible(cmd.Context(), func(ctx context.Context) error {
				st, err := e.store()
				if err != nil {
					return err
				}
				removed, err := pull.RemoveDeltas(ctx, st, args[0], args[1:], o)
				for _, d := range removed {
					fmt.Fprintln(e.stdout, "Deleted: "+d.String())
				}
				return err
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Platform, "platform", "", "of an index, only the image for OS/ARCH[/VARIANT]")
	addRegistryFlags(f, &o.RegistryOptions)
	addCredsFlag(f, &o.RegistryOptions)
	return cmd
}
