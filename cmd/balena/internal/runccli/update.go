package runccli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/balena-os/balena/pkg/runtime"
	"github.com/docker/go-units"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
)

func logError(err error) { logrus.Error(err) }

// updateFlags are the limits as typed; numbers are parsed by hand, since an
// empty string means "leave it", as does 0 for the weight.
type updateFlags struct {
	resources                             string
	blkioWeight, pids                     int
	period, quota, burst, shares          string
	rtPeriod, rtRuntime, cpus, mems, idle string
	memory, reservation, swap             string
	kernel, kernelTCP                     string
	l3, memBw                             string
	pidsGiven                             bool
}

func (c *cli) updateCmd() *cobra.Command {
	var u updateFlags
	cmd := &cobra.Command{
		Use:   "update [options] CONTAINER-ID",
		Short: "update container resource constraints",
		Long: `Update the limits of a container. --resources reads them from a file, or with
"-" from standard input, in the form that config.json has for linux.resources
(what stays as it is can be left out); other options are then ignored.`,
		Args: nArgs(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ct, err := c.load(args)
			if err != nil {
				return err
			}
			u.pidsGiven = cmd.Flags().Changed("pids-limit")
			r, err := u.read(c.stdin)
			if err != nil {
				return err
			}
			//lint:ignore SA1019 the fields are read only to say that they are ignored
			if r.Memory.Kernel != nil || r.Memory.KernelTCP != nil {
				logrus.Warn("Kernel memory settings are ignored and will be removed")
			}
			return ct.Update(r)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVarP(&u.resources, "resources", "r", "", "path to the file containing the resources to update or '-' to read from the standard input")
	f.IntVar(&u.blkioWeight, "blkio-weight", 0, "specifies per cgroup weight, range is from 10 to 1000")
	f.StringVar(&u.period, "cpu-period", "", "CPU CFS period to be used for hardcapping (in usecs). 0 to use system default")
	f.StringVar(&u.quota, "cpu-quota", "", "CPU CFS hardcap limit (in usecs). Allowed cpu time in a given period")
	f.StringVar(&u.burst, "cpu-burst", "", "CPU CFS hardcap burst limit (in usecs). Allowed accumulated cpu time additionally for burst a given period")
	f.StringVar(&u.shares, "cpu-share", "", "CPU shares (relative weight vs. other containers)")
	f.StringVar(&u.rtPeriod, "cpu-rt-period", "", "CPU realtime period to be used for hardcapping (in usecs). 0 to use system default")
	f.StringVar(&u.rtRuntime, "cpu-rt-runtime", "", "CPU realtime hardcap limit (in usecs). Allowed cpu time in a given period")
	f.StringVar(&u.cpus, "cpuset-cpus", "", "CPU(s) to use")
	f.StringVar(&u.mems, "cpuset-mems", "", "memory node(s) to use")
	f.StringVar(&u.kernel, "kernel-memory", "", "(obsoleted; do not use)")
	f.StringVar(&u.kernelTCP, "kernel-memory-tcp", "", "(obsoleted; do not use)")
	f.StringVar(&u.memory, "memory", "", "memory limit (in bytes)")
	f.StringVar(&u.idle, "cpu-idle", "", "set cgroup SCHED_IDLE or not, 0: default behavior, 1: SCHED_IDLE")
	f.StringVar(&u.reservation, "memory-reservation", "", "memory reservation or soft_limit (in bytes)")
	f.StringVar(&u.swap, "memory-swap", "", "total memory usage (memory + swap); set '-1' to enable unlimited swap")
	f.IntVar(&u.pids, "pids-limit", 0, "maximum number of pids allowed in the container")
	f.StringVar(&u.l3, "l3-cache-schema", "", "the string of Intel RDT/CAT L3 cache schema")
	f.StringVar(&u.memBw, "mem-bw-schema", "", "the string of Intel RDT/MBA memory bandwidth schema")
	_ = f.MarkHidden("kernel-memory")
	_ = f.MarkHidden("kernel-memory-tcp")
	return cmd
}

func (u *updateFlags) read(stdin io.Reader) (runtime.Resources, error) {
	r := runtime.Resources{L3CacheSchema: u.l3, MemBwSchema: u.memBw}
	r.Memory = &specs.LinuxMemory{CheckBeforeUpdate: new(bool)}
	r.CPU = &specs.LinuxCPU{}
	r.BlockIO = &specs.LinuxBlockIO{}
	r.Pids = &specs.LinuxPids{}
	var err error
	switch u.resources {
	case "":
		err = u.parse(&r.LinuxResources)
	case "-":
		err = json.NewDecoder(stdin).Decode(&r.LinuxResources)
	default:
		var f *os.File
		if f, err = os.Open(u.resources); err == nil {
			defer f.Close()
			err = json.NewDecoder(f).Decode(&r.LinuxResources)
		}
	}
	if r.Memory == nil { // "memory": null
		r.Memory = &specs.LinuxMemory{}
	}
	return r, err
}

func (u *updateFlags) parse(r *specs.LinuxResources) error {
	if u.blkioWeight != 0 {
		w := uint16(u.blkioWeight)
		r.BlockIO.Weight = &w
	}
	if u.pidsGiven {
		n := int64(u.pids)
		r.Pids.Limit = &n
	}
	r.CPU.Cpus, r.CPU.Mems = u.cpus, u.mems
	for _, o := range []struct {
		name, value string
		dest        **uint64
	}{
		{"cpu-burst", u.burst, &r.CPU.Burst},
		{"cpu-period", u.period, &r.CPU.Period},
		{"cpu-rt-period", u.rtPeriod, &r.CPU.RealtimePeriod},
		{"cpu-share", u.shares, &r.CPU.Shares},
	} {
		if err := parseInto(o.dest, o.name, o.value, func(s string) (uint64, error) { return strconv.ParseUint(s, 10, 64) }); err != nil {
			return err
		}
	}
	for _, o := range []struct {
		name, value string
		dest        **int64
		parse       func(string) (int64, error)
	}{
		{"cpu-idle", u.idle, &r.CPU.Idle, parseNumber},
		{"cpu-quota", u.quota, &r.CPU.Quota, parseNumber},
		{"cpu-rt-runtime", u.rtRuntime, &r.CPU.RealtimeRuntime, parseNumber},
		{"memory", u.memory, &r.Memory.Limit, parseBytes},
		{"memory-swap", u.swap, &r.Memory.Swap, parseBytes},
		{"memory-reservation", u.reservation, &r.Memory.Reservation, parseBytes},
		//lint:ignore SA1019 runc's flag, accepted and ignored
		{"kernel-memory", u.kernel, &r.Memory.Kernel, parseBytes},
		{"kernel-memory-tcp", u.kernelTCP, &r.Memory.KernelTCP, parseBytes},
	} {
		if err := parseInto(o.dest, o.name, o.value, o.parse); err != nil {
			return err
		}
	}
	return nil
}

// parseInto leaves dest nil for an empty value.
func parseInto[T any](dest **T, name, value string, parse func(string) (T, error)) error {
	if value == "" {
		return nil
	}
	v, err := parse(value)
	if err != nil {
		return fmt.Errorf("invalid value for %s: %w", name, err)
	}
	*dest = &v
	return nil
}

func parseNumber(s string) (int64, error) { return strconv.ParseInt(s, 10, 64) }

// parseBytes knows suffixes like "64m"; -1 is unlimited.
func parseBytes(s string) (int64, error) {
	if s == "-1" {
		return -1, nil
	}
	return units.RAMInBytes(s)
}
