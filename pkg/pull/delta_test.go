package pull

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	imgspecv1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/image/v5/types"
	"go.podman.io/storage"

	"github.com/balena-os/balena/pkg/delta"
	"github.com/balena-os/balena/pkg/store"
)

// deltaCase is a registry with an image in two versions, and a delta between
// them.
type deltaCase struct {
	*testRegistry
	lower, v1, v2 testLayer
	base, target  imgspecv1.Descriptor // manifests
	artifact      delta.Artifact
	blob          []byte // the delta

	mu     sync.Mutex
	events []Event
}

// appLayer is a layer that changes with every version, but not much.
func appLayer(t testing.TB, version int) []byte {
	big := []byte(randomBytes(600_000, 7))
	copy(big[version*1000:], fmt.Sprintf("version %d", version))
	return tarOf(t,
		entry{name: "app/", kind: tar.TypeDir},
		entry{name: "app/big", content: string(big)},
		entry{name: "app/same", content: randomBytes(100_000, 8)},
		entry{name: "app/link", link: "big", kind: tar.TypeSymlink},
		entry{name: "app/version", content: randomBytes(150_000, uint64(version)), mode: 0o755, uid: 5},
		entry{name: "var/.wh.x"},
	)
}

func layerTars(tars ...[]byte) []delta.LayerTar {
	var out []delta.LayerTar
	for _, b := range tars {
		out = append(out, delta.LayerTar{DiffID: digest.FromBytes(b), Open: func(context.Context) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(b)), nil
		}})
	}
	return out
}

// makeDelta makes a delta from images given by the tars of their layers.
func makeDelta(t testing.TB, base, target [][]byte) []byte {
	t.Helper()
	src, err := delta.NewTarSource(t.Context(), layerTars(base...), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	var b bytes.Buffer
	if _, err := delta.Create(t.Context(), src, layerTars(target...), &b, delta.Options{}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// deltaContent is the same in each deltaCase, and takes seconds to make with
// the race detector. A case gets a delta of its own, which tests damage.
var deltaContent struct {
	once          sync.Once
	lower, v1, v2 testLayer
	blob          []byte
}

func newDeltaCase(t testing.TB) *deltaCase {
	d := &deltaContent
	d.once.Do(func() {
		d.lower, d.v1, d.v2 = gz(baseLayer(t)), gz(appLayer(t, 1)), gz(appLayer(t, 2))
		d.blob = makeDelta(t, [][]byte{d.lower.tar, d.v1.tar}, [][]byte{d.v2.tar})
	})
	c := &deltaCase{testRegistry: newTestRegistry(t), lower: d.lower, v1: d.v1, v2: d.v2, blob: bytes.Clone(d.blob)}
	c.refers = map[digest.Digest][]imgspecv1.Descriptor{}
	c.base = c.image("v1", "amd64", c.lower, c.v1)
	c.target = c.image("v2", "amd64", c.lower, c.v2)
	c.artifact = c.offer(t, c.base, c.target, c.blob, c.v2)
	return c
}

// configOf is the digest of an image's configuration.
func (r *testRegistry) configOf(m imgspecv1.Descriptor) digest.Digest {
	var parsed imgspecv1.Manifest
	if err := json.Unmarshal(r.manifests[m.Digest.String()], &parsed); err != nil {
		panic(err)
	}
	return parsed.Config.Digest
}

// offer publishes a delta.
func (r *testRegistry) offer(t testing.TB, base, target imgspecv1.Descriptor, blob []byte, carries ...testLayer) delta.Artifact {
	t.Helper()
	a := delta.Artifact{
		Subject: target, Base: r.configOf(base), Target: r.configOf(target), BaseManifest: base.Digest,
		Blob: imgspecv1.Descriptor{MediaType: delta.MediaType, Digest: r.add(blob), Size: int64(len(blob))},
	}
	for _, l := range carries {
		a.Layers = append(a.Layers, digest.FromBytes(l.tar))
	}
	raw, err := a.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	r.putManifest("", raw, imgspecv1.MediaTypeImageManifest)
	r.refers[target.Digest] = append(r.refers[target.Digest], a.Descriptor(raw))
	return a
}

// unoffer takes all deltas to an image back.
func (r *testRegistry) unoffer(target imgspecv1.Descriptor) { delete(r.refers, target.Digest) }

// options collect the events.
func (c *deltaCase) options() Options {
	return Options{Progress: func(e Event) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.events = append(c.events, e)
	}}
}

func (c *deltaCase) warnings() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for _, e := range c.events {
		if e.State == Warning {
			out = append(out, e.Text)
		}
	}
	return strings.Join(out, "\n")
}

func (c *deltaCase) saved() *Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.events {
		if e.State == Saved {
			return &e
		}
	}
	return nil
}

