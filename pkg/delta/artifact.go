package delta

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imgspecv1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Annotations of a published delta. They are on its manifest, and a registry's
// list of referrers repeats them, so that one request tells all there is to
// choose by.
const (
	AnnotationVersion      = "io.balena.delta.version"       // of the format
	AnnotationBase         = "io.balena.delta.base.config"   // digest of the base's configuration: its image ID
	AnnotationBaseManifest = "io.balena.delta.base.manifest" // digest, where it is known
	AnnotationTarget       = "io.balena.delta.target.config"
	AnnotationBlob         = "io.balena.delta.blob"   // digest of the delta itself
	AnnotationSize         = "io.balena.delta.size"   // its bytes
	AnnotationLayers       = "io.balena.delta.layers" // diffIDs that it carries, in order, with commas
)

// maxArtifact bounds the JSON of a manifest, as registries and clients do.
const maxArtifact = 4 << 20

// An Artifact is a delta as a registry or an archive holds it: an OCI image
// manifest of the artifact type [MediaType] whose subject is the manifest of
// the target image, and whose one layer is the delta.
type Artifact struct {
	Subject      imgspecv1.Descriptor // the target's manifest, of one platform
	Base         digest.Digest        // of the base's configuration
	BaseManifest digest.Digest        // "" if unknown
	Target       digest.Digest        // of the target's configuration
	Layers       []digest.Digest      // diffIDs of the layers that it carries, in order
	Blob         imgspecv1.Descriptor // the delta
	Version      int                  // of the format; 0 is ours when it is written
	Created      time.Time            // zero: not said, so that the same delta has the same manifest
}

// Manifest writes the artifact's manifest: the same bytes for the same values.
func (a Artifact) Manifest() ([]byte, error) {
	if err := a.check(); err != nil {
		return nil, err
	}
	if a.Subject.MediaType == "" {
		return nil, formatErr("the target's manifest has no media type")
	}
	config := imgspecv1.DescriptorEmptyJSON
	config.Data = nil
	m := imgspecv1.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    imgspecv1.MediaTypeImageManifest,
		ArtifactType: MediaType,
		Config:       config,
		Layers:       []imgspecv1.Descriptor{{MediaType: MediaType, Digest: a.Blob.Digest, Size: a.Blob.Size}},
		Subject:      &imgspecv1.Descriptor{MediaType: a.Subject.MediaType, Digest: a.Subject.Digest, Size: a.Subject.Size},
		Annotations:  a.annotations(),
	}
	return json.Marshal(m)
}

// Descriptor is how an index lists the artifact, given its manifest.
func (a Artifact) Descriptor(manifest []byte) imgspecv1.Descriptor {
	return imgspecv1.Descriptor{
		MediaType: imgspecv1.MediaTypeImageManifest, ArtifactType: MediaType,
		Digest: digest.FromBytes(manifest), Size: int64(len(manifest)), Annotations: a.annotations(),
	}
}

func (a Artifact) annotations() map[string]string {
	layers := make([]string, len(a.Layers))
	for i, d := range a.Layers {
		layers[i] = d.String()
	}
	m := map[string]string{
		AnnotationVersion: strconv.Itoa(Version),
		AnnotationBase:    a.Base.String(),
		AnnotationTarget:  a.Target.String(),
		AnnotationBlob:    a.Blob.Digest.String(),
		AnnotationSize:    strconv.FormatInt(a.Blob.Size, 10),
		AnnotationLayers:  strings.Join(layers, ","),
	}
	if a.BaseManifest != "" {
		m[AnnotationBaseManifest] = a.BaseManifest.String()
	}
	if !a.Created.IsZero() {
		m[imgspecv1.AnnotationCreated] = a.Created.UTC().Format(time.RFC3339)
	}
	return m
}

