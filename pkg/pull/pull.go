package pull

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/copy"
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/signature"
	"go.podman.io/image/v5/types"
	"go.podman.io/storage"

	"github.com/balena-os/balena/pkg/durable"
	"github.com/balena-os/balena/pkg/store"
)

// Options of Pull. The zero value pulls for this machine's platform, as the
// user's own configuration says.
type Options struct {
	RegistryOptions
	Platform string // OS[/ARCH[/VARIANT]]; "" is this machine's
	AllTags  bool   // every tag of the repository
	Unnamed  bool   // the image gets no name: its user keeps the ID
	Parallel int    // layers at once; 0 chooses by the memory there is
	NoDelta  bool   // fetch whole layers, without asking for deltas
	// DeltaIndex looks for tar-diffs of layers, under the repository's tag
	// _deltaindex, where no other delta fits: other tools publish such.
	DeltaIndex bool
	Progress   func(Event) // called by several goroutines; nil: nothing is told
}

// Image is an image that was pulled.
type Image struct {
	ID     string        // 64 hexadecimal digits
	Name   string        // the name it now has; "" when it has none
	Digest digest.Digest // of its manifest, or of the index it was chosen from
}

// Pull fetches images and puts them into the store. When it returns without an
// error, everything that belongs to them is on stable storage. ref is
// [TRANSPORT:]REF as ParseReference takes it. Several images come back for
// AllTags and for archives with more than one.
//
// What a failed pull has completed of an image's layers stays, so that the next
// try need not fetch it again, until Sweep removes it or the disk is full;
// nothing else stays.
func Pull(ctx context.Context, st *store.Store, ref string, o Options) ([]Image, error) {
	images, err := withPuller(ctx, st, o, func(p *puller) ([]Image, error) { return p.pull(ctx, ref) })
	if err != nil {
		err = fmt.Errorf("pulling %q: %w", ref, unauthorized(err))
	}
	return images, err
}

// withPuller calls f while a pull is at work, and tidies up.
func withPuller(ctx context.Context, st *store.Store, o Options, f func(*puller) ([]Image, error)) ([]Image, error) {
	layers, err := st.Layers()
	if err != nil {
		return nil, err
	}
	limitMemory()
	st.KeepReserve() // for removals, should this fill the disk
	p, err := newPuller(st, layers, o)
	if err != nil {
		return nil, err
	}
	unlock, err := p.w.Active(ctx)
	if err != nil {
		return nil, err
	}
	images, err := f(p)
	unlock()
	if err != nil {
		if errors.Is(err, ErrNoSpace) { // a full disk harms more than fetching again
			_, serr := sweep(ctx, st, layers, p.w, 0)
			err = errors.Join(err, serr)
		}
		return images, err
	}
	// What older, failed pulls left is of no use to this one. Failing to tidy
	// up is no failure of the pull.
	_, _ = sweep(ctx, st, layers, p.w, time.Hour)
	return images, nil
}

// puller pulls into one store with one set of options.
type puller struct {
	st     *store.Store
	layers storage.Store
	w      *durable.Writer
	o      Options

	preview bool // nothing is pulled
}

func newPuller(st *store.Store, layers storage.Store, o Options) (*puller, error) {
	w, err := durable.NewWriter(layers)
	if err != nil {
		return nil, err
	}
	_ = w.Sweep() // leftovers that cannot be removed are no reason not to pull
	return &puller{st: st, layers: layers, w: w, o: o}, nil
}

// job is one image: where it comes from and the name it gets.
type job struct {
	src  types.ImageReference
	name reference.Named // nil: none
}

func (p *puller) pull(ctx context.Context, ref string) ([]Image, error) {
	var images []Image
	err := p.each(ctx, ref, func(sys *types.SystemContext, policy *signature.PolicyContext, j job) error {
		img, err := p.pullJob(ctx, sys, policy, j)
		if err == nil {
			images = append(images, img)
		}
		return err
	})
	return images, err
}

// pullJob pulls one image, again where others removed what it was to share.
func (p *puller) pullJob(ctx context.Context, sys *types.SystemContext, policy *signature.PolicyContext, j job) (Image, error) {
	img, err := p.pullOne(ctx, sys, policy, j)
	for try := 1; vanished(err) && try < pullTries && ctx.Err() == nil; try++ {
		img, err = p.pullOne(ctx, sys, policy, j)
	}
	return img, err
}

// each calls f for all images that a reference means, until it fails.
func (p *puller) each(ctx context.Context, ref string, f func(*types.SystemContext, *signature.PolicyContext, job) error) error {
	if n, err := reference.ParseNormalizedNamed(strings.TrimPrefix(ref, "docker://")); err == nil && p.o.AllTags && !reference.IsNameOnly(n) {
		return errors.New("a tag or digest cannot be given along with all tags")
	}
	src, named, err := ParseReference(ref, p.layers)
	if err != nil {
		return err
	}
	sys, policy, err := p.contexts(named)
	if err != nil {
		return err
	}
	defer policy.Destroy() //nolint:errcheck // only says that it was destroyed before
	jobs, done, err := p.jobs(ctx, sys, src, named)
	if err != nil {
		return err
	}
	defer done()
	for _, j := range jobs {
		if err := f(sys, policy, j); err != nil {
			if len(jobs) > 1 {
				err = fmt.Errorf("%s: %w", j.src.StringWithinTransport(), err)
			}
			return err
		}
	}
	return nil
}

