package pull

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/docker/distribution/registry/api/errcode"
	helper "github.com/docker/docker-credential-helpers/client"
	"github.com/docker/docker-credential-helpers/credentials"
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/pkg/docker/config"
	"go.podman.io/image/v5/types"

	"github.com/balena-os/balena/pkg/durable"
)

// Errors about credentials.
var (
	ErrNotLoggedIn    = errors.New("not logged in")
	ErrBadCredentials = errors.New("the registry does not accept this username and password")
)

// ErrUnauthorized is for a registry that wants credentials, or others.
var ErrUnauthorized = errors.New("the registry wants credentials")

// unauthorized marks an error that says so with ErrUnauthorized; its text
// stays as it is.
func unauthorized(err error) error {
	var code errcode.ErrorCoder
	var refused docker.ErrUnauthorizedForCredentials
	if errors.As(err, &refused) || errors.As(err, &code) && (code.ErrorCode() == errcode.ErrorCodeUnauthorized || code.ErrorCode() == errcode.ErrorCodeDenied) {
		return unauthorizedError{err}
	}
	return err
}

type unauthorizedError struct{ error }

func (e unauthorizedError) Unwrap() error        { return e.error }
func (e unauthorizedError) Is(target error) bool { return target == ErrUnauthorized }

// LoginOptions say which credentials are kept and where. A password goes
// nowhere but to the registry and to where it is kept: an auth file of mode
// 0600, or the stdin of a credential helper.
type LoginOptions struct {
	RegistryOptions
	CompatAuthFile     string // a docker config.json to change instead of an auth file
	Username, Password string
}

// RegistryKey reads what people name a registry by, as HOST[:PORT],
// HOST[:PORT]/REPOSITORY or a URL. "" is docker.io.
func RegistryKey(name string) (string, error) {
	switch name {
	case "", "index.docker.io", "registry-1.docker.io", dockerHubKey:
		return "docker.io", nil
	}
	if strings.HasPrefix(name, "https://") || strings.HasPrefix(name, "http://") {
		u, err := url.Parse(name)
		if err != nil || u.Host == "" {
			return "", fmt.Errorf("%w: %q is no registry", ErrBadReference, name)
		}
		name = u.Host
	}
	name = strings.TrimSuffix(name, "/")
	named, err := reference.ParseNormalizedNamed(probeName(name))
	host, _, _ := strings.Cut(name, "/")
	if err != nil || !reference.IsNameOnly(named) || reference.Domain(named) != host {
		return "", fmt.Errorf("%w: %q is no registry", ErrBadReference, name)
	}
	return name, nil
}

// probeName turns a registry into the name of a repository in it.
func probeName(key string) string {
	if strings.Contains(key, "/") {
		return key
	}
	return key + "/probe"
}

// loginContext is like Context for the registry that key names.
func (o LoginOptions) loginContext(key string) (*types.SystemContext, error) {
	var ref reference.Named
	ref, err := reference.ParseNormalizedNamed(probeName(key))
	if err != nil {
		return nil, fmt.Errorf("%w: %q is no registry", ErrBadReference, key)
	}
	file := o.AuthFile
	o.AuthFile = "" // it need not be there yet
	sys, err := o.Context(ref)
	if err != nil {
		return nil, err
	}
	switch {
	case file != "" && o.CompatAuthFile != "":
		return nil, errors.New("an auth file and a docker configuration cannot both be changed")
	case o.CompatAuthFile != "":
		sys.AuthFilePath, sys.DockerCompatAuthFilePath = "", o.CompatAuthFile
	case file != "":
		sys.AuthFilePath = file
	}
	return sys, nil
}

// Login asks the registry whether it takes the credentials and keeps them. It
// returns where. ErrBadCredentials.
func Login(ctx context.Context, registry string, o LoginOptions) (where string, err error) {
	key, err := RegistryKey(registry)
	if err != nil {
		return "", err
	}
	sys, err := o.loginContext(key)
	if err != nil {
		return "", err
	}
	host, _, _ := strings.Cut(key, "/")
	sys.DockerAuthConfig = nil
	if err := docker.CheckAuth(ctx, sys, o.Username, o.Password, host); err != nil {
		var refused docker.ErrUnauthorizedForCredentials
		if errors.As(err, &refused) {
			return "", fmt.Errorf("logging in to %s: %w", key, ErrBadCredentials)
		}
		return "", fmt.Errorf("logging in to %s: %w", key, err)
	}
	if store, err := o.credentialStore(); err != nil {
		return "", err
	} else if store != "" {
		c := &credentials.Credentials{ServerURL: storeKey(host), Username: o.Username, Secret: o.Password}
		if err := helper.Store(helper.NewShellProgramFunc("docker-credential-"+store), c); err != nil {
			return "", fmt.Errorf("keeping the credentials with docker-credential-%s: %w", store, err)
		}
		return "credential helper " + store, nil
	}
	sweepAuthFile(sys)
	where, err = config.SetCredentials(sys, key, o.Username, o.Password)
	if err != nil {
		return "", fmt.Errorf("keeping the credentials: %w", err)
	}
	return where, syncAuthFile(sys)
}

