package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/balena-os/balena/pkg/pull"
)

type pushOptions struct {
	pull.PushOptions
	allTags, quiet bool
	digestFile     string
	level          int
}

func newPushCmd(e *env) *cobra.Command {
	var o pushOptions
	cmd := &cobra.Command{
		Use: "push IMAGE [[TRANSPORT:]DESTINATION]", Short: "Send an image",
		Long: `Send an image to the registry that its name says, or to

  docker://NAME                      another name
  oci:FOLDER[:NAME]                  an OCI layout
  oci-archive:FILE[:NAME]            one in a tar archive
  docker-archive:FILE[:NAME]         what "docker load" reads
  dir:FOLDER                         files

Layers that the registry has are not sent again, and a push that was interrupted goes on with those that are missing.`,
		Example: `  balena push registry.example.com/app:1
  balena push --digestfile digest app:1 docker://registry.example.com/app:1
  balena push app:1 oci-archive:/media/usb/app.tar:app:1`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("compression-level") {
				o.CompressionLevel = &o.level
			}
			dest := ""
			if len(args) == 2 {
				dest = args[1]
			}
			return interruptible(cmd.Context(), func(ctx context.Context) error { return e.push(ctx, args[0], dest, o) })
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.allTags, "all-tags", "a", false, "send every tag of the repository")
	f.StringVar(&o.Compression, "compression-format", "", "gzip or zstd, for layers that must be compressed (default gzip)")
	f.IntVar(&o.level, "compression-level", 0, "how hard to try")
	f.StringVar(&o.digestFile, "digestfile", "", "write the manifest's digest to this file")
	f.StringVarP(&o.Format, "format", "f", "", "oci or docker (v2s2), of the manifest (default: as it is)")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "show no progress, print the name only")
	addRegistryFlags(f, &o.RegistryOptions)
	addCredsFlag(f, &o.RegistryOptions)
	return cmd
}

func (e *env) push(ctx context.Context, name, dest string, o pushOptions) error {
	st, err := e.store()
	if err != nil {
		return err
	}
	names := []string{name}
	if o.allTags {
		if dest != "" {
			return usageError{fmt.Errorf("--all-tags takes no destination")}
		}
		if names, err = pull.Tags(ctx, st, name); err != nil {
			return err
		}
	}
	for _, n := range names {
		show, done := e.progress(o.quiet)
		o.Progress = show
		p, err := pull.Push(ctx, st, n, dest, o.PushOptions)
		done()
		if err != nil {
			return err
		}
		switch {
		case o.quiet && p.Name != "":
			fmt.Fprintln(e.stdout, p.Name)
		case !o.quiet && p.Tag != "":
			fmt.Fprintf(e.stdout, "%s: digest: %s size: %d\n", p.Tag, p.Digest, p.Size)
		case !o.quiet:
			fmt.Fprintf(e.stdout, "digest: %s size: %d\n", p.Digest, p.Size)
		}
		if o.digestFile != "" {
			if err := os.WriteFile(o.digestFile, []byte(p.Digest), 0o644); err != nil {
				return fmt.Errorf("writing the digest: %w", err)
			}
		}
	}
	return nil
}
