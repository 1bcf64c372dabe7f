// Package sigv4 stands in for the side of AWS that verifies signatures, version 4, of all services but S3. It takes
// them from the Authorization header or, presigned, from the query.
//
// It does not know unsigned or chunked payloads, sigv4a, more than one set of credentials, or permissions. Where AWS
// does not say what it does, it is strict: every x-amz- header but x-amz-content-sha256 is signed, the names of signed
// headers are sorted, and the session token is where the signature is.
package sigv4

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/mail"
	"net/url"
	"path"
	"slices"
	"strconv"
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
	terminator = "aws4_request"
	timeFormat = "20060102T150405Z"
	maxSkew    = 5 * time.Minute
	maxExpires = 7 * 24 * time.Hour
)

// Verify returns nil if r, of which body is the body, was signed with the credentials, and an *Error otherwise. r is a
// request as a server received it.
func (v Verifier) Verify(r *http.Request, body []byte) error {
	c, err := parseClaim(r)
	if err != nil {
		return err
	}
	key, scope, _ := strings.Cut(c.credential, "/")
	if v.Credentials.AccessKeyID == "" || key != v.Credentials.AccessKeyID {
		return unknown("the access key is not known")
	}
	// The time that the comparison takes does not tell how much of it was right.
	if !equal(c.token, v.Credentials.SessionToken) {
		return unknown("the session token is not the one of the access key")
	}
	if age := time.Since(c.signed); age < -maxSkew || age > c.life {
		return invalid(fmt.Sprintf("it was signed for %s, and it is %s", c.signed.UTC().Format(timeFormat),
			time.Now().UTC().Format(timeFormat)))
	}
	day := c.signed.UTC().Format("20060102")
	if want := strings.Join([]string{day, v.Region, v.Service, terminator}, "/"); scope != want {
		return invalid("the credential is not for " + want)
	}
	canonical, err := canonicalRequest(r, body, c.names)
	if err != nil {
		return err
	}
	if !equal(c.signature, v.signature(c.signed.UTC(), day, scope, canonical)) {
		return invalid("the signature does not match")
	}
	return nil
}

