package github

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"runner-token-broker/internal/local/github"
	"runner-token-broker/internal/local/network"
	"runner-token-broker/internal/runner"
	"runner-token-broker/internal/secret"
)

func TestEveryCallIsOneThatGitHubDescribes(t *testing.T) {
	for _, api := range []struct{ path, version string }{
		{"", "2022-11-28"}, {"", "2026-03-10"}, {"/api/v3", "2022-11-28"},
	} {
		t.Run(api.path+" "+api.version, func(t *testing.T) {
			t.Parallel()
			stand := github.New(secret.New(pat))
			c := newClient(t, stand, api.path, api.version)
			for _, path := range []string{
				"orgs/acme", "repos/acme/widgets", "repos/actions/runners", "repos/acme/.github", "enterprises/acme-corp",
			} {
				for _, kind := range []runner.Kind{runner.RegistrationToken, runner.RemoveToken} {
					token, err := create(t, c, path, kind)
					if err != nil {
						t.Errorf("%s %s: %v", path, kind, err)
						continue
					}
					tokens, requests := stand.Tokens(), stand.Requests()
					if got, want := token.Value.Reveal(), tokens[len(tokens)-1].Reveal(); got != want {
						t.Errorf("token %q, want %q", got, want)
					}
					if life := time.Until(token.ExpiresAt); life < 59*time.Minute || life > time.Hour ||
						token.ExpiresAt.Location() != time.UTC || token.ExpiresAt.Nanosecond() != 0 {
						t.Errorf("expires at %v, want whole seconds of UTC in an hour", token.ExpiresAt)
					}
					r := requests[len(requests)-1]
					if r.Method != "POST" || r.Path != api.path+"/"+path+"/actions/runners/"+string(kind) ||
						r.APIVersion != api.version {
						t.Errorf("request %+v", r)
					}
					if token.GitHub.RequestID == "" || token.GitHub.RateLimitRemaining == "" {
						t.Errorf("response %+v", token.GitHub)
					}
				}
			}
			if v := stand.Violations(); len(v) > 0 {
				t.Errorf("violations: %q", v)
			}
		})
	}
}

func TestTransientFailuresAreTriedTwiceMore(t *testing.T) {
	for name, fault := range map[string]*github.Answer{
		"502": github.Refusal(502, "Server Error"), "reset": {Fault: network.Reset}, "cut off": {Fault: network.Truncate},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stand := github.New(secret.New(pat))
			c := newClient(t, stand, "", "2022-11-28")
			var n atomic.Int32
			stand.OnRequest(func(*http.Request) *github.Answer {
				if n.Add(1) < 3 {
					return fault
				}
				return nil
			})
			if _, err := create(t, c, "orgs/acme", runner.RegistrationToken); err != nil || n.Load() != 3 {
				t.Errorf("%v after %d calls, want a token of the third", err, n.Load())
			}
			stand.OnRequest(func(*http.Request) *github.Answer { n.Add(1); return fault })
			n.Store(0)
			_, err := create(t, c, "orgs/acme", runner.RegistrationToken)
			if runner.AsError(err).Code != runner.Unavailable || n.Load() != 3 {
				t.Errorf("%v after %d calls, want Unavailable after three", err, n.Load())
			}
			if v := stand.Violations(); len(v) > 0 {
				t.Errorf("%q", v)
			}
		})
	}
}

func TestNoRetryBeyondTheContextNorAgainstRetryAfter(t *testing.T) {
	t.Parallel()
	stand := github.New(secret.New(pat))
	c := newClient(t, stand, "", "2022-11-28")
	answer := github.Refusal(503, "maintenance")
	answer.Header = http.Header{"Retry-After": {"60"}}
	stand.OnRequest(func(*http.Request) *github.Answer { return answer })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	start := time.Now()
	_, err := c.Create(ctx, secret.New(pat), request(t, "orgs/acme", runner.RegistrationToken))
	if e := runner.AsError(err); e.RetryAfter != time.Minute || len(stand.Requests()) != 1 ||
		time.Since(start) > 10*time.Second {
		t.Errorf("%v, wait %v, after %d calls and %v", err, e.RetryAfter, len(stand.Requests()), time.Since(start))
	}

	stand.OnRequest(func(*http.Request) *github.Answer { return &github.Answer{Fault: network.Hang} })
	ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = c.Create(ctx, secret.New(pat), request(t, "orgs/acme", runner.RegistrationToken))
	if runner.AsError(err).Code != runner.Unavailable {
		t.Errorf("hanging: %v", err)
	}
}

// roundTrip is a network of one answer.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestACallerWithoutTimeForAnotherTrySaysSo(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		time   time.Duration
		header http.Header
		want   bool
	}{
		"a try is not worth beginning": {time: 100 * time.Millisecond, header: http.Header{}, want: true},
		"all tries were made":          {time: time.Minute, header: http.Header{}},
		"GitHub wants to be left alone": {
			time: 100 * time.Millisecond, header: http.Header{"Retry-After": {"60"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := clientFor(t, "https://api.github.com", "2022-11-28", roundTrip(func(r *http.Request) (*http.Response, error) {
					return &http.Response{StatusCode: 502, Header: test.header.Clone(), Body: http.NoBody, Request: r}, nil
				}))
				_, err := createWithin(t, test.time, c)
				if runner.AsError(err).Code != runner.Unavailable || errors.Is(err, context.DeadlineExceeded) != test.want {
					t.Errorf("%v", err)
				}
			})
		})
	}
}

func TestNoCallIsWithoutATimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := clientFor(t, "https://api.github.com", "2022-11-28", roundTrip(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}))
		start := time.Now()
		_, err := c.Create(context.Background(), secret.New(pat), request(t, "orgs/acme", runner.RegistrationToken))
		e := runner.AsError(err)
		if took := time.Since(start); e.Code != runner.Unavailable || e.Cause != "timeout" || took < 33*time.Second ||
			took > 36*time.Second {
			t.Errorf("%v, cause %q, after %v, want three timeouts of 11 s", err, e.Cause, took)
		}
	})
}

func TestTokenSaysWhenItWasAskedFor(t *testing.T) {
	t.Parallel()
	stand := github.New(secret.New(pat))
	c := newClient(t, stand, "", "2022-11-28")
	before := time.Now().Round(0)
	token, err := create(t, c, "orgs/acme", runner.RegistrationToken)
	if err != nil || token.MadeAt.Before(before) || token.MadeAt.After(time.Now()) ||
		token.MadeAt != token.MadeAt.Round(0) {
		t.Errorf("made at %v, asked for after %v: %v", token.MadeAt, before, err)
	}
}
