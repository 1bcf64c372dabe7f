package runner

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"runner-token-broker/internal/secret"
)

// Source is where a token came from.
type Source string

const (
	FromGitHub Source = "github"
	FromCache  Source = "cache"
	FromStale  Source = "stale" // kept, and served below its minimum life because there is no newer one to be had
)

// Token is what GitHub made.
type Token struct {
	Value     secret.Value
	ExpiresAt time.Time
	RunnerURL string // what config.sh --url wants
	Source    Source
	Outage    error    // why a stale token was served
	GitHub    Response // zero unless Source is FromGitHub
}

const (
	tokenLife    = time.Hour // what GitHub gives a token
	minStaleLife = 5 * time.Minute
)

// GitHub makes tokens.
type GitHub interface {
	// CreateToken makes one token with the credential. Its errors are *Error: CredentialRejected, RateLimited and
	// Unavailable have a meaning here. It ends with ctx and is safe for concurrent use.
	CreateToken(ctx context.Context, credential secret.Value, t Target, k Kind) (Token, error)
}

// Credentials keeps the credential for GitHub; see secret.Cache.
type Credentials interface {
	Get(context.Context) (secret.Value, error)
	Reject(secret.Value)
}

// Issuer hands out tokens: kept ones while they are good, new ones otherwise. Use NewIssuer. It is safe for concurrent
// use.
type Issuer struct {
	policy      Policy
	github      GitHub
	credentials Credentials
	minLife     time.Duration
	flight      singleflight.Group

	mu     sync.Mutex
	tokens map[string]*keptToken // by Request.key
	limits map[string]time.Time  // until when GitHub wants no call, by the credential's SHA-256
}

type keptToken struct {
	Token
	refused bool // GitHub has refused since: not to be served in an outage
}

// NewIssuer returns an Issuer for the targets of policy. It hands a kept token out again while that has at least
// minLife left, and never if minLife is an hour or more.
func NewIssuer(policy Policy, github GitHub, credentials Credentials, minLife time.Duration) *Issuer {
	return &Issuer{
		policy: policy, github: github, credentials: credentials, minLife: minLife,
		tokens: map[string]*keptToken{}, limits: map[string]time.Time{},
	}
}

// Issue returns a token for the request, or an *Error. It ends with ctx.
func (i *Issuer) Issue(ctx context.Context, r Request) (Token, error) {
	if !i.policy.Allows(r.Target) {
		return Token{}, &Error{
			Code:    TargetNotAllowed,
			Message: r.Target.Path() + " is not one of the targets this service serves",
			Err:     fmt.Errorf("%s is not in ALLOWED_TARGETS", r.Target),
		}
	}
	if r.Fresh {
		return i.create(ctx, r)
	}
	// Simultaneous misses make one call. It runs with the first caller's deadline, which is the earliest of them: they
	// are invocations of one function.
	v, err, _ := i.flight.Do(r.key(), func() (any, error) { return i.reuseOrCreate(ctx, r) })
	return v.(Token), err
}

func (i *Issuer) reuseOrCreate(ctx context.Context, r Request) (Token, error) {
	if i.minLife < tokenLife {
		if t, ok := i.kept(r, i.minLife); ok {
			t.Source = FromCache
			return t.Token, nil
		}
	}
	t, err := i.create(ctx, r)
	if err == nil {
		return t, nil
	}
	switch AsError(err).Code {
	case RateLimited, Unavailable:
		if t, ok := i.kept(r, minStaleLife); ok && !t.refused {
			t.Source, t.Outage = FromStale, err
			return t.Token, nil
		}
	}
	return Token{}, err
}

// create has GitHub make a token, if need be with the secret read again: the credential may have been rotated since.
func (i *Issuer) create(ctx context.Context, r Request) (Token, error) {
	credential, err := i.credential(ctx)
	if err != nil {
		return Token{}, err
	}
	t, err := i.call(ctx, credential, r)
	if err == nil || AsError(err).Code != CredentialRejected {
		return t, err
	}
	next, rereadErr := i.credential(ctx)
	if rereadErr != nil {
		e := *AsError(err)
		e.Err = fmt.Errorf("%w; read again: %w", e.Err, rereadErr)
		return Token{}, &e
	}
	return i.call(ctx, next, r)
}

func (i *Issuer) credential(ctx context.Context) (secret.Value, error) {
	v, err := i.credentials.Get(ctx)
	switch {
	case err == nil:
		return v, nil
	case errors.Is(err, secret.ErrRejected):
		return v, Refuse(CredentialRejected, fmt.Errorf("%w: put a valid credential there", err))
	case err == ctx.Err(): // bare: we did not get as far as reading it
		return v, Refuse(Unavailable, fmt.Errorf("waiting for the credential: %w", err))
	}
	return v, err
}

// call makes one call to GitHub, unless GitHub asked to make none, and remembers what came of it.
func (i *Issuer) call(ctx context.Context, credential secret.Value, r Request) (Token, error) {
	if wait := i.wait(credential); wait > 0 {
		e := Refuse(RateLimited, errors.New("no call made: the wait that GitHub asked for is not over"))
		e.RetryAfter = wait
		return Token{}, e
	}
	t, err := i.github.CreateToken(ctx, credential, r.Target, r.Kind)
	if err == nil {
		t.Source = FromGitHub
		i.keep(r, t)
		return t, nil
	}
	switch e := AsError(err); e.Code {
	case RateLimited:
		i.limit(credential, e.RetryAfter)
	case CredentialRejected:
		i.credentials.Reject(credential)
		i.bar(func(string) bool { return true })
	case CredentialForbidden, TargetNotFound:
		i.bar(func(key string) bool { return key == r.key() })
	}
	return Token{}, err
}

func (i *Issuer) kept(r Request, minLife time.Duration) (keptToken, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	t := i.tokens[r.key()]
	if t == nil || time.Until(t.ExpiresAt) < minLife {
		return keptToken{}, false
	}
	return *t, true
}

func (i *Issuer) keep(r Request, t Token) {
	i.mu.Lock()
	defer i.mu.Unlock()
	maps.DeleteFunc(i.tokens, func(_ string, t *keptToken) bool { return time.Until(t.ExpiresAt) <= 0 })
	t.GitHub = Response{}
	i.tokens[r.key()] = &keptToken{Token: t}
}

// bar bars kept tokens from being served in an outage: GitHub would not give them now.
func (i *Issuer) bar(which func(key string) bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for key, t := range i.tokens {
		t.refused = t.refused || which(key)
	}
}

func (i *Issuer) wait(credential secret.Value) time.Duration {
	i.mu.Lock()
	defer i.mu.Unlock()
	return time.Until(i.limits[credential.SHA256()])
}

func (i *Issuer) limit(credential secret.Value, wait time.Duration) {
	i.mu.Lock()
	defer i.mu.Unlock()
	maps.DeleteFunc(i.limits, func(_ string, until time.Time) bool { return time.Until(until) <= 0 })
	// Round(0): the wall clock. The monotonic one may stand still while the environment is frozen between invocations.
	i.limits[credential.SHA256()] = time.Now().Add(wait).Round(0)
}

func (r Request) key() string { return r.Target.path + " " + string(r.Kind) }
