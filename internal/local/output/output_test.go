package output_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"runner-token-broker/internal/local/output"
)

func TestWaitEndsWithTheMatchAndNotBefore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out output.Buffer
		var matches [2]string
		var waiting sync.WaitGroup
		for i := range matches {
			waiting.Go(func() { matches[i], _ = out.Wait(t.Context(), `(?m)^.*ready.*\n`) })
		}
		for _, part := range []string{"first line\nre", "ady", " on 3000"} {
			synctest.Wait() // both wait for more
			if matches != [2]string{} {
				t.Fatalf("before %q there is a match: %q", part, matches)
			}
			fmt.Fprint(&out, part)
		}
		fmt.Fprint(&out, "\nlast line")
		waiting.Wait()
		if matches != [2]string{"ready on 3000\n", "ready on 3000\n"} {
			t.Errorf("matches %q", matches)
		}
		if again, err := out.Wait(t.Context(), "last"); again != "last" || err != nil {
			t.Errorf("what is there already: %q, %v", again, err)
		}
	})
}

func TestWaitEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out output.Buffer
		fmt.Fprint(&out, "something else")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := out.Wait(ctx, "ready")
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "something else") {
			t.Errorf("Wait = %v, want the end of its context, and what there is instead", err)
		}
		if _, err := out.Wait(t.Context(), "("); err == nil {
			t.Error("a malformed expression: no error")
		}
	})
}

func TestNothingOfConcurrentWritesIsLost(t *testing.T) {
	t.Parallel()
	var out output.Buffer
	var writing sync.WaitGroup
	for i := range 8 {
		writing.Go(func() { fmt.Fprintf(&out, "line %d\n", i) })
	}
	writing.Wait()
	if n := strings.Count(out.String(), "\n"); n != 8 {
		t.Errorf("%d lines of 8: %s", n, out.String())
	}
}
