package runccli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/balena-os/balena/pkg/runtime"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

var errFormat = errors.New("invalid format option")

func (c *cli) deleteCmd() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "delete [options] CONTAINER-ID",
		Short: "delete any resources held by the container often used with detached container",
		Args:  nArgs(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			return runtime.Delete(c.root, args[0], force)
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "forcibly deletes the container if it is still running (uses SIGKILL)")
	return cmd
}

func (c *cli) killCmd() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "kill [options] CONTAINER-ID [SIGNAL]",
		Short: "send the specified signal (default: SIGTERM) to the container's init process",
		Args:  nArgs(1, 2),
		RunE: func(_ *cobra.Command, args []string) error {
			ct, err := c.load(args)
			if err != nil {
				return err
			}
			sig := unix.SIGTERM
			if len(args) == 2 && args[1] != "" {
				if sig, err = parseSignal(args[1]); err != nil {
					return err
				}
			}
			err = ct.Kill(sig)
			if all && errors.Is(err, runtime.ErrNotRunning) {
				return nil
			}
			return err
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&all, "all", "a", false, "(obsoleted, do not use)")
	_ = f.MarkHidden("all")
	return cmd
}

func parseSignal(s string) (unix.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil {
		return unix.Signal(n), nil
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if sig := unix.SignalNum(name); sig != 0 {
		return sig, nil
	}
	return 0, fmt.Errorf("unknown signal %q", s)
}

func (c *cli) stateCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "state CONTAINER-ID",
		Short: "output the state of a container",
		Args:  nArgs(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			s, err := runtime.GetState(c.root, args[0])
			if err != nil {
				return err
			}
			data, err := json.MarshalIndent(s, "", "  ")
			if err != nil {
				return err
			}
			_, err = c.stdout.Write(data)
			return err
		},
	}
}

func (c *cli) pauseCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "pause CONTAINER-ID",
		Short: "pause suspends all processes inside the container",
		Args:  nArgs(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			ct, err := c.load(args)
			if err != nil {
				return err
			}
			err = ct.Pause()
			warnOfCgroup("pause", err)
			return err
		},
	}
}

func (c *cli) resumeCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "resume CONTAINER-ID",
		Short: "resume all processes that have been previously paused",
		Args:  nArgs(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			ct, err := c.load(args)
			if err != nil {
				return err
			}
			err = ct.Resume()
			warnOfCgroup("resume", err)
			return err
		},
	}
}

func (c *cli) listCmd() *cobra.Command {
	var format string
	var quiet bool
	cmd := &cobra.Command{
		Use:   "list [options]",
		Short: "list containers started by runc with the given root",
		Args:  nArgs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			states, err := runtime.List(c.root, func(err error) { fmt.Fprintln(c.stderr, err) })
			if errors.Is(err, fs.ErrNotExist) && !cmd.Root().Flags().Changed("root") {
				err = nil // nothing was ever created
			}
			if err != nil {
				return err
			}
			return c.printList(states, format, quiet)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&format, "format", "f", "table", "select one of: table or json")
	f.BoolVarP(&quiet, "quiet", "q", false, "display only container IDs")
	return cmd
}

func (c *cli) printList(states []runtime.State, format string, quiet bool) error {
	if quiet {
		for _, s := range states {
			fmt.Fprintln(c.stdout, s.ID)
		}
		return nil
	}
	switch format {
	case "json":
		return json.NewEncoder(c.stdout).Encode(states)
	case "table":
		w := tabwriter.NewWriter(c.stdout, 12, 1, 3, ' ', 0)
		fmt.Fprint(w, "ID\tPID\tSTATUS\tBUNDLE\tCREATED\tOWNER\n")
		for _, s := range states {
			fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n", s.ID, s.Pid, s.Status, s.Bundle, s.Created.Format(time.RFC3339Nano), s.Owner)
		}
		return w.Flush()
	}
	return errFormat
}

