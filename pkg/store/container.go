package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.podman.io/storage/pkg/regexp"
)

// Errors about containers and their names.
var (
	ErrNoContainer = errors.New("no such container")
	ErrAmbiguous   = errors.New("more than one container has an ID that begins so")
	ErrNameInUse   = errors.New("the container name is already in use")
	ErrBadName     = errors.New("names are letters, digits, '_', '.' and '-', beginning with a letter or digit")
)

// Container is the durable record of one container: what it was made from and
// how it last ended. Whether it runs now is not in here but in what the kernel
// says (package run).
type Container struct {
	ID      string    // 64 hexadecimal digits, also the ID of its layer
	Name    string    // unique
	Created time.Time // when the record was made
	ImageID string    // hexadecimal, without algorithm; "" for an image since forgotten
	Image   string    // the reference as the user gave it
	Config  Config
	State   State
}

// Config is all that was asked of a container, with the image's defaults
// filled in at creation. The fields that flags bind to are these.
type Config struct {
	// The process.
	Entrypoint  []string          // with Cmd appended, the argv
	Cmd         []string          //
	Env         []string          // NAME=VALUE
	WorkingDir  string            // "" is /
	User        string            // USER[:GROUP], names or numbers
	Groups      []string          // additional groups
	Tty         bool              //
	Interactive bool              // stdin stays open
	StopSignal  string            // "" is SIGTERM
	StopTimeout *uint             // seconds; nil is 10
	Init        bool              // balena-init is PID 1
	AutoRemove  bool              // --rm
	Restart     RestartPolicy     //
	Labels      map[string]string //
	Annotations map[string]string //
	Platform    string            // os/arch[/variant]; "" is ours
	Ports       []string          // the image's EXPOSE, PORT/PROTO

	// What it sees.
	Hostname   string   // "" is the first 12 digits of the ID
	Domainname string   //
	Mounts     []Mount  //
	ReadOnly   bool     // rootfs
	Devices    []string // HOST[:CONTAINER[:rwm]]
	ShmSize    int64    // bytes; 0 is 64 MiB

	// The network.
	Network    string        // "none", "host" or "bridge"; "" is bridge
	Publish    []PortMapping // -p
	PublishAll bool          // -P
	DNS        []string      // servers
	DNSSearch  []string      //
	DNSOptions []string      //
	ExtraHosts []string      // NAME:IP
	MacAddress string        //

	// What it may do.
	Privileged  bool              //
	CapAdd      []string          //
	CapDrop     []string          //
	SecurityOpt []string          //
	Userns      string            // "", host, auto, keep-id…
	UIDMaps     []string          // CONTAINER:HOST:SIZE of a user namespace of its own
	GIDMaps     []string          //
	Pid         string            // "", host or container:NAME
	Ipc         string            // "", host, none, private, shareable
	Uts         string            // "" or host
	Cgroupns    string            // "", host or private
	Sysctls     map[string]string //

	// What it may use.
	Ulimits    []string // NAME=SOFT[:HARD]
	OOMScore   *int     // oom_score_adj
	Resources           // limits of the cgroup
	LogDriver  string   // "json-file" ("" too) or "none"
	LogOptions map[string]string
}

// Resources are the limits of a container's cgroup; zero is no limit.
type Resources struct {
	Memory            int64  `json:",omitempty"` // bytes
	MemoryReservation int64  `json:",omitempty"` // bytes
	MemorySwap        int64  `json:",omitempty"` // bytes of memory plus swap; -1 is no limit
	NanoCPUs          int64  `json:",omitempty"` // 10^-9 CPUs
	CPUShares         uint64 `json:",omitempty"` //
	CPUPeriod         uint64 `json:",omitempty"` // µs
	CPUQuota          int64  `json:",omitempty"` // µs
	CPUSetCPUs        string `json:",omitempty"` // "0-3,5"
	CPUSetMems        string `json:",omitempty"` //
	PidsLimit         *int64 `json:",omitempty"` // nil is the default (2048), ≤ 0 is no limit
	BlkioWeight       uint16 `json:",omitempty"` // 10 to 1000
	OOMKillDisable    bool   `json:",omitempty"` //
}

// RestartPolicy says when the monitor starts a container again.
type RestartPolicy struct {
	Name string // "no" ("" too), "always", "on-failure", "unless-stopped"
	Max  int    // of on-failure; 0 is no bound
}

// Mount is one thing to be seen at Target: a folder or file of the host, a
// named volume or a tmpfs.
type Mount struct {
	Type     string   // "bind", "volume", "tmpfs"
	Source   string   // host path, volume name ("" is an anonymous one) or nothing
	Target   string   // absolute, in the container
	ReadOnly bool     //
	Options  []string // mount options: rbind, rshared, z, Z, U, size=…, mode=…, nocopy…
}

// PortMapping publishes one port of a container.
type PortMapping struct {
	HostIP        string `json:",omitempty"` // "" is every address
	HostPort      uint16 // 0 chooses a free one
	ContainerPort uint16 //
	Protocol      string // "tcp", "udp" or "sctp"
}

// Status is a container's state in docker's words.
type Status string

