package secretsmanager_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"
	"github.com/aws/smithy-go"

	"runner-token-broker/internal/local/secretsmanager"
	"runner-token-broker/internal/secret"
)

var credentials = aws.Credentials{AccessKeyID: "AKID", SecretAccessKey: "SECRET", SessionToken: "SESSION"}

// start returns the stand-in and the SDK's own client of it.
func start(t *testing.T) (*secretsmanager.Server, func(aws.Credentials) *sdk.Client) {
	t.Helper()
	sm := secretsmanager.New("eu-central-1", credentials)
	server := httptest.NewServer(sm)
	t.Cleanup(server.Close)
	return sm, func(c aws.Credentials) *sdk.Client {
		return sdk.New(sdk.Options{
			Region:       "eu-central-1",
			BaseEndpoint: aws.String(server.URL),
			Retryer:      aws.NopRetryer{},
			HTTPClient:   server.Client(),
			Credentials:  aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return c, nil }),
		})
	}
}

func get(t *testing.T, c *sdk.Client, id string) (*sdk.GetSecretValueOutput, error) {
	t.Helper()
	return c.GetSecretValue(t.Context(), &sdk.GetSecretValueInput{SecretId: &id})
}

func TestValueIsRead(t *testing.T) {
	sm, client := start(t)
	arn := sm.Put("local/github-pat", secret.New("one"))
	for _, id := range []string{"local/github-pat", arn} {
		out, err := get(t, client(credentials), id)
		if err != nil {
			t.Fatal(err)
		}
		if aws.ToString(out.SecretString) != "one" || out.SecretBinary != nil || aws.ToString(out.ARN) != arn || aws.ToString(out.Name) != "local/github-pat" {
			t.Errorf("%s: not the value that was put", id)
		}
		if since := time.Since(aws.ToTime(out.CreatedDate)); since < -time.Second || since > time.Minute {
			t.Errorf("%s: CreatedDate is %s ago", id, since)
		}
	}
	if again := sm.Put("local/github-pat", secret.New("two")); again != arn {
		t.Errorf("rotation changed the ARN from %s to %s", arn, again)
	}
	if out, err := get(t, client(credentials), arn); err != nil || aws.ToString(out.SecretString) != "two" {
		t.Errorf("after rotation: %v, want the new value", err)
	}
	sm.PutBinary("local/github-pat", []byte("\x00\xff"))
	if out, err := get(t, client(credentials), arn); err != nil || out.SecretString != nil || string(out.SecretBinary) != "\x00\xff" {
		t.Errorf("binary: %v, want SecretBinary alone", err)
	}
	if n := sm.Reads(); n != 4 {
		t.Errorf("Reads = %d, want 4", n)
	}
}

func TestMissingValuesAreAWSs(t *testing.T) {
	sm, client := start(t)
	sm.PutNothing("empty")
	sm.Put("leaving", secret.New("x"))
	sm.ScheduleDeletion("leaving")
	sm.Put("gone", secret.New("x"))
	sm.Delete("gone")

	for id, want := range map[string]string{
		"none":    "Secrets Manager can't find the specified secret.",
		"gone":    "Secrets Manager can't find the specified secret.",
		"empty":   "Secrets Manager can't find the specified secret value for staging label: AWSCURRENT",
		"leaving": "You can't perform this operation on the secret because it was marked for deletion.",
	} {
		_, err := get(t, client(credentials), id)
		_, notFound := errors.AsType[*types.ResourceNotFoundException](err)
		_, invalid := errors.AsType[*types.InvalidRequestException](err)
		if err == nil || !strings.Contains(err.Error(), want) || invalid != (id == "leaving") || notFound == invalid {
			t.Errorf("%s: %v, want %q", id, err, want)
		}
	}
	sm.Put("leaving", secret.New("y"))
	if _, err := get(t, client(credentials), "leaving"); err != nil {
		t.Errorf("restored: %v", err)
	}
}

