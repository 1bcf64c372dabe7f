// Package rig is what the end-to-end tests share: the built function between stand-ins, and the programs of others that
// they start. GitHub, API Gateway and Lambda are the stand-ins of internal/local.
package rig

import (
	"crypto/rand"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"

	"runner-token-broker/internal/local/apigateway"
	"runner-token-broker/internal/local/github"
	"runner-token-broker/internal/local/lambda"
	"runner-token-broker/internal/local/output"
	"runner-token-broker/internal/local/secretsmanager"
	"runner-token-broker/internal/local/sigv4"
	"runner-token-broker/internal/secret"
)

// Region is where everything runs.
const Region = "eu-central-1"

// CallerARN is the caller's, whatever its credentials.
const CallerARN = "arn:aws:sts::123456789012:assumed-role/github-runner/" + InstanceID

// RoleCredentials are those of a role. They have a session token.
func RoleCredentials() aws.Credentials {
	c := UserCredentials()
	c.SessionToken = "IQoJb3JpZ2luX2VjEXAMPLE+/="
	return c
}

// UserCredentials are the access keys of a user.
func UserCredentials() aws.Credentials {
	return aws.Credentials{
		AccessKeyID: "AKIAIOSFODNN7EXAMPLE", SecretAccessKey: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
	}
}

// Function is the built function: it serves behind an API Gateway, and by direct invocation.
type Function struct {
	URL       string // of the API
	GitHubURL string // as runner_url begins
	GitHub    *github.Server
	Lambda    *lambda.Service
	Printed   *output.Buffer // what the function has printed: its log
}

var build = sync.OnceValues(func() ([]byte, error) {
	cmd := exec.Command("make", "local")
	cmd.Dir = Root
	cmd.Env = Environ()
	return cmd.CombinedOutput()
})

// NewFunction starts the function with a secret that holds a PAT which GitHub knows.
func NewFunction(t *testing.T) *Function {
	t.Helper()
	pats := NewPATs(1)
	sm := secretsmanager.New(Region, RoleCredentials())
	sm.Put("github-pat", pats[0])
	return StartFunction(t, pats, map[string]string{
		"GITHUB_SECRET_ID": "github-pat", "AWS_ENDPOINT_URL_SECRETS_MANAGER": Serve(t, sm),
	})
}

// StartFunction starts one environment of the function with a GitHub that knows the given PATs; env is added to its
// environment. When the test ends it must still be the same process, and must have printed no secret.
func StartFunction(t *testing.T, pats []secret.Value, env map[string]string) *Function {
	t.Helper()
	if out, err := build(); err != nil {
		t.Fatalf("make local: %v\n%s", err, out)
	}
	f := &Function{GitHub: github.New(pats...), Printed: new(output.Buffer)}
	t.Cleanup(func() {
		for _, v := range append(f.GitHub.Tokens(), pats...) {
			if strings.Contains(f.Printed.String(), v.Reveal()) {
				t.Errorf("the function printed the secret with the SHA-256 %s", v.SHA256())
			}
		}
		for _, violation := range f.GitHub.Violations() {
			t.Errorf("against GitHub's description: %s", violation)
		}
		if t.Failed() {
			t.Logf("the function printed:\n%s", f.Printed)
		}
	})
	f.GitHubURL = Serve(t, f.GitHub)

	env = maps.Clone(env)
	env["ALLOWED_TARGETS"] = "orgs/acme,repos/acme/*,enterprises/acme-corp"
	env["GITHUB_API_URL"] = f.GitHubURL
	var err error
	f.Lambda, err = lambda.Start(lambda.Function{
		Path:        filepath.Join(Root, ".build", "local", "bootstrap"),
		Env:         env,
		Region:      Region,
		Credentials: RoleCredentials(),
		Output:      f.Printed,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.Lambda.Close()
		if n := len(f.Lambda.Processes()); n != 1 {
			t.Errorf("the function was started %d times, want once", n)
		}
	})
	f.URL = Serve(t, f.API(RoleCredentials()))
	return f
}

// API is an API Gateway in front of the function. It knows one caller.
func (f *Function) API(c aws.Credentials) http.Handler {
	return &apigateway.Gateway{Function: f.Lambda, Region: Region, Credentials: c, CallerARN: CallerARN}
}

// Serve serves on loopback until the test ends, and returns the URL.
func Serve(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// Answer is what came back.
type Answer struct {
	Status int
	Body   []byte
}

// Post makes one signed request for a fresh token.
func (f *Function) Post(t *testing.T, path string) Answer {
	t.Helper()
	return f.do(t, path, http.Header{"Cache-Control": {"no-cache"}})
}

// PostReusing makes one signed request that an earlier token may answer.
func (f *Function) PostReusing(t *testing.T, path string) Answer {
	t.Helper()
	return f.do(t, path, nil)
}

func (f *Function) do(t *testing.T, path string, header http.Header) Answer {
	t.Helper()
	r := NewPost(t, f.URL+path, "", header)
	if err := sigv4.Sign(r, nil, RoleCredentials(), Region, "execute-api"); err != nil {
		t.Fatal(err)
	}
	return Send(t, r)
}

// Invoke invokes the function directly, and returns its result or its error.
func (f *Function) Invoke(t *testing.T, event string) string {
	t.Helper()
	result, err := f.Lambda.Invoke(t.Context(), []byte(event))
	if err != nil {
		t.Fatal(err)
	}
	return string(result.Payload)
}

// NewPost returns a request.
func NewPost(t *testing.T, url, body string, header http.Header) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	maps.Copy(r.Header, header)
	return r
}

// Send makes one request.
func Send(t *testing.T, r *http.Request) Answer {
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
	return Answer{resp.StatusCode, body}
}

// Check wants a refusal with the status and the code; without a code it wants a token.
func (a Answer) Check(t *testing.T, status int, code string) {
	t.Helper()
	var body struct{ Code, Token string }
	if err := json.Unmarshal(a.Body, &body); err != nil {
		t.Errorf("%d %s: %v", a.Status, a.Body, err)
		return
	}
	if a.Status != status || body.Code != code || (body.Token != "") != (code == "") {
		t.Errorf("%d %s, want %d %s", a.Status, a.Body, status, code)
	}
}

// NewPATs returns credentials that look like GitHub's.
func NewPATs(n int) []secret.Value {
	pats := make([]secret.Value, n)
	for i := range pats {
		pats[i] = secret.New("ghp_" + rand.Text() + "0123456789")
	}
	return pats
}
