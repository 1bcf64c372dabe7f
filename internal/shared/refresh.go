package shared

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"runner-token-broker/internal/runner"
	"runner-token-broker/internal/secret"
)

const (
	writeEvery = 15 * time.Minute // however often it is called
	atOnce     = 5                // GitHub answers bursts with 502
	perMinute  = 150              // GitHub takes about 180 tokens a minute from one account
	maxSize    = 60 << 10         // Secrets Manager takes 64 KiB
)

// Refresh has a token made for each target that the policy names, and writes all of them at once. One that fails keeps
// its old entry. It writes at most once in 15 minutes: an earlier call makes no token. It fails, with the first
// failure, if there was nothing to write. It ends with ctx.
func (s *Tokens) Refresh(ctx context.Context) (runner.Refreshed, error) {
	old := held{tokens: map[runner.Target]entry{}}
	if v, err := s.store.Fetch(ctx); err == nil {
		if h, err := parse(v); err == nil {
			old = h
		}
	}
	result := runner.Refreshed{PassedOver: s.policy.Wildcards()}
	if age := time.Since(old.writtenAt); age < writeEvery {
		result.Age = age.Round(time.Second).String()
		return result, nil
	}
	made, failed := s.make(ctx)
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
		return result, first
	}
	text, dropped := write(made)
	result.Dropped = dropped
	if err := s.store.Put(ctx, text); err != nil {
		return result, err
	}
	result.Written = len(made) - dropped
	return result, nil
}

// make has the tokens made, some at a time and within GitHub's limits. Those that there is no time for fail.
func (s *Tokens) make(ctx context.Context) (made map[runner.Target]entry, failed map[runner.Target]error) {
	made, failed = map[runner.Target]entry{}, map[runner.Target]error{}
	limiter := rate.NewLimiter(perMinute/60.0, atOnce)
	slots := make(chan struct{}, atOnce)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, target := range s.policy.Targets() {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			var t runner.Token
			err := limiter.Wait(ctx)
			if err != nil {
				err = slow.Refuse("the token was not asked for: %w", err)
			} else {
				t, err = s.next.Create(ctx, runner.Request{Target: target, Kind: runner.RegistrationToken, Fresh: true})
			}
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

// Causes are what only a refresh can end in.
func Causes() []runner.Cause { return []runner.Cause{slow} }

// write returns the secret's text, and how many entries did not go into it: the oldest.
func write(tokens map[runner.Target]entry) (text secret.Value, dropped int) {
	d := document{WrittenAt: time.Now().UTC().Truncate(time.Second)}
	for target, e := range tokens {
		d.Tokens = append(d.Tokens, documentToken{
			Target: target.Path(), Kind: runner.RegistrationToken, Token: e.token.Reveal(),
			ExpiresAt: e.expiresAt, MadeAt: e.madeAt,
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