// sweepAuthFile removes what a power cut left of earlier changes beside a named
// file: copies with credentials in them.
func sweepAuthFile(sys *types.SystemContext) {
	for _, f := range []string{sys.AuthFilePath, sys.DockerCompatAuthFilePath} {
		if f == "" {
			continue
		}
		old, _ := filepath.Glob(filepath.Join(filepath.Dir(f), ".tmp-"+filepath.Base(f)+"*"))
		for _, o := range old {
			if st, err := os.Lstat(o); err == nil && time.Since(st.ModTime()) > time.Minute {
				_ = os.Remove(o)
			}
		}
	}
}

// syncAuthFile makes a change of credentials in a named file durable: the file
// was synced, the folder that it was renamed in was not. The unnamed one lies
// where a reboot forgets it.
func syncAuthFile(sys *types.SystemContext) error {
	for _, f := range []string{sys.AuthFilePath, sys.DockerCompatAuthFilePath} {
		if f == "" {
			continue
		}
		if err := durable.SyncDir(filepath.Dir(f)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("keeping the credentials: %w", err)
		}
	}
	return nil
}

// credentialStore is docker's "credsStore" where the user did not say which
// file to use.
func (o LoginOptions) credentialStore() (string, error) {
	if o.authFile() != "" || o.CompatAuthFile != "" {
		return "", nil
	}
	return dockerCredentialStore()
}

// Credentials returns what is kept for a registry: the username, "" for a
// token, and the password or token. ErrNotLoggedIn.
func Credentials(registry string, o LoginOptions) (username, secret string, err error) {
	key, err := RegistryKey(registry)
	if err != nil {
		return "", "", err
	}
	sys, err := o.loginContext(key)
	if err != nil {
		return "", "", err
	}
	if sys.DockerAuthConfig != nil { // of docker's credential store
		return sys.DockerAuthConfig.Username, sys.DockerAuthConfig.Password, nil
	}
	c, err := config.GetCredentials(sys, key)
	switch {
	case err != nil:
		return "", "", fmt.Errorf("reading the credentials of %s: %w", key, err)
	case c.IdentityToken != "":
		return "", c.IdentityToken, nil
	case c.Username == "":
		return "", "", fmt.Errorf("%w: %s", ErrNotLoggedIn, key)
	}
	return c.Username, c.Password, nil
}

// Logout forgets the credentials of a registry. ErrNotLoggedIn.
func Logout(registry string, o LoginOptions) error {
	key, err := RegistryKey(registry)
	if err != nil {
		return err
	}
	sys, err := o.loginContext(key)
	if err != nil {
		return err
	}
	sys.DockerAuthConfig = nil
	gone := false
	if store, err := o.credentialStore(); err == nil && store != "" {
		host, _, _ := strings.Cut(key, "/")
		gone = helper.Erase(helper.NewShellProgramFunc("docker-credential-"+store), storeKey(host)) == nil
	}
	sweepAuthFile(sys)
	err = config.RemoveAuthentication(sys, key)
	switch {
	case errors.Is(err, config.ErrNotLoggedIn):
		if gone {
			return nil
		}
		if c, e := config.GetCredentials(sys, key); e == nil && c.Username != "" {
			return fmt.Errorf("%w to %s with this tool: its credentials are docker's, take them away with 'docker logout' or --compat-auth-file", ErrNotLoggedIn, key)
		}
		return fmt.Errorf("%w: %s", ErrNotLoggedIn, key)
	case err != nil:
		return fmt.Errorf("forgetting the credentials of %s: %w", key, err)
	}
	return syncAuthFile(sys)
}

// LogoutAll forgets all credentials.
func LogoutAll(o LoginOptions) error {
	sys, err := o.loginContext("docker.io")
	if err != nil {
		return err
	}
	if err := config.RemoveAllAuthentication(sys); err != nil {
		return fmt.Errorf("forgetting all credentials: %w", err)
	}
	return syncAuthFile(sys)
}
