package shared

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"runner-token-broker/internal/runner"
	"runner-token-broker/internal/secret"
)

const (
	writeEvery = 15 * time.Minute // however often it is called
	writeTime  = 3 * time.Second  // of an invocation's; what was made and not written is lost
	tryEvery   = time.Minute      // for an environment that cannot write
	clockSlack = time.Minute
	atOnce     = 5        // GitHub answers bursts with 502
	perMinute  = 150      // GitHub takes about 180 tokens a minute from one account
	maxSize    = 60 << 10 // Secrets Manager takes 64 KiB
)

// noValue are the causes of a Store that holds no text.
var noValue = []string{"secret-missing", "secret-malformed"}

// Refresh has a token made for each target that the policy names, the oldest first, and writes all of them at once. One
// that fails keeps its old entry. It writes at most once in 15 minutes: an earlier call makes no token, nor does one
// within a minute of another that failed. It fails, with the first failure, if there was nothing to write. It ends with
// ctx.
func (s *Tokens) Refresh(ctx context.Context) (runner.Refreshed, error) {
	result := runner.Refreshed{PassedOver: s.policy.Wildcards()}
	select {
	case s.refreshing <- struct{}{}:
		defer func() { <-s.refreshing }()
	case <-ctx.Done():
		return result, slow.Refuse("waiting for another refresh: %w", ctx.Err())
	}
	old, problem, err := s.load(ctx)
	if err != nil && !slices.Contains(noValue, runner.AsError(err).Cause) {
		return result, err // what is there may be good
	}
	runner.MeterOf(ctx).PassOver(problem) // and it is overwritten
	if age := time.Since(old.writtenAt); !old.writtenAt.IsZero() && age >= -clockSlack {
		runner.MeterOf(ctx).SharedAge(age)
		if age < writeEvery {
			result.Age = age.Round(time.Second).String()
			return result, nil
		}
	}
	if time.Since(s.triedAt) < tryEvery {
		return result, s.tried
	}
	s.triedAt = time.Now().Round(0)
	s.tried = s.renew(ctx, old, &result)
	return result, s.tried
}

// renew has the tokens made and writes them.
func (s *Tokens) renew(ctx context.Context, old held, result *runner.Refreshed) error {
	made, failed := s.make(ctx, old)
	var first error
	fresh := len(made)
	for _, target := range s.policy.Targets() {
		err := failed[target]
		if err == nil {
			continue
		}
		e := runner.AsError(err)
		result.Failed = append(result.Failed, runner.NotRefreshed{Target: target.Path(), Code: e.Code, Cause: e.Cause})
		if first == nil {
			first = err
		}
		if last, ok := old.tokens[target]; ok {
			made[target] = last
		}
	}
	if fresh == 0 {
		return first
	}
	text, dropped := s.write(made)
	result.Dropped = dropped
	if err := s.store.Put(ctx, text); err != nil {
		return err
	}
	result.Written = len(made) - dropped
	return nil
}

// make has the tokens made, some at a time and within GitHub's limits. Those that there is no time for fail: they are
// the first of the next refresh.
func (s *Tokens) make(ctx context.Context, old held) (made map[runner.Target]entry, failed map[runner.Target]error) {
	if end, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, end.Add(-writeTime))
		defer cancel()
	}
	targets := s.policy.Targets()
	slices.SortStableFunc(targets, func(a, b runner.Target) int {
		return old.tokens[a].madeAt.Compare(old.tokens[b].madeAt)
	})
	made, failed = map[runner.Target]entry{}, map[runner.Target]error{}
	limiter := rate.NewLimiter(perMinute/60.0, atOnce)
	slots := make(chan struct{}, atOnce)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, target := range targets {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			t, err := s.makeOne(ctx, limiter, target)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed[target] = err
			} else {
				made[target] = entry{t.Value, t.ExpiresAt, t.MadeAt}
			}
		})
	}
	wg.Wait()
	return made, failed
}

var slow = runner.Cause{
	Name: "timeout", Code: runner.Unavailable,
	Remedy: "there are more targets than one invocation can refresh: the others are asked for when they are wanted",
}

func (s *Tokens) makeOne(ctx context.Context, l *rate.Limiter, t runner.Target) (_ runner.Token, err error) {
	defer runner.Recover(&err)
	if err := l.Wait(ctx); err != nil {
		return runner.Token{}, slow.Refuse("the token was not asked for: %w", err)
	}
	return s.next.Create(ctx, runner.Request{Target: t, Kind: runner.RegistrationToken, Fresh: true})
}

const oldAfter = 45 * time.Minute // two refreshes were left out

var outdated = runner.Cause{
	Name: "shared-tokens-old", Code: runner.Unavailable,
	Remedy: "see the lines of the refreshes in the log; if there are none, is the schedule on that sends " +
		`{"refresh":true}?`,
}

// Check reads the secret, and says what it holds. The error, a *runner.Error, is also that of tokens that are too old.
func (s *Tokens) Check(ctx context.Context) (string, error) {
	h, problem, err := s.load(ctx)
	age := time.Since(h.writtenAt).Round(time.Second)
	switch {
	case err != nil:
		return "", err
	case problem != "":
		return "", outdated.Refuse("the secret of the shared tokens: %s", problem)
	case age < -clockSlack:
		return "", outdated.Refuse("the secret of the shared tokens: it was written in the future")
	case age > oldAfter:
		return "", outdated.Refuse("they were written %s ago", age)
	}
	return fmt.Sprintf("%d were written %s ago", len(h.tokens), age), nil
}

// Causes are what only a refresh can end in, and what is wrong without one.
func Causes() []runner.Cause { return []runner.Cause{slow, outdated} }

// write returns the secret's text, and how many entries did not go into it: the oldest.
func (s *Tokens) write(tokens map[runner.Target]entry) (text secret.Value, dropped int) {
	d := document{WrittenAt: time.Now().UTC().Truncate(time.Second)}
	for target, e := range tokens {
		d.Tokens = append(d.Tokens, documentToken{
			Target: target.Path(), Kind: runner.RegistrationToken, Token: e.token.Reveal(),
			RunnerURL: s.runnerURL(target), ExpiresAt: e.expiresAt, MadeAt: e.madeAt,
		})
	}
	slices.SortFunc(d.Tokens, func(a, b documentToken) int {
		return cmp.Or(b.MadeAt.Compare(a.MadeAt), cmp.Compare(a.Target, b.Target))
	})
	for {
		b, err := json.Marshal(d)
		if err != nil {
			panic(err) // it has nothing but strings and times
		}
		if len(b) <= maxSize {
			return secret.New(string(b)), dropped
		}
		drop := max(1, len(d.Tokens)*(len(b)-maxSize)/len(b))
		d.Tokens, dropped = d.Tokens[:len(d.Tokens)-drop], dropped+drop
	}
}
