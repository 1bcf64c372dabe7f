package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"runner-token-broker/internal/local/github"
	"runner-token-broker/internal/local/lambda"
	"runner-token-broker/internal/local/secretsmanager"
	"runner-token-broker/internal/secret"
)

func TestSharedTokensCostGitHubNothing(t *testing.T) {
	t.Parallel()
	var gitHub string
	s := start(t, settings{"SHARED_TOKENS_SECRET_ID": "shared-tokens"}, func(f *lambda.Function) {
		f.Environments, gitHub = 1, f.Env["GITHUB_API_URL"]
	})
	s.secrets.PutNothing("shared-tokens")

	first := s.direct("orgs/acme") // nothing is shared yet
	if first.Token == "" || first.line["source"] != "github" || first.line["shared_passed_over"] == nil {
		t.Errorf("%+v", first)
	}
	s.calls++
	result, err := s.lambda.Invoke(t.Context(), []byte(`{"refresh":true}`))
	var refreshed struct {
		Written    int
		PassedOver []string `json:"passed_over"`
	}
	if err != nil || json.Unmarshal(result.Payload, &refreshed) != nil || refreshed.Written != 2 ||
		len(refreshed.PassedOver) != 1 {
		t.Fatalf("%s, %v", result.Payload, err)
	}
	calls, reads := len(s.github.Requests()), s.secrets.Reads()

	// Another environment, with the same secret and the same GitHub.
	other := start(t, settings{"SHARED_TOKENS_SECRET_ID": "shared-tokens", "GITHUB_API_URL": gitHub})
	other.secrets.Put("shared-tokens", s.secrets.Text("shared-tokens"))
	r := other.direct("orgs/acme")
	if r.Token == "" || r.Token == first.Token || r.line["source"] != "shared" || r.line["SharedTokensAge"] == nil {
		t.Errorf("%+v", r)
	}
	if other.secrets.Reads() != 1 {
		t.Errorf("%d reads, want one", other.secrets.Reads())
	}
	if again := other.direct("orgs/acme"); again.Token != r.Token || again.line["source"] != "cache" {
		t.Errorf("%+v", again)
	}
	if len(s.github.Requests()) != calls || s.secrets.Reads() != reads {
		t.Error("GitHub, or the first environment's secrets, were asked")
	}

	// It is a cache, never a dependency.
	denied := start(t, settings{"SHARED_TOKENS_SECRET_ID": "shared-tokens"})
	denied.secrets.OnRead(func(id string) *secretsmanager.Answer {
		if id == "shared-tokens" {
			return &secretsmanager.AccessDenied
		}
		return nil
	})
	r = denied.direct("orgs/acme")
	if r.Token == "" || r.line["shared_passed_over"] != "it cannot be read: secret-denied" {
		t.Errorf("%+v", r)
	}
}

func TestRefreshNeedsASecret(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	if r := s.invoke(`{"refresh":true}`); r.ErrorType != "InvalidRequest" {
		t.Errorf("%+v", r)
	}
}

// aToken of a bad secret must not be handed out. No token may be printed.
const aToken = "AATHISMUSTNOTBESEEN"

