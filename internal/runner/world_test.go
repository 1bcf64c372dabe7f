package runner_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"runner-token-broker/internal/credential"
	. "runner-token-broker/internal/runner"
	"runner-token-broker/internal/secret"
)

// These tests run the whole way of a request, Issuer -> Cache -> Minter, with the real credential.Set.

// gitHub is a GitHub whose answers a test sets: refusals by credential, else a token that names its call.
type gitHub struct {
	mu      sync.Mutex
	calls   int
	sent    []string // credentials
	refuse  func(credential string) *Error
	latency time.Duration
}

func (g *gitHub) Create(ctx context.Context, credential secret.Value, r Request) (Token, error) {
	asked := time.Now()
	select {
	case <-time.After(g.latency):
	case <-ctx.Done():
		return Token{}, refusal(Unavailable)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.calls++
	g.sent = append(g.sent, credential.Reveal())
	if g.refuse != nil {
		if e := g.refuse(credential.Reveal()); e != nil {
			return Token{}, e
		}
	}
	return Token{
		Value:     secret.New(fmt.Sprint("token-", g.calls)),
		ExpiresAt: time.Now().Add(time.Hour),
		MadeAt:    asked,
		GitHub:    Trace{RequestID: fmt.Sprint("request-", g.calls)},
	}, nil
}

// secretsManager is where the credential is read from.
type secretsManager struct {
	value string
	err   error
	reads int
}

func (s *secretsManager) fetch(context.Context) (secret.Value, error) {
	s.reads++
	return secret.New(s.value), s.err
}

func refusal(code Code) *Error { return Cause{Name: "test", Code: code}.Refuse("test") }

type world struct {
	*testing.T
	github  gitHub
	secrets secretsManager
	minter  *Minter
	cache   *Cache
	issuer  *Issuer
}

// inWorld runs f where time stands still unless everybody waits.
func inWorld(t *testing.T, minLife time.Duration, f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{T: t, secrets: secretsManager{value: "pat-1"}}
		policy, err := ParsePolicy("orgs/acme repos/acme/*")
		if err != nil {
			t.Fatal(err)
		}
		w.minter = NewMinter(credential.NewSet(5*time.Minute, w.secrets.fetch, nil, nil), &w.github)
		w.cache = NewCache(w.minter, w.minter.Refused, minLife)
		w.issuer = &Issuer{Policy: policy, Upstream: w.cache}
		f(w)
	})
}

func (w *world) issue(target string, options ...func(*Request)) (Token, error) {
	w.Helper()
	r := Request{Target: mustParse(w, target), Kind: RegistrationToken}
	for _, o := range options {
		o(&r)
	}
	return w.issuer.Issue(w.Context(), r)
}

func fresh(r *Request)  { r.Fresh = true }
func remove(r *Request) { r.Kind = RemoveToken }

// issues fails the test unless a token comes, the one named and from there.
func (w *world) issues(want string, source Source, target string, options ...func(*Request)) {
	w.Helper()
	t, err := w.issue(target, options...)
	if err != nil || t.Value.Reveal() != want || t.Source != source {
		w.Errorf("Issue = %q from %q, %v; want %q from %q", t.Value.Reveal(), t.Source, err, want, source)
	}
}

func (w *world) refuses(code Code, target string, options ...func(*Request)) *Error {
	w.Helper()
	t, err := w.issue(target, options...)
	if err == nil || AsError(err).Code != code || !t.Value.IsZero() {
		w.Errorf("Issue = %q, %v; want %s", t.Value.Reveal(), err, code)
	}
	return AsError(err)
}

func (w *world) called(times int) {
	w.Helper()
	if w.github.calls != times {
		w.Errorf("GitHub was called %d times, want %d", w.github.calls, times)
	}
}

// fails makes GitHub refuse every credential with the code.
func (w *world) fails(code Code, wait time.Duration) {
	w.github.refuse = func(string) *Error {
		e := refusal(code)
		e.RetryAfter = wait
		return e
	}
}

// accepts makes GitHub know these credentials alone.
func (w *world) accepts(credentials ...string) {
	w.github.refuse = func(c string) *Error {
		for _, good := range credentials {
			if c == good {
				return nil
			}
		}
		return Cause{Code: CredentialRejected}.Refuse("Bad credentials")
	}
}

func mustParse(t testing.TB, target string) Target {
	t.Helper()
	parsed, err := ParseTarget(target)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}
