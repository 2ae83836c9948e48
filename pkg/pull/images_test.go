package pull

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imgspecv1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/balena-os/balena/pkg/store"
)

// dated puts an image with a date, a label and the layers into the registry.
func dated(r *testRegistry, tag string, created time.Time, label string, layers ...testLayer) {
	cfg := imgspecv1.Image{
		Created: &created, Platform: imgspecv1.Platform{OS: "linux", Architecture: "amd64"}, RootFS: imgspecv1.RootFS{Type: "layers"},
		Config: imgspecv1.ImageConfig{Labels: map[string]string{"who": label, label: ""}, ExposedPorts: map[string]struct{}{"80/tcp": {}, "53/udp": {}}},
	}
	m := imgspecv1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imgspecv1.MediaTypeImageManifest}
	for i, l := range layers {
		cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs, digest.FromBytes(l.tar))
		cfg.History = append(cfg.History, imgspecv1.History{CreatedBy: fmt.Sprint("step ", i), Created: &created},
			imgspecv1.History{CreatedBy: "ENV", EmptyLayer: true, Created: &created})
		m.Layers = append(m.Layers, imgspecv1.Descriptor{MediaType: l.media, Digest: r.add(l.blob), Size: int64(len(l.blob))})
	}
	raw, _ := json.Marshal(cfg)
	m.Config = imgspecv1.Descriptor{MediaType: imgspecv1.MediaTypeImageConfig, Digest: r.add(raw), Size: int64(len(raw))}
	raw, _ = json.Marshal(m)
	r.putManifest(tag, raw, imgspecv1.MediaTypeImageManifest)
}

// threeImages: old (base), mid (base and upper), new (base, upper and another),
// the last without a name.
func threeImages(t *testing.T) (st *store.Store, host string, ids []string) {
	t.Helper()
	ownHome(t)
	st, layers := openTestStore(t, "overlay")
	reg := newTestRegistry(t)
	base, upper, more := gz(baseLayer(t)), gz(upperLayer(t)), gz(tarOf(t, entry{name: "more", content: "more"}))
	day := time.Date(2024, 1, 1, 12, 0, 0, 0, time.UTC)
	dated(reg, "old", day, "a", base)
	dated(reg, "mid", day.AddDate(0, 0, 1), "b", base, upper)
	dated(reg, "new", day.AddDate(0, 0, 2), "b", base, upper, more)
	for _, tag := range []string{"old", "mid", "new"} {
		ids = append(ids, mustPull(t, st, reg.host()+"/r/img:"+tag, Options{}).ID)
	}
	if err := layers.RemoveNames(ids[2], []string{reg.host() + "/r/img:new"}); err != nil {
		t.Fatal(err)
	}
	return st, reg.host(), ids
}

func listIDs(t *testing.T, st *store.Store, o ListOptions) []string {
	t.Helper()
	list, err := List(context.Background(), st, o)
	if err != nil {
		t.Fatalf("%+v: %v", o, err)
	}
	var ids []string
	for _, i := range list {
		ids = append(ids, i.ID)
	}
	return ids
}

