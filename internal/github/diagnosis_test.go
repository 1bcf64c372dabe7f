package github

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"runner-token-broker/internal/runner"
)

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

func message(s string) string { return fmt.Sprintf(`{"message":%q}`, s) }

func documented(url string) string {
	return fmt.Sprintf(`{"message":"slow down","documentation_url":%q}`, url)
}

func unix(t time.Time) string { return strconv.FormatInt(t.Unix(), 10) }

const (
	rejected  = runner.CredentialRejected
	forbidden = runner.CredentialForbidden
	limited   = runner.RateLimited
	notFound  = runner.TargetNotFound
	down      = runner.Unavailable
	internal  = runner.Internal

	secondary = "https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api#about-secondary-rate-limits"
)

// refusals are answers of GitHub's, and of what stands in its place, with what they mean.
func refusals() []refusalTest {
	now := time.Now()
	hour := unix(now.Add(time.Hour))
	return []refusalTest{
		{name: "bad credentials", status: 401, body: message("Bad credentials"), code: rejected, cause: "expired-or-revoked",
			says: "put a new one into the secret"},
		{name: "two-factor", status: 401, header: []string{"X-GitHub-OTP", "required; app"}, code: rejected,
			cause: "expired-or-revoked"},
		{name: "anonymous 403", status: 403, header: []string{"X-RateLimit-Limit", "60", "X-RateLimit-Remaining", "0"},
			code: rejected, cause: "anonymous", says: "anonymous"},
		{name: "anonymous 429", status: 429, header: []string{"X-RateLimit-Limit", "60", "Retry-After", "9"}, code: rejected,
			cause: "anonymous"},
		{name: "anonymous 404", status: 404, header: []string{"X-RateLimit-Limit", "60"}, code: rejected, cause: "anonymous"},

		{name: "no owner", status: 403, body: message("Must have admin rights to Repository."), code: forbidden,
			cause: "scope", says: "admin:org"},
		{name: "classic scopes", status: 403,
			header: []string{"X-OAuth-Scopes", "repo", "X-Accepted-OAuth-Scopes", "admin:org"}, code: forbidden, cause: "scope",
			says: `x-oauth-scopes "repo", x-accepted-oauth-scopes "admin:org"`},
		{name: "permission", status: 403,
			header: []string{"X-Accepted-GitHub-Permissions", "organization_self_hosted_runners=write"}, code: forbidden,
			cause: "forbidden", says: "organization_self_hosted_runners=write"},
		{name: "not approved", status: 403, body: message("Resource not accessible by personal access token"),
			code: forbidden, cause: "not-approved", says: "has not approved it yet: it needs admin:org"},
		{name: "SSO header", status: 403,
			header: []string{"X-GitHub-SSO", "required; url=https://github.com/orgs/acme/sso?x=1"}, code: forbidden,
			cause: "sso", says: "https://github.com/orgs/acme/sso?x=1"},
		{name: "SSO message", status: 403,
			body: message("Resource protected by organization SAML enforcement. You must grant"), code: forbidden, cause: "sso"},
		{name: "an organization named saml", status: 403,
			body: message("`saml` forbids access via a fine-grained personal access token"), code: forbidden,
			cause: "token-policy"},
		{name: "IP allow list", status: 403,
			body: message("Although you appear to have the correct authorization credentials, " +
				"the `acme` organization has an IP allow list enabled, and your IP address is not permitted"),
			code: forbidden, cause: "ip-allow-list", says: "egress address"},
		{name: "token policy", status: 403, body: message("`acme` forbids access via a fine-grained personal access token"),
			code: forbidden, cause: "token-policy", says: "policy"},
		{name: "classic tokens forbidden", status: 403,
			body: message("`acme` forbids access via a personal access token (classic)."), code: forbidden,
			cause: "token-policy"},
		{name: "repository runners disabled", status: 403,
			body: `{"message":"Forbidden","errors":"Repository level self-hosted runners are disabled on this repository"}`,
			code: forbidden, cause: "repository-runners-disabled", says: "are disabled on this repository"},
		{name: "repository runners disabled, a list", status: 403,
			body: `{"message":"Forbidden","errors":["Repository level self-hosted runners are disabled on this repository"]}`,
			code: forbidden, cause: "repository-runners-disabled"},
		{name: "archived", status: 403, body: message("Repository was archived so is read-only."),
			header: []string{"X-OAuth-Scopes", "repo, admin:org", "X-Accepted-OAuth-Scopes", "admin:org"}, code: forbidden,
			cause: "forbidden", says: "see GitHub's message"},
		{name: "suspended", status: 403, body: message("Sorry. Your account was suspended."), code: forbidden,
			cause: "forbidden", says: "see GitHub's message"},
		{name: "HTML with GitHub's id", status: 403, body: "<html>", header: []string{"X-RateLimit-Remaining", "4999"},
			code: forbidden, cause: "forbidden"},

		{name: "primary limit", status: 403,
			header: []string{"X-RateLimit-Remaining", "0", "X-RateLimit-Reset", unix(now.Add(100 * time.Second))}, code: limited,
			cause: "primary-limit", wait: 100 * time.Second},
		{name: "primary limit, over", status: 429,
			header: []string{"X-RateLimit-Remaining", "0", "X-RateLimit-Reset", unix(now.Add(-time.Second))}, code: limited,
			cause: "primary-limit"},
		{name: "403 with Retry-After", status: 403, header: []string{"Retry-After", "30"}, code: limited,
			cause: "secondary-limit", wait: 30 * time.Second},
		{name: "Retry-After before the reset", status: 403,
			header: []string{"Retry-After", "30", "X-RateLimit-Remaining", "0", "X-RateLimit-Reset", hour}, code: limited,
			cause: "primary-limit", wait: 30 * time.Second},
		{name: "429 with Retry-After", status: 429, header: []string{"Retry-After", "7"},
			body: documented("https://docs.github.com/other"), code: limited, cause: "secondary-limit", wait: 7 * time.Second},
		{name: "bare 429", status: 429, code: limited, cause: "secondary-limit"},
		{name: "Retry-After of 20 digits", status: 429, header: []string{"Retry-After", "99999999999999999999"},
			code: limited, cause: "secondary-limit"},
		{name: "negative Retry-After", status: 429, header: []string{"Retry-After", "-1"}, code: limited,
			cause: "secondary-limit"},
		{name: "Retry-After of 68 years", status: 429, header: []string{"Retry-After", "2147483647"}, code: limited,
			cause: "secondary-limit", wait: 70 * time.Minute},
		{name: "secondary limit, documented", status: 403, body: documented(secondary), code: limited,
			cause: "secondary-limit"},
		{name: "abuse limit, documented", status: 403, body: documented("https://developer.github.com/v3/#abuse-rate-limits"),
			code: limited, cause: "secondary-limit"},
		{name: "secondary limit with quota left, 403", status: 403, body: documented(secondary),
			header: []string{"X-RateLimit-Remaining", "4900", "X-RateLimit-Reset", hour}, code: limited,
			cause: "secondary-limit"},
		{name: "secondary limit with quota left, 429", status: 429, body: documented(secondary),
			header: []string{"X-RateLimit-Remaining", "4900", "X-RateLimit-Reset", hour}, code: limited,
			cause: "secondary-limit"},
		{name: "secondary limit by its message", status: 403,
			body:   `{"message":"You have exceeded a secondary rate limit.","documentation_url":"https://docs.github.com/x"}`,
			header: []string{"X-RateLimit-Remaining", "4900", "X-RateLimit-Reset", hour}, code: limited,
			cause: "secondary-limit"},
		{name: "abuse by its message", status: 403, body: message("You have triggered an abuse detection mechanism."),
			code: limited, cause: "secondary-limit"},

		{name: "not found", status: 404, body: message("Not Found"), code: notFound, cause: "not-found", says: "spelling"},
		{name: "moved", status: 301, header: []string{"Location", "/organizations/1/x"}, code: notFound, cause: "renamed",
			says: "renamed"},
		{name: "302 to nowhere", status: 302, code: notFound, cause: "not-found"},
		{name: "not modified", status: 304, code: notFound, cause: "not-found"},
		{name: "307", status: 307, header: []string{"Location", "https://elsewhere.example/"}, code: notFound,
			cause: "renamed"},
		{name: "308", status: 308, header: []string{"Location", "https://elsewhere.example/"}, code: notFound,
			cause: "renamed"},

		{name: "500", status: 500, code: down, cause: "github-unavailable"},
		{name: "501", status: 501, code: down, cause: "github-unavailable"},
		{name: "502", status: 502, code: down, calls: 3, body: "<html>", cause: "github-unavailable"},
		{name: "503", status: 503, code: down, calls: 3, cause: "github-unavailable"},
		{name: "504", status: 504, code: down, calls: 3, cause: "github-unavailable"},
		{name: "500 with a reset", status: 500, header: []string{"X-RateLimit-Reset", hour}, code: down,
			cause: "github-unavailable"},
		{name: "503 for 68 years", status: 503, header: []string{"Retry-After", "2147483647"}, code: down,
			cause: "github-unavailable", wait: 70 * time.Minute},

		{name: "400", status: 400, code: internal, cause: "api-version"},
		{name: "410", status: 410, code: internal, cause: "api-version", says: "GITHUB_API_VERSION"},
		{name: "405", status: 405, code: internal, cause: "unexpected-answer"},
		{name: "409", status: 409, code: internal, cause: "unexpected-answer", says: "see GitHub's message"},
		{name: "451", status: 451, code: internal, cause: "unexpected-answer", says: "see GitHub's message"},
		{name: "422", status: 422, body: `{"message":"x","errors":["why it is so"]}`, code: internal,
			cause: "unexpected-answer", says: "why it is so"},

		{name: "a proxy that wants a password", foreign: true, status: 407, code: down, cause: "proxy", says: "HTTPS_PROXY"},
		{name: "a middlebox's 403", foreign: true, status: 403, body: "<html>blocked</html>", code: forbidden,
			cause: "not-github", says: "what the network filters"},
		{name: "a middlebox's 401", foreign: true, status: 401, body: "<html>", code: rejected, cause: "not-github"},
		{name: "a login page", foreign: true, status: 302, header: []string{"Location", "/login"}, code: notFound,
			cause: "not-github", says: "/api/v3"},
		{name: "a web server's 404", foreign: true, status: 404, body: "<html>", code: notFound, cause: "not-github"},
		{name: "a balancer's 503", foreign: true, status: 503, body: "<html>", code: down, cause: "not-github", calls: 3},
		{name: "a web server's 400", foreign: true, status: 400, body: "<html>", code: internal, cause: "not-github",
			says: "GITHUB_API_URL"},
		{name: "a web server's 405", foreign: true, status: 405, body: "<html>", code: internal, cause: "not-github"},
		{name: "a captive portal", foreign: true, status: 200, body: "<html>", code: down, cause: "not-github",
			says: "what the network filters"},
		{name: "an empty 204", foreign: true, status: 204, code: down, cause: "not-github"},
		{name: "JSON without GitHub's id", foreign: true, status: 404, body: message("Not Found"), code: notFound,
			cause: "not-found"},

		{name: "empty 201", status: 201, code: down, cause: "no-token", says: "not the JSON"},
		{name: "null", status: 201, body: "null", code: down, cause: "no-token", says: "no token"},
		{name: "200 without a token", status: 200, body: "{}", code: down, cause: "no-token", says: "no token"},
		{name: "202", status: 202, code: down, cause: "github-unavailable"},
		{name: "204", status: 204, code: down, cause: "github-unavailable"},
		{name: "201 of HTML", status: 201, body: "<html>", code: down, cause: "no-token", says: "not the JSON"},
		{name: "empty token", status: 201, body: `{"token":"","expires_at":"2099-01-01T00:00:00Z"}`, code: down,
			cause: "no-token", says: "no token"},
		{name: "no expiry", status: 201, body: `{"token":"SECRET"}`, code: down, cause: "no-token", says: "expires_at"},
		{name: "malformed expiry", status: 201, body: `{"token":"SECRET","expires_at":"SECRET"}`, code: down,
			cause: "no-token", says: "expires_at"},
		{name: "past expiry", status: 201, body: `{"token":"SECRET","expires_at":"2020-01-22T12:13:35.123-08:00"}`,
			code: down, cause: "no-token", says: "past"},
		{name: "list for a token", status: 201, body: `{"token":["SECRET"],"expires_at":"2099-01-01T00:00:00Z"}`, code: down,
			cause: "no-token", says: "not the JSON"},
		{name: "half a JSON", status: 201, body: `{"token":"SECRET","expires_at":"2099-01-01T00:00:00Z"`, code: down,
			cause: "no-token", says: "not the JSON"},
		{name: "50 MB of success", status: 201, body: `{"token":"SECRET"}` + strings.Repeat(" ", 50<<20), code: down,
			cause: "no-token", says: "longer than"},
		{name: "50 MB of refusal", status: 403, body: strings.Repeat(" ", 50<<20), code: forbidden, cause: "forbidden"},

		{name: "the credential echoed", status: 403, body: message("who is " + pat),
			header: []string{"X-OAuth-Scopes", pat, "Location", "/" + pat, "X-RateLimit-Remaining", pat}, code: forbidden,
			cause: "forbidden"},
		{name: "the credential at the cut", status: 403, body: message(strings.Repeat("x", 190) + pat), code: forbidden,
			cause: "forbidden"},
		{name: "the credential encoded", status: 403, body: message("ghp%5FthisMustNot%42eSeen " + strings.ToUpper(pat)),
			code: forbidden, cause: "forbidden"},
		{name: "the credential escaped in JSON", status: 422,
			body: `{"message":"\u0067hp_thisMust","errors":[{"y":"\u0067\u0068\u0070\u005f\u0074\u0068\u0069\u0073Must"}]}`,
			code: internal, cause: "unexpected-answer", says: `errors "[map[y:[redacted]]]"`},
		{name: "the credential among the errors", status: 422, body: `{"message":"x","errors":[{"y":"` + pat + `"}]}`,
			code: internal, cause: "unexpected-answer"},
	}
}

