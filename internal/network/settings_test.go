package network

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http/httpproxy"

	"runner-token-broker/internal/runner"
)

const password = "thisMustNotBeSeen"

func TestAProxyThatNetHTTPWouldIgnoreIsRefused(t *testing.T) {
	t.Parallel()
	for value, good := range map[string]bool{
		"http://proxy.example:8080": true, "proxy.example:8080": true, "proxy.example": true, "http://10.0.0.1": true,
		"https://user:" + password + "@proxy.example:8443": true, "socks5://127.0.0.1:1080": true, "[::1]:8080": true,
		"http://[::1]:8080": true, "user:" + password + "@proxy.example:3128": true,

		"http://proxy .example:" + password: false, " http://proxy.example": false, "http://proxy.example:port": false,
		"http://": false, "://" + password: false, "http:// ": false, " ": false, "\n": false,
		"http://proxy.example\n": false,
		"ftp://proxy.example":    false, "http://user:pass%zz@proxy.example": false, ":8080": false,
	} {
		t.Run(value, func(t *testing.T) {
			t.Parallel()
			err := CheckProxy(value)
			if (err == nil) != good || err != nil && strings.Contains(err.Error(), password) {
				t.Errorf("CheckProxy: %v", err)
			}
			// What is taken is what net/http goes by.
			request, _ := url.Parse("https://api.github.com/")
			proxy, failure := (&httpproxy.Config{HTTPSProxy: value}).ProxyFunc()(request)
			if good && (proxy == nil || failure != nil) {
				t.Errorf("net/http goes to %v, %v", proxy, failure)
			}
		})
	}
}

func TestNoProxysEntriesAreThoseOfNetHTTP(t *testing.T) {
	t.Parallel()
	for value, good := range map[string]bool{
		"localhost,127.0.0.1,.example.com, 10.0.0.0/8,[::1]:80,*": true, "": true, "a,,b": true, "fd00::/8": true,
		"http://x": false, "10.0.0.0/99": false, "a b": false, "x/y": false, "user@host": false,
	} {
		t.Run(value, func(t *testing.T) {
			t.Parallel()
			if err := CheckNoProxy(value); (err == nil) != good {
				t.Errorf("CheckNoProxy: %v", err)
			}
		})
	}
}

func TestAnEndpointForSecretsIsNotInTheClear(t *testing.T) {
	t.Parallel()
	for value, good := range map[string]bool{
		"https://secretsmanager.eu-central-1.amazonaws.com": true, "http://127.0.0.1:5000": true, "http://localhost": true,
		"http://[::1]:1": true, "http://169.254.1.1": false, "http://moto:5000": false, "https://": false, "moto:5000": false,
		"http://127.0.0.1.example.com": false, "http://user:" + password + "@moto": false, "%": false,
	} {
		t.Run(value, func(t *testing.T) {
			t.Parallel()
			if err := CheckEndpoint(value); (err == nil) != good || err != nil && strings.Contains(err.Error(), password) {
				t.Errorf("CheckEndpoint: %v", err)
			}
		})
	}
}

// certificate returns a new one in PEM, and its key.
func certificate(t *testing.T, name string) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
}

func TestCertificatesComeInThreeSpellings(t *testing.T) {
	t.Parallel()
	one, key := certificate(t, "one")
	two, _ := certificate(t, "two")
	for name, test := range map[string]struct {
		text  string
		adds  int
		error string
	}{
		"PEM":                {text: one, adds: 1},
		"two":                {text: one + two, adds: 2},
		"with comments":      {text: "# the company's\n" + one + "\n# and\n" + two + "\nend\n", adds: 2},
		"\\n written out":    {text: strings.ReplaceAll(one+two, "\n", `\n`), adds: 2},
		"base64":             {text: base64.StdEncoding.EncodeToString([]byte(one + two)), adds: 2},
		"base64, wrapped":    {text: wrapped(base64.StdEncoding.EncodeToString([]byte(one))), adds: 1},
		"a key too":          {text: one + key, error: `has "PRIVATE KEY" at place 2`},
		"\\r\\n written out": {text: strings.ReplaceAll(one+two, "\n", `\r\n`), adds: 2},
		"a broken first":     {text: strings.Replace(one, "MII", "M!I", 1) + two, error: "cut off or broken"},
		"a broken second":    {text: one + strings.Replace(two, "MII", "M!I", 1), error: "cut off or broken"},
		"a cut-off second":   {text: one + two[:len(two)/2], error: "cut off or broken"},
		"in one line":        {text: strings.ReplaceAll(one, "\n", " "), error: "line breaks"},
		"not a certificate": {text: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})),
			error: "certificate 1 that cannot be parsed"},
		"a path":            {text: "/etc/ssl/ca.pem", error: "neither PEM nor PEM in base64"},
		"base64 of nothing": {text: "aGVsbG8=", error: "no certificate in PEM"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool, err := ParseCertificates(test.text)
			if test.error != "" {
				if err == nil || !strings.Contains(err.Error(), test.error) || strings.Contains(err.Error(), key[40:60]) {
					t.Errorf("%v, want %q", err, test.error)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			system, err := x509.SystemCertPool()
			if err != nil {
				t.Fatal(err)
			}
			for i, text := range []string{one, two} {
				if i < test.adds {
					system.AppendCertsFromPEM([]byte(text))
				}
			}
			if !pool.Equal(system) {
				t.Error("the pool is not the system's and those given")
			}
		})
	}
}

func wrapped(s string) string {
	var b bytes.Buffer
	for ; len(s) > 64; s = s[64:] {
		b.WriteString(s[:64] + "\n")
	}
	return b.String() + s
}

func TestRemediesAreForEachServer(t *testing.T) {
	t.Parallel()
	for _, cause := range []runner.Cause{untrusted, dns, timeout, broken} {
		for _, server := range []string{"github", "secrets manager", "kms"} {
			if !strings.Contains(strings.ToLower(cause.Remedy), server) {
				t.Errorf("%s: %q lacks %s", cause.Name, cause.Remedy, server)
			}
		}
	}
}

func TestAProxysRefusalIsAnErrorThatIsKnown(t *testing.T) {
	t.Parallel()
	for status, good := range map[int]bool{200: true, 407: false, 403: false, 502: false} {
		transport := new(http.Transport)
		Restrict(transport)
		err := transport.OnProxyConnectResponse(t.Context(), nil, nil,
			&http.Response{StatusCode: status, Status: http.StatusText(status)})
		if (err == nil) != good || err != nil && causeOf(err).Name != "proxy" {
			t.Errorf("%d: %v", status, err)
		}
	}
}
