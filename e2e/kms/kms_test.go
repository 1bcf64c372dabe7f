package kms_test

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"net/http"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"runner-token-broker/e2e/rig"
	"runner-token-broker/internal/local/github"
	"runner-token-broker/internal/secret"
)

const name = "runners/github-app"

// A GitHub App whose key is in Moto's KMS, by real API calls while one process of the function serves. Each step begins
// where the one before it ended, so -run must take them all.
func TestKMS(t *testing.T) {
	t.Parallel()
	moto := rig.StartMoto(t)
	keys := kms.New(kms.Options{
		BaseEndpoint: &moto.URL,
		Region:       rig.Region,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return rig.RoleCredentials(), nil
		}),
	})
	create := func(spec types.KeySpec, usage types.KeyUsageType) string {
		t.Helper()
		out, err := keys.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: spec, KeyUsage: usage})
		if err != nil {
			t.Fatal(err)
		}
		return *out.KeyMetadata.Arn
	}
	signing := create(types.KeySpecRsa2048, types.KeyUsageTypeSignVerify)
	strange := create(types.KeySpecRsa4096, types.KeyUsageTypeSignVerify)

	hold := func(key string) string { return fmt.Sprintf(`{"client_id":"Iv23liExample","kms_key_id":%q}`, key) }
	moto.CreateSecret(t, name, secret.New(hold(signing)))
	f := rig.StartFunction(t, nil, map[string]string{
		"GITHUB_SECRET_ID":                 name,
		"AWS_ENDPOINT_URL_SECRETS_MANAGER": moto.URL,
		"AWS_ENDPOINT_URL_KMS":             moto.URL,
		"SECRET_TTL":                       "1ns", // every request reads the secret
		"TOKEN_MIN_LIFE":                   "1h",  // and no token is reused
	})
	f.GitHub.PutApp(github.App{
		ID: 1, ClientID: "Iv23liExample", Keys: []*rsa.PublicKey{publicKey(t, keys, signing)},
		Installations: []github.Installation{{ID: 7, Owner: "acme", Permissions: map[string]string{
			"organization_self_hosted_runners": "write", "administration": "write",
		}}},
	})

	put := func(text string) {
		t.Helper()
		if err := moto.PutSecret(t.Context(), name, text); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		name   string
		do     func()
		path   string
		status int
		code   string
	}{
		{"signed", func() {}, "/orgs/acme/actions/runners/registration-token", http.StatusCreated, ""},
		{"another repository", func() {}, "/repos/acme/a/actions/runners/remove-token", http.StatusCreated, ""},
		{"an alias", func() {
			_, err := keys.CreateAlias(t.Context(), &kms.CreateAliasInput{
				AliasName: aws.String("alias/github-app"), TargetKeyId: &signing,
			})
			if err != nil {
				t.Fatal(err)
			}
			put(hold("alias/github-app"))
		}, "/repos/acme/c/actions/runners/registration-token", http.StatusCreated, ""},
		{"no such key", func() { put(hold("alias/nobody")) },
			"/repos/acme/d/actions/runners/registration-token", http.StatusInternalServerError, "CredentialMissing"},
		{"another key than the App's", func() { put(hold(strange)) },
			"/repos/acme/b/actions/runners/registration-token", http.StatusBadGateway, "CredentialRejected"},
	} {
		t.Run(step.name, func(t *testing.T) {
			step.do()
			f.Post(t, step.path).Check(t, step.status, step.code)
		})
	}
}

func publicKey(t *testing.T, keys *kms.Client, id string) *rsa.PublicKey {
	t.Helper()
	out, err := keys.GetPublicKey(t.Context(), &kms.GetPublicKeyInput{KeyId: &id})
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.ParsePKIXPublicKey(out.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return key.(*rsa.PublicKey)
}
