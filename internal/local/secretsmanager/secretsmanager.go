// Package secretsmanager stands in for AWS Secrets Manager: GetSecretValue over the JSON 1.1 protocol, from memory. It
// verifies signatures, so that on a shared machine nobody else on loopback can read what it holds.
//
// It does not know IAM policies, KMS, replication, quotas or any other operation: secrets are made by calling its
// methods, and refusals of those kinds by OnRead. Only the current version of a secret can be read; a partial ARN finds
// nothing. Where AWS's texts are not known to the letter, they are close.
package secretsmanager

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"runner-token-broker/internal/local/sigv4"
	"runner-token-broker/internal/secret"
)

// Server is Secrets Manager in one account and region. Use New. It is safe for concurrent use.
type Server struct {
	region   string
	verifier *sigv4.Verifier

	mu      sync.Mutex
	secrets map[string]*stored // by name
	hook    func(id string) *Fault
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

// New returns an empty Secrets Manager that answers only what was signed for region with the credentials. Without
// credentials it answers everybody.
func New(region string, c aws.Credentials) *Server {
	s := &Server{region: region, secrets: map[string]*stored{}}
	if c.HasKeys() {
		s.verifier = &sigv4.Verifier{Credentials: c, Region: region, Service: "secretsmanager"}
	}
	return s
}

// Put makes v the current value of the named secret, which it creates, or restores from deletion, if need be. It returns
// the secret's ARN.
func (s *Server) Put(name string, v secret.Value) (arn string) {
	return s.put(name, stored{text: v, version: uuid()})
}

// PutBinary is Put with a binary value.
func (s *Server) PutBinary(name string, v []byte) (arn string) {
	return s.put(name, stored{binary: v, version: uuid()})
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

// OnRead makes f decide what each later GetSecretValue of the secret id gets; where f returns nil, or is nil, the secret
// does. f is called from many goroutines at once.
func (s *Server) OnRead(f func(id string) *Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hook = f
}

// Reads returns how many calls of GetSecretValue there were, refused ones among them, but for those with a bad signature.
func (s *Server) Reads() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reads
}

// Fault is what becomes of a call.
type Fault struct {
	Status  int // 0: the secret's own answer, after Delay
	Code    string
	Message string

	Delay time.Duration // before anything is answered, or until the client leaves
	Hang  bool          // nothing is answered until the client leaves
	Drop  bool          // the connection is reset and nothing answered
}

// AWS's own refusals that this package has no reason of its own for.
var (
	AccessDenied = Fault{Status: 400, Code: "AccessDeniedException", Message: "User: arn:aws:sts::123456789012:assumed-role/token/token " +
		"is not authorized to perform: secretsmanager:GetSecretValue on resource: github-pat because no identity-based policy allows the secretsmanager:GetSecretValue action"}
	KMSDenied         = Fault{Status: 400, Code: "AccessDeniedException", Message: "Access to KMS is not allowed"}
	DecryptionFailure = Fault{Status: 400, Code: "DecryptionFailure", Message: "Secrets Manager can't decrypt the protected secret text using the provided KMS key."}
	Throttled         = Fault{Status: 400, Code: "ThrottlingException", Message: "Rate exceeded"}
	InternalError     = Fault{Status: 500, Code: "InternalServiceError", Message: "An error occurred on the server side."}
	Down              = Fault{Status: 503, Code: "ServiceUnavailable", Message: "Service Unavailable"}
)

const maxRequest = 64 << 10

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		refuse(w, &Fault{Status: 400, Code: "SerializationException", Message: "the request cannot be read"})
		return
	}
	if s.verifier != nil {
		if err := s.verifier.Verify(r, body); err != nil {
			f := Fault{Status: 400, Code: "InvalidSignatureException", Message: err.Error()}
			if e, ok := errors.AsType[*sigv4.Error](err); ok {
				f.Code, f.Message = e.Code, e.Message
			}
			refuse(w, &f)
			return
		}
	}
	var input struct{ SecretId, VersionId, VersionStage string }
	switch {
	case r.Method != http.MethodPost || r.URL.Path != "/" || r.Header.Get("X-Amz-Target") != "secretsmanager.GetSecretValue":
		refuse(w, &Fault{Status: 400, Code: "UnknownOperationException"})
	case r.Header.Get("Content-Type") != contentType || json.Unmarshal(body, &input) != nil:
		refuse(w, &Fault{Status: 400, Code: "SerializationException", Message: "the request is not JSON of version 1.1"})
	case input.SecretId == "" || input.VersionId != "" || input.VersionStage != "" && input.VersionStage != current:
		refuse(w, &Fault{Status: 400, Code: "InvalidParameterException", Message: "this stand-in wants SecretId and knows no version but " + current})
	default:
		s.getSecretValue(w, r, input.SecretId)
	}
}

const (
	contentType = "application/x-amz-json-1.1"
	current     = "AWSCURRENT"
)

func (s *Server) getSecretValue(w http.ResponseWriter, r *http.Request, id string) {
	s.mu.Lock()
	s.reads++
	hook := s.hook
	s.mu.Unlock()
	if hook != nil {
		if f := hook(id); f != nil && suffer(w, r, *f) {
			return
		}
	}
	output, fault := s.read(id)
	if fault != nil {
		refuse(w, fault)
		return
	}
	reply(w, http.StatusOK, output)
}

func (s *Server) read(id string) (map[string]any, *Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name, found := s.find(id)
	switch {
	case found == nil:
		return nil, &Fault{Status: 400, Code: "ResourceNotFoundException", Message: "Secrets Manager can't find the specified secret."}
	case found.pendingDeletion:
		return nil, &Fault{Status: 400, Code: "InvalidRequestException",
			Message: "You can't perform this operation on the secret because it was marked for deletion."}
	case found.version == "":
		return nil, &Fault{Status: 400, Code: "ResourceNotFoundException",
			Message: "Secrets Manager can't find the specified secret value for staging label: " + current}
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

// suffer reports whether the fault was all there is to answer.
func suffer(w http.ResponseWriter, r *http.Request, f Fault) bool {
	switch {
	case f.Hang:
		<-r.Context().Done()
		return true
	case f.Delay > 0:
		select {
		case <-time.After(f.Delay):
		case <-r.Context().Done():
			return true
		}
	}
	switch {
	case f.Drop:
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		if tcp, ok := conn.(*net.TCPConn); ok {
			tcp.SetLinger(0) // RST, where Close alone would be an orderly end
		}
		conn.Close()
		return true
	case f.Status != 0:
		refuse(w, &f)
		return true
	}
	return false
}

// refuse answers as AWS does: most services spell the text "message", some errors of Secrets Manager "Message".
func refuse(w http.ResponseWriter, f *Fault) {
	key := "Message"
	if f.Code == "AccessDeniedException" || f.Code == "ThrottlingException" {
		key = "message"
	}
	reply(w, f.Status, map[string]any{"__type": f.Code, key: f.Message})
}

func reply(w http.ResponseWriter, status int, body map[string]any) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("X-Amzn-Requestid", uuid())
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body)
}

func uuid() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	h := hex.EncodeToString(b[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}
