package pull

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"go.podman.io/image/v5/docker"
	dockerarchive "go.podman.io/image/v5/docker/archive"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/types"
)

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
