package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strconv"

	"github.com/moby/term"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

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

func newPullCmd(e *env) *cobra.Command {
	var o pull.Options
	var quiet bool
	cmd := &cobra.Command{
		Use: "pull [TRANSPORT:]IMAGE...", Short: "Fetch images",
		Long: `Fetch images, from a registry or from

  docker://NAME                      the same, in full
  oci:FOLDER[:NAME]                  an OCI layout
  oci-archive:FILE[:NAME]            one in a tar archive
  docker-archive:FILE[:NAME]         what "docker save" writes
  dir:FOLDER                         what "skopeo copy" writes to dir:
  containers-storage:NAME            the store itself

When the command succeeds, the image is on stable storage. It prints the image's ID.`,
		Example: `  balena pull debian:12
  balena pull --platform linux/arm64 registry.example.com/app@sha256:…
  balena pull oci-archive:/media/usb/app.tar`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, ref := range args {
				images, err := e.pull(cmd.Context(), ref, o, quiet)
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
	f.StringVar(&o.Platform, "platform", "", "OS/ARCH[/VARIANT] to choose from an index (default: this machine's)")
	f.BoolVar(&o.NoDelta, "no-delta", false, "fetch whole layers, without asking for deltas")
	f.BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	addRegistryFlags(f, &o.RegistryOptions)
	addCredsFlag(f, &o.RegistryOptions)
	return cmd
}
