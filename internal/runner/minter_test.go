package runner_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	. "runner-token-broker/internal/runner"
)

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
		w.secrets.err = Cause{Code: Unavailable}.Refuse("Secrets Manager is down")
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

func TestAWaitOfUnknownLengthIsAMinuteDoubledUntilASuccess(t *testing.T) {
	inWorld(t, time.Hour, func(w *world) {
		for _, want := range []time.Duration{1, 2, 4, 8, 15, 15} {
			w.fails(RateLimited, 0)
			if e := w.refuses(RateLimited, "orgs/acme"); e.RetryAfter != want*time.Minute {
				t.Errorf("wait %v, want %v", e.RetryAfter, want*time.Minute)
			}
			time.Sleep(want * time.Minute)
		}
		w.called(6)
		w.github.refuse = nil
		w.issues("token-7", FromGitHub, "orgs/acme")
		w.fails(RateLimited, 0)
		time.Sleep(time.Minute + 1)
		if e := w.refuses(RateLimited, "orgs/acme", fresh); e.RetryAfter != time.Minute {
			t.Errorf("after a success: wait %v", e.RetryAfter)
		}
	})
}

func TestAWaitIsBelievedForSeventyMinutes(t *testing.T) {
	inWorld(t, time.Hour, func(w *world) {
		w.fails(RateLimited, 1<<31*time.Second)
		if e := w.refuses(RateLimited, "orgs/acme"); e.RetryAfter != 70*time.Minute {
			t.Errorf("wait %v", e.RetryAfter)
		}
		time.Sleep(70 * time.Minute)
		w.github.refuse = nil
		w.issues("token-2", FromGitHub, "orgs/acme")
	})
}

// Several calls may be under way at once when the limit comes.
func TestALaterLimitDoesNotShortenAKnownWait(t *testing.T) {
	inWorld(t, time.Hour, func(w *world) {
		waits := []time.Duration{time.Hour, 0, time.Second}
		w.github.latency = time.Second
		w.github.refuse = func(string) *Error {
			e := refusal(RateLimited)
			e.RetryAfter = waits[w.github.calls-1]
			return e
		}
		var wg sync.WaitGroup
		for i, target := range []string{"orgs/acme", "repos/acme/a", "repos/acme/b"} {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond)
				if e := w.refuses(RateLimited, target); e.RetryAfter < 59*time.Minute {
					w.Errorf("%s: wait %v", target, e.RetryAfter)
				}
			})
		}
		wg.Wait()
		w.called(3)
		time.Sleep(59 * time.Minute)
		w.refuses(RateLimited, "orgs/acme")
		w.called(3)
	})
}

// Calls that are under way when a limit comes tell of the same one.
func TestLimitsAtOnceAreOneWait(t *testing.T) {
	inWorld(t, time.Hour, func(w *world) {
		w.github.latency = time.Second
		w.fails(RateLimited, 0)
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() {
				if e := w.refuses(RateLimited, fmt.Sprint("repos/acme/", i)); e.RetryAfter != time.Minute {
					w.Errorf("wait %v, want a minute", e.RetryAfter)
				}
			})
		}
		wg.Wait()
		w.called(10)
		time.Sleep(time.Minute)
		if e := w.refuses(RateLimited, "orgs/acme"); e.RetryAfter != 2*time.Minute {
			t.Errorf("the next wait is %v, want two minutes", e.RetryAfter)
		}
	})
}

func TestARepeatedLimitSaysUntilWhen(t *testing.T) {
	inWorld(t, time.Hour, func(w *world) {
		w.fails(RateLimited, 90*time.Second)
		until := time.Now().Add(90 * time.Second).UTC().Format(time.RFC3339)
		w.refuses(RateLimited, "orgs/acme")
		e := w.refuses(RateLimited, "orgs/acme")
		if !strings.Contains(e.Error(), until) || e.Cause != "test" || e.GitHub != (Trace{}) {
			t.Errorf("%v of %q, want %s and the cause", e, e.Cause, until)
		}
	})
}

// A caller in a loop costs one call.
func TestARefusalIsRepeatedForHalfAMinuteWithoutACall(t *testing.T) {
	for _, code := range []Code{TargetNotFound, CredentialForbidden} {
		t.Run(string(code), func(t *testing.T) {
			inWorld(t, time.Hour, func(w *world) {
				w.fails(code, 0)
				w.refuses(code, "orgs/acme")
				w.github.refuse = nil
				time.Sleep(30*time.Second - 1)
				for range 3 {
					e := w.refuses(code, "orgs/acme", fresh)
					if !strings.Contains(e.Error(), "no call made") || e.Cause != "test" || e.Message != refusal(code).Message {
						t.Errorf("%v, cause %q, message %q", e, e.Cause, e.Message)
					}
				}
				w.called(1)
				w.issues("token-2", FromGitHub, "orgs/acme", remove)
				w.issues("token-3", FromGitHub, "repos/acme/widgets")
				time.Sleep(time.Nanosecond)
				w.issues("token-4", FromGitHub, "orgs/acme")
			})
		})
	}
	for _, code := range []Code{Unavailable, Internal} {
		t.Run("not "+string(code), func(t *testing.T) {
			inWorld(t, time.Hour, func(w *world) {
				w.fails(code, 0)
				w.refuses(code, "orgs/acme")
				w.refuses(code, "orgs/acme")
				w.called(2)
			})
		})
	}
}

