package main

import (
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"runner-token-broker/internal/local/lambda"
)

func TestAPrivateCAInFrontOfGitHubEnterpriseServer(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		knows  bool // the CA
		status int
	}{
		{name: "known", knows: true, status: 201},
		{name: "unknown", status: 503},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := start(t, nil, func(f *lambda.Function) {
				gh := f.Env["GITHUB_API_URL"]
				srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					forward(t, w, r, gh)
				}))
				srv.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that the function ends
				srv.StartTLS()
				t.Cleanup(srv.Close)
				f.Env["GITHUB_API_URL"] = srv.URL + "/api/v3"
				if test.knows {
					certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
					f.Env["GITHUB_CA_CERTIFICATES"] = strings.ReplaceAll(string(certificate), "\n", `\n`)
				}
			})
			r := s.post("orgs/acme")
			if r.StatusCode != test.status {
				t.Errorf("%+v", r)
			}
			if text, _ := r.line["error"].(string); !test.knows &&
				(r.line["cause"] != "tls" || !strings.Contains(text, "GITHUB_CA_CERTIFICATES")) {
				t.Errorf("the operator is told %v", r.line)
			}
		})
	}
}

// forward hands a request on to the stand-in for GitHub.
func forward(t *testing.T, w http.ResponseWriter, r *http.Request, to string) {
	r.URL.Host, r.URL.Scheme, r.RequestURI = strings.TrimPrefix(to, "http://"), "http", ""
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Error(err)
		return
	}
	defer resp.Body.Close()
	for name, values := range resp.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(resp.StatusCode)
	io.Copy(w, resp.Body)
}

// net/http would ignore such a proxy, and send the credential past it.
func TestAMalformedProxyEndsTheStart(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, settings{name: "http://user:thisMustNotBeSeen0@proxy .example:8080"})
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := s.lambda.Ready(ctx); err == nil || ctx.Err() != nil ||
				!strings.Contains(s.output.String(), name+": is not the address of a proxy") {
				t.Errorf("%v, %s", err, s.output.String())
			}
			if strings.Contains(s.output.String(), "thisMustNotBeSeen") {
				t.Error("the proxy's password was printed")
			}
		})
	}
}

func TestAProxyThatRefusesIsNamed(t *testing.T) {
	t.Parallel()
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusProxyAuthRequired)
	}))
	t.Cleanup(proxy.Close)
	s := start(t, settings{"HTTPS_PROXY": proxy.URL, "GITHUB_API_URL": "https://api.github.com"})
	r := s.post("orgs/acme")
	if text, _ := r.line["error"].(string); r.StatusCode != 503 || r.line["cause"] != "proxy" ||
		!strings.Contains(text, "HTTPS_PROXY") {
		t.Errorf("%+v", r)
	}
}

// Whatever net/http and the SDK can be told to print, nothing secret is in it: the end of each test looks for it. Both
// servers offer HTTP/2, whose debugging prints headers and bodies.
func TestDebuggingPrintsNothingSecret(t *testing.T) {
	t.Parallel()
	for name, with := range map[string]settings{
		"GODEBUG":   {"GODEBUG": "http2debug=2,netdns=9", "AWS_LAMBDA_LOG_LEVEL": "DEBUG"},
		"log level": {"AWS_LAMBDA_LOG_LEVEL": "TRACE"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, with, func(f *lambda.Function) {
				var roots []byte
				for _, name := range []string{"GITHUB_API_URL", "AWS_ENDPOINT_URL_SECRETS_MANAGER"} {
					behind := f.Env[name]
					srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						forward(t, w, r, behind)
					}))
					srv.EnableHTTP2 = true
					srv.StartTLS()
					t.Cleanup(srv.Close)
					f.Env[name] = srv.URL
					roots = append(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})...)
				}
				f.Env["SSL_CERT_FILE"] = filepath.Join(t.TempDir(), "roots.pem")
				if err := os.WriteFile(f.Env["SSL_CERT_FILE"], roots, 0o600); err != nil {
					t.Fatal(err)
				}
			})
			s.chatty = true
			if r := s.post("orgs/acme"); r.StatusCode != 201 {
				t.Errorf("%+v", r)
			}
			s.rotate()
			s.direct("repos/acme/widgets")
			s.direct("orgs/other")
		})
	}
}

// The SDK warns of a connection that ends behind the answer, in a line that is not JSON.
func TestAWSsLibraryPrintsNothing(t *testing.T) {
	t.Parallel()
	var pat string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.1\r\nContent-Length: 9999\r\n\r\n"+
			`{"SecretString":%q}`, pat)
	}))
	t.Cleanup(srv.Close)
	s := start(t, settings{"AWS_ENDPOINT_URL_SECRETS_MANAGER": srv.URL})
	pat = s.pats[0]
	s.direct("orgs/acme") // one line for it, or the test fails
}
