package github

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	gogithub "github.com/google/go-github/v89/github"

	"runner-token-broker/internal/runner"
	"runner-token-broker/internal/secret"
)

// diagnosis is one row of the table: evidence and what it means.
type diagnosis struct {
	when  func(answer) bool
	cause runner.Cause
	needs bool // the remedy ends in the right that the target takes
}

// diagnoses are read from the top, and the first that fits counts; the last fits everything. They follow
// https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api and what users reported. They read the
// answer itself, not the library's error types: those take a 429 with Retry-After for a plain refusal, and an anonymous
// caller for a limited one.
var diagnoses = []diagnosis{
	{answer.isAnonymous, runner.Cause{
		Name: "anonymous", Code: runner.CredentialRejected,
		Remedy: "GitHub took the call for an anonymous one, so the credential is broken: put a new one into the secret",
	}, false},
	{both(answer.isLimit, header(gogithub.HeaderRateRemaining, "0")), runner.Cause{
		Name: "primary-limit", Code: runner.RateLimited,
		Remedy: "wait; the hour's quota is shared by all that use the credential's owner",
	}, false},
	{answer.isLimit, runner.Cause{
		Name: "secondary-limit", Code: runner.RateLimited,
		Remedy: "wait; too many calls came at once, of all that use the credential's owner",
	}, false},

	// Something else answered: a proxy, a middlebox, a server without the API at this address.
	{both(answer.isForeign, status(401)), notGitHub(runner.CredentialRejected), false},
	{both(answer.isForeign, status(403)), notGitHub(runner.CredentialForbidden), false},
	{both(answer.isForeign, status(404)), notGitHub(runner.TargetNotFound), false},
	{both(answer.isForeign, answer.isRedirect), notGitHub(runner.TargetNotFound), false},
	{both(answer.isForeign, either(answer.isServerError, answer.isSuccess)), notGitHub(runner.Unavailable), false},
	{status(407), runner.Cause{
		Name: "proxy", Code: runner.Unavailable,
		Remedy: "the proxy wants a user and password: see HTTPS_PROXY (parameter HttpsProxy)",
	}, false},
	{answer.isForeign, notGitHub(runner.Internal), false},

	// A GitHub App's own calls, with its JWT.
	{both(answer.isToJWT, both(status(401), either(says("expiration"), says("issued at")))), runner.Cause{
		Name: "clock", Code: runner.CredentialRejected,
		Remedy: "GitHub finds the time in the App's JWT wrong: is the clock here off?",
	}, false},
	{both(answer.isToJWT, either(status(401), says("integration not found"))), runner.Cause{
		Name: "app-key-rejected", Code: runner.CredentialRejected,
		Remedy: "the App's key or id is wrong, or the key or the App was deleted: " +
			"compare client_id and the key in the secret with the App's page",
	}, false},
	{both(status(403), says("installation has been suspended")), runner.Cause{
		Name: "app-suspended", Code: runner.CredentialForbidden,
		Remedy: "the App's installation is suspended: an owner of the organization can unsuspend it",
	}, false},
	{both(at(findInstallation), status(404)), runner.Cause{
		Name: "app-not-installed", Code: runner.TargetNotFound,
		Remedy: "install the App for the target; GitHub also answers so for a name it does not know",
	}, false},
	{both(at(installationToken), status(404)), runner.Cause{
		Name: "app-not-installed", Code: runner.TargetNotFound,
		Remedy: "the App was uninstalled, or installation_id in the secret is wrong",
	}, false},
	{both(at(installationToken), both(status(422), says("permission"))), runner.Cause{
		Name: "not-approved", Code: runner.CredentialForbidden,
		Remedy: "the App lacks the permission, or the organization has not accepted it yet",
	}, true},
	{both(at(installationToken), both(status(422), says("repositor"))), runner.Cause{
		Name: "app-without-repository", Code: runner.TargetNotFound,
		Remedy: "give the App's installation access to the repository; GitHub also answers so for a name it does not know",
	}, false},

	{both(status(401), answer.isToInstallation), runner.Cause{
		Name: "installation-token-rejected", Code: runner.CredentialRejected,
		Remedy: "GitHub refuses a token that it made for the App: was the App uninstalled or suspended? " +
			"The secret holds the App's key, never such a token",
	}, false},
	{both(status(401), answer.isUnlikeAToken), runner.Cause{
		Name: "not-a-token", Code: runner.CredentialRejected,
		Remedy: "the secret's value does not begin as GitHub's tokens do (ghp_, github_pat_): " +
			"is it encoded, or still a placeholder? Put the token itself there",
	}, false},
	{status(401), runner.Cause{
		Name: "expired-or-revoked", Code: runner.CredentialRejected,
		Remedy: "the credential is unknown, expired or revoked, or its owner left: put a new one into the secret",
	}, false},

	{both(status(403), answer.isSSO), runner.Cause{
		Name: "sso", Code: runner.CredentialForbidden,
		Remedy: "authorize the credential for the organization's SSO; a link in x-github-sso works for an hour",
	}, false},
	{both(status(403), says("ip allow list")), runner.Cause{
		Name: "ip-allow-list", Code: runner.CredentialForbidden,
		Remedy: "put the function's egress address on GitHub's IP allow list",
	}, false},
	{both(status(403), says("forbids access")), runner.Cause{
		Name: "token-policy", Code: runner.CredentialForbidden,
		Remedy: "the organization's policy refuses this kind of token, or its lifetime: use another",
	}, false},
	{both(status(403), says("self-hosted runners are disabled")), runner.Cause{
		Name: "repository-runners-disabled", Code: runner.CredentialForbidden,
		Remedy: "the organization forbids runners of single repositories: allow them for this one in its Actions settings, " +
			"or register at the organization",
	}, false},
	{both(status(403), says("not accessible by")), runner.Cause{
		Name: "not-approved", Code: runner.CredentialForbidden,
		Remedy: "the credential lacks the permission, or the organization has not approved it yet",
	}, true},
	{both(status(403), answer.isScope), runner.Cause{
		Name: "scope", Code: runner.CredentialForbidden,
		Remedy: "the credential lacks a scope or permission, or its user a role",
	}, true},
	{status(403), runner.Cause{
		Name: "forbidden", Code: runner.CredentialForbidden,
		Remedy: "see GitHub's message",
	}, false},

	{both(answer.isRedirect, answer.isMoved), runner.Cause{
		Name: "renamed", Code: runner.TargetNotFound,
		Remedy: "it was renamed or transferred, and redirects are not followed: ask for the new name",
	}, false},
	{either(status(404), answer.isRedirect), runner.Cause{
		Name: "not-found", Code: runner.TargetNotFound,
		Remedy: "check the spelling; GitHub also answers so where the credential cannot see the target",
	}, true},
	{status(400, 410), runner.Cause{
		Name: "api-version", Code: runner.Internal,
		Remedy: "see GITHUB_API_VERSION: does this GitHub know it?",
	}, false},
	{either(answer.isServerError, answer.isSuccess), runner.Cause{
		Name: "github-unavailable", Code: runner.Unavailable,
		Remedy: "GitHub fails or is overloaded: see https://www.githubstatus.com",
	}, false},
	{anything, runner.Cause{
		Name: "unexpected-answer", Code: runner.Internal,
		Remedy: "see GitHub's message",
	}, false},
}

