package credential

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"runner-token-broker/internal/runner"
	"runner-token-broker/internal/secret"
)

const (
	rejectionMemory = 60 * time.Second // GitHub locks out callers that repeat bad credentials
	rereadInterval  = 5 * time.Second
)

var slow = runner.Cause{
	Name: "timeout", Code: runner.Unavailable, Remedy: "other requests wait for the secret too: see their lines",
}

// Set is the credentials that one secret holds. It caches the secret, and remembers which of its values GitHub
// rejected. Use NewSet. It is safe for concurrent use.
type Set struct {
	ttl    time.Duration
	fetch  func(context.Context) (secret.Value, error)
	github Installations
	signer Signer
	slot   chan struct{} // held by the one that reads; a channel, since those that wait for it have deadlines

	mu       sync.Mutex
	entries  []Entry // none before the first read
	readAt   time.Time
	rereadAt time.Time            // when the successor of a value that is no good was last looked for
	rejected map[string]rejection // by the entry's id, or by Entry.at
	apps     map[string]*app      // by the entry's id
}

type rejection struct {
	why *runner.Error
	at  time.Time
}

// NewSet returns the Set of the secret that fetch reads. What was read is used for ttl. Failed reads are not cached. A
// GitHub App's installations are github's, and signer signs for one whose key cannot be read.
func NewSet(
	ttl time.Duration, fetch func(context.Context) (secret.Value, error), github Installations, signer Signer,
) *Set {
	return &Set{
		ttl: ttl, fetch: fetch, github: github, signer: signer, slot: make(chan struct{}, 1),
		rejected: map[string]rejection{}, apps: map[string]*app{},
	}
}

// For returns the credential for the target: the first of the secret's that is for it. The secret is read anew when its
// time is over, or when this credential is no good (rejected within the last minute, malformed, absent), then at most
// every five seconds. Simultaneous calls wait for one read, but not those whose credential is good. The error is a
// *runner.Error: that of the rejection where there is no other value, or none can be read.
func (s *Set) For(ctx context.Context, t runner.Target) (runner.Credential, error) {
	if c := s.cached(t); c != nil {
		return c, nil
	}
	select {
	case s.slot <- struct{}{}:
		defer func() { <-s.slot }()
	case <-ctx.Done():
		return nil, slow.Refuse("waiting for the secret: %w", ctx.Err())
	}
	read, err := s.mustRead(t)
	if err != nil {
		return nil, err
	}
	if read {
		var entries []Entry
		v, err := s.fetch(ctx)
		if err == nil {
			entries, err = Parse(v)
		}
		if err := s.store(entries, err, t); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.credential(t), nil
}

// cached returns the credential, or nil if the secret must be read for it.
func (s *Set) cached(t runner.Target) runner.Credential {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, problem := s.find(t); problem != nil || time.Since(s.readAt) >= s.ttl {
		return nil
	}
	return s.credential(t)
}

// mustRead reports whether the secret must be read. It fails if it must and it is too early.
func (s *Set) mustRead(t runner.Target) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, problem := s.find(t)
	switch {
	case s.entries == nil:
		return true, nil
	case problem == nil:
		return time.Since(s.readAt) >= s.ttl, nil
	case time.Since(s.rereadAt) < rereadInterval:
		return false, again(problem, "the secret held the same %.0f s ago, and is read every %.0f s",
			time.Since(s.readAt).Seconds(), rereadInterval.Seconds())
	}
	s.rereadAt = now()
	return true, nil
}

// store keeps what was read. Its error says what is known of a rejected value, and no more.
func (s *Set) store(entries []Entry, err error, t runner.Target) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		if _, problem := s.find(t); s.entries != nil && problem != nil && problem.Code == runner.CredentialRejected {
			return again(problem, "the secret could not be read again: %s", runner.AsError(err).Operator())
		}
		return err
	}
	s.entries, s.readAt = entries, now()
	maps.DeleteFunc(s.apps, func(id string, _ *app) bool {
		return !slices.ContainsFunc(entries, func(e Entry) bool { return e.id == id })
	})
	_, problem := s.find(t)
	switch {
	case problem == nil:
		return nil
	case problem.Code == runner.CredentialRejected:
		problem = again(problem, "the secret, read again, still holds the rejected value")
	}
	s.rereadAt = s.readAt
	return problem
}

