package runner_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	. "runner-token-broker/internal/runner"
)

func TestTokenIsReusedForItsTargetAndKindAlone(t *testing.T) {
	inWorld(t, 30*time.Minute, func(w *world) {
		w.issues("token-1", FromGitHub, "orgs/acme")
		w.issues("token-1", FromCache, "orgs/acme")
		w.issues("token-2", FromGitHub, "orgs/acme", remove)
		w.issues("token-3", FromGitHub, "repos/acme/widgets")
		w.issues("token-4", FromGitHub, "repos/acme/gears")
		w.issues("token-1", FromCache, "orgs/acme")
		w.issues("token-3", FromCache, "repos/acme/widgets")
		if token, _ := w.issue("orgs/acme"); token.GitHub != (Trace{}) {
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

// One caller that always asks for fresh tokens cannot use up the quota of all.
func TestFreshIsMadeWithinTheLastMinute(t *testing.T) {
	inWorld(t, 30*time.Minute, func(w *world) {
		w.issues("token-1", FromGitHub, "orgs/acme", fresh)
		time.Sleep(time.Minute)
		w.issues("token-1", FromCache, "orgs/acme", fresh)
		time.Sleep(time.Nanosecond)
		w.issues("token-2", FromGitHub, "orgs/acme", fresh)
		w.issues("token-2", FromCache, "orgs/acme")
		w.fails(Unavailable, 0)
		time.Sleep(2 * time.Minute)
		w.refuses(Unavailable, "orgs/acme", fresh)
		w.issues("token-2", FromCache, "orgs/acme")
	})
	inWorld(t, time.Hour, func(w *world) { // nothing is reused
		w.issues("token-1", FromGitHub, "orgs/acme", fresh)
		w.issues("token-2", FromGitHub, "orgs/acme", fresh)
	})
}

func TestSimultaneousMissesMakeOneCall(t *testing.T) {
	for name, minLife := range map[string]time.Duration{"reused": 30 * time.Minute, "never reused": time.Hour} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, minLife, func(w *world) {
				w.github.latency = time.Second
				var wg sync.WaitGroup
				for i := range 20 {
					options := []func(*Request){fresh}[:i%2]
					wg.Go(func() {
						if token, err := w.issue("orgs/acme", options...); err != nil || token.Value.Reveal() != "token-1" {
							w.Errorf("Issue = %q, %v", token.Value.Reveal(), err)
						}
					})
				}
				wg.Wait()
				w.called(1)
				if w.secrets.reads != 1 {
					w.Errorf("the secret was read %d times", w.secrets.reads)
				}
			})
		})
	}
}

func TestEachWaiterEndsWithItsOwnDeadline(t *testing.T) {
	inWorld(t, 30*time.Minute, func(w *world) {
		w.github.latency = 10 * time.Second
		r := Request{Target: mustParse(t, "orgs/acme"), Kind: RegistrationToken}
		begin := time.Now()
		var wg sync.WaitGroup
		// The first makes the call and gives up. The second waits, and then makes the call itself. The third has no
		// time for it.
		for _, caller := range []struct {
			after, has, want time.Duration
			good             bool
		}{
			{after: 0, has: 5 * time.Second, want: 5 * time.Second},
			{after: time.Second, has: 20 * time.Second, want: 15 * time.Second, good: true},
			{after: 2 * time.Second, has: 2 * time.Second, want: 4 * time.Second},
		} {
			wg.Go(func() {
				time.Sleep(caller.after)
				ctx, cancel := context.WithTimeout(w.Context(), caller.has)
				defer cancel()
				_, err := w.issuer.Issue(ctx, r)
				if (err == nil) != caller.good || err != nil && AsError(err).Code != Unavailable ||
					time.Since(begin) != caller.want {
					w.Errorf("%v later: %v after %v, want %v", caller.after, err, time.Since(begin), caller.want)
				}
			})
		}
		wg.Wait()
		w.called(1)
	})
}

// A leader may give up before its time is over, since it has none left for another try.
func TestALeaderThatGivesUpTakesNobodyWithIt(t *testing.T) {
	for name, test := range map[string]struct {
		err  error
		good bool // for those who wait
	}{
		"no time for another try": {err: fmt.Errorf("%w: %w", refusal(Unavailable), context.DeadlineExceeded), good: true},
		"an outage":               {err: refusal(Unavailable)},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, 30*time.Minute, func(w *world) {
				w.github.latency = time.Second
				w.github.refuse = func(string) *Error {
					w.github.refuse = nil
					return Cause{Code: Unavailable}.Refuse("%w", test.err)
				}
				go w.refuses(Unavailable, "orgs/acme")
				time.Sleep(time.Second / 2)
				if _, err := w.issue("orgs/acme"); (err == nil) != test.good {
					t.Errorf("%v", err)
				}
			})
		})
	}
}

func TestWaitersSurviveAPanic(t *testing.T) {
	inWorld(t, 30*time.Minute, func(w *world) {
		w.github.latency = time.Second
		w.github.refuse = func(string) *Error {
			w.github.refuse = nil
			panic("test")
		}
		go func() {
			defer func() { recover() }()
			w.issue("orgs/acme")
		}()
		time.Sleep(time.Second / 2)
		w.issues("token-2", FromGitHub, "orgs/acme")
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
		w.secrets.err = refusal(Unavailable)
		time.Sleep(20 * time.Minute)
		w.issues("token-1", FromCache, "orgs/acme") // needs neither
		time.Sleep(20 * time.Minute)
		w.issues("token-1", FromStale, "orgs/acme")
		w.called(1)
		w.secrets.err = refusal(CredentialMissing)
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

// A refusal is about the target, hence about both kinds of its tokens, and about no other target.
func TestNoStaleTokenOfEitherKindAfterARefusal(t *testing.T) {
	for _, code := range []Code{CredentialForbidden, TargetNotFound} {
		t.Run(string(code), func(t *testing.T) {
			inWorld(t, 30*time.Minute, func(w *world) {
				w.issues("token-1", FromGitHub, "orgs/acme")
				w.issues("token-2", FromGitHub, "repos/acme/widgets")
				time.Sleep(40 * time.Minute)
				w.fails(code, 0)
				w.refuses(code, "orgs/acme", remove)
				w.fails(Unavailable, 0)
				w.refuses(Unavailable, "orgs/acme")
				w.issues("token-2", FromStale, "repos/acme/widgets")
			})
		})
	}
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
		time.Sleep(time.Minute + 1)
		w.refuses(CredentialForbidden, "orgs/acme", fresh)
		w.issues("token-1", FromCache, "orgs/acme")
	})
}
