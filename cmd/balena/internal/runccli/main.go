// Package runccli is runc's command line over pkg/runtime: the same commands,
// flags, exit codes and messages (runc(8)), so that podman, buildah, conmon,
// containerd and scripts can use this binary in its place. Checkpoint and
// restore are left out. docs/runtime.md lists the differences.
package runccli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"

	"github.com/balena-os/balena/pkg/runtime"
	"github.com/moby/sys/userns"
	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
)

// cli is what the commands share: the streams and the global flags.
type cli struct {
	stdin, stdout, stderr *os.File
	root                  string
	log, logFormat        string
	debug                 bool
	systemdCgroup         bool
	privilegedMount       string
	rootless              string
	// toStderr: the log is somewhere else, so errors are printed too.
	toStderr bool
}

// exitStatus is an error that is only an exit code: nothing is printed.
type exitStatus int

func (e exitStatus) Error() string { return "exit status " + strconv.Itoa(int(e)) }

// codedError is an error with an exit code other than 1.
type codedError struct {
	error
	code int
}

func (e codedError) Unwrap() error { return e.error }

// Main is the stage: arguments without the program's name, exit code out.
func Main(args []string, stdin, stdout, stderr *os.File) int {
	c := &cli{stdin: stdin, stdout: stdout, stderr: stderr}
	logrus.SetOutput(stderr)
	cmd := c.rootCmd()
	cmd.SetArgs(args)
	return c.exitCode(cmd.Execute())
}

// exitCode reports err where it belongs and turns it into the exit code.
func (c *cli) exitCode(err error) int {
	var status exitStatus
	var coded codedError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return int(status)
	}
	logrus.Error(err)
	if c.toStderr {
		fmt.Fprintln(c.stderr, err)
	}
	if errors.As(err, &coded) {
		return coded.code
	}
	return 1
}

func (c *cli) rootCmd() *cobra.Command {
	var version bool
	cmd := &cobra.Command{
		Use:   "balena-runc [global options] COMMAND",
		Short: "Open Container Initiative runtime",
		Long: `Open Container Initiative runtime: creates and runs containers from bundles.

A bundle is a folder with a specification, config.json, and a root filesystem.
The command line is runc's.`,
		// Global flags come before the command, and its own after it.
		TraverseChildren:  true,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return c.setUp(cmd.Root().Flags().Changed("root"))
		},
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("no such command: %q", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if version {
				return c.printVersion()
			}
			return cmd.Help()
		},
	}
	cmd.SetIn(c.stdin)
	cmd.SetOut(c.stdout)
	cmd.SetErr(c.stderr)
	f := cmd.Flags()
	f.SortFlags = false
	f.BoolVar(&c.debug, "debug", false, "enable debug logging")
	f.StringVar(&c.log, "log", "", "set the log file to write runc logs to (default is '/dev/stderr')")
	f.StringVar(&c.logFormat, "log-format", "text", "set the log format ('text' (default), or 'json')")
	f.StringVar(&c.root, "root", "/run/runc", "root directory for storage of container state (this should be located in tmpfs)")
	f.BoolVar(&c.systemdCgroup, "systemd-cgroup", false, `enable systemd cgroup support, expects cgroupsPath to be of form "slice:prefix:name"`)
	f.StringVar(&c.rootless, "rootless", "auto", "ignore cgroup permission errors ('true', 'false', or 'auto')")
	f.StringVar(&c.privilegedMount, "privileged-mount", "", "make a container with a mount at this path privileged, without the mount")
	f.BoolVarP(&version, "version", "v", false, "print the version")
	cmd.AddCommand(
		c.createCmd(), c.deleteCmd(), c.eventsCmd(), c.execCmd(), c.featuresCmd(), c.killCmd(),
		c.listCmd(), c.pauseCmd(), c.psCmd(), c.resumeCmd(), c.runCmd(), c.specCmd(), c.startCmd(),
		c.stateCmd(), c.updateCmd(),
	)
	return cmd
}

