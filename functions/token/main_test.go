package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"runner-token-broker/internal/local/github"
	"runner-token-broker/internal/local/lambda"
	"runner-token-broker/internal/local/network"
	"runner-token-broker/internal/local/output"
	"runner-token-broker/internal/local/secretsmanager"
	"runner-token-broker/internal/secret"
)

// The test binary is the function too: the local Lambda starts it again.
func TestMain(m *testing.M) {
	if os.Getenv("AWS_LAMBDA_RUNTIME_API") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// stack is the whole function between a GitHub, a Secrets Manager and a Lambda that stand in.
type stack struct {
	*testing.T
	github  *github.Server
	secrets *secretsmanager.Server
	lambda  *lambda.Service
	output  output.Buffer // everything that the function prints
	pats    []string
	calls   int          // of invoke
	chatty  bool         // more lines than one an invocation are expected
	reads   atomic.Int32 // connections to Secrets Manager
}

type settings map[string]string

// start starts the function; it ends with the test, which then fails if a secret was printed anywhere, or a call to
// GitHub was not one that GitHub describes.
func start(t *testing.T, with settings, options ...func(*lambda.Function)) *stack {
	t.Helper()
	credentials := aws.Credentials{AccessKeyID: "AKIDLOCAL", SecretAccessKey: "local", SessionToken: "session"}
	s := &stack{T: t, github: github.New(), secrets: secretsmanager.New("us-east-1", credentials)}
	gh, sm := httptest.NewServer(s.github), httptest.NewUnstartedServer(s.secrets)
	sm.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.reads.Add(1)
		}
	}
	sm.Start()
	t.Cleanup(gh.Close)
	t.Cleanup(sm.Close)
	s.rotate()

	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f := lambda.Function{Path: path, Credentials: credentials, Output: &s.output, Env: settings{
		"GITHUB_SECRET_ID":                 "github-pat",
		"ALLOWED_TARGETS":                  "orgs/acme repos/acme/* enterprises/acme-corp",
		"GITHUB_API_URL":                   gh.URL,
		"AWS_ENDPOINT_URL_SECRETS_MANAGER": sm.URL,
		"AWS_MAX_ATTEMPTS":                 "1", // the SDK's own retries would be waited for
	}}
	maps.Copy(f.Env, with)
	for _, o := range options {
		o(&f)
	}
	if s.lambda, err = lambda.Start(f); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.lambda.Close()
		printed := s.output.String()
		for _, pat := range s.pats {
			if strings.Contains(printed, pat) {
				t.Error("the credential was printed")
			}
		}
		for _, token := range s.github.Tokens() {
			if strings.Contains(printed, token.Reveal()) {
				t.Error("a token was printed")
			}
		}
		if lines := strings.Count(printed, "\n"); s.calls > 0 && lines != s.calls && !s.chatty {
			t.Errorf("%d lines for %d invocations", lines, s.calls)
		}
		if v := s.github.Violations(); len(v) > 0 {
			t.Errorf("violations of GitHub's description: %q", v)
		}
		if t.Failed() {
			t.Logf("the function printed:\n%s", printed)
		}
	})
	return s
}

// rotate puts a new PAT, which alone is good, into the secret.
func (s *stack) rotate() {
	pat := fmt.Sprintf("ghp_thisMustNotBeSeen%d", len(s.pats))
	s.pats = append(s.pats, pat)
	s.secrets.Put("github-pat", secret.New(pat))
	s.github.Rotate(secret.New(pat))
}

type reply struct {
	StatusCode int
	Headers    map[string]string
	Body       string

	ErrorType, ErrorMessage string

	Token, Code, RequestID string // of the body, or of the result
	line                   map[string]any
}

// invoke invokes the function with an event. That there is one line for it, and no other, is checked at the end too.
func (s *stack) invoke(event string) reply {
	s.Helper()
	s.calls++
	result, err := s.lambda.Invoke(s.Context(), []byte(event))
	if err != nil {
		s.Fatal(err)
	}
	var r reply
	if err := json.Unmarshal(result.Payload, &r); err != nil {
		s.Fatalf("%q: %v", result.Payload, err)
	}
	var body struct{ Token, Code string }
	json.Unmarshal(result.Payload, &body)
	json.Unmarshal([]byte(r.Body), &body)
	r.Token, r.Code, r.RequestID = body.Token, body.Code, result.RequestID
	ctx, cancel := context.WithTimeout(s.Context(), 10*time.Second)
	defer cancel()
	// The line comes by a pipe of its own and may be later than the answer.
	line, err := s.output.Wait(ctx, "(?m)^.*"+result.RequestID+".*\n")
	if err != nil {
		s.Error(err)
	}
	if err := json.Unmarshal([]byte(line), &r.line); err != nil || r.line["requestId"] != result.RequestID {
		s.Errorf("invocation %s has no line of JSON: %v", result.RequestID, err)
	}
	return r
}

