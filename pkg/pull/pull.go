package pull

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/copy"
	"go.podman.io/image/v5/docker"
	dockerarchive "go.podman.io/image/v5/docker/archive"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/manifest"
	"go.podman.io/image/v5/signature"
	"go.podman.io/image/v5/types"
	"go.podman.io/storage"

	"github.com/balena-os/balena/pkg/delta"
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
	sys, err := p.systemContext(named)
	if err != nil {
		return err
	}
	policy, err := policyContext(sys)
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

// jobs lists the images that a reference means. done frees what they share.
func (p *puller) jobs(ctx context.Context, sys *types.SystemContext, src types.ImageReference, named reference.Named) (jobs []job, done func(), err error) {
	done = func() {}
	transport := src.Transport().Name()
	if p.o.AllTags && transport != "docker" {
		return nil, nil, errors.New("all tags can only be pulled from a registry")
	}
	switch {
	case p.o.AllTags:
		jobs, err = allTags(ctx, sys, src, named)
		return jobs, done, err
	case transport == "docker":
		return []job{{src, named}}, done, nil
	case transport == "docker-archive":
		return archiveJobs(sys, src)
	}
	return []job{{src, localName(src)}}, done, nil
}

func allTags(ctx context.Context, sys *types.SystemContext, src types.ImageReference, named reference.Named) ([]job, error) {
	tags, err := docker.GetRepositoryTags(ctx, sys, src)
	if err != nil {
		return nil, fmt.Errorf("listing tags: %w", err)
	}
	var jobs []job
	for _, tag := range tags {
		tagged, err := reference.WithTag(reference.TrimNamed(named), tag)
		if err != nil {
			return nil, fmt.Errorf("tag %q: %w", tag, err)
		}
		r, err := docker.NewReference(tagged)
		if err != nil {
			return nil, err
		}
		jobs = append(jobs, job{r, tagged})
	}
	if len(jobs) == 0 {
		return nil, fmt.Errorf("%s has no tags", named.Name())
	}
	return jobs, nil
}

// archiveJobs lists what is in a docker-archive, unless the reference names one
// image of it. containers/image would copy what it cannot read at any place to
// a temporary file.
func archiveJobs(sys *types.SystemContext, src types.ImageReference) ([]job, func(), error) {
	f, _, err := openArchive(dockerArchiveFile(src))
	if err != nil {
		return nil, nil, err
	}
	f.Close()
	if named := src.DockerReference(); named != nil {
		return []job{{src, named}}, func() {}, nil
	}
	r, _, err := dockerarchive.NewReaderForReference(sys, src)
	if err != nil {
		return nil, nil, err
	}
	done := func() { r.Close() }
	lists, err := r.List()
	if err != nil {
		done()
		return nil, nil, err
	}
	var jobs []job
	for _, refs := range lists {
		for _, ref := range refs {
			jobs = append(jobs, job{ref, ref.DockerReference()})
		}
	}
	return jobs, done, nil
}

// localName is the name of what comes from a folder or a file: the one it says
// itself, else, as podman does, localhost/ and what the folder is called.
func localName(src types.ImageReference) reference.Named {
	if named := src.DockerReference(); named != nil {
		return named
	}
	path, image, _ := strings.Cut(src.StringWithinTransport(), ":")
	if strings.ContainsAny(image, "/:") {
		if named, err := ParseName(image); err == nil {
			return named
		}
	}
	base := strings.ToLower(strings.TrimSuffix(filepath.Base(path), filepath.Ext(path)))
	named, err := reference.ParseNamed("localhost/" + base)
	if err != nil {
		return nil
	}
	if tagged, err := reference.WithTag(named, image); err == nil {
		return tagged
	}
	return reference.TagNameOnly(named)
}

// task is one image while it is pulled.
type task struct {
	job
	p       *puller
	sys     *types.SystemContext
	ref     string // what people call it
	src     *source
	plan    *plan
	missing []*layer        // what the store lacks
	plain   way             // to get it without a delta
	ways    []way           // cheaper ones, the cheapest first
	bases   []digest.Digest // of all deltas on offer
	engine  *engineDelta    // nil: the image is none of balena-engine's deltas
	wrapped *delta.Artifact // nil: nor is it one of ours; else what it holds
	d       *destination
	learned func() // ends what learn began; may be nil
}

