package main

import (
	"path/filepath"
	"slices"
	"strings"
)

func (*balena) ops(w *world) []*op {
	one, two, tiny := w.registry+"/app:1", w.registry+"/app:2", w.registry+"/app:tiny"
	pull1, pull2 := []string{"pull", "-q", one}, []string{"pull", "-q", two}
	sleeper := []string{"--name", "c", "--network", "none", "-v", "data:/data", one, "sh", "-c", "trap 'exit 3' TERM; : >/dev/shm/ready; sleep 1000 & wait"}
	with := func(verb string, more ...string) []string { return append(append([]string{verb}, more...), sleeper...) }
	created := [][]string{pull1, with("create")}
	ran := [][]string{pull1, {"run", "--name", "c", "--network", "none", "-v", "/data", one, "true"}}
	// The database has room: what is written next to it allocates nothing.
	more := [][]string{pull1, {"create", "--name", "x1", one, "true"}, {"create", "--name", "x2", one, "true"}, {"rm", "x1"}}
	start := [][]string{{"start", "c"}, {"exec", "c", "sh", "-c", "until [ -e /dev/shm/ready ]; do sleep 0.02; done"}}
	// Leftovers of containers go with the next start.
	sweep := [][]string{{"run", "--rm", "--network", "none", one, "true"}}
	// A container that is there is started, one that is not is made.
	startOr := func(run []string) func(snapshot) [][]string {
		return func(s snapshot) [][]string {
			if _, ok := s["container c"]; ok {
				return [][]string{{"start", "c"}, {"rm", "-f", "c"}, run}
			}
			return [][]string{run}
		}
	}
	return append(pullOps(w, "pull", "-q"), []*op{
		{name: "delta", weight: 20, steps: [][]string{{"pull", "-q", w.registry + "/delta:1"}}, run: []string{"pull", w.registry + "/delta:2"}, says: "delta"},
		{name: "load", weight: 12, run: []string{"load", "-q", "-i", w.archive()}},
		{name: "load-delta", weight: 8, steps: [][]string{{"pull", "-q", w.registry + "/delta:1"}}, run: []string{"load", "-q", "-i", w.deltaArchive()}},
		{name: "first", weight: 10, run: []string{"pull", "-q", tiny}},
		{name: "tag", weight: 4, steps: [][]string{pull1}, run: []string{"tag", one, "other:1"}},
		{name: "retag", weight: 4, steps: [][]string{pull1, pull2}, run: []string{"tag", two, one}},
		{name: "untag", weight: 3, steps: [][]string{pull1, {"tag", one, "other:1"}}, run: []string{"untag", "other:1"}, again: ifThere("image other:1", []string{"untag", "other:1"})},
		{name: "rmi", weight: 8, steps: [][]string{pull1, pull2}, run: []string{"rmi", one}, again: ifThere("image "+one, []string{"rmi", one})},
		{name: "rmi-last", weight: 6, steps: [][]string{pull1}, run: []string{"rmi", one}, again: ifThere("image "+one, []string{"rmi", one})},
		{name: "prune", weight: 6, steps: [][]string{pull1, pull2, {"untag", one}}, run: []string{"image", "prune", "-f"}},
		{name: "builder-prune", weight: 6, makes: true, steps: [][]string{pull1, w.build("first"), w.build("second")}, run: []string{"builder", "prune", "-f", "-a"}},
		{name: "create", weight: 8, tidy: sweep, steps: [][]string{pull1}, run: with("create"), again: startOr(with("create"))},
		{name: "run", weight: 10, tidy: sweep, steps: [][]string{pull1}, run: with("run", "-d"), again: startOr(with("run", "-d"))},
		{name: "create-more", weight: 6, tidy: sweep, steps: more, run: with("create"), again: startOr(with("create"))},
		{name: "run-more", weight: 6, tidy: sweep, steps: more, run: with("run", "-d"), again: startOr(with("run", "-d"))},
		{name: "run-rm", weight: 6, tidy: sweep, steps: [][]string{pull1}, run: []string{"run", "--rm", "--name", "c", "--network", "none", "-v", "/data", one, "true"}, may: []string{"container c"}},
		{name: "start", weight: 4, tidy: sweep, steps: created, run: []string{"start", "c"}},
		{name: "stop", weight: 5, tidy: sweep, steps: created, live: start, run: []string{"stop", "c"}},
		{name: "kill", weight: 2, tidy: sweep, steps: created, live: start, run: []string{"kill", "c"}, again: func(snapshot) [][]string { return nil }, may: []string{"container c"}},
		{name: "rename", weight: 2, tidy: sweep, steps: created, run: []string{"rename", "c", "d"}, again: ifThere("container c", []string{"rename", "c", "d"})},
		{name: "rm", weight: 6, tidy: sweep, steps: ran, run: []string{"rm", "-v", "c"}, again: ifThere("container c", []string{"rm", "-v", "c"})},
		{name: "rm-f", weight: 4, tidy: sweep, steps: created, live: start, run: []string{"rm", "-f", "c"}, again: ifThere("container c", []string{"rm", "c"}), may: []string{"container c"}},
		{name: "restart", weight: 4, tidy: sweep, steps: created, live: start, run: []string{"restart", "c"}, again: func(snapshot) [][]string { return start }, may: []string{"container c"}}, // stopped, and not yet started
		{name: "container-prune", weight: 3, tidy: sweep, steps: ran, run: []string{"container", "prune", "-f"}},
		{name: "system-prune", weight: 6, tidy: sweep, steps: append(slices.Clone(ran), pull2, []string{"tag", two, one}, []string{"rmi", two}), run: []string{"system", "prune", "-f", "--volumes"}},
		{name: "repair", weight: 12, steps: [][]string{pull1}, broken: "bin/busybox", run: pull1},
		{name: "check", weight: 8, steps: [][]string{pull1}, broken: "bin/busybox", run: []string{"system", "check", "--repair"}},
		{name: "save", weight: 4, steps: [][]string{pull1}, run: []string{"save", "-o", w.file(), one}},
		{name: "resave", weight: 3, steps: [][]string{pull1, pull2, {"save", "-o", w.file(), one}}, run: []string{"save", "-o", w.file(), two}},
		{name: "delta-make", weight: 4, makes: true, steps: [][]string{pull1, pull2}, run: []string{"image", "delta", "-q", "-t", "delta:1-2", one, two}},
		{name: "build", weight: 24, makes: true, steps: [][]string{pull1}, run: w.build("first")},
		{name: "build-pull", weight: 8, makes: true, run: w.build("first")},
		{name: "rebuild", weight: 14, makes: true, steps: [][]string{pull1, w.build("first")}, run: w.build("second")},
		{name: "commit", weight: 8, makes: true, steps: [][]string{pull1, {"run", "--name", "c", "--network", "none", one, "sh", "-c", "cat /opt/big >/srv/copy; : >/opt/f00"}}, run: []string{"commit", "-q", "c", "made:1"}},
		{name: "import", weight: 6, makes: true, run: []string{"import", filepath.Join(w.dir, "layer1.tar"), "made:1"}},
		{name: "manifest", weight: 3, steps: [][]string{pull1, pull2}, run: []string{"manifest", "create", "list:1", one, two}, again: ifNotThere("image list:1", []string{"manifest", "create", "list:1", one, two})},
		{name: "manifest-add", weight: 4, steps: [][]string{pull1, pull2, {"manifest", "create", "list:1", one}}, run: []string{"manifest", "add", "list:1", two}},
		{name: "manifest-annotate", weight: 2, steps: [][]string{pull1, pull2, {"manifest", "create", "list:1", one, two}}, run: []string{"manifest", "annotate", "--variant", "v8", "list:1", one}},
		{name: "manifest-remove", weight: 2, steps: [][]string{pull1, pull2, {"manifest", "create", "list:1", one, two}}, run: []string{"manifest", "remove", "list:1", two}, tidy: [][]string{{"image", "prune", "-f"}},
			again: func(s snapshot) [][]string {
				if strings.Count(s["image list:1"], `"digest"`) < 2 {
					return nil
				}
				return [][]string{{"manifest", "remove", "list:1", two}}
			}},
		{name: "manifest-rm", weight: 2, steps: [][]string{pull1, {"manifest", "create", "list:1", one}}, run: []string{"manifest", "rm", "list:1"}, again: ifThere("image list:1", []string{"manifest", "rm", "list:1"})},
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

// ifNotThere repeats a command if what it makes is not there.
func ifNotThere(key string, run []string) func(snapshot) [][]string {
	return func(s snapshot) [][]string {
		if _, ok := s[key]; ok {
			return nil
		}
		return [][]string{run}
	}
}
