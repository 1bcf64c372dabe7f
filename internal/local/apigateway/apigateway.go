// Package apigateway stands in for an HTTP API of Amazon API Gateway with IAM authorization and one Lambda function
// behind it: the service's six routes, throttling, signature verification (as sigv4 says), the event (payload format
// 2.0), and the reply.
//
// It does not know IAM policies: a caller with the credentials may call every route. It does not write access logs. It
// knows no stage but $default, no CORS, no custom domain and no cookies in replies. It does not cut rawPath at a
// decoded question mark. AWS does not say what it does with escaped slashes, and whether a refused signature counts for
// the throttle: here the path is routed as it was sent, and it counts.
package apigateway

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"golang.org/x/time/rate"

	"runner-token-broker/internal/local/lambda"
	"runner-token-broker/internal/local/sigv4"
)

// Function is the integration behind all routes. It is called from many goroutines at once.
type Function interface {
	Invoke(ctx context.Context, payload []byte) (lambda.Result, error)
}

// Gateway is the API. Its fields must not change while it serves.
type Gateway struct {
	Function    Function
	Region      string
	Credentials aws.Credentials // of the one caller that it knows
	CallerARN   string
	Throttle    *rate.Limiter // the stage's; nil: none
	Timeout     time.Duration // of the integration; 29 s if 0
	Log         *log.Logger   // gets a line for each request, with the reason of a refusal; nil: none
}

var routes = [][]string{
	split("/orgs/{org}/actions/runners/registration-token"),
	split("/orgs/{org}/actions/runners/remove-token"),
	split("/repos/{owner}/{repo}/actions/runners/registration-token"),
	split("/repos/{owner}/{repo}/actions/runners/remove-token"),
	split("/enterprises/{enterprise}/actions/runners/registration-token"),
	split("/enterprises/{enterprise}/actions/runners/remove-token"),
}

func split(path string) []string { return strings.Split(path, "/") }

const maxBody = 10 << 20

func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := rand.Text()[:16]
	w.Header().Set("Apigw-Requestid", id)
	status, why := g.serve(w, r, id)
	if g.Log != nil {
		g.Log.Printf("%s %q %d %s", r.Method, r.URL.EscapedPath(), status, why)
	}
}

// serve answers r, and returns what to log about it.
func (g *Gateway) serve(w http.ResponseWriter, r *http.Request, id string) (status int, why string) {
	route, variables := match(r)
	if route == "" {
		return refuse(w, http.StatusNotFound, "Not Found"), "no such route"
	}
	if g.Throttle != nil && !g.Throttle.Allow() {
		return refuse(w, http.StatusTooManyRequests, "Too Many Requests"), "throttled"
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return refuse(w, http.StatusRequestEntityTooLarge, "Request Entity Too Large"), ""
	}
	if err != nil {
		return refuse(w, http.StatusBadRequest, "Bad Request"), "the body cannot be read"
	}
	verifier := sigv4.Verifier{Credentials: g.Credentials, Region: g.Region, Service: "execute-api"}
	if err := verifier.Verify(r, body); err != nil {
		return refuse(w, http.StatusForbidden, "Forbidden"), err.Error()
	}

	e := event{gateway: g, request: r, id: id, route: route, variables: variables, body: body, now: time.Now()}
	payload, err := json.Marshal(e.render())
	if err != nil {
		return refuse(w, http.StatusInternalServerError, "Internal Server Error"), err.Error()
	}
	ctx, cancel := context.WithTimeout(r.Context(), cmp.Or(g.Timeout, 29*time.Second))
	defer cancel()
	result, err := g.Function.Invoke(ctx, payload)
	switch {
	case r.Context().Err() != nil:
		return 499, "the client left"
	case errors.Is(err, context.DeadlineExceeded):
		return refuse(w, http.StatusServiceUnavailable, "Service Unavailable"), "integration timeout"
	case err != nil:
		return refuse(w, http.StatusInternalServerError, "Internal Server Error"), err.Error()
	case result.FunctionError != "":
		why := "function error " + errorType(result.Payload)
		return refuse(w, http.StatusInternalServerError, "Internal Server Error"), why
	}
	reply, err := parseReply(result.Payload)
	if err != nil {
		return refuse(w, http.StatusInternalServerError, "Internal Server Error"), err.Error()
	}
	for name, value := range reply.header {
		w.Header().Set(name, value)
	}
	w.WriteHeader(reply.status)
	w.Write(reply.body)
	return reply.status, ""
}

// match returns the template of the route that r takes, or "" if there is none.
func match(r *http.Request) (route string, variables map[string]string) {
	if r.Method != http.MethodPost {
		return "", nil
	}
	// The path is still escaped: an escaped slash does not end a segment.
	segments := split(r.URL.EscapedPath())
	for _, template := range routes {
		if variables, ok := fits(template, segments); ok {
			return strings.Join(template, "/"), variables
		}
	}
	return "", nil
}

func fits(template, segments []string) (map[string]string, bool) {
	if len(template) != len(segments) {
		return nil, false
	}
	variables := map[string]string{}
	for i, want := range template {
		name, isVariable := strings.CutPrefix(want, "{")
		switch {
		case isVariable && segments[i] != "":
			variables[strings.TrimSuffix(name, "}")] = unescape(segments[i])
		case want != segments[i]:
			return nil, false
		}
	}
	return variables, true
}

func refuse(w http.ResponseWriter, status int, message string) int {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"message":%q}`, message)
	return status
}

func errorType(payload []byte) string {
	var e struct{ ErrorType string }
	json.Unmarshal(payload, &e)
	return e.ErrorType
}

type reply struct {
	status int
	header map[string]string
	body   []byte
}

// parseReply reads what the function returned. JSON without a statusCode is taken for the body of a 200.
func parseReply(payload []byte) (reply, error) {
	var output struct {
		StatusCode      *int
		Headers         map[string]string
		Body            string
		IsBase64Encoded bool
	}
	err := json.Unmarshal(payload, &output)
	switch {
	case !json.Valid(payload):
		return reply{}, errors.New("the function's output is not JSON")
	case err != nil && payload[0] != '{', err == nil && output.StatusCode == nil:
		return reply{http.StatusOK, map[string]string{"Content-Type": "application/json"}, payload}, nil
	case err != nil:
		return reply{}, errors.New("the function's output is not a reply")
	case *output.StatusCode < 200 || *output.StatusCode > 599:
		return reply{}, errors.New("the function's output has no usable statusCode")
	}
	body := []byte(output.Body)
	if output.IsBase64Encoded {
		if body, err = base64.StdEncoding.DecodeString(output.Body); err != nil {
			return reply{}, errors.New("the function's body is not base64")
		}
	}
	header := map[string]string{"Content-Type": "text/plain; charset=utf-8"} // unless the function says otherwise
	for name, value := range output.Headers {
		header[http.CanonicalHeaderKey(name)] = value
	}
	return reply{*output.StatusCode, header, body}, nil
}
