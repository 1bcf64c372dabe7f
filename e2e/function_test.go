// Package e2e_test runs the built function, and what callers copy from examples/, against what this project did not
// write: Moto, the SAM CLI, AWS's mock of EC2's metadata service, shells. GitHub, API Gateway and Lambda are the
// stand-ins of internal/local.
package e2e_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"runner-token-broker/internal/local/apigateway"
	"runner-token-broker/internal/local/github"
	"runner-token-broker/internal/local/lambda"
	"runner-token-broker/internal/local/secretsmanager"
	"runner-token-broker/internal/local/sigv4"
	"runner-token-broker/internal/secret"
)

// function is the built function, serving behind an API Gateway and by direct invocation.
type function struct {
	url     string // of the API
	web     string // of GitHub, as runner_url begins
	github  *github.Server
	service *lambda.Service
}

const callerARN = "arn:aws:sts::123456789012:assumed-role/github-runner/i-0123456789abcdef0"

// secretsManager starts one that holds the PAT, and returns what tells the function of it.
func secretsManager(t *testing.T, pat secret.Value) (env map[string]string) {
	t.Helper()
	sm := secretsmanager.New(region, credentials)
	sm.Put("github-pat", pat)
	server := httptest.NewServer(sm)
	t.Cleanup(server.Close)
	return map[string]string{"GITHUB_SECRET_ID": "github-pat", "AWS_ENDPOINT_URL_SECRETS_MANAGER": server.URL}
}

// startFunction starts one environment of the function with a GitHub that knows the given PATs; env is added to its
// environment. When the test ends it must still be the same process, and must have printed no secret.
func startFunction(t *testing.T, pats []secret.Value, env map[string]string) *function {
	t.Helper()
	build := exec.CommandContext(t.Context(), "make", "local")
	build.Dir = ".."
	build.Env = withoutAWS()
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("make local: %v\n%s", err, out)
	}

	f := &function{github: github.New(pats...)}
	var printed bytes.Buffer
	t.Cleanup(func() {
		for _, v := range append(f.github.Tokens(), pats...) {
			if strings.Contains(printed.String(), v.Reveal()) {
				t.Errorf("the function printed the secret with the SHA-256 %s", v.SHA256())
			}
		}
		for _, violation := range f.github.Violations() {
			t.Errorf("against GitHub's description: %s", violation)
		}
		if t.Failed() {
			t.Logf("the function printed:\n%s", &printed)
		}
	})
	gh := httptest.NewServer(f.github)
	t.Cleanup(gh.Close)

	env = maps.Clone(env)
	env["ALLOWED_TARGETS"] = "orgs/acme,repos/acme/*,enterprises/acme-corp"
	env["GITHUB_API_URL"] = gh.URL
	service, err := lambda.Start(lambda.Function{
		Path:        filepath.Join("..", ".build", "local", "bootstrap"),
		Env:         env,
		Region:      region,
		Credentials: credentials,
		Output:      &printed,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		service.Close()
		if n := len(service.Processes()); n != 1 {
			t.Errorf("the function was started %d times, want once", n)
		}
	})
	api := httptest.NewServer(&apigateway.Gateway{
		Function:    service,
		Region:      region,
		Credentials: credentials,
		CallerARN:   callerARN,
	})
	t.Cleanup(api.Close)
	f.url, f.web, f.service = api.URL, gh.URL, service
	return f
}

type answer struct {
	status int
	body   []byte
}

// post makes one signed request. It asks for a token made now, so that GitHub is asked.
func (f *function) post(t *testing.T, path string) answer { return f.do(t, path, "no-cache") }

// postReusing makes one signed request that an earlier token may answer.
func (f *function) postReusing(t *testing.T, path string) answer { return f.do(t, path, "") }

func (f *function) do(t *testing.T, path, cacheControl string) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if cacheControl != "" {
		r.Header.Set("Cache-Control", cacheControl)
	}
	if err := sigv4.Sign(r, nil, credentials, region, "execute-api"); err != nil {
		t.Fatal(err)
	}
	return send(t, r)
}

func send(t *testing.T, r *http.Request) answer {
	t.Helper()
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, body}
}

var statusOf = map[string]int{
	"":                   http.StatusCreated,
	"CredentialMissing":  http.StatusInternalServerError,
	"CredentialRejected": http.StatusBadGateway,
	"Unavailable":        http.StatusServiceUnavailable,
}

// check wants a refusal with the given code, or a token if that is empty.
func (a answer) check(t *testing.T, situation, code string) {
	t.Helper()
	var body struct{ Code, Token string }
	if err := json.Unmarshal(a.body, &body); err != nil {
		t.Errorf("%s: %d %s: %v", situation, a.status, a.body, err)
		return
	}
	if a.status != statusOf[code] || body.Code != code || (body.Token != "") != (code == "") {
		t.Errorf("%s: %d %s, want %d %s", situation, a.status, a.body, statusOf[code], code)
	}
}

// newPATs returns n credentials that look like GitHub's and are none.
func newPATs(n int) []secret.Value {
	pats := make([]secret.Value, n)
	for i := range pats {
		pats[i] = secret.New("ghp_" + rand.Text() + "0123456789")
	}
	return pats
}
