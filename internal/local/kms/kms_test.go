package kms_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"

	"runner-token-broker/internal/local/kms"
	"runner-token-broker/internal/local/network"
)

const alias = "alias/github-app"

var credentials = aws.Credentials{AccessKeyID: "AKID", SecretAccessKey: "SECRET", SessionToken: "SESSION"}

var newKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// start returns the stand-in and the SDK's own client of it.
func start(t *testing.T) (*kms.Server, func(aws.Credentials) *sdk.Client) {
	t.Helper()
	standIn := kms.New("eu-central-1", credentials)
	server := httptest.NewServer(standIn)
	t.Cleanup(server.Close)
	return standIn, func(c aws.Credentials) *sdk.Client {
		return sdk.New(sdk.Options{
			Region:       "eu-central-1",
			BaseEndpoint: aws.String(server.URL),
			Retryer:      aws.NopRetryer{},
			HTTPClient:   server.Client(),
			Credentials:  aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return c, nil }),
		})
	}
}

func input(id string) *sdk.SignInput {
	return &sdk.SignInput{
		KeyId:            &id,
		Message:          []byte("header.claims"),
		MessageType:      types.MessageTypeRaw,
		SigningAlgorithm: types.SigningAlgorithmSpecRsassaPkcs1V15Sha256,
	}
}

// signedBy reports whether the signature is that of the input by the key.
func signedBy(key *rsa.PrivateKey, signature []byte) bool {
	digest := sha256.Sum256([]byte("header.claims"))
	return rsa.VerifyPKCS1v15(&key.PublicKey, crypto.SHA256, digest[:], signature) == nil
}

func TestKeySignsUnderAllItsNames(t *testing.T) {
	t.Parallel()
	standIn, client := start(t)
	arn := standIn.Put(alias, kms.Key{Private: newKey()})
	prefix, id, _ := strings.Cut(arn, "key/")
	names := []string{arn, id, alias, prefix + alias}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			out, err := client(credentials).Sign(t.Context(), input(name))
			if err != nil {
				t.Fatal(err)
			}
			if !signedBy(newKey(), out.Signature) || aws.ToString(out.KeyId) != arn ||
				out.SigningAlgorithm != types.SigningAlgorithmSpecRsassaPkcs1V15Sha256 {
				t.Errorf("%+v is not a signature of %s", out, arn)
			}
		})
	}
	if n := standIn.Signs(); n != len(names) {
		t.Errorf("Signs = %d, want %d", n, len(names))
	}
}

func TestAliasMovesToANewKey(t *testing.T) {
	t.Parallel()
	standIn, client := start(t)
	next, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	old := standIn.Put(alias, kms.Key{Private: newKey()})
	if again := standIn.Put(alias, kms.Key{Private: newKey()}); again != old {
		t.Errorf("the same key has the ARN %s after %s", again, old)
	}
	standIn.Put(alias, kms.Key{Private: next})
	for id, want := range map[string]*rsa.PrivateKey{old: newKey(), alias: next} {
		if out, err := client(credentials).Sign(t.Context(), input(id)); err != nil || !signedBy(want, out.Signature) {
			t.Errorf("%s: %v, or signed by another key", id, err)
		}
	}
}

// wantRefusal wants an error of AWS's with the code and the end of the message.
func wantRefusal(t *testing.T, err error, code, message string) {
	t.Helper()
	if e, ok := errors.AsType[smithy.APIError](err); !ok || e.ErrorCode() != code ||
		!strings.HasSuffix(e.ErrorMessage(), message) {
		t.Errorf("%v, want %s: ...%s", err, code, message)
	}
}

func TestUnusableKeysAreRefusedInAWSsWords(t *testing.T) {
	t.Parallel()
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name          string
		key           kms.Key
		id            string // the alias by default
		code, message string // the message's end
	}{
		{"disabled", kms.Key{Private: newKey(), State: types.KeyStateDisabled}, "", "DisabledException", " is disabled."},
		{"material not imported, or expired", kms.Key{Private: newKey(), State: types.KeyStatePendingImport}, "",
			"KMSInvalidStateException", " is pending import."},
		{"to be deleted", kms.Key{Private: newKey(), State: types.KeyStatePendingDeletion}, "",
			"KMSInvalidStateException", " is pending deletion."},
		{"unavailable", kms.Key{Private: newKey(), State: types.KeyStateUnavailable}, "", "KMSInvalidStateException",
			" is unavailable."},
		{"for encryption", kms.Key{Private: newKey(), Usage: types.KeyUsageTypeEncryptDecrypt}, "",
			"InvalidKeyUsageException", " key usage is ENCRYPT_DECRYPT which is not valid for Sign."},
		{"not RSA", kms.Key{Private: ec}, "", "InvalidKeyUsageException", " are incompatible."},
		{"unknown alias", kms.Key{Private: newKey()}, "alias/other", "NotFoundException", "alias/other is not found."},
		{"unknown key", kms.Key{Private: newKey()}, "1234abcd-12ab-34cd-56ef-1234567890ab", "NotFoundException",
			":key/1234abcd-12ab-34cd-56ef-1234567890ab' does not exist"},
		{"in another region", kms.Key{Private: newKey()}, "arn:aws:kms:us-east-1:123456789012:" + alias,
			"NotFoundException", " does not exist"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			standIn, client := start(t)
			standIn.Put(alias, test.key)
			if test.id == "" {
				test.id = alias
			}
			_, err := client(credentials).Sign(t.Context(), input(test.id))
			wantRefusal(t, err, test.code, test.message)
			standIn.Put(alias, kms.Key{Private: newKey(), Usage: types.KeyUsageTypeSignVerify, State: types.KeyStateEnabled})
			if _, err := client(credentials).Sign(t.Context(), input(alias)); err != nil {
				t.Errorf("mended: %v", err)
			}
		})
	}
}

