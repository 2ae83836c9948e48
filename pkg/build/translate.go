package build

import (
	"context"
	"errors"
	"fmt"
	"maps"
	goruntime "runtime"
	"slices"
	"strings"

	"go.podman.io/buildah/define"
	"go.podman.io/buildah/pkg/parse"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/types"
	"golang.org/x/sys/unix"

	"github.com/balena-os/balena/pkg/pull"
)

// translate makes buildah's options of ours.
func (b *builder) translate(ctx context.Context, c *buildContext) error {
	o := &b.o
	sys, err := b.registryContext()
	if err != nil {
		return err
	}
	// An unqualified name is docker.io's, whatever registries.conf says: as
	// for pull and run.
	sys.PodmanOnlyShortNamesIgnoreRegistriesConfAndForceDockerHub = true
	sys.BigFilesTemporaryDir = b.tmp
	b.buildah = define.BuildOptions{
		ContextDirectory:        c.dir,
		ContainerSuffix:         suffix,
		PullPolicy:              define.PullNever, // pullBases has them all
		Isolation:               define.IsolationOCI,
		Runtime:                 "/proc/self/exe",
		RuntimeArgs:             b.runtimeArgs(),
		Args:                    maps.Clone(o.Args),
		AdditionalBuildContexts: map[string]*define.AdditionalBuildContext{},
		SystemContext:           sys,
		OutputFormat:            define.Dockerv2ImageManifest,
		Target:                  o.Target,
		From:                    o.From,
		IgnoreFile:              o.IgnoreFile,
		NoCache:                 o.NoCache,
		CacheTTL:                o.CacheTTL,
		Layers:                  (o.Layers == nil || *o.Layers) && !o.Squash,
		Squash:                  o.SquashAll,
		Labels:                  o.Labels,
		Annotations:             o.Annotations,
		Envs:                    o.Env,
		UnsetEnvs:               o.UnsetEnv,
		UnsetLabels:             o.UnsetLabel,
		Timestamp:               o.Timestamp,
		SourceDateEpoch:         o.Epoch,
		RewriteTimestamp:        o.Rewrite,
		BuildOutputs:            b.outputs(),
		MetadataFile:            b.metadata(),
		IIDFile:                 "/dev/null", // the ID is not printed then; finish writes it
		RemoveIntermediateCtrs:  true,
		ForceRmIntermediateCtrs: !o.KeepFailed,
		AddCapabilities:         o.CapAdd,
		DropCapabilities:        o.CapDrop,
		Devices:                 o.Devices,
		GroupAdd:                o.GroupAdd,
		SourcePolicyFile:        o.SourcePolicy,
		SkipUnusedStages:        optional(o.SkipUnused),
		InheritLabels:           optional(o.InheritLabels),
		MaxPullPushRetries:      3,
		CommonBuildOpts:         b.common(),
	}
	if b.buildah.Args == nil {
		b.buildah.Args = map[string]string{}
	}
	if o.Format == "oci" {
		b.buildah.OutputFormat = define.OCIv1ImageManifest
	}
	if o.Isolation == "chroot" {
		b.buildah.Isolation = define.IsolationChroot
	}
	if o.Jobs > 0 {
		b.buildah.Jobs = &o.Jobs
	}
	if b.buildah.CommonBuildOpts.Volumes, err = b.volumes(ctx); err != nil {
		return err
	}
	return errors.Join(b.setPlatform(), b.userns(), b.contexts(), b.caches(), b.security())
}

// registryContext is for the repositories of caches, the only ones that buildah
// speaks with. All of them are spoken with in the same way, the strictest.
func (b *builder) registryContext() (*types.SystemContext, error) {
	var found *types.SystemContext
	for _, n := range slices.Concat(b.o.CacheFrom, b.o.CacheTo) {
		named, err := pull.ParseName(n)
		if err != nil {
			return nil, fmt.Errorf("cache: %w", err)
		}
		sys, err := b.o.Context(named)
		if err != nil {
			return nil, err
		}
		if found == nil || found.DockerInsecureSkipTLSVerify == types.OptionalBoolTrue {
			found = sys
		}
	}
	if found != nil {
		return found, nil
	}
	return b.o.Context(nil)
}

