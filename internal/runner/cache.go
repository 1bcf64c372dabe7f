package runner

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"
)

const (
	minStaleLife = 5 * time.Minute
	freshFor     = time.Minute // a token this young is fresh: one caller cannot use up the quota of all
)

// Cache is an Upstream that reuses tokens. Use NewCache.
//
//   - A token is reused for its target and kind while it has the minimum life.
//   - Simultaneous misses make one call. (There are several at once only where Lambda runs several invocations in one
//     environment, with AWS_LAMBDA_MAX_CONCURRENCY.)
//   - In an outage a token below its minimum life is served while it has five minutes left, unless GitHub has refused
//     its like since.
type Cache struct {
	upstream Upstream
	refused  func(Request, Token) bool
	minLife  time.Duration

	// Both by request, as if none were fresh.
	mu     sync.Mutex
	tokens map[Request]Token
	calls  map[Request]*call
}

// call is one call of the upstream, for which others may wait.
type call struct {
	done    chan struct{} // closed when the rest is set
	token   Token
	err     error
	settled bool // the result is for all that wait: its own caller did not run out of time
}

// NewCache returns an empty Cache in front of upstream. It reuses a token that has at least minLife left; a minLife of
// an hour or more means never. refused is Minter.Refused.
func NewCache(upstream Upstream, refused func(Request, Token) bool, minLife time.Duration) *Cache {
	return &Cache{
		upstream: upstream, refused: refused, minLife: minLife,
		tokens: map[Request]Token{}, calls: map[Request]*call{},
	}
}

var slow = Cause{Name: "timeout", Code: Unavailable, Remedy: "it took longer than an invocation may"}

// Create returns a token: cached, new, or in an outage stale.
func (c *Cache) Create(ctx context.Context, r Request) (Token, error) {
	key := Request{Target: r.Target, Kind: r.Kind}
	t, err := c.reuseOrCall(ctx, r, key)
	if err == nil || r.Fresh {
		return t, err
	}
	switch AsError(err).Code {
	case RateLimited, Unavailable:
		if t, ok := c.stale(key); ok {
			t.Source, t.Outage = FromStale, err
			return t, nil
		}
	}
	return Token{}, err
}

func (c *Cache) reuseOrCall(ctx context.Context, r, key Request) (Token, error) {
	for {
		c.mu.Lock()
		if t, ok := c.tokens[key]; ok && c.serves(t, r) {
			c.mu.Unlock()
			t.Source = FromCache
			return t, nil
		}
		other := c.calls[key]
		if other == nil {
			mine := &call{done: make(chan struct{})}
			c.calls[key] = mine
			c.mu.Unlock()
			c.run(ctx, r, key, mine)
			return mine.token, mine.err
		}
		c.mu.Unlock()
		select {
		case <-other.done:
			if other.settled && (other.err != nil || !r.Fresh || isFresh(other.token)) {
				return other.token, other.err
			}
		case <-ctx.Done():
			return Token{}, slow.Refuse("waiting for another request's call: %w", ctx.Err())
		}
	}
}

// run makes the call, and tells all that wait, also after a panic.
func (c *Cache) run(ctx context.Context, r, key Request, mine *call) {
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if mine.settled && mine.err == nil {
			maps.DeleteFunc(c.tokens, func(_ Request, t Token) bool { return time.Until(t.ExpiresAt) <= 0 })
			t := mine.token
			t.GitHub = Trace{}
			c.tokens[key] = t
		}
		delete(c.calls, key)
		close(mine.done)
	}()
	mine.token, mine.err = c.upstream.Create(ctx, r)
	mine.settled = mine.err == nil || ctx.Err() == nil && !errors.Is(mine.err, context.DeadlineExceeded)
}

func (c *Cache) serves(t Token, r Request) bool {
	return c.minLife < tokenLife && time.Until(t.ExpiresAt) >= c.minLife && (!r.Fresh || isFresh(t))
}

func isFresh(t Token) bool { return time.Since(t.MadeAt) <= freshFor }

func (c *Cache) stale(key Request) (Token, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t, ok := c.tokens[key]
	return t, ok && time.Until(t.ExpiresAt) >= minStaleLife && !c.refused(key, t)
}
