package runner

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"runner-token-broker/internal/secret"
)

// gitHub is a GitHub whose answers a test sets: refusals by credential, else a token that names its call.
type gitHub struct {
	mu      sync.Mutex
	calls   int
	sent    []string // credentials
	refuse  func(credential string) *Error
	latency time.Duration
}

func (g *gitHub) CreateToken(ctx context.Context, credential secret.Value, t Target, k Kind) (Token, error) {
	select {
	case <-time.After(g.latency):
	case <-ctx.Done():
		return Token{}, Refuse(Unavailable, ctx.Err())
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
		GitHub:    Response{RequestID: fmt.Sprint("request-", g.calls)},
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

type world struct {
	*testing.T
	github  gitHub
	secrets secretsManager
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
		w.issuer = NewIssuer(policy, &w.github, secret.NewCache(5*time.Minute, w.secrets.fetch), minLife)
		f(w)
	})
}

func (w *world) issue(target string, options ...func(*Request)) (Token, error) {
	w.Helper()
	r := Request{Target: mustTarget(w, target), Kind: RegistrationToken}
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
		e := Refuse(code, errors.New("test"))
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
		return Refuse(CredentialRejected, errors.New("Bad credentials"))
	}
}

func TestTokenIsReusedForItsTargetAndKindAlone(t *testing.T) {
	inWorld(t, 30*time.Minute, func(w *world) {
		w.issues("token-1", FromGitHub, "orgs/acme")
		w.issues("token-1", FromCache, "orgs/acme")
		w.issues("token-2", FromGitHub, "orgs/acme", remove)
		w.issues("token-3", FromGitHub, "repos/acme/widgets")
		w.issues("token-4", FromGitHub, "repos/acme/gears")
		w.issues("token-1", FromCache, "orgs/acme")
		w.issues("token-3", FromCache, "repos/acme/widgets")
		if token, _ := w.issue("orgs/acme"); token.GitHub != (Response{}) {
			t.Errorf("a reused token claims an answer of GitHub's: %v", token.GitHub)
		}
	})
}

func TestTokenIsReusedWhileItHasItsMinimumLife(t *testing.T) {
	inWorld(t, 30*time.Minute, func(w *world) {
		w.issues("token-1", FromGitHub, "orgs/acme")
		time.Sleep(30 * time.Minute)
		w.issues("token-1", FromCache, "orgs/acme")
		time.Sleep(time.Nanosecond)
		w.issues("token-2", FromGitHub, "orgs/acme")
	})
	inWorld(t, time.Hour, func(w *world) { // never, even where the clocks would allow it
		w.issues("token-1", FromGitHub, "orgs/acme")
		w.issues("token-2", FromGitHub, "orgs/acme")
	})
}

func TestFreshIsMadeNowAndReplacesTheKeptOne(t *testing.T) {
	inWorld(t, 30*time.Minute, func(w *world) {
		w.issues("token-1", FromGitHub, "orgs/acme")
		w.issues("token-2", FromGitHub, "orgs/acme", fresh)
		w.issues("token-2", FromCache, "orgs/acme")
		w.fails(Unavailable, 0)
		w.refuses(Unavailable, "orgs/acme", fresh)
		w.issues("token-2", FromCache, "orgs/acme")
	})
}

func TestSimultaneousMissesMakeOneCall(t *testing.T) {
	inWorld(t, 30*time.Minute, func(w *world) {
		w.github.latency = time.Second
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if token, err := w.issue("orgs/acme"); err != nil || token.Value.Reveal() != "token-1" {
					t.Errorf("Issue = %q, %v", token.Value.Reveal(), err)
				}
			})
		}
		wg.Wait()
		w.called(1)
		if w.secrets.reads != 1 {
			t.Errorf("the secret was read %d times", w.secrets.reads)
		}
	})
}

func TestTargetOutsideThePolicyReachesNobody(t *testing.T) {
	inWorld(t, 30*time.Minute, func(w *world) {
		e := w.refuses(TargetNotAllowed, "orgs/other")
		if want := "orgs/other is not one of the targets this service serves"; e.Message != want {
			t.Errorf("message %q, want %q", e.Message, want)
		}
		w.called(0)
		if w.secrets.reads != 0 {
			t.Error("the secret was read")
		}
	})
}

func TestRotatedCredentialIsReadAgainOnItsRejection(t *testing.T) {
	inWorld(t, time.Hour, func(w *world) {
		w.issues("token-1", FromGitHub, "orgs/acme")
		w.secrets.value = "pat-2"
		w.accepts("pat-2")
		w.issues("token-3", FromGitHub, "orgs/acme")
		if got, want := strings.Join(w.github.sent, " "), "pat-1 pat-1 pat-2"; got != want {
			t.Errorf("sent %q, want %q", got, want)
		}
	})
}