// servedBytes tells how much of a layer or delta was fetched.
func (c *deltaCase) servedBytes(blob []byte) int64 {
	_, n := c.seen(digest.FromBytes(blob))
	return n
}

// checkTarget pulls the second version and compares it with what it should be.
func (c *deltaCase) pull(t testing.TB, st *store.Store, layers storage.Store, o Options) {
	t.Helper()
	img := mustPull(t, st, c.host()+"/a:v2", o)
	c.check(t, layers, img)
}

func (c *deltaCase) check(t testing.TB, layers storage.Store, img Image) {
	t.Helper()
	if img.ID != c.configOf(c.target).Encoded() {
		t.Errorf("image %s", img.ID)
	}
	want := [][]byte{c.lower.tar, c.v2.tar}
	for i, l := range imageLayers(t, layers, img.ID) {
		if !bytes.Equal(layerTar(t, layers, l.ID), want[i]) {
			t.Errorf("layer %d differs", i)
		}
	}
	noLeftovers(t, layers)
	if locks, _ := filepath.Glob(filepath.Join(layers.RunRoot(), "pull", "base-*")); len(locks) > 0 {
		t.Errorf("pins left: %v", locks)
	}
}

func TestDeltaPull(t *testing.T) {
	for _, driver := range []string{"overlay", "vfs"} {
		t.Run(driver, func(t *testing.T) {
			c := newDeltaCase(t)
			st, layers := openTestStore(t, driver)
			o := c.options()
			mustPull(t, st, c.host()+"/a:v1", o)
			if c.asked != 1 {
				t.Errorf("the first image took %d requests to learn what the registry can do", c.asked)
			}
			c.pull(t, st, layers, o)
			if n := c.servedBytes(c.v2.blob); n != 0 {
				t.Errorf("%d bytes of the layer were fetched", n)
			}
			if n := c.servedBytes(c.blob); n > int64(len(c.blob)) || n == 0 {
				t.Errorf("%d bytes of the delta were fetched", n)
			}
			if w := c.warnings(); w != "" {
				t.Error(w)
			}
			s := c.saved()
			if s == nil || s.Done != int64(len(c.blob)) || s.Total != int64(len(c.v2.blob)) || !strings.HasSuffix(s.From, "/a:v1") {
				t.Errorf("told %+v", s)
			}
			if c.asked != 2 {
				t.Errorf("%d requests for referrers", c.asked-1)
			}
		})
	}
}

func TestDeltaPullNoDelta(t *testing.T) {
	c := newDeltaCase(t)
	st, layers := openTestStore(t, "overlay")
	mustPull(t, st, c.host()+"/a:v1", Options{NoDelta: true})
	c.pull(t, st, layers, Options{NoDelta: true})
	if c.asked != 0 || c.servedBytes(c.blob) != 0 {
		t.Error("a delta was looked for")
	}
}

