package digest

import (
	"crypto"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
)

// Algorithm is the name of a hash function, as it stands before the colon.
type Algorithm string

// The algorithms that the OCI registers; whoever uses one links its package.
const (
	SHA256 Algorithm = "sha256"
	SHA384 Algorithm = "sha384"
	SHA512 Algorithm = "sha512"

	Canonical = SHA256
)

// function of an algorithm; 0 of one that is not known.
func (a Algorithm) function() crypto.Hash {
	switch a {
	case SHA256:
		return crypto.SHA256
	case SHA384:
		return crypto.SHA384
	case SHA512:
		return crypto.SHA512
	}
	return 0
}

// Available says whether the algorithm is known and linked.
func (a Algorithm) Available() bool { return a.function().Available() }

func (a Algorithm) String() string { return string(a) }

// Size is that of a sum in bytes; 0 of an algorithm that is not known.
func (a Algorithm) Size() int {
	if h := a.function(); h != 0 {
		return h.Size()
	}
	return 0
}

// Set makes an algorithm a flag's value; nothing is Canonical.
func (a *Algorithm) Set(value string) error {
	*a = Canonical
	if value != "" {
		*a = Algorithm(value)
	}
	if !a.Available() {
		return ErrDigestUnsupported
	}
	return nil
}

// Hash panics when the algorithm is not available: a mistake of the program.
func (a Algorithm) Hash() hash.Hash {
	if !a.Available() {
		panic(fmt.Sprintf("digest algorithm %q is not known, or not linked", string(a)))
	}
	return a.function().New()
}

func (a Algorithm) Digester() Digester { return digester{a, a.Hash()} }

func (a Algorithm) Encode(sum []byte) string { return hex.EncodeToString(sum) }

func (a Algorithm) FromReader(r io.Reader) (Digest, error) {
	h := a.Hash()
	if _, err := io.Copy(h, r); err != nil {
		return "", err
	}
	return NewDigest(a, h), nil
}

func (a Algorithm) FromBytes(p []byte) Digest {
	h := a.Hash()
	h.Write(p) // a hash.Hash does not fail
	return NewDigest(a, h)
}

func (a Algorithm) FromString(s string) Digest { return a.FromBytes([]byte(s)) }

// Validate says whether encoded is a sum as this algorithm makes it.
func (a Algorithm) Validate(encoded string) error {
	switch {
	case a.function() == 0:
		return ErrDigestUnsupported
	case len(encoded) != 2*a.Size():
		return ErrDigestInvalidLength
	case !consists(encoded, "0123456789abcdef"):
		return ErrDigestInvalidFormat
	}
	return nil
}
