// Package handler is the Lambda function between an event and its reply: it decodes what API Gateway, a function URL or
// a direct invocation sent, has a token issued, writes one log line and answers in the caller's form. It knows neither
// GitHub nor Secrets Manager.
package handler

import (
	"context"
	"log/slog"
	"time"

	"github.com/aws/aws-lambda-go/lambdacontext"

	"runner-token-broker/internal/runner"
)

const (
	maxWait    = 20 * time.Second // less than the function's and the gateway's timeouts
	answerTime = time.Second      // of an invocation's time, to answer and log
)

// Issuer issues tokens; see runner.Issuer.
type Issuer interface {
	Issue(context.Context, runner.Request) (runner.Token, error)
}

// Checker checks the service; see doctor.Doctor.
type Checker interface {
	Check(context.Context, []runner.Target) (runner.Report, error)
}

// Refresher refreshes the shared tokens; see shared.Tokens.
type Refresher interface {
	Refresh(context.Context) (runner.Refreshed, error)
}

// Handler answers invocations. It is safe for concurrent use.
type Handler struct {
	Issuer  Issuer
	Checker Checker
	// Refresher is nil where tokens are not shared.
	Refresher Refresher
	Log       *slog.Logger // of NewLog; gets one record an invocation

	// Function is the function's name, with which each line has metrics; "" leaves them out.
	Function string

	// SAMLocal lets HTTP events without an IAM identity pass: SAM local does not emulate IAM.
	SAMLocal bool
}

// Invoke implements lambda.Handler. (For a handler function the library would decode the event, and one that is not
// JSON would get no code and no line.) A failed HTTP request is a reply. Only a failed direct invocation returns an
// error, of type messages.InvokeResponse_Error.
func (h *Handler) Invoke(ctx context.Context, payload []byte) ([]byte, error) {
	r := record{requestID: requestID(ctx), event: decode(payload), meter: new(runner.Meter), function: h.Function}
	start := time.Now()
	ctx, cancel := within(runner.WithMeter(ctx, r.meter), start)
	defer cancel()
	c, err := h.command(r.event)
	if err == nil {
		r.command = c
		err = h.do(ctx, c, &r)
	}
	if err != nil {
		r.refused = runner.AsError(err)
	}
	r.took = time.Since(start)
	h.Log.LogAttrs(ctx, r.level(), r.message(), slog.Any("", r))
	if r.event.gateway != nil {
		return httpReply(r)
	}
	return directReply(r)
}

// do carries out the command and puts what came of it into the record.
func (h *Handler) do(ctx context.Context, c command, r *record) (err error) {
	defer runner.Recover(&err)
	switch c := c.(type) {
	case issue:
		r.token, err = h.Issuer.Issue(ctx, c.Request)
	case check:
		r.report, err = h.Checker.Check(ctx, c.targets)
	case refresh:
		r.refreshed = new(runner.Refreshed)
		*r.refreshed, err = h.Refresher.Refresh(ctx)
	}
	return err
}

// within cuts every wait from the invocation's deadline.
func within(ctx context.Context, start time.Time) (context.Context, context.CancelFunc) {
	end := start.Add(maxWait)
	if deadline, ok := ctx.Deadline(); ok && deadline.Add(-answerTime).Before(end) {
		end = deadline.Add(-answerTime)
	}
	return context.WithDeadline(ctx, end)
}

// requestID returns Lambda's own id of the invocation.
func requestID(ctx context.Context) string {
	if lc, ok := lambdacontext.FromContext(ctx); ok {
		return lc.AwsRequestID
	}
	return ""
}
