package run

import (
	"cmp"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/user"
	"github.com/opencontainers/runtime-spec/specs-go"
	"go.podman.io/storage"
	"go.podman.io/storage/pkg/idtools"
	"golang.org/x/sys/unix"

	"github.com/balena-os/balena/pkg/store"
)

// idMaps are the mappings of a container's own user namespace, in ids of the
// namespace that the engine is in. The zero value is no namespace of its own.
type idMaps struct {
	UID, GID []specs.LinuxIDMapping
	User     string // whom the process runs as when nothing else says so; keep-id's UID:GID
}

type usernsMode struct {
	kind     string // "", "host", "keep-id", "auto", "nomap", "private"
	uid, gid *uint32
	size     uint32
}

// parseUserns reads --userns.
func parseUserns(s string) (usernsMode, error) {
	kind, opts, ok := strings.Cut(s, ":")
	m := usernsMode{kind: kind}
	switch kind {
	case "", "host", "nomap", "private":
		if ok {
			return m, conflictf("--userns: invalid mode: %s", s)
		}
		return m, nil
	case "keep-id", "auto":
	default:
		return m, conflictf("--userns: invalid mode: %s: want host, auto, keep-id, nomap or private", s)
	}
	if !ok {
		return m, nil
	}
	for o := range strings.SplitSeq(opts, ",") {
		key, val, _ := strings.Cut(o, "=")
		n, err := strconv.ParseUint(val, 10, 32)
		if err != nil {
			return m, conflictf("--userns: invalid option %q", o)
		}
		id := uint32(n)
		switch {
		case kind == "keep-id" && key == "uid":
			m.uid = &id
		case kind == "keep-id" && key == "gid":
			m.gid = &id
		case kind == "auto" && key == "size":
			m.size = id
		default:
			return m, conflictf("--userns: unknown option %q of %s", key, kind)
		}
	}
	return m, nil
}

// idMappings says how a container's layer is to be made (Create asks
// containers/storage for it) and, but for "auto", where storage chooses and
// the layer's record then tells (see layerMaps), what its namespace maps.
func idMappings(c *store.Config, rootless bool) (idMaps, storage.IDMappingOptions, error) {
	host := storage.IDMappingOptions{HostUIDMapping: true, HostGIDMapping: true}
	m, err := parseUserns(c.Userns)
	if err != nil {
		return idMaps{}, host, err
	}
	own := len(c.UIDMaps) > 0 || len(c.GIDMaps) > 0
	if own && m.kind != "" && m.kind != "private" {
		return idMaps{}, host, conflictf("--userns=%s and --uidmap or --gidmap are mutually exclusive", m.kind)
	}
	var maps idMaps
	switch {
	case own:
		maps, err = explicitMaps(c)
	case m.kind == "private":
		err = conflictf("--userns=private needs --uidmap or --gidmap")
	case m.kind == "", m.kind == "host":
		return idMaps{}, host, nil
	case m.kind == "auto":
		return idMaps{}, storage.IDMappingOptions{AutoUserNs: true, AutoUserNsOpts: storage.AutoUserNsOptions{Size: m.size}}, nil
	case !rootless:
		err = conflictf("--userns=%s is for unprivileged users", m.kind)
	case m.kind == "keep-id":
		maps, err = keepID(m)
	case m.kind == "nomap":
		maps, err = noMap()
	}
	if err == nil {
		err = checkWidth(maps, math.MaxInt)
	}
	if err != nil {
		return idMaps{}, host, err
	}
	return maps, storage.IDMappingOptions{UIDMap: storageMap(maps.UID), GIDMap: storageMap(maps.GID)}, nil
}

// checkWidth refuses what containers/storage, whose IDs are ints of at most most,
// would take for negative numbers on 32 bits.
func checkWidth(maps idMaps, most uint64) error {
	for _, m := range slices.Concat(maps.UID, maps.GID) {
		if uint64(max(m.ContainerID, m.HostID, m.Size)) > most {
			return conflictf("the mapping %d:%d:%d needs balena for 64 bits: this one knows IDs up to %d", m.ContainerID, m.HostID, m.Size, most)
		}
	}
	return nil
}

// layerMaps turns the mappings that a layer was made with into a container's.
func layerMaps(uid, gid []idtools.IDMap) idMaps {
	conv := func(in []idtools.IDMap) (out []specs.LinuxIDMapping) {
		for _, m := range in {
			out = append(out, specs.LinuxIDMapping{ContainerID: uint32(m.ContainerID), HostID: uint32(m.HostID), Size: uint32(m.Size)})
		}
		return out
	}
	return idMaps{UID: conv(uid), GID: conv(gid)}
}

func storageMap(in []specs.LinuxIDMapping) (out []idtools.IDMap) {
	for _, m := range in {
		out = append(out, idtools.IDMap{ContainerID: int(m.ContainerID), HostID: int(m.HostID), Size: int(m.Size)})
	}
	return out
}

// explicitMaps takes --uidmap and --gidmap, either of which stands for both.
func explicitMaps(c *store.Config) (idMaps, error) {
	u, g := c.UIDMaps, c.GIDMaps
	if len(u) == 0 {
		u = g
	}
	if len(g) == 0 {
		g = u
	}
	var maps idMaps
	var err error
	if maps.UID, err = ParseIDMap(u); err != nil {
		return maps, err
	}
	maps.GID, err = ParseIDMap(g)
	return maps, err
}

