package runccli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/balena-os/balena/pkg/runtime"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
)

// execFlags are what `exec` changes of the container's own process.
type execFlags struct {
	process, cwd, user        string
	env, caps                 []string
	gids                      []int64
	tty, noNewPrivs, setPrivs bool
	label, apparmor           string
}

func (c *cli) execCmd() *cobra.Command {
	var o runtime.ExecOptions
	var e execFlags
	var preserve int
	cmd := &cobra.Command{
		Use:   "exec [options] CONTAINER-ID COMMAND [ARG...]  || exec -p process.json CONTAINER-ID",
		Short: "execute new process inside the container",
		Args:  nArgs(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			e.setPrivs = cmd.Flags().Changed("no-new-privs")
			status, err := c.exec(args, o, e, preserve)
			if err != nil {
				return codedError{fmt.Errorf("exec failed: %w", err), 255}
			}
			return exitStatus(status).orNil()
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.SetInterspersed(false) // the command's own flags are not ours
	stdioFlags(f, &o.Stdio, &preserve)
	f.StringVar(&e.cwd, "cwd", "", "current working directory in the container")
	f.StringArrayVarP(&e.env, "env", "e", nil, "set environment variables")
	f.BoolVarP(&e.tty, "tty", "t", false, "allocate a pseudo-TTY")
	f.StringVarP(&e.user, "user", "u", "", "UID (format: <uid>[:<gid>])")
	f.Int64SliceVarP(&e.gids, "additional-gids", "g", nil, "additional gids")
	f.StringVarP(&e.process, "process", "p", "", "path to the process.json")
	f.BoolVarP(&o.Detach, "detach", "d", false, "detach from the container's process")
	f.StringVar(&e.label, "process-label", "", "set the asm process label for the process commonly used with selinux")
	f.StringVar(&e.apparmor, "apparmor", "", "set the apparmor profile for the process")
	f.BoolVar(&e.noNewPrivs, "no-new-privs", false, "set the no new privileges value for the process")
	f.StringArrayVarP(&e.caps, "cap", "c", nil, "add a capability to the bounding set for the process")
	f.StringArrayVar(&o.Cgroups, "cgroup", nil, "run the process in an (existing) sub-cgroup(s), as [<controller>:]<cgroup>")
	f.BoolVar(&o.IgnorePaused, "ignore-paused", false, "allow exec in a paused container")
	return cmd
}

func (c *cli) exec(args []string, o runtime.ExecOptions, e execFlags, preserve int) (int, error) {
	ct, err := c.load(args)
	if err != nil {
		return -1, err
	}
	if err := ct.ExecAllowed(o.IgnorePaused); err != nil {
		return -1, err
	}
	if e.process != "" {
		o.Process, err = runtime.LoadProcess(e.process)
	} else if o.Process, err = ct.Process(); err == nil {
		if len(args) < 2 {
			return -1, errors.New("exec args cannot be empty")
		}
		o.Process.Args = args[1:]
		err = e.apply(o.Process)
	}
	if err != nil {
		return -1, err
	}
	if err := c.fillStdio(&o.Stdio, preserve); err != nil {
		return -1, err
	}
	if !o.Detach {
		o.Signals = forwardedSignals()
	}
	return ct.Exec(context.Background(), o)
}

// apply overrides the container's process by the flags that were given.
func (e *execFlags) apply(p *specs.Process) error {
	for _, o := range []struct {
		flag string
		dest *string
	}{{e.cwd, &p.Cwd}, {e.apparmor, &p.ApparmorProfile}, {e.label, &p.SelinuxLabel}} {
		if o.flag != "" {
			*o.dest = o.flag
		}
	}
	if len(e.caps) > 0 {
		if p.Capabilities == nil {
			p.Capabilities = &specs.LinuxCapabilities{}
		}
		sets := p.Capabilities
		sets.Bounding = append(sets.Bounding, e.caps...)
		sets.Effective = append(sets.Effective, e.caps...)
		sets.Permitted = append(sets.Permitted, e.caps...)
		// Ambient capabilities have to be inheritable too, which --cap does
		// not make them.
		if sets.Inheritable != nil {
			sets.Ambient = append(sets.Ambient, e.caps...)
		}
	}
	p.Env = append(p.Env, e.env...)
	p.Terminal = e.tty
	if e.setPrivs {
		p.NoNewPrivileges = e.noNewPrivs
	}
	if e.user != "" {
		uids, gids, hasGID := strings.Cut(e.user, ":")
		if hasGID {
			gid, err := strconv.ParseUint(gids, 10, 32)
			if err != nil {
				return fmt.Errorf("bad gid: %w", err)
			}
			p.User.GID = uint32(gid)
		}
		uid, err := strconv.ParseUint(uids, 10, 32)
		if err != nil {
			return fmt.Errorf("bad uid: %w", err)
		}
		p.User.UID = uint32(uid)
	}
	for _, gid := range e.gids {
		if gid < 0 {
			return fmt.Errorf("additional-gids must be a positive number %d", gid)
		}
		p.User.AdditionalGids = append(p.User.AdditionalGids, uint32(gid))
	}
	return nil
}
