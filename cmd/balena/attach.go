package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/balena-os/balena/pkg/monitor"
	"github.com/balena-os/balena/pkg/run"
	"github.com/balena-os/balena/pkg/store"
)

func newAttachCmd(e *env) *cobra.Command {
	var detachKeys string
	var noStdin, sigProxy bool
	cmd := &cobra.Command{
		Use: "attach CONTAINER", Short: "Connect to a running container's input and output",
		Long: `Connect our terminal or streams to the first process of a running container.

Several may be attached at once. The detach keys leave the container running; when it ends, the exit code is its own.`,
		Example: "  balena attach web\n  balena attach --no-stdin --sig-proxy=false web",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.attachTo(cmd.Context(), args[0], session{detachKeys: detachKeys, stdin: !noStdin, sigProxy: sigProxy})
		},
	}
	f := cmd.Flags()
	f.StringVar(&detachKeys, "detach-keys", defaultDetachKeys, "the keys that detach")
	f.BoolVar(&noStdin, "no-stdin", false, "leave the container's input alone")
	f.BoolVar(&sigProxy, "sig-proxy", true, "pass signals on to the process")
	return cmd
}

func (e *env) attachTo(ctx context.Context, ref string, s session) error {
	eng, err := e.engine()
	if err != nil {
		return err
	}
	c, err := eng.Find(ctx, ref)
	if err != nil {
		return err
	}
	seen, err := eng.Observe(c)
	if err != nil {
		return err
	}
	switch {
	case seen.State.Status == store.StatusPaused:
		return fmt.Errorf("attaching to container %s: %w", ref, run.ErrPaused)
	case !seen.Running() && seen.State.Status != store.StatusRestarting:
		return fmt.Errorf("attaching to container %s: %w", ref, run.ErrNotRunning)
	}
	s.runDir = eng.Store.BundleDir(c.ID)
	s.tty, s.stdout, s.stderr = c.Config.Tty, true, !c.Config.Tty
	s.stdin = s.stdin && c.Config.Interactive
	s.cleaned = c.Config.AutoRemove
	res, err := e.attach(ctx, s)
	switch {
	case errors.Is(err, monitor.ErrNotRunning):
		return fmt.Errorf("attaching to container %s: %w", ref, run.ErrNotRunning)
	case res.Detached:
		return nil
	}
	return endedWith(res.Exit.Code, err)
}
