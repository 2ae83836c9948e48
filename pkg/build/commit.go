package build

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"go.podman.io/storage"
	"go.podman.io/storage/pkg/idtools"

	"github.com/balena-os/balena/pkg/pull"
	"github.com/balena-os/balena/pkg/run"
	"github.com/balena-os/balena/pkg/store"
)

// CommitOptions are what the new image says. The zero value says what the
// container's image does, with what the container was given.
type CommitOptions struct {
	Name    string    // "" is none
	Author  string    //
	Message string    //
	Changes []string  // instructions of a Dockerfile
	Format  string    // "docker" ("" too) or "oci"
	Pause   bool      // stop a running container's processes meanwhile
	Created time.Time // zero is now

	Unpaused func(error) // Pause was not possible; nil: then Commit fails
}

// Commit makes an image of a container: its image, a layer with what the
// container changed, and a configuration with what it was made with. What is
// mounted in the container is not in it. ErrNoContainer, ErrOptions.
func Commit(ctx context.Context, e *run.Engine, ref string, o CommitOptions) (pull.Image, error) {
	c, err := e.Find(ctx, ref)
	if err != nil {
		return pull.Image{}, err
	}
	img, err := commit(ctx, e, c, o)
	if err != nil {
		return img, fmt.Errorf("committing container %s: %w", ref, err)
	}
	return img, nil
}

func commit(ctx context.Context, e *run.Engine, c *store.Container, o CommitOptions) (img pull.Image, err error) {
	base, err := baseOf(e.Store, c)
	if err != nil {
		return img, err
	}
	if o.Pause {
		resume, err := pause(ctx, e, c, o.Unpaused)
		if err != nil {
			return img, err
		}
		defer func() { err = errors.Join(err, resume()) }()
	}
	diff, err := containerDiff(e.Store, c.ID)
	if err != nil {
		return img, err
	}
	defer diff.Close()
	argv := append(slices.Clone(c.Config.Entrypoint), c.Config.Cmd...)
	return pull.Compose(ctx, e.Store, pull.Composition{
		Base: base, Layer: diff, Name: o.Name, Author: o.Author, Comment: o.Message, Created: o.Created, OCI: o.Format == "oci",
		CreatedBy: strings.Join(argv, " "),
		Change: func(ic *pull.ImageConfig) error {
			ofContainer(ic, &c.Config)
			return change(ic, o.Changes)
		},
	})
}

// baseOf is the container's image: its record may have been forgotten, but the
// store keeps what a container is made from.
func baseOf(st *store.Store, c *store.Container) (string, error) {
	layers, err := st.Layers()
	if err != nil {
		return "", err
	}
	held, err := layers.Container(c.ID)
	if err != nil {
		return "", fmt.Errorf("reading its layer: %w", err)
	}
	return held.ImageID, nil
}

// pause stops a running container's processes.
func pause(ctx context.Context, e *run.Engine, c *store.Container, unpaused func(error)) (resume func() error, err error) {
	resume = func() error { return nil }
	seen, err := e.Observe(c)
	if err != nil || seen.State.Status != store.StatusRunning {
		return resume, err
	}
	switch err := e.Pause(ctx, c.ID); {
	case err == nil:
		return func() error { return e.Unpause(context.WithoutCancel(ctx), c.ID) }, nil
	case errors.Is(err, run.ErrNotRunning), errors.Is(err, run.ErrPaused): // meanwhile
	case unpaused == nil:
		return nil, err
	default:
		unpaused(err)
	}
	return resume, nil
}

// ofContainer puts in what the container was made with.
func ofContainer(ic *pull.ImageConfig, c *store.Config) {
	ic.Entrypoint, ic.Cmd, ic.Env = slices.Clone(c.Entrypoint), slices.Clone(c.Cmd), slices.Clone(c.Env)
	ic.User, ic.WorkingDir, ic.StopSignal, ic.Labels = c.User, c.WorkingDir, c.StopSignal, maps.Clone(c.Labels)
	if len(c.Ports) == 0 && len(c.Publish) == 0 {
		return
	}
	ic.ExposedPorts = map[string]struct{}{}
	for _, p := range c.Ports {
		ic.ExposedPorts[p] = struct{}{}
	}
	for _, p := range c.Publish {
		ic.ExposedPorts[fmt.Sprintf("%d/%s", p.ContainerPort, p.Protocol)] = struct{}{}
	}
}

// containerDiff is what a container changed, as a layer's tar archive. It is
// read past the store's locks, which would be held for as long as that takes.
func containerDiff(st *store.Store, id string) (io.ReadCloser, error) {
	layers, err := st.Layers()
	if err != nil {
		return nil, err
	}
	held, err := layers.Container(id)
	if err != nil {
		return nil, fmt.Errorf("reading its layer: %w", err)
	}
	l, err := layers.Layer(held.LayerID)
	if err != nil {
		return nil, fmt.Errorf("reading its layer: %w", err)
	}
	below := &storage.Layer{}
	if l.Parent != "" {
		if below, err = layers.Layer(l.Parent); err != nil {
			return nil, fmt.Errorf("reading layer %s: %w", l.Parent, err)
		}
	}
	driver, err := layers.GraphDriver()
	if err != nil {
		return nil, err
	}
	diff, err := driver.Diff(l.ID, idtools.NewIDMappingsFromMaps(l.UIDMap, l.GIDMap), l.Parent, idtools.NewIDMappingsFromMaps(below.UIDMap, below.GIDMap), "")
	if err != nil {
		return nil, fmt.Errorf("reading what the container changed: %w", err)
	}
	r, w := io.Pipe()
	go func() {
		err := withoutMountPoints(w, diff)
		w.CloseWithError(errors.Join(err, diff.Close()))
	}()
	return r, nil
}

// mountPoints are what the engine mounts files on, which the runtime makes where
// the image does not have them.
var mountPoints = map[string]bool{"etc/hosts": true, "etc/hostname": true, "etc/resolv.conf": true, "etc/passwd": true, "etc/group": true}

// withoutMountPoints copies a layer but for those.
func withoutMountPoints(w io.Writer, r io.Reader) error {
	in, out := tar.NewReader(r), tar.NewWriter(w)
	for {
		h, err := in.Next()
		if err == io.EOF {
			return out.Close()
		}
		if err != nil {
			return err
		}
		if h.Typeflag == tar.TypeReg && h.Size == 0 && mountPoints[strings.TrimPrefix(h.Name, "./")] {
			continue
		}
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(out, in); err != nil {
			return err
		}
	}
}
