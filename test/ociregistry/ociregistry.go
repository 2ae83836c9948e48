// Package ociregistry is a small registry for tests, in memory: pushes, pulls,
// tags, deletion, and the referrers API if that is asked for. It keeps to the
// OCI distribution specification 1.1 where Debian's docker-registry, which
// tests use too, knows only 1.0.
package ociregistry

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imgspecv1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Registry is an http.Handler. The fields are set before its first request.
type Registry struct {
	Referrers bool // it has the referrers API
	NoDelete  bool // it answers 405 to DELETE

	// Before, if not nil, sees each request first, and answers it if it
	// returns true.
	Before func(w http.ResponseWriter, q *http.Request) bool

	mu       sync.Mutex
	blobs    map[digest.Digest][]byte
	uploads  map[string][]byte
	repos    map[string]*repo
	requests []string
	served   int64
}

type repo struct {
	manifests map[digest.Digest]stored
	tags      map[string]digest.Digest
}

type stored struct {
	mime string
	raw  []byte
}

// Requests gives the requests since it was last called, as "METHOD PATH".
func (r *Registry) Requests() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.requests
	r.requests = nil
	return all
}

// Served gives the bytes of blobs and manifests that were sent since it was
// last called.
func (r *Registry) Served() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.served
	r.served = 0
	return n
}

// Tags lists a repository's tags.
func (r *Registry) Tags(name string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.repos[name] == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(r.repos[name].tags))
}

// Uploads counts the uploads that nobody finished.
func (r *Registry) Uploads() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.uploads)
}

func (r *Registry) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	r.mu.Lock()
	r.requests = append(r.requests, q.Method+" "+q.URL.Path)
	r.mu.Unlock()
	if r.Before != nil && r.Before(w, q) {
		return
	}
	body, err := io.ReadAll(q.Body)
	if err != nil {
		return // whoever sent it is gone
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.repos == nil {
		r.blobs, r.uploads, r.repos = map[digest.Digest][]byte{}, map[string][]byte{}, map[string]*repo{}
	}
	path, ok := strings.CutPrefix(q.URL.Path, "/v2/")
	parts := strings.Split(path, "/")
	switch n := len(parts); {
	case !ok:
		fail(w, http.StatusNotFound, "UNSUPPORTED")
	case path == "":
	case q.Method == http.MethodDelete && r.NoDelete:
		fail(w, http.StatusMethodNotAllowed, "UNSUPPORTED")
	case n > 3 && parts[n-3] == "blobs" && parts[n-2] == "uploads":
		r.upload(w, q, strings.Join(parts[:n-3], "/"), parts[n-1], body)
	case n > 2 && parts[n-2] == "blobs":
		r.blob(w, q, digest.Digest(parts[n-1]))
	case n > 2 && parts[n-2] == "manifests":
		r.manifest(w, q, strings.Join(parts[:n-2], "/"), parts[n-1], body)
	case n > 2 && parts[n-2] == "referrers" && r.Referrers:
		r.referrers(w, q, strings.Join(parts[:n-2], "/"), digest.Digest(parts[n-1]))
	case n > 2 && parts[n-2] == "tags":
		name := strings.Join(parts[:n-2], "/")
		tags := []string{}
		if rp := r.repos[name]; rp != nil {
			tags = slices.Sorted(maps.Keys(rp.tags))
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"name": name, "tags": tags})
	default:
		fail(w, http.StatusNotFound, "UNSUPPORTED")
	}
}

