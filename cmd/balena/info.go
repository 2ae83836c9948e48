package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/balena-os/balena/cmd/balena/internal/format"
	"github.com/balena-os/balena/pkg/pull"
)

// infoRecord is what `balena info --format` sees: docker's fields, and from
// RunRoot on some that a device wants. Sizes are in bytes.
type infoRecord struct {
	Containers        int
	ContainersRunning int
	ContainersPaused  int
	ContainersStopped int
	Images            int
	Driver            string
	DriverStatus      [][2]string
	MemoryLimit       bool
	SwapLimit         bool
	PidsLimit         bool
	CpuCfsQuota       bool
	CPUShares         bool
	CPUSet            bool
	LoggingDriver     string
	CgroupDriver      string
	CgroupVersion     string
	KernelVersion     string
	OperatingSystem   string
	OSType            string
	Architecture      string
	NCPU              int
	MemTotal          int64
	DockerRootDir     string
	Name              string
	ServerVersion     string
	Runtimes          map[string]infoRuntime
	DefaultRuntime    string
	RuncCommit        struct{ ID string }
	InitBinary        string
	SecurityOptions   []string
	SystemTime        string
	Warnings          []string

	RunRoot      string
	Rootless     bool
	FreeSpace    int64
	TotalSpace   int64
	MemAvailable int64
	MemBudget    int64
}

type infoRuntime struct {
	Path string `json:"path"`
}

func newInfoCmd(e *env) *cobra.Command {
	var template string
	cmd := &cobra.Command{
		Use: "info", Short: "Show what the engine works with on this machine", Args: cobra.NoArgs,
		Long:    "Show the numbers of containers and images, the storage and the space that is left, cgroups, security, the kernel and memory, in docker's words.",
		Example: "  balena info\n  balena info --format '{{.Driver}} {{.FreeSpace}}'",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return e.info(cmd.Context(), template)
		},
	}
	cmd.Flags().StringVarP(&template, "format", "f", "", "json or a template")
	return cmd
}

func (e *env) info(ctx context.Context, template string) error {
	r, err := e.infoRecord(ctx)
	if err != nil {
		return err
	}
	if template != "" {
		return format.List{}.Print(e.stdout, template, []any{r})
	}
	if err := r.print(e.stdout); err != nil {
		return err
	}
	for _, w := range r.Warnings {
		fmt.Fprintln(e.stderr, "WARNING: "+w)
	}
	return nil
}

func (e *env) infoRecord(ctx context.Context) (infoRecord, error) {
	eng, err := e.engine()
	if err != nil {
		return infoRecord{}, err
	}
	in, err := eng.Info(ctx)
	if err != nil {
		return infoRecord{}, err
	}
	images, err := pull.List(ctx, eng.Store, pull.ListOptions{All: true})
	if err != nil {
		return infoRecord{}, err
	}
	mem := pull.LookAtMemory()
	can := func(controller string) bool { return slices.Contains(in.Controllers, controller) }
	r := infoRecord{
		Containers:        in.Running + in.Paused + in.Stopped,
		ContainersRunning: in.Running, ContainersPaused: in.Paused, ContainersStopped: in.Stopped,
		Images: len(images), Driver: in.Driver, DriverStatus: in.DriverStatus,
		MemoryLimit: can("memory"), SwapLimit: can("memory"), PidsLimit: can("pids"),
		CpuCfsQuota: can("cpu"), CPUShares: can("cpu"), CPUSet: can("cpuset"),
		LoggingDriver: "json-file", CgroupDriver: in.CgroupDriver, CgroupVersion: strconv.Itoa(in.CgroupVersion),
		KernelVersion: in.Kernel, OperatingSystem: in.OS, OSType: "linux", Architecture: in.Machine,
		NCPU: in.CPUs, MemTotal: mem.Total, DockerRootDir: eng.Store.Root(), Name: in.Host, ServerVersion: version,
		InitBinary: "balena-init", SecurityOptions: in.SecurityOptions,
		SystemTime: time.Now().UTC().Format(time.RFC3339Nano), Warnings: in.Warnings,
		RunRoot: eng.Store.RunRoot(), Rootless: eng.Rootless, FreeSpace: in.FreeSpace, TotalSpace: in.TotalSpace,
		MemAvailable: mem.Available, MemBudget: mem.Budget,
	}
	r.DefaultRuntime = "balena-runc"
	if e.flags.runtime != "" {
		r.DefaultRuntime = e.flags.runtime
	} else {
		r.RuncCommit.ID = in.RuntimeVersion
	}
	r.Runtimes = map[string]infoRuntime{r.DefaultRuntime: {Path: r.DefaultRuntime}}
	return r, nil
}

// print writes the record in the lines of `docker info`.
func (r infoRecord) print(w io.Writer) error {
	var b strings.Builder
	line := func(indent int, name string, value any) {
		fmt.Fprintf(&b, "%s%s: %v\n", strings.Repeat(" ", indent), name, value)
	}
	line(0, "Containers", r.Containers)
	line(1, "Running", r.ContainersRunning)
	line(1, "Paused", r.ContainersPaused)
	line(1, "Stopped", r.ContainersStopped)
	line(0, "Images", r.Images)
	line(0, "Server Version", r.ServerVersion)
	line(0, "Storage Driver", r.Driver)
	for _, s := range r.DriverStatus {
		line(1, s[0], s[1])
	}
	line(0, "Docker Root Dir", r.DockerRootDir)
	line(0, "Run Root", r.RunRoot)
	line(0, "Free Space", fmt.Sprintf("%s of %s", bytes(r.FreeSpace), bytes(r.TotalSpace)))
	line(0, "Logging Driver", r.LoggingDriver)
	line(0, "Cgroup Driver", r.CgroupDriver)
	line(0, "Cgroup Version", r.CgroupVersion)
	line(0, "Runtimes", r.DefaultRuntime)
	line(0, "Default Runtime", r.DefaultRuntime)
	line(0, "Init Binary", r.InitBinary)
	if r.RuncCommit.ID != "" {
		line(0, "runc version", r.RuncCommit.ID)
	}
	b.WriteString("Security Options:\n")
	for _, o := range r.SecurityOptions {
		name, rest, found := strings.Cut(strings.TrimPrefix(o, "name="), ",profile=")
		b.WriteString(" " + name + "\n")
		if found {
			line(2, "Profile", rest)
		}
	}
	line(0, "Rootless", r.Rootless)
	line(0, "Kernel Version", r.KernelVersion)
	line(0, "Operating System", r.OperatingSystem)
	line(0, "OSType", r.OSType)
	line(0, "Architecture", r.Architecture)
	line(0, "CPUs", r.NCPU)
	line(0, "Total Memory", units.BytesSize(float64(r.MemTotal)))
	line(0, "Available Memory", units.BytesSize(float64(r.MemAvailable)))
	line(0, "Memory Budget", units.BytesSize(float64(r.MemBudget)))
	line(0, "Name", r.Name)
	_, err := io.WriteString(w, b.String())
	return err
}
