package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// spared are the commands that the power is not cut in, and why. A second word
// of a command is another name of one with fewer (`image pull` is `pull`).
var spared = map[string]string{
	"attach": "reads and writes a container's streams",
	"exec":   "its processes end with the power; what it changes is the container's",
	"pause":  "a container's state in the kernel, which a reboot forgets", "unpause": "as pause",
	"push":    "changes the registry's state, not ours",
	"top":     "only looks",
	"history": "only looks", "images": "only looks", "info": "only looks", "inspect": "only looks",
	"logs": "only looks", "port": "only looks", "ps": "only looks", "version": "only looks", "wait": "only looks",
	"container exists": "only looks", "container inspect": "only looks", "container ls": "only looks",
	"image exists": "only looks", "image inspect": "only looks", "image ls": "only looks",
	"image delta ls": "only looks", "image delta rm": "changes the registry's state, not ours",
	"manifest exists": "only looks", "manifest inspect": "only looks", "manifest push": "changes the registry's state, not ours",
	"system df": "only looks", "system info": "only looks",
}

// other names of what is cut
var alias = map[string]string{
	"container rm": "rm", "image rm": "rmi", "image delta create": "image delta", "buildx prune": "builder prune",
	"buildx build": "build", "builder build": "build",
}

// TestEveryCommand: what changes state is cut, whatever commands there are: they
// are those of the manual.
func TestEveryCommand(t *testing.T) {
	cut := map[string]bool{}
	for _, o := range (&balena{}).ops(&world{}) {
		var verb []string
		for _, a := range o.run {
			if strings.HasPrefix(a, "-") {
				break
			}
			verb = append(verb, a)
			cut[strings.Join(verb, " ")] = true
		}
	}
	pages, err := filepath.Glob("../../docs/man/balena-*.1")
	if err != nil || len(pages) < 50 {
		t.Fatalf("%d pages of the manual, %v", len(pages), err)
	}
	seen := map[string]bool{}
	for _, page := range pages {
		name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(page), "balena-"), ".1")
		more, err := filepath.Glob(strings.TrimSuffix(page, ".1") + "-*.1")
		if err != nil {
			t.Fatal(err)
		}
		command := strings.ReplaceAll(name, "-", " ")
		if len(more) > 0 && command != "image delta" { // a group
			continue
		}
		words := strings.Fields(command)
		names := []string{command, alias[command], words[len(words)-1]}
		i := slices.IndexFunc(names, func(n string) bool { return n != "" && (cut[n] || spared[n] != "") })
		if i < 0 {
			t.Errorf("%q is cut by no operation, and no reason says why", command)
			continue
		}
		if cut[names[i]] && spared[names[i]] != "" {
			t.Errorf("%q is cut, and spared", command)
		}
		seen[names[i]] = true
	}
	for name := range spared {
		if !seen[name] {
			t.Errorf("%q is spared, and there is no such command", name)
		}
	}
	if _, err := os.Stat("../../docs/man/balena-image-delta.1"); err != nil {
		t.Error(err)
	}
}
