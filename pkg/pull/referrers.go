package pull

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/docker/distribution/registry/api/errcode"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imgspecv1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/manifest"
	"go.podman.io/image/v5/pkg/blobinfocache/none"
	"go.podman.io/image/v5/types"

	"github.com/balena-os/balena/pkg/delta"
	"github.com/balena-os/balena/pkg/store"
)

// ErrNoDelete is for a registry that is set up to keep everything.
var ErrNoDelete = errors.New("the registry does not allow deleting")

// referrers speaks with a registry about the deltas to an image: the artifacts
// that name its manifest as their subject. It asks the referrers API, and where
// a registry lacks that (404), the tag that OCI 1.1 has for such registries.
type referrers struct {
	sys *types.SystemContext
	// st remembers which registries have the API; nil: nothing is remembered.
	st *store.Store
	// pulling is for those who would rather go without a delta than wait for
	// one: mirrors are asked too, the first that serves counts; it takes ten
	// seconds at most and one request at each location (authentication
	// apart), two where a location is found to lack the API.
	pulling bool
	// learning is for those who can have no use for a delta yet: a registry
	// that lacks the API is only remembered as such.
	learning bool
}

const (
	// findTimeout bounds how long a pull looks for deltas.
	findTimeout = 10 * time.Second
	// relearn is after how long a registry without the API is asked again.
	relearn = 30 * 24 * time.Hour
	// settleLeast is how long, at least, others get to overwrite a list.
	settleLeast = 100 * time.Millisecond
	// maxReferrers bounds a list, in artifacts and in pages.
	maxReferrers, maxReferrerPages = 10000, 100
)

// registryRecord is what the store knows about a registry.
type registryRecord struct {
	Referrers bool // it has the referrers API
	Seen      time.Time
}

// list gives the deltas to the image whose manifest is subject, as their
// descriptors; of a registry that leaves the annotations out, only the type and
// the digest of the manifest. None are no error.
func (r *referrers) list(ctx context.Context, named reference.Named, subject digest.Digest) ([]imgspecv1.Descriptor, error) {
	if err := subject.Validate(); err != nil {
		return nil, fmt.Errorf("manifest %q: %w", subject, err)
	}
	if r.pulling {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, findTimeout)
		defer stop()
	}
	places, err := registryPlaces(r.sys, named, subject, r.pulling)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, p := range places {
		found, err := r.listAt(ctx, p, subject)
		if err == nil {
			return ours(found), nil
		}
		if !errors.Is(err, errNotThere) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("listing what refers to %s: %w", subject, err)
	}
	return nil, nil
}

func (r *referrers) listAt(ctx context.Context, p *registryPlace, subject digest.Digest) ([]imgspecv1.Descriptor, error) {
	api, known := r.recall(ctx, p.host)
	if api || !known {
		found, err := r.api(ctx, p, subject)
		if err == nil || !errors.Is(err, errNotThere) {
			if err == nil && !api {
				r.remember(ctx, p.host, true)
			}
			return found, err
		}
		r.remember(ctx, p.host, false)
		if r.learning {
			return nil, err
		}
	}
	index, err := fallbackIndex(ctx, p, subject)
	return index.Manifests, err
}

// api asks the referrers API. errNotThere: there is none.
func (r *referrers) api(ctx context.Context, p *registryPlace, subject digest.Digest) ([]imgspecv1.Descriptor, error) {
	path := p.path("referrers/"+subject.String()) + "?artifactType=" + delta.MediaType
	var found []imgspecv1.Descriptor
	for page := 0; path != ""; page++ {
		body, header, err := p.get(ctx, path, imgspecv1.MediaTypeImageIndex)
		if err != nil {
			return nil, err
		}
		var index imgspecv1.Index
		if err := json.Unmarshal(body, &index); err != nil || index.MediaType != "" && index.MediaType != imgspecv1.MediaTypeImageIndex {
			return nil, fmt.Errorf("%s answers with something else than an index", p.host)
		}
		if found = append(found, index.Manifests...); len(found) > maxReferrers {
			return nil, fmt.Errorf("%s lists more than %d referrers", p.host, maxReferrers)
		}
		if path = nextPage(header, path); r.pulling || page == maxReferrerPages {
			break
		}
	}
	return found, nil
}

// ours are the descriptors of deltas. Some registries give the type of the
// configuration as that of the artifact.
func ours(all []imgspecv1.Descriptor) []imgspecv1.Descriptor {
	var found []imgspecv1.Descriptor
	for _, d := range all {
		if d.Digest.Validate() != nil || d.Size < 0 {
			continue
		}
		if _, ok := d.Annotations[delta.AnnotationVersion]; ok {
			d.ArtifactType = delta.MediaType
		}
		if d.ArtifactType == delta.MediaType {
			found = append(found, d)
		}
	}
	return found
}

