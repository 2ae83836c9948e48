package pull

import (
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	imgspecv1 "github.com/opencontainers/image-spec/specs-go/v1"
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
	if err == nil || !strings.Contains(c.warnings(), "checksum") {
		t.Fatalf("%v, warned %q", err, c.warnings())
	}
	t.Log(err)
	noLeftovers(t, layers)
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
