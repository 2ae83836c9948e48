// Package luksy takes the place of github.com/containers/luksy, with which
// buildah encrypts the disk image of a "confidential workload".
//
// Lost: confidential workloads (buildah's --cw, which balena does not have).
package luksy

import (
	"errors"
	"io"
	"os"
)

// ErrNotSupported is what every function returns.
var ErrNotSupported = errors.New("LUKS is not supported by balena")

// ReadHeaderOptions are options of ReadHeaders.
type ReadHeaderOptions struct{}

// V1Header would be a LUKS1 header.
type V1Header struct{}

// V2Header would be a LUKS2 header.
type V2Header struct{}

// V2JSON would be the description in a LUKS2 header.
type V2JSON struct{}

// Decryptor would decrypt a block.
type Decryptor func(input []byte) ([]byte, error)

// Encryptor would encrypt a block.
type Encryptor func(input []byte) ([]byte, error)

// ReadHeaders returns ErrNotSupported.
func ReadHeaders(*os.File, ReadHeaderOptions) (*V1Header, *V2Header, *V2Header, *V2JSON, error) {
	return nil, nil, nil, nil, ErrNotSupported
}

// Decrypt returns ErrNotSupported.
func (V1Header) Decrypt(string, *os.File) (Decryptor, int, int64, int64, error) {
	return nil, 0, 0, 0, ErrNotSupported
}

// Decrypt returns ErrNotSupported.
func (V2Header) Decrypt(string, *os.File, V2JSON) (Decryptor, int, int64, int64, error) {
	return nil, 0, 0, 0, ErrNotSupported
}

// EncryptV1 returns an Encryptor that only fails: its caller looks at the error
// no sooner.
func EncryptV1([]string, string) ([]byte, Encryptor, int, error) {
	fail := func([]byte) ([]byte, error) { return nil, ErrNotSupported }
	return nil, fail, 0, ErrNotSupported
}

// EncryptWriter returns a writer that fails with ErrNotSupported.
func EncryptWriter(Encryptor, io.Writer, int) io.WriteCloser { return failing{} }

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, ErrNotSupported }
func (failing) Close() error              { return ErrNotSupported }
