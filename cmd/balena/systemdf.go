package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/balena-os/balena/cmd/balena/internal/format"
	"github.com/balena-os/balena/pkg/build"
	"github.com/balena-os/balena/pkg/pull"
	"github.com/balena-os/balena/pkg/run"
)

// dfRow is a line of `balena system df`, with docker's fields.
type dfRow struct{ Type, TotalCount, Active, Size, Reclaimable string }

func newSystemDfCmd(e *env) *cobra.Command {
	var verbose bool
	var template string
	cmd := &cobra.Command{
		Use: "df", Short: "Show what takes how much of the disk", Args: cobra.NoArgs,
		Example: "  balena system df\n  balena system df -v",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return e.systemDf(cmd.Context(), template, verbose)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&verbose, "verbose", "v", false, "each image, container and volume")
	f.StringVar(&template, "format", "", "'json', 'table TEMPLATE' or a template")
	return cmd
}

func (e *env) systemDf(ctx context.Context, template string, verbose bool) error {
	eng, err := e.engine()
	if err != nil {
		return err
	}
	images, err := pull.DiskUsage(ctx, eng.Store)
	if err != nil {
		return err
	}
	containers, volumes, err := eng.DiskUsage(ctx)
	if err != nil {
		return err
	}
	if verbose {
		return e.dfVerbose(images, containers, volumes)
	}
	rows := []any{dfRow{"Images", strconv.Itoa(len(images.Images)), strconv.Itoa(images.Active), bytes(images.Size), reclaimable(images.Reclaimable, images.Size)}}
	var active int
	var size, free int64
	for _, c := range containers {
		size += c.Size
		if c.Running() {
			active++
		} else {
			free += c.Size
		}
	}
	rows = append(rows, dfRow{"Containers", strconv.Itoa(len(containers)), strconv.Itoa(active), bytes(size), reclaimable(free, size)})
	active, size, free = 0, 0, 0
	for _, v := range volumes {
		size += v.Size
		if v.Containers > 0 {
			active++
		} else {
			free += v.Size
		}
	}
	rows = append(rows, dfRow{"Local Volumes", strconv.Itoa(len(volumes)), strconv.Itoa(active), bytes(size), reclaimable(free, size)})
	mounts, err := build.MountCache(eng.Store)
	if err != nil {
		return err
	}
	size = images.StepSize + mounts.Size
	rows = append(rows, dfRow{"Build Cache", strconv.Itoa(images.Steps + mounts.Mounts), "0", bytes(size), bytes(size)})
	return format.List{
		Default: "table {{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}",
		Headers: map[string]string{"TotalCount": "TOTAL"},
	}.Print(e.stdout, template, rows)
}

func bytes(n int64) string { return units.HumanSize(float64(n)) }

func reclaimable(n, of int64) string {
	if of == 0 {
		return bytes(n)
	}
	return fmt.Sprintf("%s (%d%%)", bytes(n), n*100/of)
}

// dfImage, dfContainer and dfVolume are lines of `balena system df -v`.
type (
	dfImage     struct{ Repository, Tag, ID, Created, Size, SharedSize, UniqueSize, Containers string }
	dfContainer struct{ ID, Image, Size, Status, Names string }
	dfVolume    struct{ Name, Links, Size string }
)

func (e *env) dfVerbose(images pull.Usage, containers []run.ContainerUsage, volumes []run.VolumeUsage) error {
	var rows []any
	for _, img := range images.Images {
		r := dfImage{Repository: none, Tag: none, ID: imageID(img.ID, false), Created: ago(img.Created), Size: bytes(img.Size),
			SharedSize: bytes(img.Shared), UniqueSize: bytes(img.Size - img.Shared), Containers: strconv.Itoa(img.Containers)}
		if len(img.Names) > 0 {
			r.Repository, r.Tag, _ = pull.SplitName(img.Names[0])
		}
		rows = append(rows, r)
	}
	fmt.Fprintln(e.stdout, "Images space usage:")
	err := format.List{
		Default: "table {{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.Created}}\t{{.Size}}\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.Containers}}",
		Headers: map[string]string{"ID": "IMAGE ID", "SharedSize": "SHARED SIZE", "UniqueSize": "UNIQUE SIZE"},
	}.Print(e.stdout, "", rows)
	if err != nil {
		return err
	}
	rows = nil
	for _, c := range containers {
		rows = append(rows, dfContainer{c.ID[:12], c.Image, bytes(c.Size), string(c.State.Status), c.Name})
	}
	fmt.Fprintln(e.stdout, "\nContainers space usage:")
	err = format.List{
		Default: "table {{.ID}}\t{{.Image}}\t{{.Size}}\t{{.Status}}\t{{.Names}}",
		Headers: map[string]string{"ID": "CONTAINER ID"},
	}.Print(e.stdout, "", rows)
	if err != nil {
		return err
	}
	rows = nil
	for _, v := range volumes {
		rows = append(rows, dfVolume{v.Name, strconv.Itoa(v.Containers), bytes(v.Size)})
	}
	fmt.Fprintln(e.stdout, "\nLocal Volumes space usage:")
	return format.List{
		Default: "table {{.Name}}\t{{.Links}}\t{{.Size}}",
		Headers: map[string]string{"Name": "VOLUME NAME"},
	}.Print(e.stdout, "", rows)
}
