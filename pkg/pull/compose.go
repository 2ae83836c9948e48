package pull

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	goruntime "runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/manifest"
	"go.podman.io/storage"

	"github.com/balena-os/balena/pkg/durable"
	"github.com/balena-os/balena/pkg/store"
)

// Composition is an image that is made of what is here.
type Composition struct {
	Base      string                   // ID of the image below; "" is none
	Layer     io.Reader                // a tar archive, compressed or not, that becomes one layer more; it is read to its end
	Change    func(*ImageConfig) error // of what the base says; nil: nothing
	Platform  string                   // OS/ARCH[/VARIANT]; "" is the base's, or this machine's
	Author    string                   // "" is the base's
	Comment   string                   // of the image and of its last step
	CreatedBy string                   // of the last step
	Created   time.Time                // zero is now
	OCI       bool                     // OCI's format, which has no HEALTHCHECK, ONBUILD and SHELL; else docker's
	Name      string                   // "" is none
}

// Compose makes an image of a base and a further layer. The layer is extracted
// while it arrives, as pulled ones are; on return everything is on stable
// storage. ErrNoImage, ErrNoSpace.
func Compose(ctx context.Context, st *store.Store, c Composition) (Image, error) {
	var named reference.Named
	if c.Name != "" {
		var err error
		if named, err = ParseName(c.Name); err != nil {
			return Image{}, err
		}
		if _, ok := named.(reference.Digested); ok {
			return Image{}, fmt.Errorf("%w: a tag cannot have a digest: %s", ErrBadReference, c.Name)
		}
	}
	if c.Created.IsZero() {
		c.Created = time.Now()
	}
	c.Created = c.Created.UTC()
	images, err := withPuller(ctx, st, Options{}, func(p *puller) ([]Image, error) {
		img, err := p.compose(ctx, &c, named)
		return []Image{img}, noSpace(err)
	})
	if err != nil {
		return Image{}, err
	}
	return images[0], nil
}

func (p *puller) compose(ctx context.Context, c *Composition, named reference.Named) (Image, error) {
	base, err := p.composeBase(c)
	if err != nil {
		return Image{}, err
	}
	tar, err := decompress(c.Layer)
	if err != nil {
		return Image{}, err
	}
	defer tar.Close()
	top, err := p.addLayer(ctx, base.top, tar)
	if err != nil {
		return Image{}, err
	}
	pl := &plan{}
	config, err := base.config(c, top.UncompressedDigest)
	if err != nil {
		return Image{}, err
	}
	if err := json.Unmarshal(config, &pl.image); err != nil {
		return Image{}, err
	}
	sizes, err := p.layerSizes(top)
	if err != nil {
		return Image{}, err
	}
	if pl.manifest, err = composedManifest(c.OCI, config, pl.image.RootFS.DiffIDs, sizes); err != nil {
		return Image{}, err
	}
	pl.digest, pl.config.Digest = digest.FromBytes(pl.manifest), digest.FromBytes(config)
	pl.layers = []*layer{{id: top.ID}}
	return p.writeImage(pl, pl.manifest, config, nil, named)
}

// composeBase reads the image below.
func (p *puller) composeBase(c *Composition) (*composed, error) {
	b := &composed{fields: map[string]json.RawMessage{}}
	if c.Base == "" {
		b.platform = strings.SplitN("linux/"+goruntime.GOARCH, "/", 3)
		return b, nil
	}
	img, err := p.layers.Image(c.Base)
	if err != nil {
		return nil, noImage(c.Base)
	}
	b.top = img.TopLayer
	raw, err := p.layers.ImageBigData(img.ID, "sha256:"+img.ID)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration of image %s: %w", img.ID, err)
	}
	return b, errors.Join(json.Unmarshal(raw, &b.fields), json.Unmarshal(raw, &b.image))
}

// addLayer puts a tar archive upon a layer.
func (p *puller) addLayer(ctx context.Context, parent string, tar io.Reader) (*storage.Layer, error) {
	if !p.w.CanStage() {
		d, err := durable.NewStore(p.layers)
		if err != nil {
			return nil, err
		}
		l, _, err := d.PutLayer("", parent, nil, "", false, nil, tar)
		return l, err
	}
	staged, err := p.w.Stage(ctx, tar, "")
	if err != nil {
		return nil, err
	}
	id := durable.LayerID(parent, staged.DiffID())
	unclaim, err := p.w.Claim(ctx, id)
	if err != nil {
		return nil, errors.Join(err, p.w.Discard(staged))
	}
	defer unclaim()
	if err := p.w.Commit(ctx, staged, durable.Layer{ID: id, Parent: parent, DiffID: staged.DiffID()}); err != nil {
		return nil, err
	}
	return p.layers.Layer(id)
}

