package handler

import (
	"bytes"
	"cmp"
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

type response struct {
	status  int               // HTTP; 0 of a direct invocation
	headers map[string]string // HTTP
	body    string            // or result
	err     error
	line    map[string]any // of the log
}

// invoke runs the handler as Lambda does. It fails the test unless exactly one line was logged, without the token.
func invoke(t *testing.T, h *Handler, event string) response {
	t.Helper()
	var log bytes.Buffer
	h.Log = NewLog(&log)
	ctx := lambdacontext.NewContext(t.Context(), &lambdacontext.LambdaContext{AwsRequestID: "request-1"})
	out, err := h.Invoke(ctx, []byte(event))
	a := response{body: string(out), err: err}
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
		Value:      secret.New(token),
		ExpiresAt:  time.Now().Add(time.Hour).UTC().Truncate(time.Second),
		RunnerURL:  "https://github.com/acme",
		Source:     runner.FromGitHub,
		Credential: "pat",
		GitHub:     runner.Trace{RequestID: "AB:CD", RateLimitRemaining: "4999"},
	}}
}

// events says what each file under events/ asks for, or how it is refused.
var events = map[string]struct {
	direct bool
	asks   string
	plain  bool        // for the bare token
	code   runner.Code // of the refusal
}{
	"direct-enterprise.json":                         {asks: "enterprises/acme-corp registration-token", direct: true},
	"direct-fresh.json":                              {asks: "repos/acme/widgets registration-token fresh", direct: true},
	"direct-nulls.json":                              {asks: "orgs/acme registration-token", direct: true},
	"direct-org-registration-token.json":             {asks: "orgs/acme registration-token", direct: true},
	"direct-org.json":                                {asks: "orgs/acme registration-token", direct: true},
	"direct-refused-empty-kind.json":                 {code: runner.InvalidRequest, direct: true},
	"direct-refused-no-target.json":                  {code: runner.InvalidRequest, direct: true},
	"direct-refused-unknown-field.json":              {code: runner.InvalidRequest, direct: true},
	"direct-refused-unknown-kind.json":               {code: runner.InvalidRequest, direct: true},
	"direct-refused-upper-case.json":                 {code: runner.InvalidRequest, direct: true},
	"direct-refused-target-not-allowed.json":         {asks: "orgs/other registration-token", direct: true},
	"direct-repo-remove-token.json":                  {asks: "repos/acme/widgets remove-token", direct: true},
	"direct-repo.json":                               {asks: "repos/acme/widgets registration-token", direct: true},
	"function-url-org-registration-token.json":       {asks: "orgs/acme registration-token"},
	"function-url-refused-unauthenticated.json":      {code: runner.CallerNotAuthenticated},
	"function-url-repo-remove-token.json":            {asks: "repos/acme/widgets remove-token"},
	"function-url-text-plain.json":                   {asks: "orgs/acme registration-token", plain: true},
	"http-api-v1-org-registration-token.json":        {asks: "orgs/acme registration-token"},
	"http-api-v2-enterprise-registration-token.json": {asks: "enterprises/acme-corp registration-token"},
	"http-api-v2-enterprise-remove-token.json":       {asks: "enterprises/acme-corp remove-token"},
	"http-api-v2-named-stage.json":                   {asks: "repos/acme/widgets registration-token"},
	"http-api-v2-no-cache.json":                      {asks: "orgs/acme registration-token fresh"},
	"http-api-v2-org-registration-token.json":        {asks: "orgs/acme registration-token"},
	"http-api-v2-org-remove-token.json":              {asks: "orgs/acme remove-token"},
	"http-api-v2-query-and-body.json":                {asks: "orgs/acme registration-token"},
	"http-api-v2-refused-dot-segments.json":          {code: runner.InvalidRequest},
	"http-api-v2-refused-get.json":                   {code: runner.InvalidRequest},
	"http-api-v2-refused-target-not-allowed.json":    {asks: "orgs/other registration-token"},
	"http-api-v2-refused-trailing-slash.json":        {code: runner.InvalidRequest},
	"http-api-v2-refused-unauthenticated.json":       {code: runner.CallerNotAuthenticated},
	"http-api-v2-refused-upper-case.json":            {code: runner.InvalidRequest},
	"http-api-v2-repo-registration-token.json":       {asks: "repos/acme/widgets registration-token"},
	"http-api-v2-repo-remove-token.json":             {asks: "repos/acme/widgets remove-token"},
	"http-api-v2-text-plain.json":                    {asks: "orgs/acme registration-token", plain: true},
	"rest-api-v1-enterprise-registration-token.json": {asks: "enterprises/acme-corp registration-token"},
	"rest-api-v1-no-cache.json":                      {asks: "orgs/acme registration-token fresh"},
	"rest-api-v1-org-registration-token.json":        {asks: "orgs/acme registration-token"},
	"rest-api-v1-refused-get.json":                   {code: runner.InvalidRequest},
	"rest-api-v1-refused-unauthenticated.json":       {code: runner.CallerNotAuthenticated},
	"rest-api-v1-refused-upper-case.json":            {code: runner.InvalidRequest},
	"rest-api-v1-repo-remove-token.json":             {asks: "repos/acme/widgets remove-token"},
	"rest-api-v1-text-plain.json":                    {asks: "orgs/acme registration-token", plain: true},
	"sam-local-org-registration-token.json":          {code: runner.CallerNotAuthenticated},
}

