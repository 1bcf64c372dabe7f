// Package awsjson is what the stand-ins for AWS's JSON services have in common: they verify signatures, so that on a
// shared machine nobody else on loopback can use them, they answer in JSON 1.1, and a test can make them fail.
//
// It knows one operation of each service. Its errors have the text under "Message" or "message" as those of Secrets
// Manager have it; AWS's SDKs read both.
package awsjson

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/google/uuid"

	"runner-token-broker/internal/local/network"
	"runner-token-broker/internal/local/sigv4"
)

// Operation is one operation of a service. Use New. It is safe for concurrent use.
type Operation struct {
	target   string
	verifier *sigv4.Verifier

	mu    sync.Mutex
	hook  func(id string) *Answer
	calls int
}

// New returns the operation that X-Amz-Target names so. It answers only requests that were signed for the region and
// the service with the credentials, or, without credentials, all.
func New(target, service, region string, c aws.Credentials) *Operation {
	o := &Operation{target: target}
	if c.HasKeys() {
		o.verifier = &sigv4.Verifier{Credentials: c, Region: region, Service: service}
	}
	return o
}

// OnCall makes f decide what each later call for the secret or key id gets. Where f returns nil, or is nil, it gets the
// service's own answer. f is called from many goroutines at once.
func (o *Operation) OnCall(f func(id string) *Answer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.hook = f
}

// Calls returns how many calls there were. Refused ones count, those with a bad signature do not.
func (o *Operation) Calls() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.calls
}

// Answer is what a call gets. With Status 0 it is the service's own answer, with the other fields applied to it.
type Answer struct {
	Status  int
	Code    string
	Message string

	Delay time.Duration // before anything is answered, or until the client leaves
	Fault network.Fault // what happens to the answer on its way
}

// Bad is a refusal of what the caller sent, as most of AWS's are.
func Bad(code, message string) *Answer {
	return &Answer{Status: http.StatusBadRequest, Code: code, Message: message}
}

// Refusals of every service.
var (
	Throttled = Answer{Status: 400, Code: "ThrottlingException", Message: "Rate exceeded"}
	Down      = Answer{Status: 503, Code: "ServiceUnavailable", Message: "Service Unavailable"}
)

const (
	maxRequest  = 256 << 10
	contentType = "application/x-amz-json-1.1"
)

// Read reads the input of a call. It reports whether that is good, and has answered otherwise.
func (o *Operation) Read(w http.ResponseWriter, r *http.Request, input any) bool {
	if refusal := o.read(w, r, input); refusal != nil {
		refusal.Refuse(w)
		return false
	}
	return true
}

func (o *Operation) read(w http.ResponseWriter, r *http.Request, input any) *Answer {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		return Bad("SerializationException", "the request cannot be read")
	}
	if o.verifier != nil {
		if err := o.verifier.Verify(r, body); err != nil {
			if e, ok := errors.AsType[*sigv4.Error](err); ok {
				return Bad(e.Code, e.Message)
			}
			return Bad("InvalidSignatureException", err.Error())
		}
	}
	switch {
	case r.Method != http.MethodPost || r.URL.Path != "/" || r.Header.Get("X-Amz-Target") != o.target:
		return Bad("UnknownOperationException", "")
	case r.Header.Get("Content-Type") != contentType || json.Unmarshal(body, input) != nil:
		return Bad("SerializationException", "the request is not JSON 1.1")
	}
	return nil
}

// Answer answers a call for the secret or key id: as OnCall's function decides, or with own's output or refusal.
func (o *Operation) Answer(w http.ResponseWriter, r *http.Request, id string, own func() (any, *Answer)) {
	o.mu.Lock()
	o.calls++
	hook := o.hook
	o.mu.Unlock()
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
		a.Refuse(w)
		return
	}
	output, refusal := own()
	if refusal != nil {
		refusal.Fault = a.Fault
		refusal.Refuse(w)
		return
	}
	reply(w, http.StatusOK, output, a.Fault)
}

// Refuse answers as AWS does: most services spell the text "message", some errors of Secrets Manager "Message".
func (a Answer) Refuse(w http.ResponseWriter) {
	key := "Message"
	if a.Code == "AccessDeniedException" || a.Code == "ThrottlingException" {
		key = "message"
	}
	reply(w, a.Status, map[string]string{"__type": a.Code, key: a.Message}, a.Fault)
}

func reply(w http.ResponseWriter, status int, output any, fault network.Fault) {
	body, _ := json.Marshal(output)
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("X-Amzn-Requestid", uuid.NewString())
	fault.Write(w, status, body)
}
