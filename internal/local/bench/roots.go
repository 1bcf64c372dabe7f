package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// roots are the certificates of a system, and what one of them signed.
type roots struct {
	server tls.Certificate
	env    map[string]string // of a process that is to trust them, as the template sets it
	folder string            // SSL_CERT_DIR as it is without the template
}

// newRoots writes the files of 144 authorities into dir, as Amazon Linux 2023 has them: all in one file, which is in a
// folder that is read too, and each in a file of its own.
func newRoots(dir string) (*roots, error) {
	bundle, each := filepath.Join(dir, "pki", "ca-bundle.crt"), filepath.Join(dir, "ssl")
	for _, folder := range []string{filepath.Dir(bundle), each} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return nil, err
		}
	}
	root, err := newAuthority("root", nil)
	if err != nil {
		return nil, err
	}
	all := [][]byte{root.der}
	for n := range 143 {
		// Nobody has its private key: it is only read.
		modulus, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 4096))
		if err != nil {
			return nil, err
		}
		public := &rsa.PublicKey{N: modulus.SetBit(modulus, 4095, 1).SetBit(modulus, 0, 1), E: 65537}
		der, err := x509.CreateCertificate(rand.Reader, ca(fmt.Sprint("authority ", n)), root.template, public, root.key)
		if err != nil {
			return nil, err
		}
		all = append(all, der)
	}
	var text []byte
	for n, der := range all {
		one := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		if err := os.WriteFile(filepath.Join(each, fmt.Sprint(n, ".pem")), one, 0o644); err != nil {
			return nil, err
		}
		text = append(text, one...)
	}
	if err := os.WriteFile(bundle, text, 0o644); err != nil {
		return nil, err
	}

	between, err := newAuthority("intermediate", root)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "server"}, NotAfter: time.Now().AddDate(1, 0, 0),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, between.template, &key.PublicKey, between.key)
	if err != nil {
		return nil, err
	}
	return &roots{
		server: tls.Certificate{Certificate: [][]byte{der, between.der}, PrivateKey: key},
		env:    map[string]string{"SSL_CERT_FILE": bundle, "SSL_CERT_DIR": filepath.Join(dir, "not there")},
		folder: each + ":" + filepath.Dir(bundle),
	}, nil
}

type authority struct {
	template *x509.Certificate
	key      *ecdsa.PrivateKey
	der      []byte
}

func ca(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotAfter: time.Now().AddDate(10, 0, 0), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
}

// newAuthority returns one that signer signed, or itself if signer is nil.
func newAuthority(name string, signer *authority) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	a := &authority{template: ca(name), key: key}
	if signer == nil {
		signer = a
	}
	a.der, err = x509.CreateCertificate(rand.Reader, a.template, signer.template, &key.PublicKey, signer.key)
	return a, err
}
