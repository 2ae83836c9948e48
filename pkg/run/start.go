package run

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	units "github.com/docker/go-units"
	"github.com/opencontainers/runtime-spec/specs-go"
	graphdriver "go.podman.io/storage/drivers"

	"github.com/balena-os/balena/pkg/monitor"
	"github.com/balena-os/balena/pkg/netns"
	"github.com/balena-os/balena/pkg/store"
	"github.com/balena-os/balena/pkg/userns"
)

// StartOptions say who is attached from the first byte on.
type StartOptions struct {
	// First and Conn are set together: Conn is our end's peer, which the monitor
	// gets as its first client. The caller closes it afterwards.
	First *monitor.AttachRequest
	Conn  *os.File
}

// Start starts a container that does not run; one that runs is left alone. A
// *monitor.StartError says that its command could not be executed; a --rm
// container is gone then.
func (e *Engine) Start(ctx context.Context, ref string, o StartOptions) error {
	c, err := e.Find(ctx, ref)
	if err != nil {
		return err
	}
	release, err := e.lock(ctx, c.ID)
	if err != nil {
		return err
	}
	defer release()
	// The monitor of one that runs would be waited for without end.
	if runs, err := e.runs(c, ref); runs || err != nil {
		return err
	}
	if err := monitor.WaitGone(ctx, e.Store.BundleDir(c.ID)); err != nil {
		return err
	}
	id := c.ID
	if c, err = e.Find(ctx, id); err != nil {
		if errors.Is(err, store.ErrNoContainer) {
			err = errors.Join(err, removeIfThere(e.lockPath(id))) // made by the lock taken here
		}
		return err
	}
	if runs, err := e.runs(c, ref); runs || err != nil {
		return err
	}
	st, err := e.newStage(c.ID)
	if err != nil {
		return err
	}
	defer st.close()
	if err := e.clean(ctx, c.ID); err != nil {
		return err
	}
	if err := e.recordStart(ctx, c); err != nil {
		return err
	}
	return e.start(ctx, c, o, st, nil)
}

// runs tells whether there is nothing to start. ErrPaused.
func (e *Engine) runs(c *store.Container, ref string) (bool, error) {
	seen, err := e.Observe(c)
	if err != nil {
		return false, err
	}
	switch seen.State.Status {
	case store.StatusPaused:
		return false, fmt.Errorf("starting container %s: %w: use 'balena unpause'", ref, ErrPaused)
	case store.StatusRunning, store.StatusRestarting:
		return true, nil
	}
	return false, nil
}

// start launches a container whose record says so already; the caller holds its
// lock. When that fails nothing is left but the record of why. The mark, if
// there is one, stays locked until a monitor looks after the container.
func (e *Engine) start(ctx context.Context, c *store.Container, o StartOptions, st *stage, m *mark) error {
	err := st.do(func() error { return e.launch(ctx, c, o, st, m) })
	st.close() // before what is mounted there is removed
	var se *monitor.StartError
	if err == nil || errors.As(err, &se) {
		return err // the monitor wrote it down and cleaned up
	}
	return errors.Join(err, e.startFailed(context.WithoutCancel(ctx), c, err))
}

// startFailed undoes a start that never got as far as a monitor.
func (e *Engine) startFailed(ctx context.Context, c *store.Container, why error) error {
	if err := e.clean(ctx, c.ID); err != nil {
		return err
	}
	if c.Config.AutoRemove {
		return e.remove(ctx, c, true)
	}
	return e.Store.Update(ctx, func(tx *store.Tx) error {
		return tx.UpdateContainer(c.ID, func(c *store.Container) error {
			c.State.Restarts = 0
			monitor.Record(&c.State, monitor.Exit{Code: 125, Time: time.Now().UTC(), Error: why.Error(), Failed: true})
			return nil
		})
	})
}

