package pull

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/balena-os/librsync-go"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imgspecv1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/storage"

	"github.com/balena-os/balena/pkg/delta"
	"github.com/balena-os/balena/pkg/store"
)

// engineImage puts an image into the registry as balena-engine makes deltas.
func (r *testRegistry) engineImage(tag string, base digest.Digest, config []byte, layers ...[]byte) {
	cfg := imgspecv1.Image{RootFS: imgspecv1.RootFS{Type: "layers"}, Config: imgspecv1.ImageConfig{
		Labels: map[string]string{labelEngineBase: base.String(), labelEngineConfig: string(config)}}}
	m := imgspecv1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: "application/vnd.docker.distribution.manifest.v2+json"}
	for _, b := range layers {
		l := gz(b)
		cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs, digest.FromBytes(b))
		m.Layers = append(m.Layers, imgspecv1.Descriptor{
			MediaType: "application/vnd.docker.image.rootfs.diff.tar.gzip", Digest: r.add(l.blob), Size: int64(len(l.blob))})
	}
	raw, _ := json.Marshal(cfg)
	m.Config = imgspecv1.Descriptor{MediaType: "application/vnd.docker.container.image.v1+json", Digest: r.add(raw), Size: int64(len(raw))}
	raw, _ = json.Marshal(m)
	r.putManifest(tag, raw, m.MediaType)
}

// engineLayerOf is what balena-engine makes of a layer, by its own library.
func engineLayerOf(t testing.TB, base, target []byte) []byte {
	t.Helper()
	sig, err := librsync.Signature(bytes.NewReader(base), io.Discard, 512, 32, librsync.BLAKE2_SIG_MAGIC)
	if err != nil {
		t.Fatal(err)
	}
	var d bytes.Buffer
	if err := librsync.Delta(sig, bytes.NewReader(target), &d); err != nil {
		t.Fatal(err)
	}
	return tarOf(t, entry{name: "delta", content: d.String(), mode: 0o600})
}

// engineCase is a base and a target that shares its first layer, and has
// another of the base's layers at another place.
type engineCase struct {
	reg          *testRegistry
	base, target [][]byte
	baseID       digest.Digest
	config       []byte // of the target
	id           digest.Digest
}

func newEngineCase(t testing.TB) *engineCase {
	c := &engineCase{reg: newTestRegistry(t)}
	changed := manyFiles(t)
	c.base = [][]byte{baseLayer(t), manyFiles(t), upperLayer(t)}
	copy(changed[bytes.Index(changed, bytes.Repeat([]byte("x"), 500)):], "something else")
	c.target = [][]byte{c.base[0], tarOf(t, entry{name: "first", content: "1"}), c.base[2], changed}
	c.baseID = c.reg.configOf(c.reg.image("base", "amd64", gz(c.base[0]), gz(c.base[1]), gz(c.base[2])))
	var target []testLayer
	for _, b := range c.target {
		target = append(target, gz(b))
	}
	c.id = c.reg.configOf(c.reg.image("target", "amd64", target...))
	c.config = c.reg.blobs[c.id]
	all := bytes.Join(c.base, nil)
	c.reg.engineImage("delta", c.baseID, c.config, emptyTar,
		engineLayerOf(t, all, c.target[1]), engineLayerOf(t, all, c.target[2]), engineLayerOf(t, all, c.target[3]))
	return c
}

func (c *engineCase) ref(tag string) string { return c.reg.host() + "/a/b:" + tag }

func (c *engineCase) check(t *testing.T, layers storage.Store, img Image) {
	t.Helper()
	if img.ID != c.id.Encoded() {
		t.Fatalf("image %s instead of %s", img.ID, c.id)
	}
	chain := imageLayers(t, layers, img.ID)
	if len(chain) != len(c.target) {
		t.Fatalf("%d layers instead of %d", len(chain), len(c.target))
	}
	for i, l := range chain {
		if got := layerTar(t, layers, l.ID); !bytes.Equal(got, c.target[i]) {
			t.Errorf("layer %d has %d bytes, not the %d it should", i, len(got), len(c.target[i]))
		}
	}
	raw, err := layers.ImageBigData(img.ID, storage.ImageDigestBigDataKey)
	if err != nil {
		t.Fatal(err)
	}
	var m imgspecv1.Manifest
	if err := json.Unmarshal(raw, &m); err != nil || digest.FromBytes(raw) != img.Digest || len(m.Layers) != len(c.target) {
		t.Fatalf("manifest %s of %s: %v", raw, img.Digest, err)
	}
	for i, l := range m.Layers {
		if l.Digest != digest.FromBytes(c.target[i]) || l.Size != int64(len(c.target[i])) {
			t.Errorf("layer %d in the manifest: %+v", i, l)
		}
	}
	noLeftovers(t, layers)
}