// pullTries is how often a pull begins anew because of others' removals.
const pullTries = 4

// vanished tells whether somebody removed, while we pulled, a layer that was to
// be shared, or the image before it got its name.
func vanished(err error) bool {
	return errors.Is(err, storage.ErrLayerUnknown) || errors.Is(err, storage.ErrImageUnknown) || errors.Is(err, storage.ErrParentUnknown)
}

// contexts are what containers/image goes by: how to reach an image, and which
// to accept. The caller destroys the policy.
func (p *puller) contexts(named reference.Named) (*types.SystemContext, *signature.PolicyContext, error) {
	sys, err := p.systemContext(named)
	if err != nil {
		return nil, nil, err
	}
	policy, err := policyContext(sys)
	return sys, policy, err
}

func (p *puller) systemContext(named reference.Named) (*types.SystemContext, error) {
	sys, err := p.o.Context(named)
	if err != nil {
		return nil, err
	}
	if p.o.Platform == "" {
		return sys, nil
	}
	parts := strings.Split(strings.ToLower(p.o.Platform), "/")
	if len(parts) > 3 || slices.Contains(parts, "") {
		return nil, fmt.Errorf("platform %q is not OS[/ARCH[/VARIANT]]", p.o.Platform)
	}
	sys.OSChoice = "linux"
	switch len(parts) {
	case 1: // docker takes an OS or an architecture
		if parts[0] != "linux" {
			sys.ArchitectureChoice = goArch(parts[0])
		}
	case 2:
		sys.OSChoice, sys.ArchitectureChoice = parts[0], goArch(parts[1])
	case 3:
		sys.OSChoice, sys.ArchitectureChoice, sys.VariantChoice = parts[0], goArch(parts[1]), parts[2]
	}
	return sys, nil
}

// goArch maps the names that people write to those that images have.
func goArch(a string) string {
	switch a {
	case "x86_64", "x86-64":
		return "amd64"
	case "aarch64":
		return "arm64"
	case "i386", "i686", "x86":
		return "386"
	case "armhf", "armel":
		return "arm"
	}
	return a
}

func (p *puller) copy(ctx context.Context, sys *types.SystemContext, d *destination, src sourceRef) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	d.fail = fail
	d.begin()
	// The image was accepted before anything of it was looked at.
	accept, err := signature.NewPolicyContext(&signature.Policy{Default: signature.PolicyRequirements{signature.NewPRInsecureAcceptAnything()}})
	if err != nil {
		return err
	}
	defer accept.Destroy()                                              //nolint:errcheck // as above
	nowhere := &types.SystemContext{BlobInfoCacheDir: "/dev/null/none"} // in memory, not in a file of podman's
	_, err = copy.Image(ctx, accept, destinationRef{d}, src, &copy.Options{
		ReportWriter:         io.Discard,
		SourceCtx:            sys,
		DestinationCtx:       nowhere,
		PreserveDigests:      src.Transport().Name() != "containers-storage",
		MaxParallelDownloads: uint(p.parallel()),
	})
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause // the first failure, not what it did to the others
	}
	return err
}

// openSource connects. A registry in trouble is asked again; one that is not
// there is not.
func openSource(ctx context.Context, sys *types.SystemContext, ref types.ImageReference) (types.ImageSource, error) {
	for try := 1; ; try++ {
		raw, err := newImageSource(ctx, sys, ref)
		var status docker.UnexpectedHTTPStatusError
		if err == nil || try == 3 || !errors.As(err, &status) || status.StatusCode < 500 {
			return raw, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(backoffFirst << try):
		}
	}
}

// newImageSource connects to a registry, which fetches the manifest as well.
func newImageSource(ctx context.Context, sys *types.SystemContext, ref types.ImageReference) (types.ImageSource, error) {
	if ref.Transport().Name() != docker.Transport.Name() {
		return ref.NewImageSource(ctx, sys)
	}
	ctx, stop := boundManifest(ctx)
	defer stop()
	raw, err := ref.NewImageSource(ctx, sys)
	return raw, whyEnded(ctx, err)
}

// memoryPerLayer is about what one layer costs while it is extracted: buffers,
// pages on their way to the disk, and what the garbage collector leaves lying.
const memoryPerLayer = 48 << 20

// parallel is how many layers are worked on at once.
func (p *puller) parallel() int {
	if !p.w.CanStage() {
		return 1
	}
	if p.o.Parallel > 0 {
		return p.o.Parallel
	}
	return layersAtOnce()
}

func layersAtOnce() int { return int(max(1, min(3, availableMemory()/memoryPerLayer))) }
