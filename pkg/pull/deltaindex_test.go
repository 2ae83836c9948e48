package pull

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imgspecv1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/balena-os/balena/pkg/delta"
)

// tarDiffFrom writes a tar-diff by hand: where the target has the content of
// a file of the source layer, that is copied from there.
func tarDiffFrom(t testing.TB, target []byte, file, content string) []byte {
	t.Helper()
	op := func(b []byte, op byte, n int) []byte { return binary.AppendUvarint(append(b, op), uint64(n)) }
	before, after, found := bytes.Cut(target, []byte(content))
	if !found {
		t.Fatalf("%s is not in the target", file)
	}
	b := append(op(nil, 0, len(before)), before...)
	b = append(op(b, 1, len(file)), file...)
	b = op(b, 2, len(content))
	b = append(op(b, 0, len(after)), after...)
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return enc.EncodeAll(b, []byte("tardf1\n\x00"))
}

// indexed puts tar-diffs into the repository's index.
func (r *testRegistry) indexed(target imgspecv1.Descriptor, diffs ...imgspecv1.Descriptor) {
	m := imgspecv1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imgspecv1.MediaTypeImageManifest,
		Config: imgspecv1.Descriptor{MediaType: "application/vnd.redhat.delta.config.v1+json", Digest: r.add([]byte("{}")), Size: 2},
		Layers: diffs, Annotations: map[string]string{annotationDeltaTarget: target.Digest.String()},
	}
	raw, _ := json.Marshal(m)
	d := r.putManifest("", raw, m.MediaType)
	d.Annotations = m.Annotations
	other := d
	other.Annotations = map[string]string{annotationDeltaTarget: digest.FromString("another").String()}
	raw, _ = json.Marshal(imgspecv1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imgspecv1.MediaTypeImageIndex, Manifests: []imgspecv1.Descriptor{other, d},
	})
	r.putManifest(deltaIndexTag, raw, imgspecv1.MediaTypeImageIndex)
}

func (r *testRegistry) diff(blob []byte, from, to testLayer) imgspecv1.Descriptor {
	return imgspecv1.Descriptor{MediaType: delta.TarDiffMediaType, Digest: r.add(blob), Size: int64(len(blob)), Annotations: map[string]string{
		annotationDeltaFrom: digest.FromBytes(from.tar).String(), annotationDeltaTo: digest.FromBytes(to.tar).String()}}
}

// diffCase is an image in two versions: the lower layer gets another name for
// its large file, the upper one another version.
type diffCase struct {
	*deltaCase
	lower2 testLayer
	diffs  []imgspecv1.Descriptor
}

func newDiffCase(t testing.TB) *diffCase {
	d := &diffCase{deltaCase: newDeltaCase(t)}
	c := d.deltaCase
	c.unoffer(c.target)
	d.lower2 = gz(tarOf(t, entry{name: "var/lib/y", content: randomBytes(700_000, 1)}, entry{name: "new", content: "new"}))
	c.target = c.image("v2", "amd64", d.lower2, c.v2)
	d.diffs = []imgspecv1.Descriptor{
		c.diff([]byte("from what is not here"), testLayer{tar: []byte("x")}, c.v2),
		c.diff(tarDiffFrom(t, d.lower2.tar, "var/lib/x", randomBytes(700_000, 1)), c.lower, d.lower2),
		c.diff(tarDiffFrom(t, c.v2.tar, "app/same", randomBytes(100_000, 8)), c.v1, c.v2),
	}
	d.diffs[2].MediaType = mediaTypeTarDiffRedHat
	c.indexed(c.target, d.diffs...)
	return d
}

func (d *diffCase) pull(t testing.TB, driver string) (fetched [2]int64, warnings string) {
	t.Helper()
	st, layers := openTestStore(t, driver)
	mustPull(t, st, d.host()+"/a/b:v1", Options{})
	o := d.options()
	o.DeltaIndex = true
	before := [2]int64{}
	for i, l := range []testLayer{d.lower2, d.v2} {
		_, before[i] = d.seen(digest.FromBytes(l.blob))
	}
	img := mustPull(t, st, d.host()+"/a/b:v2", o)
	for i, l := range []testLayer{d.lower2, d.v2} {
		_, n := d.seen(digest.FromBytes(l.blob))
		fetched[i] = n - before[i]
		if got := layerTar(t, layers, imageLayers(t, layers, img.ID)[i].ID); !bytes.Equal(got, l.tar) {
			t.Errorf("layer %d is another one", i)
		}
	}
	noLeftovers(t, layers)
	return fetched, d.warnings()
}

func TestDeltaIndex(t *testing.T) {
	for _, driver := range []string{"overlay", "vfs"} {
		if fetched, warnings := newDiffCase(t).pull(t, driver); fetched != [2]int64{} || warnings != "" {
			t.Errorf("%s: fetched %d, warnings %q", driver, fetched, warnings)
		}
	}
}

