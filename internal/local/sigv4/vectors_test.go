package sigv4_test

import (
	"bufio"
	"encoding/json"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// vector is a request that a signer signed at 00:03:04, on the day on which synctest's clock starts.
type vector struct {
	Name    string
	Request []string // the first line and the headers
	Body    string
}

var signers = []string{"botocore", "aws4", "smithy"}

// vectors are what the signer made of testdata/cases.json.
func vectors(t *testing.T, signer string) []vector {
	t.Helper()
	text, err := os.ReadFile("testdata/" + signer + ".json")
	if err != nil {
		t.Fatal(err)
	}
	var all []vector
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

func find(t *testing.T, signer, name string) vector {
	t.Helper()
	for _, v := range vectors(t, signer) {
		if v.Name == name {
			return v
		}
	}
	t.Fatalf("%s has no vector %q", signer, name)
	return vector{}
}

// with returns the vector with its lines changed.
func (v vector) with(f func(lines []string)) vector {
	v.Request = slices.Clone(v.Request)
	f(v.Request)
	return v
}

// verify is for a synctest bubble.
func (v vector) verify(t *testing.T, secret string) error {
	t.Helper()
	lines := v.Request
	if !slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, "Content-Length:") }) {
		lines = append(slices.Clone(lines), "Content-Length: "+strconv.Itoa(len(v.Body))) // as clients do
	}
	text := strings.Join(lines, "\r\n") + "\r\n\r\n" + v.Body
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text)))
	if err != nil {
		t.Fatal(err)
	}
	c := aws.Credentials{AccessKeyID: "AKIDEXAMPLE", SecretAccessKey: secret}
	if strings.Contains(text, "ASIAEXAMPLE") {
		c.AccessKeyID, c.SessionToken = "ASIAEXAMPLE", "IQoJb3JpZ2luX2Vj//8="
	}
	return verifier(c).Verify(r, []byte(v.Body))
}

const secret = "secret/+EXAMPLE"

func TestOtherSignersAreAccepted(t *testing.T) {
	t.Parallel()
	for _, signer := range signers {
		all := vectors(t, signer)
		if len(all) < 11 {
			t.Errorf("%s has %d vectors only", signer, len(all))
		}
		for _, v := range all {
			t.Run(signer+"/"+v.Name, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					if err := v.verify(t, secret); err != nil {
						t.Error(err)
					}
					if err := v.verify(t, "another"); err == nil {
						t.Error("with another secret it is accepted, too")
					}
				})
			})
		}
	}
}

func TestWhatMayChangeOnTheWay(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, vector string
		change       func(lines []string)
	}{
		{"the order of headers", "spaces in headers", func(lines []string) { slices.Reverse(lines[2:]) }},
		{"a header is folded", "spaces in headers", func(lines []string) {
			lines[2] = strings.Replace(lines[2], "text/plain;   q=1", "text/plain;\r\n\tq=1 ", 1)
		}},
		{"the order and the encoding of the query", "a query", func(lines []string) {
			lines[0] = "POST /orgs/acme?c&a-b=%2f%2B&a=+~y&a=x&b=2 HTTP/1.1"
		}},
	} {
		for _, signer := range signers {
			t.Run(test.name+"/"+signer, func(t *testing.T) {
				t.Parallel()
				v := find(t, signer, test.vector)
				changed := v.with(test.change)
				if slices.Equal(v.Request, changed.Request) {
					t.Fatal("nothing is changed")
				}
				synctest.Test(t, func(t *testing.T) {
					if err := changed.verify(t, secret); err != nil {
						t.Error(err)
					}
				})
			})
		}
	}
}

// The SDK for Go signs an unclean path as it is, and AWS refuses that.
func TestUncleanPathIsSignedClean(t *testing.T) {
	t.Parallel()
	r := request(t, "http://localhost//orgs/../acme/", "")
	sign(t, r, "", permanent)
	if err := verifier(permanent).Verify(received(t, r, ""), nil); err == nil {
		t.Error("the path is accepted as it is")
	}
}

