package pull

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/pkg/docker/config"
	"go.podman.io/image/v5/pkg/sysregistriesv2"
	"go.podman.io/image/v5/signature"
	"go.podman.io/image/v5/types"
	"go.podman.io/storage/pkg/configfile"
	"go.podman.io/storage/pkg/homedir"
	"go.podman.io/storage/pkg/unshare"
)

// RegistryOptions say how registries are spoken to. The zero value reads the
// user's own configuration: podman's and docker's auth files, certs.d and
// registries.conf. Every verb that talks to a registry embeds it.
type RegistryOptions struct {
	AuthFile  string // credentials; "" is $REGISTRY_AUTH_FILE, else the files of podman and docker
	Creds     string // USER[:PASSWORD], instead of any file
	CertDir   string // *.crt, *.cert, *.key; "" is certs.d
	TLSVerify *bool  // nil: as registries.conf says, and not for loopback registries
	UserAgent string // "" is containers/image's
}

// Context turns the options into what containers/image takes, for one registry:
// that of ref. A nil ref is none in particular (archives, folders).
func (o RegistryOptions) Context(ref reference.Named) (*types.SystemContext, error) {
	sys := &types.SystemContext{
		AuthFilePath:            o.authFile(),
		DockerCertPath:          o.CertDir,
		DockerRegistryUserAgent: o.UserAgent,
		// Blobs of archives whose layers must be looked at twice. /tmp is
		// memory on a device.
		BigFilesTemporaryDir: os.Getenv("TMPDIR"),
	}
	if sys.AuthFilePath == "" {
		sys.AuthFilePath = unusualAuthFile()
	}
	if o.AuthFile != "" {
		if _, err := os.Stat(o.AuthFile); err != nil {
			return nil, fmt.Errorf("reading credentials: %w", err)
		}
	}
	if o.Creds != "" {
		user, password, _ := strings.Cut(o.Creds, ":")
		if user == "" {
			return nil, errors.New("credentials are USER[:PASSWORD], and the user is empty")
		}
		sys.DockerAuthConfig = &types.DockerAuthConfig{Username: user, Password: password}
	}
	switch {
	case o.TLSVerify != nil && *o.TLSVerify:
		sys.DockerInsecureSkipTLSVerify = types.OptionalBoolFalse
	case o.TLSVerify != nil:
		sys.DockerInsecureSkipTLSVerify = types.OptionalBoolTrue
	case ref != nil && isLoopback(reference.Domain(ref)) && !hasCertificates(sys, reference.Domain(ref)) && !isRedirected(sys, ref):
		sys.DockerInsecureSkipTLSVerify = types.OptionalBoolTrue
	}
	if ref != nil && sys.DockerAuthConfig == nil && o.authFile() == "" {
		creds, err := fromCredentialStore(sys, ref)
		if err != nil {
			return nil, err
		}
		sys.DockerAuthConfig = creds
	}
	return sys, nil
}

func (o RegistryOptions) authFile() string {
	if o.AuthFile != "" {
		return o.AuthFile
	}
	return os.Getenv("REGISTRY_AUTH_FILE")
}

// unusualAuthFile names the file to use where containers/image's own default,
// /run/containers/UID/auth.json, is not the user's: it takes UID from getuid,
// which is 0 in a user namespace. "" where the default serves.
func unusualAuthFile() string {
	if unshare.GetRootlessUID() == 0 {
		return ""
	}
	if run := os.Getenv("XDG_RUNTIME_DIR"); run != "" {
		if _, err := os.Stat(run); err == nil {
			return ""
		}
	}
	ours := persistentAuthFile()
	for _, f := range []string{ours, dockerConfigFile()} {
		if _, err := os.Stat(f); err == nil {
			return f
		}
	}
	return ours
}

// persistentAuthFile is $XDG_CONFIG_HOME/containers/auth.json.
func persistentAuthFile() string {
	dir := os.Getenv("XDG_CONFIG_HOME")
	if dir == "" {
		dir = filepath.Join(homedir.Get(), ".config")
	}
	return filepath.Join(dir, "containers", "auth.json")
}

func dockerConfigFile() string {
	if dir := os.Getenv("DOCKER_CONFIG"); dir != "" {
		return filepath.Join(dir, "config.json")
	}
	return filepath.Join(homedir.Get(), ".docker", "config.json")
}

// isLoopback tells whether host[:port] is this machine, for which docker and
// we take plain HTTP and unverified certificates without being asked.
func isLoopback(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return ip != nil && ip.IsLoopback()
}

// hasCertificates tells whether somebody set up a CA for the registry: then it
// is verified even on loopback.
func hasCertificates(sys *types.SystemContext, hostport string) bool {
	if sys.DockerCertPath != "" {
		return true
	}
	dirs := []string{"/etc/containers/certs.d", "/etc/docker/certs.d", filepath.Join(filepath.Dir(persistentAuthFile()), "certs.d")}
	for _, d := range dirs {
		if found, _ := filepath.Glob(filepath.Join(d, hostport, "*.crt")); len(found) > 0 {
			return true
		}
	}
	return false
}

// isRedirected tells whether registries.conf sends requests for ref elsewhere
// than to loopback addresses.
func isRedirected(sys *types.SystemContext, ref reference.Named) bool {
	reg, err := sysregistriesv2.FindRegistry(sys, ref.Name())
	if err != nil || reg == nil {
		return false // an error comes up again where it can be reported
	}
	sources, err := reg.PullSourcesFromReference(ref)
	if err != nil {
		return true
	}
	for _, s := range sources {
		if !isLoopback(reference.Domain(s.Reference)) {
			return true
		}
	}
	return false
}

// fromCredentialStore asks the credential helper that docker's config.json
// names for all registries ("credsStore"), which containers/image does not
// look at, when no file has credentials for ref. nil when there are none.
func fromCredentialStore(sys *types.SystemContext, ref reference.Named) (*types.DockerAuthConfig, error) {
	store, err := dockerCredentialStore()
	if err != nil || store == "" {
		return nil, err
	}
	creds, err := config.GetCredentialsForRef(sys, ref)
	if err != nil {
		return nil, fmt.Errorf("looking for credentials of %s: %w", reference.Domain(ref), err)
	}
	if creds != (types.DockerAuthConfig{}) {
		return &creds, nil
	}
	return storedCredentials(store, reference.Domain(ref))
}

// policyContext reads policy.json; the caller destroys it. Where none is
// installed every image is accepted, as docker does and as the policy.json of
// podman's packages says.
func policyContext(sys *types.SystemContext) (*signature.PolicyContext, error) {
	policy, err := signature.DefaultPolicy(sys)
	if errors.Is(err, configfile.ErrConfigFileNotFound) || errors.Is(err, fs.ErrNotExist) {
		accept := signature.PolicyRequirements{signature.NewPRInsecureAcceptAnything()}
		policy, err = &signature.Policy{Default: accept}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the signature policy: %w", err)
	}
	pc, err := signature.NewPolicyContext(policy)
	if err != nil {
		return nil, fmt.Errorf("reading the signature policy: %w", err)
	}
	return pc, nil
}
