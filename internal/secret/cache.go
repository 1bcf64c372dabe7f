package secret

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"
)

const (
	rejectionMemory = 60 * time.Second
	rereadInterval  = 5 * time.Second
)

// ErrRejected says that the secret holds nothing but a value that was rejected less than a minute ago.
var ErrRejected = errors.New("the secret still holds the rejected value")

// Cache keeps the one secret that fetch reads, and remembers which of its values were rejected. It is safe for
// concurrent use.
type Cache struct {
	ttl   time.Duration
	fetch func(context.Context) (Value, error)
	slot  chan struct{} // holds the one who fetches; a channel, since those who wait for it have deadlines

	mu       sync.Mutex
	value    Value                // zero before the first fetch and after a rejection
	readAt   time.Time            // when value was read
	rereadAt time.Time            // when a successor of a rejected value was last looked for
	rejected map[string]time.Time // by the value's SHA-256
}

// NewCache returns an empty Cache that keeps for ttl what fetch returns. Errors are not kept.
func NewCache(ttl time.Duration, fetch func(context.Context) (Value, error)) *Cache {
	return &Cache{ttl: ttl, fetch: fetch, slot: make(chan struct{}, 1), rejected: map[string]time.Time{}}
}

// Get returns the secret, read anew when its time is over or when it was rejected. Concurrent calls wait for one read.
//
// A value rejected within the last minute is never returned: the error is ErrRejected then, joined with the cause
// where the secret could not be read. In that minute the secret is read at most every five seconds.
func (c *Cache) Get(ctx context.Context) (Value, error) {
	select {
	case c.slot <- struct{}{}:
		defer func() { <-c.slot }()
	case <-ctx.Done():
		return Value{}, ctx.Err()
	}
	if v, err := c.lookup(); err != nil || !v.IsZero() {
		return v, err
	}
	v, err := c.fetch(ctx)
	return c.store(v, err)
}

// Reject says that v was not accepted where it was sent.
func (c *Cache) Reject(v Value) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rejected[v.SHA256()] = now()
	if c.value.Reveal() == v.Reveal() {
		c.value = Value{}
	}
}

// lookup returns the kept value, or an error if there is none and it is too early to read again, or neither.
func (c *Cache) lookup() (Value, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forgetRejections()
	switch {
	case !c.value.IsZero():
		if time.Since(c.readAt) < c.ttl {
			return c.value, nil
		}
	case len(c.rejected) > 0:
		if time.Since(c.rereadAt) < rereadInterval {
			return Value{}, ErrRejected
		}
		c.rereadAt = now()
	}
	return Value{}, nil
}

func (c *Cache) store(v Value, err error) (Value, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forgetRejections()
	if _, bad := c.rejected[v.SHA256()]; err == nil && bad {
		c.value, c.rereadAt = Value{}, now()
		return Value{}, ErrRejected
	}
	if err != nil {
		if c.value.IsZero() && len(c.rejected) > 0 {
			err = errors.Join(ErrRejected, err)
		}
		return Value{}, err
	}
	c.value, c.readAt = v, now()
	return v, nil
}

func (c *Cache) forgetRejections() {
	maps.DeleteFunc(c.rejected, func(_ string, at time.Time) bool { return time.Since(at) >= rejectionMemory })
}

// now is the wall clock alone: the monotonic one may stand still while the environment is frozen between invocations
// (https://pkg.go.dev/time#hdr-Monotonic_Clocks).
func now() time.Time { return time.Now().Round(0) }
