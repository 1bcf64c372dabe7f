package apigateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"runner-token-broker/internal/local/apigateway"
	"runner-token-broker/internal/local/lambda"
	"runner-token-broker/internal/local/sigv4"
)

var credentials = aws.Credentials{AccessKeyID: "AKID", SecretAccessKey: "SECRET", SessionToken: "SESSION"}

const caller = "arn:aws:sts::111122223333:assumed-role/runner/i-0123"

// function is what the gateway invokes.
type function func(context.Context, []byte) (lambda.Result, error)

func (f function) Invoke(ctx context.Context, payload []byte) (lambda.Result, error) {
	return f(ctx, payload)
}

func answers(payload string) function {
	return func(context.Context, []byte) (lambda.Result, error) {
		return lambda.Result{Payload: []byte(payload)}, nil
	}
}

const created = `{"statusCode":201,"headers":{"content-type":"application/json","x-mine":"1"},"body":"{}"}`

func serve(t *testing.T, g *apigateway.Gateway) *httptest.Server {
	t.Helper()
	g.Region, g.Credentials, g.CallerARN = "eu-central-1", credentials, caller
	server := httptest.NewServer(g)
	t.Cleanup(server.Close)
	return server
}

func request(t *testing.T, server *httptest.Server, method, target, body string, header ...string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, server.URL+target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	return r
}

func sign(t *testing.T, r *http.Request, body string) *http.Request {
	t.Helper()
	if err := sigv4.Sign(r, []byte(body), credentials, "eu-central-1", "execute-api"); err != nil {
		t.Fatal(err)
	}
	return r
}

