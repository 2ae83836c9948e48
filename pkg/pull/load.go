package pull

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"

	imgspecv1 "github.com/opencontainers/image-spec/specs-go/v1"
	dockerarchive "go.podman.io/image/v5/docker/archive"
	"go.podman.io/image/v5/docker/reference"
	ociarchive "go.podman.io/image/v5/oci/archive"
	"go.podman.io/image/v5/types"

	"github.com/balena-os/balena/pkg/delta"
	"github.com/balena-os/balena/pkg/store"
)

// Load puts the images of an archive into the store, with the names that they
// have there: of one that docker, podman or Save wrote, of an OCI layout, or of
// a delta, which is applied if its base is in the store (ErrNoBase). It may be
// compressed.
//
// A file that is not compressed is read where the parts lie. Anything else is
// read once, from front to back: each layer is extracted while it arrives, those
// that are in the store already as well, and nothing is written twice. The
// storage driver vfs cannot do that.
func Load(ctx context.Context, st *store.Store, in *os.File, o Options) ([]Image, error) {
	images, err := withPuller(ctx, st, o, func(p *puller) ([]Image, error) {
		fi, err := in.Stat()
		if err != nil {
			return nil, err
		}
		if !fi.Mode().IsRegular() || checkUncompressed(in) != nil {
			return p.loadStream(ctx, in)
		}
		return p.loadFile(ctx, in, fi.Size())
	})
	if err != nil {
		err = fmt.Errorf("loading %s: %w", in.Name(), err)
	}
	return images, err
}

func (p *puller) loadFile(ctx context.Context, in *os.File, size int64) ([]Image, error) {
	x, err := indexTar(ctx, in, size)
	if err != nil {
		return nil, err
	}
	sys, policy, err := p.contexts(nil)
	if err != nil {
		return nil, err
	}
	defer policy.Destroy() //nolint:errcheck // only says that it was destroyed before
	// By this name the file can have any, and none.
	path := fmt.Sprintf("/proc/self/fd/%d", in.Fd())
	var jobs []job
	done := func() {}
	switch {
	case x.docker:
		var src types.ImageReference
		if src, err = dockerarchive.NewReference(path, nil); err == nil {
			jobs, done, err = archiveJobs(sys, src)
		}
	case x.index != tarRange{}:
		jobs, err = p.layoutJobs(ctx, sys, path, in.Name())
	default:
		err = fmt.Errorf("%w: it holds neither images nor deltas", errArchive)
	}
	if err != nil {
		return nil, err
	}
	defer done()
	var images []Image
	for _, j := range jobs {
		img, err := p.pullJob(ctx, sys, policy, j)
		if err != nil {
			return images, err
		}
		images = append(images, img)
	}
	return images, nil
}

// layoutJobs lists the images of an OCI layout in a tar.
func (p *puller) layoutJobs(ctx context.Context, sys *types.SystemContext, path, file string) ([]job, error) {
	inner, err := ociarchive.NewReference(path, "")
	if err != nil {
		return nil, err
	}
	ref := ociArchiveRef{ImageReference: inner, file: path, place: -1, any: true}
	src, err := ref.NewImageSource(ctx, sys)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	var jobs []job
	for i, d := range images(&src.(*ociArchiveSource).index) {
		if !isFor(d, sys) {
			continue
		}
		r := ref
		r.place, r.any = i, false
		jobs = append(jobs, job{r, layoutName(d, file)})
	}
	if len(jobs) == 0 {
		return nil, fmt.Errorf("%w: it holds no image", ErrNotImage)
	}
	return jobs, nil
}

// images are an index's entries but for deltas.
func images(index *imgspecv1.Index) []imgspecv1.Descriptor {
	var out []imgspecv1.Descriptor
	for _, d := range index.Manifests {
		if d.ArtifactType != delta.MediaType {
			out = append(out, d)
		}
	}
	return out
}

// isFor tells whether an image is for the platform that is asked for; one that
// does not say is for any.
func isFor(d imgspecv1.Descriptor, sys *types.SystemContext) bool {
	if d.Platform == nil || d.Platform.OS == "" {
		return true
	}
	return d.Platform.OS == cmp.Or(sys.OSChoice, "linux") && d.Platform.Architecture == cmp.Or(sys.ArchitectureChoice, runtime.GOARCH)
}

// layoutName is the name that an OCI layout gives an image: what docker writes
// there, or what the specification has if it is a whole name, else only a tag of
// what the file is called.
func layoutName(d imgspecv1.Descriptor, file string) reference.Named {
	tag := d.Annotations[imgspecv1.AnnotationRefName]
	for _, n := range []string{d.Annotations["io.containerd.image.name"], tag} {
		if strings.ContainsAny(n, "/:") {
			if named, err := ParseName(n); err == nil {
				return named
			}
		}
	}
	r, err := ociarchive.NewReference(strings.ReplaceAll(file, ":", "-"), tag)
	if err != nil {
		return nil
	}
	return localName(r)
}
