// Mkimage writes an OCI image layout from tar files, the same bytes for the
// same input: the tests' images, without a container engine.
//
//	mkimage LAYOUT <spec.json
//
// The specification is a list of tags; a tag with one manifest points at the
// manifest, a tag with several at an index of them:
//
//	[{"tag": "1", "manifests": [{"platform": "linux/amd64",
//	   "config": {"Cmd": ["sh"]}, "layers": [{"tar": "a.tar", "compression": "gzip"}]}]}]
//
// A compression is gzip (the default), zstd or none.
package main

import (
	"compress/gzip"
	_ "crypto/sha256" // for go-digest
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

type tag struct {
	Tag       string
	Manifests []manifest
}

type manifest struct {
	Platform string
	Config   v1.ImageConfig
	Layers   []layer
}

type layer struct {
	Tar         string
	Compression string
	CreatedBy   string
}

func main() {
	if err := run(os.Args[1:], os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "mkimage:", err)
		os.Exit(1)
	}
}

func run(args []string, stdin io.Reader) error {
	if len(args) != 1 {
		return fmt.Errorf("usage: mkimage LAYOUT <spec.json")
	}
	var tags []tag
	dec := json.NewDecoder(stdin)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&tags); err != nil {
		return fmt.Errorf("reading the specification: %w", err)
	}
	l := layout{dir: args[0], layers: map[layer]builtLayer{}}
	if err := os.MkdirAll(filepath.Join(l.dir, "blobs", "sha256"), 0o755); err != nil {
		return err
	}
	index := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex}
	for _, t := range tags {
		d, err := l.tag(t)
		if err != nil {
			return fmt.Errorf("tag %s: %w", t.Tag, err)
		}
		d.Annotations = map[string]string{v1.AnnotationRefName: t.Tag}
		index.Manifests = append(index.Manifests, d)
	}
	if err := writeJSON(filepath.Join(l.dir, v1.ImageIndexFile), index); err != nil {
		return err
	}
	return writeJSON(filepath.Join(l.dir, v1.ImageLayoutFile), v1.ImageLayout{Version: v1.ImageLayoutVersion})
}

// layout is the OCI image layout under dir; layers remembers what was built.
type layout struct {
	dir    string
	layers map[layer]builtLayer
}

type builtLayer struct {
	blob   v1.Descriptor
	diffID digest.Digest
}

func (l *layout) tag(t tag) (v1.Descriptor, error) {
	index := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex}
	for _, m := range t.Manifests {
		d, err := l.manifest(m)
		if err != nil {
			return v1.Descriptor{}, err
		}
		index.Manifests = append(index.Manifests, d)
	}
	if len(index.Manifests) == 1 {
		d := index.Manifests[0]
		d.Platform = nil
		return d, nil
	}
	return l.json(index.MediaType, index)
}

func (l *layout) manifest(m manifest) (v1.Descriptor, error) {
	platform := parsePlatform(orElse(m.Platform, "linux/amd64"))
	created := time.Unix(1_700_000_000, 0).UTC()
	image := v1.Image{Created: &created, Platform: platform, Config: m.Config, RootFS: v1.RootFS{Type: "layers"}}
	out := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	for _, in := range m.Layers {
		built, ok := l.layers[in]
		if !ok {
			var err error
			if built, err = l.layer(in); err != nil {
				return v1.Descriptor{}, fmt.Errorf("layer %s: %w", in.Tar, err)
			}
			l.layers[in] = built
		}
		out.Layers = append(out.Layers, built.blob)
		image.RootFS.DiffIDs = append(image.RootFS.DiffIDs, built.diffID)
		image.History = append(image.History, v1.History{Created: &created, CreatedBy: orElse(in.CreatedBy, "ADD "+filepath.Base(in.Tar))})
	}
	var err error
	if out.Config, err = l.json(v1.MediaTypeImageConfig, image); err != nil {
		return v1.Descriptor{}, err
	}
	d, err := l.json(v1.MediaTypeImageManifest, out)
	d.Platform = &platform
	return d, err
}

// layer compresses a tar file into a blob.
func (l *layout) layer(in layer) (builtLayer, error) {
	src, err := os.Open(in.Tar)
	if err != nil {
		return builtLayer{}, err
	}
	defer src.Close()
	tmp, err := os.CreateTemp(l.dir, "layer-*")
	if err != nil {
		return builtLayer{}, err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()

	blob, diff := digest.SHA256.Digester(), digest.SHA256.Digester()
	w := io.MultiWriter(tmp, blob.Hash())
	var c io.WriteCloser
	mediaType := v1.MediaTypeImageLayer
	switch orElse(in.Compression, "gzip") {
	case "gzip":
		c = gzip.NewWriter(w)
		mediaType = v1.MediaTypeImageLayerGzip
	case "zstd":
		mediaType = v1.MediaTypeImageLayerZstd
		if c, err = zstd.NewWriter(w, zstd.WithEncoderConcurrency(1)); err != nil {
			return builtLayer{}, err
		}
	case "none":
		c = nopCloser{w}
	default:
		return builtLayer{}, fmt.Errorf("unknown compression %q", in.Compression)
	}
	if _, err := io.Copy(io.MultiWriter(c, diff.Hash()), src); err != nil {
		return builtLayer{}, err
	}
	if err := c.Close(); err != nil {
		return builtLayer{}, err
	}
	size, err := tmp.Seek(0, io.SeekCurrent)
	if err != nil {
		return builtLayer{}, err
	}
	if err := tmp.Chmod(0o644); err != nil {
		return builtLayer{}, err
	}
	if err := os.Rename(tmp.Name(), l.blob(blob.Digest())); err != nil {
		return builtLayer{}, err
	}
	return builtLayer{blob: v1.Descriptor{MediaType: mediaType, Digest: blob.Digest(), Size: size}, diffID: diff.Digest()}, nil
}

// json stores a value as a blob of the given media type.
func (l *layout) json(mediaType string, v any) (v1.Descriptor, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return v1.Descriptor{}, err
	}
	d := digest.FromBytes(b)
	return v1.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(b))}, os.WriteFile(l.blob(d), b, 0o644)
}

func (l *layout) blob(d digest.Digest) string {
	return filepath.Join(l.dir, "blobs", "sha256", d.Encoded())
}

func writeJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o644)
}

func parsePlatform(s string) v1.Platform {
	part := append(strings.SplitN(s, "/", 3), "", "")
	return v1.Platform{OS: part[0], Architecture: part[1], Variant: part[2]}
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }
