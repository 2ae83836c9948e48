package pull

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	imgspecv1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/image/v5/types"
)

// Manifests and configurations that no one should have: each is refused with
// an error that says why, in little memory, with the store as before.
func TestHostileManifests(t *testing.T) {
	st, layers := openTestStore(t, "overlay")
	good := gz(tarOf(t, entry{name: "a", content: "x"}))
	const index, image = imgspecv1.MediaTypeImageIndex, imgspecv1.MediaTypeImageManifest
	config := func(reg *testRegistry, raw string) string {
		d := reg.add([]byte(raw))
		return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, imgspecv1.MediaTypeImageConfig, d, len(raw))
	}
	goodConfig := func(n int) string {
		ids := strings.TrimSuffix(strings.Repeat(fmt.Sprintf("%q,", digest.FromBytes(good.tar)), n), ",")
		return fmt.Sprintf(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[%s]}}`, ids)
	}
	layer := func(reg *testRegistry, change string) string {
		d := fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, good.media, reg.add(good.blob), len(good.blob))
		if from, to, ok := strings.Cut(change, "=>"); ok {
			d = strings.Replace(d, from, to, 1)
		}
		return d
	}
	man := func(config, layers string) string {
		return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[%s]}`, image, config, layers)
	}
	size := fmt.Sprintf(`"size":%d`, len(good.blob))
	for _, tc := range []struct {
		name  string
		mime  string
		make  func(reg *testRegistry) string
		fails string
	}{
		{"100 MB of JSON", image, func(*testRegistry) string { return `{"a":"` + strings.Repeat("x", 100<<20) + `"}` }, "maximum allowed size"},
		{"a configuration of 100 MB", image, func(r *testRegistry) string {
			return man(config(r, `{"a":"`+strings.Repeat("x", 100<<20)+`"}`), layer(r, ""))
		}, "more than"},
		{"deep JSON", image, func(*testRegistry) string { return strings.Repeat("[", 1<<20) }, ""},
		{"a deep configuration", image, func(r *testRegistry) string { return man(config(r, `{"a":`+strings.Repeat("[", 3<<20)), layer(r, "")) }, "configuration"},
		{"no JSON", image, func(*testRegistry) string { return "\x00\x01" }, ""},
		{"null", image, func(*testRegistry) string { return "null" }, ""},
		{"a configuration that is a list", image, func(r *testRegistry) string { return man(config(r, `[1]`), "") }, "configuration"},
		{"a negative size", image, func(r *testRegistry) string { return man(config(r, goodConfig(1)), layer(r, size+`=>"size":-5`)) }, "size of -5"},
		{"a size of -1", image, func(r *testRegistry) string { return man(config(r, goodConfig(1)), layer(r, size+`=>"size":-1`)) }, "size of -1"},
		{"a size that is too small", image, func(r *testRegistry) string { return man(config(r, goodConfig(1)), layer(r, size+`=>"size":5`)) }, "longer than"},
		{"a size that is too large", image, func(r *testRegistry) string { return man(config(r, goodConfig(1)), layer(r, size+`=>"size":5000`)) }, "broke off"},
		{"a size beyond all disks", image, func(r *testRegistry) string {
			return man(config(r, goodConfig(1)), layer(r, size+`=>"size":9223372036854775807`))
		}, "size of 9223372036854775807"},
		{"a size beyond this disk", image, func(r *testRegistry) string {
			return man(config(r, goodConfig(1)), layer(r, size+`=>"size":1125899906842624`))
		}, "not enough free space"},
		{"sizes whose sum is negative", image, func(r *testRegistry) string {
			l := layer(r, size+`=>"size":9223372036854775807`)
			return man(config(r, goodConfig(2)), l+","+l)
		}, "size of"},
		{"20,000 layers", image, func(r *testRegistry) string {
			return man(config(r, goodConfig(20000)), strings.TrimSuffix(strings.Repeat(layer(r, "")+",", 20000), ","))
		}, "20000 layers"},
		{"more layers than contents", image, func(r *testRegistry) string { return man(config(r, goodConfig(1)), layer(r, "")+","+layer(r, "")) }, "2 layers in the manifest, 1"},
		{"a digest that is a path", image, func(r *testRegistry) string { return man(config(r, goodConfig(1)), layer(r, `"sha256:=>"../../etc/`)) }, "digest"},
		{"a content that is a path", image, func(r *testRegistry) string {
			return man(config(r, strings.Replace(goodConfig(1), "sha256:", "sha256:../../", 1)), layer(r, ""))
		}, "diffID"},
		{"a digest of an unknown kind", image, func(r *testRegistry) string { return man(config(r, goodConfig(1)), layer(r, `"sha256:=>"md5:`)) }, "digest"},
		{"an index that is called an image", image, func(r *testRegistry) string {
			return `{"schemaVersion":2,"manifests":[]}`
		}, ""},
		{"an image that is called an index", index, func(r *testRegistry) string { return man(config(r, goodConfig(1)), layer(r, "")) }, ""},
		{"an index in an index", index, func(r *testRegistry) string {
			inner := `{"schemaVersion":2,"mediaType":"` + index + `","manifests":[]}`
			d := r.putManifest("inner", []byte(inner), index)
			return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":%q,"size":%d,"platform":{"architecture":%q,"os":"linux"}}]}`, index, index, d.Digest, len(inner), runtime.GOARCH)
		}, ""},
		{"an index that names another's digest", index, func(r *testRegistry) string {
			lie := digest.FromString("lie")
			r.manifests[string(lie)], r.mimes[string(lie)] = []byte(man(config(r, goodConfig(1)), layer(r, ""))), image
			return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":%q,"size":5,"platform":{"architecture":%q,"os":"linux"}}]}`, index, image, lie, runtime.GOARCH)
		}, "digest"},
		{"an index of 30,000 platforms", index, func(r *testRegistry) string {
			one := fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":5,"platform":{"architecture":"pdp11","os":"linux"}},`, image, digest.FromString("x"))
			return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, index, strings.TrimSuffix(strings.Repeat(one, 20000), ","))
		}, "platform"},
		{"a layer from this machine's files", image, func(r *testRegistry) string {
			return man(config(r, goodConfig(1)), layer(r, `"digest":=>"urls":["file:///etc/passwd","http://169.254.169.254/latest/meta-data"],"digest":`))
		}, "-"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			reg := newTestRegistry(t)
			reg.putManifest("v1", []byte(tc.make(reg)), tc.mime)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			_, err := Pull(ctx, st, reg.host()+"/a:v1", Options{})
			runtime.ReadMemStats(&after)
			if ctx.Err() != nil {
				t.Fatalf("it took too long: %v", err)
			}
			if got := int64(after.HeapSys) - int64(before.HeapSys); got > 200<<20 {
				t.Errorf("it took %d MB of memory", got>>20)
			}
			switch {
			case tc.fails == "-" && err != nil, tc.fails != "-" && (err == nil || !strings.Contains(err.Error(), tc.fails)):
				t.Errorf("got %v, want %q", err, tc.fails)
			case err != nil && len(err.Error()) > 2000:
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			t.Log(err)
			noLeftovers(t, layers)
			if imgs, _ := layers.Images(); len(imgs) != 0 && tc.fails != "-" {
				t.Error("an image is there")
			}
		})
	}
}

