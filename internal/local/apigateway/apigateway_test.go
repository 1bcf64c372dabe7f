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
	"golang.org/x/time/rate"

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
	t.Parallel()
	server := serve(t, &apigateway.Gateway{Function: answers(created)})
	for _, target := range []string{"/orgs/acme", "/repos/acme/widgets", "/enterprises/acme-corp"} {
		for _, kind := range []string{"registration-token", "remove-token"} {
			path := target + "/actions/runners/" + kind
			t.Run("POST "+path, func(t *testing.T) {
				resp, body := do(t, server, sign(t, request(t, server, "POST", path, ""), ""))
				if resp.StatusCode != 201 || body != "{}" {
					t.Errorf("%s %s", resp.Status, body)
				}
			})
		}
	}
	for _, test := range [][2]string{
		{"POST", "/"},
		{"GET", org},
		{"PUT", org},
		{"DELETE", org},
		{"OPTIONS", org},
		{"POST", org + "/"},
		{"POST", "/" + org},
		{"POST", "/orgs//actions/runners/registration-token"},
		{"POST", "/users/acme/actions/runners/registration-token"},
		{"POST", "/orgs/acme/x/actions/runners/registration-token"},
		{"POST", "/repos/acme/actions/runners/registration-token"},
		{"POST", "/orgs/acme/actions/runners/generate-jitconfig"},
		{"POST", "/v1" + org},
		{"POST", "/ORGS/acme/actions/runners/registration-token"},
	} {
		t.Run(test[0]+" "+test[1], func(t *testing.T) {
			unsigned := request(t, server, test[0], test[1], "") // the route comes first
			signed := sign(t, request(t, server, test[0], test[1], ""), "")
			for _, r := range []*http.Request{unsigned, signed} {
				resp, body := do(t, server, r)
				if resp.StatusCode != 404 || body != `{"message":"Not Found"}` ||
					resp.Header.Get("Content-Type") != "application/json" {
					t.Errorf("%s %s", resp.Status, body)
				}
			}
		})
	}
}

func TestOnlyWhatIsSignedIsInvoked(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		change func(*http.Request)
		why    string // in the log
	}{
		{"unsigned", func(r *http.Request) { r.Header.Del("Authorization") },
			"MissingAuthenticationTokenException: there is no signature, in the Authorization header or in the query"},
		{"another path", func(r *http.Request) { r.URL.Path = "/orgs/other/actions/runners/registration-token" },
			"InvalidSignatureException: the signature does not match"},
		{"another body", func(r *http.Request) { r.Body, r.ContentLength = io.NopCloser(strings.NewReader("b")), 1 },
			"InvalidSignatureException: the signature does not match"},
		{"wrong signature", func(r *http.Request) { r.Header["Authorization"][0] += "0" },
			"InvalidSignatureException: the signature does not match"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var logged bytes.Buffer
			invoked := func(context.Context, []byte) (lambda.Result, error) {
				t.Error("the function is invoked")
				return lambda.Result{}, nil
			}
			server := serve(t, &apigateway.Gateway{Log: log.New(&logged, "", 0), Function: function(invoked)})
			r := sign(t, request(t, server, "POST", org, "a"), "a")
			test.change(r)
			if resp, body := do(t, server, r); resp.StatusCode != 403 || body != `{"message":"Forbidden"}` {
				t.Errorf("%s %s", resp.Status, body)
			}
			server.Close()
			if want := `POST "` + r.URL.Path + `" 403 ` + test.why + "\n"; logged.String() != want {
				t.Errorf("log %q, want %q", logged.String(), want)
			}
		})
	}
}

func TestStageThrottles(t *testing.T) {
	t.Parallel()
	var logged bytes.Buffer
	server := serve(t, &apigateway.Gateway{Function: answers(created), Throttle: rate.NewLimiter(rate.Every(time.Hour), 2),
		Log: log.New(&logged, "", 0)})
	for i, want := range []int{404, 201, 201, 429, 404} { // what has no route does not count
		path := org
		if want == 404 {
			path = "/"
		}
		resp, body := do(t, server, sign(t, request(t, server, "POST", path, ""), ""))
		if resp.StatusCode != want || want == 429 && body != `{"message":"Too Many Requests"}` {
			t.Errorf("request %d: %s %s, want %d", i+1, resp.Status, body, want)
		}
	}
	server.Close()
	if want := `POST "` + org + `" 429 throttled`; !strings.Contains(logged.String(), want) {
		t.Errorf("log %q lacks %q", logged.String(), want)
	}
}

