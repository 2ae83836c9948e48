// Package ocicrypt takes the place of github.com/containers/ocicrypt, which
// containers/image calls to encrypt and decrypt layers. The original brings
// gRPC and protobuf (key provider plugins), OpenPGP, JWE, PKCS #7, PKCS #11
// with its dlopen, and a YAML parser; protobuf's reflection makes the linker
// keep every exported method of every type.
//
// Lost: encrypted images, both ways.
package ocicrypt

import (
	"errors"
	"io"

	"github.com/containers/ocicrypt/config"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ErrNotSupported is what both functions return.
var ErrNotSupported = errors.New("encrypted images are not supported by balena")

// EncryptLayerFinalizer would return the annotations of an encrypted layer.
type EncryptLayerFinalizer func() (map[string]string, error)

// EncryptLayer returns ErrNotSupported.
func EncryptLayer(*config.EncryptConfig, io.Reader, ocispec.Descriptor) (io.Reader, EncryptLayerFinalizer, error) {
	return nil, nil, ErrNotSupported
}

// DecryptLayer returns ErrNotSupported.
func DecryptLayer(*config.DecryptConfig, io.Reader, ocispec.Descriptor, bool) (io.Reader, digest.Digest, error) {
	return nil, "", ErrNotSupported
}
