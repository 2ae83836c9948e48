package pull

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	imgspecv1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/storage"
	"golang.org/x/sys/unix"

	"github.com/balena-os/balena/pkg/delta"
	"github.com/balena-os/balena/pkg/store"
)

// seed puts what fill builds into a repository of the registry.
func (r *fakeRegistry) seed(t testing.TB, repo string, fill func(*testRegistry)) {
	t.Helper()
	b := newTestRegistry(t)
	fill(b)
	send := func(method, path, mime string, content []byte) {
		q, _ := http.NewRequest(method, r.URL+path, bytes.NewReader(content))
		q.Header.Set("Content-Type", mime)
		res, err := http.DefaultClient.Do(q)
		if err != nil || res.StatusCode != http.StatusCreated {
			t.Fatalf("%s %s: %v %v", method, path, res, err)
		}
		res.Body.Close()
	}
	for d, content := range b.blobs {
		send(http.MethodPost, "/v2/"+repo+"/blobs/uploads/?digest="+d.String(), "", content)
	}
	for _, index := range []bool{false, true} { // what an index names comes before it
		for ref, raw := range b.manifests {
			if (b.mimes[ref] == imgspecv1.MediaTypeImageIndex) == index {
				send(http.MethodPut, "/v2/"+repo+"/manifests/"+ref, b.mimes[ref], raw)
			}
		}
	}
}

// makeCase is a registry with two versions of an image, the second of which has
// a layer that the first lacks, and a store.
type makeCase struct {
	*fakeRegistry
	st     *store.Store
	layers storage.Store
	v2     testLayer
}

func newMakeCase(t testing.TB, api bool) *makeCase {
	c := &makeCase{fakeRegistry: newFakeRegistry(t, api), v2: gz(appLayer(t, 2))}
	c.st, c.layers = openTestStore(t, "overlay")
	t.Setenv("TMPDIR", t.TempDir())
	c.seed(t, "app", func(b *testRegistry) {
		base := gz(baseLayer(t))
		b.image("v1", "amd64", base, gz(appLayer(t, 1)))
		b.image("v2", "amd64", base, c.v2)
		b.image("same", "amd64", base, c.v2, gz(upperLayer(t)))
		b.image("other", "amd64", gz(tarOf(t, entry{name: "x"})))
		b.image("arm", "arm64", base)
	})
	return c
}

// ref names an image of the case's registry, as a pull does.
func (c *makeCase) ref(tag string) string {
	return strings.TrimPrefix(c.URL, "http://") + "/app:" + tag
}

func (c *makeCase) remote(tag string) string { return "docker://" + c.ref(tag) }

func (c *makeCase) options(t testing.TB) DeltaOptions {
	return DeltaOptions{RegistryOptions: RegistryOptions{AuthFile: noAuth(t)}}
}

func (c *makeCase) make(t testing.TB, base, target string, o DeltaOptions) MadeDelta {
	t.Helper()
	made, err := MakeDeltas(t.Context(), c.st, []string{base}, target, o)
	if err != nil || len(made) != 1 {
		t.Fatalf("made %v, %v", made, err)
	}
	return made[0]
}

// nothingLeft fails if there is anything in the folder of temporary files.
func nothingLeft(t testing.TB) {
	t.Helper()
	if left, err := os.ReadDir(os.Getenv("TMPDIR")); err != nil || len(left) > 0 {
		t.Errorf("temporary files are left: %v, %v", left, err)
	}
}