func TestARefusalIsOneCredentialsOnly(t *testing.T) {
	inWorld(t, time.Hour, func(w *world) {
		w.fails(CredentialForbidden, 0)
		time.Sleep(5*time.Minute - time.Second)
		w.refuses(CredentialForbidden, "orgs/acme")
		w.github.refuse = nil
		w.secrets.value = "pat-2"
		time.Sleep(5 * time.Minute) // SECRET_TTL
		w.fails(CredentialForbidden, 0)
		w.refuses(CredentialForbidden, "orgs/acme")
		w.called(2)
	})
}

func TestA401ThatAnotherReadCuresCondemnsNoOtherTarget(t *testing.T) {
	inWorld(t, 30*time.Minute, func(w *world) {
		w.issues("token-1", FromGitHub, "orgs/acme")
		w.issues("token-2", FromGitHub, "repos/acme/widgets")
		time.Sleep(35 * time.Minute)
		w.secrets.value = "pat-2"
		w.accepts("pat-2")
		w.issues("token-3", FromGitHub, "orgs/acme") // the secret was read anew, its time was over
		w.secrets.value = "pat-3"
		w.accepts("pat-3")
		w.issues("token-5", FromGitHub, "orgs/acme", remove)
		w.fails(Unavailable, 0)
		w.issues("token-2", FromStale, "repos/acme/widgets")
	})
}

// A 401 that nothing cures is about the credential, hence about every target: also if the next one fails otherwise.
func TestA401ThatIsNotCuredCondemnsTheAccount(t *testing.T) {
	for name, outage := range map[string]func(*world){
		"unchanged":  func(w *world) {},
		"unreadable": func(w *world) { w.secrets.err = refusal(Unavailable) },
		"next fails": func(w *world) { w.secrets.value = "pat-2" },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, 30*time.Minute, func(w *world) {
				w.issues("token-1", FromGitHub, "orgs/acme")
				w.issues("token-2", FromGitHub, "orgs/acme", remove)
				time.Sleep(4 * time.Minute)
				outage(w)
				w.github.refuse = func(pat string) *Error {
					if pat == "pat-1" {
						return refusal(CredentialRejected)
					}
					return refusal(Unavailable)
				}
				w.issue("repos/acme/widgets")
				w.fails(Unavailable, 0)
				w.secrets.err = nil
				time.Sleep(36 * time.Minute)
				w.refuses(Unavailable, "orgs/acme")
				w.refuses(Unavailable, "orgs/acme", remove)
			})
		})
	}
}

func TestTwoRejectedCredentialsAreBothCondemned(t *testing.T) {
	inWorld(t, 30*time.Minute, func(w *world) {
		w.secrets.value = "pat-2"
		w.issues("token-1", FromGitHub, "orgs/acme")
		time.Sleep(5 * time.Minute) // SECRET_TTL
		w.secrets.value = "pat-1"
		w.issues("token-2", FromGitHub, "orgs/acme", remove)
		w.secrets.value = "pat-2"
		w.accepts()
		w.refuses(CredentialRejected, "repos/acme/widgets")
		w.called(4)
		w.fails(Unavailable, 0)
		time.Sleep(35 * time.Minute)
		w.refuses(Unavailable, "orgs/acme")
		w.refuses(Unavailable, "orgs/acme", remove)
	})
}

func TestTheOperatorIsToldWhatIsKnownOfARejectedSecret(t *testing.T) {
	inWorld(t, time.Hour, func(w *world) {
		w.accepts()
		says := func(want string) {
			t.Helper()
			if e := w.refuses(CredentialRejected, "orgs/acme"); !strings.Contains(e.Error(), want) {
				t.Errorf("%v, want %q", e, want)
			}
		}
		says("the secret, read again, still holds the rejected value")
		time.Sleep(2 * time.Second)
		says("the secret held the same 2 s ago")
		time.Sleep(3 * time.Second)
		w.secrets.err = Cause{Code: Unavailable}.Refuse("Secrets Manager is down")
		says("the secret could not be read again: Secrets Manager is down")
	})
}

func TestWhatIsRememberedIsForgottenInTime(t *testing.T) {
	inWorld(t, 30*time.Minute, func(w *world) {
		for _, target := range []string{"repos/acme/a", "repos/acme/b", "repos/acme/c"} {
			w.issues(fmt.Sprint("token-", w.github.calls+1), FromGitHub, target)
		}
		w.fails(TargetNotFound, 0)
		for _, target := range []string{"repos/acme/d", "repos/acme/e"} {
			w.refuses(TargetNotFound, target)
		}
		w.github.refuse = nil
		time.Sleep(time.Hour + 1)
		w.issues("token-6", FromGitHub, "orgs/acme")
		if n := w.cache.Cached(); n != 1 {
			t.Errorf("%d tokens are cached, want the live one", n)
		}
		if _, refusals, _ := w.minter.Remembered(); refusals != 0 {
			t.Errorf("%d refusals are remembered", refusals)
		}
		w.secrets.value = "pat-2"
		time.Sleep(70*time.Minute + 1)
		w.fails(RateLimited, time.Minute)
		w.refuses(RateLimited, "orgs/acme")
		accounts, _, times := w.minter.Remembered()
		if accounts != 1 {
			t.Errorf("%d accounts are remembered, want the live one", accounts)
		}
		for _, at := range times {
			if at != at.Round(0) {
				t.Error("a time is remembered by the monotonic clock, which may stand still")
			}
		}
	})
}
