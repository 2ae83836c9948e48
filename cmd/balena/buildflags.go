package main

import (
	"strings"

	"github.com/spf13/pflag"

	"github.com/balena-os/balena/pkg/build"
	"github.com/balena-os/balena/pkg/run"
)

// addBuildFlags binds every flag to the field that it is about.
func addBuildFlags(f *pflag.FlagSet, o *build.Options, b *buildFlags) {
	f.StringVar(&b.progress, "progress", "auto", "auto, plain, tty or quiet")
	f.BoolVarP(&b.quiet, "quiet", "q", false, "print nothing but the image's ID")
	addBuildInputFlags(f, o)
	addBuildResultFlags(f, o)
	addBuildRunFlags(f, o)
	addBuildLimitFlags(f, o)
	addRegistryFlags(f, &o.RegistryOptions)
	addCredsFlag(f, &o.RegistryOptions)
}

func addBuildInputFlags(f *pflag.FlagSet, o *build.Options) {
	list(f, &o.Files, "file", "f", "the Dockerfile, or - for stdin (default: Dockerfile, else Containerfile, of the context)")
	f.StringVar(&o.Target, "target", "", "the stage to build (default: the last)")
	value(f, "build-arg", "", "key=value", "set an ARG of the Dockerfile; without a value, to the environment's", keyValues(&o.Args))
	list(f, &o.Contexts, "build-context", "", "NAME=FOLDER, URL or docker-image://IMAGE: a further context for FROM and --from")
	f.StringVar(&o.IgnoreFile, "ignorefile", "", "in place of .containerignore and .dockerignore")
	value(f, "platform", "", "list", "OS/ARCH[/VARIANT],… to build for (default: this machine's); several become a list", func(s string) error {
		o.Platforms = append(o.Platforms, strings.Split(s, ",")...)
		return nil
	})
	value(f, "arch", "", "string", "architecture to build for", func(s string) error {
		o.Platforms = append(o.Platforms, "linux/"+s)
		return nil
	})
	f.StringVar(&o.From, "from", "", "the image of the first FROM")
	choice(f, &o.Pull, "pull", "fetch base images: missing, always or never (default missing; --pull alone: always)", "missing", "always", "never")
	f.Lookup("pull").NoOptDefVal = "always"
	f.BoolVar(&o.NoCache, "no-cache", false, "execute every step")
	list(f, &o.CacheFrom, "cache-from", "", "repository to take steps from")
	list(f, &o.CacheTo, "cache-to", "", "repository to push steps to")
	f.DurationVar(&o.CacheTTL, "cache-ttl", 0, "steps that are older do not count, as 48h (default: all do)")
	f.Var(optionalBool{&o.Layers}, "layers", "a layer and a cached step for each instruction (default true)")
	f.Lookup("layers").NoOptDefVal = "true"
	f.Var(optionalBool{&o.SkipUnused}, "skip-unused-stages", "leave out stages that the target does not need (default true)")
	f.Lookup("skip-unused-stages").NoOptDefVal = "true"
	f.IntVar(&o.Jobs, "jobs", 1, "stages to build at once")
	f.StringVar(&o.SourcePolicy, "source-policy-file", "", "which images may be used, as BuildKit has it")
	ignored(f, "rm", "force-rm", "load", "provenance", "sbom", "attest", "builder", "compress")
}

// ignored takes flags that say what is so already, and hides them.
func ignored(f *pflag.FlagSet, names ...string) {
	for _, n := range names {
		value(f, n, "", "value", "", func(string) error { return nil })
		f.Lookup(n).NoOptDefVal = "true"
		f.Lookup(n).Hidden = true
	}
}

func addBuildResultFlags(f *pflag.FlagSet, o *build.Options) {
	list(f, &o.Tags, "tag", "t", "NAME[:TAG] for the image")
	choice(f, &o.Format, "format", "docker or oci: the kind of the image (default docker)", "docker", "oci")
	list(f, &o.Labels, "label", "", "KEY=VALUE for the image")
	list(f, &o.Annotations, "annotation", "", "KEY=VALUE for the manifest (format oci)")
	list(f, &o.Env, "env", "", "NAME[=VALUE] to set in the image")
	list(f, &o.UnsetEnv, "unsetenv", "", "variable of the base image to leave out")
	list(f, &o.UnsetLabel, "unsetlabel", "", "label of the base image to leave out")
	f.Var(optionalBool{&o.InheritLabels}, "inherit-labels", "take the base image's labels over (default true)")
	f.Lookup("inherit-labels").NoOptDefVal = "true"
	f.BoolVar(&o.Squash, "squash", false, "make one layer of all that is added to the base image")
	f.BoolVar(&o.SquashAll, "squash-all", false, "make one layer of the base image and all that is added")
	value(f, "timestamp", "", "seconds", "the time of everything in the image, since 1970", func(s string) error { return epoch(&o.Timestamp, s) })
	value(f, "source-date-epoch", "", "seconds", "the time of the image's configuration, since 1970 (default: $SOURCE_DATE_EPOCH)", func(s string) error { return epoch(&o.Epoch, s) })
	f.BoolVar(&o.Rewrite, "rewrite-timestamp", false, "make no file of a layer younger than --source-date-epoch")
	value(f, "output", "o", "list", "FOLDER, or type=local|tar|oci|docker,dest=PATH|-: write the files of the result, or the image, there; type=image,name=NAME,push=true", func(s string) error {
		out, err := build.ParseOutput(s)
		o.Outputs = append(o.Outputs, out)
		return err
	})
	f.BoolVar(&o.Push, "push", false, "send the image to the registries of its names")
	list(f, &o.DeltaFrom, "delta-from", "", "image to make a delta from, to what is built; with --push it is published")
	f.StringVar(&o.IIDFile, "iidfile", "", "write the image's ID to this file")
	f.StringVar(&o.Metadata, "metadata-file", "", "write a JSON object about the image to this file")
}

