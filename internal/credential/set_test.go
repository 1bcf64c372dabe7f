package credential

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"runner-token-broker/internal/runner"
	"runner-token-broker/internal/secret"
)

// source is a secret whose value a test sets.
type source struct {
	value   string
	err     error
	latency time.Duration
	reads   int
}

func (s *source) fetch(context.Context) (secret.Value, error) {
	time.Sleep(s.latency)
	s.reads++
	return secret.New(s.value), s.err
}

type world struct {
	*testing.T
	source source
	set    *Set
}

func inWorld(t *testing.T, ttl time.Duration, f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{T: t, source: source{value: "pat-1"}}
		w.set = NewSet(ttl, w.source.fetch, nil, nil)
		f(w)
	})
}

func (w *world) get() (runner.Credential, string, error) {
	w.Helper()
	c, err := w.set.For(w.Context(), runner.Target{})
	if err != nil {
		return nil, "", err
	}
	bearer, err := c.Bearer(w.Context())
	return c, bearer.Reveal(), err
}

// gives fails the test unless the bearer is the one named, after so many reads in all.
func (w *world) gives(want string, reads int) runner.Credential {
	w.Helper()
	c, bearer, err := w.get()
	if err != nil || bearer != want || w.source.reads != reads {
		w.Errorf("For = %s, %v after %d reads; want %s after %d", bearer, err, w.source.reads, want, reads)
	}
	return c
}

func (w *world) refuses(code runner.Code, reads int) *runner.Error {
	w.Helper()
	_, bearer, err := w.get()
	e := runner.AsError(err)
	if err == nil || e.Code != code || w.source.reads != reads {
		w.Errorf("For = %s, %v after %d reads; want %s after %d", bearer, err, w.source.reads, code, reads)
	}
	return e
}

func rejected() *runner.Error {
	e := (runner.Cause{Name: "placeholder", Code: runner.CredentialRejected, Remedy: "do this"}).Refuse("GitHub said no")
	e.Credential, e.GitHub = "pat", runner.Trace{RequestID: "AB:CD"}
	return e
}

func (w *world) reject(value string) {
	v := secret.New(value)
	pat{w.set, Entry{id: v.SHA256(), pat: v}}.Reject(v, rejected())
}

func TestSecretIsCachedForItsTime(t *testing.T) {
	inWorld(t, 5*time.Minute, func(w *world) {
		w.gives("pat-1", 1)
		w.source.value = "pat-2"
		time.Sleep(5*time.Minute - 1)
		w.gives("pat-1", 1)
		time.Sleep(time.Nanosecond)
		w.gives("pat-2", 2)
	})
}

func TestFailedAndMalformedReadsAreNotCached(t *testing.T) {
	inWorld(t, time.Minute, func(w *world) {
		w.source.err = (runner.Cause{Code: runner.Unavailable}).Refuse("down")
		w.refuses(runner.Unavailable, 1)
		w.source.err = errors.New("unclassified")
		w.refuses(runner.Internal, 2)
		w.source.value, w.source.err = "two words", nil
		w.refuses(runner.CredentialMissing, 3)
		w.source.value = "pat-1"
		w.gives("pat-1", 4)
	})
}

func TestConcurrentCallsShareOneRead(t *testing.T) {
	inWorld(t, time.Minute, func(w *world) {
		w.source.latency = time.Second
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() { w.get() })
		}
		wg.Wait()
		if w.source.reads != 1 {
			t.Errorf("%d reads", w.source.reads)
		}
	})
}

func TestWaitingForAReadEndsWithTheContext(t *testing.T) {
	inWorld(t, time.Minute, func(w *world) {
		w.source.latency = time.Hour
		go w.get()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(w.Context(), time.Second)
		defer cancel()
		if _, err := w.set.For(ctx, runner.Target{}); runner.AsError(err).Code != runner.Unavailable {
			t.Errorf("For: %v", err)
		}
		time.Sleep(time.Hour)
	})
}