func (c *cli) psCmd() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "ps [options] CONTAINER-ID [PS-OPTION...]",
		Short: "display the processes running inside a container",
		Args:  nArgs(1, -1),
		RunE: func(_ *cobra.Command, args []string) error {
			ct, err := c.load(args)
			if err != nil {
				return err
			}
			pids, err := ct.Processes()
			if err != nil {
				warnOfCgroup("ps", err)
				return err
			}
			switch format {
			case "json":
				return json.NewEncoder(c.stdout).Encode(pids)
			case "table":
				return c.ps(pids, args[1:])
			}
			return errFormat
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.StringVarP(&format, "format", "f", "table", "select one of: table or json")
	return cmd
}

// ps prints the lines of ps(1) that are about pids.
func (c *cli) ps(pids []int, args []string) error {
	if len(args) == 0 {
		args = []string{"-ef"}
	}
	out, err := exec.Command("ps", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	lines := strings.Split(string(out), "\n")
	column := slices.Index(strings.Fields(lines[0]), "PID")
	if column < 0 {
		return errors.New("couldn't find PID field in ps output")
	}
	fmt.Fprintln(c.stdout, lines[0])
	for _, line := range lines[1:] {
		fields := strings.Fields(line)
		if len(fields) <= column {
			continue
		}
		pid, err := strconv.Atoi(fields[column])
		if err != nil {
			return fmt.Errorf("unable to parse pid: %w", err)
		}
		if slices.Contains(pids, pid) {
			fmt.Fprintln(c.stdout, line)
		}
	}
	return nil
}

func (c *cli) eventsCmd() *cobra.Command {
	var interval time.Duration
	var stats bool
	cmd := &cobra.Command{
		Use:   "events [options] CONTAINER-ID",
		Short: "display container events such as OOM notifications, cpu, memory, and IO usage statistics",
		Args:  nArgs(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ct, err := c.load(args)
			if err != nil {
				return err
			}
			if interval <= 0 {
				return errors.New("duration interval must be greater than 0")
			}
			if err := ct.CheckLive(); err != nil {
				return err
			}
			out := json.NewEncoder(c.stdout)
			if stats {
				s, err := ct.Stats()
				if err != nil {
					return err
				}
				return out.Encode(runtime.Event{Type: "stats", ID: ct.ID(), Data: s})
			}
			return ct.Events(cmd.Context(), interval, func(e runtime.Event) error { return out.Encode(e) }, logError)
		},
	}
	f := cmd.Flags()
	f.DurationVar(&interval, "interval", 5*time.Second, "set the stats collection interval")
	f.BoolVar(&stats, "stats", false, "display the container's stats then exit")
	return cmd
}

func (c *cli) featuresCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "features",
		Short: "show the enabled features",
		Args:  nArgs(0, 0),
		RunE: func(*cobra.Command, []string) error {
			enc := json.NewEncoder(c.stdout)
			enc.SetIndent("", "    ")
			return enc.Encode(runtime.Features())
		},
	}
}

func (c *cli) specCmd() *cobra.Command {
	var bundle string
	var rootless bool
	cmd := &cobra.Command{
		Use:   "spec [options]",
		Short: "create a new specification file",
		Long: `Write a starter config.json into the bundle: a shell on a terminal, in the folder
rootfs. With --rootless it is one for a caller who is not root (not needed for
root in a user namespace).`,
		Args: nArgs(0, 0),
		RunE: func(*cobra.Command, []string) error {
			if bundle != "" {
				if err := os.Chdir(bundle); err != nil {
					return err
				}
			}
			data, err := json.MarshalIndent(runtime.NewSpec(rootless), "", "\t")
			if err != nil {
				return err
			}
			f, err := os.OpenFile(runtime.SpecFile, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
			if errors.Is(err, fs.ErrExist) {
				//lint:ignore ST1005 runc's words
				return fmt.Errorf("File %s exists. Remove it first", runtime.SpecFile)
			} else if err != nil {
				return err
			}
			_, err = f.Write(data)
			return errors.Join(err, f.Close())
		},
	}
	f := cmd.Flags()
	f.StringVarP(&bundle, "bundle", "b", "", "path to the root of the bundle directory")
	f.BoolVar(&rootless, "rootless", false, "generate a configuration for a rootless container")
	return cmd
}
