package pull

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"

	helper "github.com/docker/docker-credential-helpers/client"
	"github.com/docker/docker-credential-helpers/credentials"
	"go.podman.io/image/v5/types"
)

// dockerCredentialStore is the name of the helper that docker's config.json
// has for all registries; "" when there is none.
func dockerCredentialStore() (string, error) {
	path := dockerConfigFile()
	raw, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("reading credentials: %w", err)
	}
	var c struct {
		CredsStore string `json:"credsStore"`
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		return "", fmt.Errorf("reading credentials from %s: %w", path, err)
	}
	return c.CredsStore, nil
}

// dockerHubKey is under what docker keeps the credentials of docker.io.
const dockerHubKey = "https://index.docker.io/v1/"

func storeKey(registry string) string {
	if registry == "docker.io" {
		return dockerHubKey
	}
	return registry
}

// storedCredentials asks docker-credential-STORE; nil when it knows none. The
// registry goes to the helper on stdin, credentials come back on stdout.
func storedCredentials(store, registry string) (*types.DockerAuthConfig, error) {
	c, err := helper.Get(helper.NewShellProgramFunc("docker-credential-"+store), storeKey(registry))
	switch {
	case credentials.IsErrCredentialsNotFound(err), errors.Is(err, exec.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("asking docker-credential-%s for the credentials of %s: %w", store, registry, err)
	case c.Username == "<token>":
		return &types.DockerAuthConfig{IdentityToken: c.Secret}, nil
	}
	return &types.DockerAuthConfig{Username: c.Username, Password: c.Secret}, nil
}
