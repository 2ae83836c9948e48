package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	imgspecv1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/balena-os/balena/pkg/pull"
)

// newManifestCmd holds the commands about lists: indexes of images for several
// platforms.
func newManifestCmd(e *env) *cobra.Command {
	return group("manifest", "Make and push lists of images for several platforms", "  balena manifest create registry.example.com/app:1 app:amd64 app:arm64\n  balena manifest push registry.example.com/app:1",
		newManifestAddCmd(e),
		newManifestAnnotateCmd(e),
		newManifestCreateCmd(e),
		newManifestExistsCmd(e),
		newManifestInspectCmd(e),
		newManifestPushCmd(e),
		newManifestRemoveCmd(e),
		newManifestRmCmd(e),
	)
}

// addListFlags are those of the commands that read images.
func addListFlags(f *pflag.FlagSet, o *pull.RegistryOptions) {
	addRegistryFlags(f, o)
	addCredsFlag(f, o)
	value(f, "insecure", "", "bool", "take a registry without TLS, or with a certificate that nobody vouches for", func(s string) error {
		return f.Set("tls-verify", map[string]string{"true": "false", "false": "true"}[s])
	})
	f.Lookup("insecure").NoOptDefVal = "true"
}

func newManifestCreateCmd(e *env) *cobra.Command {
	var o pull.ListOf
	var annotations []string
	cmd := &cobra.Command{
		Use: "create LIST [IMAGE...]", Short: "Make a list of images",
		Long: `Make a list of images. An IMAGE is one of this machine, or else (and with docker://) one of its registry, of which only the manifest is fetched.`,
		Example: `  balena manifest create registry.example.com/app:1 app:amd64 app:arm64
  balena manifest create --amend app:1 docker://registry.example.com/app:armv7`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			st, err := e.store()
			if err != nil {
				return err
			}
			if o.Annotations, err = annotationMap(annotations); err != nil {
				return err
			}
			id, err := pull.CreateList(cmd.Context(), st, args[0], o, args[1:]...)
			if err != nil {
				return err
			}
			fmt.Fprintln(e.stdout, id)
			return nil
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.Amend, "amend", "a", false, "add to a list that is there already")
	f.BoolVar(&o.All, "all", false, "of an IMAGE that is a list itself, take all images, not only that for this machine")
	list(f, &annotations, "annotation", "", "KEY=VALUE for the list")
	addListFlags(f, &o.RegistryOptions)
	return cmd
}

func annotationMap(list []string) (map[string]string, error) {
	var m map[string]string
	set := keyValues(&m)
	for _, a := range list {
		if err := set(a); err != nil {
			return nil, usageError{fmt.Errorf("annotation %w", err)}
		}
	}
	return m, nil
}

// said is what the flags say about an image of a list.
type said struct {
	imgspecv1.Platform
	annotations []string
}

func addSaidFlags(f *pflag.FlagSet, s *said) {
	list(f, &s.annotations, "annotation", "", "KEY=VALUE for the image")
	f.StringVar(&s.Architecture, "arch", "", "architecture that it is for")
	f.StringVar(&s.OS, "os", "", "operating system that it is for")
	list(f, &s.OSFeatures, "os-features", "", "feature of the operating system that it needs")
	f.StringVar(&s.OSVersion, "os-version", "", "version of the operating system that it needs")
	f.StringVar(&s.Variant, "variant", "", "variant of the architecture")
}

// put puts it into a list's entry.
func (s *said) put() (func(*imgspecv1.Descriptor), error) {
	annotations, err := annotationMap(s.annotations)
	return func(d *imgspecv1.Descriptor) {
		for _, f := range []struct {
			to  *string
			val string
		}{{&d.Platform.Architecture, s.Architecture}, {&d.Platform.OS, s.OS}, {&d.Platform.OSVersion, s.OSVersion}, {&d.Platform.Variant, s.Variant}} {
			if f.val != "" {
				*f.to = f.val
			}
		}
		d.Platform.OSFeatures = append(d.Platform.OSFeatures, s.OSFeatures...)
		for k, v := range annotations {
			if d.Annotations == nil {
				d.Annotations = map[string]string{}
			}
			d.Annotations[k] = v
		}
	}, err
}

func newManifestAddCmd(e *env) *cobra.Command {
	var o pull.ListOf
	var s said
	cmd := &cobra.Command{
		Use: "add LIST IMAGE", Short: "Add an image to a list",
		Example: "  balena manifest add app:1 docker://registry.example.com/app:armv7",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.editList(cmd.Context(), args, true, o, &s)
		},
	}
	cmd.Flags().BoolVar(&o.All, "all", false, "of an IMAGE that is a list itself, take all images, not only that for this machine")
	addSaidFlags(cmd.Flags(), &s)
	addListFlags(cmd.Flags(), &o.RegistryOptions)
	return cmd
}

