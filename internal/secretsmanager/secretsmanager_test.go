package secretsmanager

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"runner-token-broker/internal/local/network"
	standin "runner-token-broker/internal/local/secretsmanager"
	"runner-token-broker/internal/runner"
	"runner-token-broker/internal/secret"
)

const pat = "ghp_thisMustNotBeSeen"

var credentials = aws.Credentials{AccessKeyID: "AKIDEXAMPLE", SecretAccessKey: "test", SessionToken: "session"}

// newSecret returns the secret "pat" of a Secrets Manager, read with the real SDK.
func newSecret(t *testing.T) (*Secret, *standin.Server) {
	t.Helper()
	stand := standin.New("eu-central-1", credentials)
	srv := httptest.NewServer(stand)
	t.Cleanup(srv.Close)
	return newSecretAt(srv.URL, nil), stand
}

func newSecretAt(url string, client secretsmanager.HTTPClient) *Secret {
	return New(secretsmanager.New(secretsmanager.Options{
		Region:       "eu-central-1",
		BaseEndpoint: &url,
		HTTPClient:   client,
		Credentials:  aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return credentials, nil }),
		Retryer:      aws.NopRetryer{},
	}), "pat")
}

func TestTheSecretsStringIsReadAsItIs(t *testing.T) {
	t.Parallel()
	s, stand := newSecret(t)
	for _, text := range []string{pat, " " + pat + "\n", `{"token":"x"}`, "", "\ufeffx"} {
		stand.Put("pat", secret.New(text))
		if v, err := s.Fetch(t.Context()); err != nil || v.Reveal() != text {
			t.Errorf("%q: %q, %v", text, v.Reveal(), err)
		}
	}
	stand.PutBinary("pat", []byte(pat))
	refused(t, s, runner.CredentialMissing, "secret-malformed", "is binary")
}

func refused(t *testing.T, s *Secret, code runner.Code, cause, says string) {
	t.Helper()
	v, err := s.Fetch(t.Context())
	e := runner.AsError(err)
	if err == nil || e.Code != code || e.Cause != cause || !strings.Contains(e.Error(), says) || !v.IsZero() {
		t.Errorf("Fetch = %v, cause %q, want %s, %q: %s", err, e.Cause, code, cause, says)
	}
	if strings.Contains(e.Error(), pat) || strings.Contains(e.Message, "AWS") || strings.Contains(e.Message, "arn:") {
		t.Errorf("the error tells too much: %v; to the caller %q", err, e.Message)
	}
}

func TestAbsentSecretsAreMissing(t *testing.T) {
	t.Parallel()
	s, stand := newSecret(t)
	refused(t, s, runner.CredentialMissing, "secret-missing", "create the secret")
	stand.PutNothing("pat")
	refused(t, s, runner.CredentialMissing, "secret-missing", "put a value into it")
	stand.Put("pat", secret.New(pat))
	stand.ScheduleDeletion("pat")
	refused(t, s, runner.CredentialMissing, "secret-missing", "restore it")
}

func TestRefusalsOfSecretsManagerAreClassified(t *testing.T) {
	t.Parallel()
	const missing, down = runner.CredentialMissing, runner.Unavailable
	for name, test := range map[string]struct {
		answer standin.Answer
		code   runner.Code
		cause  string
		says   string
	}{
		"access denied":      {standin.AccessDenied, missing, "secret-denied", "secretsmanager:GetSecretValue"},
		"not the full ARN":   {standin.AccessDenied, missing, "secret-denied", "Is the ARN the full one?"},
		"KMS denied":         {standin.KMSDenied, missing, "secret-denied", "kms:Decrypt"},
		"decryption failure": {standin.DecryptionFailure, missing, "secret-denied", "kms:Decrypt"},
		"unknown client": {standin.Answer{Status: 400, Code: "UnrecognizedClientException"}, missing, "secret-unreadable",
			"the function's role"},
		"throttled":      {standin.Throttled, down, "secrets-manager-unavailable", "Rate exceeded"},
		"429":            {standin.Answer{Status: 429, Code: "Other"}, down, "secrets-manager-unavailable", "429"},
		"internal error": {standin.InternalError, down, "secrets-manager-unavailable", "500"},
		"down":           {standin.Down, down, "secrets-manager-unavailable", "503"},
		"request timeout": {standin.Answer{Status: 400, Code: "RequestTimeout"}, down, "secrets-manager-unavailable",
			"RequestTimeout"},
		"request timeout, long": {standin.Answer{Status: 400, Code: "RequestTimeoutException"}, down,
			"secrets-manager-unavailable", ""},
		"dropped": {standin.Answer{Fault: network.Reset}, down, "network", "VPC"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, stand := newSecret(t)
			stand.OnRead(func(string) *standin.Answer { return &test.answer })
			refused(t, s, test.code, test.cause, test.says)
		})
	}
}

