package credential

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"runner-token-broker/internal/runner"
	"runner-token-broker/internal/secret"
)

const (
	rejectionMemory = 60 * time.Second // GitHub locks out callers that repeat bad credentials
	rereadInterval  = 5 * time.Second
)

var slow = runner.Cause{Name: "timeout", Code: runner.Unavailable}

// Set is the credentials that one secret holds: today one PAT for all targets. It caches the secret, and it remembers
// which values GitHub rejected. Use NewSet. It is safe for concurrent use.
type Set struct {
	ttl   time.Duration
	fetch func(context.Context) (secret.Value, error)
	slot  chan struct{} // held by the one that reads; a channel, since those that wait for it have deadlines

	mu       sync.Mutex
	pat      secret.Value // zero before the first read
	readAt   time.Time
	rereadAt time.Time            // when a successor of a rejected value was last looked for
	rejected map[string]rejection // by the bearer's SHA-256
}

type rejection struct {
	why *runner.Error
	at  time.Time
}

// NewSet returns the Set of the secret that fetch reads; fetch's errors are *runner.Error. What was read is used for
// ttl. Failed reads are not cached.
func NewSet(ttl time.Duration, fetch func(context.Context) (secret.Value, error)) *Set {
	return &Set{ttl: ttl, fetch: fetch, slot: make(chan struct{}, 1), rejected: map[string]rejection{}}
}

// For returns the credential for the target. The secret is read anew when its time is over, or when its value was
// rejected within the last minute, then at most every five seconds. Simultaneous calls wait for one read, each until
// its ctx ends. The error is a *runner.Error: that of the rejection where no other value can be read.
func (s *Set) For(ctx context.Context, _ runner.Target) (runner.Credential, error) {
	select {
	case s.slot <- struct{}{}:
		defer func() { <-s.slot }()
	case <-ctx.Done():
		return nil, slow.Refuse("waiting for the secret: %w", ctx.Err())
	}
	read, err := s.mustRead()
	if err != nil {
		return nil, err
	}
	if read {
		v, err := s.fetch(ctx)
		if err == nil {
			v, err = Parse(v)
		}
		if err := s.store(v, err); err != nil {
			return nil, err
		}
	}
	return s.current(), nil
}

// mustRead reports whether the secret must be read. It fails if it must and it is too early.
func (s *Set) mustRead() (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	why := s.rejection(s.pat)
	switch {
	case why == nil:
		return s.pat.IsZero() || time.Since(s.readAt) >= s.ttl, nil
	case time.Since(s.rereadAt) < rereadInterval:
		return false, again(why, "the secret held the rejected value %.0f s ago, and is read every %.0f s",
			time.Since(s.readAt).Seconds(), rereadInterval.Seconds())
	}
	s.rereadAt = now()
	return true, nil
}

// store caches what was read. Where the value is a rejected one, or nothing was read in its place, the error is the
// rejection.
func (s *Set) store(v secret.Value, err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		if why := s.rejection(s.pat); why != nil {
			return again(why, "the secret could not be read again: %w", runner.AsError(err).Err)
		}
		return err
	}
	s.pat, s.readAt = v, now()
	if why := s.rejection(v); why != nil {
		s.rereadAt = s.readAt
		return again(why, "the secret, read again, still holds the rejected value")
	}
	return nil
}

// again returns the rejection for a call that is not made.
func again(why *runner.Error, format string, args ...any) *runner.Error {
	e := *why
	e.Err = fmt.Errorf("%w: %w", fmt.Errorf(format, args...), why.Err)
	e.GitHub = runner.Trace{}
	return &e
}

func (s *Set) current() credential {
	s.mu.Lock()
	defer s.mu.Unlock()
	return credential{s, s.pat}
}

// rejection returns why the value was rejected within the last minute, nil if it was not.
func (s *Set) rejection(v secret.Value) *runner.Error {
	maps.DeleteFunc(s.rejected, func(_ string, r rejection) bool { return time.Since(r.at) >= rejectionMemory })
	return s.rejected[v.SHA256()].why
}

// credential is a personal access token: bearer and account in one.
type credential struct {
	set   *Set
	value secret.Value
}

func (c credential) Account() string { return c.value.SHA256() }

func (credential) Name() string { return "pat" }

func (c credential) Bearer(context.Context) (secret.Value, error) { return c.value, nil }

func (c credential) Reject(bearer secret.Value, why *runner.Error) {
	c.set.mu.Lock()
	defer c.set.mu.Unlock()
	c.set.rejected[bearer.SHA256()] = rejection{why, now()}
}

// now is the wall clock alone: the monotonic one may stand still while the environment is frozen between invocations
// (https://pkg.go.dev/time#hdr-Monotonic_Clocks).
func now() time.Time { return time.Now().Round(0) }
