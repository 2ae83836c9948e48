package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/moby/term"
	"github.com/spf13/cobra"

	"github.com/balena-os/balena/pkg/build"
	"github.com/balena-os/balena/pkg/pull"
)

func newCommitCmd(e *env) *cobra.Command {
	var o build.CommitOptions
	var iidFile string
	var quiet bool
	cmd := &cobra.Command{
		Use: "commit CONTAINER [NAME[:TAG]]", Short: "Make an image of a container",
		Long: `Make an image of a container: of its image, a layer with what the container changed, and what it was made with (command, environment, user, labels, ports). What is mounted in the container is not in the image.

A running container's processes stand still meanwhile, where the engine has a cgroup to do that with; --pause=false lets them run.

-c changes what the image says by instructions of a Dockerfile: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, SHELL, STOPSIGNAL, USER, VOLUME and WORKDIR.`,
		Example: `  balena commit web web:patched
  balena commit -a Ann -m 'with tools' -c 'CMD ["sh"]' -c 'ENV DEBUG=1' web web:debug`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				o.Name = args[1]
			}
			if !cmd.Flags().Changed("pause") {
				o.Unpaused = func(err error) {
					if !quiet {
						e.warn(fmt.Sprintf("%s goes on while it is read: %v", args[0], err))
					}
				}
			}
			return interruptible(cmd.Context(), func(ctx context.Context) error { return e.commit(ctx, args[0], o, iidFile) })
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.Author, "author", "a", "", "who made it")
	list(f, &o.Changes, "change", "c", "instruction of a Dockerfile to apply")
	value(f, "format", "f", "string", "docker or oci: the kind of the image (default docker)", func(s string) error {
		if o.Format = s; s != "docker" && s != "oci" {
			return fmt.Errorf("%q is not one of docker, oci", s)
		}
		return nil
	})
	f.StringVar(&iidFile, "iidfile", "", "write the image's ID to this file")
	f.StringVarP(&o.Message, "message", "m", "", "what it is")
	f.BoolVarP(&o.Pause, "pause", "p", true, "stop the container's processes meanwhile")
	f.BoolVarP(&quiet, "quiet", "q", false, "no warnings")
	return cmd
}

func (e *env) commit(ctx context.Context, name string, o build.CommitOptions, iidFile string) error {
	eng, err := e.engine()
	if err != nil {
		return err
	}
	if o.Created, err = sourceDate(); err != nil {
		return err
	}
	img, err := build.Commit(ctx, eng, name, o)
	if err != nil {
		return err
	}
	return e.printImage(img, iidFile)
}

func (e *env) printImage(img pull.Image, iidFile string) error {
	if iidFile != "" {
		if err := os.WriteFile(iidFile, []byte("sha256:"+img.ID), 0o644); err != nil {
			return fmt.Errorf("writing the image's ID: %w", err)
		}
	}
	fmt.Fprintln(e.stdout, "sha256:"+img.ID)
	return nil
}

func newImportCmd(e *env) *cobra.Command {
	var o build.ImportOptions
	var platform struct{ os, arch, variant string }
	cmd := &cobra.Command{
		Use: "import FILE|URL|- [NAME[:TAG]]", Short: "Make an image of a tar archive of files",
		Long: `Make an image of one layer of a tar archive of files, which may be compressed: a file, what an http(s) URL gives, or with "-" the standard input. It is extracted while it is read.

-c says what the image says by instructions of a Dockerfile: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, SHELL, STOPSIGNAL, USER, VOLUME and WORKDIR.

An archive of images is for "balena load".`,
		Example: `  balena import -c 'CMD ["/bin/sh"]' rootfs.tar.gz base:1
  tar c -C rootfs . | balena import --platform linux/arm64 - base:arm64`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				o.Name = args[1]
			}
			var err error
			if o.Platform, err = joinPlatform(o.Platform, platform.os, platform.arch, platform.variant); err != nil {
				return err
			}
			if args[0] == "-" && term.IsTerminal(e.stdin.Fd()) {
				return usageError{errors.New("the standard input is a terminal: name the archive, or redirect it")}
			}
			return interruptible(cmd.Context(), func(ctx context.Context) error { return e.importImage(ctx, args[0], o) })
		},
	}
	f := cmd.Flags()
	list(f, &o.Changes, "change", "c", "instruction of a Dockerfile to apply")
	f.StringVarP(&o.Message, "message", "m", "", "what it is (default: where it came from)")
	f.StringVar(&o.Platform, "platform", "", "OS/ARCH[/VARIANT] that it is for (default: this machine's)")
	addPlatformFlags(f, &platform.os, &platform.arch, &platform.variant)
	f.BoolP("quiet", "q", false, "")
	f.Lookup("quiet").Hidden = true // podman's; there is nothing to leave out
	return cmd
}

func (e *env) importImage(ctx context.Context, from string, o build.ImportOptions) error {
	st, err := e.store()
	if err != nil {
		return err
	}
	if o.Created, err = sourceDate(); err != nil {
		return err
	}
	o.In = e.stdin
	img, err := build.Import(ctx, st, from, o)
	if err != nil {
		return err
	}
	return e.printImage(img, "")
}