// fallbackTag is the tag under which a registry without the referrers API lists
// what refers to a manifest.
func fallbackTag(subject digest.Digest) string {
	hex := subject.Encoded()
	return subject.Algorithm().String() + "-" + hex[:min(64, len(hex))]
}

func fallbackIndex(ctx context.Context, p *registryPlace, subject digest.Digest) (imgspecv1.Index, error) {
	var index imgspecv1.Index
	body, _, err := p.get(ctx, p.path("manifests/"+fallbackTag(subject)), imgspecv1.MediaTypeImageIndex)
	if err != nil {
		return index, err
	}
	if err := json.Unmarshal(body, &index); err != nil || index.MediaType != imgspecv1.MediaTypeImageIndex {
		return index, fmt.Errorf("the tag %s is not an index of referrers", fallbackTag(subject))
	}
	if len(index.Manifests) > maxReferrers {
		return index, fmt.Errorf("the tag %s lists more than %d referrers", fallbackTag(subject), maxReferrers)
	}
	return index, nil
}

func (r *referrers) recall(ctx context.Context, host string) (api, known bool) {
	if r.st == nil {
		return false, false
	}
	var rec registryRecord
	err := r.st.View(ctx, func(tx *store.Tx) error { return tx.Get(store.BucketRegistries, host, &rec) })
	if err != nil || !rec.Referrers && time.Since(rec.Seen).Abs() > relearn {
		return false, false
	}
	return rec.Referrers, true
}

// remember is only so that it need not be asked again: failing is no failure.
func (r *referrers) remember(ctx context.Context, host string, api bool) {
	if r.st == nil {
		return
	}
	rec := registryRecord{Referrers: api, Seen: time.Now().UTC()}
	_ = r.st.Update(ctx, func(tx *store.Tx) error { return tx.Put(store.BucketRegistries, host, rec) })
}