// Nobody asks for the index who did not say so, or who has a better way.
func TestDeltaIndexNotAsked(t *testing.T) {
	st, _ := openTestStore(t, "overlay")
	d := newDiffCase(t)
	mustPull(t, st, d.host()+"/a/b:v1", Options{})
	asked := func() int {
		d.testRegistry.mu.Lock()
		defer d.testRegistry.mu.Unlock()
		return d.manifestRequests[deltaIndexTag]
	}
	mustPull(t, st, d.host()+"/a/b:v2", Options{})
	if asked() != 0 {
		t.Error("asked without DeltaIndex")
	}
	for _, o := range []Options{{DeltaIndex: true}, {DeltaIndex: true, NoDelta: true}} { // nothing is missing
		mustPull(t, st, d.host()+"/a/b:v2", o)
	}
	if asked() != 0 {
		t.Error("asked for nothing")
	}
	st, _ = openTestStore(t, "overlay")
	mustPull(t, st, d.host()+"/a/b:v1", Options{})
	d.offer(t, d.base, d.target, makeDelta(t, [][]byte{d.lower.tar, d.v1.tar}, [][]byte{d.lower2.tar, d.v2.tar}), d.lower2, d.v2)
	mustPull(t, st, d.host()+"/a/b:v2", Options{DeltaIndex: true})
	if asked() != 0 {
		t.Error("asked in spite of a delta of ours")
	}
}

// Whatever is wrong, the image is right, and what can be made is not fetched.
func TestDeltaIndexFallsBack(t *testing.T) {
	for name, c := range map[string]struct {
		spoil   func(t *testing.T, d *diffCase)
		fetched [2]bool
		warning string
	}{
		"no index": {func(_ *testing.T, d *diffCase) { delete(d.manifests, deltaIndexTag) }, [2]bool{true, true}, ""},
		"index that is none": {func(_ *testing.T, d *diffCase) {
			d.putManifest(deltaIndexTag, []byte("x"), imgspecv1.MediaTypeImageIndex)
		},
			[2]bool{true, true}, "looking for layer deltas"},
		"no manifest": {func(_ *testing.T, d *diffCase) { d.indexed(d.base) }, [2]bool{true, true}, ""},
		"for another image": {func(_ *testing.T, d *diffCase) {
			d.indexed(d.base, d.diffs...)
			raw := bytes.ReplaceAll(d.manifests[deltaIndexTag], []byte(d.base.Digest), []byte(d.target.Digest))
			d.putManifest(deltaIndexTag, raw, imgspecv1.MediaTypeImageIndex)
		}, [2]bool{true, true}, "is for sha256:"},
		"delta that is not there": {func(_ *testing.T, d *diffCase) { delete(d.blobs, d.diffs[1].Digest) }, [2]bool{true, false}, "whole"},
		"damaged delta": {func(_ *testing.T, d *diffCase) {
			d.fault[d.diffs[2].Digest] = func(w http.ResponseWriter, _ *http.Request, b []byte) bool {
				w.Write(append(bytes.Clone(b[:len(b)-1]), b[len(b)-1]^1))
				return true
			}
		}, [2]bool{false, true}, ""},
		"delta of something else": {func(t *testing.T, d *diffCase) {
			same := randomBytes(100_000, 8)
			blob := tarDiffFrom(t, tarOf(t, entry{name: "x", content: same}), "app/same", same)
			d.diffs[1].Digest, d.diffs[1].Size = d.add(blob), int64(len(blob))
			d.indexed(d.target, d.diffs...)
		}, [2]bool{true, false}, "app/same"},
		"too large to be worth it": {func(_ *testing.T, d *diffCase) {
			d.diffs[1].Size = 1 << 40
			d.indexed(d.target, d.diffs...)
		}, [2]bool{true, false}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDiffCase(t)
			c.spoil(t, d)
			fetched, warnings := d.pull(t, "overlay")
			if got := [2]bool{fetched[0] > 0, fetched[1] > 0}; got != c.fetched || !strings.Contains(warnings, c.warning) || c.warning == "" && name != "damaged delta" && warnings != "" {
				t.Errorf("fetched %v, warnings %q", got, warnings)
			}
		})
	}
}

func TestDeltaIndexDamagedBase(t *testing.T) {
	st, layers := openTestStore(t, "overlay")
	d := newDiffCase(t)
	base := mustPull(t, st, d.host()+"/a/b:v1", Options{})
	file := filepath.Join(layers.GraphRoot(), "overlay", imageLayers(t, layers, base.ID)[0].ID, "diff", "var/lib/x")
	if err := os.WriteFile(file, []byte(randomBytes(700_000, 9)), 0o644); err != nil {
		t.Fatal(err)
	}
	o := d.options()
	o.DeltaIndex = true
	mustPull(t, st, d.host()+"/a/b:v2", o)
	if w := d.warnings(); !strings.Contains(w, "var/lib/x") {
		t.Errorf("warnings: %q", w)
	}
	if _, n := d.seen(digest.FromBytes(d.v2.blob)); n != 0 {
		t.Error("the other layer was fetched as well")
	}
	if _, err := Pull(context.Background(), st, d.host()+"/a/b:v3", o); err == nil || errors.Is(err, ErrDigest) {
		t.Errorf("got %v", err)
	}
}
