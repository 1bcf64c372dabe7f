package handler

import (
	"io"
	"log/slog"
	"time"

	"runner-token-broker/internal/runner"
	"runner-token-broker/internal/secret"
)

// record is what is logged of one invocation. Nothing in it is secret, and what comes from outside is fit for a log.
type record struct {
	requestID string // Lambda's
	event     event
	command   command       // nil if the event asks for nothing that there is
	refused   *runner.Error // nil if it was carried out; then one of the next two is set
	token     runner.Token
	report    runner.Report
	refreshed *runner.Refreshed
	took      time.Duration
	meter     *runner.Meter
	function  string // whose metrics are in the line; "": none are
}

// NewLog returns a logger that writes one line of JSON for each record. Lambda's level filter reads the names "level"
// and "timestamp"; the others are as aws-lambda-go's logger has them
// (https://docs.aws.amazon.com/lambda/latest/dg/monitoring-cloudwatchlogs-logformat.html).
func NewLog(w io.Writer) *slog.Logger {
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			switch {
			case len(groups) > 0:
			case a.Key == slog.TimeKey:
				a.Key = "timestamp"
			case a.Key == slog.MessageKey:
				a.Key = "message"
			}
			return a
		},
	}))
}

func (r record) level() slog.Level {
	switch {
	case r.refused != nil:
		return answerTo(r.refused.Code).level
	case r.report.Status == runner.Failed:
		return slog.LevelError
	case r.report.Status == runner.Warning, r.token.Outage != nil,
		r.refreshed != nil && len(r.refreshed.Failed)+r.refreshed.Dropped > 0:
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

func (r record) message() string {
	switch {
	case r.refused != nil:
		switch r.command.(type) {
		case check:
			return "self-check refused"
		case refresh:
			return "shared tokens not refreshed"
		}
		return "token refused"
	case r.report.Status != "":
		return "self-check: " + string(r.report.Status)
	case r.refreshed != nil:
		return "shared tokens refreshed"
	case r.token.Outage != nil:
		return "token issued from before an outage"
	}
	return "token issued"
}

// outcome is the code, or what was done.
func (r record) outcome() string {
	switch {
	case r.refused != nil:
		return string(r.refused.Code)
	case r.report.Status != "":
		return "checked"
	case r.refreshed != nil:
		return "refreshed"
	}
	return "issued"
}

// LogValue implements slog.LogValuer.
func (r record) LogValue() slog.Value {
	var attrs []slog.Attr
	text := func(key, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(key, value))
		}
	}
	text("requestId", r.requestID)
	text("gateway_request_id", secret.Text(r.event.gateway.requestID()))
	text("entry", r.event.entry())
	text("caller", secret.Text(r.event.gateway.caller()))
	text("source_ip", secret.Text(r.event.gateway.sourceIP()))
	if c, ok := r.command.(issue); ok {
		text("target", c.Target.Path())
		text("kind", string(c.Kind))
	}

	trace, credential, failure := r.token.GitHub, r.token.Credential, r.token.Outage
	switch {
	case r.refused != nil:
		trace, credential, failure = r.refused.GitHub, r.refused.Credential, r.refused
	case r.report.Status != "":
		trace = r.report.GitHub
	}
	text("outcome", r.outcome())
	switch {
	case r.report.Status != "":
		text("status", string(r.report.Status))
		// A scheduled one has no other reader.
		attrs = append(attrs, slog.Any("findings", r.report.NotOK()))
	case r.refreshed != nil:
		attrs = append(attrs, slog.Any("refreshed", r.refreshed))
	case r.refused == nil:
		text("source", string(r.token.Source))
		text("expires_at", r.token.ExpiresAt.UTC().Format(time.RFC3339))
		text("token_sha256", r.token.Value.SHA256()[:12])
	}
	passedOver, _ := r.meter.Shared()
	text("shared_passed_over", passedOver)
	text("credential", credential)
	text("github_request_id", trace.RequestID)
	text("ratelimit_remaining", trace.RateLimitRemaining)
	if expires := trace.CredentialExpires; !expires.IsZero() {
		text("credential_expires_at", expires.Format(time.RFC3339))
	}
	attrs = append(attrs, slog.Float64("duration_ms", float64(r.took.Microseconds())/1000))
	if failure != nil {
		e := runner.AsError(failure)
		text("cause", e.Cause)
		text("error", e.Operator())
	}
	if r.function != "" {
		attrs = append(attrs, r.metrics(trace)...)
	}
	return slog.GroupValue(attrs...)
}
