package github

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"runner-token-broker/internal/local/github"
	"runner-token-broker/internal/runner"
	"runner-token-broker/internal/secret"
)

const pat = "ghp_thisMustNotBeSeen"

func newClient(t testing.TB, server http.Handler, path, version string) *Client {
	t.Helper()
	srv := httptest.NewServer(server)
	t.Cleanup(srv.Close)
	return clientFor(t, srv.URL+path, version, NewTransport(nil))
}

func clientFor(t testing.TB, url, version string, transport http.RoundTripper) *Client {
	t.Helper()
	api, err := ParseAPI(url)
	if err != nil {
		t.Fatal(err)
	}
	if api, err = api.InVersion(version); err != nil {
		t.Fatal(err)
	}
	c, err := New(api, transport)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func request(t testing.TB, target string, kind runner.Kind) runner.Request {
	t.Helper()
	parsed, err := runner.ParseTarget(target)
	if err != nil {
		t.Fatal(err)
	}
	return runner.Request{Target: parsed, Kind: kind}
}

// create makes one call and fails the test if the credential is in the error.
func create(t *testing.T, c *Client, path string, kind runner.Kind) (runner.Token, error) {
	t.Helper()
	token, err := c.Create(t.Context(), secret.New(pat), request(t, path, kind))
	if err != nil && strings.Contains(fmt.Sprintf("%+v %#v", err, err), pat) {
		t.Errorf("the credential is in the error: %v", err)
	}
	return token, err
}

// createWithin makes one call that may take so long.
func createWithin(t *testing.T, d time.Duration, c *Client) (runner.Token, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	return c.Create(ctx, secret.New(pat), request(t, "orgs/acme", runner.RegistrationToken))
}

func TestTLSAsGitHubSpeaksIt(t *testing.T) {
	t.Parallel()
	stand := github.New(secret.New(pat))
	var connections atomic.Int32
	srv := httptest.NewUnstartedServer(stand)
	srv.EnableHTTP2 = true
	srv.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	quiet(srv)
	defer srv.Close()
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	c := clientFor(t, srv.URL, "2022-11-28", NewTransport(roots))
	var protocol atomic.Value
	stand.OnRequest(func(r *http.Request) *github.Answer { protocol.Store(r.Proto); return nil })
	for range 3 {
		if _, err := create(t, c, "orgs/acme", runner.RegistrationToken); err != nil {
			t.Error(err)
		}
	}
	// An idle one would be dead after the environment was frozen.
	if n := connections.Load(); n != 3 || protocol.Load() != "HTTP/1.1" {
		t.Errorf("%d connections for 3 calls, %v", n, protocol.Load())
	}

	stranger := clientFor(t, srv.URL, "2022-11-28", NewTransport(nil))
	before := len(stand.Requests())
	_, err := create(t, stranger, "orgs/acme", runner.RegistrationToken)
	if e := runner.AsError(err); e.Code != runner.Unavailable || e.Cause != "tls" || len(stand.Requests()) != before {
		t.Errorf("a certificate that nobody trusts: %v, cause %q", err, e.Cause)
	}
}

// Over HTTP/2 net/http takes such an answer for leave to try again, without end.
func TestAPeerThatRefusesStreamsGetsTheCredentialThreeTimes(t *testing.T) {
	t.Parallel()
	srv := httptest.NewUnstartedServer(nil)
	srv.StartTLS() // for its certificate
	defer srv.Close()
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	listener, err := tls.Listen("tcp", "127.0.0.1:0",
		&tls.Config{Certificates: srv.TLS.Certificates, NextProtos: []string{"h2", "http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	var connections atomic.Int32
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				conn.(*tls.Conn).Handshake()
				connections.Add(1)
				conn.Read(make([]byte, 4096))
				if conn.(*tls.Conn).ConnectionState().NegotiatedProtocol == "h2" {
					io.WriteString(conn, "\x00\x00\x00\x04\x00\x00\x00\x00\x00") // SETTINGS
					// GOAWAY, last stream 0
					io.WriteString(conn, "\x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")
					io.Copy(io.Discard, conn)
				}
			}()
		}
	}()
	c := clientFor(t, "https://"+listener.Addr().String(), "2022-11-28", NewTransport(roots))
	if _, err := create(t, c, "orgs/acme", runner.RegistrationToken); runner.AsError(err).Code != runner.Unavailable {
		t.Errorf("%v", err)
	}
	if n := connections.Load(); n != 3 {
		t.Errorf("%d connections, want 3", n)
	}
}

// The body of an upgraded connection has no end, and no timeout counts for it.
func TestAnUpgradedConnectionIsClosed(t *testing.T) {
	t.Parallel()
	closed := make(chan struct{})
	c := newClient(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
		rw.Flush()
		io.Copy(io.Discard, conn) // until the client closes it
		close(closed)
	}), "", "2022-11-28")
	if _, err := create(t, c, "orgs/acme", runner.RegistrationToken); runner.AsError(err).Code != runner.Unavailable {
		t.Errorf("%v", err)
	}
	<-closed
}

// go-github closes no body of a refusal. One without an end would last as long as the call may.
func TestARefusalWithoutAnEndIsClosed(t *testing.T) {
	t.Parallel()
	closed := make(chan time.Time, 1)
	c := newClient(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(404)
		for part := make([]byte, 1<<20); ; {
			if _, err := w.Write(part); err != nil {
				closed <- time.Now()
				return
			}
		}
	}), "", "2022-11-28")
	_, err := create(t, c, "orgs/acme", runner.RegistrationToken)
	answered := time.Now()
	if runner.AsError(err).Code != runner.TargetNotFound {
		t.Errorf("%v", err)
	}
	if late := (<-closed).Sub(answered); late > callTimeout/2 {
		t.Errorf("the connection was closed %v after the answer", late)
	}
}

func TestCredentialGoesToNoOtherHost(t *testing.T) {
	var leaked atomic.Bool
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { leaked.Store(true) }))
	defer other.Close()
	t.Parallel()
	for _, status := range []int{301, 302, 303, 307, 308} {
		c := newClient(t, answerer(status, "", "Location", other.URL), "", "2022-11-28")
		if _, err := create(t, c, "orgs/acme", runner.RegistrationToken); runner.AsError(err).Code != runner.TargetNotFound {
			t.Errorf("%d: %v", status, err)
		}
	}
	if leaked.Load() {
		t.Error("a redirect was followed")
	}
}

// go-github would remember the limit for the client and refuse by itself.
func TestALimitIsNotRememberedByTheClient(t *testing.T) {
	for _, limit := range []*github.Answer{
		{Header: http.Header{"X-Ratelimit-Remaining": {"0"}, "X-Ratelimit-Reset": {unix(time.Now().Add(time.Hour))}}}, // 201
		{Status: 403, Body: `{"documentation_url":"https://docs.github.com/x#secondary-rate-limits"}`,
			Header: http.Header{"Retry-After": {"3600"}}},
	} {
		stand := github.New(secret.New(pat))
		c := newClient(t, stand, "", "2022-11-28")
		stand.OnRequest(func(*http.Request) *github.Answer { return limit })
		create(t, c, "orgs/acme", runner.RegistrationToken)
		stand.OnRequest(nil)
		if _, err := create(t, c, "orgs/acme", runner.RegistrationToken); err != nil {
			t.Errorf("after a limit: %v", err)
		}
	}
}