// TestDeltaPullFallsBack has everything that can be wrong with a delta.
func TestDeltaPullFallsBack(t *testing.T) {
	type damage struct {
		do    func(t *testing.T, c *deltaCase)
		warns string // "": it must not warn
	}
	status := func(code int, name string) func(t *testing.T, c *deltaCase) {
		return func(t *testing.T, c *deltaCase) {
			c.fault[c.artifact.Blob.Digest] = func(w http.ResponseWriter, _ *http.Request, _ []byte) bool {
				registryError(w, code, name)
				return true
			}
		}
	}
	// as publishes other bytes as the delta
	as := func(change func([]byte) []byte) func(t *testing.T, c *deltaCase) {
		return func(t *testing.T, c *deltaCase) {
			c.unoffer(c.target)
			c.artifact = c.offer(t, c.base, c.target, change(bytes.Clone(c.blob)), c.v2)
		}
	}
	list := func(f func(w http.ResponseWriter) bool) func(t *testing.T, c *deltaCase) {
		return func(t *testing.T, c *deltaCase) { c.referred = f }
	}
	annotate := func(key, value string) func(t *testing.T, c *deltaCase) {
		return func(t *testing.T, c *deltaCase) { c.refers[c.target.Digest][0].Annotations[key] = value }
	}
	for name, d := range map[string]damage{
		"404":        {do: status(404, "BLOB_UNKNOWN"), warns: "as the test wants"},
		"500":        {do: status(500, "UNKNOWN"), warns: "500"},
		"no content": {do: as(func(b []byte) []byte { return nil }), warns: "cut off"},
		"cut off":    {do: as(func(b []byte) []byte { return b[:len(b)/2] }), warns: "cut off"},
		"last byte":  {do: as(func(b []byte) []byte { return b[:len(b)-1] }), warns: ""}, // no layer needs it
		"bit":        {do: as(func(b []byte) []byte { b[len(b)/2] ^= 4; return b }), warns: "checksum"},
		"head":       {do: as(func(b []byte) []byte { b[0] ^= 4; return b }), warns: "not a delta"},
		"version":    {do: as(func(b []byte) []byte { b[6] = 9; return b }), warns: "unknown version"},
		"other delta": {do: func(t *testing.T, c *deltaCase) {
			other := gz(appLayer(t, 3))
			c.unoffer(c.target)
			c.offer(t, c.base, c.target, makeDelta(t, [][]byte{c.lower.tar, c.v1.tar}, [][]byte{other.tar}), c.v2)
		}, warns: "not have all the layers"},
		"other base": {do: func(t *testing.T, c *deltaCase) {
			c.unoffer(c.target)
			c.offer(t, c.base, c.target, makeDelta(t, [][]byte{c.lower.tar, appLayer(t, 4)}, [][]byte{c.v2.tar}), c.v2)
		}, warns: "damaged base file /app/big"},
		"longer blob": {do: func(t *testing.T, c *deltaCase) {
			c.fault[c.artifact.Blob.Digest] = func(w http.ResponseWriter, _ *http.Request, b []byte) bool {
				w.Write(append(bytes.Clone(b[:len(b)/2]), make([]byte, len(b))...))
				return true
			}
		}, warns: "delta from"},
		"endless": {do: func(t *testing.T, c *deltaCase) {
			c.unoffer(c.target)
			zeros := tarOf(t, entry{name: "zeros", content: string(make([]byte, 8<<20))})
			blob := makeDelta(t, nil, [][]byte{zeros})
			// says that it is the layer, and is something else
			i := bytes.Index(blob, digestBytes(digest.FromBytes(zeros)))
			copy(blob[i:], digestBytes(digest.FromBytes(c.v2.tar)))
			c.offer(t, c.base, c.target, blob, c.v2)
		}, warns: "delta from"},
		"list 500":     {do: list(func(w http.ResponseWriter) bool { registryError(w, 500, "UNKNOWN"); return true }), warns: "looking for deltas"},
		"list garbage": {do: list(func(w http.ResponseWriter) bool { io.WriteString(w, "[}"); return true }), warns: "looking for deltas"},
		"list 404":     {do: func(t *testing.T, c *deltaCase) { c.refers = nil }},
		"list version": {do: annotate(delta.AnnotationVersion, "7")},
		"list lies":    {do: annotate(delta.AnnotationSize, "-7"), warns: "size"},
		"list less":    {do: annotate(delta.AnnotationSize, "12"), warns: "longer than the 12 bytes"},
		"list more":    {do: annotate(delta.AnnotationSize, "300000")}, // which no layer needs

		"list larger":  {do: annotate(delta.AnnotationSize, "99999999")},
		"other target": {do: annotate(delta.AnnotationTarget, digest.FromString("x").String())},
		"other layers": {do: annotate(delta.AnnotationLayers, digest.FromString("x").String())},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			c := newDeltaCase(t)
			st, layers := openTestStore(t, "overlay")
			mustPull(t, st, c.host()+"/a:v1", Options{NoDelta: true})
			d.do(t, c)
			c.pull(t, st, layers, c.options())
			w := c.warnings()
			t.Log(w)
			if (d.warns == "") != (w == "") || !strings.Contains(w, d.warns) {
				t.Errorf("warned %q, want %q", w, d.warns)
			}
			if n := c.servedBytes(c.lower.blob); n > int64(len(c.lower.blob)) {
				t.Errorf("%d bytes of a layer that was there", n-int64(len(c.lower.blob)))
			}
			if n := c.servedBytes(c.v2.blob); name != "last byte" && name != "list more" && n != int64(len(c.v2.blob)) {
				t.Errorf("%d bytes of %d of the layer were fetched", n, len(c.v2.blob))
			}
		})
	}
}

func digestBytes(d digest.Digest) []byte {
	var b []byte
	fmt.Sscanf(d.Encoded(), "%x", &b)
	return b
}

// file finds a file of an image's layer on the disk.
func layerFile(t *testing.T, layers storage.Store, img Image, name string) string {
	t.Helper()
	for _, l := range imageLayers(t, layers, img.ID) {
		for _, dir := range []string{filepath.Join("overlay", l.ID, "diff"), filepath.Join("vfs", "dir", l.ID)} {
			p := filepath.Join(layers.GraphRoot(), dir, name)
			if _, err := os.Lstat(p); err == nil {
				return p
			}
		}
	}
	t.Fatalf("%s is not there", name)
	return ""
}

