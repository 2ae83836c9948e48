package pull

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imgspecv1 "github.com/opencontainers/image-spec/specs-go/v1"
	ocilayout "go.podman.io/image/v5/oci/layout"
	"go.podman.io/storage"
)

// layout makes the entries of an oci-archive: everything that was put into the
// registry, and an index.json with the descriptors.
func layout(reg *testRegistry, index ...imgspecv1.Descriptor) []entry {
	raw, _ := json.Marshal(imgspecv1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: index})
	entries := []entry{{name: "blobs/", kind: tar.TypeDir}, {name: "blobs/sha256/", kind: tar.TypeDir}}
	all := maps.Clone(reg.blobs)
	for _, m := range reg.manifests {
		all[digest.FromBytes(m)] = m
	}
	for d, b := range all {
		entries = append(entries, entry{name: "blobs/sha256/" + d.Encoded(), content: string(b)})
	}
	return append(entries, entry{name: "index.json", content: string(raw)}, entry{name: "oci-layout", content: `{"imageLayoutVersion":"1.0.0"}`})
}

func named(d imgspecv1.Descriptor, name string) imgspecv1.Descriptor {
	d.Annotations = map[string]string{imgspecv1.AnnotationRefName: name}
	return d
}

func multiArch(reg *testRegistry, descs ...imgspecv1.Descriptor) imgspecv1.Descriptor {
	raw, _ := json.Marshal(imgspecv1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imgspecv1.MediaTypeImageIndex, Manifests: descs})
	return reg.putManifest("", raw, imgspecv1.MediaTypeImageIndex)
}

func forArch(d imgspecv1.Descriptor, arch string) imgspecv1.Descriptor {
	d.Platform = &imgspecv1.Platform{OS: "linux", Architecture: arch}
	return d
}

func archiveFile(t testing.TB, name string, content []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// noTemp makes every temporary file an error.
func noTemp(t *testing.T) { t.Setenv("TMPDIR", "/nonexistent") }

func topDiffID(t testing.TB, layers storage.Store, img Image) digest.Digest {
	chain := imageLayers(t, layers, img.ID)
	return chain[len(chain)-1].UncompressedDigest
}

func TestPullOCIArchive(t *testing.T) {
	base, upper := baseLayer(t), upperLayer(t)
	reg := newTestRegistry(t)
	one := reg.image("", "amd64", gz(base), zst(upper))
	two := reg.image("", "amd64", plain(upper))
	amd, arm := forArch(one, "amd64"), forArch(reg.image("", "arm64", gz(upper)), "arm64")
	multi := multiArch(reg, amd, arm)
	file := archiveFile(t, "several.tar", tarOf(t, layout(reg, named(one, "app:1"), named(two, "two"), multi)...))
	single := archiveFile(t, "App.tar", tarOf(t, layout(reg, one)...))
	for _, c := range []struct {
		ref, platform, name string
		digest              digest.Digest
		top                 []byte
	}{
		{ref: file + ":app:1", digest: one.Digest, top: upper, name: "docker.io/library/app:1"},
		{ref: file + ":two", digest: two.Digest, top: upper, name: "localhost/several:two"},
		{ref: file + ":@0", digest: one.Digest, top: upper, name: "localhost/several:latest"},
		{ref: file + ":@2", digest: multi.Digest, top: upper, platform: "linux/amd64"},
		{ref: file + ":@2", digest: multi.Digest, top: upper, platform: "linux/arm64"},
		{ref: single, digest: one.Digest, top: upper, name: "localhost/app:latest"},
	} {
		t.Run(path.Base(c.ref)+c.platform, func(t *testing.T) {
			st, layers := openTestStore(t, "overlay")
			noTemp(t)
			img := mustPull(t, st, "oci-archive:"+c.ref, Options{Platform: c.platform})
			if img.Digest != c.digest {
				t.Errorf("digest %s, want %s", img.Digest, c.digest)
			}
			if c.name != "" && img.Name != c.name {
				t.Errorf("name %s, want %s", img.Name, c.name)
			}
			if got := topDiffID(t, layers, img); got != digest.FromBytes(c.top) {
				t.Errorf("top layer is %s", got)
			}
			if c.platform == "linux/arm64" && len(imageLayers(t, layers, img.ID)) != 1 {
				t.Error("not the arm64 image")
			}
			noLeftovers(t, layers)
		})
	}
	st, _ := openTestStore(t, "overlay")
	noTemp(t)
	for _, c := range []struct {
		ref, platform, text string
		want                error
	}{
		{ref: file, want: ocilayout.ErrMoreThanOneImage, text: `"app:1", "two", @2`},
		{ref: file + ":three", text: `no descriptor found for reference "three", there is "app:1"`},
		{ref: file + ":@3", text: "index 3 is too large, only 3 entries available"},
		{ref: file + ":@-1", want: ErrBadReference},
		{ref: file + ":@x", want: ErrBadReference},
		{ref: file + ":@2", platform: "linux/s390x", want: ErrPlatform},
		{ref: file + ":two", platform: "linux/arm64", want: ErrPlatform},
		{ref: file + ".gone", want: os.ErrNotExist},
		{ref: filepath.Dir(file), want: errArchive},
	} {
		if _, err := Pull(t.Context(), st, "oci-archive:"+c.ref, Options{Platform: c.platform}); err == nil || !strings.Contains(err.Error(), c.text) || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.ref, err)
		}
	}
}

