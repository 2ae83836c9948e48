package run

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/balena-os/balena/pkg/netns"
	"github.com/balena-os/balena/pkg/store"
)

// Details are all that is known about a container, in the shape of docker's
// container inspect (API 1.48); what no field of it fits is left out.
type Details struct {
	ID              string `json:"Id"`
	Created         time.Time
	Path            string
	Args            []string
	State           StateDetails
	Image           string // sha256:ID
	ResolvConfPath  string
	HostnamePath    string
	HostsPath       string
	LogPath         string
	Name            string // with docker's leading slash
	RestartCount    int
	Driver          string
	Platform        string
	HostConfig      HostDetails
	GraphDriver     map[string]any
	Mounts          []MountDetails
	Config          ConfigDetails
	NetworkSettings NetworkDetails
	OCIConfigPath   string
	Rootless        bool
}

// StateDetails is what the container does now or how it ended.
type StateDetails struct {
	Status                                       store.Status
	Running, Paused, Restarting, OOMKilled, Dead bool
	Pid, MonitorPid, ExitCode                    int
	Error                                        string
	StartedAt, FinishedAt                        time.Time
}

// HostDetails are the options that concern the host.
type HostDetails struct {
	Binds                                   []string
	Tmpfs                                   map[string]string `json:",omitempty"`
	LogConfig                               LogDetails
	NetworkMode                             string
	PortBindings                            map[string][]Binding
	RestartPolicy                           RestartDetails
	AutoRemove, Privileged, ReadonlyRootfs  bool
	PublishAllPorts, Init                   bool
	CapAdd, CapDrop                         []string
	CgroupnsMode, IpcMode, PidMode, UTSMode string
	UsernsMode                              string
	DNS                                     []string `json:"Dns"`
	DNSOptions                              []string `json:"DnsOptions"`
	DNSSearch                               []string `json:"DnsSearch"`
	ExtraHosts, GroupAdd, SecurityOpt       []string
	Devices, Ulimits                        []string
	Sysctls                                 map[string]string `json:",omitempty"`
	ShmSize                                 int64
	OomScoreAdj                             int
	store.Resources
}

// LogDetails say where output is kept.
type LogDetails struct {
	Type   string
	Config map[string]string
}

// RestartDetails is the restart policy.
type RestartDetails struct {
	Name              string
	MaximumRetryCount int
}

// Binding is where a port is published.
type Binding struct{ HostIP, HostPort string } //nolint:revive // docker's names

// MarshalJSON spells HostIp as docker does.
func (b Binding) MarshalJSON() ([]byte, error) {
	return fmt.Appendf(nil, `{"HostIp":%q,"HostPort":%q}`, b.HostIP, b.HostPort), nil
}

// MountDetails is one mount.
type MountDetails struct {
	Type        string
	Name        string `json:",omitempty"`
	Source      string
	Destination string
	Mode        string
	RW          bool
}

// ConfigDetails are the options that do not concern the host.
type ConfigDetails struct {
	Hostname, Domainname, User string
	Tty, OpenStdin             bool
	Env, Cmd, Entrypoint       []string
	Image, WorkingDir          string
	Volumes                    map[string]struct{}
	ExposedPorts               map[string]struct{} `json:",omitempty"`
	Labels, Annotations        map[string]string
	StopSignal                 string
	StopTimeout                *uint `json:",omitempty"`
}

// NetworkDetails is the network that the container has now.
type NetworkDetails struct {
	Ports                          map[string][]Binding
	IPAddress, Gateway, MacAddress string
	IPPrefixLen                    int
	Networks                       map[string]EndpointDetails
}

// EndpointDetails is the container's place in one network.
type EndpointDetails struct {
	IPAddress, Gateway, MacAddress string
	IPPrefixLen                    int
}

// Inspect tells all that is known about a container.
func (e *Engine) Inspect(ctx context.Context, ref string) (*Details, error) {
	o, err := e.find(ctx, ref)
	if err != nil {
		return nil, err
	}
	c, st := &o.Config, &o.State
	argv := slices.Concat(c.Entrypoint, c.Cmd)
	bundle := e.Store.BundleDir(o.ID) + "/"
	d := &Details{
		ID: o.ID, Created: o.Created, Path: argv[0], Args: argv[1:], Image: "sha256:" + o.ImageID, Name: "/" + o.Name,
		State: StateDetails{
			Status: st.Status, Running: o.Running(), Paused: st.Status == store.StatusPaused,
			Restarting: st.Status == store.StatusRestarting, OOMKilled: st.OOMKilled, Pid: o.Pid, MonitorPid: o.Monitor,
			ExitCode: st.ExitCode, Error: st.Error, StartedAt: st.Started, FinishedAt: st.Finished,
		},
		ResolvConfPath: bundle + "resolv.conf", HostnamePath: bundle + "hostname", HostsPath: bundle + "hosts",
		OCIConfigPath: bundle + "config.json", RestartCount: st.Restarts, Platform: "linux", Rootless: e.Rootless,
		HostConfig: hostDetails(c), Mounts: e.mountDetails(c), NetworkSettings: networkDetails(o),
	}
	if c.LogDriver != "none" {
		d.LogPath = e.Store.ContainerDir(o.ID) + "/" + o.ID + "-json.log"
	}
	if d.GraphDriver, err = e.graphDetails(o.ID); err != nil {
		return nil, err
	}
	d.Driver, _ = d.GraphDriver["Name"].(string)
	hostname := c.Hostname
	if hostname == "" {
		hostname = short(o.ID)
	}
	d.Config = ConfigDetails{
		Hostname: hostname, Domainname: c.Domainname, User: c.User, Tty: c.Tty, OpenStdin: c.Interactive,
		Env: c.Env, Cmd: c.Cmd, Entrypoint: c.Entrypoint, Image: o.Image, WorkingDir: c.WorkingDir,
		ExposedPorts: set(c.Ports), Labels: c.Labels, Annotations: c.Annotations, StopSignal: c.StopSignal, StopTimeout: c.StopTimeout,
	}
	if d.Config.Labels == nil {
		d.Config.Labels = map[string]string{}
	}
	return d, nil
}