// TestDeltaSameFromAnywhere: a delta is the same, byte for byte, whether its
// images are in the store or in the registry, and each time.
func TestDeltaSameFromAnywhere(t *testing.T) {
	c := newMakeCase(t, true)
	mustPull(t, c.st, c.ref("v1"), Options{NoDelta: true})
	mustPull(t, c.st, c.ref("v2"), Options{NoDelta: true})
	o := c.options(t)
	want := c.make(t, c.remote("v1"), c.remote("v2"), o)
	if want.Size <= 0 || want.Size >= want.Whole || want.Whole != int64(len(c.v2.blob)) || want.Tar != int64(len(c.v2.tar)) {
		t.Fatalf("made %+v", want)
	}
	if !slices.Equal(want.Layers, []digest.Digest{digest.FromBytes(c.v2.tar)}) {
		t.Errorf("carries %v", want.Layers)
	}
	for _, images := range [][2]string{
		{c.remote("v1"), c.remote("v2")}, {c.ref("v1"), c.ref("v2")},
		{c.ref("v1"), c.remote("v2")}, {c.remote("v1"), c.ref("v2")},
	} {
		if got := c.make(t, images[0], images[1], o); got.Digest != want.Digest || got.Whole != want.Whole {
			t.Errorf("from %v: %s of %d bytes, want %s", images, got.Digest, got.Whole, want.Digest)
		}
	}
	vfs := *c
	vfs.st, vfs.layers = openTestStore(t, "vfs")
	mustPull(t, vfs.st, c.ref("v1"), Options{NoDelta: true})
	mustPull(t, vfs.st, c.ref("v2"), Options{NoDelta: true})
	if got := vfs.make(t, c.ref("v1"), c.ref("v2"), o); got.Digest != want.Digest {
		t.Errorf("from vfs: %s, want %s", got.Digest, want.Digest)
	}
	// a store that says other sizes
	m, err := newMaker(c.st, o)
	if err != nil {
		t.Fatal(err)
	}
	var images [2]*deltaImage
	for i, v := range []string{"v1", "v2"} {
		if images[i], err = m.openLocal(c.ref(v), c.ref(v), ""); err != nil {
			t.Fatal(err)
		}
	}
	carry := missingLayers(images[0], images[1])
	if carry[0].tar != int64(len(c.v2.tar)) {
		t.Errorf("the layer is said to have %d bytes, and has %d", carry[0].tar, len(c.v2.tar))
	}
	carry[0].tar += 512
	var got MadeDelta
	blob, err := m.create(t.Context(), images[0], images[1], carry, &got)
	if err != nil || got.Digest != want.Digest {
		t.Errorf("with another size: %s, %v, want %s", got.Digest, err, want.Digest)
	} else {
		blob.Close()
	}
	o.Level = 1
	if got := c.make(t, c.ref("v1"), c.ref("v2"), o); got.Digest == want.Digest {
		t.Error("level 1 makes the same delta as the default")
	}
	nothingLeft(t)
}

// TestDeltaPublish: what is published is found by a pull, which makes the
// target from it; and it is listed and removed.
func TestDeltaPublish(t *testing.T) {
	for _, api := range []bool{true, false} {
		c := newMakeCase(t, api)
		tags := c.Tags("app")
		o := c.options(t)
		o.Push = true
		made := c.make(t, c.remote("v1"), c.remote("v2"), o)
		if made.Artifact == "" || made.Skipped != "" {
			t.Fatalf("api %v: %+v", api, made)
		}
		for _, tag := range c.Tags("app") {
			if !slices.Contains(tags, tag) && !isReferrersTag(tag) {
				t.Errorf("api %v: a tag that people see: %s", api, tag)
			}
		}
		if again := c.make(t, c.remote("v1"), c.remote("v2"), o); again.Skipped == "" || again.Size != 0 {
			t.Errorf("api %v: made again: %+v", api, again)
		}
		mustPull(t, c.st, c.ref("v1"), Options{})
		list, err := ListDeltas(t.Context(), c.st, c.ref("v2"), o)
		if err != nil || len(list) != 1 || list[0].Size != made.Size || list[0].Whole != made.Whole ||
			!slices.Equal(list[0].BaseNames, []string{c.ref("v1")}) || list[0].Base != made.BaseID || list[0].Platform != "linux/amd64" {
			t.Fatalf("api %v: listed %+v, %v", api, list, err)
		}
		if !api { // a first contact only learns that
			findTags := &referrers{st: c.st}
			findTags.remember(t.Context(), strings.TrimPrefix(c.URL, "http://"), false)
		}
		c.Requests()
		mustPull(t, c.st, c.ref("v2"), Options{})
		asked := strings.Join(c.Requests(), "\n")
		if !strings.Contains(asked, "/blobs/"+made.Digest.String()) || strings.Contains(asked, digest.FromBytes(c.v2.blob).String()) {
			t.Errorf("api %v: the pull did not use the delta: %s", api, asked)
		}
		if _, err := RemoveDeltas(t.Context(), c.st, c.ref("v2"), []string{"0000"}, o); !errors.Is(err, ErrNoDelta) {
			t.Errorf("api %v: removed what is not there: %v", api, err)
		}
		removed, err := RemoveDeltas(t.Context(), c.st, c.ref("v2"), []string{made.BaseID.Encoded()[:12]}, o)
		if err != nil || !slices.Equal(removed, []digest.Digest{made.Artifact}) {
			t.Errorf("api %v: removed %v, %v", api, removed, err)
		}
		if !slices.Equal(c.Tags("app"), tags) {
			t.Errorf("api %v: tags are now %v", api, c.Tags("app"))
		}
		nothingLeft(t)
	}
}

