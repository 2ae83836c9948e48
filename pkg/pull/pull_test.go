package pull

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imgspecv1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/storage"
	"go.podman.io/storage/pkg/archive"
	"go.podman.io/storage/pkg/reexec"

	"github.com/balena-os/balena/pkg/durable"
	"github.com/balena-os/balena/pkg/store"
)

var (
	testTime = time.Unix(1700000000, 0)
	zeroTime time.Time
)

func TestMain(m *testing.M) {
	if reexec.Init() { // containers/storage's vfs extracts in a child
		return
	}
	backoffFirst, backoffMax = time.Millisecond, 10*time.Millisecond
	os.Exit(m.Run())
}

// needRoot skips where layers cannot be extracted: files belong to others.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, or a user namespace")
	}
}

func openTestStore(t testing.TB, driver string) (*store.Store, storage.Store) {
	t.Helper()
	needRoot(t)
	base := t.TempDir()
	st, err := store.Open(store.Options{Root: filepath.Join(base, "root"), RunRoot: filepath.Join(base, "run"), Driver: driver})
	if err != nil {
		t.Fatal(err)
	}
	layers, err := st.Layers()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := layers.Shutdown(true); err != nil {
			t.Log(err)
		}
		st.Close()
	})
	return st, layers
}

func mustPull(t testing.TB, st *store.Store, ref string, o Options) Image {
	t.Helper()
	imgs, err := Pull(context.Background(), st, ref, o)
	if err != nil {
		t.Fatal(err)
	}
	if len(imgs) != 1 {
		t.Fatalf("%d images", len(imgs))
	}
	return imgs[0]
}

// randomBytes does not compress, so that positions in blob and tar correspond.
func randomBytes(n int, seed uint64) string {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed)})
	r.Read(b)
	return string(b)
}

func baseLayer(t testing.TB) []byte {
	return tarOf(t,
		entry{name: "./", kind: tar.TypeDir, mode: 0o750},
		entry{name: "etc/", kind: tar.TypeDir},
		entry{name: "etc/passwd", content: "root:x:0:0\n"},
		entry{name: "etc/hard", link: "etc/passwd", kind: tar.TypeLink},
		entry{name: "etc/soft", link: "passwd", kind: tar.TypeSymlink},
		entry{name: "bin/", kind: tar.TypeDir},
		entry{name: "bin/su", content: "#!", mode: 0o4755, uid: 0, gid: 12},
		entry{name: "bin/cap", content: "x", pax: map[string]string{"SCHILY.xattr.user.test": "v\x00alue"}},
		entry{name: "var/lib/x", content: randomBytes(700_000, 1), uid: 1000, gid: 1001},
		entry{name: "empty"},
		entry{name: "fifo", kind: tar.TypeFifo},
		entry{name: strings.Repeat("long/", 40) + "name", content: "y"},
		entry{name: "latin1-\xe9", content: "z"},
	)
}

func upperLayer(t testing.TB) []byte {
	return tarOf(t,
		entry{name: "etc/.wh.soft"},
		entry{name: "var/", kind: tar.TypeDir},
		entry{name: "var/.wh..wh..opq"},
		entry{name: "var/new", content: "new"},
	)
}

