package pull

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imgspecv1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/balena-os/balena/pkg/delta"
)

// archive writes a delta archive: an OCI archive of the target image without
// its layers, and of the delta.
func (c *deltaCase) archive(t testing.TB, name string) string {
	t.Helper()
	reg := newTestRegistry(t)
	for d, b := range c.blobs {
		if d != digest.FromBytes(c.v2.blob) && d != digest.FromBytes(c.lower.blob) {
			reg.blobs[d] = b
		}
	}
	for _, m := range c.manifests {
		reg.add(m)
	}
	target := c.target
	if name != "" {
		target = named(target, name)
	}
	list := []imgspecv1.Descriptor{target}
	return archiveFile(t, "update.tar", tarOf(t, layout(reg, append(list, c.refers[c.target.Digest]...)...)...))
}

func TestDeltaArchive(t *testing.T) {
	for _, driver := range []string{"overlay", "vfs"} {
		t.Run(driver, func(t *testing.T) {
			c := newDeltaCase(t)
			st, layers := openTestStore(t, driver)
			file := c.archive(t, "app:2")
			_, err := Pull(t.Context(), st, "oci-archive:"+file, c.options())
			if !errors.Is(err, ErrNoBase) || !strings.Contains(err.Error(), c.artifact.Base.String()) {
				t.Fatalf("without the base: %v", err)
			}
			mustPull(t, st, c.host()+"/a:v1", Options{})
			img := mustPull(t, st, "oci-archive:"+file+":app:2", c.options())
			c.check(t, layers, img)
			if img.Name != "docker.io/library/app:2" || c.warnings() != "" {
				t.Errorf("named %s, %s", img.Name, c.warnings())
			}
		})
	}
}

// TestDeltaArchiveDamaged has a delta archive that is no use.
func TestDeltaArchiveDamaged(t *testing.T) {
	c := newDeltaCase(t)
	st, layers := openTestStore(t, "overlay")
	mustPull(t, st, c.host()+"/a:v1", Options{})
	blob := c.blobs[c.artifact.Blob.Digest]
	blob[len(blob)/2] ^= 1
	_, err := Pull(t.Context(), st, "oci-archive:"+c.archive(t, ""), c.options())
	if !errors.Is(err, delta.ErrFormat) || c.warnings() != "" {
		t.Fatalf("%v, warned %q", err, c.warnings())
	}
	t.Log(err)
	noLeftovers(t, layers)
}

// asImage puts the delta into the registry as an image.
func (c *deltaCase) asImage(t testing.TB, tag string, labels map[string]string, pack func([]byte) testLayer) {
	t.Helper()
	l := pack(tarOf(t, entry{name: "delta", content: string(c.blob)}))
	cfg := imgspecv1.Image{Platform: imgspecv1.Platform{OS: "linux", Architecture: "amd64"}}
	cfg.RootFS = imgspecv1.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(l.tar)}}
	cfg.Config.Labels = labels
	raw, _ := json.Marshal(cfg)
	m := imgspecv1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imgspecv1.MediaTypeImageManifest}
	m.Config = imgspecv1.Descriptor{MediaType: imgspecv1.MediaTypeImageConfig, Digest: c.add(raw), Size: int64(len(raw))}
	m.Layers = []imgspecv1.Descriptor{{MediaType: l.media, Digest: c.add(l.blob), Size: int64(len(l.blob))}}
	raw, _ = json.Marshal(m)
	c.putManifest(tag, raw, imgspecv1.MediaTypeImageManifest)
}

