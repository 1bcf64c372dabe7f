package github

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"runner-token-broker/internal/local/github"
	"runner-token-broker/internal/local/network"
	"runner-token-broker/internal/runner"
	"runner-token-broker/internal/secret"
)

const pat = "ghp_thisMustNotBeSeen"

func newClient(t testing.TB, server http.Handler, path, version string) *Client {
	t.Helper()
	srv := httptest.NewServer(server)
	t.Cleanup(srv.Close)
	api, err := ParseAPIURL(srv.URL + path)
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(api, version, NewTransport())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func target(t testing.TB, s string) runner.Target {
	t.Helper()
	target, err := runner.ParseTarget(s)
	if err != nil {
		t.Fatal(err)
	}
	return target
}

// create makes one call and fails the test if the credential is in the error.
func create(t *testing.T, c *Client, path string, kind runner.Kind) (runner.Token, error) {
	t.Helper()
	token, err := c.CreateToken(t.Context(), secret.New(pat), target(t, path), kind)
	if err != nil && strings.Contains(fmt.Sprintf("%+v %#v", err, err), pat) {
		t.Errorf("the credential is in the error: %v", err)
	}
	return token, err
}

func TestEveryCallIsOneThatGitHubDescribes(t *testing.T) {
	for _, api := range []struct{ path, version string }{
		{"", "2022-11-28"}, {"", "2026-03-10"}, {"/api/v3", "2022-11-28"},
	} {
		stand := github.New(secret.New(pat))
		c := newClient(t, stand, api.path, api.version)
		for _, path := range []string{"orgs/acme", "repos/acme/widgets", "repos/actions/runners", "repos/acme/.github", "enterprises/acme-corp"} {
			for _, kind := range []runner.Kind{runner.RegistrationToken, runner.RemoveToken} {
				token, err := create(t, c, path, kind)
				if err != nil {
					t.Errorf("%s %s: %v", path, kind, err)
					continue
				}
				tokens, requests := stand.Tokens(), stand.Requests()
				if got, want := token.Value.Reveal(), tokens[len(tokens)-1].Reveal(); got != want {
					t.Errorf("token %q, want %q", got, want)
				}
				if life := time.Until(token.ExpiresAt); life < 59*time.Minute || life > time.Hour ||
					token.ExpiresAt.Location() != time.UTC || token.ExpiresAt.Nanosecond() != 0 {
					t.Errorf("expires at %v, want whole seconds of UTC in an hour", token.ExpiresAt)
				}
				r := requests[len(requests)-1]
				if r.Method != "POST" || r.Path != api.path+"/"+path+"/actions/runners/"+string(kind) || r.APIVersion != api.version {
					t.Errorf("request %+v", r)
				}
				if token.GitHub.RequestID == "" || token.GitHub.RateLimitRemaining == "" {
					t.Errorf("response %+v", token.GitHub)
				}
			}
		}
		if v := stand.Violations(); len(v) > 0 {
			t.Errorf("violations: %q", v)
		}
	}
}

func TestRunnerURLIsWhereTheTargetIsShown(t *testing.T) {
	for api, want := range map[string]string{
		"https://api.github.com":               "https://github.com",
		"https://API.GitHub.com/":              "https://github.com",
		"https://api.acme.ghe.com":             "https://acme.ghe.com",
		"https://github.acme.com/api/v3":       "https://github.acme.com",
		"https://github.acme.com:8443/api/v3/": "https://github.acme.com:8443",
		"https://api.fooghe.com/api/v3":        "https://api.fooghe.com",
		"http://127.0.0.1:8080":                "http://127.0.0.1:8080",
		"http://localhost:8080/api/v3":         "http://localhost:8080",
		"http://[::1]:8080/api/v3":             "http://[::1]:8080",
	} {
		u, err := ParseAPIURL(api)
		if err != nil {
			t.Errorf("%s: %v", api, err)
			continue
		}
		if got := webURL(u); got != want {
			t.Errorf("%s: %s, want %s", api, got, want)
		}
	}
}

func TestParseAPIURLRefusesWhatCannotBeMeant(t *testing.T) {
	for _, s := range []string{
		"", "api.github.com", "http://api.github.com", "ftp://api.github.com", "https://", "https:api.github.com", "https:///api/v3",
		"https://user:pass@api.github.com", "https://api.github.com?x=1", "https://api.github.com?", "https://api.github.com#",
		"https://api.github.com/api/v3", "https://api.acme.ghe.com/api/v3", "https://github.com", "https://acme.ghe.com",
		"https://github.acme.com/api/v4", "https://github.acme.com/api/v3//", "https://github.acme.com/api%2Fv3",
		"http://127.0.0.1.evil.com", "http://localhost.evil.com", "http://192.168.0.1", "https://host:port", "https://host:", "https://www.github.com", "https://api.ghe.com", "https://api.github.com.", "https://a b",
	} {
		if u, err := ParseAPIURL(s); err == nil {
			t.Errorf("ParseAPIURL(%q) = %s", s, u)
		} else if strings.Contains(err.Error(), "pass") {
			t.Errorf("the password is in the error: %v", err)
		}
	}
}

func TestCheckVersion(t *testing.T) {
	for v, good := range map[string]bool{
		"2022-11-28": true, "2026-03-10": true, "2022-11-27": false, "2026-03-11": false, "2024": false, "latest": false, "": false,
	} {
		if err := CheckVersion(v); (err == nil) != good {
			t.Errorf("CheckVersion(%q): %v", v, err)
		}
	}
}

// answerer answers everything with the same.
func answerer(status int, body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}
}