// fetchManifest reads a manifest of the repository by its digest, and checks it.
func (r *referrers) fetchManifest(ctx context.Context, named reference.Named, d digest.Digest) ([]byte, error) {
	places, err := registryPlaces(r.sys, named, d, r.pulling)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, p := range places {
		body, _, err := p.get(ctx, p.path("manifests/"+d.String()), manifest.DefaultRequestedManifestMIMETypes...)
		if err == nil && d.Algorithm().FromBytes(body) != d {
			err = ErrDigest
		}
		if err == nil {
			return body, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("manifest %s: %w", d, errors.Join(errs...))
}

// publishedBlob is something that an artifact is made of. Open may be called
// several times.
type publishedBlob struct {
	imgspecv1.Descriptor
	Open func() (io.ReadCloser, error)
}

// publish sends an artifact to a repository: its blobs, then its manifest, by
// digest and without a tag, then its entry in the fallback tag's index if the
// registry needs that. entry is the artifact's descriptor with all that lists
// of referrers repeat.
func (r *referrers) publish(ctx context.Context, named reference.Named, artifact []byte, entry imgspecv1.Descriptor, subject digest.Digest, blobs ...publishedBlob) error {
	repo := reference.TrimNamed(named)
	canonical, err := reference.WithDigest(repo, entry.Digest)
	if err != nil {
		return err
	}
	ref, err := docker.NewReference(canonical)
	if err != nil {
		return err
	}
	for _, b := range blobs {
		if err := r.putBlob(ctx, ref, b); err != nil {
			return fmt.Errorf("blob %s: %w", b.Digest, err)
		}
	}
	if err := r.putManifest(ctx, ref, artifact, &entry.Digest); err != nil {
		return err
	}
	return r.editFallback(ctx, repo, subject, func(all []imgspecv1.Descriptor) []imgspecv1.Descriptor {
		if slices.ContainsFunc(all, func(d imgspecv1.Descriptor) bool { return d.Digest == entry.Digest }) {
			return all
		}
		return append(slices.Clone(all), entry)
	})
}

func (r *referrers) putBlob(ctx context.Context, ref types.ImageReference, b publishedBlob) error {
	return retry(ctx, func() error {
		dest, err := ref.NewImageDestination(ctx, r.sys)
		if err != nil {
			return err
		}
		defer dest.Close()
		content, err := b.Open()
		if err != nil {
			return err
		}
		defer content.Close()
		_, err = dest.PutBlob(ctx, content, types.BlobInfo{Digest: b.Digest, Size: b.Size, MediaType: b.MediaType}, none.NoCache, false)
		return err
	})
}

func (r *referrers) putManifest(ctx context.Context, ref types.ImageReference, m []byte, d *digest.Digest) error {
	return retry(ctx, func() error {
		dest, err := ref.NewImageDestination(ctx, r.sys)
		if err != nil {
			return err
		}
		defer dest.Close()
		return dest.PutManifest(ctx, m, d)
	})
}

// editFallback changes the list under the fallback tag, unless the registry has
// the API and so keeps the list itself. The tag goes with the last entry.
// Nothing locks a tag, so it looks afterwards whether somebody else overwrote
// the change: at once, and again when a change that was under way meanwhile
// should have arrived.
func (r *referrers) editFallback(ctx context.Context, repo reference.Named, subject digest.Digest, edit func([]imgspecv1.Descriptor) []imgspecv1.Descriptor) error {
	places, err := registryPlaces(r.sys, repo, subject, false)
	if err != nil {
		return err
	}
	p := places[0]
	if _, err := r.api(ctx, p, subject); !errors.Is(err, errNotThere) {
		return err
	}
	tagged, err := reference.WithTag(repo, fallbackTag(subject))
	if err != nil {
		return err
	}
	ref, err := docker.NewReference(tagged)
	if err != nil {
		return err
	}
	same := func(a, b []imgspecv1.Descriptor) bool {
		return slices.EqualFunc(a, b, func(x, y imgspecv1.Descriptor) bool { return x.Digest == y.Digest })
	}
	var settle time.Duration // 0: nothing was changed, or it has settled
	for range 3 * pushTries {
		begin := time.Now()
		index, err := fallbackIndex(ctx, p, subject)
		if err != nil && !errors.Is(err, errNotThere) {
			return err
		}
		fresh := edit(index.Manifests)
		switch {
		case !same(fresh, index.Manifests):
		case settle == 0:
			return nil
		default:
			if err := wait(ctx, settle); err != nil {
				return err
			}
			settle = 0
			continue
		}
		if len(fresh) == 0 {
			return r.deleteRef(ctx, ref)
		}
		index.Versioned, index.MediaType, index.Manifests = specs.Versioned{SchemaVersion: 2}, imgspecv1.MediaTypeImageIndex, fresh
		raw, err := json.Marshal(index)
		if err != nil {
			return err
		}
		if err := r.putManifest(ctx, ref, raw, nil); err != nil {
			return fmt.Errorf("listing it under the tag %s: %w", tagged.Tag(), err)
		}
		// Who read the list before this change will have written it in
		// about the time that this one took.
		settle = max(settleLeast, 2*time.Since(begin))
	}
	return fmt.Errorf("the tag %s is changed by others all the time", tagged.Tag())
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// delete removes an artifact, and its entry under the fallback tag. The blobs
// go when the registry collects its garbage. ErrNoDelete.
func (r *referrers) delete(ctx context.Context, named reference.Named, subject, artifact digest.Digest) error {
	repo := reference.TrimNamed(named)
	canonical, err := reference.WithDigest(repo, artifact)
	if err != nil {
		return err
	}
	ref, err := docker.NewReference(canonical)
	if err != nil {
		return err
	}
	places, err := registryPlaces(r.sys, repo, artifact, false)
	if err != nil {
		return err
	}
	_, _, err = places[0].get(ctx, places[0].path("manifests/"+artifact.String()), imgspecv1.MediaTypeImageManifest)
	if err == nil {
		err = r.deleteRef(ctx, ref)
	}
	if err != nil && !errors.Is(err, errNotThere) { // else the list may still have it
		return fmt.Errorf("deleting %s: %w", artifact, err)
	}
	return r.editFallback(ctx, repo, subject, func(all []imgspecv1.Descriptor) []imgspecv1.Descriptor {
		return slices.DeleteFunc(slices.Clone(all), func(d imgspecv1.Descriptor) bool { return d.Digest == artifact })
	})
}

func (r *referrers) deleteRef(ctx context.Context, ref types.ImageReference) error {
	err := ref.DeleteImage(ctx, r.sys)
	var code errcode.ErrorCoder
	var status docker.UnexpectedHTTPStatusError
	switch {
	case errors.As(err, &code) && code.ErrorCode() == errcode.ErrorCodeUnsupported,
		errors.As(err, &status) && status.StatusCode == http.StatusMethodNotAllowed:
		return fmt.Errorf("%w: %w", ErrNoDelete, err)
	}
	return err
}
