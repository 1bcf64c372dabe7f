package github

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"runner-token-broker/internal/runner"
	"runner-token-broker/internal/secret"
)

// Create makes a token for a runner; see do for tries and errors.
func (c *Client) Create(ctx context.Context, bearer secret.Value, r runner.Request) (runner.Token, error) {
	var t runner.Token
	a, err := c.do(ctx, call{step: runnerToken, method: http.MethodPost, path: r.Path(), bearer: bearer, target: r.Target},
		func(body []byte) (err error) {
			t.Value, t.ExpiresAt, err = parseToken(body)
			return err
		})
	if err != nil {
		return runner.Token{}, err
	}
	t.MadeAt, t.GitHub, t.RunnerURL = a.asked, a.trace, c.RunnerURL(r.Target)
	return t, nil
}

// RunnerURL returns what config.sh --url wants for the target.
func (c *Client) RunnerURL(t runner.Target) string { return c.api.webURL() + t.URLPath() }

// parseToken reads a runner's token, or an installation's. Its errors quote nothing of the body.
func parseToken(body []byte) (secret.Value, time.Time, error) {
	var answer struct {
		Token     string `json:"token"`
		ExpiresAt string `json:"expires_at"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return secret.Value{}, time.Time{}, errors.New("its body is not the JSON of a token")
	}
	// GitHub writes milliseconds and a zone offset: 2020-01-22T12:13:35.123-08:00.
	expires, err := time.Parse(time.RFC3339, answer.ExpiresAt)
	switch {
	case answer.Token == "":
		return secret.Value{}, time.Time{}, errors.New("there is no token in it")
	case err != nil:
		return secret.Value{}, time.Time{}, errors.New("expires_at is absent or malformed")
	case time.Until(expires) <= 0:
		return secret.Value{}, time.Time{}, fmt.Errorf("expires_at, %s, is past", expires.UTC().Format(time.RFC3339))
	}
	return secret.New(answer.Token), expires.UTC().Truncate(time.Second), nil
}
