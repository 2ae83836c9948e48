package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	units "github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/balena-os/balena/cmd/balena/internal/format"
	"github.com/balena-os/balena/pkg/netns"
	"github.com/balena-os/balena/pkg/run"
	"github.com/balena-os/balena/pkg/store"
)

// psRow is one container as `ps` shows it; the fields are docker's and what
// --format templates name.
type psRow struct {
	ID, Image, Command, CreatedAt, RunningFor, Ports, State, Status, Names, Labels, Mounts, Networks, Pid string

	Label func(key string) string `json:"-"` // {{.Label "key"}}
}

type psOptions struct {
	all, latest, quiet, noTrunc bool
	last                        int
	filters                     []string
	format                      string
}

func newPsCmd(e *env) *cobra.Command { return psCmd(e, "ps") }

func newContainerLsCmd(e *env) *cobra.Command {
	cmd := psCmd(e, "ls")
	cmd.Aliases = []string{"list", "ps"}
	return cmd
}

func psCmd(e *env, use string) *cobra.Command {
	var o psOptions
	cmd := &cobra.Command{
		Use: use, Short: "List containers", Args: cobra.NoArgs, Annotations: outside,
		Example: "  balena ps -a --filter status=exited --format '{{.Names}} {{.Status}}'",
		RunE:    func(cmd *cobra.Command, _ []string) error { return e.ps(cmd, o) },
	}
	f := cmd.Flags()
	f.BoolVarP(&o.all, "all", "a", false, "also those that do not run")
	f.BoolVarP(&o.latest, "latest", "l", false, "only the one created last")
	f.IntVarP(&o.last, "last", "n", -1, "only the N created last")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "only the IDs")
	f.BoolVar(&o.noTrunc, "no-trunc", false, "do not cut IDs and commands short")
	f.StringArrayVarP(&o.filters, "filter", "f", nil, "KEY=VALUE: id, name, label, status, ancestor, exited, before, since, volume, publish, expose")
	f.StringVar(&o.format, "format", "", "json, 'table TEMPLATE' or a template")
	return cmd
}

func (e *env) ps(cmd *cobra.Command, o psOptions) error {
	eng, err := e.engine()
	if err != nil {
		return err
	}
	list, err := eng.List(cmd.Context())
	if err != nil {
		return err
	}
	keep, err := run.ParseFilters(o.filters, list)
	if err != nil {
		return usageError{err}
	}
	all := o.all || o.latest || o.last >= 0 || keep.AnyState()
	list = slices.DeleteFunc(list, func(c *run.Observed) bool {
		return !keep.Match(c) || !all && !c.Running() && c.State.Status != store.StatusRestarting
	})
	if o.latest {
		o.last = 1
	}
	if o.last >= 0 && len(list) > o.last {
		list = list[:o.last]
	}
	rows := make([]any, len(list))
	for i, c := range list {
		rows[i] = newPsRow(c, o.noTrunc)
	}
	if o.quiet && o.format == "" {
		o.format = "{{.ID}}"
	}
	return format.List{
		Default: "table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}",
		Headers: map[string]string{"ID": "CONTAINER ID", "RunningFor": "CREATED", "CreatedAt": "CREATED AT"},
	}.Print(e.stdout, o.format, rows)
}

func newPsRow(c *run.Observed, full bool) psRow {
	id, command := c.ID, strings.Join(slices.Concat(c.Config.Entrypoint, c.Config.Cmd), " ")
	if !full {
		id, command = id[:12], ellipsis(command, 20)
	}
	var labels, mounts []string
	for _, k := range slices.Sorted(maps.Keys(c.Config.Labels)) {
		labels = append(labels, k+"="+c.Config.Labels[k])
	}
	for _, m := range c.Config.Mounts {
		if m.Type != "tmpfs" {
			mounts = append(mounts, m.Source)
		}
	}
	network := c.Config.Network
	if network == "" {
		network = netns.ModeBridge
	}
	row := psRow{
		ID: id, Image: c.Image, Command: strconv.Quote(command), CreatedAt: c.Created.Local().Format("2006-01-02 15:04:05 -0700 MST"),
		RunningFor: units.HumanDuration(time.Since(c.Created)) + " ago", State: string(c.State.Status), Status: statusText(c),
		Names: c.Name, Labels: strings.Join(labels, ","), Mounts: strings.Join(mounts, ","), Networks: network,
		Label: func(key string) string { return c.Config.Labels[key] },
	}
	if c.Running() {
		row.Ports, row.Pid = portsText(c), strconv.Itoa(c.Pid)
	}
	return row
}

// statusText is docker's STATUS column.
func statusText(c *run.Observed) string {
	s := c.State
	since := func(t time.Time) string { return units.HumanDuration(time.Since(t)) }
	switch s.Status {
	case store.StatusRunning:
		return "Up " + since(s.Started)
	case store.StatusPaused:
		return "Up " + since(s.Started) + " (Paused)"
	case store.StatusRestarting:
		return fmt.Sprintf("Restarting (%d) %s ago", s.ExitCode, since(s.Finished))
	case store.StatusExited:
		return fmt.Sprintf("Exited (%d) %s ago", s.ExitCode, since(s.Finished))
	default:
		return "Created"
	}
}

// portsText is docker's PORTS column.
func portsText(c *run.Observed) string {
	var out []string
	published := map[string]bool{}
	for _, p := range c.Network.Ports {
		host := p.HostIP
		if host == "" {
			host = "0.0.0.0"
		}
		target := fmt.Sprintf("%d/%s", p.ContainerPort, p.Protocol)
		published[target] = true
		out = append(out, fmt.Sprintf("%s:%d->%s", host, p.HostPort, target))
	}
	for _, p := range c.Config.Ports {
		if !published[p] {
			out = append(out, p)
		}
	}
	return strings.Join(out, ", ")
}

// ellipsis cuts a text to n characters.
func ellipsis(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}