// TestDeltaFetchOnce: what several deltas of a command need is fetched once.
func TestDeltaFetchOnce(t *testing.T) {
	c := newMakeCase(t, true)
	c.Requests()
	o := c.options(t)
	o.Force = true
	made, err := MakeDeltas(t.Context(), c.st, []string{c.remote("v1"), c.remote("v2"), c.remote("other")}, c.remote("same"), o)
	if err != nil || len(made) != 3 {
		t.Fatalf("made %v, %v", made, err)
	}
	got := map[string]int{}
	for _, q := range c.Requests() {
		if strings.HasPrefix(q, "GET ") && strings.Contains(q, "/blobs/") {
			got[q]++
		}
	}
	for q, n := range got {
		if n > 1 {
			t.Errorf("%d times %s", n, q)
		}
	}
	o.Force = false
	if alone := c.make(t, c.remote("v1"), c.remote("same"), o); alone.Digest != made[0].Digest {
		t.Errorf("made alone it is %s, among others %s", alone.Digest, made[0].Digest)
	}
	nothingLeft(t)
}

// TestDeltaForceReplaces: with another level there is one delta afterwards.
func TestDeltaForceReplaces(t *testing.T) {
	for _, api := range []bool{true, false} {
		c := newMakeCase(t, api)
		o := c.options(t)
		o.Push, o.Level = true, 1
		first := c.make(t, c.remote("v1"), c.remote("v2"), o)
		o.Level, o.Force = 5, true
		second := c.make(t, c.remote("v1"), c.remote("v2"), o)
		list, err := ListDeltas(t.Context(), c.st, c.ref("v2"), o)
		if err != nil || len(list) != 1 || list[0].Digest != second.Artifact || first.Artifact == second.Artifact {
			t.Errorf("api %v: %+v, %v", api, list, err)
		}
	}
}

// TestDeltaRecompressed: an image that was built here has other manifests here
// and in the registry; the delta is published beside that of the registry.
func TestDeltaRecompressed(t *testing.T) {
	c := newMakeCase(t, true)
	mustPull(t, c.st, c.ref("v2"), Options{NoDelta: true})
	host := strings.TrimPrefix(c.URL, "http://")
	if err := Tag(t.Context(), c.st, c.ref("v2"), host+"/mine:2"); err != nil {
		t.Fatal(err)
	}
	o := c.options(t)
	o.Push = true
	_, err := MakeDeltas(t.Context(), c.st, []string{c.remote("v1")}, host+"/mine:2", o)
	if !errors.Is(err, ErrNotInRepository) {
		t.Fatalf("not pushed yet: %v", err)
	}
	if _, err := Push(t.Context(), c.st, host+"/mine:2", "", PushOptions{RegistryOptions: o.RegistryOptions, Compression: "zstd"}); err != nil {
		t.Fatal(err)
	}
	made := c.make(t, c.remote("v1"), host+"/mine:2", o)
	list, err := ListDeltas(t.Context(), c.st, host+"/mine:2", o)
	if err != nil || len(list) != 1 || list[0].Digest != made.Artifact || list[0].Whole <= 0 {
		t.Errorf("listed %+v, %v", list, err)
	}
	other := c.options(t)
	other.Push, other.Repo = true, host+"/elsewhere"
	if _, err := MakeDeltas(t.Context(), c.st, []string{c.remote("v1")}, c.remote("v2"), other); !errors.Is(err, ErrNotInRepository) {
		t.Errorf("a repository without the target: %v", err)
	}
	other.Repo = host + "/app" // where its tag is another's, but the manifest is there
	if got := c.make(t, c.remote("v1"), c.ref("v2"), other); got.Repo != host+"/app" {
		t.Errorf("published in %q", got.Repo)
	}
}

