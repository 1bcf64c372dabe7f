package shared

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"runner-token-broker/internal/runner"
	"runner-token-broker/internal/secret"
)

// store is a secret whose value a test sets.
type store struct {
	mu            sync.Mutex
	text          string
	read, written *runner.Error
	reads, writes int
	latency       time.Duration
}

func (s *store) Fetch(ctx context.Context) (secret.Value, error) {
	s.mu.Lock()
	s.reads++
	s.mu.Unlock()
	select {
	case <-time.After(s.latency):
	case <-ctx.Done():
		return secret.Value{}, refusal(runner.Unavailable, "timeout")
	}
	if s.read != nil {
		return secret.Value{}, s.read
	}
	return secret.New(s.text), nil
}

func (s *store) Put(ctx context.Context, v secret.Value) error {
	s.writes++
	if ctx.Err() != nil {
		return refusal(runner.Unavailable, "timeout")
	}
	if s.written != nil {
		return s.written
	}
	s.text = v.Reveal()
	return nil
}

// minter is the next Upstream.
type minter struct {
	mu     sync.Mutex
	calls  int
	atOnce int
	most   int
	refuse map[string]*runner.Error
	hang   string // a target
	panics string // a target
	length int    // of the tokens
}

func (m *minter) Create(ctx context.Context, r runner.Request) (runner.Token, error) {
	m.mu.Lock()
	m.calls++
	n := m.calls
	m.atOnce++
	m.most = max(m.most, m.atOnce)
	m.mu.Unlock()
	time.Sleep(100 * time.Millisecond)
	if r.Target.Path() == m.hang {
		<-ctx.Done()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.atOnce--
	if r.Target.Path() == m.panics {
		panic("test")
	}
	if ctx.Err() != nil {
		return runner.Token{}, refusal(runner.Unavailable, "timeout")
	}
	if e := m.refuse[r.Target.Path()]; e != nil {
		return runner.Token{}, e
	}
	value := fmt.Sprintf("TOKEN%d%s", n, strings.Repeat("X", m.length))
	return runner.Token{
		Value: secret.New(value), MadeAt: time.Now().Round(0), ExpiresAt: time.Now().Round(0).Add(time.Hour),
		Source: runner.FromGitHub,
	}, nil
}

func refusal(code runner.Code, cause string) *runner.Error {
	return (runner.Cause{Name: cause, Code: code}).Refuse("test")
}

type world struct {
	*testing.T
	store  *store
	minter *minter
	tokens *Tokens
	policy runner.Policy
}

func inWorld(t *testing.T, allowed string, f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		policy, err := runner.ParsePolicy(allowed)
		if err != nil {
			t.Fatal(err)
		}
		w := &world{T: t, store: new(store), minter: new(minter), policy: policy}
		w.tokens = w.environment()
		f(w)
	})
}

// environment is another one, with the same secret.
func (w *world) environment() *Tokens {
	url := func(t runner.Target) string { return "https://github.com" + t.URLPath() }
	return New(w.minter, w.store, w.policy, 30*time.Minute, url)
}

func (w *world) refresh() runner.Refreshed {
	w.Helper()
	r, err := w.tokens.Refresh(w.Context())
	if err != nil {
		w.Errorf("Refresh: %v", err)
	}
	return r
}

// gets fails the test unless a token comes from there; it returns why the shared ones were passed over.
func (w *world) gets(s *Tokens, source runner.Source, options ...func(*runner.Request)) string {
	w.Helper()
	target, err := runner.ParseTarget("orgs/acme")
	if err != nil {
		w.Fatal(err)
	}
	r := runner.Request{Target: target, Kind: runner.RegistrationToken}
	for _, o := range options {
		o(&r)
	}
	meter := new(runner.Meter)
	t, err := s.Create(runner.WithMeter(w.Context(), meter), r)
	if err != nil || t.Source != source || source == runner.FromShared && t.RunnerURL != "https://github.com/acme" {
		w.Errorf("Create = %+v, %v, want one from %s", t, err, source)
	}
	why, _ := meter.Shared()
	return why
}

