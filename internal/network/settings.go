package network

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// IsLoopback reports whether the host is localhost or a loopback address. It looks no name up.
func IsLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// CheckEndpoint says what is wrong with the URL of a server that is asked for secrets: https, or http to loopback. Its
// errors do not quote the value, since a password may be in it.
func CheckEndpoint(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return errors.New("is not a URL")
	case u.Hostname() == "":
		return errors.New("has no host: write https://HOST")
	case u.Scheme != "https" && !(u.Scheme == "http" && IsLoopback(u.Hostname())):
		return errors.New("is not https (http is for loopback hosts)")
	}
	return nil
}

// CheckProxy says what is wrong with the value of HTTPS_PROXY or HTTP_PROXY: net/http ignores one that it cannot parse,
// and goes out directly. Its errors do not quote the value, since a password may be in it.
func CheckProxy(s string) error {
	if !strings.Contains(s, "://") {
		s = "http://" + s // as net/http does
	}
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Hostname() == "" || strings.ContainsAny(u.Hostname(), " /"):
		return errors.New("is not the address of a proxy: write http://HOST:PORT")
	case !slices.Contains([]string{"http", "https", "socks5", "socks5h"}, u.Scheme):
		return fmt.Errorf("begins with %.20q: write http://HOST:PORT", u.Scheme+"://")
	}
	return nil
}

// CheckNoProxy says which entry of NO_PROXY is wrong: net/http ignores it.
func CheckNoProxy(s string) error {
	for entry := range strings.SplitSeq(s, ",") {
		entry = strings.TrimSpace(entry)
		_, err := netip.ParsePrefix(entry)
		if strings.ContainsAny(entry, " \t\r\n@") || strings.Contains(entry, "/") && err != nil {
			return fmt.Errorf("entry %.100q is neither a host, a domain, an address nor a range of them", entry)
		}
	}
	return nil
}

// ParseCertificates returns the system's certificates and those given in PEM: as they are, with \n or \r\n written out,
// or in base64, which fits into a variable without quoting. It takes certificates alone, and all of them or none.
func ParseCertificates(s string) (*x509.CertPool, error) {
	text := strings.NewReplacer(`\r`, "", `\n`, "\n").Replace(s)
	if !strings.Contains(text, "-----BEGIN") {
		decoded, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(text), ""))
		if err != nil {
			return nil, errors.New("is neither PEM nor PEM in base64")
		}
		text = string(decoded)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, err
	}
	rest := []byte(text)
	for n := 1; ; n++ {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		switch {
		case block == nil && strings.Count(text, "-----BEGIN") > n-1: // pem.Decode passes over what is broken
			return nil, errors.New("has a certificate that is cut off or broken: are its line breaks still there?")
		case block == nil && n == 1:
			return nil, errors.New("has no certificate in PEM")
		case block == nil:
			return pool, nil
		case block.Type != "CERTIFICATE":
			return nil, fmt.Errorf("has %.40q at place %d: only certificates belong here", block.Type, n)
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("has a certificate %d that cannot be parsed: %w", n, err)
		}
		pool.AddCert(certificate)
	}
}
