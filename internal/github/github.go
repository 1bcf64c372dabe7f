// Package github makes runner tokens by GitHub's REST API and says what GitHub's refusals mean. It knows neither where
// the credential comes from nor who asks.
package github

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"time"

	"github.com/google/go-github/v89/github"

	"runner-token-broker/internal/runner"
	"runner-token-broker/internal/secret"
)

const (
	callTimeout = 11 * time.Second // GitHub itself gives a request up after 10 s
	tries       = 3
	maxAnswer   = 64 << 10 // bytes; a token's answer has a few hundred
)

// Client calls one GitHub. The credential is a parameter of the call, so one Client serves all credentials. It is safe
// for concurrent use.
type Client struct {
	client    *github.Client
	version   string
	runnerURL string
}

// New returns a Client for the API at api with the REST API version given, both as ParseAPIURL and CheckVersion pass
// them.
func New(api *url.URL, version string, transport http.RoundTripper) (*Client, error) {
	base := api.String() + "/"
	client, err := github.NewClient(
		github.WithURLs(&base, nil),
		github.WithUserAgent("runner-token-broker"),
		// The library remembers limits for the client and would refuse a rotated credential for the old one's limit.
		// Who must wait, and how long, the Issuer knows.
		github.WithDisableRateLimitCheck(),
		github.WithHTTPClient(&http.Client{
			Transport: limitedTransport{transport},
			Timeout:   callTimeout,
			// A followed 301 would be a GET, and the credential would go to whatever host it names.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}),
	)
	if err != nil {
		return nil, err
	}
	return &Client{client: client, version: version, runnerURL: webURL(api)}, nil
}

// NewTransport returns the transport for GitHub: http.DefaultTransport's settings (proxies by HTTPS_PROXY), but a new
// connection for each call. Calls are half an hour apart, and a connection that died while the environment was frozen
// would cost a timeout.
func NewTransport() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DisableKeepAlives = true
	return t
}

// CreateToken makes a token. Network errors, answers cut off among them, and GitHub's 502, 503 and 504 are tried twice
// more, with jitter, while ctx lasts; that is safe because a token which was made and not received expires unused.
// Every error is a *runner.Error.
func (c *Client) CreateToken(ctx context.Context, credential secret.Value, t runner.Target, k runner.Kind) (runner.Token, error) {
	for try := 1; ; try++ {
		token, again, err := c.createToken(ctx, credential, t, k)
		if err == nil {
			return token, nil
		}
		if !again || try == tries || !sleep(ctx, max(err.RetryAfter, jitter(try))) {
			return runner.Token{}, err
		}
	}
}

// createToken makes one call; again says that another may help.
func (c *Client) createToken(ctx context.Context, credential secret.Value, t runner.Target, k runner.Kind) (_ runner.Token, again bool, _ *runner.Error) {
	// One path for all, since the library has no method for an enterprise's remove token. It escapes nothing: that
	// the path is what it seems rests on ParseTarget.
	req, err := c.client.NewRequest(ctx, http.MethodPost, t.Path()+"/actions/runners/"+string(k), nil,
		github.WithVersion(c.version), func(r *http.Request) {
			r.Header.Set("Accept", "application/vnd.github+json")
			r.Header.Set("Authorization", "Bearer "+credential.Reveal())
		})
	if err != nil {
		return runner.Token{}, false, runner.Refuse(runner.Internal, err)
	}
	var body bytes.Buffer
	resp, err := c.client.Do(req, &body)
	if resp == nil {
		return runner.Token{}, true, unavailable(credential, "no answer from GitHub: %v", err)
	}
	if resp.StatusCode != http.StatusCreated && resp.StatusCode != http.StatusOK {
		e := refusal(resp.Response, credential, t)
		again := resp.StatusCode == http.StatusBadGateway || resp.StatusCode == http.StatusServiceUnavailable ||
			resp.StatusCode == http.StatusGatewayTimeout
		return runner.Token{}, again, e
	}
	if err != nil {
		return runner.Token{}, !errors.Is(err, errTooLarge), unavailable(credential, "GitHub's answer was cut off: %v", err)
	}
	token, err := parseToken(body.Bytes())
	if err != nil {
		e := unavailable(credential, "GitHub answered %s, but %v", resp.Status, err)
		e.GitHub = response(resp.Header)
		return runner.Token{}, false, e
	}
	token.RunnerURL = c.runnerURL + t.URLPath()
	token.GitHub = response(resp.Header)
	return token, false, nil
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

var errTooLarge = fmt.Errorf("it is longer than %d bytes", maxAnswer)

// limitedTransport bounds what an answer can make us read: the library decodes a success to its end.
type limitedTransport struct{ http.RoundTripper }

func (t limitedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.RoundTripper.RoundTrip(req)
	if err == nil {
		resp.Body = &limitedBody{resp.Body, maxAnswer}
	}
	return resp, err
}

type limitedBody struct {
	io.ReadCloser
	left int
}

func (b *limitedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left+1)])
	if b.left -= n; b.left < 0 {
		return 0, errTooLarge
	}
	return n, err
}