func (s *stack) direct(target string, fields ...string) reply {
	s.Helper()
	return s.invoke(`{"target":"` + target + `"` + strings.Join(append([]string{""}, fields...), ",") + `}`)
}

// post is a request through an HTTP API with an IAM authorizer, by the route of the target's scope.
func (s *stack) post(target string) reply {
	s.Helper()
	sample := map[string]struct{ file, target string }{
		"orgs":        {"org", "orgs/acme"},
		"repos":       {"repo", "repos/acme/widgets"},
		"enterprises": {"enterprise", "enterprises/acme-corp"},
	}[strings.Split(target, "/")[0]]
	event, err := os.ReadFile("../../events/http-api-v2-" + sample.file + "-registration-token.json")
	if err != nil {
		s.Fatal(err)
	}
	return s.invoke(strings.ReplaceAll(string(event), sample.target, target))
}

func (s *stack) gitHubAnswers(a *github.Answer) {
	s.github.OnRequest(func(*http.Request) *github.Answer { return a })
}

func TestSampleEventsEndInATokenOrTheirCode(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../events/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no events: %v", err)
	}
	s := start(t, nil)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			event, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			r := s.invoke(string(event))
			// The file's name says so; what each asks for is the handler's test.
			refused := strings.Contains(file, "refused") || strings.Contains(file, "sam-local")
			issued := r.Token != "" || r.Headers["Content-Type"] == "text/plain" && strings.HasPrefix(r.Body, "A")
			if issued == refused || (r.line["outcome"] == "issued") == refused || (r.ErrorType+r.Code != "") != refused {
				t.Errorf("%+v", r)
			}
		})
	}
	t.Run("SAM local", func(t *testing.T) {
		sam := start(t, settings{"AWS_SAM_LOCAL": "true"})
		event, err := os.ReadFile("../../events/sam-local-org-registration-token.json")
		if err != nil {
			t.Fatal(err)
		}
		if r := sam.invoke(string(event)); r.StatusCode != 201 || r.Token == "" {
			t.Errorf("%+v", r)
		}
	})
}