// layerTar reads a layer back out of the store.
func layerTar(t testing.TB, layers storage.Store, id string) []byte {
	t.Helper()
	plain := archive.Uncompressed
	rc, err := layers.Diff("", id, &storage.DiffOptions{Compression: &plain})
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	b, err := io.ReadAll(rc)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func imageLayers(t testing.TB, layers storage.Store, id string) []*storage.Layer {
	t.Helper()
	img, err := layers.Image(id)
	if err != nil {
		t.Fatal(err)
	}
	var chain []*storage.Layer
	for l := img.TopLayer; l != ""; {
		layer, err := layers.Layer(l)
		if err != nil {
			t.Fatal(err)
		}
		chain = append([]*storage.Layer{layer}, chain...)
		l = layer.Parent
	}
	return chain
}

func noLeftovers(t testing.TB, layers storage.Store) {
	t.Helper()
	if dirs, _ := os.ReadDir(filepath.Join(layers.GraphRoot(), "overlay", "staging")); len(dirs) > 0 {
		t.Errorf("%d staging directories left", len(dirs))
	}
	files, _ := os.ReadDir(filepath.Join(layers.GraphRoot(), "overlay-layers"))
	for _, f := range files {
		if id, ok := strings.CutSuffix(f.Name(), ".tar-split.gz"); ok {
			if !layers.Exists(id) {
				t.Errorf("%s left", f.Name())
			}
		}
	}
}

func TestPull(t *testing.T) {
	for _, driver := range []string{"overlay", "vfs"} {
		for name, pack := range map[string]func([]byte) testLayer{"gzip": gz, "zstd": zst, "plain": plain} {
			t.Run(driver+"/"+name, func(t *testing.T) {
				st, layers := openTestStore(t, driver)
				reg := newTestRegistry(t)
				tars := [][]byte{baseLayer(t), upperLayer(t)}
				m := reg.image("v1", "amd64", pack(tars[0]), pack(tars[1]))
				img := mustPull(t, st, reg.host()+"/a/b:v1", Options{})
				if img.Digest != m.Digest || img.Name != reg.host()+"/a/b:v1" {
					t.Errorf("got %+v, want digest %s", img, m.Digest)
				}
				chain := imageLayers(t, layers, img.ID)
				if len(chain) != 2 {
					t.Fatalf("%d layers", len(chain))
				}
				parent := ""
				for i, l := range chain {
					if want := durable.LayerID(parent, digest.FromBytes(tars[i])); l.ID != want {
						t.Errorf("layer %d is %s, want %s", i, l.ID, want)
					}
					parent = l.ID
					if got := layerTar(t, layers, l.ID); !bytes.Equal(got, tars[i]) {
						t.Errorf("layer %d does not come back byte for byte: %d bytes of %d", i, len(got), len(tars[i]))
					}
				}
				checkMounted(t, layers, img.ID)
				noLeftovers(t, layers)

				before := len(reg.requests)
				if again := mustPull(t, st, reg.host()+"/a/b:v1", Options{}); again != img {
					t.Errorf("second pull: %+v", again)
				}
				if len(reg.requests) != before {
					t.Error("second pull fetched layers")
				}
			})
		}
	}
}

// checkMounted looks at the image as a container would see it.
func checkMounted(t *testing.T, layers storage.Store, image string) {
	t.Helper()
	c, err := layers.CreateContainer("", nil, image, "", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer layers.DeleteContainer(c.ID)
	root, err := layers.Mount(c.ID, "")
	if err != nil {
		t.Fatal(err)
	}
	defer layers.Unmount(c.ID, true)
	stat := func(name string) *syscall.Stat_t {
		st, err := os.Lstat(filepath.Join(root, name))
		if err != nil {
			return nil
		}
		return st.Sys().(*syscall.Stat_t)
	}
	if st := stat("etc/hard"); st == nil || st.Nlink != 2 || st.Ino != stat("etc/passwd").Ino {
		t.Error("hard link is none")
	}
	if st := stat("bin/su"); st == nil || st.Mode&0o7777 != 0o4755 || st.Gid != 12 {
		t.Errorf("bin/su: %+v", st)
	}
	if stat("etc/soft") != nil {
		t.Error("etc/soft is there in spite of its whiteout")
	}
	if stat("var/lib") != nil || stat("var/new") == nil {
		t.Error("var is not opaque")
	}
	if st := stat("."); st.Mode&0o7777 != 0o750 {
		t.Errorf("root folder has mode %o", st.Mode&0o7777)
	}
	if st := stat("bin"); int64(st.Mtim.Sec) != testTime.Unix() {
		t.Error("bin has lost its time")
	}
	buf := make([]byte, 16)
	if n, err := syscall.Getxattr(filepath.Join(root, "bin/cap"), "user.test", buf); err != nil || string(buf[:n]) != "v\x00alue" {
		t.Errorf("xattr: %q %v", buf[:max(n, 0)], err)
	}
}

func TestPullIndex(t *testing.T) {
	st, layers := openTestStore(t, "overlay")
	reg := newTestRegistry(t)
	amd := reg.image("", "amd64", gz(baseLayer(t)))
	arm := reg.image("", "arm64", gz(upperLayer(t)))
	amd.Platform = &imgspecv1.Platform{OS: "linux", Architecture: "amd64"}
	arm.Platform = &imgspecv1.Platform{OS: "linux", Architecture: "arm64"}
	raw, _ := json.Marshal(imgspecv1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imgspecv1.MediaTypeImageIndex, Manifests: []imgspecv1.Descriptor{amd, arm}})
	index := reg.putManifest("multi", raw, imgspecv1.MediaTypeImageIndex)

	byDigest := reg.host() + "/a@" + index.Digest.String()
	img := mustPull(t, st, byDigest, Options{Platform: "linux/arm64"})
	if img.Digest != index.Digest {
		t.Errorf("digest %s, want the index's %s", img.Digest, index.Digest)
	}
	if found, _, err := Find(layers, byDigest); err != nil || found.ID != img.ID {
		t.Errorf("the image is not found by the index's digest: %v", err)
	}
	chain := imageLayers(t, layers, img.ID)
	if chain[0].UncompressedDigest != digest.FromBytes(upperLayer(t)) {
		t.Error("not the arm64 image")
	}
	if _, err := Pull(t.Context(), st, reg.host()+"/a:multi", Options{Platform: "linux/s390x"}); !errors.Is(err, ErrPlatform) {
		t.Errorf("want ErrPlatform, got %v", err)
	}
	reg.image("single", "arm64", gz(upperLayer(t)))
	if _, err := Pull(t.Context(), st, reg.host()+"/a:single", Options{Platform: "linux/amd64"}); !errors.Is(err, ErrPlatform) {
		t.Errorf("want ErrPlatform, got %v", err)
	}
}

func TestPullAllTags(t *testing.T) {
	st, _ := openTestStore(t, "overlay")
	reg := newTestRegistry(t)
	reg.image("one", "amd64", gz(baseLayer(t)))
	reg.image("two", "amd64", gz(baseLayer(t)), gz(upperLayer(t)))
	imgs, err := Pull(t.Context(), st, reg.host()+"/a", Options{AllTags: true})
	if err != nil || len(imgs) != 2 {
		t.Fatalf("%v %v", imgs, err)
	}
}

func TestPullResumes(t *testing.T) {
	st, layers := openTestStore(t, "overlay")
	reg := newTestRegistry(t)
	l := gz(baseLayer(t))
	reg.image("v1", "amd64", l)
	d := digest.FromBytes(l.blob)
	reg.fault[d] = breakAt(100_000, 5)
	start := time.Now()
	mustPull(t, st, reg.host()+"/a:v1", Options{})
	requests, served := reg.seen(d)
	if served != int64(len(l.blob)) || len(requests) != 6 {
		t.Errorf("%d bytes served for a blob of %d: %v", served, len(l.blob), requests)
	}
	noLeftovers(t, layers)
	t.Logf("%s", time.Since(start))
}

func TestPullFails(t *testing.T) {
	st, layers := openTestStore(t, "overlay")
	good := gz(baseLayer(t))
	blob := digest.FromBytes(good.blob)
	status := func(code int, name string) func(http.ResponseWriter, *http.Request, []byte) bool {
		return func(w http.ResponseWriter, _ *http.Request, _ []byte) bool {
			registryError(w, code, name)
			return true
		}
	}
	for name, c := range map[string]struct {
		fault    func(w http.ResponseWriter, q *http.Request, b []byte) bool
		layer    testLayer
		want     error
		text     string
		requests int // at most
	}{
		"wrong content": {fault: func(w http.ResponseWriter, _ *http.Request, b []byte) bool {
			b = bytes.Clone(b)
			b[len(b)/2] ^= 1
			w.Write(b)
			return true
		}, want: ErrDigest, requests: 2},
		"other layer": {fault: func(w http.ResponseWriter, _ *http.Request, b []byte) bool {
			w.Write(gz(upperLayer(t)).blob)
			return true
		}, want: errSource, requests: 2 * blobTries},
		"truncated": {fault: func(w http.ResponseWriter, q *http.Request, b []byte) bool {
			http.ServeContent(w, q, "", zeroTime, bytes.NewReader(b[:len(b)-1000]))
			return true
		}, text: "416", requests: 3},
		"too long": {fault: func(w http.ResponseWriter, q *http.Request, b []byte) bool {
			w.Write(append(bytes.Clone(b), 0))
			return true
		}, want: ErrDigest, requests: 2},
		"404":             {fault: status(404, "BLOB_UNKNOWN"), text: "as the test wants", requests: 1},
		"401":             {fault: status(401, "UNAUTHORIZED"), text: "as the test wants", requests: 1},
		"403":             {fault: status(403, "DENIED"), text: "as the test wants", requests: 1},
		"500":             {fault: status(500, "UNKNOWN"), text: "500", requests: blobTries},
		"never more":      {fault: breakAt(0, -1), want: errSource, requests: 2 * blobTries},
		"wrong diffID":    {layer: testLayer{upperLayer(t), good.blob, good.media}, want: ErrDigest, requests: 1},
		"not a tar":       {layer: gz(bytes.Repeat([]byte("no tar"), 1000)), text: "tar", requests: 1},
		"not compressed":  {layer: testLayer{nil, []byte("\x1f\x8b\x08garbage that is no gzip stream"), good.media}, text: "decompressing", requests: 1},
		"truncated inner": {layer: func() testLayer { l := gz(good.tar[:10_000]); return l }(), text: "unexpected EOF", requests: 1},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			reg := newTestRegistry(t)
			l := good
			if c.layer.blob != nil {
				l = c.layer
			}
			reg.image("v1", "amd64", gz(tarOf(t, entry{name: name, content: "lower"})), l)
			d := digest.FromBytes(l.blob)
			if c.fault != nil {
				reg.fault[blob] = c.fault
			}
			_, err := Pull(t.Context(), st, reg.host()+"/a:v1", Options{})
			if err == nil {
				t.Fatal("succeeded")
			}
			t.Log(err)
			if c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("want %v", c.want)
			}
			if !strings.Contains(err.Error(), c.text) {
				t.Errorf("want %q", c.text)
			}
			if requests, _ := reg.seen(d); len(requests) > c.requests {
				t.Errorf("%d requests, at most %d expected", len(requests), c.requests)
			}
			noLeftovers(t, layers)
			if imgs, _ := layers.Images(); len(imgs) != 0 {
				t.Error("an image is there")
			}
			if _, err := Sweep(t.Context(), st); err != nil {
				t.Error(err)
			}
			if ls, _ := layers.Layers(); len(ls) != 0 {
				t.Errorf("%d layers after a sweep", len(ls))
			}
		})
	}
}