func TestEngineDelta(t *testing.T) {
	for _, driver := range []string{"overlay", "vfs"} {
		t.Run(driver, func(t *testing.T) {
			st, layers := openTestStore(t, driver)
			c := newEngineCase(t)
			base := mustPull(t, st, c.ref("base"), Options{})
			c.checkPreview(t, st, base)
			img := mustPull(t, st, c.ref("delta"), Options{})
			c.check(t, layers, img)
			if img.Name != c.ref("delta") {
				t.Errorf("it is called %q", img.Name)
			}
			before := len(c.reg.requests)
			if again := mustPull(t, st, c.ref("delta"), Options{}); again != img {
				t.Errorf("second pull: %+v", again)
			}
			if len(c.reg.requests) != before {
				t.Error("second pull fetched layers")
			}
			if _, err := Remove(context.Background(), st, c.ref("base"), RemoveOptions{}); err != nil {
				t.Errorf("the base is still in use: %v", err)
			}
		})
	}
}

func (c *engineCase) checkPreview(t *testing.T, st *store.Store, base Image) {
	t.Helper()
	all, err := PreviewPull(context.Background(), st, c.ref("delta"), Options{})
	if err != nil || len(all) != 1 {
		t.Fatal(all, err)
	}
	v := all[0]
	if v.ID != c.id.Encoded() || v.Delta == nil || v.Delta.Base != base.ID || v.Delta.Size != v.Fetch || v.Fetch == 0 || v.Fetch > 20_000 {
		t.Errorf("preview: %+v, %+v", v, v.Delta)
	}
	if len(v.Layers) != 4 || v.Layers[0].How != HowHave || v.Layers[3].How != HowDelta || v.Layers[3].DiffID != digest.FromBytes(c.target[3]) {
		t.Errorf("preview of layers: %+v", v.Layers)
	}
}

// Older versions compared layers without what is below them.
func TestEngineDeltaEmptyForOtherParents(t *testing.T) {
	for _, driver := range []string{"overlay", "vfs"} {
		st, layers := openTestStore(t, driver)
		c := newEngineCase(t)
		all := bytes.Join(c.base, nil)
		c.reg.engineImage("delta", c.baseID, c.config, emptyTar,
			engineLayerOf(t, all, c.target[1]), emptyTar, engineLayerOf(t, all, c.target[3]))
		mustPull(t, st, c.ref("base"), Options{})
		c.check(t, layers, mustPull(t, st, c.ref("delta"), Options{}))
	}
}

func TestEngineDeltaAsItIs(t *testing.T) {
	st, layers := openTestStore(t, "overlay")
	c := newEngineCase(t)
	img := mustPull(t, st, c.ref("delta"), Options{NoDelta: true})
	if img.ID == c.id.Encoded() || len(imageLayers(t, layers, img.ID)) != 4 {
		t.Errorf("pulled %+v", img)
	}
}

func TestEngineDeltaFails(t *testing.T) {
	c := newEngineCase(t)
	all := bytes.Join(c.base, nil)
	with := func(third ...byte) []byte { return tarOf(t, entry{name: "delta", content: string(third)}) }
	magic := []byte{0x72, 0x73, 0x02, 0x36}
	good := [][]byte{emptyTar, engineLayerOf(t, all, c.target[1]), engineLayerOf(t, all, c.target[2]), engineLayerOf(t, all, c.target[3])}
	for _, f := range []struct {
		name  string
		third []byte
		want  error
		text  string
	}{
		{"no librsync", with(1, 2, 3, 4), delta.ErrFormat, "begins"},
		{"cut off", with(append(magic, 5, 'a')...), delta.ErrFormat, "cut off"},
		{"past the end", with(append(magic, 0x48, 0, 255, 255, 255, 255, 255, 255, 255, 255, 0)...), delta.ErrFormat, "number"},
		{"other bytes", with(append(magic, 0x45, 0, 255, 0)...), delta.ErrDigest, "came out as"},
		{"no file", tarOf(t, entry{name: "delta", kind: tar.TypeDir}), delta.ErrFormat, "in the place of a delta"},
		{"empty for what is not there", nil, delta.ErrFormat, "does not have"},
	} {
		t.Run(f.name, func(t *testing.T) {
			st, layers := openTestStore(t, "overlay")
			base := mustPull(t, st, c.ref("base"), Options{})
			bad := [][]byte{good[0], good[1], good[2], f.third}
			if f.third == nil {
				bad[3] = emptyTar
			}
			c.reg.engineImage("bad", c.baseID, c.config, bad...)
			_, err := Pull(context.Background(), st, c.ref("bad"), Options{})
			if !errors.Is(err, f.want) || !strings.Contains(err.Error(), f.text) {
				t.Errorf("got %v", err)
			}
			c.onlyBase(t, layers, base)
		})
	}
}