// Every row of the contract's table of codes, over HTTP and by direct invocation.
func TestEachCodeThroughTheWholeFunction(t *testing.T) {
	t.Parallel()
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("a redirect was followed")
	}))
	t.Cleanup(other.Close)
	refusal := func(status int, header ...string) *github.Answer {
		a := github.Refusal(status, "GitHub's own words")
		a.Header = http.Header{}
		for i := 0; i < len(header); i += 2 {
			a.Header[header[i]] = []string{header[i+1]}
		}
		return a
	}
	answer := func(status int, body string) *github.Answer {
		return &github.Answer{Status: status, Body: body, Broken: true}
	}
	put := func(text string) func(*stack) {
		return func(s *stack) { s.secrets.Put("github-pat", secret.New(text)) }
	}
	read := func(a secretsmanager.Answer) func(*stack) { return func(s *stack) { s.secretsAnswer(a) } }
	for _, test := range []struct {
		name   string
		target string
		github *github.Answer
		secret func(*stack)
		status int
		code   string
		cause  string
		wait   bool // Retry-After is known
		unsent bool // no call was made, so the line names no credential
	}{
		{name: "malformed", target: "orgs/ACME", status: 400, code: "InvalidRequest", cause: "malformed-request",
			unsent: true},
		{name: "not allowed", target: "orgs/other", status: 403, code: "TargetNotAllowed", cause: "not-allowed",
			unsent: true},
		{name: "404", github: refusal(404), status: 404, code: "TargetNotFound", cause: "not-found"},
		{name: "renamed", github: refusal(301, "Location", other.URL), status: 404, code: "TargetNotFound", cause: "renamed"},
		{name: "307", github: refusal(307, "Location", other.URL), status: 404, code: "TargetNotFound", cause: "renamed"},
		{name: "no secret", secret: func(s *stack) { s.secrets.Delete("github-pat") }, status: 500, code: "CredentialMissing",
			cause: "secret-missing", unsent: true},
		{name: "no value", secret: func(s *stack) { s.secrets.PutNothing("github-pat") }, status: 500,
			code: "CredentialMissing", cause: "secret-missing", unsent: true},
		{name: "marked for deletion", secret: func(s *stack) { s.secrets.ScheduleDeletion("github-pat") }, status: 500,
			code: "CredentialMissing", cause: "secret-missing", unsent: true},
		{name: "empty", secret: put(" "), status: 500, code: "CredentialMissing", cause: "secret-malformed", unsent: true},
		{name: "binary", secret: func(s *stack) { s.secrets.PutBinary("github-pat", []byte{1}) }, status: 500,
			code: "CredentialMissing", cause: "secret-malformed", unsent: true},
		{name: "no token in the secret", secret: put(`{"pat":"x"}`), status: 500, code: "CredentialMissing",
			cause: "secret-malformed", unsent: true},
		{name: "PEM", secret: put("-----BEGIN KEY-----\nx"), status: 500, code: "CredentialMissing",
			cause: "secret-malformed", unsent: true},
		{name: "control", secret: put("a\nb"), status: 500, code: "CredentialMissing", cause: "secret-malformed",
			unsent: true},
		{name: "NAME=PAT", secret: put("PAT=ghp_thisMustNotBeSeen"), status: 500, code: "CredentialMissing",
			cause: "secret-malformed", unsent: true},
		{name: "AWS denies", secret: read(secretsmanager.AccessDenied), status: 500, code: "CredentialMissing",
			cause: "secret-denied", unsent: true},
		{name: "KMS denies", secret: read(secretsmanager.KMSDenied), status: 500, code: "CredentialMissing",
			cause: "secret-denied", unsent: true},
		{name: "401", github: refusal(401), status: 502, code: "CredentialRejected", cause: "expired-or-revoked"},
		{name: "placeholder", secret: put("REPLACE_ME"), status: 502, code: "CredentialRejected", cause: "not-a-token"},
		{name: "anonymous", github: refusal(403, "X-Ratelimit-Limit", "60", "X-Ratelimit-Remaining", "0"), status: 502,
			code: "CredentialRejected", cause: "anonymous"},
		{name: "403", github: refusal(403), status: 502, code: "CredentialForbidden", cause: "forbidden"},
		{name: "429", github: refusal(429, "Retry-After", "77"), status: 503, code: "RateLimited", cause: "secondary-limit",
			wait: true},
		{name: "primary limit", github: refusal(403, "X-Ratelimit-Remaining", "0"), status: 503, code: "RateLimited",
			cause: "primary-limit", wait: true},
		{name: "500", github: refusal(500), status: 503, code: "Unavailable", cause: "github-unavailable"},
		{name: "502", github: answer(502, "<html>"), status: 503, code: "Unavailable", cause: "github-unavailable"},
		{name: "reset", github: &github.Answer{Fault: network.Reset}, status: 503, code: "Unavailable", cause: "network"},
		{name: "cut off", github: &github.Answer{Fault: network.Truncate}, status: 503, code: "Unavailable",
			cause: "network"},
		{name: "50 MB", github: answer(201, `{"token":"x"`+strings.Repeat(" ", 50<<20)), status: 503, code: "Unavailable",
			cause: "no-token"},
		{name: "HTML", github: answer(201, "<html>"), status: 503, code: "Unavailable", cause: "no-token"},
		{name: "no token", github: answer(201, "{}"), status: 503, code: "Unavailable", cause: "no-token"},
		{name: "expired", github: answer(201, `{"token":"x","expires_at":"2020-01-22T12:13:35.123-08:00"}`), status: 503,
			code: "Unavailable", cause: "no-token"},
		{name: "AWS throttles", secret: read(secretsmanager.Throttled), status: 503, code: "Unavailable",
			cause: "secrets-manager-unavailable", unsent: true},
		{name: "AWS is down", secret: read(secretsmanager.Down), status: 503, code: "Unavailable",
			cause: "secrets-manager-unavailable", unsent: true},
		{name: "400", github: refusal(400), status: 500, code: "Internal", cause: "api-version"},
		{name: "410", github: refusal(410), status: 500, code: "Internal", cause: "api-version"},
		{name: "422", github: answer(422, `{"message":"GitHub's own words"}`), status: 500, code: "Internal",
			cause: "unexpected-answer"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := start(t, settings{"SECRET_TTL": "1ns"})
			s.gitHubAnswers(test.github)
			if test.secret != nil {
				test.secret(s)
			}
			target := cmp.Or(test.target, "orgs/acme")
			over := s.post(target)
			if over.StatusCode != test.status || over.Code != test.code || over.Token != "" ||
				over.line["outcome"] != test.code || over.line["cause"] != test.cause {
				t.Errorf("%+v, want %d %s, %s", over, test.status, test.code, test.cause)
			}
			if name, ok := over.line["credential"]; ok == test.unsent || ok && name != "pat" {
				t.Errorf("credential %v", name)
			}
			if wait := over.Headers["Retry-After"]; test.wait != (wait != "") {
				t.Errorf("Retry-After %q", wait)
			}
			direct := s.direct(target)
			if direct.ErrorType != test.code || direct.ErrorMessage == "" || direct.Token != "" ||
				direct.line["outcome"] != test.code || direct.line["cause"] != test.cause {
				t.Errorf("%+v, want the error %s", direct, test.code)
			}
			for _, text := range []string{over.Body, direct.ErrorMessage} {
				for _, foreign := range []string{"GitHub's own words", "arn:", "Exception", "127.0.0.1"} {
					if strings.Contains(text, foreign) {
						t.Errorf("the caller is told %q", text)
					}
				}
			}
			if n := len(s.lambda.Processes()); n != 1 {
				t.Errorf("%d processes, want the first to live on", n)
			}
		})
	}
}

