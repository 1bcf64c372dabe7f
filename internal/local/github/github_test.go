package github_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"

	"runner-token-broker/internal/local/github"
	"runner-token-broker/internal/local/network"
	"runner-token-broker/internal/secret"
)

var pat = secret.New("ghp_good")

type stand struct {
	*github.Server
	url    string
	client *http.Client
}

func start(t *testing.T) stand {
	t.Helper()
	gh := github.New(pat)
	server := httptest.NewServer(gh)
	t.Cleanup(server.Close)
	client := server.Client()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return stand{gh, server.URL, client}
}

func (s stand) request(t *testing.T, path string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+pat.Reveal())
	r.Header.Set("Accept", "application/vnd.github+json")
	r.Header.Set("User-Agent", "runner-token-broker")
	r.Header.Set("X-GitHub-Api-Version", "2022-11-28")
	return r
}

func (s stand) do(t *testing.T, r *http.Request) (*http.Response, string) {
	t.Helper()
	resp, err := s.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

const org = "/orgs/acme/actions/runners/registration-token"

func TestTokenIsMadeForEveryKindOfTarget(t *testing.T) {
	t.Parallel()
	gh := start(t)
	seen := map[string]bool{}
	for _, base := range []string{"", "/api/v3"} {
		for _, target := range []string{
			"/orgs/acme", "/repos/acme/widgets.js", "/repos/actions/runners", "/enterprises/acme-corp",
		} {
			for _, kind := range []string{"registration-token", "remove-token"} {
				path := base + target + "/actions/runners/" + kind
				t.Run(path, func(t *testing.T) {
					resp, body := gh.do(t, gh.request(t, path))
					token := checkToken(t, resp, body)
					if seen[token] {
						t.Error("the token is not a new one")
					}
					seen[token] = true
				})
			}
		}
	}
	if v := gh.Violations(); v != nil {
		t.Errorf("violations: %q", v)
	}
	if n := len(gh.Tokens()); n != len(seen) {
		t.Errorf("Tokens has %d, want %d", n, len(seen))
	}
	first := github.Request{Method: "POST", Path: org, Authorization: pat.SHA256(), APIVersion: "2022-11-28"}
	if requests := gh.Requests(); len(requests) != 16 || requests[0] != first {
		t.Errorf("Requests has %d, the first %+v", len(requests), requests[0])
	}
}

// checkToken wants GitHub's answer to a request for a token, and returns the token.
func checkToken(t *testing.T, resp *http.Response, body string) string {
	t.Helper()
	var got struct {
		Token     string
		ExpiresAt string `json:"expires_at"`
	}
	if err := json.Unmarshal([]byte(body), &got); err != nil || resp.StatusCode != http.StatusCreated {
		t.Fatalf("%s %s", resp.Status, body)
	}
	if !regexp.MustCompile(`^A[A-Z0-9]{28}$`).MatchString(got.Token) {
		t.Errorf("token %q is not of GitHub's form", got.Token)
	}
	zone := regexp.MustCompile(`\.\d{3}[+-]\d\d:\d\d$`)
	if !zone.MatchString(got.ExpiresAt) || strings.HasSuffix(got.ExpiresAt, "+00:00") {
		t.Errorf("expires_at %q, want milliseconds and a zone that is not UTC", got.ExpiresAt)
	}
	at, err := time.Parse(time.RFC3339, got.ExpiresAt)
	if err != nil || time.Until(at).Round(time.Minute) != time.Hour {
		t.Errorf("expires_at %q, want an hour ahead", got.ExpiresAt)
	}
	for _, name := range []string{
		"X-Github-Request-Id", "X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset", "X-Ratelimit-Used",
		"X-Ratelimit-Resource", "X-Github-Api-Version-Selected", "X-Oauth-Scopes", "X-Accepted-Oauth-Scopes",
	} {
		if resp.Header.Get(name) == "" {
			t.Errorf("no %s", name)
		}
	}
	return got.Token
}

func TestVersionsAreGitHubs(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		path, version string
		want          int
	}{
		{org, "2022-11-28", 201},
		{org, "2026-03-10", 201},
		{org, "2020-01-01", 400},
		{"/api/v3" + org, "2022-11-28", 201},
		{"/api/v3" + org, "2026-03-10", 400},
	} {
		t.Run(test.version+test.path, func(t *testing.T) {
			t.Parallel()
			gh := start(t)
			r := gh.request(t, test.path)
			r.Header.Set("X-GitHub-Api-Version", test.version)
			resp, body := gh.do(t, r)
			if resp.StatusCode != test.want {
				t.Errorf("%s %s, want %d", resp.Status, body, test.want)
			}
			if got := resp.Header.Get("X-Github-Api-Version-Selected"); test.want == 201 && got != test.version {
				t.Errorf("selected %q", got)
			}
		})
	}
}

