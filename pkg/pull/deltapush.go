package pull

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/docker/distribution/registry/api/errcode"
	v2 "github.com/docker/distribution/registry/api/v2"
	"github.com/opencontainers/go-digest"
	imgspecv1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/docker/reference"

	"github.com/balena-os/balena/pkg/delta"
)

// publisher puts deltas beside their target in a repository.
type publisher struct {
	m      *maker
	repo   reference.Named
	refs   *referrers
	target *deltaImage // as the repository has it
	given  *deltaImage
	bases  map[digest.Digest][]digest.Digest // of the deltas that are there: their artifacts
}

// publisher finds out where deltas to the target go, whether it is there, and
// which deltas there are.
func (m *maker) publisher(ctx context.Context, t *deltaImage) (*publisher, error) {
	repo, err := m.repository(t)
	if err != nil {
		return nil, err
	}
	sys, err := m.systemContext(repo, "")
	if err != nil {
		return nil, err
	}
	p := &publisher{m: m, repo: repo, refs: &referrers{sys: sys}, given: t, bases: map[digest.Digest][]digest.Digest{}}
	platform := ""
	if t.image.OS != "" && t.image.Architecture != "" {
		platform = t.platform()
	}
	if p.target, err = m.inRepository(ctx, t, repo, platform); err != nil {
		return nil, err
	}
	if p.target != t { // its layers are read from where the user said
		there := *p.target
		there.given, there.local = t.given, t.local
		there.layers = slices.Clone(there.layers)
		for n := range there.layers {
			there.layers[n].open, there.layers[n].blob, there.layers[n].tar = t.layers[n].open, t.layers[n].blob, t.layers[n].tar
		}
		p.target = &there
	}
	found, err := p.refs.list(ctx, repo, p.target.digest)
	if err != nil {
		p.Close()
		return nil, err
	}
	for _, d := range found {
		if a, err := p.refs.artifact(ctx, repo, d, p.target.digest); err == nil && a.Target == t.id {
			p.bases[a.Base] = append(p.bases[a.Base], d.Digest)
		}
	}
	return p, nil
}

func (m *maker) repository(t *deltaImage) (reference.Named, error) {
	if m.o.Repo != "" {
		name := strings.TrimPrefix(m.o.Repo, "docker://")
		named, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			return nil, fmt.Errorf("%w: %q", ErrBadReference, m.o.Repo)
		}
		return named, nil
	}
	if t.named == nil {
		return nil, ErrNoRepository
	}
	return t.named, nil
}

// Close ends reading of the target in the repository.
func (p *publisher) Close() {
	if p.target.raw != p.given.raw {
		p.target.Close()
	}
}

func (p *publisher) has(base digest.Digest) bool { return len(p.bases[base]) > 0 }

// publish sends a delta, and removes those from the same base that it
// supersedes, as far as the registry allows that.
func (p *publisher) publish(ctx context.Context, a delta.Artifact, blob *spool, d *MadeDelta) error {
	raw, err := a.Manifest()
	if err != nil {
		return err
	}
	entry := a.Descriptor(raw)
	e := DeltaEvent{Base: d.Base, Target: d.Target, Step: SendingDelta, Total: d.Size}
	open := func() (io.ReadCloser, error) {
		r := &readAlong{ReadCloser: io.NopCloser(blob.reader()), tell: func(n int64, _ bool) {
			if e.Done = n; p.m.o.Progress != nil {
				p.m.o.Progress(e)
			}
		}}
		return r, nil
	}
	err = p.refs.publish(ctx, p.repo, raw, entry, a.Subject.Digest, emptyConfig(), publishedBlob{a.Blob, open})
	if err != nil {
		return fmt.Errorf("publishing in %s: %w", p.repo.Name(), err)
	}
	d.Artifact, d.Repo = entry.Digest, p.repo.Name()
	for _, old := range p.bases[a.Base] {
		if old != entry.Digest {
			_ = p.refs.delete(ctx, p.repo, a.Subject.Digest, old) // a pull takes the smaller one anyway
		}
	}
	p.bases[a.Base] = []digest.Digest{entry.Digest}
	return nil
}

// emptyConfig is what an artifact has for a configuration.
func emptyConfig() publishedBlob {
	d := imgspecv1.DescriptorEmptyJSON
	return publishedBlob{d, func() (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(string(d.Data))), nil
	}}
}

// artifact reads what an entry of a list says; if the registry left that out,
// what the manifest says.
func (r *referrers) artifact(ctx context.Context, named reference.Named, d imgspecv1.Descriptor, subject digest.Digest) (delta.Artifact, error) {
	if len(d.Annotations) > 0 {
		return delta.ArtifactOf(d, subject)
	}
	raw, err := r.fetchManifest(ctx, named, d.Digest)
	if err != nil {
		return delta.Artifact{}, err
	}
	return delta.ParseArtifact(raw)
}

// notFound tells whether a registry said that it does not have something.
func notFound(err error) bool {
	var code errcode.ErrorCoder
	if errors.As(err, &code) {
		return code.ErrorCode() == v2.ErrorCodeManifestUnknown || code.ErrorCode() == v2.ErrorCodeNameUnknown
	}
	var status docker.UnexpectedHTTPStatusError
	if errors.As(err, &status) {
		return status.StatusCode == http.StatusNotFound
	}
	m := clientError.FindStringSubmatch(err.Error())
	return m != nil && m[1] == "404"
}
