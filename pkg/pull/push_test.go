package pull

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// realRegistry starts Debian's docker-registry, with TLS by a certificate of
// its own and with the user tester, if asked for. ca is that certificate.
func realRegistry(t *testing.T, secure, private bool) (addr string, ca []byte) {
	t.Helper()
	bin, err := exec.LookPath("docker-registry")
	if err != nil {
		t.Skip("docker-registry is not installed")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr = l.Addr().String()
	l.Close()
	dir := t.TempDir()
	conf := "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n" +
		"storage: {filesystem: {rootdirectory: " + dir + "/data}}\nhttp:\n  addr: " + addr + "\n"
	if secure {
		var key []byte
		ca, key = selfSigned(t)
		writeFile(t, dir+"/crt", ca)
		writeFile(t, dir+"/key", key)
		conf += "  tls: {certificate: " + dir + "/crt, key: " + dir + "/key}\n"
	}
	if private {
		// the password is "secret"
		writeFile(t, dir+"/htpasswd", []byte("tester:$2a$05$CMlNWWmBIMf6ErLX0C9TYOHxOsD.zg32HprS4d.lMuddFkSs5gTZi\n"))
		conf += "auth: {htpasswd: {realm: test, path: " + dir + "/htpasswd}}\n"
	}
	writeFile(t, dir+"/conf.yml", []byte(conf))
	cmd := exec.Command(bin, "serve", dir+"/conf.yml")
	cmd.Env = []string{} // REGISTRY_AUTH_FILE would be a setting of its own
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for range 200 {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return addr, ca
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("docker-registry does not answer: %s", &log)
	return "", nil
}

func writeFile(t testing.TB, path string, content []byte) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, content, 0o600)); err != nil {
		t.Fatal(err)
	}
}

func selfSigned(t testing.TB) (crt, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "registry of a test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, &c, &c, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	kder, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: kder})
}

// ownHome gives the test a home of its own, so that nobody's credentials and
// registries.conf count.
func ownHome(t *testing.T) string {
	t.Helper()
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_CONFIG_HOME", home+"/.config")
	t.Setenv("XDG_RUNTIME_DIR", home+"/run")
	t.Setenv("REGISTRY_AUTH_FILE", "")
	t.Setenv("DOCKER_CONFIG", "")
	if err := os.Mkdir(home+"/run", 0o700); err != nil {
		t.Fatal(err)
	}
	return home
}

// faultProxy counts what goes to a registry and lets requests fail.
type faultProxy struct {
	*httptest.Server
	mu       sync.Mutex
	requests []string                                          // METHOD path
	fault    func(w http.ResponseWriter, q *http.Request) bool // true: it was answered
}

func newFaultProxy(t *testing.T, target string) *faultProxy {
	p := &faultProxy{}
	rp := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: target})
	rp.ErrorLog = nil
	rp.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		p.mu.Lock()
		p.requests = append(p.requests, q.Method+" "+q.URL.Path)
		fault := p.fault
		p.mu.Unlock()
		if fault != nil && fault(w, q) {
			return
		}
		rp.ServeHTTP(w, q)
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *faultProxy) host() string { return strings.TrimPrefix(p.URL, "http://") }

// set orders a fault and forgets what was counted.
func (p *faultProxy) set(fault func(http.ResponseWriter, *http.Request) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault, p.requests = fault, nil
}

func (p *faultProxy) count(prefix string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.requests {
		if strings.HasPrefix(r, prefix) {
			n++
		}
	}
	return n
}

