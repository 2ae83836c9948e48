package pull

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/balena-os/librsync-go"
	"github.com/opencontainers/go-digest"
	"go.podman.io/storage"
)

// checkEngineImage looks at an image as balena-engine does, with its library,
// and makes the target of it.
func (c *engineCase) checkEngineImage(t *testing.T, layers storage.Store, id string, common int) {
	t.Helper()
	raw, err := layers.ImageBigData(id, "sha256:"+id)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(raw, []byte(`"io.resin.delta.base":"`+c.baseID.String()+`"`)) {
		t.Errorf("configuration: %s", raw)
	}
	chain := imageLayers(t, layers, id)
	if len(chain) != len(c.target) {
		t.Fatalf("%d layers for %d", len(chain), len(c.target))
	}
	base := bytes.NewReader(bytes.Join(c.base, nil))
	for i, l := range chain {
		content := layerTar(t, layers, l.ID)
		if i < common {
			if l.UncompressedDigest != "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef" {
				t.Errorf("layer %d is %s, not docker's empty one", i, l.UncompressedDigest)
			}
			continue
		}
		r := tar.NewReader(bytes.NewReader(content))
		if h, err := r.Next(); err != nil || h.Name != "delta" {
			t.Fatalf("layer %d: %+v, %v", i, h, err)
		}
		var out bytes.Buffer
		if err := librsync.Patch(base, r, &out); err != nil || !bytes.Equal(out.Bytes(), c.target[i]) {
			t.Errorf("layer %d comes out with %d bytes instead of %d, %v", i, out.Len(), len(c.target[i]), err)
		}
	}
}

func TestEngineDeltaMade(t *testing.T) {
	ownHome(t)
	t.Setenv("TMPDIR", t.TempDir())
	c := newEngineCase(t)
	registry, _ := realRegistry(t, false, false)
	name := registry + "/app:1-2"
	o := DeltaOptions{Tag: name, Compat: CompatEngine}
	var ids []string
	for _, driver := range []string{"overlay", "vfs"} {
		st, layers := openTestStore(t, driver)
		mustPull(t, st, c.ref("base"), Options{})
		mustPull(t, st, c.ref("target"), Options{})
		for _, pair := range [][2]string{{c.ref("base"), c.ref("target")}, {"docker://" + c.ref("base"), "docker://" + c.ref("target")}} {
			made, err := MakeDeltas(context.Background(), st, pair[:1], pair[1], o)
			if err != nil || len(made) != 1 || made[0].Skipped != "" || made[0].Image == "" {
				t.Fatal(made, err)
			}
			d := made[0]
			if d.Size == 0 || d.Size > 20_000 || d.Tar != int64(len(bytes.Join(c.target[1:], nil))) || len(d.Layers) != 3 {
				t.Errorf("%+v", d)
			}
			c.checkEngineImage(t, layers, d.Image, 1)
			ids = append(ids, d.Image)
		}
		if driver == "overlay" {
			if _, err := Push(context.Background(), st, name, "", PushOptions{}); err != nil {
				t.Fatal(err)
			}
			nothingLeft(t)
		}
	}
	for _, id := range ids {
		if id != ids[0] {
			t.Errorf("it came out otherwise: %s", ids)
		}
	}
	st, layers := openTestStore(t, "overlay")
	mustPull(t, st, c.ref("base"), Options{})
	c.check(t, layers, mustPull(t, st, name, Options{}))
}

func TestEngineDeltaMakeFails(t *testing.T) {
	c := newEngineCase(t)
	st, layers := openTestStore(t, "overlay")
	base := mustPull(t, st, c.ref("base"), Options{})
	mustPull(t, st, c.ref("target"), Options{})
	try := func(o DeltaOptions, base, target string) ([]MadeDelta, error) {
		return MakeDeltas(context.Background(), st, []string{base}, target, o)
	}
	for text, o := range map[string]DeltaOptions{
		"unknown":      {Compat: "docker", Tag: "x"},
		"needs a name": {Compat: CompatEngine},
		"by that":      {Compat: CompatEngine, Tag: "x", Push: true},
		"an image":     {Compat: CompatEngine, Tag: "x", Archive: io.Discard},
		"a digest":     {Compat: CompatEngine, Tag: "x@" + digest.FromString("").String()},
	} {
		if _, err := try(o, c.ref("base"), c.ref("target")); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	o := DeltaOptions{Compat: CompatEngine, Tag: "x"}
	if _, err := try(o, c.ref("base"), c.ref("base")); !errors.Is(err, ErrSameImage) {
		t.Errorf("to itself: %v", err)
	}
	c.reg.image("less", "amd64", gz(c.base[0]))
	mustPull(t, st, c.ref("less"), Options{})
	if made, err := try(o, c.ref("base"), c.ref("less")); err != nil || !strings.Contains(made[0].Skipped, "all layers") {
		t.Errorf("to less: %+v, %v", made, err)
	}
	c.reg.image("noise", "amd64", gz(tarOf(t, entry{name: "x", content: randomBytes(10_000, 77)})))
	mustPull(t, st, c.ref("noise"), Options{})
	if made, err := try(o, c.ref("base"), c.ref("noise")); err != nil || made[0].Image == "" {
		t.Errorf("to something else: %+v, %v", made, err) // padding is saved
	}
	file := filepath.Join(layers.GraphRoot(), "overlay", imageLayers(t, layers, base.ID)[1].ID, "diff", "many/6/file699")
	if err := os.WriteFile(file, bytes.Repeat([]byte("y"), 699), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := try(o, c.ref("base"), c.ref("target")); !errors.Is(err, ErrDamagedLayer) {
		t.Errorf("from a damaged base: %v", err)
	}
}
