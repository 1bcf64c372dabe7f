package sigv4_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"runner-token-broker/internal/local/sigv4"
)

var (
	permanent = aws.Credentials{AccessKeyID: "AKIDEXAMPLE", SecretAccessKey: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"}
	temporary = aws.Credentials{AccessKeyID: "ASIAEXAMPLE", SecretAccessKey: permanent.SecretAccessKey,
		SessionToken: "IQoJb3JpZ2luX2Vj//8="}
)

func verifier(c aws.Credentials) sigv4.Verifier {
	return sigv4.Verifier{Credentials: c, Region: "eu-central-1", Service: "execute-api"}
}

// received returns the request as a server sees it.
func received(t *testing.T, r *http.Request, body string) *http.Request {
	t.Helper()
	var wire bytes.Buffer
	r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
	if err := r.Write(&wire); err != nil {
		t.Fatal(err)
	}
	got, err := http.ReadRequest(bufio.NewReader(&wire))
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func request(t *testing.T, url, body string, header ...string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	return r
}

func sign(t *testing.T, r *http.Request, body string, c aws.Credentials) {
	t.Helper()
	if err := sigv4.Sign(r, []byte(body), c, "eu-central-1", "execute-api"); err != nil {
		t.Fatal(err)
	}
}

const api = "http://127.0.0.1:3000/orgs/acme/actions/runners/registration-token"

func TestSDKsSignatureIsAccepted(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		c      aws.Credentials
		url    string
		body   string
		header []string
	}{
		{"permanent", permanent, api, "", nil},
		{"temporary", temporary, api, "", nil},
		{"with a body", permanent, api, `{"a":1}`, []string{"Content-Type", "application/json"}},
		{"more headers", temporary, api, "",
			[]string{"Accept", "text/plain", "Accept", "a  b", "X-Amz-Target", "T"}},
		{"unsigned headers", permanent, api, "", []string{"User-Agent", "test", "X-Amzn-Trace-Id", "Root=1"}},
		{"a query", permanent, api + "?b=2&a=1&a=%20x&c", "", nil},
		{"an escaped path", permanent, "http://127.0.0.1:3000/orgs/a%2Fb/%C3%A4%20", "", nil},
		{"a default port", permanent, "http://localhost:80/orgs/acme", "", nil},
		{"the root", permanent, "http://localhost", "", nil},
		{"Content-Length 0", permanent, api, "", []string{"Content-Length", "0"}},
		{"a forwarded token", temporary, api, "x", []string{"X-Forwarded-For", "10.0.0.1"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := request(t, test.url, test.body, test.header...)
			sign(t, r, test.body, test.c)
			if err := verifier(test.c).Verify(received(t, r, test.body), []byte(test.body)); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAnythingElseIsRefused(t *testing.T) {
	t.Parallel()
	const (
		missing    = "MissingAuthenticationTokenException: "
		incomplete = "IncompleteSignatureException: "
		unknown    = "UnrecognizedClientException: "
		invalid    = "InvalidSignatureException: "
		mismatch   = invalid + "the signature does not match"
		names      = invalid + "the names of the signed headers"
	)
	replace := func(old, new string) func(*http.Request) {
		return func(r *http.Request) {
			r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), old, new, 1))
		}
	}
	set := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	drop := func(name string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Del(name) }
	}
	twice := func(name string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Add(name, r.Header.Get(name)) }
	}
	signAs := func(c aws.Credentials, region, service string) func(*http.Request) {
		return func(r *http.Request) { sigv4.Sign(r, nil, c, region, service) }
	}
	otherSecret := temporary
	otherSecret.SecretAccessKey = "other"
	for _, test := range []struct {
		name   string
		change func(*http.Request)
		want   string
	}{
		{"unsigned", func(r *http.Request) { r.Header = http.Header{} }, missing},
		{"another scheme", set("Authorization", "Bearer x"), incomplete},
		{"Authorization twice", twice("Authorization"), incomplete + "there is more than one"},
		{"also in the query", func(r *http.Request) { r.URL.RawQuery = "X-Amz-Signature=x" },
			incomplete + "there is more than one"},
		{"Signature twice", replace("Signature=", "Signature=x, Signature="), incomplete + "Signature"},
		{"no signed headers", replace("SignedHeaders=", "SignedFooters="), incomplete + "SignedHeaders"},
		{"credential without a scope", replace("/aws4_request", ""), incomplete + "Credential"},
		{"no date", drop("X-Amz-Date"), incomplete + "there is no X-Amz-Date"},
		{"two dates", twice("X-Amz-Date"), incomplete + "there is no X-Amz-Date"},
		{"X-Amz-Date in words", set("X-Amz-Date", time.Now().UTC().Format(http.TimeFormat)), incomplete},
		{"the scope of another day", replace("/"+time.Now().UTC().Format("20060102")+"/", "/20200101/"),
			invalid + "the credential is not for "},
		{"another terminator", replace("/aws4_request", "/aws5_request"), invalid + "the credential is not for "},
		{"another region", signAs(temporary, "us-east-1", "execute-api"), invalid + "the credential is not for "},
		{"another service", signAs(temporary, "eu-central-1", "lambda"), invalid + "the credential is not for "},
		{"an unknown key", replace("ASIAEXAMPLE", "ASIAOTHER"), unknown + "the access key"},
		{"no session token", drop("X-Amz-Security-Token"), unknown + "the session token"},
		{"another session token", set("X-Amz-Security-Token", "IQoOther"), unknown + "the session token"},
		{"two session tokens", twice("X-Amz-Security-Token"), unknown + "the session token"},
		{"the session token in the query", func(r *http.Request) {
			r.Header.Del("X-Amz-Security-Token")
			r.URL.RawQuery = "X-Amz-Security-Token=" + url.QueryEscape(temporary.SessionToken)
		}, unknown + "the session token"},
		{"an unsigned session token", replace(";x-amz-security-token", ""), invalid + "header x-amz-security-token"},
		{"an unsigned date", replace(";x-amz-date", ""), invalid + "header x-amz-date is not signed"},
		{"an unsigned host", replace("host;", ""), invalid + "header host is not signed"},
		{"an x-amz- header added", set("X-Amz-Target", "T"), invalid + "header x-amz-target is not signed"},
		{"names not sorted", replace("accept;host", "host;accept"), names},
		{"names twice", replace("accept;host", "accept;accept;host"), names},
		{"names in upper case", replace("accept;host", "Accept;host"), names},
		{"a header signed but not sent", drop("Accept"), invalid + "header accept is signed and not sent"},
		{"a signed header changed", set("Accept", "application/json"), mismatch},
		{"another host", func(r *http.Request) { r.Host = "127.0.0.1:3001" }, mismatch},
		{"host without its port", func(r *http.Request) { r.Host = "127.0.0.1" }, mismatch},
		{"another method", func(r *http.Request) { r.Method = "PUT" }, mismatch},
		{"another path", func(r *http.Request) { r.URL.Path = "/orgs/other/actions/runners/remove-token" }, mismatch},
		{"the path escaped", func(r *http.Request) { r.URL.RawPath = strings.Replace(r.URL.Path, "acme", "%61cme", 1) },
			mismatch},
		{"a slash added", func(r *http.Request) { r.URL.Path += "/" }, mismatch},
		{"a query added", func(r *http.Request) { r.URL.RawQuery = "a=1" }, mismatch},
		{"a query with a semicolon added", func(r *http.Request) { r.URL.RawQuery = "a;b=1" }, mismatch},
		{"a malformed query", func(r *http.Request) { r.URL.RawQuery = "a=%zz" }, invalid + "the query is malformed"},
		{"another signature", flipLast, mismatch},
		{"the signature in upper case", func(r *http.Request) {
			a, signature, _ := strings.Cut(r.Header.Get("Authorization"), "Signature=")
			r.Header.Set("Authorization", a+"Signature="+strings.ToUpper(signature))
		}, mismatch},
		{"half a signature", func(r *http.Request) {
			a := r.Header["Authorization"]
			a[0] = a[0][:len(a[0])-32]
		}, mismatch},
		{"another secret", signAs(otherSecret, "eu-central-1", "execute-api"), mismatch},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := request(t, api, "", "Accept", "text/plain")
			sign(t, r, "", temporary)
			r = received(t, r, "")
			test.change(r)
			err := verifier(temporary).Verify(r, nil)
			if _, ok := errors.AsType[*sigv4.Error](err); !ok || !strings.HasPrefix(err.Error(), test.want) {
				t.Errorf("%v, want %s", err, test.want)
			}
		})
	}
}

