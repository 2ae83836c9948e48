package store

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"go.podman.io/storage"
	"golang.org/x/sys/unix"
)

// The first to open the layers after a reboot removes what nobody will finish,
// and nobody does it again in the same boot.
func TestFirstOpenOfABootTidies(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the storage needs root")
	}
	dir := t.TempDir()
	o := Options{Root: filepath.Join(dir, "root"), RunRoot: filepath.Join(dir, "run"), Driver: "vfs"}
	layer := func() storage.Store {
		s, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		l, err := s.Layers()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		return l
	}
	l := layer()
	for id, names := range map[string][]string{"keep": {"named"}, "bare": nil} {
		if _, err := l.CreateLayer(id, "", names, "", true, nil); err != nil {
			t.Fatal(err)
		}
	}
	l.Free()

	left := []string{
		"overlay/compat123", "overlay/opaque-bug-check7/merged", "overlay/staging/42", "overlay/metacopy-check1",
		"vfs-layers/.tmp-layers.json1", "vfs-images/.tmp-images.json2", "vfs-containers/.tmp-containers.json3",
		"vfs/dir/0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
	}
	for _, p := range append(left, "overlay/staging/used", "overlay/l") {
		if err := os.MkdirAll(filepath.Join(o.Root, p), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range map[string]string{"emptied": "", "named": "ABCD"} {
		dir := filepath.Join(o.Root, "overlay", name)
		if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, "link"), []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	dangling := filepath.Join(o.Root, "overlay/l/ABC")
	if err := os.Symlink("../gone/diff", dangling); err != nil {
		t.Fatal(err)
	}
	unlock := lockInOtherProcess(t, filepath.Join(o.Root, "overlay/staging/used", stagingLock))
	defer unlock()

	layer() // in the same boot
	for _, p := range left {
		if _, err := os.Lstat(filepath.Join(o.Root, p)); err != nil {
			t.Fatalf("%s went while the machine ran: %v", p, err)
		}
	}
	// What was not synced may have the right size and no content.
	for _, p := range []string{"vfs-layers/volatile-layers.json", "vfs-containers/volatile-containers.json"} {
		if err := os.WriteFile(filepath.Join(o.Root, p), make([]byte, 190), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(o.RunRoot, "swept"), []byte("an earlier boot"), 0o600); err != nil {
		t.Fatal(err)
	}
	l = layer()
	if _, err := os.Lstat(filepath.Join(o.Root, "overlay/named/link")); err != nil {
		t.Errorf("a layer's short name: %v", err)
	}
	for _, p := range append(left, "overlay/l/ABC", "overlay/emptied/link") {
		if _, err := os.Lstat(filepath.Join(o.Root, p)); err == nil {
			t.Errorf("%s is still there", p)
		}
	}
	if _, err := os.Lstat(filepath.Join(o.Root, "overlay/staging/used")); err != nil {
		t.Errorf("a staging directory in use: %v", err)
	}
	if !l.Exists("keep") {
		t.Error("a layer went with the leftovers")
	}
	if l.Exists("bare") {
		t.Error("a layer that was made for no container is still there")
	}
}

// lockInOtherProcess takes a record lock as another process would have it: an
// open file description's lock is in its own way as well.
func lockInOtherProcess(t *testing.T, path string) (unlock func()) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	lk := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lk); err != nil {
		t.Fatal(err)
	}
	return func() { f.Close() }
}
