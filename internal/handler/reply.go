package handler

import (
	"encoding/json"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/aws/aws-lambda-go/lambda/messages"

	"runner-token-broker/internal/runner"
)

// answer is how a code is answered over HTTP, and logged: as ERROR where an operator must act, as WARN where it passes
// or the caller must act.
type answer struct {
	status int
	level  slog.Level
}

// answers: GitHub's 401 and 403 are 502, so that the caller does not take them for API Gateway's refusal of itself.
var answers = map[runner.Code]answer{
	runner.InvalidRequest:         {http.StatusBadRequest, slog.LevelWarn},
	runner.CallerNotAuthenticated: {http.StatusForbidden, slog.LevelError},
	runner.TargetNotAllowed:       {http.StatusForbidden, slog.LevelWarn},
	runner.TargetNotFound:         {http.StatusNotFound, slog.LevelWarn},
	runner.CredentialMissing:      {http.StatusInternalServerError, slog.LevelError},
	runner.CredentialRejected:     {http.StatusBadGateway, slog.LevelError},
	runner.CredentialForbidden:    {http.StatusBadGateway, slog.LevelError},
	runner.RateLimited:            {http.StatusServiceUnavailable, slog.LevelWarn},
	runner.Unavailable:            {http.StatusServiceUnavailable, slog.LevelWarn},
	runner.Internal:               {http.StatusInternalServerError, slog.LevelError},
}

// answerTo treats a code that nobody thought of as Internal.
func answerTo(code runner.Code) answer {
	if a, ok := answers[code]; ok {
		return a
	}
	return answers[runner.Internal]
}

type tokenReply struct {
	Token     string `json:"token"`
	ExpiresAt string `json:"expires_at"`
	ExpiresIn int    `json:"expires_in"` // seconds
	RunnerURL string `json:"runner_url"`
}

func newTokenReply(t runner.Token) tokenReply {
	return tokenReply{
		Token:     t.Value.Reveal(),
		ExpiresAt: t.ExpiresAt.UTC().Format(time.RFC3339),
		ExpiresIn: int(time.Until(t.ExpiresAt).Seconds()),
		RunnerURL: t.RunnerURL,
	}
}

type failureReply struct {
	Code      runner.Code `json:"code"`
	Message   string      `json:"message"`
	RequestID string      `json:"request_id"`
}

// gatewayReply is what every kind of HTTP integration takes.
type gatewayReply struct {
	StatusCode int               `json:"statusCode"`
	Headers    map[string]string `json:"headers"`
	Body       string            `json:"body"`
}

func httpReply(r record) ([]byte, error) {
	reply := gatewayReply{
		StatusCode: http.StatusCreated,
		Headers:    map[string]string{"Content-Type": "application/json", "Cache-Control": "no-store"},
	}
	switch {
	case r.refused != nil:
		e := r.refused
		reply.StatusCode = answerTo(e.Code).status
		if reply.StatusCode == http.StatusServiceUnavailable && e.RetryAfter > 0 {
			reply.Headers["Retry-After"] = strconv.Itoa(int(math.Ceil(e.RetryAfter.Seconds())))
		}
		reply.Body = indented(failureReply{e.Code, e.Message, r.requestID})
	case r.command.(issue).plain: // nothing else can be asked for by HTTP
		reply.Headers["Content-Type"] = "text/plain"
		reply.Body = r.token.Value.Reveal()
	default:
		reply.Body = indented(newTokenReply(r.token))
	}
	return json.Marshal(reply)
}

// indented is GitHub's own layout: scripts without a JSON parser look for `"token": "`.
func indented(reply any) string {
	text, err := json.MarshalIndent(reply, "", "  ")
	if err != nil {
		panic(err) // it has nothing but strings and a number
	}
	return string(text)
}

// directReply's error is of this type, by value and unwrapped: aws-lambda-go takes the errorType from no other, and
// every error it is given it prints (lambda/invoke_loop.go).
func directReply(r record) ([]byte, error) {
	switch {
	case r.refused != nil:
		return nil, messages.InvokeResponse_Error{Type: string(r.refused.Code), Message: r.refused.Message}
	case r.report.Status != "":
		return json.Marshal(r.report)
	case r.refreshed != nil:
		return json.Marshal(r.refreshed)
	}
	return json.Marshal(newTokenReply(r.token))
}