func fresh(r *runner.Request)  { r.Fresh = true }
func remove(r *runner.Request) { r.Kind = runner.RemoveToken }

func TestASharedTokenCostsOneReadAndNoCall(t *testing.T) {
	t.Parallel()
	inWorld(t, "orgs/acme", func(w *world) {
		w.refresh()
		w.minter.calls, w.store.reads = 0, 0
		for range 3 {
			w.gets(w.environment(), runner.FromShared)
		}
		if w.minter.calls != 0 || w.store.reads != 3 {
			t.Errorf("%d calls and %d reads", w.minter.calls, w.store.reads)
		}
		w.gets(w.tokens, runner.FromGitHub, remove)
	})
}

func TestTheSecretIsReadEveryThirtySecondsAtMost(t *testing.T) {
	t.Parallel()
	inWorld(t, "orgs/acme", func(w *world) {
		w.gets(w.tokens, runner.FromGitHub)
		w.refresh()
		w.store.reads = 0
		why := w.gets(w.tokens, runner.FromGitHub)
		if why != "it is empty" || w.store.reads != 0 {
			t.Errorf("%q after %d reads", why, w.store.reads)
		}
		time.Sleep(30 * time.Second)
		w.gets(w.tokens, runner.FromShared)
		if w.store.reads != 1 {
			t.Errorf("%d reads", w.store.reads)
		}
	})
}

func TestATokenIsSharedWhileItIsYoungEnough(t *testing.T) {
	t.Parallel()
	inWorld(t, "orgs/acme", func(w *world) {
		w.refresh()
		time.Sleep(30*time.Minute - 200*time.Millisecond)
		w.gets(w.environment(), runner.FromShared)
		time.Sleep(time.Second)
		if why := w.gets(w.environment(), runner.FromGitHub); why != "its token is too old" {
			t.Errorf("%q", why)
		}
	})
	inWorld(t, "orgs/acme", func(w *world) {
		w.refresh()
		time.Sleep(59 * time.Second)
		w.gets(w.environment(), runner.FromShared, fresh)
		time.Sleep(2 * time.Second)
		if why := w.gets(w.environment(), runner.FromGitHub, fresh); why != "its token is not fresh" {
			t.Errorf("%q", why)
		}
	})
}

// An hour or more means never, also where GitHub's clock is ahead.
func TestNoTokenIsSharedWhereNoneIsReused(t *testing.T) {
	t.Parallel()
	inWorld(t, "orgs/acme", func(w *world) {
		w.store.text = `{"written_at":"2000-01-01T00:00:00Z","tokens":[{"target":"orgs/acme","kind":"registration-token",` +
			`"token":"AB","made_at":"2000-01-01T00:00:00Z","expires_at":"2000-01-01T01:01:00Z"}]}`
		w.gets(w.environment(), runner.FromShared)
		s := w.environment()
		s.minLife = time.Hour
		if why := w.gets(s, runner.FromGitHub); why != "its token is too old" {
			t.Errorf("%q", why)
		}
	})
}