type refusalTest struct {
	name    string
	foreign bool // not GitHub's: without its request id
	status  int
	body    string
	header  []string
	code    runner.Code
	cause   string
	wait    time.Duration
	calls   int    // 0: one
	says    string // to the operator
}

func TestRefusalsAreClassified(t *testing.T) {
	t.Parallel()
	for _, test := range refusals() {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			header := slices.Clone(test.header)
			if !test.foreign {
				header = append(header, "X-GitHub-Request-Id", "AB:CD")
			}
			var calls atomic.Int32
			answer := answerer(test.status, test.body, header...)
			c := newClient(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				calls.Add(1)
				answer(w, r)
			}), "/api/v3", "2022-11-28")
			// A context that a Retry-After of 70 minutes does not fit into.
			token, err := createWithin(t, time.Minute, c)
			e := runner.AsError(err)
			if err == nil || e.Code != test.code || e.Cause != test.cause || !token.Value.IsZero() {
				t.Fatalf("%v, cause %q; want %s, %q", err, e.Cause, test.code, test.cause)
			}
			if off := test.wait - e.RetryAfter; off < 0 || off > 10*time.Second || (test.wait == 0) != (e.RetryAfter == 0) {
				t.Errorf("wait %v, want %v", e.RetryAfter, test.wait)
			}
			want := max(1, test.calls)
			if test.wait > time.Minute {
				want = 1
			}
			if int(calls.Load()) != want {
				t.Errorf("%d calls, want %d", calls.Load(), want)
			}
			text := fmt.Sprintf("%v %v", e, e.GitHub)
			if !strings.Contains(text, test.says) || strings.Contains(text, "SECRET") ||
				strings.Contains(strings.ToLower(text), strings.ToLower(pat[:8])) {
				t.Errorf("%q, want %q and nothing secret", text, test.says)
			}
			if strings.Contains(e.Message, "GitHub answered") || len(text) > 3000 {
				t.Errorf("the caller is told %q, the operator %d bytes", e.Message, len(text))
			}
			if (e.GitHub.RequestID != "AB:CD") != test.foreign {
				t.Errorf("request id %q", e.GitHub.RequestID)
			}
		})
	}
}

// Each row of the table is reached, so that none stands behind a wider one.
func TestEachDiagnosisIsReached(t *testing.T) {
	t.Parallel()
	reached := map[string]bool{}
	for _, test := range refusals() {
		reached[test.cause+" "+string(test.code)] = true
	}
	for _, test := range appRefusals {
		reached[test.cause+" "+string(test.code)] = true
	}
	reached["not-a-token "+string(rejected)] = true // has a test of its own
	for _, d := range diagnoses {
		if !reached[d.cause.Name+" "+string(d.cause.Code)] {
			t.Errorf("no answer has the diagnosis %s, %s", d.cause.Name, d.cause.Code)
		}
	}
}

// What the tables of docs and facts name is what an operator finds in the log.
func TestHeadersOfARefusalReachTheOperator(t *testing.T) {
	t.Parallel()
	var header []string
	names := []string{
		"X-GitHub-Request-Id", "X-OAuth-Scopes", "X-Accepted-OAuth-Scopes", "X-Accepted-GitHub-Permissions", "X-GitHub-SSO",
	}
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
