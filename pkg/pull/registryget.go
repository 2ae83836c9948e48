package pull

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/pkg/docker/config"
	"go.podman.io/image/v5/pkg/sysregistriesv2"
	"go.podman.io/image/v5/pkg/tlsclientconfig"
	"go.podman.io/image/v5/types"
	"go.podman.io/storage/pkg/configfile"
	"go.podman.io/storage/pkg/unshare"
)

// A registryPlace is a repository at one location, for the requests that
// containers/image has no function for. It authenticates and verifies as that
// does, with what the same SystemContext says.
type registryPlace struct {
	sys      *types.SystemContext
	host     string // as requests go to
	repo     reference.Named
	insecure bool // by registries.conf

	client *http.Client
	scheme string // "" until known
	auth   string // of the header; "" until known
}

// errNotThere is a 404.
var errNotThere = errors.New("not there")

const (
	maxAnswer = 4 << 20  // of JSON
	maxToken  = 64 << 10 // of a token server
)

// registryPlaces lists where a repository is, mirrors first if they count. d is
// what is going to be asked for: mirrors may be for digests only.
func registryPlaces(sys *types.SystemContext, named reference.Named, d digest.Digest, mirrors bool) ([]*registryPlace, error) {
	canonical, err := reference.WithDigest(reference.TrimNamed(named), d)
	if err != nil {
		return nil, err
	}
	reg, err := sysregistriesv2.FindRegistry(sys, canonical.Name())
	if err != nil {
		return nil, fmt.Errorf("loading registries.conf: %w", err)
	}
	if reg == nil {
		return []*registryPlace{newRegistryPlace(sys, canonical, false)}, nil
	}
	if reg.Blocked {
		return nil, fmt.Errorf("registry %s is blocked by registries.conf", reg.Prefix)
	}
	sources, err := reg.PullSourcesFromReference(canonical)
	if err != nil {
		return nil, err
	}
	if !mirrors { // changes go where a push goes to
		return []*registryPlace{newRegistryPlace(sys, canonical, reg.Insecure)}, nil
	}
	var places []*registryPlace
	for _, s := range sources {
		places = append(places, newRegistryPlace(sys, s.Reference, s.Endpoint.Insecure))
	}
	return places, nil
}

func newRegistryPlace(sys *types.SystemContext, named reference.Named, insecure bool) *registryPlace {
	p := &registryPlace{sys: sys, host: reference.Domain(named), repo: reference.TrimNamed(named), insecure: insecure}
	if p.host == "docker.io" {
		p.host = "registry-1.docker.io"
	}
	if sys.DockerInsecureSkipTLSVerify != types.OptionalBoolUndefined {
		p.insecure = sys.DockerInsecureSkipTLSVerify == types.OptionalBoolTrue
	}
	return p
}

// path is that of something in the repository.
func (p *registryPlace) path(rest string) string {
	return "/v2/" + reference.Path(p.repo) + "/" + rest
}

func (p *registryPlace) connect() error {
	if p.client != nil {
		return nil
	}
	t := tlsclientconfig.NewTransport()
	t.TLSClientConfig = &tls.Config{InsecureSkipVerify: p.insecure} //nolint:gosec // as asked for
	t.MaxIdleConnsPerHost, t.IdleConnTimeout = 1, 5*time.Second
	dir, err := certDir(p.sys, reference.Domain(p.repo))
	if err == nil && dir != "" {
		err = tlsclientconfig.SetupCertificates(dir, t.TLSClientConfig)
	}
	if err != nil {
		return fmt.Errorf("reading the certificates for %s: %w", p.host, err)
	}
	p.client = &http.Client{Transport: t}
	return nil
}

// certDir is the folder with certificates for a registry; "" if there is none.
func certDir(sys *types.SystemContext, hostport string) (string, error) {
	if sys.DockerCertPath != "" {
		return sys.DockerCertPath, nil
	}
	found, err := configfile.GetSearchPaths(&configfile.File{
		Name: "certs", Extension: "d", DoNotUseExtensionForConfigName: true, UserId: unshare.GetRootlessUID(),
	})
	if err != nil {
		return "", err
	}
	for _, dir := range append(found.DropInDirectories, "/etc/docker/certs.d") {
		dir = filepath.Join(dir, hostport)
		if _, err := os.Stat(dir); err == nil {
			return dir, nil
		}
	}
	return "", nil
}

// get fetches something small. errNotThere for a 404.
func (p *registryPlace) get(ctx context.Context, path string, accept ...string) ([]byte, http.Header, error) {
	if err := p.connect(); err != nil {
		return nil, nil, err
	}
	res, err := p.do(ctx, path, accept)
	if err != nil {
		return nil, nil, err
	}
	if res.StatusCode == http.StatusUnauthorized && p.auth == "" {
		challenge := res.Header.Values("WWW-Authenticate")
		discard(res)
		if p.auth, err = p.authorize(ctx, challenge); err != nil {
			return nil, nil, err
		}
		if res, err = p.do(ctx, path, accept); err != nil {
			return nil, nil, err
		}
	}
	defer discard(res)
	switch res.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return nil, nil, fmt.Errorf("%w: %s%s", errNotThere, p.host, path)
	case http.StatusUnauthorized, http.StatusForbidden:
		return nil, nil, unauthorizedError{fmt.Errorf("%s answers %s", p.host, res.Status)}
	default:
		return nil, nil, fmt.Errorf("%s answers %s", p.host, res.Status)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err == nil && len(body) > maxAnswer {
		err = fmt.Errorf("%s answers with more than %d bytes", p.host, maxAnswer)
	}
	return body, res.Header, err
}

// discard lets the connection be used again, if that costs little.
func discard(res *http.Response) {
	_, _ = io.CopyN(io.Discard, res.Body, 64<<10)
	res.Body.Close()
}

