// Package shared keeps current registration tokens in a second secret, so that a burst of new execution environments
// costs GitHub nothing: a schedule has them made and written, and the environments only read. It is a cache, never a
// dependency: what is wrong with it is passed over.
package shared

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"runner-token-broker/internal/runner"
	"runner-token-broker/internal/secret"
)

const (
	readEvery   = 30 * time.Second
	readTimeout = 2 * time.Second // GitHub can be asked in the time that is left
	freshFor    = time.Minute
)

// Store is the second secret. Its errors are *runner.Error. It ends with the context and is safe for concurrent use.
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

// New returns the Tokens of store, in front of next. It hands out a token that has at least minLife left. runnerURL
// returns what config.sh wants for a target.
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
	e, ok := s.held.tokens[r.Target]
	if ok {
		runner.MeterOf(ctx).SharedAge(time.Since(e.madeAt))
	} else if !s.held.writtenAt.IsZero() {
		runner.MeterOf(ctx).SharedAge(time.Since(s.held.writtenAt))
	}
	switch {
	case s.problem != "":
		return entry{}, s.problem
	case !ok:
		return entry{}, "it has no token for the target"
	case time.Until(e.expiresAt) < s.minLife:
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
	v, err := s.store.Fetch(limited)
	s.held, s.problem = held{}, ""
	if ctx.Err() == nil {
		s.readAt = time.Now().Round(0)
	}
	if err != nil {
		s.problem = "it cannot be read: " + runner.AsError(err).Cause
		return
	}
	if s.held, err = s.parse(v); err != nil {
		s.problem = err.Error()
	}
}

// held is what the secret holds.
type held struct {
	writtenAt time.Time
	tokens    map[runner.Target]entry
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

// parse reads the secret. An entry that cannot be one of ours, or is another GitHub's, is left out. Its error quotes
// nothing.
func (s *Tokens) parse(v secret.Value) (held, error) {
	var d document
	if v.IsZero() {
		return held{}, fmt.Errorf("it is empty")
	}
	if json.Unmarshal([]byte(v.Reveal()), &d) != nil {
		return held{}, fmt.Errorf("it is malformed")
	}
	h := held{writtenAt: d.WrittenAt, tokens: map[runner.Target]entry{}}
	now := time.Now()
	for _, t := range d.Tokens {
		target, err := runner.ParseTarget(t.Target)
		life := t.ExpiresAt.Sub(t.MadeAt)
		if err != nil || t.Kind != runner.RegistrationToken || !isToken(t.Token) || !t.ExpiresAt.After(now) ||
			t.MadeAt.After(now.Add(clockSlack)) || life <= 0 || life > 2*time.Hour ||
			t.RunnerURL != "" && t.RunnerURL != s.runnerURL(target) {
			continue
		}
		h.tokens[target] = entry{secret.New(t.Token), t.ExpiresAt.UTC(), t.MadeAt.UTC()}
	}
	return h, nil
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
