package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// podman is Debian's, with its defaults.
type podman struct{}

func (*podman) name() string      { return "podman" }
func (*podman) traceable() bool   { return false }
func (*podman) boot(*world) error { return nil }
func (p *podman) ops(w *world) []*op {
	return pullOps(w, "pull", "-q", "--tls-verify=false")
}

func (*podman) argv(w *world) []string {
	return []string{"podman", "--root", w.root(), "--runroot", w.runRoot(), "--tmpdir", w.runRoot() + "/libpod", "--storage-driver", "overlay"}
}

func (*podman) env(*world) []string { return nil }

func (*podman) snapshot(w *world) (snapshot, error) { return imageNames(w) }

func (*podman) verify(w *world) error {
	s, err := readStore(w.root())
	if err != nil {
		return err
	}
	return s.verify(w, nil, false)
}

func (*podman) leaks(w *world) ([]string, error) {
	s, err := readStore(w.root())
	if err != nil {
		return nil, err
	}
	return s.leaks(), nil
}

// imageNames is what `images` shows of any of the engines.
func imageNames(w *world) (snapshot, error) {
	out, err := w.output([]string{"images", "-a", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"})
	if err != nil {
		return nil, err
	}
	s := snapshot{}
	for line := range strings.Lines(out) {
		// What has no name is whole, as verify sees to: an image loses its name
		// when another takes it, and gets it last.
		if name, id, ok := strings.Cut(strings.TrimSpace(line), " "); ok && !strings.Contains(name, "<none>") {
			s["image "+name] = strings.TrimPrefix(id, "sha256:")
		}
	}
	return s, nil
}

// docker is dockerd with the overlay2 driver and no network.
type docker struct{}

func (*docker) name() string                        { return "docker" }
func (*docker) traceable() bool                     { return false } // its daemon does the work
func (*docker) ops(w *world) []*op                  { return pullOps(w, "pull", "-q") }
func (*docker) env(*world) []string                 { return nil }
func (*docker) snapshot(w *world) (snapshot, error) { return imageNames(w) }
func (*docker) leaks(*world) ([]string, error)      { return nil, nil }

func (*docker) socket(w *world) string   { return "unix://" + w.runRoot() + "/docker.sock" }
func (d *docker) argv(w *world) []string { return []string{"docker", "-H", d.socket(w)} }

func (d *docker) boot(w *world) error {
	log, err := os.Create(filepath.Join(w.dir, "dockerd.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command("dockerd", "--data-root", w.root(), "--exec-root", w.runRoot()+"/docker", "--pidfile", w.runRoot()+"/docker.pid",
		"-H", d.socket(w), "--bridge", "none", "--iptables=false", "--ip6tables=false", "--storage-driver", "overlay2")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if w.commandOf(context.Background(), []string{"version"}).Run() == nil {
			return nil
		}
	}
	return errors.New("dockerd does not come up")
}

// verify compares what dockerd's records name with the tars.
func (*docker) verify(w *world) error {
	db := filepath.Join(w.root(), "image", "overlay2", "layerdb", "sha256")
	chains, err := os.ReadDir(db)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var errs []error
	for _, c := range chains {
		diff, err := line(filepath.Join(db, c.Name(), "diff"))
		cache, err2 := line(filepath.Join(db, c.Name(), "cache-id"))
		if err := errors.Join(err, err2); err != nil {
			errs = append(errs, err)
			continue
		}
		want, ok := w.images.layers[digest.Digest(diff)]
		if !ok {
			errs = append(errs, fmt.Errorf("layer %.12s has the digest %q", c.Name(), diff))
			continue
		}
		dir := filepath.Join(w.root(), "overlay2", cache, "diff")
		if err := verifyTree(dir, want, false); err != nil {
			errs = append(errs, fmt.Errorf("layer %.12s: %w", c.Name(), err))
		}
		if _, err := verifyTarSplit(filepath.Join(db, c.Name(), "tar-split.json.gz"), dir, digest.Digest(diff)); err != nil {
			errs = append(errs, fmt.Errorf("layer %.12s: %w", c.Name(), err))
		}
	}
	return errors.Join(append(errs, err)...)
}

// line is the first line of a file.
func line(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	s.Scan()
	return s.Text(), s.Err()
}
