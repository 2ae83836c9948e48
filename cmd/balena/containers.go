package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/balena-os/balena/pkg/run"
	"github.com/balena-os/balena/pkg/store"
	"github.com/balena-os/balena/pkg/userns"
)

// engine is the store with the choices that hold for all containers.
func (e *env) engine() (*run.Engine, error) {
	st, err := e.store()
	if err != nil {
		return nil, err
	}
	eng := &run.Engine{
		Store: st, Rootless: userns.Rootless(), SystemdCgroup: e.flags.cgroupManager == "systemd", Warn: e.warn,
		Self: append([]string{"balena"}, st.Flags()...),
	}
	eng.Self = append(eng.Self, "--log-level", e.flags.logLevel, "--cgroup-manager", e.flags.cgroupManager)
	if e.flags.runtime != "" {
		eng.Self = append(eng.Self, "--runtime", e.flags.runtime)
		eng.Runtime = []string{e.flags.runtime}
		for _, f := range e.flags.runtimeFlags {
			eng.Self = append(eng.Self, "--runtime-flag", f)
			eng.Runtime = append(eng.Runtime, "--"+f)
		}
	}
	return eng, nil
}

// newContainerCmd holds what docker has below `container`.
func newContainerCmd(e *env, verbs func() []*cobra.Command) *cobra.Command {
	cmds := append(verbs(), newContainerLsCmd(e), newContainerPruneCmd(e), newContainerExistsCmd(e), newInspectCmd(e, "container"), newCleanupCmd(e))
	return group("container", "Manage containers", "  balena container ls -a\n  balena container inspect web", cmds...)
}

func newCleanupCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "cleanup CONTAINER", Short: "Clean up after a container (what its monitor runs)", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			eng, err := e.engine()
			if err != nil {
				return err
			}
			err = eng.Cleanup(cmd.Context(), args[0])
			if errors.Is(err, store.ErrNoContainer) {
				return nil
			}
			return err
		},
	}
}

func newContainerExistsCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "exists CONTAINER", Short: "Tell by the exit code whether a container exists (0) or not (1)",
		Example: "  balena container exists web", Args: cobra.ExactArgs(1), Annotations: outside,
		RunE: func(cmd *cobra.Command, args []string) error {
			eng, err := e.engine()
			if err != nil {
				return err
			}
			_, err = eng.Find(cmd.Context(), args[0])
			if errors.Is(err, store.ErrNoContainer) {
				return exitStatus{code: 1}
			}
			return err
		},
	}
}

func newContainerPruneCmd(e *env) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "prune", Short: "Remove all containers that do not run", Example: "  balena container prune -f", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !force {
				ok, err := e.confirm("WARNING! This will remove all containers that do not run.\nAre you sure you want to continue?")
				if err != nil || !ok {
					return err
				}
			}
			eng, err := e.engine()
			if err != nil {
				return err
			}
			list, err := eng.List(cmd.Context())
			if err != nil {
				return err
			}
			var ids []string
			for _, c := range list {
				if c.State.Status == store.StatusExited || c.State.Status == store.StatusCreated {
					ids = append(ids, c.ID)
				}
			}
			return e.each(ids, func(id string) error { return eng.Remove(cmd.Context(), id, run.RemoveOptions{}) })
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	return cmd
}

// each does one thing to several containers, prints the name of each that it
// was done to, and goes on after a failure.
func (e *env) each(refs []string, do func(ref string) error) error {
	var errs []error
	for _, ref := range refs {
		if err := do(ref); err != nil {
			errs = append(errs, err)
			continue
		}
		fmt.Fprintln(e.stdout, ref)
	}
	return errors.Join(errs...)
}

// eachCmd is a verb that does one thing to each container named.
func (e *env) eachCmd(use, short, example string, do func(context.Context, *run.Engine, string) error) *cobra.Command {
	return &cobra.Command{
		Use: use + " CONTAINER...", Short: short, Example: "  balena " + example, Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			eng, err := e.engine()
			if err != nil {
				return err
			}
			return e.each(args, func(ref string) error { return do(cmd.Context(), eng, ref) })
		},
	}
}

// selectCmd is an eachCmd that also takes all containers, with --all.
func (e *env) selectCmd(use, short, example string, s *selection, do func(context.Context, *run.Engine, string) error) *cobra.Command {
	cmd := e.eachCmd(use, short, example, nil)
	cmd.Args = nil
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		eng, err := e.engine()
		if err != nil {
			return err
		}
		refs, err := s.refs(cmd.Context(), eng, args)
		if err != nil {
			return err
		}
		return e.each(refs, func(ref string) error { return s.forgive(do(cmd.Context(), eng, ref)) })
	}
	cmd.Flags().BoolVarP(&s.all, "all", "a", false, "all containers")
	return cmd
}

// selection lets a verb take all containers, or those that files name, where
// others take arguments.
type selection struct {
	all    bool
	ignore bool
}

