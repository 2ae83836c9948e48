// Package openpgp takes the place of github.com/ProtonMail/go-crypto/openpgp,
// with which containers/image verifies GPG ("simple signing") signatures.
//
// Lost: a policy.json with "signedBy" requirements refuses the image, with an
// error that says why. Sigstore signatures ("sigstoreSigned") are verified.
package openpgp

import (
	"errors"
	"io"
)

// ErrNotSupported is what every function here returns.
var ErrNotSupported = errors.New("GPG signatures are not supported by balena; use sigstoreSigned")

// PublicKey identifies a key.
type PublicKey struct {
	Fingerprint []byte
}

// Entity is the owner of a key.
type Entity struct {
	PrimaryKey *PublicKey
}

// EntityList is a keyring.
type EntityList []*Entity

// Key is a key of an Entity.
type Key struct {
	Entity *Entity
}

// MessageDetails would be a parsed message.
type MessageDetails struct {
	IsSigned       bool
	SignedByKeyId  uint64
	SignedBy       *Key
	UnverifiedBody io.Reader
	SignatureError error
}

// ReadMessage returns ErrNotSupported.
func ReadMessage(_ io.Reader, _ EntityList, prompt, config any) (*MessageDetails, error) {
	return nil, ErrNotSupported
}

// ReadKeyRing returns ErrNotSupported.
func ReadKeyRing(io.Reader) (EntityList, error) { return nil, ErrNotSupported }

// ReadArmoredKeyRing returns ErrNotSupported.
func ReadArmoredKeyRing(io.Reader) (EntityList, error) { return nil, ErrNotSupported }
