package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"

	"github.com/docker/go-units"
	"github.com/moby/term"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/balena-os/balena/cmd/balena/internal/format"
	"github.com/balena-os/balena/pkg/pull"
)

// exitInterrupted is what a shell makes of a command that SIGINT ended.
const exitInterrupted = 130

// addRegistryFlags adds what all verbs that talk to a registry have in common.
func addRegistryFlags(f *pflag.FlagSet, o *pull.RegistryOptions) {
	f.StringVar(&o.AuthFile, "authfile", "", "file with credentials (default: $REGISTRY_AUTH_FILE, else podman's and docker's)")
	f.StringVar(&o.CertDir, "cert-dir", "", "folder with *.crt, *.cert and *.key for the registry (default: certs.d)")
	f.Var(optionalBool{&o.TLSVerify}, "tls-verify", "require HTTPS and verify certificates (default: as registries.conf says, and not for loopback addresses)")
	f.Lookup("tls-verify").NoOptDefVal = "true"
}

func addCredsFlag(f *pflag.FlagSet, o *pull.RegistryOptions) {
	f.StringVar(&o.Creds, "creds", "", "USER[:PASSWORD] for the registry")
}

// optionalBool is a flag that can be unset, true or false.
type optionalBool struct{ p **bool }

func (b optionalBool) String() string { return "" }
func (b optionalBool) Type() string   { return "bool" }
func (b optionalBool) Set(s string) error {
	v, err := strconv.ParseBool(s)
	*b.p = &v
	return err
}

// progress shows on stderr what happens to layers. done ends the display.
func (e *env) progress(quiet bool) (show func(pull.Event), done func()) {
	if quiet {
		return pull.NewWarnings(e.stderr), func() {}
	}
	width := 0
	terminal := term.IsTerminal(e.stderr.Fd()) && os.Getenv("TERM") != "dumb"
	if ws, err := term.GetWinsize(e.stderr.Fd()); terminal && err == nil {
		width = int(ws.Width)
	}
	return pull.NewProgress(e.stderr, terminal, width)
}

// interruptible runs f with a context that SIGINT and SIGTERM end, so that it
// can tidy up; a second signal ends the process.
func interruptible(ctx context.Context, f func(context.Context) error) error {
	ctx, stop := signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	err := f(ctx)
	if err != nil && ctx.Err() != nil {
		return exitStatus{exitInterrupted, err}
	}
	return err
}

// pullImages pulls for a platform ("" is ours) as the user's configuration
// says.
func (e *env) pullImages(ctx context.Context, ref, platform string, quiet bool) ([]pull.Image, error) {
	return e.pull(ctx, ref, pull.Options{Platform: platform}, quiet)
}

// pull pulls, with progress on stderr unless quiet.
func (e *env) pull(ctx context.Context, ref string, o pull.Options, quiet bool) ([]pull.Image, error) {
	st, err := e.store()
	if err != nil {
		return nil, err
	}
	var images []pull.Image
	err = interruptible(ctx, func(ctx context.Context) error {
		show, done := e.progress(quiet)
		defer done()
		o.Progress = show
		images, err = pull.Pull(ctx, st, ref, o)
		return err
	})
	return images, err
}

type pullOptions struct {
	pull.Options
	quiet, dryRun bool
	format        string
}