func TestPullRefetchesOnce(t *testing.T) {
	st, layers := openTestStore(t, "overlay")
	reg := newTestRegistry(t)
	l := gz(baseLayer(t))
	reg.image("v1", "amd64", gz(upperLayer(t)), l)
	bad := 1
	reg.fault[digest.FromBytes(l.blob)] = func(w http.ResponseWriter, _ *http.Request, b []byte) bool {
		if bad == 0 {
			return false
		}
		bad--
		b = bytes.Clone(b)
		b[len(b)/2] ^= 1
		w.Write(b)
		return true
	}
	mustPull(t, st, reg.host()+"/a:v1", Options{})
	noLeftovers(t, layers)
}

func TestPullManifestErrors(t *testing.T) {
	st, _ := openTestStore(t, "overlay")
	reg := newTestRegistry(t)
	reg.putManifest("schema1", []byte(`{"schemaVersion":1,"name":"a","tag":"b","architecture":"amd64","fsLayers":[],"history":[]}`), "application/vnd.docker.distribution.manifest.v1+json")
	reg.putManifest("artifact", []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.cncf.helm.config.v1+json","digest":"`+digest.FromString("x").String()+`","size":1},"layers":[]}`), imgspecv1.MediaTypeImageManifest)
	secret := gz(baseLayer(t))
	secret.media += "+encrypted"
	reg.image("secret", "amd64", secret)
	for ref, want := range map[string]error{"schema1": ErrNotImage, "artifact": ErrNotImage, "secret": ErrEncrypted, "missing": nil} {
		_, err := Pull(t.Context(), st, reg.host()+"/a:"+ref, Options{})
		if err == nil || (want != nil && !errors.Is(err, want)) {
			t.Errorf("%s: %v", ref, err)
		}
		t.Log(err)
	}
	if _, err := Pull(t.Context(), st, "127.0.0.1:1/a:b", Options{}); err == nil {
		t.Error("a dead registry served an image")
	}
}

// TestPullSharedContent has the same layer twice in one image, and once more
// under another parent in a second image: it is fetched once.
func TestPullSharedContent(t *testing.T) {
	st, layers := openTestStore(t, "overlay")
	reg := newTestRegistry(t)
	a, b := gz(baseLayer(t)), gz(upperLayer(t))
	reg.image("v1", "amd64", a, b, a, b)
	reg.image("v2", "amd64", b, a)
	img := mustPull(t, st, reg.host()+"/a:v1", Options{})
	mustPull(t, st, reg.host()+"/a:v2", Options{})
	for _, l := range []testLayer{a, b} {
		if _, got := reg.seen(digest.FromBytes(l.blob)); got != int64(len(l.blob)) {
			t.Errorf("%d bytes served of a blob of %d", got, len(l.blob))
		}
	}
	for i, l := range imageLayers(t, layers, img.ID) {
		want := a.tar
		if i%2 == 1 {
			want = b.tar
		}
		if !bytes.Equal(layerTar(t, layers, l.ID), want) {
			t.Errorf("layer %d differs", i)
		}
	}
}

// Layers whose content the store has under another parent are made from it, by
// several pulls at once. That reads one layer while it stages another: were the
// first to hold the layers' lock meanwhile, pulls would wait for each other for
// ever.
func TestPullSharedContentSideBySide(t *testing.T) {
	st, _ := openTestStore(t, "overlay")
	reg := newTestRegistry(t)
	var parts []testLayer
	for i := range 6 {
		parts = append(parts, gz(tarFile(t, fmt.Sprintf("part%d", i), 1<<20)))
	}
	reg.image("base", "amd64", parts...)
	mustPull(t, st, reg.host()+"/a:base", Options{})
	var wg sync.WaitGroup
	for i := range 8 {
		tag := fmt.Sprintf("v%d", i)
		rotated := append(append([]testLayer{gz(tarFile(t, tag, 10))}, parts[i%6:]...), parts[:i%6]...)
		reg.image(tag, "amd64", rotated...)
		wg.Go(func() {
			if _, err := Pull(t.Context(), st, reg.host()+"/a:"+tag, Options{Parallel: 4}); err != nil {
				t.Errorf("%s: %v", tag, err)
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(2 * time.Minute):
		panic("the pulls wait for each other")
	}
}

// tarFile is a layer of one file of n bytes.
func tarFile(t testing.TB, name string, n int) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(n)}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, randomBytes(n, uint64(len(name))+uint64(n))); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestPullCancelled(t *testing.T) {
	st, layers := openTestStore(t, "overlay")
	reg := newTestRegistry(t)
	l := gz(baseLayer(t))
	reg.image("v1", "amd64", l)
	ctx, cancel := context.WithCancel(t.Context())
	reg.fault[digest.FromBytes(l.blob)] = func(w http.ResponseWriter, q *http.Request, b []byte) bool {
		w.Header().Set("Content-Length", fmt.Sprint(len(b)))
		w.Write(b[:len(b)/2])
		w.(countingWriter).ResponseWriter.(http.Flusher).Flush()
		time.Sleep(50 * time.Millisecond)
		cancel()
		<-q.Context().Done()
		return true
	}
	if _, err := Pull(ctx, st, reg.host()+"/a:v1", Options{}); !errors.Is(err, context.Canceled) {
		t.Fatalf("want context.Canceled, got %v", err)
	}
	noLeftovers(t, layers)
	if ls, _ := layers.Layers(); len(ls) != 0 {
		t.Errorf("%d layers", len(ls))
	}
	reg.mu.Lock()
	delete(reg.fault, digest.FromBytes(l.blob))
	reg.mu.Unlock()
	mustPull(t, st, reg.host()+"/a:v1", Options{})
}

// TestHostileLayers has tars that try to write outside the staging directory.
func TestHostileLayers(t *testing.T) {
	st, layers := openTestStore(t, "overlay")
	outside := t.TempDir()
	victim := filepath.Join(outside, "passwd")
	if err := os.WriteFile(victim, []byte("safe"), 0o600); err != nil {
		t.Fatal(err)
	}
	deep := strings.Repeat("../", 20)
	for name, entries := range map[string][]entry{
		"absolute link":    {{name: "x", kind: tar.TypeSymlink, link: outside}, {name: "x/passwd", content: "pwned"}},
		"relative link":    {{name: "x", kind: tar.TypeSymlink, link: deep + outside}, {name: "x/passwd", content: "pwned"}},
		"link to file":     {{name: "x", kind: tar.TypeSymlink, link: victim}, {name: "x", content: "pwned"}},
		"dotdot":           {{name: deep + victim, content: "pwned"}},
		"absolute name":    {{name: victim, content: "pwned"}},
		"hard link":        {{name: "x", kind: tar.TypeLink, link: victim}, {name: "x", content: "pwned"}},
		"hard link dotdot": {{name: "x", kind: tar.TypeLink, link: deep + victim}, {name: "y", content: "pwned"}},
		"hard via symlink": {{name: "d", kind: tar.TypeSymlink, link: outside}, {name: "x", kind: tar.TypeLink, link: "d/passwd"}, {name: "x2", content: "pwned"}},
		"whiteout":         {{name: "d", kind: tar.TypeSymlink, link: outside}, {name: "d/.wh.passwd"}},
		"opaque":           {{name: "d", kind: tar.TypeSymlink, link: outside}, {name: "d/.wh..wh..opq"}},
		"root is link":     {{name: ".", kind: tar.TypeSymlink, link: outside}, {name: "passwd", content: "pwned"}},
		"dir over link":    {{name: "d", kind: tar.TypeSymlink, link: outside}, {name: "d/", kind: tar.TypeDir, mode: 0o777}, {name: "d/passwd", content: "pwned"}},
		"chmod by link":    {{name: "d", kind: tar.TypeSymlink, link: victim}, {name: "d", kind: tar.TypeLink, link: "d", mode: 0o777}},
		"whiteout dotdot":  {{name: ".wh..."}, {name: ".wh..", content: ""}},
		"proc":             {{name: "p", kind: tar.TypeSymlink, link: "/proc/self/root"}, {name: "p" + victim, content: "pwned"}},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			reg := newTestRegistry(t)
			reg.image("v1", "amd64", gz(tarOf(t, entries...)))
			_, err := Pull(t.Context(), st, reg.host()+"/a:v1", Options{})
			t.Log(err)
			if got, _ := os.ReadFile(victim); string(got) != "safe" {
				t.Fatalf("the file outside now has %q", got)
			}
			fi, err := os.Stat(victim)
			if err != nil || fi.Mode().Perm() != 0o600 || fi.Sys().(*syscall.Stat_t).Nlink != 1 {
				t.Errorf("the file outside is now %v %v", fi, err)
			}
			if files, _ := os.ReadDir(outside); len(files) != 1 {
				t.Errorf("files appeared outside: %v", files)
			}
			noLeftovers(t, layers)
		})
	}
	if _, err := os.Stat("/usr"); err != nil {
		t.Error("this process has lost its root folder:", err)
	}
}