func TestRejectionIsOfTheRejectedValueAlone(t *testing.T) {
	inWorld(t, 10*time.Second, func(w *world) {
		w.gives("pat-1", 1)
		w.reject("pat-0") // late: the value was replaced meanwhile
		w.gives("pat-1", 1)
		// A good value that only grew old is read again without waiting.
		time.Sleep(10 * time.Second)
		w.gives("pat-1", 2)
		// Rolled back to the rejected one.
		w.source.value = "pat-0"
		time.Sleep(10 * time.Second)
		w.refuses(runner.CredentialRejected, 3)
		w.refuses(runner.CredentialRejected, 3)
	})
}

// The account and the value are each PAT's own, so that waits and refusals go by it.
func TestAccountIsNotTheSecret(t *testing.T) {
	inWorld(t, time.Minute, func(w *world) {
		c := w.gives("pat-1", 1)
		if c.Account() != secret.New("pat-1").SHA256() {
			t.Errorf("account %s", c.Account())
		}
	})
}

// A read that began before the rejection may end after it.
func TestReadUnderWayDoesNotBringARejectedValueBack(t *testing.T) {
	inWorld(t, time.Minute, func(w *world) {
		w.source.latency = time.Second
		go func() {
			if _, bearer, err := w.get(); runner.AsError(err).Code != runner.CredentialRejected {
				w.Errorf("For = %s, %v", bearer, err)
			}
		}()
		synctest.Wait()
		w.reject("pat-1")
		time.Sleep(time.Minute)
	})
}

func TestSecretIsReadEveryFiveSecondsWhileItsValueIsRejected(t *testing.T) {
	for name, ttl := range map[string]time.Duration{"long cached": time.Hour, "not cached": 1} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, ttl, func(w *world) {
				c := w.gives("pat-1", 1)
				c.Reject(secret.New("pat-1"), rejected())
				for i := range 60 {
					w.refuses(runner.CredentialRejected, 2+i/5)
					time.Sleep(time.Second)
				}
				time.Sleep(time.Second)
				if _, bearer, err := w.get(); err != nil || bearer != "pat-1" {
					t.Errorf("after a minute: %s, %v", bearer, err)
				}
			})
		})
	}
}

// Only one request in a minute gets GitHub's answer. The others are told the same cause and remedy.
func TestARejectionIsRepeatedWithItsCause(t *testing.T) {
	inWorld(t, time.Hour, func(w *world) {
		w.gives("pat-1", 1)
		w.reject("pat-1")
		for range 3 {
			for i, says := range []string{"still holds", "held the same 2 s ago", "be read again: down"} {
				e := w.refuses(runner.CredentialRejected, w.source.reads+(i+1)%2)
				if text := e.Error(); e.Cause != "placeholder" || e.Credential != "pat" || e.GitHub != (runner.Trace{}) ||
					!strings.Contains(text, says) || !strings.HasSuffix(text, ": GitHub said no: do this") || len(text) > 150 {
					t.Errorf("%q, cause %q, want %q", text, e.Cause, says)
				}
				time.Sleep([]time.Duration{2 * time.Second, 4 * time.Second, 6 * time.Second}[i])
				w.source.err = nil
				if i == 1 {
					w.source.err = (runner.Cause{Code: runner.Unavailable}).Refuse("down")
				}
			}
		}
	})
}

func TestASetDoesNotLeakWhatItHolds(t *testing.T) {
	inWorld(t, time.Minute, func(w *world) {
		w.source.value = token
		c := w.gives(token, 1)
		for _, holder := range []any{w.set, c} {
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%d", "%x"} {
				if s := fmt.Sprintf(verb, holder); containsPart(s) {
					t.Errorf("%s of %T: %s", verb, holder, s)
				}
			}
		}
	})
}

func containsPart(s string) bool { return secret.Text(s, secret.New(token)) != secret.Text(s) }