func TestRejectedCredentialIsNotSentAgainForAMinute(t *testing.T) {
	inWorld(t, time.Hour, func(w *world) {
		w.accepts()
		w.refuses(CredentialRejected, "orgs/acme")
		w.called(1)
		if w.secrets.reads != 2 {
			t.Errorf("the secret was read %d times, want again after the rejection", w.secrets.reads)
		}
		for range 59 {
			time.Sleep(time.Second)
			w.refuses(CredentialRejected, "orgs/acme")
		}
		w.called(1)
		if reads := w.secrets.reads; reads != 2+11 { // at most every 5 s
			t.Errorf("the secret was read %d times in that minute", reads-2)
		}
		time.Sleep(time.Second)
		w.refuses(CredentialRejected, "orgs/acme")
		w.called(2)
	})
}

func TestNewCredentialIsUsedAtOnceWhileTheOldOneIsRejected(t *testing.T) {
	inWorld(t, time.Hour, func(w *world) {
		w.accepts("pat-2")
		w.refuses(CredentialRejected, "orgs/acme")
		w.secrets.value = "pat-2"
		time.Sleep(5 * time.Second)
		w.issues("token-2", FromGitHub, "orgs/acme")
	})
}

func TestTwiceRejectedCredentialsAreBothRemembered(t *testing.T) {
	inWorld(t, time.Hour, func(w *world) {
		w.issues("token-1", FromGitHub, "orgs/acme")
		w.accepts()
		w.secrets.value = "pat-2"
		w.refuses(CredentialRejected, "orgs/acme")
		w.called(3) // pat-1 twice, pat-2 once; no third try
		w.secrets.value = "pat-1"
		time.Sleep(10 * time.Second)
		w.refuses(CredentialRejected, "orgs/acme")
		w.called(3)
	})
}

func TestRejectedAndUnreadableIsRejected(t *testing.T) {
	inWorld(t, time.Hour, func(w *world) {
		w.issues("token-1", FromGitHub, "orgs/acme")
		w.accepts()
		w.secrets.err = Refuse(Unavailable, errors.New("Secrets Manager is down"))
		e := w.refuses(CredentialRejected, "orgs/acme")
		for _, want := range []string{"Bad credentials", "Secrets Manager is down"} {
			if !strings.Contains(e.Error(), want) {
				t.Errorf("%q does not tell the operator %q", e, want)
			}
		}
		time.Sleep(10 * time.Second)
		w.refuses(CredentialRejected, "orgs/acme")
		w.called(2)
	})
}

func TestNoCallIsMadeWhileAKnownWaitLasts(t *testing.T) {
	inWorld(t, time.Hour, func(w *world) {
		w.fails(RateLimited, 90*time.Second)
		w.refuses(RateLimited, "orgs/acme")
		time.Sleep(30 * time.Second)
		for _, target := range []string{"orgs/acme", "repos/acme/widgets"} {
			if e := w.refuses(RateLimited, target, fresh); e.RetryAfter != time.Minute {
				t.Errorf("%s: wait %v, want what is left of it", target, e.RetryAfter)
			}
		}
		w.called(1)
		w.github.refuse = nil
		time.Sleep(time.Minute)
		w.issues("token-2", FromGitHub, "orgs/acme")
	})
}

func TestAWaitIsOneCredentialsOnly(t *testing.T) {
	inWorld(t, time.Hour, func(w *world) {
		w.fails(RateLimited, time.Hour)
		w.refuses(RateLimited, "orgs/acme")
		w.github.refuse = nil
		w.secrets.value = "pat-2"
		time.Sleep(5 * time.Minute) // SECRET_TTL
		w.issues("token-2", FromGitHub, "orgs/acme")
	})
}

func TestUnknownWaitIsNotRemembered(t *testing.T) {
	inWorld(t, time.Hour, func(w *world) {
		w.fails(RateLimited, 0)
		w.refuses(RateLimited, "orgs/acme")
		w.refuses(RateLimited, "orgs/acme")
		w.called(2)
	})
}

func TestOutageIsBridgedWithAKeptToken(t *testing.T) {
	for _, code := range []Code{Unavailable, RateLimited} {
		inWorld(t, 30*time.Minute, func(w *world) {
			w.issues("token-1", FromGitHub, "orgs/acme")
			w.fails(code, time.Second)
			time.Sleep(55 * time.Minute)
			w.issues("token-1", FromStale, "orgs/acme")
			if token, _ := w.issue("orgs/acme"); token.Outage == nil {
				t.Error("a stale token does not say why")
			}
			w.refuses(code, "orgs/acme", fresh)
			time.Sleep(time.Second)
			w.refuses(code, "orgs/acme") // less than 5 minutes left
		})
	}
}