func TestOnlyWhatAJWTNeedsIsSigned(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		change func(*sdk.SignInput)
		want   string // "": signed
	}{
		{"no type of message", func(in *sdk.SignInput) { in.MessageType = "" }, ""},
		{"longest message", func(in *sdk.SignInput) { in.Message = make([]byte, 4096) }, ""},
		{"longer message", func(in *sdk.SignInput) { in.Message = make([]byte, 4097) }, "ValidationException"},
		{"no message", func(in *sdk.SignInput) { in.Message = []byte{} }, "ValidationException"},
		{"no key", func(in *sdk.SignInput) { in.KeyId = aws.String("") }, "ValidationException"},
		{"digest", func(in *sdk.SignInput) { in.MessageType = types.MessageTypeDigest }, "ValidationException"},
		{"PSS", func(in *sdk.SignInput) { in.SigningAlgorithm = types.SigningAlgorithmSpecRsassaPssSha256 },
			"ValidationException"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			standIn, client := start(t)
			standIn.Put(alias, kms.Key{Private: newKey()})
			in := input(alias)
			test.change(in)
			switch _, err := client(credentials).Sign(t.Context(), in); {
			case test.want != "":
				wantRefusal(t, err, test.want, "")
			case err != nil:
				t.Error(err)
			}
		})
	}
}

func TestOnlyTheOwnerSigns(t *testing.T) {
	t.Parallel()
	standIn, client := start(t)
	standIn.Put(alias, kms.Key{Private: newKey()})
	_, err := client(aws.Credentials{AccessKeyID: "AKID", SecretAccessKey: "OTHER", SessionToken: "SESSION"}).
		Sign(t.Context(), input(alias))
	wantRefusal(t, err, "InvalidSignatureException", "")
	if n := standIn.Signs(); n != 0 {
		t.Errorf("Signs = %d, want none to be counted", n)
	}
}

func TestOtherOperationsAreUnknown(t *testing.T) {
	t.Parallel()
	_, client := start(t)
	_, err := client(credentials).GetPublicKey(t.Context(), &sdk.GetPublicKeyInput{KeyId: aws.String(alias)})
	wantRefusal(t, err, "UnknownOperationException", "")
}

func TestRefusalsReachTheSDK(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		answer kms.Answer
	}{
		{"AccessDenied", kms.AccessDenied},
		{"Throttled", kms.Throttled},
		{"Unavailable", kms.Unavailable},
		{"InternalError", kms.InternalError},
		{"TimedOut", kms.TimedOut},
		{"Down", kms.Down},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			standIn, client := start(t)
			standIn.Put(alias, kms.Key{Private: newKey()})
			standIn.OnSign(func(id string) *kms.Answer {
				if id != alias {
					t.Errorf("asked about %q", id)
				}
				return &test.answer
			})
			_, err := client(credentials).Sign(t.Context(), input(alias))
			wantRefusal(t, err, test.answer.Code, test.answer.Message)
			standIn.OnSign(nil)
			if _, err := client(credentials).Sign(t.Context(), input(alias)); err != nil {
				t.Errorf("later: %v", err)
			}
		})
	}
}

func TestNetworkFaultsReachTheSDK(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		answer kms.Answer
		leaves bool // the client, once its request has arrived
		good   bool
	}{
		{name: "reset", answer: kms.Answer{Fault: network.Reset}},
		{name: "truncated signature", answer: kms.Answer{Fault: network.Truncate}},
		{name: "hang", answer: kms.Answer{Fault: network.Hang}, leaves: true},
		{name: "long delay", answer: kms.Answer{Delay: time.Hour}, leaves: true},
		{name: "short delay", answer: kms.Answer{Delay: time.Millisecond}, good: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			standIn, client := start(t)
			standIn.Put(alias, kms.Key{Private: newKey()})
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			standIn.OnSign(func(string) *kms.Answer {
				if test.leaves {
					leave()
				}
				return &test.answer
			})
			_, err := client(credentials).Sign(ctx, input(alias))
			_, refused := errors.AsType[smithy.APIError](err)
			if (err == nil) != test.good || refused || errors.Is(err, context.Canceled) != test.leaves {
				t.Errorf("%v, want a signature: %t, and no refusal of AWS's", err, test.good)
			}
		})
	}
}
