package sigv4_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"runner-token-broker/internal/local/sigv4"
)

var (
	permanent = aws.Credentials{AccessKeyID: "AKIDEXAMPLE", SecretAccessKey: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"}
	temporary = aws.Credentials{AccessKeyID: "ASIAEXAMPLE", SecretAccessKey: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", SessionToken: "IQoJb3JpZ2luX2Vj//8="}
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

const api = "http://127.0.0.1:3000/orgs/acme/actions/runners/registration-token"

func TestSDKsSignatureIsAccepted(t *testing.T) {
	for name, test := range map[string]struct {
		c      aws.Credentials
		url    string
		body   string
		header []string
	}{
		"permanent":         {permanent, api, "", nil},
		"temporary":         {temporary, api, "", nil},
		"with a body":       {permanent, api, `{"a":1}`, []string{"Content-Type", "application/json"}},
		"more headers":      {temporary, api, "", []string{"Accept", "text/plain", "Accept", "a  b", "X-Amz-Target", "T"}},
		"unsigned headers":  {permanent, api, "", []string{"User-Agent", "test", "X-Amzn-Trace-Id", "Root=1"}},
		"a query":           {permanent, api + "?b=2&a=1&a=%20x&c", "", nil},
		"an escaped path":   {permanent, "http://127.0.0.1:3000/orgs/a%2Fb/%C3%A4%20", "", nil},
		"a default port":    {permanent, "http://localhost:80/orgs/acme", "", nil},
		"an unclean path":   {permanent, "http://localhost//orgs/../acme/", "", nil},
		"a forwarded token": {temporary, api, "x", []string{"X-Forwarded-For", "10.0.0.1"}},
	} {
		r := request(t, test.url, test.body, test.header...)
		if err := sigv4.Sign(r, []byte(test.body), test.c, "eu-central-1", "execute-api"); err != nil {
			t.Fatal(err)
		}
		if err := verifier(test.c).Verify(received(t, r, test.body), []byte(test.body)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAnythingElseIsRefused(t *testing.T) {
	replace := func(old, new string) func(*http.Request) {
		return func(r *http.Request) {
			r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), old, new, 1))
		}
	}
	set := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	signAs := func(c aws.Credentials, region, service string) func(*http.Request) {
		return func(r *http.Request) { sigv4.Sign(r, nil, c, region, service) }
	}
	for name, test := range map[string]struct {
		change func(*http.Request)
		code   string
	}{
		"unsigned":                     {func(r *http.Request) { r.Header = http.Header{} }, "MissingAuthenticationTokenException"},
		"another scheme":               {set("Authorization", "Bearer x"), "IncompleteSignatureException"},
		"Authorization twice":          {func(r *http.Request) { r.Header.Add("Authorization", r.Header.Get("Authorization")) }, "IncompleteSignatureException"},
		"Signature twice":              {replace("Signature=", "Signature=x, Signature="), "IncompleteSignatureException"},
		"no signed headers":            {replace("SignedHeaders=", "SignedFooters="), "IncompleteSignatureException"},
		"credential without a scope":   {replace("/aws4_request", ""), "IncompleteSignatureException"},
		"no date":                      {func(r *http.Request) { r.Header.Del("X-Amz-Date") }, "IncompleteSignatureException"},
		"date in words":                {set("X-Amz-Date", "Tue, 24 Nov 2026 00:00:00 GMT"), "IncompleteSignatureException"},
		"another terminator":           {replace("/aws4_request", "/aws5_request"), "InvalidSignatureException"},
		"another region":               {signAs(temporary, "us-east-1", "execute-api"), "InvalidSignatureException"},
		"another service":              {signAs(temporary, "eu-central-1", "secretsmanager"), "InvalidSignatureException"},
		"an unknown key":               {replace("ASIAEXAMPLE", "ASIAOTHER"), "UnrecognizedClientException"},
		"no session token":             {func(r *http.Request) { r.Header.Del("X-Amz-Security-Token") }, "UnrecognizedClientException"},
		"another session token":        {set("X-Amz-Security-Token", "IQoOther"), "UnrecognizedClientException"},
		"two session tokens":           {func(r *http.Request) { r.Header.Add("X-Amz-Security-Token", temporary.SessionToken) }, "UnrecognizedClientException"},
		"an unsigned session token":    {replace(";x-amz-security-token", ""), "InvalidSignatureException"},
		"an unsigned date":             {replace(";x-amz-date", ""), "InvalidSignatureException"},
		"an unsigned host":             {replace("host;", ""), "InvalidSignatureException"},
		"an x-amz- header added":       {set("X-Amz-Target", "T"), "InvalidSignatureException"},
		"a header signed but not sent": {func(r *http.Request) { r.Header.Del("Accept") }, "InvalidSignatureException"},
		"a signed header changed":      {set("Accept", "application/json"), "InvalidSignatureException"},
		"another host":                 {func(r *http.Request) { r.Host = "127.0.0.1:3001" }, "InvalidSignatureException"},
		"another method":               {func(r *http.Request) { r.Method = "PUT" }, "InvalidSignatureException"},
		"another path":                 {func(r *http.Request) { r.URL.Path = "/orgs/other/actions/runners/registration-token" }, "InvalidSignatureException"},
		"a query added":                {func(r *http.Request) { r.URL.RawQuery = "a=1" }, "InvalidSignatureException"},
		"a malformed query added":      {func(r *http.Request) { r.URL.RawQuery = "a;b=1" }, "InvalidSignatureException"},
		"another signature":            {func(r *http.Request) { flipLast(r) }, "InvalidSignatureException"},
		"half a signature":             {func(r *http.Request) { a := r.Header["Authorization"]; a[0] = a[0][:len(a[0])-32] }, "InvalidSignatureException"},
		"another secret": {signAs(aws.Credentials{AccessKeyID: temporary.AccessKeyID, SecretAccessKey: "other", SessionToken: temporary.SessionToken},
			"eu-central-1", "execute-api"), "InvalidSignatureException"},
	} {
		r := request(t, api, "", "Accept", "text/plain")
		if err := sigv4.Sign(r, nil, temporary, "eu-central-1", "execute-api"); err != nil {
			t.Fatal(err)
		}
		test.change(r)
		err := verifier(temporary).Verify(r, nil)
		if e, ok := errors.AsType[*sigv4.Error](err); !ok || e.Code != test.code {
			t.Errorf("%s: %v, want %s", name, err, test.code)
		}
	}
}

func flipLast(r *http.Request) {
	a := []byte(r.Header.Get("Authorization"))
	if a[len(a)-1]++; a[len(a)-1] == '9'+1 {
		a[len(a)-1] = 'a'
	}
	r.Header.Set("Authorization", string(a))
}

func TestBodyIsSigned(t *testing.T) {
	r := request(t, api, "a")
	if err := sigv4.Sign(r, []byte("a"), permanent, "eu-central-1", "execute-api"); err != nil {
		t.Fatal(err)
	}
	if err := verifier(permanent).Verify(received(t, r, "b"), []byte("b")); err == nil {
		t.Error("another body of the same length is accepted")
	}
	r = request(t, api, "")
	r.Header.Set("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD")
	if err := sigv4.Sign(r, nil, permanent, "eu-central-1", "execute-api"); err != nil {
		t.Fatal(err)
	}
	if err := verifier(permanent).Verify(received(t, r, "b"), []byte("b")); err == nil {
		t.Error("UNSIGNED-PAYLOAD is accepted")
	}
}

func TestNoCredentialsAcceptNothing(t *testing.T) {
	r := request(t, api, "")
	if err := sigv4.Sign(r, nil, aws.Credentials{}, "eu-central-1", "execute-api"); err != nil {
		t.Fatal(err)
	}
	if err := verifier(aws.Credentials{}).Verify(r, nil); err == nil {
		t.Error("a request signed with empty credentials is accepted by a Verifier that has none")
	}
}

func TestSignatureLastsFiveMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := request(t, api, "")
		if err := sigv4.Sign(r, nil, permanent, "eu-central-1", "execute-api"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
		if err := verifier(permanent).Verify(r, nil); err != nil {
			t.Errorf("after five minutes: %v", err)
		}
		time.Sleep(time.Second)
		if err := verifier(permanent).Verify(r, nil); err == nil {
			t.Error("after more than five minutes the signature is still accepted")
		}
	})
}

// TestCurlsSignatureIsAccepted runs the client that the users of make run paste.
func TestCurlsSignatureIsAccepted(t *testing.T) {
	help, _ := exec.Command("curl", "--help", "all").Output()
	if !bytes.Contains(help, []byte("aws-sigv4")) {
		if os.Getenv("CI") == "true" {
			t.Fatal("curl with --aws-sigv4 (7.86 or later) is not on this machine")
		}
		t.Skip("curl with --aws-sigv4 (7.86 or later) is not on this machine")
	}
	for name, test := range map[string]struct {
		server, client aws.Credentials
		args           []string
		want           bool
	}{
		"empty body":       {permanent, permanent, []string{"-d", ""}, true},
		"no body":          {permanent, permanent, []string{"-X", "POST"}, true},
		"JSON":             {permanent, permanent, []string{"-d", `{"a":1}`, "-H", "Content-Type: application/json"}, true},
		"Accept":           {permanent, permanent, []string{"-d", "", "-H", "Accept: text/plain"}, true},
		"signs User-Agent": {permanent, permanent, []string{"-d", "", "-H", "User-Agent: mine"}, true},
		"session token":    {temporary, temporary, []string{"-d", "", "-H", "x-amz-security-token: " + temporary.SessionToken}, true},
		"no session token": {temporary, temporary, []string{"-d", ""}, false},
		"another secret":   {permanent, aws.Credentials{AccessKeyID: permanent.AccessKeyID, SecretAccessKey: "x"}, []string{"-d", ""}, false},
	} {
		t.Run(name, func(t *testing.T) {
			verdict := errors.New("no request came")
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				verdict = verifier(test.server).Verify(r, body)
			}))
			args := []string{"-sS", "-q", "--noproxy", "*", "--max-time", "20", "--aws-sigv4", "aws:amz:eu-central-1:execute-api",
				"--user", test.client.AccessKeyID + ":" + test.client.SecretAccessKey}
			args = append(args, test.args...)
			out, err := exec.CommandContext(t.Context(), "curl", append(args, server.URL+"/orgs/acme.x-y_z~/")...).CombinedOutput()
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
