package main

import (
	"fmt"
	"runtime"
	"strconv"
	"time"

	"github.com/spf13/cobra"
)

// Set at link time (Makefile).
var (
	version    = "28.5-rev1" // the docker level that the command line follows, and our revision of it
	commit     = "unknown"
	buildEpoch = "0" // SOURCE_DATE_EPOCH
)

func versionString() string { return fmt.Sprintf("%s, build %s", version, commit) }

func newVersionCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show the version", Args: cobra.NoArgs, Annotations: outside,
		Example: "  balena version",
		RunE: func(*cobra.Command, []string) error {
			built, _ := strconv.ParseInt(buildEpoch, 10, 64)
			_, err := fmt.Fprintf(e.stdout, "Client:\n Version:    %s\n Go version: %s\n Git commit: %s\n Built:      %s\n OS/Arch:    %s/%s\n",
				version, runtime.Version(), commit, time.Unix(built, 0).UTC().Format(time.ANSIC), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}
