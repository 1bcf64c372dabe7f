package e2e_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"runner-token-broker/internal/secret"
)

const region = "eu-central-1"

var credentials = aws.Credentials{AccessKeyID: "AKIAIOSFODNN7EXAMPLE", SecretAccessKey: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", SessionToken: "IQoJb3JpZ2luX2VjEXAMPLE+/="}

// Everything that can happen to a secret, by real API calls while one process of the function serves.
func TestSecretsManager(t *testing.T) {
	const (
		name    = "runners/github-pat"
		path    = "/orgs/acme/actions/runners/registration-token"
		missing = "CredentialMissing"
	)
	moto := startMoto(t)
	pats := newPATs(4)
	f := startFunction(t, pats, map[string]string{
		"GITHUB_SECRET_ID":                 name,
		"AWS_ENDPOINT_URL_SECRETS_MANAGER": moto.url,
		"SECRET_TTL":                       "1ns", // every request reads the secret
		"TOKEN_MIN_LIFE":                   "1h",  // and no token is reused but in an outage
	})

	ctx := t.Context()
	sm, id := moto.client, aws.String(name)
	put := func(text string) error {
		_, err := sm.PutSecretValue(ctx, &secretsmanager.PutSecretValueInput{SecretId: id, SecretString: &text})
		return err
	}
	for _, step := range []struct {
		name string
		do   func() error
		code string       // of the refusal
		pat  secret.Value // that GitHub was given; zero: GitHub was not called
	}{
		{"no secret", func() error { return nil }, missing, secret.Value{}},
		{"a secret without a value", func() error {
			_, err := sm.CreateSecret(ctx, &secretsmanager.CreateSecretInput{Name: id})
			return err
		}, missing, secret.Value{}},
		{"filled", func() error { return put(pats[0].Reveal() + "\n") }, "", pats[0]},
		{"rotated", func() error { return put(pats[1].Reveal()) }, "", pats[1]},
		{"rotated to JSON", func() error {
			_, err := sm.UpdateSecret(ctx, &secretsmanager.UpdateSecretInput{
				SecretId: id, SecretString: aws.String(fmt.Sprintf(`{"token":%q,"owner":"ops"}`, pats[2].Reveal())),
			})
			return err
		}, "", pats[2]},
		{"emptied", func() error { return put(" ") }, missing, secret.Value{}},
		{"emptied to {}", func() error { return put("{}") }, missing, secret.Value{}},
		{"malformed", func() error { return put(`"` + pats[0].Reveal() + `"`) }, missing, secret.Value{}},
		{"binary", func() error {
			_, err := sm.PutSecretValue(ctx, &secretsmanager.PutSecretValueInput{SecretId: id, SecretBinary: []byte{1, 2}})
			return err
		}, missing, secret.Value{}},
		{"filled again", func() error { return put(pats[0].Reveal()) }, "", pats[0]},
		{"scheduled for deletion", func() error {
			_, err := sm.DeleteSecret(ctx, &secretsmanager.DeleteSecretInput{SecretId: id, RecoveryWindowInDays: aws.Int64(7)})
			return err
		}, missing, secret.Value{}},
		{"restored", func() error {
			_, err := sm.RestoreSecret(ctx, &secretsmanager.RestoreSecretInput{SecretId: id})
			return err
		}, "", pats[0]},
		{"deleted", func() error {
			_, err := sm.DeleteSecret(ctx, &secretsmanager.DeleteSecretInput{SecretId: id, ForceDeleteWithoutRecovery: aws.Bool(true)})
			return err
		}, missing, secret.Value{}},
		{"created anew", func() error {
			_, err := sm.CreateSecret(ctx, &secretsmanager.CreateSecretInput{Name: id, SecretString: aws.String(pats[3].Reveal())})
			return err
		}, "", pats[3]},
		{"Secrets Manager is down", moto.stop, "Unavailable", secret.Value{}},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		calls := len(f.github.Requests())
		f.post(t, path).check(t, step.name, step.code)
		switch requests := f.github.Requests()[calls:]; {
		case step.pat.IsZero() && len(requests) > 0:
			t.Errorf("%s: GitHub was called %d times, want none", step.name, len(requests))
		case !step.pat.IsZero() && (len(requests) != 1 || requests[0].Authorization != step.pat.SHA256()):
			t.Errorf("%s: GitHub was not called once with the PAT of the moment: %v", step.name, requests)
		}
	}
	f.postReusing(t, path).check(t, "Secrets Manager is down, an earlier token will do", "")
}

// With the default SECRET_TTL the function learns of a rotation by GitHub's 401.
func TestRotationAfterRevocation(t *testing.T) {
	const name = "runners/github-pat"
	moto := startMoto(t)
	pats := newPATs(3)
	f := startFunction(t, pats, map[string]string{
		"GITHUB_SECRET_ID":                 name,
		"AWS_ENDPOINT_URL_SECRETS_MANAGER": moto.url,
	})
	post := func() answer { return f.post(t, "/repos/acme/widgets/actions/runners/remove-token") }
	put := func(pat secret.Value) {
		t.Helper()
		_, err := moto.client.PutSecretValue(t.Context(), &secretsmanager.PutSecretValueInput{SecretId: aws.String(name), SecretString: aws.String(pat.Reveal())})
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := moto.client.CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{Name: aws.String(name), SecretString: aws.String(pats[0].Reveal())})
	if err != nil {
		t.Fatal(err)
	}
	post().check(t, "first PAT", "")

	put(pats[1])
	post().check(t, "secret rotated, first PAT still good and kept", "")
	f.github.Rotate(pats[1])
	post().check(t, "first PAT revoked", "")

	f.github.Rotate(pats[2])
	post().check(t, "second PAT revoked before the secret was rotated", "CredentialRejected")
	put(pats[2])
	// Where a value was rejected, the secret is read at most every 5 s.
	got := post()
	for deadline := time.Now().Add(15 * time.Second); got.status != http.StatusCreated && time.Now().Before(deadline); {
		pause(t)
		got = post()
	}
	got.check(t, "secret rotated", "")
	var used, want []string
	for _, r := range f.github.Requests() {
		used = append(used, r.Authorization)
	}
	for _, i := range []int{0, 0, 0, 1, 1, 2} { // a rejected one is not sent again
		want = append(want, pats[i].SHA256())
	}
	if !slices.Equal(used, want) {
		t.Errorf("GitHub was given the PATs\n%v, want\n%v", used, want)
	}
}

type moto struct {
	url     string
	client  *secretsmanager.Client
	stop    func() error
	printed *bytes.Buffer // to be read after stop
}

// startMoto starts Moto's server, which keeps what it is told in memory, and ends it with the test; env is added to its
// environment.
func startMoto(t *testing.T, env ...string) moto {
	t.Helper()
	program := tool(t, "moto_server")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().(*net.TCPAddr)
	l.Close()

	var out bytes.Buffer
	cmd := exec.Command(program, "-H", "127.0.0.1", "-p", fmt.Sprint(address.Port))
	cmd.Env = append(withoutAWS(), env...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	stop := sync.OnceValue(func() error {
		err := cmd.Process.Kill()
		<-ended
		return err
	})
	t.Cleanup(func() { stop() })

	url := "http://" + address.String()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for !serves(ctx, url+"/moto-api/") {
		select {
		case <-ended:
			t.Fatalf("moto_server ended:\n%s", &out)
		case <-ctx.Done():
			stop()
			t.Fatalf("moto_server does not serve:\n%s", &out)
		default:
			pause(t)
		}
	}
	return moto{url: url, stop: stop, printed: &out, client: secretsmanager.New(secretsmanager.Options{
		BaseEndpoint: &url,
		Region:       region,
		Credentials:  aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return credentials, nil }),
	})}
}

func serves(ctx context.Context, url string) bool {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// pause is between two looks at something that another process does.
func pause(t *testing.T) {
	select {
	case <-time.After(100 * time.Millisecond):
	case <-t.Context().Done():
	}
}