// document is the text of a shared secret with the entries, which was due for a refresh.
func document(fields map[string]any, entries ...map[string]any) string {
	d := map[string]any{"written_at": time.Now().Add(-20 * time.Minute), "tokens": entries}
	maps.Copy(d, fields)
	text, err := json.Marshal(d)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// entry is one of it that is good, for orgs/acme, but for the fields given.
func entry(fields map[string]any) map[string]any {
	e := map[string]any{
		"target": "orgs/acme", "kind": "registration-token", "token": aToken,
		"made_at": time.Now().Add(-20 * time.Minute), "expires_at": time.Now().Add(40 * time.Minute),
	}
	maps.Copy(e, fields)
	return e
}

// sharing starts the function with orgs/acme and orgs/other, whose shared tokens are in the text.
func sharing(t *testing.T, text string, options ...func(*lambda.Function)) *stack {
	t.Helper()
	s := start(t, settings{"SHARED_TOKENS_SECRET_ID": "shared-tokens", "ALLOWED_TARGETS": "orgs/acme orgs/other"},
		options...)
	s.pats = append(s.pats, aToken)
	s.secrets.Put("shared-tokens", secret.New(text))
	return s
}

// shared returns what the shared secret holds, by target.
func (s *stack) shared() (tokens map[string]string) {
	s.Helper()
	var d struct {
		Tokens []struct{ Target, Token string }
	}
	if err := json.Unmarshal([]byte(s.secrets.Text("shared-tokens").Reveal()), &d); err != nil {
		s.Errorf("the shared secret: %v", err)
	}
	tokens = map[string]string{}
	for _, t := range d.Tokens {
		tokens[t.Target] = t.Token
	}
	return tokens
}

func (s *stack) isGitHubs(token string) bool {
	return slices.ContainsFunc(s.github.Tokens(), func(t secret.Value) bool { return t.Reveal() == token })
}

func TestABadSharedSecretIsHarmlessAndTheLineSaysWhatIsBad(t *testing.T) {
	t.Parallel()
	type fields = map[string]any
	now := time.Now()
	later := now.AddDate(9, 0, 0)
	const (
		unread  = "it cannot be read: secret-malformed"
		noJSON  = "it is malformed, or of another version's layout"
		foreign = "it was written by something else"
	)
	for name, test := range map[string]struct {
		text string
		says string // "": its token is good
	}{
		"binary":      {"", unread},
		"other JSON":  {`{"token":"` + aToken + `"}`, foreign},
		"null":        {"null", foreign},
		"a bare text": {aToken, noJSON},
		"a newer format with more fields": {
			document(fields{"version": 2}, entry(fields{"labels": []string{"x"}})), ""},
		"a newer format with another layout": {
			document(fields{"tokens": fields{"orgs/acme": aToken}}), noJSON},
		"a newer format with another kind": {
			document(nil, entry(fields{"kind": "generate-jitconfig"})), "it has no token for the target"},
		"a token past its end": {
			document(nil, entry(fields{"made_at": now.Add(-time.Hour), "expires_at": now})), "its token has ended"},
		"a token that ends in the far future": {
			document(nil, entry(fields{"expires_at": later})), "its token's times cannot be right"},
		"a token of the far future": {
			document(nil, entry(fields{"made_at": later, "expires_at": later.Add(time.Hour)})),
			"its token's times cannot be right"},
		"written in the far future": {document(fields{"written_at": later}, entry(nil)), ""},
		"a token of another GitHub": {
			document(nil, entry(fields{"runner_url": "https://github.example.com/acme"})), "its token is another GitHub's"},
		"a token that is none": {document(nil, entry(fields{"token": aToken + "\n"})), "its token is malformed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := sharing(t, test.text)
			if test.text == "" {
				s.secrets.PutBinary("shared-tokens", []byte{1})
			}
			r := s.post("orgs/acme")
			if r.StatusCode != 201 || (r.Token == aToken) != (test.says == "") ||
				test.says != "" && (!s.isGitHubs(r.Token) || r.line["shared_passed_over"] != test.says) {
				t.Errorf("%+v, want it passed over: %q", r, test.says)
			}
			r = s.invoke(`{"refresh":true}`)
			overwritten := slices.Contains([]string{unread, noJSON, foreign}, test.says)
			if r.line["outcome"] != "refreshed" || (r.line["shared_passed_over"] == test.says) != overwritten {
				t.Errorf("%+v", r)
			}
			if held := s.shared(); len(held) != 2 || !s.isGitHubs(held["orgs/acme"]) || !s.isGitHubs(held["orgs/other"]) {
				t.Errorf("the refresh wrote tokens of %d targets, or a bad one", len(held))
			}
			if n := len(s.lambda.Processes()); n != 1 {
				t.Errorf("%d processes, want the first to live on", n)
			}
		})
	}
}

func TestASharedTokenForATargetNoLongerAllowedIsNotUsed(t *testing.T) {
	t.Parallel()
	s := sharing(t, document(nil, entry(map[string]any{"target": "orgs/gone"}), entry(nil)))
	if r := s.post("orgs/gone"); r.StatusCode != 403 || r.Code != "TargetNotAllowed" || r.line["cause"] != "not-allowed" {
		t.Errorf("%+v", r)
	}
	if len(s.github.Requests())+s.secrets.Reads() != 0 {
		t.Error("it reached GitHub or a secret")
	}
	// One that fails keeps its old entry, but not one that nobody may have.
	s.github.OnRequest(func(r *http.Request) *github.Answer {
		if strings.Contains(r.URL.Path, "/acme/") {
			return github.Refusal(403, "no")
		}
		return nil
	})
	s.invoke(`{"refresh":true}`)
	if held := s.shared(); len(held) != 2 || held["orgs/acme"] != aToken || !s.isGitHubs(held["orgs/other"]) {
		t.Errorf("%d targets", len(held))
	}
}

