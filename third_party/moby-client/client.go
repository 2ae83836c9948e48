// Package client takes the place of github.com/moby/moby/client, which
// containers/image calls for its docker-daemon: transport. The original brings
// OpenTelemetry and docker's whole API.
//
// Lost: images from and to a docker daemon. `docker save` and `balena load`
// carry them over.
package client

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
)

// ErrNotSupported is what New returns.
var ErrNotSupported = errors.New("images of a docker daemon are not supported by balena; use 'docker save' and docker-archive:")

// DefaultDockerHost is where docker's daemon listens.
const DefaultDockerHost = "unix:///var/run/docker.sock"

// Client would talk to a daemon.
type Client struct{}

// Opt is an option of New.
type Opt func()

// LoadOption is an option of ImageLoad.
type LoadOption func()

// New returns ErrNotSupported.
func New(...Opt) (*Client, error) { return nil, ErrNotSupported }

// WithHost would name the daemon.
func WithHost(string) Opt { return func() {} }

// WithHTTPClient would name an HTTP client.
func WithHTTPClient(*http.Client) Opt { return func() {} }

// ParseHostURL returns ErrNotSupported.
func ParseHostURL(string) (*url.URL, error) { return nil, ErrNotSupported }

// CheckRedirect returns ErrNotSupported.
func CheckRedirect(*http.Request, []*http.Request) error { return ErrNotSupported }

// ImageLoadWithQuiet would suppress progress.
func ImageLoadWithQuiet(bool) LoadOption { return func() {} }

// ImageLoad returns ErrNotSupported.
func (*Client) ImageLoad(context.Context, io.Reader, ...LoadOption) (io.ReadCloser, error) {
	return nil, ErrNotSupported
}

// ImageSave returns ErrNotSupported.
func (*Client) ImageSave(context.Context, []string) (io.ReadCloser, error) {
	return nil, ErrNotSupported
}

// Close does nothing.
func (*Client) Close() error { return nil }
