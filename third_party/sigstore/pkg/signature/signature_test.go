package signature

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha1"
	"crypto/sha256"
	"math/big"
	"strings"
	"testing"
)

func keys(t *testing.T) map[string]SignerVerifier {
	t.Helper()
	m := map[string]SignerVerifier{}
	add := func(name string, sv SignerVerifier, err error) {
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		m[name] = sv
	}
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	sv, err := LoadRSAPKCS1v15SignerVerifier(r, crypto.SHA256)
	add("rsa", sv, err)
	for _, c := range []elliptic.Curve{elliptic.P224(), elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		k, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		sv, err = LoadECDSASignerVerifier(k, crypto.SHA256)
		add(c.Params().Name, sv, err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sv, err = LoadED25519SignerVerifier(ed)
	add("ed25519", sv, err)
	return m
}

func TestSignaturesVerifyOnlyWhatWasSigned(t *testing.T) {
	all := keys(t)
	for name, sv := range all {
		sig, err := sv.SignMessage(strings.NewReader("a manifest"))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		pub, err := sv.PublicKey()
		if err != nil {
			t.Fatal(err)
		}
		v, err := LoadVerifier(pub, crypto.SHA256)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		verify := func(sig []byte, msg string) error {
			return v.VerifySignature(bytes.NewReader(sig), strings.NewReader(msg))
		}
		if err := verify(sig, "a manifest"); err != nil {
			t.Errorf("%s: its own signature: %v", name, err)
		}
		if verify(sig, "another manifest") == nil {
			t.Errorf("%s: another message was accepted", name)
		}
		for i := range sig {
			bad := bytes.Clone(sig)
			bad[i] ^= 1
			if verify(bad, "a manifest") == nil {
				t.Errorf("%s: accepted with bit %d.0 changed", name, i)
			}
		}
		for _, bad := range [][]byte{nil, {}, {0}, sig[:len(sig)-1], append(bytes.Clone(sig), 0), make([]byte, 64)} {
			if verify(bad, "a manifest") == nil {
				t.Errorf("%s: accepted %x", name, bad)
			}
		}
		if v.VerifySignature(nil, strings.NewReader("a manifest")) == nil {
			t.Errorf("%s: accepted no signature", name)
		}
		for other, o := range all {
			if other != name && o.VerifySignature(bytes.NewReader(sig), strings.NewReader("a manifest")) == nil {
				t.Errorf("%s accepted the signature of %s", other, name)
			}
		}
	}
}

func TestECDSAInP1363Form(t *testing.T) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("a manifest"))
	r, s, err := ecdsa.Sign(rand.Reader, k, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	sig := append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	v, err := LoadVerifier(&k.PublicKey, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.VerifySignature(bytes.NewReader(sig), strings.NewReader("a manifest")); err != nil {
		t.Error(err)
	}
	sig[0] ^= 1
	if v.VerifySignature(bytes.NewReader(sig), strings.NewReader("a manifest")) == nil {
		t.Error("accepted with a changed r")
	}
}

func TestKeysThatAreNoKeys(t *testing.T) {
	off := &ecdsa.PublicKey{Curve: elliptic.P256(), X: big.NewInt(1), Y: big.NewInt(1)}
	for _, key := range []crypto.PublicKey{nil, "key", off, (*rsa.PublicKey)(nil), (*ecdsa.PublicKey)(nil), ed25519.PublicKey{1}} {
		if _, err := LoadVerifier(key, crypto.SHA256); err == nil {
			t.Errorf("accepted %T %v", key, key)
		}
	}
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range []crypto.Hash{0, crypto.SHA1, crypto.MD5} {
		if _, err := LoadVerifier(&k.PublicKey, h); err == nil {
			t.Errorf("accepted hash %v", h)
		}
	}
}
