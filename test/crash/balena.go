package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

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
	return []string{"REGISTRY_AUTH_FILE=" + filepath.Join(w.mnt(), "auth.json")}
}
func (*balena) boot(*world) error { return nil }

func (*balena) ops(w *world) []*op {
	one, two, tiny := w.registry+"/app:1", w.registry+"/app:2", w.registry+"/app:tiny"
	pull1, pull2 := []string{"pull", "-q", one}, []string{"pull", "-q", two}
	sleeper := []string{"--name", "c", "--network", "none", "-v", "data:/data", one, "sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.1; done"}
	with := func(verb string, more ...string) []string { return append(append([]string{verb}, more...), sleeper...) }
	created := [][]string{pull1, with("create")}
	ran := [][]string{pull1, {"run", "--name", "c", "--network", "none", "-v", "/data", one, "true"}}
	start := [][]string{{"start", "c"}}
	// Leftovers of containers go with the next start.
	sweep := [][]string{{"run", "--rm", "--network", "none", one, "true"}}
	// A container that is there is started, one that is not is made.
	startOr := func(run []string) func(snapshot) [][]string {
		return func(s snapshot) [][]string {
			if _, ok := s["container c"]; ok {
				return [][]string{{"rm", "c"}, run}
			}
			return [][]string{run}
		}
	}
	return append(pullOps(w, "pull", "-q"), []*op{
		{name: "delta", weight: 20, steps: [][]string{{"pull", "-q", w.registry + "/delta:1"}}, run: []string{"pull", w.registry + "/delta:2"}, says: "delta"},
		{name: "load", weight: 12, run: []string{"load", "-q", "-i", w.archive()}},
		{name: "first", weight: 10, run: []string{"pull", "-q", tiny}},
		{name: "tag", weight: 4, steps: [][]string{pull1}, run: []string{"tag", one, "other:1"}},
		{name: "retag", weight: 4, steps: [][]string{pull1, pull2}, run: []string{"tag", two, one}},
		{name: "untag", weight: 3, steps: [][]string{pull1, {"tag", one, "other:1"}}, run: []string{"untag", "other:1"}, again: ifThere("image other:1", []string{"untag", "other:1"})},
		{name: "rmi", weight: 8, steps: [][]string{pull1, pull2}, run: []string{"rmi", one}, again: ifThere("image "+one, []string{"rmi", one})},
		{name: "rmi-last", weight: 6, steps: [][]string{pull1}, run: []string{"rmi", one}, again: ifThere("image "+one, []string{"rmi", one})},
		{name: "prune", weight: 6, steps: [][]string{pull1, pull2, {"untag", one}}, run: []string{"image", "prune", "-f"}},
		{name: "create", weight: 8, tidy: sweep, steps: [][]string{pull1}, run: with("create"), again: startOr(with("create"))},
		{name: "run", weight: 10, tidy: sweep, steps: [][]string{pull1}, run: with("run", "-d"), again: startOr(with("run", "-d"))},
		{name: "run-rm", weight: 6, tidy: sweep, steps: [][]string{pull1}, run: []string{"run", "--rm", "--name", "c", "--network", "none", "-v", "/data", one, "true"}, may: []string{"container c"}},
		{name: "start", weight: 4, tidy: sweep, steps: created, run: start[0]},
		{name: "stop", weight: 5, tidy: sweep, steps: created, live: start, run: []string{"stop", "c"}},
		{name: "kill", weight: 2, tidy: sweep, steps: created, live: start, run: []string{"kill", "c"}, again: func(snapshot) [][]string { return nil }, may: []string{"container c"}},
		{name: "rename", weight: 2, tidy: sweep, steps: created, run: []string{"rename", "c", "d"}, again: ifThere("container c", []string{"rename", "c", "d"})},
		{name: "rm", weight: 6, tidy: sweep, steps: ran, run: []string{"rm", "-v", "c"}, again: ifThere("container c", []string{"rm", "-v", "c"})},
		{name: "rm-f", weight: 4, tidy: sweep, steps: created, live: start, run: []string{"rm", "-f", "c"}, again: ifThere("container c", []string{"rm", "c"}), may: []string{"container c"}},
		{name: "login", weight: 3, run: []string{"login", "-u", "tester", "-p", "secret", w.registry}},
		{name: "logout", weight: 2, steps: [][]string{{"login", "-u", "tester", "-p", "secret", w.registry}}, run: []string{"logout", w.registry}, again: ifThere("login", []string{"logout", w.registry}),
			tidy: [][]string{{"login", "-u", "tester", "-p", "secret", w.registry}, {"logout", w.registry}}},
	}...)
}

// ifThere repeats a command if what it removes is still there.
func ifThere(key string, run []string) func(snapshot) [][]string {
	return func(s snapshot) [][]string {
		if _, ok := s[key]; ok {
			return [][]string{run}
		}
		return nil
	}
}

func (b *balena) snapshot(w *world) (snapshot, error) {
	s, err := imageNames(w)
	if err != nil {
		return nil, err
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
	return s, nil
}

func (b *balena) verify(w *world) error {
	s, err := readStore(w.root())
	if err != nil {
		return err
	}
	_, _, err = b.database(w)
	if err := errors.Join(err, s.verify(w.images, b.listed, true)); err != nil {
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
	if _, err := os.Stat(filepath.Join(w.root(), "balena.db.new")); err == nil {
		out = append(out, "balena.db.new")
	}
	return append(out, strangers(w.mnt(), ".", func(n string) bool { return n == "root" || n == "lost+found" || n == "auth.json" })...), nil
}
