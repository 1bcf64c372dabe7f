// Package shared keeps current registration tokens in a second secret, so that a burst of new execution environments
// costs GitHub nothing: a schedule has them made and written, and the environments only read. It is a cache, never a
// dependency: what is wrong with it is passed over.
package shared

import (
	"cmp"
	"context"
	"encoding/json"
	"time"

	"runner-token-broker/internal/runner"
	"runner-token-broker/internal/secret"
)

const (
	readEvery   = 30 * time.Second
	readTimeout = 2 * time.Second // GitHub can be asked in the time that is left
	freshFor    = time.Minute
	tokenLife   = time.Hour // as GitHub gives it; clocks differ
)

// Store is the second secret. Its errors are *runner.Error, with a cause of noValue where there is no text to read. It
// ends with the context and is safe for concurrent use.
type Store interface {
	Fetch(context.Context) (secret.Value, error)
	Put(context.Context, secret.Value) error
}

// Tokens is the Upstream that reads the secret before it asks the next one. Use New. It is safe for concurrent use.
type Tokens struct {
	next      runner.Upstream
	store     Store
	policy    runner.Policy
	minLife   time.Duration
	runnerURL func(runner.Target) string

	// The slot is held by the one that uses the rest; a channel, since those that wait for it have deadlines.
	slot    chan struct{}
	readAt  time.Time // by the wall clock, see runner.Minter
	held    held
	problem string // why there is nothing; "" if that is not known

	// The same for Refresh.
	refreshing chan struct{}
	triedAt    time.Time
	tried      error // what came of it
}

// New returns the Tokens of store, in front of next. It hands out a token that has at least minLife left; a minLife of
// an hour or more means never. runnerURL returns what config.sh wants for a target.
func New(
	next runner.Upstream, store Store, policy runner.Policy, minLife time.Duration, runnerURL func(runner.Target) string,
) *Tokens {
	return &Tokens{
		next: next, store: store, policy: policy, minLife: minLife, runnerURL: runnerURL,
		slot: make(chan struct{}, 1), refreshing: make(chan struct{}, 1),
	}
}

// Create returns the shared token for the request if there is a good one, else the next one's.
func (s *Tokens) Create(ctx context.Context, r runner.Request) (runner.Token, error) {
	if r.Kind != runner.RegistrationToken {
		return s.next.Create(ctx, r)
	}
	e, problem := s.find(ctx, r)
	if problem == "" {
		return runner.Token{
			Value: e.token, ExpiresAt: e.expiresAt, MadeAt: e.madeAt, RunnerURL: s.runnerURL(r.Target),
			Source: runner.FromShared,
		}, nil
	}
	runner.MeterOf(ctx).PassOver(problem)
	return s.next.Create(ctx, r)
}

// find returns the entry for the request, or why there is none.
func (s *Tokens) find(ctx context.Context, r runner.Request) (entry, string) {
	select {
	case s.slot <- struct{}{}:
		defer func() { <-s.slot }()
	case <-ctx.Done():
		return entry{}, "there was no time to read it"
	}
	if time.Since(s.readAt) >= readEvery {
		s.read(ctx)
	}
	if s.problem != "" {
		return entry{}, s.problem
	}
	e, ok := s.held.tokens[r.Target]
	if !ok {
		runner.MeterOf(ctx).SharedAge(time.Since(s.held.writtenAt))
		return entry{}, cmp.Or(s.held.faults[r.Target], "it has no token for the target")
	}
	runner.MeterOf(ctx).SharedAge(time.Since(e.madeAt))
	switch {
	case time.Until(e.expiresAt) < s.minLife, s.minLife >= tokenLife:
		return entry{}, "its token is too old"
	case r.Fresh && time.Since(e.madeAt) > freshFor:
		return entry{}, "its token is not fresh"
	}
	return e, ""
}

// read reads the secret. What is wrong with it is remembered as long as what is right, but for a caller's lack of time.
func (s *Tokens) read(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	s.held, s.problem, _ = s.load(limited)
	if ctx.Err() == nil {
		s.readAt = time.Now().Round(0)
	}
}

// load returns what the secret holds, or what is wrong with it. The error is the store's.
func (s *Tokens) load(ctx context.Context) (h held, problem string, _ error) {
	v, err := s.store.Fetch(ctx)
	if err != nil {
		return held{}, "it cannot be read: " + runner.AsError(err).Cause, err
	}
	h, problem = s.parse(v)
	return h, problem, nil
}

// held is what the secret holds.
type held struct {
	writtenAt time.Time
	tokens    map[runner.Target]entry
	faults    map[runner.Target]string // of the entries that are left out
}

type entry struct {
	token     secret.Value
	expiresAt time.Time
	madeAt    time.Time
}

// document is the secret's layout.
type document struct {
	WrittenAt time.Time       `json:"written_at"`
	Tokens    []documentToken `json:"tokens"`
}

type documentToken struct {
	Target    string      `json:"target"`
	Kind      runner.Kind `json:"kind"`
	Token     string      `json:"token"`
	RunnerURL string      `json:"runner_url,omitempty"` // tells GitHubs apart
	ExpiresAt time.Time   `json:"expires_at"`
	MadeAt    time.Time   `json:"made_at"`
}

// parse returns what v holds, or what is wrong with it. Fields that it does not know may be there: a newer version may
// have written it. Neither the problem nor the faults quote anything.
func (s *Tokens) parse(v secret.Value) (_ held, problem string) {
	var d document
	switch {
	case v.IsZero():
		return held{}, "it is empty"
	case json.Unmarshal([]byte(v.Reveal()), &d) != nil:
		return held{}, "it is malformed, or of another version's layout"
	case d.WrittenAt.IsZero():
		return held{}, "it was written by something else"
	}
	h := held{writtenAt: d.WrittenAt, tokens: map[runner.Target]entry{}, faults: map[runner.Target]string{}}
	for _, t := range d.Tokens {
		target, err := runner.ParseTarget(t.Target)
		if err != nil || t.Kind != runner.RegistrationToken {
			continue
		}
		if fault := t.fault(s.runnerURL(target)); fault != "" {
			h.faults[target] = fault
			continue
		}
		h.tokens[target] = entry{secret.New(t.Token), t.ExpiresAt.UTC(), t.MadeAt.UTC()}
	}
	return h, ""
}

// fault says why the token cannot be one of ours that is good.
func (t documentToken) fault(runnerURL string) string {
	now, life := time.Now(), t.ExpiresAt.Sub(t.MadeAt)
	switch {
	case t.RunnerURL != "" && t.RunnerURL != runnerURL:
		return "its token is another GitHub's"
	case !isToken(t.Token):
		return "its token is malformed"
	case t.MadeAt.After(now.Add(clockSlack)), life <= 0, life > 2*tokenLife:
		return "its token's times cannot be right"
	case !t.ExpiresAt.After(now):
		return "its token has ended"
	}
	return ""
}

// isToken reports whether s can be given to a caller: GitHub's tokens are letters and digits.
func isToken(s string) bool {
	for _, c := range []byte(s) {
		if (c < '0' || '9' < c) && (c < 'A' || 'Z' < c) && (c < 'a' || 'z' < c) && c != '_' && c != '-' {
			return false
		}
	}
	return s != "" && len(s) < 1000
}
