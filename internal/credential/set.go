package credential

import (
	"context"
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

var (
	rejected = runner.Cause{
		Name: "expired-or-revoked", Code: runner.CredentialRejected, Remedy: "put a valid credential into the secret",
	}
	slow = runner.Cause{Name: "timeout", Code: runner.Unavailable}
)

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
	rejected map[string]time.Time // by the bearer's SHA-256
}

// NewSet returns the Set of the secret that fetch reads. What was read is used for ttl. Failed reads are not cached.
func NewSet(ttl time.Duration, fetch func(context.Context) (secret.Value, error)) *Set {
	return &Set{ttl: ttl, fetch: fetch, slot: make(chan struct{}, 1), rejected: map[string]time.Time{}}
}

// For returns the credential for the target. The secret is read anew when its time is over, or when its value was
// rejected within the last minute, then at most every five seconds. Simultaneous calls wait for one read. The error is a
// *runner.Error: CredentialRejected where there is no other value, or none can be read.
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
	switch {
	case s.pat.IsZero():
		return true, nil
	case !s.isRejected(s.pat):
		return time.Since(s.readAt) >= s.ttl, nil
	case time.Since(s.rereadAt) < rereadInterval:
		return false, rejected.Refuse("the secret held the rejected value %.0f s ago, and is read every %.0f s",
			time.Since(s.readAt).Seconds(), rereadInterval.Seconds())
	}
	s.rereadAt = now()
	return true, nil
}

// store keeps what was read. Its error says what is known of a rejected value, and no more.
func (s *Set) store(v secret.Value, err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err != nil && !s.pat.IsZero() && s.isRejected(s.pat):
		return rejected.Refuse("the secret could not be read again: %w", runner.AsError(err).Err)
	case err != nil:
		return err
	}
	s.pat, s.readAt = v, now()
	if s.isRejected(v) {
		s.rereadAt = s.readAt
		return rejected.Refuse("the secret, read again, still holds the rejected value")
	}
	return nil
}

func (s *Set) current() credential {
	s.mu.Lock()
	defer s.mu.Unlock()
	return credential{s, s.pat}
}

func (s *Set) isRejected(v secret.Value) bool {
	maps.DeleteFunc(s.rejected, func(_ string, at time.Time) bool { return time.Since(at) >= rejectionMemory })
	_, ok := s.rejected[v.SHA256()]
	return ok
}

// credential is a personal access token: bearer and account in one.
type credential struct {
	set   *Set
	value secret.Value
}

func (c credential) Account() string { return c.value.SHA256() }

func (credential) Name() string { return "pat" }

func (c credential) Bearer(context.Context) (secret.Value, error) { return c.value, nil }

func (c credential) Reject(bearer secret.Value) {
	c.set.mu.Lock()
	defer c.set.mu.Unlock()
	c.set.rejected[bearer.SHA256()] = now()
}

// now is the wall clock alone: the monotonic one may stand still while the environment is frozen between invocations
// (https://pkg.go.dev/time#hdr-Monotonic_Clocks).
func now() time.Time { return time.Now().Round(0) }
