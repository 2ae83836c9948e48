package pull

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imgspecv1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// half serves the first half of the delta, and the rest when go is closed.
func (c *deltaCase) half(reached, goOn chan struct{}) {
	var once sync.Once
	c.fault[c.artifact.Blob.Digest] = func(w http.ResponseWriter, q *http.Request, b []byte) bool {
		w.Header().Set("Content-Length", fmt.Sprint(len(b)))
		w.Write(b[:len(b)/2])
		w.(countingWriter).ResponseWriter.(http.Flusher).Flush()
		once.Do(func() { close(reached) })
		select {
		case <-goOn:
			w.Write(b[len(b)/2:])
		case <-q.Context().Done():
		}
		return true
	}
}

func TestDeltaPullPinsBase(t *testing.T) {
	for _, driver := range []string{"overlay", "vfs"} {
		t.Run(driver, func(t *testing.T) {
			c := newDeltaCase(t)
			st, layers := openTestStore(t, driver)
			base := mustPull(t, st, c.host()+"/a:v1", Options{})
			reached, goOn := make(chan struct{}), make(chan struct{})
			c.half(reached, goOn)
			pulled := make(chan error)
			go func() {
				_, err := Pull(context.Background(), st, c.host()+"/a:v2", c.options())
				pulled <- err
			}()
			<-reached
			if driver == "overlay" { // vfs writes under the lock of all layers: the others wait for it
				for _, name := range []string{base.ID, base.Name} {
					if _, err := Remove(t.Context(), st, name, RemoveOptions{Force: true}); !errors.Is(err, ErrImageInUse) {
						t.Errorf("removing the base: %v", err)
					}
				}
				if p, err := Prune(t.Context(), st, PruneOptions{All: true}); err != nil || len(p.Removed) > 0 {
					t.Errorf("pruned %v, %v", p.Removed, err)
				}
			}
			close(goOn)
			if err := <-pulled; err != nil {
				t.Fatal(err)
			}
			if w := c.warnings(); w != "" {
				t.Error(w)
			}
			if n := c.servedBytes(c.v2.blob); n != 0 {
				t.Errorf("%d bytes of the layer were fetched", n)
			}
			c.pull(t, st, layers, Options{})
			if _, err := Remove(t.Context(), st, base.ID, RemoveOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestDeltaPullCancelled(t *testing.T) {
	c := newDeltaCase(t)
	st, layers := openTestStore(t, "overlay")
	mustPull(t, st, c.host()+"/a:v1", Options{})
	before, _ := layers.Layers()
	reached, goOn := make(chan struct{}), make(chan struct{})
	c.half(reached, goOn)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-reached; cancel() }()
	if _, err := Pull(ctx, st, c.host()+"/a:v2", c.options()); !errors.Is(err, context.Canceled) {
		t.Fatalf("want context.Canceled, got %v", err)
	}
	if w := c.warnings(); w != "" {
		t.Error(w)
	}
	noLeftovers(t, layers)
	if after, _ := layers.Layers(); len(after) != len(before) {
		t.Errorf("%d layers, %d before", len(after), len(before))
	}
	close(goOn)
	c.pull(t, st, layers, Options{})
}

// TestDeltaPullMixed has an image of which a delta carries only some layers,
// one of them twice, in between others.
func TestDeltaPullMixed(t *testing.T) {
	for _, driver := range []string{"overlay", "vfs"} {
		for _, parallel := range []int{1, 3} {
			t.Run(fmt.Sprint(driver, parallel), func(t *testing.T) {
				c := newDeltaCase(t)
				st, layers := openTestStore(t, driver)
				mustPull(t, st, c.host()+"/a:v1", Options{})
				a, b := gz(tarFile(t, "first", 70_000)), gz(tarFile(t, "last", 80_000))
				other := gz(tarOf(t, entry{name: "app/same2", content: randomBytes(100_000, 8)}, entry{name: "etc/passwd", content: "x"}))
				all := []testLayer{a, c.lower, c.v2, a, other, c.v2, b}
				target := c.image("mixed", "amd64", all...)
				blob := makeDelta(t, [][]byte{c.lower.tar, c.v1.tar}, [][]byte{c.v2.tar, other.tar})
				c.offer(t, c.base, target, blob, c.v2, other)
				o := c.options()
				o.Parallel = parallel
				img := mustPull(t, st, c.host()+"/a:mixed", o)
				for i, l := range imageLayers(t, layers, img.ID) {
					if !bytes.Equal(layerTar(t, layers, l.ID), all[i].tar) {
						t.Errorf("layer %d differs", i)
					}
				}
				if w := c.warnings(); w != "" {
					t.Error(w)
				}
				for i, l := range []testLayer{other, c.v2, a, b, c.lower} {
					got, want := c.servedBytes(l.blob), int64(len(l.blob))
					if i < 2 {
						want = 0
					}
					if driver == "vfs" { // it cannot make a layer from another one
						want = map[int]int64{0: 0, 1: int64(len(l.blob)), 2: 2 * want, 3: want, 4: 2 * want}[i]
					}
					if got != want {
						t.Errorf("%d bytes of layer %d were fetched, want %d", got, i, want)
					}
				}
				if s := c.saved(); s == nil || s.Done != int64(len(blob)+len(a.blob)+len(b.blob)) && driver == "overlay" {
					t.Errorf("told %+v, the delta has %d", s, len(blob))
				}
				noLeftovers(t, layers)
			})
		}
	}
}

// TestDeltaPullChooses has several deltas, of which the cheapest one is broken,
// one is no better than the layers and one starts from an image that is not here.
func TestDeltaPullChooses(t *testing.T) {
	c := newDeltaCase(t)
	st, layers := openTestStore(t, "overlay")
	mustPull(t, st, c.host()+"/a:v1", Options{})
	v3 := gz(appLayer(t, 3))
	base3 := c.image("v3", "amd64", c.lower, v3)
	absent := c.image("v4", "amd64", c.lower, gz(appLayer(t, 4)))
	mustPull(t, st, c.host()+"/a:v3", Options{NoDelta: true})
	c.offer(t, absent, c.target, []byte("absent"), c.v2)
	c.offer(t, base3, c.target, []byte("broken"), c.v2)
	c.offer(t, c.base, c.target, []byte(randomBytes(len(c.v2.blob)+1, 1)), c.v2)
	c.pull(t, st, layers, c.options())
	if w := c.warnings(); w != "delta from "+c.host()+"/a:v3: damaged delta: it is cut off; trying another" {
		t.Error(w)
	}
	if n := c.servedBytes(c.v2.blob); n != 0 {
		t.Errorf("%d bytes of the layer were fetched", n)
	}
	if c.servedBytes([]byte("absent")) != 0 {
		t.Error("a delta was fetched in vain")
	}
}

// TestDeltaPullPlatform has the delta of one platform's image in an index.
func TestDeltaPullPlatform(t *testing.T) {
	c := newDeltaCase(t)
	st, _ := openTestStore(t, "overlay")
	arm1 := c.image("", "arm64", c.lower, c.v1)
	arm2 := c.image("", "arm64", c.lower, c.v2)
	index := func(tag string, amd, arm imgspecv1.Descriptor) {
		amd.Platform = &imgspecv1.Platform{OS: "linux", Architecture: "amd64"}
		arm.Platform = &imgspecv1.Platform{OS: "linux", Architecture: "arm64"}
		raw, _ := json.Marshal(imgspecv1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imgspecv1.MediaTypeImageIndex, Manifests: []imgspecv1.Descriptor{amd, arm}})
		c.putManifest(tag, raw, imgspecv1.MediaTypeImageIndex)
	}
	index("m1", c.base, arm1)
	index("m2", c.target, arm2)
	c.unoffer(c.target)
	c.offer(t, arm1, arm2, c.blob, c.v2)
	o := c.options()
	o.Platform = "linux/arm64"
	mustPull(t, st, c.host()+"/a:m1", o)
	img := mustPull(t, st, c.host()+"/a:m2", o)
	if img.ID != c.configOf(arm2).Encoded() {
		t.Error("not the arm64 image")
	}
	if n := c.servedBytes(c.v2.blob); n != 0 || c.warnings() != "" {
		t.Errorf("%d bytes of the layer were fetched: %s", n, c.warnings())
	}
}

// TestDeltaPullSideBySide has several pulls of images that share layers, by
// deltas and whole, at the same time.
func TestDeltaPullSideBySide(t *testing.T) {
	c := newDeltaCase(t)
	st, layers := openTestStore(t, "overlay")
	mustPull(t, st, c.host()+"/a:v1", Options{})
	want := map[string][]testLayer{}
	for i := range 6 {
		own := gz(tarFile(t, fmt.Sprint("own", i), 20_000))
		tag := fmt.Sprint("s", i)
		all := []testLayer{c.lower, own, c.v2}
		if i%2 == 0 {
			all = []testLayer{c.lower, c.v2, own}
		}
		want[tag] = all
		target := c.image(tag, "amd64", all...)
		if i != 3 {
			c.offer(t, c.base, target, c.blob, c.v2)
		}
	}
	var wg sync.WaitGroup
	for tag, all := range want {
		wg.Go(func() {
			img, err := Pull(t.Context(), st, c.host()+"/a:"+tag, c.options())
			if err != nil {
				t.Errorf("%s: %v", tag, err)
				return
			}
			for i, l := range imageLayers(t, layers, img[0].ID) {
				if l.UncompressedDigest != digest.FromBytes(all[i].tar) {
					t.Errorf("%s: layer %d differs", tag, i)
				}
			}
		})
	}
	wg.Wait()
	if w := c.warnings(); w != "" {
		t.Error(w)
	}
	noLeftovers(t, layers)
}
