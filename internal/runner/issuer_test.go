package runner_test

import (
	"context"
	"testing"
	"time"

	. "runner-token-broker/internal/runner"
)

func TestTargetOutsideThePolicyReachesNobody(t *testing.T) {
	inWorld(t, 30*time.Minute, func(w *world) {
		e := w.refuses(TargetNotAllowed, "orgs/other")
		if want := "orgs/other is not one of the targets this service serves"; e.Message != want {
			t.Errorf("message %q, want %q", e.Message, want)
		}
		w.called(0)
		if w.secrets.reads != 0 {
			t.Error("the secret was read")
		}
	})
}

func TestIssueEndsWithItsContext(t *testing.T) {
	inWorld(t, 30*time.Minute, func(w *world) {
		w.github.latency = time.Hour
		ctx, cancel := context.WithTimeout(w.Context(), 2*time.Second)
		defer cancel()
		start := time.Now()
		_, err := w.issuer.Issue(ctx, Request{Target: mustParse(t, "orgs/acme"), Kind: RegistrationToken})
		if AsError(err).Code != Unavailable || time.Since(start) != 2*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}
