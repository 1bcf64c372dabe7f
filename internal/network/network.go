// Package network has what all connections share: why a server could not be reached, and the settings of proxies and
// certificates. It does not know which server.
package network

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"

	"runner-token-broker/internal/runner"
	"runner-token-broker/internal/secret"
)

var (
	proxy = runner.Cause{
		Name: "proxy", Code: runner.Unavailable,
		Remedy: "see HTTPS_PROXY (parameter HttpsProxy): is the address right, and does the proxy let the function through?",
	}
	untrusted = runner.Cause{
		Name: "tls", Code: runner.Unavailable,
		Remedy: "a company's CA, of GitHub Enterprise Server or of a proxy that looks into TLS, goes for GitHub into " +
			"GITHUB_CA_CERTIFICATES (parameter GitHubCaCertificates), for Secrets Manager and KMS into the folder " +
			"SSL_CERT_DIR; a wrong name means a wrong address",
	}
	dns = runner.Cause{
		Name: "dns", Code: runner.Unavailable,
		Remedy: "check the host (GITHUB_API_URL's, or the endpoint of Secrets Manager or KMS), and that the VPC " +
			"resolves names",
	}
	timeout = runner.Cause{
		Name: "timeout", Code: runner.Unavailable,
		Remedy: "in a VPC the function reaches GitHub by a NAT gateway or a proxy, and Secrets Manager and KMS by one of " +
			"these or an endpoint each; see the security groups and HTTPS_PROXY",
	}
	broken = runner.Cause{
		Name: "network", Code: runner.Unavailable,
		Remedy: "the connection failed, which may pass; if it lasts, see the address (GITHUB_API_URL, or the endpoint of " +
			"Secrets Manager or KMS), HTTPS_PROXY and the VPC's routes",
	}
)

// Refuse returns the Error for a request that got no answer, or a part of one: Unavailable, with the cause that err
// shows. It quotes err without any part of the secrets; see secret.Text.
func Refuse(what string, err error, secrets ...secret.Value) *runner.Error {
	return causeOf(err).Refuse("%s: %s", what, secret.Text(err.Error(), secrets...))
}

type proxyError struct{ status string }

func (e proxyError) Error() string { return "the proxy answered " + e.status }

func causeOf(err error) runner.Cause {
	op, isOp := errors.AsType[*net.OpError](err)
	timed, _ := errors.AsType[net.Error](err)
	switch {
	case has[proxyError](err), isOp && (op.Op == "proxyconnect" || op.Op == "socks connect"):
		return proxy
	case has[*tls.CertificateVerificationError](err), has[x509.UnknownAuthorityError](err), has[x509.HostnameError](err),
		has[tls.RecordHeaderError](err), errors.Is(err, http.ErrSchemeMismatch),
		isOp && (op.Op == "remote error" || op.Op == "local error"): // an alert, of a type that crypto/tls does not export
		return untrusted
	case has[*net.DNSError](err):
		return dns
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), timed != nil && timed.Timeout():
		return timeout
	}
	return broken
}

func has[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// Causes are why there can be no answer.
func Causes() []runner.Cause { return []runner.Cause{proxy, untrusted, dns, timeout, broken} }
