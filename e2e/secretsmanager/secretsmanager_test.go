package secretsmanager_test

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"runner-token-broker/e2e/rig"
	"runner-token-broker/internal/secret"
)

const name = "runners/github-pat"

// Everything that can happen to a secret, by real API calls while one process of the function serves. Each step begins
// where the one before it ended, so -run must take them all.
func TestSecretsManager(t *testing.T) {
	t.Parallel()
	const path = "/orgs/acme/actions/runners/registration-token"
	moto := rig.StartMoto(t)
	pats := rig.NewPATs(4)
	f := rig.StartFunction(t, pats, map[string]string{
		"GITHUB_SECRET_ID":                 name,
		"AWS_ENDPOINT_URL_SECRETS_MANAGER": moto.URL,
		"SECRET_TTL":                       "1ns", // every request reads the secret
		"TOKEN_MIN_LIFE":                   "1h",  // and no token is reused but in an outage
	})

	ctx := t.Context()
	sm, id := moto.SecretsManager, aws.String(name)
	put := func(text string) error {
		_, err := sm.PutSecretValue(ctx, &secretsmanager.PutSecretValueInput{SecretId: id, SecretString: &text})
		return err
	}
	const missing, unavailable = http.StatusInternalServerError, http.StatusServiceUnavailable
	for _, step := range []struct {
		name   string
		do     func() error
		status int
		code   string       // of the refusal
		pat    secret.Value // that GitHub was given; zero: GitHub was not called
	}{
		{"no secret", func() error { return nil }, missing, "CredentialMissing", secret.Value{}},
		{"a secret without a value", func() error {
			_, err := sm.CreateSecret(ctx, &secretsmanager.CreateSecretInput{Name: id})
			return err
		}, missing, "CredentialMissing", secret.Value{}},
		{"filled", func() error { return put(pats[0].Reveal() + "\n") }, http.StatusCreated, "", pats[0]},
		{"rotated", func() error { return put(pats[1].Reveal()) }, http.StatusCreated, "", pats[1]},
		{"rotated to JSON", func() error {
			_, err := sm.UpdateSecret(ctx, &secretsmanager.UpdateSecretInput{
				SecretId: id, SecretString: aws.String(fmt.Sprintf(`{"token":%q,"owner":"ops"}`, pats[2].Reveal())),
			})
			return err
		}, http.StatusCreated, "", pats[2]},
		{"emptied", func() error { return put(" ") }, missing, "CredentialMissing", secret.Value{}},
		{"emptied to {}", func() error { return put("{}") }, missing, "CredentialMissing", secret.Value{}},
		{"malformed", func() error {
			return put(`"` + pats[0].Reveal() + `"`)
		}, missing, "CredentialMissing", secret.Value{}},
		{"binary", func() error {
			_, err := sm.PutSecretValue(ctx, &secretsmanager.PutSecretValueInput{SecretId: id, SecretBinary: []byte{1, 2}})
			return err
		}, missing, "CredentialMissing", secret.Value{}},
		{"filled again", func() error { return put(pats[0].Reveal()) }, http.StatusCreated, "", pats[0]},
		{"scheduled for deletion", func() error {
			_, err := sm.DeleteSecret(ctx, &secretsmanager.DeleteSecretInput{SecretId: id, RecoveryWindowInDays: aws.Int64(7)})
			return err
		}, missing, "CredentialMissing", secret.Value{}},
		{"restored", func() error {
			_, err := sm.RestoreSecret(ctx, &secretsmanager.RestoreSecretInput{SecretId: id})
			return err
		}, http.StatusCreated, "", pats[0]},
		{"deleted", func() error {
			_, err := sm.DeleteSecret(ctx, &secretsmanager.DeleteSecretInput{
				SecretId: id, ForceDeleteWithoutRecovery: aws.Bool(true),
			})
			return err
		}, missing, "CredentialMissing", secret.Value{}},
		{"created anew", func() error {
			_, err := sm.CreateSecret(ctx, &secretsmanager.CreateSecretInput{
				Name: id, SecretString: aws.String(pats[3].Reveal()),
			})
			return err
		}, http.StatusCreated, "", pats[3]},
		{"Secrets Manager is down", func() error { moto.Stop(); return nil }, unavailable, "Unavailable", secret.Value{}},
	} {
		t.Run(step.name, func(t *testing.T) {
			if err := step.do(); err != nil {
				t.Fatal(err)
			}
			calls := len(f.GitHub.Requests())
			f.Post(t, path).Check(t, step.status, step.code)
			switch requests := f.GitHub.Requests()[calls:]; {
			case step.pat.IsZero() && len(requests) > 0:
				t.Errorf("GitHub was called %d times, want none", len(requests))
			case !step.pat.IsZero() && (len(requests) != 1 || requests[0].Authorization != step.pat.SHA256()):
				t.Errorf("GitHub was not called once with the PAT of the moment: %v", requests)
			}
		})
	}
	t.Run("Secrets Manager is down, an earlier token will do", func(t *testing.T) {
		f.PostReusing(t, path).Check(t, http.StatusCreated, "")
	})
}

// With the default SECRET_TTL the function learns of a rotation by GitHub's 401.
func TestRotationAfterRevocation(t *testing.T) {
	t.Parallel()
	moto := rig.StartMoto(t)
	pats := rig.NewPATs(3)
	f := rig.StartFunction(t, pats, map[string]string{
		"GITHUB_SECRET_ID":                 name,
		"AWS_ENDPOINT_URL_SECRETS_MANAGER": moto.URL,
		"TOKEN_MIN_LIFE":                   "1h", // GitHub is asked for every token
	})
	post := func(t *testing.T) rig.Answer { return f.Post(t, "/repos/acme/widgets/actions/runners/remove-token") }
	put := func(t *testing.T, pat secret.Value) {
		t.Helper()
		_, err := moto.SecretsManager.PutSecretValue(t.Context(), &secretsmanager.PutSecretValueInput{
			SecretId: aws.String(name), SecretString: aws.String(pat.Reveal()),
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	moto.CreateSecret(t, name, pats[0])
	for _, step := range []struct {
		name string
		do   func(t *testing.T)
	}{
		{"the first PAT", func(t *testing.T) {
			post(t).Check(t, http.StatusCreated, "")
		}},
		{"the secret was rotated, the first PAT is cached and still good", func(t *testing.T) {
			put(t, pats[1])
			post(t).Check(t, http.StatusCreated, "")
		}},
		{"the first PAT was revoked", func(t *testing.T) {
			f.GitHub.Rotate(pats[1])
			post(t).Check(t, http.StatusCreated, "")
		}},
		{"the second PAT was revoked before the secret was rotated", func(t *testing.T) {
			f.GitHub.Rotate(pats[2])
			post(t).Check(t, http.StatusBadGateway, "CredentialRejected")
		}},
		{"the secret was rotated", func(t *testing.T) {
			put(t, pats[2])
			// Where a value was rejected, the secret is read at most every 5 s.
			rig.Await(t, 15*time.Second, "a token", func() bool { return post(t).Status == http.StatusCreated })
		}},
	} {
		t.Run(step.name, step.do)
	}
	var used, want []string
	for _, r := range f.GitHub.Requests() {
		used = append(used, r.Authorization)
	}
	for _, i := range []int{0, 0, 0, 1, 1, 2} { // a rejected one is not sent again
		want = append(want, pats[i].SHA256())
	}
	if !slices.Equal(used, want) {
		t.Errorf("GitHub was given the PATs\n%v, want\n%v", used, want)
	}
}
