package cryptoutils

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"testing"
	"time"
)

func TestPEM(t *testing.T) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := MarshalPublicKeyToPEM(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	got, err := UnmarshalPEMToPublicKey(pub)
	if err != nil || !k.PublicKey.Equal(got) {
		t.Errorf("the public key came back as %v, %v", got, err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for n, data := range [][]byte{nil, cert, append(bytes.Clone(cert), append([]byte("\n \n"), cert...)...)} {
		certs, err := UnmarshalCertificatesFromPEM(data)
		if err != nil || len(certs) != n {
			t.Errorf("%d certificates: got %d, %v", n, len(certs), err)
		}
	}
	for _, bad := range [][]byte{[]byte("x"), append(bytes.Clone(cert), "rest"...), pub, cert[:40]} {
		if _, err := UnmarshalCertificatesFromPEM(bad); err == nil {
			t.Errorf("accepted as certificates: %q", bad)
		}
	}
	for _, bad := range [][]byte{nil, []byte("x"), cert, pub[:40]} {
		if _, err := UnmarshalPEMToPublicKey(bad); err == nil {
			t.Errorf("accepted as a public key: %q", bad)
		}
	}
}
