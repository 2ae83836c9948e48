// Package digest replaces github.com/opencontainers/go-digest: digests as the OCI
// has them, "sha256:" and hexadecimal digits. Nothing of it is lost but two
// variables with regular expressions, which the original compiles at every start of
// a program; here digests are read by hand.
package digest

import (
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
)

var (
	ErrDigestInvalidFormat = errors.New("invalid checksum digest format")
	ErrDigestInvalidLength = errors.New("invalid checksum digest length")
	ErrDigestUnsupported   = errors.New("unsupported digest algorithm")
)

// Digest is ALGORITHM:ENCODED. Only what Validate or Parse accepted is one.
type Digest string

func NewDigest(alg Algorithm, h hash.Hash) Digest { return NewDigestFromBytes(alg, h.Sum(nil)) }

func NewDigestFromBytes(alg Algorithm, sum []byte) Digest {
	return NewDigestFromEncoded(alg, alg.Encode(sum))
}

func NewDigestFromHex(alg, hex string) Digest { return NewDigestFromEncoded(Algorithm(alg), hex) }

func NewDigestFromEncoded(alg Algorithm, encoded string) Digest {
	return Digest(string(alg) + ":" + encoded)
}

// Parse returns s as a digest, which it is even where an error is returned.
func Parse(s string) (Digest, error) {
	d := Digest(s)
	return d, d.Validate()
}

func FromReader(r io.Reader) (Digest, error) { return Canonical.FromReader(r) }

func FromBytes(p []byte) Digest { return Canonical.FromBytes(p) }

func FromString(s string) Digest { return Canonical.FromString(s) }

// Validate returns one of the three errors, or nil for a digest of an algorithm
// that is linked.
func (d Digest) Validate() error {
	alg, encoded, _ := strings.Cut(string(d), ":")
	if alg == "" || encoded == "" {
		return ErrDigestInvalidFormat
	}
	if a := Algorithm(alg); a.Available() {
		return a.Validate(encoded)
	}
	if !isAlgorithm(alg) || !consists(encoded, letters+"ABCDEFGHIJKLMNOPQRSTUVWXYZ=_-") {
		return ErrDigestInvalidFormat
	}
	return ErrDigestUnsupported
}

const letters = "abcdefghijklmnopqrstuvwxyz0123456789"

// consists says whether all bytes of s are among chars.
func consists(s, chars string) bool {
	for i := range len(s) {
		if strings.IndexByte(chars, s[i]) < 0 {
			return false
		}
	}
	return true
}

// isAlgorithm: words of lower case letters and digits, with one of .+_- between them.
func isAlgorithm(s string) bool {
	between := true
	for i := range len(s) {
		separator := strings.IndexByte(".+_-", s[i]) >= 0
		if separator && between || !separator && strings.IndexByte(letters, s[i]) < 0 {
			return false
		}
		between = separator
	}
	return !between
}

// Algorithm, Encoded and Verifier panic for what is no digest.
func (d Digest) Algorithm() Algorithm { return Algorithm(d[:d.colon()]) }

func (d Digest) Encoded() string { return string(d[d.colon()+1:]) }

// Hex is Encoded.
func (d Digest) Hex() string { return d.Encoded() }

func (d Digest) String() string { return string(d) }

// Verifier takes what d should be the digest of.
func (d Digest) Verifier() Verifier { return verifier{d.Algorithm().Hash(), d} }

func (d Digest) colon() int {
	i := strings.IndexByte(string(d), ':')
	if i < 0 {
		panic(fmt.Sprintf("no ':' separator in digest %q", string(d)))
	}
	return i
}

// Digester makes the digest of what is written to its Hash.
type Digester interface {
	Hash() hash.Hash
	Digest() Digest
}

type digester struct {
	alg  Algorithm
	hash hash.Hash
}

func (d digester) Hash() hash.Hash { return d.hash }

func (d digester) Digest() Digest { return NewDigest(d.alg, d.hash) }

// Verifier says of what was written to it whether it has the digest.
type Verifier interface {
	io.Writer
	Verified() bool
}

type verifier struct {
	hash.Hash
	want Digest
}

func (v verifier) Verified() bool { return NewDigest(v.want.Algorithm(), v.Hash) == v.want }
