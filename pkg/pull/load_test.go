package pull

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	imgspecv1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/balena-os/balena/pkg/store"
)

func mustLoad(t testing.TB, st *store.Store, file string, pipe bool) []Image {
	t.Helper()
	imgs, err := load(t, st, file, pipe)
	if err != nil {
		t.Fatal(err)
	}
	return imgs
}

func load(t testing.TB, st *store.Store, file string, pipe bool) ([]Image, error) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if !pipe {
		return Load(t.Context(), st, f, Options{})
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	go func() {
		io.Copy(w, f)
		w.Close()
	}()
	return Load(t.Context(), st, r, Options{})
}

// TestSaveLoad saves images in both formats and loads them from a file, from a
// pipe and compressed.
func TestSaveLoad(t *testing.T) {
	reg := newTestRegistry(t)
	lower, upper, top := gz(baseLayer(t)), gz(upperLayer(t)), zst(appLayer(t, 1))
	reg.image("v1", "amd64", lower, upper)
	reg.image("v2", "amd64", lower, upper, top, upper)
	from, _ := openTestStore(t, "overlay")
	one := mustPull(t, from, reg.host()+"/a:v1", Options{})
	two := mustPull(t, from, reg.host()+"/a:v2", Options{})
	for _, format := range []string{DockerArchive, OCIArchive} {
		var b, again bytes.Buffer
		for _, w := range []io.Writer{&b, &again} {
			if err := Save(t.Context(), from, w, format, one.Name, two.Name); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(b.Bytes(), again.Bytes()) {
			t.Error("not the same archive again")
		}
		file := archiveFile(t, "with:colon.tar", b.Bytes())
		zipped := archiveFile(t, "x.tar.gz", gz(b.Bytes()).blob)
		for _, how := range []string{"file", "pipe", "gzip", "vfs"} {
			t.Run(format+"/"+how, func(t *testing.T) {
				driver, f := "overlay", file
				if how == "vfs" {
					driver = "vfs"
				}
				if how == "gzip" {
					f = zipped
				}
				st, layers := openTestStore(t, driver)
				noTemp(t)
				for range 2 {
					got := mustLoad(t, st, f, how == "pipe")
					if len(got) != 2 || got[0].ID != one.ID || got[1].ID != two.ID || got[0].Name != one.Name || got[1].Name != two.Name {
						t.Fatalf("got %+v", got)
					}
				}
				for i, l := range imageLayers(t, layers, two.ID) {
					if want := [][]byte{lower.tar, upper.tar, top.tar, upper.tar}[i]; !bytes.Equal(layerTar(t, layers, l.ID), want) {
						t.Errorf("layer %d differs", i)
					}
				}
				noLeftovers(t, layers)
			})
		}
	}
}

func TestSaveByID(t *testing.T) {
	reg := newTestRegistry(t)
	reg.image("v1", "amd64", gz(baseLayer(t)))
	from, _ := openTestStore(t, "overlay")
	img := mustPull(t, from, reg.host()+"/a:v1", Options{})
	for _, format := range []string{DockerArchive, OCIArchive} {
		var b bytes.Buffer
		if err := Save(t.Context(), from, &b, format, img.ID); err != nil {
			t.Fatal(err)
		}
		for _, pipe := range []bool{false, true} {
			st, _ := openTestStore(t, "overlay")
			got := mustLoad(t, st, archiveFile(t, "App.tar", b.Bytes()), pipe)
			if len(got) != 1 || got[0].ID != img.ID || format == DockerArchive && got[0].Name != "" {
				t.Errorf("%s: %+v", format, got)
			}
		}
	}
	if err := Save(t.Context(), from, io.Discard, DockerArchive, "nonesuch"); !errors.Is(err, ErrNoImage) {
		t.Error(err)
	}
}

// TestLoadOthers reads what skopeo writes, and archives in docker's older form
// with links.
func TestLoadOthers(t *testing.T) {
	reg := newTestRegistry(t)
	base, upper := baseLayer(t), upperLayer(t)
	reg.image("v1", "amd64", gz(base), gz(upper))
	cfg := imgspecv1.Image{Platform: imgspecv1.Platform{OS: "linux", Architecture: "amd64"}}
	for _, b := range [][]byte{base, upper, base} {
		cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs, plain(b).digest())
	}
	raw, _ := json.Marshal(cfg)
	items, _ := json.Marshal([]dockerItem{{Config: "cfg.json", RepoTags: []string{"app:1", "app:one"}, Layers: []string{"1/layer.tar", "2/layer.tar", "3/layer.tar"}}})
	files := map[string]string{"old.tar": archiveFile(t, "old.tar", tarOf(t,
		entry{name: "1/", kind: tar.TypeDir}, entry{name: "1/VERSION", content: "1.0"}, entry{name: "1/json", content: "{}"},
		entry{name: "1/layer.tar", content: string(base)},
		entry{name: "2/layer.tar", content: string(upper)},
		entry{name: "3/layer.tar", link: "../1/layer.tar", kind: tar.TypeSymlink},
		entry{name: "cfg.json", content: string(raw)}, entry{name: "manifest.json", content: string(items)},
		entry{name: "repositories", content: "{}"}))}
	if _, err := exec.LookPath("skopeo"); err == nil {
		dir := t.TempDir()
		for name, format := range map[string]string{"skopeo-docker.tar": "docker-archive", "skopeo-oci.tar": "oci-archive"} {
			files[name] = filepath.Join(dir, name)
			out, err := exec.Command("skopeo", "copy", "--src-tls-verify=false", "docker://"+reg.host()+"/a:v1", format+":"+files[name]+":localhost/app:1").CombinedOutput()
			if err != nil {
				t.Fatalf("%v %s", err, out)
			}
		}
	}
	for name, file := range files {
		for _, pipe := range []bool{false, true} {
			st, layers := openTestStore(t, "overlay")
			got := mustLoad(t, st, file, pipe)
			if len(got) == 0 || !strings.Contains(got[0].Name, "/app:1") || name == "old.tar" && len(got) != 2 {
				t.Errorf("%s: %+v", name, got)
			}
			want := [][]byte{base, upper, base}
			for i, l := range imageLayers(t, layers, got[0].ID) {
				if !bytes.Equal(layerTar(t, layers, l.ID), want[i]) {
					t.Errorf("%s: layer %d differs", name, i)
				}
			}
		}
	}
}