func set(keys []string) map[string]struct{} {
	m := map[string]struct{}{}
	for _, k := range keys {
		m[k] = struct{}{}
	}
	return m
}

func (e *Engine) graphDetails(id string) (map[string]any, error) {
	layers, err := e.Store.Layers()
	if err != nil {
		return nil, err
	}
	driver, err := layers.GraphDriver()
	if err != nil {
		return nil, err
	}
	data := map[string]string{}
	if lc, err := layers.Container(id); err == nil {
		// A removal that was killed has taken the layer's folder along.
		if data, err = driver.Metadata(lc.LayerID); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("looking up the layer of container %s: %w", short(id), err)
		}
	}
	return map[string]any{"Name": driver.String(), "Data": data}, nil
}

func hostDetails(c *store.Config) HostDetails {
	h := HostDetails{
		LogConfig:   LogDetails{Type: c.LogDriver, Config: c.LogOptions},
		NetworkMode: networkMode(c), PortBindings: bindings(c.Publish),
		RestartPolicy: RestartDetails{Name: c.Restart.Name, MaximumRetryCount: c.Restart.Max},
		AutoRemove:    c.AutoRemove, Privileged: c.Privileged, ReadonlyRootfs: c.ReadOnly, PublishAllPorts: c.PublishAll, Init: c.Init,
		CapAdd: c.CapAdd, CapDrop: c.CapDrop, CgroupnsMode: c.Cgroupns, IpcMode: c.Ipc, PidMode: c.Pid, UTSMode: c.Uts, UsernsMode: c.Userns,
		DNS: c.DNS, DNSOptions: c.DNSOptions, DNSSearch: c.DNSSearch, ExtraHosts: c.ExtraHosts, GroupAdd: c.Groups, SecurityOpt: c.SecurityOpt,
		Devices: c.Devices, Ulimits: c.Ulimits, Sysctls: c.Sysctls, ShmSize: c.ShmSize, Resources: c.Resources,
	}
	if h.LogConfig.Type == "" {
		h.LogConfig.Type = "json-file"
	}
	if h.RestartPolicy.Name == "" {
		h.RestartPolicy.Name = "no"
	}
	if h.ShmSize == 0 {
		h.ShmSize = 64 << 20
	}
	if c.OOMScore != nil {
		h.OomScoreAdj = *c.OOMScore
	}
	for _, m := range c.Mounts {
		switch m.Type {
		case "tmpfs":
			if h.Tmpfs == nil {
				h.Tmpfs = map[string]string{}
			}
			h.Tmpfs[m.Target] = strings.Join(m.Options, ",")
		default:
			h.Binds = append(h.Binds, strings.Join([]string{m.Source, m.Target, mountMode(m)}, ":"))
		}
	}
	return h
}

func mountMode(m store.Mount) string {
	if m.ReadOnly {
		return strings.Join(append([]string{"ro"}, m.Options...), ",")
	}
	return strings.Join(append([]string{"rw"}, m.Options...), ",")
}

func (e *Engine) mountDetails(c *store.Config) []MountDetails {
	list := []MountDetails{}
	for _, m := range c.Mounts {
		d := MountDetails{Type: m.Type, Source: m.Source, Destination: m.Target, Mode: strings.Join(m.Options, ","), RW: !m.ReadOnly}
		if m.Type == "volume" {
			d.Name, d.Source = m.Source, e.Store.VolumeDir(m.Source)
		}
		list = append(list, d)
	}
	return list
}

func bindings(ports []store.PortMapping) map[string][]Binding {
	m := map[string][]Binding{}
	for _, p := range ports {
		key := fmt.Sprintf("%d/%s", p.ContainerPort, p.Protocol)
		b := Binding{HostIP: p.HostIP}
		if p.HostPort != 0 {
			b.HostPort = strconv.Itoa(int(p.HostPort))
		}
		m[key] = append(m[key], b)
	}
	return m
}

func networkDetails(o *Observed) NetworkDetails {
	n := NetworkDetails{Ports: map[string][]Binding{}, Networks: map[string]EndpointDetails{}}
	mode := networkMode(&o.Config)
	if !o.Running() {
		n.Networks[mode] = EndpointDetails{}
		return n
	}
	s := o.Network
	for _, p := range o.Config.Ports {
		n.Ports[p] = nil
	}
	for key, b := range bindings(s.Ports) {
		for i := range b {
			if net.ParseIP(b[i].HostIP) == nil {
				b[i].HostIP = "0.0.0.0"
			}
		}
		n.Ports[key] = b
	}
	n.IPAddress, n.Gateway, n.MacAddress, n.IPPrefixLen = s.IPAddress, s.Gateway, s.MacAddress, s.PrefixLen
	if mode != netns.ModeNone {
		n.Networks[mode] = EndpointDetails{IPAddress: s.IPAddress, Gateway: s.Gateway, MacAddress: s.MacAddress, IPPrefixLen: s.PrefixLen}
	}
	return n
}
