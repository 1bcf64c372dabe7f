package github

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"runner-token-broker/internal/runner"
	"runner-token-broker/internal/secret"
)

func TestWhatKeepsUsFromGitHubIsNamed(t *testing.T) {
	t.Parallel()
	closed := httptest.NewServer(nil)
	closed.Close()
	refusing := httptest.NewServer(answerer(407, ""))
	t.Cleanup(refusing.Close)
	denying := httptest.NewServer(answerer(403, "<html>"))
	t.Cleanup(denying.Close)
	secure := quiet(httptest.NewUnstartedServer(nil))
	t.Cleanup(secure.Close)
	demanding := httptest.NewUnstartedServer(nil)
	demanding.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	quiet(demanding)
	t.Cleanup(demanding.Close)
	roots := x509.NewCertPool()
	roots.AddCert(demanding.Certificate())
	socks, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socks.Close() })
	go func() {
		for {
			conn, err := socks.Accept()
			if err != nil {
				return
			}
			io.WriteString(conn, "\x05\xff") // no way of authentication is good enough
			io.Copy(io.Discard, conn)
			conn.Close()
		}
	}()
	plain := httptest.NewServer(nil)
	t.Cleanup(plain.Close)
	for _, test := range []struct {
		name, url, proxy string
		roots            *x509.CertPool
		cause            string
		says             string
	}{
		{name: "nobody listens", url: closed.URL, cause: "network"},
		{name: "unknown certificate", url: secure.URL, cause: "tls", says: "GITHUB_CA_CERTIFICATES"},
		{name: "no TLS", url: strings.Replace(plain.URL, "http:", "https:", 1), cause: "tls"},
		{name: "a certificate of ours is wanted", url: demanding.URL, roots: roots, cause: "tls",
			says: "certificate required"},
		{name: "no SOCKS proxy there", url: "https://api.github.com",
			proxy: strings.Replace(closed.URL, "http:", "socks5:", 1), cause: "proxy"},
		{name: "SOCKS proxy refuses", url: "https://api.github.com", proxy: "socks5://" + socks.Addr().String(),
			cause: "proxy"},
		{name: "no proxy there", url: "https://api.github.com", proxy: closed.URL, cause: "proxy", says: "HTTPS_PROXY"},
		{name: "proxy wants a password", url: "https://api.github.com", proxy: refusing.URL, cause: "proxy", says: "407"},
		{name: "proxy refuses", url: "https://api.github.com", proxy: denying.URL, cause: "proxy", says: "403"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			transport := NewTransport(test.roots)
			transport.Proxy = nil
			if test.proxy != "" {
				proxy, err := url.Parse(strings.Replace(test.proxy, "://", "://user:thisMustNotBeSeen@", 1))
				if err != nil {
					t.Fatal(err)
				}
				transport.Proxy = http.ProxyURL(proxy)
			}
			_, err := createWithin(t, time.Minute, clientFor(t, test.url, "2022-11-28", transport))
			e := runner.AsError(err)
			if err == nil || e.Code != runner.Unavailable || e.Cause != test.cause || !strings.Contains(e.Error(), test.says) {
				t.Errorf("%v, cause %q; want %q, %q", err, e.Cause, test.cause, test.says)
			}
			if strings.Contains(e.Error(), "thisMustNotBeSeen") {
				t.Errorf("the proxy's password is in %v", e)
			}
		})
	}
}

func TestANameThatDoesNotResolveIsNamed(t *testing.T) {
	t.Parallel()
	transport := NewTransport(nil)
	transport.Proxy = nil
	transport.DialContext = (&net.Dialer{Resolver: &net.Resolver{PreferGo: true, Dial: nil}}).DialContext
	_, err := createWithin(t, time.Minute, clientFor(t, "https://no-such-host.invalid/api/v3", "2022-11-28", transport))
	if e := runner.AsError(err); e.Code != runner.Unavailable || e.Cause != "dns" ||
		!strings.Contains(e.Error(), "GITHUB_API_URL") {
		t.Errorf("%v, cause %q", err, e.Cause)
	}
}

func TestAValueThatIsUnlikeATokenIsNamed(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ bearer, cause string }{
		"base64":           {"Z2hwX3RoaXNNdXN0Tm90QmVTZWVu", "not-a-token"},
		"a placeholder":    {"REPLACE_ME", "not-a-token"},
		"classic":          {pat, "expired-or-revoked"},
		"fine-grained":     {"github_pat_11AAAA_thisMustNotBeSeen", "expired-or-revoked"},
		"of before 2021":   {strings.Repeat("0123456789", 4), "expired-or-revoked"},
		"an App's":         {"ghs_thisMustNotBeSeen", "installation-token-rejected"},
		"40 other letters": {strings.Repeat("x", 40), "not-a-token"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newClient(t, answerer(401, message("Bad credentials"), "X-GitHub-Request-Id", "AB:CD"), "", "2022-11-28")
			_, err := c.Create(t.Context(), secret.New(test.bearer), request(t, "orgs/acme", runner.RegistrationToken))
			if e := runner.AsError(err); e.Code != runner.CredentialRejected || e.Cause != test.cause ||
				strings.Contains(e.Error(), test.bearer) {
				t.Errorf("%v, cause %q, want %q", err, e.Cause, test.cause)
			}
		})
	}
}

// quiet starts a TLS server that does not complain of clients that do not trust it.
func quiet(srv *httptest.Server) *httptest.Server {
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	return srv
}
