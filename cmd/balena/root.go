package main

import (
	"fmt"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
)

// outside marks a command that needs neither layers nor containers' processes,
// so that an unprivileged user's run of it stays outside the user namespace:
// entering costs more than such a command does.
var outside = map[string]string{"balena.userns": "outside"}

func newRootCmd(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:           "balena [command]",
		Short:         "A container engine for devices",
		Version:       versionString(),
		Example:       "  balena run --rm -it busybox sh\n  balena image --help",
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			level, err := logrus.ParseLevel(e.flags.logLevel)
			if err != nil {
				return usageError{fmt.Errorf("--log-level: %w", err)}
			}
			logrus.SetLevel(level)
			if err := e.limitMemory(); err != nil {
				return err
			}
			if needsUserns(cmd) {
				return e.enterUserns()
			}
			return nil
		},
	}
	cmd.SetIn(e.stdin)
	cmd.SetOut(e.stdout)
	cmd.SetErr(e.stderr)
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w\nSee '%s --help'", err, cmd.CommandPath())}
	})
	f := cmd.PersistentFlags()
	f.StringVar(&e.flags.Root, "root", "", "folder for what survives a reboot: images, containers, volumes")
	f.StringVar(&e.flags.RunRoot, "runroot", "", "folder for what runs now, best on tmpfs")
	f.StringVar(&e.flags.TmpDir, "tmpdir", "", "folder for bundles, sockets and the runtime's state (default: the runroot)")
	f.StringVar(&e.flags.Driver, "storage-driver", "", "overlay or vfs (default: what works)")
	f.StringArrayVar(&e.flags.DriverOptions, "storage-opt", nil, "option of the storage driver, KEY=VALUE")
	f.StringVar(&e.flags.logLevel, "log-level", "warn", "trace, debug, info, warn, error, fatal or panic")
	f.StringVar(&e.flags.cgroupManager, "cgroup-manager", "cgroupfs", "cgroupfs or systemd")
	f.StringVar(&e.flags.runtime, "runtime", "", "another OCI runtime's path (default: the one inside)")
	f.StringArrayVar(&e.flags.runtimeFlags, "runtime-flag", nil, "global flag for the OCI runtime, without the leading --")
	size(f, &e.flags.memoryBudget, "memory-budget", "", "memory that a command gets by with, such as 64m (default: what the machine or the cgroup has)", false)
	f.Bool("help", false, "show what a command does and takes") // without -h, which is run's --hostname
	cmd.Flags().BoolP("version", "v", false, "print the version")
	cmd.PersistentFlags().SortFlags = false

	containers := func() []*cobra.Command {
		return []*cobra.Command{
			newAttachCmd(e),
			newCommitCmd(e),
			newCreateCmd(e),
			newExecCmd(e),
			newKillCmd(e),
			newLogsCmd(e),
			newPauseCmd(e),
			newPortCmd(e),
			newRenameCmd(e),
			newRestartCmd(e),
			newRmCmd(e),
			newRunCmd(e),
			newStartCmd(e),
			newStopCmd(e),
			newTopCmd(e),
			newUnpauseCmd(e),
			newWaitCmd(e),
		}
	}
	cmd.AddCommand(containers()...)
	cmd.AddCommand(
		newBuildCmd(e),
		newBuilderCmd(e),
		newBuildxCmd(e),
		newContainerCmd(e, containers),
		newHistoryCmd(e),
		newImageCmd(e),
		newImagesCmd(e, "images"),
		newImportCmd(e),
		newInfoCmd(e),
		newLoadCmd(e),
		newLoginCmd(e),
		newLogoutCmd(e),
		newInspectCmd(e, ""),
		newManifestCmd(e),
		newPsCmd(e),
		newPullCmd(e),
		newPushCmd(e),
		newRmiCmd(e, "rmi"),
		newSaveCmd(e),
		newSystemCmd(e),
		newTagCmd(e),
		newUntagCmd(e),
		newVersionCmd(e),
	)
	cmd.AddCommand(docsCommands()...)
	return cmd
}

// needsUserns says whether a command runs inside the user's namespace. Cobra's
// own commands (help, completion) and groups do not.
func needsUserns(cmd *cobra.Command) bool {
	if cmd.Annotations["balena.userns"] == "outside" {
		return false
	}
	for c := cmd; c != nil; c = c.Parent() {
		switch c.Name() {
		case "help", "completion", cobra.ShellCompRequestCmd, cobra.ShellCompNoDescRequestCmd:
			return false
		}
	}
	return cmd.Runnable() && cmd.HasParent()
}

// group is a command that only holds others, as `balena image`.
func group(use, short, example string, cmds ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Example: example, Annotations: outside,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("unknown command %q for %q\nSee '%s --help'", args[0], cmd.CommandPath(), cmd.CommandPath())}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(cmds...)
	return cmd
}
