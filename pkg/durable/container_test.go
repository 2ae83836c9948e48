package durable

import (
	"os"
	"path/filepath"
	"testing"

	"go.podman.io/storage"
)

// With either driver a container's layer can be synced, and one that is not
// there is an error.
func TestSyncContainer(t *testing.T) {
	for _, driver := range []string{"overlay", "vfs"} {
		st, _ := testStore(t, driver)
		base, err := st.CreateLayer("", "", nil, "", false, nil)
		if err != nil {
			t.Fatal(err)
		}
		img, err := st.CreateImage("", nil, base.ID, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		c, err := st.CreateContainer("c", nil, img.ID, "c", "", &storage.ContainerOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := SyncContainer(st, c.LayerID); err != nil {
			t.Errorf("%s: %v", driver, err)
		}
		if driver == "vfs" {
			continue
		}
		if raw, err := os.ReadFile(filepath.Join(st.GraphRoot(), driver, "c", "lower")); err != nil || len(raw) == 0 {
			t.Errorf("the file that is synced is another now: %v", err)
		}
		if err := SyncContainer(st, "nosuch"); err == nil {
			t.Error("a layer that is not there was synced")
		}
	}
}
