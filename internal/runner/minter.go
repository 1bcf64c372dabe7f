package runner

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"runner-token-broker/internal/secret"
)

const (
	refusalMemory = 30 * time.Second // how long GitHub's 403 or 404 is repeated without a call
	firstWait     = time.Minute      // for a limit that does not say how long; doubled at the next
	longestGuess  = 15 * time.Minute
)

// LongestWait is the longest wait that GitHub is believed: its windows have an hour.
const LongestWait = 70 * time.Minute

// Credentials are what the service may show to GitHub.
type Credentials interface {
	// For returns the credential for the target. Its errors are *Error. A credential that was rejected is not
	// returned again for a while: the error is that of the rejection then. It ends with the context.
	For(context.Context, Target) (Credential, error)
}

// Credential is one account's way in at GitHub. It is safe for concurrent use.
type Credential interface {
	// Account names whom GitHub counts and limits. It is no secret, and stays the same when the bearer changes.
	Account() string
	// Name says for the log which credential it is: its kind, and its number where there are several.
	Name() string
	// Bearer returns the bearer token that is good now. Its errors are *Error, and are treated as GitHub's.
	Bearer(context.Context) (secret.Value, error)
	// Reject says that GitHub answered 401 to the bearer, or, if that is zero, when one was made; and what that means.
	Reject(bearer secret.Value, why *Error)
}

// GitHub makes tokens.
type GitHub interface {
	// Create makes one token. Its errors are *Error, of which some codes have a meaning here. It ends with the context
	// and is safe for concurrent use.
	Create(ctx context.Context, bearer secret.Value, r Request) (Token, error)
}

// Minter is the Upstream that has GitHub make each token anew, and heeds what GitHub said before. Use NewMinter.
type Minter struct {
	credentials Credentials
	github      GitHub

	mu       sync.Mutex
	accounts map[string]*standing
}

// standing is what GitHub last said to an account. All times are the wall clock's: the monotonic one may stand still
// while the environment is frozen between invocations (https://pkg.go.dev/time#hdr-Monotonic_Clocks).
type standing struct {
	limit    *Error // the last one, and until when GitHub wants no call
	until    time.Time
	guesses  int                  // waits that GitHub gave no length, since the last success
	rejected time.Time            // its last 401 that no other credential cured
	refused  map[Request]*refusal // its last 401, 403 or 404
	changed  time.Time
}

type refusal struct {
	*Error
	at time.Time
}

// NewMinter returns a Minter that calls github with the credentials.
func NewMinter(credentials Credentials, github GitHub) *Minter {
	return &Minter{credentials: credentials, github: github, accounts: map[string]*standing{}}
}

// Create has GitHub make a token, after a 401 once more if there is another credential by now: it may have been rotated
// since the secret was read.
func (m *Minter) Create(ctx context.Context, r Request) (Token, error) {
	r.Fresh = false // all of ours are
	first, err := m.credentials.For(ctx, r.Target)
	if err != nil {
		return Token{}, err
	}
	t, err := m.call(ctx, first, r)
	if err == nil || AsError(err).Code != CredentialRejected {
		return t, err
	}
	next, unread := m.credentials.For(ctx, r.Target)
	if unread != nil {
		m.condemn(first)
		e := *AsError(unread)
		if e.Code != CredentialRejected { // there was no time to read
			e = *AsError(err)
			e.Err = fmt.Errorf("%w; %w", e.Err, AsError(unread).Err)
		}
		e.GitHub = AsError(err).GitHub
		return Token{}, &e
	}
	t, err = m.call(ctx, next, r)
	if err != nil {
		m.condemn(first)
		if AsError(err).Code == CredentialRejected {
			m.condemn(next)
		}
	}
	return t, err
}

