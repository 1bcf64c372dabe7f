package handler

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-lambda-go/lambda/messages"
	"github.com/aws/aws-lambda-go/lambdacontext"

	"runner-token-broker/internal/runner"
	"runner-token-broker/internal/secret"
)

const token = "AABFTHISMUSTNOTBELOGGED"

// issuer records what it is asked for, and answers what it is told.
type issuer struct {
	requests []runner.Request
	token    runner.Token
	err      error
	before   func(context.Context)
}

func (i *issuer) Issue(ctx context.Context, r runner.Request) (runner.Token, error) {
	i.requests = append(i.requests, r)
	if i.before != nil {
		i.before(ctx)
	}
	return i.token, i.err
}

func (i *issuer) asked() string {
	if len(i.requests) != 1 {
		return fmt.Sprintf("%d requests", len(i.requests))
	}
	r := i.requests[0]
	s := r.Target.Path() + " " + string(r.Kind)
	if r.Fresh {
		s += " fresh"
	}
	return s
}

type answer struct {
	status  int               // HTTP; 0 of a direct invocation
	headers map[string]string // HTTP
	body    string            // or result
	err     error
	line    map[string]any // of the log
}

// invoke runs the handler as Lambda does. It fails the test unless exactly one line was logged, without the token.
func invoke(t *testing.T, h *Handler, event string) answer {
	t.Helper()
	var log bytes.Buffer
	h.Log = slog.New(slog.NewJSONHandler(&log, nil))
	ctx := lambdacontext.NewContext(t.Context(), &lambdacontext.LambdaContext{AwsRequestID: "request-1"})
	out, err := h.Invoke(ctx, []byte(event))
	a := answer{body: string(out), err: err}
	if strings.Count(log.String(), "\n") != 1 || json.Unmarshal(log.Bytes(), &a.line) != nil {
		t.Errorf("logged %q, want one line of JSON", log.String())
	}
	if strings.Contains(log.String(), token) {
		t.Errorf("the token is in the log: %s", log.String())
	}
	var reply gatewayReply
	if err == nil && json.Unmarshal(out, &reply) == nil && reply.StatusCode != 0 {
		a.status, a.headers, a.body = reply.StatusCode, reply.Headers, reply.Body
	}
	return a
}