// The SDK's error of such an answer may quote it.
func TestAnAnswerThatIsNotSecretsManagersIsNotQuoted(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		status int
		body   string
		cause  string
	}{
		"a number for a string":    {200, `{"SecretString":["` + pat + `"]}`, "not-secrets-manager"},
		"half a JSON":              {200, `{"SecretString":"` + pat, "not-secrets-manager"},
		"not JSON":                 {200, pat, "not-secrets-manager"},
		"HTML":                     {200, "<html>" + pat, "not-secrets-manager"},
		"nothing":                  {200, "", "not-secrets-manager"},
		"no secret":                {200, "{}", "not-secrets-manager"},
		"a middlebox's 403":        {403, "<html>" + pat, "not-secrets-manager"},
		"a middlebox's empty 403":  {403, "", "not-secrets-manager"},
		"a login page":             {302, "", "not-secrets-manager"},
		"a proxy without password": {407, "", "not-secrets-manager"},
		"a balancer's 503":         {503, "<html>", "secrets-manager-unavailable"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(test.status)
				io.WriteString(w, test.body)
			}))
			t.Cleanup(srv.Close)
			refused(t, newSecretAt(srv.URL, nil), runner.Unavailable, test.cause, "Secrets Manager")
		})
	}
}

func TestASlowAnswerIsWaitedFor(t *testing.T) {
	t.Parallel()
	s, stand := newSecret(t)
	stand.Put("pat", secret.New(pat))
	stand.OnRead(func(string) *standin.Answer { return &standin.Answer{Delay: 50 * time.Millisecond} })
	if v, err := s.Fetch(t.Context()); err != nil || v.Reveal() != pat {
		t.Errorf("%v", err)
	}
}

// hanging is a network on which nobody answers.
type hanging struct{}

func (hanging) Do(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// cutOff is a network on which the connection breaks in the middle of an answer.
type cutOff struct{}

func (cutOff) Do(*http.Request) (*http.Response, error) {
	reset := &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(iotest.ErrReader(reset))}, nil
}

func TestAConnectionThatBreaksIsTheNetworksFault(t *testing.T) {
	t.Parallel()
	refused(t, newSecretAt("https://127.0.0.1", cutOff{}), runner.Unavailable, "network", "reset by peer")
}

func TestTheErrorSaysWhichSecretItIs(t *testing.T) {
	t.Parallel()
	s, _ := newSecret(t)
	_, read := s.Fetch(t.Context())
	for _, err := range []error{read, s.Put(t.Context(), secret.New("x"))} {
		if err == nil || !strings.Contains(err.Error(), "Secrets Manager (pat) answered 400") {
			t.Errorf("%v", err)
		}
	}
}

func TestAnAnswerThatDoesNotComeIsNotWaitedForLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		refused(t, newSecretAt("https://127.0.0.1", hanging{}), runner.Unavailable, "timeout", "NAT gateway")
		if took := time.Since(start); took != 5*time.Second {
			t.Errorf("gave up after %v, want 5 s", took)
		}
	})
}
