package pull

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"go.podman.io/storage"

	"github.com/balena-os/balena/pkg/store"
)

// ImageConfig is what an image says about the containers made from it, with
// docker's names; those that only docker's format has (Healthcheck, OnBuild,
// Shell) are empty in OCI images.
type ImageConfig struct {
	User         string              `json:"User"`
	ExposedPorts map[string]struct{} `json:"ExposedPorts,omitempty"`
	Env          []string            `json:"Env"`
	Cmd          []string            `json:"Cmd"`
	ArgsEscaped  bool                `json:"ArgsEscaped,omitempty"`
	Healthcheck  *Healthcheck        `json:"Healthcheck,omitempty"`
	Volumes      map[string]struct{} `json:"Volumes"`
	WorkingDir   string              `json:"WorkingDir"`
	Entrypoint   []string            `json:"Entrypoint"`
	OnBuild      []string            `json:"OnBuild"`
	Labels       map[string]string   `json:"Labels"`
	StopSignal   string              `json:"StopSignal,omitempty"`
	StopTimeout  *int                `json:"StopTimeout,omitempty"`
	Shell        []string            `json:"Shell,omitempty"`
}

// Healthcheck is docker's HEALTHCHECK.
type Healthcheck struct {
	Test          []string      `json:",omitempty"`
	Interval      time.Duration `json:",omitempty"`
	Timeout       time.Duration `json:",omitempty"`
	StartPeriod   time.Duration `json:",omitempty"`
	StartInterval time.Duration `json:",omitempty"`
	Retries       int           `json:",omitempty"`
}

// imageConfig is an image's configuration, as OCI and docker have it.
type imageConfig struct {
	Created       time.Time   `json:"created"`
	Author        string      `json:"author"`
	Comment       string      `json:"comment"`
	DockerVersion string      `json:"docker_version"`
	Architecture  string      `json:"architecture"`
	Variant       string      `json:"variant"`
	OS            string      `json:"os"`
	OSVersion     string      `json:"os.version"`
	Config        ImageConfig `json:"config"`
	RootFS        struct {
		Type    string          `json:"type"`
		DiffIDs []digest.Digest `json:"diff_ids"`
	} `json:"rootfs"`
	History []struct {
		Created    time.Time `json:"created"`
		CreatedBy  string    `json:"created_by"`
		Author     string    `json:"author"`
		Comment    string    `json:"comment"`
		EmptyLayer bool      `json:"empty_layer"`
	} `json:"history"`
}

func readConfig(layers storage.Store, id string) (*imageConfig, error) {
	raw, err := layers.ImageBigData(id, "sha256:"+id)
	if img, ierr := layers.Image(id); err != nil && ierr == nil && isList(img) {
		return &imageConfig{}, nil // a list says nothing of the kind
	}
	if err != nil {
		return nil, fmt.Errorf("reading the configuration of image %s: %w", id, err)
	}
	var c imageConfig
	if err := json.Unmarshal(raw, &c); err != nil {
		return nil, fmt.Errorf("reading the configuration of image %s: %w", id, err)
	}
	return &c, nil
}

// described is an image with what is written about it.
type described struct {
	layers storage.Store
	set    *imageSet
	img    *Summary
	config *imageConfig
}

// describe finds an image; of a list, the one for this machine.
func describe(st *store.Store, name string) (*described, error) {
	layers, err := st.Layers()
	if err != nil {
		return nil, err
	}
	set, err := readImages(layers)
	if err != nil {
		return nil, err
	}
	img, _, err := set.find(name)
	if err != nil {
		return nil, err
	}
	if img, err = set.instance(layers, img); err != nil {
		return nil, err
	}
	c, err := readConfig(layers, img.ID)
	if err != nil {
		return nil, err
	}
	return &described{layers, set, img, c}, nil
}

// Details is all that is known about an image, in the shape of docker's
// `image inspect`.
type Details struct {
	ID            string `json:"Id"` // with sha256:
	RepoTags      []string
	RepoDigests   []string
	Parent        string
	Comment       string
	Created       time.Time
	DockerVersion string
	Author        string
	Config        ImageConfig
	Architecture  string
	Variant       string `json:",omitempty"`
	Os            string //nolint:revive // docker's name
	OsVersion     string `json:",omitempty"`
	Size          int64
	GraphDriver   GraphDriver
	RootFS        RootFS
	Metadata      Metadata
	Descriptor    Descriptor
}

