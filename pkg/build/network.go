package build

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"

	nettypes "go.podman.io/common/libnetwork/types"

	"go.podman.io/buildah/define"

	"github.com/balena-os/balena/pkg/netns"
	"github.com/balena-os/balena/pkg/userns"
)

// network gives RUN its network: by default one of the build's own, with
// outbound access, that all its commands share; made only when there is a RUN.
func (b *builder) network(ctx context.Context, needed bool) (done func(), err error) {
	done = func() {}
	b.buildah.NetworkInterface = noNetworks{}
	host := define.NamespaceOption{Name: "network", Host: true}
	switch {
	case b.o.Network == "none":
		b.buildah.ConfigureNetwork = define.NetworkDisabled
		b.namespace(define.NamespaceOption{Name: "network"})
		return done, nil
	case b.o.Network == "host" || b.o.Isolation == "chroot" || !needed:
		b.namespace(host)
		return done, nil
	}
	id := make([]byte, 32)
	_, _ = rand.Read(id) // never fails
	o := netns.Options{ID: hex.EncodeToString(id), RunDir: b.st.NetworkRunDir(), Rootless: userns.Rootless()}
	n, err := netns.Setup(ctx, o)
	if err != nil {
		return done, err
	}
	done = func() {
		_ = netns.Teardown(context.WithoutCancel(ctx), o.RunDir, o.ID)
		_ = n.Close()
	}
	b.namespace(define.NamespaceOption{Name: "network", Path: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.NS.Fd())})
	if len(b.o.DNS) == 0 {
		conf, err := netns.ResolvConf(netns.FileOptions{State: n.State})
		if err != nil {
			done()
			return func() {}, err
		}
		for line := range strings.Lines(string(conf)) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "nameserver" {
				b.buildah.CommonBuildOpts.DNSServers = append(b.buildah.CommonBuildOpts.DNSServers, f[1])
			}
		}
	}
	for i, h := range b.buildah.CommonBuildOpts.AddHost {
		if name, ok := strings.CutSuffix(h, ":host-gateway"); ok && n.HostAddr != "" {
			b.buildah.CommonBuildOpts.AddHost[i] = name + ":" + n.HostAddr
		}
	}
	return done, nil
}

func (b *builder) namespace(o define.NamespaceOption) {
	b.buildah.NamespaceOptions = append(b.buildah.NamespaceOptions, o)
}

// noNetworks is what buildah would make networks with; all that it is given is
// made already.
type noNetworks struct{}

var errNetworks = errors.New("a build has its own network, the host's or none")

func (noNetworks) NetworkCreate(nettypes.Network, *nettypes.NetworkCreateOptions) (nettypes.Network, error) {
	return nettypes.Network{}, errNetworks
}

func (noNetworks) NetworkUpdate(string, nettypes.NetworkUpdateOptions) error { return errNetworks }
func (noNetworks) NetworkRemove(string) error                                { return errNetworks }

func (noNetworks) NetworkList(...nettypes.FilterFunc) ([]nettypes.Network, error) {
	return nil, errNetworks
}

func (noNetworks) NetworkInspect(string) (nettypes.Network, error) {
	return nettypes.Network{}, errNetworks
}

func (noNetworks) Setup(string, nettypes.SetupOptions) (map[string]nettypes.StatusBlock, error) {
	return nil, errNetworks
}

func (noNetworks) Teardown(string, nettypes.TeardownOptions) error { return errNetworks }

func (noNetworks) RunInRootlessNetns(func() error) error { return errNetworks }

func (noNetworks) RootlessNetnsInfo() (*nettypes.RootlessNetnsInfo, error) { return nil, errNetworks }

func (noNetworks) PestoSocketPath() string    { return "" }
func (noNetworks) Drivers() []string          { return nil }
func (noNetworks) DefaultNetworkName() string { return "bridge" }

func (noNetworks) NetworkInfo() nettypes.NetworkInfo { return nettypes.NetworkInfo{} }
