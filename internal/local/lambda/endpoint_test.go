package lambda_test

import (
	"bytes"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"runner-token-broker/internal/local/lambda"
	"runner-token-broker/internal/local/output"
	"runner-token-broker/internal/local/sigv4"
)

var caller = aws.Credentials{AccessKeyID: "AKIDCALLER", SecretAccessKey: "SECRET", SessionToken: "SESSION"}

func serve(t *testing.T, e *lambda.Endpoint) (url string) {
	t.Helper()
	e.Credentials = caller
	server := httptest.NewServer(e)
	t.Cleanup(server.Close)
	return server.URL
}

const invocations = "/2015-03-31/functions/token/invocations"

// call sends a request to an Endpoint, signed with the caller's credentials for the service lambda.
func call(t *testing.T, method, url, body string, header ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	if err := sigv4.Sign(r, []byte(body), caller, "us-east-1", "lambda"); err != nil {
		t.Fatal(err)
	}
	return send(t, r)
}

func send(t *testing.T, r *http.Request) (*http.Response, string) {
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
	return resp, string(body)
}

func TestEndpointAnswersAsLambdaDoes(t *testing.T) {
	t.Parallel()
	url := serve(t, &lambda.Endpoint{Service: start(t, lambda.Function{})})
	const sync, async, dry = "RequestResponse", "Event", "DryRun"
	for _, test := range []struct {
		name          string
		kind, payload string
		status        int
		functionError string
		want          string
	}{
		{"an answer", "", `{"Do":"nothing"}`, 200, "", "null"},
		{"an answer that is waited for", sync, `{"Do":"nothing"}`, 200, "", "null"},
		{"no payload", sync, "", 200, "", "null"}, // the function gets {}
		{"an error of the function", sync, `{"Do":"error"}`, 200, "Unhandled",
			`{"errorMessage":"no","errorType":"errorString"}`},
		{"an event", async, `{"Do":"error"}`, 202, "", ""},
		{"a dry run", dry, `{"Do":"error"}`, 204, "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			resp, body := call(t, "POST", url+invocations, test.payload, "X-Amz-Invocation-Type", test.kind)
			if resp.StatusCode != test.status || body != test.want ||
				resp.Header.Get("X-Amz-Function-Error") != test.functionError ||
				resp.Header.Get("X-Amz-Executed-Version") != "$LATEST" {
				t.Errorf("%s %v %s, want %d %s", resp.Status, resp.Header, body, test.status, test.want)
			}
			if hasID := resp.Header.Get("X-Amzn-Requestid") != ""; hasID != (test.status == 200) {
				t.Errorf("it has a request id: %t", hasID)
			}
		})
	}
}

func TestEndpointFindsTheFunctionByEachOfItsNames(t *testing.T) {
	t.Parallel()
	url := serve(t, &lambda.Endpoint{Service: start(t, lambda.Function{Name: "f"})})
	const found, missing = http.StatusNoContent, http.StatusNotFound
	for path, want := range map[string]int{
		"f":                           found,
		"f:$LATEST":                   found,
		"f:%24LATEST":                 found,
		"123456789012:function:f":     found,
		"123456789012%3Afunction%3Af": found,
		"arn%3Aaws%3Alambda%3Aus-east-1%3A123456789012%3Afunction%3Af":             found,
		"arn%3Aaws%3Alambda%3Aus-east-1%3A123456789012%3Afunction%3Af%3A%24LATEST": found,
		"g":       missing,
		"F":       missing,
		"f:1":     missing,
		"f:alias": missing,
		"arn%3Aaws%3Alambda%3Aeu-west-1%3A123456789012%3Afunction%3Af": missing,
	} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			resp, body := call(t, "POST", url+"/2015-03-31/functions/"+path+"/invocations", "",
				"X-Amz-Invocation-Type", "DryRun")
			if resp.StatusCode != want {
				t.Errorf("%s %s, want %d", resp.Status, body, want)
			}
		})
	}
}

