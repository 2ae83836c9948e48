package durable

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
	graphdriver "go.podman.io/storage/drivers"
	"go.podman.io/storage/pkg/archive"
)

// ErrDigest is what a layer fails with that is not the one asked for.
var ErrDigest = errors.New("content does not match its digest")

// differ extracts one uncompressed layer into the staging directory that the
// graph driver made. It implements graphdriver.Differ for one use.
type differ struct {
	ctx    context.Context
	tar    io.Reader
	want   digest.Digest // the layer's diffID; "" if it is not known
	got    digest.Digest
	tsData *os.File // receives the tar-split data
	sync   func(fd int) error
	exact  bool // whether that data makes the same tar again
}

var _ graphdriver.Differ = (*differ)(nil)

func (d *differ) Close() error { return nil }

// ApplyDiff is called by the driver without any of the store's locks.
func (d *differ) ApplyDiff(dest string, o *archive.TarOptions, do *graphdriver.DifferOptions) (graphdriver.DriverWithDifferOutput, error) {
	if do.Format != graphdriver.DifferOutputFormatDir {
		return graphdriver.DriverWithDifferOutput{}, errors.New("composefs storage is not supported")
	}
	staging.Store(do.StagingDirectory, nil) // until Commit or Discard
	set := newChunks()
	toSplit, toUnpack := newLink(set, 2), newLink(set, 4)
	seen := &files{}

	splitDone := make(chan struct{})
	var found *split
	var splitErr error
	go func() {
		defer close(splitDone)
		in := &linkReader{in: toSplit, done: toUnpack.send}
		found, splitErr = splitStream(in, d.tsData, seen)
		toUnpack.close(splitErr)
		if splitErr != nil {
			set.abort()
		}
	}()

	unpackDone := make(chan struct{})
	var unpackErr error
	go func() {
		defer close(unpackDone)
		if unpackErr = unpackAndFlush(toUnpack, dest, o, seen, d.sync); unpackErr != nil {
			set.abort()
		}
	}()

	algorithm := digest.Canonical
	if d.want != "" {
		algorithm = d.want.Algorithm()
	}
	sum := algorithm.Hash()
	readErr := d.read(set, toSplit, sum)
	toSplit.close(readErr)
	<-splitDone
	<-unpackDone

	if err := firstCause(readErr, splitErr, unpackErr); err != nil {
		return graphdriver.DriverWithDifferOutput{}, err
	}
	if d.got = digest.NewDigest(algorithm, sum); d.want != "" && d.got != d.want {
		return graphdriver.DriverWithDifferOutput{}, fmt.Errorf("layer's content is %s, the image's configuration says %s: %w", d.got, d.want, ErrDigest)
	}
	d.exact = found.exact()
	return graphdriver.DriverWithDifferOutput{
		Differ:             d,
		Size:               found.size,
		UIDs:               found.uids.sorted(),
		GIDs:               found.gids.sorted(),
		UncompressedDigest: d.got,
		RootDirMode:        found.rootMode,
	}, nil
}

// read is the first stage: it fills chunks from the stream and hashes them.
func (d *differ) read(set *chunks, out *link, sum hash.Hash) error {
	for {
		b, err := set.get()
		if err != nil {
			return err
		}
		if err := d.ctx.Err(); err != nil {
			set.put(b)
			return err
		}
		n, err := fill(d.tar, b)
		if n == 0 {
			set.put(b)
		} else {
			sum.Write(b[:n])
			if serr := out.send(b[:n]); serr != nil {
				return serr
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// fill reads until the chunk is full or the stream fails. Unlike io.ReadFull
// it passes the stream's own error on.
func fill(r io.Reader, b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var m int
		m, err = r.Read(b[n:])
		n += m
	}
	return n, err
}

// unpackAndFlush is the last stage. Files are written back just before the
// stream is read on, when the unpacker has closed them, and before the header
// that could put something else in their place is seen.
func unpackAndFlush(in *link, dest string, o *archive.TarOptions, seen *files, sync func(fd int) error) error {
	f := newFlusher(seen, sync)
	r := &linkReader{in: in, before: f.advance, done: func(b []byte) error { in.set.put(b); return nil }}
	err := inRoot(dest, func() error {
		err := archive.Unpack(r, "/", o)
		if err == nil { // padding after the end-of-archive marker
			_, err = io.Copy(io.Discard, struct{ io.Reader }{r})
		}
		return errors.Join(err, f.stop())
	})
	return errors.Join(err, f.stop())
}

// firstCause picks the error that made the other stages give up.
func firstCause(errs ...error) error {
	var aborted error
	for _, err := range errs {
		if err == nil {
			continue
		}
		if !errors.Is(err, errAborted) {
			return err
		}
		aborted = err
	}
	return aborted
}
