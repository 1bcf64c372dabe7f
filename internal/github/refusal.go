package github

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-github/v89/github"

	"runner-token-broker/internal/runner"
	"runner-token-broker/internal/secret"
)

// refusal says what an answer without a token means. It reads the answer itself rather than the library's error types:
// those take a 429 with Retry-After for a plain refusal, and an anonymous caller for a limited one.
func refusal(resp *http.Response, credential secret.Value, t runner.Target) *runner.Error {
	var said struct {
		Message          string `json:"message"`
		DocumentationURL string `json:"documentation_url"`
	}
	if body, err := io.ReadAll(resp.Body); err == nil {
		json.Unmarshal(body, &said) // a proxy's HTML leaves it empty
	}
	h := resp.Header
	code := classify(resp.StatusCode, h, said.DocumentationURL)
	e := refuse(code, credential, "GitHub answered %s, %q%s: %s",
		resp.Status, said.Message, notable(h), remedy(code, h, said.Message, t))
	e.GitHub = response(h)
	switch code {
	case runner.RateLimited:
		e.RetryAfter = limitWait(h)
	case runner.Unavailable:
		e.RetryAfter = retryAfter(h)
	}
	return e
}

// classify follows https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api and what users reported.
func classify(status int, h http.Header, documentation string) runner.Code {
	denied := status == http.StatusForbidden || status == http.StatusTooManyRequests
	switch {
	case status == http.StatusUnauthorized, (denied || status == http.StatusNotFound) && isAnonymous(h):
		return runner.CredentialRejected
	case status == http.StatusTooManyRequests,
		denied && (h.Get(github.HeaderRateRemaining) == "0" || h.Get("Retry-After") != "" ||
			strings.HasSuffix(documentation, "secondary-rate-limits") ||
			strings.HasSuffix(documentation, "#abuse-rate-limits")):
		return runner.RateLimited
	case denied:
		return runner.CredentialForbidden
	case status == http.StatusNotFound, 300 <= status && status < 400:
		return runner.TargetNotFound
	case status < 300, status >= 500:
		return runner.Unavailable
	}
	return runner.Internal
}

// isAnonymous: only who has no account is limited to 60 calls an hour; a broken credential counts as none.
func isAnonymous(h http.Header) bool { return h.Get(github.HeaderRateLimit) == "60" }

// limitWait returns how long GitHub wants no call, 0 if it does not say.
func limitWait(h http.Header) time.Duration {
	if d := retryAfter(h); d > 0 {
		return d
	}
	reset, err := strconv.ParseUint(h.Get(github.HeaderRateReset), 10, 32)
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
	return time.Duration(seconds) * time.Second
}

func response(h http.Header) runner.Response {
	return runner.Response{
		RequestID:          h.Get(github.HeaderRequestID),
		RateLimitRemaining: h.Get(github.HeaderRateRemaining),
	}
}

// notable lists the headers that tell an operator which right is missing.
func notable(h http.Header) string {
	var b strings.Builder
	for _, name := range []string{
		"X-GitHub-Request-Id", "X-OAuth-Scopes", "X-Accepted-OAuth-Scopes", "X-Accepted-GitHub-Permissions",
		"X-GitHub-SSO", "Location", "Retry-After",
		"X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "X-RateLimit-Resource",
	} {
		if values := h.Values(name); len(values) > 0 {
			fmt.Fprintf(&b, ", %s %q", strings.ToLower(name), values[0])
		}
	}
	return b.String()
}

// remedy says what to do about a refusal, the most likely cause first.
func remedy(code runner.Code, h http.Header, message string, t runner.Target) string {
	says := func(s string) bool { return strings.Contains(strings.ToLower(message), s) }
	switch code {
	case runner.CredentialRejected:
		if isAnonymous(h) {
			return "GitHub took the call for an anonymous one; the credential is broken: put a new one into the secret"
		}
		return "the credential is unknown, expired or revoked, or its owner left: put a new one into the secret"
	case runner.CredentialForbidden:
		switch {
		case h.Get("X-GitHub-SSO") != "" || says("saml"):
			return "authorize the credential for the organization's SSO; the link in x-github-sso works for an hour"
		case says("ip allow list"):
			return "put the function's egress address on GitHub's IP allow list"
		case says("forbids access"):
			return "the organization's policy refuses this kind of token, or its lifetime: use another"
		}
		return need(t)
	case runner.TargetNotFound:
		if h.Get("Location") != "" {
			return "it was renamed or transferred; redirects are not followed: ask for the new name"
		}
		return "check the spelling; GitHub also answers so where the credential cannot see the target: " + need(t)
	case runner.RateLimited:
		return "wait; the limit is shared by all that use this credential's owner"
	case runner.Unavailable:
		return "GitHub fails or is overloaded: see https://www.githubstatus.com"
	}
	return "see GITHUB_API_VERSION and GITHUB_API_URL; else this is an error of the service"
}

// need names the right that the target takes: https://docs.github.com/rest/actions/self-hosted-runners.
func need(t runner.Target) string {
	scope, _, _ := strings.Cut(t.Path(), "/")
	switch scope {
	case "orgs":
		return `the credential needs admin:org (classic) or "Self-hosted runners: write" (fine-grained, approved by the organization), and its user must own the organization`
	case "repos":
		return `the credential needs repo (classic) or "Administration: write" (fine-grained), and its user must administer the repository`
	}
	return "the credential needs manage_runners:enterprise and must be a classic one: enterprises take no other"
}

func unavailable(credential secret.Value, format string, args ...any) *runner.Error {
	return refuse(runner.Unavailable, credential, format, args...)
}

// refuse makes an Error whose text for the operator cannot hold the credential, not even if GitHub, or what answers in
// its place, echoes it.
func refuse(code runner.Code, credential secret.Value, format string, args ...any) *runner.Error {
	text := fmt.Sprintf(format, args...)
	if c := credential.Reveal(); c != "" {
		text = strings.ReplaceAll(text, c, "[redacted]")
	}
	return runner.Refuse(code, fmt.Errorf("%.2000s", text))
}
