package shared

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"runner-token-broker/internal/credential"
	"runner-token-broker/internal/runner"
	"runner-token-broker/internal/secret"
)

const orderMinLife = 30 * time.Minute

// town is several environments, each stacked as main does it, with one GitHub and one shared secret. It keeps a record
// of its own, by which it judges each token.
type town struct {
	*testing.T
	policy       runner.Policy
	requests     []runner.Request
	environments []*environment

	mu     sync.Mutex
	random *rand.Rand
	pat    int
	mood   func(bearer string, r runner.Request) *runner.Error // GitHub's; nil: a token
	made   map[string]made
	calls  int // that GitHub answered with a token

	text        string   // the shared secret's
	written     []string // what it ever was
	read, write *runner.Error
	slow        time.Duration
	changed     time.Time // when it was last made readable, or not
}

type made struct {
	request runner.Request
	at, end time.Time
}

type environment struct {
	issuer *runner.Issuer
	tokens *Tokens
	last   map[runner.Request]runner.Token
}

func inTown(t *testing.T, seed uint64, f func(*town)) {
	synctest.Test(t, func(t *testing.T) {
		policy, err := runner.ParsePolicy("orgs/acme repos/acme/a")
		if err != nil {
			t.Fatal(err)
		}
		w := &town{T: t, policy: policy, random: rand.New(rand.NewPCG(seed, 1)), made: map[string]made{},
			mood: func(string, runner.Request) *runner.Error { return nil }, environments: make([]*environment, 3)}
		for _, target := range policy.Targets() {
			for _, kind := range []runner.Kind{runner.RegistrationToken, runner.RemoveToken} {
				w.requests = append(w.requests, runner.Request{Target: target, Kind: kind})
			}
		}
		for n := range w.environments {
			w.start(n)
		}
		f(w)
	})
}

// start replaces an environment by a new one.
func (w *town) start(n int) {
	set := credential.NewSet(5*time.Minute, func(context.Context) (secret.Value, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		return secret.New(fmt.Sprint("pat-", w.pat)), nil
	}, nil, nil)
	minter := runner.NewMinter(set, w)
	url := func(t runner.Target) string { return "https://github.com" + t.URLPath() }
	tokens := New(minter, drawer{w}, w.policy, orderMinLife, url)
	w.environments[n] = &environment{tokens: tokens, last: map[runner.Request]runner.Token{}, issuer: &runner.Issuer{
		Policy: w.policy, Upstream: runner.NewCache(tokens, minter.Refused, orderMinLife),
	}}
}

