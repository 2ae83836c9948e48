package pull

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/docker/reference"

	"github.com/balena-os/balena/pkg/store"
)

// release is a tagged image of a repository.
type release struct {
	tag     string
	id      digest.Digest // of its configuration
	created time.Time
}

// tagReaders is how many tags are looked at at once.
const tagReaders = 4

// ReleasesBefore lists the images that devices are likely to come from when
// they update to target: of its repository (or o.Repo) the tags that fit
// pattern, as path.Match has it, the latest first and n at most; by the time in
// their configurations, and where that is the same, by version. Left out are
// the target itself, tags with the same image as one before, and what is no
// image for the platform. They come back as MakeDeltas takes them.
func ReleasesBefore(ctx context.Context, st *store.Store, pattern string, n int, target string, o DeltaOptions) ([]string, error) {
	if _, err := path.Match(pattern, ""); err != nil {
		return nil, fmt.Errorf("pattern %q: %w", pattern, err)
	}
	m, err := newMaker(st, o)
	if err != nil {
		return nil, err
	}
	t, err := m.open(ctx, target, o.Platform)
	if err != nil {
		return nil, fmt.Errorf("reading target %q: %w", target, err)
	}
	defer t.Close()
	named, err := m.repository(t)
	if err != nil {
		return nil, err
	}
	repo := reference.TrimNamed(named)
	platform := o.Platform
	if platform == "" && t.image.OS != "" && t.image.Architecture != "" {
		platform = t.platform()
	}
	found, err := m.releases(ctx, repo, pattern, platform)
	if err != nil {
		return nil, fmt.Errorf("listing the releases in %s: %w", repo.Name(), unauthorized(err))
	}
	slices.SortFunc(found, func(a, b release) int {
		return cmp.Or(b.created.Compare(a.created), compareVersions(b.tag, a.tag))
	})
	seen := map[digest.Digest]bool{t.id: true}
	var refs []string
	for _, r := range found {
		if seen[r.id] || len(refs) == n {
			continue
		}
		seen[r.id] = true
		refs = append(refs, "docker://"+repo.Name()+":"+r.tag)
	}
	return refs, nil
}

func (m *maker) releases(ctx context.Context, repo reference.Named, pattern, platform string) ([]release, error) {
	sys, err := m.systemContext(repo, platform)
	if err != nil {
		return nil, err
	}
	ref, err := docker.NewReference(reference.TagNameOnly(repo))
	if err != nil {
		return nil, err
	}
	tags, err := docker.GetRepositoryTags(ctx, sys, ref)
	if err != nil {
		return nil, err
	}
	var (
		mu    sync.Mutex
		wg    sync.WaitGroup
		found []release
		errs  []error
		slots = make(chan struct{}, tagReaders)
	)
	for _, tag := range tags {
		if ok, _ := path.Match(pattern, tag); !ok || isReferrersTag(tag) {
			continue
		}
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			r, err := m.release(ctx, repo, tag, platform)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil && r.id != "":
				found = append(found, r)
			case err != nil:
				errs = append(errs, fmt.Errorf("tag %s: %w", tag, err))
			}
		})
	}
	wg.Wait()
	return found, errors.Join(errs...)
}

// isReferrersTag tells whether a tag lists what refers to a manifest, or is a
// signature or the like, which cosign names in the same way.
func isReferrersTag(tag string) bool {
	hex, ok := strings.CutPrefix(tag, "sha256-")
	return ok && len(hex) >= 64 && hexForm.MatchString(hex[:64])
}

// release looks at one tag. The zero release is for what is no image for the
// platform, or went away meanwhile.
func (m *maker) release(ctx context.Context, repo reference.Named, tag, platform string) (release, error) {
	tagged, err := reference.WithTag(repo, tag)
	if err != nil {
		return release{}, err
	}
	ref, err := docker.NewReference(tagged)
	if err != nil {
		return release{}, err
	}
	img, err := m.openRemote(ctx, tag, ref, tagged, platform)
	switch {
	case errors.Is(err, ErrNotImage), errors.Is(err, ErrPlatform), err != nil && notFound(err):
		return release{}, nil
	case err != nil:
		return release{}, err
	}
	defer img.Close()
	if img.image.Config.Labels[labelBase] != "" { // a delta that was pushed as an image
		return release{}, nil
	}
	r := release{tag: tag, id: img.id}
	if img.image.Created != nil {
		r.created = *img.image.Created
	}
	return r, nil
}

// compareVersions orders tags as people number them: runs of digits by their
// value, everything else by its bytes; and 1.0-rc1 before 1.0.
func compareVersions(a, b string) int {
	for a != "" && b != "" {
		x, y := run(a), run(b)
		a, b = a[len(x):], b[len(y):]
		n, err := strconv.ParseUint(x, 10, 64)
		k, kerr := strconv.ParseUint(y, 10, 64)
		c := strings.Compare(x, y)
		if err == nil && kerr == nil {
			c = cmp.Compare(n, k)
		}
		if c != 0 {
			return c
		}
	}
	switch {
	case strings.HasPrefix(a, "-"):
		return -1
	case strings.HasPrefix(b, "-"):
		return 1
	}
	return cmp.Compare(len(a), len(b))
}

// run is the beginning of s that is all digits, or all something else.
func run(s string) string {
	digit := func(c byte) bool { return '0' <= c && c <= '9' }
	i := 1
	for i < len(s) && digit(s[i]) == digit(s[0]) {
		i++
	}
	return s[:i]
}