func TestRequestOutsideTheDescriptionIsAViolation(t *testing.T) {
	t.Parallel()
	path := func(p string) func(*http.Request) { return func(r *http.Request) { r.URL.Path = p } }
	escaped := func(p string) func(*http.Request) {
		return func(r *http.Request) { r.URL.Opaque = "//" + r.URL.Host + p }
	}
	set := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	add := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Add(name, value) }
	}
	for _, test := range []struct {
		name   string
		change func(*http.Request)
	}{
		{"unknown path", path("/users/acme")},
		{"trailing slash", path(org + "/")},
		{"empty name", path("/orgs//actions/runners/registration-token")},
		{"dots", path("/orgs/../actions/runners/registration-token")},
		{"escaped slash", escaped("/orgs/a%2Fb/actions/runners/registration-token")},
		{"escaped letter", escaped("/orgs/ac%6De/actions/runners/registration-token")},
		{"GET", func(r *http.Request) { r.Method = http.MethodGet }},
		{"upper case", path("/orgs/Acme/actions/runners/registration-token")},
		{"JIT", path("/orgs/acme/actions/runners/generate-jitconfig")},
		{"query", func(r *http.Request) { r.URL.RawQuery = "a=1" }},
		{"empty query", func(r *http.Request) { r.URL.ForceQuery = true }},
		{"body", func(r *http.Request) { r.Body, r.ContentLength = io.NopCloser(strings.NewReader("{}")), 2 }},
		{"no version", func(r *http.Request) { r.Header.Del("X-GitHub-Api-Version") }},
		{"two versions", add("X-GitHub-Api-Version", "2022-11-28")},
		{"go-github's accept", set("Accept", "application/vnd.github.v3+json")},
		{"two accepts", add("Accept", "application/json")},
		{"another user agent", set("User-Agent", "go-github")},
		{"a header of a caller", set("X-Forwarded-For", "10.0.0.1")},
		{"two authorizations", add("Authorization", "Bearer x")},
		{"below a wrong base", path("/api/v4" + org)},
		{"base in another place", path("/api/v3/api/v3" + org)},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			gh := start(t)
			r := gh.request(t, org)
			test.change(r)
			resp, _ := gh.do(t, r)
			v := gh.Violations()
			if resp.StatusCode != 599 || len(v) != 1 {
				t.Errorf("%s, %d violations, want 599 and 1", resp.Status, len(v))
			}
			if strings.Contains(strings.Join(v, ""), pat.Reveal()) {
				t.Error("the violation has the credential")
			}
		})
	}
}

