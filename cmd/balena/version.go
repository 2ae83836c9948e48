package main

import (
	"cmp"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/balena-os/balena/cmd/balena/internal/format"
)

// Set at link time (Makefile).
var (
	version    = "28.5-rev1" // the docker level that the command line follows, and our revision of it
	commit     = "unknown"
	buildEpoch = "0" // SOURCE_DATE_EPOCH
)

// apiVersion is docker's API at the level that the command line follows. What
// inspect and --format show is in its shapes; nothing serves it.
const apiVersion = "1.51"

func versionString() string { return fmt.Sprintf("%s, build %s", version, commit) }

// versionReport is docker's: scripts ask for .Client.Version or .Server.Version.
// Both are this program.
type versionReport struct {
	Client programVersion
	Server programVersion
}

type programVersion struct {
	Version    string
	ApiVersion string // docker's spelling
	GoVersion  string
	GitCommit  string
	Os         string
	Arch       string
	BuildTime  string // RFC 3339
	Runtime    component
	Storage    component
}

// component is a part of the engine and its version.
type component struct{ Name, Version string }

func (c component) String() string {
	if c.Version == "" {
		return c.Name
	}
	return c.Name + " " + c.Version
}

func newVersionCmd(e *env) *cobra.Command {
	var text string
	cmd := &cobra.Command{
		Use: "version", Short: "Show the version", Args: cobra.NoArgs, Annotations: outside,
		Long: `Show the version of the engine and of what it is made of: docker's level that the command line follows, with a revision of ours, and the version of docker's API whose shapes "inspect" and "--format" show.

There is no daemon: for templates, .Server is the same as .Client.`,
		Example: "  balena version\n  balena version --format '{{.Client.Version}}'\n  balena version --format json",
		RunE: func(*cobra.Command, []string) error {
			v := thisProgram(e.flags.runtime)
			if text != "" {
				return format.List{}.Print(e.stdout, text, []any{versionReport{v, v}})
			}
			return v.print(e.stdout)
		},
	}
	cmd.Flags().StringVarP(&text, "format", "f", "", "json or a template")
	return cmd
}

// thisProgram describes the binary; ociRuntime is the path of another runtime
// than its own, or "".
func thisProgram(ociRuntime string) programVersion {
	seconds, _ := strconv.ParseInt(buildEpoch, 10, 64)
	v := programVersion{
		Version: version, ApiVersion: apiVersion, GoVersion: runtime.Version(), GitCommit: commit,
		Os: runtime.GOOS, Arch: runtime.GOARCH, BuildTime: time.Unix(seconds, 0).UTC().Format(time.RFC3339),
		Runtime: component{Name: cmp.Or(ociRuntime, "balena-runc")},
		Storage: component{Name: "containers/storage"},
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	for _, m := range info.Deps {
		switch {
		case m.Path == "github.com/opencontainers/runc" && ociRuntime == "":
			v.Runtime.Version = m.Version
		case m.Path == "go.podman.io/storage":
			v.Storage.Version = m.Version
		}
	}
	return v
}

func (v programVersion) print(w io.Writer) error {
	built, _ := time.Parse(time.RFC3339, v.BuildTime)
	_, err := fmt.Fprintf(w, `Client:
 Version:           %s
 API version:       %s
 Go version:        %s
 Git commit:        %s
 Built:             %s
 OS/Arch:           %s/%s
 Runtime:           %s
 Storage:           %s
`, v.Version, v.ApiVersion, v.GoVersion, v.GitCommit, built.Format(time.ANSIC), v.Os, v.Arch, v.Runtime, v.Storage)
	return err
}
