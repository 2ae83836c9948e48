package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/balena-os/balena/cmd/balena/internal/format"
	"github.com/balena-os/balena/pkg/pull"
)

const none = "<none>"

// imageRow is a line of `balena images`, with docker's fields.
type imageRow struct {
	Containers   string
	CreatedAt    string
	CreatedSince string
	Digest       string
	ID           string
	Repository   string
	SharedSize   string
	Size         string
	Tag          string
	UniqueSize   string
	VirtualSize  string
}

type imagesOptions struct {
	pull.ListOptions
	quiet, noTrunc, digests, noHeading bool
	format, sort                       string
}

// newImagesCmd is `balena images` and, as use "ls", `balena image ls`.
func newImagesCmd(e *env, use string) *cobra.Command {
	var o imagesOptions
	cmd := &cobra.Command{
		Use: use + " [REPOSITORY[:TAG]...]", Short: "List images",
		Long: `List images, the newest first.

Filters: dangling=true|false, reference=PATTERN, before=IMAGE, since=IMAGE, until=TIME, label=KEY[=VALUE], id=ID.
Fields of --format: .ID .Repository .Tag .Digest .CreatedSince .CreatedAt .Size`,
		Example: `  balena images
  balena images --filter dangling=true -q
  balena images --format '{{.Repository}}:{{.Tag}} {{.Size}}' 'deb*'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Names = args
			return e.images(cmd.Context(), o)
		},
	}
	if use == "ls" {
		cmd.Aliases = []string{"list"}
	}
	f := cmd.Flags()
	f.BoolVarP(&o.All, "all", "a", false, "show images that others were built on, too")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "show IDs only")
	f.BoolVar(&o.noTrunc, "no-trunc", false, "show IDs in full")
	f.BoolVar(&o.digests, "digests", false, "show digests")
	f.StringArrayVarP(&o.Filters, "filter", "f", nil, "show only what fits KEY=VALUE")
	f.StringVar(&o.format, "format", "", "'json', 'table TEMPLATE' or a template")
	f.StringVar(&o.sort, "sort", "created", "by created, id, repository, size or tag")
	f.BoolVarP(&o.noHeading, "noheading", "n", false, "leave out the line of titles")
	return cmd
}

func (e *env) images(ctx context.Context, o imagesOptions) error {
	st, err := e.store()
	if err != nil {
		return err
	}
	list, err := pull.List(ctx, st, o.ListOptions)
	if err != nil {
		return err
	}
	if o.quiet && o.format == "" {
		for _, img := range list {
			fmt.Fprintln(e.stdout, imageID(img.ID, o.noTrunc))
		}
		return nil
	}
	var rows []imageRow
	for _, img := range list {
		rows = append(rows, imageRows(img, o)...)
	}
	if err := sortImages(rows, list, o.sort); err != nil {
		return err
	}
	records := make([]any, len(rows))
	for i := range rows {
		records[i] = &rows[i]
	}
	l := format.List{
		Default: `table {{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}`,
		Headers: map[string]string{"ID": "IMAGE ID", "CreatedSince": "CREATED"},
		NoTitle: o.noHeading,
	}
	if o.digests {
		l.Default = `table {{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}`
	}
	return l.Print(e.stdout, o.format, records)
}

func imageID(id string, whole bool) string {
	if whole {
		return "sha256:" + id
	}
	return id[:min(12, len(id))]
}

// imageRows is a row for each tag, and one for a digest whose repository has
// no tag, as docker has it.
func imageRows(img pull.Summary, o imagesOptions) []imageRow {
	row := imageRow{
		Containers: "N/A", SharedSize: "N/A", UniqueSize: "N/A",
		CreatedAt: img.Created.Format("2006-01-02 15:04:05 -0700 MST"), CreatedSince: ago(img.Created),
		Digest: none, ID: imageID(img.ID, o.noTrunc), Repository: none, Tag: none,
		Size: units.HumanSizeWithPrecision(float64(img.Size), 3),
	}
	row.VirtualSize = row.Size
	if img.Created.IsZero() {
		row.CreatedAt, row.CreatedSince = "N/A", "N/A"
	}
	if img.Digest != "" {
		row.Digest = img.Digest.String()
	}
	var rows []imageRow
	tagged := map[string]bool{}
	for _, n := range img.Names {
		r := row
		if r.Repository, r.Tag, _ = pull.SplitName(n); r.Tag != "" {
			tagged[r.Repository] = true
			rows = append(rows, r)
		}
	}
	for _, n := range img.Names {
		r := row
		var d string
		if r.Repository, _, d = pull.SplitName(n); d != "" && !tagged[r.Repository] {
			r.Digest = d
			rows = append(rows, r)
		}
	}
	if len(rows) == 0 {
		rows = []imageRow{row}
	}
	return rows
}

func ago(t time.Time) string { return units.HumanDuration(time.Since(t)) + " ago" }

func sortImages(rows []imageRow, list []pull.Summary, by string) error {
	sizes := map[string]int64{}
	for _, img := range list {
		sizes[imageID(img.ID, false)] = img.Size
	}
	size := func(r imageRow) int64 { return sizes[imageID(strings.TrimPrefix(r.ID, "sha256:"), false)] }
	var less func(a, b imageRow) int
	switch by {
	case "created", "":
		return nil
	case "id":
		less = func(a, b imageRow) int { return cmp.Compare(a.ID, b.ID) }
	case "repository":
		less = func(a, b imageRow) int {
			return cmp.Or(cmp.Compare(a.Repository, b.Repository), cmp.Compare(a.Tag, b.Tag))
		}
	case "size":
		less = func(a, b imageRow) int { return cmp.Compare(size(a), size(b)) }
	case "tag":
		less = func(a, b imageRow) int { return cmp.Compare(a.Tag, b.Tag) }
	default:
		return usageError{fmt.Errorf("--sort is created, id, repository, size or tag, not %q", by)}
	}
	slices.SortStableFunc(rows, less)
	return nil
}
