package credential

import (
	"context"
	"maps"
	"sync"
	"time"

	"runner-token-broker/internal/runner"
	"runner-token-broker/internal/secret"
)

// Installations are GitHub's part in an App's credentials. Its errors are *runner.Error. It ends with the context and
// is safe for concurrent use.
type Installations interface {
	// FindInstallation returns the number of the App's installation that has the target. It asks for a JWT for each try:
	// GitHub answers 404 to one that it has seen.
	FindInstallation(
		ctx context.Context, jwt func(context.Context) (secret.Value, error), t runner.Target,
	) (int64, error)
	// CreateInstallationToken makes a token that is good for the runners of the target alone, and says when it ends.
	CreateInstallationToken(
		ctx context.Context, jwt func(context.Context) (secret.Value, error), installation int64, t runner.Target,
	) (secret.Value, time.Time, error)
}

const (
	minBearerLife = 5 * time.Minute
	anewOnce      = time.Minute // one that is rejected is made anew, but only once in this time
)

// app is what is remembered of one GitHub App.
type app struct {
	key    *key
	github Installations
	signer Signer

	mu     sync.Mutex
	found  map[string]int64            // installations, by owner
	tokens map[runner.Target]bearer    // by what they were narrowed to
	forgot map[runner.Target]time.Time // when GitHub last rejected one of them
}

type bearer struct {
	value   secret.Value
	expires time.Time
}

func newApp(k *key, github Installations, signer Signer) *app {
	return &app{
		key: k, github: github, signer: signer,
		found: map[string]int64{}, tokens: map[runner.Target]bearer{}, forgot: map[runner.Target]time.Time{},
	}
}

// installation is a GitHub App as it is installed at the owner of one target.
type installation struct {
	set    *Set
	entry  Entry
	app    *app
	target runner.Target
}

// Account is the installation's: there is one for an App and an owner, and GitHub counts by it.
func (i installation) Account() string { return "app " + i.app.key.issuer + " at " + i.target.Owner() }

func (i installation) Name() string { return i.entry.name }

// Bearer returns an installation token that is narrowed to the target: the one that is cached until five minutes before
// its end, or a new one.
func (i installation) Bearer(ctx context.Context) (secret.Value, error) {
	a := i.app
	token, number := a.cached(i.target)
	if !token.IsZero() {
		return token, nil
	}
	jwt := func(ctx context.Context) (secret.Value, error) { return a.key.jwt(ctx, a.signer) }
	cached := number != 0
	for {
		if number == 0 {
			var err error
			if number, err = a.github.FindInstallation(ctx, jwt, i.target); err != nil {
				return secret.Value{}, err
			}
		}
		token, expires, err := a.github.CreateInstallationToken(ctx, jwt, number, i.target)
		switch {
		case err == nil:
			a.keep(i.target, number, bearer{token, expires})
			return token, nil
		case !cached || a.key.installation != 0 || runner.AsError(err).Code != runner.TargetNotFound:
			return secret.Value{}, err
		}
		number, cached = 0, false // it was installed anew, perhaps
	}
}

// Reject forgets the installation token, so that a new one is made. If that is rejected too, the installation is no
// good. If none could be made, the App's key is no good, for whatever owner.
func (i installation) Reject(token secret.Value, why *runner.Error) {
	switch {
	case token.IsZero():
		i.set.reject(i.entry.id, why)
	case i.app.forget(i.target, token):
		i.set.reject(i.entry.at(i.target), why)
	}
}

// cached returns a token with enough life for the target, or else the installation's number; 0 if that is not known.
func (a *app) cached(t runner.Target) (token secret.Value, installation int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if b, ok := a.tokens[t]; ok && time.Until(b.expires) >= minBearerLife {
		return b.value, 0
	}
	if a.key.installation != 0 {
		return secret.Value{}, a.key.installation
	}
	return secret.Value{}, a.found[t.Owner()]
}

func (a *app) keep(t runner.Target, installation int64, b bearer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	maps.DeleteFunc(a.tokens, func(_ runner.Target, b bearer) bool { return time.Until(b.expires) <= 0 })
	a.found[t.Owner()] = installation
	a.tokens[t] = b
}

// forget forgets the token, if it is still the cached one, and reports whether it was made in place of another that was
// rejected as well.
func (a *app) forget(t runner.Target, token secret.Value) (again bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.tokens[t].value.Reveal() != token.Reveal() {
		return false
	}
	delete(a.tokens, t)
	maps.DeleteFunc(a.forgot, func(_ runner.Target, at time.Time) bool { return time.Since(at) > anewOnce })
	_, again = a.forgot[t]
	a.forgot[t] = now()
	return again
}
