package pull

import (
	"testing"

	"go.podman.io/storage"
)

// A power cut between an image's record and its items leaves a record without
// a manifest: nobody sees it, a pull completes it, a sweep removes it.
func TestHalfMadeImage(t *testing.T) {
	st, layers := openTestStore(t, "overlay")
	reg := newTestRegistry(t)
	reg.image("v1", "amd64", gz(baseLayer(t)))
	ref := reg.host() + "/a:v1"
	img := mustPull(t, st, ref, Options{})
	top := imageLayers(t, layers, img.ID)[0].ID

	if _, err := layers.CreateImage("", []string{"localhost/keeps-the-layer:1"}, top, "", nil); err != nil {
		t.Fatal(err)
	}
	makeHalf := func() {
		t.Helper()
		if _, err := layers.DeleteImage(img.ID, true); err != nil {
			t.Fatal(err)
		}
		if _, err := layers.CreateImage(img.ID, nil, top, "", &storage.ImageOptions{}); err != nil {
			t.Fatal(err)
		}
		if list, err := List(t.Context(), st, ListOptions{All: true}); err != nil || len(list) != 1 {
			t.Errorf("half an image is shown: %v %v", list, err)
		}
		if found, _, err := Find(layers, img.ID[:12]); err == nil {
			t.Errorf("half an image is found: %v", found.ID)
		}
	}
	makeHalf()
	if again := mustPull(t, st, ref, Options{}); again.ID != img.ID {
		t.Errorf("the pull gave %s", again.ID)
	}
	if list, err := List(t.Context(), st, ListOptions{Names: []string{ref}}); err != nil || len(list) != 1 || list[0].Digest != img.Digest {
		t.Errorf("the pull did not complete it: %v %v", list, err)
	}
	makeHalf()
	if _, err := Sweep(t.Context(), st); err != nil || layers.Exists(img.ID) || !layers.Exists(top) {
		t.Errorf("after the sweep: image %v, layer %v, %v", layers.Exists(img.ID), layers.Exists(top), err)
	}
}