func (e *Engine) markStarted(c *store.Container) {
	c.State.Ran = !c.State.Started.IsZero()
	c.State.Status, c.State.BootID, c.State.Started = store.StatusRunning, bootID(), time.Now().UTC()
	c.State.Finished, c.State.Error, c.State.OOMKilled, c.State.Stopped = time.Time{}, "", false, false
}

func (e *Engine) recordStart(ctx context.Context, c *store.Container) error {
	return e.Store.Update(ctx, func(tx *store.Tx) error {
		return tx.UpdateContainer(c.ID, func(r *store.Container) error {
			e.markStarted(r)
			*c = *r
			return nil
		})
	})
}

// launch mounts, connects and starts the container, on its stage's thread.
func (e *Engine) launch(ctx context.Context, c *store.Container, o StartOptions, st *stage, m *mark) error {
	root, err := e.mount(c)
	if err != nil {
		return fmt.Errorf("mounting container %s: %w", short(c.ID), err)
	}
	ids, err := e.idMaps(c)
	if err != nil {
		return err
	}
	if err := exposeRootfs(root, e.Store.Root(), ids); err != nil {
		return fmt.Errorf("mounting container %s: %w", short(c.ID), err)
	}
	if err := fillVolumes(c, root, ids, e.Store.VolumeDir); err != nil {
		return err
	}
	bundle := e.Store.BundleDir(c.ID)
	if err := os.MkdirAll(bundle, 0o700); err != nil {
		return fmt.Errorf("making the bundle: %w", err)
	}
	net, err := netns.Setup(ctx, netns.Options{
		ID: c.ID, RunDir: e.Store.NetworkRunDir(), Mode: c.Config.Network, Ports: publishedPorts(&c.Config),
		MacAddress: c.Config.MacAddress, Rootless: e.Rootless,
	})
	if err != nil {
		return err
	}
	defer net.Close()
	files := monitor.Files{Hold: net.Keep, First: o.Conn}
	if m != nil {
		files.Starting = m.f
	}
	if keep := userns.Keep(); keep != nil {
		files.Hold = append(files.Hold, keep)
	}
	netPath := ""
	if net.NS != nil {
		files.Links = map[string]*os.File{"netns": net.NS}
		netPath = filepath.Join(bundle, "netns")
	}
	if err := e.writeBundle(c, net, root, netPath, ids); err != nil {
		return err
	}
	cfg, err := e.monitorConfig(c, o)
	if err != nil {
		return err
	}
	return st.start(cfg, files)
}

// mount mounts the container's rootfs for the calling thread.
func (e *Engine) mount(c *store.Container) (root string, err error) {
	layers, err := e.Store.Layers()
	if err != nil {
		return "", err
	}
	driver, err := layers.GraphDriver()
	if err != nil {
		return "", err
	}
	lc, err := layers.Container(c.ID)
	if err != nil {
		return "", err
	}
	return driver.Get(lc.LayerID, graphdriver.MountOpts{
		UidMaps: lc.UIDMap, GidMaps: lc.GIDMap, Volatile: c.Config.AutoRemove,
	})
}

// writeBundle writes the OCI bundle and the files that are mounted over the
// image's /etc.
func (e *Engine) writeBundle(c *store.Container, net *netns.Network, root, netPath string, ids idMaps) error {
	bundle := e.Store.BundleDir(c.ID)
	cgroups, err := findCgroups(e.Rootless, e.cgroupManager())
	if err != nil {
		return err
	}
	in := specInput{
		C: c, RootFS: root, Bundle: bundle, NetNS: netPath, Rootless: e.Rootless, IDMaps: ids,
		Cgroups: cgroups, Volume: e.volumePath, Namespace: e.namespacePath,
	}
	fo := netns.FileOptions{
		State: net.State, Hostname: in.hostname(), Domainname: c.Config.Domainname,
		Names: []string{c.Name}, ExtraHosts: c.Config.ExtraHosts,
		DNS: c.Config.DNS, DNSSearch: c.Config.DNSSearch, DNSOptions: c.Config.DNSOptions,
	}
	hosts, err := netns.Hosts(fo)
	if err != nil {
		return err
	}
	resolv, err := netns.ResolvConf(fo)
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{"hosts": hosts, "resolv.conf": resolv, "hostname": netns.Hostname(fo)} {
		path := filepath.Join(bundle, name)
		err := os.WriteFile(path, content, 0o644)
		if err == nil && len(ids.UID) > 0 {
			err = os.Chown(path, hostID(ids.UID, 0), hostID(ids.GID, 0))
		}
		if err != nil {
			return fmt.Errorf("writing the bundle: %w", err)
		}
	}
	if err := in.writePasswd(); err != nil {
		return err
	}
	spec, warnings, err := in.build()
	if err != nil {
		return err
	}
	for _, w := range warnings {
		e.Warn(w)
	}
	return writeSpec(filepath.Join(bundle, "config.json"), spec)
}