func TestPresignedIsRefusedWithAnyChange(t *testing.T) {
	t.Parallel()
	const (
		incomplete = "IncompleteSignatureException: "
		unknown    = "UnrecognizedClientException: "
		invalid    = "InvalidSignatureException: "
		mismatch   = invalid + "the signature does not match"
		token      = "&X-Amz-Security-Token=IQoJb3JpZ2luX2Vj%2F%2F8%3D"
		expires    = "X-Amz-Expires=3600"
	)
	for _, test := range []struct {
		name    string
		replace []string // old, new, old, new
		want    string
	}{
		{"another path", []string{"/orgs/acme", "/orgs/other"}, mismatch},
		{"another query", []string{"b=2", "b=3"}, mismatch},
		{"a query added", []string{"b=2", "b=2&d=4"}, mismatch},
		{"a longer life", []string{expires, "X-Amz-Expires=7200"}, mismatch},
		{"a life of no time", []string{expires, "X-Amz-Expires=0"}, incomplete + "X-Amz-Expires"},
		{"a life of more than a week", []string{expires, "X-Amz-Expires=604801"}, incomplete + "X-Amz-Expires"},
		{"a life in words", []string{expires, "X-Amz-Expires=long"}, incomplete + "X-Amz-Expires"},
		{"no session token", []string{token, ""}, unknown + "the session token"},
		{"another session token", []string{token, "&X-Amz-Security-Token=IQoOther"}, unknown + "the session token"},
		{"the session token in a header", []string{token, "",
			" HTTP/1.1", " HTTP/1.1\r\nX-Amz-Security-Token: IQoJb3JpZ2luX2Vj//8="}, unknown + "the session token"},
		{"another algorithm", []string{"AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256"}, incomplete + "X-Amz-Algorithm"},
		{"no algorithm", []string{"X-Amz-Algorithm=", "X-Mine="}, incomplete + "X-Amz-Algorithm"},
		{"another day", []string{"X-Amz-Date=20000101T", "X-Amz-Date=19991231T"}, invalid + "it was signed for"},
		{"no date", []string{"X-Amz-Date=", "X-Mine="}, incomplete + "X-Amz-Date"},
		{"no scope", []string{"%2Faws4_request", ""}, incomplete + "X-Amz-Credential"},
		{"no signature", []string{"X-Amz-Signature=", "X-Mine="}, incomplete + "X-Amz-Signature"},
		{"two signatures", []string{"b=2", "X-Amz-Signature=x"}, incomplete + "there is more than one"},
		{"an Authorization header", []string{" HTTP/1.1", " HTTP/1.1\r\nAuthorization: x"},
			incomplete + "there is more than one"},
		{"an x-amz- header", []string{" HTTP/1.1", " HTTP/1.1\r\nX-Amz-Target: x"},
			invalid + "header x-amz-target is not signed"},
		{"no host", []string{"X-Amz-SignedHeaders=host", "X-Amz-SignedHeaders=date"}, invalid + "header host is not signed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			v := find(t, "botocore", "presigned with a session token").with(func(lines []string) {
				lines[0] = strings.NewReplacer(test.replace...).Replace(lines[0])
			})
			synctest.Test(t, func(t *testing.T) {
				if err := v.verify(t, secret); err == nil || !strings.HasPrefix(err.Error(), test.want) {
					t.Errorf("%v, want %s", err, test.want)
				}
			})
		})
	}
}

func TestHowLongASignatureIsValid(t *testing.T) {
	t.Parallel()
	const skew = 5 * time.Minute
	for _, test := range []struct {
		name    string
		expires string // of a presigned request; "none": it has no X-Amz-Expires
		age     time.Duration
		want    bool
	}{
		{"a clock ahead", "", -skew, true},
		{"a clock too far ahead", "", -skew - time.Second, false},
		{"old", "", skew, true},
		{"too old", "", skew + time.Second, false},
		{"presigned, a clock too far ahead", "3600", -skew - time.Second, false},
		{"presigned, old", "3600", time.Hour, true},
		{"presigned, too old", "3600", time.Hour + time.Second, false},
		{"presigned for a week", "604800", 7 * 24 * time.Hour, true},
		{"presigned without a life", "none", skew, true},
		{"presigned without a life, too old", "none", skew + time.Second, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := request(t, api, "")
				if test.expires != "" && test.expires != "none" {
					r.URL.RawQuery = "X-Amz-Expires=" + test.expires
				}
				const nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
				signer, signed := v4.NewSigner(), time.Now().Add(-test.age)
				var err error
				if test.expires == "" {
					err = signer.SignHTTP(t.Context(), temporary, r, nothing, "execute-api", "eu-central-1", signed)
				} else {
					var target string
					target, _, err = signer.PresignHTTP(t.Context(), temporary, r, nothing, "execute-api",
						"eu-central-1", signed)
					r = request(t, target, "")
				}
				if err != nil {
					t.Fatal(err)
				}
				err = verifier(temporary).Verify(received(t, r, ""), nil)
				if (err == nil) != test.want {
					t.Errorf("Verify = %v", err)
				}
			})
		})
	}
}