// TestPullSideBySide has overlapping images pulled at the same time.
func TestPullSideBySide(t *testing.T) {
	st, layers := openTestStore(t, "overlay")
	reg := newTestRegistry(t)
	var shared []testLayer
	for i := range 3 {
		shared = append(shared, gz(tarOf(t, entry{name: fmt.Sprint("shared", i), content: randomBytes(300_000, uint64(i))})))
	}
	errs := make(chan error)
	for i := range 8 {
		own := gz(tarOf(t, entry{name: fmt.Sprint("own", i), content: randomBytes(10_000, uint64(10+i))}))
		reg.image(fmt.Sprint("v", i), "amd64", append(append([]testLayer{}, shared[:1+i%3]...), own)...)
		go func() {
			_, err := Pull(context.Background(), st, fmt.Sprint(reg.host(), "/a:v", i), Options{})
			errs <- err
		}()
	}
	for range 8 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	for _, l := range shared {
		if _, got := reg.seen(digest.FromBytes(l.blob)); got != int64(len(l.blob)) {
			t.Errorf("%d bytes served of a shared blob of %d", got, len(l.blob))
		}
	}
	noLeftovers(t, layers)
	if imgs, _ := layers.Images(); len(imgs) != 8 {
		t.Errorf("%d images", len(imgs))
	}
}
