package build

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.podman.io/storage"
)

// The name that buildah gives a step for a moment works, and nobody else sees it.
func TestStepNamesStayInMemory(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the storage needs root")
	}
	dir := t.TempDir()
	st, err := storage.GetStore(storage.StoreOptions{GraphRoot: filepath.Join(dir, "root"), RunRoot: filepath.Join(dir, "run"), GraphDriverName: "vfs"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = st.Shutdown(true) })
	s := &stepNames{Store: st, ids: map[string]string{}}
	img, err := s.CreateImage("", nil, "", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	step, other := "localhost/"+strings.Repeat("0123abcd", 8)+"-tmp:latest", "localhost/a-tmp:latest"
	if err := s.AddNames(img.ID, []string{step}); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Image(step); err != nil || got.ID != img.ID || !slices.Equal(got.Names, []string{step}) {
		t.Errorf("by the step's name: %+v, %v", got, err)
	}
	if _, err := st.Image(step); err == nil {
		t.Error("the step's name is in the store")
	}
	if err := s.AddNames(img.ID, []string{step, other}); err != nil {
		t.Fatal(err)
	}
	if err := s.RemoveNames(img.ID, []string{step}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Image(step); err == nil {
		t.Error("the step's name is still there")
	}
	if got, err := st.Image(other); err != nil || !slices.Equal(got.Names, []string{other}) {
		t.Errorf("another name: %+v, %v", got, err)
	}
}
