// Package sigv4 stands in for the side of AWS that verifies signatures, version 4. It makes each signature again with
// the SDK's own signer, so that it agrees with AWS where the SDK does.
//
// It does not know presigned URLs (a signature in the query), chunked or unsigned payloads, sigv4a, more than one set
// of credentials, or permissions. It takes the path as it was sent, and does not resolve "..". It insists that every
// x-amz- header is signed; some of AWS's services do not.
package sigv4

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// Verifier verifies requests to one service that were signed with one set of credentials.
type Verifier struct {
	Credentials     aws.Credentials
	Region, Service string
}

// Error says why a request was refused. Its text tells nothing about the right signature.
type Error struct {
	Code    string // AWS's name: InvalidSignatureException
	Message string
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

func missing(message string) error    { return &Error{"MissingAuthenticationTokenException", message} }
func incomplete(message string) error { return &Error{"IncompleteSignatureException", message} }
func unknown(message string) error    { return &Error{"UnrecognizedClientException", message} }
func invalid(message string) error    { return &Error{"InvalidSignatureException", message} }

const (
	algorithm  = "AWS4-HMAC-SHA256"
	timeFormat = "20060102T150405Z"
	maxSkew    = 5 * time.Minute
)

// Verify returns nil if r, of which body is the body, was signed with the credentials, and an *Error otherwise.
func (v Verifier) Verify(r *http.Request, body []byte) error {
	auth, err := parseAuthorization(r.Header["Authorization"])
	if err != nil {
		return err
	}
	scope := strings.Split(auth.credential, "/")
	if len(scope) != 5 {
		return incomplete("Credential is not KEY/DATE/REGION/SERVICE/aws4_request")
	}
	key, date, region, service, terminator := scope[0], scope[1], scope[2], scope[3], scope[4]
	if v.Credentials.AccessKeyID == "" || key != v.Credentials.AccessKeyID {
		return unknown("the access key is not known")
	}
	signed, err := signingTime(r.Header["X-Amz-Date"])
	if err != nil {
		return err
	}
	if date != signed.Format("20060102") || region != v.Region || service != v.Service || terminator != "aws4_request" {
		return invalid("the credential scope is not DATE/" + v.Region + "/" + v.Service +
			"/aws4_request with the date of X-Amz-Date")
	}
	names := strings.Split(auth.signedHeaders, ";")
	for _, name := range mustBeSigned(r.Header) {
		if !slices.Contains(names, name) {
			return invalid("header " + name + " is not signed")
		}
	}
	// There is one value or none. The time that the comparison takes does not tell how much of it was right.
	if token := strings.Join(r.Header["X-Amz-Security-Token"], ","); !equal(token, v.Credentials.SessionToken) {
		return unknown("the session token is not the one of the access key")
	}
	if _, err := url.ParseQuery(r.URL.RawQuery); err != nil {
		return invalid("the query is malformed, and the malformed part would go unsigned")
	}

	want, err := v.sign(r, body, names, signed)
	if err != nil {
		return invalid(err.Error())
	}
	if auth.signedHeaders != want.signedHeaders || !equal(auth.signature, want.signature) {
		return invalid("the signature does not match")
	}
	return nil
}

// sign returns what the SDK makes of the signed part of r.
func (v Verifier) sign(r *http.Request, body []byte, names []string, signed time.Time) (authorization, error) {
	again := &http.Request{
		Method: r.Method,
		URL: &url.URL{
			Scheme: "http", Host: r.Host, Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery,
		},
		Host:   r.Host,
		Header: http.Header{},
	}
	for _, name := range names {
		switch values := r.Header[http.CanonicalHeaderKey(name)]; {
		case name == "host", name == "x-amz-date", name == "x-amz-security-token":
			// the signer's own
		case name == "content-length":
			again.ContentLength = int64(len(body))
		case values != nil:
			// The name stays in lower case. In Go's own spelling the signer leaves out user-agent and some others, and
			// curl signs these when it is told to send them.
			again.Header[name] = values
		}
	}
	hash := sha256.Sum256(body)
	// A signer caches derived keys by access key alone, and would go on with an old secret. So each time it is a new
	// one.
	err := v4.NewSigner().SignHTTP(context.Background(), v.Credentials, again, hex.EncodeToString(hash[:]),
		v.Service, v.Region, signed)
	if err != nil {
		return authorization{}, err
	}
	return parseAuthorization(again.Header["Authorization"])
}

type authorization struct{ credential, signedHeaders, signature string }

// parseAuthorization takes "ALGORITHM Credential=..., SignedHeaders=..., Signature=...", with or without the spaces.
func parseAuthorization(values []string) (authorization, error) {
	if len(values) == 0 {
		return authorization{}, missing("there is no Authorization header")
	}
	rest, ok := strings.CutPrefix(values[0], algorithm+" ")
	if !ok || len(values) > 1 {
		return authorization{}, incomplete("Authorization is not one " + algorithm + " header")
	}
	fields := map[string]string{}
	for field := range strings.SplitSeq(rest, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(field), "=")
		if _, twice := fields[name]; twice || value == "" {
			return authorization{}, incomplete("Authorization has a field twice or an empty one")
		}
		fields[name] = value
	}
	a := authorization{fields["Credential"], fields["SignedHeaders"], fields["Signature"]}
	if a.credential == "" || a.signedHeaders == "" || a.signature == "" || len(fields) != 3 {
		return authorization{}, incomplete("Authorization needs Credential, SignedHeaders and Signature")
	}
	return a, nil
}

func signingTime(values []string) (time.Time, error) {
	if len(values) != 1 {
		return time.Time{}, incomplete("X-Amz-Date must be there once")
	}
	t, err := time.Parse(timeFormat, values[0])
	if err != nil {
		return time.Time{}, incomplete("X-Amz-Date is not of the form " + timeFormat)
	}
	if skew := time.Since(t).Abs(); skew > maxSkew {
		return time.Time{}, invalid("X-Amz-Date is more than " + maxSkew.String() + " away from now")
	}
	return t, nil
}

// mustBeSigned returns the names of the headers that somebody on the way could otherwise change with some effect.
func mustBeSigned(h http.Header) []string {
	names := []string{"host"}
	for name := range h {
		if lower := strings.ToLower(name); strings.HasPrefix(lower, "x-amz-") {
			names = append(names, lower)
		}
	}
	return names
}

func equal(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// Sign signs r, of which body is the body, as the SDK's clients do.
func Sign(r *http.Request, body []byte, c aws.Credentials, region, service string) error {
	hash := sha256.Sum256(body)
	return v4.NewSigner().SignHTTP(r.Context(), c, r, hex.EncodeToString(hash[:]), service, region, time.Now())
}