func TestSampleEventsAreUnderstood(t *testing.T) {
	files, err := filepath.Glob("../../events/*.json")
	if err != nil || len(files) != len(events) {
		t.Fatalf("%d events, %v; the table has %d", len(files), err, len(events))
	}
	for name, want := range events {
		t.Run(name, func(t *testing.T) {
			i := good()
			a := invoke(t, &Handler{Issuer: i}, read(t, name))
			if (a.line["entry"] == "direct") != want.direct {
				t.Errorf("entry %v", a.line["entry"])
			}
			if want.code != "" {
				if a.line["outcome"] != string(want.code) || len(i.requests) != 0 {
					t.Errorf("%v, asked %q; want %s", a.line, i.asked(), want.code)
				}
				return
			}
			if i.asked() != want.asks || a.err != nil || a.line["outcome"] != "issued" {
				t.Errorf("asks for %q, %v; want %q", i.asked(), a.err, want.asks)
			}
			if !want.direct && (a.status != 201 || a.line["caller"] == nil || a.line["source_ip"] == nil ||
				a.line["gateway_request_id"] == nil) {
				t.Errorf("status %d, logged %v", a.status, a.line)
			}
			if want.plain != (a.body == token) {
				t.Errorf("body %q", a.body)
			}
		})
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
	want := map[string]string{"Content-Type": "application/json", "Cache-Control": "no-store"}
	if !maps.Equal(a.headers, want) {
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
	for _, key := range []string{"timestamp", "duration_ms"} {
		if a.line[key] == nil {
			t.Errorf("no %s", key)
		}
		delete(a.line, key)
	}
	want := map[string]any{
		"level": "INFO", "message": "token issued", "requestId": "request-1", "gateway_request_id": "UEo8gh2rFiAEJCw=",
		"entry":     "http",
		"caller":    "arn:aws:sts::123456789012:assumed-role/github-runner/i-0123456789abcdef0",
		"source_ip": "203.0.113.24", "target": "repos/acme/widgets", "kind": "remove-token", "outcome": "issued",
		"source": "github", "expires_at": i.token.ExpiresAt.Format(time.RFC3339),
		"token_sha256": secret.New(token).SHA256()[:12],
		"credential":   "pat", "github_request_id": "AB:CD", "ratelimit_remaining": "4999",
	}
	if !reflect.DeepEqual(a.line, want) {
		t.Errorf("logged %v\nwant   %v", a.line, want)
	}

	i.token.Source = runner.FromStale
	i.token.Outage = (runner.Cause{Name: "timeout", Code: runner.Unavailable}).Refuse("GitHub is down")
	a = invoke(t, &Handler{Issuer: i}, read(t, "direct-org.json"))
	if a.line["level"] != "WARN" || a.line["source"] != "stale" || a.line["error"] != "GitHub is down" ||
		a.line["cause"] != "timeout" || a.line["caller"] != nil {
		t.Errorf("stale: %v", a.line)
	}
}

// refusal returns an Error of the code.
func refusal(code runner.Code) *runner.Error {
	return (runner.Cause{Name: "test", Code: code, Remedy: "do this"}).Refuse("for the operator")
}

func TestEachCodeHasItsStatusAndItsName(t *testing.T) {
	statuses := map[runner.Code]int{
		runner.InvalidRequest: 400, runner.CallerNotAuthenticated: 403, runner.TargetNotAllowed: 403,
		runner.TargetNotFound:    404,
		runner.CredentialMissing: 500, runner.CredentialRejected: 502, runner.CredentialForbidden: 502,
		runner.RateLimited: 503, runner.Unavailable: 503, runner.Internal: 500,
	}
	for _, code := range append(slices.Clone(runner.Codes), "Unheard") {
		t.Run(string(code), func(t *testing.T) {
			status := cmp.Or(statuses[code], 500)
			if _, ok := answers[code]; ok == (code == "Unheard") {
				t.Errorf("in the table of answers: %t", ok)
			}
			e := refusal(code)
			e.Message, e.RetryAfter = "for the caller", 1500*time.Millisecond
			e.GitHub.RequestID = "AB:CD"
			h := &Handler{Issuer: &issuer{err: fmt.Errorf("wrapped: %w", e)}}

			for _, file := range []string{
				"http-api-v2-org-registration-token.json", "rest-api-v1-org-registration-token.json",
				"function-url-text-plain.json",
			} {
				a := invoke(t, h, read(t, file))
				want := fmt.Sprintf("{\n  \"code\": %q,\n  \"message\": \"for the caller\",\n"+
					"  \"request_id\": \"request-1\"\n}", code)
				if a.status != status || a.body != want || a.headers["Content-Type"] != "application/json" || a.err != nil {
					t.Errorf("%s: %d %s %v", file, a.status, a.body, a.headers)
				}
				if wait, ok := a.headers["Retry-After"]; ok != (status == 503) || ok && wait != "2" {
					t.Errorf("Retry-After %q", wait)
				}
				if a.line["outcome"] != string(code) || a.line["cause"] != "test" ||
					a.line["error"] != "for the operator: do this" ||
					a.line["github_request_id"] != "AB:CD" || a.line["level"] == "INFO" {
					t.Errorf("logged %v", a.line)
				}
			}

			a := invoke(t, h, read(t, "direct-org.json"))
			// By value: aws-lambda-go looks at the type itself.
			want := messages.InvokeResponse_Error{Type: string(code), Message: "for the caller"}
			if !reflect.DeepEqual(a.err, want) || a.body != "" {
				t.Errorf("%#v", a.err)
			}
		})
	}
}

func TestUnknownWaitIsNotMadeUp(t *testing.T) {
	a := invoke(t, &Handler{Issuer: &issuer{err: refusal(runner.RateLimited)}},
		read(t, "http-api-v2-org-registration-token.json"))
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
		if a.status != 500 || !strings.Contains(a.body, `"code": "Internal",
  "message": "internal error"`) || strings.Contains(a.body, "cause") {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
		if cause, _ := a.line["error"].(string); !strings.HasPrefix(strings.TrimPrefix(cause, "panic: "), "the cause") {
			t.Errorf("%s: logged %v", name, a.line)
		}
	}
}

// newEvent makes an HTTP event of format 2.0 by an IAM caller.
func newEvent(method, path, stage string, headers map[string]string) string {
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

		{"/$default" + path, "$default", ""}, {"/v1" + path, "$default", ""}, {"/v1/v1" + path, "v1", ""},
		{"/v2" + path, "v1", ""}, {"/v1/" + path, "v1", ""},
		{path + "/", "$default", ""}, {"/" + path, "$default", ""}, {"/" + path, "", ""}, {path[1:], "$default", ""},
		{"", "$default", ""}, {"/", "$default", ""},
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
		{path + "?x=1", "$default", ""}, {path + "#f", "$default", ""}, {path + ";x", "$default", ""},
		{path + "\x00", "$default", ""},
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
		t.Run(test.stage+" "+test.path, func(t *testing.T) {
			i := good()
			a := invoke(t, &Handler{Issuer: i}, newEvent("POST", test.path, test.stage, nil))
			if test.want == "" {
				if a.status != 400 || len(i.requests) != 0 || a.line["outcome"] != "InvalidRequest" {
					t.Errorf("%d, asked %s", a.status, i.asked())
				}
			} else if a.status != 201 || i.asked() != test.want {
				t.Errorf("%d %s, asked %q", a.status, a.body, i.asked())
			}
		})
	}
}

// A custom domain that is mapped below its root puts its own path before GitHub's.
func TestAPathBelowAMappingIsNamedAsThat(t *testing.T) {
	for path, says := range map[string]string{
		"/runners/orgs/acme/actions/runners/registration-token":    `has \"/runners\" before /orgs/acme/actions/`,
		"/a/b/repos/acme/widgets/actions/runners/remove-token":     `has \"/a/b\" before /repos/acme/widgets/a`,
		"/orgs/x/enterprises/acme/actions/runners/remove-token":    `has \"/orgs/x\" before /enterprises/acme`,
		"//orgs/acme/actions/runners/registration-token":           `target \"/orgs/acme\" is none of`,
		strings.Repeat("/orgs", 1<<20) + "/acme/actions/runners/x": "is",
		strings.Repeat("/", 1<<20) + "acme/actions/runners/x":      "is",
	} {
		t.Run(says, func(t *testing.T) {
			a := invoke(t, &Handler{Issuer: good()}, newEvent("POST", path, "$default", nil))
			if a.status != 400 || !strings.Contains(a.body, says) || len(a.body) > 1000 {
				t.Errorf("%d %.1000s", a.status, a.body)
			}
		})
	}
}

// API Gateway authorizes the route that it matched, and may decode the path.
func TestThePathIsOfTheRouteThatWasAuthorized(t *testing.T) {
	const path = "/orgs/acme/actions/runners/registration-token"
	for route, status := range map[string]int{
		"/orgs/{org}/actions/runners/registration-token":           201,
		"/orgs/acme/actions/runners/registration-token":            201,
		"/orgs/{org}/actions/runners/remove-token":                 400,
		"/repos/{owner}/{repo}/actions/runners/registration-token": 400,
		"/enterprises/{enterprise}/actions/runners/remove-token":   400,
		"/{proxy+}":    201,
		"":             201,
		"/orgs/{org+}": 201,
	} {
		t.Run(route, func(t *testing.T) {
			for _, event := range []string{
				strings.Replace(newEvent("POST", path, "$default", nil), "{", `{"routeKey":"POST `+route+`",`, 1),
				`{"path":"` + path + `","resource":"` + route + `","httpMethod":"POST",` +
					`"requestContext":{"stage":"v1","identity":{"userArn":"arn:x","sourceIp":"203.0.113.24"}}}`,
			} {
				if a := invoke(t, &Handler{Issuer: good()}, event); a.status != status {
					t.Errorf("%d %s, want %d", a.status, a.body, status)
				}
			}
		})
	}
}

// What comes from outside is fit for a log, whatever it is.
func TestTheLogLineIsBoundedAndClean(t *testing.T) {
	bad := strings.Repeat("x", 5000) + "\u202e\r\n"
	for name, event := range map[string]string{
		"path":   newEvent("POST", "/"+bad, "$default", nil),
		"method": newEvent(bad, "/orgs/acme/actions/runners/remove-token", "$default", nil),
		"stage":  newEvent("POST", "/orgs/acme/actions/runners/remove-token", bad, nil),
		"caller": strings.Replace(newEvent("POST", "/x", "$default", nil), "arn:aws:iam::123456789012:user/x",
			strings.Repeat("x", 5000)+`\u202e\n`, 1),
		"source address": strings.Replace(newEvent("POST", "/x", "$default", nil), "203.0.113.24",
			strings.Repeat("x", 5000)+`\u202e\n`, 1),
		"target": `{"target":"` + strings.Repeat("x", 5000) + `"}`,
		"kind":   `{"target":"orgs/acme","kind":"` + strings.Repeat("x", 5000) + `"}`,
		"field":  `{"` + strings.Repeat("x", 5000) + `":1}`,
	} {
		t.Run(name, func(t *testing.T) {
			a := invoke(t, &Handler{Issuer: good()}, event)
			if text := fmt.Sprint(a.line); len(text) > 1500 || strings.ContainsAny(text, "\u202e\r\n") {
				t.Errorf("logged %d bytes: %.2000q", len(text), text)
			}
		})
	}
}

func TestRefusalOfUpperCaseGivesTheSpelling(t *testing.T) {
	a := invoke(t, &Handler{Issuer: good()},
		newEvent("POST", "/repos/Acme/Widgets/actions/runners/registration-token", "$default", nil))
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
		{"Cache-Control", "no-cachex", false, false}, {"Cache-Control", "no-store", false, false},
		{"Pragma", "no-cache", false, false},
	} {
		t.Run(test.name+": "+test.value, func(t *testing.T) {
			i := good()
			a := invoke(t, &Handler{Issuer: i}, newEvent("POST", path, "$default", map[string]string{test.name: test.value}))
			if (a.body == token) != test.plain || i.requests[0].Fresh != test.fresh {
				t.Errorf("plain %v, fresh %v", a.body == token, i.requests[0].Fresh)
			}
		})
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
		t.Run(maps, func(t *testing.T) {
			a := invoke(t, &Handler{Issuer: good()},
				`{"path":"/orgs/acme/actions/runners/registration-token","httpMethod":"POST",`+maps+
					`,"requestContext":{"stage":"v1","identity":{"userArn":"arn:x","sourceIp":"203.0.113.24"}}}`)
			if a.status != 201 || (a.body == token) != plain {
				t.Errorf("%d %s", a.status, a.body)
			}
		})
	}
}