func TestSecretsManagersOutageIsBridgedToo(t *testing.T) {
	inWorld(t, 30*time.Minute, func(w *world) {
		w.issues("token-1", FromGitHub, "orgs/acme")
		w.secrets.err = Refuse(Unavailable, errors.New("test"))
		time.Sleep(20 * time.Minute)
		w.issues("token-1", FromCache, "orgs/acme") // needs neither
		time.Sleep(20 * time.Minute)
		w.issues("token-1", FromStale, "orgs/acme")
		w.called(1)
		w.secrets.err = Refuse(CredentialMissing, errors.New("test"))
		w.refuses(CredentialMissing, "orgs/acme")
	})
}

func TestNoStaleTokenAfterARefusal(t *testing.T) {
	for _, code := range []Code{CredentialRejected, CredentialForbidden, TargetNotFound} {
		inWorld(t, 30*time.Minute, func(w *world) {
			w.issues("token-1", FromGitHub, "orgs/acme")
			time.Sleep(40 * time.Minute)
			w.fails(code, 0)
			w.refuses(code, "orgs/acme")
			w.fails(Unavailable, 0)
			time.Sleep(time.Minute) // past the memory of a rejection
			w.refuses(Unavailable, "orgs/acme")
		})
	}
	inWorld(t, 30*time.Minute, func(w *world) {
		w.issues("token-1", FromGitHub, "orgs/acme")
		time.Sleep(40 * time.Minute)
		w.fails(Internal, 0)
		w.refuses(Internal, "orgs/acme")
	})
}

// A 401 is about the credential, hence about every target.
func TestNoStaleTokenOfAnyTargetAfterA401(t *testing.T) {
	inWorld(t, 30*time.Minute, func(w *world) {
		w.issues("token-1", FromGitHub, "orgs/acme")
		time.Sleep(40 * time.Minute)
		w.fails(CredentialRejected, 0)
		w.refuses(CredentialRejected, "repos/acme/widgets")
		w.fails(Unavailable, 0)
		time.Sleep(time.Minute)
		w.refuses(Unavailable, "orgs/acme")
	})
}

func TestRefusedFreshRequestLeavesAGoodTokenToOthers(t *testing.T) {
	inWorld(t, 30*time.Minute, func(w *world) {
		w.issues("token-1", FromGitHub, "orgs/acme")
		w.fails(CredentialForbidden, 0)
		w.refuses(CredentialForbidden, "orgs/acme", fresh)
		w.issues("token-1", FromCache, "orgs/acme")
	})
}

func TestWhatIsRememberedIsForgottenInTime(t *testing.T) {
	inWorld(t, 30*time.Minute, func(w *world) {
		for _, target := range []string{"repos/acme/a", "repos/acme/b", "repos/acme/c"} {
			w.issues(fmt.Sprint("token-", w.github.calls+1), FromGitHub, target)
		}
		time.Sleep(time.Hour)
		w.issues("token-4", FromGitHub, "orgs/acme")
		if n := len(w.issuer.tokens); n != 1 {
			t.Errorf("%d tokens are kept, want the live one", n)
		}
		w.fails(RateLimited, time.Minute)
		w.refuses(RateLimited, "orgs/acme", fresh)
		for _, until := range w.issuer.limits {
			if until != until.Round(0) {
				t.Error("a wait is remembered by the monotonic clock, which may stand still")
			}
		}
	})
}

func TestIssueEndsWithItsContext(t *testing.T) {
	inWorld(t, 30*time.Minute, func(w *world) {
		w.github.latency = time.Hour
		ctx, cancel := context.WithTimeout(w.Context(), 2*time.Second)
		defer cancel()
		start := time.Now()
		_, err := w.issuer.Issue(ctx, Request{Target: mustTarget(t, "orgs/acme"), Kind: RegistrationToken})
		if AsError(err).Code != Unavailable || time.Since(start) != 2*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

func TestUnclassifiedErrorKeepsItsTextFromTheCaller(t *testing.T) {
	e := AsError(fmt.Errorf("outer: %w", errors.New("inner")))
	if e.Code != Internal || e.Message != "internal error" || !strings.Contains(e.Error(), "inner") {
		t.Errorf("%+v", e)
	}
	wrapped := fmt.Errorf("outer: %w", &Error{Code: RateLimited})
	if AsError(wrapped).Code != RateLimited {
		t.Error("a wrapped Error is not found")
	}
}
