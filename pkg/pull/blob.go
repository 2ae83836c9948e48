package pull

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net"
	"reflect"
	"time"

	"github.com/docker/distribution/registry/api/errcode"
	"github.com/opencontainers/go-digest"
	"github.com/sirupsen/logrus"
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/types"
	"go.podman.io/storage/pkg/regexp"
)

const (
	// blobTries is how often in a row a blob is asked for without getting
	// further: about 75 s, which is what a mobile link may need.
	blobTries = 10
	// blobFirstTries is the same while nothing of it has arrived: about 7 s.
	blobFirstTries = 5
	// blobReconnects bounds them over the whole blob.
	blobReconnects = 200
	// blobProgress is what counts as getting further.
	blobProgress = 64 << 10
	// blobIdle is how long a connection may be silent.
	blobIdle = 60 * time.Second
)

// patience says how long a blob is waited for.
type patience struct {
	idle        time.Duration // how long a connection may be silent
	first, more int           // tries in a row before anything arrived, and then
}

var blobPatience = patience{idle: blobIdle, first: blobFirstTries, more: blobTries}

// Variables for tests.
var (
	backoffFirst = 500 * time.Millisecond
	backoffMax   = 15 * time.Second
)

// errSource marks what went wrong with fetching, as opposed to with content.
var errSource = errors.New("fetching failed")

// fetchError says why a blob could not be fetched; copy.Image wraps it in words
// of its own, which are dropped again.
type fetchError struct{ err error }

func (e *fetchError) Error() string   { return e.err.Error() }
func (e *fetchError) Unwrap() []error { return []error{errSource, e.err} }

// blob is a blob's stream. When the connection breaks it asks for the rest by
// Range, with growing pauses; containers/image's own reader does that too, but
// gives up at the second failure within a megabyte.
type blob struct {
	ctx      context.Context
	src      types.ImageSource
	info     types.BlobInfo
	cache    types.BlobInfoCache
	size     int64 // as the manifest says; -1 if it does not
	progress func(digest.Digest, int64)
	patience

	body   io.ReadCloser
	cancel context.CancelFunc // ends the current request
	timer  *time.Timer        // of the connection's silence
	at     int64              // bytes delivered

	tries, reconnects int
	lastAt            int64 // where the stream broke last
}

// open makes the first request, trying again what may get better.
func (b *blob) open() error {
	for {
		err := b.connect()
		if err == nil {
			return nil
		}
		if err := b.pause(err); err != nil {
			return err
		}
	}
}

func (b *blob) connect() error {
	ctx, cancel := context.WithCancel(b.ctx)
	timer := time.AfterFunc(b.idle, cancel)
	var body io.ReadCloser
	var err error
	if b.at == 0 {
		var size int64
		body, size, err = b.src.GetBlob(ctx, b.info, b.cache)
		if b.size < 0 {
			b.size = size
		}
	} else {
		body, err = openAt(ctx, b.src, b.info, b.cache, b.at)
	}
	if err != nil {
		timer.Stop()
		cancel()
		return err
	}
	b.body, b.cancel, b.timer = body, cancel, timer
	return nil
}

func (b *blob) disconnect() {
	if b.body == nil {
		return
	}
	b.timer.Stop()
	b.body.Close()
	b.cancel()
	b.body = nil
}

// pause waits before the next try, or says why there should be none.
func (b *blob) pause(cause error) error {
	if err := b.ctx.Err(); err != nil {
		return context.Cause(b.ctx)
	}
	if permanent(cause) {
		if b.at > 0 {
			cause = fmt.Errorf("broke off at byte %d of %d, and the rest is refused: %w", b.at, b.size, cause)
		}
		return &fetchError{cause}
	}
	if b.at-b.lastAt >= blobProgress {
		b.tries = 0
	}
	b.lastAt = b.at
	b.tries++
	b.reconnects++
	limit := b.more
	if b.at == 0 {
		limit = b.first
	}
	if b.tries >= limit || b.reconnects > blobReconnects {
		return &fetchError{fmt.Errorf("broke off at byte %d of %d, after %d tries: %w", b.at, b.size, b.tries, cause)}
	}
	wait := min(backoffFirst<<(b.tries-1), backoffMax)
	logrus.Debugf("blob %s at byte %d: %v; trying again in %s", b.info.Digest, b.at, cause, wait)
	select {
	case <-b.ctx.Done():
		return context.Cause(b.ctx)
	case <-time.After(wait):
		return nil
	}
}

