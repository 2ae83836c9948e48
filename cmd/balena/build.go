package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/moby/term"
	"github.com/spf13/cobra"

	"github.com/balena-os/balena/pkg/build"
	"github.com/balena-os/balena/pkg/pull"
	"github.com/balena-os/balena/pkg/store"
)

// buildFlags are what the command decides itself.
type buildFlags struct {
	quiet    bool
	progress string
}

// newBuildCmd is `balena build`, and the same below image, builder and buildx.
func newBuildCmd(e *env) *cobra.Command {
	var o build.Options
	var b buildFlags
	cmd := &cobra.Command{
		Use: "build [CONTEXT]", Short: "Build an image from a Dockerfile",
		Long: `Build an image from a Dockerfile and a context, which is a folder (by default the one at hand), the URL of a git repository (the program git fetches it) or of a tar archive, or "-" for a tar archive or a Dockerfile from stdin.

With -v, every RUN sees folders of the host and named volumes that become no part of the image: a package cache that all builds share, a source tree that need not be copied, credentials. The build cache asks which volumes there are and not what is in them.

The ID of the image is printed when the image with its names is on stable storage. What a failed build finished is in the cache.`,
		Example: `  balena build -t app .
  balena build -v apt-cache:/var/cache/apt -v ~/.netrc:/root/.netrc:ro -t app .
  tar c . | balena build -f docker/Dockerfile -t app -
  SOURCE_DATE_EPOCH=0 balena build --rewrite-timestamp -t app .
  balena build --platform linux/amd64,linux/arm64 --push -t registry.example.com/app:2 .
  balena build --push --delta-from docker://registry.example.com/app:1 -t registry.example.com/app:2 .`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			from := "."
			if len(args) > 0 {
				from = args[0]
			}
			return e.build(cmd.Context(), from, o, b)
		},
	}
	addBuildFlags(cmd.Flags(), &o, &b)
	return cmd
}

// newBuildxCmd is the local part of docker's buildx.
func newBuildxCmd(e *env) *cobra.Command {
	return group("buildx", "Build images, by the name that docker's plugin has", "  balena buildx build -t app .\n  balena buildx prune -f", newBuildCmd(e), newBuilderPruneCmd(e))
}

func newBuilderCmd(e *env) *cobra.Command {
	return group("builder", "Build images", "  balena builder build -t app .\n  balena builder prune -f", newBuildCmd(e), newBuilderPruneCmd(e))
}

func (e *env) build(ctx context.Context, from string, o build.Options, b buildFlags) error {
	st, err := e.store()
	if err != nil {
		return err
	}
	if o.Stdout() && term.IsTerminal(e.stdout.Fd()) {
		return usageError{errors.New("an archive is nothing for a terminal: name a file with --output, or send stdout somewhere")}
	}
	if err := build.Enter(st, e.args); err != nil {
		return err
	}
	if o.Epoch == nil {
		if err := epoch(&o.Epoch, os.Getenv("SOURCE_DATE_EPOCH")); err != nil {
			return err
		}
		if o.Timestamp != nil {
			o.Epoch = nil // the flag says more
		}
	}
	o.In = e.stdin
	if o.Plain, err = e.plainProgress(b.progress); err != nil {
		return err
	}
	if term.IsTerminal(e.stderr.Fd()) && os.Getenv("TERM") != "dumb" {
		o.Columns = e.columns
	}
	if !b.quiet && b.progress != "quiet" {
		o.Out = e.stderr
	}
	var r build.Result
	err = interruptible(ctx, func(ctx context.Context) error {
		show, done := e.progress(o.Out == nil)
		defer done()
		o.Progress = show
		r, err = build.Build(ctx, st, from, o)
		return err
	})
	if err != nil {
		return e.buildError(err, o.Out == nil)
	}
	if o.Out != nil {
		for _, n := range r.Names {
			fmt.Fprintln(e.stderr, "naming to "+n+" done")
		}
		for _, p := range r.Pushed {
			fmt.Fprintf(e.stderr, "pushing %s done: %s\n", p.Name, p.Digest)
		}
		if err := e.printDeltas(e.stderr, r.Deltas, deltaOptions{}); err != nil {
			return err
		}
	}
	if err := e.archiveOutputs(ctx, st, r, o.Outputs); err != nil {
		return e.buildError(err, false)
	}
	if r.ID != "" && !o.Stdout() {
		fmt.Fprintln(e.stdout, "sha256:"+r.ID)
	}
	return nil
}

// archiveOutputs writes the image that was built to where --output says.
func (e *env) archiveOutputs(ctx context.Context, st *store.Store, r build.Result, outputs []build.Output) error {
	names := r.Names
	if len(names) == 0 {
		names = []string{r.ID}
	}
	for _, o := range outputs {
		format := map[string]string{"oci": pull.OCIArchive, "docker": pull.DockerArchive}[o.Type]
		if format == "" {
			continue
		}
		err := interruptible(ctx, func(ctx context.Context) error {
			if o.Folder {
				_, err := pull.Push(ctx, st, names[0], "oci:"+o.Dest, pull.PushOptions{})
				return err
			}
			return e.toFile(o.Dest, func(w io.Writer) error { return pull.Save(ctx, st, w, format, names...) })
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// columns is how wide the terminal is now; 0 if it does not say.
func (e *env) columns() int {
	ws, err := term.GetWinsize(e.stderr.Fd())
	if err != nil {
		return 0
	}
	return int(ws.Width)
}

// plainProgress says whether each thing that happens gets a line of its own.
func (e *env) plainProgress(how string) (bool, error) {
	switch how {
	case "plain", "rawjson", "quiet":
		return true, nil
	case "tty":
		return false, nil
	case "auto":
		return !term.IsTerminal(e.stderr.Fd()), nil
	}
	return false, usageError{fmt.Errorf("--progress %q is not one of auto, plain, quiet, tty", how)}
}

// buildError gives a build that failed docker's exit code. A quiet build has
// not shown yet what the failed command said.
func (e *env) buildError(err error, quiet bool) error {
	var step *build.StepError
	if quiet && errors.As(err, &step) {
		for _, line := range step.Output {
			fmt.Fprintln(e.stderr, line)
		}
	}
	var status exitStatus
	if errors.As(err, &status) || errors.Is(err, build.ErrOptions) {
		return err
	}
	return exitStatus{1, err}
}

// epoch reads seconds since 1970, or an RFC 3339 time; "" is none.
func epoch(p **time.Time, s string) error {
	if s == "" {
		return nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		n, nerr := strconv.ParseInt(s, 10, 64)
		if nerr != nil {
			return fmt.Errorf("time %q is neither seconds since 1970 nor as 2006-01-02T15:04:05Z", s)
		}
		t = time.Unix(n, 0)
	}
	t = t.UTC()
	*p = &t
	return nil
}

// keyValues reads KEY=VALUE, and of KEY alone takes the environment's value, if
// there is one.
func keyValues(m *map[string]string) func(string) error {
	return func(s string) error {
		key, val, ok := strings.Cut(s, "=")
		if key == "" {
			return fmt.Errorf("%q is not KEY=VALUE", s)
		}
		if !ok {
			if val, ok = os.LookupEnv(key); !ok {
				return nil
			}
		}
		if *m == nil {
			*m = map[string]string{}
		}
		(*m)[key] = val
		return nil
	}
}