// It is a cache, never a dependency.
func TestWhatIsWrongWithTheSecretIsPassedOver(t *testing.T) {
	t.Parallel()
	entry := func(madeAt, expiresAt string) string { // synctest's time begins with the year 2000
		return fmt.Sprintf(`{"written_at":"2000-01-01T00:00:00Z","tokens":[{"target":"orgs/acme",`+
			`"kind":"registration-token","token":"AB","made_at":%q,"expires_at":%q}]}`, madeAt, expiresAt)
	}
	good := entry("2000-01-01T00:01:00Z", "2000-01-01T02:01:00Z") // to the second
	const odd = "its token's times cannot be right"
	for name, test := range map[string]struct {
		text    string
		err     *runner.Error
		latency time.Duration
		says    string
	}{
		"absent":     {err: refusal(runner.CredentialMissing, "secret-missing"), says: "it cannot be read: secret-missing"},
		"denied":     {err: refusal(runner.CredentialMissing, "secret-denied"), says: "it cannot be read: secret-denied"},
		"throttled":  {err: refusal(runner.Unavailable, "secrets-manager-unavailable"), says: "it cannot be read"},
		"slow":       {latency: time.Minute, says: "it cannot be read: timeout"},
		"empty":      {says: "it is empty"},
		"malformed":  {text: "{", says: "it is malformed"},
		"ends now":   {text: entry("1999-12-31T23:00:00Z", "2000-01-01T00:00:00Z"), says: "its token has ended"},
		"no end":     {text: entry("2000-01-01T00:00:00Z", "0001-01-01T00:00:00Z"), says: odd},
		"no life":    {text: entry("2000-01-01T00:00:00Z", "2000-01-01T00:00:00Z"), says: odd},
		"long":       {text: entry("2000-01-01T00:00:00Z", "2000-01-01T02:00:01Z"), says: odd},
		"future":     {text: entry("2000-01-01T00:01:01Z", "2000-01-01T01:00:00Z"), says: odd},
		"other kind": {text: strings.Replace(good, "registration", "remove", 1), says: "it has no token for the target"},
		"odd token":  {text: strings.Replace(good, `"AB"`, `"A\nB"`, 1), says: "its token is malformed"},
		"no token":   {text: strings.Replace(good, `"AB"`, `""`, 1), says: "its token is malformed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inWorld(t, "orgs/acme", func(w *world) {
				w.store.text = good
				w.gets(w.environment(), runner.FromShared)
				w.store.text, w.store.read, w.store.latency = test.text, test.err, test.latency
				if why := w.gets(w.tokens, runner.FromGitHub); !strings.Contains(why, test.says) {
					t.Errorf("%q, want %q", why, test.says)
				}
			})
		})
	}
}

func TestRefreshWritesAllAtOnceAndNotTooOften(t *testing.T) {
	t.Parallel()
	inWorld(t, "orgs/acme repos/acme/widgets repos/acme/* enterprises/*", func(w *world) {
		r := w.refresh()
		if r.Written != 2 || w.store.writes != 1 || fmt.Sprint(r.PassedOver) != "[enterprises/* repos/acme/*]" {
			t.Errorf("%+v after %d writes", r, w.store.writes)
		}
		time.Sleep(14 * time.Minute)
		if r := w.refresh(); r.Written != 0 || r.Age != "14m0s" || w.minter.calls != 2 {
			t.Errorf("%+v after %d calls", r, w.minter.calls)
		}
		time.Sleep(time.Minute)
		if r := w.refresh(); r.Written != 2 || w.minter.calls != 4 {
			t.Errorf("%+v after %d calls", r, w.minter.calls)
		}
	})
}

func TestAFailedTargetKeepsItsOldEntry(t *testing.T) {
	t.Parallel()
	inWorld(t, "orgs/acme orgs/other", func(w *world) {
		w.refresh()
		time.Sleep(20 * time.Minute)
		w.minter.refuse = map[string]*runner.Error{"orgs/acme": refusal(runner.RateLimited, "primary-limit")}
		r := w.refresh()
		want := runner.NotRefreshed{Target: "orgs/acme", Code: runner.RateLimited, Cause: "primary-limit"}
		if r.Written != 2 || len(r.Failed) != 1 || r.Failed[0] != want {
			t.Errorf("%+v", r)
		}
		w.gets(w.environment(), runner.FromShared)

		w.minter.refuse["orgs/other"] = refusal(runner.RateLimited, "primary-limit")
		time.Sleep(20 * time.Minute)
		before := w.store.text
		if _, err := w.tokens.Refresh(w.Context()); runner.AsError(err).Code != runner.RateLimited || w.store.text != before {
			t.Errorf("%v: nothing was made, and %d writes", err, w.store.writes)
		}
	})
}

