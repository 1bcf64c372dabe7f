package doctor

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"runner-token-broker/internal/runner"
	"runner-token-broker/internal/secret"
)

// minter answers by target.
type minter struct {
	trace    runner.Trace
	traces   map[string]runner.Trace // by target, where they differ
	refuse   map[string]*runner.Error
	hang     bool
	panics   bool
	calls    atomic.Int32
	atOnce   atomic.Int32
	mostOnce atomic.Int32
}

func (m *minter) Create(ctx context.Context, r runner.Request) (runner.Token, error) {
	m.calls.Add(1)
	m.mostOnce.Store(max(m.mostOnce.Load(), m.atOnce.Add(1)))
	defer m.atOnce.Add(-1)
	time.Sleep(time.Second)
	if m.panics {
		panic("test")
	}
	if m.hang {
		<-ctx.Done()
		return runner.Token{}, refusal(runner.Unavailable, "timeout")
	}
	trace, ok := m.traces[r.Target.Path()]
	if !ok {
		trace = m.trace
	}
	if e := m.refuse[r.Target.Path()]; e != nil {
		return runner.Token{}, e
	}
	return runner.Token{
		Value: secret.New("AABFTHISMUSTNOTBESEEN"), Account: "app Iv1.a at acme", Credential: "pat", GitHub: trace,
	}, nil
}

func refusal(code runner.Code, cause string) *runner.Error {
	e := (runner.Cause{Name: cause, Code: code, Remedy: "do this"}).Refuse("what was seen")
	e.Credential = "pat"
	return e
}

// inWorld checks the targets of a policy, which may be among those that the self-check names.
func inWorld(t *testing.T, policy string, m *minter, f func(d *Doctor)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p, err := runner.ParsePolicy(policy)
		if err != nil {
			t.Fatal(err)
		}
		if m.trace == (runner.Trace{}) {
			m.trace = runner.Trace{RequestID: "AB:CD", RateLimit: "5000", RateLimitRemaining: "4999", Date: time.Now()}
		}
		f(&Doctor{Policy: p, Upstream: m})
	})
}

func text(r runner.Report) string {
	var lines []string
	for _, f := range r.Findings {
		lines = append(lines, fmt.Sprintf("%s %s %s", f.Subject, f.Status, f.Cause))
	}
	return strings.Join(lines, "; ")
}

func TestAllIsWell(t *testing.T) {
	t.Parallel()
	m := new(minter)
	inWorld(t, "orgs/acme repos/acme/* repos/acme/widgets", m, func(d *Doctor) {
		r, err := d.Check(t.Context(), nil)
		want := "settings ok ; orgs/acme ok ; repos/acme/widgets ok ; credential pat ok ; quota of pat ok ; clock ok "
		if err != nil || r.Status != runner.OK || text(r) != want {
			t.Errorf("%s: %s, %v", r.Status, text(r), err)
		}
		if strings.Contains(fmt.Sprint(r), "MUSTNOTBESEEN") {
			t.Error("a token is in the report")
		}
	})
}

