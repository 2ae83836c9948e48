package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/balena-os/balena/cmd/balena/internal/format"
	"github.com/balena-os/balena/pkg/pull"
	"github.com/balena-os/balena/pkg/store"
)

// newInspectCmd is `balena inspect`, for containers and images, and below
// `container` only for those.
func newInspectCmd(e *env, kind string) *cobra.Command {
	var text string
	cmd := &cobra.Command{
		Use: "inspect NAME...", Short: "Show all that is known about containers and images",
		Example: "  balena inspect --format '{{.State.Status}}' web", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return e.inspect(cmd.Context(), kind, text, args) },
	}
	cmd.Flags().StringVarP(&text, "format", "f", "", "json or a template")
	if kind != "" {
		cmd.Use, cmd.Short = "inspect CONTAINER...", "Show all that is known about containers"
		cmd.Example = "  balena container inspect web"
	} else {
		cmd.Flags().StringVar(&kind, "type", "", "container or image: what a name is taken for (default: the first of these that there is)")
	}
	return cmd
}

func (e *env) inspect(ctx context.Context, kind, text string, names []string) error {
	var look []func(context.Context, string) (any, error)
	switch kind {
	case "", "all":
		look = append(look, e.inspectContainer, e.inspectImage)
	case "container":
		look = append(look, e.inspectContainer)
	case "image":
		look = append(look, e.inspectImage)
	default:
		return usageError{fmt.Errorf("--type %q: want container or image", kind)}
	}
	var records []any
	var errs []error
	for _, n := range names {
		record, err := firstFound(ctx, n, look)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		records = append(records, record)
	}
	return errors.Join(append([]error{format.Inspect(e.stdout, text, records)}, errs...)...)
}

func firstFound(ctx context.Context, name string, look []func(context.Context, string) (any, error)) (any, error) {
	for i, l := range look {
		record, err := l(ctx, name)
		if err == nil {
			return record, nil
		}
		if !errors.Is(err, store.ErrNoContainer) && !errors.Is(err, pull.ErrNoImage) || len(look) == 1 {
			return nil, err
		}
		if i == len(look)-1 {
			return nil, fmt.Errorf("no such object: %s", name)
		}
	}
	return nil, nil
}

func (e *env) inspectContainer(ctx context.Context, name string) (any, error) {
	eng, err := e.engine()
	if err != nil {
		return nil, err
	}
	return eng.Inspect(ctx, name)
}

func (e *env) inspectImage(ctx context.Context, name string) (any, error) {
	st, err := e.store()
	if err != nil {
		return nil, err
	}
	return pull.Inspect(ctx, st, name)
}