func TestList(t *testing.T) {
	ctx := context.Background()
	st, host, ids := threeImages(t)
	old, mid, neu := ids[0], ids[1], ids[2]
	if err := Tag(ctx, st, mid, "debian:12", "localhost/mine"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		o    ListOptions
		want []string
	}{
		{ListOptions{}, []string{neu, mid, old}}, // the newest first
		{ListOptions{Names: []string{host + "/r/img"}}, []string{mid, old}},
		{ListOptions{Names: []string{host + "/r/img:old"}}, []string{old}},
		{ListOptions{Names: []string{"debian"}}, []string{mid}},
		{ListOptions{Names: []string{"mine"}}, []string{mid}}, // localhost/mine
		{ListOptions{Names: []string{"img"}}, nil},            // not docker's reading
		{ListOptions{Names: []string{"im*"}}, []string{mid, old}},
		{ListOptions{Names: []string{"debian", host + "/r/img:old"}}, []string{mid, old}},
		{ListOptions{Filters: []string{"reference=deb*"}}, []string{mid}},
		{ListOptions{Filters: []string{"reference=*:old", "reference=debian:1?"}}, []string{mid, old}},
		{ListOptions{Filters: []string{"dangling=true"}}, []string{neu}},
		{ListOptions{Filters: []string{"dangling=false"}}, []string{mid, old}},
		{ListOptions{Filters: []string{"before=" + mid[:12]}}, []string{old}},
		{ListOptions{Filters: []string{"since=debian:12"}}, []string{neu}},
		{ListOptions{Filters: []string{"until=2024-01-02"}}, []string{old}},
		{ListOptions{Filters: []string{"label=who=b"}}, []string{neu, mid}},
		{ListOptions{Filters: []string{"label=who", "label=a"}}, []string{old}}, // all labels
		{ListOptions{Filters: []string{"label!=b"}}, []string{old}},
		{ListOptions{Filters: []string{"id=" + old[:8]}}, []string{old}},
		{ListOptions{Filters: []string{"label=who=b", "dangling=true"}}, []string{neu}}, // different keys: both
	} {
		if got := listIDs(t, st, c.o); !slices.Equal(got, c.want) {
			t.Errorf("%+v: got %.4s, want %.4s", c.o, got, c.want)
		}
	}
	for _, f := range []string{"nonsense", "nope=1", "dangling=maybe", "before=nothing", "reference=[", "until=yesterday", "label="} {
		if _, err := List(ctx, st, ListOptions{Filters: []string{f}}); !errors.Is(err, ErrBadFilter) {
			t.Errorf("filter %q: %v", f, err)
		}
	}
	if list, _ := List(ctx, st, ListOptions{Names: []string{"debian"}}); len(list[0].Names) != 1 {
		t.Errorf("names that were not asked for: %q", list[0].Names)
	}

	d, err := Inspect(ctx, st, "debian:12")
	if err != nil {
		t.Fatal(err)
	}
	if d.ID != "sha256:"+mid || len(d.RootFS.Layers) != 2 || d.Config.Labels["who"] != "b" || d.Architecture != "amd64" ||
		!slices.Contains(d.RepoTags, "debian:12") || len(d.RepoDigests) != 3 || d.GraphDriver.Data["UpperDir"] == "" || d.Size < 700_000 {
		t.Errorf("inspect: %+v", d)
	}
	if got := d.Config.Ports(); !slices.Equal(got, []string{"53/udp", "80/tcp"}) {
		t.Errorf("ports %q", got)
	}
	steps, err := History(ctx, st, mid)
	if err != nil || len(steps) != 4 || steps[0].ID != d.ID || steps[0].CreatedBy != "ENV" || steps[0].Size != 0 ||
		steps[1].CreatedBy != "step 1" || steps[1].Size == 0 || steps[3].Size+steps[1].Size != d.Size || steps[3].ID != "" {
		t.Errorf("history: %+v, %v", steps, err)
	}
}

func TestTagAndUntag(t *testing.T) {
	ctx := context.Background()
	st, host, ids := threeImages(t)
	layers, _ := st.Layers()
	for _, bad := range []string{"UPPER", "x@" + dig, ""} {
		if err := Tag(ctx, st, ids[0], bad); !errors.Is(err, ErrBadReference) {
			t.Errorf("tag %q: %v", bad, err)
		}
	}
	if err := Tag(ctx, st, "nothing", "x"); !errors.Is(err, ErrNoImage) {
		t.Errorf("tag of nothing: %v", err)
	}
	// A name moves.
	for _, id := range ids[:2] {
		if err := Tag(ctx, st, id, "moves"); err != nil {
			t.Fatal(err)
		}
		if img, name, err := Find(layers, "moves"); err != nil || img.ID != id || name != "docker.io/library/moves:latest" {
			t.Errorf("moves: %v %q %v", img, name, err)
		}
	}
	if _, err := Untag(ctx, st, "moves", host+"/r/img:old"); !errors.Is(err, ErrNotTagged) {
		t.Errorf("untag another's name: %v", err)
	}
	if names, err := Untag(ctx, st, "moves"); err != nil || !slices.Equal(names, []string{"docker.io/library/moves:latest"}) {
		t.Errorf("untag by name: %q %v", names, err)
	}
	if names, err := Untag(ctx, st, ids[1]); err != nil || !slices.Equal(names, []string{host + "/r/img:mid"}) {
		t.Errorf("untag by ID: %q %v", names, err)
	}
	if got := listIDs(t, st, ListOptions{}); len(got) != 2 { // mid has no name, and new was built on it
		t.Errorf("images %.4s", got)
	}
	if got := listIDs(t, st, ListOptions{All: true}); len(got) != 3 {
		t.Errorf("all images %.4s", got)
	}
}

