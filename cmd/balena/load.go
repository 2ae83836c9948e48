package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/moby/term"
	"github.com/spf13/cobra"

	"github.com/balena-os/balena/pkg/pull"
)

func newLoadCmd(e *env) *cobra.Command {
	var o pull.Options
	var input string
	var quiet bool
	cmd := &cobra.Command{
		Use: "load", Short: "Fetch images from an archive",
		Long: `Put the images of a tar archive into the store, with the names that they have there: of one that docker, podman or "balena save" wrote (docker-archive, oci-archive), or of a delta that "balena image delta -o" wrote, which needs the image that it starts from to be here.

Without --input the archive comes from the standard input, and it may be compressed. An uncompressed file is read where it lies; anything else in one pass, without temporary files, which the storage driver vfs cannot do.`,
		Example: `  balena load -i app.tar
  balena load -i /media/usb/update.tar
  curl -s https://example.com/app.tar.gz | balena load`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			in := e.stdin
			if input != "" {
				f, err := os.Open(input)
				if err != nil {
					return err
				}
				defer f.Close()
				in = f
			} else if term.IsTerminal(in.Fd()) {
				return usageError{errors.New("the standard input is a terminal: name the archive with --input, or redirect it")}
			}
			return e.load(cmd.Context(), in, o, quiet)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&input, "input", "i", "", "the archive's file (default: standard input)")
	f.StringVar(&o.Platform, "platform", "", "OS/ARCH[/VARIANT] to choose from an index (default: this machine's)")
	f.BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	return cmd
}

func (e *env) load(ctx context.Context, in *os.File, o pull.Options, quiet bool) error {
	st, err := e.store()
	if err != nil {
		return err
	}
	var images []pull.Image
	err = interruptible(ctx, func(ctx context.Context) error {
		show, done := e.progress(quiet)
		defer done()
		o.Progress = show
		images, err = pull.Load(ctx, st, in, o)
		return err
	})
	for _, img := range images {
		if img.Name == "" {
			fmt.Fprintln(e.stdout, "Loaded image ID: sha256:"+img.ID)
		} else {
			fmt.Fprintln(e.stdout, "Loaded image: "+pull.FamiliarName(img.Name))
		}
	}
	return err
}

func newSaveCmd(e *env) *cobra.Command {
	var output string
	format := pull.DockerArchive
	cmd := &cobra.Command{
		Use: "save IMAGE...", Short: "Write images to an archive",
		Long: `Write images, with their names, to one tar archive. It is written in one pass, with the layers uncompressed.`,
		Example: `  balena save -o app.tar app:1
  balena save app:1 app:2 | gzip >app.tar.gz`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			st, err := e.store()
			if err != nil {
				return err
			}
			return interruptible(cmd.Context(), func(ctx context.Context) error {
				return e.toFile(output, func(w io.Writer) error { return pull.Save(ctx, st, w, format, args...) })
			})
		},
	}
	f := cmd.Flags()
	choice(f, &format, "format", "docker-archive, which is an OCI layout, too, or oci-archive (default docker-archive)", pull.DockerArchive, pull.OCIArchive)
	f.StringVarP(&output, "output", "o", "", "the archive's file (default: standard output)")
	return cmd
}

// toFile gives f the named file, which is there only once f succeeded, or the
// standard output.
func (e *env) toFile(name string, f func(io.Writer) error) error {
	if name == "" || name == "-" {
		if term.IsTerminal(e.stdout.Fd()) {
			return usageError{errors.New("an archive is nothing for a terminal: name a file with --output, or send stdout somewhere")}
		}
		return f(e.stdout)
	}
	file, err := newOutputFile(name)
	if err != nil {
		return err
	}
	defer file.discard()
	if err := f(file); err != nil {
		return err
	}
	return file.keep()
}
