// Package secretsmanager reads a secret from AWS Secrets Manager. It is the one place that knows how secrets are named
// and what AWS's refusals mean. It does not know what is in the secret.
package secretsmanager

import (
	"context"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"runner-token-broker/internal/network"
	"runner-token-broker/internal/runner"
	"runner-token-broker/internal/secret"
)

const readTimeout = 5 * time.Second // with the SDK's three tries in it

// Secret is one secret in Secrets Manager. It is safe for concurrent use.
type Secret struct {
	client *secretsmanager.Client
	id     ID
}

// New returns the secret with the name or ARN given.
func New(client *secretsmanager.Client, id ID) *Secret { return &Secret{client, id} }

// Fetch reads the secret's string. Every error is a *runner.Error: Unavailable if another try may help,
// CredentialMissing if an operator must.
func (s *Secret) Fetch(ctx context.Context) (secret.Value, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	id := string(s.id)
	start := time.Now()
	out, err := s.client.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: &id})
	runner.MeterOf(ctx).SecretsManager(time.Since(start))
	switch {
	case err != nil:
		return secret.Value{}, s.refusal(err)
	case out.SecretString == nil && out.SecretBinary != nil:
		return secret.Value{}, binary.Refuse("the secret is binary")
	case out.SecretString == nil:
		return secret.Value{}, foreign.Refuse("the answer of Secrets Manager has no secret")
	}
	return secret.New(*out.SecretString), nil
}

// Put makes v the secret's string. Its errors are as Fetch's.
func (s *Secret) Put(ctx context.Context, v secret.Value) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	id, text := string(s.id), v.Reveal()
	start := time.Now()
	_, err := s.client.PutSecretValue(ctx, &secretsmanager.PutSecretValueInput{SecretId: &id, SecretString: &text})
	runner.MeterOf(ctx).SecretsManager(time.Since(start))
	if err != nil {
		return s.refusal(err)
	}
	return nil
}

// What Secrets Manager's refusals mean.
var (
	binary = runner.Cause{
		Name: "secret-malformed", Code: runner.CredentialMissing,
		Remedy: "store the credential as a string",
	}
	missing = runner.Cause{
		Name: "secret-missing", Code: runner.CredentialMissing,
		Remedy: "create the secret in the function's region, or put a value into it",
	}
	deleted = runner.Cause{
		Name: "secret-missing", Code: runner.CredentialMissing,
		Remedy: "the secret is marked for deletion: restore it, or name another",
	}
	denied = runner.Cause{
		Name: "secret-denied", Code: runner.CredentialMissing,
		Remedy: "allow the function's role secretsmanager:GetSecretValue on the secret (for shared tokens PutSecretValue " +
			"too), and kms:Decrypt on its key if that is yours (GenerateDataKey too). Is the ARN the full one? It ends in a " +
			"hyphen and six characters that AWS adds",
	}
	unreadable = runner.Cause{
		Name: "secret-unreadable", Code: runner.CredentialMissing,
		Remedy: "check the secret's name or ARN (GITHUB_SECRET_ID, SHARED_TOKENS_SECRET_ID) and the function's role",
	}
	foreign = runner.Cause{
		Name: "not-secrets-manager", Code: runner.Unavailable,
		Remedy: "something on the way answered: see HTTPS_PROXY (parameter HttpsProxy), the VPC's endpoint and what " +
			"the network filters",
	}
	unavailable = runner.Cause{
		Name: "secrets-manager-unavailable", Code: runner.Unavailable,
		Remedy: "Secrets Manager fails or throttles, and that passes",
	}
)

// causeOf follows https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_GetSecretValue.html.
func causeOf(status int, code string) runner.Cause {
	_, throttled := retry.DefaultThrottleErrorCodes[code]
	_, passing := retry.DefaultRetryableErrorCodes[code] // RequestTimeout, RequestTimeoutException
	switch {
	case throttled, passing, status == http.StatusTooManyRequests, status >= 500:
		return unavailable
	case code == network.Undecoded:
		return foreign
	case code == "ResourceNotFoundException":
		return missing
	case code == "InvalidRequestException":
		return deleted
	case code == "AccessDeniedException", code == "DecryptionFailure":
		return denied
	}
	return unreadable
}

// refusal says which secret it was: there may be two.
func (s *Secret) refusal(err error) *runner.Error {
	return network.RefuseAWS("Secrets Manager ("+secret.Text(string(s.id))+")", err, causeOf)
}

// Causes are what Secrets Manager's answers can mean.
func Causes() []runner.Cause {
	return []runner.Cause{binary, missing, deleted, denied, unreadable, unavailable, foreign}
}