func TestTheCredentialsSecretIsNotTakenForTheSharedTokens(t *testing.T) {
	t.Parallel()
	const arn = "arn:aws:secretsmanager:us-east-1:123456789012:secret:github-pat"
	for name, with := range map[string]settings{
		"the same ARN":      {"GITHUB_SECRET_ID": arn + "-AbCdEf", "SHARED_TOKENS_SECRET_ID": arn + "-AbCdEf"},
		"the same name":     {"SHARED_TOKENS_SECRET_ID": "github-pat"},
		"a name and an ARN": {"SHARED_TOKENS_SECRET_ID": arn + "-AbCdEf"},
		"an ARN cut short":  {"GITHUB_SECRET_ID": arn + "-AbCdEf", "SHARED_TOKENS_SECRET_ID": arn},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, with)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := s.lambda.Ready(ctx); err == nil || ctx.Err() != nil {
				t.Fatalf("Ready: %v", err)
			}
			const says = "SHARED_TOKENS_SECRET_ID: is the secret with the credential"
			if printed := s.output.String(); !strings.Contains(printed, says) {
				t.Errorf("printed %q", printed)
			}
			if s.secrets.Text("github-pat").Reveal() != s.pats[0] || s.secrets.Reads() != 0 {
				t.Error("the credential was read or overwritten")
			}
		})
	}
}

// Secrets Manager stores 65,536 bytes, and the function 60 KiB: what it read may be more than what it writes.
func TestAFullSharedSecretIsReadAndMadeSmaller(t *testing.T) {
	t.Parallel()
	var targets []string
	var entries []map[string]any
	for {
		target := fmt.Sprintf("orgs/a%03d", len(targets))
		e := entry(map[string]any{"target": target, "token": fmt.Sprint(aToken, len(targets))})
		if len(document(nil, append(entries, e)...)) > 64<<10 {
			break
		}
		targets, entries = append(targets, target), append(entries, e)
	}
	text := document(nil, entries...)
	s := sharing(t, text+strings.Repeat(" ", 64<<10-len(text)), func(f *lambda.Function) {
		f.Env["ALLOWED_TARGETS"], f.Timeout = strings.Join(targets, ","), 8*time.Second // a refresh has 4 of them
		f.Env["AWS_MAX_ATTEMPTS"] = "3"
	})
	// As far away as AWS: the SDK cuts off, and tries again, a long answer that comes before net/http is done with the
	// request (aws/aws-sdk-go-v2#2737).
	s.secrets.OnRead(func(string) *secretsmanager.Answer { return &secretsmanager.Answer{Delay: 50 * time.Millisecond} })
	for _, n := range []int{0, len(targets) - 1} {
		if r := s.post(targets[n]); r.Token != fmt.Sprint(aToken, n) || r.line["source"] != "shared" {
			t.Errorf("%+v", r)
		}
	}
	r := s.invoke(`{"refresh":true}`)
	done, _ := r.line["refreshed"].(map[string]any)
	written, _ := done["written"].(float64)
	dropped, _ := done["dropped"].(float64)
	if r.line["outcome"] != "refreshed" || r.line["level"] != "WARN" || dropped == 0 ||
		int(written+dropped) != len(targets) {
		t.Errorf("%+v: %v", r.line["outcome"], r.line["error"])
	}
	held, fresh := s.shared(), 0
	for _, token := range held {
		if s.isGitHubs(token) {
			fresh++
		}
	}
	if size := len(s.secrets.Text("shared-tokens").Reveal()); size > 60<<10 || len(held) != int(written) ||
		fresh != len(s.github.Tokens()) || fresh == 0 {
		t.Errorf("%d bytes of %d tokens, %d of them new: GitHub made %d", size, len(held), fresh, len(s.github.Tokens()))
	}
}

