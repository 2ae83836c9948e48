package runtime

import (
	"errors"
	"slices"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/intelrdt"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Resources are the limits that Update changes.
type Resources struct {
	specs.LinuxResources
	// L3CacheSchema and MemBwSchema are Intel RDT's; empty: unchanged.
	L3CacheSchema, MemBwSchema string
}

// Update changes the limits of a container that is not stopped. What is nil
// or empty stays as it is. Devices are not touched. When the kernel refuses a
// limit, the old ones are put back.
func (c *Container) Update(r Resources) error {
	config := c.lc.Config()
	// Config copies the outer struct only; on failure libcontainer restores
	// the old resources, so they must not be the ones changed here.
	group := *config.Cgroups
	res := *group.Resources
	group.Resources = &res
	config.Cgroups = &group

	updateBlockIO(&res, r.BlockIO)
	updateCPU(&res, r.CPU)
	updateMemory(&res, r.Memory)
	if r.Pids != nil && r.Pids.Limit != nil {
		res.PidsLimit = r.Pids.Limit
	}
	if r.Unified != nil {
		res.Unified = r.Unified
	}
	if err := updateRdt(&config, r); err != nil {
		return err
	}
	res.SkipDevices = true
	return c.lc.Set(config)
}

func updateCPU(res *cgroups.Resources, cpu *specs.LinuxCPU) {
	if cpu == nil {
		return
	}
	shares := cpu.Shares
	if cpu.Idle != nil && shares == nil {
		// cpu.weight may not be written along with cpu.idle.
		shares = new(uint64)
	}
	// One of the two given keeps the other: drivers need to know both.
	if cpu.Period != nil && *cpu.Period != 0 {
		res.CpuPeriod = *cpu.Period
	}
	if cpu.Quota != nil && *cpu.Quota != 0 {
		res.CpuQuota = *cpu.Quota
	}
	res.CpuBurst = cpu.Burst
	if shares != nil {
		res.CpuShares = *shares
		res.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(*shares)
	}
	if cpu.RealtimePeriod != nil {
		res.CpuRtPeriod = *cpu.RealtimePeriod
	}
	if cpu.RealtimeRuntime != nil {
		res.CpuRtRuntime = *cpu.RealtimeRuntime
	}
	if cpu.Cpus != "" {
		res.CpusetCpus = cpu.Cpus
	}
	if cpu.Mems != "" {
		res.CpusetMems = cpu.Mems
	}
	res.CPUIdle = cpu.Idle
}

func updateMemory(res *cgroups.Resources, m *specs.LinuxMemory) {
	if m == nil {
		return
	}
	swap := m.Swap
	if m.Limit != nil && *m.Limit == -1 && swap == nil {
		// A swap limit may not stay when the memory limit goes.
		swap = new(int64)
	}
	if m.Limit != nil {
		res.Memory = *m.Limit
	}
	if m.Reservation != nil {
		res.MemoryReservation = *m.Reservation
	}
	if swap != nil {
		res.MemorySwap = *swap
	}
	if m.CheckBeforeUpdate != nil {
		res.MemoryCheckBeforeUpdate = *m.CheckBeforeUpdate
	}
}

func updateBlockIO(res *cgroups.Resources, b *specs.LinuxBlockIO) {
	if b == nil {
		return
	}
	if b.Weight != nil {
		res.BlkioWeight = *b.Weight
	}
	if b.LeafWeight != nil {
		res.BlkioLeafWeight = *b.LeafWeight
	}
	for _, d := range b.WeightDevice {
		res.BlkioWeightDevice = setWeight(res.BlkioWeightDevice, d)
	}
	for _, t := range []struct {
		have *[]*cgroups.ThrottleDevice
		want []specs.LinuxThrottleDevice
	}{
		{&res.BlkioThrottleReadBpsDevice, b.ThrottleReadBpsDevice},
		{&res.BlkioThrottleWriteBpsDevice, b.ThrottleWriteBpsDevice},
		{&res.BlkioThrottleReadIOPSDevice, b.ThrottleReadIOPSDevice},
		{&res.BlkioThrottleWriteIOPSDevice, b.ThrottleWriteIOPSDevice},
	} {
		for _, d := range t.want {
			*t.have = append(slices.DeleteFunc(slices.Clone(*t.have), func(old *cgroups.ThrottleDevice) bool {
				return old.Major == d.Major && old.Minor == d.Minor
			}), cgroups.NewThrottleDevice(d.Major, d.Minor, d.Rate))
		}
	}
}

func setWeight(have []*cgroups.WeightDevice, d specs.LinuxWeightDevice) []*cgroups.WeightDevice {
	var weight, leaf uint16
	out := make([]*cgroups.WeightDevice, 0, len(have)+1)
	for _, old := range have {
		if old.Major == d.Major && old.Minor == d.Minor {
			weight, leaf = old.Weight, old.LeafWeight
			continue
		}
		out = append(out, old)
	}
	if d.Weight != nil {
		weight = *d.Weight
	}
	if d.LeafWeight != nil {
		leaf = *d.LeafWeight
	}
	return append(out, cgroups.NewWeightDevice(d.Major, d.Minor, weight, leaf))
}

func updateRdt(config *configs.Config, r Resources) error {
	switch {
	case r.L3CacheSchema == "" && r.MemBwSchema == "":
		return nil
	case r.L3CacheSchema != "" && !intelrdt.IsCATEnabled():
		//lint:ignore ST1005 runc's words
		return errors.New("Intel RDT/CAT: l3 cache schema is not enabled")
	case r.MemBwSchema != "" && !intelrdt.IsMBAEnabled():
		//lint:ignore ST1005 runc's words
		return errors.New("Intel RDT/MBA: memory bandwidth schema is not enabled")
	case config.IntelRdt == nil:
		return errors.New("updating a non-existent Intel RDT configuration is not supported")
	}
	rdt := *config.IntelRdt
	if r.L3CacheSchema != "" {
		rdt.L3CacheSchema = r.L3CacheSchema
	}
	if r.MemBwSchema != "" {
		rdt.MemBwSchema = r.MemBwSchema
	}
	config.IntelRdt = &rdt
	return nil
}