func (s selection) refs(ctx context.Context, eng *run.Engine, args []string) ([]string, error) {
	if !s.all {
		if len(args) == 0 {
			return nil, usageError{errors.New("name at least one container, or use --all")}
		}
		return args, nil
	}
	list, err := eng.List(ctx)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, c := range list {
		ids = append(ids, c.ID)
	}
	return ids, nil
}

func (s selection) forgive(err error) error {
	if s.ignore && errors.Is(err, store.ErrNoContainer) {
		return nil
	}
	return err
}

// seconds is a flag of docker's --time: whole seconds, -1 for ever.
func seconds(cmd *cobra.Command, n int) *time.Duration {
	if !cmd.Flags().Changed("time") {
		return nil
	}
	d := time.Duration(n) * time.Second
	return &d
}

func newStopCmd(e *env) *cobra.Command {
	var s selection
	var n int
	var cmd *cobra.Command
	cmd = e.selectCmd("stop", "Stop containers: the stop signal, and after some time SIGKILL", "stop -t 5 web", &s,
		func(ctx context.Context, eng *run.Engine, ref string) error {
			return eng.Stop(ctx, ref, seconds(cmd, n))
		})
	cmd.Flags().IntVarP(&n, "time", "t", 10, "seconds to wait before SIGKILL; -1 waits for ever")
	cmd.Flags().BoolVarP(&s.ignore, "ignore", "i", false, "no error for a container that does not exist")
	return cmd
}

func newRestartCmd(e *env) *cobra.Command {
	var n int
	var cmd *cobra.Command
	cmd = e.eachCmd("restart", "Stop containers and start them again", "restart -t 5 web",
		func(ctx context.Context, eng *run.Engine, ref string) error {
			return eng.Restart(ctx, ref, seconds(cmd, n))
		})
	cmd.Flags().IntVarP(&n, "time", "t", 10, "seconds to wait before SIGKILL; -1 waits for ever")
	return cmd
}

func newKillCmd(e *env) *cobra.Command {
	var s selection
	sig := "KILL"
	cmd := e.selectCmd("kill", "Send containers a signal", "kill -s HUP web", &s,
		func(ctx context.Context, eng *run.Engine, ref string) error { return eng.Kill(ctx, ref, sig) })
	cmd.Flags().StringVarP(&sig, "signal", "s", sig, "the signal, by name or number")
	return cmd
}

func newWaitCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "wait CONTAINER...", Short: "Wait until containers end, and print their exit codes", Example: "  balena wait job",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			eng, err := e.engine()
			if err != nil {
				return err
			}
			var errs []error
			for _, ref := range args {
				code, err := eng.Wait(cmd.Context(), ref)
				if err != nil {
					errs = append(errs, err)
					continue
				}
				fmt.Fprintln(e.stdout, code)
			}
			return errors.Join(errs...)
		},
	}
}

func newRmCmd(e *env) *cobra.Command {
	var s selection
	var o run.RemoveOptions
	cmd := e.selectCmd("rm", "Remove containers", "rm -f web", &s,
		func(ctx context.Context, eng *run.Engine, ref string) error {
			err := eng.Remove(ctx, ref, o)
			if o.Force && errors.Is(err, store.ErrNoContainer) { // as docker and podman have it
				return nil
			}
			return err
		})
	cmd.Aliases = []string{"remove"}
	remove := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		eng, err := e.engine()
		if err != nil {
			return err
		}
		return errors.Join(remove(cmd, args), eng.Sweep(cmd.Context()))
	}
	cmd.Flags().BoolVarP(&o.Force, "force", "f", false, "kill containers that run; no error for one that does not exist")
	cmd.Flags().BoolVarP(&o.Volumes, "volumes", "v", false, "remove their anonymous volumes too")
	cmd.Flags().BoolVarP(&s.ignore, "ignore", "i", false, "no error for a container that does not exist")
	return cmd
}

func newRenameCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "rename CONTAINER NAME", Short: "Give a container another name", Example: "  balena rename web web-old",
		Args: cobra.ExactArgs(2), Annotations: outside,
		RunE: func(cmd *cobra.Command, args []string) error {
			eng, err := e.engine()
			if err != nil {
				return err
			}
			return eng.Rename(cmd.Context(), args[0], args[1])
		},
	}
}

func newPauseCmd(e *env) *cobra.Command {
	return e.eachCmd("pause", "Freeze the processes of containers", "pause web",
		func(ctx context.Context, eng *run.Engine, ref string) error { return eng.Pause(ctx, ref) })
}

func newUnpauseCmd(e *env) *cobra.Command {
	return e.eachCmd("unpause", "Let frozen containers go on", "unpause web",
		func(ctx context.Context, eng *run.Engine, ref string) error { return eng.Unpause(ctx, ref) })
}