func TestRefusalsComeInOrder(t *testing.T) {
	bad := strings.ReplaceAll(newEvent("GET", "/nowhere", "$default", nil), "userArn", "other")
	if a := invoke(t, &Handler{Issuer: good()}, bad); a.status != 403 || a.line["outcome"] != "CallerNotAuthenticated" {
		t.Errorf("no identity and bad form: %d %v", a.status, a.line)
	}
	i := &issuer{err: refusal(runner.TargetNotAllowed)}
	if a := invoke(t, &Handler{Issuer: i}, newEvent("GET", "/nowhere", "$default", nil)); a.status != 400 ||
		len(i.requests) != 0 {
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
		t.Run(e, func(t *testing.T) {
			if a := invoke(t, &Handler{Issuer: good()}, e); a.status != 403 || a.line["outcome"] != "CallerNotAuthenticated" {
				t.Errorf("%d %s", a.status, a.body)
			}
		})
	}
}

func TestDirectEventsThatAreRefused(t *testing.T) {
	for _, e := range []string{
		"", " ", "null", "[]", `"orgs/acme"`, "7", "{", "{}", `{"target":null}`, `{"target":7}`, `{"target":["orgs/acme"]}`,
		`{"target":""}`,
		`{"Target":"orgs/acme"}`, `{"target":"orgs/acme","Kind":"remove-token"}`, `{"target":"orgs/acme","kind":""}`,
		`{"target":"orgs/acme","kind":"Remove-Token"}`, `{"target":"orgs/acme","kind":"generate-jitconfig"}`,
		`{"target":"orgs/acme","fresh":"yes"}`,
		`{"target":"orgs/acme","requestcontext":{}}`, `{"target":"orgs/../acme"}`, `{"target":"orgs/acme"}x`,
	} {
		t.Run(e, func(t *testing.T) {
			i := good()
			a := invoke(t, &Handler{Issuer: i}, e)
			refusal, ok := a.err.(messages.InvokeResponse_Error)
			if !ok || refusal.Type != "InvalidRequest" || refusal.Message == "" || len(i.requests) != 0 {
				t.Errorf("%#v", a.err)
			}
		})
	}
}

