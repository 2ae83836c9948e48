package pull

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.podman.io/storage"

	"github.com/balena-os/balena/pkg/delta"
)

// manyFiles is a layer with more headers than fit in a page.
func manyFiles(t testing.TB) []byte {
	var entries []entry
	for i := range 700 {
		entries = append(entries, entry{name: fmt.Sprintf("many/%d/file%d", i%7, i), content: strings.Repeat("x", i)})
	}
	return append(tarOf(t, entries...), bytes.Repeat([]byte{0, 1}, 70_000)...) // and bytes after its end
}

func openTestImageTar(t testing.TB, layers storage.Store, id string) *imageTar {
	t.Helper()
	img, err := layers.Image(id)
	if err != nil {
		t.Fatal(err)
	}
	tar, err := openImageTar(context.Background(), layers, img)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tar.Close() })
	return tar
}

func TestImageTar(t *testing.T) {
	for _, driver := range []string{"overlay", "vfs"} {
		t.Run(driver, func(t *testing.T) {
			st, layers := openTestStore(t, driver)
			reg := newTestRegistry(t)
			tars := [][]byte{baseLayer(t), nil, manyFiles(t), make([]byte, 1024), upperLayer(t)}
			var packed []testLayer
			for _, b := range tars {
				packed = append(packed, gz(b))
			}
			reg.image("v1", "amd64", packed...)
			tar := openTestImageTar(t, layers, mustPull(t, st, reg.host()+"/a/b:v1", Options{}).ID)
			want := slices.Concat(tars...)
			if tar.size != int64(len(want)) {
				t.Fatalf("%d bytes instead of %d", tar.size, len(want))
			}
			var kept int
			for _, l := range tar.layers {
				for _, g := range l.pages {
					kept += len(g.packed)
				}
			}
			if kept > 100*720 {
				t.Errorf("%d bytes are kept for 720 files", kept)
			}
			got, err := io.ReadAll(io.NewSectionReader(tar, 0, tar.size))
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("read in one go: %d bytes, %v", len(got), err)
			}
			readAnywhere(t, tar, want)
			if err := tar.check(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
}

// readAnywhere reads at random places, by several goroutines.
func readAnywhere(t *testing.T, tar *imageTar, want []byte) {
	var wg sync.WaitGroup
	for seed := range uint64(4) {
		wg.Go(func() {
			g := rand.New(rand.NewPCG(seed, 0))
			for range 500 {
				at := g.IntN(len(want) + 10)
				p := make([]byte, g.IntN(1<<g.IntN(18)))
				n, err := tar.ReadAt(p, int64(at))
				rest := want[min(at, len(want)):]
				if !bytes.Equal(p[:n], rest[:min(len(p), len(rest))]) || (n < len(p)) != (err == io.EOF) {
					t.Errorf("%d bytes at %d: %d, %v", len(p), at, n, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if len(tar.pages) > tarPagesOpen || len(tar.files) > tarFilesOpen {
		t.Errorf("%d pages and %d files are open", len(tar.pages), len(tar.files))
	}
}

func TestImageTarDamaged(t *testing.T) {
	st, layers := openTestStore(t, "overlay")
	reg := newTestRegistry(t)
	reg.image("v1", "amd64", gz(baseLayer(t)), gz(upperLayer(t)))
	id := mustPull(t, st, reg.host()+"/a/b:v1", Options{}).ID
	bottom := imageLayers(t, layers, id)[0].ID
	file := filepath.Join(layers.GraphRoot(), "overlay", bottom, "diff", "etc", "passwd")
	for name, damage := range map[string]func(){
		"changed": func() { os.WriteFile(file, []byte("ROOT:x:0:0\n"), 0o644) },
		"shorter": func() { os.WriteFile(file, []byte("root:x"), 0o644) },
		"gone":    func() { os.Remove(file) },
		"a link":  func() { os.Symlink("hard", file) },
	} {
		os.RemoveAll(file)
		damage()
		tar := openTestImageTar(t, layers, id)
		_, err := io.Copy(io.Discard, io.NewSectionReader(tar, 0, tar.size))
		var damaged *delta.BaseError
		if name != "changed" && (!errors.As(err, &damaged) || damaged.Path != "etc/passwd" || !strings.Contains(err.Error(), bottom)) {
			t.Errorf("%s: reading it: %v", name, err)
		}
		if name == "a link" {
			continue // to what has the right content
		}
		if err := tar.check(context.Background()); !errors.Is(err, ErrDamagedLayer) || !strings.Contains(err.Error(), "etc/passwd") || !strings.Contains(err.Error(), bottom) {
			t.Errorf("%s: checking it: %v", name, err)
		}
	}
	record := filepath.Join(layers.GraphRoot(), "overlay-layers", bottom+".tar-split.gz")
	if err := os.Rename(record, record+"x"); err != nil {
		t.Fatal(err)
	}
	img, err := layers.Image(id)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openImageTar(context.Background(), layers, img); err == nil || !strings.Contains(err.Error(), bottom) {
		t.Errorf("without a record: %v", err)
	}
}
