package build

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"

	"github.com/balena-os/balena/pkg/durable"
	"github.com/balena-os/balena/pkg/pull"
)

// finish makes what was built durable, gives it its names, and sends it.
func (b *builder) finish(ctx context.Context, ids []string) (Result, error) {
	var r Result
	if len(ids) == 0 {
		return r, nil
	}
	if err := durable.Sync(b.layers.GraphRoot()); err != nil {
		return r, err
	}
	push := b.o.Push
	tags := slices.Clone(b.o.Tags)
	for _, o := range b.o.Outputs {
		tags = append(tags, o.Names...)
		push = push || o.Push
	}
	for _, t := range tags {
		named, err := pull.ParseName(t)
		if err != nil {
			return r, err
		}
		if !slices.Contains(r.Names, named.String()) {
			r.Names = append(r.Names, named.String())
		}
	}
	var err error
	if r.ID = ids[0]; len(b.o.Platforms) > 1 {
		if r.ID, err = pull.ListImages(ctx, b.st, ids, r.Names...); err != nil {
			return r, err
		}
	} else if len(r.Names) > 0 {
		if err := pull.Tag(ctx, b.st, r.ID, r.Names...); err != nil {
			return r, err
		}
	}
	if b.o.IIDFile != "" {
		if err := os.WriteFile(b.o.IIDFile, []byte("sha256:"+r.ID), 0o644); err != nil {
			return r, fmt.Errorf("writing the image's ID: %w", err)
		}
	}
	if push {
		if len(r.Names) == 0 {
			return r, fmt.Errorf("%w: an image without a name cannot be pushed", ErrOptions)
		}
		for _, n := range r.Names {
			p, err := pull.Push(ctx, b.st, n, "", pull.PushOptions{RegistryOptions: b.o.RegistryOptions, Progress: b.o.Progress})
			if err != nil {
				return r, err
			}
			r.Pushed = append(r.Pushed, p)
		}
	}
	if err := b.writeMetadata(&r); err != nil {
		return r, err
	}
	return r, b.deltas(ctx, &r, ids)
}

// metadata is where buildah writes about the image: it knows of one platform
// only, and of no registry.
func (b *builder) metadata() string {
	if len(b.o.Platforms) > 1 {
		return ""
	}
	return b.o.Metadata
}

// writeMetadata adds what happened after buildah wrote it.
func (b *builder) writeMetadata(r *Result) error {
	if b.o.Metadata == "" || len(b.o.Platforms) < 2 && len(r.Pushed) == 0 {
		return nil
	}
	about := map[string]any{}
	if raw, err := os.ReadFile(b.o.Metadata); err == nil && b.metadata() != "" {
		if err := json.Unmarshal(raw, &about); err != nil {
			return fmt.Errorf("reading the metadata file: %w", err)
		}
	}
	if len(r.Names) > 0 {
		about["image.name"] = r.Names[0]
	}
	if len(r.Pushed) > 0 {
		about["containerimage.digest"] = r.Pushed[0].Digest
	}
	raw, err := json.MarshalIndent(about, "", "    ")
	if err == nil {
		err = os.WriteFile(b.o.Metadata, append(raw, '\n'), 0o644)
	}
	if err != nil {
		return fmt.Errorf("writing the metadata file: %w", err)
	}
	return nil
}

// deltas makes those to what was built, and publishes them if that was pushed.
func (b *builder) deltas(ctx context.Context, r *Result, ids []string) error {
	if len(b.o.DeltaFrom) == 0 {
		return nil
	}
	o := pull.DeltaOptions{RegistryOptions: b.o.RegistryOptions, Push: len(r.Pushed) > 0}
	if t := b.o.Timestamp; t != nil {
		o.Created = *t
	} else if t := b.o.Epoch; t != nil {
		o.Created = *t
	}
	if o.Push {
		o.Repo = r.Pushed[0].Name
	}
	for i, id := range ids {
		target := id
		if len(r.Names) > 0 {
			target = r.Names[0]
		}
		if len(b.o.Platforms) > 1 {
			target, o.Platform = id, b.o.Platforms[i]
		}
		made, err := pull.MakeDeltas(ctx, b.st, b.o.DeltaFrom, target, o)
		r.Deltas = append(r.Deltas, made...)
		if err != nil {
			return err
		}
	}
	return nil
}