func TestWaitsAreCutFromTheDeadline(t *testing.T) {
	for deadline, want := range map[time.Duration]time.Duration{
		25 * time.Second: 20 * time.Second, 21 * time.Second: 20 * time.Second, 3 * time.Second: 2 * time.Second,
		time.Second: 0, 0: 20 * time.Second, // 0: none
	} {
		t.Run(deadline.String(), func(t *testing.T) {
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
					err:    refusal(runner.Unavailable),
				}}
				if _, err := h.Invoke(ctx, []byte(`{"target":"orgs/acme"}`)); err == nil || time.Since(start) != want {
					t.Errorf("answered after %v, want %v", time.Since(start), want)
				}
			})
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
			if again, err := runner.ParseTarget(r.Target.Path()); err != nil || again != r.Target ||
				!slices.Contains([]runner.Kind{runner.RegistrationToken, runner.RemoveToken}, r.Kind) {
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
		rebuilt := "/" + r.Path()
		if path != rebuilt && (stage == "$default" || path != "/"+stage+rebuilt) {
			t.Errorf("%q at stage %q is taken for %q", path, stage, rebuilt)
		}
	})
}

// checker records what it is asked to check.
type checker struct {
	targets []runner.Target
	report  runner.Report
	err     error
}

func (c *checker) Check(_ context.Context, targets []runner.Target) (runner.Report, error) {
	c.targets = append(c.targets, targets...)
	return c.report, c.err
}