// A registry that answers in ways that none should.
func TestHostileRegistry(t *testing.T) {
	st, layers := openTestStore(t, "overlay")
	old := manifestPatience
	manifestPatience = time.Second
	t.Cleanup(func() { manifestPatience = old })
	good := gz(tarOf(t, entry{name: "a", content: "x"}))
	var elsewhere atomic.Value // what the other server was asked with
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		elsewhere.Store(q.Header.Get("Authorization") + q.Header.Get("Cookie"))
		w.Write(good.blob)
	}))
	defer other.Close()
	// by another name, as another host would be
	otherURL := strings.Replace(other.URL, "127.0.0.1", "localhost", 1)
	redirect := func(to string) http.HandlerFunc {
		return func(w http.ResponseWriter, q *http.Request) { w.Header().Set("Location", to); w.WriteHeader(307) }
	}
	never := func(w http.ResponseWriter, q *http.Request) {
		select {
		case <-q.Context().Done():
		case <-time.After(20 * time.Second):
		}
	}
	endless := func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Content-Type", imgspecv1.MediaTypeImageManifest)
		for n := 0; n < 1000; n++ { // a gigabyte
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
	}
	drip := func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Content-Type", imgspecv1.MediaTypeImageManifest)
		for q.Context().Err() == nil {
			io.WriteString(w, " ")
			w.(http.Flusher).Flush()
			time.Sleep(50 * time.Millisecond)
		}
	}
	for _, tc := range []struct {
		name, match string
		answer      http.HandlerFunc
		fails       string // "-" is success
	}{
		{"a manifest in this machine's files", "/manifests/", redirect("file:///etc/passwd"), "file"},
		{"a blob in this machine's files", "/blobs/", redirect("file:///etc/passwd"), "file"},
		{"a redirect to itself", "/manifests/", redirect("/v2/a/manifests/v1"), "redirects"},
		{"a redirect of blobs to itself", "/blobs/", redirect("/v2/a/blobs/x"), "redirects"},
		{"a redirect to nowhere", "/blobs/", redirect("http://127.0.0.1:1/"), "refused"},
		{"a redirect to no address", "/blobs/", redirect("gopher://x\x7f/"), ""},
		{"a layer at another host", "/blobs/" + digest.FromBytes(good.blob).String(), redirect(otherURL + "/x"), "-"},
		{"no answer", "/manifests/", never, "no answer within 1s"},
		{"no answer to any question", "/v2/", never, "no answer within 1s"},
		{"a byte at a time", "/manifests/", drip, "no answer within 1s"},
		{"a manifest without an end", "/manifests/", endless, "maximum allowed size"},
		{"a configuration without an end", "/blobs/", endless, ""},
		{"errors without an end", "/manifests/", func(w http.ResponseWriter, q *http.Request) { w.WriteHeader(500); endless(w, q) }, ""},
		{"refusals without an end", "/manifests/", func(w http.ResponseWriter, q *http.Request) { w.WriteHeader(404); endless(w, q) }, ""},
		{"headers without an end", "/manifests/", func(w http.ResponseWriter, q *http.Request) {
			for i := range 20000 {
				w.Header().Set(fmt.Sprint("X-", i), strings.Repeat("x", 1000))
			}
		}, ""}, // too long, or too slow
		{"escape sequences in an error", "/manifests/", func(w http.ResponseWriter, q *http.Request) {
			w.WriteHeader(404)
			json.NewEncoder(w).Encode(map[string]any{"errors": []any{map[string]any{"code": "MANIFEST_UNKNOWN", "message": "\x1b[2J\x1b]0;owned\x07"}}})
		}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			reg := newTestRegistry(t)
			reg.image("v1", "amd64", good)
			front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				if user, password, _ := q.BasicAuth(); user != "user" || password != "secret" {
					w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
					w.WriteHeader(401)
					return
				}
				switch {
				case !strings.Contains(q.URL.Path, tc.match):
					reg.ServeHTTP(w, q)
				case strings.Contains(q.URL.Path, "/v2/"):
					tc.answer(w, q)
				default:
					http.NotFound(w, q)
				}
			}))
			defer front.CloseClientConnections()
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			o := Options{RegistryOptions: RegistryOptions{Creds: "user:secret"}}
			_, err := Pull(ctx, st, strings.TrimPrefix(front.URL, "http://")+"/a:v1", o)
			if ctx.Err() != nil {
				t.Fatalf("it took too long: %v", err)
			}
			if (err == nil) != (tc.fails == "-") || err != nil && !strings.Contains(err.Error(), tc.fails) {
				t.Errorf("got %v, want %q", err, tc.fails)
			}
			t.Log(err)
			if err != nil && len(err.Error()) > 4000 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			if sent, _ := elsewhere.Load().(string); sent != "" {
				t.Errorf("the other host was sent %q", sent)
			}
			noLeftovers(t, layers)
		})
	}
	if elsewhere.Load() == nil {
		t.Error("nothing was asked of the other host")
	}
}

