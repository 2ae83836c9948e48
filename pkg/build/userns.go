package build

import (
	"fmt"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"go.podman.io/buildah/define"
	"go.podman.io/storage/pkg/unshare"
)

// Userns is a user namespace that a build's commands get for themselves. The
// zero value is that of the engine.
type Userns struct {
	How      string   // "" and "host" are the engine's; "private"; else the path of one
	UIDMap   []string // CONTAINER:HOST:SIZE
	GIDMap   []string // the same; none is UIDMap
	UIDUser  string   // whose ranges of /etc/subuid it gets
	GIDGroup string   // whose of /etc/subgid; "" is UIDUser
}

// userns sets a user namespace up as buildah has it: layers are made as the
// mapped users see them.
func (b *builder) userns() error {
	u := b.o.Userns
	uids, err := idMap(u.UIDMap)
	if err != nil {
		return err
	}
	gids, err := idMap(u.GIDMap)
	if err != nil {
		return err
	}
	if u.UIDUser != "" || u.GIDGroup != "" {
		user, group := u.UIDUser, u.GIDGroup
		if user == "" {
			user = group
		}
		if group == "" {
			group = user
		}
		if uids, gids, err = unshare.GetSubIDMappings(user, group); err != nil {
			return fmt.Errorf("%w: subordinate IDs of %s: %w", ErrOptions, user, err)
		}
	}
	if len(uids) == 0 {
		uids = gids
	}
	if len(gids) == 0 {
		gids = uids
	}
	switch {
	case len(uids) == 0 && (u.How == "" || u.How == "host"):
		return nil
	case u.How == "host":
		return fmt.Errorf("%w: the host's user namespace cannot have maps", ErrOptions)
	case len(uids) == 0 && (u.How == "private" || u.How == "container" || u.How == "auto"):
		return fmt.Errorf("%w: a user namespace needs a map: --userns-uid-map CONTAINER:HOST:SIZE or --userns-uid-map-user USER", ErrOptions)
	}
	o := define.NamespaceOption{Name: string(specs.UserNamespace)}
	if strings.HasPrefix(u.How, "/") {
		o.Path = u.How
	} else if u.How != "" && u.How != "private" && u.How != "container" && u.How != "auto" {
		return fmt.Errorf("%w: user namespace %q is not host, private or a path", ErrOptions, u.How)
	}
	b.namespace(o)
	b.buildah.IDMappingOptions = &define.IDMappingOptions{UIDMap: uids, GIDMap: gids}
	return nil
}

// idMap reads CONTAINER:HOST:SIZE.
func idMap(list []string) ([]specs.LinuxIDMapping, error) {
	var out []specs.LinuxIDMapping
	for _, s := range list {
		f := strings.Split(s, ":")
		if len(f) != 3 {
			return nil, fmt.Errorf("%w: map %q is not CONTAINER:HOST:SIZE", ErrOptions, s)
		}
		var n [3]uint32
		for i := range f {
			v, err := strconv.ParseUint(f[i], 10, 32)
			if err != nil {
				return nil, fmt.Errorf("%w: map %q: %w", ErrOptions, s, err)
			}
			n[i] = uint32(v)
		}
		out = append(out, specs.LinuxIDMapping{ContainerID: n[0], HostID: n[1], Size: n[2]})
	}
	return out, nil
}
