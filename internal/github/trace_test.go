package github

import (
	"testing"
	"time"

	"runner-token-broker/internal/runner"
	"runner-token-broker/internal/secret"
)

const success = `{"token":"AB","expires_at":"2099-01-01T00:00:00Z"}`

func TestCredentialsEndIsReadFromAnyAnswer(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 12, 24, 18, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		name   string
		status int
		header string
		want   time.Time
	}{
		{name: "success", status: 201, header: "2026-12-24 18:00:00 UTC", want: at},
		{name: "zone", status: 201, header: "2026-12-24 19:00:00 +0100", want: at},
		{name: "refusal", status: 403, header: "2026-12-24 18:00:00 UTC", want: at},
		{name: "no end", status: 201},
		{name: "malformed", status: 201, header: "soon"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			header := []string{"X-GitHub-Request-Id", "AB:CD", "X-RateLimit-Limit", "5000", "X-RateLimit-Remaining", "4999"}
			if test.header != "" {
				header = append(header, "GitHub-Authentication-Token-Expiration", test.header)
			}
			body := success
			if test.status != 201 {
				body = message("no")
			}
			c := newClient(t, answerer(test.status, body, header...), "", "2022-11-28")
			token, err := create(t, c, "orgs/acme", runner.RegistrationToken)
			trace := token.GitHub
			if err != nil {
				trace = runner.AsError(err).GitHub
			}
			if !trace.CredentialExpires.Equal(test.want) || trace.RateLimit != "5000" || trace.RateLimitRemaining != "4999" {
				t.Errorf("%+v, want %v", trace, test.want)
			}
		})
	}
}

func TestEachTryIsMeasured(t *testing.T) {
	t.Parallel()
	c := newClient(t, answerer(502, ""), "", "2022-11-28")
	meter := new(runner.Meter)
	ctx := runner.WithMeter(t.Context(), meter)
	c.Create(ctx, secret.New(pat), request(t, "orgs/acme", runner.RegistrationToken))
	if calls, _ := meter.Read(); calls.Count != 3 || calls.Took <= 0 {
		t.Errorf("%+v, want three tries", calls)
	}
}