func TestAFailedWriteIsAnError(t *testing.T) {
	t.Parallel()
	inWorld(t, "orgs/acme", func(w *world) {
		w.store.written = refusal(runner.CredentialMissing, "secret-denied")
		if _, err := w.tokens.Refresh(w.Context()); runner.AsError(err).Cause != "secret-denied" {
			t.Errorf("%v", err)
		}
		// Nor does it cost GitHub much, however often it is called.
		for range 59 {
			if _, err := w.tokens.Refresh(w.Context()); runner.AsError(err).Cause != "secret-denied" || w.minter.calls != 1 {
				t.Errorf("%v after %d calls", err, w.minter.calls)
			}
			time.Sleep(time.Second)
		}
		w.store.written = nil
		time.Sleep(time.Second)
		if r := w.refresh(); r.Written != 1 {
			t.Errorf("%+v", r)
		}
	})
}

func TestTwoRefreshesAtOnceMakeOneSetOfTokens(t *testing.T) {
	t.Parallel()
	inWorld(t, "orgs/acme orgs/other", func(w *world) {
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() { w.refresh() })
		}
		wg.Wait()
		if w.minter.calls != 2 || w.store.writes != 1 {
			t.Errorf("%d calls, %d writes", w.minter.calls, w.store.writes)
		}
	})
}

// What was made is written, and one that hangs keeps its old entry.
func TestATargetThatHangsOrPanicsDoesNotKeepTheOthersFromBeingWritten(t *testing.T) {
	t.Parallel()
	inWorld(t, "orgs/acme orgs/other orgs/third", func(w *world) {
		w.minter.hang, w.minter.panics = "orgs/other", "orgs/third"
		ctx, cancel := context.WithTimeout(w.Context(), 20*time.Second)
		defer cancel()
		r, err := w.tokens.Refresh(ctx)
		if err != nil || r.Written != 1 || len(r.Failed) != 2 {
			t.Errorf("%+v, %v", r, err)
		}
		w.gets(w.environment(), runner.FromShared)
	})
}

// Where there are more targets than a refresh has time for, none is left out each time.
func TestTheOldestAreRefreshedFirst(t *testing.T) {
	t.Parallel()
	var targets []string
	for n := range 90 {
		targets = append(targets, fmt.Sprintf("orgs/acme-%02d", n))
	}
	inWorld(t, strings.Join(targets, ","), func(w *world) {
		for range 2 {
			ctx, cancel := context.WithTimeout(w.Context(), 20*time.Second)
			if _, err := w.tokens.Refresh(ctx); err != nil {
				t.Error(err)
			}
			cancel()
			time.Sleep(20 * time.Minute)
		}
		held, _ := w.tokens.parse(secret.New(w.store.text))
		if len(held.tokens) != 90 {
			t.Errorf("%d of 90 targets have a token", len(held.tokens))
		}
	})
}

// A time that is to come, by whatever fault, must not stop the refreshes until then.
func TestASecretOfTheFutureIsRefreshed(t *testing.T) {
	t.Parallel()
	inWorld(t, "orgs/acme", func(w *world) {
		w.store.text = `{"written_at":"2099-01-01T00:00:00Z","tokens":[]}`
		if r := w.refresh(); r.Written != 1 {
			t.Errorf("%+v", r)
		}
	})
}

// What is there may be good, and how old it is nobody knows.
func TestASecretThatCannotBeReadIsNotOverwritten(t *testing.T) {
	t.Parallel()
	for cause, code := range map[string]runner.Code{
		"secrets-manager-unavailable": runner.Unavailable, "secret-denied": runner.CredentialMissing,
		"secret-unreadable": runner.CredentialMissing,
	} {
		t.Run(cause, func(t *testing.T) {
			t.Parallel()
			inWorld(t, "orgs/acme", func(w *world) {
				w.store.read = refusal(code, cause)
				_, err := w.tokens.Refresh(w.Context())
				if runner.AsError(err).Cause != cause || w.minter.calls+w.store.writes != 0 {
					t.Errorf("%v, %d calls, %d writes", err, w.minter.calls, w.store.writes)
				}
			})
		})
	}
}