// Refused reports whether GitHub has, since the token was made, refused its target, for either kind, or rejected its
// account.
func (m *Minter) Refused(r Request, t Token) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	var last time.Time
	for account, s := range m.accounts {
		if account != t.Account && t.Account != "" { // of a shared token nobody knows the account
			continue
		}
		if s.rejected.After(last) {
			last = s.rejected
		}
		for other, refusal := range s.refused {
			if other.Target == r.Target && refusal.at.After(last) {
				last = refusal.at
			}
		}
	}
	return !last.Before(t.MadeAt)
}

// call makes one call to GitHub, unless it is known to be in vain, and remembers what came of it.
func (m *Minter) call(ctx context.Context, c Credential, r Request) (Token, error) {
	if e := m.foreseen(c, r); e != nil {
		return Token{}, e
	}
	var t Token
	bearer, err := c.Bearer(ctx)
	if err == nil {
		t, err = m.github.Create(ctx, bearer, r)
	}
	if err == nil {
		m.change(c, func(s *standing) { s.guesses = 0 })
		t.Source, t.Account, t.Credential = FromGitHub, c.Account(), c.Name()
		return t, nil
	}
	e := *AsError(err)
	e.Credential = c.Name()
	switch e.Code {
	case RateLimited:
		m.change(c, func(s *standing) { s.limited(&e) })
	case CredentialForbidden, TargetNotFound:
		m.change(c, func(s *standing) { s.refused[r] = &refusal{&e, now()} })
	case CredentialRejected:
		m.change(c, func(s *standing) { s.refused[r] = &refusal{&e, now()} })
		c.Reject(bearer, &e)
	}
	return Token{}, &e
}

// foreseen returns what GitHub would answer, where it has said so before.
func (m *Minter) foreseen(c Credential, r Request) *Error {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.accounts[c.Account()]
	if s == nil {
		return nil
	}
	last := s.refused[r]
	switch {
	case last != nil && last.Code != CredentialRejected && time.Since(last.at) < refusalMemory:
		e := *last.Error
		e.Err = fmt.Errorf("no call made: GitHub refused the same %.0f s ago: %w", time.Since(last.at).Seconds(), e.Err)
		e.GitHub, e.Credential = Trace{}, c.Name()
		return &e
	case time.Until(s.until) > 0:
		e := *s.limit
		e.Credential = c.Name()
		e.Err = fmt.Errorf("no call made: GitHub wants none until %s: %w", s.until.UTC().Format(time.RFC3339), e.Err)
		e.GitHub, e.RetryAfter = Trace{}, time.Until(s.until)
		return &e
	}
	return nil
}

// limited sets the wait: what GitHub said, else a guess. No answer makes it shorter.
// (https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api#exceeding-the-rate-limit)
func (s *standing) limited(e *Error) {
	wait := e.RetryAfter
	if wait <= 0 {
		if time.Until(s.until) <= 0 { // else it is of a call that was under way when the wait began
			s.guesses++
		}
		wait = min(firstWait<<min(max(s.guesses-1, 0), 8), longestGuess)
	}
	if until := now().Add(min(wait, LongestWait)); until.After(s.until) {
		s.limit, s.until = e, until
	}
	e.RetryAfter = time.Until(s.until)
}

// condemn bars all tokens of the account from being served in an outage: GitHub would not give them now.
func (m *Minter) condemn(c Credential) {
	m.change(c, func(s *standing) { s.rejected = now() })
}

// change changes an account's standing, and forgets what no longer matters: no wait and no token lasts so long.
func (m *Minter) change(c Credential, f func(*standing)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.accounts, func(_ string, s *standing) bool { return time.Since(s.changed) > LongestWait })
	s := m.accounts[c.Account()]
	if s == nil {
		s = &standing{refused: map[Request]*refusal{}}
		m.accounts[c.Account()] = s
	}
	maps.DeleteFunc(s.refused, func(_ Request, r *refusal) bool { return time.Since(r.at) > tokenLife })
	f(s)
	s.changed = now()
}

func now() time.Time { return time.Now().Round(0) }
