package secretsmanager

import (
	"context"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"runner-token-broker/internal/local/network"
	standin "runner-token-broker/internal/local/secretsmanager"
	"runner-token-broker/internal/runner"
	"runner-token-broker/internal/secret"
)

const pat = "ghp_thisMustNotBeSeen"

// newSecret returns the secret "pat" of a Secrets Manager, read with the real SDK.
func newSecret(t *testing.T) (*Secret, *standin.Server) {
	t.Helper()
	credentials := aws.Credentials{AccessKeyID: "AKIDEXAMPLE", SecretAccessKey: "test", SessionToken: "session"}
	stand := standin.New("eu-central-1", credentials)
	srv := httptest.NewServer(stand)
	t.Cleanup(srv.Close)
	return New(secretsmanager.New(secretsmanager.Options{
		Region:       "eu-central-1",
		BaseEndpoint: &srv.URL,
		Credentials:  aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return credentials, nil }),
		Retryer:      aws.NopRetryer{},
	}), "pat"), stand
}

func TestSecretIsATokenOrJSONWithOne(t *testing.T) {
	s, stand := newSecret(t)
	for _, text := range []string{
		pat, " \t" + pat + "\r\n", `{"token":"` + pat + `"}`, "\n" + `{"other":1,"token":" ` + pat + `\n","Token":"no"}` + "\n",
	} {
		stand.Put("pat", secret.New(text))
		if v, err := s.Fetch(t.Context()); err != nil || v.Reveal() != pat {
			t.Errorf("%q: %q, %v", text, v.Reveal(), err)
		}
	}
	jwt := "ghs_123_eyJhbGciOi.eyJpc3Mi-_.c2ln"
	stand.Put("pat", secret.New(jwt))
	if v, err := s.Fetch(t.Context()); err != nil || v.Reveal() != jwt {
		t.Errorf("an installation token: %q, %v", v.Reveal(), err)
	}
}

func TestUnusableSecretIsCredentialMissingAndNotQuoted(t *testing.T) {
	s, stand := newSecret(t)
	for text, says := range map[string]string{
		" \n":                           "is empty",
		"{}":                            `is JSON without a string "token"`,
		`{"Token":"` + pat + `"}`:       `is JSON without a string "token"`,
		`{"token":""}`:                  "is empty",
		`{"token":null}`:                "is empty",
		`{"token":{"x":"` + pat + `"}}`: `is JSON without a string "token"`,
		`{"token":"` + pat:              "neither a token nor JSON",
		`{"token":"` + pat + `\u0000"}`: "has characters",
		`"` + pat + `"`:                 "has characters",
		pat + "\n" + pat:                "has characters",
		pat + "\r\nX-Evil: 1":           "has characters",
		pat + "\x7f":                    "has characters",
		pat + " # comment":              "has characters",
		pat + "é":                       "has characters",
		"-----BEGIN RSA PRIVATE KEY-----\n" + pat + "\n-----END RSA PRIVATE KEY-----\n": "is a private key",
	} {
		stand.Put("pat", secret.New(text))
		refused(t, s, runner.CredentialMissing, says)
	}
	stand.PutBinary("pat", []byte(pat))
	refused(t, s, runner.CredentialMissing, "is binary")
}

func refused(t *testing.T, s *Secret, code runner.Code, says string) {
	t.Helper()
	v, err := s.Fetch(t.Context())
	e := runner.AsError(err)
	if err == nil || e.Code != code || !strings.Contains(e.Error(), says) || !v.IsZero() {
		t.Errorf("Fetch = %v, want %s: %s", err, code, says)
	}
	if strings.Contains(e.Error(), pat) || strings.Contains(e.Message, "AWS") || strings.Contains(e.Message, "arn:") {
		t.Errorf("the error tells too much: %v; to the caller %q", err, e.Message)
	}
}

func TestRefusalsOfSecretsManagerAreClassified(t *testing.T) {
	s, stand := newSecret(t)
	refused(t, s, runner.CredentialMissing, "create the secret")
	stand.PutNothing("pat")
	refused(t, s, runner.CredentialMissing, "put a value into it")
	stand.Put("pat", secret.New(pat))
	stand.ScheduleDeletion("pat")
	refused(t, s, runner.CredentialMissing, "restore it")
	for _, test := range []struct {
		fault standin.Answer
		code  runner.Code
		says  string
	}{
		{standin.AccessDenied, runner.CredentialMissing, "secretsmanager:GetSecretValue"},
		{standin.KMSDenied, runner.CredentialMissing, "kms:Decrypt"},
		{standin.DecryptionFailure, runner.CredentialMissing, "kms:Decrypt"},
		{standin.Answer{Status: 400, Code: "UnrecognizedClientException"}, runner.CredentialMissing, "the function's role"},
		{standin.Throttled, runner.Unavailable, "Rate exceeded"},
		{standin.Answer{Status: 429, Code: "Other"}, runner.Unavailable, "429"},
		{standin.InternalError, runner.Unavailable, "500"},
		{standin.Down, runner.Unavailable, "503"},
		{standin.Answer{Fault: network.Reset}, runner.Unavailable, ""},
	} {
		stand.OnRead(func(string) *standin.Answer { return &test.fault })
		refused(t, s, test.code, test.says)
	}
}

func TestSlowSecretsManagerIsWaitedForAndAHangingOneIsNot(t *testing.T) {
	s, stand := newSecret(t)
	stand.Put("pat", secret.New(pat))
	stand.OnRead(func(string) *standin.Answer { return &standin.Answer{Delay: 50 * time.Millisecond} })
	if v, err := s.Fetch(t.Context()); err != nil || v.Reveal() != pat {
		t.Errorf("slow: %v", err)
	}
	stand.OnRead(func(string) *standin.Answer { return &standin.Answer{Fault: network.Hang} })
	start := time.Now()
	refused(t, s, runner.Unavailable, "")
	if took := time.Since(start); took < 4*time.Second || took > 10*time.Second {
		t.Errorf("gave up after %v, want 5 s", took)
	}
}
