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
	gh := start(t)
	seen := map[string]bool{}
	for _, base := range []string{"", "/api/v3"} {
		for _, target := range []string{"/orgs/acme", "/repos/acme/widgets.js", "/repos/actions/runners", "/enterprises/acme-corp"} {
			for _, kind := range []string{"registration-token", "remove-token"} {
				path := base + target + "/actions/runners/" + kind
				resp, body := gh.do(t, gh.request(t, path))
				var got struct {
					Token     string
					ExpiresAt string `json:"expires_at"`
				}
				if err := json.Unmarshal([]byte(body), &got); err != nil || resp.StatusCode != http.StatusCreated {
					t.Fatalf("%s: %s %s", path, resp.Status, body)
				}
				if !regexp.MustCompile(`^A[A-Z0-9]{28}$`).MatchString(got.Token) || seen[got.Token] {
					t.Errorf("%s: token %q is not a new one of GitHub's form", path, got.Token)
				}
				seen[got.Token] = true
				if !regexp.MustCompile(`\.\d{3}[+-]\d\d:\d\d$`).MatchString(got.ExpiresAt) || strings.HasSuffix(got.ExpiresAt, "+00:00") {
					t.Errorf("%s: expires_at %q, want milliseconds and a zone that is not UTC", path, got.ExpiresAt)
				}
				if at, err := time.Parse(time.RFC3339, got.ExpiresAt); err != nil || time.Until(at).Round(time.Minute) != time.Hour {
					t.Errorf("%s: expires_at %q, want an hour ahead", path, got.ExpiresAt)
				}
				for _, name := range []string{"X-Github-Request-Id", "X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset", "X-Ratelimit-Used",
					"X-Ratelimit-Resource", "X-Github-Api-Version-Selected", "X-Oauth-Scopes", "X-Accepted-Oauth-Scopes"} {
					if resp.Header.Get(name) == "" {
						t.Errorf("%s: no %s", path, name)
					}
				}
			}
		}
	}
	if v := gh.Violations(); v != nil {
		t.Errorf("violations: %q", v)
	}
	if n := len(gh.Tokens()); n != len(seen) {
		t.Errorf("Tokens has %d, want %d", n, len(seen))
	}
	requests := gh.Requests()
	if len(requests) != 16 || requests[0] != (github.Request{Method: "POST", Path: org, Authorization: pat.SHA256(), APIVersion: "2022-11-28"}) {
		t.Errorf("Requests has %d, the first %+v", len(requests), requests[0])
	}
}

func TestVersionsAreGitHubs(t *testing.T) {
	gh := start(t)
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
		r := gh.request(t, test.path)
		r.Header.Set("X-GitHub-Api-Version", test.version)
		resp, body := gh.do(t, r)
		if resp.StatusCode != test.want {
			t.Errorf("%s %s: %s %s, want %d", test.path, test.version, resp.Status, body, test.want)
		}
		if got := resp.Header.Get("X-Github-Api-Version-Selected"); test.want == 201 && got != test.version {
			t.Errorf("%s %s: selected %q", test.path, test.version, got)
		}
	}
}

func TestRequestOutsideTheDescriptionIsAViolation(t *testing.T) {
	for name, change := range map[string]func(*http.Request){
		"unknown path":   func(r *http.Request) { r.URL.Path = "/users/acme" },
		"trailing slash": func(r *http.Request) { r.URL.Path += "/" },
		"empty name":     func(r *http.Request) { r.URL.Path = "/orgs//actions/runners/registration-token" },
		"dots":           func(r *http.Request) { r.URL.Path = "/orgs/../actions/runners/registration-token" },
		"escaped slash": func(r *http.Request) {
			r.URL.Opaque = "//" + r.URL.Host + "/orgs/a%2Fb/actions/runners/registration-token"
		},
		"an escaped letter": func(r *http.Request) {
			r.URL.Opaque = "//" + r.URL.Host + "/orgs/ac%6De/actions/runners/registration-token"
		},
		"GET":                   func(r *http.Request) { r.Method = http.MethodGet },
		"JIT":                   func(r *http.Request) { r.URL.Path = "/orgs/acme/actions/runners/generate-jitconfig" },
		"query":                 func(r *http.Request) { r.URL.RawQuery = "a=1" },
		"empty query":           func(r *http.Request) { r.URL.ForceQuery = true },
		"body":                  func(r *http.Request) { r.Body, r.ContentLength = io.NopCloser(strings.NewReader("{}")), 2 },
		"no version":            func(r *http.Request) { r.Header.Del("X-GitHub-Api-Version") },
		"two versions":          func(r *http.Request) { r.Header.Add("X-GitHub-Api-Version", "2022-11-28") },
		"go-github's accept":    func(r *http.Request) { r.Header.Set("Accept", "application/vnd.github.v3+json") },
		"two accepts":           func(r *http.Request) { r.Header.Add("Accept", "application/json") },
		"another user agent":    func(r *http.Request) { r.Header.Set("User-Agent", "go-github") },
		"a header of a caller":  func(r *http.Request) { r.Header.Set("X-Forwarded-For", "10.0.0.1") },
		"two authorizations":    func(r *http.Request) { r.Header.Add("Authorization", "Bearer x") },
		"below a wrong base":    func(r *http.Request) { r.URL.Path = "/api/v4" + org },
		"base in another place": func(r *http.Request) { r.URL.Path = "/api/v3/api/v3" + org },
	} {
		gh := start(t)
		r := gh.request(t, org)
		change(r)
		resp, _ := gh.do(t, r)
		v := gh.Violations()
		if resp.StatusCode != 599 || len(v) != 1 {
			t.Errorf("%s: %s, %d violations, want 599 and 1", name, resp.Status, len(v))
		}
		if strings.Contains(strings.Join(v, ""), pat.Reveal()) {
			t.Errorf("%s: the violation has the credential", name)
		}
	}
}