func newPullCmd(e *env) *cobra.Command {
	var o pullOptions
	cmd := &cobra.Command{
		Use: "pull [TRANSPORT:]IMAGE...", Short: "Fetch images",
		Long: `Fetch images, from a registry or from

  docker://NAME                      the same, in full
  oci:FOLDER[:NAME]                  an OCI layout
  oci-archive:FILE[:NAME]            one in a tar archive
  docker-archive:FILE[:NAME]         what "docker save" writes
  dir:FOLDER                         what "skopeo copy" writes to dir:
  containers-storage:NAME            the store itself

When the command succeeds, the image is on stable storage. It prints the image's ID.

Where the registry has a delta to the image from one that is in the store, and that is less to fetch than the layers that are missing, the layers are made from it. If that fails, they are fetched whole, with a warning. An image that is itself a delta, as "balena image delta -t" and balena-engine store them, gives the image that it leads to; with --no-delta it stays what it is.`,
		Example: `  balena pull debian:12
  balena pull --platform linux/arm64 registry.example.com/app@sha256:…
  balena pull --dry-run registry.example.com/app:2
  balena pull oci-archive:/media/usb/app.tar`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.format != "" && (!o.dryRun || o.format != "json") {
				return usageError{fmt.Errorf("--format is json, with --dry-run")}
			}
			for _, ref := range args {
				if o.dryRun {
					if err := e.previewPull(cmd.Context(), ref, o); err != nil {
						return err
					}
					continue
				}
				images, err := e.pull(cmd.Context(), ref, o.Options, o.quiet)
				for _, img := range images {
					fmt.Fprintln(e.stdout, img.ID)
				}
				if err != nil {
					return err
				}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.AllTags, "all-tags", "a", false, "fetch every tag of the repository")
	f.BoolVar(&o.dryRun, "dry-run", false, "only show what would be fetched, and how")
	f.StringVar(&o.format, "format", "", "json, for --dry-run")
	f.BoolVar(&o.NoDelta, "no-delta", false, "fetch whole layers, without asking for deltas")
	f.BoolVar(&o.DeltaIndex, "delta-index", false, "where no delta fits, look for tar-diffs under the repository's tag _deltaindex: one more request")
	f.StringVar(&o.Platform, "platform", "", "OS/ARCH[/VARIANT] to choose from an index (default: this machine's)")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "show no progress")
	addRegistryFlags(f, &o.RegistryOptions)
	addCredsFlag(f, &o.RegistryOptions)
	return cmd
}

// layerRow is a line of pull --dry-run.
type layerRow struct{ Layer, Size, How string }

// previewPull prints what a pull would do.
func (e *env) previewPull(ctx context.Context, ref string, o pullOptions) error {
	st, err := e.store()
	if err != nil {
		return err
	}
	o.Progress = pull.NewWarnings(e.stderr)
	var list []pull.Preview
	err = interruptible(ctx, func(ctx context.Context) error {
		list, err = pull.PreviewPull(ctx, st, ref, o.Options)
		return err
	})
	if err != nil {
		return err
	}
	for _, v := range list {
		if o.format == "json" {
			err = json.NewEncoder(e.stdout).Encode(v)
		} else {
			err = printPreview(e.stdout, v)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func printPreview(w io.Writer, v pull.Preview) error {
	human := func(n int64) string { return units.HumanSizeWithPrecision(float64(n), 4) }
	fmt.Fprintf(w, "%s: image %s\n", cmp.Or(pull.FamiliarName(v.Name), "without a name"), imageID(v.ID, false))
	var rows []any
	for _, l := range v.Layers {
		how := map[string]string{
			pull.HowHave: "here already", pull.HowLocal: "made from the same layer here", pull.HowWhole: "fetched whole",
		}[l.How]
		if l.How == pull.HowDelta {
			how = "in the delta from " + v.Delta.From
		}
		rows = append(rows, &layerRow{imageID(l.Digest.Encoded(), false), human(max(0, l.Size)), how})
	}
	list := format.List{Default: `table {{.Layer}}\t{{.Size}}\t{{.How}}`}
	if err := list.Print(w, "", rows); err != nil {
		return err
	}
	if v.Delta == nil {
		fmt.Fprintf(w, "fetches %s\n", human(v.Fetch))
		return nil
	}
	if v.Whole < 0 {
		fmt.Fprintf(w, "fetches %s, a delta from %s\n", human(v.Fetch), v.Delta.From)
		return nil
	}
	fmt.Fprintf(w, "fetches %s instead of %s, with a delta of %s from %s\n", human(v.Fetch), human(v.Whole), human(v.Delta.Size), v.Delta.From)
	return nil
}
