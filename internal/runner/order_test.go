package runner_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"runner-token-broker/internal/credential"
	. "runner-token-broker/internal/runner"
	"runner-token-broker/internal/secret"
)

// past is what a GitHub of moods was asked and answered, and what callers got for it.
type past struct {
	mu      sync.Mutex
	random  *rand.Rand
	mood    func(bearer string, r Request) *Error // nil: a token
	answers []answer
	served  []served
}

type answer struct {
	bearer  string
	request Request
	asked   time.Time
	at      time.Time
	refusal *Error // nil: a token
	ended   bool   // by its caller's time
}

type served struct {
	request Request
	began   time.Time
	at      time.Time
	token   Token
}

func (p *past) Create(ctx context.Context, bearer secret.Value, r Request) (Token, error) {
	p.mu.Lock()
	latency := time.Duration(p.random.Int64N(int64(3 * time.Second)))
	p.mu.Unlock()
	a := answer{bearer: bearer.Reveal(), request: r, asked: time.Now()}
	select {
	case <-time.After(latency):
	case <-ctx.Done():
		a.ended, a.refusal = true, refusal(Unavailable)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !a.ended {
		a.refusal = p.mood(a.bearer, r)
	}
	a.at = time.Now()
	p.answers = append(p.answers, a)
	if a.refusal != nil {
		e := *a.refusal
		return Token{}, &e
	}
	return Token{Value: secret.New(fmt.Sprint(len(p.answers))), ExpiresAt: a.at.Add(time.Hour), MadeAt: a.asked}, nil
}

// Many callers at once, a GitHub that changes its mind, rotations: what the contract says of order holds for each.
func TestOrderHoldsForAnyInterleaving(t *testing.T) {
	for seed := range uint64(150) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { interleave(t, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func interleave(t *testing.T, random *rand.Rand) {
	p := &past{random: random, mood: func(string, Request) *Error { return nil }}
	pat := 0
	set := credential.NewSet(time.Minute, func(context.Context) (secret.Value, error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		return secret.New(fmt.Sprint("pat-", pat)), nil
	}, nil, nil)
	minter := NewMinter(set, p)
	cache := NewCache(minter, minter.Refused, 50*time.Minute)
	var requests []Request
	for _, target := range []string{"orgs/acme", "repos/acme/a"} {
		for _, kind := range []Kind{RegistrationToken, RemoveToken} {
			requests = append(requests, Request{Target: mustParse(t, target), Kind: kind})
		}
	}
	moods := []func(bearer string, r Request) *Error{
		func(string, Request) *Error { return nil },
		func(string, Request) *Error { return refusal(Unavailable) },
		func(string, Request) *Error { return refusal(RateLimited) },
		func(_ string, r Request) *Error {
			if r == requests[0] {
				return refusal(TargetNotFound)
			}
			return nil
		},
		func(_ string, r Request) *Error {
			if r == requests[1] {
				return refusal(CredentialForbidden)
			}
			return refusal(Unavailable)
		},
		func(bearer string, _ Request) *Error {
			if bearer != fmt.Sprint("pat-", pat) {
				return refusal(CredentialRejected)
			}
			return nil
		},
		func(string, Request) *Error { return refusal(CredentialRejected) },
	}

	var wg sync.WaitGroup
	for range 120 {
		p.mu.Lock()
		sleep := time.Duration(random.Int64N(int64(time.Second)))
		switch random.IntN(12) {
		case 0:
			p.mood = moods[random.IntN(len(moods))]
		case 1:
			pat++
			p.mood = moods[5]
		case 2:
			sleep = time.Duration(random.Int64N(int64(12 * time.Minute)))
		}
		r := requests[random.IntN(len(requests))]
		r.Fresh = random.IntN(4) == 0
		budget := time.Duration(1 + random.Int64N(int64(5*time.Second)))
		p.mu.Unlock()
		time.Sleep(sleep)
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), budget)
			defer cancel()
			began := time.Now()
			token, err := cache.Create(ctx, r)
			if took := time.Since(began); took > budget {
				t.Errorf("%v took %v of %v", r, took, budget)
			}
			if err == nil {
				p.mu.Lock()
				defer p.mu.Unlock()
				p.served = append(p.served, served{r, began, time.Now(), token})
			}
		})
	}
	wg.Wait()
	p.check(t)
}

func (p *past) check(t *testing.T) {
	for i, s := range p.served {
		key := s.request
		key.Fresh = false
		if s.request.Fresh && (s.token.Source == FromStale || s.at.Sub(s.token.MadeAt) > time.Minute+5*time.Second) {
			t.Errorf("fresh: %s of %v ago", s.token.Source, s.at.Sub(s.token.MadeAt))
		}
		if s.token.Source == FromStale {
			for _, a := range p.answers {
				refused := a.refusal != nil && !a.ended && isRefusal(a.refusal.Code)
				if refused && a.request.Target == key.Target && secret.New(a.bearer).SHA256() == s.token.Account &&
					!a.at.Before(s.token.MadeAt) && a.at.Before(s.at) {
					t.Errorf("stale %v of %v at %v, after %s at %v", key, s.token.MadeAt, s.at, a.refusal.Code, a.at)
				}
			}
		}
		for _, earlier := range p.served[:i] {
			if earlier.request.Target == key.Target && earlier.request.Kind == key.Kind && earlier.at.Before(s.began) &&
				s.token.MadeAt.Before(earlier.token.MadeAt) {
				t.Errorf("%v: a token of %v came after one of %v", key, s.token.MadeAt, earlier.token.MadeAt)
			}
		}
	}
	for _, a := range p.answers {
		for _, later := range p.answers {
			if !later.asked.After(a.at) {
				if later.asked.After(a.asked) && later.request == a.request && later.asked.Before(a.at) {
					t.Errorf("%v: two calls at once", a.request)
				}
				continue
			}
			if a.refusal == nil || a.ended || later.bearer != a.bearer {
				continue
			}
			after, same := later.asked.Sub(a.at), later.request == a.request
			switch code := a.refusal.Code; {
			case code == CredentialRejected && after < time.Minute,
				code == RateLimited && after < time.Minute,
				(code == TargetNotFound || code == CredentialForbidden) && same && after < 30*time.Second:
				t.Errorf("%v called %v after %s", later.request, after, code)
			}
		}
	}
}

func isRefusal(code Code) bool {
	return code == CredentialRejected || code == CredentialForbidden || code == TargetNotFound
}
