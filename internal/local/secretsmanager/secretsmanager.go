// Package secretsmanager stands in for AWS Secrets Manager: GetSecretValue and PutSecretValue, from memory.
//
// It does not know IAM policies, KMS, replication, quotas or any other operation. A test makes secrets with the methods
// here, and makes such refusals with OnRead. Only the current version of a secret can be read. A partial ARN finds
// nothing. Some of AWS's texts are not known to the letter; those here are close.
package secretsmanager

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/google/uuid"

	"runner-token-broker/internal/local/awsjson"
	"runner-token-broker/internal/secret"
)

// Server is Secrets Manager in one account and region. Use New. It is safe for concurrent use.
type Server struct {
	region   string
	get, set *awsjson.Operation

	mu      sync.Mutex
	secrets map[string]*stored // by name
}

// stored is one secret. Its fields are read and written with Server.mu held.
type stored struct {
	arn, version    string
	text            secret.Value
	binary          []byte
	created         time.Time
	pendingDeletion bool
}

// New returns an empty Secrets Manager. It answers only requests that were signed for region with the credentials, or,
// without credentials, all.
func New(region string, c aws.Credentials) *Server {
	return &Server{
		region:  region,
		get:     awsjson.New("secretsmanager.GetSecretValue", "secretsmanager", region, c),
		set:     awsjson.New("secretsmanager.PutSecretValue", "secretsmanager", region, c),
		secrets: map[string]*stored{},
	}
}

// Put makes v the current value of the named secret. It creates the secret, or restores it from deletion, if it must.
// It returns the secret's ARN.
func (s *Server) Put(name string, v secret.Value) (arn string) {
	return s.put(name, stored{text: v, version: uuid.NewString()})
}

// PutBinary is Put with a binary value.
func (s *Server) PutBinary(name string, v []byte) (arn string) {
	return s.put(name, stored{binary: v, version: uuid.NewString()})
}

// PutNothing leaves the named secret without a value, as a template that creates one does.
func (s *Server) PutNothing(name string) (arn string) { return s.put(name, stored{}) }

// ScheduleDeletion marks the named secret for deletion.
func (s *Server) ScheduleDeletion(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if secret := s.secrets[name]; secret != nil {
		secret.pendingDeletion = true
	}
}

// Delete removes the named secret at once.
func (s *Server) Delete(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.secrets, name)
}

func (s *Server) put(name string, v stored) (arn string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.secrets[name]; old != nil {
		v.arn = old.arn
	} else {
		v.arn = fmt.Sprintf("arn:aws:secretsmanager:%s:123456789012:secret:%s-%s", s.region, name, rand.Text()[:6])
	}
	v.created = time.Now()
	s.secrets[name] = &v
	return v.arn
}

// OnRead makes f decide what each later GetSecretValue of the secret id gets. Where f returns nil, or is nil, it gets
// the secret. f is called from many goroutines at once.
func (s *Server) OnRead(f func(id string) *Answer) { s.get.OnCall(f) }

// OnWrite is OnRead for PutSecretValue.
func (s *Server) OnWrite(f func(id string) *Answer) { s.set.OnCall(f) }

// Text returns what the named secret holds, the zero Value if it is not there.
func (s *Server) Text(name string) secret.Value {
	s.mu.Lock()
	defer s.mu.Unlock()
	if found := s.secrets[name]; found != nil {
		return found.text
	}
	return secret.Value{}
}

// Reads returns how many calls of GetSecretValue there were. Refused ones count, those with a bad signature do not.
func (s *Server) Reads() int { return s.get.Calls() }

// Answer is what a call gets.
type Answer = awsjson.Answer

// Refusals of AWS's for which this package has no reason of its own.
var (
	AccessDenied = Answer{Status: 400, Code: "AccessDeniedException",
		Message: "User: arn:aws:sts::123456789012:assumed-role/token/token is not authorized to perform: " +
			"secretsmanager:GetSecretValue on resource: github-pat because no identity-based policy allows the " +
			"secretsmanager:GetSecretValue action"}
	KMSDenied         = Answer{Status: 400, Code: "AccessDeniedException", Message: "Access to KMS is not allowed"}
	DecryptionFailure = Answer{Status: 400, Code: "DecryptionFailure",
		Message: "Secrets Manager can't decrypt the protected secret text using the provided KMS key."}
	Throttled     = awsjson.Throttled
	InternalError = Answer{Status: 500, Code: "InternalServiceError", Message: "An error occurred on the server side."}
	Down          = awsjson.Down
)

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("X-Amz-Target") == "secretsmanager.PutSecretValue" {
		var input struct{ SecretId, SecretString string }
		if s.set.Read(w, r, &input) {
			s.set.Answer(w, r, input.SecretId, func() (any, *Answer) { return s.write(input.SecretId, input.SecretString) })
		}
		return
	}
	var input struct{ SecretId, VersionId, VersionStage string }
	if !s.get.Read(w, r, &input) {
		return
	}
	if input.SecretId == "" || input.VersionId != "" || input.VersionStage != "" && input.VersionStage != current {
		awsjson.Bad("InvalidParameterException",
			"this stand-in needs SecretId, and knows only the version "+current).Refuse(w)
		return
	}
	s.get.Answer(w, r, input.SecretId, func() (any, *Answer) { return s.read(input.SecretId) })
}

const current = "AWSCURRENT"

// read returns the secret's own answer: what it holds, or a refusal.
func (s *Server) read(id string) (any, *Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name, found := s.find(id)
	switch {
	case found == nil:
		return nil, awsjson.Bad("ResourceNotFoundException", "Secrets Manager can't find the specified secret.")
	case found.pendingDeletion:
		return nil, awsjson.Bad("InvalidRequestException",
			"You can't perform this operation on the secret because it was marked for deletion.")
	case found.version == "":
		return nil, awsjson.Bad("ResourceNotFoundException",
			"Secrets Manager can't find the specified secret value for staging label: "+current)
	}
	output := map[string]any{
		"ARN":           found.arn,
		"CreatedDate":   float64(found.created.UnixMilli()) / 1000,
		"Name":          name,
		"VersionId":     found.version,
		"VersionStages": []string{current},
	}
	if found.binary != nil {
		output["SecretBinary"] = found.binary
	} else {
		output["SecretString"] = found.text.Reveal()
	}
	return output, nil
}

// write makes text the secret's current value.
func (s *Server) write(id, text string) (any, *Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name, found := s.find(id)
	switch {
	case found == nil:
		return nil, awsjson.Bad("ResourceNotFoundException", "Secrets Manager can't find the specified secret.")
	case found.pendingDeletion:
		return nil, awsjson.Bad("InvalidRequestException",
			"You can't perform this operation on the secret because it was marked for deletion.")
	case text == "" || len(text) > 64<<10:
		return nil, awsjson.Bad("ValidationException", "a secret has 1 to 65536 bytes")
	}
	found.text, found.binary, found.version = secret.New(text), nil, uuid.NewString()
	return map[string]any{
		"ARN": found.arn, "Name": name, "VersionId": found.version, "VersionStages": []string{current},
	}, nil
}

func (s *Server) find(id string) (name string, _ *stored) {
	if !strings.HasPrefix(id, "arn:") {
		return id, s.secrets[id]
	}
	for name, secret := range s.secrets {
		if secret.arn == id {
			return name, secret
		}
	}
	return "", nil
}
