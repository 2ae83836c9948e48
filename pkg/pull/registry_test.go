package pull

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imgspecv1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// testRegistry serves what is put into it over plain HTTP on a loopback
// address, with faults to order.
type testRegistry struct {
	*httptest.Server
	mu        sync.Mutex
	blobs     map[digest.Digest][]byte
	manifests map[string][]byte // by tag and by digest
	mimes     map[string]string
	fault     map[digest.Digest]func(w http.ResponseWriter, r *http.Request, content []byte) bool
	served    map[digest.Digest]int64 // bytes
	requests  map[digest.Digest][]string

	manifestRequests map[string]int // by tag and by digest

	refers   map[digest.Digest][]imgspecv1.Descriptor // by subject; nil: there is no referrers API
	referred func(w http.ResponseWriter) bool         // a fault of that
	asked    int                                      // requests for it
}

func newTestRegistry(t testing.TB) *testRegistry {
	r := &testRegistry{
		blobs: map[digest.Digest][]byte{}, manifests: map[string][]byte{}, mimes: map[string]string{},
		fault:  map[digest.Digest]func(http.ResponseWriter, *http.Request, []byte) bool{},
		served: map[digest.Digest]int64{}, requests: map[digest.Digest][]string{},
		manifestRequests: map[string]int{},
	}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

// seen gives the Range headers of the requests for a blob, and the bytes served.
func (r *testRegistry) seen(d digest.Digest) (requests []string, served int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.requests[d]), r.served[d]
}

func (r *testRegistry) host() string { return strings.TrimPrefix(r.URL, "http://") }

func (r *testRegistry) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	parts := strings.Split(strings.Trim(q.URL.Path, "/"), "/")
	switch {
	case q.URL.Path == "/v2/":
		w.WriteHeader(http.StatusOK)
	case strings.HasSuffix(q.URL.Path, "/tags/list"):
		r.tags(w)
	case len(parts) >= 4 && parts[len(parts)-2] == "manifests":
		r.manifest(w, parts[len(parts)-1])
	case len(parts) >= 4 && parts[len(parts)-2] == "referrers":
		r.referrers(w, digest.Digest(parts[len(parts)-1]))
	case len(parts) >= 4 && parts[len(parts)-2] == "blobs":
		r.blob(w, q, digest.Digest(parts[len(parts)-1]))
	default:
		http.NotFound(w, q)
	}
}

