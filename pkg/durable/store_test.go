package durable

import (
	"archive/tar"
	"bytes"
	"slices"
	"testing"

	"go.podman.io/storage"
)

// What buildah commits through a Store is marked and synced as a pulled layer is.
func TestStoreIsDurable(t *testing.T) {
	st, _ := testStore(t, "overlay")
	d, err := NewStore(st)
	if err != nil {
		t.Fatal(err)
	}
	content := makeTar(t, &tar.Header{Name: "x", Size: 100, Mode: 0o600})
	l, _, err := d.PutLayer("", "", nil, "", false, &storage.LayerOptions{Flags: map[string]any{"own": "kept"}}, bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	rec, err := st.Layer(l.ID)
	if err != nil || !IsDurable(rec.Flags) || rec.Flags["own"] != "kept" {
		t.Errorf("flags of the layer: %v, %v", rec.Flags, err)
	}
	if l, _, err := d.PutLayer("", "", nil, "", true, nil, bytes.NewReader(content)); err != nil || IsDurable(l.Flags) {
		t.Errorf("a container's layer: %v, %v", l, err)
	}
	img, err := d.CreateImage("", []string{"docker.io/library/a:b"}, l.ID, "", nil)
	if err != nil || !slices.Equal(img.Names, []string{"docker.io/library/a:b"}) || img.TopLayer != l.ID {
		t.Errorf("image: %+v, %v", img, err)
	}
	if err := d.AddNames(img.ID, []string{"docker.io/library/c:d"}); err != nil {
		t.Error(err)
	}
	if got, err := st.Image("docker.io/library/c:d"); err != nil || got.ID != img.ID {
		t.Errorf("by its second name: %v, %v", got, err)
	}
}

// PutLayer writes the record twice, and only the second time all of the layer is
// there to be synced.
func TestBarrierWaitsForTheSecondRecord(t *testing.T) {
	b := &barrier{dir: t.TempDir(), skip: 1}
	for i, want := range []int{0, 1} {
		if _, err := b.MarshalJSON(); err != nil || b.done != want {
			t.Errorf("write %d: %d syncs, %v", i+1, b.done, err)
		}
	}
	if err := b.check(); err != nil || b.dir != "" {
		t.Errorf("check: %v", err)
	}
}
