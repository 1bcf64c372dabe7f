// Package handler is the Lambda function between an event and its reply: it decodes what API Gateway, a function URL or
// a direct invocation sent, has a token issued, writes one log line and answers in the caller's form. It knows neither
// GitHub nor Secrets Manager.
package handler

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/aws/aws-lambda-go/lambdacontext"

	"runner-token-broker/internal/runner"
	"runner-token-broker/internal/secret"
)

const (
	maxWait    = 20 * time.Second // less than the function's and the gateway's timeouts
	answerTime = time.Second      // of an invocation's time, to answer and log
)

// Issuer issues tokens; see runner.Issuer.
type Issuer interface {
	Issue(context.Context, runner.Request) (runner.Token, error)
}

// Handler answers invocations. It is safe for concurrent use.
type Handler struct {
	Issuer Issuer
	Log    *slog.Logger // of NewLog; gets one record an invocation

	// Function is the function's name, with which each line has metrics; "" leaves them out.
	Function string

	// SAMLocal lets HTTP events without an IAM identity pass: SAM local does not emulate IAM.
	SAMLocal bool
}

// Invoke implements lambda.Handler. (For a handler function the library would decode the event, and one that is not
// JSON would get no code and no line.) A failed HTTP request is a reply. Only a failed direct invocation returns an
// error, of type messages.InvokeResponse_Error.
func (h *Handler) Invoke(ctx context.Context, payload []byte) ([]byte, error) {
	start := time.Now()
	e := decode(payload)
	c, err := h.command(e)
	meter := new(runner.Meter)
	ctx = runner.WithMeter(ctx, meter)
	var token runner.Token
	if err == nil {
		token, err = h.issue(ctx, start, c.request)
	}
	var refused *runner.Error
	if err != nil {
		refused, token = runner.AsError(err), runner.Token{}
	}
	id := requestID(ctx)
	r := record{
		requestID: id, event: e, request: c.request, token: token, refused: refused, took: time.Since(start),
		meter: meter, function: h.Function,
	}
	h.Log.LogAttrs(ctx, r.level(), r.message(), slog.Any("", r))
	if e.gateway != nil {
		return httpReply(id, c, token, refused)
	}
	return directReply(token, refused)
}

func (h *Handler) issue(ctx context.Context, start time.Time, r runner.Request) (_ runner.Token, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = runner.Unclassified.Refuse("panic: %s\n%s", secret.Text(fmt.Sprint(p)), debug.Stack())
		}
	}()
	end := start.Add(maxWait)
	if deadline, ok := ctx.Deadline(); ok && deadline.Add(-answerTime).Before(end) {
		end = deadline.Add(-answerTime)
	}
	ctx, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	return h.Issuer.Issue(ctx, r)
}

// requestID returns Lambda's own id of the invocation.
func requestID(ctx context.Context) string {
	if lc, ok := lambdacontext.FromContext(ctx); ok {
		return lc.AwsRequestID
	}
	return ""
}
