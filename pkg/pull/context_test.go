package pull

import (
	"context"
	"os"
	"testing"

	"go.podman.io/image/v5/pkg/sysregistriesv2"
	"go.podman.io/image/v5/types"
)

// In a user namespace root's files are not ours.
func TestAuthFileOfUser(t *testing.T) {
	home := ownHome(t)
	context := func(o RegistryOptions) string {
		t.Helper()
		sys, err := o.Context(nil)
		if err != nil {
			t.Fatal(err)
		}
		return sys.AuthFilePath
	}
	for _, c := range []struct{ uid, run, env, want string }{
		{"0", home + "/run", "", ""},    // containers/image knows
		{"0", "", "", ""},               // /run/containers/0/auth.json
		{"1000", home + "/run", "", ""}, //
		{"1000", "", "", home + "/.config/containers/auth.json"},
		{"1000", home + "/nowhere", "", home + "/.config/containers/auth.json"},
		{"1000", "", "/x/auth.json", "/x/auth.json"},
	} {
		t.Setenv("_CONTAINERS_ROOTLESS_UID", c.uid)
		t.Setenv("XDG_RUNTIME_DIR", c.run)
		t.Setenv("REGISTRY_AUTH_FILE", c.env)
		if got := context(RegistryOptions{}); got != c.want {
			t.Errorf("%+v: got %q", c, got)
		}
	}
	t.Setenv("REGISTRY_AUTH_FILE", "")
	t.Setenv("XDG_RUNTIME_DIR", "")
	writeFile(t, home+"/.docker/config.json", []byte(`{}`))
	if got := context(RegistryOptions{}); got != home+"/.docker/config.json" {
		t.Errorf("with docker's configuration: %q", got)
	}
	if _, err := (RegistryOptions{AuthFile: home + "/missing"}).Context(nil); err == nil {
		t.Error("an auth file that is not there was accepted")
	}
	if _, err := (RegistryOptions{Creds: ":x"}).Context(nil); err == nil {
		t.Error("credentials without a user were accepted")
	}
}

func TestRegistriesConf(t *testing.T) {
	home := ownHome(t)
	st, _ := openTestStore(t, "overlay")
	reg := newTestRegistry(t)
	reg.image("v1", "amd64", gz(upperLayer(t)))
	conf := func(text string) {
		writeFile(t, home+"/registries.conf", []byte(text))
		t.Setenv("CONTAINERS_REGISTRIES_CONF", home+"/registries.conf")
		sysregistriesv2.InvalidateCache()
	}
	defer sysregistriesv2.InvalidateCache()

	conf("[[registry]]\nlocation = 'registry.invalid'\n[[registry.mirror]]\nlocation = '" + reg.host() + "'\ninsecure = true\n")
	if img := mustPull(t, st, "registry.invalid/a/b:v1", Options{}); img.Name != "registry.invalid/a/b:v1" {
		t.Errorf("through a mirror: %+v", img)
	}
	conf("[[registry]]\nlocation = '" + reg.host() + "'\nblocked = true\n")
	if _, err := Pull(context.Background(), st, reg.host()+"/a/b:v1", Options{}); err == nil {
		t.Error("a blocked registry was asked")
	}
	// Where another registry is behind a loopback name, nothing is taken unverified.
	conf("[[registry]]\nlocation = '" + reg.host() + "'\n[[registry.mirror]]\nlocation = 'mirror.example.com'\n")
	named, err := ParseName(reg.host() + "/a/b:v1")
	if err != nil {
		t.Fatal(err)
	}
	if sys, err := (RegistryOptions{}).Context(named); err != nil || sys.DockerInsecureSkipTLSVerify != types.OptionalBoolUndefined {
		t.Errorf("loopback with a mirror elsewhere: %v %v", sys.DockerInsecureSkipTLSVerify, err)
	}
	_ = os.Remove(home + "/registries.conf")
}
