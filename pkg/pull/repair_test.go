package pull

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/balena-os/balena/pkg/durable"
)

// A layer that is there but damaged is found by a pull and replaced where it
// is, under the layers that lie on it.
func TestPullRepairs(t *testing.T) {
	for name, damage := range map[string]func(diff string) error{
		"emptied": func(d string) error { return os.Truncate(filepath.Join(d, "etc/passwd"), 0) },
		"shorter": func(d string) error { return os.Truncate(filepath.Join(d, "var/lib/x"), 100_000) },
		"missing": func(d string) error { return os.Remove(filepath.Join(d, "bin/su")) },
		"all gone": func(d string) error {
			return os.RemoveAll(d)
		},
		"record emptied": func(d string) error {
			id := filepath.Base(filepath.Dir(d))
			return os.Truncate(filepath.Join(d, "../../../overlay-layers", id+".tar-split.gz"), 0)
		},
	} {
		t.Run(name, func(t *testing.T) {
			st, layers := openTestStore(t, "overlay")
			reg := newTestRegistry(t)
			base, upper := baseLayer(t), upperLayer(t)
			reg.image("v1", "amd64", gz(base), gz(upper))
			ref := reg.host() + "/a:v1"
			img := mustPull(t, st, ref, Options{})
			chain := imageLayers(t, layers, img.ID)
			diff := filepath.Join(layers.GraphRoot(), "overlay", chain[0].ID, "diff")
			if _, err := layers.CreateContainer("c1", nil, img.ID, "", "", nil); err != nil {
				t.Fatal(err)
			}
			if err := damage(diff); err != nil {
				t.Fatal(err)
			}
			if again := mustPull(t, st, ref, Options{}); again.ID != img.ID {
				t.Fatalf("got %s", again.ID)
			}
			for i, want := range [][]byte{base, upper} {
				if got := layerTar(t, layers, chain[i].ID); !bytes.Equal(got, want) {
					t.Errorf("layer %d is not what was pulled", i)
				}
			}
			if verified, err := durable.Verify(layers, chain[0].ID, chain[0].UncompressedDigest); err != nil || !verified {
				t.Errorf("verified %v: %v", verified, err)
			}
			if _, err := layers.Mount("c1", ""); err != nil {
				t.Errorf("the container upon it: %v", err)
			} else if _, err := layers.Unmount("c1", true); err != nil {
				t.Error(err)
			}
		})
	}
}

// Healthy layers are not fetched again.
func TestPullTrustsHealthyLayers(t *testing.T) {
	st, _ := openTestStore(t, "overlay")
	reg := newTestRegistry(t)
	reg.image("v1", "amd64", gz(baseLayer(t)), gz(upperLayer(t)))
	ref := reg.host() + "/a:v1"
	mustPull(t, st, ref, Options{})
	fetched := 0
	mustPull(t, st, ref, Options{Progress: func(e Event) {
		if e.State == Extracted {
			fetched++
		}
	}})
	if fetched != 0 {
		t.Errorf("%d layers were fetched again", fetched)
	}
}
