package main

import "slices"

// op is an operation that changes state, and where it starts from.
type op struct {
	name   string
	weight int        // its share of the cuts
	steps  [][]string // commands that made the disk that it starts from
	live   [][]string // commands before it that must run in the same boot
	run    []string
	says   string                           // what it prints, if it is to be sure that it took that way
	again  func(before snapshot) [][]string // the repair; nil is run once more
	may    []string                         // keys that may be there or not, unless it succeeded
	broken string                           // a file that is emptied before, so that there is something to repair
	makes  bool                             // layers that are of none of the images pulled
	tidy   [][]string                       // what removes leftovers, where the command does not
}

// engine is what is tried: balena, or a peer.
type engine interface {
	name() string
	ops(w *world) []*op
	argv(w *world) []string
	env(w *world) []string
	traceable() bool                     // the command itself does the work
	boot(w *world) error                 // starts what the engine needs to be running
	snapshot(w *world) (snapshot, error) // what a person sees
	verify(w *world) error               // whether what is in the store is byte-exact
	leaks(w *world) ([]string, error)    // what is in the store and belongs to nothing
}

// snapshot is what a person sees: names of images and the IDs that they mean,
// containers and their states.
type snapshot map[string]string

// allowed says what is wrong with a state after a cut, given those before and
// after the operation: what was lost, and what is half-made. With success, all
// must be as after it.
func (s snapshot) allowed(before, after snapshot, success bool, may []string) (lost, half []string) {
	free := map[string]bool{}
	for _, k := range may {
		free[k] = !success
	}
	for k, v := range s {
		b, inBefore := before[k]
		a, inAfter := after[k]
		switch {
		case free[k]:
		case success && (!inAfter || a != v):
			half = append(half, k+"="+v)
		case inAfter && a == v, inBefore && b == v:
		default:
			half = append(half, k+"="+v)
		}
	}
	for k := range after {
		_, there := s[k]
		_, was := before[k]
		if !there && !free[k] && (success || was) {
			lost = append(lost, k)
		}
	}
	return lost, half
}

// pullOps are the cases that the peers have too.
func pullOps(w *world, pull ...string) []*op {
	one, two := w.registry+"/app:1", w.registry+"/app:2"
	pull1, pull2 := append(slices.Clone(pull), one), append(slices.Clone(pull), two)
	return []*op{
		{name: "pull", weight: 30, run: pull1},
		{name: "update", weight: 24, steps: [][]string{pull1, {"tag", one, two}}, run: pull2},
	}
}