func notGitHub(code runner.Code) runner.Cause {
	return runner.Cause{
		Name: "not-github", Code: code,
		Remedy: "this is not GitHub's answer, but of something on the way or at the address: see GITHUB_API_URL " +
			"(GitHub Enterprise Server's ends in /api/v3), HTTPS_PROXY and what the network filters",
	}
}

// answer is what GitHub, or what stands in its place, answered without a token.
type answer struct {
	status        int
	header        http.Header
	message       string // lower case
	documentation string
	said          string // message and errors, for the operator
	call          call
}

func read(resp *http.Response, call call) answer {
	var body struct {
		Message          string `json:"message"`
		DocumentationURL string `json:"documentation_url"`
		Errors           any    `json:"errors"` // a string or a list
	}
	if text, err := io.ReadAll(resp.Body); err == nil {
		json.Unmarshal(text, &body) // HTML leaves it empty
	}
	a := answer{
		status: resp.StatusCode, header: resp.Header, message: strings.ToLower(body.Message),
		documentation: body.DocumentationURL, said: fmt.Sprintf("%q", secret.Text(body.Message, call.bearer)),
		call: call,
	}
	if body.Errors != nil {
		// Not as they came: there the credential may be hidden behind JSON's escapes.
		errors := fmt.Sprint(body.Errors)
		a.message += " " + strings.ToLower(errors)
		a.said += fmt.Sprintf(", errors %q", secret.Text(errors, call.bearer))
	}
	return a
}