func TestWhatIsNoneOfOursIsOverwritten(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		text string
		err  *runner.Error
		says string
	}{
		"no value":  {err: refusal(runner.CredentialMissing, "secret-missing")},
		"binary":    {err: refusal(runner.CredentialMissing, "secret-malformed")},
		"malformed": {text: "{", says: "it is malformed"},
		"foreign":   {text: `{"token":"ghp_x"}`, says: "something else"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inWorld(t, "orgs/acme", func(w *world) {
				w.store.text, w.store.read = test.text, test.err
				meter := new(runner.Meter)
				r, err := w.tokens.Refresh(runner.WithMeter(w.Context(), meter))
				if why, _ := meter.Shared(); err != nil || r.Written != 1 || !strings.Contains(why, test.says) {
					t.Errorf("%+v, %v, %q", r, err, why)
				}
				w.store.read = nil
				w.gets(w.environment(), runner.FromShared)
			})
		})
	}
}

func TestACallersLackOfTimeIsNotRemembered(t *testing.T) {
	t.Parallel()
	inWorld(t, "orgs/acme", func(w *world) {
		w.refresh()
		w.store.latency = time.Second
		s := w.environment()
		ctx, cancel := context.WithTimeout(w.Context(), time.Millisecond)
		defer cancel()
		s.Create(ctx, runner.Request{Target: w.policy.Targets()[0], Kind: runner.RegistrationToken})
		w.gets(s, runner.FromShared)
	})
}

// The age is told also, and above all, where the tokens are too old to be used.
func TestTheAgeOfWhatIsPassedOverIsMeasured(t *testing.T) {
	t.Parallel()
	inWorld(t, "orgs/acme", func(w *world) {
		w.refresh()
		for _, after := range []time.Duration{40 * time.Minute, 40 * time.Minute} { // below its life, and ended
			time.Sleep(after)
			meter := new(runner.Meter)
			r := runner.Request{Target: w.policy.Targets()[0], Kind: runner.RegistrationToken}
			if _, err := w.environment().Create(runner.WithMeter(w.Context(), meter), r); err != nil {
				t.Error(err)
			}
			if why, age := meter.Shared(); why == "" || age < 40*time.Minute {
				t.Errorf("%q, %v", why, age)
			}
		}
		meter := new(runner.Meter)
		w.minter.refuse = map[string]*runner.Error{"orgs/acme": refusal(runner.RateLimited, "primary-limit")}
		w.tokens.Refresh(runner.WithMeter(w.Context(), meter))
		if _, age := meter.Shared(); age < 80*time.Minute {
			t.Errorf("a refresh that fails: %v", age)
		}
	})
}