// tell passes an event on to whoever wants to know.
func (t *task) tell(e Event) {
	if t.p.o.Progress == nil {
		return
	}
	e.Ref, e.Index = t.ref, -1
	if t.d != nil {
		e.Index, e.Layers = t.d.place(e.Layer)
	}
	t.p.o.Progress(e)
}

// warn tells of what went wrong and could be mended.
func (t *task) warn(format string, a ...any) {
	t.tell(Event{State: Warning, Text: fmt.Sprintf(format, a...)})
}

// newTask connects and finds out what there is to do. The caller closes it.
func (p *puller) newTask(ctx context.Context, sys *types.SystemContext, policy *signature.PolicyContext, j job) (*task, error) {
	t := &task{job: j, p: p, sys: sys, ref: j.src.StringWithinTransport()}
	if j.name != nil {
		t.ref = j.name.String()
	}
	raw, err := openSource(ctx, sys, j.src)
	if err != nil {
		return nil, err
	}
	t.src = newSource(raw, func(blob digest.Digest, done int64) {
		t.tell(Event{Layer: blob, State: Fetching, Done: done, Total: -1})
	})
	if t.plan, err = makePlan(ctx, t.src, sys, policy, p.o.Platform != ""); err == nil {
		err = t.unwrap(ctx)
	}
	if err == nil {
		err = t.choose(ctx)
	}
	if err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

func (t *task) close() {
	if t.learned != nil {
		t.learned()
	}
	if t.engine != nil {
		t.engine.Close()
	}
	t.src.ImageSource.Close()
}

// choose decides how to get what is missing.
func (t *task) choose(ctx context.Context) error {
	var err error
	if t.missing, err = t.p.missing(t.plan); err != nil {
		return err
	}
	t.plain = t.p.plainWay(t.src, t.missing)
	if t.engine != nil && t.plain.bytes > 0 {
		return t.engine.possible()
	}
	t.ways = t.p.findWays(ctx, t)
	return t.possible()
}

// pullOne pulls one image. copy.Image runs a second time when a blob was not
// what its digest says.
func (p *puller) pullOne(ctx context.Context, sys *types.SystemContext, policy *signature.PolicyContext, j job) (Image, error) {
	t, err := p.newTask(ctx, sys, policy, j)
	if err != nil {
		return Image{}, err
	}
	defer t.close()
	if err := p.checkSpace(ctx, t.src, t.missing); err != nil {
		return Image{}, err
	}
	done, err := p.announce(ctx, j.src.Transport().Name()+":"+j.src.StringWithinTransport(), t.missing)
	if err != nil {
		return Image{}, err
	}
	defer done()
	t.d = &destination{w: p.w, layers: p.layers, plan: t.plan, src: t.src, tell: t.tell}
	var img Image
	t.d.commit = func(top []byte, signatures [][]byte) error {
		if t.engine != nil {
			if err := t.engine.complete(t.plan); err != nil {
				return err
			}
			top = t.plan.manifest
		}
		img, err = p.writeImage(t.plan, top, t.src.config[t.plan.config.Digest], signatures, j.name)
		return err
	}
	a := &applier{p: p, d: t.d, ways: t.ways, warn: t.warn}
	wait := a.start(ctx)
	src := sourceRef{j.src, t.src}
	err = p.copy(ctx, sys, t.d, src)
	var again *refetchError
	if errors.As(err, &again) {
		err = p.copy(ctx, sys, t.d, src)
	}
	wait()
	if aerr := t.d.abandon(); err == nil {
		err = aerr
	}
	if err == nil && a.from != "" {
		t.tell(Event{State: Saved, From: a.from, Done: a.fetched + t.d.fetched, Total: t.plain.known()})
	}
	return img, err
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

// imageMetadata is what containers/image keeps in an image's record.
type imageMetadata struct {
	SignatureSizes  []int                   `json:"signature-sizes,omitempty"`
	SignaturesSizes map[digest.Digest][]int `json:"signatures-sizes,omitempty"`
}

// writeImage writes the image's record the way containers/image does, so that
// every tool can read it: its manifest, the index it was chosen from, its
// configuration. The name is the last thing, when all else is durable.
func (p *puller) writeImage(pl *plan, top, config []byte, signatures [][]byte, name reference.Named) (Image, error) {
	img := Image{ID: pl.config.Digest.Encoded(), Digest: pl.digest}
	item := func(key string, data []byte) storage.ImageBigDataOption {
		return storage.ImageBigDataOption{Key: key, Data: data, Digest: digest.Canonical.FromBytes(data)}
	}
	o := &storage.ImageOptions{}
	if pl.image.Created != nil {
		o.CreationDate = *pl.image.Created
	}
	o.BigData = append(o.BigData, item(pl.config.Digest.String(), config))
	if !bytes.Equal(top, pl.manifest) {
		d, err := manifest.Digest(top)
		if err != nil {
			return Image{}, err
		}
		img.Digest = d
		o.BigData = append(o.BigData, item(storage.ImageDigestManifestBigDataNamePrefix+"-"+d.String(), top))
	}
	meta := imageMetadata{}
	if len(signatures) > 0 {
		all := bytes.Join(signatures, nil)
		for _, s := range signatures {
			meta.SignatureSizes = append(meta.SignatureSizes, len(s))
		}
		meta.SignaturesSizes = map[digest.Digest][]int{pl.digest: meta.SignatureSizes}
		o.BigData = append(o.BigData, item("signatures", all), item("signature-"+pl.digest.Encoded(), all))
	}
	// The manifest last: without it the image counts as half made.
	o.BigData = append(o.BigData,
		item(storage.ImageDigestManifestBigDataNamePrefix+"-"+pl.digest.String(), pl.manifest),
		item(storage.ImageDigestBigDataKey, pl.manifest))
	raw, err := json.Marshal(meta)
	if err != nil {
		return Image{}, err
	}
	o.Metadata = string(raw)
	if err := p.putImage(img.ID, pl.topLayer(), o); err != nil {
		return Image{}, err
	}
	if err := durable.Sync(p.layers.GraphRoot()); err != nil {
		return Image{}, err
	}
	if name == nil || p.o.Unnamed {
		return img, nil
	}
	img.Name = name.String()
	if err := p.layers.AddNames(img.ID, []string{img.Name}); err != nil {
		return Image{}, fmt.Errorf("naming image %s: %w", img.ID, err)
	}
	return img, durable.SyncDir(filepath.Join(p.layers.GraphRoot(), p.layers.GraphDriverName()+"-images"))
}

// putImage creates the image's record, or brings the one that is there up to
// date.
func (p *puller) putImage(id, top string, o *storage.ImageOptions) error {
	_, err := p.layers.CreateImage(id, nil, top, "", o)
	if err == nil {
		return nil
	}
	if !errors.Is(err, storage.ErrDuplicateID) {
		return fmt.Errorf("recording image %s: %w", id, err)
	}
	have, err := p.layers.Image(id)
	if err != nil {
		return fmt.Errorf("reading image %s: %w", id, err)
	}
	if have.TopLayer != top {
		return fmt.Errorf("image %s is there already, with other layers", id)
	}
	for _, b := range o.BigData {
		if old, err := p.layers.ImageBigData(id, b.Key); err == nil && bytes.Equal(old, b.Data) {
			continue
		}
		if err := p.layers.SetImageBigData(id, b.Key, b.Data, manifest.Digest); err != nil {
			return fmt.Errorf("recording %s of image %s: %w", b.Key, id, err)
		}
	}
	if have.Metadata != o.Metadata {
		if err := p.layers.SetMetadata(id, o.Metadata); err != nil {
			return fmt.Errorf("recording image %s: %w", id, err)
		}
	}
	return nil
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
