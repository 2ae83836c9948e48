// Package signature takes the place of
// github.com/sigstore/sigstore/pkg/signature: signing and verifying with RSA
// (PKCS #1 v1.5), ECDSA and Ed25519 keys, which is what containers/image does
// with it. The original knows a registry of algorithms, described in protobuf.
//
// Lost: nothing that containers/image uses.
package signature

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha256" // SHA-256, what containers/image asks for
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
)

var (
	errKey       = errors.New("invalid or unsupported key")
	errHash      = errors.New("unsupported hash function")
	errSignature = errors.New("the signature does not match")
)

// Options, of which none exist here.
type (
	PublicKeyOption func()
	SignOption      func()
	VerifyOption    func()
)

// PublicKeyProvider has a public key.
type PublicKeyProvider interface {
	PublicKey(opts ...PublicKeyOption) (crypto.PublicKey, error)
}

// Verifier verifies signatures made with the private half of its key. A
// signature that does not fit, or that cannot be parsed, is an error.
type Verifier interface {
	PublicKeyProvider
	VerifySignature(signature, message io.Reader, opts ...VerifyOption) error
}

// Signer signs messages: ECDSA signatures are in ASN.1 form.
type Signer interface {
	PublicKeyProvider
	SignMessage(message io.Reader, opts ...SignOption) ([]byte, error)
}

// SignerVerifier does both.
type SignerVerifier interface {
	Signer
	Verifier
}

type verifier struct {
	key  crypto.PublicKey
	hash crypto.Hash // 0: the message itself is signed
}

type signer struct {
	verifier
	key crypto.Signer
}

// LoadVerifier returns a Verifier for an *rsa.PublicKey (PKCS #1 v1.5), an
// *ecdsa.PublicKey, or an ed25519.PublicKey, which does not use hash.
func LoadVerifier(key crypto.PublicKey, hash crypto.Hash) (Verifier, error) {
	v, err := newVerifier(key, hash)
	if err != nil {
		return nil, err
	}
	return v, nil
}

func newVerifier(key crypto.PublicKey, hash crypto.Hash) (verifier, error) {
	switch k := key.(type) {
	case *rsa.PublicKey:
		if k == nil {
			return verifier{}, errKey
		}
	case *ecdsa.PublicKey:
		if k == nil {
			return verifier{}, errKey
		}
		if _, err := k.Bytes(); err != nil { // not a point of its curve
			return verifier{}, fmt.Errorf("%w: %w", errKey, err)
		}
	case ed25519.PublicKey:
		if len(k) != ed25519.PublicKeySize {
			return verifier{}, errKey
		}
		return verifier{key: k}, nil
	default:
		return verifier{}, fmt.Errorf("%w: %T", errKey, key)
	}
	switch hash {
	case crypto.SHA256, crypto.SHA384, crypto.SHA512:
	default:
		return verifier{}, errHash
	}
	if !hash.Available() {
		return verifier{}, errHash
	}
	return verifier{key, hash}, nil
}

// PublicKey returns the key.
func (v verifier) PublicKey(...PublicKeyOption) (crypto.PublicKey, error) { return v.key, nil }

// VerifySignature returns nil if signature was made over message by the key's
// owner. An ECDSA signature may be in ASN.1 or in IEEE P1363 form.
func (v verifier) VerifySignature(signature, message io.Reader, _ ...VerifyOption) error {
	if signature == nil || message == nil {
		return errSignature
	}
	sig, err := io.ReadAll(signature)
	if err != nil {
		return fmt.Errorf("reading the signature: %w", err)
	}
	sum, err := v.digest(message)
	if err != nil {
		return err
	}
	ok := false
	switch k := v.key.(type) {
	case *rsa.PublicKey:
		ok = rsa.VerifyPKCS1v15(k, v.hash, sum, sig) == nil
	case *ecdsa.PublicKey:
		ok = ecdsa.VerifyASN1(k, sum, p1363ToASN1(k, sig))
	case ed25519.PublicKey:
		ok = ed25519.Verify(k, sum, sig)
	}
	if !ok {
		return errSignature
	}
	return nil
}

// digest is what is signed: the hash of message, or message itself.
func (v verifier) digest(message io.Reader) ([]byte, error) {
	if v.hash == 0 {
		return io.ReadAll(message)
	}
	h := v.hash.New()
	if _, err := io.Copy(h, message); err != nil {
		return nil, fmt.Errorf("reading the message: %w", err)
	}
	return h.Sum(nil), nil
}

// p1363ToASN1 turns r||s, each as long as the curve's order, into ASN.1; what
// is ASN.1 already stays as it is.
func p1363ToASN1(k *ecdsa.PublicKey, sig []byte) []byte {
	var rs struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(sig, &rs); err == nil {
		return sig
	}
	n := (k.Params().N.BitLen() + 7) / 8
	if len(sig) != 2*n {
		return sig
	}
	rs.R, rs.S = new(big.Int).SetBytes(sig[:n]), new(big.Int).SetBytes(sig[n:])
	der, err := asn1.Marshal(rs)
	if err != nil {
		return sig
	}
	return der
}

// SignMessage signs all of message.
func (s signer) SignMessage(message io.Reader, _ ...SignOption) ([]byte, error) {
	sum, err := s.digest(message)
	if err != nil {
		return nil, err
	}
	return s.key.Sign(rand.Reader, sum, s.hash)
}

func newSigner(key crypto.Signer, hash crypto.Hash) (SignerVerifier, error) {
	v, err := newVerifier(key.Public(), hash)
	if err != nil {
		return nil, err
	}
	return signer{v, key}, nil
}

// LoadRSAPKCS1v15SignerVerifier signs and verifies with key.
func LoadRSAPKCS1v15SignerVerifier(key *rsa.PrivateKey, hash crypto.Hash) (SignerVerifier, error) {
	if key == nil {
		return nil, errKey
	}
	return newSigner(key, hash)
}

// LoadECDSASigner signs with key.
func LoadECDSASigner(key *ecdsa.PrivateKey, hash crypto.Hash) (Signer, error) {
	return LoadECDSASignerVerifier(key, hash)
}

// LoadECDSASignerVerifier signs and verifies with key.
func LoadECDSASignerVerifier(key *ecdsa.PrivateKey, hash crypto.Hash) (SignerVerifier, error) {
	if key == nil {
		return nil, errKey
	}
	return newSigner(key, hash)
}

// LoadED25519SignerVerifier signs and verifies with key.
func LoadED25519SignerVerifier(key ed25519.PrivateKey) (SignerVerifier, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, errKey
	}
	return newSigner(key, 0)
}