func TestRefusalsAreClassified(t *testing.T) {
	message := func(s string) string { return fmt.Sprintf(`{"message":%q}`, s) }
	documented := func(s string) string { return fmt.Sprintf(`{"message":"slow down","documentation_url":%q}`, s) }
	now := time.Now()
	for _, test := range []struct {
		status int
		body   string
		header []string
		code   runner.Code
		wait   time.Duration
		calls  int
		says   string // to the operator
	}{
		{status: 401, body: message("Bad credentials"), code: runner.CredentialRejected, says: "put a new one into the secret"},
		{status: 401, header: []string{"X-GitHub-OTP", "required; app"}, code: runner.CredentialRejected},
		{status: 403, header: []string{"X-RateLimit-Limit", "60", "X-RateLimit-Remaining", "0"}, code: runner.CredentialRejected, says: "anonymous"},
		{status: 429, header: []string{"X-RateLimit-Limit", "60", "Retry-After", "9"}, code: runner.CredentialRejected, says: "anonymous"},
		{status: 404, header: []string{"X-RateLimit-Limit", "60"}, code: runner.CredentialRejected, says: "anonymous"},

		{status: 403, body: message("Must have admin rights to Repository."), code: runner.CredentialForbidden, says: "admin:org"},
		{status: 403, header: []string{"X-OAuth-Scopes", "repo", "X-Accepted-OAuth-Scopes", "admin:org"}, code: runner.CredentialForbidden, says: `x-oauth-scopes "repo", x-accepted-oauth-scopes "admin:org"`},
		{status: 403, header: []string{"X-Accepted-GitHub-Permissions", "organization_self_hosted_runners=write"}, code: runner.CredentialForbidden, says: "organization_self_hosted_runners=write"},
		{status: 403, header: []string{"X-GitHub-SSO", "required; url=https://github.com/orgs/acme/sso?x=1"}, code: runner.CredentialForbidden, says: "https://github.com/orgs/acme/sso?x=1"},
		{status: 403, body: message("Although you appear to have the correct authorization credentials, the `acme` organization has an IP allow list enabled, and your IP address is not permitted"), code: runner.CredentialForbidden, says: "egress address"},
		{status: 403, body: message("`acme` forbids access via a fine-grained personal access token"), code: runner.CredentialForbidden, says: "policy"},
		{status: 403, body: "<html>", header: []string{"X-RateLimit-Remaining", "4999"}, code: runner.CredentialForbidden},

		{status: 403, header: []string{"X-RateLimit-Remaining", "0", "X-RateLimit-Reset", unix(now.Add(100 * time.Second))}, code: runner.RateLimited, wait: 100 * time.Second},
		{status: 429, header: []string{"X-RateLimit-Remaining", "0", "X-RateLimit-Reset", unix(now.Add(-time.Second))}, code: runner.RateLimited},
		{status: 403, header: []string{"Retry-After", "30"}, code: runner.RateLimited, wait: 30 * time.Second},
		{status: 403, header: []string{"Retry-After", "30", "X-RateLimit-Remaining", "0", "X-RateLimit-Reset", unix(now.Add(time.Hour))}, code: runner.RateLimited, wait: 30 * time.Second},
		{status: 429, header: []string{"Retry-After", "7"}, body: documented("https://docs.github.com/other"), code: runner.RateLimited, wait: 7 * time.Second},
		{status: 429, code: runner.RateLimited},
		{status: 429, header: []string{"Retry-After", "99999999999999999999"}, code: runner.RateLimited},
		{status: 429, header: []string{"Retry-After", "-1"}, code: runner.RateLimited},
		{status: 403, body: documented("https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api#about-secondary-rate-limits"), code: runner.RateLimited},
		{status: 403, body: documented("https://developer.github.com/v3/#abuse-rate-limits"), code: runner.RateLimited},

		{status: 404, body: message("Not Found"), code: runner.TargetNotFound, says: "spelling"},
		{status: 301, header: []string{"Location", "/organizations/1/x"}, code: runner.TargetNotFound, says: "renamed"},
		{status: 302, code: runner.TargetNotFound}, {status: 304, code: runner.TargetNotFound},
		{status: 307, header: []string{"Location", "https://elsewhere.example/"}, code: runner.TargetNotFound},
		{status: 308, header: []string{"Location", "https://elsewhere.example/"}, code: runner.TargetNotFound},

		{status: 500, code: runner.Unavailable}, {status: 501, code: runner.Unavailable},
		{status: 502, code: runner.Unavailable, calls: 3, body: "<html>"}, {status: 503, code: runner.Unavailable, calls: 3},
		{status: 504, code: runner.Unavailable, calls: 3},
		{status: 500, header: []string{"X-RateLimit-Reset", unix(now.Add(time.Hour))}, code: runner.Unavailable},

		{status: 400, code: runner.Internal}, {status: 405, code: runner.Internal}, {status: 409, code: runner.Internal},
		{status: 410, code: runner.Internal}, {status: 422, body: `{"message":"x","errors":["y"]}`, code: runner.Internal},

		{status: 201, code: runner.Unavailable, says: "not the JSON"},
		{status: 201, body: "null", code: runner.Unavailable, says: "no token"},
		{status: 200, body: "{}", code: runner.Unavailable, says: "no token"},
		{status: 202, code: runner.Unavailable}, {status: 204, code: runner.Unavailable},
		{status: 201, body: "<html>", code: runner.Unavailable, says: "not the JSON"},
		{status: 201, body: `{"token":"","expires_at":"2099-01-01T00:00:00Z"}`, code: runner.Unavailable, says: "no token"},
		{status: 201, body: `{"token":"SECRET"}`, code: runner.Unavailable, says: "expires_at"},
		{status: 201, body: `{"token":"SECRET","expires_at":"SECRET"}`, code: runner.Unavailable, says: "expires_at"},
		{status: 201, body: `{"token":"SECRET","expires_at":"2020-01-22T12:13:35.123-08:00"}`, code: runner.Unavailable, says: "past"},
		{status: 201, body: `{"token":["SECRET"],"expires_at":"2099-01-01T00:00:00Z"}`, code: runner.Unavailable, says: "not the JSON"},
		{status: 201, body: `{"token":"SECRET","expires_at":"2099-01-01T00:00:00Z"`, code: runner.Unavailable, says: "not the JSON"},
		{status: 201, body: `{"token":"SECRET"}` + strings.Repeat(" ", 50<<20), code: runner.Unavailable, says: "longer than"},
		{status: 403, body: strings.Repeat(" ", 50<<20), code: runner.CredentialForbidden},
		{status: 403, body: message("who is " + pat), header: []string{"X-OAuth-Scopes", pat, "Location", "/" + pat}, code: runner.CredentialForbidden},
		{status: 403, body: message(strings.Repeat("x", 1990) + pat), code: runner.CredentialForbidden},
	} {
		name := fmt.Sprintf("%d %.40s %q", test.status, test.body, test.header)
		var calls atomic.Int32
		answer := answerer(test.status, test.body, append(test.header, "X-GitHub-Request-Id", "AB:CD")...)
		c := newClient(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			calls.Add(1)
			answer(w, r)
		}), "/api/v3", "2022-11-28")
		token, err := create(t, c, "orgs/acme", runner.RegistrationToken)
		e := runner.AsError(err)
		if err == nil || e.Code != test.code || !token.Value.IsZero() {
			t.Errorf("%s: %v, want %s", name, err, test.code)
			continue
		}
		if off := test.wait - e.RetryAfter; off < 0 || off > 10*time.Second || (test.wait == 0) != (e.RetryAfter == 0) {
			t.Errorf("%s: wait %v, want %v", name, e.RetryAfter, test.wait)
		}
		if got := max(1, test.calls); int(calls.Load()) != got {
			t.Errorf("%s: %d calls, want %d", name, calls.Load(), got)
		}
		if !strings.Contains(e.Error(), test.says) || strings.Contains(e.Error(), "SECRET") || strings.Contains(e.Error(), pat[:8]) {
			t.Errorf("%s: %q, want %q and nothing secret", name, e, test.says)
		}
		if test.body != "" && strings.Contains(e.Message, "GitHub answered") {
			t.Errorf("%s: the caller is told %q", name, e.Message)
		}
		if e.GitHub.RequestID != "AB:CD" && !strings.Contains(e.Error(), "longer than") {
			t.Errorf("%s: request id %q", name, e.GitHub.RequestID)
		}
	}
}