// GraphDriver says where the image's topmost layer lies.
type GraphDriver struct {
	Data map[string]string
	Name string
}

// RootFS lists the digests of the uncompressed layers, the lowest first.
type RootFS struct {
	Type   string
	Layers []digest.Digest `json:",omitempty"`
}

// Metadata is what the store adds to an image.
type Metadata struct {
	LastTagTime time.Time // not kept: always zero
}

// Descriptor is the manifest that the image was stored with.
type Descriptor struct {
	MediaType string        `json:"mediaType"`
	Digest    digest.Digest `json:"digest"`
	Size      int64         `json:"size"`
}

// Inspect describes the image of that name or ID.
func Inspect(_ context.Context, st *store.Store, name string) (*Details, error) {
	i, err := describe(st, name)
	if err != nil {
		return nil, err
	}
	layers, img, c := i.layers, i.img, i.config
	d := &Details{
		ID: "sha256:" + img.ID, RepoTags: img.RepoTags(), RepoDigests: img.RepoDigests(),
		Comment: c.Comment, Created: c.Created, DockerVersion: c.DockerVersion, Author: c.Author, Config: c.Config,
		Architecture: c.Architecture, Variant: c.Variant, Os: c.OS, OsVersion: c.OSVersion,
		Size: img.Size, RootFS: RootFS{Type: c.RootFS.Type, Layers: c.RootFS.DiffIDs},
		GraphDriver: GraphDriver{Name: layers.GraphDriverName()},
	}
	// Lists that docker never leaves null.
	for _, l := range []*[]string{&d.RepoTags, &d.RepoDigests} {
		if *l == nil {
			*l = []string{}
		}
	}
	if raw, err := layers.ImageBigData(img.ID, storage.ImageDigestBigDataKey); err == nil {
		var m struct {
			MediaType string `json:"mediaType"`
		}
		_ = json.Unmarshal(raw, &m)
		if m.MediaType == "" {
			m.MediaType = "application/vnd.oci.image.manifest.v1+json"
		}
		d.Descriptor = Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	}
	if img.TopLayer != "" {
		driver, err := layers.GraphDriver()
		if err != nil {
			return nil, fmt.Errorf("asking the graph driver about image %s: %w", img.ID, err)
		}
		if d.GraphDriver.Data, err = driver.Metadata(img.TopLayer); err != nil {
			return nil, fmt.Errorf("asking the graph driver about layer %s: %w", img.TopLayer, err)
		}
	}
	return d, nil
}

// instance is the image itself, or of a list that for this machine, with the
// list's names.
func (s *imageSet) instance(layers storage.Store, img *Summary) (*Summary, error) {
	raw, _, err := find(s.raw, img.ID)
	if err != nil || !isList(raw) {
		return img, err
	}
	if raw, err = ForPlatform(layers, raw, ""); err != nil {
		return nil, err
	}
	own, _, err := s.find(raw.ID)
	if err != nil {
		return nil, err
	}
	with := *own
	with.Names = slices.Concat(own.Names, img.Names)
	return &with, nil
}

// Config is the configuration that a container of the image starts from, with
// the image's ID and platform.
type Config struct {
	ImageConfig
	ID, OS, Architecture, Variant string
	TopLayer                      string
}

// ReadConfig reads the configuration of the image of that name or ID.
func ReadConfig(_ context.Context, st *store.Store, name string) (*Config, error) {
	layers, err := st.Layers()
	if err != nil {
		return nil, err
	}
	img, _, err := Find(layers, name)
	if err == nil {
		img, err = ForPlatform(layers, img, "")
	}
	if err != nil {
		return nil, err
	}
	c, err := readConfig(layers, img.ID)
	if err != nil {
		return nil, err
	}
	return &Config{c.Config, img.ID, c.OS, c.Architecture, c.Variant, img.TopLayer}, nil
}

// Ports are the ports that the image exposes, PORT/PROTO, in order.
func (c ImageConfig) Ports() []string { return slices.Sorted(maps.Keys(c.ExposedPorts)) }
