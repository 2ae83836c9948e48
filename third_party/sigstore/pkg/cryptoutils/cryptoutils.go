// Package cryptoutils takes the place of
// github.com/sigstore/sigstore/pkg/cryptoutils: keys and certificates in PEM.
package cryptoutils

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
)

// SANOID is the subject alternative name extension, RFC 5280 4.2.1.6.
var SANOID = asn1.ObjectIdentifier{2, 5, 29, 17}

// UnmarshalPEMToPublicKey parses the first block of data, a public key in the
// PKIX ("PUBLIC KEY") or PKCS #1 ("RSA PUBLIC KEY") form.
func UnmarshalPEMToPublicKey(data []byte) (crypto.PublicKey, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("not a PEM file")
	}
	switch block.Type {
	case "PUBLIC KEY":
		return x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		return x509.ParsePKCS1PublicKey(block.Bytes)
	}
	return nil, fmt.Errorf("not a public key but %q", block.Type)
}

// MarshalPublicKeyToPEM is the PKIX form of pub.
func MarshalPublicKeyToPEM(pub crypto.PublicKey) ([]byte, error) {
	if pub == nil {
		return nil, errors.New("no public key")
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// UnmarshalCertificatesFromPEM parses every certificate of data, in order;
// anything else in it but white space at the ends is an error.
func UnmarshalCertificatesFromPEM(data []byte) ([]*x509.Certificate, error) {
	certs := []*x509.Certificate{}
	for data = bytes.TrimSpace(data); len(data) > 0; {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			return nil, errors.New("not a PEM file of certificates")
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certs = append(certs, cert)
	}
	return certs, nil
}