// ParseIDMap reads CONTAINER:HOST:SIZE mappings (size 1 where it is absent).
// ErrOptions.
func ParseIDMap(in []string) ([]specs.LinuxIDMapping, error) {
	var out []specs.LinuxIDMapping
	for _, s := range in {
		parts := strings.Split(s, ":")
		n := []uint32{0, 0, 1}
		if len(parts) < 2 || len(parts) > 3 {
			return nil, conflictf("invalid id mapping %q: want CONTAINER:HOST:SIZE", s)
		}
		for i, p := range parts {
			v, err := strconv.ParseUint(p, 10, 32)
			if err != nil {
				return nil, conflictf("invalid id mapping %q: %q is not a number", s, p)
			}
			n[i] = uint32(v)
		}
		if n[2] == 0 || uint64(n[0])+uint64(n[2]) > 1<<32 || uint64(n[1])+uint64(n[2]) > 1<<32 {
			return nil, conflictf("invalid id mapping %q: the size is out of range", s)
		}
		out = append(out, specs.LinuxIDMapping{ContainerID: n[0], HostID: n[1], Size: n[2]})
	}
	return out, nil
}

// hostUID and hostGID are the ids outside of the engine's user namespace of
// the user whose engine this is.
func hostUID() uint32 { return outsideID("/proc/self/uid_map", os.Getuid()) }
func hostGID() uint32 { return outsideID("/proc/self/gid_map", os.Getgid()) }

func outsideID(file string, id int) uint32 {
	maps, err := user.ParseIDMapFile(file)
	if err != nil {
		return uint32(id)
	}
	for _, m := range maps {
		if int64(id) >= m.ID && int64(id) < m.ID+m.Count {
			return uint32(m.ParentID + int64(id) - m.ID)
		}
	}
	return uint32(id)
}

// mappedIDs is how many ids from 0 on the engine's own namespace has.
func mappedIDs(file string) (uint32, error) {
	maps, err := user.ParseIDMapFile(file)
	if err != nil {
		return 0, fmt.Errorf("reading our own id mappings: %w", err)
	}
	slices.SortFunc(maps, func(x, y user.IDMap) int { return cmp.Compare(x.ID, y.ID) })
	var next int64
	for _, m := range maps {
		if m.ID != next {
			break
		}
		next = min(m.ID+m.Count, 1<<32-1)
	}
	return uint32(next), nil
}

// keepID maps the user, who is 0 in the engine's namespace, to the same id in
// the container as outside, or to the one asked for, and the subordinate ids
// around it.
func keepID(m usernsMode) (idMaps, error) {
	uid, gid := hostUID(), hostGID()
	if m.uid != nil {
		uid = *m.uid
	}
	if m.gid != nil {
		gid = *m.gid
	}
	nu, err := mappedIDs("/proc/self/uid_map")
	if err != nil {
		return idMaps{}, err
	}
	ng, err := mappedIDs("/proc/self/gid_map")
	if err != nil {
		return idMaps{}, err
	}
	return idMaps{UID: around(uid, nu), GID: around(gid, ng), User: fmt.Sprintf("%d:%d", uid, gid)}, nil
}

// around maps id to 0 of a namespace with n ids, the ones below it to 1 and
// following, the ones above it to what is left.
func around(id, n uint32) []specs.LinuxIDMapping {
	below := min(id, n-1)
	var out []specs.LinuxIDMapping
	if below > 0 {
		out = append(out, specs.LinuxIDMapping{ContainerID: 0, HostID: 1, Size: below})
	}
	out = append(out, specs.LinuxIDMapping{ContainerID: id, HostID: 0, Size: 1})
	if left := n - 1 - below; left > 0 {
		out = append(out, specs.LinuxIDMapping{ContainerID: id + 1, HostID: below + 1, Size: left})
	}
	return out
}

// noMap leaves the user's own id out of the container.
func noMap() (idMaps, error) {
	var maps idMaps
	for file, to := range map[string]*[]specs.LinuxIDMapping{"/proc/self/uid_map": &maps.UID, "/proc/self/gid_map": &maps.GID} {
		n, err := mappedIDs(file)
		if err != nil {
			return maps, err
		}
		if n < 2 {
			return maps, conflictf("--userns=nomap needs subordinate ids: give the user ranges in /etc/subuid and /etc/subgid")
		}
		*to = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1, Size: n - 1}}
	}
	return maps, nil
}

// exposeRootfs lets the root of a container's own user namespace reach its
// rootfs: it needs the right to search the folders on the way. Those below the
// storage root are given it; they stay closed for listing, and the names of
// layers are not to be guessed. About those above it a person must decide.
func exposeRootfs(root, storage string, ids idMaps) error {
	if len(ids.UID) == 0 {
		return nil
	}
	for dir := filepath.Dir(root); ; dir = filepath.Dir(dir) {
		var st unix.Stat_t
		if err := unix.Stat(dir, &st); err != nil {
			return &os.PathError{Op: "stat", Path: dir, Err: err}
		}
		mine := mapped(ids.UID, st.Uid) && mapped(ids.GID, st.Gid) // its root's capabilities count then
		switch {
		case st.Mode&0o001 != 0, mine:
		case strings.HasPrefix(dir, storage+"/"):
			if err := os.Chmod(dir, os.FileMode(st.Mode&0o777|0o011)); err != nil {
				return err
			}
		default:
			return conflictf("a container with a user namespace of its own cannot get to %s: %s may not be searched by other users (chmod o+x %[2]s), or use another --root", storage, dir)
		}
		if dir == "/" {
			return nil
		}
	}
}

func mapped(maps []specs.LinuxIDMapping, host uint32) bool {
	return slices.ContainsFunc(maps, func(m specs.LinuxIDMapping) bool { return host >= m.HostID && host-m.HostID < m.Size })
}