// setUp puts the global flags into effect.
func (c *cli) setUp(rootGiven bool) error {
	if err := c.setRoot(rootGiven); err != nil {
		return err
	}
	if c.debug {
		logrus.SetLevel(logrus.DebugLevel)
		logrus.SetReportCaller(true)
	}
	switch c.logFormat {
	case "", "text":
	case "json":
		logrus.SetFormatter(new(logrus.JSONFormatter))
	default:
		return errors.New("invalid log-format: " + c.logFormat)
	}
	if c.log != "" {
		f, err := os.OpenFile(c.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND|os.O_SYNC, 0o644)
		if err != nil {
			return err
		}
		logrus.SetOutput(f)
		c.toStderr = true
	}
	return nil
}

// setRoot makes the state folder's path absolute, or chooses it: a rootless
// caller's is below XDG_RUNTIME_DIR.
func (c *cli) setRoot(given bool) error {
	if !given {
		dir := os.Getenv("XDG_RUNTIME_DIR")
		if dir == "" || !ownRuntimeDir() {
			return nil
		}
		c.root = filepath.Join(dir, "runc")
		if err := os.MkdirAll(c.root, 0o700); err != nil {
			return fmt.Errorf("the path in $XDG_RUNTIME_DIR must be writable by the user: %w", err)
		}
		// The sticky bit keeps it from being cleaned up as too old (XDG base
		// directory specification).
		if err := os.Chmod(c.root, 0o700|fs.ModeSticky); err != nil {
			return fmt.Errorf("you should check permission of the path in $XDG_RUNTIME_DIR: %w", err)
		}
		return nil
	}
	abs, err := filepath.Abs(c.root)
	if err != nil {
		return err
	}
	if abs == "/" {
		//lint:ignore ST1005 runc's words
		return errors.New("Option --root argument should not be set to /")
	}
	c.root = abs
	return nil
}

// ownRuntimeDir tells whether XDG_RUNTIME_DIR is the caller's rather than
// inherited by real root from some login.
func ownRuntimeDir() bool {
	if os.Geteuid() != 0 {
		return true
	}
	return userns.RunningInUserNS() && os.Getenv("USER") != "root"
}

func (c *cli) rootlessMode() (runtime.Rootless, error) {
	if c.rootless == "" || strings.EqualFold(c.rootless, "auto") {
		return runtime.RootlessAuto, nil
	}
	yes, err := strconv.ParseBool(c.rootless)
	switch {
	case err != nil:
		return 0, err
	case yes:
		return runtime.RootlessYes, nil
	}
	return runtime.RootlessNo, nil
}

func (c *cli) printVersion() error {
	fmt.Fprintln(c.stdout, "runc version", runtime.Version()+"+balena")
	fmt.Fprintln(c.stdout, "spec:", runtime.SpecVersion())
	fmt.Fprintln(c.stdout, "go:", goruntime.Version())
	if v := runtime.SeccompVersion(); v != "" {
		fmt.Fprintln(c.stdout, "libseccomp:", v)
	}
	return nil
}

// load finds the container that the first argument names.
func (c *cli) load(args []string) (*runtime.Container, error) {
	return runtime.Load(c.root, args[0])
}

// nArgs checks the number of arguments; most < 0 is any number. A wrong one
// prints the command's help, as runc does.
func nArgs(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		var want string
		switch n := len(args); {
		case least == most && n != least:
			want = fmt.Sprintf("exactly %d", least)
		case n < least:
			want = fmt.Sprintf("a minimum of %d", least)
		case most >= 0 && n > most:
			want = fmt.Sprintf("a maximum of %d", most)
		default:
			return nil
		}
		fmt.Fprint(cmd.OutOrStdout(), "Incorrect Usage.\n\n")
		_ = cmd.Help()
		return fmt.Errorf("%s: %q requires %s argument(s)", "runc", cmd.Name(), want)
	}
}

func warnOfCgroup(op string, err error) {
	if errors.Is(err, fs.ErrPermission) {
		logrus.Warn("runc " + op + " failure might be caused by lack of full access to cgroups")
	}
}