// For a hundred refreshes in a row, or twenty where something fails: there is one set of calls to GitHub, the secret is
// written once or not at all, and each answer says why.
func TestACallerWhoRefreshesInALoopIsHarmless(t *testing.T) {
	t.Parallel()
	denied := func(ids ...string) func(id string) *secretsmanager.Answer {
		return func(id string) *secretsmanager.Answer {
			if slices.Contains(ids, id) {
				return &secretsmanager.AccessDenied
			}
			return nil
		}
	}
	gitHub := func(status int) func(*stack) {
		return func(s *stack) { s.gitHubAnswers(github.Refusal(status, "no")) }
	}
	for name, test := range map[string]struct {
		prepare func(*stack)
		code    string
		cause   string
		calls   int // to GitHub at most
	}{
		"nothing is denied": {prepare: func(*stack) {}, calls: 2},
		"the shared secret is denied": {
			func(s *stack) { s.secrets.OnRead(denied("shared-tokens")) }, "CredentialMissing", "secret-denied", 0},
		"the credential is denied": {
			func(s *stack) { s.secrets.OnRead(denied("github-pat")) }, "CredentialMissing", "secret-denied", 0},
		"both secrets are denied": {func(s *stack) {
			s.secrets.OnRead(denied("github-pat", "shared-tokens"))
			s.secrets.OnWrite(denied("shared-tokens"))
		}, "CredentialMissing", "secret-denied", 0},
		"writing is denied": {
			func(s *stack) { s.secrets.OnWrite(denied("shared-tokens")) }, "CredentialMissing", "secret-denied", 2},
		"GitHub rejects": {gitHub(401), "CredentialRejected", "expired-or-revoked", 2},
		"GitHub forbids": {gitHub(403), "CredentialForbidden", "forbidden", 2},
		"GitHub limits":  {gitHub(429), "RateLimited", "secondary-limit", 2},
		"GitHub is down": {gitHub(500), "Unavailable", "github-unavailable", 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := sharing(t, document(nil, entry(nil)))
			test.prepare(s)
			before, begin := s.secrets.Text("shared-tokens"), time.Now()
			times := 100
			if test.code != "" {
				times = 20
			}
			for n := range times {
				r := s.invoke(`{"refresh":true}`)
				if r.ErrorType != test.code || test.code != "" && (r.line["outcome"] != test.code ||
					r.line["cause"] != test.cause || r.ErrorMessage == "" || r.line["error"] == nil) {
					t.Fatalf("refresh %d: %+v", n, r)
				}
				done, _ := r.line["refreshed"].(map[string]any)
				if again := done["age"] != nil; test.code == "" && again != (n > 0) {
					t.Fatalf("refresh %d: %v", n, done)
				}
				if n == 0 && test.code == "" {
					before = s.secrets.Text("shared-tokens")
				}
			}
			if s.secrets.Text("shared-tokens") != before {
				t.Error("the shared secret was overwritten")
			}
			// A refresh that failed may try again after a minute.
			n, most := len(s.github.Requests()), test.calls*(1+int(time.Since(begin)/time.Minute))
			if n > most || (n > 0) != (most > 0) {
				t.Errorf("%d calls to GitHub, want %d", n, most)
			}
			if n := len(s.lambda.Processes()); n != 1 {
				t.Errorf("%d processes", n)
			}
		})
	}
}

// Each of the two environments cannot know of the other, until one has written.
func TestTwoEnvironmentsThatRefreshAtOnceLeaveOneWholeSet(t *testing.T) {
	t.Parallel()
	s := sharing(t, document(nil, entry(nil)), func(f *lambda.Function) { f.Environments = 2 })
	var waiting atomic.Int32
	all := make(chan struct{})
	s.github.OnRequest(func(*http.Request) *github.Answer {
		if waiting.Add(1) == 4 {
			close(all)
		}
		<-all // until both have asked for both
		return nil
	})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			result, err := s.lambda.Invoke(t.Context(), []byte(`{"refresh":true}`))
			if err != nil || result.FunctionError != "" || !strings.Contains(string(result.Payload), `"written":2`) {
				t.Errorf("%s, %v", result.Payload, err)
			}
		})
	}
	wg.Wait()
	if held := s.shared(); len(held) != 2 || !s.isGitHubs(held["orgs/acme"]) || !s.isGitHubs(held["orgs/other"]) {
		t.Errorf("%d targets", len(held))
	}
}

func TestARefreshOverHTTPIsARequestLikeAnyOther(t *testing.T) {
	t.Parallel()
	file, err := os.ReadFile("../../events/http-api-v2-org-registration-token.json")
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		fields map[string]any
		status int
	}{
		"in the body":         {map[string]any{"body": `{"refresh":true}`}, 201},
		"beside the body":     {map[string]any{"refresh": true}, 201},
		"on a path":           {map[string]any{"rawPath": "/refresh", "body": `{"refresh":true}`}, 400},
		"without an identity": {map[string]any{"requestContext": map[string]any{}, "refresh": true}, 403},
		"without a context":   {map[string]any{"requestContext": nil, "refresh": true}, 403},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var event map[string]any
			if err := json.Unmarshal(file, &event); err != nil {
				t.Fatal(err)
			}
			maps.Copy(event, test.fields)
			text, err := json.Marshal(event)
			if err != nil {
				t.Fatal(err)
			}
			s := sharing(t, document(nil))
			before := s.secrets.Text("shared-tokens")
			if r := s.invoke(string(text)); r.StatusCode != test.status || (r.Token != "") != (test.status == 201) ||
				r.line["entry"] != "http" || r.line["refreshed"] != nil {
				t.Errorf("%+v", r)
			}
			if s.secrets.Text("shared-tokens") != before {
				t.Error("the shared tokens were refreshed")
			}
		})
	}
}