func flipLast(r *http.Request) {
	a := []byte(r.Header.Get("Authorization"))
	if a[len(a)-1]++; a[len(a)-1] == '9'+1 {
		a[len(a)-1] = 'a'
	}
	r.Header.Set("Authorization", string(a))
}

func TestPayloadIsTheBody(t *testing.T) {
	t.Parallel()
	sum := func(s string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(s))) }
	const unsigned = "UNSIGNED-PAYLOAD"
	for _, test := range []struct {
		name     string
		hash     string // that is signed
		header   string // x-amz-content-sha256, signed
		unsigned string // the same, not signed
		accepted bool
	}{
		{"the body's", sum("b"), "", "", true},
		{"another body's, of the same length", sum("a"), "", "", false},
		{"signed header", sum("b"), sum("b"), "", true},
		{"signed header of another body", sum("a"), sum("a"), "", false},
		{"signed header of another body than is signed", sum("b"), sum("a"), "", false},
		{"signed header UNSIGNED-PAYLOAD", unsigned, unsigned, "", false},
		{"signed header UNSIGNED-PAYLOAD with the body's hash", sum("b"), unsigned, "", false},
		{"unsigned header", sum("b"), "", sum("b"), true},
		{"unsigned header of another body", sum("b"), "", sum("a"), true},
		{"unsigned header UNSIGNED-PAYLOAD", sum("b"), "", unsigned, true},
		{"unsigned header UNSIGNED-PAYLOAD, believed", unsigned, "", unsigned, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := request(t, api, "b")
			if test.header != "" {
				r.Header.Set("X-Amz-Content-Sha256", test.header)
			}
			err := v4.NewSigner().SignHTTP(t.Context(), permanent, r, test.hash, "execute-api", "eu-central-1", time.Now())
			if err != nil {
				t.Fatal(err)
			}
			if test.unsigned != "" {
				r.Header.Set("X-Amz-Content-Sha256", test.unsigned)
			}
			err = verifier(permanent).Verify(received(t, r, "b"), []byte("b"))
			if (err == nil) != test.accepted {
				t.Errorf("Verify = %v", err)
			}
		})
	}
}