func writeSpec(path string, spec *specs.Spec) error {
	raw, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("encoding the OCI spec: %w", err)
	}
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		return fmt.Errorf("writing the bundle: %w", err)
	}
	return nil
}

func (e *Engine) monitorConfig(c *store.Container, o StartOptions) (monitor.Config, error) {
	log, err := logConfig(&c.Config, e.Store.ContainerDir(c.ID), c.ID)
	if err != nil {
		return monitor.Config{}, err
	}
	sig, err := stopSignal(&c.Config)
	if err != nil {
		return monitor.Config{}, err
	}
	return monitor.Config{
		ID: c.ID, Name: c.Name, RunDir: e.Store.BundleDir(c.ID),
		Runtime: e.Runtime, RuntimeRoot: e.Store.RuntimeRoot(), SystemdCgroup: e.SystemdCgroup,
		Terminal: c.Config.Tty, Stdin: c.Config.Interactive, StdinOnce: c.Config.Interactive && o.First != nil,
		Log: log, Policy: c.Config.Restart, StopSignal: int(sig), AutoRemove: c.Config.AutoRemove,
		Store:       &monitor.StorePaths{Root: e.Store.Root(), RunRoot: e.Store.RunRoot(), TmpDir: e.Store.TmpDir()},
		ExitCommand: append(append([]string{}, e.Self...), "container", "cleanup", c.ID),
		First:       o.First,
	}, nil
}

func logConfig(c *store.Config, dir, id string) (monitor.LogConfig, error) {
	l := monitor.LogConfig{Driver: c.LogDriver, Path: filepath.Join(dir, id+"-json.log")}
	if c.LogDriver == "none" {
		return l, nil
	}
	var err error
	if v := c.LogOptions["max-size"]; v != "" {
		if l.MaxSize, err = units.RAMInBytes(v); err != nil {
			return l, fmt.Errorf("%w: log option max-size=%s: %w", ErrOptions, v, err)
		}
	}
	if v := c.LogOptions["max-file"]; v != "" {
		if l.MaxFile, err = strconv.Atoi(v); err != nil || l.MaxFile < 1 {
			return l, fmt.Errorf("%w: log option max-file=%s: not a number above 0", ErrOptions, v)
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return l, fmt.Errorf("making the log's folder: %w", err)
	}
	return l, nil
}

// publishedPorts adds the image's ports when all are to be published.
func publishedPorts(c *store.Config) []store.PortMapping {
	ports := c.Publish
	if !c.PublishAll {
		return ports
	}
	for _, p := range c.Ports {
		num, proto, _ := strings.Cut(p, "/")
		n, err := strconv.ParseUint(num, 10, 16)
		if err != nil {
			continue // EXPOSE of a range: nothing that can be published
		}
		taken := false
		for _, m := range ports {
			taken = taken || uint64(m.ContainerPort) == n && m.Protocol == proto
		}
		if !taken {
			ports = append(ports, store.PortMapping{ContainerPort: uint16(n), Protocol: proto})
		}
	}
	return ports
}

func bootID() string {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(raw))
}