// refuse returns the Error that the answer means.
func (a answer) refuse() *runner.Error {
	d := diagnoses[slices.IndexFunc(diagnoses, func(d diagnosis) bool { return d.when(a) })]
	if d.needs {
		d.cause.Remedy += ": " + a.need()
	}
	e := d.cause.Refuse("GitHub answered %d %s, %s%s", a.status, http.StatusText(a.status), a.said, a.notable())
	e.GitHub = trace(a.header, a.call.bearer)
	switch e.Code {
	case runner.RateLimited:
		e.RetryAfter = a.wait()
	case runner.Unavailable:
		e.RetryAfter = retryAfter(a.header)
	}
	return e
}

// isAnonymous: only a call without an account is limited to 60 an hour, and a broken credential counts as none.
func (a answer) isAnonymous() bool {
	return status(401, 403, 404, 429)(a) && a.header.Get(gogithub.HeaderRateLimit) == "60"
}

func (a answer) isLimit() bool {
	return a.status == http.StatusTooManyRequests || a.status == http.StatusForbidden &&
		(a.header.Get(gogithub.HeaderRateRemaining) == "0" || a.header.Get("Retry-After") != "" ||
			strings.HasSuffix(a.documentation, "secondary-rate-limits") ||
			strings.HasSuffix(a.documentation, "#abuse-rate-limits") ||
			strings.Contains(a.message, "rate limit") || strings.Contains(a.message, "abuse detection"))
}

// isForeign: GitHub names its request, and says what is wrong.
func (a answer) isForeign() bool {
	return a.header.Get(gogithub.HeaderRequestID) == "" && strings.TrimSpace(a.message) == ""
}

func (a answer) isUnlikeAToken() bool {
	return !slices.ContainsFunc([]string{"ghp_", "github_pat_", "gho_", "ghu_", "ghs_"}, func(prefix string) bool {
		return strings.HasPrefix(a.call.bearer.Reveal(), prefix)
	}) && !isOldToken(a.call.bearer.Reveal())
}

// isOldToken: until 2021 a token was 40 hexadecimal digits.
func isOldToken(s string) bool { return len(s) == 40 && strings.Trim(s, "0123456789abcdef") == "" }

func (a answer) isSSO() bool {
	return a.header.Get("X-GitHub-SSO") != "" || strings.Contains(a.message, "saml enforcement")
}

// isScope: GitHub names the scopes with every answer to a classic token, so they say something only where they differ.
func (a answer) isScope() bool {
	held, accepted := list(a.header.Get("X-OAuth-Scopes")), list(a.header.Get("X-Accepted-OAuth-Scopes"))
	lacks := len(accepted) > 0 &&
		!slices.ContainsFunc(accepted, func(scope string) bool { return slices.Contains(held, scope) })
	return lacks || strings.Contains(a.message, "must have admin rights")
}

func list(header string) []string {
	return strings.FieldsFunc(header, func(r rune) bool { return r == ',' || r == ' ' })
}

// isToJWT: the App itself asked, and isToInstallation: its installation.
func (a answer) isToJWT() bool          { return a.call.step != runnerToken }
func (a answer) isToInstallation() bool { return strings.HasPrefix(a.call.bearer.Reveal(), "ghs_") }

func at(s step) func(answer) bool {
	return func(a answer) bool { return a.call.step == s }
}

func (a answer) isRedirect() bool    { return 300 <= a.status && a.status < 400 }
func (a answer) isMoved() bool       { return a.header.Get("Location") != "" }
func (a answer) isServerError() bool { return a.status >= 500 }
func (a answer) isSuccess() bool     { return a.status < 300 }

func status(codes ...int) func(answer) bool {
	return func(a answer) bool { return slices.Contains(codes, a.status) }
}