func TestNoCredentialsAcceptNothing(t *testing.T) {
	t.Parallel()
	r := request(t, api, "")
	sign(t, r, "", aws.Credentials{})
	if err := verifier(aws.Credentials{}).Verify(r, nil); err == nil {
		t.Error("a request signed with empty credentials is accepted by a Verifier that has none")
	}
}

// TestCurlsSignatureIsAccepted runs the client that the users of make run paste.
func TestCurlsSignatureIsAccepted(t *testing.T) {
	t.Parallel()
	help, _ := exec.Command("curl", "--help", "all").Output()
	if !bytes.Contains(help, []byte("aws-sigv4")) {
		if os.Getenv("CI") == "true" {
			t.Fatal("curl with --aws-sigv4 (7.86 or later) is not on this machine")
		}
		t.Skip("NOT TESTED: curl with --aws-sigv4 (7.86 or later) is not on this machine")
	}
	otherSecret := aws.Credentials{AccessKeyID: permanent.AccessKeyID, SecretAccessKey: "x"}
	for _, test := range []struct {
		name           string
		server, client aws.Credentials
		args           []string
		want           bool
	}{
		{"empty body", permanent, permanent, []string{"-d", ""}, true},
		{"Content-Length 0", permanent, permanent, []string{"-d", "", "-H", "Content-Length: 0"}, true},
		{"no body", permanent, permanent, []string{"-X", "POST"}, true},
		{"chunks", permanent, permanent, []string{"-d", "x", "-H", "Transfer-Encoding: chunked"}, true},
		{"JSON", permanent, permanent, []string{"-d", `{"a":1}`, "-H", "Content-Type: application/json"}, true},
		{"Accept", permanent, permanent, []string{"-d", "", "-H", "Accept: text/plain"}, true},
		{"signs User-Agent", permanent, permanent, []string{"-d", "", "-H", "User-Agent: mine"}, true},
		{"session token", temporary, temporary,
			[]string{"-d", "", "-H", "x-amz-security-token: " + temporary.SessionToken}, true},
		{"no session token", temporary, temporary, []string{"-d", ""}, false},
		{"another secret", permanent, otherSecret, []string{"-d", ""}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			verdict := errors.New("no request came")
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				verdict = verifier(test.server).Verify(r, body)
			}))
			args := append([]string{"-sS", "-q", "--noproxy", "*", "--max-time", "20",
				"--aws-sigv4", "aws:amz:eu-central-1:execute-api",
				"--user", test.client.AccessKeyID + ":" + test.client.SecretAccessKey}, test.args...)
			args = append(args, server.URL+"/orgs/acme.x-y_z~/")
			out, err := exec.CommandContext(t.Context(), "curl", args...).CombinedOutput()
			server.Close()
			if err != nil {
				t.Fatalf("curl: %v: %s", err, out)
			}
			if (verdict == nil) != test.want {
				t.Errorf("Verify = %v", verdict)
			}
		})
	}
}