// layerSizes are those of a layer and all below it, the lowest first.
func (p *puller) layerSizes(top *storage.Layer) ([]int64, error) {
	sizes := []int64{top.UncompressedSize}
	for id := top.Parent; id != ""; {
		l, err := p.layers.Layer(id)
		if err != nil {
			return nil, fmt.Errorf("reading layer %s: %w", id, err)
		}
		sizes = append(sizes, l.UncompressedSize)
		id = l.Parent
	}
	slices.Reverse(sizes)
	return sizes, nil
}

func composedManifest(oci bool, config []byte, diffIDs []digest.Digest, sizes []int64) ([]byte, error) {
	if len(diffIDs) != len(sizes) {
		return nil, fmt.Errorf("%w: its configuration lists %d layers, it has %d", ErrNotImage, len(diffIDs), len(sizes))
	}
	if oci {
		return plainManifest(config, diffIDs, sizes)
	}
	of := manifest.Schema2Descriptor{MediaType: manifest.DockerV2Schema2ConfigMediaType, Digest: digest.FromBytes(config), Size: int64(len(config))}
	layers := []manifest.Schema2Descriptor{}
	for i, d := range diffIDs {
		layers = append(layers, manifest.Schema2Descriptor{MediaType: manifest.DockerV2SchemaLayerMediaTypeUncompressed, Digest: d, Size: sizes[i]})
	}
	return manifest.Schema2FromComponents(of, layers).Serialize()
}

// composed is the configuration of the image below, whatever fields it has.
type composed struct {
	top      string // ID of its topmost layer
	fields   map[string]json.RawMessage
	image    imageConfig
	platform []string // OS, architecture, variant; nil is the base's
}

// config makes the new image's configuration.
func (b *composed) config(c *Composition, layer digest.Digest) ([]byte, error) {
	if c.Platform != "" {
		if b.platform = strings.Split(strings.ToLower(c.Platform), "/"); len(b.platform) > 3 || slices.Contains(b.platform, "") {
			return nil, fmt.Errorf("platform %q is not OS[/ARCH[/VARIANT]]", c.Platform)
		}
	}
	if c.Change != nil {
		if err := c.Change(&b.image.Config); err != nil {
			return nil, err
		}
	}
	if c.OCI {
		b.image.Config.Healthcheck, b.image.Config.OnBuild, b.image.Config.Shell = nil, nil, nil
	}
	var history []json.RawMessage
	var rootfs struct {
		Type    string          `json:"type"`
		DiffIDs []digest.Digest `json:"diff_ids"`
	}
	rootfs.Type, rootfs.DiffIDs = "layers", append(slices.Clone(b.image.RootFS.DiffIDs), layer)
	if raw := b.fields["history"]; raw != nil {
		if err := json.Unmarshal(raw, &history); err != nil {
			return nil, err
		}
	}
	step, err := json.Marshal(withoutEmpty(map[string]any{"created": c.Created, "created_by": c.CreatedBy, "author": c.Author, "comment": c.Comment}))
	if err != nil {
		return nil, err
	}
	settings, err := cleanConfig(&b.image.Config)
	if err != nil {
		return nil, err
	}
	fresh := map[string]any{"created": c.Created, "config": settings, "rootfs": rootfs, "history": append(history, step)}
	for i, v := range b.platform {
		fresh[[]string{"os", "architecture", "variant"}[i]] = v
	}
	if c.Author != "" {
		fresh["author"] = c.Author
	}
	for _, k := range []string{"id", "parent", "container", "container_config", "comment", "docker_version"} {
		delete(b.fields, k) // of the base alone
	}
	if c.Comment != "" {
		fresh["comment"] = c.Comment
	}
	for k, v := range fresh {
		if b.fields[k], err = json.Marshal(v); err != nil {
			return nil, err
		}
	}
	return json.Marshal(b.fields)
}

// cleanConfig leaves out what is not set.
func cleanConfig(c *ImageConfig) (map[string]any, error) {
	raw, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	var fields map[string]any
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, err
	}
	return withoutEmpty(fields), nil
}

func withoutEmpty(fields map[string]any) map[string]any {
	for k, v := range fields {
		if v == nil || v == "" {
			delete(fields, k)
		}
	}
	return fields
}

// noSpace names a full disk as what it is.
func noSpace(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}