func TestEachFindingHasItsStatusAndRemedy(t *testing.T) {
	t.Parallel()
	day := 24 * time.Hour
	for _, test := range []struct {
		name    string
		refuse  *runner.Error
		trace   func(*runner.Trace)
		subject string
		status  runner.Status
		cause   string
		says    string
	}{
		{name: "SSO", refuse: refusal(runner.CredentialForbidden, "sso"), subject: "orgs/acme", status: runner.Failed,
			cause: "sso",
			says:  "what was seen"},
		{name: "a limit passes", refuse: refusal(runner.RateLimited, "primary-limit"), subject: "orgs/acme",
			status: runner.Warning, cause: "primary-limit"},
		{name: "a wrong host", refuse: refusal(runner.Unavailable, "dns"), subject: "orgs/acme", status: runner.Failed,
			cause: "dns"},
		{name: "identity and rights", trace: func(tr *runner.Trace) { tr.Scopes = "admin:org" }, subject: "credential pat",
			says: "its account is app Iv1.a at acme; its scopes are admin:org; GitHub names no end", status: runner.OK},
		{name: "expires in 15 days", trace: func(tr *runner.Trace) { tr.CredentialExpires = time.Now().Add(15 * day) },
			subject: "credential pat", status: runner.OK, says: "15.0 days"},
		{name: "expires in 13 days", trace: func(tr *runner.Trace) { tr.CredentialExpires = time.Now().Add(13 * day) },
			subject: "credential pat", status: runner.Warning, cause: "expires-soon", says: "13.0 days"},
		{name: "expires in 2 days", trace: func(tr *runner.Trace) { tr.CredentialExpires = time.Now().Add(2 * day) },
			subject: "credential pat", status: runner.Failed, cause: "expires-soon"},
		{name: "a tenth of the quota", trace: func(tr *runner.Trace) { tr.RateLimitRemaining = "500" },
			subject: "quota of pat", status: runner.OK},
		{name: "less than a tenth", trace: func(tr *runner.Trace) { tr.RateLimitRemaining = "499" },
			subject: "quota of pat", status: runner.Warning, cause: "quota-low", says: "499 of 5000"},
		{name: "no limits", trace: func(tr *runner.Trace) { tr.RateLimit = "" }, subject: "quota of pat", status: runner.OK},
		{name: "clock ahead", trace: func(tr *runner.Trace) { tr.Date = time.Now().Add(-2 * time.Minute) },
			subject: "clock", status: runner.Failed, cause: "clock", says: "2m"},
		{name: "clock behind", trace: func(tr *runner.Trace) { tr.Date = time.Now().Add(2 * time.Minute) },
			subject: "clock", status: runner.Failed, cause: "clock"},
		{name: "no date", trace: func(tr *runner.Trace) { tr.Date = time.Time{} }, subject: "clock", status: runner.OK},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			m := &minter{refuse: map[string]*runner.Error{"orgs/acme": test.refuse}}
			inWorld(t, "orgs/acme", m, func(d *Doctor) {
				if test.trace != nil {
					test.trace(&m.trace)
				}
				r, _ := d.Check(t.Context(), nil)
				found := false
				for _, f := range r.Findings {
					if f.Subject != test.subject {
						continue
					}
					found = true
					if f.Status != test.status || f.Cause != test.cause || !strings.Contains(f.Evidence, test.says) ||
						(f.Status == runner.OK) != (f.Remedy == "") || (f.Status == runner.OK) != (f.Code == "") {
						t.Errorf("%+v", f)
					}
				}
				if !found || r.Status != test.status {
					t.Errorf("%s: %s", r.Status, text(r))
				}
			})
		})
	}
}

// Where others get their tokens, what fails at one of them passes.
func TestAnOutageOfOneTargetPasses(t *testing.T) {
	t.Parallel()
	m := &minter{refuse: map[string]*runner.Error{"orgs/acme": refusal(runner.Unavailable, "timeout")}}
	inWorld(t, "orgs/acme orgs/other", m, func(d *Doctor) {
		if r, _ := d.Check(t.Context(), nil); r.Status != runner.Warning {
			t.Errorf("%s: %s", r.Status, text(r))
		}
	})
}

// One App has a quota for each owner: the worst counts.
func TestTheWorstQuotaOfACredentialCounts(t *testing.T) {
	t.Parallel()
	low := runner.Trace{RequestID: "AB:CD", RateLimit: "5000", RateLimitRemaining: "10"}
	soon, later := low, runner.Trace{RequestID: "AB:CD"}
	soon.CredentialExpires = time.Now().Add(240 * time.Hour)
	later.CredentialExpires = soon.CredentialExpires.Add(time.Hour)
	m := &minter{traces: map[string]runner.Trace{"orgs/acme": later, "orgs/other": soon}}
	inWorld(t, "orgs/acme orgs/other orgs/third", m, func(d *Doctor) {
		if r, _ := d.Check(t.Context(), nil); r.Status != runner.Warning || strings.Count(text(r), "quota of") != 1 ||
			!strings.Contains(text(r), "quota of pat warning quota-low") {
			t.Errorf("%s: %s", r.Status, text(r))
		} else if r.GitHub.RateLimitRemaining != "10" || r.GitHub.CredentialExpires != soon.CredentialExpires {
			t.Errorf("%+v", r.GitHub)
		}
	})
}