// common has the options that buildah keeps apart.
func (b *builder) common() *define.CommonBuildOptions {
	o := &b.o
	return &define.CommonBuildOptions{
		AddHost: slices.Clone(o.AddHost), DNSServers: o.DNS, DNSSearch: o.DNSSearch, DNSOptions: o.DNSOptions,
		CgroupParent: o.CgroupParent, CPUPeriod: o.CPUPeriod, CPUQuota: o.CPUQuota, CPUShares: o.CPUShares,
		CPUSetCPUs: o.CPUSetCPUs, CPUSetMems: o.CPUSetMems, Memory: o.Memory, MemorySwap: o.MemorySwap,
		HTTPProxy: o.HTTPProxy == nil || *o.HTTPProxy, NoHosts: o.NoHosts, NoHostname: o.NoHostname,
		Secrets: o.Secrets, SSHSources: o.SSH, ShmSize: o.ShmSize, Ulimit: ulimits(o.Ulimits),
		IdentityLabel: types.OptionalBoolFalse, // docker's images do not say who built them
	}
}

// ulimits adds the limits of open files and processes that a RUN gets, but not
// more than this process may give.
func ulimits(asked []string) []string {
	var list []string
	for _, d := range []struct {
		name string
		res  int
	}{{"nofile", unix.RLIMIT_NOFILE}, {"nproc", unix.RLIMIT_NPROC}} {
		var now unix.Rlimit
		if unix.Getrlimit(d.res, &now) != nil {
			continue
		}
		limit := min(define.RLimitDefaultValue, now.Max)
		list = append(list, fmt.Sprintf("%s=%d:%d", d.name, limit, limit))
	}
	return append(list, asked...)
}

func optional(b *bool) types.OptionalBool {
	if b == nil {
		return types.OptionalBoolUndefined
	}
	return types.NewOptionalBool(*b)
}

// setPlatform splits OS/ARCH[/VARIANT].
func (b *builder) setPlatform() error {
	if b.platform == "" {
		return nil
	}
	os, arch, variant, err := parse.Platform(b.platform)
	if err != nil {
		return fmt.Errorf("%w: platform %q: %w", ErrOptions, b.platform, err)
	}
	b.buildah.Platforms = []struct{ OS, Arch, Variant string }{{os, arch, variant}}
	return nil
}

// platformArgs are the variables that FROM may use without declaring them.
func (b *builder) platformArgs() map[string]string {
	os, arch, variant := "linux", goruntime.GOARCH, ""
	args := map[string]string{"BUILDPLATFORM": os + "/" + arch, "BUILDOS": os, "BUILDARCH": arch}
	if len(b.buildah.Platforms) > 0 {
		p := b.buildah.Platforms[0]
		os, arch, variant = p.OS, p.Arch, p.Variant
	}
	args["TARGETOS"], args["TARGETARCH"], args["TARGETVARIANT"] = os, arch, variant
	args["TARGETPLATFORM"] = strings.TrimSuffix(os+"/"+arch+"/"+variant, "/")
	return args
}

// contexts reads --build-context.
func (b *builder) contexts() error {
	for _, c := range b.o.Contexts {
		name, value, ok := strings.Cut(c, "=")
		if !ok || name == "" || value == "" {
			return fmt.Errorf("%w: build context %q is not NAME=VALUE", ErrOptions, c)
		}
		ac, err := parse.GetAdditionalBuildContext(value)
		if err != nil {
			return fmt.Errorf("%w: build context %q: %w", ErrOptions, c, err)
		}
		b.buildah.AdditionalBuildContexts[name] = &ac
	}
	return nil
}

// caches reads the repositories that cached steps come from and go to.
func (b *builder) caches() error {
	for _, c := range []struct {
		names []string
		to    *[]reference.Named
	}{{b.o.CacheFrom, &b.buildah.CacheFrom}, {b.o.CacheTo, &b.buildah.CacheTo}} {
		for _, n := range c.names {
			named, err := pull.ParseName(n)
			if err != nil {
				return fmt.Errorf("cache: %w", err)
			}
			if !reference.IsNameOnly(named) {
				named = reference.TrimNamed(named)
			}
			*c.to = append(*c.to, named)
		}
	}
	return nil
}

// security reads --security-opt.
func (b *builder) security() error {
	c := b.buildah.CommonBuildOpts
	for _, s := range b.o.Security {
		key, value, _ := strings.Cut(s, "=")
		switch {
		case key == "no-new-privileges" && (value == "" || value == "true"):
			c.NoNewPrivileges = true
		case value == "":
			return fmt.Errorf("%w: security option %q is not KEY=VALUE", ErrOptions, s)
		case key == "label":
			c.LabelOpts = append(c.LabelOpts, value)
		case key == "apparmor":
			c.ApparmorProfile = value
		case key == "seccomp":
			c.SeccompProfilePath = value
		case key == "mask":
			c.Masks = append(c.Masks, strings.Split(value, ":")...)
		case key == "unmask":
			c.Unmasks = append(c.Unmasks, strings.Split(value, ":")...)
		default:
			return fmt.Errorf("%w: there is no security option %q", ErrOptions, key)
		}
	}
	return nil
}