func TestAnswerOutsideTheDescriptionIsAViolation(t *testing.T) {
	t.Parallel()
	const expiry = `"2020-01-22T12:13:35.123-08:00"`
	for _, test := range []struct {
		name   string
		answer github.Answer
		want   int
	}{
		{"as described", github.Answer{Status: 201, Body: `{"token":"A","expires_at":` + expiry + `}`}, 201},
		{"undescribed", github.Answer{Status: 503, Body: "<html>"}, 503},
		{"no expiry", github.Answer{Status: 201, Body: `{"token":"A"}`}, 599},
		{"numeric token", github.Answer{Status: 201, Body: `{"token":1,"expires_at":` + expiry + `}`}, 599},
		{"bad date", github.Answer{Status: 201, Body: `{"token":"A","expires_at":"tomorrow"}`}, 599},
		{"nothing", github.Answer{Status: 201}, 599},
		{"nothing, meant so", github.Answer{Status: 201, Broken: true}, 201},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			gh := start(t)
			gh.OnRequest(func(*http.Request) *github.Answer { return &test.answer })
			resp, _ := gh.do(t, gh.request(t, org))
			if v := gh.Violations(); resp.StatusCode != test.want || len(v) > 0 != (test.want == 599) {
				t.Errorf("%s, violations %q, want %d", resp.Status, v, test.want)
			}
		})
	}
}

func TestRefusalsAreGitHubs(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name                          string
		exists, target, authorization string
		status                        int
		message                       string
	}{
		{"good", "orgs/acme", "orgs/acme", "Bearer ghp_good", 201, ""},
		{"separator twice", "repos/actions/runners", "repos/actions/runners", "Bearer ghp_good", 201, ""},
		{"anonymous", "orgs/acme", "orgs/acme", "", 401, "Requires authentication"},
		{"another scheme", "orgs/acme", "orgs/acme", "token ghp_good", 401, "Requires authentication"},
		{"wrong credential", "orgs/acme", "orgs/acme", "Bearer ghp_bad", 401, "Bad credentials"},
		{"unknown target", "orgs/acme", "orgs/other", "Bearer ghp_good", 404, "Not Found"},
		{"another scope", "orgs/acme", "repos/acme/x", "Bearer ghp_good", 404, "Not Found"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			gh := start(t)
			gh.Restrict(test.exists)
			r := gh.request(t, "/"+test.target+"/actions/runners/remove-token")
			r.Header.Set("Authorization", test.authorization)
			if test.authorization == "" {
				r.Header.Del("Authorization")
			}
			resp, body := gh.do(t, r)
			var got struct{ Message string }
			json.Unmarshal([]byte(body), &got)
			if resp.StatusCode != test.status || got.Message != test.message {
				t.Errorf("%s %s, want %d %s", resp.Status, body, test.status, test.message)
			}
			if v := gh.Violations(); v != nil {
				t.Errorf("violations: %q", v)
			}
		})
	}
}

func TestRotationLeavesOneGoodCredential(t *testing.T) {
	t.Parallel()
	gh := start(t)
	gh.Rotate(secret.New("ghp_new"))
	if resp, _ := gh.do(t, gh.request(t, org)); resp.StatusCode != 401 {
		t.Errorf("the old credential: %s", resp.Status)
	}
	r := gh.request(t, org)
	r.Header.Set("Authorization", "Bearer ghp_new")
	if resp, _ := gh.do(t, r); resp.StatusCode != 201 {
		t.Errorf("the new credential: %s", resp.Status)
	}
}

