// Package secretsmanager reads the credential from AWS Secrets Manager. It is the one place that knows how a secret is
// laid out and what AWS's refusals mean, and it does not know what the credential is for.
package secretsmanager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"runner-token-broker/internal/runner"
	"runner-token-broker/internal/secret"
)

const readTimeout = 5 * time.Second // with the SDK's three tries in it

// Secret is one secret in Secrets Manager. It is safe for concurrent use.
type Secret struct {
	client *secretsmanager.Client
	id     string
}

// New returns the secret with the name or ARN given.
func New(client *secretsmanager.Client, id string) *Secret { return &Secret{client, id} }

// Fetch reads the credential: the secret's string as it is, or the "token" of a JSON object, without surrounding white
// space. Every error is a *runner.Error: Unavailable if another try may help, CredentialMissing if an operator must.
func (s *Secret) Fetch(ctx context.Context) (secret.Value, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	out, err := s.client.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: &s.id})
	if err != nil {
		return secret.Value{}, classify(err)
	}
	v, err := parse(aws.ToString(out.SecretString), out.SecretBinary != nil)
	if err != nil {
		return secret.Value{}, runner.Refuse(runner.CredentialMissing, fmt.Errorf("the secret %w", err))
	}
	return v, nil
}

func classify(err error) *runner.Error {
	var refused smithy.APIError
	var answer *smithyhttp.ResponseError
	if !errors.As(err, &refused) || errors.As(err, &answer) && isTransient(answer.HTTPStatusCode(), refused) {
		return runner.Refuse(runner.Unavailable, err)
	}
	return runner.Refuse(runner.CredentialMissing, fmt.Errorf("%w: %s", err, remedy(refused.ErrorCode())))
}

func isTransient(status int, refused smithy.APIError) bool {
	_, throttled := retry.DefaultThrottleErrorCodes[refused.ErrorCode()]
	return throttled || status == http.StatusTooManyRequests || status >= 500
}

func remedy(code string) string {
	switch code {
	case "ResourceNotFoundException":
		return "create the secret in the function's region, or put a value into it"
	case "InvalidRequestException":
		return "the secret is marked for deletion: restore it, or name another"
	case "AccessDeniedException", "DecryptionFailure":
		return "allow the function's role secretsmanager:GetSecretValue on the secret, and kms:Decrypt on its key if that is yours"
	}
	return "check GITHUB_SECRET_ID and the function's role"
}

// parse's errors quote nothing of the secret.
func parse(text string, binary bool) (secret.Value, error) {
	token := strings.TrimSpace(text)
	if strings.HasPrefix(token, "{") {
		// A map, since a struct's field would also take "Token".
		var object map[string]json.RawMessage
		if json.Unmarshal([]byte(token), &object) != nil {
			return secret.Value{}, errors.New("is neither a token nor JSON")
		}
		token = ""
		if json.Unmarshal(object["token"], &token) != nil {
			return secret.Value{}, errors.New(`is JSON without a string "token"`)
		}
		token = strings.TrimSpace(token)
	}
	switch {
	case token == "" && binary:
		return secret.Value{}, errors.New("is binary: store the token as a string")
	case token == "":
		return secret.Value{}, errors.New("is empty: put a token into it")
	case strings.HasPrefix(token, "-----BEGIN"):
		return secret.Value{}, errors.New("is a private key: store a personal access token")
	case strings.ContainsFunc(token, notOfToken):
		return secret.Value{}, errors.New("has characters that no token has: store the token alone, without quotes")
	}
	return secret.New(token), nil
}

// notOfToken holds for what may not stand in a bearer token (RFC 6750, section 2.1).
func notOfToken(r rune) bool {
	letter := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
	return !letter && (r < '0' || '9' < r) && !strings.ContainsRune("-._~+/=", r)
}