func mustPush(t *testing.T, f func() (Pushed, error)) Pushed {
	t.Helper()
	p, err := f()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPush(t *testing.T) {
	ownHome(t)
	ctx := context.Background()
	st, layers := openTestStore(t, "overlay")
	origin := newTestRegistry(t)
	m := origin.image("v1", "amd64", gz(baseLayer(t)), gz(upperLayer(t)))
	img := mustPull(t, st, origin.host()+"/a/b:v1", Options{})
	target, _ := realRegistry(t, false, false)
	proxy := newFaultProxy(t, target)
	name := proxy.host() + "/x/y:1"
	if err := Tag(ctx, st, img.ID, name); err != nil {
		t.Fatal(err)
	}

	// An upload that breaks is tried again.
	var once sync.Once
	proxy.set(func(_ http.ResponseWriter, q *http.Request) (broken bool) {
		if q.Method == http.MethodPatch {
			once.Do(func() {
				_, _ = io.CopyN(io.Discard, q.Body, 10)
				broken = true
			})
		}
		if broken {
			panic(http.ErrAbortHandler)
		}
		return false
	})
	var mu sync.Mutex
	states := map[State]int{}
	first := mustPush(t, func() (Pushed, error) {
		return Push(ctx, st, name, "", PushOptions{Progress: func(e Event) {
			mu.Lock()
			defer mu.Unlock()
			states[e.State]++
			if !e.Push || e.Layers != 2 || e.Index < 0 || e.Index > 1 || e.Done > e.Total {
				t.Errorf("event %+v", e)
			}
		}})
	})
	if first.Name != name || first.Tag != "1" || first.Size == 0 {
		t.Errorf("pushed %+v", first)
	}
	if n := proxy.count("PATCH"); n != 4 {
		t.Errorf("%d uploads, want 2 layers, one of them twice, and the configuration", n)
	}
	if states[Committed] != 2 {
		t.Errorf("states %v", states)
	}

	// The registry has the layers: nothing is sent, and the digest is the same.
	proxy.set(nil)
	again := mustPush(t, func() (Pushed, error) { return Push(ctx, st, name, "", PushOptions{}) })
	if again != first {
		t.Errorf("second push: %+v, first %+v", again, first)
	}
	if n := proxy.count("PATCH") + proxy.count("POST"); n != 0 {
		t.Errorf("second push sent something: %q", proxy.requests)
	}

	// Another engine that pulled it pushes the manifest as it is.
	other, otherLayers := openTestStore(t, "overlay")
	pulled := mustPull(t, other, name, Options{})
	if pulled.ID != img.ID || pulled.Digest != first.Digest {
		t.Errorf("pulled %+v, pushed %+v", pulled, first)
	}
	for i, l := range imageLayers(t, otherLayers, pulled.ID) {
		if want := imageLayers(t, layers, img.ID)[i]; l.UncompressedDigest != want.UncompressedDigest {
			t.Errorf("layer %d is %s, want %s", i, l.UncompressedDigest, want.UncompressedDigest)
		}
	}
	same := mustPush(t, func() (Pushed, error) { return Push(ctx, other, name, proxy.host()+"/x/y:2", PushOptions{}) })
	if same.Digest != first.Digest {
		t.Errorf("the digest changed on the way: %s, was %s", same.Digest, first.Digest)
	}
	if !layers.Exists(img.ID) || m.Digest == "" {
		t.Error("the image is gone")
	}
}

// What an interrupted push has sent need not be sent again.
func TestPushGoesOn(t *testing.T) {
	ownHome(t)
	ctx := context.Background()
	st, _ := openTestStore(t, "overlay")
	origin := newTestRegistry(t)
	origin.image("v1", "amd64", gz(baseLayer(t)), gz(upperLayer(t)))
	mustPull(t, st, origin.host()+"/a/b:v1", Options{})
	target, _ := realRegistry(t, false, false)
	proxy := newFaultProxy(t, target)
	patches := 0
	proxy.set(func(w http.ResponseWriter, q *http.Request) bool {
		if q.Method != http.MethodPatch {
			return false
		}
		if patches++; patches == 1 {
			return false
		}
		w.WriteHeader(http.StatusForbidden)
		return true
	})
	src, dst := origin.host()+"/a/b:v1", proxy.host()+"/x/y:1"
	_, err := Push(ctx, st, src, dst, PushOptions{Parallel: 1})
	if err == nil {
		t.Fatal("a push that was refused succeeded")
	}
	if patches != 2 {
		t.Errorf("%d uploads: a refusal was tried again", patches)
	}
	proxy.set(nil)
	mustPush(t, func() (Pushed, error) { return Push(ctx, st, src, dst, PushOptions{Parallel: 1}) })
	if n := proxy.count("PATCH /v2/x/y/blobs"); n != 2 { // the layer and the configuration
		t.Errorf("%d uploads, want 2: %q", n, proxy.requests)
	}
}

func TestPushCompression(t *testing.T) {
	ownHome(t)
	ctx := context.Background()
	st, layers := openTestStore(t, "vfs")
	origin := newTestRegistry(t)
	origin.image("v1", "amd64", plain(baseLayer(t)), zst(upperLayer(t)))
	img := mustPull(t, st, origin.host()+"/a/b:v1", Options{})
	target, _ := realRegistry(t, false, false)
	digests := map[digest.Digest]bool{}
	for i, o := range []PushOptions{{Compression: "gzip"}, {Compression: "zstd"}, {Format: "docker"}, {Format: "oci"}, {}} {
		name := fmt.Sprintf("%s/c:%d", target, i)
		p := mustPush(t, func() (Pushed, error) { return Push(ctx, st, img.ID, name, o) })
		if again := mustPush(t, func() (Pushed, error) { return Push(ctx, st, img.ID, name, o) }); again != p {
			t.Errorf("%+v: digest %s, then %s", o, p.Digest, again.Digest)
		}
		digests[p.Digest] = true
		other, _ := openTestStore(t, "overlay")
		if got := mustPull(t, other, name, Options{}); o.Format != "docker" && got.ID != img.ID {
			t.Errorf("%+v: came back as %s, was %s", o, got.ID, img.ID)
		}
	}
	if len(digests) < 3 {
		t.Errorf("options make no difference: %v", digests)
	}
	for _, o := range []PushOptions{{Compression: "xz"}, {Format: "v1"}} {
		if _, err := Push(ctx, st, img.ID, target+"/c:bad", o); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
	if _, err := Push(ctx, st, img.ID, "", PushOptions{}); !errors.Is(err, ErrNoDestination) {
		t.Errorf("push by ID: %v", err)
	}
	for _, dst := range []string{"oci:%s/oci:1", "oci-archive:%s/oci.tar:1", "docker-archive:%s/docker.tar", "dir:%s/dir"} {
		dst = fmt.Sprintf(dst, t.TempDir())
		mustPush(t, func() (Pushed, error) { return Push(ctx, st, origin.host()+"/a/b:v1", dst, PushOptions{}) })
		other, _ := openTestStore(t, "overlay")
		got := mustPull(t, other, dst, Options{})
		if strings.HasPrefix(dst, "docker-archive") && got.Name != origin.host()+"/a/b:v1" {
			t.Errorf("%s: came back as %q", dst, got.Name)
		}
	}
	_ = layers
}

// A layer whose files changed is not sent.
func TestPushDamaged(t *testing.T) {
	ownHome(t)
	st, layers := openTestStore(t, "overlay")
	origin := newTestRegistry(t)
	origin.image("v1", "amd64", gz(baseLayer(t)))
	img := mustPull(t, st, origin.host()+"/a/b:v1", Options{})
	top := imageLayers(t, layers, img.ID)[0].ID
	if err := os.WriteFile(filepath.Join(layers.GraphRoot(), "overlay", top, "diff", "etc", "passwd"), []byte("ROOT:x:0:0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	target, _ := realRegistry(t, false, false)
	_, err := Push(context.Background(), st, img.ID, target+"/x:1", PushOptions{})
	if err == nil || !errors.Is(err, ErrDamagedLayer) {
		t.Errorf("got %v, want ErrDamagedLayer", err)
	}
}

func TestTLSAndLogin(t *testing.T) {
	home := ownHome(t)
	ctx := context.Background()
	addr, ca := realRegistry(t, true, true)
	yes, no := true, false
	certs := filepath.Join(home, ".config/containers/certs.d", addr, "ca.crt")
	login := func(o RegistryOptions, password string) error {
		_, err := Login(ctx, addr, LoginOptions{RegistryOptions: o, Username: "tester", Password: password})
		return err
	}
	// Loopback needs no certificate, unless it is asked for or one is set up.
	for what, err := range map[string]error{
		"loopback":        login(RegistryOptions{}, "secret"),
		"--tls-verify=no": login(RegistryOptions{TLSVerify: &no}, "secret"),
		"https:// as name": func() error {
			_, err := Login(ctx, "https://"+addr+"/", LoginOptions{Username: "tester", Password: "secret"})
			return err
		}(),
	} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	var unknown x509.UnknownAuthorityError
	if err := login(RegistryOptions{TLSVerify: &yes}, "secret"); !errors.As(err, &unknown) {
		t.Errorf("--tls-verify without a certificate: %v", err)
	}
	wrong, _ := selfSigned(t)
	writeFile(t, certs, wrong)
	if err := login(RegistryOptions{}, "secret"); !errors.As(err, &unknown) {
		t.Errorf("with another's certificate in certs.d: %v", err)
	}
	writeFile(t, certs, ca)
	for _, o := range []RegistryOptions{{}, {TLSVerify: &yes}, {CertDir: filepath.Dir(certs)}} {
		if err := login(o, "secret"); err != nil {
			t.Errorf("with its certificate: %+v: %v", o, err)
		}
	}
	if err := login(RegistryOptions{}, "wrong"); !errors.Is(err, ErrBadCredentials) || strings.Contains(err.Error(), "wrong") {
		t.Errorf("wrong password: %v", err)
	}

	auth := home + "/run/containers/auth.json"
	if fi, err := os.Stat(auth); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("auth file: %v, %v", fi, err)
	}
	if user, secret, err := Credentials(addr, LoginOptions{}); user != "tester" || secret != "secret" || err != nil {
		t.Errorf("kept: %q %q %v", user, secret, err)
	}
	st, _ := openTestStore(t, "overlay")
	origin := newTestRegistry(t)
	origin.image("v1", "amd64", gz(upperLayer(t)))
	img := mustPull(t, st, origin.host()+"/a/b:v1", Options{})
	if _, err := Push(ctx, st, img.ID, addr+"/p/q:1", PushOptions{}); err != nil {
		t.Errorf("push: %v", err)
	}
	mustPull(t, st, addr+"/p/q:1", Options{})
	if err := Logout(addr, LoginOptions{}); err != nil {
		t.Errorf("logout: %v", err)
	}
	if err := Logout(addr, LoginOptions{}); !errors.Is(err, ErrNotLoggedIn) {
		t.Errorf("second logout: %v", err)
	}
	if _, err := Push(ctx, st, img.ID, addr+"/p/q:1", PushOptions{}); err == nil {
		t.Error("push without credentials succeeded")
	} else if !errors.Is(err, ErrUnauthorized) {
		t.Errorf("push without credentials: %v", err)
	}
	if _, err := Pull(ctx, st, addr+"/p/q:1", Options{}); !errors.Is(err, ErrUnauthorized) {
		t.Errorf("pull without credentials: %v", err)
	}
	mustPush(t, func() (Pushed, error) {
		return Push(ctx, st, img.ID, addr+"/p/q:2", PushOptions{RegistryOptions: RegistryOptions{Creds: "tester:secret"}})
	})

	// Docker's configuration, and the credential helpers that it names.
	kept := home + "/docker/config.json"
	writeFile(t, kept, []byte(`{"HttpHeaders":{"x":"y"}}`))
	if _, err := Login(ctx, addr, LoginOptions{CompatAuthFile: kept, Username: "tester", Password: "secret"}); err != nil {
		t.Fatal(err)
	}
	if raw, _ := os.ReadFile(kept); !bytes.Contains(raw, []byte(`"HttpHeaders"`)) || !bytes.Contains(raw, []byte(addr)) {
		t.Errorf("docker's configuration: %s", raw)
	}
	t.Setenv("DOCKER_CONFIG", home+"/docker")
	mustPull(t, st, addr+"/p/q:2", Options{})
	writeFile(t, kept, []byte(`{"credsStore":"testing"}`))
	writeFile(t, home+"/bin/docker-credential-testing", []byte("#!/bin/sh\nread -r line\necho \"$1 $line\" >>"+home+"/asked\n"+
		"case $1 in get) echo '{\"Username\":\"tester\",\"Secret\":\"secret\"}';; esac\n"))
	if err := os.Chmod(home+"/bin/docker-credential-testing", 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", home+"/bin:"+os.Getenv("PATH"))
	mustPull(t, st, addr+"/p/q:2", Options{})
	if err := login(RegistryOptions{}, "secret"); err != nil {
		t.Error(err)
	}
	asked, _ := os.ReadFile(home + "/asked")
	if !bytes.Contains(asked, []byte("get "+addr)) || !bytes.Contains(asked, []byte(`store {"ServerURL":"`+addr)) {
		t.Errorf("the helper was asked: %s", asked)
	}
}

func TestRegistryKey(t *testing.T) {
	for in, want := range map[string]string{
		"": "docker.io", "docker.io": "docker.io", "https://index.docker.io/v1/": "docker.io", "index.docker.io": "docker.io",
		"quay.io": "quay.io", "https://quay.io": "quay.io", "http://localhost:5000/": "localhost:5000", "quay.io/team": "quay.io/team",
		"localhost": "localhost", "registry.example.com:8443": "registry.example.com:8443",
	} {
		if got, err := RegistryKey(in); err != nil || got != want {
			t.Errorf("RegistryKey(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"foo", "a b", "quay.io/x:tag", "https://", "UPPER.io/X"} {
		if got, err := RegistryKey(in); !errors.Is(err, ErrBadReference) {
			t.Errorf("RegistryKey(%q) = %q, %v", in, got, err)
		}
	}
}