// What is wrong with an archive is said at once, and nothing of it stays.
func TestPullBadArchive(t *testing.T) {
	reg := newTestRegistry(t)
	l := gz(baseLayer(t))
	d := reg.image("", "amd64", gz(upperLayer(t)), l)
	good := layout(reg, d)
	blob := func(d digest.Digest) string { return "blobs/sha256/" + d.Encoded() }
	layer := blob(digest.FromBytes(l.blob))
	change := func(name string, f func(e entry) []entry) []byte {
		var out []entry
		for _, e := range good {
			if e.name == name {
				out = append(out, f(e)...)
			} else {
				out = append(out, e)
			}
		}
		return tarOf(t, out...)
	}
	content := func(f func(string) string) func(entry) []entry {
		return func(e entry) []entry { e.content = f(e.content); return []entry{e} }
	}
	drop := func(entry) []entry { return nil }
	flip := content(func(s string) string { return s[:len(s)/2] + string(s[len(s)/2]^1) + s[len(s)/2+1:] })
	short := content(func(s string) string { return s[:len(s)-1] })
	rename := func(format string) func(entry) []entry {
		return func(e entry) []entry { e.name = fmt.Sprintf(format, e.name); return []entry{e} }
	}
	whole := tarOf(t, good...)
	many := func() []byte {
		head := tarOf(t, entry{name: "x"})[:512]
		return append(bytes.Repeat(head, maxArchiveEntries+1), whole...)
	}
	for name, c := range map[string]struct {
		tar  []byte
		want error
		text string
	}{
		"no layer":          {change(layer, drop), errArchive, "is not in it"},
		"no manifest":       {change(blob(d.Digest), drop), errArchive, "is not in it"},
		"no index":          {change("index.json", drop), errArchive, "no index.json"},
		"corrupt layer":     {change(layer, flip), ErrDigest, ""},
		"corrupt manifest":  {change(blob(d.Digest), flip), ErrDigest, ""},
		"short layer":       {change(layer, short), ErrDigest, ""},
		"corrupt index":     {change("index.json", content(func(string) string { return "{" })), nil, "index.json"},
		"empty index":       {change("index.json", content(func(string) string { return "{}" })), ErrNotImage, "no image"},
		"huge index":        {change("index.json", content(func(s string) string { return s + strings.Repeat(" ", maxManifest) })), errArchive, "more than"},
		"two indexes":       {change("index.json", func(e entry) []entry { return []entry{e, e} }), errArchive, "more than one"},
		"absolute":          {change("index.json", rename("/%s")), errArchive, "no index.json"},
		"parent":            {change("index.json", rename("x/../%s")), errArchive, "no index.json"},
		"above":             {change(layer, rename("../x/%s")), errArchive, "is not in it"},
		"link":              {change(layer, func(e entry) []entry { return []entry{{name: e.name, link: "/etc/passwd", kind: tar.TypeSymlink}} }), errArchive, "is not in it"},
		"hostile digest":    {change("index.json", content(func(s string) string { return strings.ReplaceAll(s, d.Digest.String(), "sha256:../../etc/passwd") })), errArchive, "digest"},
		"cut short":         {whole[:len(whole)/2], errArchive, "cut short"},
		"empty":             {nil, errArchive, "no index.json"},
		"no tar":            {bytes.Repeat([]byte("no tar"), 1000), errArchive, ""},
		"too many":          {many(), errArchive, "entries"},
		"gzip":              {gz(whole).blob, ErrCompressedArchive, "gzip"},
		"zstd":              {zst(whole).blob, ErrCompressedArchive, "zstd"},
		"of docker":         {tarOf(t, entry{name: "manifest.json", content: "[]"}), errArchive, "docker-archive"},
		"sparse":            {sparse(t), errArchive, "sparse"},
		"a digest in vain":  {change(layer, rename("blobs/sha999/%s")), errArchive, "is not in it"},
		"upper case digest": {change(layer, func(e entry) []entry { e.name = strings.ToUpper(e.name); return []entry{e} }), errArchive, "is not in it"},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			st, layers := openTestStore(t, "overlay")
			file := archiveFile(t, "x.tar", c.tar)
			noTemp(t)
			start := time.Now()
			_, err := Pull(t.Context(), st, "oci-archive:"+file, Options{})
			if err == nil {
				t.Fatal("succeeded")
			}
			t.Log(err)
			if c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("want %v, %q", c.want, c.text)
			}
			if since := time.Since(start); since > 5*time.Second {
				t.Errorf("took %s", since)
			}
			noLeftovers(t, layers)
			if imgs, _ := layers.Images(); len(imgs) != 0 {
				t.Error("an image is there")
			}
		})
	}
	t.Run("names", func(t *testing.T) { // as "tar -cf x.tar ." writes them, with a blob twice
		st, _ := openTestStore(t, "overlay")
		var entries []entry
		for _, e := range good {
			if e.name == layer {
				bad := flip(e)[0]
				bad.name = "./" + bad.name
				entries = append(entries, bad)
			}
			e.name = "./" + e.name
			entries = append(entries, e)
		}
		mustPull(t, st, "oci-archive:"+archiveFile(t, "x.tar", tarOf(t, entries...)), Options{})
	})
}

