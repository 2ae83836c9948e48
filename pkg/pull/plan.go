package pull

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	imgspecv1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/image/v5/image"
	"go.podman.io/image/v5/manifest"
	"go.podman.io/image/v5/pkg/blobinfocache/none"
	"go.podman.io/image/v5/signature"
	"go.podman.io/image/v5/types"

	"github.com/balena-os/balena/pkg/durable"
)

// Errors of this package that callers tell apart, besides those about names.
var (
	ErrDigest   = durable.ErrDigest
	ErrPlatform = errors.New("no image for this platform")
	ErrNotImage = errors.New("not a container image")
	ErrNoSpace  = errors.New("not enough free space")

	// ErrEncrypted is what ocicrypt would be for (docs/size.md).
	ErrEncrypted = errors.New("encrypted images are not supported by balena")
)

// plan is what the manifest and the configuration of the chosen image say.
type plan struct {
	manifest []byte
	digest   digest.Digest
	config   types.BlobInfo
	image    imgspecv1.Image
	layers   []*layer
}

// layer is one of the image's layers, and how far it has come.
type layer struct {
	index  int
	blob   types.BlobInfo
	diffID digest.Digest
	id     string // in containers/storage
	parent string

	release func() // ends the claim; nil if there is none
	staged  *durable.Staged
	done    chan struct{} // closed when it is in the store

	expected <-chan struct{} // of a delta; closed when it came, or will not. nil: it is fetched
}

func (l *layer) committed() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

// makePlan fetches manifest and configuration, chooses the platform's image
// from an index and checks it against the signature policy. Nothing of it is
// looked at before the policy accepted it.
func makePlan(ctx context.Context, src *source, sys *types.SystemContext, policy *signature.PolicyContext, platform bool) (*plan, error) {
	top, mime, err := src.GetManifest(ctx, nil)
	if err != nil {
		return nil, err
	}
	if mime == "" {
		mime = manifest.GuessMIMEType(top)
	}
	var instance *digest.Digest
	if manifest.MIMETypeIsMultiImage(manifest.NormalizedMIMEType(mime)) {
		list, err := manifest.ListFromBlob(top, manifest.NormalizedMIMEType(mime))
		if err != nil {
			return nil, fmt.Errorf("reading the image index: %w", err)
		}
		chosen, err := list.ChooseInstance(sys)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrPlatform, err)
		}
		instance = &chosen
	}
	// The unwrapped source, since it knows signatures of all formats.
	if ok, err := policy.IsRunningImageAllowed(ctx, image.UnparsedInstance(src.ImageSource, instance)); err != nil || !ok {
		return nil, fmt.Errorf("rejected by the signature policy: %w", err)
	}
	raw, mime, err := src.GetManifest(ctx, instance)
	if err != nil {
		return nil, err
	}
	return parsePlan(ctx, src, raw, mime, sys, platform)
}

func parsePlan(ctx context.Context, src *source, raw []byte, mime string, sys *types.SystemContext, platform bool) (*plan, error) {
	if mime == "" {
		mime = manifest.GuessMIMEType(raw)
	}
	mime = manifest.NormalizedMIMEType(mime)
	if mime == manifest.DockerV2Schema1MediaType || mime == manifest.DockerV2Schema1SignedMediaType {
		return nil, fmt.Errorf("%w: its manifest has docker's schema 1, which nothing writes since 2017: push it again with a newer docker", ErrNotImage)
	}
	m, err := manifest.FromBlob(raw, mime)
	if err != nil {
		return nil, fmt.Errorf("%w: reading the manifest: %w", ErrNotImage, err)
	}
	p := &plan{manifest: raw, config: m.ConfigInfo()}
	if p.digest, err = manifest.Digest(raw); err != nil {
		return nil, err
	}
	switch p.config.MediaType {
	case imgspecv1.MediaTypeImageConfig, manifest.DockerV2Schema2ConfigMediaType, "":
	default:
		return nil, fmt.Errorf("%w: its configuration is %s", ErrNotImage, p.config.MediaType)
	}
	if err := p.config.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("%w: configuration's digest: %w", ErrNotImage, err)
	}
	config, err := src.fetchConfig(ctx, p.config, none.NoCache)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(config, &p.image); err != nil {
		return nil, fmt.Errorf("%w: reading the configuration: %w", ErrNotImage, err)
	}
	if platform {
		if err := p.checkPlatform(sys); err != nil {
			return nil, err
		}
	}
	return p, p.addLayers(m.LayerInfos())
}

// checkPlatform refuses an image of another platform than the one asked for:
// without an index there was nothing to choose.
func (p *plan) checkPlatform(sys *types.SystemContext) error {
	c := p.image
	if c.OS == "" && c.Architecture == "" {
		return nil
	}
	if c.OS != sys.OSChoice || c.Architecture != sys.ArchitectureChoice ||
		(sys.VariantChoice != "" && c.Variant != "" && c.Variant != sys.VariantChoice) {
		return fmt.Errorf("%w: it is for %s/%s", ErrPlatform, c.OS, c.Architecture)
	}
	return nil
}

const (
	maxLayers = 500     // that containers/storage stacks
	maxBlob   = 1 << 50 // bytes: the sum of an image's layers is a number, too
)

func (p *plan) addLayers(infos []manifest.LayerInfo) error {
	infos = slices.DeleteFunc(slices.Clone(infos), func(i manifest.LayerInfo) bool { return i.EmptyLayer })
	diffIDs := p.image.RootFS.DiffIDs
	if len(infos) != len(diffIDs) {
		return fmt.Errorf("%w: %d layers in the manifest, %d in the configuration", ErrNotImage, len(infos), len(diffIDs))
	}
	if len(infos) > maxLayers {
		return fmt.Errorf("%w: it has %d layers, and %d can be stacked", ErrNotImage, len(infos), maxLayers)
	}
	parent := ""
	for i, info := range infos {
		if info.Size < 0 || info.Size > maxBlob {
			return fmt.Errorf("%w: layer %d has a size of %d", ErrNotImage, i, info.Size)
		}
		if err := diffIDs[i].Validate(); err != nil {
			return fmt.Errorf("%w: diffID of layer %d: %w", ErrNotImage, i, err)
		}
		if err := info.Digest.Validate(); err != nil {
			return fmt.Errorf("%w: digest of layer %d: %w", ErrNotImage, i, err)
		}
		if strings.HasSuffix(info.MediaType, "+encrypted") {
			return fmt.Errorf("layer %d: %w", i, ErrEncrypted)
		}
		id := durable.LayerID(parent, diffIDs[i])
		p.layers = append(p.layers, &layer{
			index: i, blob: info.BlobInfo, diffID: diffIDs[i],
			id: id, parent: parent, done: make(chan struct{}),
		})
		parent = id
	}
	return nil
}

// topLayer is the ID of the last layer; "" for an image without any.
func (p *plan) topLayer() string {
	if len(p.layers) == 0 {
		return ""
	}
	return p.layers[len(p.layers)-1].id
}