func TestDeltaErrors(t *testing.T) {
	c := newMakeCase(t, true)
	mustPull(t, c.st, c.ref("v2"), Options{NoDelta: true})
	o := c.options(t)
	o.Push = true
	for name, x := range map[string]struct {
		base, target string
		want         error
	}{
		"the same":         {c.remote("v2"), c.remote("v2"), ErrSameImage},
		"the same by name": {c.ref("v2"), c.remote("v2"), ErrSameImage},
		"no such base":     {"no/such:1", c.remote("v2"), ErrNoImage},
		"no such target":   {c.remote("v1"), "no/such:1", ErrNoImage},
		"bad name":         {"docker://UPPER", c.remote("v2"), ErrBadReference},
		"platform":         {c.remote("arm"), c.remote("v2"), ErrPlatform},
	} {
		made, err := MakeDeltas(t.Context(), c.st, []string{x.base}, x.target, o)
		if !errors.Is(err, x.want) || len(made) != 0 {
			t.Errorf("%s: made %v, %v", name, made, err)
		}
	}
	if _, err := MakeDeltas(t.Context(), c.st, []string{c.remote("nope")}, c.remote("v2"), o); err == nil || !notFound(err) {
		t.Errorf("no such tag: %v", err)
	}
	// One base that fails does not keep the others from being made.
	made, err := MakeDeltas(t.Context(), c.st, []string{"no/such:1", c.remote("v1")}, c.remote("v2"), o)
	if !errors.Is(err, ErrNoImage) || len(made) != 1 || made[0].Artifact == "" {
		t.Errorf("made %v, %v", made, err)
	}
	c.Close()
	if _, err := MakeDeltas(t.Context(), c.st, []string{c.ref("v2")}, c.remote("v1"), o); err == nil {
		t.Error("a dead registry is no error")
	}
	nothingLeft(t)
}

// TestDeltaNoRights: a registry that lets nobody push is an error that says so,
// and is left as it was.
func TestDeltaNoRights(t *testing.T) {
	for _, status := range []int{http.StatusUnauthorized, http.StatusForbidden} {
		c := newMakeCase(t, false)
		c.on(func(w http.ResponseWriter, q *http.Request) bool {
			if q.Method == http.MethodGet || q.Method == http.MethodHead {
				return false
			}
			registryError(w, status, map[int]string{401: "UNAUTHORIZED", 403: "DENIED"}[status])
			return true
		})
		o := c.options(t)
		o.Push = true
		_, err := MakeDeltas(t.Context(), c.st, []string{c.remote("v1")}, c.remote("v2"), o)
		if !errors.Is(err, ErrUnauthorized) {
			t.Errorf("%d: %v", status, err)
		}
		if list, err := ListDeltas(t.Context(), c.st, c.ref("v2"), o); err != nil || len(list) != 0 {
			t.Errorf("%d: listed %v, %v", status, list, err)
		}
		nothingLeft(t)
	}
}

// TestDeltaNothingSaved: what would not save is said, and not published.
func TestDeltaNothingSaved(t *testing.T) {
	c := newMakeCase(t, true)
	o := c.options(t)
	o.Push = true
	if got := c.make(t, c.remote("v2"), c.remote("other"), o); got.Skipped == "" || got.Artifact != "" {
		t.Errorf("nothing in common: %+v", got)
	}
	if got := c.make(t, c.remote("same"), c.remote("v2"), o); got.Skipped == "" || got.Size != 0 {
		t.Errorf("no layer is missing: %+v", got)
	}
	o.Force = true
	if got := c.make(t, c.remote("v2"), c.remote("other"), o); got.Artifact == "" {
		t.Errorf("forced: %+v", got)
	}
}