func unix(t time.Time) string { return strconv.FormatInt(t.Unix(), 10) }

func TestCredentialGoesToNoOtherHost(t *testing.T) {
	var leaked atomic.Bool
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { leaked.Store(true) }))
	defer other.Close()
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
		{Header: http.Header{"X-Ratelimit-Remaining": {"0"}, "X-Ratelimit-Reset": {unix(time.Now().Add(time.Hour))}}}, // of a success
		{Status: 403, Body: `{"documentation_url":"https://docs.github.com/x#secondary-rate-limits"}`, Header: http.Header{"Retry-After": {"3600"}}},
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

func TestTransientFailuresAreTriedTwiceMore(t *testing.T) {
	for name, fault := range map[string]*github.Answer{
		"502": github.Refusal(502, "Server Error"), "reset": {Fault: network.Reset}, "cut off": {Fault: network.Truncate},
	} {
		stand := github.New(secret.New(pat))
		c := newClient(t, stand, "", "2022-11-28")
		var n atomic.Int32
		stand.OnRequest(func(*http.Request) *github.Answer {
			if n.Add(1) < 3 {
				return fault
			}
			return nil
		})
		if _, err := create(t, c, "orgs/acme", runner.RegistrationToken); err != nil || n.Load() != 3 {
			t.Errorf("%s: %v after %d calls, want a token of the third", name, err, n.Load())
		}
		stand.OnRequest(func(*http.Request) *github.Answer { n.Add(1); return fault })
		n.Store(0)
		if _, err := create(t, c, "orgs/acme", runner.RegistrationToken); runner.AsError(err).Code != runner.Unavailable || n.Load() != 3 {
			t.Errorf("%s: %v after %d calls, want Unavailable after three", name, err, n.Load())
		}
		if v := stand.Violations(); len(v) > 0 {
			t.Errorf("%s: %q", name, v)
		}
	}
}