// Create is GitHub's.
func (w *town) Create(ctx context.Context, bearer secret.Value, r runner.Request) (runner.Token, error) {
	w.mu.Lock()
	latency := time.Duration(w.random.Int64N(int64(2 * time.Second)))
	w.mu.Unlock()
	asked := time.Now()
	select {
	case <-time.After(latency):
	case <-ctx.Done():
		return runner.Token{}, refusal(runner.Unavailable, "timeout")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if e := w.mood(bearer.Reveal(), r); e != nil {
		return runner.Token{}, e
	}
	w.calls++
	m := made{runner.Request{Target: r.Target, Kind: r.Kind}, asked, time.Now().Add(time.Hour)}
	value := fmt.Sprint("TOKEN", len(w.made))
	w.made[value] = m
	return runner.Token{
		Value: secret.New(value), MadeAt: m.at, ExpiresAt: m.end, Source: runner.FromGitHub,
	}, nil
}

// drawer is the shared secret.
type drawer struct{ *town }

func (d drawer) wait(ctx context.Context) error {
	d.mu.Lock()
	slow := d.slow
	d.mu.Unlock()
	select {
	case <-time.After(slow):
		return nil
	case <-ctx.Done():
		return refusal(runner.Unavailable, "timeout")
	}
}

func (d drawer) Fetch(ctx context.Context) (secret.Value, error) {
	if err := d.wait(ctx); err != nil {
		return secret.Value{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.read != nil {
		return secret.Value{}, d.read
	}
	return secret.New(d.text), nil
}

func (d drawer) Put(ctx context.Context, v secret.Value) error {
	if err := d.wait(ctx); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.write != nil {
		return d.write
	}
	d.text = v.Reveal()
	d.written = append(d.written, d.text)
	return nil
}

// ask has a token issued and judges it.
func (w *town) ask(e *environment, r runner.Request, budget time.Duration) (runner.Token, error) {
	ctx, cancel := context.WithTimeout(w.Context(), budget)
	defer cancel()
	t, err := e.issuer.Issue(ctx, r)
	if err != nil {
		return t, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	m, known := w.made[t.Value.Reveal()]
	left, age := time.Until(t.ExpiresAt), time.Since(t.MadeAt)
	switch stale := t.Source == runner.FromStale; {
	case !known || m.request.Target != r.Target || m.request.Kind != r.Kind:
		w.Errorf("%v got a token of %v", r, m.request)
	case !m.end.Equal(t.ExpiresAt) || !m.at.Equal(t.MadeAt):
		w.Errorf("%v: made at %v until %v, want %v and %v", r, t.MadeAt, t.ExpiresAt, m.at, m.end)
	case t.Source == runner.FromShared && r.Kind != runner.RegistrationToken:
		w.Errorf("%v was shared", r)
	case left < 5*time.Minute || !stale && left < orderMinLife:
		w.Errorf("%v: a token from %s that has %v left", r, t.Source, left)
	case r.Fresh && (stale || age > time.Minute+2*time.Second): // and GitHub's answer takes up to two
		w.Errorf("%v: a token from %s that is %v old", r, t.Source, age)
	}
	key := r
	key.Fresh = false
	e.last[key] = t
	return t, nil
}

func TestASharedTokenIsTheRightOneForAnyInterleaving(t *testing.T) {
	for seed := range uint64(100) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			inTown(t, seed, (*town).interleave)
		})
	}
}

func (w *town) interleave() {
	always := func(code runner.Code) func(string, runner.Request) *runner.Error {
		return func(string, runner.Request) *runner.Error { return refusal(code, "test") }
	}
	onlyNew := func(bearer string, _ runner.Request) *runner.Error {
		if bearer != fmt.Sprint("pat-", w.pat) {
			return refusal(runner.CredentialRejected, "test")
		}
		return nil
	}
	moods := []func(string, runner.Request) *runner.Error{
		onlyNew, onlyNew, always(runner.Unavailable), always(runner.RateLimited), always(runner.TargetNotFound),
		always(runner.CredentialRejected),
	}
	troubles := []*runner.Error{
		nil, nil, refusal(runner.CredentialMissing, "secret-denied"), refusal(runner.Unavailable, "timeout"),
	}
	var wg sync.WaitGroup
	for range 300 {
		w.mu.Lock()
		sleep := time.Duration(w.random.Int64N(int64(2 * time.Second)))
		e := w.environments[w.random.IntN(len(w.environments))]
		r := w.requests[w.random.IntN(len(w.requests))]
		r.Fresh = w.random.IntN(4) == 0
		budget := time.Duration(1 + w.random.Int64N(int64(20*time.Second)))
		isRefresh, isStart, another := false, false, w.random.IntN(len(w.environments))
		switch w.random.IntN(16) {
		case 0:
			w.mood = moods[w.random.IntN(len(moods))]
		case 1:
			w.pat++
			w.mood = onlyNew
		case 2:
			w.read = troubles[w.random.IntN(len(troubles))]
		case 3:
			w.write = troubles[w.random.IntN(len(troubles))]
		case 4:
			w.slow = time.Duration(w.random.Int64N(int64(3 * time.Second)))
		case 5: // what somebody else makes of it
			switch n := w.random.IntN(3); {
			case n == 0:
				w.text = ""
			case n == 1 || len(w.written) == 0:
				w.text = w.text[:len(w.text)/2]
			default:
				w.text = w.written[w.random.IntN(len(w.written))]
			}
		case 6, 7, 8:
			isRefresh = true
		case 9:
			sleep = time.Duration(w.random.Int64N(int64(40 * time.Minute)))
		case 10:
			isStart = true
		}
		w.mu.Unlock()
		time.Sleep(sleep)
		if isStart {
			w.start(another)
			continue
		}
		wg.Go(func() {
			if isRefresh {
				ctx, cancel := context.WithTimeout(w.Context(), budget)
				defer cancel()
				e.tokens.Refresh(ctx)
				return
			}
			w.ask(e, r, budget)
		})
	}
	wg.Wait()
}

// A day: nobody goes without a token that is shared or held.
func TestNoRequestFailsThatATokenCouldServeForADay(t *testing.T) {
	t.Parallel()
	inTown(t, 1, (*town).day)
}

func (w *town) day() {
	const step = 10 * time.Second
	good := w.mood
	down := func(code runner.Code) func(string, runner.Request) *runner.Error {
		return func(string, runner.Request) *runner.Error { return refusal(code, "test") }
	}
	lost := func(e *runner.Error) func() { return func() { w.read, w.changed = e, time.Now() } }
	events := map[time.Duration]func(){
		3 * time.Hour:                 func() { w.mood = down(runner.Unavailable) },
		3*time.Hour + 30*time.Minute:  func() { w.mood = good },
		6 * time.Hour:                 func() { w.mood = down(runner.RateLimited) },
		6*time.Hour + 20*time.Minute:  func() { w.mood = good },
		9 * time.Hour:                 lost(refusal(runner.CredentialMissing, "secret-denied")),
		10*time.Hour + time.Minute:    lost(nil),
		12 * time.Hour:                func() { w.pat++ },
		15 * time.Hour:                func() { w.text, w.changed = "", time.Now() },
		18 * time.Hour:                lost(refusal(runner.Unavailable, "timeout")),
		18*time.Hour + 1*time.Minute:  func() { w.mood = down(runner.Unavailable) },
		18*time.Hour + 31*time.Minute: func() { w.mood = good },
		18*time.Hour + 45*time.Minute: lost(nil),
		21*time.Hour + 7*time.Minute:  func() { w.pat++; w.mood = down(runner.Unavailable) },
		21*time.Hour + 37*time.Minute: func() { w.mood = good },
	}
	began, served, failed, restarts := time.Now(), 0, 0, 0
	for at := time.Duration(0); at < 24*time.Hour; at += step {
		time.Sleep(time.Until(began.Add(at)))
		if event := events[at]; event != nil {
			event()
		}
		if at%(20*time.Minute) == 0 {
			w.environments[w.random.IntN(len(w.environments))].tokens.Refresh(w.Context())
		}
		if at%(100*time.Minute) == 90*time.Minute {
			restarts++
			w.start(w.random.IntN(len(w.environments)))
		}
		e := w.environments[w.random.IntN(len(w.environments))]
		r := w.requests[w.random.IntN(len(w.requests))]
		now, held := time.Now(), e.last[r]
		_, err := w.ask(e, r, 20*time.Second)
		if err == nil {
			served++
			continue
		}
		failed++
		if left := held.ExpiresAt.Sub(now); left > 5*time.Minute+20*time.Second {
			w.Errorf("after %v: %v failed, though a token with %v left is held: %v", at, r, left, err)
		}
		if w.isShared(r, now) {
			w.Errorf("after %v: %v failed, though a token is shared: %v", at, r, err)
		}
	}
	// Each refresh makes a token for each of two targets. An environment makes each of its two remove tokens at most every
	// half an hour, and at its start. While the secret was lost it made registration tokens, too: five times at most.
	if most := 73*2 + 2*(3*48+restarts) + 2*3*5; w.calls > most {
		w.Errorf("GitHub made %d tokens, want %d at most", w.calls, most)
	}
	if served < 8000 || failed == 0 {
		w.Errorf("%d served, %d failed: the day is not as it should be", served, failed)
	}
	w.Logf("%d served, %d failed, %d tokens made", served, failed, w.calls)
}

// isShared reports whether an environment can know of a good token: it reads every 30 s at most.
func (w *town) isShared(r runner.Request, now time.Time) bool {
	var d document
	if w.read != nil || now.Sub(w.changed) < readEvery+time.Second || r.Kind != runner.RegistrationToken ||
		json.Unmarshal([]byte(w.text), &d) != nil {
		return false
	}
	for _, t := range d.Tokens {
		if t.Target == r.Target.Path() && t.ExpiresAt.Sub(now) > orderMinLife+20*time.Second {
			return now.Sub(d.WrittenAt) > readEvery+time.Second
		}
	}
	return false
}