func (s *stack) secretsAnswer(f secretsmanager.Answer) {
	s.secrets.OnRead(func(string) *secretsmanager.Answer { return &f })
}

func TestHTTPEventWithoutIdentityIsRefused(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	event, err := os.ReadFile("../../events/http-api-v2-refused-unauthenticated.json")
	if err != nil {
		t.Fatal(err)
	}
	if r := s.invoke(string(event)); r.StatusCode != 403 || r.Code != "CallerNotAuthenticated" {
		t.Errorf("%+v", r)
	}
	if len(s.github.Requests()) != 0 || s.secrets.Reads() != 0 {
		t.Error("it reached GitHub or the secret")
	}
}

func TestTokensAreReused(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	first, second := s.post("orgs/acme"), s.direct("orgs/acme")
	if first.Token == "" || first.Token != second.Token || second.line["source"] != "cache" {
		t.Errorf("%+v\n%+v", first, second)
	}
	if fresh := s.direct("orgs/acme", `"fresh":true`); fresh.Token != first.Token { // it is seconds old
		t.Errorf("%+v", fresh)
	}
	if r := s.direct("orgs/acme", `"kind":"remove-token"`); r.Token == first.Token || r.Token == "" {
		t.Errorf("%+v", r)
	}
	if got := len(s.github.Requests()); got != 2 {
		t.Errorf("GitHub was called %d times, want 2", got)
	}
}

func TestRotatedSecretIsPickedUpAtTheFirst401(t *testing.T) {
	t.Parallel()
	s := start(t, settings{"TOKEN_MIN_LIFE": "1h"})
	s.post("orgs/acme")
	s.rotate()
	if r := s.post("orgs/acme"); r.StatusCode != 201 {
		t.Errorf("%+v", r)
	}
	if got := len(s.github.Requests()); got != 3 || s.secrets.Reads() != 2 {
		t.Errorf("%d calls and %d reads, want 3 and 2", got, s.secrets.Reads())
	}
	s.github.Rotate() // revoked, and the secret unchanged
	for range 3 {
		if r := s.post("orgs/acme"); r.Code != "CredentialRejected" {
			t.Errorf("%+v", r)
		}
	}
	if got := len(s.github.Requests()); got != 4 {
		t.Errorf("%d calls: the rejected credential was sent again", got)
	}
}

// A connection that died while the environment was frozen would cost all the time that a read has.
func TestNoConnectionToSecretsManagerIsKept(t *testing.T) {
	t.Parallel()
	s := start(t, settings{"SECRET_TTL": "1ns", "TOKEN_MIN_LIFE": "1h"})
	for range 3 {
		s.post("orgs/acme")
	}
	if got := s.reads.Load(); got != 3 {
		t.Errorf("%d connections for 3 reads", got)
	}
}

