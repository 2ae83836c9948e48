package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// These are the records of containers/storage that matter here.
type layerRecord struct {
	ID, Parent string
	DiffDigest digest.Digest  `json:"diff-digest"`
	Flags      map[string]any `json:"flags"`
}

type imageRecord struct {
	ID      string
	Digest  digest.Digest
	Names   []string
	Layer   string
	Items   []string                 `json:"big-data-names"`
	Digests map[string]digest.Digest `json:"big-data-digests"`
}

// csStore is the state of a containers/storage store as its files say.
type csStore struct {
	root       string
	layers     map[string]layerRecord
	images     []imageRecord
	containers []containerRecord
}

type containerRecord struct{ ID, Layer string }

func readStore(root string) (*csStore, error) {
	s := &csStore{root: root, layers: map[string]layerRecord{}}
	var layers, volatile []layerRecord
	var more []containerRecord
	err := errors.Join(
		readJSON(filepath.Join(root, "overlay-layers", "layers.json"), &layers),
		readJSON(filepath.Join(root, "overlay-images", "images.json"), &s.images),
		readJSON(filepath.Join(root, "overlay-containers", "containers.json"), &s.containers))
	// These are not synced, and taken for empty when they are not whole.
	_ = readJSON(filepath.Join(root, "overlay-layers", "volatile-layers.json"), &volatile)
	_ = readJSON(filepath.Join(root, "overlay-containers", "volatile-containers.json"), &more)
	for _, l := range append(layers, volatile...) {
		s.layers[l.ID] = l
	}
	s.containers = append(s.containers, more...)
	return s, err
}

// readJSON leaves v as it is when there is no such file.
func readJSON(path string, v any) error {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// verify looks at every layer and image. A container's own layer has no digest
// and may hold anything. What layers of other images than im hold, where the
// operation makes such, their tars say, which must have the recorded digest.
func (s *csStore) verify(w *world, listed map[string]bool, rootMode bool) error {
	var errs []error
	for id, l := range s.layers {
		dir := filepath.Join(s.root, "overlay", id, "diff")
		if l.DiffDigest == "" || l.Flags["incomplete"] != nil || w.stillDamaged() && strings.HasPrefix(w.damaged, dir+"/") {
			continue
		}
		record := filepath.Join(s.root, "overlay-layers", id+".tar-split.gz")
		want, ok := w.images.layers[l.DiffDigest]
		if !ok && !w.makes {
			errs = append(errs, fmt.Errorf("layer %.12s is of no image: %s", id, l.DiffDigest))
			continue
		}
		made, err := verifyTarSplit(record, dir, l.DiffDigest)
		if err != nil {
			errs = append(errs, fmt.Errorf("layer %.12s: %w", id, err))
		}
		if !ok {
			want = made
		}
		if err := verifyTree(dir, want, rootMode && !w.anyRoot); err != nil {
			errs = append(errs, fmt.Errorf("layer %.12s: %w", id, err))
		}
	}
	for _, i := range s.images {
		if i.halfMade() {
			if listed[i.ID] {
				errs = append(errs, fmt.Errorf("image %.12s is shown, and not whole", i.ID))
			}
			continue
		}
		errs = append(errs, s.verifyImage(i))
	}
	return errors.Join(errs...)
}

// halfMade images are those without the item that is written last. The engine
// must not show them, and completes or removes them.
func (i imageRecord) halfMade() bool {
	return len(i.Names) == 0 && !slices.Contains(i.Items, "manifest")
}

func (s *csStore) verifyImage(i imageRecord) error {
	for l := i.Layer; l != ""; l = s.layers[l].Parent {
		if r, ok := s.layers[l]; !ok || r.Flags["incomplete"] != nil {
			return fmt.Errorf("image %.12s: its layer %.12s is missing", i.ID, l)
		}
	}
	have := map[digest.Digest]bool{}
	files, err := os.ReadDir(filepath.Join(s.root, "overlay-images", i.ID))
	if err != nil {
		return fmt.Errorf("image %.12s: %w", i.ID, err)
	}
	for _, f := range files {
		raw, err := os.ReadFile(filepath.Join(s.root, "overlay-images", i.ID, f.Name()))
		if err != nil {
			return err
		}
		have[digest.FromBytes(raw)] = true
	}
	for key, d := range i.Digests {
		if !have[d] {
			return fmt.Errorf("image %.12s: its %s is missing or damaged", i.ID, key)
		}
	}
	if i.Layer == "" { // a list of images has no configuration, and its ID is made up
		return nil
	}
	if !have[digest.NewDigestFromEncoded(digest.SHA256, i.ID)] || !have[i.Digest] {
		return fmt.Errorf("image %.12s: its configuration or manifest is missing", i.ID)
	}
	return nil
}

// leaks lists what lies in the store and belongs to nothing.
func (s *csStore) leaks() []string {
	var out []string
	known := map[string]bool{"l": true, "staging": true, "backingFsBlockDev": true, "tempdirs": true}
	for id, l := range s.layers {
		known[id] = true
		if l.Flags["incomplete"] != nil {
			out = append(out, "incomplete layer "+id)
		}
	}
	out = append(out, strangers(s.root, "overlay", func(n string) bool { return known[n] || strings.HasPrefix(n, ".has-") })...)
	out = append(out, strangers(s.root, "overlay/staging", never)...)
	out = append(out, strangers(s.root, "overlay/tempdirs", never)...)
	out = append(out, strangers(s.root, "overlay-layers/tmp", never)...)
	out = append(out, strangers(s.root, "overlay-layers", func(n string) bool {
		id, _, _ := strings.Cut(n, ".")
		return known[id] || n == "layers.json" || n == "layers.lock" || n == "volatile-layers.json" || n == "tmp"
	})...)
	links, _ := filepath.Glob(filepath.Join(s.root, "overlay", "*", "link"))
	used := map[string]bool{}
	for _, l := range links {
		raw, _ := os.ReadFile(l)
		used[string(raw)] = true
	}
	out = append(out, strangers(s.root, "overlay/l", func(n string) bool { return used[n] })...)
	above := map[string]bool{}
	for _, l := range s.layers {
		above[l.Parent] = true
	}
	for _, c := range s.containers {
		above[c.Layer] = true
	}
	for _, i := range s.images {
		above[i.Layer] = true
		if i.halfMade() {
			out = append(out, "half-made image "+i.ID)
		}
	}
	for id, l := range s.layers {
		if !above[id] && l.DiffDigest == "" {
			out = append(out, "layer of no container: "+id)
		}
	}
	ids := map[string]bool{}
	for _, i := range s.images {
		ids[i.ID] = true
	}
	out = append(out, strangers(s.root, "overlay-images", func(n string) bool { return ids[n] || n == "images.json" || n == "images.lock" })...)
	for _, c := range s.containers {
		ids[c.ID] = true
	}
	return append(out, strangers(s.root, "overlay-containers", func(n string) bool {
		return ids[n] || strings.HasPrefix(n, "containers.") || strings.HasPrefix(n, "volatile-containers.")
	})...)
}

func never(string) bool { return false }

// strangers lists the names in a folder that are not among the known.
func strangers(root, folder string, known func(string) bool) []string {
	list, _ := os.ReadDir(filepath.Join(root, folder))
	var out []string
	for _, f := range list {
		if !known(f.Name()) {
			out = append(out, folder+"/"+f.Name())
		}
	}
	return out
}
