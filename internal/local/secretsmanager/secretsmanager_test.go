package secretsmanager_test

import (
	"cmp"
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

	"runner-token-broker/internal/local/network"
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

func get(ctx context.Context, c *sdk.Client, id string) (*sdk.GetSecretValueOutput, error) {
	return c.GetSecretValue(ctx, &sdk.GetSecretValueInput{SecretId: &id})
}

func TestValueIsRead(t *testing.T) {
	t.Parallel()
	sm, clientOf := start(t)
	client := clientOf(credentials)
	arn := sm.Put("local/github-pat", secret.New("one"))
	for _, id := range []string{"local/github-pat", arn} {
		out, err := get(t.Context(), client, id)
		if err != nil {
			t.Fatal(err)
		}
		if aws.ToString(out.SecretString) != "one" || out.SecretBinary != nil || aws.ToString(out.ARN) != arn ||
			aws.ToString(out.Name) != "local/github-pat" {
			t.Errorf("%s: not the value that was put", id)
		}
		if since := time.Since(aws.ToTime(out.CreatedDate)); since < -time.Second || since > time.Minute {
			t.Errorf("%s: CreatedDate is %s ago", id, since)
		}
	}
	if again := sm.Put("local/github-pat", secret.New("two")); again != arn {
		t.Errorf("rotation changed the ARN from %s to %s", arn, again)
	}
	if out, err := get(t.Context(), client, arn); err != nil || aws.ToString(out.SecretString) != "two" {
		t.Errorf("after rotation: %v, want the new value", err)
	}
	sm.PutBinary("local/github-pat", []byte("\x00\xff"))
	out, err := get(t.Context(), client, arn)
	if err != nil || out.SecretString != nil || string(out.SecretBinary) != "\x00\xff" {
		t.Errorf("binary: %v, want SecretBinary alone", err)
	}
	if n := sm.Reads(); n != 4 {
		t.Errorf("Reads = %d, want 4", n)
	}
}

func TestMissingValuesAreAWSs(t *testing.T) {
	t.Parallel()
	const notThere = "Secrets Manager can't find the specified secret."
	for _, test := range []struct {
		name     string
		prepare  func(*secretsmanager.Server)
		notFound bool // or else the request is invalid
		message  string
	}{
		{"never made", func(*secretsmanager.Server) {}, true, notThere},
		{"deleted", func(sm *secretsmanager.Server) {
			sm.Put("s", secret.New("x"))
			sm.Delete("s")
		}, true, notThere},
		{"without a value", func(sm *secretsmanager.Server) { sm.PutNothing("s") }, true,
			"Secrets Manager can't find the specified secret value for staging label: AWSCURRENT"},
		{"marked for deletion", func(sm *secretsmanager.Server) {
			sm.Put("s", secret.New("x"))
			sm.ScheduleDeletion("s")
		}, false, "You can't perform this operation on the secret because it was marked for deletion."},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			sm, client := start(t)
			test.prepare(sm)
			_, err := get(t.Context(), client(credentials), "s")
			_, notFound := errors.AsType[*types.ResourceNotFoundException](err)
			_, invalid := errors.AsType[*types.InvalidRequestException](err)
			if notFound != test.notFound || invalid == test.notFound || !strings.HasSuffix(err.Error(), test.message) {
				t.Errorf("%v, want %q, not found: %t", err, test.message, test.notFound)
			}
			sm.Put("s", secret.New("y"))
			if _, err := get(t.Context(), client(credentials), "s"); err != nil {
				t.Errorf("with a new value: %v", err)
			}
		})
	}
}