func TestAnswerOutsideTheDescriptionIsAViolation(t *testing.T) {
	good := `{"token":"A","expires_at":"2020-01-22T12:13:35.123-08:00"}`
	for name, test := range map[string]struct {
		answer github.Answer
		want   int
	}{
		"as described":      {github.Answer{Status: 201, Body: good}, 201},
		"undescribed":       {github.Answer{Status: 503, Body: "<html>"}, 503},
		"no expiry":         {github.Answer{Status: 201, Body: `{"token":"A"}`}, 599},
		"numeric token":     {github.Answer{Status: 201, Body: `{"token":1,"expires_at":"2020-01-22T12:13:35.123-08:00"}`}, 599},
		"bad date":          {github.Answer{Status: 201, Body: `{"token":"A","expires_at":"tomorrow"}`}, 599},
		"nothing":           {github.Answer{Status: 201}, 599},
		"nothing, meant so": {github.Answer{Status: 201, Broken: true}, 201},
	} {
		gh := start(t)
		gh.OnRequest(func(*http.Request) *github.Answer { return &test.answer })
		resp, _ := gh.do(t, gh.request(t, org))
		if v := gh.Violations(); resp.StatusCode != test.want || len(v) > 0 != (test.want == 599) {
			t.Errorf("%s: %s, violations %q, want %d", name, resp.Status, v, test.want)
		}
	}
}

func TestRefusalsAreGitHubs(t *testing.T) {
	gh := start(t)
	gh.Restrict("orgs/acme")
	for name, test := range map[string]struct {
		path, authorization string
		status              int
		message             string
	}{
		"anonymous":        {org, "", 401, "Requires authentication"},
		"another scheme":   {org, "token ghp_good", 401, "Requires authentication"},
		"wrong credential": {org, "Bearer ghp_bad", 401, "Bad credentials"},
		"unknown target":   {"/orgs/other/actions/runners/remove-token", "Bearer ghp_good", 404, "Not Found"},
		"another scope":    {"/repos/acme/x/actions/runners/remove-token", "Bearer ghp_good", 404, "Not Found"},
	} {
		r := gh.request(t, test.path)
		r.Header.Set("Authorization", test.authorization)
		if test.authorization == "" {
			r.Header.Del("Authorization")
		}
		resp, body := gh.do(t, r)
		var got struct{ Message string }
		json.Unmarshal([]byte(body), &got)
		if resp.StatusCode != test.status || got.Message != test.message {
			t.Errorf("%s: %s %s, want %d %s", name, resp.Status, body, test.status, test.message)
		}
	}
	if v := gh.Violations(); v != nil {
		t.Errorf("violations: %q", v)
	}
	gh.Restrict("repos/actions/runners") // a path in which the separator is there twice
	if resp, body := gh.do(t, gh.request(t, "/repos/actions/runners/actions/runners/remove-token")); resp.StatusCode != 201 {
		t.Errorf("repos/actions/runners: %s %s", resp.Status, body)
	}
	gh.Restrict("orgs/acme")
	gh.Rotate(secret.New("ghp_new"))
	if resp, _ := gh.do(t, gh.request(t, org)); resp.StatusCode != 401 {
		t.Errorf("the old credential after rotation: %s", resp.Status)
	}
	r := gh.request(t, org)
	r.Header.Set("Authorization", "Bearer ghp_new")
	if resp, _ := gh.do(t, r); resp.StatusCode != 201 {
		t.Errorf("the new credential after rotation: %s", resp.Status)
	}
}

