package run

import (
	"context"
	"fmt"

	"github.com/balena-os/balena/pkg/store"
)

// idMaps are the mappings of a container's own user namespace: what was asked
// for, or with --userns auto what storage chose when it made the layer.
func (e *Engine) idMaps(c *store.Container) (idMaps, error) {
	m, opts, err := idMappings(&c.Config, e.Rootless)
	if err != nil || !opts.AutoUserNs {
		return m, err
	}
	layers, err := e.Store.Layers()
	if err != nil {
		return m, err
	}
	lc, err := layers.Container(c.ID)
	if err != nil {
		return m, fmt.Errorf("looking up the layer of container %s: %w", short(c.ID), err)
	}
	return layerMaps(lc.UIDMap, lc.GIDMap), nil
}

// volumePath gives the folder of a volume.
func (e *Engine) volumePath(name string) (string, error) { return e.Store.VolumeDir(name), nil }

// namespacePath gives a namespace of a running container, for --pid and --ipc
// container:NAME.
func (e *Engine) namespacePath(ref, kind string) (string, error) {
	o, err := e.find(context.Background(), ref)
	if err != nil {
		return "", err
	}
	if !o.Running() {
		return "", fmt.Errorf("container %s: %w", ref, ErrNotRunning)
	}
	return fmt.Sprintf("/proc/%d/ns/%s", o.Pid, kind), nil
}

// cgroupManager is the name under which findCgroups knows it.
func (e *Engine) cgroupManager() string {
	if e.SystemdCgroup {
		return "systemd"
	}
	return "cgroupfs"
}