func (b *blob) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		if b.body == nil {
			if err := b.connect(); err != nil {
				if err := b.pause(err); err != nil {
					return 0, err
				}
				continue
			}
		}
		b.timer.Reset(b.idle)
		n, err := b.body.Read(p)
		b.at += int64(n)
		if b.size >= 0 && b.at > b.size {
			return 0, fmt.Errorf("%w: blob is longer than the %d bytes that its manifest says", ErrDigest, b.size)
		}
		if n > 0 {
			if b.progress != nil {
				b.progress(b.info.Digest, b.at)
			}
			return n, nil // an error will come again
		}
		if err == io.EOF && (b.size < 0 || b.at == b.size) {
			return 0, io.EOF
		}
		if err == nil {
			continue
		}
		if err == io.EOF {
			err = fmt.Errorf("got %d of %d bytes: %w", b.at, b.size, io.ErrUnexpectedEOF)
		}
		b.disconnect()
		if err := b.pause(err); err != nil {
			return 0, err
		}
	}
}

func (b *blob) Close() error {
	b.disconnect()
	return nil
}

// openAt opens the rest of a blob. containers/image can ask a registry for a
// part of a blob, but its method's parameters have a type that cannot be named
// outside; so it is called by reflection, which costs nothing in size as long
// as the name is a constant. Sources that have no such method start over.
func openAt(ctx context.Context, src types.ImageSource, info types.BlobInfo, cache types.BlobInfoCache, offset int64) (io.ReadCloser, error) {
	if hasRanges(src) {
		m := reflect.ValueOf(src).MethodByName("GetBlobAt")
		if m.IsValid() && m.Type().NumIn() == 3 && m.Type().In(2).Kind() == reflect.Slice {
			return callGetBlobAt(ctx, m, info, offset)
		}
	}
	r, _, err := src.GetBlob(ctx, info, cache)
	if err != nil {
		return nil, err
	}
	if _, err := io.CopyN(io.Discard, r, offset); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

func hasRanges(src types.ImageSource) bool {
	s, ok := src.(interface{ SupportsGetBlobAt() bool })
	return ok && s.SupportsGetBlobAt()
}

// rangedBody is what containers/image gives for a part of a blob. When the
// connection breaks, that crashes if it is read once more, which its own Close
// does: its error is kept here, and it is not closed then. The request's context
// ends the connection.
type rangedBody struct {
	io.ReadCloser
	err error
}

func (r *rangedBody) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	n, err := r.ReadCloser.Read(p)
	r.err = err
	return n, err
}

func (r *rangedBody) Close() error {
	if r.err != nil && !errors.Is(r.err, io.EOF) {
		return nil
	}
	return r.ReadCloser.Close()
}

func callGetBlobAt(ctx context.Context, m reflect.Value, info types.BlobInfo, offset int64) (io.ReadCloser, error) {
	chunks := reflect.MakeSlice(m.Type().In(2), 1, 1)
	chunks.Index(0).FieldByName("Offset").SetUint(uint64(offset))
	chunks.Index(0).FieldByName("Length").SetUint(math.MaxUint64) // to the end
	out := m.Call([]reflect.Value{reflect.ValueOf(ctx), reflect.ValueOf(info), chunks})
	if err, _ := out[2].Interface().(error); err != nil {
		return nil, err
	}
	streams, errs := out[0].Interface().(chan io.ReadCloser), out[1].Interface().(chan error)
	for streams != nil || errs != nil {
		select {
		case r, ok := <-streams:
			if ok {
				return &rangedBody{ReadCloser: r}, nil
			}
			streams = nil
		case err, ok := <-errs:
			if ok && err != nil {
				return nil, err
			}
			errs = nil
		}
	}
	return nil, errors.New("registry sent no part of the blob")
}

// clientError finds the status of a refusal whose body was not what the
// specification asks for; the type of that error is not exported.
var clientError = regexp.Delayed(`(?:error parsing HTTP|StatusCode:) (4\d\d)\b`)

// permanent tells whether asking again is in vain: the registry understood and
// refused, or cannot be trusted.
func permanent(err error) bool {
	var code errcode.ErrorCoder
	if errors.As(err, &code) {
		return code.ErrorCode() != errcode.ErrorCodeTooManyRequests && code.ErrorCode() != errcode.ErrorCodeUnavailable
	}
	var status docker.UnexpectedHTTPStatusError
	if errors.As(err, &status) {
		return status.StatusCode < 500
	}
	var unauthorized docker.ErrUnauthorizedForCredentials
	var cert x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	var dns *net.DNSError
	switch {
	case errors.Is(err, errArchive), errors.Is(err, fs.ErrNotExist): // a file's contents stay what they are
		return true
	case errors.As(err, &unauthorized), errors.As(err, &cert), errors.As(err, &host), errors.As(err, &invalid):
		return true
	case errors.As(err, &dns):
		return dns.IsNotFound
	}
	m := clientError.FindStringSubmatch(err.Error())
	return m != nil && m[1] != "408" && m[1] != "429"
}