// do sends a request. Whether the registry speaks HTTPS is found out by trying,
// where plain HTTP is allowed at all.
func (p *registryPlace) do(ctx context.Context, path string, accept []string) (*http.Response, error) {
	schemes := []string{"https"}
	switch {
	case p.scheme != "":
		schemes = []string{p.scheme}
	case p.insecure:
		schemes = []string{"https", "http"}
	}
	var errs []error
	for _, s := range schemes {
		q, err := http.NewRequestWithContext(ctx, http.MethodGet, s+"://"+p.host+path, nil)
		if err != nil {
			return nil, err
		}
		q.Header["Accept"] = accept
		if p.auth != "" {
			q.Header.Set("Authorization", p.auth)
		}
		if p.sys.DockerRegistryUserAgent != "" {
			q.Header.Set("User-Agent", p.sys.DockerRegistryUserAgent)
		}
		res, err := p.client.Do(q)
		if err == nil {
			p.scheme = s
			return res, nil
		}
		if ctx.Err() != nil {
			return nil, err
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// authorize answers a registry's challenge with the user's credentials.
func (p *registryPlace) authorize(ctx context.Context, challenges []string) (string, error) {
	creds, err := config.GetCredentialsForRef(p.sys, p.repo)
	if err != nil {
		return "", fmt.Errorf("looking for credentials of %s: %w", p.host, err)
	}
	for _, c := range challenges {
		scheme, params := parseChallenge(c)
		switch scheme {
		case "basic":
			q := http.Request{Header: http.Header{}}
			q.SetBasicAuth(creds.Username, creds.Password)
			return q.Header.Get("Authorization"), nil
		case "bearer":
			if p.sys.DockerBearerRegistryToken != "" {
				return "Bearer " + p.sys.DockerBearerRegistryToken, nil
			}
			return p.token(ctx, params, creds)
		}
	}
	return "", unauthorizedError{fmt.Errorf("%s wants an authentication that is not known", p.host)}
}

// token asks the server that the challenge names for a token to read the
// repository with.
func (p *registryPlace) token(ctx context.Context, params map[string]string, creds types.DockerAuthConfig) (string, error) {
	realm, err := url.Parse(params["realm"])
	if err != nil || realm.Scheme != "https" && realm.Scheme != "http" {
		return "", fmt.Errorf("%s names no server for tokens", p.host)
	}
	if realm.Scheme == "http" && p.scheme == "https" {
		return "", unauthorizedError{fmt.Errorf("%s wants the credentials to be sent to %s without encryption", p.host, realm.Host)}
	}
	form := realm.Query()
	form.Set("scope", "repository:"+reference.Path(p.repo)+":pull")
	if s := params["service"]; s != "" {
		form.Set("service", s)
	}
	var q *http.Request
	if creds.IdentityToken != "" {
		form.Set("grant_type", "refresh_token")
		form.Set("refresh_token", creds.IdentityToken)
		form.Set("client_id", "balena")
		q, err = http.NewRequestWithContext(ctx, http.MethodPost, realm.String(), strings.NewReader(form.Encode()))
	} else {
		if creds.Username != "" {
			form.Set("account", creds.Username)
		}
		realm.RawQuery = form.Encode()
		q, err = http.NewRequestWithContext(ctx, http.MethodGet, realm.String(), nil)
	}
	if err != nil {
		return "", err
	}
	if creds.IdentityToken != "" {
		q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	} else if creds.Username != "" {
		q.SetBasicAuth(creds.Username, creds.Password)
	}
	res, err := p.client.Do(q)
	if err != nil {
		return "", err
	}
	defer discard(res)
	if res.StatusCode != http.StatusOK {
		err := fmt.Errorf("%s answers %s when asked for a token", realm.Host, res.Status)
		if res.StatusCode == http.StatusUnauthorized || res.StatusCode == http.StatusForbidden {
			return "", unauthorizedError{err}
		}
		return "", err
	}
	var answer struct {
		Token  string `json:"token"`
		Access string `json:"access_token"`
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, maxToken)).Decode(&answer); err != nil {
		return "", fmt.Errorf("reading the token of %s: %w", realm.Host, err)
	}
	if answer.Token == "" {
		answer.Token = answer.Access
	}
	return "Bearer " + answer.Token, nil
}

// parseChallenge reads SCHEME KEY="VALUE",KEY=VALUE of a WWW-Authenticate
// header, in which a value may have commas.
func parseChallenge(s string) (scheme string, params map[string]string) {
	scheme, s, _ = strings.Cut(strings.TrimSpace(s), " ")
	params = map[string]string{}
	for s != "" {
		var key, value string
		key, s, _ = strings.Cut(s, "=")
		if rest, ok := strings.CutPrefix(s, `"`); ok {
			value, s, _ = strings.Cut(rest, `"`)
			_, s, _ = strings.Cut(s, ",")
		} else {
			value, s, _ = strings.Cut(s, ",")
		}
		params[strings.ToLower(strings.Trim(key, " ,"))] = value
	}
	return strings.ToLower(scheme), params
}

// nextPage is the path that a Link header gives for what follows, on the same
// registry; "" if nothing does.
func nextPage(h http.Header, path string) string {
	link, rel, _ := strings.Cut(h.Get("Link"), ">")
	target, ok := strings.CutPrefix(strings.TrimSpace(link), "<")
	if !ok || !strings.Contains(rel, `rel="next"`) && !strings.Contains(rel, "rel=next") {
		return ""
	}
	here, err := url.Parse(path)
	if err != nil {
		return ""
	}
	next, err := here.Parse(target)
	if err != nil || !strings.HasPrefix(next.Path, "/v2/") {
		return ""
	}
	return next.RequestURI()
}