// received returns the event that the function is invoked with.
func received(t *testing.T, target, body string, header ...string) map[string]any {
	t.Helper()
	var event map[string]any
	g := &apigateway.Gateway{Function: function(func(_ context.Context, payload []byte) (lambda.Result, error) {
		if err := json.Unmarshal(payload, &event); err != nil {
			t.Error(err)
		}
		return lambda.Result{Payload: []byte(created)}, nil
	})}
	server := serve(t, g)
	r := sign(t, request(t, server, "POST", target, body, header...), body)
	if resp, body := do(t, server, r); resp.StatusCode != 201 {
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
	t.Parallel()
	event := received(t, "/repos/ac%6De/a%2Fb/actions/runners/remove-token?b=2&a=1&b=3", "", "Accept", "text/plain",
		"Accept", "a/b", "User-Agent", "mine", "X-Forwarded-For", "10.0.0.1", "Cookie", "a=1; b=2")
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
		"requestContext.authorizer.iam": map[string]any{
			"accessKey": "AKID", "accountId": "111122223333", "callerId": "AROALOCAL:laptop", "cognitoIdentity": nil,
			"principalOrgId": "o-local", "userArn": caller, "userId": "AROALOCAL:laptop",
		},
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

func TestBodyIsTextOrBase64(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, contentType, body, want string
		base64                        bool
	}{
		{"JSON", "application/json; charset=utf-8", `{"a":1}`, `{"a":1}`, false},
		{"text", "text/csv", "a,1", "a,1", false},
		{"form", "application/x-www-form-urlencoded", "a=1", "YT0x", true},
		{"no type", "", "a=1", "YT0x", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			event := received(t, org, test.body, "Content-Type", test.contentType)
			check(t, event, map[string]any{"body": test.want, "isBase64Encoded": test.base64})
		})
	}
}

func TestRepliesAreTranslated(t *testing.T) {
	t.Parallel()
	const failed = `{"message":"Internal Server Error"}`
	for _, test := range []struct {
		name, payload string
		status        int
		retryAfter    string
		body          string
	}{
		{"reply", `{"statusCode":503,"headers":{"retry-after":"7"},"body":"x"}`, 503, "7", "x"},
		{"base64", `{"statusCode":200,"body":"eA==","isBase64Encoded":true}`, 200, "", "x"},
		{"no body", `{"statusCode":204}`, 204, "", ""},
		{"JSON alone", `{"token":"x"}`, 200, "", `{"token":"x"}`},
		{"a string alone", `"x"`, 200, "", `"x"`},
		{"not JSON", `token`, 500, "", failed},
		{"nothing", ``, 500, "", failed},
		{"status in words", `{"statusCode":"201"}`, 500, "", failed},
		{"status out of range", `{"statusCode":20}`, 500, "", failed},
		{"body is an object", `{"statusCode":200,"body":{}}`, 500, "", failed},
		{"body is not base64", `{"statusCode":200,"body":"?","isBase64Encoded":true}`, 500, "", failed},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			server := serve(t, &apigateway.Gateway{Function: answers(test.payload)})
			resp, body := do(t, server, sign(t, request(t, server, "POST", org, ""), ""))
			if resp.StatusCode != test.status || body != test.body ||
				resp.Header.Get("Retry-After") != test.retryAfter {
				t.Errorf("%s %v %s, want %d %s", resp.Status, resp.Header, body, test.status, test.body)
			}
			if resp.Header.Get("Apigw-Requestid") == "" {
				t.Error("no Apigw-Requestid")
			}
		})
	}
}

func TestFailuresOfTheIntegration(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name     string
		function function
		status   int
		message  string
	}{
		{"function error", func(context.Context, []byte) (lambda.Result, error) {
			return lambda.Result{Payload: []byte(created), FunctionError: "Unhandled"}, nil
		}, 500, "Internal Server Error"},
		{"no answer", func(context.Context, []byte) (lambda.Result, error) {
			return lambda.Result{}, errors.New("closed")
		}, 500, "Internal Server Error"},
		{"timeout", func(ctx context.Context, _ []byte) (lambda.Result, error) {
			<-ctx.Done()
			return lambda.Result{}, ctx.Err()
		}, 503, "Service Unavailable"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			server := serve(t, &apigateway.Gateway{Function: test.function, Timeout: 50 * time.Millisecond})
			resp, body := do(t, server, sign(t, request(t, server, "POST", org, ""), ""))
			if want := `{"message":"` + test.message + `"}`; resp.StatusCode != test.status || body != want {
				t.Errorf("%s %s, want %d %s", resp.Status, body, test.status, want)
			}
		})
	}
}