func equal(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

func (v Verifier) signature(signed time.Time, day, scope, canonical string) string {
	key := []byte("AWS4" + v.Credentials.SecretAccessKey)
	for _, part := range []string{day, v.Region, v.Service, terminator} {
		key = mac(key, part)
	}
	toSign := []string{algorithm, signed.Format(timeFormat), scope, hash([]byte(canonical))}
	return hex.EncodeToString(mac(key, strings.Join(toSign, "\n")))
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

func hash(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// claim is what a request says of its signature.
type claim struct {
	credential string   // KEY/DATE/REGION/SERVICE/aws4_request
	names      []string // of the signed headers
	signature  string
	token      string // of the session; "": none
	signed     time.Time
	life       time.Duration // how long after signed it is valid
}

func parseClaim(r *http.Request) (claim, error) {
	header, query := r.Header["Authorization"], r.URL.Query()
	presigned := query.Has("X-Amz-Algorithm") || query.Has("X-Amz-Signature")
	switch {
	case len(header) == 0 && !presigned:
		return claim{}, missing("there is no signature, in the Authorization header or in the query")
	case len(header)+len(query["X-Amz-Signature"]) > 1:
		return claim{}, incomplete("there is more than one signature")
	case presigned:
		return presignedClaim(query)
	}
	return headerClaim(r.Header, header[0])
}

// headerClaim takes "ALGORITHM Credential=..., SignedHeaders=..., Signature=...", with or without the spaces.
func headerClaim(h http.Header, authorization string) (claim, error) {
	rest, ok := strings.CutPrefix(authorization, algorithm+" ")
	if !ok {
		return claim{}, incomplete("Authorization does not begin with " + algorithm)
	}
	fields := url.Values{}
	for field := range strings.SplitSeq(rest, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(field), "=")
		fields.Add(name, value)
	}
	signed, err := signingTime(h)
	if err != nil {
		return claim{}, err
	}
	c := claim{signed: signed, life: maxSkew, token: strings.Join(h["X-Amz-Security-Token"], ",")}
	return c, c.fill(fields, "Credential", "SignedHeaders", "Signature")
}

// signingTime is that of X-Amz-Date or, without it, of Date.
func signingTime(h http.Header) (time.Time, error) {
	name := "X-Amz-Date"
	if h[name] == nil {
		name = "Date"
	}
	value := strings.Join(h[name], ",")
	signed, err := time.Parse(timeFormat, value)
	if err != nil && name == "Date" {
		signed, err = mail.ParseDate(value)
	}
	if err != nil {
		return time.Time{}, incomplete("there is no X-Amz-Date of the form " + timeFormat + ", and no Date")
	}
	return signed, nil
}

func presignedClaim(query url.Values) (claim, error) {
	if query.Get("X-Amz-Algorithm") != algorithm {
		return claim{}, incomplete("X-Amz-Algorithm is not " + algorithm)
	}
	signed, err := time.Parse(timeFormat, query.Get("X-Amz-Date"))
	if err != nil {
		return claim{}, incomplete("X-Amz-Date in the query is not of the form " + timeFormat)
	}
	c := claim{signed: signed, life: maxSkew, token: query.Get("X-Amz-Security-Token")}
	if query.Has("X-Amz-Expires") {
		seconds, err := strconv.Atoi(query.Get("X-Amz-Expires"))
		if c.life = time.Duration(seconds) * time.Second; err != nil || seconds < 1 || c.life > maxExpires {
			return claim{}, incomplete("X-Amz-Expires is not a number of seconds up to a week")
		}
	}
	return c, c.fill(query, "X-Amz-Credential", "X-Amz-SignedHeaders", "X-Amz-Signature")
}

// fill takes the fields that the header and the query have in common.
func (c *claim) fill(fields url.Values, credential, signedHeaders, signature string) error {
	for _, name := range []string{credential, signedHeaders, signature} {
		if values := fields[name]; len(values) != 1 || values[0] == "" {
			return incomplete(name + " must be there once")
		}
	}
	c.credential, c.signature = fields.Get(credential), fields.Get(signature)
	if strings.Count(c.credential, "/") != 4 {
		return incomplete(credential + " is not KEY/DATE/REGION/SERVICE/" + terminator)
	}
	c.names = strings.Split(fields.Get(signedHeaders), ";")
	return nil
}

// canonicalRequest is what is signed of r, as AWS defines it.
func canonicalRequest(r *http.Request, body []byte, names []string) (string, error) {
	query, err := canonicalQuery(r.URL.RawQuery)
	if err != nil {
		return "", invalid("the query is malformed: " + err.Error())
	}
	headers, err := canonicalHeaders(r, names)
	if err != nil {
		return "", err
	}
	payload := hash(body)
	said := strings.Join(r.Header["X-Amz-Content-Sha256"], ",")
	if slices.Contains(names, "x-amz-content-sha256") && said != payload {
		return "", invalid("x-amz-content-sha256 is signed, and is not the hash of the body")
	}
	return strings.Join([]string{
		r.Method, canonicalPath(r.URL.EscapedPath()), query, headers, strings.Join(names, ";"), payload,
	}, "\n"), nil
}

// canonicalPath cleans the path as it was sent, and encodes it again.
func canonicalPath(escaped string) string {
	clean := path.Clean("/" + escaped)
	if clean != "/" && strings.HasSuffix(escaped, "/") {
		clean += "/"
	}
	return encode(clean, "/")
}

func canonicalQuery(raw string) (string, error) {
	var pairs [][]string
	for pair := range strings.SplitSeq(raw, "&") {
		name, value, _ := strings.Cut(pair, "=")
		name, err := url.QueryUnescape(name)
		if err != nil {
			return "", err
		}
		if value, err = url.QueryUnescape(value); err != nil {
			return "", err
		}
		if pair != "" && name != "X-Amz-Signature" {
			pairs = append(pairs, []string{encode(name, ""), encode(value, "")})
		}
	}
	slices.SortFunc(pairs, slices.Compare)
	var encoded []string
	for _, pair := range pairs {
		encoded = append(encoded, strings.Join(pair, "="))
	}
	return strings.Join(encoded, "&"), nil
}

// encode percent-encodes every byte that is neither unreserved (RFC 3986) nor in safe.
func encode(s, safe string) string {
	const unreserved = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
	var b strings.Builder
	for _, c := range []byte(s) {
		if strings.IndexByte(unreserved+safe, c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

func canonicalHeaders(r *http.Request, names []string) (string, error) {
	for i, name := range names {
		if name != strings.ToLower(name) || i > 0 && name <= names[i-1] {
			return "", invalid("the names of the signed headers are not in lower case, each once, and sorted")
		}
	}
	for _, name := range mustBeSigned(r.Header) {
		if !slices.Contains(names, name) {
			return "", invalid("header " + name + " is not signed")
		}
	}
	var b strings.Builder
	for _, name := range names {
		var values []string
		for _, value := range sent(r, name) {
			values = append(values, strings.Join(strings.Fields(value), " "))
		}
		if values == nil {
			return "", invalid("header " + name + " is signed and not sent")
		}
		fmt.Fprintf(&b, "%s:%s\n", name, strings.Join(values, ","))
	}
	return b.String(), nil
}

// sent returns the values of a header. net/http keeps some elsewhere.
func sent(r *http.Request, name string) []string {
	switch name {
	case "host":
		return []string{r.Host}
	case "transfer-encoding":
		return r.TransferEncoding
	}
	return r.Header[http.CanonicalHeaderKey(name)]
}

// mustBeSigned returns the names of the headers that somebody on the way could otherwise change with some effect.
func mustBeSigned(h http.Header) []string {
	names := []string{"host"}
	for name := range h {
		lower := strings.ToLower(name)
		if strings.HasPrefix(lower, "x-amz-") && lower != "x-amz-content-sha256" {
			names = append(names, lower)
		}
	}
	return names
}

// Sign signs r, of which body is the body, as the SDK's clients do.
func Sign(r *http.Request, body []byte, c aws.Credentials, region, service string) error {
	return v4.NewSigner().SignHTTP(r.Context(), c, r, hash(body), service, region, time.Now())
}