func TestDeltaImage(t *testing.T) {
	for _, driver := range []string{"overlay", "vfs"} {
		for name, pack := range map[string]func([]byte) testLayer{"gzip": gz, "plain": plain} {
			t.Run(driver+"/"+name, func(t *testing.T) {
				c := newDeltaCase(t)
				st, layers := openTestStore(t, driver)
				labels := map[string]string{
					labelBase:     c.artifact.Base.String(),
					labelConfig:   string(c.blobs[c.artifact.Target]),
					labelManifest: string(c.manifests[c.target.Digest.String()]),
				}
				c.asImage(t, "d", labels, pack)
				_, err := Pull(t.Context(), st, c.host()+"/a:d", c.options())
				if !errors.Is(err, ErrNoBase) || !strings.Contains(err.Error(), c.artifact.Base.String()) {
					t.Fatalf("without the base: %v", err)
				}
				mustPull(t, st, c.host()+"/a:v1", Options{})
				list, err := PreviewPull(t.Context(), st, c.host()+"/a:d", Options{})
				if err != nil || list[0].Delta == nil || list[0].Whole != -1 || list[0].ID != c.artifact.Target.Encoded() {
					t.Errorf("preview %+v, %v", list, err)
				}
				img := mustPull(t, st, c.host()+"/a:d", c.options())
				c.check(t, layers, img)
				if img.Name != c.host()+"/a:d" || img.Digest != c.target.Digest || c.warnings() != "" || c.asked != 1 {
					t.Errorf("%+v %s", img, c.warnings())
				}
				as := mustPull(t, st, c.host()+"/a:d", Options{NoDelta: true})
				if as.ID == img.ID {
					t.Error("--no-delta applied it")
				}
			})
		}
	}
}

func TestDeltaImageDamaged(t *testing.T) {
	c := newDeltaCase(t)
	st, layers := openTestStore(t, "overlay")
	mustPull(t, st, c.host()+"/a:v1", Options{})
	labels := func(change map[string]string) map[string]string {
		l := map[string]string{
			labelBase:     c.artifact.Base.String(),
			labelConfig:   string(c.blobs[c.artifact.Target]),
			labelManifest: string(c.manifests[c.target.Digest.String()]),
		}
		maps.Copy(l, change)
		return l
	}
	whole := bytes.Clone(c.blob)
	for name, d := range map[string]struct {
		labels map[string]string
		blob   []byte
		text   string
	}{
		"base":         {labels: map[string]string{labelBase: "x"}, text: "base of the delta"},
		"manifest":     {labels: map[string]string{labelManifest: "{"}, text: "target of the delta"},
		"config":       {labels: map[string]string{labelConfig: "{}"}, text: "the delta does not have"},
		"other target": {labels: map[string]string{labelManifest: string(c.manifests[c.base.Digest.String()])}, text: "the delta does not have"},
		"cut off":      {blob: whole[:len(whole)-100], text: "cut off"},
		"other":        {blob: makeDelta(t, nil, [][]byte{upperLayer(t)}), text: "delta from"},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			if c.blob = whole; d.blob != nil {
				c.blob = d.blob
			}
			c.asImage(t, "d", labels(d.labels), gz)
			_, err := Pull(t.Context(), st, c.host()+"/a:d", Options{})
			if err == nil || !strings.Contains(err.Error(), d.text) {
				t.Errorf("got %v, want %q", err, d.text)
			}
			noLeftovers(t, layers)
		})
	}
}

func TestDeltaPreview(t *testing.T) {
	c := newDeltaCase(t)
	st, _ := openTestStore(t, "overlay")
	mustPull(t, st, c.host()+"/a:v1", Options{})
	before, _ := c.seen(digest.FromBytes(c.v2.blob))
	list, err := PreviewPull(t.Context(), st, c.host()+"/a:v2", Options{})
	if err != nil || len(list) != 1 {
		t.Fatal(err)
	}
	v := list[0]
	if v.Delta == nil || v.Delta.Base != c.artifact.Base.Encoded() || v.Fetch != int64(len(c.blob)) || v.Whole != int64(len(c.v2.blob)) ||
		len(v.Layers) != 2 || v.Layers[0].How != HowHave || v.Layers[1].How != HowDelta {
		t.Errorf("%+v, delta %+v", v, v.Delta)
	}
	if list, err = PreviewPull(t.Context(), st, c.host()+"/a:v2", Options{NoDelta: true}); err != nil {
		t.Fatal(err)
	}
	if v = list[0]; v.Delta != nil || v.Fetch != v.Whole || v.Layers[1].How != HowWhole {
		t.Errorf("%+v", v)
	}
	if after, _ := c.seen(digest.FromBytes(c.v2.blob)); len(after) != len(before) || c.servedBytes(c.blob) != 0 {
		t.Error("something was fetched")
	}
}
