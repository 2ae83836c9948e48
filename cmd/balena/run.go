package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"

	"github.com/moby/term"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/balena-os/balena/pkg/monitor"
	"github.com/balena-os/balena/pkg/pull"
	"github.com/balena-os/balena/pkg/run"
	"github.com/balena-os/balena/pkg/store"
)

const defaultDetachKeys = "ctrl-p,ctrl-q"

func newRunCmd(e *env) *cobra.Command {
	var o run.Options
	sigProxy := true
	cmd := &cobra.Command{
		Use: "run IMAGE [COMMAND [ARG...]]", Short: "Create a container of an image and start it",
		Example: "  balena run --rm -it busybox sh\n  balena run -d --name web -p 8080:80 httpd",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Image, o.Args = args[0], args[1:]
			o.NoSig = !sigProxy
			return e.run(cmd.Context(), &o)
		},
	}
	f := cmd.Flags()
	addCreateFlags(f, &o)
	f.BoolVarP(&o.Detach, "detach", "d", false, "run in the background and print the ID")
	f.StringSliceVarP(&o.Attach, "attach", "a", nil, "attach to stdin, stdout or stderr")
	f.StringVar(&o.Detached, "detach-keys", defaultDetachKeys, "the keys that detach")
	f.BoolVar(&sigProxy, "sig-proxy", true, "pass signals on to the process")
	return cmd
}

func newCreateCmd(e *env) *cobra.Command {
	var o run.Options
	cmd := &cobra.Command{
		Use: "create IMAGE [COMMAND [ARG...]]", Short: "Create a container of an image",
		Example: "  balena create --name web -p 8080:80 httpd", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Image, o.Args = args[0], args[1:]
			eng, id, err := e.prepare(cmd.Context(), &o)
			if err != nil {
				return err
			}
			c, err := eng.Create(cmd.Context(), &o, id)
			if err != nil {
				return err
			}
			fmt.Fprintln(e.stdout, c.ID)
			return nil
		},
	}
	addCreateFlags(cmd.Flags(), &o)
	return cmd
}

// prepare checks the options before anything is fetched, and finds the image.
func (e *env) prepare(ctx context.Context, o *run.Options) (*run.Engine, string, error) {
	eng, err := e.engine()
	if err != nil {
		return nil, "", err
	}
	if err := o.Check(); err != nil {
		return nil, "", err
	}
	if err := eng.Sweep(ctx); err != nil {
		return nil, "", err
	}
	id, err := e.localImage(ctx, o.Image, o.Pull, o.Platform, o.Quiet)
	return eng, id, err
}

// localImage gives the ID of an image, which it pulls where policy says so:
// "missing" ("" too), "always" or "never".
func (e *env) localImage(ctx context.Context, name, policy, platform string, quiet bool) (string, error) {
	st, err := e.store()
	if err != nil {
		return "", err
	}
	if policy != "always" {
		layers, err := st.Layers()
		if err != nil {
			return "", err
		}
		img, _, err := pull.Find(layers, name)
		if err == nil {
			img, err = pull.ForPlatform(layers, img, platform)
		}
		if err == nil {
			return img.ID, nil
		}
		if policy == "never" || !errors.Is(err, pull.ErrNoImage) {
			return "", err
		}
	}
	if !quiet && policy != "always" {
		fmt.Fprintf(e.stderr, "Unable to find image '%s' locally\n", name)
	}
	images, err := e.pullImages(ctx, name, platform, quiet)
	if err != nil {
		return "", err
	}
	return images[0].ID, nil
}

