// Package kms stands in for AWS KMS: Sign with RSASSA_PKCS1_V1_5_SHA_256, which is what the JWT of a GitHub App needs.
//
// It does not know IAM policies, key policies, grants, quotas, digests or any other operation. A test makes keys with
// Put, and makes such refusals with OnSign. Some of AWS's texts are not known to the letter; those here are close.
package kms

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/google/uuid"

	"runner-token-broker/internal/local/awsjson"
)

// Server is KMS in one account and region. Use New. It is safe for concurrent use.
type Server struct {
	arn  string // of everything in the account and region: arn:aws:kms:us-east-1:123456789012:
	sign *awsjson.Operation

	mu      sync.Mutex
	keys    map[string]Key    // by ARN
	aliases map[string]string // alias/NAME to the key's ARN
}

// Key is an asymmetric key.
type Key struct {
	Private crypto.Signer      // an *rsa.PrivateKey, or another that cannot sign what is asked for
	Usage   types.KeyUsageType // SIGN_VERIFY if ""
	State   types.KeyState     // Enabled if ""; PendingImport also if imported material has expired
}

// New returns a KMS without keys. It answers only requests that were signed for region with the credentials, or,
// without credentials, all.
func New(region string, c aws.Credentials) *Server {
	return &Server{
		arn:     "arn:aws:kms:" + region + ":123456789012:",
		sign:    awsjson.New("TrentService.Sign", "kms", region, c),
		keys:    map[string]Key{},
		aliases: map[string]string{},
	}
}

// Put makes the alias ("alias/github-app") that of the key, and returns the key's ARN. With the private key that the
// alias has already, it changes that key. Otherwise it makes a new one, and the old one stays under its ARN.
func (s *Server) Put(alias string, k Key) (arn string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	arn = s.aliases[alias]
	if old, ok := s.keys[arn]; !ok || old.Private != k.Private {
		arn = s.arn + "key/" + uuid.NewString()
	}
	s.keys[arn], s.aliases[alias] = k, arn
	return arn
}

// OnSign makes f decide what each later Sign with the key id gets. Where f returns nil, or is nil, it gets the
// signature. f is called from many goroutines at once.
func (s *Server) OnSign(f func(id string) *Answer) { s.sign.OnCall(f) }

// Signs returns how many calls of Sign there were. Refused ones count, those with a bad signature do not.
func (s *Server) Signs() int { return s.sign.Calls() }

// Answer is what a call gets.
type Answer = awsjson.Answer

// Refusals of AWS's for which this package has no reason of its own.
var (
	AccessDenied = Answer{Status: 400, Code: "AccessDeniedException",
		Message: "User: arn:aws:sts::123456789012:assumed-role/token/token is not authorized to perform: kms:Sign on " +
			"this resource because the resource does not exist in this Region, no resource-based policies allow access, " +
			"or a resource-based policy explicitly denies access"}
	Throttled     = awsjson.Throttled
	Unavailable   = Answer{Status: 500, Code: "KeyUnavailableException", Message: "The key is not available. Try again."}
	InternalError = Answer{Status: 500, Code: "KMSInternalException", Message: "An internal error occurred."}
	TimedOut      = Answer{Status: 503, Code: "DependencyTimeoutException", Message: "The system timed out."}
	Down          = awsjson.Down
)

const maxMessage = 4096

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var input struct {
		KeyId                         string
		Message                       []byte
		MessageType, SigningAlgorithm string
	}
	if !s.sign.Read(w, r, &input) {
		return
	}
	switch {
	case input.SigningAlgorithm != algorithm,
		input.MessageType != "" && input.MessageType != string(types.MessageTypeRaw):
		awsjson.Bad("ValidationException", "this stand-in knows only RAW and "+algorithm).Refuse(w)
	case input.KeyId == "" || len(input.Message) == 0 || len(input.Message) > maxMessage:
		awsjson.Bad("ValidationException", fmt.Sprintf(
			"1 validation error detected: a key and a message of 1 to %d bytes are needed", maxMessage)).Refuse(w)
	default:
		s.sign.Answer(w, r, input.KeyId, func() (any, *Answer) { return s.signature(input.KeyId, input.Message) })
	}
}

// states are in AWS's words.
var states = map[types.KeyState]string{
	types.KeyStatePendingImport:   "pending import",
	types.KeyStatePendingDeletion: "pending deletion",
	types.KeyStateUnavailable:     "unavailable",
}

const algorithm = string(types.SigningAlgorithmSpecRsassaPkcs1V15Sha256)

// signature returns KMS's own answer.
func (s *Server) signature(id string, message []byte) (any, *Answer) {
	arn, key, refusal := s.find(id)
	if refusal != nil {
		return nil, refusal
	}
	private, isRSA := key.Private.(*rsa.PrivateKey)
	switch {
	case key.State == types.KeyStateDisabled:
		return nil, awsjson.Bad("DisabledException", arn+" is disabled.")
	case key.State != "" && key.State != types.KeyStateEnabled:
		return nil, awsjson.Bad("KMSInvalidStateException", arn+" is "+states[key.State]+".")
	case key.Usage != "" && key.Usage != types.KeyUsageTypeSignVerify:
		return nil, awsjson.Bad("InvalidKeyUsageException",
			arn+" key usage is "+string(key.Usage)+" which is not valid for Sign.")
	case !isRSA:
		return nil, awsjson.Bad("InvalidKeyUsageException",
			"Algorithm "+algorithm+" and the key spec of "+arn+" are incompatible.")
	}
	digest := sha256.Sum256(message)
	signature, err := rsa.SignPKCS1v15(rand.Reader, private, crypto.SHA256, digest[:])
	if err != nil {
		return nil, &Answer{Status: 500, Code: InternalError.Code, Message: err.Error()}
	}
	return map[string]any{"KeyId": arn, "Signature": signature, "SigningAlgorithm": algorithm}, nil
}

// find takes what AWS takes: the ID of a key, its ARN, an alias, and its ARN.
func (s *Server) find(id string) (arn string, _ Key, _ *Answer) {
	name := strings.TrimPrefix(id, s.arn)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !strings.HasPrefix(name, "alias/") {
		arn = s.arn + "key/" + strings.TrimPrefix(name, "key/")
	} else if arn = s.aliases[name]; arn == "" {
		return "", Key{}, awsjson.Bad("NotFoundException", "Alias "+s.arn+name+" is not found.")
	}
	key, ok := s.keys[arn]
	if !ok {
		return "", Key{}, awsjson.Bad("NotFoundException", "Key '"+arn+"' does not exist")
	}
	return arn, key, nil
}