func TestSelfCheckIsAnsweredByDirectInvocation(t *testing.T) {
	t.Parallel()
	for status, level := range map[runner.Status]string{
		runner.OK: "INFO", runner.Warning: "WARN", runner.Failed: "ERROR",
	} {
		t.Run(string(status), func(t *testing.T) {
			t.Parallel()
			c := new(checker)
			c.report.Add(runner.Finding{Subject: "orgs/acme", Status: status, Evidence: "x"})
			c.report.GitHub = runner.Trace{
				RateLimit: "100", RateLimitRemaining: "7", CredentialExpires: time.Now().Add(time.Hour),
			}
			h := &Handler{Issuer: good(), Checker: c, Function: "token"}
			a := invoke(t, h, `{"check":true,"targets":["orgs/acme","repos/acme/widgets"]}`)
			if a.err != nil || a.body != fmt.Sprintf(
				`{"status":%q,"findings":[{"subject":"orgs/acme","status":%q,"evidence":"x"}]}`, status, status) {
				t.Errorf("%s, %v", a.body, a.err)
			}
			if a.line["outcome"] != "checked" || a.line["status"] != string(status) || a.line["level"] != level {
				t.Errorf("logged %v", a.line)
			}
			if found := fmt.Sprint(a.line["findings"]); strings.Contains(found, "orgs/acme") != (status != runner.OK) {
				t.Errorf("logged findings %s", found)
			}
			failed := map[bool]float64{true: 1}[status == runner.Failed]
			// The alarms of expiry and quota rest on the scheduled check, where nobody else asks.
			if m := extract(t, a.line); m["CheckFailed,FunctionName=token"] != failed ||
				m["QuotaRemaining,FunctionName=token"] != 7 || m["CredentialDaysLeft,FunctionName=token"] <= 0 {
				t.Errorf("metrics %v", m)
			}
			if fmt.Sprint(c.targets) != "[orgs/acme repos/acme/widgets]" {
				t.Errorf("asked for %v", c.targets)
			}
		})
	}
	c := &checker{err: refusal(runner.TargetNotAllowed)}
	a := invoke(t, &Handler{Issuer: good(), Checker: c}, `{"check":true}`)
	if a.line["outcome"] != "TargetNotAllowed" || a.line["message"] != "self-check refused" || a.err == nil {
		t.Errorf("%v, %v", a.line, a.err)
	}
}