// onlyBase makes sure that a failed pull left no image.
func (c *engineCase) onlyBase(t *testing.T, layers storage.Store, base Image) {
	t.Helper()
	images, err := layers.Images()
	if err != nil || len(images) != 1 || images[0].ID != base.ID {
		t.Errorf("images: %+v, %v", images, err)
	}
	noLeftovers(t, layers)
}

func TestEngineDeltaWithoutBase(t *testing.T) {
	st, layers := openTestStore(t, "overlay")
	c := newEngineCase(t)
	_, err := Pull(context.Background(), st, c.ref("delta"), Options{})
	if !errors.Is(err, ErrNoBase) || !strings.Contains(err.Error(), c.baseID.String()) {
		t.Errorf("got %v", err)
	}
	if images, _ := layers.Images(); len(images) != 0 {
		t.Errorf("images: %+v", images)
	}
	c.reg.engineImage("few", c.baseID, c.config, emptyTar)
	if _, err := Pull(context.Background(), st, c.ref("few"), Options{}); !errors.Is(err, ErrNotImage) {
		t.Errorf("one layer for four: %v", err)
	}
	c.reg.engineImage("odd", "sha256:x", c.config, emptyTar, emptyTar, emptyTar, emptyTar)
	if _, err := Pull(context.Background(), st, c.ref("odd"), Options{}); !errors.Is(err, ErrNotImage) {
		t.Errorf("base that is no digest: %v", err)
	}
	// It needs no base when nothing of the target is missing.
	mustPull(t, st, c.ref("target"), Options{})
	if img := mustPull(t, st, c.ref("delta"), Options{}); img.ID != c.id.Encoded() {
		t.Errorf("got %+v", img)
	}
}

func TestEngineDeltaDamagedBase(t *testing.T) {
	c := newEngineCase(t)
	for name, damage := range map[string]func(string) error{
		"changed": func(f string) error { return os.WriteFile(f, bytes.Repeat([]byte("y"), 699), 0o644) },
		"shorter": func(f string) error { return os.Truncate(f, 100) },
		"gone":    os.Remove,
	} {
		t.Run(name, func(t *testing.T) {
			st, layers := openTestStore(t, "overlay")
			base := mustPull(t, st, c.ref("base"), Options{})
			damaged := imageLayers(t, layers, base.ID)[1].ID
			if err := damage(filepath.Join(layers.GraphRoot(), "overlay", damaged, "diff", "many/6/file699")); err != nil {
				t.Fatal(err)
			}
			_, err := Pull(context.Background(), st, c.ref("delta"), Options{})
			if !errors.Is(err, ErrDamagedLayer) || !strings.Contains(err.Error(), damaged) || !strings.Contains(err.Error(), "many/6/file699") {
				t.Errorf("got %v", err)
			}
			c.onlyBase(t, layers, base)
		})
	}
}

// A connection that breaks is no matter; a blob that is another one is.
func TestEngineDeltaTransport(t *testing.T) {
	st, layers := openTestStore(t, "overlay")
	c := newEngineCase(t)
	base := mustPull(t, st, c.ref("base"), Options{})
	blob := digest.FromBytes(gz(engineLayerOf(t, bytes.Join(c.base, nil), c.target[3])).blob)
	if c.reg.blobs[blob] == nil {
		t.Fatal("the delta is made otherwise a second time")
	}
	c.reg.fault[blob] = func(w http.ResponseWriter, _ *http.Request, b []byte) bool {
		b = bytes.Clone(b)
		b[len(b)/2] ^= 1
		w.Write(b)
		return true
	}
	_, err := Pull(context.Background(), st, c.ref("delta"), Options{})
	if !errors.Is(err, ErrDigest) {
		t.Errorf("got %v", err)
	}
	c.onlyBase(t, layers, base)
	c.reg.fault[blob] = breakAt(len(c.reg.blobs[blob])/2, 3)
	c.check(t, layers, mustPull(t, st, c.ref("delta"), Options{}))
}