func header(name, value string) func(answer) bool {
	return func(a answer) bool { return a.header.Get(name) == value }
}

func says(text string) func(answer) bool {
	return func(a answer) bool { return strings.Contains(a.message, text) }
}

func both(x, y func(answer) bool) func(answer) bool {
	return func(a answer) bool { return x(a) && y(a) }
}

func either(x, y func(answer) bool) func(answer) bool {
	return func(a answer) bool { return x(a) || y(a) }
}

func anything(answer) bool { return true }

// wait returns how long GitHub wants no call, 0 if it does not say. The reset is the primary limit's: after a secondary
// limit it would be up to an hour too long (hub4j/github-api#1805).
func (a answer) wait() time.Duration {
	if d := retryAfter(a.header); d > 0 || a.header.Get(gogithub.HeaderRateRemaining) != "0" {
		return d
	}
	reset, err := strconv.ParseUint(a.header.Get(gogithub.HeaderRateReset), 10, 32)
	if err != nil {
		return 0
	}
	return max(0, time.Until(time.Unix(int64(reset), 0)))
}

func retryAfter(h http.Header) time.Duration {
	seconds, err := strconv.ParseUint(h.Get("Retry-After"), 10, 31)
	if err != nil {
		return 0
	}
	return min(time.Duration(seconds)*time.Second, runner.LongestWait)
}

func trace(h http.Header, bearer secret.Value) runner.Trace {
	return runner.Trace{
		RequestID:          secret.Text(h.Get(gogithub.HeaderRequestID), bearer),
		RateLimit:          secret.Text(h.Get(gogithub.HeaderRateLimit), bearer),
		RateLimitRemaining: secret.Text(h.Get(gogithub.HeaderRateRemaining), bearer),
		Scopes:             secret.Text(h.Get("X-OAuth-Scopes"), bearer),
		CredentialExpires:  expiration(h.Get("GitHub-Authentication-Token-Expiration")),
		Date:               date(h.Get("Date")),
	}
}

func date(header string) time.Time {
	t, _ := http.ParseTime(header)
	return t
}

// expiration parses when the credential expires. GitHub has two layouts (google/go-github#2649). A credential without
// an end has no header.
func expiration(header string) time.Time {
	for _, layout := range []string{"2006-01-02 15:04:05 MST", "2006-01-02 15:04:05 -0700"} {
		if t, err := time.Parse(layout, header); err == nil {
			return t.UTC()
		}
	}
	return time.Time{}
}

// notable lists the headers that tell an operator which right is missing.
func (a answer) notable() string {
	var b strings.Builder
	for _, name := range []string{
		"X-GitHub-Request-Id", "X-OAuth-Scopes", "X-Accepted-OAuth-Scopes", "X-Accepted-GitHub-Permissions",
		"X-GitHub-SSO", "Location", "Retry-After",
		"X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "X-RateLimit-Resource",
	} {
		if value := a.header.Get(name); value != "" {
			fmt.Fprintf(&b, ", %s %q", strings.ToLower(name), secret.Text(value, a.call.bearer))
		}
	}
	return b.String()
}

// need names the right that the target takes: https://docs.github.com/rest/actions/self-hosted-runners.
func (a answer) need() string {
	_, isRepository := a.call.target.Repository()
	isApps := a.isToJWT() || a.isToInstallation()
	switch scope := a.call.target.Scope(); {
	case isApps && isRepository:
		return `the App needs the repository permission "Administration: write", accepted by the repository's owner`
	case isApps:
		return `the App needs the organization permission "Self-hosted runners: write", accepted by the organization`
	case scope == "orgs":
		return `it needs admin:org (classic) or "Self-hosted runners: write" (fine-grained, approved by the organization), ` +
			`and its user must own the organization`
	case scope == "repos":
		return `it needs repo (classic) or "Administration: write" (fine-grained), ` +
			`and its user must administer the repository`
	}
	return "it needs manage_runners:enterprise and must be a classic one: enterprises take no other"
}

// Causes are what GitHub's answers can mean, in the order in which they are looked for.
func Causes() []runner.Cause {
	var causes []runner.Cause
	for _, d := range diagnoses {
		causes = append(causes, d.cause)
	}
	return append(causes, unusable)
}
