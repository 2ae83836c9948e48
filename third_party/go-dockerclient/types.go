// Package docker takes the place of github.com/fsouza/go-dockerclient, of which
// imagebuilder and buildah use the types of an image's configuration. The
// original is a client of docker's daemon.
//
// Lost: nothing.
package docker

import (
	"strings"
	"time"
)

// Port is NUMBER[/PROTOCOL].
type Port string

// Port gives the number.
func (p Port) Port() string {
	number, _, _ := strings.Cut(string(p), "/")
	return number
}

// Proto gives the protocol, tcp where none is named.
func (p Port) Proto() string {
	if _, proto, ok := strings.Cut(string(p), "/"); ok {
		return proto
	}
	return "tcp"
}

// Config is what containers of an image begin with. All fields have the names
// that docker's API has.
type Config struct {
	Hostname          string
	Domainname        string
	User              string
	Memory            int64
	MemorySwap        int64
	MemoryReservation int64
	KernelMemory      int64
	CPUShares         int64  `json:"CpuShares"`
	CPUSet            string `json:"Cpuset"`
	PortSpecs         []string
	ExposedPorts      map[Port]struct{}
	StopSignal        string
	StopTimeout       int
	Env               []string
	Cmd               []string
	Shell             []string
	Healthcheck       *HealthConfig
	Image             string
	Volumes           map[string]struct{}
	WorkingDir        string
	MacAddress        string
	Entrypoint        []string
	OnBuild           []string
	Labels            map[string]string
	AttachStdin       bool
	AttachStdout      bool
	AttachStderr      bool
	ArgsEscaped       bool
	Tty               bool
	OpenStdin         bool
	StdinOnce         bool
	NetworkDisabled   bool
}

// HealthConfig is a health check. Times are in nanoseconds; zero means docker's
// default.
type HealthConfig struct {
	Test          []string // {"NONE"}, {"CMD", …} or {"CMD-SHELL", …}
	Interval      time.Duration
	Timeout       time.Duration
	StartPeriod   time.Duration
	StartInterval time.Duration
	Retries       int
}

// RootFS lists an image's layers.
type RootFS struct {
	Type   string
	Layers []string
}

// Image is an image's configuration with what surrounds it.
type Image struct {
	ID              string `json:"Id"`
	Parent          string
	Comment         string
	Created         time.Time
	Container       string
	ContainerConfig Config
	DockerVersion   string
	Author          string
	Config          *Config
	Architecture    string
	Size            int64
	RootFS          *RootFS
	OS              string `json:"Os"`
}