var (
	noCredential = runner.Cause{
		Name: "no-credential-for-target", Code: runner.CredentialMissing,
		Remedy: "put the target into the list of one of the secret's credentials",
	}
	noEnterprise = runner.Cause{
		Name: "app-and-enterprise", Code: runner.CredentialForbidden,
		Remedy: "GitHub gives Apps no right to an enterprise's runners: " +
			"a classic PAT with manage_runners:enterprise is needed",
	}
)

// find returns the entry for the target, and what is wrong with it. It wants s.mu.
func (s *Set) find(t runner.Target) (Entry, *runner.Error) {
	i := slices.IndexFunc(s.entries, func(e Entry) bool { return e.serves(t) })
	if i < 0 {
		return Entry{}, noCredential.Refuse("none of the secret's credentials is for %s", t)
	}
	e := s.entries[i]
	maps.DeleteFunc(s.rejected, func(_ string, r rejection) bool { return time.Since(r.at) >= rejectionMemory })
	switch {
	case e.err != nil:
		return e, e.err
	case e.app != nil && t.Scope() == "enterprises":
		problem := noEnterprise.Refuse("no call made: the credential for %s is a GitHub App", t)
		problem.Credential = e.name
		return e, problem
	}
	for _, id := range []string{e.id, e.at(t)} {
		if r, ok := s.rejected[id]; ok {
			why := *r.why
			why.Credential = e.name // it may be in the list twice
			return e, &why
		}
	}
	return e, nil
}

// credential returns the entry for the target as a credential. It wants s.mu.
func (s *Set) credential(t runner.Target) runner.Credential {
	e, _ := s.find(t)
	if e.app == nil {
		return pat{s, e}
	}
	a := s.apps[e.id]
	if a == nil {
		a = newApp(e.app, s.github, s.signer)
		s.apps[e.id] = a
	}
	return installation{s, e, a, t}
}

func (s *Set) reject(id string, why *runner.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rejected[id] = rejection{why, now()}
}

// again returns the rejection for a call that is not made.
func again(why *runner.Error, format string, args ...any) *runner.Error {
	e := *why
	e.Err = fmt.Errorf("%w: %w", fmt.Errorf(format, args...), why.Err)
	e.GitHub = runner.Trace{}
	return &e
}

// pat is a personal access token: bearer and account in one.
type pat struct {
	set   *Set
	entry Entry
}

func (p pat) Account() string                              { return p.entry.id }
func (p pat) Name() string                                 { return p.entry.name }
func (p pat) Bearer(context.Context) (secret.Value, error) { return p.entry.pat, nil }
func (p pat) Reject(_ secret.Value, why *runner.Error)     { p.set.reject(p.entry.id, why) }

// now is the wall clock alone: the monotonic one may stand still while the environment is frozen between invocations
// (https://pkg.go.dev/time#hdr-Monotonic_Clocks).
func now() time.Time { return time.Now().Round(0) }

// Check reads the secret, and says which credentials it holds. The error, a *runner.Error, is also that of one of
// several that is malformed. What is cached stays as it is.
func (s *Set) Check(ctx context.Context) (string, error) {
	v, err := s.fetch(ctx)
	if err != nil {
		return "", err
	}
	entries, err := Parse(v)
	if err != nil {
		return "", err
	}
	var names []string
	for _, e := range entries {
		if e.err != nil {
			return "", e.err
		}
		names = append(names, e.name)
	}
	return "it was read, and holds " + strings.Join(names, ", "), nil
}

// Causes are what can be wrong with the secret's value.
func Causes() []runner.Cause { return []runner.Cause{malformed, noCredential, noEnterprise, slow} }