// The states that containers are in.
const (
	StatusCreated    Status = "created"
	StatusRunning    Status = "running"
	StatusPaused     Status = "paused"
	StatusRestarting Status = "restarting"
	StatusExited     Status = "exited"
)

// State is the durable part of a container's state. Status is created, running
// (started, and no end was recorded: run.Inspect tells what became of it) or
// exited.
type State struct {
	Status    Status
	BootID    string    // of the boot in which it was last started
	Started   time.Time // zero: never
	Finished  time.Time // zero: never, or it runs
	ExitCode  int       // of the last end
	Error     string    // why it could not be started
	OOMKilled bool      //
	Restarts  int       // by its restart policy
	Stopped   bool      // by a person: unless-stopped then leaves it alone
	Ran       bool      // before its last start
}

// Volume is a named folder that outlives containers.
type Volume struct {
	Name      string
	Created   time.Time
	Labels    map[string]string
	Options   map[string]string
	Anonymous bool // made for one container and removed with it by rm -v and --rm
}

var nameForm = regexp.Delayed(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

// CheckName fails with ErrBadName for a name that no container may have.
func CheckName(name string) error {
	if !nameForm.MatchString(name) {
		return fmt.Errorf("invalid container name %q: %w", name, ErrBadName)
	}
	return nil
}

// Container finds a container by its name, its ID or an unambiguous beginning
// of the ID, in that order of preference. ErrNoContainer, ErrAmbiguous.
func (t *Tx) Container(ref string) (*Container, error) {
	var c Container
	var id string
	switch err := t.Get(BucketNames, ref, &id); {
	case err == nil:
	case errors.Is(err, ErrNoKey):
		if id, err = t.idByPrefix(ref); err != nil {
			return nil, err
		}
	default:
		return nil, err
	}
	if err := t.Get(BucketContainers, id, &c); err != nil {
		if errors.Is(err, ErrNoKey) {
			return nil, fmt.Errorf("%w: %s", ErrNoContainer, ref)
		}
		return nil, err
	}
	return &c, nil
}

func (t *Tx) idByPrefix(ref string) (string, error) {
	var found string
	if ref == "" || t.tx == nil {
		return "", fmt.Errorf("%w: %s", ErrNoContainer, ref)
	}
	b := t.tx.Bucket([]byte(BucketContainers))
	if b == nil {
		return "", fmt.Errorf("%w: %s", ErrNoContainer, ref)
	}
	cur := b.Cursor()
	for k, _ := cur.Seek([]byte(ref)); k != nil && strings.HasPrefix(string(k), ref); k, _ = cur.Next() {
		if found != "" {
			return "", fmt.Errorf("%w: %s", ErrAmbiguous, ref)
		}
		found = string(k)
	}
	if found == "" {
		return "", fmt.Errorf("%w: %s", ErrNoContainer, ref)
	}
	return found, nil
}

// Containers lists all containers in the order of their IDs.
func (t *Tx) Containers() ([]*Container, error) {
	var list []*Container
	err := t.Each(BucketContainers, func(id string, raw []byte) error {
		c := new(Container)
		if err := json.Unmarshal(raw, c); err != nil {
			return fmt.Errorf("%w: container %s: %w", ErrCorrupt, id, err)
		}
		list = append(list, c)
		return nil
	})
	return list, err
}

// PutContainer stores a container's record and takes its name, giving up the
// one it had before. ErrNameInUse, ErrBadName.
func (t *Tx) PutContainer(c *Container) error {
	if err := CheckName(c.Name); err != nil {
		return err
	}
	var owner string
	switch err := t.Get(BucketNames, c.Name, &owner); {
	case errors.Is(err, ErrNoKey):
	case err != nil:
		return err
	case owner != c.ID:
		return fmt.Errorf("%w: %q belongs to container %s", ErrNameInUse, c.Name, owner)
	}
	var old Container
	switch err := t.Get(BucketContainers, c.ID, &old); {
	case errors.Is(err, ErrNoKey):
	case err != nil:
		return err
	case old.Name != c.Name:
		if err := t.Delete(BucketNames, old.Name); err != nil {
			return err
		}
	}
	if owner == "" {
		if err := t.Put(BucketNames, c.Name, c.ID); err != nil {
			return err
		}
	}
	return t.Put(BucketContainers, c.ID, c)
}

// UpdateContainer changes the record of a container that still exists.
// ErrNoContainer when it was removed meanwhile.
func (t *Tx) UpdateContainer(id string, change func(*Container) error) error {
	var c Container
	if err := t.Get(BucketContainers, id, &c); err != nil {
		if errors.Is(err, ErrNoKey) {
			return fmt.Errorf("%w: %s", ErrNoContainer, id)
		}
		return err
	}
	if err := change(&c); err != nil {
		return err
	}
	return t.PutContainer(&c)
}

// DeleteContainer removes a container's record and its name; none is no error.
func (t *Tx) DeleteContainer(id string) error {
	var c Container
	if err := t.Get(BucketContainers, id, &c); err != nil {
		if errors.Is(err, ErrNoKey) {
			return nil
		}
		return err
	}
	return errors.Join(t.Delete(BucketNames, c.Name), t.Delete(BucketContainers, id))
}
