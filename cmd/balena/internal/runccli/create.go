package runccli

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"

	"github.com/balena-os/balena/pkg/runtime"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
)

func (c *cli) createCmd() *cobra.Command {
	var o runtime.CreateOptions
	var preserve int
	cmd := &cobra.Command{
		Use:   "create [options] CONTAINER-ID",
		Short: "create a container",
		Long: `Create a container from a bundle, the folder that has config.json and a root
filesystem. "start" then executes the command that args in config.json names.`,
		Args: nArgs(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := c.fill(&o, args[0], preserve); err != nil {
				return fmt.Errorf("runc create failed: %w", err)
			}
			if err := runtime.Create(context.Background(), o); err != nil {
				return fmt.Errorf("runc create failed: %w", err)
			}
			return nil
		},
	}
	createFlags(cmd.Flags(), &o, &preserve)
	return cmd
}

func (c *cli) runCmd() *cobra.Command {
	var o runtime.CreateOptions
	var preserve int
	cmd := &cobra.Command{
		Use:   "run [options] CONTAINER-ID",
		Short: "create and run a container",
		Long: `Create a container from a bundle, start it, and, unless --detach is given, wait
for it, exit with its exit code, and delete it.`,
		Args: nArgs(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := c.fill(&o, args[0], preserve); err != nil {
				return fmt.Errorf("runc run failed: %w", err)
			}
			if !o.Detach {
				o.Signals = forwardedSignals()
			}
			status, err := runtime.Run(context.Background(), o)
			if err != nil {
				return fmt.Errorf("runc run failed: %w", err)
			}
			return exitStatus(status).orNil()
		},
	}
	f := cmd.Flags()
	createFlags(f, &o, &preserve)
	f.BoolVarP(&o.Detach, "detach", "d", false, "detach from the container's process")
	f.BoolVar(&o.Keep, "keep", false, "do not delete the container after it exits")
	f.BoolVar(&o.NoSubreaper, "no-subreaper", false, "disable the use of the subreaper used to reap reparented processes")
	return cmd
}

func (c *cli) startCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "start CONTAINER-ID",
		Short: "execute the user defined process in a created container",
		Args:  nArgs(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			ct, err := c.load(args)
			if err != nil {
				return err
			}
			return ct.Start(os.Getenv("NOTIFY_SOCKET"))
		},
	}
}

// createFlags binds the flags that create and run share.
func createFlags(f *pflag.FlagSet, o *runtime.CreateOptions, preserve *int) {
	f.SortFlags = false
	f.StringVarP(&o.Bundle, "bundle", "b", "", "path to the root of the bundle directory, defaults to the current directory")
	f.BoolVar(&o.NoPivot, "no-pivot", false, "do not use pivot root to jail process inside rootfs; for a rootfs on top of a ramdisk")
	f.BoolVar(&o.NoNewKeyring, "no-new-keyring", false, "do not create a new session keyring for the container")
	stdioFlags(f, &o.Stdio, preserve)
}

// stdioFlags binds the flags that create, run and exec share.
func stdioFlags(f *pflag.FlagSet, s *runtime.Stdio, preserve *int) {
	f.StringVar(&s.ConsoleSocket, "console-socket", "", "path to an AF_UNIX socket which will receive a file descriptor referencing the master end of the console's pseudoterminal")
	f.StringVar(&s.PidfdSocket, "pidfd-socket", "", "path to an AF_UNIX socket which will receive a file descriptor referencing the process")
	f.StringVar(&s.PidFile, "pid-file", "", "specify the file to write the process id to")
	f.IntVar(preserve, "preserve-fds", 0, "pass N additional file descriptors to the container (stdio + $LISTEN_FDS + N in total)")
}

// fill completes the options with what is not a flag of the command.
func (c *cli) fill(o *runtime.CreateOptions, id string, preserve int) error {
	o.Root, o.ID = c.root, id
	o.SystemdCgroup = c.systemdCgroup
	o.PrivilegedMount = c.privilegedMount
	o.NotifySocket = os.Getenv("NOTIFY_SOCKET")
	var err error
	if o.Rootless, err = c.rootlessMode(); err != nil {
		return err
	}
	o.ListenFiles = listenFiles()
	return c.fillStdio(&o.Stdio, preserve)
}

func (c *cli) fillStdio(s *runtime.Stdio, preserve int) error {
	s.Stdin, s.Stdout, s.Stderr = c.stdin, c.stdout, c.stderr
	first := 3 + len(s.ListenFiles)
	for fd := first; fd < first+preserve; fd++ {
		// What was inherited cannot have close-on-exec; what has it is ours.
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err == nil && flags&unix.FD_CLOEXEC != 0 {
			err = unix.EBADF
		}
		if err != nil {
			return fmt.Errorf("unable to stat preserved-fd %d (of %d): %w", fd-first, preserve, err)
		}
		s.ExtraFiles = append(s.ExtraFiles, os.NewFile(uintptr(fd), "PreserveFD:"+strconv.Itoa(fd)))
	}
	return nil
}

// listenFiles are the sockets of systemd's socket activation
// (sd_listen_fds(3)) that this process was started with.
func listenFiles() []*os.File {
	pid, err := strconv.Atoi(os.Getenv("LISTEN_PID"))
	if err != nil || pid != os.Getpid() {
		return nil
	}
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if err != nil || n <= 0 {
		return nil
	}
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	files := make([]*os.File, n)
	for i := range files {
		name := "LISTEN_FD_" + strconv.Itoa(3+i)
		if i < len(names) && names[i] != "" {
			name = names[i]
		}
		unix.CloseOnExec(3 + i)
		files[i] = os.NewFile(uintptr(3+i), name)
	}
	return files
}

// forwardedSignals is the channel of all signals to this process. Asking for
// all 65 takes a while, so only SIGCHLD, which must not be missed, is asked
// for at once.
func forwardedSignals() <-chan os.Signal {
	ch := make(chan os.Signal, 2048)
	signal.Notify(ch, unix.SIGCHLD)
	go signal.Notify(ch)
	return ch
}

// orNil makes success no error.
func (e exitStatus) orNil() error {
	if e == 0 {
		return nil
	}
	return e
}
