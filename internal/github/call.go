package github

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	gogithub "github.com/google/go-github/v89/github"

	"runner-token-broker/internal/network"
	"runner-token-broker/internal/runner"
	"runner-token-broker/internal/secret"
)

const tries = 3

// call is a request to GitHub for a target.
type call struct {
	step         step
	method, path string
	body         any // nil: none
	bearer       secret.Value
	jwt          JWT // makes the bearer of each try, where it may be sent once; nil: bearer is sent
	target       runner.Target
}

// JWT makes a new JWT of a GitHub App. Its errors are *runner.Error.
type JWT = func(context.Context) (secret.Value, error)

// step is what a call is for: the same status means different things.
type step int

const (
	runnerToken       step = iota
	findInstallation       // of an App, with its JWT
	installationToken      // with its JWT
)

// answered is what is known of a successful call.
type answered struct {
	asked time.Time // the wall clock, see runner.Minter
	trace runner.Trace
}

// do makes the call and has parse read the body of the answer; parse's error quotes nothing of it.
//
// Network errors, answers cut off among them, and GitHub's 502, 503 and 504 are tried twice more, with jitter, while
// ctx lasts. That is safe: a token that was made and not received expires unused. Every error is a *runner.Error. It
// wraps context.DeadlineExceeded where a caller with more time would have tried again.
func (c *Client) do(ctx context.Context, call call, parse func([]byte) error) (answered, error) {
	for try := 1; ; try++ {
		a, again, err := c.once(ctx, call, parse)
		if err == nil {
			return a, nil
		}
		if !again || try == tries {
			return answered{}, err
		}
		if !sleep(ctx, max(err.RetryAfter, jitter(try))) {
			if err.RetryAfter == 0 { // else it is GitHub that wants no other try so soon
				err.Err = fmt.Errorf("%w; there is no time for another try: %w", err.Err, context.DeadlineExceeded)
			}
			return answered{}, err
		}
	}
}

// once makes one try; again says that another may help.
func (c *Client) once(
	ctx context.Context, call call, parse func([]byte) error,
) (_ answered, again bool, _ *runner.Error) {
	// Not http.Client's Timeout: that has a goroutine for each call, until the body is closed or the time is over, and the
	// library closes no body of a refusal.
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel() // closes the connection
	if call.jwt != nil {
		var err error
		if call.bearer, err = call.jwt(ctx); err != nil {
			return answered{}, false, runner.AsError(err)
		}
	}
	// One way for all, since the library has no method for an enterprise's remove token. It escapes nothing: that the
	// path is what it seems rests on runner.ParseTarget.
	req, err := c.client.NewRequest(ctx, call.method, call.path, call.body,
		gogithub.WithVersion(c.api.version), func(req *http.Request) {
			req.Header.Set("Accept", "application/vnd.github+json")
			req.Header.Set("Authorization", "Bearer "+call.bearer.Reveal())
		})
	if err != nil {
		return answered{}, false, runner.Unclassified.Refuse("%w", err)
	}
	a := answered{asked: time.Now().Round(0)}
	var body bytes.Buffer
	resp, err := c.client.Do(req, &body)
	runner.MeterOf(ctx).GitHub(time.Since(a.asked))
	if resp == nil {
		return answered{}, true, network.Refuse("no answer from GitHub", err, call.bearer)
	}
	if resp.StatusCode != http.StatusCreated && resp.StatusCode != http.StatusOK {
		return answered{}, isTransient(resp.StatusCode), read(resp.Response, call).refuse()
	}
	a.trace = trace(resp.Header, call.bearer)
	var e *runner.Error
	switch {
	case err != nil && !errors.Is(err, errTooLarge):
		again, e = true, network.Refuse("GitHub's answer was cut off", err, call.bearer)
	case err == nil:
		err = parse(body.Bytes())
	}
	if err == nil {
		return a, false, nil
	}
	if e == nil {
		cause := unusable
		if resp.Header.Get(gogithub.HeaderRequestID) == "" {
			cause = notGitHub(runner.Unavailable)
		}
		e = cause.Refuse("GitHub answered %d, but %w", resp.StatusCode, err)
	}
	e.GitHub = a.trace
	return answered{}, again, e
}

func isTransient(status int) bool {
	return status == http.StatusBadGateway || status == http.StatusServiceUnavailable ||
		status == http.StatusGatewayTimeout
}

var unusable = runner.Cause{
	Name: "no-token", Code: runner.Unavailable, Remedy: "GitHub fails: see https://www.githubstatus.com",
}

// jitter spreads the tries of a fleet that boots at once; GitHub answers bursts with 502 (actions/runner#4399).
func jitter(try int) time.Duration {
	d := 250 * time.Millisecond << (try - 1)
	return d/2 + rand.N(d)
}

// sleep reports whether d passed with time left to use it.
func sleep(ctx context.Context, d time.Duration) bool {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= d {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
