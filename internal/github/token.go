package github

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
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

// Create makes a token. Network errors, answers cut off among them, and GitHub's 502, 503 and 504 are tried twice more,
// with jitter, while ctx lasts. That is safe: a token that was made and not received expires unused. Every error is a
// *runner.Error. It wraps context.DeadlineExceeded where a caller with more time would have tried again.
func (c *Client) Create(ctx context.Context, bearer secret.Value, r runner.Request) (runner.Token, error) {
	for try := 1; ; try++ {
		token, again, err := c.createOnce(ctx, bearer, r)
		if err == nil {
			return token, nil
		}
		if !again || try == tries {
			return runner.Token{}, err
		}
		if !sleep(ctx, max(err.RetryAfter, jitter(try))) {
			if err.RetryAfter == 0 && ctx.Err() == nil { // else GitHub wants no other try so soon, or err says it
				err.Err = fmt.Errorf("%w; there is no time for another try: %w", err.Err, context.DeadlineExceeded)
			}
			return runner.Token{}, err
		}
	}
}

// createOnce makes one call; again says that another may help.
func (c *Client) createOnce(
	ctx context.Context, bearer secret.Value, r runner.Request,
) (_ runner.Token, again bool, _ *runner.Error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // closes the connection; the library closes no body of a refusal
	// One path for all, since the library has no method for an enterprise's remove token. It escapes nothing: that
	// the path is what it seems rests on runner.ParseTarget.
	req, err := c.client.NewRequest(ctx, http.MethodPost, r.Path(), nil,
		gogithub.WithVersion(c.api.version), func(req *http.Request) {
			req.Header.Set("Accept", "application/vnd.github+json")
			req.Header.Set("Authorization", "Bearer "+bearer.Reveal())
		})
	if err != nil {
		return runner.Token{}, false, runner.Unclassified.Refuse("%w", err)
	}
	asked := time.Now().Round(0) // the wall clock, see runner.Minter
	var body bytes.Buffer
	resp, err := c.client.Do(req, &body)
	if resp == nil {
		return runner.Token{}, true, network.Refuse("no answer from GitHub", err, bearer)
	}
	if resp.StatusCode != http.StatusCreated && resp.StatusCode != http.StatusOK {
		return runner.Token{}, isTransient(resp.StatusCode), read(resp.Response, bearer, r.Target).refuse()
	}
	var token runner.Token
	var e *runner.Error
	switch {
	case err != nil && !errors.Is(err, errTooLarge):
		again, e = true, network.Refuse("GitHub's answer was cut off", err, bearer)
	case err == nil:
		token, err = parseToken(body.Bytes())
	}
	if err != nil {
		cause := noToken
		if resp.Header.Get(gogithub.HeaderRequestID) == "" {
			cause = notGitHub(runner.Unavailable)
		}
		e = cmp.Or(e, cause.Refuse("GitHub answered %d, but %w", resp.StatusCode, err))
		e.GitHub = trace(resp.Header, bearer)
		return runner.Token{}, again, e
	}
	token.MadeAt, token.RunnerURL, token.GitHub = asked, c.api.webURL()+r.Target.URLPath(), trace(resp.Header, bearer)
	return token, false, nil
}

func isTransient(status int) bool {
	return status == http.StatusBadGateway || status == http.StatusServiceUnavailable ||
		status == http.StatusGatewayTimeout
}

var noToken = runner.Cause{
	Name: "no-token", Code: runner.Unavailable, Remedy: "GitHub fails: see https://www.githubstatus.com",
}

// parseToken's errors quote nothing of the body: there may be a token in it.
func parseToken(body []byte) (runner.Token, error) {
	var answer struct {
		Token     string `json:"token"`
		ExpiresAt string `json:"expires_at"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return runner.Token{}, errors.New("its body is not the JSON of a token")
	}
	// GitHub writes milliseconds and a zone offset: 2020-01-22T12:13:35.123-08:00.
	expires, err := time.Parse(time.RFC3339, answer.ExpiresAt)
	switch {
	case answer.Token == "":
		return runner.Token{}, errors.New("there is no token in it")
	case err != nil:
		return runner.Token{}, errors.New("expires_at is absent or malformed")
	case time.Until(expires) <= 0:
		return runner.Token{}, fmt.Errorf("expires_at, %s, is past", expires.UTC().Format(time.RFC3339))
	}
	return runner.Token{Value: secret.New(answer.Token), ExpiresAt: expires.UTC().Truncate(time.Second)}, nil
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
