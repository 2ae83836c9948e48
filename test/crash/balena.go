package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
)

// balena is the engine itself.
type balena struct {
	path   string
	listed map[string]bool // IDs of the images of the last snapshot
}

func (*balena) name() string    { return "balena" }
func (*balena) traceable() bool { return true }

func (b *balena) argv(w *world) []string {
	return []string{b.path, "--root", w.root(), "--runroot", w.runRoot()}
}

func (*balena) env(w *world) []string {
	return []string{"REGISTRY_AUTH_FILE=" + filepath.Join(w.mnt(), "auth.json"), "SOURCE_DATE_EPOCH=1700000000"}
}
func (*balena) boot(*world) error { return nil }

func (b *balena) snapshot(w *world) (snapshot, error) {
	s, err := imageNames(w)
	if err != nil {
		return nil, err
	}
	// A list's ID is made up: what counts is what is in it.
	for key := range s {
		if name, ok := strings.CutPrefix(key, "image list"); ok {
			if s[key], err = w.output([]string{"manifest", "inspect", "list" + name}); err != nil {
				return nil, err
			}
		}
	}
	out, err := w.output([]string{"images", "-aq", "--no-trunc"})
	if err != nil {
		return nil, err
	}
	b.listed = map[string]bool{}
	for _, id := range strings.Fields(out) {
		b.listed[strings.TrimPrefix(id, "sha256:")] = true
	}
	if out, err = w.output([]string{"ps", "-a", "--no-trunc", "--format", "{{.Names}}"}); err != nil {
		return nil, err
	}
	for _, name := range strings.Fields(out) {
		state, err := w.output([]string{"container", "inspect", "--format", "{{.State.Status}} {{.State.ExitCode}} {{.Image}}", name})
		if err != nil {
			return nil, err
		}
		s["container "+name] = strings.TrimSpace(state)
	}
	if _, err := os.Stat(filepath.Join(w.mnt(), "auth.json")); err == nil {
		if out, err := w.output([]string{"login", "--get-login", w.registry}); err == nil {
			s["login"] = strings.TrimSpace(out)
		} else if !strings.Contains(err.Error(), "not logged in") {
			return nil, err
		}
	}
	if raw, err := os.ReadFile(w.file()); err == nil {
		s["file"] = digest.FromBytes(raw).String()
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return s, nil
}

func (b *balena) verify(w *world) error {
	s, err := readStore(w.root())
	if err != nil {
		return err
	}
	_, _, err = b.database(w)
	if err := errors.Join(err, s.verify(w, b.listed, true)); err != nil || w.stillDamaged() {
		return err
	}
	return w.do([]string{"system", "check"}) // has to agree
}

// database reads the engine's records: IDs of containers, names of volumes.
func (b *balena) database(w *world) (containers, volumes map[string]bool, err error) {
	containers, volumes = map[string]bool{}, map[string]bool{}
	path := filepath.Join(w.root(), "balena.db")
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return containers, volumes, nil
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true})
	if err != nil {
		return nil, nil, err
	}
	defer db.Close()
	err = db.View(func(tx *bolt.Tx) error {
		for err := range tx.Check() {
			return fmt.Errorf("database: %w", err)
		}
		for bucket, into := range map[string]map[string]bool{"containers": containers, "volumes": volumes} {
			if err := tx.Bucket([]byte(bucket)).ForEach(func(k, _ []byte) error { into[string(k)] = true; return nil }); err != nil {
				return err
			}
		}
		return nil
	})
	return containers, volumes, err
}

func (b *balena) leaks(w *world) ([]string, error) {
	s, err := readStore(w.root())
	if err != nil {
		return nil, err
	}
	containers, volumes, err := b.database(w)
	if err != nil {
		return nil, err
	}
	out := s.leaks()
	for _, c := range s.containers {
		if !containers[c.ID] {
			out = append(out, "layer of a container that is not recorded: "+c.ID)
		}
	}
	out = append(out, strangers(w.root(), "containers", func(n string) bool { return containers[n] })...)
	out = append(out, strangers(w.root(), "volumes", func(n string) bool { return volumes[n] })...)
	out = append(out, strangers(w.root(), "build", func(n string) bool { return n == "lock" || strings.HasPrefix(n, "buildah-cache-") })...)
	top := []string{"balena.db", "balena.lock", "build", "containers", "volumes", "reserve", "storage.lock", "userns.lock",
		"overlay", "overlay-layers", "overlay-images", "overlay-containers"}
	out = append(out, strangers(w.root(), ".", func(n string) bool { return slices.Contains(top, n) })...)
	return append(out, strangers(w.mnt(), ".", func(n string) bool {
		return n == "root" || n == "lost+found" || n == "auth.json" || n == filepath.Base(w.file())
	})...), nil
}
