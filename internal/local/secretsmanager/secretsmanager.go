// Package secretsmanager stands in for AWS Secrets Manager: GetSecretValue over the JSON 1.1 protocol, from memory. It
// verifies signatures, so that on a shared machine nobody else on loopback can read what it holds.
//
// It does not know IAM policies, KMS, replication, quotas or any other operation. A test makes secrets with the methods
// here, and makes such refusals with OnRead. Only the current version of a secret can be read. A partial ARN finds
// nothing. Some of AWS's texts are not known to the letter; those here are close.
package secretsmanager

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/google/uuid"

	"runner-token-broker/internal/local/network"
	"runner-token-broker/internal/local/sigv4"
	"runner-token-broker/internal/secret"
)

// Server is Secrets Manager in one account and region. Use New. It is safe for concurrent use.
type Server struct {
	region   string
	verifier *sigv4.Verifier

	mu      sync.Mutex
	secrets map[string]*stored // by name
	hook    func(id string) *Answer
	reads   int
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
	s := &Server{region: region, secrets: map[string]*stored{}}
	if c.HasKeys() {
		s.verifier = &sigv4.Verifier{Credentials: c, Region: region, Service: "secretsmanager"}
	}
	return s
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
func (s *Server) OnRead(f func(id string) *Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hook = f
}

// Reads returns how many calls of GetSecretValue there were. Refused ones count, those with a bad signature do not.
func (s *Server) Reads() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reads
}

// Answer is what a call gets. With Status 0 it is the secret's own answer, with the other fields applied to it.
type Answer struct {
	Status  int
	Code    string
	Message string

	Delay time.Duration // before anything is answered, or until the client leaves
	Fault network.Fault // what happens to the answer on its way
}

// Refusals of AWS's for which this package has no reason of its own.
var (
	AccessDenied = Answer{Status: 400, Code: "AccessDeniedException",
		Message: "User: arn:aws:sts::123456789012:assumed-role/token/token is not authorized to perform: " +
			"secretsmanager:GetSecretValue on resource: github-pat because no identity-based policy allows the " +
			"secretsmanager:GetSecretValue action"}
	KMSDenied         = Answer{Status: 400, Code: "AccessDeniedException", Message: "Access to KMS is not allowed"}
	DecryptionFailure = Answer{Status: 400, Code: "DecryptionFailure",
		Message: "Secrets Manager can't decrypt the protected secret text using the provided KMS key."}
	Throttled     = Answer{Status: 400, Code: "ThrottlingException", Message: "Rate exceeded"}
	InternalError = Answer{Status: 500, Code: "InternalServiceError", Message: "An error occurred on the server side."}
	Down          = Answer{Status: 503, Code: "ServiceUnavailable", Message: "Service Unavailable"}
)

const maxRequest = 64 << 10

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		refuse(w, Answer{Status: 400, Code: "SerializationException", Message: "the request cannot be read"})
		return
	}
	if s.verifier != nil {
		if err := s.verifier.Verify(r, body); err != nil {
			a := Answer{Status: 400, Code: "InvalidSignatureException", Message: err.Error()}
			if e, ok := errors.AsType[*sigv4.Error](err); ok {
				a.Code, a.Message = e.Code, e.Message
			}
			refuse(w, a)
			return
		}
	}
	var input struct{ SecretId, VersionId, VersionStage string }
	switch {
	case r.Method != http.MethodPost || r.URL.Path != "/" || r.Header.Get("X-Amz-Target") != operation:
		refuse(w, Answer{Status: 400, Code: "UnknownOperationException"})
	case r.Header.Get("Content-Type") != contentType || json.Unmarshal(body, &input) != nil:
		refuse(w, Answer{Status: 400, Code: "SerializationException", Message: "the request is not JSON 1.1"})
	case input.SecretId == "" || input.VersionId != "" || input.VersionStage != "" && input.VersionStage != current:
		refuse(w, Answer{Status: 400, Code: "InvalidParameterException",
			Message: "this stand-in needs SecretId, and knows only the version " + current})
	default:
		s.getSecretValue(w, r, input.SecretId)
	}
}

const (
	operation   = "secretsmanager.GetSecretValue"
	contentType = "application/x-amz-json-1.1"
	current     = "AWSCURRENT"
)

func (s *Server) getSecretValue(w http.ResponseWriter, r *http.Request, id string) {
	s.mu.Lock()
	s.reads++
	hook := s.hook
	s.mu.Unlock()
	var a Answer
	if hook != nil {
		if decided := hook(id); decided != nil {
			a = *decided
		}
	}
	if !a.Fault.Answer(w, r, a.Delay) {
		return
	}
	if a.Status != 0 {
		refuse(w, a)
		return
	}
	output, refusal := s.read(id)
	if output == nil {
		refusal.Fault = a.Fault
		refuse(w, refusal)
		return
	}
	reply(w, http.StatusOK, output, a.Fault)
}

// read returns the secret's own answer: what it holds, or a refusal.
func (s *Server) read(id string) (output map[string]any, refusal Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name, found := s.find(id)
	switch {
	case found == nil:
		return nil, Answer{Status: 400, Code: "ResourceNotFoundException",
			Message: "Secrets Manager can't find the specified secret."}
	case found.pendingDeletion:
		return nil, Answer{Status: 400, Code: "InvalidRequestException",
			Message: "You can't perform this operation on the secret because it was marked for deletion."}
	case found.version == "":
		return nil, Answer{Status: 400, Code: "ResourceNotFoundException",
			Message: "Secrets Manager can't find the specified secret value for staging label: " + current}
	}
	output = map[string]any{
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
	return output, Answer{}
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

// refuse answers as AWS does: most services spell the text "message", some errors of Secrets Manager "Message".
func refuse(w http.ResponseWriter, a Answer) {
	key := "Message"
	if a.Code == "AccessDeniedException" || a.Code == "ThrottlingException" {
		key = "message"
	}
	reply(w, a.Status, map[string]any{"__type": a.Code, key: a.Message}, a.Fault)
}

func reply(w http.ResponseWriter, status int, output map[string]any, fault network.Fault) {
	body, _ := json.Marshal(output)
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("X-Amzn-Requestid", uuid.NewString())
	fault.Write(w, status, body)
}
