package runtime

import (
	"context"
	"fmt"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/intelrdt"
	"github.com/opencontainers/runc/types"
)

// Event is what `runc events` prints one of a line: "stats" with Stats as
// its data, or "oom".
type Event = types.Event

// Stats is a container's use of resources, as far as its cgroups tell.
type Stats = types.Stats

// Stats reads the container's cgroups once.
func (c *Container) Stats() (*Stats, error) {
	s, err := c.lc.Stats()
	if err != nil {
		return nil, err
	}
	return convertStats(s), nil
}

// Events calls each with the container's statistics every interval, and
// whenever the kernel ran out of memory for it, until the container ends, ctx
// is cancelled, or each returns an error. Statistics that cannot be read go
// to failed (which may be nil).
func (c *Container) Events(ctx context.Context, interval time.Duration, each func(Event) error, failed func(error)) error {
	oom, err := c.lc.NotifyOOM()
	if err != nil {
		return err
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		var e Event
		select {
		case <-ctx.Done():
			return ctx.Err()
		case _, ok := <-oom:
			if !ok {
				return nil // the container's cgroup is gone
			}
			e = Event{Type: "oom", ID: c.ID()}
		case <-tick.C:
			s, err := c.Stats()
			if err != nil {
				if failed != nil {
					failed(err)
				}
				continue
			}
			e = Event{Type: "stats", ID: c.ID(), Data: s}
		}
		if err := each(e); err != nil {
			return err
		}
	}
}

// CheckLive returns an error if the container is stopped.
func (c *Container) CheckLive() error {
	status, err := c.lc.Status()
	if err != nil {
		return err
	}
	if status == libcontainer.Stopped {
		return fmt.Errorf("container with id %s is not running", c.ID())
	}
	return nil
}

// convertStats puts libcontainer's figures into the stable form of events.
func convertStats(ls *libcontainer.Stats) *Stats {
	cg := ls.CgroupStats
	if cg == nil {
		return nil
	}
	cpu, mem, io := &cg.CpuStats, &cg.MemoryStats, &cg.BlkioStats
	s := &Stats{
		CPUSet: types.CPUSet(cg.CPUSetStats),
		Memory: types.Memory{
			Cache:     mem.Cache,
			Usage:     types.MemoryEntry{},
			Kernel:    memoryEntry(mem.KernelUsage),
			KernelTCP: memoryEntry(mem.KernelTCPUsage),
			Swap:      memoryEntry(mem.SwapUsage),
			Raw:       mem.Stats,
			PSI:       mem.PSI,
		},
		Pids: types.Pids{Current: cg.PidsStats.Current, Limit: cg.PidsStats.Limit},
		Blkio: types.Blkio{
			IoServiceBytesRecursive: blkioEntries(io.IoServiceBytesRecursive),
			IoServicedRecursive:     blkioEntries(io.IoServicedRecursive),
			IoQueuedRecursive:       blkioEntries(io.IoQueuedRecursive),
			IoServiceTimeRecursive:  blkioEntries(io.IoServiceTimeRecursive),
			IoWaitTimeRecursive:     blkioEntries(io.IoWaitTimeRecursive),
			IoMergedRecursive:       blkioEntries(io.IoMergedRecursive),
			IoTimeRecursive:         blkioEntries(io.IoTimeRecursive),
			SectorsRecursive:        blkioEntries(io.SectorsRecursive),
			PSI:                     io.PSI,
		},
		Hugetlb:           make(map[string]types.Hugetlb, len(cg.HugetlbStats)),
		NetworkInterfaces: ls.Interfaces,
	}
	s.Memory.Usage = memoryEntry(mem.Usage)

	u := &cpu.CpuUsage
	s.CPU.Usage.Total, s.CPU.Usage.Kernel, s.CPU.Usage.User = u.TotalUsage, u.UsageInKernelmode, u.UsageInUsermode
	s.CPU.Usage.Percpu, s.CPU.Usage.PercpuKernel, s.CPU.Usage.PercpuUser = u.PercpuUsage, u.PercpuUsageInKernelmode, u.PercpuUsageInUsermode
	t := &cpu.ThrottlingData
	s.CPU.Throttling.Periods, s.CPU.Throttling.ThrottledPeriods, s.CPU.Throttling.ThrottledTime = t.Periods, t.ThrottledPeriods, t.ThrottledTime
	s.CPU.PSI = cpu.PSI

	for size, h := range cg.HugetlbStats {
		s.Hugetlb[size] = types.Hugetlb{Usage: h.Usage, Max: h.MaxUsage, Failcnt: h.Failcnt}
	}
	if rdt := ls.IntelRdtStats; rdt != nil {
		convertRdt(&s.IntelRdt, rdt)
	}
	return s
}

func memoryEntry(m cgroups.MemoryData) types.MemoryEntry {
	return types.MemoryEntry{Limit: m.Limit, Usage: m.Usage, Max: m.MaxUsage, Failcnt: m.Failcnt}
}

func blkioEntries(in []cgroups.BlkioStatEntry) []types.BlkioEntry {
	out := make([]types.BlkioEntry, len(in))
	for i, e := range in {
		out[i] = types.BlkioEntry(e)
	}
	return out
}

func convertRdt(s *types.IntelRdt, rdt *intelrdt.Stats) {
	if intelrdt.IsCATEnabled() && rdt.L3CacheInfo != nil {
		info := types.L3CacheInfo(*rdt.L3CacheInfo)
		s.L3CacheInfo, s.L3CacheSchemaRoot, s.L3CacheSchema = &info, rdt.L3CacheSchemaRoot, rdt.L3CacheSchema
	}
	if intelrdt.IsMBAEnabled() && rdt.MemBwInfo != nil {
		info := types.MemBwInfo(*rdt.MemBwInfo)
		s.MemBwInfo, s.MemBwSchemaRoot, s.MemBwSchema = &info, rdt.MemBwSchemaRoot, rdt.MemBwSchema
	}
	if intelrdt.IsMBMEnabled() {
		s.MBMStats = rdt.MBMStats
	}
	if intelrdt.IsCMTEnabled() {
		s.CMTStats = rdt.CMTStats
	}
	s.Schemata = rdt.Schemata
}