func registryError(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"errors":[{"code":%q,"message":"as the test wants"}]}`, code)
}

func (r *testRegistry) tags(w http.ResponseWriter) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var tags []string
	for t := range r.manifests {
		if !strings.HasPrefix(t, "sha256:") {
			tags = append(tags, t)
		}
	}
	json.NewEncoder(w).Encode(map[string]any{"name": "x", "tags": tags})
}

func (r *testRegistry) manifest(w http.ResponseWriter, ref string) {
	r.mu.Lock()
	r.manifestRequests[ref]++
	m, ok := r.manifests[ref]
	mime := r.mimes[ref]
	r.mu.Unlock()
	if !ok {
		registryError(w, 404, "MANIFEST_UNKNOWN")
		return
	}
	w.Header().Set("Content-Type", mime)
	w.Header().Set("Docker-Content-Digest", digest.FromBytes(m).String())
	w.Write(m)
}

func (r *testRegistry) referrers(w http.ResponseWriter, subject digest.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
	if r.referred != nil && r.referred(w) {
		return
	}
	if r.refers == nil {
		registryError(w, 404, "NOT_FOUND")
		return
	}
	w.Header().Set("Content-Type", imgspecv1.MediaTypeImageIndex)
	list := append([]imgspecv1.Descriptor{}, r.refers[subject]...)
	json.NewEncoder(w).Encode(imgspecv1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imgspecv1.MediaTypeImageIndex, Manifests: list})
}

type countingWriter struct {
	http.ResponseWriter
	n func(int)
}

func (c countingWriter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n(n)
	return n, err
}

func (r *testRegistry) blob(w http.ResponseWriter, q *http.Request, d digest.Digest) {
	r.mu.Lock()
	b, ok := r.blobs[d]
	fault := r.fault[d]
	r.requests[d] = append(r.requests[d], q.Header.Get("Range"))
	r.mu.Unlock()
	if !ok {
		registryError(w, 404, "BLOB_UNKNOWN")
		return
	}
	cw := countingWriter{w, func(n int) { r.mu.Lock(); r.served[d] += int64(n); r.mu.Unlock() }}
	if fault != nil && fault(cw, q, b) {
		return
	}
	http.ServeContent(struct {
		http.ResponseWriter
	}{cw}, q, "", zeroTime, bytes.NewReader(b))
}

func (r *testRegistry) add(b []byte) digest.Digest {
	d := digest.FromBytes(b)
	r.mu.Lock()
	r.blobs[d] = b
	r.mu.Unlock()
	return d
}

// testLayer is a tar and the form in which the registry has it.
type testLayer struct {
	tar   []byte
	blob  []byte
	media string
}

func (l testLayer) digest() digest.Digest { return digest.FromBytes(l.tar) }

func gz(tarball []byte) testLayer {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write(tarball)
	w.Close()
	return testLayer{tarball, b.Bytes(), imgspecv1.MediaTypeImageLayerGzip}
}

func zst(tarball []byte) testLayer {
	w, _ := zstd.NewWriter(nil)
	return testLayer{tarball, w.EncodeAll(tarball, nil), imgspecv1.MediaTypeImageLayerZstd}
}

func plain(tarball []byte) testLayer {
	return testLayer{tarball, tarball, imgspecv1.MediaTypeImageLayer}
}

// image puts an image into the registry and returns its manifest's descriptor.
func (r *testRegistry) image(tag, arch string, layers ...testLayer) imgspecv1.Descriptor {
	cfg := imgspecv1.Image{Platform: imgspecv1.Platform{OS: "linux", Architecture: arch}, RootFS: imgspecv1.RootFS{Type: "layers"}}
	m := imgspecv1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imgspecv1.MediaTypeImageManifest}
	for _, l := range layers {
		cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs, digest.FromBytes(l.tar))
		m.Layers = append(m.Layers, imgspecv1.Descriptor{MediaType: l.media, Digest: r.add(l.blob), Size: int64(len(l.blob))})
	}
	raw, _ := json.Marshal(cfg)
	m.Config = imgspecv1.Descriptor{MediaType: imgspecv1.MediaTypeImageConfig, Digest: r.add(raw), Size: int64(len(raw))}
	raw, _ = json.Marshal(m)
	return r.putManifest(tag, raw, imgspecv1.MediaTypeImageManifest)
}

func (r *testRegistry) putManifest(tag string, raw []byte, mime string) imgspecv1.Descriptor {
	d := digest.FromBytes(raw)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, key := range []string{tag, d.String()} {
		if key != "" {
			r.manifests[key], r.mimes[key] = raw, mime
		}
	}
	return imgspecv1.Descriptor{MediaType: mime, Digest: d, Size: int64(len(raw))}
}

// breakAt closes the connection after n bytes of the blob, for the first times
// requests.
func breakAt(n int, times int) func(http.ResponseWriter, *http.Request, []byte) bool {
	return func(w http.ResponseWriter, q *http.Request, b []byte) bool {
		if times == 0 {
			return false
		}
		times--
		from := 0
		if rg := q.Header.Get("Range"); rg != "" {
			from, _ = strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(rg, "bytes="), "-"))
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(b)-1, len(b)))
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(b)-from))
		if from > 0 {
			w.WriteHeader(http.StatusPartialContent)
		}
		w.Write(b[from:min(len(b), from+n)])
		panic(http.ErrAbortHandler)
	}
}

// entry is one entry of a tar made by tarOf.
type entry struct {
	name, content, link string
	kind                byte
	mode                int64
	pax                 map[string]string
	uid, gid            int
}

func tarOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if e.kind == 0 {
			e.kind = tar.TypeReg
		}
		if e.mode == 0 {
			e.mode = 0o644
			if e.kind == tar.TypeDir {
				e.mode = 0o755
			}
		}
		h := &tar.Header{Name: e.name, Linkname: e.link, Typeflag: e.kind, Mode: e.mode, Size: int64(len(e.content)),
			Uid: e.uid, Gid: e.gid, ModTime: testTime, PAXRecords: e.pax, Format: tar.FormatPAX}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
