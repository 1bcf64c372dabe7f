package handler

import (
	"context"
	"encoding/json"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/aws/aws-lambda-go/lambda/messages"

	"runner-token-broker/internal/runner"
)

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

func httpReply(ctx context.Context, c call, t runner.Token, err error) ([]byte, error) {
	reply := gatewayReply{
		StatusCode: http.StatusCreated,
		Headers:    map[string]string{"Content-Type": "application/json", "Cache-Control": "no-store"},
	}
	var body any = newTokenReply(t)
	if err != nil {
		e := runner.AsError(err)
		reply.StatusCode = statusOf(e.Code)
		if reply.StatusCode == http.StatusServiceUnavailable && e.RetryAfter > 0 {
			reply.Headers["Retry-After"] = strconv.Itoa(int(math.Ceil(e.RetryAfter.Seconds())))
		}
		body = failureReply{e.Code, e.Message, requestID(ctx)}
	}
	text, marshalErr := json.Marshal(body)
	if marshalErr != nil {
		return nil, marshalErr
	}
	reply.Body = string(text)
	if c.plain && err == nil {
		reply.Headers["Content-Type"] = "text/plain"
		reply.Body = t.Value.Reveal()
	}
	return json.Marshal(reply)
}

// directReply's error is of this type, by value and unwrapped: aws-lambda-go takes the errorType from no other, and
// every error it is given it prints (lambda/invoke_loop.go).
func directReply(t runner.Token, err error) ([]byte, error) {
	if err != nil {
		e := runner.AsError(err)
		return nil, messages.InvokeResponse_Error{Type: string(e.Code), Message: e.Message}
	}
	return json.Marshal(newTokenReply(t))
}

func statusOf(code runner.Code) int {
	switch code {
	case runner.InvalidRequest:
		return http.StatusBadRequest
	case runner.CallerNotAuthenticated, runner.TargetNotAllowed:
		return http.StatusForbidden
	case runner.TargetNotFound:
		return http.StatusNotFound
	case runner.CredentialRejected, runner.CredentialForbidden:
		return http.StatusBadGateway
	case runner.RateLimited, runner.Unavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError // CredentialMissing, Internal, and what nobody thought of
}