func addBuildRunFlags(f *pflag.FlagSet, o *build.Options) {
	value(f, "volume", "v", "list", "SOURCE:TARGET[:OPTIONS]: a folder of the host or a named volume that every RUN sees; options ro, O, z, U…", func(s string) error {
		s, overlay := overlayOption(s)
		m, err := run.ParseVolume(s)
		if err != nil {
			return err
		}
		if overlay {
			m.Options = append(m.Options, "O")
		}
		o.Volumes = append(o.Volumes, m)
		return nil
	})
	list(f, &o.Secrets, "secret", "", "id=ID[,src=FILE|,env=NAME] for RUN --mount=type=secret")
	list(f, &o.SSH, "ssh", "", "default or ID[=SOCKET|KEY] for RUN --mount=type=ssh")
	choice(f, &o.Network, "network", "host, none or default: a network of the build's own with outbound access", "default", "bridge", "host", "none")
	list(f, &o.AddHost, "add-host", "", "NAME:IP for /etc/hosts, or NAME:host-gateway")
	list(f, &o.DNS, "dns", "", "name server")
	list(f, &o.DNSSearch, "dns-search", "", "search domain")
	list(f, &o.DNSOptions, "dns-option", "", "resolver option")
	choice(f, &o.Isolation, "isolation", "oci or chroot: how RUN is kept apart (default oci)", "oci", "chroot")
	list(f, &o.Devices, "device", "", "HOST[:CONTAINER[:rwm]]: a device for RUN")
	list(f, &o.CapAdd, "cap-add", "", "capability for RUN")
	list(f, &o.CapDrop, "cap-drop", "", "capability that RUN does not have")
	list(f, &o.Security, "security-opt", "", "label=…, seccomp=FILE|unconfined, apparmor=…, mask=…, unmask=…, no-new-privileges")
	list(f, &o.Allow, "allow", "", "security.insecure: RUN --security=insecure may do what a privileged container may; network.host is always allowed")
	list(f, &o.GroupAdd, "group-add", "", "further group for RUN")
	f.StringVar(&o.Userns.How, "userns", "", "user namespace of RUN: host, private or a path (default: the engine's)")
	list(f, &o.Userns.UIDMap, "userns-uid-map", "", "CONTAINER:HOST:SIZE")
	list(f, &o.Userns.GIDMap, "userns-gid-map", "", "CONTAINER:HOST:SIZE (default: as the users')")
	f.StringVar(&o.Userns.UIDUser, "userns-uid-map-user", "", "user whose subordinate IDs to map")
	f.StringVar(&o.Userns.GIDGroup, "userns-gid-map-group", "", "group whose subordinate IDs to map")
	f.BoolVar(&o.NoHosts, "no-hosts", false, "use the image's /etc/hosts")
	f.BoolVar(&o.NoHostname, "no-hostname", false, "use the image's /etc/hostname")
	f.Var(optionalBool{&o.HTTPProxy}, "http-proxy", "hand on http_proxy and the like (default true)")
	f.Lookup("http-proxy").NoOptDefVal = "true"
}

func addBuildLimitFlags(f *pflag.FlagSet, o *build.Options) {
	size(f, &o.Memory, "memory", "m", "limit of memory", false)
	size(f, &o.MemorySwap, "memory-swap", "", "limit of memory plus swap; -1: none", true)
	f.Uint64VarP(&o.CPUShares, "cpu-shares", "c", 0, "relative weight")
	f.Uint64Var(&o.CPUPeriod, "cpu-period", 0, "period of the CFS scheduler, µs")
	f.Int64Var(&o.CPUQuota, "cpu-quota", 0, "time in each period, µs")
	f.StringVar(&o.CPUSetCPUs, "cpuset-cpus", "", "CPUs to use, as 0-3,5")
	f.StringVar(&o.CPUSetMems, "cpuset-mems", "", "memory nodes to use")
	f.StringVar(&o.CgroupParent, "cgroup-parent", "", "cgroup to make RUN's below")
	list(f, &o.Ulimits, "ulimit", "", "NAME=SOFT[:HARD]")
	f.StringVar(&o.ShmSize, "shm-size", "64m", "size of /dev/shm")
}

// overlayOption takes the option O, which run's volumes do not have, out of a
// volume: writes go to a layer that the build throws away.
func overlayOption(s string) (string, bool) {
	i := strings.LastIndex(s, ":")
	if i < 0 || strings.Count(s, ":") < 2 {
		return s, false
	}
	var keep []string
	found := false
	for opt := range strings.SplitSeq(s[i+1:], ",") {
		if opt == "O" {
			found = true
		} else {
			keep = append(keep, opt)
		}
	}
	if !found {
		return s, false
	}
	if len(keep) == 0 {
		return s[:i], true
	}
	return s[:i+1] + strings.Join(keep, ","), true
}
