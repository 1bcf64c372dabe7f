// Package kms signs with keys that AWS KMS keeps and nobody can read. It does not know what is signed.
package kms

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"runner-token-broker/internal/network"
	"runner-token-broker/internal/runner"
)

const signTimeout = 5 * time.Second // with the SDK's three tries in it

// Signer signs by RS256. It is safe for concurrent use.
type Signer struct{ client func() *kms.Client }

// New returns a Signer for the account and region of the configuration. The client is made when the first signature is
// wanted: most credentials want none, and it costs time and memory at the start.
func New(config aws.Config) *Signer {
	return &Signer{sync.OnceValue(func() *kms.Client { return kms.NewFromConfig(config) })}
}

// Sign returns the signature of the message (4,096 bytes at most) by the RSA key with the ID, ARN or alias. Every error
// is a *runner.Error: Unavailable if another try may help, CredentialMissing if an operator must.
func (s *Signer) Sign(ctx context.Context, key string, message []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, signTimeout)
	defer cancel()
	out, err := s.client().Sign(ctx, &kms.SignInput{
		KeyId: &key, Message: message, MessageType: types.MessageTypeRaw,
		SigningAlgorithm: types.SigningAlgorithmSpecRsassaPkcs1V15Sha256,
	})
	switch {
	case err != nil:
		return nil, network.RefuseAWS("AWS KMS", err, causeOf)
	case len(out.Signature) == 0:
		return nil, foreign.Refuse("the answer of AWS KMS has no signature")
	}
	return out.Signature, nil
}

// What KMS's refusals mean.
var (
	denied = runner.Cause{
		Name: "kms-denied", Code: runner.CredentialMissing,
		Remedy: "allow the function's role kms:Sign on the key (parameter AppKmsKeyArn), in the key's policy too",
	}
	absent = runner.Cause{
		Name: "kms-key-missing", Code: runner.CredentialMissing,
		Remedy: "there is no such key in the function's region and account: check kms_key_id in the secret",
	}
	disabled = runner.Cause{
		Name: "kms-key-disabled", Code: runner.CredentialMissing,
		Remedy: "enable the key, or name another in the secret",
	}
	unusable = runner.Cause{
		Name: "kms-key-unusable", Code: runner.CredentialMissing,
		Remedy: "the key is pending deletion or import, or its imported material has expired: import the App's key again",
	}
	wrongKind = runner.Cause{
		Name: "kms-key-wrong-kind", Code: runner.CredentialMissing,
		Remedy: "the key must be RSA_2048 or larger, for SIGN_VERIFY",
	}
	unreadable = runner.Cause{
		Name: "kms-refused", Code: runner.CredentialMissing,
		Remedy: "check kms_key_id in the secret and the function's role",
	}
	foreign = runner.Cause{
		Name: "not-kms", Code: runner.Unavailable,
		Remedy: "something on the way answered: see HTTPS_PROXY (parameter HttpsProxy), the VPC's endpoint of KMS " +
			"and what the network filters",
	}
	unavailable = runner.Cause{
		Name: "kms-unavailable", Code: runner.Unavailable, Remedy: "AWS KMS fails or throttles, and that passes",
	}
)

// causeOf follows https://docs.aws.amazon.com/kms/latest/APIReference/API_Sign.html.
func causeOf(status int, code string) runner.Cause {
	_, throttled := retry.DefaultThrottleErrorCodes[code]
	_, passing := retry.DefaultRetryableErrorCodes[code]
	switch {
	case throttled, passing, status == http.StatusTooManyRequests, status >= 500:
		return unavailable
	case code == network.Undecoded:
		return foreign
	case code == "AccessDeniedException":
		return denied
	case code == "NotFoundException":
		return absent
	case code == "DisabledException":
		return disabled
	case code == "KMSInvalidStateException":
		return unusable
	case code == "InvalidKeyUsageException", code == "ValidationException", code == "UnsupportedOperationException":
		return wrongKind
	}
	return unreadable
}

// Causes are what AWS KMS's answers can mean.
func Causes() []runner.Cause {
	return []runner.Cause{denied, absent, disabled, unusable, wrongKind, unreadable, unavailable, foreign}
}