func TestAnswersCanBeChanged(t *testing.T) {
	gh := start(t)
	limited := github.Refusal(403, "API rate limit exceeded")
	limited.Header = http.Header{"x-ratelimit-remaining": {"0"}, "X-Oauth-Scopes": nil}
	gh.OnRequest(func(*http.Request) *github.Answer { return limited })
	resp, body := gh.do(t, gh.request(t, org))
	if _, has := resp.Header["X-Oauth-Scopes"]; resp.StatusCode != 403 || resp.Header.Get("X-Ratelimit-Remaining") != "0" || has ||
		resp.Header.Get("X-Ratelimit-Limit") != "5000" || !strings.Contains(body, "API rate limit exceeded") {
		t.Errorf("refusal: %s %v %s", resp.Status, resp.Header, body)
	}

	short := &github.Answer{Life: 10 * time.Minute, Delay: time.Millisecond}
	gh.OnRequest(func(*http.Request) *github.Answer { return short })
	for range 2 { // the one Answer makes a new token each time
		_, body = gh.do(t, gh.request(t, org))
		var got struct {
			ExpiresAt time.Time `json:"expires_at"`
		}
		if json.Unmarshal([]byte(body), &got); time.Until(got.ExpiresAt).Round(time.Minute) != 10*time.Minute {
			t.Errorf("short life: %s", body)
		}
	}
	if tokens := gh.Tokens(); len(tokens) != 2 || tokens[0].Reveal() == tokens[1].Reveal() {
		t.Error("want two tokens")
	}

	gh.OnRequest(func(*http.Request) *github.Answer {
		return &github.Answer{Status: 307, Header: http.Header{"Location": {"http://elsewhere.invalid/"}}}
	})
	if resp, _ := gh.do(t, gh.request(t, org)); resp.StatusCode != 307 || resp.Header.Get("Location") != "http://elsewhere.invalid/" {
		t.Errorf("redirect: %s %v", resp.Status, resp.Header)
	}

	gh.OnRequest(func(*http.Request) *github.Answer {
		return &github.Answer{Status: 201, Body: strings.Repeat(" ", 50<<20), Broken: true}
	})
	if _, body := gh.do(t, gh.request(t, org)); len(body) != 50<<20 {
		t.Errorf("50 MB: %d bytes", len(body))
	}
	gh.OnRequest(nil)
	if resp, _ := gh.do(t, gh.request(t, org)); resp.StatusCode != 201 {
		t.Errorf("without a hook: %s", resp.Status)
	}
}

func TestFaultsAreTheNetworks(t *testing.T) {
	gh := start(t)
	gh.OnRequest(func(*http.Request) *github.Answer { return &github.Answer{Fault: github.Reset} })
	if resp, err := gh.client.Do(gh.request(t, org)); err == nil {
		t.Errorf("reset: %s", resp.Status)
	}
	gh.OnRequest(func(*http.Request) *github.Answer { return &github.Answer{Fault: github.Truncate} })
	resp, err := gh.client.Do(gh.request(t, org))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != 201 || !errors.Is(err, io.ErrUnexpectedEOF) || len(body) == 0 {
		t.Errorf("truncate: %s, %d bytes, %v", resp.Status, len(body), err)
	}
	for _, answer := range []github.Answer{{Fault: github.Hang}, {Delay: time.Hour}} {
		arrived := make(chan bool, 1)
		gh.OnRequest(func(*http.Request) *github.Answer { arrived <- true; return &answer })
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-arrived; cancel() }()
		if _, err := gh.client.Do(gh.request(t, org).WithContext(ctx)); !errors.Is(err, context.Canceled) {
			t.Errorf("hang: %v, want it to last until the client leaves", err)
		}
	}
}

func TestConcurrentUse(t *testing.T) {
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
	for _, name := range []string{"2022-11-28", "2026-03-10", "ghes-3.19"} {
		doc, err := openapi3.NewLoader().LoadFromFile("testdata/github-runners-" + name + ".json")
		if err != nil {
			t.Fatal(err)
		}
		if err := doc.Validate(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if n := doc.Paths.Len(); n != 12 {
			t.Errorf("%s has %d paths, want 12", name, n)
		}
	}
}