func (e *env) run(ctx context.Context, o *run.Options) error {
	eng, image, err := e.prepare(ctx, o)
	if err != nil {
		return err
	}
	if o.Detach {
		if len(o.Attach) > 0 {
			return usageError{errors.New("conflicting options: --attach and --detach")}
		}
		c, err := eng.Run(ctx, o, image, run.StartOptions{})
		if err != nil {
			return err
		}
		fmt.Fprintln(e.stdout, c.ID)
		return nil
	}
	s := session{
		stdin: o.Interactive, stdout: true, stderr: !o.Tty, tty: o.Tty,
		detachKeys: o.Detached, sigProxy: !o.NoSig, cleaned: o.AutoRemove,
	}
	if len(o.Attach) > 0 {
		s.stdin = slices.Contains(o.Attach, "stdin")
		s.stdout = slices.Contains(o.Attach, "stdout")
		s.stderr = slices.Contains(o.Attach, "stderr")
	}
	if s.tty && s.stdin && !term.IsTerminal(e.stdin.Fd()) {
		e.warn("the input device is not a TTY: --tty and --interactive may not work as they should")
	}
	return e.foreground(ctx, eng, s, func(so run.StartOptions) (*store.Container, error) {
		return eng.Run(ctx, o, image, so)
	})
}

// foreground starts a container with our streams attached from the first byte
// on, and ends with its exit code.
func (e *env) foreground(ctx context.Context, eng *run.Engine, s session, start func(run.StartOptions) (*store.Container, error)) error {
	ours, theirs, err := socketPair()
	if err != nil {
		return err
	}
	defer theirs.Close()
	req := &monitor.AttachRequest{Stdin: s.stdin, Stdout: s.stdout, Stderr: s.stderr, Lossless: true, Cleans: s.cleaned}
	if s.tty {
		size := e.terminalSize()
		req.Rows, req.Cols = size.Rows, size.Cols
	}
	c, err := start(run.StartOptions{First: req, Conn: theirs})
	if err != nil {
		ours.Close()
		return err
	}
	theirs.Close()
	s.conn, s.runDir = ours, eng.Store.BundleDir(c.ID)
	if s.cleaned {
		s.clean = func(ctx context.Context) error { return eng.CleanupAttached(ctx, c) }
	}
	res, err := e.attach(ctx, s)
	code := res.Exit.Code
	switch {
	case errors.Is(err, monitor.ErrLost):
		// The monitor was killed: the container may live on.
		if code, err = eng.Wait(ctx, c.ID); err != nil {
			return err
		}
	case err != nil:
		return err
	case res.Detached:
		return nil
	}
	if code != 0 {
		return exitStatus{code: code}
	}
	return nil
}

func socketPair() (ours *net.UnixConn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a socket pair: %w", err)
	}
	f := os.NewFile(uintptr(fds[0]), "attach")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		unix.Close(fds[1])
		return nil, nil, err
	}
	return conn.(*net.UnixConn), os.NewFile(uintptr(fds[1]), "attach"), nil
}

func newStartCmd(e *env) *cobra.Command {
	var attach, interactive bool
	sigProxy := true
	keys := defaultDetachKeys
	cmd := &cobra.Command{
		Use: "start CONTAINER...", Short: "Start containers that do not run", Example: "  balena start web\n  balena start -ai job",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			eng, err := e.engine()
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			if err := eng.Sweep(ctx); err != nil {
				return err
			}
			if !attach && !interactive {
				return e.each(args, func(ref string) error { return eng.Start(ctx, ref, run.StartOptions{}) })
			}
			if len(args) != 1 {
				return usageError{errors.New("only one container can be started and attached to")}
			}
			c, err := eng.Find(ctx, args[0])
			if err != nil {
				return err
			}
			s := session{
				stdin: interactive && c.Config.Interactive, stdout: true, stderr: !c.Config.Tty, tty: c.Config.Tty,
				detachKeys: keys, sigProxy: sigProxy, cleaned: c.Config.AutoRemove,
			}
			return e.foreground(ctx, eng, s, func(so run.StartOptions) (*store.Container, error) {
				return c, eng.Start(ctx, c.ID, so)
			})
		},
	}
	cmd.Flags().BoolVarP(&attach, "attach", "a", false, "attach to its output, and end with its exit code")
	cmd.Flags().BoolVarP(&interactive, "interactive", "i", false, "attach our stdin too")
	cmd.Flags().StringVar(&keys, "detach-keys", keys, "the keys that detach")
	cmd.Flags().BoolVar(&sigProxy, "sig-proxy", true, "pass signals on to the process")
	return cmd
}
