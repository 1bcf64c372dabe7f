// Package doctor asks each link of the service and says what it found: before a caller does, and in the operator's
// words. It has tokens made, and throws them away.
package doctor

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
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
	Probes   []Probe
}

// Probe looks at one thing that the service rests on.
type Probe struct {
	Subject string
	// Ask returns what it saw, or an *runner.Error. It ends with the context.
	Ask func(context.Context) (evidence string, err error)
	// Optional says that the service works without it.
	Optional bool
}

// Check has a token made for each of the targets, or, if there are none, for each that the policy names, and reports on
// these, on the credentials behind them, on the clock and on what the probes see. A target that the policy does not
// allow is an error. It ends with ctx.
func (d *Doctor) Check(ctx context.Context, targets []runner.Target) (runner.Report, error) {
	for _, t := range targets {
		if err := d.Policy.Check(t); err != nil {
			return runner.Report{}, err
		}
	}
	var report runner.Report
	report.Add(runner.Finding{Subject: "settings", Status: runner.OK, Evidence: "the function has started with them"})
	for _, p := range d.Probes {
		report.Add(p.finding(ctx))
	}
	targets = distinct(targets)
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
	works := slices.ContainsFunc(results, func(r result) bool { return r.err == nil })
	for _, r := range results {
		report.Add(r.finding(works))
		report.GitHub = worse(report.GitHub, r.trace)
	}
	for _, f := range accounts(results) {
		report.Add(f)
	}
	return report, nil
}

func distinct(targets []runner.Target) []runner.Target {
	seen := map[runner.Target]bool{}
	return slices.DeleteFunc(slices.Clone(targets), func(t runner.Target) bool {
		again := seen[t]
		seen[t] = true
		return again
	})
}

func (p Probe) finding(ctx context.Context) runner.Finding {
	evidence, err := p.Ask(ctx)
	switch {
	case err == nil:
		return runner.Finding{Subject: p.Subject, Status: runner.OK, Evidence: evidence}
	case p.Optional:
		return refused(p.Subject, runner.Warning, runner.AsError(err))
	}
	return refused(p.Subject, runner.Failed, runner.AsError(err))
}

// result is what came of one target's token.
type result struct {
	target     runner.Target
	account    string // "" if none was made
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
			t, err := d.make(ctx, target)
			if err != nil {
				r.err = runner.AsError(err)
				r.credential, r.trace = r.err.Credential, r.err.GitHub
			} else {
				r.account, r.credential, r.trace = t.Account, t.Credential, t.GitHub
			}
			results[i] = r
		})
	}
	wg.Wait()
	return results
}

func (d *Doctor) make(ctx context.Context, t runner.Target) (_ runner.Token, err error) {
	defer runner.Recover(&err)
	return d.Upstream.Create(ctx, runner.Request{Target: t, Kind: runner.RegistrationToken})
}

// finding: what no network and no GitHub answers passes only where others get their tokens (works). Else it may be a
// wrong address, proxy or certificate.
func (r result) finding(works bool) runner.Finding {
	switch {
	case r.err == nil:
		return runner.Finding{Subject: r.target.Path(), Status: runner.OK, Evidence: "a token was made, by " + r.credential}
	case r.err.Code == runner.RateLimited, r.err.Code == runner.Unavailable && works:
		return refused(r.target.Path(), runner.Warning, r.err)
	}
	return refused(r.target.Path(), runner.Failed, r.err)
}

// accounts returns what GitHub's answers say of each credential, and of the clock. One App has an account, and a quota,
// for each owner: the worst counts.
func accounts(results []result) []runner.Finding {
	by := map[string][]result{}
	for _, r := range results {
		if r.credential != "" && r.trace.RequestID != "" {
			by[r.credential] = append(by[r.credential], r)
		}
	}
	var findings []runner.Finding
	for i, name := range slices.Sorted(maps.Keys(by)) {
		findings = append(findings, worst(by[name], identity), worst(by[name], quota))
		if i == 0 {
			findings = append(findings, clock(by[name][0]))
		}
	}
	return findings
}

func worst(results []result, of func(result) runner.Finding) runner.Finding {
	var findings []runner.Finding
	for _, r := range results {
		findings = append(findings, of(r))
	}
	statuses := []runner.Status{runner.OK, runner.Warning, runner.Failed}
	return slices.MaxFunc(findings, func(a, b runner.Finding) int {
		return cmp.Compare(slices.Index(statuses, a.Status), slices.Index(statuses, b.Status))
	})
}

// identity says which credential it is, what GitHub says that it may, and when it ends.
func identity(r result) runner.Finding {
	subject, expires, evidence := "credential "+r.credential, r.trace.CredentialExpires, ""
	if r.account != "" {
		evidence = fmt.Sprintf("its account is %.100s; ", r.account)
	}
	if r.trace.Scopes != "" {
		evidence += fmt.Sprintf("its scopes are %s; ", r.trace.Scopes)
	}
	if expires.IsZero() {
		return runner.Finding{Subject: subject, Status: runner.OK, Evidence: evidence + "GitHub names no end of it"}
	}
	left := time.Until(expires)
	evidence += fmt.Sprintf("it expires at %s, in %.1f days", expires.Format(time.RFC3339), left.Hours()/24)
	switch days := left.Hours() / 24; {
	case days < daysFail:
		return finding(subject, runner.Failed, expiresSoon, evidence)
	case days < daysWarn:
		return finding(subject, runner.Warning, expiresSoon, evidence)
	}
	return runner.Finding{Subject: subject, Status: runner.OK, Evidence: evidence}
}

// worse returns the least that is left of a quota, and the first end of a credential, of both.
func worse(a, b runner.Trace) runner.Trace {
	if end := b.CredentialExpires; !end.IsZero() && (a.CredentialExpires.IsZero() || end.Before(a.CredentialExpires)) {
		a.CredentialExpires = end
	}
	left, limit, ok := quotaOf(b)
	if leastLeft, leastLimit, known := quotaOf(a); ok && (!known || left*leastLimit < leastLeft*limit) {
		a.RateLimit, a.RateLimitRemaining = b.RateLimit, b.RateLimitRemaining
	}
	return a
}

func quotaOf(t runner.Trace) (left, limit uint64, ok bool) {
	left, errLeft := strconv.ParseUint(t.RateLimitRemaining, 10, 32)
	limit, errLimit := strconv.ParseUint(t.RateLimit, 10, 32)
	return left, limit, errLeft == nil && errLimit == nil && limit > 0
}

func quota(r result) runner.Finding {
	subject := "quota of " + r.credential
	left, limit, ok := quotaOf(r.trace)
	if !ok {
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

// refused is the finding of what failed. Its text is the operator's.
func refused(subject string, status runner.Status, e *runner.Error) runner.Finding {
	evidence := e.Message
	if e.Err != nil {
		evidence = e.Err.Error()
	}
	return runner.Finding{
		Subject: subject, Status: status, Code: e.Code, Cause: e.Cause, Evidence: evidence, Remedy: e.Remedy,
	}
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