func TestEndpointRefuses(t *testing.T) {
	t.Parallel()
	var out output.Buffer
	url := serve(t, &lambda.Endpoint{Service: start(t, lambda.Function{Output: &out})})
	for _, test := range []struct {
		name, method, path, body, kind string
		status                         int
		code                           string
	}{
		{"another function", "POST", "/2015-03-31/functions/other/invocations", "", "", 404, "ResourceNotFoundException"},
		{"another version", "POST", invocations + "?Qualifier=7", "", "", 404, "ResourceNotFoundException"},
		{"another operation", "POST", "/2015-03-31/functions/token/versions", "", "", 404, "UnknownOperationException"},
		{"another API", "POST", "/2014-11-13/functions/token/invocations", "", "", 404, "UnknownOperationException"},
		{"another method", "GET", invocations, "", "", 404, "UnknownOperationException"},
		{"a payload that is not JSON", "POST", invocations, "{", "Event", 400, "InvalidRequestContentException"},
		{"a payload that is too large", "POST", invocations, strings.Repeat(" ", 6<<20+1), "",
			413, "RequestTooLargeException"},
		{"another invocation type", "POST", invocations, "", "Later", 400, "InvalidParameterValueException"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			resp, body := call(t, test.method, url+test.path, test.body, "X-Amz-Invocation-Type", test.kind)
			if got := resp.Header.Get("X-Amzn-Errortype"); resp.StatusCode != test.status || got != test.code ||
				!strings.HasPrefix(body, `{"Message":"`) {
				t.Errorf("%s %s %s, want %d %s", resp.Status, got, body, test.status, test.code)
			}
		})
	}
	t.Cleanup(func() {
		if out.String() != "" {
			t.Errorf("the function was invoked: %s", &out)
		}
	})
}

func TestEndpointInvokesOnlyForItsCaller(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		change func(*http.Request)
		code   string
	}{
		{"unsigned", func(r *http.Request) { r.Header.Del("Authorization") }, "MissingAuthenticationTokenException"},
		{"no session token", func(r *http.Request) { r.Header.Del("X-Amz-Security-Token") }, "UnrecognizedClientException"},
		{"another service", func(r *http.Request) {
			sigv4.Sign(r, nil, caller, "us-east-1", "execute-api")
		}, "InvalidSignatureException"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var out, logged bytes.Buffer
			s := start(t, lambda.Function{Output: &out})
			r, err := http.NewRequestWithContext(t.Context(), "POST", serve(t, &lambda.Endpoint{
				Service: s, Log: log.New(&logged, "", 0)})+invocations, http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			if err := sigv4.Sign(r, nil, caller, "us-east-1", "lambda"); err != nil {
				t.Fatal(err)
			}
			test.change(r)
			resp, body := send(t, r)
			if got := resp.Header.Get("X-Amzn-Errortype"); resp.StatusCode != 403 || got != test.code {
				t.Errorf("%s %s %s, want 403 %s", resp.Status, got, body, test.code)
			}
			s.Close()
			if out.Len() > 0 || !strings.HasPrefix(logged.String(), `POST "`+invocations+`" 403 `+test.code+": ") {
				t.Errorf("the function printed %q, log %q", &out, &logged)
			}
		})
	}
}

func TestEventIsInvokedAfterItsCallerLeft(t *testing.T) {
	t.Parallel()
	m := newMeeting(t)
	url := serve(t, &lambda.Endpoint{Service: start(t, lambda.Function{})})
	for range 2 { // the second one waits for the environment
		resp, body := call(t, "POST", url+invocations, string(m.event()), "X-Amz-Invocation-Type", "Event")
		if resp.StatusCode != 202 {
			t.Fatalf("%s %s", resp.Status, body)
		}
	}
	for range 2 {
		select {
		case conn := <-m.arrived:
			conn.Close()
		case <-time.After(10 * time.Second):
			t.Fatal("the function is not invoked")
		}
	}
}