func read(t *testing.T, name string) string {
	t.Helper()
	event, err := os.ReadFile(filepath.Join("../../events", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(event)
}

func good() *issuer {
	return &issuer{token: runner.Token{
		Value:     secret.New(token),
		ExpiresAt: time.Now().Add(time.Hour).UTC().Truncate(time.Second),
		RunnerURL: "https://github.com/acme",
		Source:    runner.FromGitHub,
		GitHub:    runner.Response{RequestID: "AB:CD", RateLimitRemaining: "4999"},
	}}
}

// events says what each file under events/ asks for, or how it is refused.
var events = map[string]string{
	"direct-enterprise.json":                         "enterprises/acme-corp registration-token",
	"direct-fresh.json":                              "repos/acme/widgets registration-token fresh",
	"direct-nulls.json":                              "orgs/acme registration-token",
	"direct-org-registration-token.json":             "orgs/acme registration-token",
	"direct-org.json":                                "orgs/acme registration-token",
	"direct-refused-empty-kind.json":                 "InvalidRequest",
	"direct-refused-no-target.json":                  "InvalidRequest",
	"direct-refused-unknown-field.json":              "InvalidRequest",
	"direct-refused-unknown-kind.json":               "InvalidRequest",
	"direct-refused-upper-case.json":                 "InvalidRequest",
	"direct-refused-target-not-allowed.json":         "orgs/other registration-token", // to the issuer's policy
	"direct-repo-remove-token.json":                  "repos/acme/widgets remove-token",
	"direct-repo.json":                               "repos/acme/widgets registration-token",
	"function-url-org-registration-token.json":       "orgs/acme registration-token",
	"function-url-refused-unauthenticated.json":      "CallerNotAuthenticated",
	"function-url-repo-remove-token.json":            "repos/acme/widgets remove-token",
	"function-url-text-plain.json":                   "orgs/acme registration-token",
	"http-api-v1-org-registration-token.json":        "orgs/acme registration-token",
	"http-api-v2-enterprise-registration-token.json": "enterprises/acme-corp registration-token",
	"http-api-v2-enterprise-remove-token.json":       "enterprises/acme-corp remove-token",
	"http-api-v2-named-stage.json":                   "repos/acme/widgets registration-token",
	"http-api-v2-no-cache.json":                      "orgs/acme registration-token fresh",
	"http-api-v2-org-registration-token.json":        "orgs/acme registration-token",
	"http-api-v2-org-remove-token.json":              "orgs/acme remove-token",
	"http-api-v2-query-and-body.json":                "orgs/acme registration-token",
	"http-api-v2-refused-dot-segments.json":          "InvalidRequest",
	"http-api-v2-refused-get.json":                   "InvalidRequest",
	"http-api-v2-refused-target-not-allowed.json":    "orgs/other registration-token",
	"http-api-v2-refused-trailing-slash.json":        "InvalidRequest",
	"http-api-v2-refused-unauthenticated.json":       "CallerNotAuthenticated",
	"http-api-v2-refused-upper-case.json":            "InvalidRequest",
	"http-api-v2-repo-registration-token.json":       "repos/acme/widgets registration-token",
	"http-api-v2-repo-remove-token.json":             "repos/acme/widgets remove-token",
	"http-api-v2-text-plain.json":                    "orgs/acme registration-token",
	"rest-api-v1-enterprise-registration-token.json": "enterprises/acme-corp registration-token",
	"rest-api-v1-no-cache.json":                      "orgs/acme registration-token fresh",
	"rest-api-v1-org-registration-token.json":        "orgs/acme registration-token",
	"rest-api-v1-refused-get.json":                   "InvalidRequest",
	"rest-api-v1-refused-unauthenticated.json":       "CallerNotAuthenticated",
	"rest-api-v1-refused-upper-case.json":            "InvalidRequest",
	"rest-api-v1-repo-remove-token.json":             "repos/acme/widgets remove-token",
	"rest-api-v1-text-plain.json":                    "orgs/acme registration-token",
	"sam-local-org-registration-token.json":          "CallerNotAuthenticated",
}

func TestSampleEventsAreUnderstood(t *testing.T) {
	files, err := filepath.Glob("../../events/*.json")
	if err != nil || len(files) != len(events) {
		t.Fatalf("%d events, %v; the table has %d", len(files), err, len(events))
	}
	for name, want := range events {
		i := good()
		a := invoke(t, &Handler{Issuer: i}, read(t, name))
		direct := strings.HasPrefix(name, "direct-")
		if (a.line["entry"] == "direct") != direct {
			t.Errorf("%s: entry %v", name, a.line["entry"])
		}
		if !strings.Contains(want, " ") {
			if a.line["outcome"] != want || len(i.requests) != 0 {
				t.Errorf("%s: %v, asked %q; want %s", name, a.line, i.asked(), want)
			}
			continue
		}
		if i.asked() != want || a.err != nil || a.line["outcome"] != "issued" {
			t.Errorf("%s asks for %q, %v; want %q", name, i.asked(), a.err, want)
		}
		if !direct && (a.status != 201 || a.line["caller"] == nil || a.line["source_ip"] == nil) {
			t.Errorf("%s: status %d, logged %v", name, a.status, a.line)
		}
		if plain := strings.Contains(name, "text-plain"); plain != (a.body == token) {
			t.Errorf("%s: body %q", name, a.body)
		}
	}
}

func TestSAMLocalNeedsNoIdentity(t *testing.T) {
	i := good()
	a := invoke(t, &Handler{Issuer: i, SAMLocal: true}, read(t, "sam-local-org-registration-token.json"))
	if a.status != 201 || i.asked() != "orgs/acme registration-token" {
		t.Errorf("%d %s", a.status, i.asked())
	}
}

func TestSuccessHasWhatCallersNeed(t *testing.T) {
	i := good()
	expires := i.token.ExpiresAt.Format("2006-01-02T15:04:05Z")
	check := func(body string) {
		t.Helper()
		var reply map[string]any
		if err := json.Unmarshal([]byte(body), &reply); err != nil {
			t.Fatal(err)
		}
		in, _ := reply["expires_in"].(float64)
		delete(reply, "expires_in")
		want := map[string]any{"token": token, "expires_at": expires, "runner_url": "https://github.com/acme"}
		if !reflect.DeepEqual(reply, want) || in < 3590 || in > 3600 {
			t.Errorf("reply %v, expires in %v; want %v", reply, in, want)
		}
	}
	a := invoke(t, &Handler{Issuer: i}, read(t, "http-api-v2-org-registration-token.json"))
	check(a.body)
	if want := map[string]string{"Content-Type": "application/json", "Cache-Control": "no-store"}; !maps.Equal(a.headers, want) {
		t.Errorf("headers %v", a.headers)
	}
	check(invoke(t, &Handler{Issuer: i}, read(t, "direct-org.json")).body)
	a = invoke(t, &Handler{Issuer: i}, read(t, "http-api-v2-text-plain.json"))
	if a.body != token || a.headers["Content-Type"] != "text/plain" || a.headers["Cache-Control"] != "no-store" {
		t.Errorf("plain: %v", a)
	}
}

func TestLogLineSaysWhoGotWhat(t *testing.T) {
	i := good()
	a := invoke(t, &Handler{Issuer: i}, read(t, "http-api-v2-repo-remove-token.json"))
	for _, key := range []string{"time", "duration_ms"} {
		if a.line[key] == nil {
			t.Errorf("no %s", key)
		}
		delete(a.line, key)
	}
	want := map[string]any{
		"level": "INFO", "msg": "token issued", "requestId": "request-1", "entry": "http",
		"caller":    "arn:aws:sts::123456789012:assumed-role/github-runner/i-0123456789abcdef0",
		"source_ip": "203.0.113.24", "target": "repos/acme/widgets", "kind": "remove-token", "outcome": "issued",
		"source": "github", "expires_at": i.token.ExpiresAt.Format(time.RFC3339), "token_sha256": secret.New(token).SHA256()[:12],
		"github_request_id": "AB:CD", "ratelimit_remaining": "4999",
	}
	if !reflect.DeepEqual(a.line, want) {
		t.Errorf("logged %v\nwant   %v", a.line, want)
	}

	i.token.Source, i.token.Outage = runner.FromStale, errors.New("GitHub is down")
	a = invoke(t, &Handler{Issuer: i}, read(t, "direct-org.json"))
	if a.line["level"] != "WARN" || a.line["source"] != "stale" || a.line["error"] != "GitHub is down" || a.line["caller"] != nil {
		t.Errorf("stale: %v", a.line)
	}
}

func TestEachCodeHasItsStatusAndItsName(t *testing.T) {
	for code, status := range map[runner.Code]int{
		runner.InvalidRequest: 400, runner.CallerNotAuthenticated: 403, runner.TargetNotAllowed: 403, runner.TargetNotFound: 404,
		runner.CredentialMissing: 500, runner.CredentialRejected: 502, runner.CredentialForbidden: 502,
		runner.RateLimited: 503, runner.Unavailable: 503, runner.Internal: 500, "Unheard": 500,
	} {
		e := runner.Refuse(code, errors.New("for the operator"))
		e.Message, e.RetryAfter = "for the caller", 1500*time.Millisecond
		e.GitHub.RequestID = "AB:CD"
		h := &Handler{Issuer: &issuer{err: fmt.Errorf("wrapped: %w", e)}}

		for _, file := range []string{"http-api-v2-org-registration-token.json", "rest-api-v1-org-registration-token.json", "function-url-text-plain.json"} {
			a := invoke(t, h, read(t, file))
			want := fmt.Sprintf(`{"code":%q,"message":"for the caller","request_id":"request-1"}`, code)
			if a.status != status || a.body != want || a.headers["Content-Type"] != "application/json" || a.err != nil {
				t.Errorf("%s, %s: %d %s %v", code, file, a.status, a.body, a.headers)
			}
			if wait, ok := a.headers["Retry-After"]; ok != (status == 503) || ok && wait != "2" {
				t.Errorf("%s: Retry-After %q", code, wait)
			}
			if a.line["outcome"] != string(code) || a.line["error"] != "for the operator" || a.line["github_request_id"] != "AB:CD" || a.line["level"] == "INFO" {
				t.Errorf("%s: logged %v", code, a.line)
			}
		}

		a := invoke(t, h, read(t, "direct-org.json"))
		// By value: aws-lambda-go looks at the type itself.
		if want := (messages.InvokeResponse_Error{Type: string(code), Message: "for the caller"}); !reflect.DeepEqual(a.err, want) || a.body != "" {
			t.Errorf("%s: %#v", code, a.err)
		}
	}
}

func TestUnknownWaitIsNotMadeUp(t *testing.T) {
	a := invoke(t, &Handler{Issuer: &issuer{err: runner.Refuse(runner.RateLimited, nil)}}, read(t, "http-api-v2-org-registration-token.json"))
	if _, ok := a.headers["Retry-After"]; ok || a.status != 503 {
		t.Errorf("%d %v", a.status, a.headers)
	}
}

func TestUnclassifiedErrorsAndPanicsAreInternal(t *testing.T) {
	for name, i := range map[string]*issuer{
		"error": {err: errors.New("the cause")},
		"panic": {before: func(context.Context) { panic("the cause") }},
	} {
		a := invoke(t, &Handler{Issuer: i}, read(t, "http-api-v2-org-registration-token.json"))
		if a.status != 500 || !strings.Contains(a.body, `"code":"Internal","message":"internal error"`) || strings.Contains(a.body, "cause") {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
		if cause, _ := a.line["error"].(string); !strings.HasPrefix(strings.TrimPrefix(cause, "panic: "), "the cause") {
			t.Errorf("%s: logged %v", name, a.line)
		}
	}
}

// event makes an HTTP event of format 2.0 by an IAM caller.
func event(method, path, stage string, headers map[string]string) string {
	text, _ := json.Marshal(map[string]any{
		"version": "2.0", "rawPath": path, "headers": headers,
		"requestContext": map[string]any{
			"stage": stage, "http": map[string]any{"method": method, "sourceIp": "203.0.113.24"},
			"authorizer": map[string]any{"iam": map[string]any{"userArn": "arn:aws:iam::123456789012:user/x"}},
		},
	})
	return string(text)
}

func TestPathIsGitHubsByteForByte(t *testing.T) {
	const path = "/orgs/acme/actions/runners/registration-token"
	for _, test := range []struct{ path, stage, want string }{
		{path, "$default", "orgs/acme registration-token"},
		{path, "", "orgs/acme registration-token"},
		{"/v1" + path, "v1", "orgs/acme registration-token"},
		{path, "v1", "orgs/acme registration-token"}, // a REST API's path is without the stage
		{"/repos/actions/runners/actions/runners/remove-token", "$default", "repos/actions/runners remove-token"},

		{"/$default" + path, "$default", ""}, {"/v1" + path, "$default", ""}, {"/v1/v1" + path, "v1", ""}, {"/v2" + path, "v1", ""}, {"/v1/" + path, "v1", ""},
		{path + "/", "$default", ""}, {"/" + path, "$default", ""}, {"/" + path, "", ""}, {path[1:], "$default", ""}, {"", "$default", ""}, {"/", "$default", ""},
		{"/orgs/ac%6de/actions/runners/registration-token", "$default", ""},
		{"/orgs/acme%2Fx/actions/runners/registration-token", "$default", ""},
		{"/orgs/%2e%2e/actions/runners/registration-token", "$default", ""},
		{"/orgs/../actions/runners/registration-token", "$default", ""},
		{"/orgs/acme/../evil/actions/runners/registration-token", "$default", ""},
		{"/repos/acme/x/../../evil/r/actions/runners/registration-token", "$default", ""},
		{"/orgs//actions/runners/registration-token", "$default", ""},
		{"/orgs//acme/actions/runners/registration-token", "$default", ""},
		{"/orgs/acme;x=1/actions/runners/registration-token", "$default", ""},
		{"/orgs/acme?x=1/actions/runners/registration-token", "$default", ""},
		{path + "?x=1", "$default", ""}, {path + "#f", "$default", ""}, {path + ";x", "$default", ""}, {path + "\x00", "$default", ""},
		{"/orgs/acme\x00/actions/runners/registration-token", "$default", ""},
		{"/orgs/ACME/actions/runners/registration-token", "$default", ""},
		{"/ORGS/acme/actions/runners/registration-token", "$default", ""},
		{"/orgs/acme/Actions/runners/registration-token", "$default", ""},
		{"/orgs/acme/actions/runners/generate-jitconfig", "$default", ""},
		{"/orgs/acme/actions/runners/", "$default", ""}, {"/orgs/acme/actions/runners", "$default", ""},
		{"/users/acme/actions/runners/registration-token", "$default", ""},
		// A stage named so would make one path two targets.
		{"/repos/orgs/acme/actions/runners/registration-token", "repos", ""},
		{path, "orgs", ""},
	} {
		i := good()
		a := invoke(t, &Handler{Issuer: i}, event("POST", test.path, test.stage, nil))
		if test.want == "" {
			if a.status != 400 || len(i.requests) != 0 || a.line["outcome"] != "InvalidRequest" {
				t.Errorf("%q at stage %q: %d, asked %s", test.path, test.stage, a.status, i.asked())
			}
		} else if a.status != 201 || i.asked() != test.want {
			t.Errorf("%q at stage %q: %d %s, asked %q", test.path, test.stage, a.status, a.body, i.asked())
		}
	}
}

func TestRefusalOfUpperCaseGivesTheSpelling(t *testing.T) {
	a := invoke(t, &Handler{Issuer: good()}, event("POST", "/repos/Acme/Widgets/actions/runners/registration-token", "$default", nil))
	if !strings.Contains(a.body, `write \"repos/acme/widgets\"`) {
		t.Errorf("%s", a.body)
	}
}

func TestHeadersAreReadWithoutRegardToCase(t *testing.T) {
	const path = "/orgs/acme/actions/runners/registration-token"
	for _, test := range []struct {
		name, value  string
		plain, fresh bool
	}{
		{"accept", "text/plain", true, false}, {"ACCEPT", " Text/Plain ; q=0.1, application/json", true, false},
		{"Accept", "application/json, text/plain", false, false}, {"Accept", "text/*", false, false},
		{"Accept", "*/*", false, false}, {"Accept", "text/plainer", false, false},
		{"cache-control", "no-cache", false, true}, {"Cache-Control", "max-age=0, No-Cache", false, true},
		{"Cache-Control", "no-cachex", false, false}, {"Cache-Control", "no-store", false, false}, {"Pragma", "no-cache", false, false},
	} {
		i := good()
		a := invoke(t, &Handler{Issuer: i}, event("POST", path, "$default", map[string]string{test.name: test.value}))
		if (a.body == token) != test.plain || i.requests[0].Fresh != test.fresh {
			t.Errorf("%s: %s: plain %v, fresh %v", test.name, test.value, a.body == token, i.requests[0].Fresh)
		}
	}
}

// Of a REST API's two maps of headers the one with all values counts, unless it is not there.
func TestHeadersOfFormat10(t *testing.T) {
	for maps, plain := range map[string]bool{
		`"headers":{"accept":"text/plain"}`:                                                     true,
		`"headers":{"accept":"text/plain"},"multiValueHeaders":null`:                            true,
		`"headers":{"accept":"text/plain"},"multiValueHeaders":{}`:                              true,
		`"headers":{"Accept":"text/plain"},"multiValueHeaders":{"Accept":["*/*","text/plain"]}`: false,
		`"headers":{"Accept":"*/*"},"multiValueHeaders":{"aCCept":["text/plain","*/*"]}`:        true,
	} {
		a := invoke(t, &Handler{Issuer: good()}, `{"path":"/orgs/acme/actions/runners/registration-token","httpMethod":"POST",`+maps+
			`,"requestContext":{"stage":"v1","identity":{"userArn":"arn:x","sourceIp":"203.0.113.24"}}}`)
		if a.status != 201 || (a.body == token) != plain {
			t.Errorf("%s: %d %s", maps, a.status, a.body)
		}
	}
}

func TestRefusalsComeInOrder(t *testing.T) {
	bad := strings.ReplaceAll(event("GET", "/nowhere", "$default", nil), "userArn", "other")
	if a := invoke(t, &Handler{Issuer: good()}, bad); a.status != 403 || a.line["outcome"] != "CallerNotAuthenticated" {
		t.Errorf("no identity and bad form: %d %v", a.status, a.line)
	}
	i := &issuer{err: runner.Refuse(runner.TargetNotAllowed, nil)}
	if a := invoke(t, &Handler{Issuer: i}, event("GET", "/nowhere", "$default", nil)); a.status != 400 || len(i.requests) != 0 {
		t.Errorf("bad form: %d %v", a.status, a.line)
	}
}

// The identity is looked for only where the event's own format has it.
func TestForeignIdentityDoesNotCount(t *testing.T) {
	for _, e := range []string{
		`{"requestContext":{}}`, `{"requestContext":null}`, `{"requestContext":"x"}`, `{"requestContext":[]}`,
		`{"version":"2.0","requestContext":{"identity":{"userArn":"arn:x"},"authorizer":{"jwt":{"claims":{}}}}}`,
		`{"version":"1.0","requestContext":{"identity":{"userArn":null},"authorizer":{"iam":{"userArn":"arn:x"}}}}`,
		`{"requestContext":{"authorizer":{"iam":{"userArn":"arn:x"}}}}`,
		`{"version":"2.0","requestContext":{"authorizer":{"iam":{"userArn":""}}},"headers":{"x-caller":"arn:x"}}`,
		`{"version":"2.0","requestContext":{"authorizer":{"iam":{"userArn":7}}}}`,
	} {
		if a := invoke(t, &Handler{Issuer: good()}, e); a.status != 403 || a.line["outcome"] != "CallerNotAuthenticated" {
			t.Errorf("%s: %d %s", e, a.status, a.body)
		}
	}
}

func TestDirectEventsThatAreRefused(t *testing.T) {
	for _, e := range []string{
		"", " ", "null", "[]", `"orgs/acme"`, "7", "{", "{}", `{"target":null}`, `{"target":7}`, `{"target":["orgs/acme"]}`, `{"target":""}`,
		`{"Target":"orgs/acme"}`, `{"target":"orgs/acme","Kind":"remove-token"}`, `{"target":"orgs/acme","kind":""}`,
		`{"target":"orgs/acme","kind":"Remove-Token"}`, `{"target":"orgs/acme","kind":"generate-jitconfig"}`, `{"target":"orgs/acme","fresh":"yes"}`,
		`{"target":"orgs/acme","requestcontext":{}}`, `{"target":"orgs/../acme"}`, `{"target":"orgs/acme"}x`,
	} {
		i := good()
		a := invoke(t, &Handler{Issuer: i}, e)
		refusal, ok := a.err.(messages.InvokeResponse_Error)
		if !ok || refusal.Type != "InvalidRequest" || refusal.Message == "" || len(i.requests) != 0 {
			t.Errorf("%s: %#v", e, a.err)
		}
	}
}

func TestWaitsAreCutFromTheDeadline(t *testing.T) {
	for deadline, want := range map[time.Duration]time.Duration{
		25 * time.Second: 20 * time.Second, 21 * time.Second: 20 * time.Second, 3 * time.Second: 2 * time.Second,
		time.Second: 0, 0: 20 * time.Second, // 0: none
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx := t.Context()
			if deadline > 0 {
				var cancel func()
				ctx, cancel = context.WithTimeout(ctx, deadline)
				defer cancel()
			}
			start := time.Now()
			h := &Handler{Log: slog.New(slog.DiscardHandler), Issuer: &issuer{
				before: func(ctx context.Context) { <-ctx.Done() },
				err:    runner.Refuse(runner.Unavailable, nil),
			}}
			if _, err := h.Invoke(ctx, []byte(`{"target":"orgs/acme"}`)); err == nil || time.Since(start) != want {
				t.Errorf("deadline %v: answered after %v, want %v", deadline, time.Since(start), want)
			}
		})
	}
}

// No input panics, and what is accepted names its target in full, in its own segments.
func FuzzInvoke(f *testing.F) {
	files, _ := filepath.Glob("../../events/*.json")
	for _, file := range files {
		event, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(event)
	}
	f.Fuzz(func(t *testing.T, event []byte) {
		i := good()
		h := &Handler{Issuer: i, Log: slog.New(slog.DiscardHandler)}
		out, err := h.Invoke(t.Context(), event)
		if err != nil {
			if _, ok := err.(messages.InvokeResponse_Error); !ok || out != nil {
				t.Errorf("%q: %#v", event, err)
			}
			return
		}
		if !json.Valid(out) {
			t.Errorf("%q is answered %q", event, out)
		}
		for _, r := range i.requests {
			if again, err := runner.ParseTarget(r.Target.Path()); err != nil || again != r.Target || !slices.Contains([]runner.Kind{runner.RegistrationToken, runner.RemoveToken}, r.Kind) {
				t.Errorf("%q asks for %v", event, r)
			}
		}
	})
}

// What parsePath accepts is the path that IAM authorized, byte for byte.
func FuzzParsePath(f *testing.F) {
	f.Add("/orgs/acme/actions/runners/registration-token", "$default")
	f.Add("/v1/repos/actions/runners/actions/runners/remove-token", "v1")
	f.Add("/repos/orgs/acme/actions/runners/registration-token", "repos")
	f.Fuzz(func(t *testing.T, path, stage string) {
		r, err := parsePath(path, stage)
		if err != nil {
			return
		}
		rebuilt := "/" + r.Target.Path() + "/actions/runners/" + string(r.Kind)
		if path != rebuilt && (stage == "$default" || path != "/"+stage+rebuilt) {
			t.Errorf("%q at stage %q is taken for %q", path, stage, rebuilt)
		}
	})
}