func do(t *testing.T, server *httptest.Server, r *http.Request) (*http.Response, string) {
	t.Helper()
	resp, err := server.Client().Do(r)
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

func TestSixRoutesAndNoOther(t *testing.T) {
	server := serve(t, &apigateway.Gateway{Function: answers(created)})
	for _, target := range []string{"/orgs/acme", "/repos/acme/widgets", "/enterprises/acme-corp"} {
		for _, kind := range []string{"registration-token", "remove-token"} {
			path := target + "/actions/runners/" + kind
			if resp, body := do(t, server, sign(t, request(t, server, "POST", path, ""), "")); resp.StatusCode != 201 || body != "{}" {
				t.Errorf("%s: %s %s", path, resp.Status, body)
			}
		}
	}
	for _, test := range [][2]string{
		{"POST", "/"}, {"GET", org}, {"PUT", org}, {"DELETE", org}, {"OPTIONS", org}, {"POST", org + "/"}, {"POST", "/" + org},
		{"POST", "/orgs//actions/runners/registration-token"}, {"POST", "/users/acme/actions/runners/registration-token"},
		{"POST", "/orgs/acme/x/actions/runners/registration-token"}, {"POST", "/repos/acme/actions/runners/registration-token"},
		{"POST", "/orgs/acme/actions/runners/generate-jitconfig"}, {"POST", "/v1" + org}, {"POST", "/ORGS/acme/actions/runners/registration-token"},
	} {
		// Unsigned too: the route comes first.
		for _, r := range []*http.Request{request(t, server, test[0], test[1], ""), sign(t, request(t, server, test[0], test[1], ""), "")} {
			resp, body := do(t, server, r)
			if resp.StatusCode != 404 || body != `{"message":"Not Found"}` || resp.Header.Get("Content-Type") != "application/json" {
				t.Errorf("%s %s: %s %s", test[0], test[1], resp.Status, body)
			}
		}
	}
}

func TestOnlyWhatIsSignedIsInvoked(t *testing.T) {
	var logged bytes.Buffer
	g := &apigateway.Gateway{Log: log.New(&logged, "", 0), Function: function(func(context.Context, []byte) (lambda.Result, error) {
		t.Error("the function is invoked")
		return lambda.Result{}, nil
	})}
	server := serve(t, g)
	for name, r := range map[string]*http.Request{
		"unsigned":     request(t, server, "POST", org, ""),
		"another path": sign(t, request(t, server, "POST", "/orgs/other/actions/runners/registration-token", ""), ""),
		"another body": sign(t, request(t, server, "POST", org, "b"), "a"),
		"wrong signature": func() *http.Request {
			r := sign(t, request(t, server, "POST", org, ""), "")
			r.Header.Set("Authorization", r.Header.Get("Authorization")+"0")
			return r
		}(),
	} {
		if name == "another path" {
			r.URL.Path = org
		}
		resp, body := do(t, server, r)
		if resp.StatusCode != 403 || body != `{"message":"Forbidden"}` {
			t.Errorf("%s: %s %s", name, resp.Status, body)
		}
	}
	server.Close()
	if !strings.Contains(logged.String(), `POST "`+org+`" 403 MissingAuthenticationTokenException: there is no Authorization header`) {
		t.Errorf("log %q does not say why", logged.String())
	}
}

// received returns the event that the function is invoked with.
func received(t *testing.T, version string, target, body string, header ...string) map[string]any {
	t.Helper()
	var event map[string]any
	g := &apigateway.Gateway{PayloadVersion: version, Function: function(func(_ context.Context, payload []byte) (lambda.Result, error) {
		if err := json.Unmarshal(payload, &event); err != nil {
			t.Error(err)
		}
		return lambda.Result{Payload: []byte(created)}, nil
	})}
	server := serve(t, g)
	if resp, body := do(t, server, sign(t, request(t, server, "POST", target, body, header...), body)); resp.StatusCode != 201 {
		t.Fatalf("%s %s", resp.Status, body)
	}
	server.Close()
	return event
}

// at returns the value under the dotted path.
func at(event any, path string) any {
	for name := range strings.SplitSeq(path, ".") {
		m, _ := event.(map[string]any)
		event = m[name]
	}
	return event
}

func check(t *testing.T, event map[string]any, want map[string]any) {
	t.Helper()
	for path, value := range want {
		if got := at(event, path); !reflect.DeepEqual(got, value) {
			t.Errorf("%s = %#v, want %#v", path, got, value)
		}
	}
}

func TestEventIsPayload20(t *testing.T) {
	event := received(t, "", "/repos/ac%6De/a%2Fb/actions/runners/remove-token?b=2&a=1&b=3", "",
		"Accept", "text/plain", "Accept", "a/b", "User-Agent", "mine", "X-Forwarded-For", "10.0.0.1", "Cookie", "a=1; b=2")
	check(t, event, map[string]any{
		"version":                       "2.0",
		"routeKey":                      "POST /repos/{owner}/{repo}/actions/runners/remove-token",
		"rawPath":                       "/repos/acme/a/b/actions/runners/remove-token",
		"rawQueryString":                "a=1&b=2&b=3", // the client sorts what it signs
		"queryStringParameters":         map[string]any{"a": "1", "b": "2,3"},
		"pathParameters":                map[string]any{"owner": "acme", "repo": "a/b"},
		"headers.accept":                "text/plain,a/b",
		"headers.x-forwarded-for":       "10.0.0.1,127.0.0.1",
		"headers.cookie":                nil,
		"cookies":                       []any{"a=1", "b=2"},
		"requestContext.accountId":      "111122223333",
		"requestContext.http.method":    "POST",
		"requestContext.http.path":      "/repos/acme/a/b/actions/runners/remove-token",
		"requestContext.http.protocol":  "HTTP/1.1",
		"requestContext.http.sourceIp":  "127.0.0.1",
		"requestContext.http.userAgent": "mine",
		"requestContext.stage":          "$default",
		"requestContext.routeKey":       "POST /repos/{owner}/{repo}/actions/runners/remove-token",
		"requestContext.authorizer.iam": map[string]any{"accessKey": "AKID", "accountId": "111122223333", "callerId": "AROALOCAL:laptop",
			"cognitoIdentity": nil, "principalOrgId": "o-local", "userArn": caller, "userId": "AROALOCAL:laptop"},
		"isBase64Encoded": false,
	})
	if _, has := event["body"]; has {
		t.Error("there is a body, though none was sent")
	}
	if id, _ := at(event, "requestContext.requestId").(string); id == "" {
		t.Error("no requestId")
	}
	epoch, _ := at(event, "requestContext.timeEpoch").(float64)
	text, _ := at(event, "requestContext.time").(string)
	when, err := time.Parse("02/Jan/2006:15:04:05 -0700", text)
	if err != nil || when.Unix() != int64(epoch)/1000 || time.Since(when) > time.Minute {
		t.Errorf("time %q, timeEpoch %v: not the same, or not now", text, epoch)
	}
}

func TestEventIsPayload10(t *testing.T) {
	event := received(t, "1.0", org+"?b=2&b=3", "", "X-Two", "a", "X-Two", "b", "User-Agent", "mine")
	check(t, event, map[string]any{
		"version":                            "1.0",
		"resource":                           "/orgs/{org}/actions/runners/registration-token",
		"path":                               org,
		"httpMethod":                         "POST",
		"headers.X-Two":                      "b",
		"multiValueHeaders.X-Two":            []any{"a", "b"},
		"queryStringParameters":              map[string]any{"b": "3"},
		"multiValueQueryStringParameters":    map[string]any{"b": []any{"2", "3"}},
		"pathParameters":                     map[string]any{"org": "acme"},
		"requestContext.identity.userArn":    caller,
		"requestContext.identity.accountId":  "111122223333",
		"requestContext.identity.accessKey":  "AKID",
		"requestContext.identity.sourceIp":   "127.0.0.1",
		"requestContext.identity.userAgent":  "mine",
		"requestContext.resourcePath":        "/orgs/{org}/actions/runners/registration-token",
		"requestContext.stage":               "$default",
		"requestContext.httpMethod":          "POST",
		"requestContext.path":                org,
		"requestContext.identity.cognitoAmr": nil,
		"body":                               nil,
		"isBase64Encoded":                    false,
	})
}

func TestBodyIsTextOrBase64(t *testing.T) {
	for _, version := range []string{"2.0", "1.0"} {
		check(t, received(t, version, org, `{"a":1}`, "Content-Type", "application/json; charset=utf-8"),
			map[string]any{"body": `{"a":1}`, "isBase64Encoded": false})
		check(t, received(t, version, org, "a=1", "Content-Type", "application/x-www-form-urlencoded"),
			map[string]any{"body": "YT0x", "isBase64Encoded": true})
	}
}

func TestRepliesAreTranslated(t *testing.T) {
	const failed = `{"message":"Internal Server Error"}`
	for name, test := range map[string]struct {
		version, payload string
		status           int
		body             string
	}{
		"reply":                  {"2.0", `{"statusCode":503,"headers":{"retry-after":"7"},"body":"x"}`, 503, "x"},
		"base64":                 {"2.0", `{"statusCode":200,"body":"eA==","isBase64Encoded":true}`, 200, "x"},
		"no body":                {"2.0", `{"statusCode":204}`, 204, ""},
		"JSON alone":             {"2.0", `{"token":"x"}`, 200, `{"token":"x"}`},
		"a string alone":         {"2.0", `"x"`, 200, `"x"`},
		"JSON alone, in 1.0":     {"1.0", `{"token":"x"}`, 500, failed},
		"a string alone, in 1.0": {"1.0", `"x"`, 500, failed},
		"no JSON":                {"2.0", `token`, 500, failed},
		"nothing":                {"2.0", ``, 500, failed},
		"status in words":        {"2.0", `{"statusCode":"201"}`, 500, failed},
		"status out of range":    {"2.0", `{"statusCode":20}`, 500, failed},
		"body is an object":      {"2.0", `{"statusCode":200,"body":{}}`, 500, failed},
		"body is not base64":     {"2.0", `{"statusCode":200,"body":"?","isBase64Encoded":true}`, 500, failed},
	} {
		server := serve(t, &apigateway.Gateway{PayloadVersion: test.version, Function: answers(test.payload)})
		resp, body := do(t, server, sign(t, request(t, server, "POST", org, ""), ""))
		if resp.StatusCode != test.status || body != test.body {
			t.Errorf("%s: %s %s, want %d %s", name, resp.Status, body, test.status, test.body)
		}
		if name == "reply" && resp.Header.Get("Retry-After") != "7" {
			t.Errorf("%s: headers %v", name, resp.Header)
		}
		if resp.Header.Get("Apigw-Requestid") == "" {
			t.Errorf("%s: no Apigw-Requestid", name)
		}
	}
}

func TestFailuresOfTheIntegration(t *testing.T) {
	for name, test := range map[string]struct {
		f      function
		status int
		body   string
	}{
		"function error": {func(context.Context, []byte) (lambda.Result, error) {
			return lambda.Result{Payload: []byte(created), FunctionError: "Unhandled"}, nil
		}, 500, `{"message":"Internal Server Error"}`},
		"no answer": {func(context.Context, []byte) (lambda.Result, error) {
			return lambda.Result{}, errors.New("closed")
		}, 500, `{"message":"Internal Server Error"}`},
		"timeout": {func(ctx context.Context, _ []byte) (lambda.Result, error) {
			<-ctx.Done()
			return lambda.Result{}, ctx.Err()
		}, 503, `{"message":"Service Unavailable"}`},
	} {
		server := serve(t, &apigateway.Gateway{Function: test.f, Timeout: 50 * time.Millisecond})
		resp, body := do(t, server, sign(t, request(t, server, "POST", org, ""), ""))
		if resp.StatusCode != test.status || body != test.body {
			t.Errorf("%s: %s %s, want %d %s", name, resp.Status, body, test.status, test.body)
		}
	}
}