// sparse is an archive whose index.json has a sparse map, which archive/tar
// reads but does not write.
func sparse(t testing.TB) []byte {
	b := tarOf(t, entry{name: "index.json", content: "0\n" + strings.Repeat("\x00", 510), pax: map[string]string{"XXX.sparse.major": "1", "XXX.sparse.minor": "0", "XXX.sparse.realsize": "0", "XXX.sparse.name": "index.json"}})
	return bytes.ReplaceAll(b, []byte("XXX.sparse"), []byte("GNU.sparse"))
}

// Archives as skopeo writes them.
func TestPullArchivesOfSkopeo(t *testing.T) {
	skopeo, err := exec.LookPath("skopeo")
	if err != nil {
		t.Skip("no skopeo")
	}
	reg := newTestRegistry(t)
	base, upper := baseLayer(t), upperLayer(t)
	amd, arm := forArch(reg.image("", "amd64", gz(base), gz(upper)), "amd64"), forArch(reg.image("", "arm64", gz(upper)), "arm64")
	multi := multiArch(reg, amd, arm)
	dir := t.TempDir()
	made := archiveFile(t, "made.tar", tarOf(t, layout(reg, multi)...))
	for _, args := range [][]string{
		{"--all", "oci-archive:" + made, "oci-archive:" + dir + "/multi.tar:all"},
		{"--override-arch", "amd64", "oci-archive:" + made, "oci-archive:" + dir + "/one.tar"},
		{"--override-arch", "amd64", "oci-archive:" + made, "docker-archive:" + dir + "/docker.tar:example.org/x:1"},
	} {
		if out, err := exec.Command(skopeo, append([]string{"--insecure-policy", "copy", "-q"}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	for ref, platform := range map[string]string{
		"oci-archive:" + dir + "/multi.tar:all":                 "linux/arm64",
		"oci-archive:" + dir + "/multi.tar":                     "linux/amd64",
		"oci-archive:" + dir + "/one.tar":                       "",
		"docker-archive:" + dir + "/docker.tar":                 "",
		"docker-archive:" + dir + "/docker.tar:example.org/x:1": "",
	} {
		st, layers := openTestStore(t, "overlay")
		t.Run(path.Base(ref), func(t *testing.T) {
			noTemp(t)
			img := mustPull(t, st, ref, Options{Platform: platform})
			want := 2
			if platform == "linux/arm64" {
				want = 1
			}
			if chain := imageLayers(t, layers, img.ID); len(chain) != want || chain[want-1].UncompressedDigest != digest.FromBytes(upper) {
				t.Errorf("%d layers", len(chain))
			}
		})
	}
	st, _ := openTestStore(t, "overlay")
	raw, err := os.ReadFile(dir + "/docker.tar")
	if err != nil {
		t.Fatal(err)
	}
	file := archiveFile(t, "docker.tar.gz", gz(raw).blob)
	noTemp(t)
	for _, ref := range []string{file, file + ":example.org/x:1"} {
		if _, err := Pull(t.Context(), st, "docker-archive:"+ref, Options{}); !errors.Is(err, ErrCompressedArchive) {
			t.Errorf("%s: %v", ref, err)
		}
	}
}

// FuzzTarIndex compares what the index says with what archive/tar reads.
func FuzzTarIndex(f *testing.F) {
	reg := newTestRegistry(f)
	d := reg.image("", "amd64", gz(tarOf(f, entry{name: "x", content: "y"})))
	whole := tarOf(f, layout(reg, d)...)
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add(sparse(f))
	f.Add(tarOf(f, entry{name: "./" + strings.Repeat("a", 200), content: "x"}, entry{name: "index.json"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := indexTar(context.Background(), bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		want := map[digest.Digest][]byte{}
		for r := tar.NewReader(bytes.NewReader(b)); ; {
			h, err := r.Next()
			if err != nil {
				break
			}
			d, ok := blobDigest(path.Clean(h.Name))
			if !ok || h.Typeflag != tar.TypeReg || strings.Contains("/"+h.Name+"/", "/../") {
				continue
			}
			if want[d], err = io.ReadAll(r); err != nil {
				t.Fatal(err)
			}
		}
		if len(want) != len(x.blobs) {
			t.Errorf("%d blobs, want %d", len(x.blobs), len(want))
		}
		for d, at := range x.blobs {
			if got := b[at.offset : at.offset+at.size]; !bytes.Equal(got, want[d]) {
				t.Errorf("%s: %q, want %q", d, got, want[d])
			}
		}
		if at := x.index; at.offset < 0 || at.size < 0 || at.offset+at.size > int64(len(b)) {
			t.Errorf("index at %v", at)
		}
	})
}