func fail(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"errors":[{"code":%q,"message":"no"}]}`, code)
}

func (r *Registry) upload(w http.ResponseWriter, q *http.Request, name, id string, body []byte) {
	switch {
	case q.Method == http.MethodPost:
		id = rand.Text()
		r.uploads[id] = body
	case r.uploads[id] == nil:
		fail(w, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN")
		return
	default:
		r.uploads[id] = append(r.uploads[id], body...)
	}
	w.Header().Set("Location", "/v2/"+name+"/blobs/uploads/"+id)
	d := digest.Digest(q.URL.Query().Get("digest"))
	if d == "" {
		w.Header().Set("Range", fmt.Sprintf("0-%d", max(0, len(r.uploads[id])-1)))
		w.WriteHeader(http.StatusAccepted)
		return
	}
	content := r.uploads[id]
	delete(r.uploads, id)
	if d.Validate() != nil || d.Algorithm().FromBytes(content) != d {
		fail(w, http.StatusBadRequest, "DIGEST_INVALID")
		return
	}
	r.blobs[d] = content
	w.WriteHeader(http.StatusCreated)
}

func (r *Registry) blob(w http.ResponseWriter, q *http.Request, d digest.Digest) {
	content, ok := r.blobs[d]
	switch {
	case !ok:
		fail(w, http.StatusNotFound, "BLOB_UNKNOWN")
	case q.Method == http.MethodDelete:
		delete(r.blobs, d)
		w.WriteHeader(http.StatusAccepted)
	default:
		status := http.StatusOK
		var from int
		if n, _ := fmt.Sscanf(q.Header.Get("Range"), "bytes=%d-", &from); n == 1 && from > 0 && from <= len(content) {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(content)-1, len(content)))
			content, status = content[from:], http.StatusPartialContent
		}
		r.send(w, q, status, content)
	}
}

func (r *Registry) send(w http.ResponseWriter, q *http.Request, status int, content []byte) {
	w.Header().Set("Content-Length", strconv.Itoa(len(content)))
	w.WriteHeader(status)
	if q.Method == http.MethodGet {
		n, _ := w.Write(content)
		r.served += int64(n)
	}
}

func (r *Registry) manifest(w http.ResponseWriter, q *http.Request, name, ref string, body []byte) {
	rp := r.repos[name]
	if q.Method == http.MethodPut {
		r.putManifest(w, q, name, ref, body)
		return
	}
	if rp == nil {
		fail(w, http.StatusNotFound, "NAME_UNKNOWN")
		return
	}
	d := digest.Digest(ref)
	if t, ok := rp.tags[ref]; ok {
		d = t
	}
	m, ok := rp.manifests[d]
	switch {
	case !ok:
		fail(w, http.StatusNotFound, "MANIFEST_UNKNOWN")
	case q.Method == http.MethodDelete:
		delete(rp.manifests, d)
		maps.DeleteFunc(rp.tags, func(_ string, t digest.Digest) bool { return t == d })
		w.WriteHeader(http.StatusAccepted)
	default:
		w.Header().Set("Content-Type", m.mime)
		w.Header().Set("Docker-Content-Digest", d.String())
		r.send(w, q, http.StatusOK, m.raw)
	}
}

// putManifest wants the blobs and manifests of a manifest to be there first, as
// registries do.
func (r *Registry) putManifest(w http.ResponseWriter, q *http.Request, name, ref string, body []byte) {
	var m struct {
		Config    *imgspecv1.Descriptor
		Layers    []imgspecv1.Descriptor
		Manifests []imgspecv1.Descriptor
		Subject   *imgspecv1.Descriptor
	}
	d := digest.FromBytes(body)
	if err := json.Unmarshal(body, &m); err != nil || strings.Contains(ref, ":") && ref != d.String() {
		fail(w, http.StatusBadRequest, "MANIFEST_INVALID")
		return
	}
	if r.repos[name] == nil {
		r.repos[name] = &repo{map[digest.Digest]stored{}, map[string]digest.Digest{}}
	}
	rp := r.repos[name]
	if m.Config != nil {
		m.Layers = append(m.Layers, *m.Config)
	}
	for _, b := range m.Layers {
		if _, ok := r.blobs[b.Digest]; !ok {
			fail(w, http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN")
			return
		}
	}
	for _, b := range m.Manifests {
		if _, ok := rp.manifests[b.Digest]; !ok {
			fail(w, http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN")
			return
		}
	}
	rp.manifests[d] = stored{q.Header.Get("Content-Type"), body}
	if !strings.Contains(ref, ":") {
		rp.tags[ref] = d
	}
	if m.Subject != nil && r.Referrers {
		w.Header().Set("OCI-Subject", m.Subject.Digest.String())
	}
	w.Header().Set("Docker-Content-Digest", d.String())
	w.WriteHeader(http.StatusCreated)
}

func (r *Registry) referrers(w http.ResponseWriter, q *http.Request, name string, subject digest.Digest) {
	index := imgspecv1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imgspecv1.MediaTypeImageIndex, Manifests: []imgspecv1.Descriptor{}}
	want := q.URL.Query().Get("artifactType")
	if rp := r.repos[name]; rp != nil {
		for _, d := range slices.Sorted(maps.Keys(rp.manifests)) {
			var m imgspecv1.Manifest
			if json.Unmarshal(rp.manifests[d].raw, &m) != nil || m.Subject == nil || m.Subject.Digest != subject || want != "" && m.ArtifactType != want {
				continue
			}
			index.Manifests = append(index.Manifests, imgspecv1.Descriptor{
				MediaType: rp.manifests[d].mime, ArtifactType: m.ArtifactType, Digest: d,
				Size: int64(len(rp.manifests[d].raw)), Annotations: m.Annotations,
			})
		}
	}
	w.Header().Set("Content-Type", imgspecv1.MediaTypeImageIndex)
	if want != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	_ = json.NewEncoder(w).Encode(index)
}
