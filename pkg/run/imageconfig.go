package run

import (
	"maps"
	"slices"
	"strings"

	imgspec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/balena-os/balena/pkg/store"
)

// applyImageDefaults fills in what was not asked for from the image's
// configuration, by docker's rules: an entrypoint given on the command line
// drops the image's command too, environment and labels are merged with ours
// winning, everything else is taken only where we have nothing. The image's
// volumes become anonymous ones, unless something is mounted there.
func applyImageDefaults(c *store.Config, img *imgspec.ImageConfig) {
	if len(c.Entrypoint) == 0 {
		if len(c.Cmd) == 0 {
			c.Cmd = slices.Clone(img.Cmd)
		}
		c.Entrypoint = slices.Clone(img.Entrypoint)
	}
	if len(c.Entrypoint) == 1 && c.Entrypoint[0] == "" { // --entrypoint ""
		c.Entrypoint = nil
	}
	c.Env = mergeEnv(img.Env, c.Env)
	if len(img.Labels) > 0 {
		labels := maps.Clone(img.Labels)
		maps.Copy(labels, c.Labels)
		c.Labels = labels
	}
	if c.User == "" {
		c.User = img.User
	}
	if c.WorkingDir == "" {
		c.WorkingDir = img.WorkingDir
	}
	if c.StopSignal == "" {
		c.StopSignal = img.StopSignal
	}
	for _, p := range slices.Sorted(maps.Keys(img.ExposedPorts)) {
		if p = normalPort(p); !slices.Contains(c.Ports, p) {
			c.Ports = append(c.Ports, p)
		}
	}
	for _, v := range slices.Sorted(maps.Keys(img.Volumes)) {
		target := cleanTarget(v)
		if !slices.ContainsFunc(c.Mounts, func(m store.Mount) bool { return m.Target == target }) && target != "/" {
			c.Mounts = append(c.Mounts, store.Mount{Type: "volume", Target: target})
		}
	}
}

// normalPort gives an exposed port its protocol.
func normalPort(p string) string {
	if !strings.Contains(p, "/") {
		return p + "/tcp"
	}
	return strings.ToLower(p)
}

// mergeEnv is base with the values of over put in place of those of the same
// name and the new names appended. The last of several values of one name
// wins. An entry of over without "=" removes the variable.
func mergeEnv(base, over []string) []string {
	var out []string
	at := map[string]int{}
	for _, list := range [][]string{base, over} {
		for _, e := range list {
			name, _, ok := strings.Cut(e, "=")
			i, known := at[name]
			switch {
			case !ok && known:
				out[i] = ""
				delete(at, name)
			case !ok:
			case known:
				out[i] = e
			default:
				at[name] = len(out)
				out = append(out, e)
			}
		}
	}
	return slices.DeleteFunc(out, func(e string) bool { return e == "" })
}