// TestDeltaDamagedBase: no delta is made from a base in the store that is not
// what it was.
func TestDeltaDamagedBase(t *testing.T) {
	c := newMakeCase(t, true)
	img := mustPull(t, c.st, c.ref("v1"), Options{})
	found, err := c.layers.Image(img.ID)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(c.layers.GraphRoot(), "overlay", found.TopLayer, "diff", "app", "same")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b[100] ^= 1
	if err := os.WriteFile(file, b, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = MakeDeltas(t.Context(), c.st, []string{c.ref("v1")}, c.remote("v2"), c.options(t))
	if !errors.Is(err, ErrDamagedLayer) {
		t.Errorf("got %v", err)
	}
	nothingLeft(t)
}

// TestDeltaLyingRegistry: a base whose layer is not what its configuration says
// makes no delta.
func TestDeltaLyingRegistry(t *testing.T) {
	c := newMakeCase(t, true)
	c.seed(t, "app", func(b *testRegistry) {
		l := gz(baseLayer(t))
		l.tar = append(l.tar, 0)
		b.image("lies", "amd64", l)
	})
	for _, x := range [][2]string{{c.remote("lies"), c.remote("v2")}, {c.remote("v2"), c.remote("lies")}} {
		if _, err := MakeDeltas(t.Context(), c.st, []string{x[0]}, x[1], c.options(t)); err == nil {
			t.Errorf("%v made a delta", x)
		}
	}
	nothingLeft(t)
}

// TestDeltaPlatforms: an index gets a delta for each of its platforms.
func TestDeltaPlatforms(t *testing.T) {
	c := newMakeCase(t, true)
	c.seed(t, "multi", func(b *testRegistry) {
		for v, tag := range []string{"v1", "v2"} {
			amd := b.image("", "amd64", gz(appLayer(t, v+1)))
			arm := b.image("", "arm64", gz(append(appLayer(t, v+1), make([]byte, 512)...)))
			amd.Platform = &imgspecv1.Platform{OS: "linux", Architecture: "amd64"}
			arm.Platform = &imgspecv1.Platform{OS: "linux", Architecture: "arm64"}
			raw, _ := json.Marshal(imgspecv1.Index{MediaType: imgspecv1.MediaTypeImageIndex, Manifests: []imgspecv1.Descriptor{amd, arm}})
			b.putManifest(tag, raw, imgspecv1.MediaTypeImageIndex)
		}
	})
	host := "docker://" + strings.TrimPrefix(c.URL, "http://") + "/multi:"
	o := c.options(t)
	o.Push, o.AllPlatforms = true, true
	made, err := MakeDeltas(t.Context(), c.st, []string{host + "v1"}, host+"v2", o)
	if err != nil || len(made) != 2 || made[0].Platform != "linux/amd64" || made[1].Platform != "linux/arm64" || made[0].Digest == made[1].Digest {
		t.Fatalf("made %+v, %v", made, err)
	}
	list, err := ListDeltas(t.Context(), c.st, host+"v2", c.options(t))
	if err != nil || len(list) != 2 || list[0].Platform != "linux/amd64" || list[1].Platform != "linux/arm64" || list[0].Target == list[1].Target {
		t.Errorf("listed %+v, %v", list, err)
	}
	one := c.options(t)
	one.Platform = "arm64"
	if list, err = ListDeltas(t.Context(), c.st, host+"v2", one); err != nil || len(list) != 1 || list[0].Digest != made[1].Artifact {
		t.Errorf("of one platform: %+v, %v", list, err)
	}
	if _, err := MakeDeltas(t.Context(), c.st, []string{c.remote("v1")}, c.remote("v2"), o); err == nil {
		t.Error("all platforms of a single image")
	}
}

// TestDeltaArchiveMade: the archive is complete but for layers, the same each time,
// and pulls where the base is.
func TestDeltaArchiveMade(t *testing.T) {
	c := newMakeCase(t, true)
	dir := t.TempDir()
	var files [2]bytes.Buffer
	var made MadeDelta
	for i := range files {
		o := c.options(t)
		o.Archive = &files[i]
		made = c.make(t, c.remote("v1"), c.remote("v2"), o)
	}
	if !bytes.Equal(files[0].Bytes(), files[1].Bytes()) {
		t.Error("two archives of the same delta differ")
	}
	if bytes.Contains(files[0].Bytes(), c.v2.blob) || int64(files[0].Len()) > made.Size+20<<10 {
		t.Errorf("%d bytes for a delta of %d", files[0].Len(), made.Size)
	}
	file := filepath.Join(dir, "update.tar")
	if err := os.WriteFile(file, files[0].Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Pull(t.Context(), c.st, "oci-archive:"+file, Options{}); !errors.Is(err, ErrNoBase) {
		t.Errorf("without the base: %v", err)
	}
	mustPull(t, c.st, c.ref("v1"), Options{})
	img := mustPull(t, c.st, "oci-archive:"+file, Options{})
	if img.ID != made.TargetID.Encoded() {
		t.Errorf("pulled %s, want %s", img.ID, made.TargetID)
	}
}

// TestDeltaStored: as an image, a delta has the labels and the one file that
// balena-engine's have.
func TestDeltaStored(t *testing.T) {
	c := newMakeCase(t, true)
	o := c.options(t)
	o.Tag = "example.com/app:1-2"
	made := c.make(t, c.remote("v1"), c.remote("v2"), o)
	img, _, err := Find(c.layers, "example.com/app:1-2")
	if err != nil || img.ID != made.Image {
		t.Fatalf("%v, %v", img, err)
	}
	raw, err := c.layers.ImageBigData(img.ID, "sha256:"+img.ID)
	if err != nil {
		t.Fatal(err)
	}
	var config imgspecv1.Image
	if err := json.Unmarshal(raw, &config); err != nil {
		t.Fatal(err)
	}
	l := config.Config.Labels
	if l[labelBase] != made.BaseID.String() || digest.FromString(l[labelConfig]) != made.TargetID || !strings.Contains(l[labelManifest], made.TargetID.String()) {
		t.Errorf("labels %v", l)
	}
	layer, err := c.layers.Layer(img.TopLayer)
	if err != nil || layer.Parent != "" {
		t.Fatalf("layer %+v, %v", layer, err)
	}
	dir := filepath.Join(c.layers.GraphRoot(), "overlay", img.TopLayer, "diff")
	f, err := os.Open(filepath.Join(dir, "delta"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if d, err := digest.FromReader(f); err != nil || d != made.Digest {
		t.Errorf("it holds %s, %v", d, err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("beside it are %v", entries)
	}
	again := c.make(t, c.remote("v1"), c.remote("v2"), o)
	if again.Image != made.Image {
		t.Errorf("the second time it is %s", again.Image)
	}
	o.Tag = "example.com/app@" + made.Digest.String()
	if _, err := MakeDeltas(t.Context(), c.st, []string{c.remote("v1")}, c.remote("v2"), o); !errors.Is(err, ErrBadReference) {
		t.Errorf("named by a digest: %v", err)
	}
}

// TestReleasesBefore: the last images before the target, each once, and nothing
// that is none.
func TestReleasesBefore(t *testing.T) {
	c := newMakeCase(t, false)
	c.seed(t, "app", func(b *testRegistry) {
		for i, tag := range []string{"r1", "r2", "r10", "r11"} {
			dated(b, tag, testTime.Add(time.Duration(i)*time.Hour), tag, gz(baseLayer(t)))
		}
		dated(b, "r9", testTime.Add(2*time.Hour), "r9", gz(baseLayer(t)))     // as old as r10
		dated(b, "r2-fix", testTime.Add(1*time.Hour), "r2", gz(baseLayer(t))) // the same image as r2
		dated(b, "x3", testTime.Add(9*time.Hour), "x3", gz(baseLayer(t)))
		b.putManifest("r-artifact", []byte(`{"schemaVersion":2,"mediaType":"`+imgspecv1.MediaTypeImageManifest+`","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"`+b.add([]byte("{}")).String()+`","size":2},"layers":[]}`), imgspecv1.MediaTypeImageManifest)
	})
	all, err := ReleasesBefore(t.Context(), c.st, "r*", 9, c.remote("r11"), c.options(t))
	var tags []string
	for _, ref := range all {
		tags = append(tags, ref[strings.LastIndex(ref, ":")+1:])
	}
	if err != nil || !slices.Equal(tags, []string{"r10", "r9", "r2", "r1"}) && !slices.Equal(tags, []string{"r10", "r9", "r2-fix", "r1"}) {
		t.Fatalf("got %v, %v", tags, err)
	}
	if all[0] != c.remote("r10") {
		t.Errorf("got %s", all[0])
	}
	if two, err := ReleasesBefore(t.Context(), c.st, "r*", 2, c.remote("r11"), c.options(t)); err != nil || !slices.Equal(two, all[:2]) {
		t.Errorf("the last two: %v, %v", two, err)
	}
	if _, err := ReleasesBefore(t.Context(), c.st, "[", 2, c.remote("r11"), c.options(t)); err == nil {
		t.Error("a bad pattern is no error")
	}
}

func TestCompareVersions(t *testing.T) {
	ordered := []string{"1.0-rc1", "1.0", "1.2", "1.10", "1.10.1", "2", "v1", "v9", "v10"}
	for i, a := range ordered {
		for j, b := range ordered {
			if got, want := compareVersions(a, b), cmpInt(i, j); got != want {
				t.Errorf("%s and %s: %d, want %d", a, b, got, want)
			}
		}
	}
}

func cmpInt(a, b int) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// TestDeltaSpoolFull: a full disk is an error that says where.
func TestDeltaSpoolFull(t *testing.T) {
	c := newMakeCase(t, true)
	full := t.TempDir()
	if err := mountTmpfs(full, 64<<10); err != nil {
		t.Skip("cannot mount:", err)
	}
	defer unmount(full)
	t.Setenv("TMPDIR", full)
	o := c.options(t)
	o.Push = true
	mustPull(t, c.st, c.ref("v1"), Options{NoDelta: true})
	for _, base := range []string{c.remote("v1"), c.ref("v1")} { // the base's files, the delta
		_, err := MakeDeltas(t.Context(), c.st, []string{base}, c.remote("v2"), o)
		if !errors.Is(err, ErrNoSpace) || !strings.Contains(err.Error(), full) {
			t.Errorf("from %s: %v", base, err)
		}
	}
	nothingLeft(t)
}

// TestDeltaManifestSubject: the artifact is about the target's manifest and
// says where it starts from.
func TestDeltaManifestSubject(t *testing.T) {
	c := newMakeCase(t, true)
	o := c.options(t)
	o.Push, o.Created = true, testTime
	made := c.make(t, c.remote("v1"), c.remote("v2"), o)
	res, err := http.Get(c.URL + "/v2/app/manifests/" + made.Artifact.String())
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	raw, _ := io.ReadAll(res.Body)
	a, err := delta.ParseArtifact(raw)
	if err != nil {
		t.Fatal(err)
	}
	res, err = http.Head(c.URL + "/v2/app/manifests/v2")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if a.Subject.Digest.String() != res.Header.Get("Docker-Content-Digest") || a.Subject.Size != res.ContentLength {
		t.Errorf("subject %+v", a.Subject)
	}
	if a.Base != made.BaseID || a.Target != made.TargetID || a.BaseManifest == "" || a.Blob.Size != made.Size || !a.Created.Equal(testTime) {
		t.Errorf("artifact %+v", a)
	}
}

func mountTmpfs(dir string, size int) error {
	return unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size))
}

func unmount(dir string) { _ = unix.Unmount(dir, unix.MNT_DETACH) }
