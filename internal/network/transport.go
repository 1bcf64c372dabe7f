package network

import (
	"context"
	"net/http"
	"net/url"
)

// Restrict makes a transport fit for calls with a secret in them:
//   - A new connection for each call. Calls are minutes apart, and a connection that died while the environment was
//     frozen would cost a timeout. On a new connection net/http repeats no request, either.
//   - HTTP/1.1. Over HTTP/2 net/http repeats a request that the peer refuses without end (golang/go#52459), each time
//     with the secret, and GODEBUG=http2debug=2 prints headers and bodies.
//   - A proxy's refusal becomes an error that Refuse knows. net/http's own is the bare text of the status.
func Restrict(t *http.Transport) {
	t.DisableKeepAlives = true
	t.Protocols = new(http.Protocols)
	t.Protocols.SetHTTP1(true)
	if t.TLSClientConfig != nil {
		t.TLSClientConfig.NextProtos = nil // a clone has those of its original, HTTP/2's among them
	}
	t.OnProxyConnectResponse = func(_ context.Context, _ *url.URL, _ *http.Request, resp *http.Response) error {
		if resp.StatusCode != http.StatusOK {
			return proxyError{resp.Status}
		}
		return nil
	}
}