func TestRefreshKeepsToGitHubsLimits(t *testing.T) {
	t.Parallel()
	var targets []string
	for n := range 100 {
		targets = append(targets, fmt.Sprintf("orgs/acme-%02d", n))
	}
	inWorld(t, strings.Join(targets, ","), func(w *world) {
		ctx, cancel := context.WithTimeout(w.Context(), 20*time.Second)
		defer cancel()
		start := time.Now()
		r, err := w.tokens.Refresh(ctx)
		calls, most := w.minter.calls, w.minter.most
		if err != nil || most > 5 || calls > 5+150*17/60 || len(r.Failed)+r.Written != 100 || r.Written < 40 {
			t.Errorf("%v: %d at once, %d calls, %d written, %d failed", err, most, calls, r.Written, len(r.Failed))
		}
		if took := time.Since(start); took > 21*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

func TestTheSecretNeverGrowsPastItsLimit(t *testing.T) {
	t.Parallel()
	var targets []string
	for n := range 40 {
		targets = append(targets, fmt.Sprintf("orgs/acme-%02d", n))
	}
	inWorld(t, strings.Join(targets, ","), func(w *world) {
		w.minter.length = 4000
		r := w.refresh()
		var d document
		if err := json.Unmarshal([]byte(w.store.text), &d); err != nil {
			t.Fatal(err)
		}
		if len(w.store.text) > 60<<10 || r.Dropped == 0 || r.Written+r.Dropped != 40 || len(d.Tokens) != r.Written {
			t.Errorf("%d bytes, %+v, %d entries", len(w.store.text), r, len(d.Tokens))
		}
	})
}

func TestCheckSaysHowOldTheTokensAre(t *testing.T) {
	t.Parallel()
	inWorld(t, "orgs/acme orgs/other", func(w *world) {
		lacks := func(cause, says string) {
			t.Helper()
			text, err := w.tokens.Check(w.Context())
			if e := runner.AsError(err); err == nil || e.Cause != cause || !strings.Contains(e.Error(), says) {
				t.Errorf("%q, %v, want %s, %q", text, err, cause, says)
			}
		}
		lacks("shared-tokens-old", "it is empty")
		w.store.text = `{"token":"ghp_x"}`
		lacks("shared-tokens-old", "something else")
		w.refresh()
		time.Sleep(45 * time.Minute)
		if text, err := w.tokens.Check(w.Context()); err != nil || text != "2 were written 45m0s ago" {
			t.Errorf("%q, %v", text, err)
		}
		time.Sleep(time.Minute)
		lacks("shared-tokens-old", "46m0s ago")
		w.store.read = refusal(runner.CredentialMissing, "secret-denied")
		lacks("secret-denied", "")
	})
}

func TestNothingOfTheTokensIsPrintable(t *testing.T) {
	t.Parallel()
	inWorld(t, "orgs/acme", func(w *world) {
		w.refresh()
		s := w.environment()
		w.gets(s, runner.FromShared)
		for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
			if text := fmt.Sprintf(verb, s.held); strings.Contains(text, "TOKEN") {
				t.Errorf("%s: %s", verb, text)
			}
		}
	})
}

// Whatever is in the secret: what is let through is a token for a target, now, and a refresh can write it again.
func FuzzParse(f *testing.F) {
	now := time.Now()
	later := now.AddDate(9, 0, 0)
	entry := func(target, token string, madeAt, expiresAt time.Time) string {
		return fmt.Sprintf(`{"target":%q,"kind":"registration-token","token":%q,"made_at":%q,"expires_at":%q}`,
			target, token, madeAt.Format(time.RFC3339), expiresAt.Format(time.RFC3339))
	}
	for _, entries := range []string{
		entry("orgs/acme", "AB", now, later) + "," + entry("repos/acme/x", "AB", now, now.Add(time.Hour)),
		entry("orgs/acme", "AB", later, later.Add(time.Hour)), entry("orgs/acme", "A\nB", now, now.Add(time.Hour)), "",
		`{"target":"orgs/acme","kind":"remove-token","labels":[{}]}`,
	} {
		f.Add(fmt.Sprintf(`{"written_at":%q,"tokens":[%s]}`, now.Format(time.RFC3339), entries))
	}
	f.Add(`{"token":"ghp_x"}`)
	s := New(nil, nil, runner.Policy{}, time.Minute, runner.Target.URLPath)
	f.Fuzz(func(t *testing.T, text string) {
		before := time.Now()
		h, problem := s.parse(secret.New(text))
		if problem != "" && len(h.tokens)+len(h.faults) > 0 {
			t.Errorf("%q is wrong, and has %v", problem, h)
		}
		for target, e := range h.tokens {
			life := e.expiresAt.Sub(e.madeAt)
			if again, err := runner.ParseTarget(target.Path()); err != nil || again != target {
				t.Errorf("%q is no target", target)
			}
			if life <= 0 || life > 2*time.Hour || !e.expiresAt.After(before) || time.Until(e.madeAt) > time.Minute {
				t.Errorf("made at %v, expires at %v", e.madeAt, e.expiresAt)
			}
			if !regexp.MustCompile(`^[A-Za-z0-9_-]{1,999}$`).MatchString(e.token.Reveal()) {
				t.Errorf("%q is no token", e.token.Reveal())
			}
		}
		written, dropped := s.write(h.tokens)
		var d document
		if json.Unmarshal([]byte(written.Reveal()), &d) != nil || len(d.Tokens)+dropped != len(h.tokens) {
			t.Errorf("of %d tokens %d are written, %d dropped", len(h.tokens), len(d.Tokens), dropped)
		}
	})
}