func newManifestAnnotateCmd(e *env) *cobra.Command {
	var s said
	cmd := &cobra.Command{
		Use: "annotate LIST IMAGE|DIGEST", Short: "Say more about an image of a list",
		Example: "  balena manifest annotate --arch arm --variant v6 app:1 app:rpi",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.editList(cmd.Context(), args, false, pull.ListOf{}, &s)
		},
	}
	addSaidFlags(cmd.Flags(), &s)
	return cmd
}

func (e *env) editList(ctx context.Context, args []string, add bool, o pull.ListOf, s *said) error {
	put, err := s.put()
	if err != nil {
		return err
	}
	st, err := e.store()
	if err != nil {
		return err
	}
	d, err := pull.EditList(ctx, st, args[0], args[1], add, o, put)
	if err != nil {
		return err
	}
	fmt.Fprintln(e.stdout, d)
	return nil
}

func newManifestRemoveCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "remove LIST IMAGE|DIGEST", Short: "Take an image out of a list",
		Example: "  balena manifest remove app:1 app:rpi",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			st, err := e.store()
			if err != nil {
				return err
			}
			return pull.CutList(cmd.Context(), st, args[0], args[1])
		},
	}
}

func newManifestExistsCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "exists LIST", Short: "Exit with 0 if the list is here, else with 1",
		Example: "  balena manifest exists app:1 || balena manifest create app:1",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			st, err := e.store()
			if err != nil {
				return err
			}
			is, err := pull.IsList(st, args[0])
			if err == nil && !is {
				return exitStatus{code: 1}
			}
			return err
		},
	}
}

func newManifestInspectCmd(e *env) *cobra.Command {
	var o pull.RegistryOptions
	cmd := &cobra.Command{
		Use: "inspect LIST|IMAGE", Short: "Show a list, or the manifest that a registry has of an image",
		Example: "  balena manifest inspect debian:12",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			st, err := e.store()
			if err != nil {
				return err
			}
			raw, err := pull.ManifestOf(cmd.Context(), st, args[0], o)
			if err != nil {
				return err
			}
			out := json.NewEncoder(e.stdout)
			out.SetEscapeHTML(false)
			out.SetIndent("", "    ")
			return out.Encode(json.RawMessage(raw))
		},
	}
	addListFlags(cmd.Flags(), &o)
	return cmd
}

func newManifestPushCmd(e *env) *cobra.Command {
	var o pushOptions
	var all, purge bool
	cmd := &cobra.Command{
		Use: "push LIST [DESTINATION]", Short: "Send a list and its images to a registry",
		Long: `Send a list and its images to the registry that its name says, or to DESTINATION. Images of this machine are sent as "balena push" does it; those of another repository are copied from there.

With --all=false the registry must have the images for other machines than this already.`,
		Example: "  balena manifest push --purge registry.example.com/app:1",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			dest := ""
			if len(args) > 1 {
				dest = args[1]
			}
			return interruptible(cmd.Context(), func(ctx context.Context) error { return e.pushList(ctx, args[0], dest, all, purge, o) })
		},
	}
	f := cmd.Flags()
	f.BoolVar(&all, "all", true, "the images for other machines, too")
	f.StringVar(&o.digestFile, "digestfile", "", "write the list's digest to this file")
	f.StringVarP(&o.Format, "format", "f", "", "oci or docker (v2s2), of the images' manifests (default: as they are)")
	f.BoolVarP(&purge, "purge", "p", false, "remove the list here when it is there")
	f.BoolVar(&purge, "rm", false, "the same")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "show no progress")
	addListFlags(f, &o.RegistryOptions)
	return cmd
}

func (e *env) pushList(ctx context.Context, name, dest string, all, purge bool, o pushOptions) error {
	st, err := e.store()
	if err != nil {
		return err
	}
	show, done := e.progress(o.quiet)
	o.Progress = show
	p, err := pull.PushList(ctx, st, name, dest, !all, o.PushOptions)
	done()
	if err != nil {
		return err
	}
	if o.digestFile != "" {
		if err := os.WriteFile(o.digestFile, []byte(p.Digest), 0o644); err != nil {
			return fmt.Errorf("writing the digest: %w", err)
		}
	}
	fmt.Fprintln(e.stdout, p.Digest)
	if purge {
		_, err = pull.Remove(ctx, st, name, pull.RemoveOptions{})
	}
	return err
}

func newManifestRmCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "rm LIST...", Short: "Remove lists, but not their images",
		Example: "  balena manifest rm app:1",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			st, err := e.store()
			if err != nil {
				return err
			}
			var errs []error
			for _, name := range args {
				if is, err := pull.IsList(st, name); err != nil || !is {
					if err == nil {
						err = fmt.Errorf("%w: %s", pull.ErrNotList, name)
					}
					errs = append(errs, err)
					continue
				}
				removed, err := pull.Remove(cmd.Context(), st, name, pull.RemoveOptions{})
				e.printRemoved(removed)
				errs = append(errs, err)
			}
			return errors.Join(errs...)
		},
	}
}
