package secret

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const pat = "ghp_thisMustNotBeSeen"

func TestValueDoesNotLeak(t *testing.T) {
	v := New(pat)
	type exported struct{ Credential Value }
	type unexported struct{ credential Value }
	cache := NewCache(time.Minute, func(context.Context) (Value, error) { return v, nil })
	cache.Get(t.Context())
	for _, holder := range []any{
		v, &v, []Value{v}, map[string]Value{"a": v}, map[Value]int{v: 1},
		exported{v}, &exported{v}, unexported{v}, &unexported{v}, cache, fmt.Errorf("wrapped: %v", v),
	} {
		var out bytes.Buffer
		for _, verb := range "vTtbcdoOqxXUeEfFgGsp" {
			for _, flag := range []string{"", "+", "#", "-40", "0", ".3"} {
				fmt.Fprintf(&out, "%"+flag+string(verb)+"\n", holder)
			}
		}
		fmt.Fprintln(&out, holder)
		json.NewEncoder(&out).Encode(holder)
		for _, handler := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
			slog.New(handler).Info("test", "holder", holder, slog.Group("group", "holder", holder))
		}
		for _, bad := range []string{pat, pat[:8], fmt.Sprintf("%x", pat), fmt.Sprintf("%X", pat)[:20], strings.Trim(fmt.Sprint([]byte(pat)), "[]")} {
			if strings.Contains(out.String(), bad) {
				t.Errorf("%T prints %q", holder, bad)
			}
		}
	}
	if v.Reveal() != pat || New("").IsZero() != true || v.IsZero() || (Value{}).Reveal() != "" {
		t.Error("a Value does not hold what it was given")
	}
}

func TestCacheKeepsTheSecretForItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		c := NewCache(5*time.Minute, func(context.Context) (Value, error) {
			n++
			return New(fmt.Sprint(n)), nil
		})
		get := func(want string) {
			t.Helper()
			if v, err := c.Get(t.Context()); err != nil || v.Reveal() != want {
				t.Errorf("Get = %s, %v, want %s", v.Reveal(), err, want)
			}
		}
		get("1")
		time.Sleep(5*time.Minute - 1)
		get("1")
		time.Sleep(time.Nanosecond)
		get("2")
	})
}

func TestFailedReadIsNotKept(t *testing.T) {
	down := errors.New("down")
	err := down
	c := NewCache(time.Minute, func(context.Context) (Value, error) { return New("x"), err })
	if v, got := c.Get(t.Context()); !errors.Is(got, down) || !v.IsZero() {
		t.Errorf("Get = %s, %v", v.Reveal(), got)
	}
	err = nil
	if v, got := c.Get(t.Context()); got != nil || v.Reveal() != "x" {
		t.Errorf("Get = %s, %v", v.Reveal(), got)
	}
}

func TestConcurrentGetsShareOneRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reads := 0
		c := NewCache(time.Minute, func(context.Context) (Value, error) {
			time.Sleep(time.Second)
			reads++
			return New("x"), nil
		})
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() { c.Get(t.Context()) })
		}
		wg.Wait()
		if reads != 1 {
			t.Errorf("%d reads", reads)
		}
	})
}

func TestWaitingForAReadEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewCache(time.Minute, func(context.Context) (Value, error) {
			time.Sleep(time.Hour)
			return New("x"), nil
		})
		go c.Get(t.Context())
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.Get(ctx); err != ctx.Err() || err == nil {
			t.Errorf("Get: %v, want the context's error itself", err)
		}
		time.Sleep(time.Hour)
	})
}

func TestRejectForgetsOnlyTheRejectedValue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reads := 0
		value := "new"
		c := NewCache(time.Second, func(context.Context) (Value, error) {
			reads++
			return New(value), nil
		})
		c.Get(t.Context())
		c.Reject(New("old")) // late: the value was replaced meanwhile
		if v, err := c.Get(t.Context()); err != nil || v.Reveal() != "new" || reads != 1 {
			t.Errorf("Get = %s, %v after %d reads", v.Reveal(), err, reads)
		}
		// A good value that only grew old is read again without waiting.
		time.Sleep(time.Second)
		if v, err := c.Get(t.Context()); err != nil || v.Reveal() != "new" || reads != 2 {
			t.Errorf("Get = %s, %v after %d reads", v.Reveal(), err, reads)
		}
		// Rolled back to the rejected one.
		value = "old"
		time.Sleep(time.Second)
		if v, err := c.Get(t.Context()); !errors.Is(err, ErrRejected) || !v.IsZero() {
			t.Errorf("Get = %s, %v", v.Reveal(), err)
		}
	})
}

// A read that began before the rejection may end after it.
func TestReadUnderWayDoesNotBringARejectedValueBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewCache(time.Minute, func(context.Context) (Value, error) {
			time.Sleep(time.Second)
			return New("x"), nil
		})
		go func() {
			if v, err := c.Get(t.Context()); !errors.Is(err, ErrRejected) {
				t.Errorf("Get = %s, %v", v.Reveal(), err)
			}
		}()
		synctest.Wait()
		c.Reject(New("x"))
		time.Sleep(time.Minute)
	})
}