func TestAnswersCanBeChanged(t *testing.T) {
	t.Parallel()
	answering := func(t *testing.T, a *github.Answer) stand {
		gh := start(t)
		gh.OnRequest(func(*http.Request) *github.Answer { return a })
		return gh
	}
	t.Run("headers", func(t *testing.T) {
		t.Parallel()
		limited := github.Refusal(403, "API rate limit exceeded")
		limited.Header = http.Header{"x-ratelimit-remaining": {"0"}, "X-Oauth-Scopes": nil}
		gh := answering(t, limited)
		resp, body := gh.do(t, gh.request(t, org))
		if resp.StatusCode != 403 || !strings.Contains(body, "API rate limit exceeded") {
			t.Errorf("%s %s", resp.Status, body)
		}
		if _, has := resp.Header["X-Oauth-Scopes"]; has || resp.Header.Get("X-Ratelimit-Remaining") != "0" ||
			resp.Header.Get("X-Ratelimit-Limit") != "5000" {
			t.Errorf("headers %v, want one changed and one removed", resp.Header)
		}
	})
	t.Run("life of a token", func(t *testing.T) {
		t.Parallel()
		gh := answering(t, &github.Answer{Life: 10 * time.Minute, Delay: time.Millisecond})
		for range 2 {
			_, body := gh.do(t, gh.request(t, org))
			var got struct {
				ExpiresAt time.Time `json:"expires_at"`
			}
			json.Unmarshal([]byte(body), &got)
			if time.Until(got.ExpiresAt).Round(time.Minute) != 10*time.Minute {
				t.Errorf("%s, want ten minutes", body)
			}
		}
		if tokens := gh.Tokens(); len(tokens) != 2 || tokens[0].Reveal() == tokens[1].Reveal() {
			t.Error("want a new token each time")
		}
	})
	t.Run("redirect", func(t *testing.T) {
		t.Parallel()
		gh := answering(t, &github.Answer{Status: 307, Header: http.Header{"Location": {"http://elsewhere.invalid/"}}})
		resp, _ := gh.do(t, gh.request(t, org))
		if resp.StatusCode != 307 || resp.Header.Get("Location") != "http://elsewhere.invalid/" {
			t.Errorf("%s %v", resp.Status, resp.Header)
		}
	})
	t.Run("no more", func(t *testing.T) {
		t.Parallel()
		gh := answering(t, github.Refusal(500, ""))
		gh.OnRequest(nil)
		if resp, _ := gh.do(t, gh.request(t, org)); resp.StatusCode != 201 {
			t.Errorf("%s", resp.Status)
		}
	})
}

// What the faults are is tested where they are made.
func TestNetworkFaultsReachTheClient(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name     string
		answer   github.Answer
		leaves   bool // the client, once its request has arrived
		answered bool // with a part of the body
	}{
		{name: "reset", answer: github.Answer{Fault: network.Reset}},
		{name: "hang", answer: github.Answer{Fault: network.Hang}, leaves: true},
		{name: "long delay", answer: github.Answer{Delay: time.Hour}, leaves: true},
		{name: "truncated token", answer: github.Answer{Fault: network.Truncate}, answered: true},
		{name: "truncated refusal", answer: github.Answer{Status: 503, Body: "no", Fault: network.Truncate},
			answered: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			gh := start(t)
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			gh.OnRequest(func(*http.Request) *github.Answer {
				if test.leaves {
					leave()
				}
				return &test.answer
			})
			resp, err := gh.client.Do(gh.request(t, org).WithContext(ctx))
			if (err == nil) != test.answered || errors.Is(err, context.Canceled) != test.leaves {
				t.Fatalf("Do = %v, want an answer: %t", err, test.answered)
			}
			if err != nil {
				return
			}
			defer resp.Body.Close()
			if _, err := io.ReadAll(resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("the body ends with %v, want it cut off", err)
			}
		})
	}
}

func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	gh := start(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { gh.Rotate(pat) })
		wg.Go(func() {
			if resp, err := gh.client.Do(gh.request(t, org)); err != nil {
				t.Error(err)
			} else {
				resp.Body.Close()
			}
		})
	}
	wg.Wait()
	if n := len(gh.Requests()); n != 8 {
		t.Errorf("%d requests, want 8", n)
	}
}

// TestDescriptionsAreSound would find a description that was damaged in copying.
func TestDescriptionsAreSound(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]int{"2022-11-28": 13, "2026-03-10": 13, "ghes-3.19": 12} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			doc, err := openapi3.NewLoader().LoadFromFile("testdata/github-runners-" + name + ".json")
			if err != nil {
				t.Fatal(err)
			}
			if err := doc.Validate(t.Context()); err != nil {
				t.Error(err)
			}
			if n := doc.Paths.Len(); n != want {
				t.Errorf("%d paths, want %d", n, want)
			}
		})
	}
}
