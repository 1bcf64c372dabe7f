// Package github makes runner tokens by GitHub's REST API, and says what GitHub's refusals mean. It knows neither where
// the credential comes from nor who asks.
package github

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"time"

	gogithub "github.com/google/go-github/v89/github"

	"runner-token-broker/internal/network"
)

const (
	callTimeout = 11 * time.Second // GitHub itself gives a request up after 10 s
	maxAnswer   = 64 << 10         // bytes; a token's answer has a few hundred
)

// Client calls one GitHub. The credential is a parameter of the call, so one Client serves all credentials. It is safe
// for concurrent use.
type Client struct {
	client *gogithub.Client
	api    API
}

// New returns a Client for the API. It makes no call, and fails only if go-github refuses the URL.
func New(api API, transport http.RoundTripper) (*Client, error) {
	base := api.url.String() + "/"
	client, err := gogithub.NewClient(
		gogithub.WithURLs(&base, nil),
		gogithub.WithUserAgent("runner-token-broker"),
		// The library remembers limits for the client, and would refuse a rotated credential for the old one's limit.
		// runner.Minter knows which account must wait, and how long.
		gogithub.WithDisableRateLimitCheck(),
		gogithub.WithHTTPClient(&http.Client{
			Transport: boundedTransport{transport},
			// A followed 301 would be a GET, and the credential would go to whatever host it names.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}),
	)
	if err != nil {
		return nil, err
	}
	return &Client{client: client, api: api}, nil
}

// NewTransport returns the transport for GitHub: http.DefaultTransport's settings (proxies by HTTPS_PROXY), but for
// what network.Restrict does. The server's certificate must be signed by one of roots; nil means the system's.
func NewTransport(roots *x509.CertPool) *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = &tls.Config{RootCAs: roots}
	network.Restrict(t)
	return t
}

// boundedTransport bounds what an answer can make us read, and how long: the library decodes a success to its end, and
// an upgraded connection (101) has no end and heeds no timeout.
type boundedTransport struct{ http.RoundTripper }

func (t boundedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.RoundTripper.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		resp.Body.Close()
		resp.Body = http.NoBody
	}
	resp.Body = &boundedBody{resp.Body, maxAnswer}
	return resp, nil
}

var errTooLarge = fmt.Errorf("it is longer than %d bytes", maxAnswer)

type boundedBody struct {
	io.ReadCloser
	left int
}

func (b *boundedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left+1)])
	if b.left -= n; b.left < 0 {
		return 0, errTooLarge
	}
	return n, err
}
