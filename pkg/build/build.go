package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/openshift/imagebuilder/dockerfile/parser"
	"go.podman.io/buildah/define"
	"go.podman.io/buildah/imagebuildah"
	"go.podman.io/storage"

	"github.com/balena-os/balena/pkg/durable"
	"github.com/balena-os/balena/pkg/pull"
	"github.com/balena-os/balena/pkg/store"
)

// builder is one build.
type builder struct {
	st     *store.Store
	layers storage.Store
	o      Options
	room   *room
	tmp    string // of this build alone

	platform string // that is built for at the moment; "" is this machine's
	buildah  define.BuildOptions
}

// Build builds an image from a context: a folder, "-" for a tar archive or a
// Dockerfile from In, the URL of a git repository or of a tar archive. When it
// returns without an error, the image with its names is on stable storage. A
// build that fails leaves the steps that it finished in the cache. Enter must
// have been called. ErrOptions, ErrNoDockerfile, *StepError.
func Build(ctx context.Context, st *store.Store, from string, o Options) (Result, error) {
	if err := o.Check(); err != nil {
		return Result{}, err
	}
	b := &builder{st: st, o: o}
	var err error
	if b.layers, err = st.Layers(); err != nil {
		return Result{}, err
	}
	if b.room, err = enterRoom(ctx, st, b.layers); err != nil {
		return Result{}, err
	}
	defer b.room.leave()
	if b.tmp, err = os.MkdirTemp(b.room.dir, "b"); err != nil {
		return Result{}, err
	}
	defer os.RemoveAll(b.tmp) //nolint:errcheck // the next build removes what is left
	if err := b.room.tempDir(b.tmp); err != nil {
		return Result{}, err
	}
	w, err := durable.NewWriter(b.layers)
	if err != nil {
		return Result{}, err
	}
	if err := errors.Join(w.Sweep(), pull.SweepHalfMade(b.layers, w)); err != nil { // of killed builds
		return Result{}, err
	}
	// Layers that are no image's yet are not a failed pull's.
	unlock, err := w.Active(ctx)
	if err != nil {
		return Result{}, err
	}
	defer unlock()
	return b.build(ctx, from)
}

func (b *builder) build(ctx context.Context, from string) (Result, error) {
	c, err := b.context(ctx, from)
	if err != nil {
		return Result{}, err
	}
	file, err := os.ReadFile(c.files[0])
	if err != nil {
		return Result{}, fmt.Errorf("reading the Dockerfile: %w", err)
	}
	ids, err := b.buildAll(ctx, c, file)
	if err != nil {
		return Result{}, err
	}
	return b.finish(ctx, ids)
}

// buildOne builds for one platform.
func (b *builder) buildOne(ctx context.Context, c *buildContext, file []byte) (string, error) {
	if err := b.translate(ctx, c); err != nil {
		return "", err
	}
	images, err := b.bases(file)
	if err != nil {
		return "", err
	}
	if err := b.checkForeign(c, file); err != nil {
		return "", err
	}
	if err := b.pullBases(ctx, images); err != nil {
		return "", err
	}
	done, err := b.network(ctx, slices.ContainsFunc(c.nodes, func(n *parser.Node) bool {
		return strings.EqualFold(n.Value, "run") || strings.EqualFold(n.Value, "onbuild")
	}) || len(images) > 0)
	if err != nil {
		return "", err
	}
	defer done()
	out := newConsole(b.o.Out, b.o.Plain, b.o.Columns, c.nodes)
	b.buildah.Out, b.buildah.Err, b.buildah.ReportWriter = out, out, io.Discard
	id, err := b.run(ctx, c.files)
	if failed, tail := out.end(err); err != nil {
		return "", stepError(err, c.files[0], failed, tail)
	}
	return id, nil
}

// run has buildah build through a store that is durable and whose cache knows
// the volumes.
func (b *builder) run(ctx context.Context, files []string) (string, error) {
	d, err := durable.NewStore(b.layers)
	if err != nil {
		return "", err
	}
	w, err := durable.NewWriter(b.layers)
	if err != nil {
		return "", err
	}
	l := &layerStore{Store: d, ctx: ctx, w: w, tmp: b.tmp}
	st := &cacheStore{Store: &stepNames{Store: l, ids: map[string]string{}}, key: volumeKey(b.buildah.CommonBuildOpts.Volumes)}
	id, _, err := imagebuildah.BuildDockerfiles(ctx, st, b.buildah, files...)
	return id, errors.Join(err, l.close())
}

// buildContext is what is built from.
type buildContext struct {
	dir   string
	files []string       // Dockerfiles, absolute or URLs
	nodes []*parser.Node // the instructions of the first
}

// findDockerfile gives the context's own file.
func findDockerfile(dir string) (string, error) {
	for _, name := range []string{"Dockerfile", "Containerfile"} {
		path := filepath.Join(dir, name)
		if st, err := os.Stat(path); err == nil && !st.IsDir() {
			return path, nil
		} else if err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
	}
	return "", fmt.Errorf("%w in %s: name another file with -f", ErrNoDockerfile, dir)
}