// emptySource has no blob.
type emptySource struct{ types.ImageSource }

func (emptySource) GetBlob(context.Context, types.BlobInfo, types.BlobInfoCache) (io.ReadCloser, int64, error) {
	return nil, 0, fs.ErrNotExist
}

// FuzzPlan has manifests and configurations that nobody wrote. CONFIG in a
// manifest stands for the digest of the configuration.
func FuzzPlan(f *testing.F) {
	d := digest.FromString("x").String()
	config := `{"architecture":"amd64","os":"linux","config":{"Env":["A=b"],"Volumes":{"/v":{}}},"rootfs":{"type":"layers","diff_ids":["` + d + `"]},"history":[{"created_by":"x"}]}`
	for _, media := range []string{imgspecv1.MediaTypeImageManifest, "application/vnd.docker.distribution.manifest.v2+json", ""} {
		f.Add([]byte(`{"schemaVersion":2,"mediaType":"`+media+`","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"CONFIG","size":5},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"`+d+`","size":7,"urls":["file:///x"],"annotations":{"a":"b"}}]}`), []byte(config), media)
	}
	f.Fuzz(func(t *testing.T, m, config []byte, media string) {
		sum := digest.FromBytes(config)
		m = bytes.ReplaceAll(m, []byte("CONFIG"), []byte(sum))
		src := &source{ImageSource: emptySource{}, config: map[digest.Digest][]byte{sum: config}}
		p, err := parsePlan(t.Context(), src, m, media, &types.SystemContext{OSChoice: "linux", ArchitectureChoice: "amd64"}, true)
		if err != nil {
			return
		}
		for _, l := range p.layers {
			if l.diffID.Validate() != nil || l.blob.Digest.Validate() != nil || l.blob.Size < 0 || strings.ContainsAny(l.id, "/.") {
				t.Errorf("layer %+v", l)
			}
		}
	})
}
