// Package doctor asks each link of the service and says what it found: before a caller does, and in the operator's
// words. It has tokens made, and throws them away.
package doctor

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"runner-token-broker/internal/runner"
)

const (
	most       = 50 // targets; more take longer than an invocation may
	atOnce     = 5  // calls; GitHub answers bursts with 502
	daysWarn   = 14
	daysFail   = 3
	quotaWarn  = 10 // percent
	clockSlack = time.Minute
)

// What is wrong where GitHub has refused nothing yet.
var (
	expiresSoon = runner.Cause{
		Name: "expires-soon", Code: runner.CredentialRejected, Remedy: "make a new credential and put it into the secret",
	}
	quotaLow = runner.Cause{
		Name: "quota-low", Code: runner.RateLimited,
		Remedy: "fewer calls with this credential's owner, or a GitHub App, which has a quota of its own",
	}
	clockOff = runner.Cause{
		Name: "clock", Code: runner.Internal, Remedy: "this machine's clock is off: AWS and GitHub refuse what it signs",
	}
	notNamed = runner.Cause{
		Name: "no-target-named", Code: runner.TargetNotAllowed,
		Remedy: "name the targets to check: {\"check\":true,\"targets\":[\"repos/OWNER/REPO\"]}",
	}
	tooMany = runner.Cause{
		Name: "too-many-targets", Code: runner.TargetNotAllowed, Remedy: "name those to check, at most 50 at a time",
	}
)

// Doctor checks the service. It is safe for concurrent use.
type Doctor struct {
	Policy   runner.Policy
	Upstream runner.Upstream // makes each token anew: the Minter
}

// Check has a token made for each of the targets, or, if there are none, for each that the policy names, and reports on
// these, on the credentials behind them and on the clock. A target that the policy does not allow is an error. It ends
// with ctx.
func (d *Doctor) Check(ctx context.Context, targets []runner.Target) (runner.Report, error) {
	for _, t := range targets {
		if err := d.Policy.Check(t); err != nil {
			return runner.Report{}, err
		}
	}
	var report runner.Report
	report.Add(runner.Finding{Subject: "settings", Status: runner.OK, Evidence: "the function has started with them"})
	if len(targets) == 0 {
		targets = d.Policy.Targets()
	}
	switch {
	case len(targets) == 0:
		report.Add(finding("targets", runner.Warning, notNamed, "ALLOWED_TARGETS has wildcards alone"))
	case len(targets) > most:
		left := fmt.Sprintf("%d of %d were not looked at", len(targets)-most, len(targets))
		report.Add(finding("targets", runner.Warning, tooMany, left))
		targets = targets[:most]
	}
	results := d.ask(ctx, targets)
	for _, r := range results {
		report.Add(r.finding())
	}
	for _, f := range accounts(results) {
		report.Add(f)
	}
	return report, nil
}

// result is what came of one target's token.
type result struct {
	target     runner.Target
	credential string
	trace      runner.Trace
	err        *runner.Error // nil: a token was made
	asked      time.Time
}

// ask has the tokens made, some at a time, and returns the results in the order of the targets.
func (d *Doctor) ask(ctx context.Context, targets []runner.Target) []result {
	results := make([]result, len(targets))
	slots := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	for i, target := range targets {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			r := result{target: target, asked: time.Now()}
			t, err := d.Upstream.Create(ctx, runner.Request{Target: target, Kind: runner.RegistrationToken})
			if err != nil {
				r.err = runner.AsError(err)
				r.credential, r.trace = r.err.Credential, r.err.GitHub
			} else {
				r.credential, r.trace = t.Credential, t.GitHub
			}
			results[i] = r
		})
	}
	wg.Wait()
	return results
}

func (r result) finding() runner.Finding {
	if r.err == nil {
		return runner.Finding{Subject: r.target.Path(), Status: runner.OK, Evidence: "a token was made, by " + r.credential}
	}
	f := runner.Finding{
		Subject: r.target.Path(), Status: runner.Failed, Code: r.err.Code, Cause: r.err.Cause, Evidence: r.err.Message,
		Remedy: r.err.Remedy,
	}
	if r.err.Err != nil {
		f.Evidence = r.err.Err.Error()
	}
	if r.err.Code == runner.RateLimited || r.err.Code == runner.Unavailable { // it passes
		f.Status = runner.Warning
	}
	return f
}

// accounts returns what GitHub's answers say of each credential, and of the clock.
func accounts(results []result) []runner.Finding {
	var findings []runner.Finding
	seen := map[string]bool{}
	slices.SortStableFunc(results, func(a, b result) int { return strings.Compare(a.credential, b.credential) })
	for _, r := range results {
		if r.credential == "" || r.trace.RequestID == "" || seen[r.credential] {
			continue
		}
		seen[r.credential] = true
		findings = append(findings, expiry(r), quota(r))
		if len(seen) == 1 {
			findings = append(findings, clock(r))
		}
	}
	return findings
}

func expiry(r result) runner.Finding {
	subject, expires := "credential "+r.credential, r.trace.CredentialExpires
	if expires.IsZero() {
		return runner.Finding{Subject: subject, Status: runner.OK, Evidence: "GitHub names no end of it"}
	}
	left := time.Until(expires)
	evidence := fmt.Sprintf("it expires at %s, in %.1f days", expires.Format(time.RFC3339), left.Hours()/24)
	switch days := left.Hours() / 24; {
	case days < daysFail:
		return finding(subject, runner.Failed, expiresSoon, evidence)
	case days < daysWarn:
		return finding(subject, runner.Warning, expiresSoon, evidence)
	}
	return runner.Finding{Subject: subject, Status: runner.OK, Evidence: evidence}
}

func quota(r result) runner.Finding {
	subject := "quota of " + r.credential
	left, errLeft := strconv.ParseUint(r.trace.RateLimitRemaining, 10, 32)
	limit, errLimit := strconv.ParseUint(r.trace.RateLimit, 10, 32)
	if errLeft != nil || errLimit != nil || limit == 0 {
		return runner.Finding{Subject: subject, Status: runner.OK, Evidence: "GitHub names no limit"}
	}
	evidence := fmt.Sprintf("%d of %d calls an hour are left", left, limit)
	if 100*left < quotaWarn*limit {
		return finding(subject, runner.Warning, quotaLow, evidence)
	}
	return runner.Finding{Subject: subject, Status: runner.OK, Evidence: evidence}
}

func clock(r result) runner.Finding {
	if r.trace.Date.IsZero() {
		return runner.Finding{Subject: "clock", Status: runner.OK, Evidence: "GitHub says no time"}
	}
	off := r.asked.Sub(r.trace.Date).Round(time.Second)
	evidence := fmt.Sprintf("it is %s off GitHub's", off.Abs())
	if off.Abs() > clockSlack {
		return finding("clock", runner.Failed, clockOff, evidence)
	}
	return runner.Finding{Subject: "clock", Status: runner.OK, Evidence: evidence}
}

func finding(subject string, status runner.Status, c runner.Cause, evidence string) runner.Finding {
	return runner.Finding{
		Subject: subject, Status: status, Code: c.Code, Cause: c.Name, Evidence: evidence, Remedy: c.Remedy,
	}
}

// Causes are what only the self-check finds.
func Causes() []runner.Cause {
	return []runner.Cause{expiresSoon, quotaLow, clockOff, notNamed, tooMany}
}
