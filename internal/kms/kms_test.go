package kms

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"

	standin "runner-token-broker/internal/local/kms"
	"runner-token-broker/internal/local/network"
	"runner-token-broker/internal/runner"
)

var credentials = aws.Credentials{AccessKeyID: "AKIDEXAMPLE", SecretAccessKey: "test"}

// newSigner returns a Signer that asks the server, with the real SDK.
func newSigner(t *testing.T, server http.Handler) *Signer {
	t.Helper()
	listener := httptest.NewServer(server)
	t.Cleanup(listener.Close)
	return New(aws.Config{
		Region: "eu-central-1", BaseEndpoint: &listener.URL,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return credentials, nil }),
		Retryer:     func() aws.Retryer { return aws.NopRetryer{} },
	})
}

func TestRefusalsOfKMSAreClassified(t *testing.T) {
	t.Parallel()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	const missing, down = runner.CredentialMissing, runner.Unavailable
	for _, test := range []struct {
		name   string
		answer standin.Answer
		code   runner.Code
		cause  string
		says   string
	}{
		{"access denied", standin.AccessDenied, missing, "kms-denied", "kms:Sign"},
		{"no such key", standin.Answer{Status: 400, Code: "NotFoundException"}, missing, "kms-key-missing", "kms_key_id"},
		{"disabled", standin.Answer{Status: 400, Code: "DisabledException"}, missing, "kms-key-disabled", "enable"},
		{"its state", standin.Answer{Status: 400, Code: "KMSInvalidStateException"}, missing, "kms-key-unusable", "import"},
		{"for encryption", standin.Answer{Status: 400, Code: "InvalidKeyUsageException"}, missing, "kms-key-wrong-kind", ""},
		{"not RSA", standin.Answer{Status: 400, Code: "ValidationException"}, missing, "kms-key-wrong-kind", "RSA_2048"},
		{"cannot sign", standin.Answer{Status: 400, Code: "UnsupportedOperationException"}, missing,
			"kms-key-wrong-kind", ""},
		{"unknown client", standin.Answer{Status: 400, Code: "UnrecognizedClientException"}, missing, "kms-refused", "role"},
		{"throttled", standin.Throttled, down, "kms-unavailable", "Rate exceeded"},
		{"429", standin.Answer{Status: 429, Code: "Other"}, down, "kms-unavailable", "429"},
		{"key unavailable", standin.Unavailable, down, "kms-unavailable", "500"},
		{"internal error", standin.InternalError, down, "kms-unavailable", "500"},
		{"timed out", standin.TimedOut, down, "kms-unavailable", "503"},
		{"down", standin.Down, down, "kms-unavailable", "503"},
		{"request timeout", standin.Answer{Status: 400, Code: "RequestTimeout"}, down, "kms-unavailable", ""},
		{"dropped", standin.Answer{Fault: network.Reset}, down, "network", "no answer from AWS KMS"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			server := standin.New("eu-central-1", credentials)
			arn := server.Put("alias/app", standin.Key{Private: private})
			signer := newSigner(t, server)
			if _, err := signer.Sign(t.Context(), arn, []byte("x")); err != nil {
				t.Fatalf("before the refusal: %v", err)
			}
			server.OnSign(func(string) *standin.Answer { return &test.answer })
			_, err := signer.Sign(t.Context(), arn, []byte("x"))
			e := runner.AsError(err)
			if err == nil || e.Code != test.code || e.Cause != test.cause || !strings.Contains(e.Error(), test.says) {
				t.Errorf("Sign = %v, cause %q, want %s, %q: %s", err, e.Cause, test.code, test.cause, test.says)
			}
		})
	}
}

// The SDK's error of such an answer may quote it.
func TestAnAnswerThatIsNotKMSsIsNotQuoted(t *testing.T) {
	t.Parallel()
	const foreign = "thisMustNotBeSeen"
	for name, test := range map[string]struct {
		status int
		body   string
		cause  string
	}{
		"a number for a signature": {200, `{"Signature":["` + foreign + `"]}`, "not-kms"},
		"half a JSON":              {200, `{"Signature":"` + foreign, "not-kms"},
		"HTML":                     {200, "<html>" + foreign, "not-kms"},
		"nothing":                  {200, "", "not-kms"},
		"no signature":             {200, "{}", "not-kms"},
		"a middlebox's 403":        {403, "<html>" + foreign, "not-kms"},
		"a middlebox's empty 403":  {403, "", "not-kms"},
		"a login page":             {302, "", "not-kms"},
		"a proxy without password": {407, "", "not-kms"},
		"a balancer's 503":         {503, "<html>" + foreign, "kms-unavailable"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := newSigner(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(test.status)
				io.WriteString(w, test.body)
			})).Sign(t.Context(), "alias/app", []byte("x"))
			e := runner.AsError(err)
			if e.Code != runner.Unavailable || e.Cause != test.cause || !strings.Contains(e.Error(), "AWS KMS") ||
				strings.Contains(e.Error(), foreign) {
				t.Errorf("Sign = %v, cause %q, want %q", err, e.Cause, test.cause)
			}
		})
	}
}