func TestOnlyTheOwnerReads(t *testing.T) {
	t.Parallel()
	sm, client := start(t)
	sm.Put("s", secret.New("ghp_secret"))
	for _, test := range []struct {
		name string
		c    aws.Credentials
		code string
	}{
		{"another key", aws.Credentials{AccessKeyID: "OTHER", SecretAccessKey: "SECRET", SessionToken: "SESSION"},
			"UnrecognizedClientException"},
		{"another secret", aws.Credentials{AccessKeyID: "AKID", SecretAccessKey: "OTHER", SessionToken: "SESSION"},
			"InvalidSignatureException"},
		{"no session token", aws.Credentials{AccessKeyID: "AKID", SecretAccessKey: "SECRET"},
			"UnrecognizedClientException"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := get(t.Context(), client(test.c), "s")
			if e, ok := errors.AsType[smithy.APIError](err); !ok || e.ErrorCode() != test.code {
				t.Errorf("%v, want %s", err, test.code)
			}
		})
	}
	t.Run("unsigned", func(t *testing.T) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", strings.NewReader(`{"SecretId":"s"}`))
		r.Header.Set("X-Amz-Target", "secretsmanager.GetSecretValue")
		r.Header.Set("Content-Type", "application/x-amz-json-1.1")
		w := httptest.NewRecorder()
		sm.ServeHTTP(w, r)
		if w.Code != http.StatusBadRequest || w.Header().Get("X-Amzn-Requestid") == "" {
			t.Errorf("%d %s, want 400 with a request id", w.Code, w.Body)
		}
	})
	if n := sm.Reads(); n != 0 {
		t.Errorf("Reads = %d, want none to be counted", n)
	}
}

func TestRefusalsReachTheSDK(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		answer secretsmanager.Answer
	}{
		{"AccessDenied", secretsmanager.AccessDenied},
		{"KMSDenied", secretsmanager.KMSDenied},
		{"DecryptionFailure", secretsmanager.DecryptionFailure},
		{"Throttled", secretsmanager.Throttled},
		{"InternalError", secretsmanager.InternalError},
		{"Down", secretsmanager.Down},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			sm, client := start(t)
			sm.Put("s", secret.New("x"))
			sm.OnRead(func(string) *secretsmanager.Answer { return &test.answer })
			_, err := get(t.Context(), client(credentials), "s")
			e, ok := errors.AsType[smithy.APIError](err)
			if !ok || e.ErrorCode() != test.answer.Code || e.ErrorMessage() != test.answer.Message {
				t.Errorf("%v, want %s: %s", err, test.answer.Code, test.answer.Message)
			}
		})
	}
}

func TestNetworkFaultsReachTheSDK(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		id     string // "s" by default
		answer secretsmanager.Answer
		leaves bool // the client, once its request has arrived
		good   bool
	}{
		{name: "reset", answer: secretsmanager.Answer{Fault: network.Reset}},
		{name: "truncated value", answer: secretsmanager.Answer{Fault: network.Truncate}},
		{name: "truncated refusal", id: "none", answer: secretsmanager.Answer{Fault: network.Truncate}},
		{name: "truncated refusal by the test", answer: secretsmanager.Answer{Status: 503, Fault: network.Truncate}},
		{name: "hang", answer: secretsmanager.Answer{Fault: network.Hang}, leaves: true},
		{name: "long delay", answer: secretsmanager.Answer{Delay: time.Hour}, leaves: true},
		{name: "short delay", answer: secretsmanager.Answer{Delay: time.Millisecond}, good: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			sm, client := start(t)
			sm.Put("s", secret.New("x"))
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			sm.OnRead(func(string) *secretsmanager.Answer {
				if test.leaves {
					leave()
				}
				return &test.answer
			})
			_, err := get(ctx, client(credentials), cmp.Or(test.id, "s"))
			_, refused := errors.AsType[smithy.APIError](err)
			if (err == nil) != test.good || refused || errors.Is(err, context.Canceled) != test.leaves {
				t.Errorf("%v, want a value: %t, and no refusal of AWS's", err, test.good)
			}
		})
	}
}

func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	sm, client := start(t)
	sm.Put("s", secret.New("x"))
	c := client(credentials)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { sm.Put("s", secret.New("y")) })
		wg.Go(func() {
			if _, err := get(t.Context(), c, "s"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := sm.Reads(); n != 8 {
		t.Errorf("Reads = %d, want 8", n)
	}
}
