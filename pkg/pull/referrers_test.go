package pull

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	imgspecv1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/types"

	"github.com/balena-os/balena/pkg/delta"
	"github.com/balena-os/balena/pkg/store"
	"github.com/balena-os/balena/test/ociregistry"
)

// fakeRegistry is a registry to push to, with or without the referrers API, and
// with a word in before each request.
type fakeRegistry struct {
	*httptest.Server
	*ociregistry.Registry
	mu     sync.Mutex
	before func(w http.ResponseWriter, q *http.Request) bool // true: it answered
}

func newFakeRegistry(t testing.TB, api bool) *fakeRegistry {
	r := &fakeRegistry{Registry: &ociregistry.Registry{Referrers: api}}
	r.Before = func(w http.ResponseWriter, q *http.Request) bool {
		r.mu.Lock()
		before := r.before
		r.mu.Unlock()
		return before != nil && before(w, q)
	}
	r.Server = httptest.NewServer(r.Registry)
	r.Server.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(r.Close)
	return r
}

func (r *fakeRegistry) repo(t testing.TB, name string) reference.Named {
	return mustName(t, strings.TrimPrefix(r.URL, "http://")+"/"+name)
}

func mustName(t testing.TB, name string) reference.Named {
	n, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (r *fakeRegistry) on(f func(w http.ResponseWriter, q *http.Request) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.before = f
}

func (r *fakeRegistry) put(t testing.TB, path, mime string, content []byte) {
	q, _ := http.NewRequest(http.MethodPut, r.URL+path, bytes.NewReader(content))
	q.Header.Set("Content-Type", mime)
	res, err := http.DefaultClient.Do(q)
	if err != nil || res.StatusCode >= 300 {
		t.Fatalf("put %s: %v %v", path, res, err)
	}
	res.Body.Close()
}

// target puts a manifest into the repository that artifacts can refer to.
func (r *fakeRegistry) target(t testing.TB, repo, tag string) imgspecv1.Descriptor {
	raw := []byte(fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"layers":[],"annotations":{"t":%q}}`, imgspecv1.MediaTypeImageManifest, tag))
	r.put(t, "/v2/"+repo+"/manifests/"+tag, imgspecv1.MediaTypeImageManifest, raw)
	return imgspecv1.Descriptor{MediaType: imgspecv1.MediaTypeImageManifest, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
}

func testReferrers(t testing.TB, n reference.Named) *referrers {
	sys, err := RegistryOptions{AuthFile: noAuth(t)}.Context(n)
	if err != nil {
		t.Fatal(err)
	}
	return &referrers{sys: sys}
}

func noAuth(t testing.TB) string {
	f := filepath.Join(t.TempDir(), "auth.json")
	if err := os.WriteFile(f, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	return f
}

// publishTest publishes an artifact whose blob is content.
func publishTest(t testing.TB, r *referrers, n reference.Named, subject imgspecv1.Descriptor, content string) (delta.Artifact, imgspecv1.Descriptor) {
	a := delta.Artifact{
		Subject: subject, Base: digest.FromString("base of " + content), Target: digest.FromString("target"),
		Layers: []digest.Digest{digest.FromString("layer")},
		Blob:   imgspecv1.Descriptor{MediaType: delta.MediaType, Digest: digest.FromString(content), Size: int64(len(content))},
	}
	raw, err := a.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	d := a.Descriptor(raw)
	open := func(s string) func() (io.ReadCloser, error) {
		return func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(s)), nil }
	}
	err = r.publish(t.Context(), n, raw, d, subject.Digest,
		publishedBlob{imgspecv1.DescriptorEmptyJSON, open("{}")}, publishedBlob{a.Blob, open(content)})
	if err != nil {
		t.Fatal(err)
	}
	return a, d
}

// TestReferrers: what was published is listed, with all that is needed to
// choose, until it is deleted; by the API or by the fallback tag.
func TestReferrers(t *testing.T) {
	for _, api := range []bool{true, false} {
		t.Run(fmt.Sprint("api ", api), func(t *testing.T) {
			reg := newFakeRegistry(t, api)
			n := reg.repo(t, "dev/app")
			subject, other := reg.target(t, "dev/app", "2"), reg.target(t, "dev/app", "3")
			r := testReferrers(t, n)
			if found, err := r.list(t.Context(), n, subject.Digest); err != nil || len(found) != 0 {
				t.Fatalf("before: %v, %v", found, err)
			}
			a, one := publishTest(t, r, n, subject, "first delta")
			_, two := publishTest(t, r, n, subject, "second delta")
			_, _ = publishTest(t, r, n, other, "another image's")
			publishTest(t, r, n, subject, "first delta") // again: nothing changes

			found, err := r.list(t.Context(), n, subject.Digest)
			if err != nil || len(found) != 2 {
				t.Fatalf("listed %v, %v", found, err)
			}
			i := slices.IndexFunc(found, func(d imgspecv1.Descriptor) bool { return d.Digest == one.Digest })
			if i < 0 {
				t.Fatalf("%s is not in %v", one.Digest, found)
			}
			got, err := delta.ArtifactOf(found[i], subject.Digest)
			a.Subject, a.Version = imgspecv1.Descriptor{Digest: subject.Digest}, 1
			if err != nil || !reflect.DeepEqual(got, a) {
				t.Errorf("got %+v, %v\nwant %+v", got, err, a)
			}
			raw, err := r.fetchManifest(t.Context(), n, one.Digest)
			if err != nil || digest.FromBytes(raw) != one.Digest {
				t.Errorf("manifest %s, %v", raw, err)
			}

			if err := r.delete(t.Context(), n, subject.Digest, one.Digest); err != nil {
				t.Fatal(err)
			}
			if found, err = r.list(t.Context(), n, subject.Digest); err != nil || len(found) != 1 || found[0].Digest != two.Digest {
				t.Fatalf("after deleting one: %v, %v", found, err)
			}
			if err := r.delete(t.Context(), n, subject.Digest, two.Digest); err != nil {
				t.Fatal(err)
			}
			if found, err = r.list(t.Context(), n, subject.Digest); err != nil || len(found) != 0 {
				t.Fatalf("after deleting both: %v, %v", found, err)
			}
			res, err := http.Get(reg.URL + "/v2/dev/app/manifests/" + fallbackTag(subject.Digest))
			if err != nil || res.StatusCode != http.StatusNotFound {
				t.Errorf("the fallback tag is still there: %v, %v", res, err)
			}
			if found, err = r.list(t.Context(), n, other.Digest); err != nil || len(found) != 1 {
				t.Errorf("the other image's: %v, %v", found, err)
			}
		})
	}
}

// TestReferrersAtOnce: of two who publish at the same time where the list is
// under a tag, the one whose list is overwritten by the other's notices it.
func TestReferrersAtOnce(t *testing.T) {
	reg := newFakeRegistry(t, false)
	n := reg.repo(t, "app")
	subject := reg.target(t, "app", "2")
	tag := "/manifests/" + fallbackTag(subject.Digest)
	var puts atomic.Int32
	both, seen := make(chan struct{}), make(chan struct{})
	var once sync.Once
	reg.on(func(_ http.ResponseWriter, q *http.Request) bool {
		switch {
		case !strings.HasSuffix(q.URL.Path, tag):
		case q.Method == http.MethodGet && puts.Load() == 2:
			// the first has looked at what it wrote
			once.Do(func() { time.AfterFunc(50*time.Millisecond, func() { close(seen) }) })
		case q.Method == http.MethodPut:
			switch puts.Add(1) {
			case 1:
				<-both
			case 2:
				close(both)
				<-seen
			}
		}
		return false
	})
	var wg sync.WaitGroup
	for _, content := range []string{"one", "another"} {
		wg.Go(func() { publishTest(t, testReferrers(t, n), n, subject, content) })
	}
	wg.Wait()
	if found, err := testReferrers(t, n).list(t.Context(), n, subject.Digest); err != nil || len(found) != 2 {
		t.Errorf("listed %v, %v", found, err)
	}
}

// TestReferrersOneRequest: a pull asks once, by what is known of the registry.
func TestReferrersOneRequest(t *testing.T) {
	for _, api := range []bool{true, false} {
		t.Run(fmt.Sprint("api ", api), func(t *testing.T) {
			reg := newFakeRegistry(t, api)
			n := reg.repo(t, "app")
			subject := reg.target(t, "app", "2")
			maker := testReferrers(t, n)
			publishTest(t, maker, n, subject, "a delta")
			st, err := store.Open(store.Options{Root: t.TempDir(), RunRoot: t.TempDir()})
			if err != nil {
				t.Fatal(err)
			}
			r := testReferrers(t, n)
			r.st, r.pulling = st, true
			byAPI, byTag := "GET /v2/app/referrers/"+subject.Digest.String(), "GET /v2/app/manifests/"+fallbackTag(subject.Digest)
			for try := range 3 {
				want := []string{byAPI}
				switch {
				case !api && try == 0: // the first contact
					want = append(want, byTag)
				case !api:
					want = []string{byTag}
				}
				reg.Requests()
				found, err := r.list(t.Context(), n, subject.Digest)
				if asked := reg.Requests(); err != nil || !slices.Equal(asked, want) {
					t.Fatalf("try %d: asked %v, %v", try, asked, err)
				}
				if len(found) != 1 {
					t.Errorf("try %d: found %v", try, found)
				}
			}
		})
	}
}

// TestReferrersLearning: who has no use for a delta asks once, whatever comes of
// it, and the next one knows.
func TestReferrersLearning(t *testing.T) {
	for _, api := range []bool{true, false} {
		reg := newFakeRegistry(t, api)
		n := reg.repo(t, "app")
		subject := reg.target(t, "app", "2")
		st, err := store.Open(store.Options{Root: t.TempDir(), RunRoot: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		r := testReferrers(t, n)
		r.st, r.pulling, r.learning = st, true, true
		for try := range 2 {
			reg.Requests()
			_, err := r.list(t.Context(), n, subject.Digest)
			if asked := reg.Requests(); err != nil || len(asked) != 1 {
				t.Errorf("api %v, try %d: asked %v, %v", api, try, asked, err)
			}
			r.learning = false
		}
	}
}

// TestReferrersNeverHang: a registry that does not answer costs a bounded time.
func TestReferrersNeverHang(t *testing.T) {
	reg := newFakeRegistry(t, true)
	n := reg.repo(t, "app")
	end := make(chan struct{})
	defer close(end)
	reg.on(func(http.ResponseWriter, *http.Request) bool { <-end; return true })
	ctx, stop := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer stop()
	r := testReferrers(t, n)
	r.pulling = true
	begin := time.Now()
	if _, err := r.list(ctx, n, digest.FromString("x")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("it took %s", d)
	}
}

// TestReferrersStrange: whatever the registry answers is an error or no delta.
func TestReferrersStrange(t *testing.T) {
	reg := newFakeRegistry(t, true)
	n := reg.repo(t, "app")
	r := testReferrers(t, n)
	for name, c := range map[string]struct {
		status int
		body   string
		fails  bool
	}{
		"500":             {500, "", true},
		"403":             {403, "", true},
		"no JSON":         {200, "<html>", true},
		"another type":    {200, `{"mediaType":"application/vnd.oci.image.manifest.v1+json"}`, true},
		"too long":        {200, `{"mediaType":"` + strings.Repeat("x", maxAnswer) + `"}`, true},
		"too many":        {200, `{"manifests":[{}` + strings.Repeat(",{}", maxReferrers) + `]}`, true},
		"nothing":         {200, `{}`, false},
		"other artifacts": {200, `{"manifests":[{"artifactType":"sbom","digest":"` + digest.FromString("x").String() + `"}]}`, false},
		"bad digest":      {200, `{"manifests":[{"artifactType":"` + delta.MediaType + `","digest":"latest"}]}`, false},
		"negative size":   {200, `{"manifests":[{"artifactType":"` + delta.MediaType + `","size":-1,"digest":"` + digest.FromString("x").String() + `"}]}`, false},
	} {
		reg.on(func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(c.status)
			fmt.Fprint(w, c.body)
			return true
		})
		found, err := r.list(t.Context(), n, digest.FromString("subject"))
		if (err != nil) != c.fails || len(found) != 0 {
			t.Errorf("%s: found %v, %v", name, found, err)
		}
	}
}

// TestReferrersPages: the maker reads all pages, a pull the first.
func TestReferrersPages(t *testing.T) {
	reg := newFakeRegistry(t, true)
	n := reg.repo(t, "app")
	reg.on(func(w http.ResponseWriter, q *http.Request) bool {
		page := q.URL.Query().Get("page")
		if page == "" {
			w.Header().Set("Link", `<`+q.URL.Path+`?page=2>; rel="next"`)
		}
		d := imgspecv1.Descriptor{ArtifactType: delta.MediaType, Digest: digest.FromString("page" + page)}
		_ = json.NewEncoder(w).Encode(imgspecv1.Index{MediaType: imgspecv1.MediaTypeImageIndex, Manifests: []imgspecv1.Descriptor{d}})
		return true
	})
	r := testReferrers(t, n)
	for pulling, want := range map[bool]int{true: 1, false: 2} {
		r.pulling = pulling
		if found, err := r.list(t.Context(), n, digest.FromString("x")); err != nil || len(found) != want {
			t.Errorf("pulling %v: %v, %v", pulling, found, err)
		}
	}
}

// TestReferrersAuth: credentials go where the registry's challenge sends them.
func TestReferrersAuth(t *testing.T) {
	for _, scheme := range []string{"Basic", "Bearer"} {
		reg := newFakeRegistry(t, true)
		n := reg.repo(t, "private/app")
		subject := reg.target(t, "private/app", "2")
		reg.on(func(w http.ResponseWriter, q *http.Request) bool {
			if q.URL.Path == "/token" {
				user, password, _ := q.BasicAuth()
				if user != "tester" || password != "sec:ret" || q.URL.Query().Get("service") != "a, b" ||
					!strings.HasPrefix(q.URL.Query().Get("scope"), "repository:private/app:") {
					w.WriteHeader(http.StatusUnauthorized)
					return true
				}
				fmt.Fprint(w, `{"token":"let-me-in"}`)
				return true
			}
			user, password, _ := q.BasicAuth()
			if scheme == "Basic" && user == "tester" && password == "sec:ret" ||
				scheme == "Bearer" && q.Header.Get("Authorization") == "Bearer let-me-in" {
				return false
			}
			challenge := `Basic realm="x"`
			if scheme == "Bearer" {
				challenge = `Bearer realm="http://` + q.Host + `/token",service="a, b",scope=repository:x:pull`
			}
			w.Header().Set("WWW-Authenticate", challenge)
			registryError(w, http.StatusUnauthorized, "UNAUTHORIZED")
			return true
		})
		r := testReferrers(t, n)
		if _, err := r.list(t.Context(), n, subject.Digest); !errors.Is(err, ErrUnauthorized) {
			t.Errorf("%s: without credentials: %v", scheme, err)
		}
		r.sys.DockerAuthConfig = &types.DockerAuthConfig{Username: "tester", Password: "sec:ret"}
		publishTest(t, r, n, subject, "delta")
		if found, err := r.list(t.Context(), n, subject.Digest); err != nil || len(found) != 1 {
			t.Errorf("%s: %v, %v", scheme, found, err)
		}
	}
}

// TestReferrersNoDelete: a registry that refuses to delete keeps all as it was.
func TestReferrersNoDelete(t *testing.T) {
	reg := newFakeRegistry(t, false)
	n := reg.repo(t, "app")
	subject := reg.target(t, "app", "2")
	r := testReferrers(t, n)
	_, d := publishTest(t, r, n, subject, "delta")
	reg.NoDelete = true
	if err := r.delete(t.Context(), n, subject.Digest, d.Digest); !errors.Is(err, ErrNoDelete) {
		t.Errorf("got %v", err)
	}
	if found, err := r.list(t.Context(), n, subject.Digest); err != nil || len(found) != 1 {
		t.Errorf("afterwards: %v, %v", found, err)
	}
}

// TestReferrersMirror: a pull takes the first location that serves, a change
// goes to the registry itself.
func TestReferrersMirror(t *testing.T) {
	mirror, origin := newFakeRegistry(t, true), newFakeRegistry(t, true)
	n := mustName(t, "registry.invalid/app")
	subject := mirror.target(t, "app", "2")
	host := func(r *fakeRegistry) string { return strings.TrimPrefix(r.URL, "http://") }
	conf := filepath.Join(t.TempDir(), "registries.conf")
	text := fmt.Sprintf("[[registry]]\nprefix = \"registry.invalid\"\nlocation = %q\ninsecure = true\n[[registry.mirror]]\nlocation = \"127.0.0.1:1\"\ninsecure = true\n[[registry.mirror]]\nlocation = %q\ninsecure = true\n", host(origin), host(mirror))
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	at := mirror.repo(t, "app")
	publishTest(t, testReferrers(t, at), at, subject, "delta")
	r := testReferrers(t, n)
	r.sys.SystemRegistriesConfPath = conf
	r.pulling = true
	if found, err := r.list(t.Context(), n, subject.Digest); err != nil || len(found) != 1 {
		t.Errorf("%v, %v", found, err)
	}
	if asked := origin.Requests(); len(asked) != 0 {
		t.Errorf("the origin was asked %v", asked)
	}
}

func TestParseChallenge(t *testing.T) {
	scheme, p := parseChallenge(`Bearer realm="https://a/b?c=d",service=x, scope="repository:a:pull,push"`)
	want := map[string]string{"realm": "https://a/b?c=d", "service": "x", "scope": "repository:a:pull,push"}
	if scheme != "bearer" || !reflect.DeepEqual(p, want) {
		t.Errorf("got %s %v", scheme, p)
	}
}

func TestFallbackTag(t *testing.T) {
	if got := fallbackTag(digest.SHA512.FromString("x")); len(got) != len("sha512-")+64 {
		t.Errorf("got %s", got)
	}
	if got := fallbackTag(digest.Digest("sha256:" + strings.Repeat("ab", 32))); got != "sha256-"+strings.Repeat("ab", 32) {
		t.Errorf("got %s", got)
	}
}