func TestOutageIsBridged(t *testing.T) {
	t.Parallel()
	s := start(t, settings{"SECRET_TTL": "1ns"})
	s.gitHubAnswers(&github.Answer{Life: 20 * time.Minute}) // less than TOKEN_MIN_LIFE
	first := s.post("orgs/acme")
	for _, outage := range []func(){
		func() { s.gitHubAnswers(github.Refusal(500, "")) },
		func() { s.gitHubAnswers(github.Refusal(429, "")) },
		func() { s.gitHubAnswers(nil); s.secretsAnswer(secretsmanager.Throttled) },
	} {
		outage()
		if r := s.post("orgs/acme"); r.Token != first.Token || r.line["source"] != "stale" || r.line["error"] == nil {
			t.Errorf("%+v", r)
		}
	}
	s.secretsAnswer(secretsmanager.AccessDenied)
	if r := s.post("orgs/acme"); r.Code != "CredentialMissing" {
		t.Errorf("%+v", r)
	}
}

func TestHangingGitHubLeavesTimeToAnswer(t *testing.T) {
	t.Parallel()
	s := start(t, nil, func(f *lambda.Function) { f.Timeout = 3 * time.Second })
	s.gitHubAnswers(&github.Answer{Fault: network.Hang})
	for range 2 { // Lambda would end a later answer
		if r := s.post("orgs/acme"); r.StatusCode != 503 || r.Code != "Unavailable" {
			t.Errorf("%+v", r)
		}
	}
	s.gitHubAnswers(nil)
	if r := s.post("orgs/acme"); r.StatusCode != 201 || len(s.lambda.Processes()) != 1 {
		t.Errorf("the process did not live on: %+v", r)
	}
}

func TestHangingSecretsManagerLeavesTimeToAnswer(t *testing.T) {
	t.Parallel()
	s := start(t, nil, func(f *lambda.Function) { f.Timeout = 3 * time.Second })
	s.secretsAnswer(secretsmanager.Answer{Fault: network.Hang})
	if r := s.post("orgs/acme"); r.StatusCode != 503 || r.Code != "Unavailable" {
		t.Errorf("%+v", r)
	}
}

func TestEnvironmentsServeSideBySide(t *testing.T) {
	t.Parallel()
	s := start(t, nil, func(f *lambda.Function) { f.Environments = 3 })
	var waiting atomic.Int32
	all := make(chan struct{})
	s.github.OnRequest(func(*http.Request) *github.Answer {
		if waiting.Add(1) == 3 {
			close(all)
		}
		<-all // until there are three
		return nil
	})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			result, err := s.lambda.Invoke(t.Context(), []byte(`{"target":"orgs/acme"}`))
			if err != nil || result.FunctionError != "" {
				t.Errorf("%s, %v", result.Payload, err)
			}
		})
	}
	wg.Wait()
}

func TestTheOneLineIsWrittenAtEveryLogLevel(t *testing.T) {
	t.Parallel()
	for _, level := range []string{"", "TRACE", "INFO", "WARN", "ERROR", "FATAL"} {
		t.Run(level, func(t *testing.T) {
			t.Parallel()
			s := start(t, settings{"AWS_LAMBDA_LOG_LEVEL": level})
			if r := s.direct("orgs/acme"); r.line["outcome"] != "issued" {
				t.Errorf("%+v", r)
			}
			s.direct("orgs/other") // the library's own line about the error is not at these levels
		})
	}
}

func TestBadSettingsEndTheStartWithEveryProblem(t *testing.T) {
	t.Parallel()
	s := start(t, settings{"GITHUB_SECRET_ID": "", "ALLOWED_TARGETS": "orgs/ACME", "SECRET_TTL": "soon"})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := s.lambda.Ready(ctx); err == nil || ctx.Err() != nil {
		t.Fatalf("Ready: %v", err)
	}
	var line map[string]any
	if err := json.Unmarshal([]byte(s.output.String()), &line); err != nil {
		t.Fatalf("printed %q: %v", s.output.String(), err)
	}
	for _, want := range []string{"GITHUB_SECRET_ID", "ALLOWED_TARGETS", "SECRET_TTL"} {
		if !strings.Contains(fmt.Sprint(line["error"]), want) {
			t.Errorf("%v lacks %s", line, want)
		}
	}
}