func use(t *testing.T, st *store.Store, id, image string, status store.Status) {
	t.Helper()
	err := st.Update(context.Background(), func(tx *store.Tx) error {
		return tx.PutContainer(&store.Container{ID: strings.Repeat(id, 64), Name: "name-" + id, ImageID: image, State: store.State{Status: status}})
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestRemove(t *testing.T) {
	ctx := context.Background()
	st, host, ids := threeImages(t)
	layers, _ := st.Layers()
	old, mid := host+"/r/img:old", host+"/r/img:mid"
	kinds := func(name string, o RemoveOptions) string {
		removed, err := Remove(ctx, st, name, o)
		var s []string
		for _, r := range removed {
			if r.Untagged != "" {
				s = append(s, r.Untagged)
			} else {
				s = append(s, "deleted")
			}
		}
		if err != nil {
			s = append(s, "error: "+err.Error())
		}
		return strings.Join(s, " ")
	}
	if err := Tag(ctx, st, mid, "second", "third"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		o    RemoveOptions
		want string
	}{
		{"nothing", RemoveOptions{}, "error: no such image: nothing"},
		{"second", RemoveOptions{}, "second:latest"},
		{ids[1], RemoveOptions{}, "error: conflict: unable to delete " + ids[1][:12] + " (must be forced) - image is referenced in multiple repositories"},
		{ids[1], RemoveOptions{Force: true}, mid + " third:latest deleted"}, // its layers are new's
	} {
		if got := kinds(c.name, c.o); got != c.want {
			t.Errorf("remove %s %+v: %q, want %q", c.name, c.o, got, c.want)
		}
	}
	use(t, st, "a", ids[0], store.StatusExited)
	for _, c := range []struct {
		name string
		o    RemoveOptions
		want string
	}{
		{old, RemoveOptions{}, `error: conflict: unable to remove repository reference "` + old + `" (must force) - container aaaaaaaaaaaa is using its referenced image ` + ids[0][:12]},
		{ids[0], RemoveOptions{}, "error: conflict: unable to delete " + ids[0][:12] + " (must be forced) - image is being used by stopped container aaaaaaaaaaaa"},
	} {
		if got := kinds(c.name, c.o); got != c.want {
			t.Errorf("remove %s %+v: %q, want %q", c.name, c.o, got, c.want)
		}
	}
	use(t, st, "a", ids[0], store.StatusRunning)
	if got := kinds(ids[0], RemoveOptions{Force: true}); !strings.Contains(got, "(cannot be forced) - image is being used by running container") {
		t.Errorf("a running container's image: %q", got)
	}
	if got := kinds(old, RemoveOptions{Force: true}); got != old { // the name only
		t.Errorf("forced: %q", got)
	}
	if !layers.Exists(ids[0]) {
		t.Error("a running container's image is gone")
	}
	if got := kinds(ids[2], RemoveOptions{}); got != "deleted deleted deleted" { // itself and what only it had: old has the base
		t.Errorf("the last: %q", got)
	}
}

func TestPrune(t *testing.T) {
	ctx := context.Background()
	st, host, ids := threeImages(t)
	p, err := Prune(ctx, st, PruneOptions{Filters: []string{"until=2024-01-01"}})
	if err != nil || len(p.Removed) != 0 {
		t.Errorf("too young: %+v %v", p, err)
	}
	p, err = Prune(ctx, st, PruneOptions{})
	if err != nil || len(p.Removed) != 2 || p.Removed[0].Deleted != "sha256:"+ids[2] || p.Reclaimed == 0 {
		t.Errorf("dangling: %+v %v", p, err)
	}
	use(t, st, "a", ids[0], store.StatusExited)
	p, err = Prune(ctx, st, PruneOptions{All: true, Filters: []string{"label!=b"}})
	if err != nil || len(p.Removed) != 0 {
		t.Errorf("all without label b: %+v %v", p, err)
	}
	p, err = Prune(ctx, st, PruneOptions{Filters: []string{"dangling=false"}})
	if err != nil || len(p.Removed) == 0 || p.Removed[0].Untagged != host+"/r/img:mid" {
		t.Errorf("all: %+v %v", p, err)
	}
	if got := listIDs(t, st, ListOptions{All: true}); !slices.Equal(got, ids[:1]) {
		t.Errorf("left: %.4s", got)
	}
}