func TestLoadDelta(t *testing.T) {
	for _, how := range []string{"file", "pipe", "vfs"} {
		t.Run(how, func(t *testing.T) {
			c := newDeltaCase(t)
			driver := "overlay"
			if how == "vfs" {
				driver = "vfs"
			}
			st, layers := openTestStore(t, driver)
			file := c.archive(t, "app:2")
			if how == "pipe" {
				file = c.orderly(t)
			}
			if _, err := load(t, st, file, how == "pipe"); !errors.Is(err, ErrNoBase) || !strings.Contains(err.Error(), c.artifact.Base.String()) {
				t.Errorf("without the base: %v", err)
			}
			noLeftovers(t, layers)
			mustPull(t, st, c.host()+"/a:v1", Options{})
			got := mustLoad(t, st, file, how == "pipe")
			if len(got) != 1 || got[0].Name != "docker.io/library/app:2" {
				t.Fatalf("%+v", got)
			}
			c.check(t, layers, got[0])
		})
	}
}

// orderly writes a delta archive with the delta behind all manifests.
func (c *deltaCase) orderly(t testing.TB) string {
	t.Helper()
	raw, err := os.ReadFile(c.archive(t, "app:2"))
	if err != nil {
		t.Fatal(err)
	}
	var first, last []entry
	for r := tar.NewReader(bytes.NewReader(raw)); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		e := entry{name: h.Name, content: string(b), kind: h.Typeflag}
		if bytes.Equal(b, c.blob) {
			last = append(last, e)
		} else {
			first = append(first, e)
		}
	}
	return archiveFile(t, "orderly.tar", tarOf(t, slices.Concat(first, last)...))
}

// TestLoadBad has what is no archive, or a broken one.
func TestLoadBad(t *testing.T) {
	st, layers := openTestStore(t, "overlay")
	reg := newTestRegistry(t)
	d := reg.image("", "amd64", gz(baseLayer(t)), gz(upperLayer(t)))
	good := tarOf(t, layout(reg, d)...)
	bad := newTestRegistry(t)
	badImage := bad.image("", "amd64", gz(baseLayer(t)))
	for k, b := range bad.blobs {
		if len(b) > 100_000 {
			b = bytes.Clone(b)
			b[len(b)/2] ^= 1
			bad.blobs[k] = b
		}
	}
	for name, c := range map[string]struct {
		content []byte
		text    string
	}{
		"empty":       {nil, ""},
		"text":        {[]byte("hello"), ""},
		"no images":   {tarOf(t, entry{name: "x", content: "y"}), "neither images nor deltas"},
		"cut short":   {good[:len(good)/2], ""},
		"other bytes": {tarOf(t, layout(bad, badImage)...), ""},
		"empty index": {tarOf(t, entry{name: "index.json", content: `{"manifests":[]}`}), "no image"},
		"no manifest": {tarOf(t, entry{name: "index.json", content: `{"manifests":[{"digest":"` + string(d.Digest) + `"}]}`}), "is not in it"},
		"no layer": {tarOf(t, entry{name: "manifest.json", content: `[{"Config":"c","Layers":["l"]}]`},
			entry{name: "c", content: `{"rootfs":{"diff_ids":["sha256:` + strings.Repeat("1", 64) + `"]}}`}), ""},
	} {
		for _, pipe := range []bool{false, true} {
			_, err := load(t, st, archiveFile(t, "x.tar", c.content), pipe)
			if err == nil || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%s, pipe %v: %v", name, pipe, err)
			}
			t.Log(name, pipe, err)
			noLeftovers(t, layers)
		}
	}
	vfs, _ := openTestStore(t, "vfs")
	if _, err := load(t, vfs, archiveFile(t, "x.tar", good), true); !errors.Is(err, errNoStaging) {
		t.Error(err)
	}
}