func TestNoRetryBeyondTheContextNorAgainstRetryAfter(t *testing.T) {
	stand := github.New(secret.New(pat))
	c := newClient(t, stand, "", "2022-11-28")
	answer := github.Refusal(503, "maintenance")
	answer.Header = http.Header{"Retry-After": {"60"}}
	stand.OnRequest(func(*http.Request) *github.Answer { return answer })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	start := time.Now()
	_, err := c.CreateToken(ctx, secret.New(pat), target(t, "orgs/acme"), runner.RegistrationToken)
	if e := runner.AsError(err); e.RetryAfter != time.Minute || len(stand.Requests()) != 1 || time.Since(start) > 10*time.Second {
		t.Errorf("%v, wait %v, after %d calls and %v", err, e.RetryAfter, len(stand.Requests()), time.Since(start))
	}

	stand.OnRequest(func(*http.Request) *github.Answer { return &github.Answer{Fault: network.Hang} })
	ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := c.CreateToken(ctx, secret.New(pat), target(t, "orgs/acme"), runner.RegistrationToken); runner.AsError(err).Code != runner.Unavailable {
		t.Errorf("hanging: %v", err)
	}
}

// hanging is a network on which nobody answers.
type hanging struct{}

func (hanging) RoundTrip(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

func TestNoCallIsWithoutATimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api, _ := ParseAPIURL("https://api.github.com")
		c, err := New(api, "2022-11-28", hanging{})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		_, err = c.CreateToken(context.Background(), secret.New(pat), target(t, "orgs/acme"), runner.RegistrationToken)
		if took := time.Since(start); runner.AsError(err).Code != runner.Unavailable || took < 33*time.Second || took > 36*time.Second {
			t.Errorf("%v after %v, want three timeouts of 11 s", err, took)
		}
	})
}

