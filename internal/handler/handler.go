// Package handler is the Lambda function between an event and its reply: it decodes what API Gateway, a function URL or
// a direct invocation sent, has a token issued, writes one log line and answers in the caller's form. It knows neither
// GitHub nor Secrets Manager.
package handler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/aws/aws-lambda-go/lambdacontext"

	"runner-token-broker/internal/runner"
)

const (
	maxWait    = 20 * time.Second // less than the function's and the gateway's timeouts
	answerTime = time.Second      // kept of an invocation's time to answer and log
)

// Issuer issues tokens; see runner.Issuer.
type Issuer interface {
	Issue(context.Context, runner.Request) (runner.Token, error)
}

// Handler answers invocations. It is safe for concurrent use.
type Handler struct {
	Issuer Issuer
	Log    *slog.Logger // gets one record an invocation

	// SAMLocal lets HTTP events without an IAM identity pass: SAM local does not emulate IAM.
	SAMLocal bool
}

// Invoke is lambda.Handler's method. (A handler function would have the library decode the event, and an event that is
// no JSON would neither be InvalidRequest nor be logged.) A failed HTTP request is a reply; only a failed direct
// invocation returns an error.
func (h *Handler) Invoke(ctx context.Context, event []byte) ([]byte, error) {
	start := time.Now()
	c := h.decode(event)
	token, err := h.issue(ctx, start, c)
	h.log(ctx, c, token, err, time.Since(start))
	if c.entry == httpEntry {
		return httpReply(ctx, c, token, err)
	}
	return directReply(token, err)
}

func (h *Handler) issue(ctx context.Context, start time.Time, c call) (_ runner.Token, err error) {
	if c.refused != nil {
		return runner.Token{}, c.refused
	}
	defer func() {
		if p := recover(); p != nil {
			err = runner.Refuse(runner.Internal, fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
		}
	}()
	end := start.Add(maxWait)
	if deadline, ok := ctx.Deadline(); ok && deadline.Add(-answerTime).Before(end) {
		end = deadline.Add(-answerTime)
	}
	ctx, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	return h.Issuer.Issue(ctx, c.request)
}

// log writes the one line of an invocation.
func (h *Handler) log(ctx context.Context, c call, t runner.Token, err error, took time.Duration) {
	level, message, outcome, answer := slog.LevelInfo, "token issued", "issued", t.GitHub
	attrs := []slog.Attr{
		slog.String("requestId", requestID(ctx)),
		slog.String("entry", string(c.entry)),
	}
	text := func(key, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(key, value))
		}
	}
	text("caller", c.caller)
	text("source_ip", c.sourceIP)
	text("target", c.request.Target.Path())
	text("kind", string(c.request.Kind))
	cause := t.Outage
	if cause != nil {
		level, message = slog.LevelWarn, "token issued from before an outage"
	}
	if err != nil {
		e := runner.AsError(err)
		level, message, outcome, answer = levelOf(e.Code), "token refused", string(e.Code), e.GitHub
		cause = cmp.Or(e.Err, errors.New(e.Message))
	}
	text("outcome", outcome)
	if err == nil {
		text("source", string(t.Source))
		text("expires_at", t.ExpiresAt.UTC().Format(time.RFC3339))
		text("token_sha256", t.Value.SHA256()[:12])
	}
	text("github_request_id", answer.RequestID)
	text("ratelimit_remaining", answer.RateLimitRemaining)
	attrs = append(attrs, slog.Float64("duration_ms", float64(took.Microseconds())/1000))
	if cause != nil {
		text("error", cause.Error())
	}
	h.Log.LogAttrs(ctx, level, message, attrs...)
}

func levelOf(code runner.Code) slog.Level {
	switch code {
	case runner.InvalidRequest, runner.TargetNotAllowed, runner.TargetNotFound, runner.RateLimited, runner.Unavailable:
		return slog.LevelWarn // the caller's, or it passes
	}
	return slog.LevelError // an operator must act
}

// requestID returns Lambda's own id of the invocation.
func requestID(ctx context.Context) string {
	if lc, ok := lambdacontext.FromContext(ctx); ok {
		return lc.AwsRequestID
	}
	return ""
}
