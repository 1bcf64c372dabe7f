package handler

import (
	"log/slog"
	"math"
	"strconv"
	"time"

	"runner-token-broker/internal/runner"
)

// CloudWatch makes metrics of a log line that says under "_aws" which of its fields they are:
// https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html.
type embedded struct {
	Timestamp         int64 // milliseconds since 1970
	CloudWatchMetrics []directive
}

type directive struct {
	Namespace  string
	Dimensions [][]string
	Metrics    []metric
}

type metric struct {
	Name string
	Unit string
}

const namespace = "RunnerTokenBroker"

// metrics returns the fields of the line that CloudWatch counts, and what it must know of them. Each of the dimensions
// has few values: a target or a caller would make a metric of its own, which costs.
func (r record) metrics(trace runner.Trace) []slog.Attr {
	fields := []slog.Attr{slog.String("FunctionName", r.function)}
	e := embedded{Timestamp: time.Now().UnixMilli()}
	dimension := func(name, value, count string) {
		if value == "" {
			return
		}
		fields = append(fields, slog.String(name, value), slog.Int(count, 1))
		e.CloudWatchMetrics = append(e.CloudWatchMetrics, directive{
			namespace, [][]string{{"FunctionName", name}}, []metric{{count, "Count"}},
		})
	}
	dimension("Outcome", r.outcome(), "Invocations")
	if r.refused != nil {
		dimension("Cause", r.refused.Cause, "Refusals")
	} else {
		dimension("Source", string(r.token.Source), "Tokens") // "" of all but issue
	}

	whole := directive{Namespace: namespace, Dimensions: [][]string{{"FunctionName"}}}
	value := func(name, unit string, v float64) {
		fields = append(fields, slog.Float64(name, math.Round(v*1000)/1000))
		whole.Metrics = append(whole.Metrics, metric{name, unit})
	}
	github, secretsManager := r.meter.Read()
	value("GitHubCalls", "Count", float64(github.Count))
	if github.Count > 0 {
		value("GitHubLatency", "Milliseconds", milliseconds(github.Took)/float64(github.Count))
	}
	if secretsManager.Count > 0 {
		value("SecretsManagerLatency", "Milliseconds", milliseconds(secretsManager.Took)/float64(secretsManager.Count))
	}
	if quota, ok := percent(trace.RateLimitRemaining, trace.RateLimit); ok {
		value("QuotaRemaining", "Percent", quota)
	}
	if expires := trace.CredentialExpires; !expires.IsZero() {
		value("CredentialDaysLeft", "None", time.Until(expires).Hours()/24)
	}
	if _, age := r.meter.Shared(); age > 0 {
		value("SharedTokensAge", "Seconds", age.Seconds())
	}
	if r.refreshed != nil {
		if r.refused == nil { // the alarm counts the samples: a refresh that fails is none
			value("SharedTokensWritten", "Count", float64(r.refreshed.Written))
		}
		value("SharedTokensFailed", "Count", float64(len(r.refreshed.Failed)))
	}
	if r.report.Status != "" {
		failed := 0
		for _, f := range r.report.Findings {
			if f.Status == runner.Failed {
				failed++
			}
		}
		value("CheckFailed", "Count", float64(failed))
	}
	e.CloudWatchMetrics = append(e.CloudWatchMetrics, whole)
	return append(fields, slog.Any("_aws", e))
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func percent(part, whole string) (float64, bool) {
	a, errA := strconv.ParseUint(part, 10, 32)
	b, errB := strconv.ParseUint(whole, 10, 32)
	return 100 * float64(a) / float64(b), errA == nil && errB == nil && b > 0 && a <= b
}