func TestWhatTheServiceRestsOnIsLookedAt(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		secret, shared *runner.Error
		status         runner.Status
		want           string
	}{
		"good": {nil, nil, runner.OK, "secret ok ; shared tokens ok ;"},
		"denied": {refusal(runner.CredentialMissing, "secret-denied"), nil, runner.Failed,
			"secret failed secret-denied; shared tokens ok"},
		"old": {nil, refusal(runner.Unavailable, "shared-tokens-old"), runner.Warning,
			"secret ok ; shared tokens warning shared-tokens-old"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inWorld(t, "orgs/* repos/acme/widgets", new(minter), func(d *Doctor) {
				ask := func(e *runner.Error) func(context.Context) (string, error) {
					return func(context.Context) (string, error) {
						if e != nil {
							return "", e
						}
						return "it is well", nil
					}
				}
				d.Probes = []Probe{
					{Subject: "secret", Ask: ask(test.secret)}, {Subject: "shared tokens", Ask: ask(test.shared), Optional: true},
				}
				if r, _ := d.Check(t.Context(), nil); r.Status != test.status || !strings.Contains(text(r), test.want) {
					t.Errorf("%s: %s", r.Status, text(r))
				}
			})
		})
	}
}

func TestAGitHubThatHangsEndsInAReport(t *testing.T) {
	t.Parallel()
	var names []string
	for n := range 50 {
		names = append(names, fmt.Sprintf("orgs/acme-%02d", n))
	}
	inWorld(t, strings.Join(names, ","), &minter{hang: true}, func(d *Doctor) {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second) // not of t, which is outside
		defer cancel()
		start := time.Now()
		r, err := d.Check(ctx, nil)
		if err != nil || r.Status != runner.Failed || len(r.Findings) != 51 {
			t.Errorf("%s, %v: %s", r.Status, err, text(r))
		}
		if took := time.Since(start); took > 30*time.Second { // the stand-in takes a second whatever the context
			t.Errorf("took %v", took)
		}
	})
}

func TestAPanicIsAFinding(t *testing.T) {
	t.Parallel()
	inWorld(t, "orgs/acme", &minter{panics: true}, func(d *Doctor) {
		r, err := d.Check(t.Context(), nil)
		if err != nil || !strings.Contains(text(r), "orgs/acme failed unclassified") {
			t.Errorf("%s, %v", text(r), err)
		}
	})
}

func TestATargetThatIsNamedTwiceIsAskedForOnce(t *testing.T) {
	t.Parallel()
	m := new(minter)
	inWorld(t, "orgs/acme", m, func(d *Doctor) {
		acme := d.Policy.Targets()[0]
		if r, _ := d.Check(t.Context(), []runner.Target{acme, acme}); m.calls.Load() != 1 || r.Status != runner.OK {
			t.Errorf("%d calls, %s", m.calls.Load(), text(r))
		}
	})
}

func TestTargetsAreThePolicysAndFiftyAtMost(t *testing.T) {
	t.Parallel()
	var names []string
	for n := range 60 {
		names = append(names, fmt.Sprintf("orgs/acme-%02d", n))
	}
	m := new(minter)
	inWorld(t, strings.Join(names, ","), m, func(d *Doctor) {
		r, _ := d.Check(t.Context(), nil)
		if m.calls.Load() != 50 || m.mostOnce.Load() != 5 || r.Status != runner.Warning ||
			!strings.Contains(text(r), "too-many-targets") {
			t.Errorf("%d calls, %d at once, %s: %s", m.calls.Load(), m.mostOnce.Load(), r.Status, text(r))
		}
	})
	m = new(minter)
	inWorld(t, "orgs/acme", m, func(d *Doctor) {
		other, _ := runner.ParseTarget("orgs/other")
		_, err := d.Check(t.Context(), []runner.Target{other})
		if runner.AsError(err).Code != runner.TargetNotAllowed || m.calls.Load() != 0 {
			t.Errorf("%v after %d calls", err, m.calls.Load())
		}
	})
	inWorld(t, "orgs/*", m, func(d *Doctor) {
		if r, _ := d.Check(t.Context(), nil); r.Status != runner.Warning || !strings.Contains(text(r), "no-target-named") {
			t.Errorf("%s: %s", r.Status, text(r))
		}
	})
}
