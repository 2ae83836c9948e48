package build

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/balena-os/balena/pkg/pull"
	"github.com/balena-os/balena/pkg/store"
)

// Errors that callers tell apart.
var (
	// ErrOptions is what no build can begin with.
	ErrOptions = errors.New("invalid build options")
	// ErrNotAllowed is for RUN --security=insecure that Options.Allow lacks.
	ErrNotAllowed = errors.New("the build does not allow it")
	// ErrNoDockerfile is for a context without the file that was asked for.
	ErrNoDockerfile = errors.New("no Dockerfile")
)

// Options of Build. The zero value builds what the context's Dockerfile says
// for this machine, with the cache, and gives the image no name.
type Options struct {
	pull.RegistryOptions

	// What is built.
	Files         []string          // Dockerfiles, one after the other; "-" is In; none is the context's own
	Target        string            // the stage to build; "" is the last
	Args          map[string]string // --build-arg
	Contexts      []string          // --build-context NAME=VALUE
	IgnoreFile    string            // "" is .containerignore or .dockerignore
	Platforms     []string          // OS/ARCH[/VARIANT]; none is this machine's, several become a list
	From          string            // in place of the first FROM's image
	Pull          string            // "missing" ("" too), "always" or "never"
	SkipUnused    *bool             // stages that the target does not need; nil is true
	NoCache       bool              //
	CacheFrom     []string          // repositories
	CacheTo       []string          // repositories
	CacheTTL      time.Duration     // older cached steps do not count; 0: all do
	Layers        *bool             // a layer, and a cached step, for each instruction; nil is true
	Squash        bool              // one layer for all that the build adds
	SquashAll     bool              // one layer for the base image and all that the build adds
	Jobs          int               // stages at once; 0 is 1
	KeepFailed    bool              // the containers of a failed build, for a look at them
	SourcePolicy  string            // a file of BuildKit's kind
	InheritLabels *bool             // of the base image; nil is true

	// What it becomes.
	Tags        []string   // names for the image
	Format      string     // "docker" ("" too) or "oci"
	Labels      []string   // KEY=VALUE
	Annotations []string   // KEY=VALUE; only of format oci
	Env         []string   // NAME[=VALUE] set in the image
	UnsetEnv    []string   // not taken over from the base image
	UnsetLabel  []string   // not taken over from the base image
	Timestamp   *time.Time // of everything in the image
	Epoch       *time.Time // SOURCE_DATE_EPOCH: of the configuration; of files with Rewrite
	Rewrite     bool       // no file of a layer is younger than Epoch
	Outputs     []Output   // where the result goes, besides the store
	Push        bool       // send it to the registries of its names
	DeltaFrom   []string   // images to make deltas from; with Push they are published
	IIDFile     string     // receives the image's ID
	Metadata    string     // receives a JSON object about the image

	// What its commands see.
	Volumes    []store.Mount // -v: bind mounts and named volumes, of every RUN
	Secrets    []string      // id=ID[,src=PATH|,env=NAME]
	SSH        []string      // default|ID[=SOCKET|KEY…]
	Network    string        // "" is a network of its own; "host" and "none"
	AddHost    []string      // NAME:IP
	DNS        []string      //
	DNSSearch  []string      //
	DNSOptions []string      //
	Isolation  string        // "oci" ("" too) or "chroot"
	Devices    []string      // HOST[:CONTAINER[:rwm]]
	CapAdd     []string      //
	CapDrop    []string      //
	Security   []string      // label=…, seccomp=…, apparmor=…, mask=…, unmask=…, no-new-privileges
	Allow      []string      // security.insecure, network.host: what instructions may ask for
	GroupAdd   []string      //
	Userns     Userns        //
	NoHosts    bool          // leave /etc/hosts alone
	NoHostname bool          // leave /etc/hostname alone
	HTTPProxy  *bool         // hand the proxy variables on; nil is true

	// What they may use.
	Memory       int64    // bytes
	MemorySwap   int64    // bytes of memory plus swap; -1 is no limit
	CPUShares    uint64   //
	CPUPeriod    uint64   // µs
	CPUQuota     int64    // µs
	CPUSetCPUs   string   //
	CPUSetMems   string   //
	CgroupParent string   //
	Ulimits      []string // NAME=SOFT[:HARD]
	ShmSize      string   // as 64m

	// How it is told.
	In       io.Reader        // for the context or Dockerfile "-"
	Out      io.Writer        // progress and what the commands print; nil: nowhere
	Progress func(pull.Event) // of pulls and pushes; nil: nothing is told
	Plain    bool             // one line for each thing that happens, with times
	Columns  func() int       // of the terminal that Out is; nil: nothing is drawn anew
}

// Check finds what cannot be meant. ErrOptions.
func (o *Options) Check() error {
	one := func(name, v string, of ...string) error {
		for _, c := range of {
			if v == c {
				return nil
			}
		}
		return fmt.Errorf("%w: %s %q is not one of %q", ErrOptions, name, v, of[1:])
	}
	for _, err := range []error{
		one("format", o.Format, "", "docker", "oci"),
		one("isolation", o.Isolation, "", "oci", "chroot"),
		one("pull", o.Pull, "", "missing", "always", "never"),
		one("network", o.Network, "", "default", "bridge", "host", "none"),
	} {
		if err != nil {
			return err
		}
	}
	for _, a := range o.Allow {
		if err := one("allow", a, "", allowInsecure, allowHost); err != nil {
			return err
		}
	}
	if o.Isolation == "chroot" && o.Network == "none" {
		return fmt.Errorf("%w: chroot isolation has the host's network and cannot have none", ErrOptions)
	}
	if o.Timestamp != nil && o.Epoch != nil {
		return fmt.Errorf("%w: a timestamp and SOURCE_DATE_EPOCH exclude each other", ErrOptions)
	}
	if o.Push && len(o.Tags) == 0 && !slices.ContainsFunc(o.Outputs, func(out Output) bool { return len(out.Names) > 0 }) {
		return fmt.Errorf("%w: an image without a name cannot be pushed", ErrOptions)
	}
	for _, out := range o.Outputs {
		if len(o.Platforms) > 1 && (out.Type == "docker" || out.Type == "tar") {
			return fmt.Errorf("%w: an output of type %s holds one platform: take type=oci or type=local", ErrOptions, out.Type)
		}
	}
	for _, t := range o.Tags {
		if _, err := pull.ParseName(t); err != nil {
			return err
		}
	}
	return nil
}

// Result is what a build made.
type Result struct {
	ID     string           // of the image or list, 64 hexadecimal digits; "" when only Outputs were made
	Names  []string         // that it now has because of this build
	Pushed []pull.Pushed    //
	Deltas []pull.MadeDelta // of Options.DeltaFrom
}