func TestDeltaPullDamagedBase(t *testing.T) {
	for _, driver := range []string{"overlay", "vfs"} {
		for name, c := range map[string]struct {
			do    func(t *testing.T, layers storage.Store, img Image) error
			names string
		}{
			"one byte": {func(t *testing.T, layers storage.Store, img Image) error {
				f, err := os.OpenFile(layerFile(t, layers, img, "app/big"), os.O_RDWR, 0)
				if err != nil {
					return err
				}
				defer f.Close()
				_, err = f.WriteAt([]byte("?"), 300_000)
				return err
			}, "/app/big"},
			"truncated": {func(t *testing.T, layers storage.Store, img Image) error {
				return os.Truncate(layerFile(t, layers, img, "app/same"), 50_000)
			}, "/app/same"},
			"longer": {func(t *testing.T, layers storage.Store, img Image) error {
				return os.Truncate(layerFile(t, layers, img, "app/same"), 500_000)
			}, ""},
			"empty": {func(t *testing.T, layers storage.Store, img Image) error {
				return os.Truncate(layerFile(t, layers, img, "app/big"), 0)
			}, "/app/big"},
			"removed": {func(t *testing.T, layers storage.Store, img Image) error {
				return os.Remove(layerFile(t, layers, img, "app/big"))
			}, ""},
			"a folder": {func(t *testing.T, layers storage.Store, img Image) error {
				p := layerFile(t, layers, img, "app/big")
				return errors.Join(os.Remove(p), os.Mkdir(p, 0o755))
			}, ""},
			"a pipe": {func(t *testing.T, layers storage.Store, img Image) error {
				p := layerFile(t, layers, img, "app/big")
				return errors.Join(os.Remove(p), os.Symlink("/dev/zero", p))
			}, ""},
			"layer removed": {func(t *testing.T, layers storage.Store, img Image) error {
				return os.RemoveAll(filepath.Dir(layerFile(t, layers, img, "app")))
			}, ""},
		} {
			t.Run(driver+"/"+strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
				d := newDeltaCase(t)
				st, layers := openTestStore(t, driver)
				img := mustPull(t, st, d.host()+"/a:v1", Options{NoDelta: true})
				if err := c.do(t, layers, img); err != nil {
					t.Fatal(err)
				}
				o := d.options()
				got := mustPull(t, st, d.host()+"/a:v2", o)
				chain := imageLayers(t, layers, got.ID)
				if !bytes.Equal(layerTar(t, layers, chain[1].ID), d.v2.tar) {
					t.Error("layer differs")
				}
				w := d.warnings()
				t.Log(w)
				if w == "" || !strings.Contains(w, c.names) {
					t.Errorf("warned %q", w)
				}
			})
		}
	}
}

// TestDeltaPullResumes has a connection that breaks within the delta.
func TestDeltaPullResumes(t *testing.T) {
	c := newDeltaCase(t)
	st, layers := openTestStore(t, "overlay")
	mustPull(t, st, c.host()+"/a:v1", Options{})
	c.fault[c.artifact.Blob.Digest] = breakAt(len(c.blob)/3, 2)
	c.pull(t, st, layers, c.options())
	requests, served := c.seen(c.artifact.Blob.Digest)
	if len(requests) != 3 || served != int64(len(c.blob)) {
		t.Errorf("%d bytes in requests %q for a delta of %d", served, requests, len(c.blob))
	}
	if w := c.warnings(); w != "" {
		t.Error(w)
	}
}

// TestDeltaLimit has a layer of which a delta may make only so much.
func TestDeltaLimit(t *testing.T) {
	_, layers := openTestStore(t, "overlay")
	d := &destination{layers: layers}
	for media, want := range map[string]int64{
		imgspecv1.MediaTypeImageLayerGzip: 1000 * maxDeflate, "application/vnd.docker.image.rootfs.diff.tar.gzip": 1000 * maxDeflate,
		imgspecv1.MediaTypeImageLayer: 1000,
	} {
		got, err := d.limit(&layer{blob: types.BlobInfo{Size: 1000, MediaType: media}})
		if err != nil || got != want {
			t.Errorf("%s: %d %v, want %d", media, got, err, want)
		}
	}
	if got, err := d.limit(&layer{blob: types.BlobInfo{Size: 1000, MediaType: imgspecv1.MediaTypeImageLayerZstd}}); err != nil || got < 1<<20 || got > 1<<60 {
		t.Errorf("zstd: %d %v", got, err)
	}
	for n, want := range map[int]error{999: nil, 1000: nil, 1001: errTooLong} {
		if _, err := io.Copy(io.Discard, &limited{r: bytes.NewReader(make([]byte, n)), left: 1000}); !errors.Is(err, want) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}