// refresher answers what it is told.
type refresher struct {
	result runner.Refreshed
	err    error
}

func (r refresher) Refresh(context.Context) (runner.Refreshed, error) { return r.result, r.err }

// A scheduled refresh has no reader but the log's.
func TestRefreshIsLoggedAndMeasured(t *testing.T) {
	t.Parallel()
	failed := []runner.NotRefreshed{{Target: "orgs/acme", Code: runner.RateLimited, Cause: "primary-limit"}}
	for name, test := range map[string]struct {
		refresher
		level, message, outcome string
		says                    []string
	}{
		"good": {refresher{result: runner.Refreshed{Written: 2}}, "INFO", "shared tokens refreshed", "refreshed",
			[]string{"written:2"}},
		"too early": {refresher{result: runner.Refreshed{Age: "14m0s"}}, "INFO", "shared tokens refreshed", "refreshed",
			[]string{"age:14m0s"}},
		"no room": {refresher{result: runner.Refreshed{Written: 2, Dropped: 3}}, "WARN", "shared tokens refreshed",
			"refreshed", []string{"dropped:3"}},
		"one failed": {refresher{result: runner.Refreshed{Written: 2, Failed: failed}}, "WARN", "shared tokens refreshed",
			"refreshed", []string{"orgs/acme", "primary-limit"}},
		"all failed": {refresher{runner.Refreshed{Failed: failed}, refusal(runner.RateLimited)}, "WARN",
			"shared tokens not refreshed", "RateLimited", []string{"orgs/acme", "primary-limit"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := invoke(t, &Handler{Refresher: test.refresher, Function: "token"}, `{"refresh":true}`)
			if a.line["level"] != test.level || a.line["message"] != test.message || a.line["outcome"] != test.outcome ||
				(a.err != nil) != (test.err != nil) {
				t.Errorf("%v, %v", a.line, a.err)
			}
			for _, says := range test.says {
				if text := fmt.Sprint(a.line["refreshed"]); !strings.Contains(text, says) {
					t.Errorf("%s does not say %s", text, says)
				}
			}
			m := extract(t, a.line)
			written, sample := m["SharedTokensWritten,FunctionName=token"]
			if written != float64(test.result.Written) || sample != (test.err == nil) ||
				m["SharedTokensFailed,FunctionName=token"] != float64(len(test.result.Failed)) {
				t.Errorf("metrics %v", m)
			}
		})
	}
}

func TestSelfChecksThatAreRefused(t *testing.T) {
	t.Parallel()
	for _, e := range []string{
		`{"check":false}`, `{"check":null}`, `{"check":"true"}`, `{"check":1}`, `{"check":true,"target":"orgs/acme"}`,
		`{"check":true,"fresh":true}`, `{"check":true,"targets":"orgs/acme"}`, `{"check":true,"targets":["orgs/ACME"]}`,
		`{"check":true,"targets":[1]}`, `{"Check":true}`, `{"targets":["orgs/acme"]}`,
	} {
		t.Run(e, func(t *testing.T) {
			t.Parallel()
			c := new(checker)
			a := invoke(t, &Handler{Issuer: good(), Checker: c}, e)
			refused, ok := a.err.(messages.InvokeResponse_Error)
			if !ok || refused.Type != "InvalidRequest" || len(c.targets) != 0 {
				t.Errorf("%#v", a.err)
			}
		})
	}
}