func TestNobodyListens(t *testing.T) {
	srv := httptest.NewServer(nil)
	api, _ := ParseAPIURL(srv.URL)
	srv.Close()
	c, err := New(api, "2022-11-28", NewTransport())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := create(t, c, "orgs/acme", runner.RegistrationToken); runner.AsError(err).Code != runner.Unavailable {
		t.Errorf("%v", err)
	}
}

// What the tables of docs and facts name is what an operator finds in the log.
func TestHeadersOfARefusalReachTheOperator(t *testing.T) {
	var header []string
	names := []string{"X-GitHub-Request-Id", "X-OAuth-Scopes", "X-Accepted-OAuth-Scopes", "X-Accepted-GitHub-Permissions", "X-GitHub-SSO"}
	for _, n := range names {
		header = append(header, n, "value-of-"+n)
	}
	c := newClient(t, answerer(403, `{"message":"what GitHub says"}`, header...), "", "2022-11-28")
	_, err := create(t, c, "orgs/acme", runner.RegistrationToken)
	for _, want := range append(slices.Clone(names), "403 Forbidden", "what GitHub says") {
		if !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(want)) {
			t.Errorf("%q lacks %q", err, want)
		}
	}
}

func TestTLSAndHTTP2AsGitHubSpeaksThem(t *testing.T) {
	stand := github.New(secret.New(pat))
	var connections atomic.Int32
	srv := httptest.NewUnstartedServer(stand)
	srv.EnableHTTP2 = true
	srv.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	srv.StartTLS()
	defer srv.Close()
	api, err := ParseAPIURL(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	transport := NewTransport()
	transport.TLSClientConfig = srv.Client().Transport.(*http.Transport).TLSClientConfig
	c, err := New(api, "2022-11-28", transport)
	if err != nil {
		t.Fatal(err)
	}
	var protocol atomic.Value
	stand.OnRequest(func(r *http.Request) *github.Answer { protocol.Store(r.Proto); return nil })
	for range 3 {
		if _, err := create(t, c, "orgs/acme", runner.RegistrationToken); err != nil {
			t.Error(err)
		}
	}
	// One that is kept would be dead after the environment was frozen.
	if n := connections.Load(); n != 3 || protocol.Load() != "HTTP/2.0" {
		t.Errorf("%d connections for 3 calls, %v", n, protocol.Load())
	}

	stranger, err := New(api, "2022-11-28", NewTransport())
	if err != nil {
		t.Fatal(err)
	}
	before := len(stand.Requests())
	if _, err := create(t, stranger, "orgs/acme", runner.RegistrationToken); runner.AsError(err).Code != runner.Unavailable || len(stand.Requests()) != before {
		t.Errorf("a certificate that nobody trusts: %v", err)
	}
}