// ParseArtifact reads the manifest of a published delta. The error is an
// ErrVersion if the delta needs a newer version of this package, an ErrFormat
// if the manifest is damaged or one of something else.
func ParseArtifact(manifest []byte) (Artifact, error) {
	if len(manifest) > maxArtifact {
		return Artifact{}, formatErr("a manifest of %d bytes", len(manifest))
	}
	var m imgspecv1.Manifest
	if err := json.Unmarshal(manifest, &m); err != nil {
		return Artifact{}, formatErr("manifest: %v", err)
	}
	switch {
	case m.ArtifactType != MediaType:
		return Artifact{}, formatErr("an artifact of type %q", m.ArtifactType)
	case m.Subject == nil:
		return Artifact{}, formatErr("the manifest does not say of which image")
	}
	a, err := parseAnnotations(m.Annotations)
	if err != nil {
		return Artifact{}, err
	}
	if len(m.Layers) != 1 || m.Layers[0].Digest != a.Blob.Digest || m.Layers[0].Size != a.Blob.Size {
		return Artifact{}, formatErr("the manifest's annotations are not about its blob")
	}
	a.Subject = *m.Subject
	return a, a.check()
}

// ArtifactOf reads what a registry's list of referrers tells about a published
// delta to the image manifest subject, of which the Artifact knows the digest
// only. The errors are those of [ParseArtifact]; a registry that leaves the
// annotations out of its list makes an ErrFormat, and the manifest tells more.
func ArtifactOf(d imgspecv1.Descriptor, subject digest.Digest) (Artifact, error) {
	if d.ArtifactType != MediaType {
		return Artifact{}, formatErr("an artifact of type %q", d.ArtifactType)
	}
	a, err := parseAnnotations(d.Annotations)
	if err != nil {
		return Artifact{}, err
	}
	a.Subject.Digest = subject
	return a, a.check()
}

func parseAnnotations(m map[string]string) (Artifact, error) {
	version, err := strconv.ParseUint(m[AnnotationVersion], 10, 16)
	if err != nil || version == 0 {
		return Artifact{}, formatErr("version %.20q", m[AnnotationVersion])
	}
	if version != Version { // whose annotations may be others, too
		return Artifact{}, fmt.Errorf("%w: %d", ErrVersion, version)
	}
	a := Artifact{
		Version:      int(version),
		Base:         digest.Digest(m[AnnotationBase]),
		BaseManifest: digest.Digest(m[AnnotationBaseManifest]),
		Target:       digest.Digest(m[AnnotationTarget]),
		Blob:         imgspecv1.Descriptor{MediaType: MediaType, Digest: digest.Digest(m[AnnotationBlob])},
	}
	if a.Blob.Size, err = strconv.ParseInt(m[AnnotationSize], 10, 64); err != nil {
		return Artifact{}, formatErr("size %.20q", m[AnnotationSize])
	}
	list := m[AnnotationLayers]
	if n := strings.Count(list, ",") + 1; n > maxLayers {
		return Artifact{}, formatErr("%d layers", n)
	}
	for _, d := range strings.Split(list, ",") {
		a.Layers = append(a.Layers, digest.Digest(d))
	}
	if c := m[imgspecv1.AnnotationCreated]; c != "" {
		if a.Created, err = time.Parse(time.RFC3339, c); err != nil {
			return Artifact{}, formatErr("created %.40q", c)
		}
	}
	return a, nil
}

// check refuses what no artifact may say, be it read or to be written.
func (a Artifact) check() error {
	named := []struct {
		what string
		d    digest.Digest
	}{{"target's manifest", a.Subject.Digest}, {"base", a.Base}, {"target", a.Target}, {"blob", a.Blob.Digest}}
	if a.BaseManifest != "" {
		named = append(named, struct {
			what string
			d    digest.Digest
		}{"base's manifest", a.BaseManifest})
	}
	for _, n := range named {
		if n.d.Validate() != nil {
			return formatErr("digest of the %s: %.80q", n.what, n.d)
		}
	}
	if len(a.Layers) == 0 || len(a.Layers) > maxLayers {
		return formatErr("%d layers", len(a.Layers))
	}
	for _, d := range a.Layers {
		if d.Validate() != nil {
			return formatErr("diffID %.80q", d)
		}
	}
	if a.Blob.Size < 0 || a.Subject.Size < 0 {
		return formatErr("a negative size")
	}
	return nil
}