func TestOnlyTheOwnerReads(t *testing.T) {
	sm, client := start(t)
	sm.Put("s", secret.New("ghp_secret"))
	for name, test := range map[string]struct {
		c    aws.Credentials
		code string
	}{
		"another key":      {aws.Credentials{AccessKeyID: "OTHER", SecretAccessKey: "SECRET", SessionToken: "SESSION"}, "UnrecognizedClientException"},
		"another secret":   {aws.Credentials{AccessKeyID: "AKID", SecretAccessKey: "OTHER", SessionToken: "SESSION"}, "InvalidSignatureException"},
		"no session token": {aws.Credentials{AccessKeyID: "AKID", SecretAccessKey: "SECRET"}, "UnrecognizedClientException"},
	} {
		_, err := get(t, client(test.c), "s")
		if e, ok := errors.AsType[smithy.APIError](err); !ok || e.ErrorCode() != test.code {
			t.Errorf("%s: %v, want %s", name, err, test.code)
		}
	}
	server := httptest.NewServer(sm)
	defer server.Close()
	req, _ := http.NewRequestWithContext(t.Context(), "POST", server.URL, strings.NewReader(`{"SecretId":"s"}`))
	req.Header.Set("X-Amz-Target", "secretsmanager.GetSecretValue")
	req.Header.Set("Content-Type", "application/x-amz-json-1.1")
	resp, err := server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 400 || resp.Header.Get("X-Amzn-Requestid") == "" {
		t.Errorf("unsigned: %s, want 400 with a request id", resp.Status)
	}
	if n := sm.Reads(); n != 0 {
		t.Errorf("Reads = %d, want none to be counted", n)
	}
}

func TestFaultsReachTheSDK(t *testing.T) {
	sm, client := start(t)
	sm.Put("s", secret.New("x"))
	for _, fault := range []secretsmanager.Fault{secretsmanager.AccessDenied, secretsmanager.KMSDenied, secretsmanager.DecryptionFailure,
		secretsmanager.Throttled, secretsmanager.InternalError, secretsmanager.Down} {
		sm.OnRead(func(string) *secretsmanager.Fault { return &fault })
		_, err := get(t, client(credentials), "s")
		if e, ok := errors.AsType[smithy.APIError](err); !ok || e.ErrorCode() != fault.Code || e.ErrorMessage() != fault.Message {
			t.Errorf("%v, want %s: %s", err, fault.Code, fault.Message)
		}
	}
	sm.OnRead(func(string) *secretsmanager.Fault { return &secretsmanager.Fault{Drop: true} })
	if _, err := get(t, client(credentials), "s"); err == nil {
		t.Error("dropped connection: no error")
	} else if _, ok := errors.AsType[smithy.APIError](err); ok {
		t.Errorf("dropped connection: %v, want no answer of AWS's", err)
	}
	for _, fault := range []secretsmanager.Fault{{Hang: true}, {Delay: time.Hour}} {
		arrived := make(chan bool, 1)
		sm.OnRead(func(string) *secretsmanager.Fault { arrived <- true; return &fault })
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-arrived; cancel() }()
		id := "s"
		if _, err := client(credentials).GetSecretValue(ctx, &sdk.GetSecretValueInput{SecretId: &id}); !errors.Is(err, context.Canceled) {
			t.Errorf("hang: %v, want it to last until the client leaves", err)
		}
	}
	sm.OnRead(func(string) *secretsmanager.Fault { return &secretsmanager.Fault{Delay: time.Millisecond} })
	if _, err := get(t, client(credentials), "s"); err != nil {
		t.Errorf("delay alone: %v, want the value", err)
	}
}

func TestConcurrentUse(t *testing.T) {
	sm, client := start(t)
	sm.Put("s", secret.New("x"))
	c := client(credentials)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { sm.Put("s", secret.New("y")) })
		wg.Go(func() {
			if _, err := get(t, c, "s"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := sm.Reads(); n != 8 {
		t.Errorf("Reads = %d, want 8", n)
	}
}
